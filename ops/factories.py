"""Tensors out of nothing but sizes and numbers: inside a fused function they are index expressions, no memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from fusedsl import ir
from fusedsl.errors import BadArgument
from fusedsl.index import Index, Poly, cdiv
from fusedsl.ir import Bound, DimOrder, MaybeDType, MaybeSize, Node, Number, Size, Sizes, declare
from fusedsl.types import DType, Type, f32, f64, i64, show_shape

from .compare import eq, where
from .convert import clone
from .elementwise import power
from .movement import along, expand, unsqueeze
from .reduce import maybe
from .rules import default_float
from .source import numbers


def filled(shape: Sequence[Index], value: Any, dt: DType) -> Node:
    """A constant of that shape."""
    scalar = ir.cast(ir.as_node(value), dt)
    if scalar.type.weak:  # a tensor, not a number any more
        scalar = ir.constant(scalar["value"], Type(dt)) if scalar.op.name == "const" else clone(scalar)
    return expand(scalar, shape) if shape else scalar


def _full(fill_value: Node, size: Sequence[Index], dtype: DType | None) -> Node:
    kind = fill_value.dtype
    return filled(size, fill_value, dtype or (default_float() if kind.is_float and fill_value.type.weak else kind))


@declare(expand=_full)
def full(size: Sizes, fill_value: torch.Tensor, dtype: MaybeDType = None):
    """One number everywhere."""
    return torch.full(size, fill_value, dtype=maybe(dtype))  # type: ignore[call-overload]


@declare(expand=lambda size, dtype: filled(size, 0, dtype or default_float()))
def zeros(size: Sizes, dtype: MaybeDType = None):
    """0 everywhere"""
    return torch.zeros(size, dtype=maybe(dtype))


@declare(expand=lambda size, dtype: filled(size, 1, dtype or default_float()))
def ones(size: Sizes, dtype: MaybeDType = None):
    """1 everywhere"""
    return torch.ones(size, dtype=maybe(dtype))


@declare(expand=lambda x, fill_value, dtype: filled(x.shape, fill_value, dtype or x.dtype))
def full_like(x: torch.Tensor, fill_value: torch.Tensor, dtype: MaybeDType = None):
    """One number everywhere, in x's shape."""
    return torch.full_like(x, fill_value, dtype=maybe(dtype))  # type: ignore[arg-type]


@declare(expand=lambda x, dtype: filled(x.shape, 0, dtype or x.dtype))
def zeros_like(x: torch.Tensor, dtype: MaybeDType = None):
    """0 everywhere, in x's shape"""
    return torch.zeros_like(x, dtype=maybe(dtype))


@declare(expand=lambda x, dtype: filled(x.shape, 1, dtype or x.dtype))
def ones_like(x: torch.Tensor, dtype: MaybeDType = None):
    """1 everywhere, in x's shape"""
    return torch.ones_like(x, dtype=maybe(dtype))


def _truncated(value: Any) -> int:
    return int(value)


def _arange(start: Any, end: Any, step: Any, dtype: DType | None) -> Node:
    whole = all(isinstance(v, (int, Poly)) for v in (start, end, step))
    dt = dtype or (i64 if whole else default_float())
    if dt is i64 and not whole:
        start, end, step = (_truncated(v) for v in (start, end, step))
        whole = True
    if step == 0:
        raise BadArgument(op="arange", name="step", rule="not 0", got=step, hint="")
    if whole:
        n = cdiv(end - start, step) if isinstance(step, Poly) or step > 0 else cdiv(start - end, -step)
        n = max(n, 0) if isinstance(n, int) else n
    else:
        n = max(math.ceil((end - start) / step), 0)
    if dt.is_integer and not whole:
        start, step = _truncated(start), _truncated(step)
    running = numbers(n)
    if not whole and dt.is_float:
        running = ir.cast(running, dt.computed)
    if (start, step) != (0, 1):
        running = running * step + start
    return ir.cast(running, dt)


@declare(expand=_arange)
def arange(start: Bound, end: Bound, step: Bound = 1, dtype: MaybeDType = None):
    """start, start + step, start + 2 step ... before end"""
    return torch.arange(start, end, step, dtype=maybe(dtype))


def _linspace(start: Node, end: Node, steps: Index, dtype: DType | None) -> Node:
    """From the nearer end. Between integers the ends are whole."""
    dt = dtype or default_float()
    inner = dt.computed if dt.is_float else f64
    start, end = (ir.cast(_scalar(v) if dt.is_float else ir.cast(_scalar(v), dt), inner) for v in (start, end))
    running, gaps = ir.cast(numbers(steps), inner), ir.as_node(steps - 1)
    gap = (end - start) / (max(steps - 1, 1) if isinstance(steps, int) else gaps)
    return ir.cast(where(running * 2 < steps, running * gap + start, end - (gaps - running) * gap), dt)


def _logspace(start: Node, end: Node, steps: Index, base: float, dtype: DType | None) -> Node:
    """Of whole powers the exponents are in f32, with ends that are whole, and the powers in f64."""
    dt = dtype or default_float()
    inner = dt.computed if dt.is_float else f64
    if not dt.is_float:
        start, end = (ir.cast(_scalar(v), dt) for v in (start, end))
    exponents = ir.cast(_linspace(start, end, steps, dt.computed if dt.is_float else f32), inner)
    return ir.cast(power(ir.cast(ir.as_node(base), inner), exponents), dt)


@declare(expand=_logspace)
def logspace(start: torch.Tensor, end: torch.Tensor, steps: Size, base: Number = 10.0, dtype: MaybeDType = None):
    """base to the power of `steps` numbers, evenly spaced, from start to end"""
    return torch.logspace(start, end, steps, base, dtype=maybe(dtype))


def _scalar(value: Node) -> Node:
    if value.rank:
        raise BadArgument(op="linspace", name="an end", rule="a number or a tensor of no dimensions",
                          got=show_shape(value.shape), hint="")  # fmt: skip
    return value


@declare(expand=_linspace)
def linspace(start: torch.Tensor, end: torch.Tensor, steps: Size, dtype: MaybeDType = None):
    """`steps` numbers, evenly spaced, from start to end"""
    return torch.linspace(start, end, steps, dtype=maybe(dtype))


def _eye(n: Index, m: Index | None, dtype: DType | None) -> Node:
    m = n if m is None else m
    diagonal = eq(unsqueeze(numbers(n), 1), unsqueeze(numbers(m), 0))
    return ir.cast(diagonal, dtype or default_float())


@declare(expand=_eye)
def eye(n: Size, m: MaybeSize = None, dtype: MaybeDType = None):
    """1 where row == column, else 0"""
    return torch.eye(n, n if m is None else m, dtype=maybe(dtype))


def _numbered(x: torch.Tensor, dim: int) -> torch.Tensor:
    shape = [1] * x.ndim
    shape[dim] = x.shape[dim]
    return torch.arange(x.shape[dim], device=x.device).reshape(shape).expand(x.shape)


@declare(expand=lambda x, dims: tuple(expand(along(x, d), x.shape) for d in dims))
def indices(x: torch.Tensor, *dims: DimOrder):
    """Every element's own index in each of the dims, as an integer tensor of x's shape"""
    return tuple(_numbered(x, d) for d in dims)
