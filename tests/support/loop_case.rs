//! A small denoising job: the golden DreamClear over one picture in tiles and one that runs whole.

#![allow(dead_code)] // each test file uses a part

use std::collections::BTreeMap;
use std::path::Path;

use dreamclear::device::Device;
use dreamclear::diffusion::Noise;
use dreamclear::graph::Workspace;
use dreamclear::models::Shapes;
use dreamclear::models::controlformer::DreamClear;
use dreamclear::pipelines::dreamclear::denoise::{Denoiser, LATENT, Settings, Subject, Text};
use dreamclear::pipelines::dreamclear::noise::{NoiseSource, Replay};
use dreamclear::tensor::{DType, HostTensor};
use dreamclear::weights::{WeightSet, safetensors};

use crate::support::{golden, recipe_tensor};

pub struct LoopCase {
    pub settings: Settings,
    /// Latent parts in a launch.
    pub limit: usize,
    pub pictures: Vec<Picture>,
    config: serde_json::Value,
    weights: BTreeMap<String, HostTensor>,
}

pub struct Picture {
    lq: HostTensor,
    pre: HostTensor,
    start: Vec<f32>,
    text: Text,
    noise: NoiseSource,
    pub keep_other: bool,
}

/// Numbers that look random, between −1 and 1.
fn numbers(name: &str, shape: &[usize]) -> HostTensor {
    recipe_tensor(name, shape, 0.0, 1, -21)
}

impl Picture {
    fn new(name: &str, size: (usize, usize), valid: usize) -> Self {
        let latent = [1, LATENT, size.0, size.1];
        let of = |what: &str, shape: &[usize]| numbers(&format!("{name}.{what}"), shape);
        Picture {
            lq: of("lq", &latent),
            pre: of("pre", &latent),
            start: of("start", &latent).to_f32().into_owned(),
            text: Text { features: of("text", &[2, 10, 32]), lengths: [valid, 10] },
            noise: NoiseSource::Drawn(Noise::new(7, valid as u64)),
            keep_other: false,
        }
    }
}

impl LoopCase {
    pub fn new() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/restore_tiled.safetensors");
        let (tensors, metadata) = golden(&path);
        let own = |(k, t): (String, HostTensor)| Some((k.strip_prefix("dreamclear.")?.to_owned(), t));
        LoopCase {
            settings: Settings {
                sampler: "iddpm".into(),
                span: 3.into(),
                cfg: 4.5,
                guided: None,
                tile: (8, 2),
                untiled: (8, 8),
            },
            limit: 4,
            pictures: vec![Picture::new("tiled", (8, 12), 6), Picture::new("whole", (8, 8), 9)],
            config: serde_json::from_str(&metadata["dreamclear_config"]).unwrap(),
            weights: tensors.into_iter().filter_map(own).collect(),
        }
    }

    pub fn denoiser(&self, device: &Device) -> Denoiser {
        let weights = WeightSet::from_tensors(self.weights.clone());
        let (model, _) = DreamClear::from_config(Some(&self.config), &Shapes::new()).unwrap();
        Denoiser::new(model, weights, DType::F32, device.clone(), Workspace::new())
    }

    pub fn subjects(&self) -> Vec<Subject<'_>> {
        self.pictures
            .iter()
            .map(|Picture { lq, pre, start, text, noise, keep_other }| Subject {
                lq,
                pre,
                start: start.clone(),
                text,
                noise,
                keep_other: *keep_other,
            })
            .collect()
    }

    /// Both halves of every picture read its caption.
    pub fn same_text(&mut self) {
        for text in self.pictures.iter_mut().map(|p| &mut p.text) {
            let caption = text.features.to_f32();
            let half = &caption[..caption.len() / 2];
            let features = HostTensor::from_f32(text.features.shape(), [half, half].concat());
            *text = Text { features, lengths: [text.lengths[0]; 2] };
        }
    }

    /// The first picture's noise from a file, a tensor of its own for each step and half.
    pub fn replay_noise(&mut self) {
        let picture = &mut self.pictures[0];
        let [_, c, h, w] = picture.lq.shape()[..] else { panic!("{:?}", picture.lq) };
        let file = tempfile::NamedTempFile::new().unwrap();
        let tensors = [
            ("noise_T", numbers("noise_T", &[2, c, h, w])),
            ("noises", numbers("noises", &[self.settings.span.calls, 2, c, h, w])),
        ];
        let tensors = tensors.iter().map(|(n, t)| (*n, t));
        safetensors::write(file.path(), tensors, &Default::default(), None).unwrap();
        picture.noise = NoiseSource::Replayed(Replay::open(file.path()).unwrap());
    }

    /// Makes the network answer with what is no number.
    pub fn spoil_weights(&mut self) {
        let key = "base_model.final_layer.linear.bias";
        let bias = self.weights.get_mut(key).expect("the last bias");
        *bias = HostTensor::from_f32(bias.shape(), vec![f32::INFINITY; bias.len()]);
    }
}
