"""The denoiser: PixArt's block, ControlFormer's layer, a whole step; and the T5 encoder's block."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from .common import Refused


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
        return self.streams(x, x, x, self.t6, self.y)[0]

    def streams(self, x, lq, pre, *shared):
        lq = self.controlnet_lq[0].copied_block(lq, *shared)
        pre = self.controlnet_pre[0].copied_block(pre, *shared)
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
        return (1 + gamma) * x + beta, lq, pre


class StepLayer(ControlFormerLayer):
    def forward(self, *streams):
        return self.streams(*streams)


class DreamClearStep(nn.Module):
    """What a denoising step repeats: the patches of the latent, all steered layers on a guidance pair, the
    last projection. The embeddings of time, size and caption, and the branches' latents, are given."""

    def __init__(self, depth, hidden_size=1152, num_heads=16, mlp_ratio=4.0, model_max_length=120):
        super().__init__()
        c = hidden_size
        layer = lambda: StepLayer(c, num_heads, model_max_length, mlp_ratio=mlp_ratio)  # noqa: E731
        self.patches = nn.Conv2d(4, c, 2, 2)
        self.layers = nn.ModuleList([layer() for _ in range(depth)])
        self.scale_shift_table = nn.Parameter(torch.zeros(2, c))
        self.last = nn.Linear(c, 2 * 2 * 8)
        self.t6 = nn.Parameter(torch.zeros(1, 6, c))
        self.y = nn.Parameter(torch.zeros(2, model_max_length, c))

    def forward(self, latent):
        x = self.patches(latent).flatten(2).transpose(1, 2)
        x = x.expand(2, -1, -1).contiguous()
        lq = pre = x
        for layer in self.layers:
            x, lq, pre = layer(x, lq, pre, self.t6, self.y)
        shift, scale = self.scale_shift_table.chunk(2)
        return self.last(F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift)


class T5Norm(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, 1e-6)


class T5Block(nn.Module):
    """The first block of a T5 v1.1 encoder, which holds the table of relative positions."""

    def __init__(self, d_model, d_kv, d_ff, num_heads, feed_forward_proj):
        super().__init__()
        if feed_forward_proj != "gated-gelu":
            raise Refused(f"the rewritten T5 knows gated-gelu only, not {feed_forward_proj}")
        self.heads, inner = num_heads, num_heads * d_kv
        linear = lambda cin, cout: nn.Linear(cin, cout, bias=False)
        self.a = within(
            nn.Module(), q=linear(d_model, inner), k=linear(d_model, inner), v=linear(d_model, inner),
            o=linear(inner, d_model), relative_attention_bias=nn.Embedding(32, num_heads),
        )  # fmt: skip
        self.f = within(
            nn.Module(), wi_0=linear(d_model, d_ff), wi_1=linear(d_model, d_ff), wo=linear(d_ff, d_model)
        )
        self.layers = nn.ModuleList(
            [
                within(nn.Module(), SelfAttention=self.a, layer_norm=T5Norm(d_model)),
                within(nn.Module(), DenseReluDense=self.f, layer_norm=T5Norm(d_model)),
            ]
        )

    def load_state_dict(self, tensors, strict):
        prefix = "encoder.block.0.layer."
        return self.layers.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items()}, strict)

    def bias(self, tokens):
        at = torch.arange(tokens)
        ahead = at[None, :] - at[:, None]
        distance = ahead.abs()
        far = 8 + (torch.log(distance.clamp(min=8).float() / 8) / math.log(128 / 8) * 8).long()
        bucket = torch.where(distance < 8, distance, far.clamp(max=15)) + 16 * (ahead > 0)
        return self.a.relative_attention_bias(bucket).permute(2, 0, 1)[None]

    def forward(self, x):
        b, n, _ = x.shape
        h = self.layers[0].layer_norm(x)
        q, k, v = (p(h).view(b, n, self.heads, -1).transpose(1, 2) for p in (self.a.q, self.a.k, self.a.v))
        h = F.scaled_dot_product_attention(q, k, v, self.bias(n), scale=1.0)
        x = x + self.a.o(h.transpose(1, 2).reshape(b, n, -1))
        h = self.layers[1].layer_norm(x)
        return x + self.f.wo(F.gelu(self.f.wi_0(h), approximate="tanh") * self.f.wi_1(h))
