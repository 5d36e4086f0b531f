//! Text features in files, as the official tools keep them for training and `--caption-features`.

use std::path::Path;

use crate::error::{Error, Result};
use crate::tensor::{DType, HostTensor};
use crate::weights::npz;

/// Features of captions take a few megabytes; more is not one caption.
const LIMIT: usize = 256 << 20;

/// Features of one caption.
#[derive(Clone, Debug)]
pub struct CaptionFeatures {
    /// The text encoder's output, f32 `[tokens, channels]`, rows of padding included.
    pub feature: HostTensor,
    /// 1 for tokens of the text and its end, 0 for padding; one number a token.
    pub mask: Vec<i64>,
}

impl CaptionFeatures {
    /// Reads `caption_feature` `[1, tokens, channels]` (or without the first axis, in any float type) and
    /// `attention_mask` `[1, tokens]` (or without the first axis, or with another; left out: no
    /// padding) from an npz file.
    ///
    /// # Errors
    /// If an array is missing or of another shape, or the mask holds other numbers than 0 and 1.
    pub fn open(path: &Path) -> Result<Self> {
        let tensors = npz::open(path, LIMIT)?;
        Self::from_tensors(&tensors).map_err(|message| Error::file(path, message))
    }

    fn from_tensors(tensors: &[(String, HostTensor)]) -> Result<Self, String> {
        let find = |name: &str| tensors.iter().find(|(n, _)| n == name).map(|(_, t)| t);
        let feature = find("caption_feature").ok_or_else(|| {
            let names: Vec<_> = tensors.iter().map(|(n, _)| n.as_str()).collect();
            format!("expected an array \"caption_feature\", found {}", names.join(", "))
        })?;
        let (tokens, channels) = match *feature.shape() {
            [1, tokens, channels] | [tokens, channels] if tokens * channels > 0 => (tokens, channels),
            ref other => {
                return Err(format!(
                    "\"caption_feature\" must be [1, tokens, channels] of one caption, found {other:?}"
                ));
            }
        };
        if !feature.dtype().is_float() {
            return Err(format!("\"caption_feature\" must hold floats, found {}", feature.dtype()));
        }
        let mask = match find("attention_mask") {
            None => vec![1; tokens],
            Some(mask) => {
                let outer = mask.shape().len().saturating_sub(1);
                if mask.len() != tokens || mask.shape()[..outer].iter().any(|&n| n != 1) {
                    return Err(format!(
                        "\"attention_mask\" must be [1, {tokens}] like \"caption_feature\", found {:?}",
                        mask.shape()
                    ));
                }
                let numbers = mask.to_f64();
                if let Some(odd) = numbers.iter().find(|&&m| m != 0.0 && m != 1.0) {
                    return Err(format!("\"attention_mask\" must hold zeros and ones, found {odd}"));
                }
                numbers.iter().map(|&m| m as i64).collect()
            }
        };
        Ok(CaptionFeatures { feature: feature.cast(DType::F32).reshaped([tokens, channels]), mask })
    }

    /// Writes the file as the official tool does: compressed, `caption_feature` f32
    /// `[1, tokens, channels]` and `attention_mask` i64 `[1, tokens]`.
    ///
    /// # Errors
    /// If `feature` is not `[tokens, channels]` with a number of `mask` for each token, or the file
    /// cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let [tokens, channels] = *self.feature.shape() else {
            let shape = self.feature.shape();
            return Err(Error::Usage(format!(
                "caption features must be [tokens, channels], found {shape:?}"
            )));
        };
        if self.mask.len() != tokens {
            let found = self.mask.len();
            return Err(Error::Usage(format!(
                "the mask must have {tokens} numbers, one a token, found {found}"
            )));
        }
        let feature = self.feature.cast(DType::F32).reshaped([1, tokens, channels]);
        let mask = HostTensor::from_i64([1, tokens], self.mask.clone());
        npz::write(path, [("caption_feature", &feature), ("attention_mask", &mask)], true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(feature: HostTensor, mask: Option<HostTensor>) -> Vec<(String, HostTensor)> {
        let mask = mask.map(|m| ("attention_mask".to_owned(), m));
        [("caption_feature".to_owned(), feature)].into_iter().chain(mask).collect()
    }

    #[test]
    fn written_features_are_read_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let feature = HostTensor::from_f32([3, 2], vec![1., -2., 3., 4., 5., 6.5]);
        let features = CaptionFeatures { feature: feature.clone(), mask: vec![1, 1, 0] };
        features.write(file.path()).unwrap();
        let back = CaptionFeatures::open(file.path()).unwrap();
        assert_eq!((back.feature.bytes(), &back.mask), (feature.bytes(), &features.mask));
        let wrong = CaptionFeatures { feature, mask: vec![1, 1] };
        assert!(wrong.write(file.path()).is_err_and(|e| e.to_string().contains("3 numbers")));
    }

    #[test]
    fn layouts_of_other_tools_are_read() {
        let zeros = |shape: &[usize]| HostTensor::zeros(DType::F16, shape);
        let ones = |shape: &[usize]| HostTensor::from_f32(shape, vec![1.0; shape.iter().product()]);
        for (feature, mask) in [
            (zeros(&[1, 4, 2]), None),
            (zeros(&[4, 2]), Some(ones(&[4]))),
            (zeros(&[1, 4, 2]), Some(ones(&[1, 1, 4]))),
        ] {
            let read = CaptionFeatures::from_tensors(&named(feature, mask)).unwrap();
            assert_eq!(
                (read.feature.shape(), read.feature.dtype(), read.mask),
                (&[4, 2][..], DType::F32, vec![1; 4])
            );
        }
    }

    #[test]
    fn wrong_shapes_are_refused_with_a_reason() {
        let float = |shape: &[usize]| HostTensor::zeros(DType::F32, shape);
        let twos = HostTensor::from_i64([1, 4], vec![2; 4]);
        for (tensors, part) in [
            (vec![("x".to_owned(), float(&[1]))], "found x"),
            (named(float(&[2, 4, 3]), None), "found [2, 4, 3]"),
            (named(float(&[4]), None), "found [4]"),
            (named(float(&[1, 0, 3]), None), "found [1, 0, 3]"),
            (named(HostTensor::zeros(DType::I64, [1, 4, 3]), None), "found i64"),
            (named(float(&[1, 4, 3]), Some(float(&[1, 5]))), "[1, 4] like"),
            (named(float(&[1, 4, 3]), Some(float(&[4, 1]))), "[1, 4] like"),
            (named(float(&[1, 4, 3]), Some(twos)), "found 2"),
        ] {
            let error = CaptionFeatures::from_tensors(&tensors).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
