//! Fast path. Per fixed block of pixels and channel: sum and squared deviations from the block's
//! own mean (a block stays in the cache, so memory is read once); these merge in f64 into the
//! moments of each group. A second sweep writes the result. Vectors run along the channels.

use rayon::prelude::*;

use super::{GroupNorm, GroupNormAffine, extents};
use crate::device::cpu::math;
use crate::device::cpu::simd::{Level, simd_fn};
use crate::graph::TensorType;
use crate::graph::op::CpuCall;
use crate::ops::activation::silu_slope;
use crate::ops::rows::{Rows, rows_per_task};

/// Numbers kept per channel and block: (mean, squared deviations), later (Σ dz, Σ dz·n).
const SUMS: usize = 2;
/// Numbers kept per sample and channel for the last sweep.
const FACTORS: usize = 4;

/// The division of a problem into samples and blocks of pixels; a function of the shape alone.
#[derive(Clone, Copy)]
struct Blocks {
    samples: usize,
    pixels: usize,
    channels: usize,
    /// Pixels per block; the last block of a sample may have fewer.
    size: usize,
    /// Blocks per sample.
    count: usize,
}

impl Blocks {
    fn new((samples, pixels, channels): (usize, usize, usize)) -> Self {
        let size = rows_per_task(channels).min(pixels.max(1));
        Blocks { samples, pixels, channels, size, count: pixels.div_ceil(size) }
    }

    /// The first row and number of rows of block `i` of all samples' blocks.
    fn rows(&self, i: usize) -> (usize, usize) {
        let (sample, first) = (i / self.count, i % self.count * self.size);
        (sample * self.pixels + first, self.size.min(self.pixels - first))
    }

    fn sums(&self) -> usize {
        self.samples * self.count * SUMS * self.channels
    }
}

pub(super) fn scratch_bytes(extents: (usize, usize, usize)) -> usize {
    let b = Blocks::new(extents);
    (b.sums() + b.samples * FACTORS * b.channels) * size_of::<f32>()
}

simd_fn! {
    /// Means and squared deviations of every channel over rows.
    fn moments(x: &Rows, first: usize, rows: usize, out: &mut [f32]) {
        let (mean, deviations) = out.split_at_mut(x.cols);
        mean.fill(0.0);
        deviations.fill(0.0);
        for r in first..first + rows {
            mean.iter_mut().zip(x.row(r)).for_each(|(m, &x)| *m += x);
        }
        let scale = 1.0 / rows as f32;
        mean.iter_mut().for_each(|m| *m *= scale);
        for r in first..first + rows {
            for ((d, &m), &x) in deviations.iter_mut().zip(mean.iter()).zip(x.row(r)) {
                *d += (x - m) * (x - m);
            }
        }
    }

    /// y = (y − mean)·scale + shift, in place.
    fn normalise(y: &mut [f32], f: Factors, silu: bool) {
        let c = f.mean.len();
        for y in y.chunks_exact_mut(c) {
            if silu {
                for (((y, &m), &a), &b) in y.iter_mut().zip(f.mean).zip(f.scale).zip(f.shift) {
                    *y = math::silu((*y - m) * a + b);
                }
            } else {
                for (((y, &m), &a), &b) in y.iter_mut().zip(f.mean).zip(f.scale).zip(f.shift) {
                    *y = (*y - m) * a + b;
                }
            }
        }
    }

    /// dz = dy·f′(z) in place of dy; adds Σ dz and Σ dz·(x − mean) of every channel to `sums`.
    fn through_silu(dz: &mut [f32], x: &Rows, first: usize, f: Factors, silu: bool, sums: &mut [f32]) {
        let c = f.mean.len();
        let (plain, with_x) = sums.split_at_mut(c);
        plain.fill(0.0);
        with_x.fill(0.0);
        for (r, dz) in dz.chunks_exact_mut(c).enumerate() {
            let x = x.row(first + r);
            if silu {
                for ((((d, &x), &m), &a), &b) in dz.iter_mut().zip(x).zip(f.mean).zip(f.scale).zip(f.shift) {
                    *d *= silu_slope((x - m) * a + b);
                }
            }
            for ((((&d, &x), &m), s), t) in
                dz.iter().zip(x).zip(f.mean).zip(plain.iter_mut()).zip(with_x.iter_mut())
            {
                *s += d;
                *t += d * (x - m);
            }
        }
    }

    /// dx = scale·dz − offset − (x − mean)·slope, in place of dz.
    fn combine(dz: &mut [f32], x: &Rows, first: usize, mean: &[f32], scale: &[f32], offset: &[f32], slope: &[f32]) {
        for (r, dz) in dz.chunks_exact_mut(x.cols).enumerate() {
            let columns = mean.iter().zip(scale).zip(offset).zip(slope);
            for ((d, &x), (((&m, &a), &o), &s)) in dz.iter_mut().zip(x.row(first + r)).zip(columns) {
                *d = *d * a - o - (x - m) * s;
            }
        }
    }
}

/// Per channel of one sample: mean, γ·rstd, β, and what the gradient adds.
#[derive(Clone, Copy)]
struct Factors<'a> {
    mean: &'a [f32],
    scale: &'a [f32],
    shift: &'a [f32],
}

impl<'a> Factors<'a> {
    fn of(sample: usize, factors: &'a [f32], channels: usize) -> Self {
        let mut parts = factors[sample * FACTORS * channels..].chunks_exact(channels);
        let mut part = || parts.next().expect("FACTORS parts");
        Factors { mean: part(), scale: part(), shift: part() }
    }
}

/// Fills `sums` with the moments of every block and `factors` with mean, γ·rstd, β and rstd.
fn statistics(
    (groups, eps): (usize, f32),
    b: Blocks,
    x: &Rows,
    affine: (&[f32], &[f32]),
    sums: &mut [f32],
    factors: &mut [f32],
) {
    let c = b.channels;
    sums.par_chunks_mut(SUMS * c).enumerate().for_each(|(i, out)| {
        let (first, rows) = b.rows(i);
        moments(Level::best(), x, first, rows, out);
    });
    let width = c / groups;
    let per_sample = b.count * SUMS * c;
    factors.par_chunks_mut(FACTORS * c).zip(sums.par_chunks(per_sample)).for_each(|(factors, sums)| {
        for group in 0..groups {
            let channels = group * width..(group + 1) * width;
            let count = (b.pixels * width) as f64;
            let blocks = || {
                sums.chunks_exact(SUMS * c).enumerate().map(|(i, s)| {
                    let (mean, deviations) = s.split_at(c);
                    (b.rows(i).1 as f64, &mean[channels.clone()], &deviations[channels.clone()])
                })
            };
            let total: f64 = blocks().map(|(n, m, _)| n * m.iter().map(|&m| m as f64).sum::<f64>()).sum();
            let mean = total / count;
            let square = |(n, m, d): (f64, &[f32], &[f32])| {
                let apart: f64 = m.iter().map(|&m| (m as f64 - mean) * (m as f64 - mean)).sum();
                n * apart + d.iter().map(|&d| d as f64).sum::<f64>()
            };
            let variance = blocks().map(square).sum::<f64>() / count;
            let rstd = 1.0 / (variance + eps as f64).sqrt();
            for k in channels.clone() {
                factors[k] = mean as f32;
                factors[c + k] = (affine.0[k] as f64 * rstd) as f32;
                factors[2 * c + k] = affine.1[k];
                factors[3 * c + k] = rstd as f32;
            }
        }
    });
}

pub(super) fn forward(op: &GroupNorm, mut call: CpuCall) {
    let b = Blocks::new(extents(call.inputs[0].ty));
    let c = b.channels;
    let affine = (call.inputs[1].f32(), call.inputs[2].f32());
    let y = call.outputs[0].f32();
    if y.is_empty() {
        return;
    }
    let (sums, factors) = bytemuck::cast_slice_mut::<u8, f32>(call.scratch).split_at_mut(b.sums());
    let x = if call.inputs[0].in_output() { None } else { Some(Rows::new(&call.inputs[0])) };
    statistics((op.groups, op.eps), b, &x.unwrap_or(Rows::dense(y, c)), affine, sums, factors);
    let factors = &*factors;
    y.par_chunks_mut(b.pixels * c).enumerate().for_each(|(sample, y)| {
        let f = Factors::of(sample, factors, c);
        y.par_chunks_mut(b.size * c).enumerate().for_each(|(i, y)| {
            if let Some(x) = x {
                let first = sample * b.pixels + i * b.size;
                y.chunks_exact_mut(c).enumerate().for_each(|(r, y)| y.copy_from_slice(x.row(first + r)));
            }
            normalise(Level::best(), y, f, op.silu);
        });
    });
}

/// Scale and shift of every sample's every channel: what [`super::GroupNormAffine`] gives, of the rows of a tensor
/// of type `ty`. `scratch` has [`scratch_bytes`].
pub(super) fn affine(
    op: &GroupNormAffine,
    ty: &TensorType,
    x: &Rows,
    affine: (&[f32], &[f32]),
    scratch: &mut [u8],
    out: &mut [f32],
) {
    let b = Blocks::new(extents(ty));
    let c = b.channels;
    if out.is_empty() {
        return;
    }
    let (sums, factors) = bytemuck::cast_slice_mut::<u8, f32>(scratch).split_at_mut(b.sums());
    statistics((op.groups, op.eps), b, x, affine, sums, factors);
    for (sample, out) in out.chunks_exact_mut(2 * c).enumerate() {
        let f = Factors::of(sample, factors, c);
        let (scale, shift) = out.split_at_mut(c);
        scale.copy_from_slice(f.scale);
        for (k, shift) in shift.iter_mut().enumerate() {
            *shift = (f64::from(f.shift[k]) - f64::from(f.mean[k]) * f64::from(f.scale[k])) as f32;
        }
    }
}

pub(super) fn backward(op: &GroupNorm, mut call: CpuCall) {
    let b = Blocks::new(extents(call.inputs[0].ty));
    let c = b.channels;
    let (x, dy) = (Rows::new(&call.inputs[0]), Rows::new(&call.inputs[1]));
    let affine = (call.inputs[2].f32(), call.inputs[3].f32());
    let [dx, dgamma, dbeta] = &mut call.outputs[..] else { unreachable!("infer gives three results") };
    let (dx, dgamma, dbeta) = (dx.f32(), dgamma.f32(), dbeta.f32());
    dgamma.fill(0.0);
    dbeta.fill(0.0);
    if dx.is_empty() {
        return;
    }
    let (sums, factors) = bytemuck::cast_slice_mut::<u8, f32>(call.scratch).split_at_mut(b.sums());
    statistics((op.groups, op.eps), b, &x, affine, sums, factors);
    // dx holds dz until the last sweep.
    let per_sample = b.count * SUMS * c;
    dx.par_chunks_mut(b.pixels * c).zip(sums.par_chunks_mut(per_sample)).enumerate().for_each(
        |(sample, (dz, sums))| {
            let f = Factors::of(sample, factors, c);
            dz.par_chunks_mut(b.size * c).zip(sums.par_chunks_mut(SUMS * c)).enumerate().for_each(
                |(i, (dz, sums))| {
                    let first = sample * b.pixels + i * b.size;
                    dz.chunks_exact_mut(c)
                        .enumerate()
                        .for_each(|(r, d)| d.copy_from_slice(dy.row(first + r)));
                    through_silu(Level::best(), dz, &x, first, f, op.silu, sums);
                },
            );
        },
    );
    // Fold the blocks, in order and in f64: dβ and dγ, then what every group's dx needs; the
    // folded numbers take the place of the sample's β and rstd.
    let width = c / op.groups;
    let count = (b.pixels * width) as f64;
    for (factors, sums) in factors.chunks_exact_mut(FACTORS * c).zip(sums.chunks_exact(per_sample)) {
        for group in 0..op.groups {
            let rstd = factors[3 * c + group * width] as f64;
            let (mut mean_d, mut mean_dn) = (0.0, 0.0);
            for k in group * width..(group + 1) * width {
                let fold = |at: usize| sums.chunks_exact(SUMS * c).map(|s| s[at] as f64).sum::<f64>();
                let (d, dn) = (fold(k), fold(c + k) * rstd);
                dbeta[k] += d as f32;
                dgamma[k] += dn as f32;
                mean_d += affine.0[k] as f64 * d / count;
                mean_dn += affine.0[k] as f64 * dn / count;
            }
            for k in group * width..(group + 1) * width {
                factors[2 * c + k] = (mean_d * rstd) as f32;
                factors[3 * c + k] = (mean_dn * rstd * rstd) as f32;
            }
        }
    }
    let factors = &*factors;
    dx.par_chunks_mut(b.pixels * c).enumerate().for_each(|(sample, dx)| {
        let parts: Vec<&[f32]> = factors[sample * FACTORS * c..][..FACTORS * c].chunks_exact(c).collect();
        dx.par_chunks_mut(b.size * c).enumerate().for_each(|(i, dx)| {
            let first = sample * b.pixels + i * b.size;
            combine(Level::best(), dx, &x, first, parts[0], parts[1], parts[2], parts[3]);
        });
    });
}
