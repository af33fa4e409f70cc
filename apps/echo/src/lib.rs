//! The smallest useful Pollux program: a TCP echo server on port 7.
#![no_std]

use runtime::net::{Error, TcpListener, TcpStream};
use runtime::{println, spawn};

/// Accepts connections for ever and gives each a task of its own.
///
/// # Errors
/// When the port cannot be listened on.
pub async fn main() -> Result<(), Error> {
    let listener = TcpListener::bind(7)?;
    println!("echo: ready on {}", listener.local_addr());
    loop {
        spawn(echo(listener.accept().await?));
    }
}

/// Sends back what comes until the peer has said everything. A peer that breaks off has no use for an error message.
async fn echo(stream: TcpStream) -> Result<(), Error> {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            bytes => stream.write_all(&buffer[..bytes]).await?,
        }
    }
}
