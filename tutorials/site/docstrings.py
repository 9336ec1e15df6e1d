"""Docstrings as the package has them -> Markdown, for mkdocstrings: a griffe extension.

Examples become blocks of code, literal blocks too, ``:class:`X``` a link where X is on the site, and a
formula TeX.
"""

from __future__ import annotations

import re
from typing import Any

import griffe
from formulas import inline, split, tex

ROLE = re.compile(r":(?:class|func|meth|attr|mod|data):`([^`]+)`")
CODE = re.compile(r"(``.+?``|`[^`]+`|<autoref.*?</autoref>)", re.DOTALL)


class Plain(griffe.Extension):
    def on_package(self, *, pkg: griffe.Module, **rest: Any) -> None:
        walk(pkg)


def walk(found: Any) -> None:
    for member in found.members.values():
        if not member.is_alias:
            walk(member)
    if found.docstring:
        found.docstring.value = markdown(found.docstring.value, found)


def markdown(text: str, owner: Any) -> str:
    blocks = re.split(r"\n(?:[ \t]*\n)+", text)
    made: list[str] = []
    literal = False
    for number, block in enumerate(blocks):
        indent = re.match(r"\s*", block)[0]  # type: ignore[index]
        if block.lstrip().startswith(">>>"):
            made.append(fenced(block, "pycon", indent))
        elif literal:
            made.append(fenced(block, "text", indent[:-4]))
        elif block.strip() == "::":
            pass
        elif number == 0 and owner.is_class:
            formula, prose = split(block.removesuffix("::"))
            made.extend([f"$$\\n{tex(formula)}\\n$$".replace("\\n", "\n")] if formula else [])
            made.extend([worded(prose, owner)] if prose else [])
        else:
            made.append(worded(re.sub(r"::$", ":", block), owner))
        literal = block.endswith("::")
    return "\n\n".join(made)


def fenced(block: str, language: str, indent: str) -> str:
    return f"{indent}```{language}\n{block.rstrip()}\n{indent}```"


def worded(block: str, owner: Any) -> str:
    """A block of prose: its links and its formulas."""
    linked = ROLE.sub(lambda role: link(role[1], owner), block)
    lines = (CODE.split(line) for line in linked.split("\n"))
    return "\n".join(
        "".join(part if k % 2 else inline(part) for k, part in enumerate(line)) for line in lines
    )


def link(name: str, owner: Any) -> str:
    """A link to what a name means where it stands, or the name alone."""
    text = f"<code>{name.rsplit('.', 1)[-1]}</code>"
    for start in (name, f"{owner.name}.{name}"):
        try:
            path = start if start.startswith("pyrovae.") else owner.resolve(start)
        except Exception:  # griffe's, of several kinds: the name is of something else
            continue
        return f'<autoref identifier="{path}" optional>{text}</autoref>'
    return text
