//! Many lives of a mirrored disk, each ended somehow, with files that somebody swaps, removes or replaces by old copies in
//! between: whatever is used at the next start must hold everything that was flushed, and two mirrors the same.

use super::*;

/// Where the disk holds a version: a number that only grows.
const PLACE: u64 = HEADER_BYTES + 9 * 512;

/// A step of SplitMix64 (Steele, Lea, Flood 2014), below a bound.
fn draw(state: &mut u64, below: u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (word ^ (word >> 31)) % below
}

fn put(mirrors: &Mirrors, replica: usize, version: u64) {
    let file = &mirrors.each[replica].as_ref().expect("a mirror").file;
    file.write_all_at(&version.to_le_bytes(), PLACE).expect("written");
}

fn held(mirrors: &Mirrors, replica: usize) -> u64 {
    let mut bytes = [0; 8];
    let file = &mirrors.each[replica].as_ref().expect("a mirror").file;
    file.read_exact_at(&mut bytes, PLACE).expect("read");
    u64::from_le_bytes(bytes)
}

/// What came of many lives.
#[derive(Default)]
struct Outcome {
    refused: usize,
    swapped: usize,
    replaced: usize,
    left: usize,
}

struct Lives {
    folder: Folder,
    state: u64,
    /// The newest version that was written, and the newest that was flushed on every mirror in use.
    version: u64,
    flushed: u64,
    /// Whether a survivor's identity says that it goes on alone, as it must.
    raises: bool,
    outcome: Outcome,
}

impl Lives {
    /// Uses the disk once.
    ///
    /// # Errors
    /// What is wrong with what may be used.
    fn live(&mut self) -> Result<(), String> {
        let replicas = if draw(&mut self.state, 4) == 0 { 1 } else { 2 };
        let claimed = claim(&self.folder.spec(",size=1M"), "shop", replicas, ID);
        let mut mirrors = match claimed {
            Ok(mirrors) => mirrors,
            Err(DiskError::Stale { .. }) => {
                self.outcome.refused += 1;
                claim(&self.folder.spec(",resync"), "shop", replicas, ID).map_err(|error| error.to_string())?
            }
            Err(error) => return Err(error.to_string()),
        };
        for replica in 0..replicas {
            let found = held(&mirrors, replica);
            if found < self.flushed || found > self.version {
                return Err(format!(
                    "mirror {replica} of {replicas} holds {found}, not {}..={}",
                    self.flushed, self.version
                ));
            }
        }
        if replicas == 2 && held(&mirrors, 0) != held(&mirrors, 1) {
            return Err(format!("the mirrors hold {} and {}", held(&mirrors, 0), held(&mirrors, 1)));
        }
        // What the replicas have is what there is.
        self.version = held(&mirrors, 0);
        let mut users: Vec<usize> = (0..replicas).collect();
        self.work(&mirrors, &users);
        if replicas == 2 && draw(&mut self.state, 3) == 0 {
            self.outcome.left += 1;
            let survivor = users.remove(draw(&mut self.state, 2) as usize);
            users = vec![survivor];
            let mirror = mirrors.each[survivor].as_mut().expect("a mirror");
            mirror.identity.generation += u64::from(self.raises);
            mirror.write_identity().expect("written");
            self.work(&mirrors, &users);
        }
        let in_order = draw(&mut self.state, 2) == 0;
        if in_order {
            users.iter().for_each(|&user| put(&mirrors, user, self.version));
            self.flushed = self.version;
        }
        leave(mirrors, [0, 1].map(|replica| in_order && users.contains(&replica)));
        Ok(())
    }

    /// Writes, and flushes now and then. What is not flushed reaches each mirror or does not.
    fn work(&mut self, mirrors: &Mirrors, users: &[usize]) {
        for _ in 0..draw(&mut self.state, 6) {
            self.version += 1;
            let flushes = draw(&mut self.state, 2) == 0;
            for &user in users {
                if flushes || draw(&mut self.state, 2) == 0 {
                    put(mirrors, user, self.version);
                }
            }
            if flushes {
                self.flushed = self.version;
            }
        }
    }

    /// What happens to files that nobody uses.
    fn meddle(&mut self) {
        let path = |replica| self.folder.path(replica);
        let aside = self.folder.0.join("aside");
        let (zero, one) = (path(ReplicaId::ZERO), path(ReplicaId::ONE));
        if !zero.exists() || !one.exists() {
            return;
        }
        match draw(&mut self.state, 8) {
            0 => {
                let swap = || {
                    fs::rename(&zero, &aside).expect("renamed");
                    fs::rename(&one, &zero).expect("renamed");
                    fs::rename(&aside, &one).expect("renamed");
                };
                swap();
                assert!(refusal(&self.folder, ",resync", 2).contains("swapped"));
                swap();
                self.outcome.swapped += 1;
            }
            // A copy of the other mirror is still the other mirror.
            1 => {
                fs::copy(&one, &aside).expect("copied");
                fs::copy(&zero, &one).expect("copied");
                assert!(refusal(&self.folder, ",resync", 2).contains("swapped"));
                fs::rename(&aside, &one).expect("renamed");
                self.outcome.swapped += 1;
            }
            // A copy from before comes back.
            2 => {
                fs::copy(&one, &aside).expect("copied");
                let before = (self.version, self.flushed);
                self.live().expect("nothing was meddled with yet");
                if before != (self.version, self.flushed) && self.folder.path(ReplicaId::ZERO).exists() {
                    self.put_back(&aside);
                }
            }
            _ => {}
        }
    }

    /// Puts a copy of mirror 1 back that was made before the last life, unless that is the only good one.
    fn put_back(&mut self, copy: &Path) {
        let freshest = Mirrors::open(&self.folder.0.join("d")).expect("both are there").freshest();
        if freshest == Some(ReplicaId::ZERO) {
            fs::copy(copy, self.folder.path(ReplicaId::ONE)).expect("copied");
            self.outcome.replaced += 1;
        }
    }
}

fn lives(seed: u64, raises: bool) -> Result<Outcome, String> {
    let folder = Folder::new(&format!("lives-{seed}-{raises}"));
    made(&folder);
    let mut lives = Lives { folder, state: seed, version: 0, flushed: 0, raises, outcome: Outcome::default() };
    for life in 0..20 {
        lives.live().map_err(|text| format!("seed {seed}, life {life}: {text}"))?;
        lives.meddle();
    }
    Ok(lives.outcome)
}

#[test]
fn whatever_happens_to_mirrors_none_is_used_that_lacks_what_was_flushed() {
    let mut all = Outcome::default();
    for seed in 0..60 {
        let outcome = lives(seed, true).unwrap_or_else(|text| panic!("{text}"));
        all.refused += outcome.refused;
        all.swapped += outcome.swapped;
        all.replaced += outcome.replaced;
        all.left += outcome.left;
    }
    let took_place = [all.refused, all.swapped, all.replaced, all.left];
    assert!(took_place.iter().all(|&count| count > 10), "{took_place:?}");
}

#[test]
fn a_survivor_that_did_not_say_so_would_be_found_out() {
    let found = (0..60).find_map(|seed| {
        std::panic::catch_unwind(|| lives(seed, false))
            .map_or_else(|_| Some("a refusal that should not be".to_owned()), Result::err)
    });
    println!("{}", found.expect("no seed has noticed"));
}
