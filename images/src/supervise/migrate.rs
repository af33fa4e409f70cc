//! Both machines of a pair renewed, one after the other, while it serves: with another QEMU, other arguments for it, or on
//! other processors of the host.
//!
//! The backup is replaced by one with the new options; when it is a member, it takes over as planned; then the old primary is
//! replaced, too. A new backup that does not come, because its QEMU does not start or its processor is another one, leaves
//! the pair with its old options, and with a backup that has them.

use protocol::Mode;

use super::Supervisor;
use super::spec::{HostOptions, RunName};
use crate::ctl::MigrationStatus;
use crate::vcpu;

/// Which machine is being replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Backup,
    OldPrimary,
}

/// One that is under way.
#[derive(Debug)]
struct Current {
    step: Step,
    /// What holds if it comes to nothing.
    before: HostOptions,
    /// Replicas that were brought in before this step, and that had failed.
    joined: u64,
    failed: u64,
}

/// What the supervisor knows of it.
#[derive(Debug, Default)]
pub struct Migrations {
    current: Option<Current>,
    completed: u64,
    failed: u64,
}

impl Supervisor {
    /// Somebody wants the pair's machines renewed.
    pub(super) fn migrate(&mut self, host: &HostOptions) -> Result<(), String> {
        if self.spec.run != RunName::Pair {
            return Err("this was not started as a pair".to_owned());
        }
        if self.migrations.current.is_some() || !self.rejoin_is_idle() {
            return Err("a new replica is being brought in already".to_owned());
        }
        let allowed = vcpu::allowed_processors();
        if let Some(processor) = host.processors.iter().find(|processor| !allowed.contains(processor)) {
            return Err(format!("processor {processor} may not be used by this pair's supervisor, only {allowed:?}"));
        }
        let record = self.arbiter.record();
        if record.mode == Mode::Solo {
            // What keeps a new replica out keeps this one out.
            self.rejoin_on_request()?;
        }
        let before = std::mem::replace(&mut self.spec.host, host.clone());
        let (joined, failed) = self.rejoin_counts();
        self.migrations.current = Some(Current { step: Step::Backup, before, joined, failed });
        self.happened("the pair's machines are renewed, on request: the backup first".to_owned());
        if record.mode == Mode::Paired {
            self.want_rejoin();
            self.socket_failed(record.active.peer(), "is ended, to be replaced");
        }
        Ok(())
    }

    /// Takes the next step if the last one is done.
    pub(super) fn look_after_migration(&mut self) {
        let Some(current) = &self.migrations.current else { return };
        let (joined, failed) = self.rejoin_counts();
        let (has_joined, has_failed) = (joined > current.joined, failed > current.failed);
        let is_over = self.replicas.iter().all(Option::is_none);
        match current.step {
            _ if is_over => self.migration_failed("no virtual machine runs any more"),
            Step::Backup if has_failed => {
                let before = current.before.clone();
                self.spec.host = before;
                self.migration_failed("no backup came with the new options; the old ones hold");
                self.want_rejoin();
            }
            Step::Backup if has_joined => match self.switch_over() {
                Ok(()) => {
                    if let Some(current) = &mut self.migrations.current {
                        *current = Current { step: Step::OldPrimary, before: current.before.clone(), joined, failed };
                    }
                }
                Err(text) => self.migration_failed(&text),
            },
            Step::OldPrimary if has_failed => self.migration_failed("the old primary was not replaced"),
            Step::OldPrimary if has_joined => {
                self.migrations.current = None;
                self.migrations.completed += 1;
                self.happened("the pair's machines are renewed".to_owned());
            }
            Step::Backup | Step::OldPrimary => {}
        }
    }

    fn migration_failed(&mut self, why: &str) {
        self.migrations.current = None;
        self.migrations.failed += 1;
        self.happened(format!("the pair's machines are not renewed: {why}"));
    }

    /// What `status` shows of it.
    pub(super) fn migration_status(&self) -> MigrationStatus {
        let state = match &self.migrations.current {
            None => "idle",
            Some(Current { step: Step::Backup, .. }) => "replacing the backup",
            Some(Current { step: Step::OldPrimary, .. }) => "replacing the old primary",
        };
        MigrationStatus {
            state: state.to_owned(),
            completed: self.migrations.completed,
            failed: self.migrations.failed,
            host: self.spec.host.clone(),
        }
    }
}
