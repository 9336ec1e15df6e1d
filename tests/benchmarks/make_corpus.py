"""A corpus that needs no download: the docstrings of installed packages, as counts of words.

    python tests/benchmarks/make_corpus.py docstrings.parquet

A document is the docstring of a public function, class or method of numpy, scipy, scikit-learn or
torch; the table has a column per word.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import pkgutil
import re
import warnings
from pathlib import Path
from types import ModuleType

import pandas
from sklearn.feature_extraction.text import CountVectorizer

PACKAGES = ("numpy", "scipy", "sklearn", "torch")
# what every page of a reference has
WORDS = """
array arrays default optional parameter parameters return returns returned value values type types
int float bool str string none true false input inputs output outputs given used using use uses set
function functions method methods object objects class example examples note notes import np numpy
scipy sklearn torch tensor tensors numpydoc kwargs args self key keys dtype shape ndarray number
specified like new ref versionadded versionchanged deprecated attr meth func math doc rtype param
added version references https http www doi org com pp vol journal et al ieee ll don
"""


def modules(package: str) -> list[ModuleType]:
    """The public modules of a package that can be imported."""
    root = importlib.import_module(package)
    found = [root]
    for info in pkgutil.walk_packages(root.__path__, f"{package}.", onerror=lambda name: None):
        private = any(part.startswith("_") for part in info.name.split("."))
        if private or re.search(r"\.(tests?|testing|conftest|setup|f2py|distutils)\b", info.name):
            continue
        try:
            found.append(importlib.import_module(info.name))
        except BaseException:  # optional dependencies, compilers, other platforms
            continue
    return found


def documents(package: str) -> list[str]:
    """The prose of the docstrings of what is public, each once."""
    texts: dict[str, None] = {}
    for module in modules(package):
        for name, thing in vars(module).items():
            if name.startswith("_") or not callable(thing):
                continue
            if not str(getattr(thing, "__module__", "") or package).startswith(package):
                continue
            members = vars(thing).items() if inspect.isclass(thing) else ()
            for each in (thing, *(m for n, m in members if not n.startswith("_") and callable(m))):
                text = inspect.getdoc(each) or ""
                text = re.sub(r"^\s*(>>>|\.\.\.).*$", " ", text, flags=re.MULTILINE)
                texts[text] = None
    return list(texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="a .csv or .parquet file")
    parser.add_argument("--words", type=int, default=1000, help="size of the vocabulary")
    parser.add_argument("--least", type=int, default=30, help="words of the shortest document")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    texts = [text for package in PACKAGES for text in documents(package)]
    counter = CountVectorizer(
        stop_words="english", token_pattern=r"(?u)\b[a-z][a-z]+\b", min_df=20, max_df=0.2
    )
    counts = counter.fit_transform(texts)
    names = counter.get_feature_names_out()
    kept = [i for i, name in enumerate(names) if name not in WORDS.split()]
    most = counts[:, kept].sum(0).A1.argsort()[::-1][: options.words]
    columns = sorted(kept[i] for i in most)
    table = counts[:, columns].toarray()
    table = table[table.sum(1) >= options.least]
    frame = pandas.DataFrame(table.astype("int16"), columns=names[columns])
    if options.out.suffix == ".csv":
        frame.to_csv(options.out, index=False)
    else:
        frame.to_parquet(options.out, index=False)
    size = options.out.stat().st_size / 1e6
    print(f"{len(frame):,} documents, {frame.shape[1]:,} words, {size:.1f} MB: {options.out}")


if __name__ == "__main__":
    main()
