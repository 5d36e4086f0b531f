"""The PyTorch side of `dreamclear bench --vs torch`.

One JSON object a line comes in on stdin, one goes out on stdout; see `torch.rs`. Everything runs as
a PyTorch user runs it: eager, float32, contiguous NCHW pictures, inference mode. Changes of layout
between the two sides happen outside the timed calls.
"""

import importlib
import importlib.util
import json
import os
import platform
import sys
import time
import types

# Answers go to a private copy of stdout; whatever libraries print must not mix with them.
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)


def answer(kind, value):
    answers.write(json.dumps({kind: value}) + "\n")
    answers.flush()


class Refused(Exception):
    """This side cannot do what is asked; the text says why."""


try:
    import torch
    import torch.nn.functional as F
    from torch import nn
except ImportError as error:
    sys.stdin.readline()
    answer("refused", f"it has no PyTorch ({error})")
    sys.exit(0)


# --------------------------------------------------------------------------------------------------
# Ops. A builder takes the attributes and the tensors as our op has them and returns the timed call
# and, where the call's result lies otherwise than ours, a function that puts it right.
# --------------------------------------------------------------------------------------------------

OPS = {}


def op(function):
    OPS[function.__name__] = function
    return function


def same(y):
    return y


def nchw(x):
    return x.permute(0, 3, 1, 2).contiguous()


def nhwc(x):
    return x.permute(0, 2, 3, 1).contiguous()


def channels_second(x):
    """Channels where PyTorch looks for them, and the way back."""
    return x.movedim(-1, 1).contiguous(), lambda y: y.movedim(1, -1)


ACTIVATIONS = {
    "Relu": F.relu,
    "LeakyRelu": F.leaky_relu,
    "Gelu": F.gelu,
    "GeluTanh": lambda x: F.gelu(x, approximate="tanh"),
    "Silu": F.silu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Exp": torch.exp,
    "Ln": torch.log,
    "Sqrt": torch.sqrt,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Abs": torch.abs,
    "Clamp": torch.clamp,
}


def activation_function(kind):
    function, args = ACTIVATIONS[kind["type"]], kind.get("args", [])
    return (lambda x: function(x, *args)) if args else function


def with_epilogue(compute, epilogue, residual):
    """compute() followed by alpha*act(.) + residual, each a call of its own as in eager code."""
    act = activation_function(epilogue["act"]) if epilogue["act"] else None
    alpha = epilogue["alpha"]

    def call():
        y = compute()
        if act:
            y = act(y)
        if alpha != 1.0:
            y = y * alpha
        return y + residual if epilogue["residual"] else y

    return call


def backward(function, operands, wanted, dy):
    """A call of the backward pass alone, for the gradients of the operands `wanted`."""
    with torch.inference_mode(False), torch.enable_grad():
        operands, dy = [t.clone() for t in operands], dy.clone()
        for k in wanted:
            operands[k].requires_grad_(True)
        y = function(*operands)

    def call():
        with torch.inference_mode(False):
            return torch.autograd.grad(y, [operands[k] for k in wanted], dy, retain_graph=True)[0]

    return call


@op
def activation(a, x):
    function = activation_function(a["args"][0])
    return lambda: function(x)


@op
def activation_grad(a, x, dy):
    return backward(activation_function(a["args"][0]), [x], [0], dy)


@op
def binary(a, x, y):
    function = {"Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": torch.div}
    function = function[a["args"][0]["type"]]
    return lambda: function(x, y)


@op
def linear(a, x, w, *rest):
    rest = list(rest)
    bias = rest.pop(0) if a["bias"] else None
    return with_epilogue(lambda: F.linear(x, w, bias), a["epilogue"], rest[0] if rest else None)


@op
def matmul(a, x, y):
    x = x.transpose(-1, -2) if a["trans_a"] else x
    y = y.transpose(-1, -2) if a["trans_b"] else y
    return lambda: torch.matmul(x, y)


@op
def sum_to(a, x):
    return lambda: x.sum_to_size(a["shape"])


@op
def pad(a, x):
    widths = [n for pair in reversed(list(zip(a["before"], a["after"]))) for n in pair]
    return lambda: F.pad(x, widths)


def conv_arguments(spec):
    """Padding that differs between sides is not an argument of conv2d; a user pads first."""
    top, bottom, left, right = spec["pad"]
    even = top == bottom and left == right
    arguments = {
        "stride": spec["stride"],
        "padding": [top, left] if even else 0,
        "dilation": spec["dilation"],
        "groups": spec["groups"],
    }
    return arguments, None if even else [left, right, top, bottom]


@op
def conv2d(a, *tensors):
    tensors = list(tensors)
    xs = [nchw(tensors.pop(0)) for _ in range(a["sources"])]
    w = tensors.pop(0)
    bias = tensors.pop(0) if a["bias"] else None
    residual = nchw(tensors.pop(0)) if a["epilogue"]["residual"] else None
    arguments, widths = conv_arguments(a["spec"])
    upsample = a["upsample"]

    def compute():
        x = torch.cat(xs, 1) if len(xs) > 1 else xs[0]
        if upsample > 1:
            x = F.interpolate(x, scale_factor=upsample, mode="nearest")
        if widths:
            x = F.pad(x, widths)
        return F.conv2d(x, w, bias, **arguments)

    return with_epilogue(compute, a["epilogue"], residual), nhwc


def conv_backward(a, x, w, dy, wanted):
    arguments, widths = conv_arguments(a["spec"])
    function = lambda x, w: F.conv2d(F.pad(x, widths) if widths else x, w, **arguments)
    return backward(function, [x, w], [wanted], nchw(dy))


@op
def conv2d_grad_input(a, dy, w):
    cin = w.shape[1] * a["spec"]["groups"]
    x = torch.zeros(dy.shape[0], cin, *a["size"])
    return conv_backward(a, x, w, dy, 0), nhwc


@op
def conv2d_grad_weight(a, x, dy):
    cout, cin = dy.shape[3], x.shape[3] // a["spec"]["groups"]
    return conv_backward(a, nchw(x), torch.zeros(cout, cin, *a["kernel"]), dy, 1)


@op
def layer_norm(a, x, *affine):
    weight, bias = affine or (None, None)
    return lambda: F.layer_norm(x, x.shape[-1:], weight, bias, a["eps"])


@op
def adaln(a, x, shift, scale):
    return lambda: F.layer_norm(x, x.shape[-1:], eps=a["eps"]) * (1 + scale) + shift


@op
def gated_residual(a, x, gate, y):
    return lambda: x + gate * y


@op
def modulate(a, x, gamma, beta):
    return lambda: (1 + gamma) * x + beta


def moe_modulate_function(a):
    def mixed(experts, weights):
        return (torch.cat([e.unsqueeze(-1) for e in experts], -1) * weights).sum(-1)

    def function(x, logits, *experts):
        weights = logits.softmax(-1).unsqueeze(-2)
        gammas, betas = experts[: a["experts"]], experts[a["experts"] :]
        return (1 + mixed(gammas, weights)) * x + mixed(betas, weights)

    return function


@op
def moe_modulate(a, x, logits, *experts):
    function = moe_modulate_function(a)
    return lambda: function(x, logits, *experts)


@op
def moe_modulate_grad(a, x, logits, *rest):
    *experts, dy = rest
    operands = [x, logits, *experts]
    function = moe_modulate_function(a["args"][0])
    return backward(function, operands, range(len(operands)), dy)


@op
def layer_norm_grad(a, x, dy, *weight):
    operands = [x, *weight, *(torch.zeros_like(w) for w in weight)]
    function = lambda x, *affine: F.layer_norm(x, x.shape[-1:], *affine, eps=a["eps"])
    return backward(function, operands, range(len(operands)), dy)


@op
def rms_norm(a, x, *weight):
    return lambda: F.rms_norm(x, x.shape[-1:], *weight, eps=a["eps"])


@op
def rms_norm_grad(a, x, dy, *weight):
    function = lambda x, *w: F.rms_norm(x, x.shape[-1:], *w, eps=a["eps"])
    return backward(function, [x, *weight], range(1 + len(weight)), dy)


def group_norm_function(a):
    def function(x, weight, bias):
        y = F.group_norm(x, a["groups"], weight, bias, a["eps"])
        return F.silu(y) if a["silu"] else y

    return function


@op
def group_norm(a, x, weight, bias):
    (x, back), function = channels_second(x), group_norm_function(a)
    return lambda: function(x, weight, bias), back


@op
def group_norm_grad(a, x, dy, weight, bias):
    function = group_norm_function(a["args"][0])
    x, back = channels_second(x)
    return backward(function, [x, weight, bias], range(3), channels_second(dy)[0]), back


@op
def softmax(a, x):
    return lambda: torch.softmax(x, -1)


@op
def softmax_grad(a, y, dy):
    # What autograd calls; it needs the forward's result only, as ours does.
    return lambda: torch.ops.aten._softmax_backward_data(dy, y, -1, torch.float32)


@op
def reduce(a, x):
    dims = list(range(a["axis"], a["axis"] + a["count"]))
    function = {"Sum": torch.sum, "Mean": torch.mean, "Max": torch.amax}[a["kind"]["type"]]
    return lambda: function(x, dims, keepdim=True)


@op
def reduce_max_grad(a, x, y, dy):
    dims = list(range(a["axis"], a["axis"] + a["count"]))
    return backward(lambda x: torch.amax(x, dims, keepdim=True), [x], [0], dy)


@op
def concat(a, *xs):
    return lambda: torch.cat(xs, a["axis"])


@op
def embedding(a, table, indices):
    return lambda: F.embedding(indices, table)


@op
def embedding_grad(a, indices, dy):
    # The forward runs outside the timed call and may not see an inference tensor.
    with torch.inference_mode(False):
        indices = indices.clone()
    table = torch.zeros(a["rows"], dy.shape[-1])
    return backward(lambda t: F.embedding(indices, t), [table], [0], dy)


@op
def pixel_shuffle(a, x):
    x = nchw(x)
    return lambda: F.pixel_shuffle(x, a["args"][0]), nhwc


@op
def pixel_unshuffle(a, x):
    x = nchw(x)
    return lambda: F.pixel_unshuffle(x, a["args"][0]), nhwc


def edge_padding(a):
    """F.pad takes widths from the last axis on, and continues the axes behind the channels only."""
    before, after = ([w[0], w[-1], *w[1:-1]] for w in (a["before"], a["after"]))
    widths = [n for pair in zip(before[:1:-1], after[:1:-1]) for n in pair]
    if any(before[:2] + after[:2]):
        raise Refused("F.pad continues no channels and no batches")
    mode = a["mode"]["type"].lower()
    return lambda x: F.pad(x, widths, mode)


@op
def pad_edges(a, x):
    function = edge_padding(a)
    x, back = channels_second(x)
    return lambda: function(x), back


@op
def pad_edges_grad(a, dy):
    a = a["args"][0]
    size = [n - p - q for n, p, q in zip(dy.shape, a["before"], a["after"])]
    (dy, back), x = channels_second(dy), channels_second(torch.zeros(size))[0]
    return backward(edge_padding(a), [x], [0], dy), back


def resize_function(a):
    mode = a["mode"]
    name = {
        "Nearest": "nearest",
        "NearestExact": "nearest-exact",
        "Area": "area",
        "Bilinear": "bilinear",
        "Bicubic": "bicubic",
        "BilinearAntialias": "bilinear",
        "BicubicAntialias": "bicubic",
    }.get(mode["type"])
    if name is None:
        raise Refused(f'the PyTorch script does not know the resize mode {mode["type"]}')
    options = {"mode": name, "antialias": mode["type"].endswith("Antialias")}
    if name.startswith("bi"):
        options["align_corners"] = mode.get("align_corners", False)
    if a["factors"]:
        return lambda x: F.interpolate(x, scale_factor=a["factors"], **options)
    return lambda x: F.interpolate(x, size=a["size"], **options)


@op
def resize(a, x):
    x, function = nchw(x), resize_function(a)
    return lambda: function(x), nhwc


@op
def resize_grad(a, dy):
    x = torch.zeros(dy.shape[0], dy.shape[3], *a["from"])
    return backward(resize_function(a["resize"]), [x], [0], nchw(dy)), nhwc


@op
def prelu(a, x, weight):
    x, back = channels_second(x)
    return lambda: F.prelu(x, weight), back


@op
def prelu_grad(a, x, dy, weight):
    x, back = channels_second(x)
    return backward(F.prelu, [x, weight], [0, 1], channels_second(dy)[0]), back


def attention_mask(a, q, k, rest):
    """Additive bias, key lengths and causality as what scaled_dot_product_attention takes."""
    rest = list(rest)
    mask = rest.pop(0) if a["bias"] else None
    if a["key_lengths"]:
        seen = torch.arange(k.shape[1]) < rest.pop(0)[:, None]
        hidden = torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))[:, None, None]
        mask = hidden if mask is None else mask + hidden
    if a["causal"] and mask is not None:
        future = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool).triu(1)
        mask = mask.masked_fill(future, float("-inf"))
    return mask, a["causal"] and mask is None, rest


@op
def attention(a, q, k, v, *rest):
    rest = list(rest)
    if a["kv_rows"] is not None:
        rows = torch.tensor(a["kv_rows"])
        k, v = k[rows], v[rows]
        if a["key_lengths"]:
            rest[-1] = rest[-1][rows]
    mask, causal, _ = attention_mask(a, q, k, rest)
    # [B, N, H, D] seen as [B, H, N, D], as every transformer hands it over.
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    function = F.scaled_dot_product_attention
    return lambda: function(q, k, v, mask, is_causal=causal, scale=a["scale"]), heads_last


def heads_last(x):
    return x.transpose(1, 2)


@op
def attention_grad(a, q, k, v, *rest):
    if a["d_lse"] or a["d_bias"]:
        raise Refused("the script times attention's gradient of queries, keys and values only")
    mask, causal, (out, lse, dy) = attention_mask(a["forward"], q, k, rest)
    q, k, v, out, dy = (t.transpose(1, 2) for t in (q, k, v, out, dy))
    # What autograd calls: like ours it takes the forward's results as they come.
    function = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    options = {"attn_mask": mask, "scale": a["forward"]["scale"]}
    return lambda: function(dy, q, k, v, out, lse, 0.0, causal, **options)[0], heads_last


def windows(x, w):
    """[B, H, W, C] -> [B * windows, w * w, C]"""
    b, height, width, c = x.shape
    x = x.view(b, height // w, w, width // w, w, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, w * w, c)


def unwindows(x, w, height, width):
    c = x.shape[-1]
    x = x.view(-1, height // w, width // w, w, w, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, c)


def relative_index(w):
    """Row of the bias table for each pair of tokens of a window."""
    y, x = torch.arange(w).repeat_interleave(w), torch.arange(w).repeat(w)
    dy, dx = y[:, None] - y[None] + w - 1, x[:, None] - x[None] + w - 1
    return dy * (2 * w - 1) + dx


def shift_mask(height, width, w, shift):
    """-100 between tokens that the cyclic shift brought into one window from opposite borders."""

    def stripe(n):
        i = torch.arange(n)
        return (i >= n - w).long() + (i >= n - shift).long()

    label = stripe(height)[:, None] * 3 + stripe(width)[None]
    label = windows(label[None, :, :, None], w).squeeze(-1)
    return (label[:, :, None] != label[:, None, :]).float() * -100.0


def attend(qkv, heads, scale, table, index, mask):
    """Attention within windows, step by step as the official code has it."""
    b, n, c = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    q, k, v = qkv.view(b, n, 3, heads, c // heads).permute(2, 0, 3, 1, 4)
    scores = (q * scale) @ k.transpose(-2, -1)
    scores = scores + table[index.view(-1)].view(n, n, -1).permute(2, 0, 1)
    if mask is not None:
        scores = scores.view(-1, mask.shape[0], heads, n, n) + mask[:, None]
        scores = scores.view(-1, heads, n, n)
    return (torch.softmax(scores, -1) @ v).transpose(1, 2).reshape(b, n, c)


def window_attention_function(a, height, width):
    w, shift, heads, scale = (a[k] for k in ("window", "shift", "heads", "scale"))
    with torch.inference_mode(False):  # the gradient's forward may not see inference tensors
        index = relative_index(w)
        mask = shift_mask(height, width, w, shift) if shift else None

    def function(qkv, table):
        if shift:
            qkv = torch.roll(qkv, (-shift, -shift), (1, 2))
        y = unwindows(attend(windows(qkv, w), heads, scale, table, index, mask), w, height, width)
        return torch.roll(y, (shift, shift), (1, 2)) if shift else y

    return function


@op
def window_attention(a, qkv, table):
    function = window_attention_function(a, *qkv.shape[1:3])
    return lambda: function(qkv, table)


@op
def window_attention_grad(a, qkv, table, dy):
    function = window_attention_function(a["args"][0], *qkv.shape[1:3])
    return backward(function, [qkv, table], [0, 1], dy)


# --------------------------------------------------------------------------------------------------
# Networks, plainly rewritten from their papers with the official parameter names.
# --------------------------------------------------------------------------------------------------


def conv(cin, cout, kernel=3):
    return nn.Conv2d(cin, cout, kernel, 1, kernel // 2)


class DenseBlock(nn.Module):
    def __init__(self, feat, grow):
        super().__init__()
        for k in range(5):
            setattr(self, f"conv{k + 1}", conv(feat + k * grow, grow if k < 4 else feat))

    def forward(self, x):
        features = [x]
        for k in range(1, 5):
            y = getattr(self, f"conv{k}")(torch.cat(features, 1))
            features.append(F.leaky_relu(y, 0.2, inplace=True))
        return self.conv5(torch.cat(features, 1)) * 0.2 + x


class ResidualInResidual(nn.Module):
    def __init__(self, feat, grow):
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (DenseBlock(feat, grow) for _ in range(3))

    def forward(self, x):
        return self.rdb3(self.rdb2(self.rdb1(x))) * 0.2 + x


class RrdbNet(nn.Module):
    def __init__(self, num_in_ch=3, num_out_ch=3, scale=4, num_feat=64, num_block=23, num_grow_ch=32):
        super().__init__()
        self.fold = 4 // scale
        self.conv_first = conv(num_in_ch * self.fold**2, num_feat)
        self.body = nn.Sequential(*(ResidualInResidual(num_feat, num_grow_ch) for _ in range(num_block)))
        self.conv_body = conv(num_feat, num_feat)
        self.conv_up1, self.conv_up2 = conv(num_feat, num_feat), conv(num_feat, num_feat)
        self.conv_hr, self.conv_last = conv(num_feat, num_feat), conv(num_feat, num_out_ch)

    def forward(self, x):
        if self.fold > 1:
            x = F.pixel_unshuffle(x, self.fold)
        x = self.conv_first(x)
        x = x + self.conv_body(self.body(x))
        for up in (self.conv_up1, self.conv_up2):
            x = F.leaky_relu(up(F.interpolate(x, scale_factor=2, mode="nearest")), 0.2, inplace=True)
        return self.conv_last(F.leaky_relu(self.conv_hr(x), 0.2, inplace=True))


class SrVgg(nn.Module):
    def __init__(self, num_in_ch=3, num_out_ch=3, num_feat=64, num_conv=16, upscale=4, act_type="prelu"):
        super().__init__()
        if act_type != "prelu":
            raise Refused(f"the rewritten SRVGG knows prelu only, not {act_type}")
        self.upscale = upscale
        layers = [conv(num_in_ch, num_feat), nn.PReLU(num_feat)]
        for _ in range(num_conv):
            layers += [conv(num_feat, num_feat), nn.PReLU(num_feat)]
        self.body = nn.Sequential(*layers, conv(num_feat, num_out_ch * upscale**2))

    def forward(self, x):
        base = F.interpolate(x, scale_factor=self.upscale, mode="nearest")
        return F.pixel_shuffle(self.body(x), self.upscale) + base


class WindowAttention(nn.Module):
    def __init__(self, dim, heads, window, qkv_bias, qk_scale):
        super().__init__()
        self.heads, self.scale = heads, qk_scale or (dim // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("index", relative_index(window), persistent=False)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x, mask):
        table = self.relative_position_bias_table
        x = attend(self.qkv(x), self.heads, self.scale, table, self.index, mask)
        return self.proj(x)


class Mlp(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    def __init__(self, dim, heads, window, shift, mlp_ratio, qkv_bias, qk_scale):
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, window, qkv_bias, qk_scale)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.masks = {}

    def mask(self, height, width):
        if self.shift and (height, width) not in self.masks:
            self.masks[height, width] = shift_mask(height, width, self.window, self.shift)
        return self.masks.get((height, width))

    def forward(self, x):
        _, height, width, _ = x.shape
        h, s = self.norm1(x), self.shift
        if s:
            h = torch.roll(h, (-s, -s), (1, 2))
        h = self.attn(windows(h, self.window), self.mask(height, width))
        h = unwindows(h, self.window, height, width)
        if s:
            h = torch.roll(h, (s, s), (1, 2))
        x = x + h
        return x + self.mlp(self.norm2(x))


class SwinGroup(nn.Module):
    def __init__(self, dim, depth, heads, window, shift, *rest):
        super().__init__()
        blocks = (SwinBlock(dim, heads, window, shift * (j % 2), *rest) for j in range(depth))
        self.residual_group = nn.Module()
        self.residual_group.blocks = nn.Sequential(*blocks)
        self.conv = conv(dim, dim)

    def forward(self, x):
        return nhwc(self.conv(nchw(self.residual_group.blocks(x)))) + x


class SwinIr(nn.Module):
    def __init__(
        self, in_chans=3, embed_dim=96, depths=(6,) * 4, num_heads=(6,) * 4, window_size=7,
        mlp_ratio=4.0, qkv_bias=True, qk_scale=None, patch_norm=True, upscale=2, img_range=1.0,
        upsampler="", resi_connection="1conv", unshuffle=False, unshuffle_scale=None, img_size=64,
        sf=None,
    ):  # fmt: skip
        super().__init__()
        upscale = sf or upscale
        if resi_connection != "1conv" or not patch_norm or in_chans != 3:
            raise Refused("the rewritten SwinIR knows 1conv, patch_norm and RGB only")
        if upsampler not in ("pixelshuffle", "nearest+conv"):
            raise Refused(f'the rewritten SwinIR does not know the upsampler "{upsampler}"')
        self.upscale, self.window, self.img_range = upscale, window_size, img_range
        self.unshuffle, self.upsampler = unshuffle, upsampler
        self.mean = torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1)
        if unshuffle:
            first = conv(in_chans * upscale**2, embed_dim)
            self.conv_first = nn.Sequential(nn.PixelUnshuffle(upscale), first)
        else:
            self.conv_first = conv(in_chans, embed_dim)
        self.patch_embed = nn.Module()
        self.patch_embed.norm = nn.LayerNorm(embed_dim)
        shift = window_size // 2
        rest = (window_size, shift, mlp_ratio, qkv_bias, qk_scale)
        groups = zip(depths, num_heads)
        self.layers = nn.Sequential(*(SwinGroup(embed_dim, d, h, *rest) for d, h in groups))
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = conv(embed_dim, embed_dim)
        self.conv_before_upsample = nn.Sequential(conv(embed_dim, 64), nn.LeakyReLU(inplace=True))
        stages = upscale.bit_length() - 1
        if upsampler == "pixelshuffle":
            steps = [3] if upscale == 3 else [2] * stages
            pairs = ((conv(64, 64 * s * s), nn.PixelShuffle(s)) for s in steps)
            self.upsample = nn.Sequential(*(layer for pair in pairs for layer in pair))
        else:
            for i in range(stages):
                setattr(self, f"conv_up{i + 1}", conv(64, 64))
            self.conv_hr = conv(64, 64)
        self.conv_last = conv(64, in_chans)

    def forward(self, x):
        height, width = x.shape[2:]
        x = F.pad(x, (0, -width % self.window, 0, -height % self.window), "reflect")
        x = (x - self.mean) * self.img_range
        x = self.conv_first(x)
        h = self.norm(self.layers(self.patch_embed.norm(nhwc(x))))
        x = self.conv_before_upsample(self.conv_after_body(nchw(h)) + x)
        if self.upsampler == "pixelshuffle":
            x = self.upsample(x)
        else:
            for i in range(self.upscale.bit_length() - 1):
                x = F.interpolate(x, scale_factor=2, mode="nearest")
                x = F.leaky_relu(getattr(self, f"conv_up{i + 1}")(x), 0.2, inplace=True)
            x = F.leaky_relu(self.conv_hr(x), 0.2, inplace=True)
        x = self.conv_last(x) / self.img_range + self.mean
        scale = 1 if self.unshuffle else self.upscale
        return x[:, :, : height * scale, : width * scale]


class VaeResnet(nn.Module):
    def __init__(self, cin, cout, groups):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, cin, eps=1e-6), conv(cin, cout)
        self.norm2, self.conv2 = nn.GroupNorm(groups, cout, eps=1e-6), conv(cout, cout)
        if cin != cout:
            self.conv_shortcut = conv(cin, cout, 1)

    def forward(self, x):
        y = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return y + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)


class VaeAttention(nn.Module):
    def __init__(self, c, groups):
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, c, eps=1e-6)
        self.to_q, self.to_k, self.to_v = nn.Linear(c, c), nn.Linear(c, c), nn.Linear(c, c)
        self.to_out = nn.ModuleList([nn.Linear(c, c)])

    def forward(self, x):
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)
        q, k, v = (to(tokens).unsqueeze(1) for to in (self.to_q, self.to_k, self.to_v))
        y = self.to_out[0](F.scaled_dot_product_attention(q, k, v).squeeze(1))
        return x + y.transpose(1, 2).reshape(x.shape)


class VaeMiddle(nn.Module):
    def __init__(self, c, groups):
        super().__init__()
        self.resnets = nn.ModuleList([VaeResnet(c, c, groups), VaeResnet(c, c, groups)])
        self.attentions = nn.ModuleList([VaeAttention(c, groups)])

    def forward(self, x):
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class VaeResize(nn.Module):
    """Halves (the odd row and column of padding at the bottom and right) or doubles."""

    def __init__(self, c, down):
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, 2) if down else conv(c, c)

    def forward(self, x):
        down = self.conv.stride == (2, 2)
        return self.conv(F.pad(x, (0, 1, 0, 1)) if down else F.interpolate(x, scale_factor=2, mode="nearest"))


class VaeLevel(nn.Module):
    def __init__(self, cin, cout, count, groups, resize):
        super().__init__()
        self.resnets = nn.ModuleList([VaeResnet(cin if j == 0 else cout, cout, groups) for j in range(count)])
        if resize:
            setattr(self, resize, nn.ModuleList([VaeResize(cout, resize == "downsamplers")]))

    def forward(self, x):
        for layer in self.resnets:
            x = layer(x)
        for layer in getattr(self, "downsamplers", getattr(self, "upsamplers", [])):
            x = layer(x)
        return x


class VaeHalf(nn.Module):
    """Encoder or decoder with its 1x1 convolution, under the keys of diffusers' AutoencoderKL."""

    def __init__(self, encode, block_out_channels, layers_per_block, latent_channels, norm_num_groups, **rest):
        super().__init__()
        levels, groups, layers = list(block_out_channels), norm_num_groups, layers_per_block
        half = nn.Module()
        if encode:
            self.encoder, self.quant_conv = half, conv(2 * latent_channels, 2 * latent_channels, 1)
            half.conv_in = conv(rest["in_channels"], levels[0])
            name, resize, last = "down_blocks", "downsamplers", 2 * latent_channels
        else:
            self.decoder, self.post_quant_conv = half, conv(latent_channels, latent_channels, 1)
            half.conv_in = conv(latent_channels, levels[-1])
            name, resize, last = "up_blocks", "upsamplers", rest["out_channels"]
            levels, layers = levels[::-1], layers + 1
        blocks, cin = [], levels[0]
        for i, cout in enumerate(levels):
            blocks.append(VaeLevel(cin, cout, layers, groups, resize if i + 1 < len(levels) else None))
            cin = cout
        setattr(half, name, nn.ModuleList(blocks))
        half.mid_block = VaeMiddle(levels[-1] if encode else levels[0], groups)
        half.conv_norm_out = nn.GroupNorm(groups, levels[-1], eps=1e-6)
        half.conv_out = conv(levels[-1], last)

    def forward(self, x):
        encode = hasattr(self, "encoder")
        half = self.encoder if encode else self.decoder
        x = half.conv_in(x if encode else self.post_quant_conv(x))
        if not encode:
            x = half.mid_block(x)
        for level in half.down_blocks if encode else half.up_blocks:
            x = level(x)
        if encode:
            x = half.mid_block(x)
        x = half.conv_out(F.silu(half.conv_norm_out(x)))
        return self.quant_conv(x) if encode else x


class DitBlock(nn.Module):
    """A block of PixArt; t6 are its six modulations, y the caption's tokens."""

    def __init__(self, hidden_size, num_heads, mlp_ratio, **_):
        super().__init__()
        c, self.heads = hidden_size, num_heads
        self.scale_shift_table = nn.Parameter(torch.zeros(6, c))
        self.attn, self.cross_attn, self.mlp = nn.Module(), nn.Module(), nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(c, 3 * c), nn.Linear(c, c)
        cross = self.cross_attn
        cross.q_linear, cross.kv_linear, cross.proj = nn.Linear(c, c), nn.Linear(c, 2 * c), nn.Linear(c, c)
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(c, int(c * mlp_ratio)), nn.Linear(int(c * mlp_ratio), c)

    def forward(self, x, t6, y):
        c = x.shape[-1]
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = (self.scale_shift_table + t6).chunk(6, dim=1)
        h = F.layer_norm(x, (c,), eps=1e-6) * (1 + scale) + shift
        x = x + gate * self.attn.proj(sdpa(self.attn.qkv(h), self.heads))
        q, kv = self.cross_attn.q_linear(x), self.cross_attn.kv_linear(y)
        x = x + self.cross_attn.proj(sdpa(q, self.heads, kv))
        h = F.layer_norm(x, (c,), eps=1e-6) * (1 + mlp_scale) + mlp_shift
        return x + mlp_gate * self.mlp.fc2(F.gelu(self.mlp.fc1(h), approximate="tanh"))


def sdpa(q, heads, kv=None):
    """Attention of projected tokens, q, k and v in one or kv apart: [B, N, C]."""
    q, *kv = q.chunk(3, dim=-1) if kv is None else (q, *kv.chunk(2, dim=-1))
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, *kv))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class PixArtBlock(nn.Module):
    def __init__(self, hidden_size, model_max_length, **rest):
        super().__init__()
        self.block = DitBlock(hidden_size, **rest)
        self.t6 = nn.Parameter(torch.zeros(1, 6, hidden_size))
        self.y = nn.Parameter(torch.zeros(1, model_max_length, hidden_size))

    def forward(self, x):
        return self.block(x, self.t6, self.y)


class Modulator(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.shared_proj = nn.Linear(c, c // 2)
        self.proj_mul, self.proj_add = nn.Linear(c // 2, c), nn.Linear(c // 2, c)

    def forward(self, x):
        h = F.gelu(self.shared_proj(x), approximate="tanh")
        return self.proj_mul(h), self.proj_add(h)


def within(module, **children):
    """A tree of modules whose keys are those of lists with one layer."""
    for name, child in children.items():
        module.add_module(name, child)
    return module


class ControlFormerLayer(nn.Module):
    """Three blocks, the branches' cross-attention over the whole batch, MoAM with three experts."""

    def __init__(self, hidden_size, num_heads, model_max_length, **rest):
        super().__init__()
        c, self.heads = hidden_size, num_heads
        block = lambda: DitBlock(c, num_heads, **rest)  # noqa: E731
        self.base_model = within(nn.Module(), blocks=nn.ModuleList([block()]))
        for branch in ("controlnet_lq", "controlnet_pre"):
            setattr(self, branch, nn.ModuleList([within(nn.Module(), copied_block=block())]))
        cross = within(nn.Module(), q_linear=nn.Linear(c, c), kv_linear=nn.Linear(c, 2 * c))
        within(cross, proj=nn.Linear(c, c), de_proj=nn.Linear(c, c))
        self.cross_de = nn.ModuleList([within(cross, norm1=nn.LayerNorm(c), norm2=nn.LayerNorm(c))])
        self.am_pre = nn.ModuleList([Modulator(c)])
        gate = nn.Sequential(nn.Linear(c, 24), nn.GELU(approximate="tanh"), nn.Linear(24, 3))
        experts = nn.ModuleList([Modulator(c) for _ in range(3)])
        self.am_lq = nn.ModuleList([within(nn.Module(), gate=gate, experts=experts)])
        self.t6 = nn.Parameter(torch.zeros(1, 6, c))
        self.y = nn.Parameter(torch.zeros(2, model_max_length, c))

    def forward(self, x):
        shared = self.t6, self.y
        lq = self.controlnet_lq[0].copied_block(x, *shared)
        pre = self.controlnet_pre[0].copied_block(x, *shared)
        x = self.base_model.blocks[0](x, *shared)
        cross = self.cross_de[0]
        q, kv = cross.q_linear(cross.norm1(lq)), cross.kv_linear(cross.norm2(pre))
        a = sdpa(q.flatten(0, 1)[None], self.heads, kv.flatten(0, 1)[None]).view(x.shape)
        x = x + cross.proj(a)
        gamma, beta = self.am_pre[0](pre)
        x = (1 + gamma) * x + beta
        moe = self.am_lq[0]
        gates = moe.gate(cross.de_proj(a)).softmax(-1).unbind(-1)
        pairs = [expert(lq) for expert in moe.experts]
        gamma = sum(g.unsqueeze(-1) * pair[0] for g, pair in zip(gates, pairs))
        beta = sum(g.unsqueeze(-1) * pair[1] for g, pair in zip(gates, pairs))
        return (1 + gamma) * x + beta


MODELS = {
    "rrdbnet": RrdbNet,
    "srvgg": SrVgg,
    "swinir": SwinIr,
    "vae-encoder": lambda **config: VaeHalf(True, **config),
    "vae-decoder": lambda **config: VaeHalf(False, **config),
    "pixart-block": PixArtBlock,
    "controlformer-layer": ControlFormerLayer,
}


# --------------------------------------------------------------------------------------------------
# The authors' own modules, from checkouts of their repositories.
# --------------------------------------------------------------------------------------------------


def stub(name, path=None, **members):
    """A module of this name without running its file: official packages import far too much."""
    module = types.ModuleType(name)
    module.__path__ = [path] if path else []
    module.__dict__.update(members)
    sys.modules[name] = module


class Registry:
    @staticmethod
    def register(**_):
        return lambda cls: cls


def official_basicsr(folder, module, name):
    root = os.path.join(folder, "BasicSR", "basicsr")
    stub("basicsr", root)
    stub("basicsr.archs", os.path.join(root, "archs"))
    stub("basicsr.ops.dcn", ModulatedDeformConvPack=nn.Module, modulated_deform_conv=None)
    stub("basicsr.ops")
    stub("basicsr.utils", get_root_logger=None)
    stub("basicsr.utils.registry", ARCH_REGISTRY=Registry)
    return getattr(importlib.import_module(f"basicsr.archs.{module}"), name)


def official_file(path):
    spec = importlib.util.spec_from_file_location(f"official_{abs(hash(path))}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def official_swinir(folder, config):
    if config.get("unshuffle"):
        path = os.path.join(folder, "DreamClear", "diffusion", "model", "nets", "swinir.py")
    else:
        path = os.path.join(folder, "SwinIR", "models", "network_swinir.py")
    return official_file(path).SwinIR


class OfficialVae(nn.Module):
    """One half of the AutoencoderKL of the installed diffusers."""

    def __init__(self, encode, config):
        super().__init__()
        whole = importlib.import_module("diffusers").AutoencoderKL(**config)
        if encode:
            self.encoder, self.quant_conv = whole.encoder, whole.quant_conv
        else:
            self.decoder, self.post_quant_conv = whole.decoder, whole.post_quant_conv

    def forward(self, x):
        if hasattr(self, "encoder"):
            return self.quant_conv(self.encoder(x))
        return self.decoder(self.post_quant_conv(x))


def model_class(architecture, config):
    folder = settings["official"]
    if not folder:
        return MODELS.get(architecture)
    if architecture in ("vae-encoder", "vae-decoder"):
        return lambda **config: OfficialVae(architecture == "vae-encoder", config)
    if architecture == "swinir":
        return official_swinir(folder, config)
    modules = {"rrdbnet": ("rrdbnet_arch", "RRDBNet"), "srvgg": ("srvgg_arch", "SRVGGNetCompact")}
    return official_basicsr(folder, *modules[architecture]) if architecture in modules else None


# --------------------------------------------------------------------------------------------------
# The conversation
# --------------------------------------------------------------------------------------------------

DTYPES = {"f32": torch.float32, "i64": torch.int64, "bf16": torch.bfloat16, "f16": torch.float16}
settings = {"official": None, "flush": None}


def read(t):
    count = 1
    for n in t["shape"]:
        count *= n
    x = torch.from_file(t["file"], shared=False, size=count, dtype=DTYPES[t["dtype"]])
    # A copy in memory of its own: the file goes away. Half-precision weights are widened: PyTorch
    # does not multiply dtypes with each other, and arithmetic in f32 is what is compared.
    x = x.view(t["shape"]).clone()
    return x.float() if x.is_floating_point() else x


def build_op(work, tensors):
    builder = OPS.get(work["op"])
    if builder is None:
        raise Refused(f'the PyTorch script has no op "{work["op"]}"')
    built = builder(work["attributes"], *tensors.values())
    return built if isinstance(built, tuple) else (built, same)


def build_model(work, tensors):
    make = model_class(work["model"], work["config"])
    if make is None:
        raise Refused(f'the PyTorch script has no network "{work["model"]}"')
    net = make(**work["config"]).eval()
    x = tensors.pop("x")
    missing, unexpected = net.load_state_dict(tensors, strict=False)
    # Official modules keep tables that follow from the configuration among their weights.
    missing = [k for k in missing if not k.endswith(("relative_position_index", "attn_mask"))]
    if missing or unexpected:
        raise Refused(f"the weights do not fit: missing {missing[:3]}, unexpected {unexpected[:3]}")
    return (lambda: net(x)), same


def load(ask):
    tensors = {t["name"]: read(t) for t in ask["inputs"]}
    build = build_op if "op" in ask["work"] else build_model
    call, ours = build(ask["work"], tensors)
    y = ours(call()).detach().contiguous()
    # A file tensor is written without NumPy, which PyTorch does not require.
    out = torch.from_file(ask["output"], shared=True, size=y.numel(), dtype=torch.float32)
    out.copy_(y.view(-1))
    return call, list(y.shape)


def measure(call, seconds, warm_up):
    flush = settings["flush"]
    if warm_up:
        call()
    times, end = [], time.perf_counter() + seconds
    while not times or (time.perf_counter() < end and len(times) < 10_000):
        if flush is not None:
            flush.add_(1)
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def main():
    call = None
    for line in sys.stdin:
        ask = json.loads(line)
        if ask["ask"] == "start":
            torch.set_num_threads(ask["threads"])
            settings["official"] = ask["official"]
            if ask["flush_bytes"]:
                settings["flush"] = torch.zeros(ask["flush_bytes"] // 8, dtype=torch.int64)
            versions = {"torch": torch.__version__, "python": platform.python_version()}
            answer("started", {**versions, "threads": torch.get_num_threads()})
        elif ask["ask"] == "load":
            call = None  # frees the last row before the next one is read
            try:
                call, shape = load(ask)
                answer("loaded", {"shape": shape})
            except Refused as why:
                answer("refused", str(why))
            except Exception as error:  # one row's failure must not end the others
                answer("refused", f"{type(error).__name__}: {error}")
        elif ask["ask"] == "time":
            answer("times", measure(call, ask["seconds"], ask["warm_up"]))


with torch.inference_mode():
    main()
