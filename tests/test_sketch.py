"""A sketch tells of any pair what Pyro's own inspection and its traces tell."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.inspect import get_model_relations
from test_programs import ROWS

import pyrovae as pv


@pytest.mark.parametrize("name", ROWS)
def test_agrees_with_pyro_on_every_program(name: str) -> None:
    """Sites, order and dependencies of the model are those that `pyro.render_model` would draw."""
    program = ROWS[name].make()
    data = program.serve(ROWS[name].data())
    args = pv.Pair(program.model, program.guide).some(data)
    found = {site.name: site for site in pv.sketch(program, data).of("model")}
    if "ImproperUniform" in {site.distribution for site in found.values()}:
        pytest.skip("Pyro's inspection cannot draw from a flat prior")
    known = get_model_relations(program.model, args)
    assert list(found) == [n for n in known["sample_sample"] if n in found]
    for site in found.values():
        parents = set(known["sample_sample"][site.name]) - {site.name}
        assert set(site.parents) & set(found) == parents & set(found)
        assert site.observed == (site.name in known["observed"])
        assert list(site.plates.values()) == ["data"]


def test_the_guide_reads_the_data_and_what_it_drew_before() -> None:
    def model(x: torch.Tensor, y: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x.new_zeros(len(x)), 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(b + y, 1.0), obs=x)

    def guide(x: torch.Tensor, y: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Normal(2 * x, 1.0))
            pyro.sample("a", dist.Normal(b, 1.0))

    found = pv.sketch((model, guide), (torch.randn(6), torch.randn(6)))
    parents = {(s.program, s.name): s.parents for s in found}
    assert parents == {
        ("data", "y"): (),  # given, never observed: a node of its own
        ("model", "a"): (),
        ("model", "b"): ("a",),
        ("model", "x"): ("y", "b"),
        ("guide", "b"): ("x",),
        ("guide", "a"): ("b",),
    }


def test_particles_are_a_plate_to_the_left() -> None:
    found = pv.sketch(pv.VAE((4,), 2), torch.ones(5, 4), num_particles=3)
    assert all(site.batch_shape == (3, 5) for site in found)
    assert found.sites[0].plates == {-2: "draws", -1: "data"}


def test_leaves_no_trace() -> None:
    vae, x = pv.VAE((4,), 2), torch.ones(5, 4)
    pyro.clear_param_store()
    before = torch.random.get_rng_state()
    pv.sketch(vae, x)
    assert torch.equal(before, torch.random.get_rng_state()) and vae.training
    assert not dict(pyro.get_param_store())


def test_a_program_that_does_not_run_is_an_error() -> None:
    with pytest.raises(pv.UsageError, match=r"does not run on a batch of shape \(5, 3\)"):
        pv.sketch(pv.VAE((4,), 2), torch.ones(5, 3))
