//! Official parameter names for ncnn exports of the Real-ESRGAN networks.
//!
//! ncnn knows layers only in order. Shapes identify the network: the densely connected
//! convolutions of an RRDBNet widen in a pattern that nothing else has, and a compact SRVGG
//! strictly alternates convolutions and activations.

use std::collections::BTreeMap;

use super::{Layer, LayerWeights, Param};

/// A recognised network.
pub struct Network {
    /// Module path of each weighted layer, in order.
    pub modules: Vec<String>,
    /// `architecture`, `upscale` and what else the graph shows.
    pub metadata: BTreeMap<String, String>,
}

/// Recognises the network, or not.
pub fn recognise(layers: &[Layer], weights: &[LayerWeights]) -> Option<Network> {
    let (architecture, modules) = rrdbnet(layers, weights)
        .map(|m| ("rrdbnet", m))
        .or_else(|| srvgg(layers, weights).map(|m| ("srvgg", m)))?;
    let mut metadata = BTreeMap::from([("architecture".to_owned(), architecture.to_owned())]);
    metadata.extend(scales(layers, architecture));
    Some(Network { modules, metadata })
}

/// Shape of a convolution's weights.
fn conv<'a>(layers: &[Layer], w: &'a LayerWeights) -> Option<&'a [usize; 4]> {
    if layers[w.layer].kind != "Convolution" {
        return None;
    }
    w.tensors[0].1.shape().try_into().ok()
}

fn rrdbnet(layers: &[Layer], weights: &[LayerWeights]) -> Option<Vec<String>> {
    // conv_first, 15 convolutions a block, then body, up1, up2, hr, last.
    const TAIL: [&str; 5] = ["conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"];
    let in_blocks = weights.len().checked_sub(1 + TAIL.len())?;
    if in_blocks == 0 || in_blocks % 15 != 0 {
        return None;
    }
    let shapes: Vec<&[usize; 4]> = weights.iter().map(|w| conv(layers, w)).collect::<Option<_>>()?;
    let features = shapes[0][0];
    let growth = shapes[1][0];
    let mut modules = vec!["conv_first".to_owned()];
    for i in 0..in_blocks {
        let (block, rdb, k) = (i / 15, i / 5 % 3, i % 5);
        let out = if k == 4 { features } else { growth };
        if *shapes[1 + i] != [out, features + k * growth, 3, 3] {
            return None;
        }
        modules.push(format!("body.{block}.rdb{}.conv{}", rdb + 1, k + 1));
    }
    let tail = &shapes[1 + in_blocks..];
    let square = [features, features, 3, 3];
    if !tail[..4].iter().all(|s| **s == square) || tail[4][1] != features {
        return None;
    }
    modules.extend(TAIL.map(str::to_owned));
    Some(modules)
}

fn srvgg(layers: &[Layer], weights: &[LayerWeights]) -> Option<Vec<String>> {
    // conv, act, conv, act, …, conv: one module list `body`.
    if weights.len() < 3 || weights.len().is_multiple_of(2) {
        return None;
    }
    let alternate = weights.iter().enumerate().all(|(i, w)| {
        let wanted = if i % 2 == 0 { "Convolution" } else { "PReLU" };
        layers[w.layer].kind == wanted
    });
    let shuffles = layers.iter().any(|l| l.kind == "PixelShuffle");
    (alternate && shuffles).then(|| (0..weights.len()).map(|i| format!("body.{i}")).collect())
}

/// The network's own factor, and a fixed resize that some exports append to it.
fn scales(layers: &[Layer], architecture: &str) -> BTreeMap<String, String> {
    let factor = |l: &Layer| match l.params.get(&1) {
        Some(Param::Float(f)) => *f,
        Some(Param::Int(n)) => *n as f64,
        _ => 1.0,
    };
    let resizes: Vec<&Layer> = layers.iter().filter(|l| l.kind == "Interp").collect();
    let mut found = BTreeMap::new();
    if architecture == "rrdbnet" {
        found.insert("upscale".to_owned(), resizes.iter().map(|l| factor(l)).product::<f64>().to_string());
        return found;
    }
    if let Some(Param::Int(n)) =
        layers.iter().find(|l| l.kind == "PixelShuffle").and_then(|l| l.params.get(&0))
    {
        found.insert("upscale".to_owned(), n.to_string());
    }
    // The last layer of the ×2 and ×3 animation exports shrinks the ×4 result.
    if let Some(last) = layers.last().filter(|l| l.kind == "Interp") {
        found.insert("output_resize".to_owned(), factor(last).to_string());
    }
    found
}
