//! Algorithm 5 as a node runs it, without its input and output: what is to be logged before what may be sent.

use alloc::vec;
use alloc::vec::Vec;

use crate::log::{Event, Message, Process};

/// Something that a node sends: to which peer, on which of the channels that it has had to that peer, what.
pub type Output = (usize, u64, Message);

/// A process with its channels. The first message on a channel is [`Message::Logged`]: how much the sender has.
#[derive(Clone, Debug)]
pub struct Node {
    process: Process,
    /// Channels to each peer so far.
    channels: Vec<u64>,
    /// The peer has said what it has, so that it can be sent what comes next.
    ready: Vec<bool>,
    /// Events that are not logged yet, by their numbers.
    records: Vec<(u64, Event)>,
    outputs: Vec<Output>,
}

impl Node {
    /// A node that goes on from this state, which is stable.
    pub fn new(process: Process) -> Self {
        let peers = process.received.len();
        let (channels, ready) = (vec![0; peers], vec![false; peers]);
        Self { process, channels, ready, records: Vec::new(), outputs: Vec::new() }
    }

    /// Its state. Not all of it need be logged yet.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// There is a new channel to and from a peer; its number. What was to be sent on the old one is lost.
    pub fn connected(&mut self, peer: usize) -> u64 {
        self.channels[peer] += 1;
        self.ready[peer] = false;
        self.send(peer, Message::Logged(self.process.received[peer]));
        self.channels[peer]
    }

    /// A message has come on the newest channel from a peer.
    pub fn receive(&mut self, from: usize, message: Message) {
        match message {
            Message::Logged(number) => {
                self.process.logged(from, number);
                if !core::mem::replace(&mut self.ready[from], true) {
                    let again: Vec<_> = self.process.again(from).collect();
                    again.into_iter().for_each(|message| self.send(from, message));
                }
            }
            Message::Tokens(number, tokens) => {
                if let Some(event) = self.process.event_of(from, number, tokens) {
                    self.happen(event);
                }
                self.send(from, Message::Logged(self.process.received[from]));
            }
        }
    }

    /// Gives tokens to a peer, if there are as many. Returns whether there are.
    pub fn spend(&mut self, to: usize, tokens: u64) -> bool {
        let enough = tokens <= self.process.tokens;
        if enough && let Some(message) = self.happen(Event::Spent(to as u32, tokens)).filter(|_| self.ready[to]) {
            // Otherwise it is sent when the peer has said what it has.
            self.send(to, message);
        }
        enough
    }

    fn happen(&mut self, event: Event) -> Option<Message> {
        self.records.push((self.process.events, event));
        self.process.apply(event)
    }

    fn send(&mut self, to: usize, message: Message) {
        self.outputs.push((to, self.channels[to], message));
    }

    /// Events to be logged, and then what is to be sent. An output whose channel is not the newest to its peer is to be
    /// dropped.
    pub fn take(&mut self) -> (Vec<(u64, Event)>, Vec<Output>) {
        (core::mem::take(&mut self.records), core::mem::take(&mut self.outputs))
    }
}
