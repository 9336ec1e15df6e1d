"""The page and its JSON interface, served on this machine alone."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import importlib.resources
import json
import math
import secrets
import socket
import tempfile
import threading
import webbrowser
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from pyrovae import markup
from pyrovae.errors import UsageError
from pyrovae.explorer.live import NotLive, networks
from pyrovae.explorer.view import View
from pyrovae.markup import Shown
from pyrovae.plots import CLASSES
from pyrovae.progress import quiet, say, shown
from pyrovae.turns import at_most

if TYPE_CHECKING:
    from fastapi import FastAPI

MOST_BYTES = 2**20  # of a request
MOST_VALUES = 200_000  # of one datum
MOST_PICTURES = 100  # of one answer
MOST_CONNECTIONS = 100  # at once
PATIENCE = 10.0  # seconds until a request is there, or its answer is taken
TURN = 5.0  # seconds for which other threads are waited for
HOST = "127.0.0.1"

Event = MutableMapping[str, Any]  # what each key holds, ASGI says
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Application = Callable[[Event, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


def page(exported: object = None) -> tuple[str, str]:
    """The page, whole: style and script are in it, so that it asks for nothing but numbers; and the
    content security policy under which it works, which an exported page carries itself.

    Args:
        exported: what a page without a server shows; None for one that asks its server.
    """
    folder = importlib.resources.files("pyrovae.explorer")
    text, style, *scripts = (
        (folder / name).read_text("utf-8")
        for name in ("page.html", "page.css", "net.js", "backends.js", "page.js")
    )
    given = {"EXPORTED": exported, "COLOURS": CLASSES}
    told = "".join(f"const {name} = {_literal(value)};\n" for name, value in given.items())
    script = "\n".join(['\n"use strict";', told, *scripts])
    policy = (
        f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; "
        f"img-src data:; base-uri 'none'; form-action 'none'"
    )
    if exported is None:
        policy += "; connect-src 'self'; frame-ancestors 'none'"
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    parts = {"/*STYLE*/": style, "/*SCRIPT*/": script}
    parts["<!--POLICY-->"] = "" if exported is None else meta
    for mark, part in parts.items():
        text = text.replace(mark, part)
    return text, policy


def _literal(value: object) -> str:
    """As the script reads it; "<" may not end the script early."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _digest(text: str) -> str:
    """How a policy names what stands in the page."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


class Page(Shown):
    """An exported page, as a notebook beside it shows it.

    Args:
        path: of the file, from the notebook's folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def in_notebook(self) -> list[str]:
        """The page, in a frame."""
        return [markup.frame(self.path.as_posix())]

    def __repr__(self) -> str:
        return f"Page({self.path.as_posix()!r})"


@shown("export the page")
def export(view: View, path: str | Path, *, steps: int = 15) -> Path:
    """Write one self-contained page that needs no server.

    It holds the map, the data, and where it can the networks themselves, which it runs: sliders for
    all units, data of one's own with their q(z|x), paths, draws from the prior. Weights are in half
    precision where that changes what is shown by less than 2/255. Where it cannot, since the
    networks are too large or use operations that the page does not know, or since they are given
    more than x, it says why, here on the standard error too, and holds what the codes decode to and
    a grid decoded over the map instead.

    Args:
        view: what is shown.
        path: of the file, which ends in .html.
        steps: of the grid, along each side.

    Raises:
        UsageError: a path that does not end in .html.
    """
    path = Path(path)
    if path.suffix.lower() != ".html":
        raise UsageError(f"a page is exported as .html, got {path.name!r}: name it .html")
    path.parent.mkdir(parents=True, exist_ok=True)
    held = {
        "about": view.about(),
        "data": _kept(view, view.data_at(range(len(view.data)))["x"]),
        "codes": [[round(float(v), 4) for v in row] for row in view.codes],
    }
    try:
        held["live"] = networks(view)
        held["samples"] = _drawn(view) if view.kind == "table" else []
    except NotLive as why:
        say(f"the page shows what was decoded beforehand on the plane of the map: {why}")
        held |= _plane(view, steps) | {"why": str(why)}
    path.write_text(page(held)[0], "utf-8")
    return path


def _plane(view: View, steps: int) -> dict[str, object]:
    """What is decoded beforehand."""
    grid = view.grid(steps)
    return {
        "across": grid["across"],
        "up": grid["up"],
        "grid": _kept(view, grid["x"]),
        "decoded": _kept(view, view.decoded_codes()["x"]),
        "samples": _kept(view, _drawn(view)),
    }


def _drawn(view: View) -> Any:
    """Draws from the prior; none where the pair gives none."""
    try:
        return view.samples(seed=view.seed)["x"]
    except UsageError:
        return []


def _kept(view: View, rows: Any) -> Any:
    """Pictures as bytes, which is as many shades as a screen has, whole numbers as they are; 255 is
    a missing value. Other data as numbers: a column's unit is not another's, so that no scale holds
    for all.
    """
    if view.kind != "image":
        return rows
    values = np.array(rows, dtype=float)
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    whole = high - low <= 254 and bool((known == known.round()).all())
    step = 1.0 if whole else (high - low) / 254
    shades = np.where(np.isnan(values), 255, ((values - low) / step).round()).astype(np.uint8)
    packed = base64.b64encode(zlib.compress(shades.tobytes(), 9)).decode()
    return {"low": low, "step": step, "size": values.shape[-1], "bytes": packed}


def application(view: View, key: str) -> Application:
    """The ASGI application: the page at ``/``, questions below ``/api``, for who has the key.

    Whatever is wrong with a request is answered by a 4xx and ``{"error": sentence}``.
    """
    try:
        from fastapi import FastAPI
    except ImportError as error:
        raise UsageError('the page needs FastAPI: pip install "pyrovae[explore]"') from error

    app = FastAPI(title="pyrovae explore", docs_url=None, redoc_url=None)
    text, policy = page()
    _answer_questions(app, view, text)
    _answer_mistakes(app)
    return _Guarded(app, key, policy)


def _answer_questions(app: "FastAPI", view: View, text: str) -> None:
    """The page and what it asks of the view."""
    from fastapi.responses import HTMLResponse
    from pydantic import BaseModel, ConfigDict, Field

    finite = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
    index = Annotated[int, Field(ge=0, lt=2**31, strict=True)]
    number = Annotated[float, Field(ge=-1e18, le=1e18, allow_inf_nan=False)]  # in any unit
    values = Annotated[list[number | None], Field(min_length=1, max_length=MOST_VALUES)]

    class Question(BaseModel):
        model_config = ConfigDict(extra="forbid")

    class Decode(Question):
        z: Annotated[list[finite], Field(min_length=1, max_length=MOST_VALUES)]
        given: index = 0

    class Picture(Question):
        x: values
        given: index = 0

    class Between(Question):
        start: index
        end: index
        steps: Annotated[int, Field(ge=2, le=MOST_PICTURES, strict=True)] = 10

    class Draws(Question):
        n: Annotated[int, Field(ge=1, le=MOST_PICTURES, strict=True)] = 24
        seed: index = 0
        given: index = 0

    class Chosen(Question):
        indices: Annotated[list[index], Field(min_length=1, max_length=MOST_PICTURES)]

    @app.get("/", response_class=HTMLResponse)
    async def whole() -> str:
        return text

    @app.get("/api/about")
    async def about() -> Any:
        return view.about()

    @app.post("/api/decode")
    async def decode(question: Decode) -> Any:
        return view.decode(question.z, question.given)

    @app.get("/api/datum/{number}")
    async def datum(number: int) -> Any:
        return view.datum(number)

    @app.post("/api/data")
    async def data(question: Chosen) -> Any:
        return view.data_at(question.indices)

    @app.post("/api/posterior")
    async def posterior(question: Picture) -> Any:
        return view.posterior(question.x, question.given)

    @app.post("/api/impute")
    async def imputed(question: Picture) -> Any:
        return view.filled(question.x, question.given)

    @app.post("/api/path")
    async def path(question: Between) -> Any:
        return view.path(question.start, question.end, question.steps)

    @app.post("/api/samples")
    async def samples(question: Draws) -> Any:
        return view.samples(question.n, question.seed, question.given)


def _answer_mistakes(app: "FastAPI") -> None:
    """What is wrong with a request, as one sentence."""
    from fastapi import Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException

    @app.exception_handler(UsageError)
    async def mistaken(_: Request, error: UsageError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 422)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return JSONResponse({"error": f"{where}: {first['msg']}"}, 422)

    @app.exception_handler(HTTPException)
    async def unknown(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code)


class _Guarded:
    """Answers only who has the key and asks this machine by its own name, and no more than a
    megabyte long.

    Whoever else works on this machine could otherwise read the page, and a page elsewhere on the
    web have the reader's browser ask (DNS rebinding). The address that is opened has the key; the
    browser gets it as a cookie in return, and goes on to the clean address.
    """

    def __init__(self, app: Application, key: str, policy: str) -> None:
        self.app, self.key, self.policy = app, key, policy

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        token = _keys(scope["query_string"].decode("latin-1").split("&"), "token")
        if refused := _refused(headers) or self._stranger(scope, headers, token):
            await _refuse(send, headers, *refused)
            return
        body = await _body(receive)
        if body is None:
            await _refuse(send, headers, *_LONG)
            return
        if token and scope["path"] == "/":
            kept = f"{_cookie(scope)}={self.key}; Path=/; HttpOnly; SameSite=Strict"
            await _answer(send, 303, "", self.policy, {"location": "/", "set-cookie": kept})
            return
        parts = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay() -> Event:
            return next(parts, None) or await receive()

        async def dressed(message: Event) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_dressed(self.policy, {})]
            await send(message)

        with quiet(), at_most(TURN):  # who asks looks at the page
            await self.app(scope, replay, dressed)

    def _stranger(
        self, scope: Event, headers: dict[str, str], token: list[str]
    ) -> tuple[int, str] | None:
        """A refusal of who has no key, in the address or as a cookie."""
        given = token or _keys(headers.get("cookie", "").split(";"), _cookie(scope))
        # each compared in a time that tells nothing of it
        if any(hmac.compare_digest(each.encode(), self.key.encode()) for each in given):
            return None
        return 403, (
            "this page has a key: open it by the whole address, ?token=... included, that pyrovae "
            "explore printed when it began (in Python the server's url), in a browser that keeps "
            "cookies"
        )


def _dressed(policy: str, headers: Mapping[str, str]) -> Headers:
    """Headers, and those that every answer has."""
    given = {
        **headers,
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-store",
    }
    return [(name.encode(), value.encode()) for name, value in given.items()]


async def _answer(
    send: Send, status: int, text: str, policy: str, headers: Mapping[str, str]
) -> None:
    given = _dressed(policy, headers)
    await send({"type": "http.response.start", "status": status, "headers": given})
    await send({"type": "http.response.body", "body": text.encode()})


async def _body(receive: Receive) -> bytes | None:
    """What is sent; None where it is too long. Who has gone meanwhile is answered in vain."""
    body, more = b"", True
    while more and len(body) <= MOST_BYTES:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body if len(body) <= MOST_BYTES else None


# a browser that follows a link from elsewhere keeps strict cookies back until it asks from here
_AGAIN = 'if (performance.getEntriesByType("navigation")[0].type !== "reload") location.reload();'


async def _refuse(send: Send, headers: dict[str, str], status: int, sentence: str) -> None:
    kind, text, policy = "application/json", json.dumps({"error": sentence}), "default-src 'none'"
    if headers.get("sec-fetch-site") == "cross-site":
        kind, text = "text/html", f"<!doctype html><p>{sentence}</p><script>{_AGAIN}</script>"
        policy += f"; script-src {_digest(_AGAIN)}; frame-ancestors 'none'"
    await _answer(send, status, text, policy, {"content-type": kind})


_LONG = 413, f"a request is at most {MOST_BYTES:,} bytes long"


def _refused(headers: dict[str, str]) -> tuple[int, str] | None:
    length = headers.get("content-length", "0")
    if not length.isdigit() or int(length) > MOST_BYTES:
        return _LONG
    if not _ours(headers.get("host", "")):
        return 403, "this page answers to 127.0.0.1 and localhost alone"
    if headers.get("origin", "http://" + headers["host"]) != "http://" + headers["host"]:
        return 403, "this page does not answer to other pages"
    return None


def _ours(host: str) -> bool:
    name, _, port = host.partition(":")
    return name in (HOST, "localhost") and (not port or port.isdigit())


def _keys(fields: Sequence[str], name: str) -> list[str]:
    """What ``name`` is in fields of the form ``name=value``."""
    pairs = (field.strip().partition("=") for field in fields)
    return [value for each, _, value in pairs if each == name]


def _cookie(scope: Event) -> str:
    """Cookies are a host's, whatever the port: each server has one of its own name."""
    return f"pyrovae-{scope['server'][1]}"


def _patient() -> type[asyncio.Protocol]:
    """uvicorn's side of a connection, with an end to waiting."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Patient(H11Protocol):
        """Ends a connection whose request is not there, whole, or whose answer is not taken, in
        time, however slowly it trickles; where there are too many, the one that waits the longest.
        """

        late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.watch()
            if len(self.connections) > MOST_CONNECTIONS:
                waiting = [each for each in self.connections if isinstance(each, Patient)]
                first = min((each for each in waiting if each.late), key=Patient.due, default=self)
                first.transport.abort()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self.watch()

        def pause_writing(self) -> None:
            super().pause_writing()
            self.watch()

        def resume_writing(self) -> None:
            super().resume_writing()
            self.rest()
            self.watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self.rest()

        def due(self) -> float:
            return self.late.when() if self.late else math.inf

        def watch(self) -> None:
            cycle = self.cycle
            asked = cycle is not None and not cycle.more_body and not cycle.response_complete
            if asked and not self.flow.write_paused:
                self.rest()  # it is for us to answer
            elif self.late is None:
                self.late = self.loop.call_later(PATIENCE, self.transport.abort)

        def rest(self) -> None:
            if self.late is not None:
                self.late.cancel()
                self.late = None

    return Patient


class Server:
    """A page that is being served; ``with`` or :meth:`close` ends it.

    Pyro's handlers belong to the process, not to a thread, so that threads take turns
    (:mod:`pyrovae.turns`). Inside a running event loop, a notebook's, questions are answered by
    that loop, between cells; elsewhere by a thread, which says so where another one, such as that
    of a ``fit``, is busy for long.

    Attributes:
        address: where it is, on this machine alone.
        key: what opens it, drawn anew for each server.
        url: both, to be opened: ``http://127.0.0.1:PORT/?token=KEY``.
    """

    def __init__(self, view: View, port: int = 0) -> None:
        self.key = secrets.token_urlsafe(32)
        app = application(view, self.key)
        import uvicorn

        config = uvicorn.Config(
            app, host=HOST, port=port, http=_patient(), log_level="critical", lifespan="off"
        )
        self.running = uvicorn.Server(config)
        self.socket = socket.create_server((HOST, port))
        # answers go out at once, not when the browser has acknowledged their first half
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.address = f"http://{HOST}:{self.socket.getsockname()[1]}/"
        self.url = f"{self.address}?token={self.key}"
        self.note: tempfile.TemporaryDirectory[str] | None = None
        self.thread: threading.Thread | None = None
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.thread = threading.Thread(target=self.running.run, args=([self.socket],))
            self.thread.daemon = True
            self.thread.start()
        else:
            self.task = loop.create_task(self.running._serve([self.socket]))

    def open(self) -> None:
        """Show it in the browser, by way of a file that only its user can read: the words of a
        command, the browser's too, are seen by all who work on the machine."""
        self.note = tempfile.TemporaryDirectory(prefix="pyrovae-", ignore_cleanup_errors=True)
        file = Path(self.note.name, "explore.html")
        file.write_text(
            f'<!doctype html><meta http-equiv="refresh" content="0; url={self.url}">'
            f'<a href="{self.url}">pyrovae explore</a>'
        )
        webbrowser.open(file.as_uri())

    def close(self) -> None:
        """End it."""
        if self.note is not None:
            self.note.cleanup()
        self.running.should_exit = True
        if self.thread is not None:
            self.thread.join(10)
            self.socket.close()

    def wait(self) -> None:
        """Until it ends, or Ctrl-C."""
        while self.thread is not None and self.thread.is_alive():
            self.thread.join(0.5)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"pyrovae explore at {self.url}"


def serve(view: View, port: int = 0) -> Server:
    """Serve the page on the loopback address; port 0 is a free one.

    Raises:
        UsageError: the port is taken; FastAPI is not installed.
    """
    try:
        return Server(view, port)
    except (OSError, OverflowError) as error:
        raise UsageError(f"port {port} cannot be had ({error}); 0 is a free one") from error


def explore(
    pair: object,
    x: object,
    *,
    port: int = 0,
    browser: bool = True,
    names: Sequence[str] | None = None,
    seed: int = 0,
) -> Server:
    """Explore a pair on a page in the browser: its codes, what they decode to, where the guide is
    wrong.

    Only who has its whole address, which has a key in it, sees the page. In a notebook it returns
    at once, and the page is answered between cells; in a script it returns when Ctrl-C ends it, as
    ``plt.show()`` does.

    Args:
        pair: any pair with a continuous latent per datum.
        x: data to show, in any form that ``pv.fit`` takes.
        port: on the loopback address; 0 is a free one.
        browser: whether to open it.
        names: of the classes.
        seed: of everything drawn.

    Raises:
        UsageError: no continuous latent to explore; FastAPI is not installed; the port is taken.
    """
    view = View(pair, x, names=names, seed=seed)
    server = serve(view, port)
    if browser:
        server.open()
    if server.thread is not None:
        print(f"{server}; Ctrl-C ends it", flush=True)
        with server, contextlib.suppress(KeyboardInterrupt):
            server.wait()
    return server
