"""Formulas as docstrings have them, in plain text, -> TeX -> MathML, which browsers draw themselves.

``q(z|x) = prod_d N(z_d; loc_d(x), scale_d(x)^2)`` is a formula, ``with learned loc and scale`` is not.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

GREEK = [
    "alpha", "beta", "gamma", "epsilon", "lambda", "mu", "phi", "pi", "psi", "sigma", "theta",
]  # fmt: skip
FUNCTIONS = ["log", "exp", "det", "max", "min"]
NAMES = [  # words that may stand in a formula without a bracket or an index after them
    "concentration", "df", "diag", "ELBO", "epochs", "hidden", "in", "IWAE", "KL", "loc", "logits",
    "mean", "mixture", "nats", "noise", "p", "prior", "prod", "rate", "real", "scale", "softmax",
    "softplus", "sum", "temperature", "units", "weight",
]  # fmt: skip
PHRASES = {"mean over the batch of": "mean over the batch of", "proportional to": r"\propto"}
SIGNS = {
    "->": r"\to ", "<=": r"\le ", ">=": r"\ge ", "...": r"\ldots ", "..": r"\ldots ",
    "||": r"\,\Vert\,", "*": r"\,", "~": r"\sim ", ".": r"\cdot ", "'": r"^\top ",
    "<": r"\lt ", ">": r"\gt ",
}  # fmt: skip
TOKEN = re.compile(
    r"(?P<phrase>mean over the batch of|proportional to)|(?P<number>\d+(?:\.\d+)?(?:e-?\d+)?)"
    r"|(?P<word>[A-Za-z]+)|(?P<sign>->|<=|>=|\.\.\.|\.\.|\|\||[^\w\s]|_)|(?P<space>\s+)"
)
BREAK = re.compile(r"([:;,.] | (?:with|on|when|where|of which) )")
THIN = '<mspace width="0.17em" />'
REWRITTEN = [  # what latex2mathml knows by another name, or draws as if it were between two terms
    (r"(begin|end)\{aligned\}", r"\1{split}"),
    (r"\\emph\{([^{}]*)\}", r"\1"),
    (
        r"\\(?:lvert|rvert|lVert|rVert)(?![a-z])",
        lambda bar: rf"\{'left' if bar[0][1] == 'l' else 'right'}\{bar[0][2:]} ",
    ),
]
TERM = re.compile(
    r"(?<![\w`.(\[])(?:log |KL of )?(?:[pq]|KL|TC|MMD|I|N)(?:_\w+)?\([^()`]*(?:\([^()`]*\)[^()`]*)*\)"
)


def parts(text: str) -> Iterator[str]:
    """A text cut at its commas, colons and joining words, these included, but not within brackets."""
    start = depth = 0
    position = 0
    while position < len(text):
        depth += (text[position] in "([{") - (text[position] in ")]}")
        match = BREAK.match(text, position)
        if match and depth == 0:
            yield text[start:position]
            yield match[0]
            start = position = match.end()
        else:
            position += 1
    yield text[start:]


def is_formula(text: str) -> bool:
    """Whether a part of a sentence is a formula: it has a sign of one, and no word of prose."""
    if "`" in text or '"' in text or not re.search(r"[=|_^~/(]|\bin \{|\* ", text):
        return False
    plain = re.sub(r"\{[^{}]*\}", "", text)
    for phrase in PHRASES:
        plain = plain.replace(phrase, "")
    words = re.finditer(r"(?<![\w\\])([A-Za-z]+)(?![A-Za-z])([_(\[^']?)", plain)
    known = {*GREEK, *FUNCTIONS, *NAMES}
    return all(
        len(word[1]) < 2
        or word[2]
        or word[1] in known
        or (word[1].startswith("d") and len(word[1]) == 2)
        for word in words
    )


def tex(formula: str) -> str:
    """A formula in TeX.

    >>> tex("p(z) = prod_d N(z_d; loc_d, scale_d^2)")
    'p(z) = \\\\prod_{d} \\\\mathcal{N}(z_{d}; \\\\mathrm{loc}_{d}, \\\\mathrm{scale}_{d}^{2})'
    """
    tokens = list(TOKEN.finditer(formula))
    out: list[str] = []
    bar_open = False
    position = 0

    def script(position: int, power: bool = False) -> tuple[str, int]:
        """What an index or a power is: one word or number, or all that is in its brackets."""
        token = tokens[position][0]
        if token == "-":
            rest, position = script(position + 1)
            return f"-{rest}", position
        if token not in "({":
            found = word(token) if len(token) > 2 or token in GREEK else token
            position += 1
            if power and position < len(tokens) and tokens[position][0] == "_":
                index, position = script(position + 1)
                return f"{found}_{{{index}}}", position
            if power and len(token) > 1 and position < len(tokens) and tokens[position][0] == "(":
                called, position = script(position)
                return f"{found}({called})", position
            return found, position
        depth, start = 0, position
        while True:
            depth += (tokens[position][0] in "({") - (tokens[position][0] in ")}")
            position += 1
            if depth == 0:
                break
        inner = "".join(match[0] for match in tokens[start + 1 : position - 1])
        if token == "{" and " " in inner and is_prose(inner):
            return rf"{inner.split()[0]}\ \mathrm{{{' '.join(inner.split()[1:])}}}", position
        return tex(inner), position

    while position < len(tokens):
        match = tokens[position]
        token = match[0]
        before = formula[: match.start()][-1:] or " "
        after = formula[match.end() : match.end() + 1]
        position += 1
        if token in "_^":
            found, position = script(position, token == "^")
            out.append(f"{token}{{{found}}}")
        elif match["phrase"]:
            said = PHRASES[token]
            out.append(said + " " if said.startswith("\\") else rf"\text{{{said} }}")
        elif match["word"] and re.fullmatch("d[A-Za-z]", token) and "/" in (before, after):
            out.append(rf"\mathrm{{d}} {token[1]}")
        elif match["word"]:
            out.append(word(token, called=after == "("))
        elif token == "|":
            if bar_open or not (before.isalnum() or before in ")]}'"):
                bar_open = not bar_open
                out.append(r"\left\vert " if bar_open else r"\right\vert ")
            else:
                out.append(r" \mid ")
        elif token in "{}":
            out.append(f"\\{token}")
        elif token == "'" and before.islower():
            out.append("'")
        elif token == "." and before.isalnum():
            out.append(".")
        else:
            out.append(SIGNS.get(token, token))
    return "".join(out).strip()


def is_prose(text: str) -> bool:
    return any(len(word) > 2 for word in re.findall(r"[A-Za-z]+", text))


def word(name: str, called: bool = False) -> str:
    """A name in TeX."""
    if name.isdigit():
        return name
    if name == "N" and called:
        return r"\mathcal{N}"
    if name == "E":
        return r"\mathbb{E}"
    if name in ("sum", "prod"):
        return f"\\{name}"
    if name in FUNCTIONS or name in GREEK:
        return f"\\{name} "
    if name == "sigmoid":
        return r"\sigma"
    if name == "in":
        return r"\in "
    return name if len(name) == 1 else rf"\mathrm{{{name}}}"


def split(paragraph: str) -> tuple[str, str]:
    """The formula that a paragraph begins with, "" where none does, and the rest of it."""
    found = list(parts(" ".join(paragraph.split())))
    formula: list[str] = []
    joint = ""
    while found and is_formula(found[0].rstrip(".")):
        formula.append(found.pop(0))
        joint = found.pop(0) if found else ""
        if joint.strip() != ",":
            break
    rest = "".join([joint.lstrip(":;,. "), *found])
    if re.match(r"[a-z][\w'-]+(?![\w(])|a [a-z]{3}", rest):
        rest = rest[0].upper() + rest[1:]
    return ", ".join(formula).rstrip("."), rest


def inline(text: str) -> str:
    """Prose whose formulas, such as p(x|z) and KL(q || p), are TeX between dollars."""
    return "".join(
        f"${tex(part)}$"
        if is_formula(part) and re.search(r"[(^_].* = | = .*[(^_]|\) = ", part)
        else TERM.sub(term, part)
        for part in parts(text)
    )


def term(match: re.Match[str]) -> str:
    return f"${tex(match[0])}$" if is_formula(match[0]) else match[0]


def mathml(found: str, display: bool = False) -> str:
    """TeX as MathML, with the TeX kept for those who copy it.

    Raises:
        ValueError: TeX that is not understood.
    """
    import latex2mathml.converter  # the tests of the words need no such thing

    plain = found
    for their, ours in REWRITTEN:
        plain = re.sub(their, ours, plain)
    try:
        made = latex2mathml.converter.convert(plain, display="block" if display else "inline")
    except Exception as error:
        raise ValueError(f"no formula: {found!r}: {type(error).__name__}: {error}") from error
    if unknown := re.search(r"<m[ion]>(\\[A-Za-z]+|&)</m[ion]>", made):
        raise ValueError(f"{unknown[1]} is not understood in {found!r}")
    made = made.replace("<mi>;</mi>", '<mo lspace="0" rspace="0.2em">;</mo>')
    made = re.sub(
        rf"(<mi>(?:{'|'.join(FUNCTIONS)})</mi>)(?!<mo[^>]*>&#x00028;|<mrow>|</)", rf"\1{THIN}", made
    )
    made = re.sub(
        rf"(</m(?:i|n|sub|sup|subsup)>|&#x00029;</mo>)(<mi>(?:{'|'.join(FUNCTIONS)})</mi>)",
        rf"\1{THIN}\2",
        made,
    )
    return str(made).replace("<math ", f'<math alttext="{html.escape(found, quote=True)}" ', 1)
