//! Commits: how changes become stable.

use recordstore::{AppendError, Batch, BlockDevice};

use crate::BLOCK_BYTES;
use crate::error::FsError;
use crate::fs::FileSystem;
use crate::inode::{Content, Ino, Inode};
use crate::record::{InodeRecord, Record, Runs, VERSION};

/// A batch of a new log is written when it is as long as this.
const BATCH_BYTES: usize = 48 * 1024;
/// Memory for batches that is kept between commits.
const KEPT_BYTES: usize = 16 * 1024;
/// A log is replaced when it is this much longer than twice its length when it was new.
const SLACK_BYTES: u64 = 512 * 1024;

impl<D: BlockDevice + Clone> FileSystem<D> {
    /// Makes everything stable: when it returns, it is there after a crash.
    ///
    /// # Errors
    /// [`FsError::Io`]: what was changed since the last sync may or may not be there after a crash, as a whole; calling it
    /// again tries again. [`FsError::NoSpace`] when the metadata log is too small for what there is.
    pub async fn sync(&mut self) -> Result<(), FsError> {
        if !self.is_changed() {
            return Ok(());
        }
        #[cfg(test)]
        {
            self.commits.0 += 1;
        }
        self.write_out().await?;
        self.flush_data().await?;
        // From here on it may be that the device has a commit that speaks of every place that is taken.
        self.space.seal();
        if self.store.is_switching() {
            self.store.switch().await.map_err(failed)?;
            self.whole_bytes = self.store.usage().live_bytes;
        }
        let is_long = self.store.usage().live_bytes > 2 * self.whole_bytes + SLACK_BYTES;
        let appended = if self.store.is_broken() || is_long { Ok(false) } else { self.append_changes().await };
        if !appended? {
            self.write_whole().await?;
        }
        self.changes = Default::default();
        self.space.committed();
        #[cfg(test)]
        {
            self.commits.1 += 1;
        }
        Ok(())
    }

    async fn flush_data(&mut self) -> Result<(), FsError> {
        #[cfg(test)]
        if self.sabotage == crate::fs::Sabotage::NoDataFlush {
            self.unflushed = false;
        }
        if self.unflushed {
            self.data.flush().await.map_err(|_| FsError::Io)?;
            self.unflushed = false;
        }
        Ok(())
    }

    /// Appends what has changed to the log. `false` if it does not fit: nothing was written then.
    async fn append_changes(&mut self) -> Result<bool, FsError> {
        let mut batch = core::mem::take(&mut self.batch);
        self.describe_changes(&mut batch);
        let appended = match self.store.append(&batch).await {
            Ok(_) => self.store.sync().await.map(|()| true),
            Err(AppendError::Full { .. }) => Ok(false),
            Err(error) => Err(error),
        };
        batch.clear(KEPT_BYTES);
        self.batch = batch;
        appended.map_err(failed)
    }

    fn describe_changes(&self, batch: &mut Batch) {
        Record::Begin { whole: false }.put(batch);
        for (&ino, inode) in self.changes.inodes.iter().filter_map(|ino| self.inodes.get_key_value(ino)) {
            describe(ino, inode).put(batch);
        }
        for (&(directory, ref name), &ino) in &self.changes.entries {
            Record::Entry { directory, ino, name }.put(batch);
        }
        for (&ino, &index) in &self.changes.cuts {
            Record::Cut { ino, index }.put(batch);
        }
        let mut runs = Runs::default();
        for &(ino, index) in &self.changes.blocks {
            let Some(Content::File { map, .. }) = self.inodes.get(&ino).map(|inode| &inode.content) else { continue };
            let place = map.get(index).unwrap_or_default();
            runs.add(batch, ino, index, place.block, place.sum());
        }
        runs.end(batch);
        for &ino in &self.changes.gone {
            Record::Gone { ino }.put(batch);
        }
        Record::End { next_ino: self.next_ino }.put(batch);
    }

    /// Writes all metadata to a new log and puts that in the old one's place.
    pub(crate) async fn write_whole(&mut self) -> Result<(), FsError> {
        self.store.begin().map_err(failed)?;
        if let Err(error) = self.append_whole().await {
            self.store.abandon();
            return Err(failed(error));
        }
        self.store.switch().await.map_err(failed)?;
        self.whole_bytes = self.store.usage().live_bytes;
        Ok(())
    }

    async fn append_whole(&mut self) -> Result<(), AppendError<D::Error>> {
        let Self { store, inodes, batch, space, next_ino, .. } = self;
        batch.clear(KEPT_BYTES);
        Record::Format { version: VERSION, block_bytes: BLOCK_BYTES as u32, data_blocks: space.blocks() }.put(batch);
        Record::Begin { whole: true }.put(batch);
        for (&ino, inode) in inodes.iter() {
            describe(ino, inode).put(batch);
            match &inode.content {
                Content::Directory { entries, .. } => {
                    for (name, &entry) in entries {
                        Record::Entry { directory: ino, ino: entry, name }.put(batch);
                        if batch.bytes() >= BATCH_BYTES {
                            store.append_next(batch).await?;
                            batch.clear(KEPT_BYTES);
                        }
                    }
                }
                Content::File { map, .. } => {
                    let mut runs = Runs::default();
                    for (index, place) in map.iter() {
                        runs.add(batch, ino, index, place.block, place.sum());
                        if batch.bytes() >= BATCH_BYTES {
                            store.append_next(batch).await?;
                            batch.clear(KEPT_BYTES);
                        }
                    }
                    runs.end(batch);
                }
                Content::Link { .. } => {}
            }
        }
        Record::End { next_ino: *next_ino }.put(batch);
        store.append_next(batch).await?;
        batch.clear(KEPT_BYTES);
        Ok(())
    }
}

fn describe(ino: Ino, inode: &Inode) -> Record<'_> {
    let (bytes, parent, target): (u64, Ino, &[u8]) = match &inode.content {
        Content::File { bytes, .. } => (*bytes, 0, &[]),
        Content::Directory { parent, .. } => (0, *parent, &[]),
        Content::Link { target } => (0, 0, target),
    };
    let Inode { mode, links, times, .. } = *inode;
    Record::Inode(InodeRecord { ino, kind: inode.kind(), mode, links, bytes, times, parent, target })
}

fn failed<E>(error: AppendError<E>) -> FsError {
    match error {
        AppendError::Full { .. } => FsError::NoSpace,
        _ => FsError::Io,
    }
}
