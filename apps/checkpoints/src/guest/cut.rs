//! Algorithm 4 between two images. Arguments: `peer`, see the module `link`; `tokens`, how many it begins with.
//!
//! Each keeps its last two cuts on its disk. When there is a new connection, whatever the reason, each says which is its
//! newest, and both go back to the older of the two. Only then do they send anything else, and before that each has
//! removed what is newer: a cut that was gone back behind must not be taken for one that is made afterwards.
//!
//! | command | answer |
//! |---|---|
//! | `state` | `tokens N sent N received N newest N connections N`: messages since the connection began |
//! | `cut N` | `tokens N in_flight N` of a cut that is kept, or `none` |
//! | `pause`, `resume` | no more tokens are sent, and no cut is begun; again |

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;

use runtime::block::Disk;
use runtime::checkpoint::{Archive, Checkpoints, Target, Value};
use runtime::random::Rng;
use runtime::sync::mpsc;
use runtime::{println, spawn};
use serde::{Deserialize, Serialize};

use super::link::{self, Input};
use super::{control, disk, number, text, word};
use crate::cut::{Cut, Message, Process};

const INPUTS: usize = 256;
/// Ticks from one cut to the next.
const CUT_TICKS: u64 = 25;
/// There is one peer.
const PEER: usize = 0;

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Wire {
    /// The newest cut of the sender: the first word on a connection.
    Newest(u64),
    Cut(Message),
}

struct Node {
    checkpoints: Checkpoints,
    saved: Value<Cut>,
    archive: Rc<Archive<Disk>>,
    inputs: mpsc::Sender<Input<Wire>>,
    /// `None` until both have gone back to the same cut.
    process: Option<Process>,
    out: Option<mpsc::Sender<Wire>>,
    connection: u64,
    /// The newest cut that the other has, as long as nobody has gone back to it.
    others_newest: Option<u64>,
    saving: bool,
    paused: bool,
    ticks: u64,
    sent: u64,
    received: u64,
    rng: Rng,
}

pub async fn run() -> Result<(), String> {
    let checkpoints = Checkpoints::new("cut");
    let saved = checkpoints.value("cut", 1, Cut { tokens: number("tokens", 1000), ..Cut::default() }).map_err(text)?;
    let archive = Rc::new(disk::archive().await?);
    if archive.entries().is_empty() {
        checkpoints.full(&name(0), &archive).map_err(text)?.commit().await.map_err(text)?;
    }
    let (inputs, mut inbox) = mpsc::channel(INPUTS);
    let (commands, linked) = (inputs.clone(), inputs.clone());
    spawn(control::serve(move |command| link::ask(commands.clone(), command)));
    spawn(link::run(linked));
    let rng = Rng::new().map_err(text)?;
    let mut node = Node {
        checkpoints,
        saved,
        archive,
        inputs,
        process: None,
        out: None,
        connection: 0,
        others_newest: None,
        saving: false,
        paused: false,
        ticks: 0,
        sent: 0,
        received: 0,
        rng,
    };
    while let Some(input) = inbox.recv().await {
        node.react(input).await?;
    }
    Ok(())
}

/// Cuts are kept under their numbers.
fn name(number: u64) -> String {
    format!("cut {number}")
}

impl Node {
    async fn react(&mut self, input: Input<Wire>) -> Result<(), String> {
        match input {
            Input::Connected(connection, out) => {
                (self.connection, self.process, self.out) = (connection, None, Some(out));
                self.others_newest = None;
                // While a cut is being saved it is open which is the newest.
                if !self.saving {
                    self.send(Wire::Newest(self.newest()));
                }
            }
            Input::Message(connection, _) if connection != self.connection => {}
            Input::Message(_, Wire::Newest(number)) => {
                self.others_newest = Some(number);
                self.go_back().await?;
            }
            Input::Message(_, Wire::Cut(message)) => self.receive(message)?,
            Input::Saved(_, Err(error)) => return Err(error),
            Input::Saved(connection, Ok(number)) => self.is_saved(connection, number).await?,
            Input::Tick => self.tick(),
            Input::Asked(command, answer) => {
                let words: alloc::vec::Vec<_> = command.split_ascii_whitespace().collect();
                // Who asked may be gone.
                let _ = answer.send(self.obey(&words).await);
            }
        }
        Ok(())
    }

    fn newest(&self) -> u64 {
        let numbers =
            self.archive.entries().into_iter().filter_map(|entry| entry.name.strip_prefix("cut ")?.parse().ok());
        numbers.max().unwrap_or(0)
    }

    fn send(&mut self, message: Wire) {
        // Whoever does not read is disconnected: the writer ends with the queue.
        if self.out.as_ref().is_some_and(|out| out.try_send(message).is_err()) {
            self.out = None;
        }
    }

    /// Both go back to the newest cut that both have, when it is known.
    async fn go_back(&mut self) -> Result<(), String> {
        let Some(others_newest) = self.others_newest.take_if(|_| !self.saving) else { return Ok(()) };
        let line = self.newest().min(others_newest);
        let newer: alloc::vec::Vec<u64> = self
            .archive
            .entries()
            .iter()
            .filter(|entry| entry.name == name(line + 1))
            .map(|entry| entry.sequence)
            .collect();
        self.archive.remove(&newer).await.map_err(text)?;
        self.checkpoints.restore(&self.archive, &*name(line)).await.map_err(text)?;
        self.process = Some(self.saved.with(|cut| Process::recover(1, cut)));
        (self.sent, self.received) = (0, 0);
        println!("checkpoints: both go on from cut {line}");
        Ok(())
    }

    fn receive(&mut self, message: Message) -> Result<(), String> {
        let Some(process) = &mut self.process else { return Ok(()) };
        self.received += u64::from(matches!(message, Message::Tokens(_)));
        let (reply, complete) = process.receive(PEER, message);
        if let Some(reply) = reply {
            self.send(Wire::Cut(reply));
        }
        complete.map_or(Ok(()), |cut| self.save(cut))
    }

    /// Writes a cut while the node goes on.
    fn save(&mut self, cut: Cut) -> Result<(), String> {
        let (number, connection, inputs) = (cut.number, self.connection, self.inputs.clone());
        self.saved.change(|saved| *saved = cut);
        let draft = self.checkpoints.full(&name(number), Rc::clone(&self.archive)).map_err(text)?;
        self.saving = true;
        spawn(async move {
            let result = draft.commit().await.map(|_| number).map_err(text);
            inputs.send(Input::Saved(connection, result)).await
        });
        Ok(())
    }

    async fn is_saved(&mut self, connection: u64, number: u64) -> Result<(), String> {
        self.saving = false;
        if connection != self.connection {
            self.send(Wire::Newest(self.newest()));
            return self.go_back().await;
        }
        if let Some(message) = self.process.as_mut().map(|process| process.saved(number)) {
            self.send(Wire::Cut(message));
        }
        let entries = self.archive.entries();
        let old = number.checked_sub(2).and_then(|old| entries.iter().find(|entry| entry.name == name(old)));
        match old {
            Some(old) => self.archive.remove(&[old.sequence]).await.map_err(text),
            None => Ok(()),
        }
    }

    fn tick(&mut self) {
        let Some(process) = self.process.as_mut().filter(|_| !self.paused) else { return };
        self.ticks += 1;
        let spent = process.spend(1 + self.rng.below(9));
        let marker = (!link::connects() && self.ticks.is_multiple_of(CUT_TICKS)).then(|| process.begin()).flatten();
        if let Some(message) = spent {
            self.sent += 1;
            self.send(Wire::Cut(message));
        }
        if let Some(marker) = marker {
            self.send(Wire::Cut(marker));
        }
    }

    async fn obey(&mut self, words: &[&str]) -> String {
        match words.first().copied().unwrap_or_default() {
            "pause" | "resume" => {
                self.paused = words[0] == "pause";
                "done".into()
            }
            "cut" => self.show(word(words, 1)).await,
            _ => {
                let tokens = self.process.as_ref().map_or(0, |process| process.tokens);
                let (sent, received, connections) = (self.sent, self.received, self.connection);
                let newest = if self.process.is_some() { self.newest() } else { 0 };
                format!("tokens {tokens} sent {sent} received {received} newest {newest} connections {connections}")
            }
        }
    }

    /// Looks at a cut that is kept, as another program would.
    async fn show(&self, number: u64) -> String {
        let looking = Checkpoints::new("cut");
        let Ok(cut) = looking.value("cut", 1, Cut::default()) else { return "none".into() };
        match looking.restore(&self.archive, &*name(number)).await {
            Ok(_) => cut.with(|cut| format!("tokens {} in_flight {}", cut.tokens, cut.in_flight.iter().sum::<u64>())),
            Err(_) => "none".into(),
        }
    }
}
