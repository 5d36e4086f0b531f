//! Hopper's own kernels (`cuda/gemm_sm90.cu`): when one of them runs a product, and with what.

use super::cuda::{Matrix, Plan, Product, Tile};
use crate::device::kernel::{Launch, Swizzle, TensorMapSpec};
use crate::ffi;
use crate::graph::cuda::CudaCall;
use crate::tensor::DType;

/// Inner extent of a step, and the elements of a swizzled row; slices of k are multiples of it.
const STEP: usize = 64;
/// Rows of a tile.
const ROWS: usize = 128;
/// Operations of the tensor cores of one multiprocessor in a second, dense bf16.
const PEAK: f64 = 989e12 / 132.0;
/// What `mma.sync`, with which the kernels of `cuda/gemm.cu` multiply, reaches of what wgmma reaches at most: an
/// assumption.
const OF_MMA_SYNC: f64 = 0.6;
/// Blocks along z of a launch.
const MOST_BLOCKS_Z: usize = 65535;

/// Columns of a tile and the share of the peak that its kernel reaches: assumptions until it is measured.
fn tiles(trans_a: bool, trans_b: bool) -> &'static [(usize, f64)] {
    match (trans_a, trans_b) {
        (false, true) => &[(256, 0.75), (128, 0.65)],
        (true, true) => &[],
        _ => &[(128, 0.65)],
    }
}

impl Product {
    /// The launch of a kernel `*_sm90`, and into how many parts it cuts k (no more than `other`, for whose parts
    /// there is scratch); or None where `other` is the better choice, or the only one: on another device, or with
    /// rows that are not whole 16 bytes.
    pub(super) fn on_hopper(&self, call: &CudaCall, other: &Plan) -> Result<Option<(Launch, usize)>, String> {
        let e = &self.extents;
        let Tile::Block(rows, columns) = other.tile else { return Ok(None) };
        let copied = |m: &Matrix| m.align() == 16 && m.step > 0;
        if !(call.device.hopper && e.half && e.k > 0 && e.batch <= MOST_BLOCKS_Z)
            || !(copied(&self.a) && copied(&self.b) && self.group.iter().all(|m| m.a_step > 0))
        {
            return Ok(None);
        }
        let blocks = |rows, columns, splits| e.batch * e.m.div_ceil(rows) * e.n.div_ceil(columns) * splits;
        // One block at a time on each multiprocessor.
        let seconds = |blocks: usize, rows: usize, columns: usize, k: usize, share: f64| {
            let waves = blocks.div_ceil(call.device.multiprocessors as usize);
            waves as f64 * 2.0 * (rows * columns * k) as f64 / (PEAK * share)
        };
        let share = OF_MMA_SYNC * other.share(e);
        let mut best =
            (seconds(blocks(rows, columns, other.splits), rows, columns, other.k_slice, share), None);
        for &(columns, share) in tiles(e.trans_a, e.trans_b) {
            for splits in 1..=other.splits {
                let k_slice = e.k.div_ceil(splits).next_multiple_of(STEP);
                if splits > 1 && k_slice * (splits - 1) >= e.k {
                    continue; // the last part would be empty
                }
                let time = seconds(blocks(ROWS, columns, splits), ROWS, columns, k_slice, share);
                if time < best.0 {
                    best = (time, Some((columns, splits, k_slice)));
                }
            }
        }
        let Some((columns, splits, k_slice)) = best.1 else { return Ok(None) };
        Ok(Some((self.hopper_launch(call, columns, splits, k_slice)?, splits)))
    }

    fn hopper_launch(
        &self,
        call: &CudaCall,
        columns: usize,
        splits: usize,
        k_slice: usize,
    ) -> Result<Launch, String> {
        let e = &self.extents;
        // A box of the operand: a step of k, and the tile's rows or columns.
        let map = |m: &Matrix, outer: usize, box_outer: usize, along_k: bool| {
            let size = m.dtype.size();
            let (inner, lines, box_lines) =
                if along_k { (e.k, outer, box_outer) } else { (outer, e.k, STEP) };
            let items = if m.batch_step == 0 { 1 } else { e.batch };
            (call.tensor_map)(&TensorMapSpec {
                address: m.address,
                dtype: m.dtype,
                extents: vec![inner, lines, items],
                strides: vec![m.step * size, if items == 1 { m.step * size } else { m.batch_step * size }],
                boxed: vec![STEP, box_lines, 1],
                swizzle: Swizzle::Bytes128,
            })
        };
        let part = splits > 1;
        let mut params = ffi::GemmSm90 {
            epilogue: if part { ffi::Epilogue { alpha: 1.0, ..Default::default() } } else { self.epilogue },
            m: e.m as i32,
            n: e.n as i32,
            k: e.k as i32,
            k_slice: k_slice as i32,
            a_batched: (self.a.batch_step != 0).into(),
            b_batched: (self.b.batch_step != 0).into(),
            y_f32: (part || self.y_dtype == DType::F32).into(),
            grouped: e.grouped.into(),
            ..Default::default()
        };
        params.y[0] = if part { self.scratch } else { self.y };
        if !e.grouped {
            params.a[0] = map(&self.a, e.m, ROWS, !e.trans_a)?;
            params.b[0] = map(&self.b, e.n, columns, e.trans_b)?;
        }
        for (i, member) in self.group.iter().enumerate() {
            let a = Matrix { address: member.a, step: member.a_step as usize, ..self.a };
            params.a[i] = map(&a, e.m, ROWS, !e.trans_a)?;
            params.b[i] = map(&Matrix { address: member.b, ..self.b }, e.n, columns, e.trans_b)?;
            params.y[i] = member.y;
            params.bias[i] = member.bias;
        }
        let kernel = format!("gemm_{}_{ROWS}x{columns}_{}_sm90", e.order(), self.a.dtype);
        let tiles = e.m.div_ceil(ROWS) * e.n.div_ceil(columns);
        Ok(Launch::new(kernel, [tiles as u32, splits as u32, e.batch as u32], &params))
    }
}
