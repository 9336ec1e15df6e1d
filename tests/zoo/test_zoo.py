"""Every verb on every program of the zoo: a number held against one by hand, or one sentence."""

from __future__ import annotations

import functools
import importlib
import os
import pkgutil
import re
import signal
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyro
import pytest
import torch

import pyrovae as pv
from zoo.cases import Case, Subject
from zoo.totals import Estimate
from zoo.verbs import VERBS, hand_elbo, hand_loss, near

README = Path(__file__).with_name("README.md")
START, END = "<!-- programs and verbs -->\n", "<!-- end -->\n"
LONGEST = 600  # characters of a refusal
PATIENCE = 120  # seconds, on a machine that is busy with other things


def collected() -> dict[str, Case]:
    """The cases of every module of this room."""
    found: dict[str, Case] = {}
    for module in sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)])):
        if not module.startswith("test_"):
            for case in getattr(importlib.import_module(f"zoo.{module}"), "CASES", ()):
                assert case.name not in found, case.name
                found[case.name] = case
    return found


CASES = collected()


@dataclass(frozen=True)
class Outcome:
    """``right``, ``refused``, ``wrong`` or ``crashed``, and the words."""

    kind: str
    words: str = ""


@contextmanager
def in_time() -> Iterator[None]:
    """A verb that does not come back is a crash, and the rest of the room goes on: torch's
    VonMises, for one, draws for ever once its parameters are NaN."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"no answer within {PATIENCE} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@functools.cache
def outcome(name: str, verb: str) -> Outcome:
    torch.set_num_threads(1)
    pyro.clear_param_store()  # what Pyro's own SVI left there is nobody's here
    try:
        with in_time(), tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("error")
            # a part that one of several pairs of programs uses, told rightly of the others
            warnings.filterwarnings("ignore", message="the log probabilities do not depend on")
            VERBS[verb](CASES[name], Path(folder))
    except pv.UsageError as error:
        return Outcome("refused", str(error))
    except AssertionError as error:
        return Outcome("wrong", str(error))
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno}"
        return Outcome("crashed", f"{type(error).__name__} at {place}: {error}")
    finally:
        pyro.clear_param_store()
    return Outcome("right")


@pytest.mark.parametrize("name", CASES)
def test_programs_are_the_same_every_time(name: str) -> None:
    """What is compared between two makings of a program rests on this."""
    losses = []
    for _ in range(2):
        subject = Subject(CASES[name])
        args = subject.case.arguments(subject.whole)
        torch.manual_seed(1)
        losses.append(subject.case.loss().loss(subject.model, subject.guide, *args[0], **args[1]))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.as_pyro])
def test_totals_by_hand_are_pyros(name: str) -> None:
    """Two ways to the same number: the sum over the data, and Pyro's own ELBO."""
    case = CASES[name]
    theirs, ours = hand_loss(case), hand_elbo(case)
    total = Estimate(-ours.values.double().mean(1, keepdim=True))
    error = (theirs.error**2 + total.error**2).sqrt()
    near(total.mean, theirs.mean, error, "loss")


@pytest.mark.parametrize(("name", "verb"), [(n, v) for n in CASES for v in VERBS])
def test_verb(name: str, verb: str) -> None:
    """A right number, or a refusal that is known, in one sentence."""
    case, found = CASES[name], outcome(name, verb)
    pattern = case.refusal(verb)
    if found.kind == "refused":
        assert pattern is not None, f"refused: {found.words}"
        assert re.search(pattern, found.words), f"{pattern!r} is not in: {found.words}"
        assert "\n" not in found.words and len(found.words) < LONGEST
    else:
        assert found.kind == "right", found.words
        assert verb not in case.unanswerable, "it has no answer, and was not refused"


def test_most_of_what_has_a_meaning_is_answered() -> None:
    cells = [(n, v) for n, case in CASES.items() for v in VERBS if v not in case.unanswerable]
    right = sum(outcome(*cell).kind == "right" for cell in cells)
    assert right >= 0.8 * len(cells), f"{right} of {len(cells)}"


def test_readme_has_the_table_of_programs_and_verbs() -> None:
    """Made of what the verbs said; PYROVAE_WRITE_TABLE=1 puts it there."""
    reasons: dict[str, int] = {}
    lines = [f"| program | structure | {' | '.join(f'`{verb}`' for verb in VERBS)} |"]
    lines.append("|---" * (len(VERBS) + 2) + "|")
    for name, case in CASES.items():
        cells = []
        for verb in VERBS:
            found = outcome(name, verb)
            if found.kind == "refused":
                words = " ".join(found.words.split())[:LONGEST]
                number = reasons.setdefault(words, len(reasons) + 1)
                cells.append(f"{'-' if verb in case.unanswerable else 'no'} ({number})")
            else:
                cells.append({"right": "yes"}.get(found.kind, found.kind.upper()))
        lines.append(f"| {name} | {case.like} | {' | '.join(cells)} |")
    notes = [f"{number}. {words}" for words, number in reasons.items()]
    table = "\n".join([*lines, "", *notes]) + "\n"
    before, rest = README.read_text().split(START)
    there, after = rest.split(END, 1)
    if os.environ.get("PYROVAE_WRITE_TABLE"):
        README.write_text(before + START + table + END + after)
    else:
        assert there == table
