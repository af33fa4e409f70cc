//! What the `std` for hermit itself refuses, without asking anybody, though `std` for Linux has it; and what it can ask only
//! where the network is known.

use std::fs::{self, File, FileTimes};
use std::io;
use std::net::{TcpListener, ToSocketAddrs, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::{env, thread};

/// Prints a line, of an error its number, or its kind if it has none.
fn told<T>(what: &str, result: io::Result<T>) {
    let result = result.map(drop).map_err(|error| match error.raw_os_error() {
        Some(number) => format!("error {number}"),
        None => format!("{:?}", error.kind()),
    });
    println!("hermit: {what}: {}", result.err().unwrap_or_else(|| "done".to_owned()));
}

pub fn run(folder: &Path) {
    let path = folder.join("file");
    let file = File::create(&path).expect("made");
    told("sync_all", file.sync_all());
    told("sync_data", file.sync_data());
    // SAFETY: the descriptor is open.
    println!("hermit: fsync of hermit-abi: {}", unsafe { hermit_abi::fsync(file.as_raw_fd()) });
    told("set_len", file.set_len(1));
    told("File::try_clone", file.try_clone());
    told("File::lock", file.lock());
    told("set_modified", file.set_times(FileTimes::new()));
    told("set_permissions", fs::metadata(&path).and_then(|found| fs::set_permissions(&path, found.permissions())));
    told("rename", fs::rename(&path, folder.join("other")));
    told("hard_link", fs::hard_link(&path, folder.join("other")));
    told("read_link", fs::read_link(&path));
    told("canonicalize", fs::canonicalize(&path));
    told("remove_dir_all", fs::remove_dir_all(folder.join("none")));
    told("copy", fs::copy(&path, folder.join("copy")));
    let empty = folder.join("empty");
    fs::create_dir(&empty).expect("made");
    told("read_dir of an empty directory", fs::read_dir(&empty));
    told("set_current_dir", env::set_current_dir(&empty));
    told("current_exe", env::current_exe());
    told("pipe", io::pipe());
    for removed in [path, folder.join("copy")] {
        fs::remove_file(removed).expect("removed");
    }
    fs::remove_dir(&empty).expect("removed");
    // What it leaves to the system, which has no such thing.
    told("an address of IPv6", TcpListener::bind("[::1]:0"));
    let socket = UdpSocket::bind(("127.0.0.1", 0)).expect("a port");
    told("multicast", socket.join_multicast_v4(&[224, 0, 0, 9].into(), &[0; 4].into()));
    // By a server of the operator's.
    for name in ["www.example.org", "nobody.example.org"] {
        let found = thread::spawn(move || (name, 80).to_socket_addrs().map(Iterator::collect::<Vec<_>>));
        println!("hermit: {name}: {:?}", found.join().unwrap().ok());
    }
    println!("hermit: the last error: {}", io::Error::last_os_error().raw_os_error().is_some());
}
