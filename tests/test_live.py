"""The exported page that runs the networks itself, in a browser, against torch and the verbs."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_explorer import Inline, browser, by, complaints, opened, pixels, policy_of, until
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import pyrovae as pv
from pyrovae import explorer, guides, likelihoods, networks, priors
from pyrovae.explorer import live
from pyrovae.exports import Graph

__all__ = ["browser"]  # a fixture

NEAR = 2 / 255
NET = (Path(explorer.__file__).parent / "net.js").read_text()
RUN = """
const [program, text, given] = arguments;
const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
const numbers = (values) => Array.from(values, (v) => (Number.isFinite(v) ? v : String(v)));
const read = (values) => values.map(Number);
const inputs = Object.fromEntries(Object.entries(given).map(([k, v]) => [k, read(v)]));
const found = network(program, bytes)(inputs);
return Object.fromEntries(Object.entries(found).map(([k, v]) => [k, numbers(v)]));
"""


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def told(values: Tensor) -> list[str]:
    return [
        str(v).replace("inf", "Infinity").replace("nan", "NaN") for v in values.flatten().tolist()
    ]


def as_page(browser: Any, graph: Graph) -> dict[str, Tensor]:
    """What the page's interpreter makes of the first datum of a graph's inputs."""
    store = live.Store()
    program = live.program(graph, store)
    text = base64.b64encode(b"".join(store.parts)).decode()
    given = {name: told(v[:1]) for name, v in graph.inputs.items()}
    found = browser.execute_script(NET + RUN, program, text, given)
    return {n: torch.tensor([float(v.replace("Infinity", "inf")) if isinstance(v, str) else v
                             for v in values]) for n, values in found.items()}  # fmt: skip


HELD: dict[tuple[int, ...], Tensor] = {}


def held(*shape: int) -> Tensor:
    """A constant, drawn before anything is traced."""
    return HELD[shape]


for shape in [(3, 1), (1, 1, 3), (5, 7), (7, 5), (7,), (6, 3, 3, 2), (6,), (6, 2, 3, 3), (4,), (5,),
              (3, 4, 4, 3), (4, 3, 3, 3)]:  # fmt: skip
    HELD[shape] = draw(*shape)

CASES: dict[str, tuple[Callable[..., Tensor], tuple[int, ...]]] = {
    "arithmetic": (lambda x: (2 - x) * x / (x.square() + 0.5) - torch.add(x, x, alpha=3), (1, 4)),
    "exponentials": (lambda x: x.exp() + x.expm1() + x.abs().log() + x.abs().log1p(), (1, 4)),
    "powers": (lambda x: x.abs() ** 0.3 + x.abs().sqrt() + x.abs().rsqrt() + 1 / x, (1, 4)),
    "waves": (lambda x: x.sin() * x.cos() + x.tanh() + x.sigmoid() - x.neg().sign(), (1, 4)),
    "erf": (lambda x: torch.erf(4 * x), (1, 40)),
    "rounds": (lambda x: torch.cat([f(2 * x) for f in (torch.round, torch.floor, torch.trunc)]),
               (1, 30)),
    "halves": (lambda x: ((8 * x).round() / 2).round(), (1, 40)),
    "compares": (lambda x: torch.where((x > 0) & (x < 1) | (x == x.amax()), x, -x), (1, 9)),
    "gaps": (lambda x: torch.where(x > 0, x, torch.nan).nan_to_num(0.5).clamp(0.1, 1.0), (1, 9)),
    "no gap is lost": (lambda x: F.relu(torch.where(x > 0, x, torch.nan)), (1, 9)),
    "softmax": (lambda x: x.softmax(1) + x.log_softmax(-1) + x.logsumexp(2, keepdim=True),
                (1, 3, 5)),
    "sums": (lambda x: x.sum((0, 2)) + x.mean(2)[0] + x.amin(-1)[0] + x.var(2)[0], (1, 3, 5)),
    "argmax": (lambda x: x.argmax(2).float(), (1, 6, 5)),
    "turned": (lambda x: x.permute(0, 3, 1, 2)[:, 1:, ::2].flatten(2).transpose(1, 2),
               (1, 4, 3, 5)),
    "spread": (lambda x: x[:, :, None] * x[:, None] + held(3, 1) + held(1, 1, 3), (1, 3)),
    "stacked": (lambda x: torch.stack([x, -x, x.flip(1)], 2).repeat(1, 2, 1), (1, 4)),
    "chosen": (lambda x: x[:, [2, 0, 0]] + x.index_select(1, torch.tensor([1, 2, 3])), (1, 4)),
    "padded": (lambda x: F.pad(x, (1, 2, 0, 1), value=3.0), (1, 2, 3)),
    "products": (lambda x: x @ held(5, 7) + F.linear(x, held(7, 5), held(7)), (1, 5)),
    "batches": (lambda x: torch.bmm(x.transpose(1, 2), x), (1, 3, 4)),
    "images": (lambda x: F.conv2d(x, held(6, 3, 3, 2), held(6), 2, (1, 2)), (1, 3, 9, 8)),
    "groups": (lambda x: F.conv2d(x, held(6, 2, 3, 3), None, 1, 2, 2, 2), (1, 4, 9, 8)),
    "images back": (lambda x: F.conv_transpose2d(x, held(3, 4, 4, 3), held(4), 2, 1),
                    (1, 3, 5, 4)),
    "groups back": (lambda x: F.conv_transpose2d(x, held(4, 3, 3, 3), None, (2, 1), 1, (1, 0), 2),
                    (1, 4, 5, 4)),
    "larger": (lambda x: F.interpolate(x, scale_factor=2), (1, 2, 3, 4)),
    "group norm": (lambda x: F.group_norm(x, 2, held(4), held(4)), (1, 4, 3, 5)),
    "layer norm": (lambda x: F.layer_norm(x, (5,), held(5), held(5)), (1, 3, 5)),
    **{name: (getattr(nn, name)(), (1, 9)) for name in (
        "ReLU", "Sigmoid", "Tanh", "SiLU", "GELU", "ELU", "CELU", "SELU", "Softplus", "LeakyReLU",
        "Mish", "Hardtanh", "Hardswish", "LogSigmoid", "Softsign", "PReLU")},
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_operation_is_torchs(browser: Any, name: str) -> None:
    function, shape = CASES[name]
    x = 1.5 * draw(*shape, seed=1)
    with torch.no_grad():
        module = make_fx(function)(x)
        wanted = function(x).flatten()
    browser.get("about:blank")
    found = as_page(browser, Graph(module, {"x": x}, ["y"]))["y"].float()
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_what_it_does_not_know_has_a_name() -> None:
    module = make_fx(lambda x: x.sort(1)[0])(draw(1, 4))
    with pytest.raises(live.NotLive, match=r"aten\.sort"):
        live.program(Graph(module, {"x": draw(1, 4)}, ["y"]), live.Store())


def test_constants_lose_no_digit_by_being_short() -> None:
    store = live.Store()
    kinds = [torch.rand(3).half().float(), torch.rand(3), torch.tensor([1e9]), torch.arange(3)]
    places = [store.add(values) for values in kinds]
    assert [kind for _, _, kind in places] == ["f2", "f4", "f4", "i4"]
    raw = b"".join(store.parts)
    for (offset, count, kind), values in zip(places, kinds, strict=True):
        dtype = {"f2": torch.float16, "f4": torch.float32, "i4": torch.int32}[kind]
        kept = torch.frombuffer(bytearray(raw), dtype=dtype, count=count, offset=offset)
        assert torch.equal(kept.to(values.dtype), values)


BODIES = {
    "MLP": lambda: networks.MLP([48]),
    "GatedMLP": lambda: networks.GatedMLP([40]),
    "ConvNet": lambda: networks.ConvNet([8, 16], hidden=32),
}
LIKELIHOODS = {
    "Bernoulli": likelihoods.Bernoulli,
    "Normal": likelihoods.Normal,
    "Categorical": lambda body: likelihoods.Categorical(4, body),
}
Page = tuple[pv.VAE, explorer.View, str]


@pytest.fixture(scope="module")
def digits() -> pv.data.TensorData:
    return pv.data.load("digits").test


@pytest.fixture(scope="module")
def pages(digits: Any, tmp_path_factory: Any) -> Callable[[str, str], Page]:
    made: dict[tuple[str, str], Page] = {}
    folder = tmp_path_factory.mktemp("pages")

    def page(body: str, family: str) -> Page:
        if (body, family) not in made:
            values = {"Bernoulli": (digits.x >= 8).float(), "Normal": digits.x / 16}
            x = values.get(family, (digits.x / 5.4).floor()).reshape(-1, 1, 8, 8)
            data = pv.data.TensorData(x, labels=digits.labels)
            torch.manual_seed(0)
            pair = pv.VAE((1, 8, 8), 4, likelihood=LIKELIHOODS[family](BODIES[body]()),
                          guide=guides.MeanField(BODIES[body]()))  # fmt: skip
            pair.initialise(data)
            pv.fit(pair, data, epochs=4, lr=1e-2, progress=False)
            view = explorer.View(pair, data, points=60)
            path = explorer.export(view, folder / f"{body}-{family}.html")
            made[body, family] = pair, view, path.as_uri()
        return made[body, family]

    return page


@pytest.mark.parametrize("family", LIKELIHOODS)
@pytest.mark.parametrize("body", BODIES)
def test_what_it_decodes_and_encodes_is_what_the_verbs_do(
    browser: Any, pages: Any, body: str, family: str
) -> None:
    pair, view, url = pages(body, family)
    opened(browser, url)
    low, high = view.about()["range"]
    z = 1.5 * draw(20, 4)
    ask = "return arguments[0].map((z) => backend.decode({ z }).x[0])"
    found = torch.tensor(browser.execute_script(ask, z.tolist()))
    wanted = pv.decode(pair, z).flatten(1).float()
    # a class is one where two are about as probable
    doubtful = 0.02 if family == "Categorical" else 0.0
    assert ((found - wanted).abs() > NEAR * (high - low)).float().mean() <= doubtful
    assert wanted.std(0).max() > 5 * NEAR * (high - low), "what is decoded depends on z"
    x = view.data.x[:20]
    ask = "return arguments[0].map((x) => backend.posterior({ x }))"
    answers = browser.execute_script(ask, x.flatten(1).tolist())
    codes = torch.tensor([answer["code"] for answer in answers])
    assert torch.allclose(codes, pv.encode(pair, x), rtol=0, atol=NEAR)
    with torch.no_grad():
        q = pair.posterior(pair.likelihood.features(x))
    assert torch.allclose(torch.tensor([a["sd"] for a in answers]), q.stddev, rtol=0, atol=NEAR)
    plane = view.rows @ torch.diag(q.variance[3]) @ view.rows.T
    assert torch.allclose(torch.tensor(answers[3]["covariance"]), plane, rtol=0, atol=NEAR)
    own = torch.tensor([answer["reconstruction_x"][0] for answer in answers])
    right = pv.decode(pair, pv.encode(pair, x)).flatten(1).float()
    assert ((own - right).abs() > NEAR * (high - low)).float().mean() <= doubtful
    assert complaints(browser, url) == []


@pytest.fixture
def page(browser: Any, pages: Any) -> Page:
    pair, view, url = pages("MLP", "Bernoulli")
    opened(browser, url)
    return pair, view, url


class TestThePage:
    def test_a_slider_is_answered_before_anything_else_happens(
        self, browser: Any, page: Page
    ) -> None:
        """How fast is for tests/benchmarks/bench_explorer.py; here no one else is waited for."""
        pair, view, url = page
        script = """
        const done = arguments[0], slider = document.getElementById("unit-2");
        const version = () => Number(document.getElementById("decoded").dataset.version);
        const before = version(); slider.value = 2; slider.dispatchEvent(new Event("input"));
        queueMicrotask(() => setTimeout(() => done(version() - before), 0));
        """
        assert browser.execute_async_script(script) == 1
        wanted = pv.decode(pair, torch.tensor([[0.0, 0, 2, 0]])).flatten()
        assert torch.allclose(pixels(browser, "decoded"), wanted, rtol=0, atol=NEAR + 1 / 255)
        rows = browser.execute_script("return document.querySelectorAll('.unit input[type=range]')")
        assert len(rows) == 4, "a slider for every unit, inactive ones folded away"
        assert complaints(browser, url) == []

    def test_what_is_drawn_has_its_posterior_at_once(self, browser: Any, page: Page) -> None:
        from selenium.webdriver import ActionChains

        pair, view, url = page
        canvas = by(browser, "own")
        hand = ActionChains(browser, duration=20).move_to_element_with_offset(canvas, -60, -60)
        hand.click_and_hold().move_by_offset(120, 0).move_by_offset(-60, 120).release().perform()
        until(lambda: browser.execute_script("return found"))
        own = torch.tensor(browser.execute_script("return own")).reshape(1, 1, 8, 8).float()
        assert 8 <= own.sum() <= 40 and set(own.unique().tolist()) == {0, 1}
        assert own[0, 0, 1].sum() >= 5, "a fast stroke has no gaps"
        code = pv.encode(pair, own)
        until(lambda: torch.allclose(
            torch.tensor(browser.execute_script("return state.z")), code[0], rtol=0, atol=NEAR
        ))  # fmt: skip
        wanted = pv.decode(pair, code).flatten()
        assert torch.allclose(pixels(browser, "own-r"), wanted, rtol=0, atol=NEAR + 1 / 255)
        shown = browser.execute_script("return found")
        assert shown["covariance"] and browser.find_element("id", "q-1").is_displayed()
        assert not by(browser, "own-fill").is_displayed(), "it takes a server"
        assert "pyrovae explore RUN" in by(browser, "how").text
        assert complaints(browser, url) == []

    def test_paths_and_draws(self, browser: Any, page: Page) -> None:
        pair, view, _ = page
        path = browser.execute_script("return backend.path({ start: 2, end: 9, steps: 5 })")
        z = view.codes[2] + torch.linspace(0, 1, 5)[:, None] * (view.codes[9] - view.codes[2])
        assert torch.allclose(torch.tensor(path["z"]), z, atol=1e-3)
        wanted = pv.decode(pair, z).flatten(1)
        assert torch.allclose(torch.tensor(path["x"]), wanted, rtol=0, atol=NEAR)
        ask = "return [0, 1].map((seed) => backend.samples({ n: 24, seed }).x)"
        first, second = torch.tensor(browser.execute_script(ask))
        assert not torch.equal(first, second)
        z = torch.tensor(browser.execute_script("return EXPORTED.live.prior.slice(24, 48)"))
        assert torch.allclose(second, pv.decode(pair, z).flatten(1), rtol=0, atol=NEAR)

    def test_missing_pixels_are_encoded_or_refused(self, browser: Any, page: Page) -> None:
        pair, view, _ = page
        x = view.data.x[:1].clone()
        x[..., :4] = torch.nan
        script = "return backend.posterior({ x: arguments[0] }).code"
        given = [None if v != v else v for v in x.flatten().tolist()]
        assert torch.allclose(
            torch.tensor(browser.execute_script(script, given)), pv.encode(pair, x)[0], atol=NEAR
        )

    def test_it_asks_nobody_by_its_own_policy(self, page: Page) -> None:
        text = Path(page[2].removeprefix("file://")).read_text()
        policy = policy_of(Inline(text).policy)
        assert policy["default-src"] == ["'none'"] and "connect-src" not in policy
        assert not re.search(r"\bfetch\(\s*[\"'`]?(https?|data|blob):", text)


def test_draws_of_z_follow_the_prior() -> None:
    pair = pv.VAE((4,), 2, prior=priors.Normal())
    with torch.no_grad():
        for p in pair.prior.parameters():
            p.copy_(torch.tensor([0.5, -1.0]))
    z = explorer.View(pair, torch.ones(10, 4)).prior(2000)
    p = pair.prior()
    assert ((z.mean(0) - p.mean).abs() < 6 * p.stddev / 2000**0.5).all()
    assert ((z.var(0) / p.variance - 1).abs() < 6 * (2 / 2000) ** 0.5).all()


def test_figures_and_page_have_the_same_colours() -> None:
    text = explorer.server.page()[0]
    assert f"const COLOURS = {explorer.server._literal(pv.plots.CLASSES)};" in text
    script = (Path(explorer.__file__).parent / "page.js").read_text()
    assert not re.search(r"#[0-9a-fA-F]{6}\b", script)


class Sorted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 64)

    def forward(self, z: Tensor) -> Tensor:
        return self.body(z).sort(1)[0].reshape(-1, 1, 8, 8)


def sorts() -> tuple[Any, Any]:
    body = likelihoods.Bernoulli(Sorted())
    return pv.VAE((1, 8, 8), 3, likelihood=body), torch.rand(20, 1, 8, 8).round()


def labelled() -> tuple[Any, Any]:
    pair = pv.programs.Conditional((1, 8, 8), 2, 3)
    return pair, pv.data.TensorData(torch.rand(20, 1, 8, 8).round(), labels=torch.arange(20) % 2)


def large() -> tuple[Any, Any]:
    return pv.VAE((1, 8, 8), 3), torch.rand(20, 1, 8, 8).round()


@pytest.mark.parametrize(
    ("make", "why"),
    [(sorts, "aten.sort"), (labelled, "also given"), (large, "more than")],
)
def test_anything_else_is_the_plane_and_says_why(
    browser: Any, tmp_path: Path, monkeypatch: Any, capsys: Any, make: Any, why: str
) -> None:
    if make is large:
        monkeypatch.setattr(live, "LARGEST", 10_000)
    pair, data = make()
    if make is labelled:
        data = pair.serve(data)
    path = explorer.export(explorer.View(pair, data), tmp_path / "page.html", steps=3)
    assert why in capsys.readouterr().err
    opened(browser, path.as_uri())
    assert why in by(browser, "how").text
    assert not by(browser, "own").is_displayed() and not by(browser, "path").is_displayed()
    version = by(browser, "decoded").get_attribute("data-version")
    by(browser, "map").send_keys("\ue014" * 12)
    until(lambda: by(browser, "decoded").get_attribute("data-version") != version)
    assert complaints(browser, path.as_uri()) == []
