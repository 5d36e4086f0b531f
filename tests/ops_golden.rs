//! Single operations against numbers from PyTorch (`tests/golden/ops_*.safetensors`, made by
//! `tools/golden/ops.py`), forwards and backwards, through graph, plan and fast path. Goldens are
//! NCHW; the graphs permute, so views are exercised too.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use dreamclear::Result;
use dreamclear::device::cpu::CpuDevice;
use dreamclear::graph::{Executable, GraphBuilder, Plan, ValueId};
use dreamclear::ops::attention::AttentionOptions;
use dreamclear::ops::pad_edges;
use dreamclear::ops::resize::Mode;
use dreamclear::tensor::HostTensor;
use dreamclear::weights::WeightSet;
use serde_json::Value;

/// Largest relative L2 distance allowed.
const TOLERANCE: f64 = 1e-5;

/// One case: its name, its parameters in PyTorch's words, and values for its inputs.
struct Golden<'a> {
    name: &'a str,
    parameters: &'a Value,
    inputs: HashMap<&'a str, ValueId>,
}

impl Golden<'_> {
    fn input(&self, name: &str) -> ValueId {
        self.inputs[name]
    }

    fn number(&self, name: &str) -> f64 {
        self.parameters[name].as_f64().unwrap_or_else(|| panic!("{}: no number \"{name}\"", self.name))
    }

    fn numbers<T>(&self, name: &str, convert: impl Fn(i64) -> T) -> Vec<T> {
        let list = self.parameters[name].as_array().unwrap_or_else(|| panic!("{}: no \"{name}\"", self.name));
        list.iter().map(|n| convert(n.as_i64().expect("a whole number"))).collect()
    }
}

/// `f` on a channels-last view of an NCHW value.
fn channels_last(
    b: &mut GraphBuilder,
    x: ValueId,
    f: impl FnOnce(&mut GraphBuilder, ValueId) -> Result<ValueId>,
) -> Result<ValueId> {
    let x = b.permute(x, [0, 2, 3, 1])?;
    let y = f(b, x)?;
    b.permute(y, [0, 3, 1, 2])
}

/// Runs all cases of one file; `build` adds the operation, or `None` for a case that the crate
/// has no operation for. At least `at_least` cases must have run.
fn check(op: &str, at_least: usize, build: impl Fn(&mut GraphBuilder, &Golden) -> Option<Result<ValueId>>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/ops_{op}.safetensors"));
    let file = WeightSet::open(&path).expect("golden file");
    let cases: Value = serde_json::from_str(&file.metadata()["cases"]).expect("cases are JSON");
    let device = Arc::new(CpuDevice::new(2).expect("threads"));
    let (mut failures, mut ran) = (Vec::new(), 0);
    for (name, parameters) in cases.as_object().expect("an object of cases") {
        let tensor = |t: &str| file.get(&format!("{name}.{t}"));
        let prefix = format!("{name}.");
        let all: Vec<&str> = file.names().filter_map(|n| n.strip_prefix(&prefix)).collect();
        // Results are `out` and, for every float input, `d<input>`; the cotangent `dout` is given.
        let is_gradient = |t: &str| t != "dout" && t.strip_prefix('d').is_some_and(|t| all.contains(&t));
        let is_result = |t: &str| t == "out" || is_gradient(t);
        let inputs: Vec<&str> = all.iter().copied().filter(|t| !is_result(t)).collect();
        let mut b = GraphBuilder::new();
        let mut leaves: Vec<(&str, HostTensor)> = Vec::new();
        let mut values = HashMap::new();
        for &t in &inputs {
            let data = tensor(t).expect("listed").clone();
            values.insert(t, b.input(t, data.dtype(), data.shape()).expect("input"));
            leaves.push((t, data));
        }
        let golden = Golden { name, parameters, inputs: values };
        let Some(y) = build(&mut b, &golden) else { continue };
        let y = y.unwrap_or_else(|e| panic!("{op}/{name}: {e}"));
        b.output("out", y);
        let wanted: Vec<&str> = inputs
            .iter()
            .copied()
            .filter(|t| *t != "dout" && all.contains(&format!("d{t}").as_str()))
            .collect();
        let wrt: Vec<ValueId> = wanted.iter().map(|t| golden.inputs[t]).collect();
        let d = dreamclear::ops::gradients(&mut b, &[(y, golden.input("dout"))], &wrt)
            .unwrap_or_else(|e| panic!("{op}/{name}: {e}"));
        for (t, d) in wanted.iter().zip(d) {
            b.output(&format!("d{t}"), d.expect("every input reaches the result"));
        }
        let plan = Plan::new(b.finish(), device.threads()).expect("plan");
        let mut run = Executable::new(plan, device.clone(), |_| None).expect("executable");
        for (result, got) in run.run_checked(&leaves).unwrap_or_else(|e| panic!("{op}/{name}: {e}")) {
            let want = tensor(&result).unwrap_or_else(|| panic!("{op}/{name}: no golden \"{result}\""));
            assert_eq!(got.shape(), want.shape(), "{op}/{name}: shape of {result}");
            let error = distance(&got.to_f64(), &want.to_f64());
            let close = error <= TOLERANCE; // false for NaN
            if !close {
                failures.push(format!("{name}: {result} is off by {error:.2e}"));
            }
        }
        ran += 1;
    }
    assert!(failures.is_empty(), "{op}:\n{}", failures.join("\n"));
    assert!(ran >= at_least, "{op}: only {ran} cases ran");
}

/// Relative L2 distance.
fn distance(got: &[f64], want: &[f64]) -> f64 {
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut got.iter().zip(want).map(|(g, w)| g - w)) / norm(&mut want.iter().copied()).max(1e-30)
}

#[test]
fn golden_activation() {
    check("activation", 8, |b, g| {
        let x = g.input("x");
        Some(match g.name {
            "gelu_erf" => b.gelu(x),
            "gelu_tanh" => b.gelu_tanh(x),
            "silu" => b.silu(x),
            "relu" => b.relu(x),
            "sigmoid" => b.sigmoid(x),
            "tanh" => b.tanh(x),
            "prelu" => channels_last(b, x, |b, x| b.prelu(x, g.input("weight"))),
            "softplus" => return None, // no network here uses it
            _ => b.leaky_relu(x, g.number("negative_slope") as f32),
        })
    });
}

#[test]
fn golden_embedding() {
    check("embedding", 2, |b, g| Some(b.embedding(g.input("weight"), g.input("ids"))));
}

#[test]
fn golden_interpolate() {
    check("interpolate", 60, |b, g| {
        let align_corners = g.parameters["align_corners"].as_bool().unwrap_or(false);
        let antialias = g.parameters["antialias"].as_bool().unwrap_or(false);
        let mode = match (g.parameters["mode"].as_str().expect("a mode"), antialias) {
            ("nearest", _) => Mode::Nearest,
            ("nearest-exact", _) => Mode::NearestExact,
            ("area", _) => Mode::Area,
            ("bilinear", false) => Mode::Bilinear { align_corners },
            ("bicubic", false) => Mode::Bicubic { align_corners },
            ("bilinear", true) => Mode::BilinearAntialias,
            ("bicubic", true) => Mode::BicubicAntialias,
            (other, _) => panic!("unknown mode {other}"),
        };
        Some(channels_last(b, g.input("x"), |b, x| {
            if g.parameters["size"].is_null() {
                let factor = g.number("scale_factor");
                b.resize_by(x, [factor, factor], mode)
            } else {
                let size = g.numbers("size", |n| n as usize);
                b.resize(x, [size[0], size[1]], mode)
            }
        }))
    });
}

#[test]
fn golden_norm() {
    check("norm", 12, |b, g| {
        let (x, eps) = (g.input("x"), g.number("eps") as f32);
        let affine = g.inputs.get("bias").map(|&bias| (g.input("weight"), bias));
        Some(match g.name.split('_').next() {
            Some("layer") => b.layer_norm(x, affine, eps),
            Some("rms") => b.rms_norm(x, Some(g.input("weight")), eps),
            Some("group") => {
                let groups = g.number("num_groups") as usize;
                channels_last(b, x, |b, x| b.group_norm(x, groups, affine.expect("weight and bias"), eps))
            }
            _ => panic!("unknown case {}", g.name),
        })
    });
}

#[test]
fn golden_pad() {
    check("pad", 10, |b, g| {
        let amounts = g.numbers("pad", |n| n); // left, right, top, bottom
        let mode = match g.parameters["mode"].as_str() {
            Some("reflect") => Some(pad_edges::Mode::Reflect),
            Some("replicate") => Some(pad_edges::Mode::Replicate),
            _ => None,
        };
        Some(channels_last(b, g.input("x"), |b, mut x| {
            // A negative amount crops.
            for (axis, before, after) in [(1, amounts[2], amounts[3]), (2, amounts[0], amounts[1])] {
                let (from, to) = ((-before).max(0) as usize, (-after).max(0) as usize);
                let len = b.shape(x)[axis] - from - to;
                x = b.slice(x, axis, from, len)?;
            }
            let zeros = |a: i64, b: i64| vec![0, a.max(0) as usize, b.max(0) as usize, 0];
            let (before, after) = (zeros(amounts[2], amounts[0]), zeros(amounts[3], amounts[1]));
            match mode {
                Some(mode) => b.pad_edges(x, mode, before, after),
                None => {
                    let value = b.scalar(g.number("value") as f32);
                    let x = b.sub(x, value)?;
                    let x = b.pad_zeros(x, before, after)?;
                    b.add(x, value)
                }
            }
        }))
    });
}

#[test]
fn golden_pixel_shuffle() {
    check("pixel_shuffle", 6, |b, g| {
        Some(channels_last(b, g.input("x"), |b, x| match g.parameters["upscale_factor"].is_null() {
            false => b.pixel_shuffle(x, g.number("upscale_factor") as usize),
            true => b.pixel_unshuffle(x, g.number("downscale_factor") as usize),
        }))
    });
}

#[test]
fn golden_softmax() {
    check("softmax", 6, |b, g| {
        let (x, dim) = (g.input("x"), g.number("dim") as usize);
        let mut axes: Vec<usize> = (0..b.shape(x).len()).collect();
        let last = axes.len() - 1;
        axes.swap(dim, last);
        let build = |b: &mut GraphBuilder| {
            let x = b.permute(x, axes.clone())?;
            let y = b.softmax(x)?;
            b.permute(y, axes)
        };
        Some(build(b))
    });
}

#[test]
fn golden_attention() {
    check("attention", 10, |b, g| {
        let build = |b: &mut GraphBuilder| {
            let mut tokens_first = |name| b.permute(g.input(name), [0, 2, 1, 3]);
            let (q, k, v) = (tokens_first("q")?, tokens_first("k")?, tokens_first("v")?);
            let key_lengths = (!g.parameters["key_lengths"].is_null()).then(|| {
                let lengths = g.numbers("key_lengths", |n| n);
                b.constant(HostTensor::from_i64([lengths.len()], lengths))
            });
            let options = AttentionOptions {
                scale: Some(g.number("scale") as f32),
                causal: g.parameters["is_causal"] == true,
                bias: g.inputs.get("bias").copied(),
                key_lengths,
                ..Default::default()
            };
            let out = b.attention(q, k, v, options)?;
            b.permute(out, [0, 2, 1, 3])
        };
        Some(build(b))
    });
}
