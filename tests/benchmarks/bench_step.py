"""Training steps of one VAE by pyrovae, Pyro, PyTorch and NumPyro, interleaved in one run.

    python tests/benchmarks/bench_step.py                            # every peer, 16 cases
    python tests/benchmarks/bench_step.py --batch 128 --network mlp --numpyro PYTHON --out a.json
    python tests/benchmarks/bench_step.py --epoch --out epoch.json   # an epoch, end to end

784-400-20 (or ConvNet [32, 64]), Bernoulli, Adam 1e-3, binary images made here. All peers start
from the same weights and see the same batches; the losses of their steps at these weights are
held against each other before anything is timed, and those after training once it is. Peers take
turns, in another order each round. PYTHON is an interpreter with NumPyro. See README.md here.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import itertools
import json
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.infer import (
    SVI,
    JitTrace_ELBO,
    JitTraceMeanField_ELBO,
    Trace_ELBO,
    TraceMeanField_ELBO,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

import pyrovae as pv

Step = Callable[[], Any]
EVENT, LATENT, RATE = (1, 28, 28), 20, 1e-3
POOL = 8  # batches that a peer goes round
CHECKS = 5  # times round them, to compare losses
EARLY = 10  # steps until which a peer may still compile
ERRORS = 6.0  # standard errors that losses may differ by
SAME = 0.15  # relative difference of losses after training, NumPyro some steps ahead
NETWORKS = {"mlp": lambda: pv.networks.MLP([400]), "conv": lambda: pv.networks.ConvNet([32, 64])}
ELBOS = {"trace": Trace_ELBO, "analytic": TraceMeanField_ELBO}
JITS = {"trace": JitTrace_ELBO, "analytic": JitTraceMeanField_ELBO}


class UnavailableError(Exception):
    """Why a peer does not run here."""


def images(count: int, seed: int) -> Tensor:
    """Binary images ``[count, 1, 28, 28]`` of a few smooth blobs, an eighth of the pixels on."""
    noise = torch.randn(count, 1, 7, 7, generator=torch.Generator().manual_seed(seed))
    smooth = F.interpolate(noise, size=EVENT[1:], mode="bicubic")
    return (smooth > 0.9).float()


@dataclass
class Case:
    """What is trained: a network at a batch size under a loss."""

    network: str
    batch: int
    loss: str
    device: torch.device
    seed: int
    read: bool

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        net = NETWORKS[self.network]()
        self.vae = pv.VAE(
            EVENT,
            LATENT,
            likelihood=pv.likelihoods.Bernoulli(net),
            guide=pv.guides.MeanField(net),
        ).to(self.device)
        self.batches = images(POOL * self.batch, self.seed).to(self.device).split(self.batch)

    def elbo(self, vae: pv.VAE) -> Callable[[Tensor], Tensor]:
        """The negative ELBO written by hand."""
        encoder, decoder = vae.posterior.body, vae.likelihood.body
        analytic = self.loss == "analytic"

        def negative_elbo(x: Tensor) -> Tensor:
            loc, raw = encoder(x)
            scale = F.softplus(raw) + 1e-5
            noise = torch.randn_like(loc)
            z = loc + scale * noise
            (logits,) = decoder(z)
            reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
            if analytic:
                kl = (0.5 * (scale**2 + loc**2 - 1) - scale.log()).sum()
            else:
                kl = (0.5 * (z**2 - noise**2) - scale.log()).sum()
            return reconstruction + kl

        return negative_elbo

    def flops(self) -> int:
        """Of the products in one step, forward and backward."""
        with FlopCounterMode(display=False) as counter:
            self.elbo(self.vae)(self.batches[0]).backward()
        self.vae.zero_grad(set_to_none=True)
        return counter.get_total_flops()


def programs(vae: pv.VAE) -> tuple[Callable[[Tensor], Any], Callable[[Tensor], Any]]:
    """Model and guide as a user of Pyro writes them."""
    encoder, decoder = vae.posterior.body, vae.likelihood.body

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            zeros, ones = x.new_zeros(x.shape[0], LATENT), x.new_ones(x.shape[0], LATENT)
            z = pyro.sample("z", dist.Normal(zeros, ones).to_event(1))
            (logits,) = decoder(z)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", x.shape[0]):
            loc, raw = encoder(x)
            pyro.sample("z", dist.Normal(loc, F.softplus(raw) + 1e-5).to_event(1))

    return model, guide


def by_pyro(case: Case, vae: pv.VAE, elbo: Any) -> Step:
    model, guide = programs(vae)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": RATE}), elbo)
    feed = itertools.cycle(case.batches)
    return lambda: svi.step(next(feed))


def pyro_svi(case: Case, vae: pv.VAE) -> Step:
    return by_pyro(case, vae, ELBOS[case.loss]())


def pyro_validated(case: Case, vae: pv.VAE) -> Step:
    return pyro_svi(case, vae)  # every distribution checked, as Pyro does unless told not to


def pyro_jit(case: Case, vae: pv.VAE) -> Step:
    return by_pyro(case, vae, JITS[case.loss](ignore_jit_warnings=True))


def by_hand(case: Case, vae: pv.VAE, negative_elbo: Callable[[Tensor], Tensor]) -> Step:
    optimiser = torch.optim.Adam(vae.parameters(), lr=RATE, fused=True)
    feed = itertools.cycle(case.batches)

    def step() -> Any:
        optimiser.zero_grad(set_to_none=True)
        loss = negative_elbo(next(feed))
        loss.backward()
        optimiser.step()
        return loss.item() if case.read else loss.detach()

    return step


def torch_eager(case: Case, vae: pv.VAE) -> Step:
    return by_hand(case, vae, case.elbo(vae))


def torch_compile(case: Case, vae: pv.VAE) -> Step:
    mode = "reduce-overhead" if case.device.type == "cuda" else "default"
    return by_hand(case, vae, torch.compile(case.elbo(vae), dynamic=False, mode=mode))


def torch_graph(case: Case, vae: pv.VAE) -> Step:
    """The hand-written step as one CUDA graph, captured after a warm-up on a side stream."""
    if case.device.type != "cuda":
        raise UnavailableError("CUDA only")
    negative_elbo, x = case.elbo(vae), case.batches[0].clone()
    optimiser = torch.optim.Adam(vae.parameters(), lr=RATE, fused=True, capturable=True)

    def whole() -> Tensor:
        optimiser.zero_grad(set_to_none=True)
        loss = negative_elbo(x)
        loss.backward()
        optimiser.step()
        return loss.detach()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            whole()
    torch.cuda.current_stream().wait_stream(side)
    optimiser.zero_grad(set_to_none=True)  # gradients are to lie in the graph's own memory
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = whole()
    with torch.no_grad():  # the warm-up has trained: begin where the others begin
        for ours, start in zip(vae.parameters(), case.vae.parameters(), strict=True):
            ours.copy_(start)
        for state in optimiser.state.values():
            for value in state.values():
                value.zero_()
    feed = itertools.cycle(case.batches)

    def step() -> Any:
        x.copy_(next(feed))
        graph.replay()
        return loss.item() if case.read else loss

    return step


def by_pyrovae(vae: pv.VAE, elbo: Any, batches: Any, compiled: bool) -> Step:
    feed = itertools.cycle(batches)
    if hasattr(pv.svi, "SVI"):
        adam = pyro.optim.Adam({"lr": RATE})
        svi = pv.svi.SVI(vae.model, vae.guide, adam, elbo, compile=compiled)
        return lambda: svi.step(next(feed))
    pair = pv.traces.as_pair(vae)
    parameters = pv.traces.parameters(pair, (batches[0],))
    evaluate = pv.svi.Step(pair, elbo, parameters, compile=compiled)
    optimiser = torch.optim.Adam(list(parameters.values()), lr=RATE, fused=True)

    def step() -> float:
        value = evaluate((next(feed),))
        optimiser.step()
        return value

    return step


def pyrovae_eager(case: Case, vae: pv.VAE) -> Step:
    return by_pyrovae(vae, ELBOS[case.loss](), case.batches, compiled=False)


def pyrovae_compiled(case: Case, vae: pv.VAE) -> Step:
    return by_pyrovae(vae, ELBOS[case.loss](), case.batches, compiled=True)


def matmuls(case: Case, vae: pv.VAE) -> Step:
    """Only the products or convolutions of forward and backward: no step can be faster."""
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []
    hooks = [
        module.register_forward_hook(
            lambda module, given, out: calls.append(
                (module, given[0].detach(), torch.randn_like(out))
            )
        )
        for module in vae.modules()
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
    ]
    with torch.no_grad():
        case.elbo(vae)(case.batches[0])
    for hook in hooks:
        hook.remove()

    def product(module: Any, x: Tensor, grad: Tensor, first: bool) -> Step:
        weight = module.weight.detach()
        if isinstance(module, nn.Linear):

            def linear() -> None:
                x @ weight.T, grad.T @ x
                if not first:
                    grad @ weight

            return linear
        transposed = isinstance(module, nn.ConvTranspose2d)
        options = (module.stride, module.padding, module.dilation, transposed)
        options = (*options, module.output_padding, module.groups)
        mask = (not first, True, False)

        def convolution() -> None:
            torch.ops.aten.convolution(x, weight, None, *options)
            torch.ops.aten.convolution_backward(grad, x, weight, None, *options, mask)

        return convolution

    products = [product(*call, first=not i) for i, call in enumerate(calls)]

    def step() -> None:
        with torch.no_grad():
            for each in products:
                each()

    return step


PEERS: dict[str, Callable[[Case, pv.VAE], Step] | None] = {
    "pyro SVI": pyro_svi,
    "pyro SVI, validated": pyro_validated,
    "pyro jit": pyro_jit,
    "torch eager": torch_eager,
    "torch.compile": torch_compile,
    "torch graph": torch_graph,
    "pyrovae eager": pyrovae_eager,
    "pyrovae compiled": pyrovae_compiled,
    "numpyro scan": None,  # in its own interpreter
    "matmuls": matmuls,
}
OURS, BASES = "pyrovae compiled", ("torch eager", "pyro SVI")


class TorchPeer:
    """A peer in this process, with a parameter store of its own."""

    def __init__(self, case: Case, build: Callable[[Case, pv.VAE], Step]) -> None:
        self.validates = build is pyro_validated
        self.case, self.start = case, [p.detach().clone() for p in case.vae.parameters()]
        self.vae = copy.deepcopy(case.vae)
        self.store: Any = {"params": {}, "constraints": {}}
        self.peak_mib: float | None = None
        cuda = case.device.type == "cuda"
        before = torch.cuda.memory_allocated() if cuda else 0
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        torch.manual_seed(case.seed + 1)
        with self._alone():
            start = self._now()
            self.step = build(case, self.vae)
            self.step()
            self.first = self._now() - start
            for _ in range(EARLY - 1):
                self.step()
            self.early = self._now() - start
        if cuda:
            self.peak_mib = (torch.cuda.max_memory_allocated() - before) / 2**20

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        validation = pyro.validation_enabled(self.validates)
        with pyro.get_param_store().scope(self.store), validation:
            yield

    def _now(self) -> float:
        if self.case.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def check(self, steps: int, fixed: bool = True) -> list[float]:
        """Losses of steps, each from the weights at the start where ``fixed``."""
        losses = []
        with self._alone():
            for _ in range(steps):
                if fixed:
                    with torch.no_grad():
                        for parameter, start in zip(self.vae.parameters(), self.start, strict=True):
                            parameter.copy_(start)
                loss = self.step()
                if loss is not None:
                    losses.append(float(loss))
        return losses

    def run(self, steps: int) -> float:
        """Seconds per step."""
        gc.collect()  # others' garbage is not this one's to clear
        with self._alone():
            start = self._now()
            for _ in range(steps):
                self.step()
            return (self._now() - start) / steps

    def trained(self) -> float | None:
        losses = self.check(POOL, fixed=False)
        return statistics.fmean(losses) if losses else None


class NumpyroPeer:
    """NumPyro in a process of its own, see numpyro_peer.py."""

    def __init__(self, case: Case, options: argparse.Namespace) -> None:
        if options.numpyro is None:
            raise UnavailableError("needs --numpyro, an interpreter with NumPyro")
        environment = dict(os.environ)
        if case.device.type == "cpu":
            environment["JAX_PLATFORMS"] = "cpu"
        environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        script = Path(__file__).with_name("numpyro_peer.py")
        start = time.perf_counter()
        try:
            self.process = subprocess.Popen(
                [options.numpyro, str(script), str(options.threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
        except OSError as error:
            raise UnavailableError(f"--numpyro does not start: {error.strerror}") from error
        self.peak_mib = None
        try:
            with tempfile.TemporaryDirectory() as folder:
                file = f"{folder}/case.npz"
                about = export(case, file)
                setup = self._ask({"setup": file, "precision": options.precision, **about})
            self.versions, self.device = setup["versions"], setup["device"]
            self.run(options.steps)  # compiles a scan of this length
        except BaseException:
            self.close()
            raise
        self.first = self.early = time.perf_counter() - start - setup["imports"]

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": "the process has ended"}
        if "error" in answer:
            raise UnavailableError(answer["error"][:200])
        return answer

    def check(self, steps: int) -> list[float]:
        return self._ask({"check": steps})["losses"]

    def run(self, steps: int) -> float:
        answer = self._ask({"run": steps})
        self.last, self.peak_rss_mib = answer["trained"], answer["peak_mib"]
        return answer["seconds"]

    def trained(self) -> float:
        return self.last

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def export(case: Case, file: str) -> dict[str, Any]:
    """Weights and batches for NumPyro, images with channels last, and the layers' description."""
    import numpy as np

    arrays: dict[str, Any] = {}
    layers: dict[str, list[list[Any]]] = {}
    counts: dict[str, int] = {}
    x = case.batches[0][:1]
    for part, body, h in (
        ("encoder", case.vae.posterior.body, x),
        ("decoder", case.vae.likelihood.body, x.new_zeros(1, LATENT)),
    ):
        found: list[Tensor] = []
        layers[part] = []
        flattened: torch.Size | None = None  # the image that the next linear layer sees in a row
        for module in body[:-1]:
            before, h = h.shape, module(h)
            if isinstance(module, nn.Flatten):
                flattened = before[1:] if len(before) == 4 else None
                layers[part].append(["flatten"])
            elif isinstance(module, nn.ReLU):
                layers[part].append(["relu"])
            elif isinstance(module, nn.Unflatten):
                channels, *size = module.unflattened_size
                weight, bias = found[-2:]
                found[-2] = weight.unflatten(1, (channels, *size)).permute(0, 2, 3, 1).flatten(1)
                found[-1] = bias.unflatten(0, (channels, *size)).permute(1, 2, 0).flatten()
                layers[part].append(["unflatten", *size, channels])
            elif isinstance(module, nn.Linear):
                layers[part].append(["linear", len(found)])
                weight = module.weight.T
                if flattened is not None:
                    weight = weight.unflatten(0, flattened).permute(1, 2, 0, 3).flatten(0, 2)
                    flattened = None
                found += [weight, module.bias]
            else:
                options = [len(found), module.stride[0], module.padding[0]]
                if isinstance(module, nn.ConvTranspose2d):
                    layers[part].append(["deconvolution", *options])
                    weight = module.weight.flip(2, 3).permute(2, 3, 0, 1)
                else:
                    layers[part].append(["convolution", *options])
                    weight = module.weight.permute(2, 3, 1, 0)
                found += [weight, module.bias]
        arrays |= {f"{part}{i}": a.detach().cpu().numpy() for i, a in enumerate(found)}
        counts[part] = len(found)
    batches = torch.stack(case.batches).permute(0, 1, 3, 4, 2).cpu().numpy()
    np.savez(file, batches=batches, **arrays)
    return {
        "layers": layers,
        "arrays": counts,
        "latent": LATENT,
        "loss": case.loss,
        "rate": RATE,
        "seed": case.seed,
    }


def peak_flops(device: torch.device) -> float:
    """Float32 operations per second of a large square product, the best of five."""
    size = 8192 if device.type == "cuda" else 2048
    a = torch.randn(size, size, device=device)
    best = math.inf
    for _ in range(6):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        torch.mm(a, a)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def mean_and_error(losses: list[float]) -> tuple[float, float]:
    """The mean over the batches and its standard error from the noise within each."""
    table = torch.tensor(losses, dtype=torch.float64).reshape(-1, POOL)
    return float(table.mean()), float((table.var(0).mean() / table.numel()).sqrt())


def disagreements(rows: dict[str, dict[str, Any]], steps: int) -> list[str]:
    """Peers whose losses show that they do other work."""
    found = []
    compared = {n: r for n, r in rows.items() if r.get("loss_at_start")}
    (a, one), *others = compared.items() or [("", {})]
    for b, other in others:
        (x, sx), (y, sy) = one["loss_at_start"], other["loss_at_start"]
        if abs(x - y) > ERRORS * math.hypot(sx, sy) + 1e-5 * abs(x):
            found.append(f"at the start, {a} {x:.2f} +- {sx:.2f}, {b} {y:.2f} +- {sy:.2f}")
        x, y = one["loss_trained"], other["loss_trained"]
        if steps >= 100 and abs(x - y) > SAME * abs(x):
            found.append(f"after {steps} steps, {a} {x:.2f}, {b} {y:.2f}")
    return found


def measure(case: Case, options: argparse.Namespace, peak: float) -> dict[str, Any]:
    """One case: every peer built, compared, and timed in turns."""
    torch.compiler.reset()
    rows: dict[str, dict[str, Any]] = {}
    running: dict[str, Any] = {}
    for name in options.peers:
        build = PEERS[name]
        try:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                peer = NumpyroPeer(case, options) if build is None else TorchPeer(case, build)
                losses = peer.check(CHECKS * POOL)
                peer.run(options.steps)
        except UnavailableError as reason:
            rows[name] = {"unavailable": str(reason)}
        except Exception as error:  # one peer must not cost the others their numbers
            rows[name] = {"unavailable": f"{type(error).__name__}: {str(error)[:200]}"}
        else:
            running[name] = peer
            rows[name] = {
                "first_step_s": peer.first,
                f"first_{EARLY}_steps_s": peer.early,
                "peak_mib": peer.peak_mib,
                "loss_at_start": mean_and_error(losses) if losses else None,
                "warnings": sorted({m for w in warned if "not compiled" in (m := str(w.message))}),
            }
    seconds: dict[str, list[float]] = {name: [] for name in running}
    order = random.Random(case.seed)
    for _ in range(options.rounds):
        for name in order.sample(list(running), len(running)):
            seconds[name].append(running[name].run(options.steps))
    flops = case.flops()
    for name, peer in running.items():
        row, median = rows[name], statistics.median(seconds[name])
        row["seconds_per_step"] = seconds[name]
        row["median_ms"] = 1e3 * median
        row["images_per_second"] = case.batch / median
        row["share_of_peak"] = flops / median / peak
        row["loss_trained"] = peer.trained()
        row["times_as_fast_as"] = {}
        for base in running:
            ratios = [b / a for a, b in zip(seconds[name], seconds[base], strict=True)]
            spread = {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
            row["times_as_fast_as"][base] = spread
        if isinstance(peer, NumpyroPeer):
            row["versions"], row["device"] = peer.versions, peer.device
            row["peak_rss_mib"] = peer.peak_rss_mib
            peer.close()
    result = {"network": case.network, "batch": case.batch, "loss": case.loss, "peers": rows}
    result["flops_per_step"] = flops
    result["disagreements"] = disagreements(rows, (options.rounds + 1) * options.steps)
    running.clear()
    gc.collect()
    if case.device.type == "cuda":
        torch.cuda.empty_cache()
    return result


def ratio(spread: dict[str, float] | None) -> str:
    if spread is None:
        return ""
    return f"{spread['median']:.2f} ({spread['low']:.2f} to {spread['high']:.2f})"


def table(results: list[dict[str, Any]], cuda: bool) -> str:
    """The results in Markdown, one table of all peers and one of ours against each."""
    heads = ["network", "batch", "loss", "peer", "ms per step"]
    heads += [f"x {base}" for base in BASES]
    heads += ["images/s", "share of peak", "first step, s", f"first {EARLY}, s"]
    heads += ["peak MiB"] if cuda else []
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for result in results:
        for name, row in result["peers"].items():
            cells = [result["network"], str(result["batch"]), result["loss"], name]
            if "unavailable" in row:
                cells += [row["unavailable"].replace("|", "/").replace("\n", " ")]
            else:
                faster = row["times_as_fast_as"]
                cells += [f"{row['median_ms']:.3f}", *(ratio(faster.get(base)) for base in BASES)]
                cells += [f"{row['images_per_second']:,.0f}", f"{row['share_of_peak']:.1%}"]
                cells += [f"{row['first_step_s']:.2f}", f"{row[f'first_{EARLY}_steps_s']:.2f}"]
                if cuda:
                    cells += ["" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}"]
            cells += [""] * (len(heads) - len(cells))
            lines.append("| " + " | ".join(cells) + " |")
    others = [name for name in results[0]["peers"] if name != OURS]
    lines += ["", f"{OURS}, times as fast as:", ""]
    lines += ["| network | batch | loss | " + " | ".join(others) + " |"]
    lines += ["|---" * (3 + len(others)) + "|"]
    for result in results:
        faster = result["peers"].get(OURS, {}).get("times_as_fast_as", {})
        cells = [result["network"], str(result["batch"]), result["loss"]]
        lines.append("| " + " | ".join(cells + [ratio(faster.get(o)) for o in others]) + " |")
    lines += [
        f"\n{r['network']} {r['batch']} {r['loss']}, {name}: {message}"
        for r in results
        for name, row in r["peers"].items()
        for message in row.get("warnings", ())
    ]
    lines += [f"\nLosses differ: {line}" for r in results for line in r["disagreements"]]
    return "\n".join(lines)


def to_tensor() -> tuple[str, Callable[[Tensor], Tensor]]:
    """What torchvision's MNIST and ToTensor do to an image, and by what."""
    try:
        from PIL import Image
        from torchvision.transforms import ToTensor
    except ImportError:
        return "torch alone", lambda image: image.unsqueeze(0).to(torch.float32).div(255)
    transform = ToTensor()
    return "torchvision", lambda image: transform(Image.fromarray(image.numpy()))


class Digits(Dataset):
    """Images one at a time, as torchvision's MNIST serves them."""

    def __init__(self, data: Tensor) -> None:
        self.data, self.targets = data, torch.zeros(len(data), dtype=torch.long)
        self.by, self.transform = to_tensor()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, target = self.data[index], int(self.targets[index])
        return self.transform(image), target


class Example(nn.Module):
    """Pyro's own VAE example (examples/vae/vae.py): z of 50, 400 hidden units, softplus."""

    def __init__(self, z_dim: int = 50, hidden: int = 400) -> None:
        super().__init__()
        self.z_dim = z_dim
        self.encoder = nn.Sequential(nn.Linear(784, hidden), nn.Softplus())
        self.heads = nn.ModuleList([nn.Linear(hidden, z_dim), nn.Linear(hidden, z_dim)])
        self.decoder = nn.Sequential(
            nn.Linear(z_dim, hidden), nn.Softplus(), nn.Linear(hidden, 784), nn.Sigmoid()
        )

    def model(self, x: Tensor) -> Tensor:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z_loc = torch.zeros(x.shape[0], self.z_dim, dtype=x.dtype, device=x.device)
            z_scale = torch.ones(x.shape[0], self.z_dim, dtype=x.dtype, device=x.device)
            z = pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))
            loc = self.decoder(z)
            likelihood = dist.Bernoulli(loc, validate_args=False).to_event(1)
            pyro.sample("obs", likelihood, obs=x.reshape(-1, 784))
            return loc

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        pyro.module("heads", self.heads)
        with pyro.plate("data", x.shape[0]):
            hidden = self.encoder(x.reshape(-1, 784))
            loc, log_scale = (head(hidden) for head in self.heads)
            pyro.sample("latent", dist.Normal(loc, torch.exp(log_scale)).to_event(1))


def example_epoch(data: Tensor, seed: int, device: torch.device) -> tuple[float, float]:
    """Seconds and mean loss of an epoch as the example's ``main`` runs it."""
    torch.manual_seed(seed)
    with pyro.get_param_store().scope():
        vae = Example().to(device)
        start = time.perf_counter()
        cuda = device.type == "cuda"
        options = {"batch_size": 256, "shuffle": True, "num_workers": 0, "pin_memory": cuda}
        loader = DataLoader(Digits(data), **options)
        svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": RATE}), loss=Trace_ELBO())
        total = 0.0
        for x, _ in loader:
            total += svi.step(x.to(device) if cuda else x)
        return time.perf_counter() - start, total / len(data)


def fit_epoch(data: Tensor, seed: int, device: torch.device) -> tuple[float, float]:
    """The same programs, data and batch size through ``pv.fit``, everything it does included."""
    torch.manual_seed(seed)
    vae = Example()
    start = time.perf_counter()
    x = data.unsqueeze(1).float().div(255)
    history = pv.fit(vae, x, epochs=1, batch_size=256, lr=RATE, device=device, progress=False)
    return time.perf_counter() - start, history.last["loss"]


def epoch(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    data = images(options.images, options.seed)[:, 0].mul(255).to(torch.uint8)
    example_epoch(data[:2560], 0, device), fit_epoch(data[:2560], 0, device)  # warm caches
    seconds: dict[str, list[float]] = {"example": [], "fit": []}
    losses: dict[str, list[float]] = {"example": [], "fit": []}
    for round_ in range(options.rounds):
        pair = [("example", example_epoch), ("fit", fit_epoch)]
        for name, run in pair if round_ % 2 else pair[::-1]:
            taken, loss = run(data, options.seed + round_, device)
            seconds[name].append(taken)
            losses[name].append(loss)
    ratios = [a / b for a, b in zip(seconds["example"], seconds["fit"], strict=True)]
    means = {name: statistics.fmean(values) for name, values in losses.items()}
    differ = abs(means["example"] - means["fit"]) > SAME * abs(means["example"])
    return {
        "images": options.images,
        "images_of_the_example_by": to_tensor()[0],
        "seconds": seconds,
        "losses": losses,
        "fit_times_as_fast": {
            "median": statistics.median(ratios),
            "low": min(ratios),
            "high": max(ratios),
        },
        "disagreements": [f"mean losses of the epoch: {means}"] if differ else [],
    }


def fingerprints(options: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """What comparing everything that a compiled step rests on takes, as a share of the step."""
    rows = []
    for network, batch in itertools.product(options.network, options.batch):
        case = Case(network, batch, "trace", device, options.seed, options.read)
        svi = pv.SVI(case.vae.model, case.vae.guide, pyro.optim.Adam({"lr": RATE}), Trace_ELBO())
        feed = itertools.cycle(case.batches)
        for _ in range(50):
            svi.step(next(feed))
        assert svi.evaluate is not None
        ((graph,),) = svi.evaluate.graphs.values()
        steps, looks = [], []
        for _ in range(options.rounds):
            start = time.perf_counter()
            for _ in range(options.steps):
                float(svi.step(next(feed)))
            steps.append((time.perf_counter() - start) / options.steps)
            start = time.perf_counter()
            for _ in range(1000):
                graph.holds()
            looks.append((time.perf_counter() - start) / 1000)
        shares = [a / b for a, b in zip(looks, steps, strict=True)]
        rows.append(
            {
                "network": network,
                "batch": batch,
                "places": len(graph.fingerprint.places),
                "seconds": looks,
                "share_of_step": statistics.median(shares),
            }
        )
    return rows


def about(device: torch.device) -> dict[str, Any]:
    """The machine and versions, less what the paths on this machine are called."""
    try:
        from pyrovae.runs import environment

        found = environment(str(device))
    except ImportError:  # only torch and Pyro are here
        found = {
            "date": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
            "python": sys.version.split()[0],
            "versions": {"torch": torch.__version__, "pyro-ppl": pyro.__version__},
            "device": str(device),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        }
        if device.type == "cuda":
            found["device_name"] = torch.cuda.get_device_name(device)
    found["command"] = [Path(a).name if Path(a).is_absolute() else a for a in sys.argv]
    return found


def write(out: str | None, report: dict[str, Any], markdown: str) -> None:
    if out is not None:
        Path(out).write_text(json.dumps(report, indent=1) + "\n")
        Path(out).with_suffix(".md").write_text(markdown + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 128, 512, 2048])
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--loss", nargs="+", choices=ELBOS, default=list(ELBOS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=40, help="of each peer in each round")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--numpyro", help="an interpreter that has NumPyro")
    parser.add_argument("--threads", type=int, default=0, help="of every peer; 0: as they choose")
    parser.add_argument(
        "--precision", choices=["highest", "high"], default="highest", help="high: TF32 on CUDA"
    )
    parser.add_argument(
        "--read", action="store_true", help="hand-written steps read their loss, as Pyro's do"
    )
    parser.add_argument("--epoch", action="store_true", help="time an epoch instead of steps")
    parser.add_argument(
        "--fingerprint", action="store_true", help="time what is compared before each step"
    )
    parser.add_argument("--images", type=int, default=60_000, help="of --epoch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="JSON file; the table is written beside it as .md")
    return parser.parse_args()


def main() -> None:
    options = parse()
    cuda = torch.cuda.is_available() if options.device == "auto" else options.device == "cuda"
    device = torch.device("cuda:0" if cuda else "cpu")
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision(options.precision)
    warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)  # it is what pyro jit uses
    report: dict[str, Any] = {"seed": options.seed, "options": vars(options) | {"out": None}}
    report["options"]["numpyro"] = options.numpyro is not None
    report["environment"] = about(device)
    report["pyrovae_through"] = "svi.SVI" if hasattr(pv.svi, "SVI") else "svi.Step"
    if options.epoch:
        report |= epoch(options, device)
        medians = {name: statistics.median(s) for name, s in report["seconds"].items()}
        by = report["images_of_the_example_by"]
        markdown = (
            f"| images | Pyro's example ({by}), s | pv.fit, s | pv.fit is times as fast |\n"
            "|---|---|---|---|\n"
            f"| {options.images:,} | {medians['example']:.2f} | {medians['fit']:.2f} | "
            f"{ratio(report['fit_times_as_fast'])} |"
        )
        write(options.out, report, markdown)
        differ = report["disagreements"]
    elif options.fingerprint:
        report["results"], differ = fingerprints(options, device), []
        markdown = "| network | batch | places | µs | share of the step |\n|---|---|---|---|---|\n"
        markdown += "\n".join(
            f"| {row['network']} | {row['batch']} | {row['places']} | "
            f"{1e6 * statistics.median(row['seconds']):.1f} | {row['share_of_step']:.2%} |"
            for row in report["results"]
        )
        write(options.out, report, markdown)
    else:
        peak = report["peak_flops_measured"] = peak_flops(device)
        report["results"] = []
        for network, batch, loss in itertools.product(options.network, options.batch, options.loss):
            case = Case(network, batch, loss, device, options.seed, options.read)
            report["results"].append(measure(case, options, peak))
            if not cuda:
                peak_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                report["peak_mib_of_process"] = peak_rss / 2**10
            print(f"{network}, batch {batch}, {loss}: done", file=sys.stderr)
            write(options.out, report, markdown := table(report["results"], cuda))
        differ = [line for result in report["results"] for line in result["disagreements"]]
    print(markdown)
    assert not differ, f"the peers do not do equal work: {differ}"


if __name__ == "__main__":
    main()
