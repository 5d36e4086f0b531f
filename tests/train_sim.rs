//! Training on the simulated CUDA device: parameters, gradients and moments in its memory, updated by its kernels.

use dreamclear::device::Device;
use dreamclear::models::Shapes;
use dreamclear::models::controlformer::DreamClear;
use dreamclear::models::swinir::SwinIr;
use dreamclear::tensor::{DType, HostTensor};
use dreamclear::train::objective::{Distance, Reduction};
use dreamclear::train::objectives::dreamclear::{CrossDeScope, DreamClearObjective};
use dreamclear::train::objectives::swinir::SwinIrObjective;
use dreamclear::train::step::{Group, Tensors};
use dreamclear::train::{Objective, StepOptions, TrainStep};
use dreamclear::weights::WeightSet;
use serde_json::json;

mod support;

use support::recipe_tensor;

fn swinir() -> SwinIrObjective {
    let config = json!({
        "embed_dim": 12, "depths": [2], "num_heads": [2], "window_size": 4, "mlp_ratio": 2, "upscale": 2,
        "unshuffle": true, "upsampler": "pixelshuffledirect", "img_size": 16,
    });
    let (network, _) = SwinIr::from_config(&config, &Shapes::new()).unwrap();
    let plain = SwinIrObjective::new(network, [16, 16], Distance::Mse, Reduction::Mean);
    SwinIrObjective { drop_path: true, ..plain }
}

fn dreamclear() -> DreamClearObjective {
    let config = json!({
        "input_size": 8, "hidden_size": 24, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0, "caption_channels": 12,
        "model_max_length": 4, "copy_blocks_num": 1,
    });
    let (network, _) = DreamClear::from_config(Some(&config), &Shapes::new()).unwrap();
    DreamClearObjective {
        network,
        size: [4, 8],
        tokens: 4,
        class_dropout: true,
        scope: CrossDeScope::Sample,
        train_base: false,
    }
}

/// Weights that neither fade nor explode.
fn weights(objective: &dyn Objective) -> WeightSet {
    let tensor = |(key, shape): (String, Vec<usize>)| {
        let fan_in: usize = shape[1..].iter().product();
        let e = if shape.len() > 1 { -22 - fan_in.ilog2() as i32 / 2 } else { -24 };
        let centre = if shape.len() == 1 && key.ends_with("weight") { 1.0 } else { 0.0 };
        let tensor = recipe_tensor(&key, &shape, centre, 3, e);
        (key, tensor)
    };
    WeightSet::from_tensors(objective.parameters().unwrap().into_iter().map(tensor))
}

type Batch = Vec<(&'static str, HostTensor)>;

fn pictures(number: usize) -> Batch {
    let image = |name: &str| recipe_tensor(&format!("{name}{number}"), &[1, 3, 16, 16], 0.5, 1, -22);
    let mut factors = vec![1.25; 4];
    factors[number % 4] = 0.0;
    vec![("x", image("x")), ("target", image("target")), ("drop_path", HostTensor::from_f32([1, 4], factors))]
}

fn latents(number: usize) -> Batch {
    let normal = |name: &str, shape: &[usize]| recipe_tensor(&format!("{name}{number}"), shape, 0.0, 3, -22);
    let latent = [2, 4, 4, 8];
    vec![
        ("x_start", normal("x_start", &latent)),
        ("noise", normal("noise", &latent)),
        ("c_lq", normal("c_lq", &latent)),
        ("c_pre", normal("c_pre", &latent)),
        ("timestep", HostTensor::from_i64([2], vec![300, 40])),
        ("y", normal("y", &[2, 4, 12])),
        ("lengths", HostTensor::from_i64([2], vec![4, 2])),
        ("drop", HostTensor::from_f32([2], vec![0.0, 1.0])),
        ("img_hw", HostTensor::from_f32([2, 2], vec![64.0; 4])),
        ("aspect_ratio", HostTensor::from_f32([2, 1], vec![1.0; 2])),
    ]
}

/// What two updates of two batches each leave, their losses, and the gradients of the first.
fn trained(
    objective: &dyn Objective,
    device: &Device,
    batch: impl Fn(usize) -> Batch,
    options: &StepOptions,
) -> (Tensors, Vec<f64>, Tensors) {
    let mut step = TrainStep::new(objective, device, &weights(objective), options.clone()).unwrap();
    let (mut losses, mut gradients) = (Vec::new(), Tensors::new());
    for update in 0..2 {
        for half in 0..2 {
            losses.push(step.accumulate(&batch(2 * update + half)).unwrap().loss);
        }
        if update == 0 {
            gradients = step.gradients().unwrap();
        }
        assert!(!step.update(1e-3).unwrap().skipped);
    }
    (step.state().unwrap(), losses, gradients)
}

/// The largest relative L2 distance of tensors that are not zero but for rounding.
fn worst(got: &Tensors, want: &Tensors) -> (f64, String) {
    assert_eq!(got.len(), want.len());
    let mut worst = (0.0, String::new());
    for ((name, got), (other, want)) in got.iter().zip(want) {
        assert_eq!(name, other);
        let norm = want.to_f64().iter().map(|x| x * x).sum::<f64>().sqrt();
        let error = support::relative(got, want);
        if norm > 1e-6 && !(error <= worst.0) {
            worst = (error, name.clone());
        }
    }
    worst
}

fn options() -> StepOptions {
    let group = Group { prefix: "conv_last".into(), rate_factor: 0.1, decay: 0.0 };
    // With a small eps rounding becomes steps where gradients are nearly zero.
    let optimizer = dreamclear::train::adamw::AdamW { eps: 1e-4, ..Default::default() };
    StepOptions { clip: Some(0.5), ema: Some(0.9), groups: vec![group], optimizer, ..StepOptions::default() }
}

#[test]
fn a_step_in_f32_is_the_cpus() {
    let (cpu, sim) = (Device::cpu(2).unwrap(), Device::sim(2, DType::F32).unwrap());
    let (swinir, dreamclear) = (swinir(), dreamclear());
    type Case<'a> = (&'a dyn Objective, &'a dyn Fn(usize) -> Batch, usize);
    let cases: [Case; 2] = [(&swinir, &pictures, 1), (&dreamclear, &latents, 2)];
    for (objective, batch, size) in cases {
        let options = StepOptions { batch: size, ..options() };
        let (state, losses, gradients) = trained(objective, &sim, batch, &options);
        let (want, want_losses, want_gradients) = trained(objective, &cpu, batch, &options);
        for (got, want) in losses.iter().zip(&want_losses) {
            assert!((got / want - 1.0).abs() <= 1e-5, "{losses:?} for {want_losses:?}");
        }
        let (error, name) = worst(&gradients, &want_gradients);
        assert!(error <= 1e-4, "{name} is off by {error:.1e}");
        let (error, name) = worst(&state, &want);
        assert!(error <= 1e-3, "{name} is off by {error:.1e} after two updates");
    }
}

/// Masters stay f32 and go on from a state to the bit; what kernels read is refreshed by each update.
#[test]
fn half_precision_trains_over_f32_masters() {
    for compute in [DType::BF16, DType::F16] {
        let device = Device::sim(2, compute).unwrap();
        let objective = dreamclear();
        let options = StepOptions { batch: 2, ..options() };
        let (state, losses, _) = trained(&objective, &device, latents, &options);
        let (want, want_losses, _) = trained(&objective, &Device::cpu(2).unwrap(), latents, &options);
        for (got, want) in losses.iter().zip(&want_losses) {
            assert!((got / want - 1.0).abs() <= 0.02, "{compute}: {losses:?} for {want_losses:?}");
        }
        let params = |state: &Tensors| -> Tensors {
            state.iter().filter(|(name, _)| name.starts_with("param.")).cloned().collect()
        };
        let (error, name) = worst(&params(&state), &params(&want));
        assert!(error <= 0.02, "{compute}: {name} is off by {error:.1e}");

        let mut steps: Vec<TrainStep> = (0..2)
            .map(|_| {
                let mut step =
                    TrainStep::new(&objective, &device, &weights(&objective), options.clone()).unwrap();
                step.restore_state(&WeightSet::from_tensors(state.clone())).unwrap();
                step
            })
            .collect();
        for step in &mut steps {
            step.accumulate(&latents(7)).unwrap();
            step.update(1e-3).unwrap();
        }
        let [one, other] = [steps[0].state().unwrap(), steps[1].state().unwrap()];
        assert!(one.iter().zip(&other).all(|(a, b)| a.1.bytes() == b.1.bytes()), "the same bytes");
        assert_eq!(steps[0].steps(), 3);
        assert_eq!(compute == DType::F16, one.iter().any(|(name, _)| name == "loss_scale"));
    }
}

/// An update whose gradients overflow changes nothing, and in f16 the next one is computed with half the scale.
#[test]
fn an_overflow_is_skipped() {
    let device = Device::sim(2, DType::F16).unwrap();
    let objective = dreamclear();
    let mut step =
        TrainStep::new(&objective, &device, &weights(&objective), StepOptions { batch: 2, ..options() })
            .unwrap();
    let before = step.state().unwrap();
    let mut batch = latents(0);
    let spoilt = batch[1].1.to_f32().iter().map(|x| x * 1e20).collect();
    batch[1].1 = HostTensor::from_f32([2, 4, 4, 8], spoilt);
    step.accumulate(&batch).unwrap();
    assert!(step.update(1e-3).unwrap().skipped);
    let after = step.state().unwrap();
    for ((name, a), (_, b)) in before.iter().zip(&after) {
        match name.as_str() {
            "loss_scale" => assert_eq!(b.to_f32()[0], a.to_f32()[0] / 2.0),
            _ => assert_eq!(a.bytes(), b.bytes(), "{name}"),
        }
    }
    step.accumulate(&latents(1)).unwrap();
    assert!(!step.update(1e-3).unwrap().skipped);
}
