"""Golden numbers of the degradations: the official pieces and whole chains with scripted draws.

`degrade.safetensors`, pictures HWC f32, those called `photo.*` in levels of 255. Pieces: `kernel.*`, `filter.*`, `resize.*`, `jpeg.*`, `usm.*`. Chains:
`realesrgan.N.lr`, `.sr_bicubic` and `.gt` are what the official `realesrgan_degradation` makes of a photo of
tests/data/photos when every draw is the one in the metadata's `chains`; its noise comes from the fields that
src/data/degrade/stream.rs defines, computed here once more. `codeformer.N.sr` are DiffBIR's steps.
"""

import ast
import math
import random
import unittest.mock

import common
import cv2
import numpy as np
import torch
from PIL import Image
from scipy.stats import poisson
from torch.nn import functional as F

MODES = ["area", "bilinear", "bicubic"]
# Some sides are no multiples of vectors, blocks or factors.
PHOTOS = {"small": ("chelsea.png", 30, 40, 37, 43), "wide": ("rocket.png", 20, 60, 48, 64)}


def photo(name, top, left, height, width):
    """A crop of a test photo as f32 in 0..1, HWC."""
    image = np.asarray(Image.open(common.ROOT / "tests/data/photos" / name).convert("RGB"))
    return np.float32(image[top : top + height, left : left + width] / 255.0)


def nchw(image):
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].contiguous()


def hwc(x):
    return x[0].permute(1, 2, 0).contiguous().numpy()


# ---- random numbers as src/philox.rs and src/data/degrade/stream.rs define them ---------------------

LANES = 32
PIXELS = {0: 14, 1: 15}  # Purpose::FirstPixels, Purpose::SecondPixels


def philox(counter, key):
    """Philox 4x32-10 of arrays of counters."""
    c = [np.asarray(x, np.uint64) for x in counter]
    key = list(key)
    low = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(b >> np.uint64(32)) ^ c[1] ^ np.uint64(key[0]), b & low, (a >> np.uint64(32)) ^ c[3] ^ np.uint64(key[1]), a & low]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


class Field:
    def __init__(self, key, round_):
        self.key, self.purpose = key, PIXELS[round_]

    def words(self, n):
        """Uniform 32-bit words of elements 0..n, as [blocks, 4 words, 32 lanes]."""
        blocks = -(-n // (4 * LANES))
        number = np.arange(blocks * LANES, dtype=np.uint64)
        shape = np.ones_like(number)
        seed, index = self.key["seed"], self.key["index"]
        counter = [number, shape * np.uint64(self.key["epoch"] << 8 | self.purpose), shape * np.uint64(index & 0xFFFFFFFF), shape * np.uint64(index >> 32)]
        words = philox(counter, [seed & 0xFFFFFFFF, seed >> 32])
        return np.stack([w.reshape(blocks, LANES) for w in words], axis=1)

    def bits(self, n):
        return self.words(n).reshape(-1)[:n]

    def normals(self, n):
        w = self.words(n).astype(np.float64)
        out = np.empty_like(w)
        for pair in (0, 2):
            radius = np.sqrt(-2 * np.log((w[:, pair] + 1) / 2**32))
            angle = 2 * math.pi * w[:, pair + 1] / 2**32
            out[:, pair], out[:, pair + 1] = radius * np.cos(angle), radius * np.sin(angle)
        return torch.from_numpy(out.reshape(-1)[:n].astype(np.float32))

    def poisson(self, rates):
        """Inversion of the distribution function, elements of HWC pictures in order."""
        rates = hwc(rates).astype(np.float64)
        bits = self.bits(rates.size).reshape(rates.shape)
        out = np.empty(rates.shape, np.float32)
        for rate in np.unique(rates):
            thresholds = np.round(poisson.cdf(np.arange(0, int(rate + 20 * rate**0.5 + 20)), rate) * 2**32)
            at = rates == rate
            out[at] = np.searchsorted(thresholds, bits[at], side="right")
        return nchw(out)


# ---- the official chain with scripted draws ---------------------------------------------------------


def official_chain(repos, degradations, diffjpeg, process):
    """`realesrgan_degradation` out of the script that it is part of, without what surrounds it."""
    source = (repos / "DreamClear" / "tools" / "make_paired_data.py").read_text()
    tree = ast.parse(source)
    wanted = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "realesrgan_degradation"]
    settings = [
        n for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]).startswith("args_degradation")
    ]
    names = {
        "torch": torch, "F": F, "random": random,
        "DiffJPEG": diffjpeg.DiffJPEG, "USMSharp": process.USMSharp, "filter2D": process.filter2D,
        "random_add_gaussian_noise_pt": degradations.random_add_gaussian_noise_pt,
        "random_add_poisson_noise_pt": degradations.random_add_poisson_noise_pt,
        # The crop is one of the whole picture here: pictures have the size that it asks for.
        "paired_random_crop": lambda gt, lq, *_: (gt, lq),
    }  # fmt: skip
    exec(compile(ast.Module(settings + wanted, []), "make_paired_data.py", "exec"), names)
    return names["realesrgan_degradation"], names["args_degradation"]


class Script:
    """Answers the official code's questions with the draws of a chain, in the order in which it asks."""

    def __init__(self, drawn, settings):
        chain = drawn["chain"]
        self.answers, self.round = [], -1
        self.drawn = drawn
        for i, (round_, suffix) in enumerate([(chain["first"], ""), (chain["second"], "2")]):
            if i == 1:
                self.answers.append(("random", 0.0 if round_["blur"] else 0.99))
            factor = round_["factor"]
            self.answers.append(("choices", ["up" if factor > 1 else "down" if factor < 1 else "keep"]))
            if factor != 1:
                self.answers.append(("uniform", factor))
            self.answers.append(("choice", round_["mode"]))
            noise = round_["noise"]
            gaussian = noise["model"] == "gaussian"
            self.answers.append(("random", 0.0 if gaussian else 0.99))
            strength = noise["sigma"] if gaussian else noise["scale"]
            name = "noise_range" if gaussian else "poisson_scale_range"
            low, high = settings[name + suffix]
            self.answers.append(("rand", (strength - low) / (high - low)))
            self.answers.append(("rand", 0.0 if noise["grey"] else 0.99))
            self.answers.append(("pixels", i))
            if i == 0:
                self.answers.append(("uniform_", round_["quality"]))
        last = chain["last"]
        self.answers.append(("random", 0.0 if last["before_compression"] else 0.99))
        ending = [("choice", last["mode"]), ("uniform_", chain["second"]["quality"])]
        self.answers += ending if last["before_compression"] else ending[::-1]

    def next(self, kind):
        found, answer = self.answers.pop(0)
        assert found == kind, (found, kind)
        return answer

    def field(self, kind):
        # Grey noise is drawn first, colour noise always after it, both for the same pixels.
        if self.answers and self.answers[0][0] == "pixels":
            self.round = self.next("pixels")
        return Field(self.drawn["key"], self.round)

    def randn(self, *size, **_):
        n = int(np.prod(size))
        normals = self.field("randn").normals(n)
        return normals.reshape(size) if len(size) == 2 else normals.reshape(*size[2:], size[1]).permute(2, 0, 1)[None]

    def patches(self):
        rand = lambda *size, **_: torch.full(size, self.next("rand"))
        uniform_ = lambda x, *_: x.fill_(self.next("uniform_"))
        own = {
            "random.random": lambda: self.next("random"), "random.uniform": lambda *_: self.next("uniform"),
            "random.choice": lambda _: self.next("choice"), "random.choices": lambda *_: self.next("choices"),
            "torch.rand": rand, "torch.randn": self.randn, "torch.Tensor.uniform_": uniform_,
            "torch.poisson": lambda rates: self.field("poisson").poisson(rates),
            "torch.Tensor.cuda": lambda x: x, "torch.nn.Module.cuda": lambda x: x,
        }  # fmt: skip
        return [unittest.mock.patch(name, value) for name, value in own.items()]


def kernel_weights(degradations, kernel):
    """The official weights of a kernel as src/data/degrade/kernels.rs writes its parameters."""
    k = dict(kernel)
    family, size = k["family"], k["size"]
    if family == "sinc":
        return degradations.circular_lowpass_kernel(k["cutoff"], size)
    iso = not isinstance(k["sigma"], list)
    x, y = [k["sigma"]] * 2 if iso else k["sigma"]
    theta = k.get("rotation", 0.0)
    if family in ("iso", "aniso"):
        return degradations.bivariate_Gaussian(size, x, y, theta, isotropic=iso)
    make = degradations.bivariate_generalized_Gaussian if "generalized" in family else degradations.bivariate_plateau
    return make(size, x, y, theta, k["beta"], isotropic=iso)


def padded(weights, side=21):
    pad = (side - len(weights)) // 2
    return torch.FloatTensor(np.pad(weights, pad))[None]


KERNELS = [
    {"family": "iso", "size": 7, "sigma": 0.2},
    {"family": "iso", "size": 15, "sigma": 2.4},
    {"family": "aniso", "size": 21, "sigma": [0.5, 2.9], "rotation": 0.7},
    {"family": "aniso", "size": 41, "sigma": [11.0, 3.0], "rotation": -2.9},
    {"family": "generalized_iso", "size": 13, "sigma": 1.1, "beta": 0.55},
    {"family": "generalized_aniso", "size": 9, "sigma": [1.3, 0.4], "rotation": -2.0, "beta": 3.1},
    {"family": "plateau_iso", "size": 19, "sigma": 2.0, "beta": 1.0},
    {"family": "plateau_aniso", "size": 11, "sigma": [0.9, 1.4], "rotation": 3.0, "beta": 1.8},
    {"family": "sinc", "size": 7, "cutoff": math.pi / 3},
    {"family": "sinc", "size": 21, "cutoff": 2.9},
]


def f32(x):
    return float(np.float32(x))


def gaussian(sigma, grey):
    return {"model": "gaussian", "sigma": f32(sigma), "grey": grey}


def poisson_noise(scale, grey):
    return {"model": "poisson", "scale": f32(scale), "grey": grey}


def chain(index, first, second, before, mode, sinc):
    def round_(blur, factor, mode, noise, quality):
        return {"blur": blur, "factor": factor, "mode": mode, "noise": noise, "quality": f32(quality)}

    return {
        "key": {"seed": 2**40 + 5, "epoch": 2, "index": index},
        "jpeg": "diff",
        "sharpen": {"taps": 51, "sigma": 8.0, "weight": 0.5, "threshold": 10.0},
        "chain": {
            "kind": "realesrgan", "scale": 4, "first": round_(*first), "second": round_(*second),
            "last": {"before_compression": before, "mode": mode, "sinc": sinc},
        },
    }  # fmt: skip


# Every mode in every place, every noise, both orders, with and without second blur and sinc.
CHAINS = [
    chain(
        0, (KERNELS[2], 0.37, "bilinear", gaussian(12.5, False), 61.3), (KERNELS[1], 0.83, "area", poisson_noise(1.3, True), 44.1),
        True, "bicubic", KERNELS[9],
    ),
    chain(
        7, (KERNELS[8], 1.31, "area", poisson_noise(0.9, False), 33.0), (None, 1.17, "bicubic", gaussian(3.2, True), 91.5),
        False, "area", None,
    ),
    chain(
        2**33, (KERNELS[5], 1.0, "bicubic", gaussian(27.0, True), 77.7), (KERNELS[7], 1.0, "bilinear", poisson_noise(2.2, False), 52.0),
        False, "bilinear", KERNELS[8],
    ),
    chain(
        3, (KERNELS[6], 0.62, "bicubic", poisson_noise(2.9, True), 36.6), (KERNELS[4], 0.41, "area", gaussian(20.0, False), 70.0),
        True, "area", KERNELS[9],
    ),
]  # fmt: skip

# Kernel, factor of shrinking, sigma, quality.
CODEFORMER = [
    ({"family": "aniso", "size": 41, "sigma": [4.0, 1.2], "rotation": 0.4}, 2.7, 6.0, 80),
    ({"family": "iso", "size": 41, "sigma": 1.9}, 1.3, 11.0, 55),
]


def codeformer(degradations, drawn, image, field):
    kernel, shrink, sigma, quality = drawn
    h, w, _ = image.shape
    x = cv2.filter2D(image, -1, kernel_weights(degradations, kernel))
    x = cv2.resize(x, (int(w // shrink), int(h // shrink)), interpolation=cv2.INTER_LINEAR)
    noise = field.normals(x.size).reshape(x.shape).numpy() * np.float32(sigma) / np.float32(255.0)
    x = np.clip(x + noise, 0, 1)
    _, file = cv2.imencode(".jpg", x[..., ::-1] * 255.0, [int(cv2.IMWRITE_JPEG_QUALITY), quality])
    x = np.float32(cv2.imdecode(file, 1))[..., ::-1] / np.float32(255.0)
    return cv2.resize(x, (w, h), interpolation=cv2.INTER_LINEAR)


def main():
    args = common.arguments(__doc__)
    basicsr = args.repos / "DreamClear" / "basicsr"
    degradations = common.official(basicsr / "data" / "degradations.py", "degradations")
    diffjpeg = common.official(basicsr / "utils" / "diffjpeg.py", "diffjpeg")
    process = common.official(basicsr / "utils" / "img_process_util.py", "img_process_util")
    photos = {name: photo(*where) for name, where in PHOTOS.items()}
    arrays = {f"photo.{name}": image for name, image in photos.items()}  # become bytes at the end
    small, wide = photos["small"], photos["wide"]
    with torch.no_grad():
        for i, kernel in enumerate(KERNELS):
            arrays[f"kernel.{i}"] = np.float32(kernel_weights(degradations, kernel))
        for i in (2, 7, 9):
            arrays[f"filter.{i}"] = hwc(process.filter2D(nchw(small), padded(arrays[f"kernel.{i}"])))
        for mode in MODES:
            for factor in (0.15, 0.37, 1, 1.31, 1.5):
                out = F.interpolate(nchw(small[:24, :31]), scale_factor=factor, mode=mode)
                arrays[f"resize.{mode}.{factor}"] = hwc(out)
            arrays[f"resize.{mode}.29x11"] = hwc(F.interpolate(nchw(small), size=(29, 11), mode=mode))
            arrays[f"resize.{mode}.41x53"] = hwc(F.interpolate(nchw(small), size=(41, 53), mode=mode))
        jpeg = diffjpeg.DiffJPEG(differentiable=False)
        for quality in (30, 50, 75, 95, 62.5):
            for name, image in (("small", small), ("wide", wide))[: 2 if quality == 75 else 1]:
                arrays[f"jpeg.{name}.{quality}"] = hwc(jpeg(nchw(image), quality=torch.tensor([float(quality)])))
        arrays["usm"] = hwc(process.USMSharp()(nchw(photo("chelsea.png", 3, 30, 70, 66))))
        arrays["photo.usm"] = photo("chelsea.png", 3, 30, 70, 66)

        degrade, settings = official_chain(args.repos, degradations, diffjpeg, process)
        for i, drawn in enumerate(CHAINS):
            image = photo(*[("chelsea.png", 5, 20, 64, 80), ("rocket.png", 8, 20, 96, 104)][i % 2])
            arrays[f"photo.chain{i}"] = image
            steps = drawn["chain"]
            kernels = [steps["first"]["blur"], steps["second"]["blur"], steps["last"]["sinc"]]
            one = {"family": "iso", "size": 1, "sigma": 1.0}
            kernels = [padded(kernel_weights(degradations, k or one)) for k in kernels]
            batch = dict(zip(["kernel1", "kernel2", "sinc_kernel"], kernels), gt=nchw(image))
            script = Script(drawn, settings)
            patches = script.patches()
            [p.start() for p in patches]
            try:
                lq, gt = degrade(batch, settings)
            finally:
                [p.stop() for p in patches]
            assert not script.answers, script.answers
            arrays[f"realesrgan.{i}.lr"] = hwc(lq)
            if i == 0:
                arrays[f"realesrgan.{i}.gt"] = hwc(gt)
                arrays[f"realesrgan.{i}.sr_bicubic"] = hwc(F.interpolate(lq, size=gt.shape[2:], mode="bicubic"))
        for i, drawn in enumerate(CODEFORMER):
            image = arrays["photo.chain0"]
            field = Field({"seed": 11, "epoch": 0, "index": i}, 0)
            arrays[f"codeformer.{i}"] = codeformer(degradations, drawn, image, field)
        arrays["cv2.filter"] = cv2.filter2D(wide, -1, kernel_weights(degradations, KERNELS[3]))
        arrays["cv2.resize"] = cv2.resize(wide, (23, 17), interpolation=cv2.INTER_LINEAR)
    for name, value in arrays.items():
        is_photo = name.startswith("photo.")
        arrays[name] = np.round(value * 255).astype(np.uint8) if is_photo else np.float32(value)
    metadata = {"kernels": KERNELS, "chains": CHAINS, "codeformer": CODEFORMER, "script": "tools/golden/degrade.py"}
    common.write(args.out / "degrade.safetensors", arrays, metadata)


if __name__ == "__main__":
    main()
