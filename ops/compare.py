"""Comparisons, logic, bits, and choices between values."""

from __future__ import annotations

import torch

from fusedsl import ir
from fusedsl.errors import BadArgument
from fusedsl.ir import Node, declare

from .helpers import by_kind
from .rules import chosen, comparison, integers, integral, logical, same, test

# ---- comparisons: == on nodes says whether they are one node, so eq and ne are no operators of theirs ----------------


@declare(type=comparison, triton="{0} < {1}", operator="__lt__", torch=("torch.less", "Tensor.less"))
def lt(x: torch.Tensor, other: torch.Tensor):
    """x < other"""
    return torch.lt(x, other)


@declare(type=comparison, triton="{0} <= {1}", operator="__le__", torch=("torch.less_equal", "Tensor.less_equal"))
def le(x: torch.Tensor, other: torch.Tensor):
    """x <= other"""
    return torch.le(x, other)


@declare(type=comparison, triton="{0} > {1}", operator="__gt__", torch=("torch.greater", "Tensor.greater"))
def gt(x: torch.Tensor, other: torch.Tensor):
    """x > other"""
    return torch.gt(x, other)


@declare(type=comparison, triton="{0} >= {1}", operator="__ge__",
         torch=("torch.greater_equal", "Tensor.greater_equal"))  # fmt: skip
def ge(x: torch.Tensor, other: torch.Tensor):
    """x >= other"""
    return torch.ge(x, other)


@declare(type=comparison, triton="{0} == {1}", torch=("Tensor.__eq__",))
def eq(x: torch.Tensor, other: torch.Tensor):
    """x == other"""
    return torch.eq(x, other)


@declare(type=comparison, triton="{0} != {1}", torch=("Tensor.__ne__", "torch.not_equal", "Tensor.not_equal"))
def ne(x: torch.Tensor, other: torch.Tensor):
    """x != other"""
    return torch.ne(x, other)


@declare(type=test, triton="{0} != {0}")
def isnan(x: torch.Tensor):
    """Whether x is NaN."""
    return torch.isnan(x)


@declare(type=test, triton=by_kind('tl.abs({0}) == float("inf")', "{0} != {0}"))
def isinf(x: torch.Tensor):
    """Whether x is inf or -inf."""
    return torch.isinf(x)


@declare(type=test, triton=by_kind('tl.abs({0}) < float("inf")', "{0} == {0}"))
def isfinite(x: torch.Tensor):
    """Whether x is neither NaN nor infinite."""
    return torch.isfinite(x)


@declare(type=test, triton=by_kind('{0} == float("inf")', "{0} != {0}"))
def isposinf(x: torch.Tensor):
    """Whether x is inf."""
    return torch.isposinf(x)


@declare(type=test, triton=by_kind('{0} == -float("inf")', "{0} != {0}"))
def isneginf(x: torch.Tensor):
    """Whether x is -inf."""
    return torch.isneginf(x)


def _signbit_text(expr, x: str) -> str:
    dt = expr.args[0].dtype
    return f"{x}.to(tl.int{dt.bits}, bitcast=True) < 0" if dt.is_float else f"{x} < 0"


@declare(type=test, triton=_signbit_text)
def signbit(x: torch.Tensor):
    """Whether x has the minus sign, -0.0 too."""
    return torch.signbit(x)


# ---- logic -----------------------------------------------------------------------------------------------------------


@declare(type=logical, triton="{0} & {1}")
def logical_and(x: torch.Tensor, other: torch.Tensor):
    """x != 0 and other != 0"""
    return torch.logical_and(x, other)


@declare(type=logical, triton="{0} | {1}")
def logical_or(x: torch.Tensor, other: torch.Tensor):
    """x != 0 or other != 0"""
    return torch.logical_or(x, other)


@declare(type=logical, triton="{0} ^ {1}")
def logical_xor(x: torch.Tensor, other: torch.Tensor):
    """(x != 0) != (other != 0)"""
    return torch.logical_xor(x, other)


@declare(type=test, triton="{0} == 0")
def logical_not(x: torch.Tensor):
    """x == 0"""
    return torch.logical_not(x)


# ---- bits ------------------------------------------------------------------------------------------------------------


@declare(type=integral, triton="{0} & {1}", operator="__and__")
def bitwise_and(x: torch.Tensor, other: torch.Tensor):
    """x & other"""
    return torch.bitwise_and(x, other)


@declare(type=integral, triton="{0} | {1}", operator="__or__")
def bitwise_or(x: torch.Tensor, other: torch.Tensor):
    """x | other"""
    return torch.bitwise_or(x, other)


@declare(type=integral, triton="{0} ^ {1}", operator="__xor__")
def bitwise_xor(x: torch.Tensor, other: torch.Tensor):
    """x ^ other"""
    return torch.bitwise_xor(x, other)


@declare(type=integral, triton=by_kind("", "~{0}", bools="{0} == 0"), operator="__invert__")
def bitwise_not(x: torch.Tensor):
    """~x; of bools: not"""
    return torch.bitwise_not(x)


@declare(type=integers, triton="_shift_left({0}, {1})", operator="__lshift__",
         torch=("torch.bitwise_left_shift", "Tensor.bitwise_left_shift"), domain=((0, 9), (0, 9)))  # fmt: skip
def left_shift(x: torch.Tensor, other: torch.Tensor):
    """x << other, 0 where other is not in [0, bits)"""
    return torch.bitwise_left_shift(x, other)


@declare(type=integers, triton="_shift_right({0}, {1})", operator="__rshift__",
         torch=("torch.bitwise_right_shift", "Tensor.bitwise_right_shift"), domain=((0, 99), (0, 9)))  # fmt: skip
def right_shift(x: torch.Tensor, other: torch.Tensor):
    """x >> other, keeping the sign; every bit is shifted out where other is not in [0, bits)"""
    return torch.bitwise_right_shift(x, other)


# ---- choices ---------------------------------------------------------------------------------------------------------


@declare(type=chosen, triton="tl.where({0}, {1}, {2})")
def where(condition: torch.Tensor, x: torch.Tensor, other: torch.Tensor):
    """x where the condition holds, else other"""
    return torch.where(condition, x, other)


@declare(expand=lambda x, mask, value: where(mask, ir.cast(value, x.dtype), x))
def masked_fill(x: torch.Tensor, mask: torch.Tensor, value: torch.Tensor):
    """value where the mask holds, else x; in x's dtype"""
    return torch.masked_fill(x, mask, value)


@declare(type=same, triton=by_kind("_maximum({0}, {1})", "tl.maximum({0}, {1})", bools="{0} | {1}"))
def maximum(x: torch.Tensor, other: torch.Tensor):
    """The greater of x and other, NaN if either is."""
    return torch.maximum(x, other)


@declare(type=same, triton=by_kind("_minimum({0}, {1})", "tl.minimum({0}, {1})", bools="{0} & {1}"))
def minimum(x: torch.Tensor, other: torch.Tensor):
    """The smaller of x and other, NaN if either is."""
    return torch.minimum(x, other)


@declare(type=same, triton=by_kind("tl.maximum({0}, {1})", "tl.maximum({0}, {1})", bools="{0} | {1}"))
def fmax(x: torch.Tensor, other: torch.Tensor):
    """The greater of x and other, or the one that is not NaN."""
    return torch.fmax(x, other)


@declare(type=same, triton=by_kind("tl.minimum({0}, {1})", "tl.minimum({0}, {1})", bools="{0} & {1}"))
def fmin(x: torch.Tensor, other: torch.Tensor):
    """The smaller of x and other, or the one that is not NaN."""
    return torch.fmin(x, other)


def _clamp(x: Node, min: Node | None, max: Node | None) -> Node:
    if min is None and max is None:
        raise BadArgument(op="clamp", name="min or max", rule="given", got="neither", hint="")
    bounded = x if min is None else maximum(x, min)
    return bounded if max is None else minimum(bounded, max)


@declare(expand=_clamp, torch=("torch.clip", "Tensor.clip"))
def clamp(x: torch.Tensor, min: torch.Tensor | None = None, max: torch.Tensor | None = None):
    """minimum(maximum(x, min), max), without the bound that is None"""
    bounded = x if min is None else torch.clamp(x, min=min)
    return bounded if max is None and min is not None else torch.clamp(bounded, max=max)


@declare(expand=lambda x, min: clamp(x, min))
def clamp_min(x: torch.Tensor, min: torch.Tensor):
    """maximum(x, min)"""
    return torch.clamp_min(x, min)


@declare(expand=lambda x, max: clamp(x, None, max))
def clamp_max(x: torch.Tensor, max: torch.Tensor):
    """minimum(x, max)"""
    return torch.clamp_max(x, max)


@declare(expand=lambda x, values: where(eq(x, 0), values, ir.cast(gt(x, 0), values.dtype)))
def heaviside(x: torch.Tensor, values: torch.Tensor):
    """0 where x < 0, 1 where x > 0, else values"""
    return torch.heaviside(x, values)
