"""Writes tests/golden/weights/: small files as PyTorch saves them, and their contents.

Run from the repository root: python tools/golden/weights.py
Made with torch 2.11.0, numpy 2, safetensors 0.6 on CPU. No randomness, but legacy files name
storages by their addresses, which differ from run to run.

good/*.pth   each with the tensors that torch.load finds in it as <stem>.safetensors
evil/*.pth   pickles that run code when loaded by Python; <stem>.txt names what they import
"""

import argparse
import collections
import datetime
import io
import pathlib
import pickle
import struct
import sys
import types
import zipfile

import numpy
import torch
from safetensors.torch import save_file

OUT = pathlib.Path("tests/golden/weights")
GOOD, EVIL = OUT / "good", OUT / "evil"


def tensor(*shape, dtype=torch.float32):
    n = int(numpy.prod(shape))
    return ((torch.arange(n, dtype=torch.float64) - n / 2) / 8).to(dtype).reshape(shape)


def good(name, obj, tensors, **how):
    """Saves obj and, separately, the tensors that a reader should find."""
    torch.save(obj, GOOD / f"{name}.pth", **how)
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, GOOD / f"{name}.safetensors")


def views():
    base = tensor(4, 6)
    return {
        "whole": base,
        "rows": base[1:3],
        "column": base[:, 2],
        "transposed": base.t(),
        "strided": base[::2, 1::2],
        "expanded": tensor(3, 1).expand(3, 4),
        "scalar": base[2, 3],
        "empty": base[:0],
        "channels_last": tensor(2, 3, 2, 2).to(memory_format=torch.channels_last),
    }


def dtypes():
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
             torch.int8, torch.uint8]
    named = {str(k).removeprefix("torch."): tensor(2, 3).abs().to(k) for k in kinds}
    return named | {"bool": torch.tensor([True, False, True])}


def make_good():
    new, old = {}, {"_use_new_zipfile_serialization": False}
    plain = {"a.weight": tensor(2, 3), "a.bias": tensor(2)}
    ema = {k: v + 1 for k, v in plain.items()}
    for suffix, how in (("zip", new), ("legacy", old)):
        good(f"plain_{suffix}", plain, plain, **how)
        good(f"views_{suffix}", views(), views(), **how)
        good(f"dtypes_{suffix}", dtypes(), dtypes(), **how)
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(tensor(*parameter.shape))
    state = module.state_dict()
    good("ordered_dict", state, state)
    good("parameters", {k: torch.nn.Parameter(v) for k, v in plain.items()}, plain)
    good("ema", {"params": plain, "params_ema": ema}, ema)
    good("lightning", {
        "epoch": 3, "global_step": 12, "pytorch-lightning_version": "1.4.2", "state_dict": plain,
        "optimizer_states": [{"state": {0: {"exp_avg": tensor(2, 3)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}],
        "lr_schedulers": [{"milestones": collections.Counter([10, 20])}],
        "hyper_parameters": argparse.Namespace(lr=1e-4, when=datetime.datetime(2024, 10, 24)),
    }, plain)
    good("data_parallel", {"model": {"state_dict": {f"module.{k}": v for k, v in plain.items()}}}, plain)
    good("metadata", {
        "meta": {"mean": numpy.float64(0.5), "shape": torch.Size([2, 3]), "array": numpy.arange(3.0),
                 "device": torch.device("cpu"), "dtype": torch.float16, "set": {1, 2}, "bytes": b"\x00\xff",
                 "path": pathlib.PurePosixPath("a/b"), "big": 2**200, "none": None, "nested": [(1, 2.5), "x"]},
        "state_dict": plain,
    }, plain, pickle_protocol=4)
    good("nested", {"net_g": {"layers": [tensor(1), tensor(2)]}, "step": 7},
         {"net_g.layers.0": tensor(1), "net_g.layers.1": tensor(2)})

    # 64-bit zip records, which files beyond 4 GiB have, forced onto a small one.
    saved = io.BytesIO()
    torch.save(plain, saved)
    limits = zipfile.ZIP64_LIMIT, zipfile.ZIP_FILECOUNT_LIMIT
    zipfile.ZIP64_LIMIT = zipfile.ZIP_FILECOUNT_LIMIT = -1
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(GOOD / "zip64.pth", "w") as z:
        for entry in source.infolist():
            z.writestr(zipfile.ZipInfo(entry.filename), source.read(entry))
    zipfile.ZIP64_LIMIT, zipfile.ZIP_FILECOUNT_LIMIT = limits
    save_file(plain, GOOD / "zip64.safetensors")

    # mmengine's class without mmengine: only its name is in the file.
    stub = types.ModuleType("mmengine.config.config")
    stub.ConfigDict = type("ConfigDict", (dict,), {"__module__": stub.__name__})
    for name in ("mmengine", "mmengine.config", stub.__name__):
        sys.modules[name] = stub
    good("mmengine", {"meta": {"cfg": stub.ConfigDict(a=1)}, "state_dict": plain}, plain)

    # A window of a storage, as PyTorch before 0.4 wrote it: (view key, offset, size) in the persistent id.
    storage = tensor(10).untyped_storage()
    saved = io.BytesIO()
    for header in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}):
        pickle.dump(header, saved, protocol=2)

    class Window:
        pass

    class Pickler(pickle._Pickler):
        def persistent_id(self, obj):
            if isinstance(obj, Window):
                return ("storage", torch.FloatStorage, "42", "cpu", 10, ("43", 4, 6))

        def save_window(self, obj):
            pass

    class Tensor:
        def __reduce__(self):
            return torch._utils._rebuild_tensor, (Window(), 1, (2, 2), (2, 1))

    Pickler(saved, protocol=2).dump({"w": Tensor()})
    pickle.dump(["42"], saved, protocol=2)
    saved.write(struct.pack("<q", 10) + bytes(storage))
    (GOOD / "window_legacy.pth").write_bytes(saved.getvalue())
    save_file({"w": tensor(10)[5:9].reshape(2, 2)}, GOOD / "window_legacy.safetensors")


def wrap(data):
    """A torch zip around a hand-made pickle."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        z.writestr(zipfile.ZipInfo("archive/data.pkl"), data)
        z.writestr(zipfile.ZipInfo("archive/version"), "3\n")
    return out.getvalue()


class Reduce:
    def __init__(self, call, *args):
        self.how = call, args

    def __reduce__(self):
        return self.how


def make_evil():
    import builtins
    import os
    import subprocess

    def evil(name, imports, data):
        (EVIL / f"{name}.pth").write_bytes(wrap(data))
        (EVIL / f"{name}.txt").write_text(imports + "\n")

    def text(s):
        return b"X" + struct.pack("<I", len(s)) + s.encode()

    for protocol in (0, 1, 2, 4):
        evil(f"reduce_p{protocol}", f"{os.system.__module__}.system", pickle.dumps(Reduce(os.system, "true"), protocol))
    evil("eval", "builtins.eval", pickle.dumps({"state_dict": Reduce(builtins.eval, "1")}, 4))
    evil("popen", "subprocess.Popen", pickle.dumps({"a": [Reduce(subprocess.Popen, ["true"])]}, 4))
    evil("global", "os.system", b"\x80\x02cos\nsystem\n" + text("true") + b"\x85R.")
    evil("inst", "os.system", b"(S'true'\nios\nsystem\n.")
    evil("obj", "os.system", b"\x80\x02(cos\nsystem\n" + text("true") + b"o.")
    evil("newobj", "os._wrap_close", b"\x80\x02cos\n_wrap_close\n)\x81.")
    evil("newobj_ex", "os._wrap_close", b"\x80\x04" + text("os") + text("_wrap_close") + b"\x93)}\x92.")
    evil("stack_global", "posix.system", b"\x80\x04\x8c\x05posix\x8c\x06system\x93" + text("true") + b"\x85R.")
    evil("build", "os.environ", b"\x80\x02cos\nenviron\n}(" + text("A") + text("B") + b"ub.")
    # The harmful name as an argument of a harmless one.
    evil("hidden", "builtins.exec", b"\x80\x02ccollections\ndefaultdict\ncbuiltins\nexec\n\x85R.")
    evil("module", "basicsr.archs.rrdbnet_arch.RRDBNet", b"\x80\x02cbasicsr.archs.rrdbnet_arch\nRRDBNet\n)\x81}b.")
    evil("dotted", "torch.serialization.os.system", b"\x80\x04\x8c\x13torch.serialization\x8c\x09os.system\x93.")
    evil("load_from_bytes", "torch.storage._load_from_bytes", b"\x80\x02ctorch.storage\n_load_from_bytes\n)R.")


for folder in (GOOD, EVIL):
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
make_good()
make_evil()
print(sum(p.stat().st_size for p in OUT.rglob("*") if p.is_file()), "bytes in", OUT)
