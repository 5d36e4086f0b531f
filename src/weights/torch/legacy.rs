//! The stream that `torch.save` wrote before 1.6: five pickles, then the storages' bytes.

use std::collections::HashMap;
use std::ops::Range;

use super::pickle::{self, Heap, Pickle, Value};
use crate::tensor::DType;

/// How every such file begins: protocol 2, then the magic number as a 10-byte integer.
pub const HEAD: [u8; 14] = [0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// The one protocol number that was ever used.
const PROTOCOL: i128 = 1001;

/// The object and where its storages lie.
pub struct Stream {
    /// What was saved.
    pub object: Pickle,
    /// Byte range of each storage's elements.
    pub storages: HashMap<String, Range<usize>>,
}

/// Reads the five pickles and walks over the storages.
pub fn parse(bytes: &[u8]) -> Result<Stream, String> {
    let mut at = 0;
    let mut next = || -> Result<Pickle, String> {
        let pickle = pickle::parse(&bytes[at..])?;
        at += pickle.len;
        Ok(pickle)
    };
    next()?; // the magic number, by which the file was recognised
    match next()?.root {
        Value::Int(PROTOCOL) => {}
        other => return Err(format!("expected checkpoint protocol {PROTOCOL}, found {other:?}")),
    }
    let system = next()?;
    if is_big_endian(&system) {
        return Err("it was written on a big-endian machine: load and save it again on a usual one".into());
    }
    let object = next()?;
    let keys = next()?;
    let Value::Sequence(keys_at) = keys.root else {
        return Err(format!("expected the list of storages, found {}", keys.root.kind()));
    };

    let mut dtypes = object.heap.storages();
    let mut storages = HashMap::new();
    for key in keys.heap.sequence(keys_at) {
        let Value::Str(key) = key else {
            return Err(format!("expected the name of a storage, found {}", key.kind()));
        };
        let dtype = dtypes
            .remove(&**key)
            .ok_or_else(|| format!("storage `{key}` is in the file, but nothing says what it holds"))?;
        let truncated = || format!("storage `{key}` is cut off: the file is truncated, fetch it again");
        let count = bytes.get(at..at + 8).and_then(|b| b.first_chunk()).ok_or_else(truncated)?;
        let begin = at + 8;
        let end = usize::try_from(i64::from_le_bytes(*count))
            .ok()
            .and_then(|n| n.checked_mul(dtype.size())?.checked_add(begin))
            .filter(|&end| end <= bytes.len())
            .ok_or_else(truncated)?;
        storages.insert(key.to_string(), begin..end);
        at = end;
    }
    Ok(Stream { object, storages })
}

fn is_big_endian(system: &Pickle) -> bool {
    let Value::Dict(d) = system.root else { return false };
    let little = |(key, value): &(Value, Value)| matches!((key, value), (Value::Str(k), Value::Bool(false)) if &**k == "little_endian");
    system.heap.dict(d).iter().any(little)
}

impl Heap {
    /// Element type of every storage that the pickle refers to.
    fn storages(&self) -> HashMap<&str, DType> {
        self.seen_storages().map(|s| (s.key.as_str(), s.dtype.unwrap_or(DType::U8))).collect()
    }
}
