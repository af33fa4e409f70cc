//! Conversations that the guest begins.

use alloc::format;
use core::net::{AddrParseError, SocketAddrV4};

use runtime::net::{Error, Lines, TcpStream, UdpSocket};

use crate::LINE_BYTES;

/// Where somebody is to be found, as far as the command said so.
type Place = Result<SocketAddrV4, AddrParseError>;

/// Connects and passes on each line that comes from `client`, and to it the line that answers it, until one of the two
/// ends.
pub async fn connect(place: Place, client: &TcpStream, questions: &mut Lines<'_, LINE_BYTES>) -> Result<(), Error> {
    let peer = match place {
        Ok(place) => TcpStream::connect(place).await,
        Err(error) => return client.write_all(format!("{error}\n").as_bytes()).await,
    };
    let peer = match peer {
        Ok(peer) => peer,
        Err(error) => return client.write_all(format!("{error}\n").as_bytes()).await,
    };
    client.write_all(b"connected\n").await?;
    let mut answers = Lines::<LINE_BYTES>::new(&peer);
    while let Some(question) = questions.next().await? {
        peer.write_all(question).await?;
        peer.write_all(b"\n").await?;
        let Some(answer) = answers.next().await? else { break };
        client.write_all(answer).await?;
        client.write_all(b"\n").await?;
    }
    Ok(())
}

/// Sends each line that comes from `client` as a datagram and answers with the datagram that comes back. One that is
/// lost is not sent again: the network between a guest and its host loses none, and that is what is tested.
pub async fn datagrams(place: Place, client: &TcpStream, questions: &mut Lines<'_, LINE_BYTES>) -> Result<(), Error> {
    let place = match place {
        Ok(place) => place,
        Err(error) => return client.write_all(format!("{error}\n").as_bytes()).await,
    };
    let socket = UdpSocket::bind(0)?;
    client.write_all(b"bound\n").await?;
    let mut answer = [0; LINE_BYTES];
    while let Some(question) = questions.next().await? {
        socket.send_to(question, place).await?;
        let (bytes, from) = socket.recv_from(&mut answer).await?;
        let answer = str::from_utf8(&answer[..bytes]).unwrap_or_default();
        client.write_all(format!("{from} {answer}\n").as_bytes()).await?;
    }
    Ok(())
}
