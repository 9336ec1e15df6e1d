"""Make `mnist5k.npz`, the bundled subset of MNIST, from the four MNIST IDX files.

`python -m pyrovae.assets.make_mnist5k IDX_DIR [--out FILE]`
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np


def read_idx(path: Path) -> np.ndarray:
    """Read an IDX file of unsigned bytes; ValueError when its size and header disagree."""
    raw = path.read_bytes()
    zero, kind, ndim = int.from_bytes(raw[:2], "big"), raw[2], raw[3]
    shape = np.frombuffer(raw, ">i4", count=ndim, offset=4)
    data = np.frombuffer(raw, np.uint8, offset=4 + 4 * ndim)
    if zero != 0 or kind != 8 or data.size != shape.prod():
        raise ValueError(f"{path} is not a whole IDX file of unsigned bytes")
    return data.reshape(shape)


def choose(labels: np.ndarray, per_class: int, random: np.random.RandomState) -> np.ndarray:
    """Indices of `per_class` data of each class, evenly spaced through its occurrences.

    Each run of ten holds every class once, in a shuffled order, so that prefixes are balanced.
    """
    rows = np.empty((per_class, 10), dtype=np.int64)
    for digit in range(10):
        found = np.flatnonzero(labels == digit)
        spaced = found[np.linspace(0, len(found) - 1, per_class).round().astype(int)]
        rows[:, digit] = random.permutation(spaced)
    return np.concatenate([random.permutation(row) for row in rows])


def make(idx_dir: Path, out: Path) -> None:
    """Write the subset of the MNIST in `idx_dir` to `out`: the same arrays and bytes each time."""
    # RandomState, not default_rng: NumPy promises that its streams never change.
    random = np.random.RandomState(0)
    arrays = {}
    for part, prefix, per_class in (("train", "train", 500), ("test", "t10k", 100)):
        labels = read_idx(idx_dir / f"{prefix}-labels-idx1-ubyte")
        chosen = choose(labels, per_class, random)
        arrays[f"x_{part}"] = read_idx(idx_dir / f"{prefix}-images-idx3-ubyte")[chosen]
        arrays[f"y_{part}"] = labels[chosen]
    np.savez_compressed(out, **arrays)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make mnist5k.npz from the four MNIST IDX files.")
    parser.add_argument("idx_dir", type=Path, help="the folder of the four unpacked IDX files")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("mnist5k.npz"))
    arguments = parser.parse_args()
    make(arguments.idx_dir, arguments.out)
    written = arguments.out.read_bytes()
    print(f"{arguments.out}: {len(written):,} bytes, sha256 {hashlib.sha256(written).hexdigest()}")


if __name__ == "__main__":
    main()
