//! What `std` finds when it looks for names of code: the address.
//!
//! The names of a program's functions are on the host; in an image they would take an eighth of its room. But `std` prints little of a
//! stack without them: its short backtrace begins and ends at two functions that it knows by name, and what
//! `std::backtrace::Backtrace` prints has no addresses at all. So names are found, and each is the address
//! ([`CODE_NAME`]); what is behind it is put in its place where the console is shown, by `cargo pollux logs`.
//!
//! `std` looks for names in the files of the program and of its libraries (as the crate `backtrace` does; it is the same code). It
//! finds the program in parts of 512 bytes of code, each a library with a file that is made when it is opened, and that
//! has a symbol for each of its bytes. It keeps the newest four of those files, 35 KiB each, and a list of all parts, some
//! 100 bytes each, from the first backtrace on.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::ffi::{c_char, c_int, c_void};
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use hermit_abi::{S_IFREG, stat};
use runtime::exit::CODE_NAME;
use runtime::sys::descriptors::{self, Open, Result, Status, stat_of};

/// Bytes of code that have one file: a larger one takes longer to be made, and more of them take longer to be searched.
const PART_BYTES: usize = 512;
/// Where the files are; behind it stands the part's address in hexadecimal.
const FOLDER: &[u8] = b"/proc/pollux/code/";
/// Room for a path with all digits that a number can have, and its end.
const PATH_BYTES: usize = FOLDER.len() + 17;
/// Bytes of an entry of a file's table of symbols, and of its header and each section's.
const SYMBOL_BYTES: usize = 24;
const HEADER_BYTES: usize = 64;
/// Sections: none, symbols, their names.
const SECTIONS: usize = 3;
/// Most bytes of a name, with its end.
const NAME_BYTES: usize = 64;

/// The code of a program.
#[derive(Debug, Clone)]
struct Code {
    all: Range<usize>,
    /// Functions at which `std` begins and ends a short backtrace, and by what in their names it knows them.
    marks: [(Range<usize>, &'static [u8]); 2],
}

/// A piece of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part(Range<usize>);

impl Code {
    #[cfg(feature = "image")]
    fn of_program() -> Self {
        unsafe extern "C" {
            // From the linker script.
            static __text_start: u8;
            static __text_end: u8;
            static __begin_short_start: u8;
            static __begin_short_end: u8;
            static __end_short_start: u8;
            static __end_short_end: u8;
        }
        let between = |start: *const u8, end: *const u8| start.addr()..end.addr();
        Self {
            all: between(&raw const __text_start, &raw const __text_end),
            marks: [
                (between(&raw const __begin_short_start, &raw const __begin_short_end), BEGIN_SHORT),
                (between(&raw const __end_short_start, &raw const __end_short_end), END_SHORT),
            ],
        }
    }

    /// On a host programs have their names.
    #[cfg(not(feature = "image"))]
    fn of_program() -> Self {
        Self { all: 0..0, marks: [(0..0, BEGIN_SHORT), (0..0, END_SHORT)] }
    }

    fn parts(&self) -> impl Iterator<Item = Part> {
        let end = self.all.end;
        self.all.clone().step_by(PART_BYTES).map(move |start| Part(start..end.min(start + PART_BYTES)))
    }

    /// The part whose file has this name in [`FOLDER`].
    fn part(&self, name: &[u8]) -> Option<Part> {
        let start = usize::from_str_radix(str::from_utf8(name).ok()?, 16).ok()?;
        let is_one = self.all.contains(&start) && (start - self.all.start).is_multiple_of(PART_BYTES);
        is_one.then(|| Part(start..self.all.end.min(start + PART_BYTES)))
    }

    /// Writes the name of an address, and its end.
    fn put_name(&self, address: usize, names: &mut Vec<u8>) {
        let [start, end] = CODE_NAME;
        names.extend_from_slice(start.as_bytes());
        names.extend(hexadecimal(address));
        if let Some((_, mark)) = self.marks.iter().find(|(range, _)| range.contains(&address)) {
            names.push(b' ');
            names.extend_from_slice(mark);
        }
        names.extend_from_slice(end.as_bytes());
        names.push(0);
    }

    /// The file of a part: an ELF of nothing but symbols, whose values count from the part's start. `None` if there is no memory
    /// for it.
    fn file_of(&self, part: &Part) -> Option<Vec<u8>> {
        let count = part.0.len() + 1;
        let mut names = Vec::new();
        names.try_reserve_exact(1 + part.0.len() * NAME_BYTES).ok()?;
        let symbols_end = HEADER_BYTES + count * SYMBOL_BYTES;
        let names_start = symbols_end + SECTIONS * HEADER_BYTES;
        let mut file = Vec::new();
        file.try_reserve_exact(names_start + names.capacity()).ok()?;
        file.extend_from_slice(&header(symbols_end));
        // The first symbol and the first name are empty.
        file.resize(HEADER_BYTES + SYMBOL_BYTES, 0);
        names.push(0);
        for (offset, address) in part.0.clone().enumerate() {
            let name = names.len() as u32;
            self.put_name(address, &mut names);
            file.extend_from_slice(&name.to_le_bytes());
            file.extend_from_slice(&[GLOBAL_FUNCTION, 0]);
            file.extend_from_slice(&ABSOLUTE.to_le_bytes());
            file.extend_from_slice(&(offset as u64).to_le_bytes());
            file.extend_from_slice(&0_u64.to_le_bytes());
        }
        file.resize(symbols_end + HEADER_BYTES, 0);
        let symbols = HEADER_BYTES..symbols_end;
        file.extend_from_slice(&section(SYMBOLS, symbols, 2, SYMBOL_BYTES));
        file.extend_from_slice(&section(NAMES, names_start..names_start + names.len(), 0, 0));
        file.extend_from_slice(&names);
        Some(file)
    }
}

// What `std` looks for in names (`library/std/src/sys/backtrace.rs`); the linker script gathers the functions by them.
const BEGIN_SHORT: &[u8] = b"__rust_begin_short_backtrace";
const END_SHORT: &[u8] = b"__rust_end_short_backtrace";

// Numbers of the ELF specification (System V ABI, "Object Files"): a global symbol that is a function; the section of symbols that
// belong to none; kinds of sections; what may be done with a segment.
const GLOBAL_FUNCTION: u8 = 1 << 4 | 2;
const ABSOLUTE: u16 = 0xfff1;
const SYMBOLS: u32 = 2;
const NAMES: u32 = 3;
const READ_AND_EXECUTE: u32 = 4 | 1;

/// An ELF header of 64 bits, little-endian, for this processor, with its sections' headers at `sections`. The names of sections
/// are those of the symbols: all of them have the first, which is empty.
fn header(sections: usize) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    // An executable for x86-64, version 1.
    put(16, &[2, 0, 62, 0, 1, 0, 0, 0]);
    put(40, &(sections as u64).to_le_bytes());
    put(52, &(HEADER_BYTES as u16).to_le_bytes());
    put(58, &(HEADER_BYTES as u16).to_le_bytes());
    put(60, &(SECTIONS as u16).to_le_bytes());
    put(62, &(SECTIONS as u16 - 1).to_le_bytes());
    header
}

/// A section's header: its kind, where it lies, the section that belongs to it, and the size of its entries.
fn section(kind: u32, place: Range<usize>, link: u32, entry_bytes: usize) -> [u8; HEADER_BYTES] {
    let mut section = [0; HEADER_BYTES];
    let mut put = |at: usize, bytes: &[u8]| section[at..at + bytes.len()].copy_from_slice(bytes);
    put(4, &kind.to_le_bytes());
    put(24, &(place.start as u64).to_le_bytes());
    put(32, &(place.len() as u64).to_le_bytes());
    put(40, &link.to_le_bytes());
    // The first symbol that is not local.
    put(44, &1_u32.to_le_bytes());
    put(48, &8_u64.to_le_bytes());
    put(56, &(entry_bytes as u64).to_le_bytes());
    section
}

/// A number's digits, without zeros in front. (`core::fmt` takes far longer, and a file has hundreds of numbers.)
fn hexadecimal(number: usize) -> impl Iterator<Item = u8> {
    let digits = (usize::BITS - number.leading_zeros()).div_ceil(4).max(1);
    (0..digits).rev().map(move |index| b"0123456789abcdef"[number >> (index * 4) & 15])
}

/// An open file of a part.
pub(crate) struct Names {
    status: Status,
    file: Vec<u8>,
}

impl Open for Names {
    fn status(&self) -> &Status {
        &self.status
    }

    fn stat(&self) -> Result<stat> {
        Ok(stat { st_size: self.file.len() as i64, ..stat_of(S_IFREG) })
    }
}

/// Opens the file of a part; `None` for a path that does not lead to one of their folder.
pub(crate) fn open(path: &[u8]) -> Option<Result<c_int>> {
    let name = path.strip_prefix(FOLDER)?;
    let code = Code::of_program();
    let file = code.part(name).ok_or(libc::ENOENT).and_then(|part| code.file_of(&part).ok_or(libc::ENOMEM));
    Some(file.and_then(|file| descriptors::open(Rc::new(Names { status: Status::new(libc::O_RDONLY), file }), true)))
}

/// The open file of a part: those files are not read, but mapped.
///
/// # Errors
/// `EBADF`, `ENODEV` for a descriptor that is not of such a file.
pub(crate) fn of_file(file: c_int) -> Result<Rc<Names>> {
    descriptors::get_as(file, libc::ENODEV)
}

impl Names {
    /// Copies the file, as far as it goes.
    pub(crate) fn copy_to(&self, memory: &mut [u8]) {
        let bytes = memory.len().min(self.file.len());
        memory[..bytes].copy_from_slice(&self.file[..bytes]);
    }
}

/// Whether a path is one that `std` looks at for names, and that may be missing: a program is not told that it is. It looks for more
/// about a part beside its file, and, before it asks for libraries, at what is mapped.
pub(crate) fn is_looked_for(path: &[u8]) -> bool {
    path.starts_with(FOLDER) || TRACED.load(Relaxed) && path == b"/proc/self/maps"
}

/// The program has looked at its stack.
static TRACED: AtomicBool = AtomicBool::new(false);

// What the linker puts in place of `_Unwind_GetIP`, which nobody calls but who looks at a stack: notes that, and goes on with the
// unwinder, whose name is then this. (`_Unwind_Backtrace` cannot be replaced: it finds itself on the stack by its address.)
#[cfg(feature = "image")]
core::arch::global_asm!(
    ".pushsection .text.__wrap__Unwind_GetIP, \"ax\", @progbits",
    ".globl __wrap__Unwind_GetIP",
    ".type __wrap__Unwind_GetIP, @function",
    "__wrap__Unwind_GetIP:",
    "mov byte ptr [rip + {traced}], 1",
    "jmp __real__Unwind_GetIP",
    ".size __wrap__Unwind_GetIP, . - __wrap__Unwind_GetIP",
    ".popsection",
    traced = sym TRACED,
);

/// What [`dl_iterate_phdr`] calls for each library; what it returns ends that if it is not 0.
type Each = unsafe extern "C" fn(*mut libc::dl_phdr_info, usize, *mut c_void) -> c_int;

/// Calls `each` for the program and its libraries: for parts of the program that have names. Nothing else is said of them: the
/// unwinder has found its tables otherwise.
///
/// It is not masked, because `each` is the program's own: this touches nothing but its arguments, and allocates nothing.
///
/// # Safety
/// As C wants it: `each` is null or takes what the type says, and `data`.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn dl_iterate_phdr(each: Option<Each>, data: *mut c_void) -> c_int {
    let Some(each) = each else { return 0 };
    for part in Code::of_program().parts() {
        // SAFETY: the caller's.
        let result = unsafe { describe(&part, each, data) };
        if result != 0 {
            return result;
        }
    }
    0
}

/// Calls `each` with a description of a part. Its addresses in its file begin at 0, so what they differ by is its start; that is never
/// 0, for which a file would be that of `/proc/self/exe`.
///
/// # Safety
/// As for [`dl_iterate_phdr`].
unsafe fn describe(part: &Part, each: Each, data: *mut c_void) -> c_int {
    let mut path = [0_u8; PATH_BYTES];
    // The last byte stays the text's end.
    let text = FOLDER.iter().copied().chain(hexadecimal(part.0.start));
    path[..PATH_BYTES - 1].iter_mut().zip(text).for_each(|(place, byte)| *place = byte);
    let header = libc::Elf64_Phdr {
        p_type: libc::PT_LOAD,
        p_flags: READ_AND_EXECUTE,
        p_offset: 0,
        p_vaddr: 0,
        p_paddr: 0,
        p_filesz: part.0.len() as u64,
        p_memsz: part.0.len() as u64,
        p_align: 1,
    };
    // SAFETY: all of it are numbers and pointers.
    let mut info: libc::dl_phdr_info = unsafe { core::mem::zeroed() };
    info.dlpi_addr = part.0.start as u64;
    info.dlpi_name = path.as_ptr().cast::<c_char>();
    info.dlpi_phdr = &raw const header;
    info.dlpi_phnum = 1;
    // SAFETY: the caller's; what is pointed to lives as long as the call.
    unsafe { each(&raw mut info, size_of::<libc::dl_phdr_info>(), data) }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;
    use alloc::string::{String, ToString};
    use core::ffi::CStr;

    use super::*;

    fn code() -> Code {
        Code {
            all: 0x4000_0000..0x4000_0000 + 2 * PART_BYTES + 100,
            marks: [(0x4000_0010..0x4000_0020, BEGIN_SHORT), (0x4000_0020..0x4000_0023, END_SHORT)],
        }
    }

    fn number<const N: usize>(file: &[u8], at: usize) -> usize {
        file[at..at + N].iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
    }

    /// What a reader of the file finds at an offset from the part's start: by the specification, and by `std`'s way to search.
    fn name_at(file: &[u8], offset: usize) -> Option<String> {
        let sections = number::<8>(file, 40);
        assert_eq!((&file[..7], number::<2>(file, 60)), (&b"\x7fELF\x02\x01\x01"[..], SECTIONS));
        let section = |index: usize| sections + index * number::<2>(file, 58);
        let place = |section: usize| (number::<8>(file, section + 24), number::<8>(file, section + 32));
        let table = (0..SECTIONS).map(section).find(|at| number::<4>(file, at + 4) == 2).expect("symbols");
        let (start, bytes) = place(table);
        let (names, names_bytes) = place(section(number::<4>(file, table + 40)));
        assert_eq!((names + names_bytes, start % 8, sections % 8), (file.len(), 0, 0));
        assert_eq!((bytes % 24, number::<8>(file, table + 56)), (0, 24));
        let symbols = (start..start + bytes).step_by(24);
        let is_it = |at: &usize| file[at + 4] & 15 == 2 && number::<8>(file, at + 8) == offset;
        let found = symbols.into_iter().find(|at| number::<2>(file, at + 6) != 0 && is_it(at))?;
        let name = CStr::from_bytes_until_nul(&file[names + number::<4>(file, found)..]).expect("an end");
        Some(name.to_str().expect("UTF-8").to_string())
    }

    #[test]
    fn each_byte_of_code_has_its_address_as_its_name() {
        let code = code();
        let parts: Vec<Part> = code.parts().collect();
        assert_eq!(parts.iter().map(|part| part.0.len()).collect::<Vec<_>>(), [PART_BYTES, PART_BYTES, 100]);
        let mut all = BTreeSet::new();
        for part in &parts {
            let file = code.file_of(part).expect("memory");
            assert_eq!(name_at(&file, part.0.len()), None);
            all.extend((0..part.0.len()).map(|offset| name_at(&file, offset).expect("a name")));
        }
        assert_eq!(all.len(), code.all.len());
        for name in [
            "<code at 0x40000000>",
            "<code at 0x40000010 __rust_begin_short_backtrace>",
            "<code at 0x40000022 __rust_end_short_backtrace>",
            "<code at 0x40000023>",
            "<code at 0x40000463>",
        ] {
            assert!(all.contains(name), "{name}");
        }
    }

    #[test]
    fn a_name_fits_where_it_was_given_room() {
        let mut names = Vec::new();
        let all = Code { all: 0..usize::MAX, marks: [(0..0, BEGIN_SHORT), (0..usize::MAX, BEGIN_SHORT)] };
        all.put_name(usize::MAX - 1, &mut names);
        assert!(names.len() <= NAME_BYTES, "{}", names.len());
    }

    #[test]
    fn files_are_those_of_parts_and_no_others() {
        let code = code();
        for part in code.parts() {
            let name: Vec<u8> = hexadecimal(part.0.start).collect();
            assert_eq!(code.part(&name), Some(part));
        }
        for name in ["", "40000001", "40000600", "3ffffe00", "40000000.dwp", "x", "ffffffffffffffffff", "/40000000"] {
            assert_eq!(code.part(name.as_bytes()), None, "{name}");
        }
        assert!(open(b"/proc/self/exe").is_none() && open(b"").is_none());
        assert_eq!(open(b"/proc/pollux/code/1"), Some(Err(libc::ENOENT)));
        assert_eq!(of_file(77).err(), Some(libc::EBADF));
        assert_eq!(of_file(0).err(), Some(libc::ENODEV));
    }

    #[test]
    fn numbers_are_written_as_by_core() {
        for number in [0, 9, 10, 15, 16, 255, 0x4001_f2a3, usize::MAX] {
            assert_eq!(hexadecimal(number).map(char::from).collect::<String>(), alloc::format!("{number:x}"));
        }
    }

    #[test]
    fn a_part_is_described_as_a_library_of_its_own() {
        unsafe extern "C" fn each(info: *mut libc::dl_phdr_info, bytes: usize, data: *mut c_void) -> c_int {
            // SAFETY: this is what `describe` says that it gives.
            unsafe {
                let name = CStr::from_ptr((*info).dlpi_name).to_str().expect("UTF-8");
                let header = &*(*info).dlpi_phdr;
                assert_eq!((bytes, (*info).dlpi_phnum), (size_of::<libc::dl_phdr_info>(), 1));
                *data.cast::<String>() =
                    alloc::format!("{name} {:x} {:x} {}", (*info).dlpi_addr, header.p_vaddr, header.p_memsz);
            }
            7
        }
        let mut said = String::new();
        // SAFETY: `each` takes a text.
        let result = unsafe { describe(&Part(0x4000_0200..0x4000_0300), each, (&raw mut said).cast()) };
        assert_eq!((result, said.as_str()), (7, "/proc/pollux/code/40000200 40000200 0 256"));
        // SAFETY: nothing is called.
        assert_eq!(unsafe { dl_iterate_phdr(None, core::ptr::null_mut()) }, 0);
    }
}
