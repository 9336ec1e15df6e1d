"""Notebooks -> the students' edition, and pages in Markdown.

A cell tagged ``solution`` holds a solution; students get an empty cell in its place. A cell whose
metadata have ``alt`` says what its figures show. Once pyproject.toml names a repository on GitHub,
each edition has a link that opens it in a hosted runtime.
"""

from __future__ import annotations

import base64
import copy
import html
import json
import re
import tomllib
from pathlib import Path
from typing import Any

TUTORIALS = Path(__file__).parents[1]
TOP = TUTORIALS.parent
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
REPOSITORY: str | None = PROJECT.get("urls", {}).get("Repository")
COLAB = "https://colab.research.google.com/github"
WHOLE, STUDENT = "main/tutorials", "gh-pages/student"  # a branch, and a folder of it
ROOM = "# your solution"
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
PICTURES = {"image/svg+xml": "svg", "image/png": "png"}

Cell = dict[str, Any]


def notebooks() -> list[Path]:
    return sorted(TUTORIALS.glob("[0-9][0-9]_*.ipynb"))


def text(lines: str | list[str]) -> str:
    return lines if isinstance(lines, str) else "".join(lines)


def tagged(cell: Cell, tag: str) -> bool:
    return tag in cell["metadata"].get("tags", ())


def read(path: Path) -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads(path.read_text())
    return notebook


def title(notebook: dict[str, Any]) -> str:
    return text(notebook["cells"][0]["source"]).splitlines()[0].removeprefix("# ")


def badge(name: str, place: str, repository: str | None) -> str:
    """A link that opens a notebook of a repository on GitHub in Colab; without one, nothing."""
    found = re.fullmatch(r"https://github\.com/([^/]+/[^/]+?)(?:\.git)?/?", repository or "")
    return f"[Open in Colab]({COLAB}/{found[1]}/blob/{place}/{name})" if found else ""


def links(path: Path, repository: str | None = REPOSITORY) -> str:
    """What a notebook's page begins with: its editions, as buttons."""
    made = [
        f"[Notebook]({path.name})",
        f"[without solutions](../student/{path.name})",
        f"[for lecturers](../lecturer/{path.stem}.md)",
        badge(path.name, WHOLE, repository),
    ]
    return " ".join(f"{link}{{ .md-button }}" for link in made if link)


def student(
    notebook: dict[str, Any], name: str, repository: str | None = REPOSITORY
) -> dict[str, Any]:
    """The notebook without solutions, and without what they print."""
    made = copy.deepcopy(notebook)
    if opened := badge(name, STUDENT, repository):
        made["cells"][0]["source"] = [text(made["cells"][0]["source"]), f"\n\n{opened}"]
    for cell in made["cells"]:
        if tagged(cell, "solution"):
            cell["source"] = [ROOM]
            cell["metadata"] = {"tags": ["yours"]}
            if cell["cell_type"] == "code":
                cell.update(outputs=[], execution_count=None)
    return made


def write_students(folder: Path = TUTORIALS / "student") -> None:
    folder.mkdir(exist_ok=True)
    for path in notebooks():
        made = json.dumps(student(read(path), path.name), indent=1, ensure_ascii=False)
        (folder / path.name).write_text(made + "\n")


def page(notebook: dict[str, Any], name: str) -> tuple[str, dict[str, bytes]]:
    """A notebook in Markdown, and its pictures by the names that it links to, below ``name/``."""
    pictures: dict[str, bytes] = {}
    heading = title(notebook)
    blocks = []
    for cell in notebook["cells"]:
        source = text(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            heading = ([heading] + re.findall(r"^#+ (.*)$", source, re.MULTILINE))[-1]
            blocks.append(prose(source))
            continue
        code = block(source, "python") if source else ""
        if cell["metadata"].get("jupyter", {}).get("source_hidden") and not tagged(
            cell, "solution"
        ):
            code = folded("note", "Code", code)
        alt = cell["metadata"].get("alt") or f"Figure of the section “{heading}”"
        shown = [show(one, alt, name, pictures) for one in cell["outputs"]]
        made = "\n\n".join([code, *filter(None, shown)])
        blocks.append(folded("success", "Solution", made) if tagged(cell, "solution") else made)
    return "\n\n".join(blocks) + "\n", pictures


def prose(source: str) -> str:
    """Markdown as Jupyter has it -> as Python-Markdown has it."""
    formula = r"(?<!\\)(\$\$?)(?!\s*\$)(.+?)(?<!\\)\1"
    source = re.sub(
        formula,
        lambda found: (
            f"\n\n$$\n{found[2].strip()}\n$$\n\n"
            if found[1] == "$$"
            else "$" + found[2].strip().replace(r"\|", r"\Vert ").replace("|", r"\vert ") + "$"
        ),
        source,
        flags=re.DOTALL,
    )
    source = re.sub(
        r"(?<=[^\n|-])\n((?:[-*]|\d+\.) )", r"\n\n\1", source
    )  # lists may follow a line
    return re.sub(
        r"\]\((\w+)\.ipynb(#[^)]*)?\)",
        lambda found: f"]({found[1]}.md{(found[2] or '').lower()})",
        source,
    )


def block(source: str, language: str) -> str:
    return f"````{language}\n{source}\n````"


def folded(kind: str, words: str, made: str) -> str:
    body = "\n".join(f"    {line}" if line else "" for line in made.split("\n"))
    return f'??? {kind} "{words}"\n\n{body}'


def show(output: Any, alt: str, name: str, pictures: dict[str, bytes]) -> str:
    """One output of a cell: text, a table or a picture, which is added to the pictures."""
    if output["output_type"] == "stream":
        return printed(text(output["text"]))
    data = output.get("data", {})
    for kind, ending in PICTURES.items():
        if kind in data:
            file = f"{name}/{len(pictures) + 1:02}.{ending}"
            raw = text(data[kind])
            pictures[file] = raw.encode() if ending == "svg" else base64.b64decode(raw)
            width = output.get("metadata", {}).get(kind, {}).get("width")
            size = f" width={width}" if width else ""
            words = html.escape(alt, quote=False).replace("[", "\\[").replace("]", "\\]")
            return f"![{words}]({file}){{ .figure loading=lazy{size} }}"
    if "<iframe" in (shown := text(data.get("text/html", ""))):
        return framed(shown)
    if "text/html" in data:
        return re.sub(r"<style.*?</style>|\n\s*", "", text(data["text/html"]), flags=re.DOTALL)
    return printed(text(data.get("text/plain", "")))


def framed(shown: str) -> str:
    """A page beside a notebook, which running the notebook makes."""
    (file,) = re.findall(r'src="([^"]+)"', shown)
    if not (TUTORIALS / file).exists():
        return "*(Here the notebook shows the page that it has written.)*"
    frame = f'<iframe src="../{file}" title="The page that the cell has written" class="explorer">'
    return f"{frame}</iframe>"


def printed(words: str) -> str:
    words = ANSI.sub("", words).rstrip()
    return f"````{{.text .output}}\n{words}\n````" if words else ""
