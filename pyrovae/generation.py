"""Pictures and numbers out of any pair: sample, encode, reconstruct, interpolate, traverse."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pyrovae import traces
from pyrovae.errors import UsageError, nearest, whole_number
from pyrovae.evaluation import evaluate
from pyrovae.memory import fits
from pyrovae.supports import voted
from pyrovae.traces import Args, Pair, Structure, as_pair

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
BATCH = 512


def sample(
    pair: Any, n: int = 64, *, like: Any = None, mean: bool = False, seed: int = 0
) -> Values:
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

    >>> from pyrovae.vae import VAE
    >>> sample(VAE((4,), 2), 3).shape
    torch.Size([3, 4])
    """
    n = whole_number("n", n)
    program = as_pair(pair)
    given = _example(program, like)
    _check_room(n, given)
    return _unwrap(_generate(*_prepared(program, given), n, given, {}, mean, seed))


def _check_room(n: int, given: Args) -> None:
    """Refuse more data, of the shape of those given, than there is memory for."""
    nbytes = 2 * n * given[0][:1].nbytes  # the parts and the whole
    if not fits(nbytes, "cpu"):
        raise UsageError(
            f"{n:,} data of shape {list(given[0].shape[1:])} take {nbytes:,} bytes, which do not "
            f"fit in memory; ask for fewer (n, draws or steps)"
        )


def decode(pair: Any, latents: Any, *, like: Any = None) -> Values:
    """E[x|z] at given latents, ``[n, *event_shape]``.

    Args:
        pair: any pair.
        latents: ``[n, ...]``, or a dict of them by site; absent sites are drawn.
        like: as in :func:`sample`.

    >>> from pyrovae.vae import VAE
    >>> decode(VAE((4,), 2), torch.zeros(3, 2)).shape
    torch.Size([3, 4])
    """
    return decoder(pair, like=like)(latents)


def decoder(pair: Any, *, like: Any = None) -> Callable[[Any], Values]:
    """:func:`decode` as a function of the latents alone, for many small calls: what it learns of
    the pair by running it is learned once, so the pair's code must stay as it is."""
    program = as_pair(pair)
    given = _example(program, like)
    completed, shape = _prepared(program, given)

    def decoded(latents: Any) -> Values:
        if isinstance(latents, Tensor):
            sites = shape.latents
            if len(sites) != 1:
                raise UsageError(f"the pair has the latents {list(sites)}; pass a dict by site")
            latents = {sites[0]: latents}
        n = len(next(iter(latents.values())))
        return _unwrap(_generate(completed, shape, n, given, latents, mean=True))

    return decoded


def _example(pair: Pair, like: Any) -> Args:
    given = pair.example() if like is None else pair.some(like)
    pair.example(given)
    with pair.evaluating(), contextlib.suppress(UsageError):
        # what stands there is not used, but must lie in the support
        zeros = tuple(a.nan_to_num(0.0) if a.is_floating_point() else a for a in given)
        return traces.simulate(pair, zeros, ())[1]
    return given


def _shape(pair: Pair, given: Args) -> Structure:
    return traces.structure(pair, _rows(given, 0, 2))


def _rows(given: Args, start: int, stop: int) -> Args:
    """The rows ``start`` to ``stop`` of what is given, over and over."""
    index = torch.arange(start, stop) % len(given[0])
    return tuple(a[index.to(a.device)] for a in given)


def _prepared(pair: Pair, given: Args) -> tuple[Pair, Structure]:
    """The pair as it runs where NaN among what is given is missing, and its structure."""
    completed = traces.completing(pair, given)
    return completed, _shape(completed, given)


def _generate(
    pair: Pair,
    shape: Structure,
    n: int,
    given: Args,
    latents: Mapping[str, Tensor],
    mean: bool,
    seed: int = 0,
) -> dict[str, Tensor]:
    """The observed sites of ``n`` runs of the model, given some latents ``[n, ...]``; arguments
    that are fewer are taken in turn."""
    parts = []
    with pair.evaluating():
        torch.manual_seed(seed)
        for start in range(0, n, BATCH):
            stop = min(start + BATCH, n)
            known = {k: v[start:stop].to(pair.device) for k, v in latents.items()}
            args = _rows(given, start, stop)
            parts.append(_observed(traces.generate(pair, args, known), shape, mean))
    return {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}


def encode(pair: Any, x: Any, *, seed: int = 0) -> Values:
    """Posterior mean of every local continuous latent, ``[N, ...]``, by the guide.

    Returns:
        A tensor where there is one such latent, else a dict by site.

    >>> from pyrovae.vae import VAE
    >>> encode(VAE((4,), 2), torch.ones(10, 4)).shape
    torch.Size([10, 2])
    """
    return _unwrap(_codes(pair, x, seed))


def _codes(pair: Any, x: Any, seed: int = 0) -> dict[str, Tensor]:
    codes = evaluate(pair, x, num_particles=1, seed=seed).codes
    if not codes:
        raise UsageError("the guide has no continuous latent in the plate over the data to encode")
    return codes


def reconstruct(
    pair: Any, x: Any, *, draws: int = 0, num_particles: int = 16, seed: int = 0
) -> Values:
    """E[x'|x]: the mean of p(x'|z) under the guide's q(z|x).

    Args:
        pair: any pair.
        x: data, in any form that ``pv.fit`` takes.
        draws: instead of the mean, this many draws of x' ~ p(x'|z), z ~ q(z|x).
        num_particles: particles in the mean.
        seed: of the particles.

    Returns:
        ``[N, *event_shape]``, or ``[draws, N, *event_shape]``; a dict of them by site where the
        model observes several.
    """
    draws = whole_number("draws", draws, least=0)
    num_particles = whole_number("num_particles", num_particles)
    program, data, shape = traces.prepare(pair, x, seed)
    _check_room((draws or 1) * len(data), program.example())
    parts = []
    with program.evaluating():
        torch.manual_seed(seed)
        for batch in data.batches(BATCH):
            drawn, votes = [], {}
            for _ in range(draws or num_particles):
                latents = traces.latents(program, batch, shape)
                sites = traces.generate(program, batch, latents)
                drawn.append(_observed(sites, shape, mean=not draws))
                votes = {n: voted(sites[n][0]) for n in shape.observed}
            stacked = {n: torch.stack([d[n] for d in drawn]) for n in drawn[0]}
            even = torch.full((len(drawn),), 1 / len(drawn), device=program.device)
            parts.append(
                {n: (v if draws else _average(v, even, votes[n])).cpu() for n, v in stacked.items()}
            )
    return _unwrap({n: torch.cat([p[n] for p in parts], dim=int(draws > 0)) for n in parts[0]})


def interpolate(pair: Any, a: Any, b: Any, steps: int = 8, *, method: str = "linear") -> Values:
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
        ``[n, steps, *event_shape]``, ``[steps, *event_shape]`` for one datum.
    """
    steps = whole_number("steps", steps, least=2)
    paths = {"linear": _linear, "spherical": _spherical}
    if method not in paths:
        raise UsageError(
            f"method is {' or '.join(paths)}, got {method!r}{nearest(method, list(paths))}"
        )
    program = as_pair(pair)
    single = isinstance(a, Tensor) and tuple(a.shape) == getattr(pair, "event_shape", None)
    ends = [program.serve(t[None] if single else t) for t in (a, b)]
    start, end = (_codes(pair, t) for t in ends)
    if len(ends[0]) != len(ends[1]):
        raise UsageError(f"a and b must hold as many data, got {len(ends[0])} and {len(ends[1])}")
    _check_room(steps * len(ends[0]), program.some(ends[0], 1))
    t = torch.linspace(0, 1, steps)
    between = {n: paths[method](start[n], end[n], t).flatten(0, 1) for n in start}
    n = steps * len(ends[0])
    both = [program.some(part) for part in ends]
    given = tuple(_switched(one, other, steps) for one, other in zip(*both, strict=True))
    drawn = [_drawn(program, part) for part in both]
    for name in drawn[0].keys() - start.keys():
        between[name] = _switched(drawn[0][name], drawn[1][name], steps)
    out = _generate(*_prepared(program, given), n, given, between, mean=True)
    out = {n: v.reshape(-1, steps, *v.shape[1:]) for n, v in out.items()}
    return _unwrap({n: v[0] if single else v for n, v in out.items()})


def traverse(
    pair: Any,
    x: Any,
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
    """
    program = as_pair(pair)
    found = evaluate(pair, x, num_particles=1)
    if len(found.codes) != 1 or next(iter(found.codes.values())).dim() != 2:
        raise UsageError(
            f"traverse varies the units of one latent vector; this pair has "
            f"{ {n: list(c.shape[1:]) for n, c in found.codes.items()} }"
        )
    ((name, codes),) = found.codes.items()
    if dims is None:
        information = found.kl_dimensions.get(name, codes.var(0, correction=0))
        order = information.argsort(descending=True).tolist()
        active = [d for d in order if bool(found.active[name][d])]
        dims = active or order[:1]
    if not dims or any(not 0 <= d < codes.shape[1] for d in dims):
        raise UsageError(f"dims names the units 0 to {codes.shape[1] - 1}, got {list(dims)}")
    _check_room(len(dims) * whole_number("steps", steps), program.some(x, 1))
    values = torch.linspace(-span, span, steps)
    latents = codes[0].repeat(len(dims), steps, 1)
    for row, dim in enumerate(dims):
        latents[row, :, dim] = values
    one = program.some(x, 1)
    latents = latents.flatten(0, 1)
    out = _generate(*_prepared(program, one), len(latents), one, {name: latents}, mean=True)
    images = next(iter(out.values()))
    return images.reshape(len(dims), steps, *images.shape[1:]), list(dims), values


def impute(
    pair: Any, x: Any, *, draws: int = 0, num_particles: int = 1000, seed: int = 0
) -> Tensor:
    """Fill the missing entries (NaN) of x by conditioning on the observed ones.

    The guide sees zeros in place of missing entries (or the NaN themselves, if it can take
    them); the likelihood of missing entries is left out. Particles from the guide are weighted
    by p(x_observed, z) / q(z|x_observed): a missing entry becomes the weighted mean of E[x|z], a
    missing class the one with the largest weighted vote.
    Mattei and Frellsen, "MIWAE: Deep Generative Modelling and Imputation of Incomplete Data
    Sets", 2019.

    Args:
        pair: a pair with an observed site that is independent over its entries given z.
        x: data ``[N, ...]`` with NaN.
        draws: instead of the mean, this many draws by sampling importance resampling.
        num_particles: particles per datum.
        seed: of the particles.

    Returns:
        ``[N, ...]``, or ``[draws, N, ...]``; observed entries are as they were given.

    >>> from pyrovae.vae import VAE
    >>> impute(VAE((4,), 2), torch.tensor([[1.0, float("nan"), 0.0, 1.0]])).isnan().any()
    tensor(False)
    """
    program = as_pair(pair)
    data = program.serve(x)
    filled = []
    with program.evaluating():
        torch.manual_seed(seed)
        shape = None
        for batch in data.first(len(data)).batches(1):
            completed = traces.completing(program, batch)
            if completed is program:
                value = batch[0]
                filled.append(value.expand(draws, *value.shape) if draws else value)
                continue
            shape = shape or traces.structure(completed, batch)
            shape.refuse_points()
            filled.append(_fill(completed, batch, shape, draws, num_particles))
    return torch.cat(filled, dim=int(draws > 0)).cpu()


def _fill(pair: Pair, batch: Args, shape: Structure, draws: int, num_particles: int) -> Tensor:
    """One datum ``[1, ...]``: its mean or ``[draws, 1, ...]``."""
    shape = traces.sampling(shape, shape.latents)
    drawn = traces.draw(pair, batch, num_particles, shape)
    weights = drawn.log_weights[:, 0].softmax(0)
    latents = {n: drawn.guide[n].value[:, 0] for n in shape.latents}
    if draws:
        chosen = torch.multinomial(weights, draws, replacement=True)
        latents = {n: v[chosen] for n, v in latents.items()}
    count = draws or num_particles
    args = tuple(a.expand(count, *a.shape[1:]) for a in batch)
    latents = traces.discrete(pair, args, latents, shape)
    args = tuple(a.nan_to_num(0.0) if a.is_floating_point() else a for a in args)
    sites = traces.generate(pair, args, latents)
    values = _observed(sites, shape, mean=not draws)
    filled = [n for n, v in values.items() if v.shape[1:] == batch[0].shape[1:]]
    if len(filled) != 1:
        raise UsageError(
            f"impute fills one observed site, of the shape of x; this model observes "
            f"{ {n: list(v.shape[1:]) for n, v in values.items()} }"
        )
    value = values[filled[0]]
    missing = batch[0].isnan()
    if draws:
        return torch.where(missing, value[:, None], batch[0])
    mean = _average(value, weights, voted(sites[filled[0]][0]))
    return torch.where(missing, mean[None], batch[0])


def neighbours(pair: Any, x: Any, among: Any, k: int = 5) -> tuple[Tensor, Tensor]:
    """The ``k`` data of ``among`` whose codes lie nearest to those of ``x``.

    Returns:
        Indices into ``among`` ``[N, k]`` and Euclidean distances of the posterior means
        ``[N, k]``, nearest first.
    """
    ours, theirs = (_flat(_codes(pair, t)) for t in (x, among))
    if not 1 <= k <= len(theirs):
        raise UsageError(f"k must be from 1 to the {len(theirs)} data to choose from, got {k}")
    found = torch.cdist(ours, theirs).topk(k, largest=False)
    return found.indices, found.values


def _flat(codes: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([code.flatten(1) for code in codes.values()], 1)


def _switched(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """``[n, ...]`` twice -> ``[n * steps, ...]``: a up to the middle, then b."""
    first = (steps + 1) // 2
    path = [a[:, None].expand(-1, first, *a.shape[1:])]
    path += [b[:, None].expand(-1, steps - first, *b.shape[1:])]
    return torch.cat(path, 1).flatten(0, 1)


def _drawn(pair: Pair, args: Args) -> dict[str, Tensor]:
    """A draw of every latent given the data, seeded."""
    with pair.evaluating():
        torch.manual_seed(0)
        pair = traces.completing(pair, args)
        return traces.latents(pair, args, traces.structure(pair, args))


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
    sites: dict[str, tuple[Any, Tensor]], shape: Structure, mean: bool
) -> dict[str, Tensor]:
    """The observed sites' means or draws; entries without a mean, such as classes, give their
    mode, and a distribution that knows neither gives a draw."""
    out = {}
    for name in shape.observed:
        fn, value = sites[name]
        if mean:
            with contextlib.suppress(NotImplementedError):
                centre = fn.mean
                if bool(centre.isnan().any()):
                    centre = torch.where(centre.isnan(), traces.entries(fn).mode, centre)
                value = centre
        out[name] = value
    return out


def _average(values: Tensor, weights: Tensor, voted: Tensor) -> Tensor:
    """Over the first dimension: the weighted mean, or where voted the class of most weight."""
    weights = weights.reshape(-1, *(1,) * (values.dim() - 1))
    mean = (weights * values).sum(0)
    if not bool(voted.any()):
        return mean
    voted = voted.to(values.device).expand(values.shape[1:])
    classes = values[:, voted].unique()
    shares = torch.stack([(weights * (values == one)).sum(0) for one in classes])
    return torch.where(voted, classes[shares.argmax(0)], mean)


def _unwrap(values: dict[str, Tensor]) -> Values:
    return next(iter(values.values())) if len(values) == 1 else values
