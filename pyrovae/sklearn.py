"""A VAE as scikit-learn has its estimators: in pipelines, in searches over settings."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import Tensor

from pyrovae.errors import UsageError, whole_number
from pyrovae.evaluation import log_evidence
from pyrovae.framing import unit_names
from pyrovae.generation import decode, encode, sample
from pyrovae.guides import Guide
from pyrovae.likelihoods import Likelihood
from pyrovae.priors import Prior
from pyrovae.program import LATENTS
from pyrovae.randomness import own_randomness
from pyrovae.schema import Schema, frame_of, is_frame
from pyrovae.tables import table
from pyrovae.tensors import TensorData
from pyrovae.training import fit
from pyrovae.vae import VAE

__all__ = ["VAETransformer"]

Rows: TypeAlias = Any  # an array [N, columns] or a DataFrame, as scikit-learn has them


class VAETransformer(TransformerMixin, BaseEstimator):
    """A :class:`~pyrovae.vae.VAE` of the rows of an array or a table: a transformer of
    scikit-learn's, and a density as ``sklearn.mixture.GaussianMixture`` is one.

    An array ``[N, columns]`` is modelled as numbers, a DataFrame by its columns, as
    :meth:`pyrovae.vae.VAE.of` does: text, categories and dates need no encoder before. NaN is a
    missing entry. The parts that are given are copied, so that a search over them, and a second
    ``fit``, begin anew. Where the input is float32 so is the VAE; else it is float64.

    Kingma and Welling, "Auto-Encoding Variational Bayes", 2013.

    Args:
        latent_dim: size of z, by default one more than half of the columns, at most 20.
        prior: p(z); by default one that suits the data, as all parts.
        likelihood: p(x|z).
        guide: q(z|x).
        kinds: of a DataFrame's columns, where they are others than those that are recognised: see
            :func:`pyrovae.tables.table`.
        epochs: of :func:`pyrovae.fit`, as the two that follow.
        batch_size: data per step.
        lr: the optimiser's learning rate.
        settings: the other arguments of :func:`pyrovae.fit` by name, such as ``loss``,
            ``validation`` and ``keep_best``; training shows no progress unless they say so.
        num_particles: of the estimates of log p(x).
        random_state: a seed, a ``numpy.random.RandomState``, or None for a new one at each call.

    Attributes:
        vae_: what was trained; every verb takes it: ``pv.evaluate(transformer.vae_, x)``.
        history_: what :func:`pyrovae.fit` gave.
        schema_: what the columns of the DataFrame are; None of an array.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(64, 3))
    >>> model = VAETransformer(2, epochs=2, random_state=0).fit(x)
    >>> model.transform(x).shape, model.inverse_transform(model.transform(x)).shape
    ((64, 2), (64, 3))
    >>> model.get_feature_names_out()
    array(['z0', 'z1'], dtype=object)
    """

    def __init__(
        self,
        latent_dim: int | None = None,
        *,
        prior: Prior | None = None,
        likelihood: Likelihood | None = None,
        guide: Guide | None = None,
        kinds: Mapping[str, str] | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        lr: float = 1e-3,
        settings: Mapping[str, object] | None = None,
        num_particles: int = 100,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.latent_dim = latent_dim
        self.prior = prior
        self.likelihood = likelihood
        self.guide = guide
        self.kinds = kinds
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.settings = settings
        self.num_particles = num_particles
        self.random_state = random_state

    def fit(self, X: Rows, y: object = None) -> Self:  # noqa: N803
        """Train a new VAE on the rows of X.

        Args:
            X: ``[N, columns]``.
            y: not looked at; a pipeline has it.

        Raises:
            UsageError: what :func:`pyrovae.fit` and :func:`pyrovae.tables.table` refuse; a name in
                ``settings`` that ``fit`` does not have.
            ValueError: what scikit-learn refuses: no rows, infinite numbers, other columns.
        """
        x, schema = self._met(X)
        given = {"prior": self.prior, "likelihood": self.likelihood, "guide": self.guide}
        parts = {name: copy.deepcopy(p) for name, p in given.items() if p is not None}
        size = self.latent_dim
        if size is None:
            size = min(LATENTS, 1 + x.shape[1] // 2)
        seed = self._seed()
        data = TensorData(x)
        data.schema = schema
        with own_randomness(seed):
            vae = VAE.of(data, **parts, latent_dim=size).to(x.dtype)
        own = {name: getattr(self, name) for name in ("epochs", "batch_size", "lr")}
        settings = {**own, "seed": seed, "progress": False, **(self.settings or {})}
        self.history_ = fit(vae, data, **settings)
        self.vae_, self.schema_ = vae, schema
        return self

    def transform(self, X: Rows) -> np.ndarray:  # noqa: N803
        """The mean of q(z|x) of each row, ``[N, latent_dim]``."""
        x = self._seen(X)
        return encode(self.vae_, x).cpu().numpy()

    def inverse_transform(self, X: Rows) -> Rows:  # noqa: N803
        """E[x|z] at codes ``[N, latent_dim]``: ``[N, columns]``, a DataFrame of the kinds and units
        that were trained on where that was one."""
        check_is_fitted(self)
        codes = self._tensor(check_array(X, dtype=[np.float64, np.float32]))
        if codes.shape[1] != self.vae_.latent_dim:
            raise UsageError(
                f"codes have {self.vae_.latent_dim} columns, one per unit of z, got "
                f"{codes.shape[1]}: give what transform gave"
            )
        return self._rows(decode(self.vae_, codes), frame_of(X).index if is_frame(X) else None)

    def score_samples(self, X: Rows) -> np.ndarray:  # noqa: N803
        """log p(x) of each row in nats, ``[N]``, by importance sampling with ``num_particles``: see
        :func:`pyrovae.log_evidence`. The lowest are the odd ones."""
        x = self._seen(X)
        found = log_evidence(self.vae_, x, self.num_particles, seed=self._seed())
        return found.double().cpu().numpy()

    def score(self, X: Rows, y: object = None) -> float:  # noqa: N803
        """The mean of :meth:`score_samples`, nats per row: what a search over settings maximises.

        Args:
            X: ``[N, columns]``.
            y: not looked at.
        """
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1) -> Rows:
        """Rows drawn from the model, z from the prior and x from p(x|z), ``[n_samples, columns]``;
        a DataFrame where that was trained on."""
        check_is_fitted(self)
        n = whole_number("n_samples", n_samples)
        return self._rows(sample(self.vae_, n, seed=self._seed()))

    def get_feature_names_out(self, input_features: object = None) -> np.ndarray:
        """Names of the codes: z0, z1, ...."""
        check_is_fitted(self)
        return np.asarray(unit_names({"z": (self.vae_.latent_dim,)}), dtype=object)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    # --- rows as scikit-learn has them, and as the VAE takes them ---------------------------------

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _met(self, given: Rows) -> tuple[Tensor, Schema | None]:
        """The rows to train on as numbers, and what their columns are."""
        if not is_frame(given):
            return torch.tensor(self._checked(given, reset=True)), None
        validate_data(self, given, skip_check_array=True)
        frame = _named(given)
        data = table(frame, columns=list(frame.columns), kinds=self.kinds)
        assert data.schema is not None
        return data.x.double(), data.schema

    def _seen(self, given: Rows) -> Tensor:
        """Rows like those that were trained on, as numbers."""
        check_is_fitted(self)
        if self.schema_ is None or not is_frame(given):
            return self._tensor(self._checked(given, reset=False))
        validate_data(self, given, skip_check_array=True, reset=False)
        return self.schema_.encode(_named(given)).double()

    def _checked(self, given: Rows, *, reset: bool) -> np.ndarray:
        kinds = [np.float64, np.float32]
        if np.ma.isMaskedArray(given):  # what a mask hides is missing
            given = np.where(np.ma.getmaskarray(given), np.nan, np.ma.getdata(given))
        return validate_data(self, given, dtype=kinds, ensure_all_finite="allow-nan", reset=reset)

    def _tensor(self, numbers: np.ndarray) -> Tensor:
        return torch.tensor(numbers, dtype=next(self.vae_.parameters()).dtype)

    def _rows(self, x: Tensor, index: object = None) -> Rows:
        return x.cpu().numpy() if self.schema_ is None else self.schema_.decode(x, index)


def _named(frame: Rows) -> Rows:
    """The frame as pandas has it, with names that are text."""
    return frame_of(frame).rename(columns=str)
