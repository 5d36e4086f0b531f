//! Training: what a step promises, on small networks.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use dreamclear::device::Device;
use dreamclear::graph::GraphBuilder;
use dreamclear::models::Shapes;
use dreamclear::models::swinir::{SwinIr, Upsampler};
use dreamclear::tensor::{DType, HostTensor};
use dreamclear::train::objective::{Distance, Reduction};
use dreamclear::train::objectives::perceptual::Perceptual;
use dreamclear::train::objectives::swinir::SwinIrObjective;
use dreamclear::train::{Objective, Recorded, StepOptions, TrainStep};
use dreamclear::weights::{WeightSet, safetensors};
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
    SwinIrObjective::new(network, [16, 16], Distance::L1, Reduction::Mean)
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
    let state = WeightSet::from_tensors(two.state().unwrap());
    let mut resumed = step(2, options());
    run(&mut resumed, 5..6);
    resumed.restore_state(&state).unwrap();
    run(&mut resumed, 2..3);
    assert_eq!(bytes(&one.state().unwrap()), bytes(&resumed.state().unwrap()));
    assert_eq!(bytes(&one.parameters().unwrap()), bytes(&resumed.parameters().unwrap()));
    let (now, average) = (one.parameters().unwrap(), one.ema().unwrap().unwrap());
    assert!(worst(&average, &now) > 0.0 && worst(&average, &now) < 0.1, "the average lags behind");

    let missing = state.renamed(|n| (n != "first.conv_last.bias").then(|| n.to_owned())).unwrap();
    let e = resumed.restore_state(&missing).unwrap_err().to_string();
    assert!(e.contains("expected a tensor \"first.conv_last.bias\""), "{e}");
}

/// [`pictures`] of two, with what the six residual branches are multiplied by.
fn dropping(factors: [[f32; 6]; 2]) -> Vec<(&'static str, HostTensor)> {
    let mut batch = pictures(2, 0);
    batch.push(("drop_path", HostTensor::from_f32([2, 6], factors.concat())));
    batch
}

/// Loss and gradients of two pictures.
fn gradients_of(
    objective: &dyn Objective,
    weights: &WeightSet,
    batch: &[(&'static str, HostTensor)],
) -> (f64, Vec<(String, HostTensor)>) {
    let options = StepOptions { batch: 2, ..StepOptions::default() };
    let mut step = TrainStep::new(objective, &Device::cpu(2).unwrap(), weights, options).unwrap();
    let loss = step.accumulate(batch).unwrap().loss;
    (loss, step.gradients().unwrap())
}

#[test]
fn branches_that_are_all_kept_are_the_network_without_drop_path() {
    let plain = swinir();
    let deep = SwinIrObjective { drop_path: true, ..swinir() };
    let weights = weights(&plain);
    let (loss, gradients) = gradients_of(&plain, &weights, &pictures(2, 0));
    let (kept_loss, kept) = gradients_of(&deep, &weights, &dropping([[1.0; 6]; 2]));
    assert!((kept_loss / loss - 1.0).abs() < 1e-6, "{kept_loss} and {loss}");
    let error = worst(&kept, &gradients);
    assert!(error <= 1e-5, "{error:.1e}");
}

#[test]
fn a_branch_that_is_left_out_counts_for_nothing() {
    let objective = SwinIrObjective { drop_path: true, ..swinir() };
    let weights = weights(&objective);
    // The MLP of the second block, fourth of the branches; the other sample keeps it or not.
    let of_branch = |key: &str| key.contains("layers.0.residual_group.blocks.1.mlp.");
    let other = weights.clone().mapped(|key, t| match of_branch(key) {
        true => recipe_tensor("other", t.shape(), 0.3, 1, -22),
        false => t.clone(),
    });
    let neither = dropping([[1.0, 1.25, 0.0, 0.0, 1.25, 1.0], [1.0, 1.0, 1.25, 0.0, 0.0, 1.25]]);
    let (loss, gradients) = gradients_of(&objective, &weights, &neither);
    let (other_loss, others) = gradients_of(&objective, &other, &neither);
    assert_eq!(loss, other_loss);
    let (mut zeros, mut same) = (0, 0);
    for ((key, a), (_, b)) in gradients.iter().zip(&others) {
        if of_branch(key) {
            assert!(a.to_f32().iter().all(|&x| x == 0.0), "{key}");
            zeros += 1;
        } else {
            assert!(a.bytes() == b.bytes(), "{key}");
            same += 1;
        }
    }
    assert_eq!((zeros, zeros + same), (4, gradients.len()));

    let one = dropping([[1.0, 1.25, 0.0, 1.25, 1.25, 1.0], [1.0, 1.0, 1.25, 0.0, 0.0, 1.25]]);
    let (with, gradients) = gradients_of(&objective, &weights, &one);
    assert_ne!(with, loss);
    assert!(
        gradients.iter().filter(|(key, _)| of_branch(key)).all(|(_, t)| t.to_f32().iter().any(|&x| x != 0.0))
    );
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
    let error = worst(&small.gradients().unwrap(), &large.gradients().unwrap());
    assert!(error <= 1e-5, "{error:.1e}");
    let (a, b) = (small.update(1e-3).unwrap(), large.update(1e-3).unwrap());
    assert!((a.grad_norm / b.grad_norm - 1.0).abs() < 1e-6, "{} and {}", a.grad_norm, b.grad_norm);
}

/// What is held of the parameters stays as it is when the next update comes.
#[test]
fn parameters_that_are_held_do_not_change() {
    let mut step = step(1, StepOptions::default());
    let before = step.parameters().unwrap();
    let values: Vec<Vec<u8>> = before.iter().map(|(_, t)| t.bytes().to_vec()).collect();
    step.accumulate(&pictures(1, 0)).unwrap();
    step.update(1e-2).unwrap();
    assert!(before.iter().zip(&values).all(|((_, t), v)| t.bytes() == v));
    assert!(worst(&step.parameters().unwrap(), &before) > 1e-4, "but the network has changed");
}

/// A batch that is not finite changes nothing, and `check` names the tensor.
#[test]
fn a_batch_of_nan_is_skipped_and_named() {
    let mut step = step(2, StepOptions { ema: Some(0.5), ..StepOptions::default() });
    let before = step.state().unwrap();
    let mut batch = pictures(1, 0);
    let mut spoilt = batch[0].1.to_f32().into_owned();
    spoilt[100] = f32::NAN;
    batch[0].1 = HostTensor::from_f32([1, 3, 16, 16], spoilt);
    assert!(step.accumulate(&batch).unwrap().loss.is_nan());
    let update = step.update(1e-3).unwrap();
    assert!(update.skipped && update.grad_norm.is_nan());
    assert_eq!(bytes(&before), bytes(&step.state().unwrap()));
    let e = step.check(&batch).unwrap_err().to_string();
    assert!(e.contains("is NaN at element"), "{e}");
    // The next batch counts as if that one had not been.
    let mut fresh = self::step(2, StepOptions { ema: Some(0.5), ..StepOptions::default() });
    for s in [&mut step, &mut fresh] {
        s.accumulate(&pictures(1, 1)).unwrap();
        s.update(1e-3).unwrap();
    }
    assert_eq!(bytes(&fresh.state().unwrap()), bytes(&step.state().unwrap()));
}

/// `train-step` on a golden case; returns the worst relative L2 distances of gradients and steps.
fn train_step(name: &str, device: &[&str]) -> [f64; 2] {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/train_{name}.safetensors"));
    let (tensors, metadata) = support::golden(&path);
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let write = |prefix: &str| {
        let strip = |(k, t): (&String, &HostTensor)| Some((k.strip_prefix(prefix)?.to_owned(), t.clone()));
        let part: Vec<_> = tensors.iter().filter_map(strip).collect();
        let path = at(&format!("{prefix}safetensors"));
        safetensors::write(&path, part.iter().map(|(n, t)| (n.as_str(), t)), &Default::default(), None)
            .unwrap();
        path
    };
    let (weights, input) = (write("weight."), write("input."));
    std::fs::write(at("c.json"), &metadata["config"]).unwrap();
    let (grads, step) = (at("grads.safetensors"), at("step.safetensors"));
    let out = Command::new(env!("CARGO_BIN_EXE_dreamclear"))
        .args(["train-step", "--threads", "2", "--model", &metadata["network"], "--config"])
        .args([at("c.json"), "--weights".into(), weights, "--input".into(), input])
        .args(["--output".into(), grads.clone(), "--step-output".into(), step.clone()])
        .args(device)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let (grads, step) = (WeightSet::open(&grads).unwrap(), WeightSet::open(&step).unwrap());
    let mut worst = [0.0f64; 2];
    let mut found = [0, 0];
    for (key, want) in tensors.iter().filter(|(k, _)| !k.starts_with("weight.") && !k.starts_with("input.")) {
        let (set, which) = if key.starts_with("step.") { (&step, 1) } else { (&grads, 0) };
        let got = set.get(key).unwrap_or_else(|| panic!("{name}: there is no {key}"));
        found[which] += 1;
        // Of long tensors the file holds evenly spaced elements.
        let stride = (got.len().div_ceil(1024)) | 1;
        let got: Vec<f32> = got.to_f32().iter().copied().step_by(stride).collect();
        let got = HostTensor::from_f32(want.shape(), got);
        let gradient = key.replacen("step.", "grad.", 1);
        if (key.starts_with("grad.") || which == 1) && norm(&tensors[&gradient]) <= NO_GRADIENT {
            assert!(which == 1 || norm(&got) <= 10.0 * NO_GRADIENT, "{name}: {key} is zero but for rounding");
            continue;
        }
        let error = support::relative(&got, want);
        if !(error <= worst[which]) {
            worst[which] = error;
        }
        assert!(error <= 1e-4, "{name}: {key} is off by {error:.1e}");
    }
    let trained: usize = metadata["trained"].parse().unwrap();
    assert!(
        step.len() <= trained && found[1] == step.len(),
        "every trained parameter is compared: {found:?}"
    );
    assert_eq!(grads.names().filter(|n| n.starts_with("grad.")).count(), step.len());
    println!(
        "{name:16} {} tensors: gradients {:.1e}, step {:.1e} (PyTorch's f32 against f64: {})",
        step.len(),
        worst[0],
        worst[1],
        metadata["f32_noise"]
    );
    worst
}

/// A perceptual loss whose picture, `y`, is what is learned.
#[derive(Debug)]
struct Painting {
    perceptual: Perceptual,
    shape: [usize; 4],
}

impl Objective for Painting {
    fn parameters(&self) -> dreamclear::Result<Shapes> {
        let mut shapes = self.perceptual.parameters();
        shapes.insert("y".into(), self.shape.to_vec());
        Ok(shapes)
    }

    fn trainable(&self, key: &str) -> bool {
        !Perceptual::owns(key)
    }

    fn record(&self, b: &mut GraphBuilder, _batch: usize) -> dreamclear::Result<Recorded> {
        let (y, target) = (b.param("y", self.shape)?, b.input("target", DType::F32, self.shape)?);
        let (y, target) = (b.permute(y, [0, 2, 3, 1])?, b.permute(target, [0, 2, 3, 1])?);
        Ok(Recorded { loss: self.perceptual.record(b, y, target)?, terms: vec![] })
    }
}

#[test]
fn a_perceptual_loss_and_its_gradient_are_basicsrs() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/perceptual.safetensors");
    let (tensors, metadata) = support::golden(&path);
    let config: serde_json::Value = serde_json::from_str(&metadata["config"]).unwrap();
    let layers: BTreeMap<String, f64> = serde_json::from_value(config["layers"].clone()).unwrap();
    let vgg =
        tensors.iter().filter_map(|(key, t)| Some((key.strip_prefix("weight.")?.to_owned(), t.clone())));
    let vgg = WeightSet::from_tensors(vgg);
    let weight = config["weight"].as_f64().unwrap();
    let (perceptual, weights) = Perceptual::new(vgg.clone(), layers.clone(), weight).unwrap();
    let y = tensors["input.y"].clone();
    let objective = Painting { perceptual, shape: y.shape().try_into().unwrap() };
    let numbers = y.len();
    let painted = |y: HostTensor| weights.clone().with(WeightSet::from_tensors([("y".to_owned(), y)]));
    let device = Device::cpu(2).unwrap();
    let mut step = TrainStep::new(&objective, &device, &painted(y), StepOptions::default()).unwrap();
    let loss = step.accumulate(&[("target", tensors["input.target"].clone())]).unwrap().loss;
    let expected = tensors["out"].to_f64()[0];
    let gradients = step.gradients().unwrap();
    let keys: Vec<_> = gradients.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["grad.y"], "the VGG has no gradients");
    assert!(step.memory().optimizer <= 3 * 4 * (numbers + 64), "nor memory for them: {:?}", step.memory());
    let error = support::relative(&gradients[0].1, &tensors["grad.y"]);
    println!(
        "perceptual: loss {loss} for {expected}, gradient off by {error:.1e} (PyTorch's f32 against f64: {})",
        metadata["f32_noise"]
    );
    assert!((loss / expected - 1.0).abs() <= 1e-6, "{loss} for {expected}");
    assert!(error <= 1e-4, "{error:.1e}");

    let small = Painting { perceptual: objective.perceptual, shape: [2, 3, 40, 15] };
    let e = TrainStep::new(
        &small,
        &device,
        &painted(HostTensor::zeros(DType::F32, small.shape)),
        StepOptions::default(),
    )
    .err()
    .unwrap()
    .to_string();
    assert!(e.contains("at least 16×16 pixels, found 15×40"), "{e}");

    let fails = |vgg: WeightSet, layers: &[(&str, f64)], weight| {
        let layers = layers.iter().map(|(layer, w)| (layer.to_string(), *w)).collect();
        Perceptual::new(vgg, layers, weight).unwrap_err().to_string()
    };
    let e = fails(vgg.clone(), &[("conv5_4", 1.0), ("conv2_3", 1.0)], 1.0);
    assert!(e.contains("there is no layer \"conv2_3\"") && e.contains("conv1_1 to conv5_4"), "{e}");
    let e = fails(vgg.clone(), &[("conv5_4", 0.0)], 1.0);
    assert!(e.contains("loss.perceptual.layers.conv5_4: expected a positive number, found 0"), "{e}");
    let e = fails(vgg.clone(), &[], 1.0);
    assert!(e.contains("at least one layer"), "{e}");
    let e = fails(vgg, &[("conv5_4", 1.0)], -1.0);
    assert!(e.contains("loss.perceptual.weight: expected a positive number, found -1"), "{e}");
}

/// Below this norm a gradient is zero but for rounding (a key's bias in an attention).
const NO_GRADIENT: f64 = 1e-6;

fn norm(t: &HostTensor) -> f64 {
    t.to_f64().iter().map(|x| x * x).sum::<f64>().sqrt()
}

#[test]
fn steps_of_swinir_are_pytorchs() {
    train_step("swinir", &[]);
    train_step("swinir_mse", &[]);
    train_step("swinir_drop_path", &[]);
}

#[test]
fn a_step_of_the_autoencoder_is_pytorchs() {
    train_step("vae", &[]);
}

#[test]
fn steps_of_dreamclear_are_the_official_ones() {
    train_step("dreamclear", &[]);
    train_step("dreamclear_some", &[]);
}

/// Activations that are computed again save memory and change no bit.
#[test]
fn a_budget_is_kept_and_gradients_stay_the_same() {
    let mut objective = swinir();
    objective.network.depths = vec![4, 4];
    objective.network.upsampler = Upsampler::PixelShuffleDirect;
    objective.size = [96, 96];
    let step = |memory_budget| {
        let options = StepOptions { memory_budget, ..StepOptions::default() };
        TrainStep::new(&objective, &Device::cpu(2).unwrap(), &weights(&objective), options)
    };
    let mut whole = step(None).unwrap();
    let all = whole.memory();
    assert!(all.activations > 5 << 20, "{all:?}");
    // What does not fit at all is refused, with a number that does.
    let e = step(Some(1 << 20)).err().unwrap().to_string();
    let least: usize = e.split("give it ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(3 * (least << 20) < 2 * all.total(), "{e}");
    let image = |name: &str| recipe_tensor(name, &[1, 3, 96, 96], 0.5, 1, -22);
    let batch = [("x", image("x")), ("target", image("target"))];
    let loss = whole.accumulate(&batch).unwrap();
    let mut steps = 0;
    for budget in [least << 20, (all.total() + (least << 20)) / 2, all.total()] {
        let mut step = step(Some(budget)).unwrap();
        assert!(step.memory().total() <= budget, "{:?} in {budget}", step.memory());
        assert!(step.memory().activations <= all.activations);
        assert_eq!(step.accumulate(&batch).unwrap(), loss);
        assert_eq!(bytes(&step.gradients().unwrap()), bytes(&whole.gradients().unwrap()));
        steps += usize::from(step.memory() == all);
    }
    assert_eq!(steps, 1, "only the largest budget computes nothing again");
}
