"""Tables with gaps: what is missing is left out of the model and filled in from what is there."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae import plots
from pyrovae.errors import UsageError, nearest, whole_number
from pyrovae.generation import impute
from pyrovae.guides import Guide
from pyrovae.likelihoods import Likelihood, StudentT
from pyrovae.program import Parts, Program
from pyrovae.tensors import TensorData

ENCODINGS = ("zero", "mask", "learned")
ENTRIES = 30_000  # how many of the data are hidden from and imputed at most, in rows of them


class MissingData(Program[Tensor, Tensor]):
    """p(x_observed, z) = N(z; 0, I) prod_{d observed} p(x_d|z), guide q(z|x_observed).

    ::

        z -> x_observed        NaN is missing; x_missing ~ p(x_missing|z) once z is inferred

    Mattei and Frellsen, "MIWAE: Deep Generative Modelling and Imputation of Incomplete Data
    Sets", 2019: this pair under ``pv.objectives.IWAE(20)``. ``pv.impute`` fills the gaps, by the
    mean or by ``draws``. Unbiased where entries are missing at random: whether one is may depend
    on those that are observed, not on its own value.

    Args:
        event_shape: shape of one datum.
        latent_dim: size of z.
        encoding: what the guide sees of a gap: "zero" a zero; "mask" a zero, and which entries
            are observed beside them all; "learned" a learned value per entry.
        likelihood: p(x|z), independent over entries; of real numbers by default.
        guide: q(z|x_observed).

    Raises:
        UsageError: an unknown encoding, a likelihood with a joint density over the entries.

    >>> import pyrovae as pv
    >>> _ = torch.manual_seed(0)
    >>> program = MissingData((3,), latent_dim=2)
    >>> x = torch.tensor([[1.0, float("nan"), 2.0]])
    >>> pv.impute(program, x, draws=5).shape
    torch.Size([5, 1, 3])
    """

    inside: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 10,
        encoding: str = "mask",
        likelihood: Likelihood | None = None,
        guide: Guide | None = None,
    ) -> None:
        super().__init__(event_shape)
        self.latent_dim = whole_number("latent_dim", latent_dim)
        if encoding not in ENCODINGS:
            raise UsageError(
                f"encoding is {', '.join(ENCODINGS)}, got {encoding!r}"
                f"{nearest(str(encoding), ENCODINGS)}"
            )
        self.encoding = encoding
        self.likelihood = likelihood or self.usual()["likelihood"]
        self.posterior = guide or self.usual()["guide"]
        self.likelihood.build((latent_dim,), self.event_shape)
        width = self.likelihood.feature_shape
        contexts = [width, self.event_shape] if encoding == "mask" else [width]
        self.posterior.build(contexts, (latent_dim,))
        if encoding == "learned":
            self.learned = nn.Parameter(torch.zeros(width))
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)
        stand_in = supported(self.likelihood, latent_dim)
        self.register_buffer("inside", stand_in, persistent=False)

    @classmethod
    def usual(cls) -> Parts:
        """The parts where none are given, new ones."""
        return super().usual() | {"likelihood": StudentT()}

    def model(self, x: Tensor) -> None:
        """z ~ N(0, I), x ~ p(x|z) observed where it is not NaN."""
        observed = ~x.isnan()
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.zeros, 1.0).to_event(1))
            p = self.likelihood(z)
            p = p.base_dist.mask(observed).to_event(p.event_dim)
            pyro.sample("x", p, obs=torch.where(observed, x, self.inside))

    def guide(self, x: Tensor) -> None:
        """z ~ q(z|x_observed)."""
        observed, known = ~x.isnan(), self.features(x).nan_to_num(0.0)
        with pyro.plate("data", len(x)):
            if self.encoding == "learned":
                marks = self.marks(observed)
                q = self.posterior(torch.where(marks, known, self.learned))
            elif self.encoding == "mask":
                q = self.posterior(known, observed.to(x))
            else:
                q = self.posterior(known)
            pyro.sample("z", q)

    def example_data(self) -> tuple[Tensor, ...]:
        """A datum within the support of every entry."""
        return (self.inside.expand(1, *self.event_shape).clone(),)

    def scores(self, data: TensorData) -> dict[str, float]:
        """Of a tenth of the observed entries, hidden and imputed: the mean squared error, of a
        table's in variances of their column, and how many lie within their 90 % interval. Of as
        many rows as have 30,000 entries."""
        x, hidden, mean, draws = self._imputed(data)
        low, high = draws.quantile(0.05, 0), draws.quantile(0.95, 0)
        within = (low <= x) & (x <= high)
        error = (mean - x) / (_deviations(x) if x.dim() == 2 else 1.0)
        return {
            "imputation_mse": float(error[hidden].square().mean()),
            "coverage_90": float(within[hidden].double().mean()),
        }

    def figure(self, data: TensorData, names: Sequence[str] | None = None) -> plots.Drawn:
        """Entries that were hidden against what is imputed: a tenth of a table's, in standard
        deviations of their column; of ten images half of the pixels."""
        if len(self.event_shape) > 1:
            x, hidden, mean, draws = self._imputed(data.select(slice(0, 10)), share=0.5)
            seen = x.masked_fill(hidden, torch.nan)
            rows = ["data", "seen", "imputed mean", "draw 1", "draw 2"]
            return plots.strips(torch.stack([x, seen, mean, *draws[:2]]), rows, schema=data.schema)
        x, hidden, mean, draws = self._imputed(data)
        centre, unit = x.nanmean(0), _deviations(x)
        low, high = draws.quantile(0.05, 0), draws.quantile(0.95, 0)
        values = [((each - centre) / unit)[hidden] for each in (x, mean, low, high)]
        return plots.intervals(
            *values, x_label="hidden entry (sd of its column)", y_label="imputed, 90 % interval"
        )

    def _imputed(self, data: TensorData, share: float = 0.1) -> tuple[Tensor, ...]:
        """x, which entries were hidden, the imputed mean and 200 draws ``[draws, N, ...]``."""
        rows = max(1, ENTRIES // data.event_shape.numel())
        x = data.fixed().select(slice(0, rows)).x.cpu()
        # not a usual seed: with that of the data's own gaps the same entries would be drawn
        generator = torch.Generator().manual_seed(8_675_309)
        hidden = (torch.rand(x.shape, generator=generator) < share) & ~x.isnan()
        if not hidden.any():
            raise UsageError(
                f"no entry is left to hide and impute: {len(x)} data of shape "
                f"{list(data.event_shape)} have {int((~x.isnan()).sum())} observed ones; give more"
            )
        seen = x.masked_fill(hidden, torch.nan)
        mean, draws = (impute(self, seen, draws=k).to(x) for k in (0, 200))
        return x, hidden, mean, draws


@torch.no_grad()
def supported(likelihood: Likelihood, latent_dim: int) -> Tensor:
    """A datum within the support of p(x|z), to stand where the mask is.

    Raises:
        UsageError: entries that are not independent given z cannot be masked one by one.
    """
    like = next(likelihood.parameters(), torch.zeros(()))
    with torch.random.fork_rng([]):
        p = likelihood.eval()(like.new_zeros(1, latent_dim))
        likelihood.train()
        if not isinstance(p, dist.Independent) or p.base_dist.event_dim:
            depth = len(likelihood.event_shape)
            raise UsageError(
                f"{type(likelihood).__name__} has a joint density over the entries of a datum "
                f"({type(p).__name__}), so the missing ones cannot be left out; choose a "
                f"likelihood that is independent over entries given z, whose distribution ends "
                f"with .to_event({depth})"
            )
        datum: Tensor = p.sample()[0]
    return datum


def _deviations(x: Tensor) -> Tensor:
    """The standard deviation of every entry ``[N, *event]``; 1 where it never varies."""
    spread = (x - x.nanmean(0)).square().nanmean(0).sqrt().nan_to_num(0.0)
    return torch.where(spread > 0, spread, 1.0)
