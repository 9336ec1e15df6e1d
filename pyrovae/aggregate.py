"""The aggregate posterior q(z) = mean over the data of q(z|x), and a density fitted to it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Generic, cast, overload

import pyro
import torch
from torch import Tensor

from pyrovae.errors import UsageError, nearest, whole_number
from pyrovae.generation import decode
from pyrovae.priors import Flow
from pyrovae.progress import doing, shown
from pyrovae.randomness import set_seed
from pyrovae.signatures import Observed, Typed
from pyrovae.tensors import TensorData
from pyrovae.traces import Pair, Problem
from pyrovae.training import fit
from pyrovae.turns import turn

__all__ = ["CodeDensity", "fit_codes"]

KINDS = ("mixture", "flow")
EPOCHS = 60  # of a flow


@dataclass(frozen=True)
class CodeDensity(Generic[Observed]):
    """A density r(z) fitted to draws from q(z|x), to sample from in the prior's place.

    Attributes:
        pair: the pair whose codes they are.
        site: the latent's name.
        kind: "mixture" or "flow".
        gain: ``[M]``, log r(z) - log p(z) of held-out draws, nats. Its mean is what the ELBO
            would gain with r as the prior: KL(q(z) || p(z)) - KL(q(z) || r(z)).
        fitted: the fitted object.
        shape: of one datum's latent.
        flat: whether p(z) is no density (an autoencoder's): ``gain`` is then log r(z) alone.
    """

    pair: object
    site: str
    kind: str
    gain: Tensor
    fitted: Any
    shape: tuple[int, ...]
    flat: bool = False

    def codes(self, n: int, *, seed: int = 0) -> Tensor:
        """``[n, dims]`` draws from r."""
        whole_number("n", n)
        with turn(), torch.random.fork_rng(devices=[]), torch.no_grad():
            set_seed(seed)
            if self.kind == "flow":
                return cast(Tensor, self.fitted().sample((n,)))
            self.fitted.random_state = seed
            drawn = self.fitted.sample(n)[0]
            return torch.as_tensor(drawn, dtype=torch.get_default_dtype())[torch.randperm(n)]

    def sample(self, n: int = 64, *, like: object = None, seed: int = 0) -> Observed:
        """E[x|z] at ``n`` draws from r, as :func:`pyrovae.generation.decode` gives it."""
        codes = self.codes(n, seed=seed).reshape(n, *self.shape)
        made: Observed = decode(self.pair, {self.site: codes}, like=like)
        return made

    def log_prob(self, z: Tensor) -> Tensor:
        """log r(z), nats: ``[n, dims] -> [n]``."""
        if self.kind == "flow":
            with torch.no_grad():
                return cast(Tensor, self.fitted().log_prob(z))
        return torch.as_tensor(self.fitted.score_samples(z.double().numpy())).to(z.dtype)

    def __str__(self) -> str:
        error = float(self.gain.std()) / math.sqrt(len(self.gain))
        mean = float(self.gain.mean())
        if self.flat:
            return (
                f"{self.kind} fitted to the codes of {self.site!r}, which have no prior: log "
                f"density {mean:.2f} nats per datum (s.e. {error:.2f}, {len(self.gain):,} held-out "
                f"data)"
            )
        verdict = (
            "the prior fits the codes as well"
            if mean < 2 * error
            else "samples from it are closer to the data's codes than samples from the prior"
        )
        return (
            f"{self.kind} fitted to the codes of {self.site!r}: {mean:+.2f} nats per datum over "
            f"the prior (s.e. {error:.2f}, {len(self.gain):,} held-out data); {verdict}"
        )

    __repr__ = __str__


@overload
def fit_codes(
    pair: Typed[Observed, Any],
    x: object,
    density: str = ...,
    *,
    components: int = ...,
    held_out: float = ...,
    seed: int = ...,
    progress: bool = ...,
) -> CodeDensity[Observed]: ...
@overload
def fit_codes(
    pair: object,
    x: object,
    density: str = ...,
    *,
    components: int = ...,
    held_out: float = ...,
    seed: int = ...,
    progress: bool = ...,
) -> CodeDensity: ...
@shown("fit codes")
def fit_codes(
    pair: object,
    x: object,
    density: str = "mixture",
    *,
    components: int = 10,
    held_out: float = 0.2,
    seed: int = 0,
    progress: bool = True,
) -> CodeDensity:
    """Fit a density to the codes z ~ q(z|x) of the data, after training.

    Where q(z) and p(z) differ, decoded draws from the prior come from where the decoder was
    never trained. Ghosh et al., "From Variational to Deterministic Autoencoders", 2020.

    Args:
        pair: a trained pair with one continuous latent in the plate over the data.
        x: the training data.
        density: "mixture", scikit-learn's GaussianMixture with full covariances, or "flow", a
            masked autoregressive flow (:class:`pyrovae.priors.Flow`).
        components: of the mixture.
        held_out: share of the data that the comparison with the prior is made on.
        seed: of the draws, the split and the fit.
        progress: a bar on a terminal or in a notebook, once it takes more than a second.

    Raises:
        UsageError: no or several latent vectors, a discrete one, too few data.

    >>> from pyrovae.vae import VAE
    >>> _ = torch.manual_seed(0)
    >>> vae, x = VAE((4,), 2), torch.bernoulli(torch.full((200, 4), 0.5))
    >>> fit_codes(vae, x, components=2).sample(5).shape
    torch.Size([5, 4])
    """
    if density not in KINDS:
        raise UsageError(
            f"density is {' or '.join(KINDS)}, got {density!r}{nearest(density, KINDS)}"
        )
    whole_number("components", components)
    problem = Problem.of(pair, x, seed)
    shape = problem.shape
    codes, log_prior = [], []
    with problem.pair.evaluating():
        set_seed(seed)
        for batch in problem.batches(1024):
            drawn = problem.draw(batch)
            local = [n for n in shape.latents if not drawn.guide[n].is_global]
            if len(local) != 1 or drawn.guide[local[0]].is_discrete:
                raise UsageError(
                    f"a density is fitted to one continuous latent vector; this pair has "
                    f"{list(shape.latents)}"
                )
            value = drawn.guide[local[0]].value[0]
            size = tuple(value.shape[1:])
            codes.append(value.reshape(len(value), -1).cpu())
            log_prior.append(drawn.model[local[0]].log_prob[0].cpu())
    both = TensorData(torch.cat(codes), torch.cat(log_prior))
    if len(both) < 2 * components + 2:
        raise UsageError(f"{len(both)} data are too few to fit {components} components to")
    train, test = both.split(held_out, seed)
    z = train.tensors[0]
    if density == "mixture":
        with doing(f"mixture of {components} for {len(z):,} codes"):
            from sklearn.mixture import GaussianMixture

            fitted: Any = GaussianMixture(components, random_state=seed).fit(z.double().numpy())
    else:
        fitted = _fit_flow(z, seed)
    found = CodeDensity(pair, local[0], density, torch.empty(0), fitted, size)
    gain = found.log_prob(test.tensors[0]) - test.tensors[1]
    return dataclasses.replace(found, gain=gain, flat=bool(shape.points))


def _fit_flow(z: Tensor, seed: int) -> Flow:
    with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
        set_seed(seed)
        flow = Flow()
        flow.build(z.shape[1])

    def model(z: Tensor) -> None:
        with pyro.plate("data", len(z)):
            pyro.sample("z", flow(), obs=z)

    size = min(256, len(z))
    pair = Pair(model, lambda z: None)
    fit(pair, z, epochs=EPOCHS, batch_size=size, lr=2e-3, seed=seed, device="cpu")
    return flow
