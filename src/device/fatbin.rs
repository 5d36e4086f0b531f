//! The code for GPUs that this build carries: what `build.rs` made of `cuda/*.cu` (docs/cuda-build.md).

include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

/// Every family of kernels (`cuda/<family>.cu`) with its fatbin: machine code for several architectures and
/// PTX for newer ones. Empty if there was no nvcc.
pub fn fatbins() -> &'static [(&'static str, &'static [u8])] {
    FATBINS
}

/// One line: what there is and by which compiler, or why there is none.
pub fn summary() -> &'static str {
    SUMMARY
}
