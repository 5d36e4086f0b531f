//! Criterion functions for whole networks with random weights, the rows of `dreamclear bench`.
//!
//! `cargo bench --bench models -- swinir` runs a part; `RAYON_NUM_THREADS` sets the threads.

use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use dreamclear::bench::{
    Work,
    models::{MODELS, ModelWork},
};
use dreamclear::device::cpu::CpuDevice;

fn models(c: &mut Criterion) {
    let device = Arc::new(CpuDevice::new(0).expect("a thread pool"));
    let mut group = c.benchmark_group("models");
    for row in MODELS {
        group.bench_function(row.name, |b| {
            let mut work = ModelWork::new(row, &device).expect("a bench model can be prepared");
            b.iter(|| work.run().expect("a bench model runs"));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = models
}
criterion_main!(benches);
