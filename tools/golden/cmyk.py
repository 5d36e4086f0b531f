#!/usr/bin/env python3
"""Writes tests/golden/cmyk.jpg: a CMYK JPEG (Adobe, inverted) of four flat quadrants with a CMYK profile header.

Pillow 13.0.0. Prints the RGB colours Pillow converts them to, which tests/data_image.rs expects.
"""
from pathlib import Path

import numpy as np
from PIL import Image

quadrants = [[(0, 0, 0, 0), (0, 255, 255, 0)], [(255, 127, 127, 0), (0, 0, 0, 255)]]
pixels = np.zeros((32, 32, 4), np.uint8)
for r in range(2):
    for c in range(2):
        pixels[r * 16 : r * 16 + 16, c * 16 : c * 16 + 16] = quadrants[r][c]
profile = bytearray(128)
profile[16:20] = b"CMYK"
path = Path(__file__).resolve().parents[2] / "tests/golden/cmyk.jpg"
Image.fromarray(pixels, "CMYK").save(path, quality=95, icc_profile=bytes(profile))
shown = np.asarray(Image.open(path).convert("RGB"))
print(path.stat().st_size, [shown[y, x].tolist() for y in (8, 24) for x in (8, 24)])
