//! Environment variables.

#[cfg(any(feature = "image", test))]
use alloc::borrow::ToOwned;
use alloc::boxed::Box;
#[cfg(any(feature = "image", test))]
use alloc::format;
#[cfg(any(feature = "image", test))]
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::ffi::{CStr, c_char, c_int};
use core::ptr;

use crate::errno::fail;

/// The variables as programs look at them: pointers to `NAME=VALUE`, and a null pointer. `std` reads it.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
#[allow(non_upper_case_globals)]
pub static mut environ: *const *const c_char = ptr::null();

/// What `environ` points to.
struct Variables(RefCell<Vec<*const c_char>>);

// SAFETY: threads of a program take turns where they wait, and nothing here waits.
unsafe impl Sync for Variables {}

static VARIABLES: Variables = Variables(RefCell::new(Vec::new()));

/// Publishes the variables. The old array stays where it is, because somebody may walk along it.
fn publish(variables: &[*const c_char]) {
    let array: Vec<*const c_char> = variables.iter().copied().chain([ptr::null()]).collect();
    // SAFETY: nobody else runs meanwhile.
    unsafe { environ = Box::leak(array.into_boxed_slice()).as_ptr() };
}

/// By which `std` is told how large the stacks of threads are that do not choose.
#[cfg(any(feature = "image", test))]
const STACK_VARIABLE: &str = "RUST_MIN_STACK";

/// The environment that a program starts with: what was given to the image, and the size of stacks unless that says it. What
/// lacks a name is left out; of variables of one name the last counts.
#[cfg(any(feature = "image", test))]
fn initial<'a>(given: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut variables: Vec<String> = Vec::new();
    let stack = format!("{STACK_VARIABLE}={}", crate::threads::STACK_BYTES);
    for variable in [stack].into_iter().chain(given.map(str::to_owned)) {
        let Some((name, _)) = variable.split_once('=').filter(|(name, _)| !name.is_empty()) else { continue };
        variables.retain(|other| other.split_once('=').is_none_or(|(taken, _)| taken != name));
        variables.push(variable);
    }
    variables
}

/// Sets up the environment.
#[cfg(feature = "image")]
pub(crate) fn install() {
    let texts = initial(runtime::env::variables()).into_iter().map(|text| {
        let bytes: Vec<u8> = text.into_bytes().into_iter().chain([0]).collect();
        Box::leak(bytes.into_boxed_slice()).as_ptr().cast()
    });
    VARIABLES.0.borrow_mut().extend(texts);
    publish(&VARIABLES.0.borrow());
}

/// Where a variable is in the list, and its value.
fn find(variables: &[*const c_char], name: &[u8]) -> Option<(usize, *const c_char)> {
    variables.iter().enumerate().find_map(|(index, variable)| {
        // SAFETY: whoever has put it there has given a text with its end, which is never freed.
        let text = unsafe { CStr::from_ptr(*variable) }.to_bytes();
        let value = text.strip_prefix(name)?.strip_prefix(b"=")?;
        Some((index, value.as_ptr().cast()))
    })
}

/// A name that a variable can have.
///
/// # Safety
/// `name` is null or a text.
unsafe fn checked<'a>(name: *const c_char) -> Option<&'a [u8]> {
    if name.is_null() {
        return None;
    }
    // SAFETY: the caller's.
    let name = unsafe { CStr::from_ptr(name) }.to_bytes();
    (!name.is_empty() && !name.contains(&b'=')).then_some(name)
}

c_functions! {
    /// The value of a variable, or null.
    fn getenv(name: *const c_char) -> *const c_char {
        // SAFETY: the caller's.
        let Some(name) = (unsafe { checked(name) }) else { return ptr::null() };
        find(&VARIABLES.0.borrow(), name).map_or(ptr::null(), |(_, value)| value)
    }

    /// Sets a variable, unless it is set and `overwrite` is 0. `EINVAL` for a name that is none.
    fn setenv(name: *const c_char, value: *const c_char, overwrite: c_int) -> c_int {
        // SAFETY: the caller's.
        let Some(name) = (unsafe { checked(name) }) else { return fail(libc::EINVAL) };
        let mut variables = VARIABLES.0.borrow_mut();
        let old = find(&variables, name).map(|(index, _)| index);
        if old.is_some() && overwrite == 0 {
            return 0;
        }
        // SAFETY: the caller's.
        let value = unsafe { CStr::from_ptr(value) };
        // The text that it replaces is leaked, as everywhere: others may have its address.
        let text: Vec<u8> = [name, b"=", value.to_bytes_with_nul()].concat();
        let text = Box::leak(text.into_boxed_slice()).as_ptr().cast();
        match old {
            Some(index) => variables[index] = text,
            None => variables.push(text),
        }
        publish(&variables);
        0
    }

    /// Removes a variable. `EINVAL` for a name that is none.
    fn unsetenv(name: *const c_char) -> c_int {
        // SAFETY: the caller's.
        let Some(name) = (unsafe { checked(name) }) else { return fail(libc::EINVAL) };
        let mut variables = VARIABLES.0.borrow_mut();
        if let Some((index, _)) = find(&variables, name) {
            variables.remove(index);
            publish(&variables);
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(name: &CStr) -> Option<&'static CStr> {
        // SAFETY: the name is a text; values are never freed.
        unsafe {
            let value = getenv(name.as_ptr());
            (!value.is_null()).then(|| CStr::from_ptr(value))
        }
    }

    #[test]
    fn what_is_given_takes_the_place_of_what_there_is_by_itself() {
        let names = |given: &[&'static str]| initial(given.iter().copied());
        assert_eq!(names(&["A=1", "=2", "B", "A=3"]), ["RUST_MIN_STACK=262144", "A=3"]);
        assert_eq!(names(&["RUST_MIN_STACK=5"]), ["RUST_MIN_STACK=5"]);
    }

    // One test: the variables belong to the whole process.
    #[test]
    fn variables_are_set_replaced_listed_and_removed() {
        // SAFETY: all arguments are texts.
        unsafe {
            assert_eq!(setenv(c"A".as_ptr(), c"1".as_ptr(), 0), 0);
            assert_eq!(setenv(c"AB".as_ptr(), c"2".as_ptr(), 0), 0);
            assert_eq!(setenv(c"A".as_ptr(), c"3".as_ptr(), 0), 0);
            assert_eq!(value(c"A"), Some(c"1"), "it was not to be overwritten");
            assert_eq!(setenv(c"A".as_ptr(), c"x=y".as_ptr(), 1), 0);
            assert_eq!(value(c"A"), Some(c"x=y"));
            assert_eq!(CStr::from_ptr(*environ), c"A=x=y");
            assert_eq!(CStr::from_ptr(*environ.add(1)), c"AB=2");
            assert!((*environ.add(2)).is_null());
            assert_eq!(unsetenv(c"A".as_ptr()), 0);
            assert_eq!((value(c"A"), value(c"AB")), (None, Some(c"2")));
            for wrong in [c"", c"A=B"] {
                assert_eq!(setenv(wrong.as_ptr(), c"1".as_ptr(), 1), -1);
                assert_eq!(*crate::errno::__errno_location(), libc::EINVAL);
            }
        }
    }
}
