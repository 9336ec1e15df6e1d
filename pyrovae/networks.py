"""Tensor -> tensor bodies, built to fit the shapes that a family of distributions states.

A :class:`Network` is a description: which layers, not which sizes. Sizes come from the parameter
shapes of the likelihood or guide that owns it, so one word swaps a likelihood or a network
without touching the other. An ``nn.Module`` of your own fits wherever a ``Network`` does.
"""

from __future__ import annotations

import inspect
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.components import Component
from pyrovae.errors import UsageError, nearest, whole_number

Shapes = Mapping[str, tuple[int, ...]]
LAYERS = 1000  # of one network: more of them take minutes to make and do not learn

__all__ = ["MLP", "Conditional", "ConvNet", "GatedMLP", "Network", "ResNet"]


class Network(Component, ABC):
    """The description of a body. One abstract method: :meth:`build`."""

    @abstractmethod
    def build(self, inputs: tuple[int, ...], outputs: Shapes) -> nn.Module:
        """A module from ``[N, *inputs]`` to a tuple of tensors ``[N, *shape]``, one per output."""


def _takes_nothing(cls: type) -> bool:
    parameters = inspect.signature(cls).parameters.values()
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(p.default is not p.empty or p.kind in free for p in parameters)


def activation(name: str) -> nn.Module:
    """The activation of that name in ``torch.nn``."""
    known = [name for name in nn.modules.activation.__all__ if _takes_nothing(getattr(nn, name))]
    if name not in known:
        raise UsageError(f"torch.nn has no activation {name!r}{nearest(name, known)}")
    module: nn.Module = getattr(nn, name)()
    return module


def _positive(name: str, sizes: Sequence[int]) -> list[int]:
    if len(sizes) > LAYERS:
        raise UsageError(f"{name} has {len(sizes):,} layers: give at most {LAYERS:,}")
    if any(int(size) != size or size < 1 for size in sizes):
        raise UsageError(f"{name} must be positive whole numbers, got {list(sizes)}")
    return [int(size) for size in sizes]


class Split(nn.Module):
    """Cuts ``[N, total, ...]`` along dimension 1 into one tensor per output shape."""

    def __init__(self, shapes: Shapes, trailing: int = 0) -> None:
        super().__init__()
        self.shapes = [tuple(shape) for shape in shapes.values()]
        self.sizes = [math.prod(shape[: len(shape) - trailing]) for shape in self.shapes]

    def forward(self, h: Tensor) -> tuple[Tensor, ...]:
        parts = h.split(self.sizes, 1) if len(self.sizes) > 1 else (h,)
        return tuple(
            part.reshape(part.shape[0], *shape)
            for part, shape in zip(parts, self.shapes, strict=True)
        )


class MLP(Network):
    """Fully connected layers over the flattened input.

    Args:
        hidden: widths of the hidden layers; an empty list gives a linear map.
        activation: a class of ``torch.nn`` by name.

    >>> body = MLP([400]).build((1, 28, 28), {"loc": (20,), "scale": (20,)})
    >>> [tuple(t.shape) for t in body(torch.zeros(5, 1, 28, 28))]
    [(5, 20), (5, 20)]
    """

    def __init__(self, hidden: list[int] = [400], activation: str = "ReLU") -> None:  # noqa: B006
        self.hidden = _positive("hidden", hidden)
        self.activation = activation

    def build(self, inputs: tuple[int, ...], outputs: Shapes) -> nn.Module:
        split = Split(outputs)
        widths = [math.prod(inputs), *self.hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), activation(self.activation)]
        return nn.Sequential(*layers, nn.Linear(widths[-1], sum(split.sizes)), split)


class GatedMLP(Network):
    """Fully connected layers whose units are gated: h = (Ax + a) * sigmoid(Bx + b).

    Dauphin et al., "Language Modeling with Gated Convolutional Networks", 2017; the usual body
    of published density estimates (Tomczak and Welling, "VAE with a VampPrior", 2018).

    Args:
        hidden: widths of the hidden layers.

    >>> body = GatedMLP([300, 300]).build((1, 28, 28), {"loc": (40,), "raw_scale": (40,)})
    >>> [tuple(t.shape) for t in body(torch.zeros(5, 1, 28, 28))]
    [(5, 40), (5, 40)]
    """

    def __init__(self, hidden: list[int] = [300, 300]) -> None:  # noqa: B006
        self.hidden = _positive("hidden", hidden)

    def build(self, inputs: tuple[int, ...], outputs: Shapes) -> nn.Module:
        split = Split(outputs)
        widths = [math.prod(inputs), *self.hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, 2 * after), nn.GLU()]
        return nn.Sequential(*layers, nn.Linear(widths[-1], sum(split.sizes)), split)


class Pyramid(Network, ABC):
    """Images on one side, a vector on the other, by convolutions that halve or double the size.

    The direction follows from the shapes: an image in and vectors out is an encoder, a vector in
    and images ``[..., channels, height, width]`` out is the mirrored decoder. Any height and
    width: each layer's size is the ceiling of half of the one before, and the decoder retraces
    exactly these sizes. Images whose last axis is as short as channels, such as (28, 28, 1), are
    refused: they are most likely (height, width, channels). What stands at each size, between
    two convolutions, is the class's own: :meth:`stage`.
    """

    def __init__(self, channels: Sequence[int], hidden: int, activation: str) -> None:
        self.channels = _positive("channels", channels)
        self.hidden = _positive("hidden", [hidden])[0]
        self.activation = activation
        if not self.channels:
            raise UsageError(
                f"{type(self).__name__} needs at least one entry in channels, e.g. [32, 64]"
            )

    @abstractmethod
    def stage(self, channels: int) -> list[nn.Module]:
        """The layers at one size, ``[N, channels, height, width]`` to the same shape."""

    def build(self, inputs: tuple[int, ...], outputs: Shapes) -> nn.Module:
        for shape in (inputs, *outputs.values()):
            _check_channels(shape)
        if len(inputs) == 3 and all(len(shape) == 1 for shape in outputs.values()):
            return self._encoder(inputs, outputs)
        images = {shape[-2:] if len(shape) >= 3 else () for shape in outputs.values()}
        if len(inputs) == 1 and len(images) == 1 and images != {()}:
            return self._decoder(inputs, outputs, images.pop())
        raise UsageError(
            f"{type(self).__name__} maps an image (channels, height, width) to a vector or a "
            f"vector to images, got inputs of shape {inputs} and outputs of shapes "
            f"{dict(outputs)}; use MLP here, or give grey images their channel (x.unsqueeze(1), "
            f"--layout channels_first)"
        )

    def _sizes(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        sizes = [size]
        for _ in self.channels:
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        return sizes

    def _encoder(self, inputs: tuple[int, ...], outputs: Shapes) -> nn.Module:
        split = Split(outputs)
        height, width = self._sizes((inputs[1], inputs[2]))[-1]
        layers: list[nn.Module] = []
        channels = [inputs[0], *self.channels]
        for before, after in itertools.pairwise(channels):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), *self.stage(after)]
        layers += [nn.Flatten(), nn.Linear(channels[-1] * height * width, self.hidden)]
        layers += [activation(self.activation), nn.Linear(self.hidden, sum(split.sizes)), split]
        return nn.Sequential(*layers)

    def _decoder(
        self, inputs: tuple[int, ...], outputs: Shapes, image: tuple[int, ...]
    ) -> nn.Module:
        split = Split(outputs, trailing=2)
        sizes = self._sizes((image[0], image[1]))[::-1]
        channels = [*self.channels[::-1], sum(split.sizes)]
        layers: list[nn.Module] = [
            nn.Linear(inputs[0], self.hidden),
            activation(self.activation),
            nn.Linear(self.hidden, channels[0] * math.prod(sizes[0])),
            nn.Unflatten(1, (channels[0], *sizes[0])),
        ]
        for (before, after), target in zip(itertools.pairwise(channels), sizes[1:], strict=True):
            # kernel 4 at even sizes, 3 at odd ones: every input pixel reaches the output alike
            kernel = (4 - target[0] % 2, 4 - target[1] % 2)
            layers += self.stage(before)
            layers += [nn.ConvTranspose2d(before, after, kernel, stride=2, padding=1)]
        return nn.Sequential(*layers, split)


class ConvNet(Pyramid):
    """Strided convolutions that halve (encoder) or double (decoder) the image at each layer.

    An image in and vectors out is an encoder, a vector in and images out the mirrored decoder;
    any height and width.

    Args:
        channels: channels after each halving.
        hidden: width of the fully connected layer between the image and the vector.
        activation: a class of ``torch.nn`` by name.

    >>> decoder = ConvNet([8, 16]).build((20,), {"logits": (3, 27, 50)})
    >>> tuple(decoder(torch.zeros(5, 20))[0].shape)
    (5, 3, 27, 50)
    """

    def __init__(
        self,
        channels: list[int] = [32, 64],  # noqa: B006
        hidden: int = 256,
        activation: str = "ReLU",
    ) -> None:
        super().__init__(channels, hidden, activation)

    def stage(self, channels: int) -> list[nn.Module]:
        return [activation(self.activation)]


class ResNet(Pyramid):
    """Convolutions that halve or double the image, and residual blocks at each size.

    A block adds to its input what two 3 x 3 convolutions make of it, normalisation and activation
    before each (He et al., "Deep Residual Learning for Image Recognition" and "Identity Mappings
    in Deep Residual Networks", 2016). Normalised are groups of channels within one datum (Wu and
    He, "Group Normalization", 2018): no datum is seen by another, no running mean is kept. A block
    begins as the identity: its last convolution starts at zero.

    An image in and vectors out is an encoder, a vector in and images out the mirrored decoder;
    any height and width.

    Args:
        channels: channels after each halving.
        blocks: residual blocks at each size.
        hidden: width of the fully connected layer between the image and the vector.
        activation: a class of ``torch.nn`` by name.

    >>> decoder = ResNet([8, 16]).build((20,), {"logits": (3, 27, 50)})
    >>> tuple(decoder(torch.zeros(5, 20))[0].shape)
    (5, 3, 27, 50)
    """

    def __init__(
        self,
        channels: list[int] = [32, 64],  # noqa: B006
        blocks: int = 1,
        hidden: int = 256,
        activation: str = "SiLU",
    ) -> None:
        super().__init__(channels, hidden, activation)
        self.blocks = whole_number("blocks", blocks, most=LAYERS // len(self.channels))

    def stage(self, channels: int) -> list[nn.Module]:
        return [Residual(channels, self.activation) for _ in range(self.blocks)]


class Residual(nn.Sequential):
    """``x + f(x)`` on ``[N, channels, height, width]``, f zero at the start."""

    def __init__(self, channels: int, name: str) -> None:
        convolutions = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)]
        layers: list[nn.Module] = []
        for convolution in convolutions:
            layers += [GroupNorm(channels), activation(name), convolution]
        super().__init__(*layers)
        for parameter in convolutions[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class GroupNorm(nn.GroupNorm):
    """Groups within one datum: at most eight, of at least four channels where there are so many."""

    def __init__(self, channels: int) -> None:
        most = min(8, max(1, channels // 4))
        super().__init__(max(g for g in range(1, most + 1) if channels % g == 0), channels)

    def forward(self, x: Tensor) -> Tensor:
        # torch.nn's own refuses one channel of one pixel in a batch of one, and takes it in two
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


KINDS = ("autoregressive", "spline")


def flow(
    kind: str, size: int, context: int = 0, transforms: int = 2, hidden: Sequence[int] = (64,)
) -> nn.Module:
    """A module from a context ``[*batch, context]`` to an invertible transform of ``[size]``.

    Affine ("autoregressive": Papamakarios et al., "Masked Autoregressive Flow for Density
    Estimation", 2017) or rational-quadratic ("spline": Durkan et al., "Neural Spline Flows",
    2019) functions of each coordinate given those before it, the order reversed from one
    transform to the next. One pass forwards, ``size`` passes backwards.
    """
    if kind not in KINDS:
        raise UsageError(f"kind is {' or '.join(KINDS)}, got {kind!r}{nearest(kind, KINDS)}")
    validates = torch.distributions.Distribution._validate_args
    import zuko  # switches the validation of every distribution off
    import zuko.flows

    torch.distributions.Distribution.set_default_validate_args(validates)
    options: dict[str, object] = {}
    if kind == "spline":
        bins = 8
        options["univariate"] = zuko.transforms.MonotonicRQSTransform
        options["shapes"] = [(bins,), (bins,), (bins - 1,)]
    order = torch.arange(size)
    if size > 1:
        options["hidden_features"] = _positive("hidden", hidden)
    each = []
    for layer in range(transforms):
        if size > 1:
            options["order"] = order.flip(0) if layer % 2 else order
        each.append(zuko.flows.MaskedAutoregressiveTransform(size, context, **options))
    module: nn.Module = zuko.lazy.LazyComposedTransform(*each)
    return module


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    try:
        network.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


LAZY = (nn.LazyConv1d, nn.LazyConv2d, nn.LazyConv3d)  # as many channels as come


def _check_lazy(network: nn.Module, shape: tuple[int, ...]) -> None:
    if any(isinstance(module, LAZY) for module in network.modules()):
        _check_channels(shape)


def _check_channels(shape: tuple[int, ...]) -> None:
    """Refuse what looks like an image whose channels are last."""
    if len(shape) >= 3 and shape[-1] <= 4 < min(shape[-3:-1]):
        *_, height, width, last = shape
        raise UsageError(
            f"convolutions take images as (channels, height, width), and one of shape "
            f"{(height, width, last)} would be {height} channels of {width} x {last}: if "
            f"it is channels last, give x.permute(0, 3, 1, 2) (or --layout) and the shape "
            f"{(last, height, width)}; if it is that narrow, use MLP or an nn.Module"
        )


class Conditional(nn.Module, Component, ABC):
    """A distribution whose parameters are a network's outputs: p(x|z) or q(z|x).

    A family states the shapes of its parameters in :meth:`parameter_shapes` and makes a
    distribution of them in :meth:`distribution`; :meth:`build` makes the network fit, or checks
    that a module of yours does. Leading batch dimensions of the context (particles, enumerated
    values) are flattened before the network and restored after it, so a network sees
    ``[N, *context_shape]`` always. Of several contexts, such as z and y, it sees
    ``[N, total]``: their batch dimensions broadcast, their entries are laid end to end.
    """

    def __init__(self, network: Network | nn.Module) -> None:
        super().__init__()
        if not isinstance(network, Network | nn.Module):
            raise UsageError(
                f"{type(self).__name__} needs a network such as networks.MLP([400]) or an "
                f"nn.Module, got {network!r}"
            )
        self.network = network
        self.context_shapes: tuple[tuple[int, ...], ...] = ()
        self.context_shape: tuple[int, ...] = ()
        self.event_shape: tuple[int, ...] = ()

    @abstractmethod
    def parameter_shapes(self, event_shape: tuple[int, ...]) -> Shapes:
        """Name and shape of every parameter that the network must give."""

    @abstractmethod
    def distribution(self, *parameters: Any, **named: Any) -> dist.TorchDistribution:
        """The distribution with the network's outputs ``[*batch, *shape]`` as its parameters, in
        the order of :meth:`parameter_shapes`; event shape ``event_shape``."""

    def allocate(self, event_shape: tuple[int, ...]) -> None:
        """Make what belongs to the family itself and not to its network, such as a scale that
        all data share."""
        self.event_shape = tuple(event_shape)

    def forward(self, *contexts: Tensor) -> dist.TorchDistribution:
        """The distribution given the context or contexts, event shape ``event_shape``."""
        return self.distribution(*self.outputs(*contexts))

    def build(
        self,
        context_shape: tuple[int, ...] | Sequence[tuple[int, ...]],
        event_shape: tuple[int, ...],
    ) -> None:
        """Make the network fit one context, or several of the shapes in a sequence; called once
        by the pair that owns this object."""
        if self.event_shape:
            raise UsageError(
                f"this {type(self).__name__} already belongs to a model; its weights would be "
                f"shared: make a new one, or pass copy.deepcopy(...) of it"
            )
        several = [shape for shape in context_shape if isinstance(shape, tuple)]
        shapes = several or [cast("tuple[int, ...]", tuple(context_shape))]
        self.context_shapes = tuple(shapes)
        total = sum(math.prod(shape) for shape in shapes)
        self.context_shape = shapes[0] if len(shapes) == 1 else (total,)
        self.allocate(event_shape)
        self.shapes = dict(self.parameter_shapes(self.event_shape))
        if isinstance(self.network, Network):
            self.body = self.network.build(self.context_shape, self.shapes)
        else:
            _check_lazy(self.network, self.context_shape)
            self._check(self.network)

    def outputs(self, *contexts: Tensor) -> tuple[Tensor, ...]:
        """The network's outputs, one ``[*batch, *shape]`` per parameter."""
        context = contexts[0] if len(contexts) == 1 else self._joined(contexts)
        batch = context.shape[: context.dim() - len(self.context_shape)]
        body = self.network if isinstance(self.network, nn.Module) else self.body
        if len(batch) == 1:
            return self._named(body(context))
        flat = self._named(body(context.reshape(-1, *self.context_shape)))
        return tuple(t.reshape(batch + t.shape[1:]) for t in flat)

    def _joined(self, contexts: tuple[Tensor, ...]) -> Tensor:
        both = list(zip(contexts, self.context_shapes, strict=True))
        batches = [c.shape[: c.dim() - len(shape)] for c, shape in both]
        batch = torch.broadcast_shapes(*batches)
        flat = [c.reshape(*b, -1) for (c, _), b in zip(both, batches, strict=True)]
        return torch.cat([t.expand(*batch, t.shape[-1]) for t in flat], -1)

    def _named(self, out: Tensor | Mapping[str, Tensor] | Sequence[Tensor]) -> tuple[Tensor, ...]:
        if isinstance(out, Mapping):
            out = [out[name] for name in self.shapes]
        parts = (out,) if isinstance(out, Tensor) else tuple(out)
        # under autocast; what follows the matrix products needs the digits
        return tuple(t.float() if t.dtype == torch.bfloat16 else t for t in parts)

    def _check(self, network: nn.Module) -> None:
        name, n = type(self).__name__, 2
        probe = next((p for p in network.parameters() if p.is_floating_point()), torch.zeros(()))
        context = torch.zeros(n, *self.context_shape, dtype=probe.dtype, device=probe.device)
        want = ", ".join(f"{k} {(n, *s)}" for k, s in self.shapes.items())
        try:
            with torch.no_grad(), _evaluating(network):
                out = network(context)
        except Exception as error:
            raise UsageError(
                f"{name}'s network fails on an input of shape {tuple(context.shape)}: {error}; it "
                f"must map [N, {', '.join(map(str, self.context_shape))}] to {want}"
            ) from error
        if isinstance(out, Mapping) and set(out) != set(self.shapes):
            raise UsageError(f"{name}'s network returns {sorted(out)}; expected {want}")
        got = [tuple(t.shape) for t in self._named(out)]
        if got != [(n, *shape) for shape in self.shapes.values()]:
            raise UsageError(
                f"{name}'s network maps an input of shape {tuple(context.shape)} to "
                f"{', '.join(map(str, got))}; expected {want}. Change its last layer, or end it "
                f"with nn.Unflatten(1, {tuple(next(iter(self.shapes.values())))})"
            )
