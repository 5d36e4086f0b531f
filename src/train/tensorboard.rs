//! Event files that TensorBoard shows: scalars, pictures and text over steps.
//!
//! A file is a sequence of TFRecords (length, masked CRC-32C of it, bytes, masked CRC-32C of these), each an
//! `Event` protocol buffer; formats: `tensorflow/core/lib/io/record_writer.h`, `tensorflow/core/util/event.proto`
//! and `tensorflow/core/framework/summary.proto`. The few messages are small enough to be written by hand.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::data::image::{Channels, Format, Photo, Samples};
use crate::data::pixels::{FloatImage, Rounding};
use crate::{Error, Result};

/// One event file being written.
#[derive(Debug)]
pub struct EventWriter {
    file: File,
    path: PathBuf,
}

impl EventWriter {
    /// Starts a file in `folder`, which must exist. Of earlier files there, TensorBoard leaves out what is of
    /// step `from` or later: the run goes on from there.
    ///
    /// # Errors
    /// `Error::Io` naming the file.
    pub fn create(folder: &Path, from: u64) -> Result<Self> {
        let (seconds, micros) = now();
        // TensorBoard reads the files of a folder in the order of their names.
        let name = format!("events.out.tfevents.{seconds:010}.{micros:06}.{}", std::process::id());
        let path = folder.join(name);
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.map_err(|e| Error::io("write", &path, e))?;
        let mut writer = EventWriter { file, path };
        // Event { file_version }, then Event { step, session_log { status: START } }, which makes the cut.
        writer.event(0, &Message::new().bytes(3, b"brain.Event:2"))?;
        let start = Message::new().varint(1, 1);
        writer.event(from, &Message::new().bytes(7, &start.0))?;
        Ok(writer)
    }

    /// Numbers of one step by their tags.
    ///
    /// # Errors
    /// As [`EventWriter::create`].
    pub fn scalars<'a>(&mut self, step: u64, values: impl IntoIterator<Item = (&'a str, f64)>) -> Result<()> {
        let mut summary = Message::new();
        for (tag, value) in values {
            let value = Message::new().bytes(1, tag.as_bytes()).fixed32(2, (value as f32).to_bits());
            summary = summary.bytes(1, &value.0);
        }
        self.event(step, &Message::new().bytes(5, &summary.0))
    }

    /// A picture of one step, RGB in 0..1.
    ///
    /// # Errors
    /// As [`EventWriter::create`]; `Error::Run` if a value is not finite.
    pub fn image(&mut self, step: u64, tag: &str, image: &FloatImage) -> Result<()> {
        let (height, width) = (image.height, image.width);
        let blank = Photo::new(height, width, Channels::Rgb, Samples::U8(vec![0; 3 * height * width]));
        let (png, _) = blank.with_pixels(image, None, Rounding::HalfEven)?.encode(Format::Png, 100)?;
        let picture =
            Message::new().varint(1, height as u64).varint(2, width as u64).varint(3, 3).bytes(4, &png);
        let value = Message::new().bytes(1, tag.as_bytes()).bytes(4, &picture.0);
        self.event(step, &Message::new().bytes(5, &Message::new().bytes(1, &value.0).0))
    }

    /// Writes one event with the time of day, the step and further fields, and hands it to the system.
    fn event(&mut self, step: u64, what: &Message) -> Result<()> {
        let (seconds, micros) = now();
        let time = seconds as f64 + f64::from(micros) * 1e-6;
        let mut event = Message::new().fixed64(1, time.to_bits()).varint(2, step);
        event.0.extend(&what.0);
        self.file.write_all(&record(&event.0)).map_err(|e| Error::io("write", &self.path, e))
    }

    /// Where the events go.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn now() -> (u64, u32) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs(), since.subsec_micros())
}

/// A protocol buffer under construction: each call adds a field.
struct Message(Vec<u8>);

impl Message {
    fn new() -> Self {
        Message(Vec::new())
    }

    fn raw_varint(mut self, mut value: u64) -> Self {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    fn key(self, field: u64, wire_type: u64) -> Self {
        self.raw_varint(field << 3 | wire_type)
    }

    fn varint(self, field: u64, value: u64) -> Self {
        self.key(field, 0).raw_varint(value)
    }

    fn fixed64(self, field: u64, bits: u64) -> Self {
        let mut message = self.key(field, 1);
        message.0.extend(bits.to_le_bytes());
        message
    }

    fn bytes(self, field: u64, bytes: &[u8]) -> Self {
        let mut message = self.key(field, 2).raw_varint(bytes.len() as u64);
        message.0.extend(bytes);
        message
    }

    fn fixed32(self, field: u64, bits: u32) -> Self {
        let mut message = self.key(field, 5);
        message.0.extend(bits.to_le_bytes());
        message
    }
}

/// A TFRecord.
fn record(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(bytes.len() + 16);
    out.extend(length);
    out.extend(masked(crc32c(&length)).to_le_bytes());
    out.extend(bytes);
    out.extend(masked(crc32c(bytes)).to_le_bytes());
    out
}

/// CRCs in records are masked, since a CRC of bytes that hold CRCs is weak.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), reflected.
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let (mut crc, mut bit) = (i as u32, 0);
            while bit < 8 {
                crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
                bit += 1;
            }
            table[i] = crc;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc: u32, &b| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ b)])
}

/// The events of a file, as (step, whole bytes), or where the file is damaged: for tests and tools.
///
/// # Errors
/// `InvalidData` if a checksum or a length is wrong.
pub fn read_records(mut bytes: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "not an intact file of TFRecords");
    let word = |b: &[u8]| b.first_chunk::<4>().map(|b| u32::from_le_bytes(*b)).ok_or_else(bad);
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let length = bytes.first_chunk::<8>().map(|b| u64::from_le_bytes(*b)).ok_or_else(bad)?;
        if word(&bytes[8..])? != masked(crc32c(&bytes[..8])) {
            return Err(bad());
        }
        let length = usize::try_from(length).map_err(|_| bad())?;
        let body = bytes[12..].get(..length).ok_or_else(bad)?;
        if word(&bytes[12 + length..])? != masked(crc32c(body)) {
            return Err(bad());
        }
        records.push(body.to_vec());
        bytes = &bytes[16 + length..];
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value of the CRC catalogue, and the test vectors of RFC 3720, appendix B.4.
    #[test]
    fn checksums_are_the_published_ones() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn varints_take_seven_bits_a_byte() {
        assert_eq!(Message::new().varint(2, 300).0, [0x10, 0xac, 0x02]);
        assert_eq!(Message::new().bytes(5, b"ab").0, [0x2a, 2, b'a', b'b']);
    }

    #[test]
    fn files_hold_what_was_written_and_show_damage() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(dir.path(), 40).unwrap();
        writer.scalars(41, [("loss", 0.5), ("rate", 1e-4)]).unwrap();
        writer.image(41, "validation/0", &FloatImage::zeros(2, 3, 3)).unwrap();
        let mut bytes = std::fs::read(writer.path()).unwrap();
        let records = read_records(&bytes).unwrap();
        assert_eq!(records.len(), 4);
        // time (9 bytes), step 41, summary { value { tag "loss", simple_value 0.5 } … }
        let expected =
            [&b"\x10\x29\x2a"[..], &[26, 10, 11, 10, 4], b"loss", &[0x15], &0.5f32.to_le_bytes()].concat();
        assert_eq!(&records[2][9..][..expected.len()], expected);
        assert!(records[3].windows(4).any(|w| w == b"\x89PNG"));
        let end = bytes.len() - 20;
        bytes[end] ^= 4;
        assert!(read_records(&bytes).is_err());
    }
}
