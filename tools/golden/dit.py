"""Golden numbers of PixArtMS and DreamClear's ControlPixArtMSHalfSR2Branch: forward, guidance, latent tiles.

Weights and float inputs follow the recipe (README.md), so a file holds little more than the output.
The official files import xformers and mmcv; plain PyTorch stands in for the few names that they use.
"""

import sys
import types

import common
import numpy as np
import torch

SMALL = dict(
    input_size=16, patch_size=2, in_channels=4, hidden_size=48, depth=2, num_heads=4, mlp_ratio=4.0,
    pred_sigma=True, caption_channels=32, lewei_scale=2.0, model_max_length=10,
)  # fmt: skip
FULL = dict(SMALL, input_size=128, hidden_size=1152, depth=1, num_heads=16, caption_channels=64)


def prefix(*lengths, of=10):
    """Masks [B, 1, 1, L] whose first tokens are valid."""
    return np.stack([(np.arange(of) < n).astype(np.int64) for n in lengths])[:, None, None]


def given(x, timestep, text=(10, 32), **more):
    """Inputs under the official argument names; a tuple is the shape of a tensor by recipe."""
    batch = x[0]
    return dict(
        x=x,
        timestep=np.array(timestep, np.float32),
        y=(batch, 1, *text),
        img_hw=np.array([[1024.0, 768.0], [512.0, 1536.0]][:batch], np.float32),
        aspect_ratio=np.array([[0.75], [1.5]][:batch], np.float32),
        **more,
    )


def cases():
    """Yields (name, network, configuration, inputs)."""
    yield "masks", "pixart", SMALL, given((2, 4, 12, 20), [999, 20], mask=prefix(10, 4))
    # Only PixArt's own copy of the repeat takes masks of two axes.
    holes = np.array([[1, 0, 0, 1, 1, 0, 1, 0, 0, 1]], np.int64)
    yield "holes", "pixart", dict(SMALL, num_heads=6), given((2, 4, 8, 6), [459], mask=holes)
    other = dict(SMALL, patch_size=4, in_channels=3, pred_sigma=False, lewei_scale=1.0, mlp_ratio=2.5, depth=1)
    yield "no_mask", "pixart", other, given((2, 3, 12, 20), [734, 0.5])
    # PixArtMS.forward_with_cfg drops the mask on its way to forward.
    guided = dict(cfg_scale=np.array(4.5, np.float32))
    yield "cfg", "pixart", SMALL, given((2, 4, 12, 8), [632], mask=prefix(3, 7), **guided)
    yield "1152", "pixart", FULL, given((1, 4, 16, 24), [877], (10, 64), mask=prefix(7))

    def conditions(h, w, batch=1):
        return dict(c_lq=(batch, 4, h, w), c_pre=(batch, 4, h, w))

    all_blocks, some = dict(SMALL, copy_blocks_num=2), dict(SMALL, depth=3, copy_blocks_num=1)
    masks = dict(mask=prefix(10, 4))
    yield "all", "dreamclear", all_blocks, given((2, 4, 12, 20), [999, 20], **masks, **conditions(12, 20))
    yield "some", "dreamclear", some, given((2, 4, 8, 14), [41, 816], **masks, **conditions(8, 14, 2))
    # One mask for both halves of the pair (quirk 7).
    one = dict(mask=prefix(6), **guided)
    yield "cfg", "dreamclear", all_blocks, given((2, 4, 10, 16), [510], **one, **conditions(10, 16))
    tiles = dict(latent_tiled_size=np.array(16), latent_tiled_overlap=np.array(4))
    yield "tile", "dreamclear", some, given((2, 4, 26, 36), [999], **one, **tiles, **conditions(26, 36))
    narrow = dict(latent_tiled_size=np.array(16), latent_tiled_overlap=np.array(6))
    yield "tile_narrow", "dreamclear", all_blocks, given((2, 4, 40, 12), [224], **one, **narrow, **conditions(40, 12))
    full = dict(FULL, copy_blocks_num=1)
    yield "1152", "dreamclear", full, given((2, 4, 12, 16), [938], (10, 64), **masks, **conditions(12, 16))


# ---- stand-ins -------------------------------------------------------------------------------------


def module(name, **members):
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(members)


class BlockDiagonalMask:
    """Which query sees which key: sample i's queries see sample i's keys."""

    @staticmethod
    def from_seqlens(queries, keys):
        rows = torch.arange(len(queries)).repeat_interleave(torch.tensor(queries))
        columns = torch.arange(len(keys)).repeat_interleave(torch.tensor(keys))
        return rows[:, None] == columns[None, :]


def memory_efficient_attention(q, k, v, p=0.0, attn_bias=None):
    """softmax(q·kᵀ/√d)·v over [B, tokens, heads, d]."""
    assert p == 0.0
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
    if attn_bias is not None:
        scores = scores.masked_fill(~attn_bias, float("-inf"))
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).contiguous()


class Registry:
    def __init__(self, *_):
        pass

    def register_module(self):
        return lambda item: item


def official(repos):
    """PixArtMS and the module of the ControlFormer."""
    fmha = types.SimpleNamespace(BlockDiagonalMask=BlockDiagonalMask)
    module("xformers")
    module("xformers.ops", memory_efficient_attention=memory_efficient_attention, fmha=fmha)
    sys.modules["xformers"].ops = sys.modules["xformers.ops"]
    module("mmcv", Registry=Registry)
    module("diffusion.utils.logger", get_root_logger=None)
    sys.path.insert(0, str(repos / "DreamClear"))
    from diffusion.model.nets import PixArtMS, pixart_controlnet

    return PixArtMS, pixart_controlnet


def build(classes, network, config):
    """The module; the ControlFormer's hard-coded sizes follow the configuration."""
    make, control = classes
    arguments = {k: v for k, v in config.items() if k != "copy_blocks_num"}
    base = make(**arguments)
    if network == "pixart":
        return base
    hidden, heads = config["hidden_size"], config["num_heads"]
    attention, embed = control.Zero_MultiHeadCrossAttentionDe, control.PatchEmbed_Zero
    with_sizes(attention, hidden, heads)
    with_sizes(embed, config["patch_size"], config["in_channels"], hidden)
    return control.ControlPixArtMSHalfSR2Branch(base, copy_blocks_num=config["copy_blocks_num"])


def with_sizes(cls, *sizes):
    """From here on the class is built with these sizes, whatever the caller hard-codes."""
    original = vars(cls).get("official_init", cls.__init__)
    cls.official_init = original
    cls.__init__ = lambda self, *_, **__: original(self, *sizes)


# ---- running ---------------------------------------------------------------------------------------


def load_recipe(net):
    """Every parameter and buffer by recipe but the position embedding, which is computed anew."""
    state = net.state_dict()
    keys = [key for key in state if not key.endswith("pos_embed")]
    entries = {key: common.recipe_entry(key, tuple(state[key].shape), conv_gain=3) for key in keys}
    state.update({key: common.recipe_tensor(f"weight.{key}", entry) for key, entry in entries.items()})
    net.load_state_dict(state, strict=True)
    net.eval()
    return entries


def run(net, inputs, dtype):
    """The official method that the inputs ask for."""
    tensors = {k: torch.as_tensor(v) for k, v in inputs.items()}
    tensors = {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}
    tensors["data_info"] = {k: tensors.pop(k) for k in ("img_hw", "aspect_ratio")}
    for number in ("cfg_scale", "latent_tiled_size", "latent_tiled_overlap"):
        if number in tensors:
            tensors[number] = tensors[number].item()
    method = "forward_with_cfg_tile" if "latent_tiled_size" in tensors else "forward_with_cfg"
    method = method if "cfg_scale" in tensors else "forward"
    with torch.no_grad():
        return getattr(type(net), method)(net, **tensors)


def main():
    args = common.arguments(__doc__)
    classes = official(args.repos)
    for name, network, config, inputs in cases():
        name = f"dit_{network}_{name}"
        if args.only not in name:
            continue
        net = build(classes, network, config)
        recipe = {f"weight.{key}": entry for key, entry in load_recipe(net).items()}
        stored = {}
        for key, value in inputs.items():
            if isinstance(value, tuple):
                entry = recipe[f"input.{key}"] = [list(value), 0.0, 3, -22]
                inputs[key] = common.recipe_tensor(f"input.{key}", entry)
            else:
                stored[f"input.{key}"] = value
        out = run(net, inputs, torch.float32)
        wide = run(net.double(), inputs, torch.float64)
        assert torch.isfinite(out).all() and out.dtype == torch.float32
        noise = ((out.double() - wide).norm() / wide.norm()).item()
        metadata = {
            "network": network,
            "config": config,
            "script": "tools/golden/dit.py",
            "seed": "recipe",
            "weights": "recipe",
            "recipe": recipe,
            "f32_noise": f"{noise:.2e}",
            "out_std": f"{out.std().item():.3f}",
        }
        common.write(args.out / f"{name}.safetensors", {"out": out.contiguous().numpy(), **stored}, metadata)
        print(f"    out {list(out.shape)} std {metadata['out_std']} f32 noise {noise:.1e}")


if __name__ == "__main__":
    main()
