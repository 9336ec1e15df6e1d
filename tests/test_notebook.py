"""What a notebook shows of results: HTML without a script, of text that is escaped."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyrovae as pv
from pyrovae import markup

EVIL = "<script>alert('x')</script>&\""
TAGS = {
    *("div", "table", "thead", "tbody", "tr", "th", "td", "span", "strong", "br"),
    *("svg", "title", "rect", "line", "polyline"),
}


class Reader(HTMLParser):
    """The tags of a page and the text that a reader sees."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def read(shown: object) -> Reader:
    """What is shown, if it is safe and whole."""
    page = shown._repr_html_()
    ET.fromstring(f"<div>{page}</div>")  # every tag ends where it should
    reader = Reader()
    reader.feed(page)
    assert set(reader.tags) <= TAGS
    for name, value in reader.attributes:
        assert not name.startswith("on") and "javascript" not in (value or "")
        assert name not in ("href", "src")
    return reader


def evil() -> tuple[pv.Pair, Tensor]:
    """A pair whose sites, plates and parameters have names that are HTML."""
    decoder, encoder = nn.Linear(2, 3), nn.Linear(3, 2)

    def model(x: Tensor) -> None:
        with pyro.plate("data" + EVIL, len(x)):
            z = pyro.sample("z" + EVIL, dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        scale = pyro.param("scale" + EVIL, torch.ones(2))
        with pyro.plate("data" + EVIL, len(x)):
            pyro.sample("z" + EVIL, dist.Normal(encoder(x), scale.exp()).to_event(1))

    return pv.Pair(model, guide), torch.randn(40, 3)


@pytest.mark.slow
def test_names_are_text_wherever_they_are_shown() -> None:
    pair, x = evil()
    pv.fit(pair, x, epochs=1, progress=False)
    found = pv.evaluate(pair, x, 20)
    for shown in (
        pair, found, pv.sketch(pair, x), pv.calibrate(pair, simulations=40, draws=19),
    ):  # fmt: skip
        assert EVIL in read(shown).text.replace("  ", " "), type(shown)
    gap = pv.gap(pair, x, 20, refine_particles=4, steps=5)
    assert "amortisation gap" in read(gap).text


def test_numbers_are_those_that_print_gives() -> None:
    pair, x = evil()
    found = pv.evaluate(pair, x, 20)
    text = read(found).text
    for name, (mean, error) in found.means().items():
        assert f"{mean:.4g}" in text and f"{error:.4g}" in text, name
    assert found.verdict in text
    assert [cell for row in str(pv.sketch(pair, x)).splitlines() for cell in row.split()] == (
        read(pv.sketch(pair, x)).text.split()
    )


def test_a_history_and_a_vae() -> None:
    history = pv.History([{"epoch": k, "elbo": -10.0 + k, "kl": 1.0} for k in range(3)])
    history.stopped = EVIL
    page = read(history)
    assert EVIL in page.text and "nats per datum: elbo blue (-10 to -8)" in page.text
    (points,) = (value for name, value in page.attributes if name == "points")
    ends = [tuple(map(float, p.split(","))) for p in points.split()]
    assert ends == [(0.0, 90.0), (140.0, 45.0), (280.0, 0.0)]  # from the lower left upwards
    assert "no epoch yet" in read(pv.History()).text
    broken = pv.History([{"elbo": float("nan")}, {"elbo": float("inf")}])
    assert "no finite values" in read(broken).text
    vae = pv.VAE((1, 6, 6), 3)
    text = read(vae).text
    assert f"{sum(p.numel() for p in vae.parameters()):,} parameters" in text
    assert "StandardNormal" in text and "MeanField" in text and "latent_dim" in text


@pytest.mark.parametrize("values", [[], [0.0], [float("nan"), -1.0, 3.0], [1e300, 1.0]])
def test_bars_are_within_their_box(values: list[float]) -> None:
    figure = ET.fromstring(f"<div>{markup.bars('b', values, 1.0)}</div>")
    rects = list(figure.iter("rect"))
    assert len(rects) == len(values)
    for rect in rects:
        y, height = float(rect.get("y")), float(rect.get("height"))
        assert 0 <= y <= y + height <= markup.HEIGHT + 0.2


def test_a_long_table_says_what_it_leaves_out() -> None:
    page = markup.table(["n"], [[k] for k in range(1234)])
    assert "1,134 more" in page and page.count("<tr>") == 1 + markup.ROWS + 1
