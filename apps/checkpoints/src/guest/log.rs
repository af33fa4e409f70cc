//! Algorithm 5 between two images. Arguments as for algorithm 4, and `every`: events from one checkpoint to the next.
//!
//! One half of the disk has checkpoints, the other the log. What was decided and received in a round is logged with one
//! flush, and then what follows from it is sent.
//!
//! | command | answer |
//! |---|---|
//! | `state` | `tokens N events N kept N replayed N checkpoints N connections N`; kept: messages that the other may not have logged |
//! | `pause`, `resume` | no more tokens are sent; again |

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use recordstore::{Batch, Options, Store};
use runtime::checkpoint::{Archive, Checkpoints, Target, Value};
use runtime::random::{self, Rng};
use runtime::sync::mpsc;
use runtime::{println, spawn};

use super::disk::Part;
use super::link::{self, Input};
use super::{control, number, text};
use crate::log::{Event, Message, Process};
use crate::node::{Node as Channels, Output};

const NAME: &str = "process";
const INPUTS: usize = 256;
/// There is one peer.
const PEER: usize = 0;

struct Node {
    channels: Channels,
    checkpoints: Checkpoints,
    saved: Value<Process>,
    archive: Archive<Part>,
    log: Store<Part>,
    batch: Batch,
    /// Events from one checkpoint to the next, and at which the last was taken.
    every: u64,
    taken_at: u64,
    taken: u64,
    replayed: usize,
    out: Option<mpsc::Sender<Message>>,
    connection: u64,
    paused: bool,
    rng: Rng,
}

pub async fn run() -> Result<(), String> {
    let (inputs, mut inbox) = mpsc::channel(INPUTS);
    let (commands, linked) = (inputs.clone(), inputs);
    let mut node = Node::recover().await?;
    spawn(control::serve(move |command| link::ask(commands.clone(), command)));
    spawn(link::run(linked));
    while let Some(first) = inbox.recv().await {
        let mut next = Some(first);
        while let Some(input) = next {
            node.react(input);
            next = inbox.try_recv();
        }
        node.commit().await?;
    }
    Ok(())
}

impl Node {
    /// The state that the disk has: its newest checkpoint, and the events logged since.
    async fn recover() -> Result<Self, String> {
        let (first, second) = Part::halves()?;
        let archive = Archive::open(first).await.map_err(text)?;
        let checkpoints = Checkpoints::new("log");
        let saved = checkpoints.value(NAME, 1, Process::new(number("tokens", 1000), 1)).map_err(text)?;
        if archive.newest(NAME).is_some() {
            checkpoints.restore(&archive, NAME).await.map_err(text)?;
        }
        let mut events: Vec<(u64, Event)> = Vec::new();
        let mut foreign = 0;
        let options = Options { new_key: random::number().map_err(text)?, ..Options::default() };
        let opened = Store::open(second, options, |record| match postcard::from_bytes(record) {
            Ok(event) => events.push(event),
            Err(_) => foreign += 1,
        });
        let (log, _) = opened.await.map_err(text)?;
        if foreign > 0 {
            return Err(format!("{foreign} records of the log are no events: it is of another program"));
        }
        let before = saved.with(|process| process.events);
        let process = Process::recover(saved.with(Clone::clone), events);
        let replayed = (process.events - before) as usize;
        println!("checkpoints: {before} events from the checkpoint, {replayed} replayed");
        Ok(Self {
            channels: Channels::new(process),
            checkpoints,
            saved,
            archive,
            log,
            batch: Batch::new(),
            every: number("every", 500),
            taken_at: before,
            taken: 0,
            replayed,
            out: None,
            connection: 0,
            paused: false,
            rng: Rng::new().map_err(text)?,
        })
    }

    fn react(&mut self, input: Input<Message>) {
        match input {
            Input::Connected(_, out) => {
                self.connection = self.channels.connected(PEER);
                self.out = Some(out);
            }
            // Channels and connections are counted alike, from the start of the program.
            Input::Message(connection, message) if connection == self.connection => {
                self.channels.receive(PEER, message);
            }
            Input::Message(..) | Input::Saved(..) => {}
            Input::Tick if self.paused => {}
            Input::Tick => {
                let tokens = 1 + self.rng.below(9);
                self.channels.spend(PEER, tokens);
            }
            Input::Asked(command, answer) => {
                // Who asked may be gone.
                let _ = answer.send(self.obey(&command));
            }
        }
    }

    /// Logs what has happened, and then sends what follows from it.
    async fn commit(&mut self) -> Result<(), String> {
        let (records, outputs) = self.channels.take();
        if !records.is_empty() {
            self.batch.clear(64 * 1024);
            for record in records {
                self.batch.push(&postcard::to_allocvec(&record).map_err(text)?);
            }
            self.log.append(&self.batch).await.map_err(text)?;
            self.log.sync().await.map_err(text)?;
        }
        for (_, channel, message) in outputs {
            self.send((PEER, channel, message));
        }
        if self.channels.process().events >= self.taken_at + self.every {
            self.checkpoint().await?;
        }
        Ok(())
    }

    fn send(&mut self, (_, channel, message): Output) {
        let current = channel == self.connection;
        // Whoever does not read is disconnected: the writer ends with the queue.
        if current && self.out.as_ref().is_some_and(|out| out.try_send(message).is_err()) {
            self.out = None;
        }
    }

    /// Takes a checkpoint without asking anybody; then the log may begin anew. A crash between the two leaves events that
    /// the checkpoint has, and a replay passes over them.
    async fn checkpoint(&mut self) -> Result<(), String> {
        self.saved.change(|saved| saved.clone_from(self.channels.process()));
        self.checkpoints.full(NAME, &self.archive).map_err(text)?.commit().await.map_err(text)?;
        self.taken_at = self.channels.process().events;
        self.taken += 1;
        self.log.begin().map_err(text)?;
        self.log.switch().await.map_err(text)
    }

    fn obey(&mut self, command: &str) -> String {
        match command {
            "pause" | "resume" => {
                self.paused = command == "pause";
                "done".into()
            }
            _ => {
                let process = self.channels.process();
                let kept = process.again(PEER).count();
                format!(
                    "tokens {} events {} kept {kept} replayed {} checkpoints {} connections {}",
                    process.tokens, process.events, self.replayed, self.taken, self.connection
                )
            }
        }
    }
}
