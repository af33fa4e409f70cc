//! Descriptors: small numbers of open objects.
//!
//! One table for all that a program opens. An object ([`Open`]) is counted by reference: `dup` gives it another number,
//! closing the last one drops it, and a call that is under way keeps it meanwhile. A new descriptor is the lowest number that
//! is free. 0 to 2 are the console.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::any::Any;
use core::cell::{Cell, RefCell};

use hermit_abi::{EBADF, EINVAL, EMFILE, ESPIPE, O_NONBLOCK, POLLIN, POLLOUT, stat};

use super::console::{Input, Output};
use super::signal::{Events, Signal};

/// A positive error number.
pub type Errno = i32;
/// What operations on open objects return.
pub type Result<T> = core::result::Result<T, Errno>;

/// Most descriptors at once.
pub const MOST_DESCRIPTORS: usize = 1 << 16;

/// Flags that all descriptors of an open object share: how it was opened, `O_NONBLOCK`, `O_APPEND`.
#[derive(Debug, Default)]
pub struct Status(Cell<i32>);

impl Status {
    /// Flags as of `open` or, for sockets, `O_RDWR` and perhaps `O_NONBLOCK`.
    pub const fn new(flags: i32) -> Self {
        Self(Cell::new(flags))
    }

    /// All flags.
    pub fn flags(&self) -> i32 {
        self.0.get()
    }

    /// Sets those of `flags` that are in `mask`, clears the others of it.
    pub fn set(&self, mask: i32, flags: i32) {
        self.0.set(self.0.get() & !mask | flags & mask);
    }

    /// Whether calls fail with `EAGAIN` where they would wait.
    pub fn is_nonblocking(&self) -> bool {
        self.0.get() & O_NONBLOCK != 0
    }
}

/// Writes pieces one after the other until one is not written as a whole: how many bytes in all.
///
/// # Errors
/// That of the first piece; a later one's shows as fewer bytes.
pub(super) fn in_turn(pieces: &[&[u8]], mut write: impl FnMut(&[u8]) -> Result<usize>) -> Result<usize> {
    let mut total = 0;
    for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
        match write(piece) {
            Ok(written) => {
                total += written;
                if written < piece.len() {
                    break;
                }
            }
            Err(errno) if total == 0 => return Err(errno),
            Err(_) => break,
        }
    }
    Ok(total)
}

/// What a descriptor stands for. Calls wait on the running thread's stack, unless the object's flags forbid it
/// ([`super::wait`]). Methods that make no sense for an object keep their defaults, which say so by error number.
pub trait Open: Any {
    /// Flags of the object.
    fn status(&self) -> &Status;

    /// Reads: how many bytes, 0 at the end.
    ///
    /// # Errors
    /// An error number; `EINVAL` for what cannot be read.
    fn read(&self, _buffer: &mut [u8]) -> Result<usize> {
        Err(EINVAL)
    }

    /// Reads into memory that may not hold values yet: for objects that can spare the zeros.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    ///
    /// # Safety
    /// `bytes` bytes can be written at `place`, and nobody else uses them meanwhile.
    unsafe fn read_raw(&self, place: *mut u8, bytes: usize) -> Result<usize> {
        // SAFETY: the caller's; the bytes are read only after having been given a value.
        self.read(unsafe {
            place.write_bytes(0, bytes);
            core::slice::from_raw_parts_mut(place, bytes)
        })
    }

    /// Writes: how many bytes.
    ///
    /// # Errors
    /// An error number; `EINVAL` for what cannot be written.
    fn write(&self, _data: &[u8]) -> Result<usize> {
        Err(EINVAL)
    }

    /// Writes pieces one after the other as if they were one: how many bytes in all.
    ///
    /// # Errors
    /// That of the first piece; a later one's shows as fewer bytes.
    fn write_pieces(&self, pieces: &[&[u8]]) -> Result<usize> {
        in_turn(pieces, |piece| self.write(piece))
    }

    /// Moves the position (`SEEK_SET`, `SEEK_CUR`, `SEEK_END`), and returns it, in bytes.
    ///
    /// # Errors
    /// `ESPIPE` for what has no positions.
    fn seek(&self, _offset_bytes: i64, _whence: i32) -> Result<i64> {
        Err(ESPIPE)
    }

    /// What there is to know about the object.
    ///
    /// # Errors
    /// An error number.
    fn stat(&self) -> Result<stat>;

    /// What the object is ready for now. What never waits is always ready.
    fn readiness(&self) -> Events {
        POLLIN | POLLOUT
    }

    /// Who is to be told when that changes; `None` if it never does.
    fn signal(&self) -> Option<&Signal> {
        None
    }
}

/// What `stat` says of an object that is no file, with a type out of hermit's `S_IF` constants.
pub fn stat_of(kind: u32) -> stat {
    stat { st_mode: kind | 0o600, st_nlink: 1, st_blksize: 4096, ..stat::default() }
}

/// A used place in the table.
#[derive(Clone)]
struct Entry {
    open: Rc<dyn Open>,
    /// What `FD_CLOEXEC` was set to. Nothing is ever executed, but a program may ask.
    close_on_exec: bool,
}

struct Table {
    entries: Vec<Option<Entry>>,
    /// No place below this is free.
    lowest: usize,
    /// The console is there. It is entered when the table is first used, because it is allocated.
    ready: bool,
}

local! {
    static TABLE: RefCell<Table> = RefCell::new(Table::new());
}

impl Table {
    const fn new() -> Self {
        Self { entries: Vec::new(), lowest: 0, ready: false }
    }

    fn prepare(&mut self) {
        if !self.ready {
            self.ready = true;
            let console: [Rc<dyn Open>; 3] =
                [Rc::new(Input::default()), Rc::new(Output::standard()), Rc::new(Output::error())];
            self.entries.extend(console.map(|open| Some(Entry { open, close_on_exec: false })));
            self.lowest = self.entries.len();
        }
    }

    fn entry(&mut self, descriptor: i32) -> Result<&mut Entry> {
        let index = usize::try_from(descriptor).map_err(|_| EBADF)?;
        self.entries.get_mut(index).and_then(Option::as_mut).ok_or(EBADF)
    }

    /// Enters an object at the lowest free place from `least` on.
    fn enter(&mut self, entry: Entry, least: usize) -> Result<i32> {
        let start = least.max(self.lowest);
        let free = (start..self.entries.len()).find(|index| self.entries[*index].is_none());
        let index = free.unwrap_or(start.max(self.entries.len()));
        if index >= MOST_DESCRIPTORS {
            return Err(EMFILE);
        }
        if index >= self.entries.len() {
            self.entries.resize_with(index + 1, || None);
        }
        self.entries[index] = Some(entry);
        if least <= self.lowest {
            self.lowest = index + 1;
        }
        Ok(index as i32)
    }
}

fn with_table<R>(f: impl FnOnce(&mut Table) -> R) -> R {
    TABLE.with(|table| {
        let mut table = table.borrow_mut();
        table.prepare();
        f(&mut table)
    })
}

/// Gives an object the lowest free descriptor.
///
/// # Errors
/// `EMFILE`; the object is dropped then.
pub fn open(object: Rc<dyn Open>, close_on_exec: bool) -> Result<i32> {
    with_table(|table| table.enter(Entry { open: object.clone(), close_on_exec }, 0))
}

/// The object of a descriptor.
///
/// # Errors
/// `EBADF`.
pub fn get(descriptor: i32) -> Result<Rc<dyn Open>> {
    with_table(|table| table.entry(descriptor).map(|entry| Rc::clone(&entry.open)))
}

/// The object of a descriptor, if it is of type `T`.
///
/// # Errors
/// `EBADF`, or `other` for an object of another type: `ENOTSOCK`, say.
pub fn get_as<T: Open>(descriptor: i32, other: Errno) -> Result<Rc<T>> {
    let object: Rc<dyn Any> = get(descriptor)?;
    object.downcast().map_err(|_| other)
}

/// Frees a descriptor; the object goes with its last one.
///
/// # Errors
/// `EBADF`.
pub fn close(descriptor: i32) -> Result<()> {
    let closed = with_table(|table| -> Result<_> {
        table.entry(descriptor)?;
        let index = descriptor as usize;
        table.lowest = table.lowest.min(index);
        Ok(table.entries[index].take())
    })?;
    // It may do anything when it goes, so the table is not borrowed meanwhile.
    drop(closed);
    Ok(())
}

/// Another descriptor of the same object, the lowest free one from `least` on.
///
/// # Errors
/// `EBADF`, `EINVAL` for a `least` that no descriptor has, `EMFILE`.
pub fn duplicate(descriptor: i32, least: i32, close_on_exec: bool) -> Result<i32> {
    let least = usize::try_from(least).ok().filter(|least| *least < MOST_DESCRIPTORS).ok_or(EINVAL)?;
    with_table(|table| {
        let open = Rc::clone(&table.entry(descriptor)?.open);
        table.enter(Entry { open, close_on_exec }, least)
    })
}

/// Makes `place` a descriptor of the same object; what it was before is closed.
///
/// # Errors
/// `EBADF`, also for a `place` that no descriptor has.
pub fn duplicate_to(descriptor: i32, place: i32, close_on_exec: bool) -> Result<i32> {
    let index = usize::try_from(place).ok().filter(|place| *place < MOST_DESCRIPTORS).ok_or(EBADF)?;
    let replaced = with_table(|table| -> Result<_> {
        let open = Rc::clone(&table.entry(descriptor)?.open);
        if descriptor == place {
            return Ok(None);
        }
        if index >= table.entries.len() {
            table.entries.resize_with(index + 1, || None);
        }
        Ok(table.entries[index].replace(Entry { open, close_on_exec }))
    })?;
    drop(replaced);
    Ok(place)
}

/// Whether a descriptor is marked to be closed when another program is executed.
///
/// # Errors
/// `EBADF`.
pub fn close_on_exec(descriptor: i32) -> Result<bool> {
    with_table(|table| table.entry(descriptor).map(|entry| entry.close_on_exec))
}

/// Marks it, or not.
///
/// # Errors
/// `EBADF`.
pub fn set_close_on_exec(descriptor: i32, marked: bool) -> Result<()> {
    with_table(|table| table.entry(descriptor).map(|entry| entry.close_on_exec = marked))
}

/// Closes everything: the end of a machine on a host.
#[cfg(not(feature = "image"))]
pub(crate) fn reset() {
    let entries = TABLE.with(|table| core::mem::replace(&mut *table.borrow_mut(), Table::new()));
    drop(entries);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says when it is dropped.
    struct Probe(Status, Rc<Cell<u32>>);

    impl Open for Probe {
        fn status(&self) -> &Status {
            &self.0
        }

        fn stat(&self) -> Result<stat> {
            Ok(stat_of(hermit_abi::S_IFIFO))
        }

        fn write(&self, data: &[u8]) -> Result<usize> {
            if data == b"no" { Err(EINVAL) } else { Ok(data.len().min(4)) }
        }
    }

    fn probe(dropped: &Rc<Cell<u32>>) -> Rc<dyn Open> {
        Rc::new(Probe(Status::default(), Rc::clone(dropped)))
    }

    impl Drop for Probe {
        fn drop(&mut self) {
            self.1.set(self.1.get() + 1);
        }
    }

    #[test]
    fn the_lowest_free_number_is_given_and_the_last_one_drops_the_object() {
        let dropped = Rc::new(Cell::new(0));
        assert_eq!((open(probe(&dropped), false), open(probe(&dropped), true)), (Ok(3), Ok(4)));
        assert_eq!((duplicate(3, 0, false), duplicate(3, 10, true), duplicate(3, 0, false)), (Ok(5), Ok(10), Ok(6)));
        assert_eq!((close(3), close(3), dropped.get()), (Ok(()), Err(EBADF), 0), "there are others of it");
        assert_eq!(open(probe(&dropped), false), Ok(3));
        assert_eq!((close(5), close(6), close(10), dropped.get()), (Ok(()), Ok(()), Ok(()), 1));
        assert_eq!((close_on_exec(3), close_on_exec(4)), (Ok(false), Ok(true)));
        assert_eq!((duplicate_to(4, 3, false), dropped.get()), (Ok(3), 2), "what was there is closed");
        assert_eq!((duplicate_to(4, 4, false), duplicate_to(4, 20, false)), (Ok(4), Ok(20)));
        assert_eq!((duplicate_to(9, 3, false), duplicate_to(4, -1, false)), (Err(EBADF), Err(EBADF)));
        assert_eq!((duplicate(4, -1, false), close(-1), close(77)), (Err(EINVAL), Err(EBADF), Err(EBADF)));
        assert_eq!((close(0), open(probe(&dropped), false)), (Ok(()), Ok(0)), "the console can be closed, too");
        assert!(get_as::<Probe>(0, EINVAL).is_ok());
        assert_eq!(get_as::<Input>(0, EINVAL).err(), Some(EINVAL));
        reset();
        assert_eq!(dropped.get(), 4);
    }

    #[test]
    fn there_is_a_most() {
        let dropped = Rc::new(Cell::new(0));
        let first = open(probe(&dropped), false).expect("room");
        for _ in 4..MOST_DESCRIPTORS {
            assert!(duplicate(first, 0, false).is_ok());
        }
        assert_eq!((duplicate(first, 0, false), open(probe(&dropped), false)), (Err(EMFILE), Err(EMFILE)));
        assert_eq!((close(500), duplicate(first, 0, false)), (Ok(()), Ok(500)));
        reset();
    }

    #[test]
    fn pieces_are_written_until_one_is_short() {
        let object = probe(&Rc::new(Cell::new(0)));
        assert_eq!(object.write_pieces(&[b"one", b"", b"four", b"eight", b"lost"]), Ok(11));
        assert_eq!(object.write_pieces(&[b"one", b"no", b"lost"]), Ok(3));
        assert_eq!(object.write_pieces(&[b"no", b"lost"]), Err(EINVAL));
        assert_eq!(object.seek(0, 0), Err(ESPIPE));
    }
}
