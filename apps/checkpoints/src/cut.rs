//! Algorithm 4: coordinated checkpoints, a consistent cut over channels (Chandy and Lamport 1985).
//!
//! Processes hold tokens and send some to each other over channels that keep their order. One begins a cut: it records its
//! own state and sends a marker on every channel, before anything else. Who gets the first marker of a cut does the same. From
//! then on a process records what arrives on a channel until that channel's marker comes: it was sent before the sender's
//! state was recorded and arrived after the receiver's, so it is *in flight*. States and messages in flight together are a
//! state that the whole could have been in. Nobody stops meanwhile.
//!
//! A cut is of use when all processes have saved theirs; they tell each other, and the next one is begun only then. So
//! processes differ by one cut at most, and whoever keeps the last two has the one that all have. After a failure all
//! go back to it: to their states, and the messages in flight are received once more.

use alloc::vec;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// What processes send each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Tokens change hands.
    Tokens(u64),
    /// The sender has recorded its state of the cut with this number; what comes after it was sent later.
    Marker(u64),
    /// The sender has saved the cut with this number.
    Saved(u64),
}

/// One process's part of a cut.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Its number; 0 is the state at the very beginning.
    pub number: u64,
    /// Tokens that the process held.
    pub tokens: u64,
    /// Tokens that were on their way to it.
    pub in_flight: Vec<u64>,
}

/// A process with a channel from and to each of its peers.
#[derive(Clone, Debug)]
pub struct Process {
    /// Tokens that it holds.
    pub tokens: u64,
    /// The newest cut that it has saved, and that it has begun to record.
    newest: u64,
    begun: u64,
    /// The newest cut that each peer has said it has saved.
    saved_by: Vec<u64>,
    /// A cut that is being recorded, and from which peers its marker is still to come.
    recording: Option<(Cut, Vec<bool>)>,
}

impl Process {
    /// As a cut says that it was; what was in flight has arrived. All `peers` go back to the same one.
    pub fn recover(peers: usize, cut: &Cut) -> Self {
        let tokens = cut.tokens + cut.in_flight.iter().sum::<u64>();
        Self { tokens, newest: cut.number, begun: cut.number, saved_by: vec![cut.number; peers], recording: None }
    }

    /// Gives tokens away: the message for one of the peers. `None` when there are not as many.
    pub fn spend(&mut self, tokens: u64) -> Option<Message> {
        self.tokens = self.tokens.checked_sub(tokens)?;
        Some(Message::Tokens(tokens))
    }

    /// Begins a cut, if all have saved the one before: the marker to be sent to every peer at once. One process of all does
    /// this.
    pub fn begin(&mut self) -> Option<Message> {
        let ready = self.begun == self.newest && self.saved_by.iter().all(|&number| number >= self.newest);
        ready.then(|| self.record(self.newest + 1))
    }

    fn record(&mut self, number: u64) -> Message {
        self.begun = number;
        let cut = Cut { number, tokens: self.tokens, in_flight: Vec::new() };
        self.recording = Some((cut, vec![true; self.saved_by.len()]));
        Message::Marker(number)
    }

    /// Takes in a message of the peer `from`. Gives what is to be sent to every peer at once, and a cut whose recording is
    /// complete and that is to be saved.
    pub fn receive(&mut self, from: usize, message: Message) -> (Option<Message>, Option<Cut>) {
        let mut reply = None;
        match message {
            Message::Tokens(tokens) => {
                self.tokens += tokens;
                if let Some((cut, _)) = self.recording.as_mut().filter(|(_, open)| open[from]) {
                    cut.in_flight.push(tokens);
                }
            }
            Message::Saved(number) => self.saved_by[from] = number,
            Message::Marker(number) => {
                if number > self.begun {
                    reply = Some(self.record(number));
                }
                if let Some((_, open)) = self.recording.as_mut().filter(|(cut, _)| cut.number == number) {
                    open[from] = false;
                }
            }
        }
        let complete = self.recording.take_if(|(_, open)| !open.contains(&true)).map(|(cut, _)| cut);
        (reply, complete)
    }

    /// A cut has been saved: what is to be told every peer.
    pub fn saved(&mut self, number: u64) -> Message {
        self.newest = number;
        Message::Saved(number)
    }
}
