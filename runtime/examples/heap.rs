//! What allocating and freeing costs, in nanoseconds an operation: the heap of an image against the first-fit list
//! alone, while a number of small objects of mixed sizes live.
//!
//! `cargo run --release -p runtime --example heap`

use std::alloc::Layout;
use std::time::Instant;

use linked_list_allocator::Heap as FirstFit;
use runtime::heap::Heap;
use runtime::random::Rng;

const HEAP_BYTES: usize = 64 << 20;
const OPERATIONS: usize = 200_000;

/// Sizes as a store has them: mostly small, some of a socket's buffer.
fn layout(rng: &mut Rng) -> Layout {
    let bytes = match rng.below(20) {
        0 => 4096,
        1..4 => 200 + rng.below(1000),
        _ => 16 + rng.below(120),
    };
    Layout::from_size_align(bytes as usize, 8).expect("a valid layout")
}

/// Replaces random objects of `live`, again and again.
fn measure(live: usize, mut allocate: impl FnMut(Layout) -> *mut u8, mut free: impl FnMut(*mut u8, Layout)) -> f64 {
    let mut rng = Rng::from_seed(1);
    let mut objects: Vec<(*mut u8, Layout)> = Vec::new();
    let mut make = |rng: &mut Rng| {
        let layout = layout(rng);
        let place = allocate(layout);
        assert!(!place.is_null(), "the heap is large enough");
        (place, layout)
    };
    objects.extend((0..live).map(|_| make(&mut rng)));
    let start = Instant::now();
    for _ in 0..OPERATIONS {
        let index = rng.below(live as u64) as usize;
        let (place, layout) = objects[index];
        free(place, layout);
        objects[index] = make(&mut rng);
    }
    start.elapsed().as_nanos() as f64 / OPERATIONS as f64
}

fn main() {
    let mut memory = vec![0u64; HEAP_BYTES / 8];
    let start = memory.as_mut_ptr().cast::<u8>();
    for live in [100, 1000, 10_000] {
        let mut first_fit = FirstFit::empty();
        // SAFETY: the memory is used by one heap at a time and lives to the end.
        unsafe { first_fit.init(start, HEAP_BYTES) };
        let list = std::cell::RefCell::new(first_fit);
        let first_fit_ns = measure(
            live,
            |layout| list.borrow_mut().allocate_first_fit(layout).map_or(std::ptr::null_mut(), |place| place.as_ptr()),
            // SAFETY: `measure` frees what it allocated, with its layout.
            |place, layout| unsafe {
                list.borrow_mut().deallocate(std::ptr::NonNull::new(place).expect("not null"), layout);
            },
        );
        let mut blocks = Heap::empty();
        // SAFETY: as above.
        unsafe { blocks.init(start, HEAP_BYTES) };
        let blocks = std::cell::RefCell::new(blocks);
        let blocks_ns = measure(
            live,
            |layout| blocks.borrow_mut().allocate(layout),
            // SAFETY: as above.
            |place, layout| unsafe { blocks.borrow_mut().deallocate(place, layout) },
        );
        println!(
            "{live:>6} live objects: first fit {first_fit_ns:>8.0} ns, blocks {blocks_ns:>4.0} ns to free and allocate one"
        );
    }
}
