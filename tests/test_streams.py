"""Data larger than memory: every datum once, in one order, as in memory, and within it."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

import pyrovae as pv
from pyrovae import data, sources, streams
from pyrovae.data import Data, FileData, TensorData, UsageError, as_data, load
from pyrovae.sources import ArrayFile, ImageFiles, ParquetFile
from pyrovae.streams import StreamedData

N = 1000


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(n: int, *shape: int) -> np.ndarray:
    """uint8 images that all differ."""
    return np.random.default_rng(0).integers(0, 256, (n, *shape), dtype=np.uint8)


def write_images(folder: Path, x: np.ndarray, names: list[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    for values, name in zip(x, names, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(values).save(folder / name)


def write_table(path: Path, n: int, group: int, **columns: Any) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"a": np.arange(n), **columns}), path, row_group_size=group)


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of about 20 rows of the data here, windows of some blocks."""
    monkeypatch.setattr(sources, "BLOCK", 20 * 24)
    monkeypatch.setattr(streams, "WINDOW", 150 * 32)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same kinds of data in each kind of file."""
    folder = tmp_path_factory.mktemp("files")
    np.save(folder / "bytes.npy", pixels(N, 4, 6))
    np.save(folder / "floats.npy", np.arange(N * 3.0).reshape(N, 3))
    names = np.array(["b", "a", "c"])[np.arange(N) % 3]
    write_table(folder / "table.parquet", N, 90, b=np.arange(N) / 7, kind=names)
    files = [f"{'cat' if i < 100 else 'dog'}/{i:03d}.png" for i in range(300)]
    write_images(folder / "images", pixels(300, 4, 6, 3), files)
    return {
        "bytes": folder / "bytes.npy",
        "floats": folder / "floats.npy",
        "table": folder / "table.parquet",
        "images": folder / "images",
    }


KINDS = ("bytes", "floats", "table", "images")


def opened(paths: dict[str, Path], kind: str, workers: int | None = 0) -> FileData:
    label = "kind" if kind == "table" else None
    return FileData(sources.open_source(paths[kind], label), num_workers=workers)


def everything(served: Iterator[tuple[torch.Tensor, ...]]) -> torch.Tensor:
    return torch.cat([x for x, *_ in served])


def values(x: torch.Tensor) -> list[list[float]]:
    """What tells data apart."""
    return x.flatten(1).tolist()


# --- one pass ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_in_order_a_file_is_served_as_from_memory(paths: dict[str, Path], kind: str) -> None:
    streamed = opened(paths, kind)
    whole = streamed.source.all()
    assert len(streamed) == len(whole) and streamed.event_shape == whole.event_shape
    assert streamed.maximum == whole.maximum and streamed.nbytes == whole.nbytes
    assert repr(streamed).endswith(repr(whole).split(" x ")[1])
    served = list(streamed.batches(64))
    assert [len(x) for (x,) in served] == [len(x) for (x,) in whole.batches(64)]
    assert torch.equal(everything(iter(served)), whole.x)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_shuffled_every_datum_is_served_once(
    paths: dict[str, Path], kind: str, drop_last: bool
) -> None:
    streamed = opened(paths, kind)
    served = list(streamed.batches(64, shuffle=True, generator=seeded(), drop_last=drop_last))
    sizes = [64] * (len(streamed) // 64) + ([] if drop_last else [len(streamed) % 64])
    assert [len(x) for (x,) in served] == sizes
    seen, all_of = values(everything(iter(served))), values(streamed.source.all().x)
    assert len({tuple(row) for row in seen}) == len(seen) == sum(sizes)
    assert seen != sorted(seen) and {tuple(row) for row in seen} <= {tuple(row) for row in all_of}
    again = everything(streamed.batches(64, shuffle=True, generator=seeded(1)))
    assert values(again) != seen


def test_a_window_mixes_blocks_from_everywhere(paths: dict[str, Path]) -> None:
    (x,) = next(opened(paths, "floats").batches(100, shuffle=True, generator=seeded()))
    rows = x[:, 0] / 3
    assert rows.max() - rows.min() > N / 2
    assert (rows.diff() == 1).sum() < 10


@pytest.mark.parametrize("kind", ["bytes", "images"])
def test_the_order_is_that_of_any_number_of_workers(paths: dict[str, Path], kind: str) -> None:
    def order(workers: int) -> torch.Tensor:
        streamed = opened(paths, kind, workers).binarised("dynamic")
        return everything(streamed.batches(64, shuffle=True, generator=seeded()))

    assert torch.equal(order(0), order(2))


@pytest.mark.parametrize("kind", ["memory", "bytes"])
def test_the_order_is_drawn_by_the_call(paths: dict[str, Path], kind: str) -> None:
    source: Any = TensorData(torch.arange(100.0)) if kind == "memory" else opened(paths, kind)
    generator = seeded(3)
    first = source.batches(10, shuffle=True, generator=generator)
    generator.manual_seed(4)
    assert torch.equal(
        everything(first), everything(source.batches(10, shuffle=True, generator=seeded(3)))
    )


def test_the_global_generator_is_left_alone(paths: dict[str, Path]) -> None:
    before = torch.random.get_rng_state()
    streamed = opened(paths, "bytes", 1)
    list(streamed.binarised("static").batches(100, shuffle=True, generator=seeded()))
    streamed.split(10), streamed.summary(), list(streamed.batches(300))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("kind", KINDS)
def test_processes_that_are_not_forked_can_be_given_it(paths: dict[str, Path], kind: str) -> None:
    streamed = opened(paths, kind)
    again = pickle.loads(pickle.dumps(streamed))
    assert torch.equal(everything(again.batches(90)), everything(streamed.batches(90)))


# --- parts of a pass ---------------------------------------------------------------------------


class Numbers(Dataset):
    def __len__(self) -> int:
        return 130

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((2,), float(index))


def loader() -> StreamedData:
    return StreamedData(DataLoader(Numbers(), 32, shuffle=True, generator=seeded(5)))


def memory(**options: Any) -> TensorData:
    return TensorData(torch.from_numpy(pixels(130, 1, 4, 6)), divisor=255, **options)


SOURCES: dict[str, Callable[[dict[str, Path]], Any]] = {
    "memory": lambda paths: memory(),
    "memory, dynamic": lambda paths: memory(binarise="dynamic"),
    "memory, pairs": lambda paths: TensorData(torch.arange(130.0), torch.arange(130)),
    "file": lambda paths: opened(paths, "floats"),
    "file, dynamic": lambda paths: opened(paths, "bytes").binarised("dynamic"),
    "file, static": lambda paths: opened(paths, "bytes").binarised("static", 3),
    "file, labels": lambda paths: opened(paths, "table").with_labels(),
    "images": lambda paths: opened(paths, "images").binarised("dynamic"),
    "loader": lambda paths: loader(),
}


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("name", SOURCES)
def test_shares_of_a_batch_make_it_up(paths: dict[str, Path], name: str, shuffle: bool) -> None:
    def served(**part: Any) -> list[tuple[torch.Tensor, ...]]:
        source = SOURCES[name](paths)
        return list(source.batches(32, shuffle=shuffle, generator=seeded(), **part))

    whole = served()
    for world in (2, 5, 50):  # the last batch has fewer rows than there are shares
        shares = [served(share=(rank, world)) for rank in range(world)]
        assert all(len(share) == len(whole) for share in shares)
        for parts, batch in zip(zip(*shares, strict=True), whole, strict=True):
            size = len(batch[0])
            assert [len(part[0]) for part in parts] == [
                (rank + 1) * size // world - rank * size // world for rank in range(world)
            ]
            for column, one in zip(zip(*parts, strict=True), batch, strict=True):
                assert torch.equal(torch.cat(column), one) and column[0].dtype == one.dtype


@pytest.mark.parametrize("name", SOURCES)
def test_skipping_goes_on_where_one_left_off(paths: dict[str, Path], name: str) -> None:
    source, generator = SOURCES[name](paths), seeded()
    whole, states = [], []
    for batch in source.batches(32, shuffle=True, generator=generator):
        whole.append(batch)
        states.append(generator.get_state())
    for skip in (1, 4, len(whole), len(whole) + 3):
        generator = seeded()
        rest = SOURCES[name](paths).batches(32, shuffle=True, generator=generator, skip=skip)
        if skip < len(whole):
            generator.set_state(states[skip - 1])
        found = list(rest)
        assert len(found) == max(0, len(whole) - skip)
        for batch, again in zip(whole[skip:], found, strict=True):
            assert all(torch.equal(*pair) for pair in zip(batch, again, strict=True))


def test_only_what_is_served_is_read(paths: dict[str, Path], monkeypatch) -> None:
    read: list[int] = []
    decode = sources.decoded

    def counting(file: Path, *options: Any) -> Any:
        read.append(int(file.stem))
        return decode(file, *options)

    images = opened(paths, "images")
    monkeypatch.setattr(sources, "decoded", counting)
    list(images.batches(50, shuffle=True, generator=seeded(), share=(1, 2)))
    assert len(read) == len(set(read)) == 150
    read.clear()
    list(images.batches(50, skip=4, drop_last=True))
    assert read == list(range(200, 300))


# --- what is served ----------------------------------------------------------------------------


def test_binarised_as_in_memory(paths: dict[str, Path]) -> None:
    streamed, whole = opened(paths, "bytes"), opened(paths, "bytes").source.all()
    threshold = streamed.binarised("threshold")
    assert torch.equal(everything(threshold.batches(90)), whole.binarised("threshold").x)
    dynamic = streamed.binarised("dynamic")
    assert dynamic.maximum == 1 and dynamic.binarise == "dynamic"
    first, second = (everything(dynamic.batches(90, generator=seeded())) for _ in range(2))
    assert torch.equal(first, second)
    in_memory = everything(whole.binarised("dynamic").batches(90, generator=seeded()))
    assert torch.equal(first, in_memory)
    assert torch.equal(everything(dynamic.binarised("none").batches(90)), whole.x)
    with pytest.raises(UsageError, match="did you mean 'static'"):
        streamed.binarised("statics")


def test_static_draws_belong_to_the_datum(paths: dict[str, Path]) -> None:
    dynamic = opened(paths, "bytes").binarised("dynamic")
    values = opened(paths, "bytes").source.all().x
    static = dynamic.fixed(7)
    bits = everything(static.batches(90))
    assert set(bits.unique().tolist()) == {0.0, 1.0} and static.binarise is None
    assert static.fixed() is static and static.maximum == 1
    assert not torch.equal(bits, everything(dynamic.fixed(8).batches(90)))
    error = (values * (1 - values)).sum().sqrt()  # of the number of ones
    assert (bits - values).sum().abs() < 4 * error
    shuffled = everything(static.batches(77, shuffle=True, generator=seeded()))
    assert {row.numpy().tobytes() for row in bits} >= {row.numpy().tobytes() for row in shuffled}
    rows, part = static._some(200, 1)
    assert torch.equal(part.x, bits[rows])
    assert static.summary().binary


def test_dtype_device_and_labels(paths: dict[str, Path]) -> None:
    streamed = opened(paths, "images").to(dtype=torch.float64).with_labels()
    x, y = next(streamed.batches(120))
    assert x.dtype == torch.float64 and y.tolist() == [0] * 100 + [1] * 20
    assert streamed.classes == ("cat", "dog")
    moved = streamed.to("meta")
    assert moved.device.type == "meta" and next(moved.batches(7))[0].device.type == "meta"
    with pytest.raises(UsageError, match=r"bytes\.npy has no labels"):
        opened(paths, "bytes").with_labels()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_held_out_is_not_served(paths: dict[str, Path], kind: str) -> None:
    train, held = opened(paths, kind).split(0.1, seed=2)
    assert isinstance(held, TensorData) and len(held) == len(train.source) // 10
    train, more = train.split(30)  # and again
    parts = [values(everything(train.batches(50, shuffle=True))), values(held.x), values(more.x)]
    both = [tuple(row) for part in parts for row in part]
    assert sorted(both) == sorted(map(tuple, values(train.source.all().x)))
    assert torch.equal(held.x, opened(paths, kind).split(0.1, seed=2)[1].x)
    if kind == "table":
        assert torch.equal(held.labels, torch.tensor([1, 0, 2])[held.x[:, 0].long() % 3])
    with pytest.raises(UsageError, match="cannot hold out"):
        train.split(len(train))


def test_no_more_than_what_fits_is_held_out(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(streams, "MOST", 100)
    np.save(tmp_path / "a.npy", np.arange(5000.0))
    train, held = FileData(tmp_path / "a.npy").split(0.5)
    assert (len(train), len(held)) == (4900, 100)
    rows = held.x[:, 0]
    assert rows.min() < 500 and rows.max() > 4500


def test_a_summary_is_of_some(paths: dict[str, Path]) -> None:
    seen = opened(paths, "bytes").summary()
    assert seen.eight_bit and seen.entries == N * 24 and not seen.binary
    assert opened(paths, "table").summary().columns[0].whole
    assert opened(paths, "bytes").binarised("dynamic").summary().binary


def test_nan_is_passed_through(tmp_path: Path) -> None:
    x = np.full((50, 2), np.nan, np.float32)
    x[:, 0] = np.arange(50)
    np.save(tmp_path / "a.npy", x)
    served = everything(FileData(tmp_path / "a.npy").batches(8))
    assert served[:, 1].isnan().all() and served[:, 0].tolist() == list(range(50))


def test_a_pair_is_fitted_and_evaluated(paths: dict[str, Path]) -> None:
    splits = load(paths["bytes"], stream=True)
    pair = pv.VAE((1, 4, 6), 2)
    train = splits.train.binarised("dynamic")
    pv.fit(pair, train, epochs=1, batch_size=100, validation=50, progress=False)
    found = pv.evaluate(pair, train, num_particles=5)
    assert len(found.log_evidence) == len(train) and found.log_evidence.isfinite().all()


# --- from arrays -------------------------------------------------------------------------------


def views(path: Path) -> dict[str, np.ndarray]:
    whole = np.load(path, mmap_mode="r")
    changed = np.load(path, mmap_mode="c")
    changed[3] = -1
    return {
        "whole": whole,
        "rows": whole[100:],
        "rows of rows": whole[100:][50:900],
        "every other": whole[::2],
        "backwards": whole[::-1],
        "columns": whole[:, 1:],
        "written to": np.load(path, mmap_mode="r+"),
        "changed": changed,
    }


@pytest.mark.parametrize("name", ["whole", "rows", "rows of rows", "every other", "backwards",
                                  "columns", "written to", "changed"])  # fmt: skip
def test_memory_mapped_arrays_are_streamed(tmp_path: Path, monkeypatch, name: str) -> None:
    np.save(tmp_path / "a.npy", np.arange(N * 3, dtype=">f4").reshape(N, 3))
    array = views(tmp_path / "a.npy")[name]
    assert isinstance(as_data(array), TensorData)
    monkeypatch.setattr(streams, "fits", lambda nbytes, device: nbytes < 5000)
    data = as_data(array, dtype=torch.float64)
    assert isinstance(data, FileData)
    assert np.array_equal(everything(data.batches(64)), array)
    assert as_data(data) is data


def test_columns_first_are_read_as_well(tmp_path: Path) -> None:
    x = np.arange(N * 3.0).reshape(N, 3)
    np.save(tmp_path / "a.npy", np.asfortranarray(x))
    assert np.array_equal(everything(FileData(tmp_path / "a.npy").batches(64)), x)


def test_large_arrays_among_others_are_refused(tmp_path: Path, monkeypatch) -> None:
    np.save(tmp_path / "a.npy", np.zeros((10, 3)))
    array = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert len(as_data((array, np.zeros(10))).tensors) == 2
    monkeypatch.setattr("pyrovae.arrays.fits", lambda nbytes, device: False)
    with pytest.raises(UsageError, match="does not fit in memory; .*give x alone"):
        as_data((array, np.zeros(10)))


def test_images_in_arrays_have_channels_first(tmp_path: Path) -> None:
    x = pixels(40, 5, 6, 3)
    np.save(tmp_path / "a.npy", x)
    assert FileData(tmp_path / "a.npy").event_shape == (3, 5, 6)
    served = everything(FileData(tmp_path / "a.npy").batches(9))
    assert np.allclose(served, x.transpose(0, 3, 1, 2) / np.float32(255))
    same = FileData(ArrayFile(tmp_path / "a.npy", images=False))
    assert same.event_shape == (5, 6, 3) and same.maximum == 1


# --- load --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_load_streams_what_does_not_fit(paths: dict[str, Path], monkeypatch, kind: str) -> None:
    label = "kind" if kind == "table" else None
    small = load(paths[kind], label=label)
    assert isinstance(small.train, TensorData) and "streamed" not in small.description
    forced = load(paths[kind], label=label, stream=True)
    monkeypatch.setattr(data, "fits", lambda nbytes, device: False)
    splits = load(paths[kind], label=label)
    for found in (forced, splits):
        assert isinstance(found.train, FileData) and isinstance(found.test, TensorData)
        assert (len(found.train), len(found.test)) == (len(small.train), len(small.test))
        assert found.classes == small.classes and "streamed from" in found.description
        assert (found.test.labels is None) == (found.classes is None)
    assert isinstance(load(paths[kind], label=label, stream=False).train, TensorData)


def test_train_and_test_folders_keep_their_meaning(tmp_path: Path, monkeypatch) -> None:
    x = pixels(9, 5, 6)
    names = [f"train/{kind}/{i}.png" for kind in ("10", "9") for i in range(3)]
    write_images(tmp_path, x, [*names, "test/9/0.png", "test/11/0.png", "test/11/1.png"])
    splits = load(tmp_path, stream=True)
    whole = load(tmp_path)
    assert splits.classes == whole.classes == ("9", "10", "11")
    assert torch.equal(splits.test.x, whole.test.x)
    assert splits.test.labels.tolist() == whole.test.labels.tolist() == [2, 2, 0]
    assert torch.equal(everything(splits.train.batches(2)), whole.train.x)
    served = torch.cat([y for _, y in splits.train.with_labels().batches(4)])
    assert torch.equal(served, whole.train.labels)
    monkeypatch.setattr(data, "fits", lambda nbytes, device: False)
    monkeypatch.setattr(data, "MOST", 2)
    assert len(load(tmp_path).test) == 2  # no more than a part of a test folder that is too large


@pytest.mark.parametrize("name", ["mnist5k", "a.npz", "a.csv"])
def test_what_cannot_be_streamed_is_named(tmp_path: Path, name: str) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((10, 2)))
    (tmp_path / "a.csv").write_text("1,2\n3,4\n")
    with pytest.raises(UsageError, match="is not streamed|cannot be streamed; convert it"):
        load(name if name == "mnist5k" else tmp_path / name, stream=True)
    with pytest.raises(UsageError, match="stream must be"):
        load("mnist5k", stream="yes")


# --- parquet -----------------------------------------------------------------------------------


def test_row_groups_are_blocks(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    gaps = [None if i % 5 == 0 else i for i in range(100)]
    write_table(path, 100, 30, b=gaps, c=np.arange(100) % 2 == 0, y=np.arange(100) % 3 + 7)
    source = ParquetFile(path, "y")
    assert source.bounds.tolist() == [0, 30, 60, 90, 100] and source.classes == ("7", "8", "9")
    x, labels = source.read(25, 65)  # across groups
    assert x[:, 0].tolist() == list(range(25, 65)) and x.dtype == torch.float32
    assert x[:, 1].isnan().tolist() == [i % 5 == 0 for i in range(25, 65)]
    assert labels.tolist() == [i % 3 for i in range(25, 65)]
    path = tmp_path / "whole.parquet"
    write_table(path, 100, 30)
    assert FileData(path).source.all().tensors[0].dtype == torch.int64


def test_faulty_tables_are_explained(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_table(path, 20, 10, kind=["u", "v"] * 10)
    with pytest.raises(UsageError, match=r"a\.parquet: column 'kind' is not numeric \('u'\)"):
        FileData(path)
    with pytest.raises(UsageError, match="no column 'kid'; did you mean 'kind'"):
        ParquetFile(path, "kid")
    write_table(path, 0, 10)
    with pytest.raises(UsageError, match="no data"):
        load(path, stream=True)
    write_table(path, 20, 10)
    with pytest.raises(UsageError, match="no column of numbers"):
        ParquetFile(path, "a")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UsageError, match=r"a\.parquet cannot be read"):
        FileData(path)


# --- errors as it goes -------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named_when_it_is_met(tmp_path: Path, workers: int) -> None:
    write_images(tmp_path, pixels(20, 30, 40), [f"{i:02d}.png" for i in range(20)])
    images = FileData(ImageFiles(tmp_path), num_workers=workers)
    damaged = tmp_path / "11.png"
    damaged.write_bytes(damaged.read_bytes()[:300])
    message = r"^\S+11\.png cannot be read: .*truncated.*take it away$"
    with pytest.raises(UsageError, match=message):
        list(images.batches(5))
    damaged.unlink()
    with pytest.raises(UsageError, match=r"^\S+11\.png cannot be read: .*No such file"):
        list(images.batches(5))
    write_images(tmp_path, pixels(1, 30, 41), ["11.png"])
    with pytest.raises(UsageError, match=r"00\.png is 30 x 40, .*11\.png is 30 x 41; "):
        list(images.batches(5))


def test_a_cut_array_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((100, 3)))
    streamed = FileData(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UsageError, match=r"a\.npy cannot be read: it ends before datum 99; .*cut"):
        list(streamed.batches(10))
    with pytest.raises(UsageError, match=r"a\.npy cannot be read: .*make it again"):
        FileData(path)
    path.write_bytes(b"no array at all")
    with pytest.raises(UsageError, match=r"a\.npy cannot be read"):
        load(path, stream=True)


def test_values_out_of_range_are_named_when_they_are_met(tmp_path: Path) -> None:
    x = np.zeros((100, 3), np.float32)
    x[70] = 2
    np.save(tmp_path / "a.npy", x)
    streamed = FileData(tmp_path / "a.npy")
    for mode in ("dynamic", "threshold", "static"):
        with pytest.raises(UsageError, match=r"a\.npy: .*cannot be binarised: .*\[0, 2\]"):
            list(streamed.binarised(mode).batches(10))
    np.save(tmp_path / "b.npy", x - 1)
    with pytest.raises(UsageError, match=r"\[-1, -1\]"):
        FileData(tmp_path / "b.npy").binarised("dynamic")


@pytest.mark.parametrize("given", [np.zeros(()), np.zeros((0, 3)), np.zeros((4, 2), complex),
                                   np.array(["a", "b"])])  # fmt: skip
def test_what_is_no_data_is_refused(tmp_path: Path, given: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", given)
    with pytest.raises(UsageError, match="first axis|no data|not real numbers"):
        FileData(tmp_path / "a.npy")


def test_a_batch_larger_than_memory_is_refused(paths: dict[str, Path], monkeypatch) -> None:
    streamed = opened(paths, "bytes")
    with pytest.raises(UsageError, match="no batch of 0"):
        streamed.batches(0)
    with pytest.raises(UsageError, match=r"no batch of 1001"):
        streamed.batches(1001, drop_last=True)
    monkeypatch.setattr(streams, "fits", lambda nbytes, device: nbytes < 50_000)
    streamed.batches(100)
    with pytest.raises(UsageError, match=r"a batch of 5,000 data .*96,000 bytes.*fewer"):
        streamed.batches(5000)


# --- memory ------------------------------------------------------------------------------------

TRAIN = """
import sys
import torch
import pyrovae as pv
from pyrovae.callbacks import Callback

class Enough(Callback):
    def step(self, run):
        return "enough" if run.step == 400 else None

torch.set_num_threads(1)
splits = pv.data.load(sys.argv[1])  # it is larger than any memory, so it is streamed
train = splits.train.binarised("dynamic")
assert isinstance(train, pv.data.FileData) and train.nbytes > 50e9, train
assert len(splits.test) == 10_000
torch.manual_seed(0)
vae = pv.VAE((1, 28, 28), 20)
history = pv.fit(
    vae, train, epochs=1, batch_size=256, validation=1000, callbacks=[Enough()], device="cpu",
    progress=False, out=sys.argv[2],
)
assert history.stopped == "enough"
assert float(pv.elbo(vae, splits.test.binarised("dynamic")).mean()) > -100  # untrained: -540
print(*(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_fifty_gigabytes_take_less_than_two(tmp_path: Path) -> None:
    path, n = tmp_path / "large.npy", 65_000_000
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (n, 28, 28)}
        np.lib.format.write_array_header_1_0(file, header)
        size = file.tell() + n * 784
        try:
            file.truncate(size)
        except OSError as error:
            pytest.skip(f"the file system holds no sparse file of 51 GB: {error}")
    if path.stat().st_blocks * 512 > 10**9:
        pytest.skip("the file system holds no sparse files")
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, str(path), str(tmp_path / "run")],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    path.unlink()
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout.split()[1]) * 1024
    assert peak < 2e9, f"{peak / 1e9:.2f} GB"


# --- the same for every kind ---------------------------------------------------------------------


KINDS = ("tensor", "file", "loader")


def as_kind(kind: str, x: torch.Tensor, folder: Path) -> Data:
    """The same data in memory, in a file, from a loader."""
    if kind == "tensor":
        return as_data(x)
    if kind == "loader":
        return as_data(DataLoader(TensorDataset(x), batch_size=32))
    np.save(folder / "x.npy", x.numpy())
    return FileData(folder / "x.npy")


def linear_pair() -> pv.Pair:
    """p(x|z) a linear Gaussian of two units, six dimensions; the guide is the prior."""
    decoder = torch.randn(2, 6, generator=seeded(0)) / 2

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ decoder, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0 * x[:, :2], 1.0).to_event(1))

    return pv.Pair(model, guide)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", [0, 70], ids=["from the start", "late"])
def test_nan_is_missing_in_every_kind(kind: str, first: int, tmp_path: Path) -> None:
    """The evidence of what is observed, in closed form, wherever the gaps and the data are."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(96, 6, generator=generator)
    gone = torch.rand(96, 6, generator=generator) < 0.3
    gone[:first] = False
    x[gone] = torch.nan
    pair = linear_pair()
    found = pv.evaluate(pair, as_kind(kind, x, tmp_path), 5000).log_evidence
    decoder = torch.randn(2, 6, generator=seeded(0)) / 2
    covariance = decoder.T @ decoder + torch.eye(6)
    truth = []
    for row in x:
        seen = ~row.isnan()
        if not seen.any():
            truth.append(torch.zeros(()))
            continue
        fn = dist.MultivariateNormal(torch.zeros(int(seen.sum())), covariance[seen][:, seen])
        truth.append(fn.log_prob(row[seen]))
    error = found - torch.stack(truth)
    assert abs(float(error.mean())) < 0.01 and float(error.abs().max()) < 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_all_of_a_loader_is_used(kind: str, tmp_path: Path) -> None:
    """Whatever the size of its batches: every datum is imputed, checked, decoded beside."""
    x = torch.randn(80, 6, generator=seeded(2))
    gaps = x.clone()
    gaps[::3, 1] = torch.nan
    pair, data = linear_pair(), as_kind(kind, gaps, tmp_path)
    filled = pv.impute(pair, data, num_particles=50)
    assert filled.shape == (80, 6) and not filled.isnan().any()
    assert torch.equal(filled[~gaps.isnan()], x[~gaps.isnan()])
    assert len(pair.some(data)[0]) == 80 and len(pair.some(data, 70)[0]) == 70
    whole = as_kind(kind, x, tmp_path)
    check = pv.predictive_check(pair, whole, torch.mean, replicates=2)
    assert check.observed == pytest.approx(float(x.mean()), abs=1e-6)


@pytest.mark.parametrize("kind", ["tensor", "loader"])
def test_what_a_program_computes_with_cannot_be_missing(kind: str) -> None:
    def model(x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z + x, 1.0), obs=y)

    def guide(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.where(y.isnan(), 0.0, (y - x) / 2), 0.5**0.5))

    x, y = torch.linspace(-1, 1, 96), torch.linspace(0, 2, 96)

    def serve(*parts):
        return DataLoader(TensorDataset(*parts), 32) if kind == "loader" else parts

    pair = pv.Pair(model, guide)
    y[60] = torch.nan
    found = pv.elbo(pair, serve(x, y))  # the guide is the posterior: exact
    expected = dist.Normal(x, 2**0.5).log_prob(y.nan_to_num())
    seen = ~y.isnan()
    torch.testing.assert_close(found[seen], expected[seen], rtol=0, atol=1e-4)
    x[70] = torch.nan
    with pytest.raises(UsageError, match="computes with entries that are missing"):
        pv.elbo(pair, serve(x, y))


@pytest.mark.parametrize("kind", KINDS)
def test_infinite_entries_and_supports_are_refused_in_every_kind(kind: str, tmp_path: Path) -> None:
    pair = linear_pair()
    x = torch.zeros(100, 6)
    x[90, 2] = torch.inf
    with pytest.raises(UsageError, match="infinite"):
        pv.elbo(pair, as_kind(kind, x, tmp_path))
    x[90, 2] = 0.5

    def binary(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample(
                "x", dist.Bernoulli(logits=z[..., None] + x.new_zeros(6)).to_event(1), obs=x
            )

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))

    with pytest.raises(UsageError, match="Bernoulli takes 0 or 1"):
        pv.elbo(pv.Pair(binary, guide), as_kind(kind, x, tmp_path))


@pytest.mark.parametrize("kind", KINDS)
def test_binarisation_is_one(kind: str, tmp_path: Path) -> None:
    x = torch.rand(128, 6, generator=torch.Generator().manual_seed(0))
    data = as_kind(kind, x, tmp_path)
    served = torch.cat([b for (b,) in data.binarised("threshold").batches(32)])
    assert torch.equal(served, (x >= 0.5).float())
    fixed = data.binarised("dynamic").fixed(3)
    once, again = (torch.cat([b for (b,) in fixed.batches(32)]) for _ in range(2))
    assert torch.equal(once, again) and set(once.unique().tolist()) == {0.0, 1.0}
    assert abs(float(once.mean() - x.mean())) < 4 * (0.25 / x.numel()) ** 0.5
    assert data.binarised("dynamic").maximum == 1.0 and data.binarised("none").binarise is None
    x[70, 0] = 3.0
    with pytest.raises(UsageError, match="cannot be binarised"):
        list(as_kind(kind, x, tmp_path).binarised("dynamic").batches(32))
    with pytest.raises(UsageError, match="did you mean 'static'"):
        data.binarised("statics")


@pytest.mark.parametrize("kind", KINDS)
def test_integers_are_integers_in_every_kind(kind: str, tmp_path: Path) -> None:
    ids = torch.arange(96).reshape(48, 2) + 2**24
    data = as_kind(kind, ids, tmp_path)
    assert data.stores_integers
    assert torch.equal(torch.cat([b for (b,) in data.integral().batches(32)]), ids)
    first = data.integral().first(3)
    assert torch.equal(first[:][0], ids[:3]) and len(data.integral().sample(5)) == 5
    with pytest.raises(UsageError, match="digits"):
        list(data.batches(32))


@pytest.mark.parametrize("kind", KINDS)
def test_uint8_that_contradicts_its_beginning_is_refused(kind: str, tmp_path: Path) -> None:
    flags = torch.zeros(64, 4, 4, dtype=torch.uint8)
    flags[::2] = 1
    (x,) = next(as_kind(kind, flags, tmp_path).batches(64))
    assert torch.equal(x.reshape(-1, 4, 4)[:32], flags[:32].float())
    flags[50] = 7
    with pytest.raises(UsageError, match="uint8|0 and 1 alone"):
        list(as_kind(kind, flags, tmp_path).batches(64))


# --- what a loader yields ------------------------------------------------------------------------


class Series(Dataset):
    """Items of a series, its length, its name."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int):
        return {"name": f"s{index}", "length": index % 3 + 1, "x": torch.full((4, 2), float(index))}


def packed(items: list) -> dict:
    batch = torch.utils.data.default_collate(items)
    pack = torch.nn.utils.rnn.pack_padded_sequence(
        batch["x"], batch["length"], batch_first=True, enforce_sorted=False
    )
    return {**batch, "packed": pack, "epoch": 3}


def test_a_loader_of_dicts_hands_on_what_is_no_tensor() -> None:
    stream = as_data(DataLoader(Series(), batch_size=4, collate_fn=packed))
    assert stream.layout.names == ("name", "length", "x", "packed", "epoch")
    assert stream.event_shape == (4, 2)
    seen = 0
    for leaves in stream.batches():
        assert isinstance(leaves[0], torch.Tensor)

        def program(x, length, name, packed, epoch):
            assert x.shape[1:] == (4, 2) and packed.data.shape == (int(length.sum()), 2)
            assert name == [f"s{int(i)}" for i in x[:, 0, 0]] and epoch == 3
            assert length.tolist() == [int(i) % 3 + 1 for i in x[:, 0, 0]]
            return len(x)

        arguments, named = stream.layout.bound(inspect.signature(program)).call(leaves)
        seen += program(*arguments, **named)
        ((whole,), _) = stream.layout.bound(inspect.signature(lambda batch: None)).call(leaves)
        assert list(whole) == list(stream.layout.names)
    assert seen == 10
    with pytest.raises(UsageError, match="which cannot be shared out among processes"):
        list(stream.batches(share=(0, 2)))
    with pytest.raises(UsageError, match="cannot be taken apart"):
        stream.first(3)


def test_batches_of_a_loader_are_alike() -> None:
    def changing(items: list):
        x = torch.stack([item["x"] for item in items])
        return (x, x) if float(x[0, 0, 0]) else {"x": x}

    with pytest.raises(UsageError, match="different structures"):
        list(as_data(DataLoader(Series(), 4, collate_fn=changing)).batches())
    with pytest.raises(UsageError, match="give the loader a batch_size"):
        next(as_data(DataLoader(Numbered(), batch_size=None)).batches())


class Numbered(Dataset):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int):
        return torch.zeros(3), index


# --- workers that are gone ---------------------------------------------------------------------

LOST = """
import multiprocessing, os, signal, sys, time, torch, pyrovae as pv
from torch.utils.data import DataLoader, Dataset

class Dies(Dataset):
    def __init__(self, at):
        self.at = at
    def __len__(self):
        return 400
    def __getitem__(self, index):
        if index == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.ones(6)

def loader(at=None):
    return DataLoader(Dies(at), 16, num_workers=2, multiprocessing_context="fork")

def kill():
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGKILL)
    time.sleep(60)  # torch's handler of SIGCHLD interrupts it

class Kill(pv.callbacks.Callback):
    def step(self, run):
        kill()

def said(work):
    try:
        work()
    except pv.UsageError as error:
        print(error, flush=True)

quick = dict(epochs=2, progress=False)
said(lambda: pv.fit(pv.VAE((6,), 2), loader(), callbacks=[Kill()], **quick))
said(lambda: pv.fit(pv.VAE((6,), 2), loader(350), **quick))
said(lambda: pv.evaluate(pv.VAE((6,), 2), loader(350), 2, progress=False))
pv.encode(pv.VAE((6,), 2), torch.ones(5, 6))  # the turn has been given back
print("done")
"""
SPAWNED = """
import torch, pyrovae as pv
from torch.utils.data import DataLoader, TensorDataset
data = TensorDataset(torch.ones(64, 6))
loader = DataLoader(data, 16, num_workers=1, multiprocessing_context="spawn")
pv.fit(pv.VAE((6,), 2), loader, epochs=1, progress=False)
"""


def ran(script: Path, text: str) -> subprocess.CompletedProcess[str]:
    script.write_text(text)
    return subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.skipif(sys.platform != "linux", reason="kills processes that are forked")
def test_a_worker_that_is_gone_is_said(tmp_path: Path) -> None:
    done = ran(tmp_path / "lost.py", LOST)
    *told, last = done.stdout.splitlines()
    assert last == "done", done.stderr
    assert len(told) == 3
    assert all(line.startswith("a worker process of the DataLoader is gone (") for line in told)
    assert "killed by signal: Killed" in told[0]  # interrupted within a step


def test_spawned_workers_need_a_guard(tmp_path: Path) -> None:
    done = ran(tmp_path / "spawned.py", SPAWNED)
    assert done.returncode == 1
    words = [line for line in done.stderr.splitlines() if line.startswith("pyrovae.errors.UsageE")]
    assert "put what it does under if __name__ == '__main__'" in words[0]  # the worker's
    assert "a worker process of the DataLoader is gone" in words[-1]


class Unreadable(Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int):
        raise FileNotFoundError("no such image")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_set_s_own_errors_are_its_own(workers: int) -> None:
    loader = DataLoader(Unreadable(), 2, num_workers=workers)
    with pytest.raises(FileNotFoundError, match="no such image"):
        next(as_data(loader).batches(2))
