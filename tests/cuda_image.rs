//! Kernels outside the op registry, on the simulator: what samplers, tiles, colour fix and optimiser do on the
//! device, against the host's code.
#![cfg(not(windows))]

use bytemuck::Pod;
use dreamclear::data::color_fix::{self, ColorFix};
use dreamclear::data::pixels::FloatImage;
use dreamclear::device::kernel::Launch;
use dreamclear::device::sim::{GuardedBuffer, Schedule, Simulator};

use dreamclear::diffusion::{self, Guided, Iddpm, Noise, Sampler, guidance, image_key};
use dreamclear::models::latent_tiles::cuda::DeviceBlend;
use dreamclear::models::latent_tiles::{Blend, Grid};
use dreamclear::train::adamw::{AdamW, GlobalNorm, Tensor};

/// Runs launches, in order. Whether there is a simulator in this build.
fn run(launches: impl IntoIterator<Item = Launch>) -> bool {
    let Ok(simulator) = Simulator::new() else { return false };
    for launch in launches {
        // SAFETY: every test's buffers live to its end and are as large as it says.
        unsafe { simulator.launch(&launch, Schedule::Shuffled(1), 1) }.expect("the launch runs");
    }
    true
}

fn buffer<T: Pod>(x: &[T]) -> GuardedBuffer {
    GuardedBuffer::of(bytemuck::cast_slice(x))
}

fn f32s(buffer: &GuardedBuffer) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(buffer.bytes())
}

/// Numbers between −1 and 1 that look random.
fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let number =
        |i: u32| (i.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0;
    (0..n as u32).map(number).collect()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn noise_has_the_bits_of_the_host() {
    for (seed, name, step, n) in [(0, "photo.png", Noise::START, 3001), (u64::MAX - 7, "b/ü.jpg", 49, 2050)]
    {
        let noise = Noise::new(seed, image_key(name));
        let mut expected = vec![0.0; n];
        noise.fill(step, &mut expected);
        let out = GuardedBuffer::new(4 * n);
        if run(diffusion::cuda::fill(&noise, step, out.address(), n)) {
            assert_eq!(bits(&f32s(&out)), bits(&expected), "{name}");
            assert!(out.tail_is_untouched());
        }
    }
}

#[test]
fn guidance_has_the_bits_of_the_host() {
    let (plane, channels, samples) = (77, 4, 2);
    let sample = 2 * channels * plane; // variances follow
    let (cond, uncond) = (numbers(samples * sample, 1), numbers(samples * sample, 2));
    for rule in [Guided::FirstThree, Guided::All] {
        let mut expected = cond.clone();
        for (c, u) in expected.chunks_mut(sample).zip(uncond.chunks(sample)) {
            guidance::combine(c, u, plane, channels, 4.5, rule);
        }
        let (c, u) = (buffer(&cond), buffer(&uncond));
        let guided = rule.count(channels) * plane;
        if run(diffusion::cuda::combine(c.address(), u.address(), samples, sample, guided, 4.5)) {
            assert_eq!(bits(&f32s(&c)), bits(&expected));
        }
    }
}

#[test]
fn weighted_sums_round_in_order() {
    let n = 300;
    let factors = [0.97f32, -0.31, 1.7, 0.003];
    let xs: Vec<Vec<f32>> = (0..4).map(|k| numbers(n, 10 * k)).collect();
    for count in 1..=4 {
        let buffers: Vec<_> = xs.iter().map(|x| buffer(x)).collect();
        let terms: Vec<_> = (0..count).map(|k| (factors[k], buffers[k].address())).collect();
        // In place of the last one.
        let y = &buffers[count - 1];
        if run(diffusion::cuda::weighted_sum(&terms, y.address(), n)) {
            let term = |k: usize, i: usize| factors[k] * xs[k][i];
            let expected: Vec<_> =
                (0..n).map(|i| (1..count).fold(term(0, i), |y, k| y + term(k, i))).collect();
            assert_eq!(bits(&f32s(y)), bits(&expected), "{count} terms");
        }
    }
}

#[test]
fn iddpm_steps_have_the_bits_of_the_host() {
    let n = 515;
    let mut sampler = Iddpm::new(50).unwrap();
    for (k, learned) in [(0, true), (20, true), (48, true), (49, true), (7, false)] {
        let noise = sampler.wants_noise(k).then(|| numbers(n, 3));
        // Far beyond −1..1 too: what an untrained network may say.
        let variance: Vec<f32> =
            numbers(n, 4).iter().enumerate().map(|(i, v)| v * (1 + i % 40) as f32).collect();
        let mut x = numbers(n, 1);
        let buffers = [&x, &numbers(n, 2), &variance].map(|x| buffer(x));
        let fresh = noise.as_ref().map(|n| buffer(n));
        let [to, eps, variances] = [0, 1, 2].map(|i| buffers[i].address());
        let variances = learned.then_some(variances);
        let launch =
            diffusion::cuda::iddpm(&sampler, k, to, eps, variances, fresh.as_ref().map(|f| f.address()), n);
        let variance = if learned { &variance[..] } else { &[] };
        sampler.step(k, &mut x, &numbers(n, 2), variance, noise.as_deref());
        if run(launch) {
            assert_eq!(bits(&f32s(&buffers[0])), bits(&x), "step {k}");
        }
    }
}

#[test]
fn tiles_blend_to_the_bits_of_the_host() {
    let grid = Grid::new(19, 25, 12, 4).unwrap();
    let planes = 3;
    let mut blend = Blend::new(&grid, planes);
    let weights = buffer(&grid.weights());
    let (sums, total) = (buffer(&vec![0.0f32; planes * 19 * 25]), buffer(&[0.0f32; 19 * 25]));
    let device =
        DeviceBlend { weights: weights.address(), sums: sums.address(), total: total.address(), planes };
    let (mut launches, mut tiles) = (Vec::new(), Vec::new());
    for (i, corner) in grid.corners().enumerate() {
        let tile = numbers(planes * 12 * 12, 1000 * i as u32);
        blend.add(corner, &tile);
        tiles.push(buffer(&tile));
        launches.push(device.add(&grid, corner, tiles[i].address()));
    }
    launches.push(device.finish(&grid));
    if run(launches) {
        assert_eq!(bits(&f32s(&sums)), bits(&blend.finish()));
    }
}

#[test]
fn colours_are_fixed_to_the_bits_of_the_host() {
    for [h, w, c] in [[37, 41, 3], [5, 100, 3], [1, 1, 1]] {
        let (picture, reference) = (numbers(h * w * c, 5), numbers(h * w * c, 6));
        let image = |x: &[f32]| FloatImage::new(h, w, c, x.to_vec());
        let expected = ColorFix::Wavelet.apply(image(&picture), &image(&reference));
        let (p, r) = (buffer(&picture), buffer(&reference));
        let scratch = [0, 1].map(|_| GuardedBuffer::new(4 * h * w * c));
        let addresses = [scratch[0].address(), scratch[1].address()];
        if run(color_fix::cuda::wavelet(p.address(), r.address(), addresses, [h, w, c])) {
            assert_eq!(bits(&f32s(&p)), bits(&expected.data), "{h}×{w}×{c}");
        }
    }
}

#[test]
fn adamw_follows_its_paper() {
    let op = AdamW { rate: 1e-2, betas: [0.9, 0.999], eps: 1e-8, decay: 0.1 };
    for n in [1024, 333] {
        let start = numbers(n, 1);
        let (mut w, mut m, mut v) =
            (start.iter().map(|&x| f64::from(x)).collect::<Vec<_>>(), vec![0.0; n], vec![0.0; n]);
        let (param, first, second) = (buffer(&start), buffer(&vec![0.0f32; n]), buffer(&vec![0.0f32; n]));
        for t in 1..=3 {
            let grad = numbers(n, 100 * t as u32);
            for (i, g) in grad.iter().map(|&g| 0.5 * f64::from(g)).enumerate() {
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.999 * v[i] + 0.001 * g * g;
                let (m, v) = (m[i] / (1.0 - 0.9f64.powi(t)), v[i] / (1.0 - 0.999f64.powi(t)));
                w[i] -= 1e-2 * (0.1 * w[i] + m / (v.sqrt() + 1e-8));
            }
            let (g, clip) = (buffer(&grad), buffer(&[0.5f32]));
            let moments = [first.address(), second.address()];
            let tensor = Tensor { param: param.address(), grad: g.address(), moments, len: n };
            if !run(op.step(t, &tensor, Some(clip.address()))) {
                return;
            }
        }
        for (got, want) in f32s(&param).iter().zip(&w) {
            assert!((f64::from(*got) - want).abs() <= 5e-7, "{got} for {want}");
        }
    }
}

#[test]
fn gradients_are_clipped_by_their_common_norm() {
    let tensors = [numbers(40_000, 1), numbers(7, 2), vec![], numbers(16_384, 3)];
    let buffers: Vec<_> = tensors.iter().map(|x| buffer(x)).collect();
    let addresses: Vec<_> = buffers.iter().zip(&tensors).map(|(b, x)| (b.address(), x.len())).collect();
    let lengths: Vec<_> = tensors.iter().map(Vec::len).collect();
    let norm = tensors.iter().flatten().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    assert_eq!(GlobalNorm::parts(&lengths), 5);
    for most in [1.0f32, 1e4] {
        let (parts, out) = (GuardedBuffer::new(4 * 5), GuardedBuffer::new(8));
        if !run(GlobalNorm { most }.launches(&addresses, parts.address(), out.address())) {
            return;
        }
        let got = f32s(&out);
        let factor = (f64::from(most) / (norm + 1e-6)).min(1.0);
        assert!((f64::from(got[0]) - norm).abs() <= 1e-6 * norm, "{} for {norm}", got[0]);
        assert!((f64::from(got[1]) - factor).abs() <= 1e-6 * factor, "{} for {factor}", got[1]);
    }
}
