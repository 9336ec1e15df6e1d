"""Pictures and numbers out of any pair: sample, encode, reconstruct, interpolate, traverse."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, overload

import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrovae import traces
from pyrovae.errors import UsageError, got, nearest, number, whole_number
from pyrovae.evaluation import CHUNK, evaluate
from pyrovae.framing import flat, framed
from pyrovae.memory import fits
from pyrovae.posteriors import Sampler, check_method, sampled
from pyrovae.progress import shown, steps
from pyrovae.randomness import set_seed
from pyrovae.signatures import Latent, Observed, Typed
from pyrovae.supports import entries, voted
from pyrovae.tensors import Data
from pyrovae.traces import Args, Problem, as_pair, filling

__all__ = [
    "decode",
    "encode",
    "impute",
    "interpolate",
    "neighbours",
    "reconstruct",
    "sample",
    "traverse",
]

Values = Tensor | dict[str, Tensor]
Rows: TypeAlias = Tensor | Data | NDArray[Any]  # of which a verb makes tensors, not a DataFrame
Sites = Mapping[str, tuple[dist.TorchDistribution, Tensor]]
Expectation = Callable[[Args, Mapping[str, Tensor]], dict[str, Tensor]]
Votes = dict[str, tuple[Tensor, torch.Size]]  # by site: which entries are classes, of what shape
BATCH = 512
CHAINS = 4  # of Hamiltonian Monte Carlo, per datum
ROWS = 8192  # data times particles that are decoded at once


@overload
def sample(
    pair: Typed[Observed, Any],
    n: int = ...,
    *,
    like: object = ...,
    mean: bool = ...,
    seed: int = ...,
) -> Observed: ...
@overload
def sample(
    pair: object, n: int = ..., *, like: object = ..., mean: bool = ..., seed: int = ...
) -> Any: ...
@shown("sample")
def sample(
    pair: object, n: int = 64, *, like: object = None, mean: bool = False, seed: int = 0
) -> Any:
    """Draw ``n`` data from the model: z from the prior, x from p(x|z).

    Args:
        pair: any pair; its observed sites are sampled.
        n: how many.
        like: data of the shapes that the model takes; not needed for a VAE or a trained pair.
            What the model conditions on, such as labels, is taken from them in turn.
        mean: E[x|z] (of a Bernoulli, the probabilities) instead of a draw.
        seed: of the draws. The global random state is left as it was.

    Returns:
        ``[n, *event_shape]``, or a dict of them where the model observes several sites.

    Raises:
        UsageError: "n must be a whole number of at least 1, got ...".
        UsageError: "... data of shape ... take ... bytes, which do not fit in memory; ask for fewer
            (n, draws or steps)".
        UsageError: "the shapes of this pair's data are not known yet; train it, or pass one or more
            data as like=".
        UsageError: what :func:`pyrovae.elbo` says of data, and of what is no pair.

    >>> from pyrovae.vae import VAE
    >>> sample(VAE((4,), 2), 3).shape
    torch.Size([3, 4])
    """
    n = whole_number("n", n)
    given = _Given.of(pair, like)
    _check_room(n, given.rows)
    return _unwrap(given.generated(n, {}, draw=not mean, parents="drawn", seed=seed))


def _check_room(n: int, given: Args) -> None:
    """Refuse more data, of the shape of those given, than there is memory for."""
    nbytes = 2 * n * given[0][:1].nbytes  # the parts and the whole
    if not fits(nbytes, "cpu"):
        raise UsageError(
            f"{n:,} data of shape {list(given[0].shape[1:])} take {nbytes:,} bytes, which do not "
            f"fit in memory; ask for fewer (n, draws or steps)"
        )


@overload
def decode(pair: Typed[Observed, Any], latents: object, *, like: object = ...) -> Observed: ...
@overload
def decode(pair: object, latents: object, *, like: object = ...) -> Any: ...
@shown("decode")
def decode(pair: object, latents: object, *, like: object = None) -> Any:
    """E[x|z] at given latents, ``[n, *event_shape]``.

    Args:
        pair: any pair.
        latents: ``[n, ...]``, or a dict of them by site; absent sites are drawn.
        like: as in :func:`sample`.

    Returns:
        ``[n, *event_shape]``, or a dict of them where the model observes several sites.

    Raises:
        UsageError: "the pair has the latents ...; pass a dict by site".
        UsageError: "latents are a tensor, or a dict of tensors by site; the pair's latents are ...,
            got ...".
        UsageError: "the latents of each datum must be as many, [n, ...] each; got ...".
        UsageError: "the model does not run at these latents: ...; they must lie in their sites'
            support and be of their shapes (a unit of a simplex, say, cannot be moved alone)".
        UsageError: "the shapes of this pair's data are not known yet; train it, or pass one or more
            data as like=".
        UsageError: what :func:`pyrovae.elbo` says of data, and of what is no pair.

    >>> from pyrovae.vae import VAE
    >>> decode(VAE((4,), 2), torch.zeros(3, 2)).shape
    torch.Size([3, 4])
    """
    return decoder(pair, like=like)(latents)


def decoder(pair: object, *, like: object = None) -> Callable[[object], Values]:
    """:func:`decode` as a function of the latents alone, for many small calls: what it learns of
    the pair by running it is learned once, so the pair's code must stay as it is."""
    given = _Given.of(pair, like)

    def decoded(latents: Any) -> Values:
        if isinstance(latents, Tensor):
            sites = given.problem.shape.latents
            if len(sites) != 1:
                raise UsageError(f"the pair has the latents {list(sites)}; pass a dict by site")
            latents = {sites[0]: latents}
        _check_latents(latents, given.problem)
        local = [v for k, v in latents.items() if k not in given.problem.shape.globals]
        n = len(local[0]) if local else len(given.rows[0])
        return _unwrap(given.generated(n, latents))

    return decoded


def _check_latents(latents: object, problem: Problem) -> None:
    known = [*problem.shape.latents, *problem.shape.enumerated]
    unknown = [k for k in latents if k not in known] if isinstance(latents, Mapping) else []
    if not isinstance(latents, Mapping) or not latents or unknown:
        raise UsageError(
            f"latents are a tensor, or a dict of tensors by site; the pair's latents are {known}, "
            f"got {unknown or got(latents)}"
        )
    local = {k: v for k, v in latents.items() if k not in problem.shape.globals}
    _check_sizes(local)
    _check_axes(local, problem)


def _check_axes(local: Mapping[str, Tensor], problem: Problem) -> None:
    """Refuse one datum's latent, which has the shape of several data's of fewer axes."""
    for name, value in local.items():
        plates, events = problem.shape.place(name)
        if plates and value.dim() < len(plates) + events:
            raise UsageError(
                f"the latent {name!r} of n data is [n, ...] of {len(plates) + events} dimensions, "
                f"got shape {list(value.shape)}: give one as z[None]"
            )


def _check_sizes(local: Mapping[str, Tensor]) -> None:
    sizes = {k: len(v) if v.dim() else 0 for k, v in local.items()}
    if len(set(sizes.values())) > 1 or 0 in sizes.values():
        raise UsageError(f"the latents of each datum must be as many, [n, ...] each; got {sizes}")


@dataclass(frozen=True)
class _Given:
    """What the model is handed where data are made: data of the right shapes, taken in turn, with
    what it conditions on.

    Attributes:
        problem: the pair on these data.
        rows: the data, ``[n, ...]`` each.
    """

    problem: Problem
    rows: Args

    @classmethod
    def of(cls, pair: object, like: Any) -> _Given:
        """Data that were given; without any, the shapes that the pair knows."""
        program = as_pair(pair)
        given = program.example() if like is None else like
        try:
            problem = Problem.of(program, given, checked=False)
        except UsageError:
            if like is not None:
                raise
            # what stands for the data need not lie in the support
            problem = Problem.of(program, traces.replaced(program, given), checked=False)
        return cls(problem, problem.data.first(len(problem.data))[:])

    def generated(
        self,
        n: int,
        latents: Mapping[str, Tensor],
        *,
        draw: bool = False,
        parents: str = "kept",
        seed: int = 0,
    ) -> dict[str, Tensor]:
        """The observed sites of ``n`` runs of the model, given some latents ``[n, ...]``.

        Args:
            n: how many data.
            latents: of each datum ``[n, ...]``; a global one is given whole.
            draw: draws of the sites, or their means.
            parents: whether observed sites that others depend on are "drawn", or "kept" as given.
            seed: of the draws.
        """
        parts: list[dict[str, Tensor]] = []
        problem = self.problem
        size = problem.at_once(BATCH)
        with problem.pair.evaluating():
            set_seed(seed)
            starts = range(0, n, size)
            for start in steps(starts, len(starts)):
                stop = min(start + size, n)
                last = start + size if problem.whole else stop
                known = self._native(latents, slice(start, stop), last - start)
                sites = problem.generate(
                    _taken(self.rows, start, last), known, draw=draw or parents == "drawn"
                )
                made = _observed(sites, problem, mean=not draw)
                if parts and made.keys() != parts[0].keys():
                    raise UsageError(
                        f"the model observes {list(made)} in one batch and {list(parts[0])} in "
                        f"another (series of other lengths, say), which no table can hold: ask for "
                        f"data of one length"
                    )
                parts.append({name: value[: stop - start] for name, value in made.items()})
        return {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}

    def _native(self, latents: Mapping[str, Tensor], rows: slice, count: int) -> dict[str, Tensor]:
        """The latents of some data, filled up to ``count``, as the programs draw them."""
        shape, device = self.problem.shape, self.problem.pair.device
        some = {
            k: v if k in shape.globals else _filled_up(v[rows], count) for k, v in latents.items()
        }
        return {k: shape.native(k, v.to(device)) for k, v in some.items()}


def on_example(pair: object, like: object = None) -> tuple[Problem, Args]:
    """A pair on data of the shapes that its model takes, and these data ``[n, ...]``: ``like``, or
    those that the pair knows."""
    given = _Given.of(pair, like)
    return given.problem, given.rows


def expectation(problem: Problem, batch: Args, latents: Mapping[str, Tensor]) -> Expectation:
    """E[x|z] of the observed sites ``[n, ...]`` by one run of the model, as a function of a batch
    and of its latents ``[n, ...]`` which decides nothing by their values: which sites have entries
    without a mean is seen on those that are given."""

    def run(batch: Args, latents: Mapping[str, Tensor]) -> Sites:
        known = {k: problem.shape.native(k, v) for k, v in latents.items()}
        return problem.generate(batch, known, draw=False)

    def expected(batch: Args, latents: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return _observed(run(batch, latents), problem, mean=True, modal=modal)

    modal = {name for name, (fn, _) in run(batch, latents).items() if _lacks_mean(fn)}
    return expected


def _filled_up(rows: Tensor, count: int) -> Tensor:
    """As many rows as the programs take, the last one over and over."""
    left = count - len(rows)
    return rows if left <= 0 else torch.cat([rows, rows[-1:].expand(left, *rows.shape[1:])])


def _taken(rows: Args, start: int, stop: int) -> Args:
    """The rows ``start`` to ``stop`` of what is given, over and over."""
    index = torch.arange(start, stop) % len(rows[0])
    return tuple(a[index.to(a.device)] for a in rows)


@overload
def encode(pair: Typed[Any, Latent], x: Rows, *, seed: int = ...) -> Latent: ...
@overload
def encode(pair: object, x: object, *, seed: int = ...) -> Any: ...
@framed
def encode(pair: object, x: object, *, seed: int = 0) -> Any:
    """Posterior mean of every local continuous latent, ``[N, ...]``, by the guide.

    Args:
        pair: any pair.
        x: data ``[N, *event_shape]``, in any form that ``pv.fit`` takes.
        seed: of the draws whose mean is taken where q(z|x) has none in closed form.

    Returns:
        A tensor ``[N, ...]`` where there is one such latent, else a dict by site.

    Raises:
        UsageError: "the guide has no continuous latent in the plate over the data to encode".
        UsageError: what :func:`pyrovae.elbo` says of data, and of what is no pair.

    >>> from pyrovae.vae import VAE
    >>> encode(VAE((4,), 2), torch.ones(10, 4)).shape
    torch.Size([10, 2])
    """
    return _unwrap(codes_of(Problem.of(pair, x, seed), seed))


@shown("encode")
def codes_of(problem: Problem, seed: int = 0) -> dict[str, Tensor]:
    """The codes of all data by site, as :func:`encode` gives them."""
    parts = []
    with problem.pair.evaluating():
        set_seed(seed)
        for batch in problem.batches(BATCH):
            parts.append({n: c.cpu() for n, c in problem.codes(batch).items()})
    if not parts[0]:
        raise UsageError("the guide has no continuous latent in the plate over the data to encode")
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@overload
def reconstruct(
    pair: Typed[Observed, Any],
    x: Rows,
    *,
    draws: int = ...,
    num_particles: int = ...,
    method: str = ...,
    seed: int = ...,
) -> Observed: ...
@overload
def reconstruct(
    pair: object,
    x: object,
    *,
    draws: int = ...,
    num_particles: int = ...,
    method: str = ...,
    seed: int = ...,
) -> Any: ...
@shown("reconstruct")
@framed
def reconstruct(
    pair: object,
    x: object,
    *,
    draws: int = 0,
    num_particles: int = 16,
    method: str = "guide",
    seed: int = 0,
) -> Any:
    """E[x'|x]: the mean of p(x'|z) under the guide's q(z|x), or under the posterior itself.

    Args:
        pair: any pair.
        x: data, in any form that ``pv.fit`` takes.
        draws: instead of the mean, this many draws of x' ~ p(x'|z), z ~ q(z|x).
        num_particles: particles in the mean.
        method: "guide", or "hmc" for z drawn from p(z|x) as :func:`pyrovae.posterior` does.
        seed: of the particles.

    Returns:
        ``[N, *event_shape]``, or ``[draws, N, *event_shape]``; a dict of them by site where the
        model observes several. Where a site depends on other observed ones, as the steps of a
        series may, its mean is that given these.

    Raises:
        UsageError: "draws must be a whole number of at least 0, got ...".
        UsageError: "num_particles must be a whole number of at least 1, got ...".
        UsageError: "method is 'guide' or 'hmc', got ...".
        UsageError: "... data of shape ... take ... bytes, which do not fit in memory; ask for fewer
            (n, draws or steps)".
        UsageError: what :func:`pyrovae.elbo` says of data, and of what is no pair.
        UsageError: with "hmc", what :func:`pyrovae.posterior` says.
    """
    draws = whole_number("draws", draws, least=0)
    num_particles = whole_number("num_particles", num_particles)
    check_method(method, ("guide", "hmc"))
    problem = Problem.of(pair, x, seed)
    _check_room((draws or 1) * len(problem.data), problem.pair.example())
    count, parts = draws or num_particles, []
    with problem.pair.evaluating():
        set_seed(seed)
        for batch in problem.batches(max(1, ROWS // count)):
            values, votes = _decoded(problem, batch, count, method, draw=bool(draws))
            even = torch.full((count,), 1 / count, device=problem.pair.device)
            parts.append(
                {n: (v if draws else _average(v, even, votes[n])).cpu() for n, v in values.items()}
            )
    return _unwrap({n: torch.cat([p[n] for p in parts], dim=int(draws > 0)) for n in parts[0]})


def _decoded(
    problem: Problem, batch: Args, count: int, method: str, *, draw: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Means or draws of the observed sites at ``count`` draws of the latents given the batch,
    ``[count, batch, ...]``, and which of their entries are classes."""
    if method == "hmc":
        drawn = problem.turns(batch, count, _by_hmc(problem, batch, count))
        runs = ((rows, problem.discrete(rows, latents)) for rows, latents in drawn)
    elif problem.shape.globals:  # one draw of them for all data of a run
        runs = ((batch, problem.latents(batch)) for _ in range(count))
    else:
        drawn = problem.turns(batch, count, problem.particles(batch, count))
        runs = ((rows, problem.discrete(rows, latents)) for rows, latents in drawn)
    return decoded_at(problem, runs, len(batch[0]), draw=draw)


def decoded_at(
    problem: Problem,
    runs: Iterable[tuple[Args, Mapping[str, Tensor]]],
    size: int,
    *,
    draw: bool,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The same at latents that are given, in turns of ``size`` data over and over, as
    :meth:`Problem.turns` gives them."""
    each, votes = [], {}
    for rows, latents in runs:
        sites = problem.generate(rows, latents, draw=draw)
        values = _observed(sites, problem, mean=not draw)
        each.append({n: v.unflatten(0, (-1, size)) for n, v in values.items()})
        votes = {n: voted(sites[n][0]) for n in values}
    return {n: torch.cat([part[n] for part in each]) for n in each[0]}, votes


def _by_hmc(problem: Problem, batch: Args, count: int) -> dict[str, Tensor]:
    """Draws of p(z|x), each datum ``count`` times, particle by particle, as
    :meth:`Problem.particles` gives those of q(z|x)."""
    sampler = Sampler(draws=max(4, -(-count // CHAINS)), chains=CHAINS)
    found = sampled(problem, batch, sampler).draws
    flat = {n: v.transpose(0, 1).flatten(0, 1)[-count:].flatten(0, 1) for n, v in found.items()}
    return {n: problem.beside(n, v.to(problem.pair.device)) for n, v in flat.items()}


@overload
def interpolate(
    pair: Typed[Observed, Any], a: object, b: object, steps: int = ..., *, method: str = ...
) -> Observed: ...
@overload
def interpolate(
    pair: object, a: object, b: object, steps: int = ..., *, method: str = ...
) -> Any: ...
@shown("interpolate")
def interpolate(
    pair: object, a: object, b: object, steps: int = 8, *, method: str = "linear"
) -> Any:
    """Decode the path between the codes of ``a`` and ``b``.

    Discrete latents, which have no path, are those of ``a`` up to the middle, then those of ``b``;
    so is what the model conditions on, such as labels.

    Args:
        pair: any pair.
        a: data ``[n, *event_shape]``, or one datum.
        b: as many data.
        steps: points on each path, both ends included.
        method: ``"linear"``, or ``"spherical"`` (White, "Sampling Generative Networks", 2016).

    Returns:
        ``[n, steps, *event_shape]``, ``[steps, *event_shape]`` for one datum; a dict of them by
        site where the model observes several.

    Raises:
        UsageError: "steps must be a whole number of at least 2, got ...".
        UsageError: "method is linear or spherical, got ...".
        UsageError: "a and b must hold as many data, got ... and ...".
        UsageError: "the guide has no continuous latent in the plate over the data to encode".
        UsageError: "... data of shape ... take ... bytes, which do not fit in memory; ask for fewer
            (n, draws or steps)".
        UsageError: what :func:`pyrovae.elbo` says of data, and of what is no pair.
    """
    steps = whole_number("steps", steps, least=2)
    paths = {"linear": _linear, "spherical": _spherical}
    if method not in paths:
        raise UsageError(
            f"method is {' or '.join(paths)}, got {method!r}{nearest(method, list(paths))}"
        )
    single, one, other = _ends(pair, a, b)
    start, end = codes_of(one), codes_of(other)
    if len(one.data) != len(other.data):
        raise UsageError(
            f"a and b must hold as many data, got {len(one.data)} and {len(other.data)}"
        )
    count = len(one.data)
    both = one.data.first(count)[:], other.data.first(count)[:]
    n = steps * count
    _check_room(n, both[0])
    t = torch.linspace(0, 1, steps)
    between = {name: paths[method](start[name], end[name], t).flatten(0, 1) for name in start}
    left = {*one.shape.latents, *one.shape.enumerated} - start.keys()
    if left:
        here, there = _drawn(one, both[0]), _drawn(other, both[1])
        for name in sorted(left & here.keys()):
            shared = name in one.shape.globals
            between[name] = here[name] if shared else _switched(here[name], there[name], steps)
    given = tuple(_switched(first, last, steps) for first, last in zip(*both, strict=True))
    out = _Given(one, given).generated(n, between)
    lead = (steps,) if single else (-1, steps)
    return _unwrap({name: v.reshape(*lead, *v.shape[1:]) for name, v in out.items()})


def _ends(pair: object, a: Any, b: Any) -> tuple[bool, Problem, Problem]:
    """The pair on both ends of paths, and whether each is one datum."""
    program = as_pair(pair)
    known = getattr(program.owner, "event_shape", None)
    if known is None and program.memory.example is not None:
        known = tuple(program.memory.example[0].shape[1:])
    single = isinstance(a, Tensor) and a.dim() > 0 and tuple(a.shape) == known
    one, other = (Problem.of(program, t[None] if single else t) for t in (a, b))
    return single, one, other


@shown("traverse")
def traverse(
    pair: object,
    x: object,
    *,
    dims: Sequence[int] | None = None,
    steps: int = 9,
    span: float = 2.0,
) -> tuple[Tensor, list[int], Tensor]:
    """Vary one unit of the latent at a time around the first datum of ``x``.

    Args:
        pair: a pair with one continuous latent vector.
        x: data; the first is varied, all of them tell which units are active.
        dims: units to vary; by default the active ones, most informative first.
        steps: values of each unit.
        span: from ``-span`` to ``span`` standard deviations of the prior's unit scale.

    Returns:
        Decoded data ``[units, steps, *event_shape]``, the units, and the values ``[steps]``.

    Raises:
        UsageError: "traverse varies the units of one latent vector; this pair has ...".
        UsageError: "dims names the units 0 to ..., got ...".
        UsageError: "steps must be a whole number of at least 1, got ...".
        UsageError: "span must be a positive number, got ...".
        UsageError: "... data of shape ... take ... bytes, which do not fit in memory; ask for fewer
            (n, draws or steps)".
        UsageError: what :func:`pyrovae.elbo` says of data, and of what is no pair.
    """
    problem = Problem.of(pair, x)
    found = evaluate(pair, problem.data, num_particles=1)
    if len(found.codes) != 1:
        raise UsageError(
            f"traverse varies the units of one latent vector; this pair has "
            f"{ {n: list(c.shape[1:]) for n, c in found.codes.items()} }"
        )
    ((name, codes),) = codes_of(problem).items()
    units = codes.reshape(len(codes), -1)
    if dims is None:
        information = found.kl_dimensions.get(name, units.var(0, correction=0)).flatten()
        dims = _informative(information, found.active[name].flatten())
    if not dims or any(not 0 <= d < units.shape[1] for d in dims):
        raise UsageError(f"dims names the units 0 to {units.shape[1] - 1}, got {list(dims)}")
    one = problem.data.first(1)[:]
    _check_room(len(dims) * whole_number("steps", steps), one)
    values = torch.linspace(-number("span", span), span, steps)
    latents = units[0].repeat(len(dims), steps, 1)
    for row, dim in enumerate(dims):
        latents[row, :, dim] = values
    varied = latents.reshape(-1, *codes.shape[1:])
    out = _Given(problem, one).generated(len(varied), {name: varied, **_shared(problem, one)})
    images = out[_drawn_of(problem, one, list(out))]
    return images.reshape(len(dims), steps, *images.shape[1:]), list(dims), values


def _drawn_of(problem: Problem, batch: Args, names: list[str]) -> str:
    """Of several observed sites, the first that observes the data as they are given."""
    if len(names) == 1:
        return names[0]
    with problem.pair.evaluating():
        wired = problem.wiring(batch).names
    return next((name for name in names if name in wired), names[0])


def _informative(information: Tensor, active: Tensor) -> list[int]:
    """The active units, most informative first; that of most information where none is active."""
    order: list[int] = information.argsort(descending=True).tolist()
    return [d for d in order if bool(active[d])] or order[:1]


@overload
def impute(
    pair: Typed[Tensor, Any],
    x: Rows,
    *,
    draws: int = ...,
    num_particles: int = ...,
    method: str = ...,
    seed: int = ...,
    progress: bool = ...,
) -> Tensor: ...
@overload
def impute(
    pair: object,
    x: object,
    *,
    draws: int = ...,
    num_particles: int = ...,
    method: str = ...,
    seed: int = ...,
    progress: bool = ...,
) -> Any: ...
@shown("impute")
@framed
def impute(
    pair: object,
    x: object,
    *,
    draws: int = 0,
    num_particles: int = 1000,
    method: str = "importance",
    seed: int = 0,
    progress: bool = True,
) -> Any:
    """Fill the missing entries (NaN) of x by conditioning on the observed ones.

    The guide sees zeros in place of missing entries (or the NaN themselves, if it can take
    them); the likelihood of missing entries is left out. Particles from the guide are weighted
    by p(x_observed, z) / q(z|x_observed): a missing entry becomes the weighted mean of E[x|z], a
    missing class the one with the largest weighted vote.
    Mattei and Frellsen, "MIWAE: Deep Generative Modelling and Imputation of Incomplete Data
    Sets", 2019. With ``method="hmc"`` they are drawn from p(z|x_observed) as
    :func:`pyrovae.posterior` does, and count alike: what is missing a guide may never have seen.

    Args:
        pair: a pair whose observed sites are independent over their entries given z.
        x: data ``[N, ...]`` with NaN.
        draws: instead of the mean, this many draws by sampling importance resampling.
        num_particles: particles per datum.
        method: "importance" or "hmc".
        seed: of the particles.
        progress: a bar on a terminal or in a notebook, once it takes more than a second.

    Returns:
        ``[N, ...]``, or ``[draws, N, ...]``; observed entries are as they were given. A tuple of
        them where the model observes several arguments that can have gaps.

    Raises:
        UsageError: "draws must be a whole number of at least 0, got ...".
        UsageError: "num_particles must be a whole number of at least 1, got ...".
        UsageError: "method is 'importance' or 'hmc', got ...".
        UsageError: "the latent site(s) ... lie outside the plate ...: all data share one draw, so
            no single datum has an importance weight of its own. pv.elbo and pv.evaluate count such
            a site once; for log p(x) per datum, condition on its value or move it into the plate".
        UsageError: "the guide puts ... at a point (dist.Delta), as an autoencoder does: without a
            density q(z|x) there is no bound on log p(x) and no importance weight. pv.evaluate
            measures the reconstruction; for log p(x) give the guide a density, such as
            dist.Normal".
        UsageError: "argument ... of the programs has missing entries, and no site observes it as it
            is, so that nothing says how they are distributed; observe it (obs=), or fill it
            before".
        UsageError: "some missing entries are observed by no site, or depend on others that are
            missing in a way that the model computes itself, so that nothing says how they are
            distributed".
        UsageError: what :func:`pyrovae.elbo` says of data, and of what is no pair.
        UsageError: with "hmc", what :func:`pyrovae.posterior` says.

    >>> from pyrovae.vae import VAE
    >>> impute(VAE((4,), 2), torch.tensor([[1.0, float("nan"), 0.0, 1.0]])).isnan().any()
    tensor(False)
    """
    draws = whole_number("draws", draws, least=0)
    num_particles = whole_number("num_particles", num_particles)
    check_method(method, ("importance", "hmc"))
    problem = Problem.of(pair, x, seed)
    whole = problem.data.first(len(problem.data))[:]
    broken = _incomplete(whole)
    if not len(broken):
        first = whole[0].cpu()
        return first.expand(draws, *first.shape) if draws else first
    problem.shape.refuse_globals()
    rows = tuple(a[broken] for a in whole)
    wires = _wires(problem, rows)
    size = problem.most(problem.shape.rows_within(CHUNK, num_particles))
    parts = []
    with problem.pair.evaluating():
        set_seed(seed)
        starts = range(0, len(broken), size)
        for start in steps(starts, len(starts), f"{num_particles:,} particles"):
            batch = tuple(a[start : start + size] for a in rows)
            weighed = _weighed(problem, batch, num_particles, method)
            parts.append(_filled(problem, batch, wires, draws, weighed))
    filled = _whole_again(whole, broken, parts, draws)
    observed = sorted({w.argument for w in wires if whole[w.argument].is_floating_point()})
    return filled[observed[0]] if len(observed) == 1 else tuple(filled[k] for k in observed)


def _whole_again(
    whole: Args, broken: Tensor, parts: Sequence[list[Tensor]], draws: int
) -> list[Tensor]:
    """The arguments with their broken rows replaced by the filled ones."""
    filled = []
    for given, arguments in zip(whole, zip(*parts, strict=True), strict=True):
        value = given.expand(draws, *given.shape).clone() if draws else given.clone()
        new = torch.cat([a.to(value) for a in arguments], dim=int(draws > 0))
        value[(slice(None), broken) if draws else broken] = new
        filled.append(value.cpu())
    if any(bool(value.isnan().any()) for value in filled if value.is_floating_point()):
        raise UsageError(
            "some missing entries are observed by no site, or depend on others that are missing in "
            "a way that the model computes itself, so that nothing says how they are distributed"
        )
    return filled


def _incomplete(args: Args) -> Tensor:
    """The rows in which an entry is missing."""
    marks = [a.isnan().reshape(len(a), -1).any(1) for a in args if a.is_floating_point()]
    return torch.stack(marks).any(0).nonzero()[:, 0] if marks else torch.zeros(0, dtype=torch.long)


def _wires(problem: Problem, rows: Args) -> Sequence[traces.Wire]:
    """Where each observed site's values belong."""
    some = tuple(a[: problem.most(BATCH)].nan_to_num(0.0) if a.is_floating_point()
                 else a[: problem.most(BATCH)] for a in rows)  # fmt: skip
    with problem.pair.evaluating():
        wiring = problem.wiring(some)
    reached = {wire.argument for wire in wiring.wires}
    lost = [k for k, a in enumerate(rows) if a.is_floating_point() and bool(a.isnan().any())
            and k not in reached]  # fmt: skip
    if lost:
        raise UsageError(
            f"argument {lost[0] + 1} of the programs has missing entries, and no site observes it "
            f"as it is, so that nothing says how they are distributed; observe it (obs=), or fill "
            f"it before"
        )
    return wiring.wires


def _weighed(
    problem: Problem, batch: Args, count: int, method: str
) -> tuple[dict[str, Tensor], Tensor]:
    """Particles of the latents, as :meth:`Problem.weighed` gives them, and their log weights."""
    if method == "importance":
        problem.shape.refuse_points()
        return problem.weighed(batch, count)
    return _by_hmc(problem, batch, count), torch.zeros(count, len(batch[0])).to(batch[0].device)


def _filled(
    problem: Problem,
    batch: Args,
    wires: Sequence[traces.Wire],
    draws: int,
    weighed: tuple[dict[str, Tensor], Tensor],
) -> list[Tensor]:
    """The arguments ``[batch, ...]`` with their missing entries filled, or ``[draws, batch, ...]``
    of them, by weighed particles."""
    latents, log_weights = weighed
    size, count = len(batch[0]), draws or len(log_weights)
    weights = log_weights.softmax(0)
    if draws:
        chosen = torch.multinomial(weights.T, draws, replacement=True).T
        rows = (chosen * size + torch.arange(size, device=chosen.device)).flatten()
        latents = {n: v.index_select(problem.axes[n], rows) for n, v in latents.items()}
    each: list[list[Tensor]] = []
    votes: Votes = {}
    for repeated, part in problem.turns(batch, count, latents):
        made, marks = _made(problem, repeated, part, wires, mean=not draws)
        votes |= marks
        each.append(made)
    filled = []
    for k, given in enumerate(batch):
        if not given.is_floating_point():
            filled.append(given.expand(draws, *given.shape) if draws else given)
            continue
        new = torch.cat([made[k] for made in each]).unflatten(0, (-1, size))
        if not draws:
            new = _average(new, weights, _classes(k, given, wires, votes))
        filled.append(torch.where(given.isnan(), new, given))
    return filled


def _made(
    problem: Problem,
    rows: Args,
    latents: dict[str, Tensor],
    wires: Sequence[traces.Wire],
    *,
    mean: bool,
) -> tuple[list[Tensor], Votes]:
    """The arguments with the observed sites' means or draws in their places, and which entries of
    each site are classes."""
    floats = {k: a for k, a in enumerate(rows) if a.is_floating_point()}
    gone = {w.site: w.of(floats[w.argument].isnan()) for w in wires if w.argument in floats}
    known = tuple(a.nan_to_num(0.0) if k in floats else a for k, a in enumerate(rows))
    drawn = problem.discrete(rows, latents)
    sites = traces.generate(filling(problem.pair, gone), known, drawn, draw=False)
    made, votes = [a.clone() for a in rows], {}
    for wire in wires:
        fn, value = sites[wire.site]
        traces.put(made[wire.argument], wire, _value(fn, value, mean))
        votes[wire.site] = voted(fn), fn.batch_shape + fn.event_shape
    return made, votes


def _classes(k: int, given: Tensor, wires: Sequence[traces.Wire], votes: Votes) -> Tensor:
    """Which entries of one datum are classes, in the argument ``k``."""
    marks = given.new_zeros(1, *given.shape[1:])
    for wire in wires:
        marked, shape = votes[wire.site]
        if wire.argument == k and bool(marked.any()):
            flags = marked.to(given.device).expand(shape).to(marks)
            traces.put(marks, wire, flags.movedim(wire.axis, 0)[:1].movedim(0, wire.axis))
    return marks[0].bool()


@shown("neighbours")
def neighbours(pair: object, x: object, among: object, k: int = 5) -> tuple[Tensor, Tensor]:
    """The ``k`` data of ``among`` whose codes lie nearest to those of ``x``.

    Args:
        pair: any pair.
        x: data ``[N, *event_shape]``, in any form that ``pv.fit`` takes.
        among: data ``[M, *event_shape]`` to choose from.
        k: how many, up to M.

    Returns:
        Indices into ``among`` ``[N, k]`` and Euclidean distances of the posterior means
        ``[N, k]``, nearest first.

    Raises:
        UsageError: "k must be a whole number of at least 1, got ...".
        UsageError: "k must be from 1 to the ... data to choose from, got ...".
        UsageError: "the guide has no continuous latent in the plate over the data to encode".
        UsageError: what :func:`pyrovae.elbo` says of data, and of what is no pair.

    >>> from pyrovae.vae import VAE
    >>> indices, distances = neighbours(VAE((4,), 2), torch.eye(4)[:1], torch.eye(4), k=3)
    >>> indices[0, 0], distances.shape
    (tensor(0), torch.Size([1, 3]))
    """
    k = whole_number("k", k)
    ours, theirs = (flat(codes_of(Problem.of(pair, t))) for t in (x, among))
    if k > len(theirs):
        raise UsageError(f"k must be from 1 to the {len(theirs)} data to choose from, got {k}")
    found = torch.cdist(ours, theirs).topk(k, largest=False)
    return found.indices, found.values


def _switched(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """``[n, ...]`` twice -> ``[n * steps, ...]``: a up to the middle, then b."""
    first = (steps + 1) // 2
    path = [a[:, None].expand(-1, first, *a.shape[1:])]
    path += [b[:, None].expand(-1, steps - first, *b.shape[1:])]
    return torch.cat(path, 1).flatten(0, 1)


def _drawn(problem: Problem, args: Args) -> dict[str, Tensor]:
    """A draw of every latent given the data, seeded."""
    with problem.pair.evaluating():
        torch.manual_seed(0)
        drawn = problem.latents(args)
    return {name: problem.shape.by_datum(name, value) for name, value in drawn.items()}


def _shared(problem: Problem, args: Args) -> dict[str, Tensor]:
    """A draw of what all data share."""
    shared = problem.shape.globals
    return {k: v for k, v in _drawn(problem, args).items() if k in shared} if shared else {}


def _linear(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """``[n, ...]`` twice and ``[steps]`` -> ``[n, steps, ...]``."""
    t = t.reshape(-1, *(1,) * (a.dim() - 1))
    return a[:, None] * (1 - t) + b[:, None] * t


def _spherical(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Along the great circle between the directions; linear where they are parallel."""
    flat_a, flat_b = a.flatten(1), b.flatten(1)
    cosine = torch.nn.functional.cosine_similarity(flat_a, flat_b, dim=1).clamp(-1, 1)
    angle = cosine.arccos()[:, None, None]
    t = t[None, :, None]
    sine = angle.sin()
    path = ((1 - t) * angle).sin() / sine * flat_a[:, None] + (t * angle).sin() / sine * flat_b[
        :, None
    ]
    straight = flat_a[:, None] * (1 - t) + flat_b[:, None] * t
    path = torch.where(sine.abs() < 1e-4, straight, path)
    return path.reshape(len(a), t.shape[1], *a.shape[1:])


def _observed(
    sites: Sites, problem: Problem, mean: bool, modal: Container[str] | None = None
) -> dict[str, Tensor]:
    """The observed sites' means or draws, the data's axis first; ``modal`` names the sites that
    have entries without a mean, where that is known."""
    out = {}
    for name in problem.names(sites):
        fn, value = sites[name]
        value = _value(fn, value, mean, None if modal is None else name in modal)
        out[name] = value.movedim(problem.shape.dim - fn.event_dim, 0)
    return out


def _value(
    fn: dist.TorchDistribution, value: Tensor, mean: bool, modal: bool | None = None
) -> Tensor:
    """A site's mean or draw; entries without a mean, such as classes, give their mode, and a
    distribution that knows neither gives the draw."""
    if mean:
        with contextlib.suppress(NotImplementedError, AttributeError):
            centre: Tensor = fn.mean
            if _lacks_mean(fn) if modal is None else modal:
                centre = torch.where(centre.isnan(), entries(fn).mode, centre)
            return centre
    return value


def _lacks_mean(fn: dist.TorchDistribution) -> bool:
    """Whether some entries have no mean, of a distribution that has one."""
    try:
        return bool(fn.mean.isnan().any())
    except (NotImplementedError, AttributeError):
        return False


def _average(values: Tensor, weights: Tensor, classes: Tensor) -> Tensor:
    """Over the first dimension: the weighted mean; of classes that of most weight."""
    weights = weights.reshape(*weights.shape, *(1,) * (values.dim() - weights.dim()))
    mean = (weights * values).sum(0)
    if not bool(classes.any()):
        return mean
    classes = classes.to(values.device).expand(values.shape[1:])
    each = values[:, classes].unique()
    shares = torch.stack([(weights * (values == one)).sum(0) for one in each])
    return torch.where(classes, each[shares.argmax(0)], mean)


def _unwrap(values: dict[str, Tensor]) -> Values:
    return next(iter(values.values())) if len(values) == 1 else values
