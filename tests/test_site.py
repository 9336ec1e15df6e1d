"""The documentation site: students get no solutions, lecturers an answer to each question, formulas
are formulas, and what is built has no warning, no dead link and no picture without words."""

from __future__ import annotations

import ast
import html
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

import pyrovae as pv

TOP = Path(__file__).parents[1]
SITE = TOP / "tutorials" / "site"
NEEDS = ("material", "mkdocs", "mkdocstrings_handlers", "latex2mathml")
ROOMS = ["priors", "likelihoods", "guides", "objectives"]
TEX = {  # by hand
    "p(z) = prod_d N(z_d; loc_d, scale_d^2)": r"p(z)=\prod_{d}\mathcal{N}(z_{d};\mathrm{loc}_{d},"
    r"\mathrm{scale}_{d}^{2})",
    "prod_d p_d^x_d (1 - p_d)^(n - x_d)": r"\prod_{d}p_{d}^{x_{d}}(1-p_{d})^{n-x_{d}}",
    "exp(-|z_d|) / 2": r"\exp(-\left\vertz_{d}\right\vert)/2",
    "p(x'|z)": r"p(x'\midz)",
    "L(x) L(x)'": r"L(x)L(x)^\top",
    "KL(q(z|x) || p(z))": r"\mathrm{KL}(q(z\midx)\,\Vert\,p(z))",
    "(1 + loc(x) . z)^concentration(x)": r"(1+\mathrm{loc}(x)\cdotz)^{\mathrm{concentration}(x)}",
    "|det df/dz|": r"\left\vert\det\mathrm{d}f/\mathrm{d}z\right\vert",
    "x in {0, ..., classes - 1}": r"x\in\{0,\ldots,\mathrm{classes}-1\}",
}
PROSE = ["heavy tails, which pull clusters", "the mean over all data", "a point", "x real, y too"]


def module(name: str) -> Any:
    """A file of the site's folder, which is no package."""
    spec = importlib.util.spec_from_file_location(f"site_{name}", SITE / f"{name}.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


editions, formulas = module("editions"), module("formulas")
NOTEBOOKS = editions.notebooks()
NOTES = yaml.safe_load((SITE / "lecturer.yaml").read_text())
by_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def solutions(notebook: Any) -> list[Any]:
    return [cell for cell in notebook["cells"] if editions.tagged(cell, "solution")]


def names(cells: list[Any], context: type) -> set[str]:
    """Names that cells load or store, functions and classes they define among these."""
    found = set()
    for cell in cells:
        lines = "".join(cell["source"]).splitlines()
        python = "\n".join(line for line in lines if not line.startswith(("%", "!")))
        for node in ast.walk(ast.parse(python)):
            if isinstance(node, ast.Name) and isinstance(node.ctx, context):
                found.add(node.id)
            if context is ast.Store and isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
    return found


@by_notebook
class TestStudents:
    def test_get_no_line_of_a_solution_and_nothing_that_it_printed(self, path: Path) -> None:
        notebook = editions.read(path)
        given = json.dumps(editions.student(notebook, path.name), ensure_ascii=False)
        assert solutions(notebook)
        rest = json.dumps([cell for cell in notebook["cells"] if cell not in solutions(notebook)])
        for cell in solutions(notebook):
            printed = [line for output in cell["outputs"] for line in output.get("text", [])]
            for line in [*cell["source"], *printed]:
                said = json.dumps(line, ensure_ascii=False)[1:-1]
                assert len(line.strip()) < 12 or said not in given or said in rest, line

    def test_get_all_the_rest(self, path: Path) -> None:
        notebook = editions.read(path)
        given = editions.student(notebook, path.name, None)
        pairs = zip(notebook["cells"], given["cells"], strict=True)
        assert all(editions.tagged(a, "solution") or a == b for a, b in pairs)

    def test_can_run_theirs(self, path: Path) -> None:
        """Nothing that a solution defines is used elsewhere."""
        notebook = editions.read(path)
        others = [
            cell
            for cell in notebook["cells"]
            if cell["cell_type"] == "code" and cell not in solutions(notebook)
        ]
        only = names(solutions(notebook), ast.Store) - names(others, ast.Store)
        assert not only & names(others, ast.Load)


@by_notebook
class TestHosted:
    """Badges: one to each edition once there is an address on GitHub, and none before."""

    address = "https://github.com/some-one/some.thing"

    def test_pages_open_the_whole_notebook(self, path: Path) -> None:
        colab = "https://colab.research.google.com/github/some-one/some.thing"
        for address in (self.address, f"{self.address}.git", f"{self.address}/"):
            opened = f"({colab}/blob/main/tutorials/{path.name})"
            assert opened in editions.links(path, address)
        for address in (None, "https://example.org/some-one/some.thing"):
            assert "colab" not in editions.links(path, address)

    def test_students_open_theirs(self, path: Path) -> None:
        notebook = editions.read(path)
        given = editions.student(notebook, path.name, self.address)
        without = editions.student(notebook, path.name, None)
        first, *rest = given["cells"]
        assert rest == without["cells"][1:]
        before, _, opened = "".join(first["source"]).rpartition("\n\n")
        assert before == "".join(without["cells"][0]["source"])
        assert f"some.thing/blob/gh-pages/student/{path.name})" in opened


@by_notebook
def test_lecturers_have_answers(path: Path) -> None:
    note = NOTES[path.stem[:2]]
    assert note["question"].endswith("?") and note["before"]
    assert 10 <= note["minutes"] <= 90 and 10 <= note["exercises"] <= 90
    assert len(note["goals"]) >= 3 and len(note["quiz"]) >= 3 and len(note["mistakes"]) >= 2
    assert all(one["question"].endswith("?") and one["answer"] for one in note["quiz"])
    assert all(one["wrong"] and one["why"] for one in note["mistakes"])


@pytest.mark.parametrize("text", TEX)
def test_formulas_are_formulas(text: str) -> None:
    assert formulas.is_formula(text)
    assert formulas.tex(text).replace(" ", "") == TEX[text]


@pytest.mark.parametrize("text", PROSE)
def test_prose_is_none(text: str) -> None:
    assert formulas.split(text)[0] == "" and "$" not in formulas.inline(text)


@pytest.mark.parametrize("room", ROOMS)
def test_docstrings_begin_with_formulas(room: str) -> None:
    """All but the few whose first sentence says it in words."""
    found = getattr(pv, room)
    texts = [(getattr(found, name).__doc__ or "").split("\n\n")[0] for name in found.__all__]
    assert sum(formulas.split(text)[0] != "" for text in texts) >= 0.6 * len(texts)


class Links(HTMLParser):
    """What a page links to, loads and shows, and the places in it."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.places: set[str] = set()
        self.silent: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        self.places |= {said[name] for name in ("id", "name") if name in said}
        if tag == "a" and "href" in said:
            self.links.append(said["href"])
        if "src" in said or (tag == "link" and said.get("rel") in ("stylesheet", "icon")):
            self.loads.append(said.get("src") or said["href"])
        if tag in ("img", "iframe") and not (said.get("alt") or said.get("title", "")).strip():
            self.silent.append(said["src"])


def read(page: Path) -> Links:
    found = Links()
    found.feed(page.read_text())
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built here, or by the command before in CI."""
    if "PYROVAE_SITE" in os.environ:
        return Path(os.environ["PYROVAE_SITE"]).resolve()
    for name in NEEDS:
        if importlib.util.find_spec(name) is None:
            pytest.skip("the site needs pip install .[docs]")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    done = subprocess.run(
        [*command, "-f", str(SITE / "mkdocs.yml"), "-d", str(folder)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def pages(folder: Path) -> Iterator[tuple[Path, Links]]:
    for path in sorted(folder.rglob("index.html")):
        yield path, read(path)


def test_links_and_pictures_lead_somewhere(built: Path) -> None:
    places = {path: found.places for path, found in pages(built)}
    for path, found in pages(built):
        assert not found.silent, (path, found.silent)
        assert not [load for load in found.loads if urlsplit(load).netloc], path
        for link in [*found.links, *found.loads]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or not (parts.path or parts.fragment):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), (path, link)
            if parts.fragment and target in places:
                assert unquote(parts.fragment) in places[target], (path, link)


def test_every_formula_is_drawn(built: Path) -> None:
    for path, _ in pages(built):
        text = path.read_text()
        assert 'class="arithmatex"' not in text, path
        outside = re.sub(r"<(pre|code|math|script|title)\b.*?</\1>", "", text, flags=re.DOTALL)
        assert not re.search(r"\\(?:mathrm|mathbb|frac|log|mid)\b", html.unescape(outside)), path
    assert (built / "swap" / "index.html").read_text().count("<math") > 40


def test_has_every_notebook_whole_and_for_students(built: Path) -> None:
    for path in NOTEBOOKS:
        assert (built / "tutorials" / path.name).read_bytes() == path.read_bytes()
        given = json.loads((built / "student" / path.name).read_text())
        assert given == editions.student(editions.read(path), path.name)
        figures = sum(
            kind in output.get("data", {})
            for cell in editions.read(path)["cells"]
            for output in cell.get("outputs", [])
            for kind in ("image/png", "image/svg+xml")
        )
        page = (built / "tutorials" / path.stem / "index.html").read_text()
        assert page.count('class="figure"') >= min(figures, 3)
        assert (built / "lecturer" / path.stem / "index.html").exists()


def test_names_every_class_that_can_be_swapped(built: Path) -> None:
    tables = (built / "swap" / "index.html").read_text()
    for part in ("prior", "likelihood", "guide", "network", "loss", "schedule", "program"):
        for name in pv.components.classes(part):
            assert f"{name}</code>" in tables, name
