//! ncnn models: a text `.param` (the layer graph) and a `.bin` (the weights in layer order).
//!
//! The `.bin` has no names and no shapes: both follow from the `.param`, and a size that does
//! not come out exactly means that the two files do not belong together.

mod names;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::blob::Blob;
use super::open::build;
use super::set::{Container, NamedTensors, WeightSet};
use crate::tensor::{Bytes, DType, HostTensor};
use crate::{Error, Result};

/// First line of every `.param`.
const MAGIC: &[u8] = b"7767517";
/// Tags in front of a layer's main weights.
const TAG_F16: u32 = 0x0130_6B47;
const TAG_INT8: u32 = 0x000D_4B38;
const TAG_F32: u32 = 0x0002_C056;
/// A key below this holds an array for key `-(key + 23300)`.
const ARRAY_KEY: i32 = -23300;

/// A value of a layer's parameter list.
#[derive(Clone, Debug, PartialEq)]
pub enum Param {
    /// A plain integer.
    Int(i64),
    /// A number with a point or an exponent.
    Float(f64),
    /// An array of numbers.
    Array(Vec<f64>),
}

/// One line of a `.param`.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Operation, such as `Convolution`.
    pub kind: String,
    /// The exporter's name for it.
    pub name: String,
    /// Blobs that it reads.
    pub inputs: Vec<String>,
    /// Blobs that it writes.
    pub outputs: Vec<String>,
    /// Numbered parameters; their meaning depends on the kind.
    pub params: BTreeMap<i32, Param>,
}

impl Layer {
    /// Integer parameter `key`, or `default` where it is not given.
    fn int(&self, key: i32, default: usize) -> Result<usize, String> {
        match self.params.get(&key) {
            None => Ok(default),
            Some(Param::Int(v)) => usize::try_from(*v).map_err(|_| self.bad(key, v)),
            Some(other) => Err(self.bad(key, &format!("{other:?}"))),
        }
    }

    fn bad(&self, key: i32, value: &dyn std::fmt::Display) -> String {
        format!("layer `{}` ({}) has parameter {key}={value}", self.name, self.kind)
    }
}

/// Whether a file begins like a `.param`.
pub fn is_param(bytes: &[u8]) -> bool {
    bytes.strip_prefix(MAGIC).is_some_and(|rest| matches!(rest.first(), Some(b'\n' | b'\r')))
}

/// Whether a file begins like a `.bin` in half precision.
pub fn is_tagged_bin(bytes: &[u8]) -> bool {
    bytes.starts_with(&TAG_F16.to_le_bytes())
}

/// Reads a `.param`.
///
/// # Errors
/// One sentence naming the line.
pub fn parse_param(bytes: &[u8]) -> Result<Vec<Layer>, String> {
    if !is_param(bytes) {
        return Err(
            "expected an ncnn text param, whose first line is 7767517 (binary params are not read)".into()
        );
    }
    let text = str::from_utf8(bytes).map_err(|_| "the ncnn param is not text")?;
    let mut lines = text.lines().enumerate().skip(1).filter(|(_, line)| !line.trim().is_empty());
    let counts = lines.next().map(|(_, line)| line).unwrap_or_default();
    let claimed: usize = counts
        .split_whitespace()
        .next()
        .and_then(|n| n.parse().ok())
        .ok_or("the second line of the ncnn param should hold the layer count")?;
    let layers: Vec<Layer> = lines
        .map(|(i, line)| {
            parse_layer(line).ok_or_else(|| format!("line {} of the ncnn param is not a layer", i + 1))
        })
        .collect::<Result<_, _>>()?;
    if layers.len() != claimed {
        return Err(format!(
            "the ncnn param announces {claimed} layers but holds {}: it is truncated",
            layers.len()
        ));
    }
    Ok(layers)
}

fn parse_layer(line: &str) -> Option<Layer> {
    let mut words = line.split_whitespace();
    let mut word = || words.next().map(str::to_owned);
    let (kind, name) = (word()?, word()?);
    let (inputs, outputs): (usize, usize) = (word()?.parse().ok()?, word()?.parse().ok()?);
    let inputs = (0..inputs).map(|_| word()).collect::<Option<_>>()?;
    let outputs = (0..outputs).map(|_| word()).collect::<Option<_>>()?;
    let params = words
        .map(|assignment| {
            let (key, value) = assignment.split_once('=')?;
            let key: i32 = key.parse().ok()?;
            if key <= ARRAY_KEY {
                // The first number is the length.
                let mut numbers = value.split(',').map(|v| v.parse::<f64>().ok());
                let len = numbers.next()??;
                let array: Vec<f64> = numbers.collect::<Option<_>>()?;
                return (array.len() as f64 == len)
                    .then_some((ARRAY_KEY.checked_sub(key)?, Param::Array(array)));
            }
            let number = value.parse().map(Param::Int).or_else(|_| value.parse().map(Param::Float));
            Some((key, number.ok()?))
        })
        .collect::<Option<_>>()?;
    Some(Layer { kind, name, inputs, outputs, params })
}

/// The weights of one layer, shaped as PyTorch has them.
#[derive(Clone, Debug)]
pub struct LayerWeights {
    /// Index of the layer in the graph.
    pub layer: usize,
    /// `weight`, `bias`, `running_mean`, …
    pub tensors: Vec<(&'static str, HostTensor)>,
}

/// Reads a `.bin` along its graph.
///
/// # Errors
/// One sentence naming the layer at which the two files part.
pub fn read_weights(layers: &[Layer], bin: &Blob) -> Result<Vec<LayerWeights>, String> {
    let mut bin = Bin { blob: bin, at: 0 };
    let mut all = Vec::new();
    for (layer, l) in layers.iter().enumerate() {
        let fail = |e: String| format!("layer `{}` ({}): {e}", l.name, l.kind);
        let tensors = read_layer(l, &mut bin).map_err(fail)?;
        if !tensors.is_empty() {
            all.push(LayerWeights { layer, tensors });
        }
    }
    let left = bin.blob.bytes().len() - bin.at;
    if left != 0 {
        return Err(format!("{left} bytes are left over: the .param and the .bin do not belong together"));
    }
    Ok(all)
}

fn read_layer(l: &Layer, bin: &mut Bin) -> Result<Vec<(&'static str, HostTensor)>, String> {
    let mut tensors = Vec::new();
    match l.kind.as_str() {
        "Convolution" | "ConvolutionDepthWise" | "Deconvolution" | "DeconvolutionDepthWise" => {
            let (out, kw) = (l.int(0, 0)?, l.int(1, 0)?);
            let (kh, size) = (l.int(11, kw)?, l.int(6, 0)?);
            refuse_int8(l, 8)?;
            let per_input = out.checked_mul(kw).and_then(|n| n.checked_mul(kh)).filter(|&n| n > 0);
            let inputs = per_input
                .filter(|n| size.is_multiple_of(*n))
                .map(|n| size / n)
                .ok_or_else(|| format!("{size} weights do not make {out} filters of {kh}×{kw}"))?;
            tensors.push(("weight", bin.tagged(vec![out, inputs, kh, kw])?));
            if l.int(5, 0)? != 0 {
                tensors.push(("bias", bin.raw(vec![out])?));
            }
        }
        "InnerProduct" => {
            let (out, size) = (l.int(0, 0)?, l.int(2, 0)?);
            refuse_int8(l, 8)?;
            if out == 0 || !size.is_multiple_of(out) {
                return Err(format!("{size} weights do not make {out} rows"));
            }
            tensors.push(("weight", bin.tagged(vec![out, size / out])?));
            if l.int(1, 0)? != 0 {
                tensors.push(("bias", bin.raw(vec![out])?));
            }
        }
        "PReLU" => tensors.push(("weight", bin.raw(vec![l.int(0, 0)?])?)),
        "BatchNorm" => {
            for name in ["weight", "running_mean", "running_var", "bias"] {
                tensors.push((name, bin.raw(vec![l.int(0, 0)?])?));
            }
        }
        "Input" | "Split" | "Concat" | "Eltwise" | "BinaryOp" | "UnaryOp" | "Interp" | "PixelShuffle"
        | "ReLU" | "Sigmoid" | "TanH" | "Clip" | "HardSwish" | "HardSigmoid" | "Swish" | "GELU"
        | "Softmax" | "Padding" | "Pooling" | "Crop" | "Slice" | "Reshape" | "Permute" | "Flatten"
        | "Squeeze" | "ExpandDims" | "Reduction" | "Reorg" | "ShuffleChannel" | "Noop" | "Dropout" => {}
        other => return Err(format!("{other} is not a kind of layer that is read; it may carry weights")),
    }
    Ok(tensors)
}

fn refuse_int8(l: &Layer, key: i32) -> Result<(), String> {
    match l.int(key, 0)? {
        0 => Ok(()),
        _ => Err("its weights are int8; use the f16 or f32 export".into()),
    }
}

struct Bin<'a> {
    blob: &'a Blob,
    at: usize,
}

impl Bin<'_> {
    fn take(&mut self, elements: usize, dtype: DType) -> Result<Arc<dyn Bytes>, String> {
        let end = elements.checked_mul(dtype.size()).and_then(|n| self.at.checked_add(n));
        let part = end.and_then(|end| self.blob.part(self.at..end)).ok_or_else(|| {
            format!("the .bin ends before its {elements} weights: truncated, or of another .param")
        })?;
        // Everything starts at a multiple of four.
        self.at = (self.at + part.bytes().len()).next_multiple_of(4).min(self.blob.bytes().len());
        Ok(part)
    }

    fn raw(&mut self, shape: Vec<usize>) -> Result<HostTensor, String> {
        let data = self.take(shape.iter().product(), DType::F32)?;
        Ok(HostTensor::from_bytes(DType::F32, shape, data))
    }

    /// Weights with a tag in front that says how they are stored.
    fn tagged(&mut self, shape: Vec<usize>) -> Result<HostTensor, String> {
        let tag = self.take(1, DType::F32)?.bytes().first_chunk().map_or(0, |b| u32::from_le_bytes(*b));
        match tag {
            TAG_F16 => {
                let data = self.take(shape.iter().product(), DType::F16)?;
                Ok(HostTensor::from_bytes(DType::F16, shape, data))
            }
            0 | TAG_F32 => self.raw(shape),
            TAG_INT8 => Err("its weights are int8; use the f16 or f32 export".into()),
            // Any other tag: a table of 256 floats, then one byte for each weight.
            _ => {
                let table = self.raw(vec![256])?.to_f32().into_owned();
                let indices = self.take(shape.iter().product(), DType::U8)?;
                let values = indices.bytes().iter().map(|&i| table[usize::from(i)]).collect();
                Ok(HostTensor::from_f32(shape, values))
            }
        }
    }
}

/// Names and metadata for weights: the official ones where the network is recognised, else
/// `<layer name>.weight`.
pub fn name_weights(
    layers: &[Layer],
    weights: Vec<LayerWeights>,
) -> (NamedTensors, BTreeMap<String, String>) {
    let network = names::recognise(layers, &weights);
    let mut tensors = NamedTensors::new();
    for (i, w) in weights.into_iter().enumerate() {
        let name = network.as_ref().map_or(&layers[w.layer].name, |n| &n.modules[i]);
        tensors.extend(w.tensors.into_iter().map(|(part, t)| (format!("{name}.{part}"), t)));
    }
    (tensors, network.map(|n| n.metadata).unwrap_or_default())
}

/// Opens a pair of ncnn files.
pub(super) fn open(param: &Path, bin: &Path) -> Result<WeightSet> {
    for (have, lack) in [(param, bin), (bin, param)] {
        if !lack.is_file() {
            let message =
                format!("ncnn weights come in two files, and {} is missing beside it", lack.display());
            return Err(Error::file(have, message));
        }
    }
    let layers = parse_param(Blob::map(param)?.bytes()).map_err(|m| Error::file(param, m))?;
    let blob = Blob::map(bin)?;
    let weights = read_weights(&layers, &blob).map_err(|m| Error::file(bin, m))?;
    let (tensors, metadata) = name_weights(&layers, weights);
    Ok(build(bin, Container::Ncnn, tensors, None, metadata))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAM: &str = "7767517\n3 3\nInput in 0 1 data\nConvolution c0 1 1 data x 0=2 1=1 5=1 6=6 9=2 -23310=1,2.0e-01\nPReLU p 1 1 x y 0=2\n";

    #[test]
    fn reads_f16_f32_and_table_weights() {
        let layers = parse_param(PARAM.as_bytes()).unwrap();
        assert_eq!(layers[1].params[&10], Param::Array(vec![0.2]));
        let f32s = |v: &[f32]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let tail = f32s(&[7.0, 8.0, 0.1, 0.2]); // bias, slopes
        let half: Vec<u8> = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
            .iter()
            .flat_map(|&x| half::f16::from_f32(x).to_le_bytes())
            .collect();
        let table: Vec<f32> = (0..256).map(|i| i as f32).collect();
        let stored: [(u32, Vec<u8>); 3] = [
            (TAG_F16, half),
            (0, f32s(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])),
            (1, [f32s(&table), vec![1, 2, 3, 4, 5, 6, 0, 0]].concat()),
        ];
        for (tag, weights) in stored {
            let bin = [&tag.to_le_bytes()[..], &weights, &tail].concat();
            let all = read_weights(&layers, &bin.clone().into()).unwrap();
            assert_eq!(all[0].tensors[0].1.shape(), [2, 3, 1, 1]);
            assert_eq!(all[0].tensors[0].1.to_f64(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
            assert_eq!(all[0].tensors[1].1.to_f64(), [7.0, 8.0]);
            assert_eq!(all[1].tensors[0].1.to_f32().as_ref(), [0.1, 0.2]);
            let (tensors, _) = name_weights(&layers, all);
            assert_eq!(tensors[0].0, "c0.weight");
            for cut in 0..bin.len() {
                assert!(read_weights(&layers, &bin[..cut].to_vec().into()).is_err(), "cut at {cut}");
            }
            let longer = [&bin[..], &[0; 4]].concat();
            assert!(read_weights(&layers, &longer.into()).unwrap_err().contains("left over"));
        }
    }

    #[test]
    fn damaged_params_name_the_line() {
        for (bad, says) in [
            ("7767517\n", "layer count"),
            ("7767517\n2 1\nInput in 0 1 data\n", "announces 2 layers"),
            ("7767517\n1 1\nInput in 0 9 data\n", "line 3"),
            ("7767517\n1 1\nConvolution c 1 1 a b 0=x\n", "line 3"),
        ] {
            let error = parse_param(bad.as_bytes()).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        let unknown = parse_param(b"7767517\n1 1\nLSTM l 1 1 a b 0=4\n").unwrap();
        assert!(read_weights(&unknown, &vec![0; 64].into()).unwrap_err().contains("LSTM"));
        let zero = parse_param(b"7767517\n1 1\nConvolution c 1 1 a b 0=0 1=3 6=9\n").unwrap();
        assert!(read_weights(&zero, &vec![0; 64].into()).is_err());
    }
}
