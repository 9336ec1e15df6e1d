"""The loop that :func:`pyrovae.fit` runs: steps, epochs, checkpoints, faults."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from pyro.infer import ELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from pyrovae import traces
from pyrovae.callbacks import Callback, History, Progress
from pyrovae.checkpoints import Checkpoints, Memory, check_alike, copied, from_bytes, to_bytes
from pyrovae.errors import UsageError, in_short
from pyrovae.objectives import BetaELBO, Objective
from pyrovae.processes import Processes
from pyrovae.randomness import pack, put_back, states, unpack
from pyrovae.runs import Folder
from pyrovae.schedules import Schedule
from pyrovae.streams import Data
from pyrovae.svi import Snapshot, Step, fused_step
from pyrovae.traces import Pair, Structure
from pyrovae.training.checks import Optimizer, adds, check_analytic, in_words, made
from pyrovae.training.faults import Bad, Diverged, memory, unlike
from pyrovae.training.measure import WATCHED, Measure, fresh
from pyrovae.training.settings import Settings

__all__ = ["Trainer"]

VALIDATED = 20  # steps
RARELY = 100  # a checkpoint is made after so many times as long as the last one took


class Trainer:
    """One run of :func:`pyrovae.fit`; to callbacks, a :class:`pyrovae.callbacks.Run`."""

    def __init__(
        self,
        pair: Any,
        program: Pair,
        data: Data,
        held_out: Data | None,
        loss: ELBO | None,
        settings: Settings,
        *,
        lr_schedule: Schedule | None,
        device: torch.device,
        processes: Processes,
        folder: Folder | None,
        progress: bool,
        callbacks: Sequence[Callback],
    ) -> None:
        self.pair, self.program, self.data = pair, program, data
        self.objective = loss or Trace_ELBO()
        self.usual = loss is None
        self.settings, self.lr_schedule = settings, lr_schedule
        self.device, self.processes = device, processes
        self.folder, self.callbacks = folder, callbacks
        self.out: Path | None = None if folder is None else folder.path
        self.epochs = settings.epochs
        self.generator = torch.Generator(device).manual_seed(settings.seed)
        # binarised once, so that validation curves compare the same data
        self.held_out = None if held_out is None else held_out.fixed(settings.seed)
        # the first rows of a file may be of one kind
        in_files = not (data.in_memory or data.own_batches)
        self.watched = data.sample(WATCHED, settings.seed) if in_files else data
        self.history = History(seed=settings.seed, device=str(device))
        self.bar = Progress(settings.epochs, len(data), progress and processes.first)
        self.kept: Checkpoints | Memory = Memory() if folder is None else folder.checkpoints
        self.step, self.epoch = 0, 1
        self.taken, self.seen = 0, 0  # batches and data of the epoch at hand
        self.total = torch.zeros((), dtype=torch.float64, device=device)
        self.loss = torch.zeros((), device=device)
        self.seconds, self.epoch_seconds = 0.0, 0.0
        self.opening: Tensor | None = None  # the random states as the epoch began
        self.rate, self.rolled = 1.0, 0
        self.best: dict[str, Any] | None = None
        self.best_kept = 0  # its epoch, once it is on disk
        self.average: list[Tensor] | None = None
        self.careful = False
        self.next_checkpoint = 0.0
        self.interrupt = ""  # the signal that came, if one did
        self.abandoned = False  # it came twice
        self.shape: Structure | None = None
        self.take: Step

    # --- before the first step ------------------------------------------------------------------

    def begin(
        self,
        optimizer: Optimizer,
        compile: bool | str,  # noqa: A002
        precision: str,
        *,
        resume: bool,
    ) -> None:
        """Everything up to the first step: the first of all, or that after a checkpoint."""
        state = None
        if resume and self.folder is not None:
            self.folder.checkpoints.tidy()
            state = self.folder.checkpoints.read()
        if resume:
            state = self.shared(state)
        if state is not None:  # what the programs declare when they first run gets its value
            self._own(lambda: self.program.fill(state["weights"][0], "the checkpoint"))
        self.prepare(optimizer, compile, precision)
        if state is not None:
            self.restore(state)
        for callback in self.callbacks:
            callback.begin(self)
        if state is not None:
            if self.folder is not None:
                self.folder.introduce()
            self.bar.say(f"going on after step {self.step}, in epoch {self.epoch}")
        elif self.folder is not None:
            self.folder.create()

    def prepare(self, optimizer: Optimizer, compile: bool | str, precision: str) -> None:  # noqa: A002
        """Everything that can be refused before the first step is."""
        self.data.check_finite()
        size = self.settings.batch_size
        for name, value in (("data", len(self.data)), ("batch_size", size)):
            self.processes.agree(name, value)
        few = next(iter(self.data.batches(size, generator=fresh(self.device))), ())
        if not few or not len(few[0]):
            raise UsageError("there are no data: the DataLoader yields no batch")
        self.few = few
        self.program.example(few)
        with self.program.evaluating():
            self.supports = traces.Supports(self.program, few)
            self.data = self.supports.check(self.data)
            if self.held_out is not None:
                self.held_out.check_finite()
                self.held_out = self.supports.check(self.held_out)
            traces.check(self.program, few)
        try:
            self.shape = traces.structure(self.program, few)
        except UsageError as error:
            warnings.warn(f"no reconstruction and KL while training: {error}", stacklevel=4)
        if self.usual and self.shape is not None and self.shape.enumerated:
            self.objective = BetaELBO()  # sums them out, and its steps can be compiled
        if isinstance(self.objective, TraceMeanField_ELBO) and self.shape is not None:
            check_analytic(self.shape)
        self.measure = Measure(self.program, self.shape, few, self.processes, size, self.device)
        self.adds = True
        if self.settings.accumulate > 1 or self.processes.size > 1:
            self.adds = adds(self.program, few, self.shape)
        self.leaves = traces.parameters(self.program, few)
        self.processes.agree("parameters", sum(leaf.numel() for leaf in self.leaves.values()))
        self.processes.same([*self.program.tensors().values()])
        idle = traces.unreached(self.program, self.leaves)
        if idle:
            warnings.warn(
                f"the log probabilities do not depend on {', '.join(idle)}: not trained",
                stacklevel=4,
            )
        self.make_optimizer = optimizer
        self.optimizer = made(optimizer, list(self.leaves.values()), self.settings.lr)
        self.advance = fused_step(self.optimizer)
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        if self.settings.ema is not None:
            self.average = [leaf.detach().clone() for leaf in self.leaves.values()]
        if isinstance(self.objective, Objective):
            self.objective.prepare(len(self.data))
        self.take = Step(self.program, self.objective, self.leaves, compile, precision)
        self.take.steps = self.epochs * math.ceil(len(self.data) / size) * self.settings.accumulate
        self.take.say = self.bar.say
        first = few[0].detach().double().nansum() if self.data.in_memory else 0.0
        self.told = self.settings.told() | {
            "loss": in_words(self.objective),
            "lr_schedule": repr(self.lr_schedule),
            "optimizer": type(self.optimizer).__name__,
            "precision": precision,
            "data": f"{len(self.data)} data (sum of the first {float(first):.6g})",
            "validation": "none" if self.held_out is None else f"{len(self.held_out)} data",
        }

    # --- the state, and going back to it ----------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that the rest of the run depends on."""
        now = pack(self._states())
        opening = now if self.opening is None else self.opening
        return {
            "told": self.told,
            "position": [self.step, self.epoch, self.taken, self.seen],
            "total": self.total,
            "seconds": [self.seconds, self.epoch_seconds],
            "rows": self.history.rows,
            "rolled": [self.rate, self.rolled],
            "refused": self.take.why_not if self.take.compile else "",
            "optimizer": self.optimizer.state_dict(),
            "weights": self._weights(),
            "average": self.average,
            "best": self.best,
            "random": self.processes.gather(torch.stack([opening, now])),
        }

    def shared(self, state: Any) -> Any:
        """The first process's state, in all of them."""
        if self.processes.size == 1:
            return state
        sent = to_bytes(state)
        size = torch.tensor([len(sent)])
        self.processes.same([size])
        if not self.processes.first:
            sent = torch.empty(int(size), dtype=torch.uint8)
        self.processes.same([sent])
        return from_bytes(sent)

    def restore(self, state: Any, *, strict: bool = True) -> None:
        """Go back, or on, to a state.

        Raises:
            UsageError: it is not one of this run.
        """
        self._own(lambda: self._restore(state, strict))

    def _own(self, go_back: Callable[[], None]) -> None:
        try:
            go_back()
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(
                f"the checkpoint is not one of this run ({type(error).__name__}: {error}); give "
                f"the pair and settings that made it, or start anew"
            ) from error

    def _restore(self, state: Any, strict: bool) -> None:
        told = state["told"]
        changed = {k: (v, told.get(k)) for k, v in self.told.items() if told.get(k) != v}
        if changed and strict:
            words = "; ".join(f"{k} was {was}, is now {now}" for k, (now, was) in changed.items())
            raise UsageError(
                f"this is not the run that was begun: {words}. Resume with what it was begun "
                f"with, or start anew (pv.load gives its weights)"
            )
        self._check(state)
        self.step, self.epoch, self.taken, self.seen = state["position"]
        self.total = state["total"].to(self.device, copy=True)
        self.seconds, self.epoch_seconds = state["seconds"]
        self.history.rows[:] = [dict(row) for row in state["rows"]]
        self.rate, self.rolled = state["rolled"]
        if state["refused"] and not self.take.why_not:
            self.take.refuse(state["refused"])
        self._fill(state["weights"])
        with torch.no_grad():
            for mean, value in zip(self.average or (), state["average"] or (), strict=True):
                mean.copy_(value)
        self._load_optimizer(copied(state["optimizer"]))
        self.best = state["best"]
        all_random, rank = state["random"], self.processes.rank
        self.opening, now = all_random[min(rank, len(all_random) - 1)]
        put_back(unpack(now, self._states()), self._generators())
        if len(all_random) != self.processes.size:
            self.bar.say(f"begun by {len(all_random)} processes: the noise is new from here on")
            torch.manual_seed(self.settings.seed + 1000 * self.step + rank)

    def _check(self, state: Any) -> None:
        """Raise where a state is not made as this run's own are; a file may hold anything."""
        own, best, now = self.state(), state["best"], pack(self._states())
        columns = self.measure.columns(self.held_out is not None)
        free = {
            "told": dict.fromkeys(state["told"], ""),
            "rows": [dict.fromkeys(columns, 0.0)] * len(state["rows"]),
            "random": [torch.stack([now, now])] * len(state["random"]),
            "best": None if best is None else {"epoch": 0, "weights": own["weights"]},
            "optimizer": state["optimizer"],
        }
        check_alike(own | free, state)
        if min(state["position"]) < 0 or state["position"][1] < 1 or not state["random"]:
            raise ValueError(f"it is of step, epoch, batch and datum {state['position']}")

    def _load_optimizer(self, state: Any) -> None:
        """Take over a state like that of a twin that has taken a step: a kernel that is given
        another may read beyond its end."""
        twins = [leaf.detach().clone().requires_grad_() for leaf in self.leaves.values()]
        for twin in twins:
            twin.grad = torch.zeros_like(twin)
        other = self.make_optimizer(twins, self.settings.lr)
        other.step()
        own = other.state_dict()
        own["state"] = {index: own["state"][index] for index in state["state"]}
        check_alike(own, state, "optimizer")
        for mine, theirs in zip(own["param_groups"], state["param_groups"], strict=True):
            if mine["params"] != theirs["params"]:
                raise ValueError("the optimiser's parameters are others")
        self.optimizer.load_state_dict(state)

    def _weights(self) -> list[dict[str, Tensor]]:
        """Parameters and buffers by name, and the leaves that the pair has no name for."""
        known = self.program.tensors()
        reached = {id(tensor) for tensor in known.values()}
        return [known, {n: p for n, p in self.leaves.items() if id(p) not in reached}]

    def _fill(self, weights: list[dict[str, Tensor]]) -> None:
        named, strays = weights
        self.program.fill(named, "the checkpoint")
        with torch.no_grad():
            for name, value in strays.items():
                self.leaves[name].copy_(value)

    def _states(self) -> dict[str, Tensor]:
        return states(self._generators())

    def _generators(self) -> list[torch.Generator]:
        loader = getattr(self.data, "loader", None)
        own = [getattr(part, "generator", None) for part in (loader, getattr(loader, "sampler", 0))]
        found = {id(g): g for g in own if isinstance(g, torch.Generator)}
        return [self.generator, *found.values()]

    def _checkpoint(self) -> None:
        """Keep the state as the last good one, if it is good."""
        if not self._sound():
            raise Bad(f"after step {self.step}, a parameter is not finite")
        start = time.perf_counter()
        state = self.state()
        try:
            if self.processes.first:
                self.kept.write(state)
                if self.folder and self.best and self.best["epoch"] != self.best_kept:
                    self.folder.save_best(self.pair, self.best["weights"][0])
                    self.best_kept = self.best["epoch"]
        except UsageError as error:  # hours of work are worth more than a full disk
            warnings.warn(f"no checkpoint at step {self.step}: {error}", stacklevel=2)
        now = time.perf_counter()
        self.next_checkpoint = now + RARELY * (now - start)

    def _due(self) -> bool:
        every = self.settings.checkpoint_every
        return self.step % every == 0 if every else time.perf_counter() > self.next_checkpoint

    def _sound(self) -> bool:
        return all(bool(torch.isfinite(leaf).all()) for leaf in self.leaves.values())

    # --- the loop ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the end, or to where a callback or a signal ends it."""
        if self.folder is not None:
            self.folder.rewrite(self.history.rows)
        with self.bar, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Encountered (NaN|.*inf)")  # it is looked into here
            self.bar.advance(self.seen + (self.epoch - 1) * len(self.data))
            try:
                self._until_done()
                self._settle()
            finally:
                for callback in self.callbacks:
                    callback.end(self)

    def _until_done(self) -> None:
        while True:
            try:
                if not self.step and not self.rolled:
                    self._checkpoint()
                while self.epoch <= self.epochs and not self.history.stopped:
                    self._epoch()
                self._checkpoint()
                if self.epoch > self.epochs and self.processes.first:
                    self.kept.close()
                return
            except Bad as bad:
                self._go_back(str(bad))

    def _go_back(self, reason: str) -> None:
        """To the last good state: to look closer at first, then with a lower rate."""
        rate, rolled = self.rate, self.rolled
        again = self.careful and rolled < self.settings.rollbacks
        if again and self.processes.first:
            self.kept.back()  # a state is known to be good once another has followed it
        last = self.shared(self.kept.read() if self.processes.first else None)
        if last is None:
            raise Diverged(f"{reason}, before any state could be kept. Lower lr")
        self.restore(last, strict=False)
        if self.folder is not None:
            self.folder.rewrite(self.history.rows)
        self.rate, self.rolled = rate, rolled
        if not self.careful:
            self.careful = True
            self.bar.say(f"{reason}: back to step {self.step}, to see where it began")
        elif again:
            self.rolled, self.rate, self.careful = rolled + 1, rate / 2, False
            self.bar.say(
                f"{reason}: from step {self.step} again at {self.rate:g} times the rate "
                f"(rollback {self.rolled} of {self.settings.rollbacks})"
            )
        else:
            where = "" if self.out is None else f", kept in {self.out}"
            raise Diverged(
                f"{reason}. The weights are those of step {self.step}, the last good "
                f"ones{where}. Lower lr, clip gradients (clip_norm), look for extreme values in "
                f"the data (standardise them), bound the scales, or go back and on at half the "
                f"rate by itself: rollbacks=3"
            )

    def _clock(self, epoch: float) -> None:
        """Tell the time to what changes over training."""
        if isinstance(self.objective, Objective):
            self.objective.clock(epoch, self.epochs)
        if self.lr_schedule is None and self.rate == 1.0:
            return
        factor = 1.0 if self.lr_schedule is None else self.lr_schedule.at(epoch, self.epochs)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor * self.rate

    def _batches(self) -> Iterator[tuple[Tensor, ...]]:
        """The rest of the epoch's batches, this process's share of each."""
        now = None
        if self.taken:  # the order is drawn as it was when the epoch began
            now = self._states()
            put_back(unpack(self._opening(), now), self._generators())
        self.opening = pack(self._states())
        share = (self.processes.rank, self.processes.size)
        batches = self.data.batches(
            self.settings.batch_size,
            shuffle=True,
            generator=self.generator,
            skip=self.taken,
            share=share,
        )
        if now is not None:
            put_back(now, self._generators())
        return batches

    def _opening(self) -> Tensor:
        assert self.opening is not None
        return self.opening

    def _epoch(self) -> None:
        begun = time.perf_counter()
        before, before_all = self.epoch_seconds, self.seconds
        self.take.verify()  # a callback may have changed the programs
        for batch in self._batches():
            self._clock(self.epoch - 1 + self.seen / len(self.data))
            with memory(self.settings.batch_size, self.settings.accumulate):
                count = self._step(batch)
            self.taken += 1
            self.seen += count
            if self.bar.due():
                self.bar.show(self.epoch, self.measure.batch_terms(batch))
            self.bar.advance(count)
            spent = time.perf_counter() - begun
            self.epoch_seconds, self.seconds = before + spent, before_all + spent
            if self._after_step():
                return
        self._watch(self.total)
        self._end_epoch()

    def _end_epoch(self) -> None:
        begun = time.perf_counter()
        row: dict[str, float] = {"epoch": self.epoch, "step": self.step, "seconds": self.seconds}
        row["images_per_second"] = self.seen / max(self.epoch_seconds, 1e-9)
        row["lr"] = float(self.optimizer.param_groups[0]["lr"])
        row["loss"] = float(self.total) / self.seen / self._scale()
        with self.averaged():
            row |= self.measure.terms(self.watched, "", self.step)
            if self.held_out is not None:
                row |= self.measure.terms(self.held_out, "validation_", self.step)
            self.history.rows.append(row)
            if "validation_elbo" in row and self.history.best() == len(self.history.rows) - 1:
                self.best = {"epoch": self.epoch, "weights": copied(self._weights())}
        self.seconds += time.perf_counter() - begun
        if self.folder is not None:
            self.folder.append(row)
        self.bar.end_epoch(row)
        answers = [callback.epoch(self) for callback in self.callbacks]
        self.epoch += 1
        self.taken, self.seen, self.epoch_seconds = 0, 0, 0.0
        self.total.zero_()
        self.opening = None
        self._agree(answers, due=False)

    def _after_step(self) -> bool:
        """Checkpoints and reasons to stop; whether there is one."""
        answers = [callback.step(self) for callback in self.callbacks]
        if self._agree(answers, due=self._due()):
            self._checkpoint()
        return bool(self.history.stopped)

    def _agree(self, answers: Sequence[str | bool | None], *, due: bool) -> bool:
        """Note whether a callback or a signal, in whichever process, ends the run; whether a
        checkpoint is due, which the first process says."""
        reason = next((a if isinstance(a, str) else "a callback" for a in answers if a), "")
        reason = self.interrupt or reason
        if self.processes.size > 1:  # all do the same
            flags = torch.tensor([float(bool(reason)), float(due and self.processes.first)])
            self.processes.sum([flags])
            reason, due = reason or "another process" * bool(flags[0]), bool(flags[1])
        self.history.stopped = reason
        return due

    def _step(self, batch: tuple[Tensor, ...]) -> int:
        """One step of the optimiser; how many data it was made of."""
        # data are validated by themselves, the distributions as training begins; from then on
        # the loss is watched
        validating = self.step < VALIDATED or (self.epoch == 1 and not self.supports.covered)
        before = Snapshot(self.program) if self.careful else None
        try:
            self.loss, count = self._gradients(batch, validating)
        except UsageError as error:
            unlike(self.few, batch, self.step + 1, error)
            raise UsageError(in_short(error, 2000)) from error  # Pyro adds to its words
        except ValueError as error:  # Pyro's, at what a distribution does not take
            raise self._refused(error, batch) from error
        except (RuntimeError, TypeError, LookupError) as error:
            unlike(self.few, batch, self.step + 1, error)
            raise
        if before is not None:
            self._examine(before, batch)
        if self.settings.clip_norm is not None:
            clip_grad_norm_(self.leaves.values(), self.settings.clip_norm)
        self.advance()
        if self.average is not None and self.settings.ema is not None:
            with torch.no_grad():
                leaves = list(self.leaves.values())
                torch._foreach_lerp_(self.average, leaves, 1 - self.settings.ema)
        self.total += self.loss
        self.step += 1
        # reading a number waits for the device; on the CPU there is nothing to wait for
        if self.device.type == "cpu" or self.step % 50 == 0:
            self._watch(self.loss)
        return count

    def _gradients(self, batch: tuple[Tensor, ...], validating: bool) -> tuple[Tensor, int]:
        """Loss and gradients of the batch of all processes, and its size."""
        parts, size = self.settings.accumulate, len(batch[0])
        if parts == 1 and self.processes.size == 1:
            return self.take(batch, validating=validating), size
        leaves = list(self.leaves.values())
        sums = [torch.zeros_like(leaf) for leaf in leaves]
        loss = torch.zeros_like(self.loss)
        for i in range(parts):
            rows = tuple(a[i * size // parts : (i + 1) * size // parts] for a in batch)
            if not len(rows[0]):
                continue
            weight = 1.0 if self.adds else float(len(rows[0]))
            loss = loss + weight * self.take(rows, validating=validating)
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in leaves]
            torch._foreach_add_(sums, grads, alpha=weight)
        head = torch.stack([loss, torch.full_like(loss, size)])
        self.processes.sum([head, *sums])
        loss, count = head[0], int(head[1])
        if not self.adds:
            loss = loss / count
            torch._foreach_div_(sums, count)
        for leaf, grad in zip(leaves, sums, strict=True):
            leaf.grad = grad
        return loss, count

    def _watch(self, value: Tensor) -> None:
        """Go back once the loss is no finite number."""
        if not math.isfinite(float(value)):
            raise Bad(f"the loss is {float(value)} at step {self.step}")

    def _examine(self, before: Snapshot, batch: tuple[Tensor, ...]) -> None:
        """What is wrong with a step, before it is taken: the site, the tensor, the gradient."""
        grads = {n: p.grad for n, p in self.leaves.items() if p.grad is not None}
        bad = [n for n, g in grads.items() if not bool(torch.isfinite(g).all())]
        finite = math.isfinite(float(self.loss))
        if finite and not bad:
            return
        before.put_back()
        site = ""
        with contextlib.suppress(ValueError, RuntimeError):
            site = traces.first_bad(self.program, batch) if len(batch[0]) else ""
        before.put_back()
        words = [f"at step {self.step + 1} (epoch {self.epoch}) "]
        words += [f"the loss is {float(self.loss)}"] if not finite else []
        words += [f"the gradient of {', '.join(bad)} is not finite"] if finite else []
        words += [f": {site}"] if site else []
        raise Bad("".join(words))

    def _refused(self, error: ValueError, batch: tuple[Tensor, ...]) -> Exception:
        """What Pyro refused: numbers that are not finite, or data outside a support."""
        site = ""
        with contextlib.suppress(RuntimeError, TypeError, LookupError, ValueError):
            site = traces.first_bad(self.program, batch)
        if site:
            return Bad(f"at step {self.step + 1} (epoch {self.epoch}), {site}")
        unlike(self.few, batch, self.step + 1, error)
        return UsageError(
            f"at step {self.step + 1} the pair does not take the data: {in_short(error)}"
        )

    # --- what is given away -----------------------------------------------------------------------

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The weights as they would be given away: their moving average, where there is one."""
        if self.average is None:
            yield
            return
        leaves = list(self.leaves.values())
        with torch.no_grad():
            own = [leaf.detach().clone() for leaf in leaves]
            torch._foreach_copy_(leaves, self.average)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(leaves, own)

    def save(self) -> None:
        """The pair as it is, in the run folder."""
        if self.folder is not None and not self.abandoned:
            self.folder.save(self.pair, self.history.device)

    def _settle(self) -> None:
        """Leave the weights in the pair that the run was made for."""
        if self.average is not None:
            with torch.no_grad():
                torch._foreach_copy_(list(self.leaves.values()), self.average)
        if self.settings.keep_best and self.best is not None:
            self._fill(self.best["weights"])

    def _scale(self) -> float:
        """A plate that stands for N data scales a batch of B by N / B."""
        if self.shape is None or self.shape.size is None:
            return 1.0
        return self.shape.size / min(self.settings.batch_size, self.seen)
