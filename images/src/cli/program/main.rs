//! Counts its visitors, and goes on counting when its machine dies: `cargo pollux kill primary`.
//!
//! A small HTTP server: each request that has no body, whatever it asks for, is answered with the number of requests so far.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

const PORT: u16 = 8080;

static VISITS: AtomicU64 = AtomicU64::new(0);

/// Answers a connection's requests, until its client closes it.
fn serve(mut stream: TcpStream) -> io::Result<()> {
    for line in BufReader::new(stream.try_clone()?).lines() {
        // A request ends with an empty line.
        if !line?.is_empty() {
            continue;
        }
        let body = format!("visit {}\n", VISITS.fetch_add(1, Ordering::Relaxed) + 1);
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes())?;
    }
    Ok(())
}

fn main() -> io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", PORT))?;
    println!("serving at port {PORT}");
    loop {
        let (stream, client) = listener.accept()?;
        let visit = move || serve(stream).unwrap_or_else(|error| eprintln!("{client}: {error}"));
        if let Err(error) = thread::Builder::new().spawn(visit) {
            eprintln!("{client} is turned away: {error}");
        }
    }
}
