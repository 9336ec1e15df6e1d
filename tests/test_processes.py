"""Several processes: what they exchange, and how one that is lost ends the others."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from pyrovae import processes
from pyrovae.errors import UsageError
from pyrovae.processes import Processes

CPU = torch.device("cpu")
BEGIN = """
import signal, sys, time, torch, torch.distributed as dist
from pyrovae import errors, processes
from pyrovae.processes import Processes
processes.BEAT, processes.SILENCE, processes.GRACE = 0.2, 3.0, 1.0
CPU = torch.device("cpu")
"""


def start(program: str, size: int = 2) -> list[subprocess.Popen[str]]:
    """The program in every process, as torchrun starts it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    shared = os.environ | {"WORLD_SIZE": str(size), "MASTER_ADDR": "localhost"}
    shared |= {"MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", BEGIN + textwrap.dedent(program)],
            env=shared | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def end(started: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """(exit status, stdout, stderr) of each."""
    try:
        return [(p.returncode, out, err) for p in started for out, err in [p.communicate(None, 60)]]
    finally:
        for process in started:
            process.kill()
            process.wait()


def agreeable(ends: list[tuple[int, str, str]]) -> list[str]:
    assert not any(code for code, _, _ in ends), ends
    assert not any("Traceback" in err or "pyrovae:" in err for _, _, err in ends), ends
    return [out for _, out, _ in ends]


def test_alone() -> None:
    with Processes.together(CPU) as alone:
        assert (alone.rank, alone.size, alone.first) == (0, 1, True)
        x = torch.tensor([1.0, 2.0])
        alone.sum([x])
        alone.same([x])
        alone.agree("batch_size", 3)
        rows = alone.gather(x)
        assert rows is not None and torch.equal(rows[0], x)
    assert x.tolist() == [1.0, 2.0]
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("size", [2, 3])
def test_exchange(size: int) -> None:
    program = """
    with Processes.together(CPU) as p:
        assert p.first == (p.rank == 0) and dist.is_initialized()
        torch.manual_seed(p.rank)
        x, k = torch.randn(7, 143, requires_grad=True), torch.full((), p.rank + 1)
        every = [torch.randn(7, 143, generator=torch.Generator().manual_seed(r))
                 for r in range(p.size)]
        y = x.detach().clone()[:, ::2].t()  # not contiguous
        for _ in range(2):  # the buffer's second use
            p.sum([part := x.detach().clone(), count := k.clone(), y, torch.empty(0)])
        torch.testing.assert_close(part, sum(every))
        assert count == p.size * (p.size + 1) // 2
        print(part.double().sum().item().hex(), y.double().sum().item().hex())
        mask = torch.tensor([p.first, False])
        p.same([x, mask])
        assert torch.equal(x, every[0]) and mask.tolist() == [True, False]
        states = p.gather(torch.get_rng_state())
        assert (states is None) == (not p.first)
        if p.first:
            assert [state[0].item() for state in states] == list(range(p.size))
        p.agree("seed", 2**62)
        try:
            p.agree("batch_size", 64 if p.rank < 1 else 32.5)
        except errors.UsageError as error:
            assert "process 1 has 32.5, process 0 has 64" in str(error), error
        else:
            raise AssertionError
    assert not dist.is_initialized()
    """
    outs = agreeable(end(start(program, size)))
    assert len(set(outs)) == 1, outs  # the same bits everywhere


def test_leaving_one_by_one_alarms_nobody_and_meeting_again_works() -> None:
    program = """
    for again in range(3):
        with Processes.together(CPU) as p:
            p.sum([torch.ones(2)])
            time.sleep(3.5 * (again == p.rank))
        time.sleep(0.5 * (again == 2))
    """
    agreeable(end(start(program)))


def test_a_process_that_computes_is_not_lost() -> None:
    program = """
    with Processes.together(CPU) as p:
        until = time.monotonic() + 4 * p.rank
        while time.monotonic() < until:
            pass
        p.sum([torch.ones(2)])
    """
    agreeable(end(start(program)))


@pytest.mark.parametrize(
    ("how", "lost", "busy"),
    [
        (signal.SIGKILL, 0, True),
        (signal.SIGKILL, 1, False),
        (signal.SIGSTOP, 0, False),
        (signal.SIGSTOP, 1, True),
    ],
)
def test_a_lost_process_ends_the_others(how: signal.Signals, lost: int, busy: bool) -> None:
    program = f"""
    with Processes.together(CPU) as p:
        p.sum([torch.ones(2)])
        print(flush=True)
        if p.rank == {lost}:
            time.sleep(60)
        until = time.monotonic() + 60 * {busy}
        while time.monotonic() < until:
            torch.ones(1000).sum()
        p.sum([torch.ones(2)])
    """
    started = start(program)
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()
    started[lost].send_signal(how)
    survivor = started[1 - lost]
    try:
        _, err = survivor.communicate(timeout=30)
    finally:
        for process in started:
            process.kill()
            process.communicate()
    assert survivor.returncode == 1
    assert f"process {lost} of 2 is gone" in err and "continue with resume" in err, err


def test_the_reason_of_an_error_reaches_the_others() -> None:
    program = """
    with Processes.together(CPU) as p:
        if p.rank == 1:
            raise errors.UsageError("no such\\n file")
        p.sum([torch.ones(2)])
    """
    for rank, (code, _, err) in enumerate(end(start(program, 3))):
        assert code == 1
        reason = "no such" if rank == 1 else "process 1 of 3 stopped: UsageError: no such file"
        assert reason in err, err


def test_waiting_for_a_process_that_has_left_is_no_hang() -> None:
    program = """
    with Processes.together(CPU) as p:
        if p.rank == 1:
            p.sum([torch.ones(2)])
    time.sleep(3.0)
    """
    (first, _, _), (second, _, err) = end(start(program))
    assert (first, second) == (0, 1) and "process 0 has left" in err, err


def test_a_group_of_the_user_is_used_and_left_alone() -> None:
    program = """
    dist.init_process_group("gloo")
    for _ in range(2):
        with Processes.together(CPU) as p:
            p.sum([x := torch.ones(2)])
            assert x[0] == p.size == 2
            p.agree("epochs", 3)
    dist.all_reduce(x)
    assert x[0] == 4
    dist.destroy_process_group()
    """
    agreeable(end(start(program)))


def test_torchrun(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(BEGIN + "with Processes.together(CPU) as p: p.sum([torch.ones(2)])\n")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_an_environment_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not processes._launched()  # no address: another tool's variables
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(UsageError, match="WORLD_SIZE"), Processes.together(CPU):
        pass


def test_local_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert processes.local_device() == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert processes.local_device() == torch.device("cuda:1")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UsageError, match="--nproc-per-node 2"):
        processes.local_device()
    monkeypatch.delenv("LOCAL_RANK")
    assert processes.local_device() == torch.device("cuda")
