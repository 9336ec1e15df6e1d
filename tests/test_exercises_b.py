"""The checks of notebooks 6 on: what they accept, what they refuse, and that none is at a loss.

A check is taken from its notebook's source, beside stand-ins for what the notebook trained; the
solutions themselves, on what it did train, are asserted in the notebook.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyro.distributions as dist
import pytest
import torch

TUTORIALS = Path(__file__).parents[1] / "tutorials"

BETAS = [0, 0.1, 0.3, 1, 3, 10, 30]
REC = dict(zip(BETAS, [-107.1, -107.9, -109.8, -115.0, -133.6, -169.7, -208.6], strict=True))
KL = dict(zip(BETAS, [133.5, 39.2, 26.9, 16.8, 8.5, 2.6, 0.03], strict=True))
UNITS = dict(zip(BETAS, [10, 10, 10, 10, 9, 5, 0], strict=True))


def sixth() -> dict[str, Any]:
    """Samples that score 9.79 and 0.68; spreads of the codes; midpoints of which 0.31 pass."""
    halves = SimpleNamespace(sample=lambda n, seed: torch.full((n, 1), 0.5))
    pv = SimpleNamespace(fit_codes=lambda *_, **__: halves, decode=lambda _, z: z / z.max())
    return {
        "pv": pv, "ae": None, "vae": None, "x_train": None, "DIM": 3, "dist": dist,
        "both": lambda x: (9.79, 0.68), "quality": lambda x: 0.31,
        "spreads": {"VAE": torch.tensor([1.4, 1.2, 1.1])},
        "middle_codes": {"VAE": torch.ones(5, 3)},
    }  # fmt: skip


def seventh() -> dict[str, Any]:
    found = {beta: SimpleNamespace(active_units=count) for beta, count in UNITS.items()}
    return {"betas": BETAS, "rec": REC, "kl": KL, "found": found, "math": math}


def eighth() -> dict[str, Any]:
    """Residuals whose root mean square is 0.0414, and those 0.06 higher; one picture."""
    residuals = torch.tensor([0.0414, -0.0414]).repeat(50)
    return {"grey": torch.tensor([[0.0, 0.5, 1.0, 0.25]]), "residuals": residuals,
            "shifted": residuals + 0.06}  # fmt: skip


TEMPLATES = torch.tensor([0.1, 0.3, 0.5, 0.6, 0.9]).repeat_interleave(2)[:, None].expand(10, 4)
TORN = torch.tensor([[1.0, 0, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1], [1, 1, 0, 0], [0, 1, 1, 1]])
EACH = (TORN @ TEMPLATES.log().T + (1 - TORN) @ (1 - TEMPLATES).log().T).T  # [template, digit]
EVIDENCE = EACH.exp().mean(0).log()


def ninth() -> dict[str, Any]:
    pv = SimpleNamespace(log_evidence=lambda pair, x, particles: EVIDENCE)
    return {"pv": pv, "counted": None, "torn": TORN, "templates": TEMPLATES, "dist": dist}


def tenth() -> dict[str, Any]:
    """4 weights and 2 biases; 8 epochs of 40 steps, 3 done before."""
    rows = SimpleNamespace(rows=[0] * 3), SimpleNamespace(rows=[0] * 8)
    return {
        "vae": torch.nn.Linear(2, 2), "x_train": range(5000), "stopped": rows[0],
        "resumed": rows[1], "settings": {"epochs": 8, "batch_size": 128},
    }  # fmt: skip


BOUNDS = [REC[beta] - beta * KL[beta] for beta in BETAS]
GREY = -2 * (math.log(2) / 2 + 0.0) - (0.25 * math.log(4) + 0.75 * math.log(4 / 3))
SIGMAS = [0.0414, math.hypot(0.0414, 0.06)]
CHARGED = sum((s**2 - 1) / 2 - math.log(s) for s in (1.4, 1.2, 1.1))
SHARES = (EACH[:, 0] - EACH[:, 0].logsumexp(0)).exp()

# notebook, exercise: stand-ins; right answers, nearly right ones that are accepted, wrong ones
CHECKS: dict[tuple[str, int], tuple[Callable[[], dict[str, Any]], list[Any], list[Any]]] = {
    ("06", 1): (sixth, [[9.79, 0.68], (9.785, 0.67), torch.tensor([9.8, 0.685])],
                [10, 9.7, 9.5, 9.79, [10, 0.68], [9.79, 0.9], [0.68, 9.79]]),
    ("06", 2): (sixth, [CHARGED, round(CHARGED, 2), torch.tensor([CHARGED])],
                [0, CHARGED + 0.05, -CHARGED, 3 * CHARGED]),
    ("06", 3): (sixth, [0.31, 0.305, torch.tensor(0.315)], [31, 0.5, 0.33]),
    ("07", 1): (seventh, [30, 30.0, torch.tensor(30)], [10, 3, 29.9, [30, 10]]),
    ("07", 2): (seventh, [BOUNDS, torch.tensor(BOUNDS), [round(b, 1) for b in BOUNDS]],
                [[REC[b] - KL[b] for b in BETAS], BOUNDS[:6], BOUNDS[::-1], BOUNDS[0],
                 [*BOUNDS[:6], BOUNDS[6] + 1]]),
    ("07", 3): (seventh, [-34.5, torch.tensor(-34.4996)], [34.5, 0, -3.45, -27.6]),
    ("08", 1): (eighth, [5.66, 5.657, 32**0.5], [32, 64, 8, 5.6]),
    ("08", 2): (eighth, [GREY, round(GREY, 1), torch.tensor(GREY)], [0, -GREY, GREY - 1]),
    ("08", 3): (eighth, [SIGMAS, [0.042, 0.073], torch.tensor(SIGMAS)],
                [0.042, [0.0414, 0.0414], [s**2 for s in SIGMAS], SIGMAS[::-1], [0.1, 0.1]]),
    ("09", 1): (ninth, [200, 200.0], [19, 1000, 199]),
    ("09", 2): (ninth, [EVIDENCE, EVIDENCE + 0.005, EVIDENCE.tolist()],
                [EACH.amax(0), EACH.amax(0) - math.log(10), EACH.mean(0), EVIDENCE[0],
                 EVIDENCE + torch.tensor([0, 0, 0, 0, 0.1])]),
    ("09", 3): (ninth, [SHARES, [round(float(p), 2) for p in SHARES]],
                [torch.full((10,), 0.1), EACH[:, 0].exp(), EACH[:, 0], float(SHARES[0])]),
    ("10", 1): (tenth, [[6, 24], torch.tensor([6, 24])], [6, [6, 6], [24, 6], [4, 16]]),
    ("10", 2): (tenth, [200, 200.0], [195, 320, 120, 40]),
    ("10", 3): (tenth, [[424, 8], (424.0, 8)], [[416, 96], 424, [53, 8], [424, 96]]),
}  # fmt: skip
NOTHING_TO_COMPARE = ["a word", None, {}, [], float("nan"), object(), [1, "two"], 1 + 2j, True]


def check_of(notebook: str, number: int, given: dict[str, Any]) -> Callable[[Any], str]:
    """A notebook's check, with the functions that its exercise defines and nothing trained."""
    (path,) = TUTORIALS.glob(f"{notebook}_*.py")
    defined = [
        node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)
    ]
    wanted = [node for node in defined if node.name in ("verdict", f"check_{number}")]
    space = {"torch": torch, "math": math, **given}
    exec(compile(ast.Module(wanted, []), str(path), "exec"), space)
    found: Callable[[Any], str] = space[f"check_{number}"]
    return found


@pytest.mark.parametrize(("notebook", "number"), CHECKS)
class TestCheck:
    def test_right_and_nearly_right_answers_are_right(self, notebook: str, number: int) -> None:
        stand_ins, right, _ = CHECKS[notebook, number]
        check = check_of(notebook, number, stand_ins())
        assert all(check(answer).startswith("Right: ") for answer in right)

    def test_wrong_answers_are_not(self, notebook: str, number: int) -> None:
        stand_ins, _, wrong = CHECKS[notebook, number]
        check = check_of(notebook, number, stand_ins())
        for answer in [*wrong, *NOTHING_TO_COMPARE]:
            assert check(answer).startswith("Not yet"), answer

    def test_dots_ask_for_an_answer(self, notebook: str, number: int) -> None:
        check = check_of(notebook, number, CHECKS[notebook, number][0]())
        assert check(...) == "Predict, then replace the dots."


def test_every_check_has_a_row() -> None:
    there = [
        (path.name[:2], int(node.name.removeprefix("check_")))
        for path in sorted(TUTORIALS.glob("*.py"))
        if path.name[:2] >= "06"
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("check_")
    ]
    assert there == list(CHECKS)
    per_notebook = {name: sum(name == row for row, _ in there) for name, _ in there}
    assert len(per_notebook) == 5 and set(per_notebook.values()) <= {2, 3}
