"""The authors' own modules, from checkouts of their repositories."""

import importlib
import importlib.util
import os
import sys
import types

from torch import nn

from .common import settings


def stub(name, path=None, **members):
    """A module of this name without running its file: official packages import far too much."""
    module = types.ModuleType(name)
    module.__path__ = [path] if path else []
    module.__dict__.update(members)
    sys.modules[name] = module


class Registry:
    @staticmethod
    def register(**_):
        return lambda cls: cls


def official_basicsr(folder, module, name):
    root = os.path.join(folder, "BasicSR", "basicsr")
    stub("basicsr", root)
    stub("basicsr.archs", os.path.join(root, "archs"))
    stub("basicsr.ops.dcn", ModulatedDeformConvPack=nn.Module, modulated_deform_conv=None)
    stub("basicsr.ops")
    stub("basicsr.utils", get_root_logger=None)
    stub("basicsr.utils.registry", ARCH_REGISTRY=Registry)
    return getattr(importlib.import_module(f"basicsr.archs.{module}"), name)


def official_file(path):
    spec = importlib.util.spec_from_file_location(f"official_{abs(hash(path))}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def official_swinir(folder, config):
    if config.get("unshuffle"):
        path = os.path.join(folder, "DreamClear", "diffusion", "model", "nets", "swinir.py")
    else:
        path = os.path.join(folder, "SwinIR", "models", "network_swinir.py")
    return official_file(path).SwinIR


class OfficialVae(nn.Module):
    """One half of the AutoencoderKL of the installed diffusers."""

    def __init__(self, encode, config):
        super().__init__()
        whole = importlib.import_module("diffusers").AutoencoderKL(**config)
        if encode:
            self.encoder, self.quant_conv = whole.encoder, whole.quant_conv
        else:
            self.decoder, self.post_quant_conv = whole.decoder, whole.post_quant_conv

    def forward(self, x):
        if hasattr(self, "encoder"):
            return self.quant_conv(self.encoder(x))
        return self.decoder(self.post_quant_conv(x))


def model_class(architecture, config):
    folder = settings["official"]
    if architecture in ("vae-encoder", "vae-decoder"):
        return lambda **config: OfficialVae(architecture == "vae-encoder", config)
    if architecture == "swinir":
        return official_swinir(folder, config)
    modules = {"rrdbnet": ("rrdbnet_arch", "RRDBNet"), "srvgg": ("srvgg_arch", "SRVGGNetCompact")}
    return official_basicsr(folder, *modules[architecture]) if architecture in modules else None
