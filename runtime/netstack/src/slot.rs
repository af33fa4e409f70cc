//! The table of sockets. An index is reused, a generation is not.

use alloc::vec::Vec;

use smoltcp::iface::SocketSet;

use crate::conn::Conn;
use crate::event::Readiness;
use crate::timers::NEVER_US;
use crate::udp::UdpBody;

/// What a slot holds.
pub(crate) enum Body {
    Vacant,
    Tcp(Conn),
    Udp(UdpBody),
    Dhcp(SocketSet<'static>),
}

impl Body {
    pub(crate) fn set_mut(&mut self) -> Option<&mut SocketSet<'static>> {
        match self {
            Self::Vacant => None,
            Self::Tcp(conn) => Some(&mut conn.set),
            Self::Udp(udp) => Some(&mut udp.set),
            Self::Dhcp(set) => Some(set),
        }
    }
}

/// One socket and its place in the stack's lists.
pub(crate) struct Slot {
    pub(crate) generation: u32,
    /// It is in the dirty list. Survives the body, because the list does.
    pub(crate) dirty: bool,
    /// It probably has something to send: try that before asking for the deadline.
    pub(crate) egress_first: bool,
    /// It is in the list of those that wait for an address resolution. Survives the body.
    pub(crate) awaits_neighbor: bool,
    /// The deadline registered in the timers.
    pub(crate) registered_us: i64,
    /// What the program has not been told yet; not empty exactly while the slot is in the event queue.
    pub(crate) pending: Readiness,
    pub(crate) body: Body,
}

/// All slots.
#[derive(Default)]
pub(crate) struct Slots {
    slots: Vec<Slot>,
    vacant: Vec<u32>,
}

impl Slots {
    /// Fills a slot and returns its index.
    pub(crate) fn insert(&mut self, body: Body) -> u32 {
        if let Some(index) = self.vacant.pop() {
            self.slots[index as usize].body = body;
            return index;
        }
        self.slots.push(Slot {
            generation: 1,
            dirty: false,
            egress_first: false,
            awaits_neighbor: false,
            registered_us: NEVER_US,
            pending: Readiness::empty(),
            body,
        });
        (self.slots.len() - 1) as u32
    }

    /// Empties a slot; ids of it become stale.
    pub(crate) fn remove(&mut self, index: u32) -> Body {
        let slot = &mut self.slots[index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        slot.pending = Readiness::empty();
        slot.egress_first = false;
        self.vacant.push(index);
        core::mem::replace(&mut slot.body, Body::Vacant)
    }

    #[inline]
    pub(crate) fn slot(&mut self, index: u32) -> &mut Slot {
        &mut self.slots[index as usize]
    }

    /// The slot if `generation` is still current.
    pub(crate) fn current(&self, index: u32, generation: u32) -> Option<&Slot> {
        self.slots.get(index as usize).filter(|slot| slot.generation == generation)
    }

    /// The slot, to change it, if `generation` is still current.
    #[inline]
    pub(crate) fn current_mut(&mut self, index: u32, generation: u32) -> Option<&mut Slot> {
        self.slots.get_mut(index as usize).filter(|slot| slot.generation == generation)
    }

    pub(crate) fn generation(&self, index: u32) -> u32 {
        self.slots[index as usize].generation
    }

    #[inline]
    pub(crate) fn conn_mut(&mut self, index: u32) -> Option<&mut Conn> {
        match &mut self.slots[index as usize].body {
            Body::Tcp(conn) => Some(conn),
            _ => None,
        }
    }

    /// The connection that a queue entry meant, unless it is gone.
    pub(crate) fn conn_if_current(&self, index: u32, generation: u32) -> Option<&Conn> {
        match &self.current(index, generation)?.body {
            Body::Tcp(conn) => Some(conn),
            _ => None,
        }
    }

    /// The UDP socket that an id names.
    pub(crate) fn udp_mut(&mut self, index: u32, generation: u32) -> Option<&mut UdpBody> {
        match &mut self.current_mut(index, generation)?.body {
            Body::Udp(udp) => Some(udp),
            _ => None,
        }
    }
}
