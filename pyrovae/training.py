"""The only training loop: any pair, any ``pyro.infer`` ELBO, one optimiser over all parameters."""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from pyro.infer import ELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor
from tqdm.auto import tqdm

from pyrovae import runs, traces
from pyrovae.objectives import Objective
from pyrovae.schedules import Schedule
from pyrovae.svi import Step, fused_step
from pyrovae.tensors import StreamedData, TensorData, UsageError, as_data, whole_number
from pyrovae.traces import Pair, Structure, as_pair

__all__ = ["Diverged", "History", "fit"]

Data = TensorData | StreamedData
VALIDATED = 20  # steps


class Diverged(ArithmeticError):
    """The loss stopped being a finite number."""


@dataclass
class History:
    """What a training run saw, one row per epoch.

    Each row: ``epoch``, ``step``, ``seconds`` so far, ``images_per_second``, ``loss`` (the
    objective, mean over the epoch), then ``elbo``, ``reconstruction``, ``kl`` on at most 1,000
    training data at the epoch's end and ``validation_*`` on the held-out ones, all in nats per
    datum. The terms come from the pair's traces, so they mean the same whatever the loss.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    seed: int = 0
    device: str = "cpu"
    interrupted: bool = False

    def __getitem__(self, name: str) -> list[float]:
        return [row[name] for row in self.rows]

    @property
    def last(self) -> dict[str, float]:
        """The last epoch's row."""
        return self.rows[-1]


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """``"auto"``: CUDA when there is one, else the CPU; anything else is checked to be there.

    Raises:
        UsageError: a device that is not there.
    """
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        float(torch.zeros(1, device=chosen))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        reason = str(error).splitlines()[0].split(". ")[0]
        raise UsageError(
            f"device {str(device)!r} is not usable here ({reason}); there is {', '.join(there)}. "
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
    optimizer: Callable[[list[Tensor], float], torch.optim.Optimizer] | None = None,
    validation: Any = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    compile: bool | str = "auto",  # noqa: A002
    precision: str = "float32",
    out: str | Path | runs.Folder | None = None,
    force: bool = False,
    callbacks: Sequence[Callable[[History], Any]] = (),
    progress: bool = True,
) -> History:
    """Train a pair by stochastic variational inference.

    Args:
        pair: anything with ``.model`` and ``.guide``.
        x: tensor, array, tuple of them (``model(x, y)``), Dataset or DataLoader. NaN is a
            missing entry: it is left out of the likelihood, and the guide sees zero there.
        loss: any ``pyro.infer`` ELBO, ``pv.objectives`` included; ``Trace_ELBO()`` by default,
            ``TraceMeanField_ELBO()`` for the analytic KL.
        epochs: passes over the data.
        batch_size: data per step; the last batch of an epoch may be smaller.
        lr: the optimiser's learning rate.
        lr_schedule: a factor that it is multiplied by, e.g. ``schedules.Cosine()``.
        optimizer: ``optimizer(parameters, lr)``; fused Adam by default.
        validation: data to watch, or the fraction or number of data to hold out.
        seed: of data order, noise and split. The global random state is left as it was.
        device: ``"auto"`` is CUDA when there is one.
        compile: ``"auto"`` replaces Pyro's handlers by the graph that they leave behind, once the
            two have been found equal on the same noise, and that by kernels of ``torch.compile``
            where the steps to come save more than making them takes; True makes kernels at once
            and warns where that is not possible, False always runs the handlers. See
            :class:`pyrovae.svi.Step`.
        precision: "float32", or "bf16" for matrix products in bfloat16.
        out: folder to write ``metrics.csv``, ``model.safetensors`` and ``environment.json`` to.
        force: whether ``out`` may be a run that is there already.
        callbacks: called with the history after each epoch; one that returns True ends training.
        progress: a bar on a terminal or in a notebook, a line per epoch elsewhere.

    Returns:
        The history. The pair itself has been trained, on the device chosen.

    Raises:
        UsageError: model and guide sites that differ, no parameters, data outside the support,
            infinite data, a batch larger than they are, an existing run, a device that is not
            there.
        Diverged: a loss that is not finite.
        KeyboardInterrupt: Ctrl-C, after the step is finished and the run is saved.

    >>> from pyrovae.vae import VAE
    >>> _ = torch.manual_seed(0)
    >>> x = torch.bernoulli(torch.full((200, 6), 0.3))
    >>> history = fit(VAE((6,), 2), x, epochs=2, progress=False)
    >>> [sorted(history.last)[:4], len(history.rows)]
    [['elbo', 'epoch', 'images_per_second', 'kl'], 2]
    """
    loss = Trace_ELBO() if loss is None else loss
    whole_number("epochs", epochs)
    whole_number("batch_size", batch_size)
    if not (isinstance(lr, int | float) and 0 < lr < math.inf):
        raise UsageError(f"lr must be a positive number, got {lr!r}")
    chosen = choose_device(device)
    program = as_pair(pair)
    data = as_data(x)
    held_out: Data | None = None
    if isinstance(validation, int | float) and not isinstance(validation, bool):
        if validation:
            if not isinstance(data, TensorData):
                raise UsageError(
                    "streamed data cannot be split here; pass the held-out data as validation="
                )
            data, held_out = data.split(validation, seed)
    elif validation is not None:
        held_out = as_data(validation)
    if isinstance(data, TensorData) and batch_size > len(data):
        raise UsageError(
            f"batch_size {batch_size} is larger than the {len(data)} training data; use "
            f"batch_size={len(data)} or less"
        )
    folder = out if isinstance(out, runs.Folder) else None
    if out is not None and folder is None:
        folder = runs.Folder.prepare(cast("str | Path", out), force=force)

    program.to(chosen)
    data = as_data(program.serve(data), device=chosen)
    held_out = None if held_out is None else as_data(program.serve(held_out), device=chosen)
    for part in (data, held_out):
        if isinstance(part, TensorData) and len(missing := part.incomplete()):
            program = traces.completing(program, part.select(missing[:5])[:])
            break
    devices = [chosen.index or 0] if chosen.type == "cuda" else []
    history = History(seed=seed, device=str(chosen))
    with torch.random.fork_rng(devices), _interruptible(history), program.scope():
        torch.manual_seed(seed)
        trainer = _Trainer(program, data, held_out, loss, batch_size, seed, chosen)
        trainer.prepare(optimizer or _adam, lr, lr_schedule)
        trainer.evaluate = Step(program, loss, trainer.pair_parameters, compile, precision)
        if folder is not None:
            folder.create()
        try:
            trainer.run(history, epochs, callbacks, progress, folder)
        finally:
            if folder is not None:
                folder.save(pair, history.device)
    if history.interrupted:
        raise KeyboardInterrupt(f"training stopped after epoch {len(history.rows)}")
    return history


def _adam(parameters: list[Tensor], lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=lr, fused=True)


@contextmanager
def _interruptible(history: History) -> Iterator[None]:
    """Ctrl-C ends training after the step at hand; a second one at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: Any) -> None:
        if history.interrupted:
            raise KeyboardInterrupt
        history.interrupted = True
        print("\nfinishing this step; Ctrl-C again stops at once", file=sys.stderr)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Trainer:
    """The state of one call of :func:`fit`."""

    def __init__(
        self,
        pair: Pair,
        data: Data,
        held_out: Data | None,
        loss: ELBO,
        batch_size: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self.pair, self.data, self.loss = pair, data, loss
        self.batch_size, self.device = batch_size, device
        self.generator = torch.Generator(device).manual_seed(seed)
        # binarised once, so that validation curves compare the same data
        self.held_out = None if held_out is None else held_out.fixed(seed)
        self.step = 0
        self.data_checked = False
        self.shape: Structure | None = None
        self.evaluate: Step

    def prepare(
        self,
        optimizer: Callable[[list[Tensor], float], torch.optim.Optimizer],
        lr: float,
        lr_schedule: Schedule | None,
    ) -> None:
        """Everything that can be refused before the first step is."""
        if isinstance(self.data, TensorData):
            self.data.check_finite(missing=True)
        few = next(iter(self.data.batches(self.batch_size, generator=self._fresh())))
        self.pair.example(few)
        with self.pair.evaluating():
            if isinstance(self.data, TensorData):
                self.data_checked = traces.check_support(self.pair, few, self.data)
            traces.check(self.pair, few)
        try:
            self.shape = traces.structure(self.pair, few)
        except UsageError as error:
            warnings.warn(f"no reconstruction and KL while training: {error}", stacklevel=4)
        if isinstance(self.loss, TraceMeanField_ELBO):
            self._check_analytic()
        self.pair_parameters = traces.parameters(self.pair, few)
        idle = traces.unreached(self.pair, self.pair_parameters)
        if idle:
            warnings.warn(
                f"the log probabilities do not depend on {', '.join(idle)}: not trained",
                stacklevel=4,
            )
        self.optimizer = optimizer(list(self.pair_parameters.values()), lr)
        self.advance = fused_step(self.optimizer)
        self.lr_schedule = lr_schedule
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        if isinstance(self.loss, Objective):
            self.loss.prepare(len(self.data))

    def _fresh(self) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(0)

    def _check_analytic(self) -> None:
        if self.shape is None:
            return
        unsafe = [n for n in self.shape.latents if n not in self.shape.closed_form]
        scored = [n for n in self.shape.latents if n not in self.shape.pathwise]
        if scored:
            raise UsageError(
                f"TraceMeanField_ELBO differentiates through the draws of {', '.join(scored)}, "
                f"which are not reparameterised: gradients would be wrong. Use Trace_ELBO(), or "
                f"enumerate a discrete site with TraceEnum_ELBO()"
            )
        if unsafe:
            raise UsageError(
                f"TraceMeanField_ELBO would be silently wrong here: in the model, the site(s) "
                f"{', '.join(unsafe)} come after latents that the guide draws later, so their KL "
                f"has no closed form given what the guide has drawn. Use Trace_ELBO(), or draw "
                f"the guide's sites in the model's order"
            )

    def run(
        self,
        history: History,
        epochs: int,
        callbacks: Sequence[Callable[[History], Any]],
        progress: bool,
        folder: runs.Folder | None,
    ) -> None:
        bar = _Progress(epochs, len(self.data), progress)
        self.evaluate.remaining = epochs * math.ceil(len(self.data) / self.batch_size)
        if progress:
            self.evaluate.say = bar.say
        start = time.perf_counter()
        with bar:
            for epoch in range(1, epochs + 1):
                self._epoch(epoch, epochs, history, bar)
                row: dict[str, float] = {"epoch": epoch, "step": self.step}
                row["seconds"] = time.perf_counter() - start
                row["images_per_second"] = self.rate
                row["loss"] = self.epoch_loss
                row |= self._terms(self.data, "")
                if self.held_out is not None:
                    row |= self._terms(self.held_out, "validation_")
                history.rows.append(row)
                if folder is not None:
                    folder.append(row)
                bar.end_epoch(row)
                stop = [callback(history) for callback in callbacks]
                if any(stop) or history.interrupted:
                    return

    def _clock(self, epoch: float, epochs: int) -> None:
        """Tell the time to what changes over training."""
        if isinstance(self.loss, Objective):
            self.loss.clock(epoch, epochs)
        if self.lr_schedule is not None:
            factor = self.lr_schedule.at(epoch, epochs)
            for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate * factor

    def _epoch(self, epoch: int, epochs: int, history: History, bar: _Progress) -> None:
        start, seen = time.perf_counter(), 0
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        batches = self.data.batches(self.batch_size, shuffle=True, generator=self.generator)
        self.evaluate.verify()  # a callback may have changed the programs
        for batch in batches:
            # every datum is validated once, the distributions as training begins; from then on
            # the loss is watched
            self._clock(epoch - 1 + seen / len(self.data), epochs)
            validating = self.step < VALIDATED or (epoch == 1 and not self.data_checked)
            value = self.evaluate(batch, validating=validating)
            self.advance()
            total += value
            seen += len(batch[0])
            self.step += 1
            # reading a number waits for the device; on the CPU there is nothing to wait for
            if self.device.type == "cpu" or self.step % 50 == 0:
                self._watch(value)
            if bar.due():
                bar.show(epoch, self._batch_terms(batch))
            bar.advance(len(batch[0]))
            if history.interrupted:
                break
        self._watch(total)
        self.rate = seen / (time.perf_counter() - start)
        self.epoch_loss = float(total) / seen / self._scale(seen)

    def _scale(self, seen: int) -> float:
        """A plate that stands for N data scales a batch of B by N / B."""
        if self.shape is None or self.shape.size is None:
            return 1.0
        return self.shape.size / min(self.batch_size, seen)

    def _terms(self, data: Data, prefix: str, most: int = 1000) -> dict[str, float]:
        """Means over at most ``most`` data, one particle each; the random state is untouched."""
        sums: dict[str, float] = {}
        count = 0
        for batch in data.batches(min(self.batch_size, len(data)), generator=self._fresh()):
            for name, value in self._batch_terms(batch).items():
                sums[name] = sums.get(name, 0.0) + value * len(batch[0])
            count += len(batch[0])
            if count >= most and not prefix:
                break
        return {prefix + name: value / count for name, value in sums.items()}

    def _batch_terms(self, batch: tuple[Tensor, ...]) -> dict[str, float]:
        if self.shape is None:
            return {}
        with self.pair.evaluating():
            drawn = traces.draw(self.pair, batch, 1, self.shape)
            reconstruction = drawn.reconstruction.mean()
            kl = drawn.total_kl.mean()
        return {
            "elbo": float(reconstruction - kl),
            "reconstruction": float(reconstruction),
            "kl": float(kl),
        }

    def _watch(self, value: Tensor) -> None:
        """Raise Diverged once the loss is no finite number."""
        if math.isfinite(float(value)):
            return
        bad = [n for n, p in self.pair_parameters.items() if not bool(torch.isfinite(p).all())]
        where = f"; not finite: {', '.join(bad)}" if bad else ""
        raise Diverged(
            f"the loss is {float(value)} at step {self.step}{where}. Lower lr, look for extreme "
            f"values in the data (standardise them), or bound the scales"
        )


class _Progress:
    """A bar where there is a terminal or a notebook, one line per epoch where there is none."""

    def __init__(self, epochs: int, size: int, enabled: bool) -> None:
        interactive = sys.stderr.isatty() or "ipykernel" in sys.modules
        self.epochs, self.enabled = epochs, enabled
        self.bar = tqdm(
            total=epochs * size,
            unit=" images",
            unit_scale=True,
            disable=not (enabled and interactive),
            dynamic_ncols=True,
            bar_format="{desc} {bar} {percentage:3.0f}% {rate_fmt}, {remaining} left{postfix}",
        )
        self.quiet = not enabled or interactive
        self.shown = 0.0

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.close()

    def say(self, message: str) -> None:
        self.bar.write(message, file=sys.stderr)

    def advance(self, count: int) -> None:
        self.bar.update(count)

    def due(self) -> bool:
        now = time.perf_counter()
        if self.bar.disable or now - self.shown < 1.0:
            return False
        self.shown = now
        return True

    def show(self, epoch: int, terms: dict[str, float]) -> None:
        self.bar.set_description(f"epoch {epoch}/{self.epochs}", refresh=False)
        self.bar.set_postfix_str(_in_words(terms), refresh=False)

    def end_epoch(self, row: dict[str, float]) -> None:
        if not self.quiet:
            print(
                f"epoch {row['epoch']:.0f}/{self.epochs}  {row['images_per_second']:,.0f} "
                f"images/s  {_in_words(row)}",
                file=sys.stderr,
                flush=True,
            )


def _in_words(row: dict[str, float]) -> str:
    words = [
        f"{word} {row[name]:.2f}"
        for word, name in (
            ("ELBO", "elbo"),
            ("reconstruction", "reconstruction"),
            ("KL", "kl"),
            ("validation ELBO", "validation_elbo"),
        )
        if name in row
    ]
    return " ".join(words)
