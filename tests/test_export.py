"""The networks of a pair in files, run where nothing but torch or an ONNX runtime is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyrovae as pv
from pyrovae import guides, likelihoods, networks
from pyrovae.schema import Schema

PENGUINS = Path(__file__).with_name("penguins.csv")
ALONE = {
    ".pt2": """
import json, sys, torch
for case in json.load(open("cases.json")):
    notes = {"pyrovae.json": ""}
    network = torch.export.load(case + ".pt2", extra_files=notes).module()
    given = torch.load(case + ".pt")
    names = json.loads(notes["pyrovae.json"])["inputs"]
    for n in (1, 3, 7):
        found = network(*(given[name][:n] for name in names))
        torch.save(found, f"{case}.{n}.out")
assert not {"pyro", "pyrovae"} & set(sys.modules)
""",
    ".onnx": """
import json, sys, onnxruntime, numpy as np
for case in json.load(open("cases.json")):
    session = onnxruntime.InferenceSession(case + ".onnx")
    notes = json.loads(session.get_modelmeta().custom_metadata_map["pyrovae.json"])
    given = np.load(case + ".npz")
    assert [i.name for i in session.get_inputs()] == notes["inputs"]
    for n in (1, 3, 7):
        found = session.run(None, {name: given[name][:n] for name in notes["inputs"]})
        np.savez(f"{case}.{n}.npz", **dict(zip(notes["outputs"], found)))
assert not {"torch", "pyro", "pyrovae"} & set(sys.modules)
""",
}


def binary() -> tuple[Any, Tensor]:
    return pv.VAE((1, 6, 6), 3), torch.rand(7, 1, 6, 6).round()


def convolutions(body: networks.Network) -> tuple[Any, Tensor]:
    vae = pv.VAE((1, 12, 12), 3, likelihood=likelihoods.Bernoulli(body),
                 guide=guides.FullRank(body))  # fmt: skip
    for parameter in vae.parameters():
        nn.init.normal_(parameter, std=0.1)  # residual blocks are no identities
    return vae, torch.rand(7, 1, 12, 12).round()


def table() -> tuple[Any, Tensor]:
    data = pv.data.table(PENGUINS)
    vae = pv.VAE.of(data)
    pv.fit(vae, data, epochs=1, progress=False)
    return vae, data.x[:7]  # with gaps


def own() -> tuple[Any, Tensor]:
    """Functions of one's own, which ask for ``len(x)``, with a network and a ``pyro.param``."""
    decoder, encoder = nn.Linear(2, 5), nn.Linear(5, 2)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        scale = pyro.param("scale", torch.ones(2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x) * scale, 1.0).to_event(1))

    pair, x = pv.Pair(model, guide), torch.randn(50, 5)
    pv.fit(pair, x, epochs=1, progress=False)
    return pair, x[:7]


class Attention(nn.Module):
    """A transformer's layer over the 5 parts of a code, or with weights dropped at random."""

    def __init__(self, dropped: float = 0.0) -> None:
        super().__init__()
        self.parts, self.read, self.dropped = nn.Linear(2, 5 * 8), nn.Linear(8, 3), dropped

    def forward(self, z: Tensor) -> Tensor:
        given = self.parts(z).unflatten(-1, (5, 2, 4)).transpose(-3, -2)
        found = nn.functional.scaled_dot_product_attention(
            given, given, given, dropout_p=self.dropped
        )
        loc: Tensor = self.read(found.transpose(-3, -2).flatten(-2))
        return loc


def attention(dropped: float = 0.0) -> tuple[Any, Tensor]:
    decoder, encoder = Attention(dropped), nn.Linear(15, 2)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(2), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x.flatten(1)), 1.0).to_event(1))

    return pv.Pair(model, guide), torch.randn(7, 5, 3)


def labelled() -> tuple[Any, tuple[Tensor, Tensor]]:
    program = pv.programs.Conditional(event_shape=(1, 4, 4), classes=5)
    return program, (torch.rand(7, 1, 4, 4).round(), torch.arange(7) % 5)


def classes() -> tuple[Any, Tensor]:
    return pv.VAE((6,), 2, likelihood=likelihoods.Categorical(4)), torch.randint(4, (7, 6)).float()


CASES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "binary": binary, "table": table, "own": own, "labelled": labelled, "classes": classes,
    "attention": attention,
    "convolutions": lambda: convolutions(networks.ConvNet([4, 4], hidden=8)),
    "residual": lambda: convolutions(networks.ResNet([4, 4], hidden=8)),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".pt2", ".onnx"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning:(?!pyrovae)")
@pytest.mark.filterwarnings("ignore::FutureWarning:(?!pyrovae)")  # torch 2.11 itself
def test_files_give_what_the_pair_gives(ending: str, tmp_path: Path) -> None:
    """In a process that has torch, or an ONNX runtime, alone; for any number of data."""
    if ending == ".onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    right: dict[str, Tensor] = {}
    for name in CASES if ending == ".pt2" else ("table", "labelled"):
        pair, x = CASES[name]()
        args = x if isinstance(x, tuple) else (x,)
        codes = pv.encode(pair, x)
        given = {"x": args[0], "y": args[-1], "z": codes}
        with pyro.validation_enabled():
            for part in ("encoder", "decoder"):
                case = f"{name}-{part}"
                file = pv.export(pair, tmp_path / (case + ending), part, like=x)
                assert file.name == case + ending
                torch.save(given, tmp_path / f"{case}.pt")
                np.savez(tmp_path / f"{case}.npz", **{n: v.numpy() for n, v in given.items()})
                right[case] = codes if part == "encoder" else pv.decode(pair, codes, like=x)
    (tmp_path / "cases.json").write_text(json.dumps(list(right)))
    done = subprocess.run(
        [sys.executable, "-c", ALONE[ending]], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for case, values in right.items():
        for n in (1, 3, 7):
            if ending == ".pt2":
                found = torch.load(tmp_path / f"{case}.{n}.out")
            else:
                ((_, numbers),) = np.load(tmp_path / f"{case}.{n}.npz").items()
                found = torch.from_numpy(numbers)
            near = 1e-5 * max(1.0, float(values.abs().max()))
            torch.testing.assert_close(found, values[:n], rtol=0, atol=near, msg=case)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch 2.11 itself
def test_the_columns_of_a_table_travel_with_it(tmp_path: Path) -> None:
    vae, _ = table()
    file = pv.export(vae, tmp_path / "decoder.pt2", "decoder")
    notes = {"pyrovae.json": ""}
    decoder = torch.export.load(file, extra_files=notes).module()
    said = json.loads(notes["pyrovae.json"])
    assert (said["part"], said["inputs"], said["outputs"]) == ("decoder", ["z"], ["x"])
    schema = Schema.from_dict(said["schema"])
    frame = schema.decode(decoder(torch.zeros(2, vae.latent_dim)))
    assert set(frame["species"]) <= {"Adelie", "Chinstrap", "Gentoo"}


def test_columns_with_a_mean_beside_those_with_a_mode(tmp_path: Path) -> None:
    """A category has a mode, a positive number a mean: neither is drawn."""
    frame = pd.DataFrame({"s": list("abca") * 10, "p": np.exp(np.linspace(-1, 1, 40))})
    vae = pv.VAE.of(frame)
    pv.export(vae, tmp_path / "decoder.pt2", "decoder")
    z = torch.randn(7, vae.latent_dim)
    before = torch.get_rng_state()
    given = pv.decode(vae, z)
    assert torch.equal(before, torch.get_rng_state())
    found = torch.export.load(tmp_path / "decoder.pt2").module()(z)
    torch.testing.assert_close(
        next(iter(found.values())) if isinstance(found, dict) else found, given
    )


def test_several_latents_and_sites_have_their_names(tmp_path: Path) -> None:
    program = pv.programs.Hierarchical((6,), latent_dims=[3, 2])
    decoder = torch.export.load(pv.export(program, tmp_path / "a.pt2", "decoder")).module()
    z = torch.randn(3, 3)  # z2 has no part in x given z1
    torch.testing.assert_close(decoder(z), pv.decode(program, {"z1": z, "z2": torch.zeros(3, 2)}))
    several = pv.programs.Multimodal([[4], [3]])
    found = torch.export.load(pv.export(several, tmp_path / "b.pt2", "decoder")).module()(
        z := torch.randn(3, several.latent_dim)
    )
    right = pv.decode(several, z)
    assert found.keys() == right.keys() and len(right) == 2
    for name, value in right.items():
        torch.testing.assert_close(found[name], value)


def test_a_pair_is_left_as_it_was(tmp_path: Path) -> None:
    vae, x = binary()
    vae.train()
    state, noise = torch.get_rng_state(), [p.clone() for p in vae.parameters()]
    before = pv.sample(vae, 3)
    pv.export(vae, tmp_path / "a.pt2")
    assert torch.equal(state, torch.get_rng_state()) and vae.training
    assert all(map(torch.equal, noise, vae.parameters()))
    assert torch.equal(before, pv.sample(vae, 3))


def values(x: Tensor) -> None:
    """Python looks at a value."""
    scale = 2.0 if bool((x.sum() > 0).item()) else 1.0
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x[:, 0] * scale, 1.0))


def number(x: Tensor) -> None:
    """A datum's code depends on how many there are."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x[:, 0] / len(x), 1.0))


def constant(x: Tensor) -> None:
    """As many numbers as data, written down."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x[:, 0] * torch.tensor([2.0] * len(x)), 1.0))


def threshold(x: Tensor) -> None:
    """Many data are treated otherwise than few."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x[:, 0] + 5.0 * (len(x) > 50), 1.0))


@pytest.mark.parametrize(
    ("guide", "why"),
    [
        (values, "by the values"),
        (number, "tie the rows"),
        (constant, "operations are others"),
        (threshold, "on how many data there are"),
    ],
)
def test_what_is_no_graph_of_one_datum_is_refused(
    guide: Callable[[Tensor], None], why: str, tmp_path: Path
) -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[:, None], 1.0).to_event(1), obs=x)

    with pytest.raises(pv.UsageError, match=why):
        pv.export((model, guide), tmp_path / "a.pt2", like=torch.rand(8, 2))
    assert not list(tmp_path.iterdir())


def test_refusals(tmp_path: Path) -> None:
    vae, _ = binary()
    layers = pv.programs.Hierarchical((6,), latent_dims=[3, 2])
    with pytest.raises(pv.UsageError, match=r"average over draws.*export the decoder"):
        pv.export(layers, tmp_path / "a.pt2")
    pair, x = attention(0.5)
    with pytest.raises(pv.UsageError, match=r"the decoder gives depends on draws \(aten"):
        pv.export(pair, tmp_path / "a.pt2", "decoder", like=x)
    with pytest.raises(pv.UsageError, match=r"part is encoder or decoder, got 'encode'.*mean"):
        pv.export(vae, tmp_path / "a.pt2", "encode")
    with pytest.raises(pv.UsageError, match=r"\.pt2 or \.onnx"):
        pv.export(vae, tmp_path / "a.pt")
    assert not list(tmp_path.iterdir())


def test_onnx_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(pv.UsageError, match=r"pip install \"pyrovae\[onnx\]\""):
        pv.export(binary()[0], tmp_path / "a.onnx")
