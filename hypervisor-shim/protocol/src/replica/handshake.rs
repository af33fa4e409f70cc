//! Pairing: both say who they are, and epoch 1 starts only when both agreed.

use super::join::Join;
use super::{Command, Commands, LinkFault, MIN_EPOCH_EVENTS_BYTES, Outgoing, ProtocolFault, Replica, StopReason};
use crate::Role;
use crate::link::Hello;

impl Replica {
    /// Both sides compare the same two hellos in the same order, so both name the same difference, whether they find it
    /// themselves or are told first.
    pub(super) fn on_hello(&mut self, now_ns: u64, hello: &Hello, out: &mut impl Commands) {
        if self.peer.hello {
            return self.fault(now_ns, ProtocolFault::Handshake, out);
        }
        if let Err(mismatch) = self.hello().compare(hello) {
            self.send(now_ns, Outgoing::Refuse(mismatch), out);
            if self.has_newcomer() {
                // A newcomer that does not fit is no reason to stop what serves.
                return self.on_link_closed(now_ns, LinkFault::Closed, out);
            }
            out.push(Command::CloseLink);
            return self.stop(StopReason::Refused(mismatch), out);
        }
        if hello.max_epoch_events_bytes < MIN_EPOCH_EVENTS_BYTES {
            return self.fault(now_ns, ProtocolFault::Handshake, out);
        }
        self.peer.hello = true;
        self.peer.max_epoch_events_bytes = hello.max_epoch_events_bytes;
        if self.role == Role::Backup {
            // The acknowledgement of nothing tells the primary that this side agrees.
            self.peer.agreed = true;
            self.backup.ack_due = true;
        } else if self.join == Join::Greeting {
            // A newcomer speaks first: before, there was nobody to hear a hello.
            self.send(now_ns, Outgoing::Hello, out);
        }
    }
}
