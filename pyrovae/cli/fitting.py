"""``pyrovae fit``."""

from __future__ import annotations

import datetime
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyrovae as pv
from pyrovae.cli.data import (
    check_data,
    draw_paths,
    evaluated,
    first_of_each,
    observed,
    standardised,
)
from pyrovae.cli.options import (
    BOOLEANS,
    LOSSES,
    OPTIONS,
    TRANSIENT,
    fit_options,
    program,
    say,
)

# options that pv.fit takes by the same name
AS_THEY_ARE = (
    *("epochs", "batch_size", "lr", "seed", "precision", "accumulate", "clip_norm", "ema"),
    *("keep_best", "rollbacks", "checkpoint_every", "resume"),
)


def fit(arguments: list[str]) -> None:
    """train a VAE or another program and leave a run folder with model, metrics, table and figures

    Any class of programs, priors, likelihoods, guides and networks can be named, and its own
    arguments given after a dot; --config takes a file of the same options (every run saves one).

    Examples:
      pyrovae fit
      pyrovae fit --data mnist --data-dir ~/data --epochs 20 --loss analytic
      pyrovae fit --data digits --likelihood Normal --likelihood.scale per_dimension
      pyrovae fit --data x.npy --binarise dynamic --latent-dim 2 --out runs/mine
      pyrovae fit --likelihood.network ConvNet --guide.network ConvNet
      pyrovae fit --guide.network.hidden [300,300] --epochs 5
      pyrovae fit --program Conditional --program.latent-dim 8
      pyrovae fit --program GaussianMixture --program.clusters 12
      pyrovae fit --config runs/mine/config.yaml --out runs/again
      pyrovae fit --out runs/mine --resume     (after a stop; --epochs 80 to train on)
      torchrun --nproc-per-node 2 -m pyrovae fit --data mnist --data-dir ~/data --out runs/two
    """
    options, parts = fit_options(fit, arguments)
    first = os.environ.get("RANK", "0") == "0"  # of the processes under torchrun
    import pyro.infer
    import torch

    device = pv.training.choose_device(options.device)
    splits = pv.data.load(
        options.data,
        options.data_dir,
        download=not options.theirs,
        label=options.label,
        seed=options.seed,
        stream=BOOLEANS.get(options.stream, options.stream),
    )
    train, test, binarise = _prepared(splits, options, parts["usual"] | parts)
    config = {name: getattr(options, name) for name in OPTIONS if name not in TRANSIENT}
    # what was held out depends on it, so that it is not left to the memory of another machine
    streamed = not train.in_memory
    config |= {"binarise": binarise, "stream": str(streamed).lower()}
    for name in ("data", "data_dir"):  # so that the run is repeated from any folder
        given = config[name]
        if given is not None and given not in pv.data.NAMES and Path(given).exists():
            config[name] = str(Path(given).resolve())
    config |= {name: pv.components.describe(parts[name]) for name in ("loss", "lr_schedule")}
    torch.manual_seed(options.seed)
    classes = None if splits.classes is None else len(splits.classes)
    few = train.sample() if streamed else train
    vae, described = program(few, classes, options, parts)
    config |= described
    held_out: Any = None
    if options.validation:  # before what is particular to training, such as hidden labels
        train, held_out = train.split(options.validation, options.seed)
        held_out = vae.serve(held_out)
    train, test = vae.serve(train, training=True), vae.serve(test)
    check_data(vae, test)
    folder: Any = None
    if first:
        folder = pv.runs.Folder.prepare(
            options.out or _new_folder(type(vae).__name__, splits.name),
            force=options.force,
            resume=options.resume,
            config=config,
            # said once nothing can be refused any more
            heading=f"{splits.description}\n{len(train):,} data to train on, device {device}, "
            f"seed {options.seed}, {sum(p.numel() for p in vae.parameters()):,} parameters"
            + _missing(train),
        )
    loss = parts["loss"]
    if isinstance(loss, str):
        loss = getattr(pyro.infer, LOSSES[loss])() if loss in LOSSES else None
    vae.to(device)
    if not (
        options.resume and options.out and pv.runs.Folder(Path(options.out)).checkpoints.there()
    ):
        vae.initialise(train.to(device), options.seed)
    callbacks = _callbacks(options)
    try:
        history = pv.fit(
            vae,
            train,
            loss=loss,
            lr_schedule=None if parts["lr_schedule"] == "constant" else parts["lr_schedule"],
            validation=held_out,
            device=device,
            compile=BOOLEANS.get(options.compile, options.compile),
            out=folder if first else options.out or "",
            callbacks=callbacks,
            progress=not (options.quiet or options.json),
            **{name: getattr(options, name) for name in AS_THEY_ARE},
        )
    except KeyboardInterrupt as stop:
        if not str(stop) or not first:  # the second Ctrl-C
            raise
        raise KeyboardInterrupt(f"{stop}; the run is in {folder.path}") from stop
    if not first:
        return
    if history.stopped in [getattr(callback, "reason", None) for callback in callbacks]:
        say(f"{history.stopped}; go on with pyrovae fit --out {folder.path} --resume")
        return
    if history.stopped and not options.json:
        say(f"stopped after epoch {len(history.rows)}: {history.stopped}")
    found, evaluation, words = evaluated(vae, test, options.num_particles)
    folder.write_json("evaluation.json", evaluation)
    _figures(vae, test, splits, history, found, folder.path)
    if options.json:
        print(json.dumps({"run": str(folder.path), "evaluation": evaluation}))
    else:
        print(f"\ntest set, {words}\n\n{folder.path}")


def _callbacks(options: Any) -> list[Any]:
    made: list[Any] = []
    if options.max_seconds is not None:
        made.append(pv.callbacks.TimeLimit(options.max_seconds))
    if options.patience is not None:
        made.append(pv.callbacks.EarlyStopping(options.patience))
    if options.tensorboard:
        made.append(pv.callbacks.TensorBoard())
    if options.json:
        made.append(pv.callbacks.JSONLines())
    return made


def _prepared(splits: Any, options: Any, parts: Any) -> tuple[Any, Any, str]:
    """The training and the test part in the units that were asked for, and how they are binary."""
    mode, train, test = options.binarise, splits.train, splits.test
    if options.standardise:
        train, test = (standardised(part, splits.train) for part in (train, test))
    if mode == "auto":
        images = splits.name in pv.data.NAMES and train.maximum is not None
        binary = isinstance(parts["likelihood"], pv.likelihoods.Bernoulli)
        mode = "dynamic" if images and binary else "none"
    # a test set is drawn once, so that its numbers can be compared
    return train.binarised(mode, options.seed), test.binarised(mode), mode


def _missing(data: Any) -> str:
    if not data.in_memory:
        return ""
    x = data.tensors[0]
    count = int(x.isnan().sum())
    if not count:
        return ""
    return f"\n{count:,} of {x.numel():,} training entries are missing (NaN), left out"


def _new_folder(program: str, name: str) -> Path:
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    stem = f"{program.lower()}-{Path(name).stem}-{stamp}"
    names = itertools.chain([stem], (f"{stem}-{i}" for i in itertools.count(2)))
    return next(path for path in (Path("runs", name) for name in names) if not path.exists())


def _figures(vae: Any, test: Any, splits: Any, history: Any, found: Any, path: Path) -> None:
    import torch

    plots = pv.plots
    few = test.select(first_of_each(test, 10)).fixed()
    half = len(few) // 2
    codes = list(found.codes.values())
    flat = torch.cat([code.flatten(1) for code in codes], 1) if codes else torch.empty(0, 0)
    kl = found.kl_dimensions
    active = [found.active[name] for name in kl if name in found.active]
    names = getattr(splits, vae.named)

    def reconstructions() -> Any:
        mean = observed(pv.reconstruct(vae, few), vae)
        return plots.reconstructions(few.x.cpu(), mean)

    def interpolation() -> Any:
        if not half:
            return None
        ends = few.select(range(half)), few.select(range(half, 2 * half))
        return draw_paths(observed(pv.interpolate(vae, *ends, steps=10), vae))

    def latent_map() -> Any:
        if flat.shape[1] < 2 or len(flat.unique(dim=0)) < 2:
            return None
        return plots.latent_map(flat, test.labels, classes=splits.classes)

    def units() -> Any:
        one = len(active) == len(kl) and bool(kl)
        return plots.kl_bars(torch.cat([*kl.values()]), active=torch.cat(active)) if one else None

    figures: dict[str, Callable[[], Any]] = {
        "training": lambda: plots.training_curves(history.rows),
        "reconstructions": reconstructions,
        "samples": lambda: plots.data_grid(observed(pv.sample(vae, 64, mean=True), vae)),
        "interpolation": interpolation,
        "latent_map": latent_map,
        "kl": units,
        "program": lambda: vae.figure(test.fixed(), names),
    }
    for name, draw in figures.items():
        try:
            axes = draw()
        except pv.UsageError as error:  # what has no meaning for this program
            say(f"no figure of {name.replace('_', ' ')}: {error}")
            continue
        if axes is not None:
            plots.save(axes, pv.files.inside(path, f"figures/{name}.png"))
