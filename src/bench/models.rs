//! Whole networks with random weights as [`Work`]: graph, plan and executable as `restore` uses
//! them, from the picture in to the picture out.

use std::sync::Arc;

use serde_json::{Value, json};

use super::dit;
use super::ops::{SEED, draw};
use super::work::Work;
use crate::device::cpu::CpuDevice;
use crate::error::Result;
use crate::graph::{Cost, Executable, Graph, GraphBuilder, Plan, passes};
use crate::models::t5::T5Encoder;
use crate::models::vae::{self, AutoencoderKl};
use crate::models::{Shapes, from_config};
use crate::ops::{CaseInput, fuse};
use crate::tensor::{DType, HostTensor};

/// A network of the bench.
pub struct ModelRow {
    /// Unique; network, then input size.
    pub name: &'static str,
    /// The network's name on the command line.
    pub architecture: &'static str,
    /// Hyper-parameters under their official names, as JSON.
    pub config: &'static str,
    /// Height and width of the input picture, batch 1.
    pub size: [usize; 2],
    /// Builds the network: input `x`, output `out`, both `[1, C, H, W]`.
    pub graph: fn(&ModelRow) -> Result<Graph>,
}

impl ModelRow {
    /// The hyper-parameters.
    ///
    /// # Panics
    /// If the row's JSON is wrong.
    pub fn config(&self) -> Value {
        serde_json::from_str(self.config).unwrap_or_else(|e| panic!("bench model {}: {e}", self.name))
    }

    /// What another implementation must build to do the same.
    pub fn describe(&self) -> Value {
        json!({ "model": self.architecture, "config": self.config() })
    }
}

/// The networks of the bench: those that people use.
pub static MODELS: &[ModelRow] = &[
    ModelRow {
        name: "swinir_general_512",
        architecture: "swinir",
        config: r#"{"img_size": 64, "in_chans": 3, "embed_dim": 180, "depths": [6, 6, 6, 6, 6, 6, 6, 6],
            "num_heads": [6, 6, 6, 6, 6, 6, 6, 6], "window_size": 8, "mlp_ratio": 2, "sf": 8,
            "img_range": 1.0, "upsampler": "nearest+conv", "resi_connection": "1conv",
            "unshuffle": true, "unshuffle_scale": 8}"#,
        size: [512, 512],
        graph: image_network,
    },
    ModelRow {
        name: "swinir_classical_x4_64",
        architecture: "swinir",
        config: r#"{"img_size": 64, "in_chans": 3, "embed_dim": 180, "depths": [6, 6, 6, 6, 6, 6],
            "num_heads": [6, 6, 6, 6, 6, 6], "window_size": 8, "mlp_ratio": 2, "upscale": 4,
            "img_range": 1.0, "upsampler": "pixelshuffle", "resi_connection": "1conv"}"#,
        size: [64, 64],
        graph: image_network,
    },
    ModelRow {
        name: "rrdbnet_x4_256",
        architecture: "rrdbnet",
        config: r#"{"num_in_ch": 3, "num_out_ch": 3, "scale": 4, "num_feat": 64, "num_block": 23,
            "num_grow_ch": 32}"#,
        size: [256, 256],
        graph: image_network,
    },
    ModelRow {
        name: "srvgg_x4_256",
        architecture: "srvgg",
        config: r#"{"num_in_ch": 3, "num_out_ch": 3, "num_feat": 64, "num_conv": 32, "upscale": 4,
            "act_type": "prelu"}"#,
        size: [256, 256],
        graph: image_network,
    },
    ModelRow {
        name: "vae_encode_512",
        architecture: "vae-encoder",
        config: SD_VAE,
        size: [512, 512],
        graph: |row| half_vae(row, true),
    },
    ModelRow {
        name: "vae_decode_512",
        architecture: "vae-decoder",
        config: SD_VAE,
        size: [64, 64],
        graph: |row| half_vae(row, false),
    },
    ModelRow {
        name: "pixart_block_4096",
        architecture: "pixart-block",
        config: dit::LAYER,
        size: [64, 64],
        graph: dit::pixart_block,
    },
    ModelRow {
        name: "controlformer_layer_1024",
        architecture: "controlformer-layer",
        config: dit::LAYER,
        size: [32, 32],
        graph: dit::controlformer_layer,
    },
    ModelRow {
        name: "controlformer_layer_4096",
        architecture: "controlformer-layer",
        config: dit::LAYER,
        size: [64, 64],
        graph: dit::controlformer_layer,
    },
    ModelRow {
        name: "t5_block",
        architecture: "t5-block",
        config: r#"{"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_heads": 64,
            "feed_forward_proj": "gated-gelu"}"#,
        size: [1, 120],
        graph: t5_block,
    },
];

/// A block of T5 XXL on the tokens of one caption; the row's size is [batch, tokens].
fn t5_block(row: &ModelRow) -> Result<Graph> {
    let (encoder, _) = T5Encoder::from_config(Some(&row.config()), &Shapes::new())?;
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [row.size[0], row.size[1], encoder.d_model])?;
    let y = encoder.first_block(&mut b, x)?;
    b.output("out", y);
    let mut graph = b.finish();
    passes::run(&mut graph, fuse::RULES, None)?;
    Ok(graph)
}

/// `sd-vae-ft-ema` as published.
const SD_VAE: &str = r#"{"in_channels": 3, "out_channels": 3, "latent_channels": 4,
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"],
    "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "norm_num_groups": 32,
    "act_fn": "silu", "sample_size": 256}"#;

/// A network from picture to picture, by its architecture and configuration.
fn image_network(row: &ModelRow) -> Result<Graph> {
    let (network, _) = from_config(row.architecture, &row.config(), &Shapes::new())?;
    network.graph(1, row.size[0], row.size[1], true)
}

/// One half of an autoencoder: picture to moments, or latent (of the row's size) to picture.
fn half_vae(row: &ModelRow, encode: bool) -> Result<Graph> {
    let (net, _) = AutoencoderKl::from_config(&row.config(), &Shapes::new())?;
    let [height, width] = row.size;
    let (channels, layers) =
        if encode { (net.in_channels, net.encoder()) } else { (net.latent_channels, net.decoder()) };
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [1, channels, height, width])?;
    let x = b.permute(x, [0, 2, 3, 1])?;
    let y = vae::record(&mut b, &layers, net.norm_num_groups, x)?;
    let y = b.permute(y, [0, 3, 1, 2])?;
    b.output("out", y);
    let mut graph = b.finish();
    passes::run(&mut graph, fuse::RULES, None)?;
    Ok(graph)
}

/// A network with its weights bound.
pub struct ModelWork {
    architecture: &'static str,
    config: Value,
    executable: Executable,
    params: Vec<(String, HostTensor)>,
    x: HostTensor,
    out: HostTensor,
}

impl ModelWork {
    /// Builds, plans and binds random weights.
    pub fn new(row: &ModelRow, device: &Arc<CpuDevice>) -> Result<Self> {
        let graph = (row.graph)(row)?;
        let (_, x) = graph.inputs().next().expect("a bench model has an input");
        let x = draw(&CaseInput::uniform(graph.ty(x).shape.clone(), 0.0, 1.0), SEED);
        let out = graph.outputs.first().expect("a bench model has an output").1;
        let out = HostTensor::zeros(graph.ty(out).dtype, graph.ty(out).shape.clone());
        let params: Vec<(String, HostTensor)> = graph
            .param_shapes()
            .into_iter()
            .zip(SEED + 1..)
            .map(|((key, shape), seed)| {
                let values = draw(&weight(&key, &shape), seed);
                (key, values)
            })
            .collect();
        let executable = Executable::new(Plan::new(graph, device.threads())?, device.clone(), |key| {
            params.iter().find(|(k, _)| k == key).map(|(_, t)| t.clone())
        })?;
        Ok(ModelWork { architecture: row.architecture, config: row.config(), executable, params, x, out })
    }

    /// The plan that is run.
    pub fn plan(&self) -> &Plan {
        self.executable.plan()
    }
}

/// Random weights that keep numbers in range through any depth: factors of norms near 1, matrices
/// and kernels by their fan-in.
pub fn weight(key: &str, shape: &[usize]) -> CaseInput {
    match shape {
        [_] if key.ends_with("weight") => CaseInput::uniform(shape, 0.8, 1.2),
        [_] => CaseInput::uniform(shape, -0.1, 0.1),
        _ => {
            let bound = (shape[1..].iter().product::<usize>() as f64).powf(-0.5);
            CaseInput::uniform(shape, -bound, bound)
        }
    }
}

impl Work for ModelWork {
    fn run(&mut self) -> Result<()> {
        let mut results = self.executable.run(&[("x", self.x.clone())])?;
        self.out = results.swap_remove(0).1;
        Ok(())
    }

    fn cost(&self) -> Cost {
        self.plan().steps.iter().map(|s| s.cost).sum()
    }

    fn describe(&self) -> Value {
        json!({ "model": self.architecture, "config": self.config })
    }

    fn inputs(&self) -> Vec<(String, HostTensor)> {
        [("x".to_owned(), self.x.clone())].into_iter().chain(self.params.iter().cloned()).collect()
    }

    fn output(&self) -> HostTensor {
        self.out.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::conv2d::ConvSpec;

    /// One convolution, as a network.
    const TINY: ModelRow = ModelRow {
        name: "tiny_8",
        architecture: "tiny",
        config: r#"{"channels": 3}"#,
        size: [8, 8],
        graph: |row| {
            let [h, w] = row.size;
            let mut b = GraphBuilder::new();
            let x = b.input("x", DType::F32, [1, 3, h, w])?;
            let x = b.permute(x, [0, 2, 3, 1])?;
            let (weight, bias) = (b.param("conv.weight", [3, 3, 3, 3])?, b.param("conv.bias", [3])?);
            let y = b.conv2d(x, weight, Some(bias), ConvSpec::same(3))?;
            let y = b.permute(y, [0, 3, 1, 2])?;
            b.output("out", y);
            Ok(b.finish())
        },
    };

    #[test]
    fn a_model_runs_with_random_weights() {
        let device = Arc::new(CpuDevice::new(1).unwrap());
        let mut work = ModelWork::new(&TINY, &device).unwrap();
        work.run().unwrap();
        assert_eq!(work.output().shape(), [1, 3, 8, 8]);
        assert!(work.output().to_f32().iter().all(|x| x.is_finite() && *x != 0.0));
        assert_eq!(
            work.inputs().iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(),
            ["x", "conv.weight", "conv.bias"]
        );
        // Three taps a row of eight pixels, less one at each border: 22 along each axis.
        let macs = 22.0 * 22.0 * 9.0;
        assert!(work.cost().flops >= 2.0 * macs, "{:?}", work.cost());
        assert_eq!(work.describe()["config"]["channels"], 3);
    }

    #[test]
    fn rows_build_and_have_different_names() {
        let mut names: Vec<_> = MODELS.iter().map(|m| m.name).collect();
        for m in MODELS {
            let graph = (m.graph)(m).unwrap_or_else(|e| panic!("{}: {e}", m.name));
            assert!(graph.cost().flops > 1e9, "{}: {:?}", m.name, graph.cost());
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), MODELS.len());
    }
}
