"""Odd data, settings and words for ``fit`` and the command line: trained well, or refused in words.

Hypothesis draws the cases, the same ones in every run; whatever failed once stays as an example.
"""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_trust import within
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import pyrovae as pv
from pyrovae import cli
from pyrovae.callbacks import Callback, EarlyStopping, TimeLimit

SECONDS = 20  # of one example, on a busy machine
REPEATED = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

# --- data --------------------------------------------------------------------------------------

NUMPY = (
    *("f2", "f4", "f8", "g", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", ">f4", ">i2"),
    *("c8", "O", "U3", "S3", "M8[s]", "m8[s]", "V4", "a:f4,b:i4"),
)
TORCH = (
    *("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8"),
    *("uint16", "uint32", "uint64", "bool", "complex64", "float8_e4m3fn"),
)
FILLS = (
    *("binary", "normal", "counts", "zeros", "ones", "some nan", "all nan", "inf", "huge"),
    *("denormal", "negative", "one nan row"),
)
LAYOUTS = (
    *("plain", "transposed", "reversed", "strided", "expanded", "read-only", "requires grad"),
    *("sparse", "csr", "meta", "masked", "memmap", "frame", "list", "parameter", "conjugate"),
    *("dataset", "loader", "tuple"),
)


def filled(fill: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(0)
    binary = (rng.random(shape) < 0.4).astype(float)
    x: Any = {
        "binary": binary,
        "normal": rng.normal(size=shape),
        "counts": rng.poisson(2.0, shape).astype(float),
        "zeros": np.zeros(shape),
        "ones": np.ones(shape),
        "some nan": np.where(rng.random(shape) < 0.3, np.nan, binary),
        "all nan": np.full(shape, np.nan),
        "inf": np.where(rng.random(shape) < 0.3, np.inf, binary),
        "huge": 1e30 * (1 + binary),
        "denormal": 1e-310 * binary + 1e-40 * rng.random(shape),
        "negative": -1 - binary,
        "one nan row": binary.copy(),
    }[fill]
    x = np.asarray(x, float)
    if fill == "one nan row" and x.ndim and len(x):
        x[0] = np.nan
    return x


@dataclass(frozen=True)
class X:
    """How data are made."""

    kind: str = "f4"
    shape: tuple[int, ...] = (6, 4)
    fill: str = "binary"
    layout: str = "plain"

    def array(self) -> np.ndarray:
        x = filled(self.fill, self.shape)
        if self.kind in TORCH:
            return x
        names = [tuple(part.split(":")) for part in self.kind.split(",")]
        kind: Any = names if ":" in self.kind else self.kind
        with np.errstate(all="ignore"):
            if self.kind[0] in "mM":
                return np.nan_to_num(x).astype("i8").astype(kind)
            if self.kind.startswith("V"):
                return np.zeros(self.shape, kind)
            return x.astype(kind)

    def make(self, folder: Path) -> Any:
        x = self.array()
        if self.kind in TORCH:
            made = torch.from_numpy(np.asarray(np.nan_to_num(x) if "int" in self.kind else x))
            return self.arranged(made.to(getattr(torch, self.kind)))
        if self.layout == "transposed":
            return np.asfortranarray(x)
        if self.layout == "reversed":
            return x[::-1] if x.ndim else x
        if self.layout == "strided":
            return np.repeat(x, 2, axis=0)[::2] if x.ndim else x
        if self.layout == "expanded":
            return np.broadcast_to(x[:1], x.shape) if x.ndim and len(x) else x
        if self.layout == "read-only":
            x.flags.writeable = False
            return x
        if self.layout == "masked":
            return np.ma.masked_array(x, mask=filled("binary", self.shape) > 0)
        if self.layout == "memmap" and x.size and x.dtype != object:
            file = np.memmap(folder / "x.bin", x.dtype, "w+", shape=x.shape)
            file[...] = x
            return np.memmap(folder / "x.bin", x.dtype, "r", shape=x.shape)
        if self.layout == "frame":
            table = x.reshape(len(x), -1) if x.ndim > 1 and x.size else x.ravel()
            return pd.DataFrame(table if x.dtype.kind != "V" else table.ravel())
        if self.layout == "list":
            return x.tolist()
        if self.layout == "tuple":
            return (x, x)
        return x

    def arranged(self, x: Tensor) -> Any:
        if self.layout == "transposed":
            return x.mT.contiguous().mT if x.ndim > 1 else x
        if self.layout == "strided":
            return x.repeat_interleave(2, 0)[::2] if x.ndim else x
        if self.layout == "expanded":
            return x[:1].expand(x.shape) if x.ndim and len(x) else x
        if self.layout == "requires grad":
            return x.requires_grad_() if x.is_floating_point() or x.is_complex() else x
        if self.layout == "parameter":
            return nn.Parameter(x, requires_grad=x.is_floating_point() or x.is_complex())
        if self.layout == "sparse":
            return x.to_sparse() if self.kind == "float32" else x
        if self.layout == "csr":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return x.to_sparse_csr() if self.kind == "float32" and x.ndim == 2 else x
        if self.layout == "meta":
            return x.to("meta")
        if self.layout == "conjugate":
            return x.conj()
        if self.layout == "list":
            return list(x) if x.ndim else [x]
        if self.layout == "tuple":
            return (x, x)
        if self.layout == "dataset" and x.ndim:
            return Items(list(x))
        if self.layout == "loader" and x.ndim and len(x):
            return DataLoader(TensorDataset(x), batch_size=4)
        return x

    @property
    def event(self) -> tuple[int, ...]:
        """The shape of one datum, where a VAE may have it."""
        event = self.shape[1:]
        if self.layout == "frame":
            event = (math.prod(event),) if event else (1,)
        return event if event and min(event) else (4,)


class Items(Dataset[Any]):
    """A Dataset of a list."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        return self.items[i]


class NoLength(Dataset[Any]):
    def __getitem__(self, i: int) -> Tensor:
        return torch.zeros(4)


class Lies(Items):
    """A Dataset that is shorter than it says."""

    def __len__(self) -> int:
        return 100


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Tensor]:
        yield from torch.zeros(6, 4)


def good(n: int = 6) -> Tensor:
    return torch.from_numpy(filled("binary", (n, 4))).float()


def loader(items: list[Any], **options: Any) -> DataLoader[Any]:
    return DataLoader(Items(items), **{"batch_size": 2, **options})


ODD: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "true": lambda: True,
    "int": lambda: 3,
    "nan": lambda: math.nan,
    "str": lambda: "mnist",
    "long str": lambda: "x" * 100_000,
    "path": lambda: Path("x.npy"),
    "bytes": lambda: b"\x00\x01",
    "dict": lambda: {"x": good()},
    "set": lambda: {1, 2},
    "range": lambda: range(12),
    "generator": lambda: (row for row in good()),
    "function": lambda: good,
    "class": lambda: Items,
    "object": object,
    "module": lambda: nn.Linear(2, 2),
    "empty list": list,
    "empty tuple": tuple,
    "ragged": lambda: [[1.0, 2.0], [1.0]],
    "ragged arrays": lambda: [np.zeros(3), np.zeros(4)],
    "ragged tensors": lambda: [torch.zeros(3), torch.zeros(4)],
    "nested": lambda: [[[[1.0]]], [[[0.0]]]],
    "list of none": lambda: [None, None],
    "list of str": lambda: ["a", "b"],
    "list of dict": lambda: [{}, {}],
    "big ints": lambda: [[10**30, 1], [1, 1]],
    "unequal": lambda: (good(6), good(5)),
    "with labels": lambda: (good(6), np.arange(6)),
    "with str": lambda: (good(6), ["a"] * 6),
    "with none": lambda: (good(6), None),
    "numpy scalar": lambda: np.float32(1.0),
    "scalar": lambda: torch.tensor(1.0),
    "wide": lambda: torch.zeros(6, 4, 1, 1, 1, 1, 1, 1, 1),
    "frame of words": lambda: pd.DataFrame({"a": ["x", "y"], "b": [1, 2]}),
    "frame with none": lambda: pd.DataFrame({"a": [1.0, None, 2.0], "b": [1, 2, 3]}),
    "empty frame": pd.DataFrame,
    "nullable frame": lambda: pd.DataFrame({"a": [1, None, 0]}, dtype="Int64"),
    "series": lambda: pd.Series([0.0, 1.0, 1.0]),
    "categories": lambda: pd.Series(["a", "b"], dtype="category"),
    "matrix": lambda: np.asmatrix(np.zeros((6, 4))),
    "masked": lambda: np.ma.masked_invalid(np.array([[1.0, np.nan], [0.0, 1.0]])),
    "tensor data": lambda: pv.data.TensorData(good()),
    "tensor dataset": lambda: TensorDataset(good()),
    "empty dataset": lambda: Items([]),
    "dataset of tensors": lambda: Items(list(good())),
    "dataset of arrays": lambda: Items([np.zeros(4, np.float32)] * 6),
    "dataset of floats": lambda: Items([1.0, 0.0, 1.0]),
    "dataset of pairs": lambda: Items([(row, i) for i, row in enumerate(good())]),
    "dataset of ragged": lambda: Items([torch.zeros(3), torch.zeros(4)]),
    "dataset of unequal tuples": lambda: Items([(torch.zeros(4),), (torch.zeros(4), 1)]),
    "dataset of str": lambda: Items(["a", "b"]),
    "dataset of dicts": lambda: Items([{"x": torch.zeros(4)}] * 6),
    "dataset of none": lambda: Items([None] * 6),
    "dataset of empty tuples": lambda: Items([()] * 6),
    "dataset of empty": lambda: Items([torch.zeros(0)] * 6),
    "dataset that turns": lambda: Items([torch.zeros(4), "a", None]),
    "dataset that lies": lambda: Lies(list(good())),
    "dataset without length": NoLength,
    "iterable": Stream,
    "loader": lambda: loader(list(good())),
    "empty loader": lambda: loader([]),
    "loader of pairs": lambda: loader([(row, i) for i, row in enumerate(good())]),
    "loader of str": lambda: loader(["a"] * 6),
    "loader of dicts": lambda: loader([{"x": torch.zeros(4)}] * 6),
    "loader of ragged": lambda: loader([torch.zeros(4), torch.zeros(3)]),
    "loader that turns": lambda: loader([*torch.zeros(4, 4), *torch.zeros(2, 3)]),
    "loader of scalars": lambda: loader([1.0, 0.0, 1.0]),
    "loader of 0-d": lambda: loader(list(torch.zeros(6)), batch_size=None),
    "loader of nan": lambda: loader(list(torch.full((6, 4), math.nan))),
    "loader of inf": lambda: loader(list(torch.full((6, 4), math.inf))),
    "loader of complex": lambda: loader(list(torch.zeros(6, 4, dtype=torch.complex64))),
    "loader of sparse": lambda: loader([torch.zeros(4).to_sparse()] * 6, collate_fn=lambda b: b[0]),
    "loader of lists": lambda: loader(list(good()), collate_fn=lambda b: [1, 2]),
    "loader of nothing": lambda: loader(list(good()), collate_fn=lambda b: ()),
    "loader of none": lambda: loader(list(good()), collate_fn=lambda b: None),
    "loader that lies": lambda: DataLoader(Lies(list(good())), batch_size=4),
    "loader without batches": lambda: DataLoader(Items(list(good())), batch_size=None),
    "loader that drops all": lambda: loader(list(good()), batch_size=64, drop_last=True),
    "loader without length": lambda: DataLoader(Stream(), batch_size=2),
    "loader of bytes": lambda: loader(list(torch.zeros(6, 1, 2, 2, dtype=torch.uint8))),
    "shuffling loader": lambda: loader(list(good()), shuffle=True),
    "quantized": lambda: torch.quantize_per_tensor(good(), 0.1, 0, torch.quint8),
    "nested tensor": lambda: torch.nested.nested_tensor([torch.zeros(3), torch.zeros(4)]),
}

# --- settings ----------------------------------------------------------------------------------

LONG = "a" * 20_000
NUMBERS: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, -0.5, math.nan, math.inf, -math.inf, 10**30, -(10**30)),
    *(
        10**400,
        2**63,
        "3",
        "",
        LONG,
        b"1",
        [2],
        (1, 2),
        {},
        1j,
        torch,
        np.int64(2),
        np.float32(0.5),
    ),
    *(np.array([1, 2]), np.nan, np.bool_(True), torch.tensor(2), np.zeros((100, 100))),
)


def sgd(parameters: list[Tensor], lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr)


def lbfgs(parameters: list[Tensor], lr: float) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(parameters, lr=lr)


@cache
def made() -> dict[str, Any]:
    """Values that many examples share and none changes."""
    return {
        "cosine": pv.schedules.Cosine(warmup=1),
        "linear": pv.schedules.Linear(),
    }


def quiet(history: pv.History) -> None:
    return None


def says_stop(history: pv.History) -> str:
    return "enough"


VALID: dict[str, tuple[Any, ...]] = {
    "epochs": (1, 2, 3),
    "batch_size": (1, 2, 3, 4),
    "lr": (1e-3, 1e-2, 1, 0.5),
    "seed": (0, 1, 2**32, 2**63 - 1),
    "accumulate": (1, 2),
    "clip_norm": (None, 1.0, 5),
    "ema": (None, 0.5, 0.99),
    "validation": (None, 0, 0.25, 2, 1),
    "keep_best": (False, True),
    "rollbacks": (0, 1, 3),
    "checkpoint_every": (None, 1, 2, 10**30),
    "compile": (False, False, False, "auto"),
    "precision": ("float32", "bf16"),
    "device": ("cpu", torch.device("cpu")),
    "loss": (
        *(None, pyro.infer.Trace_ELBO, pyro.infer.TraceMeanField_ELBO, pyro.infer.TraceEnum_ELBO),
        *(pyro.infer.TraceGraph_ELBO, pyro.infer.RenyiELBO, pv.objectives.BetaELBO),
        *(pv.objectives.IWAE, pv.objectives.TotalCorrelation),
    ),
    "lr_schedule": (None, "cosine", "linear"),
    "optimizer": (None, sgd),
    "out": (None, "run", Path("a/b")),
    "force": (False, True),
    "resume": (False,),
    "progress": (False,),
    "callbacks": ((), [quiet], [says_stop], [EarlyStopping(1)], [TimeLimit(1e-9)], [Callback()]),
}
WRONG: dict[str, tuple[Any, ...]] = dict.fromkeys(VALID, NUMBERS) | {
    "epochs": tuple(v for v in NUMBERS if v is not None and not (isinstance(v, int) and v > 10)),
    "loss": (3, "trace", pyro.infer.Trace_ELBO.loss, len, object(), nn.MSELoss, LONG, []),
    "lr_schedule": (*NUMBERS, "cosine!", pv.schedules.Cosine, len, lambda epoch: 1.0),
    "optimizer": (
        *NUMBERS, "adam", torch.optim.Adam, torch.optim.SGD, lbfgs, lambda p, lr: None, len,
        lambda p, lr: 3, lambda: sgd, lambda p, lr: torch.optim.SGD(p, lr=-1.0), object(),
    ),
    "out": (*NUMBERS, "file", ".", "..", "nul\0", "~no-such-user/x", "file/x", "\ud800", "/proc/x"),
    "resume": (*NUMBERS, True),
    "callbacks": (
        *NUMBERS, [None], [3], "abc", [EarlyStopping], len, [[len]], [EarlyStopping(1, "nothing")],
        {len}, [lambda history: np.bool_(True)], [pv.callbacks.TensorBoard()],
    ),
    "device": (*NUMBERS, "cpu:7", "meta", "tpu", "cuda:99", LONG, "cpu\n", torch.device("meta")),
    "compile": (*NUMBERS, "yes", "true"),
    "precision": (*NUMBERS, "float64", torch.bfloat16, "FLOAT32"),
    "validation": (
        *NUMBERS, "same", "other shape", "odd", "empty", "labels", 6, 5, 0.01, 0.99, [0.1],
    ),
}  # fmt: skip
OTHERS = {
    "same": good,
    "other shape": lambda: torch.zeros(3, 7),
    "odd": lambda: torch.full((3, 4), 0.3),
    "empty": lambda: torch.zeros(0, 4),
    "labels": lambda: (good(), torch.zeros(6)),
}

# --- pairs -------------------------------------------------------------------------------------


def small() -> pv.networks.MLP:
    return pv.networks.MLP([3])


LIKELIHOODS: dict[str, Callable[[], Any]] = {
    "Bernoulli": lambda: pv.likelihoods.Bernoulli(small()),
    "Normal": lambda: pv.likelihoods.Normal(small()),
    "Optimal": lambda: pv.likelihoods.Normal(small(), scale="optimal"),
    "Poisson": lambda: pv.likelihoods.Poisson(small()),
    "Categorical": lambda: pv.likelihoods.Categorical(3, small()),
}


def functions() -> pv.Pair:
    def model(x: Tensor) -> None:
        weight = pyro.param("weight", torch.zeros(2, 4))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ weight, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc + x[..., :2], 1.0).to_event(1))

    return pv.Pair(model, guide)


ODD_PAIRS: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "number": lambda: 3,
    "class": lambda: pv.VAE,
    "one": lambda: (functions().model,),
    "module": lambda: nn.Linear(4, 2),
    "tuple of none": lambda: (None, None),
    "no arguments": lambda: (lambda: None, lambda: None),
    "no sites": lambda: pv.Pair(lambda x: None, lambda x: None),
}


def pair_for(name: str, event: tuple[int, ...]) -> Any:
    if name in ODD_PAIRS:
        return ODD_PAIRS[name]()
    torch.manual_seed(0)
    if name == "functions":
        return functions()
    return pv.VAE(event, 2, likelihood=LIKELIHOODS[name](), guide=pv.guides.MeanField(small()))


# --- what must hold ----------------------------------------------------------------------------

KEYS = ["epoch", "step", "seconds", "images_per_second", "lr", "loss"]
TERMS = ["elbo", "reconstruction", "kl"]
OWN_WARNINGS = re.compile(
    "no reconstruction and KL while training|the log probabilities do not depend on|"
    "no checkpoint at step|the step is not compiled|"
    "TraceEnum_ELBO found no sample sites configured for enumeration"  # Pyro's, and right
)


def around() -> dict[str, Any]:
    """What a call of fit leaves as it was."""
    store = pyro.get_param_store().get_state()
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": repr(np.random.get_state()),
        "python": random.getstate(),
        "store": {name: id(value) for name, value in store["params"].items()},
        "pyro": pyro.settings.get(),
        "dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "threads": torch.get_num_threads(),
        "signals": [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)],
        "errors": np.geterr(),
        "device": torch.get_default_device(),
    }


def in_words(error: BaseException) -> None:
    """One paragraph that tells what happened, and no more."""
    words = str(error)
    assert 20 <= len(words) <= 1500, f"{len(words)} characters: {words[:300]!r}"
    assert "\n" not in words, words
    assert words.isprintable(), repr(words)
    assert "Traceback" not in words and 'File "' not in words, words
    assert not re.search(r"tensor\([^)]{200}", words), words


def tensors_of(pair: Any) -> list[Tensor]:
    return [t for t in pv.traces.as_pair(pair).tensors().values() if t.is_floating_point()]


@dataclass
class Case:
    """One call of fit."""

    x: X | str = X()
    pair: str = "Bernoulli"
    given: dict[str, Any] = field(default_factory=dict)

    def values(self) -> dict[str, Any]:
        """The settings; those that are named, made."""
        done = {"epochs": 1, "batch_size": 3, "device": "cpu", "compile": False, "progress": False}
        done |= self.given
        if isinstance(done.get("loss"), type) and issubclass(done["loss"], pyro.infer.ELBO):
            done["loss"] = done["loss"]()
        if isinstance(done.get("lr_schedule"), str):
            done["lr_schedule"] = made().get(done["lr_schedule"], done["lr_schedule"])
        if isinstance(done.get("validation"), str):
            done["validation"] = OTHERS.get(done["validation"], lambda: done["validation"])()
        return done


trained: list[bool] = []


@pytest.fixture(scope="module", autouse=True)
def _many_of_the_cases_train() -> Iterator[None]:
    yield
    assert len(trained) < 300 or sum(trained) > 0.3 * len(trained)


def check_fit(case: Case, folder: Path) -> None:
    trained.append(trains(case, folder))


def trains(case: Case, folder: Path) -> bool:
    """Whether it trains well; a refusal in words is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = ODD[case.x]() if isinstance(case.x, str) else case.x.make(folder)
        pair = pair_for(case.pair, case.x.event if isinstance(case.x, X) else (4,))
    values = case.values()
    before = around()
    history = refused = None
    with warnings.catch_warnings(record=True) as caught, within(SECONDS):
        warnings.simplefilter("always")
        try:
            history = pv.fit(pair, x, **values)
        except (pv.UsageError, pv.training.Diverged, pv.training.OutOfMemory) as error:
            refused = error
    after = around()
    assert {k for k in before if before[k] != after[k]} == set()
    foreign = [str(w.message) for w in caught if not OWN_WARNINGS.search(str(w.message))]
    assert not foreign, foreign
    if refused is not None:
        in_words(refused)
        if case.pair not in ODD_PAIRS:
            event = getattr(pair, "event_shape", (4,))
            with within(SECONDS):
                again = pv.fit(
                    pair, torch.ones(4, *event), batch_size=2, epochs=1, compile=False,
                    progress=False, device="cpu",
                )  # fmt: skip
            assert len(again.rows) == 1
    if history is not None:
        assert isinstance(history, pv.History)
        assert len(history.rows) == values["epochs"] or history.stopped
        for i, row in enumerate(history.rows):
            keys = [*KEYS, *TERMS * ("elbo" in row)]
            keys += [f"validation_{name}" for name in TERMS * ("validation_elbo" in row)]
            assert list(row) == keys and row["epoch"] == i + 1
            assert all(isinstance(value, int | float) for value in row.values()), row
            assert math.isfinite(row["loss"])
    if case.pair not in ODD_PAIRS:
        assert all(bool(t.isfinite().all()) for t in tensors_of(pair))
    return history is not None


# --- cases -------------------------------------------------------------------------------------

EVENTS = [(6, 4), (7, 2, 3), (6, 1, 2, 2), (3, 1), (2, 2)]


@st.composite
def odd_arrays(draw: st.DrawFn) -> X:
    sizes = st.lists(st.integers(0, 6), min_size=0, max_size=4).map(tuple)
    plain = X("f4", draw(st.sampled_from(EVENTS)))
    odd = X(
        draw(st.sampled_from(NUMPY + TORCH)),
        draw(st.one_of(st.sampled_from(EVENTS), sizes)),
        draw(st.sampled_from(FILLS)),
        draw(st.sampled_from(LAYOUTS)),
    )
    kept = draw(st.sets(st.sampled_from(["kind", "shape", "fill", "layout"]), max_size=3))
    return replace(odd, **{name: getattr(plain, name) for name in kept})


@st.composite
def plain_arrays(draw: st.DrawFn) -> X:
    kinds = ["f4", "f8", "float32", "float64", "uint8", "?", "int64"]
    return X(draw(st.sampled_from(kinds)), draw(st.sampled_from(EVENTS)))


@st.composite
def chosen(draw: st.DrawFn, table: dict[str, tuple[Any, ...]], most: int) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(sorted(table)), max_size=most, unique=True))
    return {name: draw(st.sampled_from(table[name])) for name in names}


@st.composite
def cases(draw: st.DrawFn) -> Case:
    how = draw(
        st.sampled_from(
            ["data", "data", "odd data", "settings", "valid", "valid", "valid", "both", "pair"]
        )
    )
    pair = draw(st.sampled_from(["Bernoulli", "Normal", *LIKELIHOODS, "functions"]))
    x: X | str = draw(odd_arrays() if how in ("data", "both") else plain_arrays())
    if how == "odd data":
        x = draw(st.sampled_from(sorted(ODD)))
    if how == "pair":
        pair = draw(st.sampled_from(sorted(ODD_PAIRS)))
    given = draw(chosen(VALID, 5))
    if how in ("settings", "both"):
        given |= draw(chosen(WRONG, 2))
    return Case(x, pair, given)


# --- the command line --------------------------------------------------------------------------

TINY = {
    "--epochs": "1", "--batch-size": "8", "--latent-dim": "2", "--num-particles": "2",
    "--likelihood.network.hidden": "[3]", "--guide.network.hidden": "[3]", "--device": "cpu",
    "--compile": "false",
}  # fmt: skip
# a value that would train for hours is drawn from those that end at once
HUGE = ("1" + "0" * 15, "9" * 400, "-9223372036854775809")
WORDS = (
    *("", " ", "-1", "0", "1", "2", "3.5", "1e3", "nan", "inf", "-inf", "true", "false", "null"),
    *("none", "auto", "[]", "[1,2]", "{}", "[", "{a: 1}", "&a [*a]", "!!python/name:os.system"),
    *("-", "--", "-x", "--epochs", "nul\0", "\ud800", "é\u202e", "\x1b[2J", "x" * 5000, "..", "."),
    *("/", "~", "~no-such-user", "missing/x.npy", "x.npy", "folder", "'", '"', "a b", "$HOME", "*"),
    *("Normal", "MLP", "os.system", "0x10", "1_0", "\uff11", "1:30", "2001-01-01", "=", "[[1]]"),
)
DATA = (
    *("x.npy", "x.npy", "x.npy", "x.csv", "grey.npy", "counts.npy", "wide.npz", "labels.npz"),
    *("nan.npy", "inf.npy", "one.npy", "none.npy", "scalar.npy", "words.npy", "object.npy"),
    *("complex.npy", "bad.npy", "bad.npz", "empty.npy", "words.csv", "ragged.csv", "empty.csv"),
    *("header.csv", "labels.csv", "folder", "names.npz", "images.npy", "flat.npy", "config.yaml"),
    *("bytes.csv", "x.pt", "dict.pt", "bad.pt", "list.pt", "unequal.npz", "x.txt", "x.parquet"),
)
CONFIGS = {
    "good.yaml": "epochs: 1\nlr: 0.01\n",
    "parts.yaml": "likelihood:\n  class_path: Normal\n  init_args: {scale: network}\n",
    "empty.yaml": "",
    "list.yaml": "- 1\n",
    "number.yaml": "3\n",
    "unknown.yaml": "epohcs: 1\n",
    "typed.yaml": "epochs: [1]\nlr: x\n",
    "null.yaml": "epochs: null\nlr: null\nlikelihood: null\n",
    "keys.yaml": "1: 2\nnull: 3\n",
    "force.yaml": "force: true\n",
    "nested.yaml": "likelihood: {class_path: Normal, init_args: {network: {class_path: 3}}}\n",
    "deep.yaml": "[" * 3000,
    "tags.yaml": "data: !!python/object/apply:os.mkdir [made]\n",
    "aliases.yaml": "a: &a [1]\nb: *a\n",
    "bad.yaml": "a: [b, {c: d]\n",
    "text.yaml": "\x00\x01",
    "odd.yaml": "likelihood: 3\nguide: [1]\nprior: {a: 1}\nloss: {}\n",
    "out.yaml": "out: ../elsewhere\n",
    "multi.yaml": "--- 1\n--- 2\n",
    "huge.yaml": "seed: " + "9" * 400 + "\n",
    "bool.yaml": "quiet: 3\nkeep_best: yes please\n",
}
CLASSES = {
    "--likelihood": ("Bernoulli", "Normal", "Poisson", "Categorical", "Mixed", "Laplace", "normal"),
    "--likelihood.scale": ("network", "optimal", "0.5", "-1", "nan", "per_dimension", "[1]"),
    "--likelihood.classes": ("3", "0", "-1", "x", *HUGE),
    "--likelihood.columns": ("[Normal]", "[Normal, Bernoulli, Normal, Normal]", "[]", "3", "[3]"),
    "--likelihood.network": ("MLP", "ConvNet", "ResNet", "ResNt", "None", "3"),
    "--likelihood.network.hidden": (
        "[3]",
        "[]",
        "[0]",
        "[-1]",
        "3",
        "x",
        "[1000000000000]",
        "[1.5]",
    ),
    "--likelihood.network.hidden.x": ("1",),
    "--guide": ("MeanField", "FullRank", "Flow", "OneHot", "Foo", "pyrovae.guides.MeanField"),
    "--guide.network.hidden": ("[3]", "[]", "[x]", "[[3]]", "null"),
    "--guide.transforms": ("1", "0", "-1"),
    "--prior": (
        "StandardNormal",
        "Mixture",
        "VampPrior",
        "Sphere",
        "subprocess.Popen",
        "Conditional",
    ),
    "--prior.components": ("2", "0", "-3", "1000000000000000"),
    "--loss": ("trace", "analytic", "IWAE", "BetaELBO", "Foo", "3"),
    "--loss.beta": ("1", "-1", "nan", "x"),
    "--loss.num_particles": ("2", "0", "1000000000000000"),
    "--lr-schedule": ("constant", "Cosine", "Linear", "x"),
    "--lr-schedule.warmup": ("1", "-1", "x", "1e400"),
    "--.x": ("1",),
    "--likelihood.": ("1",),
    "--prior..x": ("1",),
}
BOUNDED: dict[str, tuple[str, ...]] = {
    "--epochs": ("1", "2", "0", "-1", "1.5", "x", ""),
    "--batch-size": ("1", "8", "30", "0", "-2", "x", *HUGE),
    "--latent-dim": ("1", "3", "0", "-1", "x", *HUGE),
    "--num-particles": ("1", "3", "0", "-1", "x", "9" * 400),
    "--data": DATA,
    "--config": (*CONFIGS, "missing.yaml", "folder", "x.npy"),
    "--validation": ("0", "0.1", "0.5", "2", "-1", "nan", "inf", "1e300", "x", "1"),
    "--binarise": ("none", "dynamic", "static", "threshold", "auto", "x", ""),
    "--accumulate": ("1", "2", "0", *HUGE),
    "--max-seconds": ("0.01", "0", "-1", "nan", "100"),
    "--patience": ("1", "0", "x"),
    "--rollbacks": ("0", "2", *HUGE),
    "--lr": ("0.1", "0", "1e30", "nan", "-1", "1e400", "x"),
    "--stream": ("auto", "true", "false", "x"),
    "--label": ("y", "a", "missing", ""),
    "--seed": ("0", "5", "-1", *HUGE),
    "--device": ("cpu", "meta", "cuda:77", "tpu", ""),
    "--precision": ("float32", "bf16", "x"),
    "--compile": ("false", "x", ""),
    "--out": (
        "run",
        "a/b/c",
        "made",
        "x.npy",
        "",
        "x.npy/a",
        "~no-such-user/x",
        "nul\0",
        "y" * 400,
    ),
    "--data-dir": ("folder", "missing", ""),
}
FREE = [flag for flag in BOUNDED if flag not in ("--epochs", "--num-particles")] + ["--foo"]
TRAINS = ["fit", *(word for pair in TINY.items() for word in pair), "--data", "x.npy"]
SWITCHES = ("--keep-best", "--force", "--resume", "--quiet", "--json", "--debug=1", "--help", "-h")
READ: dict[str, dict[str, tuple[str, ...]]] = {
    "evaluate": {
        "--num-particles": ("1", "3", "0", "-1", "x", "9" * 400),
        "--data": DATA, "--binarise": BOUNDED["--binarise"], "--json": (),
    },
    "sample": {
        "--n": ("1", "5", "0", "-1", "x", *HUGE), "--mean": ("true", "false", "x"),
        "--density": ("prior", "mixture", "x"), "--out": ("s.npy", "s.png", "s.txt", "folder", ""),
    },
    "reconstruct": {
        "--n": ("1", "3", "0", "x", *HUGE), "--draws": ("0", "2", "-1", "x", *HUGE), "--data": DATA,
        "--out": ("s.npy", "s.png", "missing/s.npy", "x.npy/s.npy", ".npy", "nul\0.npy"),
    },
    "interpolate": {
        "--start": ("0", "1", "-1", "99", "x", *HUGE), "--end": ("0", "1", "x", *HUGE),
        "--steps": ("2", "3", "1", "0", "x", *HUGE), "--method": ("linear", "spherical", "x"),
        "--out": ("s.npy", "s.png"),
    },
    "traverse": {
        "--index": ("0", "1", "-1", "x", *HUGE), "--dims": ("[0]", "[]", "[9]", "[-1]", "0", "x"),
        "--steps": ("1", "3", "0", "x", *HUGE), "--span": ("1", "0", "-1", "nan", "inf", "1e300"),
        "--out": ("s.npy", "s.png"),
    },
    "info": {"--data": DATA, "--label": ("y", "missing"), "--data-dir": ("folder", "")},
}  # fmt: skip
RUNS = ("made", "made", "made", "made", "made/model.safetensors", "missing", "folder", "x.npy", "")


def write_data(folder: Path) -> None:
    """Small files, sound and not."""
    x = filled("binary", (30, 4)).astype("f4")
    arrays: dict[str, Any] = {
        "x": x, "grey": np.linspace(0, 1, 120, dtype="f4").reshape(30, 4),
        "counts": filled("counts", (30, 4)), "nan": filled("some nan", (30, 4)),
        "inf": filled("inf", (30, 4)), "one": x[:1], "none": x[:0], "scalar": np.float32(1),
        "words": np.array(["a", "b"] * 15), "complex": x.astype("c8"), "flat": x[:, 0],
        "images": (255 * filled("binary", (30, 6, 6))).astype("u1"),
    }  # fmt: skip
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    np.save(folder / "object.npy", np.array([{}, 1], object), allow_pickle=True)
    np.savez(folder / "wide.npz", x=x)
    np.savez(folder / "labels.npz", x_train=x, x_test=x[:5], y_train=x[:, 0], y_test=x[:5, 0])
    np.savez(folder / "names.npz", a=x, b=x)
    np.savez(folder / "unequal.npz", x=x, y=np.zeros(3))
    torch.save(torch.from_numpy(x), folder / "x.pt")
    torch.save({"x": torch.from_numpy(x)}, folder / "dict.pt")
    torch.save([1, "a", None], folder / "list.pt")
    lines = [",".join(map(str, row)) for row in x]
    texts = {
        "x.csv": "\n".join(["a,b,c,d", *lines]), "labels.csv": "\n".join(["a,b,c,y", *lines]),
        "words.csv": "a,b\nx,y\n", "ragged.csv": "1,2\n1\n", "header.csv": "a,b\n",
        "x.txt": "1", **CONFIGS, "config.yaml": "data: x.npy\n",
    }  # fmt: skip
    for name, text in texts.items():
        (folder / name).write_text(text)
    for name in ("bad.npy", "bad.npz", "bad.pt", "bytes.csv", "x.parquet"):
        (folder / name).write_bytes(b"\x93NUMPY\xff\x00\xfe" * 9)
    for name in ("empty.npy", "empty.csv"):
        (folder / name).touch()
    (folder / "folder").mkdir()


def run_command(argv: list[str]) -> int:
    with within(3 * SECONDS), pytest.raises(SystemExit) as stopped:
        cli.main(argv)
    return int(stopped.value.code or 0)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data of every kind and one run."""
    folder = tmp_path_factory.mktemp("fuzz")
    write_data(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run_command([*TRAINS, "--out", "made", "--quiet"]) == 0
        # scikit-learn, once imported, has drawn from Python's random state
        assert run_command(["sample", "made", "--density", "mixture", "--out", "s.npy"]) == 0
        Path("s.npy").unlink()
    return folder


def drawn(axes: Any, path: object) -> None:
    """A figure that is drawn and not written: writing takes most of a command's time."""
    file = Path(str(path))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    plt.close("all")


def fresh(origin: Path, home: Path) -> Path:
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(origin, home / "work")
    return home / "work"


def outside(home: Path) -> list[Path]:
    return sorted(p for p in home.iterdir() if p.name != "work")


def check_command(argv: list[str], origin: Path, home: Path, capture: Any) -> int:
    work = fresh(origin, home)
    before = around()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        patch.setattr(pv.plots, "save", drawn)
        patch.setenv("HOME", str(home / "work"))
        patch.setenv("PYROVAE_DATA", str(home / "work" / "cache"))
        capture.readouterr()
        code = run_command(argv)
        said = capture.readouterr()
    after = around()
    assert {k for k in before if before[k] != after[k]} - {"torch"} == set()
    assert code in (0, 2), said.err
    lines = [line for line in said.err.splitlines() if line.startswith("pyrovae: error: ")]
    assert len(lines) == (code == 2), said.err
    assert "internal" not in said.err and "Traceback" not in said.err, said.err
    if code == 2:
        assert 30 < len(lines[0]) < 650 and said.err.endswith(f"{lines[0]}\n"), said.err
    printable = (said.out + said.err).replace("\n", "").replace("\t", "")
    assert printable.isprintable(), repr(said)
    assert outside(home) == []
    if code == 0:
        promised(argv, said.out, work)
    return code


def promised(argv: list[str], out: str, work: Path) -> None:
    """What a command that did its work prints and leaves."""
    assert out.strip() or any(word.startswith("--max-seconds") for word in argv), argv
    if {"-h", "--help"} & set(argv) or argv[:1] in ([], ["-V"], ["info"], ["evaluate"]):
        return
    if argv[0] == "fit":
        kept = [p.parent for p in work.rglob("model.safetensors")]
        assert kept and all((p / "environment.json").exists() for p in kept)
        if "--json" in argv:
            for line in out.splitlines():
                json.loads(line)
    elif argv[0] in READ:
        assert Path(work, out.strip().splitlines()[-1]).suffix in (".png", ".npy")


def mostly(values: tuple[str, ...]) -> st.SearchStrategy[str]:
    """One of the values, the first two of which are good ones."""
    return st.one_of(st.sampled_from(values[:2]), st.sampled_from(values))


@st.composite
def fits(draw: st.DrawFn) -> list[str]:
    data = draw(st.one_of(st.just("x.npy"), st.just("x.npy"), st.sampled_from(DATA)))
    words = dict(TINY) | {"--data": data, "--out": "run"}
    how = draw(st.sampled_from([0, 1, 1, 2, 3]))  # how many odd things
    for flag in draw(st.lists(st.sampled_from(sorted(BOUNDED)), max_size=how, unique=True)):
        words[flag] = draw(mostly(BOUNDED[flag]))
    for flag in draw(st.lists(st.sampled_from(sorted(CLASSES)), max_size=how, unique=True)):
        words[flag] = draw(mostly(CLASSES[flag]))
    if how == 3:
        words[draw(st.sampled_from(FREE))] = draw(st.sampled_from(WORDS))
    flags = draw(st.lists(st.sampled_from(SWITCHES[:5] + SWITCHES), max_size=2, unique=True))
    joined = draw(st.booleans())
    parts = [[f"{k}={v}"] if joined else [k, v] for k, v in words.items()]
    return ["fit", *(word for part in parts for word in part), *flags]


@st.composite
def reads(draw: st.DrawFn) -> list[str]:
    command = draw(st.sampled_from([*sorted(READ), "evaluate", "sample"]))
    table = READ[command] | {"--seed": BOUNDED["--seed"], "--device": ("cpu", "tpu", "")}
    if command == "info":
        table = READ[command]
    if command == "info" and draw(st.booleans()):
        words = ["info"]
    else:
        words = [command, draw(st.sampled_from(RUNS))]
    if command == "evaluate":
        words += ["--num-particles", "2"]
    for flag in draw(st.lists(st.sampled_from(sorted(table)), max_size=3)):
        words += [flag, *([draw(mostly(table[flag]))] if table[flag] else [])]
    return words


@st.composite
def noise(draw: st.DrawFn) -> list[str]:
    commands = [*cli.COMMANDS, "", "fti", "--version", "-h", "help", "nul\0", "\ud800"]
    some = draw(st.lists(st.sampled_from([*WORDS, "--data", "--allow", "--config"]), max_size=4))
    some += draw(st.lists(st.text(max_size=8), max_size=2))
    return [draw(st.sampled_from(commands)), *some, "--data", "missing.npy", "--epochs", "1"]


# --- tests -------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    return tmp_path


def emptied(folder: Path) -> Path:
    """The folder as every example finds it."""
    for path in folder.iterdir():
        if path.name != "file":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


@settings(REPEATED, max_examples=300)
@example(Case("loader of 0-d"))
@example(Case("loader of ragged"))
@example(Case("loader that turns", "functions"))
@example(Case("loader that lies"))
@example(Case("loader of nothing", "Normal"))
@example(Case("empty loader", "Poisson"))
@example(Case("loader of nan"))
@example(Case("dataset of floats", "Normal", {"validation": 2}))
@example(Case(X("float16", (4,), "all nan", "dataset"), "Normal"))
@example(Case(X("bfloat16", (6, 4), "binary", "list")))
@example(Case(X("uint8", (6, 4), "binary", "meta"), "Poisson"))
@example(Case(X("uint8", (7, 2, 3), "ones", "loader"), "Categorical"))
@example(Case(X("f4", (6, 1, 2, 2)), "functions"))
@example(Case(X(), "no arguments"))
@example(Case(X(), "class"))
@example(Case(X(), given={"epochs": np.int64(2), "lr": np.float32(0.1), "ema": np.float32(0.5)}))
@given(cases())
def test_fit_trains_or_says_why_not(folder: Path, case: Case) -> None:
    check_fit(case, emptied(folder))


@pytest.mark.parametrize("kind", sorted(ODD))
def test_odd_data(folder: Path, kind: str) -> None:
    for pair in ("Normal", "functions"):
        trains(Case(kind, pair), emptied(folder))


@pytest.mark.parametrize("name", sorted(WRONG))
def test_odd_settings(folder: Path, name: str) -> None:
    for value in (*VALID[name], *WRONG[name]):
        trains(Case(given={name: value}), emptied(folder))


@settings(REPEATED, max_examples=160)
@example([*TRAINS, "--config", "~no-such-user"])
@example([*TRAINS, "--latent-dim", "1000000000000000"])
@example([*TRAINS, "--max-seconds", "0.0001", "--keep-best"])
@given(fits())
def test_fit_on_the_command_line(
    origin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    check_command(argv, origin, tmp_path / "home", capsys)


@settings(REPEATED, max_examples=120)
@example(
    ["interpolate", "made", "--steps", "1000000000", "--out", "s.png", "--steps", "4294967295"]
)
@given(reads())
def test_the_other_commands(
    origin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    check_command(argv, origin, tmp_path / "home", capsys)


@settings(REPEATED, max_examples=100)
@given(noise())
def test_words_that_mean_nothing(
    origin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    check_command(argv, origin, tmp_path / "home", capsys)


def test_more_than_memory_holds_is_refused() -> None:
    pair, x, many = pair_for("Bernoulli", (4,)), good(), 10**15
    for ask in (
        lambda: pv.sample(pair, many),
        lambda: pv.reconstruct(pair, x, draws=many),
        lambda: pv.interpolate(pair, x, x, many),
        lambda: pv.traverse(pair, x, steps=many),
    ):
        with within(SECONDS), pytest.raises(pv.UsageError, match="do not fit in memory; ask for"):
            ask()
