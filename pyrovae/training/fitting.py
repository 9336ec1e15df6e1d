"""Training: :func:`fit` any pair with any ``pyro.infer`` ELBO."""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Annotated, cast

import torch
from pyro.infer import ELBO
from torch import Tensor
from torch.nn.parameter import is_lazy

from pyrovae import runs, traces
from pyrovae.callbacks import Callback, EachEpoch, History, Progress
from pyrovae.errors import UsageError, got, in_short
from pyrovae.processes import Processes, local_device
from pyrovae.randomness import own_randomness
from pyrovae.schedules import Schedule
from pyrovae.signatures import checked
from pyrovae.streams import Data, as_data
from pyrovae.traces import Args, Pair, as_pair
from pyrovae.training import identity
from pyrovae.training.keeping import Keeper
from pyrovae.training.measure import Measure, watched_of
from pyrovae.training.observed import Observed, always_alike
from pyrovae.training.recovery import Recovery
from pyrovae.training.session import Session
from pyrovae.training.settings import Count, Flag, Positive, Seed, Share, Whole
from pyrovae.training.signals import Signals, end_program
from pyrovae.training.state import Place, State, checkpoint_of_this_run, named
from pyrovae.training.steps import Optimizer, Recipe, Steps
from pyrovae.training.trainer import Trainer
from pyrovae.turns import turn

__all__ = ["choose_device", "fit"]

# where none are given: data per step, passes, steps at least
BATCH, SMALL, EPOCHS, STEPS = 128, 16, 40, 1200


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


def _loss(name: str, given: object) -> ELBO | None:
    if given is not None and not isinstance(given, ELBO):
        raise UsageError(
            f"{name} must be an ELBO such as pyro.infer.Trace_ELBO() or pv.objectives.IWAE(), got "
            f"{got(given)}"
        )
    return given


def _schedule(name: str, given: object) -> Schedule | None:
    if given is not None and not isinstance(given, Schedule):
        raise UsageError(
            f"{name} must be a schedule such as pv.schedules.Cosine(), got {got(given)}"
        )
    return given


def _optimizer(name: str, given: object) -> Optimizer | None:
    if given is not None and (isinstance(given, Tensor) or not callable(given)):
        raise UsageError(
            f"{name} must be a function optimizer(parameters, lr) such as torch.optim.Adam, got "
            f"{got(given)}"
        )
    return cast("Optimizer | None", given)


def _callbacks(name: str, given: object) -> list[Callback]:
    """The callbacks, functions among them."""
    if isinstance(given, list | tuple):
        return [_callback(name, one) for one in given]
    raise _no_callback(name, given)


def _callback(name: str, given: object) -> Callback:
    if isinstance(given, Callback):
        return given
    if callable(given) and not isinstance(given, type):
        return EachEpoch(given)
    raise _no_callback(name, given)


def _no_callback(name: str, given: object) -> UsageError:
    return UsageError(
        f"{name} must be a list of pv.callbacks.Callback objects or functions of the history, got "
        f"{got(given)}"
    )


@checked
def fit(
    pair: object,
    x: object,
    *,
    loss: Annotated[ELBO | None, _loss] = None,
    epochs: Whole | None = None,
    batch_size: Whole | None = None,
    lr: Positive = 1e-3,
    lr_schedule: Annotated[Schedule | None, _schedule] = None,
    optimizer: Annotated[Optimizer | None, _optimizer] = None,
    accumulate: Whole = 1,
    clip_norm: Positive | None = None,
    ema: Share | None = None,
    validation: object = None,
    keep_best: Flag = False,
    seed: Seed = 0,
    device: str | torch.device = "auto",
    compile: bool | str = "auto",  # noqa: A002
    precision: str = "float32",
    out: str | Path | runs.Folder | None = None,
    force: Flag = False,
    resume: Flag = False,
    checkpoint_every: Whole | None = None,
    rollbacks: Count = 0,
    callbacks: Annotated[Sequence[Callback | Callable[[History], object]], _callbacks] = (),
    progress: Flag = True,
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
        epochs: passes over the data, by default 40, or of few data as many as take 1,200 steps.
        batch_size: data per step, by default 128, or an eighth of fewer than 1,024 data and at
            least 16. The last batch of an epoch may be smaller.
        lr: the optimiser's learning rate.
        lr_schedule: a factor that it is multiplied by, e.g. ``schedules.Cosine(warmup=5)``.
        optimizer: ``optimizer(parameters, lr)``; fused Adam by default.
        accumulate: in how many parts a batch is taken, for less memory. Parts are independent:
            batch statistics (BatchNorm, ``MMD``, ``TotalCorrelation``) are those of a part.
        clip_norm: the largest norm that all gradients together may have.
        ema: the share of the weights' moving average that a step keeps, 0.999, say. The average
            is what is measured, saved and left in the pair.
        validation: data to watch, or the fraction or number of data to hold out.
        keep_best: leave the weights of the epoch with the best validation ELBO in the pair,
            instead of the last ones.
        seed: of data order, noise and split; on the command line of the first weights too. The
            global random state is left as it was.
        device: ``"auto"``, which is CUDA where there is one, ``"cpu"``, ``"cuda:1"``, ...
        compile: ``"auto"``, True or False: kernels in the place of Pyro's handlers. ``"auto"``
            replaces the handlers by the graph that they leave behind, once the two have been
            found equal on the same noise, and that by kernels of ``torch.compile`` where the
            steps to come save more than making them takes; True makes kernels at once and warns
            where that is not possible, False always runs the handlers. See
            :class:`pyrovae.svi.Step`.
        precision: "float32", or "bf16" for matrix products in bfloat16.
        out: the run's folder; the command line makes one in ``runs/`` by default. It gets
            ``metrics.csv``, ``model.safetensors``, ``environment.json`` and ``checkpoints/``, from
            which ``resume`` goes on.
        force: overwrite the files of a run that is in ``out`` already.
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
            infinite data, data without one known entry, a batch that was asked to be larger than
            they are, an existing run, one that another process writes, a device that is not there,
            a checkpoint of another run.
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
    chosen, program = choose_device(device), as_pair(pair)
    given = as_data(program.table(x), scale=program.scale)
    data, held_out = _parts(given, program.table(validation), seed, program.scale)
    size = _size_of_batches(data, batch_size)
    epochs = epochs or _usual_epochs(data, size)
    _check_together(data, held_out, size, accumulate, keep_best=keep_best)
    if resume and out is None:
        raise UsageError("resume needs the run's folder: give out= (--out)")
    recipe = Recipe(
        loss, optimizer, lr, lr_schedule, accumulate, clip_norm, ema, compile, precision
    )
    own = torch.cuda.device(chosen) if chosen.type == "cuda" else nullcontext()
    with (
        turn("fit"),
        own,
        torch.inference_mode(False),  # whatever surrounds the call
        torch.enable_grad(),
        Processes.together(chosen) as processes,
        _folder(out if processes.first else None, force=force, resume=resume) as folder,
    ):
        first = processes.first
        program, data, held_out = _served(program, data, held_out, chosen, seed)
        bar = Progress(epochs, len(data), progress and first)
        keeper = Keeper(pair, folder, processes, checkpoint_every)
        with own_randomness(seed + 7919 * processes.rank), program.scope(), Signals() as signals:
            session = _session(
                pair, program, data, held_out, recipe, keeper, bar, resume=resume, epochs=epochs,
                batch_size=size, keep_best=keep_best, seed=seed, device=chosen,
                callbacks=cast("Sequence[Callback]", callbacks if first else ()),
            )  # fmt: skip
            recovery = Recovery(session, keeper, rollbacks, bar.say)
            trainer = Trainer(
                session, keeper, recovery, bar, signals, batch_size=size, keep_best=keep_best
            )
            try:
                trainer.run()
            except BaseException:  # it is told of, not what cannot be written besides
                if not signals.twice:
                    with suppress(UsageError):
                        keeper.finish(session.history.device)
                raise
            keeper.finish(session.history.device)
    words = f"training stopped in epoch {session.epoch}, after step {session.step}"
    end_program(session.history.stopped, words + "; resume goes on from there" * (out is not None))
    return session.history


def _session(
    pair: object,
    program: Pair,
    data: Data,
    held_out: Data | None,
    recipe: Recipe,
    keeper: Keeper,
    bar: Progress,
    *,
    resume: bool,
    epochs: int,
    batch_size: int,
    keep_best: bool,
    seed: int,
    device: torch.device,
    callbacks: Sequence[Callback],
) -> Session:
    """The run up to its first step: the first of all, or that after a checkpoint. What can be
    refused is refused here, before anything is written."""
    processes, folder = keeper.processes, keeper.folder
    few = _first_data(data, batch_size, processes)
    known = {"batch_size": repr(batch_size), "seed": repr(seed)}
    known |= {"compile": repr(recipe.compile), "keep_best": repr(keep_best)}
    watched = watched_of(data, seed)
    _check_known(watched, held_out)
    compared = folder is not None or processes.size > 1
    known |= identity.of_data(data, watched, held_out, few, whole=compared)
    known |= identity.of_pair(program, few) if compared else {}
    state = keeper.begun() if resume else None
    if state is not None:  # what the programs declare when they first run gets its value
        identity.check(known, state.identity)
        with checkpoint_of_this_run():
            state = named(state, program, few)
            program.fill(state.weights.named, "the checkpoint")
    observed = Observed(program, data, held_out, few)
    data, held_out = observed.data, observed.held_out
    steps = Steps(observed, recipe, processes, len(data))
    steps.expect(epochs * math.ceil(len(data) / batch_size), bar.say)
    known |= steps.identity()
    identity.check_everywhere(known, processes)
    _check_leaves(observed, processes)
    session = Session(
        pair=pair,
        data=data,
        held_out=held_out,
        observed=observed,
        steps=steps,
        measure=Measure(observed, watched, held_out, processes, size=batch_size, device=device),
        history=History(seed=seed, device=str(device)),
        identity=known,
        processes=processes,
        generator=torch.Generator(device).manual_seed(seed),
        callbacks=callbacks,
        epochs=epochs,
        out=None if folder is None else folder.path,
        place=Place().on(device),
    )
    _begin(session, state, folder, bar, resume=resume)
    return session


def _begin(
    session: Session,
    state: State | None,
    folder: runs.Folder | None,
    bar: Progress,
    *,
    resume: bool,
) -> None:
    """Take up the state, if there is one, and write that the run begins or goes on."""
    if state is not None:
        identity.check(session.identity, state.identity)
        _say_changes(session, state)
        if not session.restore(state):
            count = len(state.random)
            bar.say(f"begun by {count} processes: the noise is new from here on")
    for callback in session.callbacks:
        callback.begin(session)
    if folder is not None and state is None:
        folder.create()
    elif folder is not None:
        folder.introduce()
    if state is not None:
        bar.say(f"going on after step {session.step}, in epoch {session.epoch}")
    elif resume and folder is not None:
        bar.say(f"there is no run in {folder.path} to go on with: it begins anew")


def _say_changes(session: Session, state: State) -> None:
    """Warn of what may change when a run goes on, and of epochs that are over already."""
    if words := identity.changes_said(session.identity, state.identity):
        warnings.warn(f"the run goes on otherwise than it was begun: {words}", stacklevel=6)
    if state.place.epoch - 1 + bool(state.place.batches) > session.epochs:
        begun = state.place.epoch - (not state.place.batches)
        warnings.warn(
            f"the run is in epoch {begun} already and epochs={session.epochs} asks for fewer: it "
            f"is left as it is after step {state.place.step}",
            stacklevel=6,
        )


def _first_data(data: Data, batch_size: int, processes: Processes) -> Args:
    """The first batch, the same whenever it is asked for."""
    data.check_finite()
    for name, value in (("data", len(data)), ("batch_size", batch_size)):
        processes.agree(name, value)
    few = next(iter(data.batches(batch_size, generator=always_alike(data.device))), ())
    if not few or not len(few[0]):
        raise UsageError("there are no data: the DataLoader yields no batch")
    return few


def _check_known(watched: Data, held_out: Data | None) -> None:
    """Refuse data of which nothing is known; warn of entries that no datum has."""
    words = watched.check_known()
    if held_out is not None:
        held_out.check_known()
    if words:
        warnings.warn(f"{words}: nothing is learned there, leave it out", stacklevel=5)


def _check_leaves(observed: Observed, processes: Processes) -> None:
    """The same parameters in every process; a warning of those that are not trained."""
    processes.agree("parameters", sum(leaf.numel() for leaf in observed.leaves.values()))
    processes.same([*observed.program.tensors().values()])
    idle = observed.idle()
    if idle:
        warnings.warn(
            f"the log probabilities do not depend on {', '.join(idle)}: not trained", stacklevel=5
        )


@contextmanager
def _folder(
    out: str | Path | runs.Folder | None, *, force: bool, resume: bool
) -> Iterator[runs.Folder | None]:
    """The run's folder, where no other process writes meanwhile."""
    if out is None:
        yield None
        return
    if not isinstance(out, runs.Folder):
        out = runs.Folder.prepare(out, force=force, resume=resume)
    with out.alone():
        yield out


def _served(
    program: Pair, data: Data, held_out: Data | None, device: torch.device, seed: int
) -> tuple[Pair, Data, Data | None]:
    """Pair and data on the device, and as they take each other."""
    program.to(device)
    tensors = program.tensors().values()
    if any(tensor.is_inference() for tensor in tensors if not is_lazy(tensor)):
        raise UsageError(
            "the pair was made under torch.inference_mode(), and its parameters can never be "
            "trained: make it outside of that"
        )
    data = as_data(program.serve(data), device=device)
    if held_out is not None:
        held_out = as_data(program.serve(held_out), device=device)
    program.begin()
    whole = program
    program, data = traces.met(whole, data)
    if held_out is not None:
        other, held_out = traces.met(whole, held_out)
        program = other if program is whole else program
    # binarised once, so that validation curves compare the same data
    return program, data, None if held_out is None else held_out.fixed(seed)


def _size_of_batches(data: Data, given: int | None) -> int:
    """What was given, or the usual size where there are as many data."""
    if given is not None:
        return given
    return BATCH if data.own_batches else min(BATCH, max(SMALL, len(data) // 8), len(data))


def _usual_epochs(data: Data, size: int) -> int:
    """So many that few data are looked at long enough."""
    return EPOCHS if data.own_batches else max(EPOCHS, STEPS // math.ceil(len(data) / size))


def _check_together(
    data: Data, held_out: Data | None, batch_size: int, accumulate: int, *, keep_best: bool
) -> None:
    """What settings and data must not say against each other."""
    if accumulate > batch_size:
        raise UsageError(
            f"a batch of {batch_size} cannot be taken in {accumulate} parts; lower accumulate"
        )
    if keep_best and held_out is None:
        raise UsageError("keep_best needs validation data: give validation=0.1, say")
    if not data.own_batches and batch_size > len(data):
        raise UsageError(
            f"batch_size {batch_size} is larger than the {len(data)} training data; use "
            f"batch_size={len(data)} or less"
        )


def _parts(
    data: Data, validation: object, seed: int, scale: float | None
) -> tuple[Data, Data | None]:
    """The data to train on and those to watch."""
    if isinstance(validation, numbers.Real) and not isinstance(validation, bool):
        if not validation:
            return data, None
        return data.split(cast(float, validation), seed)
    if validation is None:
        return data, None
    held_out = as_data(validation, scale=scale)
    if not (data.own_batches or held_out.own_batches):
        ours, theirs = (list(part.event_shape) for part in (data, held_out))
        if ours != theirs:
            raise UsageError(
                f"validation data must be of the shape of the training data: one datum is "
                f"{theirs}, of x {ours}. To hold out a part of x give a fraction in (0, 1) or a "
                f"number of data"
            )
    return data, held_out
