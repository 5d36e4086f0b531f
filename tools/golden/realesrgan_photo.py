"""Real-ESRGAN ×4 on crops of the sample photos: the published ncnn weights in BasicSR's RRDBNet.

Writes tests/golden/realesrgan_x4plus_<photo>.png and the crop itself as ..._input.png, so that a JPEG decoder's
rounding stays out of the comparison. With --ncnn the ncnn library itself runs the same files
on the same crop and the distance is printed (needs the Python package `ncnn`; a check of this script, the
result is not stored).
"""

import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import common
import rrdbnet

# photo, crop box (left, top, right, bottom) in the stored picture
CROPS = [
    ("astronaut.jpg", (32, 0, 96, 64)),
    ("chelsea.png", (20, 10, 76, 58)),
]
PHOTOS = common.ROOT / "tests" / "data" / "photos"
F16_TAG = 0x01306B47  # ncnn's mark in front of f16 weights


def read_ncnn(param, weights):
    """[(layer name, weight f32 [out, in, kh, kw], bias f32)] of every convolution, in the file's order."""
    lines = param.read_text().splitlines()
    assert lines[0] == "7767517", f"{param} is not an ncnn text parameter file"
    data, position, layers = weights.read_bytes(), 0, []
    for line in lines[2:]:
        kind, name, bottoms, tops, *rest = line.split()
        if kind != "Convolution":
            continue
        options = dict(item.split("=") for item in rest[int(bottoms) + int(tops) :])
        out, kernel, count = int(options["0"]), int(options["1"]), int(options["6"])
        (tag,) = struct.unpack_from("<I", data, position)
        position += 4
        assert tag == F16_TAG, f"{name}: weights are not f16 (tag {tag:#x})"
        weight = np.frombuffer(data, "<f2", count, position).astype(np.float32)
        position += (2 * count + 3) // 4 * 4
        bias = np.frombuffer(data, "<f4", out, position)
        position += 4 * out
        layers.append((name, weight.reshape(out, -1, kernel, kernel), bias.copy()))
    assert position == len(data), f"{len(data) - position} bytes of {weights} are left over"
    return layers


def load_in_order(module, layers):
    """The file's convolutions come in the order in which the network runs them."""
    order = ["conv_first"]
    order += [f"body.{i}.rdb{j}.conv{k}" for i in range(len(module.body)) for j in (1, 2, 3) for k in (1, 2, 3, 4, 5)]
    order += ["conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"]
    assert len(order) == len(layers), (len(order), len(layers))
    state = {}
    for key, (_, weight, bias) in zip(order, layers):
        state[f"{key}.weight"], state[f"{key}.bias"] = torch.from_numpy(weight), torch.from_numpy(bias)
    module.load_state_dict(state, strict=True)
    module.eval()


def to_u8(x):
    """[3, H, W] around [0, 1] → [H, W, 3], rounded as Real-ESRGAN does."""
    return (x.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def run_ncnn(param, weights, x):
    import ncnn

    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    net.opt.num_threads = 2
    net.load_param(str(param))
    net.load_model(str(weights))
    extractor = net.create_extractor()
    extractor.input("data", ncnn.Mat(x[0].numpy()).clone())
    _, out = extractor.extract("output")
    return torch.from_numpy(np.array(out))


def main():
    parser = common.parser(__doc__)
    parser.add_argument("--models", type=Path, required=True, help="folder with realesrgan-x4plus.param and .bin")
    parser.add_argument("--ncnn", action="store_true", help="compare with the ncnn library")
    args = common.prepare(parser)
    param, weights = args.models / "realesrgan-x4plus.param", args.models / "realesrgan-x4plus.bin"
    module = rrdbnet.basicsr(args.repos)(3, 3, scale=4, num_feat=64, num_block=23, num_grow_ch=32)
    load_in_order(module, read_ncnn(param, weights))
    for photo, box in CROPS:
        crop = Image.open(PHOTOS / photo).convert("RGB").crop(box)
        x = torch.from_numpy(np.asarray(crop, dtype=np.float32) / 255).permute(2, 0, 1)[None].contiguous()
        with torch.no_grad():
            out = module(x)[0]
        path = args.out / f"realesrgan_x4plus_{Path(photo).stem}.png"
        crop.save(path.with_stem(path.stem + "_input"), optimize=True)
        Image.fromarray(to_u8(out)).save(path, optimize=True)
        print(f"{path.name} {out.shape[2]}x{out.shape[1]} {path.stat().st_size} bytes")
        if args.ncnn:
            other = run_ncnn(param, weights, x)
            levels = np.abs(to_u8(other).astype(int) - to_u8(out).astype(int))
            relative = ((other - out).norm() / out.norm()).item()
            print(f"    against ncnn: relative L2 {relative:.1e}; 8-bit mean {levels.mean():.5f}, max {levels.max()}")


if __name__ == "__main__":
    main()
