"""Makes the sample photos of tests/data/photos: a clean reference and a small, degraded input of each.

Sources are public-domain and CC0 photographs in scikit-image's data folder; the licence of each stands in
tests/data/photos/README.md. Seeded: a second run with the same library versions writes the same files.
"""

import io
from pathlib import Path

import numpy as np
import skimage
from PIL import Image

PHOTOS = Path(__file__).resolve().parents[2] / "tests" / "data" / "photos"
SOURCE = Path(skimage.__file__).parent / "data"
EXIF_ORIENTATION = 0x0112


def degrade(image, seed, sigma, noise, quality):
    """×4 smaller (box then slight blur), Gaussian noise, one JPEG round: what an old phone would send."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    small = np.asarray(image.resize((image.width // 4, image.height // 4), Image.BOX), dtype=np.float64)
    blurred = gaussian_filter(small, [sigma, sigma] + [0] * (small.ndim - 2))
    noisy = np.clip(blurred + noise * rng.standard_normal(small.shape), 0, 255)
    return jpeg_round(Image.fromarray(noisy.round().astype(np.uint8)), quality)


def jpeg_round(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue())).copy()


def crop_to_fours(image):
    return image.crop((0, 0, image.width // 4 * 4, image.height // 4 * 4))


def feathered_oval(size):
    """An alpha channel with soft edges: 255 in the middle, 0 in the corners."""
    w, h = size
    y, x = np.meshgrid(np.linspace(-1, 1, h), np.linspace(-1, 1, w), indexing="ij")
    distance = (np.abs(x) ** 4 + np.abs(y) ** 4) ** 0.25
    return Image.fromarray((np.clip((1.02 - distance) * 8, 0, 1) * 255).round().astype(np.uint8))


def main():
    reference = PHOTOS / "reference"
    reference.mkdir(parents=True, exist_ok=True)

    def source(name):
        return crop_to_fours(Image.open(SOURCE / name))

    # A face and fine text: JPEG.
    astronaut = source("astronaut.png").convert("RGB")
    astronaut.save(reference / "astronaut.jpg", quality=90)
    degrade(astronaut, 1, 0.3, 1.5, 85).save(PHOTOS / "astronaut.jpg", quality=90)

    # Fur: PNG, so nothing is lost after the degradation.
    chelsea = source("chelsea.png").convert("RGB")
    chelsea.save(reference / "chelsea.jpg", quality=90)
    degrade(chelsea, 2, 0.6, 4.0, 70).save(PHOTOS / "chelsea.png", optimize=True)

    # A still life, stored turned by a quarter with EXIF orientation 6 ("turn right to view").
    coffee = source("coffee.png").convert("RGB")
    coffee.save(reference / "coffee.jpg", quality=90)
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    turned = degrade(coffee, 3, 0.5, 3.0, 65).transpose(Image.Transpose.ROTATE_90)
    turned.save(PHOTOS / "coffee.jpg", quality=85, exif=exif)

    # Grey, one channel.
    camera = source("camera.png").convert("L")
    camera.save(reference / "camera.jpg", quality=90)
    degrade(camera, 4, 0.5, 4.0, 60).save(PHOTOS / "camera.jpg", quality=85)

    # RGBA: the degraded colours under a feathered oval.
    rocket = source("rocket.jpg").convert("RGB")
    rocket.save(reference / "rocket.jpg", quality=90)
    small = degrade(rocket, 5, 0.4, 3.0, 75)
    small.putalpha(feathered_oval(small.size))
    small.save(PHOTOS / "rocket.png", optimize=True)

    for path in sorted(PHOTOS.rglob("*.*g")):
        image = Image.open(path)
        print(f"{path.relative_to(PHOTOS)!s:28} {image.mode:5} {image.size} {path.stat().st_size}")


if __name__ == "__main__":
    main()
