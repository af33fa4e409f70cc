//! What the tests that talk to a real redis-server share.
#![allow(dead_code, reason = "each test file uses a part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A reply, parsed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reply {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Option<Vec<u8>>),
    Array(Option<Vec<Reply>>),
}

impl Reply {
    /// Reads one reply.
    pub fn read(from: &mut impl BufRead) -> Reply {
        let mut line = Vec::new();
        from.read_until(b'\n', &mut line).expect("a reply within the time limit");
        // Errors repeat what was sent, which may be any bytes: one char a byte keeps them apart.
        let line: String = line.into_iter().map(char::from).collect();
        let text = line.strip_suffix("\r\n").unwrap_or_else(|| panic!("a whole line, not {line:?}"));
        let (kind, rest) = text.split_at(1);
        let number = || rest.parse::<i64>().expect("a number");
        match kind {
            "+" => Reply::Simple(rest.into()),
            "-" => Reply::Error(rest.into()),
            ":" => Reply::Integer(number()),
            "$" if number() < 0 => Reply::Bulk(None),
            "$" => {
                let mut bytes = vec![0; number() as usize + 2];
                from.read_exact(&mut bytes).expect("a whole bulk string");
                assert_eq!(bytes.split_off(bytes.len() - 2), b"\r\n");
                Reply::Bulk(Some(bytes))
            }
            "*" if number() < 0 => Reply::Array(None),
            "*" => Reply::Array(Some((0..number()).map(|_| Reply::read(from)).collect())),
            other => panic!("unknown reply type {other}"),
        }
    }

    /// The bytes that `read` came from.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let line = |out: &mut Vec<u8>, kind: u8, text: &str| {
            out.push(kind);
            out.extend(text.chars().map(|c| c as u8));
            out.extend(b"\r\n");
        };
        match self {
            Reply::Simple(text) => line(out, b'+', text),
            Reply::Error(text) => line(out, b'-', text),
            Reply::Integer(number) => out.extend(format!(":{number}\r\n").bytes()),
            Reply::Bulk(None) => out.extend(b"$-1\r\n"),
            Reply::Bulk(Some(bytes)) => {
                out.extend(format!("${}\r\n", bytes.len()).bytes());
                out.extend(bytes);
                out.extend(b"\r\n");
            }
            Reply::Array(None) => out.extend(b"*-1\r\n"),
            Reply::Array(Some(items)) => {
                out.extend(format!("*{}\r\n", items.len()).bytes());
                items.iter().for_each(|item| item.encode(out));
            }
        }
    }

    /// The elements of an array; none for anything else.
    pub fn items(&self) -> &[Reply] {
        if let Reply::Array(Some(items)) = self { items } else { &[] }
    }

    /// The bytes of a bulk string.
    pub fn bytes(&self) -> &[u8] {
        if let Reply::Bulk(Some(bytes)) = self { bytes } else { &[] }
    }
}

/// A command as clients send it.
pub fn encode_command(args: &[Vec<u8>]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        out.extend(format!("${}\r\n", arg.len()).bytes());
        out.extend(arg);
        out.extend(b"\r\n");
    }
    out
}

/// The program that is a redis-server under that name.
const TWIN: &str = "redis-check-rdb";

/// Says that the test that runs cannot be run here, as `pollux_tests::workbench::skip` does.
fn skip(reason: &str) {
    let thread = std::thread::current();
    let line = format!("{}: {reason}", thread.name().unwrap_or("a test"));
    println!("SKIPPED {line}");
    if let Some(file) = std::env::var_os("POLLUX_SKIPS") {
        let file = std::fs::File::options().create(true).append(true).open(file);
        file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())).expect("a file for what is skipped");
    }
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "CI=true, and nothing may be skipped: {line}");
}

/// A redis-server of its own, without persistence, on a unix socket; it ends with this value.
pub struct Redis {
    child: Child,
    folder: PathBuf,
}

impl Redis {
    /// Starts one, or says why the test is skipped: it is not installed, or not the version whose behaviour this store
    /// follows.
    ///
    /// Server and `redis-check-rdb` are one program, which looks at the name that it was started by. Debian's package
    /// redis-server adds to redis-tools nothing but the other name, and a service that takes port 6379; so the name is
    /// made here.
    pub fn start() -> Option<Self> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let Some(program) = std::env::split_paths(&path).map(|folder| folder.join(TWIN)).find(|file| file.exists())
        else {
            skip("redis is not installed (Debian: redis-tools)");
            return None;
        };
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("kv-redis-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the socket");
        let server = folder.join("redis-server");
        std::os::unix::fs::symlink(program, &server).expect("a name for the server");
        let version = Command::new(&server).arg("--version").output().expect("redis-server starts");
        let version = String::from_utf8_lossy(&version.stdout).into_owned();
        if !version.contains("v=7.0.") {
            std::fs::remove_dir_all(&folder).expect("removed");
            skip(&format!("the wording of redis 7.0 is compared, but this is {}", version.trim()));
            return None;
        }
        let child = Command::new(server)
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--databases", "16", "--unixsocket"])
            .arg(folder.join("socket"))
            .arg("--dir")
            .arg(&folder)
            .stdout(Stdio::piped())
            .spawn()
            .expect("redis-server starts");
        let mut redis = Self { child, folder };
        let stdout = redis.child.stdout.take().expect("a pipe");
        let mut lines = BufReader::new(stdout).lines();
        let ready = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("ready to accept connections")));
        assert!(ready.is_some(), "redis-server ended before it was ready");
        // Its later messages must go somewhere; the reader ends with the process.
        std::thread::spawn(move || lines.for_each(drop));
        Some(redis)
    }

    /// A new connection.
    pub fn connect(&self) -> BufReader<UnixStream> {
        let stream = UnixStream::connect(self.folder.join("socket")).expect("redis-server accepts");
        stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).expect("a time limit");
        BufReader::new(stream)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // Both fail only if it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Sends a command and reads its reply.
pub fn ask(connection: &mut BufReader<UnixStream>, args: &[Vec<u8>]) -> Reply {
    connection.get_mut().write_all(&encode_command(args)).expect("the socket takes it");
    Reply::read(connection)
}

/// Sends bytes, says that no more come, and reads all that is answered.
pub fn ask_raw(connection: &mut BufReader<UnixStream>, bytes: &[u8]) -> Vec<u8> {
    // The server may hang up before it has taken all.
    let _ = connection.get_mut().write_all(bytes);
    let _ = connection.get_mut().shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    // What it left unread makes the end a reset instead of a close; the answer is in `answer` all the same.
    if let Err(error) = connection.read_to_end(&mut answer) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    answer
}
