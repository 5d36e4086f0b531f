"""Golden numbers of one training step: losses, gradients and an AdamW step of official networks in PyTorch.

    pip install diffusers==0.42.1
    python tools/golden/train_step.py --repos REPOS     # train_*.safetensors

Weights and float inputs follow the recipe (README.md). Of tensors with more than SAMPLE elements, evenly spaced
ones are stored: `grad.KEY` and `step.KEY` = (new - old) / lr hold `flat[::stride]`, where stride is the least odd
number that leaves SAMPLE or fewer.

`eps` of the optimiser is 1e-4 in these cases: some gradients are zero but for rounding (a key's bias shifts all
scores of a query alike), and with a small eps AdamW turns that rounding into steps of full length.
"""

import contextlib
import itertools
import types
from unittest import mock

import common
import dit
import numpy as np
import torch
from torch.nn import functional

SAMPLE = 1024
OPTIMISER = dict(lr=1e-3, weight_decay=0.02, eps=1e-4, betas=[0.9, 0.99], grad_clip=0.5)


def sampled(tensor):
    """What is stored of a tensor."""
    stride = -(-tensor.numel() // SAMPLE)
    return tensor.detach().flatten()[:: stride | 1].float().clone().numpy()


def finish(args, name, network, config, recipe, stored, net, losses):
    """Backward, one step, and the file. `losses(net, dtype)` gives the loss and its terms."""
    trained = [(key, p) for key, p in net.named_parameters() if p.requires_grad]
    net.double()
    losses(net, torch.float64)["loss"].backward()
    wide = {key: p.grad.clone() for key, p in trained}
    net.zero_grad(set_to_none=True)
    net.float()

    outputs = losses(net, torch.float32)
    outputs["loss"].backward()
    arrays = {f"out.{key}": value.detach().float().numpy().reshape(()) for key, value in outputs.items()}
    noise = 0.0
    for key, p in trained:
        if p.grad is None:
            print("    no gradient:", key)
            continue
        arrays[f"grad.{key}"] = sampled(p.grad)
        if wide[key].norm() > 1e-7:
            own = ((p.grad.double() - wide[key]).norm() / wide[key].norm()).item()
            noise = max(noise, own)
            if own > 1e-5:
                print(f"    {key}: f32 noise {own:.1e}, norm {wide[key].norm():.1e}")
    lr = config["lr"]
    parameters = [p for _, p in trained]
    optimiser = torch.optim.AdamW(
        parameters, lr=lr, betas=config["betas"], eps=config["eps"], weight_decay=config["weight_decay"]
    )
    old = {key: p.detach().clone() for key, p in trained}
    arrays["grad_norm"] = torch.nn.utils.clip_grad_norm_(parameters, config["grad_clip"]).numpy().reshape(())
    optimiser.step()
    for key, p in trained:
        if p.grad is not None:
            arrays[f"step.{key}"] = sampled((p.detach() - old[key]) / lr)
    metadata = {
        "network": network,
        "config": config,
        "script": "tools/golden/train_step.py",
        "recipe": recipe,
        "trained": str(len(parameters)),
        "f32_noise": f"{noise:.2e}",
    }
    common.write(args.out / f"train_{name}.safetensors", {**arrays, **stored}, metadata)
    shown = {key: f"{value.item():.4f}" for key, value in outputs.items()}
    print(f"    {len(parameters)} tensors trained, grad norm {arrays['grad_norm']:.4f}, f32 noise {noise:.1e}", shown)


def recipe_inputs(entries):
    return {key: common.recipe_tensor(f"input.{key}", entry) for key, entry in entries.items()}


def swinir(args):
    official = common.official(
        args.repos / "DreamClear" / "diffusion" / "model" / "nets" / "swinir.py", "golden_dreamclear_swinir"
    )
    small = dict(
        img_size=16, patch_size=1, in_chans=3, window_size=4, img_range=1.0, embed_dim=12, depths=[2, 2],
        num_heads=[2, 3], mlp_ratio=2, resi_connection="1conv",
    )  # fmt: skip
    general = dict(small, sf=2, unshuffle=True, unshuffle_scale=2, upsampler="nearest+conv")
    # Kept (1) and left out (0) of each sample: attention and MLP of each block in turn, the first one's always kept.
    masks = np.array([[1, 1, 1, 0, 1, 1, 0, 1], [1, 1, 0, 1, 1, 0, 1, 1]], np.float32)
    cases = {
        "swinir": (dict(general, loss="l1"), (2, 3, 24, 16), None),
        "swinir_mse": (dict(small, sf=1, upsampler="", resi_connection="3conv", loss="mse"), (1, 3, 13, 18), None),
        "swinir_drop_path": (dict(general, upsampler="pixelshuffledirect", loss="mse"), (2, 3, 16, 16), (0.4, masks)),
    }
    for name, (config, shape, drop) in cases.items():
        if args.only not in f"train_{name}":
            continue
        rate = drop[0] if drop else 0.0
        net = official.SwinIR(**{k: v for k, v in config.items() if k != "loss"}, drop_path_rate=rate)
        recipe = {f"weight.{k}": e for k, e in common.load_recipe(net, conv_gain=3).items()}
        net.train()
        entries = {"x": common.recipe_image(shape), "target": common.recipe_image(shape)}
        inputs = recipe_inputs(entries)
        recipe |= {f"input.{k}": e for k, e in entries.items()}
        distance = functional.l1_loss if config["loss"] == "l1" else functional.mse_loss

        def losses(net, dtype):
            with drawn(drop[1][:, 2:]) if drop else contextlib.nullcontext():
                loss = distance(net(inputs["x"].to(dtype)), inputs["target"].to(dtype))
            return {"loss": loss, config["loss"]: loss}

        stored = {}
        if drop:
            rates = np.repeat(np.linspace(0, rate, sum(config["depths"])), 2)
            stored["input.drop_path"] = (drop[1] / (1 - rates)).astype(np.float32)
        finish(args, name, "swinir", {**config, **OPTIMISER}, recipe, stored, net, losses)


@contextlib.contextmanager
def drawn(masks):
    """What timm's DropPath draws, with its results given: a column of `masks` [B, branches] a call."""
    columns = itertools.count()

    def bernoulli(self, probability):
        assert 0 < probability < 1
        return self.copy_(torch.as_tensor(masks[:, next(columns)]).reshape(self.shape))

    with mock.patch.object(torch.Tensor, "bernoulli_", bernoulli):
        yield
    assert next(columns) == masks.shape[1], "each branch draws once"


def vae(args):
    from diffusers import AutoencoderKL

    if args.only not in "train_vae":
        return
    config = dict(
        block_out_channels=[8, 16], down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2, in_channels=3, out_channels=3, layers_per_block=1,
        latent_channels=4, norm_num_groups=4,
    )  # fmt: skip
    net = AutoencoderKL(**config)
    recipe = {f"weight.{k}": e for k, e in common.load_recipe(net, conv_gain=3).items()}
    entries = {"x": [[2, 3, 16, 24], 0.0, 1, -21], "noise": [[2, 4, 8, 12], 0.0, 3, -22]}
    inputs = recipe_inputs(entries)
    recipe |= {f"input.{k}": e for k, e in entries.items()}
    config = dict(config, kl_weight=1e-3, **OPTIMISER)

    def losses(net, dtype):
        x = inputs["x"].to(dtype)
        posterior = net.encode(x).latent_dist
        y = net.decode(posterior.mean + posterior.std * inputs["noise"].to(dtype)).sample
        terms = {"l1": (y - x).abs().mean(), "kl": posterior.kl().mean()}
        return {"loss": terms["l1"] + config["kl_weight"] * terms["kl"], **terms}

    finish(args, "vae", "vae", config, recipe, {}, net, losses)


def dreamclear(args):
    classes = dit.official(args.repos)
    from diffusion.iddpm import IDDPM

    diffusion = IDDPM("1000")
    accelerator = types.SimpleNamespace(autocast=contextlib.nullcontext)
    small = dict(
        input_size=16, patch_size=2, in_channels=4, hidden_size=24, depth=2, num_heads=2, mlp_ratio=2.0,
        pred_sigma=True, caption_channels=12, lewei_scale=2.0, model_max_length=6, copy_blocks_num=2,
    )  # fmt: skip
    some = dict(small, depth=3, copy_blocks_num=1)
    # Timestep 0 has the other bound; one caption of two is dropped.
    cases = {"dreamclear": (small, [0, 731], [0, 1]), "dreamclear_some": (some, [999], [0])}
    for name, (config, timestep, drop) in cases.items():
        if args.only not in f"train_{name}":
            continue
        net = dit.build(classes, "dreamclear", config)
        recipe = {f"weight.{k}": e for k, e in dit.load_recipe(net).items()}
        batch = len(timestep)
        latent = [[batch, 4, 8, 12], 0.0, 3, -22]
        entries = {key: latent for key in ("x_start", "c_lq", "c_pre")}
        # Little noise: far from the mean a bin's probability is the difference of two numbers near 1, and f32
        # keeps few digits of it (at timestep 0, where that is the loss).
        entries["noise"] = [[batch, 4, 8, 12], 0.0, 1, -22]
        entries["y"] = [[batch, 1, 6, 12], 0.0, 3, -22]
        inputs = recipe_inputs(entries)
        recipe |= {f"input.{k}": e for k, e in entries.items()}
        stored = dict(
            timestep=np.array(timestep, np.int64),
            mask=dit.prefix(*[6, 4][:batch], of=6),
            img_hw=np.array([[1024.0, 768.0], [512.0, 1536.0]][:batch], np.float32),
            aspect_ratio=np.array([[0.75], [1.5]][:batch], np.float32),
            drop=np.array(drop, np.float32),
        )
        tensors = {k: torch.as_tensor(v) for k, v in stored.items()}
        # The official draw, with its result given.
        embedder = net.base_model.y_embedder
        replace = type(embedder).token_drop
        net.train()
        embedder.token_drop = lambda y, *_: replace(embedder, y, force_drop_ids=tensors["drop"])

        def losses(net, dtype):
            def to(x):
                return x.to(dtype) if x.is_floating_point() else x

            kwargs = dict(
                y=to(inputs["y"]), mask=tensors["mask"], c_lq=to(inputs["c_lq"]), c_pre=to(inputs["c_pre"]),
                data_info=dict(img_hw=to(tensors["img_hw"]), aspect_ratio=to(tensors["aspect_ratio"])),
            )  # fmt: skip
            terms = diffusion.training_losses(
                net, accelerator, to(inputs["x_start"]), tensors["timestep"], model_kwargs=kwargs, noise=to(inputs["noise"])
            )
            return {key: terms[key].mean() for key in ("loss", "mse", "vb")}

        stored = {f"input.{k}": v for k, v in stored.items()}
        finish(args, name, "dreamclear", {**config, **OPTIMISER}, recipe, stored, net, losses)


def main():
    args = common.arguments(__doc__)
    swinir(args)
    vae(args)
    dreamclear(args)


if __name__ == "__main__":
    main()
