//! Clocks and waiting.

use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::check;

const SHORT: Duration = Duration::from_millis(5);

pub fn run() {
    let start = Instant::now();
    sleep(SHORT);
    check("sleep lasts", start.elapsed() >= SHORT);
    check("sleep ends", start.elapsed() < Duration::from_secs(30));
    let waiting = Instant::now();
    while waiting.elapsed() < SHORT {
        std::hint::spin_loop();
    }
    check("who looks at the clock again and again sees it go on", true);
    let (first, second) = (Instant::now(), Instant::now());
    check("instants do not go back", second >= first);
    check("durations are not negative", first.duration_since(second + SHORT));
    check(
        "this is after 2020",
        SystemTime::now().duration_since(UNIX_EPOCH).map(|time| time.as_secs() > 1_577_836_800),
    );
    check("far instants", first.checked_add(Duration::MAX));
    sleep(Duration::ZERO);
    check("sleep of nothing ends", true);
}
