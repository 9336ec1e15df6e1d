"""The checks under the exercises: they accept what is right and refuse what is not, in words.

A row per exercise: right answers (as people give them: rounded, as a tensor, a list, an array),
answers that are nearly right, and wrong ones. Truths are computed here, not taken from the
notebook. A check runs in a namespace of the notebook's imports, its cells tagged "exercise", and
the few names of it that the exercise refers to, made small.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

TUTORIALS = Path(__file__).parents[1] / "tutorials"
NONSENSE = [
    None,
    "a string",
    "1.0",
    1e9,
    -1,
    True,
    [],
    {},
    [1, "x"],
    torch.zeros(2, 3, 4),
    math.nan,
]

State = dict[str, Any]


@dataclass(frozen=True)
class Exercise:
    """Answers to ``check_{number}`` of the notebook whose name begins with ``notebook``.

    Attributes:
        names: what is taken from the notebook's cells besides imports and exercises: the statements
            that define them.
        given: names of the notebook that are made small here.
        answers: of the state -> right, nearly right, wrong answers.
    """

    notebook: str
    number: int
    answers: Callable[[State], tuple[list[Any], list[Any], list[Any]]]
    names: tuple[str, ...] = ()
    given: Callable[[], State] = dict


def code_of(notebook: str) -> list[tuple[list[str], str]]:
    """Tags and source of every code cell."""
    (path,) = TUTORIALS.glob(f"{notebook}_*.ipynb")
    return [
        (cell["metadata"].get("tags", []), "".join(cell["source"]))
        for cell in json.loads(path.read_text())["cells"]
        if cell["cell_type"] == "code"
    ]


def defines(statement: ast.stmt) -> set[str]:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}
    if not isinstance(statement, ast.Assign):
        return set()
    return {n.id for t in statement.targets for n in ast.walk(t) if isinstance(n, ast.Name)}


def state_of(exercise: Exercise) -> State:
    state: State = {"__name__": "exercise"}
    torch.manual_seed(0)
    pyro.clear_param_store()
    for tags, source in code_of(exercise.notebook):
        source = "\n".join(line for line in source.splitlines() if not line.startswith("%"))
        for statement in ast.parse(source).body:
            asked = "exercise" in tags and not isinstance(statement, ast.Expr)
            imports = isinstance(statement, ast.Import | ast.ImportFrom)
            if imports or asked or defines(statement) & set(exercise.names):
                if "exercise" in tags and "verdict" not in state:
                    state |= exercise.given()
                exec(compile(ast.Module([statement], []), exercise.notebook, "exec"), state)
    return state


def check_of(exercise: Exercise) -> tuple[Callable[[Any], str], State]:
    state = state_of(exercise)
    return state[f"check_{exercise.number}"], state


def row(values: Any) -> list[Any]:
    """The same right answer in the forms that people give it in."""
    tensor = torch.as_tensor(values, dtype=torch.float64)
    return [
        tensor,
        tensor.float(),
        tensor.tolist(),
        tensor.numpy(),
        tensor.clone().requires_grad_(),
    ]


# ---- the answers, notebook by notebook


def binary(*shape: int) -> torch.Tensor:
    return torch.bernoulli(torch.full(shape, 0.3), generator=torch.Generator().manual_seed(0))


def joint_at_zero(state: State) -> tuple[list[Any], list[Any], list[Any]]:
    with torch.no_grad():
        logits, x = state["decoder"](torch.zeros(1, 10)), state["x_test"][:1]
    pixels = -torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    prior = -5 * math.log(2 * math.pi)
    truth = float(pixels) + prior
    right = [truth, round(truth, 1), round(truth, 2), torch.tensor([truth]), np.float32(truth)]
    return right, [truth + 0.2, float(pixels), -truth], [prior, float(pixels) - prior, 0.0]


def learned_scale(state: State) -> tuple[list[Any], list[Any], list[Any]]:
    decoder = state["decoder"]
    positive = dist.constraints.positive

    def written(
        scale: Callable[[], Any], event: int = 1, observed: bool = True
    ) -> Callable[[torch.Tensor], None]:
        def model(x: torch.Tensor) -> None:
            spread = scale()
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(10), spread).to_event(event))
                seen = x if observed else None
                pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(3), obs=seen)

        return model

    def named(name: str = "scale", size: int = 10, **options: Any) -> Any:
        return lambda: pyro.param(name, torch.ones(size), **options)

    def unused() -> torch.Tensor:
        pyro.param("scale", torch.ones(10), constraint=positive)
        return torch.ones(10)

    right = [written(named(constraint=positive))]
    nearly = [
        written(named()),  # it may become negative
        written(named(constraint=positive), event=0),
        written(named(constraint=positive), observed=False),
        written(named(size=1, constraint=positive)),  # one for all
        written(unused),
    ]
    wrong = [
        state["model"],
        written(named("s", constraint=positive)),
        lambda x: None,
        lambda: None,
        3,
    ]
    return right, nearly, wrong


def coins(_: State) -> tuple[list[Any], list[Any], list[Any]]:
    a = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    b = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    right = [*row([a, b]), [round(a, 2), round(b, 2)], (a, b)]
    return right, [[b, a], [a, a], a], [[-a, -b], [0, 0], a + b]


def small_plane() -> State:
    codes = torch.randn(784, 2, generator=torch.Generator().manual_seed(1))

    def log_likelihood(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return dist.Bernoulli(logits=z @ codes.T).log_prob(x.flatten(1)[:, None]).sum(-1)

    return {"log_likelihood": log_likelihood, "x": binary(3, 1, 28, 28)}


def by_prior(state: State) -> tuple[list[Any], list[Any], list[Any]]:
    scores = state["log_likelihood"](state["x"][1:2], state["some_codes"])[0].double().numpy()
    truth = float(np.logaddexp.reduce(scores) - math.log(1000))
    right = [truth, round(truth, 2), torch.tensor([truth])]
    return right, [truth + math.log(1000), truth - 0.1], [scores.mean(), scores.max(), scores, 0.0]


def effective(state: State) -> tuple[list[Any], list[Any], list[Any]]:
    weights = np.exp(state["some_log_weights"].double().numpy())
    truth = 1 / ((weights / weights.sum(0)) ** 2).sum(0)
    nearly = [truth / 20, truth[::-1].copy(), truth.mean(), 20 * np.ones(3)]
    return [*row(truth), truth.round(1).tolist()], nearly, [np.zeros(3), np.full(3, np.nan), -truth]


def gaussian_kl(_: State) -> tuple[list[Any], list[Any], list[Any]]:
    one = (1 + 0.25 - 1) / 2 - math.log(0.5)
    two = (4 + 0.01 - 1) / 2 - math.log(0.1)
    return (
        [one + two, 4.63, 4.626, torch.tensor(one + two)],
        [two, 4.6, [one, two]],
        [-4.63, 9.25, 0],
    )


def iwae(state: State) -> tuple[list[Any], list[Any], list[Any]]:
    weights = state["some_log_weights"].double().numpy()
    truth = np.logaddexp.reduce(weights, 0) - math.log(10)
    nearly = [weights.mean(0), truth + math.log(10), truth.mean(), truth[::-1].copy()]
    return [*row(truth), truth.round(2)], nearly, [weights, weights.max(0) + 1, 0.0]


def best_diagonal(_: State) -> tuple[list[Any], list[Any], list[Any]]:
    truth = [0.5 * math.log(4 / (4 - r**2)) for r in (0, 1, 1.9)]
    right = [*row(truth), [round(value, 2) for value in truth]]
    return right, [[2 * v for v in truth], truth[::-1]], [[0, 0, 0], truth[1], [-v for v in truth]]


def paths(_: State) -> tuple[list[Any], list[Any], list[Any]]:
    truth = [True, False, True, False, True]
    right = [truth, tuple(truth), [1, 0, 1, 0, 1], torch.tensor(truth), np.array(truth)]
    return right, [[True, False, False, False, True], truth[:4]], [[not t for t in truth], True]


def by_sigma(state: State) -> tuple[list[Any], list[Any], list[Any]]:
    eps = state["eps"]
    truth = 2 * (1 + 0.5 * eps) * eps
    nearly = [2 * 0.5 * eps**2, state["score"], 2 * (1 + 0.5 * eps), truth.mean(), truth[:-1]]
    return [truth, truth.double(), truth.numpy()], nearly, [eps, torch.randn(200_000) + 1, 1.0]


def baseline(_: State) -> tuple[list[Any], list[Any], list[Any]]:
    return [4, 4.0, 3.93, torch.tensor(4.05)], [2, 2.0, 3.5], [0, -4, 30]


def averaged(_: State) -> tuple[list[Any], list[Any], list[Any]]:
    return [48, 48.0, torch.tensor(48)], [3072 / 63, 47, 16], [1 / 48, 64, 3072, 0]


def grey(_: State) -> tuple[list[Any], list[Any], list[Any]]:
    truth = [0.0, -0.3 * math.log(0.3) - 0.7 * math.log(0.7), math.log(2)]
    return (
        [*row(truth), [0, 0.61, 0.69]],
        [[0, 0.6, 0.7], truth[1:]],
        [[0, 0, 0], [-t for t in truth]],
    )


def too_vague(_: State) -> tuple[list[Any], list[Any], list[Any]]:
    truth = [math.sqrt(2401 / 101), math.sqrt(2401 / 2)]
    nearly = [truth[::-1], [math.sqrt(24), math.sqrt(2400)], truth[0]]
    return [*row(truth), [4.9, 34.6]], nearly, [[24, 2400], [1, 1], [1 / t for t in truth]]


def counts(_: State) -> tuple[list[Any], list[Any], list[Any]]:
    return [*row([5, 50, 1]), (5, 50, 1)], [[5, 10, 1], [5, 50], [5, 50, 5]], [[1, 50, 5], 5]


def of_the_digits() -> State:
    return {"x_test": binary(20, 1, 8, 8), "x_train": binary(20, 1, 8, 8)}


EXERCISES = [
    Exercise("01", 1, counts),
    Exercise("01", 2, joint_at_zero, ("decoder", "model"), of_the_digits),
    Exercise("01", 3, learned_scale, ("decoder", "model"), of_the_digits),
    Exercise("02", 1, coins),
    Exercise("02", 2, by_prior, given=small_plane),
    Exercise("02", 3, effective),
    Exercise("03", 1, gaussian_kl),
    Exercise("03", 2, iwae),
    Exercise("03", 3, best_diagonal),
    Exercise("04", 1, paths),
    Exercise("04", 2, by_sigma),
    Exercise("04", 3, baseline),
    Exercise("05", 1, averaged),
    Exercise("05", 2, grey),
    Exercise("05", 3, too_vague),
]


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: f"{e.notebook}-{e.number}")
class TestExercise:
    def test_the_dots_ask_for_a_prediction(self, exercise: Exercise) -> None:
        check, _ = check_of(exercise)
        assert check(...) == "Predict, then replace the dots."

    def test_right_answers_are_accepted(self, exercise: Exercise) -> None:
        check, state = check_of(exercise)
        for answer in exercise.answers(state)[0]:
            assert check(answer).startswith("Right"), (answer, check(answer))

    @pytest.mark.parametrize("which", [1, 2], ids=["nearly right", "wrong"])
    def test_others_are_refused_with_a_hint(self, exercise: Exercise, which: int) -> None:
        check, state = check_of(exercise)
        for answer in exercise.answers(state)[which]:
            words = check(answer)
            assert words.startswith("Not yet"), (answer, words)
            assert len(words.split()) > 5

    def test_anything_else_is_refused_in_words(self, exercise: Exercise) -> None:
        check, _ = check_of(exercise)
        for answer in NONSENSE:
            assert check(answer).startswith("Not yet"), answer


@pytest.mark.parametrize("notebook", sorted({exercise.notebook for exercise in EXERCISES}))
def test_every_exercise_has_a_row_and_a_solution(notebook: str) -> None:
    cells = code_of(notebook)
    asked = [s for tags, s in cells if "exercise" in tags and "def check_" in s]
    rows = [exercise for exercise in EXERCISES if exercise.notebook == notebook]
    solved = [s for tags, s in cells if "solution" in tags]
    assert 2 <= len(asked) == len(rows) == len(solved) <= 3
    for k, (question, solution) in enumerate(zip(asked, solved, strict=True), 1):
        assert f"def check_{k}(answer)" in question and f"answer_{k} = ..." in question
        assert f"check_{k}(" in solution and "Not yet" in solution
