//! Every CUDA kernel on the simulator, over the cases of the op registry.
//! `OPS=adaln,attention cargo test --test cuda_sim` runs some ops only.
#![cfg(not(windows))]

use dreamclear::device::sim::Simulator;
use dreamclear::ops::{Case, check_cuda, registry};

/// Every test case of every (selected) op.
fn each(what: &str, check: impl Fn(&Case) -> Result<(), String> + Sync) {
    use rayon::prelude::*;
    let only = std::env::var("OPS").ok();
    let failures: Vec<String> = registry()
        .filter(|e| only.as_ref().is_none_or(|o| o.split(',').any(|n| n == e.name || n == e.family)))
        .collect::<Vec<_>>()
        .into_par_iter()
        .flat_map_iter(|e| (e.cases)().into_iter().filter(|c| !c.bench).map(move |c| (e.name, c)))
        .filter_map(|(op, case)| check(&case).err().map(|m| format!("{op}/{}: {m}", case.name)))
        .collect();
    assert!(failures.is_empty(), "{what}:\n{}", failures.join("\n"));
}

#[test]
fn kernels_equal_references() {
    if Simulator::new().is_err() {
        eprintln!("skipped: this build has no simulator (no C++ compiler)");
        return;
    }
    each("kernel on the simulator against reference", check_cuda::kernels);
}
