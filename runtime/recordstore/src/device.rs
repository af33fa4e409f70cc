//! What the store needs of a device.

use core::fmt::Debug;

/// Bytes of a block: what positions on a device count.
pub const BLOCK_BYTES: usize = 512;

/// A block device, for one thread. All lengths are whole blocks, and no operation is ever short.
///
/// The store keeps at most one operation under way.
#[expect(async_fn_in_trait, reason = "one thread: nothing here crosses to another")]
pub trait BlockDevice {
    /// Why an operation failed.
    type Error: Clone + Debug;

    /// Length of the device in blocks.
    fn blocks(&self) -> u64;

    /// Reads the blocks from `first_block` on until `into`, whose length is a multiple of [`BLOCK_BYTES`], is full.
    ///
    /// # Errors
    /// The device's own.
    async fn read(&self, first_block: u64, into: &mut [u8]) -> Result<(), Self::Error>;

    /// Writes `from`, whose length is a multiple of [`BLOCK_BYTES`], to the blocks from `first_block` on. After an error,
    /// or a crash before the next flush, any part of it may be stored.
    ///
    /// # Errors
    /// The device's own.
    async fn write(&self, first_block: u64, from: &[u8]) -> Result<(), Self::Error>;

    /// Makes `blocks` blocks read as zeros.
    ///
    /// # Errors
    /// The device's own.
    async fn write_zeroes(&self, first_block: u64, blocks: u64) -> Result<(), Self::Error>;

    /// Says that what these blocks hold is not needed any more.
    ///
    /// # Errors
    /// The device's own.
    async fn discard(&self, first_block: u64, blocks: u64) -> Result<(), Self::Error>;

    /// Returns when all that was completed before the call survives a crash.
    ///
    /// # Errors
    /// The device's own. Nothing is then known of what survives.
    async fn flush(&self) -> Result<(), Self::Error>;
}
