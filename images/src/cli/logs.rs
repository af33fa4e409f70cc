//! `logs`: what the guest has written, with names in place of addresses of code; or what the supervisor has.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;

use super::NameArgs;
use crate::code_names::{ElfNames, Filter};
use crate::ctl::Client;
use crate::error::{Context, Error, Result};
use crate::state::{DEFAULT_NAME, StateDir};

/// A line that has not ended after this time is shown as far as it has come.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// What `logs` accepts.
#[derive(Args)]
pub struct LogsArgs {
    #[command(flatten)]
    pair: NameArgs,
    /// Go on showing what is written, until the pair is taken down.
    #[arg(short, long)]
    follow: bool,
    /// Show what the guest has written byte for byte: no functions and lines in place of the addresses in a backtrace.
    #[arg(long, conflicts_with = "supervisor")]
    raw: bool,
    /// Show the supervisor's own log instead: what happened to the pair.
    #[arg(long)]
    supervisor: bool,
}

pub(super) fn logs(args: &LogsArgs) -> Result<()> {
    // The logs of a pair that is gone are still worth reading.
    let client = Client::connect(args.pair.name.as_deref());
    let dir = match (&client, &args.pair.name) {
        (Ok(client), _) => client.dir.clone(),
        (Err(_), name) => StateDir::new(name.as_deref().unwrap_or(DEFAULT_NAME))?,
    };
    let path = if args.supervisor { dir.supervisor_log() } else { dir.console_log() };
    let file = match (File::open(&path), client.as_ref()) {
        (Ok(file), _) => file,
        (Err(_), Err(_)) => return client.map(drop),
        (Err(source), Ok(_)) => return Err(Error::Io { what: format!("cannot read {}", path.display()), source }),
    };
    let names = (!args.raw && !args.supervisor).then(|| {
        let tell: Tell = |why| eprintln!("pollux: {why}");
        Filter::new(ElfNames::new(dir.read_symbols(), tell))
    });
    let mut shown = Shown { file, names };
    match client {
        Ok(client) if args.follow => shown.follow(&path, &client),
        Ok(_) => shown.finish(),
        Err(error) => {
            shown.finish()?;
            match error {
                Error::SupervisorGone { .. } => Err(error),
                _ => Ok(()),
            }
        }
    }
}

/// Tells the user why there are no names.
type Tell = fn(&str);

/// A log that is shown from its beginning.
struct Shown {
    file: File,
    names: Option<Filter<ElfNames<Tell>>>,
}

impl Shown {
    /// Prints from where the file was last read to its end.
    fn copy(&mut self) -> Result<()> {
        let mut bytes = Vec::new();
        self.file.read_to_end(&mut bytes).context(|| "cannot read the log")?;
        show(&match &mut self.names {
            Some(names) => names.push(&bytes),
            None => bytes,
        })
    }

    /// Prints all that there is.
    fn finish(&mut self) -> Result<()> {
        self.copy()?;
        show(&self.names.as_mut().map(Filter::finish).unwrap_or_default())
    }

    /// Prints what is written until the supervisor ends.
    fn follow(&mut self, path: &Path, client: &Client) -> Result<()> {
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC).context(|| "cannot watch the log")?;
        inotify::add_watch(&watch, path, inotify::WatchFlags::MODIFY).context(|| "cannot watch the log")?;
        let mut paused = false;
        loop {
            self.copy()?;
            let mut both = [
                PollFd::new(&watch, PollFlags::IN),
                PollFd::from_borrowed_fd(client.stream().as_fd(), PollFlags::IN | PollFlags::RDHUP),
            ];
            let waits = !paused && self.names.as_ref().is_some_and(Filter::is_waiting);
            match poll(&mut both, waits.then_some(&PAUSE)) {
                Ok(0) => {
                    paused = true;
                    show(&self.names.as_mut().map(Filter::pause).unwrap_or_default())?;
                    continue;
                }
                Ok(_) | Err(rustix::io::Errno::INTR) => paused = false,
                Err(error) => {
                    return Err(Error::Io { what: "cannot wait for the log".to_owned(), source: error.into() });
                }
            }
            let (written, ended) = (!both[0].revents().is_empty(), !both[1].revents().is_empty());
            if written {
                let mut events = [0; 4096];
                // Only that something was written matters, not what.
                rustix::io::read(&watch, &mut events).context(|| "cannot watch the log")?;
            }
            if ended {
                self.finish()?;
                return match Client::connect(Some(&client.dir.name)) {
                    Err(error @ Error::SupervisorGone { .. }) => Err(error),
                    _ => Ok(()),
                };
            }
        }
    }
}

/// Prints bytes as they are.
fn show(bytes: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).context(|| "cannot write to stdout")
}
