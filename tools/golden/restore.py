"""Golden numbers of a whole restoration: DreamClear's `test.py`, step for step, with tiny networks.

The steps, their order and the functions they call are those of `log_validation` in test.py, run in
f32 without autocast (`--mixed_precision no`). What differs: the networks' sizes, the least side of
the working picture (`min_size`), the latent size that needs no tiles (test.py hard-codes 128×128),
the number of steps, and that a caption's features and the noises are given. Weights and noises
follow the recipe; README.md describes the files.

`--files FOLDER` also writes, for each case, the files a user would have: checkpoints in the
authors' containers with a config.json beside each, the picture, the noise, the caption's features.
"""

import json

import common
import dit
import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

SWINIR = dict(
    img_size=64, patch_size=1, in_chans=3, embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=8, mlp_ratio=2,
    sf=8, img_range=1.0, upsampler="nearest+conv", resi_connection="1conv", unshuffle=True, unshuffle_scale=8,
)  # fmt: skip
VAE = dict(
    in_channels=3, out_channels=3, latent_channels=4, layers_per_block=1, norm_num_groups=4, act_fn="silu",
    block_out_channels=[8, 16, 16, 16], down_block_types=["DownEncoderBlock2D"] * 4,
    up_block_types=["UpDecoderBlock2D"] * 4, sample_size=128, scaling_factor=0.18215,
)  # fmt: skip
DREAMCLEAR = dict(
    input_size=16, patch_size=2, in_channels=4, hidden_size=48, depth=2, num_heads=4, mlp_ratio=4.0, pred_sigma=True,
    learn_sigma=True, caption_channels=32, lewei_scale=2.0, model_max_length=10, copy_blocks_num=2,
)  # fmt: skip
SCALE_FACTOR = 0.18215
VALID_TOKENS = 6

CASES = {
    # Latent 16×16: forward_with_cfg.
    "untiled": dict(size=(32, 32), upscale=4, steps=50, color_align="wavelet"),
    # Latent 24×32: six tiles; the output is smaller than the working size.
    "tiled": dict(size=(45, 62), upscale=4, steps=20, color_align="wavelet"),
    # Working size 128×128, enlarged from and shrunk back to 100×120 (height×width).
    "adain": dict(size=(100, 120), upscale=1, steps=4, color_align="adain"),
}
OPTIONS = dict(
    min_size=128, untiled_latent=[16, 16], latent_tiled_size=16, latent_tiled_overlap=4, cfg_scale=4.5, lre=True,
    start_point=999, mixed_precision="no",
)  # fmt: skip
# Large intermediates are kept where they are small.
LARGE = ("img_pre", "decoded", "color_fixed")


# ---- weights, inputs ---------------------------------------------------------------------------------


def fill(module, name, amplitudes):
    """Every parameter by recipe; those in `amplitudes` times a power of two. Returns {tensor: entry}."""
    state, entries = module.state_dict(), {}
    for key, value in state.items():
        if key.endswith(("pos_embed", "relative_position_index", "attn_mask")):
            continue
        entry = common.recipe_entry(key, tuple(value.shape), conv_gain=3)
        entry[3] += amplitudes.get(key, 0)
        entries[f"{name}.{key}"] = entry
        state[key] = common.recipe_tensor(f"{name}.{key}", entry)
    module.load_state_dict(state, strict=True)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    module.eval()
    return entries


def networks(repos):
    """SwinIR, VAE, DreamClear by recipe and the entries of all their tensors."""
    classes = dit.official(repos)
    from diffusion.model.nets import SwinIR

    swinir, vae, dreamclear = SwinIR(**SWINIR), AutoencoderKL(**VAE), dit.build(classes, "dreamclear", DREAMCLEAR)
    entries = {
        # Pictures mostly inside 0..1, before and after the diffusion.
        **fill(swinir, "swinir", {"conv_last.weight": -2}),
        **fill(vae, "vae", {"decoder.conv_out.weight": -2}),
        **fill(dreamclear, "dreamclear", {}),
    }
    return swinir, vae, dreamclear, entries


def picture(case, height, width):
    """An 8-bit picture [height, width, 3] with structure at all scales."""
    x = common.random_image(common.fnv1a64(case), (1, 3, height, width))
    return (x[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


def noise_entries(case, steps, height, width):
    """Uniform in ±1.5: what the noise is distributed like does not matter here."""
    pair = [2, 4, height, width]
    return {f"{case}.noise_T": [pair, 0.0, 3, -22], f"{case}.noises": [[steps, *pair], 0.0, 3, -22]}


def caption():
    """(caption_feature, attention_mask) as `extract_t5_features.py` writes them."""
    shape = [1, DREAMCLEAR["model_max_length"], DREAMCLEAR["caption_channels"]]
    feature = common.recipe_tensor("caption_feature", [shape, 0.0, 1, -21]).numpy()
    mask = (np.arange(shape[1]) < VALID_TOKENS).astype(np.int64)[None]
    return feature, mask


# ---- test.py -------------------------------------------------------------------------------------------


def restore(nets, image, case, noise_T, noises, dtype):
    """log_validation of test.py for one picture: every intermediate under its name in CLI.md."""
    from diffusion import IDDPM
    from diffusion.model import gaussian_diffusion
    from util_image import PIL2Tensor, Tensor2PIL

    align_color = common.official(nets["repos"] / "DreamClear/diffusion/utils/align_color.py", "align_color")
    swinir, vae, model = (nets[name].to(dtype) for name in ("swinir", "vae", "dreamclear"))
    dump = {}
    hw = torch.tensor([[1024, 1024]], dtype=dtype).repeat(1, 1)
    ar = torch.tensor([[1.0]], dtype=dtype).repeat(1, 1)
    img_lq, h0, w0 = PIL2Tensor(image, upscale=case["upscale"], min_size=OPTIONS["min_size"])
    dump["img_lq_u8"] = (img_lq * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    img_lq = img_lq.unsqueeze(0).to(dtype)[:, :3, :, :]
    img_pre = dump["img_pre"] = torch.clamp(swinir(img_lq), 0, 1.0)

    feature, mask = (torch.from_numpy(x) for x in caption())
    txt_fea, attention_mask = feature[None].to(dtype), mask[None]
    latent_lq = dump["latent_lq"] = vae.encode(2 * img_lq - 1.0).latent_dist.mode() * SCALE_FACTOR
    latent_pre = dump["latent_pre"] = vae.encode(2 * img_pre - 1.0).latent_dist.mode() * SCALE_FACTOR

    t_diffusion = IDDPM(str(1000))
    start = torch.tensor([OPTIONS["start_point"]])
    z = t_diffusion.q_sample(latent_pre, start, noise=noise_T[:1].to(dtype)).repeat(2, 1, 1, 1)
    dump["z_T"] = z
    null_y = model.y_embedder.y_embedding[None].repeat(1, 1, 1)[:, None]
    diffusion = IDDPM(str(case["steps"]))
    model_kwargs = dict(
        y=torch.cat([txt_fea, null_y]), cfg_scale=OPTIONS["cfg_scale"], data_info={"img_hw": hw, "aspect_ratio": ar},
        mask=attention_mask, c_lq=latent_lq, c_pre=latent_pre,
    )  # fmt: skip
    method = model.forward_with_cfg
    if list(z.shape[2:]) != OPTIONS["untiled_latent"]:
        method = model.forward_with_cfg_tile
        model_kwargs |= {key: OPTIONS[key] for key in ("latent_tiled_size", "latent_tiled_overlap")}
    dump["method"] = method.__name__

    drawn = list(noises.to(dtype))
    randn_like, torch.randn_like = torch.randn_like, lambda x: drawn.pop(0)
    assert gaussian_diffusion.th.randn_like is torch.randn_like
    try:
        samples = diffusion.p_sample_loop(method, z.shape, z, clip_denoised=False, model_kwargs=model_kwargs, device="cpu")
    finally:
        torch.randn_like = randn_like
    assert not drawn
    dump["samples"] = samples
    samples, _ = samples.chunk(2, dim=0)
    dump["latent_out"] = samples
    samples = dump["decoded"] = vae.decode(samples / SCALE_FACTOR).sample
    hq = (samples + 1) / 2
    if case["color_align"] == "wavelet":
        hq = align_color.wavelet_reconstruction(hq, img_pre)
    else:
        hq = align_color.adaptive_instance_normalization(hq, img_pre)
    dump["color_fixed"] = hq
    # In f32 also for the f64 run: the position of a pixel in the resize must not differ.
    hq = hq.clamp(0, 1.0)[0].float()
    dump["output"] = torch.from_numpy(np.asarray(Tensor2PIL(hq, h0, w0)).copy())
    return dump


# ---- files ---------------------------------------------------------------------------------------------


def write_files(folder, nets, name, image, noise_T, noises):
    """What the command line takes, as its users have it."""
    from safetensors.torch import save_file

    def config(place, value):
        place.mkdir(parents=True, exist_ok=True)
        (place / "config.json").write_text(json.dumps(value, indent=1) + "\n")
        return place

    swinir, vae, dreamclear = (nets[key].float() for key in ("swinir", "vae", "dreamclear"))
    state = {f"module.{key}": value for key, value in swinir.state_dict().items()}
    torch.save({"state_dict": state}, config(folder / "swinir", SWINIR) / "general_swinir_v1.ckpt")
    torch.save({"state_dict": dreamclear.state_dict()}, config(folder / "dreamclear", DREAMCLEAR) / "DreamClear-1024.pth")
    vae.save_pretrained(folder / "vae")
    case = folder / name
    (case / "features").mkdir(parents=True, exist_ok=True)
    image.save(case / "picture.png")
    feature, mask = caption()
    np.savez_compressed(case / "features" / "picture.npz", caption_feature=feature, attention_mask=mask)
    save_file({"noise_T": noise_T, "noises": noises}, case / "noise.safetensors")


def main():
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="write only the cases whose name contains this")
    parser.add_argument("--files", type=common.Path, help="also write the files that the command line takes here")
    args = common.prepare(parser)
    swinir, vae, dreamclear, weights = networks(args.repos)
    nets = dict(repos=args.repos, swinir=swinir, vae=vae, dreamclear=dreamclear)
    for name, case in CASES.items():
        if args.only not in f"restore_{name}":
            continue
        pixels = picture(name, *case["size"])
        image = Image.fromarray(pixels)
        from util_image import PIL2Tensor

        _, height, width = PIL2Tensor(image, case["upscale"], OPTIONS["min_size"])[0].shape
        noise = noise_entries(name, case["steps"], height // 8, width // 8)
        noise_T, noises = (common.recipe_tensor(key, entry) for key, entry in noise.items())
        with torch.no_grad():
            narrow = restore(nets, image, case, noise_T, noises, torch.float32)
            wide = restore(nets, image, case, noise_T, noises, torch.float64)
        f32_noise = {}
        for key, value in narrow.items():
            if key not in ("method", "img_lq_u8", "output"):
                assert torch.isfinite(value).all(), key
                f32_noise[key] = f"{((value.double() - wide[key]).norm() / wide[key].norm()).item():.1e}"
                print(f"    {key:12} {list(value.shape)!s:20} std {value.std():8.3f} noise {f32_noise[key]}")
        off = (narrow["output"].int() - wide["output"].int()).abs()
        inside = ((narrow["output"] > 0) & (narrow["output"] < 255)).float().mean().item()
        print(f"    output {list(off.shape)} inside {inside:.2f}; off by one {(off == 1).float().mean():.1e}, max {off.max()}")
        metadata = {
            "case": case,
            "options": OPTIONS,
            "method": narrow.pop("method"),
            "swinir_config": SWINIR,
            "vae_config": VAE,
            "dreamclear_config": DREAMCLEAR,
            "recipe": {**weights, **noise, "caption_feature": [list(caption()[0].shape), 0.0, 1, -21]},
            "f32_noise": f32_noise,
            "f32_output_off_by_one": f"{(off == 1).double().mean().item():.1e}",
            "script": "tools/golden/restore.py",
        }
        arrays = {key: value.contiguous().numpy() for key, value in narrow.items()}
        if arrays["img_pre"].nbytes > 256 * 1024:
            arrays = {key: value for key, value in arrays.items() if key not in LARGE}
        arrays |= {"image": pixels, "attention_mask": caption()[1]}
        common.write(args.out / f"restore_{name}.safetensors", arrays, metadata)
        if args.files:
            write_files(args.files, nets, name, image, noise_T, noises)


if __name__ == "__main__":
    main()
