"""The loop that :func:`pyrovae.fit` runs: steps, epochs, and what comes between them."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from pyrovae.callbacks import Progress
from pyrovae.svi import Snapshot
from pyrovae.training.faults import BadStep, enough_memory, examine, explained
from pyrovae.training.keeping import Keeper
from pyrovae.training.recovery import Recovery
from pyrovae.training.session import Session
from pyrovae.training.signals import Signals

__all__ = ["Trainer"]

VALIDATED = 20  # steps


class Trainer:
    """The loop.

    Args:
        session: the run.
        keeper: of its states.
        recovery: what is done about bad steps.
        bar: where it is shown.
        signals: that may end the run.
        batch_size: data per step.
        keep_best: whether the best weights are left in the pair.
    """

    def __init__(
        self,
        session: Session,
        keeper: Keeper,
        recovery: Recovery,
        bar: Progress,
        signals: Signals,
        *,
        batch_size: int,
        keep_best: bool,
    ) -> None:
        self.session, self.keeper, self.recovery = session, keeper, recovery
        self.bar, self.signals = bar, signals
        self.batch_size, self.keep_best = batch_size, keep_best

    def run(self) -> None:
        """Train to the end, or to where a callback or a signal ends it."""
        session = self.session
        self.keeper.rewrite(session.history.rows)
        with self.bar, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Encountered (NaN|.*inf)")  # it is looked into here
            self.bar.advance(session.place.data + (session.epoch - 1) * len(session.data))
            try:
                self._until_done()
                self._settle()
            finally:
                for callback in session.callbacks:
                    callback.end(session)

    def _until_done(self) -> None:
        session = self.session
        while True:
            try:
                if not session.step and not session.place.rollbacks:
                    self._checkpoint()
                while session.epoch <= session.epochs and not session.history.stopped:
                    self._epoch()
                self._checkpoint()
                if session.epoch > session.epochs:
                    self.keeper.close()
                return
            except BadStep as bad:
                self.recovery.go_back(bad)

    def _checkpoint(self) -> None:
        """Keep the state as the last good one, if it is good."""
        if not self.session.observed.sound():
            raise BadStep(f"after step {self.session.step}, a parameter is not finite")
        start = time.perf_counter()
        self.keeper.keep(self.session.shared_state(), start)

    def _epoch(self) -> None:
        session, place = self.session, self.session.place
        begun = time.perf_counter()
        epoch_before, before = place.epoch_seconds, place.seconds
        session.steps.gradient.verify()  # a callback may have changed the programs
        for batch in session.batches(self.batch_size):
            session.steps.clock(
                place.epoch - 1 + place.data / len(session.data), session.epochs, place.rate
            )
            with enough_memory(self.batch_size, session.steps.recipe.accumulate):
                count = self._step(batch)
            place.batches += 1
            place.data += count
            if self.bar.due():
                self.bar.show(place.epoch, session.measure.glance(batch))
            self.bar.advance(count)
            spent = time.perf_counter() - begun
            place.epoch_seconds, place.seconds = epoch_before + spent, before + spent
            if self._after_step():
                return
        self._watch(place.total)
        self._end_epoch()

    def _step(self, batch: tuple[Tensor, ...]) -> int:
        """One step of the optimiser; how many data it was made of."""
        session, place = self.session, self.session.place
        observed, steps = session.observed, session.steps
        # every datum is validated once, the distributions as training begins; from then on the
        # loss is watched
        validating = place.step < VALIDATED or (place.epoch == 1 and not observed.covered)
        before = Snapshot(observed.program) if self.recovery.careful else None
        with explained(observed, batch, place):
            count = steps.differentiate(batch, validating=validating)
        if before is not None:
            examine(observed, steps.loss, before, batch, place)
        steps.advance()
        place.total += steps.loss
        place.step += 1
        # reading a number waits for the device; on the CPU there is nothing to wait for
        if steps.loss.device.type == "cpu" or place.step % 50 == 0:
            self._watch(steps.loss)
        return count

    def _watch(self, value: Tensor) -> None:
        """Go back once the loss is no finite number."""
        if not math.isfinite(float(value)):
            raise BadStep(f"the loss is {float(value)} at step {self.session.step}")

    def _after_step(self) -> bool:
        """Checkpoints and reasons to stop; whether there is one."""
        session = self.session
        answers = [callback.step(session) for callback in session.callbacks]
        if self._agree(answers, due=self.keeper.due(session.step)):
            self._checkpoint()
        return bool(session.history.stopped)

    def _agree(self, answers: Sequence[str | bool | None], *, due: bool) -> bool:
        """Note whether a callback or a signal, in whichever process, ends the run; whether a
        checkpoint is due, which the first process says."""
        processes = self.session.processes
        reason = next((a if isinstance(a, str) else "a callback" for a in answers if a), "")
        reason = self.signals.came or reason
        if processes.size > 1:  # all do the same
            flags = torch.tensor([float(bool(reason)), float(due and processes.first)])
            processes.sum([flags])
            reason, due = reason or "another process" * bool(flags[0]), bool(flags[1])
        self.session.history.stopped = reason
        return due

    def _end_epoch(self) -> None:
        session, place = self.session, self.session.place
        history = session.history
        begun = time.perf_counter()
        size = min(self.batch_size, place.data)
        row: dict[str, float] = {
            "epoch": place.epoch,
            "step": place.step,
            "seconds": place.seconds,
            "images_per_second": place.data / max(place.epoch_seconds, 1e-9),
            "lr": float(session.optimizer.param_groups[0]["lr"]),
            "loss": float(place.total) / place.data / session.observed.scale(size),
        }
        with session.steps.averaged():
            row |= session.measure.row(place.step)
            history.rows.append(row)
            if "validation_elbo" in row and history.best() == len(history.rows) - 1:
                session.keep_best()
        place.seconds += time.perf_counter() - begun
        self.keeper.append(row)
        self.bar.end_epoch(row)
        answers = [callback.epoch(session) for callback in session.callbacks]
        place.next_epoch()
        session.opening = None
        self._agree(answers, due=False)

    def _settle(self) -> None:
        """Leave the weights in the pair that the run was made for."""
        self.session.steps.settle()
        if self.keep_best and self.session.best is not None:
            self.session.observed.fill(self.session.best.weights)
