//! Kernels outside the op registry against the host's code: what samplers, tiles, colour fix and optimiser do on
//! the device.

use std::cell::RefCell;
use std::ops::RangeInclusive;

use bytemuck::Pod;

use super::Row;
use crate::data::color_fix::{self, ColorFix};
use crate::data::pixels::{self as data_pixels, FloatImage};
use crate::device::kernel::Launch;
use crate::diffusion::cuda::{self, NoiseStep, StepAddresses, Steps};
use crate::diffusion::{Ddim, Guided, Noise, SaSolver, Sampler, guidance, image_key, sampler};
use crate::models::latent_tiles::{self, Blend, Grid};
use crate::ops::check_cuda::Executor;
use crate::tensor::{DType, HostTensor};
use crate::train::adamw::cuda::{GlobalNorm, Tensor, accumulate, step};
use crate::train::adamw::{AdamW, Part, step as host_step};

/// Names of all checks, in the order of [`run`].
pub const NAMES: [&str; 10] = [
    "noise",
    "guidance",
    "weighted sums",
    "samplers",
    "faults",
    "tiles",
    "pixels",
    "color fix",
    "adamw",
    "clipping",
];

/// Runs the check of this name, once in each way.
pub fn run<E: Executor>(name: &str, executor: &E) -> Row {
    let mut row = Row::default();
    for way in 0..executor.ways() {
        let on = On { executor, way, kernels: RefCell::default() };
        let checked = match name {
            "noise" => noise(&on),
            "guidance" => guidance(&on),
            "weighted sums" => weighted_sums(&on),
            "samplers" => samplers(&on),
            "faults" => faults(&on),
            "tiles" => tiles(&on),
            "pixels" => pixels(&on),
            "color fix" => colours(&on),
            "adamw" => adamw(&on),
            "clipping" => clipping(&on),
            _ => Err(format!("there is no check {name}; expected one of {}", NAMES.join(", "))),
        };
        if let Err(e) = checked {
            row.fail(format!("{}: {e}", executor.way(way)));
        }
        row.kernels = on.kernels.into_inner();
        row.kernels.sort_unstable();
        row.kernels.dedup();
    }
    row
}

/// An executor, one way of running, and the kernels that have run.
struct On<'a, E: Executor> {
    executor: &'a E,
    way: usize,
    kernels: RefCell<Vec<String>>,
}

impl<E: Executor> On<'_, E> {
    fn put<T: Pod>(&self, x: &[T]) -> Result<E::Buffer, String> {
        self.executor.buffer(bytemuck::cast_slice(x))
    }

    /// Room for so many floats, holding poison.
    fn room(&self, floats: usize) -> Result<E::Buffer, String> {
        self.executor.buffer(&vec![0xFF; 4 * floats])
    }

    fn at(&self, buffer: &E::Buffer) -> u64 {
        self.executor.address(buffer)
    }

    /// Runs launches over buffers that live in the caller.
    fn run(&self, launches: impl IntoIterator<Item = Launch>) -> Result<(), String> {
        let launches: Vec<_> = launches.into_iter().collect();
        self.kernels.borrow_mut().extend(launches.iter().map(|l| l.kernel.clone()));
        // SAFETY: every check's buffers live to its end and are as large as it says.
        unsafe { self.executor.launch(&launches, self.way) }
    }

    fn floats(&self, buffer: &E::Buffer) -> Result<Vec<f32>, String> {
        Ok(bytemuck::pod_collect_to_vec(&self.executor.read(buffer, "the result")?))
    }

    /// The result must have these bits.
    fn same(&self, what: &str, got: &E::Buffer, want: &[f32]) -> Result<(), String> {
        let got = self.floats(got)?;
        let differs = |(g, w): (&f32, &f32)| g.to_bits() != w.to_bits();
        match got.iter().zip(want).position(differs) {
            Some(i) => Err(format!("{what}: element {i} is {}, the host's {}", got[i], want[i])),
            None if got.len() != want.len() => {
                Err(format!("{what}: {} elements, the host has {}", got.len(), want.len()))
            }
            None => Ok(()),
        }
    }
}

/// Numbers between −1 and 1 that look random.
fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let number =
        |i: u32| (i.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0;
    (0..n as u32).map(number).collect()
}

fn noise<E: Executor>(on: &On<E>) -> Result<(), String> {
    for (seed, name, step, n) in [(0, "photo.png", Noise::START, 3001), (u64::MAX - 7, "b/ü.jpg", 49, 2050)]
    {
        let noise = Noise::new(seed, image_key(name));
        let mut expected = vec![0.0; n];
        noise.fill(step, &mut expected);
        let out = on.room(n)?;
        on.run(cuda::fill(&noise, NoiseStep::Of(step), on.at(&out), n))?;
        on.same(name, &out, &expected)?;
    }
    Ok(())
}

fn guidance<E: Executor>(on: &On<E>) -> Result<(), String> {
    let (plane, channels, samples) = (77, 4, 2);
    let sample = 2 * channels * plane; // variances follow
    let (cond, uncond) = (numbers(samples * sample, 1), numbers(samples * sample, 2));
    for rule in [Guided::FirstThree, Guided::All] {
        let mut expected = cond.clone();
        for (c, u) in expected.chunks_mut(sample).zip(uncond.chunks(sample)) {
            guidance::combine(c, u, plane, channels, 4.5, rule);
        }
        let (c, u) = (on.put(&cond)?, on.put(&uncond)?);
        let guided = rule.count(channels) * plane;
        on.run(cuda::combine(on.at(&c), on.at(&u), samples, sample, guided, 4.5))?;
        on.same(&format!("{rule:?}"), &c, &expected)?;
    }
    Ok(())
}

/// Sums round in the order of their terms.
fn weighted_sums<E: Executor>(on: &On<E>) -> Result<(), String> {
    let n = 300;
    let factors = [0.97f32, -0.31, 1.7, 0.003];
    let xs: Vec<Vec<f32>> = (0..4).map(|k| numbers(n, 10 * k)).collect();
    for count in 1..=4 {
        let buffers = xs.iter().map(|x| on.put(x)).collect::<Result<Vec<_>, _>>()?;
        let terms: Vec<_> = (0..count).map(|k| (factors[k], on.at(&buffers[k]))).collect();
        // In place of the last one.
        let y = &buffers[count - 1];
        on.run(cuda::weighted_sum(&terms, on.at(y), n))?;
        let term = |k: usize, i: usize| factors[k] * xs[k][i];
        let expected: Vec<_> = (0..n).map(|i| (1..count).fold(term(0, i), |y, k| y + term(k, i))).collect();
        on.same(&format!("{count} terms"), y, &expected)?;
    }
    Ok(())
}

/// Every sampler over all of its steps, whose number and factors the kernels read from device memory.
fn samplers<E: Executor>(on: &On<E>) -> Result<(), String> {
    let named = |name: &str, steps| sampler::from_name(name, steps).map_err(|e| e.to_string());
    let mut samplers: Vec<(Box<dyn Sampler>, bool)> =
        sampler::NAMES.iter().map(|name| Ok((named(name, 12)?, true))).collect::<Result<_, String>>()?;
    samplers.push((named("iddpm", 12)?, false)); // without learned variances, which only this one reads
    samplers.push((named("dpm++", 4)?, true));
    samplers.push((Box::new(Ddim::new(7, 0.6).map_err(|e| e.to_string())?), true));
    samplers.push((Box::new(SaSolver::new(12, 1.0).map_err(|e| e.to_string())?), true));
    let n = 515;
    let noise = Noise::new(3, image_key("a.png"));
    for (mut host, learned) in samplers {
        let loops = Loop::new(on, &*host, n)?;
        let drawn = on.room(n)?;
        let mut x = numbers(n, 1);
        for k in 0..host.len() {
            let eps = numbers(n, 1000 * k as u32);
            // Far beyond −1..1 too: what an untrained network may say.
            let variance: Vec<f32> =
                numbers(n, 4).iter().enumerate().map(|(i, v)| v * (1 + i % 40) as f32).collect();
            let (answer, variances) = (on.put(&eps)?, on.put(&variance)?);
            let draw = cuda::fill(&noise, NoiseStep::At(on.at(&loops.counter)), on.at(&drawn), n);
            let variances = learned.then_some(on.at(&variances));
            let mut launches = loops.step(on, &answer, variances, Some(&drawn));
            launches.splice(1..1, draw); // when the step's number is known
            on.run(launches)?;
            let mut fresh = vec![0.0; n];
            noise.fill(k as u32, &mut fresh);
            let fresh = host.wants_noise(k).then_some(&fresh[..]);
            on.same("timestep", &loops.timestep, &[host.timestep(k) as f32])?;
            host.step(k, &mut x, &eps, if learned { &variance } else { &[] }, fresh);
            on.same(&format!("{host:?} step {k}"), &loops.state, &x)?;
        }
        on.same("the fault", &loops.fault, &[0.0])?;
    }
    Ok(())
}

/// The first step that leaves what is no number is remembered.
fn faults<E: Executor>(on: &On<E>) -> Result<(), String> {
    let n = 300;
    let host = sampler::from_name("ddim", 4).map_err(|e| e.to_string())?;
    let loops = Loop::new(on, &*host, n)?;
    for bad in [false, true, false, true] {
        let mut eps = numbers(n, 2);
        if bad {
            eps[77] = f32::INFINITY;
        }
        on.run(loops.step(on, &on.put(&eps)?, None, None))?;
    }
    on.same("1 + the second step", &loops.fault, &[f32::from_bits(2)])
}

/// A sampler's steps on the device, and their memory.
struct Loop<E: Executor> {
    steps: Steps,
    rows: E::Buffer,
    counter: E::Buffer,
    timestep: E::Buffer,
    state: E::Buffer,
    history: Vec<E::Buffer>,
    fault: E::Buffer,
    len: usize,
}

impl<E: Executor> Loop<E> {
    /// Before the first step, at `numbers(len, 1)`.
    fn new(on: &On<E>, sampler: &dyn Sampler, len: usize) -> Result<Self, String> {
        let steps = sampler.device_steps();
        Ok(Loop {
            rows: on.put(&steps.rows)?,
            counter: on.put(&[u32::MAX])?,
            timestep: on.room(1)?,
            state: on.put(&numbers(len, 1))?,
            history: (0..steps.history).map(|_| on.room(len)).collect::<Result<_, _>>()?,
            fault: on.put(&[0u32])?,
            steps,
            len,
        })
    }

    /// The launches of the next step; the first one goes on to it.
    fn step(
        &self,
        on: &On<E>,
        eps: &E::Buffer,
        variance: Option<u64>,
        noise: Option<&E::Buffer>,
    ) -> Vec<Launch> {
        let (rows, counter) = (on.at(&self.rows), on.at(&self.counter));
        let begin = self.steps.begin(rows, counter, on.at(&self.timestep));
        let step = self.steps.step(&StepAddresses {
            x: on.at(&self.state),
            eps: on.at(eps),
            variance,
            noise: noise.map(|n| (on.at(n), 0)),
            history: self.history.iter().map(|h| on.at(h)).collect(),
            counter,
            rows,
            fault: on.at(&self.fault),
            len: self.len,
        });
        std::iter::once(begin).chain(step).collect()
    }
}

fn tiles<E: Executor>(on: &On<E>) -> Result<(), String> {
    let planes = 3;
    for (h, w, tile, overlap) in [(19, 25, 12, 4), (12, 12, 12, 4), (33, 12, 12, 5)] {
        let grid = Grid::new(h, w, tile, overlap).map_err(|e| e.to_string())?;
        let mut blend = Blend::new(&grid, planes);
        let mut all = Vec::new();
        for (i, corner) in grid.corners().enumerate() {
            let tile = numbers(planes * grid.tile * grid.tile, 1000 * i as u32);
            blend.add(corner, &tile);
            all.extend(tile);
        }
        let (weights, tiles, out) = (on.put(&grid.weights())?, on.put(&all)?, on.room(planes * h * w)?);
        let launch = latent_tiles::cuda::blend(&grid, on.at(&tiles), on.at(&weights), planes, on.at(&out));
        on.run([launch])?;
        on.same(&format!("{h}×{w}"), &out, &blend.finish())?;
    }
    Ok(())
}

/// Ranges and bounds of pictures, with what is no number among the pixels.
fn pixels<E: Executor>(on: &On<E>) -> Result<(), String> {
    let mut x: Vec<f32> = numbers(1003, 8).iter().map(|x| 1.7 * x).collect();
    x[..3].copy_from_slice(&[f32::INFINITY, f32::NEG_INFINITY, -0.0]);
    type Host = fn(f32) -> f32;
    let all = f32::NEG_INFINITY..=f32::INFINITY;
    let cases: [(f32, f32, RangeInclusive<f32>, Host); 3] = [
        (2.0, -1.0, all.clone(), |x| 2.0 * x - 1.0),
        (0.5, 0.5, all, |x| (x + 1.0) / 2.0),
        (1.0, 0.0, 0.0..=1.0, |x| x.clamp(0.0, 1.0) + 0.0),
    ];
    for (scale, shift, range, host) in cases {
        let pixels = on.put(&x)?;
        let at = on.at(&pixels);
        on.run(data_pixels::cuda::map(at, at, x.len(), scale, shift, range))?;
        let expected: Vec<f32> = x.iter().map(|&x| host(x)).collect();
        on.same(&format!("x·{scale} + {shift}"), &pixels, &expected)?;
    }
    Ok(())
}

fn colours<E: Executor>(on: &On<E>) -> Result<(), String> {
    for [h, w, c] in [[37, 41, 3], [5, 100, 3], [1, 1, 1]] {
        let (picture, reference) = (numbers(h * w * c, 5), numbers(h * w * c, 6));
        let image = |x: &[f32]| FloatImage::new(h, w, c, x.to_vec());
        let expected = ColorFix::Wavelet.apply(image(&picture), &image(&reference));
        let (p, r) = (on.put(&picture)?, on.put(&reference)?);
        let scratch = [on.room(h * w * c)?, on.room(h * w * c)?];
        let scratch = [on.at(&scratch[0]), on.at(&scratch[1])];
        on.run(color_fix::cuda::wavelet(on.at(&p), on.at(&r), scratch, [h, w, c]))?;
        on.same(&format!("{h}×{w}×{c}"), &p, &expected.data)?;
    }
    Ok(())
}

/// Three steps of sums over two batches give the host's bits, in every element type of copies and gradients; a
/// factor that is not finite changes nothing.
fn adamw<E: Executor>(on: &On<E>) -> Result<(), String> {
    let adamw = AdamW { betas: [0.9, 0.999], eps: 1e-8, decay: 0.1 };
    for (n, dtype) in
        [(1024, DType::F32), (333, DType::F32), (1028, DType::BF16), (77, DType::F16), (64, DType::F16)]
    {
        let start = numbers(n, 1);
        let (mut w, mut m, mut v, mut ema) = (start.clone(), vec![0.0f32; n], vec![0.0; n], start.clone());
        let zeros = vec![0.0f32; n];
        let (param, first, second) = (on.put(&start)?, on.put(&zeros)?, on.put(&zeros)?);
        let (average, sum) = (on.put(&start)?, on.room(n)?);
        let half = if dtype == DType::F32 { None } else { Some(on.put(&vec![0u8; 2 * n])?) };
        for t in 1..=3 {
            let mut total = vec![0.0f32; n];
            for batch in 0..2u32 {
                let grad = HostTensor::from_f32([n], numbers(n, 100 * t as u32 + batch)).cast(dtype);
                total.iter_mut().zip(grad.to_f32().iter()).for_each(|(sum, g)| *sum += g);
                let (g, add) = (on.put(grad.bytes())?, on.put(&[batch as f32])?);
                on.run(accumulate(on.at(&sum), (on.at(&g), dtype), n, on.at(&add)))?;
            }
            let factors = adamw.factors(t, 1e-2);
            let part =
                Part { param: &mut w, grad: &total, moments: [&mut m, &mut v], ema: Some(&mut ema), factors };
            host_step(vec![part], 0.25, 0.75);
            let tensor = Tensor {
                param: on.at(&param),
                grad: on.at(&sum),
                moments: [on.at(&first), on.at(&second)],
                ema: Some((on.at(&average), 0.75)),
                copy: half.as_ref().map(|h| (on.at(h), dtype)),
                len: n,
            };
            let factors = on.put(&factors.on_device())?;
            for scale in [0.25, f32::NAN, f32::INFINITY] {
                let scale = on.put(&[scale])?;
                on.run(step(&tensor, on.at(&factors), Some(on.at(&scale))))?;
            }
        }
        let what = |of: &str| format!("{of} of {n} parameters");
        on.same(&what("parameters"), &param, &w)?;
        on.same(&what("first moments"), &first, &m)?;
        on.same(&what("second moments"), &second, &v)?;
        on.same(&what("the average"), &average, &ema)?;
        if let Some(half) = &half {
            let got = on.executor.read(half, "the copy")?;
            if got != HostTensor::from_f32([n], w).cast(dtype).bytes() {
                return Err(format!("the copy of {n} parameters is not them in {dtype}"));
            }
        }
    }
    Ok(())
}

/// Gradients are clipped by their common norm.
fn clipping<E: Executor>(on: &On<E>) -> Result<(), String> {
    let tensors = [numbers(40_000, 1), numbers(7, 2), vec![], numbers(16_384, 3)];
    let buffers = tensors.iter().map(|x| on.put(x)).collect::<Result<Vec<_>, _>>()?;
    let addresses: Vec<_> = buffers.iter().zip(&tensors).map(|(b, x)| (on.at(b), x.len())).collect();
    let lengths: Vec<_> = tensors.iter().map(Vec::len).collect();
    let norm = tensors.iter().flatten().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    let parts = GlobalNorm::parts(&lengths);
    if parts != 5 {
        return Err(format!("expected 5 parts, found {parts}"));
    }
    for most in [1.0f32, 1e4, f32::INFINITY] {
        let (parts, out) = (on.room(parts)?, on.room(2)?);
        let unit = on.put(&[0.5f32])?;
        let clip = GlobalNorm { most, unit: Some(on.at(&unit)) };
        on.run(clip.launches(&addresses, on.at(&parts), on.at(&out)))?;
        let got = on.floats(&out)?;
        let norm = 0.5 * norm;
        let factor = 0.5 * (f64::from(most) / (norm + 1e-6)).min(1.0);
        for (what, got, want) in [("norm", got[0], norm), ("factor", got[1], factor)] {
            if !((f64::from(got) - want).abs() <= 1e-6 * want) {
                return Err(format!("the {what} is {got}, should be {want}"));
            }
        }
    }
    Ok(())
}
