//! Which kernels of `cuda/resize.cu` run, and with what.

use super::taps::Taps;
use crate::device::kernel::Launch;
use crate::ffi::{ResizeAxis, ResizeImage, ResizeTap};
use crate::graph::cuda::CudaCall;
use crate::graph::strided::{Gather, divisor, gather, grid};
use crate::tensor::DType;

/// Threads of a block, each with one unit.
const THREADS: usize = 256;
/// Elements of a unit where vectors are possible.
const VEC: usize = 4;
/// Source pixels of a new one up to which both axes go in one pass: those of bicubic.
const MOST_TAPS: usize = 16;

/// Sources and weights for each index of an axis, in device memory.
pub(in crate::ops) struct Tables {
    starts: u64,
    taps: u64,
    /// How many indices.
    len: usize,
}

impl Tables {
    /// One slice of (source, weight) for each new index.
    pub(in crate::ops) fn new<'a>(
        indices: impl Iterator<Item = &'a [(usize, f32)]>,
        constants: &mut dyn FnMut(&[u8]) -> u64,
    ) -> Self {
        let (mut starts, mut taps) = (vec![0i32], Vec::new());
        for index in indices {
            taps.extend(index.iter().map(|&(pixel, weight)| ResizeTap { pixel: pixel as i32, weight }));
            starts.push(taps.len() as i32);
        }
        let len = starts.len() - 1;
        Tables {
            starts: constants(bytemuck::cast_slice(&starts)),
            taps: constants(bytemuck::cast_slice(&taps)),
            len,
        }
    }

    fn of(taps: &Taps, constants: &mut dyn FnMut(&[u8]) -> u64) -> Self {
        Self::new((0..taps.len()).map(|i| taps.of(i)), constants)
    }
}

/// A dense tensor `[outer, from, inner]`.
pub(in crate::ops) struct Along {
    pub outer: usize,
    pub from: usize,
    pub inner: usize,
}

/// Weighted sums along the middle axis; operand and result as address and element type.
pub(in crate::ops) fn along(
    pass: &Along,
    tables: &Tables,
    (x, from): (u64, DType),
    (y, to): (u64, DType),
) -> Result<Vec<Launch>, String> {
    let (n, form) = vectors(pass.inner, x, from);
    let units = counted(pass.outer * tables.len * (pass.inner / n))?;
    let params = ResizeAxis {
        x,
        y,
        starts: tables.starts,
        taps: tables.taps,
        inner: divisor(pass.inner / n),
        to: divisor(tables.len),
        from: pass.from as u32,
        units,
    };
    Ok(vec![Launch::new(format!("resize_axis_{form}{from}_{to}"), grid(units as usize, THREADS), &params)])
}

/// Elements of a unit, and what the kernel of that form is called.
fn vectors(inner: usize, x: u64, dtype: DType) -> (usize, &'static str) {
    let whole = inner.is_multiple_of(VEC) && x.is_multiple_of((VEC * dtype.size()) as u64);
    if whole { (VEC, "") } else { (1, "any_") }
}

fn counted(units: usize) -> Result<u32, String> {
    match i32::try_from(units) {
        Ok(units) => Ok(units as u32),
        Err(_) => Err(format!("a result of {units} units is too large for one launch")),
    }
}

/// Most source pixels that a new one has.
fn most(taps: &[Taps; 2]) -> usize {
    taps.iter().map(|t| (0..t.len()).map(|i| t.of(i).len()).max().unwrap_or(0)).product()
}

/// Bytes of the f32 tensor between two passes: new rows, old columns.
pub(super) fn scratch(taps: &[Taps; 2], x: &[usize]) -> usize {
    if most(taps) <= MOST_TAPS { 0 } else { x[0] * taps[0].len() * x[2] * x[3] * DType::F32.size() }
}

/// Each new pixel is one old one.
pub(super) fn nearest(taps: &[Taps; 2], call: &mut CudaCall) -> Result<Vec<Launch>, String> {
    let (x, y) = (&call.inputs[0], &call.outputs[0]);
    let [b, h, w, c] = x.ty.shape[..] else { unreachable!("infer takes four axes") };
    let table = |taps: &Taps, extent: usize| Gather::Table {
        extent,
        table: (0..taps.len()).map(|i| taps.of(i)[0].0 as i32).collect(),
    };
    let axes =
        vec![Gather::All { extent: b }, table(&taps[0], h), table(&taps[1], w), Gather::All { extent: c }];
    gather(x.address, y.address, y.ty.dtype, axes, call.constants)
}

/// Rows and columns by these taps.
pub(super) fn resize(taps: &[Taps; 2], call: &mut CudaCall) -> Result<Vec<Launch>, String> {
    let (x, y) = (&call.inputs[0], &call.outputs[0]);
    if y.ty.is_empty() {
        return Ok(vec![]);
    }
    let [b, h, w, c] = x.ty.shape[..] else { unreachable!("infer takes four axes") };
    let [rows, columns] = [0, 1].map(|axis| Tables::of(&taps[axis], call.constants));
    let dtype = y.ty.dtype;
    if most(taps) > MOST_TAPS {
        let down = Along { outer: b, from: h, inner: w * c };
        let mut launches = along(&down, &rows, (x.address, dtype), (call.scratch, DType::F32))?;
        let across = Along { outer: b * rows.len, from: w, inner: c };
        launches.extend(along(&across, &columns, (call.scratch, DType::F32), (y.address, dtype))?);
        return Ok(launches);
    }
    let (n, form) = vectors(c, x.address, dtype);
    let units = counted(y.ty.len() / n)?;
    let params = ResizeImage {
        x: x.address,
        y: y.address,
        row_starts: rows.starts,
        column_starts: columns.starts,
        row_taps: rows.taps,
        column_taps: columns.taps,
        channels: divisor(c / n),
        width: divisor(columns.len),
        height: divisor(rows.len),
        from: [h as u32, w as u32],
        units,
        reserved: 0,
    };
    Ok(vec![Launch::new(format!("resize_image_{form}{dtype}"), grid(units as usize, THREADS), &params)])
}
