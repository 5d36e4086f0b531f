"""Training steps as a PyTorch user writes them: loss, backward, clip_grad_norm_, AdamW."""

import contextlib
import os
import sys
import types

import torch
import torch.nn.functional as F

from .common import Refused, same, settings
from .official import stub
from .networks import model_class


def build_training(work, tensors):
    """A call that makes one step and gives [loss, norm of the gradients]."""
    with torch.inference_mode(False), torch.enable_grad():
        tensors = {key: t.clone() for key, t in tensors.items()}
        inputs = {name: tensors.pop(name) for name in work["inputs"]}
        make = {"swinir": swinir, "dreamclear": dreamclear}[work["train"]]
        net, loss_of = make(work["config"], inputs)
        missing, unexpected = net.load_state_dict(tensors, strict=False)
        derived = ("relative_position_index", "attn_mask", "pos_embed")
        missing = [k for k in missing if not k.endswith(derived)]
        if missing or unexpected:
            raise Refused(f"the weights do not fit: missing {missing[:3]}, unexpected {unexpected[:3]}")
        trained = [p for p in net.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(trained, lr=work["rate"])

    def call():
        with torch.inference_mode(False), torch.enable_grad():
            optimiser.zero_grad(set_to_none=True)
            loss = loss_of(net)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(trained, work["clip"])
            optimiser.step()
            return torch.stack([loss.detach(), norm])

    return call, same, ""


def swinir(config, inputs):
    residual = 0.0
    extra = {}
    if settings["official"]:
        extra = {"drop_path_rate": 0.0}
        # The authors' network does not know it.
        if config.pop("global_residual", False):
            residual = inputs["x"] - torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1)
    net = model_class("swinir", config)(**config, **extra)
    return net, lambda net: F.l1_loss(net(inputs["x"]) + residual, inputs["target"])


def dreamclear(config, inputs):
    """The authors' network and losses; attention by PyTorch's own kernels in the place of xformers'."""
    if not settings["official"]:
        raise Refused("it is compared with the authors' own code: give --official")
    folder = os.path.join(settings["official"], "DreamClear")
    base, control, diffusion = official_dreamclear(folder)
    # Two constructors have the published sizes written in.
    hidden, heads = config["hidden_size"], config["num_heads"]
    with_sizes(control.Zero_MultiHeadCrossAttentionDe, hidden, heads)
    with_sizes(control.PatchEmbed_Zero, config["patch_size"], config["in_channels"], hidden)
    blocks = config["copy_blocks_num"]
    net = base(**{k: v for k, v in config.items() if k != "copy_blocks_num"})
    net = control.ControlPixArtMSHalfSR2Branch(net, copy_blocks_num=blocks)
    accelerator = types.SimpleNamespace(autocast=contextlib.nullcontext)
    lengths = inputs["lengths"]
    tokens = inputs["y"].shape[1]
    mask = (torch.arange(tokens)[None] < lengths[:, None]).long()[:, None, None]
    kwargs = dict(
        y=inputs["y"][:, None], mask=mask, c_lq=inputs["c_lq"], c_pre=inputs["c_pre"],
        data_info=dict(img_hw=inputs["img_hw"], aspect_ratio=inputs["aspect_ratio"]),
    )  # fmt: skip

    def loss_of(net):
        terms = diffusion.training_losses(
            net, accelerator, inputs["x_start"], inputs["timestep"], model_kwargs=kwargs, noise=inputs["noise"]
        )
        return terms["loss"].mean()

    # Nothing is dropped; train() would only turn that on.
    return net.eval(), loss_of


def with_sizes(cls, *sizes):
    original = vars(cls).get("official_init", cls.__init__)
    cls.official_init = original
    cls.__init__ = lambda self, *_, **__: original(self, *sizes)


class Lengths(list):
    """What xformers' block-diagonal mask says: how many keys each sample sees."""

    @classmethod
    def from_seqlens(cls, queries, keys):
        return cls(zip(queries, keys))


def attention(q, k, v, p=0.0, attn_bias=None):
    if attn_bias is None:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    queries, keys = (list(lengths) for lengths in zip(*attn_bias))
    parts = zip(q.split(queries, 1), k.split(keys, 1), v.split(keys, 1))
    return torch.cat([attention(*part) for part in parts], dim=1)


def official_dreamclear(folder):
    fmha = types.SimpleNamespace(BlockDiagonalMask=Lengths)
    stub("xformers")
    stub("xformers.ops", memory_efficient_attention=attention, fmha=fmha)
    sys.modules["xformers"].ops = sys.modules["xformers.ops"]
    registry = types.SimpleNamespace(register_module=lambda *_, **__: lambda item: item)
    stub("mmcv", Registry=lambda *_, **__: registry)
    stub("diffusion.utils.logger", get_root_logger=None)
    sys.path.insert(0, folder)
    from diffusion.iddpm import IDDPM
    from diffusion.model.nets import PixArtMS, pixart_controlnet

    return PixArtMS, pixart_controlnet, IDDPM("1000")
