//! The channel between two images: one TCP connection, opened again whenever it breaks.
//!
//! The one with the argument `peer=PORT` opens it, to that port of its gateway, which is the host (`pollux up --allow-host`),
//! where the port 7001 of the other one is published.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};

use runtime::net::{self, TcpListener, TcpStream};
use runtime::sync::{mpsc, oneshot};
use runtime::time::{Duration, sleep};
use runtime::{env, spawn};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::text;

const PORT: u16 = 7001;
/// Messages on their way out; one that does not read breaks the connection.
pub const OUT_MESSAGES: usize = 1024;
/// Longest encoded message.
const MESSAGE_BYTES: usize = 32;
const RETRY: Duration = Duration::from_millis(20);
/// How often a node may decide something.
const TICK: Duration = Duration::from_millis(2);

/// What a node reacts to, in the order in which it happened.
pub enum Input<M> {
    /// There is a connection, the one with this number; what is sent goes here. The old one's messages are lost.
    Connected(u64, mpsc::Sender<M>),
    /// A message of the connection with that number.
    Message(u64, M),
    /// A while has passed.
    Tick,
    /// A cut with this number was saved, begun on the connection with that number; or why not.
    Saved(u64, Result<u64, String>),
    /// A command, and where its answer goes.
    Asked(String, oneshot::Sender<String>),
}

/// Whether this image opens the connection.
pub fn connects() -> bool {
    env::value("peer").is_some()
}

/// Opens connections for ever, and gives what they bring to the node.
pub async fn run<M: Serialize + DeserializeOwned + 'static>(inputs: mpsc::Sender<Input<M>>) -> Result<(), String> {
    let ticks = inputs.clone();
    spawn(async move {
        loop {
            sleep(TICK).await;
            // A node that is behind has enough to do.
            let _ = ticks.try_send(Input::Tick);
        }
    });
    let peer = env::value("peer").map(|port| port.parse::<u16>().map_err(text)).transpose()?;
    let listener = if peer.is_none() { Some(TcpListener::bind(PORT).map_err(text)?) } else { None };
    for connection in 1.. {
        let stream = match (&listener, peer) {
            (Some(listener), _) => listener.accept().await.map_err(text)?,
            (None, port) => connect(port.unwrap_or(PORT)).await,
        };
        let stream = Rc::new(stream);
        let (out, outbox) = mpsc::channel(OUT_MESSAGES);
        let writing = spawn(write(Rc::clone(&stream), outbox));
        if inputs.send(Input::Connected(connection, out)).await.is_err() {
            return Ok(());
        }
        read(&stream, connection, &inputs).await;
        writing.abort();
    }
    Ok(())
}

async fn connect(port: u16) -> TcpStream {
    loop {
        let gateway = net::gateway().unwrap_or(Ipv4Addr::UNSPECIFIED);
        match TcpStream::connect(SocketAddrV4::new(gateway, port)).await {
            Ok(stream) => return stream,
            // The other is not there, or not there yet.
            Err(_) => sleep(RETRY).await,
        }
    }
}

/// Writes messages, each behind a byte that says how long it is, until the connection breaks.
async fn write<M: Serialize>(stream: Rc<TcpStream>, mut outbox: mpsc::Receiver<M>) {
    let mut bytes = Vec::new();
    while let Some(message) = outbox.recv().await {
        bytes.clear();
        let mut next = Some(message);
        while let Some(message) = next {
            let mut place = [0; MESSAGE_BYTES];
            // Messages are a few numbers: none is longer.
            let Ok(encoded) = postcard::to_slice(&message, &mut place) else { return };
            bytes.push(encoded.len() as u8);
            bytes.extend_from_slice(encoded);
            next = outbox.try_recv();
        }
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Reads messages until the connection breaks, or brings something that is none.
async fn read<M: DeserializeOwned>(stream: &TcpStream, connection: u64, inputs: &mpsc::Sender<Input<M>>) {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
        }
        let mut rest = &bytes[..];
        while let Some((encoded, behind)) =
            rest.split_first().and_then(|(&length, rest)| rest.split_at_checked(usize::from(length)))
        {
            let Ok(message) = postcard::from_bytes(encoded) else { return };
            if inputs.send(Input::Message(connection, message)).await.is_err() {
                return;
            }
            rest = behind;
        }
        let left = rest.len();
        bytes.drain(..bytes.len() - left);
    }
}

/// Answers a command by the node.
pub async fn ask<M>(inputs: mpsc::Sender<Input<M>>, command: String) -> String {
    let (answer, answered) = oneshot::channel();
    if inputs.send(Input::Asked(command, answer)).await.is_err() {
        return "the node has ended".into();
    }
    answered.await.unwrap_or_else(|_| "the node has ended".into())
}
