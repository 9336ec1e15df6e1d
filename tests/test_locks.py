"""One writer per run folder: the others are told whose it is, and nothing is left of a dead one."""

from __future__ import annotations

import csv
import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_resume import Runner, X, results, vae

import pyrovae as pv
from pyrovae import locks
from pyrovae.callbacks import Callback
from pyrovae.callbacks import Run as Training

SETTINGS: dict[str, Any] = {"epochs": 2, "batch_size": 16, "progress": False, "device": "cpu"}


@pytest.fixture(scope="module")
def runner() -> Any:
    made = Runner()
    yield made
    made.process.kill()
    made.process.communicate()


def content(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def stopped(runner: Runner, out: Path, step: int) -> int:
    """The process of a run that stands still after a step."""
    child = runner.start(out=str(out), compile=False)
    while runner.line() != f"step {step}":
        pass
    os.kill(child, signal.SIGSTOP)
    while Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.01)
    return child


def ending(runner: Runner) -> list[str]:
    lines = [runner.line()]
    while not lines[-1].startswith("gone"):
        lines.append(runner.line())
    return lines


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc to see a process stand")
def test_a_run_that_is_written_is_left_alone(
    runner: Runner, tmp_path: Path, run: Callable[..., Any]
) -> None:
    """--resume and --force beside it, from Python and the command line, are refused with its
    process's number; it ends as if it had been alone. A killed one leaves no lock."""
    out, whole = tmp_path / "run", tmp_path / "whole"
    child = stopped(runner, out, 11)
    before = content(out)
    whose = rf"{out} is being written by process {child} since 20\d\d-\S+ \S+; wait for it"
    for settings in ({"resume": True}, {"force": True}):
        with pytest.raises(pv.UsageError, match=whose):
            pv.fit(vae(), X, out=out, **SETTINGS | settings)
    command = ["fit", "--epochs", "1", "--quiet", "--data", "digits", "--out", out]
    for option in ("--resume", "--force"):
        assert f"being written by process {child} since" in run(*command, option, code=2).err
    assert content(out) == before
    os.kill(child, signal.SIGCONT)
    assert ending(runner)[-2:] == ["done", "gone 0"]
    runner.run(out=str(whole), compile=False)
    (weights, rows), (theirs, their_rows) = results(out), results(whole)
    assert rows == their_rows and all(torch.equal(weights[n], theirs[n]) for n in theirs)
    assert not (out / locks.NAME).exists()

    killed = tmp_path / "killed"
    os.kill(stopped(runner, killed, 11), signal.SIGKILL)
    assert ending(runner)[-1] == "gone -9"
    assert runner.run(out=str(killed), compile=False)[-2:] == ["done", "gone 0"]
    weights, rows = results(killed)
    assert rows == their_rows and all(torch.equal(weights[n], theirs[n]) for n in theirs)


READER = """
import multiprocessing, os, sys, time, torch, pyrovae as pv
from torch.utils.data import DataLoader, Dataset

class Slow(Dataset):
    def __len__(self):
        return 64
    def __getitem__(self, i):
        if i == 40:
            print("worker", os.getpid(), flush=True)
            time.sleep(100)
        return torch.full((4,), 0.01 * i)

if __name__ == "__main__":
    loader = DataLoader(Slow(), 8, num_workers=1, multiprocessing_context=sys.argv[2])
    pair = pv.VAE((4,), 2, likelihood=pv.likelihoods.Normal(pv.networks.MLP([8])))
    pv.fit(pair, loader, out=sys.argv[1], device="cpu", compile=False, progress=False)
"""


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_that_outlive_a_killed_run_do_not_keep_it(tmp_path: Path, context: str) -> None:
    script, out = tmp_path / "reader.py", tmp_path / "run"
    script.write_text(READER)
    process = subprocess.Popen(
        [sys.executable, str(script), str(out), context], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    word, worker = process.stdout.readline().split()
    assert word == "worker"
    try:
        with (
            pytest.raises(pv.UsageError, match=f"by process {process.pid} since"),
            locks.writer(out),
        ):
            pass
        process.kill()
        process.wait()
        os.kill(int(worker), 0)  # it is still there
        with locks.writer(out):
            assert (out / locks.NAME).exists()
    finally:
        process.kill()
        os.kill(int(worker), signal.SIGKILL)
        process.communicate()


class Again(Callback):
    """Writes where its own run writes."""

    def step(self, run: Training) -> None:
        pv.fit(vae(), X, out=run.out, force=True, **SETTINGS)


def test_of_one_process_too(tmp_path: Path) -> None:
    out = tmp_path / "a" / "run"
    with pytest.raises(pv.UsageError, match="by this process, process [0-9]+ since"):
        pv.fit(vae(), X, out=out, callbacks=[Again()], **SETTINGS)
    pv.fit(vae(), X, out=out, force=True, **SETTINGS)  # let go of by the error
    assert not (out / locks.NAME).exists()
    with pytest.raises(pv.UsageError):
        pv.fit(vae(), X[:, :3], out=tmp_path / "b" / "c", **SETTINGS)
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]  # what is refused leaves nothing


def test_many_at_once_come_in_one_by_one(tmp_path: Path) -> None:
    inside, most, come, said = 0, 0, [], []
    start = threading.Barrier(8)

    def enter(number: int) -> None:
        nonlocal inside, most
        start.wait()
        while number not in come:
            try:
                with locks.writer(tmp_path / "a" / "b"):
                    inside += 1
                    most = max(most, inside)
                    time.sleep(0.001)
                    come.append(number)
                    inside -= 1
            except pv.UsageError as error:
                said.append(str(error))
                time.sleep(0.0005)

    threads = [threading.Thread(target=enter, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and sorted(come) == list(range(8))
    assert all("being written by" in words for words in said)
    assert not (tmp_path / "a" / "b" / locks.NAME).exists()


@pytest.mark.parametrize("reason", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_system_without_locks_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    def flock(handle: int, operation: int) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.warns(UserWarning, match=r"run cannot be locked \(.*nothing keeps") as told:
        pv.fit(vae(), X, out=tmp_path / "run", **SETTINGS)
    assert len(told) == 1 and (tmp_path / "run" / "model.safetensors").exists()


def test_what_a_stranger_put_in_the_lock_s_place(tmp_path: Path) -> None:
    """Nothing but a file of its own is written, opened or waited for."""
    out, other = tmp_path / "run", tmp_path / "other"
    other.write_text("mine")
    lock = out / locks.NAME
    for make in (
        lambda: lock.symlink_to(other),
        lambda: lock.symlink_to(tmp_path / "new"),
        lambda: lock.hardlink_to(other),
        lambda: os.mkfifo(lock),
        lambda: lock.mkdir(),
    ):
        out.mkdir()
        make()
        with pytest.raises(pv.UsageError, match="symbolic link|no file of a run's own|directory"):
            pv.fit(vae(), X, out=out, **SETTINGS)
        assert list(out.iterdir()) == [lock] and not (tmp_path / "new").exists()
        assert other.read_text() == "mine"
        lock.rmdir() if lock.is_dir() and not lock.is_symlink() else lock.unlink()
        out.rmdir()
    out.mkdir()
    lock.write_bytes(b"\xff process 1 on nowhere since ever\n" * 1000)  # left behind
    pv.fit(vae(), X, out=out, **SETTINGS)
    with (out / "metrics.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]


def test_evaluate_leaves_a_run_alone_that_is_made_anew(
    tmp_path: Path, run: Callable[..., Any]
) -> None:
    out = tmp_path / "run"
    few = [
        "--epochs",
        "1",
        "--num-particles",
        "10",
        "--quiet",
        "--likelihood.network.hidden",
        "[8]",
    ]
    run("fit", "--data", "digits", *few, "--out", out)
    file = out / "evaluation.json"
    before = file.read_bytes()
    with locks.writer(out):
        run("evaluate", out, "--num-particles", "20")
    assert file.read_bytes() == before
    run("evaluate", out, "--num-particles", "20")
    assert file.read_bytes() != before
