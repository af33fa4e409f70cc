//! What there is no meaning for in an image: other processes, other users.
//!
//! Functions whose callers look at errors fail with the number that Linux gives where a thing is left out of the kernel, and
//! leave a line with their name on the console, the first time. The others end the program with their name.

use core::cell::Cell;
use core::ffi::{CStr, c_char, c_int, c_long, c_short, c_uint, c_void};
use core::fmt;

use libc::{gid_t, mode_t, off_t, pid_t, size_t, ssize_t, uid_t};

use crate::errno::fail;
use crate::names;

/// Writes a line to the console about a thing that a program has asked for and does not get.
pub(crate) fn note(what: fmt::Arguments<'_>) {
    runtime::println!("pollux: the program has asked for {what}, which does not exist in an image");
}

/// Folders in which Linux shows itself, and nothing is here.
const OF_LINUX: [&[u8]; 3] = [b"/proc", b"/sys", b"/dev"];

/// Writes a line to the console if a path that was looked for, and is not there, is one of Linux's own: once for each of its
/// folders.
pub(crate) fn note_missing(path: &CStr) {
    static NOTED: [Noted; OF_LINUX.len()] = [const { Noted(Cell::new(false)) }; OF_LINUX.len()];
    let place = OF_LINUX.iter().position(|folder| {
        path.to_bytes().strip_prefix(*folder).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    });
    if let Some(place) = place.filter(|_| !names::is_looked_for(path.to_bytes())) {
        NOTED[place].once(format_args!("{}", path.to_str().unwrap_or("a path that is no text")));
    }
}

/// System calls of Linux have lower numbers; those of higher ones, which do not exist there either, are noted as one.
const SYSTEM_CALLS: usize = 512;

/// Writes a line to the console about a function of the kernel that was asked for by its number: once for each.
pub(crate) fn note_system_call(number: c_long) {
    static NOTED: [Noted; SYSTEM_CALLS] = [const { Noted(Cell::new(false)) }; SYSTEM_CALLS];
    let place = usize::try_from(number).map_or(SYSTEM_CALLS - 1, |number| number.min(SYSTEM_CALLS - 1));
    NOTED[place].once(format_args!("syscall {number}"));
}

/// That a function was noted already.
struct Noted(Cell<bool>);

// SAFETY: threads of a program take turns where they wait, and nothing here waits.
unsafe impl Sync for Noted {}

impl Noted {
    fn once(&self, what: fmt::Arguments<'_>) {
        if !self.0.replace(true) {
            note(what);
        }
    }
}

/// Defines functions that note their name and fail with an error number.
macro_rules! refused {
    ($( $errno:ident: $name:ident($($argument:ident: $kind:ty),*) -> $result:ty; )*) => {
        c_functions! { $(
            #[doc = concat!("Notes its name and fails with `", stringify!($errno), "`.")]
            fn $name($($argument: $kind),*) -> $result {
                static NOTED: Noted = Noted(Cell::new(false));
                $( let _ = $argument; )*
                NOTED.once(format_args!(stringify!($name)));
                fail(libc::$errno)
            }
        )* }
    };
}

/// Defines functions that give an error number instead of leaving it.
macro_rules! refused_by_result {
    ($( $errno:ident: $name:ident($($argument:ident: $kind:ty),*); )*) => {
        c_functions! { $(
            #[doc = concat!("Notes its name and gives `", stringify!($errno), "`.")]
            fn $name($($argument: $kind),*) -> c_int {
                static NOTED: Noted = Noted(Cell::new(false));
                $( let _ = $argument; )*
                NOTED.once(format_args!(stringify!($name)));
                libc::$errno
            }
        )* }
    };
}

/// Defines functions that do nothing, successfully: they prepare what is refused then.
macro_rules! nothing {
    ($( $name:ident($($argument:ident: $kind:ty),*); )*) => {
        c_functions! { $(
            /// Does nothing: what it prepares is refused.
            fn $name($($argument: $kind),*) -> c_int {
                $( let _ = $argument; )*
                0
            }
        )* }
    };
}

/// Defines functions that never have a caller: they end the program with their name.
macro_rules! impossible {
    ($( $name:ident($($argument:ident: $kind:ty),*) -> $result:ty; )*) => {
        c_functions! { $(
            /// Ends the program with its name.
            fn $name($($argument: $kind),*) -> $result {
                $( let _ = $argument; )*
                runtime::exit::abort(format_args!(
                    "the program has called {}, which does not exist in an image", stringify!($name)
                ))
            }
        )* }
    };
}

type Texts = *const *const c_char;

refused! {
    ENOSYS: fork() -> pid_t;
    ENOSYS: execvp(path: *const c_char, arguments: Texts) -> c_int;
    ECHILD: waitpid(process: pid_t, status: *mut c_int, options: c_int) -> pid_t;
    ECHILD: waitid(kind: c_int, id: libc::id_t, place: *mut c_void, options: c_int) -> c_int;
    ENOSYS: pidfd_getpid(file: c_int) -> pid_t;
    EPERM: setuid(user: uid_t) -> c_int;
    EPERM: setgid(group: gid_t) -> c_int;
    EPERM: setgroups(count: size_t, groups: *const gid_t) -> c_int;
    EPERM: setpgid(process: pid_t, group: pid_t) -> c_int;
    EPERM: setsid() -> pid_t;
}

// Callers look at these errors and do otherwise: nothing is noted.
c_functions! {
    /// There are no pipes with names: `EPERM`, as of file systems that lack them.
    fn mkfifo(_path: *const c_char, _mode: mode_t) -> c_int {
        fail(libc::EPERM)
    }

    /// The root stays what it is: `EPERM`.
    fn chroot(_path: *const c_char) -> c_int {
        fail(libc::EPERM)
    }

    /// Callers copy by themselves: `ENOSYS`.
    fn copy_file_range(
        _from: c_int, _from_offset: *mut off_t, _to: c_int, _to_offset: *mut off_t, _bytes: usize, _flags: c_uint,
    ) -> ssize_t {
        fail(libc::ENOSYS)
    }

    /// Callers copy by themselves: `EINVAL`.
    fn sendfile64(_to: c_int, _from: c_int, _offset: *mut off_t, _bytes: usize) -> ssize_t {
        fail(libc::EINVAL)
    }

    /// Callers copy by themselves: `EINVAL`.
    fn splice(
        _from: c_int, _from_offset: *mut off_t, _to: c_int, _to_offset: *mut off_t, _bytes: usize, _flags: c_uint,
    ) -> ssize_t {
        fail(libc::EINVAL)
    }
}

refused_by_result! {
    ENOSYS: posix_spawnp(
        process: *mut pid_t, path: *const c_char, actions: *const c_void, attributes: *const c_void, arguments: Texts,
        environment: Texts
    );
    ENOSYS: pidfd_spawnp(
        process: *mut c_int, path: *const c_char, actions: *const c_void, attributes: *const c_void, arguments: Texts,
        environment: Texts
    );
}

nothing! {
    posix_spawn_file_actions_init(actions: *mut c_void);
    posix_spawn_file_actions_destroy(actions: *mut c_void);
    posix_spawn_file_actions_adddup2(actions: *mut c_void, from: c_int, to: c_int);
    posix_spawn_file_actions_addchdir(actions: *mut c_void, path: *const c_char);
    posix_spawn_file_actions_addchdir_np(actions: *mut c_void, path: *const c_char);
    posix_spawnattr_init(attributes: *mut c_void);
    posix_spawnattr_destroy(attributes: *mut c_void);
    posix_spawnattr_setflags(attributes: *mut c_void, flags: c_short);
    posix_spawnattr_setpgroup(attributes: *mut c_void, group: pid_t);
    posix_spawnattr_setsigdefault(attributes: *mut c_void, set: *const libc::sigset_t);
    __res_init();
}

// Thread-local variables are found without a call.
impossible! {
    __tls_get_addr(index: *mut c_void) -> *mut c_void;
}
