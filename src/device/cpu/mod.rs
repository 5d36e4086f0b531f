//! The host processor: vector instructions, elementary functions, matrix products, convolutions.

pub mod conv;
pub mod gemm;
pub mod math;
pub mod scratch;
pub mod simd;
