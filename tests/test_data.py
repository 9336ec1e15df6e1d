"""Data: what is stored and served, how it is split and binarised, and every way to load it."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from pyrovae import data as module
from pyrovae import streams
from pyrovae.assets import make_mnist5k
from pyrovae.data import StreamedData, TensorData, UsageError, as_data, fits, load, nearest

SHARED = Path(os.environ.get("PYROVAE_DATA") or Path(__file__).parents[2] / "shared" / "data")


def full_mnist() -> Path:
    if not (SHARED / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file():
        pytest.skip("the full MNIST is not at hand: set PYROVAE_DATA to the folder that holds it")
    return SHARED


def images(n: int = 6, seed: int = 0, shape: tuple[int, ...] = (1, 4, 4)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, *shape), generator=generator, dtype=torch.uint8)


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist(folder: Path, train: torch.Tensor, test: torch.Tensor) -> None:
    for prefix, x in (("train", train), ("t10k", test)):
        write_idx(folder / f"{prefix}-images-idx3-ubyte", x.numpy())
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", np.arange(len(x)) % 10)


def rows(x: torch.Tensor) -> set[bytes]:
    return {row.numpy().tobytes() for row in x}


# --- TensorData: stored and served -------------------------------------------------------------


def test_uint8_is_stored_and_floats_are_served() -> None:
    raw = images()
    data = TensorData(raw, divisor=255, maximum=1.0)
    assert data.tensors[0].dtype == torch.uint8 and data.nbytes == raw.numel()
    assert torch.equal(data.x, raw / 255) and data.x.dtype == torch.get_default_dtype()
    assert torch.equal(data[2][0], raw[2] / 255)
    assert torch.equal(data[1:3][0], raw[1:3] / 255)
    assert torch.equal(data[torch.tensor([5, 0])][0], raw[[5, 0]] / 255)
    assert len(data) == 6 and data.event_shape == (1, 4, 4) and data.device.type == "cpu"
    assert repr(data) == "TensorData(6 x [1, 4, 4] uint8 / 255, cpu)"


def test_default_dtype_is_served() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert TensorData(images(), divisor=255).x.dtype == torch.float64
        assert as_data(np.zeros((2, 3))).x.dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert TensorData(torch.zeros(2, 3, dtype=torch.float64)).x.dtype == torch.float32
    double = TensorData(torch.zeros(2, 3, dtype=torch.float16)).to(dtype=torch.float64)
    assert double.x.dtype == torch.float64 and double.tensors[0].dtype == torch.float16
    assert TensorData(torch.arange(3)).x.dtype == torch.float32


def test_further_tensors_are_served_as_they_are() -> None:
    y = torch.arange(6)
    x_batch, y_batch = next(TensorData(images(), y, divisor=255).batches(4))
    assert x_batch.dtype == torch.float32 and y_batch.dtype == torch.int64
    assert torch.equal(y_batch, y[:4])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: TensorData(), "no data"),
        (lambda: TensorData(torch.zeros(0, 3)), r"no data.*\[0, 3\]"),
        (lambda: TensorData(torch.tensor(1.0)), "first axis"),
        (lambda: TensorData(torch.zeros(3, 2), torch.zeros(4)), r"\[3, 2\], \[4\]"),
        (lambda: TensorData(torch.zeros(3, 2), labels=[0, 1]), r"\[3, 2\], \[2\]"),
        (lambda: TensorData(np.zeros((3, 2))), "as_data"),
        (lambda: TensorData(torch.zeros(3, dtype=torch.complex64)), "complex"),
        (lambda: TensorData(torch.eye(3).to_sparse()), "sparse"),
        (lambda: TensorData(torch.zeros(3), binarise="dynamik"), "did you mean 'dynamic'"),
        (lambda: TensorData(torch.full((3,), 2.0), binarise="dynamic"), r"\[2, 2\]"),
        (lambda: TensorData(torch.zeros(3)).with_labels(), "no labels"),
        (lambda: TensorData(torch.zeros(3)).select([]), "empty"),
        (lambda: TensorData(torch.zeros(3)).batches(0), "no batch of 0"),
        (lambda: TensorData(torch.zeros(3)).batches(4, drop_last=True), "no batch of 4"),
    ],
)
def test_mistakes_are_named(make, said) -> None:
    with pytest.raises(UsageError, match=said):
        make()


# --- splits ------------------------------------------------------------------------------------


def labelled(n: int = 50) -> TensorData:
    return TensorData(torch.arange(n) * 10.0, torch.arange(n) * 2, labels=torch.arange(n))


@pytest.mark.parametrize(("held_out", "count"), [(0.2, 10), (7, 7), (0.011, 1), (49, 49)])
def test_split_partitions_and_labels_follow(held_out: float, count: int) -> None:
    train, held = labelled().split(held_out, seed=3)
    assert (len(train), len(held)) == (50 - count, count)
    for part in (train, held):
        x, y = part.tensors
        assert torch.equal(x, part.labels * 10.0) and torch.equal(y, part.labels * 2)
    assert sorted(torch.cat([train.labels, held.labels]).tolist()) == list(range(50))
    again = labelled().split(held_out, seed=3)[1]
    assert torch.equal(again.labels, held.labels)
    assert not torch.equal(labelled().split(10, seed=4)[1].labels, labelled().split(10)[1].labels)


@pytest.mark.parametrize("held_out", [0, 50, 60, -1, 0.001, 0.999, 1.5, 0.0])
def test_split_leaves_neither_side_empty(held_out: float) -> None:
    with pytest.raises(UsageError, match=rf"cannot hold out {held_out} of 50"):
        labelled().split(held_out)


def test_select_takes_slices_positions_and_masks() -> None:
    data = labelled(4)
    for indices in (slice(1, 3), [1, 2], np.array([1, 2]), torch.tensor([0, 1, 1, 0]).bool()):
        chosen = data.select(indices)
        assert chosen.labels.tolist() == [1, 2] and chosen.x.tolist() == [10.0, 20.0]
    assert len(data) == 4


def test_with_labels_hands_them_to_the_model() -> None:
    data = TensorData(images(), labels=range(6), divisor=255)
    x, y = next(data.with_labels().batches(6))
    assert torch.equal(x, data.x) and y.tolist() == list(range(6))
    assert len(next(data.batches(6))) == 1


def test_to_moves_everything_and_keeps_the_rest() -> None:
    data = TensorData(images(), torch.zeros(6), labels=range(6), divisor=255, binarise="dynamic")
    moved = data.to("meta")
    assert {t.device.type for t in (*moved.tensors, moved.labels)} == {"meta"}
    assert (moved.divisor, moved.binarise, data.device.type) == (255, "dynamic", "cpu")


# --- batches -----------------------------------------------------------------------------------


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_each_datum_is_visited_once(shuffle: bool, drop_last: bool) -> None:
    batches = list(labelled(50).batches(8, shuffle=shuffle, drop_last=drop_last))
    assert [len(x) for x, _ in batches] == [8] * 6 + ([] if drop_last else [2])
    seen = torch.cat([y for _, y in batches]) // 2
    assert torch.equal(torch.cat([x for x, _ in batches]), seen * 10.0)
    assert len(seen.unique()) == len(seen)
    assert (seen.tolist() == sorted(seen.tolist())) is not shuffle


def test_drop_last_keeps_a_last_whole_batch() -> None:
    assert len(list(labelled(50).batches(25, drop_last=True))) == 2
    assert len(list(labelled(50).batches(50, drop_last=True))) == 1


def test_seeded_batches_repeat_bit_for_bit() -> None:
    data = TensorData(images(40), divisor=255).binarised("dynamic")

    def epoch(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.cat([x for (x,) in data.batches(16, shuffle=True, generator=generator)])

    assert torch.equal(epoch(1), epoch(1))
    assert not torch.equal(epoch(1), epoch(2))


def test_a_generator_leaves_the_global_one_alone() -> None:
    data = TensorData(images(40), divisor=255).binarised("dynamic")
    before = torch.random.get_rng_state()
    list(data.batches(8, shuffle=True, generator=torch.Generator()))
    data.split(0.5), data.binarised("static"), data.fixed()
    as_data(TensorDataset(torch.zeros(4, 2))), as_data(Pairs())
    _ = as_data(DataLoader(Pairs(), shuffle=True, batch_size=2)).event_shape
    assert torch.equal(before, torch.random.get_rng_state())


def test_unshuffled_floats_are_served_without_a_copy() -> None:
    data = TensorData(torch.randn(10, 3))
    second = list(data.batches(5))[1][0]
    assert second.data_ptr() == data.tensors[0][5:].data_ptr()


# --- binarisation ------------------------------------------------------------------------------


@pytest.mark.parametrize("maximum", [1.0, 16.0])
def test_dynamic_binarisation_has_the_pixels_probabilities(maximum: float) -> None:
    p = torch.tensor([0.0, 0.125, 0.5, 0.875, 1.0])
    data = TensorData((p * maximum)[None], maximum=maximum).binarised("dynamic")
    draws = torch.stack([next(data.batches(1))[0][0] for _ in range(2000)])
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    error = (p * (1 - p) / 2000).sqrt()
    assert torch.all((draws.mean(0) - p).abs() <= 4 * error)
    assert torch.equal(data.x[0], p) and data.maximum == 1.0


def test_dynamic_changes_each_time_and_static_never() -> None:
    data = TensorData(images(100), divisor=255, labels=range(100))
    dynamic = data.binarised("dynamic")
    first, second = (torch.cat([x for (x,) in dynamic.batches(32)]) for _ in range(2))
    assert not torch.equal(first, second)
    static = data.binarised("static", seed=5)
    assert static.tensors[0].dtype == torch.uint8 and static.binarise is None
    assert static.divisor is None and static.maximum == 1.0
    assert torch.equal(static.x, data.binarised("static", seed=5).x)
    assert not torch.equal(static.x, data.binarised("static", seed=6).x)
    assert set(static.x.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(static.x, dynamic.fixed(5).x) and static.fixed() is static
    assert torch.equal(static.labels, data.labels)
    assert torch.equal(dynamic.binarised("none").x, data.x)


def test_static_draws_have_the_pixels_probabilities() -> None:
    n = 20_000  # more than one of the chunks that the drawing goes through
    drawn = TensorData(torch.full((n, 1), 4.0), maximum=16.0).binarised("static").x
    assert abs(drawn.mean().item() - 0.25) <= 4 * (0.25 * 0.75 / n) ** 0.5
    assert not torch.equal(drawn[:4096], drawn[4096:8192])


def test_threshold_is_at_half_the_maximum() -> None:
    data = TensorData(torch.tensor([0.0, 7.9, 8.0, 16.0]), maximum=16.0).binarised("threshold")
    assert data.x.tolist() == [0.0, 0.0, 1.0, 1.0] == next(data.batches(4))[0].tolist()
    pixels = torch.tensor([[127, 128]], dtype=torch.uint8)
    assert TensorData(pixels, divisor=255, binarise="threshold").x.tolist() == [[0.0, 1.0]]
    assert data.fixed() is data


def test_values_out_of_range_cannot_be_binarised() -> None:
    for mode in ("dynamic", "threshold", "static"):
        with pytest.raises(UsageError, match=r"\[-0\.5, 3\], not in \[0, 1\]"):
            TensorData(torch.tensor([-0.5, 3.0])).binarised(mode)
        seen = TensorData(torch.tensor([1.0, torch.nan, 0.0])).binarised(mode)[:][0]
        assert seen[1].isnan() and seen[[0, 2]].tolist() == [1.0, 0.0]  # missing stays missing
    with pytest.raises(UsageError, match="did you mean 'static'"):
        TensorData(torch.zeros(2)).binarised("statics")


def test_check_finite_names_the_first() -> None:
    x = torch.zeros(3000, 40, 40)
    TensorData(x).check_finite()
    x[2700, 3, 4], x[2800, 0, 0], x[2900] = torch.inf, torch.nan, torch.inf
    with pytest.raises(
        UsageError, match=r"x has 1601 .*inf, is in datum 2700 at position \[3, 4\]"
    ):
        TensorData(x).check_finite()
    x[100, 5, 6] = -torch.inf  # in an earlier chunk of those looked through
    with pytest.raises(
        UsageError, match=r"x has 1602 .*-inf, is in datum 100 at position \[5, 6\]"
    ):
        TensorData(x).check_finite()
    with pytest.raises(UsageError, match=r"y has 1 .*inf, is in datum 1 at position \[\]"):
        TensorData(torch.zeros(2), torch.tensor([torch.nan, torch.inf])).check_finite()
    TensorData(images(), divisor=255).check_finite()


# --- as_data -----------------------------------------------------------------------------------


class Pairs(Dataset):
    """Items (tensor, class), as torchvision's data sets have."""

    def __len__(self) -> int:
        return 300

    def __getitem__(self, index: int):
        return torch.full((2, 3), float(index)), index % 10


class Fixed(Dataset):
    """The items it is given."""

    def __init__(self, *items) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int):
        return self.items[index]


class Endless(IterableDataset):
    def __iter__(self):
        return iter([torch.zeros(3)] * 4)


def test_arrays_tensors_tuples_and_tables_are_data() -> None:
    import pandas

    x = np.arange(12.0).reshape(4, 3)
    frame = pandas.DataFrame(x, columns=list("abc"))
    frozen = x.copy()
    frozen.flags.writeable = False
    for given in (
        x,
        x.tolist(),
        torch.tensor(x),
        frame,
        x.astype(">f8"),
        frozen,
        x[:, ::-1][:, ::-1],
    ):
        data = as_data(given)
        assert data.x.dtype == torch.float32 and np.array_equal(data.x, x)
    for given in ((x, np.arange(4)), [x, np.arange(4)], (frame, [0, 1, 2, 3])):
        data = as_data(given)
        assert len(data.tensors) == 2 and data.tensors[1].tolist() == [0, 1, 2, 3]
    assert as_data([np.float64(1.0), np.float64(2.0)]).x.tolist() == [1.0, 2.0]
    assert as_data(np.arange(3, dtype=np.uint16)).x.tolist() == [0.0, 1.0, 2.0]
    assert len(as_data(TensorDataset(torch.zeros(4, 3), torch.zeros(4))).tensors) == 2
    assert as_data(data) is data and as_data(data, "meta").device.type == "meta"


def test_uint8_images_are_scaled_and_tables_are_not() -> None:
    for given in (images(), images().numpy(), TensorDataset(images()), Fixed(*images())):
        data = as_data(given)
        assert data.tensors[0].dtype == torch.uint8
        assert (data.divisor, data.maximum) == (255, 1.0) and torch.equal(data.x, images() / 255)
    table = as_data(images(shape=(3,)))
    assert table.divisor is None and torch.equal(table.x, images(shape=(3,)).float())


def test_a_dataset_becomes_tensors() -> None:
    data = as_data(Pairs())
    assert isinstance(data, TensorData)
    x, y = data.tensors
    assert x.shape == (300, 2, 3) and torch.equal(x[:, 0, 0], torch.arange(300.0))
    assert torch.equal(y, torch.arange(300) % 10)
    half = as_data(torch.utils.data.Subset(Pairs(), range(7, 9)))
    assert half.x[:, 0, 0].tolist() == [7.0, 8.0]


def test_a_dataset_too_large_is_streamed(monkeypatch) -> None:
    monkeypatch.setattr(streams, "fits", lambda nbytes, device: nbytes < 300 * 6 * 4)
    data = as_data(Pairs())
    assert isinstance(data, StreamedData) and len(data) == 300
    seen = torch.cat([x[:, 0, 0] for x, _ in data.batches(7)])
    assert sorted(seen.tolist()) == list(range(300))


def test_a_loader_keeps_its_batches() -> None:
    stream = as_data(DataLoader(Pairs(), batch_size=128), "cpu")
    assert len(stream) == 300 and stream.event_shape == (2, 3) and stream.fixed() is stream
    batches = list(stream.batches(5, shuffle=True))
    assert [len(x) for x, _ in batches] == [128, 128, 44]
    assert batches[1][0][0, 0, 0] == 128 and batches[0][1].dtype == torch.int64
    (x,) = next(as_data(DataLoader(Fixed(*images()), batch_size=6)).batches())
    assert torch.equal(x, images() / 255)
    (x,) = next(as_data(DataLoader(Endless(), batch_size=3)).batches())
    assert x.shape == (3, 3)
    assert as_data(stream, "meta").device.type == "meta"


def test_a_look_at_the_event_shape_changes_no_order() -> None:
    def order(look: bool) -> list[float]:
        loader = DataLoader(Pairs(), 300, shuffle=True, generator=torch.Generator().manual_seed(1))
        stream = StreamedData(loader)
        assert not look or stream.event_shape == (2, 3)
        return next(stream.batches())[0][:, 0, 0].tolist()

    assert order(True) == order(False)


def test_data_works_inside_a_loader() -> None:
    data = TensorData(images(), torch.arange(6), divisor=255)
    (x, y), *_ = DataLoader(data, batch_size=6)
    assert torch.equal(x, data.x) and torch.equal(y, data.tensors[1])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("mnist", r"load\('mnist'\)"),
        (np.array(["a", "b"]), "dtype <U1"),
        (np.array([1, None]), "dtype object"),
        (np.array([1j]), "dtype complex128"),
        ([[1, 2], [3]], "rectangular"),
        ((), "no data"),
        (Endless(), "DataLoader"),
        (Fixed(), "empty"),
        (Fixed({"x": "a"}), "hold str"),
        (Fixed(("a", 1)), "hold str.*ToTensor"),
        (Fixed(torch.zeros(3), torch.zeros(4)), "same shape"),
        (Fixed(*[torch.zeros(3)] * 256, torch.zeros(1)), "same shape"),
        (object(), "dtype object"),
    ],
)
def test_what_is_no_data_is_refused(given, said) -> None:
    with pytest.raises(UsageError, match=said):
        as_data(given)


def test_pil_items_need_a_transform() -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    with pytest.raises(UsageError, match=r"MNIST hold Image, not tensors.*ToTensor\(\)"):
        as_data(datasets.MNIST(full_mnist()))


def test_a_loader_of_other_things_is_refused() -> None:
    stream = as_data(DataLoader(Fixed({"x": "a"})))
    with pytest.raises(UsageError, match="no tensor: it is a dict of list"):
        next(stream.batches())
    with pytest.raises(UsageError, match="Endless has no length"):
        len(as_data(DataLoader(Endless())))


def test_fits_knows_half_of_the_memory() -> None:
    assert fits(1000, "cpu") and not fits(2**60, torch.device("cpu"))


def test_nearest() -> None:
    assert nearest("fashon-mnist", ["fashion-mnist", "svhn"]) == "; did you mean 'fashion-mnist'?"
    assert nearest("zzz", ["fashion-mnist"]) == ""


# --- named sets --------------------------------------------------------------------------------


def test_the_bundled_set_is_balanced() -> None:
    splits = load("mnist5k")
    for part, per_class in ((splits.train, 500), (splits.test, 100)):
        assert part.tensors[0].dtype == torch.uint8 and part.event_shape == (1, 28, 28)
        assert part.labels.bincount().tolist() == [per_class] * 10
        assert (part.divisor, part.maximum) == (255, 1.0) and part.x.max() == 1.0
        assert sorted(part.labels[:10].tolist()) == list(range(10))
        assert len(rows(part.tensors[0])) == len(part)
    assert splits.classes == tuple("0123456789")


def test_the_bundled_set_is_made_from_mnist(tmp_path: Path) -> None:
    root = full_mnist()
    make_mnist5k.make(root / "MNIST" / "raw", tmp_path / "again.npz")
    bundled = Path(make_mnist5k.__file__).with_name("mnist5k.npz")
    assert bundled.stat().st_size <= 2_000_000
    with np.load(bundled) as one, np.load(tmp_path / "again.npz") as other:
        assert set(one) == set(other) == {"x_train", "y_train", "x_test", "y_test"}
        for key in one:
            assert one[key].dtype == np.uint8 and np.array_equal(one[key], other[key])
    make_mnist5k.make(root / "MNIST" / "raw", tmp_path / "third.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "third.npz").read_bytes()


def test_a_damaged_idx_file_makes_no_subset(tmp_path: Path) -> None:
    write_idx(tmp_path / "a", np.zeros((3, 2, 2)))
    assert make_mnist5k.read_idx(tmp_path / "a").shape == (3, 2, 2)
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:-1])
    with pytest.raises(ValueError, match="not a whole IDX file"):
        make_mnist5k.read_idx(tmp_path / "a")


def test_digits_are_counts_in_a_stratified_split() -> None:
    pytest.importorskip("sklearn")
    splits = load("digits")
    assert (len(splits.train), len(splits.test)) == (1437, 360)
    assert splits.train.event_shape == (1, 8, 8)
    assert splits.train.maximum == 16.0 == splits.train.x.max() and splits.train.x.min() == 0
    shares = splits.test.labels.bincount() / splits.train.labels.bincount()
    assert torch.all((shares - 0.25).abs() < 0.02)
    assert torch.equal(load("digits").test.x, splits.test.x)
    assert not torch.equal(load("digits", seed=1).test.x, splits.test.x)


def test_full_mnist() -> None:
    pytest.importorskip("torchvision")
    splits = load("mnist", full_mnist(), download=False)
    assert (len(splits.train), len(splits.test)) == (60_000, 10_000)
    assert splits.train.tensors[0].dtype == torch.uint8
    assert splits.train.nbytes == 60_000 * (784 + 8)
    assert splits.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert splits.train.x[0].mean().item() == pytest.approx(0.13768, abs=1e-4)
    small = load("mnist5k")
    assert rows(small.train.tensors[0]) <= rows(splits.train.tensors[0])
    assert rows(small.test.tensors[0]) <= rows(splits.test.tensors[0])


@pytest.mark.parametrize(
    ("name", "kind"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
def test_idx_files_are_read_where_torchvision_keeps_them(tmp_path, monkeypatch, name, kind) -> None:
    pytest.importorskip("torchvision")
    train, test = images(20, shape=(28, 28)), images(10, 1, shape=(28, 28))
    write_mnist(tmp_path / kind / "raw", train, test)
    monkeypatch.setenv("PYROVAE_DATA", str(tmp_path))
    splits = load(name)
    assert torch.equal(splits.train.tensors[0], train[:, None])
    assert torch.equal(splits.test.tensors[0], test[:, None])
    assert splits.test.labels.tolist() == list(range(10)) and len(splits.classes) == 10


def test_emnist_is_turned_upright(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    x = images(12, shape=(28, 28))
    for part in ("train", "test"):
        prefix = tmp_path / "EMNIST" / "raw" / f"emnist-balanced-{part}"
        write_idx(Path(f"{prefix}-images-idx3-ubyte"), x.numpy())
        write_idx(Path(f"{prefix}-labels-idx1-ubyte"), np.arange(12))
    splits = load("emnist", tmp_path)
    assert torch.equal(splits.train.tensors[0][:, 0], x.transpose(1, 2))
    assert len(splits.classes) == 47 and splits.classes[10:12] == ("A", "B")


def fake(monkeypatch, kind: str, make) -> None:
    datasets = pytest.importorskip("torchvision.datasets")

    def source(*, root, transform, download, **arguments):
        return make(transform, arguments)

    monkeypatch.setattr(datasets, kind, source)


def test_colour_sets_have_channels_first(monkeypatch, tmp_path: Path) -> None:
    x = images(5, shape=(3, 32, 32)).numpy()
    cifar = SimpleNamespace(
        data=x.transpose(0, 2, 3, 1), targets=[0, 1, 1, 0, 1], classes=["a", "b"]
    )
    fake(monkeypatch, "CIFAR10", lambda transform, arguments: cifar)
    fake(monkeypatch, "SVHN", lambda t, a: SimpleNamespace(data=x, labels=np.arange(5)))
    splits = load("cifar10", tmp_path)
    assert np.array_equal(splits.train.tensors[0], x) and splits.classes == ("a", "b")
    assert splits.test.labels.tolist() == [0, 1, 1, 0, 1]
    splits = load("svhn", tmp_path)
    assert np.array_equal(splits.train.tensors[0], x) and splits.classes == tuple("0123456789")


def test_decoded_sets_are_resized(monkeypatch, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    page = image.new("L", (105, 105), 255)
    page.paste(0, (0, 0, 60, 105))
    fake(monkeypatch, "Omniglot", lambda transform, a: [(transform(page), i) for i in range(4)])
    splits = load("omniglot", tmp_path)
    assert splits.train.event_shape == (1, 28, 28)
    assert torch.all(splits.train.x[:, :, :, :14] == 1) and torch.all(splits.train.x[..., 18:] == 0)
    assert splits.train.labels.tolist() == [0, 1, 2, 3] and splits.test.labels.tolist() == [
        4,
        5,
        6,
        7,
    ]
    face = image.new("RGB", (178, 218), (0, 0, 0))
    face.paste((255, 0, 0), (15, 35, 163, 183))
    fake(monkeypatch, "CelebA", lambda t, a: [(t(face), torch.zeros(40)) for i in range(3)])
    faces = load("celeba", tmp_path).train
    assert faces.event_shape == (3, 64, 64) and faces.labels is None
    assert torch.all(faces.x[:, 0] == 1) and torch.all(faces.x[:, 1:] == 0)


def test_what_torchvision_itself_misses_is_named(monkeypatch, tmp_path: Path) -> None:
    def lacking(transform, arguments):
        raise ModuleNotFoundError("No module named 'scipy'")

    fake(monkeypatch, "SVHN", lacking)
    with pytest.raises(UsageError, match="No module named 'scipy': pip install what svhn needs"):
        load("svhn", tmp_path)


@pytest.mark.parametrize("size", [2, 10, 500])
def test_truncated_idx_files_are_named(tmp_path: Path, size: int) -> None:
    pytest.importorskip("torchvision")
    folder = tmp_path / "MNIST" / "raw"
    write_mnist(folder, images(20, shape=(28, 28)), images(10, shape=(28, 28)))
    file = folder / "t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(UsageError, match=r"MNIST.raw cannot be read: .*delete them"):
        load("mnist", tmp_path)
    write_idx(file, np.zeros((9, 28, 28)))
    with pytest.raises(UsageError, match=r"MNIST.raw: .*\[9, 1, 28, 28\], \[10\]"):
        load("mnist", tmp_path)


def test_a_failed_download_names_the_way_out(tmp_path: Path, monkeypatch) -> None:
    mnist = pytest.importorskip("torchvision.datasets.mnist")

    def offline(*args, **kwargs) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(mnist, "download_and_extract_archive", offline)
    with pytest.raises(UsageError) as caught:
        load("mnist", tmp_path)
    for part in (
        "cannot be downloaded",
        "no route to host",
        "--data-dir",
        "mnist5k",
        str(tmp_path),
    ):
        assert part in str(caught.value)
    with pytest.raises(UsageError, match="mnist is not in .*; allow download"):
        load("mnist", tmp_path, download=False)
    with pytest.raises(UsageError, match="there is no folder .*nowhere"):
        load("mnist", tmp_path / "nowhere", download=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be downloaded"):
        load("mnist", tmp_path / "file")


@pytest.mark.parametrize(
    "source", ["raise RuntimeError('operator torchvision::nms does not exist')", "import no_such"]
)
def test_a_broken_torchvision_is_explained(tmp_path: Path, monkeypatch, source: str) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(source)
    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"(nms|no_such).*pip install torch torchvision"):
        load("mnist", tmp_path)


def test_missing_packages_are_explained(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("PIL.Image").new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "a.parquet").write_bytes(b"")
    for package in ("sklearn.datasets", "pyarrow", "pyarrow.parquet", "PIL"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match="pip install scikit-learn"):
        load("digits")
    with pytest.raises(UsageError, match=r'a\.parquet: .*pip install "pyrovae\[parquet\]"'):
        load(tmp_path / "a.parquet")
    with pytest.raises(UsageError, match="pip install pillow"):
        load(tmp_path)


def test_unknown_names_are_answered_with_the_near_one(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="'mnits'; did you mean 'mnist'\\? Names: .* Paths: .npy"):
        load("mnits")
    with pytest.raises(UsageError, match="'qqqq'. Names"):
        load("qqqq")
    np.save("faces.npy", np.zeros((4, 2)))
    with pytest.raises(UsageError, match="no file 'face.npy'; did you mean 'faces.npy'"):
        load("face.npy")
    with pytest.raises(UsageError, match=r"no file .* \(nor a folder 'nowhere'\)"):
        load("nowhere/face.npy")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UsageError, match=r"format of 'notes\.txt'.*\.npz"):
        load("notes.txt")
    for name in ("mnist5k", "faces.npy"):
        with pytest.raises(UsageError, match="label='y' is about the columns of a table"):
            load(name, label="y")


# --- files -------------------------------------------------------------------------------------


def test_npy_holds_a_tenth_out(tmp_path: Path) -> None:
    x = np.arange(80.0).reshape(40, 2)
    np.save(tmp_path / "a.npy", x)
    splits = load(tmp_path / "a.npy")
    assert (len(splits.train), len(splits.test)) == (36, 4) and splits.classes is None
    both = torch.cat([splits.train.x, splits.test.x])
    assert np.array_equal(both[both[:, 0].argsort()], x)
    assert torch.equal(load(str(tmp_path / "a.npy")).test.x, splits.test.x)
    assert not torch.equal(load(tmp_path / "a.npy", seed=1).test.x, splits.test.x)
    assert splits.name == "a" and "36 training and 4 test" in splits.description


def test_one_axis_becomes_a_column(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(5))
    splits = load(tmp_path / "a.npy")
    assert splits.train.event_shape == (1,) and (len(splits.train), len(splits.test)) == (4, 1)


@pytest.mark.parametrize(
    ("shape", "moved"),
    [((5, 6), None), ((3, 5, 6), None), ((5, 6, 3), (0, 3, 1, 2)), ((5, 6, 1), (0, 3, 1, 2))],
)
def test_uint8_arrays_are_images(tmp_path: Path, shape, moved) -> None:
    x = images(4, shape=shape).numpy()
    np.savez(tmp_path / "a.npz", x_train=x, x_test=x[:2])
    train = load(tmp_path / "a.npz").train
    expected = x.transpose(moved) if moved else x.reshape(4, -1, 5, 6)
    assert np.array_equal(train.tensors[0], expected) and train.tensors[0].is_contiguous()
    assert (train.divisor, train.maximum) == (255, 1.0)


def test_other_arrays_are_left_alone(tmp_path: Path) -> None:
    for x in (images(4, shape=(7,)).numpy(), np.ones((4, 5, 6)), np.ones((4, 2, 2, 3), np.int32)):
        np.save(tmp_path / "a.npy", x)
        data = load(tmp_path / "a.npy").train
        assert data.event_shape == x.shape[1:] and data.divisor is None and data.maximum is None


@pytest.mark.parametrize("form", [".npz", ".pt"])
def test_named_arrays_and_labels(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"a{form}"

    def save(**arrays) -> None:
        if form == ".npz":
            np.savez_compressed(path, **arrays)
        else:
            torch.save({key: torch.as_tensor(a) for key, a in arrays.items()}, path)

    x = np.arange(30.0).reshape(10, 3)
    save(x_train=x, y_train=np.arange(10) % 3 * 10, x_test=x[:4], y_test=np.array([5, 0, 10, 20]))
    splits = load(path)
    assert np.array_equal(splits.train.x, x) and np.array_equal(splits.test.x, x[:4])
    assert splits.classes == ("0", "5", "10", "20")
    assert splits.test.labels.tolist() == [1, 0, 2, 3] and splits.train.labels[1].item() == 2
    save(x=x, y=np.arange(10.0))
    splits = load(path)
    for part in (splits.train, splits.test):
        assert torch.equal(part.x[:, 0], part.labels * 3.0)
    save(anything=x)
    assert len(load(path).train) == 9
    save(weights=x, bias=x)
    with pytest.raises(UsageError, match=rf"a{form}: it holds weights, bias; .*x_train"):
        load(path)
    save(x=x, y=np.zeros(4))
    with pytest.raises(UsageError, match=rf"a{form}: .*\[10, 3\], \[4\]"):
        load(path)
    save(x=x, y=np.linspace(0, 1, 10))
    with pytest.raises(UsageError, match="whole numbers or names"):
        load(path)
    save(x_train=x, x_test=x[:, :2])
    with pytest.raises(UsageError, match=r"one shape, not \[3\] and \[2\]"):
        load(path)
    save(x=x[:1], y=np.zeros(1))
    with pytest.raises(UsageError, match="at least 2"):
        load(path)
    save(x=x[:0])
    with pytest.raises(UsageError, match=r"no data: x has shape \[0, 3\]"):
        load(path)


def test_a_tensor_file(tmp_path: Path) -> None:
    torch.save(images(20), tmp_path / "a.pt")
    splits = load(tmp_path / "a.pt")
    assert rows(splits.train.tensors[0]) | rows(splits.test.tensors[0]) == rows(images(20))


def test_names_are_labels_in_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x_train=np.eye(3), y_train=["b", "a", "b"], x_test=np.eye(3))
    splits = load(tmp_path / "a.npz")
    assert splits.classes == ("a", "b") and splits.train.labels.tolist() == [1, 0, 1]
    assert splits.test.labels is None


class Trap:
    """Unpickling it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_files_are_never_unpickled(tmp_path: Path) -> None:
    trap = Trap(tmp_path / "sprung")
    np.save(tmp_path / "a.npy", np.array([trap, 1], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", x=np.array([trap, 1], dtype=object))
    torch.save(trap, tmp_path / "c.pt")
    for name in ("a.npy", "b.npz", "c.pt"):
        with pytest.raises(UsageError, match=name):
            load(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".parquet"])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.6, None])
def test_damaged_files_are_named(tmp_path: Path, suffix: str, keep: float | None) -> None:
    path = tmp_path / f"a{suffix}"
    x = np.random.default_rng(0).normal(size=(50, 20))
    if suffix == ".npy":
        np.save(path, x)
    elif suffix == ".npz":
        np.savez_compressed(path, x=x)
    elif suffix == ".pt":
        torch.save(torch.tensor(x), path)
    else:
        pandas = pytest.importorskip("pandas")
        pandas.DataFrame(x, columns=[f"c{i}" for i in range(20)]).to_parquet(path)
    assert load(path).train.event_shape == (20,)
    raw = path.read_bytes()
    path.write_bytes(b"this is no such file " * 20 if keep is None else raw[: int(keep * len(raw))])
    with pytest.raises(UsageError, match=rf"a{suffix} cannot be read: .+; .*make it again"):
        load(path)


def test_a_damaged_member_of_an_npz_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.random.default_rng(0).normal(size=(50, 20)))
    raw = bytearray(path.read_bytes())
    raw[2000:2010] = bytes(10)
    path.write_bytes(raw)
    with pytest.raises(UsageError, match=r"a\.npz cannot be read"):
        load(path)


@pytest.mark.parametrize("array", [np.array(["a", "b"]), np.array([1j, 2]), np.array(3.0)])
def test_arrays_that_are_no_data_are_named(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UsageError, match=r"a\.npy: .*(dtype|first axis)"):
        load(tmp_path / "a.npy")


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_csv_with_a_header_labels_and_gaps(tmp_path: Path, mark: str) -> None:
    text = mark + "a,kind,b\n1,cat,2\n3,dog,\n5,cat,6\n\n7,dog,8.5\n"
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    splits = load(tmp_path / "a.csv", label="kind")
    x = torch.cat([splits.train.x, splits.test.x])
    labels = torch.cat([splits.train.labels, splits.test.labels])[x[:, 0].argsort()]
    x = x[x[:, 0].argsort()]
    assert x[:, 0].tolist() == [1.0, 3.0, 5.0, 7.0] and x[[0, 2, 3], 1].tolist() == [2.0, 6.0, 8.5]
    assert x[1, 1].isnan() and labels.tolist() == [0, 1, 0, 1] and splits.classes == ("cat", "dog")
    assert splits.columns == splits.schema.names == ("a", "b") and splits.schema.label == "kind"
    assert splits.train.schema is splits.test.schema is splits.schema
    with_kind = load(tmp_path / "a.csv").schema.columns[1]
    assert with_kind.kind == "category" and with_kind.levels == ("cat", "dog")
    with pytest.raises(
        UsageError, match="no column 'kinds'; did you mean 'kind'.*'a', 'kind', 'b'"
    ):
        load(tmp_path / "a.csv", label="kinds")


def test_csv_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2\n3,4\n")
    splits = load(tmp_path / "a.csv")
    assert sorted([*splits.train.x.tolist(), *splits.test.x.tolist()]) == [[1.0, 2.0], [3.0, 4.0]]
    assert splits.columns == ("column 1", "column 2")
    (tmp_path / "a.csv").write_text("1,x\n3,y\n")
    assert "'column 2' is text" in load(tmp_path / "a.csv").schema.notes[0]
    named = load(tmp_path / "a.csv", label="column 2")
    assert named.classes == ("x", "y") and named.columns == ("column 1",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no data"),
        ("a,b\n", "no data"),
        ("a,b\n1,2\n3\n", "line 3 has 1 cells where there are 2"),
        ("a,b\n1,2\n3,4,5\n", "line 3 has 3 cells"),
        ("a,b\n1,2\n3,foo\n", "column 'b' has 'foo' in data row 2.*kinds="),
        ("a,b\n1,2\n", "at least 2"),
        (b"\xff\xfe\x00,\x9d", "no text in utf-16.*encoding="),
    ],
)
def test_faulty_csv_is_explained(tmp_path: Path, text, said: str) -> None:
    raw = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "a.csv").write_bytes(raw)
    with pytest.raises(UsageError, match=rf"a\.csv.*{said}"):
        load(tmp_path / "a.csv")


def test_integer_labels_in_csv_are_ordered_as_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("label,x\n" + "".join(f"{i},{i}\n" for i in (10, 9, 2, 1)))
    splits = load(tmp_path / "a.csv", label="label")
    assert splits.classes == ("1", "2", "9", "10")
    for part in (splits.train, splits.test):
        assert [splits.classes[i] for i in part.labels] == [f"{v:g}" for v in part.x[:, 0].tolist()]


def test_parquet(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"a": [1, 2, 3], "kind": ["u", "v", "u"], "b": [0.5, None, 1.5]})
    frame.to_parquet(tmp_path / "a.parquet")
    splits = load(tmp_path / "a.parquet", label="kind")
    x = torch.cat([splits.train.x, splits.test.x])
    labels = torch.cat([splits.train.labels, splits.test.labels])
    assert labels[x[:, 0].argsort()].tolist() == [0, 1, 0] and splits.classes == ("u", "v")
    assert x[x[:, 0] == 2, 1].isnan().all() and int(x.isnan().sum()) == 1
    streamed = load(tmp_path / "a.parquet", label="kind", stream=True)
    assert splits.columns == streamed.columns == ("a", "b")
    with pytest.raises(UsageError, match="column 'kind' is not numeric"):
        load(tmp_path / "a.parquet", stream=True)
    assert load(tmp_path / "a.parquet").columns == ("a", "kind", "b")
    with pytest.raises(UsageError, match="no column 'nope'"):
        load(tmp_path / "a.parquet", label="nope")
    frame["kind"] = frame["kind"].astype("category")
    frame.to_parquet(tmp_path / "b.parquet")
    assert load(tmp_path / "b.parquet", label="kind").classes == ("u", "v")


# --- folders of images -------------------------------------------------------------------------


def save_images(folder: Path, x: torch.Tensor, names: list[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    for pixels, name in zip(x.numpy(), names, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(pixels).save(folder / name)


def test_a_flat_folder(tmp_path: Path) -> None:
    x = images(20, shape=(5, 6))
    save_images(tmp_path, x, [f"{i:02d}.png" for i in range(20)])
    (tmp_path / ".hidden.png").write_bytes(b"no image")
    (tmp_path / "notes.txt").write_text("no image")
    splits = load(tmp_path)
    assert splits.classes is None and splits.train.labels is None
    assert splits.train.event_shape == (1, 5, 6) and splits.train.divisor == 255
    assert rows(splits.train.tensors[0]) | rows(splits.test.tensors[0]) == rows(x)
    assert (len(splits.train), len(splits.test)) == (18, 2)


def test_subfolders_are_classes_and_parts(tmp_path: Path) -> None:
    x = images(6, shape=(5, 6, 3))
    names = [f"train/{kind}/{i}.bmp" for kind in ("cat", "dog") for i in range(2)]
    save_images(tmp_path, x, [*names, "test/dog/0.PNG", "test/eel/1.png"])
    splits = load(str(tmp_path))
    assert np.array_equal(splits.train.tensors[0], x[:4].permute(0, 3, 1, 2))
    assert np.array_equal(splits.test.tensors[0], x[4:].permute(0, 3, 1, 2))
    assert splits.classes == ("cat", "dog", "eel")
    assert splits.train.labels.tolist() == [0, 0, 1, 1] and splits.test.labels.tolist() == [1, 2]


def test_narrow_images_keep_their_layout(tmp_path: Path) -> None:
    x = images(4, shape=(3, 4, 3))
    save_images(tmp_path, x, [f"{i}.png" for i in range(4)])
    assert load(tmp_path).train.event_shape == (3, 3, 4)


def test_modes_are_made_simple(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for i in range(3):
        image.new("1", (4, 4), 1).save(tmp_path / f"{i}.png")
    assert torch.all(load(tmp_path).train.x == 1)
    image.new("I;16", (4, 4)).save(tmp_path / "9.png")
    with pytest.raises(UsageError, match=r"9\.png: its mode is I;16"):
        load(tmp_path)


def test_images_of_different_sizes_are_named(tmp_path: Path) -> None:
    save_images(tmp_path, images(2, shape=(5, 6)), ["a/a.png", "a/b.png"])
    save_images(tmp_path, images(1, shape=(5, 7)), ["b/c.png"])
    with pytest.raises(UsageError, match=r"a\.png is 5 x 6, .*c\.png is 5 x 7; .*--resize HxW"):
        load(tmp_path)


def test_damaged_and_missing_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there are no images in"):
        load(tmp_path)
    save_images(tmp_path, images(2, shape=(50, 60)), ["a.png", "b.png"])
    file = tmp_path / "b.png"
    file.write_bytes(file.read_bytes()[:1500])
    with pytest.raises(UsageError, match=r"b\.png cannot be read: .*truncated.*take it away"):
        load(tmp_path)
    file.write_text("no image")
    with pytest.raises(UsageError, match=r"b\.png cannot be read"):
        load(tmp_path)
    file.unlink()
    with pytest.raises(UsageError, match="at least 2"):
        load(tmp_path)


def test_importing_is_light() -> None:
    heavy = {"torchvision", "sklearn", "PIL", "pandas", "pyarrow"}
    # torch alone decides what it brings along; only what the module adds counts.
    code = (
        "import sys, torch.utils.data; before = set(sys.modules)\n"
        f"import importlib.util as u; spec = u.spec_from_file_location('d', {module.__file__!r})\n"
        "d = sys.modules['d'] = u.module_from_spec(spec); spec.loader.exec_module(d)\n"
        f"print(sorted({heavy!r} & (set(sys.modules) - before)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


# --- what is missing, and what holds no numbers -------------------------------------------------


def test_masked_and_nullable_entries_are_missing() -> None:
    import pandas

    masked = np.ma.masked_array([[1, 999], [3, 4]], mask=[[False, True], [False, False]])
    frame = pandas.DataFrame({"a": pandas.array([1, 3], "Int64"), "b": [None, 4.0]})
    nullable = pandas.DataFrame({"a": [1.0, 3.0], "b": pandas.array([None, 4], "Int64")})
    flags = pandas.DataFrame({"a": [1.0, 3.0], "b": pandas.array([None, True], "boolean")})
    for given in (masked, masked.astype(float), frame, nullable, flags):
        x = as_data(given).x
        assert x[:, 0].tolist() == [1.0, 3.0] and x[0, 1].isnan() and x[1, 1] in (1.0, 4.0)
        assert as_data(given).summary().missing == 1
    series = pandas.Series([1, None, 3], dtype="Int64")
    assert as_data(series).x.isnan().tolist() == [False, True, False]
    whole = pandas.DataFrame({"a": pandas.array([1, 2**40], "Int64")})
    assert as_data(whole).integral()[:][0].tolist() == [[1], [2**40]]
    unmasked = np.ma.masked_array([1, 2], mask=False)
    assert as_data(unmasked).tensors[0].dtype == torch.int64


def test_incomplete_data_show_every_entry_that_is_missing() -> None:
    x = torch.zeros(500, 3, 2)
    x[400, 1, 1], x[450, 2, 0], x[2], x[3] = torch.nan, torch.nan, 1.0, 2.0
    x[10:300, 0, 0] = torch.nan
    (found,) = TensorData(x).incomplete()
    assert len(found) == 3 and torch.equal(found.isnan().any(0), x.isnan().any(0))
    assert TensorData(torch.zeros(3)).incomplete() is None
    assert TensorData(torch.zeros(3, dtype=torch.int64)).incomplete() is None
    x, y = TensorData(torch.zeros(4, 2), torch.tensor([0.0, torch.nan, 1.0, 2.0])).incomplete()
    assert len(x) == 1 and y.isnan().all()


def test_what_holds_no_numbers_says_so() -> None:
    import pandas
    from scipy import sparse

    for given, said in (
        ((np.eye(3), sparse.eye(3)), r"sparse.*as the first of a tuple.*toarray\(\) \(72 bytes"),
        (np.array(["ann", "bob"]), "strings such as 'ann', 'bob'.*numpy.unique"),
        (np.array([1.0, None, "a"], object), r"objects \(NoneType, float, str\).*write NaN"),
        (pandas.DataFrame({"a": [1.0], "city": ["Rome"]}), "column 'city' has dtype.*factorize"),
        (pandas.Series(["a"], name="kind"), "column 'kind'"),
        (pandas.DataFrame({"day": pandas.to_datetime(["2026-01-01"])}), "column 'day' .*datetime"),
        (np.array([2**64 - 1], np.uint64), "more than 64 bits"),
        ({}, "no tensor: it is a dict of nothing"),
        ({"x": object()}, "dtype object"),
    ):
        with pytest.raises(UsageError, match=said):
            as_data(given)


# --- uint8: the values tell ---------------------------------------------------------------------


def test_the_values_of_uint8_tell_what_they_are() -> None:
    generator = torch.Generator().manual_seed(0)
    voxels = (torch.rand(50, 8, 8, generator=generator) < 0.3).to(torch.uint8)
    assert as_data(voxels).divisor is None and torch.equal(as_data(voxels).x, voxels.float())
    mask = as_data(voxels * 255)
    assert mask.divisor == 255 and torch.equal(mask.x, voxels.float())
    counts = torch.poisson(torch.full((50, 4, 4), 6.0), generator=generator).to(torch.uint8)
    notes = torch.randint(0, 128, (20, 16, 88), generator=generator, dtype=torch.uint8)
    segments = torch.randint(0, 21, (9, 8, 8), generator=generator, dtype=torch.uint8)
    ignored = torch.where(voxels[:9] > 0, 255, segments)
    for other in (counts, notes, segments, ignored, voxels * 2):
        for given in (other, other.numpy(), (other, torch.zeros(len(other))), {"x": other}):
            with pytest.raises(UsageError, match=r"divisor=255\) for pixels.*x\.float\(\)"):
                as_data(given)
        assert torch.equal(TensorData(other, divisor=255).x, other / 255)
        assert torch.equal(as_data(other.float()).x, other.float())
        assert torch.equal(as_data(other.flatten(1)).x, other.float().flatten(1))


def test_named_images_are_pixels_whatever_their_values(tmp_path: Path) -> None:
    dark = torch.randint(0, 9, (70, 28, 28), dtype=torch.uint8)
    write_mnist(tmp_path / "MNIST" / "raw", dark, dark[:10])
    splits = load("mnist", tmp_path, download=False)
    assert splits.train.divisor == 255 and torch.equal(splits.train.x[:, 0], dark / 255)


def test_uint8_in_files_is_told_by_its_values(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).poisson(6.0, (20, 4, 4)).astype(np.uint8)
    np.save(tmp_path / "x.npy", counts)
    np.savez(tmp_path / "x.npz", x=counts)
    for name in ("x.npy", "x.npz"):
        with pytest.raises(UsageError, match=rf"{name}.*8-bit pixels or other numbers"):
            load(tmp_path / name)
    np.save(tmp_path / "x.npy", counts % 2)
    train = load(tmp_path / "x.npy").train
    assert train.divisor is None and set(train.x.unique().tolist()) == {0.0, 1.0}


# --- integers -----------------------------------------------------------------------------------


def test_integers_are_served_as_stored_where_asked() -> None:
    ids = torch.tensor([[3, 1_700_000_001], [4, 7]])
    data = TensorData(ids, labels=[0, 1])
    assert data.stores_integers and not data.serving.integral
    whole = data.integral()
    assert torch.equal(whole[:][0], ids) and torch.equal(whole.x, ids)
    assert whole.x.dtype == torch.int64 and "integral" in repr(whole)
    for batch in whole.select([1, 0]).to("cpu", torch.float64).batches(2):
        assert torch.equal(batch[0], ids[[1, 0]])
    assert torch.equal(whole.split(1)[1][:][0], whole.split(1)[1].tensors[0])
    for other in (
        TensorData(torch.zeros(2)),
        TensorData(ids > 3),
        TensorData(images(), divisor=255),
        TensorData(ids[:, :1] % 2).binarised("dynamic"),
    ):
        assert not other.stores_integers
        with pytest.raises(UsageError, match="not stored as integers"):
            other.integral()


def test_no_digit_is_lost_in_silence() -> None:
    import pandas

    ids = torch.tensor([[1_700_000_001], [7]])
    data = as_data(ids)
    for ask in (lambda: data.x, lambda: data[0], lambda: next(data.batches(1)), data.summary):
        with pytest.raises(UsageError, match=r"as large as 1700000001, and float32.*16,777,216"):
            ask()
    assert data.to(dtype=torch.float64).x.tolist() == ids.tolist()
    assert as_data(torch.tensor([2**40])).x.item() == 2.0**40  # a power of two keeps its digits
    assert as_data(torch.tensor([-(2**24)])).x.item() == -(2.0**24)
    with pytest.raises(UsageError, match="-16777217"):
        _ = as_data(torch.tensor([-(2**24) - 1])).x
    masked = np.ma.masked_array([2**53 + 1, 1], mask=[False, True])
    nullable = pandas.DataFrame({"id": pandas.array([2**24 + 1, None], "Int64")})
    for given in (masked, nullable, nullable["id"]):
        with pytest.raises(UsageError, match="last digits would be lost in float32"):
            as_data(given)


# --- layouts ------------------------------------------------------------------------------------


def calls(data: TensorData, program) -> list:
    """What a program gets of every batch of two."""
    layout = data.layout.bound(inspect.signature(program))
    return [
        program(*arguments, **named)
        for arguments, named in map(layout.call, data.select([2, 0, 1]).batches(2))
    ]


def test_a_dict_is_keywords_or_one_argument() -> None:
    x, y = torch.arange(6.0).reshape(3, 2), torch.arange(3)
    data = as_data({"y": y, "x": x.numpy()})
    assert torch.equal(data.x, x) and data.layout.names == ("y", "x") and len(data) == 3

    def by_name(x, y, scale=2.0):
        return x, y

    def whole(batch):
        return batch["x"], batch["y"]

    def anything(**batch):
        return batch["x"], batch["y"]

    for program in (by_name, whole, anything):
        (x1, y1), (x2, y2) = calls(data, program)
        assert torch.equal(torch.cat([x1, x2]), x[[2, 0, 1]])
        assert torch.equal(torch.cat([y1, y2]), y[[2, 0, 1]])
    for program in (lambda x: x, lambda x, y, z: x, lambda a, b: a, lambda y: y):
        with pytest.raises(UsageError, match="dict of 'y', 'x', and the program takes"):
            calls(data, program)


def test_a_tree_keeps_its_shape() -> None:
    x, y, z = torch.randn(3, 2), torch.arange(3), torch.randn(3)
    for given in ((x, {"y": y, "z": [z, z]}), [x, (y, [z, z])], ({"z": z, "x": x}, z)):
        data = as_data(given)
        ((first, second),) = [
            data.layout.call(batch)[0] for batch in data.batches(3)
        ]  # a list at the top is a tuple of arguments
        assert str((first, second)) == str(tuple(given))
    assert as_data((x, y)).layout is None and as_data([x, y]).layout is None
    assert as_data((x, [1, 2, 3])).tensors[1].tolist() == [1, 2, 3]
    assert as_data({"x": [[1.0, 2.0]]}).event_shape == (2,)
    with pytest.raises(UsageError, match="first axis"):
        as_data({"x": x, "y": y[:2]})


class Dicts(Dataset):
    """Items {"y", "x"}, as data sets of text have."""

    def __len__(self) -> int:
        return 300

    def __getitem__(self, index: int):
        return {"y": index % 10, "x": torch.full((2,), float(index)), "m": np.ones(3) * index}


def test_a_dataset_of_dicts_becomes_tensors() -> None:
    data = as_data(Dicts())
    assert isinstance(data, TensorData) and data.layout.names == ("y", "x", "m")
    ((batch,), _) = data.layout.call(data[:])
    assert batch["y"].tolist() == [i % 10 for i in range(300)]
    assert batch["x"][:, 1].tolist() == list(range(300)) and batch["m"].dtype == torch.float32
    assert data.with_arguments(batch["y"]).layout is None


class Vast:
    """Says that it is longer than memory."""

    def __len__(self) -> int:
        return 10**15

    def __getitem__(self, index: int) -> float:
        return 1.0


VAST = {
    "broadcast": lambda: np.broadcast_to(np.ones((1, 6), np.float32), (10**12, 6)),
    "wide": lambda: np.broadcast_to(np.ones((3, 1), np.float32), (3, 10**12)),
    "expanded": lambda: torch.ones(1, 6).expand(10**12, 6),
    "a length": Vast,
}


@pytest.mark.parametrize("name", VAST)
def test_few_numbers_that_claim_to_be_many_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="memory does not hold"):
        as_data(VAST[name]())
