//! A part of a device as a device.

use recordstore::BlockDevice;

/// The blocks of a device from `first` on, `blocks` of them.
#[derive(Clone, Debug)]
pub(crate) struct Part<D> {
    pub device: D,
    pub first: u64,
    pub blocks: u64,
}

impl<D: BlockDevice> BlockDevice for Part<D> {
    type Error = D::Error;

    fn blocks(&self) -> u64 {
        self.blocks
    }

    async fn read(&self, first_block: u64, into: &mut [u8]) -> Result<(), D::Error> {
        self.device.read(self.first + first_block, into).await
    }

    async fn write(&self, first_block: u64, from: &[u8]) -> Result<(), D::Error> {
        self.device.write(self.first + first_block, from).await
    }

    async fn write_zeroes(&self, first_block: u64, blocks: u64) -> Result<(), D::Error> {
        self.device.write_zeroes(self.first + first_block, blocks).await
    }

    async fn discard(&self, first_block: u64, blocks: u64) -> Result<(), D::Error> {
        self.device.discard(self.first + first_block, blocks).await
    }

    async fn flush(&self) -> Result<(), D::Error> {
        self.device.flush().await
    }
}
