//! What the stack knows about a TCP connection beyond smoltcp's socket.

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::time::Duration;

use crate::config::Config;
use crate::error::Error;
use crate::frame::FlowKey;
use crate::quirks::bare_acknowledgement;
use crate::timers::NEVER_US;

/// How often a stuck socket asks the peer for its window: as a zero-window probe starts (RFC 9293, 3.8.6.1).
const PROD_INTERVAL: Duration = Duration::from_secs(1);

/// Who holds a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// A peer's handshake with this listener is under way.
    HalfOpen { listener: u32 },
    /// Established and waiting in this listener's queue.
    Queued { listener: u32 },
    /// The program holds its id.
    Owned,
    /// The program has closed it; it finishes on its own.
    Detached,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Both sides finished.
    Done,
    Refused,
    Reset,
    TimedOut,
}

impl Fate {
    pub(crate) fn error(self) -> Error {
        match self {
            Self::Done => Error::Finished,
            Self::Refused => Error::Refused,
            Self::Reset => Error::Reset,
            Self::TimedOut => Error::TimedOut,
        }
    }
}

/// The time limits of a [`Config`] in microseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) half_open_us: i64,
    pub(crate) user_us: i64,
    pub(crate) close_us: i64,
    pub(crate) idle_us: Option<i64>,
}

/// Milliseconds as microseconds, at most three hundred years, so that sums of times cannot overflow.
pub(crate) fn ms_to_us(ms: u64) -> i64 {
    const MOST_US: u64 = (i64::MAX / 1024) as u64;
    ms.saturating_mul(1000).min(MOST_US) as i64
}

impl Limits {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            half_open_us: ms_to_us(config.half_open_timeout_ms),
            user_us: ms_to_us(config.user_timeout_ms),
            close_us: ms_to_us(config.close_timeout_ms),
            idle_us: config.idle_timeout_ms.map(ms_to_us),
        }
    }
}

/// A time to be filled in when the clock is next known: operations of the program do not bring the time, and the last
/// known one may be long past.
pub(crate) const UNSET_US: i64 = i64::MIN;

/// A TCP connection.
pub(crate) struct Conn {
    /// Holds exactly the one socket.
    pub(crate) set: SocketSet<'static>,
    pub(crate) key: FlowKey,
    pub(crate) stage: Stage,
    /// The socket's state when it was last looked at.
    pub(crate) seen: State,
    /// Set once the end is known; the socket may still owe the peer a reset.
    pub(crate) fate: Option<Fate>,
    /// The peer's stream has arrived to its end.
    pub(crate) peer_finished: bool,
    /// The socket has nothing more to do with the network.
    pub(crate) dead: bool,
    /// The last acknowledgement number seen while only a FIN was outstanding.
    pub(crate) fin_ack: Option<i32>,
    /// The program has finished sending; the FIN waits until all data is acknowledged.
    pub(crate) finish_when_acked: bool,
    /// The socket's keep-alive is on to get it going again.
    prodded: bool,
    /// A send found no room.
    pub(crate) want_write: bool,
    pub(crate) keep_alive_us: Option<i64>,
    pub(crate) opened_us: i64,
    /// When TIME-WAIT ends.
    pub(crate) time_wait_until_us: i64,
    pub(crate) last_rx_us: i64,
    /// Since when something awaits the peer's acknowledgement; `NEVER_US` when nothing does.
    busy_since_us: i64,
    /// Since when the connection is detached; `NEVER_US` before.
    closing_since_us: i64,
}

impl Conn {
    pub(crate) fn new(set: SocketSet<'static>, key: FlowKey, stage: Stage) -> Self {
        Self {
            set,
            key,
            stage,
            seen: State::Closed,
            fate: None,
            peer_finished: false,
            dead: false,
            fin_ack: None,
            finish_when_acked: false,
            prodded: false,
            want_write: false,
            keep_alive_us: None,
            opened_us: UNSET_US,
            time_wait_until_us: NEVER_US,
            last_rx_us: UNSET_US,
            busy_since_us: NEVER_US,
            closing_since_us: NEVER_US,
        }
    }

    #[inline]
    pub(crate) fn socket(&self) -> &Socket<'static> {
        self.set.get(SocketHandle::default())
    }

    #[inline]
    pub(crate) fn socket_mut(&mut self) -> &mut Socket<'static> {
        self.set.get_mut(SocketHandle::default())
    }

    /// Whether `frame` merely repeats an acknowledgement while only our FIN is outstanding. smoltcp must not see it:
    /// see [`quirks`](crate::quirks).
    pub(crate) fn repeats_ack(&mut self, frame: &[u8]) -> bool {
        if !matches!(self.seen, State::FinWait1 | State::Closing | State::LastAck) || self.socket().send_queue() > 0 {
            return false;
        }
        let Some(number) = bare_acknowledgement(frame) else {
            return false;
        };
        self.fin_ack.replace(number) == Some(number)
    }

    /// Ends our stream after what is queued.
    pub(crate) fn finish(&mut self) {
        let socket = self.socket_mut();
        let wait = socket.state() == State::CloseWait && socket.send_queue() > 0;
        if !wait {
            socket.close();
        }
        self.finish_when_acked = wait;
        self.seen = self.socket().state();
    }

    /// Makes a socket move that has data queued and, as `due_us` tells, no timer: see [`quirks`](crate::quirks).
    /// Returns whether it did.
    pub(crate) fn prod(&mut self, due_us: i64) -> bool {
        let socket = self.socket();
        let stuck = due_us == NEVER_US && socket.send_queue() > 0 && socket.is_active();
        if stuck && !self.prodded {
            self.prodded = true;
            self.socket_mut().set_keep_alive(Some(PROD_INTERVAL));
            return true;
        }
        if self.prodded && socket.send_queue() == 0 {
            self.prodded = false;
            self.apply_keep_alive();
        }
        false
    }

    /// Hands the socket the configured keep-alive interval.
    pub(crate) fn apply_keep_alive(&mut self) {
        let interval = self.keep_alive_us.map(|us| Duration::from_micros(us as u64));
        self.socket_mut().set_keep_alive(interval);
    }

    /// Whether the socket still waits for the peer's FIN.
    pub(crate) fn awaits_fin(&self) -> bool {
        matches!(self.socket().state(), State::Established | State::FinWait1 | State::FinWait2)
    }

    /// Room in the send buffer, in bytes.
    pub(crate) fn send_room(&self) -> usize {
        let socket = self.socket();
        socket.send_capacity() - socket.send_queue()
    }

    /// Whether a writer that found no room should be woken: a quarter of the buffer is free, so that it does not
    /// run for every few bytes.
    pub(crate) fn wakes_writer(&self) -> bool {
        self.want_write && self.send_room() >= self.socket().send_capacity().div_ceil(4)
    }

    /// Why there is nothing to read.
    pub(crate) fn read_error(&self) -> Error {
        if self.peer_finished {
            return Error::Finished;
        }
        if let Some(fate) = self.fate {
            return fate.error();
        }
        match self.socket().state() {
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait => Error::Finished,
            State::Closed => Error::Reset,
            _ => Error::WouldBlock,
        }
    }

    /// Why nothing can be sent, whatever the room.
    pub(crate) fn write_error(&self) -> Option<Error> {
        if let Some(fate) = self.fate {
            return Some(if fate == Fate::Done { Error::Shutdown } else { fate.error() });
        }
        match self.socket().state() {
            State::Established | State::CloseWait if !self.finish_when_acked => None,
            State::Listen | State::SynSent | State::SynReceived => Some(Error::WouldBlock),
            State::Closed => Some(Error::Reset),
            _ => Some(Error::Shutdown),
        }
    }

    /// When the connection must be given up, in microseconds. smoltcp's own timeout is not used: it would also end
    /// connections that are merely idle.
    pub(crate) fn give_up_at_us(&mut self, now_us: i64, limits: &Limits) -> i64 {
        for time_us in [&mut self.opened_us, &mut self.last_rx_us] {
            if *time_us == UNSET_US {
                *time_us = now_us;
            }
        }
        let socket = self.socket();
        let (state, queued) = (socket.state(), socket.send_queue());
        match state {
            State::TimeWait => return self.time_wait_until_us,
            State::SynReceived | State::Listen => return self.opened_us + limits.half_open_us,
            State::SynSent => return self.opened_us + limits.user_us,
            _ => {}
        }
        let mut deadline_us = NEVER_US;
        if self.stage == Stage::Detached {
            if self.closing_since_us == NEVER_US {
                self.closing_since_us = now_us;
            }
            deadline_us = self.closing_since_us + limits.close_us;
        }
        let unacknowledged =
            queued > 0 || matches!(state, State::FinWait1 | State::Closing | State::LastAck | State::Closed);
        if !unacknowledged {
            self.busy_since_us = NEVER_US;
        } else {
            if self.busy_since_us == NEVER_US {
                self.busy_since_us = now_us;
            }
            deadline_us = deadline_us.min(self.last_rx_us.max(self.busy_since_us) + limits.user_us);
        }
        if let Some(interval_us) = self.keep_alive_us {
            // Three probes unanswered, or the time for which data may be, whichever is shorter.
            let patience_us = limits.user_us.min(interval_us.saturating_mul(2));
            deadline_us = deadline_us.min(self.last_rx_us + interval_us + patience_us);
        }
        if let Some(idle_us) = limits.idle_us {
            deadline_us = deadline_us.min(self.last_rx_us + idle_us);
        }
        deadline_us
    }
}
