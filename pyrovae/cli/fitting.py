"""``pyrovae fit``."""

from __future__ import annotations

import datetime
import functools
import itertools
import json
import math
import os
from argparse import Namespace
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyrovae as pv
from pyrovae.cli import pairs, reading
from pyrovae.cli.data import (
    check_data,
    draw_paths,
    evaluated,
    first_of_each,
    observed,
)
from pyrovae.cli.options import (
    BOOLEANS,
    LOSSES,
    TRANSIENT,
    all_options,
    fit_options,
    of_a_table,
    of_fit,
    program,
    say,
)

if TYPE_CHECKING:
    import torch

    from pyrovae.cli.pairs import Shown
    from pyrovae.data import Splits
    from pyrovae.plots import Axes, Drawn, Panels
    from pyrovae.tensors import Data, TensorData

__all__ = ["fit"]


def fit(arguments: list[str]) -> None:
    """train a VAE or another program and leave a run folder with model, metrics, table and figures

    Any class of programs, priors, likelihoods, guides and networks can be named, and its own
    arguments given after a dot; --config takes a file of the same options (every run saves one).

    Examples:
      pyrovae fit
      pyrovae fit --data mnist --data-dir ~/data --epochs 20 --loss analytic
      pyrovae fit --data digits --likelihood Normal --likelihood.scale per_dimension
      pyrovae fit --data x.npy --binarise dynamic --latent-dim 2 --out runs/mine
      pyrovae fit --data table.csv --drop id --kinds year=category --out runs/table
      pyrovae fit --likelihood.network ConvNet --guide.network ConvNet
      pyrovae fit --guide.network.hidden [300,300] --epochs 5
      pyrovae fit --program Conditional --program.latent-dim 8
      pyrovae fit --program GaussianMixture --program.clusters 12
      pyrovae fit --pair mine.py:build --data x.npy
      pyrovae fit --config runs/mine/config.yaml --out runs/again
      pyrovae fit --out runs/mine --resume     (after a stop; --epochs 80 to train on)
      torchrun --nproc-per-node 2 -m pyrovae fit --data mnist --data-dir ~/data --out runs/two
    """
    options, parts = fit_options(fit, arguments)
    with pv.progress.task(shown=not (options.quiet or options.json)), ExitStack() as stack:
        _fit(options, parts, stack)


def _fit(options: Namespace, parts: dict[str, Any], stack: ExitStack) -> None:
    """The run, from its data to its figures; ``stack`` keeps its folder until then."""
    first = os.environ.get("RANK", "0") == "0"  # of the processes under torchrun
    device = pv.training.choose_device(options.device)
    options.scale = _scale(options.scale, parts)
    splits = pv.data.load(
        options.data,
        options.data_dir,
        download=not options.theirs,
        seed=options.seed,
        stream=BOOLEANS.get(options.stream, options.stream),
        resize=options.resize,
        layout=options.layout,
        scale=options.scale,
        **of_a_table(vars(options)),
    )
    for line in () if splits.schema is None else splits.schema.notes:
        say(line)
    train, test, binarise = _prepared(splits, options, parts)
    vae, described = _program(train, splits, options, parts)
    config = _config(train, binarise, options, parts) | described
    held_out: TensorData | None = None
    if options.validation:  # before what is particular to training, such as hidden labels
        train, held_out = train.split(options.validation, options.seed)
        held_out = vae.serve(held_out)
    train, test = vae.serve(train, training=True), vae.serve(test)
    check_data(vae, test)
    folder = None
    if first:
        folder = _folder(vae, train, splits, device, config, options)
        stack.enter_context(folder.alone())
        if _goes_on(options) and not train.in_memory:
            _check_file(folder)
    vae.to(device)
    if not _goes_on(options):
        vae.initialise(train.to(device), options.seed)
    callbacks = _callbacks(options)
    history = _train(vae, train, held_out, folder, device, callbacks, options, parts)
    if folder is None:
        return
    if history.stopped in [getattr(callback, "reason", None) for callback in callbacks]:
        say(f"{history.stopped}; go on with pyrovae fit --out {folder.path} --resume")
        return
    if history.stopped and not options.json:
        say(f"stopped after epoch {len(history.rows)}: {history.stopped}")
    found, evaluation, words = evaluated(vae, test, options.num_particles)
    try:
        folder.write_json("evaluation.json", evaluation)
        _figures(_Results(vae, test, splits, history, found), folder.path)
    finally:  # the numbers are there, whatever becomes of files
        if options.json:
            print(json.dumps({"run": str(folder.path), "evaluation": evaluation}))
        else:
            print(f"\ntest set, {words}\n\n{folder.path}")


def _scale(asked: float | None, parts: Mapping[str, object]) -> float | None:
    """What stored numbers are divided by: nothing under a likelihood of whole numbers."""
    return 1.0 if asked is None and getattr(parts.get("likelihood"), "whole", False) else asked


def _goes_on(options: Namespace) -> bool:
    """Whether there is a checkpoint, whose weights come in the place of the first ones."""
    there = options.resume and options.out
    return bool(there) and pv.runs.Folder(Path(options.out)).checkpoints.there()


def _check_file(folder: pv.runs.Folder) -> None:
    """Refuse to go on with another file; what is in memory is compared as training begins."""
    file, about = pv.files.inside(folder.path, pv.runs.DATA), folder.about or {}
    begun = pv.files.read_json(file) if file.exists() else {}
    was = begun.get("digest") if isinstance(begun, dict) else None
    if was is not None and was != about.get("digest"):
        raise pv.UsageError(
            f"this is not the run that was begun: {about['data']} does not hold what {folder.path} "
            f"was begun with. Resume with those data, or start anew (--out, --force)"
        )


def _program(
    train: Data, splits: Splits, options: Namespace, parts: Mapping[str, Any]
) -> tuple[Shown, dict[str, object]]:
    """The program or the user's own pair with its first weights; what the config says of it."""
    import torch

    torch.manual_seed(options.seed)
    classes = None if splits.classes is None else len(splits.classes)
    few = train if isinstance(train, pv.tensors.TensorData) else train.sample(10_000)
    if options.pair is not None:
        return pairs.own_pair(options.pair, few, classes, lambda: few.x), {}
    return program(few, classes, options, parts)


def _config(
    train: Data, binarise: str, options: Namespace, parts: Mapping[str, object]
) -> dict[str, object]:
    """The options that repeat the run, but for those of its program."""
    config = {name: getattr(options, name) for name in all_options() if name not in TRANSIENT}
    # what was held out depends on it, so that it is not left to the memory of another machine
    streamed = not train.in_memory
    config |= {"binarise": binarise, "stream": str(streamed).lower()}
    for name in ("data", "data_dir"):  # so that the run is repeated from any folder
        given = config[name]
        if given is not None and given not in pv.data.NAMES and Path(given).exists():
            config[name] = str(Path(given).resolve())
    if options.pair is not None:
        config["pair"] = pairs.named(options.pair)
    return config | {name: pv.components.describe(parts[name]) for name in ("loss", "lr_schedule")}


def _folder(
    vae: Shown,
    train: Data,
    splits: Splits,
    device: torch.device,
    config: dict[str, object],
    options: Namespace,
) -> pv.runs.Folder:
    """The run's folder, with what is said once nothing can be refused any more."""
    count = sum(p.numel() for p in vae.parameters())
    return pv.runs.Folder.prepare(
        options.out or _new_folder(_kind(vae, options), splits.name),
        force=options.force,
        resume=options.resume,
        config=config,
        figures=[name for verb in reading.__all__ if (name := getattr(reading, verb).figure)],
        about=_about(config, splits),
        heading=f"{splits.description}\n{len(train):,} data to train on, device {device}, "
        f"seed {options.seed}, {count:,} parameters{_missing(train)}",
    )


def _about(config: Mapping[str, object], splits: Splits) -> dict[str, object]:
    """What the run keeps of its data: to know them again, and what their columns are."""
    name = str(config["data"])
    known = {} if name in pv.data.NAMES else {"digest": pv.data.digest(name)}
    schema = {} if splits.schema is None else {"schema": splits.schema.to_dict()}
    counts = {"train": len(splits.train), "test": len(splits.test)}
    return {"data": name, **known, **counts, "classes": splits.classes, **schema}


def _train(
    vae: Shown,
    train: Data,
    held_out: TensorData | None,
    folder: pv.runs.Folder | None,
    device: torch.device,
    callbacks: list[pv.callbacks.Callback],
    options: Namespace,
    parts: Mapping[str, Any],
) -> pv.History:
    """The history of training; None for the folder is another process's."""
    schedule = parts["lr_schedule"]
    settings = {name: getattr(options, name) for name in of_fit()}
    settings |= {"device": device, "out": folder or options.out or ""}
    try:
        return pv.fit(
            vae,
            train,
            loss=_loss(parts["loss"]),
            lr_schedule=None if schedule == "constant" else schedule,
            validation=held_out,
            callbacks=callbacks,
            **settings,
        )
    except KeyboardInterrupt as stop:
        if not str(stop) or folder is None:  # the second Ctrl-C
            raise
        raise KeyboardInterrupt(f"{stop}; the run is in {folder.path}") from stop


def _loss(given: object) -> object:
    """An objective, the loss of ``pyro.infer`` that a word means, or None for the usual one."""
    import pyro.infer

    if not isinstance(given, str):
        return given
    return getattr(pyro.infer, LOSSES[given])() if given in LOSSES else None


def _callbacks(options: Namespace) -> list[pv.callbacks.Callback]:
    made: list[pv.callbacks.Callback] = []
    if options.max_seconds is not None:
        made.append(pv.callbacks.TimeLimit(options.max_seconds))
    if options.patience is not None:
        made.append(pv.callbacks.EarlyStopping(options.patience))
    if options.tensorboard:
        made.append(pv.callbacks.TensorBoard())
    if options.json:
        made.append(pv.callbacks.JSONLines())
    return made


def _prepared(
    splits: Splits, options: Namespace, parts: Mapping[str, object]
) -> tuple[Any, TensorData, str]:
    """The training and the test part, and how they are binary."""
    mode, train, test = options.binarise, splits.train, splits.test
    if mode == "auto":
        images = splits.name in pv.data.NAMES and train.maximum is not None
        binary = parts.get("likelihood") is pv.likelihoods.Bernoulli
        mode = "dynamic" if images and binary else "none"
    # a test set is drawn once, so that its numbers can be compared
    return train.binarised(mode, options.seed), test.binarised(mode), mode


def _missing(data: Data) -> str:
    count = sum(int(x.isnan().sum()) for x in data.stored[:1])
    if not count:
        return ""
    entries = len(data) * math.prod(data.event_shape)
    return f"\n{count:,} of {entries:,} training entries are missing (NaN), left out"


def _kind(vae: Shown, options: Namespace) -> str:
    """What is trained, in a word: its class, or the file that it comes from."""
    return Path(options.pair.rpartition(":")[0]).stem if options.pair else type(vae).__name__


def _new_folder(program: str, name: str) -> Path:
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    stem = f"{program.lower()}-{Path(name).stem}-{stamp}"
    names = itertools.chain([stem], (f"{stem}-{i}" for i in itertools.count(2)))
    return next(path for path in (Path("runs", name) for name in names) if not path.exists())


@dataclass
class _Results:
    """What a run has come to; its methods draw, and give None where there is nothing to see."""

    vae: Shown
    test: TensorData
    splits: Splits
    history: pv.History
    found: pv.Evaluation  # the Evaluation

    @functools.cached_property
    def few(self) -> TensorData:
        """Ten test data, of different classes where there are labels."""
        return self._some(10)

    def _some(self, count: int) -> TensorData:
        return self.test.select(first_of_each(self.test, count)).fixed()

    @property
    def _pictures(self) -> bool:
        """Whether each datum is a picture of its own, not a row among rows."""
        return pv.schema.face(self.vae.event_shape, self.test.schema) in ("image", "array")

    def training(self) -> Panels:
        return pv.plots.training_curves(self.history.rows)

    def reconstructions(self) -> Drawn:
        some = self.few if self._pictures else self._some(300)
        mean = observed(pv.reconstruct(self.vae, some), self.vae)
        return pv.plots.reconstructions(some.x.cpu(), mean, schema=self.test.schema)

    def samples(self) -> Drawn:
        if self._pictures:
            drawn = observed(pv.sample(self.vae, 64, mean=True), self.vae)
            grid = cast("Axes", pv.plots.data_grid(drawn))
            grid.set_title("64 draws from the prior, decoded: means of x")
            return grid
        drawn = observed(pv.sample(self.vae, 1000), self.vae)
        data = self.test.fixed().x.cpu()
        return pv.plots.data_grid(drawn, schema=self.test.schema, data=data)

    def interpolation(self) -> Drawn | None:
        half = len(self.few) // 2
        if not half:
            return None
        ends = self.few.select(range(half)), self.few.select(range(half, 2 * half))
        paths = observed(pv.interpolate(self.vae, *ends, steps=10), self.vae)
        return draw_paths(paths, self.test.schema)

    def latent_map(self) -> Axes | None:
        import torch

        codes = [code.reshape(len(code), -1) for code in self.found.codes.values()]
        flat = torch.cat(codes, 1) if codes else torch.empty(0, 0)
        if flat.shape[1] < 2 or len(flat.unique(dim=0)) < 2:
            return None
        return pv.plots.latent_map(flat, self.test.labels, classes=self.splits.classes)

    def kl(self) -> Axes | None:
        import torch

        kl, active = self.found.kl_dimensions, self.found.active
        if not kl or not all(name in active for name in kl):
            return None
        return pv.plots.kl_bars(
            torch.cat([each.flatten() for each in kl.values()]),
            active=torch.cat([active[name].flatten() for name in kl]),
        )

    def program(self) -> object:
        names = getattr(self.splits, self.vae.named)
        return self.vae.figure(self.test.fixed(), names)


@pv.progress.shown("figures")
def _figures(results: _Results, path: Path) -> None:
    for name in pv.progress.steps(pv.runs.FIGURES, len(pv.runs.FIGURES)):
        try:
            axes = getattr(results, name)()
        except pv.UsageError as error:  # what has no meaning for this program
            say(f"no figure of {name.replace('_', ' ')}: {error}")
            continue
        if axes is not None:
            pv.plots.save(axes, pv.files.inside(path, f"figures/{name}.png"))
