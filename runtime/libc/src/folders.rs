//! Directories that are listed, by C names.

use alloc::boxed::Box;
use core::ffi::{c_char, c_int};
use core::ptr;

use runtime::fs;
use runtime::sys::descriptors;

use crate::errno::fail;
use crate::files::{nothing, open64};

/// An open directory, as C programs see it.
#[derive(Debug)]
pub struct Directory {
    descriptor: c_int,
    entry: libc::dirent64,
}

/// Makes a stream of a directory's descriptor.
fn stream(descriptor: c_int) -> *mut Directory {
    // SAFETY: all of it are numbers.
    let entry = unsafe { core::mem::zeroed() };
    Box::into_raw(Box::new(Directory { descriptor, entry }))
}

impl Directory {
    fn next(&mut self) -> fs::Result<Option<&mut libc::dirent64>> {
        let file = descriptors::get_as::<fs::File>(self.descriptor, libc::ENOTDIR)?;
        let Some(found) = file.next_entry()? else { return Ok(None) };
        self.entry.d_ino = found.ino;
        self.entry.d_off = found.position as i64;
        self.entry.d_reclen = size_of::<libc::dirent64>() as u16;
        self.entry.d_type = match found.kind {
            filesystem::Kind::File => libc::DT_REG,
            filesystem::Kind::Directory => libc::DT_DIR,
            filesystem::Kind::Link => libc::DT_LNK,
        };
        let name = found.name.iter().map(|&byte| byte as c_char).chain([0]);
        self.entry.d_name.iter_mut().zip(name).for_each(|(place, byte)| *place = byte);
        Ok(Some(&mut self.entry))
    }
}

c_functions! {
    /// Opens a directory to be listed. Null when it cannot be.
    fn opendir(path: *const c_char) -> *mut Directory {
        // SAFETY: the caller's.
        let file = unsafe { open64(path, libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC, 0) };
        if file < 0 { ptr::null_mut() } else { stream(file) }
    }

    /// As [`opendir`], of an open directory, which belongs to the result from then on.
    fn fdopendir(file: c_int) -> *mut Directory {
        let found = descriptors::get_as::<fs::File>(file, libc::ENOTDIR);
        match found.and_then(|file| if file.is_directory() { Ok(()) } else { Err(libc::ENOTDIR) }) {
            Ok(()) => stream(file),
            Err(errno) => {
                fail::<c_int>(errno);
                ptr::null_mut()
            }
        }
    }

    /// The next entry. Null at the end, where the error number stays as it is, and for errors.
    fn readdir64(folder: *mut Directory) -> *mut libc::dirent64 {
        // SAFETY: the caller's: it was given by `opendir`, and one thread uses it.
        match unsafe { &mut *folder }.next() {
            Ok(entry) => entry.map_or(ptr::null_mut(), ptr::from_mut),
            Err(errno) => {
                fail::<c_int>(errno);
                ptr::null_mut()
            }
        }
    }

    /// The descriptor of a directory that is being listed.
    fn dirfd(folder: *mut Directory) -> c_int {
        // SAFETY: the caller's.
        unsafe { (*folder).descriptor }
    }

    /// Ends a listing.
    fn closedir(folder: *mut Directory) -> c_int {
        // SAFETY: the caller's: it was given by `opendir` and is not used any more.
        let folder = unsafe { Box::from_raw(folder) };
        nothing(descriptors::close(folder.descriptor))
    }
}
