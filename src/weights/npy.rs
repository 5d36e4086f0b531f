//! NumPy's `.npy`: a header that is a Python literal, then the elements. Headers are read by a
//! parser of their own and nothing is evaluated; arrays of Python objects (pickles) are refused.

use crate::tensor::{DType, HostTensor};

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// Longer headers belong to records, which are refused anyway. NumPy has the same limit.
const LONGEST_HEADER: usize = 10_000;
/// Bytes in front of the header at most: magic, version, length.
const PREAMBLE: usize = 12;
/// So many bytes hold any header that is accepted.
pub(super) const HEAD: usize = PREAMBLE + LONGEST_HEADER;

/// What a header says.
#[derive(Debug, PartialEq)]
pub(super) struct Header {
    pub dtype: DType,
    big_endian: bool,
    /// The first axis varies fastest.
    fortran: bool,
    pub shape: Vec<usize>,
    /// Where the elements begin.
    pub start: usize,
    /// Bytes of all elements.
    pub bytes: usize,
}

impl Header {
    /// Reads the header that `bytes` begins with.
    pub fn parse(bytes: &[u8]) -> Result<Header, String> {
        let cut = "the .npy header is cut off";
        if !bytes.starts_with(MAGIC) {
            return Err("expected a NumPy array (.npy), found something else".into());
        }
        let at = |i: usize| bytes.get(i).copied().ok_or(cut);
        let (length, preamble) = match at(6)? {
            1 => (usize::from(u16::from_le_bytes([at(8)?, at(9)?])), 10),
            2 | 3 => (u32::from_le_bytes([at(8)?, at(9)?, at(10)?, at(11)?]) as usize, PREAMBLE),
            other => return Err(format!("the .npy version {other} is unknown")),
        };
        if length > LONGEST_HEADER {
            return Err(format!(
                "the .npy header claims {length} bytes; arrays of numbers need a few hundred"
            ));
        }
        let start = preamble + length;
        let text = str::from_utf8(bytes.get(preamble..start).ok_or(cut)?)
            .map_err(|_| "the .npy header is not text")?;
        let Literal { descr, fortran, shape } = Literal::parse(text)?;
        let (dtype, big_endian) = dtype(&descr)?;
        let bytes = shape
            .iter()
            .try_fold(dtype.size(), |n, &extent| n.checked_mul(extent))
            .filter(|&n| isize::try_from(n).is_ok())
            .ok_or_else(|| format!("an array of shape {shape:?} does not fit into memory"))?;
        Ok(Header { dtype, big_endian, fortran, shape, start, bytes })
    }

    /// Whether the elements stand in the file as we keep them.
    pub fn in_place(&self) -> bool {
        let one_way = self.shape.iter().filter(|&&n| n > 1).count() < 2;
        !self.big_endian && (!self.fortran || one_way) && self.dtype != DType::Bool
    }

    /// The tensor from its elements, which are `self.bytes` many bytes.
    pub fn tensor(&self, mut data: Vec<u8>) -> HostTensor {
        let size = self.dtype.size();
        if self.big_endian {
            data.chunks_exact_mut(size).for_each(<[u8]>::reverse);
        }
        if self.dtype == DType::Bool {
            data.iter_mut().for_each(|b| *b = u8::from(*b != 0));
        }
        if self.fortran {
            data = row_major(&data, &self.shape, size);
        }
        HostTensor::copy_of(self.dtype, &self.shape, &data)
    }
}

/// The file contents of an array: header version 1, elements row-major and little-endian. The
/// elements follow the returned header.
pub(super) fn header(tensor: &HostTensor) -> Result<Vec<u8>, String> {
    let descr = match tensor.dtype() {
        DType::F64 => "<f8",
        DType::F32 => "<f4",
        DType::F16 => "<f2",
        DType::I64 => "<i8",
        DType::I32 => "<i4",
        DType::I16 => "<i2",
        DType::I8 => "|i1",
        DType::U8 => "|u1",
        DType::Bool => "|b1",
        DType::BF16 => return Err("NumPy has no bf16: convert it to f32".into()),
    };
    let extents: String = tensor.shape().iter().map(|n| format!("{n}, ")).collect();
    let shape = match tensor.shape() {
        [one] => format!("{one},"),
        _ => extents.trim_end_matches(", ").to_owned(),
    };
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
    // Elements begin at a multiple of 64 bytes.
    let padded = (10 + text.len() + 1).next_multiple_of(64) - 10;
    text.extend(std::iter::repeat_n(' ', padded - 1 - text.len()));
    text.push('\n');
    let length = u16::try_from(text.len()).map_err(|_| "an array with too many axes for .npy".to_owned())?;
    Ok([&MAGIC[..], &[1, 0], &length.to_le_bytes()[..], text.as_bytes()].concat())
}

fn dtype(descr: &str) -> Result<(DType, bool), String> {
    let (order, kind) = descr.split_at_checked(1).unwrap_or(("", descr));
    let dtype = match kind {
        "f8" => DType::F64,
        "f4" => DType::F32,
        "f2" => DType::F16,
        "i8" => DType::I64,
        "i4" => DType::I32,
        "i2" => DType::I16,
        "i1" => DType::I8,
        "u1" => DType::U8,
        "b1" => DType::Bool,
        "O" => {
            return Err(
                "it holds Python objects (a pickle), which are never loaded: save plain numbers".into()
            );
        }
        _ => {
            return Err(format!(
                "elements of type '{descr}' are not supported: expected f2, f4, f8, i1, i2, i4, i8, u1 or b1"
            ));
        }
    };
    match order {
        "<" | "|" | "=" => Ok((dtype, false)),
        ">" => Ok((dtype, dtype.size() > 1)),
        _ => Err(format!("elements of type '{descr}' have an unknown byte order")),
    }
}

/// The header's dictionary.
struct Literal {
    descr: String,
    fortran: bool,
    shape: Vec<usize>,
}

impl Literal {
    fn parse(text: &str) -> Result<Literal, String> {
        let wrong = || format!("the .npy header is not what NumPy writes: {}", text.trim_end());
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        let mut rest =
            text.trim().strip_prefix('{').and_then(|t| t.strip_suffix('}')).ok_or_else(wrong)?.trim();
        while !rest.is_empty() {
            let (key, tail) = quoted(rest).ok_or_else(wrong)?;
            rest = tail.trim_start().strip_prefix(':').ok_or_else(wrong)?.trim_start();
            match key {
                "descr" => {
                    if rest.starts_with('[') {
                        return Err("it holds records of several fields, expected plain numbers".into());
                    }
                    let (value, tail) = quoted(rest).ok_or_else(wrong)?;
                    descr = Some(value.to_owned());
                    rest = tail;
                }
                "fortran_order" => {
                    let (value, tail) = [("True", true), ("False", false)]
                        .iter()
                        .find_map(|(word, value)| Some((*value, rest.strip_prefix(word)?)))
                        .ok_or_else(wrong)?;
                    fortran = Some(value);
                    rest = tail;
                }
                "shape" => {
                    let (inside, tail) =
                        rest.strip_prefix('(').and_then(|t| t.split_once(')')).ok_or_else(wrong)?;
                    let extents = inside.trim().strip_suffix(',').unwrap_or(inside.trim());
                    // Python 2 wrote its long integers as 3L.
                    let extent = |n: &str| n.trim().trim_end_matches('L').parse().map_err(|_| wrong());
                    let extents: Result<Vec<usize>, _> = match extents.trim() {
                        "" => Ok(Vec::new()),
                        list => list.split(',').map(extent).collect(),
                    };
                    shape = Some(extents?);
                    rest = tail;
                }
                _ => return Err(wrong()),
            }
            rest = rest.trim_start();
            rest = match rest.strip_prefix(',') {
                Some(tail) => tail.trim_start(),
                None if rest.is_empty() => rest,
                None => return Err(wrong()),
            };
        }
        match (descr, fortran, shape) {
            (Some(descr), Some(fortran), Some(shape)) => Ok(Literal { descr, fortran, shape }),
            _ => Err(wrong()),
        }
    }
}

/// A string in quotes that `text` begins with, and what follows.
fn quoted(text: &str) -> Option<(&str, &str)> {
    ['\'', '"'].iter().find_map(|&quote| text.strip_prefix(quote)?.split_once(quote))
}

/// Elements of `size` bytes from column-major to row-major order.
fn row_major(data: &[u8], shape: &[usize], size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len());
    let strides: Vec<usize> = shape
        .iter()
        .scan(1, |step, &extent| {
            let stride = *step;
            *step *= extent;
            Some(stride)
        })
        .collect();
    let mut index = vec![0; shape.len()];
    for _ in 0..data.len() / size {
        let at = index.iter().zip(&strides).map(|(i, s)| i * s).sum::<usize>() * size;
        out.extend_from_slice(&data[at..at + size]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str) -> Vec<u8> {
        [MAGIC, &b"\x01\x00"[..], &(header.len() as u16).to_le_bytes(), header.as_bytes()].concat()
    }

    #[test]
    fn headers_are_read_as_numpy_and_others_write_them() {
        for (text, dtype, shape) in [
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 120, 4096), }   \n",
                DType::F32,
                vec![1, 120, 4096],
            ),
            ("{\"shape\":(3,),\"fortran_order\":False,\"descr\":\"|u1\"}", DType::U8, vec![3]),
            ("{'descr': '|b1', 'fortran_order': True, 'shape': ()}", DType::Bool, vec![]),
            ("{'descr': '>i8', 'fortran_order': False, 'shape': (2L, 0L), }", DType::I64, vec![2, 0]),
        ] {
            let header = Header::parse(&file(text)).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!((header.dtype, &header.shape), (dtype, &shape), "{text}");
            assert_eq!(header.start, 10 + text.len());
        }
    }

    #[test]
    fn everything_else_is_refused_with_a_reason() {
        let with = |descr: &str, shape: &str| {
            format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}")
        };
        for (text, part) in [
            (with("'|O'", "(1,)"), "pickle"),
            (with("'<c8'", "(1,)"), "not supported"),
            (with("'|V2'", "(1,)"), "not supported"),
            (with("[('a', '<f4')]", "(1,)"), "records"),
            (with("'<f4'", "(4294967296, 4294967296, 4294967296)"), "memory"),
            (with("'<f4'", "(-1,)"), "not what NumPy writes"),
            (with("'<f4'", "(1,"), "not what NumPy writes"),
            ("{'descr': '<f4'}".into(), "not what NumPy writes"),
            ("__import__('os').system('x')".into(), "not what NumPy writes"),
            ("".into(), "not what NumPy writes"),
        ] {
            let error = Header::parse(&file(&text)).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        let whole = file(&with("'<f4'", "(1,)"));
        for n in 0..whole.len() {
            assert!(Header::parse(&whole[..n]).is_err(), "{n}");
        }
    }

    #[test]
    fn orders_are_converted() {
        let text = "{'descr': '>i2', 'fortran_order': True, 'shape': (2, 3), }";
        let header = Header::parse(&file(text)).unwrap();
        let data = [0u8, 0, 0, 3, 0, 1, 0, 4, 0, 2, 0, 5].to_vec(); // columns 0 3, 1 4, 2 5
        let tensor = header.tensor(data);
        assert_eq!((tensor.shape(), tensor.to_i64()), (&[2, 3][..], vec![0, 1, 2, 3, 4, 5]));
    }
}
