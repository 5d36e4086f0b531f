//! Tensors as PyTorch pickles describe them: strided views into storages.

use std::ops::Range;
use std::rc::Rc;

use super::globals::Global;
use super::pickle::{Heap, Value};
use crate::tensor::{DType, HostTensor};
use crate::weights::blob::Blob;

/// A storage named by a persistent id: `('storage', class, key, location, numel[, view])`.
#[derive(Debug)]
pub struct Storage {
    /// Which of the file's storages.
    pub key: String,
    /// Element type; `None` for bytes whose dtype the tensor names.
    pub dtype: Option<DType>,
    /// Elements that the whole storage has.
    pub numel: usize,
    /// Legacy files only: (first element, elements) of the part that this storage is.
    pub window: Option<(usize, usize)>,
}

/// A tensor: a strided view into a storage, checked to lie within it.
#[derive(Debug)]
pub struct View {
    storage: Rc<Storage>,
    dtype: DType,
    /// In elements of the whole storage.
    offset: usize,
    shape: Vec<usize>,
    stride: Vec<usize>,
}

fn count(value: Option<&Value>, what: &str) -> Result<usize, String> {
    match value {
        Some(Value::Int(n)) => usize::try_from(*n).map_err(|_| format!("a tensor's {what} is {n}")),
        Some(other) => Err(format!("a tensor's {what} is {}, not a number", other.kind())),
        None => Err(format!("a tensor has no {what}")),
    }
}

fn counts(value: Option<&Value>, what: &str, heap: &Heap) -> Result<Vec<usize>, String> {
    match value {
        Some(Value::Sequence(s)) => {
            let items = heap.sequence(*s);
            // PyTorch's own limit; also keeps hostile ranks cheap.
            if items.len() > 64 {
                return Err(format!("a tensor has {} dimensions", items.len()));
            }
            items.iter().map(|v| count(Some(v), what)).collect()
        }
        _ => Err(format!("a tensor has no {what}")),
    }
}

/// Reads a persistent id.
pub fn storage(id: &Value, heap: &Heap) -> Result<Storage, String> {
    let bad = || "the pickle refers to something outside it that is not a tensor storage".to_owned();
    let Value::Sequence(s) = id else { return Err(bad()) };
    let fields = heap.sequence(*s);
    let (Some(Value::Str(tag)), Some(Value::Global(class)), Some(Value::Str(key))) =
        (fields.first(), fields.get(1), fields.get(2))
    else {
        return Err(bad());
    };
    let dtype = match class {
        Global::Storage(dtype) => Some(*dtype),
        Global::UntypedStorage => None,
        _ => return Err(bad()),
    };
    if &**tag != "storage" {
        return Err(bad());
    }
    let numel = count(fields.get(4), "storage size")?;
    let window = match fields.get(5) {
        None | Some(Value::None) => None,
        Some(Value::Sequence(w)) => {
            let window = heap.sequence(*w);
            let (first, len) =
                (count(window.get(1), "storage view offset")?, count(window.get(2), "storage view size")?);
            if first.checked_add(len).is_none_or(|end| end > numel) {
                return Err(format!("a view of {len} elements at {first} leaves its storage of {numel}"));
            }
            Some((first, len))
        }
        Some(_) => return Err(bad()),
    };
    Ok(Storage { key: key.to_string(), dtype, numel, window })
}

/// Reads the arguments of `_rebuild_tensor*`: storage, offset, size, stride, …
pub fn view(args: &[Value], heap: &Heap) -> Result<View, String> {
    let Some(Value::Storage(storage)) = args.first() else {
        return Err("the pickle rebuilds a tensor from something that is no storage".into());
    };
    let named = args.iter().find_map(|a| match a {
        Value::Global(Global::DType(dtype)) => Some(*dtype),
        _ => None,
    });
    let dtype = storage.dtype.or(named).ok_or("a tensor's storage has no dtype")?;
    let numel = if storage.dtype.is_none() { storage.numel / dtype.size() } else { storage.numel };

    let (first, available) = storage.window.unwrap_or((0, numel));
    let offset = count(args.get(1), "offset")?;
    let shape = counts(args.get(2), "size", heap)?;
    let stride = counts(args.get(3), "stride", heap)?;
    if shape.len() != stride.len() {
        return Err(format!("a tensor has {} dimensions but {} strides", shape.len(), stride.len()));
    }
    // Overflow is checked even where an axis of extent 0 would make the product 0.
    let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)));
    let reach = shape
        .iter()
        .zip(&stride)
        .try_fold(offset, |at, (&d, &s)| at.checked_add(d.saturating_sub(1).checked_mul(s)?));
    let empty = shape.contains(&0);
    let fits = reach.is_some_and(|last| if empty { offset <= available } else { last < available });
    if !fits || elements.and_then(|n| n.checked_mul(dtype.size())).is_none() {
        return Err(format!(
            "a tensor of shape {shape:?} and stride {stride:?} at {offset} reaches outside its storage `{}` of {available} elements",
            storage.key
        ));
    }
    let offset = if empty { 0 } else { first + offset };
    Ok(View { storage: storage.clone(), dtype, offset, shape, stride })
}

impl View {
    /// The storage that holds the elements.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// Bytes that [`View::load`] copies: 0 where the view is contiguous.
    pub fn copied_bytes(&self) -> usize {
        if self.is_contiguous() { 0 } else { self.shape.iter().product::<usize>() * self.dtype.size() }
    }

    fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.shape.contains(&0)
            || self.shape.iter().zip(&self.stride).rev().all(|(&extent, &stride)| {
                let ok = extent == 1 || stride == expected;
                expected *= extent;
                ok
            })
    }

    /// The tensor, given where its storage's bytes lie in `blob`: in place if contiguous, else
    /// copied into row-major order.
    ///
    /// # Errors
    /// If the storage has fewer bytes than the pickle says.
    pub fn load(&self, blob: &Blob, storage: Range<usize>) -> Result<HostTensor, String> {
        let size = self.dtype.size();
        let claimed = match self.storage.dtype {
            Some(dtype) => self.storage.numel.checked_mul(dtype.size()),
            None => Some(self.storage.numel),
        };
        if claimed != Some(storage.len()) {
            return Err(format!(
                "storage `{}` should hold {} elements but has {} bytes",
                self.storage.key,
                self.storage.numel,
                storage.len()
            ));
        }
        let elements: usize = self.shape.iter().product();
        if self.is_contiguous() {
            let begin = storage.start + self.offset * size;
            let part = blob
                .part(begin..begin + elements * size)
                .ok_or_else(|| format!("storage `{}` lies outside the file", self.storage.key))?;
            return Ok(HostTensor::from_bytes(self.dtype, self.shape.clone(), part));
        }
        let source = &blob.bytes()[storage];
        let mut out = Vec::with_capacity(elements * size);
        let mut index = vec![0; self.shape.len()];
        let mut at = self.offset;
        for _ in 0..elements {
            out.extend_from_slice(&source[at * size..(at + 1) * size]);
            // Odometer: the last axis runs fastest.
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                at += self.stride[axis];
                if index[axis] < self.shape[axis] {
                    break;
                }
                at -= self.stride[axis] * self.shape[axis];
                index[axis] = 0;
            }
        }
        Ok(HostTensor::from_bytes(self.dtype, self.shape.clone(), std::sync::Arc::new(out)))
    }
}
