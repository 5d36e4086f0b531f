//! NumPy's `.npz`: a zip of arrays, as `np.savez` and `np.savez_compressed` write it.
//!
//! Reading trusts no size: an array is unpacked only as far as its header says, and that must be
//! what the zip directory says. No pickle is ever loaded.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::path::Path;

use flate2::bufread::DeflateDecoder;
use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc};

use super::blob::Blob;
use super::npy::{self, HEAD, Header};
use super::set::NamedTensors;
use super::zip::{Archive, Packed};
use crate::atomic_file::AtomicFile;
use crate::tensor::HostTensor;
use crate::{Error, Result};

/// Deflate never packs more than this into one byte.
const DENSEST: u64 = 1032;

/// Whether a zip file begins with an array (and so was not written by `torch.save`).
pub fn is_npz(bytes: &[u8]) -> bool {
    let length = bytes.get(26..28).map_or(0, |b| usize::from(u16::from_le_bytes([b[0], b[1]])));
    bytes.starts_with(b"PK\x03\x04") && bytes.get(30..30 + length).is_some_and(|name| name.ends_with(b".npy"))
}

/// All arrays of an npz file, in file order; `.npy` is removed from their names. Stored arrays
/// stay where they are if they are little-endian and row-major, others are unpacked.
///
/// # Errors
/// If the file is damaged, or its arrays take more than `limit` bytes together.
pub fn parse(blob: &Blob, limit: usize) -> Result<NamedTensors, String> {
    let archive = Archive::parse(blob.bytes())?;
    let mut left = limit;
    let mut tensors = Vec::new();
    for entry in archive.names() {
        let name = entry
            .strip_suffix(".npy")
            .ok_or_else(|| format!("expected arrays (.npy) in this npz file, found `{entry}`"))?;
        let tensor = archive
            .packed(entry)
            .and_then(|packed| array(blob, &packed, &mut left, limit))
            .map_err(|what| format!("array `{name}`: {what}"))?;
        tensors.push((name.to_owned(), tensor));
    }
    Ok(tensors)
}

fn array(blob: &Blob, packed: &Packed, left: &mut usize, limit: usize) -> Result<HostTensor, String> {
    let bytes = blob.bytes().get(packed.data.clone()).ok_or("it lies outside the file")?;
    if packed.unpacked > (bytes.len() as u64).saturating_mul(DENSEST) {
        return Err(format!("{} bytes cannot unpack to the claimed {}", bytes.len(), packed.unpacked));
    }
    // The beginning first: what the header says bounds everything else.
    let mut stream: Box<dyn Read> =
        if packed.deflated { Box::new(DeflateDecoder::new(bytes)) } else { Box::new(bytes) };
    let mut head = Vec::new();
    let damaged = |e: std::io::Error| format!("it is damaged: {e}");
    (&mut stream).take(HEAD as u64).read_to_end(&mut head).map_err(damaged)?;
    let header = Header::parse(&head)?;
    if header.bytes > *left {
        return Err(format!("the arrays take more than {limit} bytes, {} of them by this one", header.bytes));
    }
    let whole = header.start.checked_add(header.bytes).ok_or("it does not fit into memory")?;
    if packed.unpacked != whole as u64 {
        return Err(format!("its header says {whole} bytes, the zip directory {}", packed.unpacked));
    }
    *left -= header.bytes;
    let mut crc = Crc::new();
    if !packed.deflated && header.in_place() {
        crc.update(bytes);
        check(crc.sum(), packed.crc)?;
        let start = packed.data.start + header.start;
        let part = blob.part(start..start + header.bytes).ok_or("it lies outside the file")?;
        return Ok(HostTensor::from_bytes(header.dtype, header.shape, part));
    }
    // Grows with what is really there; one byte more than expected shows a lie.
    let rest = (whole + 1).saturating_sub(head.len());
    stream.take(rest as u64).read_to_end(&mut head).map_err(damaged)?;
    if head.len() != whole {
        return Err(format!(
            "expected {whole} bytes, found {}",
            if head.len() > whole { "more" } else { "fewer" }
        ));
    }
    crc.update(&head);
    check(crc.sum(), packed.crc)?;
    head.drain(..header.start);
    Ok(header.tensor(head))
}

fn check(found: u32, expected: u32) -> Result<(), String> {
    if found == expected {
        Ok(())
    } else {
        Err("its checksum is wrong: the file is damaged, fetch it again".into())
    }
}

/// Opens an npz file whose arrays take at most `limit` bytes together; see [`parse`].
pub fn open(path: &Path, limit: usize) -> Result<NamedTensors> {
    parse(&Blob::map(path)?, limit).map_err(|message| Error::file(path, message))
}

/// Writes `tensors` as `np.savez` does, or, if `compressed`, as `np.savez_compressed`. The file
/// appears whole or not at all.
///
/// # Errors
/// If it cannot be written, a name stands twice, a tensor is bf16, or the file would pass 4 GiB.
pub fn write<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'a str, &'a HostTensor)>,
    compressed: bool,
) -> Result<()> {
    let mut out = AtomicFile::create(path)?;
    let mut emit = |bytes: &[u8]| out.write_all(bytes).map_err(|e| Error::io("write", path, e));
    let too_large =
        || Error::file(path, "an npz file of more than 4 GiB is not supported: write safetensors");
    let small = |n: usize| u32::try_from(n).map_err(|_| too_large());
    let (mut at, mut directory, mut names) = (0, Vec::new(), HashSet::new());
    for (name, tensor) in tensors {
        if !names.insert(name) {
            return Err(Error::Weights(format!("two tensors are named `{name}`")));
        }
        let head = npy::header(tensor).map_err(|what| Error::file(path, format!("`{name}`: {what}")))?;
        let mut crc = Crc::new();
        crc.update(&head);
        crc.update(tensor.bytes());
        let unpacked = small(head.len() + tensor.bytes().len())?;
        let packed = compressed.then(|| {
            let mut deflate = DeflateEncoder::new(Vec::new(), Compression::default());
            deflate.write_all(&head)?;
            deflate.write_all(tensor.bytes())?;
            deflate.finish()
        });
        let packed = packed.transpose().map_err(|e| Error::io("compress", path, e))?;
        let file = format!("{name}.npy");
        let length = u16::try_from(file.len())
            .map_err(|_| Error::file(path, "a name of more than 65531 bytes does not fit into npz"))?;
        let size = packed.as_ref().map_or(Ok(unpacked), |p| small(p.len()))?;
        let record =
            Record { method: if compressed { 8 } else { 0 }, crc: crc.sum(), size, unpacked, length };
        let local = record.local();
        emit(&local)?;
        emit(file.as_bytes())?;
        match &packed {
            Some(bytes) => emit(bytes)?,
            None => {
                emit(&head)?;
                emit(tensor.bytes())?;
            }
        }
        directory.extend(record.central(small(at)?));
        directory.extend(file.as_bytes());
        at += local.len() + file.len() + size as usize;
    }
    emit(&directory)?;
    let count = u16::try_from(names.len()).map_err(|_| too_large())?;
    emit(&end_record(count, small(directory.len())?, small(at)?))?;
    out.commit()
}

/// What both records of an entry say.
struct Record {
    method: u16,
    crc: u32,
    size: u32,
    unpacked: u32,
    /// Of the name.
    length: u16,
}

impl Record {
    /// The fields that both records share: version to unpack, flags (UTF-8 names), method, time
    /// and date (1980-01-01, as NumPy has it, so that equal arrays make equal files), sizes.
    fn common(&self) -> Vec<u8> {
        let words = [20u16, 0x800, self.method, 0, 0x21].map(u16::to_le_bytes).concat();
        let sizes = [self.crc, self.size, self.unpacked].map(u32::to_le_bytes).concat();
        [words, sizes, self.length.to_le_bytes().to_vec(), vec![0; 2]].concat()
    }

    fn local(&self) -> Vec<u8> {
        [b"PK\x03\x04".to_vec(), self.common()].concat()
    }

    fn central(&self, offset: u32) -> Vec<u8> {
        let made_by = 20u16.to_le_bytes().to_vec();
        [b"PK\x01\x02".to_vec(), made_by, self.common(), vec![0; 10], offset.to_le_bytes().to_vec()].concat()
    }
}

fn end_record(count: u16, directory: u32, offset: u32) -> Vec<u8> {
    let counts = [0, 0, count, count].map(u16::to_le_bytes).concat();
    let sizes = [directory, offset].map(u32::to_le_bytes).concat();
    [b"PK\x05\x06".to_vec(), counts, sizes, vec![0; 2]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;
    use crate::weights::{Container, WeightSet};

    fn some() -> Vec<(String, HostTensor)> {
        let all =
            [DType::F64, DType::F32, DType::F16, DType::I64, DType::I32, DType::I16, DType::I8, DType::U8];
        let mut tensors: Vec<_> = all
            .into_iter()
            .map(|dtype| {
                let bytes: Vec<u8> = (0..6 * dtype.size()).map(|i| (i * 37 % 111) as u8).collect();
                (dtype.to_string(), HostTensor::copy_of(dtype, &[2, 3], &bytes))
            })
            .collect();
        tensors.push(("flags".into(), HostTensor::copy_of(DType::Bool, &[2], &[1, 0])));
        tensors.push(("scalar".into(), HostTensor::from_f32([], vec![2.5])));
        tensors.push(("empty".into(), HostTensor::from_f32([0, 4], vec![])));
        tensors.push(("größe".into(), HostTensor::from_f32([1, 500], vec![0.0; 500])));
        tensors
    }

    fn written(compressed: bool) -> Vec<u8> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let tensors = some();
        write(file.path(), tensors.iter().map(|(n, t)| (n.as_str(), t)), compressed).unwrap();
        std::fs::read(file.path()).unwrap()
    }

    fn read(bytes: &[u8], limit: usize) -> Result<NamedTensors, String> {
        parse(&bytes.to_vec().into(), limit)
    }

    #[test]
    fn what_is_written_is_read_again() {
        for compressed in [false, true] {
            let bytes = written(compressed);
            assert!(is_npz(&bytes));
            let back = read(&bytes, 10_000).unwrap();
            assert_eq!(back.len(), some().len());
            for ((name, want), (found, got)) in some().iter().zip(&back) {
                assert_eq!((name, want.dtype(), want.shape()), (found, got.dtype(), got.shape()));
                assert_eq!(want.bytes(), got.bytes(), "{name}");
            }
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &bytes).unwrap();
            let set = WeightSet::open(file.path()).unwrap();
            assert_eq!((set.container(), set.len()), (Container::Npz, some().len()));
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let bf16 = HostTensor::zeros(DType::BF16, [1]);
        assert!(write(file.path(), [("x", &bf16)], false).is_err_and(|e| e.to_string().contains("bf16")));
    }

    #[test]
    fn cut_and_changed_files_are_refused() {
        for compressed in [false, true] {
            let whole = written(compressed);
            for n in 0..whole.len() {
                assert!(read(&whole[..n], usize::MAX).is_err(), "cut to {n}");
            }
            for at in 0..whole.len() {
                let mut bytes = whole.clone();
                bytes[at] ^= 0x41;
                // A changed byte in a date does no harm; none may crash.
                let _ = read(&bytes, 1 << 20);
            }
        }
    }

    /// One deflated entry of a million zeros, and what a directory might claim about it.
    #[test]
    fn bombs_are_refused_before_they_unpack() {
        let file = tempfile::NamedTempFile::new().unwrap();
        write(file.path(), [("x", &HostTensor::zeros(DType::U8, [1_000_000]))], true).unwrap();
        let bytes = std::fs::read(file.path()).unwrap();
        assert!(bytes.len() < 3000);
        assert_eq!(read(&bytes, 1_000_000).unwrap()[0].1.len(), 1_000_000);
        let error = read(&bytes, 999_999).unwrap_err();
        assert!(error.contains("more than 999999 bytes"), "{error}");
        let unpacked = 1_000_000u32 + 128;
        let places: Vec<_> =
            (0..bytes.len() - 4).filter(|&i| bytes[i..i + 4] == unpacked.to_le_bytes()).collect();
        assert_eq!(places.len(), 2, "local and central record");
        for (claim, part) in [
            (unpacked - 1, "zip directory"),
            (unpacked + 1, "zip directory"),
            (u32::MAX - 1, "cannot unpack"),
        ] {
            let mut lie = bytes.clone();
            lie[places[1]..places[1] + 4].copy_from_slice(&claim.to_le_bytes());
            let error = read(&lie, usize::MAX).unwrap_err();
            assert!(error.contains(part), "{claim}: {error}");
        }
    }
}
