//! NaN and infinity in weights, found before they spoil hours of work.

use rayon::prelude::*;

use super::set::WeightSet;
use crate::tensor::{DType, HostTensor};
use crate::{Error, Result};

impl WeightSet {
    /// Checks every float tensor for NaN and infinity; reads each mapped byte once.
    ///
    /// # Errors
    /// One that names the first bad tensors, the element and the file.
    pub fn check_finite(&self) -> Result<()> {
        let tensors: Vec<(&str, &HostTensor)> = self.iter().collect();
        let bad: Vec<(&str, usize)> =
            tensors.par_iter().filter_map(|(name, t)| first_not_finite(t).map(|i| (*name, i))).collect();
        let Some(&(name, element)) = bad.first() else { return Ok(()) };
        let file = self.file_of(name).unwrap_or(self.path());
        let more = match bad.len() - 1 {
            0 => String::new(),
            n => format!(", and so do {n} more tensors"),
        };
        Err(Error::file(
            file,
            format!(
                "the weight `{name}` holds a value that is not finite (element {element}){more}: the file is \
                 damaged or the training diverged; fetch it again"
            ),
        ))
    }
}

/// The first element whose exponent bits are all ones.
fn first_not_finite(tensor: &HostTensor) -> Option<usize> {
    fn find<const N: usize>(bytes: &[u8], bad: impl Fn([u8; N]) -> bool + Sync) -> Option<usize> {
        // Blocks without a branch inside, so that the test is a few vector instructions.
        const BLOCK: usize = 4096;
        bytes.par_chunks(BLOCK * N).enumerate().find_map_first(|(b, block)| {
            let any = block.chunks_exact(N).fold(false, |any, x| any | bad(x.try_into().expect("N bytes")));
            if !any {
                return None;
            }
            let i = block.chunks_exact(N).position(|x| bad(x.try_into().expect("N bytes")))?;
            Some(b * BLOCK + i)
        })
    }
    let bytes = tensor.bytes();
    match tensor.dtype() {
        DType::F32 => find(bytes, |x| u32::from_le_bytes(x) & 0x7f80_0000 == 0x7f80_0000),
        DType::BF16 => find(bytes, |x| u16::from_le_bytes(x) & 0x7f80 == 0x7f80),
        DType::F16 => find(bytes, |x| u16::from_le_bytes(x) & 0x7c00 == 0x7c00),
        DType::F64 => find(bytes, |x| !f64::from_le_bytes(x).is_finite()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bad_tensor_is_named_in_every_dtype() {
        let mut values = vec![1.0f32; 10_000];
        values[7_777] = f32::NAN;
        let bad = HostTensor::from_f32([100, 100], values);
        let good = HostTensor::from_f32([3], vec![f32::MAX, f32::MIN_POSITIVE, -0.0]);
        for dtype in [DType::F32, DType::BF16, DType::F16, DType::F64] {
            let set = WeightSet::from_tensors([
                ("fine".to_owned(), HostTensor::from_f32([2], vec![1.0, 2.0]).cast(dtype)),
                ("blocks.3.weight".to_owned(), bad.cast(dtype)),
            ]);
            let error = set.check_finite().unwrap_err().to_string();
            assert!(error.contains("`blocks.3.weight`") && error.contains("element 7777"), "{error}");
        }
        let integers = HostTensor::from_i64([1], vec![-1]);
        let set = WeightSet::from_tensors([("a".to_owned(), good), ("b".to_owned(), integers)]);
        set.check_finite().unwrap();
    }
}
