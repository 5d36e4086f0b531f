//! What several test files need: golden files and their recipes.
#![allow(dead_code, unused_imports)] // each of them uses a part

use std::collections::BTreeMap;
use std::path::Path;

use dreamclear::tensor::HostTensor;
use dreamclear::verify::examples;

pub use dreamclear::verify::examples::recipe_tensor;

/// All tensors of a golden file, those of its recipe generated, and its metadata.
pub fn golden(path: &Path) -> (BTreeMap<String, HostTensor>, BTreeMap<String, String>) {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    examples::golden(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Relative L2 distance of `got` from `expected`; NaN if anything is.
pub fn relative(got: &HostTensor, expected: &HostTensor) -> f64 {
    assert_eq!(got.shape(), expected.shape(), "shapes");
    let (a, b) = (got.to_f64(), expected.to_f64());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(&b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
}
