"""Scans: every element combined with those before it along a dimension."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from fusedsl import ir
from fusedsl.errors import DTypesDisagree
from fusedsl.ir import Dim, MaybeDType, Node, OneDim, Reduction, TypeRule, declare
from fusedsl.types import DType, Type, i64

from .compare import eq, isnan, where
from .convert import narrow, wide
from .movement import along, expand
from .reduce import least, maybe, most

# ---- the primitives, in the operand's dtype --------------------------------------------------------------------------

scanning = TypeRule(lambda types, *, dim: Type(types[0].dtype, types[0].shape))


def _run(function: Callable[..., Any], x: torch.Tensor, dim: Any, **more: Any) -> Any:
    return function(x, *(dim if isinstance(dim, tuple) else (dim,)) or (0,), **more)


def _combined(identity: Callable[[DType], Any], combine: str, helper: str) -> Reduction:
    return Reduction(identity, combine, f"tl.reduce({{0}}, {{axis}}, {helper})",
                     f"tl.associative_scan({{0}}, {{axis}}, {helper})")  # fmt: skip


@declare(type=scanning, scan=_combined(lambda dt: 0, "{0} + {1}", "_sum"))
def scan_sum(x: torch.Tensor, dim: OneDim):
    """The sums of x[0], ..., x[i] along a dimension, in the operand's dtype."""
    return _run(torch.cumsum, x, dim, dtype=x.dtype)


@declare(type=scanning, scan=_combined(lambda dt: 1, "{0} * {1}", "_product"), domain=(-2, 2))
def scan_prod(x: torch.Tensor, dim: OneDim):
    """The products of x[0], ..., x[i] along a dimension, in the operand's dtype."""
    return _run(torch.cumprod, x, dim, dtype=x.dtype)


@declare(type=scanning, scan=_combined(least, "_maximum({0}, {1})", "_maximum"))
def scan_max(x: torch.Tensor, dim: OneDim):
    """The greatest of x[0], ..., x[i] along a dimension, NaN from the first NaN on."""
    return _run(torch.cummax, x, dim).values


@declare(type=scanning, scan=_combined(most, "_minimum({0}, {1})", "_minimum"))
def scan_min(x: torch.Tensor, dim: OneDim):
    """The least of x[0], ..., x[i] along a dimension, NaN from the first NaN on."""
    return _run(torch.cummin, x, dim).values


@declare(type=scanning, scan=_combined(lambda dt: -math.inf, "_log_sum({0}, {1})", "_log_sum"))
def scan_log_sum(x: torch.Tensor, dim: OneDim):
    """ln(e^x[0] + ... + e^x[i]) along a dimension, without overflow."""
    return _run(torch.logcumsumexp, x, dim)


# ---- compositions ----------------------------------------------------------------------------------------------------


def _accumulated(op, x: Node, dim: int, dtype: DType | None) -> Node:
    """Halves accumulate in f32, integers in i64."""
    dt = dtype or (x.dtype if x.dtype.is_float else i64)
    return narrow(op(wide(ir.cast(x, dt), dt), dim), dt)


@declare(expand=lambda x, dim, dtype: _accumulated(scan_sum, x, dim, dtype))
def cumsum(x: torch.Tensor, dim: Dim, dtype: MaybeDType = None):
    """x[0] + ... + x[i] along dim; of integers and bools in i64"""
    return torch.cumsum(x, dim, dtype=maybe(dtype))


@declare(expand=lambda x, dim, dtype: _accumulated(scan_prod, x, dim, dtype), domain=(-2, 2))
def cumprod(x: torch.Tensor, dim: Dim, dtype: MaybeDType = None):
    """x[0] * ... * x[i] along dim; of integers and bools in i64"""
    return torch.cumprod(x, dim, dtype=maybe(dtype))


def _extreme(op: Callable[..., Node]) -> Callable[..., tuple[Node, Node]]:
    """The values, and where each was last met: the greatest position so far of an element that equals them."""

    def expand_(x: Node, dim: int) -> tuple[Node, Node]:
        if not x.rank:
            return x, ir.constant(0, Type(i64))
        values = op(x, dim)
        met = eq(x, values)
        if x.dtype.is_float:
            met = met | isnan(x)
        return values, scan_max(where(met, expand(along(x, dim), x.shape), 0), dim)

    return expand_


@declare(expand=_extreme(lambda x, dim: _of_numbers(scan_max, x, dim)))
def cummax(x: torch.Tensor, dim: Dim):
    """The greatest of x[0], ..., x[i] along dim, and its last position"""
    return tuple(torch.cummax(x, dim))


@declare(expand=_extreme(lambda x, dim: _of_numbers(scan_min, x, dim)))
def cummin(x: torch.Tensor, dim: Dim):
    """The least of x[0], ..., x[i] along dim, and its last position"""
    return tuple(torch.cummin(x, dim))


def _of_numbers(op, x: Node, dim: int) -> Node:
    """Bools as integers, which scans are over."""
    return ir.cast(op(ir.cast(x, i64), dim), x.dtype) if x.dtype.is_bool else op(x, dim)


def _logcumsumexp(x: Node, dim: int) -> Node:
    if not x.dtype.is_float:
        raise DTypesDisagree(op="logcumsumexp", rule="the operand must be a float", got=str(x.dtype),
                             hint="Use x.float().")  # fmt: skip
    return narrow(scan_log_sum(wide(x, x.dtype) + 0.0, dim), x.dtype)  # of -0.0 alone it is 0.0


@declare(expand=_logcumsumexp)
def logcumsumexp(x: torch.Tensor, dim: Dim):
    """ln(e^x[0] + ... + e^x[i]) along dim, without overflow"""
    return torch.logcumsumexp(x, dim)
