"""What a run must not lose, and what it must not touch: full disks, links, files that are none."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import uuid
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from test_trust import command, memory

import pyrovae as pv
from pyrovae import checkpoints, components, files, runs, sources
from pyrovae.callbacks import Callback, Run
from pyrovae.cli import fitting

X = torch.bernoulli(torch.full((64, 6), 0.3), generator=torch.Generator().manual_seed(0))
EPOCHS = 40  # whose rows take more than one block of a disk
CLOCKS = ("seconds", "images_per_second")
LEFT = f".last.safetensors.{'0' * 32}"  # what a process that was killed leaves of a checkpoint


def pair() -> pv.VAE:
    torch.manual_seed(0)
    small = pv.networks.MLP([8])
    return pv.VAE(
        (6,), 2, likelihood=pv.likelihoods.Bernoulli(small), guide=pv.guides.MeanField(small)
    )


def fit(out: Path | runs.Folder | None, *callbacks: Any, **settings: Any) -> pv.History:
    given: dict[str, Any] = {"epochs": EPOCHS, "batch_size": 32, "checkpoint_every": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        return pv.fit(
            pair(), X, out=out, callbacks=callbacks, compile=False, device="cpu", progress=False,
            **given | settings,
        )  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run to which nothing happened."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    fit(folder)
    return folder


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in CLOCKS} for row in csv.DictReader(file)]


def assert_same(folder: Path, whole: Path) -> None:
    ours, theirs = (load_file(each / "model.safetensors") for each in (folder, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert rows(folder) == rows(whole) and len(rows(whole)) == EPOCHS


class At(Callback):
    """Something that happens after an epoch, or at the end."""

    def __init__(self, **happens: Callable[[], object]) -> None:
        self.happens = happens

    def epoch(self, run: Run) -> None:
        self.happens.get(f"epoch_{run.epoch}", lambda: None)()

    def end(self, run: Run) -> None:
        self.happens.get("end", lambda: None)()


# --- a disk that is full, read-only or gone -----------------------------------------------------


class Disk:
    """A small file system of its own.

    ``full`` and ``read_only`` make it so, ``mend`` takes both back.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.filler = root, root / "filler"

    def full(self) -> None:
        with contextlib.suppress(OSError), self.filler.open("wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass

    def read_only(self) -> None:
        mount("-o", "remount,ro", self.root)

    def mend(self) -> None:
        mount("-o", "remount,rw", self.root)
        self.filler.unlink(missing_ok=True)


def mount(*words: object) -> None:
    subprocess.run(["mount", *map(str, words)], check=True, capture_output=True, text=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    root = tmp_path / "disk"
    root.mkdir()
    try:
        mount("-t", "tmpfs", "-o", "size=512k", "tmpfs", root)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no small disk can be mounted here: {getattr(error, 'stderr', error)}")
    try:
        yield Disk(root)
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)


@pytest.mark.parametrize("how", ["full", "read_only"])
def test_a_disk_that_fails_for_a_while_costs_nothing(disk: Disk, whole: Path, how: str) -> None:
    run = disk.root / "run"
    with pytest.warns(UserWarning, match="training goes on") as said:
        history = fit(run, At(epoch_2=getattr(disk, how), epoch_38=disk.mend))
    words = [str(warning.message) for warning in said]
    assert len([w for w in words if "metrics.csv" in w]) == 1, words
    assert len([w for w in words if "no checkpoint" in w]) == 1, words
    assert len(history.rows) == EPOCHS
    assert_same(run, whole)
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["last.safetensors"]


@pytest.mark.parametrize("how", ["full", "read_only"])
def test_a_disk_that_fails_to_the_end_is_told_and_resumed(
    disk: Disk, whole: Path, how: str
) -> None:
    run = disk.root / "run"
    kept: list[bytes] = []

    def breaks() -> None:
        kept.append((run / "checkpoints" / "last.safetensors").read_bytes())
        getattr(disk, how)()

    with (
        pytest.warns(UserWarning, match="training goes on"),
        pytest.raises(pv.UsageError, match="training has ended, and what it made"),
    ):
        fit(run, At(epoch_20=breaks, end=getattr(disk, how)))
    there = run / "checkpoints"
    found = [name for name in ("last", "before") if (there / f"{name}.safetensors").exists()]
    assert kept[0] in [(there / f"{name}.safetensors").read_bytes() for name in found]
    assert len(rows(run)) >= 20  # those that were written before
    disk.mend()
    fit(run, resume=True)
    assert_same(run, whole)


class Broken:
    """No file can be opened to write it, for as long as it is ``broken``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
        self.broken = False
        handle, stream = os.open, io.open

        def opened(path: Any, flags: int, *rest: Any, **more: Any) -> int:
            if self.broken and flags & (os.O_WRONLY | os.O_RDWR):
                raise OSError(code, os.strerror(code))
            return handle(path, flags, *rest, **more)

        def streamed(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
            if self.broken and not isinstance(file, int) and not mode.startswith("r"):
                raise OSError(code, os.strerror(code))
            return stream(file, mode, *rest, **more)

        monkeypatch.setattr(os, "open", opened)
        monkeypatch.setattr(io, "open", streamed)

    def set(self, broken: bool) -> Callable[[], None]:
        return lambda: setattr(self, "broken", broken)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_errors_of_the_system_do_not_end_training(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    broken = Broken(monkeypatch, code)
    with pytest.warns(UserWarning, match="training goes on") as said:
        fit(tmp_path / "run", At(epoch_5=broken.set(True), epoch_9=broken.set(False)))
    words = [str(warning.message) for warning in said]
    assert len(words) == 2 and all(os.strerror(code) in w for w in words), words
    assert_same(tmp_path / "run", whole)


def test_what_stops_a_run_is_told_before_what_cannot_be_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Broken(monkeypatch, errno.ENOSPC)

    def fails() -> None:
        broken.broken = True
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fit(tmp_path / "run", At(epoch_2=fails))


def test_a_row_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, write = runs.Folder(tmp_path), os.write
    folder.append({"epoch": 1, "loss": 0.5})
    assert [row["epoch"] for row in rows(tmp_path)] == ["1"]
    before = (tmp_path / "metrics.csv").read_bytes()

    def half(handle: int, content: Any) -> int:
        if len(content) < 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, content[:4])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(pv.UsageError, match="No space left"):
        folder.append({"epoch": 2, "loss": 0.25})
    assert (tmp_path / "metrics.csv").read_bytes() == before
    monkeypatch.setattr(os, "write", write)
    folder.append({"epoch": 3, "loss": 0.125})
    assert [row["epoch"] for row in rows(tmp_path)] == ["1", "2", "3"]


def test_a_folder_that_is_deleted_is_made_again(tmp_path: Path, whole: Path) -> None:
    run = tmp_path / "run"
    folder = runs.Folder.prepare(run, config={"seed": 3}, about={"data": "x"})
    with pytest.warns(UserWarning, match="is gone") as said:
        fit(folder, At(epoch_5=lambda: shutil.rmtree(run)), checkpoint_every=1000)
    assert ["is gone" in str(warning.message) for warning in said] == [True]
    assert_same(run, whole)
    assert (run / "config.yaml").read_text() == "seed: 3\n"
    assert json.loads((run / "data.json").read_text()) == {"data": "x"}
    assert (run / "checkpoints" / "last.safetensors").exists()


def test_rows_that_are_taken_away_are_told_again(tmp_path: Path, whole: Path) -> None:
    metrics = tmp_path / "run" / "metrics.csv"
    fit(
        tmp_path / "run",
        At(epoch_3=metrics.unlink, epoch_7=lambda: metrics.write_text("mine\n")),
    )
    assert_same(tmp_path / "run", whole)


def test_a_run_with_nowhere_to_write_is_told_on_the_command_line(
    disk: Disk,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The numbers of a run are printed, whatever becomes of its files."""
    np.save(tmp_path / "x.npy", X.numpy())
    brief = ("--epochs", 1, "--num-particles", 2, "--device", "cpu", "--quiet")
    sizes = ("--likelihood.network.hidden", "[8]", "--guide.network.hidden", "[8]")
    found_by = fitting.evaluated

    def evaluated(*given: Any, **more: Any) -> Any:
        found = found_by(*given, **more)
        disk.full()
        return found

    monkeypatch.setattr(fitting, "evaluated", evaluated)
    out = ("--out", disk.root / "run")
    assert command("fit", "--data", tmp_path / "x.npy", *out, *brief, *sizes) == 2
    told = capsys.readouterr()
    assert "ELBO" in told.out and "No space left" in told.err and "internal" not in told.err


# --- clocks -------------------------------------------------------------------------------------


def test_clocks_that_go_backwards_and_files_of_the_future(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, now = tmp_path / "run", [time.time() + 10**9]

    def backwards() -> float:
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr(time, "time", backwards)
    fit(run, epochs=7)
    for path in run.rglob("*"):
        os.utime(path, (2**32, 2**32))  # of the year 2106
    fit(run, resume=True)
    assert_same(run, whole)


# --- links --------------------------------------------------------------------------------------


def tree(root: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
    }


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder outside the run, with what must stay as it is."""
    outside = tmp_path / "home"
    outside.mkdir()
    for name in (".bashrc", ".netrc", LEFT, *map(os.path.basename, runs.OWN)):
        (outside / name).write_text("secret\n")
    return outside


@pytest.mark.parametrize("again", [{"resume": True}, {"force": True}], ids=str)
@pytest.mark.parametrize("link", ["checkpoints", "figures"])
def test_nothing_is_removed_behind_a_link(
    tmp_path: Path, home: Path, link: str, again: dict[str, bool]
) -> None:
    run, before = tmp_path / "run", tree(home)
    fit(run, epochs=1)
    shutil.rmtree(run / link, ignore_errors=True)
    (run / link).symlink_to(home)
    with (
        contextlib.suppress(pv.UsageError)
        if link == "figures"
        else pytest.raises(pv.UsageError, match="symbolic link")
    ):
        fit(run, epochs=2, **again)
    assert tree(home) == before


def test_only_what_the_library_made_is_tidied_away(tmp_path: Path) -> None:
    run = tmp_path / "run"
    fit(run, epochs=1)
    mine = [".bashrc", ".last.safetensors.swp", f".mine.{'0' * 32}", f"{LEFT}0", "mine.safetensors"]
    for name in (*mine, LEFT):
        (run / "checkpoints" / name).write_text("x")
    (run / f".metrics.csv.{'f' * 32}").write_text("x")
    fit(run, epochs=2, resume=True)
    assert sorted(tree(run / "checkpoints")) == sorted([*mine, "last.safetensors"])
    assert not list(run.glob(".*"))


NAMES = ("checkpoints", "checkpoints/last.safetensors", "metrics.csv", "model.safetensors")


def swaps(path: Path, outside: Path) -> None:
    """Put a link in the place of a file or folder."""
    with contextlib.suppress(OSError):
        path.rename(path.with_name(uuid.UUID(int=time.perf_counter_ns()).hex))
    with contextlib.suppress(OSError):
        path.symlink_to(outside if path.name == "checkpoints" else outside / path.name)


@pytest.mark.parametrize("moment", ["uuid.uuid4", "os.fsync", "os.replace", "os.open"])
@pytest.mark.parametrize("name", NAMES)
def test_a_link_that_is_swapped_in_while_a_file_is_written_leads_nowhere(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, name: str, moment: str
) -> None:
    run, before = tmp_path / "run", tree(home)
    folder = runs.Folder.prepare(run)
    folder.create()
    folder.checkpoints.write({"step": 0})
    pv.save(pair(), run)
    folder.append({"epoch": 1})
    room, attribute = moment.split(".")
    own = getattr({"uuid": uuid, "os": os}[room], attribute)

    def swapped(*given: Any, **more: Any) -> Any:
        monkeypatch.setattr(sys.modules[room], attribute, own)
        swaps(run / name, home)
        return own(*given, **more)

    for write in (
        lambda: folder.checkpoints.write({"step": 1}),
        lambda: pv.save(pair(), run),
        lambda: folder.append({"epoch": 2}),
        folder.checkpoints.back,
        folder.checkpoints.close,
        folder.create,
    ):
        monkeypatch.setattr(sys.modules[room], attribute, swapped)
        with contextlib.suppress(pv.UsageError):
            write()
        assert tree(home) == before


def test_links_that_come_and_go_lead_nowhere(tmp_path: Path, home: Path) -> None:
    run, before, stop = tmp_path / "run", tree(home), threading.Event()
    folder = runs.Folder.prepare(run)
    folder.create()
    real = run / "checkpoints"
    real.mkdir(exist_ok=True)

    def swapping() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):
                real.rename(run / "real")
                real.symlink_to(home)
                time.sleep(0)
                real.unlink()
                (run / "real").rename(real)

    thread = threading.Thread(target=swapping)
    thread.start()
    try:
        for step in range(300):
            with contextlib.suppress(pv.UsageError, OSError):
                folder.checkpoints.write({"step": step, "x": torch.zeros(100)})
            with contextlib.suppress(pv.UsageError, OSError):
                folder.checkpoints.close()
    finally:
        stop.set()
        thread.join()
    assert tree(home) == before


def test_a_run_is_read_through_no_link(tmp_path: Path, home: Path) -> None:
    run = tmp_path / "run"
    pv.save(pair(), home)
    run.mkdir()
    (run / "model.safetensors").symlink_to(home / "model.safetensors")
    with pytest.raises(pv.UsageError, match="symbolic link"):
        pv.load(run)
    assert isinstance(pv.load(run / "model.safetensors"), pv.VAE)  # the user's own words
    (tmp_path / "mine").symlink_to(home)
    assert isinstance(pv.load(tmp_path / "mine"), pv.VAE)  # the folder may be one


def test_where_folders_have_no_handles_links_are_looked_for(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, whole: Path
) -> None:
    monkeypatch.setattr(files, "HANDLES", False)
    fit(tmp_path / "run", epochs=3)
    fit(tmp_path / "run", resume=True)
    assert_same(tmp_path / "run", whole)
    before = tree(home)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "checkpoints").symlink_to(home)
    with pytest.raises(pv.UsageError, match="symbolic link"):
        fit(tmp_path / "run", resume=True)
    assert tree(home) == before


# --- other things than files --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "pipe"])
@pytest.mark.parametrize(
    "name", ["metrics.csv", "model.safetensors", "config.yaml", "data.json", *NAMES[:2]]
)
def test_what_is_no_file_is_told_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, kind: str
) -> None:
    np.save(tmp_path / "x.npy", X.numpy())
    run = tmp_path / "run"
    brief = ("--epochs", 1, "--num-particles", 2, "--device", "cpu", "--quiet")
    sizes = ("--likelihood.network.hidden", "[8]", "--guide.network.hidden", "[8]")
    made = ("fit", "--data", tmp_path / "x.npy", "--out", run, *brief, *sizes)
    assert command(*made) == 0
    for words in (
        ("info", run),
        ("evaluate", run, "--num-particles", 2),
        ("sample", run, "--n", 1),
        (*made, "--resume", "--epochs", 2),
        (*made, "--force"),
    ):
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if kind == "folder":
            (path / "x").mkdir(parents=True)
        else:
            os.mkfifo(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            capsys.readouterr()
            code = command(*words)
        told = capsys.readouterr().err
        assert code in (0, 2) and "internal" not in told and "Errno" not in told, told
        assert (code == 2) == ("pyrovae: error:" in told), told


def test_a_folder_in_the_place_of_a_file_is_one_sentence_in_python(tmp_path: Path) -> None:
    for name in ("metrics.csv", "checkpoints/last.safetensors", "model.safetensors"):
        run = tmp_path / name.replace("/", "-")
        (run / name / "x").mkdir(parents=True)
        with pytest.raises(pv.UsageError, match=f"{Path(name).name}.*(directory|permitted)"):
            fit(run, epochs=1, force=True)
        assert (run / name / "x").is_dir()


# --- files that are small to send and large to open ---------------------------------------------


def sparse(path: Path, size: int, head: bytes = b"") -> Path:
    with path.open("wb") as file:
        file.write(head)
    os.truncate(path, size)
    return path


def claims(nbytes: int, metadata: dict[str, str] | None = None) -> bytes:
    """The head of a safetensors file with one tensor of so many bytes."""
    tensor = {"dtype": "U8", "shape": [nbytes], "data_offsets": [0, nbytes]}
    given = {"__metadata__": metadata or {}, "x": tensor}
    text = json.dumps(given).encode()
    return len(text).to_bytes(8, "little") + text


def test_a_sparse_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    head = claims(3 * 10**8)
    file = sparse(tmp_path / "x.safetensors", len(head) + 3 * 10**8, head)
    with memory(100e6):
        for read in (files.read_tensors, files.read_notes, files.read_text):
            with pytest.raises(pv.UsageError, match="bytes on disk"):
                read(file)
        with pytest.raises(pv.UsageError, match="bytes on disk"):
            pv.load(file, into=pair())


def test_a_sparse_checkpoint_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """Of a terabyte: more than there is memory."""
    fit(tmp_path / "run", epochs=1)
    size = 10**12
    head = claims(size, {"pyrovae": '{"state": {"tensor": "x"}}'})
    sparse(tmp_path / "run" / checkpoints.LAST, len(head) + size, head)
    with memory(300e6), pytest.raises(pv.UsageError, match="no checkpoint of .* can be read"):
        fit(tmp_path / "run", resume=True)


def test_files_without_holes_are_read_whatever_their_size(tmp_path: Path) -> None:
    """Many small ones among what is held count for what they are."""
    x = np.zeros((30, 2**20), np.float32)  # 120 MB, of zeros that are on disk
    x[0, 0] = 1
    np.save(tmp_path / "x.npy", x)
    assert pv.data.load(tmp_path / "x.npy").train.event_shape == (2**20,)
    holes = np.lib.format.open_memmap(tmp_path / "y.npy", "w+", np.float32, (10, 2**20))
    holes[:] = 1
    holes.flush()
    assert pv.data.load(tmp_path / "y.npy").train.event_shape == (2**20,)


def test_a_sparse_array_is_streamed_or_refused(tmp_path: Path) -> None:
    np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (30, 2**20)).flush()
    with memory(60e6), pytest.raises(pv.UsageError, match=r"x\.npy.*bytes on disk.*--sparse"):
        pv.data.load(tmp_path / "x.npy")
    assert len(pv.data.load(tmp_path / "x.npy", stream=True).train) == 27


def packed(path: Path, name: str, head: bytes, nbytes: int) -> Path:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(name, "w", force_zip64=True) as file,
    ):
        file.write(head)
        for _ in range(nbytes // 2**20):
            file.write(bytes(2**20))
    return path


@pytest.mark.parametrize("suffix", [".npz", ".pt", ".xlsx"])
def test_an_archive_that_unpacks_to_much_more_is_refused(tmp_path: Path, suffix: str) -> None:
    head = io.BytesIO()
    shape = {"descr": "|u1", "fortran_order": False, "shape": (400, 2**20)}
    np.lib.format.write_array_header_1_0(head, shape)
    file = packed(tmp_path / f"x{suffix}", "x.npy", head.getvalue(), 400 * 2**20)
    with memory(100e6), pytest.raises(pv.UsageError, match=r"x\..*bytes on disk.*compression"):
        pv.data.load(file)


def test_what_compresses_well_is_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((10, 2**20), np.float32))
    assert pv.data.load(tmp_path / "x.npz").train.event_shape == (2**20,)


def test_a_table_that_unpacks_to_much_more_is_refused_or_streamed(tmp_path: Path) -> None:
    frame = pytest.importorskip("pandas").DataFrame(np.zeros((2 * 10**7, 2)), columns=["x", "y"])
    pytest.importorskip("pyarrow")
    frame.to_parquet(tmp_path / "x.parquet")
    with memory(100e6), pytest.raises(pv.UsageError, match="bytes on disk.*stream"):
        pv.data.load(tmp_path / "x.parquet")


@pytest.mark.parametrize("groups", [1, 4])
def test_long_texts_that_stand_once_for_many_rows_are_refused(groups: int, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"a": ["x" * 10**6] * 400, "b": np.arange(400.0)})
    frame.to_parquet(tmp_path / "x.parquet", row_group_size=400 // groups)
    with memory(100e6), pytest.raises(pv.UsageError, match="bytes on disk.*long texts"):
        pv.data.load(tmp_path / "x.parquet")
    levels = ["a" * 500, "b" * 500, None]  # as many bytes as are no harm, among them gaps
    frame = pd.DataFrame({"a": levels * 10_000, "b": np.random.randn(30_000)})
    frame.to_parquet(tmp_path / "y.parquet", row_group_size=30_000 // groups)
    assert pv.data.table(tmp_path / "y.parquet").schema.columns[0].kind == "category"
    many = [f"{k % 50:0400}" for k in range(300_000)]  # measured, and of not so many times the file
    frame = pd.DataFrame({"a": many, "b": np.random.randn(300_000)})
    frame.to_parquet(tmp_path / "z.parquet")
    assert len(pv.data.table(tmp_path / "z.parquet").schema.columns[0].levels) == 50


def test_a_picture_that_unpacks_to_much_more_is_refused(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (6000, 6000)).save(tmp_path / "x.png")
    with memory(60e6), pytest.raises(pv.UsageError, match=r"x\.png.*bytes on disk"):
        pv.data.load(tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        {"class_path": "MLP", "init_args": {"hidden": [1] * 50_000}},
        {"class_path": "GatedMLP", "init_args": {"hidden": [1] * 50_000}},
        {"class_path": "ConvNet", "init_args": {"channels": [1] * 50_000}},
        {"class_path": "ResNet", "init_args": {"channels": [1] * 50_000}},
    ],
    ids=lambda arguments: arguments["class_path"],
)
def test_networks_of_ten_thousands_of_layers_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(pv.UsageError, match="at most 1,000"):
        components.construct(arguments, "network")
    for part in ("prior", "guide"):
        flow = {"class_path": "Flow", "init_args": {"transforms": 50_000}}
        with pytest.raises(pv.UsageError, match="at most 1000"):
            components.construct(flow, part)


def test_tensors_are_written_as_others_read_them(tmp_path: Path) -> None:
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2]
    kinds += [torch.int64, torch.int8, torch.uint8, torch.uint16, torch.bool, torch.complex64]
    given = {f"x{i}": torch.arange(6.0).reshape(2, 3).t().to(kind) for i, kind in enumerate(kinds)}
    given |= {"none": torch.zeros(0, 3), "one": torch.tensor(3.0), "häh": torch.ones(3)}
    given["shared"] = given["x1"]
    files.write_tensors(tmp_path / "x.safetensors", given, {"a": 1})
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == given.keys()
    for name, tensor in given.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        ours, theirs = (t.contiguous().reshape(-1).view(torch.uint8) for t in (tensor, found[name]))
        assert torch.equal(ours, theirs)
    with pytest.raises(pv.UsageError, match="complex128"):
        files.write_tensors(tmp_path / "x.safetensors", {"x": torch.ones(1).to(torch.cdouble)}, {})


# --- what a file may ask for --------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["out: {made}", "out: {made}\nresume: true", "resume: true", "force: true", "allow: [os]"],
)
def test_what_writes_resumes_or_trusts_is_said_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "x.npy", X.numpy())
    made, name = tmp_path / "made", text.split(":")[0]
    fit(made, epochs=1)
    before = tree(tmp_path)
    config = tmp_path / "c.yaml"
    config.write_text(text.format(made=made) + f"\ndata: {tmp_path / 'x.npy'}\nepochs: 2\n")
    assert command("fit", "--config", config) == 2
    assert f"--{name} alone" in capsys.readouterr().err
    config.unlink()
    assert tree(tmp_path) == before


@pytest.mark.parametrize("data", ["~", "{home}", "{home}/.."])
def test_a_file_does_not_have_a_home_walked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: str
) -> None:
    away = tmp_path / "away"
    away.mkdir()
    np.save(away / "x.npy", X.numpy())
    brief = ("--epochs", 1, "--num-particles", 2, "--device", "cpu", "--quiet")
    assert command("fit", "--data", away / "x.npy", "--out", away / "run", *brief) == 0
    home = tmp_path / "people" / "me"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(Path, "rglob", lambda *_: pytest.fail("it is walked"))
    config = away / "run" / "config.yaml"
    config.write_text(f"data: '{data.format(home=home)}'\n")
    for words in (("evaluate", away / "run"), ("fit", "--config", config)):
        assert command(*words) == 2
        assert "names a home or a folder around one" in capsys.readouterr().err


def test_a_folder_is_walked_as_long_as_it_may_be_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "OTHERS", 20, raising=False)
    for number in range(40):
        (tmp_path / f"{number}.txt").touch()
    for read in (pv.data.load, pv.data.digest):
        with pytest.raises(pv.UsageError, match="no folder of images"):
            read(tmp_path)
