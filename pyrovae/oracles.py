"""Exact answers where there are any: the ground that estimators stand on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.distributions import Transform, constraints
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from pyrovae.errors import UsageError, whole_number
from pyrovae.evaluation import CHUNK
from pyrovae.progress import shown
from pyrovae.traces import Args, Problem, to_reals

__all__ = ["exact_log_evidence"]

T = TypeVar("T")
FAR = 60.0  # nats below the largest value that quadrature may leave out


@shown("exact log evidence")
def exact_log_evidence(
    pair: object, x: object, *, points: int = 120, plate: str | None = None
) -> Tensor:
    """log p(x) per datum, ``[N]``, nats, float64, without sampling.

    Where log p(x, z) is quadratic in z (a linear-Gaussian pair) the integral is closed: with
    log p(x, z) = c + b'z - z'Az/2 it is c + b'A^-1 b/2 - log|A/2pi|/2. Otherwise latents of at
    most two dimensions are integrated by the trapezoidal rule on a grid that is narrowed, datum
    by datum, to where the integrand is.

    Args:
        pair: a model and a guide; only the model's density is used, and the guide's site names.
        x: data.
        points: grid points per dimension.
        plate: name of the plate over the data, where several follow the batch's size.

    Raises:
        UsageError: no number of points; discrete or global latents, more than two dimensions and
            not linear-Gaussian.

    >>> from pyrovae.vae import VAE
    >>> _ = torch.manual_seed(0)
    >>> vae, x = VAE((6,), 2), torch.ones(3, 6)
    >>> from pyrovae.evaluation import log_evidence
    >>> torch.allclose(exact_log_evidence(vae, x).float(), log_evidence(vae, x, 20000), atol=0.02)
    True
    """
    whole_number("points", points, least=2)
    problem = Problem.of(pair, x, plate=plate)
    problem.shape.refuse_globals()
    problem.shape.refuse_points()
    results = []
    with problem.pair.evaluating():
        for rows in problem.batches(16):
            latents = _latents(problem, rows)
            batch = _double(rows)
            with _in_double():
                exact = _quadratic(problem, batch, latents)
            if exact is None:
                if sum(latent.dims for latent in latents.values()) > 2:
                    sizes = {n: list(latent.size) for n, latent in latents.items()}
                    raise UsageError(
                        f"the pair is not linear-Gaussian and its latents {sizes} have more than "
                        f"two dimensions; use pv.log_evidence, which estimates by sampling"
                    )
                with _in_double():
                    exact = _quadrature(problem, batch, latents, points)
            results.append(exact.cpu())
    return torch.cat(results)


class _Double(TorchFunctionMode):
    """Every operation takes its floating numbers in double precision, whatever holds them."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        return func(*_double(args), **_double(kwargs or {}))


def _double(values: T) -> T:
    def widened(value: object) -> object:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.to(torch.float64)
        return value

    with torch._C.DisableTorchFunction():
        return tree_map(widened, values)


@contextmanager
def _in_double() -> Iterator[None]:
    """What is run here is run in double precision: a difference of two large terms, which is what
    an exact answer is made of, has no digits left in single."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Double():
            yield
    finally:
        torch.set_default_dtype(before)


@dataclass(frozen=True)
class _Latent:
    """A latent as real numbers: their shape, and how they become its values."""

    size: tuple[int, ...]
    transform: Transform

    @property
    def dims(self) -> int:
        return math.prod(self.size)


def _latents(problem: Problem, batch: Args) -> dict[str, _Latent]:
    drawn = problem.draw(batch)
    sites = {name: drawn.guide[name] for name in drawn.shape.latents}
    discrete = [name for name, site in sites.items() if site.is_discrete]
    if discrete or drawn.shape.enumerated or not sites:
        raise UsageError(
            f"exact evidence integrates continuous latents; "
            f"{', '.join((*discrete, *drawn.shape.enumerated)) or 'none'} here is not one"
        )
    found = {}
    for name, site in sites.items():
        transform = to_reals(
            name,
            drawn.model[name].fn,
            "there is no grid to integrate on; use pv.log_evidence, which estimates by sampling",
        )
        found[name] = _Latent(tuple(transform.inverse_shape(site.value.shape[2:])), transform)
    return found


def _density(problem: Problem, batch: Args, latents: dict[str, _Latent], u: Tensor) -> Tensor:
    """log p(x, z) + log |dz/du| at the stacked real latents ``u`` ``[points, batch, dims]``."""
    values, change = {}, torch.zeros(u.shape[:2]).to(u)
    for (name, latent), part in zip(
        latents.items(), u.split([latent.dims for latent in latents.values()], -1), strict=True
    ):
        free = part.reshape(*u.shape[:2], *latent.size)
        values[name] = latent.transform(free)
        jacobian = latent.transform.log_abs_det_jacobian(free, values[name])
        change = change + jacobian.reshape(*u.shape[:2], -1).sum(-1)
    return problem.log_density(batch, values) + change


def _quadratic(problem: Problem, batch: Args, latents: dict[str, _Latent]) -> Tensor | None:
    """The Gaussian integral, or None where log p(x, z) is not quadratic in z."""
    dims, n = sum(latent.dims for latent in latents.values()), len(batch[0])
    like = next((t for t in batch if t.is_floating_point()), torch.zeros(()))
    # the origin, the unit vectors, and two points to check on: a quadratic's gradient is linear
    generator = torch.Generator().manual_seed(0)
    check = torch.randn(2, dims, generator=generator)
    u = torch.cat([torch.zeros(1, dims), torch.eye(dims), check]).to(like)
    u = u[:, None].repeat(1, n, 1)
    with torch.enable_grad():
        u.requires_grad_()
        value = _density(problem, batch, latents, u)
        if not value.requires_grad:
            return None
        (gradient,) = torch.autograd.grad(value.sum(), u)
    value, gradient = value.detach().double(), gradient.double()
    c, b = value[0], gradient[0]
    a = (b - gradient[1 : dims + 1]).transpose(0, 1)
    a = (a + a.mT) / 2
    z = u.detach().double()[dims + 1 :]
    predicted = c + (b * z).sum(-1) - 0.5 * torch.einsum("pni,nij,pnj->pn", z, a, z)
    if not torch.allclose(predicted, value[dims + 1 :], rtol=1e-4, atol=1e-3):
        return None
    if bool((torch.linalg.eigvalsh(a) <= 0).any()):
        return None
    solved = torch.linalg.solve(a, b[..., None])[..., 0]
    log_det = torch.linalg.slogdet(a / (2 * math.pi)).logabsdet
    return c + 0.5 * (b * solved).sum(-1) - 0.5 * log_det


def _quadrature(problem: Problem, batch: Args, latents: dict[str, _Latent], points: int) -> Tensor:
    dims, n = sum(latent.dims for latent in latents.values()), len(batch[0])
    like = next((t for t in batch if t.is_floating_point()), torch.zeros(()))
    plain = all(latent.transform.codomain is constraints.real for latent in latents.values())
    far = 12.0 if plain else 30.0  # a density near the edge of a support falls off slowly
    low, high = (torch.full((n, dims), bound).to(like) for bound in (-far, far))
    unit = torch.linspace(0, 1, points).to(like)
    grid = torch.cartesian_prod(*[unit] * dims).reshape(-1, 1, dims)
    log_f = volume = torch.zeros(())
    for _ in range(4):
        u = low + grid * (high - low)
        rows = problem.shape.rows_within(CHUNK, n)
        log_f = torch.cat([_density(problem, batch, latents, part) for part in u.split(rows)])
        volume = ((high - low).double() / (points - 1)).log().sum(-1)
        inside = (log_f > log_f.max(0).values - FAR)[..., None]
        step = (high - low) / (points - 1)
        nearest_low = torch.where(inside, u, torch.inf).amin(0) - step
        nearest_high = torch.where(inside, u, -torch.inf).amax(0) + step
        if bool((nearest_high - nearest_low > 0.7 * (high - low)).all()):
            break
        low, high = nearest_low, nearest_high
    return log_f.double().logsumexp(0) + volume
