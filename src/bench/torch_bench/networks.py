"""Which class a network is, and how a user would run it on a GPU."""

import torch

from . import official
from .common import Refused, same, settings
from .dit import ControlFormerLayer, DreamClearStep, PixArtBlock, T5Block
from .pictures import RrdbNet, SrVgg, SwinIr
from .vae import VaeHalf

MODELS = {
    "rrdbnet": RrdbNet,
    "srvgg": SrVgg,
    "swinir": SwinIr,
    "vae-encoder": lambda **config: VaeHalf(True, **config),
    "vae-decoder": lambda **config: VaeHalf(False, **config),
    "pixart-block": PixArtBlock,
    "controlformer-layer": ControlFormerLayer,
    "dreamclear-step": DreamClearStep,
    "t5-block": T5Block,
}

# On a GPU: networks of matrix products are compiled, those of convolutions run channels-last.
COMPILED = {"pixart-block", "controlformer-layer", "dreamclear-step", "t5-block"}


def model_class(architecture, config):
    """The authors' own where checkouts are at hand, else ours."""
    if settings["official"]:
        return official.model_class(architecture, config)
    return MODELS.get(architecture)


def compiled(net):
    """The network compiled layer by layer, as one layer stands for all; or why it runs eagerly."""
    layers = getattr(net, "layers", None)
    if isinstance(layers, torch.nn.ModuleList) and len(layers) > 2:
        for layer in layers:
            layer.compile()
        return "torch.compile of each layer"
    net.compile()
    return "torch.compile"


def build_model(work, tensors):
    make = model_class(work["model"], work["config"])
    if make is None:
        raise Refused(f'the PyTorch script has no network "{work["model"]}"')
    net = make(**work["config"]).eval()
    x = tensors.pop("x")
    if not work.get("own_weights"):
        missing, unexpected = net.load_state_dict(tensors, strict=False)
        # Official modules keep tables that follow from the configuration among their weights.
        missing = [k for k in missing if not k.endswith(("relative_position_index", "attn_mask"))]
        if missing or unexpected:
            raise Refused(f"the weights do not fit: missing {missing[:3]}, unexpected {unexpected[:3]}")
    if not settings["gpu"]:
        return (lambda: net(x)), same, ""
    if work["model"] in COMPILED:
        how = compiled(net)
        try:
            net(x)
            return (lambda: net(x)), same, how
        except Exception as error:  # compilers fail in many ways; the network itself may still run
            torch._dynamo.config.disable = True
            return (lambda: net(x)), same, f"eager: {how} failed ({type(error).__name__})"
    net = net.to(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last)
    torch.backends.cudnn.benchmark = True
    return (lambda: net(x)), same, "channels-last"
