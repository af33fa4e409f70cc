//! Where the blocks of a file lie.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;

/// Blocks of a file whose places are kept together.
const GROUP: u64 = 64;

/// Memory that a group takes, in bytes.
pub(crate) const GROUP_BYTES: usize = GROUP as usize * size_of::<Place>() + 48;

/// Where a block lies, and the checksum of what is there. Block 0 of the device's data is never given out: it is a hole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub block: u32,
    sum: [u32; 2],
}

impl Place {
    pub fn new(block: u32, sum: u64) -> Self {
        Self { block, sum: [sum as u32, (sum >> 32) as u32] }
    }

    pub fn sum(self) -> u64 {
        u64::from(self.sum[0]) | u64::from(self.sum[1]) << 32
    }

    fn is_hole(self) -> bool {
        self.block == 0
    }
}

type Group = [Place; GROUP as usize];

/// The places of a file's blocks. A hole has none.
#[derive(Clone, Debug, Default)]
pub(crate) struct BlockMap {
    groups: BTreeMap<u64, Box<Group>>,
    blocks: u64,
}

impl BlockMap {
    pub fn get(&self, index: u64) -> Option<Place> {
        let place = *self.groups.get(&(index / GROUP))?.get((index % GROUP) as usize)?;
        (!place.is_hole()).then_some(place)
    }

    /// Blocks that have a place.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// Whether a place for this block needs memory.
    pub fn needs_group(&self, index: u64) -> bool {
        !self.groups.contains_key(&(index / GROUP))
    }

    /// Sets a block's place: the one that it had.
    pub fn set(&mut self, index: u64, place: Place) -> Option<Place> {
        if place.is_hole() && self.needs_group(index) {
            return None;
        }
        let group = self.groups.entry(index / GROUP).or_insert_with(|| Box::new([Place::default(); GROUP as usize]));
        let slot = group.get_mut((index % GROUP) as usize)?;
        let old = core::mem::replace(slot, place);
        self.blocks += u64::from(!place.is_hole());
        self.blocks -= u64::from(!old.is_hole());
        (!old.is_hole()).then_some(old)
    }

    /// Takes the places of all blocks from `index` on away.
    #[inline(never)]
    pub fn cut(&mut self, index: u64, mut each: impl FnMut(Place)) {
        let mut cut = |places: &mut [Place], blocks: &mut u64| {
            for place in places.iter_mut().filter(|place| !place.is_hole()) {
                each(core::mem::take(place));
                *blocks -= 1;
            }
        };
        if let Some(group) = self.groups.get_mut(&(index / GROUP)) {
            cut(group.get_mut((index % GROUP) as usize..).unwrap_or_default(), &mut self.blocks);
        }
        for (_, mut group) in self.groups.split_off(&index.div_ceil(GROUP)) {
            cut(&mut group[..], &mut self.blocks);
        }
    }

    /// All places in the order of the blocks.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Place)> {
        let places = self.groups.iter().flat_map(|(group, places)| (group * GROUP..).zip(**places));
        places.filter(|(_, place)| !place.is_hole())
    }
}
