//! Reading a log back, and telling a torn tail from a stored block that changed.

use crate::batch::{LENGTH_BYTES, split_record};
use crate::device::{BLOCK_BYTES, BlockDevice};
use crate::error::OpenError;
use crate::layout::{Header, Kind, Superblock};
use crate::log::Log;
use crate::segments::{Geometry, Segments};
use crate::store::Options;
use alloc::vec::Vec;

/// A log that has been read to its end.
pub(crate) struct Read {
    pub log: Log,
    pub segments: Segments,
    pub payload_bytes: u64,
    /// Something of this log lies behind its end.
    pub torn: bool,
    /// So many chunks behind its end had been stable.
    pub lost_chunks: u64,
}

/// Reads blocks of a device through a window, so that small chunks do not cost a read each.
struct Window<'d, D> {
    device: &'d D,
    bytes: Vec<u8>,
    start: u64,
    most_blocks: u64,
}

impl<'d, D: BlockDevice> Window<'d, D> {
    fn new(device: &'d D, most_blocks: u64) -> Self {
        Self { device, bytes: Vec::new(), start: 0, most_blocks }
    }

    /// The `count` blocks from `first` on. What the window reads beyond them stays below block `end`.
    async fn blocks(&mut self, first: u64, count: u64, end: u64) -> Result<&[u8], D::Error> {
        let held = self.start..self.start + (self.bytes.len() / BLOCK_BYTES) as u64;
        if !(held.contains(&first) && first + count <= held.end) {
            let blocks = self.most_blocks.max(count).min(end - first);
            self.bytes.resize(blocks as usize * BLOCK_BYTES, 0);
            self.start = first;
            if let Err(error) = self.device.read(first, &mut self.bytes).await {
                self.bytes.clear();
                return Err(error);
            }
        }
        let from = (first - self.start) as usize * BLOCK_BYTES;
        Ok(self.bytes.get(from..from + count as usize * BLOCK_BYTES).unwrap_or(&[]))
    }
}

/// A log being read.
struct Replay<'d, D> {
    window: Window<'d, D>,
    geometry: Geometry,
    superblock: Superblock,
    log: Log,
    segments: Segments,
    payload_bytes: u64,
    /// The pieces of a record that is longer than a chunk.
    pieces: Vec<u8>,
    /// Most bytes of those.
    most_record_bytes: Option<u32>,
}

/// Reads the live log and gives each of its records to `visit`, in order.
pub(crate) async fn replay<D: BlockDevice>(
    device: &D,
    geometry: Geometry,
    superblock: &Superblock,
    options: &Options,
    visit: &mut impl FnMut(&[u8]),
) -> Result<Read, OpenError<D::Error>> {
    let mut replay = Replay {
        window: Window::new(device, geometry.most_chunk_blocks()),
        geometry,
        superblock: *superblock,
        log: Log::new(superblock.log, superblock.openings, superblock.first_segment),
        segments: Segments::new(geometry.segments),
        payload_bytes: 0,
        pieces: Vec::new(),
        most_record_bytes: options.most_record_bytes,
    };
    if !replay.segments.take(superblock.first_segment) {
        return Err(OpenError::Unrecognised);
    }
    while replay.step(visit).await? {}
    let (stable, torn) = replay.look_behind_the_end().await?;
    let log = replay.log;
    let stable = stable.max(superblock.kept);
    let lost_chunks = stable.saturating_sub(log.next);
    if lost_chunks > 0 && !options.cut_damaged {
        let block = log.position(&geometry);
        return Err(OpenError::Corrupt { chunk: log.next, block, stable_chunks: stable });
    }
    let Replay { segments, payload_bytes, .. } = replay;
    Ok(Read { log, segments, payload_bytes, torn, lost_chunks })
}

impl<D: BlockDevice> Replay<'_, D> {
    /// The chunk at `block` with its header and checksum, if there is a whole one.
    async fn chunk_at(&mut self, block: u64) -> Result<Option<(Header, u64, &[u8])>, OpenError<D::Error>> {
        let segment_end = self.segment_end(block);
        let first = self.window.blocks(block, 1, segment_end).await.map_err(OpenError::Device)?;
        let Some(header) = Header::parse(first) else { return Ok(None) };
        let blocks = header.blocks();
        if blocks > self.geometry.most_chunk_blocks() || block + blocks > segment_end {
            return Ok(None);
        }
        let chunk = self.window.blocks(block, blocks, segment_end).await.map_err(OpenError::Device)?;
        Ok(header.verify(self.superblock.key, chunk).map(|checksum| (header, checksum, chunk)))
    }

    /// The first block behind the segment that `block` is in.
    fn segment_end(&self, block: u64) -> u64 {
        let length = self.geometry.segment_blocks;
        let segment = (block - self.geometry.start(0)) / length;
        self.geometry.start(0) + (segment + 1) * length
    }

    /// Reads one chunk; false at the end of the log.
    async fn step(&mut self, visit: &mut impl FnMut(&[u8])) -> Result<bool, OpenError<D::Error>> {
        if self.log.used_blocks >= self.geometry.segment_blocks {
            return Ok(false);
        }
        let block = self.log.position(&self.geometry);
        let (log, number, previous) = (self.log.id, self.log.next, self.log.previous);
        let Superblock { kept, openings, .. } = self.superblock;
        let most_record_bytes = self.most_record_bytes;
        let mut pieces = core::mem::take(&mut self.pieces);
        let Some((header, checksum, chunk)) = self.chunk_at(block).await? else { return Ok(false) };
        if (header.log, header.number, header.previous) != (log, number, previous) {
            return Ok(false);
        }
        if number >= kept && header.opening != openings {
            return Ok(false);
        }
        let payload = payload(&header, chunk);
        let linked = (header.kind == Kind::Link).then(|| payload.first_chunk().map(|word| u32::from_le_bytes(*word)));
        let is_piece = matches!(header.kind, Kind::Middle | Kind::Last);
        let length = payload.len() + if is_piece { pieces.len() } else { 0 };
        if let Some(most_bytes) = most_record_bytes
            && header.kind != Kind::Records
            && length > most_bytes as usize + LENGTH_BYTES
        {
            return Err(OpenError::LongRecord { chunk: number, most_bytes });
        }
        let records = take(header.kind, payload, &mut pieces, visit);
        self.pieces = pieces;
        if let Some(link) = linked {
            match link.filter(|&segment| self.segments.take(segment)) {
                Some(segment) => {
                    self.log.segments.push(segment);
                    self.log.used_blocks = 0;
                }
                None => return Ok(false),
            }
        } else {
            self.log.used_blocks += header.blocks();
            self.payload_bytes += u64::from(header.payload_bytes);
        }
        self.log.records += records;
        self.log.next += 1;
        self.log.previous = checksum;
        Ok(true)
    }

    /// Looks for chunks of this log where they could be but cannot be reached: how many chunks they say were stable, and
    /// whether any, whole or not, is of the last opening.
    ///
    /// What an earlier opening left behind its own torn tail is found too and says nothing: of what it knew to be stable the
    /// superblock of this opening knows as well, less what was cut off because it was damaged.
    async fn look_behind_the_end(&mut self) -> Result<(u64, bool), OpenError<D::Error>> {
        let (mut stable, mut torn) = (0, false);
        let end = self.log.position(&self.geometry);
        let rest = end..self.geometry.start(self.log.segment()) + self.geometry.segment_blocks;
        let others = (0..self.geometry.segments).filter(|segment| !self.log.segments.contains(segment));
        let starts: Vec<u64> = others.map(|segment| self.geometry.start(segment)).collect();
        let (number, opening) = (self.log.next, self.superblock.openings);
        for block in rest {
            torn |= block == end && self.has_torn_chunk(block).await?;
            if let Some(header) = self.chunk_of_this_log(block).await? {
                stable = stable.max(self.claim_of(&header));
                torn |= header.number >= number && header.opening == opening;
            }
        }
        // Most of these tell by their first block that they are of no interest.
        self.window.most_blocks = 1;
        for mut block in starts {
            // From chunk to chunk, as the log went on here.
            let end = self.segment_end(block);
            while block < end
                && let Some(header) = self.chunk_of_this_log(block).await?
                && header.number >= number
            {
                stable = stable.max(self.claim_of(&header));
                torn |= header.opening == opening;
                block += header.blocks();
            }
        }
        Ok((stable, torn))
    }

    /// How many chunks a chunk behind the end says were stable, if that counts: its opening is this one, or a later one
    /// whose superblocks are lost.
    fn claim_of(&self, header: &Header) -> u64 {
        let is_earlier = header.opening.wrapping_sub(self.superblock.openings) > u32::MAX / 2;
        if is_earlier { 0 } else { header.stable }
    }

    async fn has_torn_chunk(&mut self, block: u64) -> Result<bool, OpenError<D::Error>> {
        let end = self.segment_end(block);
        let first = self.window.blocks(block, 1, end).await.map_err(OpenError::Device)?;
        let (log, opening) = (self.log.id, self.superblock.openings);
        Ok(Header::parse(first).is_some_and(|header| (header.log, header.opening) == (log, opening)))
    }

    async fn chunk_of_this_log(&mut self, block: u64) -> Result<Option<Header>, OpenError<D::Error>> {
        let log = self.log.id;
        Ok(self.chunk_at(block).await?.map(|(header, ..)| header).filter(|header| header.log == log))
    }
}

fn payload<'a>(header: &Header, chunk: &'a [u8]) -> &'a [u8] {
    let start = crate::layout::HEADER_BYTES;
    chunk.get(start..start + header.payload_bytes as usize).unwrap_or(&[])
}

/// Gives the records that a chunk completes to `visit`; tells how many.
fn take(kind: Kind, payload: &[u8], pieces: &mut Vec<u8>, visit: &mut impl FnMut(&[u8])) -> u64 {
    match kind {
        Kind::Records => {
            // Pieces without their last one are what a crash left of a record.
            pieces.clear();
            visit_all(payload, visit)
        }
        Kind::First => {
            pieces.clear();
            pieces.extend_from_slice(payload);
            0
        }
        Kind::Middle => {
            pieces.extend_from_slice(payload);
            0
        }
        Kind::Last => {
            pieces.extend_from_slice(payload);
            let records = visit_all(pieces, visit);
            *pieces = Vec::new();
            records
        }
        Kind::Link => 0,
    }
}

fn visit_all(mut encoded: &[u8], visit: &mut impl FnMut(&[u8])) -> u64 {
    let mut records = 0;
    while let Some((record, rest)) = split_record(encoded) {
        visit(record);
        records += 1;
        encoded = rest;
    }
    records
}
