//! What row-wise fast paths share: operands as rows of their last axis, fixed blocks of rows,
//! and reductions whose order depends on the shape alone.

use crate::graph::cuda::{CudaOperand, Storage};
use crate::graph::op::Operand;
use crate::graph::{Layout, TensorType};
use crate::tensor::DType;

/// Elements per task: large enough to be worth a thread's while, small enough to share.
pub const CHUNK: usize = 16 * 1024;

/// Partial results that a reduction over rows is split into, at most. Fixed, so that results do
/// not depend on the number of threads.
const BLOCKS: usize = 64;

/// Independent partial sums of [`sum_by`]: what one AVX-512 register holds.
const LANES: usize = 16;

/// Whether an operand's layout is rows with one step: what [`Rows::new`] reads.
pub fn is_rows(layout: &Layout) -> bool {
    layout.as_rows().is_some()
}

/// An f32 operand as rows of its last axis, which may have gaps between them.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    data: &'a [f32],
    /// Number of rows.
    pub rows: usize,
    /// Elements of a row.
    pub cols: usize,
    step: usize,
}

impl<'a> Rows<'a> {
    /// # Panics
    /// If the layout is not [`is_rows`]; the op's `accepts` must ask for that.
    pub fn new(operand: &Operand<'a>) -> Self {
        let (rows, cols, step) = operand.layout.as_rows().expect("accepts() asks for rows");
        Rows { data: operand.f32().get(operand.layout.offset..).unwrap_or(&[]), rows, cols, step }
    }

    /// Dense rows.
    pub fn dense(data: &'a [f32], cols: usize) -> Self {
        Rows { data, rows: data.len() / cols.max(1), cols, step: cols }
    }

    /// Row `i`.
    #[inline(always)]
    pub fn row(&self, i: usize) -> &'a [f32] {
        let at = i * self.step;
        &self.data[at..at + self.cols]
    }
}

/// A vector for each sample of x `[B, N, C]`: an operand `[B or 1, 1, C]` with any distance between
/// its samples, as slices of `[B, 6, C]` have.
#[derive(Clone, Copy)]
pub struct PerSample<'a> {
    /// The elements, from the first sample's first on.
    pub data: &'a [f32],
    cols: usize,
    /// Elements between samples; 0: all have the same vector.
    pub step: usize,
}

impl<'a> PerSample<'a> {
    /// Whether this layout can be read.
    pub fn accepts(layout: &Layout) -> bool {
        layout.strides.last() == Some(&1) || layout.shape.last() == Some(&1)
    }

    /// The operand; its type must have passed [`expect_per_sample`].
    pub fn new(operand: &Operand<'a>) -> Self {
        let l = operand.layout;
        let step = if l.shape[0] == 1 { 0 } else { l.strides[0] };
        PerSample { data: operand.f32(), cols: operand.ty.last(), step }
    }

    /// The vector of sample `b`.
    #[inline(always)]
    pub fn of(&self, b: usize) -> &'a [f32] {
        &self.data[b * self.step..][..self.cols]
    }
}

/// Refuses an operand that is not one vector for each sample (or for all) of x `[B, N, C]`.
pub fn expect_per_sample(what: &str, t: &TensorType, x: &TensorType) -> Result<(), String> {
    let [b, _, c] = x.shape[..] else { return Err(format!("x must be [B, N, C], found {x}")) };
    if t.dtype != DType::F32 || (t.shape != [b, 1, c] && t.shape != [1, 1, c]) {
        return Err(format!("{what} must be f32 [{b} or 1, 1, {c}], found {t}"));
    }
    Ok(())
}

/// Rows of `cols` elements that make a task of about [`CHUNK`] elements.
pub fn rows_per_task(cols: usize) -> usize {
    (CHUNK / cols.max(1)).max(1)
}

/// Rows per block when `rows` are reduced into partial results: at most [`BLOCKS`] blocks, none
/// smaller than a task.
pub fn rows_per_block(rows: usize, cols: usize) -> usize {
    rows_per_task(cols).max(rows.div_ceil(BLOCKS))
}

/// Rows and columns of a tensor of this type.
pub fn rows_of(ty: &TensorType) -> (usize, usize) {
    let cols = ty.last();
    (ty.len() / cols.max(1), cols)
}

/// `two` over `f` of all elements from `start` on, in a fixed order that vectorises.
#[inline(always)]
fn fold_by(x: &[f32], start: f32, f: impl Fn(f32) -> f32, two: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    let (chunks, tail) = x.as_chunks::<LANES>();
    for c in chunks {
        for (l, &x) in lanes.iter_mut().zip(c) {
            *l = two(*l, f(x));
        }
    }
    for (l, &x) in lanes.iter_mut().zip(tail) {
        *l = two(*l, f(x));
    }
    fold(lanes, two)
}

/// Σ f(x) in a fixed order that vectorises.
#[inline(always)]
pub fn sum_by(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    fold_by(x, 0.0, f, |a, b| a + b)
}

/// Σ f(x, y) over pairs in a fixed order that vectorises.
#[inline(always)]
pub fn sum_by2(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    let ((xc, xt), (yc, yt)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in xc.iter().zip(yc) {
        for ((s, &x), &y) in sums.iter_mut().zip(x).zip(y) {
            *s += f(x, y);
        }
    }
    for ((s, &x), &y) in sums.iter_mut().zip(xt).zip(yt) {
        *s += f(x, y);
    }
    fold(sums, |a, b| a + b)
}

/// The larger of two numbers; NaN if either is NaN.
#[inline(always)]
pub fn larger(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
}

/// The largest element (−∞ if there is none; NaN if one is NaN).
#[inline(always)]
pub fn max_of(x: &[f32]) -> f32 {
    fold_by(x, f32::NEG_INFINITY, |x| x, larger)
}

/// The largest element that is not NaN (−∞ if there is none): one instruction a vector.
#[inline(always)]
pub fn max_number_of(x: &[f32]) -> f32 {
    fold_by(x, f32::NEG_INFINITY, |x| x, |a, b| if b > a { b } else { a })
}

#[inline(always)]
fn fold(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = f(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// What a kernel reads that takes an operand in the compute type or in f32: as it is kept, if it can be.
pub fn as_kept(kept: DType, compute: DType) -> DType {
    if kept == compute { compute } else { DType::F32 }
}

/// The storage of a norm of operand 0: read as it is kept, its vectors in f32, and its result, which feeds
/// a matrix product or a convolution, in the compute type.
pub fn norm_storage(kept: &[DType], compute: DType) -> Storage {
    let mut inputs = vec![DType::F32; kept.len()];
    inputs[0] = as_kept(kept[0], compute);
    Storage { inputs, outputs: vec![compute] }
}

/// Elements between the vectors of two samples of a `[B or 1, 1, C]` operand.
pub fn sample_step(o: &CudaOperand) -> i64 {
    if o.layout.shape[0] == 1 { 0 } else { o.layout.strides[0] as i64 }
}

/// Launches of `cuda/include/rows.cuh` that sum over the rows of a norm: the gradients of its weights.
pub mod column_sums {
    use crate::device::kernel::Launch;
    use crate::ffi::{NormColumnFinish, NormColumnSums};
    use crate::graph::cuda::CudaOperand;

    /// Columns of a block that sums a slab, and threads of one that adds slabs.
    const TILE: usize = 32;
    const FINISH: usize = 128;

    /// Rows of a slab: a function of the shape alone, so that results are the same everywhere.
    fn slab(rows: usize) -> usize {
        rows.div_ceil(128).max(64)
    }

    fn moments_bytes(rows: usize) -> usize {
        (rows * 8).next_multiple_of(256)
    }

    /// Scratch: the moments of every row at its start, then the sums of the slabs.
    pub fn scratch_bytes((rows, cols): (usize, usize)) -> usize {
        moments_bytes(rows) + 2 * rows.div_ceil(slab(rows)) * cols * 4
    }

    /// The launches for an op whose first launch has left the moments at the start of `scratch`.
    pub fn launches(
        op: &str,
        (x, dy): (&CudaOperand, &CudaOperand),
        scratch: u64,
        d_weight: u64,
        d_bias: Option<u64>,
    ) -> Vec<Launch> {
        let (rows, cols, x_step) = x.layout.as_rows().expect("accepts() asks for rows");
        let (_, _, dy_step) = dy.layout.as_rows().expect("accepts() asks for rows");
        let slab = slab(rows);
        let slabs = rows.div_ceil(slab);
        let sums = scratch + moments_bytes(rows) as u64;
        let columns = NormColumnSums {
            x: x.address,
            dy: dy.address,
            moments: scratch,
            sums,
            x_step: x_step as i64,
            dy_step: dy_step as i64,
            rows: rows as i32,
            cols: cols as i32,
            slab: slab as i32,
            reserved: 0,
        };
        let finish = NormColumnFinish {
            sums,
            d_weight,
            d_bias: d_bias.unwrap_or(0),
            slabs: slabs as i32,
            cols: cols as i32,
        };
        let results = 1 + u32::from(d_bias.is_some());
        let mut launches = Vec::new();
        if slabs > 0 {
            let grid = [cols.div_ceil(TILE) as u32, slabs as u32, 1];
            launches.push(Launch::new(format!("{op}_grad_columns_f32"), grid, &columns));
        }
        let grid = [cols.div_ceil(FINISH) as u32, results, 1];
        launches.push(Launch::new(format!("{op}_grad_finish_f32"), grid, &finish));
        launches
    }
}
