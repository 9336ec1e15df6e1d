"""Published density estimates, trained again: full MNIST, dynamically binarised.

    python tests/benchmarks/published.py --data-dir DIR --setup standard
    python tests/benchmarks/published.py --data-dir DIR --setup vamp

GatedMLP 300-300, z = 40, batch 100, Adam 5e-4 with cosine decay, KL warmed up over 10 epochs, all
60,000 training images, one seed; the test set is binarised once, and every fifth of its images is
measured with 1,000 particles (Tomczak and Welling, "VAE with a VampPrior", 2018, train 2,000
epochs with early stopping: 84.45 and 82.43). One JSON row per run is appended to --results.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import torch

import pyrovae as pv
from pyrovae import guides, likelihoods, networks, objectives, priors, runs, schedules

SETUPS = {
    "standard": priors.StandardNormal,
    "vamp": lambda: priors.VampPrior(500),
    "mixture": lambda: priors.Mixture(500),
}


def build(options: argparse.Namespace) -> pv.VAE:
    net = networks.GatedMLP([300, 300])
    torch.manual_seed(options.seed)
    return pv.VAE(
        (1, 28, 28),
        40,
        prior=SETUPS[options.setup](),
        likelihood=likelihoods.Bernoulli(net),
        guide=guides.MeanField(net),
    )


def train_on(vae: pv.VAE, data: object, options: argparse.Namespace) -> pv.History:
    return pv.fit(
        vae,
        data,
        loss=objectives.BetaELBO(schedule=schedules.Linear(epochs=10)),
        epochs=options.epochs,
        batch_size=100,
        lr=5e-4,
        lr_schedule=schedules.Cosine(),
        seed=options.seed,
        device=options.device,
        out=options.out,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--setup", choices=SETUPS, required=True)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", help="run folder, to keep the weights")
    parser.add_argument("--measure", help="run folder of weights to measure, instead of training")
    results = Path(__file__).parent / "results" / "published.jsonl"
    parser.add_argument("--results", default=str(results))
    options = parser.parse_args()

    digits = pv.data.load("mnist", options.data_dir)
    train = digits.train.binarised("dynamic")
    test = digits.test.binarised("static").select(slice(0, None, 5))
    if options.measure:
        vae = pv.load(options.measure).to(pv.training.choose_device(options.device))
        metrics = list(csv.DictReader((Path(options.measure) / "metrics.csv").open()))
        seconds = float(metrics[-1]["seconds"])
    else:
        vae = build(options)
        seconds = train_on(vae, train, options).last["seconds"]
    found = pv.evaluate(vae, test, 1000, seed=options.seed)
    print(found)
    row = {
        "setup": options.setup,
        "epochs": options.epochs,
        "seed": options.seed,
        "training_seconds": round(seconds),
        "measured": found.to_dict(),
        "environment": runs.environment(str(next(vae.parameters()).device)),
    }
    with Path(options.results).open("a") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
