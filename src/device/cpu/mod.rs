//! The host processor: vector instructions, elementary functions, matrix products, convolutions.

pub mod gemm;
pub mod math;
pub mod scratch;
pub mod simd;
