"""One contract for the structured programs, one row for each."""

from __future__ import annotations

import copy
import functools
import inspect
import json
import os
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_origin

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pyrovae as pv
from pyrovae import cli, components, guides, likelihoods, networks, objectives, programs
from pyrovae.program import Program
from pyrovae.tensors import TensorData

SMALL = networks.MLP([16])
EVENT, CLASSES = (1, 4, 4), 3


def images() -> TensorData:
    """60 labelled binary images of three patterns."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % CLASSES
    shapes = torch.rand(CLASSES, *EVENT, generator=generator).round() * 0.8 + 0.1
    return TensorData(torch.bernoulli(shapes[labels], generator=generator), labels=labels)


@dataclass
class Row:
    """A small program, data as they are loaded, and the parts of a copy of the program that is
    made without pyrovae: what its model and guide look for in ``self``."""

    make: Callable[[], Program]
    data: Callable[[], TensorData]
    plain: Callable[[], SimpleNamespace]


def bernoulli(*sizes: int) -> Callable[..., dist.TorchDistribution]:
    """p(x|contexts) of torch and pyro alone, as one would write it in a notebook."""
    body = nn.Linear(sum(sizes), 16)

    def forward(*contexts: Tensor) -> dist.TorchDistribution:
        batch = torch.broadcast_shapes(*(c.shape[:-1] for c in contexts))
        h = torch.cat([c.expand(*batch, c.shape[-1]) for c in contexts], -1)
        return dist.Bernoulli(logits=body(h).unflatten(-1, EVENT)).to_event(3)

    return forward


def normal(*sizes: int, out: int) -> Callable[..., dist.TorchDistribution]:
    """q(z|contexts) of torch and pyro alone; images are flattened."""
    body = nn.Linear(sum(sizes), 2 * out)

    def forward(*contexts: Tensor) -> dist.TorchDistribution:
        flat = [c.flatten(-3) if c.shape[-3:] == EVENT else c for c in contexts]
        batch = torch.broadcast_shapes(*(c.shape[:-1] for c in flat))
        h = torch.cat([c.expand(*batch, c.shape[-1]) for c in flat], -1)
        loc, raw = body(h).chunk(2, -1)
        return dist.Normal(loc, F.softplus(raw)).to_event(1)

    forward.enumerate = False
    return forward


def as_it_is(x: Tensor) -> Tensor:
    return x


def plain(**attributes: object) -> SimpleNamespace:
    """What a program's model and guide need of it, of torch and pyro alone."""
    return SimpleNamespace(features=as_it_is, marks=as_it_is, **attributes)


def parts() -> dict[str, object]:
    """A likelihood and a guide of small networks."""
    return {"likelihood": likelihoods.Bernoulli(SMALL), "guide": guides.MeanField(SMALL)}


def prior(size: int) -> Callable[[], dist.TorchDistribution]:
    return lambda: dist.Normal(torch.zeros(size), 1.0).to_event(1)


def several(*outs: int) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """A network with several outputs."""
    body = nn.LazyLinear(sum(outs))
    return lambda x: body(x.flatten(1)).split(outs, -1)


def with_gaps(data: TensorData) -> TensorData:
    """The same data without a quarter of their entries."""
    gone = torch.rand(data.x.shape, generator=torch.Generator().manual_seed(1)) < 0.25
    return TensorData(data.x.masked_fill(gone, torch.nan), labels=data.labels)


def table() -> TensorData:
    """The images as rows of real numbers."""
    noise = torch.randn(60, 16, generator=torch.Generator().manual_seed(2)) / 10
    return TensorData(images().x.flatten(1) + noise)


def documents() -> TensorData:
    """Counts of the words of a vocabulary, one topic to a document."""
    generator = torch.Generator().manual_seed(3)
    topics = torch.rand(CLASSES, 12, generator=generator).square()
    return TensorData(torch.poisson(9 * topics.repeat(20, 1), generator=generator))


def series() -> TensorData:
    """The images' rows as series of three steps, some of which end early."""
    x = table().x.unflatten(1, (4, 4))[:, :3].clone()
    x[::4, 2] = torch.nan
    return TensorData(x)


def recurrent(size: int, hidden: int) -> Callable[[Tensor], Tensor]:
    """States of a network that runs over the steps."""
    body = nn.GRU(size, hidden, batch_first=True)
    return lambda x: body(x)[0]


def classes_of(size: int) -> Callable[[Tensor], dist.TorchDistribution]:
    """p(y|z), y [N, 1] a class."""
    body = nn.Linear(size, CLASSES)
    return lambda z: dist.Categorical(logits=body(z)[..., None, :]).to_event(1)


def codes(count: int, categories: int) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """A network with the logits of several codes."""
    flat = several(count * categories)
    return lambda x: (flat(x)[0].unflatten(-1, (count, categories)),)


ROWS: dict[str, Row] = {
    "VAE": Row(
        lambda: pv.VAE(EVENT, 2, **parts()),
        images,
        lambda: plain(
            prior=prior(2),
            likelihood=bernoulli(2),
            posterior=normal(16, out=2),
            _fits=lambda x: None,
        ),
    ),
    "Conditional": Row(
        lambda: programs.Conditional(EVENT, CLASSES, 2, **parts()),
        images,
        lambda: plain(
            one_hot=lambda y: F.one_hot(y, CLASSES).float(),
            prior=prior(2),
            likelihood=bernoulli(2, CLASSES),
            posterior=normal(16, CLASSES, out=2),
        ),
    ),
    "SemiSupervised": Row(
        lambda: programs.SemiSupervised(
            EVENT, CLASSES, 2, classifier=SMALL, labels=6, share=0.2, **parts()
        ),
        images,
        lambda: plain(
            one_hot=lambda y: F.one_hot(y, CLASSES).float(),
            training=True,
            alpha=1.0,
            even=torch.zeros(CLASSES),
            zeros=torch.zeros(2),
            logits=several(CLASSES),
            likelihood=bernoulli(2, CLASSES),
            posterior=normal(16, CLASSES, out=2),
        ),
    ),
    "GaussianMixture": Row(
        lambda: programs.GaussianMixture(EVENT, 4, 2, pretraining=2, **parts()),
        images,
        lambda: plain(
            logits=torch.zeros(4),
            loc=torch.randn(4, 2),
            scale_tril=lambda: torch.eye(2).expand(4, 2, 2),
            likelihood=bernoulli(2),
            posterior=normal(16, out=2),
        ),
    ),
    "Hierarchical": Row(
        lambda: programs.Hierarchical(
            EVENT, [3, 2], likelihood=likelihoods.Bernoulli(SMALL), network=SMALL, skip=True
        ),
        images,
        lambda: plain(
            names=["z1", "z2"],
            order="ladder",
            prior=prior(2),
            down=[normal(2, out=3)],
            up=[several(5, 3, 3), several(5, 2, 2)],
            seen=2,
            likelihood=bernoulli(3, 2),
        ),
    ),
    "Hierarchical bottom-up": Row(
        lambda: programs.Hierarchical(
            EVENT,
            [3, 2],
            likelihood=likelihoods.Bernoulli(SMALL),
            network=SMALL,
            order="bottom-up",
        ),
        images,
        lambda: plain(
            names=["z1", "z2"],
            order="bottom-up",
            prior=prior(2),
            down=[normal(2, out=3)],
            up=[normal(16, out=3), normal(3, out=2)],
            seen=1,
            likelihood=bernoulli(3),
        ),
    ),
    **{
        f"DiscreteCode {how}".replace(" enumerate", ""): Row(
            lambda how=how: programs.DiscreteCode(
                EVENT, 2, 3, how, likelihood=likelihoods.Bernoulli(SMALL), network=SMALL
            ),
            images,
            lambda how=how: plain(
                estimator=how,
                names=["code1", "code2"],
                even=torch.zeros(3),
                heat=torch.tensor(0.67),
                relaxation=dist.RelaxedOneHotCategorical,
                likelihood=bernoulli(3, 3),
                logits=codes(2, 3),
            ),
        )
        for how in ("enumerate", "relaxed", "score")
    },
    **{
        f"SpikeAndSlab{kind}": Row(
            lambda df=df: programs.SpikeAndSlab(
                EVENT, 4, 2, df=df, likelihood=likelihoods.Bernoulli(SMALL), network=SMALL
            ),
            images,
            lambda df=df: plain(
                latent_dim=4,
                count=2,
                df=df,
                temperature=0.5,
                odds=torch.zeros(2),
                ones=torch.ones(4),
                likelihood=bernoulli(4),
                posterior=several(2, 4, 4, *([2, 2] if df else [])),
            ),
        )
        for kind, df in (("", None), (" heavy", 3.0))
    },
    **{
        "Autoencoder noise" if noise else "Autoencoder": Row(
            lambda noise=noise: programs.Autoencoder(
                EVENT, 2, noise, likelihood=likelihoods.Bernoulli(SMALL), network=SMALL
            ),
            images,
            lambda noise=noise: plain(
                latent_dim=2,
                noise=noise,
                training=True,
                likelihood=bernoulli(2),
                code=several(2),
            ),
        )
        for noise in (0.0, 0.3)
    },
    "MissingData": Row(
        lambda: programs.MissingData(EVENT, 2, **parts()),
        lambda: with_gaps(images()),
        lambda: plain(
            encoding="mask",
            zeros=torch.zeros(2),
            inside=torch.zeros(EVENT),
            likelihood=bernoulli(2),
            posterior=normal(16, 16, out=2),
        ),
    ),
    "MissingData learned": Row(
        lambda: programs.MissingData((16,), 2, "learned", likelihoods.StudentT(SMALL)),
        lambda: with_gaps(table()),
        lambda: plain(
            encoding="learned",
            zeros=torch.zeros(2),
            learned=torch.zeros(16),
            inside=torch.zeros(16),
            likelihood=normal(2, out=16),
            posterior=normal(16, out=2),
        ),
    ),
    "Multimodal": Row(
        lambda: programs.Multimodal(
            [[*EVENT], [1]],
            2,
            [likelihoods.Bernoulli(SMALL), likelihoods.Categorical(CLASSES, SMALL)],
            SMALL,
            [1.0, 5.0],
        ),
        images,
        lambda: plain(
            classes=[0, CLASSES],
            training=True,
            weights=[1.0, 5.0],
            one_hot=[None, lambda y: F.one_hot(y.long(), CLASSES).float()],
            zeros=torch.zeros(2),
            present=lambda *batch: batch[-1],
            likelihoods=[bernoulli(2), classes_of(2)],
            experts=[several(2, 2), several(2, 2)],
            inside1=torch.zeros(EVENT),
            inside2=torch.zeros(1),
        ),
    ),
    "Regression": Row(
        lambda: programs.Regression((15,), 2, guide=guides.MeanField(SMALL), head=SMALL),
        lambda: table(),
        lambda: plain(
            zeros=torch.zeros(2),
            origin=torch.zeros(()),
            unit=torch.ones(()),
            likelihood=normal(2, out=15),
            posterior=normal(15, out=2),
            regress=lambda z: dist.Normal(z.sum(-1), 1.0),
        ),
    ),
    "ProdLDA": Row(
        lambda: programs.ProdLDA((12,), 3, SMALL),
        documents,
        lambda: plain(
            zeros=torch.zeros(3),
            scale=1.0,
            dropout=0.2,
            training=True,
            beta=torch.randn(3, 12),
            counts=functools.partial(dist.Multinomial, 200),
            normalise=nn.BatchNorm1d(12),
            encoder=several(3, 3),
            normalise_loc=nn.BatchNorm1d(3),
            normalise_log_var=nn.BatchNorm1d(3),
        ),
    ),
    "DeepMarkov": Row(
        lambda: programs.DeepMarkov(
            (3, 4), 2, likelihoods.Normal(SMALL), SMALL, combiner=SMALL, hidden=8
        ),
        series,
        lambda: plain(
            names=["z1", "z2", "z3"],
            event_shape=(3, 4),
            loc=torch.zeros(2),
            first=prior(2),
            move=normal(2, out=2),
            likelihood=normal(2, out=4),
            inside=torch.zeros(4),
            combine=normal(2, 8, out=2),
            summarise=recurrent(8, 8),
        ),
    ),
    "DeepMarkov images": Row(
        lambda: programs.DeepMarkov(
            EVENT, 2, likelihoods.Bernoulli(SMALL), SMALL, False, "shared", SMALL, 8
        ),
        images,
        lambda: plain(
            names=["z1", "z2", "z3", "z4"],
            event_shape=EVENT,
            loc=torch.zeros(2),
            first=prior(2),
            move=normal(2, out=2),
            likelihood=normal(2, out=4),
            inside=torch.zeros(4),
            combine=normal(2, 8, out=2),
            summarise=recurrent(8, 8),
        ),
    ),
}
each = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())


def test_every_program_has_a_row() -> None:
    assert set(components.classes("program").values()) == {type(r.make()) for r in ROWS.values()}


@each
def test_signature_is_configuration(row: Row) -> None:
    first = row.make()
    again = components.construct(components.describe(first), "program")
    assert components.describe(again) == components.describe(first)
    assert {n: t.shape for n, t in first.state_dict().items()} == {
        n: t.shape for n, t in again.state_dict().items()
    }


@each
def test_a_type_checker_is_told_what_the_verbs_give(row: Row) -> None:
    program = row.make()
    (base,) = (b for b in type(program).__orig_bases__ if get_origin(b) is Program)
    given = program.serve(row.data())
    for verb, told in zip((pv.reconstruct, pv.encode), get_args(base), strict=True):
        if told is not Any:
            assert isinstance(verb(program, given), get_origin(told) or told)


@each
def test_copied_into_a_notebook_it_runs(row: Row) -> None:
    """The source of model and guide, executed where only pyro and torch are known."""
    program = row.make()
    known = {"pyro": pyro, "dist": dist, "torch": torch, "F": F, "Tensor": Tensor}
    for name in ("model", "guide"):
        source = inspect.getsource(getattr(type(program), name))
        exec("from __future__ import annotations\n" + textwrap.dedent(source), known)
    torch.manual_seed(0)
    plain = row.plain()
    if hasattr(plain, "likelihood"):
        # what a network is shown of x and of its gaps: the same
        plain.likelihood.features = plain.likelihood.marks = lambda x: x
    model, guide = (functools.partial(known[name], plain) for name in ("model", "guide"))
    batch = program.serve(row.data(), training=True)[:20]
    with pyro.validation_enabled():
        discrete = "parallel" in inspect.getsource(type(program).model)
        discrete = discrete and getattr(plain, "estimator", "enumerate") == "enumerate"
        loss = (
            pyro.infer.TraceEnum_ELBO(max_plate_nesting=1) if discrete else pyro.infer.Trace_ELBO()
        )
        assert torch.isfinite(torch.tensor(loss.loss(model, guide, *batch)))


def _fit(program: Program, data: TensorData, path: Path) -> None:
    """Handlers, and the graph that takes over after twenty steps, train alike."""
    state = {name: value.clone() for name, value in program.state_dict().items()}
    found = {}
    for how in ("auto", False):
        program.load_state_dict(state)
        history = pv.fit(
            program, data, epochs=10, batch_size=20, lr=3e-3, compile=how, progress=False
        )
        found[how] = {n: v.clone() for n, v in program.state_dict().items()}
        assert history.rows[-1]["loss"] < history.rows[0]["loss"]
    for name, value in found["auto"].items():
        assert torch.allclose(value.float(), found[False][name].float(), atol=5e-4), name


def _compile(program: Program, data: TensorData, path: Path) -> None:
    """Steps by kernels, held against the handlers on the same noise."""
    pair, few = pv.traces.as_pair(program), data[:20]
    enumerated = pv.traces.Problem.at(pair, few).shape.enumerated
    loss = objectives.BetaELBO() if enumerated else pyro.infer.Trace_ELBO()
    step = pv.svi.Step(pair, loss, pv.traces.parameters(pair, few), compile=True)
    with pair.scope():
        for _ in range(3):
            step(few)
    assert step.graphs and not step.why_not and not step.why_no_kernels


def _resume(program: Program, data: TensorData, path: Path) -> None:
    """One epoch and then another are, to the bit, two."""
    state = copy.deepcopy(program.state_dict())
    how = {"batch_size": 20, "progress": False}
    pv.fit(program, data, epochs=2, **how)
    whole = copy.deepcopy(program.state_dict())
    program.load_state_dict(state)
    pv.fit(program, data, epochs=1, out=path / "run", **how)
    pv.fit(program, data, epochs=2, out=path / "run", resume=True, **how)
    assert all(torch.equal(value, whole[n]) for n, value in program.state_dict().items())


def _save(program: Program, data: TensorData, path: Path) -> None:
    pv.save(program, path)
    again = pv.load(path)
    ours, theirs = (p.state_dict() for p in (program, again))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert components.describe(again) == components.describe(program)


def _finite(values: Any) -> None:
    for value in values.values() if isinstance(values, dict) else [values]:
        assert value.numel() and bool(value.isfinite().all())


def _evaluate(program: Program, data: TensorData, path: Path) -> None:
    found = pv.evaluate(program, data, 30)
    _finite(found.elbo)
    left = (found.elbo - found.reconstruction + found.kl).double()
    assert left.mean().abs() <= 5 * left.std() / len(left) ** 0.5 + 1e-3


def _evidence(program: Program, data: TensorData, path: Path) -> None:
    """At 200 particles above the ELBO on the mean over the data, as the bound's order has it."""
    found = pv.log_evidence(program, data, 200)
    _finite(found)
    assert found.mean() >= pv.elbo(program, data, 200).mean() - 0.05


def _impute(program: Program, data: TensorData, path: Path) -> None:
    x, *others = data.select(range(3))[:]
    x = x.clone()
    x.view(3, -1)[:, 0] = torch.nan
    filled = pv.impute(program, (x, *others) if others else x, num_particles=20)
    if isinstance(filled, tuple):  # x, and what else is observed and may have gaps
        filled, *rest = filled
        assert all(map(torch.equal, rest, others))
    _finite(filled)
    assert torch.equal(filled[~x.isnan()], x[~x.isnan()])


VERBS: dict[str, Callable[[Program, TensorData, Path], None]] = {
    "fit": _fit,
    "compiled": _compile,
    "resume": _resume,
    "save, load": _save,
    "evaluate": _evaluate,
    "log_evidence": _evidence,
    "sample": lambda p, d, _: _finite(pv.sample(p, 5)),
    "reconstruct": lambda p, d, _: _finite(pv.reconstruct(p, d.select(range(5)))),
    "encode": lambda p, d, _: _finite(pv.encode(p, d)),
    "interpolate": lambda p, d, _: _finite(
        pv.interpolate(p, d.select(range(3)), d.select(range(3, 6)), 4)
    ),
    "traverse": lambda p, d, _: _finite(pv.traverse(p, d)[0]),
    "impute": _impute,
    "plots": lambda p, d, _: _plots(p, d),
}
TRAINS = ("fit", "compiled", "resume")


def _plots(program: Program, data: TensorData) -> None:
    found = pv.evaluate(program, data, 30)
    if found.khat is not None:
        pv.plots.khat(found.khat)
    for kl in found.kl_dimensions.values():
        pv.plots.kl_bars(kl)
    if type(program) is not pv.VAE:
        count = CLASSES if program.named == "classes" else data.event_shape[-1]
        assert program.figure(data, list("abcdefghijklmnopqrst")[:count]) is not None


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], str]:
    """What a verb says on a program: "" where it works, else why it has no meaning there."""

    @functools.cache
    def told(name: str, verb: str) -> str:
        row = ROWS[name]
        torch.manual_seed(0)
        program = row.make()
        program.initialise(program.serve(row.data(), training=True))
        data = program.serve(row.data(), training=verb in TRAINS)
        try:
            VERBS[verb](program, data, tmp_path_factory.mktemp("verb"))
        except pv.UsageError as error:
            return str(error)
        finally:
            plt.close("all")
        return ""

    return told


# What has no meaning, and the words that say why.
REFUSED: dict[tuple[str, str], str] = {
    ("DiscreteCode", "encode"): "the guide has no continuous latent",
    ("DiscreteCode", "interpolate"): "the guide has no continuous latent",
    ("DiscreteCode", "traverse"): "traverse varies the units of one latent vector",
    ("DiscreteCode relaxed", "encode"): "",
    ("DiscreteCode relaxed", "interpolate"): "",
    ("SpikeAndSlab", "traverse"): "traverse varies the units of one latent vector",
    ("Autoencoder", "log_evidence"): "there is no bound on log p(x)",
    ("Autoencoder", "sample"): "the model cannot be drawn from",
    ("Autoencoder", "impute"): "there is no bound on log p(x)",
    ("ProdLDA", "impute"): "a joint density over them",
    ("DeepMarkov", "traverse"): "traverse varies the units of one latent vector",
    ("Hierarchical", "traverse"): "traverse varies the units of one latent vector",
}


@pytest.mark.parametrize(
    ("name", "verb"),
    # kernels take seconds to make: once for each program
    [(n, v) for n in ROWS for v in VERBS if v != "compiled" or " " not in n],
)
def test_verb(name: str, verb: str, tried: Callable[[str, str], str]) -> None:
    """Every verb works on every program, or says in one clear error why it has no meaning."""
    general = REFUSED.get((name.split()[0], verb), "")
    said, why = tried(name, verb), REFUSED.get((name, verb), general)
    assert bool(said) == bool(why), said
    assert why in said


def _flags(described: dict[str, Any]) -> list[str]:
    """A described program as the flags that mean it, without what its data decide."""
    found = [f"--program={described['class_path'].rpartition('.')[2]}"]

    def add(path: str, value: Any) -> None:
        if isinstance(value, dict):
            found.append(f"{path}={value['class_path']}")
            for name, part in value["init_args"].items():
                add(f"{path}.{name}", part)
        elif value is not None:
            found.append(f"{path}={json.dumps(value)}".replace('"', ""))

    for name, value in described["init_args"].items():
        if name not in ("event_shape", "event_shapes", "classes", "likelihoods", "words"):
            add(f"--program.{name}", value)
    return found


@pytest.mark.parametrize("name", [name for name in ROWS if " " not in name])
def test_trains_and_answers_on_the_command_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a file of data to the run's figures, and on from its checkpoint."""
    row = ROWS[name]
    data, file, run = row.data(), tmp_path / "x.npz", str(tmp_path / "run")
    labels = {} if data.labels is None else {"y": data.labels.numpy()}
    np.savez(file, x=data.x.numpy(), **labels)
    described = components.describe(row.make())
    more = [f"--data={file}", "--batch-size=20", "--num-particles=5", "--quiet", f"--out={run}"]
    cli.fit([*_flags(described), *more, "--epochs=1"])
    cli.fit([f"--out={run}", "--resume", "--epochs=2", "--quiet"])
    figures = {path.stem for path in Path(run, "figures").glob("*.png")}
    assert {"training", "reconstructions"} <= figures
    assert ("program" in figures) == (name != "VAE")
    assert len((Path(run) / "metrics.csv").read_text().splitlines()) == 3
    assert type(pv.load(run)).__name__ == name
    for verb in ("evaluate", "reconstruct", "interpolate", "sample"):
        if (name, verb) in REFUSED:
            with pytest.raises(pv.UsageError, match=re.escape(REFUSED[name, verb])):
                getattr(cli, verb)([run])
        else:
            getattr(cli, verb)([run])
    out = capsys.readouterr().out
    for score in row.make().scores(row.make().serve(data)):
        assert score.replace("_", " ") in out


def test_readme_has_the_table_of_programs_and_verbs(tried: Callable[[str, str], str]) -> None:
    """Made of what the verbs said; PYROVAE_WRITE_TABLE=1 puts it there."""
    names = [name for name in ROWS if " " not in name]
    reasons: dict[str, int] = {}
    lines = [f"| program | {' | '.join(f'`{verb}`' for verb in VERBS)} |"]
    lines.append("|---|" + "---|" * len(VERBS))
    for name in names:
        cells = []
        for verb in VERBS:
            said = tried(name, verb)
            why = REFUSED[name, verb] if said else ""
            cells.append(f"no ({reasons.setdefault(why, len(reasons) + 1)})" if said else "yes")
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    notes = [f"({number}) {why}" for why, number in reasons.items()]
    table = "\n".join([*lines, "", "; ".join(notes) + "." * bool(notes)]).strip() + "\n"
    readme = Path(__file__).parents[1] / "tutorials/site/pages/programs.md"
    text = readme.read_text()
    start, end = "<!-- programs and verbs -->\n", "<!-- end -->\n"
    before, rest = text.split(start)
    there, after = rest.split(end, 1)
    if os.environ.get("PYROVAE_WRITE_TABLE"):
        readme.write_text(before + start + table + end + after)
    else:
        assert there == table
