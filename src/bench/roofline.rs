//! What this machine can do at most, measured on the spot with the device's threads.
//!
//! Two roofs bound every kernel: bytes per second of a copy much larger than the caches, and
//! floating-point operations per second of multiply-adds that never leave the registers. The
//! largest matrix product of this crate is measured beside them: what is left between it and the
//! second roof is the room for better kernels.

use std::sync::Arc;
use std::time::Instant;

use rayon::prelude::*;

use super::machine::Machine;
use super::ops::OpWork;
use super::work::Work;
use crate::device::cpu::CpuDevice;
use crate::error::Result;
use crate::graph::Cost;
use crate::ops::linear::Linear;
use crate::ops::{Case, CaseInput};

/// The roofs.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Roofline {
    /// Bytes read plus bytes written per second by a big copy.
    pub copy_bytes_per_second: f64,
    /// Multiply-adds in registers, two operations each, per second.
    pub fma_flops_per_second: f64,
    /// The op `linear` on big square matrices, operations per second.
    pub matmul_flops_per_second: f64,
}

/// How hard to look for the roofs.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Bytes of each of the two arrays of the copy.
    pub copy_bytes: usize,
    /// Side of the square matrices.
    pub matrix: usize,
    /// Seconds for each roof.
    pub seconds: f64,
}

impl Effort {
    /// A few tenths of a second: for a prediction, not for a report.
    pub fn quick() -> Self {
        Effort { copy_bytes: 16 << 20, matrix: 768, seconds: 0.1 }
    }

    /// Arrays four times as large as the last-level cache, matrices of 1536.
    pub fn full(machine: &Machine) -> Self {
        let copy_bytes = (4 * machine.l3_bytes).clamp(64 << 20, 1 << 30);
        Effort { copy_bytes, matrix: 1536, seconds: 0.5 }
    }
}

impl Roofline {
    /// Measures all three; the best of several runs counts, since a roof is what is possible.
    pub fn measure(device: &Arc<CpuDevice>, effort: Effort) -> Result<Self> {
        let n = effort.matrix;
        let square = || CaseInput::normal([n, n]);
        let mut product =
            OpWork::new(&Case::bench("square", Linear::default(), vec![square(), square()]), device)?;
        let matmul = best(effort.seconds, || product.run())?;
        let cost = product.cost();
        drop(product);
        Ok(Roofline {
            copy_bytes_per_second: copy(device, effort)?,
            fma_flops_per_second: fma(device, effort)?,
            matmul_flops_per_second: cost.flops / matmul,
        })
    }

    /// The least time that this work can take: all operations at the peak, or all bytes at the
    /// copy's speed, whichever is longer.
    pub fn least_seconds(&self, cost: Cost) -> f64 {
        (cost.flops / self.fma_flops_per_second).max(cost.bytes / self.copy_bytes_per_second)
    }

    /// Which roof is the lower one for this work: `compute` or `memory`.
    pub fn bound(&self, cost: Cost) -> &'static str {
        let compute = cost.flops / self.fma_flops_per_second;
        if compute > cost.bytes / self.copy_bytes_per_second { "compute" } else { "memory" }
    }
}

/// The shortest of at least three runs.
fn best(seconds: f64, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let times = super::measure::sample(&mut work, seconds, 3, None)?;
    Ok(times.into_iter().fold(f64::INFINITY, f64::min))
}

fn copy(device: &CpuDevice, effort: Effort) -> Result<f64> {
    let from = vec![1u8; effort.copy_bytes];
    let mut to = vec![0u8; effort.copy_bytes];
    let part = effort.copy_bytes.div_ceil(device.threads());
    let seconds = best(effort.seconds, || {
        device.run(|| {
            to.par_chunks_mut(part).zip(from.par_chunks(part)).for_each(|(t, f)| t.copy_from_slice(f));
        });
        std::hint::black_box(&mut to);
        Ok(())
    })?;
    Ok(2.0 * effort.copy_bytes as f64 / seconds)
}

fn fma(device: &CpuDevice, effort: Effort) -> Result<f64> {
    const ROUNDS: usize = 200_000;
    let kernel = multiply_adds();
    let threads = device.threads();
    let one = Instant::now();
    std::hint::black_box((kernel.run)(ROUNDS));
    // Long enough for all threads to overlap for most of the time.
    let rounds = (ROUNDS as f64 * (0.02 / one.elapsed().as_secs_f64()).max(1.0)) as usize;
    let seconds = best(effort.seconds, || {
        device.run(|| {
            rayon::broadcast(|_| std::hint::black_box((kernel.run)(rounds)));
        });
        Ok(())
    })?;
    Ok((threads * rounds * kernel.flops_per_round) as f64 / seconds)
}

/// A loop of independent multiply-adds in registers, with the widest instructions of the processor.
struct MultiplyAdds {
    /// Operations of one round, on one thread.
    flops_per_round: usize,
    run: fn(usize) -> f32,
}

/// Factor and summand keep the numbers near 1: no infinities, no denormals.
const FACTOR: f32 = 0.999;
const SUMMAND: f32 = 0.001;
/// Independent chains: more than latency times units of any processor to date.
const CHAINS: usize = 12;

/// First number of a chain. The optimiser may not know it, or it would find that chains are equal,
/// or what they come to, and leave the work out.
fn start(chain: usize) -> f32 {
    std::hint::black_box(1.0 + chain as f32 / CHAINS as f32)
}

#[cfg(target_arch = "x86_64")]
macro_rules! x86_multiply_adds {
    ($name:ident, $feature:literal, $vector:ident, $set:ident, $fma:ident) => {
        fn $name(rounds: usize) -> f32 {
            #[target_feature(enable = $feature)]
            fn inner(rounds: usize) -> f32 {
                use std::arch::x86_64::*;
                let (m, a) = ($set(FACTOR), $set(SUMMAND));
                // One variable a chain: arrays would live in memory unless the optimiser is at its best.
                let start = |chain: usize| $set(start(chain));
                let (mut x0, mut x1, mut x2, mut x3) = (start(0), start(1), start(2), start(3));
                let (mut x4, mut x5, mut x6, mut x7) = (start(4), start(5), start(6), start(7));
                let (mut x8, mut x9, mut x10, mut x11) = (start(8), start(9), start(10), start(11));
                for _ in 0..rounds {
                    (x0, x1, x2, x3) = ($fma(x0, m, a), $fma(x1, m, a), $fma(x2, m, a), $fma(x3, m, a));
                    (x4, x5, x6, x7) = ($fma(x4, m, a), $fma(x5, m, a), $fma(x6, m, a), $fma(x7, m, a));
                    (x8, x9, x10, x11) = ($fma(x8, m, a), $fma(x9, m, a), $fma(x10, m, a), $fma(x11, m, a));
                }
                let x: [$vector; CHAINS] = [x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11];
                // SAFETY: both are plain floats of the same total size.
                let lanes: [[f32; size_of::<$vector>() / 4]; CHAINS] = unsafe { std::mem::transmute(x) };
                lanes.iter().flatten().sum()
            }
            // SAFETY: `multiply_adds` hands this function out only where the features exist.
            unsafe { inner(rounds) }
        }
    };
}

#[cfg(target_arch = "x86_64")]
x86_multiply_adds!(avx512, "avx512f", __m512, _mm512_set1_ps, _mm512_fmadd_ps);
#[cfg(target_arch = "x86_64")]
x86_multiply_adds!(avx2, "avx2,fma", __m256, _mm256_set1_ps, _mm256_fmadd_ps);

/// Arrays of four floats, which every 64-bit target keeps in a vector register. A fused
/// instruction is used where the target always has one; `mul_add` would be a library call
/// elsewhere.
fn baseline(rounds: usize) -> f32 {
    let fused = cfg!(any(target_arch = "aarch64", target_feature = "fma"));
    let mut x: [[f32; 4]; CHAINS] = std::array::from_fn(|chain| [start(chain); 4]);
    for _ in 0..rounds {
        for x in x.iter_mut().flatten() {
            *x = if fused { x.mul_add(FACTOR, SUMMAND) } else { *x * FACTOR + SUMMAND };
        }
    }
    x.iter().flatten().sum()
}

fn multiply_adds() -> MultiplyAdds {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return MultiplyAdds { flops_per_round: 2 * 16 * CHAINS, run: avx512 };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return MultiplyAdds { flops_per_round: 2 * 8 * CHAINS, run: avx2 };
        }
    }
    MultiplyAdds { flops_per_round: 2 * 4 * CHAINS, run: baseline }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roofs_are_sane() {
        let device = Arc::new(CpuDevice::new(1).unwrap());
        let effort = Effort { copy_bytes: 8 << 20, matrix: 96, seconds: 0.02 };
        let r = Roofline::measure(&device, effort).unwrap();
        assert!(r.copy_bytes_per_second > 1e8 && r.copy_bytes_per_second < 1e13, "{r:?}");
        assert!(r.fma_flops_per_second > 1e8 && r.fma_flops_per_second < 1e13, "{r:?}");
        // Nothing computes faster than the registers do; a tenth is for clocks that move.
        assert!(r.matmul_flops_per_second <= 1.1 * r.fma_flops_per_second, "{r:?}");
    }

    #[test]
    fn the_lower_roof_bounds() {
        let r = Roofline {
            copy_bytes_per_second: 10.0,
            fma_flops_per_second: 100.0,
            matmul_flops_per_second: 50.0,
        };
        let (stream, product) = (Cost { flops: 10.0, bytes: 40.0 }, Cost { flops: 1000.0, bytes: 40.0 });
        assert_eq!((r.bound(stream), r.least_seconds(stream)), ("memory", 4.0));
        assert_eq!((r.bound(product), r.least_seconds(product)), ("compute", 10.0));
    }

    /// All variants must do the arithmetic that they are credited for.
    #[test]
    fn every_loop_computes_the_same_recurrence() {
        let chain =
            |k| (0..1000).fold(f64::from(start(k)), |x, _| x * f64::from(FACTOR) + f64::from(SUMMAND));
        let x = (0..CHAINS).map(chain).sum::<f64>() / CHAINS as f64;
        let lanes = |m: &MultiplyAdds| (m.flops_per_round / 2) as f64;
        let widest = multiply_adds();
        let plain = MultiplyAdds { flops_per_round: 2 * 4 * CHAINS, run: baseline };
        for m in [&widest, &plain] {
            let got = f64::from((m.run)(1000)) / lanes(m);
            assert!((got - x).abs() < 1e-4, "{} lanes: {got} should be {x}", lanes(m));
        }
    }
}
