"""Golden numbers of single operations whose semantics are subtle, forward and backward, from PyTorch.

One file per operation, `ops_<op>.safetensors`. Case `c` has its tensors as `c.<name>`: the inputs, `c.out`,
and for differentiable operations a random cotangent `c.dout` with the gradients `c.d<input>`. The
metadata `cases` maps each case to its parameters, in PyTorch's names and meaning.
"""

import argparse

import numpy as np
import PIL
import torch
import torch.nn.functional as F
from PIL import Image

import common


class Op:
    """Collects the cases of one operation."""

    def __init__(self, name, layout):
        self.name, self.layout = name, layout
        self.tensors, self.cases = {}, {}
        self.generator = torch.Generator().manual_seed(common.fnv1a64(name) % 2**31)

    def randn(self, *shape):
        return torch.randn(*shape, generator=self.generator)

    def case(self, name, function, inputs, parameters):
        """Runs `function` on the values of `inputs` in order, forwards and backwards.

        The case's `f32_noise` is the largest relative L2 distance of any result from an f64 run.
        """
        assert name not in self.cases, name
        dout = self.randn(*function(*inputs.values()).shape)
        results = self.run(function, inputs, dout, torch.float32)
        wide = self.run(function, inputs, dout, torch.float64)
        noise = max((((v - wide[k]).norm() / wide[k].norm().clamp(min=1e-30)).item() for k, v in results.items()))
        self.cases[name] = dict(parameters, f32_noise=float(f"{noise:.1e}"))
        for key, value in {**inputs, "dout": dout, **results}.items():
            self.tensors[f"{name}.{key}"] = value

    @staticmethod
    def run(function, inputs, dout, dtype):
        """{out, d<input> of every float input} in `dtype`."""
        leaves = {
            k: v.to(dtype, copy=True).requires_grad_() if v.is_floating_point() else v for k, v in inputs.items()
        }
        wanted = [k for k, v in leaves.items() if v.requires_grad]
        out = function(*leaves.values())
        gradients = torch.autograd.grad(out, [leaves[k] for k in wanted], dout.to(dtype))
        return {"out": out.detach(), **{f"d{k}": g for k, g in zip(wanted, gradients)}}

    def write(self, folder):
        arrays = {key: value.numpy() for key, value in self.tensors.items()}
        for key, value in arrays.items():
            assert value.dtype != np.float32 or np.isfinite(value).all(), (self.name, key)
        metadata = {"op": self.name, "layout": self.layout, "cases": self.cases, "script": "tools/golden/ops.py"}
        common.write(folder / f"ops_{self.name}.safetensors", arrays, metadata)


def interpolate():
    op = Op("interpolate", "NCHW")
    shape = (1, 2, 5, 7)
    sizes = {"up": (11, 12), "down": (3, 4), "mixed": (9, 3), "one": (1, 1), "same": (5, 7)}
    for mode in ("nearest", "nearest-exact", "area", "bilinear", "bicubic"):
        corners = (False, True) if mode in ("bilinear", "bicubic") else (None,)
        for align in corners:
            runs = [(name, dict(size=size)) for name, size in sizes.items()]
            if mode != "area":
                # A given factor enters the coordinates as it is; the size is floor(in · factor).
                runs += [(f"x{factor:g}", dict(scale_factor=factor)) for factor in (2.0, 1.7, 0.6)]
            for name, how in runs:
                parameters = dict(mode=mode, align_corners=align, antialias=False, **how)
                label = mode + ("_corners" if align else "") + f"_{name}"
                op.case(label, lambda x, p=parameters: F.interpolate(x, **p), {"x": op.randn(*shape)}, parameters)
    for mode in ("bilinear", "bicubic"):
        for name, size in dict(sizes, far=(2, 2)).items():
            parameters = dict(mode=mode, align_corners=False, antialias=True, size=size)
            x = op.randn(1, 1, 13, 10) if name in ("down", "far") else op.randn(1, 1, 5, 7)
            op.case(f"{mode}_antialias_{name}", lambda x, p=parameters: F.interpolate(x, **p), {"x": x}, parameters)
    return op


def pad():
    op = Op("pad", "NCHW; pad = [left, right, top, bottom]")
    for mode in ("reflect", "replicate", "constant"):
        for name, amounts in {"all": [2, 3, 1, 4], "right_bottom": [0, 3, 0, 2], "most": [5, 5, 4, 4]}.items():
            value = {"value": 0.75} if mode == "constant" else {}
            parameters = dict(pad=amounts, mode=mode, **value)
            op.case(f"{mode}_{name}", lambda x, p=parameters: F.pad(x, **p), {"x": op.randn(2, 2, 5, 6)}, parameters)
    parameters = dict(pad=[-1, 2, 1, -2], mode="constant", value=0.0)
    op.case("constant_crop", lambda x: F.pad(x, **parameters), {"x": op.randn(1, 2, 5, 6)}, parameters)
    return op


def pixel_shuffle():
    op = Op("pixel_shuffle", "NCHW")
    for r in (2, 3, 4):
        x = op.randn(2, 2 * r * r, 3, 2)
        op.case(f"shuffle_{r}", lambda x, r=r: F.pixel_shuffle(x, r), {"x": x}, dict(upscale_factor=r))
    for r in (2, 4, 8):
        x = op.randn(1, 3, 2 * r, 3 * r)
        op.case(f"unshuffle_{r}", lambda x, r=r: F.pixel_unshuffle(x, r), {"x": x}, dict(downscale_factor=r))
    return op


def activation():
    op = Op("activation", "any")
    functions = {
        "gelu_erf": (F.gelu, {}),
        "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), {"approximate": "tanh"}),
        "silu": (F.silu, {}),
        "relu": (F.relu, {}),
        "leaky_relu_0.2": (lambda x: F.leaky_relu(x, 0.2), {"negative_slope": 0.2}),
        "leaky_relu_0.01": (lambda x: F.leaky_relu(x, 0.01), {"negative_slope": 0.01}),
        "sigmoid": (torch.sigmoid, {}),
        "tanh": (torch.tanh, {}),
        "softplus": (F.softplus, {"beta": 1, "threshold": 20}),
    }
    positive = torch.tensor([0.0, 1e-4, 0.5, 3.0, 6.0, 12.0, 30.0, 90.0, 1e4])
    edges = torch.cat([positive, -positive[1:]])
    for name, (function, parameters) in functions.items():
        op.case(name, function, {"x": torch.cat([edges, 2 * op.randn(47)])}, parameters)
    op.case("prelu", F.prelu, {"x": op.randn(2, 3, 4, 2), "weight": 0.5 * op.randn(3)}, {"layout": "NCHW"})
    return op


def norm():
    op = Op("norm", "layer and rms norm: [..., C]; group norm: NCHW")

    def gain(n):
        return 1 + 0.3 * op.randn(n)

    for c, eps in ((24, 1e-5), (180, 1e-6), (5, 1e-5)):
        x = 2 * op.randn(3, 2, c) + 1.5
        function = lambda x, weight, bias, c=c, eps=eps: F.layer_norm(x, (c,), weight, bias, eps)  # noqa: E731
        op.case(f"layer_{c}", function, {"x": x, "weight": gain(c), "bias": op.randn(c)}, dict(eps=eps))
        function = lambda x, weight, c=c, eps=eps: F.rms_norm(x, (c,), weight, eps)  # noqa: E731
        op.case(f"rms_{c}", function, {"x": x, "weight": gain(c)}, dict(eps=eps))
    op.case("layer_plain", lambda x: F.layer_norm(x, (16,), eps=1e-6), {"x": op.randn(4, 16)}, dict(eps=1e-6))
    # Far from zero mean: E[x²] − E[x]² in f32 would lose every digit.
    x = op.randn(2, 64) + 20
    function = lambda x, weight, bias: F.layer_norm(x, (64,), weight, bias, 1e-5)  # noqa: E731
    op.case("layer_offset", function, {"x": x, "weight": gain(64), "bias": op.randn(64)}, dict(eps=1e-5))
    function = lambda x, weight, bias: F.layer_norm(x, (8,), weight, bias, 1e-5)  # noqa: E731
    flat = torch.full((2, 8), 0.5)
    op.case("layer_constant", function, {"x": flat, "weight": gain(8), "bias": op.randn(8)}, dict(eps=1e-5))
    for groups, c, h, w in ((4, 8, 3, 5), (32, 64, 2, 3), (1, 6, 4, 4)):
        x = 2 * op.randn(2, c, h, w) - 0.7
        function = lambda x, weight, bias, g=groups: F.group_norm(x, g, weight, bias, 1e-6)  # noqa: E731
        inputs = {"x": x, "weight": gain(c), "bias": op.randn(c)}
        op.case(f"group_{groups}_{c}", function, inputs, dict(num_groups=groups, eps=1e-6))
    return op


def softmax():
    op = Op("softmax", "any; dim counts from the first axis")
    shapes = {"last": ((3, 4, 17), 2), "middle": ((2, 9, 5), 1), "first": ((7, 3), 0), "single": ((4, 1), 1)}
    for name, (shape, dim) in shapes.items():
        op.case(name, lambda x, d=dim: F.softmax(x, d), {"x": 3 * op.randn(*shape)}, dict(dim=dim))
    large = op.randn(2, 8) + torch.tensor([[1e4], [-1e4]])
    op.case("large", lambda x: F.softmax(x, 1), {"x": large}, dict(dim=1))
    masked = op.randn(2, 6)
    masked[0, 2:] = -3e38
    masked[1, 0] = -100.0
    op.case("masked", lambda x: F.softmax(x, 1), {"x": masked}, dict(dim=1))
    return op


def attention():
    op = Op("attention", "q [B, H, M, D], k and v [B, H, N, D], bias [B or 1, H or 1, M, N], keep (bool) [B, 1, 1, N]")

    def qkv(b, h, m, n, d):
        return {"q": op.randn(b, h, m, d), "k": op.randn(b, h, n, d), "v": op.randn(b, h, n, d)}

    plain = lambda q, k, v: F.scaled_dot_product_attention(q, k, v)  # noqa: E731
    biased = lambda q, k, v, bias: F.scaled_dot_product_attention(q, k, v, attn_mask=bias)  # noqa: E731
    op.case("plain_d8", plain, qkv(2, 3, 7, 11, 8), dict(scale=8**-0.5))
    op.case("plain_d30", plain, qkv(1, 2, 9, 9, 30), dict(scale=30**-0.5))
    op.case("plain_d72", plain, qkv(1, 2, 5, 13, 72), dict(scale=72**-0.5))
    op.case("plain_d512", plain, qkv(1, 1, 3, 4, 512), dict(scale=512**-0.5))
    op.case("one_key", plain, qkv(1, 2, 3, 1, 4), dict(scale=0.5))
    unscaled = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=1.0)  # noqa: E731
    op.case("scale_1", unscaled, qkv(1, 2, 4, 6, 8), dict(scale=1.0))
    op.case("bias", biased, {**qkv(2, 2, 6, 10, 8), "bias": 2 * op.randn(2, 2, 6, 10)}, dict(scale=8**-0.5))
    op.case("bias_shared", biased, {**qkv(2, 2, 6, 10, 8), "bias": 2 * op.randn(1, 2, 6, 10)}, dict(scale=8**-0.5))
    causal = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)  # noqa: E731
    op.case("causal", causal, qkv(1, 2, 9, 9, 8), dict(scale=8**-0.5, is_causal=True))
    lengths = torch.tensor([3, 7])
    keep = (torch.arange(7)[None, :] < lengths[:, None])[:, None, None, :]
    kept = lambda q, k, v, keep: F.scaled_dot_product_attention(q, k, v, attn_mask=keep)  # noqa: E731
    parameters = dict(scale=8**-0.5, key_lengths=lengths.tolist())
    op.case("key_padding", kept, {**qkv(2, 2, 5, 7, 8), "keep": keep}, parameters)
    return op


def conv2d():
    op = Op("conv2d", "x NCHW; weight [out, in / groups, kh, kw]; pad = [left, right, top, bottom] with zeros, first")
    cases = [
        # name, x, weight, stride, dilation, groups, pad
        ("3x3", (2, 5, 7, 6), (4, 5, 3, 3), 1, 1, 1, [1, 1, 1, 1]),
        ("1x1", (1, 6, 4, 5), (3, 6, 1, 1), 1, 1, 1, [0, 0, 0, 0]),
        ("valid", (1, 3, 6, 7), (4, 3, 3, 3), 1, 1, 1, [0, 0, 0, 0]),
        ("stride_2", (1, 4, 9, 8), (6, 4, 3, 3), 2, 1, 1, [1, 1, 1, 1]),
        ("stride_2_asymmetric", (1, 4, 8, 10), (4, 4, 3, 3), 2, 1, 1, [0, 1, 0, 1]),
        ("patch_2", (1, 4, 6, 8), (10, 4, 2, 2), 2, 1, 1, [0, 0, 0, 0]),
        ("dilation_2", (1, 2, 9, 8), (3, 2, 3, 3), 1, 2, 1, [2, 2, 2, 2]),
        ("groups_2", (2, 4, 5, 6), (6, 2, 3, 3), 1, 1, 2, [1, 1, 1, 1]),
        ("depthwise", (1, 5, 6, 6), (5, 1, 3, 3), 1, 1, 5, [1, 1, 1, 1]),
        ("depthwise_stride_2", (1, 3, 7, 6), (6, 1, 3, 3), 2, 1, 3, [1, 1, 1, 1]),
        ("5x3", (1, 2, 8, 7), (3, 2, 5, 3), 1, 1, 1, [1, 1, 2, 2]),
        ("one_pixel", (1, 3, 1, 1), (2, 3, 3, 3), 1, 1, 1, [1, 1, 1, 1]),
        ("all", (1, 4, 11, 13), (6, 2, 3, 2), 2, 2, 2, [1, 0, 3, 2]),
    ]
    for name, x, weight, stride, dilation, groups, amounts in cases:
        parameters = dict(stride=stride, dilation=dilation, groups=groups, pad=amounts)
        inputs = {"x": op.randn(*x), "weight": 0.5 * op.randn(*weight), "bias": op.randn(weight[0])}

        def run(x, weight, bias, s=stride, d=dilation, g=groups, p=amounts):
            return F.conv2d(F.pad(x, p), weight, bias, stride=s, dilation=d, groups=g)

        op.case(name, run, inputs, parameters)
    return op


def embedding():
    op = Op("embedding", "ids i64, any shape; weight [V, C]; out ids.shape + [C]")
    repeated = torch.tensor([[3, 0, 3, 7], [9, 3, 0, 1]])  # row 3 three times: its gradients add up
    op.case("repeated", F.embedding, {"ids": repeated, "weight": op.randn(10, 6)}, {})
    op.case("one", F.embedding, {"ids": torch.tensor([2]), "weight": op.randn(3, 5)}, {})
    return op


def linear():
    op = Op("linear", "x [..., K]; weight [N, K]; bias [N]")
    for name, x, n in (("2d", (5, 7), 3), ("3d", (2, 3, 20), 11), ("one_row", (1, 33), 9), ("wide", (3, 130), 17)):
        inputs = {"x": op.randn(*x), "weight": x[-1] ** -0.5 * op.randn(n, x[-1]), "bias": op.randn(n)}
        op.case(name, F.linear, inputs, {})
    return op


def pil_bicubic():
    """Pillow's 8-bit bicubic resize, which the official pipeline starts with.

    Two calls, so that the horizontal pass comes first with every version (Pillow 13 turns some down-scales round).
    """
    op = Op("pil_bicubic", "u8, HWC; PIL.Image.resize(size=[width, height], BICUBIC), horizontal pass first")
    rng = np.random.default_rng(7)
    for name, (h, w), size in (
        ("x4", (5, 7), (28, 20)),
        ("uneven_up", (7, 9), (29, 16)),
        ("down", (23, 17), (6, 9)),
        ("up_down", (6, 24), (10, 15)),
        ("one_pixel", (1, 1), (4, 3)),
    ):
        x = rng.integers(0, 256, (h, w, 3), dtype=np.uint8)
        op.tensors[f"{name}.x"] = torch.from_numpy(x)
        wide = Image.fromarray(x).resize((size[0], h), Image.BICUBIC)
        op.tensors[f"{name}.out"] = torch.from_numpy(np.array(wide.resize(size, Image.BICUBIC)))
        op.cases[name] = dict(size=size, pillow=PIL.__version__)
    return op


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=common.Path, default=common.GOLDEN)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    makers = [interpolate, pad, pixel_shuffle, activation, norm, softmax]
    makers += [attention, conv2d, embedding, linear, pil_bicubic]
    for make in makers:
        make().write(args.out)


if __name__ == "__main__":
    main()
