"""PSNR, SSIM and NIQE as the project defines them (metrics.md of the specification), for evaluate.

Full-reference metrics are on unrounded (PSNR) or rounded (SSIM) Y of YCbCr, crop border 0. NIQE (Mittal et al., 2013)
follows BasicSR's arrangement of the authors' code, on rounded Y; its model of pristine pictures is the authors' own, as
BasicSR and DreamClear's repository carry it (basicsr/metrics/niqe_pris_params.npz).
"""

import numpy as np
from PIL import Image
from scipy.ndimage import convolve1d
from scipy.special import gamma

BLOCK = 96


def luminance(rgb):
    """Y of YCbCr in 16..235 from 8-bit RGB."""
    return (rgb.astype(np.float64) @ [65.481, 128.553, 24.966]) / 255 + 16


def psnr(a, b):
    """In dB; 8-bit RGB or luminance."""
    error = np.mean((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2)
    return float(10 * np.log10(255**2 / error))


def ssim(a, b):
    """Structural similarity of two luminances (Wang et al., 2004): 11x11 Gaussian of sigma 1.5, no padding."""
    a, b = np.round(a), np.round(b)
    x = np.arange(11) - 5
    window = np.exp(-(x**2) / (2 * 1.5**2))
    window /= window.sum()

    def blur(image):
        return convolve1d(convolve1d(image, window, 0), window, 1)[5:-5, 5:-5]

    ma, mb = blur(a), blur(b)
    va, vb, cov = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    structure = np.maximum((2 * cov + c2) / (va + vb + c2), 0)
    return float(((2 * ma * mb + c1) / (ma**2 + mb**2 + c1) * structure).mean())


def halved(y):
    """MATLAB's imresize by 1/2: bicubic with antialiasing, symmetric edges."""
    x = np.abs((np.arange(8) - 3.5) / 2)
    taps = np.where(x <= 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))
    taps /= taps.sum()
    for axis in (0, 1):
        y = np.moveaxis(y, axis, 0)
        padded = np.concatenate([y[:3][::-1], y, y[-3:][::-1]])
        n = y.shape[0] // 2
        y = np.moveaxis(sum(t * padded[k : k + 2 * n : 2][:n] for k, t in enumerate(taps)), 0, axis)
    return y


GRID = np.arange(0.2, 10.001, 0.001)
RATIO = gamma(2 / GRID) ** 2 / (gamma(1 / GRID) * gamma(3 / GRID))


def asymmetric(block):
    """Shape, left and right scale of an asymmetric generalised Gaussian fitted to a block."""
    left, right = block[block < 0], block[block > 0]
    sl = np.sqrt(np.mean(left**2)) if left.size else 0.0
    sr = np.sqrt(np.mean(right**2)) if right.size else 0.0
    g = sl / sr
    r = np.mean(np.abs(block)) ** 2 / np.mean(block**2)
    r *= (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
    alpha = GRID[np.argmin((RATIO - r) ** 2)]
    scale = np.sqrt(gamma(1 / alpha) / gamma(3 / alpha))
    return alpha, sl * scale, sr * scale


def features(block):
    """The 18 numbers of a block of normalised luminance."""
    alpha, left, right = asymmetric(block)
    out = [alpha, (left + right) / 2]
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        alpha, left, right = asymmetric(block * np.roll(block, shift, (0, 1)))
        out += [alpha, (right - left) * gamma(2 / alpha) / gamma(1 / alpha), left, right]
    return out


class Niqe:
    """Distance from the statistics of good photographs; less is better."""

    def __init__(self, model):
        stored = np.load(model)
        self.mean, self.cov = stored["mu_pris_param"].ravel(), stored["cov_pris_param"]

    def __call__(self, rgb):
        y = np.round(luminance(rgb))
        rows, columns = y.shape[0] // BLOCK, y.shape[1] // BLOCK
        y = y[: rows * BLOCK, : columns * BLOCK]
        window = np.exp(-(np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))
        window /= window.sum()
        parts = []
        for side in (BLOCK, BLOCK // 2):
            blur = lambda image: convolve1d(convolve1d(image, window, 0, mode="nearest"), window, 1, mode="nearest")
            mean = blur(y)
            normal = (y - mean) / (np.sqrt(np.abs(blur(y * y) - mean**2)) + 1)
            cut = lambda i, j: normal[i * side : (i + 1) * side, j * side : (j + 1) * side]
            with np.errstate(divide="ignore", invalid="ignore"):
                parts.append([features(cut(i, j)) for j in range(columns) for i in range(rows)])
            y = halved(y / 255) * 255
        found = np.concatenate(parts, axis=1)
        mean = np.nanmean(found, axis=0)
        cov = np.cov(found[~np.isnan(found).any(axis=1)], rowvar=False)
        d = self.mean - mean
        return float(np.sqrt(d @ np.linalg.pinv((self.cov + cov) / 2) @ d))


def read(path):
    return np.asarray(Image.open(path).convert("RGB"))
