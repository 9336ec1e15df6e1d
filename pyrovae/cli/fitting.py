"""``pyrovae fit``."""

from __future__ import annotations

import datetime
import itertools
import json
import os
from pathlib import Path
from typing import Any, cast

import pyrovae as pv
from pyrovae.cli.data import check_data, draw_paths, first_of_each, labelled
from pyrovae.cli.options import BOOLEANS, LOSSES, OF_A_MODEL, OPTIONS, TRANSIENT, fit_options, say

# options that pv.fit takes by the same name
AS_THEY_ARE = (
    *("epochs", "batch_size", "lr", "seed", "precision", "accumulate", "clip_norm", "ema"),
    *("keep_best", "rollbacks", "checkpoint_every", "resume"),
)


def fit(arguments: list[str]) -> None:
    """train a VAE and leave a run folder with model, metrics, table and figures

    Any class of priors, likelihoods, guides and networks can be named, and its own arguments
    given after a dot; --config takes a file of the same options (every run saves one).

    Examples:
      pyrovae fit
      pyrovae fit --data mnist --data-dir ~/data --epochs 20 --loss analytic
      pyrovae fit --data digits --likelihood Normal --likelihood.scale per_dimension
      pyrovae fit --data x.npy --binarise dynamic --latent-dim 2 --out runs/mine
      pyrovae fit --likelihood.network ConvNet --guide.network ConvNet
      pyrovae fit --guide.network.hidden [300,300] --epochs 5
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
    train, test, binarise = _binarised(splits, options, parts["likelihood"])
    config = {name: getattr(options, name) for name in OPTIONS if name not in TRANSIENT}
    # what was held out depends on it, so that it is not left to the memory of another machine
    streamed = isinstance(train, pv.streams.FileData)
    config |= {"binarise": binarise, "stream": str(streamed).lower()}
    for name in ("data", "data_dir"):  # so that the run is repeated from any folder
        given = config[name]
        if given is not None and given not in pv.data.NAMES and Path(given).exists():
            config[name] = str(Path(given).resolve())
    config |= {name: pv.components.describe(part) for name, part in parts.items()}
    torch.manual_seed(options.seed)
    of_a_model = {name: parts[name] for name in OF_A_MODEL}
    vae = pv.VAE(tuple(train.event_shape), options.latent_dim, **of_a_model)
    train, test = (labelled(vae, part) for part in (train, test))
    check_data(vae, test)
    folder: Any = None
    if first:
        folder = pv.runs.Folder.prepare(
            options.out or _new_folder(splits.name),
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
        loss = getattr(pyro.infer, LOSSES[loss])()
    callbacks = _callbacks(options)
    try:
        history = pv.fit(
            vae,
            train,
            loss=loss,
            lr_schedule=None if parts["lr_schedule"] == "constant" else parts["lr_schedule"],
            validation=options.validation or None,
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
    found = pv.evaluate(vae, test, options.num_particles)
    folder.write_json("evaluation.json", found.to_dict())
    _figures(vae, test, splits.classes, history, found, folder.path)
    if options.json:
        print(json.dumps({"run": str(folder.path), "evaluation": found.to_dict()}))
    else:
        print(f"\ntest set, {found}\n\n{folder.path}")


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


def _binarised(splits: Any, options: Any, likelihood: Any) -> tuple[Any, Any, str]:
    mode = options.binarise
    if mode == "auto":
        images = splits.name in pv.data.NAMES and splits.train.maximum is not None
        mode = "dynamic" if images and isinstance(likelihood, pv.likelihoods.Bernoulli) else "none"
    # a test set is drawn once, so that its numbers can be compared
    return splits.train.binarised(mode, options.seed), splits.test.binarised(mode), mode


def _missing(data: Any) -> str:
    if not isinstance(data, pv.data.TensorData):
        return ""
    rows = data.incomplete()
    if not len(rows):
        return ""
    x = data.tensors[0]
    count = int(x[rows].isnan().sum())
    return f"\n{count:,} of {x.numel():,} training entries are missing (NaN), left out"


def _new_folder(name: str) -> Path:
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    stem = f"vae-{Path(name).stem}-{stamp}"
    names = itertools.chain([stem], (f"{stem}-{i}" for i in itertools.count(2)))
    return next(path for path in (Path("runs", name) for name in names) if not path.exists())


def _figures(vae: Any, test: Any, classes: Any, history: Any, found: Any, path: Path) -> None:
    plots = pv.plots

    def save(name: str, axes: Any) -> None:
        plots.save(axes, pv.files.inside(path, f"figures/{name}.png"))

    few = test.select(first_of_each(test, 10)).fixed()
    x, mean = few.x.cpu(), cast(Any, pv.reconstruct(vae, few))
    save("training", plots.training_curves(history.rows))
    save("reconstructions", plots.reconstructions(x, mean))
    save("samples", plots.data_grid(cast(Any, pv.sample(vae, 64, mean=True))))
    half = len(x) // 2
    if half:
        ends = few.select(range(half)), few.select(range(half, 2 * half))
        save("interpolation", draw_paths(pv.interpolate(vae, *ends, steps=10)))
    codes, kl = found.codes["z"], found.kl_dimensions.get("z")
    if codes.shape[1] > 1 and len(codes.unique(dim=0)) > 1:
        save("latent_map", plots.latent_map(codes, test.labels, classes=classes))
    if kl is not None:
        save("kl", plots.kl_bars(kl, active=found.active["z"]))
