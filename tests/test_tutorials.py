"""The notebooks are what they say: made from their source, executed, clean, and in the index.

CI executes them anew and runs this file on what that gives.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

TOP = Path(__file__).parents[1]
NOTEBOOKS = sorted((TOP / "tutorials").glob("*.ipynb"))
INDEX = (TOP / "README.md").read_text().partition("## Tutorials")[2].partition("\n## ")[0]
INDEX += (TOP / "tutorials/site/pages/concepts.md").read_text()
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


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("torch", ["2.13.0+cpu", "1.0", ""])
def test_begin_alike_and_install_what_is_missing(
    there: bool, torch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One first cell for all. Where pyrovae is, it does nothing; where not, pip is asked for it and
    for the torch that is there, and for any other only if these two do not go together."""
    (first,) = {source(cells(path, "code")[0]) for path in NOTEBOOKS}
    asked: list[list[str]] = []

    def run(words: list[str], check: bool = False) -> SimpleNamespace:
        asked.append(words)
        return SimpleNamespace(returncode=int("torch==1.0" in words))

    found = [SimpleNamespace(version=torch)] if torch else []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if there else None)
    monkeypatch.setattr(importlib.metadata, "distributions", lambda name: found)
    monkeypatch.setattr(subprocess, "run", run)
    exec(first, {})
    install = [sys.executable, "-m", "pip", "install", "-q", "pyrovae"]
    kept = [*install, f"torch=={torch}"] if torch else install
    assert asked == ([] if there else [kept, install] if torch == "1.0" else [kept])
    assert not any(cells(path, "code")[0]["outputs"] for path in NOTEBOOKS)


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
        texts = [source(cell) for cell in read(path)["cells"]]
        begin = [k for k, text in enumerate(texts) if re.search(r"^## Exercise", text, re.M)]
        assert begin[0] <= 40  # and then the exercises
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
        assert "check" in source(code[-1]) and "Not yet" in source(code[-1])  # it can be wrong
        assert any(re.search(r"^def check\w*\(", source(cell), re.M) for cell in code[:-1])

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


# what a reader should be able to answer afterwards: the notebook, the section, words of the answer
QUIZ = {
    "which way round is the KL of a guide, and what does it do?": (
        "02",
        "Which way round? Mode-seeking and mass-covering",
        ["the guide draws", "mode-seeking", "mass-covering", "draws from $q$"],
    ),
    "where does the ELBO come from?": ("03", "Three lines", ["Jensen", "multiply and divide"]),
    "what is its gap?": ("03", "Three lines", [r"\mathrm{KL}\big(q(z \mid x) \,\|\, p(z \mid x)"]),
    "may a part of the ELBO worsen while it rises?": (
        "03",
        "The sum rises, either part may worsen",
        ["less* truthful", "less* probable"],
    ),
    "what does reparameterisation do?": (
        "04",
        "A path that ends at the dice",
        ["rsample", r"\mu + \sigma\,\varepsilon"],
    ),
    "what is the score function's gradient?": (
        "04",
        "Two ways to differentiate an average",
        [r"\nabla_\mu \log q(z)", "no path through the draw"],
    ),
    "what does a plate say, and what to_event?": (
        "01",
        "Shapes, and what happens when one is forgotten",
        ["A plate says what is repeated, `to_event` what belongs together"],
    ),
    "what does replay do?": (
        "03",
        "Six lines of Pyro",
        ["guide's values in place of its own draws"],
    ),
    "where do parameters live?": (
        "01",
        "Where the parameters live",
        ["parameter store", "pyro.module", "pyro.param", "stays empty"],
    ),
    "what is k-hat, and what is its limit?": (
        "02",
        "Draws from the guide, and when to believe them",
        ["Pareto", r"\min(1 - 1/\log_{10} S,\; 0.7)", "only where the guide has been"],
    ),
    "what is an effective sample size?": (
        "02",
        "Draws from the guide, and when to believe them",
        [r"(\sum_k w_k)^2 / \sum_k w_k^2"],
    ),
    "what are bits per dimension?": ("01", "Learning", ["Bits per dimension", "discrete"]),
    "amortisation or approximation gap?": (
        "03",
        "Whose fault is the gap?",
        ["**approximation gap**", "**amortisation gap**", "family"],
    ),
    "how is IWAE biased, and how does it fall with K?": (
        "03",
        "More draws, a tighter bound: IWAE",
        [r"\frac{1}{2K}", "half the bias", "rises with $K$"],
    ),
    "how do annealed bounds sandwich log p(x)?": (
        "02",
        "Walking instead of jumping: annealing",
        ["**upper** bound", "exact draw of the posterior"],
    ),
    "what is the cross-entropy of grey pixels, and what is it not?": (
        "05",
        "Two ways to get it wrong",
        ["expected log probability of the *binarised*", "does not integrate to 1"],
    ),
    "why does a VAE need no N / M?": (
        "05",
        "Batches, and the line that a VAE does not need",
        ["*local*", "*global*", "N / M"],
    ),
    "what is posterior collapse?": (
        "07",
        "Units that die at beta = 1",
        ["**posterior collapse**", "the decoder learns to ignore it"],
    ),
    "what is the aggregate posterior, and what does the rate measure?": (
        "07",
        "The curve of all choices",
        ["**aggregate posterior**", r"I_q(x;z)", "*upper bound* on the information"],
    ),
    "is a guide calibrated?": (
        "09",
        "Can a guide be trusted? Calibration",
        ["ranks are uniform", "too narrow piles them up at the ends"],
    ),
    "how is what is missing filled in, and when are its intervals too short?": (
        "08",
        "Does the noise tell the truth?",
        ["`pv.impute`", "weighed by how well they explain", "effective sample size"],
    ),
    "how can a discrete latent have a gradient?": (
        "04",
        "A discrete latent, exact or made soft",
        ["Gumbel", "*biased*", "temperature"],
    ),
}


@pytest.mark.parametrize("question", QUIZ)
def test_every_question_is_answered_in_a_section(question: str) -> None:
    number, title, words = QUIZ[question]
    (path,) = (path for path in NOTEBOOKS if path.name.startswith(number))
    text = "\n".join(source(cell) for cell in cells(path, "markdown"))
    sections = re.split(r"^## (.*)$", text, flags=re.MULTILINE)
    (answer,) = (
        body for name, body in zip(sections[1::2], sections[2::2], strict=True) if name == title
    )
    answer = re.sub(r"\s+", " ", answer)
    assert not [word for word in words if word not in answer]
