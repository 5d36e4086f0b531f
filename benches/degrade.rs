//! Criterion functions for degradations: the pieces that cost most, and whole pairs, on one thread.
//!
//! `cargo bench --bench degrade -- pair` runs a part; `tools/bench-degrade` compares with the official pipeline.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dreamclear::data::degrade::kernels::Kernel;
use dreamclear::data::degrade::noise::Noise;
use dreamclear::data::degrade::resize::{Interpolation, interpolate_by};
use dreamclear::data::degrade::stream::{Field, Purpose};
use dreamclear::data::degrade::{Degradation, Key, apply, jpeg};
use dreamclear::data::pixels::FloatImage;

const SIDE: usize = 512;

fn picture() -> FloatImage {
    let wave = |f: f32, i: usize| 0.5 + 0.4 * (f * (i % SIDE) as f32 + 0.7 * f * (i / SIDE) as f32).sin();
    let data = (0..SIDE * SIDE).flat_map(|i| [0.031, 0.013, 0.057].map(|f| wave(f, i))).collect();
    FloatImage::new(SIDE, SIDE, 3, data)
}

fn degrade(c: &mut Criterion) {
    let image = picture();
    let key = Key { seed: 0, epoch: 0, index: 0 };
    let field = Field::new(key, Purpose::FirstPixels);
    let mut group = c.benchmark_group("degrade");
    group.throughput(Throughput::Elements((SIDE * SIDE) as u64));
    for (name, kernel) in [
        ("blur_aniso_21", Kernel::Aniso { size: 21, sigma: [2.0, 0.7], rotation: 0.4 }),
        ("blur_iso_21", Kernel::Iso { size: 21, sigma: 2.0 }),
        ("blur_aniso_41", Kernel::Aniso { size: 41, sigma: [9.0, 3.0], rotation: 0.4 }),
    ] {
        group.bench_function(name, |b| b.iter(|| black_box(kernel.filter().apply(&image))));
    }
    for mode in [Interpolation::Area, Interpolation::Bilinear, Interpolation::Bicubic] {
        group.bench_function(format!("resize_{mode:?}").to_lowercase(), |b| {
            b.iter(|| black_box(interpolate_by(&image, 0.8, mode)));
        });
    }
    for (name, noise) in [
        ("noise_gaussian", Noise::Gaussian { sigma: 10.0, grey: false }),
        ("noise_poisson", Noise::Poisson { scale: 1.0, grey: false }),
    ] {
        group.bench_function(name, |b| b.iter(|| black_box(noise.apply(image.clone(), &field))));
    }
    group.bench_function("jpeg", |b| b.iter(|| black_box(jpeg::compress(&image, 60.0))));
    for (name, degradation) in
        [("pair_realesrgan", Degradation::real_esrgan()), ("pair_codeformer", Degradation::code_former())]
    {
        let mut index = 0;
        group.bench_function(name, |b| {
            b.iter(|| {
                index += 1;
                black_box(
                    apply(&degradation.draw(0, 0, index), &image).expect("a picture of whole multiples"),
                )
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = degrade
}
criterion_main!(benches);
