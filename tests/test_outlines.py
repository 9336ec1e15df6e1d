"""Signatures read from the source are those of the classes; the command line needs no torch."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

import pyrovae as pv
from pyrovae import cli, components, outlines, signatures
from pyrovae.cli import options
from pyrovae.outlines import Argument, Outline

Run = Callable[..., SimpleNamespace]


def argument(slot: components.Slot) -> Argument:
    """What a constructor's own signature says of an argument."""
    if slot.required:
        return Argument(slot.part, None)
    own = "none" if slot.default is None else type(slot.default).__name__
    return Argument(slot.part, own if slot.part else str(slot.default))


def imported(part: str) -> dict[str, Outline]:
    """The classes of a part as Python has them once they are imported."""
    return {
        name: Outline(
            name,
            inspect.getdoc(cls) or "",
            {key: argument(slot) for key, slot in components.slots(cls).items()},
        )
        for name, cls in components.classes(part).items()
    }


@pytest.mark.parametrize("part", outlines.PARTS)
def test_the_source_says_of_classes_what_python_does(part: str) -> None:
    found = outlines.classes(part)
    assert found == imported(part) and list(found) == list(imported(part))


def test_the_source_says_of_fit_what_python_does() -> None:
    found, live = outlines.options("training", "fit"), signatures.options(pv.fit)
    assert list(found) == list(live)
    for name, option in live.items():
        assert (found[name].default, found[name].words) == (option.default, option.words)
        assert found[name].told(options.TEXT) == option.told(options.TEXT), name
    with pytest.raises(LookupError):
        outlines.options("training", "fitt")


def test_help_is_the_same_once_all_is_imported(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [["fit", "--help"]]
    asked += [
        ["fit", f"--{option}", name, "--help"]
        for option, part in options.PARTS.items()
        for name in components.classes(part)
    ]
    read = [run(*arguments).out for arguments in asked]
    monkeypatch.setattr(outlines, "classes", imported)
    monkeypatch.setattr(outlines, "options", lambda room, name: signatures.options(pv.fit))
    for kept in ("of_fit", "fit_groups"):
        monkeypatch.setattr(options, kept, getattr(options, kept).__wrapped__)
    assert [run(*arguments).out for arguments in asked] == read


MISTAKES = {
    "train": "did you mean 'fit'",
    "fit --epoch 3": "did you mean '--epochs'",
    "fit --optimiser adam": "that is given in Python, pv.fit(pair, x, optimizer=...)",
    "fit --prior": "--prior needs a value",
    "evaluate": "arguments are required: run",
    "sample runs/mine --latents 3": "there is no option --latents",
    "info": "give a run folder, or --data",
}


def test_help_and_mistakes_in_flags_open_no_torch() -> None:
    helps = [[command, "--help"] for command in cli.COMMANDS]
    helps += [["fit", "--prior", "VampPrior", "--guide.network", "MLP", "--help"]]
    program = f"""
import sys
from pyrovae import cli
for code, asked in {[(0, helps), (2, [words.split() for words in MISTAKES])]!r}:
    for arguments in asked:
        try:
            cli.main(arguments)
        except SystemExit as stopped:
            assert stopped.code == code, arguments
heavy = {{"torch", "pyro", "numpy", "yaml", "pandas", "matplotlib"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    told = done.stderr.splitlines()
    assert done.returncode == 0 and len(told) == len(MISTAKES), done.stderr
    for line, words in zip(told, MISTAKES.values(), strict=True):
        assert words in line
    assert all(f"\nusage: pyrovae {name} " in f"\n{done.stdout}" for name in cli.COMMANDS)


@pytest.mark.parametrize("option", ["prior VampPrio", "loss IWEA", "program Foo"])
def test_help_knows_a_misspelt_class(run: Run, option: str) -> None:
    part, name = option.split()
    said = run("fit", f"--{part}", name, "--help", code=2).err
    assert f"there is no {part} '{name}'" in said
