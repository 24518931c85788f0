//! Rows of the embedded log: many records of one partition, packed and compressed.
//!
//! | bytes | what |
//! | --- | --- |
//! | 1 | format, 1 |
//! | 1 | 0 the records follow as they are, 1 as one zstd frame |
//! | 8 | append time, milliseconds since 1970, big-endian |
//! | 4 | records in the row, at least 1, big-endian |
//! | 4 | bytes of the records before compression, big-endian |
//! | rest | the records |
//!
//! A record is a varint `value length << 1 | named`, then, if `named`, its key and its headers
//! (key, number of headers, name and value of each; lengths are varints), then the value.
//!
//! **Invariant:** what is decoded was bounded before memory was taken for it.

use trailproof_topology::input::Millis;
use trailproof_topology::varint;

use crate::log::Kind;

/// Bytes of a row before its records.
const HEADER_BYTES: usize = 18;
const FORMAT: u8 = 1;
const TIME_AT: usize = 2;
/// A row is closed once its records have this many bytes.
const ROW_BYTES_TARGET: usize = 256 << 10;
/// A row is closed once it has this many records.
pub(super) const ROW_RECORDS_MAX: u32 = 1 << 16;
/// Below this size compression costs more than it saves.
const COMPRESS_BYTES_MIN: usize = 1 << 10;
/// The greatest record the log takes: key, headers and value.
pub const RECORD_BYTES_MAX: usize = 16 << 20;
const ROW_BYTES_MAX: usize = ROW_BYTES_TARGET + RECORD_BYTES_MAX + 16;
const ZSTD_LEVEL: i32 = 1;

/// One row, complete but for its append time.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) count: u32,
    pub(super) value: Vec<u8>,
}

impl Row {
    /// Writes the append time into the row.
    pub(super) fn stamp(&mut self, append_time_ms: Millis) {
        self.value[TIME_AT..TIME_AT + 8].copy_from_slice(&append_time_ms.to_be_bytes());
    }
}

/// Records of one partition, packed and ready to append.
#[derive(Clone, Debug, Default)]
pub struct Packed {
    pub(super) rows: Vec<Row>,
    count: u64,
    bytes: usize,
    record_bytes_max: usize,
}

impl Packed {
    /// Records in it.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes as stored.
    #[must_use]
    pub fn bytes_len(&self) -> usize {
        self.bytes
    }

    /// Whether a record is greater than [`RECORD_BYTES_MAX`].
    pub(super) fn oversized(&self) -> bool {
        self.record_bytes_max > RECORD_BYTES_MAX
    }
}

/// Packs records of one partition on the caller's thread, so that the log's writer has nothing
/// left to compress. Reuse one: it keeps its buffer and its compressor.
#[derive(Default)]
pub struct RecordBatchBuilder {
    raw: Vec<u8>,
    records: u32,
    compressor: Option<zstd::bulk::Compressor<'static>>,
    packed: Packed,
}

impl RecordBatchBuilder {
    /// An empty builder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Records pushed since the last [`RecordBatchBuilder::finish`].
    #[must_use]
    pub fn len(&self) -> u64 {
        self.packed.count
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packed.count == 0
    }

    /// Adds a record that has neither key nor header: a trace.
    pub fn push(&mut self, value: &[u8]) {
        varint::put(&mut self.raw, (value.len() as u64) << 1);
        self.raw.extend_from_slice(value);
        self.pushed(value.len());
    }

    /// Adds a record with key and headers.
    pub fn push_record(&mut self, key: &[u8], headers: &[(String, String)], value: &[u8]) {
        if key.is_empty() && headers.is_empty() {
            return self.push(value);
        }
        let before = self.raw.len();
        varint::put(&mut self.raw, ((value.len() as u64) << 1) | 1);
        varint::put_bytes(&mut self.raw, key);
        varint::put(&mut self.raw, headers.len() as u64);
        for (name, text) in headers {
            varint::put_bytes(&mut self.raw, name.as_bytes());
            varint::put_bytes(&mut self.raw, text.as_bytes());
        }
        self.raw.extend_from_slice(value);
        self.pushed(self.raw.len() - before);
    }

    /// Takes what was pushed, and leaves the builder empty.
    #[must_use]
    pub fn finish(&mut self) -> Packed {
        if self.records > 0 {
            self.close_row();
        }
        std::mem::take(&mut self.packed)
    }

    fn pushed(&mut self, bytes: usize) {
        self.records += 1;
        self.packed.count += 1;
        self.packed.record_bytes_max = self.packed.record_bytes_max.max(bytes);
        if self.raw.len() >= ROW_BYTES_TARGET || self.records >= ROW_RECORDS_MAX {
            self.close_row();
        }
    }

    fn close_row(&mut self) {
        let raw_length = u32::try_from(self.raw.len()).unwrap_or(u32::MAX);
        let mut value = vec![0; HEADER_BYTES];
        value[0] = FORMAT;
        value[10..14].copy_from_slice(&self.records.to_be_bytes());
        value[14..18].copy_from_slice(&raw_length.to_be_bytes());
        match self.compressed_into(value) {
            Ok(compressed) => value = compressed,
            Err(plain) => {
                value = plain;
                value.extend_from_slice(&self.raw);
            }
        }
        self.packed.bytes += value.len();
        self.packed.rows.push(Row { count: self.records, value });
        self.records = 0;
        self.raw.clear();
        self.raw.shrink_to(2 * ROW_BYTES_TARGET);
    }

    /// The row with its compressed records, or as it was where compression does not pay.
    fn compressed_into(&mut self, mut value: Vec<u8>) -> Result<Vec<u8>, Vec<u8>> {
        if self.raw.len() < COMPRESS_BYTES_MIN {
            return Err(value);
        }
        if self.compressor.is_none() {
            self.compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL).ok();
        }
        let Some(compressor) = &mut self.compressor else { return Err(value) };
        value.resize(HEADER_BYTES + zstd::zstd_safe::compress_bound(self.raw.len()), 0);
        match compressor.compress_to_buffer(&self.raw, &mut value[HEADER_BYTES..]) {
            Ok(length) if length < self.raw.len() => {
                value.truncate(HEADER_BYTES + length);
                value.shrink_to_fit();
                value[1] = 1;
                Ok(value)
            }
            _ => {
                value.truncate(HEADER_BYTES);
                Err(value)
            }
        }
    }
}

/// A stored row, read.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowView<'a> {
    pub(super) append_time_ms: Millis,
    pub(super) count: u32,
    pub(super) raw_length: usize,
    compressed: bool,
    body: &'a [u8],
}

impl<'a> RowView<'a> {
    /// Reads a row's header; `None` where it is damaged or out of bounds.
    pub(super) fn parse(value: &'a [u8]) -> Option<Self> {
        let (header, body) = value.split_at_checked(HEADER_BYTES)?;
        let count = u32::from_be_bytes(header[10..14].try_into().ok()?);
        let raw_length = u32::from_be_bytes(header[14..18].try_into().ok()?) as usize;
        let sane = header[0] == FORMAT
            && header[1] <= 1
            && (1..=ROW_RECORDS_MAX).contains(&count)
            && raw_length <= ROW_BYTES_MAX;
        let append_time_ms = Millis::from_be_bytes(header[TIME_AT..TIME_AT + 8].try_into().ok()?);
        sane.then_some(Self { append_time_ms, count, raw_length, compressed: header[1] == 1, body })
    }

    /// The records' bytes, in `scratch` if they had to be decompressed.
    pub(super) fn raw<'b>(
        &self,
        decompressor: &mut zstd::bulk::Decompressor<'static>,
        scratch: &'b mut Vec<u8>,
    ) -> Option<&'b [u8]>
    where
        'a: 'b,
    {
        if !self.compressed {
            return (self.body.len() == self.raw_length).then_some(self.body);
        }
        scratch.clear();
        scratch.reserve(self.raw_length);
        let length = decompressor.decompress_to_buffer(self.body, scratch).ok()?;
        (length == self.raw_length).then_some(scratch.as_slice())
    }
}

/// One record of a row.
#[derive(Clone, Debug)]
pub(super) struct RecordView<'a> {
    pub(super) key: &'a [u8],
    pub(super) headers: Vec<(&'a str, &'a str)>,
    pub(super) value: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// Takes a record off the front of a row's bytes; `None` where they are damaged.
    pub(super) fn take(bytes: &mut &'a [u8]) -> Option<Self> {
        let head = varint::take(bytes)?;
        let length = usize::try_from(head >> 1).ok()?;
        let mut key: &[u8] = &[];
        let mut headers = Vec::new();
        if head & 1 == 1 {
            key = varint::take_prefixed(bytes)?;
            for _ in 0..varint::take(bytes)? {
                let name = std::str::from_utf8(varint::take_prefixed(bytes)?).ok()?;
                let text = std::str::from_utf8(varint::take_prefixed(bytes)?).ok()?;
                headers.push((name, text));
            }
        }
        Some(Self { key, headers, value: varint::take_bytes(bytes, length)? })
    }

    /// What the header `trailproof` says the record is.
    pub(super) fn kind(&self) -> Kind {
        let own = self.headers.iter().find(|(name, _)| *name == "trailproof");
        Kind::of_header(own.map(|(_, text)| text.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpack(packed: &Packed) -> Vec<Vec<u8>> {
        let mut decompressor = zstd::bulk::Decompressor::new().unwrap();
        let mut values = Vec::new();
        for row in &packed.rows {
            let view = RowView::parse(&row.value).unwrap();
            let mut scratch = Vec::new();
            let mut raw = view.raw(&mut decompressor, &mut scratch).unwrap();
            for _ in 0..view.count {
                values.push(RecordView::take(&mut raw).unwrap().value.to_vec());
            }
            assert!(raw.is_empty());
        }
        values
    }

    #[test]
    fn records_come_back_in_order_over_many_rows() {
        let mut builder = RecordBatchBuilder::new();
        let values: Vec<Vec<u8>> = (0..5_000u32)
            .map(|n| format!("{{\"n\":{n}}}").repeat(n as usize % 90).into())
            .collect();
        for value in &values {
            builder.push(value);
        }
        let packed = builder.finish();
        assert!(packed.rows.len() > 3, "{} rows", packed.rows.len());
        assert_eq!(packed.len(), 5_000);
        assert!(unpack(&packed) == values);
        assert!(builder.finish().is_empty());
    }

    #[test]
    fn a_damaged_row_is_refused_and_never_panics() {
        let mut builder = RecordBatchBuilder::new();
        builder.push_record(b"key", &[("a".into(), "b".into())], &[7; 3_000]);
        let value = builder.finish().rows.remove(0).value;
        let mut decompressor = zstd::bulk::Decompressor::new().unwrap();
        let mut scratch = Vec::new();
        for at in 0..value.len() {
            for damaged in [value[..at].to_vec(), {
                let mut flipped = value.clone();
                flipped[at] ^= 0xff;
                flipped
            }] {
                if let Some(view) = RowView::parse(&damaged)
                    && let Some(mut raw) = view.raw(&mut decompressor, &mut scratch)
                {
                    while !raw.is_empty() && RecordView::take(&mut raw).is_some() {}
                }
            }
        }
    }

    #[test]
    fn the_header_tells_the_kind() {
        let mut builder = RecordBatchBuilder::new();
        let header = |text: &str| vec![("trailproof".to_owned(), text.to_owned())];
        builder.push_record(b"", &header("tick"), b"");
        builder.push_record(b"", &header("catalog"), b"12");
        builder.push_record(b"", &header("other"), b"");
        builder.push_record(b"k", &[("x".into(), "tick".into())], b"");
        let packed = builder.finish();
        let view = RowView::parse(&packed.rows[0].value).unwrap();
        let mut decompressor = zstd::bulk::Decompressor::new().unwrap();
        let mut scratch = Vec::new();
        let mut raw = view.raw(&mut decompressor, &mut scratch).unwrap();
        let kinds: Vec<Kind> = (0..4).map(|_| RecordView::take(&mut raw).unwrap().kind()).collect();
        assert_eq!(kinds, [Kind::Tick, Kind::Catalog, Kind::Unknown, Kind::Data]);
    }
}
