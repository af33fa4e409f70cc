//! A region of a mebibyte, saved in chains. Arguments: `target=memory` (and so the backup) or `disk`; `links`.
//!
//! | command | answer |
//! |---|---|
//! | `touch SEED COUNT` | writes to so many places, answers `done` |
//! | `take` | `full\|incremental bytes N links N` |
//! | `fork SEED COUNT` | takes a full checkpoint, writes to places while it is written, answers `forked bytes N kept N` |
//! | `sum` | a sum of the region |
//! | `restore` | goes back to the newest checkpoint, answers `done` or the error |

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use runtime::checkpoint::{Checkpoints, Kind, Memory, Region, Target, forked};
use runtime::random::Rng;
use runtime::{env, yield_now};

use super::{control, disk, number, text, word};
use crate::chain::{Chain, Length};

const NAME: &str = "chain";
const REGION_BYTES: usize = 1 << 20;
/// Bytes written to at each place.
const PLACE_BYTES: usize = 64;

pub async fn run() -> Result<(), String> {
    match env::value("target") {
        Some("disk") => serve(disk::archive().await?).await,
        _ => serve(Memory::new(8 << 20)).await,
    }
}

struct Saved<T> {
    checkpoints: Checkpoints,
    region: Region,
    target: Rc<T>,
    chain: Chain,
}

async fn serve<T: Target + 'static>(target: T) -> Result<(), String> {
    let checkpoints = Checkpoints::new("chain");
    let region = checkpoints.region("region", vec![0; REGION_BYTES], &[]).map_err(text)?;
    if target.newest(NAME).is_some() {
        checkpoints.restore(&target, NAME).await.map_err(text)?;
    }
    let chain = Chain { most_links: number("links", 8) as usize };
    let saved = Rc::new(Saved { checkpoints, region, target: Rc::new(target), chain });
    control::serve(move |command| {
        let saved = Rc::clone(&saved);
        async move {
            let words: Vec<_> = command.split_ascii_whitespace().collect();
            saved.obey(&words).await.unwrap_or_else(|error| error)
        }
    })
    .await
}

impl<T: Target + 'static> Saved<T> {
    async fn obey(&self, words: &[&str]) -> Result<String, String> {
        match words.first().copied().unwrap_or_default() {
            "touch" => {
                touch(&self.region, word(words, 1), word(words, 2));
                Ok("done".into())
            }
            "take" => {
                let entry = self.chain.take(&self.checkpoints, NAME, &self.target).await.map_err(text)?;
                let kind = if entry.kind() == Kind::Full { "full" } else { "incremental" };
                Ok(format!("{kind} bytes {} links {}", entry.bytes, Length::of(&self.target, NAME).links))
            }
            "fork" => {
                let draft = self.checkpoints.full(NAME, Rc::clone(&self.target)).map_err(text)?;
                let writing = forked(draft);
                let (mut kept_bytes, mut rng) = (0, Rng::from_seed(word(words, 1)));
                // A few places at a time, as the slices of the checkpoint take their turns.
                for _ in 0..word(words, 2) {
                    touch(&self.region, rng.next_u64(), 1);
                    kept_bytes = self.region.kept_bytes().max(kept_bytes);
                    yield_now().await;
                }
                let entry = writing.await.map_err(text)?.map_err(text)?;
                Ok(format!("forked bytes {} kept {kept_bytes}", entry.bytes))
            }
            "sum" => Ok(format!("{:016x}", self.region.with(sum))),
            "restore" => self.checkpoints.restore(&self.target, NAME).await.map(|_| "done".into()).map_err(text),
            other => Err(format!("unknown command {other:?}")),
        }
    }
}

fn touch(region: &Region, seed: u64, count: u64) {
    let mut rng = Rng::from_seed(seed);
    for _ in 0..count {
        let at = rng.below((REGION_BYTES - PLACE_BYTES) as u64) as usize;
        region.change(at..at + PLACE_BYTES, |bytes| bytes.fill(rng.next_u64() as u8));
    }
}

/// FNV-1a over words.
fn sum(bytes: &[u8]) -> u64 {
    let (words, _) = bytes.as_chunks::<8>();
    words
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, word| (sum ^ u64::from_le_bytes(*word)).wrapping_mul(0x0000_0100_0000_01b3))
}
