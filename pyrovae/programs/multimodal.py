"""Several views of one thing: any of them may be absent, and is then inferred from the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyrovae import plots
from pyrovae.errors import UsageError, number, whole_number
from pyrovae.generation import reconstruct
from pyrovae.labels import OneHot
from pyrovae.likelihoods import Bernoulli, Categorical, Likelihood
from pyrovae.networks import MLP, Network
from pyrovae.program import Program
from pyrovae.programs.missing_data import supported
from pyrovae.tensors import TensorData


class Multimodal(Program[dict[str, Tensor], Tensor]):
    """p(x_1, .., x_M, z) = N(z; 0, I) prod_m p(x_m|z), guide a product of experts.

    ::

        z -> x_1, z -> x_2, .., z -> x_M      q(z|x_S) ~ N(z; 0, I) prod_{m in S} N(z; x_m)

    N(z; x_m) = N(z; loc_m(x_m), scale_m(x_m)^2) is what modality m says of z; for every subset S
    that is present the product is Gaussian: precisions add, locations are weighted by them. Wu
    and Goodman, "Multimodal Generative Models for Scalable Weakly-Supervised Learning", 2018.
    Trained on all modalities and on each alone, as :meth:`serve` gives them.

    The programs take x_1, .., x_M and, where any is absent, ``present``, bool ``[N, M]``; floating
    data are also absent where they are NaN.

    Args:
        event_shapes: shapes of one x_1, .., x_M.
        latent_dim: size of z.
        likelihoods: p(x_m|z), one for each; where none are given, Bernoulli. Experts see a
            Categorical modality as one-hot codes.
        network: of every expert.
        weights: how often log p(x_m|z) counts while training, 1 where none are given: what is
            said in few entries, such as a label, is else drowned by what is said in many.

    Raises:
        UsageError: fewer than two modalities, a number of likelihoods that is not theirs.

    >>> _ = torch.manual_seed(0)
    >>> program = Multimodal([[6], [1]], 2, [Bernoulli(), Categorical(3)])
    >>> x, y, present = torch.ones(4, 6), torch.zeros(4, 1), torch.tensor([[True, False]] * 4)
    >>> reconstruct(program, (x, y, present))["x2"].shape
    torch.Size([4, 1])
    """

    zeros: Tensor

    def __init__(
        self,
        event_shapes: list[list[int]],
        latent_dim: int = 8,
        likelihoods: list[Likelihood] = [],  # noqa: B006
        network: Network = MLP([400]),  # noqa: B008
        weights: list[float] = [],  # noqa: B006
    ) -> None:
        given = list(likelihoods) or [Bernoulli() for _ in event_shapes]
        _check_modalities(event_shapes, given, weights)
        super().__init__(event_shapes[0])
        self.event_shapes = [[int(size) for size in shape] for shape in event_shapes]
        self.latent_dim = whole_number("latent_dim", latent_dim)
        self.weights = [number("weights", w) for w in weights or [1.0] * len(given)]
        self.likelihoods, self.network = nn.ModuleList(given), network
        self.classes = [p.classes if isinstance(p, Categorical) else 0 for p in given]
        self.one_hot = nn.ModuleList(OneHot(max(1, c), "Multimodal") for c in self.classes)
        self.experts = self._experts(given)
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)

    def _experts(self, likelihoods: list[Likelihood]) -> nn.ModuleList:
        """Each modality's q(z|x_m), and what of z its p(x_m|z) holds beside it."""
        size, experts = self.latent_dim, nn.ModuleList()
        said = {"loc": (size,), "raw_scale": (size,)}
        each = zip(likelihoods, self.event_shapes, self.classes, strict=True)
        for m, (p, shape, classes) in enumerate(each, 1):
            p.build((size,), tuple(shape))
            seen = (*shape, classes) if classes else tuple(shape)
            experts.append(self.network.build(seen, said))
            self.register_buffer(f"inside{m}", supported(p, size), persistent=False)
        return experts

    def model(self, *batch: Tensor) -> None:
        """z ~ N(0, I), x_m ~ p(x_m|z) observed where it is present."""
        present = self.present(*batch)
        with pyro.plate("data", len(present)):
            z = pyro.sample("z", dist.Normal(self.zeros, 1.0).to_event(1))
            for m, likelihood in enumerate(self.likelihoods):
                p, x = likelihood(z), batch[m]
                here = present[:, m].reshape(-1, *[1] * (x.dim() - 1)).expand(x.shape)
                p = p.base_dist.mask(here).to_event(p.event_dim)
                inside = getattr(self, f"inside{m + 1}")
                x = torch.where(here, x, inside)
                pyro.sample(f"x{m + 1}", p, obs=x)
                if self.training and self.weights[m] != 1:
                    pyro.factor(f"weight{m + 1}", (self.weights[m] - 1) * p.log_prob(x))

    def guide(self, *batch: Tensor) -> None:
        """z ~ q(z|x_S), S the modalities that are present."""
        present = self.present(*batch)
        precision, weighted = torch.ones_like(self.zeros), torch.zeros_like(self.zeros)
        for m, expert in enumerate(self.experts):
            x, here = batch[m], present[:, m]
            x = torch.where(here.reshape(-1, *[1] * (x.dim() - 1)), x, 0)
            if self.classes[m]:
                x = self.one_hot[m](x)
            loc, raw_scale = expert(x.to(self.zeros))
            ours = here[:, None] / (F.softplus(raw_scale) + 1e-3) ** 2
            precision, weighted = precision + ours, weighted + ours * loc
        with pyro.plate("data", len(present)):
            product = dist.Normal(weighted / precision, precision**-0.5).to_event(1)
            pyro.sample("z", product)

    def present(self, *batch: Tensor) -> Tensor:
        """Which modalities each datum has, bool ``[N, M]``: those that ``present`` names, less
        those with NaN in floating and -1 in whole numbers or classes."""
        seen = []
        for x, classes in zip(batch, self.classes, strict=False):
            absent = x.isnan() if x.is_floating_point() else x < 0
            absent = absent | (x < 0) if classes else absent
            seen.append(~absent.flatten(1).any(1))
        here = torch.stack(seen, 1)
        return here & batch[-1] if len(batch) > len(self.classes) else here

    @classmethod
    def decided_by(cls, data: TensorData, classes: int | None) -> dict[str, Any]:
        """The modalities that the data hold; labels are the second one where they hold one."""
        shapes = [list(tensor.shape[1:]) for tensor in data.tensors]
        if len(shapes) > 1 or classes is None:
            return {"event_shapes": shapes}
        return {
            "event_shapes": [*shapes, [1]],
            "likelihoods": [Bernoulli(), Categorical(classes)],
            "weights": [1.0, 10.0],
        }

    def serve(self, data: TensorData, training: bool = False) -> TensorData:
        """(x_1, .., x_M, present), labels as the second modality where there is one tensor. To
        train on, the data appear as they are and each of several modalities alone: Wu and
        Goodman's objective."""
        self._in_memory(data)
        count = len(self.classes)
        others = list(data.tensors[1:])
        if not others and count == 2 and data.labels is not None:
            others = [data.labels[:, None].to(self.zeros.dtype)]
        if len(others) not in (count - 1, count):
            raise UsageError(
                f"this Multimodal has {count} modalities, the data {1 + len(others)}: give "
                f"(x_1, .., x_{count}), and which are present, bool [N, {count}], as one more"
            )
        present = self.present(data.tensors[0], *others).to(data.tensors[0].device)
        filled = []
        for m, x in enumerate(others[: count - 1], 1):
            here = present[:, m].reshape(-1, *[1] * (x.dim() - 1))
            filled.append(torch.where(here, x, getattr(self, f"inside{m + 1}").to(x)))
        data = data.with_arguments(*filled, present)
        if not training:
            return data
        alone = [(present[:, m] & (present.sum(1) > 1)).nonzero()[:, 0] for m in range(count)]
        only = [
            torch.eye(count, dtype=torch.bool)[m].expand(len(alone[m]), -1) for m in range(count)
        ]
        data = data.select(torch.cat([torch.arange(len(data)).to(present.device), *alone]))
        present = torch.cat([present, *(each.to(present.device) for each in only)])
        return data.with_arguments(*data.tensors[1:-1], present)

    def example_data(self) -> tuple[Tensor, ...]:
        """A datum of every modality."""
        x = [torch.zeros(1, *shape) for shape in self.event_shapes]
        return (*x, torch.ones(1, len(x), dtype=torch.bool))

    def scores(self, data: TensorData) -> dict[str, float]:
        """How many labels (x_2, if that is a class) are found from x_1 alone."""
        if not self.classes[1]:
            return {}
        found = self._means(self._only(data, 0))["x2"]
        right = (found == data.tensors[1].cpu()).flatten(1).all(1)
        return {"accuracy": float(right[data.tensors[-1][:, 1].cpu()].double().mean())}

    def figure(self, data: TensorData, names: Sequence[str] | None = None) -> plots.Drawn:
        """x_1 from the others: of a label, means at draws of z, each class in a column; else data
        above what each other modality alone makes of them."""
        classes, count = self.classes[1], len(self.classes)
        if count == 2 and classes and self.event_shapes[1] == [1]:
            y = torch.arange(classes).repeat(8)
            x = torch.zeros(len(y), *self.event_shape)
            present = torch.tensor([[False, True]]).expand(len(y), -1)
            drawn = self._means((x, y[:, None].to(x), present), 1)["x1"]
            columns = names or list(map(str, range(classes)))
            cells = drawn.unflatten(0, (8, classes))
            accuracy = self.scores(data.select(slice(0, 2000)))["accuracy"]
            title = f"x1 drawn from x2 alone (x2 from x1 alone: {accuracy:.1%} right)"
            return plots.strips(cells, columns=columns, title=title, schema=data.schema)
        few = data.select(slice(0, 10))
        rows = [few.x.cpu()]
        rows += [self._means(self._only(few, m))["x1"] for m in range(count)]
        labels = ["x1", *(f"x1 from x{m + 1} alone" for m in range(count))]
        return plots.strips(torch.stack(rows), labels, schema=data.schema)

    def _only(self, data: TensorData, m: int) -> TensorData:
        """The data with one modality left."""
        *others, present = data.tensors[1:]
        alone = torch.zeros_like(present)
        alone[:, m] = present[:, m]
        return data.with_arguments(*others, alone)

    def _means(self, data: object, num_particles: int = 16) -> dict[str, Tensor]:
        """E[x_m|x_S] by site."""
        return cast("dict[str, Tensor]", reconstruct(self, data, num_particles=num_particles))


def _check_modalities(
    event_shapes: Sequence[Sequence[int]],
    likelihoods: Sequence[Likelihood],
    weights: Sequence[float],
) -> None:
    """Refuse other than one likelihood, and one weight if there are any, for each of several."""
    if len(event_shapes) < 2:
        raise UsageError(
            f"event_shapes has the shape of each of two or more modalities, such as "
            f"[[1, 28, 28], [1]]; got {event_shapes}"
        )
    count, objects = len(likelihoods), len(set(map(id, likelihoods)))
    if count != len(event_shapes) or objects < count:
        raise UsageError(
            f"Multimodal needs one likelihood per modality, each an object of its own; there "
            f"are {len(event_shapes)} event_shapes and {objects} likelihoods"
        )
    if len(weights or likelihoods) != count:
        raise UsageError(f"there are {count} modalities, and weights of {len(weights)}")
