//! Tensor maps as the driver encodes them.

use std::ffi::c_void;

use cudarc::driver::{DriverError, sys};

use super::driver::words;
use crate::device::kernel::{Swizzle, TensorMapSpec};
use crate::ffi;
use crate::tensor::DType;

const _: () = assert!(size_of::<ffi::TensorMap>() == size_of::<sys::CUtensorMap>());

/// Asks the driver. What lies outside the tensor reads as zeros.
pub(super) fn encode(spec: &TensorMapSpec) -> Result<ffi::TensorMap, String> {
    use sys::{
        CUtensorMapDataType_enum as Type, CUtensorMapFloatOOBfill_enum as Fill,
        CUtensorMapInterleave_enum as Interleave, CUtensorMapL2promotion_enum as Promotion,
        CUtensorMapSwizzle_enum as Chunks,
    };
    spec.check()?;
    let dtype = match spec.dtype {
        DType::BF16 => Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        DType::F16 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        _ => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
    };
    let swizzle = match spec.swizzle {
        Swizzle::None => Chunks::CU_TENSOR_MAP_SWIZZLE_NONE,
        Swizzle::Bytes32 => Chunks::CU_TENSOR_MAP_SWIZZLE_32B,
        Swizzle::Bytes64 => Chunks::CU_TENSOR_MAP_SWIZZLE_64B,
        Swizzle::Bytes128 => Chunks::CU_TENSOR_MAP_SWIZZLE_128B,
    };
    let wide = |all: &[usize]| all.iter().map(|&n| n as u64).collect::<Vec<_>>();
    let (extents, strides) = (wide(&spec.extents), wide(&spec.strides));
    let boxed: Vec<u32> = spec.boxed.iter().map(|&n| n as u32).collect();
    let every = vec![1u32; boxed.len()];
    let mut map = ffi::TensorMap::default();
    // SAFETY: lists of the lengths that `check` has seen; a map of 128 bytes, aligned to 64.
    let result = unsafe {
        sys::cuTensorMapEncodeTiled(
            (&raw mut map).cast(),
            dtype,
            extents.len() as u32,
            spec.address as *mut c_void,
            extents.as_ptr(),
            strides.as_ptr(),
            boxed.as_ptr(),
            every.as_ptr(),
            Interleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            Promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            Fill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    match result {
        sys::CUresult::CUDA_SUCCESS => Ok(map),
        e => Err(format!("the driver takes no tensor map of {spec:?}: {}", words(DriverError(e)))),
    }
}
