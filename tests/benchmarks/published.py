"""Published density estimates, trained again: full MNIST, dynamically binarised.

    python tests/benchmarks/published.py --data-dir DIR --setup standard
    python tests/benchmarks/published.py --data-dir DIR --setup vamp
    python tests/benchmarks/published.py --data-dir DIR --setup vamp --measure RUN --evidence ais \
        --every 25

GatedMLP 300-300, z = 40, batch 100, Adam 5e-4 with cosine decay, KL warmed up over 10 epochs, all
60,000 training images, one seed; the test set is binarised once, and every fifth of its images is
measured with 1,000 particles (Tomczak and Welling, "VAE with a VampPrior", 2018, train 2,000
epochs with early stopping: 84.45 +- .12, 82.43 +- .06, and 81.56 +- .09 with two layers of units).
--epochs 2000 --patience 50 stops as they do, with a sixth of the training images held out;
--evidence ais anneals log p(x) besides. One JSON row per run is appended to --results.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import torch

import pyrovae as pv
from pyrovae import (
    callbacks,
    guides,
    likelihoods,
    networks,
    objectives,
    priors,
    programs,
    runs,
    schedules,
)

SETUPS = {
    "standard": priors.StandardNormal,
    "vamp": lambda: priors.VampPrior(500),
    "mixture": lambda: priors.Mixture(500),
    "layers": priors.StandardNormal,
}


def build(options: argparse.Namespace) -> pv.Program:
    net = networks.GatedMLP([300, 300])
    torch.manual_seed(options.seed)
    prior, likelihood = SETUPS[options.setup](), likelihoods.Bernoulli(net)
    if options.setup == "layers":
        return programs.Hierarchical(
            (1, 28, 28), [40, 40], prior, likelihood, net, order="bottom-up", skip=True
        )
    return pv.VAE((1, 28, 28), 40, prior=prior, likelihood=likelihood, guide=guides.MeanField(net))


def train_on(vae: pv.Program, data: object, options: argparse.Namespace) -> pv.History:
    stops = [callbacks.EarlyStopping(options.patience)] if options.patience else []
    return pv.fit(
        vae,
        data,
        validation=1 / 6 if stops else None,
        keep_best=bool(stops),
        callbacks=stops,
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
    parser.add_argument("--patience", type=int, default=0, help="epochs; 0 for no early stopping")
    parser.add_argument("--evidence", choices=("importance", "ais"), default="importance")
    parser.add_argument("--every", type=int, default=5, help="of the test images, one in so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", help="run folder, to keep the weights")
    parser.add_argument("--measure", help="run folder of weights to measure, instead of training")
    results = Path(__file__).parent / "results" / "published.jsonl"
    parser.add_argument("--results", default=str(results))
    options = parser.parse_args()

    digits = pv.data.load("mnist", options.data_dir)
    train = digits.train.binarised("dynamic")
    test = digits.test.binarised("static").select(slice(0, None, options.every))
    if options.measure:
        vae = pv.load(options.measure).to(pv.training.choose_device(options.device))
        metrics = list(csv.DictReader((Path(options.measure) / "metrics.csv").open()))
        seconds = float(metrics[-1]["seconds"])
    else:
        vae = build(options)
        seconds = train_on(vae, train, options).last["seconds"]
    found = pv.evaluate(vae, test, 1000, evidence=options.evidence, seed=options.seed)
    print(found)
    row = {
        "setup": options.setup,
        "epochs": options.epochs,
        "seed": options.seed,
        "every": options.every,
        "training_seconds": round(seconds),
        "measured": found.to_dict(),
        "environment": runs.environment(str(next(vae.parameters()).device)),
    }
    with Path(options.results).open("a") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
