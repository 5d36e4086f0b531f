//! Products of matrices that lie in cache: the inner loops of attention.
//!
//! `C = A·B`, where rows of B and C are vectors and elements of A are broadcast. A may be read by
//! rows or by columns at no cost, so no operand is packed or transposed for it. Each register tile
//! is R rows by C vectors of the result; all of A·B is summed in registers, in the order of the
//! inner index, before memory is touched again.

use super::simd::{Isa, Level};

/// Rows of B and C are padded to a multiple of this many elements: the widest vector.
pub const LANES: usize = 16;

/// `n` rounded up to whole vectors.
pub const fn padded(n: usize) -> usize {
    n.next_multiple_of(LANES)
}

/// Distance of rows, in elements, at which rows of `n` elements spread over all sets of the L1
/// cache: an odd number of cache lines.
pub const fn pitch(n: usize) -> usize {
    let lines = n.div_ceil(LANES);
    (lines + 1 - lines % 2) * LANES
}

/// The matrix A: element (i, j) is `data[i·row + j·col]`.
#[derive(Clone, Copy)]
pub struct Broadcast<'a> {
    /// Elements.
    pub data: &'a [f32],
    /// Step from row to row.
    pub row: usize,
    /// Step from column to column.
    pub col: usize,
}

/// The matrices B and C: element (i, j) is `data[i·row + j]`.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// Elements.
    pub data: &'a [f32],
    /// Step from row to row.
    pub row: usize,
}

/// What becomes of what C holds already.
#[derive(Clone, Copy)]
pub enum Before<'a> {
    /// C = A·B
    Overwrite,
    /// C = C + A·B
    Keep,
    /// C = C·diag(factors) + A·B: column j is scaled by factor j.
    Scale(&'a [f32]),
}

/// Writes the `m`×`n` result with rows `c_row` elements apart; the inner extent is `k`.
///
/// # Panics
/// If `n` is not a multiple of [`LANES`], or an operand is too short for its extents.
#[allow(clippy::too_many_arguments)] // a GEMM has these many
pub fn product(
    level: Level,
    (m, n, k): (usize, usize, usize),
    a: Broadcast,
    b: Rows,
    before: Before,
    c: &mut [f32],
    c_row: usize,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(n.is_multiple_of(LANES) && n <= c_row, "columns of the result");
    assert!(c.len() >= (m - 1) * c_row + n, "result too short");
    if k > 0 {
        assert!(a.data.len() > (m - 1) * a.row + (k - 1) * a.col, "A too short");
        assert!(b.data.len() >= (k - 1) * b.row + n, "B too short");
    }
    if let Before::Scale(f) = before {
        assert!(f.len() >= n, "factors too short");
    }
    let call = Call {
        m,
        n,
        k,
        a: a.data.as_ptr(),
        a_row: a.row,
        a_col: a.col,
        b: b.data.as_ptr(),
        b_row: b.row,
        before,
        c: c.as_mut_ptr(),
        c_row,
    };
    // SAFETY: the level proves the instructions, the assertions every address.
    unsafe {
        match level.isa() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512(&call),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2(&call),
            Isa::Scalar => whole::<[f32; 4], 4, 2>(&call),
        }
    }
}

struct Call<'a> {
    m: usize,
    n: usize,
    k: usize,
    a: *const f32,
    a_row: usize,
    a_col: usize,
    b: *const f32,
    b_row: usize,
    before: Before<'a>,
    c: *mut f32,
    c_row: usize,
}

/// A vector register.
trait Vector: Copy {
    const LANES: usize;
    unsafe fn load(p: *const f32) -> Self;
    unsafe fn store(self, p: *mut f32);
    unsafe fn splat(x: f32) -> Self;
    unsafe fn mul(self, o: Self) -> Self;
    /// self·o + sum
    unsafe fn mul_add(self, o: Self, sum: Self) -> Self;
}

impl Vector for [f32; 4] {
    const LANES: usize = 4;
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller's address.
        unsafe { p.cast::<Self>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller's address.
        unsafe { p.cast::<Self>().write_unaligned(self) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        [x; 4]
    }
    #[inline(always)]
    unsafe fn mul(self, o: Self) -> Self {
        std::array::from_fn(|i| self[i] * o[i])
    }
    #[inline(always)]
    unsafe fn mul_add(self, o: Self, sum: Self) -> Self {
        // Not `f32::mul_add`: without the instruction that is a slow library call.
        std::array::from_fn(|i| sum[i] + self[i] * o[i])
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Vector;
    use std::arch::x86_64::*;

    macro_rules! vector {
        ($t:ty, $lanes:literal, $load:ident, $store:ident, $splat:ident, $mul:ident, $fma:ident) => {
            impl Vector for $t {
                const LANES: usize = $lanes;
                #[inline(always)]
                unsafe fn load(p: *const f32) -> Self {
                    // SAFETY: the caller's address and instruction set.
                    unsafe { $load(p) }
                }
                #[inline(always)]
                unsafe fn store(self, p: *mut f32) {
                    // SAFETY: as above.
                    unsafe { $store(p, self) }
                }
                #[inline(always)]
                unsafe fn splat(x: f32) -> Self {
                    // SAFETY: as above.
                    unsafe { $splat(x) }
                }
                #[inline(always)]
                unsafe fn mul(self, o: Self) -> Self {
                    // SAFETY: as above.
                    unsafe { $mul(self, o) }
                }
                #[inline(always)]
                unsafe fn mul_add(self, o: Self, sum: Self) -> Self {
                    // SAFETY: as above.
                    unsafe { $fma(self, o, sum) }
                }
            }
        };
    }
    vector!(__m512, 16, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps, _mm512_mul_ps, _mm512_fmadd_ps);
    vector!(__m256, 8, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps, _mm256_mul_ps, _mm256_fmadd_ps);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn avx512(call: &Call) {
    // 8×3 of 32 registers hold the result.
    // SAFETY: passed on.
    unsafe { whole::<std::arch::x86_64::__m512, 8, 3>(call) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2(call: &Call) {
    // 6×2 of 16 registers hold the result.
    // SAFETY: passed on.
    unsafe { whole::<std::arch::x86_64::__m256, 6, 2>(call) }
}

/// All panels of at most `W` (two or three) vectors; four are better split evenly than by three.
#[inline(always)]
unsafe fn whole<V: Vector, const R: usize, const W: usize>(call: &Call) {
    let vectors = call.n / V::LANES;
    let mut j = 0;
    while j < vectors {
        let width = match vectors - j {
            1 => 1,
            3 | 5.. if W >= 3 => 3,
            _ => 2,
        };
        // SAFETY: passed on; columns stay below `vectors`.
        unsafe {
            match width {
                1 => panel::<V, R, 1>(call, j * V::LANES),
                2 => panel::<V, R, 2>(call, j * V::LANES),
                _ => panel::<V, R, 3>(call, j * V::LANES),
            }
        }
        j += width;
    }
}

/// C vectors of every row.
#[inline(always)]
unsafe fn panel<V: Vector, const R: usize, const C: usize>(call: &Call, j: usize) {
    let mut i = 0;
    // SAFETY: passed on; rows stay below `m`.
    unsafe {
        while call.m - i >= R {
            block::<V, R, C>(call, i, j);
            i += R;
        }
        if R > 4 && call.m - i >= 4 {
            block::<V, 4, C>(call, i, j);
            i += 4;
        }
        if call.m - i >= 2 {
            block::<V, 2, C>(call, i, j);
            i += 2;
        }
        if call.m > i {
            block::<V, 1, C>(call, i, j);
        }
    }
}

/// One register tile: R rows from `i`, C vectors from column `j`.
#[inline(always)]
unsafe fn block<V: Vector, const R: usize, const C: usize>(call: &Call, i: usize, j: usize) {
    // SAFETY: the caller's rows and columns lie in all operands; `product` checked the extents.
    unsafe {
        let c = call.c.add(i * call.c_row + j);
        let mut acc = [[V::splat(0.0); C]; R];
        match call.before {
            Before::Overwrite => {}
            Before::Keep => {
                for (r, acc) in acc.iter_mut().enumerate() {
                    for (v, acc) in acc.iter_mut().enumerate() {
                        *acc = V::load(c.add(r * call.c_row + v * V::LANES));
                    }
                }
            }
            Before::Scale(factors) => {
                for v in 0..C {
                    let factor = V::load(factors.as_ptr().add(j + v * V::LANES));
                    for (r, acc) in acc.iter_mut().enumerate() {
                        acc[v] = V::load(c.add(r * call.c_row + v * V::LANES)).mul(factor);
                    }
                }
            }
        }
        let (mut a, mut b) = (call.a.add(i * call.a_row), call.b.add(j));
        for _ in 0..call.k {
            let mut row = [V::splat(0.0); C];
            for (v, x) in row.iter_mut().enumerate() {
                *x = V::load(b.add(v * V::LANES));
            }
            for (r, acc) in acc.iter_mut().enumerate() {
                let x = V::splat(*a.add(r * call.a_row));
                for (acc, &y) in acc.iter_mut().zip(&row) {
                    *acc = x.mul_add(y, *acc);
                }
            }
            a = a.wrapping_add(call.a_col);
            b = b.wrapping_add(call.b_row);
        }
        for (r, acc) in acc.iter().enumerate() {
            for (v, x) in acc.iter().enumerate() {
                x.store(c.add(r * call.c_row + v * V::LANES));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| (((i + seed) * 2654435761) % 1000) as f32 / 500.0 - 1.0).collect()
    }

    #[test]
    fn every_shape_and_level_equals_the_plain_sum() {
        for level in Level::available() {
            for (m, n, k) in [(1, 16, 1), (8, 48, 30), (15, 64, 7), (64, 80, 72), (7, 112, 0), (3, 32, 5)] {
                for by_rows in [true, false] {
                    let (row, col) = if by_rows { (k + 3, 1) } else { (1, m + 2) };
                    let a = numbers(m * row + k * col + 1, 1);
                    let b = numbers(k * (n + 16) + n, 2);
                    let factors = numbers(n, 3);
                    for before in [Before::Overwrite, Before::Keep, Before::Scale(&factors)] {
                        let start = numbers(m * (n + 16), 4);
                        let mut c = start.clone();
                        let left = Broadcast { data: &a, row, col };
                        product(
                            level,
                            (m, n, k),
                            left,
                            Rows { data: &b, row: n + 16 },
                            before,
                            &mut c,
                            n + 16,
                        );
                        for i in 0..m {
                            for j in 0..n + 16 {
                                let was = start[i * (n + 16) + j] as f64;
                                let sum: f64 = (0..k)
                                    .map(|p| {
                                        a[i * row + p * col] as f64 * b[p * (n + 16) + j.min(n - 1)] as f64
                                    })
                                    .sum();
                                let want = match before {
                                    _ if j >= n => was, // beyond the columns nothing is written
                                    Before::Overwrite => sum,
                                    Before::Keep => was + sum,
                                    Before::Scale(f) => was * f[j] as f64 + sum,
                                };
                                let got = c[i * (n + 16) + j] as f64;
                                assert!((got - want).abs() < 1e-5, "{} {m}×{n}×{k} ({i}, {j})", level.name());
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn pitches_are_odd_numbers_of_lines() {
        assert_eq!([30, 64, 72, 512].map(pitch), [48, 80, 80, 528]);
        assert_eq!([30, 64, 72, 512].map(padded), [32, 64, 80, 512]);
    }
}
