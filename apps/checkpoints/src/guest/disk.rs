//! A part of a disk, so that an archive and a log can lie on one.

use alloc::string::String;
use core::ops::Range;

use runtime::block::{BLOCK_BYTES, Disk, Errno};
use runtime::checkpoint::{Archive, BlockDevice};

use super::text;

const NAME: &str = "data";

/// Some blocks of a disk.
#[derive(Clone, Debug)]
pub struct Part {
    disk: Disk,
    blocks: Range<u64>,
}

impl Part {
    /// The two halves of the disk.
    pub fn halves() -> Result<(Self, Self), String> {
        let disk = Disk::open(NAME).map_err(text)?;
        let half = disk.blocks() / 2;
        Ok((Self { disk, blocks: 0..half }, Self { disk, blocks: half..disk.blocks() }))
    }

    fn place(&self, first_block: u64, blocks: u64) -> Result<u64, Errno> {
        let first = self.blocks.start.checked_add(first_block);
        first.filter(|first| blocks <= self.blocks.end.saturating_sub(*first)).ok_or(Errno::ENXIO)
    }
}

/// The archive on the whole disk.
pub async fn archive() -> Result<Archive<Disk>, String> {
    Archive::open(Disk::open(NAME).map_err(text)?).await.map_err(text)
}

impl BlockDevice for Part {
    type Error = Errno;

    fn blocks(&self) -> u64 {
        self.blocks.end - self.blocks.start
    }

    async fn read(&self, first_block: u64, into: &mut [u8]) -> Result<(), Errno> {
        self.disk.read(self.place(first_block, (into.len() / BLOCK_BYTES) as u64)?, into).await
    }

    async fn write(&self, first_block: u64, from: &[u8]) -> Result<(), Errno> {
        self.disk.write(self.place(first_block, (from.len() / BLOCK_BYTES) as u64)?, from).await
    }

    async fn write_zeroes(&self, first_block: u64, blocks: u64) -> Result<(), Errno> {
        self.disk.write_zeroes(self.place(first_block, blocks)?, blocks).await
    }

    async fn discard(&self, first_block: u64, blocks: u64) -> Result<(), Errno> {
        self.disk.discard(self.place(first_block, blocks)?, blocks).await
    }

    async fn flush(&self) -> Result<(), Errno> {
        self.disk.flush().await
    }
}
