//! Tests of the heap over a vector.

use core::alloc::Layout;
use std::println;
use std::vec;
use std::vec::Vec;

use super::{BLOCK_BYTES, Heap, SMALL_BYTES};
use crate::random::Rng;

/// A heap over memory of its own, which begins at this distance behind a block's boundary.
const OFFSET_BYTES: usize = 1032;

struct Arena {
    heap: Heap,
    _memory: Vec<u64>,
}

impl Arena {
    fn new(bytes: usize) -> Self {
        let mut memory = vec![0u64; (bytes + 2 * BLOCK_BYTES) / 8];
        let mut heap = Heap::empty();
        let start = memory.as_mut_ptr().cast::<u8>();
        let start = start.wrapping_add(BLOCK_BYTES - start.addr() % BLOCK_BYTES + OFFSET_BYTES);
        // SAFETY: the range lies in the vector, which lives as long as the heap and is not touched otherwise.
        unsafe { heap.init(start, bytes) };
        Self { heap, _memory: memory }
    }
}

struct Object {
    place: *mut u8,
    layout: Layout,
    mark: u8,
}

impl Object {
    fn new(heap: &mut Heap, layout: Layout, mark: u8) -> Option<Self> {
        let place = heap.allocate(layout);
        if place.is_null() {
            return None;
        }
        assert!(place.addr().is_multiple_of(layout.align()), "{layout:?} at {place:?}");
        // SAFETY: the heap gave this many bytes.
        unsafe { place.write_bytes(mark, layout.size()) };
        Some(Self { place, layout, mark })
    }

    fn free(self, heap: &mut Heap) {
        // SAFETY: the object is still allocated; its bytes were all written.
        unsafe {
            let bytes = std::slice::from_raw_parts(self.place, self.layout.size());
            assert!(bytes.iter().all(|&byte| byte == self.mark), "{:?} was overwritten", self.layout);
            heap.deallocate(self.place, self.layout);
        }
    }
}

fn random_layout(rng: &mut Rng) -> Layout {
    let bytes = match rng.below(10) {
        0..6 => 1 + rng.below(300),
        6..9 => 1 + rng.below(SMALL_BYTES as u64),
        _ => 1 + rng.below(60_000),
    };
    let align = 1 << if rng.below(20) == 0 { rng.below(13) } else { rng.below(5) };
    Layout::from_size_align(bytes as usize, align).expect("valid")
}

#[test]
fn objects_never_overlap_and_all_memory_comes_back() {
    for seed in 0..20 {
        println!("seed {seed}");
        let mut rng = Rng::from_seed(seed);
        let mut arena = Arena::new(2 << 20);
        let mut objects = Vec::new();
        let mut refused = 0;
        for step in 0..20_000u32 {
            // Grows for a while, then shrinks, and so on.
            let growing = step / 3000 % 2 == 0;
            if objects.is_empty() || rng.below(100) < if growing { 70 } else { 30 } {
                match Object::new(&mut arena.heap, random_layout(&mut rng), step as u8) {
                    Some(object) => objects.push(object),
                    None => refused += 1,
                }
            } else {
                let index = rng.below(objects.len() as u64) as usize;
                objects.swap_remove(index).free(&mut arena.heap);
            }
        }
        assert!(refused > 0, "the run has exhausted the memory");
        for object in objects.drain(..) {
            object.free(&mut arena.heap);
        }
        assert_eq!(arena.heap.stats().used_bytes, 0);
        let nearly_all = Layout::from_size_align(arena.heap.stats().total_bytes - 4096, 8).expect("valid");
        assert!(Object::new(&mut arena.heap, nearly_all, 1).is_some(), "all memory is one piece again");
    }
}

#[test]
fn memory_of_one_class_serves_another() {
    let mut arena = Arena::new(1 << 20);
    let mut fill = |bytes| {
        let layout = Layout::from_size_align(bytes, 8).expect("valid");
        let objects: Vec<_> = core::iter::from_fn(|| Object::new(&mut arena.heap, layout, 7)).collect();
        let held_bytes = arena.heap.stats().held_bytes;
        let total: usize = objects.iter().map(|object| object.layout.size()).sum();
        objects.into_iter().for_each(|object| object.free(&mut arena.heap));
        (total, held_bytes)
    };
    for bytes in [16, 4096, 100, 8192, 20_000, 16, 64 * 1024, 1000] {
        let (total, held_bytes) = fill(bytes);
        assert!(total > 850_000, "only {total} of 1 MiB in objects of {bytes} bytes, {held_bytes} held");
    }
}

#[test]
fn statistics_follow() {
    let mut arena = Arena::new(1 << 20);
    assert_eq!((arena.heap.stats().used_bytes, arena.heap.stats().held_bytes), (0, 0));
    let layout = Layout::from_size_align(100, 8).expect("valid");
    let object = Object::new(&mut arena.heap, layout, 1).expect("room");
    assert_eq!((arena.heap.stats().used_bytes, arena.heap.stats().held_bytes), (112, BLOCK_BYTES));
    object.free(&mut arena.heap);
    assert_eq!(arena.heap.stats().used_bytes, 0);
}

#[test]
fn hopeless_requests_are_refused() {
    let mut arena = Arena::new(1 << 20);
    for bytes in [1 << 20, 1 << 40, isize::MAX as usize] {
        let layout = Layout::from_size_align(bytes, 1).expect("valid");
        assert!(arena.heap.allocate(layout).is_null());
    }
    assert!(Heap::empty().allocate(Layout::new::<u64>()).is_null(), "a heap without memory");
    assert!(Arena::new(8000).heap.allocate(Layout::new::<u64>()).is_null(), "a heap without a block");
}

#[test]
fn equal_calls_give_equal_places() {
    let run = || {
        let mut rng = Rng::from_seed(1);
        let mut arena = Arena::new(1 << 20);
        let base = arena.heap.base;
        let mut places = Vec::new();
        let mut objects: Vec<Object> = Vec::new();
        for _ in 0..3000 {
            if rng.below(3) == 0 && !objects.is_empty() {
                let index = rng.below(objects.len() as u64) as usize;
                objects.swap_remove(index).free(&mut arena.heap);
            } else if let Some(object) = Object::new(&mut arena.heap, random_layout(&mut rng), 1) {
                places.push(object.place.addr() - base);
                objects.push(object);
            }
        }
        (base % BLOCK_BYTES, places)
    };
    assert_eq!(run(), run());
}
