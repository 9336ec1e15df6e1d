"""Training: :func:`fit` any pair with any ``pyro.infer`` ELBO."""

from __future__ import annotations

import numbers
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from pyro.infer import ELBO
from torch import Tensor

from pyrovae import runs, traces
from pyrovae.callbacks import Callback, EachEpoch, History
from pyrovae.errors import UsageError, flag, got, in_short
from pyrovae.processes import Processes, local_device
from pyrovae.randomness import own_randomness
from pyrovae.schedules import Schedule
from pyrovae.streams import Data, as_data
from pyrovae.traces import as_pair
from pyrovae.training.checks import Optimizer
from pyrovae.training.settings import Settings
from pyrovae.training.trainer import Trainer

__all__ = ["choose_device", "fit"]


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """``"auto"``: CUDA when there is one (this process's own under torchrun), else the CPU;
    anything else is checked to be there.

    Raises:
        UsageError: a device that is not there.
    """
    if str(device) == "auto":
        return local_device()
    try:
        chosen = torch.device(device)
        float(torch.zeros(1, device=chosen))
    except (RuntimeError, AssertionError, NotImplementedError, TypeError, ValueError) as error:
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        reason = in_short((str(error).splitlines() or [""])[0].split(". ")[0], 200)
        name = got(str(device) if isinstance(device, torch.device) else device)
        raise UsageError(
            f"device {name} is not usable here ({reason}); there is {', '.join(there)}. "
            f"Use device='auto' or one of these"
        ) from error
    return chosen


def fit(
    pair: Any,
    x: Any,
    *,
    loss: ELBO | None = None,
    epochs: int = 20,
    batch_size: int = 128,
    lr: float = 1e-3,
    lr_schedule: Schedule | None = None,
    optimizer: Optimizer | None = None,
    accumulate: int = 1,
    clip_norm: float | None = None,
    ema: float | None = None,
    validation: Any = None,
    keep_best: bool = False,
    seed: int = 0,
    device: str | torch.device = "auto",
    compile: bool | str = "auto",  # noqa: A002
    precision: str = "float32",
    out: str | Path | runs.Folder | None = None,
    force: bool = False,
    resume: bool = False,
    checkpoint_every: int | None = None,
    rollbacks: int = 0,
    callbacks: Sequence[Callback | Callable[[History], Any]] = (),
    progress: bool = True,
) -> History:
    """Train a pair by stochastic variational inference.

    Under ``torchrun`` the same call trains in several processes: every one takes its share of
    each batch and the gradients are put together, so that batch size, steps and schedule mean
    what they mean in one process. The first one writes and prints.

    Args:
        pair: anything with ``.model`` and ``.guide``.
        x: tensor, array, tuple of them (``model(x, y)``), Dataset or DataLoader, ``np.memmap`` or
            other data that are streamed. NaN is a missing entry: it is left out of the
            likelihood, and the guide sees zero there.
        loss: any ``pyro.infer`` ELBO, ``pv.objectives`` included; ``Trace_ELBO()`` by default, or
            ``pv.objectives.BetaELBO()`` where a discrete site is enumerated, which sums it out as
            ``TraceEnum_ELBO()`` does; ``TraceMeanField_ELBO()`` for the analytic KL.
        epochs: passes over the data.
        batch_size: data per step; the last batch of an epoch may be smaller.
        lr: the optimiser's learning rate.
        lr_schedule: a factor that it is multiplied by, e.g. ``schedules.Cosine(warmup=5)``.
        optimizer: ``optimizer(parameters, lr)``; fused Adam by default.
        accumulate: in how many parts a batch is taken, for less memory. Parts are independent:
            batch statistics (BatchNorm, ``MMD``, ``TotalCorrelation``) are those of a part.
        clip_norm: the largest norm that all gradients together may have.
        ema: keep a moving average of the weights, this share of it at every step (0.999, say):
            it is what is measured, saved and left in the pair.
        validation: data to watch, or the fraction or number of data to hold out.
        keep_best: leave the weights of the epoch with the best validation ELBO in the pair,
            instead of the last ones.
        seed: of data order, noise and split. The global random state is left as it was.
        device: ``"auto"`` is CUDA when there is one.
        compile: ``"auto"`` replaces Pyro's handlers by the graph that they leave behind, once the
            two have been found equal on the same noise, and that by kernels of ``torch.compile``
            where the steps to come save more than making them takes; True makes kernels at once
            and warns where that is not possible, False always runs the handlers. See
            :class:`pyrovae.svi.Step`.
        precision: "float32", or "bf16" for matrix products in bfloat16.
        out: the run's folder: ``metrics.csv``, ``model.safetensors``, ``environment.json`` and
            ``checkpoints/``, from which ``resume`` goes on.
        force: whether ``out`` may be a run that is there already.
        resume: go on from the last checkpoint in ``out``, or begin where there is none. On a
            CPU the weights are, to the bit, those of the run that was not interrupted.
            ``epochs`` may be more than before.
        checkpoint_every: steps between checkpoints; by default as often as costs one part in a
            hundred of the time.
        rollbacks: how often a loss or gradient that is not finite may be answered by going back
            to the last good state at half the rate; 0 stops at the first.
        callbacks: :class:`pyrovae.callbacks.Callback`, or functions called with the history after
            each epoch; one that returns True or a reason ends training.
        progress: a bar on a terminal or in a notebook, a line per epoch elsewhere.

    Returns:
        The history. The pair itself has been trained, on the device chosen.

    Raises:
        UsageError: model and guide sites that differ, no parameters, data outside the support,
            infinite data, a batch larger than they are, an existing run, a device that is not
            there, a checkpoint of another run.
        Diverged: a loss or gradient that is not finite: at which step, in which site and tensor.
            The pair has the last good weights.
        OutOfMemory: what to lower.
        KeyboardInterrupt: Ctrl-C, after the step is finished and the run is saved; a second one
            stops at once.
        SystemExit: the same at the signal SIGTERM.

    >>> from pyrovae.vae import VAE
    >>> _ = torch.manual_seed(0)
    >>> x = torch.bernoulli(torch.full((200, 6), 0.3))
    >>> history = fit(VAE((6,), 2), x, epochs=2, progress=False)
    >>> [sorted(history.last)[:4], len(history.rows)]
    [['elbo', 'epoch', 'images_per_second', 'kl'], 2]
    """
    settings = Settings(
        epochs, batch_size, lr, seed, accumulate, clip_norm, ema, keep_best, rollbacks,
        checkpoint_every,
    )  # fmt: skip
    batch_size, seed = settings.batch_size, settings.seed
    force, resume, progress = (
        flag("force", force),
        flag("resume", resume),
        flag("progress", progress),
    )
    if loss is not None and not isinstance(loss, ELBO):
        raise UsageError(
            f"loss must be an ELBO such as pyro.infer.Trace_ELBO() or pv.objectives.IWAE(), got "
            f"{got(loss)}"
        )
    if lr_schedule is not None and not isinstance(lr_schedule, Schedule):
        raise UsageError(
            f"lr_schedule must be a schedule such as pv.schedules.Cosine(), got {got(lr_schedule)}"
        )
    if optimizer is not None and (isinstance(optimizer, Tensor) or not callable(optimizer)):
        raise UsageError(
            f"optimizer must be a function optimizer(parameters, lr) such as torch.optim.Adam, got "
            f"{got(optimizer)}"
        )
    each = _callbacks(callbacks)
    chosen = choose_device(device)
    program = as_pair(pair)
    data, held_out = _parts(as_data(x), validation, seed)
    if keep_best and held_out is None:
        raise UsageError("keep_best needs validation data: give validation=0.1, say")
    if not data.own_batches and batch_size > len(data):
        raise UsageError(
            f"batch_size {batch_size} is larger than the {len(data)} training data; use "
            f"batch_size={len(data)} or less"
        )
    if resume and out is None:
        raise UsageError("resume needs the run's folder: give out= (--out)")
    own = torch.cuda.device(chosen) if chosen.type == "cuda" else nullcontext()
    with own, Processes.together(chosen) as processes:
        folder = out if isinstance(out, runs.Folder) else None
        if out is not None and folder is None and processes.first:
            folder = runs.Folder.prepare(cast("str | Path", out), force=force, resume=resume)
        program.to(chosen)
        data = as_data(program.serve(data), device=chosen)
        held_out = None if held_out is None else as_data(program.serve(held_out), device=chosen)
        whole = program
        program, data = traces.completed(whole, data)
        if held_out is not None:
            other, held_out = traces.completed(whole, held_out)
            program = other if program is whole else program
        with own_randomness(seed + 7919 * processes.rank), program.scope():
            trainer = Trainer(
                pair, program, data, held_out, loss, settings,
                lr_schedule=lr_schedule, device=chosen, processes=processes,
                folder=folder if processes.first else None, progress=progress,
                callbacks=each if processes.first else (),
            )  # fmt: skip
            with _interruptible(trainer):
                trainer.begin(optimizer or _adam, compile, precision, resume=resume)
                try:
                    trainer.run()
                finally:
                    trainer.save()
    stopped = trainer.history.stopped
    if stopped in _SIGNALS.values():
        words = f"training stopped in epoch {trainer.epoch}, after step {trainer.step}"
        words += "" if out is None else "; resume goes on from there"
        if stopped == _SIGNALS[signal.SIGINT]:
            raise KeyboardInterrupt(words)
        print(f"{stopped}: {words}", file=sys.stderr)
        raise SystemExit(128 + signal.SIGTERM)
    return trainer.history


def _callbacks(given: Any) -> list[Callback]:
    """The callbacks, functions among them."""
    several = isinstance(given, list | tuple)
    wrong = [c for c in given if not callable(c) or isinstance(c, type)] if several else [given]
    wrong = [c for c in wrong if not (several and isinstance(c, Callback))]
    if wrong:
        raise UsageError(
            f"callbacks must be a list of pv.callbacks.Callback objects or functions of the "
            f"history, got {got(wrong[0])}"
        )
    return [c if isinstance(c, Callback) else EachEpoch(c) for c in given]


def _parts(data: Data, validation: Any, seed: int) -> tuple[Data, Data | None]:
    """The data to train on and those to watch."""
    if isinstance(validation, numbers.Real) and not isinstance(validation, bool):
        if not validation:
            return data, None
        return data.split(cast(float, validation), seed)
    if validation is None:
        return data, None
    held_out = as_data(validation)
    if not (data.own_batches or held_out.own_batches):
        ours, theirs = (list(part.event_shape) for part in (data, held_out))
        if ours != theirs:
            raise UsageError(
                f"validation data must be of the shape of the training data: one datum is "
                f"{theirs}, of x {ours}. To hold out a part of x give a fraction in (0, 1) or a "
                f"number of data"
            )
    return data, held_out


def _adam(parameters: list[Tensor], lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=lr, fused=True)


_SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


@contextmanager
def _interruptible(trainer: Trainer) -> Iterator[None]:
    """Ctrl-C or SIGTERM end training after the step at hand; a second one at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: Any) -> None:
        if trainer.interrupt:
            trainer.abandoned = True
            raise KeyboardInterrupt
        trainer.interrupt = _SIGNALS[signal.Signals(signum)]
        print("\nfinishing this step; Ctrl-C again stops at once", file=sys.stderr)

    before = {each: signal.signal(each, stop) for each in _SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
