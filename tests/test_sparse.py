"""Counts as people hold them: sparse matrices and AnnData, dense one batch at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import sparse
from torch import nn

import pyrovae as pv
from pyrovae import likelihoods, networks
from pyrovae.data import SparseData, TensorData, UsageError, as_data, load

FORMS = [
    sparse.csr_matrix, sparse.csc_matrix, sparse.coo_matrix,
    sparse.csr_array, sparse.csc_array, sparse.coo_array,
]  # fmt: skip


def counts(n: int = 90, d: int = 12, seed: int = 0) -> np.ndarray:
    """Counts of two kinds of rows, of different depths, most of them zero."""
    rng = np.random.default_rng(seed)
    rates = np.exp(rng.normal(-1.5, 1, (2, d)))[rng.integers(0, 2, n)]
    return rng.poisson(rates * rng.gamma(2, 1, (n, 1)))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.fixture
def both() -> tuple[SparseData, TensorData]:
    """The same counts with an argument and labels, sparse and dense."""
    x, y = counts(), torch.arange(90.0)
    options: dict[str, Any] = {"labels": np.arange(90) % 2}
    return (
        SparseData(sparse.csr_matrix(x), y, **options),
        TensorData(torch.from_numpy(x), y, **options),
    )


# --- served as dense ones ------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "i8", "u1", "u2", "?"])
def test_every_form_is_served_as_its_dense_array(form: Any, dtype: str) -> None:
    x = counts().astype(dtype)
    data, dense = as_data(form(x)), as_data(x)
    assert isinstance(data, SparseData) and data.in_memory
    assert (len(data), data.event_shape) == (len(dense), dense.event_shape)
    assert data.stores_integers == dense.stores_integers
    for (a,), (b,) in zip(data.batches(20), dense.batches(20), strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"shuffle": True},
        {"shuffle": True, "drop_last": True},
        {"shuffle": True, "skip": 2},
        {"shuffle": True, "skip": 1, "share": (1, 3)},
        {"share": (0, 2)},
    ],
)
def test_the_order_is_that_of_dense_data(both: Any, asked: dict[str, Any]) -> None:
    served, expected = (list(d.batches(16, generator=seeded(), **asked)) for d in both)
    assert len(served) == len(expected) > 0
    for one, other in zip(served, expected, strict=True):
        assert all(map(torch.equal, one, other))


def test_parts_are_those_of_dense_data(both: Any) -> None:
    data, dense = both
    for one, other in (
        (data.split(0.2, seed=1)[0].dense(slice(None)), dense.split(0.2, seed=1)[0]),
        (data.split(0.2, seed=1)[1], dense.split(0.2, seed=1)[1]),
        (data.sample(7, seed=2), dense.sample(7, seed=2)),
        (data.dense([3, 1, 1]), dense.select([3, 1, 1])),
        (data.dense(torch.arange(90) > 50), dense.select(torch.arange(90) > 50)),
        (data.first(5), dense.first(5)),
    ):
        assert all(map(torch.equal, one[:], other[:]))
    assert torch.equal(data.split(9)[0].labels, dense.split(9)[0].labels)
    assert torch.equal(data.with_labels()[:][1], dense.labels)
    assert data.summary() == dense.summary()
    for held_out in (0, 1, 90):
        with pytest.raises(UsageError, match="cannot hold out"):
            data.split(held_out if held_out != 1 else 1.5)


def test_binarised_as_dense_data(both: Any) -> None:
    with pytest.raises(UsageError, match="cannot be binarised"):
        both[0].binarised("dynamic")
    x = np.where(counts() > 0, 0.3, 0.0)
    data, dense = as_data(sparse.csr_array(x)), as_data(x)
    for mode in ("threshold", "dynamic"):
        (a,), (b,) = (
            next(d.binarised(mode).batches(90, generator=seeded())) for d in (data, dense)
        )
        assert torch.equal(a, b)
    (drawn,) = data.binarised("static", seed=4)[:]
    assert set(drawn.unique().tolist()) == {0.0, 1.0} and not drawn[torch.tensor(x) == 0].any()
    kept, p = int((x > 0).sum()), 0.3
    assert abs(float(drawn.sum()) - kept * p) < 4 * (kept * p * (1 - p)) ** 0.5  # 4 s.e.
    assert torch.equal(drawn, data.binarised("static", seed=4)[:][0])


def test_missing_and_infinite_entries_are_seen() -> None:
    x = counts().astype("f4")
    assert as_data(sparse.csr_array(x)).incomplete() is None
    x[[4, 7, 9], [2, 2, 0]] = np.nan
    data, dense = as_data(sparse.csr_array(x)), as_data(x)
    (a,), (b,) = data.incomplete(), dense.incomplete()
    assert torch.equal(a.nan_to_num(-1), b.nan_to_num(-1))
    x[5, 3] = np.inf
    for given in (sparse.csr_array(x), sparse.csc_array(x)):
        with pytest.raises(UsageError, match=r"x has 1 entries.* datum 5 at position \[3\]"):
            as_data(given).check_finite()


def test_entries_stored_twice_are_added() -> None:
    twice = sparse.coo_array(([1.0, 2.0], ([0, 0], [1, 1])), shape=(2, 3))
    assert as_data(twice)[:][0].tolist() == [[0, 3, 0], [0, 0, 0]]
    assert twice.nnz == 2  # the user's own is left alone


def test_tuples_and_dicts_begin_with_it() -> None:
    x, y = sparse.csr_matrix(counts()), np.arange(90)
    for given in ((x, y), {"x": x, "y": y}):
        data = as_data(given)
        a, b = next(data.batches(8))
        assert isinstance(data, SparseData) and torch.equal(b, torch.arange(8))
        assert torch.equal(a, torch.tensor(counts()[:8]).float())
    assert as_data({"x": x, "y": y}).layout.names == ("x", "y")
    with pytest.raises(UsageError, match=r"the first of a tuple .*toarray"):
        as_data((y, x))
    for wrong, said in (
        (lambda: as_data((x, y[:5])), "share their first axis"),
        (lambda: as_data(sparse.csr_array((0, 4))), "there are no data"),
        (lambda: as_data(sparse.csr_array(np.eye(2, dtype=complex))), "not real numbers"),
        (lambda: as_data(x).with_labels(), "no labels"),
        (lambda: as_data(x).select([]), "selection is empty"),
    ):
        with pytest.raises(UsageError, match=said):
            wrong()


def test_no_digit_is_lost_in_silence() -> None:
    with pytest.raises(UsageError, match="last digits would be lost"):
        next(as_data(sparse.csr_array(np.array([[2**24 + 1]]))).batches(1))


# --- the verbs -----------------------------------------------------------------------------------


def vae() -> pv.VAE:
    torch.manual_seed(0)
    network = networks.MLP([16])
    likelihood = likelihoods.NegativeBinomial(network)
    return pv.VAE((12,), 2, likelihood=likelihood, guide=pv.guides.MeanField(network))


def test_training_gives_the_numbers_of_dense_data() -> None:
    """All: order, validation, measures and evaluation; only the storage differs."""
    found = []
    for x in (sparse.csr_matrix(counts().astype("f4")), counts().astype("f4")):
        pair = vae()
        history = pv.fit(pair, x, epochs=3, batch_size=16, validation=0.2, seed=5, progress=False)
        measured = pv.evaluate(pair, x, 20, seed=1)
        rows = [{k: r[k] for k in ("elbo", "kl", "loss", "validation_elbo")} for r in history.rows]
        found.append((rows, measured.elbo, pv.encode(pair, x, seed=1)))
    (rows, elbo, codes), (dense_rows, dense_elbo, dense_codes) = found
    assert rows == dense_rows
    assert torch.equal(elbo, dense_elbo) and torch.equal(codes, dense_codes)


def test_every_verb_takes_it() -> None:
    x, pair = sparse.csc_array(counts().astype("f4")), vae()
    dense = x.toarray()
    assert torch.equal(pv.elbo(pair, x, 3, seed=1), pv.elbo(pair, dense, 3, seed=1))
    assert torch.equal(pv.reconstruct(pair, x, seed=1), pv.reconstruct(pair, dense, seed=1))
    assert pv.sample(pair, 3).shape == (3, 12)
    assert pv.interpolate(pair, x[:2], x[2:4], 4).shape == (2, 4, 12)
    assert pv.traverse(pair, x)[0].shape[-1] == 12
    gaps = dense.copy()
    gaps[:5, 0] = np.nan
    filled = pv.impute(pair, sparse.csr_array(gaps[:5]))
    assert not bool(torch.as_tensor(filled).isnan().any())


def test_data_outside_the_support_are_refused() -> None:
    x = counts().astype("f4")
    x[40, 3] = -1
    with pytest.raises(UsageError, match="range from -1"):
        pv.elbo(vae(), sparse.csr_array(x))


def test_a_checkpoint_knows_its_matrix(tmp_path: Path) -> None:
    x = sparse.csr_matrix(counts().astype("f4"))
    options: dict[str, Any] = {"batch_size": 30, "progress": False, "out": tmp_path / "run"}
    pv.fit(vae(), x, epochs=1, **options)
    pv.fit(vae(), x, epochs=2, resume=True, **options)
    other = x.copy()
    other.data[-1] += 1
    with pytest.raises(UsageError, match="digest of the data"):
        pv.fit(vae(), other, epochs=3, resume=True, **options)


# --- a library size ------------------------------------------------------------------------------


def depth_pair(logits: torch.Tensor) -> pv.Pair:
    """x ~ Poisson(size softmax(W z + b)), W = 0, and the posterior, which is the prior: what a cell
    is made of, whatever the depth it was read to."""
    decoder, encoder = nn.Linear(2, len(logits)), nn.Linear(len(logits), 4)
    with torch.no_grad():
        decoder.bias.copy_(logits)
        for constant in (decoder.weight, encoder.weight, encoder.bias):
            constant.zero_().requires_grad_(False)

    def model(x: torch.Tensor, size: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            rate = size[:, None] * decoder(z).softmax(-1)
            pyro.sample("x", dist.Poisson(rate).to_event(1), obs=x)

    def guide(x: torch.Tensor, size: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, raw = encoder((x / size[:, None]).sqrt()).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))

    return pv.Pair(model, guide)


def test_the_library_size_is_the_total_of_each_row(both: Any) -> None:
    data, dense = both
    for found in (data.with_library_size(), dense.with_library_size()):
        x, size, y = found[:]
        assert torch.equal(size, torch.tensor(counts().sum(1)).float())
        assert torch.equal(x.sum(1), size) and torch.equal(y, torch.arange(90.0))
    gaps = np.array([[1.0, np.nan], [2.0, 3.0]])
    for given in (gaps, sparse.csr_array(gaps)):
        assert as_data(given).with_library_size()[:][1].tolist() == [1, 5]
        with pytest.raises(UsageError, match="total of counts, and x has values down to -3"):
            as_data(
                -np.nan_to_num(given) if given is gaps else -as_data(given).matrix
            ).with_library_size()


def test_a_poisson_model_uses_the_library_size() -> None:
    """Counts of one composition at depths of 100 to 10,000, and nothing for z to explain: the
    likelihood is largest at the pooled composition, and the ELBO is that likelihood."""
    rng = np.random.default_rng(0)
    depth = 10 ** rng.uniform(2, 4, 300)
    x = rng.poisson(depth[:, None] * rng.dirichlet(np.full(8, 2.0)))
    pooled = torch.tensor(x.sum(0) / x.sum()).float()
    totals = torch.tensor(x.sum(1, keepdims=True)).float()
    best = dist.Poisson(totals * pooled).log_prob(torch.tensor(x).float()).sum(-1)
    data = as_data(sparse.csr_matrix(x)).with_library_size()
    elbo = pv.elbo(depth_pair(pooled.log()), data, 2)
    assert torch.allclose(elbo, best, rtol=1e-4)
    torch.manual_seed(0)
    pair = depth_pair(torch.zeros(8))
    pv.fit(pair, data, epochs=40, batch_size=50, lr=0.05, progress=False)
    elbo = pv.elbo(pair, data, 2)
    assert 0 <= float((best - elbo).mean()) < 0.5  # nats per datum; its gradients have noise
    assert torch.equal(elbo, pv.elbo(pair, as_data(x).with_library_size(), 2))


def test_streams_do_not_know_their_totals(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", counts())
    with pytest.raises(UsageError, match=r"x\.sum\(-1\)"):
        load(tmp_path / "x.npy", stream=True).train.with_library_size()


# --- AnnData and files ---------------------------------------------------------------------------


def cells(x: Any) -> SimpleNamespace:
    """What AnnData has; it is not a dependency."""
    kinds = pandas.Categorical(np.where(np.arange(90) % 3 == 0, "T cell", "B cell"))
    return SimpleNamespace(
        X=x,
        obs=pandas.DataFrame({"cell_type": kinds, "batch": np.arange(90) % 2}),
        var_names=pandas.Index([f"gene{i}" for i in range(12)]),
    )


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_array, np.asarray])
def test_annotated_data(form: Any) -> None:
    given = cells(form(counts()))
    data = as_data(given)
    assert torch.equal(data[:][0], torch.tensor(counts()).float())
    assert data.schema.names == tuple(f"gene{i}" for i in range(12))
    assert {column.kind for column in data.schema.columns} == {"count"}
    splits = load(given, label="cell_type")
    assert splits.classes == ("B cell", "T cell") and splits.columns == data.schema.names
    assert splits.train.schema == splits.test.schema == data.schema
    labels = torch.cat([splits.train.labels, splits.test.labels])
    assert int(labels.sum()) == 30 and len(labels) == 90
    for x, label in zip(splits.test.x, splits.test.labels, strict=True):
        at = (torch.tensor(counts()).float() == x).all(1).nonzero()[:, 0]
        assert any(int(label) == int(row % 3 == 0) for row in at)
    pv.fit(vae(), splits.train, epochs=1, batch_size=16, progress=False)


@pytest.mark.parametrize(("factor", "kind"), [(1, "NegativeBinomial"), (0.3, "Normal")])
def test_many_named_columns_of_one_kind_are_one_vector(factor: float, kind: str) -> None:
    wide = counts(60, 300)
    names = pandas.Index([f"gene {k}" for k in range(300)])
    given = SimpleNamespace(X=sparse.csr_matrix(wide * factor), obs=None, var_names=names)
    vae = pv.VAE.of(given, latent_dim=2)
    assert type(vae.likelihood).__name__ == kind and type(vae.prior).__name__ == "StandardNormal"
    plain = pv.VAE.of(given.X.toarray(), latent_dim=2)
    assert factor != 1 or vae.likelihood.arguments().keys() == plain.likelihood.arguments().keys()
    pv.fit(vae, given, epochs=1, progress=False)  # in units: each gene about its own mean
    means = pv.sample(vae, 200, mean=True).mean(0).numpy()
    assert np.corrcoef(np.log(means.clip(1e-3)), np.log(wide.mean(0) + 1e-3))[0, 1] > 0.9
    assert pv.sample(vae, 3).shape == (3, 300)


def test_few_named_columns_stay_a_table() -> None:
    assert type(pv.VAE.of(cells(sparse.csr_array(counts()))).likelihood).__name__ == "Mixed"


def test_a_sample_of_wide_data_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    data = SparseData(sparse.csr_array(counts(50)))
    assert len(data.sample(10_000)) == 50
    monkeypatch.setattr(pv.sparse, "LOOKED_AT", 5 * 12 * 8)  # five rows of int64
    few = data.sample(10_000)
    assert len(few) == 5 and isinstance(few, TensorData)


def test_annotated_data_that_are_not_there() -> None:
    given = cells(sparse.csr_matrix(counts()))
    with pytest.raises(UsageError, match=r"no column 'cell_typ'; did you mean 'cell_type'\?"):
        load(given, label="cell_typ")
    given.obs.loc[3, "cell_type"] = None
    with pytest.raises(UsageError, match="'cell_type' of obs has 1 missing labels"):
        load(given, label="cell_type")
    given.X = None
    with pytest.raises(UsageError, match="it has no X"):
        as_data(given)
    backed = cells(object())
    backed.isbacked = True
    with pytest.raises(UsageError, match=r"to_memory\(\)"):
        as_data(backed)


@pytest.mark.parametrize("form", FORMS)
def test_files_of_save_npz(tmp_path: Path, form: Any) -> None:
    sparse.save_npz(tmp_path / "x.npz", form(counts()))
    splits, dense = load(tmp_path / "x.npz"), as_data(counts()).split(9)
    assert isinstance(splits.train, SparseData) and isinstance(splits.test, TensorData)
    assert torch.equal(splits.train[:][0], dense[0].x) and torch.equal(splits.test.x, dense[1].x)


def test_a_damaged_matrix_is_refused(tmp_path: Path) -> None:
    """Indices beyond its shape would have rows written beside their array."""
    x = sparse.csr_matrix(counts())
    parts = {"format": b"csr", "shape": x.shape, "data": x.data, "indptr": x.indptr}
    np.savez(tmp_path / "x.npz", indices=x.indices + 1000, **parts)
    with pytest.raises(UsageError, match=r"x\.npz cannot be read"):
        load(tmp_path / "x.npz")


def test_h5ad_names_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "cells.h5ad").write_bytes(b"")
    with pytest.raises(UsageError, match=r"anndata\.read_h5ad\('cells\.h5ad'\)"):
        load(tmp_path / "cells.h5ad")


@pytest.mark.slow
def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sparse.save_npz(tmp_path / "x.npz", sparse.csr_matrix(counts()))
    out = tmp_path / "run"
    words = ["fit", "--data", tmp_path / "x.npz", "--likelihood", "NegativeBinomial", "--epochs",
             2, "--batch-size", 16, "--quiet", "--num-particles", 5, "--out", out]  # fmt: skip
    for command in (
        words,
        ["evaluate", out, "--num-particles", 5],
        ["sample", out, "--density", "mixture"],
        ["reconstruct", out],
        ["info", "--data", tmp_path / "x.npz"],
    ):
        with pytest.raises(SystemExit) as ended:
            pv.cli.main([str(word) for word in command])
        assert ended.value.code == 0, capsys.readouterr().err
    assert "counts more spread than Poisson" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        pv.cli.main(["fit", "--data", str(tmp_path / "x.npz"), "--program", "Regression"])
    assert "toarray()" in capsys.readouterr().err


# --- memory --------------------------------------------------------------------------------------

LARGE = """
import re, pathlib, torch, numpy as np, pyrovae as pv
from scipy import sparse
torch.set_num_threads(1)
rows, columns = 60_000, 2_000
rng, each = np.random.default_rng(0), 100
where, values = rng.integers(0, columns, rows * each), rng.integers(1, 5, rows * each)
held = values.astype(np.float32), where, np.arange(rows + 1) * each
x = sparse.csr_matrix(held, (rows, columns))
x.sum_duplicates()
network = pv.networks.MLP([16])
vae = pv.VAE((columns,), 2, likelihood=pv.likelihoods.Poisson(network),
             guide=pv.guides.MeanField(network))
few = x[:512]
pv.fit(vae, few, epochs=1, batch_size=256, progress=False)  # what torch itself takes
def peak():
    # not ru_maxrss, which begins at what the process that started this one held
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", status)[1])
before = peak()
pv.fit(vae, x, epochs=1, batch_size=256, validation=200, progress=False)
pv.elbo(vae, x, 1)
print(peak() - before)
dense = x.toarray().repeat(2, 0)  # what the measure would have seen: this and a copy of it
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is counted in KiB there")
def test_the_whole_is_never_dense() -> None:
    """60,000 x 2,000 at 5 %: dense 480 MB, sparse 48 MB, and as much in the part that is trained
    on; batches and what networks make of them, 128 MB at a time, are the rest."""
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    grown, with_dense = map(int, done.stdout.split()[-2:])
    whole = 4 * 60_000 * 2_000
    assert grown < whole < with_dense


def _spoilt(part: str, values: list[float]) -> sparse.csr_matrix:
    matrix = sparse.csr_matrix(np.eye(6))
    setattr(matrix, part, np.asarray(values, dtype=getattr(matrix, part).dtype))
    return matrix


SPOILT = {
    "indptr too far": lambda: _spoilt("indptr", [0, 1, 2, 3, 4, 5, 99]),
    "indptr short": lambda: _spoilt("indptr", [0, 1, 2]),
    "indptr backwards": lambda: _spoilt("indptr", [0, 5, 1, 3, 4, 5, 6]),
    "indices beyond": lambda: _spoilt("indices", [0, 1, 2, 3, 4, 10**6]),
    "data short": lambda: _spoilt("data", [1, 1]),
    "wide": lambda: sparse.csr_matrix((3, 10**13)),
    "coordinates": lambda: sparse.coo_matrix(([1.0], ([0], [0])), shape=(10**13, 10**13)),
}


@pytest.mark.parametrize("name", SPOILT)
def test_matrices_that_scipy_reads_beside(name: str) -> None:
    """Some end the interpreter when they are used."""
    with pytest.raises(pv.UsageError, match="damaged|does not hold one row"):
        SparseData(SPOILT[name]())
