//! Locks of files.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use crate::{check, done};

fn tried(result: Result<(), TryLockError>) -> &'static str {
    match result {
        Ok(()) => "locked",
        Err(TryLockError::WouldBlock) => "would block",
        Err(TryLockError::Error(_)) => "failed",
    }
}

pub fn run(folder: &Path) {
    let path = folder.join("lock");
    let one = File::create(&path).expect("made");
    let two = File::open(&path).expect("it is there");
    check("locked", done(one.lock()));
    check("by another", (tried(two.try_lock()), tried(two.try_lock_shared())));
    check("given up", done(one.unlock()));
    check("shared", (tried(one.try_lock_shared()), tried(two.try_lock_shared()), tried(two.try_lock())));
    check("alone", (done(one.unlock()), tried(two.try_lock())));
    drop(two);
    check("given up by closing", tried(one.try_lock()));
    let (send, receive) = mpsc::channel();
    let waiting = thread::spawn({
        let path = path.clone();
        move || {
            let file = File::open(path).expect("it is there");
            send.send("waits").expect("heard");
            file.lock().expect("locked in the end");
            send.send("has it").expect("heard");
        }
    });
    check("another", receive.recv());
    thread::yield_now();
    check("meanwhile", receive.try_recv());
    one.unlock().expect("unlocked");
    check("then", (receive.recv(), waiting.join().is_ok()));
    check("cleaned up", done(fs::remove_file(&path)));
}
