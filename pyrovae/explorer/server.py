"""The page and its JSON interface, served on this machine alone."""

import asyncio
import base64
import contextlib
import importlib.resources
import json
import socket
import threading
import webbrowser
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pyrovae.errors import UsageError
from pyrovae.explorer.view import View
from pyrovae.progress import quiet, shown
from pyrovae.turns import at_most

if TYPE_CHECKING:
    from fastapi import FastAPI

MOST_BYTES = 2**20  # of a request
MOST_VALUES = 200_000  # of one datum
MOST_PICTURES = 100  # of one answer
PATIENCE = 5.0  # seconds for which other threads are waited for
HOST = "127.0.0.1"

Event = MutableMapping[str, Any]  # what each key holds, ASGI says
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Application = Callable[[Event, Receive, Send], Awaitable[None]]


def page(exported: object = None) -> str:
    """The page, whole: style and script are in it, so that it asks for nothing but numbers.

    Args:
        exported: what a page without a server shows; None for one that asks its server.
    """
    folder = importlib.resources.files("pyrovae.explorer")
    html, style, script = (
        (folder / name).read_text("utf-8") for name in ("page.html", "page.css", "page.js")
    )
    # "<" may not end the script early
    held = json.dumps(exported, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = {"/*STYLE*/": style, "/*SCRIPT*/": script, "/*EXPORTED*/null": held}
    for mark, text in parts.items():
        html = html.replace(mark, text)
    return html


@shown("export the page")
def export(view: View, path: str | Path, *, steps: int = 15) -> Path:
    """Write one self-contained page, of about two bytes per value of the images shown and twenty
    per value of other data: the map, the data with what their codes decode to, a grid decoded over
    the map, and draws from the prior. No server is needed.

    Raises:
        UsageError: a path that does not end in .html.
    """
    path = Path(path)
    if path.suffix.lower() != ".html":
        raise UsageError(f"a page is exported as .html, got {path.name!r}: name it .html")
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = view.grid(steps)
    kept = _packed if view.kind == "image" else _listed
    held = {
        "about": view.about(),
        "across": grid["across"],
        "up": grid["up"],
        "grid": kept(grid["x"]),
        "data": kept(view.data_at(range(len(view.data)))["x"]),
        "decoded": kept(view.decoded_codes()["x"]),
        "samples": kept(_drawn(view)),
        "codes": [[round(float(v), 4) for v in row] for row in view.codes],
    }
    path.write_text(page(held), "utf-8")
    return path


def _drawn(view: View) -> Any:
    """Draws from the prior; none where the pair gives none."""
    try:
        return view.samples(seed=view.seed)["x"]
    except UsageError:
        return []


def _listed(rows: Any) -> Any:
    """Numbers as they are: a column's unit is not another's, so that no scale holds for all."""
    return rows


def _packed(rows: Any) -> dict[str, object]:
    """Pictures as bytes, which is as many shades as a screen has; 255 is a missing value."""
    finite = [v for row in rows for v in row if v is not None]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    scale = 254 / ((high - low) or 1)
    shades = bytes(
        255 if v is None else round((v - low) * scale) for row in rows for v in row
    )  # fmt: skip
    size = len(rows[0]) if rows else 0
    return {"low": low, "high": high, "size": size, "bytes": base64.b64encode(shades).decode()}


def application(view: View) -> Application:
    """The ASGI application: the page at ``/``, questions below ``/api``.

    Whatever is wrong with a request is answered by a 4xx and ``{"error": sentence}``.
    """
    try:
        from fastapi import FastAPI
    except ImportError as error:
        raise UsageError('the page needs FastAPI: pip install "pyrovae[explore]"') from error

    app = FastAPI(title="pyrovae explore", docs_url=None, redoc_url=None)
    _answer_questions(app, view)
    _answer_mistakes(app)
    return _Guarded(app)


def _answer_questions(app: "FastAPI", view: View) -> None:
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

    html = page()

    @app.get("/", response_class=HTMLResponse)
    async def whole() -> str:
        return html

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
    def mistaken(_: Request, error: UsageError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 422)

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return JSONResponse({"error": f"{where}: {first['msg']}"}, 422)

    @app.exception_handler(HTTPException)
    def unknown(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code)


class _Guarded:
    """Answers only who asks this machine by its own name, and no more than a megabyte long.

    A page elsewhere on the web could otherwise have the reader's browser ask (DNS rebinding).
    """

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        refused = _refused(headers)
        body = b""
        while refused is None:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > MOST_BYTES:
                refused = 413, f"a request is at most {MOST_BYTES:,} bytes long"
            if not message.get("more_body"):
                break
        if refused:
            await _answer(send, *refused)
            return
        parts = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay() -> Event:
            return next(parts, None) or await receive()

        async def dressed(message: Event) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        with quiet(), at_most(PATIENCE):  # who asks looks at the page
            await self.app(scope, replay, dressed)


# the page holds its own script and style, and may ask nobody but this server
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: "
    "blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]


def _refused(headers: dict[str, str]) -> tuple[int, str] | None:
    length = headers.get("content-length", "0")
    if not length.isdigit() or int(length) > MOST_BYTES:
        return 413, f"a request is at most {MOST_BYTES:,} bytes long"
    if not _ours(headers.get("host", "")):
        return 403, "this page answers to 127.0.0.1 and localhost alone"
    if headers.get("origin", "http://" + headers["host"]) != "http://" + headers["host"]:
        return 403, "this page does not answer to other pages"
    return None


def _ours(host: str) -> bool:
    name, _, port = host.partition(":")
    return name in (HOST, "localhost") and (not port or port.isdigit())


async def _answer(send: Send, status: int, sentence: str) -> None:
    body = json.dumps({"error": sentence}).encode()
    headers = [(b"content-type", b"application/json"), *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Server:
    """A page that is being served; ``with`` or :meth:`close` ends it.

    Pyro's handlers belong to the process, not to a thread, so that threads take turns
    (:mod:`pyrovae.turns`). Inside a running event loop, a notebook's, questions are answered by
    that loop, between cells; elsewhere by a thread, which says so where another one, such as that
    of a ``fit``, is busy for long.

    Attributes:
        url: where it is, on this machine alone.
    """

    def __init__(self, view: View, port: int = 0) -> None:
        app = application(view)
        import uvicorn

        config = uvicorn.Config(app, host=HOST, port=port, log_level="critical", lifespan="off")
        self.running = uvicorn.Server(config)
        self.socket = socket.create_server((HOST, port))
        # answers go out at once, not when the browser has acknowledged their first half
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.url = f"http://{HOST}:{self.socket.getsockname()[1]}/"
        self.thread: threading.Thread | None = None
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.thread = threading.Thread(target=self.running.run, args=([self.socket],))
            self.thread.daemon = True
            self.thread.start()
        else:
            self.task = loop.create_task(self.running._serve([self.socket]))

    def close(self) -> None:
        """End it."""
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

    In a notebook it returns at once, and the page is answered between cells; in a script it returns
    when Ctrl-C ends it, as ``plt.show()`` does.

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
        webbrowser.open(server.url)
    if server.thread is not None:
        print(f"{server}; Ctrl-C ends it", flush=True)
        with server, contextlib.suppress(KeyboardInterrupt):
            server.wait()
    return server
