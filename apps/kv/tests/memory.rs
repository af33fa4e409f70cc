//! The program on a heap of the size that a small machine has, run out of memory in every way: it must refuse and go
//! on. An allocation that fails where nobody can handle it aborts this test as it would stop a machine.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
use std::ptr;
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};

use runtime::heap::{Heap, Stats};
use runtime::host::dialogue::{Dialogue, Dialogues};
use runtime::host::peer::Peer;
use runtime::host::{Boundary, End, Setup, World, heap, run};
use runtime::random::Rng;

/// Less than the smallest machine has, so that it is soon full.
const HEAP_BYTES: usize = 8 << 20;

struct Guest {
    heap: Heap,
    range: Range<usize>,
}

// SAFETY: the heap's pointers are to memory that only it uses.
unsafe impl Send for Guest {}

/// There is one heap, so there is one machine at a time.
static TURN: Mutex<()> = Mutex::new(());

static GUEST: Mutex<Guest> = Mutex::new(Guest { heap: Heap::empty(), range: 0..0 });

thread_local! {
    /// Whether the program runs, rather than the world around it.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Gives the program its own heap and everybody else the system's.
struct Divided;

#[global_allocator]
static ALLOCATOR: Divided = Divided;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn guest() -> MutexGuard<'static, Guest> {
    locked(&GUEST)
}

// SAFETY: memory comes from one of two sound allocators and goes back to the one whose range it lies in.
unsafe impl GlobalAlloc for Divided {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if INSIDE.try_with(Cell::get).unwrap_or(false) {
            return guest().heap.allocate(layout);
        }
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let mut guest = guest();
        if guest.range.contains(&pointer.addr()) {
            // SAFETY: it lies in the heap's range, so it came from there.
            return unsafe { guest.heap.deallocate(pointer, layout) };
        }
        drop(guest);
        // SAFETY: it came from the system.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn stats() -> Stats {
    guest().heap.stats()
}

/// A fresh heap for the program, and its memory, to be given back afterwards.
struct Memory(*mut u8);

impl Memory {
    const LAYOUT: Layout = match Layout::from_size_align(HEAP_BYTES, 4096) {
        Ok(layout) => layout,
        Err(_) => unreachable!(),
    };

    fn new() -> Self {
        // SAFETY: the layout is not empty.
        let memory = unsafe { System.alloc(Self::LAYOUT) };
        assert!(!memory.is_null());
        let mut guest = guest();
        guest.heap = Heap::empty();
        guest.range = memory.addr()..memory.addr() + HEAP_BYTES;
        // SAFETY: the range was just allocated for this.
        unsafe { guest.heap.init(memory, HEAP_BYTES) };
        heap::install(heap::Probe { stats, has_room: |bytes| self::guest().heap.has_room(bytes) });
        Self(memory)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        assert_eq!(stats().used_bytes, 0, "the program's end frees everything");
        let mut guest = guest();
        (guest.heap, guest.range) = (Heap::empty(), 0..0);
        self.0 = {
            // SAFETY: allocated in `new` with this layout, and nothing lives in it.
            unsafe { System.dealloc(self.0, Self::LAYOUT) };
            ptr::null_mut()
        };
    }
}

struct Outside(Peer<Dialogues>);

impl World for Outside {
    fn boundary(&mut self, boundary: &mut Boundary<'_>) {
        INSIDE.set(false);
        self.0.boundary(boundary);
        INSIDE.set(true);
    }
}

/// Runs the program against these connections and returns what each has heard.
fn serve(all: Vec<Dialogue>) -> Vec<Vec<u8>> {
    let _turn = locked(&TURN);
    let memory = Memory::new();
    let remote = SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, 15), 6379);
    let connections = all.len();
    let world = Rc::new(RefCell::new(Outside(Peer::new(Dialogues { remote, all }, connections + 1))));
    let setup = Setup { heap_bytes: HEAP_BYTES as u64, idle_epochs: 100_000, ..Setup::default() };
    // The rest of the outcome is on the program's heap.
    let end = run(&setup, &world, || {
        INSIDE.set(true);
        kv::service::main()
    })
    .end;
    INSIDE.set(false);
    assert_eq!(end, End::Stopped);
    drop(memory);
    let mut world = world.borrow_mut();
    world.0.driver.all.drain(..).map(|dialogue| dialogue.heard).collect()
}

/// A command as clients send it.
fn push(said: &mut Vec<u8>, words: &[&[u8]]) {
    said.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        said.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        said.extend_from_slice(word);
        said.extend_from_slice(b"\r\n");
    }
}

const REFUSED: &[u8] = b"-OOM command not allowed";

fn count(heard: &[u8], wanted: &[u8]) -> usize {
    heard.windows(wanted.len()).filter(|window| *window == wanted).count()
}

/// Fills the store by `write`, checks that it refuses at some point and still works, twice, so that what the first
/// filling has left behind is used again by the second.
fn fill(name: &str, rounds: usize, mut write: impl FnMut(&mut Vec<u8>, usize)) {
    let mut said = Vec::new();
    for _ in 0..2 {
        for round in 0..rounds {
            write(&mut said, round);
        }
        push(&mut said, &[b"ECHO", b"still here"]);
        push(&mut said, &[b"FLUSHALL"]);
        push(&mut said, &[b"SET", b"again", b"works"]);
        push(&mut said, &[b"GET", b"again"]);
    }
    let heard = serve(vec![Dialogue::new(said)]).remove(0);
    let text = String::from_utf8_lossy(&heard[heard.len().saturating_sub(80)..]).into_owned();
    assert!(count(&heard, REFUSED) > 0, "{name} never ran out of memory: {text}");
    assert_eq!(count(&heard, b"$10\r\nstill here\r\n+OK\r\n+OK\r\n$5\r\nworks\r\n"), 2, "{name}: {text}");
}

#[test]
fn every_way_of_running_out_of_memory_ends_in_an_error_reply() {
    let seed = 0x0041_4c4c;
    println!("seed {seed:#x}");
    let mut rng = Rng::from_seed(seed);
    for bytes in [3, 40, 1000, 5000, 20_000, 300_000] {
        fill(&format!("values of {bytes} bytes"), 10_000_000 / (bytes + 100), |said, round| {
            push(said, &[b"SET", format!("key:{round}").as_bytes(), &vec![b'v'; bytes]]);
        });
    }
    fill("values of all sizes, some deleted", 3500, |said, round| {
        let bytes = 1 << rng.below(17);
        push(said, &[b"SET", format!("key:{round}").as_bytes(), &vec![b'v'; bytes as usize]]);
        push(said, &[b"DEL", format!("key:{}", rng.below(1 + round as u64)).as_bytes()]);
    });
    fill("values that grow", 1500, |said, round| {
        push(said, &[b"APPEND", format!("key:{}", round % 40).as_bytes(), &[b'v'; 8000]]);
    });
    fill("one long list", 150_000, |said, round| push(said, &[b"RPUSH", b"list", format!("{round:040}").as_bytes()]));
    fill("one large hash", 150_000, |said, round| {
        push(said, &[b"HSET", b"hash", format!("field:{round}").as_bytes(), b"value"]);
    });
    fill("one large sorted set", 120_000, |said, round| {
        push(said, &[b"ZADD", b"zset", round.to_string().as_bytes(), format!("member:{round}").as_bytes()]);
    });
    fill("many small sets", 75_000, |said, round| {
        push(said, &[b"SADD", format!("set:{round}").as_bytes(), b"a", b"b", b"c"]);
    });
}

#[test]
fn without_a_limit_of_its_own_the_heap_is_the_limit() {
    for bytes in [10, 3000, 100_000] {
        fill(&format!("values of {bytes} bytes"), 12_000_000 / (bytes + 100), |said, round| {
            if round == 0 {
                push(said, &[b"CONFIG", b"SET", b"maxmemory", b"0"]);
            }
            push(said, &[b"SET", format!("key:{round}").as_bytes(), &vec![b'v'; bytes]]);
        });
    }
}

#[test]
fn many_connections_that_ask_for_much_at_once_are_survived() {
    let mut setup = Vec::new();
    for round in 0..400 {
        push(&mut setup, &[b"RPUSH", b"list", &[b'x'; 1000], round.to_string().as_bytes()]);
    }
    let mut asking = Vec::new();
    for _ in 0..20 {
        push(&mut asking, &[b"LRANGE", b"list", b"0", b"-1"]);
    }
    push(&mut asking, &[b"PING"]);
    let mut all = vec![Dialogue::new(setup)];
    all.extend((0..80).map(|_| Dialogue::new(asking.clone()).in_phase(1)));
    // Commands cut short: a large argument announced and most of it sent.
    let mut cut_short = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$340000\r\n".to_vec();
    cut_short.resize(300_000, b'v');
    all.extend((0..15).map(|_| Dialogue::new(cut_short.clone()).in_phase(1)));
    let mut queued = Vec::new();
    push(&mut queued, &[b"MULTI"]);
    for _ in 0..100 {
        push(&mut queued, &[b"SET", b"key", &[b'q'; 5000]]);
    }
    all.extend((0..15).map(|_| Dialogue::new(queued.clone()).in_phase(1)));
    let heard = serve(all);
    let served = heard[1..81].iter().filter(|heard| heard.ends_with(b"+PONG\r\n")).count();
    let whole = heard[1..81].iter().map(|heard| count(heard, b"*800\r\n")).sum::<usize>();
    assert_eq!(served, 80, "all are served to the end");
    assert!(whole > 100, "{whole} whole replies");
}
