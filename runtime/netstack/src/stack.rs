//! The stack: its state, the way of a frame in, and the round that sends.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use smoltcp::iface::{Config as InterfaceConfig, Interface, SocketSet};
use smoltcp::phy::DeviceCapabilities;
use smoltcp::time::Instant;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, IpCidr, Ipv4Cidr,
};

use crate::admit::{Interception, Listener};
use crate::config::{Config, ConfigError};
use crate::conn::Limits;
use crate::device::{FrameSink, NoSink, Port, Spill, capabilities};
use crate::error::Error;
use crate::event::{Event, Source, Sources};
use crate::frame::{Class, ETHERNET_BYTES, FlowKey, classify, is_announcement};
use crate::id::{ConnId, ListenerId, UdpId};
use crate::slot::{Body, Slots};
use crate::timers::{NEVER_US, Timers};

/// What the stack refused or gave up, counted since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Frames handed to [`Stack::receive`].
    pub frames_in: u64,
    /// IP fragments and TCP segments to or from groups of hosts, dropped.
    pub unusable_frames: u64,
    /// SYNs dropped because the listener's backlog was full; their sender tries again.
    pub backlog_full: u64,
    /// SYNs answered with a reset because [`Config::max_connections`] was reached.
    pub refused: u64,
    /// Half-open connections that gave way to newer ones or timed out.
    pub half_open_dropped: u64,
    /// Connections in TIME-WAIT that gave way.
    pub time_wait_evicted: u64,
    /// Connections aborted because the peer gave no sign of life.
    pub timed_out: u64,
    /// Replies dropped because the sink stayed full.
    pub replies_dropped: u64,
}

/// A TCP/IP stack on one Ethernet interface.
pub struct Stack {
    pub(crate) config: Config,
    pub(crate) limits: Limits,
    pub(crate) iface: Interface,
    pub(crate) capabilities: DeviceCapabilities,
    /// The time of the last call that brought one, in microseconds.
    pub(crate) now_us: i64,
    pub(crate) slots: Slots,
    pub(crate) flows: HashMap<FlowKey, u32, FixedState>,
    pub(crate) udp_ports: BTreeMap<u16, u32>,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) listening: BTreeMap<u16, u32>,
    pub(crate) interception: Option<Interception>,
    pub(crate) timers: Timers,
    pub(crate) dirty: VecDeque<u32>,
    pub(crate) neighbor_waiters: Vec<u32>,
    pub(crate) sources: Sources,
    pub(crate) spill: Spill,
    /// Sockets of ended connections, kept to spare the next ones the allocation.
    pub(crate) spare: Vec<SocketSet<'static>>,
    /// Frames that concern no socket are processed with this set, so that smoltcp answers for the host.
    pub(crate) no_sockets: SocketSet<'static>,
    /// Slots and generations of half-open connections, oldest first; entries may be stale.
    pub(crate) half_open: VecDeque<(u32, u32)>,
    /// The same for connections in TIME-WAIT.
    pub(crate) time_wait: VecDeque<(u32, u32)>,
    pub(crate) time_wait_count: usize,
    /// TCP slots in use.
    pub(crate) connections: usize,
    pub(crate) next_port: u16,
    pub(crate) dhcp: Option<u32>,
    pub(crate) dns_servers: Vec<Ipv4Addr>,
    pub(crate) stats: Stats,
}

impl Stack {
    /// Makes a stack at time `now_ns` (nanoseconds of any clock that does not go back).
    ///
    /// # Errors
    /// The first value of `config` that cannot work.
    pub fn new(config: Config, now_ns: u64) -> Result<Self, ConfigError> {
        config.check()?;
        let capabilities = capabilities(&config);
        let now_us = (now_ns / 1000) as i64;
        let mut interface = InterfaceConfig::new(EthernetAddress(config.mac).into());
        interface.random_seed = config.seed;
        let (mut sink, mut spill) = (NoSink, Spill::default());
        let mut port = Port::new(None, &mut sink, &mut spill, &capabilities);
        let iface = Interface::new(interface, &mut port, Instant::from_micros(now_us));
        let mut stack = Self {
            limits: Limits::new(&config),
            iface,
            capabilities,
            now_us,
            slots: Slots::default(),
            flows: HashMap::with_hasher(FixedState::with_seed(config.seed.rotate_left(32) ^ 0x9e37_79b9_7f4a_7c15)),
            udp_ports: BTreeMap::new(),
            listeners: Vec::new(),
            listening: BTreeMap::new(),
            interception: None,
            timers: Timers::default(),
            dirty: VecDeque::new(),
            neighbor_waiters: Vec::new(),
            sources: Sources::default(),
            spill,
            spare: Vec::new(),
            no_sockets: SocketSet::new(Vec::new()),
            half_open: VecDeque::new(),
            time_wait: VecDeque::new(),
            time_wait_count: 0,
            connections: 0,
            next_port: (config.seed >> 16) as u16,
            dhcp: None,
            dns_servers: Vec::new(),
            stats: Stats::default(),
            config,
        };
        stack.iface.set_any_ip(stack.config.any_ip);
        match stack.config.ip {
            Some(ip) => stack.set_address(Some(ip), stack.config.gateway),
            None => stack.start_dhcp(),
        }
        Ok(stack)
    }

    /// Takes one Ethernet frame. Replies go to `sink` at once; what the frame lets sockets send goes out at the next
    /// [`poll`](Self::poll), so that answers of the program can ride along.
    pub fn receive<S: FrameSink>(&mut self, now_ns: u64, frame: &[u8], sink: &mut S) {
        self.advance(now_ns);
        self.stats.frames_in += 1;
        match classify(frame) {
            Class::Tcp { key, opens, finishes } => match self.flows.get(&key).copied() {
                Some(index) if !(opens && self.gives_way(index)) => {
                    self.segment(index, frame, sink);
                    if finishes {
                        self.after_fin(index, frame, sink);
                    }
                }
                _ if opens => self.admit(key, frame, sink),
                _ => self.stray(frame, sink),
            },
            Class::Udp { dst_port } => self.datagram(dst_port, frame, sink),
            Class::Arp => self.resolve(frame, sink),
            Class::Other => self.stray(frame, sink),
            Class::Drop => self.stats.unusable_frames += 1,
        }
    }

    /// Sends everything that is due into `sink` and returns when to call again at the latest, in nanoseconds; `None`
    /// means when a frame arrives or a socket is used. Call it too when the sink has room again after having been
    /// full (see [`has_backlog`](Self::has_backlog)).
    pub fn poll<S: FrameSink>(&mut self, now_ns: u64, sink: &mut S) -> Option<u64> {
        self.advance(now_ns);
        self.spill.flush(sink);
        while let Some(index) = self.timers.pop_due(self.now_us) {
            self.slots.slot(index).registered_us = NEVER_US;
            self.touch(index, true);
        }
        self.expire_interceptions();
        while let Some(index) = self.dirty.pop_front() {
            self.slots.slot(index).dirty = false;
            if self.serve(index, sink) {
                // To the end, so that one busy connection cannot keep the others from a small sink.
                self.touch(index, true);
                break;
            }
        }
        self.next_deadline_ns()
    }

    /// Whether something waits for room in the sink.
    #[must_use]
    pub fn has_backlog(&self) -> bool {
        !self.dirty.is_empty() || !self.spill.is_empty()
    }

    /// When [`poll`](Self::poll) is next due, in nanoseconds, as its last call said. Sockets used since then need a
    /// `poll` at once: see [`has_backlog`](Self::has_backlog).
    #[must_use]
    pub fn next_deadline_ns(&self) -> Option<u64> {
        let mut next_us = self.timers.next_us();
        if let Some(interception) = &self.interception {
            next_us = next_us.min(interception.next_us());
        }
        (next_us != NEVER_US).then(|| next_us as u64 * 1000)
    }

    /// Takes the next event, oldest first. Each socket has at most one event waiting: later edges merge into it.
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            let event = match self.sources.pop()? {
                Source::Slot(index) => self.slot_event(index),
                Source::Listener(index) => self.listener_event(index),
                Source::Incoming(id) => self.incoming(id).map(|_| Event::Incoming(id)),
                Source::Address => Some(Event::Address),
            };
            if event.is_some() {
                return event;
            }
        }
    }

    /// Takes all events there are.
    pub fn take_events(&mut self, mut each: impl FnMut(Event)) {
        while let Some(event) = self.next_event() {
            each(event);
        }
    }

    /// Whether [`next_event`](Self::next_event) is worth calling.
    #[must_use]
    pub fn has_events(&self) -> bool {
        !self.sources.is_empty()
    }

    /// Own address and prefix, once known.
    #[must_use]
    pub fn address(&self) -> Option<Ipv4Cidr> {
        self.iface.ip_addrs().first().map(|cidr| match cidr {
            IpCidr::Ipv4(cidr) => *cidr,
        })
    }

    /// The default router.
    #[must_use]
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        self.iface.routes().get_default_ipv4_route().map(|route| match route.via_router {
            smoltcp::wire::IpAddress::Ipv4(address) => address,
        })
    }

    /// Name servers told by DHCP.
    #[must_use]
    pub fn dns_servers(&self) -> &[Ipv4Addr] {
        &self.dns_servers
    }

    /// TCP connections in any state, including those that the program has closed and that still finish.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections
    }

    /// What was refused or given up.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats { replies_dropped: self.spill.dropped, ..self.stats }
    }

    /// Enters a neighbour's Ethernet address, sparing its resolution. It expires like a resolved one, 60 s after the
    /// neighbour was last heard.
    ///
    /// # Errors
    /// [`Error::Unaddressable`] when `ip` is not a host of our own network or `mac` is not unicast.
    pub fn learn_neighbor(&mut self, ip: Ipv4Addr, mac: [u8; 6]) -> Result<(), Error> {
        let own = self.address().ok_or(Error::Unaddressable)?;
        let mac = EthernetAddress(mac);
        if !own.contains_addr(&ip) || !crate::frame::is_host(ip.into()) || !mac.is_unicast() {
            return Err(Error::Unaddressable);
        }
        let own_mac = EthernetAddress(self.config.mac);
        let repr = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: mac,
            source_protocol_addr: ip,
            target_hardware_addr: own_mac,
            target_protocol_addr: own.address(),
        };
        let mut buffer = alloc::vec![0; ETHERNET_BYTES + repr.buffer_len()];
        let mut frame = EthernetFrame::new_unchecked(&mut buffer);
        frame.set_dst_addr(own_mac);
        frame.set_src_addr(mac);
        frame.set_ethertype(EthernetProtocol::Arp);
        repr.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
        self.resolve(&buffer, &mut NoSink);
        Ok(())
    }

    /// Moves the clock; it never goes back.
    fn advance(&mut self, now_ns: u64) {
        self.now_us = self.now_us.max((now_ns / 1000) as i64);
    }

    pub(crate) fn now(&self) -> Instant {
        Instant::from_micros(self.now_us)
    }

    /// Puts a slot on the list of those that the next poll looks at. `egress_first` says that it probably has
    /// something to send.
    #[inline]
    pub(crate) fn touch(&mut self, index: u32, egress_first: bool) {
        let slot = self.slots.slot(index);
        slot.egress_first |= egress_first;
        if !slot.dirty {
            slot.dirty = true;
            self.dirty.push_back(index);
        }
    }

    /// Lets smoltcp answer a frame that concerns no socket.
    pub(crate) fn stray<S: FrameSink>(&mut self, frame: &[u8], sink: &mut S) {
        let now = self.now();
        let mut port = Port::new(Some(frame), sink, &mut self.spill, &self.capabilities);
        self.iface.poll_ingress_single(now, &mut port, &mut self.no_sockets);
    }

    /// Takes an ARP packet and wakes whoever waited for an address.
    fn resolve<S: FrameSink>(&mut self, frame: &[u8], sink: &mut S) {
        // With `any_ip` smoltcp would claim every address, even the one that a neighbour announces as its own.
        if self.config.any_ip && is_announcement(frame) {
            return;
        }
        self.stray(frame, sink);
        while let Some(index) = self.neighbor_waiters.pop() {
            self.slots.slot(index).awaits_neighbor = false;
            self.touch(index, true);
        }
    }

    fn slot_event(&mut self, index: u32) -> Option<Event> {
        let slot = self.slots.slot(index);
        let readiness = core::mem::take(&mut slot.pending);
        if readiness.is_empty() {
            return None;
        }
        let generation = slot.generation;
        match slot.body {
            Body::Tcp(_) => Some(Event::Connection(ConnId { index, generation }, readiness)),
            Body::Udp(_) => Some(Event::Datagram(UdpId { index, generation }, readiness)),
            Body::Dhcp(_) | Body::Vacant => None,
        }
    }

    fn listener_event(&mut self, index: u32) -> Option<Event> {
        let listener = self.listeners.get_mut(index as usize)?;
        listener.announced = false;
        let generation = listener.generation;
        (listener.port != 0 && !listener.queue.is_empty())
            .then_some(Event::Acceptable(ListenerId { index, generation }))
    }
}
