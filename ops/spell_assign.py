"""x[key] = value and index_put, in the manner of `spell.py`: x with a part replaced, which the tracer makes of x.

Numbers, slices and the like name a view, whose new values are put in its place (`select_scatter`, `slice_scatter`). A
mask is a choice between values and x. Index tensors are what `index_put` is for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from fusedsl.errors import DataDependent, ShapesDisagree
from fusedsl.ir import spells
from fusedsl.types import dtype as dtype_of

from .convert import check_number
from .parts import select_scatter, slice_scatter
from .scattering import index_put as put_at
from .spell import ops
from .spell_index import at_number, bounds, keys_of, listed


def _is_mask(key: Any) -> bool:
    return key.dtype in (torch.bool, torch.uint8)


def _without_ones(value: Any, rank: int) -> Any:
    """The value without what it has more of dimensions than the place that it goes to, if these are 1."""
    while len(value.shape) > rank and value.shape[0] == 1:
        value = ops.reshape(value, tuple(value.shape[1:]))
    return value


# ---- at masks and index tensors --------------------------------------------------------------------------------------


def _where(x: Any, dim: int, mask: Any, values: Any) -> Any:
    """x with values where a mask of its dimensions from dim on holds. How many places that names is not known, so that
    there can be one value for all of them alone, with the dimensions before and after the mask's."""
    rank = len(mask.shape)
    over, after = x.shape[dim : dim + rank], len(x.shape) - dim - rank
    if after < 0 or tuple(mask.shape) != tuple(over):
        got = f"{list(mask.shape)} for {list(over)}"
        raise ShapesDisagree(op="x[mask] = value", rule="a mask needs the sizes of what it is for", got=got, hint="")
    values = _without_ones(values, dim + 1 + after)
    count = len(values.shape) - after - 1  # the dimension of as many values as the mask names places
    if count >= 0:
        if values.shape[count] != 1:
            hint = "Give one value, or write torch.where(mask, values, x) with values of x's shape."
            raise DataDependent(op="x[mask] = values", what="how many places the mask names", hint=hint)
        values = ops.reshape(values, (*values.shape[:count], *[1] * rank, *values.shape[count + 1 :]))
    for _ in range(after):
        mask = ops.unsqueeze(mask, -1)
    return ops.where(mask if mask.dtype is torch.bool else mask != 0, ops.cast(values, x.dtype), x)


def _put(x: Any, picked: Mapping[int, Any], values: Any, accumulate: bool = False) -> Any:
    """x with values at the masks and indices that dimensions have."""
    masks = [key for key in picked.values() if _is_mask(key)]
    if len(picked) == len(masks) == 1 and not accumulate:
        ((dim, mask),) = picked.items()
        return _where(x, dim, mask, values)
    if masks:
        hint = "Use torch.where(mask, value, x)."
        raise DataDependent(op="index_put", what="how many elements a mask names", hint=hint)
    rank = len(x.shape) - len(picked) + max(len(key.shape) for key in picked.values())
    return put_at([x, _without_ones(values, rank), *picked.values()], tuple(picked), accumulate)


@spells("torch.index_put", "Tensor.index_put")
def index_put(input, indices, values, accumulate=False):
    picked, dim = {}, 0
    for key in indices:
        if key is not None:
            picked[dim] = key
        dim += 1 if key is None or not _is_mask(key) else len(key.shape)
    return _put(input, picked, values, accumulate)


# ---- x[key] = value --------------------------------------------------------------------------------------------------


@spells("Tensor.__setitem__")
def setitem(self, key, value):
    if isinstance(value, np.generic):
        value = value.item()
    if not hasattr(value, "dtype"):
        if not dtype_of(self.dtype).is_float:
            check_number(value, self.dtype, "x[key] = value", "the value")
        value = ops.full((), value, self.dtype)
    return _assigned(self, keys_of(self, key), 0, {}, value)


def _assigned(x: Any, keys: Sequence[Any], dim: int, picked: Mapping[int, Any], value: Any) -> Any:
    """x with a value at the keys, which are for its dimensions from dim on. picked: masks and indices met before."""
    if not keys:
        if picked:
            return _put(x, picked, value)
        return ops.cast(ops.expand(_without_ones(value, len(x.shape)), tuple(x.shape)), x.dtype)
    key, *rest = keys
    if key is None:
        return ops.squeeze(_assigned(ops.unsqueeze(x, dim), rest, dim + 1, picked, value), (dim,))
    if isinstance(key, slice):
        if key == slice(None):
            return _assigned(x, rest, dim + 1, picked, value)
        start, stop, step = bounds(x, dim, key.start, key.stop, key.step)
        part = _assigned(ops.slice(x, dim, start, stop, step), rest, dim + 1, picked, value)
        return slice_scatter(x, part, dim, start, stop, step)
    if isinstance(key, (list, tuple)):
        key = listed(key)
    if hasattr(key, "dtype") and (key.shape or _is_mask(key)):
        return _assigned(x, rest, dim + (len(key.shape) if _is_mask(key) else 1), {**picked, dim: key}, value)
    if hasattr(key, "dtype"):
        part = _assigned(ops.select_at(x, dim, key), rest, dim, picked, value)
        return put_at([x, part, key], (dim,), False)
    place = at_number(x, dim, key)
    return select_scatter(x, _assigned(ops.select(x, dim, place), rest, dim, picked, value), dim, place)
