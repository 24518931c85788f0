//! Trace files: from chunks to the bytes that are stored, and back.
//!
//! **Invariant:** the uncompressed content depends on the log alone; the stored bytes may differ
//! between two versions of a compressor, so nothing derives an identity from them.
//!
//! Source: `docs/formats.md`, "Trace files"; RFC 1952; the zstd seekable format 0.1.0.

use std::io::Read as _;

use flate2::{Compress, Compression as Level, Crc, FlushCompress, Status};
use sha2::{Digest as _, Sha256};
use trailproof_topology::catalog::Compression;
use trailproof_topology::chunk::{Chunk, FILE_END};

/// Level of gzip files: the dearest step of all, so the fastest one.
const GZIP_LEVEL: u32 = 1;

/// Memory that an expected size is believed for; what needs more grows.
const RESERVED_MAX: u64 = 1 << 30;

/// A trace file ready to be put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The stored bytes.
    pub bytes: Vec<u8>,
    /// SHA-256 of the inflated bytes, lower-case hex; of gzip files alone.
    pub content_sha256: Option<String>,
}

/// Stored data that cannot be what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Damaged(pub String);

/// Builds a trace file, a chunk at a time. The memory it takes is that of the stored bytes.
pub struct Encoder {
    compression: Compression,
    bytes: Vec<u8>,
    /// Zstd: compressed and uncompressed length of each frame.
    frames: Vec<(u32, u32)>,
    crc: Crc,
    content: Sha256,
    deflate: Option<Compress>,
}

impl Encoder {
    /// Begins a file that will have about so many stored bytes.
    #[must_use]
    pub fn new(compression: Compression, stored_bytes: u64) -> Self {
        let gzip = compression == Compression::Gzip;
        let mut bytes = Vec::with_capacity(stored_bytes.min(RESERVED_MAX) as usize);
        if gzip {
            // No name, no time, fastest compression, no operating system.
            bytes.extend_from_slice(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255]);
        }
        let deflate = gzip.then(|| Compress::new(Level::new(GZIP_LEVEL), false));
        Self {
            compression,
            bytes,
            frames: Vec::new(),
            crc: Crc::new(),
            content: Sha256::new(),
            deflate,
        }
    }

    /// Adds a chunk's row.
    ///
    /// # Errors
    /// [`Damaged`] where the row cannot be read.
    pub fn chunk(&mut self, row: &[u8]) -> Result<(), Damaged> {
        let damaged = || Damaged("a chunk cannot be read".to_owned());
        let chunk = Chunk::decode(row).ok_or_else(damaged)?;
        if self.compression == Compression::Zstd {
            let length = chunk.slots.last().map_or(0, |slot| slot.start + slot.length);
            self.frames.push((chunk.frame.len() as u32, length));
            self.bytes.extend_from_slice(chunk.frame);
            return Ok(());
        }
        self.text(&chunk.text().ok_or_else(damaged)?)
    }

    fn text(&mut self, text: &[u8]) -> Result<(), Damaged> {
        match &mut self.deflate {
            Some(deflate) => {
                self.crc.update(text);
                self.content.update(text);
                deflate.reset();
                squeeze(deflate, text, &mut self.bytes)
            }
            None => {
                self.bytes.extend_from_slice(text);
                Ok(())
            }
        }
    }

    /// Ends a gzip member: an empty final block, then the trailer.
    fn end_member(&mut self) {
        self.bytes.extend_from_slice(&[3, 0]);
        self.bytes.extend_from_slice(&self.crc.sum().to_le_bytes());
        self.bytes.extend_from_slice(&self.crc.amount().to_le_bytes());
    }

    /// Ends the file.
    ///
    /// # Errors
    /// [`Damaged`] where the compressor fails.
    pub fn finish(mut self) -> Result<Encoded, Damaged> {
        match self.compression {
            Compression::Zstd => {
                let begun = self.bytes.len();
                raw_frame(FILE_END, &mut self.bytes);
                self.frames.push(((self.bytes.len() - begun) as u32, FILE_END.len() as u32));
                seek_table(&self.frames, &mut self.bytes);
                Ok(Encoded { bytes: self.bytes, content_sha256: None })
            }
            Compression::Gzip => {
                self.text(FILE_END)?;
                self.end_member();
                let hash = data_encoding::HEXLOWER.encode(&self.content.finalize());
                Ok(Encoded { bytes: self.bytes, content_sha256: Some(hash) })
            }
            Compression::Json => {
                self.text(FILE_END)?;
                Ok(Encoded { bytes: self.bytes, content_sha256: None })
            }
        }
    }
}

/// Deflates a whole text and ends it with a full flush, so that what follows stands on its own.
fn squeeze(deflate: &mut Compress, text: &[u8], out: &mut Vec<u8>) -> Result<(), Damaged> {
    let mut taken = 0;
    loop {
        out.reserve(text.len() / 4 + 1024);
        let before = deflate.total_in();
        let status = deflate
            .compress_vec(&text[taken..], out, FlushCompress::Full)
            .map_err(|error| Damaged(format!("deflate failed: {error}")))?;
        taken += (deflate.total_in() - before) as usize;
        if taken == text.len() && out.len() < out.capacity() {
            return Ok(());
        }
        if status == Status::BufError && out.len() < out.capacity() {
            return Err(Damaged("deflate makes no progress".to_owned()));
        }
    }
}

/// Appends a zstd frame of under 256 bytes that are not compressed: a single segment of one raw
/// block. Source: RFC 8878, sections 3.1.1.1 and 3.1.1.2.
fn raw_frame(content: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&0xfd2f_b528_u32.to_le_bytes());
    out.extend_from_slice(&[0x20, content.len() as u8]);
    let last_raw_block = (content.len() as u32) << 3 | 1;
    out.extend_from_slice(&last_raw_block.to_le_bytes()[..3]);
    out.extend_from_slice(content);
}

/// Appends the seek table: a skippable frame with the lengths of all frames, little-endian.
fn seek_table(frames: &[(u32, u32)], out: &mut Vec<u8>) {
    let size = frames.len() * 8 + 9;
    out.extend_from_slice(&0x184d_2a5e_u32.to_le_bytes());
    out.extend_from_slice(&(size as u32).to_le_bytes());
    for (compressed, plain) in frames {
        out.extend_from_slice(&compressed.to_le_bytes());
        out.extend_from_slice(&plain.to_le_bytes());
    }
    out.extend_from_slice(&(frames.len() as u32).to_le_bytes());
    out.push(0);
    out.extend_from_slice(&0x8f92_eab1_u32.to_le_bytes());
}

/// The content of stored bytes, at most `content_max` bytes of it.
///
/// # Errors
/// [`Damaged`]: not of this compression, cut short, with bytes behind the end, or too long.
pub fn decode(
    compression: Compression,
    stored: &[u8],
    content_max: u64,
) -> Result<Vec<u8>, Damaged> {
    let mut content = Vec::new();
    let bounded = |error: std::io::Error| Damaged(format!("cannot be decompressed: {error}"));
    match compression {
        Compression::Zstd => {
            let reader = zstd::stream::read::Decoder::new(stored).map_err(bounded)?;
            reader.take(content_max + 1).read_to_end(&mut content).map_err(bounded)?;
        }
        Compression::Gzip => {
            let mut reader = flate2::bufread::GzDecoder::new(stored);
            (&mut reader).take(content_max + 1).read_to_end(&mut content).map_err(bounded)?;
            if content.len() as u64 <= content_max && !reader.into_inner().is_empty() {
                return Err(Damaged("has bytes behind the gzip member".to_owned()));
            }
        }
        Compression::Json => content.extend_from_slice(stored),
    }
    if content.len() as u64 > content_max {
        return Err(Damaged(format!("holds more than {content_max} bytes")));
    }
    Ok(content)
}

/// The gzip of a small object: a digest.
///
/// # Errors
/// [`Damaged`] where the compressor fails.
pub fn gzip(content: &[u8]) -> Result<Vec<u8>, Damaged> {
    let mut encoder = Encoder::new(Compression::Gzip, 0);
    encoder.text(content)?;
    encoder.end_member();
    Ok(encoder.bytes)
}
