"""Golden numbers of BasicSR's PerceptualLoss over a narrow VGG19: the loss, and its gradient by the picture.

    python tools/golden/perceptual.py --repos CHECKOUTS     # perceptual.safetensors; needs torchvision

The official extractor and loss run as they are, from DreamClear's copy of BasicSR; torchvision makes the network,
with fewer channels than its `vgg19`.
"""

import importlib
import sys
import types
from unittest import mock

import torch
from torchvision.models import vgg

import common

# torchvision's plan "E" (VGG19), with other channels.
CHANNELS = [4, 4, "M", 6, 6, "M", 8, 8, 8, 8, "M", 8, 8, 8, 8, "M", 10, 10, 10, 10, "M"]
# As Real-ESRGAN has them, and its weight of the whole; another one here, so that a forgotten one shows.
LAYERS = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1, "conv4_4": 1, "conv5_4": 1}
WEIGHT = 0.7


def official(repos):
    """`basicsr.losses.basic_loss` without the packages around it, whose imports are partly gone."""
    root = repos / "DreamClear" / "basicsr"
    for name in ["", ".archs", ".losses", ".utils"]:
        package = types.ModuleType(f"basicsr{name}")
        package.__path__ = [str(root / name.lstrip("."))]
        sys.modules[package.__name__] = package
    return importlib.import_module("basicsr.losses.basic_loss")


def main():
    args = common.arguments(__doc__)
    basic_loss = official(args.repos)
    net = torch.nn.Module()
    net.features = vgg.make_layers(CHANNELS)
    recipe = {f"weight.{k}": e for k, e in common.load_recipe(net, conv_gain=5).items()}
    with mock.patch.object(vgg, "vgg19", lambda **_: net):
        loss = basic_loss.PerceptualLoss(LAYERS, perceptual_weight=WEIGHT, criterion="l1")
    # An odd side: the pools leave out its last row and column.
    shape = (2, 3, 37, 50)
    entries = {"y": common.recipe_image(shape), "target": common.recipe_image(shape)}
    recipe |= {f"input.{k}": e for k, e in entries.items()}
    inputs = {k: common.recipe_tensor(f"input.{k}", e) for k, e in entries.items()}

    def run(dtype):
        loss.to(dtype)
        y = inputs["y"].to(dtype).requires_grad_()
        value, style = loss(y, inputs["target"].to(dtype))
        assert style is None
        value.backward()
        return value.detach(), y.grad

    wide_loss, wide = run(torch.float64)
    value, gradient = run(torch.float32)
    noise = ((gradient.double() - wide).norm() / wide.norm()).item()
    for name, x in loss.vgg(inputs["y"]).items():
        print(f"    {name}: {tuple(x.shape)}, mean {x.mean():.3f}, deviation {x.std():.3f}")
    print(f"    loss {value:.6f} ({wide_loss:.6f} in f64), f32 noise of the gradient {noise:.1e}")
    metadata = {
        "network": "vgg19",
        "config": {"layers": LAYERS, "weight": WEIGHT},
        "script": "tools/golden/perceptual.py",
        "recipe": recipe,
        "f32_noise": f"{noise:.2e}",
    }
    arrays = {"out": value.reshape(()).numpy(), "grad.y": gradient.numpy()}
    common.write(args.out / "perceptual.safetensors", arrays, metadata)


if __name__ == "__main__":
    main()
