//! Matrix products on the processor: C = epilogue(A · B) in f32.
//!
//! B is packed into panels ([`PackedB`]; weights can be packed once and kept). The product is
//! divided into tasks of whole tiles; within a task, blocks of k run outermost so that a block of
//! A stays in the second-level cache while the panels of B pass by. Between blocks of k the
//! tiles wait in a buffer of the task: the output is written once, by the epilogue, which may
//! therefore read a residual from the memory that it overwrites.
//!
//! An element is always summed in the order of k: the same bytes for any number of threads.

mod columns;
mod epilogue;
mod few;
mod kernel;
mod pack;
mod vector;

use rayon::prelude::*;

pub use epilogue::{Activation, Epilogue, Gate, Residual};
pub(crate) use epilogue::{Finish, Place, extent, finish_tile};
pub(crate) use kernel::{ColumnArgs, Kernels, MAX_ROWS, MAX_WIDTH, Segment, TileArgs};
pub(crate) use pack::Panel;
pub use pack::{MatrixB, PackedB, Values};

use super::scratch::{Scratch, Shared};
use super::simd::Level;

/// Values of k between two visits to a tile: a panel of B and a tile's rows of A then fit the
/// second-level cache several times over.
const K_BLOCK: usize = 512;

/// Rows and panels of a task.
const TASK_ROWS: usize = 144;
const TASK_PANELS: usize = 12;

/// Multiply-adds below which threads cost more than they bring.
const PARALLEL: usize = 1 << 16;

/// A left-hand matrix A of `m` × `k`.
#[derive(Clone, Copy, Debug)]
pub struct MatrixA<'a> {
    /// The values.
    pub values: &'a [f32],
    /// Distance between stored rows, in values.
    pub stride: usize,
    /// Whether it is stored as `[k, m]` instead of `[m, k]`.
    pub transposed: bool,
}

impl<'a> MatrixA<'a> {
    /// Rows of `k` values without gaps.
    pub fn dense(values: &'a [f32], k: usize) -> Self {
        MatrixA { values, stride: k, transposed: false }
    }

    /// The rows from `m` on, if it is stored row by row.
    fn rows_from(self, m: usize) -> MatrixA<'a> {
        MatrixA { values: &self.values[(m * self.stride).min(self.values.len())..], ..self }
    }
}

/// Runs `task` for 0..count, on the current thread pool if it is worth it.
pub(crate) fn for_each_task(count: usize, parallel: bool, task: impl Fn(usize) + Sync + Send) {
    if parallel && count > 1 && rayon::current_num_threads() > 1 {
        (0..count).into_par_iter().with_max_len(1).for_each(task);
    } else {
        (0..count).for_each(task);
    }
}

/// `out[m, n] = epilogue(a[m, k] · b[k, n])`, rows of `out` being `ldo` values apart.
///
/// Few rows are a path of their own, chosen by m alone: up to 144 rows pack B block by block into
/// the cache, with the same sums as many rows; up to 4 rows of A stored row by row take each element
/// as a dot product, whose sum has another order.
///
/// # Panics
/// If a slice is too short for its shape.
pub fn gemm(
    level: Level,
    (m, k, n): (usize, usize, usize),
    a: MatrixA,
    b: MatrixB,
    out: &mut [f32],
    ldo: usize,
    epilogue: &Epilogue,
) {
    if m <= vector::MAX_M && vector::gemv(level, (m, k, n), a, b, out, ldo, epilogue) {
        return;
    }
    if a.transposed {
        return columns::product(level, (m, k, n), a, b, out, ldo, epilogue);
    }
    if m <= TASK_ROWS && n > 0 {
        return few::product(level, (m, k, n), a, b, out, ldo, epilogue);
    }
    gemm_packed(m, a, &PackedB::new(level, b, k, n), out, ldo, epilogue);
}

/// [`gemm`] with a matrix that is packed already; A is stored row by row.
///
/// # Panics
/// As [`gemm`], and for a transposed A.
pub fn gemm_packed(m: usize, a: MatrixA, b: &PackedB, out: &mut [f32], ldo: usize, epilogue: &Epilogue) {
    assert!(!a.transposed, "columns of A meet a packed B");
    let (k, n) = (b.k(), b.n());
    if m == 0 || n == 0 {
        return;
    }
    check(a, m, k, n, out.len(), ldo);
    let finish = epilogue.resolve(m, n, out.as_ptr(), ldo);
    let parallel = m * n * k.max(16) > PARALLEL;
    // Tasks small enough that every thread gets several, or all of the few rows there are.
    let threads = if parallel { rayon::current_num_threads() } else { 1 };
    let rows = TASK_ROWS.min(m.div_ceil(4 * threads).next_multiple_of(MAX_ROWS));
    let panels = if k <= K_BLOCK && m > rows * threads { b.panels() } else { TASK_PANELS };
    let panels = if m <= rows { b.panels().div_ceil(4 * threads).min(panels) } else { panels };
    let row_tasks = m.div_ceil(rows);
    let out = Shared::new(out);
    for_each_task(row_tasks * b.panels().div_ceil(panels), parallel, |task| {
        let m0 = task % row_tasks * rows;
        let p0 = task / row_tasks * panels;
        let block = Block { m0, m: rows.min(m - m0), p0, p1: (p0 + panels).min(b.panels()) };
        // SAFETY: the slices were checked above, and each task writes rows and columns of its own.
        unsafe { product(a.rows_from(m0), block, b, out, ldo, finish) }
    });
}

/// One product a batch entry: `out[i] = epilogue(a(i) · b(i))`, where entry i's output begins at
/// `i · out_stride` and has dense rows of `n`. The epilogue's residual must be `None` or `Output`.
///
/// # Panics
/// If a slice is too short for its shape, or the residual is a matrix.
pub fn gemm_batch<'a>(
    level: Level,
    (batch, m, k, n): (usize, usize, usize, usize),
    a: impl Fn(usize) -> MatrixA<'a> + Sync,
    b: impl Fn(usize) -> MatrixB<'a> + Sync,
    out: &mut [f32],
    out_stride: usize,
    epilogue: &Epilogue,
) {
    assert!(!matches!(epilogue.residual, Residual::Matrix(..)), "a batch takes no residual matrix");
    if m * n == 0 || batch == 0 {
        return;
    }
    assert!(out_stride >= m * n && out.len() >= (batch - 1) * out_stride + m * n, "output too short");
    let shared = Shared::new(out);
    // Many small products: one a task. Few large ones: each is divided by itself.
    let across = batch >= 4 * rayon::current_num_threads() || m * n * k <= PARALLEL;
    for_each_task(batch, across && batch * m * n * k > PARALLEL, |i| {
        // SAFETY: entry i owns out_stride values; bounds were checked above.
        let out = unsafe { std::slice::from_raw_parts_mut(shared.get().add(i * out_stride), m * n) };
        gemm(level, (m, k, n), a(i), b(i), out, n, epilogue);
    });
}

fn check(a: MatrixA, m: usize, k: usize, n: usize, out: usize, ldo: usize) {
    let needed = if a.transposed { extent(k, m, a.stride) } else { extent(m, k, a.stride) };
    assert!(a.values.len() >= needed, "A has {} values, {needed} needed", a.values.len());
    assert!(ldo >= n && out >= extent(m, n, ldo), "output of {out} values for {m}x{n}, rows {ldo} apart");
}

/// The rows and panels that a task computes.
#[derive(Clone, Copy)]
struct Block {
    m0: usize,
    m: usize,
    p0: usize,
    p1: usize,
}

/// Computes a block; `a` begins at the block's first row.
///
/// # Safety
/// `out` and the residual of `finish` hold the whole result, `a` all of the block's rows, and no
/// one else writes the block.
unsafe fn product(a: MatrixA, block: Block, b: &PackedB, out: Shared<f32>, ldo: usize, finish: Finish) {
    let kernels = Kernels::of(b.level());
    let k = b.k();
    let tile_len = MAX_ROWS * MAX_WIDTH;
    let row_tiles = block.m.div_ceil(kernels.rows);
    let waiting = if k > K_BLOCK { row_tiles * (block.p1 - block.p0) } else { 1 };
    let mut tiles = Scratch::new(waiting * tile_len);
    // Rows a multiple of 2 KiB apart fall into the same few sets of the first-level cache.
    let copied = a.stride.is_multiple_of(512);
    let mut copy = Scratch::new(if copied { block.m * (K_BLOCK + 16) } else { 0 });
    let mut k0 = 0;
    loop {
        let kb = K_BLOCK.min(k - k0);
        let (a_block, lda) = if copied {
            copy_block(a, block.m, k0, kb, &mut copy);
            (copy.as_ptr(), kb + 16)
        } else {
            (a.values[k0.min(a.values.len())..].as_ptr(), a.stride)
        };
        let last = k0 + kb == k;
        let step = if waiting > 1 { tile_len } else { 0 };
        let target = Target { level: b.level(), out, ldo, finish };
        for p in block.p0..block.p1 {
            let tiles = &mut tiles[(p - block.p0) * row_tiles * step..];
            let rows = Rows { a: a_block, lda, m0: block.m0, m: block.m };
            // SAFETY: A and B cover these rows and columns (checked by the caller).
            unsafe { panel_block(rows, b.panel(p, k0), kb, (k0 > 0, last), tiles, step, target) };
        }
        k0 += kb;
        if last {
            return;
        }
    }
}

/// Rows of A at one block of k.
#[derive(Clone, Copy)]
struct Rows {
    /// First value.
    a: *const f32,
    /// Distance between rows.
    lda: usize,
    /// First row of the result.
    m0: usize,
    m: usize,
}

/// Where and how results are written.
#[derive(Clone, Copy)]
struct Target<'a> {
    level: Level,
    out: Shared<f32>,
    ldo: usize,
    finish: Finish<'a>,
}

/// All rows of a panel for one block of `kb` values of k; tiles wait `step` apart (0 if there is
/// only one block). The results are written if this is the last block.
///
/// # Safety
/// As [`product`]; A and the panel hold `kb` values of k.
unsafe fn panel_block(
    rows: Rows,
    panel: Panel,
    kb: usize,
    (accumulate, last): (bool, bool),
    tiles: &mut [f32],
    step: usize,
    target: Target,
) {
    let kernels = Kernels::of(target.level);
    for (i, (m, count)) in kernels.row_tiles(rows.m).enumerate() {
        let tile = &mut tiles[i * step..][..MAX_ROWS * MAX_WIDTH];
        // SAFETY: the caller vouches for A, the panel and the output; the tile holds MAX_ROWS ×
        // MAX_WIDTH values; the level's instructions exist.
        unsafe {
            kernels.tile(count, panel.width)(TileArgs {
                a: rows.a.add(m * rows.lda),
                lda: rows.lda,
                offsets: &[0],
                k: kb,
                b: panel.b,
                ldb: panel.width,
                tile: tile.as_mut_ptr(),
                accumulate,
            });
            if last {
                write_tile(tile, panel, (rows.m0 + m, count), target);
            }
        }
    }
}

/// Writes a tile of `rows` rows from row `m` of the result on.
///
/// # Safety
/// The output and the residual hold these rows, and no one else writes them.
unsafe fn write_tile(tile: &mut [f32], panel: Panel, (m, rows): (usize, usize), target: Target) {
    // SAFETY: the caller vouches for the output.
    unsafe {
        let place = Place {
            out: target.out.get().add(m * target.ldo + panel.column),
            ldo: target.ldo,
            residual_offset: target.finish.residual.map_or(0, |(_, s)| m * s + panel.column),
            row: m,
            rows,
            column: panel.column,
            columns: panel.columns,
        };
        finish_tile(target.level, tile, panel.width, place, target.finish);
    }
}

/// Copies columns `k0..k0+kb` of `m` rows of A into rows that are `kb + 16` apart.
fn copy_block(a: MatrixA, m: usize, k0: usize, kb: usize, copy: &mut [f32]) {
    let lda = kb + 16;
    for (i, row) in copy.chunks_exact_mut(lda).take(m).enumerate() {
        row[..kb].copy_from_slice(&a.values[i * a.stride + k0..][..kb]);
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::noise;
