//! Samplers against the official loops, on trajectories that `tools/golden/samplers.py` wrote.

use std::collections::BTreeMap;
use std::path::Path;

use dreamclear::diffusion::{Ddim, DpmSolver, Iddpm, SaSolver, Sampler};
use dreamclear::weights::WeightSet;

/// Relative L2 distance of every state from the official loop run in f64.
const TOLERANCE: f64 = 1e-6;

#[derive(serde::Deserialize)]
struct Case {
    sampler: String,
    steps: usize,
    eta: Option<f64>,
    f32_noise: String,
}

fn build(case: &Case) -> Box<dyn Sampler> {
    let eta = || case.eta.expect("eta");
    match case.sampler.as_str() {
        "iddpm" | "iddpm_fixed" => Box::new(Iddpm::new(case.steps).unwrap()),
        "ddim" => Box::new(Ddim::new(case.steps, eta()).unwrap()),
        "dpm++" => Box::new(DpmSolver::ode(case.steps).unwrap()),
        "dpm++sde" => Box::new(DpmSolver::sde(case.steps).unwrap()),
        "sa" => Box::new(SaSolver::new(case.steps, eta()).unwrap()),
        other => panic!("{other}"),
    }
}

/// The network of the golden script: noise and variance, affine in x.
fn network(x: &[f32], timestep: f64) -> (Vec<f32>, Vec<f32>) {
    let s = timestep / 1000.0;
    x.iter()
        .map(|&x| {
            let x = f64::from(x);
            (((0.2 + 0.75 * s) * x + (0.1 - 0.3 * s * s)) as f32, (0.5 - s + 0.1 * x) as f32)
        })
        .unzip()
}

fn relative_l2(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |x: f64| x * x;
    let error: f64 = got.iter().zip(want).map(|(&g, &w)| square(f64::from(g) - f64::from(w))).sum();
    (error / want.iter().map(|&w| square(f64::from(w))).sum::<f64>()).sqrt()
}

#[test]
fn trajectories_are_those_of_the_official_loops() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/samplers.safetensors");
    let golden = WeightSet::open(&path).unwrap();
    let cases: BTreeMap<String, Case> = serde_json::from_str(&golden.metadata()["cases"]).unwrap();
    assert_eq!(cases.len(), 40);
    let mut failures = Vec::new();
    for (name, case) in cases {
        let mut sampler = build(&case);
        let tensor = |part: &str| golden.get(&format!("{name}.{part}")).map(|t| t.to_f32().into_owned());
        let (mut x, states, noises) =
            (tensor("start").unwrap(), tensor("states").unwrap(), tensor("noises").unwrap_or_default());
        let n = x.len();
        let mut worst = 0.0f64;
        for (k, want) in states.chunks_exact(n).enumerate() {
            let (eps, variance) = network(&x, sampler.timestep(k));
            let variance = if case.sampler == "iddpm_fixed" { &[][..] } else { &variance };
            let noise = sampler.wants_noise(k).then(|| &noises[k * n..(k + 1) * n]);
            sampler.step(k, &mut x, &eps, variance, noise);
            let error = relative_l2(&x, want);
            worst = if error.is_nan() { error } else { worst.max(error) };
        }
        println!("{name:20} {worst:.1e} (official f32 loop: {})", case.f32_noise);
        if !(worst <= TOLERANCE) {
            failures.push(format!("{name}: {worst:.2e}"));
        }
    }
    assert!(failures.is_empty(), "further than {TOLERANCE:.0e}: {}", failures.join(", "));
}
