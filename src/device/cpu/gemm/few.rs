//! Products with too few rows to pay for packing all of B: a task takes a few panels of columns and
//! packs them block by block of k into its second-level cache, where the rows of A meet them at
//! once. B passes through memory once. Sums are those of the general product, bit for bit.

use super::{
    Epilogue, K_BLOCK, Kernels, MAX_ROWS, MAX_WIDTH, MatrixA, MatrixB, PARALLEL, Panel, Rows, Target, check,
    copy_block, for_each_task, panel_block,
};
use crate::device::cpu::scratch::{Scratch, Shared};
use crate::device::cpu::simd::Level;

/// Panels of a task, at most: a block of A (up to 288 KiB) is then read from memory once for 128
/// columns and stays in the second-level cache beside one block of a panel (64 KiB).
const PANELS: usize = 4;

/// `out = epilogue(a · b)` for `a` stored row by row; see [`super::gemm`].
pub fn product(
    level: Level,
    (m, k, n): (usize, usize, usize),
    a: MatrixA,
    b: MatrixB,
    out: &mut [f32],
    ldo: usize,
    epilogue: &Epilogue,
) {
    check(a, m, k, n, out.len(), ldo);
    b.check(k, n);
    if m == 0 {
        return;
    }
    let finish = epilogue.resolve(m, n, out.as_ptr(), ldo);
    let target = Target { level, out: Shared::new(out), ldo, finish };
    // Rows a multiple of 2 KiB apart fall into the same few sets of the first-level cache.
    let copied = a.stride.is_multiple_of(512);
    let lda = if copied { k + 16 } else { a.stride };
    let mut copy = Scratch::new(if copied { m * lda } else { 0 });
    if copied {
        copy_block(a, m, 0, k, &mut copy);
    }
    let a: &[f32] = if copied { &copy } else { a.values };
    let kernels = Kernels::of(level);
    let width = kernels.width();
    let parallel = m * n * k > PARALLEL;
    let threads = if parallel { rayon::current_num_threads() } else { 1 };
    let panels = n.div_ceil(width);
    let panels = panels.div_ceil(4 * threads).min(PANELS);
    for_each_task(n.div_ceil(panels * width), parallel, |task| {
        let columns = task * panels * width..n.min((task + 1) * panels * width);
        let waiting = m.div_ceil(kernels.rows) * MAX_ROWS * MAX_WIDTH;
        let mut tiles = Scratch::new(panels * waiting);
        let mut packed = Scratch::new(K_BLOCK * width);
        let mut k0 = 0;
        loop {
            let kb = K_BLOCK.min(k - k0);
            let rows = Rows { a: a[k0.min(a.len())..].as_ptr(), lda, m0: 0, m };
            for (column, tiles) in columns.clone().step_by(width).zip(tiles.chunks_exact_mut(waiting)) {
                let count = width.min(n - column);
                let panel_width = kernels.panel_width(count);
                let packed = &mut packed[..kb * panel_width];
                b.pack_block(level, k0, column, count, panel_width, packed);
                let panel = Panel { b: packed.as_ptr(), column, columns: count, width: panel_width };
                let last = k0 + kb == k;
                // SAFETY: all bounds were checked above; the task has these columns for itself.
                unsafe {
                    panel_block(rows, panel, kb, (k0 > 0, last), tiles, MAX_ROWS * MAX_WIDTH, target);
                }
            }
            k0 += kb;
            if k0 == k {
                return;
            }
        }
    });
}
