"""What a program of the zoo tells of itself: facts that its totals by hand rest on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro.infer import ELBO, Trace_ELBO
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

Program = Callable[..., Any]
PER_DATUM = ("log_evidence", "exact_log_evidence", "gap", "calibrate")
WITH_CODES = (
    "calibrate", "encode", "interpolate", "traverse", "neighbours", "fit_codes", "explore", "gap",
)  # fmt: skip
TIED = ("explore", "impute", "interpolate", "traverse")  # ask for other rows than all of them
Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Where = int | str | tuple[int, int]


def arguments(data: Any) -> Arguments:
    """A batch as the programs take it: ``model(x)``, ``model(x, y)``, ``model(x=x, y=y)``."""
    if isinstance(data, dict):
        return (), data
    return (tuple(data) if isinstance(data, tuple | list) else (data,)), {}


@dataclass(frozen=True, eq=False)
class Case:
    """One program.

    Attributes:
        name: in the table.
        make: gives fresh ``(model, guide, data)``, the same at every call; it is called with the
            random state seeded and Pyro's parameter store empty.
        like: the program of Pyro's examples or tutorials that has this structure.
        latents: the sites that the guide draws in the plates over the data.
        globals: the sites that it draws outside of them.
        discrete: which of the latents are discrete (drawn, or summed out in the guide).
        enumerated: the sites to be summed out, whichever program has them.
        observed: the model's observed sites, each with the position (or keyword) of the argument
            that it observes, as it is but for its shape; ``(argument, column)`` where it observes
            a column of one.
        plates: names of the plates over the data.
        rows: whether data are independent rows that come in batches of any size; False where all
            of them are one graph, one series or tied to their places.
        tiles: whether the rows may be repeated to run many particles at once.
        exact: closed form of log p(x) per datum, ``exact(data) -> [N]``.
        exact_guide: whether the guide is the posterior.
        loss: the ELBO that Pyro trains it with, and ``pv.fit`` by default.
        lr: of training.
        falls: whether there is something to learn; False where the parameters are the best ones.
        separable: whether the loss of all data is the mean of their batches' losses; False where a
            program looks at the others in its batch (BatchNorm).
        as_pyro: whether Pyro's loss is minus the ELBO; False where the guide scores what it does
            not draw, and where terms are scaled or dropped in training.
        scale: what the plates multiply a datum's terms by when all data are there.
        hide: the argument whose entries may be missing (position or keyword), None where a hidden
            entry has no meaning.
        arguments: data -> what the programs are called with.
        refused: verb -> a pattern of the sentence with which it may be refused.
        meaningless: the same of verbs that have no answer here, and must be refused.
    """

    name: str
    make: Callable[[], tuple[Program, Program, Any]]
    like: str = ""
    latents: tuple[str, ...] = ("z",)
    globals: tuple[str, ...] = ()
    discrete: tuple[str, ...] = ()
    enumerated: tuple[str, ...] = ()
    observed: Mapping[str, Where] = field(default_factory=lambda: {"x": 0})
    plates: tuple[str, ...] = ("data",)
    rows: bool = True
    tiles: bool = True
    exact: Callable[[Any], Tensor] | None = None
    exact_guide: bool = False
    loss: Callable[[], ELBO] = Trace_ELBO
    lr: float = 1e-2
    falls: bool = True
    separable: bool = True
    as_pyro: bool = True
    scale: float = 1.0
    hide: int | str | None = 0
    arguments: Callable[[Any], Arguments] = arguments
    refused: Mapping[str, str] = field(default_factory=dict)
    meaningless: Mapping[str, str] = field(default_factory=dict)

    @property
    def sources(self) -> dict[int | str, list[str]]:
        """The arguments that are observed, and by which sites."""
        found: dict[int | str, list[str]] = {}
        for name, where in self.observed.items():
            found.setdefault(where[0] if isinstance(where, tuple) else where, []).append(name)
        return found

    def filled(self, args: Arguments, values: Mapping[str, Tensor]) -> Arguments:
        """The arguments with values of observed sites ``[N, ...]`` in their places."""
        new: dict[int | str, Tensor] = {}
        for name, value in values.items():
            where = self.observed[name]
            key = where[0] if isinstance(where, tuple) else where
            given = new.get(key, argument(args, key))
            if isinstance(where, tuple):
                new[key] = given.clone()
                new[key][:, where[1]] = value.to(given.dtype)
            else:
                new[key] = value.reshape(given.shape).to(given.dtype)
        return replaced(args, new)

    @property
    def unanswerable(self) -> dict[str, str]:
        """What must be refused, with a pattern of the sentence: what :attr:`meaningless` names,
        and what follows from the other facts."""
        rules = (
            (bool(self.globals), PER_DATUM, "|".join(("share", "global", *self.globals))),
            (not self.rows, ("batches",), "one batch|all rows|subsample|batch_size="),
            (self.hide is None, ("impute",), "missing|NaN|whole numbers|observes"),
            (len(self.sources) > 1, ("predictive_check",), "observe"),
            (set(self.latents) <= set(self.discrete), WITH_CODES, "latent|continuous"),
            (not (self.latents or self.globals or self.enumerated), ("decode",), "latent"),
            *((True, (verb,), pattern) for verb, pattern in self.meaningless.items()),
        )
        return _joined(rules)

    def refusal(self, verb: str) -> str | None:
        """A pattern of the sentence with which a verb may be refused."""
        rules = (
            (True, ("exact_log_evidence",), "more than two|continuous latents|discrete"),
            (True, ("gap",), "refine|drawn|enumerat|summed"),
            (bool(self.globals), ("batches",), "subsample"),
            (bool(self.globals), ("impute",), "share|global"),
            (len(self.latents) > 1, ("traverse", "fit_codes"), "one (continuous )?latent"),
            (not self.rows, TIED, "one batch|all rows|places|subsample"),
            *((True, (name,), pattern) for name, pattern in self.refused.items()),
            *((True, (name,), pattern) for name, pattern in self.unanswerable.items()),
        )
        return _joined(rules).get(verb)


def _joined(rules: Iterable[tuple[bool, Iterable[str], str]]) -> dict[str, str]:
    """The patterns that apply, by verb."""
    found: dict[str, str] = {}
    for applies, verbs, pattern in rules:
        for verb in verbs if applies else ():
            found[verb] = f"{found[verb]}|{pattern}" if verb in found else pattern
    return found


class Subject:
    """A fresh program and its data, Pyro's store empty.

    Attributes:
        model, guide: as a user writes them.
        data: as ``pv.fit`` takes them.
        whole: the same in memory: a tensor, tuple, list or dict of tensors ``[N, ...]``.
    """

    def __init__(self, case: Case) -> None:
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        self.case = case
        self.model, self.guide, self.data = case.make()
        self.whole = whole(self.data)

    def __len__(self) -> int:
        return length(self.whole)

    @property
    def sites(self) -> list[str]:
        """The continuous latents in the plates over the data."""
        return [n for n in self.case.latents if n not in self.case.discrete]

    def rows(self, index: Any) -> Any:
        """Some of the data."""
        return select(self.whole, torch.as_tensor(index))


def whole(data: Any) -> Any:
    """All data in memory."""
    if isinstance(data, DataLoader):
        batches = list(data)
        parts = zip(*batches, strict=True) if isinstance(batches[0], list | tuple) else None
        if parts is not None:
            return tuple(torch.cat(part) for part in parts)
        if isinstance(batches[0], dict):
            return {name: torch.cat([b[name] for b in batches]) for name in batches[0]}
        return torch.cat(batches)
    if isinstance(data, Dataset):
        found = default_collate([data[k] for k in range(len(data))])  # type: ignore[arg-type]
        return tuple(found) if isinstance(found, list) else found
    return data


def select(data: Any, index: Tensor) -> Any:
    """Rows of everything that has them."""
    if isinstance(data, dict):
        return {name: select(part, index) for name, part in data.items()}
    if isinstance(data, tuple | list):
        return type(data)(select(part, index) for part in data)
    return data[index] if isinstance(data, Tensor) and data.dim() else data


def length(data: Any) -> int:
    """How many rows there are."""
    parts = data.values() if isinstance(data, dict) else data
    if isinstance(data, Tensor):
        return len(data)
    return next(length(p) for p in parts if isinstance(p, Tensor | dict | tuple | list))


def tiled(data: Any, times: int) -> Any:
    """All rows, and all of them again."""
    return select(data, torch.arange(length(data)).repeat(times))


def _whole_batch(args: Arguments) -> Any:
    """The batch of a program that takes it as one dict or list, else None."""
    alone = args[0][0] if len(args[0]) == 1 else None
    return alone if isinstance(alone, dict | list) else None


def argument(args: Arguments, where: int | str) -> Any:
    """One of the arguments, by position or keyword; of a batch that is one, a part of it."""
    batch = _whole_batch(args)
    if batch is not None:
        return batch[where]
    return args[1][where] if isinstance(where, str) else args[0][where]


def replaced(args: Arguments, values: Mapping[int | str, Any]) -> Arguments:
    """The arguments with others in the place of some."""
    batch = _whole_batch(args)
    if isinstance(batch, dict):
        return ({**batch, **values},), {}
    if batch is not None:
        return ([values.get(k, part) for k, part in enumerate(batch)],), {}
    positional = tuple(values.get(k, a) for k, a in enumerate(args[0]))
    return positional, {name: values.get(name, a) for name, a in args[1].items()}
