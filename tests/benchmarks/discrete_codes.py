"""Three estimators of one program's gradient, on the bundled digits: what each reaches and costs.

    python tests/benchmarks/discrete_codes.py               (seeds 0, 1, 2 of each estimator)
    python tests/benchmarks/discrete_codes.py relaxed score --epochs 100
    python tests/benchmarks/discrete_codes.py --table       (of the rows recorded)

programs.DiscreteCode, 2 codes of 10 categories, MLP [200] both ways, batch 100, Adam 2e-3, KL
warmed up over 5 epochs. However the weights were learned, log p(x) of the 1,000 test images is
exact: a sum over all 100 combinations. At the weights reached, each estimator's gradient of the
bound by the logits of 100 test images is drawn 200 times: its variance, summed over the entries,
and the distance of its mean from the exact gradient, both relative to the exact one's (squared)
norm; the mean of 200 draws is itself off by sqrt(variance / 200). One JSON row per run is appended
to --results.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pyrovae as pv
from pyrovae import likelihoods, networks, objectives, programs, runs, schedules
from pyrovae.programs.discrete_code import ESTIMATORS

DRAWS = 200


class Held(nn.Module):
    """Logits that are parameters, so that the gradient stops there."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.logits[: len(x)],)


def gradients(program: Any, x: Tensor, estimator: str, draws: int) -> Tensor:
    """``[draws, N * codes * categories]`` of the mean bound by the logits, double precision."""
    held = copy.deepcopy(program).double().eval()
    held.estimator = estimator
    held.logits = Held(held.logits(x)[0].detach())
    loss, found = objectives.BetaELBO(), []
    for _ in range(draws):
        value = loss.differentiable_loss(held.model, held.guide, x) / len(x)
        found.append(torch.autograd.grad(value, held.logits.logits)[0].flatten())
    return torch.stack(found)


def noise(program: Any, x: Tensor) -> dict[str, dict[str, float]]:
    """Relative variance and bias of each estimator, with the standard error of its mean."""
    torch.manual_seed(0)
    (exact,) = gradients(program, x, "enumerate", 1)
    found = {}
    for estimator in ESTIMATORS:
        drawn = gradients(program, x, estimator, DRAWS if estimator != "enumerate" else 2)
        variance = float(drawn.var(0).sum() / exact.square().sum())
        bias = float((drawn.mean(0) - exact).norm() / exact.norm())
        error = (variance / len(drawn)) ** 0.5
        found[estimator] = {"variance": variance, "bias": bias, "error": error}
    return found


def run(estimator: str, seed: int, epochs: int) -> dict[str, Any]:
    digits = pv.data.load("mnist5k")
    train, test = digits.train.binarised("dynamic"), digits.test.binarised("static")
    torch.manual_seed(seed)
    net = networks.MLP([200])
    program = programs.DiscreteCode(
        (1, 28, 28), 2, 10, estimator, likelihood=likelihoods.Bernoulli(net), network=net
    )
    loss = objectives.BetaELBO(schedule=schedules.Linear(epochs=5))
    how = {"epochs": epochs, "batch_size": 100, "lr": 2e-3, "seed": seed, "progress": False}
    history = pv.fit(program, train, loss=loss, device="cpu", **how)
    program.eval()
    return {
        "estimator": estimator,
        "seed": seed,
        "epochs": epochs,
        "log_evidence": program.scores(test)["exact_log_evidence"],
        "bound": float(pv.elbo(program.exact(), test).mean()),
        "seconds_per_epoch": history.last["seconds"] / epochs,
        "gradient": noise(program, test.x[:100].double()),
        "environment": runs.environment("cpu"),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over the seeds; an estimator's noise at its own weights."""
    lines = [
        "| estimator | epochs | seeds | log p(x), exact | ELBO, exact | s/epoch | "
        "gradient's variance | bias |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys((row["estimator"], row["epochs"]) for row in rows):
        same = [row for row in rows if (row["estimator"], row["epochs"]) == kind]

        def over(values: list[float], form: str = ".2f") -> str:
            found = torch.tensor(values)
            spread = f" ± {found.std():{form}}" if len(values) > 1 else ""
            return f"{found.mean():{form}}{spread}"

        own = [row["gradient"][row["estimator"]] for row in same]
        cells = [kind[0], str(kind[1]), str(len(same))]
        cells += [over([row[n] for row in same]) for n in ("log_evidence", "bound")]
        cells += [over([row["seconds_per_epoch"] for row in same])]
        cells += [over([o[n] for o in own], ".2g") for n in ("variance", "bias")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("estimators", nargs="*", default=list(ESTIMATORS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--table", action="store_true", help="print what is recorded, run nothing")
    results = Path(__file__).parent / "results" / "discrete_codes.jsonl"
    parser.add_argument("--results", default=str(results))
    options = parser.parse_args()
    file = Path(options.results)
    for estimator in () if options.table else options.estimators:
        for seed in options.seeds:
            row = run(estimator, seed, options.epochs)
            print({k: v for k, v in row.items() if k != "environment"}, flush=True)
            with file.open("a") as out:
                out.write(json.dumps(row) + "\n")
    print(table([json.loads(line) for line in file.read_text().splitlines()]))


if __name__ == "__main__":
    main()
