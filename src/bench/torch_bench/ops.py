"""Ops. A builder takes the attributes and the tensors as our op has them and returns the timed call and,
where the call's result lies otherwise than ours, a function that puts it right."""

import torch
import torch.nn.functional as F

from .common import Refused, activation_function, backward, channels_second, nchw, nhwc, op, with_epilogue


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
def binary_group(a, *operands):
    """As linear_group."""
    members = [binary({"args": [a["kind"]]}, *operands[i : i + 2]) for i in range(0, len(operands), 2)]
    return lambda: [member() for member in members], lambda ys: ys[0]


@op
def linear(a, x, w, *rest):
    rest = list(rest)
    bias = rest.pop(0) if a["bias"] else None
    gate = rest.pop(0) if a["epilogue"]["gate"] else None
    return with_epilogue(lambda: F.linear(x, w, bias), a["epilogue"], gate, rest[0] if rest else None)


@op
def linear_group(a, *operands):
    """Its members one after the other; the first result is the one that is compared."""
    arity = 2 + a["bias"]
    members = [linear(a, *operands[i : i + arity]) for i in range(0, len(operands), arity)]
    return lambda: [member() for member in members], lambda ys: ys[0]


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
    norm, affine = a["norm"], a["affine"]
    scales = tensors.pop(0)[..., None, None] if norm else None
    w = tensors.pop(0)
    bias = tensors.pop(0) if a["bias"] else None
    residual = nchw(tensors.pop(0)) if a["epilogue"]["residual"] else None
    arguments, widths = conv_arguments(a["spec"])
    upsample = a["upsample"]

    def compute():
        x = torch.cat(xs, 1) if len(xs) > 1 else xs[0]
        if upsample > 1:
            x = F.interpolate(x, scale_factor=upsample, mode="nearest")
        if norm:
            x = x * scales[:, 0] + scales[:, 1]
            x = F.silu(x) if norm["silu"] else x
        if widths:
            x = F.pad(x, widths)
        return F.conv2d(x, w, bias, **arguments)

    whole = with_epilogue(compute, a["epilogue"], None, residual)
    if affine:
        return lambda: group_norm_scales(affine, whole(), *tensors), lambda y: nhwc(y[0])
    return whole, nhwc


def group_norm_scales(a, y, gamma, beta):
    """y, and the scale and shift of its group norm."""
    grouped = y.reshape(y.shape[0], a["groups"], -1)
    variance, mean = torch.var_mean(grouped, -1, correction=0)
    width = y.shape[1] // a["groups"]
    scale = gamma * torch.rsqrt(variance + a["eps"]).repeat_interleave(width, 1)
    return y, torch.stack([scale, beta - mean.repeat_interleave(width, 1) * scale], 1)


@op
def group_norm_affine(a, x, gamma, beta):
    y = x.movedim(-1, 1).contiguous()
    return lambda: group_norm_scales(a, y, gamma, beta)[1]


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
    return lambda: torch.ops.aten._softmax_backward_data(dy, y, -1, y.dtype)


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


def max_pooling(a):
    return lambda x: F.max_pool2d(x, a["size"], a["stride"], a["pad"])


@op
def max_pool(a, x):
    function, x = max_pooling(a), nchw(x)
    return lambda: function(x), nhwc


@op
def max_pool_grad(a, x, dy):
    return backward(max_pooling(a["args"][0]), [nchw(x)], [0], nchw(dy)), nhwc


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
