//! Checkpoints: the first byte chooses what the rest is taken for: a file, records of pages, or a guest's state.
#![no_main]

use checkpoint::file::{self, Section};
use checkpoint::pages::{self, PageRecord};
use checkpoint::state::{GuestState, X86_64};
use libfuzzer_sys::fuzz_target;

const MEMORY_BYTES: u64 = 64 << 20;
const PAGES: u64 = MEMORY_BYTES / pages::PAGE_BYTES as u64;

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    match kind % 3 {
        0 => {
            let mut sections = 0;
            let read = file::read_all(bytes, |section| {
                sections += 1;
                if let Section::Pages(records) = section {
                    assert!(records.len() <= file::MAX_SECTION_BYTES);
                }
            });
            match read {
                Ok((header, totals)) => {
                    assert_eq!(totals.sections, sections);
                    assert!(header.identity.check(&header.identity).is_ok());
                }
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
        1 => {
            let mut again = Vec::new();
            let all = pages::records(bytes, MEMORY_BYTES).try_for_each(|record| {
                match record? {
                    PageRecord::Content { page, bytes } => {
                        assert!(u64::from(page) < PAGES);
                        pages::push_content(&mut again, page, |out| out.extend_from_slice(bytes));
                    }
                    PageRecord::Zero { first, count } => {
                        assert!(count > 0 && u64::from(first) + u64::from(count) <= PAGES);
                        pages::push_zero(&mut again, first, count);
                    }
                }
                Ok::<(), pages::PagesError>(())
            });
            assert_eq!(all.is_ok(), pages::check(bytes, MEMORY_BYTES).is_ok());
            assert_eq!(again, bytes[..again.len()], "what is accepted must be canonical");
            assert!(all.is_err() || again.len() == bytes.len());
        }
        _ => {
            if let Ok(state) = GuestState::decode(bytes, X86_64) {
                let mut again = Vec::new();
                state.encode_into(&mut again);
                assert_eq!(again, bytes, "what is accepted must be canonical");
            }
        }
    }
});
