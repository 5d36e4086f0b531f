"""Golden numbers of SwinIR: the official releases' variants and DreamClear's general model (pixel-unshuffle 8).

Variants whose head is fixed at 64 features by the official code use the weight recipe (README.md);
the rest store their weights.
"""

import common

BODY = dict(window_size=8, img_range=1.0, depths=[2, 2], embed_dim=24, num_heads=[2, 4], mlp_ratio=2)


def cases():
    """Yields (name, class, constructor arguments, input shape, stored weights?)."""
    sr = dict(BODY, in_chans=3, resi_connection="1conv")
    shuffle = dict(sr, upsampler="pixelshuffle", img_size=16)
    yield "classical_x2", "SwinIR", dict(shuffle, upscale=2), (2, 3, 13, 21), False
    yield "classical_x3", "SwinIR", dict(shuffle, upscale=3), (1, 3, 13, 10), False
    yield "classical_x4", "SwinIR", dict(shuffle, upscale=4), (1, 3, 16, 16), False  # = img_size: stored mask
    yield "classical_x8", "SwinIR", dict(shuffle, upscale=8), (1, 3, 9, 13), False
    light = dict(sr, upsampler="pixelshuffledirect", img_size=64)
    yield "lightweight_x2", "SwinIR", dict(light, upscale=2), (2, 3, 19, 12), True
    yield "lightweight_x3", "SwinIR", dict(light, upscale=3, qkv_bias=False), (1, 3, 10, 17), True
    yield "lightweight_x4", "SwinIR", dict(light, upscale=4, patch_norm=False), (1, 3, 11, 16), True
    real = dict(sr, upsampler="nearest+conv", img_size=64)
    yield "real_m_x4", "SwinIR", dict(real, upscale=4), (2, 3, 10, 17), False
    yield "real_m_x2", "SwinIR", dict(real, upscale=2), (1, 3, 13, 9), False
    yield "real_l_x4", "SwinIR", dict(real, upscale=4, resi_connection="3conv"), (1, 3, 12, 20), False
    same = dict(BODY, upsampler="", upscale=1, resi_connection="1conv")
    yield "denoise_gray", "SwinIR", dict(same, in_chans=1, img_size=128), (2, 1, 19, 26), True
    yield "denoise_color", "SwinIR", dict(same, in_chans=3, img_size=128), (2, 3, 22, 13), True
    jpeg = dict(same, window_size=7, img_range=255.0, img_size=126)
    yield "jpeg_gray", "SwinIR", dict(jpeg, in_chans=1), (1, 1, 23, 17), True
    yield "jpeg_color", "SwinIR", dict(jpeg, in_chans=3), (2, 3, 14, 25), True
    # Absolute position embedding ties the padded input to img_size.
    ape = dict(same, in_chans=3, img_size=[16, 24], ape=True)
    yield "ape", "SwinIR", ape, (2, 3, 13, 20), True
    # img_size no larger than the window: every block loses its shift (and the deeper half its masks).
    yield "one_window", "SwinIR", dict(same, in_chans=3, img_size=8), (1, 3, 19, 14), True
    general = dict(
        img_size=64, patch_size=1, in_chans=3, window_size=8, img_range=1.0, sf=8, mlp_ratio=2,
        upsampler="nearest+conv", resi_connection="1conv", unshuffle=True, unshuffle_scale=8,
    )  # fmt: skip
    small = dict(general, depths=[2, 2], embed_dim=24, num_heads=[2, 4])
    yield "general_small", "general", small, (1, 3, 64, 128), False
    yield "general_batch", "general", dict(small, img_size=8), (2, 3, 64, 64), False
    full = dict(general, depths=[6] * 8, embed_dim=180, num_heads=[6] * 8)
    yield "general_full", "general", full, (1, 3, 64, 128), False


def main():
    args = common.arguments(__doc__)
    official = common.official(args.repos / "SwinIR" / "models" / "network_swinir.py", "golden_swinir")
    dreamclear = common.official(
        args.repos / "DreamClear" / "diffusion" / "model" / "nets" / "swinir.py", "golden_dreamclear_swinir"
    )
    classes = {"SwinIR": official.SwinIR, "general": dreamclear.SwinIR}
    for seed, (name, cls, config, shape, stored) in enumerate(cases(), 300):
        if args.only not in f"swinir_{name}":
            continue
        arguments = dict(config)
        if isinstance(arguments["img_size"], list):
            arguments["img_size"] = tuple(arguments["img_size"])
        module = classes[cls](**arguments)
        if stored:
            # At img_range 255 the skips would drown the attention: bring its input and output back to O(1).
            wide = config["img_range"] == 255.0
            scales = {"conv_first.weight": 1 / 128, "conv_last.weight": 64} if wide else None
            weights = common.load_random(module, seed, scales=scales)
            x = common.random_image(seed, shape)
        else:
            weights = common.load_recipe(module, conv_gain=3)
            x = common.recipe_tensor("input.x", common.recipe_image(shape))
        path = args.out / f"swinir_{name}.safetensors"
        label = seed if stored else "recipe"
        common.write_network(path, "tools/golden/swinir.py", "swinir", config, module, x, weights, label)


if __name__ == "__main__":
    main()
