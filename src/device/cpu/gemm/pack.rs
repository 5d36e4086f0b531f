//! Right-hand matrices, rearranged once so that the innermost loop reads them in a straight line.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::kernel::Kernels;
use super::{extent, for_each_task};
use crate::device::cpu::scratch::{Scratch, Shared};
use crate::device::cpu::simd::{Level, simd_fn};

/// Stored values of a matrix or of convolution weights; arithmetic is always f32.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// bfloat16.
    Bf16(&'a [bf16]),
    /// IEEE half precision.
    F16(&'a [f16]),
}

impl<'a> From<&'a [f32]> for Values<'a> {
    fn from(values: &'a [f32]) -> Self {
        Values::F32(values)
    }
}

impl Values<'_> {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Values::F32(x) => x.len(),
            Values::Bf16(x) => x.len(),
            Values::F16(x) => x.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All but the first `start` values (none, if there are fewer).
    pub(crate) fn skip(self, start: usize) -> Self {
        let start = start.min(self.len());
        match self {
            Values::F32(x) => Values::F32(&x[start..]),
            Values::Bf16(x) => Values::Bf16(&x[start..]),
            Values::F16(x) => Values::F16(&x[start..]),
        }
    }

    /// Converts `out.len()` values beginning at `start`.
    pub fn read(&self, start: usize, out: &mut [f32]) {
        let range = start..start + out.len();
        match self {
            Values::F32(x) => out.copy_from_slice(&x[range]),
            Values::Bf16(x) => widen(Level::best(), &x[range], out),
            Values::F16(x) => x[range].convert_to_f32_slice(out),
        }
    }
}

/// A right-hand matrix B of `k` × `n`.
#[derive(Clone, Copy, Debug)]
pub struct MatrixB<'a> {
    /// The values.
    pub values: Values<'a>,
    /// Distance between stored rows, in values.
    pub stride: usize,
    /// Whether it is stored as `[n, k]`, like the weight of a linear layer, instead of `[k, n]`.
    pub transposed: bool,
}

impl<'a> MatrixB<'a> {
    /// # Panics
    /// If it holds fewer values than `k`, `n` and its stride ask for.
    pub(super) fn check(self, k: usize, n: usize) {
        let needed = if self.transposed { extent(n, k, self.stride) } else { extent(k, n, self.stride) };
        assert!(self.values.len() >= needed, "B has {} values, {needed} needed", self.values.len());
    }

    /// Writes rows `k..` of `count` columns from `column` on as a panel's rows of `width`; as many
    /// rows as `panel` holds.
    pub(super) fn pack_block(
        self,
        level: Level,
        k: usize,
        column: usize,
        count: usize,
        width: usize,
        panel: &mut [f32],
    ) {
        let kb = panel.len() / width;
        if !self.transposed {
            copy_rows(self.values.skip(k * self.stride + column), self.stride, count, width, panel);
            return;
        }
        let start = column * self.stride + k;
        if let Values::F32(values) = self.values {
            interleave(level, &values[start..], self.stride, kb, count, width, panel);
            return;
        }
        // An odd number of cache lines between columns: they spread over the sets of the cache.
        let stride = kb.next_multiple_of(32) + 16;
        let mut columns = Scratch::new(count * stride);
        for (i, column) in columns.chunks_exact_mut(stride).enumerate() {
            self.values.read(start + i * self.stride, &mut column[..kb]);
        }
        interleave(level, &columns, stride, kb, count, width, panel);
    }
}

/// A right-hand matrix in the order in which the kernels read it: panels of as many columns as a
/// tile is wide, each row by row, the last one filled up with zeros.
pub struct PackedB {
    data: Scratch,
    k: usize,
    n: usize,
    level: Level,
}

impl PackedB {
    /// Packs `b`.
    ///
    /// # Panics
    /// If `b` holds fewer values than `k`, `n` and its stride ask for.
    pub fn new(level: Level, b: MatrixB, k: usize, n: usize) -> PackedB {
        b.check(k, n);
        if b.transposed {
            return PackedB::from_columns(level, k, n, |j, column| b.values.read(j * b.stride, column));
        }
        PackedB::from_panels(level, k, n, |j, count, width, panel| {
            copy_rows(b.values.skip(j), b.stride, count, width, panel);
        })
    }

    /// Packs a matrix whose column `j` is written, all `k` values of it, by `fill(j, column)`.
    pub fn from_columns(
        level: Level,
        k: usize,
        n: usize,
        fill: impl Fn(usize, &mut [f32]) + Sync,
    ) -> PackedB {
        PackedB::from_panels(level, k, n, |j, count, width, panel| {
            let mut columns = Scratch::new(count * k);
            for (i, column) in columns.chunks_exact_mut(k.max(1)).enumerate() {
                fill(j + i, column);
            }
            interleave(level, &columns, k, k, count, width, panel);
        })
    }

    /// `fill(first column, columns, width, panel)` writes a whole panel.
    fn from_panels(
        level: Level,
        k: usize,
        n: usize,
        fill: impl Fn(usize, usize, usize, &mut [f32]) + Sync,
    ) -> PackedB {
        let kernels = Kernels::of(level);
        let width = kernels.width();
        let mut data = Scratch::new(n.next_multiple_of(width) * k);
        let shared = Shared::new(&mut data);
        for_each_task(n.div_ceil(width), k * n > 1 << 14, |p| {
            let count = width.min(n - p * width);
            let panel_width = kernels.panel_width(count);
            // SAFETY: panel p owns the values from p·width·k on, at most width·k of them.
            let panel =
                unsafe { std::slice::from_raw_parts_mut(shared.get().add(p * width * k), panel_width * k) };
            fill(p * width, count, panel_width, panel);
        });
        PackedB { data, k, n, level }
    }

    /// Rows.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Columns.
    pub fn n(&self) -> usize {
        self.n
    }

    /// The level it was packed for.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Panel `p`: its values from row `k` on, its first column, its real columns and its width.
    pub(crate) fn panel(&self, p: usize, k: usize) -> Panel {
        let kernels = Kernels::of(self.level);
        let column = p * kernels.width();
        let columns = kernels.width().min(self.n - column);
        let width = kernels.panel_width(columns);
        Panel { b: self.data[column * self.k + k * width..].as_ptr(), column, columns, width }
    }

    pub(crate) fn panels(&self) -> usize {
        self.n.div_ceil(Kernels::of(self.level).width())
    }
}

/// One panel of a packed matrix.
#[derive(Clone, Copy)]
pub(crate) struct Panel {
    pub b: *const f32,
    pub column: usize,
    pub columns: usize,
    pub width: usize,
}

/// Writes `count` values of each row (`stride` apart) into the panel's rows of `width`, and zeros behind.
fn copy_rows(values: Values, stride: usize, count: usize, width: usize, panel: &mut [f32]) {
    /// One vector of AVX2: a copy of constant length is an instruction or two, not a call.
    const CHUNK: usize = 8;
    match values {
        Values::F32(values) if count == width && width.is_multiple_of(CHUNK) => {
            for (i, row) in panel.chunks_exact_mut(width).enumerate() {
                let from = &values[i * stride..][..width];
                for (to, from) in row.as_chunks_mut::<CHUNK>().0.iter_mut().zip(from.as_chunks::<CHUNK>().0) {
                    *to = *from;
                }
            }
        }
        _ => {
            for (i, row) in panel.chunks_exact_mut(width).enumerate() {
                values.read(i * stride, &mut row[..count]);
                row[count..].fill(0.0);
            }
        }
    }
}

simd_fn! {
    /// bf16 is the upper half of an f32.
    fn widen(x: &[bf16], out: &mut [f32]) {
        for (y, x) in out.iter_mut().zip(x) {
            *y = f32::from_bits((x.to_bits() as u32) << 16);
        }
    }

    /// `panel[kk][i] = columns[i · stride + kk]` for kk < k, zero for i ≥ count.
    fn interleave(columns: &[f32], stride: usize, k: usize, count: usize, width: usize, panel: &mut [f32]) {
        if count < width {
            panel.fill(0.0);
        }
        // Eight columns at a time: eight read streams and one written line stay in the first cache.
        // Blocks of eight by eight have constant extents, so that they become register shuffles.
        for i in (0..count).step_by(8) {
            let some = 8.min(count - i);
            let source = &columns[i * stride..(i + some - 1) * stride + k];
            let mut done = 0;
            if some == 8 {
                done = k / 8 * 8;
                for (block, rows) in panel.chunks_exact_mut(8 * width).enumerate() {
                    let from: [[f32; 8]; 8] =
                        std::array::from_fn(|j| source[j * stride + block * 8..][..8].try_into().expect("eight values"));
                    for (kk, row) in rows.chunks_exact_mut(width).enumerate() {
                        let to: &mut [f32; 8] = (&mut row[i..i + 8]).try_into().expect("eight values");
                        *to = std::array::from_fn(|j| from[j][kk]);
                    }
                }
            }
            for (kk, row) in panel.chunks_exact_mut(width).enumerate().skip(done) {
                for (j, x) in row[i..i + some].iter_mut().enumerate() {
                    *x = source[j * stride + kk];
                }
            }
        }
    }
}
