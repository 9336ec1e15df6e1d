"""Any pair and a batch -> per-site log p, log q, values and distributions.

Everything that pyrovae knows of a model and a guide it learns here, by running the guide and
replaying the model against it. Particles are one outer plate, so the guide runs once however
many are drawn. Log probabilities are unscaled (a subsampled plate's N/B belongs to training),
masked as the program says, and summed over every plate but the one over the data: what is left
is ``[particles, batch]`` for a local site and ``[particles]`` for a global one.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_site_shape
from torch import Tensor, nn
from torch.distributions import kl_divergence, transform_to
from torch.utils._python_dispatch import TorchDispatchMode

import pyrovae.distributions  # noqa: F401  (registers closed-form divergences)
from pyrovae.data import StreamedData, TensorData, UsageError, as_data

__all__ = [
    "Pair",
    "Refinement",
    "Site",
    "Structure",
    "Traces",
    "as_pair",
    "check",
    "check_support",
    "completing",
    "draw",
    "generate",
    "log_density",
    "parameters",
    "prepare",
    "rebuild",
    "simulate",
    "slices",
    "structure",
    "unreached",
]

Program = Callable[..., Any]
Args = tuple[Any, ...]


class _Restores(Messenger):
    """Gives a ``pyro.param`` its saved value when its program first declares it."""

    def __init__(self, pending: dict[str, Tensor]) -> None:
        super().__init__()
        self.pending = pending

    def _pyro_post_param(self, msg: Any) -> None:
        saved = self.pending.pop(msg["name"], None)
        if saved is not None:
            with torch.no_grad():
                msg["value"].unconstrained().copy_(saved)
            msg["value"] = pyro.get_param_store()[msg["name"]]


@dataclass
class _Memory:
    """What a pair keeps between calls: its parameter store, and the shapes of one datum."""

    store: dict[str, Any] = field(default_factory=lambda: {"params": {}, "constraints": {}})
    pending: dict[str, Tensor] = field(default_factory=dict)
    example: tuple[Tensor, ...] | None = None
    active: bool = False


class Pair:
    """A model and a guide: two plain Pyro functions, with parameters of their own.

    Whatever the two declare with ``pyro.param`` lives in this pair's own parameter store, so
    that two pairs never share a parameter by accident; modules used inside them keep theirs.

    Args:
        model: ``model(*batch)``, observing the batch in a plate over its first axis.
        guide: ``guide(*batch)``, sampling the same latent sites.

    >>> import pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):
    ...     shift = pyro.param("shift", torch.tensor(0.0))
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x / 2 + shift, 0.5**0.5))
    >>> structure(Pair(model, guide), (torch.zeros(3),)).latents
    ('z',)
    """

    def __init__(self, model: Program, guide: Program) -> None:
        for name, program in (("model", model), ("guide", guide)):
            if not callable(program):
                raise UsageError(f"{name} must be a function of the batch, got {program!r}")
        self.model, self.guide = model, guide
        self.owner: Any = self
        self.memory = _Memory()

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Pyro as this pair sees it: a parameter store of its own."""
        memory, store = self.memory, pyro.get_param_store()
        if memory.active:
            yield
            return
        outer = store.get_state()
        memory.active = True
        try:
            store.clear()
            store.set_state(memory.store)
            with _Restores(memory.pending):
                yield
        finally:
            memory.store = store.get_state()
            store.clear()
            store.set_state(outer)
            memory.active = False

    @property
    def params(self) -> dict[str, Tensor]:
        """What the two functions declared with ``pyro.param`` (unconstrained leaves), by name."""
        return dict(self.memory.store["params"])

    def modules(self) -> dict[str, nn.Module]:
        """Every ``nn.Module`` that the programs reach: themselves, their ``self``, closures."""
        found: dict[str, nn.Module] = {}

        def add(name: str, value: Any, depth: int = 0) -> None:
            if isinstance(value, nn.Module):
                if not any(value is module for module in found.values()):
                    found[name] = value
            elif inspect.ismethod(value):
                add(name, value.__self__, depth)
                if not isinstance(value.__self__, nn.Module):
                    for key, part in getattr(value.__self__, "__dict__", {}).items():
                        if isinstance(part, nn.Module):
                            add(key, part, depth)
            elif inspect.isfunction(value) and depth < 4:
                variables = inspect.getclosurevars(value)
                for key, part in {**variables.globals, **variables.nonlocals}.items():
                    add(key, part, depth + 1)
            elif hasattr(value, "__wrapped__") and depth < 4:
                add(name, value.__wrapped__, depth + 1)
            elif isinstance(value, Messenger | poutine.messenger._bound_partial):
                add(name, getattr(value, "fn", getattr(value, "func", None)), depth + 1)

        if isinstance(self.owner, nn.Module):
            return {"": self.owner}
        add("model", self.model)
        add("guide", self.guide)
        return found

    def tensors(self) -> dict[str, Tensor]:
        """Every parameter and persistent buffer, by name: what a checkpoint holds."""
        tensors: dict[str, Tensor] = {}
        for prefix, module in self.modules().items():
            for name, value in module.state_dict(keep_vars=True).items():
                tensors[f"{prefix}.{name}" if prefix else name] = value
        known = {id(value) for value in tensors.values()}
        tensors.update((n, v) for n, v in self.params.items() if id(v) not in known)
        return tensors

    def example(self, like: Args | None = None) -> Args:
        """One datum of the shapes that the programs take, ``[1, ...]`` each: the first of
        ``like``, else one like those seen before, else the owner's ``event_shape``.

        Raises:
            UsageError: none of them is known.
        """
        if like is not None:
            self.memory.example = tuple(a[:1].detach().cpu() for a in like)
        if self.memory.example is None and hasattr(self.owner, "event_shape"):
            self.memory.example = (torch.zeros(1, *self.owner.event_shape),)
        if self.memory.example is None:
            raise UsageError(
                "the shapes of this pair's data are not known yet; train it, or pass one or more "
                "data as like="
            )
        return tuple(a.to(self.device) for a in self.memory.example)

    @property
    def device(self) -> torch.device:
        """Where the pair's tensors are."""
        return next((t.device for t in self.tensors().values()), torch.device("cpu"))

    def serve(self, x: Any) -> TensorData | StreamedData:
        """``x`` as data on this pair's device, in its floating dtype."""
        floats = [t for t in self.tensors().values() if t.is_floating_point()]
        given = x.dtype if isinstance(x, Tensor) and x.is_floating_point() else None
        return as_data(x, self.device, floats[0].dtype if floats else given)

    def fill(self, tensors: Mapping[str, Tensor], source: str = "") -> None:
        """Put saved values in; those of ``pyro.param`` once their program declares them.

        Raises:
            UsageError: names or shapes that do not fit this pair.
        """
        own = self.tensors()
        missing = [name for name in own if name not in tensors]
        wrong = [
            f"{name} {tuple(tensors[name].shape)} for {tuple(own[name].shape)}"
            for name in own
            if name in tensors and tensors[name].shape != own[name].shape
        ]
        left = {name: value for name, value in tensors.items() if name not in own}
        foreign = [name for name in left if isinstance(self.owner, nn.Module)]
        if missing or wrong or foreign:
            raise UsageError(
                f"{source or 'these tensors'} do not fit the pair: missing {_list(missing)}, "
                f"wrong shape {_list(wrong)}, unknown {_list(foreign)}; build the pair as it was "
                f"when it was saved"
            )
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(tensors[name])
        self.memory.pending.update(left)

    def to(self, device: torch.device | str) -> Pair:
        """Move modules and parameters."""
        for module in self.modules().values():
            module.to(device)
        for value in self.params.values():
            value.data = value.data.to(device)
        return self

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode, no gradient; modes and every random state are put back after."""
        modes = [(m, m.training) for top in self.modules().values() for m in top.modules()]
        try:
            for module, _ in modes:
                module.training = False
            with torch.random.fork_rng(_devices()), torch.no_grad(), self.scope():
                yield
        finally:
            for module, mode in modes:
                module.training = mode


def _devices() -> list[int]:
    return [torch.cuda.current_device()] if torch.cuda.is_initialized() else []


def as_pair(pair: Any) -> Pair:
    """``pair`` as a :class:`Pair`: anything with ``.model`` and ``.guide``, or a tuple of two."""
    if isinstance(pair, Pair):
        return pair
    if isinstance(pair, tuple) and len(pair) == 2:
        return Pair(*pair)
    model, guide = getattr(pair, "model", None), getattr(pair, "guide", None)
    if not (callable(model) and callable(guide)):
        raise UsageError(
            f"expected a pair: pv.Pair(model, guide), a pv.VAE, or an object whose .model and "
            f".guide are Pyro programs; got {type(pair).__name__}"
        )
    wrapped = Pair(model, guide)
    wrapped.owner = pair
    # the memory stays with the object that the user holds, as long as that lives
    wrapped.memory = vars(pair).setdefault("_pyrovae_memory", wrapped.memory)
    return wrapped


@dataclass(frozen=True)
class Structure:
    """What running a pair shows about its shape.

    Attributes:
        latents: sites that guide and model share, in the guide's order.
        observed: the model's observed sites.
        auxiliary: sites of the guide alone, declared ``infer={"is_auxiliary": True}``.
        enumerated: discrete sites summed out exactly.
        globals: latent sites outside the plate over the data.
        plate: name of the plate over the data.
        dim: its dimension, counted from the right (-1 is the last batch dimension).
        nesting: how many batch dimensions plates use.
        size: the plate's full size where it subsamples (N for a batch of B), else None.
        broadcasts: whether many particles can be drawn in one vectorised run.
        row_bytes: memory that one particle of one datum takes, an upper bound.
        closed_form: latents whose KL may be taken in closed form: whatever comes before them in
            the model comes before them in the guide too.
    """

    latents: tuple[str, ...]
    observed: tuple[str, ...]
    auxiliary: tuple[str, ...]
    enumerated: tuple[str, ...]
    globals: tuple[str, ...]
    plate: str
    dim: int
    nesting: int
    size: int | None
    broadcasts: bool
    row_bytes: int
    closed_form: tuple[str, ...]

    def refuse_globals(self) -> None:
        """Raise where a per-datum weight has no meaning."""
        if self.globals:
            raise UsageError(
                f"the latent site(s) {', '.join(self.globals)} lie outside the plate "
                f"{self.plate!r}: all data share one draw, so no single datum has an importance "
                f"weight of its own. pv.elbo and pv.evaluate count such a site once; for log p(x) "
                f"per datum, condition on its value or move it into the plate"
            )


@dataclass(frozen=True)
class Site:
    """One sample site of one program.

    ``log_prob``: ``[particles, batch]``, or ``[particles]`` for a global site, in nats. ``value``:
    ``[particles, batch, ...]`` or ``[particles, ...]``. Over an enumerated site's values
    ``log_prob`` is the expectation; ``value`` has the enumeration's dimensions in front.
    ``mean`` is that of the distribution, shaped like ``value``, where it has one.
    """

    name: str
    fn: Any
    value: Tensor | None
    log_prob: Tensor
    is_observed: bool
    is_global: bool
    event_shape: tuple[int, ...]
    is_discrete: bool
    mean: Tensor | None = None


@dataclass(frozen=True)
class Traces:
    """A run of the guide and the model's replay: some particles of one batch.

    Attributes:
        model: the model's sites, by name.
        guide: the guide's sites, by name.
        shape: the pair's structure.
        log_joint: ``[particles, batch]``, log p(x, z) - log q(z|x) over the local sites, with
            enumerated ones summed out.
        log_ratio: the same with enumerated ones averaged under q: its mean is the local ELBO.
        kl: per latent ``[particles, batch]`` (``[particles]`` when global): closed form where
            valid, else log q - log p at the particle.
        kl_dimensions: per latent whose guide and prior factorise, ``[particles, batch, dims]``.
    """

    model: dict[str, Site]
    guide: dict[str, Site]
    shape: Structure
    log_joint: Tensor
    log_ratio: Tensor
    kl: dict[str, Tensor]
    kl_dimensions: dict[str, Tensor]

    @property
    def log_weights(self) -> Tensor:
        """``[particles, batch]``, nats: log p(x, z) - log q(z|x). Their mean is the ELBO, their
        log-mean-exp the importance-sampled log evidence.

        Raises:
            UsageError: a global latent; its data have no weights of their own.
        """
        self.shape.refuse_globals()
        return self.log_joint

    @property
    def reconstruction(self) -> Tensor:
        """``[particles, batch]``, nats: log p(x|z) of the observed sites."""
        return self._per_datum({s.name: s.log_prob for s in self.model.values() if s.is_observed})

    @property
    def elbo(self) -> Tensor:
        """``[particles, batch]``, nats: log p(x, z) - log q(z|x). What is global is shared out
        evenly, so that the sum over all data counts it once."""
        outside = {n: s.log_prob for n, s in self.model.items() if s.is_global}
        for name, site in self.guide.items():
            if site.is_global:
                outside[name] = outside.get(name, 0.0) - site.log_prob
        return self.log_ratio + self._per_datum(outside)

    def light(self) -> Traces:
        """The same without distributions and observed values: what may pile up over chunks."""

        def strip(sites: dict[str, Site]) -> dict[str, Site]:
            return {
                name: dataclasses.replace(
                    site, fn=None, **({"value": None, "mean": None} if site.is_observed else {})
                )
                for name, site in sites.items()
            }

        return dataclasses.replace(self, model=strip(self.model), guide=strip(self.guide))

    @property
    def total_kl(self) -> Tensor:
        """``[particles, batch]``, nats: the latents' KL terms added up."""
        return self._per_datum(self.kl)

    def _per_datum(self, terms: dict[str, Tensor]) -> Tensor:
        size = self.shape.size or self.log_joint.shape[1]
        total = torch.zeros_like(self.log_joint)
        for term in terms.values():
            total = total + (term if term.dim() == 2 else term[:, None] / size)
        return total


class _Allocations(TorchDispatchMode):
    """Counts the bytes of every new tensor made under it."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self.kept: dict[int, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        known = {t.untyped_storage().data_ptr() for t in args if isinstance(t, Tensor)}
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in known | self.kept.keys():
                    self.kept[storage.data_ptr()] = tensor  # alive, so no address comes twice
                    self.total += storage.nbytes()
        return out


def _sites(trace: Any) -> dict[str, Any]:
    return {n: s for n, s in prune_subsample_sites(trace).nodes.items() if s["type"] == "sample"}


def _run(
    pair: Pair, args: Args, particles: int = 1, nesting: int = 0, enumerating: bool = False
) -> tuple[Any, Any]:
    """(model trace, guide trace), particles in the dimension left of all plates."""
    guide, model = pair.guide, pair.model
    if particles > 1:
        plate = pyro.plate("_particles", particles, dim=-nesting - 1)
        guide, model = plate(guide), plate(model)
    if enumerating:
        guide = poutine.enum(guide, first_available_dim=-nesting - 2)
        model = poutine.enum(model)  # goes on to the left of the guide's dimensions
    guide_trace = poutine.trace(guide).get_trace(*args)
    return _replay(model, guide_trace, args), guide_trace


def _replay(program: Program, trace: Any, args: Args) -> Any:
    return poutine.trace(poutine.replay(program, trace=trace)).get_trace(*args)


def check(pair: Pair, args: Args) -> tuple[Any, Any]:
    """Run the pair once and compare its sites; returns the two traces.

    Raises:
        UsageError: the sites of model and guide differ (Pyro only warns), no observed site,
            a shape that the plates do not explain.
    """
    try:
        with pyro.validation_enabled():
            model_trace, guide_trace = _run(pair, args)
            model, guide = _sites(model_trace), _sites(guide_trace)
            for site in (*model.values(), *guide.values()):
                if not site["infer"].get("is_auxiliary") or "log_prob" not in site:
                    site["log_prob"] = site["fn"].log_prob(site["value"])
                check_site_shape(site, math.inf)
    except (ValueError, RuntimeError, NotImplementedError) as error:
        if isinstance(error, UsageError):
            raise
        shapes = ", ".join(str(tuple(a.shape)) for a in args if isinstance(a, Tensor))
        raise UsageError(
            f"the pair does not run on a batch of shape {shapes}: {error}. The data must lie in "
            f"the sites' support, every batch dimension in a pyro.plate, every event dimension "
            f"in .to_event(n)"
        ) from error
    _check_names(model, guide)
    return model_trace, guide_trace


def check_support(pair: Pair, args: Args, data: TensorData) -> None:
    """Check all the data, once, against the supports of the sites that observe them as they are.

    Raises:
        UsageError: data outside a support, with their range and what would fit.
    """
    try:
        with pyro.validation_enabled(False), pair.scope():
            sites = _sites(_run(pair, args)[0]).values()
    except (ValueError, RuntimeError, NotImplementedError):
        return  # check says what is wrong with the programs
    for site in sites:
        where = next((k for k, a in enumerate(args) if site["value"] is a), None)
        if not site["is_observed"] or where is None:
            continue
        support = site["fn"].support
        for batch in data.batches(1024, generator=torch.Generator(data.device).manual_seed(0)):
            value = batch[where]
            while hasattr(support, "base_constraint"):
                support = support.base_constraint
            known = value[~value.isnan()]  # what is missing lies in every support
            try:
                inside = bool(support.check(known if support.event_dim == 0 else value).all())
            except RuntimeError:
                break  # a support that differs from datum to datum is checked as they are used
            if not inside:
                raise UsageError(_outside(site, support, known))


def _outside(site: Any, support: Any, value: Tensor) -> str:
    fn = site["fn"]
    while isinstance(fn, dist.Independent):
        fn = fn.base_dist
    low, high, name = float(value.min()), float(value.max()), type(fn).__name__
    words = (
        f"the data do not lie in the support of site {site['name']!r}: {name} takes "
        f"{_SUPPORTS.get(str(support), str(support))}, the data range from {low:.4g} to {high:.4g}"
    )
    if 0 <= low and high <= 1:
        return (
            f"{words} with values between, such as grey pixels. Binarise them "
            f"(data.binarised('dynamic'), --binarise dynamic), or choose a likelihood for real "
            f"numbers such as Normal (--likelihood Normal)"
        )
    return f"{words}. Choose a likelihood that holds them, such as Normal (--likelihood Normal)"


_SUPPORTS = {"Boolean()": "0 or 1", "Real()": "real numbers"}


def _check_names(model: dict[str, Any], guide: dict[str, Any]) -> None:
    exact = {n for n, s in model.items() if s["infer"].get("enumerate") == "parallel"}
    latent = [n for n, s in model.items() if not s["is_observed"]]
    sampled = [n for n, s in guide.items() if not s["is_observed"]]
    auxiliary = [n for n in sampled if guide[n]["infer"].get("is_auxiliary") and n not in latent]
    missing = [n for n in latent if n not in sampled and n not in exact]
    extra = [n for n in sampled if n not in latent and n not in auxiliary]
    if missing or extra:
        observed = [n for n in extra if n in model]
        why = (
            f" ({', '.join(observed)} is observed in the model)"
            if observed
            else " (was an obs= forgotten?)"
            if missing
            else ""
        )
        raise UsageError(
            f"model and guide must sample the same latent sites{why}. Model: {_list(latent)}; "
            f"guide: {_list(sampled)}. Missing from the guide: {_list(missing)}; only in the "
            f"guide: {_list(extra)}. Rename them, or declare a guide's helper with "
            f'infer={{"is_auxiliary": True}}'
        )
    if all(not s["is_observed"] for s in model.values()):
        raise UsageError(
            f"the model observes nothing: none of its sites {_list(list(model))} has obs=. Give "
            f"the data to one, e.g. pyro.sample('x', p_x, obs=x)"
        )


def _list(names: Sequence[str]) -> str:
    return "[" + ", ".join(names) + "]"


def structure(pair: Any, args: Args, plate: str | None = None) -> Structure:
    """Learn a pair's structure from a few data, in evaluation mode and without side effects.

    The plate over the data is the one that follows the size of the batch; ``plate`` names it
    where several do.

    Raises:
        UsageError: whatever :func:`check` raises; no plate or several over the data; a discrete
            site that cannot be summed out exactly.
    """
    pair = as_pair(pair)
    size = len(args[0])
    few = tuple(a[: min(size, 5)] if isinstance(a, Tensor) and len(a) == size else a for a in args)
    with pair.evaluating():
        model_trace, guide_trace = _check_few(pair, few, args)
        model, guide = _sites(model_trace), _sites(guide_trace)
        frames = _frames(model, guide)
        nesting = max((-frame.dim for frame in frames.values()), default=0)
        frame = _data_plate(pair, few, frames, model, plate)
        enumerated = tuple(
            n
            for n, s in {**guide, **model}.items()
            if not s["is_observed"] and _enumerates(s, nesting, frame)
        )
        latents = tuple(n for n in guide if n in model)
        order = [n for n in model if n in latents]
        found = Structure(
            latents=latents,
            observed=tuple(n for n, s in model.items() if s["is_observed"]),
            auxiliary=tuple(n for n in guide if n not in model),
            enumerated=enumerated,
            globals=tuple(
                n
                for n, s in {**guide, **model}.items()
                if not s["is_observed"] and not _within(s, frame.name)
            ),
            plate=frame.name,
            dim=frame.dim,
            nesting=nesting,
            size=frame.full_size if frame.full_size not in (None, frame.size) else None,
            broadcasts=True,
            row_bytes=1,
            closed_form=tuple(
                name
                for name in latents
                if set(order[: order.index(name)]) <= set(latents[: latents.index(name)])
            ),
        )
        return _probe_particles(pair, few, found)


def _check_few(pair: Pair, few: Args, args: Args) -> tuple[Any, Any]:
    try:
        return check(pair, few)
    except UsageError as error:
        try:
            check(pair, args)
        except UsageError:
            raise error from None
        raise UsageError(
            f"the pair runs on {len(args[0])} data but not on {len(few[0])}: a plate has a size of "
            f"its own. Data are gone through in batches of any size: give the programs the batch, "
            f"with pyro.plate('data', len(x)) or, for N data in all, pyro.plate('data', N, "
            f"subsample_size=len(x))"
        ) from error


def prepare(
    pair: Any, x: Any, seed: int = 0, plate: str | None = None
) -> tuple[Pair, TensorData | StreamedData, Structure]:
    """What every verb starts with: the pair (NaN in ``x`` means missing), the data where the
    pair is, any binarisation drawn once, and the pair's structure on them.

    Raises:
        UsageError: data outside a support, and whatever :func:`structure` raises.
    """
    program = as_pair(pair)
    data = program.serve(x).fixed(seed)
    few = next(iter(data.batches(min(len(data), 5))))
    with program.evaluating():
        if isinstance(data, TensorData):
            program = completing(program, data[:])
            check_support(program, few, data)
    program.example(few)
    return program, data, structure(program, few, plate)


def _frames(*traces: dict[str, Any]) -> dict[str, Any]:
    return {
        frame.name: frame
        for trace in traces
        for site in trace.values()
        for frame in site["cond_indep_stack"]
        if frame.vectorized
    }


def _within(site: Any, plate: str) -> bool:
    return any(frame.name == plate for frame in site["cond_indep_stack"])


def _data_plate(
    pair: Pair, args: Args, frames: dict[str, Any], model: dict[str, Any], plate: str | None
) -> Any:
    if plate is not None:
        if plate not in frames:
            raise UsageError(f"there is no plate {plate!r}; the pair has {_list(list(frames))}")
        return frames[plate]
    size = len(args[0])
    following = [frame for frame in frames.values() if frame.size == size]
    if len(following) > 1 and size > 1:
        fewer = tuple(a[:-1] if isinstance(a, Tensor) and len(a) == size else a for a in args)
        after = _frames(*map(_sites, _run(pair, fewer)))
        following = [f for f in following if f.name in after and after[f.name].size == size - 1]
    observed = [site for site in model.values() if site["is_observed"]]
    around = [f for f in following if any(_within(site, f.name) for site in observed)]
    if len(around) != 1:
        raise UsageError(
            f"{'no plate follows' if not around else 'several plates follow'} the size of the "
            f"batch ({size} here); the plates are "
            f"{_list([f'{f.name} of size {f.size}' for f in frames.values()])}. Put the "
            f"observed site in pyro.plate('data', len(x))"
            + (", or name the plate over the data with plate=" if around else "")
        )
    return around[0]


def _enumerates(site: Any, nesting: int, frame: Any) -> bool:
    how = site["infer"].get("enumerate")
    if how is None:
        return False
    if how != "parallel":
        raise UsageError(
            f"site {site['name']!r} is enumerated {how}; diagnostics sum discrete sites out in "
            f'parallel: use infer={{"enumerate": "parallel"}}'
        )
    plates = [f.name for f in site["cond_indep_stack"] if f.vectorized]
    if plates != [frame.name]:
        raise UsageError(
            f"the enumerated site {site['name']!r} lies in the plates {_list(plates)}; exact "
            f"per-datum sums need it in the plate {frame.name!r} alone"
        )
    return True


def _probe_particles(pair: Pair, args: Args, found: Structure) -> Structure:
    """Whether two particles drawn at once give what each gives alone, and what a row costs."""
    size = len(args[0])
    try:
        with _Allocations() as allocations:
            model_trace, guide_trace = _run(pair, args, 2, found.nesting, bool(found.enumerated))
            together = _measure(model_trace, guide_trace, found, 2)
        for k in () if found.enumerated else range(2):  # enumerating is broadcasting already
            one = _slice(guide_trace, k, k + 1, found)
            alone = _measure(_replay(pair.model, one, args), _replay(pair.guide, one, args), found)
            pairs = [(together.elbo[k], alone.elbo[0]), (together.log_joint[k], alone.log_joint[0])]
            if not all(torch.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in pairs):
                raise ValueError("particles influence each other")
        return dataclasses.replace(found, row_bytes=max(1, allocations.total // (2 * size)))
    except (ValueError, RuntimeError, IndexError) as error:
        if found.enumerated:
            raise UsageError(
                f"the enumerated sites {_list(found.enumerated)} need programs that broadcast to "
                f"the left (index with Vindex, flatten leading dimensions): {error}"
            ) from error
        with _Allocations() as allocations:
            _measure(*_run(pair, args), found)
        row = max(1, allocations.total // size)
        return dataclasses.replace(found, broadcasts=False, row_bytes=row)


def _slice(guide_trace: Any, start: int, stop: int, shape: Structure) -> Any:
    """The guide's trace with the particles ``start:stop`` alone; a single one stands without the
    particles' dimension, as a run of one particle would have drawn it."""
    count, sliced = stop - start, guide_trace.copy()
    for name, site in _sites(guide_trace).items():
        particle = -shape.nesting - 1

        def narrow(value: Tensor, dim: int) -> Tensor:
            if value.dim() < -dim:
                return value
            if value.shape[dim] > 1:
                value = value.narrow(dim, start, count)
            return value.squeeze(dim) if count == 1 else value

        def change(
            name: str, constraint: Any, value: Tensor, extra: int = _independent(site["fn"])
        ) -> Tensor:
            return narrow(value, particle - extra - constraint.event_dim)

        value = narrow(site["value"], particle - site["fn"].event_dim)
        if count == 1:
            dims = [-f.dim for f in site["cond_indep_stack"] if f.vectorized]
            depth = max((d for d in dims if d < -particle), default=0) + site["fn"].event_dim
            value = value.reshape(value.shape[max(0, value.dim() - depth) :])
        part = {**site, "value": value}
        if "reduced" in site:
            part["reduced"] = site["reduced"][start:stop]
        try:
            part["fn"] = rebuild(site["fn"], change)
        except NotImplementedError:
            part["opaque"] = True  # its parameters still hold all particles
        sliced.nodes[name] = part
    return sliced


def _independent(fn: Any) -> int:
    return fn.reinterpreted_batch_ndims if isinstance(fn, dist.Independent) else 0


def _log_prob(site: Any) -> Tensor:
    log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    masked: Tensor = scale_and_mask(log_prob, 1.0, site["mask"])
    return masked


def _term(site: Any, shape: Structure) -> Tensor:
    if "reduced" in site:
        reduced: Tensor = site["reduced"]
        return reduced
    return _reduce(_log_prob(site), _within(site, shape.plate), shape)


def _reduce(term: Tensor, local: bool, shape: Structure) -> Tensor:
    """``[*enumerated, particles, *plates]`` -> ``[*enumerated, particles(, batch)]``."""
    term = term[(None,) * max(0, shape.nesting + 1 - term.dim())]
    for dim in range(-shape.nesting, 0):
        if dim != shape.dim or not local:
            term = term.sum(dim, keepdim=True)
    batch = (term.shape[shape.dim],) if local else ()
    return term.reshape(term.shape[: term.dim() - shape.nesting] + batch)


def _place(value: Tensor, event: int, local: bool, shape: Structure) -> Tensor:
    """``[*enumerated, particles, *plates, *event]`` with the data's dimension after particles."""
    value = value[(None,) * max(0, shape.nesting + 1 + event - value.dim())]
    first = value.dim() - event - shape.nesting
    if local:
        value = value.movedim(shape.dim - event, first)
    kept = [d for d in range(first + local, value.dim() - event) if value.shape[d] > 1]
    event_sizes = value.shape[value.dim() - event :]
    return value.reshape(
        *value.shape[: first + local], *(value.shape[d] for d in kept), *event_sizes
    )


def _measure(model_trace: Any, guide_trace: Any, shape: Structure, particles: int = 1) -> Traces:
    """Reduce two traces to per-site, per-particle, per-datum terms."""
    model, guide = _sites(model_trace), _sites(guide_trace)

    log_p = {name: _term(site, shape) for name, site in model.items()}
    log_q = {name: _term(site, shape) for name, site in guide.items()}
    local_p = [t for n, t in log_p.items() if _within(model[n], shape.plate)]
    local_q = {n: t for n, t in log_q.items() if _within(guide[n], shape.plate)}
    joint = sum(local_p[1:], start=local_p[0])
    log_joint = joint - sum(t for n, t in local_q.items() if n not in shape.enumerated)
    log_ratio = log_joint

    kl: dict[str, Tensor] = {}
    kl_dimensions: dict[str, Tensor] = {}
    for name in (*shape.latents, *shape.auxiliary):
        kl[name] = log_q[name] - log_p.get(name, torch.zeros(()))
        if name not in shape.latents:
            continue
        local, q, p = _within(guide[name], shape.plate), guide[name], model[name]
        closed = name in shape.closed_form and name not in shape.enumerated
        exact = _closed_form(q, p) if closed else None
        if exact is not None:
            kl[name] = _reduce(exact, local, shape)
        per_dimension = _by_dimension(q, p, closed) if local and shape.nesting == 1 else None
        if per_dimension is not None:
            kl_dimensions[name] = per_dimension[(None,) * max(0, 3 - per_dimension.dim())]

    if shape.enumerated:
        weights, log_marginal = _enumeration_weights(joint, log_q, model, guide, shape)
        only_model = [n for n in shape.enumerated if n not in guide]
        if only_model:
            kl["+".join(only_model)] = log_marginal - sum(log_p[n] for n in only_model)
        axes = tuple(range(weights.dim() - 2))
        log_ratio = log_joint - weights.clamp_min(torch.finfo(weights.dtype).tiny).log()
        log_joint = log_joint.logsumexp(axes)

        def expected(term: Tensor) -> Tensor:
            if term.dim() < 2:
                return term
            return torch.where(weights > 0, weights * term, 0.0).sum(axes)

        kl = {n: expected(t) for n, t in kl.items()}
        log_p = {n: expected(t) for n, t in log_p.items()}
        log_q = {n: expected(t) for n, t in log_q.items()}
        log_ratio = expected(log_ratio)
        kl_dimensions = {}

    batch = log_joint.shape[-1]

    def full(term: Tensor) -> Tensor:
        return term.expand((particles, batch) if term.dim() == 2 else (particles,))

    def sites(trace: dict[str, Any], log_prob: dict[str, Tensor]) -> dict[str, Site]:
        return {name: _site(site, full(log_prob[name]), shape) for name, site in trace.items()}

    return Traces(
        model=sites(model, log_p),
        guide=sites(guide, log_q),
        shape=shape,
        log_joint=full(log_joint),
        log_ratio=full(log_ratio),
        kl={name: full(term) for name, term in kl.items()},
        kl_dimensions=kl_dimensions,
    )


def _site(site: Any, log_prob: Tensor, shape: Structure) -> Site:
    fn, local, mean = site["fn"], _within(site, shape.plate), None
    if not site["is_observed"] and not site.get("opaque"):
        try:
            mean = _place(fn.mean, fn.event_dim, local, shape)
        except (NotImplementedError, RuntimeError, AttributeError):
            mean = None
    return Site(
        name=site["name"],
        fn=fn,
        value=_place(site["value"], fn.event_dim, local, shape),
        log_prob=log_prob,
        is_observed=site["is_observed"],
        is_global=not local,
        event_shape=tuple(fn.event_shape),
        is_discrete=fn.support.is_discrete,
        mean=mean,
    )


def _closed_form(q: Any, p: Any) -> Tensor | None:
    """KL(q || p) of two sites where a closed form is registered and their masks agree."""
    if q["mask"] is not p["mask"] or q.get("opaque"):
        return None
    try:
        kl: Tensor = kl_divergence(q["fn"], p["fn"])
    except NotImplementedError:
        return None
    masked: Tensor = scale_and_mask(kl, 1.0, q["mask"])
    return masked


def _by_dimension(q: Any, p: Any, closed: bool) -> Tensor | None:
    """KL of each coordinate, where both distributions factorise over one event dimension."""
    bases = []
    for site in (q, p):
        fn = site["fn"]
        if site.get("opaque") or not (
            isinstance(fn, dist.Independent) and fn.reinterpreted_batch_ndims == 1
        ):
            return None
        bases.append(fn.base_dist)
    if q["mask"] is not None or bases[0].event_dim or bases[1].event_dim:
        return None
    if closed:
        try:
            kl: Tensor = kl_divergence(*bases)
            return kl
        except NotImplementedError:
            pass
    difference: Tensor = bases[0].log_prob(q["value"]) - bases[1].log_prob(q["value"])
    return difference


def _enumeration_weights(
    joint: Tensor, log_q: dict[str, Tensor], model: Any, guide: Any, shape: Structure
) -> tuple[Tensor, Tensor]:
    """q of every combination of enumerated values ``[*enumerated, particles, batch]``, and the
    part of log q that is the model's own conditional of the sites that no guide has."""
    axes = []
    for name in shape.enumerated:
        if name not in guide:
            site = model[name]
            axes.append(site["value"].dim() - site["fn"].event_dim)
    log_conditional = torch.zeros(())
    if axes:
        # the n-th dimension from the right of a value is the n-th of the plates' layout; the
        # plates are by now one dimension
        dims = [-(axis - shape.nesting + 1) for axis in axes]
        log_conditional = joint - joint.logsumexp(dims, keepdim=True)
    log_weights = log_conditional + sum(
        (log_q[n] for n in shape.enumerated if n in guide), start=torch.zeros(())
    )
    return (log_weights.exp() + torch.zeros_like(joint)), log_conditional


def draw(pair: Any, args: Args, num_particles: int = 1, shape: Structure | None = None) -> Traces:
    """Run guide and model on one batch, with gradients if they are enabled.

    Args:
        pair: a model and a guide.
        args: the batch as a tuple, as the programs take it.
        num_particles: vectorised where the pair broadcasts, one by one where it does not.
        shape: the pair's :func:`structure`, found anew when not given.

    Raises:
        UsageError: whatever :func:`structure` raises; a plate that subsamples by itself.

    >>> from pyrovae.vae import VAE
    >>> traces = draw(VAE((4,), 2), (torch.ones(5, 4),), num_particles=3)
    >>> traces.log_weights.shape, traces.guide["z"].value.shape
    (torch.Size([3, 5]), torch.Size([3, 5, 2]))
    """
    return next(slices(pair, args, num_particles, num_particles, shape))


def slices(
    pair: Any, args: Args, num_particles: int, at_once: int, shape: Structure | None = None
) -> Iterator[Traces]:
    """The particles of :func:`draw`, ``at_once`` of them at a time: the guide runs once for all,
    the model is replayed slice by slice, so that a slice bounds the memory."""
    if num_particles < 1:
        raise UsageError(f"num_particles must be at least 1, got {num_particles}")
    pair = as_pair(pair)
    shape = shape or structure(pair, args)
    enumerating = bool(shape.enumerated)
    with pair.scope():
        if num_particles == 1 or not shape.broadcasts:
            for _ in range(num_particles):
                traces = _run(pair, args, 1, shape.nesting, enumerating)
                yield _whole(_measure(*traces, shape), args)
        elif at_once >= num_particles or enumerating:
            traces = _run(pair, args, num_particles, shape.nesting, enumerating)
            yield _whole(_measure(*traces, shape, num_particles), args)
        else:
            plate = pyro.plate("_particles", num_particles, dim=-shape.nesting - 1)
            guide_trace = poutine.trace(plate(pair.guide)).get_trace(*args)
            for site in _sites(guide_trace).values():
                guide_trace.nodes[site["name"]]["reduced"] = _term(site, shape)
            for start in range(0, num_particles, at_once):
                stop = min(start + at_once, num_particles)
                part = _slice(guide_trace, start, stop, shape)
                model = pair.model
                if stop - start > 1:
                    model = pyro.plate("_particles", stop - start, dim=-shape.nesting - 1)(model)
                traces = _replay(model, part, args), part
                yield _whole(_measure(*traces, shape, stop - start), args)


def _whole(traces: Traces, args: Args) -> Traces:
    batch = traces.log_joint.shape[-1]
    if batch != len(args[0]):
        raise UsageError(
            f"the plate {traces.shape.plate!r} draws {batch} of the {len(args[0])} data by itself; "
            f"give the programs the minibatch instead: pyro.plate('data', N, "
            f"subsample_size=len(x)), and pass batches of x"
        )
    return traces


def generate(
    pair: Any, args: Args, latents: Mapping[str, Tensor] | None = None
) -> dict[str, tuple[Any, Tensor]]:
    """Run the model with its observed sites sampled: ``{site: (distribution, value)}``.

    Args:
        pair: a model and a guide.
        args: a batch of the right shapes; observed values in it are not used.
        latents: values of latent sites ``[batch, ...]``, drawn from the model where absent.
    """
    pair = as_pair(pair)
    with pair.scope():
        model = poutine.uncondition(pair.model)
        if latents:
            model = poutine.condition(model, data=dict(latents))
        sites = _sites(poutine.trace(model).get_trace(*args))
    return {name: (site["fn"], site["value"]) for name, site in sites.items()}


def simulate(pair: Any, args: Args, latents: Sequence[str]) -> tuple[dict[str, Tensor], Args]:
    """Draw latents and data from the model: the named latents' values, and ``args`` with every
    argument that an observed site observes replaced by that site's draw.

    Raises:
        UsageError: a site that observes something else than an argument as it is.
    """
    pair = as_pair(pair)
    with pair.scope(), pyro.validation_enabled(False):
        observing = _sites(poutine.trace(poutine.uncondition(pair.model)).get_trace(*args))
        given = _sites(_run(pair, args)[0])
    simulated = list(args)
    for name, site in given.items():
        if site["is_observed"]:
            where = next((k for k, a in enumerate(args) if a is site["value"]), None)
            if where is None:
                raise UsageError(
                    f"the observed site {name!r} does not observe one of the model's arguments as "
                    f"it is, so simulated data cannot be handed to the guide"
                )
            simulated[where] = observing[name]["value"]
    return {name: observing[name]["value"] for name in latents}, tuple(simulated)


def log_density(pair: Any, args: Args, latents: Mapping[str, Tensor], shape: Structure) -> Tensor:
    """log p(x, z) of the local sites at given latents ``[particles, batch, ...]``:
    ``[particles, batch]``, with gradients if they are enabled."""
    pair = as_pair(pair)
    particles = len(next(iter(latents.values())))
    model = poutine.condition(pair.model, data=dict(latents))
    if shape.nesting > 1:
        raise UsageError("exact evidence needs latents in the plate over the data alone")
    with pair.scope():
        plate = pyro.plate("_particles", particles, dim=-shape.nesting - 1)
        sites = _sites(poutine.trace(plate(model)).get_trace(*args))
    terms = [_term(s, shape) for s in sites.values() if _within(s, shape.plate)]
    return sum(terms[1:], start=terms[0])


class Refinement(Messenger):
    """Free, per-datum shifts of the parameters of a guide's local sites.

    Every parameter is shifted where it is unconstrained, starting from what the guide gives; so
    a site keeps its family and what it depends on. ``noise`` makes Gaussian sites use particles
    whose first two moments are exact, which integrates quadratic log densities exactly.
    """

    def __init__(self, shape: Structure, particles: int, noise: bool = True) -> None:
        super().__init__()
        self.shape, self.particles, self.noise = shape, particles, noise
        self.shifts: dict[tuple[str, str], Tensor] = {}
        self.draws: dict[str, Tensor] = {}

    def of(self, pair: Pair) -> Pair:
        """The same pair, its guide shifted."""
        refined = Pair(pair.model, self(pair.guide))
        refined.owner, refined.memory = pair.owner, pair.memory
        return refined

    def _pyro_sample(self, msg: Any) -> None:
        name, fn = msg["name"], msg["fn"]
        if name not in self.shape.latents or name in self.shape.globals or msg["is_observed"]:
            return
        extra = _independent(fn)

        def change(parameter: str, constraint: Any, value: Tensor) -> Tensor:
            kept = self.shape.nesting + extra + constraint.event_dim
            to = transform_to(constraint)
            free = to.inv(value)
            key = (name, parameter)
            if key not in self.shifts:
                shape = free.shape[max(0, free.dim() - kept) :]
                self.shifts[key] = torch.zeros(shape).to(free).requires_grad_()
            shifted: Tensor = to(free + self.shifts[key])
            return shifted

        try:
            msg["fn"] = fn = rebuild(fn, change)
        except NotImplementedError as error:
            raise UsageError(
                f"the guide's site {name!r} cannot be refined per datum: {error}"
            ) from error
        if self.noise and self.particles > 1:
            msg["value"] = self._matched(name, fn)
            msg["done"] = msg["value"] is not None

    def _matched(self, name: str, fn: Any) -> Tensor | None:
        base = fn.base_dist if isinstance(fn, dist.Independent) else fn
        size = fn.event_shape.numel()
        if not isinstance(base, dist.Normal | dist.MultivariateNormal):
            return None
        if self.particles < 2 * size:
            return None  # too few to have the moments of so many dimensions
        if name not in self.draws:
            half = torch.randn(self.particles // 2, size, dtype=torch.float64)
            half = half @ torch.linalg.inv(torch.linalg.cholesky(half.T @ half / len(half))).T
            noise = torch.cat([half, -half, half.new_zeros(self.particles % 2, size)])
            noise *= math.sqrt(self.particles / (2 * len(half)))
            self.draws[name] = noise
        noise = self.draws[name].to(fn.mean)
        lead = (self.particles, *(1,) * self.shape.nesting)
        if isinstance(base, dist.MultivariateNormal):
            return fn.mean + (base.scale_tril @ noise.reshape(*lead, size, 1)).squeeze(-1)
        return fn.mean + base.scale * noise.reshape(*lead, *fn.event_shape)


class _MasksMissing(Messenger):
    """NaN entries of observed values are masked out of their site, entry by entry."""

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] or not isinstance(msg["value"], Tensor):
            return
        missing = msg["value"].isnan()
        if not bool(missing.any()):
            return
        fn, extra = msg["fn"], _independent(msg["fn"])
        base = fn.base_dist if extra else fn
        if base.event_dim:
            raise UsageError(
                f"the observed site {msg['name']!r} has missing entries and a joint density over "
                f"them ({type(base).__name__}); only entries that are independent given the "
                f"latents can be masked one by one"
            )
        with pyro.validation_enabled(False), torch.no_grad():
            valid = fn.sample()  # any value of the support will do where the mask is
        msg["value"] = torch.where(missing, valid, msg["value"])
        masked = dist.Independent(base, 0).base_dist.mask(~missing)
        msg["fn"] = masked.to_event(extra) if extra else masked


def completing(pair: Pair, args: Args) -> Pair:
    """The pair for a batch in which NaN means missing.

    Missing entries are masked out of the observed sites. A guide that gives finite values on a
    batch with NaN knows what to do with them; another one is given zeros in their place.
    """
    incomplete = [a for a in args if a.is_floating_point() and bool(a.isnan().any())]
    if not incomplete:
        return pair
    rows = torch.cat([a.isnan().flatten(1) for a in incomplete], 1).any(1).nonzero()[:5, 0]
    few = tuple(a[rows] for a in args)
    guide = pair.guide

    def filled(*batch: Any) -> Any:
        return guide(*(b.nan_to_num(0.0) if b.is_floating_point() else b for b in batch))

    with pair.evaluating(), pyro.validation_enabled(False):
        sites = _sites(poutine.trace(guide).get_trace(*few)).values()
        able = all(bool(s["value"].isfinite().all()) for s in sites)
    completed = Pair(_MasksMissing()(pair.model), guide if able else filled)
    completed.owner, completed.memory = pair.owner, pair.memory
    return completed


def rebuild(fn: Any, change: Callable[[str, Any, Tensor], Tensor]) -> Any:
    """``fn`` with every parameter replaced by ``change(name, constraint, value)``.

    Raises:
        NotImplementedError: a distribution that is not given by its parameters alone.
    """
    if isinstance(fn, dist.Independent):
        return rebuild(fn.base_dist, change).to_event(fn.reinterpreted_batch_ndims)
    given = [n for n in fn.arg_constraints if isinstance(vars(fn).get(n), Tensor)]
    for names in (("logits", "probs"), ("scale_tril", "covariance_matrix", "precision_matrix")):
        # torch caches the other forms of a parameter once they are asked for; one is enough
        forms = [n for n in names if n in given]
        given = [n for n in given if n not in forms[1:]]
    if not given or isinstance(fn, dist.TransformedDistribution):
        raise NotImplementedError(f"{type(fn).__name__} is not given by its parameters alone")
    constraints = fn.arg_constraints
    changed = {name: change(name, constraints[name], vars(fn)[name]) for name in given}
    return type(fn)(**changed, validate_args=False)


def parameters(pair: Any, args: Args) -> dict[str, Tensor]:
    """The leaves that the pair's log probabilities depend on, by name, in a fixed order.

    Found by walking the autograd graph of one run, so that a module that neither program
    registered is trained all the same.

    Raises:
        UsageError: no parameter at all.
    """
    pair = as_pair(pair)
    with torch.random.fork_rng(_devices()), torch.enable_grad(), pair.scope():
        model_trace, guide_trace = _run(pair, args)
        sites = [*_sites(model_trace).values(), *_sites(guide_trace).values()]
        total = sum((_log_prob(s).sum() for s in sites), start=torch.zeros(()))
    leaves: list[Tensor] = []
    stack, seen = [total.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        stack.extend(parent for parent, _ in node.next_functions)
    if not leaves:
        raise UsageError(
            "neither program depends on a parameter, so there is nothing to train: use an "
            "nn.Module with parameters that require gradients, or pyro.param"
        )
    names = {id(tensor): name for name, tensor in pair.tensors().items()}
    order = {id(tensor): place for place, tensor in enumerate(pair.tensors().values())}
    leaves.sort(key=lambda leaf: order.get(id(leaf), len(order)))
    return {names.get(id(leaf), f"parameter_{k}"): leaf for k, leaf in enumerate(leaves)}


def unreached(pair: Any, reached: dict[str, Tensor]) -> list[str]:
    """Names of trainable parameters of the pair's modules that no log probability depends on."""
    known = {id(leaf) for leaf in reached.values()}
    return [
        name
        for name, tensor in as_pair(pair).tensors().items()
        if tensor.requires_grad and id(tensor) not in known
    ]
