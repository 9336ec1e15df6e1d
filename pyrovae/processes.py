"""Training on several processes: what they exchange, and what ends them when one is lost."""

from __future__ import annotations

import functools
import hmac
import itertools
import os
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor

from pyrovae.errors import UsageError

__all__ = ["Lost", "Processes", "local_device"]

BEAT = 2.0  # seconds between two signs of life
SILENCE = 20.0  # seconds without one after which a process counts as gone
GRACE = 5.0  # seconds in which training may find out by itself and end in good order
STOPPED_GRACE = 60.0  # the same after an error elsewhere: this process may be saving its run

_calls = itertools.count()


class Lost(RuntimeError):
    """Another process is gone, has stopped by an error, or does not answer."""


def local_device() -> torch.device:
    """The GPU of this process under ``torchrun``, CUDA's own choice without it, or the CPU.

    Raises:
        UsageError: more processes than GPUs on this machine.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if not (local := os.environ.get("LOCAL_RANK", "")).isdecimal():
        return torch.device("cuda")
    if int(local) >= (there := torch.cuda.device_count()):
        raise UsageError(
            f"this machine has {there} GPUs and process {local} of it would need one more; use "
            f"torchrun --nproc-per-node {there}, or device='cpu'"
        )
    return torch.device("cuda", int(local))


class Processes:
    """The processes that train together, and this one among them.

    All of them call the same methods in the same order; alone, a method has nothing to do. When
    another process is lost, methods raise :class:`Lost`.

    >>> with Processes.together(torch.device("cpu")) as processes:
    ...     processes.rank, processes.size, processes.first
    (0, 1, True)
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size, self.first = rank, size, rank == 0
        self._watch: _Watch | None = None
        self._cpu: dist.ProcessGroup | None = None  # for CPU tensors; None: the default group
        self._flat: dict[tuple[object, ...], tuple[Tensor, list[Tensor]]] = {}

    @classmethod
    @contextmanager
    def together(cls, device: torch.device) -> Iterator[Processes]:
        """Meet the other processes, and leave them at the end.

        Uses the process group that is initialised already and leaves it as it is, else makes
        one as ``torchrun`` says in the environment, else is alone. Inside, the processes watch
        each other: when one is killed or frozen, the others raise :class:`Lost` in their next
        exchange, or end with a message on stderr and status 1 where they do not come to one.

        Raises:
            UsageError: processes that do not find each other.
        """
        given = dist.is_available() and dist.is_initialized()
        if not given and not _launched():
            yield cls()
            return
        with ExitStack() as stack:
            if device.type == "cuda":
                stack.enter_context(torch.cuda.device(device))
            processes = cls()
            stack.callback(processes._end)  # last: leaving the group may wait for the others
            try:
                if not given:
                    _initialise(device)
                    stack.callback(dist.destroy_process_group)
                processes.rank, processes.size = dist.get_rank(), dist.get_world_size()
                processes.first = processes.rank == 0
                if processes.size > 1:
                    if given:  # it may have no backend for CPU tensors
                        processes._cpu = cast(dist.ProcessGroup, dist.new_group(backend="gloo"))
                        stack.callback(processes._forget)
                    processes._watch = _Watch(processes, device)
            except (RuntimeError, OSError) as error:
                raise UsageError(
                    f"the processes do not find each other ({_first_line(error)}); start all of "
                    f"them, with the same MASTER_ADDR and MASTER_PORT, as torchrun does"
                ) from error
            with nullcontext() if processes._watch is None else processes._watch.watching():
                yield processes

    def _forget(self) -> None:
        dist.destroy_process_group(self._cpu)
        self._cpu = None  # its sockets stay open as long as it lives

    def _end(self) -> None:
        if self._watch is not None:
            self._watch.end()

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes, the same bits on every one."""
        if self.size > 1:
            for flat, parts, members in self._packed(tensors):
                torch._foreach_copy_(parts, members)
                with self._exchange():
                    dist.all_reduce(flat, group=self._group(flat))
                torch._foreach_copy_(members, parts)

    def same(self, tensors: Sequence[Tensor]) -> None:
        """Give every process the first one's values."""
        if self.size > 1:
            for flat, parts, members in self._packed(tensors):
                torch._foreach_copy_(parts, members)
                with self._exchange():
                    dist.broadcast(flat.view(torch.uint8), 0, group=self._group(flat))
                torch._foreach_copy_(members, parts)

    def gather(self, tensor: Tensor) -> list[Tensor] | None:
        """Every process's CPU tensor, all of one shape and dtype: at the first, else None."""
        if self.size == 1:
            return [tensor.clone()]
        mine = tensor.contiguous()
        rows = [torch.empty_like(mine) for _ in range(self.size)] if self.first else None
        with self._exchange():
            dist.gather(_bytes(mine), rows and [_bytes(row) for row in rows], 0, group=self._cpu)
        return rows

    def agree(self, name: str, value: float) -> None:
        """Check that the processes have one and the same value of something.

        Raises:
            UsageError: they have not; on every process.
        """
        if self.size == 1:
            return
        mine = _text(repr(value), 128)
        rows = [torch.empty_like(mine) for _ in range(self.size)]
        with self._exchange():
            dist.all_gather(rows, mine, group=self._cpu)
        for rank, row in enumerate(rows):
            if not torch.equal(row, rows[0]):
                raise UsageError(
                    f"{name} must be the same in every process: process {rank} has "
                    f"{_read(row)}, process 0 has {_read(rows[0])}"
                )

    def _group(self, flat: Tensor) -> dist.ProcessGroup | None:
        return self._cpu if flat.device.type == "cpu" else None

    def _packed(
        self, tensors: Sequence[Tensor]
    ) -> Iterator[tuple[Tensor, list[Tensor], list[Tensor]]]:
        """(flat buffer, its parts, the tensors that go there) per dtype and device."""
        kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for tensor in tensors:
            if tensor.numel():
                kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor.detach())
        for kind, members in kinds.items():
            key = (*kind, *(member.shape for member in members))
            if key not in self._flat:
                sizes = [member.numel() for member in members]
                flat = torch.empty(sum(sizes), dtype=kind[0], device=kind[1])
                parts = zip(flat.split(sizes), members, strict=True)
                self._flat[key] = flat, [part.view(member.shape) for part, member in parts]
            yield *self._flat[key], members

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        watch = self._watch
        assert watch is not None
        if watch.trouble is not None:
            raise watch.lost()
        watch.waiting = time.monotonic()
        try:
            yield
        except RuntimeError as error:  # gloo's, when a connection closes; nccl's
            raise watch.lost(error) from error
        finally:
            watch.waiting = None


class _Watch(threading.Thread):
    """Beats, and notices when the others no longer do.

    Its own sockets lead from the first process to each other one: a collective may block, or the
    program compile for minutes, while this thread goes on. A message is a line: empty for a beat,
    "left", or "gone" or "stopped" and what to tell the user.
    """

    def __init__(self, processes: Processes, device: torch.device) -> None:
        super().__init__(name="pyrovae-watch", daemon=True)
        self.rank, self.size = processes.rank, processes.size
        self.recovers = device.type == "cpu"  # a kernel of nccl may block the GPU for good
        self.peers = _connect(processes)
        self.unread = dict.fromkeys(self.peers, b"")
        self.sending = threading.Lock()
        self.trouble: str | None = None
        self.known = threading.Event()
        self.since = self.deadline = 0.0
        self.departed: int | None = None
        self.waiting: float | None = None  # since when in an exchange
        self.excused = self.ended = False
        self.asleep, self.alarm = socket.socketpair()

    def lost(self, error: Exception | None = None) -> Lost:
        """What to raise: the trouble, which may become known a moment after `error`."""
        self.known.wait(GRACE / 2)
        self.excused = self.recovers
        if self.trouble is None:
            why = _first_line(error) if self.departed is None else self._left()
            return Lost(f"process {self.rank} of {self.size} cannot go on: {why}")
        return Lost(self.trouble)

    def end(self) -> None:
        """Watch no more; a thread that outlives the interpreter may end the process badly."""
        self.ended = True
        self.alarm.send(b"!")
        if self.is_alive():
            self.join(GRACE)
        self.alarm.close()

    def _left(self) -> str:
        return f"process {self.departed} has left while process {self.rank} waits for it"

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch, and say how this process ends."""
        self.start()
        try:
            yield
        except BaseException as error:
            self.leave(error)
            raise
        self.leave()

    def leave(self, error: BaseException | None = None) -> None:
        """Say goodbye, so that nobody is alarmed, or why this process stops."""
        if error is None:
            self._tell("left")
        elif isinstance(error, Lost):
            self._tell(f"stopped {error}")
        else:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:1000]
            self._tell(f"stopped process {self.rank} of {self.size} stopped: {reason}")
        for peer in self.peers.values():
            with suppress(OSError):
                peer.shutdown(socket.SHUT_WR)

    def run(self) -> None:
        heard = dict.fromkeys(self.peers, time.monotonic())
        before, next_beat = time.monotonic(), 0.0
        with selectors.DefaultSelector() as selector:
            for rank, peer in self.peers.items():
                selector.register(peer, selectors.EVENT_READ, rank)
            selector.register(self.asleep, selectors.EVENT_READ)
            while not self.ended:
                ready = selector.select(BEAT / 2)
                now = time.monotonic()
                if now - before > SILENCE / 2:  # it was this process that stood still
                    heard = dict.fromkeys(heard, now)
                before = now
                for key, _ in ready:
                    if key.fileobj is not self.asleep:
                        self._listen(key, selector, heard, now)
                for rank in [rank for rank, last in heard.items() if now - last > SILENCE]:
                    self._gone(rank, f"no sign of life for {SILENCE:g} s")
                if now >= next_beat:
                    self._tell("")
                    next_beat = now + BEAT
                self._judge(now)
        self._close()

    def _close(self) -> None:
        for peer in (self.asleep, *self.peers.values()):
            peer.close()

    def _listen(
        self,
        key: selectors.SelectorKey,
        selector: selectors.BaseSelector,
        heard: dict[int, float],
        now: float,
    ) -> None:
        """Hear a process that speaks; no more, once it has said the last."""
        heard[key.data] = now
        if not self._read(key.data):
            selector.unregister(key.fileobj)
            del heard[key.data]

    def _read(self, rank: int) -> bool:
        """Heed what a process says; False when it will say no more."""
        try:
            data = self.peers[rank].recv(4096)
        except OSError:
            data = b""
        *lines, self.unread[rank] = (self.unread[rank] + data).split(b"\n")
        for line in filter(None, lines):
            if line == b"left":
                self.departed, self.since = rank, time.monotonic()
                return False
            self._heed(line.decode(errors="replace"))
        if not data:
            self._gone(rank, "killed, or cut off")
        return bool(data)

    def _gone(self, rank: int, how: str) -> None:
        self._heed(
            f"gone process {rank} of {self.size} is gone ({how}): training stopped; continue "
            f"with resume"
        )

    def _heed(self, message: str) -> None:
        """The first trouble is the cause of the rest."""
        if self.trouble is None:
            kind, _, self.trouble = message.partition(" ")
            self.since = time.monotonic()
            self.deadline = self.since + (GRACE if kind == "gone" else STOPPED_GRACE)
            self.known.set()
            if self.rank == 0:
                self._tell(message)

    def _judge(self, now: float) -> None:
        """End this process when it cannot go on and does not find out by itself."""
        waiting = self.waiting
        stuck = waiting is not None and now - max(waiting, self.since) > GRACE
        if self.trouble is None and self.departed is not None and stuck:
            self._heed(f"gone {self._left()}")
        elif self.trouble is not None and not self.excused and (stuck or now > self.deadline):
            os.write(2, f"\npyrovae: {self.trouble}\n".encode())
            os._exit(1)  # no exception reaches a thread that is blocked in a collective

    def _tell(self, message: str) -> None:
        with self.sending:
            for peer in self.peers.values():
                with suppress(OSError):  # reading tells whether it is gone
                    peer.sendall(message.encode() + b"\n")


def _connect(processes: Processes) -> dict[int, socket.socket]:
    """Sockets by rank: to all the others at the first process, to the first one elsewhere."""
    peers: dict[int, socket.socket] = {}
    if processes.first:
        with _listening() as server:
            token = secrets.token_hex(16)
            hosts = [os.environ.get("MASTER_ADDR", ""), socket.gethostname(), "localhost"]
            found = " ".join([token, str(server.getsockname()[1]), *filter(None, hosts)])
            dist.broadcast(_text(found, 1024), 0, group=processes._cpu)
            server.settimeout(SILENCE)
            while len(peers) < processes.size - 1:
                peer, _ = server.accept()
                peer.settimeout(SILENCE)
                with suppress(OSError):
                    hello = peer.recv(64).decode(errors="replace").split()
                    if len(hello) == 2 and hmac.compare_digest(hello[0].encode(), token.encode()):
                        peer.sendall(token.encode())
                        peers[int(hello[1])] = peer
                        continue
                peer.close()  # a stranger
    else:
        where = _text("", 1024)
        dist.broadcast(where, 0, group=processes._cpu)
        token, port, *hosts = _read(where).split()
        for host in hosts:
            with suppress(OSError):
                peer = socket.create_connection((host, int(port)), timeout=SILENCE / len(hosts))
                peer.sendall(f"{token} {processes.rank}".encode())
                if peer.recv(len(token)) == token.encode():
                    peers[0] = peer
                    break
                peer.close()  # another machine of that name
        if not peers:
            raise OSError(f"process 0 does not answer at {' or '.join(hosts)}, port {port}")
    for peer in peers.values():
        peer.settimeout(BEAT)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return peers


def _listening() -> socket.socket:
    if socket.has_dualstack_ipv6():
        with suppress(OSError):  # a kernel may have IPv6 and no address of it
            return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _launched() -> bool:
    """Whether the environment is that of one of several processes."""
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    rank, size, address, port = (os.environ.get(name, "") for name in names)
    if not (rank and size and address and port):
        return False
    if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
        raise UsageError(f"RANK={rank!r} and WORLD_SIZE={size!r} are not those of a process")
    return int(size) > 1


@functools.cache
def _store() -> dist.Store:
    """Where processes meet: kept, since it ends with the process that serves it."""
    return next(dist.rendezvous("env://"))[0]


def _initialise(device: torch.device) -> None:
    # what an earlier call has left in the store would lead the processes astray
    store = dist.PrefixStore(f"pyrovae/{next(_calls)}", _store())
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=timedelta(days=1),  # the watch ends what hangs, and compiling takes its time
        device_id=device if device.type == "cuda" and device.index is not None else None,
    )


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _text(text: str, size: int) -> Tensor:
    return torch.tensor(list(text.encode()[:size].ljust(size)), dtype=torch.uint8)


def _read(text: Tensor) -> str:
    return bytes(text.tolist()).decode().rstrip()


def _first_line(error: Exception | None) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
