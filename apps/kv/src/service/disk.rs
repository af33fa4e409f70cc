//! The machine's disk as the record store wants it.

use recordstore::BlockDevice;
use runtime::block::{Disk, Errno};

const _: () = assert!(recordstore::BLOCK_BYTES == runtime::block::BLOCK_BYTES);

/// A disk of this machine.
pub(super) struct DataDisk(Disk);

impl DataDisk {
    /// The disk of this name.
    pub fn open(name: &str) -> Result<Self, Errno> {
        Disk::open(name).map(Self)
    }
}

impl BlockDevice for DataDisk {
    type Error = Errno;

    fn blocks(&self) -> u64 {
        self.0.blocks()
    }

    async fn read(&self, first_block: u64, into: &mut [u8]) -> Result<(), Errno> {
        self.0.read(first_block, into).await
    }

    async fn write(&self, first_block: u64, from: &[u8]) -> Result<(), Errno> {
        self.0.write(first_block, from).await
    }

    async fn write_zeroes(&self, first_block: u64, blocks: u64) -> Result<(), Errno> {
        self.0.write_zeroes(first_block, blocks).await
    }

    async fn discard(&self, first_block: u64, blocks: u64) -> Result<(), Errno> {
        self.0.discard(first_block, blocks).await
    }

    async fn flush(&self) -> Result<(), Errno> {
        self.0.flush().await
    }
}
