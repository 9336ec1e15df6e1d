"""The page: its numbers are those of the verbs, in a real browser too, and strangers get a 4xx."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import hashlib
import itertools
import json
import random
import re
import shutil
import signal
import socket
import string
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_programs import ROWS

import pyrovae as pv
from pyrovae import explorer, guides, likelihoods, networks
from pyrovae.schema import Column, Schema

pytest.importorskip("fastapi", reason='pip install "pyrovae[explore]"')
httpx = pytest.importorskip("httpx")

EVENT = (1, 8, 8)


@pytest.fixture(scope="module")
def data() -> pv.data.TensorData:
    digits = pv.data.load("digits").test
    return pv.data.TensorData((digits.x >= 8).float(), labels=digits.labels)


@pytest.fixture(scope="module")
def vae(data: pv.data.TensorData) -> pv.VAE:
    torch.manual_seed(0)
    pair = pv.VAE(
        EVENT,
        3,
        likelihood=likelihoods.Bernoulli(networks.MLP([32])),
        guide=guides.MeanField(networks.MLP([32])),
    )
    pv.fit(pair, data, epochs=10, lr=5e-3, progress=False)
    return pair


@pytest.fixture(scope="module")
def view(vae: pv.VAE, data: pv.data.TensorData) -> explorer.View:
    return explorer.View(vae, data, points=200)


@pytest.fixture(scope="module")
def server(view: explorer.View) -> Iterator[explorer.Server]:
    with explorer.serve(view) as served:
        yield served


@pytest.fixture(scope="module")
def client(server: explorer.Server) -> Iterator[Any]:
    with httpx.Client(base_url=server.address, timeout=30) as client:
        assert client.get(server.url, follow_redirects=True).status_code == 200
        yield client  # which has the key now


PENGUINS = Schema(
    (
        Column(
            "island", "category", "str", ("Biscoe", "Dream", "Torgersen <b>"), high=2.0, gaps=True
        ),
        Column("mass", "positive", "float64", unit="g", decimals=0, low=2700.0, high=6300.0),
        Column("ringed", "boolean", "bool", (False, True)),
        Column("eggs", "count", "int64", decimals=0, high=6.0),
        Column("bill", "real", "float64", unit="mm", decimals=1, low=32.1, high=59.6, gaps=True),
        Column("seen", "date", "datetime64[us]", (), "D", "2007-11-11", 0, 0.0, 800.0),
    ),
    label="species",
    classes=("Adelie", "Gentoo"),
)


@pytest.fixture(scope="module")
def penguins() -> pv.data.TensorData:
    """Rows of PENGUINS, some entries missing."""
    dice = np.random.default_rng(0)
    n = 200
    species = dice.integers(0, 2, n)
    columns = [dice.choice(3, n), 3500 + 1500 * species + dice.normal(0, 300, n).round()]
    columns += [dice.integers(0, 2, n), dice.poisson(1.5, n)]
    columns += [(39 + 8 * species + dice.normal(0, 3, n)).round(1), dice.integers(0, 800, n)]
    x = np.stack(columns, 1).astype("float32")
    x[dice.random(n) < 0.1, 4] = np.nan
    return pv.data.TensorData(torch.tensor(x), labels=species)._with(schema=PENGUINS)


@pytest.fixture(scope="module")
def tables(penguins: pv.data.TensorData) -> pv.programs.MissingData:
    torch.manual_seed(0)
    kinds = [likelihoods.Categorical(3), likelihoods.Normal(), likelihoods.Bernoulli()]
    kinds += [likelihoods.Poisson(), likelihoods.Normal(), likelihoods.Normal()]
    mixed = likelihoods.Mixed(kinds, networks.MLP([16]))
    pair = pv.programs.MissingData(
        (6,), 2, likelihood=mixed, guide=guides.MeanField(networks.MLP([16]))
    )
    pair.initialise(penguins)
    pv.fit(pair, penguins, epochs=20, batch_size=50, lr=1e-2, progress=False)
    return pair


@pytest.fixture(scope="module")
def rows(tables: pv.programs.MissingData, penguins: pv.data.TensorData) -> explorer.View:
    return explorer.View(tables, penguins)


@pytest.fixture(scope="module")
def of_tables(rows: explorer.View) -> Iterator[explorer.Server]:
    with explorer.serve(rows) as served:
        yield served


@pytest.fixture(scope="module")
def series() -> explorer.View:
    schema = Schema((Column("warmth", "real", "f4", unit="K"), Column("rain", "real", "f4")))
    x = torch.rand(40, 12, 2, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    return explorer.View(
        pv.VAE((12, 2), 2, likelihood=likelihoods.Normal()),
        pv.data.TensorData(x)._with(schema=schema),
    )


def rounded(values: Any) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def close(ours: Any, theirs: torch.Tensor, atol: float = 1e-4) -> bool:
    return torch.allclose(rounded(ours), theirs.double(), atol=atol)


class TestAnswersAreTheVerbs:
    def test_decode(self, client: Any, vae: pv.VAE) -> None:
        z = [0.5, -1.0, 3.5]
        answer = client.post("/api/decode", json={"z": z}).json()
        assert close(answer["x"], pv.decode(vae, torch.tensor([z])).flatten(1))
        assert answer["outside"] == [2]

    def test_datum(self, client: Any, vae: pv.VAE, data: pv.data.TensorData) -> None:
        answer = client.get("/api/datum/7").json()
        found = pv.evaluate(vae, data.x[7:8], explorer.view.PARTICLES)
        for name in ("elbo", "reconstruction", "kl", "log_evidence", "khat", "ess"):
            assert answer["numbers"][name] == pytest.approx(float(getattr(found, name)), abs=1e-3)
        assert close(answer["reconstruction_x"], pv.reconstruct(vae, data.x[7:8]).flatten(1))
        assert close(answer["code"], pv.encode(vae, data.x[7:8])[0])
        near = pv.neighbours(vae, data.x[7:8], data.x[:200], k=7)[0][0].tolist()
        assert answer["neighbours"] == [k for k in near if k != 7][:6]
        assert answer["label"] == int(data.labels[7])

    def test_the_ellipse_is_the_guides_own(self, view: explorer.View, vae: pv.VAE) -> None:
        """The covariance in the plane against the guide's exact one, to six standard errors."""
        answer = view.datum(7)
        with torch.no_grad():
            q = vae.posterior(view.data.x[7:8])
        exact = view.rows @ torch.diag(q.variance[0]) @ view.rows.T
        tolerance = 6 * float(exact.diagonal().max()) * (2 / explorer.view.CLOUD) ** 0.5
        assert close(answer["covariance"], exact, tolerance)

    def test_path_samples_and_gaps(
        self, client: Any, vae: pv.VAE, data: pv.data.TensorData
    ) -> None:
        path = client.post("/api/path", json={"start": 0, "end": 5, "steps": 6}).json()
        assert close(path["x"], pv.interpolate(vae, data.x[:1], data.x[5:6], 6)[0].flatten(1))
        drawn = client.post("/api/samples", json={"n": 4, "seed": 3}).json()
        assert close(drawn["x"], pv.sample(vae, 4, mean=True, seed=3).flatten(1))
        x = data.x[3].flatten().tolist()
        x[:20] = [None] * 20
        filled = client.post("/api/impute", json={"x": x}).json()["x"][0]
        given = data.x[3:4].clone()
        given.flatten()[:20] = torch.nan
        assert close(filled, pv.impute(vae, given)[0].flatten())
        assert filled[20:] == x[20:]

    def test_own_picture(self, client: Any, data: pv.data.TensorData) -> None:
        own = client.post("/api/posterior", json={"x": data.x[7].flatten().tolist()}).json()
        theirs = client.get("/api/datum/7").json()
        assert own["numbers"] == theirs["numbers"] and own["code"] == theirs["code"]

    def test_units_come_by_kl(self, client: Any, vae: pv.VAE, view: explorer.View) -> None:
        about = client.get("/api/about").json()
        kl = [unit["kl"] for unit in about["units"]]
        assert kl == sorted(kl, reverse=True) and len(about["points"]) == 200
        found = pv.evaluate(vae, view.data.x, 1).kl_dimensions["z"]
        assert close([about["units"][k]["kl"] for k in range(3)], found.sort(descending=True)[0])


@pytest.mark.parametrize("name", ROWS)
def test_every_program_is_explored_or_refused_in_a_sentence(name: str) -> None:
    program = ROWS[name].make()
    served = program.serve(ROWS[name].data())
    if name in ("DiscreteCode", "DiscreteCode score"):
        with pytest.raises(pv.UsageError, match="no continuous latent"):
            explorer.View(program, served)
        return
    view = explorer.View(program, served)
    about = view.about()
    code = view.codes[0].tolist()
    x = [None if v != v else v for v in view.data.x[0].flatten().tolist()]
    answers = [about, view.datum(0), view.decode(code), view.path(0, 1, 3), view.posterior(x)]
    for answer in (lambda: view.samples(2), lambda: view.filled([None, *x[1:]]), view.grid):
        with contextlib.suppress(pv.UsageError):  # what the program refuses in Python too
            answers.append(answer())
    assert json.dumps(answers, allow_nan=False)
    assert len(view.decode(code)["x"][0]) in {len(x), *(s.numel() for s in program.example_data())}


class TestColumns:
    def test_are_told_as_plain_data(self, rows: explorer.View, series: explorer.View) -> None:
        about = json.loads(json.dumps(rows.about(), allow_nan=False))
        assert Schema.from_dict({"columns": about["columns"]}).columns == PENGUINS.columns
        assert (about["kind"], about["label"], about["names"]) == (
            "table",
            "species",
            ["Adelie", "Gentoo"],
        )
        about = series.about()
        assert about["kind"] == "series"
        assert [column["name"] for column in about["columns"]] == ["warmth", "rain"]

    def test_without_a_schema_are_numbered_and_have_the_ends_of_the_data(self) -> None:
        x = torch.tensor([[1.0, 1e-9], [3.0, 2e-9], [2.0, 1.5e-9]])
        view = explorer.View(pv.VAE((2,), 2, likelihood=likelihoods.Normal()), x)
        first, second = view.about()["columns"]
        assert (first["name"], second["name"]) == ("column 1", "column 2")
        assert (first["low"], first["high"]) == (1.0, 3.0)
        assert view.data_at([1])["x"] == [[3.0, pytest.approx(2e-9, rel=1e-6)]]

    def test_images_have_none(self, view: explorer.View) -> None:
        assert view.about()["columns"] is None

    def test_rows_from_the_prior_are_rows(self, rows: explorer.View) -> None:
        drawn = np.array(rows.samples(50)["x"])
        assert set(drawn[:, 0]) <= {0, 1, 2} and set(drawn[:, 2]) == {0, 1}
        assert (drawn[:, 3] == drawn[:, 3].round()).all()


def test_labels_are_what_a_conditional_program_is_given() -> None:
    program = ROWS["Conditional"].make()
    view = explorer.View(program, program.serve(ROWS["Conditional"].data()))
    assert view.about()["conditional"] and view.labels is not None
    other = int((view.labels != view.labels[0]).nonzero()[0])
    z = [0.3, 0.1]
    assert view.decode(z, 0) != view.decode(z, other)
    wanted = pv.decode(program, torch.tensor([z]), like=view.data.select(torch.tensor([other])))
    assert close(view.decode(z, other)["x"], wanted.flatten(1))


BAD = {
    "wrong shape": ("/api/decode", {"z": [0.0]}, "z is 3 finite numbers, got 1"),
    "not a number": ("/api/decode", '{"z": [NaN, 0, 0]}', "z"),
    "infinite": ("/api/decode", '{"z": [1e999, 0, 0]}', "z"),
    "text": ("/api/decode", {"z": "abc"}, "z"),
    "nothing": ("/api/decode", {}, "z"),
    "more": ("/api/decode", {"z": [0, 0, 0], "path": "/etc/passwd"}, "path"),
    "no JSON": ("/api/decode", "{", "JSON"),
    "no such datum": ("/api/decode", {"z": [0, 0, 0], "given": 10**6}, "0 to 199"),
    "negative": ("/api/samples", {"n": -1}, "n"),
    "too many": ("/api/samples", {"n": 10**9}, "n"),
    "a short picture": ("/api/posterior", {"x": [0.0]}, "x has 1 values"),
    "a grey picture": ("/api/posterior", {"x": [0.5] * 64}, "support"),
    "a long picture": ("/api/impute", {"x": [None] * 65}, "x has 65 values"),
    "one step": ("/api/path", {"start": 0, "end": 1, "steps": 1}, "steps"),
}


class TestStrangers:
    @pytest.mark.parametrize("name", BAD)
    def test_bad_questions_get_a_sentence(self, client: Any, name: str) -> None:
        where, question, sentence = BAD[name]
        body = question if isinstance(question, str) else json.dumps(question)
        answer = client.post(where, content=body, headers={"content-type": "application/json"})
        assert 400 <= answer.status_code < 500
        assert sentence in answer.json()["error"]

    def test_large_bodies(self, client: Any) -> None:
        answer = client.post("/api/decode", content=b" " * 10_000_000)
        assert answer.status_code == 413 and "bytes" in answer.json()["error"]

        def endless() -> Iterator[bytes]:
            for _ in range(1000):
                yield b" " * 10_000

        assert client.post("/api/decode", content=endless()).status_code == 413

    @pytest.mark.parametrize(
        "headers",
        [
            {"host": "evil.example"},
            {"host": "127.0.0.1.evil.example"},
            {"host": "localhost:80@evil.example"},
            {"host": ""},
            {"origin": "https://evil.example"},
            {"origin": "null"},
            {"origin": "http://127.0.0.1:9"},
        ],
    )
    def test_foreign_pages(self, client: Any, headers: dict[str, str]) -> None:
        answer = client.get("/api/about", headers=headers)
        assert answer.status_code == 403 and "this page" in answer.json()["error"]

    @pytest.mark.parametrize(
        "path",
        [
            "/../../etc/passwd",
            "/..%2f..%2fetc/passwd",
            "/page.html",
            "/api/datum/..%2f..%2fetc",
            "/api/datum/-1",
            "/api/datum/9999",
            "/api/datum/1e3",
            "/docs",
            "/%00",
        ],
    )
    def test_paths(self, client: Any, path: str) -> None:
        answer = client.get(path)
        assert 400 <= answer.status_code < 500 and answer.json()["error"]

    def test_a_thousand_random_requests(self, client: Any) -> None:
        """None is a 5xx, none shows a file, and the server answers still."""
        dice = random.Random(0)
        paths = ["decode", "datum/1", "data", "posterior", "impute", "path", "samples", "about"]
        paths += ["", "../..", "%2e%2e/etc/passwd", "x" * 3000]

        def value(depth: int = 0) -> Any:
            kind = dice.randrange(9 if depth < 3 else 6)
            if kind == 0:
                return dice.choice([0, -1, 1, 3, 64, 2**31, 10**30, True, None])
            if kind == 1:
                return dice.choice([0.0, 1e-300, -1e300, float("nan"), float("inf"), 0.5])
            if kind == 2:
                return "".join(dice.choices(string.printable, k=dice.randrange(30)))
            if kind == 3:
                return [dice.choice([0, 1, None, 0.5]) for _ in range(dice.choice([0, 3, 63, 64]))]
            if kind in (4, 5):
                return [dice.gauss(0, 10) for _ in range(3)]
            if kind == 6:
                return [value(depth + 1) for _ in range(dice.randrange(5))]
            names = [
                "z",
                "x",
                "given",
                "n",
                "seed",
                "start",
                "end",
                "steps",
                "indices",
                "__class__",
            ]
            return {name: value(depth + 1) for name in dice.sample(names, dice.randrange(1, 5))}

        seen = set()
        for _ in range(1000):
            body = json.dumps(value()).encode()
            if dice.random() < 0.2:
                body = bytes(dice.randrange(256) for _ in range(dice.randrange(200)))
            method = dice.choice(["POST", "POST", "POST", "GET", "PUT", "DELETE", "HEAD"])
            where = dice.choice(["/api/", "/"]) + dice.choice(paths)
            answer = client.request(method, where, content=body)
            seen.add(answer.status_code)
            assert answer.status_code < 500, (method, where, body)
            assert b"root:" not in answer.content
        assert {200, 404, 405, 422} <= seen
        assert client.get("/api/about").status_code == 200

    def test_who_has_no_key_sees_nothing(self, server: explorer.Server) -> None:
        name = f"pyrovae-{port_of(server)}"
        wrong = server.key[:-1] + ("a" if server.key[-1] != "a" else "b")
        asked = [("GET", "/"), ("HEAD", "/"), ("GET", "/api/about"), ("GET", "/openapi.json")]
        asked += [("POST", "/api/decode"), ("GET", "/docs"), ("OPTIONS", "/api/decode")]
        ways = [{}, {"params": {"token": wrong}}, {"params": {"token": ""}}]
        ways += [{"headers": {"cookie": f"{name}={given}"}} for given in (wrong, "", "a=b")]
        ways += [{"headers": {"cookie": name.encode() + b"=\xe9"}}]
        ways += [{"headers": {"cookie": f"pyrovae-1={server.key}; {name}"}}]
        ways += [{"headers": {"authorization": f"token {server.key}"}}]
        for (method, path), way in itertools.product(asked, ways):
            with httpx.Client(base_url=server.address) as stranger:
                answer = stranger.request(method, path, content=b"{}", **way)
            assert answer.status_code == 403 and not answer.cookies
            assert method == "HEAD" or "the whole address" in answer.json()["error"]

    def test_the_key_of_the_address_is_exchanged_for_a_cookie(self, server: Any, view: Any) -> None:
        with httpx.Client(base_url=server.address) as client:
            answer = client.get(server.url)
            assert answer.status_code == 303 and answer.headers["location"] == "/"
            name, kept = answer.headers["set-cookie"].split("=", 1)
            assert name == f"pyrovae-{port_of(server)}"
            assert {part.strip() for part in kept.split(";")} >= {"HttpOnly", "SameSite=Strict"}
            assert client.get("/").status_code == client.get("/api/about").status_code == 200
        asked = httpx.get(server.address + "api/about", params={"token": server.key})
        assert asked.status_code == 200 and not asked.cookies
        with explorer.serve(view) as other:
            assert other.key != server.key
            given = {"cookie": f"pyrovae-{port_of(other)}={server.key}"}
            assert httpx.get(other.address, headers=given).status_code == 403

    def test_the_browser_is_shown_a_file_that_others_cannot_read(
        self, view: explorer.View, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The words of a command, and so of the browser's, are seen by all users."""
        shown: list[str] = []
        monkeypatch.setattr("webbrowser.open", shown.append)
        with explorer.serve(view) as server:
            server.open()
            file = Path(shown[0].removeprefix("file://"))
            assert server.key not in shown[0] and server.url in file.read_text()
            assert file.parent.stat().st_mode & 0o077 == 0
        assert not file.parent.exists()

    def test_a_latent_that_the_model_refuses(self) -> None:
        program = ROWS["SpikeAndSlab heavy"].make()
        view = explorer.View(program, program.serve(ROWS["SpikeAndSlab heavy"].data()))
        with pytest.raises(pv.UsageError, match="no such z"):
            view.decode([-5.0] * len(view.about()["units"]))


def port_of(server: explorer.Server) -> int:
    return int(server.address.split(":")[-1].strip("/"))


def held() -> tuple[int, int]:
    """Descriptors and threads of this process."""
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


def ended(connection: socket.socket, drip: bytes = b"") -> bytes:
    """What is said until the other side ends it, while a little is sent now and then."""
    said = b""
    connection.settimeout(0.05)
    for _ in range(600):
        try:
            if drip:
                connection.sendall(drip)
            few = connection.recv(1000)
            if not few:
                return said
            said += few
        except TimeoutError:
            continue
        except OSError:
            return said
    raise AssertionError("the connection is not ended")


class TestPatience:
    """Of connections by which nothing comes, or little by little."""

    @pytest.fixture
    def brief(self, view: explorer.View, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
        assert explorer.server.PATIENCE == 10
        monkeypatch.setattr(explorer.server, "PATIENCE", 0.5)
        with explorer.serve(view) as server:
            yield server

    @pytest.mark.parametrize(
        ("first", "drip"),
        [
            (b"", b""),
            (b"GET ", b"x"),
            (b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n", b"a: b\r\n"),
            (b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", b"GET"),  # answered, and then
            (b"POST /api/decode?token=KEY HTTP/1.1\r\nhost: 127.0.0.1\r\n"
             b"content-length: 9000\r\n\r\n", b" "),
            (b"POST /api/decode?token=KEY HTTP/1.1\r\nhost: 127.0.0.1\r\n"
             b"transfer-encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
            (b"\x16\x03\x01", b"\x00"),
        ],
        ids=["nothing", "line", "headers", "second", "body", "chunks", "noise"],
    )  # fmt: skip
    def test_they_are_ended(self, brief: explorer.Server, first: bytes, drip: bytes) -> None:
        with socket.create_connection(("127.0.0.1", port_of(brief))) as slow:
            slow.sendall(first.replace(b"KEY", brief.key.encode()))
            assert b"200 OK" not in ended(slow, drip)
        assert httpx.get(brief.address, params={"token": brief.key}).status_code == 303

    def test_who_takes_no_answer_is_not_waited_for(self, brief: explorer.Server) -> None:
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2000)
            slow.connect(("127.0.0.1", port_of(brief)))
            cookie = f"cookie: pyrovae-{port_of(brief)}={brief.key}"
            ask = f"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n{cookie}\r\n\r\n".encode()
            before = held()
            with contextlib.suppress(OSError):
                for _ in range(200):
                    slow.settimeout(0.05)
                    slow.sendall(ask)
            until(lambda: held()[0] < before[0] or not brief.running.server_state.connections)

    def test_many_are_bounded_and_others_are_answered(self, server: explorer.Server) -> None:
        most = explorer.server.MOST_CONNECTIONS
        httpx.get(server.address)
        descriptors, threads = held()
        with contextlib.ExitStack() as stack:
            address = ("127.0.0.1", port_of(server))
            for k in range(3 * most):
                slow = stack.enter_context(socket.create_connection(address))
                slow.sendall(b"GET / HTTP/1.1\r\n")
                if k % 50 == 0:
                    asked = httpx.get(server.address, params={"token": server.key}, timeout=30)
                    assert asked.status_code == 303
            until(lambda: len(server.running.server_state.connections) <= most)
            assert held()[0] <= descriptors + 3 * most + most + 5  # ours, theirs
            assert held()[1] == threads
        until(lambda: held()[0] <= descriptors)


@pytest.mark.slow
def test_many_requests_leave_nothing_behind(server: explorer.Server, client: Any) -> None:
    """2,000 of them: tests/benchmarks/bench_explorer.py --requests 2000."""

    def some(count: int) -> None:
        for k in range(count):
            assert client.post("/api/decode", json={"z": [k / 100, 0, 0]}).status_code == 200
            assert client.get(f"/api/datum/{k % 7}").status_code == 200
            assert client.post("/api/decode", json={"z": [0.0]}).status_code == 422
            assert httpx.get(server.address).status_code == 403

    some(10)
    gc.collect()  # what other tests have left behind may go, now and later
    (descriptors, threads), objects = held(), len(gc.get_objects())
    some(40)
    gc.collect()
    assert held()[0] <= descriptors
    assert held()[1] <= threads
    assert len(gc.get_objects()) - objects < 2000


def test_a_taken_port_is_a_mistake(view: explorer.View) -> None:
    with explorer.serve(view) as server:
        port = int(re.findall(r"\d+", server.address)[-1])
        with pytest.raises(pv.UsageError, match="cannot be had"):
            explorer.serve(view, port)


def test_the_export_is_one_file_that_asks_for_nothing(view: explorer.View, tmp_path: Path) -> None:
    path = explorer.export(view, tmp_path / "new" / "page.html", steps=5)
    text = path.read_text()
    assert not re.search(r"""(src|href)\s*=|url\(|@import|https?://""", text)
    with pytest.raises(pv.UsageError, match=r"\.html"):
        explorer.export(view, tmp_path / "page.txt")


class Inline(HTMLParser):
    """What stands in a page's script and style, and the policy that it states."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.parts, self.policy = "", {"script": "", "style": ""}, ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        given = dict(attrs)
        self.open = tag
        assert "style" not in given and not any(name.startswith("on") for name in given)
        if given.get("http-equiv") == "Content-Security-Policy":
            assert not any(self.parts.values()), "what stands before it is not bound by it"
            self.policy = given["content"]

    def handle_endtag(self, tag: str) -> None:
        self.open = ""

    def handle_data(self, data: str) -> None:
        if self.open in self.parts:
            self.parts[self.open] += data


def policy_of(text: str) -> dict[str, list[str]]:
    parts = (part.split() for part in text.split(";"))
    return {name: values for name, *values in parts}


def test_the_page_runs_what_it_holds_and_no_more(
    view: explorer.View, client: Any, tmp_path: Path
) -> None:
    served = client.get("/")
    exported = explorer.export(view, tmp_path / "page.html", steps=3).read_text()
    policies = [served.headers["content-security-policy"], Inline(exported).policy]
    for text, stated in zip((served.text, exported), policies, strict=True):
        policy, page = policy_of(stated), Inline(text)
        for name in ("script", "style"):
            digest = base64.b64encode(hashlib.sha256(page.parts[name].encode()).digest()).decode()
            assert policy[f"{name}-src"] == [f"'sha256-{digest}'"]
        assert policy["default-src"] == ["'none'"] and policy["img-src"] == ["data:"]
    assert policy_of(policies[0])["connect-src"] == ["'self'"]
    assert "connect-src" not in policies[1] and not Inline(served.text).policy


def test_nothing_in_the_data_ends_the_script(data: pv.data.TensorData, vae: pv.VAE) -> None:
    view = explorer.View(vae, data, points=20, names=["</script><b>", *"123456789"])
    assert "</script><b>" not in explorer.server.page({"about": view.about()})[0]


@pytest.mark.slow
def test_on_the_command_line(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((60, 6)).round().astype("float32")
    np.save(tmp_path / "x.npy", x)
    run = [sys.executable, "-m", "pyrovae"]
    fit = [
        *run,
        "fit",
        "--data",
        "x.npy",
        "--epochs",
        "1",
        "--out",
        "r",
        "--quiet",
        "--batch-size",
        "20",
    ]
    fit += ["--latent-dim", "2"]
    subprocess.run(fit, cwd=tmp_path, check=True, capture_output=True)
    export = [*run, "explore", "r", "--export", "page.html"]
    done = subprocess.run(export, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "page.html", done.stderr
    wrong = [*run, "explore", "r", "--export", "page.pdf"]
    done = subprocess.run(wrong, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and ".html" in done.stderr
    begin = [*run, "explore", "r", "--browser", "false"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}

    def heeding() -> None:  # Ctrl-C is ignored in what runs in a shell's background
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with subprocess.Popen(begin, cwd=tmp_path, preexec_fn=heeding, **pipes) as serve:
        try:
            url = serve.stdout.readline().strip()
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{40,}", url)
            assert httpx.get(url.replace("?", "api/about?")).json()["kind"] == "table"
            serve.send_signal(signal.SIGINT)
            assert serve.wait(30) in (0, 130)
            assert "Traceback" not in serve.stderr.read()
        finally:
            serve.kill()


def test_in_a_notebook_the_loop_answers_between_cells(vae: pv.VAE, data: Any) -> None:
    """Inside a running loop nothing else runs programs while a cell does."""

    async def cells() -> None:
        server = pv.explore(vae, data.x[:20], browser=False)
        assert server.thread is None
        async with httpx.AsyncClient(base_url=server.address) as client:
            client.params = {"token": server.key}
            asked = asyncio.create_task(client.post("/api/decode", json={"z": [0.0, 0.0, 0.0]}))
            await asyncio.sleep(0)
            wanted = pv.decode(vae, torch.zeros(1, 3)).flatten(1)
            assert close((await asked).json()["x"], wanted)
        server.close()
        await server.task

    asyncio.run(cells())


# ---- a real browser

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--window-size=1400,1200"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: Any) -> Iterator[Any]:
    if not (CHROMIUM and DRIVER):
        pytest.skip("there is no chromium with chromedriver here")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*QUIET.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def by(browser: Any, name: str) -> Any:
    return browser.find_element("css selector", f'[data-testid="{name}"]')


def until(condition: Any, seconds: float = 20) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def opened(browser: Any, url: str) -> None:
    browser.get("about:blank")
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(url)
    settled(browser)


def settled(browser: Any) -> None:
    """No question is open: Pyro's handlers are this process's, and the tests run them too."""
    script = "const d = document.body.dataset; return d.ready && !Number(d.asking)"
    for _ in range(2):
        until(lambda: browser.execute_script(script))
        time.sleep(0.1)


def pixels(browser: Any, name: str) -> torch.Tensor:
    """What a canvas shows, ink as 1."""
    script = (
        f"const c = document.querySelector('[data-testid={name}]');"
        "return Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)"
    )
    return 1 - torch.tensor(browser.execute_script(script)).reshape(-1, 4)[:, 0] / 255


def complaints(browser: Any, own: str) -> list[str]:
    """Errors in the console, and requests that went elsewhere."""
    logged = browser.get_log("browser")
    found = [entry["message"] for entry in logged if entry["level"] == "SEVERE"]
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = message["params"]["request"]["url"]
            if not url.startswith((own, "data:", "blob:", "about:")):
                found.append(url)
    return found


class TestInABrowser:
    def test_a_slider_moved_by_keyboard_shows_what_pv_decodes(
        self, browser: Any, server: Any, vae: pv.VAE
    ) -> None:
        opened(browser, server.url)
        before = pixels(browser, "decoded")
        assert torch.allclose(before, pv.decode(vae, torch.zeros(1, 3)).flatten(), atol=3 / 255)
        version = by(browser, "decoded").get_attribute("data-version")
        slider = by(browser, "unit-1")
        for _ in range(20):
            slider.send_keys("\ue014")  # arrow right
        until(lambda: by(browser, "decoded").get_attribute("data-version") != version)
        settled(browser)
        z = torch.zeros(1, 3)
        z[0, 1] = float(slider.get_attribute("value"))
        assert z[0, 1] == pytest.approx(1.0)
        wanted = pv.decode(vae, z).flatten()
        until(lambda: torch.allclose(pixels(browser, "decoded"), wanted, atol=3 / 255))
        assert not torch.allclose(before, wanted, atol=0.05)
        assert complaints(browser, server.address) == []

    def test_a_clicked_datum_has_the_numbers_of_evaluate(
        self, browser: Any, server: Any, vae: pv.VAE, view: explorer.View
    ) -> None:
        from selenium.webdriver import ActionChains

        opened(browser, server.url)
        far = torch.tensor(view.about()["points"])
        index = int(torch.cdist(far, far).fill_diagonal_(9).amin(1).argmax())  # one that is alone
        script = "return frame.to(...about.points[arguments[0]])"
        x, y = browser.execute_script(script, index)
        canvas = by(browser, "map")
        middle = canvas.size["width"] / 2
        ActionChains(browser).move_to_element_with_offset(
            canvas, round(x - middle), round(y - middle)
        ).click().perform()
        until(lambda: by(browser, "number").get_attribute("value") == str(index))
        until(lambda: browser.find_elements("css selector", "[data-testid=elbo]"))
        settled(browser)
        found = pv.evaluate(vae, view.data.x[index : index + 1], explorer.view.PARTICLES)
        for name in ("elbo", "reconstruction", "kl", "log_evidence", "khat"):
            shown = float(by(browser, name).get_attribute("data-value"))
            assert shown == pytest.approx(float(getattr(found, name)), abs=1e-3), name
        shown = pixels(browser, "datum-x")
        assert torch.allclose(shown, view.data.x[index].flatten(), atol=3 / 255)
        assert complaints(browser, server.address) == []

    def test_a_link_repeats_the_view(self, browser: Any, server: Any, vae: pv.VAE) -> None:
        opened(browser, server.url)
        by(browser, "resample").click()
        until(lambda: "z=" in browser.current_url)
        link = until(lambda: "seed=1" in browser.current_url and browser.current_url)
        settled(browser)
        z = torch.tensor([[float(v) for v in re.search(r"z=([^&]*)", link)[1].split(",")]])
        wanted = pv.decode(vae, z).flatten()
        until(lambda: torch.allclose(pixels(browser, "decoded"), wanted, atol=3 / 255))
        opened(browser, link)
        until(lambda: torch.allclose(pixels(browser, "decoded"), wanted, atol=3 / 255))

    def test_far_from_the_prior_is_said(self, browser: Any, server: Any) -> None:
        opened(browser, server.url + "#z=3.5,0,0")
        until(lambda: "z0" in by(browser, "outside").text)
        assert "3 standard deviations" in by(browser, "outside").text

    def test_missing_pixels_are_filled(
        self, browser: Any, server: Any, vae: pv.VAE, view: explorer.View
    ) -> None:
        from selenium.webdriver import ActionChains

        opened(browser, server.url + "#datum=4")
        until(lambda: browser.find_elements("css selector", "[data-testid=elbo]"))
        browser.find_element("id", "own-datum").click()
        by(browser, "missing").click()
        own = by(browser, "own")
        ActionChains(browser).move_to_element(own).click_and_hold().move_by_offset(
            20, 0
        ).release().perform()
        given = browser.execute_script("return own")
        assert 0 < given.count(None) < 64
        x = torch.tensor([torch.nan if v is None else v for v in given]).reshape(1, *EVENT)
        assert torch.equal(x.nan_to_num(0)[~x.isnan()], view.data.x[4:5][~x.isnan()])
        by(browser, "own-fill").click()
        until(lambda: None not in browser.execute_script("return own"))
        filled = torch.tensor(browser.execute_script("return own"))
        assert torch.allclose(filled, pv.impute(vae, x).flatten(), atol=1e-4)
        assert complaints(browser, server.address) == []

    def test_an_uploaded_picture_has_its_posterior(
        self, browser: Any, server: Any, vae: pv.VAE, view: explorer.View, tmp_path: Path
    ) -> None:
        import matplotlib.image

        x = view.data.x[11:12]
        ink = 1 - x[0, 0].repeat_interleave(8, 0).repeat_interleave(8, 1).numpy()
        matplotlib.image.imsave(tmp_path / "own.png", ink, cmap="gray", vmin=0, vmax=1)
        opened(browser, server.url)
        browser.find_element("id", "own-file").send_keys(str(tmp_path / "own.png"))
        until(lambda: browser.execute_script("return own.some((v) => v > 0)"))
        assert torch.equal(torch.tensor(browser.execute_script("return own")).float(), x.flatten())
        by(browser, "own-posterior").click()
        until(lambda: browser.find_elements("css selector", "[data-testid=elbo]"))
        settled(browser)
        shown = float(by(browser, "elbo").get_attribute("data-value"))
        found = pv.evaluate(vae, x, explorer.view.PARTICLES)
        assert shown == pytest.approx(float(found.elbo), abs=1e-3)

    def test_a_class_is_hidden_and_the_link_remembers(self, browser: Any, server: Any) -> None:
        opened(browser, server.url)
        shown = pixels(browser, "map")
        browser.find_element("css selector", "#classes button").click()
        assert not torch.equal(shown, pixels(browser, "map"))
        until(lambda: "hidden=0" in browser.current_url)

    def test_fits_a_phone(self, browser: Any, server: Any) -> None:
        metrics = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        try:
            opened(browser, server.url + "#datum=3")
            wide = browser.execute_script("return document.documentElement.scrollWidth")
            assert wide <= 360
        finally:
            browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def test_a_mistake_is_said_on_the_page(self, browser: Any, server: Any) -> None:
        opened(browser, server.url)
        number = by(browser, "number")
        number.send_keys("5000\ue007")
        until(lambda: "0 to 199" in by(browser, "problem").text)

    def test_the_exported_page_works_from_disk(
        self, browser: Any, view: explorer.View, vae: pv.VAE, tmp_path: Path
    ) -> None:
        path = explorer.export(view, tmp_path / "page.html")
        opened(browser, path.as_uri() + "#datum=9")
        wanted = pv.decode(vae, view.codes[9:10]).flatten()
        until(lambda: torch.allclose(pixels(browser, "datum-r"), wanted, atol=3 / 255))
        version = by(browser, "decoded").get_attribute("data-version")
        by(browser, "map").send_keys("\ue014" * 12)
        until(lambda: by(browser, "decoded").get_attribute("data-version") != version)
        assert complaints(browser, path.as_uri()) == []

    def test_the_exported_page_reaches_nobody(
        self, browser: Any, server: explorer.Server, view: explorer.View, tmp_path: Path
    ) -> None:
        opened(browser, explorer.export(view, tmp_path / "page.html", steps=3).as_uri())
        script = """
        const [url, done] = arguments, seen = [];
        document.addEventListener("securitypolicyviolation", (e) => {
          seen.push(e.effectiveDirective); if (seen.length === 4) done(seen.sort());
        });
        fetch(url).catch(() => {}); new Image().src = url;
        document.head.append(Object.assign(document.createElement("script"), { text: "window.ran = 1" }));
        document.head.append(Object.assign(document.createElement("script"), { src: url }));
        """  # noqa: E501
        seen = browser.execute_async_script(script, server.url)
        assert seen == ["connect-src", "img-src", "script-src-elem", "script-src-elem"]
        assert browser.execute_script("return window.ran") is None
        browser.get_log("browser")

    def test_a_file_or_another_page_leads_to_it(
        self,
        browser: Any,
        server: explorer.Server,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A strict cookie is kept back from who comes from elsewhere, at first."""
        shown: list[str] = []
        monkeypatch.setattr("webbrowser.open", shown.append)
        browser.get(server.address)
        browser.delete_all_cookies()
        browser.get(server.address)
        assert "the whole address" in browser.find_element("tag name", "body").text
        server.open()
        link = tmp_path / "links.html"
        links = [f"{server.url}#datum=4", f"{server.address}#datum=5"]
        link.write_text("".join(f'<a href="{each}">x</a>' for each in links))
        ready = "return document.body && document.body.dataset.ready"
        browser.get(shown[0])
        until(lambda: browser.execute_script(ready))
        for k, datum in ((1, "5"), (0, "4")):
            browser.get(link.as_uri())
            browser.find_elements("tag name", "a")[k].click()
            until(lambda: browser.execute_script(ready))
            assert by(browser, "number").get_attribute("value") == datum
            assert browser.current_url.startswith(server.address + "#")
            assert server.key not in browser.current_url


PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}


class TestATableInABrowser:
    def fill(self, browser: Any, column: str, text: str) -> None:
        """As typing does, whatever the language in which a date is written."""
        script = "const f = document.querySelector(`[data-column='${arguments[0]}']`); "
        browser.execute_script(script + "f.value = arguments[1]", column, text)

    def test_the_form_has_the_levels_and_gives_the_posterior(
        self, browser: Any, of_tables: Any, tables: Any
    ) -> None:
        from selenium.webdriver.support.ui import Select

        opened(browser, of_tables.url)
        island = browser.find_element("css selector", "[data-column=island]")
        assert [o.text for o in Select(island).options] == [
            "(missing)",
            *PENGUINS.columns[0].levels,
        ]
        labels = by(browser, "own-form").text
        assert all(word in labels for word in (*PENGUINS.names, "mm", "32.1 to 59.6", "2007-11-11"))
        Select(island).select_by_visible_text("Dream")
        Select(browser.find_element("css selector", "[data-column=ringed]")).select_by_visible_text(
            "True"
        )
        for column, text in (("mass", "4200"), ("eggs", "2"), ("seen", "2008-01-10")):
            self.fill(browser, column, text)
        by(browser, "own-posterior").click()
        until(lambda: browser.find_elements("css selector", "[data-testid=elbo]"))
        settled(browser)
        assert browser.execute_script("return own") == [1, 4200, 1, 2, None, 60]
        x = torch.tensor([[1.0, 4200, 1, 2, torch.nan, 60]])
        found = pv.evaluate(tables, x, explorer.view.PARTICLES)
        shown = float(by(browser, "elbo").get_attribute("data-value"))
        assert shown == pytest.approx(float(found.elbo), abs=1e-3)
        words = by(browser, "datum-sheet").text
        for word in ("your own", "Dream", "4,200", "True", "missing", "2008-01-10"):
            assert word in words
        assert complaints(browser, of_tables.address) == []

    def test_a_row_is_shown_with_its_values_and_its_class(
        self, browser: Any, of_tables: Any, penguins: Any
    ) -> None:
        opened(browser, of_tables.url + "#datum=7")
        words = by(browser, "datum-sheet").text
        x = penguins.x[7].tolist()
        assert PENGUINS.columns[0].levels[int(x[0])] in words
        assert f"{x[1]:,.0f}" in words and f"{x[4]:.1f}" in words
        shown = by(browser, "numbers").text
        assert "species" in shown and PENGUINS.classes[int(penguins.labels[7])] in shown
        assert by(browser, "neighbours").text.count("\n") >= 6
        decoded = by(browser, "decoded-sheet").text
        assert all(name in decoded for name in PENGUINS.names)
        assert not by(browser, "decoded").is_displayed()

    def test_what_is_missing_is_filled(
        self, browser: Any, of_tables: Any, tables: Any, penguins: Any
    ) -> None:
        opened(browser, of_tables.url + "#datum=3")
        browser.find_element("id", "own-datum").click()
        self.fill(browser, "bill", "")
        by(browser, "own-fill").click()
        until(lambda: browser.execute_script("return own[4] !== null"))
        settled(browser)
        x = penguins.x[3:4].clone()
        x[0, 4] = torch.nan
        wanted = float(pv.impute(tables, x)[0, 4])
        field = browser.find_element("css selector", "[data-column=bill]")
        assert float(field.get_attribute("value")) == pytest.approx(wanted, abs=0.051)
        seen = browser.find_element("css selector", "[data-column=seen]").get_attribute("value")
        assert seen == str(np.datetime64("2007-11-11") + np.timedelta64(int(x[0, 5]), "D"))

    def test_a_row_from_the_prior_is_taken_to_the_form(self, browser: Any, of_tables: Any) -> None:
        opened(browser, of_tables.url)
        by(browser, "samples").find_element("css selector", "button").click()
        first = browser.execute_script("return own")
        island = browser.find_element("css selector", "[data-column=island]")
        assert island.get_attribute("value") == str(int(first[0]))

    def test_a_mistaken_row_is_said(self, browser: Any, of_tables: Any) -> None:
        opened(browser, of_tables.url + "#datum=3")
        browser.find_element("id", "own-datum").click()
        self.fill(browser, "eggs", "1.5")
        by(browser, "own-posterior").click()
        until(lambda: "support" in by(browser, "problem").text)

    @pytest.mark.parametrize("kind", ["table", "series", "image"])
    def test_nothing_is_wider_than_a_phone(
        self, browser: Any, kind: str, rows: Any, series: Any, view: Any
    ) -> None:
        shown = {"table": rows, "series": series, "image": view}[kind]
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
        try:
            with explorer.serve(shown) as server:
                opened(browser, server.url + "#datum=3&a=1&b=2")
                settled(browser)
                wide = browser.execute_script("return document.documentElement.scrollWidth")
                assert wide <= PHONE["width"]
                assert complaints(browser, server.address) == []
        finally:
            browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def test_the_ellipse_and_the_rings_are_seen_whole(
        self, browser: Any, of_tables: Any, rows: explorer.View
    ) -> None:
        """What the map must hold is computed here, where it is drawn is asked of the page."""
        index = int(torch.tensor(rows.about()["points"]).norm(dim=1).argmax())
        opened(browser, of_tables.url + f"#datum={index}")
        for wide in (0.0, 16.0):
            if wide:
                script = "show({ ...found, covariance: [[arguments[0], 1], [1, 1]] })"
                browser.execute_script(script, wide)
            place, spread = browser.execute_script("return [found.place, found.covariance]")
            reach = [2 * spread[k][k] ** 0.5 for k in range(2)]
            for s, t in itertools.product((-1, 1), repeat=2):
                ends = [[place[0] + s * reach[0], place[1] + t * reach[1]], [s * 3, t * 3]]
                for end in ends:
                    script = "return [...frame.to(...arguments[0]), frame.side]"
                    x, y, side = browser.execute_script(script, end)
                    assert 0 <= x <= side and 0 <= y <= side

    def test_the_exported_page_has_names_and_values(
        self, browser: Any, rows: explorer.View, penguins: Any, tmp_path: Path
    ) -> None:
        path = explorer.export(rows, tmp_path / "page.html")
        opened(browser, path.as_uri() + "#datum=5")
        words = by(browser, "datum-sheet").text
        assert f"{float(penguins.x[5, 1]):,.0f}" in words and "mass g" in words
        drawn = by(browser, "samples").text
        assert "island" in drawn and any(level in drawn for level in PENGUINS.columns[0].levels)
        assert not by(browser, "own-form").is_displayed()
        assert complaints(browser, path.as_uri()) == []


class TestSeriesInABrowser:
    def test_axes_have_names_units_and_steps(self, browser: Any, series: explorer.View) -> None:
        with explorer.serve(series) as server:
            opened(browser, server.url)
            browser.execute_script(
                "window.said = []; const own = CanvasRenderingContext2D.prototype.fillText;"
                "CanvasRenderingContext2D.prototype.fillText = function (text, ...at) {"
                "said.push(text); return own.call(this, text, ...at); }"
            )
            by(browser, "number").send_keys("4\ue007")
            until(lambda: browser.find_elements("css selector", "[data-testid=elbo]"))
            settled(browser)
            said = browser.execute_script("return said")
            assert {"warmth (K)", "rain", "step 1", "12"} <= set(said)
            browser.find_element("id", "own-datum").click()
            written = by(browser, "own-text").get_attribute("value")
            values = [[float(v) for v in line.split(",")] for line in written.split("\n")]
            assert np.allclose(values, series.data.x[4], atol=1e-5)
            by(browser, "own-posterior").click()
            until(lambda: "your own" in browser.find_element("id", "datum-words").text)
            assert complaints(browser, server.address) == []


@pytest.mark.slow
def test_a_collapsed_model_says_so(browser: Any, server: Any) -> None:
    opened(browser, server.url)
    assert not by(browser, "collapsed").text
    pair = pv.VAE((3,), 2, likelihood=likelihoods.Normal())
    for parameter in pair.posterior.parameters():
        parameter.data.zero_()  # q(z|x) is the same for every x
    with explorer.serve(explorer.View(pair, torch.rand(50, 3))) as other:
        opened(browser, other.url)
        assert "collapsed" in by(browser, "collapsed").text
        assert complaints(browser, other.address) == []
