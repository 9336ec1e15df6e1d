"""The notebooks are what they say: made from their source, executed, clean, and in the index.

CI executes them anew and runs this file on what that gives.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).parents[1]
NOTEBOOKS = sorted((TOP / "tutorials").glob("*.ipynb"))
INDEX = (TOP / "README.md").read_text().partition("## Tutorials")[2].partition("\n## ")[0]
CONCEPTS = [
    "a distribution instead of one code",
    "encoder, decoder, prior",
    "the intractable marginal",
    "the ELBO's derivation",
    "reconstruction term and KL term",
    "the closed-form KL of diagonal Gaussians",
    "the loss used in practice",
    "why sampling breaks backpropagation",
    "reparameterisation: how ε mends it",
    "smooth latent space",
    "interpolation",
    "sampling",
    "what a region means",
    "too strong a KL blurs",
    "too weak a KL is an autoencoder",
    "model and guide",
    "`Trace_ELBO` against the analytic KL",
    "swapping the likelihood",
    "swapping the prior",
    "swapping the guide",
    "custom pairs",
    "`sample`",
    "`plate`",
    "`to_event`",
    "`replay`",
    "GPU",
    "the compiled step",
    "resuming a run",
]


def read(path: Path) -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads(path.read_text())
    return notebook


def cells(path: Path, kind: str) -> list[Any]:
    return [cell for cell in read(path)["cells"] if cell["cell_type"] == kind]


def source(cell: Any) -> str:
    return "".join(cell["source"])


def outputs(path: Path) -> list[Any]:
    return [output for cell in cells(path, "code") for output in cell["outputs"]]


def test_there_are_ten() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{k:02}" for k in range(1, 11)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_is_its_source(self, path: Path) -> None:
        jupytext = pytest.importorskip("jupytext", reason="pip install .[tutorials]")
        made = jupytext.read(path.with_suffix(".py"))["cells"]
        assert [c["source"] for c in made] == [source(c) for c in read(path)["cells"]]

    def test_was_executed_from_the_top_without_complaint(self, path: Path) -> None:
        code = cells(path, "code")
        assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
        complaints = [
            output
            for output in outputs(path)
            if output["output_type"] == "error" or output.get("name") == "stderr"
        ]
        assert not complaints

    def test_is_short_and_shows_figures(self, path: Path) -> None:
        assert len(read(path)["cells"]) <= 40
        figures = [o for o in outputs(path) if "image/png" in o.get("data", {})]
        assert len(figures) >= 3
        shown = ["".join(o["data"].get("text/plain", "")) for o in outputs(path) if "data" in o]
        assert not [text for text in shown if re.match(r"<(Axes|matplotlib)|Text\(|\[<", text)]

    def test_shows_nothing_from_elsewhere(self, path: Path) -> None:
        text = "\n".join(source(cell) for cell in cells(path, "markdown"))
        assert not re.search(r"!\[[^\]]*\]\(\s*https?:|<(img|iframe|script)", text)

    def test_links_lead_somewhere(self, path: Path) -> None:
        text = "\n".join(source(cell) for cell in cells(path, "markdown"))
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert target.startswith("https://") or (path.parent / target).exists(), target

    def test_ends_in_an_exercise_with_a_solution_that_is_run(self, path: Path) -> None:
        code = cells(path, "code")
        assert "solution" in code[-1]["metadata"]["tags"]
        assert code[-1]["metadata"]["jupyter"]["source_hidden"]
        assert re.search(r"check(_\d)?\(", source(code[-1])) and "Not yet" in source(
            code[-1]
        )  # it can be wrong
        assert any(re.search(r"^def check(_\d)?\(", source(cell), re.M) for cell in code[:-1])

    def test_claims_are_asserted(self, path: Path) -> None:
        asserts = [source(cell) for cell in cells(path, "code")[:-1]]
        assert sum(len(re.findall(r"^\s*assert ", text, re.MULTILINE)) for text in asserts) >= 3

    def test_is_in_the_index(self, path: Path) -> None:
        assert f"(tutorials/{path.name})" in INDEX


@pytest.mark.parametrize("concept", CONCEPTS)
def test_every_concept_leads_to_notebooks(concept: str) -> None:
    (row,) = re.findall(rf"^\| {re.escape(concept)} \| (.*) \|$", INDEX, re.MULTILINE)
    numbers = [int(number) for number in re.findall(r"\d+", row)]
    assert numbers and all(1 <= number <= 10 for number in numbers)
