//! The innermost loop: a tile of the product in registers.
//!
//! One routine does all the arithmetic of matrix products and convolutions: `MR` rows by `NV`
//! vectors of accumulators stay in registers while k runs over one or several *segments*. Row r
//! of segment s begins at `a + offsets[s] + r·lda`; the rows of B follow each other without a
//! break from segment to segment. A matrix product has one segment. A convolution has one per
//! kernel row (or tap) and walks its padded input in place, without an im2col.
//!
//! If A is stored column by column, a second routine walks it as it lies; there a convolution's
//! segments are the runs of pixels that lie inside the image.
//!
//! A is read by broadcasting single values, B by whole vectors. 12×2 accumulators of 16 lanes,
//! two vectors of B and one broadcast fill the 32 registers of AVX-512; 6×2 of 8 lanes the 16
//! of AVX2. Every element is one chain of fused multiply-adds in the order of k, whatever the
//! tile shape, so results depend neither on how the work is divided nor on the vector width.

use crate::device::cpu::simd::{Isa, Level};

/// Most rows and most lanes of any tile, for buffers that hold one.
pub const MAX_ROWS: usize = 12;
pub const MAX_WIDTH: usize = 32;

/// What a tile routine needs to know.
#[derive(Clone, Copy)]
pub struct TileArgs<'a> {
    /// First value of the first row.
    pub a: *const f32,
    /// Distance between rows of A, in values.
    pub lda: usize,
    /// Where each segment begins, relative to `a`.
    pub offsets: &'a [usize],
    /// Length of each segment.
    pub k: usize,
    /// First row of B's panel.
    pub b: *const f32,
    /// Distance between rows of B, in values.
    pub ldb: usize,
    /// The tile in memory: rows of the panel's width, without gaps.
    pub tile: *mut f32,
    /// Whether to add to what the tile holds instead of overwriting it.
    pub accumulate: bool,
}

/// Computes one tile.
///
/// # Safety
/// All values named by the arguments are readable (the tile writable), and the processor has the
/// instructions that the routine was compiled for.
pub type TileFn = unsafe fn(TileArgs);

/// A run of `k` whose values of A and of B are each a constant step apart.
#[derive(Clone, Copy)]
pub struct Segment {
    /// Where it begins in A, relative to [`ColumnArgs::a`].
    pub a: usize,
    /// The row of B where it begins.
    pub row: usize,
    /// Its length.
    pub k: usize,
}

/// What a tile routine needs to know if A is stored column by column: gradients of weights sum over
/// tokens or pixels, and both factors are read as they lie, without a transposed copy.
#[derive(Clone, Copy)]
pub struct ColumnArgs<'a> {
    /// The tile's first row at k = 0; its other rows follow without gaps.
    pub a: *const f32,
    /// Distance between values of k in A.
    pub lda: usize,
    /// First value of B.
    pub b: *const f32,
    /// Distance between rows of B.
    pub ldb: usize,
    /// Which k are summed, in this order.
    pub segments: &'a [Segment],
    /// As [`TileArgs::tile`].
    pub tile: *mut f32,
    /// As [`TileArgs::accumulate`].
    pub accumulate: bool,
}

/// Computes one tile of a product with columns of A.
///
/// # Safety
/// As [`TileFn`].
pub type ColumnFn = unsafe fn(ColumnArgs);

/// The tile routines of one instruction set.
pub struct Kernels {
    /// Lanes of one vector; panels of B are `2 * lanes` wide, or `lanes` for a narrow last one.
    pub lanes: usize,
    /// Most rows of a tile.
    pub rows: usize,
    /// `[rows - 1]`, two vectors wide.
    wide: &'static [TileFn],
    /// `[rows - 1]`, one vector wide.
    narrow: &'static [TileFn],
    /// The same for columns of A.
    wide_columns: &'static [ColumnFn],
    narrow_columns: &'static [ColumnFn],
}

impl Kernels {
    /// The routines for `level`.
    pub fn of(level: Level) -> &'static Kernels {
        match level.isa() {
            Isa::Scalar => &scalar::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &avx2::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => &avx512::KERNELS,
        }
    }

    /// Width of a full panel of B.
    pub fn width(&self) -> usize {
        2 * self.lanes
    }

    /// Width of the panel that holds the last `n` columns (0 < n ≤ width).
    pub fn panel_width(&self, n: usize) -> usize {
        if n <= self.lanes { self.lanes } else { 2 * self.lanes }
    }

    /// The routine for a tile of `rows` × `width` (a panel width).
    #[inline(always)]
    pub fn tile(&self, rows: usize, width: usize) -> TileFn {
        if width == self.lanes { self.narrow[rows - 1] } else { self.wide[rows - 1] }
    }

    /// The routine for columns of A and a tile of `rows` × `width` (a panel width).
    #[inline(always)]
    pub fn column_tile(&self, rows: usize, width: usize) -> ColumnFn {
        if width == self.lanes { self.narrow_columns[rows - 1] } else { self.wide_columns[rows - 1] }
    }

    /// Divides `m` rows into tiles as equal as possible: a last tile of one or two rows would
    /// wait for the latency of its few multiply-adds.
    pub fn row_tiles(&self, m: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let tiles = m.div_ceil(self.rows).max(1);
        let (size, larger) = (m / tiles, m % tiles);
        (0..tiles)
            .map(move |i| (i * size + i.min(larger), size + usize::from(i < larger)))
            .filter(|&(_, rows)| rows > 0)
    }
}

/// A vector register of f32.
trait Vector: Copy {
    const LANES: usize;
    fn zero() -> Self;
    fn splat(x: f32) -> Self;
    /// # Safety
    /// `LANES` values at `p` are readable.
    unsafe fn load(p: *const f32) -> Self;
    /// # Safety
    /// `LANES` values at `p` are writable.
    unsafe fn store(self, p: *mut f32);
    /// self + a·b
    fn add_product(self, a: Self, b: Self) -> Self;
}

/// The routine itself; see [`TileArgs`].
#[inline(always)]
unsafe fn tile<V: Vector, const MR: usize, const NV: usize>(args: TileArgs) {
    let TileArgs { a, lda, offsets, k, b, ldb, tile, accumulate } = args;
    // SAFETY: the caller vouches for every address that the arguments name.
    unsafe {
        let mut acc = begin::<V, MR, NV>(tile, accumulate);
        let mut b = b;
        for &offset in offsets {
            // Four base pointers, each for three rows: addresses then need no other registers.
            let mut rows = [a.add(offset), a, a, a];
            for g in 1..MR.div_ceil(3) {
                rows[g] = rows[0].add(g * 3 * lda);
            }
            let mut left = k;
            while left >= 4 {
                for u in 0..4 {
                    step::<V, MR, NV>(&mut acc, &rows, lda, u, b.add(u * ldb));
                }
                rows = rows.map(|p| p.wrapping_add(4));
                b = b.wrapping_add(4 * ldb);
                left -= 4;
            }
            while left > 0 {
                step::<V, MR, NV>(&mut acc, &rows, lda, 0, b);
                rows = rows.map(|p| p.wrapping_add(1));
                b = b.wrapping_add(ldb);
                left -= 1;
            }
        }
        end(&acc, tile);
    }
}

/// The routine for columns of A; see [`ColumnArgs`].
#[inline(always)]
unsafe fn column_tile<V: Vector, const MR: usize, const NV: usize>(args: ColumnArgs) {
    let ColumnArgs { a, lda, b, ldb, segments, tile, accumulate } = args;
    // SAFETY: the caller vouches for every address that the arguments name.
    unsafe {
        let mut acc = begin::<V, MR, NV>(tile, accumulate);
        for segment in segments {
            let (mut a, mut b) = (a.add(segment.a), b.add(segment.row * ldb));
            for _ in 0..segment.k {
                let rows = [a, a.wrapping_add(3), a.wrapping_add(6), a.wrapping_add(9)];
                step::<V, MR, NV>(&mut acc, &rows, 1, 0, b);
                a = a.wrapping_add(lda);
                b = b.wrapping_add(ldb);
            }
        }
        end(&acc, tile);
    }
}

/// The accumulators at the start: what the tile holds, or zero.
#[inline(always)]
unsafe fn begin<V: Vector, const MR: usize, const NV: usize>(
    tile: *const f32,
    accumulate: bool,
) -> [[V; NV]; MR] {
    let mut acc = [[V::zero(); NV]; MR];
    if accumulate {
        for (r, row) in acc.iter_mut().enumerate() {
            for (v, x) in row.iter_mut().enumerate() {
                // SAFETY: the caller vouches for the tile.
                *x = unsafe { V::load(tile.add((r * NV + v) * V::LANES)) };
            }
        }
    }
    acc
}

/// Writes the accumulators.
#[inline(always)]
unsafe fn end<V: Vector, const MR: usize, const NV: usize>(acc: &[[V; NV]; MR], tile: *mut f32) {
    for (r, row) in acc.iter().enumerate() {
        for (v, x) in row.iter().enumerate() {
            // SAFETY: the caller vouches for the tile.
            unsafe { x.store(tile.add((r * NV + v) * V::LANES)) };
        }
    }
}

/// One value of k: NV loads of B, MR broadcasts of A, MR·NV multiply-adds.
#[inline(always)]
unsafe fn step<V: Vector, const MR: usize, const NV: usize>(
    acc: &mut [[V; NV]; MR],
    rows: &[*const f32; 4],
    lda: usize,
    u: usize,
    b: *const f32,
) {
    // SAFETY: as in `tile`.
    unsafe {
        let mut bv = [V::zero(); NV];
        for (v, x) in bv.iter_mut().enumerate() {
            *x = V::load(b.add(v * V::LANES));
        }
        for (r, row) in acc.iter_mut().enumerate() {
            let av = V::splat(*rows[r / 3].add(r % 3 * lda + u));
            for (x, &bv) in row.iter_mut().zip(&bv) {
                *x = x.add_product(av, bv);
            }
        }
    }
}

/// Instantiates the routine for an instruction set, for every number of rows.
macro_rules! kernels {
    ($vector:ty, $(#[$feature:meta])? rows $rows:literal: $($mr:literal)*) => {
        $(#[$feature])?
        unsafe fn wide<const MR: usize>(args: super::TileArgs) {
            // SAFETY: passed on to the caller.
            unsafe { super::tile::<$vector, MR, 2>(args) }
        }
        $(#[$feature])?
        unsafe fn narrow<const MR: usize>(args: super::TileArgs) {
            // SAFETY: passed on to the caller.
            unsafe { super::tile::<$vector, MR, 1>(args) }
        }
        $(#[$feature])?
        unsafe fn wide_columns<const MR: usize>(args: super::ColumnArgs) {
            // SAFETY: passed on to the caller.
            unsafe { super::column_tile::<$vector, MR, 2>(args) }
        }
        $(#[$feature])?
        unsafe fn narrow_columns<const MR: usize>(args: super::ColumnArgs) {
            // SAFETY: passed on to the caller.
            unsafe { super::column_tile::<$vector, MR, 1>(args) }
        }
        pub static KERNELS: super::Kernels = super::Kernels {
            lanes: <$vector as super::Vector>::LANES,
            rows: $rows,
            wide: &[$(wide::<$mr>),*],
            narrow: &[$(narrow::<$mr>),*],
            wide_columns: &[$(wide_columns::<$mr>),*],
            narrow_columns: &[$(narrow_columns::<$mr>),*],
        };
    };
}

mod scalar {
    /// Four lanes: one SSE or NEON register once the compiler has seen the loops.
    type Four = [f32; 4];

    impl super::Vector for Four {
        const LANES: usize = 4;
        #[inline(always)]
        fn zero() -> Self {
            [0.0; 4]
        }
        #[inline(always)]
        fn splat(x: f32) -> Self {
            [x; 4]
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            // SAFETY: the trait's contract; [f32; 4] has the alignment of f32.
            unsafe { p.cast::<Four>().read() }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            // SAFETY: as above.
            unsafe { p.cast::<Four>().write(self) }
        }
        #[inline(always)]
        fn add_product(self, a: Self, b: Self) -> Self {
            std::array::from_fn(|i| self[i] + a[i] * b[i])
        }
    }

    kernels!(Four, rows 4: 1 2 3 4);
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    // SAFETY of the bodies: only the routines below call them, and those require AVX2 and FMA.
    impl super::Vector for __m256 {
        const LANES: usize = 8;
        #[inline(always)]
        fn zero() -> Self {
            // SAFETY: see above the impl.
            unsafe { _mm256_setzero_ps() }
        }
        #[inline(always)]
        fn splat(x: f32) -> Self {
            // SAFETY: see above the impl.
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            // SAFETY: see above the impl, and the trait's contract.
            unsafe { _mm256_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            // SAFETY: see above the impl, and the trait's contract.
            unsafe { _mm256_storeu_ps(p, self) }
        }
        #[inline(always)]
        fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: see above the impl.
            unsafe { _mm256_fmadd_ps(a, b, self) }
        }
    }

    kernels!(__m256, #[target_feature(enable = "avx2,fma")] rows 6: 1 2 3 4 5 6);
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    // SAFETY of the bodies: only the routines below call them, and those require AVX-512F.
    impl super::Vector for __m512 {
        const LANES: usize = 16;
        #[inline(always)]
        fn zero() -> Self {
            // SAFETY: see above the impl.
            unsafe { _mm512_setzero_ps() }
        }
        #[inline(always)]
        fn splat(x: f32) -> Self {
            // SAFETY: see above the impl.
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            // SAFETY: see above the impl, and the trait's contract.
            unsafe { _mm512_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            // SAFETY: see above the impl, and the trait's contract.
            unsafe { _mm512_storeu_ps(p, self) }
        }
        #[inline(always)]
        fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: see above the impl.
            unsafe { _mm512_fmadd_ps(a, b, self) }
        }
    }

    kernels!(__m512, #[target_feature(enable = "avx512f,avx512vl,avx2,fma")] rows 12: 1 2 3 4 5 6 7 8 9 10 11 12);
}
