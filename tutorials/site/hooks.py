"""The pages that are made of what is there already: notebooks, docstrings, the README, the changelog.

MkDocs calls the functions named ``on_...``; ``mkdocs.yml`` names this file.
"""

from __future__ import annotations

import ast
import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from docstrings import ROLE
from editions import (
    PROJECT,
    REPOSITORY,
    TOP,
    TUTORIALS,
    links,
    notebooks,
    page,
    prose,
    read,
    student,
    title,
    write_students,
)
from formulas import inline, mathml, split, tex
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.utils import log

PACKAGE = TOP / "pyrovae"
EXPLORER = TOP / "build" / "explorer.html"
ROOMS = {  # of the tables: the class that the others derive from
    "priors": "Prior",
    "likelihoods": "Likelihood",
    "guides": "Guide",
    "networks": "Network",
    "objectives": "Objective",
    "schedules": "Schedule",
    "programs": "Program",
}
GUIDE = ["pairs", "programs", "data", "tables", "runs", "numbers", "speed", "libraries", "tracking"]
PAPER = re.compile(
    r'([A-Z][\w\'-]+(?:(?:, | and | )[\w\'.-]+)*?), "([^"]+)"(?: \([\w-]+\))?,\s+(\d{4})'
)


def on_config(config: Any) -> Any:
    config.nav = [
        {"Start": "index.md"},
        {
            "Tutorials": [
                "tutorials/index.md",
                "concepts.md",
                *(f"tutorials/{path.stem}.md" for path in notebooks()),
            ]
        },
        {
            "For lecturers": [
                "lecturer/index.md",
                *(f"lecturer/{path.stem}.md" for path in notebooks()),
            ]
        },
        {"Guide": [f"{name}.md" for name in GUIDE]},
        {"What to swap": "swap.md"},
        {"Notation": "notation.md"},
        {"Explore": "explore.md"},
        {"Reference": [f"reference/{room}.md" for room in reference()]},
        {"Versions": "versions.md"},
    ]
    if REPOSITORY:
        config.repo_url = REPOSITORY
    return config


def on_files(files: Files, config: Any) -> Files:
    write_students()
    pages = {
        "index.md": readme(),
        "swap.md": swap(),
        "explore.md": explore(),
        "versions.md": versions(),
        **tutorials(),
        **lecturer(),
        **{f"reference/{room}.md": text for room, text in reference().items()},
    }
    for path in sorted((TUTORIALS / "figures").glob("*.png")):
        pages[f"figures/{path.name}"] = path.read_bytes()
    for path in TUTORIALS.glob("*.html"):  # which a notebook wrote
        pages[f"tutorials/{path.name}"] = path.read_bytes()
    if EXPLORER.exists():
        pages["explorer.html"] = EXPLORER.read_bytes()
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(text: str, page: Any, **rest: Any) -> str:
    """Pictures and files of the repository, which pages name as the repository has them."""
    text = text.replace("../../figures/", "figures/")
    return re.sub(r"(?<!!)\[([^\]]+)\]\(\.\./\.\./\.\./([^)]+)\)", elsewhere, text)


def on_page_content(text: str, page: Any, **rest: Any) -> str:
    """Formulas as MathML."""

    def drawn(found: re.Match[str]) -> str:
        try:
            return mathml(html.unescape(found[3]).strip(), display=found[2] == "[")
        except ValueError as error:
            log.warning(f"{page.file.src_uri}: {error}")
            return found[0]

    formula = r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>'
    return re.sub(formula, drawn, text, flags=re.DOTALL)


def tutorials() -> dict[str, Any]:
    """The notebooks, as pages and as files, and the page that lists them."""
    made: dict[str, Any] = {}
    rows = []
    notes = lectures()
    for path in notebooks():
        notebook = read(path)
        text, pictures = page(notebook, path.stem)
        first, _, rest = text.partition("\n")
        made[f"tutorials/{path.stem}.md"] = f"{first}\n\n{links(path)}\n{rest}"
        made[f"tutorials/{path.name}"] = path.read_bytes()
        given = json.dumps(student(notebook, path.name), ensure_ascii=False)
        made[f"student/{path.name}"] = given.encode()
        made |= {f"tutorials/{name}": content for name, content in pictures.items()}
        note = notes[path.stem[:2]]
        rows.append(
            f"| [{title(notebook)}]({path.stem}.md) | {note['question']} | {note['minutes']} |"
        )
    table = "\n".join(["| notebook | the question | minutes |", "|---|---|---|", *rows])
    made["tutorials/index.md"] = (
        "# Tutorials\n\nFor readers who know PyTorch and not Pyro. Each asks one question, computes "
        "what it claims, and ends in exercises that check themselves; every page links to its "
        f"notebook, with solutions and without.\n\n{table}\n"
    )
    return made


def lectures() -> dict[str, Any]:
    notes: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "lecturer.yaml").read_text())
    return notes


def lecturer() -> dict[str, str]:
    """A page per notebook for those who teach with it."""
    notes = lectures()
    made, rows = {}, []
    for path in notebooks():
        note, name = notes[path.stem[:2]], title(read(path))
        quiz = "\n\n".join(
            f'??? question "{one["question"]}"\n\n    {prose(one["answer"])}'
            for one in note["quiz"]
        )
        wrong = "\n".join(f"| {one['wrong']} | {one['why']} |" for one in note["mistakes"])
        made[f"lecturer/{path.stem}.md"] = (
            f"# {name}: for lecturers\n\n[The notebook](../tutorials/{path.stem}.md) · "
            f"[to run](../tutorials/{path.name}) · [without solutions](../student/{path.name})\n\n"
            f"**{note['question']}**\n\n"
            f"- Minutes: {note['minutes']} to read and run, {note['exercises']} for the exercises.\n"
            f"- Before: {note['before']}\n\n"
            "## Afterwards, students can\n\n"
            + "\n".join(f"- {goal}" for goal in note["goals"])
            + f"\n\n## Quiz\n\n{quiz}\n\n## Common wrong answers\n\n| said | why it is wrong |\n|---|---|\n"
            f"{wrong}\n"
        )
        rows.append(f"| [{name}]({path.stem}.md) | {note['minutes']} | {note['exercises']} |")
    made["lecturer/index.md"] = (
        "# For lecturers\n\nTen notebooks, a page of notes for each: time, what it builds on, goals, "
        "a quiz with answers, and what people answer wrongly.\n\n"
        "| notebook | minutes | exercises, minutes |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    )
    return made


def readme() -> str:
    """The README, its links leading to the site's own pages."""
    text = (TOP / "README.md").read_text()
    text = re.sub(r"tutorials/(\w+)\.ipynb", r"tutorials/\1.md", text)
    text = re.sub(r"tutorials/site/(?:pages/)?(\w+\.md)", r"\1", text)
    text = text.replace("](tutorials/figures/", "](figures/").replace(
        '"tutorials/figures/', '"figures/'
    )
    return re.sub(
        r"(?<!!)\[([^\]]+)\]\((?!https?:|#|tutorials/|figures/|\w+\.md\))([^)]+)\)", elsewhere, text
    )


def elsewhere(link: re.Match[str]) -> str:
    """A link to a file of the repository that is no page of the site."""
    return (
        f"[{link[1]}]({REPOSITORY}/blob/main/{link[2]})"
        if REPOSITORY
        else f"{link[1]} (`{link[2]}`)"
    )


def classes(room: str) -> Iterator[tuple[str, ast.ClassDef]]:
    """The concrete classes of a room with the module of each, in the order of their files."""
    folder = PACKAGE / room
    files = sorted(folder.glob("*.py")) if folder.is_dir() else [PACKAGE / f"{room}.py"]
    files += [PACKAGE / "vae.py"] if room == "programs" else []
    family, public = (
        {ROOMS[room]},
        exported(folder / "__init__.py" if folder.is_dir() else files[0]),
    )
    for path in files:
        for found in ast.parse(path.read_text()).body:
            if isinstance(found, ast.ClassDef) and family & {
                ast.unparse(base).partition("[")[0] for base in found.bases
            }:
                family.add(found.name)
                if found.name in public:
                    yield f"pyrovae.{room}" if path.stem != "vae" else "pyrovae", found


def exported(path: Path) -> list[str]:
    """What a file says in ``__all__``."""
    for found in ast.parse(path.read_text()).body:
        if isinstance(found, ast.Assign) and ast.unparse(found.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(found.value)
            return names
    return []


def sentences(docstring: str) -> tuple[str, str]:
    """The formula of a class, and what it is for, in a sentence."""
    paragraphs = [
        p for p in docstring.split("\n\n") if not p.strip().startswith(("::", ">>>", "Args:"))
    ]
    formula, rest = split(paragraphs[0].removesuffix("::"))
    prose = [p for p in paragraphs[1:] if not p.startswith(" ")]
    if not rest and prose and not PAPER.match(" ".join(prose[0].split())):
        rest = re.split(r"(?<=[a-z)])\. ", " ".join(prose[0].split()))[0].rstrip(".") + "."
    return formula, " ".join(rest.split())


def arguments(found: ast.ClassDef) -> list[str]:
    for one in found.body:
        if isinstance(one, ast.FunctionDef) and one.name == "__init__":
            return [arg.arg for arg in [*one.args.args[1:], *one.args.kwonlyargs]]
    return []


def swap() -> str:
    """A table per room, of its classes' docstrings."""
    frame = (Path(__file__).parent / "swap.md").read_text()
    blocks = []
    for room in ROOMS:
        rows = []
        for module, found in classes(room):
            docstring = ast.get_docstring(found) or ""
            formula, words = sentences(docstring)
            paper = PAPER.search(" ".join(docstring.split()))
            said = re.sub(ROLE, r"`\1`", words)
            cells = [
                f"[`{found.name}`][{module}.{found.name}]",
                f"${tex(formula)}$" if formula else "",
                " ".join(re.sub(r"``", "`", inline(said)).split())
                + (f" {paper[1]}, “{paper[2]}”, {paper[3]}." if paper else ""),
                ", ".join(f"`{name}`" for name in arguments(found)),
            ]
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        if not rows:
            raise PluginError(f"no class in {room}")
        head = "| class | formula | what for | arguments |\n|---|---|---|---|\n"
        blocks += [f"## {room.capitalize()}", head + "\n".join(rows)]
    return frame.replace("@TABLES@", "\n\n".join(blocks))


def reference() -> dict[str, str]:
    """A page per room that the package names as public, read from its ``__init__``."""
    (checked,) = (
        found
        for found in ast.parse((PACKAGE / "__init__.py").read_text()).body
        if isinstance(found, ast.If) and ast.unparse(found.test) == "TYPE_CHECKING"
    )
    pages: dict[str, str] = {}
    for found in checked.body:
        assert isinstance(found, ast.ImportFrom)
        for alias in found.names:
            room = (found.module or "").removeprefix("pyrovae").lstrip(".")
            if room:
                pages.setdefault(room, f"# `pyrovae.{room}`\n")
                pages[room] += f"\n::: pyrovae.{alias.name}\n    options:\n      heading_level: 2\n"
            else:
                pages[alias.name] = whole(alias.name)
    return dict(sorted(pages.items()))


def whole(room: str) -> str:
    path = PACKAGE / room / "__init__.py" if (PACKAGE / room).is_dir() else PACKAGE / f"{room}.py"
    tree = ast.parse(path.read_text())
    names = exported(path)
    if not names:
        return f"# `pyrovae.{room}`\n\n::: pyrovae.{room}\n    options:\n      show_root_heading: false\n"
    words = re.sub(r"``", "`", inline(ast.get_docstring(tree) or ""))
    listed = "".join(
        f"\n::: pyrovae.{room}.{name}\n    options:\n      heading_level: 2\n" for name in names
    )
    return f"# `pyrovae.{room}`\n\n{words}\n{listed}"


def explore() -> str:
    """The page that ``pyrovae explore --export`` writes, where one was made, or how to make it."""
    words = (Path(__file__).parent / "explore.md").read_text()
    shown = (
        '<iframe src="../explorer.html" title="The exported page of pyrovae explore" '
        'class="explorer"></iframe>\n\n[On a page of its own](explorer.html)'
        if EXPLORER.exists()
        else "![The page: codes, the decoded picture with sliders, one datum](figures/explore.png)"
    )
    return words.replace("@PAGE@", shown)


def versions() -> str:
    """The changelog, the version that this site is of, and what it needs."""
    (version,) = re.findall(
        r'^__version__ = "(.+)"', (PACKAGE / "__init__.py").read_text(), re.MULTILINE
    )
    rows = [
        f"| `{name}` | {bound} |"
        for name, bound in (
            re.match(r"([\w-]+)(.*)", one).groups() for one in PROJECT["dependencies"]
        )
    ]  # type: ignore
    changes = (TOP / "CHANGELOG.md").read_text().partition("\n")[2]
    return (
        f"# Versions\n\nThis site is of pyrovae {version}, on Python {PROJECT['requires-python']}.\n\n"
        "| needs | |\n|---|---|\n" + "\n".join(rows) + f"\n{changes}"
    )
