//! One file a network, top to bottom like its paper. A model adds nodes to a graph under
//! parameter names equal to the official checkpoint keys; it holds no numbers and runs nothing.

use std::collections::BTreeMap;
use std::fmt;

use crate::error::{Error, Result};
use crate::graph::{Graph, GraphBuilder, ValueId};
use crate::tensor::DType;

mod config;
pub mod controlformer;
pub(crate) mod denoiser;
pub mod latent_tiles;
pub mod load;
pub mod network;
pub mod pixart;
pub mod pixart_names;
pub mod resnet;
pub mod rrdbnet;
pub mod sincos;
pub mod srvgg;
pub mod swinir;
pub mod t5;
pub mod vae;
pub mod vgg;

/// Checkpoint keys with their shapes: what a model is inferred from when a file carries no
/// configuration.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// A network from picture to picture.
pub trait ImageNetwork: fmt::Debug + Send + Sync {
    /// The architecture's name on the command line: `swinir`, `rrdbnet`, `srvgg`.
    fn architecture(&self) -> &'static str;

    /// Records the network on an NHWC picture in 0..1; the result is `scale()` times as large.
    fn build(&self, b: &mut GraphBuilder, x: ValueId) -> Result<ValueId>;

    /// Channels in and out (3 for RGB, 1 for grey).
    fn channels(&self) -> usize;

    /// Output pixels per input pixel, along each axis.
    fn scale(&self) -> usize;

    /// Height and width must be multiples of this; pictures are reflect-padded to it and the
    /// result is cropped.
    fn multiple(&self) -> usize;

    /// How far, in input pixels, a result pixel can see; `None` where it is unbounded in practice.
    fn receptive_radius(&self) -> Option<usize>;

    /// The one input side that a learned position embedding allows; `None` where any side will do.
    fn fixed_side(&self) -> Option<usize> {
        None
    }

    /// The official key of a key found in a file (older vintages of the same network).
    fn rename(&self, key: &str) -> String {
        key.to_owned()
    }

    /// Whether a key in a file is a buffer that is recomputed, not a parameter.
    fn ignores(&self, _key: &str) -> bool {
        false
    }

    /// The hyper-parameters under their official names, as JSON.
    fn config(&self) -> serde_json::Value;

    /// The network as a graph for one input size. With `nchw`, input `x` and output `out` are
    /// `[B, C, H, W]` as in the official code; otherwise NHWC.
    fn graph(&self, batch: usize, height: usize, width: usize, nchw: bool) -> Result<Graph> {
        let c = self.channels();
        let mut b = GraphBuilder::new();
        let x = if nchw {
            let x = b.input("x", DType::F32, [batch, c, height, width])?;
            b.permute(x, [0, 2, 3, 1])?
        } else {
            b.input("x", DType::F32, [batch, height, width, c])?
        };
        let mut y = self.build(&mut b, x)?;
        if nchw {
            y = b.permute(y, [0, 3, 1, 2])?;
        }
        b.output("out", y);
        let mut graph = b.finish();
        crate::graph::passes::run(&mut graph, crate::ops::fuse::RULES, None)?;
        Ok(graph)
    }
}

/// The image networks that are known by name, for `--model` of `forward`.
pub const ARCHITECTURES: [&str; 3] = ["swinir", "rrdbnet", "srvgg"];

/// A network by its architecture name and its official configuration; values that the
/// configuration leaves out are taken from the weights' shapes where they can be, else from the
/// official defaults. Keys that do not change the forward are returned, to be noted.
pub fn from_config(
    architecture: &str,
    config: &serde_json::Value,
    shapes: &Shapes,
) -> Result<(Box<dyn ImageNetwork>, Vec<String>)> {
    match architecture {
        "swinir" => swinir::SwinIr::from_config(config, shapes).map(|(n, i)| (Box::new(n) as _, i)),
        "rrdbnet" => rrdbnet::RrdbNet::from_config(config, shapes).map(|(n, i)| (Box::new(n) as _, i)),
        "srvgg" => srvgg::SrVgg::from_config(config, shapes).map(|(n, i)| (Box::new(n) as _, i)),
        other => Err(Error::Usage(format!(
            "there is no image network \"{other}\"; expected one of {}",
            ARCHITECTURES.join(", ")
        ))),
    }
}

/// Every network that `forward` and `inspect --strict` know by name, with how it is read from its
/// configuration. One line a name.
#[rustfmt::skip]
pub static NETWORKS: &[(&str, network::FromConfig)] = &[
    ("swinir", |config, shapes| network::picture("swinir", config, shapes)),
    ("rrdbnet", |config, shapes| network::picture("rrdbnet", config, shapes)),
    ("srvgg", |config, shapes| network::picture("srvgg", config, shapes)),
    ("vae", |config, shapes| vae::VaeNetwork::open(vae::Half::Whole, config, shapes)),
    ("vae-encoder", |config, shapes| vae::VaeNetwork::open(vae::Half::Encoder, config, shapes)),
    ("vae-decoder", |config, shapes| vae::VaeNetwork::open(vae::Half::Decoder, config, shapes)),
    ("pixart", |config, shapes| pixart::PixArt::from_config(config, shapes).map(|(n, i)| (Box::new(n) as _, i))),
    ("dreamclear", |config, shapes| controlformer::DreamClear::from_config(config, shapes).map(|(n, i)| (Box::new(n) as _, i))),
    ("t5-encoder", t5::from_config),
    ("resnet50", |config, shapes| resnet::ResNet::from_config(config, shapes).map(|(n, i)| (Box::new(n) as _, i))),
];

/// The network that a checkpoint belongs to, by its keys and shapes.
pub fn infer(shapes: &Shapes) -> Result<Box<dyn ImageNetwork>> {
    if swinir::SwinIr::recognizes(shapes) {
        return Ok(Box::new(swinir::SwinIr::infer(shapes)?));
    }
    if rrdbnet::RrdbNet::recognizes(shapes) {
        return Ok(Box::new(rrdbnet::RrdbNet::infer(shapes)?));
    }
    if srvgg::SrVgg::recognizes(shapes) {
        return Ok(Box::new(srvgg::SrVgg::infer(shapes)?));
    }
    let some: Vec<_> = shapes.keys().take(3).map(String::as_str).collect();
    Err(Error::Weights(format!(
        "these weights belong to no known restoration network (SwinIR, RRDBNet or SRVGG); they begin with {}",
        if some.is_empty() { "nothing".to_owned() } else { some.join(", ") }
    )))
}
