//! Memory, collections, formatting: what needs little of a system.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet, VecDeque};
use std::rc::Rc;

use crate::check;

pub fn run() {
    let map: HashMap<u32, u32> = (0..1000).map(|key| (key, key * key)).collect();
    check("hash map looks up", map.get(&31));
    check("hash map has all", map.len());
    let set: HashSet<&str> = ["a", "b", "a"].into();
    check("hash set holds once", set.len());
    let tree: BTreeMap<_, _> = (0..100).rev().map(|key| (key, key.to_string())).collect();
    check("tree map is sorted", tree.first_key_value());
    check("tree map ranges", tree.range(98..).collect::<Vec<_>>());
    let mut heap: BinaryHeap<_> = [3, 9, 4].into();
    check("heap gives the largest", heap.pop());
    let mut queue: VecDeque<_> = (0..5).collect();
    queue.rotate_left(2);
    check("queue rotates", queue);
    let mut large = vec![0_u8; 3 << 20];
    large[(3 << 20) - 1] = 7;
    large.resize(4 << 20, 1);
    check("large vectors grow", (large[(3 << 20) - 1], large[4 << 20 >> 1], large.last().copied()));
    drop(large);
    let layout = Layout::from_size_align(100, 4096).expect("a layout");
    // SAFETY: the layout has a size; the memory is given back as it was taken.
    unsafe {
        let page = alloc_zeroed(layout);
        check("memory is aligned as asked", page.addr().is_multiple_of(4096));
        check("memory is zeroed as asked", *page.add(99));
        dealloc(page, layout);
    }
    let shared = Rc::new(5);
    check("counted references", (Rc::strong_count(&shared), Rc::strong_count(&shared.clone())));
    let mut words = vec!["pear", "apple", "fig"];
    words.sort_unstable();
    check("sorts", words.join(" "));
    check("formats", format!("{:>5}|{:<4}|{:^6}|{:#x}|{:08.3}|{:e}", 1, 2, "mid", 255, -1.5, 1234.5));
    check("parses", ("12".parse::<i8>(), "1e3".parse::<f64>(), "x".parse::<u8>().is_err()));
    check("floats", ((2.0_f64).sqrt(), f64::NAN.max(1.0), (0.1 + 0.2), 1.0_f64.exp().ln().round()));
    check("wide integers", (u128::MAX / 3, i128::MIN.checked_neg(), 7_u64.pow(20)));
    check("text", ("größe".to_uppercase(), "ab,c".split(',').collect::<Vec<_>>(), 'ß'.len_utf8()));
}
