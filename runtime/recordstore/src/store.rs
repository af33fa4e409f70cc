//! The store: opening, appending, and replacing a log by a shorter one.

use crate::batch::Batch;
use crate::device::{BLOCK_BYTES, BlockDevice};
use crate::error::{AppendError, OpenError};
use crate::layout::{Found, Kind, SUPERBLOCKS, Superblock};
use crate::log::{Chunks, Log};
use crate::replay::{Read, replay};
use crate::segments::{Geometry, LEAST_BLOCKS, Segments, segment_blocks};
use alloc::vec::Vec;

/// How a store is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Keys the checksums of a store that is made now; an existing one has its own. Nobody who chooses records should
    /// know it.
    pub new_key: u64,
    /// Opens a store that would be [`OpenError::Corrupt`] as if its log ended where it cannot be read any more, and makes
    /// that its end for good: what follows is lost, although it had been stable. Only for somebody who was told and asks
    /// for it.
    pub cut_damaged: bool,
    /// The longest record that this program appends, in bytes: a longer one is refused, and not gathered in memory. Without a
    /// bound ([`None`]) a log may be a single record.
    pub most_record_bytes: Option<u32>,
}

/// What was found when a store was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// Records given to the visitor.
    pub records: u64,
    /// Their bytes, with a length of 4 bytes each.
    pub bytes: u64,
    /// The device was blank, and has a store now.
    pub formatted: bool,
    /// Records that were not stable were found behind the log's end and dropped: the store was not closed in peace.
    pub torn: bool,
    /// Chunks, of one record or many, that had been stable and are lost; only with [`Options::cut_damaged`].
    pub lost_chunks: u64,
}

/// How full a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Segments of the device.
    pub segments: usize,
    /// Segments that the live log may take; the others are for its successor.
    pub live_limit: usize,
    /// Bytes of the device that the live log's chunks take.
    pub live_bytes: u64,
    /// The same of the next log; 0 without one.
    pub next_bytes: u64,
    /// Records in the live log.
    pub live_records: u64,
}

/// An open store; see the crate's text. One task owns it, so operations never overlap.
///
/// A future of it that is dropped before it is done counts as an error of the device: the log is in doubt.
#[derive(Debug)]
pub struct Store<D> {
    device: D,
    geometry: Geometry,
    /// As last made stable.
    superblock: Superblock,
    segments: Segments,
    live: Log,
    next: Option<Log>,
    /// Logs begun in this opening.
    begun: u32,
    /// A switch has begun to write superblocks and has not finished.
    switching: bool,
    buffer: Vec<u8>,
    #[cfg(test)]
    pub(crate) sabotage: Sabotage,
}

/// Mistakes that the tests must find: each is a canary.
#[cfg(test)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sabotage {
    #[default]
    None,
    /// The superblock is written before the new log is stable.
    SwitchBeforeFlush,
    /// The old log's segments are given free before the superblock is stable.
    FreeBeforeSwitch,
    /// Only one of the superblocks is renewed.
    OneSuperblock,
    /// An opening does not take a number of its own.
    SameOpening,
}

impl<D: BlockDevice> Store<D> {
    /// Opens the store on a device, making one if the device is blank, and gives every record of its log to `visit`, in
    /// order. When it returns, all of them are stable.
    ///
    /// # Errors
    /// See [`OpenError`]. Nothing has been written unless the device failed.
    pub async fn open(
        device: D,
        options: Options,
        mut visit: impl FnMut(&[u8]),
    ) -> Result<(Self, Replayed), OpenError<D::Error>> {
        Self::open_with(device, options, &mut visit, |_| ()).await
    }

    pub(crate) async fn open_with(
        device: D,
        options: Options,
        visit: &mut impl FnMut(&[u8]),
        prepare: impl FnOnce(&mut Self),
    ) -> Result<(Self, Replayed), OpenError<D::Error>> {
        let blocks = device.blocks();
        if blocks < LEAST_BLOCKS {
            return Err(OpenError::TooSmall { blocks, needed_blocks: LEAST_BLOCKS });
        }
        let found = match find_superblock(&device).await? {
            Sought::Superblock(found) => Some(found),
            Sought::Blank | Sought::Torn => None,
        };
        let formatted = found.is_none();
        let superblock = found.unwrap_or(Superblock { key: options.new_key, ..of_new_store(blocks) });
        if superblock.blocks != blocks {
            return Err(OpenError::Resized { blocks, expected_blocks: superblock.blocks });
        }
        let geometry = Geometry::new(blocks, superblock.segment_blocks).ok_or(OpenError::Unrecognised)?;
        let Read { log, segments, payload_bytes, torn, lost_chunks } =
            replay(&device, geometry, &superblock, &options, visit).await?;
        let replayed = Replayed { records: log.records, bytes: payload_bytes, formatted, torn, lost_chunks };
        let mut store = Self {
            device,
            geometry,
            superblock,
            segments,
            live: log,
            next: None,
            begun: 0,
            switching: false,
            buffer: Vec::new(),
            #[cfg(test)]
            sabotage: Sabotage::None,
        };
        prepare(&mut store);
        store.take_opening().await.map_err(OpenError::Device)?;
        Ok((store, replayed))
    }

    /// Takes a number for this opening, so that what it writes differs from all that was ever written. The flushes make
    /// what was replayed stable, too.
    async fn take_opening(&mut self) -> Result<(), D::Error> {
        let mut superblock = self.superblock;
        superblock.openings = superblock.openings.wrapping_add(1);
        #[cfg(test)]
        if self.sabotage == Sabotage::SameOpening && superblock.openings > 1 {
            superblock.openings -= 1;
        }
        superblock.kept = self.live.next;
        self.live.opening = superblock.openings;
        self.renew(superblock).await?;
        self.live.stable = self.live.next;
        Ok(())
    }

    /// Writes both superblocks, one after the other. Each goes to the place that does not hold the newest stable one, so
    /// this may be repeated after an error.
    async fn renew(&mut self, superblock: Superblock) -> Result<(), D::Error> {
        for _ in 0..SUPERBLOCKS.len() {
            let superblock = Superblock { sequence: self.superblock.sequence + 1, ..superblock };
            self.device.write(Superblock::place(superblock.sequence), &superblock.encode()).await?;
            self.device.flush().await?;
            self.superblock = superblock;
            #[cfg(test)]
            if self.sabotage == Sabotage::OneSuperblock {
                break;
            }
        }
        Ok(())
    }

    /// Appends the closed records of a batch to the live log and gives how many records it then has. They are stable
    /// after the next [`sync`](Self::sync).
    ///
    /// # Errors
    /// [`AppendError::Full`] has written nothing. After any other the log is in doubt and takes no more until a new one
    /// has taken its place.
    pub async fn append(&mut self, batch: &Batch) -> Result<u64, AppendError<D::Error>> {
        let may_take = self.geometry.live_segments().saturating_sub(self.live.segments.len());
        let may_take = may_take.min(self.segments.free());
        if self.switching {
            return Err(AppendError::Broken);
        }
        let Self { device, geometry, superblock, segments, live, buffer, .. } = self;
        let mut writer = Writer { device, geometry, key: superblock.key, segments, buffer };
        writer.append(live, batch, may_take).await
    }

    /// As [`append`](Self::append), to the next log.
    ///
    /// # Errors
    /// As [`append`](Self::append), and [`AppendError::NotBegun`].
    pub async fn append_next(&mut self, batch: &Batch) -> Result<u64, AppendError<D::Error>> {
        if self.switching {
            return Err(AppendError::Broken);
        }
        let Self { device, geometry, superblock, segments, next, buffer, .. } = self;
        let next = next.as_mut().ok_or(AppendError::NotBegun)?;
        let may_take = segments.free();
        let mut writer = Writer { device, geometry, key: superblock.key, segments, buffer };
        writer.append(next, batch, may_take).await
    }

    /// Makes stable what was appended to either log.
    ///
    /// # Errors
    /// Of the device: what is stable is then not known, and both logs are in doubt. [`AppendError::Broken`] if the live
    /// log is.
    pub async fn sync(&mut self) -> Result<(), AppendError<D::Error>> {
        if self.switching || self.live.broken {
            return Err(AppendError::Broken);
        }
        self.flush_logs().await
    }

    async fn flush_logs(&mut self) -> Result<(), AppendError<D::Error>> {
        // Until the flush has returned well, nothing may rest on it; so it is also if the future is dropped.
        let was_broken = self.live.broken;
        self.live.broken = true;
        let next_was_broken = self.next.as_mut().is_some_and(|next| core::mem::replace(&mut next.broken, true));
        self.device.flush().await.map_err(AppendError::Device)?;
        self.live.broken = was_broken;
        self.live.stable = self.live.next;
        if let Some(next) = &mut self.next {
            next.broken = next_was_broken;
            next.stable = next.next;
        }
        Ok(())
    }

    /// Begins a log that shall take the live one's place. One that was begun before is dropped.
    ///
    /// # Errors
    /// [`AppendError::Full`] without a free segment; [`AppendError::Broken`] while a [`switch`](Self::switch) has failed
    /// half way and must be repeated.
    pub fn begin(&mut self) -> Result<(), AppendError<D::Error>> {
        if self.switching {
            return Err(AppendError::Broken);
        }
        self.abandon();
        let full = AppendError::Full { needed_segments: 1, free_segments: 0 };
        let segment = self.segments.take_any().ok_or(full)?;
        self.begun += 1;
        let opening = self.superblock.openings;
        self.next = Some(Log::new(log_number(opening, self.begun), opening, segment));
        Ok(())
    }

    /// Drops the next log, if there is one and the switch to it has not begun.
    pub fn abandon(&mut self) {
        if self.switching {
            return;
        }
        if let Some(next) = self.next.take() {
            next.segments.iter().for_each(|&segment| self.segments.give_back(segment));
        }
    }

    /// Whether there is a next log.
    pub fn has_next(&self) -> bool {
        self.next.is_some()
    }

    /// Puts the next log in the live one's place: makes it stable, then the word that it is the live one, then gives the
    /// old one's segments free. A crash before it returns leaves the one or the other.
    ///
    /// # Errors
    /// After an error of the device it is not known which of the two a crash would leave. Call this again until it
    /// succeeds; nothing else is possible before.
    pub async fn switch(&mut self) -> Result<(), AppendError<D::Error>> {
        let next = self.next.as_ref().ok_or(AppendError::NotBegun)?;
        if next.broken {
            return Err(AppendError::Broken);
        }
        let superblock = Superblock {
            log: next.id,
            first_segment: next.segments.first().copied().unwrap_or(0),
            kept: next.next,
            ..self.superblock
        };
        #[cfg(test)]
        let flush_first = self.sabotage != Sabotage::SwitchBeforeFlush;
        #[cfg(not(test))]
        let flush_first = true;
        if !self.switching && flush_first {
            self.flush_logs().await?;
        }
        #[cfg(test)]
        if self.sabotage == Sabotage::FreeBeforeSwitch {
            let old: Vec<u32> = self.live.segments.clone();
            self.discard(&old).await;
        }
        self.switching = true;
        self.renew(superblock).await.map_err(AppendError::Device)?;
        self.switching = false;
        if let Some(next) = self.next.take() {
            let old = core::mem::replace(&mut self.live, next);
            old.segments.iter().for_each(|&segment| self.segments.give_back(segment));
            self.discard(&old.segments).await;
        }
        Ok(())
    }

    /// Tells the device that segments are not needed any more. It need not care, so neither do we if it does not.
    async fn discard(&self, segments: &[u32]) {
        for &segment in segments {
            let _ = self.device.discard(self.geometry.start(segment), self.geometry.segment_blocks).await;
        }
    }

    /// Whether the live log is in doubt, so that only a new log can make anything stable again.
    pub fn is_broken(&self) -> bool {
        self.live.broken || self.switching
    }

    /// Whether a switch has failed half way and must be repeated.
    pub fn is_switching(&self) -> bool {
        self.switching
    }

    /// How full the store is.
    pub fn usage(&self) -> Usage {
        let bytes = |log: &Log| {
            let full = log.segments.len().saturating_sub(1) as u64 * self.geometry.segment_blocks;
            (full + log.used_blocks) * BLOCK_BYTES as u64
        };
        Usage {
            segment_bytes: self.geometry.segment_blocks * BLOCK_BYTES as u64,
            segments: self.geometry.segments as usize,
            live_limit: self.geometry.live_segments(),
            live_bytes: bytes(&self.live),
            next_bytes: self.next.as_ref().map_or(0, bytes),
            live_records: self.live.records,
        }
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }
}

/// What writing chunks needs beside the log.
struct Writer<'a, D> {
    device: &'a D,
    geometry: &'a Geometry,
    key: u64,
    segments: &'a mut Segments,
    buffer: &'a mut Vec<u8>,
}

impl<D: BlockDevice> Writer<'_, D> {
    async fn append(&mut self, log: &mut Log, batch: &Batch, may_take: usize) -> Result<u64, AppendError<D::Error>> {
        if log.broken {
            return Err(AppendError::Broken);
        }
        let chunks = Chunks::new(self.geometry, batch.encoded());
        let needed_segments = log.segments_needed(self.geometry, chunks.clone());
        if needed_segments > may_take {
            return Err(AppendError::Full { needed_segments, free_segments: may_take });
        }
        // What fails, or is dropped, half way leaves it open what is stored.
        log.broken = true;
        for (kind, payload) in chunks {
            if log.used_blocks + crate::layout::chunk_blocks(payload.len()) > self.geometry.usable_blocks() {
                self.go_on_in_another_segment(log).await?;
            }
            let block = log.position(self.geometry);
            log.make_chunk(self.key, kind, payload, self.buffer);
            self.device.write(block, self.buffer).await.map_err(AppendError::Device)?;
        }
        log.broken = false;
        log.records += batch.records();
        Ok(log.records)
    }

    async fn go_on_in_another_segment(&mut self, log: &mut Log) -> Result<(), AppendError<D::Error>> {
        let full = AppendError::Full { needed_segments: 1, free_segments: 0 };
        let segment = self.segments.take_any().ok_or(full)?;
        let block = log.position(self.geometry);
        log.make_chunk(self.key, Kind::Link, &segment.to_le_bytes(), self.buffer);
        log.segments.push(segment);
        log.used_blocks = 0;
        self.device.write(block, self.buffer).await.map_err(AppendError::Device)
    }
}

/// A number that no other log has: logs are counted within an opening.
fn log_number(opening: u32, begun: u32) -> u64 {
    u64::from(opening) << 32 | u64::from(begun)
}

/// The superblock of a store on a new device, before its first opening has written one.
fn of_new_store(blocks: u64) -> Superblock {
    Superblock {
        segment_blocks: segment_blocks(blocks),
        sequence: 0,
        blocks,
        log: log_number(1, 0),
        first_segment: 0,
        openings: 0,
        key: 0,
        kept: 0,
    }
}

/// What lies where superblocks do.
enum Sought {
    /// The newest one.
    Superblock(Superblock),
    /// Zeros.
    Blank,
    /// Zeros, and a part of the very first one.
    Torn,
}

async fn find_superblock<D: BlockDevice>(device: &D) -> Result<Sought, OpenError<D::Error>> {
    // What the first opening writes before everything else. If the power goes then, there is no other superblock.
    let first = of_new_store(device.blocks());
    let first = Superblock { sequence: first.sequence + 1, openings: first.openings + 1, ..first };
    let mut best: Option<Superblock> = None;
    let (mut blank, mut torn, mut version) = (0, 0, None);
    for place in SUPERBLOCKS {
        let mut block = [0; BLOCK_BYTES];
        device.read(place, &mut block).await.map_err(OpenError::Device)?;
        let is_first = place == Superblock::place(first.sequence);
        match if is_first { first.decode_torn(&block) } else { Superblock::decode(&block) } {
            Found::Superblock(found) if best.is_none_or(|best| best.sequence < found.sequence) => best = Some(found),
            Found::Superblock(_) | Found::Other => {}
            Found::Version(found) => version = Some(found),
            Found::Blank => blank += 1,
            Found::Torn => torn += 1,
        }
    }
    match (best, version) {
        (Some(best), _) => Ok(Sought::Superblock(best)),
        (None, Some(found)) => Err(OpenError::Version { found }),
        (None, None) if blank == SUPERBLOCKS.len() => Ok(Sought::Blank),
        (None, None) if blank + torn == SUPERBLOCKS.len() => Ok(Sought::Torn),
        (None, None) => Err(OpenError::Unrecognised),
    }
}

/// What is on a device, as far as the two places tell where a store says that it is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// A store.
    Store,
    /// Nothing in these places: [`Store::open`] would make a store.
    Blank,
    /// Nothing but a part of what the making of a store writes first: it would make one here, too.
    Torn,
}

impl Presence {
    /// Looks; writes nothing. For who has to know more of a device before a store is made on it.
    ///
    /// # Errors
    /// [`OpenError::Device`], [`OpenError::Unrecognised`], [`OpenError::Version`].
    pub async fn of<D: BlockDevice>(device: &D) -> Result<Self, OpenError<D::Error>> {
        Ok(match find_superblock(device).await? {
            Sought::Superblock(_) => Self::Store,
            Sought::Blank => Self::Blank,
            Sought::Torn => Self::Torn,
        })
    }
}
