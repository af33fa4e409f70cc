//! A thousand random operations on a mirrored disk, with failovers and resyncs between: the mirrors are equal byte by byte, and
//! hold what a model in memory says. The files are read by `blockcheck`, which shares no code with those who write them.
//!
//! Run with `cargo test -p pollux-tests --test e2e_mirrors`. `POLLUX_E2E_MOMENTS=40` breaks the run in so many places,
//! `POLLUX_SEED` repeats one.

use pollux_tests::blocks::{Mirror, compare};
use pollux_tests::client::Client;
use pollux_tests::disks::{Files, connect};
use pollux_tests::guests::{ask, send};
use pollux_tests::pair::Pair;
use pollux_tests::sim::Rng;
use pollux_tests::status::Role;
use pollux_tests::workbench::{moments, seed};

/// Operations of a run, beside those that look at what is there.
const OPERATIONS: u64 = 1_000;
/// Blocks of the disk.
const BLOCKS: u64 = 2_048;
/// The longest operation. Longer ones than one transfer come in pieces.
const MAX_BLOCKS: u64 = 200;

/// A pair with a disk, its only client, and what must lie on the disk.
struct Bench {
    files: Files,
    pair: Pair,
    client: Client,
    generation: u64,
    seed: u64,
    rng: Rng,
    /// The version of each block; 0 is zeros.
    model: Vec<u64>,
    done: u64,
    failovers: u64,
    resyncs: u64,
}

impl Bench {
    fn new(seed: u64) -> Self {
        let files = Files::new("thousand");
        let mut pair = Pair::up(&files.options(",size=1M", &[]).alone());
        let client = connect(&mut pair);
        let model = vec![0; BLOCKS as usize];
        let rng = Rng::new(seed);
        Self { files, pair, client, generation: 1, seed, rng, model, done: 0, failovers: 0, resyncs: 0 }
    }

    /// The next operation, as the probe understands it. The model has done it already.
    fn draw(&mut self) -> String {
        self.done += 1;
        let version = self.done;
        let blocks = self.rng.between(1, MAX_BLOCKS);
        let first = self.rng.between(0, BLOCKS - blocks);
        let range = first as usize..(first + blocks) as usize;
        match self.rng.below(10) {
            0..6 => {
                self.model[range].fill(version);
                format!("disk data write {first} {blocks} {} {version}", self.seed)
            }
            6 => {
                self.model[range].fill(0);
                format!("disk data zero {first} {blocks}")
            }
            7 => {
                self.model[range].fill(0);
                format!("disk data discard {first} {blocks}")
            }
            _ => "disk data flush".to_owned(),
        }
    }

    fn operate(&mut self, operations: u64) {
        for _ in 0..operations.min(OPERATIONS.saturating_sub(self.done)) {
            let operation = self.draw();
            assert_eq!(ask(&mut self.client, &operation), "done", "operation {}: {operation}", self.done);
        }
        // What was written last is read, wherever it lies.
        let block = self.rng.below(BLOCKS);
        let version = self.model[block as usize];
        assert_eq!(ask(&mut self.client, &format!("disk data version {block}")), format!("version {version}"));
    }

    /// A replica is killed with an operation on its way; the connection and the operation survive it.
    fn kill(&mut self, role: Role) {
        let operation = self.draw();
        send(&mut self.client, &operation);
        self.pair.kill(role, "KILL");
        assert_eq!(self.client.line().expect("the connection stands"), "done", "{operation}");
        self.generation += 1;
        self.pair.wait_for_survivor(self.generation);
        self.failovers += 1;
    }

    /// A new replica's mirror is made equal while operations go on.
    fn rejoin(&mut self) {
        let mut rejoin = self.pair.command(&["rejoin", "--name", "e2e"]);
        rejoin.stdout(std::process::Stdio::null());
        let mut rejoin = rejoin.spawn().expect("the command starts");
        while rejoin.try_wait().expect("it can be asked").is_none() {
            self.operate(1);
        }
        assert!(rejoin.wait().expect("it has ended").success());
        self.generation += 1;
        self.pair.wait_for_pair(self.generation);
        self.resyncs += 1;
    }

    /// The pair is taken down, the stale mirror made anew if there is one, and both files are looked at. Returns the files.
    fn stop(self, resync: bool) -> (Files, Vec<u64>) {
        self.pair.down();
        if resync {
            let (code, text) = self.files.command("resync", &[]);
            assert_eq!(code, 0, "{text}");
        }
        let (code, text) = self.files.command("check", &[]);
        assert_eq!(code, 0, "{text}");
        let bytes = compare(&self.files.stem()).expect("equal byte by byte");
        assert_eq!(bytes, BLOCKS * 512);
        for replica in 0..2 {
            let mirror = Mirror::open(&self.files.stem(), replica).expect("it is there");
            for (block, &version) in (0..).zip(&self.model) {
                assert_eq!(mirror.version(self.seed, block), Ok(version), "replica {replica}, block {block}");
            }
        }
        (self.files, self.model)
    }

    /// As [`Self::stop`], and started again.
    fn restart(self, resync: bool) -> Self {
        let Self { seed, done, failovers, resyncs, .. } = self;
        let rng = self.rng.clone();
        let (files, model) = self.stop(resync);
        let mut pair = Pair::up(&files.options("", &[]).alone());
        let client = connect(&mut pair);
        let resyncs = resyncs + u64::from(resync);
        Self { files, pair, client, generation: 1, seed, rng, model, done, failovers, resyncs }
    }
}

#[test]
fn mirrors_are_byte_equal_after_a_thousand_random_operations_with_failovers_and_resyncs() {
    let mut bench = Bench::new(seed("a thousand operations"));
    let breaks = moments(12);
    for number in 0..breaks {
        let before = bench.rng.between(1, 2 * OPERATIONS / (3 * breaks + 1));
        bench.operate(before);
        match number % 4 {
            0 => {
                bench.kill(Role::Primary);
                bench.rejoin();
            }
            1 => {
                bench.kill(Role::Backup);
                let alone = bench.rng.below(20);
                bench.operate(alone);
                bench.rejoin();
            }
            // The survivor's mirror is the good one, whoever that is, and the other one is made anew while nobody uses them.
            2 => {
                bench.kill(Role::Primary);
                let alone = bench.rng.below(20);
                bench.operate(alone);
                bench = bench.restart(true);
            }
            _ => bench = bench.restart(false),
        }
    }
    bench.operate(OPERATIONS);
    let Bench { done, failovers, resyncs, .. } = bench;
    println!("{done} operations, {failovers} failovers, {resyncs} resyncs");
    assert!(done >= OPERATIONS && (breaks < 3 || (failovers > 1 && resyncs > 1)));
    bench.stop(false);
}
