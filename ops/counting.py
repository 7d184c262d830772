"""Places found by counting: how many bounds a value has passed, how many values a bin has."""

from __future__ import annotations

import math
from typing import Any

import torch

from fusedsl import ir
from fusedsl.errors import BadArgument, DataDependent, DTypesDisagree, ShapesDisagree
from fusedsl.ir import Flag, Node, Number, Size, declare, spells
from fusedsl.types import i32, i64, same_size, show_shape

from .compare import eq, ge, gt, le, logical_not, minimum, where
from .convert import wide
from .elementwise import floor
from .indexing import gather
from .movement import reshape, unsqueeze
from .reduce import amax, amin, reduce_sum
from .source import numbers


def _passed(sequence: Node, values: Node, right: bool, out_int32: bool) -> Node:
    """How many of a sequence's elements, in a last dimension of both, come before a value; all of them before NaN."""
    beyond = (gt if right else ge)(sequence, values)
    return reduce_sum(ir.cast(logical_not(beyond), i32 if out_int32 else i64), (beyond.rank - 1,))


def _bucketize(x: Node, boundaries: Node, right: bool, out_int32: bool) -> Node:
    if boundaries.rank != 1:
        raise BadArgument(op="bucketize", name="boundaries", rule="a vector", got=show_shape(boundaries.shape), hint="")
    return _passed(boundaries, unsqueeze(x, x.rank), right, out_int32)


@declare(expand=_bucketize)
def bucketize(x: torch.Tensor, boundaries: torch.Tensor, right: Flag = False, out_int32: Flag = False):
    """How many of the boundaries, which are in order, are less than x (right: at most x): each of them is compared"""
    return torch.bucketize(x, boundaries, right=right, out_int32=out_int32)


def _searchsorted(x: Node, values: Node, right: bool, out_int32: bool) -> Node:
    if x.rank == 1:
        return _passed(x, unsqueeze(values, values.rank), right, out_int32)
    alike = x.rank == values.rank and all(same_size(a, b) for a, b in zip(x.shape[:-1], values.shape[:-1], strict=True))
    if not x.rank or not alike:
        raise ShapesDisagree(op="searchsorted", rule="all dimensions but the last must be those of the sequence",
                             got=f"{show_shape(x.shape)} and {show_shape(values.shape)}", hint="")  # fmt: skip
    return _passed(unsqueeze(x, x.rank - 1), unsqueeze(values, values.rank), right, out_int32)


@declare(expand=_searchsorted)
def searchsorted(x: torch.Tensor, values: torch.Tensor, right: Flag = False, out_int32: Flag = False):
    """How many elements of a row of x, which is in order, are less than a value (right: at most the value): each of
    them is compared"""
    return torch.searchsorted(x, values, right=right, out_int32=out_int32)


def _histc(x: Node, bins: Any, min: float, max: float) -> Node:
    if not x.dtype.is_float:
        raise DTypesDisagree(op="histc", rule="the operand must be a float", got=str(x.dtype), hint="Use x.float().")
    if isinstance(bins, int) and bins < 1:
        raise BadArgument(op="histc", name="bins", rule="at least 1", got=bins, hint="")
    if not (math.isfinite(min) and math.isfinite(max) and min <= max):
        raise BadArgument(op="histc", name="min and max", rule="finite and in order", got=(min, max), hint="")
    flat = wide(reshape(x, (-1,)), x.dtype)
    low, high = ir.as_node(min), ir.as_node(max)
    if min == max:
        if 0 in flat.shape:
            raise DataDependent(op="histc", what="the range of nothing", hint="Give min= and max=.")
        low, high = amin(flat, (0,)), amax(flat, (0,))
        alone = eq(low, high)
        low, high = where(alone, low - 1, low), where(alone, high + 1, high)
    low, high = ir.cast(low, flat.dtype), ir.cast(high, flat.dtype)
    inside = ge(flat, low) & le(flat, high)
    place = minimum(floor((flat - low) * ir.as_node(bins) / (high - low)), ir.as_node(bins - 1))
    hit = eq(unsqueeze(where(inside, place, -1.0), 0), unsqueeze(ir.cast(numbers(bins), flat.dtype), 1))
    return ir.cast(reduce_sum(ir.cast(hit, flat.dtype), (1,)), x.dtype)


@declare(expand=_histc)
def histc(x: torch.Tensor, bins: Size = 100, min: Number = 0, max: Number = 0):
    """How many elements lie in each of the bins, evenly spaced from min to max, or from the least to the greatest
    element if these are equal: each is compared with every bin"""
    return torch.histc(x, bins, min, max)


# ---- as torch calls them ---------------------------------------------------------------------------------------------


@spells("torch.bucketize")
def bucketize_(input, boundaries, *, out_int32=False, right=False):
    return bucketize(input, boundaries, right, out_int32)


@spells("torch.searchsorted")
def searchsorted_(sorted_sequence, input, *, out_int32=False, right=False, side=None, sorter=None):
    if side not in (None, "left", "right") or (side == "left" and right):
        rule = "'left' or 'right', and not against right="
        raise BadArgument(op="searchsorted", name="side", rule=rule, got=repr(side), hint="")
    if sorter is not None:
        sorted_sequence = gather(sorted_sequence, -1, sorter)
    return searchsorted(sorted_sequence, input, right or side == "right", out_int32)
