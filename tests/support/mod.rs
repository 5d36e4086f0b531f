//! What several test files need: golden files and their recipes.
#![allow(dead_code)] // each of them uses a part

use std::collections::BTreeMap;
use std::path::Path;

use dreamclear::tensor::HostTensor;
use dreamclear::weights::WeightSet;

/// All tensors of a golden file, those of its recipe generated, and its metadata.
pub fn golden(path: &Path) -> (BTreeMap<String, HostTensor>, BTreeMap<String, String>) {
    let set = WeightSet::open(path).unwrap_or_else(|e| panic!("{e}"));
    let metadata = set.metadata().clone();
    let mut tensors: BTreeMap<_, _> = set.iter().map(|(k, t)| (k.to_owned(), t.clone())).collect();
    if let Some(recipe) = metadata.get("recipe") {
        let entries: BTreeMap<String, (Vec<usize>, f32, i32, i32)> =
            serde_json::from_str(recipe).expect("recipe");
        for (name, (shape, centre, m, e)) in entries {
            let tensor = recipe_tensor(&name, &shape, centre, m, e);
            tensors.insert(name, tensor);
        }
    }
    (tensors, metadata)
}

/// The pure function of name and entry that `tools/golden/README.md` defines.
pub fn recipe_tensor(name: &str, shape: &[usize], centre: f32, m: i32, e: i32) -> HostTensor {
    let h =
        name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let value = |i: u64| {
        let mut z = h.wrapping_add((i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let r = (z >> 42) as i32 - (1 << 21);
        centre + (m * r) as f32 * 2f32.powi(e)
    };
    let n: usize = shape.iter().product();
    HostTensor::from_f32(shape, (0..n as u64).map(value).collect())
}

/// Relative L2 distance of `got` from `expected`; NaN if anything is.
pub fn relative(got: &HostTensor, expected: &HostTensor) -> f64 {
    assert_eq!(got.shape(), expected.shape(), "shapes");
    let (a, b) = (got.to_f64(), expected.to_f64());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(&b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
}
