//! Products whose left matrix is stored column by column, `[k, m]`: gradients of weights, which sum
//! over tokens. A is read as it lies, and so is B where its rows are short; blocks of k pass all of a
//! task's tiles while they are in the cache. Sums are those of the general product, bit for bit.

use super::kernel::{ColumnArgs, Segment};
use super::{
    Epilogue, Kernels, MAX_ROWS, MAX_WIDTH, MatrixA, MatrixB, PARALLEL, check, for_each_task, write_tile,
};
use super::{Panel, Target, Values};
use crate::device::cpu::scratch::{Scratch, Shared};
use crate::device::cpu::simd::Level;

/// Values of k between two visits to a tile.
const K_BLOCK: usize = 256;

/// Row tiles and panels of a task, at most: as much of A as of B.
const TASK: [usize; 2] = [24, 9];

/// Rows of A and B longer than this are packed: each would be a page of its own.
const SHORT: usize = 512;

/// `out = epilogue(a · b)` for `a` stored as `[k, m]`; see [`super::gemm`].
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
    if m == 0 || n == 0 {
        return;
    }
    let finish = epilogue.resolve(m, n, out.as_ptr(), ldo);
    let target = Target { level, out: Shared::new(out), ldo, finish };
    let kernels = Kernels::of(level);
    let width = kernels.width();
    let tiles: Vec<(usize, usize)> = kernels.row_tiles(m).collect();
    let parallel = m * n * k.max(16) > PARALLEL;
    let threads = if parallel { rayon::current_num_threads() } else { 1 };
    let [rows, panels] = share([tiles.len(), n.div_ceil(width)], [kernels.rows, width], 2 * threads);
    let row_tasks = tiles.len().div_ceil(rows);
    for_each_task(row_tasks * n.div_ceil(panels * width), parallel, |task| {
        let tiles = &tiles[task % row_tasks * rows..];
        let tiles = &tiles[..rows.min(tiles.len())];
        let first = task / row_tasks * panels * width;
        let columns = first..n.min(first + panels * width);
        // SAFETY: the slices were checked above, and each task writes rows and columns of its own.
        unsafe { task_product(tiles, columns, k, a, b, target) };
    });
}

/// How many row tiles and panels (of `counts`, each `sizes` long) make a task, for about `tasks` of them.
fn share(counts: [usize; 2], sizes: [usize; 2], tasks: usize) -> [usize; 2] {
    let mut part: [usize; 2] = std::array::from_fn(|i| counts[i].min(TASK[i]));
    let tasks_of = |part: [usize; 2]| counts[0].div_ceil(part[0]) * counts[1].div_ceil(part[1]);
    while tasks_of(part) < tasks && part != [1, 1] {
        let longer = usize::from(part[0] == 1 || part[1] > 1 && part[1] * sizes[1] > part[0] * sizes[0]);
        part[longer] = part[longer].div_ceil(2);
    }
    part
}

/// Computes the `tiles` (first row, rows) of some columns.
///
/// # Safety
/// A, B, the output and the residual hold what the product names, and no one else writes this part.
unsafe fn task_product(
    tiles: &[(usize, usize)],
    columns: std::ops::Range<usize>,
    k: usize,
    a: MatrixA,
    b: MatrixB,
    target: Target,
) {
    let kernels = Kernels::of(target.level);
    let width = kernels.width();
    let tile_len = MAX_ROWS * MAX_WIDTH;
    let panels = columns.len().div_ceil(width);
    let waiting = if k > K_BLOCK { tiles.len() * panels } else { 1 };
    let step = if waiting > 1 { tile_len } else { 0 };
    let mut buffer = Scratch::new(waiting * tile_len);
    let mut packed = Scratch::new(K_BLOCK * width);
    // Worth it only if several panels pass by.
    let packs = a.stride > SHORT && panels > 1;
    let mut left = Scratch::new(if packs { tiles.len() * LEFT_TILE } else { 0 });
    let mut k0 = 0;
    loop {
        let kb = K_BLOCK.min(k - k0);
        let last = k0 + kb == k;
        let first = if packs { 0 } else { k0 * a.stride };
        let segments = [Segment { a: first, row: 0, k: kb }];
        if packs {
            pack_left(a, (k0, kb), tiles, &mut left);
        }
        for (p, column) in columns.clone().step_by(width).enumerate() {
            let count = width.min(columns.end - column);
            let panel_width = kernels.panel_width(count);
            let (b, ldb) = match b.values {
                Values::F32(values) if !b.transposed && count == panel_width && b.stride <= SHORT => {
                    (values[(k0 * b.stride + column).min(values.len())..].as_ptr(), b.stride)
                }
                _ => {
                    let packed = &mut packed[..kb * panel_width];
                    b.pack_block(target.level, k0, column, count, panel_width, packed);
                    (packed.as_ptr(), panel_width)
                }
            };
            let panel = Panel { b, column, columns: count, width: panel_width };
            for (i, &(m, rows)) in tiles.iter().enumerate() {
                let tile = &mut buffer[(p * tiles.len() + i) * step..][..tile_len];
                // SAFETY: rows and columns lie within the matrices (checked by the caller) or what was
                // packed of them, the tile holds MAX_ROWS × MAX_WIDTH values, and the level's
                // instructions exist.
                unsafe {
                    let (a, lda) = match packs {
                        true => (left.as_ptr().add(i * LEFT_TILE), MAX_ROWS),
                        false => (a.values.as_ptr().add(m), a.stride),
                    };
                    kernels.column_tile(rows, panel_width)(ColumnArgs {
                        a,
                        lda,
                        b,
                        ldb,
                        segments: &segments,
                        tile: tile.as_mut_ptr(),
                        accumulate: k0 > 0,
                    });
                    if last {
                        write_tile(tile, panel, (m, rows), target);
                    }
                }
            }
        }
        k0 += kb;
        if last {
            return;
        }
    }
}

/// Values of a packed tile of A: for each k the tile's rows.
const LEFT_TILE: usize = K_BLOCK * MAX_ROWS;

/// Copies `kb` values of k from `k0` on of the rows of each tile.
fn pack_left(a: MatrixA, (k0, kb): (usize, usize), tiles: &[(usize, usize)], left: &mut [f32]) {
    for k in 0..kb {
        let row = &a.values[(k0 + k) * a.stride..];
        for (i, &(m, rows)) in tiles.iter().enumerate() {
            let to = &mut left[i * LEFT_TILE + k * MAX_ROWS..][..MAX_ROWS];
            match row[m..].first_chunk::<MAX_ROWS>() {
                // A copy of fixed length; nobody reads what is beyond the tile's rows.
                Some(from) => to.copy_from_slice(from),
                None => to[..rows].copy_from_slice(&row[m..m + rows]),
            }
        }
    }
}
