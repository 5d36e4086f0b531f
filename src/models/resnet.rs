//! ResNet with bottleneck blocks (He et al. 2015, arXiv 1512.03385) as torchvision has it (`models/resnet.py`: the
//! stride is that of the 3×3 convolution), ResNet-50 unless told otherwise.
//!
//! With one logit it is the classifier that tells synthesised pictures which look real from those that do not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::network::{Given, Network, Run};
use super::{Shapes, config};
use crate::error::{Error, Result};
use crate::graph::{Graph, GraphBuilder, Outputs, ValueId};
use crate::ops::conv2d::ConvSpec;
use crate::ops::group_norm::{GroupNorm, GroupNormAffine};
use crate::tensor::{DType, HostTensor};

/// Stages, each half as high and wide as the one before.
const STAGES: usize = 4;
/// Channels of a block's result per channel of its stage.
const EXPANSION: usize = 4;
/// Added to variances, and how much of a batch's statistics the running ones take (PyTorch's defaults).
const EPS: f32 = 1e-5;
const MOMENTUM: f32 = 0.1;

/// Mean and standard deviation of ImageNet's pictures in 0..1, red, green, blue: what networks of torchvision
/// expect to be subtracted and divided by.
pub const IMAGENET: [[f32; 3]; 2] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]];

/// Hyper-parameters under torchvision's names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResNet {
    /// Blocks of each stage.
    pub layers: Vec<usize>,
    /// Logits.
    pub num_classes: usize,
    /// Channel groups of the 3×3 convolutions (ResNeXt).
    pub groups: usize,
    /// Channels of a group in the first stage, for `inplanes` of 64.
    pub width_per_group: usize,
    /// Channels behind the first convolution and of the first stage; each further stage has twice as many.
    /// torchvision always has 64.
    pub inplanes: usize,
}

impl Default for ResNet {
    fn default() -> Self {
        ResNet { layers: vec![3, 4, 6, 3], num_classes: 1000, groups: 1, width_per_group: 64, inplanes: 64 }
    }
}

const KNOWN: &[&str] = &["layers", "num_classes", "groups", "width_per_group", "inplanes"];
/// Arguments of torchvision's constructor that change how it starts, or that must be what they are by default.
const HARMLESS: &[&str] = &["block", "zero_init_residual", "norm_layer", "replace_stride_with_dilation"];

/// Whose mean and variance a batch norm uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistics {
    /// The running ones, as at inference: the norm becomes part of the convolution in front of it.
    Running,
    /// Those of the batch, as in training.
    Batch,
}

/// What a batch leaves behind in training: the new value of each running mean and variance, by its key.
pub type Running = Vec<(String, ValueId)>;

impl ResNet {
    /// From a configuration; what it leaves out is taken from the weights' shapes where they can tell. The second
    /// part of the result are the keys that change nothing.
    ///
    /// # Errors
    /// For unknown keys and impossible values.
    pub fn from_config(config: Option<&Value>, shapes: &Shapes) -> Result<(Self, Vec<String>)> {
        let mut told = serde_json::to_value(Self::infer(shapes)).expect("plain numbers");
        let into = told.as_object_mut().expect("a struct");
        for (key, value) in config.and_then(Value::as_object).into_iter().flatten() {
            into.insert(key.clone(), value.clone());
        }
        if let Some(wrong) = config.filter(|c| !c.is_object()) {
            told = wrong.clone();
        }
        let (net, ignored): (Self, _) = config::read("resnet50", &told, KNOWN, HARMLESS)?;
        net.check().map_err(Error::Usage)?;
        Ok((net, ignored))
    }

    /// Hyper-parameters as far as shapes tell them.
    fn infer(shapes: &Shapes) -> Self {
        let mut net = ResNet::default();
        let dim = |key: &str, axis: usize| shapes.get(key).and_then(|s| s.get(axis)).copied();
        let blocks = |stage: usize| {
            (0..).take_while(|i| shapes.contains_key(&format!("layer{stage}.{i}.conv1.weight"))).count()
        };
        if shapes.contains_key("layer1.0.conv1.weight") {
            net.layers = (1..=STAGES).map(blocks).collect();
        }
        net.num_classes = dim("fc.weight", 0).unwrap_or(net.num_classes);
        net.inplanes = dim("conv1.weight", 0).unwrap_or(net.inplanes);
        if let (Some(width), Some(per_group)) =
            (dim("layer1.0.conv2.weight", 0), dim("layer1.0.conv2.weight", 1))
        {
            net.groups = width / per_group.max(1);
            net.width_per_group = 64 * per_group / net.inplanes.max(1);
        }
        net
    }

    fn check(&self) -> Result<(), String> {
        if self.layers.len() != STAGES || self.layers.contains(&0) {
            return Err(format!(
                "ResNet: expected {STAGES} stages of at least one block, found {:?}",
                self.layers
            ));
        }
        if self.num_classes == 0 || self.inplanes == 0 || self.width(0) == 0 {
            return Err(format!("ResNet: channels and classes must be at least 1, found {self:?}"));
        }
        Ok(())
    }

    /// Channels of the 3×3 convolutions of a stage.
    fn width(&self, stage: usize) -> usize {
        (self.inplanes << stage) * self.width_per_group / 64 * self.groups
    }

    /// Records the network on an NHWC picture that is normalised as it was trained (by [`IMAGENET`]): logits
    /// `[B, num_classes]`. With [`Statistics::Batch`] also what becomes of the running statistics.
    ///
    /// # Errors
    /// If the picture is too small.
    pub fn record(
        &self,
        b: &mut GraphBuilder,
        x: ValueId,
        statistics: Statistics,
    ) -> Result<(ValueId, Running)> {
        let mut net = Recorder { statistics, running: Vec::new() };
        let stem = ConvSpec { stride: [2; 2], pad: [3; 4], ..ConvSpec::same(7) };
        let h = net.conv_norm(b, ["conv1", "bn1"], x, self.inplanes, 7, stem)?;
        let h = b.relu(h)?;
        let mut h = b.max_pool(h, 3, 2, 1)?;
        for (stage, &blocks) in self.layers.iter().enumerate() {
            for i in 0..blocks {
                // The first stage keeps the size that the pool has left.
                let stride = if stage > 0 && i == 0 { 2 } else { 1 };
                h = b.scope(format!("layer{}.{i}", stage + 1), |b| {
                    self.block(b, &mut net, h, stage, stride)
                })?;
            }
        }
        let pooled = b.mean(h, &[1, 2], false)?;
        let logits = crate::nn::linear(b, "fc", pooled, self.num_classes, true)?;
        Ok((logits, net.running))
    }

    /// A bottleneck: 1×1, 3×3, 1×1, and the input added to it.
    fn block(
        &self,
        b: &mut GraphBuilder,
        net: &mut Recorder,
        x: ValueId,
        stage: usize,
        stride: usize,
    ) -> Result<ValueId> {
        let (width, out) = (self.width(stage), EXPANSION * (self.inplanes << stage));
        let strided = |kernel| ConvSpec { stride: [stride; 2], ..ConvSpec::same(kernel) };
        let h = net.conv_norm(b, ["conv1", "bn1"], x, width, 1, ConvSpec::same(1))?;
        let h = b.relu(h)?;
        let spatial = ConvSpec { groups: self.groups, ..strided(3) };
        let h = net.conv_norm(b, ["conv2", "bn2"], h, width, 3, spatial)?;
        let h = b.relu(h)?;
        let h = net.conv_norm(b, ["conv3", "bn3"], h, out, 1, ConvSpec::same(1))?;
        let shortcut = if stride > 1 || b.ty(x).last() != out {
            net.conv_norm(b, ["downsample.0", "downsample.1"], x, out, 1, strided(1))?
        } else {
            x
        };
        let h = b.add(h, shortcut)?;
        b.relu(h)
    }

    /// `x` `[B, 3, H, W]` → `out` `[B, num_classes]`, with running statistics.
    ///
    /// # Errors
    /// As [`ResNet::record`].
    pub fn graph(&self, batch: usize, height: usize, width: usize) -> Result<Graph> {
        let mut b = GraphBuilder::new();
        let x = b.input("x", DType::F32, [batch, 3, height, width])?;
        let x = b.permute(x, [0, 2, 3, 1])?;
        let (logits, _) = self.record(&mut b, x, Statistics::Running)?;
        b.output("out", logits);
        let mut graph = b.finish();
        crate::graph::passes::run(&mut graph, crate::ops::fuse::RULES, None)?;
        Ok(graph)
    }
}

/// Records convolutions with their batch norms.
struct Recorder {
    statistics: Statistics,
    running: Running,
}

impl Recorder {
    /// `nn.Conv2d` without a bias and the `nn.BatchNorm2d` behind it, under these names.
    fn conv_norm(
        &mut self,
        b: &mut GraphBuilder,
        [conv, norm]: [&str; 2],
        x: ValueId,
        out: usize,
        kernel: usize,
        spec: ConvSpec,
    ) -> Result<ValueId> {
        let inputs = b.ty(x).last() / spec.groups;
        let weight = b.scope(conv, |b| b.param("weight", [out, inputs, kernel, kernel]))?;
        b.scope(norm, |b| {
            let gamma = b.param("weight", [out])?;
            let beta = b.param("bias", [out])?;
            let mean = b.param("running_mean", [out])?;
            let variance = b.param("running_var", [out])?;
            match self.statistics {
                Statistics::Running => {
                    // (w·x − mean)·scale + β = (scale·w)·x + (β − mean·scale)
                    let eps = b.scalar(EPS);
                    let deviation = b.add(variance, eps)?;
                    let deviation = b.sqrt(deviation)?;
                    let scale = b.div(gamma, deviation)?;
                    let per_filter = b.reshape(scale, [out, 1, 1, 1])?;
                    let weight = b.mul(weight, per_filter)?;
                    let shift = b.mul(mean, scale)?;
                    let shift = b.sub(beta, shift)?;
                    b.conv2d(x, weight, Some(shift), spec)
                }
                Statistics::Batch => {
                    let y = b.conv2d(x, weight, None, spec)?;
                    let shape = b.shape(y).to_vec();
                    let pixels: usize = shape[..3].iter().product();
                    if pixels < 2 {
                        let message = "a batch's statistics need more than one value a channel: give larger pictures \
                                       or more of them";
                        return Err(b.error("batch_norm", message));
                    }
                    // All pixels of the batch as one sample, each channel a group of its own.
                    let flat = b.reshape(y, [1, pixels, out])?;
                    self.update(b, flat, pixels, mean, variance)?;
                    let norm = GroupNorm { groups: out, eps: EPS, silu: false };
                    let y = b.node1(norm, &[flat, gamma, beta])?;
                    b.reshape(y, shape)
                }
            }
        })
    }

    /// What the running statistics become, from the moments of `flat` `[1, pixels, C]`.
    fn update(
        &mut self,
        b: &mut GraphBuilder,
        flat: ValueId,
        pixels: usize,
        mean: ValueId,
        variance: ValueId,
    ) -> Result<()> {
        let channels = b.ty(flat).last();
        // For γ = 1 and β = 0 the affine form of a norm is 1/√(variance + eps) and −mean/√(variance + eps): both
        // moments in one pass.
        let [one, zero] = [1.0, 0.0].map(|v| b.constant(HostTensor::from_f32([channels], vec![v; channels])));
        let affine = b.node1(GroupNormAffine { groups: channels, eps: EPS }, &[flat, one, zero])?;
        let affine = b.reshape(affine, [2, channels])?;
        let row = |b: &mut GraphBuilder, i| {
            let row = b.slice(affine, 0, i, 1)?;
            b.reshape(row, [channels])
        };
        let (scale, shift) = (row(b, 0)?, row(b, 1)?);
        let batch_mean = b.div(shift, scale)?;
        let batch_mean = b.scale(batch_mean, -1.0)?;
        let square = b.mul(scale, scale)?;
        let batch_variance = b.div(one, square)?;
        let eps = b.scalar(EPS);
        let batch_variance = b.sub(batch_variance, eps)?;
        // PyTorch keeps the unbiased variance.
        let unbiased = b.scale(batch_variance, pixels as f32 / (pixels - 1) as f32)?;
        for (name, old, new) in [("running_mean", mean, batch_mean), ("running_var", variance, unbiased)] {
            let old = b.scale(old, 1.0 - MOMENTUM)?;
            let new = b.scale(new, MOMENTUM)?;
            let next = b.add(old, new)?;
            self.running.push((b.key(name), next));
        }
        Ok(())
    }
}

/// An NHWC picture in 0..1 as networks of torchvision expect it: less the mean of [`IMAGENET`], divided by its
/// standard deviation.
///
/// # Errors
/// If it has neither three channels nor one.
pub fn normalised(b: &mut GraphBuilder, x: ValueId) -> Result<ValueId> {
    let [mean, deviation] = IMAGENET.map(|v| b.constant(HostTensor::from_f32([3], v.to_vec())));
    let x = b.sub(x, mean)?;
    b.div(x, deviation)
}

/// Whether a key is of a running statistic: no gradient reaches it.
pub fn is_running(key: &str) -> bool {
    key.ends_with(".running_mean") || key.ends_with(".running_var")
}

impl Network for ResNet {
    fn architecture(&self) -> &'static str {
        "resnet50"
    }

    fn ignores(&self, key: &str) -> bool {
        key.ends_with(".num_batches_tracked")
    }

    fn parameters(&self) -> Result<BTreeMap<String, Vec<usize>>> {
        Ok(self.graph(1, 32, 32)?.param_shapes().into_iter().collect())
    }

    fn forward(&self, given: &Given, run: &mut Run) -> Result<Outputs> {
        given.uses(&["x"]);
        let (x, [batch, channels, height, width]) = given.shaped("x", "[B, 3, H, W]")?;
        if channels != 3 {
            return Err(given.error(format!("\"x\" must have 3 channels, found {channels}")));
        }
        run(self.graph(batch, height, width)?, &[("x", x.clone())])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resnet50_has_the_published_size() {
        let net = ResNet::default();
        let shapes = net.parameters().unwrap();
        let trained = shapes.iter().filter(|(key, _)| !is_running(key));
        let count: usize = trained.map(|(_, s)| s.iter().product::<usize>()).sum();
        assert_eq!(count, 25_557_032); // torchvision.models.resnet50()
        assert_eq!(ResNet::from_config(None, &shapes).unwrap().0, net, "shapes tell everything");
    }

    #[test]
    fn shapes_tell_groups_and_widths() {
        let net =
            ResNet { layers: vec![1, 2, 1, 1], num_classes: 1, groups: 4, width_per_group: 32, inplanes: 16 };
        assert_eq!(ResNet::from_config(None, &net.parameters().unwrap()).unwrap().0, net);
    }

    #[test]
    fn unknown_keys_and_impossible_values_are_refused() {
        let refused = |json: Value| {
            let e = ResNet::from_config(Some(&json), &Shapes::new()).unwrap_err();
            assert!(matches!(e, Error::Usage(_)));
            e.to_string()
        };
        assert!(refused(serde_json::json!({"depth": 50})).contains("depth"));
        assert!(refused(serde_json::json!({"layers": [3, 0]})).contains("[3, 0]"));
        assert!(refused(serde_json::json!([])).contains("JSON object"));
    }
}
