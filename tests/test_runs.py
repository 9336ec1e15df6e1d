"""What a run leaves on disk, and what is read back of it."""

from __future__ import annotations

import csv
import json
import os
import stat
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributions import constraints

import pyrovae as pv
from pyrovae import components, files, runs

X = torch.bernoulli(torch.full((60, 6), 0.3), generator=torch.Generator().manual_seed(0))


def fitted(pair: Any, x: Tensor = X, **options: Any) -> Any:
    pv.fit(pair, x, epochs=1, batch_size=20, device="cpu", progress=False, **options)
    return pair


def vae(**options: Any) -> pv.VAE:
    torch.manual_seed(0)
    return pv.VAE((6,), 2, **options)


def numbers(pair: Any, x: Tensor = X) -> Tensor:
    return pv.evaluate(pair, x, num_particles=5, seed=1).elbo


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


# --- round trips -------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["shared", "per_dimension", "network", 0.5])
def test_a_vae_comes_back_whole(tmp_path: Path, scale: float | str) -> None:
    networks = pv.networks.MLP([5, 4], activation="Tanh"), pv.networks.MLP([7])
    likelihood = pv.likelihoods.Normal(networks[0], scale=scale)
    pair = fitted(vae(likelihood=likelihood, guide=pv.guides.MeanField(networks[1])))
    file = pv.save(pair, tmp_path / "run")
    assert file == tmp_path / "run" / "model.safetensors"
    for path in (file, file.parent, str(file)):
        again = pv.load(path)
        assert components.describe(again) == components.describe(pair)
        assert torch.equal(numbers(again), numbers(pair))
    assert pv.save(again, tmp_path / "x.safetensors").read_bytes() == file.read_bytes()


def test_the_file_is_safetensors_with_a_description(tmp_path: Path) -> None:
    with safe_open(str(pv.save(vae(), tmp_path)), "pt") as file:
        notes = json.loads(file.metadata()["pyrovae"])
    assert notes["model"]["class_path"] == "pyrovae.vae.VAE"
    assert notes["model"]["init_args"]["event_shape"] == [6]


# What commit 292fa2f, which wrote files of version 1, gave for model-1-NAME.safetensors: two VAEs
# that it trained on old_table() for 20 epochs, and pv.elbo of the first five rows.
VERSION_1 = {
    "normal": [-20.98259925, -21.26571845, -20.98290252, -18.15625381, -21.35474395],
    "mixed": [-115.54317474, -121.03455352, -121.12262725, -116.39726257, -114.17668914],
}


def old_table() -> Tensor:
    t = torch.arange(60.0)[:, None]
    h, a, b = (5 * t).sin(), (7 * t).cos(), (11 * t).sin()
    levels = (h > 0).float() + (b > 0)
    x = torch.cat([h + a, (3 * h.exp()).round(), (a > 0).float(), levels, 40 - h], 1)
    x[3, 0] = torch.nan
    return x


@pytest.mark.parametrize("name", VERSION_1)
def test_a_model_of_version_1_gives_the_numbers_that_it_gave(name: str, tmp_path: Path) -> None:
    file = Path(__file__).with_name(f"model-1-{name}.safetensors")
    pair = pv.load(file)
    found = pv.elbo(pair, old_table(), seed=0)[:5]
    torch.testing.assert_close(found, torch.tensor(VERSION_1[name]), rtol=1e-5, atol=1e-5)
    columns = getattr(pair.likelihood, "columns", [pair.likelihood])
    assert {column.units for column in columns} == {"none"}
    again = pv.load(pv.save(pair, tmp_path))
    assert torch.equal(pv.elbo(again, old_table(), seed=0)[:5], found)


def test_weights_of_version_1_fill_a_pair_that_knows_units() -> None:
    """It takes x as it is from then on, whatever it had learned."""
    body = pv.networks.MLP([8])
    likelihood = pv.likelihoods.Normal(body, scale="optimal")
    pair = pv.VAE((5,), 2, likelihood=likelihood, guide=pv.guides.MeanField(body))
    pair.measure_units(pv.data.TensorData(old_table()))
    pv.load(Path(__file__).with_name("model-1-normal.safetensors"), into=pair)
    for _ in range(2):
        found = pv.elbo(pair, old_table(), seed=0)[:5]
        torch.testing.assert_close(found, torch.tensor(VERSION_1["normal"]), rtol=1e-5, atol=1e-5)
        pair.measure_units(pv.data.TensorData(old_table()))


@pytest.mark.parametrize("version", [3, 0, "2", None])
def test_a_file_of_another_version_is_refused(tmp_path: Path, version: object) -> None:
    file = pv.save(vae(), tmp_path)
    tensors = safetensors.torch.load_file(file)
    with safe_open(str(file), "pt") as opened:
        notes = json.loads(opened.metadata()["pyrovae"])
    assert notes["version"] == 2
    del notes[files.CHECKSUM]
    files.write_tensors(file, tensors, notes | {"version": version})
    for into in (None, vae()):
        with pytest.raises(pv.UsageError, match=r"is of version .* reads those up to 2: install"):
            pv.load(file, into=into)


def functions() -> pv.Pair:
    """Two plain functions: modules in closures, a free and a constrained ``pyro.param``."""
    torch.manual_seed(3)
    decoder, encoder = nn.Linear(2, 6), nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))

    def model(x: Tensor) -> None:
        scale = pyro.param("scale", torch.tensor(0.7), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), scale).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        shift = pyro.param("shift", torch.zeros(2))
        loc, raw = encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc + shift, raw.exp()).to_event(1))

    return pv.Pair(model, guide)


def test_plain_functions_come_back_into_a_pair_like_them(tmp_path: Path) -> None:
    pair = fitted(functions())
    pv.save(pair, tmp_path)
    with pytest.raises(pv.UsageError, match="into=pair"):
        pv.load(tmp_path)
    fresh = functions()
    assert not torch.equal(numbers(functions()), numbers(pair))
    assert pv.load(tmp_path, into=fresh) is fresh
    assert torch.equal(numbers(fresh), numbers(pair))
    assert set(fresh.params) == {"scale", "shift"}
    assert all(torch.equal(fresh.params[name], pair.params[name]) for name in pair.params)
    # what was read is saved as it was, and trained on as it was
    pv.save(fresh, tmp_path / "again")
    first, second = ((p / "model.safetensors").read_bytes() for p in (tmp_path, tmp_path / "again"))
    assert first == second
    assert torch.equal(numbers(fitted(fresh)), numbers(fitted(pair)))


def test_a_pair_that_was_read_but_never_run_is_saved_whole(tmp_path: Path) -> None:
    first = pv.save(fitted(functions()), tmp_path / "a")
    second = pv.save(pv.load(first, into=functions()), tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()


def test_buffers_are_saved(tmp_path: Path) -> None:
    pair = fitted(functions())
    with safe_open(str(pv.save(pair, tmp_path)), "pt") as file:
        kept = {name.rsplit(".", 1)[-1]: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert int(kept["num_batches_tracked"]) > 0
    assert not torch.equal(kept["running_mean"], torch.zeros(4))


def test_modules_of_ones_own_need_into(tmp_path: Path) -> None:
    def make() -> pv.VAE:
        body = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 6))
        return vae(likelihood=pv.likelihoods.Bernoulli(body))

    pair = fitted(make())
    pv.save(pair, tmp_path)
    with pytest.raises(pv.UsageError, match="your own code"):
        pv.load(tmp_path)
    fresh = make()
    pv.load(tmp_path, into=fresh)
    assert torch.equal(numbers(fresh), numbers(pair))


def test_a_run_of_functions_is_read_from_its_folder(tmp_path: Path) -> None:
    pair = fitted(functions(), out=tmp_path / "run")
    assert left(tmp_path / "run") == [
        *("checkpoints", "environment.json", "last.safetensors", "metrics.csv"),
        "model.safetensors",
    ]
    assert torch.equal(numbers(pv.load(tmp_path / "run", into=functions())), numbers(pair))
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["device"] == "cpu" and environment["versions"]["torch"]
    assert environment["versions"]["pyrovae"] == pv.__version__


# --- what does not fit, and what is not a model ------------------------------------------------


def test_wrong_shapes_and_names_are_refused(tmp_path: Path) -> None:
    pv.save(vae(), tmp_path)
    with pytest.raises(pv.UsageError, match=r"wrong shape .*\(400, 2\) for \(400, 3\)"):
        pv.load(tmp_path, into=pv.VAE((6,), 3))
    for hidden, said in (([400, 400], "missing"), ([], "unknown")):
        other = vae(likelihood=pv.likelihoods.Bernoulli(pv.networks.MLP(hidden)))
        with pytest.raises(pv.UsageError, match=said):
            pv.load(tmp_path, into=other)


def test_a_parameter_of_another_shape_is_refused(tmp_path: Path) -> None:
    def make(size: int) -> pv.Pair:
        def model(x: Tensor) -> None:
            loc = pyro.param("loc", torch.zeros(size))
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(loc.sum() + z[:, None], 1.0).to_event(1), obs=x)

        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x.mean(-1), 1.0))

        return pv.Pair(model, guide)

    pv.save(fitted(make(2)), tmp_path)
    with pytest.raises(pv.UsageError, match="loc"):
        numbers(pv.load(tmp_path, into=make(3)))


def test_a_refused_load_changes_nothing(tmp_path: Path) -> None:
    pv.save(fitted(vae()), tmp_path)
    other = pv.VAE((6,), 3)
    weights = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(pv.UsageError):
        pv.load(tmp_path, into=other)
    assert all(torch.equal(value, weights[name]) for name, value in other.state_dict().items())


@pytest.mark.parametrize("cut", [0, 4, 8, 100, -1])
def test_cut_files_are_refused(tmp_path: Path, cut: int) -> None:
    file = pv.save(vae(), tmp_path)
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(pv.UsageError, match="corrupt or cut off"):
        pv.load(file)


@pytest.mark.parametrize("notes", ["3", "[1]", "null", "not json", '{"model": {}'])
def test_foreign_notes_are_refused(tmp_path: Path, notes: str) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"x": torch.zeros(1)}, file, metadata={"pyrovae": notes})
    with pytest.raises(pv.UsageError):
        pv.load(file)


MODEL = "pyrovae.vae.VAE"


@pytest.mark.parametrize(
    ("path", "arguments", "said"),
    [
        ("os.system", {"command": "true"}, "no program 'os.system'"),
        ("torch.nn.Linear", {}, "no program"),
        ("pyrovae.runs.Folder", {"path": "x"}, "no program"),
        ("pyrovae.networks.MLP", {}, "no program"),
        (3, {}, "no program 3"),
        (MODEL, [6], "class_path"),
        (MODEL, {"event_shap": [6]}, "'event_shape'"),
        (MODEL, {}, "needs event_shape"),
        (MODEL, {"event_shape": [6], "prior": {"class_path": "os.system"}}, "no prior 'os.system'"),
        (MODEL, {"event_shape": [6], "latent_dim": "x"}, "latent_dim must be a whole number"),
    ],
)
def test_only_classes_of_pyrovae_are_built(
    tmp_path: Path, path: Any, arguments: Any, said: str
) -> None:
    file = tmp_path / "model.safetensors"
    model = {"class_path": path, "init_args": arguments}
    save_file({"x": torch.zeros(1)}, file, metadata={"pyrovae": json.dumps({"model": model})})
    with pytest.raises(pv.UsageError, match=said):
        pv.load(file)


def test_no_file_is_told(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing.safetensors"):
        with pytest.raises(pv.UsageError, match="there is no saved model at"):
            pv.load(path)


# --- descriptions ------------------------------------------------------------------------------


def test_construct_takes_what_a_hand_writes() -> None:
    guide = components.construct("MeanField", "guide")
    assert components.describe(guide) == components.describe(pv.guides.MeanField())
    body = {"class_path": "MLP", "init_args": {"hidden": [3]}}
    guide = components.construct(
        {"class_path": "MeanField", "init_args": {"network": body}}, "guide"
    )
    assert guide.network.hidden == [3]
    assert components.construct(components.describe(guide)).network.hidden == [3]
    with pytest.raises(pv.UsageError, match="no guide 'MLP'"):
        components.construct("MLP", "guide")
    with pytest.raises(pv.UsageError, match="did you mean 'MeanField'"):
        components.construct("MeanFeld", "guide")


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (int, "3", 3),
        (int, 3, 3),
        (float, "1e-3", 1e-3),
        (float, 1, 1.0),
        (str, "3", "3"),
        (str | None, None, None),
        (bool, "false", False),
        (list[int], "[8,16]", [8, 16]),
        (list[int], [8], [8]),
        (float | str, "shared", "shared"),
        (float | str, "0.5", 0.5),
    ],
)
def test_typed(kind: Any, value: Any, expected: Any) -> None:
    got = components.typed(kind, value, "x")
    assert got == expected and type(got) is type(expected)


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (int, "1.5", "x must be a whole number, got '1.5'"),
        (int, True, "x must be a whole number, got True"),
        (float, "much", "x must be a number, got 'much'"),
        (float, "nan", "x must be a number, got 'nan'"),
        (list[int], "3", "x must be a list of whole numbers"),
        (list[int], [1.5], "x must be a list of whole numbers"),
        (int | None, "a", "x must be a whole number, got 'a'"),
        (str, 3, "x must be text, got 3"),
    ],
)
def test_what_is_of_no_such_type(kind: Any, value: Any, said: str) -> None:
    with pytest.raises(pv.UsageError) as raised:
        components.typed(kind, value, "x")
    assert str(raised.value).startswith(said) and "\n" not in str(raised.value)


# --- writing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    file = pv.save(vae(), tmp_path)
    before = file.read_bytes()

    def half(handle: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", half)
    with pytest.raises((pv.UsageError, KeyboardInterrupt)):
        pv.save(fitted(vae()), tmp_path)
    assert left(tmp_path) == ["model.safetensors"] and file.read_bytes() == before


def test_paths_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(pv.UsageError, match="choose another path"):
        pv.save(vae(), tmp_path / "file" / "run")
    assert left(tmp_path) == ["file"]


def test_files_have_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    saved = pv.save(vae(), tmp_path)
    assert stat.S_IMODE(saved.stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


def test_preparing_a_folder_leaves_no_trace(tmp_path: Path) -> None:
    folder = runs.Folder.prepare(tmp_path / "a" / "b")
    assert left(tmp_path) == []
    folder.create()
    assert left(tmp_path) == ["a", "b"]
    runs.Folder.prepare(tmp_path / "a" / "b")  # an empty folder is free
    (tmp_path / "a" / "b" / "x").touch()
    with pytest.raises(pv.UsageError, match="exists already"):
        runs.Folder.prepare(tmp_path / "a" / "b")
    with pytest.raises(pv.UsageError, match="is a file"):
        runs.Folder.prepare(tmp_path / "a" / "b" / "x", force=True)
    with pytest.raises(pv.UsageError, match="cannot write to"):
        runs.Folder.prepare(tmp_path / "a" / "b" / "x" / "y")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(pv.UsageError, match="cannot write to"):
        runs.Folder.prepare(tmp_path / "run")


def test_creating_removes_an_earlier_run_and_nothing_else(tmp_path: Path) -> None:
    for name in runs.OWN:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "figures" / "mine.png").touch()
    (tmp_path / "notes.txt").touch()
    runs.Folder.prepare(tmp_path, force=True, config={"seed": 3}).create()
    assert left(tmp_path) == ["checkpoints", "config.yaml", "figures", "mine.png", "notes.txt"]
    assert (tmp_path / "config.yaml").read_text() == "seed: 3\n"


def test_rows_are_appended_as_they_come(tmp_path: Path) -> None:
    folder = runs.Folder(tmp_path)
    for epoch in (1, 2):
        folder.append({"epoch": epoch, "loss": epoch / 3})
        with (tmp_path / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == epoch and float(rows[-1]["loss"]) == epoch / 3
