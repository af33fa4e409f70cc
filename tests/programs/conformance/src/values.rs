//! Numbers, texts, iterators, references: what a program computes with, and threads that do it together.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, LinkedList};
use std::ffi::{CString, OsString};
use std::fmt::{self, Write as _};
use std::io::{BufRead, BufReader, BufWriter, Cursor, Read, Seek, SeekFrom, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicPtr, AtomicU64, Ordering::*};
use std::thread;
use std::time::Duration;

use crate::check;

pub fn run() {
    numbers();
    texts();
    iterators();
    references();
    streams();
    together();
}

fn numbers() {
    let x = std::hint::black_box(0.5_f64);
    // The last digit of what no standard fixes may be another.
    let about = |values: &[f64]| values.iter().map(|value| format!("{value:.12}")).collect::<Vec<_>>();
    check("roots and powers", (x.sqrt(), x.powi(-3), about(&[x.powf(2.5), x.cbrt()])));
    check("logarithms", about(&[x.ln(), x.log2(), x.log10(), x.exp_m1(), x.ln_1p()]));
    check("angles", about(&[x.sin(), x.cos(), x.tan(), x.asin(), x.atan2(2.0), x.sinh()]));
    check("rounding", [-1.5, -0.5, 0.5, 1.5, 2.5].map(|x: f64| (x.round(), x.round_ties_even(), x.trunc(), x.ceil())));
    check("fused", (x.mul_add(3.0, 0.1), (-x).rem_euclid(0.3), format!("{:.12}", x.hypot(1.2))));
    check("odd floats", (f64::INFINITY - f64::INFINITY, -0.0_f64, f64::MIN_POSITIVE / 2.0, 1.0_f64 / -0.0));
    check("order of floats", [1.0, f64::NAN, -0.0, 0.0, -2.0].map(|y| x.total_cmp(&y)));
    check("floats in decimal", (0.1_f32, 1e300, 123_456_789.123_456_79_f64, 5e-324, f32::MAX));
    check("single precision", format!("{:.5}", (std::hint::black_box(1.1_f32) * 3.3).sin()));
    check(
        "parsing of numbers",
        ("0x1".parse::<u8>().is_err(), "-128".parse::<i8>(), "1e-400".parse::<f64>(), "inf".parse::<f32>()),
    );
    check(
        "integers that overflow",
        (250_u8.checked_add(9), 250_u8.wrapping_add(9), 250_u8.saturating_add(9), i32::MIN.overflowing_neg()),
    );
    check("bits", (0b1011_u32.count_ones(), 1_u64.leading_zeros(), 0x1234_u16.swap_bytes(), 0x81_u8.rotate_left(1)));
    check("long division", (u128::MAX / 0x1_0000_0000_0000_0001, i128::MIN % 1_000_000_007, (-7_i32).div_euclid(2)));
    check("bytes of numbers", (1.5_f64.to_be_bytes(), u32::from_str_radix("zz", 36), 77_u64.isqrt()));
}

struct Shape(u32, u32);

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}x{}", self.0, self.1))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
enum Kind {
    #[default]
    None,
    Named {
        name: String,
        tags: Vec<u8>,
    },
}

fn texts() {
    check("widths", format!("[{:>8}] [{:*^8}] [{:<+5}] [{:08.2}]", Shape(3, 4), Shape(5, 6), 7, -1.25));
    check("radixes", format!("{:#b} {:o} {:X} {:#010x} {:e}", 5, 64, 48879, 255, 1500.0));
    let kind = Kind::Named { name: "a\"b\n".to_owned(), tags: vec![1, 2] };
    check("derived", (format!("{kind:?}"), format!("{kind:#?}").lines().count(), kind > Kind::default()));
    check("cases", ("straße".to_uppercase(), "ΑΣ".to_lowercase(), 'ǆ'.to_uppercase().collect::<String>()));
    check("parts", ("a,b,,c".split(',').rev().collect::<Vec<_>>(), "k=v=w".split_once('='), "  x ".trim()));
    check("lines", "one\r\ntwo\n\nthree".lines().collect::<Vec<_>>());
    check("characters", ("héé".char_indices().collect::<Vec<_>>(), "🦀".len(), '🦀'.len_utf16()));
    check("searches", ("banana".rfind("an"), "banana".matches("an").count(), "banana".replace("an", "-")));
    check("broken text", (String::from_utf8_lossy(b"a\xff\xfeb"), String::from_utf8(vec![0xc3]).is_err()));
    check("texts of others", (CString::new("a\0b").is_err(), OsString::from("x").into_string().ok(), Cow::from("y")));
    let mut text = String::with_capacity(10);
    write!(text, "{}-{:?}", 1, "two").unwrap();
    text.insert_str(1, "ü");
    text.retain(|char| char != '"');
    check("changed in place", (text.clone(), text.drain(..3).collect::<String>(), text.pop()));
    check(
        "paths",
        (
            Path::new("/a/./b/../c.tar.gz").components().count(),
            Path::new("x/y.rs").with_extension("o"),
            PathBuf::from("/a").join("/b"),
        ),
    );
    check(
        "addresses",
        ("[::1]:80".parse::<SocketAddr>(), IpAddr::from_str("10.0.0.256").is_err(), Ipv6Addr::LOCALHOST.to_string()),
    );
    check(
        "durations",
        (
            Duration::from_millis(1500),
            Duration::from_secs_f64(0.001),
            Duration::from_secs(1).checked_sub(Duration::from_secs(2)),
        ),
    );
}

fn iterators() {
    let words = ["one", "two", "three", "four", "five"];
    check("folded", words.iter().fold(0, |sum, word| sum * 7 + word.len()));
    check("windows and chunks", (words.windows(2).count(), words.chunks(2).map(<[_]>::len).collect::<Vec<_>>()));
    check("zipped", words.iter().zip(1..).skip(1).step_by(2).map(|(word, n)| format!("{word}{n}")).collect::<Vec<_>>());
    check("flattened", (0..4).flat_map(|n| (0..n).map(move |m| n * m)).collect::<Vec<_>>());
    check("parted", (0..10).partition::<Vec<u8>, _>(|n| n % 3 == 0));
    check(
        "extremes",
        (
            words.iter().max_by_key(|word| word.len()),
            words.iter().min(),
            words.iter().rev().position(|word| word.len() == 3),
        ),
    );
    check(
        "a result of all",
        ["1", "2", "x"].iter().map(|text| text.parse::<u8>()).collect::<Result<Vec<_>, _>>().is_err(),
    );
    check("peeked", {
        let mut numbers = (1..8).peekable();
        let small: Vec<_> = std::iter::from_fn(|| numbers.next_if(|n| *n < 4)).collect();
        (small, numbers.peek().copied())
    });
    let mut sorted: Vec<u32> = (0..1000).map(|n: u32| n.wrapping_mul(2_654_435_761) % 1000).collect();
    sorted.sort_by_key(|n| n % 10);
    let first = sorted[..3].to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    check("sorts are stable", (first, sorted.binary_search(&500).is_ok(), sorted.len()));
    let grouped = words.iter().fold(BTreeMap::<usize, Vec<&str>>::new(), |mut groups, word| {
        groups.entry(word.len()).or_default().push(word);
        groups
    });
    check("grouped", grouped);
    check(
        "sets",
        (
            (1..6).collect::<BTreeSet<_>>().intersection(&(3..9).collect()).copied().collect::<Vec<_>>(),
            [1, 2].iter().collect::<LinkedList<_>>().len(),
        ),
    );
    let mut counts = HashMap::new();
    "abracadabra".chars().for_each(|char| *counts.entry(char).or_insert(0) += 1);
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_unstable();
    check("counted", counts);
}

fn references() {
    let strong = Rc::new(5);
    let weak: Weak<i32> = Rc::downgrade(&strong);
    check("weak references", (weak.upgrade(), Rc::weak_count(&strong)));
    drop(strong);
    check("that are dead", weak.upgrade());
    let mut shared = Arc::new(vec![1]);
    let other = shared.clone();
    Arc::make_mut(&mut shared).push(2);
    check("copied when written", (shared, other));
    let functions: Vec<Box<dyn Fn(i32) -> i32>> = vec![Box::new(|x| x + 1), Box::new(move |x| x * 2)];
    check("boxed functions", functions.iter().fold(5, |x, function| function(x)));
    check("sizes", (size_of::<Option<Box<u8>>>(), align_of::<u128>(), size_of::<Option<char>>()));
}

fn streams() {
    let mut cursor = Cursor::new(Vec::new());
    cursor.write_all(b"line one\nline two\nrest").unwrap();
    cursor.seek(SeekFrom::Start(5)).unwrap();
    let mut reader = BufReader::with_capacity(4, cursor);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let mut rest = Vec::new();
    let read = reader.read_to_end(&mut rest).unwrap();
    check("buffered reading", (line, read, String::from_utf8(rest)));
    let mut writer = BufWriter::with_capacity(8, Vec::new());
    (0..20).for_each(|n| write!(writer, "{n} ").unwrap());
    check("buffered writing", writer.into_inner().map(|bytes| bytes.len()).ok());
    check("chained and cut", {
        let mut out = String::new();
        (&b"abc"[..]).chain(&b"defgh"[..]).take(5).read_to_string(&mut out).map(|read| (read, out)).ok()
    });
    check("too little", (&b"ab"[..]).read_exact(&mut [0; 3]).map_err(|error| error.kind()));
    check("copied", std::io::copy(&mut &[7_u8; 9000][..], &mut std::io::sink()).ok());
}

fn together() {
    let sums: Vec<u64> = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8_u64).map(|n| scope.spawn(move || (n * 1000..(n + 1) * 1000).map(|x| x * x).sum())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    check("a sum in parts", sums.iter().sum::<u64>());
    let (counter, flag, place) = (AtomicU64::new(0), AtomicBool::new(false), AtomicPtr::new(std::ptr::null_mut()));
    let mut value = 5_u32;
    let address: *mut u32 = &raw mut value;
    thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| (0..1000).for_each(|_| _ = counter.fetch_add(1, Relaxed)));
        }
        let sent = SendPointer(address);
        let (flag, place) = (&flag, &place);
        scope.spawn(move || {
            let sent = sent;
            place.store(sent.0, Release);
            flag.store(true, Release);
        });
        while !flag.load(Acquire) {
            thread::yield_now();
        }
        check("a pointer that was handed over", place.load(Acquire) == address);
    });
    check("ten thousand counts", counter.into_inner());
    let signed = AtomicI64::new(5);
    check(
        "exchanges",
        (
            signed.compare_exchange(5, 6, SeqCst, SeqCst),
            signed.compare_exchange(5, 7, SeqCst, SeqCst),
            signed.fetch_max(9, SeqCst),
            signed.swap(1, SeqCst),
            signed.fetch_update(SeqCst, SeqCst, |x| (x < 0).then_some(0)),
        ),
    );
    let pipeline = thread::scope(|scope| {
        let (first, second) = std::sync::mpsc::sync_channel::<u32>(3);
        let (third, last) = std::sync::mpsc::channel();
        scope.spawn(move || (0..100).for_each(|n| first.send(n).unwrap()));
        scope.spawn(move || second.iter().filter(|n| n % 7 == 0).for_each(|n| third.send(n * 2).unwrap()));
        last.iter().collect::<Vec<_>>()
    });
    check("a pipeline", pipeline);
}

struct SendPointer(*mut u32);
// SAFETY: the scope ends before what it points to does.
unsafe impl Send for SendPointer {}
