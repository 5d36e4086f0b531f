//! The part of the ZIP format that PyTorch and NumPy write: stored or deflated entries, ZIP64.
//!
//! Entries are located through the central directory. Stored ones stay where they are, so that
//! they can be used straight from the mapped file.

use std::collections::HashMap;
use std::ops::Range;

const LOCAL: [u8; 4] = *b"PK\x03\x04";
const CENTRAL: [u8; 4] = *b"PK\x01\x02";
const END: [u8; 4] = *b"PK\x05\x06";
const END64: [u8; 4] = *b"PK\x06\x06";
const END64_LOCATOR: [u8; 4] = *b"PK\x06\x07";

/// Length of the end record without its comment.
const END_LEN: usize = 22;

/// Where each entry's bytes lie in the file.
pub struct Archive {
    entries: HashMap<String, Entry>,
}

struct Entry {
    /// Place in the directory.
    index: u64,
    method: u16,
    encrypted: bool,
    crc: u32,
    /// Bytes after unpacking, as the directory says.
    unpacked: u64,
    data: Range<usize>,
}

/// How an entry is packed, and where.
pub struct Packed {
    /// Deflated; otherwise stored.
    pub deflated: bool,
    /// CRC-32 of the unpacked bytes.
    pub crc: u32,
    /// How many they should be. A claim: deflated entries may hold fewer or more.
    pub unpacked: u64,
    /// The packed bytes within the file.
    pub data: Range<usize>,
}

/// Little-endian fields of a record; `None` past its end.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u16(&self, at: usize) -> Option<u16> {
        Some(u16::from_le_bytes(self.0.get(at..at.checked_add(2)?)?.try_into().ok()?))
    }
    fn u32(&self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(self.0.get(at..at.checked_add(4)?)?.try_into().ok()?))
    }
    fn u64(&self, at: usize) -> Option<u64> {
        Some(u64::from_le_bytes(self.0.get(at..at.checked_add(8)?)?.try_into().ok()?))
    }
    fn starts(&self, at: usize, magic: [u8; 4]) -> bool {
        at.checked_add(4).and_then(|end| self.0.get(at..end)) == Some(&magic)
    }
}

impl Archive {
    /// Reads the central directory of a whole zip file.
    pub fn parse(bytes: &[u8]) -> Result<Archive, String> {
        let file = Fields(bytes);
        let end = (0..=bytes.len().saturating_sub(END_LEN))
            .rev()
            // The comment that may follow is at most 65535 bytes long.
            .take(0x1_0000)
            .find(|&at| file.starts(at, END))
            .ok_or("the zip directory at its end is missing: the file is truncated, fetch it again")?;
        let (count, start) = directory(&file, end).ok_or("the zip end record is damaged")?;
        // Each directory record takes at least 46 bytes, so a larger count is a lie.
        if count > (bytes.len() / 46) as u64 {
            return Err(format!("the zip directory claims {count} entries, more than the file has room for"));
        }
        let mut at = usize::try_from(start).map_err(|_| "the zip directory lies outside the file")?;
        let mut entries = HashMap::new();
        for i in 0..count {
            let (name, entry, next) = central_record(bytes, at, i)
                .map_err(|what| format!("zip entry {i} of {count} is damaged: {what}"))?;
            if entries.contains_key(&name) {
                return Err(format!("the zip holds two entries named `{name}`"));
            }
            entries.insert(name, entry);
            at = next;
        }
        Ok(Archive { entries })
    }

    /// All names, in the order of the directory.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let mut names: Vec<_> = self.entries.iter().map(|(name, entry)| (entry.index, name)).collect();
        names.sort_unstable();
        names.into_iter().map(|(_, name)| name.as_str())
    }

    /// How `name` is packed; an error if it is not there or packed in another way than we unpack.
    pub fn packed(&self, name: &str) -> Result<Packed, String> {
        let entry = self.entry(name)?;
        let deflated = match entry.method {
            0 => false,
            8 => true,
            other => return Err(format!("zip entry `{name}` is compressed by the unknown method {other}")),
        };
        Ok(Packed { deflated, crc: entry.crc, unpacked: entry.unpacked, data: entry.data.clone() })
    }

    fn entry(&self, name: &str) -> Result<&Entry, String> {
        let entry = self.entries.get(name).ok_or_else(|| format!("the zip holds no entry `{name}`"))?;
        if entry.encrypted {
            return Err(format!("zip entry `{name}` is encrypted"));
        }
        Ok(entry)
    }

    /// Where the bytes of `name` lie; an error says why they cannot be used in place.
    pub fn range(&self, name: &str) -> Result<Range<usize>, String> {
        let entry = self.entry(name)?;
        if entry.method != 0 {
            return Err(format!(
                "zip entry `{name}` is compressed, which torch.save never does: repack it stored"
            ));
        }
        Ok(entry.data.clone())
    }
}

/// Number of entries and offset of the central directory, from the plain or the 64-bit record.
fn directory(file: &Fields, end: usize) -> Option<(u64, u64)> {
    let (count, start) = (file.u16(end + 10)?, file.u32(end + 16)?);
    if let Some(locator) = end.checked_sub(20)
        && file.starts(locator, END64_LOCATOR)
    {
        let end64 = usize::try_from(file.u64(locator + 8)?).ok()?;
        if !file.starts(end64, END64) {
            return None;
        }
        return Some((file.u64(end64.checked_add(32)?)?, file.u64(end64.checked_add(48)?)?));
    }
    Some((count.into(), start.into()))
}

fn central_record(bytes: &[u8], at: usize, index: u64) -> Result<(String, Entry, usize), String> {
    let file = Fields(bytes);
    if !file.starts(at, CENTRAL) {
        return Err("expected a directory record".into());
    }
    let short = || "it is cut off".to_owned();
    let flags = file.u16(at + 8).ok_or_else(short)?;
    let method = file.u16(at + 10).ok_or_else(short)?;
    let crc = file.u32(at + 16).ok_or_else(short)?;
    let packed = file.u32(at + 20).ok_or_else(short)?;
    let unpacked = file.u32(at + 24).ok_or_else(short)?;
    let name_len = file.u16(at + 28).ok_or_else(short)? as usize;
    let extra_len = file.u16(at + 30).ok_or_else(short)? as usize;
    let comment_len = file.u16(at + 32).ok_or_else(short)? as usize;
    let local = file.u32(at + 42).ok_or_else(short)?;
    let name = bytes.get(at + 46..at + 46 + name_len).ok_or_else(short)?;
    let extra = bytes.get(at + 46 + name_len..at + 46 + name_len + extra_len).ok_or_else(short)?;
    let name = str::from_utf8(name).map_err(|_| "its name is not UTF-8")?.to_owned();

    let [unpacked, packed, local] = zip64(extra, [unpacked, packed, local])
        .ok_or_else(|| format!("the 64-bit sizes of `{name}` are missing"))?;
    if method == 0 && packed != unpacked {
        return Err(format!("`{name}` is stored but has two different sizes"));
    }
    let (local, packed) = (usize::try_from(local), usize::try_from(packed));
    let (Ok(local), Ok(packed)) = (local, packed) else {
        return Err(format!("`{name}` lies outside the file"));
    };
    // The local header repeats name and extra field, with lengths of its own.
    let range = (|| {
        if !file.starts(local, LOCAL) {
            return None;
        }
        let begin = local + 30 + file.u16(local + 26)? as usize + file.u16(local + 28)? as usize;
        let range = begin..begin.checked_add(packed)?;
        bytes.get(range.clone()).map(|_| range)
    })();
    let data = range.ok_or_else(|| format!("the bytes of `{name}` lie outside the file"))?;
    let entry = Entry { index, method, encrypted: flags & 1 != 0, crc, unpacked, data };
    Ok((name, entry, at + 46 + name_len + extra_len + comment_len))
}

/// Replaces every saturated 32-bit field by the 64-bit one from the extra field 0x0001, which
/// holds only those that are saturated, in this order.
fn zip64(extra: &[u8], small: [u32; 3]) -> Option<[u64; 3]> {
    let mut wide = small.map(u64::from);
    if !small.contains(&u32::MAX) {
        return Some(wide);
    }
    let extra = Fields(extra);
    let mut at = 0;
    loop {
        let (id, len) = (extra.u16(at)?, extra.u16(at + 2)? as usize);
        at += 4;
        if id == 1 {
            for (field, small) in wide.iter_mut().zip(small) {
                if small == u32::MAX {
                    *field = extra.u64(at)?;
                    at += 8;
                }
            }
            return Some(wide);
        }
        at += len;
    }
}
