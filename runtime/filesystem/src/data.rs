//! What files hold.

use recordstore::BlockDevice;
use xxhash_rust::xxh64::xxh64;

use crate::blocks::{BlockMap, Place};
use crate::cache::{Bytes, Key};
use crate::error::FsError;
use crate::fs::{FileSystem, Weight};
use crate::inode::{Content, Ino};
use crate::{BLOCK_BYTES, MAX_FILE_BYTES};

/// Blocks of the device in a block of a file.
pub(crate) const SECTORS: u64 = (BLOCK_BYTES / recordstore::BLOCK_BYTES) as u64;
/// Blocks that are read or written at a time, at most.
const MAX_BLOCKS: usize = 16;

/// The checksum of a block; it is keyed with the block's file and place, so that one is not taken for another.
pub(crate) fn checksum((ino, index): Key, bytes: &[u8]) -> u64 {
    xxh64(bytes, ino.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(index))
}

/// The part of a block that a range of a file covers: the block, where in it, and how many bytes.
fn piece(offset: u64, left_bytes: usize) -> (u64, usize, usize) {
    let within = (offset % BLOCK_BYTES as u64) as usize;
    (offset / BLOCK_BYTES as u64, within, left_bytes.min(BLOCK_BYTES - within))
}

impl<D: BlockDevice + Clone> FileSystem<D> {
    /// Length of a file in bytes.
    pub(crate) fn file_bytes(&self, ino: Ino) -> Result<u64, FsError> {
        match self.inode(ino)?.content {
            Content::File { bytes, .. } => Ok(bytes),
            Content::Directory { .. } => Err(FsError::IsDirectory),
            Content::Link { .. } => Err(FsError::Invalid),
        }
    }

    fn set_file_bytes(&mut self, ino: Ino, new_bytes: u64, now_ns: u64) -> Result<(), FsError> {
        let inode = self.change(ino)?;
        inode.times.touch(now_ns);
        if let Content::File { bytes, .. } = &mut inode.content {
            *bytes = new_bytes;
        }
        Ok(())
    }

    fn map(&self, ino: Ino) -> Result<&BlockMap, FsError> {
        match &self.inode(ino)?.content {
            Content::File { map, .. } => Ok(map),
            _ => Err(FsError::Invalid),
        }
    }

    /// Reads from `offset` on: how many bytes, fewer than asked for only at the file's end.
    ///
    /// # Errors
    /// [`FsError::Io`] if a block cannot be read or is not what was written; [`FsError::IsDirectory`],
    /// [`FsError::NotFound`].
    pub async fn read(&mut self, ino: Ino, offset: u64, into: &mut [u8]) -> Result<usize, FsError> {
        let left_bytes = self.file_bytes(ino)?.saturating_sub(offset);
        let wanted = into.len().min(usize::try_from(left_bytes).unwrap_or(usize::MAX));
        let mut done = 0;
        while done < wanted {
            let (index, within, bytes) = piece(offset + done as u64, wanted - done);
            let Some(place) = into.get_mut(done..done + bytes) else { break };
            match self.loaded((ino, index)).await {
                Ok(Some(page)) => place.copy_from_slice(page.get(within..within + bytes).unwrap_or_default()),
                Ok(None) => place.fill(0),
                Err(error) if done == 0 => return Err(error),
                // What came before is good; the next read begins with the error.
                Err(_) => return Ok(done),
            }
            done += bytes;
        }
        Ok(done)
    }

    /// A block's content; nothing if it is a hole.
    async fn loaded(&mut self, key: Key) -> Result<Option<&Bytes>, FsError> {
        if !self.cache.has(key) {
            let Some(place) = self.map(key.0)?.get(key.1) else { return Ok(None) };
            self.fetch(key, place).await?;
        }
        // One that has a place is no hole, whatever the cache has made of it.
        self.cache.get(key).map(Some).ok_or(FsError::Io)
    }

    /// Reads a block from the device, and those behind it if the one before is there: the file is read in order, then.
    async fn fetch(&mut self, (ino, index): Key, first: Place) -> Result<(), FsError> {
        let in_order = index == 0 || self.cache.has((ino, index - 1));
        let mut places = [first; MAX_BLOCKS];
        let mut count = 1;
        let map = self.map(ino)?;
        while in_order && let Some(slot) = places.get_mut(count) {
            let next = map.get(index + count as u64);
            let Some(next) = next.filter(|next| next.block == first.block + count as u32) else { break };
            if self.cache.has((ino, index + count as u64)) {
                break;
            }
            *slot = next;
            count += 1;
        }
        let mut buffer = core::mem::take(&mut self.buffer);
        buffer.resize(count * BLOCK_BYTES, 0);
        let read = self.data.read(u64::from(first.block) * SECTORS, &mut buffer).await;
        let mut good = 0;
        if read.is_ok() {
            let (blocks, _) = buffer.as_chunks::<BLOCK_BYTES>();
            let read = (index..).zip(blocks).zip(places);
            good = read.take_while(|((at, block), place)| !self.is_wrong((ino, *at), block, *place)).count();
            // The one that was asked for comes last: a crowded cache drops others for it, and not it for others.
            for (at, block) in blocks.iter().enumerate().take(good).rev() {
                self.cache.keep((ino, index + at as u64), block);
            }
        }
        self.buffer = buffer;
        if good > 0 { Ok(()) } else { Err(FsError::Io) }
    }

    fn is_wrong(&self, key: Key, bytes: &Bytes, place: Place) -> bool {
        #[cfg(test)]
        if self.sabotage == crate::fs::Sabotage::BelieveData {
            return false;
        }
        checksum(key, bytes) != place.sum()
    }

    /// Sees to it that a block may be changed: there is room for it, and for its place.
    async fn reserve(&mut self, key: Key) -> Result<(), FsError> {
        if self.cache.is_dirty(key) || self.has_room(key)? {
            return Ok(());
        }
        // What was released is free after a commit, and what was changed is counted as it is.
        self.sync().await?;
        if self.has_room(key)? { Ok(()) } else { Err(FsError::NoSpace) }
    }

    fn has_room(&self, (ino, index): Key) -> Result<bool, FsError> {
        let changed = self.cache.dirty() + 1;
        if self.map(ino)?.get(index).is_some() {
            // It has a place in the metadata; the blocks that are kept are for this.
            return Ok(u64::from(self.space.free()) >= changed as u64);
        }
        let fits = u64::from(self.space.free()) >= changed as u64 + u64::from(self.space.kept());
        Ok(fits && self.allow(Weight::BLOCK.and(Weight::GROUP)).is_ok())
    }

    /// Writes at `offset`: how many bytes, fewer than asked for only if the rest has failed.
    ///
    /// # Errors
    /// [`FsError::NoSpace`], [`FsError::TooLarge`], [`FsError::Io`] if a block of which only a part is written cannot be read;
    /// [`FsError::IsDirectory`], [`FsError::NotFound`].
    pub async fn write(&mut self, ino: Ino, offset: u64, from: &[u8], now_ns: u64) -> Result<usize, FsError> {
        let old_bytes = self.file_bytes(ino)?;
        if from.is_empty() {
            return Ok(0);
        }
        let room = MAX_FILE_BYTES.saturating_sub(offset);
        if room == 0 {
            return Err(FsError::TooLarge);
        }
        let wanted = from.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        let mut done = 0;
        let mut outcome = Ok(());
        while done < wanted {
            let (index, within, bytes) = piece(offset + done as u64, wanted - done);
            let Some(piece) = from.get(done..done + bytes) else { break };
            outcome = self.write_block((ino, index), within, piece).await;
            if outcome.is_err() {
                break;
            }
            done += bytes;
            // The next block may need a commit, and with a commit no block lies behind the file's end: whoever makes the file
            // longer after a crash would find it there.
            if !self.sets_length_late() {
                self.set_file_bytes(ino, old_bytes.max(offset + done as u64), now_ns)?;
            }
        }
        if done > 0 && self.sets_length_late() {
            self.set_file_bytes(ino, old_bytes.max(offset + done as u64), now_ns)?;
        }
        if done > 0 { Ok(done) } else { outcome.map(|()| 0) }
    }

    /// A mistake for the tests to find.
    fn sets_length_late(&self) -> bool {
        #[cfg(test)]
        return self.sabotage == crate::fs::Sabotage::LateLength;
        #[cfg(not(test))]
        false
    }

    async fn write_block(&mut self, key: Key, within: usize, piece: &[u8]) -> Result<(), FsError> {
        if self.cache.is_crowded() {
            self.write_out().await?;
        }
        self.reserve(key).await?;
        if piece.len() < BLOCK_BYTES {
            self.loaded(key).await?;
        }
        if let Some(place) = self.cache.change(key).get_mut(within..within + piece.len()) {
            place.copy_from_slice(piece);
        }
        Ok(())
    }

    /// Makes a file shorter, or longer by zeros.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn truncate(&mut self, ino: Ino, bytes: u64, now_ns: u64) -> Result<(), FsError> {
        let old_bytes = self.file_bytes(ino)?;
        if bytes > MAX_FILE_BYTES {
            return Err(FsError::TooLarge);
        }
        if bytes < old_bytes {
            self.cut(ino, bytes).await?;
        }
        self.set_file_bytes(ino, bytes, now_ns)
    }

    /// Takes away what lies behind a length. What is left of its last block ends in zeros, so that a file that grows again
    /// reads as zeros there.
    async fn cut(&mut self, ino: Ino, bytes: u64) -> Result<(), FsError> {
        let (last, kept, _) = piece(bytes, 0);
        let is_there = self.cache.has((ino, last)) || self.map(ino)?.get(last).is_some();
        if kept > 0 && is_there {
            self.reserve((ino, last)).await?;
            self.loaded((ino, last)).await?;
            self.cache.change((ino, last)).get_mut(kept..).unwrap_or_default().fill(0);
        }
        let first = bytes.div_ceil(BLOCK_BYTES as u64);
        self.cache.forget(ino, first);
        let Content::File { map, .. } = &mut self.change(ino)?.content else { return Ok(()) };
        let mut taken = core::mem::take(map);
        let (groups, blocks) = (taken.groups(), taken.blocks());
        taken.cut(first, |place| self.space.release(place.block));
        let less = Weight::GROUP.times(groups - taken.groups());
        self.lighten(less.and(Weight::BLOCK.times((blocks - taken.blocks()) as usize)));
        if let Content::File { map, .. } = &mut self.change(ino)?.content {
            *map = taken;
        }
        self.changes.cut(ino, first);
        Ok(())
    }

    /// Writes changed blocks to new places. Nothing speaks of those before the next commit.
    pub(crate) async fn write_out(&mut self) -> Result<(), FsError> {
        let mut from = (0, 0);
        loop {
            let run = self.cache.dirty_run(from, MAX_BLOCKS);
            if run.is_empty() {
                return Ok(());
            }
            let (start, count) = self.space.take_run(run.len() as u32).ok_or(FsError::NoSpace)?;
            let run = run.get(..count as usize).unwrap_or(&run);
            let mut buffer = core::mem::take(&mut self.buffer);
            buffer.clear();
            for &key in run {
                buffer.extend_from_slice(self.cache.get(key).map_or(&[0; BLOCK_BYTES], |bytes| bytes));
            }
            self.unflushed = true;
            let written = self.data.write(u64::from(start) * SECTORS, &buffer).await;
            if written.is_err() {
                (start..start + count).for_each(|block| self.space.release(block));
                self.buffer = buffer;
                return Err(FsError::Io);
            }
            let (blocks, _) = buffer.as_chunks::<BLOCK_BYTES>();
            for ((&key, bytes), block) in run.iter().zip(blocks).zip(start..) {
                self.place(key, Place::new(block, checksum(key, bytes)));
            }
            from = run.last().map_or(from, |&(ino, index)| (ino, index + 1));
            self.buffer = buffer;
        }
    }

    /// A changed block has been written to a place.
    fn place(&mut self, key: Key, place: Place) {
        let (ino, index) = key;
        let Some(Content::File { map, .. }) = self.inodes.get_mut(&ino).map(|inode| &mut inode.content) else { return };
        let group = if map.needs_group(index) { Weight::GROUP } else { Weight::default() };
        match map.set(index, place) {
            Some(old) => self.release(old.block),
            None => self.weight = self.weight.and(Weight::BLOCK),
        }
        self.weight = self.weight.and(group);
        self.changes.blocks.insert(key);
        self.cache.clean(key);
    }

    fn release(&mut self, block: u32) {
        self.space.release(block);
        #[cfg(test)]
        if self.sabotage == crate::fs::Sabotage::FreeAtOnce {
            self.space.committed();
        }
    }
}
