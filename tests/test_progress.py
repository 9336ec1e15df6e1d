"""Long work shows its name, how far it is and what is left, where somebody watches."""

from __future__ import annotations

import inspect
import io
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pyrovae as pv
from pyrovae import cli, progress
from pyrovae.cli.verbs import Verb
from pyrovae.program import Program

SIZE = 5
GONE = torch.tensor([[float("nan"), *[1.0] * (SIZE - 1)]]).repeat(30, 1)


class Bar:
    """What a bar is told, in tqdm's place."""

    made: list[Bar]

    def __init__(self, loop: progress.Loop, words: str) -> None:
        self.total, self.words, self.n, self.moves, self.open = loop.total, words, 0.0, 0, True
        assert not [bar for bar in self.made if bar.open and bar.thread == threading.get_ident()]
        self.thread = threading.get_ident()
        self.made.append(self)

    def update(self, count: float) -> None:
        assert self.open and count > 0
        self.n, self.moves = self.n + count, self.moves + 1

    def close(self) -> None:
        self.open = False

    def set_description_str(self, words: str, refresh: bool) -> None:
        self.words = words

    def set_postfix_str(self, words: str, refresh: bool) -> None:
        pass

    def write(self, message: str, file: io.StringIO) -> None:
        file.write(f"{message}\n")


@pytest.fixture(autouse=True)
def no_work_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "DELAY", 0.0)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(pv.aggregate, "EPOCHS", 2)


class Screen:
    """What has been written to the standard error."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys, self.seen = capsys, ""

    def getvalue(self) -> str:
        self.seen += self.capsys.readouterr().err
        return self.seen


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Screen:
    """A standard error that somebody watches."""
    monkeypatch.setattr(progress, "interactive", lambda: True)
    return Screen(capsys)


@pytest.fixture
def bars(terminal: Screen, monkeypatch: pytest.MonkeyPatch) -> list[Bar]:
    monkeypatch.setattr(Bar, "made", [], raising=False)
    monkeypatch.setattr(progress, "_bar", Bar)
    return Bar.made


def pair() -> pv.VAE:
    torch.manual_seed(0)
    return pv.VAE(
        (SIZE,),
        2,
        likelihood=pv.likelihoods.Bernoulli(pv.networks.MLP([4])),
        guide=pv.guides.MeanField(pv.networks.MLP([4])),
    )


def digits(count: int = 600) -> Tensor:
    return torch.bernoulli(torch.full((count, SIZE), 0.5), generator=torch.Generator())


def initialised(program: type[Program]) -> Callable[[pv.VAE, Tensor], object]:
    def call(_: object, x: Tensor) -> None:
        labels = torch.arange(len(x)) % 3
        size = {"clusters": 3} if program is pv.programs.GaussianMixture else {"classes": 3}
        made: Any = program((SIZE,), latent_dim=2, pretraining=2, **size)
        data = pv.tensors.TensorData(x, labels=labels)
        made.initialise(made.serve(data, training=True))

    return call


# every verb, so small and in so many parts that all of them move a bar; the words that are shown
VERBS: dict[str, tuple[Callable[..., object], str]] = {
    "fit": (lambda p, x, **how: pv.fit(p, x, epochs=2, **how), "epoch 2/2"),
    "evaluate": (
        lambda p, x, **how: pv.evaluate(p, x, 20, chunk_bytes=2**17, **how),
        "evaluate, 20 particles",
    ),
    "elbo": (lambda p, x, **how: pv.elbo(p, x, 2, chunk_bytes=2**14, **how), "elbo, 2 particles"),
    "log_evidence": (
        lambda p, x, **how: pv.log_evidence(p, x, 20, chunk_bytes=2**17, **how),
        "log evidence, 20 particles",
    ),
    "exact_log_evidence": (
        lambda p, x: pv.exact_log_evidence(p, x[:40], points=20),
        "exact log evidence",
    ),
    "gap": (
        lambda p, x, **how: pv.gap(p, x[:40], 20, refine_particles=4, steps=5, **how),
        "gap",
    ),
    "anneal": (
        lambda p, x, **how: pv.anneal(p, x[:20], pv.Annealing(chains=2, temperatures=8), **how),
        "anneal, annealing",
    ),
    "sandwich": (
        lambda p, x, **how: pv.sandwich(
            p, x[:4], path=pv.Annealing(chains=2, temperatures=8), simulations=3, **how
        ),
        "sandwich, simulated data",
    ),
    "information": (
        lambda p, x, **how: pv.information(p, x[:40], chunk_bytes=2**12, **how),
        "information, densities",
    ),
    "posterior": (
        lambda p, x, **how: pv.posterior(p, x[:3], draws=10, chains=2, **how),
        "posterior, data",
    ),
    "calibrate": (
        lambda p, x, **how: pv.calibrate(p, simulations=40, draws=19, **how),
        "calibrate, 40 simulations",
    ),
    "predictive_check": (
        lambda p, x, **how: pv.predictive_check(p, x, torch.mean, replicates=5, **how),
        "predictive check, 5 replicates",
    ),
    "sample": (lambda p, x: pv.sample(p, 1100), "sample"),
    "decode": (lambda p, x: pv.decode(p, torch.zeros(1100, 2)), "decode"),
    "encode": (lambda p, x: pv.encode(p, x), "encode"),
    "reconstruct": (lambda p, x: pv.reconstruct(p, x), "reconstruct"),
    "interpolate": (lambda p, x: pv.interpolate(p, x[:80], x[80:160]), "interpolate"),
    "traverse": (lambda p, x: pv.traverse(p, x, dims=[0, 1]), "traverse: encode"),
    "neighbours": (lambda p, x: pv.neighbours(p, x, x), "neighbours: encode"),
    "impute": (
        lambda p, x, **how: pv.impute(p, GONE, num_particles=20, **how),
        "impute, 20 particles",
    ),
    "fit_codes": (
        lambda p, x, **how: pv.fit_codes(p, x[:200], "flow", **how),
        "fit codes, epoch 2/2",
    ),
    "initialise a GaussianMixture": (
        initialised(pv.programs.GaussianMixture),
        "initialise: autoencoder, epoch 2/2",
    ),
    "initialise a SemiSupervised": (
        initialised(pv.programs.SemiSupervised),
        "initialise: all as if labelled, epoch 2/2",
    ),
}
SWITCHED = [
    name for name in VERBS if "progress" in inspect.signature(getattr(pv, name, len)).parameters
]
# one run of the programs, a page, or made of others
BRIEF = {"explore", "export", "graph", "save", "shapes", "sketch", "to_arviz"}


def test_every_verb_has_a_row() -> None:
    verbs = {
        name
        for name in pv.__all__
        if inspect.isfunction(found := getattr(pv, name))
        and next(iter(inspect.signature(found).parameters), "") == "pair"
    }
    assert verbs - BRIEF == {name for name in VERBS if " " not in name}
    programs = {
        f"initialise a {name}"
        for name in dir(pv.programs)
        if isinstance(found := getattr(pv.programs, name), type)
        and "pretraining" in inspect.signature(found).parameters
    }
    assert programs <= VERBS.keys()


@pytest.mark.parametrize("name", VERBS)
class TestVerb:
    def test_shows_its_name_the_share_and_what_is_left(self, name: str, terminal: Screen) -> None:
        call, words = VERBS[name]
        call(pair(), digits())
        text = terminal.getvalue()
        assert words.partition(" epoch")[0] in text and "%" in text and " left" in text

    def test_counts_to_its_total_with_one_bar_at_a_time(self, name: str, bars: list[Bar]) -> None:
        call, words = VERBS[name]
        call(pair(), digits())
        assert any(bar.words == words for bar in bars)
        for bar in bars:
            assert not bar.open
            assert bar.n == pytest.approx(bar.total)  # of what nobody can count both are 0
        assert progress.alone()

    def test_is_silent_when_asked_to(self, name: str, terminal: Screen) -> None:
        with pv.quiet():
            VERBS[name][0](pair(), digits())
        assert not terminal.getvalue()

    def test_shows_no_bar_where_nobody_watches(
        self, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        VERBS[name][0](pair(), digits())
        text = capsys.readouterr().err
        assert " left" not in text
        assert not text or name == "fit"  # which tells of each epoch


@pytest.mark.parametrize("name", SWITCHED)
def test_is_silent_by_its_argument(name: str, terminal: Screen) -> None:
    VERBS[name][0](pair(), digits(), progress=False)
    assert not terminal.getvalue()


def test_the_slow_verbs_can_be_switched() -> None:
    assert {"evaluate", "log_evidence", "gap", "calibrate", "impute", "fit_codes"} <= {*SWITCHED}


def test_a_terminal_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    VERBS["evaluate"][0](pair(), digits())
    text = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "evaluate, 20 particles" in text and " left" in text


def test_a_notebook_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert not progress.interactive()
    monkeypatch.setitem(sys.modules, "ipykernel", SimpleNamespace())  # type: ignore[arg-type]
    assert progress.interactive()


def test_of_several_processes_one_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", SimpleNamespace())  # type: ignore[arg-type]
    for rank, watched in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        assert progress.interactive() == watched


def test_a_whole_program_is_silent_by_its_environment(
    terminal: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")
    pv.encode(pair(), digits())
    pv.fit(pair(), digits(), epochs=1)
    assert not terminal.getvalue()


def test_no_standard_error_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)  # as under pythonw
    assert len(pv.encode(pair(), digits())) == 600


# --- the bar -------------------------------------------------------------------------------------


def test_a_bar_waits_and_then_knows_what_is_left(
    terminal: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(progress, "DELAY", 1.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr("tqdm.std.time", lambda: now)
    seen = []

    @progress.shown("wait")
    def wait() -> None:
        nonlocal now
        for _ in progress.steps(range(40), 40):
            seen.append(terminal.getvalue().rpartition("\r")[2])
            now += 0.75

    wait()
    assert seen[:2] == ["", ""]  # 0.75 seconds are not long
    assert " 5% 00:01, 00:28 left" in seen[2]  # 1.5 of 30 seconds
    assert "75% 00:22, 00:07 left" in seen[30]
    assert not terminal.getvalue().rpartition("\r")[0].rpartition("\r")[2].strip()  # gone


def test_loops_inside_divide_a_step(bars: list[Bar]) -> None:
    places = []
    with progress.task("outer"):
        for _ in progress.steps(range(2), 2):
            for _ in progress.steps([1, 3], 4, size=float):
                for _ in progress.steps("ab", 2):
                    places.append(bars[0].n)
    assert places == pytest.approx([0, 0.125, 0.25, 0.625, 1, 1.125, 1.25, 1.625])
    assert len(bars) == 1 and bars[0].n == pytest.approx(2)


def test_a_second_loop_inside_a_step_does_not_go_back(bars: list[Bar]) -> None:
    with progress.task("outer"):
        for _ in progress.steps(range(2), 2):
            for _ in range(2):
                for _ in progress.steps(range(3), 3):
                    pass
    assert bars[0].n == pytest.approx(2)  # and no move was backwards: Bar.update sees to it


def test_verbs_move_within_a_batch(bars: list[Bar]) -> None:
    """One batch of all the data, its particles in many slices."""
    pv.log_evidence(pair(), digits(4), 400, chunk_bytes=2**14)
    assert bars[0].moves > 4 and bars[0].total == 4


def test_loops_outside_a_task_show_nothing(bars: list[Bar]) -> None:
    assert list(progress.steps(range(3), 3)) == [0, 1, 2]
    with progress.count(3) as loop:
        loop.advance(3)
    assert not bars


def test_an_error_ends_the_bar(bars: list[Bar]) -> None:
    def failing(x: Tensor) -> float:
        if bars and bars[0].n:
            raise ValueError("halfway")
        return 0.0

    with pytest.raises(ValueError, match="halfway"):
        pv.predictive_check(pair(), digits(), failing, replicates=4)
    assert len(bars) == 1 and not bars[0].open and progress.alone()
    pv.encode(pair(), digits())
    assert bars[-1].words == "encode"


def test_a_loop_that_is_left_ends(bars: list[Bar]) -> None:
    with progress.task("outer"):
        for _ in progress.steps(range(3), 3):
            break
        assert not bars[0].open
        list(progress.steps(range(3), 3, "again"))
    assert [bar.words for bar in bars] == ["outer", "outer, again"]


def test_what_is_silent_stays_silent_inside(bars: list[Bar]) -> None:
    with pv.quiet(), progress.task("outer"):
        list(progress.steps(range(3), 3))
        pv.evaluate(pair(), digits(), 20, chunk_bytes=2**17, progress=True)
    assert not bars


def test_a_verb_inside_may_be_silent_alone(bars: list[Bar]) -> None:
    with progress.task("outer"):
        for _ in progress.steps(range(2), 2):
            pv.evaluate(pair(), digits(), 20, chunk_bytes=2**17, progress=False)
            assert bars[0].n == int(bars[0].n)
    assert len(bars) == 1


def test_verbs_in_callbacks_leave_the_bar_of_fit_alone(bars: list[Bar]) -> None:
    vae, x = pair(), digits()
    pv.fit(vae, x, epochs=2, callbacks=[lambda _: bool(pv.evaluate(vae, x, 2).units < 0)])
    assert [bar.words for bar in bars] == ["epoch 2/2"]
    assert bars[0].n == 2 * len(x)


def test_what_fit_says_stands_above_its_bar(bars: list[Bar], terminal: Screen) -> None:
    with progress.task("outer"), progress.count(3, leave=True):
        progress.say("a line")
    assert terminal.getvalue() == "a line\n"


def test_threads_have_bars_of_their_own(bars: list[Bar]) -> None:
    meet = threading.Barrier(2, timeout=30)

    def work(name: str, total: int) -> None:
        with progress.task(name):
            for _ in progress.steps(range(total), total):
                meet.wait()
            assert not progress.alone()

    threads = [threading.Thread(target=work, args=(name, 50)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {bar.words: bar.n for bar in bars} == {"one": 50, "two": 50}
    assert progress.alone()


def test_numbers_do_not_depend_on_who_watches(terminal: Screen) -> None:
    vae, x = pair(), digits(50)
    seen = pv.log_evidence(vae, x, 20, chunk_bytes=2**15)
    with pv.quiet():
        assert torch.equal(seen, pv.log_evidence(vae, x, 20, chunk_bytes=2**15))


# --- the command line ----------------------------------------------------------------------------


def run(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    assert not ended.value.code, sys.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Data, and options of a program that is trained before it is trained."""
    path = tmp_path_factory.mktemp("progress")
    np.save(path / "x.npy", digits(300).numpy())
    return path


def fit(folder: Path, name: str, *more: str) -> None:
    program = ["--program", "GaussianMixture", "--program.clusters", "2"]
    program += ["--program.pretraining", "1", "--latent-dim", "2", "--num-particles", "20"]
    sized = ["--data", str(folder / "x.npy"), "--epochs", "1", "--out", str(folder / name)]
    run("fit", *sized, *program, *more)


def test_fit_shows_all_that_it_does(folder: Path, bars: list[Bar]) -> None:
    fit(folder, "shown")
    kinds = [bar.words.split(",")[0] for bar in bars]
    assert kinds[:4] == ["initialise: autoencoder", "initialise", "epoch 1/1", "evaluate"]
    assert kinds[-1] == "figures"


@pytest.mark.parametrize("flag", ["--quiet", "--json"])
def test_fit_is_silent_from_its_first_line_on(folder: Path, flag: str, terminal: Screen) -> None:
    fit(folder, f"silent{flag}", flag)
    assert not [line for line in terminal.getvalue().split("\r") if "%" in line or "left" in line]
    assert "..." not in terminal.getvalue()


def test_verbs_show_what_they_do_unless_they_are_asked_not_to(
    folder: Path, terminal: Screen
) -> None:
    fit(folder, "read", "--quiet")
    before = len(terminal.getvalue())
    run("evaluate", str(folder / "read"), "--num-particles", "20", "--quiet")
    assert len(terminal.getvalue()) == before
    run("evaluate", str(folder / "read"), "--num-particles", "20")
    assert "evaluate, 20 particles" in terminal.getvalue()[before:]


@pytest.mark.parametrize(
    "verb", [command for command in cli.COMMANDS.values() if isinstance(command, Verb)],
    ids=lambda verb: verb.__name__,
)  # fmt: skip
def test_every_command_on_a_run_can_be_quiet(
    verb: Verb, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        verb(["--help"])
    assert "--quiet" in capsys.readouterr().out


def test_a_page_is_exported_in_sight(bars: list[Bar], tmp_path: Path) -> None:
    view = pv.explorer.View(pair(), digits(60))
    pv.explorer.export(view, tmp_path / "page.html", steps=3)
    assert [bar.words for bar in bars][:2] == ["evaluate", "encode"]
    assert bars[-1].words.startswith("export the page")
