"""Golden numbers of the colour fixes: `wavelet_reconstruction` and `adaptive_instance_normalization`."""

import common
import torch

SHAPES = {"photo": (52, 44), "smaller_than_the_holes": (5, 3), "one_row": (1, 70), "window": (33, 32)}


def hwc(x):
    return x[0].permute(1, 2, 0).contiguous().numpy()


def main():
    args = common.arguments(__doc__)
    official = common.official(args.repos / "DreamClear" / "diffusion" / "utils" / "align_color.py", "align_color")
    arrays = {}
    for seed, (case, (h, w)) in enumerate(SHAPES.items()):
        # Restored pictures leave [0, 1]; their reference does not.
        content = 1.3 * common.random_image(2 * seed, (1, 3, h, w)) - 0.1
        style = common.random_image(2 * seed + 1, (1, 3, h, w)) * torch.tensor([0.9, 0.6, 0.4])[:, None, None]
        arrays[f"{case}.content"], arrays[f"{case}.style"] = hwc(content), hwc(style)
        arrays[f"{case}.wavelet"] = hwc(official.wavelet_reconstruction(content, style))
        arrays[f"{case}.adain"] = hwc(official.adaptive_instance_normalization(content, style))
    metadata = {"cases": list(SHAPES), "layout": "HWC", "script": "tools/golden/color_fix.py"}
    common.write(args.out / "color_fix.safetensors", arrays, metadata)


if __name__ == "__main__":
    main()
