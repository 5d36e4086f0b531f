"""Golden numbers of AutoencoderKL: diffusers' module with recipe weights (README.md), both halves.

    pip install diffusers==0.42.1
    python tools/golden/vae.py        # vae_*.safetensors
"""

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL

import common

DOWN, UP = "DownEncoderBlock2D", "UpDecoderBlock2D"


def blocks(*channels, **rest):
    n = len(channels)
    return dict(
        block_out_channels=list(channels),
        down_block_types=[DOWN] * n,
        up_block_types=[UP] * n,
        in_channels=3,
        out_channels=3,
        **rest,
    )


def cases():
    """Yields (name, config.json, picture shape, latent shape)."""
    small = blocks(32, 64, 64, layers_per_block=1, latent_channels=4, norm_num_groups=8, sample_size=64)
    yield "small", small, (2, 3, 24, 40), (2, 4, 5, 7)
    # Heights and widths that halving rounds down.
    yield "ragged", small, (1, 3, 37, 50), (1, 4, 3, 9)
    odd = blocks(
        12, 36, layers_per_block=2, latent_channels=3, norm_num_groups=3,
        use_quant_conv=False, use_post_quant_conv=False, mid_block_add_attention=False,
    )  # fmt: skip
    yield "odd_groups", odd, (2, 3, 22, 18), (2, 3, 9, 6)
    sdxl = blocks(
        32, 64, 96, 96, layers_per_block=2, latent_channels=4, norm_num_groups=32, act_fn="silu",
        sample_size=1024, scaling_factor=0.13025, force_upcast=True, latents_mean=None, latents_std=None,
        shift_factor=None, use_quant_conv=True, use_post_quant_conv=True, mid_block_add_attention=True,
    )  # fmt: skip
    yield "sdxl", sdxl, (1, 3, 48, 32), (1, 4, 6, 4)
    # The published configuration of sd-vae-ft-ema.
    full = blocks(128, 256, 512, 512, layers_per_block=2, latent_channels=4, norm_num_groups=32, act_fn="silu", sample_size=256)
    yield "full", full, (1, 3, 48, 40), (1, 4, 6, 5)


def both(function, *inputs):
    """(f32 result, its relative L2 distance from an f64 run)."""
    with torch.no_grad():
        out = function(torch.float32, *inputs).contiguous()
        wide = function(torch.float64, *inputs)
    assert torch.isfinite(out).all() and out.abs().max() < 100, out.abs().max()
    return out, ((out.double() - wide).norm() / wide.norm()).item()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=common.GOLDEN)
    parser.add_argument("--only", default="", help="write only the cases whose name contains this")
    args = common.prepare(parser)
    for name, config, picture, latent in cases():
        if args.only not in f"vae_{name}":
            continue
        module = AutoencoderKL(**config)
        weights = common.load_recipe(module, conv_gain=3)
        # Pictures of -1..1 and latents of -2..2.
        entries = {"input.sample": [list(picture), 0.0, 1, -21], "input.z": [list(latent), 0.0, 1, -20]}
        sample, z = (common.recipe_tensor(key, entry) for key, entry in entries.items())

        def encode(dtype, x):
            return module.to(dtype).encode(x.to(dtype)).latent_dist.parameters

        def decode(dtype, z):
            return module.to(dtype).decode(z.to(dtype)).sample

        def whole(dtype, x):
            return module.to(dtype)(x.to(dtype)).sample

        results = {
            "moments": both(encode, sample),
            "out": both(decode, z),
            "reconstruction": both(whole, sample),
        }
        metadata = {
            "network": "vae",
            "config": config,
            "script": "tools/golden/vae.py",
            "weights": "recipe",
            "recipe": {**entries, **{f"weight.{key}": entry for key, entry in weights.items()}},
            "f32_noise": f"{max(noise for _, noise in results.values()):.2e}",
        }
        arrays = {key: out.numpy() for key, (out, _) in results.items()}
        common.write(args.out / f"vae_{name}.safetensors", arrays, metadata)
        for key, (out, noise) in results.items():
            print(f"    {key} {list(out.shape)} std {out.std():.3f} max {out.abs().max():.2f} f32 noise {noise:.1e}")


if __name__ == "__main__":
    main()
