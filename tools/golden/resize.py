#!/usr/bin/env python3
"""Golden numbers for src/data/resize.rs: Pillow's 8-bit bicubic and torch's bicubic.

Writes tests/golden/resize.safetensors. Made with Pillow 13.0.0, torch 2.11.0, numpy seed 7.
Pillow >= 13 may run its vertical pass first when shrinking; resizing one axis at a time pins the
order (horizontal first) that DreamClear was trained with. Enlarging cases are one call.
"""
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.numpy import save_file

CASES = [  # (h, w) -> (h, w), channels
    ((5, 7), (20, 28), 3),
    ((16, 12), (64, 48), 3),
    ((13, 9), (64, 64), 3),
    ((1, 1), (9, 4), 3),
    ((3, 40), (12, 64), 1),
    ((24, 24), (24, 60), 1),
    ((31, 47), (8, 16), 3),
    ((40, 30), (7, 64), 3),
    ((33, 3), (11, 1), 1),
]
TORCH_CASES = {0, 3, 4, 5, 6, 8}


def pillow(x, size):
    (h, w), (nh, nw) = x.shape[:2], size
    image = Image.fromarray(x[:, :, 0] if x.shape[2] == 1 else x)
    if nh < h or nw < w:
        image = image.resize((nw, h), Image.BICUBIC)
    image = image.resize((nw, nh), Image.BICUBIC)
    return np.asarray(image).reshape(nh, nw, x.shape[2])


def main():
    rng = np.random.default_rng(7)
    out = {}
    for i, (size, new, c) in enumerate(CASES):
        x = rng.integers(0, 256, (*size, c), dtype=np.uint8)
        # Half of the pixels at the extremes, so that clipping is exercised.
        x = np.where(rng.random(x.shape) < 0.25, 0, np.where(rng.random(x.shape) < 0.33, 255, x)).astype(np.uint8)
        out[f"pillow{i}.in"], out[f"pillow{i}.out"] = x, pillow(x, new)
        if i not in TORCH_CASES:
            continue
        f = rng.random((*size, c), dtype=np.float32)
        t = F.interpolate(torch.from_numpy(f).permute(2, 0, 1)[None], size=new, mode="bicubic")
        out[f"torch{i}.in"], out[f"torch{i}.out"] = f, t[0].permute(1, 2, 0).contiguous().numpy()
    path = Path(__file__).resolve().parents[2] / "tests/golden/resize.safetensors"
    save_file({k: np.ascontiguousarray(v) for k, v in out.items()}, path)
    print(path.name, path.stat().st_size, "bytes")


main()
