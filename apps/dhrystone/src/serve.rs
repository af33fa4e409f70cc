//! The benchmark on request: one command a line over TCP.

use alloc::format;
use alloc::string::{String, ToString};

use runtime::net::{Error, Lines, TcpListener, TcpStream};
use runtime::{println, spawn};

use crate::measure::measure;
use crate::settings::runs;

/// The port that commands are taken on.
const PORT: u16 = 7000;
/// Longest command; a peer that sends a longer one is left.
const LINE_BYTES: usize = 64;

/// Takes commands for ever.
pub(crate) async fn serve(yield_after: Option<i32>) -> Result<i32, Error> {
    let listener = TcpListener::bind(PORT)?;
    println!("dhrystone: ready on {}", listener.local_addr());
    loop {
        spawn(converse(listener.accept().await?, yield_after));
    }
}

/// Takes commands from one connection until its end.
async fn converse(stream: TcpStream, yield_after: Option<i32>) -> Result<(), Error> {
    let mut lines = Lines::<LINE_BYTES>::new(&stream);
    while let Some(line) = lines.next().await? {
        let answer = obey(str::from_utf8(line).unwrap_or_default(), yield_after).await;
        stream.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

/// Carries out `run N`.
async fn obey(command: &str, yield_after: Option<i32>) -> String {
    match command.trim_ascii_end().strip_prefix("run ").and_then(runs) {
        Some(runs) => measure(runs, yield_after).await.to_string(),
        None => format!("dhrystone: `{}`: expected run N\n", command.escape_debug()),
    }
}
