//! Guards: pages of a guest's memory that its instructions may not touch.
//!
//! Which they are is part of a guest's state. What is said in the report of a fault there lies in the page itself, and so in
//! guest memory.

use alloc::string::String;
use alloc::vec::Vec;

use hypercall::errno::{E2BIG, EFAULT, EINVAL, ENOENT, ENOMEM};
use hypercall::layout::{GUEST_BASE, MAX_GUARD_TEXT_BYTES, MAX_GUARDS, PAGE_BYTES};
use hypercall::table::Outcome;

use super::Guest;

/// The guards of a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Guards {
    /// Page numbers, ascending.
    pages: Vec<u32>,
}

impl Guards {
    /// The numbers of their pages, ascending.
    pub(super) fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// Adds one. Returns whether there was room, or it was one already.
    fn insert(&mut self, page: u32) -> bool {
        match self.pages.binary_search(&page) {
            Ok(_) => true,
            Err(_) if self.pages.len() >= MAX_GUARDS => false,
            Err(place) => {
                self.pages.insert(place, page);
                true
            }
        }
    }

    /// Takes one away. Returns whether it was one.
    fn remove(&mut self, page: u32) -> bool {
        self.pages.binary_search(&page).map(|place| self.pages.remove(place)).is_ok()
    }
}

impl Guest {
    pub(super) fn add_guard(&mut self, address: u64, text_address: u64, text_bytes: u64) -> Result<u64, i64> {
        if !address.is_multiple_of(PAGE_BYTES) {
            return Err(EINVAL);
        }
        if text_bytes > MAX_GUARD_TEXT_BYTES as u64 {
            return Err(E2BIG);
        }
        let offset = self.memory.offset_of(address, PAGE_BYTES).filter(|_| self.may_write(address, PAGE_BYTES));
        let offset = offset.ok_or(EFAULT)?;
        // An empty text lies nowhere in particular.
        let mut text = match text_bytes {
            0 => Vec::new(),
            bytes => self.memory.copy_out(text_address, bytes as usize).ok_or(EFAULT)?,
        };
        if !self.guards.insert((offset as u64 / PAGE_BYTES) as u32) {
            return Err(ENOMEM);
        }
        text.push(0);
        self.memory.write_offset(offset, &text);
        self.note_written(offset, text.len());
        Ok(offset as u64)
    }

    pub(super) fn remove_guard(&mut self, address: u64) -> Result<u64, i64> {
        let offset = self.memory.offset_of(address, PAGE_BYTES).filter(|_| address.is_multiple_of(PAGE_BYTES));
        let offset = offset.ok_or(ENOENT)? as u64;
        if self.guards.remove((offset / PAGE_BYTES) as u32) { Ok(offset) } else { Err(ENOENT) }
    }

    /// The offsets of all guards, ascending.
    pub fn guards(&self) -> impl Iterator<Item = u64> {
        self.guards.pages().iter().map(|page| u64::from(*page) * PAGE_BYTES)
    }

    /// What is said of the guard that this address lies in, if it is one.
    pub(super) fn guard_text(&self, address: u64) -> Option<String> {
        let offset = self.memory.offset_of(address, 1)? as u64;
        let page = (offset / PAGE_BYTES) as u32;
        self.guards.pages().binary_search(&page).ok()?;
        let text = self.memory.copy_out(GUEST_BASE + u64::from(page) * PAGE_BYTES, MAX_GUARD_TEXT_BYTES)?;
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        Some(String::from_utf8_lossy(text).into_owned())
    }

    /// Puts the guards of a state in place of this guest's own.
    ///
    /// # Errors
    /// A page that cannot be one.
    pub(super) fn restore_guards(&mut self, pages: &[u32]) -> Result<(), u32> {
        let possible = |page: &u32| self.may_write(GUEST_BASE + u64::from(*page) * PAGE_BYTES, PAGE_BYTES);
        if let Some(impossible) = pages.iter().find(|page| !possible(page)) {
            return Err(*impossible);
        }
        self.guards = Guards { pages: pages.to_vec() };
        Ok(())
    }
}

/// What the machine has to do.
pub(super) fn outcome(result: Result<u64, i64>, guarded: bool) -> Outcome {
    match result {
        Ok(offset) => Outcome::SetGuard { offset, guarded },
        Err(error) => Outcome::Return(-error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards_are_kept_in_order_up_to_a_limit() {
        let mut guards = Guards::default();
        for page in (0..MAX_GUARDS as u32).rev() {
            assert!(guards.insert(page * 2));
        }
        assert!(guards.insert(0), "it is one already");
        assert!(!guards.insert(1), "one too many");
        assert!(guards.pages().is_sorted());
        assert!(guards.remove(0) && !guards.remove(0));
        assert!(guards.insert(1));
    }
}
