//! The engine without any model: errors that name their place, views without copies, fusion,
//! memory, the debug run.

use std::sync::Arc;

use dreamclear::Error;
use dreamclear::device::cpu::CpuDevice;
use dreamclear::device::kernel::DeviceFacts;
use dreamclear::graph::plan::Target;
use dreamclear::graph::{Executable, Graph, GraphBuilder, Plan, dump, passes};
use dreamclear::models::{ImageNetwork, rrdbnet::RrdbNet, swinir::SwinIr};
use dreamclear::ops::conv2d::ConvSpec;
use dreamclear::ops::{self, fuse};
use dreamclear::tensor::{DType, HostTensor};

fn run(graph: Graph, inputs: &[(&str, HostTensor)]) -> Vec<f64> {
    let device = Arc::new(CpuDevice::new(2).unwrap());
    let plan = Plan::new(graph, 2).unwrap();
    let param = |key: &str| -> Option<HostTensor> { panic!("no parameter {key}") };
    let mut exe = Executable::new(plan, device, param).unwrap();
    exe.run_checked(inputs).unwrap().swap_remove(0).1.to_f64()
}

/// All results.
fn run_all(graph: Graph, inputs: &[(&str, HostTensor)]) -> Vec<Vec<f64>> {
    let device = Arc::new(CpuDevice::new(2).unwrap());
    let param = |key: &str| -> Option<HostTensor> { panic!("no parameter {key}") };
    let mut exe = Executable::new(Plan::new(graph, 2).unwrap(), device, param).unwrap();
    exe.run_checked(inputs).unwrap().into_iter().map(|(_, t)| t.to_f64()).collect()
}

fn ramp(shape: &[usize]) -> HostTensor {
    let n: usize = shape.iter().product();
    HostTensor::from_f32(shape, (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect())
}

#[test]
fn shape_errors_name_the_place_in_the_model() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [1, 8, 8, 3]).unwrap();
    let e = b
        .scope("layers.2", |b| {
            b.scope("attn.qkv", |b| {
                let w = b.param("weight", [12, 4])?;
                b.linear(x, w, None)
            })
        })
        .unwrap_err();
    assert_eq!(e.to_string(), "layers.2.attn.qkv: linear: x has 3 features, the weight f32[12, 4] takes 4");
}

#[test]
fn one_key_has_one_shape() {
    let mut b = GraphBuilder::new();
    let w = b.param("weight", [3, 3]).unwrap();
    assert_eq!(b.param("weight", [3, 3]).unwrap(), w, "shared weights are one value");
    let e = b.param("weight", [4, 3]).unwrap_err().to_string();
    assert!(e.contains("\"weight\" is asked for as f32[4, 3], but already is f32[3, 3]"), "{e}");
}

#[test]
fn a_missing_gradient_is_an_error_not_a_zero() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [4]).unwrap();
    let y = b.gelu(x).unwrap();
    let dy = b.input("dy", DType::F32, [4]).unwrap();
    let dx = ops::gradients(&mut b, &[(y, dy)], &[x]).unwrap()[0].unwrap();
    let ddx = b.input("ddx", DType::F32, [4]).unwrap();
    let e = ops::gradients(&mut b, &[(dx, ddx)], &[x]).unwrap_err().to_string();
    assert!(e.contains("activation_grad: has no gradient"), "{e}");
    // What a seed does not depend on has no gradient, which is not an error.
    let unrelated = b.input("z", DType::F32, [4]).unwrap();
    assert_eq!(ops::gradients(&mut b, &[(y, dy)], &[unrelated]).unwrap(), [None]);
}

#[test]
fn gradients_of_shared_values_add_up() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [3]).unwrap();
    let xx = b.mul(x, x).unwrap();
    let y = b.mul(xx, x).unwrap(); // x³
    let dy = b.constant(HostTensor::from_f32([3], vec![1.0; 3]));
    let dx = ops::gradients(&mut b, &[(y, dy)], &[x]).unwrap()[0].unwrap();
    b.output("dx", dx);
    let got = run(b.finish(), &[("x", HostTensor::from_f32([3], vec![1.0, -2.0, 0.5]))]);
    assert_eq!(got, [3.0, 12.0, 0.75]);
}

#[test]
fn splitting_qkv_copies_nothing() {
    let mut b = GraphBuilder::new();
    let qkv = b.input("qkv", DType::F32, [2, 10, 3 * 4 * 8]).unwrap();
    let five = b.reshape(qkv, [2, 10, 3, 4, 8]).unwrap();
    let part = |b: &mut GraphBuilder, i| {
        let s = b.slice(five, 2, i, 1).unwrap();
        b.reshape(s, [2, 10, 4, 8]).unwrap()
    };
    let (q, k, v) = (part(&mut b, 0), part(&mut b, 1), part(&mut b, 2));
    let out = b.attention(q, k, v, Default::default()).unwrap();
    b.output("out", out);
    let plan = Plan::new(b.finish(), 1).unwrap();
    let names: Vec<_> = plan.steps.iter().map(|s| s.name()).collect();
    assert_eq!(names, ["attention"], "{}", plan.explain());
}

#[test]
fn chains_of_elementwise_ops_overwrite_one_buffer() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [1 << 16]).unwrap();
    let mut y = b.scale(x, 2.0).unwrap();
    for _ in 0..10 {
        y = b.gelu(y).unwrap();
    }
    b.output("y", y);
    let plan = Plan::new(b.finish(), 1).unwrap();
    assert_eq!(plan.arena_bytes, 4 << 16, "{}", plan.explain());
}

#[test]
fn fusion_absorbs_neighbours_and_changes_no_number() {
    fuses_with_weights_in(DType::F32);
    fuses_with_weights_in(DType::BF16);
}

fn fuses_with_weights_in(dtype: DType) {
    let build = || {
        let mut b = GraphBuilder::new();
        let x = b.input("x", DType::F32, [1, 6, 7, 5]).unwrap();
        let z = b.input("z", DType::F32, [1, 6, 7, 3]).unwrap();
        let w = b.constant(ramp(&[4, 8, 3, 3]).cast(dtype));
        let bias = b.constant(ramp(&[4]));
        let both = b.concat(&[x, z], 3).unwrap();
        let large = b.upsample_nearest(both, 2).unwrap();
        let y = b.conv2d(large, w, Some(bias), ConvSpec::same(3)).unwrap();
        let y = b.leaky_relu(y, 0.2).unwrap();
        let y = b.scale(y, 0.2).unwrap();
        let r = b.input("r", DType::F32, [1, 12, 14, 4]).unwrap();
        let y = b.add(r, y).unwrap();
        b.output("y", y);
        b.finish()
    };
    let plain = build();
    let mut fused = build();
    let applied = passes::run(&mut fused, fuse::RULES, None).unwrap();
    assert!(applied.iter().all(|(_, n)| *n <= 1), "{applied:?}");
    let names: Vec<_> = fused.nodes.iter().map(|n| n.op.name()).collect();
    assert_eq!(names, ["conv2d"], "{}", dump::text(&fused));
    let inputs = [("x", ramp(&[1, 6, 7, 5])), ("z", ramp(&[1, 6, 7, 3])), ("r", ramp(&[1, 12, 14, 4]))];
    let (a, b) = (run(plain, &inputs), run(fused, &inputs));
    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-5), "fusion changed numbers");
    // Stopped after one rewrite for a look.
    let mut one = build();
    let applied = passes::run(&mut one, fuse::RULES, Some(1)).unwrap();
    assert_eq!(applied.iter().map(|(_, n)| n).sum::<usize>(), 1);
}

/// x + gate·linear(h) is one product, which leaves its result in x.
#[test]
fn fusion_gates_in_the_epilogue() {
    let build = || {
        let mut b = GraphBuilder::new();
        let x = b.input("x", DType::F32, [2, 7, 5]).unwrap();
        let h = b.input("h", DType::F32, [2, 7, 3]).unwrap();
        let gates = b.input("gates", DType::F32, [2, 6, 5]).unwrap();
        let (w, bias) = (b.constant(ramp(&[5, 3])), b.constant(ramp(&[5])));
        let x = b.silu(x).unwrap();
        let gate = b.slice(gates, 1, 2, 1).unwrap();
        let y = b.linear(h, w, Some(bias)).unwrap();
        let y = b.gated_residual(x, gate, y).unwrap();
        b.output("y", y);
        b.finish()
    };
    let mut fused = build();
    passes::run(&mut fused, fuse::RULES, None).unwrap();
    let names: Vec<_> = fused.nodes.iter().map(|n| n.op.name()).collect();
    assert_eq!(names, ["activation", "slice", "linear"], "{}", dump::text(&fused));
    assert_eq!(Plan::new(fused.clone(), 1).unwrap().steps[1].in_place, Some(4));
    let inputs = [("x", ramp(&[2, 7, 5])), ("h", ramp(&[2, 7, 3])), ("gates", ramp(&[2, 6, 5]))];
    let (a, b) = (run(build(), &inputs), run(fused, &inputs));
    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-5), "fusion changed numbers");
}

/// A product that adds to a stream gives the norms of the sum, however late their vectors are recorded; what else reads
/// the stream in half precision gets it so from the same launch.
#[test]
fn fusion_norms_what_a_product_adds_to() {
    let build = || {
        let mut b = GraphBuilder::new();
        let x = b.input("x", DType::F32, [2, 40, 72]).unwrap();
        let h = b.input("h", DType::F32, [2, 40, 24]).unwrap();
        let t = b.input("t", DType::F32, [1, 3, 72]).unwrap();
        let (w, v, bias) = (b.constant(ramp(&[72, 24])), b.constant(ramp(&[8, 72])), b.constant(ramp(&[72])));
        let x = b.silu(x).unwrap();
        let gate = b.slice(t, 1, 2, 1).unwrap();
        let y = b.linear(h, w, Some(bias)).unwrap();
        let y = b.gated_residual(x, gate, y).unwrap();
        let q = b.linear(y, v, None).unwrap();
        let q = b.silu(q).unwrap();
        let one = b.constant(ramp(&[1, 1, 72]));
        let (shift, scale) = (b.slice(t, 1, 0, 1).unwrap(), b.slice(t, 1, 1, 1).unwrap());
        let shift = b.add(shift, one).unwrap();
        let conditioned = b.adaln(y, shift, scale, 1e-6).unwrap();
        let plain = b.layer_norm(y, Some((bias, bias)), 1e-5).unwrap();
        for (name, value) in [("q", q), ("conditioned", conditioned), ("plain", plain)] {
            b.output(name, value);
        }
        b.finish()
    };
    let mut fused = build();
    let applied = passes::run(&mut fused, fuse::RULES, None).unwrap();
    assert!(applied.contains(&("norms into product", 1)), "{applied:?}");
    let names: Vec<_> = fused.nodes.iter().map(|n| n.op.name()).filter(|n| *n != "slice").collect();
    assert_eq!(names, ["activation", "binary", "linear_norm", "linear"], "{}", dump::text(&fused));
    let plan =
        Plan::new(fused.clone(), Target::Cuda { compute: DType::BF16, facts: DeviceFacts::A100 }).unwrap();
    let names: Vec<_> = plan.steps.iter().map(|s| s.name()).collect();
    assert_eq!(names, ["activation", "binary", "linear_norm", "linear"], "{}", plan.explain());
    let product = &plan.steps[2];
    let kept: Vec<_> = product.outputs.iter().map(|o| o.ty.dtype).collect();
    assert_eq!(kept, [DType::F32, DType::BF16, DType::BF16, DType::BF16], "{}", plan.explain());
    assert_eq!(product.in_place, Some(4), "{}", plan.explain());
    assert_eq!(plan.cuda_launches().unwrap()[2].len(), 1, "{}", plan.explain());
    let inputs = [("x", ramp(&[2, 40, 72])), ("h", ramp(&[2, 40, 24])), ("t", ramp(&[1, 3, 72]))];
    assert_eq!(run_all(build(), &inputs), run_all(fused, &inputs), "fusion changed numbers");
}

/// The layers that make γ and β are part of the modulation, if nothing else reads what they make.
#[test]
fn fusion_keeps_no_modulators() {
    let build = |shared: bool| {
        let mut b = GraphBuilder::new();
        let x = b.input("x", DType::F32, [1, 9, 8]).unwrap();
        let h = b.input("h", DType::F32, [1, 9, 5]).unwrap();
        let logits = b.input("logits", DType::F32, [1, 9, 2]).unwrap();
        let (w, bias) = (b.constant(ramp(&[8, 5])), b.constant(ramp(&[8])));
        let mut layer = |factor: f32| {
            let x = b.scale(h, factor).unwrap();
            let other = b.scale(bias, factor).unwrap();
            [b.linear(x, w, Some(bias)).unwrap(), b.linear(x, w, Some(other)).unwrap()]
        };
        let [g1, b1] = layer(0.5);
        let [g2, b2] = layer(0.25);
        let [g3, b3] = layer(2.0);
        let y = b.modulate(x, g1, b1).unwrap();
        let y = b.moe_modulate(y, logits, &[g2, g3], &[b2, b3]).unwrap();
        b.output("y", y);
        if shared {
            b.output("beta", b3);
        }
        b.finish()
    };
    let names = |shared| {
        let mut fused = build(shared);
        passes::run(&mut fused, fuse::RULES, None).unwrap();
        let inputs = [("x", ramp(&[1, 9, 8])), ("h", ramp(&[1, 9, 5])), ("logits", ramp(&[1, 9, 2]))];
        assert_eq!(
            run_all(build(shared), &inputs),
            run_all(fused.clone(), &inputs),
            "fusion changed numbers"
        );
        fused.op_counts()
    };
    let all = names(false);
    assert_eq!((all["linear_modulate"], all.get("linear"), all.get("modulate")), (2, None, None), "{all:?}");
    let kept = names(true);
    assert_eq!((kept["linear_modulate"], kept["moe_modulate"]), (1, 1), "{kept:?}");
}

/// The normalisation is done by the convolution that reads it, its statistics by the one that computes its operand.
#[test]
fn fusion_takes_norms_into_convolutions() {
    let build = || {
        let mut b = GraphBuilder::new();
        let x = b.input("x", DType::F32, [2, 8, 16, 8]).unwrap();
        let mut y = x;
        for _ in 0..2 {
            let (gamma, beta) = (b.constant(ramp(&[8])), b.constant(ramp(&[8])));
            let (w, bias) = (b.constant(ramp(&[8, 8, 3, 3])), b.constant(ramp(&[8])));
            y = b.group_norm_silu(y, 4, (gamma, beta), 1e-6).unwrap();
            y = b.conv2d(y, w, Some(bias), ConvSpec::same(3)).unwrap();
        }
        y = b.add(y, x).unwrap();
        b.output("y", y);
        b.finish()
    };
    let mut fused = build();
    passes::run(&mut fused, fuse::RULES, None).unwrap();
    let applied = passes::run(&mut fused, fuse::CUDA_HALF_RULES, None).unwrap();
    let names: Vec<_> = fused.nodes.iter().map(|n| n.op.name()).collect();
    assert_eq!(names, ["group_norm_affine", "conv2d", "conv2d"], "{}", dump::text(&fused));
    assert_eq!(applied.iter().map(|(_, n)| n).collect::<Vec<_>>(), [&2, &1], "{applied:?}");
    let inputs = [("x", ramp(&[2, 8, 16, 8]))];
    let (a, b) = (run(build(), &inputs), run(fused, &inputs));
    assert!(
        a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-5 * a.abs().max(1.0)),
        "fusion changed numbers"
    );
    // Nothing of this for a CPU, nor after a stop.
    let mut plain = build();
    assert!(fuse::for_target(&mut plain, 2).unwrap().is_empty());
    let applied = passes::run(&mut plain, fuse::CUDA_HALF_RULES, Some(1)).unwrap();
    assert_eq!(applied.iter().map(|(_, n)| n).sum::<usize>(), 1, "{applied:?}");
}

/// Small sums that wait for nothing are taken at once; what needs their results comes after.
#[test]
fn fusion_groups_small_sums() {
    let build = || {
        let mut b = GraphBuilder::new();
        let t = b.input("t", DType::F32, [1, 6, 4]).unwrap();
        let mut sum = t;
        for _ in 0..20 {
            let table = b.constant(ramp(&[6, 4]));
            let y = b.add(table, t).unwrap();
            sum = b.mul(sum, y).unwrap();
        }
        b.output("y", sum);
        b.finish()
    };
    let mut fused = build();
    let applied = passes::run(&mut fused, fuse::RULES, None).unwrap();
    assert!(applied.contains(&("binaries into group", 2)), "{applied:?}");
    assert_eq!(fused.nodes.len(), 22, "{}", dump::text(&fused));
    let inputs = [("t", ramp(&[1, 6, 4]))];
    assert_eq!(run(build(), &inputs), run(fused, &inputs), "fusion changed numbers");
}

/// Layers of equal extents share a node, those of one x first; what reads a member's result stays behind it.
#[test]
fn fusion_groups_independent_linears() {
    let build = || {
        let mut b = GraphBuilder::new();
        let x = b.input("x", DType::F32, [7, 5]).unwrap();
        let (w, v) = (b.constant(ramp(&[3, 5])), b.constant(ramp(&[5, 3])));
        let (bias, zero) = (b.constant(ramp(&[3])), b.constant(ramp(&[5])));
        let mut all = Vec::new();
        for _ in 0..3 {
            let other = b.constant(ramp(&[3, 5]));
            let h = b.linear(x, other, Some(bias)).unwrap();
            for weight in [v, b.constant(ramp(&[5, 3]))] {
                all.push(b.linear(h, weight, Some(zero)).unwrap());
            }
        }
        let mut sum = x;
        for y in all {
            sum = b.mul(sum, y).unwrap();
        }
        let last = b.linear(sum, w, Some(bias)).unwrap();
        b.output("y", last);
        b.finish()
    };
    let mut fused = build();
    let applied = passes::run(&mut fused, fuse::RULES, None).unwrap();
    assert!(applied.contains(&("linears into group", 2)), "{applied:?}");
    let names: Vec<_> = fused.nodes.iter().map(|n| n.op.name()).collect();
    let muls = ["binary"; 6];
    assert_eq!(names, [&["linear_group"; 2], &muls[..], &["linear"]].concat(), "{}", dump::text(&fused));
    let inputs = [("x", ramp(&[7, 5]))];
    assert_eq!(run(build(), &inputs), run(fused, &inputs), "fusion changed numbers");
    // Stopped before.
    let mut none = build();
    let applied = passes::run(&mut none, fuse::RULES, Some(0)).unwrap();
    assert!(applied.iter().all(|(_, n)| *n == 0), "{applied:?}");
}

#[test]
fn dense_blocks_never_materialise_concatenations() {
    let net = RrdbNet { num_feat: 8, num_block: 1, num_grow_ch: 4, ..RrdbNet::default() };
    let graph = net.graph(1, 8, 8, false).unwrap();
    let counts = graph.op_counts();
    assert_eq!((counts.get("concat"), counts.get("resize")), (None, None), "{counts:?}");
}

#[test]
fn equal_work_is_done_once() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [5]).unwrap();
    let (p, q) = (b.silu(x).unwrap(), b.silu(x).unwrap());
    let unused = b.exp(x).unwrap();
    let _ = unused;
    let y = b.add(p, q).unwrap();
    b.output("y", y);
    let mut graph = b.finish();
    passes::run(&mut graph, &[], None).unwrap();
    assert_eq!(graph.nodes.len(), 2, "{}", dump::text(&graph));
}

#[test]
fn the_debug_run_names_the_first_bad_node() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [2, 2]).unwrap();
    let y = b.scope("decoder.norm", |b| b.ln(x)).unwrap();
    let y = b.scope("decoder.out", |b| b.scale(y, 2.0)).unwrap();
    b.output("y", y);
    let device = Arc::new(CpuDevice::new(1).unwrap());
    let mut exe = Executable::new(Plan::new(b.finish(), 1).unwrap(), device, |_| None).unwrap();
    let e = exe.run_checked(&[("x", HostTensor::from_f32([2, 2], vec![1.0, 2.0, -1.0, 3.0]))]).unwrap_err();
    let text = e.to_string();
    assert!(text.starts_with("decoder.norm: activation: result 0") && text.contains("element 2"), "{text}");
    let e = exe.run(&[("z", HostTensor::zeros(DType::F32, [2, 2]))]).unwrap_err();
    assert!(matches!(&e, Error::Usage(m) if m.contains("no input \"z\"")), "{e}");
    let e = exe.run(&[("x", HostTensor::zeros(DType::F32, [2, 3]))]).unwrap_err().to_string();
    assert!(e.contains("has shape [2, 3], expected [2, 2]"), "{e}");
}

#[test]
fn dumps_show_ops_paths_and_shapes() {
    let graph = SwinIr { embed_dim: 12, depths: vec![2], num_heads: vec![2], ..SwinIr::default() }
        .graph(1, 14, 14, true)
        .unwrap();
    let text = dump::text(&graph);
    assert!(
        text.contains("window_attention") && text.contains("layers.0.residual_group.blocks.1.attn"),
        "{text}"
    );
    let dot = dump::dot(&graph);
    assert!(dot.starts_with("digraph") && dot.trim_end().ends_with('}') && dot.contains("->"));
}

#[test]
fn the_planned_peak_holds_every_step() {
    let net = SwinIr::general();
    let plan = Plan::new(net.graph(1, 128, 128, false).unwrap(), 2).unwrap();
    for s in &plan.steps {
        for p in s.inputs.iter().chain(&s.outputs) {
            if let dreamclear::graph::plan::Source::Arena(b) = p.source {
                assert!(plan.buffers[b].offset + plan.buffers[b].size <= plan.arena_bytes);
            }
        }
    }
    // Spec restore.md §3: 15,792,587 parameters; 726 GFLOP at 1024², so 11.3 at 128².
    let shapes = plan.graph.param_shapes();
    let parameters: usize = shapes.iter().map(|(_, s)| s.iter().product::<usize>()).sum();
    assert_eq!(parameters, 15_792_587);
    let gflop = plan.cost().flops / 1e9;
    assert!((gflop / (726.0 / 64.0) - 1.0).abs() < 0.05, "{gflop} GFLOP");
}

#[test]
fn hoisting_computes_the_unchanging_part_once_with_the_same_result() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [2, 4]).unwrap();
    let text = b.input("text", DType::F32, [3, 4]).unwrap();
    let unused = b.input("unused", DType::F32, [5]).unwrap();
    b.gelu(unused).unwrap();
    let w = b.param("w", [4, 4]).unwrap();
    // From the text alone: a product, and a view of it.
    let keys = b.linear(text, w, None).unwrap();
    let keys = b.gelu(keys).unwrap();
    let turned = b.permute(keys, [1, 0]).unwrap();
    // From x: uses the view, the weight, and a constant.
    let y = b.linear(x, w, None).unwrap();
    let y = b.matmul(y, turned, false, false).unwrap();
    let two = b.scalar(2.0);
    let y = b.mul(y, two).unwrap();
    b.output("out", y);
    let whole = b.finish();
    let split = passes::hoist(&whole, &["x"]).unwrap();

    let names = |g: &Graph| g.inputs().map(|(n, _)| n.to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&split.once), ["text"]);
    assert_eq!(split.once.op_counts().values().sum::<usize>(), 2, "the product and its gelu");
    assert_eq!(split.each.op_counts()["permute"], 1, "views stay with their readers");
    assert!(!split.each.op_counts().contains_key("activation"));

    let device = Arc::new(CpuDevice::new(2).unwrap());
    let call = |graph: Graph, inputs: &[(&str, HostTensor)]| {
        let plan = Plan::new(graph, 2).unwrap();
        Executable::new(plan, device.clone(), |_| Some(ramp(&[4, 4]))).unwrap().run(inputs).unwrap()
    };
    let (x, text) = (ramp(&[2, 4]), HostTensor::from_f32([3, 4], (0..12).map(|i| i as f32 / 7.0).collect()));
    let expected = call(
        whole,
        &[("x", x.clone()), ("text", text.clone()), ("unused", HostTensor::zeros(DType::F32, [5]))],
    );
    let carried = call(split.once, &[("text", text)]);
    let mut inputs = vec![("x", x)];
    inputs.extend(carried.iter().map(|(n, t)| (n.as_str(), t.clone())));
    assert_eq!(call(split.each, &inputs)[0].1.to_f32(), expected[0].1.to_f32());
}

#[test]
fn an_output_that_never_changes_cannot_be_split() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [4]).unwrap();
    let y = b.gelu(x).unwrap();
    b.output("y", y);
    let error = passes::hoist(&b.finish(), &["t"]).err().unwrap().to_string();
    assert!(error.contains("\"y\" does not depend on t"), "{error}");
}

#[test]
fn half_precision_parameters_stay_so_where_every_reader_agrees() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [2, 4]).unwrap();
    let w = b.param("w", [4, 4]).unwrap();
    let shared = b.param("shared", [4, 4]).unwrap();
    let bias = b.param("bias", [4]).unwrap();
    let y = b.linear(x, w, Some(bias)).unwrap();
    let y = b.linear(y, shared, None).unwrap();
    let z = b.gelu(shared).unwrap(); // takes f32 only
    b.output("y", y);
    b.output("z", z);
    let mut graph = b.finish();
    passes::keep_stored(&mut graph, |_| Some(DType::BF16));
    let kept: Vec<_> = graph.params().map(|(n, v)| (n.to_owned(), graph.ty(v).dtype)).collect();
    assert_eq!(kept[0], ("w".to_owned(), DType::BF16));
    assert_eq!(kept[1], ("shared".to_owned(), DType::F32));
    assert_eq!(kept[2], ("bias".to_owned(), DType::F32));
}
