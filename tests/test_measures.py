"""What codes know of x against closed forms; which unit stands for which factor."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrovae as pv


def channel(gain: float, noise: float, shift: float = 0.0) -> object:
    """z = gain x + shift + noise: with x normal, I(x; z) and KL(q(z) || p(z)) are known."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(gain * x + shift, noise))

    return pv.Pair(model, guide)


@pytest.mark.parametrize(("gain", "noise", "shift"), [(1.0, 1.0, 0.0), (0.9, 0.3, 0.5)])
def test_information_lies_between_its_bounds(gain: float, noise: float, shift: float) -> None:
    x = torch.randn(800)
    found = pv.information(channel(gain, noise, shift), x)
    exact = 0.5 * math.log1p((gain / noise) ** 2)
    low, high = found.mutual_information
    error = 4 * float(found.lower.std()) / 800**0.5
    assert low < high and low - error < exact < high + error
    variance = gain**2 + noise**2
    marginal = 0.5 * (variance + shift**2 - 1 - math.log(variance))
    least, most = found.marginal_kl
    assert least - error < marginal < most + error
    # the two parts are the mean KL, which has a closed form
    kl = 0.5 * (noise**2 + (gain * x + shift) ** 2 - 1) - math.log(noise)
    assert abs(float(found.kl.mean() - kl.mean())) < 4 * float(found.kl.std()) / 800**0.5
    assert low + most == pytest.approx(float(found.kl.mean()))
    assert "at most log N = 6.68" in str(found)


def test_more_is_known_than_so_few_data_can_say() -> None:
    """A code without noise: the lower bound is log N, the upper one is beyond it."""
    found = pv.information(channel(1.0, 1e-4), torch.arange(20.0))
    assert found.mutual_information[0] == pytest.approx(math.log(20), abs=1e-3)
    assert found.mutual_information[1] > 100


def test_a_guide_that_ignores_the_data_knows_nothing() -> None:
    found = pv.information(channel(0.0, 1.0), torch.randn(50))
    for bounds in (found.mutual_information, found.marginal_kl):
        assert bounds == pytest.approx((0.0, 0.0), abs=1e-5)


def test_chunks_do_not_change_the_table() -> None:
    pair, x = channel(1.0, 0.5), torch.randn(30)
    whole, small = (pv.information(pair, x, chunk_bytes=b) for b in (2**27, 2**12))
    assert abs(whole.mutual_information[0] - small.mutual_information[0]) < 0.5


def factors(n: int = 40) -> Tensor:
    return torch.cartesian_prod(torch.arange(3), torch.arange(4)).repeat(n, 1)


def test_units_that_are_factors() -> None:
    known = factors()
    found = pv.disentanglement(torch.cat([known.float(), torch.randn(len(known), 1)], 1), known)
    # 20 bins of noise share 20 x classes / 2N nats or less with a factor
    assert found["mig"] == pytest.approx(1, abs=0.06)
    assert found["dci_disentanglement"] > 0.99 and found["dci_completeness"] > 0.99
    assert found["dci_informativeness"] == 1 and found["sap"] > 0.25
    turned = pv.disentanglement(known.float().flip(1), known)
    assert turned["mig"] == pytest.approx(1)  # whichever unit it is


def test_units_that_mix_factors() -> None:
    known = factors()
    angle = math.pi / 4
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    scaled = (known.double() - known.double().mean(0)) / known.double().std(0)
    mixed = pv.disentanglement(scaled @ turn.double(), known)
    apart = pv.disentanglement(scaled, known)
    assert mixed["mig"] < 0.2 < apart["mig"] and mixed["dci_disentanglement"] < 0.6
    assert mixed["sap"] < apart["sap"]


def test_noise_stands_for_nothing() -> None:
    known = factors()
    found = pv.disentanglement(torch.randn(len(known), 3), known)
    assert found["mig"] < 0.05 and abs(found["sap"]) < 0.12
    assert found["dci_informativeness"] < 0.55


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: pv.information(channel(1, 1), torch.ones(1)), "two data"),
        (lambda: pv.disentanglement(torch.ones(5, 2), torch.ones(4, 2)), r"\[5, 2\], \[4, 2\]"),
        (lambda: pv.disentanglement(torch.ones(4, 2), torch.rand(4, 2)), "whole numbers"),
        (lambda: pv.disentanglement(torch.ones(4, 2), torch.ones(4, 2)), "factor 0 is the same"),
    ],
)
def test_mistakes_speak(call, match: str) -> None:
    with pytest.raises(pv.UsageError, match=match):
        call()
