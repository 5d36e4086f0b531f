"""What every golden script shares: the weight recipe, stored weights, official modules, writing files.

Read README.md for the layout of the files. Everything here runs on a CPU in a few seconds, and a
second run writes the same numbers up to the rounding of the PyTorch build that ran it.
"""

import argparse
import importlib.util
import json
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import torch

warnings.filterwarnings("ignore", message=".*(meshgrid|timm.models.layers).*")

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
MASK64 = (1 << 64) - 1
GOLDEN_GAMMA = 0x9E3779B97F4A7C15


# ---- the recipe: tensors that nobody has to store -----------------------------------------------
# An entry is [shape, centre, m, e]; element i of the tensor called `name` is
#     centre + f32(m · r) · 2^e,   r = (splitmix64(fnv1a64(name), i) >> 42) − 2^21.
# Integers up to the last step; m · r has at most 24 bits, so it is exact in f32, and so is the
# product with a power of two. One rounding is left, that of the addition: any IEEE-754 program gets
# the same bits, with or without FMA.


def fnv1a64(name):
    """FNV-1a, 64 bits, of the UTF-8 bytes of `name`."""
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) & MASK64
    return h


def recipe_entry(name, shape, conv_gain):
    """The entry of a weight: amplitude from its fan-in, so that activations neither fade nor explode."""
    rank = len(shape)
    fan_in = int(np.prod(shape[1:])) if rank > 1 else 1
    half_bits = (fan_in.bit_length() - 1) // 2
    if rank >= 2 and name.endswith(".weight"):
        centre, m, k = 0.0, conv_gain if rank == 4 else 2, -1 - half_bits
    elif rank == 1 and name.endswith(".weight"):
        centre, m, k = 1.0, 1, -2
    elif rank == 1:
        centre, m, k = 0.0, 1, -3
    else:
        centre, m, k = 0.0, 1, -1
    return [list(shape), centre, m, k - 21]


def recipe_image(shape):
    """The entry of an input image: uniform in [0, 1)."""
    return [list(shape), 0.5, 1, -22]


def recipe_tensor(name, entry):
    """The f32 tensor called `name`, elements in row-major order."""
    shape, centre, m, e = entry
    with np.errstate(over="ignore"):
        z = np.uint64(fnv1a64(name)) + np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) * np.uint64(GOLDEN_GAMMA)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    r = (z >> np.uint64(42)).astype(np.int32) - (1 << 21)
    values = np.float32(centre) + (np.int32(m) * r).astype(np.float32) * np.float32(2.0**e)
    return torch.from_numpy(values.reshape(shape))


def recipe_self_test():
    """The test vectors of README.md; a changed recipe must not pass unseen."""
    assert fnv1a64("") == 0xCBF29CE484222325 and fnv1a64("a") == 0xAF63DC4C8601EC8C
    for name, entry, bits in RECIPE_VECTORS:
        got = recipe_tensor(name, entry).flatten()[: len(bits)].numpy().view(np.uint32)
        assert [f"{v:08x}" for v in got] == bits, (name, [f"{v:08x}" for v in got])


RECIPE_VECTORS = [
    ("input.x", [[1, 3, 24, 20], 0.5, 1, -22], ["3f261dc8", "3ee7c140", "3f309bc8", "3e2b37b0"]),
    ("weight.conv_first.weight", [[64, 3, 3, 3], 0.0, 3, -24], ["3e21c04c", "bd97eb88", "3e2d3928", "beb25972"]),
    ("weight.norm.weight", [[180], 1.0, 1, -23], ["3f8a747b", "3f62737c", "3f6c8c64", "3f64f59e"]),
    ("weight.norm.bias", [[180], 0.0, 1, -24], ["bdb18c08", "3bd73c80", "bdedc4e0", "bca19ce0"]),
]


# ---- weights ---------------------------------------------------------------------------------------


def parameters(module):
    """The official keys that carry information: no index tables, no masks."""
    return {
        key: value
        for key, value in module.state_dict().items()
        if not key.endswith(("relative_position_index", "attn_mask"))
    }


def load_recipe(module, conv_gain):
    """Fills every parameter by the recipe and returns {key: entry}."""
    entries = {key: recipe_entry(key, tuple(value.shape), conv_gain) for key, value in parameters(module).items()}
    load(module, {key: recipe_tensor(f"weight.{key}", entry) for key, entry in entries.items()})
    return entries


def load_random(module, seed, prelu=False, scales=None):
    """Fills every parameter with seeded f16 values, none left at zero or one; returns {key: f16 array}.

    Matrices and kernels keep the variance of their input; gains lie around 1 (PReLU slopes around
    0.25), biases and bias tables are well away from zero, so a forgotten one shows. `scales` multiplies
    single keys.
    """
    rng = np.random.default_rng(seed)
    arrays = {}
    for key, value in parameters(module).items():
        shape = tuple(value.shape)
        if value.ndim == 1 and key.endswith(".weight"):
            array = 0.25 + 0.2 * rng.uniform(-1, 1, shape) if prelu else 1 + 0.3 * rng.uniform(-1, 1, shape)
        elif value.ndim == 1:
            array = 0.3 * rng.uniform(-1, 1, shape)
        elif key.endswith(("relative_position_bias_table", "absolute_pos_embed")):
            array = 0.7 * rng.standard_normal(shape)
        else:
            fan_in = int(np.prod(shape[1:]))
            gain = 1.4 if value.ndim == 4 else 1.0
            array = gain / np.sqrt(fan_in) * rng.standard_normal(shape)
        arrays[key] = (array * (scales or {}).get(key, 1)).astype(np.float16)
    load(module, {key: torch.from_numpy(array.astype(np.float32)) for key, array in arrays.items()})
    return arrays


def load(module, tensors):
    state = module.state_dict()
    state.update(tensors)
    module.load_state_dict(state, strict=True)
    module.eval()


# ---- running ---------------------------------------------------------------------------------------


def run_both(module, x):
    """(f32 output, relative L2 distance of the f32 run from an f64 run of the same module).

    The distance is the noise that any f32 implementation has to be allowed.
    """
    with torch.no_grad():
        out = module(x.float()).contiguous()
        wide = module.double()(x.double())
        module.float()
    noise = ((out.double() - wide).norm() / wide.norm()).item()
    assert torch.isfinite(out).all() and out.abs().max() < 100, out.abs().max()
    return out, noise


def random_image(seed, shape):
    """A seeded image in [0, 1] with structure at all scales (not plain noise), 8-bit values / 256."""
    rng = np.random.default_rng(seed)
    n, c, h, w = shape
    y, x = np.meshgrid(np.arange(h), np.arange(w), indexing="ij")
    image = np.zeros(shape)
    for i in range(n):
        for j in range(c):
            for _ in range(4):
                fy, fx, phase = rng.uniform(0, 0.6), rng.uniform(0, 0.6), rng.uniform(0, 6.3)
                image[i, j] += 0.12 * np.sin(fy * y + fx * x + phase)
    image += 0.5 + 0.1 * rng.standard_normal(shape)
    return torch.from_numpy((np.clip(image, 0, 1) * 255).round().astype(np.float32) / 256)


# ---- official code ---------------------------------------------------------------------------------


def parser(description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--repos", type=Path, required=True, help="folder with checkouts of the official repositories")
    parser.add_argument("--out", type=Path, default=GOLDEN, help="where to write (default: tests/golden)")
    return parser


def prepare(parser):
    """Parses the command line, makes the output folder, settles threads and checks the recipe."""
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2)
    torch.manual_seed(0)
    recipe_self_test()
    return args


def arguments(description):
    """The command line of the scripts that write named cases."""
    names = parser(description)
    names.add_argument("--only", default="", help="write only the cases whose name contains this")
    return prepare(names)


def official(path, name):
    """Imports one official source file, without its package (whose imports are many and partly gone)."""
    if not path.is_file():
        sys.exit(f"{path} is missing: clone the repository it belongs to into the folder given by --repos (README.md)")
    stand_in_for_basicsr()
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def stand_in_for_basicsr():
    """BasicSR's registry decorates classes; outside its package a decorator that changes nothing does."""

    class Registry:
        @staticmethod
        def register(*_, **__):
            return lambda cls: cls

    names = ["basicsr", "basicsr.utils", "basicsr.utils.registry"]
    for name in names:
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["basicsr.utils.registry"].ARCH_REGISTRY = Registry


# ---- writing ---------------------------------------------------------------------------------------


DTYPES = {"float32": "F32", "float16": "F16", "int64": "I64", "uint8": "U8", "bool": "BOOL"}


def write(path, arrays, metadata):
    """Writes one golden file; JSON values of `metadata` become compact strings.

    By hand, because the safetensors package shuffles the metadata and so never writes the same file twice.
    """
    text = {key: value if isinstance(value, str) else to_json(value) for key, value in metadata.items()}
    header = {"__metadata__": {**text, "torch": torch.__version__}}
    chunks, end = [], 0
    # Wide types first: every tensor is then aligned to its own size.
    for key, value in sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        chunks.append(np.ascontiguousarray(value).tobytes())
        offsets = [end, end + len(chunks[-1])]
        header[key] = {"dtype": DTYPES[str(value.dtype)], "shape": list(value.shape), "data_offsets": offsets}
        end = offsets[1]
    head = to_json(header).encode()
    head += b" " * (-len(head) % 8)
    path.write_bytes(len(head).to_bytes(8, "little") + head + b"".join(chunks))
    print(f"{path.name:44} {path.stat().st_size / 1024:8.1f} KiB")


def to_json(value):
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def write_network(path, script, network, config, module, x, weights, seed):
    """Runs one network case and writes it.

    `weights` is {key: f16 array} (stored) or {key: entry} (recipe); the input follows suit.
    """
    out, noise = run_both(module, x)
    stored = all(isinstance(value, np.ndarray) for value in weights.values())
    arrays = {"out": out.numpy()}
    metadata = {
        "network": network,
        "config": config,
        "script": script,
        "seed": str(seed),
        "weights": "stored" if stored else "recipe",
        "f32_noise": f"{noise:.2e}",
        "out_std": f"{out.std().item():.3f}",
    }
    if stored:
        arrays["input.x"] = x.numpy()
        arrays.update({f"weight.{key}": value for key, value in weights.items()})
    else:
        metadata["recipe"] = {
            "input.x": recipe_image(x.shape),
            **{f"weight.{key}": entry for key, entry in weights.items()},
        }
    write(path, arrays, metadata)
    print(f"    out {list(out.shape)} std {metadata['out_std']} max {out.abs().max():.2f} f32 noise {noise:.1e}")
