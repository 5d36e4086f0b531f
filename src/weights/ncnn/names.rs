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

#[cfg(test)]
mod tests {
    use super::super::{name_weights, parse_param, read_weights};

    /// Names and metadata for a `.param` with zeros for weights.
    fn names(lines: &[String]) -> (Vec<String>, Vec<(String, String)>) {
        let text = format!("7767517\n{} 1\n{}\n", lines.len(), lines.join("\n"));
        let layers = parse_param(text.as_bytes()).unwrap();
        // Raw f32 (tag 0): find the length at which nothing is missing or left over.
        let blob = (0..40_000).step_by(4).map(|n| vec![0u8; n].into());
        let weights = blob.map(|b| read_weights(&layers, &b)).find_map(Result::ok).unwrap();
        let (tensors, metadata) = name_weights(&layers, weights);
        (tensors.into_iter().map(|(n, _)| n).collect(), metadata.into_iter().collect())
    }

    fn conv(out: usize, inputs: usize) -> String {
        format!("Convolution c 1 1 a b 0={out} 1=3 4=1 5=1 6={}", out * inputs * 9)
    }

    fn rrdbnet(blocks: usize) -> Vec<String> {
        let (features, growth) = (4, 2);
        let mut lines = vec![conv(features, 3)];
        for _ in 0..3 * blocks {
            lines.extend((0..4).map(|k| conv(growth, features + k * growth)));
            lines.push(conv(features, features + 4 * growth));
        }
        lines.push(conv(features, features));
        for _ in 0..2 {
            lines.push("Interp up 1 1 a b 0=1 1=2.0e+00 2=2.0e+00".into());
            lines.push(conv(features, features));
        }
        lines.extend([conv(features, features), conv(3, features)]);
        lines
    }

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn rrdbnet_gets_the_official_names() {
        let (found, metadata) = names(&rrdbnet(2));
        assert_eq!(found.len(), 2 * (1 + 2 * 15 + 5));
        assert_eq!(found[..2], ["conv_first.weight", "conv_first.bias"]);
        assert_eq!(found[2], "body.0.rdb1.conv1.weight");
        assert_eq!(found[2 + 2 * 29], "body.1.rdb3.conv5.weight");
        let tail: Vec<&str> = found[62..].iter().step_by(2).map(String::as_str).collect();
        let modules = ["conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"];
        assert_eq!(tail, modules.map(|m| format!("{m}.weight")));
        assert_eq!(metadata, [pair("architecture", "rrdbnet"), pair("upscale", "4")]);
    }

    #[test]
    fn srvgg_counts_modules() {
        let act = || "PReLU p 1 1 a b 0=4".to_owned();
        let shuffle = "PixelShuffle s 1 1 a b 0=2".to_owned();
        let resize = "Interp r 1 1 a b 0=3 1=5.0e-01 2=5.0e-01".to_owned();
        let (found, metadata) = names(&[conv(4, 3), act(), conv(4, 4), act(), conv(12, 4), shuffle, resize]);
        let expected =
            ["0.weight", "0.bias", "1.weight", "2.weight", "2.bias", "3.weight", "4.weight", "4.bias"];
        assert_eq!(found, expected.map(|n| format!("body.{n}")));
        assert_eq!(
            metadata,
            [pair("architecture", "srvgg"), pair("output_resize", "0.5"), pair("upscale", "2")]
        );
    }

    #[test]
    fn another_network_keeps_its_layer_names() {
        let mut lines = rrdbnet(1);
        lines[3] = conv(2, 5);
        let (found, metadata) = names(&lines);
        assert_eq!(found[0], "c.weight");
        assert!(metadata.is_empty());
    }
}
