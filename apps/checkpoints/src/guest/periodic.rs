//! A program that counts, and loses at most an interval of it. Argument: `mean_failure_s`.
//!
//! | command | answer |
//! |---|---|
//! | `state` | `counted N saved N checkpoints N cost_us N young_us N daly_us N` |

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use core::cell::Cell;

use runtime::checkpoint::{Checkpoints, Moment, Target};
use runtime::time::{Duration, sleep};
use runtime::{println, spawn};

use super::{control, disk, number, text};
use crate::periodic::{Periodic, daly_ns, young_ns};

const NAME: &str = "count";
/// What a checkpoint is taken to cost before one was measured.
const FIRST_COST_NS: u64 = 2_000_000;

pub async fn run() -> Result<(), String> {
    let mean_failure_ns = number("mean_failure_s", 60) * 1_000_000_000;
    let checkpoints = Checkpoints::new("periodic");
    let counted = checkpoints.value(NAME, 1, 0_u64).map_err(text)?;
    let archive = disk::archive().await?;
    if archive.newest(NAME).is_some() {
        let entry = checkpoints.restore(&archive, NAME).await.map_err(text)?;
        println!("checkpoints: goes on from checkpoint {} at {}", entry.sequence, counted.with(|count| *count));
    }
    let saved = Rc::new(Cell::new((counted.with(|count| *count), 0_u64)));
    let periodic = Rc::new(Cell::new(Periodic { mean_failure_ns, cost_ns: FIRST_COST_NS }));

    let counting = counted.clone();
    spawn(async move {
        loop {
            counting.change(|count| *count += 1);
            sleep(Duration::from_millis(1)).await;
        }
    });
    let (saving, shown, now) = (Rc::clone(&saved), Rc::clone(&periodic), counted.clone());
    let taken = Rc::new(Cell::new(0));
    let at_take = Rc::clone(&taken);
    checkpoints.hook(move |moment| {
        if matches!(moment, Moment::BeforeTake(_)) {
            at_take.set(now.with(|count| *count));
        }
    });
    spawn(async move {
        let mut periodic = shown.get();
        loop {
            // A fault of the disk is told and tried again after the next interval.
            match periodic.next(&checkpoints, NAME, &archive).await {
                Ok(_) => saving.set((taken.get(), saving.get().1 + 1)),
                Err(error) => println!("checkpoints: {error}"),
            }
            shown.set(periodic);
        }
    });
    control::serve(move |_| {
        let (cost_ns, (saved, checkpoints)) = (periodic.get().cost_ns, saved.get());
        let [young_us, daly_us] = [young_ns, daly_ns].map(|interval| interval(cost_ns, mean_failure_ns) / 1000);
        let counted = counted.with(|count| *count);
        let answer = format!(
            "counted {counted} saved {saved} checkpoints {checkpoints} cost_us {} young_us {young_us} daly_us {daly_us}",
            cost_ns / 1000
        );
        async move { answer }
    })
    .await
}
