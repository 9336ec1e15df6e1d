"""A device that no machine need have, made of PyTorch's fake tensors and of numbers on the CPU.

``FakeTensorMode`` knows of every operation on which device its result lies, and raises where
tensors of two devices meet; but its tensors hold no numbers, so that code which reads one stops.
Here they do: every operation is done twice, by the fakes, which judge it, and on the CPU, whose
numbers they carry. So the code under test runs as it stands, ``.item()`` and NumPy included,
draws the noise that it draws on the CPU, and must come to the CPU's results.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_unflatten

CPU = torch.device("cpu")
UNJUDGED = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)
HERE = Path(__file__).parents[1]


class Elsewhere(TorchDispatchMode):
    """Under it, tensors can be made on any device and moved there; ``mixed`` lists where in the
    house two devices met, also where what was raised was caught."""

    def __init__(self) -> None:
        super().__init__()
        self.fakes = FakeTensorMode(allow_non_fake_inputs=True, allow_fallback_kernels=False)
        self.mixed: list[str] = []
        self.judging = False
        self.stack = ExitStack()

    def __enter__(self) -> Elsewhere:
        for each in self._reading():
            self.stack.enter_context(each)
        self.stack.enter_context(self.fakes)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.stack.close()

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        given, spec = tree_flatten((args, kwargs or {}))
        fakes = [self._carrying(a) if isinstance(a, Tensor) else a for a in given]
        _check_generators(fakes)
        self.judging = True
        try:
            judged = self._judged(func, *tree_unflatten(fakes, spec))
        finally:
            self.judging = False
        if func.namespace == "prim":  # asks on which device a tensor is
            return judged
        with _disable_current_modes():
            cpu_args, cpu_kwargs = tree_unflatten([_on_cpu(a) for a in fakes], spec)
            found, out_spec = tree_flatten(func(*cpu_args, **cpu_kwargs))
        own = {id(f): a for f, a in zip(fakes, given, strict=True) if isinstance(f, FakeTensor)}
        outs = [None] * len(found) if judged is None else tree_flatten(judged)[0]
        pairs = zip(outs, found, strict=True)
        made = [own.get(id(f)) if id(f) in own else self._result(f, v, fakes) for f, v in pairs]
        return tree_unflatten(made, out_spec)

    def _judged(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        """What fakes make of it; None where that depends on numbers, or they do not know it."""
        try:
            return func(*args, **kwargs)
        except UNJUDGED:
            self._check_devices(func, tree_flatten((args, kwargs))[0])
            return None
        except RuntimeError as error:
            if "same device" in str(error):
                self._note(str(error))
            raise

    def _check_devices(self, func: OpOverload, given: Sequence[object]) -> None:
        """The fakes' own rule for the operations that they do not judge. A mask or an index on the
        CPU may choose from a tensor elsewhere."""
        devices = {a.device for a in given if isinstance(a, FakeTensor) and a.dim()}
        if len(devices) > 1 and "index" not in func.__name__:
            message = f"{func}: expected all tensors to be on the same device, got {devices}"
            self._note(message)
            raise RuntimeError(message)

    def _note(self, message: str) -> None:
        frames = [f for f in traceback.extract_stack() if Path(f.filename).is_relative_to(HERE)]
        places = (f"{Path(f.filename).name}:{f.lineno}" for f in frames if f.filename != __file__)
        self.mixed.append(f"{message} ({' > '.join([*places][-4:])})")

    def _result(self, fake: Any, value: Any, given: Sequence[object]) -> Any:
        if not isinstance(value, Tensor):
            return value
        if fake is None:
            first = next(a for a in given if isinstance(a, FakeTensor))
            fake = torch.empty_strided(
                value.shape, value.stride(), dtype=value.dtype, device=first.device
            )
        elif fake.shape == value.shape and fake.stride() != value.stride():
            with _disable_current_modes():
                memory = {a.value.data_ptr() for a in given if isinstance(a, FakeTensor)}
                if value.data_ptr() not in memory:  # devices lay out new tensors in other ways
                    laid_out = torch.empty_strided(fake.shape, fake.stride(), dtype=value.dtype)
                    value = laid_out.copy_(value)
        fake.value = value
        return fake

    def _carrying(self, tensor: Tensor) -> FakeTensor:
        if isinstance(tensor, FakeTensor):
            return tensor
        fake: Any = self.fakes.from_tensor(tensor)
        with _disable_current_modes():
            fake.value = tensor.detach()
        return fake

    def _reading(self) -> Iterator[Any]:
        """What asks for numbers, memory or a driver without an operation."""

        def of_value(name: str) -> Any:
            usual = getattr(FakeTensor, name)

            def read(tensor: Any, *args: Any) -> Any:
                if self.judging or not hasattr(tensor, "value"):
                    return usual(tensor, *args)
                if name == "numpy" and tensor.device != CPU:
                    raise TypeError(f"can't convert a tensor on {tensor.device} to numpy")
                with _disable_current_modes():
                    return getattr(tensor.value, name)(*args)

            return patch.object(FakeTensor, name, read)

        yield from map(of_value, ("data_ptr", "untyped_storage", "numpy"))
        yield patch.object(torch, "Generator", _Generator)
        yield patch.object(torch.cuda, "mem_get_info", lambda device=None: (2**34, 2**34))
        yield torch.backends.cudnn.flags(enabled=False)  # its kernels have no twin on the CPU


_CLAIMED: dict[int, torch.device] = {}  # by address: operations are handed another wrapper


class _Generator(torch.Generator):
    """A generator that says where it draws, and draws on the CPU."""

    claimed: torch.device

    def __new__(cls, device: torch.device | str = CPU) -> _Generator:
        made = super().__new__(cls)
        made.claimed = _CLAIMED[made._cdata] = torch.device(device)
        return made

    @property
    def device(self) -> torch.device:
        return self.claimed


def _check_generators(given: Sequence[object]) -> None:
    """A generator draws on its own device alone."""
    for generator in given:
        if isinstance(generator, torch._C.Generator):
            asked = [a for a in given if isinstance(a, torch.device)]
            device = (asked or [a.device for a in given if isinstance(a, FakeTensor)] or [CPU])[0]
            claimed = _CLAIMED.get(generator._cdata, CPU)
            if claimed.type != device.type:
                raise RuntimeError(f"a generator on {claimed} cannot draw on {device}")


def _on_cpu(a: Any) -> Any:
    return a.value if isinstance(a, FakeTensor) else CPU if isinstance(a, torch.device) else a


def moved(module: nn.Module, device: str) -> nn.Module:
    """The module there: ``Module.to``, which changes tensors in place, as fakes cannot."""
    known: dict[int, Tensor] = {}
    for each in module.modules():
        for name, tensor in (*each._parameters.items(), *each._buffers.items()):
            if tensor is not None:
                if id(tensor) not in known:
                    there = tensor.detach().to(device)
                    same = isinstance(tensor, nn.Parameter)
                    known[id(tensor)] = nn.Parameter(there, tensor.requires_grad) if same else there
                setattr(each, name, known[id(tensor)])
    return module
