"""Batches as programs take them: tuples, lists, dicts and trees of them, from a flat tuple."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch.utils import _pytree as pytree

from pyrovae.errors import UsageError

__all__ = ["Layout"]


@dataclass(frozen=True)
class Layout:
    """How the leaves of a batch become the arguments of a program.

    Data serve a batch as a flat tuple, its first leaf a tensor x [B, *event]: the one called
    ``x`` in a dict, the first tensor elsewhere.

    Attributes:
        spec: the tree that the leaves make up, as torch knows it.
        order: of each leaf of the tree, its place in the flat tuple.
        names: the keys of a dict at the top.
        keywords: whether these are the names of a program's parameters.

    >>> import torch
    >>> layout, leaves = Layout.of({"mask": torch.ones(2), "x": torch.zeros(2, 3)})
    >>> [tuple(leaf.shape) for leaf in leaves]
    [(2, 3), (2,)]
    >>> arguments, named = layout.bound(inspect.signature(lambda x, mask: None)).call(leaves)
    >>> arguments, sorted(named)
    ((), ['mask', 'x'])
    >>> (batch,), _ = layout.bound(inspect.signature(lambda batch: None)).call(leaves)
    >>> list(batch)
    ['mask', 'x']
    """

    spec: pytree.TreeSpec
    order: tuple[int, ...]
    names: tuple[str, ...] = ()
    keywords: bool = False

    @classmethod
    def of(
        cls, tree: object, convert: Callable[[object], object] = lambda leaf: leaf
    ) -> tuple[Layout | None, tuple[Any, ...]]:
        """The layout of a batch, None where it is a tensor or a flat tuple that begins with one,
        and its leaves, converted. Whatever holds no tensor, such as a list of names, is one leaf.

        Raises:
            UsageError: there is no tensor or array in it.
        """
        if not isinstance(tree, tuple | list | dict):
            return None, (convert(tree),)
        found, spec = pytree.tree_flatten(tree, lambda node: node is not tree and _leaf(node))
        leaves = list(map(convert, found))
        first = _first(tree, found, leaves)
        if not first and _flat(tree, leaves):
            return None, tuple(leaves)
        if first is None:
            raise _no_tensor(tree, leaves)
        names = tuple(tree) if isinstance(tree, dict) else ()
        served = [leaves[first], *leaves[:first], *leaves[first + 1 :]]
        order = [0 if k == first else k + (k < first) for k in range(len(leaves))]
        return cls(spec, tuple(order), names), tuple(served)

    def call(self, leaves: Sequence[object]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments, by place and by keyword: a dict is one argument, unless ``keywords``."""
        tree = pytree.tree_unflatten([leaves[k] for k in self.order], self.spec)
        if self.keywords:
            return (), dict(tree)
        return ((tree,) if self.names else tuple(tree)), {}

    def bound(self, signature: inspect.Signature) -> Layout:
        """The layout for a program: a dict's values by keyword where its keys are the program's
        parameters, the dict as its one argument elsewhere.

        Raises:
            UsageError: the program takes the batch in neither way.
        """
        if not self.names or _binds(signature, **dict.fromkeys(self.names)):
            return replace(self, keywords=bool(self.names))
        shared = [name for name in self.names if name in signature.parameters]
        if not shared and _binds(signature, None):
            return self
        raise UsageError(
            f"a batch is a dict of {', '.join(map(repr, self.names))}, and the program takes "
            f"{signature}: give it one parameter for the dict, or parameters of just these names"
        )


def _first(tree: object, found: Sequence[object], leaves: Sequence[object]) -> int | None:
    """The place of x among the leaves, as they were found and as they are; None without arrays."""
    arrays = [k for k, leaf in enumerate(leaves) if is_array(leaf)]
    named = tree.get("x") if isinstance(tree, dict) else None
    usual = arrays[0] if arrays else None
    return next((k for k in arrays if found[k] is named), usual)


def _flat(tree: Sequence[object] | dict[str, object], leaves: Sequence[object]) -> bool:
    """Whether a batch is the tuple or list of its leaves."""
    return not isinstance(tree, dict) and len(leaves) == len(tree) and all(map(_leaf, tree))


def _no_tensor(tree: object, leaves: Sequence[object]) -> UsageError:
    kinds = ", ".join(sorted({type(leaf).__name__ for leaf in leaves}))
    return UsageError(
        f"a batch holds no tensor: it is a {type(tree).__name__} of {kinds or 'nothing'}; data are "
        f"tensors or arrays, perhaps in tuples, lists and dicts"
    )


def _binds(signature: inspect.Signature, *arguments: object, **named: object) -> bool:
    try:
        signature.bind(*arguments, **named)
    except TypeError:
        return False
    return True


def is_array(node: object) -> bool:
    """Whether it is a tensor, an array or a table."""
    return getattr(node, "ndim", 0) > 0


def _leaf(node: object) -> bool:
    """Whether a node is handed on whole: no container, or one without tensors."""
    if hasattr(node, "batch_sizes"):  # a PackedSequence is a named tuple
        return True
    if isinstance(node, dict):
        return False
    if isinstance(node, tuple | list):
        return not any(
            is_array(part)
            or hasattr(part, "batch_sizes")
            or (isinstance(part, tuple | list | dict) and not _leaf(part))
            for part in node
        )
    return True
