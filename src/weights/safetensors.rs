//! safetensors: an 8-byte length, a JSON header, then the tensors' bytes.
//!
//! Reading maps the file and copies nothing; writing streams tensor by tensor, so a conversion
//! holds at most one converted tensor in memory.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io::Write;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::blob::Blob;
use super::set::NamedTensors;
use crate::atomic_file::AtomicFile;
use crate::tensor::{DType, HostTensor};
use crate::{Error, Result};

/// Longest header that is believed (the limit of the official reader).
const MAX_HEADER: u64 = 100_000_000;

/// Tensors in file order, and the header's `__metadata__`.
///
/// # Errors
/// One sentence on what is wrong with the bytes.
pub fn parse(blob: &Blob) -> Result<(NamedTensors, BTreeMap<String, String>), String> {
    let bytes = blob.bytes();
    let file_len = bytes.len();
    let claimed = bytes
        .first_chunk::<8>()
        .map(|b| u64::from_le_bytes(*b))
        .ok_or_else(|| format!("expected a safetensors header, found a file of {file_len} bytes"))?;
    if claimed > MAX_HEADER || claimed > (file_len - 8) as u64 {
        return Err(format!(
            "the safetensors header claims {claimed} bytes, but the file holds {file_len}: it is truncated or not a safetensors file"
        ));
    }
    let (header_len, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| explain(e, file_len))?;
    refuse_duplicates(&bytes[8..8 + header_len])?;

    let data = 8 + header_len;
    let mut tensors = NamedTensors::new();
    for name in metadata.offset_keys() {
        let info =
            metadata.info(&name).ok_or_else(|| format!("tensor `{name}` has no entry in the header"))?;
        let dtype = from_dtype(info.dtype).ok_or_else(|| {
            format!("tensor `{name}` is stored as {:?}, which no supported model uses", info.dtype)
        })?;
        let (begin, end) = info.data_offsets;
        let part = blob
            .part(data + begin..data + end)
            .ok_or_else(|| format!("tensor `{name}` reaches past the end of the file"))?;
        tensors.push((name, HostTensor::from_bytes(dtype, info.shape.clone(), part)));
    }
    let metadata = metadata.metadata().clone().unwrap_or_default().into_iter().collect();
    Ok((tensors, metadata))
}

fn explain(error: SafeTensorError, file_len: usize) -> String {
    match error {
        SafeTensorError::InvalidOffset(name) => {
            format!("the bytes of tensor `{name}` overlap another tensor's, leave a gap, or run backwards")
        }
        SafeTensorError::TensorInvalidInfo => {
            "a tensor's shape and dtype do not agree with the bytes set aside for it".to_owned()
        }
        SafeTensorError::MetadataIncompleteBuffer => format!(
            "the header describes tensors of another total size than the file's {file_len} bytes: it is truncated or has something appended"
        ),
        SafeTensorError::ValidationOverflow => "a tensor's shape is larger than any file".to_owned(),
        other => format!("the safetensors header is damaged ({other})"),
    }
}

/// The official reader lets the last of several equal names win; a file where two tensors
/// have one name is damaged or made to deceive.
fn refuse_duplicates(header: &[u8]) -> Result<(), String> {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = Option<String>;
        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("a JSON object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let (mut seen, mut twice) = (HashSet::new(), None);
            while let Some((name, _)) = map.next_entry::<String, IgnoredAny>()? {
                if let Some(name) = seen.replace(name) {
                    twice.get_or_insert(name);
                }
            }
            Ok(twice)
        }
    }
    let twice = serde_json::Deserializer::from_slice(header)
        .deserialize_map(Names)
        .map_err(|e| format!("the safetensors header is not valid JSON ({e})"))?;
    twice.map_or(Ok(()), |name| Err(format!("the name `{name}` stands twice in the safetensors header")))
}

fn from_dtype(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        Dtype::I16 => DType::I16,
        Dtype::I8 => DType::I8,
        Dtype::U8 => DType::U8,
        Dtype::BOOL => DType::Bool,
        _ => return None,
    })
}

fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F64 => "F64",
        DType::F32 => "F32",
        DType::F16 => "F16",
        DType::BF16 => "BF16",
        DType::I64 => "I64",
        DType::I32 => "I32",
        DType::I16 => "I16",
        DType::I8 => "I8",
        DType::U8 => "U8",
        DType::Bool => "BOOL",
    }
}

/// Writes `tensors` to `path`, in the given order, floats converted to `dtype` if one is given.
///
/// Appears whole or not at all. Order within the file: widest elements first, so that every
/// tensor is aligned for zero-copy reading, otherwise as given.
///
/// # Errors
/// If the file cannot be written, or a name stands twice.
pub fn write<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'a str, &'a HostTensor)>,
    metadata: &BTreeMap<String, String>,
    dtype: Option<DType>,
) -> Result<()> {
    write_as(path, tensors, metadata, |_, t| dtype.filter(|_| t.dtype().is_float()).unwrap_or(t.dtype()))
}

/// As [`write()`], with a dtype for each tensor; converted one at a time.
pub fn write_as<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'a str, &'a HostTensor)>,
    metadata: &BTreeMap<String, String>,
    dtype: impl Fn(&str, &HostTensor) -> DType,
) -> Result<()> {
    let mut tensors: Vec<_> = tensors.into_iter().map(|(n, t)| (n, t, dtype(n, t))).collect();
    tensors.sort_by_key(|(.., stored)| std::cmp::Reverse(stored.size()));

    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".to_owned(), serde_json::json!(metadata));
    }
    let mut end = 0;
    for (name, tensor, stored) in &tensors {
        let begin = end;
        end += tensor.len() * stored.size();
        let entry = serde_json::json!({
            "dtype": dtype_name(*stored), "shape": tensor.shape(), "data_offsets": [begin, end],
        });
        if header.insert((*name).to_owned(), entry).is_some() {
            return Err(Error::Weights(format!("two tensors are named `{name}`")));
        }
    }
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    // The data starts at a multiple of 8 bytes.
    header.resize(header.len().next_multiple_of(8), b' ');

    let mut out = AtomicFile::create(path)?;
    let mut emit = |bytes: &[u8]| out.write_all(bytes).map_err(|e| Error::io("write", path, e));
    emit(&(header.len() as u64).to_le_bytes())?;
    emit(&header)?;
    for (_, tensor, stored) in &tensors {
        if *stored == tensor.dtype() {
            emit(tensor.bytes())?;
        } else {
            emit(tensor.cast(*stored).bytes())?;
        }
        tensor.release();
    }
    out.commit()
}
