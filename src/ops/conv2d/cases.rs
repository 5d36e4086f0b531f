//! Test and bench cases.

use super::{Conv2d, Conv2dGradInput, Conv2dGradWeight, ConvSpec, InputNorm};
use crate::ops::activation::Kind;
use crate::ops::epilogue::Epilogue;
use crate::ops::group_norm::GroupNormAffine;
use crate::ops::{Case, CaseInput};
use crate::tensor::DType;

/// Geometries that test forward and both gradients: name, [B, H, W], cin, cout, kernel, spec.
type Geometry = (&'static str, [usize; 3], usize, usize, [usize; 2], ConvSpec);

fn geometries() -> Vec<Geometry> {
    let same = ConvSpec::same;
    vec![
        ("same3", [2, 5, 7], 6, 9, [3, 3], same(3)),
        ("pointwise", [1, 6, 5], 17, 33, [1, 1], same(1)),
        (
            "stride2_asymmetric",
            [1, 7, 9],
            5,
            8,
            [3, 3],
            ConvSpec { stride: [2; 2], pad: [0, 1, 0, 1], ..same(3) },
        ),
        ("groups", [1, 6, 6], 8, 12, [3, 3], ConvSpec { groups: 4, ..same(3) }),
        ("depthwise5", [1, 8, 9], 6, 6, [5, 5], ConvSpec { groups: 6, ..same(5) }),
        ("dilated", [1, 9, 8], 4, 5, [3, 3], ConvSpec { dilation: [2, 3], pad: [2, 2, 3, 3], ..same(3) }),
        ("uneven_kernel", [1, 6, 9], 3, 34, [2, 5], ConvSpec { pad: [0, 1, 2, 0], ..same(1) }),
        // Tensor-core tiles of 32, 64 and 128 channels, with tails in pixels and in both channels; pixels in two
        // tiles, and enough of them for two partial sums of the weight's gradient.
        ("eights", [2, 12, 11], 8, 8, [3, 3], same(3)),
        (
            "eights_stride2",
            [1, 7, 9],
            16,
            8,
            [3, 3],
            ConvSpec { stride: [2; 2], pad: [0, 1, 0, 1], ..same(3) },
        ),
        ("stride3", [1, 8, 7], 8, 3, [3, 3], ConvSpec { stride: [3; 2], pad: [1, 0, 0, 1], ..same(3) }),
        ("wide", [1, 3, 5], 72, 232, [1, 1], same(1)),
        ("middle", [1, 3, 5], 72, 40, [1, 1], same(1)),
        ("fours", [1, 5, 6], 28, 20, [3, 3], same(3)),
        ("deep", [1, 2, 3], 520, 128, [1, 1], same(1)),
        // Tiles of 8×16 pixels that all taps read, of each width, with tails in everything; a tile alone.
        ("tiles128", [1, 7, 15], 24, 120, [3, 3], same(3)),
        ("tiles64", [1, 15, 31], 40, 40, [3, 3], same(3)),
        ("tiles_of_warpgroups", [1, 9, 16], 72, 96, [3, 3], same(3)),
        ("tiles32", [2, 8, 16], 40, 8, [3, 3], ConvSpec { pad: [0, 2, 2, 0], ..same(3) }),
        ("tiles_of_fours", [1, 8, 30], 60, 36, [3, 3], same(3)),
    ]
}

fn case(name: &'static str, size: [usize; 3], cin: &[usize], cout: usize, op: Conv2d, k: [usize; 2]) -> Case {
    let total: usize = cin.iter().sum::<usize>() / op.spec.groups;
    let bound = ((total * k[0] * k[1]) as f64).powf(-0.5);
    let mut inputs: Vec<_> = cin.iter().map(|&c| CaseInput::normal([size[0], size[1], size[2], c])).collect();
    if op.norm.is_some() {
        inputs.push(CaseInput::normal([size[0], 2, total]));
    }
    inputs.push(CaseInput::uniform([cout, total, k[0], k[1]], -bound, bound));
    if op.bias {
        inputs.push(CaseInput::normal([cout]));
    }
    if op.epilogue.residual {
        let out =
            |axis: usize| op.spec.extent(axis, size[1 + axis] * op.upsample, k[axis]).expect("a case fits");
        inputs.push(CaseInput::normal([size[0], out(0), out(1), cout]));
    }
    if op.affine.is_some() {
        inputs.extend([CaseInput::normal([cout]), CaseInput::normal([cout])]);
    }
    Case::test(name, op, inputs)
}

pub(super) fn forward() -> Vec<Case> {
    let plain = |spec| Conv2d::plain(spec, true);
    let same = || plain(ConvSpec::same(3));
    let fused = |alpha, residual, act| Epilogue { act, alpha, residual, ..Epilogue::default() };
    let lrelu = Some(Kind::LeakyRelu(0.2));
    let mut all: Vec<_> = geometries()
        .into_iter()
        .map(|(n, s, ci, co, k, spec)| case(n, s, &[ci], co, plain(spec), k))
        .collect();
    all.push(case("no_bias", [1, 4, 5], &[3], 4, Conv2d::plain(ConvSpec::same(3), false), [3, 3]));
    all.push(case("concatenated", [1, 5, 14], &[8, 4, 4], 32, Conv2d { sources: 3, ..same() }, [3, 3]));
    all.push(case("enlarged", [1, 5, 4], &[7], 6, Conv2d { upsample: 2, ..same() }, [3, 3]));
    all.push(case("enlarged_thrice", [1, 2, 3], &[8], 8, Conv2d { upsample: 3, ..same() }, [3, 3]));
    let both = Conv2d { sources: 2, upsample: 2, epilogue: fused(0.5, true, lrelu), ..same() };
    all.push(case("concatenated_enlarged", [1, 2, 4], &[40, 8], 16, both, [3, 3]));
    all.push(case("one_pixel", [1, 1, 1], &[7], 6, same(), [3, 3]));
    let epilogue = fused(1.0, false, lrelu);
    all.push(case("leaky_relu", [1, 6, 13], &[5], 8, Conv2d { epilogue, ..same() }, [3, 3]));
    let epilogue = fused(0.2, true, None);
    let dense_block = Conv2d { sources: 2, epilogue, ..same() };
    all.push(case("scaled_residual", [2, 6, 5], &[5, 3], 8, dense_block, [3, 3]));
    let half = |name, dtype, epilogue| {
        let mut case = case(name, [1, 5, 14], &[8], 32, Conv2d { epilogue, ..same() }, [3, 3]);
        case.inputs[1] = case.inputs[1].clone().stored_as(dtype);
        case
    };
    all.push(half("bf16_weight", DType::BF16, Epilogue::default()));
    all.push(half("f16_weight", DType::F16, fused(1.0, true, None)));
    let norm = |silu| Some(InputNorm { silu });
    let affine = |groups| Some(GroupNormAffine { groups, eps: 1e-6 });
    all.push(case("norm", [1, 7, 15], &[24], 120, Conv2d { norm: norm(false), ..same() }, [3, 3]));
    all.push(case("norm_silu", [2, 8, 16], &[72], 8, Conv2d { norm: norm(true), ..same() }, [3, 3]));
    all.push(case("affine", [2, 15, 31], &[8], 40, Conv2d { affine: affine(4), ..same() }, [3, 3]));
    let both = Conv2d { norm: norm(true), affine: affine(2), ..same() };
    all.push(case("norm_affine", [1, 17, 32], &[40], 32, both.clone(), [3, 3]));
    let resnet = Conv2d { epilogue: fused(1.0, true, None), affine: affine(5), ..both.clone() };
    all.push(case("norm_residual_affine", [2, 8, 13], &[48], 120, resnet, [3, 3]));
    // The same where the kernels that all taps' pixels share do not run.
    all.push(case("norm_affine_odd", [2, 5, 7], &[6], 10, both.clone(), [3, 3]));
    // On Hopper, two of its tiles.
    let resnet = Conv2d { epilogue: fused(1.0, true, None), affine: affine(4), ..both.clone() };
    all.push(case("norm_residual_affine_large", [2, 13, 16], &[24], 104, resnet, [3, 3]));
    let halving = ConvSpec { stride: [2; 2], pad: [0, 1, 0, 1], ..ConvSpec::same(3) };
    all.push(case("norm_affine_stride2", [1, 7, 9], &[16], 8, Conv2d { spec: halving, ..both }, [3, 3]));
    let model = |name, size, cin: &[usize], cout, k: usize, upsample| {
        let op = Conv2d { sources: cin.len(), upsample, ..plain(ConvSpec::same(k)) };
        Case { bench: true, ..case(name, size, cin, cout, op, [k, k]) }
    };
    all.extend([
        model("rrdb_conv1", [1, 256, 256], &[64], 32, 3, 1),
        model("rrdb_conv3", [1, 256, 256], &[64, 32, 32], 32, 3, 1),
        model("rrdb_conv5", [1, 256, 256], &[64, 32, 32, 32, 32], 64, 3, 1),
        model("rrdb_up2", [1, 256, 256], &[64], 64, 3, 2),
        model("rrdb_first", [1, 256, 256], &[3], 64, 3, 1),
        model("rrdb_last", [1, 512, 512], &[64], 3, 3, 1),
        model("swinir_group", [1, 64, 64], &[180], 180, 3, 1),
        model("vae_up3_conv", [1, 512, 512], &[128], 128, 3, 1),
        model("vae_mid_conv", [1, 64, 64], &[512], 512, 3, 1),
    ]);
    let op = Conv2d { norm: norm(true), affine: affine(32), ..same() };
    let fused = case("vae_up3_norm_conv_affine", [1, 512, 512], &[128], 128, op, [3, 3]);
    all.push(Case { bench: true, ..fused });
    all
}

pub(super) fn grad_input() -> Vec<Case> {
    let case = |(name, [b, h, w], ci, co, k, spec): Geometry| {
        let out = |axis, n| spec.extent(axis, n, k[axis]).expect("a case fits");
        let dy = CaseInput::normal([b, out(0, h), out(1, w), co]);
        let weight = CaseInput::normal([co, ci / spec.groups, k[0], k[1]]);
        Case::test(name, Conv2dGradInput { spec, size: [h, w] }, vec![dy, weight])
    };
    let bench = ("swinir_group", [4, 64, 64], 180, 180, [3, 3], ConvSpec::same(3));
    geometries().into_iter().map(case).chain([Case { bench: true, ..case(bench) }]).collect()
}

pub(super) fn grad_weight() -> Vec<Case> {
    let case = |(name, [b, h, w], ci, co, k, spec): Geometry| {
        let out = |axis, n| spec.extent(axis, n, k[axis]).expect("a case fits");
        let inputs = vec![CaseInput::normal([b, h, w, ci]), CaseInput::normal([b, out(0, h), out(1, w), co])];
        Case::test(name, Conv2dGradWeight { spec, kernel: k }, inputs)
    };
    let bench = ("swinir_group", [4, 64, 64], 180, 180, [3, 3], ConvSpec::same(3));
    geometries().into_iter().map(case).chain([Case { bench: true, ..case(bench) }]).collect()
}
