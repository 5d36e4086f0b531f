//! Whole networks on the simulated CUDA device against the CPU: forward, and every gradient of a training
//! step. Networks and tolerances are those of `dreamclear verify`.
#![cfg(not(windows))]

use dreamclear::cancel::Cancel;
use dreamclear::device::Device;
use dreamclear::device::kernel::DeviceFacts;
use dreamclear::device::sim::Simulator;
use dreamclear::ops::check_cuda::SMALL_HOPPER;
use dreamclear::tensor::DType;
use dreamclear::verify::{self, Filter, Options, Place, Slice, What};

/// Runs the networks with this in their names; each must pass. The kernels that ran.
fn pass(name: &str, compute: Option<DType>, at_least: usize) -> Vec<String> {
    pass_on(DeviceFacts::A100, name, compute, at_least)
}

fn pass_on(card: DeviceFacts, name: &str, compute: Option<DType>, at_least: usize) -> Vec<String> {
    if let Err(why) = Simulator::new() {
        eprintln!("skipped: {why}");
        return vec![];
    }
    let report = verify::run(&Options {
        what: What::Networks,
        slice: Slice::ALL,
        only: vec![Filter::parse(name).unwrap()],
        device: Device::sim_of(2, DType::F32, card).unwrap(),
        place: Place::Simulator,
        compute,
        small: false,
        seconds: 0.1,
        torch: None,
        cancel: Cancel::new(),
    })
    .unwrap();
    for row in &report.rows {
        println!("{:40} {:?}", row.name, row.found);
    }
    assert!(report.rows.len() >= at_least, "{} networks", report.rows.len());
    assert!(report.rows.iter().all(|r| r.failure.is_some() || !r.kernels.is_empty()), "kernels ran");
    let failures: Vec<_> = report.failures().collect();
    assert!(failures.is_empty(), "{failures:#?}");
    report.rows.iter().flat_map(|r| r.kernels.clone()).collect()
}

#[test]
fn networks_equal_the_cpu_in_f32() {
    pass(" f32", Some(DType::F32), 9);
}

#[test]
fn networks_are_near_the_cpu_in_bf16() {
    pass(" bf16", Some(DType::BF16), 9);
}

/// With the kernels of Hopper's own instructions, wherever they can run.
#[test]
fn networks_are_near_the_cpu_on_hopper() {
    let kernels = pass_on(SMALL_HOPPER, " bf16", Some(DType::BF16), 9);
    assert!(kernels.is_empty() || kernels.iter().any(|k| k.starts_with("gemm_") && k.ends_with("_sm90")));
}

#[test]
fn networks_are_near_the_cpu_in_f16() {
    pass(" f16", Some(DType::F16), 9);
}

#[test]
fn gradients_of_a_training_step_equal_the_cpu() {
    pass("training step", None, 3);
}
