//! The classifier of quality: its network against torchvision on the golden files of `tools/golden/resnet.py`, its
//! gradients and running statistics, its loss, and that it learns to
//! tell blurred pictures from sharp ones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dreamclear::data::pixels::FloatImage;
use dreamclear::device::Device;
use dreamclear::device::cpu::CpuDevice;
use dreamclear::device::sim::Simulator;
use dreamclear::graph::{Executable, Graph, GraphBuilder, Plan, passes};
use dreamclear::models::network::Given;
use dreamclear::models::resnet::{IMAGENET, ResNet};
use dreamclear::models::{Shapes, load};
use dreamclear::ops::{fuse, gradients};
use dreamclear::pipelines::quality::QualityClassifier;
use dreamclear::tensor::{DType, HostTensor};
use dreamclear::train::objectives::classifier::ClassifierObjective;
use dreamclear::train::{Objective, StepOptions, TrainStep};
use dreamclear::weights::WeightSet;

mod support;

type Tensors = BTreeMap<String, HostTensor>;

fn golden(name: &str) -> (Tensors, serde_json::Value) {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let (tensors, metadata) = support::golden(&path);
    (tensors, serde_json::from_str(&metadata["config"]).unwrap())
}

fn weights(golden: &Tensors) -> WeightSet {
    let of_network = golden.iter().filter_map(|(key, t)| Some((key.strip_prefix("weight.")?.to_owned(), t)));
    WeightSet::from_tensors(of_network.map(|(key, t)| (key, t.cast(DType::F32))))
}

/// `forward --model resnet50`: with its configuration, and as the shapes tell it.
#[test]
fn resnet_equals_torchvision() {
    for name in ["resnet_50.safetensors", "resnet_tiny.safetensors", "resnet_tiny_groups.safetensors"] {
        let (golden, config) = golden(name);
        // The whole network once: in a debug build its weights take a while to make.
        let whole = name == "resnet_50.safetensors";
        for config in [Some(&config), None].into_iter().skip(usize::from(whole)) {
            let (opened, ignored) = load::fit_config("resnet50", config, weights(&golden)).unwrap();
            assert!(ignored.is_empty());
            let given = Given::from_tensors([("x".to_owned(), golden["input.x"].clone())]);
            let device = Arc::new(CpuDevice::new(2).unwrap());
            let mut run = |graph, inputs: &[(&str, HostTensor)]| {
                let plan = Plan::new(graph, 2)?;
                Executable::new(plan, device.clone(), |key| opened.weights.get(key).cloned())?.run(inputs)
            };
            let out = opened.network.forward(&given, &mut run).unwrap();
            assert_eq!(out[0].0, "out");
            let error = support::relative(&out[0].1, &golden["out"]);
            println!("{name}: relative L2 {error:.1e}");
            assert!(error <= 1e-5, "{name}: {error:.1e}");
        }
    }
}

/// What torchvision's network sees for pictures in 0..1 that the golden run did not normalise.
fn unnormalised(x: &HostTensor) -> HostTensor {
    let plane = x.shape()[2] * x.shape()[3];
    let values = x.to_f64();
    let [mean, deviation] = IMAGENET;
    let undo = |(i, v): (usize, &f64)| {
        let c = i / plane % 3;
        (v * f64::from(deviation[c]) + f64::from(mean[c])) as f32
    };
    HostTensor::from_f32(x.shape(), values.iter().enumerate().map(undo).collect())
}

/// Loss, gradients of all parameters and running statistics of a batch.
#[test]
fn a_batch_gives_the_gradients_and_statistics_of_torchvision() {
    for name in ["resnet_tiny.safetensors", "resnet_tiny_groups.safetensors"] {
        let (golden, config) = golden(name);
        let (network, _) = ResNet::from_config(Some(&config), &Shapes::new()).unwrap();
        let x = &golden["input.x"];
        let [batch, _, h, w] = x.shape()[..] else { panic!("pictures") };
        let objective = ClassifierObjective::new(network, [h, w]).unwrap();
        let options = StepOptions { batch, ..StepOptions::default() };
        let device = Device::cpu(2).unwrap();
        let mut step = TrainStep::new(&objective, &device, &weights(&golden), options).unwrap();
        let inputs = [("x", unnormalised(x)), ("label", golden["label"].clone())];
        let terms = step.accumulate(&inputs).unwrap();
        let loss = golden["train.loss"].to_f64()[0];
        assert!((terms.loss / loss - 1.0).abs() <= 1e-5, "{name}: loss {} and {loss}", terms.loss);

        let gradients: Tensors = step.gradients().unwrap().into_iter().collect();
        let now: Tensors = step.parameters().unwrap().into_iter().collect();
        let mut worst = (0.0, "");
        let mut count = 0;
        for (key, want) in &golden {
            let got = match (key.strip_prefix("next."), key.starts_with("grad.")) {
                (Some(key), _) => &now[key],
                (_, true) => &gradients[key],
                _ => continue,
            };
            let error = support::relative(got, want);
            assert!(error <= 1e-4, "{name}: {key}: {error:.1e}");
            worst = if error > worst.0 { (error, key) } else { worst };
            count += 1;
        }
        assert_eq!(count, now.len(), "every parameter has a gradient or a new value");
        println!("{name}: largest relative L2 {:.1e}, of {}", worst.0, worst.1);

        // A state holds the statistics, too: a step that takes it over has them.
        step.update(1e-3).unwrap();
        let options = StepOptions { batch, ..StepOptions::default() };
        let mut other = TrainStep::new(&objective, &device, &weights(&golden), options).unwrap();
        other.restore_state(&WeightSet::from_tensors(step.state().unwrap())).unwrap();
        for s in [&mut step, &mut other] {
            s.accumulate(&inputs).unwrap();
        }
        let bytes = |s: &TrainStep| {
            s.parameters().unwrap().iter().map(|(_, t)| t.bytes().to_vec()).collect::<Vec<_>>()
        };
        assert!(bytes(&step) == bytes(&other));
    }
}

/// The forward, and loss, gradients and statistics of a batch, by the kernels in the simulator.
#[cfg(not(windows))]
#[test]
fn kernels_give_what_the_cpu_gives() {
    if let Err(why) = Simulator::new() {
        eprintln!("skipped: {why}");
        return;
    }
    for name in ["resnet_tiny.safetensors", "resnet_tiny_groups.safetensors"] {
        let (golden, config) = golden(name);
        let (network, _) = ResNet::from_config(Some(&config), &Shapes::new()).unwrap();
        let (x, set) = (&golden["input.x"], weights(&golden));
        let [batch, _, h, w] = x.shape()[..] else { panic!("pictures") };
        let run = |mut graph: Graph, inputs: &[(&str, HostTensor)], device: &Device| {
            passes::run(&mut graph, fuse::RULES, None).unwrap();
            fuse::for_target(&mut graph, device).unwrap();
            let plan = Plan::new(graph, device).unwrap();
            let mut exe = Executable::new(plan, device.clone(), |key| set.get(key).cloned()).unwrap();
            exe.run(inputs).unwrap()
        };
        // bf16 keeps three digits of what is kept between layers.
        for (compute, bar) in [(DType::F32, 1e-5), (DType::BF16, 2e-2), (DType::F16, 3e-3)] {
            let device = Device::sim(2, compute).unwrap();
            let out = run(network.graph(batch, h, w).unwrap(), &[("x", x.clone())], &device);
            let error = support::relative(&out[0].1, &golden["out"]);
            println!("{name} {compute}: relative L2 {error:.1e}");
            assert!(error <= bar, "{name} {compute}: {error:.1e}");
        }

        let objective = ClassifierObjective::new(network, [h, w]).unwrap();
        let mut b = GraphBuilder::new();
        let recorded = objective.record(&mut b, batch).unwrap();
        b.output("train.loss", recorded.loss);
        let trained: Vec<_> = b.graph().params().filter(|(key, _)| objective.trainable(key)).collect();
        let trained: Vec<_> = trained.into_iter().map(|(key, v)| (key.to_owned(), v)).collect();
        let one = b.scalar(1.0);
        let wanted: Vec<_> = trained.iter().map(|(_, v)| *v).collect();
        for ((key, _), d) in trained.iter().zip(gradients(&mut b, &[(recorded.loss, one)], &wanted).unwrap())
        {
            b.output(&format!("grad.{key}"), d.expect("every parameter matters"));
        }
        let inputs = [("x", unnormalised(x)), ("label", golden["label"].clone())];
        let device = Device::sim(2, DType::F32).unwrap();
        let mut worst = 0.0f64;
        for (key, got) in run(b.finish(), &inputs, &device) {
            let want = &golden[&key];
            let error = support::relative(&got.reshaped(want.shape()), want);
            worst = worst.max(error);
            assert!(error <= 1e-4, "{name}: {key}: {error:.1e}");
        }
        println!("{name}: largest relative L2 of a batch {worst:.1e}");
    }
}

/// Losses of certain logits, far from zero too, as the formula gives them in f64.
#[test]
fn the_loss_is_finite_and_right_for_all_logits() {
    let (golden, config) = golden("resnet_tiny.safetensors");
    let (network, _) = ResNet::from_config(Some(&config), &Shapes::new()).unwrap();
    let objective = ClassifierObjective::new(network.clone(), [33, 33]).unwrap();
    let features = 4 * (network.inplanes << 3);
    for logit in [0.0f64, 2.5, -40.0, 75.0, 3000.0] {
        // The head gives its bias whatever it sees.
        let head = [
            ("fc.weight", HostTensor::zeros(DType::F32, [1, features])),
            ("fc.bias", HostTensor::from_f32([1], vec![logit as f32])),
        ];
        let tensors = weights(&golden).iter().map(|(k, t)| (k.to_owned(), t.clone())).collect::<Tensors>();
        let with_head = tensors.into_iter().chain(head.map(|(k, t)| (k.to_owned(), t))).collect::<Tensors>();
        let options = StepOptions { batch: 2, ..StepOptions::default() };
        let set = WeightSet::from_tensors(with_head);
        let mut step = TrainStep::new(&objective, &Device::cpu(1).unwrap(), &set, options).unwrap();
        let inputs = [
            ("x", support::recipe_tensor("x", &[2, 3, 33, 33], 0.5, 1, -22)),
            ("label", HostTensor::from_f32([2], vec![1.0, 0.0])),
        ];
        let loss = step.accumulate(&inputs).unwrap().loss;
        let of = |label: f64| logit.max(0.0) - logit * label + (-logit.abs()).exp().ln_1p();
        let want = (of(1.0) + of(0.0)) / 2.0;
        assert!((loss - want).abs() <= 1e-6 * want.max(1.0), "{logit}: {loss}, expected {want}");
        let gradients: Tensors = step.gradients().unwrap().into_iter().collect();
        let (got, want) = (gradients["grad.fc.bias"].to_f64()[0], 1.0 / (1.0 + (-logit).exp()) - 0.5);
        assert!((got - want).abs() <= 1e-6, "{logit}: gradient {got}, expected {want}");
    }
}

#[test]
fn other_heads_and_sizes_are_refused() {
    let e = ClassifierObjective::new(ResNet::default(), [448, 448]).unwrap_err().to_string();
    assert!(e.contains("num_classes 1, found 1000"), "{e}");
    let network = ResNet { num_classes: 1, layers: vec![1; 4], inplanes: 4, ..ResNet::default() };
    // One picture whose last stage is one pixel has no variance.
    let objective = ClassifierObjective::new(network, [32, 32]).unwrap();
    let e = objective.record(&mut GraphBuilder::new(), 1).unwrap_err().to_string();
    assert!(e.contains("layer4") && e.contains("more than one value a channel"), "{e}");
}

// ---- Decisions ----------------------------------------------------------------------------------

/// Noise of all frequencies, or the same seen through a box of 2 × 2 pixels; 0..1.
fn picture(number: usize, [h, w]: [usize; 2], blurred: bool) -> FloatImage {
    let noise = support::recipe_tensor(&format!("picture {number}"), &[h + 1, w + 1, 3], 0.5, 1, -22)
        .to_f32()
        .into_owned();
    let at = |y: usize, x: usize, c: usize| noise[(y * (w + 1) + x) * 3 + c];
    let value = |i: usize| {
        let (y, x, c) = (i / 3 / w, i / 3 % w, i % 3);
        if blurred {
            (at(y, x, c) + at(y + 1, x, c) + at(y, x + 1, c) + at(y + 1, x + 1, c)) / 4.0
        } else {
            at(y, x, c)
        }
    };
    FloatImage::new(h, w, 3, (0..h * w * 3).map(value).collect())
}

#[test]
fn it_learns_to_tell_blurred_pictures_from_sharp_ones() {
    const SIDE: usize = 24;
    let (golden, config) = golden("resnet_tiny.safetensors");
    let (network, _) = ResNet::from_config(Some(&config), &Shapes::new()).unwrap();
    let objective = ClassifierObjective::new(network.clone(), [SIDE, SIDE]).unwrap();
    let options = StepOptions { batch: 8, ..StepOptions::default() };
    let device = Device::cpu(2).unwrap();
    let mut step = TrainStep::new(&objective, &device, &weights(&golden), options).unwrap();
    for number in 0..60 {
        let mut x = Vec::new();
        for i in 0..8 {
            let p = picture(8 * number + i, [SIDE, SIDE], i % 2 == 1);
            for c in 0..3 {
                x.extend(p.data[c..].iter().step_by(3));
            }
        }
        let label = (0..8).map(|i| if i % 2 == 1 { 0.0 } else { 1.0 }).collect();
        let inputs =
            [("x", HostTensor::from_f32([8, 3, SIDE, SIDE], x)), ("label", HostTensor::from_f32([8], label))];
        step.accumulate(&inputs).unwrap();
        step.update(3e-3).unwrap();
    }
    // With the running statistics, on larger pictures that it has not seen.
    let trained = WeightSet::from_tensors(step.parameters().unwrap());
    let mut classifier = QualityClassifier::new(network, trained, SIDE, &device).unwrap();
    for number in 1000..1006 {
        let [sharp, blurred] =
            [false, true].map(|b| classifier.probability(&picture(number, [40, 61], b)).unwrap());
        println!("sharp {sharp:.3}, blurred {blurred:.3}");
        assert!(sharp >= 0.5 && blurred < 0.5, "sharp {sharp}, blurred {blurred}");
    }
}

/// Nine crops, each with the logit that the network gives it alone.
#[test]
fn a_picture_is_judged_by_nine_crops() {
    let (golden, config) = golden("resnet_tiny.safetensors");
    let (network, _) = ResNet::from_config(Some(&config), &Shapes::new()).unwrap();
    let device = Device::cpu(2).unwrap();
    let mut classifier = QualityClassifier::new(network.clone(), weights(&golden), 32, &device).unwrap();
    let whole = picture(1, [52, 45], false);
    let logits = classifier.logits(&whole).unwrap();
    assert_eq!(logits.len(), 9);
    let mean = logits.iter().sum::<f64>() / 9.0;
    let p = classifier.probability(&whole).unwrap();
    assert!((p - 1.0 / (1.0 + (-mean).exp())).abs() < 1e-12);

    // The crop in the middle of the right side, by `forward`.
    let (top, left) = ((52 - 32) / 2, 45 - 32);
    let [mean, deviation] = IMAGENET;
    let mut x = Vec::new();
    for c in 0..3 {
        for y in top..top + 32 {
            x.extend((left..left + 32).map(|x| (whole.row(y)[3 * x + c] - mean[c]) / deviation[c]));
        }
    }
    let graph = network.graph(1, 32, 32).unwrap();
    let set = weights(&golden);
    let mut exe =
        Executable::new(Plan::new(graph, 2).unwrap(), device.clone(), |key| set.get(key).cloned()).unwrap();
    let out = exe.run(&[("x", HostTensor::from_f32([1, 3, 32, 32], x))]).unwrap();
    let alone = out[0].1.to_f64()[0];
    assert!((logits[5] - alone).abs() <= 1e-5 * alone.abs(), "{} and {alone}", logits[5]);

    // Smaller than a crop along one axis: seen whole there.
    assert_eq!(classifier.logits(&picture(2, [20, 64], false)).unwrap().len(), 9);
    let grey = FloatImage::zeros(40, 40, 1);
    let e = classifier.probability(&grey).unwrap_err().to_string();
    assert!(e.contains("40×40 pixels of 1 channels"), "{e}");
    let many = ResNet { num_classes: 2, ..network };
    assert!(QualityClassifier::new(many, weights(&golden), 32, &device).is_err());
}
