//! Algorithm 5: message logging with independent checkpoints (pessimistic, by the receiver; Elnozahy et al. 2002).
//!
//! A process is *piecewise deterministic*: its state follows from its first state and the order of events, which are the
//! messages that it has received and what it has decided by itself. Each event is written to a stable log before anything
//! that follows from it leaves. A process that fails goes back to its own newest checkpoint, taken whenever it liked, and
//! replays the log from there: it is then as it was, and has sent what it had sent. Nobody else goes back, so there is no
//! domino effect.
//!
//! What was on a channel when it broke is lost. So messages are numbered, and kept by the sender until the receiver has
//! logged them. On a new channel each says how many it has, and the other sends the rest again; what comes twice is dropped.

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// What processes send each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Message number so much of its sender to its receiver, from 0: tokens change hands.
    Tokens(u64, u64),
    /// The sender has logged so many messages of the receiver.
    Logged(u64),
}

/// What happens to a process; logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// Tokens came from this peer.
    Received(u32, u64),
    /// It was decided to give this peer tokens.
    Spent(u32, u64),
}

/// The state of a process: a function of its events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Tokens that it holds.
    pub tokens: u64,
    /// Events so far: the next one has this number.
    pub events: u64,
    /// Messages received from each peer.
    pub received: Vec<u64>,
    /// Messages to each peer that it is not known to have logged; the last has the number `sent - 1`.
    kept: Vec<VecDeque<u64>>,
    sent: Vec<u64>,
}

impl Process {
    /// With so many tokens and peers, before any event.
    pub fn new(tokens: u64, peers: usize) -> Self {
        let (none, kept) = (vec![0; peers], vec![VecDeque::new(); peers]);
        Self { tokens, events: 0, received: none.clone(), kept, sent: none }
    }

    /// As it was: from a checkpoint and the numbered events of the log, of which older ones may be left.
    pub fn recover(mut checkpoint: Self, log: impl IntoIterator<Item = (u64, Event)>) -> Self {
        for (number, event) in log {
            if number == checkpoint.events {
                checkpoint.apply(event);
            }
        }
        checkpoint
    }

    /// Lets an event happen; nobody spends more than he has. It is to be logged with the number that
    /// [`events`](Self::events) was before, and what it sends, to the peer that it names, may leave when that is stable.
    pub fn apply(&mut self, event: Event) -> Option<Message> {
        self.events += 1;
        match event {
            Event::Received(from, tokens) => {
                self.tokens += tokens;
                self.received[from as usize] += 1;
                None
            }
            Event::Spent(to, tokens) => {
                let to = to as usize;
                self.tokens -= tokens;
                self.kept[to].push_back(tokens);
                self.sent[to] += 1;
                Some(Message::Tokens(self.sent[to] - 1, tokens))
            }
        }
    }

    /// The event that a message of the peer `from` is, if it is the next one: what comes twice, or after a gap, is none.
    pub fn event_of(&self, from: usize, number: u64, tokens: u64) -> Option<Event> {
        (number == self.received[from]).then_some(Event::Received(from as u32, tokens))
    }

    /// The peer `by` has logged so many messages: they need not be kept. No event, because nothing follows from it.
    pub fn logged(&mut self, by: usize, number: u64) {
        let kept = &mut self.kept[by];
        let first = self.sent[by] - kept.len() as u64;
        kept.drain(..kept.len().min(number.saturating_sub(first) as usize));
    }

    /// Messages that the peer may not have, for a new channel.
    pub fn again(&self, to: usize) -> impl Iterator<Item = Message> {
        let first = self.sent[to] - self.kept[to].len() as u64;
        (first..).zip(self.kept[to].iter()).map(|(number, &tokens)| Message::Tokens(number, tokens))
    }
}
