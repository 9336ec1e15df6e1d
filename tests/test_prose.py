"""What the notebooks' prose claims in numbers, a cell has computed; and their figures have words.

A number in prose is covered where a cell prints it (rounded as in the prose), asserts it, or, if it
is not a measurement but a setting, has it as a literal. Magnitudes in words ("a tenth", "millions",
"three times") must stand in the message of an assert, which is what makes them true.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "tutorials").glob("*.ipynb"))

SMALL = "two|three|four|five|six|seven|eight|nine|ten|twenty|fifty"
PARTS = "half|thirds?|quarters?|fifths?|sixths?|sevenths?|eighths?|ninths?|tenths?|hundredths?"
MAGNITUDES = re.compile(
    rf"\b(?:an?|one|{SMALL}) (?:{PARTS})\b(?! of a nat)"
    rf"|\bhalf of the\b|\bless than half\b|\bmore than half\b|\bhalf the \w+"
    rf"|\b(?:{SMALL}) (?:\w+ )?in (?:ten|a hundred)\b|\bone \w+ in a (?:few )?hundred"
    rf"|\b(?:{SMALL}|\d[\d,.]*|\w+ thousand|a million) times\b(?! as wide)|\b\w+-?fold\b"
    rf"|\b(?:tens|hundreds|thousands|millions|billions)\b"
    rf"|\b(?:an?|one|{SMALL}) (?:hundred|thousand|million|billion)\b"
    rf"|\b\w+ orders? of magnitude\b|\b(?:{SMALL}) (?:further |more )?seeds\b"
    r"|\bmost common\b",
    re.IGNORECASE,
)
NUMBER = re.compile(r"(?<![\w.^_{])[-\u2212]?\d[\d,]*(?:\.\d+)?(?![\w^])")
UNIT = re.compile(r"\s*(?:nats?\b|bits?\b|%|times\b)")
PRINTED = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


def cells(path: Path, kind: str) -> list[Any]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def text_of(cell: Any) -> str:
    return "".join(cell["source"])


def prose_of(markdown: str) -> str:
    """Without what is no claim: code, links, citations, displayed formulas, names of notebooks."""
    for pattern in (
        r"```.*?```",
        r"\$\$.*?\$\$",
        r"`[^`]*`",
        r"\[[^\]]*\]\([^)]*\)",
        r"(?m)\A# \d+\.[^\n]*",  # the title
        r"\*\*\d\.\*\*",  # an exercise's
        r"\bnotebooks? \d+(?:(?:,| and| to) \d+)*",
        r"\b(?:19|20)\d\d\b",
        r"\b32[ -]bits?\b",
        r"\\(?:mathcal|frac|tfrac|begin|end|pmatrix)\{[^}]*\}(?:\{[^}]*\})?",
    ):
        markdown = re.sub(pattern, " ", markdown, flags=re.DOTALL)
    return re.sub(r"\s+", " ", markdown)


def value_of(words: str) -> float:
    return float(words.replace(",", "").replace("\u2212", "-").rstrip("."))


class Computed:
    """What a notebook's cells print, assert and set."""

    def __init__(self, code: list[Any]) -> None:
        self.printed: list[float] = []
        self.literals: set[float] = set()
        self.asserted: set[float] = set()
        self.messages = ""
        for cell in code:
            if "solution" not in cell["metadata"].get("tags", ()):
                self._read(cell)

    def _read(self, cell: Any) -> None:
        for output in cell["outputs"]:
            shown = output.get("text") or output.get("data", {}).get("text/plain", "")
            shown = "".join(shown) + " "
            self.printed += [value_of(found) for found in PRINTED.findall(shown)]
        tree = ast.parse(re.sub(r"(?m)^[%!].*$", "", text_of(cell)))
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
                self.literals.add(float(node.value))
            if isinstance(node, ast.Assert):
                inside = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
                self.asserted |= {float(v) for v in inside if isinstance(v, int | float)}
                self.messages += " ".join(v for v in inside if isinstance(v, str)) + "\n"

    def holds(self, words: str, measured: bool) -> bool:
        value = abs(value_of(words))
        decimals = len(words.partition(".")[2])
        near = [abs(v) for v in self.printed] + [abs(v) for v in self.asserted]
        near += [100 * v for v in near if v <= 1]  # a share, in %
        if any(round(v, decimals) == value for v in near) or words in self.messages:
            return True
        return not measured and value in {abs(v) for v in self.literals}


def uncomputed(markdown: list[Any], code: list[Any]) -> list[str]:
    """The claims of the prose that no cell computes, each with what stands around it."""
    computed, missing = Computed(code), []
    for cell in markdown:
        prose = prose_of(text_of(cell))
        for found in MAGNITUDES.finditer(prose):
            if found.group().lower() not in computed.messages.lower():
                missing.append(prose[max(0, found.start() - 30) : found.end() + 30])
        for found in NUMBER.finditer(prose):
            words, rest = found.group().rstrip(",."), prose[found.end() :]
            measured = bool(UNIT.match(rest))
            if len(words.lstrip("-\u2212")) < 2 and not measured:
                continue  # "2 dimensions": a name rather than a number
            if not computed.holds(words, measured):
                missing.append(prose[max(0, found.start() - 30) : found.end() + 30])
    return missing


def some_cell(source: str, text: str = "") -> dict[str, Any]:
    return {"source": source, "metadata": {}, "outputs": [{"text": text}] if text else []}


# what notebooks have claimed, what their cells printed, and whether the one follows from the other
CLAIMS = {
    "a million times the variance": ("", "ratio: 206,845", False),
    "a hundred thousand times the variance": (
        "assert 5e4 < ratio < 1e6, 'a hundred thousand times'",
        "ratio: 206,845",
        True,
    ),
    "it is about a tenth": ("", "0.1667", False),
    "it is about a sixth": ("assert 0.15 < share < 0.18, 'a sixth'", "0.1667", True),
    "some millions of draws": ("", "44,000", False),
    "four times the rate": ("", "3.4", False),
    "3.4 times the rate": ("assert 3.2 < x < 3.6, '3.4 times'", "3.4", True),
    "with three seeds": ("", "", False),
    "the most common bug": ("", "", False),
    "each is 25 nats more probable": ("", "11.6 to 34.3", False),
    "each is 12 to 34.3 nats more probable": ("", "11.6 to 34.3", True),
    "about 93 % agree": ("", "within 3 s.e.: 93%", True),
    "about 9 % agree": ("", "within 3 s.e.: 93%", False),
    "grids of 80 points": ("points = 80", "", True),
    "it costs 80 nats": ("points = 80", "", False),
    "Tipping and Bishop (1999), notebook 12, $z_{12}$ and `x[123]`": ("", "", True),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_claims_without_a_computation_are_found(claim: str) -> None:
    source, printed, holds = CLAIMS[claim]
    missing = uncomputed([some_cell(claim)], [some_cell(source, printed)])
    assert (not missing) is holds, missing


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_numbers_in_prose_are_computed(self, path: Path) -> None:
        assert not uncomputed(cells(path, "markdown"), cells(path, "code"))

    def test_figures_have_words_and_are_sharp(self, path: Path) -> None:
        """nbconvert takes a cell's ``alt`` for its figure; a figure has two dots per pixel."""
        for cell in cells(path, "code"):
            for output in cell["outputs"]:
                if not {"image/png", "image/svg+xml"} & set(output.get("data", {})):
                    continue
                words = cell["metadata"].get("alt", "")
                assert len(words.split()) >= 5, text_of(cell)[:200]
                sharp = "image/svg+xml" in output["data"]
                assert sharp or "width" in output["metadata"].get("image/png", {}), words
