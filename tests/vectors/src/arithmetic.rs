//! Arithmetic and collections: what a translator could get wrong without any codec noticing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;

use super::{Lines, bytes_line};

/// A generator: the tests need variety, not quality.
struct Words(u64);

impl Words {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        // Numbers of all sizes.
        self.0 >> (self.0 >> 58)
    }
}

/// Writes its lines.
pub fn run(line: Lines<'_>) {
    let mut text = String::new();
    let mut words = Words(42);
    for _ in 0..400 {
        let (a, b) = (black_box(words.next()), black_box(words.next()));
        integers(&mut text, a, b);
        floats(&mut text, a, b);
    }
    bytes_line(line, "arithmetic", text.as_bytes());
    blocks(line);
    unaligned(line);
    collections(line);
}

fn integers(text: &mut String, a: u64, b: u64) {
    let (signed, by) = (a as i64, (b as i64).wrapping_sub(1 << 20));
    let shift = (b & 63) as u32;
    // Writing to a string cannot fail, here and below.
    let _ = writeln!(text, "{a:x} {b:x} {:x} {:x}", a.wrapping_mul(b), u128::from(a) * u128::from(b));
    let _ = writeln!(
        text,
        "{:?} {:?} {:?} {:?}",
        a.checked_div(b),
        a.checked_rem(b),
        signed.checked_div(by),
        signed.checked_rem(by)
    );
    let _ = writeln!(text, "{:x} {:x} {:x} {:x}", a << shift, a >> shift, signed >> shift, a.rotate_left(shift));
    let _ = writeln!(text, "{} {} {} {:x}", a.leading_zeros(), a.trailing_zeros(), a.count_ones(), a.swap_bytes());
    let (low, other) = (a as u32, b as u32);
    let _ = writeln!(
        text,
        "{:x} {:?} {:?} {}",
        low.wrapping_mul(other),
        low.checked_div(other),
        (low as i32).checked_rem(other as i32),
        (a as i8) as i64 + i64::from(b as i16)
    );
    let _ = writeln!(text, "{:?} {:?} {:?}", a.checked_add(b), a.overflowing_sub(b), low.checked_mul(other));
    let _ = writeln!(text, "{:02x?} {:02x?}", a.to_be_bytes(), b.to_le_bytes());
}

fn floats(text: &mut String, a: u64, b: u64) {
    let (x, y) = (a as f64 / 3.0, b as i32 as f64);
    let _ = writeln!(text, "{x} {y} {} {:e} {:.3}", x + y, x * y, x / y);
    let _ = writeln!(text, "{} {} {} {}", x as u64, y as i32, (x * 1e10) as i64, x as f32);
    let _ = writeln!(text, "{:x} {:?} {:?}", f64::from_bits(a).to_bits(), x.partial_cmp(&y), (x - y).min(y).max(-x));
    let _ = writeln!(
        text,
        "{} {} {} {} {}",
        (y / 7.0).floor(),
        (y / 7.0).ceil(),
        (y / 7.0).trunc(),
        (y / 7.0).round_ties_even(),
        x.sqrt()
    );
}

/// Copies and fills of every alignment, up and down.
fn blocks(line: Lines<'_>) {
    const SPAN: usize = 100;
    let mut bytes: Vec<u8> = (0..4 * SPAN).map(|index| (index * 7 + 3) as u8).collect();
    for length in 0..SPAN {
        for shift in 0..8 {
            bytes.copy_within(black_box(shift)..shift + length, SPAN + length % 5);
            bytes.copy_within(black_box(SPAN)..SPAN + length, SPAN + shift);
            bytes.copy_within(black_box(2 * SPAN + shift)..2 * SPAN + shift + length, 2 * SPAN);
            bytes[3 * SPAN + shift..3 * SPAN + length.max(shift)].fill(black_box(length as u8));
            bytes[0] = bytes[0].wrapping_add(1);
        }
    }
    bytes_line(line, "blocks", &bytes);
}

/// Loads and stores of every width at every alignment, of which the compiler knows nothing. What lies beside a store must stay.
fn unaligned(line: Lines<'_>) {
    const WIDEST_BYTES: usize = 8;
    let mut bytes: Vec<u8> = (0..64).map(|index| (index * 11 + 5) as u8).collect();
    let mut text = String::new();
    for round in 0..64u64 {
        for shift in 0..2 * WIDEST_BYTES {
            let place = bytes[black_box(16 + shift)..].as_mut_ptr();
            // SAFETY: at least 32 bytes follow the place, and nothing here asks for an alignment.
            unsafe {
                let (half, word) = (place.cast::<u16>().read_unaligned(), place.cast::<u32>().read_unaligned());
                let (wide, float) = (place.cast::<u64>().read_unaligned(), place.cast::<f64>().read_unaligned());
                let (signed, short) = (place.cast::<i16>().read_unaligned(), place.cast::<f32>().read_unaligned());
                let _ =
                    writeln!(text, "{half:x} {word:x} {wide:x} {signed} {:x} {:x}", float.to_bits(), short.to_bits());
                place.cast::<u16>().write_unaligned(black_box(half.wrapping_mul(3)));
                place.add(3).cast::<u32>().write_unaligned(black_box(word.wrapping_add(round as u32)));
                place.add(9).cast::<u64>().write_unaligned(black_box(wide.rotate_left(13) ^ round));
                place.add(18).cast::<f64>().write_unaligned(black_box(round as f64 / 7.0));
                place.add(27).cast::<f32>().write_unaligned(black_box(round as f32 / 3.0));
            }
        }
    }
    text.extend(bytes.iter().map(|byte| char::from(*byte)));
    bytes_line(line, "unaligned", text.as_bytes());
}

fn collections(line: Lines<'_>) {
    let mut words = Words(7);
    let mut map: BTreeMap<u64, String> = BTreeMap::new();
    for index in 0..3000u64 {
        let key = words.next() % 5000;
        if index % 3 == 2 {
            map.remove(&key);
        } else {
            map.insert(key, format!("v{index:05}"));
        }
    }
    let mut sorted: Vec<(String, u64)> = map.iter().map(|(key, value)| (value.clone(), *key)).collect();
    sorted.sort_by(|one, other| one.0[3..].cmp(&other.0[3..]).then(other.1.cmp(&one.1)));
    let shapes: [&dyn Fn(u64) -> u64; 2] = [&|x| x.pow(2), &|x| x.isqrt()];
    let text = format!("{map:?}{sorted:?}{}", shapes[black_box(1)](map.len() as u64 * 1000) + shapes[black_box(0)](12));
    bytes_line(line, "collections", text.as_bytes());
}
