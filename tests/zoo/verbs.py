"""Every verb on a program of the zoo, and what its answer must be."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import torch
from safetensors.torch import load_file
from torch import Tensor

import pyrovae as pv
from pyrovae.explorer.view import View
from zoo.cases import Case, Subject, argument, length, select, tiled
from zoo.totals import Estimate, Hand, pyro_loss, store, traced

Z = 4.5  # standard errors; thousands of numbers are compared
PARTICLES = 100
DRAWS = 128


def paired(case: Case) -> tuple[Subject, Any]:
    subject = Subject(case)
    return subject, pv.Pair(subject.model, subject.guide)


def runs(case: Case) -> int:
    if not case.latents and not case.globals:
        return 2  # nothing is drawn
    return 400 if case.rows and case.tiles and not case.globals else 150


@functools.cache
def hand_elbo(case: Case) -> Estimate:
    return Hand(Subject(case)).elbo(runs(case))


@functools.cache
def hand_weights(case: Case) -> Estimate:
    return Hand(Subject(case)).log_weights(runs(case))


@functools.cache
def hand_codes(case: Case) -> dict[str, Estimate]:
    return Hand(Subject(case)).codes(runs(case))


@functools.cache
def hand_loss(case: Case) -> Estimate:
    return pyro_loss(case, 40)


def near(found: Tensor, mean: Tensor, error: Tensor | float, what: str) -> None:
    """Within Z standard errors and what float32 rounds."""
    found, mean = found.double(), mean.double()
    assert found.shape == mean.shape, f"{what}: {list(found.shape)} for {list(mean.shape)}"
    assert bool(found.isfinite().all()), f"{what} is not finite"
    far = (found - mean).abs() / (Z * torch.as_tensor(error) + 2e-4 * (1 + mean.abs()))
    k = int(far.argmax())
    assert bool((far <= 1).all()), (
        f"{what}: {float(found.flatten()[k]):.5g} for {float(mean.flatten()[k]):.5g} by hand, "
        f"{float(far.max()) * Z:.1f} standard errors"
    )


def agrees(found: Tensor, hand: Estimate, particles: int, what: str) -> None:
    """Per datum, and in total, which many data tell more exactly."""
    both = math.sqrt(1 / particles + 1 / len(hand.values))
    near(found, hand.mean, hand.sd * both, what)
    total = Estimate(hand.values.double().flatten(1).sum(1))
    near(found.double().sum(), total.mean, total.sd * both, f"{what}, in total")


def named(found: Any, names: Any) -> dict[str, Tensor]:
    """A verb's answer by site: it gives a tensor where there is one."""
    names = list(names)
    found = found if isinstance(found, dict) else dict(zip(names, [found], strict=True))
    assert set(found) == set(names), f"sites {sorted(found)} for {sorted(names)}"
    return found


def fixed(case: Case) -> bool:
    """Whether codes are no average over particles."""
    return all(float(e.sd.max()) < 1e-6 for e in hand_codes(case).values())


def fit(case: Case, path: Path) -> None:
    """Pyro's loss per datum to begin with, and a lower one in the end."""
    subject, pair = paired(case)
    n, hand = len(subject), hand_loss(case)
    history = pv.fit(
        pair, subject.data, epochs=8, batch_size=n, lr=1e-9, device="cpu", progress=False
    )
    losses = torch.tensor([row["loss"] for row in history.rows], dtype=torch.float64)
    both = math.sqrt(1 / len(losses) + 1 / len(hand.values))
    near(losses.mean()[None], hand.mean, hand.sd * both, "loss at the start")
    subject, pair = paired(case)
    history = pv.fit(
        pair, subject.data, epochs=30, batch_size=n, lr=case.lr, device="cpu", progress=False
    )
    losses = torch.tensor([row["loss"] for row in history.rows], dtype=torch.float64)
    last, start = losses[-5:].mean(), float(hand.mean)
    slack = 0.0 if case.falls else Z * float(hand.sd) / math.sqrt(5) + 1e-3
    assert last < start + slack, f"the loss went from {start:.4f} to {float(last):.4f}"


def batches(case: Case, path: Path) -> None:
    """The mean loss per datum of batches is that of all the data."""
    subject, pair = paired(case)
    size, hand = (len(subject) + 1) // 2, hand_loss(case)
    history = pv.fit(
        pair,
        subject.data,
        epochs=16 if case.globals else 8,  # their noise is not less with more data
        batch_size=size,
        lr=1e-9,
        device="cpu",
        progress=False,
    )
    losses = torch.tensor([row["loss"] for row in history.rows], dtype=torch.float64)
    both = math.sqrt(1 / len(losses) + 1 / len(hand.values))
    if case.separable:
        sd = torch.maximum(hand.sd, losses.std())  # an exact guide is without noise on all data
        near(losses.mean()[None], hand.mean, sd * both, "loss in batches")
    assert bool(losses.isfinite().all())


def _how(case: Case, subject: Subject) -> dict[str, Any]:
    size = (len(subject) + 1) // 2 if case.rows and not case.globals else len(subject)
    return {"batch_size": size, "lr": case.lr, "device": "cpu", "progress": False}


def resume(case: Case, path: Path) -> None:
    """One epoch and then, in a pair made anew, two more are three."""
    for out, stops in (("whole", [3]), ("parts", [1, 3])):
        for epochs in stops:
            subject, pair = paired(case)
            how = _how(case, subject)
            how |= {"out": path / out, "resume": epochs != stops[0]}
            pv.fit(pair, subject.data, epochs=epochs, **how)
    whole, parts = (load_file(path / out / "model.safetensors") for out in ("whole", "parts"))
    assert whole.keys() == parts.keys(), f"{sorted(parts)} for {sorted(whole)}"
    for name, value in whole.items():
        assert torch.allclose(value, parts[name], atol=1e-6), f"{name} differs after resuming"


def save_load(case: Case, path: Path) -> None:
    """The ELBO of a trained pair, and of another one filled from its file."""
    subject, pair = paired(case)
    pv.fit(pair, subject.data, epochs=3, **_how(case, subject))
    before = _measure(subject, pair)
    pv.save(pair, path / "pair.safetensors")
    again, other = paired(case)
    untrained = _measure(again, other)
    again, other = paired(case)
    pv.load(path / "pair.safetensors", into=other)
    after = _measure(again, other)
    assert not torch.allclose(before, untrained, rtol=1e-5), "training moved nothing"
    worst = float((after - before).abs().max())
    assert torch.allclose(after, before, rtol=1e-6, atol=1e-6), f"ELBO off by {worst:.4g} nats"


def _measure(subject: Subject, pair: Any) -> Tensor:
    """The ELBO per datum; Pyro's of all data where a datum has none."""
    if "elbo" not in subject.case.unanswerable:
        return pv.elbo(pair, subject.data, 3, seed=1)
    torch.manual_seed(1)
    args = subject.case.arguments(subject.whole)
    return torch.tensor(subject.case.loss().loss(pair.model, pair.guide, *args[0], **args[1]))


def elbo(case: Case, path: Path) -> None:
    subject, pair = paired(case)
    agrees(pv.elbo(pair, subject.data, PARTICLES), hand_elbo(case), PARTICLES, "ELBO")


def log_evidence(case: Case, path: Path) -> None:
    """The guide's importance weights, on every row; the closed form within their error."""
    subject, pair = paired(case)
    _evidence(case, pv.log_evidence(pair, subject.data, 400), 400)


def _evidence(case: Case, found: Tensor, particles: int) -> None:
    mean, error = hand_weights(case).log_mean()
    k = len(hand_weights(case).values)
    near(found, mean, error * math.sqrt(1 + k / particles), "log evidence")
    if case.exact is not None:
        exact = case.exact(Subject(case).whole)
        near(found, exact, error * math.sqrt(k / particles), "log evidence against closed form")


def evaluate(case: Case, path: Path) -> None:
    subject, pair = paired(case)
    found = pv.evaluate(pair, subject.data, PARTICLES)
    agrees(found.elbo, hand_elbo(case), PARTICLES, "ELBO")
    spread = hand_elbo(case).sd
    if not case.enumerated:
        kl = Hand(Subject(case)).kl(runs(case))
        agrees(found.kl, kl, PARTICLES, "KL")
        spread = kl.sd  # what separates its closed form from the particles
    error = 1.5 * spread / math.sqrt(PARTICLES)  # log q - log p has the longer tails
    near(found.reconstruction - found.kl, found.elbo, error, "reconstruction less KL")
    if not case.globals:
        _evidence(case, found.log_evidence, PARTICLES)
    assert found.codes.keys() == set(subject.sites), f"codes of {sorted(found.codes)}"


def gap(case: Case, path: Path) -> None:
    """The guide as it is, refined, and the evidence, in this order."""
    subject, pair = paired(case)
    index = torch.arange(len(subject) if not case.rows else 4)
    found = pv.gap(pair, subject.rows(index), 400, refine_particles=16, steps=15)
    hand = hand_elbo(case)
    agrees(found.elbo, Estimate(hand.values[:, : len(index)]), 400, "ELBO")
    mean, error = hand_weights(case).log_mean()
    evidence = mean[index] if case.exact is None else case.exact(subject.whole)[index]
    near(found.log_evidence, evidence, 2 * error[index], "log evidence")
    assert bool((found.refined >= found.elbo).all()), "refined below the ELBO"
    above = found.refined - evidence - Z * 2 * error[index]
    assert float(above.max()) < 0.1, "refined above the evidence"


def exact_log_evidence(case: Case, path: Path) -> None:
    subject, pair = paired(case)
    found = pv.exact_log_evidence(pair, subject.data)
    mean, error = hand_weights(case).log_mean()
    if case.exact is not None:
        mean, error = case.exact(subject.whole), torch.zeros(())
    near(found, mean, error, "exact log evidence")


def calibrate(case: Case, path: Path) -> None:
    """Ranks of simulated latents, as often below the guide's draws as by hand."""
    subject, pair = paired(case)
    found = pv.calibrate(pair, subject.whole, simulations=200, draws=19, bins=5)
    hand = Hand(Subject(case))
    ranks = _ranks(case, hand, 400, 19)
    assert found.ranks.shape == (200, ranks.shape[1]), f"ranks of {found.names}"
    assert int(found.ranks.min()) >= 0 and int(found.ranks.max()) <= 19
    below, theirs = found.ranks.double(), ranks.double()
    error = (below.var(0) / len(below) + theirs.var(0) / len(theirs)).sqrt()
    near(below.mean(0), theirs.mean(0), error, "mean rank")
    if case.exact_guide:
        assert float(found.p_values.min()) > 1e-5, f"an exact guide is not calibrated: {found}"


def _ranks(case: Case, hand: Hand, simulations: int, draws: int) -> Tensor:
    """[simulations, dims]: how many of the guide's draws lie below the latents that made x."""
    subject, n, parts = hand.subject, len(hand.subject), []
    while sum(map(len, parts)) < simulations:
        if not case.rows:
            index = torch.arange(n)
        elif not case.tiles:
            index = torch.randperm(n)[: (n + 1) // 2]
        else:
            index = torch.randint(n, (simulations,))
        args = case.arguments(select(subject.whole, index))
        parts.append(_ranks_of(case, hand, args, len(index), draws))
    return torch.cat(parts)


def _ranks_of(case: Case, hand: Hand, args: Any, n: int, draws: int) -> Tensor:
    model = hand.drawn(args)
    simulated = hand.put(args, model)
    below: Any = 0
    for _ in range(draws):
        guide = traced(hand.subject.guide, simulated)
        less = [guide[name]["value"] < model[name]["value"] for name in hand.subject.sites]
        below = below + torch.cat([each.reshape(n, -1) for each in less], 1)
    return below


def _statistic(x: Tensor) -> Tensor:
    return x.double().nan_to_num(0.0).pow(2).mean()


def predictive_check(case: Case, path: Path) -> None:
    """The statistic of the data, and its mean over replicated data: of the one argument that is
    observed, whole or in parts."""
    subject, pair = paired(case)
    found = pv.predictive_check(pair, subject.data, _statistic, replicates=20)
    (where,) = case.sources
    hand = Hand(Subject(case))
    args = case.arguments(hand.data)
    near(
        torch.tensor(found.observed),
        _statistic(argument(args, where)),
        0.0,
        "the data's statistic",
    )
    values = []
    for _ in range(24):
        values.append(_statistic(argument(hand.put(args, hand.draw_at(args)), where)))
    theirs = Estimate(torch.stack(values))
    near(
        found.replicated.double().mean(),
        theirs.mean,
        theirs.sd * math.sqrt(1 / 20 + 1 / 24),
        "replicated statistic",
    )


def sample(case: Case, path: Path) -> None:
    """First and second moments of the prior predictive."""
    subject, pair = paired(case)
    times = max(2, 600 // len(subject))
    n = times * len(subject)
    drawn = pv.sample(pair, n, like=subject.whole)
    hand = Hand(Subject(case))
    sites: dict[str, list[Tensor]] = {}
    for _ in range(4 if case.tiles and case.rows and not case.globals else 4 * times):
        wide = case.tiles and case.rows and not case.globals
        data = tiled(hand.data, times) if wide else hand.data
        model = hand.drawn(case.arguments(data))
        for name in case.observed:
            value = hand.first(model[name], model[name]["value"])
            sites.setdefault(name, []).append(value)
    for name, value in named(drawn, sites).items():
        theirs = torch.cat(sites[name]).double()
        assert value.shape == (n, *theirs.shape[1:]), f"{name}: {list(value.shape)}"
        if case.globals:
            continue  # one draw of a global makes all data alike: moments have no n draws
        for power in (1, 2):
            ours, by_hand = value.double() ** power, theirs**power
            error = (by_hand.var(0) * (1 / n + 1 / len(by_hand))).sqrt()
            near(ours.mean(0), by_hand.mean(0), error, f"moment {power} of {name}")


def encode(case: Case, path: Path) -> None:
    """The guide's mean; where that takes draws, at least sixteen of them."""
    subject, pair = paired(case)
    found = named(pv.encode(pair, subject.data), subject.sites)
    for name, hand in hand_codes(case).items():
        near(found[name], hand.mean, hand.sd * math.sqrt(1 / 16 + 1 / len(hand.values)), name)


def decode(case: Case, path: Path) -> None:
    """E[x|z] at a draw of all latents from the guide."""
    subject, pair = paired(case)
    hand = Hand(Subject(case))
    args = case.arguments(hand.data)
    latents, model = hand.draw(), hand.chosen(args)
    given = {n: hand.first(model[n], v) for n, v in latents.items()}
    one = next(iter(given.values())) if len(given) == 1 else given
    found = named(pv.decode(pair, one, like=subject.whole), case.observed)
    for name, mean in hand.predicted(args, latents).items():
        near(found[name], mean, 0.0, f"E[{name}|z]")


def reconstruct(case: Case, path: Path) -> None:
    subject, pair = paired(case)
    found = named(pv.reconstruct(pair, subject.data, num_particles=DRAWS), case.observed)
    for name, hand in Hand(Subject(case)).reconstruction(max(2, runs(case) // 2)).items():
        if hand.classes is not None:  # the one of most weight
            assert found[name].shape == hand.mean.shape
            assert bool(torch.isin(found[name].double(), hand.classes).all()), f"no class of {name}"
            continue
        near(found[name], hand.mean, hand.error_of(DRAWS, Z), name)


def interpolate(case: Case, path: Path) -> None:
    """From E[x|z] at the codes of some data to that at the codes of others."""
    subject, pair = paired(case)
    index = [torch.arange(3) + 3 * k if case.rows else torch.arange(len(subject)) for k in (0, 1)]
    ends = [subject.rows(i) for i in index]
    hand = Hand(Subject(case), ends[0])
    whole = hand.predicted(case.arguments(hand.data), hand.draw())
    found = named(pv.interpolate(pair, *ends, 4), whole)
    for name, value in found.items():
        shape = (len(index[0]), 4, *whole[name].shape[1:])
        assert value.shape == shape, f"{name}: {list(value.shape)} for {list(shape)}"
        assert bool(value.isfinite().all())
    if not fixed(case) or case.globals or case.discrete or case.enumerated or not case.separable:
        return
    # one batch of both ends, as the path is: a program may look at the others in its batch
    both = torch.cat(index).unique()
    part = Hand(Subject(case), subject.rows(both))
    codes = {name: e.values[0][both] for name, e in hand_codes(case).items()}
    for name, mean in part.predicted_at(codes).items():
        for k, step in ((0, 0), (1, 3)):
            near(found[name][:, step], mean[index[k]], 0.0, f"end {k} of the path of {name}")


def traverse(case: Case, path: Path) -> None:
    """E[x|z] around the code of the first datum, one unit varied at a time."""
    subject, pair = paired(case)
    shown, dims, values = pv.traverse(pair, subject.data, steps=5)
    shown = named(shown, case.observed) if isinstance(shown, dict) else {"": shown}
    units = sum(math.prod(e.values.shape[2:]) for e in hand_codes(case).values())
    assert len(set(dims)) == len(dims) and set(dims) <= set(range(units)) and len(values) == 5
    for value in shown.values():
        assert value.shape[:2] == (len(dims), 5) and bool(value.isfinite().all())
    if not fixed(case) or len(subject.sites) != 1 or case.discrete or case.enumerated:
        return
    if case.globals:
        return
    (name,) = subject.sites
    code = hand_codes(case)[name].values[0][:1]
    latents = code.reshape(1, -1).repeat(len(dims) * 5, 1)
    for row, dim in enumerate(dims):
        latents[5 * row : 5 * row + 5, dim] = values
    by_hand = _around(case, subject, name, latents.reshape(-1, *code.shape[1:]))
    if "" in shown:  # of several observed sites, one
        sizes = {site: mean.shape for site, mean in by_hand.items()}
        alike = [s for s, size in sizes.items() if size[1:] == shown[""].shape[2:]]
        assert alike, f"{list(shown[''].shape)} is none of {sizes}"
        shown = {alike[0]: shown[""]}
    for site, value in shown.items():
        near(value.flatten(0, 1), by_hand[site], 0.0, f"{site} along the units")


def _around(case: Case, subject: Subject, name: str, latents: Tensor) -> dict[str, Tensor]:
    """E[x|z] of the first datum at values of a latent ``[n, ...]``; of programs that take all rows
    alone, as many of them at a time."""
    size = len(latents) if case.rows else len(subject)
    hand = Hand(Subject(case), subject.rows(torch.zeros(size, dtype=torch.long)))
    parts = []
    for some in latents.split(size):
        full = torch.cat([some, some[-1:].expand(size - len(some), *some.shape[1:])])
        means = hand.predicted_at({name: full})
        parts.append({site: mean[: len(some)] for site, mean in means.items()})
    return {site: torch.cat([part[site] for part in parts]) for site in parts[0]}


def impute(case: Case, path: Path) -> None:
    """Hidden entries are E[x_hidden | x_known]; known ones stay."""
    subject, pair = paired(case)
    rows = subject.whole if not case.rows else subject.rows(torch.arange(4))
    hide = case.hide if case.hide is not None else next(iter(case.sources))
    x = argument(case.arguments(rows), hide)
    x = x if x.is_floating_point() else x.float()
    flat = x.reshape(len(x), -1)
    missing = torch.zeros(flat.shape, dtype=torch.bool)
    missing[torch.arange(len(flat)), torch.arange(len(flat)) % flat.shape[1]] = True
    missing = (missing & ~flat.isnan()).reshape(x.shape)
    found = pv.impute(pair, _with(rows, hide, x.masked_fill(missing, math.nan)), num_particles=500)
    if isinstance(found, tuple | dict):  # several observed sites
        found = found[hide]
    assert found.shape == x.shape, f"{list(found.shape)} for {list(x.shape)}"
    assert not bool(found.isnan().any()), "entries are still missing"
    assert torch.equal(found[~missing], x[~missing]), "known entries have changed"
    if case.globals:
        return
    hand = Hand(Subject(case), _with(rows, hide, x.masked_fill(missing, 0.0)))
    mean, error = hand.completed(hide, missing, 500)
    assert bool(error[missing].isfinite().any()), "nothing to compare with"
    near(found[missing], mean[missing], math.sqrt(2) * error[missing], "hidden entries")


def _with(rows: Any, where: int | str, value: Tensor) -> Any:
    """The data with another argument in the place of one."""
    if isinstance(rows, dict):
        return {**rows, where: value}
    if isinstance(rows, Tensor):
        return value
    return type(rows)(value if k == where else part for k, part in enumerate(rows))


def neighbours(case: Case, path: Path) -> None:
    subject, pair = paired(case)
    few = subject.rows(torch.arange(3)) if case.rows else subject.whole
    index, distance = pv.neighbours(pair, few, subject.data, k=2)
    assert index.shape == distance.shape == (length(few), 2), "shapes of neighbours"
    if fixed(case):
        each = [e.values[0] for e in hand_codes(case).values()]
        codes = torch.cat([code.reshape(len(code), -1) for code in each], 1)
        exact = torch.cdist(codes[: length(few)], codes).topk(2, largest=False).values
        near(distance, exact, 1e-3, "distance of codes")


def fit_codes(case: Case, path: Path) -> None:
    """A density with the mean and spread of draws from q(z|x)."""
    subject, pair = paired(case)
    found = pv.fit_codes(pair, subject.data, components=2)
    assert bool(found.gain.isfinite().all())
    hand = Hand(Subject(case))
    drawn = []
    for args, _ in hand.batches(runs(case)):
        guide = traced(hand.subject.guide, args)
        drawn.append(
            torch.cat([guide[n]["value"].reshape(-1, *_units(guide[n])) for n in subject.sites], 1)
        )
    theirs = torch.cat(drawn).double()
    ours = found.codes(400).double()
    assert ours.shape[1] == theirs.shape[1]
    spread = theirs.std(0)
    near(ours.mean(0), theirs.mean(0), spread * math.sqrt(2 / len(subject)), "mean code")
    assert bool((ours.std(0) / spread).log().abs().max() < math.log(2.5)), "spread of the codes"
    assert found.sample(3, like=subject.whole) is not None


def _units(site: Any) -> tuple[int]:
    fn, value = site["fn"], site["value"]
    return (math.prod(value.shape[value.dim() - fn.event_dim :]) if fn.event_dim else 1,)


def explore(case: Case, path: Path) -> None:
    """What the page asks: units, codes, a decoded point, a datum's numbers."""
    subject, pair = paired(case)
    view = View(pair, subject.data)
    by_hand = hand_codes(case)
    rows = len(view.data)
    codes = torch.cat([by_hand[n].mean.reshape(rows, -1) for n in view.sites], 1)
    sd = torch.cat([by_hand[n].sd.reshape(rows, -1) for n in view.sites], 1)
    assert len(view.about()["units"]) == codes.shape[1], f"units of {list(view.sites)}"
    near(view.codes, codes, sd * math.sqrt(1 / 16), "codes")
    assert all(math.isfinite(v) for v in view.decode(view.codes[0].tolist())["x"][0])
    assert view.grid(3) and view.path(0, 1, 3) and view.samples(2)
    found = view.datum(0)["numbers"]["elbo"]
    hand = hand_elbo(case)
    error = hand.sd[0] * math.sqrt(1 / 1000 + 1 / len(hand.values))
    if not case.globals:
        near(torch.tensor(found), hand.mean[0], error, "a datum's ELBO")


def sketch(case: Case, path: Path) -> None:
    """The sites of both programs, which of them are given, and their shapes."""
    subject, pair = paired(case)
    found = pv.sketch(pair, subject.data)
    hand = Hand(Subject(case))
    guide, model = hand.run(case.arguments(hand.data))
    for program, sites in (("model", model), ("guide", guide)):
        seen = {site.name: site for site in found.of(program)}
        own = {n: s for n, s in sites.items() if type(s["fn"]).__name__ != "Unit"}
        assert set(own) <= set(seen), f"{program}: {sorted(seen)} for {sorted(own)}"
        for name, site in own.items():
            given = site["is_observed"] and not (program == "guide" and name in case.enumerated)
            assert seen[name].observed == given, name
            assert tuple(seen[name].event_shape) == tuple(site["fn"].event_shape), name


def _optimise(case: Case, svi: Any, steps: int) -> tuple[Subject, list[float], dict[str, Tensor]]:
    subject = Subject(case)
    args = case.arguments(subject.whole)
    made = svi(subject.model, subject.guide, pyro.optim.Adam({"lr": 1e-3}), case.loss())
    losses = []
    for step in range(steps):
        torch.manual_seed(step)
        losses.append(float(made.step(*args[0], **args[1])))
    return subject, losses, store()


def svi_step(case: Case, path: Path) -> None:
    """pv.SVI's losses and parameters are Pyro's, on the same noise."""
    _, theirs, last = _optimise(case, pyro.infer.SVI, 3)
    _, ours, own = _optimise(case, functools.partial(pv.SVI, compile="auto"), 3)
    near(torch.tensor(ours), torch.tensor(theirs), 0.0, "losses of pv.SVI")
    for name, value in last.items():
        assert name in own and torch.allclose(own[name], value, atol=1e-4), f"{name} differs"


def pyro_svi(case: Case, path: Path) -> None:
    """Trained by pyro.infer.SVI, measured where its parameters are."""
    subject = Subject(case)
    args = case.arguments(subject.whole)
    pair = pv.Pair.here(subject.model, subject.guide)
    svi = pyro.infer.SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": case.lr}), case.loss())
    svi.step(*args[0], **args[1])
    before = store()
    for _ in range(5):
        svi.step(*args[0], **args[1])
    after = store()
    assert any(not torch.equal(after[n], v) for n, v in before.items()), "nothing was trained"
    hand = Hand(subject).elbo(max(2, runs(case) // 2))
    agrees(pv.elbo(pair, subject.data, PARTICLES), hand, PARTICLES, "ELBO")


VERBS: dict[str, Callable[[Case, Path], None]] = {
    verb.__name__: verb
    for verb in (
        fit, batches, resume, save_load, svi_step, pyro_svi, evaluate, elbo, log_evidence,
        exact_log_evidence, gap, calibrate, predictive_check, sample, encode, decode, reconstruct,
        interpolate, traverse, impute, neighbours, fit_codes, explore, sketch,
    )
}  # fmt: skip
