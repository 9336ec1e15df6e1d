"""Hostile inputs, made anew each time, and a judge of what becomes of each.

Every case has a folder of its own within a watched one, and is put to a process apart, forked from
one that has imported everything; it is refused in one sentence or taken, and may run nothing of
what it was given, touch nothing outside its folder, take no longer and no more memory than is
stated.
"""

from __future__ import annotations

import gc
import gzip
import io
import json
import math
import os
import pickle
import random
import resource
import shutil
import signal
import socket
import stat
import struct
import sys
import tempfile
import threading
import time
import traceback
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

import pyrovae as pv
from pyrovae import cli

SECONDS, BYTES = 10, 300 * 2**20  # of computing, and above what the process held
MODEL, CONFIG, LAST = "model.safetensors", "config.yaml", "checkpoints/last.safetensors"
FILES = (MODEL, CONFIG, "metrics.csv", "environment.json", "evaluation.json", "data.json", LAST)
SUFFIXES = pv.data.SUFFIXES
TALKS = "\x1b]0;title\x07\x1b[2J\x9b31m"  # to a terminal

Act = Callable[[], object]
Make = Callable[["Place"], Act]
BRIEF = (
    *("--epochs", "1", "--batch-size", "8", "--num-particles", "2", "--device", "cpu"),
    *("--compile", "false", "--quiet"),
)
SMALL = (
    *("--latent-dim", "2", "--likelihood.network.hidden", "[3]", "--guide.network.hidden", "[3]"),
)


# --- the place and the judge -------------------------------------------------------------------


class Place:
    """A folder of a case's own, ``work``, and around it what must stay as it is."""

    def __init__(self, root: Path) -> None:
        self.root, self.work, self.canary = root, root / "work", root / "canary"
        self.outside, self.home, self.bin = root / "outside", root / "home", root / "bin"
        self.made = root / "made"
        for folder in (self.outside, self.home, self.bin):
            folder.mkdir()
        for name in (*FILES, ".netrc", "secret.txt", "figures/samples.png"):
            (self.outside / name).parent.mkdir(exist_ok=True)
            (self.outside / name).write_text("secret\n")
        (self.outside / "checkpoints/.netrc").write_text("secret\n")
        (self.home / ".bashrc").write_text("secret\n")
        for name in ("gs", "gswin64c", "gswin32c", "xv", "display", "touch", "convert"):
            (self.bin / name).write_text(f"#!/bin/sh\nmkdir {self.canary}\n")
            (self.bin / name).chmod(0o755)
        os.environ |= {
            "HOME": str(self.home),
            "PYROVAE_DATA": str(self.home / "data"),
            "PATH": f"{self.bin}:{os.environ['PATH']}",
        }
        x = np.random.default_rng(0).integers(0, 2, (40, 6)).astype("f4")
        np.save(root / "x.npy", x)
        with suppress(SystemExit), redirect_stdout(io.StringIO()):
            words = ("fit", "--data", root / "x.npy", "--out", self.made, *SMALL, *BRIEF)
            cli.main([str(word) for word in words])

    def run(self) -> Path:
        """A copy of a sound run."""
        return Path(shutil.copytree(self.made, self.work / "run"))

    def file(self, name: str, content: bytes | str = b"") -> Path:
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def around(self) -> dict[str, Any]:
        """All but the case's own folder, without following links."""
        found: dict[str, Any] = {}
        for folder, folders, files in os.walk(self.root):
            if folder == str(self.root):
                folders.remove("work") if "work" in folders else None
            for name in (*folders, *files):
                path = Path(folder, name)
                status = path.lstat()
                held = path.read_bytes() if stat.S_ISREG(status.st_mode) else None
                found[str(path)] = (status.st_mode, status.st_size, held)
        return found


@dataclass
class Case:
    kind: str
    name: str
    make: Make


@dataclass
class Verdict:
    kind: str
    name: str
    outcome: str  # "refused", "taken", or what went wrong
    said: str = ""
    seconds: float = 0.0
    mebibytes: float = 0.0
    faults: list[str] = field(default_factory=list)


def resident(name: str = "VmRSS") -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return 1024 * int(line.split()[1])
    return 0


def command(*words: object) -> Act:
    return partial(_command, [str(word) for word in words])


def _command(words: list[str]) -> None:
    try:
        cli.main(words)
    except SystemExit as stopped:
        sys.stdout.flush()
        sys.stderr.flush()
        if stopped.code == 2:
            raise pv.UsageError("") from None  # it has been said
        if stopped.code:
            raise RuntimeError(f"code {stopped.code}") from None


REFUSALS = (pv.UsageError, pv.training.Diverged, pv.training.OutOfMemory, pv.processes.Lost)


def _answered(case: Case, place: Place, report: Path) -> None:
    """One case, in the process that is judged."""
    place.work.mkdir()
    os.chdir(place.work)
    act = case.make(place)
    for number in (1, 2):
        with report.with_suffix(f".{number}").open("w") as stream:
            os.dup2(stream.fileno(), number)
    Path("/proc/self/clear_refs").write_text("5")  # the largest from here on
    base = resident()
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (resident("VmSize") + 4 * 2**30, most))
    report.with_suffix(".go").touch()
    begin, said = time.monotonic(), ""
    try:
        act()
        outcome = "taken"
    except REFUSALS as error:
        outcome, said = "refused", str(error)
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        outcome, said = "internal", f"{type(error).__name__}: {str(error)[:300]} ({where})"
    seconds, peak = time.monotonic() - begin, resident("VmHWM") - base
    sys.stdout.flush()
    sys.stderr.flush()
    os.chdir(place.root)
    found = {"outcome": outcome, "said": said, "seconds": seconds, "mebibytes": peak / 2**20}
    report.with_suffix(".new").write_text(json.dumps(found))
    report.with_suffix(".new").rename(report)


def _cpu(pid: int) -> float:
    """Seconds that a process has computed."""
    with suppress(OSError, ValueError):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


class Judge:
    """What becomes of cases: each is put to a process forked from this one, which goes on to the
    next, and is ended and made anew after whatever went wrong, took long or left threads."""

    def __init__(self, cases: Sequence[Case], place: Place) -> None:
        self.cases, self.place, self.before = cases, place, place.around()
        self.report = Path(tempfile.gettempdir(), f"hostile-{os.getpid()}")
        self.pid = self.pipe = self.done = 0
        gc.collect()
        gc.freeze()  # what a collection in the copy would touch is copied

    def _begin(self) -> None:
        sys.stdout.flush()
        reads, self.pipe = os.pipe()
        self.pid, self.done = os.fork(), 0
        if self.pid:
            os.close(reads)
            return
        os.close(self.pipe)
        os.setsid()
        with Path("/dev/null").open() as stream:
            os.dup2(stream.fileno(), 0)
        torch.set_num_threads(1)
        try:
            while number := os.read(reads, 8):
                _answered(self.cases[int.from_bytes(number, "little")], self.place, self.report)
        except BaseException:
            traceback.print_exc()
        os._exit(1)

    def end(self) -> None:
        """End the process."""
        if self.pid:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
            os.close(self.pipe)
            self.pid = 0

    def _hangs(self, number: int) -> bool:
        os.write(self.pipe, number.to_bytes(8, "little"))
        made = False
        begin = spent = math.inf
        while not self.report.exists() and not os.waitpid(self.pid, os.WNOHANG)[0]:
            if not made and self.report.with_suffix(".go").exists():
                made, begin, spent = True, time.monotonic(), _cpu(self.pid)
            # of computing, or of waiting on a busy machine
            if _cpu(self.pid) - spent > SECONDS or time.monotonic() - begin > 6 * SECONDS:
                return True
            time.sleep(0.002)
        return False

    def verdict(self, number: int) -> Verdict:
        case, report = self.cases[number], self.report
        for suffix in ("", ".1", ".2", ".new", ".go"):
            report.with_suffix(suffix).unlink(missing_ok=True)
        if not self.pid:
            self._begin()
        hung = self._hangs(number)
        verdict = Verdict(case.kind, case.name, "hung" if hung else "crashed")
        if not hung and report.exists():
            verdict = Verdict(case.kind, case.name, **json.loads(report.read_text()))
        verdict.faults = [*_faults(verdict, case, report), *self._left()]
        self.done += 1
        odd = verdict.faults or verdict.mebibytes > 100 or verdict.seconds > 5
        if odd or case.kind == "swapped paths" or self.done == 50:
            self.end()
        shutil.rmtree(self.place.work, ignore_errors=True)
        return verdict

    def _left(self) -> Iterator[str]:
        """Traces outside."""
        if self.place.canary.exists():
            shutil.rmtree(self.place.canary)
            yield "executed"
        after = self.place.around()
        if after != self.before:
            both = {*self.before, *after}
            changed = sorted(p for p in both if self.before.get(p) != after.get(p))
            self.before = after
            yield f"written or removed outside: {', '.join(changed[:3])}"


def _faults(verdict: Verdict, case: Case, report: Path) -> Iterator[str]:
    if verdict.outcome not in ("refused", "taken"):
        yield verdict.outcome
    if verdict.mebibytes * 2**20 > BYTES:
        yield "memory"
    out, err = (
        path.read_bytes().decode(errors="replace") if path.exists() else ""
        for path in (report.with_suffix(".1"), report.with_suffix(".2"))
    )
    if not (out + err).replace("\n", "").replace("\t", "").replace("\r", "").isprintable():
        yield "escapes"
    if "Traceback" in err or "internal error" in err:
        yield "traceback"
    if verdict.outcome == "refused":
        lines = [line for line in err.splitlines() if line.startswith("pyrovae: error: ")]
        said = verdict.said or (lines[0] if len(lines) == 1 else "")
        verdict.said = said
        if not (20 < len(said) < 1500 and "\n" not in said and said.isprintable()):
            yield "no sentence"


KINDS: dict[str, Callable[[], Iterator[tuple[str, Make]]]] = {}


def kind(name: str) -> Callable[[Any], Any]:
    def note(of: Any) -> Any:
        KINDS[name] = of
        return of

    return note


def corpus() -> list[Case]:
    return [Case(name, *case) for name, of in KINDS.items() for case in of()]


def warmed(root: Path) -> Place:
    """The place, once everything that a case may import is there."""
    place = Place(root)
    place.work.mkdir()
    x = np.random.default_rng(0).integers(0, 2, (40, 6)).astype("f4")
    frame = pd.DataFrame(x, columns=list("abcdef"))
    frame.to_csv(place.work / "x.csv", index=False)
    frame.to_parquet(place.work / "x.parquet")
    np.savez(place.work / "x.npz", x=x)
    torch.save(torch.from_numpy(x), place.work / "x.pt")
    pictures(place)
    for name in ("x.csv", "x.parquet", "x.npz", "x.pt", "images"):
        pv.data.load(place.work / name)
    run = place.run()
    said = io.StringIO()
    for words in (("info", run), ("evaluate", run, "--device", "cpu", "--num-particles", "2")):
        with suppress(pv.UsageError), redirect_stdout(said):
            command(*words)()
    for wide in (scipy.sparse.csr_matrix(x), frame):
        with suppress(pv.UsageError):
            pv.fit(pair(), wide, epochs=1, progress=False, compile=False)
    shutil.rmtree(place.work)
    return place


def pair() -> pv.VAE:
    torch.manual_seed(0)
    return pv.VAE((6,), 2, guide=pv.guides.MeanField(pv.networks.MLP([3])))


# --- odd things in a file's place ---------------------------------------------------------------


def link(to: object, path: Path, place: Place) -> None:
    path.symlink_to(str(to).format(p=place))


def listens(path: Path, place: Place) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        here = Path.cwd()
        os.chdir(path.parent)  # the name of a socket is short
        end.bind(path.name)
        os.chdir(here)


def device(path: Path, place: Place) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except OSError:
        link("/dev/zero", path, place)


def sparse(size: int, head: bytes, path: Path, place: Place) -> None:
    with path.open("wb") as stream:
        stream.write(head)
        stream.truncate(size)


ODD: dict[str, Callable[[Path, Place], object]] = {
    "pipe": lambda path, place: os.mkfifo(path),
    "folder": lambda path, place: path.mkdir(),
    "socket": listens,
    "device": device,
    "zeros": partial(link, "/dev/zero"),
    "full": partial(link, "/dev/full"),
    "stdin": partial(link, "/dev/stdin"),
    "memory": partial(link, "/proc/self/mem"),
    "environment": partial(link, "/proc/self/environ"),
    "nowhere": partial(link, "/nowhere/at/all"),
    "circle": lambda path, place: path.symlink_to(path.name),
    "outside": partial(link, "{p.outside}/secret.txt"),
    "outside folder": partial(link, "{p.outside}"),
    "sparse": partial(sparse, 3 * 2**30, b""),
}


@kind("odd things as data")
def odd_data() -> Iterator[tuple[str, Make]]:
    for suffix in SUFFIXES:
        for name, put in ODD.items():

            def make(place: Place, put: Any = put, suffix: str = suffix) -> Act:
                put(place.work / f"x{suffix}", place)
                return partial(pv.data.load, place.work / f"x{suffix}")

            yield f"{name}{suffix}", make


@kind("odd things in a run")
def odd_runs() -> Iterator[tuple[str, Make]]:
    verbs = {
        MODEL: ("evaluate",),
        CONFIG: ("evaluate", "resume"),
        "metrics.csv": ("info", "resume"),
        "environment.json": ("info",),
        "evaluation.json": ("info", "evaluate"),
        "data.json": ("evaluate",),
        LAST: ("resume",),
        "checkpoints": ("resume",),
        "figures": ("sample", "resume"),
        "figures/samples.png": ("sample",),
    }
    for file, words in verbs.items():
        for name, put in ODD.items():
            for word in words:

                def make(place: Place, file: str = file, put: Any = put, word: str = word) -> Act:
                    path = place.run() / file
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
                    put(path, place)
                    return verb(word, place.work / "run", place)

                yield f"{word} {file} {name}", make


def verb(word: str, run: Path, place: Place) -> Act:
    more = {
        "info": (),
        "evaluate": ("--num-particles", 2, "--device", "cpu"),
        "sample": ("--n", 2, "--device", "cpu"),
    }
    if word == "resume":
        data = ("--data", place.root / "x.npy")
        brief = [*BRIEF]
        brief[1] = "2"
        return command("fit", *data, "--out", run, "--resume", *SMALL, *brief)
    return command(word, run, *more[word])


@kind("swapped paths")
def swapped() -> Iterator[tuple[str, Make]]:
    """A part of the run turns into a link outside and back, all the while it is written."""
    for file in ("checkpoints", "figures", "metrics.csv", MODEL, CONFIG, LAST):
        for word in ("resume", "sample" if file == "figures" else "evaluate"):

            def make(place: Place, file: str = file, word: str = word) -> Act:
                run = place.run()
                other = place.work / "other"
                other.symlink_to(place.outside / file)
                aside = place.work / "aside"

                def swap() -> None:
                    while True:
                        with suppress(OSError):
                            (run / file).rename(aside)
                            other.rename(run / file)
                            time.sleep(0.0002)
                            (run / file).rename(other)
                            aside.rename(run / file)

                act = verb(word, run, place)
                return lambda: (threading.Thread(target=swap, daemon=True).start(), act())

            yield f"{word} {file}", make


# --- bombs --------------------------------------------------------------------------------------


def npy_head(shape: object, descr: str = "<f4", version: int = 1) -> bytes:
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(text)) + text.encode()


def zipped(path: Path, members: dict[str, tuple[bytes, int]]) -> None:
    """Members of a few bytes and many zeros, packed."""
    zeros = bytes(2**20)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, (head, more) in members.items():
            with file.open(name, "w", force_zip64=True) as stream:
                stream.write(head)
                for start in range(0, more, 2**20):
                    stream.write(zeros[: min(2**20, more - start)])


def loads(name: str, content: bytes | str = b"", **options: Any) -> Make:
    def make(place: Place) -> Act:
        return partial(pv.data.load, place.file(name, content), **options)

    return make


def made_by(write: Callable[[Path], object], name: str, **options: Any) -> Make:
    def make(place: Place) -> Act:
        write(place.work / name)
        return partial(pv.data.load, place.work / name, **options)

    return make


def sheet(path: Path, rows: str, strings: str = "", more: Any = None) -> None:
    """A workbook of one sheet, by hand."""
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    main = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types">'
        '<Default Extension="xml" ContentType="application/xml"/><Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{main}.sheet.main+xml"/>'
        f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{main}.worksheet+xml"/>'
        f'<Override PartName="/xl/sharedStrings.xml" ContentType="{main}.sharedStrings+xml"/>'
        "</Types>",
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" '
        f'Type="{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook {space} xmlns:r="{office}"><sheets><sheet name="a" '
        'sheetId="1" r:id="r1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships">'
        f'<Relationship Id="r1" Type="{office}/worksheet" Target="worksheets/sheet1.xml"/>'
        f'<Relationship Id="r2" Type="{office}/sharedStrings" Target="sharedStrings.xml"/>'
        "</Relationships>",
        "xl/worksheets/sheet1.xml": f"<worksheet {space}>{rows}</worksheet>",
        "xl/sharedStrings.xml": strings or f"<sst {space}><si><t>a</t></si></sst>",
    }
    given = {name: (text.encode(), 0) for name, text in parts.items()}
    zipped(path, given | (more or {}))


LAUGHS = '<!DOCTYPE a [<!ENTITY a "ha">' + "".join(
    f'<!ENTITY {x} "{f"&{y};" * 10}">' for y, x in zip("abcdefghi", "bcdefghij", strict=True)
) + "]>"  # fmt: skip
READS = '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]>'


def parquet(columns: dict[str, Any], path: Path, **options: Any) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table(columns)
    pyarrow.parquet.write_table(table, path, **options)


def repeated(path: Path, rows: int) -> None:
    """Many rows of one value, of which a file needs few bytes."""
    import pyarrow
    import pyarrow.parquet

    few = pyarrow.table({"a": np.zeros(10**6, "f8"), "b": np.ones(10**6, "f8")})
    with pyarrow.parquet.ParquetWriter(path, few.schema, compression="zstd") as writer:
        for _ in range(rows // 10**6):
            writer.write_table(few, row_group_size=10**6)


def packed(content: bytes, more: int) -> bytes:
    held = io.BytesIO()
    with gzip.GzipFile(fileobj=held, mode="wb", compresslevel=1) as stream:
        stream.write(content)
        for _ in range(more // 2**20):
            stream.write(bytes(2**20))
    return held.getvalue()


@kind("bombs")
def bombs() -> Iterator[tuple[str, Make]]:
    many = 2**30
    for n, shape in enumerate(
        (f"({2**28},)", f"({2**26}, 4)", f"(2, {2**27})", f"(1, 1, {2**28})")
    ):
        head = npy_head(shape)
        yield f"npz {n}", made_by(lambda p, h=head: zipped(p, {"x.npy": (h, many)}), "x.npz")
    head = npy_head("(4, 4)")
    yield (
        "npz members",
        made_by(
            lambda p: zipped(p, {f"{i}.npy": (npy_head("(4,4)"), 64) for i in range(30_000)}),
            "x.npz",
        ),
    )
    yield (
        "npz beside",
        made_by(
            lambda p: zipped(p, {"x.npy": (head, 64), "y.npy": (npy_head(f"({2**28},)"), many)}),
            "x.npz",
        ),
    )
    for name in ("indices", "indptr", "data"):
        parts = {
            "indices": (npy_head("(1,)", "<i4"), 4),
            "indptr": (npy_head("(3,)", "<i4"), 12),
            "data": (npy_head("(1,)"), 4),
            "format": (npy_head("()", "|S3") + b"csr", 0),
            "shape": (npy_head("(2,)", "<i8") + struct.pack("<2q", 2, 9), 0),
        }
        kind_of = "<f4" if name == "data" else "<i4"
        parts[name] = (npy_head(f"({2**28},)", kind_of), many)
        members = {f"{n}.npy": part for n, part in parts.items()}
        yield f"npz sparse {name}", made_by(lambda p, m=members: zipped(p, m), "x.npz")
    for descr in ("<f4", "<f8", "|u1", "|O", "<U9999", "<M8[s]", "|V9", "<c16"):
        for shape in (f"({10**12},)", f"({2**63},)", f"({2**40}, {2**40})", "(-1, 4)", "(0, 9)"):
            yield f"npy {descr} {shape}", loads("x.npy", npy_head(shape, descr) + bytes(64))
    for rows, stream in ((2**26, "auto"), (2**26, False), (2**26, True)):

        def hollow(path: Path, rows: int = rows) -> None:
            sparse(
                len(npy_head(f"({rows}, 12)")) + 48 * rows, npy_head(f"({rows}, 12)"), path, None
            )  # type: ignore[arg-type]

        yield f"npy sparse {stream}", made_by(hollow, "x.npy", stream=stream)
    for name in ("x.csv.gz", "x.npy.gz", "x.csv", "x.parquet", "x.xlsx", "x.pt"):
        yield f"gzip {name}", made_by(lambda p: p.write_bytes(packed(b"a,b\n1,2\n", 2**29)), name)
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    row = '<row r="1"><c r="A1" t="inlineStr"><is><t>a</t></is></c></row>'
    cell = '<row r="{r}"><c r="{c}"><v>1</v></c></row>'
    books: dict[str, Callable[[Path], object]] = {
        "strings": lambda p: sheet(
            p,
            f"<sheetData>{row}</sheetData>",
            more={"xl/sharedStrings.xml": (f"<sst {space}><si><t>".encode(), many)},
        ),
        "rows": lambda p: sheet(
            p, "", more={"xl/worksheets/sheet1.xml": (f"<worksheet {space}>".encode(), many)}
        ),
        "laughs": lambda p: sheet(p, "", strings=f"{LAUGHS}<sst {space}><si><t>&j;</t></si></sst>"),
        "reads": lambda p: sheet(p, "", strings=f"{READS}<sst {space}><si><t>&a;</t></si></sst>"),
        "far": lambda p: sheet(
            p, "<sheetData>" + row + cell.format(r=1048576, c="XFD1048576") + "</sheetData>"
        ),
        "dimension": lambda p: sheet(
            p, f'<dimension ref="A1:XFD1048576"/><sheetData>{row}</sheetData>'
        ),
        "beyond": lambda p: sheet(p, "<sheetData>" + cell.format(r=10**9, c="A1") + "</sheetData>"),
        "formulas": lambda p: sheet(
            p,
            '<sheetData><row r="1"><c r="A1"><f>HYPERLINK("http://127.0.0.1:9/")</f></c></row>'
            "</sheetData>",
        ),
        "no index": lambda p: sheet(
            p, '<sheetData><row r="1"><c r="A1" t="s"><v>99</v></c></row></sheetData>'
        ),
        "deep": lambda p: sheet(p, "<a>" * 200_000),
        "many": lambda p: zipped(p, {f"{i}.xml": (b"<a/>", 0) for i in range(30_000)}),
        "empty zip": lambda p: zipped(p, {}),
    }
    for name, write in books.items():
        yield f"excel {name}", made_by(write, "x.xlsx")
    yield "parquet rows", made_by(lambda p: repeated(p, 10**8), "x.parquet")
    yield "parquet rows read", made_by(lambda p: repeated(p, 5 * 10**7), "x.parquet", stream=False)
    yield (
        "parquet columns",
        made_by(lambda p: parquet({str(i): np.zeros(3) for i in range(5_000)}, p), "x.parquet"),
    )
    yield (
        "parquet names",
        made_by(lambda p: parquet({TALKS: [1.0, 2], "a\nb": [1.0, 2]}, p), "x.parquet"),
    )
    yield "parquet nested", made_by(lambda p: parquet({"a": [[[1.0]], [[2.0]]]}, p), "x.parquet")
    yield (
        "parquet words",
        made_by(
            lambda p: parquet({"a": ["x" * 10**6] * 400, "b": list(range(400))}, p), "x.parquet"
        ),
    )
    yield "parquet bytes", made_by(lambda p: parquet({"a": [b"\xff", b"\x00"]}, p), "x.parquet")
    yield "parquet empty", made_by(lambda p: parquet({}, p), "x.parquet")
    yield (
        "parquet cut",
        made_by(
            lambda p: (parquet({"a": [1.0, 2]}, p), os.truncate(p, p.stat().st_size - 20)),
            "x.parquet",
        ),
    )
    yield (
        "parquet footer",
        loads("x.parquet", b"PAR1" + bytes(20) + struct.pack("<I", 2**31) + b"PAR1"),
    )
    svm = {
        "index": f"1 {10**12}:1\n0 1:1\n",
        "negative": "1 -5:1\n",
        "words": "a b:c\n",
        "long": "1 " + " ".join(f"{i}:1" for i in range(200_000)) + "\n",
    }
    for name, text in svm.items():
        for file in ("x.svmlight", "x.txt", "x.csv"):
            yield f"svmlight {name} {file}", loads(file, text)
    yield (
        "mtx",
        loads("x.mtx", f"%%MatrixMarket matrix coordinate real general\n{10**12} 9 1\n1 1 1\n"),
    )
    for name, text in YAML.items():
        yield f"yaml {name}", configured(text)


YAML = {
    "laughs": "a: &a [1, 1]\n"
    + "".join(
        f"{x}: &{x} [{', '.join([f'*{y}'] * 9)}]\n"
        for y, x in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "circle": "&a [*a]",
    "deep": "[" * 5000,
    "maps": "{a: " * 3000,
    "rows": "- " * 5000,
    "keys": "? " * 9999,
    "sixty": "seed: 1" + ":1" * 300_000,
    "wide": "- 1\n" * 200_000,
    "long": "x" * 999_000,
    "digits": "seed: " + "9" * 9000,
}


def configured(text: str | bytes, *words: object) -> Make:
    """A stranger's config, to be trained by."""

    def make(place: Place) -> Act:
        given = (
            text if isinstance(text, bytes) else text.replace("{root}", str(place.root)).encode()
        )
        file = place.file("theirs.yaml", given)
        return command("fit", "--config", file, *words, "--out", place.work / "new", *BRIEF)

    return make


# --- pickles ------------------------------------------------------------------------------------


class Touches:
    """Makes a folder where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def unpickles(path: Path, payload: object, how: str) -> None:
    with path.open("wb") as stream:
        if how == "torch":
            torch.save({"x": payload}, stream)
        elif how == "torch old":
            torch.save({"x": payload}, stream, _use_new_zipfile_serialization=False)
        elif how == "npy":
            np.save(stream, np.array([payload], dtype=object), allow_pickle=True)
        elif how == "npz":
            np.savez(stream, x=np.array([payload], dtype=object))
        elif how == "frame":
            pickle.dump(pd.DataFrame({"a": [payload, payload]}), stream)
        else:
            pickle.dump(payload, stream, protocol=int(how))


PICKLES = ("0", "2", "4", "5", "torch", "torch old", "npy", "npz", "frame")


@kind("pickles")
def pickles() -> Iterator[tuple[str, Make]]:
    for how in PICKLES:
        for suffix in SUFFIXES:

            def data(place: Place, how: str = how, suffix: str = suffix) -> Act:
                unpickles(place.work / f"x{suffix}", Touches(place.canary), how)
                return partial(pv.data.load, place.work / f"x{suffix}")

            yield f"{how} {suffix}", data
        for file in FILES:

            def run(place: Place, how: str = how, file: str = file) -> Act:
                path = place.run() / file
                unpickles(path, Touches(place.canary), how)
                word = (
                    "resume" if file == LAST else "info" if "m" in file[0] + file[1] else "evaluate"
                )
                return verb(word, place.work / "run", place)

            yield f"{how} {file}", run


# --- pictures -----------------------------------------------------------------------------------

EPS = (
    "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"
    "(%pipe%touch x) (r) file closefile\nshowpage\n%%EOF\n"
)
WMF = b"\xd7\xcd\xc6\x9a" + bytes(6) + struct.pack("<4hH", 0, 0, 8, 8, 72) + bytes(100)


def pictures(place: Place, count: int = 3) -> Path:
    folder = place.work / "images"
    folder.mkdir(exist_ok=True)
    for k in range(count):
        Image.fromarray(np.full((8, 8), 40 * k, "u1")).save(folder / f"{k}.png")
    return folder


def pictured(name: str, content: Callable[[], bytes] | bytes) -> Make:
    def make(place: Place) -> Act:
        folder = pictures(place)
        (folder / name).write_bytes(content() if callable(content) else content)
        return partial(pv.data.load, folder)

    return make


def as_format(of: str, mode: str = "RGB", size: tuple[int, int] = (8, 8)) -> bytes:
    held = io.BytesIO()
    Image.new(mode, size).save(held, of)
    return held.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    code = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + code


def png(
    width: int, height: int, depth: int = 8, colour: int = 0, lines: int = 8, more: bytes = b""
) -> bytes:
    head = chunk(b"IHDR", struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0))
    row = 1 + width * depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 1) // 8
    packer = zlib.compressobj(1)
    body = b"".join(packer.compress(bytes(min(row, 2**24))) for _ in range(lines)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + head + more + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@kind("pictures")
def odd_pictures() -> Iterator[tuple[str, Make]]:
    Image.init()
    for of in sorted(Image.SAVE):
        try:
            content = as_format(of)
        except Exception:  # not of these colours, or with what is not installed
            continue
        for suffix in (".png", ".jpg"):
            yield f"{of}{suffix}", pictured(f"x{suffix}", content)
    scripts = {"eps": EPS.encode(), "ps": EPS.replace(" EPSF-3.0", "").encode(), "wmf": WMF}
    scripts["dos eps"] = (
        b"\xc5\xd0\xd3\xc6" + struct.pack("<6I", 32, len(EPS), 0, 0, 0, 0) + bytes(4) + EPS.encode()
    )
    for name, content in scripts.items():
        for suffix in (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".eps"):
            yield f"{name}{suffix}", pictured(f"x{suffix}", content)
    claims = (2**31 - 1, 2**20, 60_000, 13_000, 9_000)
    for side in claims:
        yield f"png {side}", pictured("x.png", partial(png, side, side))
        bmp = (
            b"BM"
            + struct.pack("<IHHI", 999, 0, 0, 54)
            + struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
        )
        yield f"bmp {side}", pictured("x.bmp", bmp + bytes(99))
        gif = b"GIF89a" + struct.pack("<HHBBB", side % 65536, side % 65536, 0x80, 0, 0) + bytes(6)
        gif += (
            b","
            + struct.pack("<4HB", 0, 0, side % 65536, side % 65536, 0)
            + b"\x02\x02\x44\x01\x00;"
        )
        yield f"gif {side}", pictured("x.gif", gif)
        tags = {256: side, 257: side, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: side, 279: 99}
        tiff = b"II*\0" + struct.pack("<IH", 8, len(tags))
        tiff += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
        yield f"tiff {side}", pictured("x.tif", tiff + bytes(200))
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8)))
    profile = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(10**8)))
    deep = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + LAUGHS.encode())
    for name, more in {"text": text, "profile": profile, "xmp": deep, "many": text * 40}.items():
        yield f"png {name}", pictured("x.png", partial(png, 8, 8, more=more))
    for depth, colour in ((16, 0), (16, 6), (1, 0), (8, 3), (8, 6), (9, 9), (0, 0)):
        yield f"png of {depth} {colour}", pictured("x.png", partial(png, 8, 8, depth, colour))
    sound = as_format("PNG")
    for end in (0, 8, 20, 33, len(sound) - 5):
        yield f"png cut at {end}", pictured("x.png", sound[:end])
    yield "png bits", pictured("x.png", bytes(b ^ (k % 37 == 30) for k, b in enumerate(sound)))
    for mode in (
        "1",
        "L",
        "LA",
        "P",
        "RGB",
        "RGBA",
        "CMYK",
        "I;16",
        "F",
        "I",
        "YCbCr",
        "LAB",
        "HSV",
    ):
        for of in ("PNG", "TIFF"):
            try:
                content = as_format(of, mode)
            except Exception:
                continue
            yield f"{of} {mode}", pictured(f"x.{of.lower()}", content)
    for name, put in ODD.items():

        def make(place: Place, put: Any = put) -> Act:
            put(pictures(place) / "x.png", place)
            return partial(pv.data.load, place.work / "images")

        yield f"{name}.png", make


# --- safetensors --------------------------------------------------------------------------------


def tensors_file(header: object, body: int = 64, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    return struct.pack("<Q", size % 2**64) + text + bytes(body)


def tensor_of(shape: object, offsets: object, dtype: object = "F32", **more: Any) -> dict[str, Any]:
    return {"shape": shape, "data_offsets": offsets, "dtype": dtype} | more


@kind("safetensors")
def safetensors_files() -> Iterator[tuple[str, Make]]:
    whole = tensor_of([4], [0, 16])
    heads: dict[str, Any] = {}
    shapes: tuple[Any, ...] = (
        *([2**62, 4], [2**40, 2**40], [0, 2**63], [-4], [-2, -2], [10**30], ["4"], [4.0], [None]),
        *([True], "4", None, {}, 4, [1] * 5000, [[4]], [math.nan], []),
    )
    offsets: tuple[Any, ...] = (
        *([0, 2**62], [-8, 8], [-16, 0], [16, 0], [0, 10**30], [0, 2**63], [8, 24], [60, 76]),
        *([0], [0, 16, 32], None, "0", {}, [0.0, 16.0], ["0", "16"], [None, None], [True, 16]),
        *([2**64 - 16, 2**64], [0, -1], [math.inf, 16], []),
    )
    dtypes: tuple[Any, ...] = (
        *("F4", "F999", "", None, 3, [], {}, "x" * 10**5, "BOOL", "F64", "C64", "F8_E4M3", "U16"),
        *(TALKS, "f32", "O", "object"),
    )
    heads |= {f"shape {str(s)[:20]}": {"a": tensor_of(s, [0, 16])} for s in shapes}
    heads |= {f"offsets {str(o)[:30]}": {"a": tensor_of([4], o)} for o in offsets}
    heads |= {f"dtype {str(d)[:10]!r}": {"a": tensor_of([4], [0, 16], d)} for d in dtypes}
    heads |= {
        "overlap": {"a": whole, "b": whole},
        "partly": {"a": whole, "b": tensor_of([4], [8, 24])},
        "gap": {"a": whole, "b": tensor_of([4], [40, 56])},
        "amplified": {f"{k}": tensor_of([2**14], [0, 2**16]) for k in range(50_000)},
        "many": {f"{k}": tensor_of([0], [0, 0]) for k in range(100_000)},
        "no tensor": {"a": 3},
        "list": [],
        "number": 3,
        "nothing": {},
        "notes": {"__metadata__": 3},
        "notes list": {"__metadata__": {"pyrovae": [1]}, "a": whole},
        "notes deep": {"__metadata__": {"pyrovae": "[" * 10**6}, "a": whole},
        "notes text": {"__metadata__": {"pyrovae": "x" * 10**7}, "a": whole},
        "names": {TALKS: whole},
        "path": {"../../x": whole},
        "root": {"/etc/x": whole},
        "surrogate": {"\ud800": whole},
        "dunder": {"__class__": whole},
        "long": {"x" * 10**6: whole},
        "twice": b'{"a":'
        + json.dumps(whole).encode()
        + b',"a":'
        + json.dumps(whole).encode()
        + b"}",
        "deep": b'{"a":' * 10**6,
        "open": b'{"a"',
        "utf16": "{}".encode("utf-16"),
        "bytes": b"\xff\xfe\x00",
        "digits": b'{"a": ' + b"9" * 10**6 + b"}",
        "spaces": b" " * 10**6 + b"{}",
    }
    for name, header in heads.items():
        content = tensors_file(header)
        yield name, lambda place, c=content: partial(pv.load, place.file("x/model.safetensors", c))
    for length in (0, 1, 7, 63, 2**31, 10**8, 10**8 + 1, 2**40, 2**63, 2**64 - 1):
        content = tensors_file({"a": whole}, length=length)
        yield (
            f"header of {length}",
            lambda place, c=content: partial(pv.load, place.file(MODEL, c).parent),
        )
    for size in (0, 3, 8, 9):
        yield (
            f"of {size} bytes",
            lambda place, s=size: partial(pv.load, place.file(MODEL, bytes(s))),
        )
    for shape in ([3 * 2**28], [2**15, 3 * 2**13], [1, 3 * 2**28]):
        header = tensors_file({"a": tensor_of(shape, [0, 3 * 2**30])}, body=0)

        def hollow(place: Place, header: bytes = header) -> Act:
            sparse(len(header) + 3 * 2**30, header, place.work / MODEL, place)
            return partial(pv.load, place.work / MODEL)

        yield f"sparse {shape}", hollow

        def hollow_into(place: Place, header: bytes = header) -> Act:
            sparse(len(header) + 3 * 2**30, header, place.work / MODEL, place)
            return partial(pv.load, place.work / MODEL, pair())

        yield f"sparse into {shape}", hollow_into

        def hollow_state(place: Place, header: bytes = header) -> Act:
            path = place.run() / LAST
            sparse(len(header) + 3 * 2**30, header, path, place)
            path.with_name("before.safetensors").unlink(missing_ok=True)
            return verb("resume", place.work / "run", place)

        yield f"sparse checkpoint {shape}", hollow_state


# --- what models describe -----------------------------------------------------------------------

EVIL: tuple[Any, ...] = (
    *(None, True, 0, -1, 1.5, 10**12, 2**63, 10**30, math.nan, math.inf, "", "../x", "/dev/zero"),
    *("nul\0", TALKS, "\ud800", "9" * 5000, "[&a [1], *a]", "[" * 3000, "!!python/name:os.system"),
    *([], {}, [10**9], [[1]], [-1], [1] * 50_000, {"class_path": "os.system"}, "subprocess.Popen"),
    *({"class_path": "posixpath.join", "init_args": {}}, "torch.load", "Flow", "Mixed", "ConvNet"),
    {"class_path": "Flow", "init_args": {"transforms": 10**9}},
    {"class_path": "pyrovae.priors.VampPrior", "init_args": {"components": 10**12}},
    {"class_path": "Categorical", "init_args": {"classes": 10**10}},
    {"class_path": "MLP", "init_args": {"hidden": [1] * 50_000}},
    {"class_path": "pyrovae.files.writing", "init_args": {"file": "x"}},
)


def spots(tree: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from spots(tree[key])


@kind("described models")
def described() -> Iterator[tuple[str, Make]]:
    from pyrovae import files

    for k, evil in enumerate(EVIL):
        for part in ("model", "init_args", "anywhere"):

            def make(place: Place, k: int = k, evil: Any = evil, part: str = part) -> Act:
                file = place.run() / MODEL
                tensors, notes = files.read_tensors(file)
                if part == "model":
                    notes["model"] = evil
                elif part == "init_args":
                    notes["model"]["init_args"] = evil
                else:
                    tree, key = random.Random(k).choice(list(spots(notes["model"])))
                    tree[key] = evil
                files.write_tensors(file, tensors, notes)
                return partial(pv.load, place.work / "run")

            yield f"{part} {str(evil)[:40]!r}", make


# --- a stranger's texts -------------------------------------------------------------------------

KEYS = {
    "out": "out: {root}/outside\n",
    "out resume": "out: {root}/made\nresume: true\n",
    "out force": "out: {root}/made\nforce: true\n",
    "home": "data: ~root\n",
    "root": "data: /\n",
    "allow": "allow: [os]\n",
    "etc": "data: /etc\n",
    "passwd": "data: /etc/passwd\n",
    "data dir": "data: mnist\ndata_dir: {root}/outside\n",
    "zeros": "data: /dev/zero\n",
    "stdin": "data: /dev/stdin\n",
    "fd": "data: /proc/self/fd/0\n",
    "nul": 'data: "x\\0.npy"\n',
    "talks": f"data: {TALKS!r}\n",
    "url": "data: http://127.0.0.1:9/x.csv\n",
    "s3": "data: s3://bucket/x.parquet\n",
    "debug": "debug: true\n",
    "quiet": "quiet: 3\n",
    "config": "config: {root}/outside/config.yaml\n",
    "callbacks": "callbacks: [os.system]\n",
    "optimizer": "optimizer: os.system\n",
    "loss": "loss: os.system\n",
    "prior": "prior: os.system\n",
    "likelihood": "likelihood: {class_path: os.system, init_args: {command: touch x}}\n",
    "guide": "guide: {class_path: subprocess.Popen, init_args: {args: [touch, x]}}\n",
    "network": "likelihood: {class_path: Normal, init_args: {network: {class_path: os.system}}}\n",
    "tensorboard": "tensorboard: true\n",
    "json": "json: true\n",
    "device": "device: cuda:77\n",
    "hidden": "likelihood: {class_path: Normal, init_args: {network: {class_path: MLP, init_args: "
    "{hidden: [" + "1, " * 50_000 + "1]}}}}\n",
    "wide": "latent_dim: 1000000000000\n",
    "epochs": "epochs: 1000000000000\nlr: -1\n",
    "tag": "data: !!python/object/apply:os.mkdir [{root}/canary]\n",
    "new": "data: !!python/object/new:os.mkdir [{root}/canary]\n",
    "verbatim": "data: !<tag:yaml.org,2002:python/object/apply:os.mkdir> [{root}/canary]\n",
    "name": "seed: !!python/name:os.system\n",
    "module": "seed: !!python/module:os\n",
    "binary": "data: !!binary aGVsbG8=\n",
    "set": "data: !!set {x, y}\n",
    "complex": "? [1]\n: 3\n",
    "date": "data: 2001-99-99\n",
    "merge": "<<: 3\n",
    "two": "--- 1\n--- 2\n",
    "nul byte": "a: \0\n",
    "escape": "\x1b[2J: 1\n",
    "unknown": "epohcs: 1\n",
    "list": "- 1\n",
    "null": "data: null\n",
    "numbers": "1: 2\nnull: 3\n",
    "latin": b"data: \xff\n",
    "utf16": "data: x\n".encode("utf-16"),
    "checkpoint": "checkpoint_every: -1\n",
    "particles": "num_particles: 1000000000000000\n",
    "stream": "stream: {a: 1}\n",
    "label": f"label: {TALKS!r}\n",
    "columns": "columns: [[[1]]]\n",
    "resize": "resize: 100000x100000\ndata: mnist5k\n",
    "schedule": "lr_schedule: os.system\n",
}


@kind("configs")
def configs() -> Iterator[tuple[str, Make]]:
    for name, text in KEYS.items():
        small = () if name in ("hidden", "wide") else SMALL[:2]
        yield f"fit {name}", configured(text, *small)

        def make(place: Place, text: Any = text) -> Act:
            given = (
                text
                if isinstance(text, bytes)
                else text.replace("{root}", str(place.root)).encode()
            )
            file = place.run() / CONFIG
            own = yaml.safe_load(file.read_text())
            keys = given.decode(errors="ignore").partition(":")[0]
            kept = {k: v for k, v in own.items() if k != keys}
            file.write_bytes(yaml.safe_dump(kept).encode() + given)
            return verb("evaluate", place.work / "run", place)

        yield f"evaluate {name}", make


JSON = {
    "deep": "[" * 10**6,
    "maps": '{"a":' * 10**5,
    "open": "{",
    "empty": "",
    "digits": "9" * 5000,
    "null": "null",
    "list": "[]",
    "number": "3",
    "nan": '{"elbo": NaN}',
    "talks": json.dumps({TALKS: TALKS}),
    "raw": TALKS,
    "long": json.dumps({"x": "x" * 10**7}),
    "wide": json.dumps(list(range(10**6))),
    "keys": json.dumps({str(k): k for k in range(10**5)}),
    "class": '{"__class__": "os.system"}',
    "twice": '{"version": 1, "version": 2}',
    "later": '{"version": 10000000000}',
    "bytes": b"\xff\x00",
    "bidi": '{"a": "\u202e\u2066"}',
    "surrogate": '{"a": "\\ud800"}',
    "columns": '{"columns": 3}',
    "schema": '{"schema": {"columns": [{"name": "a", "kind": "x"}]}, "version": 1}',
    "path": '{"path": "/dev/zero", "digest": 1, "data": "/etc/passwd"}',
}


@kind("texts of a run")
def texts() -> Iterator[tuple[str, Make]]:
    for file, word in (
        *(("data.json", "evaluate"), ("data.json", "resume"), ("environment.json", "info")),
        ("evaluation.json", "info"),
    ):
        for name, text in JSON.items():

            def make(place: Place, file: str = file, word: str = word, text: Any = text) -> Act:
                place.run()
                place.file(f"run/{file}", text)
                return verb(word, place.work / "run", place)

            yield f"{word} {file} {name}", make
    rows = {
        "formula": "epoch,step\n=cmd|' /C touch x'!A0,1\n",
        "nul": "epoch,step\n1\0,2\n",
        "long": "epoch," + "x" * 10**7 + "\n",
        "wide": ",".join(["a"] * 10**6) + "\n",
        "rows": "epoch,step\n" + "1,1\n" * 10**6,
        "talks": f"{TALKS},step\n1,2\n",
        "bytes": b"\xff\xfe",
        "empty": "",
        "quotes": 'epoch,"step\n1,2\n' * 1000,
        "nan": "epoch,elbo\nnan,inf\n",
        "future": "epoch,step\n999999999999,9\n",
        "negative": "epoch\n-5\n",
        "words": "epoch\nx\n",
    }
    for name, text in rows.items():
        for word in ("info", "resume"):

            def metrics(place: Place, word: str = word, text: Any = text) -> Act:
                place.run()
                place.file("run/metrics.csv", text)
                return verb(word, place.work / "run", place)

            yield f"{word} metrics.csv {name}", metrics


TABLES: dict[str, Any] = {
    "formula": "a,b\n=1+1,2\n=cmd|'/C touch x'!A0,3\n",
    "dde": "=HYPERLINK(1),b\n1,2\n3,4\n",
    "at": "@SUM(1),+1\n1,2\n3,4\n",
    "nul": "a,b\n1\0,2\n3,4\n",
    "nuls": "\0" * 10**6,
    "empty": "",
    "newlines": "\n" * 10**6,
    "carriages": "\r" * 10**5,
    "commas": "," * 10**6,
    "quotes": '"' * 10**5,
    "one quote": 'a,b\n"1,2\n' + "3,4\n" * 10**4,
    "long line": "a,b\n" + "1" * 10**7 + ",2\n3,4\n",
    "long cell": "a,b\n" + "x" * 10**7 + ",2\n3,4\n",
    "wide": ",".join(map(str, range(50_000))) + "\n" + ",".join(["1"] * 50_000) + "\n",
    "no end": "a,b\n1,2",
    "header": "a,b\n",
    "ragged": "a,b\n1\n2,3,4\n",
    "growing": "".join("1," * k + "\n" for k in range(1000)),
    "bom": "\ufeffa,b\n1,2\n3,4\n",
    "utf16": "a,b\n1,2\n3,4\n".encode("utf-16"),
    "utf32": "a,b\n1,2\n".encode("utf-32"),
    "utf7": b"+AGE-,b\n1,2\n3,4\n",
    "bytes": bytes(range(256)) * 99,
    "latin": b"a\xe9,b\n1,2\n3,4\n",
    "escapes": f"{TALKS},b\n1,2\n3,4\n",
    "escaped cells": f"a,b\n{TALKS},2\nx,4\n" * 9,
    "bidi": "a\u202e,b\n1,2\n3,4\n",
    "names": "a,a,a,\n1,2,3,4\n5,6,7,8\n",
    "dunder": "__class__,__init__\n1,2\n3,4\n",
    "unnamed": "Unnamed: 0,x\n0,1\n1,2\n",
    "huge": "a,b\n1e999,2\n3,4\n",
    "digits": "a,b\n" + "9" * 5000 + ",2\n3,4\n",
    "nan": "a,b\nnan,nan\nnan,nan\n",
    "hex": "a,b\n0x10,1_0\n0b1,2\n",
    "arabic": "a,b\n\u0661,\u0662\n\u0663,\u0664\n",
    "dates": "a,b\n9999-99-99,1\n0000-00-00,2\n",
    "far dates": "a,b\n1000000-01-01,1\n-5000-01-01,2\n",
    "infinite": "a,b\ninf,-inf\n1,2\n",
    "mixed": "a,b\n1,x\n2020-01-01,True\n",
    "levels": "a,b\n" + "".join(f"x{k},{k}\n" for k in range(20_000)),
    "spaces": " " * 10**6 + "\n1\n",
    "tabs": "a\tb\n1\t2\n3\t4\n",
    "semicolons": "a;b\n1,5;2\n3;4\n",
    "comments": "#" * 10**6 + "\na,b\n1,2\n",
    "html": "<script>alert(1)</script>,b\n1,2\n3,4\n",
    "xml": f"{READS}\n<a>&a;</a>\n",
    "json": '[{"a": 1}]',
    "gzip": packed(b"a,b\n1,2\n3,4\n", 0),
    "zip": b"PK\x03\x04" + bytes(99),
    "parquet": b"PAR1" + bytes(99) + b"PAR1",
    "numpy": npy_head("(2, 2)") + bytes(16),
    "shell": "#!/bin/sh\ntouch x\n",
    "regex": "a" * 50_000 + ",b\n" + "1.1.1.1," * 5_000 + "\n",
    "decimal": "a;b\n1.000.000,5;2\n3;4\n",
    "eof": "a,b\n1,2\n\x1a3,4\n",
    "backslash": 'a,b\n"\\",2\n3,"4\\"\n',
    "vertical": "a\x0bb,c\x0cd\n1,2\n3,4\n",
    "lines": "a\u2028b,c\n1,2\n3,4\n",
}


@kind("tables")
def tables() -> Iterator[tuple[str, Make]]:
    for name, text in TABLES.items():
        yield f"{name} .csv", loads("x.csv", text)
        if len(text) < 10**6:
            yield f"{name} .tsv", loads("x.tsv", text)
            yield (
                f"{name} fit",
                lambda place, t=text: command(
                    "fit", "--data", place.file("x.csv", t), "--out", place.work / "new", *BRIEF
                ),
            )


# --- names --------------------------------------------------------------------------------------

NAMES = {
    "talks": f"a{TALKS}",
    "newline": "a\nb",
    "carriage": "a\rpyrovae: done",
    "surrogate": "a\udcff",
    "bidi": "a\u202ecsv",
    "zero width": "a\u200b",
    "dash": "--force",
    "minus": "-",
    "spaces": "   ",
    "quote": "a'\"b",
    "shell": "$(touch x)`touch x`;touch x",
    "glob": "*?[a]",
    "percent": "%s%n{0}",
    "tilde": "~root",
    "long": "x" * 200,
    "dots": "...",
    "colon": "http:",
    "unicode": "\U0001f600\u0301",
}


@kind("names")
def named() -> Iterator[tuple[str, Make]]:
    for name, text in NAMES.items():

        def missing(place: Place, text: str = text) -> Act:
            return command("fit", "--data", f"./{text}.npy", "--out", place.work / "new", *BRIEF)

        yield f"missing {name}", missing

        def there(place: Place, text: str = text) -> Act:
            shutil.copy(place.root / "x.npy", place.work / f"{text}.npy")
            return command("info", "--data", f"./{text}.npy")

        yield f"data {name}", there

        def run(place: Place, text: str = text) -> Act:
            place.run().rename(place.work / text)
            return command("evaluate", f"./{text}", "--num-particles", 2, "--device", "cpu")

        yield f"run {name}", run

        def broken(place: Place, text: str = text) -> Act:
            place.run().rename(place.work / text)
            (place.work / text / MODEL).write_bytes(b"x")
            return command("evaluate", f"./{text}", "--num-particles", 2, "--device", "cpu")

        yield f"broken {name}", broken

        def column(place: Place, text: str = text) -> Act:
            frame = pd.DataFrame({text: np.arange(30.0) ** 1.5, "b": np.arange(30.0)[::-1]})
            held = frame.to_csv(index=False).encode("utf-8", "surrogateescape")
            return command("info", "--data", place.file("x.csv", held))

        yield f"column {name}", column

        def classes(place: Place, text: str = text) -> Act:
            for folder in (text, "b"):
                (place.work / "images" / folder).mkdir(parents=True)
                for k in range(3):
                    file = place.work / "images" / folder / f"{k}.png"
                    Image.fromarray(np.full((8, 8), 90 * k, "u1")).save(file)
            return command("info", "--data", place.work / "images")

        yield f"class {name}", classes
        yield f"word {name}", lambda place, t=text: command("fit", f"--prior={t}", *BRIEF)
        yield f"verb {name}", lambda place, t=text: command(t)


# --- objects ------------------------------------------------------------------------------------


class Raises:
    def __array__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError(f"no\narray{TALKS}")

    def __len__(self) -> int:
        return 4


class Endless:
    def __getitem__(self, key: Any) -> int:
        return 1

    def __len__(self) -> int:
        return 10**15


class Grows:
    def __iter__(self) -> Iterator[int]:
        while True:
            yield 1


class Lies(Raises):
    shape, dtype, ndim = (10**9, 6), np.dtype("f4"), 2

    def __array__(self, *_: Any, **__: Any) -> Any:
        return np.zeros((2, 6), "f4")


class Itself:
    def __array__(self, *_: Any, **__: Any) -> Any:
        return self


class Talks:
    def __repr__(self) -> str:
        return TALKS * 1000

    __str__ = __repr__


class Fails:
    def __repr__(self) -> str:
        raise RuntimeError("no words")

    __str__ = __repr__


class Framed(pd.DataFrame):
    def __getitem__(self, key: Any) -> Any:
        raise RuntimeError("no column")


class Subclass(np.ndarray):
    def __array_function__(self, *_: Any) -> Any:
        raise RuntimeError("no function")


def cyclic() -> list[Any]:
    held: list[Any] = [0.0]
    held.append(held)
    return held


def nested(depth: int) -> list[Any]:
    held: list[Any] = [1.0]
    for _ in range(depth):
        held = [held]
    return held


def unsound(**parts: Any) -> Any:
    matrix = scipy.sparse.random(20, 6, 0.5, "csr", random_state=0, dtype="f4")
    for name, value in parts.items():
        setattr(matrix, name, value)
    return matrix


def broadcast(*shape: int) -> np.ndarray:
    return np.broadcast_to(np.zeros(1, "f4"), shape)


OBJECTS: dict[str, Callable[[], Any]] = {
    "raises": Raises,
    "endless": Endless,
    "grows": Grows,
    "lies": Lies,
    "itself": Itself,
    "talks": Talks,
    "fails": Fails,
    "cyclic": cyclic,
    "deep": lambda: nested(5000),
    "generator": lambda: iter(int, 1),
    "wide rows": lambda: broadcast(10**12, 6),
    "wide columns": lambda: broadcast(20, 10**12),
    "many axes": lambda: broadcast(*(1,) * 32, 6),
    "empty": lambda: np.zeros((0, 6), "f4"),
    "no columns": lambda: np.zeros((20, 0), "f4"),
    "subclass": lambda: np.zeros((20, 6), "f4").view(Subclass),
    "objects": lambda: np.array([[Fails()] * 6] * 20),
    "talking objects": lambda: np.array([[Talks()] * 6] * 20),
    "words": lambda: np.array([[TALKS] * 6] * 20),
    "void": lambda: np.zeros(20, "V6"),
    "record": lambda: np.zeros(20, "f4,i8,U9"),
    "dates": lambda: np.zeros((20, 6), "M8[s]"),
    "big integers": lambda: [[10**400] * 6] * 20,
    "complex": lambda: np.zeros((20, 6), "c8"),
    "masked": lambda: np.ma.masked_all((20, 6)),
    "all nan": lambda: np.full((20, 6), np.nan, "f4"),
    "infinite": lambda: np.full((20, 6), np.inf, "f4"),
    "signalling": lambda: np.full((20, 6), 0x7FA00000, "u4").view("f4"),
    "meta": lambda: torch.empty(10**12, 6, device="meta"),
    "expanded": lambda: torch.zeros(1, 6).expand(10**10, 6),
    "torch sparse": lambda: torch.sparse_coo_tensor([[0], [0]], [1.0], (10**12, 6)),
    "torch sparse wide": lambda: torch.sparse_coo_tensor([[0], [0]], [1.0], (20, 10**12)),
    "csr rows": lambda: scipy.sparse.csr_matrix((10**4, 6), dtype="f4"),
    "csr columns": lambda: scipy.sparse.csr_matrix((20, 10**9), dtype="f4"),
    "coo": lambda: scipy.sparse.coo_matrix((10**9, 10**9), dtype="f4"),
    "indices far": lambda: unsound(indices=np.full(60, 10**6, "i4")),
    "indices negative": lambda: unsound(indices=np.full(60, -5, "i4")),
    "indptr far": lambda: unsound(indptr=np.arange(0, 21 * 100, 100, "i4")),
    "indptr back": lambda: unsound(indptr=np.arange(20, -1, -1, "i4")),
    "indptr short": lambda: unsound(indptr=np.zeros(3, "i4")),
    "data short": lambda: unsound(data=np.zeros(1, "f4")),
    "data objects": lambda: unsound(data=np.array([Fails()] * 60)),
    "frame objects": lambda: pd.DataFrame({"a": [Fails()] * 20, "b": range(20)}),
    "frame talking": lambda: pd.DataFrame({"a": [Talks()] * 20, "b": range(20)}),
    "frame arrays": lambda: pd.DataFrame({"a": [np.zeros(3)] * 20, "b": range(20)}),
    "frame raises": lambda: pd.DataFrame({"a": [Raises()] * 20, "b": range(20)}),
    "frame names": lambda: pd.DataFrame(
        np.random.default_rng(0).random((20, 2)), columns=[TALKS, "a\nb"]
    ),
    "frame odd names": lambda: pd.DataFrame(
        np.random.default_rng(0).random((20, 3)), columns=[None, 1.5, ("a", 1)]
    ),
    "frame same names": lambda: pd.DataFrame(
        np.random.default_rng(0).random((20, 2)), columns=["a", "a"]
    ),
    "frame levels": lambda: pd.DataFrame(
        np.zeros((20, 2)), columns=pd.MultiIndex.from_tuples([("a", 1), ("b", 2)])
    ),
    "frame getitem": lambda: Framed(np.random.default_rng(0).random((20, 2))),
    "frame empty": pd.DataFrame,
    "frame one": lambda: pd.DataFrame({"a": [1.0]}),
    "frame intervals": lambda: pd.DataFrame({"a": pd.interval_range(0, 20)}),
    "frame periods": lambda: pd.DataFrame({"a": pd.period_range("2000", periods=20)}),
    "frame zones": lambda: pd.DataFrame(
        {"a": pd.date_range("2000", periods=20, tz="UTC"), "b": range(20)}
    ),
    "frame spans": lambda: pd.DataFrame({"a": pd.to_timedelta(range(20), "h"), "b": range(20)}),
    "frame sparse": lambda: pd.DataFrame(
        {"a": pd.arrays.SparseArray([0.0] * 19 + [1.0]), "b": range(20)}
    ),
    "frame categories": lambda: pd.DataFrame(
        {"a": pd.Categorical([TALKS, "b"] * 10), "b": range(20)}
    ),
    "frame bytes": lambda: pd.DataFrame({"a": [b"\xff"] * 20, "b": range(20)}),
    "frame decimals": lambda: pd.DataFrame(
        {"a": [__import__("decimal").Decimal("NaN")] * 20, "b": range(20)}
    ),
    "frame lists": lambda: pd.DataFrame({"a": [[1, 2]] * 20, "b": [{}] * 20}),
    "frame cyclic": lambda: pd.DataFrame({"a": [cyclic()] * 20, "b": range(20)}),
    "frame wide": lambda: pd.DataFrame(np.zeros((3, 20_000))),
    "frame big": lambda: pd.DataFrame({"a": [10**30] * 20, "b": range(20)}),
    "series": lambda: pd.Series([Fails()] * 20),
    "index": lambda: pd.Index(range(20)),
    "dict": lambda: {TALKS: torch.zeros(20, 6)},
    "dict of fails": lambda: {"x": Fails()},
    "bytes": lambda: b"x" * 10**6,
    "path": lambda: Path("/dev/zero"),
    "string": lambda: TALKS,
    "class": lambda: Raises,
    "tuple": lambda: (np.zeros((20, 6)), Fails()),
}


@kind("objects")
def objects() -> Iterator[tuple[str, Make]]:
    for name, of in OBJECTS.items():
        yield (
            f"fit {name}",
            lambda place, of=of: (
                lambda: pv.fit(
                    pair(),
                    of(),
                    epochs=1,
                    batch_size=10,
                    progress=False,
                    compile=False,
                    device="cpu",
                )
            ),
        )
        yield f"encode {name}", lambda place, of=of: lambda: pv.encode(pair(), of())
        if name.startswith(("frame", "dict")):
            yield f"table {name}", lambda place, of=of: lambda: pv.data.table(of())


# --- checkpoints --------------------------------------------------------------------------------


@kind("checkpoints")
def checkpoints() -> Iterator[tuple[str, Make]]:
    from pyrovae import files

    for k, evil in enumerate(EVIL):
        for where in ("state", "anywhere"):

            def make(place: Place, k: int = k, evil: Any = evil, where: str = where) -> Act:
                file = place.run() / LAST
                tensors, notes = files.read_tensors(file)
                if where == "state":
                    notes["state"] = evil
                else:
                    tree, key = random.Random(k).choice(list(spots(notes["state"])))
                    tree[key] = evil
                files.write_tensors(file, tensors, notes)
                file.with_name("before.safetensors").unlink(missing_ok=True)
                return verb("resume", place.work / "run", place)

            yield f"{where} {str(evil)[:40]!r}", make

    def own_tensors(place: Place) -> Act:
        save_file({"a": torch.zeros(3)}, place.run() / LAST)
        return verb("resume", place.work / "run", place)

    yield "of others", own_tensors


def summary(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The counts."""
    count: dict[str, int] = {"cases": len(verdicts)}
    for name in ("refused", "taken"):
        count[name] = sum(v.outcome == name and not v.faults for v in verdicts)
    for name in (
        *("executed", "written or removed outside", "hung", "memory", "internal", "crashed"),
        *("traceback", "escapes", "no sentence"),
    ):
        count[name] = sum(any(f.startswith(name) for f in v.faults) for v in verdicts)
    return count
