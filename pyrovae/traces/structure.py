"""What running a pair on a few data shows: its sites, plates, parameters and mistakes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.util import check_site_shape
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pyrovae import supports
from pyrovae.distributions import Columns
from pyrovae.errors import UsageError, in_short
from pyrovae.likelihoods import advice
from pyrovae.streams import Data
from pyrovae.summaries import Summary
from pyrovae.tensors import TensorData
from pyrovae.traces.handlers import completed
from pyrovae.traces.pair import Args, Pair, _list, as_pair
from pyrovae.traces.terms import (
    FAILURES,
    Structure,
    _argument,
    _factor,
    _log_prob,
    _measure,
    _replay,
    _run,
    _sites,
    _slice,
    _within,
    entries,
)


def prepare(
    pair: Any, x: Any, seed: int = 0, plate: str | None = None
) -> tuple[Pair, Data, Structure]:
    """What every verb starts with: the pair (NaN in ``x`` means missing), the data where the
    pair is, any binarisation drawn once, and the pair's structure on them.

    Raises:
        UsageError: data outside a support, and whatever :func:`structure` raises.
    """
    program = as_pair(pair)
    data = program.serve(x).fixed(seed)
    few = next(iter(data.batches(min(len(data), 5))))
    with program.evaluating():
        program, data = completed(program, data)
        data.check_finite()
        data = Supports(program, few).check(data)
    program.example(few)
    return program, data, structure(program, few, plate)


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
            observed=tuple(n for n, s in model.items() if s["is_observed"] and not _factor(s)),
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
            pathwise=tuple(n for n in latents if guide[n]["fn"].has_rsample),
            scaled=tuple(n for n, s in {**guide, **model}.items() if _rescaled(s, frame)),
            points=tuple(
                n
                for n in latents
                if _within(guide[n], frame.name) and isinstance(entries(guide[n]["fn"]), dist.Delta)
            ),
        )
        return _probe_particles(pair, few, found)


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
                site["log_prob"] = site["fn"].log_prob(site["value"])
                check_site_shape(site, math.inf)
    except FAILURES as error:
        if isinstance(error, UsageError):  # Pyro adds to its words
            raise UsageError(in_short(error, 2000)) from error
        shapes = ", ".join(str(tuple(a.shape)) for a in args if isinstance(a, Tensor))
        raise UsageError(
            f"the pair does not run on a batch of shape {shapes}: {in_short(error)}. The data must "
            f"lie in the sites' support, every batch dimension in a pyro.plate, every event "
            f"dimension in .to_event(n)"
        ) from error
    _check_names(model, guide)
    return model_trace, guide_trace


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
            f"model and guide must sample the same latent sites{why}. Model: "
            f"{_shapes(model, latent)}; guide: {_shapes(guide, sampled)}. Missing from the guide: "
            f"{_list(missing)}; only in the guide: {_list(extra)}. Rename them, or declare a "
            f'guide\'s helper with infer={{"is_auxiliary": True}}'
        )
    for name in latent:
        if name in guide and not _same(model[name]["scale"], guide[name]["scale"]):
            raise UsageError(
                f"site {name!r} is scaled by {model[name]['scale']} in the model and by "
                f"{guide[name]['scale']} in the guide: the KL would be weighted on one side, and "
                f"Trace_ELBO and TraceMeanField_ELBO would optimise different things in silence. "
                f"Put the same poutine.scale around both sites"
            )
    if all(not s["is_observed"] for s in model.values()):
        raise UsageError(
            f"the model observes nothing: none of its sites {_list(list(model))} has obs=. Give "
            f"the data to one, e.g. pyro.sample('x', p_x, obs=x)"
        )


def _shapes(sites: dict[str, Any], names: Sequence[str]) -> str:
    return _list([f"{n} {list(sites[n]['value'].shape)}" for n in names])


def _same(a: Any, b: Any) -> bool:
    return bool(torch.equal(torch.as_tensor(a).float(), torch.as_tensor(b).float()))


class Supports:
    """The supports of the sites that observe the data as they are.

    Attributes:
        covered: whether these are all the observed sites.
    """

    def __init__(self, pair: Pair, args: Args) -> None:
        self.covered = True
        self.found: list[tuple[Any, int, Any, tuple[float, ...]]] = []
        sites: list[Any] = []
        try:
            with pyro.validation_enabled(False), pair.scope():
                sites += _sites(_run(pair, args)[0]).values()
        except FAILURES:
            self.covered = False  # check says what is wrong with the programs
        for site in sites:
            given = {**site, "value": site["infer"].get("_observed", site["value"])}
            where = _argument(given, args)
            if site["is_observed"] and where is not None:
                support = supports.bare(site["fn"])
                edges = supports.dividing_edges(site["fn"], site["value"])
                self.found.append((site, where, support, edges))
            else:
                self.covered = self.covered and not site["is_observed"]

    def check(self, data: Data) -> Data:
        """The same data, checked: now where they are in memory, else as they are served.

        Raises:
            UsageError: data outside a support, with their range and what would fit.
        """
        return data.checked(lambda batch: self.inspect(batch, data if data.in_memory else None))

    def inspect(self, batch: Args, data: Data | None = None) -> None:
        """Refuse a batch, of these ``data``, with entries outside a support."""
        for site, where, support, edges in self.found:
            value = batch[where]
            try:
                inside = support.check(value)
            except (RuntimeError, AttributeError):  # or none is declared
                self.covered = False
                continue  # a support that differs from datum to datum is checked as it is used
            if inside.shape == value.shape:
                inside = inside | value.isnan()  # what is missing lies in every support
            if not bool(inside.all()):
                seen = (TensorData(batch[0]) if data is None else data).summary()
                raise UsageError(_outside(site, support, value, inside, seen))
            for edge in edges:
                if count := int((value == edge).sum()):
                    raise UsageError(
                        f"{count} entries are {edge:g}, where the density of site "
                        f"{site['name']!r}, a {type(entries(site['fn'])).__name__}, is 0 or "
                        f"infinite: move them off the edge if they are rounded (clamp), write NaN "
                        f"if they are missing, or choose a distribution that holds them"
                    )


PADDING = -100  # torch's ignore_index


def _outside(site: Any, support: Any, value: Tensor, inside: Tensor, seen: Summary) -> str:
    """What the site takes, what the data are, and which likelihoods hold such data."""
    fn, where = site["fn"], ""
    fn = entries(fn)
    if isinstance(fn, Columns):
        column = int((~inside).reshape(-1, inside.shape[-1]).any(0).nonzero()[0])
        fn, support = fn.columns[column], support.cseq[column]
        where, value = f" of column {column}", value[..., column]
        if column < len(seen.columns):
            seen = seen.columns[column]
        fn = entries(fn)
    known = value[~value.isnan()]
    low, high = float(known.min()), float(known.max())
    words = (
        f"the data do not lie in the support of site {site['name']!r}: {type(fn).__name__} takes "
        f"{supports.in_words(support)}, the data{where} range from {low:.4g} to {high:.4g}"
    )
    names = [name for name in advice(seen) if name not in ("Mixed", "Normal", type(fn).__name__)]
    fitting = f"{', '.join([*names, 'or'])} " * bool(names) + (
        "Normal, for any real numbers"
        if where
        else "Normal, for any real numbers (--likelihood Normal); pyrovae info --data says why each"
    )
    if low == PADDING and bool(getattr(support, "is_discrete", False)):
        return (
            f"{words}. {PADDING} marks padding for PyTorch's losses and is no value: write NaN "
            f"there, which is missing (x.float().masked_fill(x == {PADDING}, float('nan')))"
        )
    if low >= 0 and high <= 1 and not seen.binary:
        return (
            f"{words} with values between, such as grey pixels. Binarise them "
            f"(data.binarised('dynamic'), --binarise dynamic), or choose a likelihood that holds "
            f"them: {fitting}"
        )
    return f"{words}. Choose a likelihood that holds them{where and ' there'}: {fitting}"


def _frames(*traces: dict[str, Any]) -> dict[str, Any]:
    return {
        frame.name: frame
        for trace in traces
        for site in trace.values()
        for frame in site["cond_indep_stack"]
        if frame.vectorized
    }


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


def _rescaled(site: Any, frame: Any) -> bool:
    by_plate = 1.0
    if frame.full_size and _within(site, frame.name):
        by_plate = frame.full_size / frame.size
    return not _same(site["scale"], by_plate)


def _probe_particles(pair: Pair, args: Args, found: Structure) -> Structure:
    """Whether two particles drawn at once give what each gives alone, and what a row costs."""
    size = len(args[0])
    try:
        with _Allocations() as allocations:
            model_trace, guide_trace = _run(pair, args, 2, found.nesting, found.enumerated)
            together = _measure(model_trace, guide_trace, found, 2)
        for k in () if found.enumerated else range(2):  # enumerating is broadcasting already
            one = _slice(guide_trace, k, k + 1, found)
            alone = _measure(_replay(pair.model, one, args), _replay(pair.guide, one, args), found)
            pairs = [(together.elbo[k], alone.elbo[0]), (together.log_joint[k], alone.log_joint[0])]
            if not all(torch.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in pairs):
                raise ValueError("particles influence each other")
        # what a particle more takes: a prior made of a guide's answers has costs of its own
        with _Allocations() as more:
            _measure(*_run(pair, args, 4, found.nesting, found.enumerated), found, 4)
        row = max(1, (more.total - allocations.total) // (2 * size))
        return dataclasses.replace(found, row_bytes=row)
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


def parameters(pair: Any, args: Args) -> dict[str, Tensor]:
    """The leaves that the pair's log probabilities depend on, by name, in a fixed order.

    Found by walking the autograd graph of one run, so that a module that neither program
    registered is trained all the same.

    Raises:
        UsageError: no parameter at all.
    """
    pair = as_pair(pair)
    with pair.evaluating(), torch.enable_grad():  # evaluating, lest buffers move
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
    order = list(names)
    leaves.sort(key=lambda leaf: order.index(id(leaf)) if id(leaf) in names else len(order))
    return {names.get(id(leaf), f"parameter_{k}"): leaf for k, leaf in enumerate(leaves)}


def unreached(pair: Any, reached: dict[str, Tensor]) -> list[str]:
    """Names of trainable parameters of the pair's modules that no log probability depends on."""
    known = {id(leaf) for leaf in reached.values()}
    return [
        name
        for name, tensor in as_pair(pair).tensors().items()
        if tensor.requires_grad and id(tensor) not in known
    ]
