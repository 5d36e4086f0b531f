"""Golden numbers of ResNet: torchvision's, whole with recipe weights; and narrow, with one logit, as it is trained.

Needs no checkout: torchvision itself is the official code (`--repos` may be any folder).
"""

import numpy as np
import torch
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

import common

SCRIPT = "tools/golden/resnet.py"


def narrow(layers, inplanes, groups=1, width_per_group=64):
    """torchvision's network with another number of channels than its constructor allows: same blocks, same forward."""
    net = ResNet(Bottleneck, layers, num_classes=1, groups=groups, width_per_group=width_per_group)
    net.inplanes = inplanes
    net.conv1 = nn.Conv2d(3, inplanes, 7, stride=2, padding=3, bias=False)
    net.bn1 = nn.BatchNorm2d(inplanes)
    for stage, blocks in enumerate(layers):
        stride = 1 if stage == 0 else 2
        setattr(net, f"layer{stage + 1}", net._make_layer(Bottleneck, inplanes << stage, blocks, stride=stride))
    net.fc = nn.Linear(4 * (inplanes << 3), 1)
    return net


def parameters(module):
    return {key: v for key, v in module.state_dict().items() if not key.endswith("num_batches_tracked")}


def load(module, tensors):
    module.load_state_dict({**module.state_dict(), **tensors}, strict=True)
    module.eval()


def random_weights(module, seed):
    """Seeded f16 values; gains, variances and biases well away from one and zero, so a forgotten one shows."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for key, value in parameters(module).items():
        shape = tuple(value.shape)
        if key.endswith("running_var"):
            array = rng.uniform(0.5, 1.5, shape)
        elif value.ndim == 1 and key.endswith(".weight"):
            array = 1 + 0.3 * rng.uniform(-1, 1, shape)
        elif value.ndim == 1:
            array = 0.3 * rng.uniform(-1, 1, shape)
        else:
            array = 1.4 / np.sqrt(np.prod(shape[1:])) * rng.standard_normal(shape)
        arrays[key] = array.astype(np.float16)
    load(module, {key: torch.from_numpy(a.astype(np.float32)) for key, a in arrays.items()})
    return arrays


def trained(module, x, label):
    """Loss, gradients and running statistics of one pass over a batch."""
    module.train()
    loss = nn.functional.binary_cross_entropy_with_logits(module(x)[:, 0], label)
    loss.backward()
    found = {"train.loss": loss.detach().reshape(1)}
    found.update({f"grad.{key}": p.grad for key, p in module.named_parameters()})
    found.update({f"next.{key}": v for key, v in module.state_dict().items() if "running" in key})
    return {key: v.detach().clone() for key, v in found.items()}


def write_trained(args, name, seed, config, shape):
    module = narrow(config["layers"], config["inplanes"], config["groups"], config["width_per_group"])
    weights = random_weights(module, seed)
    x = common.recipe_tensor("input.x", common.recipe_image(shape))
    label = torch.tensor([float(i % 2) for i in range(shape[0])])
    out, noise = common.run_both(module, x)
    narrow_run = trained(module, x, label)
    # In f64 from the same start: what f32 is measured by.
    load(module, {key: torch.from_numpy(a.astype(np.float32)) for key, a in weights.items()})
    module.double().zero_grad()
    wide = trained(module, x.double(), label.double())
    worst = max(((narrow_run[k].double() - wide[k]).norm() / wide[k].norm()).item() for k in wide)
    arrays = {f"weight.{key}": a for key, a in weights.items()}
    arrays.update({key: v.float().numpy() for key, v in wide.items()})
    arrays.update({"out": out.numpy(), "label": label.numpy()})
    metadata = {
        "network": "resnet50",
        "config": config,
        "script": SCRIPT,
        "seed": str(seed),
        "weights": "stored",
        "f32_noise": f"{noise:.2e}",
        "f32_noise_trained": f"{worst:.2e}",
        "recipe": {"input.x": common.recipe_image(shape)},
    }
    common.write(args.out / f"resnet_{name}.safetensors", arrays, metadata)
    print(f"    out {out.flatten().tolist()} f32 noise {noise:.1e}, trained {worst:.1e}")


def main():
    args = common.arguments(__doc__)
    tiny = dict(layers=[1, 2, 1, 1], num_classes=1, groups=1, width_per_group=64, inplanes=4)
    cases = [
        ("tiny", 300, tiny, (4, 3, 50, 62)),
        ("tiny_groups", 301, dict(tiny, layers=[1, 1, 1, 1], groups=2, width_per_group=32, inplanes=4), (3, 3, 65, 40)),
    ]
    for case in cases:
        if args.only in f"resnet_{case[0]}":
            write_trained(args, *case)

    if args.only in "resnet_50":
        module = ResNet(Bottleneck, [3, 4, 6, 3])
        entries = {}
        for key, value in parameters(module).items():
            name = "norm.weight" if key.endswith("running_var") else key
            entries[key] = common.recipe_entry(name, tuple(value.shape), conv_gain=3)
        load(module, {key: common.recipe_tensor(f"weight.{key}", entry) for key, entry in entries.items()})
        x = common.recipe_tensor("input.x", common.recipe_image((1, 3, 96, 128)))
        config = dict(layers=[3, 4, 6, 3], num_classes=1000)
        path = args.out / "resnet_50.safetensors"
        common.write_network(path, SCRIPT, "resnet50", config, module, x, entries, "recipe")


if __name__ == "__main__":
    main()
