//! Which kernels of `cuda/max_pool.cu` run, and with what.

use super::MaxPool;
use crate::device::kernel::Launch;
use crate::ffi::{MaxPoolBwd, MaxPoolFwd};
use crate::graph::cuda::CudaCall;
use crate::graph::strided::{divisor, grid};
use crate::tensor::DType;

/// Threads of a block, each with one unit.
const THREADS: usize = 256;
/// Channels of a unit where vectors are possible.
const VEC: usize = 4;

/// Channels of a unit, and what the kernel of that form is called.
fn vectors(channels: usize, addresses: &[u64], dtype: DType) -> (usize, &'static str) {
    let aligned = |a: &u64| a.is_multiple_of((VEC * dtype.size()) as u64);
    if channels.is_multiple_of(VEC) && addresses.iter().all(aligned) { (VEC, "") } else { (1, "any_") }
}

fn counted(units: usize) -> Result<u32, String> {
    match i32::try_from(units) {
        Ok(units) => Ok(units as u32),
        Err(_) => Err(format!("a picture of {units} units is too large for one launch")),
    }
}

pub(super) fn forward(pool: &MaxPool, call: &CudaCall) -> Result<Vec<Launch>, String> {
    let (x, y) = (&call.inputs[0], &call.outputs[0]);
    if y.ty.is_empty() {
        return Ok(vec![]);
    }
    let [_, height, width, channels] = y.ty.shape[..] else { unreachable!("infer gives four axes") };
    let (n, form) = vectors(channels, &[x.address, y.address], y.ty.dtype);
    let units = counted(y.ty.len() / n)?;
    let params = MaxPoolFwd {
        x: x.address,
        y: y.address,
        channels: divisor(channels / n),
        width: divisor(width),
        height: divisor(height),
        from: [x.ty.shape[1] as i32, x.ty.shape[2] as i32],
        size: pool.size as i32,
        stride: pool.stride as i32,
        pad: pool.pad as i32,
        units,
    };
    let kernel = format!("max_pool_fwd_{form}{}", y.ty.dtype);
    Ok(vec![Launch::new(kernel, grid(units as usize, THREADS), &params)])
}

pub(super) fn backward(pool: &MaxPool, call: &CudaCall) -> Result<Vec<Launch>, String> {
    let ([x, dy], dx) = (&call.inputs[..], &call.outputs[0]) else {
        unreachable!("infer takes two operands")
    };
    if dx.ty.is_empty() {
        return Ok(vec![]);
    }
    let [_, height, width, channels] = x.ty.shape[..] else { unreachable!("infer takes four axes") };
    let (n, form) = vectors(channels, &[x.address, dy.address, dx.address], DType::F32);
    let units = counted(x.ty.len() / n)?;
    let params = MaxPoolBwd {
        x: x.address,
        dy: dy.address,
        dx: dx.address,
        channels: divisor(channels / n),
        width: divisor(width),
        height: divisor(height),
        windows: [dy.ty.shape[1] as i32, dy.ty.shape[2] as i32],
        size: pool.size as i32,
        stride: pool.stride as i32,
        pad: pool.pad as i32,
        units,
    };
    let kernel = format!("max_pool_bwd_{form}f32");
    Ok(vec![Launch::new(kernel, grid(units as usize, THREADS), &params)])
}
