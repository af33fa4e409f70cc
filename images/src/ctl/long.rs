//! Requests that take a while: they are made, and the status is looked at until they are done or have failed.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Client, PairStatus, Request, StorageStatus, TakenStatus};
use crate::error::{Error, Result};
use crate::supervise::spec::HostOptions;

/// How long bringing in a replica or taking a checkpoint may take.
const LONG_TIMEOUT: Duration = Duration::from_secs(120);
/// How often the status is looked at meanwhile.
const LONG_INTERVAL: Duration = Duration::from_millis(10);

impl Client {
    /// Asks for a new replica, by [`Request::Rejoin`] or [`Request::SwitchOver`], and waits until it is a member of the
    /// pair; returns the status then. `progress` is shown each status meanwhile.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason why there is none.
    pub fn rejoin(&mut self, request: &Request, mut progress: impl FnMut(&PairStatus)) -> Result<PairStatus> {
        let before = self.status()?.rejoin;
        self.ask(request)?;
        self.wait_for(
            |status| {
                progress(status);
                status.rejoin.joined > before.joined
            },
            |status| status.rejoin.failed > before.failed || status.replicas.is_empty(),
            "no new replica was brought in",
        )
    }

    /// Asks for both machines to be renewed and waits until they are; `progress` is shown each status.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason why they are not.
    pub fn migrate(&mut self, host: HostOptions, mut progress: impl FnMut(&PairStatus)) -> Result<PairStatus> {
        let before = self.status()?.migration;
        self.ask(&Request::Migrate { host })?;
        self.wait_for(
            |status| {
                progress(status);
                status.migration.completed > before.completed
            },
            |status| status.migration.failed > before.failed || status.replicas.is_empty(),
            "machines are not renewed",
        )
    }

    /// Takes a checkpoint, of everything or of what has changed since another, and waits until it is on the disk.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason why there is none.
    pub fn checkpoint(&mut self, path: PathBuf, since: Option<PathBuf>) -> Result<TakenStatus> {
        let before = self.status()?.checkpoints;
        self.ask(&Request::Checkpoint { path, since })?;
        let status = self.wait_for(
            |status| status.checkpoints.taken > before.taken,
            |status| status.checkpoints.failed > before.failed,
            "no checkpoint was taken",
        )?;
        status.checkpoints.newest.ok_or_else(|| Error::Refused("the newest checkpoint is not known".to_owned()))
    }

    /// Begins a recording and waits until its checkpoint is there.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason why there is none.
    pub fn record(&mut self, path: PathBuf) -> Result<StorageStatus> {
        let failed = self.status()?.checkpoints.failed;
        self.ask(&Request::Record { path })?;
        let status = self.wait_for(
            |status| status.storage.as_ref().is_some_and(|storage| storage.checkpoint_epoch.is_some()),
            |status| status.checkpoints.failed > failed || status.storage.is_none(),
            "no checkpoint was taken",
        )?;
        status.storage.ok_or_else(|| Error::Refused("the recording has ended".to_owned()))
    }

    /// Ends a recording and waits until all of it is on the disk.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is none.
    pub fn stop_recording(&mut self) -> Result<()> {
        let since_ms = self.status()?.uptime_s * 1e3;
        let complete = |status: &PairStatus| {
            let text = "the recording is complete";
            status.events.iter().any(|event| event.text == text && event.at_ms >= since_ms)
        };
        self.ask(&Request::StopRecording)?;
        self.wait_for(
            |status| status.storage.is_none() && complete(status),
            |status| status.replicas.is_empty(),
            "the recording was not completed",
        )
        .map(drop)
    }

    /// Waits until something is done or has failed; the event that says why has `failure` in it. Disks take as long as they
    /// take: as long as they are copied nobody loses patience.
    fn wait_for(
        &mut self,
        mut done: impl FnMut(&PairStatus) -> bool,
        failed: impl Fn(&PairStatus) -> bool,
        failure: &str,
    ) -> Result<PairStatus> {
        let (mut until, mut copied_bytes) = (Instant::now() + LONG_TIMEOUT, None);
        loop {
            let status = self.status()?;
            let disks = status.rejoin.disks.as_ref().map(|disks| disks.done_bytes + disks.written_bytes);
            if disks != std::mem::replace(&mut copied_bytes, disks) {
                until = Instant::now() + LONG_TIMEOUT;
            }
            if done(&status) {
                return Ok(status);
            }
            if failed(&status) || Instant::now() > until {
                let why = status.events.iter().rev().find(|event| event.text.contains(failure));
                let why = why.map_or_else(|| format!("{failure} in time"), |event| event.text.clone());
                return Err(Error::Refused(format!("{why}; see `cargo pollux logs --supervisor`")));
            }
            std::thread::sleep(LONG_INTERVAL);
        }
    }
}
