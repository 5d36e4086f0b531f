//! Weights before the first step, as the official code draws them: the same bytes for the same seed, on any
//! machine, whatever the order of the keys.

use crate::diffusion::{Noise, image_key};
use crate::models::Shapes;
use crate::models::controlformer::DreamClear;
use crate::models::swinir::{SwinIr, Upsampler};
use crate::tensor::HostTensor;
use crate::weights::WeightSet;

/// Standard deviation that transformers begin with.
const TRANSFORMER_STD: f32 = 0.02;
/// How much of PyTorch's default the last convolution of a near-identity keeps.
const NEAR: f32 = 0.02;

/// Draws parameters of a network: each from its own stream, keyed by its name.
struct Draw<'a> {
    shapes: &'a Shapes,
    seed: u64,
}

impl Draw<'_> {
    fn size(&self, key: &str) -> usize {
        self.shapes[key].iter().product()
    }

    fn normal(&self, key: &str, std: f32) -> Vec<f32> {
        let mut out = vec![0.0; self.size(key)];
        Noise::new(self.seed, image_key(key)).fill(0, &mut out);
        out.iter_mut().for_each(|x| *x *= std);
        out
    }

    /// `nn.init.trunc_normal_` with its default bounds of ±2, which no standard deviation here comes near to.
    fn truncated_normal(&self, key: &str, std: f32) -> Vec<f32> {
        self.normal(key, std).into_iter().map(|x| x.clamp(-2.0, 2.0)).collect()
    }

    /// Uniform in ±`bound`: a normal number's own place in its distribution.
    fn uniform(&self, key: &str, bound: f32) -> Vec<f32> {
        let place = |x: f32| libm::erf(f64::from(x) * std::f64::consts::FRAC_1_SQRT_2) as f32;
        self.normal(key, 1.0).into_iter().map(|x| bound * place(x)).collect()
    }

    /// The weight that a bias stands beside.
    fn weight_of(&self, bias: &str) -> Option<&[usize]> {
        let weight = format!("{}weight", bias.strip_suffix("bias")?);
        self.shapes.get(&weight).map(Vec::as_slice)
    }

    /// The defaults of PyTorch's modules: linear layers and convolutions uniform in ±1/√fan_in, norms 1 and 0.
    fn torch(&self, key: &str) -> Vec<f32> {
        let shape = &self.shapes[key];
        let bound = |weight: &[usize]| 1.0 / (weight[1..].iter().product::<usize>() as f32).sqrt();
        match self.weight_of(key) {
            Some(weight) if weight.len() > 1 => self.uniform(key, bound(weight)),
            Some(_) => vec![0.0; self.size(key)],
            None if shape.len() > 1 => self.uniform(key, bound(shape)),
            None => vec![1.0; self.size(key)],
        }
    }

    /// `nn.init.xavier_uniform_` of a weight `[out, in…]`, all axes behind the first as one; biases 0.
    fn xavier(&self, key: &str) -> Vec<f32> {
        let shape = &self.shapes[key];
        if shape.len() < 2 {
            return vec![0.0; self.size(key)];
        }
        let fans = shape[0] + shape[1..].iter().product::<usize>();
        self.uniform(key, (6.0 / fans as f32).sqrt())
    }

    fn all(&self, rule: impl Fn(&str) -> Vec<f32>) -> WeightSet {
        let tensor = |(key, shape): (&String, &Vec<usize>)| {
            (key.clone(), HostTensor::from_f32(shape.clone(), rule(key)))
        };
        WeightSet::from_tensors(self.shapes.iter().map(tensor))
    }
}

/// The defaults of PyTorch's modules, which is how diffusers' autoencoder begins.
pub fn torch_default(shapes: &Shapes, seed: u64) -> WeightSet {
    let draw = Draw { shapes, seed };
    draw.all(|key| draw.torch(key))
}

/// torchvision's initialisation of a ResNet: convolutions normal with variance 2 over the fan out
/// (`kaiming_normal_`), the last layer as PyTorch has it, norms and running statistics of the identity.
pub fn resnet(shapes: &Shapes, seed: u64) -> WeightSet {
    let draw = Draw { shapes, seed };
    draw.all(|key| match shapes[key].as_slice() {
        [out, _, kh, kw] => draw.normal(key, (2.0 / (out * kh * kw) as f32).sqrt()),
        _ if key.starts_with("fc.") => draw.torch(key),
        _ if key.ends_with("bias") || key.ends_with("running_mean") => vec![0.0; draw.size(key)],
        _ => vec![1.0; draw.size(key)],
    })
}

/// SwinIR's own initialisation (`SwinIR._init_weights`): linear layers and position biases normal with
/// standard deviation 0.02, convolutions as PyTorch has them.
///
/// A network whose output has the size of its input and that can pass the picture on, since it is added at the end
/// or since there is a channel for each of its pixels, begins near the identity instead: its first training step
/// already has the picture, and what is learned is the correction.
pub fn swinir(network: &SwinIr, shapes: &Shapes, seed: u64) -> WeightSet {
    let draw = Draw { shapes, seed };
    let picture = network.in_chans * network.upscale.pow(2);
    let near_identity = network.unshuffle
        && !network.global_residual
        && network.upsampler == Upsampler::PixelShuffleDirect
        && network.embed_dim >= picture;
    draw.all(|key| {
        let linear = draw.weight_of(key).unwrap_or(&shapes[key]).len() == 2;
        let mut values = match key {
            _ if key.ends_with("relative_position_bias_table") => draw.truncated_normal(key, TRANSFORMER_STD),
            "absolute_pos_embed" => draw.truncated_normal(key, TRANSFORMER_STD),
            _ if linear && key.ends_with("bias") => vec![0.0; draw.size(key)],
            _ if linear => draw.truncated_normal(key, TRANSFORMER_STD),
            _ => draw.torch(key),
        };
        if network.global_residual && ["upsample.0", "conv_last"].iter().any(|last| key.starts_with(last)) {
            values.iter_mut().for_each(|x| *x *= NEAR);
        }
        if near_identity {
            let shape = &shapes[key];
            match key {
                "conv_first.1.weight" | "upsample.0.weight" => pass_through(&mut values, shape, picture),
                "conv_first.1.bias" => values[..picture].fill(0.0),
                "upsample.0.bias" => values.fill(0.0),
                "conv_after_body.weight" | "conv_after_body.bias" => {
                    values.iter_mut().for_each(|x| *x *= NEAR)
                }
                _ => {}
            }
        }
        values
    })
}

/// Makes the first `channels` outputs of a convolution `[out, in, h, w]` copies of its first inputs.
fn pass_through(weight: &mut [f32], shape: &[usize], channels: usize) {
    let (taps, middle) = (shape[2] * shape[3], shape[2] / 2 * shape[3] + shape[3] / 2);
    let filter = shape[1] * taps;
    weight[..channels * filter].fill(0.0);
    for c in 0..channels {
        weight[c * filter + c * taps + middle] = 1.0;
    }
}

/// PixArt's initialisation (`PixArtMS.initialize_weights`) and that of ControlFormer around it: copied blocks
/// equal the base's, and every partner through which a branch speaks is 0, so that the first step's output is
/// the base's.
pub fn dreamclear(network: &DreamClear, shapes: &Shapes, seed: u64) -> WeightSet {
    let draw = Draw { shapes, seed };
    let base = &network.base;
    draw.all(|key| {
        if let Some(own) = key.strip_prefix("base_model.") {
            return pixart(&draw, key, own, base.hidden_size, base.in_channels);
        }
        // controlnet_lq.3.copied_block.attn.qkv.weight
        if let Some((branch, rest)) = key.split_once(".copied_block.") {
            let block = branch.rsplit('.').next().unwrap_or_default();
            let original = format!("base_model.blocks.{block}.{rest}");
            let own = &original["base_model.".len()..];
            return pixart(&draw, &original, own, base.hidden_size, base.in_channels);
        }
        let silent = key.starts_with("c_embedder_")
            || ["proj_mul.", "proj_add.", "gate.2."].iter().any(|part| key.contains(part))
            || (key.starts_with("cross_de.") && key.contains(".proj."));
        if silent { vec![0.0; draw.size(key)] } else { draw.torch(key) }
    })
}

/// A parameter of PixArt; `own` is its key within PixArt, `key` that under which it is drawn.
fn pixart(draw: &Draw, key: &str, own: &str, hidden: usize, latent: usize) -> Vec<f32> {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|p| own.starts_with(p));
    if own.ends_with("scale_shift_table") {
        return draw.normal(key, 1.0 / (hidden as f32).sqrt());
    }
    if own.ends_with("y_embedding") {
        return draw.normal(key, 1.0 / (latent as f32).sqrt());
    }
    if own.contains("cross_attn.proj.") || own.starts_with("final_layer.linear.") || own.ends_with("bias") {
        return vec![0.0; draw.size(key)];
    }
    if starts(&["t_embedder.", "t_block.", "csize_embedder.", "ar_embedder.", "y_embedder."]) {
        return draw.normal(key, TRANSFORMER_STD);
    }
    draw.xavier(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::graph::{Executable, Plan};
    use crate::models::ImageNetwork;
    use crate::models::network::Network;
    use serde_json::json;

    fn moments(x: &[f32]) -> (f32, f32) {
        let n = x.len() as f32;
        let mean = x.iter().sum::<f32>() / n;
        (mean, (x.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / n).sqrt())
    }

    #[test]
    fn defaults_are_uniform_in_the_bound_of_the_weight() {
        let shapes: Shapes = [
            ("a.weight", vec![64, 16, 3, 3]),
            ("a.bias", vec![64]),
            ("norm.weight", vec![8]),
            ("norm.bias", vec![8]),
        ]
        .map(|(k, s)| (k.to_owned(), s))
        .into();
        let weights = torch_default(&shapes, 0);
        let bound = 1.0 / 12.0; // √(16·9)
        let w = weights.get("a.weight").unwrap().to_f32();
        let largest = w.iter().fold(0f32, |m, x| m.max(x.abs()));
        assert!(largest <= bound && largest > 0.99 * bound, "{largest}");
        let (mean, std) = moments(&w);
        // A uniform distribution's is bound/√3; 9216 draws.
        assert!(mean.abs() < 0.02 * bound && (std * 3f32.sqrt() / bound - 1.0).abs() < 0.03, "{mean} {std}");
        assert!(weights.get("a.bias").unwrap().to_f32().iter().all(|x| x.abs() <= bound && *x != 0.0));
        assert_eq!(*weights.get("norm.weight").unwrap().to_f32(), [1.0; 8]);
        assert_eq!(*weights.get("norm.bias").unwrap().to_f32(), [0.0; 8]);
        assert_ne!(*w, *torch_default(&shapes, 1).get("a.weight").unwrap().to_f32(), "the seed counts");
    }

    #[test]
    fn a_swinir_around_the_picture_begins_near_the_identity() {
        let config = json!({"embed_dim": 16, "depths": [2], "num_heads": [2], "window_size": 4, "mlp_ratio": 2,
            "sf": 2, "unshuffle": true, "unshuffle_scale": 2, "upsampler": "pixelshuffledirect"});
        begins_near_the_identity(&config);
        for upsampler in ["pixelshuffledirect", "nearest+conv"] {
            let mut config = config.clone();
            config["upsampler"] = upsampler.into();
            config["global_residual"] = true.into();
            // Too few for all pixels.
            config["embed_dim"] = 8.into();
            begins_near_the_identity(&config);
        }
    }

    fn begins_near_the_identity(config: &serde_json::Value) {
        let (network, _) = SwinIr::from_config(config, &Shapes::new()).unwrap();
        let graph = network.graph(1, 8, 8, false).unwrap();
        let shapes: Shapes = graph.param_shapes().into_iter().collect();
        let inferred = SwinIr::infer(&shapes).unwrap();
        assert_eq!((inferred.in_chans, inferred.upscale, inferred.unshuffle), (3, 2, true));
        let weights = swinir(&network, &shapes, 3);
        let device = Device::cpu(1).unwrap();
        let plan = Plan::new(graph, &device).unwrap();
        let mut exe = Executable::new(plan, device, |key| weights.get(key).cloned()).unwrap();
        let picture: Vec<f32> = (0..192).map(|i| (i * 37 % 101) as f32 / 100.0).collect();
        let name = exe.graph().inputs().next().unwrap().0.to_owned();
        let x = HostTensor::from_f32([1, 8, 8, 3], picture.clone());
        let out = exe.run(&[(&name, x)]).unwrap()[0].1.to_f32().into_owned();
        let error: f32 = out.iter().zip(&picture).map(|(a, b)| (a - b).abs()).sum::<f32>() / 192.0;
        assert!(error > 0.0 && error < 0.05, "mean difference {error}");
    }

    #[test]
    fn dreamclear_begins_as_its_base_with_silent_branches() {
        let config = json!({"input_size": 8, "hidden_size": 24, "depth": 2, "num_heads": 2,
            "caption_channels": 8, "model_max_length": 3, "copy_blocks_num": 2});
        let (network, _) = DreamClear::from_config(Some(&config), &Shapes::new()).unwrap();
        let weights = dreamclear(&network, &network.parameters().unwrap(), 0);
        let of = |key: &str| weights.get(key).unwrap().to_f32().into_owned();
        for branch in ["lq", "pre"] {
            assert_eq!(
                of(&format!("controlnet_{branch}.1.copied_block.attn.qkv.weight")),
                of("base_model.blocks.1.attn.qkv.weight")
            );
        }
        for silent in [
            "c_embedder_lq.proj.weight",
            "cross_de.0.proj.bias",
            "am_pre.1.proj_mul.weight",
            "am_lq.0.experts.2.proj_add.weight",
            "am_lq.0.gate.2.weight",
            "base_model.blocks.0.cross_attn.proj.weight",
            "base_model.final_layer.linear.weight",
        ] {
            assert!(of(silent).iter().all(|&x| x == 0.0), "{silent}");
        }
        for loud in ["cross_de.0.de_proj.weight", "am_lq.0.gate.0.weight", "x_embedder_lq.proj.weight"] {
            assert!(moments(&of(loud)).1 > 0.01, "{loud}");
        }
    }
}
