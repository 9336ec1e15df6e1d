"""The verbs that read a run: a function and its name in ``__all__`` is all of one."""

from __future__ import annotations

import contextlib
from json import dumps
from typing import TYPE_CHECKING, Annotated, Any

import pyrovae as pv
from pyrovae.cli.data import draw_paths, evaluated, first_of_each, observed
from pyrovae.cli.options import at_least
from pyrovae.cli.verbs import Count, Drawing, Run, Whole, verb

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Tensor

    from pyrovae.generation import Values
    from pyrovae.schema import Schema
    from pyrovae.tensors import TensorData

__all__ = [
    *("evaluate", "sample", "reconstruct", "interpolate", "traverse", "calibrate"),
    *("encode", "impute", "score"),
]


@verb()
def evaluate(
    run: Run,
    *,
    num_particles: Whole = 1000,
    evidence: str = "importance",
    chains: Whole = 16,
    temperatures: Whole = 100,
    leapfrogs: Whole = 5,
    start: str = "guide",
    tolerance: float | None = None,
    json: bool = False,
) -> None:
    """ELBO, reconstruction, KL, log evidence, k-hat and active units of a run on test data

    Args:
        num_particles: importance samples per datum
        evidence: how log p(x) is measured, importance or ais (annealed importance sampling)
        chains: of ais, per datum
        temperatures: of ais, from the start to the posterior
        leapfrogs: of ais, per temperature
        start: of ais, guide, prior or gaussian
        tolerance: of ais, nats; temperatures are doubled until its bounds are no further apart
        json: print JSON instead of a table

    Examples:
      pyrovae evaluate runs/mine
      pyrovae evaluate runs/mine --num-particles 5000 --json
      pyrovae evaluate runs/mine --data other.npy
      pyrovae evaluate runs/mine --evidence ais --tolerance 0.1
    """
    _, evaluation, words = evaluated(
        run.pair,
        run.test,
        num_particles,
        run.seed,
        evidence=evidence,
        chains=chains,
        temperatures=temperatures,
        leapfrogs=leapfrogs,
        start=start,
        tolerance=tolerance,
    )
    print(dumps(evaluation, indent=2) if json else words)
    if run.path.is_dir() and not (run.options.data or run.options.binarise or run.options.part):
        # a run that may only be read, or that is being made anew
        with contextlib.suppress(pv.UsageError), pv.runs.Folder(run.path).alone() as folder:
            folder.write_json("evaluation.json", evaluation)


@verb("samples")
def sample(run: Run, *, n: Whole = 64, mean: bool | None = None, density: str = "prior") -> Drawing:
    """draw new data from the prior, or from a density fitted to the codes of the training data

    Args:
        n: how many
        mean: E[x|z] instead of a draw of x; by default of all but tables
        density: prior, or mixture or flow fitted to the codes

    Examples:
      pyrovae sample runs/mine
      pyrovae sample runs/mine --n 100 --mean false --out samples.png
      pyrovae sample runs/mine --density mixture
      pyrovae sample runs/mine --n 10000 --mean false --out samples.npy
      pyrovae sample runs/table --n 1000 --out samples.csv
    """
    drawn: Values
    if mean is None:
        mean = density != "prior" or pv.traces.as_pair(run.pair).schema is None
    if density == "prior":
        drawn = pv.sample(run.pair, n, mean=mean, seed=run.seed)
    elif not mean:
        raise pv.UsageError(f"--density {density} gives E[x|z]; leave --mean as it is")
    elif density not in (known := ("prior", *pv.aggregate.KINDS)):
        raise pv.errors.unknown("density", density, known)
    else:
        fitted = pv.fit_codes(run.pair, run.data("train"), density, seed=run.seed)
        print(fitted)
        drawn = fitted.sample(n, seed=run.seed)
    values: Tensor = observed(drawn, run.pair)
    schema = _schema_of(values, run)
    return Drawing(values, lambda: pv.plots.data_grid(values, schema=schema))


@verb("reconstructions")
def reconstruct(run: Run, *, n: Whole = 10, draws: Count = 0) -> Drawing:
    """data beside their reconstructions

    Args:
        n: how many test data
        draws: rows of draws below the mean

    Examples:
      pyrovae reconstruct runs/mine
      pyrovae reconstruct runs/mine --n 5 --draws 3 --out reconstructions.png
    """
    pair, few = run.pair, run.test.select(first_of_each(run.test, n)).fixed()
    mean: Tensor = observed(pv.reconstruct(pair, few, seed=run.seed), pair)
    drawn: Tensor | None = None
    if draws:
        drawn = observed(pv.reconstruct(pair, few, draws=draws, seed=run.seed), pair)
    return Drawing(
        mean if drawn is None else drawn,
        lambda: pv.plots.reconstructions(few.x.cpu(), mean, drawn, n=len(few), schema=few.schema),
    )


@verb("interpolation")
def interpolate(
    run: Run,
    *,
    start: int | None = None,
    end: int | None = None,
    steps: Annotated[int, at_least(2)] = 10,
    method: str = "linear",
) -> Drawing:
    """decode the path between the codes of two test data

    Args:
        start: index of a test datum
        end: index of another
        steps: points on the path
        method: linear or spherical

    Examples:
      pyrovae interpolate runs/mine
      pyrovae interpolate runs/mine --start 3 --end 17 --steps 12 --method spherical
    """
    if (start is None) != (end is None):
        raise pv.UsageError("give both --start and --end, or neither")
    few = first_of_each(run.test, 10).tolist() if start is None or end is None else [start, end]
    starts, ends = few[: (len(few) + 1) // 2], few[len(few) // 2 :]
    path = pv.interpolate(
        run.pair, _chosen(run.test, starts), _chosen(run.test, ends), steps, method=method
    )
    values: Tensor = observed(path, run.pair)
    return Drawing(values, lambda: draw_paths(values, run.test.schema))


@verb("traversal")
def traverse(
    run: Run,
    *,
    index: int = 0,
    dims: list[int] | None = None,
    steps: Whole = 9,
    span: float = 2.0,
) -> Drawing:
    """vary one latent unit at a time, the active ones first

    Args:
        index: the test datum to vary
        dims: units, e.g. [0,3]
        steps: values of each unit
        span: from -span to span

    Examples:
      pyrovae traverse runs/mine
      pyrovae traverse runs/mine --index 7 --dims [0,3] --steps 11 --span 3
    """
    # the datum to vary first; the others tell which units are active
    order = [index, *(i for i in range(min(len(run.test), 1000)) if i != index)]
    images, units, values = pv.traverse(
        run.pair, _chosen(run.test, order), dims=dims or None, steps=steps, span=span
    )
    schema = run.test.schema
    return Drawing(images, lambda: pv.plots.traversal(images, units, values, schema=schema))


@verb("ranks")
def calibrate(
    run: Run, *, simulations: Whole = 1000, draws: Whole = 99, bins: Whole = 20
) -> Drawing:
    """is the guide right about its own uncertainty? ranks of simulated latents among its draws

    Args:
        simulations: of (z, x) from the model
        draws: of q(z|x) per simulation
        bins: of the test that ranks are uniform; they divide draws + 1

    Examples:
      pyrovae calibrate runs/mine
      pyrovae calibrate runs/mine --simulations 5000 --out ranks.npy
    """
    like = None if run.gone else run.test  # what is simulated needs no data but for conditions
    found = pv.calibrate(
        run.pair, like, simulations=simulations, draws=draws, bins=bins, seed=run.seed
    )
    print(found)
    return Drawing(found.ranks, lambda: pv.plots.ranks(found.ranks, draws))


@verb(table="codes")
def encode(run: Run) -> Drawing:
    """codes of data: the mean of q(z|x), a row per datum and a column per unit

    Examples:
      pyrovae encode runs/mine --out codes.csv
      pyrovae encode runs/mine --data new.csv --out codes.parquet
    """
    found = pv.encode(run.pair, run.test.fixed(), seed=run.seed)
    table = pv.framing.codes_table(found)
    return Drawing(_tensor(table), table=lambda: table)


@verb(table="imputed")
def impute(
    run: Run, *, num_particles: Whole = 1000, draws: Count = 200, interval: float = 0.9
) -> Drawing:
    """fill what is missing in data, given what is there

    Beside a column of numbers in which entries were missing stand the ends of an interval, of
    categories the chance of the one that was filled in; empty where the entry was there.

    Args:
        num_particles: per datum
        draws: that intervals are made of; 0 for none
        interval: the share of the draws between the ends

    Examples:
      pyrovae impute runs/mine --data gaps.csv --out filled.csv
      pyrovae impute runs/mine --data gaps.csv --draws 0 --out filled.parquet
    """
    if not 0 < interval < 1:
        raise pv.UsageError(f"--interval is a share between 0 and 1, got {interval}")
    data = run.test.fixed()
    options: dict[str, Any] = {"num_particles": num_particles, "seed": run.seed}
    filled = _first(pv.impute(run.pair, data, **options))
    schema = pv.traces.as_pair(run.pair).schema
    if not draws or schema is None:
        return Drawing(filled)
    drawn = _first(pv.impute(run.pair, data, draws=draws, **options))
    return Drawing(filled, table=lambda: schema.with_intervals(data.x, filled, drawn, interval))


@verb(table="scores")
def score(run: Run, *, num_particles: Whole = 1000) -> Drawing:
    """log p(x) of every datum, in nats: the lower, the less a datum is like those trained on

    ``elbo`` is the bound, ``log_evidence`` the importance-sampled estimate, of which ``khat`` above
    0.7 says that it is too low.

    Args:
        num_particles: importance samples per datum

    Examples:
      pyrovae score runs/mine --data new.csv --out scores.csv
    """
    import torch

    found = pv.evaluate(run.pair, run.test.fixed(), num_particles, seed=run.seed)
    names = ("log_evidence", "elbo", "khat")
    columns = {name: getattr(found, name) for name in names}
    known = {n: c.double() for n, c in columns.items() if c is not None}

    def table() -> DataFrame:
        import pandas as pd

        return pd.DataFrame({name: column.numpy() for name, column in known.items()})

    return Drawing(torch.stack([*known.values()], 1), table=table)


def _tensor(table: DataFrame) -> Tensor:
    import torch

    return torch.tensor(table.to_numpy())


def _first(found: Tensor | tuple[Tensor, ...]) -> Tensor:
    return found[0] if isinstance(found, tuple) else found


def _schema_of(values: Tensor, run: Run) -> Schema | None:
    """What the columns of values are, where they are those of the run's tables."""
    schema = pv.traces.as_pair(run.pair).schema
    return schema if schema and values.shape[1:] == (len(schema.columns),) else None


def _chosen(data: TensorData, indices: list[int]) -> TensorData:
    """The data at these indices, drawn once."""
    import torch

    wrong = [i for i in indices if not 0 <= i < len(data)]
    if wrong:
        raise pv.UsageError(f"the test data have indices 0 to {len(data) - 1}, got {wrong[0]}")
    return data.select(torch.tensor(indices)).fixed()
