"""Reductions: four primitive ones, and what is made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from fusedsl import ir
from fusedsl.errors import BadArgument, DTypesDisagree
from fusedsl.index import Index, is_nonnegative
from fusedsl.ir import Dims, Flag, GivenDims, MaybeDim, MaybeDType, Node, Number, Reduction, declare, dims_in
from fusedsl.types import DType, Type, bool_, i64, show_shape
from fusedsl.types import dtype as dtype_of

from .compare import eq, isnan, maximum, ne, where
from .convert import float_of, limits, narrow, torch_dtype, wide
from .elementwise import abs, exp, log, pow, sqrt
from .movement import along, diagonal, squeeze, unsqueeze
from .rules import reducing

# ---- the primitives: they reduce the dims of `dim` away, in the operand's dtype --------------------------------------


def least(dt: DType) -> Any:
    """The identity of a maximum."""
    return -math.inf if dt.is_float else bool(0) if dt.is_bool else limits(dt)[0]


def most(dt: DType) -> Any:
    """The identity of a minimum."""
    return math.inf if dt.is_float else bool(1) if dt.is_bool else limits(dt)[1]


def _of_none(x: torch.Tensor, dim: Sequence[int], value: Any) -> torch.Tensor:
    """What is left of no elements."""
    return x.new_full([n for d, n in enumerate(x.shape) if d not in dim], value)


SUM = Reduction(lambda dt: 0, "{0} + {1}", "tl.sum({0}, {axis})", pairwise="add")
PRODUCT = Reduction(lambda dt: 1, "{0} * {1}", "tl.reduce({0}, {axis}, _product)", pairwise="mul")
MAXIMUM = Reduction(least, "_maximum({0}, {1})", "tl.reduce({0}, {axis}, _maximum)", pairwise="maximum")
MINIMUM = Reduction(most, "_minimum({0}, {1})", "tl.reduce({0}, {axis}, _minimum)", pairwise="minimum")


@declare(type=reducing, reduction=SUM)
def reduce_sum(x: torch.Tensor, dim: Dims):
    """The sum over dims, in the operand's dtype."""
    return torch.sum(x, dim, dtype=x.dtype)


@declare(type=reducing, domain=(-2, 2), reduction=PRODUCT)
def reduce_prod(x: torch.Tensor, dim: Dims):
    """The product over dims, in the operand's dtype."""
    for d in reversed(dims_in(dim, x.ndim, "reduce_prod")):
        x = torch.prod(x, d, dtype=x.dtype)
    return x


@declare(type=reducing, reduction=MAXIMUM)
def reduce_max(x: torch.Tensor, dim: Dims):
    """The greatest value over dims; NaN if there is one."""
    dims = dims_in(dim, x.ndim, "reduce_max")
    return torch.amax(x, dim) if 0 not in [x.shape[d] for d in dims] else _of_none(x, dims, least(dtype_of(x.dtype)))


@declare(type=reducing, reduction=MINIMUM)
def reduce_min(x: torch.Tensor, dim: Dims):
    """The least value over dims; NaN if there is one."""
    dims = dims_in(dim, x.ndim, "reduce_min")
    return torch.amin(x, dim) if 0 not in [x.shape[d] for d in dims] else _of_none(x, dims, most(dtype_of(x.dtype)))


# ---- compositions ----------------------------------------------------------------------------------------------------


def count(x: Node, dim: Sequence[int]) -> Index:
    """The number of elements that are reduced into one."""
    total: Index = 1
    for d in dim:
        total = total * x.shape[d]
    return total


def restore(x: Node, dim: Sequence[int], keepdim: bool = True) -> Node:
    """A reduction's result with the reduced dims back as 1, if they are to be kept."""
    for d in dim if keepdim else ():
        x = unsqueeze(x, d)
    return x


def _reduced(op, x: Node, dim: Sequence[int], keepdim: bool) -> Node:
    return restore(op(x, dim), dim, keepdim) if dim and x.rank else x


def top(x: Node, dim: Sequence[int]) -> Node:
    """The greatest value over dims, which stay as 1: a pivot for exponentials; of nothing it is -inf."""
    return _reduced(reduce_max, x, dim, keepdim=True)


def _accumulated(op, x: Node, dim: Sequence[int], keepdim: bool, dtype: DType | None) -> Node:
    """A sum or a product: halves accumulate in f32, integers in i64."""
    dt = dtype or (x.dtype if x.dtype.is_float else i64)
    return narrow(_reduced(op, wide(ir.cast(x, dt), dt), dim, keepdim), dt)


@declare(expand=lambda x, dim, keepdim, dtype: _accumulated(reduce_sum, x, dim, keepdim, dtype))
def sum(x: torch.Tensor, dim: Dims = None, keepdim: Flag = False, dtype: MaybeDType = None):
    """The sum over dims; of integers and bools in i64."""
    return torch.sum(x, dim, keepdim, dtype=maybe(dtype))


def _prod(x: Node, dim: int | None, keepdim: bool, dtype: DType | None) -> Node:
    return _accumulated(reduce_prod, x, all_or(dim, x), keepdim and dim is not None, dtype)


@declare(expand=_prod, domain=(-2, 2))
def prod(x: torch.Tensor, dim: MaybeDim = None, keepdim: Flag = False, dtype: MaybeDType = None):
    """The product over one dim or all; of integers and bools in i64."""
    return torch.prod(x, dtype=maybe(dtype)) if dim is None else torch.prod(x, dim, keepdim, dtype=maybe(dtype))


def maybe(dtype: DType | torch.dtype | None) -> torch.dtype | None:
    return None if dtype is None else torch_dtype(dtype)


def all_or(dim: int | None, x: Node) -> tuple[int, ...]:
    """One dim, or every one where none is given."""
    return tuple(range(x.rank)) if dim is None else (dim,)


def _mean(x: Node, dim: Sequence[int], keepdim: bool, dtype: DType | None) -> Node:
    dt = dtype or x.dtype
    if not dt.is_float:
        raise DTypesDisagree(op="mean", rule="the operand must be a float", got=str(dt), hint="Give dtype=.")
    z = wide(ir.cast(x, dt), dt)
    return narrow(sum(z, dim, keepdim) / count(x, dim) if dim else z, dt)


@declare(expand=_mean)
def mean(x: torch.Tensor, dim: Dims = None, keepdim: Flag = False, dtype: MaybeDType = None):
    """The sum over dims, divided by the number of elements."""
    return torch.mean(x, dim, keepdim, dtype=maybe(dtype))


def _extreme(op, name: str, x: Node, dim: Sequence[int], keepdim: bool) -> Node:
    if 0 in [x.shape[d] for d in dim]:
        raise BadArgument(op=name, name="x", rule="without a size 0 in the reduced dims", got=show_shape(x.shape),
                          hint="Nothing has no extreme value.")  # fmt: skip
    return _reduced(op, x, dim, keepdim)


@declare(expand=lambda x, dim, keepdim: _extreme(reduce_max, "amax", x, dim, keepdim))
def amax(x: torch.Tensor, dim: Dims = (), keepdim: Flag = False):
    """The greatest value over dims; NaN if there is one."""
    return torch.amax(x, dim, keepdim)


@declare(expand=lambda x, dim, keepdim: _extreme(reduce_min, "amin", x, dim, keepdim))
def amin(x: torch.Tensor, dim: Dims = (), keepdim: Flag = False):
    """The least value over dims; NaN if there is one."""
    return torch.amin(x, dim, keepdim)


@declare(expand=lambda x, dim, keepdim: (amin(x, dim, keepdim), amax(x, dim, keepdim)))
def aminmax(x: torch.Tensor, dim: Dims = None, keepdim: Flag = False):
    """The least and the greatest value over dims."""
    return torch.amin(x, dim, keepdim), torch.amax(x, dim, keepdim)


def position(x: Node, dim: Sequence[int]) -> Node:
    """The row-major number of each element among those that `dim` runs over, in x's rank, broadcastable to x."""
    total, stride = None, 1
    for d in reversed(dim):
        running = along(x, d)
        total = running if total is None else total + running * stride
        stride = stride * x.shape[d]
    assert total is not None, "no dims to number"
    return total


def _place(extreme, x: Node, dim: int | None, keepdim: bool) -> Node:
    """The first position of the extreme value, or of the first NaN."""
    dims = all_or(dim, x)
    if x.rank == 0:
        return ir.constant(0, Type(i64))
    found = eq(x, extreme(x, dims, True))
    if x.dtype.is_float:
        found = found | isnan(x)
    return _reduced(reduce_min, where(found, position(x, dims), count(x, dims)), dims, keepdim)


@declare(expand=lambda x, dim, keepdim: _place(amax, x, dim, keepdim))
def argmax(x: torch.Tensor, dim: MaybeDim = None, keepdim: Flag = False):
    """The first position of the greatest value along dim, or in row-major order; of the first NaN if there is one."""
    return torch.argmax(x, dim, keepdim)


@declare(expand=lambda x, dim, keepdim: _place(amin, x, dim, keepdim))
def argmin(x: torch.Tensor, dim: MaybeDim = None, keepdim: Flag = False):
    """The first position of the least value along dim, or in row-major order; of the first NaN if there is one."""
    return torch.argmin(x, dim, keepdim)


def _truth(op, x: Node, dim: Sequence[int], keepdim: bool) -> Node:
    result = _reduced(op, ir.cast(x, bool_), dim, keepdim)
    return ir.cast(result, x.dtype) if x.dtype.name == "u8" else result  # as torch, for the sake of its own past


@declare(expand=lambda x, dim, keepdim: _truth(reduce_max, x, dim, keepdim))
def any(x: torch.Tensor, dim: GivenDims = None, keepdim: Flag = False):
    """Whether any element over dims is not 0."""
    return torch.any(x, dim, keepdim)


@declare(expand=lambda x, dim, keepdim: _truth(reduce_min, x, dim, keepdim))
def all(x: torch.Tensor, dim: GivenDims = None, keepdim: Flag = False):
    """Whether all elements over dims are not 0."""
    return torch.all(x, dim, keepdim)


@declare(expand=lambda x, dim: sum(ne(x, 0), dim))
def count_nonzero(x: torch.Tensor, dim: Dims = None):
    """How many elements over dims are not 0."""
    return torch.count_nonzero(x, dim)


def _without_nan(x: Node) -> Node:
    return where(isnan(x), 0.0, x) if x.dtype.is_float else x


def _nansum(x: Node, dim: Sequence[int], keepdim: bool, dtype: DType | None) -> Node:
    dt = dtype or (x.dtype if x.dtype.is_float else i64)
    return narrow(sum(_without_nan(wide(ir.cast(x, dt), dt)), dim, keepdim), dt)


@declare(expand=_nansum)
def nansum(x: torch.Tensor, dim: Dims = None, keepdim: Flag = False, dtype: MaybeDType = None):
    """The sum over dims of what is not NaN."""
    return torch.nansum(x, dim, keepdim, dtype=maybe(dtype))


def _nanmean(x: Node, dim: Sequence[int], keepdim: bool, dtype: DType | None) -> Node:
    dt = dtype or _floating_only(x, "nanmean")
    numbers = sum(ir.cast(~isnan(x), i64), dim, keepdim)
    return narrow(sum(_without_nan(wide(ir.cast(x, dt), dt)), dim, keepdim) / numbers, dt)


@declare(expand=_nanmean)
def nanmean(x: torch.Tensor, dim: Dims = None, keepdim: Flag = False, dtype: MaybeDType = None):
    """The mean over dims of what is not NaN."""
    return torch.nanmean(x, dim, keepdim, dtype=maybe(dtype))


def _trace(x: Node) -> Node:
    if x.rank != 2:
        raise BadArgument(op="trace", name="x", rule="a matrix", got=show_shape(x.shape), hint="")
    return sum(diagonal(x))


@declare(expand=_trace)
def trace(x: torch.Tensor):
    """The sum of x[i, i]."""
    return torch.trace(x)


def centred(x: Node, dim: Sequence[int]) -> Node:
    """x minus its mean over dims"""
    return x - mean(x, dim, True)


def _variance(x: Node, dim: Sequence[int], correction: float, keepdim: bool) -> Node:
    z = centred(x, dim)
    degrees = count(x, dim) - correction if isinstance(correction, int) else ir.as_node(count(x, dim)) - correction
    if isinstance(degrees, Node) or not is_nonnegative(degrees):
        degrees = maximum(ir.as_node(degrees), 0)
    return sum(z * z, dim, keepdim) / degrees


def _floating_only(x: Node, op: str) -> DType:
    if not x.dtype.is_float:
        raise DTypesDisagree(op=op, rule="the operand must be a float", got=str(x.dtype), hint="Use x.float().")
    return x.dtype


def _var(x: Node, dim: Sequence[int], correction: float, keepdim: bool) -> Node:
    dt = _floating_only(x, "var")
    return narrow(_variance(wide(x, dt), dim, correction, keepdim), dt)


def _std(x: Node, dim: Sequence[int], correction: float, keepdim: bool) -> Node:
    dt = _floating_only(x, "std")
    return narrow(sqrt(_variance(wide(x, dt), dim, correction, keepdim)), dt)


@declare(expand=_var)
def var(x: torch.Tensor, dim: Dims = None, correction: Number = 1, keepdim: Flag = False):
    """sum((x - mean(x))^2) / max(0, n - correction)"""
    return torch.var(x, dim, correction=correction, keepdim=keepdim)


@declare(expand=_std)
def std(x: torch.Tensor, dim: Dims = None, correction: Number = 1, keepdim: Flag = False):
    """sqrt(var(x))"""
    return torch.std(x, dim, correction=correction, keepdim=keepdim)


def _logsumexp(x: Node, dim: Sequence[int], keepdim: bool) -> Node:
    dt = float_of(x)
    z = wide(x, dt)
    pivot = top(z, dim)
    pivot = where(eq(abs(pivot), math.inf), 0.0, pivot)
    total = log(sum(exp(z - pivot), dim, keepdim))
    return narrow(total + (pivot if keepdim else squeeze(pivot, dim)), dt)


@declare(expand=_logsumexp)
def logsumexp(x: torch.Tensor, dim: Dims, keepdim: Flag = False):
    """ln sum(e^x) over dims, without overflow"""
    return torch.logsumexp(x, dim, keepdim)


def _norm(x: Node, ord: float, dim: Sequence[int], keepdim: bool, dtype: DType | None) -> Node:
    dt = dtype or _floating_only(x, "vector_norm")
    z = abs(wide(ir.cast(x, dt), dt))
    if ord == 2:
        total = sqrt(sum(z * z, dim, keepdim))
    elif ord == 1:
        total = sum(z, dim, keepdim)
    elif ord == 0:
        total = sum(ir.cast(ne(z, 0), z.dtype), dim, keepdim)
    elif math.isinf(ord):
        total = (amax if ord > 0 else amin)(z, dim, keepdim)
    else:
        total = pow(sum(pow(z, ord), dim, keepdim), 1 / ord)
    return narrow(total, dt)


@declare(expand=_norm, torch=("torch.linalg.vector_norm",))
def vector_norm(x: torch.Tensor, ord: Number = 2, dim: Dims = None, keepdim: Flag = False, dtype: MaybeDType = None):
    """(sum |x|^ord)^(1 / ord) over dims"""
    return torch.linalg.vector_norm(x, ord, dim, keepdim, dtype=maybe(dtype))
