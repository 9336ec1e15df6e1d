"""Two bodies of equal parameters: the test evidence of ResNet beside ConvNet's, on full MNIST.

    python tests/benchmarks/bodies.py train --data-dir DIR --out c --body "ConvNet SiLU" --lr 2e-3
    python tests/benchmarks/bodies.py train --data-dir DIR --out r --body ResNet
    python tests/benchmarks/bodies.py measure --data-dir DIR c r

MNIST dynamically binarised, z = 32 with N(0, I), mean field, Bernoulli; batch 128, Adam with cosine
decay, one seed; no held-out choice: the last epoch's weights are measured. ConvNet's fully
connected layer is wider by as many parameters as ResNet's blocks have. A run that was stopped goes
on when the same command is given again. ``measure`` takes one test image in so many, binarised
once, and appends one row to --results: each run's log evidence, and the last's less each one's,
image by image, by particles or (--evidence ais) by annealing.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import torch

import pyrovae as pv
from pyrovae import guides, likelihoods, networks, objectives, runs, schedules

BODIES = {
    "ConvNet": lambda: networks.ConvNet([16, 32], hidden=142),
    "ConvNet SiLU": lambda: networks.ConvNet([16, 32], hidden=142, activation="SiLU"),
    "ConvNet wide": lambda: networks.ConvNet([32, 64], hidden=70),
    "ResNet": lambda: networks.ResNet([16, 32], hidden=128),
}


def train(options: argparse.Namespace) -> None:
    torch.manual_seed(options.seed)
    net = BODIES[options.body]()
    likelihood, guide = likelihoods.Bernoulli(net), guides.MeanField(net)
    digits = pv.data.load("mnist", options.data_dir).train.binarised("dynamic")
    pv.fit(
        pv.VAE((1, 28, 28), 32, likelihood=likelihood, guide=guide),
        digits.select(slice(0, options.images)),
        loss=objectives.BetaELBO(),
        epochs=options.epochs,
        batch_size=128,
        lr=options.lr,
        lr_schedule=schedules.Cosine(),
        seed=options.seed,
        out=options.out,
        resume=(Path(options.out) / "checkpoints").exists(),
    )


def measure(options: argparse.Namespace) -> None:
    digits = pv.data.load("mnist", options.data_dir).test.binarised("static")
    test = digits.select(slice(0, None, options.every))
    rows, evidence = [], []
    for run in options.runs:
        vae = pv.load(run)
        found = pv.evaluate(
            vae, test, options.particles, evidence=options.evidence, seed=options.seed
        )
        print(run, found, sep="\n")
        metrics = list(csv.DictReader((Path(run) / "metrics.csv").open()))
        evidence.append(found.log_evidence)
        rows.append(
            {
                "run": Path(run).name,
                "network": str(vae.likelihood.network),
                "parameters": sum(p.numel() for p in vae.parameters()),
                "epochs": int(metrics[-1]["epoch"]),
                "lr": round(float(metrics[0]["lr"]), 4),
                "training": metrics[-1],
                "measured": found.to_dict(),
            }
        )
    for one, less in zip(rows, evidence, strict=True):
        gain = evidence[-1] - less
        one["last_less_this"] = {
            "mean": float(gain.mean()),
            "standard_error": float(gain.std() / len(gain) ** 0.5),
        }
        print(one["run"], one["last_less_this"])
    row = {"every": options.every, "seed": options.seed, "runs": rows}
    row["environment"] = runs.environment("cpu")
    with Path(options.results).open("a") as file:
        file.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(required=True)
    for verb in (train, measure):
        one = verbs.add_parser(verb.__name__)
        one.set_defaults(verb=verb)
        one.add_argument("--data-dir", required=True)
        one.add_argument("--seed", type=int, default=0)
        if verb is train:
            one.add_argument("--out", required=True, help="run folder")
            one.add_argument("--body", choices=BODIES, required=True)
            one.add_argument("--epochs", type=int, default=30)
            one.add_argument("--lr", type=float, default=1e-3)
            one.add_argument("--images", type=int, default=60_000)
        else:
            one.add_argument("runs", nargs="+")
            one.add_argument("--every", type=int, default=10, help="of the test images")
            one.add_argument("--particles", type=int, default=1000)
            one.add_argument("--evidence", choices=("importance", "ais"), default="importance")
            results = Path(__file__).parent / "results" / "bodies.jsonl"
            one.add_argument("--results", default=str(results))
    options = parser.parse_args()
    options.verb(options)


if __name__ == "__main__":
    main()
