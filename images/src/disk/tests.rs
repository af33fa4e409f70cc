use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};

use super::mirror::{Mirrors, claim};
use super::*;

mod lives;

/// A folder that is removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("pollux-disk-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn spec(&self, options: &str) -> DiskSpec {
        format!("data={}{options}", self.0.join("d").display()).parse().expect("a disk")
    }

    fn path(&self, replica: ReplicaId) -> PathBuf {
        mirror_path(&self.0.join("d"), replica)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const ID: [u8; 16] = [7; 16];

/// Makes a pair's mirrors, of 1 MiB, left in good order.
fn made(folder: &Folder) {
    leave(claim(&folder.spec(",size=1M"), "shop", 2, ID).expect("new mirrors"), [true, true]);
}

/// Ends a run: those that are told so in good order.
fn leave(mut mirrors: Mirrors, clean: [bool; 2]) {
    for (mirror, clean) in mirrors.each.iter_mut().zip(clean) {
        if let Some(mirror) = mirror {
            mirror.identity.clean = clean;
            mirror.write_identity().expect("written");
        }
    }
}

fn write(folder: &Folder, replica: ReplicaId, block: u64, byte: u8) {
    let file = fs::File::options().write(true).open(folder.path(replica)).expect("it is there");
    file.write_all_at(&[byte; 512], HEADER_BYTES + block * 512).expect("written");
}

/// Blank is a disk without a single byte that is not zero, wherever it would lie, whatever room it takes on the host.
#[test]
fn a_disk_is_blank_until_a_single_byte_is_written() {
    let folder = Folder::new("blank");
    made(&folder);
    let is_blank = || {
        let mirrors = Mirrors::open(&folder.0.join("d")).expect("they are there");
        [0, 1].map(|at: usize| copy::is_blank(mirrors.each[at].as_ref().expect("there")).expect("read"))
    };
    assert_eq!(is_blank(), [true, true], "a new one");
    for block in [0, 1000, 2047] {
        write(&folder, ReplicaId::ZERO, block, 0);
        assert_eq!(is_blank(), [true, true], "zeros were written to block {block}");
        write(&folder, ReplicaId::ONE, block, 1);
        assert_eq!(is_blank(), [true, false], "block {block}");
        write(&folder, ReplicaId::ONE, block, 0);
    }
}

fn refusal(folder: &Folder, options: &str, replicas: usize) -> String {
    claim(&folder.spec(options), "shop", replicas, ID).expect_err("it must be refused").to_string()
}

#[test]
fn disks_are_read() {
    let parse = |text: &str| text.parse::<DiskSpec>();
    let spec = parse("data=/x/d,mirrored,size=64M,resync").expect("a disk");
    assert_eq!((spec.name.as_str(), spec.size_bytes, spec.resync), ("data", Some(64 << 20), true));
    assert_eq!(mirror_path(&spec.stem, ReplicaId::ONE), PathBuf::from("/x/d.1"));
    for wrong in [
        "",
        "data",
        "=d",
        "data=",
        "Data=d",
        "a-name-of-more-than-twenty=d",
        "data=d,size=0",
        "data=d,size=4097",
        "data=d,size=99999T",
        "data=d,size=M",
        "data=d,shared,mirrored",
        "data=d,mirrored,shared",
        "data=d,shared,resync",
    ] {
        assert!(parse(wrong).is_err(), "{wrong:?} passes");
    }
    assert_eq!("1:data:write:9".parse::<DiskFault>().map(|fault| fault.errno), Ok(5));
    for wrong in ["2:data:write:9", "1:data:erase:9", "1:data:write", "1:data:write:x"] {
        assert!(wrong.parse::<DiskFault>().is_err(), "{wrong:?} passes");
    }
}

#[test]
fn a_shared_disk_is_one_file_of_one_pair() {
    let folder = Folder::new("shared");
    let claim = |options: &str, pair| shared::claim(&folder.spec(options), pair, ID);
    let refused = |options: &str, pair| claim(options, pair).expect_err("it must be refused").to_string();
    assert!(refused(",shared", "shop").contains("add size="));
    let disk = claim(",shared,size=1M", "shop").expect("a new disk");
    assert_eq!((disk.identity.kind, disk.identity.generation, disk.identity.clean), (Kind::Shared, 1, false));
    let spec = folder.spec(",shared");
    assert_eq!([spec.path(ReplicaId::ZERO), spec.path(ReplicaId::ONE)], [spec.stem.clone(), spec.stem]);
    assert!(refused(",shared", "shop").contains("in use"));
    // Whoever has inherited the lock still has it when the one who took it is gone.
    let inherited = disk.file.try_clone().expect("a descriptor");
    drop(disk);
    assert!(refused(",shared", "shop").contains("in use"));
    drop(inherited);
    assert!(refused(",shared", "other").contains("one of pair shop"));
    assert!(refused(",shared,size=2M", "shop").contains("not of 2097152"));
    assert!(refusal(&folder, ",size=1M", 2).contains("is a shared disk, not a mirror"));
    assert_eq!(claim(",shared,size=1M", "shop").expect("the same").identity.generation, 2);
    // Renamed to what a mirror is called, it is still none.
    fs::rename(folder.0.join("d"), folder.path(ReplicaId::ZERO)).expect("renamed");
    assert!(refusal(&folder, "", 2).contains("is a shared disk, not a mirror"));
}

#[test]
fn a_mirror_is_no_shared_disk() {
    let folder = Folder::new("no-shared");
    made(&folder);
    let refused =
        |options: &str| shared::claim(&folder.spec(options), "shop", ID).expect_err("it must be refused").to_string();
    assert!(refused(",shared,size=1M").contains("is a mirror of a disk of that name"));
    fs::rename(folder.path(ReplicaId::ONE), folder.0.join("d")).expect("renamed");
    assert!(refused(",shared").contains("is replica 1's mirror of a disk, not a shared disk"));
}

#[test]
fn new_mirrors_take_no_room_and_are_claimed() {
    let folder = Folder::new("new");
    assert!(refusal(&folder, "", 2).contains("add size="));
    let mirrors = claim(&folder.spec(",size=64M"), "shop", 2, ID).expect("new mirrors");
    for replica in [ReplicaId::ZERO, ReplicaId::ONE] {
        let metadata = fs::metadata(folder.path(replica)).expect("it is there");
        assert_eq!(metadata.len(), HEADER_BYTES + (64 << 20));
        assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks", metadata.blocks());
        let identity = &mirrors.each[replica.index()].as_ref().expect("a mirror").identity;
        assert_eq!((identity.generation, identity.clean, identity.replica), (1, false, replica));
    }
    assert!(refusal(&folder, "", 2).contains("in use"));
}

#[test]
fn what_does_not_belong_is_refused() {
    let folder = Folder::new("foreign");
    made(&folder);
    assert!(refusal(&folder, ",size=2M", 2).contains("not of 2097152"));
    let elsewhere = claim(&folder.spec(""), "other", 2, ID).expect_err("another pair's").to_string();
    assert!(elsewhere.contains("one of pair shop"), "{elsewhere}");
    let (zero, one) = (folder.path(ReplicaId::ZERO), folder.path(ReplicaId::ONE));
    // Swapped.
    let aside = folder.0.join("aside");
    fs::rename(&zero, &aside)
        .and_then(|()| fs::rename(&one, &zero))
        .and_then(|()| fs::rename(&aside, &one))
        .expect("ok");
    assert!(refusal(&folder, "", 2).contains("swapped"));
    fs::rename(&zero, &aside)
        .and_then(|()| fs::rename(&one, &zero))
        .and_then(|()| fs::rename(&aside, &one))
        .expect("ok");
    // Of another disk of the same name.
    let other = Folder::new("foreign-other");
    leave(claim(&other.spec(",size=1M"), "shop", 2, [8; 16]).expect("new mirrors"), [true, true]);
    fs::rename(&one, &aside).and_then(|()| fs::copy(other.path(ReplicaId::ONE), &one)).expect("copied");
    assert!(refusal(&folder, "", 2).contains("another disk"));
    // No disk at all, or cut short.
    fs::write(&one, vec![1; 8192]).expect("written");
    assert!(refusal(&folder, "", 2).contains("somebody else's"));
    fs::copy(&aside, &one).expect("copied");
    fs::File::options().write(true).open(&one).and_then(|file| file.set_len(10_000)).expect("cut");
    assert!(refusal(&folder, "", 2).contains("of 5904 bytes"));
    fs::copy(&aside, &one).expect("copied");
    claim(&folder.spec(""), "shop", 2, ID).expect("good again");
}

#[test]
fn a_mirror_that_was_left_behind_is_stale_until_it_is_made_anew() {
    let folder = Folder::new("stale");
    made(&folder);
    // Replica 0 leaves, replica 1 goes on and writes.
    let mut mirrors = claim(&folder.spec(""), "shop", 2, ID).expect("equal mirrors");
    let survivor = mirrors.each[1].as_mut().expect("a mirror");
    survivor.identity.generation += 1;
    survivor.write_identity().expect("written");
    leave(mirrors, [false, true]);
    write(&folder, ReplicaId::ONE, 5, 0xab);
    assert!(refusal(&folder, "", 2).contains("d.0 is stale"));
    assert!(refusal(&folder, "", 1).contains("d.0 is stale"), "not even alone");
    let mirrors = claim(&folder.spec(",resync"), "shop", 2, ID).expect("made anew");
    assert_eq!(copy::compare(&mirrors, |_, _| {}).expect("both are there").differing_blocks, 0);
    let mut block = [0; 512];
    mirrors.each[0].as_ref().expect("a mirror").file.read_exact_at(&mut block, HEADER_BYTES + 5 * 512).expect("read");
    assert_eq!(block, [0xab; 512]);
}

#[test]
fn mirrors_that_were_not_left_in_order_are_not_taken_for_equal() {
    let folder = Folder::new("unclean");
    made(&folder);
    leave(claim(&folder.spec(""), "shop", 2, ID).expect("equal mirrors"), [false, false]);
    write(&folder, ReplicaId::ONE, 2047, 1);
    write(&folder, ReplicaId::ZERO, 9, 2);
    assert!(refusal(&folder, "", 2).contains("d.1 may differ"));
    // Alone there is nothing to differ from, and the other is behind from then on.
    let mut mirrors = Mirrors::open(&folder.0.join("d")).expect("both are there");
    let found = copy::compare(&mirrors, |_, _| {}).expect("both are there");
    assert_eq!((found.differing_blocks, found.first_difference), (2, Some(9)));
    copy::resync(&mut mirrors, ReplicaId::ZERO, |_, _| {}).expect("made anew");
    assert_eq!(copy::compare(&mirrors, |_, _| {}).expect("both are there").differing_blocks, 0);
    drop(mirrors);
    leave(claim(&folder.spec(""), "shop", 1, ID).expect("alone"), [true, false]);
    assert!(refusal(&folder, "", 2).contains("d.1 is stale"));
}

#[test]
fn a_missing_mirror_is_made_anew_on_request_only() {
    let folder = Folder::new("missing");
    made(&folder);
    write(&folder, ReplicaId::ONE, 0, 9);
    fs::remove_file(folder.path(ReplicaId::ZERO)).expect("removed");
    assert!(refusal(&folder, "", 2).contains("d.0 is missing"));
    let mirrors = claim(&folder.spec(",resync"), "shop", 2, ID).expect("made anew");
    assert_eq!(copy::compare(&mirrors, |_, _| {}).expect("both are there").differing_blocks, 0);
}
