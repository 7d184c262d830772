"""torch's ways to name a part of a tensor, by numbers, slices and index tensors, in the manner of `spell.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fusedsl.errors import BadArgument, DataDependent
from fusedsl.index import Poly, is_less, is_nonnegative
from fusedsl.ir import SPELLINGS, spells

from .spell import dim_of, ops

# ---- numbers and slices ----------------------------------------------------------------------------------------------


def _less(a, b) -> bool:
    """a < b; between the sizes of nodes, where that is known."""
    if not isinstance(a, Poly) and not isinstance(b, Poly):
        return bool(a < b)
    if not is_less(a, b) and not is_nonnegative(a - b):
        raise BadArgument(op="x[...]", name="a size", rule="known well enough to compare", got=f"{a} and {b}", hint="")
    return is_less(a, b)


def _bounded(bound, n, default):
    """A bound of a slice counted from the front, in [0, n]."""
    if bound is None:
        return default
    if _less(bound, 0):
        bound = bound + n
        return 0 if _less(bound, 0) else bound
    return n if _less(n, bound) else bound


def _cut(x, dim: int, start, stop, step=None):
    if start is None and stop is None and step in (None, 1):
        return x
    return ops.slice(x, dim, *bounds(x, dim, start, stop, step))


def bounds(x, dim: int, start, stop, step=None) -> tuple:
    """Where a slice starts, ends, and its step, as ops want them: 0 <= start <= end <= the size."""
    n, step = x.shape[dim], 1 if step is None else step
    if _less(step, 1):
        raise BadArgument(op="slice", name="step", rule="at least 1", got=step, hint="Use x.flip(dim).")
    start, stop = _bounded(start, n, 0), _bounded(stop, n, n)
    return start, start if _less(stop, start) else stop, step


def at_number(x, dim: int, index):
    """An index that counts from the end if it is negative, as one from 0."""
    n = x.shape[dim]
    inside = index + n if _less(index, 0) else index
    if _less(inside, 0) or not _less(inside, n):
        raise BadArgument(op="select", name="index", rule=f"in [-{n}, {n}) for dim {dim}", got=index, hint="")
    return inside


@spells("torch.select", "Tensor.select")
def select(input, dim, index):
    dim = dim_of(input, dim, "select")
    if hasattr(index, "dtype"):
        return ops.select_at(input, dim, index)
    return ops.select(input, dim, at_number(input, dim, index))


@spells("torch.narrow", "Tensor.narrow")
def narrow(input, dim, start, length):
    dim = dim_of(input, dim, "narrow")
    start = start + input.shape[dim] if _less(start, 0) else start
    if _less(input.shape[dim], start + length):
        rule = f"at most {input.shape[dim]}"
        raise BadArgument(op="narrow", name="start + length", rule=rule, got=start + length, hint="")
    return ops.slice(input, dim, start, start + length)


# ---- index tensors ---------------------------------------------------------------------------------------------------


@spells("torch.gather", "Tensor.gather")
def gather(input, dim, index, *, sparse_grad=False):
    return ops.gather(input, dim, index)


@spells("torch.take", "Tensor.take")
def take(input, index):
    return ops.index([ops.reshape(input, (-1,)), index], (0,), 0)


@spells("torch.take_along_dim", "Tensor.take_along_dim")
def take_along_dim(input, indices, dim=None):
    if dim is None:
        return ops.gather(ops.reshape(input, (-1,)), 0, ops.reshape(indices, (-1,)))
    return ops.take_along_dim(input, indices, dim)


# ---- x[key] ----------------------------------------------------------------------------------------------------------


def listed(indices: Sequence) -> Any:
    """A list of numbers, or of tensors, as an index."""
    if any(hasattr(k, "dtype") for k in indices):
        return ops.stack(list(indices))
    return SPELLINGS["torch.tensor"](list(indices), **({} if indices else {"dtype": torch.int64}))


def keys_of(x, key) -> list:
    """What x is indexed with, one by one; in the place of an Ellipsis all of the dimensions that it stands for."""
    keys = list(key) if isinstance(key, tuple) else [key]
    if isinstance(key, list) and not all(isinstance(k, int) for k in key):
        keys = key  # as torch does
    if any(isinstance(k, bool) for k in keys):
        raise DataDependent(op="x[bool]", what="the shape", hint="Use x[None] or torch.where.")
    rank = len(x.shape)
    taken = sum(_dims_taken(k) for k in keys)
    if taken > rank:
        raise BadArgument(op="x[...]", name="the indices", rule=f"{rank} at most", got=taken, hint="")
    at = next((at for at, k in enumerate(keys) if k is Ellipsis), None)
    return keys if at is None else [*keys[:at], *[slice(None)] * (rank - taken), *keys[at + 1 :]]


def _dims_taken(key) -> int:
    """How many dimensions something in [...] is for."""
    if key is None or key is Ellipsis:
        return 0
    return len(key.shape) if getattr(key, "dtype", None) in (torch.bool, torch.uint8) else 1


@spells("Tensor.__getitem__")
def getitem(self, key):
    """x[...]: ints, slices, None, Ellipsis and index tensors, as torch reads them."""
    x, dim, picked = self, 0, {}
    for k in keys_of(self, key):
        if k is None:
            x, dim = ops.unsqueeze(x, dim), dim + 1
        elif isinstance(k, slice):
            x, dim = _cut(x, dim, k.start, k.stop, k.step), dim + 1
        elif hasattr(k, "dtype") and not k.shape:  # selects, as a number does
            x = ops.select_at(x, dim, k)
        elif isinstance(k, (list, tuple)) or hasattr(k, "dtype"):
            picked[dim], dim = k if hasattr(k, "dtype") else listed(k), dim + 1
        else:
            x = ops.select(x, dim, at_number(x, dim, k))
    if not picked:
        return x
    together = max(picked) - min(picked) + 1 == len(picked)
    return ops.index([x, *picked.values()], tuple(picked), min(picked) if together else 0)
