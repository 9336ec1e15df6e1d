"""The programs' numbers on full MNIST and the breast-cancer table, each recorded with its command.

    python tests/benchmarks/programs.py hierarchical --data-dir DIR
    python tests/benchmarks/programs.py semi-supervised --data-dir DIR
    python tests/benchmarks/programs.py gaussian-mixture --data-dir DIR --seed 0   (and 1, 2)

hierarchical: the protocol of published.py (GatedMLP 300-300, 40 units a layer, batch 100, Adam 5e-4
with cosine decay, KL warmed up over 10 epochs, 100 epochs; every fifth test image, binarised once,
1,000 particles), two layers for one. semi-supervised: M2 with 100 labels, 50 epochs; the accuracy
of q(y|x) on all test images. gaussian-mixture: pretraining, a mixture fitted to the codes, then
the bound; of several seeds the one with the best test ELBO counts. Test labels choose nothing.
One JSON row per run is appended to --results.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import pyrovae as pv
from pyrovae import guides, likelihoods, networks, objectives, programs, runs, schedules


def hierarchical(options: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    net = networks.GatedMLP([300, 300])
    program = programs.Hierarchical(
        (1, 28, 28),
        [40, 40],
        likelihood=likelihoods.Bernoulli(net),
        network=net,
        order=options.order,
        skip=options.skip,
    )
    return program, {
        "loss": objectives.BetaELBO(schedule=schedules.Linear(epochs=10)),
        "epochs": 100,
        "batch_size": 100,
        "lr": 5e-4,
        "lr_schedule": schedules.Cosine(),
    }


def semi_supervised(options: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    net = networks.MLP([300, 300])
    program = programs.SemiSupervised(
        (1, 28, 28),
        10,
        10,
        likelihood=likelihoods.Bernoulli(net),
        guide=guides.MeanField(net),
        classifier=net,
        labels=100,
        alpha=options.alpha,
        share=0.05,
        pretraining=options.pretraining,
    )
    return program, {
        "epochs": 20,
        "batch_size": 200,
        "lr": 5e-4,
        "lr_schedule": schedules.Cosine(),
    }


def gaussian_mixture(options: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    net = networks.MLP([500, 500])
    program = programs.GaussianMixture(
        (1, 28, 28),
        10,
        10,
        likelihood=likelihoods.Bernoulli(net),
        guide=guides.MeanField(net),
        pretraining=options.pretraining,
    )
    return program, {
        "epochs": 5,
        "batch_size": 100,
        "lr": 1e-3,
        "lr_schedule": schedules.Cosine(),
    }


SETUPS: dict[str, Callable[[argparse.Namespace], tuple[Any, dict[str, Any]]]] = {
    "hierarchical": hierarchical,
    "semi-supervised": semi_supervised,
    "gaussian-mixture": gaussian_mixture,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("setup", choices=SETUPS)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--epochs", type=int, help="other than the protocol's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--order", default="bottom-up", help="of the hierarchy's guide")
    parser.add_argument("--skip", action="store_true", help="x sees every layer of the hierarchy")
    parser.add_argument("--alpha", type=float, default=50.0, help="of the classifier's term")
    parser.add_argument("--pretraining", type=int, default=15, help="epochs of an initialisation")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", help="run folder, to keep the weights")
    results = Path(__file__).parent / "results" / "programs.jsonl"
    parser.add_argument("--results", default=str(results))
    options = parser.parse_args()

    digits = pv.data.load("mnist", options.data_dir)
    train, test = digits.train.binarised("dynamic"), digits.test.binarised("static")
    torch.manual_seed(options.seed)
    program, how = SETUPS[options.setup](options)
    how["epochs"] = options.epochs or how["epochs"]
    train, test = program.serve(train, training=True), program.serve(test)
    program.initialise(train, options.seed)
    before = program.scores(test)
    print("initialised:", before, flush=True)
    show = lambda history: print(program.scores(test), flush=True)  # noqa: E731
    history = pv.fit(
        program,
        train,
        **how,
        seed=options.seed,
        device=options.device,
        out=options.out,
        callbacks=[show] if before else [],
    )
    found = pv.evaluate(program, test.select(slice(0, None, 5)), 1000, seed=options.seed)
    print(found)
    row = {
        "setup": options.setup,
        "options": {
            k: v for k, v in vars(options).items() if k not in ("data_dir", "out", "results")
        },
        "training_seconds": round(history.last["seconds"]),
        "initialised": before,
        "scores": program.scores(test),
        "measured": found.to_dict(),
        "environment": runs.environment(str(next(program.parameters()).device)),
    }
    with Path(options.results).open("a") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
