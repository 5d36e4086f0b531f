//! Training: what a step promises, on small networks.

use dreamclear::device::Device;
use dreamclear::models::Shapes;
use dreamclear::models::swinir::SwinIr;
use dreamclear::tensor::HostTensor;
use dreamclear::train::objective::{Distance, Reduction};
use dreamclear::train::objectives::swinir::SwinIrObjective;
use dreamclear::train::{Objective, StepOptions, TrainStep};
use dreamclear::weights::WeightSet;
use serde_json::json;

mod support;

use support::recipe_tensor;

/// A SwinIR of two residual groups on 16 × 16 pictures.
fn swinir() -> SwinIrObjective {
    let config = json!({
        "embed_dim": 12, "depths": [2, 1], "num_heads": [2, 3], "window_size": 4, "mlp_ratio": 2,
        "upscale": 2, "unshuffle": true, "upsampler": "nearest+conv", "img_size": 16,
    });
    let (network, _) = SwinIr::from_config(&config, &Shapes::new()).unwrap();
    SwinIrObjective { network, size: [16, 16], distance: Distance::L1, reduction: Reduction::Mean }
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

/// Pictures and their targets, by number.
fn pictures(batch: usize, number: usize) -> Vec<(&'static str, HostTensor)> {
    let image = |name: &str| recipe_tensor(&format!("{name}{number}"), &[batch, 3, 16, 16], 0.5, 1, -22);
    vec![("x", image("x")), ("target", image("target"))]
}

fn step(threads: usize, options: StepOptions) -> TrainStep {
    let objective = swinir();
    let device = Device::cpu(threads).unwrap();
    TrainStep::new(&objective, &device, &weights(&objective), options).unwrap()
}

fn bytes(tensors: &[(String, HostTensor)]) -> Vec<(&str, &[u8])> {
    tensors.iter().map(|(name, t)| (name.as_str(), t.bytes())).collect()
}

/// The largest relative L2 distance of all tensors.
fn worst(got: &[(String, HostTensor)], want: &[(String, HostTensor)]) -> f64 {
    assert_eq!(got.len(), want.len());
    let distance = |((a, got), (b, want)): (&(String, HostTensor), &(String, HostTensor))| {
        assert_eq!(a, b);
        support::relative(got, want)
    };
    got.iter().zip(want).map(distance).fold(0.0, f64::max)
}

#[test]
fn a_network_learns_one_picture() {
    let mut step = step(2, StepOptions { batch: 1, clip: Some(1.0), ..StepOptions::default() });
    let batch = pictures(1, 0);
    let losses: Vec<f64> = (0..30)
        .map(|_| {
            let terms = step.accumulate(&batch).unwrap();
            assert_eq!(terms.terms, [("l1".to_owned(), terms.loss)]);
            let update = step.update(2e-3).unwrap();
            assert!(update.grad_norm > 0.0 && !update.skipped);
            terms.loss
        })
        .collect();
    assert!(losses[29] < 0.8 * losses[0], "{losses:?}");
    assert_eq!(step.steps(), 30);
}

/// Bytes do not depend on threads, and a step that takes over a state goes on as the one that gave it.
#[test]
fn threads_and_interruptions_change_nothing() {
    let options = || StepOptions { batch: 2, ema: Some(0.9), clip: Some(0.5), ..StepOptions::default() };
    let run = |step: &mut TrainStep, numbers: std::ops::Range<usize>| {
        for n in numbers {
            step.accumulate(&pictures(2, n)).unwrap();
            step.update(1e-3).unwrap();
        }
    };
    let (mut one, mut two) = (step(1, options()), step(2, options()));
    run(&mut one, 0..3);
    run(&mut two, 0..2);
    let state = WeightSet::from_tensors(two.state());
    let mut resumed = step(2, options());
    run(&mut resumed, 5..6);
    resumed.restore_state(&state).unwrap();
    run(&mut resumed, 2..3);
    assert_eq!(bytes(&one.state()), bytes(&resumed.state()));
    assert_eq!(bytes(&one.parameters()), bytes(&resumed.parameters()));
    let (now, average) = (one.parameters(), one.ema().unwrap());
    assert!(worst(&average, &now) > 0.0 && worst(&average, &now) < 0.1, "the average lags behind");

    let missing = state.renamed(|n| (n != "first.conv_last.bias").then(|| n.to_owned())).unwrap();
    let e = resumed.restore_state(&missing).unwrap_err().to_string();
    assert!(e.contains("expected a tensor \"first.conv_last.bias\""), "{e}");
}

/// Two batches of one picture each give the mean gradient of one batch of both.
#[test]
fn accumulated_batches_are_one_large_batch() {
    let mut large = step(2, StepOptions { batch: 2, ..StepOptions::default() });
    let mut small = step(2, StepOptions { batch: 1, ..StepOptions::default() });
    let both = pictures(2, 7);
    large.accumulate(&both).unwrap();
    for half in 0..2 {
        let part = |(name, t): &(&'static str, HostTensor)| {
            let n = t.len() / 2;
            (*name, HostTensor::from_f32([1, 3, 16, 16], t.to_f32()[half * n..][..n].to_vec()))
        };
        small.accumulate(&both.iter().map(part).collect::<Vec<_>>()).unwrap();
    }
    let error = worst(&small.gradients(), &large.gradients());
    assert!(error <= 1e-5, "{error:.1e}");
    let (a, b) = (small.update(1e-3).unwrap(), large.update(1e-3).unwrap());
    assert!((a.grad_norm / b.grad_norm - 1.0).abs() < 1e-6, "{} and {}", a.grad_norm, b.grad_norm);
}

/// What is held of the parameters stays as it is when the next update comes.
#[test]
fn parameters_that_are_held_do_not_change() {
    let mut step = step(1, StepOptions::default());
    let before = step.parameters();
    let values: Vec<Vec<u8>> = before.iter().map(|(_, t)| t.bytes().to_vec()).collect();
    step.accumulate(&pictures(1, 0)).unwrap();
    step.update(1e-2).unwrap();
    assert!(before.iter().zip(&values).all(|((_, t), v)| t.bytes() == v));
    assert!(worst(&step.parameters(), &before) > 1e-4, "but the network has changed");
}

/// A batch that is not finite changes nothing, and `check` names the tensor.
#[test]
fn a_batch_of_nan_is_skipped_and_named() {
    let mut step = step(2, StepOptions { ema: Some(0.5), ..StepOptions::default() });
    let before = step.state();
    let mut batch = pictures(1, 0);
    let mut spoilt = batch[0].1.to_f32().into_owned();
    spoilt[100] = f32::NAN;
    batch[0].1 = HostTensor::from_f32([1, 3, 16, 16], spoilt);
    assert!(step.accumulate(&batch).unwrap().loss.is_nan());
    let update = step.update(1e-3).unwrap();
    assert!(update.skipped && update.grad_norm.is_nan());
    assert_eq!(bytes(&before), bytes(&step.state()));
    let e = step.check(&batch).unwrap_err().to_string();
    assert!(e.contains("is NaN at element"), "{e}");
    // The next batch counts as if that one had not been.
    let mut fresh = self::step(2, StepOptions { ema: Some(0.5), ..StepOptions::default() });
    for s in [&mut step, &mut fresh] {
        s.accumulate(&pictures(1, 1)).unwrap();
        s.update(1e-3).unwrap();
    }
    assert_eq!(bytes(&fresh.state()), bytes(&step.state()));
}
