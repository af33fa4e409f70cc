//! A client program for a [`Peer`](super::peer::Peer): connections that each say something and hear the answer out.

use std::net::SocketAddrV4;
use std::vec::Vec;

use netstack::{ConnId, Error, Stack};

use super::peer::{Driver, Step};

/// One connection: everything is sent, and what comes is collected to its end.
#[derive(Debug)]
pub struct Dialogue {
    /// Whether the stream is closed towards the guest once everything is sent.
    pub finishes: bool,
    /// It begins when all dialogues of lower phases have ended.
    pub phase: u8,
    /// What is sent.
    pub said: Vec<u8>,
    /// What has come so far.
    pub heard: Vec<u8>,
    /// How the connection ended: `Ok` for the end of the peer's stream.
    pub end: Option<Result<(), Error>>,
    sent: usize,
    id: Option<ConnId>,
}

impl Dialogue {
    /// A connection that says this and then finishes.
    pub fn new(said: impl Into<Vec<u8>>) -> Self {
        Self { finishes: true, phase: 0, said: said.into(), heard: Vec::new(), end: None, sent: 0, id: None }
    }

    /// The same, begun when all dialogues of lower phases have ended.
    #[must_use]
    pub fn in_phase(self, phase: u8) -> Self {
        Self { phase, ..self }
    }

    /// A connection that says this and leaves it to the guest to finish.
    pub fn lingering(said: impl Into<Vec<u8>>) -> Self {
        Self { finishes: false, ..Self::new(said) }
    }

    fn go_on(&mut self, remote: SocketAddrV4, stack: &mut Stack) -> Result<bool, Error> {
        let id = match self.id {
            Some(id) => id,
            None => *self.id.insert(stack.connect(remote)?),
        };
        match stack.send(id, self.said.get(self.sent..).unwrap_or_default()) {
            Ok(sent) => self.sent += sent,
            Err(Error::WouldBlock | Error::Shutdown) => {}
            Err(error) => return Err(error),
        }
        if self.finishes && self.sent == self.said.len() && stack.may_send(id) {
            stack.shutdown(id)?;
        }
        loop {
            let read = stack.recv_with(id, |data| {
                self.heard.extend_from_slice(data);
                (data.len(), ())
            });
            match read {
                Ok(()) => {}
                Err(Error::WouldBlock) => return Ok(false),
                Err(Error::Finished) => return stack.close(id).map(|()| true),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Holds dialogues, all at once, and stops the machine when all have ended.
#[derive(Debug)]
pub struct Dialogues {
    /// Whom to talk to.
    pub remote: SocketAddrV4,
    /// The connections, in the order in which they are opened.
    pub all: Vec<Dialogue>,
}

impl Driver for Dialogues {
    fn step(&mut self, stack: &mut Stack, _now_ns: u64) -> Step {
        let phase = self.all.iter().filter(|dialogue| dialogue.end.is_none()).map(|dialogue| dialogue.phase).min();
        let Some(phase) = phase else { return Step::Done };
        for dialogue in self.all.iter_mut().filter(|dialogue| dialogue.end.is_none() && dialogue.phase == phase) {
            dialogue.end = match dialogue.go_on(self.remote, stack) {
                Ok(true) => Some(Ok(())),
                Ok(false) => None,
                Err(error) => Some(Err(error)),
            };
        }
        if self.all.iter().all(|dialogue| dialogue.end.is_some()) { Step::Done } else { Step::Until(u64::MAX) }
    }
}
