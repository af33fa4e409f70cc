//! Commands, one a line.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;

use runtime::net::{Error, Lines, TcpListener, TcpStream};
use runtime::{println, spawn};

use super::text;

const PORT: u16 = 7000;
const LINE_BYTES: usize = 256;

/// Listens for commands for ever; `obey` answers one.
pub async fn serve<F>(obey: impl Fn(String) -> F + 'static) -> Result<(), String>
where
    F: Future<Output = String> + 'static,
{
    let (listener, obey) = (TcpListener::bind(PORT).map_err(text)?, Rc::new(obey));
    println!("checkpoints: ready on {}", listener.local_addr());
    loop {
        let stream = listener.accept().await.map_err(text)?;
        spawn(answer(stream, Rc::clone(&obey)));
    }
}

async fn answer<F: Future<Output = String>>(stream: TcpStream, obey: Rc<impl Fn(String) -> F>) -> Result<(), Error> {
    let mut lines = Lines::<LINE_BYTES>::new(&stream);
    while let Some(line) = lines.next().await? {
        let command = String::from_utf8_lossy(line).into_owned();
        let reply = format!("{}\n", obey(command).await);
        stream.write_all(reply.as_bytes()).await?;
    }
    Ok(())
}
