"""Golden numbers of RRDBNet: BasicSR (Real-ESRGAN ×4, ×2, ×1) and the older ESRGAN/BSRGAN naming."""

import contextlib
import io
import sys
import types

import common


def basicsr(repos):
    """BasicSR's rrdbnet_arch.py with the three helpers that it imports from its package."""
    from torch import nn

    def make_layer(block, count, **kwargs):
        return nn.Sequential(*[block(**kwargs) for _ in range(count)])

    def pixel_unshuffle(x, scale):
        return nn.functional.pixel_unshuffle(x, scale)

    util = types.ModuleType("golden_basicsr.arch_util")
    util.default_init_weights = lambda *_, **__: None  # every weight is replaced below
    util.make_layer = make_layer
    util.pixel_unshuffle = pixel_unshuffle
    sys.modules["golden_basicsr"] = types.ModuleType("golden_basicsr")
    sys.modules["golden_basicsr.arch_util"] = util
    path = repos / "BasicSR" / "basicsr" / "archs" / "rrdbnet_arch.py"
    return common.official(path, "golden_basicsr.rrdbnet_arch").RRDBNet


def main():
    args = common.arguments(__doc__)
    net = basicsr(args.repos)
    small = dict(num_in_ch=3, num_out_ch=3, num_feat=12, num_block=2, num_grow_ch=6)
    # name, constructor arguments, input shape
    cases = [
        ("x4", dict(small, scale=4), (2, 3, 11, 14)),
        ("x2", dict(small, scale=2), (2, 3, 18, 26)),
        ("x1", dict(small, scale=1), (1, 3, 36, 44)),
        ("x4_gray", dict(small, num_in_ch=1, num_out_ch=1, num_block=1, scale=4), (1, 1, 7, 5)),
    ]
    for seed, (name, config, shape) in enumerate(cases, 100):
        if args.only not in f"rrdbnet_{name}":
            continue
        module = net(**config)
        weights = common.load_random(module, seed)
        x = common.random_image(seed, shape)
        path = args.out / f"rrdbnet_{name}.safetensors"
        common.write_network(path, "tools/golden/rrdbnet.py", "rrdbnet", config, module, x, weights, seed)

    bsrgan = common.official(args.repos / "BSRGAN" / "models" / "network_rrdbnet.py", "golden_bsrgan_rrdbnet").RRDBNet
    for seed, sf in enumerate((4, 2), 110):
        if args.only not in f"rrdbnet_bsrgan_x{sf}":
            continue
        config = dict(in_nc=3, out_nc=3, nf=12, nb=2, gc=6, sf=sf)
        with contextlib.redirect_stdout(io.StringIO()):  # the constructor prints its arguments
            module = bsrgan(**config)
        weights = common.load_random(module, seed)
        x = common.random_image(seed, (2, 3, 10, 13))
        path = args.out / f"rrdbnet_bsrgan_x{sf}.safetensors"
        common.write_network(path, "tools/golden/rrdbnet.py", "rrdbnet", config, module, x, weights, seed)

    if args.only in "rrdbnet_full_x4":
        config = dict(num_in_ch=3, num_out_ch=3, num_feat=64, num_block=23, num_grow_ch=32, scale=4)
        module = net(**config)
        entries = common.load_recipe(module, conv_gain=2)
        x = common.recipe_tensor("input.x", common.recipe_image((1, 3, 24, 20)))
        path = args.out / "rrdbnet_full_x4.safetensors"
        common.write_network(path, "tools/golden/rrdbnet.py", "rrdbnet", config, module, x, entries, "recipe")


if __name__ == "__main__":
    main()
