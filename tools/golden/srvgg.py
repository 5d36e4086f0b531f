"""Golden numbers of SRVGGNetCompact (realesr-general-x4v3, realesr-animevideov3): body, pixel shuffle, nearest skip."""

import common


def main():
    args = common.arguments(__doc__)
    path = args.repos / "Real-ESRGAN" / "realesrgan" / "archs" / "srvgg_arch.py"
    net = common.official(path, "golden_srvgg_arch").SRVGGNetCompact
    small = dict(num_in_ch=3, num_out_ch=3, num_feat=12, num_conv=3)
    cases = [
        ("prelu_x4", dict(small, upscale=4, act_type="prelu"), (2, 3, 9, 12)),
        ("prelu_x2", dict(small, upscale=2, act_type="prelu"), (2, 3, 11, 7)),
        ("relu_x3", dict(small, upscale=3, act_type="relu"), (1, 3, 9, 12)),
        ("leakyrelu_x1", dict(small, upscale=1, act_type="leakyrelu"), (1, 3, 13, 10)),
    ]
    for seed, (name, config, shape) in enumerate(cases, 200):
        if args.only not in f"srvgg_{name}":
            continue
        module = net(**config)
        weights = common.load_random(module, seed, prelu=True)
        x = common.random_image(seed, shape)
        out = args.out / f"srvgg_{name}.safetensors"
        common.write_network(out, "tools/golden/srvgg.py", "srvgg", config, module, x, weights, seed)


if __name__ == "__main__":
    main()
