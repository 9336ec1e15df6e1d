"""A run folder from a stranger: whatever is in it, an error or what was saved, and nothing else."""

from __future__ import annotations

import json
import math
import os
import pickle
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from test_components import EVENT, GUIDES, LIKELIHOODS, NETWORKS, PRIORS, event_of

import pyrovae as pv
from pyrovae import cli, components, files, runs

SECONDS = 10  # of computing: one command on one mutant
MODEL, CONFIG = "model.safetensors", "config.yaml"


class Late(BaseException):
    """No ``except Exception`` takes it for a damaged file."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fails where more seconds are computed, or a busy machine's several times more are waited."""

    def late(*_: Any) -> None:
        raise Late(f"more than {seconds} s")

    limits = ((signal.ITIMER_PROF, signal.SIGPROF, 1), (signal.ITIMER_REAL, signal.SIGALRM, 6))
    before = [signal.signal(sent, late) for _, sent, _ in limits]
    for timer, _, share in limits:
        signal.setitimer(timer, share * seconds)
    try:
        yield
    finally:
        for (timer, sent, _), handler in zip(limits, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(sent, handler)


@contextmanager
def memory(most: float) -> Iterator[None]:
    """Fails where more bytes are held at once than before and ``most``."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not clear.exists():
        pytest.skip("the system does not tell the largest memory of a while")

    def peak() -> int:
        return 1024 * int(re.findall(r"VmHWM:\s*(\d+) kB", status.read_text())[0])

    clear.write_text("5")  # the largest from here on
    before = peak()
    yield
    assert peak() - before < most


def command(*words: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(word) for word in words])
    return int(stopped.value.code or 0)


class Place:
    """A folder with a run, and around it what must stay as it is."""

    def __init__(self, root: Path) -> None:
        self.root, self.run = root, root / "run"
        self.made, self.outside = root / "made", root / "outside"
        self.canary = root / "canary"  # made by code that ran

    def fresh(self) -> Path:
        shutil.rmtree(self.run, ignore_errors=True)
        shutil.copytree(self.made, self.run)
        return self.run

    def around(self) -> dict[str, bytes | None]:
        return {
            str(path): path.read_bytes() if path.is_file() else None
            for path in self.root.rglob("*")
            if path != self.run and self.run not in path.parents
        }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("trust"))
    place.outside.mkdir()
    for name in (*runs.OWN, "secret.txt"):
        (place.outside / name).parent.mkdir(exist_ok=True)
        (place.outside / name).write_text("secret\n")
    x = torch.bernoulli(torch.full((40, 6), 0.3), generator=torch.Generator().manual_seed(0))
    np.save(place.root / "x.npy", x.numpy())
    sizes = ("--latent-dim", 2, "--likelihood.network.hidden", "[8]", "--guide.network.hidden")
    brief = ("--epochs", 1, "--batch-size", 8, "--num-particles", 2, "--device", "cpu", "--quiet")
    data = ("--data", place.root / "x.npy", "--out", place.made)
    assert command("fit", *data, *sizes, "[8]", *brief) == 0
    return place


# --- the mutants -------------------------------------------------------------------------------

Mutate = Callable[[Place, random.Random], object]
EVIL: tuple[Any, ...] = (
    *(None, True, 0, -1, 1.5, 2**31, 10**9, 10**12, 2**63, 10**30, 1e308, math.nan, math.inf),
    *("", "x", "../x", "/", "/dev/zero", "nul\0", "\x1b]0;title\x07", "\ud800", "9" * 5000),
    *("[&a [1, 1], *a, *a]", "[" * 3000, "1" + ":1" * 4000, "!!python/name:os.system", "x" * 10**5),
    *([], {}, [10**9], [[1]], [0], [-1], [1] * 3000, {"a": 1}, {"class_path": "os.system"}),
    *({"class_path": "posixpath.join", "init_args": {}}, "subprocess.Popen", "torch.load"),
    *({"class_path": "Flow", "init_args": {"transforms": 10**9}}, "Flow", "Mixed", "ConvNet"),
    {"class_path": "pyrovae.priors.VampPrior", "init_args": {"components": 10**12}},
    {"class_path": "Categorical", "init_args": {"classes": 10**10}},
    {"class_path": "LogisticMixture", "init_args": {"components": 10**11}},
    {"class_path": "FullRank"},
)


def anywhere(run: Path, rng: random.Random) -> Path:
    kept = sorted(p for p in run.rglob("*") if p.is_file())
    return rng.choice([run / MODEL, run / CONFIG, *kept])


def cut(place: Place, rng: random.Random) -> None:
    file = anywhere(place.run, rng)
    os.truncate(file, rng.randrange(file.stat().st_size))


def flip(place: Place, rng: random.Random) -> None:
    file = anywhere(place.run, rng)
    content = bytearray(file.read_bytes())
    far = len(content) if rng.random() < 0.5 else min(len(content), 2000)  # headers come first
    for _ in range(rng.choice([1, 1, 2, 8])):
        content[rng.randrange(far)] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def header(file: Path) -> tuple[dict[str, Any], bytes]:
    content = file.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def with_header(file: Path, given: dict[str, Any], rest: bytes) -> None:
    text = json.dumps(given).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + rest)


def claims(place: Place, rng: random.Random) -> None:
    """Another shape, type or place for a tensor of the header."""
    file = place.run / MODEL
    given, rest = header(file)
    tensor = given[rng.choice(sorted(set(given) - {"__metadata__"}))]
    key = rng.choice(["shape", "dtype", "data_offsets"])
    tensor[key] = rng.choice(
        {
            "shape": [*EVIL, [2**62, 4], [2**40, 2**40], [0, 2**63], ["8", 2], [8.0, 2.0]],
            "dtype": [*EVIL, "F64", "I64", "U8", "BOOL", "F4", "F8_E4M3", "C64", "BF16"],
            "data_offsets": [*EVIL, [0, 2**62], [-8, 0], [0, 0], [8, 0], [0, len(rest) + 8]],
        }[key]
    )
    with_header(file, given, rest)


def tensors(place: Place, rng: random.Random) -> None:
    """A whole file of tensors of another type or shape, or under another name."""
    file = place.run / MODEL
    kept, notes = files.read_tensors(file)
    name = rng.choice(sorted(kept))
    kinds = [torch.int64, torch.bool, torch.complex64, torch.float16, torch.uint8]
    if (how := rng.randrange(4)) == 0:
        kept[name] = kept[name].to(rng.choice(kinds))
    elif how == 1:
        kept[name] = torch.zeros(rng.choice([(), (0,), (3, 3), (1,) * 20, (2, 0, 5)]))
    elif how == 2:
        kept[rng.choice(["../x", "/etc/x", "\x1b[2J", "__class__", "", "a.b"])] = kept.pop(name)
    else:
        del kept[name]
    files.write_tensors(file, kept, notes)


def lengths(place: Place, rng: random.Random) -> None:
    """Another length of the header, or one that is long indeed."""
    file = place.run / MODEL
    content = file.read_bytes()
    if rng.random() < 0.8:
        ends = [0, 1, 8, len(content) - 8, len(content), 2**31, 10**8, 2**40, 2**63, 2**64 - 1]
        file.write_bytes(struct.pack("<Q", rng.choice(ends)) + content[8:])
        return
    given, rest = header(file)
    many: Any = rng.choice(["[", '{"a":', " ", '"', "1,"]) * 2_000_000
    if rng.random() < 0.5:
        file.write_bytes(struct.pack("<Q", len(many)) + many.encode() + rest)
    else:
        given["__metadata__"]["pyrovae"] = many
        with_header(file, given, rest)


def at_random(tree: Any, rng: random.Random) -> None:
    """Put something evil for one value of a tree."""
    spots: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            spots.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(tree)
    node, key = rng.choice(spots)
    node[key] = rng.choice(EVIL)


def descriptions(place: Place, rng: random.Random) -> None:
    kept, notes = files.read_tensors(place.run / MODEL)
    at_random(notes if rng.random() < 0.1 else notes["model"], rng)
    files.write_tensors(place.run / MODEL, kept, notes)


def configs(place: Place, rng: random.Random) -> None:
    config = yaml.safe_load((place.run / CONFIG).read_text())
    at_random(config, rng)
    text = yaml.safe_dump(config)
    (place.run / CONFIG).write_bytes(text.encode(errors="surrogatepass"))


LAUGHS = "a: &a [1, 1]\n" + "".join(
    f"{x}: &{x} [{', '.join([f'*{y}'] * 9)}]\n" for y, x in zip("abcdefgh", "bcdefghi", strict=True)
)


def tags(place: Place, rng: random.Random) -> None:
    touch = f"[{place.canary}]"
    text = rng.choice(
        [
            f"data: !!python/object/apply:os.mkdir {touch}",
            f"data: !!python/object/new:os.mkdir {touch}",
            "!!python/object/apply:subprocess.check_output [[touch, x]]",
            f"data: !<tag:yaml.org,2002:python/object/apply:os.mkdir> {touch}",
            "seed: !!python/name:os.system",
            "seed: !!python/module:os",
            "data: !!binary aGVsbG8=",
            "data: !!set {x, y}",
            "? [1, 2]\n: 3",
            "? {a: 1}\n: 3",
            *("2001-99-99: 1", "data: 2001-99-99", "seed: 0x", "seed: 0b2", "<<: 3", "<<: [1]"),
            *(LAUGHS, "&a [*a]", "&a {<<: *a}", "[" * 5000, "{a: " * 3000, "- " * 5000),
            *("seed: 1" + ":1" * 300_000, "x" * 2_000_000, "seed: " + "9" * 9000, "? " * 9999),
            *("--- 1\n--- 2", "data: \x00", "a: [b, {c: d]}", "=: 3", "~: 3", "%YAML 9.9\n---"),
            *("\ufeffa: 1", "\t"),
        ]
    )
    (place.run / CONFIG).write_text(text)


def links(place: Place, rng: random.Random) -> None:
    """Something else than a file in a file's or a folder's place."""
    name = rng.choice([MODEL, CONFIG, "environment.json", "evaluation.json", "metrics.csv"] * 2)
    name = rng.choice([name, name, "figures", "figures/samples.png", "figures/kl.png"])
    path = place.run / name
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    targets = [place.outside / name, place.outside / "secret.txt", place.outside, "/dev/zero"]
    targets += [Path("..") / "outside" / name, path, "/dev/stdin", "/nowhere/at/all", place.canary]
    kind = rng.choice(["link", "link", "link", "pipe", "folder", "none"])
    if kind == "link":
        path.symlink_to(rng.choice(targets))
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()


def names(place: Place, rng: random.Random) -> None:
    """Paths that lead elsewhere."""
    config = yaml.safe_load((place.run / CONFIG).read_text())
    out = place.outside
    ways = ["../outside", str(out), "..", str(out / "secret.txt"), str(out / CONFIG), "~nobody/x"]
    ways += ["/dev/zero", "/dev/stdin", str(out / "none" / "x.npy"), "x\0y.npy", "a" * 5000, "."]
    ways += ["/", "../run", "~no-such-user/x"]
    for key in rng.sample(["data", "data_dir", "label", "binarise", "out"], rng.randint(1, 3)):
        config[key] = rng.choice(ways)
    if rng.random() < 0.3:
        config["data"] = rng.choice(["mnist", "svhn", "celeba"])
        config["data_dir"] = rng.choice(ways)
    (place.run / CONFIG).write_text(yaml.safe_dump(config))


class Touches:
    """Makes a folder where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def hostile(file: Path, payload: Any, rng: random.Random) -> None:
    """A pickle in one of its forms, under any name."""
    how = rng.choice(["pickle", "torch", "npy", "npz", "old"])
    with file.open("wb") as stream:
        if how == "pickle":
            pickle.dump(payload, stream, protocol=rng.choice([0, 2, 4]))
        elif how in ("torch", "old"):
            torch.save({"x": payload}, stream, _use_new_zipfile_serialization=how == "torch")
        elif how == "npy":
            np.save(stream, np.array([payload], dtype=object), allow_pickle=True)
        else:
            np.savez(stream, x=np.array([payload], dtype=object))


def pickles(place: Place, rng: random.Random) -> None:
    payload = Touches(place.canary)
    if rng.random() < 0.6:
        hostile(anywhere(place.run, rng), payload, rng)
        return
    file = place.run / f"data{rng.choice(pv.data.SUFFIXES)}"
    hostile(file, payload, rng)
    config = yaml.safe_load((place.run / CONFIG).read_text())
    (place.run / CONFIG).write_text(yaml.safe_dump(config | {"data": str(file)}))


def texts(place: Place, rng: random.Random) -> None:
    """Files of text that speak to the terminal, are deep or long."""
    name = rng.choice(["environment.json", "evaluation.json", CONFIG, "metrics.csv"])
    text = rng.choice(["\x1b[2J\x1b]0;x\x07", "\x9b31m", "[" * 10**5, "x" * 10**6, "\u202e", "\r"])
    (place.run / name).write_text(text * rng.choice([1, 3]))


MUTANTS: dict[Mutate, int] = {
    cut: 60, flip: 100, claims: 80, tensors: 40, lengths: 40, descriptions: 120, configs: 60,
    tags: 60, links: 60, names: 40, pickles: 40, texts: 20,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("mutate", MUTANTS, ids=lambda mutate: mutate.__name__)
def test_mutants(
    place: Place,
    mutate: Mutate,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = random.Random(mutate.__name__)
    monkeypatch.chdir(place.outside)
    before = place.around()

    def says(*words: object) -> None:
        capfd.readouterr()
        with within(SECONDS):
            code = command(*words)
        said = capfd.readouterr()
        lines = [line for line in said.err.splitlines() if line.startswith("pyrovae: error:")]
        assert code in (0, 2) and len(lines) == (code == 2) and "internal" not in said.err, said
        assert (said.out + said.err).replace("\n", "").replace("\t", "").isprintable()
        assert len(said.out) < 10**6

    for number in range(MUTANTS[mutate]):
        place.fresh()
        mutate(place, rng)
        with within(SECONDS), suppress(pv.UsageError):
            assert isinstance(pv.load(place.run), pv.VAE)
        says("info", place.run)
        if number % 4 == 0 or mutate in (names, pickles):
            says("evaluate", place.run, "--num-particles", 2, "--device", "cpu")
        if number % 20 == 0:
            says("sample", place.run, "--n", 1, "--device", "cpu")
        if number % 20 == 10:
            says("sample", place.run, "--n", 3, "--mean", "false", "--out", place.run / "s.npy")
        assert place.around() == before, f"mutant {number}"


def test_there_are_enough_mutants() -> None:
    assert sum(MUTANTS.values()) >= 500


# --- sizes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [PRIORS, LIKELIHOODS, GUIDES, NETWORKS], ids=len)
def test_every_class_is_read_within_its_bounds(tmp_path: Path, room: dict[str, Any]) -> None:
    guides = {"Sphere": "PowerSpherical", "OneHot": "OneHot", "RelaxedOneHot": "RelaxedOneHot"}
    priors = {guide: prior for prior, guide in guides.items()}
    for name, make in room.items():
        event, parts = EVENT, {}
        if room is PRIORS:
            parts = {"prior": make()}
            parts |= {"guide": GUIDES[guides[name]]()} if name in guides else {}
        elif room is GUIDES:
            parts = {"guide": make()}
            parts |= {"prior": PRIORS[priors[name]]()} if name in priors else {}
        elif room is LIKELIHOODS:
            parts = {"likelihood": make()}
            event = event_of(parts["likelihood"])
        else:
            parts = {"likelihood": pv.likelihoods.Normal(make())}
        vae = pv.VAE(event, 6, **parts)
        file = pv.save(vae, tmp_path / "x.safetensors")
        again = pv.load(file)
        assert components.describe(again) == components.describe(vae)
        assert all(torch.equal(t, again.state_dict()[n]) for n, t in vae.state_dict().items())


def part(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": arguments}


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {"latent_dim": 10**12},
        {"latent_dim": 10**30},
        {"event_shape": [10**6, 10**6]},
        {"likelihood": part("Bernoulli", network=part("MLP", hidden=[10**9]))},
        {"likelihood": part("Bernoulli", network=part("MLP", hidden=[1] * 50_000))},
        {"likelihood": part("Categorical", classes=10**12)},
        {"likelihood": part("LogisticMixture", components=10**12)},
        {"event_shape": [9000], "likelihood": part("Mixed", columns=["Normal"] * 9000)},
        {"likelihood": part("Mixed", columns=["Normal"] * 10**6)},
        {"prior": part("Flow", transforms=10**9)},
        {"prior": part("Flow", hidden=[10**9])},
        {"prior": part("VampPrior", components=10**11)},
        {"prior": part("Mixture", components=10**12)},
        {"guide": part("FullRank"), "latent_dim": 10**6},
        {"guide": part("Flow", transforms=10**9)},
        {"guide": part("Mixture", components=10**12)},
    ],
    ids=lambda arguments: str(arguments)[:60],
)
def test_a_larger_model_than_the_file_is_refused_before_it_is_made(
    tmp_path: Path, arguments: dict[str, Any]
) -> None:
    file = tmp_path / MODEL

    def refused(arguments: dict[str, Any]) -> None:
        model = part("pyrovae.vae.VAE", **({"event_shape": [6]} | arguments))
        files.write_tensors(file, {"x": torch.zeros(10)}, {"model": model})
        with pytest.raises(pv.UsageError):
            pv.load(file)

    refused({"latent_dim": 3, "prior": "Flow", "guide": "Flow"})  # what is imported stays
    with memory(200e6), within(SECONDS):
        refused(arguments)


def test_the_model_is_compared_before_the_tensors_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = components.describe(pv.VAE((6,), 2))
    files.write_tensors(tmp_path / MODEL, {"x": torch.zeros(10)}, {"model": model})
    monkeypatch.setattr(runs, "read_tensors", pytest.fail)
    with pytest.raises(pv.UsageError, match=r"unknown \[x\]"):
        pv.load(tmp_path)


# --- files -------------------------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path: Path) -> None:
    given = {
        "scalar": torch.tensor(3),
        "none": torch.zeros(0, 2),
        "half": torch.randn(3, 2).bfloat16(),
        "bits": torch.tensor([True, False]),
        "view": torch.arange(12).view(3, 4).t(),
    }
    notes = {"model": None, "häh": [1, 0.1, math.inf, {"a": "b"}]}
    file = tmp_path / "x.safetensors"
    files.write_tensors(file, given, notes)
    found, said = files.read_tensors(file)
    assert said == notes and found.keys() == given.keys()
    assert all(torch.equal(found[name], given[name]) for name in given)
    assert files.read_notes(file) == ({n: tuple(t.shape) for n, t in given.items()}, notes)
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_every_flipped_bit_of_a_tensor_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    files.write_tensors(file, {"x": torch.randn(5)}, {"a": 1})
    whole = file.read_bytes()
    for bit in range(8 * 20):
        torn = bytearray(whole)
        torn[-1 - bit // 8] ^= 1 << bit % 8
        file.write_bytes(torn)
        with pytest.raises(pv.UsageError, match="checksum"):
            files.read_tensors(file)


def test_notes_of_another_file_are_noticed(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    files.write_tensors(file, {"x": torch.zeros(2)}, {"a": 1})
    file.write_bytes(file.read_bytes().replace(b'\\"a\\": 1', b'\\"a\\": 2'))
    with pytest.raises(pv.UsageError, match="checksum"):
        files.read_tensors(file)


def test_notes_that_are_deep_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    for levels in (900, 10**6):
        text = '{"crc32": 1, "model": ' + "[" * levels + "]" * levels + "}"
        save_file({"x": torch.ones(2)}, file, metadata={"pyrovae": text})
        for into in (None, pv.VAE((6,), 2)):
            with within(SECONDS), pytest.raises(pv.UsageError, match="levels"):
                pv.load(file, into)
    deep = ('{"a":' * 10**6).encode()
    utf16 = json.dumps({"x": 1}).encode("utf-16")
    for text in (deep, utf16):
        file.write_bytes(struct.pack("<Q", len(text)) + text)
        with within(SECONDS), pytest.raises(pv.UsageError, match="safetensors"):
            files.read_tensors(file)


def test_files_of_others_have_no_checksum(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_file({"x": torch.ones(2)}, file)
    found, notes = files.read_tensors(file)
    assert notes == {} and found["x"].tolist() == [1, 1]
    vae = pv.VAE((6,), 2)
    kept = load_file(pv.save(vae, tmp_path / MODEL))
    text = json.dumps({"version": 1, "model": components.describe(vae)})
    save_file(kept, tmp_path / MODEL, metadata={"pyrovae": text})
    assert components.describe(pv.load(tmp_path)) == components.describe(vae)


def test_tensors_of_another_kind_are_refused(tmp_path: Path) -> None:
    vae = pv.VAE((6,), 2)
    kept, notes = files.read_tensors(pv.save(vae, tmp_path))
    name = next(iter(kept))
    for kind in (torch.int64, torch.bool, torch.complex64):
        files.write_tensors(tmp_path / MODEL, kept | {name: kept[name].to(kind)}, notes)
        with pytest.raises(pv.UsageError, match=str(kind)):
            pv.load(tmp_path)
    files.write_tensors(tmp_path / MODEL, kept | {name: kept[name].double()}, notes)
    assert torch.equal(pv.load(tmp_path).state_dict()[name], kept[name])


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "a\0b", Path("..")])
def test_names_stay_inside(tmp_path: Path, name: str | Path) -> None:
    with pytest.raises(pv.UsageError, match="leaves the folder"):
        files.inside(tmp_path, name)


def test_links_below_the_folder_are_not_followed(tmp_path: Path) -> None:
    real, outside = tmp_path / "real", tmp_path / "outside"
    real.mkdir()
    outside.mkdir()
    (tmp_path / "run").symlink_to(real)  # the owner's choice
    (real / "figures").symlink_to(outside)
    (real / "metrics.csv").symlink_to(outside / "rows.csv")
    (real / MODEL).symlink_to(outside / "nothing")
    (outside / "kl.png").touch()
    folder = runs.Folder(tmp_path / "run")
    for write in (
        lambda: folder.append({"epoch": 1}),
        lambda: folder.write_json("figures/x.json", {}),
        lambda: folder.write_json("../x.json", {}),
        lambda: pv.save(pv.VAE((6,), 2), tmp_path / "run"),
        lambda: runs.Folder.prepare(tmp_path / "run", force=True).create(),
    ):
        with pytest.raises(pv.UsageError, match="symbolic link|leaves the folder"):
            write()
    assert [path.name for path in outside.iterdir()] == ["kl.png"]
    (real / "figures").unlink()
    runs.Folder.prepare(tmp_path / "run", force=True, config={}).create()  # takes the links away
    folder.append({"epoch": 1})
    assert sorted(path.name for path in real.iterdir()) == ["config.yaml", "metrics.csv"]
    assert [path.name for path in outside.iterdir()] == ["kl.png"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "aliases"),
        ("a: !!python/name:os.system", "no tags"),
        ("[" * 10_000, "levels"),
        ("- " * 5000, "levels"),
        ("{a: " * 5000, "levels"),
        ("? " * 5000, "levels"),
        ("[" * 51 + "]" * 51, "levels"),
        ("seed: 1" + ":1" * 400_000, "longer"),
        ("x" * 1_000_001, "larger than 1,000,000 bytes"),
        ("a: 2001-99-99", "not a YAML file"),
        ("a: \xff", "UTF-8"),
        ("a: [", "not a YAML file"),
    ],
    ids=[
        *("laughs", "tag", "deep", "rows", "maps", "keys", "over", "digits", "long"),
        *("date", "bytes", "open"),
    ],
)
def test_yaml_that_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(text.encode("latin-1"))
    with within(SECONDS), pytest.raises(pv.UsageError, match=said):
        files.read_yaml(file)


def test_yaml_of_many_values_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "VALUES", 1000)
    assert files.plain("- 1\n" * 999) == [1] * 999
    with pytest.raises(pv.UsageError, match="1,000 values"):
        files.plain("- 1\n" * 1000)


READERS = """
import io, sys
from contextlib import redirect_stderr
from pathlib import Path

how, file = sys.argv[1:]
if how == "without libyaml":
    sys.modules["yaml._yaml"] = None
import yaml
assert how != "without libyaml" or not yaml.__with_libyaml__
if how == "strict libyaml":  # since 6.0.4 it counts levels itself
    def refuses(text):
        raise yaml.scanner.ScannerError("while parsing", None, "exceeded maximum nesting depth")
    for name in ("CBaseLoader", "CSafeLoader", "CFullLoader", "CUnsafeLoader", "CLoader"):
        setattr(yaml, name, refuses)

import pyrovae as pv
from pyrovae import cli, components, files

def option(text):
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            cli.main(["fit", "--likelihood.network.hidden", text])
    except SystemExit as stopped:
        assert stopped.code == 2
    raise pv.UsageError(said.getvalue().strip())

def read(text):
    Path(file).write_text(text)
    return files.read_yaml(Path(file))

mixed = {"class_path": "Mixed", "init_args": None}
ways = {
    "file": read,
    "option": option,
    "value": lambda text: components.typed(list[int], text, "x"),
    "number": lambda text: components.typed(int, text, "x"),
    "word": lambda text: components.typed(bool, text, "x"),
    "in a list": lambda text: components.typed(list[int], [text], "x"),
    "classes": lambda text: components.construct(
        mixed | {"init_args": {"columns": text}}, "likelihood"
    ),
}
for way, of in ways.items():
    for text in ("[" * 5000, "[ " * 2500, "- " * 5000, "{a: " * 2500, "? " * 5000):
        try:
            raise AssertionError(of(text))
        except pv.UsageError as error:
            print(f"{way}: {str(error)!r}")
assert read("[" * 50 + "]" * 50) and read("a: [b, {c: d}]") == {"a": ["b", {"c": "d"}]}
assert components.typed(list[int], "[3, 5]", "x") == [3, 5]
"""


@pytest.mark.slow
def test_deep_yaml_is_one_sentence_whichever_parser_is_installed(tmp_path: Path) -> None:
    said = {
        subprocess.run(
            [sys.executable, "-c", READERS, how, str(tmp_path / "c.yaml")],
            capture_output=True, text=True, check=True, timeout=20 * SECONDS,
        ).stdout
        for how in ("as installed", "without libyaml", "strict libyaml")
    }  # fmt: skip
    lines = said.pop().splitlines()
    assert not said and len(lines) == 35 and "internal" not in str(lines)
    assert all("levels" in line for line in lines if line.startswith("file"))
    assert all("must be a list" in line for line in lines if line.startswith(("opt", "val", "in")))


def test_json_that_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.json"
    for text in ("[" * 10**6, "{", "9" * 5000, "", '"\\"' * 10**6, '"' * 999_999):
        file.write_text(text)
        with within(SECONDS), pytest.raises(pv.UsageError, match="not a JSON file"):
            files.read_json(file)
    for text in ("[" * 201 + "]" * 201, '{"a": ' * 201 + "1" + "}" * 201):
        file.write_text(text)
        with pytest.raises(pv.UsageError, match="more than 200 levels"):
            files.read_json(file)
    for value in (
        "[" * 999 + '\\"' + "{" * 999,
        [[1], [2]] * 300,
    ):  # what is wide or text is not deep
        file.write_text(json.dumps(value))
        assert files.read_json(file) == value
    file.write_text("[" * 200 + "]" * 200)
    assert len(files.read_json(file)) == 1
    monkeypatch.setattr(files, "JSON", 5)
    file.write_text("[1, 2]")
    assert files.read_json(file) == [1, 2]
    with pytest.raises(pv.UsageError, match="larger"):
        files.read_text(file, 5)


@pytest.mark.parametrize(
    "literal", ["[" * 9000, "-" * 9000 + "1", "f" + "()" * 4000, "not " * 2000 + "1", "{1:" * 3000]
)
@pytest.mark.parametrize("stream", ["auto", True])
def test_literals_that_are_deep_are_refused(tmp_path: Path, literal: str, stream: Any) -> None:
    head = struct.pack("<H", len(literal)) + literal.encode()
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + head + b"\0" * 64)
    with within(SECONDS), pytest.raises(pv.UsageError, match=r"x\.npy cannot be read"):
        pv.data.load(tmp_path / "x.npy", stream=stream)


def test_pipes_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.npy")
    for path in (tmp_path / "x.npy", Path("/dev/zero"), tmp_path):
        for read in (files.read_yaml, files.read_json, files.read_tensors, files.read_notes):
            with within(SECONDS), pytest.raises(pv.UsageError, match="cannot read"):
                read(path)
    with within(SECONDS), pytest.raises(pv.UsageError, match="no file or folder"):
        pv.data.load(tmp_path / "x.npy")


@pytest.mark.parametrize("suffix", pv.data.SUFFIXES)
def test_data_that_are_pickles_run_nothing(tmp_path: Path, suffix: str) -> None:
    for seed in range(10):
        hostile(tmp_path / f"x{suffix}", Touches(tmp_path / "canary"), random.Random(seed))
        with pytest.raises(pv.UsageError, match=r"x\."):
            pv.data.load(tmp_path / f"x{suffix}")
    assert not (tmp_path / "canary").exists()


# --- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (list[int], "v.yaml"),
        (list[int], "@v.yaml"),
        (int, "[&a [1, 1], *a]"),
        (list[int], "[&a [1, 1], *a]"),
        (list[int], "[" * 5000),
        (list[int], ["[" * 5000]),
        (int, "1" * 10**6),
        (float, {"class_path": "os.system"}),
        (float | str, {"class_path": "os.system"}),
        (torch.nn.Module, {"class_path": "torch.nn.Linear"}),
        (Callable, "os.system"),
        (Path, "v.yaml"),
        (list[torch.nn.Module], []),
        (Any, "v.yaml"),
    ],
)
def test_values_open_and_import_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, value: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v.yaml").write_text("[1, 2]")
    with within(SECONDS), pytest.raises(pv.UsageError, match="^x"):
        components.typed(kind, value, "x")


def test_long_lists_are_read_in_time_that_grows_with_them() -> None:
    start = time.monotonic()
    assert len(components.typed(list[int], [3] * 100_000, "x")) == 100_000
    assert time.monotonic() - start < SECONDS
    deep: Any = "Normal"
    for _ in range(200):
        deep = part("Mixed", columns=[deep])
    for given in (deep, part("Mixed", columns=["Normal"] * 200_000)):
        with pytest.raises(pv.UsageError, match="values or 50 levels"):
            components.construct(given, "likelihood")


# --- modules of one's own ----------------------------------------------------------------------

OWN = """
    import os
    import torch
    from pyrovae.likelihoods import Normal
    from pyrovae.networks import Network

    class Wide(Normal):
        def __init__(self, network=Network, width: int = 3):
            super().__init__(network, scale=float(width))
            self.width = width

    class Spread(Normal):
        MINIMUM = 0.5

    class Plain:
        pass

    class Forgets(Normal):
        def __init__(self, width: int = 3):
            super().__init__()
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    package = tmp_path / "code" / "mine"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text(textwrap.dedent(OWN))
    monkeypatch.syspath_prepend(package.parent)
    forget()  # that of another test
    yield lambda: __import__("mine.parts").parts
    forget()


def forget() -> None:
    for name in ("mine", "mine.parts"):
        sys.modules.pop(name, None)


def test_a_class_of_ones_own_is_built_where_its_module_is_allowed(
    tmp_path: Path, own: Callable[[], Any]
) -> None:
    torch.manual_seed(0)
    vae = pv.VAE((6,), 2, likelihood=own().Spread())
    pv.save(vae, tmp_path)
    described = components.describe(vae)
    forget()
    said = r"mine\.parts.*pv\.load\(path, allow=\['mine\.parts'\]\), --allow mine\.parts"
    for allow in ([], ["min"], ["mine.part"], ["mine.parts.Spread"], ["os"], [""]):
        with pytest.raises(pv.UsageError, match=said):
            pv.load(tmp_path, allow=allow)
        assert "mine" not in sys.modules
    for allow in (["mine"], ["mine.parts"], ["os", "mine"]):
        again = pv.load(tmp_path, allow=allow)
        assert type(again.likelihood).__name__ == "Spread"
        assert components.describe(again) == described
        assert all(torch.equal(t, again.state_dict()[n]) for n, t in vae.state_dict().items())
    fresh = pv.VAE((6,), 2, likelihood=own().Spread())
    assert pv.load(tmp_path, into=fresh) is fresh


@pytest.mark.parametrize("name", ["Plain", "os", "Normal.MINIMUM", "Network", "nothing"])
def test_only_components_of_an_allowed_module_are_built(own: Any, name: str) -> None:
    with pytest.raises(pv.UsageError, match="not a class derived from|cannot import"):
        components.find("likelihood", f"mine.parts.{name}", ["mine"])
    with pytest.raises(pv.UsageError, match=r"pyrovae\.guides\.Guide"):
        components.find("guide", "mine.parts.Spread", ["mine"])


def test_what_no_program_could_import_is_not_described(own: Callable[[], Any]) -> None:
    class Local(pv.likelihoods.Normal):
        pass

    for part_ in (Local(), own().Forgets()):
        with pytest.raises(TypeError, match="plain data"):
            components.describe(part_)


@pytest.mark.slow
def test_the_command_line_allows_modules(
    place: Place, tmp_path: Path, own: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    brief = ("--epochs", 1, "--batch-size", 8, "--num-particles", 2, "--device", "cpu", "--quiet")
    fit = ("fit", "--data", place.root / "x.npy", *brief, "--likelihood", "mine.parts.Spread")
    assert command(*fit, "--out", tmp_path / "run") == 2 and "mine" not in sys.modules
    assert "--allow mine.parts" in capsys.readouterr().err
    assert command(*fit, "--out", tmp_path / "run", "--allow", "os,mine.parts") == 0
    config = tmp_path / "run" / CONFIG
    again = ("fit", "--config", config, "--out", tmp_path / "again", "--quiet")
    for words in (
        ("info", tmp_path / "run"),
        ("sample", tmp_path / "run", "--n", 1),
        ("evaluate", tmp_path / "run", "--num-particles", 2),
        again,
    ):
        forget()
        assert command(*words) == 2 and "mine" not in sys.modules
        assert command(*words, "--allow", "os", "--allow", "mine") == 0
    config.write_text("allow: [mine]\n")
    assert command("fit", "--config", config) == 2


# --- the command line --------------------------------------------------------------------------


def test_a_run_does_not_choose_where_data_are_downloaded_to(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, Any]] = []

    def load(name: Any, data_dir: Any = None, *, download: bool = True, **_: Any) -> Any:
        seen.append((str(data_dir), download))
        raise pv.UsageError("stop")

    monkeypatch.setattr(pv.data, "load", load)
    config = yaml.safe_load((place.fresh() / CONFIG).read_text())
    config |= {"data": "mnist", "data_dir": "/theirs"}
    (place.run / CONFIG).write_text(yaml.safe_dump(config))
    for words in (["evaluate", place.run], ["fit", "--config", place.run / CONFIG]):
        command(*words)
        command(*words, "--data-dir", "/mine")
    assert seen == [("/theirs", False), ("/mine", True)] * 2


@pytest.mark.parametrize("data", ["/", "..", "../../.."])
def test_a_run_does_not_have_the_whole_disk_read(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: str
) -> None:
    monkeypatch.chdir(place.fresh())
    config = yaml.safe_load((place.run / CONFIG).read_text())
    (place.run / CONFIG).write_text(yaml.safe_dump(config | {"data": data}))
    assert command("evaluate", place.run) == 2
    assert "a folder around the run" in capsys.readouterr().err


def test_a_config_does_not_overwrite(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    (place.fresh() / CONFIG).write_text(f"force: true\nout: {place.made}\n")
    assert command("fit", "--config", place.run / CONFIG) == 2
    assert "--force" in capsys.readouterr().err


def test_info_shows_no_link_no_escape_and_no_flood(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    run = place.fresh()
    (run / "environment.json").write_text("\x1b[31mred\x9b \u202e\r.")
    (run / CONFIG).unlink()
    (run / CONFIG).symlink_to(place.outside / "secret.txt")
    (run / "evaluation.json").write_text("x" * 100_001)
    assert command("info", run) == 0
    out = capsys.readouterr().out
    assert "secret\n" not in out and "symbolic link" in out and len(out) < 10_000
    assert command("info", run, "--full") == 0
    out = capsys.readouterr().out
    assert "?[31mred? ?" in out and "secret\n" not in out and "symbolic link" in out
    assert "larger than 100,000 bytes" in out and len(out) < 10_000


def test_figures_go_through_no_link(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    run, before = place.fresh(), place.around()
    shutil.rmtree(run / "figures")
    (run / "figures").symlink_to(place.outside)
    assert command("sample", run, "--n", 1) == 2
    assert "symbolic link" in capsys.readouterr().err and place.around() == before
    assert command("sample", run, "--n", 1, "--out", place.run / "mine.png") == 0
