//! Criterion groups: one an op, one function a bench case of the registry (the cases that
//! `dreamclear bench` runs too). Throughput counts floating-point operations, so that `Gelem/s`
//! reads as GFLOP/s; ops that do no arithmetic count bytes.
//!
//! `cargo bench --bench ops -- conv2d/rrdb` runs a part; `RAYON_NUM_THREADS` sets the threads.

use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dreamclear::bench::{Work, ops::OpWork};
use dreamclear::device::cpu::CpuDevice;
use dreamclear::ops::registry;

fn ops(c: &mut Criterion) {
    let device = Arc::new(CpuDevice::new(0).expect("a thread pool"));
    for entry in registry() {
        let cases: Vec<_> = (entry.cases)().into_iter().filter(|case| case.bench).collect();
        if cases.is_empty() {
            continue;
        }
        let mut group = c.benchmark_group(entry.name);
        for case in cases {
            let outputs = case.output_types();
            let cost = case.op.cost(&case.input_types(), &outputs.iter().collect::<Vec<_>>());
            group.throughput(match cost.flops {
                0.0 => Throughput::Bytes(cost.bytes as u64),
                flops => Throughput::Elements(flops as u64),
            });
            // Operands are drawn only for the functions that the filter selects.
            group.bench_function(case.name, |b| {
                let mut work = OpWork::new(&case, &device).expect("a bench case can be prepared");
                b.iter(|| work.run().expect("a bench case runs"));
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = ops
}
criterion_main!(benches);
