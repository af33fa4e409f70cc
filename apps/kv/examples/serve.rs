//! The store on an ordinary host, to try clients on: `cargo run --release -p kv --example serve -- 127.0.0.1:6380`.
//!
//! One thread a connection around one lock; the image has an executor instead.

use kv::{Config, Server, Session, TooManyClients};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

fn lock(server: &Mutex<Server>) -> MutexGuard<'_, Server> {
    server.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(server: &Mutex<Server>, mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let address = stream.peer_addr()?.to_string();
    let opened = Session::open(&mut lock(server), now_ms(), &address);
    let mut session = match opened {
        Ok(session) => session,
        Err(TooManyClients) => return stream.write_all(TooManyClients::REPLY),
    };
    let result = exchange(server, &mut stream, &mut session);
    session.close(&mut lock(server));
    result
}

fn exchange(server: &Mutex<Server>, stream: &mut TcpStream, session: &mut Session) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    while !session.wants_close() {
        let mut left = match stream.read(&mut buffer)? {
            0 => return Ok(()),
            len => &buffer[..len],
        };
        while !left.is_empty() && !session.wants_close() {
            let taken = session.feed(&mut lock(server), now_ms(), left);
            left = &left[taken..];
            stream.write_all(session.output())?;
            session.advance_output(session.output().len());
        }
    }
    Ok(())
}

fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:6380".into());
    let listener = TcpListener::bind(&address)?;
    println!("serving on {}", listener.local_addr()?);
    let server = Arc::new(Mutex::new(Server::new(Config::for_memory(1 << 30, 1, 2), now_ms())));
    for stream in listener.incoming() {
        let (server, stream) = (server.clone(), stream?);
        std::thread::spawn(move || serve(&server, stream));
    }
    Ok(())
}
