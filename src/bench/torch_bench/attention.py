"""Attention: whole, and in windows."""

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from .common import Refused, backward, op, settings
from .timing import seconds_of


def attention_mask(a, q, k, rest):
    """Additive bias, key lengths and causality as what scaled_dot_product_attention takes."""
    rest = list(rest)
    mask = rest.pop(0) if a["bias"] else None
    if a["key_lengths"]:
        seen = torch.arange(k.shape[1]) < rest.pop(0)[:, None]
        hidden = torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))[:, None, None]
        # A user with a GPU hands over no mask that hides nothing: it would rule out the fast backends.
        if not (settings["gpu"] and seen.all()):
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
    make = lambda: lambda: function(q, k, v, mask, is_causal=causal, scale=a["scale"])
    if settings["gpu"]:
        call, how = fastest(make)
        return call, heads_last, how
    return make(), heads_last


def heads_last(x):
    return x.transpose(1, 2)


@op
def attention_grad(a, q, k, v, *rest):
    if a["d_lse"] or a["d_bias"]:
        raise Refused("the script times attention's gradient of queries, keys and values only")
    mask, causal, (out, lse, dy) = attention_mask(a["forward"], q, k, rest)
    q, k, v, out, dy = (t.transpose(1, 2) for t in (q, k, v, out, dy))
    if settings["gpu"]:
        sdpa = F.scaled_dot_product_attention
        function = lambda q, k, v: sdpa(q, k, v, mask, is_causal=causal, scale=a["forward"]["scale"])
        call, how = fastest(lambda: backward(function, [q, k, v], range(3), dy))
        return call, heads_last, how
    # What autograd calls: like ours it takes the forward's results as they come.
    function = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    options = {"attn_mask": mask, "scale": a["forward"]["scale"]}
    return lambda: function(dy, q, k, v, out, lse, 0.0, causal, **options)[0], heads_last


def fastest(make):
    """The call that `make` gives, by the backend that is fastest for it, and that backend's name."""
    found = []
    for name in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", "MATH"):
        if name == "MATH" and found:
            continue  # it holds all scores in memory: where nothing else runs
        backend = getattr(SDPBackend, name)
        try:
            with sdpa_kernel(backend):
                inner = make()
            call = within(backend, inner)
            call()
            found.append((min(seconds_of(call) for _ in range(5)), name, call))
        except RuntimeError:  # this backend does not take these operands
            continue
    if not found:
        raise Refused("no backend of scaled_dot_product_attention takes these operands")
    _, name, call = min(found, key=lambda f: f[0])
    return call, f'SDPA {name.lower().removesuffix("_attention")}'


def within(backend, call):
    def chosen():
        with sdpa_kernel(backend):
            return call()

    return chosen


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
    return (label[:, :, None] != label[:, None, :]).to(torch.get_default_dtype()) * -100.0


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
