"""What the page asks of a pair: each answer is plain data, made by the verbs that Python has."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pyrovae import traces
from pyrovae.arrays import channels_last
from pyrovae.errors import UsageError, in_short, whole_number
from pyrovae.evaluation import evaluate
from pyrovae.framing import flat, unit_names
from pyrovae.generation import (
    Values,
    codes_of,
    decoder,
    impute,
    on_example,
    reconstruct,
    sample,
)
from pyrovae.schema import Schema, face
from pyrovae.tensors import TensorData

MOST_POINTS = 2000  # on the map
CLOUD = 400  # draws of q(z|x) behind an ellipse
PARTICLES = 1000

Plain = dict[str, object]


class View:
    """A pair and some data, seen through its local continuous latents.

    All of them together are one vector, ``z``: its coordinates are the *units*, and a linear map of
    it is drawn in the plane. One question is answered at a time.

    Args:
        pair: any pair with a continuous latent per datum.
        x: data, in any form that ``pv.fit`` takes; at most ``points`` of them are shown.
        points: how many data to show.
        names: of the classes.
        seed: of everything drawn.

    Raises:
        UsageError: data that the pair does not take; no continuous latent to explore.

    >>> from pyrovae.vae import VAE
    >>> view = View(VAE((4,), 2), torch.ones(10, 4))
    >>> len(view.about()["units"]), len(view.decode([0.0, 0.0])["x"][0])
    (2, 4)
    """

    def __init__(
        self,
        pair: object,
        x: object,
        *,
        points: int = MOST_POINTS,
        names: Sequence[str] | None = None,
        seed: int = 0,
    ) -> None:
        self.pair, self.seed = traces.as_pair(pair), seed
        served = traces.Problem.of(self.pair, x, seed).data
        self.data = served.first(min(whole_number("points", points), len(served)))
        self.event_shape = tuple(self.data.event_shape)
        self.schema = self._schema()
        self.kind = self._kind()
        self.labels = None if self.data.labels is None else self.data.labels.cpu()
        classes = names or (self.schema.classes if self.schema else ())
        self.names = list(classes) or None
        found = evaluate(self.pair, self.data, 1, seed=seed)
        if not found.codes:
            raise UsageError(
                "there is no continuous latent per datum to explore: the page shows z as a point"
            )
        codes = codes_of(traces.Problem.of(self.pair, self.data, seed), seed)
        self.sites = {name: tuple(code.shape[1:]) for name, code in codes.items()}
        self.codes = _flat(codes)
        self.kl = torch.cat([
            found.kl_dimensions[n].flatten().float()
            if n in found.kl_dimensions
            else torch.full((math.prod(shape),), math.nan)
            for n, shape in self.sites.items()
        ])  # fmt: skip
        self.active = torch.cat([found.active[name].flatten() for name in self.sites])
        self.rows, self.centre, self.axes = self._plane()
        self.decoders: dict[int, Callable[[object], Values]] = {}

    def _schema(self) -> Schema | None:
        """What the columns of the data are, where they are tables or series with names."""
        schema = self.data.schema or self.pair.schema
        own = schema is not None and self.event_shape[-1:] == (len(schema.columns),)
        return schema if own else None

    def _kind(self) -> str:
        """What a datum is drawn as; images whose channels are last are not."""
        return "array" if channels_last(self.event_shape) else face(self.event_shape, self.schema)

    def _plane(self) -> tuple[Tensor, Tensor, list[str]]:
        """The map [2, units], its origin [units] and what its axes are called.

        Two coordinates, the most informative, where two carry all there is; else the principal
        components of the codes.
        """
        units = self.codes.shape[1]
        names = unit_names(self.sites)
        order = self._order()
        if int(self.active.sum()) <= 2:
            chosen = (order + order)[:2]
            rows = torch.eye(units)[chosen]
            return rows, torch.zeros(units), [names[k] for k in chosen]
        centre = self.codes.mean(0)
        _, spread, components = torch.linalg.svd(self.codes - centre, full_matrices=False)
        share = spread**2 / (spread**2).sum()
        signs = components[:2].gather(1, components[:2].abs().argmax(1, keepdim=True)).sign()
        words = [f"component {k + 1} ({share[k]:.0%} of variance)" for k in range(2)]
        return components[:2] * signs, centre, words

    def _order(self) -> list[int]:
        """Units, the most informative first: by KL, where that is known, else by spread."""
        spread = self.codes.var(0)
        score = self.kl if not self.kl.isnan().any() else spread
        return [int(k) for k in score.argsort(descending=True)]

    def about(self) -> Plain:
        """What there is to explore: units, the map, one datum's shape, classes, and of a table or
        of series the ``columns``: name, kind, levels, unit, origin, decimals, low, high and gaps of
        each, see :class:`pyrovae.schema.Column`.
        """
        names = unit_names(self.sites)
        x = self.data.x.float()
        finite = x[x.isfinite()]
        return {
            "units": [
                {
                    "index": k,
                    "name": names[k],
                    "kl": None if self.kl[k].isnan() else round(float(self.kl[k]), 4),
                    "active": bool(self.active[k]),
                }
                for k in self._order()
            ],
            "map": {
                "rows": _plain(self.rows),
                "centre": _plain(self.centre),
                "axes": self.axes,
            },
            "points": _plain((self.codes - self.centre) @ self.rows.T),
            "labels": None if self.labels is None else self.labels.tolist(),
            "names": self.names,
            "label": self.schema.label if self.schema and self.schema.label else "class",
            "shape": list(self.event_shape),
            "kind": self.kind,
            "columns": self._columns(),
            "binary": bool(((finite == 0) | (finite == 1)).all()),
            "range": [float(finite.min()), float(finite.max())],
            "seed": self.seed,
            "conditional": len(self.data[:1]) > 1,
            "particles": PARTICLES,
        }

    def _columns(self) -> list[Plain] | None:
        """Those of a table or of series, with the ends of their axes; None of other data."""
        if self.kind not in ("table", "series"):
            return None
        x = self.data.x.float()
        x = x.reshape(-1, x.shape[-1] if x.dim() > 1 else 1)
        schema = self.schema or Schema.unnamed(x.shape[1])
        columns = []
        for column, values in zip(schema.to_dict()["columns"], x.T, strict=True):
            known = values[values.isfinite()]
            if self.schema is None and len(known):
                column |= {"low": float(known.min()), "high": float(known.max())}
            columns.append(column)
        return columns

    def decode(self, z: Sequence[float], given: int = 0) -> Plain:
        """E[x|z], with what the model conditions on (such as a label) taken from a datum.

        ``outside`` are the units beyond three standard deviations of a standard normal prior.
        """
        code = self._code(z)
        x = self._decoded(code[None], given)
        outside = [int(k) for k in (code.abs() > 3).nonzero().flatten()]
        return {"x": self._values(x), "outside": outside}

    def datum(self, index: int) -> Plain:
        """One datum: its posterior, reconstruction, bound, log evidence, k-hat and neighbours."""
        few = self._select(index)
        found = self._posterior(few)
        far = torch.cdist(self.codes[index : index + 1], self.codes)[0]
        far[index] = math.inf
        near = far.topk(min(6, len(far) - 1), largest=False).indices.tolist()
        label = None if self.labels is None else int(self.labels[index])
        return found | {"index": index, "label": label, "neighbours": near}

    def data_at(self, indices: Sequence[int]) -> Plain:
        """The data themselves."""
        return {
            "x": _plain(
                self.data.x[list(map(self._index, indices))].float().cpu().reshape(len(indices), -1)
            )
        }

    def posterior(self, x: Sequence[float | None], given: int = 0) -> Plain:
        """The same for data of one's own, drawn or uploaded; None is missing."""
        return self._posterior(self._own(x, given))

    def filled(self, x: Sequence[float | None], given: int = 0) -> Plain:
        """x with its missing entries imputed."""
        return {"x": _plain(self._imputed(x, given))}

    def _imputed(self, x: Sequence[float | None], given: int) -> Tensor:
        found = impute(self.pair, self._own(x, given), seed=self.seed)
        return (found[0] if isinstance(found, tuple) else found).reshape(1, -1)

    def path(self, start: int, end: int, steps: int = 10) -> Plain:
        """E[x|z] along the straight line between the codes of two data."""
        a, b = (self.codes[self._index(i)] for i in (start, end))
        t = torch.linspace(0, 1, whole_number("steps", steps, least=2))[:, None]
        z = a + t * (b - a)
        return {"x": self._values(self._decoded(z, start)), "z": _plain(z)}

    def samples(self, n: int = 24, seed: int = 0, given: int = 0) -> Plain:
        """E[x|z] of draws from the prior; of a table, whose means may be no values, rows x."""
        few = self._select(given)
        mean = self.kind != "table"
        x = sample(self.pair, whole_number("n", n), mean=mean, seed=seed, like=few)
        return {"x": self._values(x)}

    def prior(self, n: int) -> Tensor:
        """Draws of z from the model, ``[n, units]``, given what the first datum gives."""
        problem, rows = on_example(self.pair, self.data)
        batch = tuple(a[:1].expand(n, *a.shape[1:]) for a in rows)
        with problem.pair.evaluating():
            torch.manual_seed(self.seed)
            drawn, _ = problem.simulate(batch, list(self.sites))
        return _flat({name: problem.shape.by_datum(name, v) for name, v in drawn.items()})

    def grid(self, steps: int = 15) -> Plain:
        """E[x|z] over the plane of the map, row by row from the top left."""
        place = (self.codes - self.centre) @ self.rows.T
        low, high = place.amin(0), place.amax(0)
        across = torch.linspace(float(low[0]), float(high[0]), steps)
        up = torch.linspace(float(high[1]), float(low[1]), steps)
        where = torch.cartesian_prod(up, across).flip(1)
        rows = self.rows if not torch.equal(self.rows[0], self.rows[1]) else self.rows[:1]
        z = self.centre + where[:, : len(rows)] @ rows
        x = self._decoded(z, 0)
        return {"x": self._values(x), "across": _plain(across), "up": _plain(up)}

    def decoded_codes(self) -> Plain:
        """E[x|z] at the code of every datum."""
        return {"x": self._values(self._decoded(self.codes, 0))}

    def _decoder(self, given: int) -> Callable[[object], Values]:
        """One per datum that was given, a few of them kept."""
        if given not in self.decoders:
            while len(self.decoders) > 20:
                self.decoders.pop(next(iter(self.decoders)))
            self.decoders[given] = decoder(self.pair, like=self._select(given))
        return self.decoders[given]

    def _decoded(self, z: Tensor, given: int) -> Values:
        try:
            return self._decoder(given)(self.split(z))
        except ValueError as error:  # such as a scale below zero
            raise UsageError(f"the model takes no such z: {in_short(error)}") from error

    def _posterior(self, few: object) -> Plain:
        given = self.pair.some(few, 1)[0]
        found = evaluate(self.pair, few, PARTICLES, seed=self.seed)
        x = reconstruct(self.pair, few, seed=self.seed)
        problem = traces.Problem.of(self.pair, few, self.seed)
        with problem.pair.evaluating():
            torch.manual_seed(self.seed)
            drawn = problem.summing([]).draw(problem.pair.some(problem.data, 1), CLOUD)
        gone = [n for n in self.sites if n not in drawn.guide]
        if gone:
            raise UsageError(
                f"this datum has no {', '.join(gone)}, which others have (as a shorter series), so "
                f"it has no place on their map: explore data of one length"
            )
        z = _flat({n: drawn.guide[n].value[:, 0] for n in self.sites})
        place = (z - self.centre) @ self.rows.T
        numbers = {
            name: _number(value)
            for name, value in (
                ("elbo", found.elbo),
                ("reconstruction", found.reconstruction),
                ("kl", found.kl),
                ("log_evidence", found.log_evidence),
                ("khat", found.khat),
                ("ess", found.ess),
            )
        }
        return {
            "x": _plain(given.float().cpu().reshape(1, -1)),
            "reconstruction_x": self._values(x),
            "code": _plain(_flat(codes_of(problem, self.seed))[0]),
            "sd": _plain(z.std(0)),
            "place": _plain(place.mean(0)),
            "covariance": _plain(torch.cov(place.T)),
            "numbers": numbers,
        }

    def _values(self, x: Values) -> list[Any]:
        """What is observed, one flat row per datum; of several sites, that of the data's shape."""
        if isinstance(x, dict):
            alike = [v for v in x.values() if tuple(v.shape[1:]) == self.event_shape]
            x = (alike or list(x.values()))[0]
        return _plain(x.float().reshape(len(x), -1))

    def _index(self, index: int) -> int:
        if not 0 <= index < len(self.data):
            raise UsageError(f"the data shown are 0 to {len(self.data) - 1}, got {index}")
        return index

    def _select(self, index: int) -> TensorData:
        return self.data.select(torch.tensor([self._index(index)]))

    def _own(self, x: Sequence[float | None], given: int) -> Tensor | tuple[Tensor, ...]:
        size = math.prod(self.event_shape)
        if len(x) != size:
            raise UsageError(f"x has {len(x)} values; one datum has {size}: {self.event_shape}")
        values = torch.tensor([math.nan if v is None else float(v) for v in x])
        if values.isinf().any():
            raise UsageError("x holds infinite values; give finite ones, null where missing")
        few = self._select(given)
        first = values.reshape(1, *self.event_shape).to(few.x)
        others = few[:1][1:]
        return (first, *others) if others else first

    def _code(self, z: Sequence[float]) -> Tensor:
        units = self.codes.shape[1]
        code = torch.tensor([float(v) for v in z])
        if len(code) != units or not code.isfinite().all():
            raise UsageError(f"z is {units} finite numbers, got {len(code)}")
        return code

    def split(self, z: Tensor) -> dict[str, Tensor]:
        """Points ``[n, units]`` by site, ``[n, ...]``."""
        sizes = [math.prod(shape) for shape in self.sites.values()]
        parts = z.split(sizes, dim=1)
        return {n: p.reshape(-1, *s) for (n, s), p in zip(self.sites.items(), parts, strict=True)}


def _flat(codes: Mapping[str, Tensor]) -> Tensor:
    return flat(codes).float().cpu()


def _number(value: Tensor | None) -> float | None:
    return None if value is None or not value[0].isfinite() else round(float(value[0]), 4)


def _plain(values: Tensor) -> list[Any]:
    """Nested lists of seven digits, all that a float32 has; what is not finite becomes None."""
    exact = values.detach().cpu().double()
    digits = 10 ** (6 - exact.abs().clamp(1e-12, 1e12).log10().floor()).clamp(0, 18)
    rounded = (exact * digits).round() / digits
    flat: Any = rounded.tolist()
    return flat if rounded.isfinite().all() else _without_nan(flat)


def _without_nan(values: Any) -> Any:
    if isinstance(values, list):
        return [_without_nan(v) for v in values]
    return values if math.isfinite(values) else None
