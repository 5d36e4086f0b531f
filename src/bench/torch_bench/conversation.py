"""The PyTorch side of `dreamclear bench --vs torch` and of `dreamclear verify --python`.

One JSON object a line comes in on stdin, one goes out on stdout; see `torch.rs`. On the CPU everything runs as
a PyTorch user runs it: eager, float32, contiguous NCHW pictures, inference mode. On a GPU: one element type
throughout, pictures channels-last, the fastest backend of attention, networks of matrix products compiled.
Changes of layout between the two sides happen outside the timed calls.
"""

import json
import os
import platform
import sys

# Answers go to a private copy of stdout; whatever libraries print must not mix with them.
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)


def answer(kind, value):
    answers.write(json.dumps({kind: value}) + "\n")
    answers.flush()


try:
    import torch
except ImportError as error:
    sys.stdin.readline()
    answer("refused", f"it has no PyTorch ({error})")
    sys.exit(0)

from . import attention, ops  # noqa: F401, E402: their builders enter the table
from .common import OPS, Refused, same, settings  # noqa: E402
from .networks import build_model  # noqa: E402
from .timing import timer  # noqa: E402
from .train import build_training  # noqa: E402

DTYPES = {"f32": torch.float32, "i64": torch.int64, "bf16": torch.bfloat16, "f16": torch.float16}


def read(t):
    count = 1
    for n in t["shape"]:
        count *= n
    x = torch.from_file(t["file"], shared=False, size=count, dtype=DTYPES[t["dtype"]], device="cpu")
    x = x.view(t["shape"])
    # A copy in memory of its own: the file goes away. All floats in one type: PyTorch does not multiply
    # dtypes with each other, and on the CPU arithmetic in f32 is what is compared.
    dtype = settings["dtype"] if x.is_floating_point() else x.dtype
    return x.to(torch.get_default_device(), dtype, copy=True)


def build_op(work, tensors):
    """A call, the way back to our layout, and what stands out in how it is run."""
    builder = OPS.get(work["op"])
    if builder is None:
        raise Refused(f'the PyTorch script has no op "{work["op"]}"')
    built = builder(work["attributes"], *tensors.values())
    built = built if isinstance(built, tuple) else (built,)
    return (*built, *(same, "")[len(built) - 1 :])


def load(ask):
    """A timer of the work, the shape of its result, and how it is run."""
    work, tensors = ask["work"], {t["name"]: read(t) for t in ask["inputs"]}
    # Equal calls over operands of their own take turns, so that no cache holds all operands.
    more = [{k: t.clone() for k, t in tensors.items()} for _ in range(work.get("sets", 1) - 1)]
    build = build_op if "op" in work else build_training if "train" in work else build_model
    call, ours, how = build(work, tensors)
    calls = [call, *(build(work, again)[0] for again in more)]
    y = ours(call()).detach().float().cpu().contiguous()
    # A file tensor is written without NumPy, which PyTorch does not require.
    out = torch.from_file(ask["output"], shared=True, size=y.numel(), dtype=torch.float32, device="cpu")
    out.copy_(y.view(-1))
    return timer(calls), list(y.shape), how


def start(ask):
    torch.set_num_threads(ask["threads"])
    settings["official"] = ask["official"]
    if ask["flush_bytes"]:
        settings["flush"] = torch.zeros(ask["flush_bytes"] // 8, dtype=torch.int64)
    gpu = ask.get("gpu")
    if gpu:
        if not torch.cuda.is_available():
            return answer("refused", "its PyTorch finds no GPU")
        settings.update(gpu=True, dtype=DTYPES[gpu["dtype"]])
        torch.set_default_device(f'cuda:{gpu["ordinal"]}')
        torch.set_default_dtype(settings["dtype"])
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    answer("started", {**versions, "threads": torch.get_num_threads()})


def converse():
    running = None
    for line in sys.stdin:
        ask = json.loads(line)
        if ask["ask"] == "start":
            start(ask)
        elif ask["ask"] == "load":
            running = None  # frees the last row before the next one is read
            if settings["gpu"]:
                torch.cuda.empty_cache()
            try:
                running, shape, how = load(ask)
                answer("loaded", {"shape": shape, "how": how})
            except Refused as why:
                answer("refused", str(why))
            except Exception as error:  # one row's failure must not end the others
                answer("refused", f"{type(error).__name__}: {error}")
        elif ask["ask"] == "time":
            answer("times", running.sample(ask["seconds"], ask["warm_up"]))


def main():
    with torch.inference_mode():
        converse()
