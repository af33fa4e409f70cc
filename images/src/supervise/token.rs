//! Which number stands for which source of events.

use protocol::ReplicaId;

/// The listener for requests.
pub const REQUESTS: usize = 0;
/// The pipe to the command that started us.
pub const STARTER: usize = 1;
/// What the uplink passes frames to: a tap, or the socket to passt.
pub const DEVICE: usize = 2;
/// The timer of the wire.
pub const PACER: usize = 3;
/// The threads that copy disks and write the log: an event loop has one waker.
pub const THREADS: usize = 4;
const REPLICAS: usize = 16;
const SOURCES_OF_A_REPLICA: usize = 4;
/// The first published port.
pub const LISTENERS: usize = 1 << 10;
/// The first connection with requests.
pub const CLIENTS: usize = 1 << 12;
/// The first flow of the forwarder's datagrams.
pub const DATAGRAMS: usize = 1 << 14;
/// The first pipe of the forwarder.
pub const PIPES: usize = 1 << 16;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Somebody connects to make requests.
    Requests,
    /// The command that started us.
    Starter,
    /// What the uplink passes frames to.
    Device,
    /// The timer of the wire.
    Pacer,
    /// A thread that copies disks or writes the log has done something.
    Threads,
    /// A shim's control channel.
    Control(ReplicaId),
    /// A replica's network device.
    Net(ReplicaId),
    /// A replica's process has ended.
    Process(ReplicaId),
    /// A published port.
    Listener(usize),
    /// A connection with requests.
    Client(usize),
    /// A flow of the forwarder's datagrams.
    Datagram(usize),
    /// A pipe of the forwarder.
    Pipe(usize),
    /// None of these.
    Unknown,
}

/// The token of a control channel.
pub fn control(id: ReplicaId) -> usize {
    REPLICAS + id.index() * SOURCES_OF_A_REPLICA
}

/// The token of a network device.
pub fn net(id: ReplicaId) -> usize {
    control(id) + 1
}

/// The token of a process.
pub fn process(id: ReplicaId) -> usize {
    control(id) + 2
}

/// What a token stands for.
pub fn source(token: usize) -> Source {
    match token {
        PIPES.. => Source::Pipe(token - PIPES),
        DATAGRAMS.. => Source::Datagram(token - DATAGRAMS),
        CLIENTS.. => Source::Client(token - CLIENTS),
        LISTENERS.. => Source::Listener(token - LISTENERS),
        REPLICAS.. => replica_source(token - REPLICAS),
        REQUESTS => Source::Requests,
        STARTER => Source::Starter,
        PACER => Source::Pacer,
        THREADS => Source::Threads,
        DEVICE => Source::Device,
        _ => Source::Unknown,
    }
}

fn replica_source(offset: usize) -> Source {
    let id = u8::try_from(offset / SOURCES_OF_A_REPLICA).ok().and_then(ReplicaId::new);
    match (id, offset % SOURCES_OF_A_REPLICA) {
        (Some(id), 0) => Source::Control(id),
        (Some(id), 1) => Source::Net(id),
        (Some(id), 2) => Source::Process(id),
        _ => Source::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_told_apart() {
        for id in [ReplicaId::ZERO, ReplicaId::ONE] {
            assert_eq!(source(control(id)), Source::Control(id));
            assert_eq!(source(net(id)), Source::Net(id));
            assert_eq!(source(process(id)), Source::Process(id));
        }
        assert_eq!(source(REQUESTS), Source::Requests);
        assert_eq!((source(PACER), source(DEVICE)), (Source::Pacer, Source::Device));
        assert_eq!(source(THREADS), Source::Threads);
        assert_eq!(source(LISTENERS + 3), Source::Listener(3));
        assert_eq!(source(CLIENTS + 3), Source::Client(3));
        assert_eq!(source(DATAGRAMS + 3), Source::Datagram(3));
        assert_eq!(source(PIPES + 3), Source::Pipe(3));
        assert_eq!(source(9), Source::Unknown);
    }
}
