//! Kernels outside the op registry against the host's code: what samplers, tiles, colour fix and optimiser do on
//! the device.

use std::cell::RefCell;

use bytemuck::Pod;

use super::Row;
use crate::data::color_fix::{self, ColorFix};
use crate::data::pixels::FloatImage;
use crate::device::kernel::Launch;
use crate::diffusion::{self, Guided, Iddpm, Noise, Sampler, guidance, image_key};
use crate::models::latent_tiles::cuda::DeviceBlend;
use crate::models::latent_tiles::{Blend, Grid};
use crate::ops::check_cuda::Executor;
use crate::train::adamw::{AdamW, GlobalNorm, Tensor};

/// Names of all checks, in the order of [`run`].
pub const NAMES: [&str; 8] =
    ["noise", "guidance", "weighted sums", "iddpm", "tiles", "color fix", "adamw", "clipping"];

/// Runs the check of this name, once in each way.
pub fn run<E: Executor>(name: &str, executor: &E) -> Row {
    let mut row = Row::default();
    for way in 0..executor.ways() {
        let on = On { executor, way, kernels: RefCell::default() };
        let checked = match name {
            "noise" => noise(&on),
            "guidance" => guidance(&on),
            "weighted sums" => weighted_sums(&on),
            "iddpm" => iddpm(&on),
            "tiles" => tiles(&on),
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
        on.run(diffusion::cuda::fill(&noise, step, on.at(&out), n))?;
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
        on.run(diffusion::cuda::combine(on.at(&c), on.at(&u), samples, sample, guided, 4.5))?;
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
        on.run(diffusion::cuda::weighted_sum(&terms, on.at(y), n))?;
        let term = |k: usize, i: usize| factors[k] * xs[k][i];
        let expected: Vec<_> = (0..n).map(|i| (1..count).fold(term(0, i), |y, k| y + term(k, i))).collect();
        on.same(&format!("{count} terms"), y, &expected)?;
    }
    Ok(())
}

fn iddpm<E: Executor>(on: &On<E>) -> Result<(), String> {
    let n = 515;
    let mut sampler = Iddpm::new(50).map_err(|e| e.to_string())?;
    for (k, learned) in [(0, true), (20, true), (48, true), (49, true), (7, false)] {
        let noise = sampler.wants_noise(k).then(|| numbers(n, 3));
        // Far beyond −1..1 too: what an untrained network may say.
        let variance: Vec<f32> =
            numbers(n, 4).iter().enumerate().map(|(i, v)| v * (1 + i % 40) as f32).collect();
        let mut x = numbers(n, 1);
        let (to, eps, variances) = (on.put(&x)?, on.put(&numbers(n, 2))?, on.put(&variance)?);
        let fresh = noise.as_ref().map(|n| on.put(n)).transpose()?;
        let launch = diffusion::cuda::iddpm(
            &sampler,
            k,
            on.at(&to),
            on.at(&eps),
            learned.then_some(on.at(&variances)),
            fresh.as_ref().map(|f| on.at(f)),
            n,
        );
        let variance = if learned { &variance[..] } else { &[] };
        sampler.step(k, &mut x, &numbers(n, 2), variance, noise.as_deref());
        on.run(launch)?;
        on.same(&format!("step {k}"), &to, &x)?;
    }
    Ok(())
}

fn tiles<E: Executor>(on: &On<E>) -> Result<(), String> {
    let grid = Grid::new(19, 25, 12, 4).map_err(|e| e.to_string())?;
    let planes = 3;
    let mut blend = Blend::new(&grid, planes);
    let weights = on.put(&grid.weights())?;
    let (sums, total) = (on.put(&vec![0.0f32; planes * 19 * 25])?, on.put(&[0.0f32; 19 * 25])?);
    let device = DeviceBlend { weights: on.at(&weights), sums: on.at(&sums), total: on.at(&total), planes };
    let (mut launches, mut tiles) = (Vec::new(), Vec::new());
    for (i, corner) in grid.corners().enumerate() {
        let tile = numbers(planes * 12 * 12, 1000 * i as u32);
        blend.add(corner, &tile);
        tiles.push(on.put(&tile)?);
        launches.push(device.add(&grid, corner, on.at(&tiles[i])));
    }
    launches.push(device.finish(&grid));
    on.run(launches)?;
    on.same("the blend", &sums, &blend.finish())
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

/// Three steps against the paper's formulas in f64.
fn adamw<E: Executor>(on: &On<E>) -> Result<(), String> {
    let op = AdamW { rate: 1e-2, betas: [0.9, 0.999], eps: 1e-8, decay: 0.1 };
    for n in [1024, 333] {
        let start = numbers(n, 1);
        let (mut w, mut m, mut v) =
            (start.iter().map(|&x| f64::from(x)).collect::<Vec<_>>(), vec![0.0; n], vec![0.0; n]);
        let zeros = vec![0.0f32; n];
        let (param, first, second) = (on.put(&start)?, on.put(&zeros)?, on.put(&zeros)?);
        for t in 1..=3 {
            let grad = numbers(n, 100 * t as u32);
            for (i, g) in grad.iter().map(|&g| 0.5 * f64::from(g)).enumerate() {
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.999 * v[i] + 0.001 * g * g;
                let (m, v) = (m[i] / (1.0 - 0.9f64.powi(t)), v[i] / (1.0 - 0.999f64.powi(t)));
                w[i] -= 1e-2 * (0.1 * w[i] + m / (v.sqrt() + 1e-8));
            }
            let (g, clip) = (on.put(&grad)?, on.put(&[0.5f32])?);
            let moments = [on.at(&first), on.at(&second)];
            let tensor = Tensor { param: on.at(&param), grad: on.at(&g), moments, len: n };
            on.run(op.step(t, &tensor, Some(on.at(&clip))))?;
        }
        for (i, (got, want)) in on.floats(&param)?.iter().zip(&w).enumerate() {
            if !((f64::from(*got) - want).abs() <= 5e-7) {
                return Err(format!("{n} parameters: element {i} is {got}, should be {want}"));
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
    for most in [1.0f32, 1e4] {
        let (parts, out) = (on.room(parts)?, on.room(2)?);
        on.run(GlobalNorm { most }.launches(&addresses, on.at(&parts), on.at(&out)))?;
        let got = on.floats(&out)?;
        let factor = (f64::from(most) / (norm + 1e-6)).min(1.0);
        for (what, got, want) in [("norm", got[0], norm), ("factor", got[1], factor)] {
            if !((f64::from(got) - want).abs() <= 1e-6 * want) {
                return Err(format!("the {what} is {got}, should be {want}"));
            }
        }
    }
    Ok(())
}
