"""Golden npz files, written by NumPy: the folder tests/golden/t5_npz.

    python tools/golden/t5_npz.py        (numpy 2.4)

`stored.npz` and `deflated.npz` hold (i − 12) / 8 for i in 0..24 as [2, 3, 4] in many types and orders
(whole numbers: i; bool: i odd); `caption.npz` is what the official feature tool writes; `objects.npz`
holds a pickle and must be refused.
"""

import numpy as np

import common

OUT = common.GOLDEN / "t5_npz"


def arrays():
    i = np.arange(24).reshape(2, 3, 4)
    real = (i - 12) / 8
    all = {kind: real.astype(kind) for kind in ("<f2", "<f4", "<f8", ">f4", ">f8")}
    all |= {kind: i.astype(kind) for kind in ("<i2", "<i4", "<i8", ">i2", ">i8", "i1", "u1")}
    all |= {"bool": i % 2 == 1}
    all |= {"fortran": np.asfortranarray(real.astype("<f4")), "fortran_big": np.asfortranarray(i.astype(">i4"))}
    all |= {"transposed": real.astype("<f8").transpose(2, 0, 1).copy().transpose(1, 2, 0)}
    # `<` and `>` cannot be in file names everywhere.
    return {name.replace("<", "little_").replace(">", "big_"): array for name, array in all.items()}


def main():
    OUT.mkdir(exist_ok=True)
    np.savez(OUT / "stored.npz", **arrays())
    np.savez_compressed(OUT / "deflated.npz", **arrays())
    feature = ((np.arange(30) - 15) / 4).astype(np.float32).reshape(1, 6, 5)
    np.savez_compressed(OUT / "caption.npz", caption_feature=feature, attention_mask=np.array([[1, 1, 1, 1, 0, 0]]))
    np.savez(OUT / "objects.npz", x=np.array([{"a": 1}], dtype=object))
    for path in sorted(OUT.iterdir()):
        print(f"{path.name:16} {path.stat().st_size / 1024:6.1f} KiB")


if __name__ == "__main__":
    main()
