"""Tables as a practitioner brings them: from a file, through the command line, and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from sklearn import datasets
from sklearn.impute import SimpleImputer

import pyrovae as pv
from pyrovae.cli import main

PENGUINS = Path(__file__).with_name("penguins.csv")
DRAWS = 5000


def run(*arguments: object) -> None:
    with pytest.raises(SystemExit) as done:
        main([*map(str, arguments)])
    assert done.value.code == 0


def skewed() -> pd.DataFrame:
    """Districts such as California's: positive amounts that vary by factors, ages, places."""
    rng = np.random.default_rng(0)
    n = 1500
    income, north = rng.lognormal(1.2, 0.5, n), rng.random(n) < 0.5
    latitude = np.where(north, rng.normal(37.8, 0.7, n), rng.normal(34, 0.5, n))
    value = np.exp(0.4 + 0.6 * np.log(income) + rng.normal(0, 0.35, n))
    return pd.DataFrame({
        "income": income.round(4),
        "age": rng.integers(1, 53, n),
        "rooms": np.exp(rng.normal(1.6, 0.3, n) + 0.15 * np.log(income)).round(3),
        "population": rng.lognormal(7, 0.7, n).round(),
        "latitude": latitude.round(2),
        "longitude": (-119.5 - 0.9 * (latitude - 35.6) + rng.normal(0, 0.4, n)).round(2),
        "value": value.round(3),
    })  # fmt: skip


TABLES: dict[str, Callable[[], pd.DataFrame]] = {
    "penguins": lambda: pd.read_csv(PENGUINS),
    "wine": lambda: datasets.load_wine(as_frame=True).frame,
    "diabetes": lambda: datasets.load_diabetes(as_frame=True).frame,
    "breast cancer": lambda: datasets.load_breast_cancer(as_frame=True).frame,
    "skewed": skewed,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_a_table_with_no_other_option(name: str, tmp_path: Path) -> None:
    """Draws from the prior have the means, deviations and shares of the rows that were trained on,
    in the table's units, and come back as the same columns."""
    whole = TABLES[name]()
    file, folder, drawn = tmp_path / "table.csv", tmp_path / "run", tmp_path / "drawn.csv"
    whole.to_csv(file, index=False)
    run("fit", "--data", file, "--out", folder, "--quiet")
    run("sample", folder, "--n", DRAWS, "--out", drawn)
    # one outlier makes a fourth of a deviation, and it may be among what is held out
    splits = pv.data.load(file)
    train = splits.schema.decode(splits.train.split(0.1, 0)[0].x)
    given, found = pd.read_csv(file), pd.read_csv(drawn)
    assert list(found.columns) == list(given.columns)
    assert (found.dtypes == given.dtypes).all()
    for column in splits.schema.columns:
        ours, theirs = train[column.name], found[column.name]
        if column.levels:
            shares = ours.value_counts(normalize=True)
            off = shares - theirs.value_counts(normalize=True).reindex(shares.index).fillna(0)
            assert off.abs().max() <= 0.05, column.name
            continue
        assert theirs.std() == pytest.approx(ours.std(), rel=0.15), column.name
        near = max(0.15 * abs(ours.mean()), 0.15 * ours.std())
        assert theirs.mean() == pytest.approx(ours.mean(), abs=near), column.name


@pytest.mark.slow
def test_removed_entries_are_imputed_in_their_units(tmp_path: Path) -> None:
    """Nearer to the truth than scikit-learn's column means, 90 % intervals that hold as many."""
    whole = pd.read_csv(PENGUINS)
    rng = np.random.default_rng(1)
    numbers = ["bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"]
    gone = pd.DataFrame(rng.random(whole.shape) < 0.15, columns=whole.columns) & whole.notna()
    gaps = whole.mask(gone)
    gaps.to_csv(tmp_path / "gaps.csv", index=False)
    run("fit", "--data", tmp_path / "gaps.csv", "--out", tmp_path / "run", "--quiet")
    run(
        *("impute", tmp_path / "run", "--part", "all", "--draws", 300),
        *("--out", tmp_path / "filled.csv"),
    )
    filled = pd.read_csv(tmp_path / "filled.csv")
    assert not filled[list(whole.columns)].isna().any(axis=None)
    assert (filled["species"][~gone["species"]] == whole["species"][~gone["species"]]).all()
    means = SimpleImputer().fit(gaps[numbers]).statistics_
    within, count = 0, 0
    for name, mean in zip(numbers, means, strict=True):
        hidden = gone[name]
        error = (filled[name] - whole[name])[hidden].pow(2).mean()
        assert error < 0.5 * (mean - whole[name])[hidden].pow(2).mean(), name
        low, high = filled[f"{name} low"], filled[f"{name} high"]
        assert low[~gaps[name].isna()].isna().all()
        within += ((low <= whole[name]) & (whole[name] <= high))[hidden].sum()
        count += hidden.sum()
    assert 0.85 <= within / count <= 0.95
    right = (filled["species"] == whole["species"])[gone["species"]].mean()
    assert right > 0.8 > whole["species"].value_counts(normalize=True).max()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on penguins, of few steps."""
    top = tmp_path_factory.mktemp("penguins")
    (top / "penguins.csv").write_bytes(PENGUINS.read_bytes())
    run(
        *("fit", "--data", top / "penguins.csv", "--out", top / "run", "--epochs", 5, "--quiet"),
        *("--num-particles", 20),
    )
    return top


def test_the_default_likelihood_follows_the_columns_and_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("info", folder / "run")
    run("info", "--data", folder / "penguins.csv")
    text = capsys.readouterr().out
    assert "body_mass_g        real      2725 to 6150, whole" in text
    assert "species            category  3 levels: Adelie, Chinstrap, Gentoo" in text
    vae = pv.load(folder / "run")
    kinds = [type(column).__name__ for column in vae.likelihood.columns]
    assert kinds == [*["Categorical"] * 2, *["Normal"] * 4, *["Categorical"] * 2]
    assert pv.traces.as_pair(vae).schema.names == tuple(pd.read_csv(PENGUINS).columns)


def test_a_run_on_a_table_goes_on_to_the_same_bits(folder: Path) -> None:
    options = ("--data", folder / "penguins.csv", "--quiet", "--num-particles", 5)
    run("fit", *options, "--out", folder / "two", "--epochs", 2)
    run("fit", "--out", folder / "two", "--resume", "--epochs", 4, "--quiet")
    run("fit", *options, "--out", folder / "four", "--epochs", 4)
    both = [load_file(folder / name / "model.safetensors") for name in ("two", "four")]
    assert both[0].keys() == both[1].keys()
    assert all(torch.equal(tensor, both[1][name]) for name, tensor in both[0].items())


def test_verbs_write_tables(folder: Path) -> None:
    whole, path = pd.read_csv(PENGUINS), folder / "run"
    run("encode", path, "--data", folder / "penguins.csv", "--out", folder / "codes.parquet")
    assert pd.read_parquet(folder / "codes.parquet").shape == (len(whole), 5)
    run("score", path, "--out", folder / "scores.csv", "--num-particles", 20)
    assert list(pd.read_csv(folder / "scores.csv")) == ["log_evidence", "elbo", "khat"]
    run("reconstruct", path, "--out", folder / "reconstructed.csv", "--n", 7)
    assert pd.read_csv(folder / "reconstructed.csv").dtypes.equals(whole.dtypes)
    run("sample", path, "--n", 3, "--out", folder / "drawn.parquet")
    assert pd.read_parquet(folder / "drawn.parquet").shape == (3, 8)
    run("score", path, "--out", folder / "scores.npy", "--num-particles", 20)
    assert np.load(folder / "scores.npy").shape == (34, 3)


def test_an_odd_row_has_the_lowest_score(folder: Path) -> None:
    odd = pd.read_csv(PENGUINS).head(20).fillna({"sex": "Male", "body_mass_g": 4000.0})
    odd.loc[7, "body_mass_g"] = 15_000.0
    odd.to_csv(folder / "odd.csv", index=False)
    run(
        *("score", folder / "run", "--data", folder / "odd.csv", "--num-particles", 50),
        *("--out", folder / "odd scores.csv"),
    )
    scores = pd.read_csv(folder / "odd scores.csv")
    assert len(scores) == 20 and scores["log_evidence"].argmin() == 7


def test_all_of_a_new_file_are_measured(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = pd.read_csv(PENGUINS).sample(50, random_state=0)[["year", "sex", *["species", "island"],
        "flipper_length_mm", "bill_depth_mm", "bill_length_mm", "body_mass_g"]]  # fmt: skip
    new.to_csv(folder / "new.csv", index=False)  # columns in another order
    run(
        *("evaluate", folder / "run", "--data", folder / "new.csv"),
        *("--num-particles", 20, "--json"),
    )
    said = capsys.readouterr()
    assert f"50 data from {folder / 'new.csv'}" in said.err and '"data": 50' in said.out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.drop(columns="sex"), "there is no column 'sex'"),
        (lambda f: f.replace("Gentoo", "Emperor"), "column 'species' has 'Emperor' in data row"),
        (lambda f: f.assign(body_mass_g="heavy"), "column 'body_mass_g'"),
    ],
)
def test_a_new_file_that_does_not_fit_is_refused_by_the_columns_name(
    folder: Path,
    change: Callable[[pd.DataFrame], pd.DataFrame],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(pd.read_csv(PENGUINS)).to_csv(folder / "bad.csv", index=False)
    with pytest.raises(SystemExit) as done:
        main(["score", str(folder / "run"), "--data", str(folder / "bad.csv")])
    said = capsys.readouterr().err
    assert done.value.code == 2 and words in said and said.count("\n") == 1


def test_data_that_moved_or_changed_are_noticed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, moved = folder / "penguins.csv", folder / "elsewhere.csv"
    content = file.read_bytes()
    try:
        file.rename(moved)
        with pytest.raises(SystemExit):
            main(["evaluate", str(folder / "run")])
        assert "are not there any more; give --data" in capsys.readouterr().err
        run("sample", folder / "run", "--n", 2, "--out", folder / "two.csv")  # needs none
        run(
            *("evaluate", folder / "run", "--data", moved, "--part", "test"),
            *("--num-particles", 20, "--json"),
        )
        assert '"data": 34' in capsys.readouterr().out
        file.write_bytes(content + b"Adelie,Dream,40.1,18.9,188,4300,Male,2008\n")
        with pytest.raises(SystemExit):
            main(["evaluate", str(folder / "run")])
        assert "has changed since the run was trained on it" in capsys.readouterr().err
    finally:
        file.write_bytes(content)


def test_a_dataframe_in_gives_a_dataframe_out() -> None:
    frame = pd.read_csv(PENGUINS).head(60).set_index(pd.Index([f"p{i}" for i in range(60)]))
    frame.loc["p3", ["sex", "body_mass_g"]] = [None, np.nan]
    torch.manual_seed(0)
    vae = pv.VAE.of(frame)
    pv.fit(vae, frame, epochs=2, progress=False, compile=False)
    filled = pv.impute(vae, frame, num_particles=50)
    assert filled.index.equals(frame.index) and not filled.isna().any(axis=None)
    whole = frame.dropna().index  # what was there is as it was
    pd.testing.assert_frame_equal(filled.loc[whole], frame.loc[whole, filled.columns])
    codes = pv.encode(vae, frame)
    assert list(codes) == [f"z{k}" for k in range(codes.shape[1])] and codes.index.equals(
        frame.index
    )
    bound = pv.elbo(vae, frame)
    assert bound.name == "elbo" and bound.index.equals(frame.index)
    assert pv.reconstruct(vae, frame).dtypes.equals(filled.dtypes)
    drawn = pv.impute(vae, frame.head(5), draws=3, num_particles=50)
    assert drawn.index.nlevels == 2 and drawn.loc[2].index.equals(frame.head(5).index)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--likelihood", "Binomial"), "total_count 7"),
        (("--likelihood", "Categorical"), "classes 8"),
        ((), "likelihood Poisson"),
    ],
)
def test_a_number_that_the_data_state_is_taken_from_them(
    flags: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.random.default_rng(0).binomial(7, 0.3, (60, 5))
    x[0, 0] = 7
    np.save(tmp_path / "x.npy", x)
    run(
        *("fit", "--data", tmp_path / "x.npy", *flags, "--epochs", 1, "--quiet"),
        *("--num-particles", 5, "--out", tmp_path / "run", "--seed", 3),
    )
    assert said in capsys.readouterr().err


MIXED = """kind,amount,when,plz,real
a,1.5,6/6/1990,01067,-1
b,2.5,3/4/1991,01069,0.5
a,30.5,12/5/1992,01067,2
c,4.5,7/6/1990,20095,-0.5
a,5.5,6/8/1993,01067,1.5
b,60.5,1/2/1990,01069,2.5
""" + "".join(
    f"{'abc'[i % 3]},{1.5 + i * i},{1 + i % 12}/2/199{i % 9},0106{7 + i % 3},{i / 7:.2f}\n"
    for i in range(60)
)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    (tmp_path / "mixed.csv").write_text(MIXED)
    return tmp_path / "mixed.csv"


def trained(file: Path, *options: object) -> Path:
    folder = file.parent / "run"
    run(
        *("fit", "--data", file, "--out", folder, "--epochs", 1, "--num-particles", 5, "--quiet"),
        *("--kinds", "when=month/day", "--force", *options),
    )
    return folder


def test_the_order_of_dates_that_was_said_holds_for_new_files(mixed: Path) -> None:
    folder = trained(mixed)
    run("score", folder, "--data", mixed, "--num-particles", 5, "--out", mixed.parent / "s.csv")
    drawn = mixed.parent / "drawn.csv"
    run("sample", folder, "--n", 50, "--out", drawn)
    found = pd.read_csv(drawn, dtype={"plz": str})
    assert set(found["plz"]) <= {"01067", "01068", "01069", "20095"}  # codes keep their zeros


@pytest.mark.parametrize("program", ["MissingData", "Regression", "GaussianMixture", "Conditional"])
def test_programs_on_a_table_draw_and_answer(program: str, mixed: Path) -> None:
    options = {"Regression": ("--target", "real"), "Conditional": ("--label", "kind")}
    folder = trained(mixed, "--program", program, *options.get(program, ()))
    run("sample", folder, "--n", 4, "--out", mixed.parent / "drawn.csv")
    found = pd.read_csv(mixed.parent / "drawn.csv", dtype={"plz": str})
    assert len(found) == 4 and set(found["plz"].astype(str)) <= {"01067", "01068", "01069", "20095"}
    if program == "Regression":  # new data, of which y is to be predicted
        new = mixed.parent / "new.csv"
        pd.read_csv(mixed, dtype={"plz": str}).drop(columns="real").to_csv(new, index=False)
        run("evaluate", folder, "--data", new, "--num-particles", 5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("--likelihood", "LogNormal", "--columns", "amount,real"),
            "the data of column 'real' range",
        ),
        (("--drop", "nothing"), "there is no column 'nothing'. Columns: "),
        (("--columns", "-when,-nothing"), "there is no column 'nothing'"),
        (("--kinds", "real=category,when=category"), ""),
    ],
)
def test_what_is_said_has_the_column_and_the_options_of_the_command_line(
    arguments: tuple[str, ...], words: str, mixed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["fit", "--data", str(mixed), "--out", str(mixed.parent / "run"), "--quiet"]
    with pytest.raises(SystemExit) as done:
        main([*command, "--epochs", "1", "--num-particles", "5", *arguments])
    said = capsys.readouterr().err
    assert words in said and "={" not in said
    assert done.value.code == (2 if words else 0)


def test_numbers_that_have_no_picture_say_so_before_the_work(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["score", str(folder / "run"), "--out", "scores.png"])
    assert "score gives numbers: --out ends with .csv or .npy" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (1e9 + np.linspace(0, 1, 40), "subtract what they have in common"),
        (np.append(np.linspace(0.5, 1, 40), 1e39), "more than float32 holds"),
    ],
)
def test_what_floats_lose_is_refused_by_the_columns_name(x: np.ndarray, words: str) -> None:
    frame = pd.DataFrame({"odd": x, "b": np.random.default_rng(0).normal(size=len(x))})
    with pytest.raises(pv.UsageError, match=f"column 'odd'.*{words}"):
        pv.data.table(frame)


def test_a_signal_of_whole_numbers_is_no_table() -> None:
    rng = np.random.default_rng(0)
    x = (3000 * rng.normal(size=(60, 80))).round()
    x[:, 0] = 0
    assert type(pv.VAE.of(torch.tensor(x).float()).likelihood).__name__ == "Normal"
