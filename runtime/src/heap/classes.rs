//! Size classes: multiples of 16 bytes up to 128, then four to each power of two, so that at most a fifth is wasted.

use core::alloc::Layout;

/// Largest allocation that has a class.
pub const SMALL_BYTES: usize = 8192;
/// Number of classes.
pub(super) const CLASSES: usize = LINEAR + 4 * 6;

/// Classes that are multiples of 16 bytes.
const LINEAR: usize = 8;
/// The largest of them.
const LINEAR_BYTES: usize = 16 * LINEAR;
const LINEAR_BITS: usize = LINEAR_BYTES.trailing_zeros() as usize;

/// The class that serves a layout, or `None` for a large one.
#[inline]
pub(super) const fn class_of(layout: Layout) -> Option<usize> {
    let (bytes, align) = (layout.size(), layout.align());
    if align <= 16 {
        return class_of_bytes(bytes);
    }
    // Powers of two are aligned to themselves, because blocks are aligned to more.
    let bytes = if bytes > align { bytes } else { align };
    if bytes > SMALL_BYTES { None } else { class_of_bytes(bytes.next_power_of_two()) }
}

#[inline]
const fn class_of_bytes(bytes: usize) -> Option<usize> {
    if bytes <= LINEAR_BYTES {
        return Some(bytes.saturating_sub(1) / 16);
    }
    if bytes > SMALL_BYTES {
        return None;
    }
    let last = bytes - 1;
    let log = last.ilog2() as usize;
    Some(LINEAR + (log - LINEAR_BITS) * 4 + ((last >> (log - 2)) & 3))
}

/// Bytes of an object of each class.
const BYTES: [usize; CLASSES] = {
    let mut table = [0; CLASSES];
    let mut class = 0;
    while class < CLASSES {
        table[class] = if class < LINEAR {
            (class + 1) * 16
        } else {
            let step = class - LINEAR;
            (4 + step % 4 + 1) << (LINEAR_BITS + step / 4 - 2)
        };
        class += 1;
    }
    table
};

/// Bytes of an object of a class.
#[inline]
pub(super) const fn bytes_of(class: usize) -> usize {
    BYTES[class]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_gets_the_smallest_class_that_holds_it() {
        for bytes in 0..=SMALL_BYTES {
            let class = class_of_bytes(bytes).expect("small");
            assert!(bytes_of(class) >= bytes, "{bytes} bytes in a class of {}", bytes_of(class));
            assert!(class == 0 || bytes_of(class - 1) < bytes, "{bytes} bytes would fit a smaller class");
        }
        assert_eq!(class_of_bytes(SMALL_BYTES), Some(CLASSES - 1));
        assert_eq!(class_of_bytes(SMALL_BYTES + 1), None);
    }

    #[test]
    fn alignment_beyond_16_bytes_gets_a_power_of_two() {
        for (bytes, align, expected) in [(1, 32, 32), (33, 32, 64), (100, 64, 128), (3000, 4096, 4096)] {
            let layout = Layout::from_size_align(bytes, align).expect("valid");
            assert_eq!(class_of(layout).map(bytes_of), Some(expected));
        }
        assert_eq!(class_of(Layout::from_size_align(1, 16384).expect("valid")), None);
    }
}
