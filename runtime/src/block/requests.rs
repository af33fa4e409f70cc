//! Requests on their way: from a future to the ring, and back as completions.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::future::Future;
use core::marker::PhantomData;
use core::pin::Pin;
use core::task::{Context, Poll};

use hypercall::disk::{Completion, MAX_OUTSTANDING, Operation, Request, UNCERTAIN};
use hypercall::layout::{BootInfo, DISK_RING_BYTES};
use hypercall::record::KIND_DISK_REQUEST;
use hypercall::ring::{self, Producer};

use super::{Errno, STATE};
use crate::executor::waker::Wake;
use crate::{platform, time};

/// What a guest says when the shim breaks the ring's contract, on which everything else rests.
const BROKEN: &str = "the shim keeps the disk ring in order";
/// Requests that the shim has taken and not completed, at most. With one fewer than it allows, it takes every record of
/// the ring at the end of every epoch, so that a [`Operation::Forget`] never waits behind others.
const MAX_IN_FLIGHT: usize = MAX_OUTSTANDING - 1;

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No request.
    Vacant,
    /// Not in the ring yet.
    Queued(Request),
    /// In the ring since this epoch, or taken by the shim at its end.
    InFlight { number: u64, epoch: u64, request: Request },
    /// As before, and nobody waits for it.
    Abandoned,
    /// Completed with this status.
    Done(u32),
}

struct Slot {
    state: State,
    /// Its place in the order of all requests, which it keeps when it is repeated.
    place: u64,
    wake: Option<Wake>,
}

/// All requests of this guest.
pub(super) struct Requests {
    ring: Producer,
    next_number: u64,
    next_place: u64,
    slots: Vec<Slot>,
    vacant: Vec<usize>,
    /// Slots not in the ring, by ascending place.
    queued: VecDeque<usize>,
    /// Numbers, ascending, and slots of those in the ring or with the shim.
    in_flight: VecDeque<(u64, usize)>,
    woken: VecDeque<Wake>,
}

impl Requests {
    /// # Panics
    /// If the ring is not one of this ABI.
    pub(super) fn attach(boot: &BootInfo) -> Self {
        let base = boot.disk_ring as *mut u8;
        // SAFETY: the shim has agreed on this ABI, so the address is that of an initialised, 8-aligned ring of this size
        // in our memory, which nobody else accesses while the guest runs.
        let ring = unsafe {
            ring::check(base, DISK_RING_BYTES).expect(BROKEN);
            Producer::new(base, DISK_RING_BYTES, 0)
        };
        Self {
            ring,
            next_number: 0,
            next_place: 0,
            slots: Vec::new(),
            vacant: Vec::new(),
            queued: VecDeque::new(),
            in_flight: VecDeque::new(),
            woken: VecDeque::new(),
        }
    }

    fn queue(&mut self, request: Request) -> usize {
        let slot = Slot { state: State::Queued(request), place: self.next_place, wake: None };
        self.next_place += 1;
        let index = match self.vacant.pop() {
            Some(index) => {
                self.slots[index] = slot;
                index
            }
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
        };
        self.queued.push_back(index);
        index
    }

    fn vacate(&mut self, index: usize) {
        self.slots[index] = Slot { state: State::Vacant, place: 0, wake: None };
        self.vacant.push(index);
    }

    /// The request's end, if it has come; otherwise the task of the context is woken when it comes.
    fn poll(&mut self, index: usize, context: &Context<'_>) -> Poll<Result<(), Errno>> {
        let State::Done(status) = self.slots[index].state else {
            self.slots[index].wake = Some(Wake::of(context.waker()));
            return Poll::Pending;
        };
        self.vacate(index);
        Poll::Ready(if status == 0 { Ok(()) } else { Err(Errno::new(status as i32)) })
    }

    /// Puts what is queued into the ring, as far as the shim takes it.
    pub(super) fn send(&mut self) {
        while self.in_flight.len() < MAX_IN_FLIGHT
            && let Some(index) = self.queued.pop_front()
        {
            let State::Queued(request) = self.slots[index].state else { continue };
            let number = self.push(&request);
            let epoch = time::epoch();
            self.slots[index].state = State::InFlight { number, epoch, request };
            self.in_flight.push_back((number, index));
        }
    }

    /// Puts a request into the ring and returns its number. There is always room: the ring holds more than four times as
    /// many as may be in flight, and is empty at the start of every epoch.
    fn push(&mut self, request: &Request) -> u64 {
        let pushed = self.ring.push(KIND_DISK_REQUEST, &request.encode()).expect(BROKEN);
        assert!(pushed, "the disk ring holds all that may be in flight");
        let number = self.next_number;
        self.next_number += 1;
        number
    }

    /// Nobody waits for this request any more. Returns whether the epoch must end before its data may be given up.
    fn abandon(&mut self, index: usize) -> bool {
        match self.slots[index].state {
            State::Queued(_) => {
                self.queued.retain(|&queued| queued != index);
                self.vacate(index);
                false
            }
            State::InFlight { number, epoch, request: Request { operation, .. } } => {
                self.slots[index] = Slot { state: State::Abandoned, place: 0, wake: None };
                if operation == Operation::Read as u32 {
                    let (operation, first_block) = (Operation::Forget as u32, number);
                    self.push(&Request { operation, disk: 0, first_block, blocks: 0, address: 0 });
                }
                operation == Operation::Write as u32 && epoch == time::epoch()
            }
            State::Done(_) => {
                self.vacate(index);
                false
            }
            State::Abandoned | State::Vacant => false,
        }
    }

    pub(super) fn complete(&mut self, payload: &[u8]) {
        let completion = Completion::decode(payload).expect(BROKEN);
        // Unknown numbers are those of a program that puts requests into the ring by itself.
        let Ok(place) = self.in_flight.binary_search_by_key(&completion.number, |&(number, _)| number) else { return };
        let Some((_, index)) = self.in_flight.remove(place) else { return };
        match self.slots[index].state {
            // Who repeats it would write from memory that is somebody else's by now. It was done or not, as ever.
            State::Abandoned => self.vacate(index),
            State::InFlight { request, .. } if completion.status == UNCERTAIN => self.repeat(index, request),
            _ => {
                self.slots[index].state = State::Done(completion.status);
                self.woken.extend(self.slots[index].wake.take());
            }
        }
    }

    /// Nobody knows whether this request was carried out: it is asked for again, before everything that was asked for later.
    /// All that were in flight come back so at once, or none, and nothing new enters the ring before [`Requests::send`].
    fn repeat(&mut self, index: usize, request: Request) {
        let place = self.slots[index].place;
        self.slots[index].state = State::Queued(request);
        let at = self.queued.partition_point(|&queued| self.slots[queued].place < place);
        self.queued.insert(at, index);
    }

    pub(super) fn next_woken(&mut self) -> Option<Wake> {
        self.woken.pop_front()
    }
}

/// One request until its end. It borrows the memory that the request names.
pub(super) struct Transfer<B> {
    request: Request,
    slot: Option<usize>,
    borrowed: PhantomData<B>,
}

impl<B> Transfer<B> {
    /// A request that names this memory and no other.
    pub(super) fn new(request: Request, _borrowed: B) -> Self {
        Self { request, slot: None, borrowed: PhantomData }
    }
}

// It holds no `B`, only its lifetime.
impl<B> Unpin for Transfer<B> {}

impl<B> Future for Transfer<B> {
    type Output = Result<(), Errno>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let request = self.request;
        let (slot, polled) = STATE.with(|state| {
            let mut state = state.borrow_mut();
            // Without a machine there are no disks.
            let Some(requests) = state.as_mut() else { return (None, Poll::Ready(Err(Errno::ENOENT))) };
            let index = self.slot.unwrap_or_else(|| requests.queue(request));
            let polled = requests.poll(index, context);
            (polled.is_pending().then_some(index), polled)
        });
        self.slot = slot;
        polled
    }
}

impl<B> Drop for Transfer<B> {
    fn drop(&mut self) {
        let Some(index) = self.slot else { return };
        let must_wait = STATE.with(|state| state.borrow_mut().as_mut().is_some_and(|requests| requests.abandon(index)));
        if must_wait {
            // The shim copies what a write writes when it takes the request, which it does when the epoch ends.
            platform::wait(0);
        }
    }
}
