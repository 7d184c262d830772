"""Pooling: windows are views, and what is around the operand is a value that changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from fusedsl import ir
from fusedsl.errors import BadArgument, DTypesDisagree, ShapesDisagree
from fusedsl.index import Index, divide_exactly, floordiv
from fusedsl.ir import Flag, MaybeNumber, MaybeSizes, Node, Number, Sizes, declare
from fusedsl.types import DType, show_shape

from .compare import eq, isnan, lt, maximum, minimum, where
from .convert import clone, narrow, wide
from .elementwise import floor_divide, pow, trunc_divide
from .indexing import pad, pick
from .movement import along, reshape, slice, unfold, unsqueeze
from .reduce import least, reduce_max, reduce_min, reduce_sum
from .source import numbers

NOWHERE = 2**53  # beyond every place; a float holds it


# ---- windows ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Windows:
    """Those along one dimension of size n: `count` of them, with `size` elements `dilation` apart, `stride` apart
    themselves, the first one beginning `padding` before the dimension, the last ending at most `after` behind it."""

    n: Index
    size: Index
    stride: Index
    padding: Index
    dilation: Index
    count: Index
    after: Index

    @property
    def span(self) -> Index:
        return (self.size - 1) * self.dilation + 1


def _each(values: Sequence[Index] | None, rank: int, op: str, name: str) -> tuple[Index, ...]:
    """One number for each dimension, of one for all or of as many."""
    values = values or ()
    if len(values) not in (1, rank):
        raise BadArgument(op=op, name=name, rule=f"one number or {rank}", got=repr(values), hint="")
    return tuple(values) * (rank if len(values) == 1 else 1)


def _windows(x: Node, rank: int, op: str, kernel_size, stride, padding=(0,), dilation=(1,),
             ceil_mode: bool = False) -> list[Windows]:  # fmt: skip
    """The windows along each of x's last dimensions, before which one or two others stand."""
    if x.rank not in (rank + 1, rank + 2):
        rule = f"of {rank + 1} or {rank + 2} dimensions"
        raise BadArgument(op=op, name="x", rule=rule, got=show_shape(x.shape), hint="")
    lists = {"kernel_size": kernel_size, "stride": stride or kernel_size, "padding": padding, "dilation": dilation}
    each = (_each(values, rank, op, name) for name, values in lists.items())
    return [_along(op, ceil_mode, *given) for given in zip(x.shape[-rank:], *each, strict=True)]


def _along(op: str, ceil_mode: bool, *given: Index) -> Windows:
    n, size, stride, padding, dilation = given
    for name, value, low in (("kernel_size", size, 1), ("stride", stride, 1), ("padding", padding, 0),
                             ("dilation", dilation, 1)):  # fmt: skip
        if isinstance(value, int) and value < low:
            raise BadArgument(op=op, name=name, rule=f"at least {low}", got=value, hint="")
    if isinstance(size, int) and isinstance(padding, int) and 2 * padding > size:
        raise BadArgument(op=op, name="padding", rule="at most half of kernel_size", got=padding, hint="")
    span = (size - 1) * dilation + 1
    room = n + 2 * padding - span
    if isinstance(room, int) and room < 0 and not ceil_mode:
        got = f"windows of {span} in {n} and {padding} on each side"
        raise ShapesDisagree(op=op, rule="the windows must fit", got=got, hint="")
    if not ceil_mode:
        return Windows(n, size, stride, padding, dilation, floordiv(room, stride) + 1, padding)
    if not isinstance(room, int) or not isinstance(stride, int):
        raise BadArgument(op=op, name="ceil_mode", rule="False for a symbolic size", got=True, hint="")
    count = -(-room // stride) + 1
    if (count - 1) * stride >= n + padding:  # type: ignore[operator]
        count -= 1  # the last window would begin behind everything
    if count < 1:
        got = f"windows of {span} in {n} and {padding} on each side"
        raise ShapesDisagree(op=op, rule="the windows must fit", got=got, hint="")
    return Windows(n, size, stride, padding, dilation, count, (count - 1) * stride + span - n - padding)


def _seen(x: Node, windows: Sequence[Windows], outside: float) -> Node:
    """What the windows see: the elements of each in new last dimensions; `outside` around x."""
    if any(w.padding != 0 or (w.after != 0 and not _is_negative(w.after)) for w in windows):
        around = [amount for w in reversed(windows) for amount in (w.padding, w.after)]
        x = pad(x, around, "constant", outside)
    for w, dim in zip(windows, range(x.rank - len(windows), x.rank), strict=True):
        x = unfold(x, dim, w.span, w.stride)
        if w.dilation != 1:
            x = slice(x, x.rank - 1, 0, w.span, w.dilation)
    return x


def _is_negative(n: Index) -> bool:
    return isinstance(n, int) and n < 0


def _last(x: Node, rank: int) -> tuple[int, ...]:
    return tuple(range(x.rank - rank, x.rank))


def _lined_up(vectors: Sequence[Node]) -> Node:
    """The product of vectors, each along a dimension of its own."""
    result = None
    for at, vector in enumerate(vectors):
        for _ in vectors[at + 1 :]:
            vector = unsqueeze(vector, -1)
        result = vector if result is None else result * vector
    assert result is not None, "no dimensions"
    return result


def _places(x: Node, rank: int) -> Node:
    """The row-major number of each element among those of the last dimensions, broadcastable to x."""
    place: Node | None = None
    for d in _last(x, rank):
        place = along(x, d) if place is None else place * x.shape[d] + along(x, d)
    assert place is not None, "no dimensions"
    return place


# ---- averages --------------------------------------------------------------------------------------------------------


def _number_dtype(x: Node, op: str) -> DType:
    if x.dtype.is_bool:
        raise DTypesDisagree(op=op, rule="the operand must not be a bool", got=str(x.dtype), hint="Use x.float().")
    return x.dtype


def _sizes(windows: Sequence[Windows], count_include_pad: bool) -> Node | Index:
    """How many elements each window has, those around the operand included or not; none beyond those."""
    if all(w.after == w.padding if count_include_pad else w.padding == 0 == w.after for w in windows):
        return math.prod(w.size for w in windows)  # type: ignore[arg-type]
    vectors = []
    for w in windows:
        start = numbers(w.count) * w.stride - w.padding
        end = minimum(start + w.size, w.n + w.padding)
        vectors.append(end - start if count_include_pad else minimum(end, w.n) - maximum(start, 0))
    return _lined_up(vectors)


def _averages(x: Node, windows: Sequence[Windows], count_include_pad: bool, divisor: int | None) -> Node:
    """The mean of each window, in the type that x is computed in."""
    seen = _seen(wide(x, x.dtype), windows, 0)
    total = reduce_sum(seen, _last(seen, len(windows)))
    by = _sizes(windows, count_include_pad) if divisor is None else divisor
    if x.dtype.is_float:
        return total / (ir.cast(by, total.dtype) if isinstance(by, Node) else by)
    return trunc_divide(total, by)


def _avg_pool(rank: int) -> Callable[..., Node]:
    op = f"avg_pool{rank}d"

    def expand(x: Node, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override=None) -> Node:
        dt = _number_dtype(x, op)
        if divisor_override == 0:
            raise BadArgument(op=op, name="divisor_override", rule="not 0", got=divisor_override, hint="")
        windows = _windows(x, rank, op, kernel_size, stride, padding, ceil_mode=ceil_mode)
        return narrow(_averages(x, windows, count_include_pad, divisor_override), dt)

    return expand


@declare(expand=_avg_pool(1))
def avg_pool1d(x: torch.Tensor, kernel_size: Sizes, stride: MaybeSizes = None, padding: Sizes = 0,
               ceil_mode: Flag = False, count_include_pad: Flag = True):  # fmt: skip
    """The mean of each window along the last dimension, over 0 around it; with ceil_mode a last window may end beyond
    that, and without count_include_pad only elements of x count."""
    return F.avg_pool1d(x, kernel_size, stride or kernel_size, padding, ceil_mode, count_include_pad)


@declare(expand=_avg_pool(2))
def avg_pool2d(x: torch.Tensor, kernel_size: Sizes, stride: MaybeSizes = None, padding: Sizes = 0,
               ceil_mode: Flag = False, count_include_pad: Flag = True,
               divisor_override: MaybeNumber = None):  # fmt: skip
    """avg_pool1d over the last two dimensions; a divisor_override stands for the number of elements"""
    return F.avg_pool2d(x, kernel_size, stride or kernel_size, padding, ceil_mode, count_include_pad, divisor_override)


@declare(expand=_avg_pool(3))
def avg_pool3d(x: torch.Tensor, kernel_size: Sizes, stride: MaybeSizes = None, padding: Sizes = 0,
               ceil_mode: Flag = False, count_include_pad: Flag = True,
               divisor_override: MaybeNumber = None):  # fmt: skip
    """avg_pool1d over the last three dimensions; a divisor_override stands for the number of elements"""
    return F.avg_pool3d(x, kernel_size, stride or kernel_size, padding, ceil_mode, count_include_pad, divisor_override)


def _lp_pool(rank: int) -> Callable[..., Node]:
    op = f"lp_pool{rank}d"

    def expand(x: Node, norm_type: float, kernel_size, stride, ceil_mode: bool) -> Node:
        dt = _number_dtype(x, op)
        windows = _windows(x, rank, op, kernel_size, stride, ceil_mode=ceil_mode)
        means = _averages(pow(wide(x, dt), norm_type), windows, True, None)
        return narrow(pow(means * math.prod(w.size for w in windows), 1 / norm_type), dt)  # type: ignore[arg-type]

    return expand


@declare(expand=_lp_pool(1))
def lp_pool1d(x: torch.Tensor, norm_type: Number, kernel_size: Sizes, stride: MaybeSizes = None,
              ceil_mode: Flag = False):  # fmt: skip
    """sum(x^p)^(1/p) of each window along the last dimension, with p = norm_type"""
    return F.lp_pool1d(x, norm_type, _one(kernel_size), _one(stride), ceil_mode)


def _one(sizes):
    return sizes[0] if isinstance(sizes, (tuple, list)) else sizes


@declare(expand=_lp_pool(2))
def lp_pool2d(x: torch.Tensor, norm_type: Number, kernel_size: Sizes, stride: MaybeSizes = None,
              ceil_mode: Flag = False):  # fmt: skip
    """sum(x^p)^(1/p) of each window over the last two dimensions, with p = norm_type"""
    return F.lp_pool2d(x, norm_type, _all(kernel_size, 2), stride, ceil_mode)


@declare(expand=_lp_pool(3))
def lp_pool3d(x: torch.Tensor, norm_type: Number, kernel_size: Sizes, stride: MaybeSizes = None,
              ceil_mode: Flag = False):  # fmt: skip
    """sum(x^p)^(1/p) of each window over the last three dimensions, with p = norm_type"""
    return F.lp_pool3d(x, norm_type, _all(kernel_size, 3), stride, ceil_mode)


def _all(sizes, rank: int):
    """One size as a size for each dimension."""
    sizes = sizes if isinstance(sizes, (tuple, list)) else (sizes,)
    return tuple(sizes) * rank if len(sizes) == 1 else tuple(sizes)


# ---- greatest values -------------------------------------------------------------------------------------------------


@declare(expand=lambda x, like: clone(x))
def laid_out(x: torch.Tensor, like: torch.Tensor):
    """x, in memory as `like` is, a tensor of its shape"""
    return torch.empty_like(like, dtype=x.dtype).copy_(x)


def _place(seen: Node, dims: tuple[int, ...], places: Node) -> Node:
    """The place of the greatest value over dims: the first, or the last NaN's."""
    best = reduce_max(seen, dims)
    for d in dims:
        best = unsqueeze(best, d)
    first = reduce_min(where(eq(seen, best), places, NOWHERE), dims)
    if not seen.dtype.is_float:
        return first
    last = reduce_max(where(isnan(seen), places, -1), dims)
    return where(last < 0, first, last)


def _max_pool(rank: int) -> Callable[..., Any]:
    op = f"max_pool{rank}d"

    def expand(x: Node, return_indices: bool, **attrs: Any) -> Any:
        windows = _windows(x, rank, op, **attrs)
        seen = _seen(x, windows, least(_number_dtype(x, op)))
        if not return_indices:
            return reduce_max(seen, _last(seen, rank))
        values = ir.build(ir.OPS[op], (x,), attrs)
        places = _seen(_places(x, rank), windows, NOWHERE)
        return values, laid_out(_place(seen, _last(seen, rank), places), values)

    return expand


@declare(expand=_max_pool(1))
def max_pool1d(x: torch.Tensor, kernel_size: Sizes, stride: MaybeSizes = None, padding: Sizes = 0, dilation: Sizes = 1,
               ceil_mode: Flag = False, return_indices: Flag = False):  # fmt: skip
    """The greatest value of each window along the last dimension, and its place there if asked for."""
    return F.max_pool1d(x, kernel_size, stride or kernel_size, padding, dilation, ceil_mode, return_indices)


@declare(expand=_max_pool(2))
def max_pool2d(x: torch.Tensor, kernel_size: Sizes, stride: MaybeSizes = None, padding: Sizes = 0, dilation: Sizes = 1,
               ceil_mode: Flag = False, return_indices: Flag = False):  # fmt: skip
    """The greatest value of each window over the last two dimensions, and its row-major place there if asked for."""
    return F.max_pool2d(x, kernel_size, stride or kernel_size, padding, dilation, ceil_mode, return_indices)


@declare(expand=_max_pool(3))
def max_pool3d(x: torch.Tensor, kernel_size: Sizes, stride: MaybeSizes = None, padding: Sizes = 0, dilation: Sizes = 1,
               ceil_mode: Flag = False, return_indices: Flag = False):  # fmt: skip
    """The greatest value of each window over the last three dimensions, and its row-major place there if asked for."""
    return F.max_pool3d(x, kernel_size, stride or kernel_size, padding, dilation, ceil_mode, return_indices)


# ---- as many windows as asked for ------------------------------------------------------------------------------------


def _in_parts(x: Node, sizes: Sequence[Index], outside: float, op: str) -> tuple[Node, tuple[int, ...], list]:
    """x with each of its last dimensions cut into parts, the k-th of count from k n / count, rounded down, up to
    (k + 1) n / count, rounded up: the dimension of parts, then that of their elements. With the dimensions of elements,
    and how many each part has."""
    lengths = []
    rank = len(sizes)
    for d, count in reversed(list(enumerate(sizes, x.rank - rank))):
        n = x.shape[d]
        size = divide_exactly(n, count) if count != 0 else 0
        if size is not None:
            x = reshape(x, (*x.shape[:d], count, size, *x.shape[d + 1 :]))
            lengths.append(size)
            continue
        if not isinstance(n, int) or not isinstance(count, int):
            raise BadArgument(op=op, name="output_size", rule="a divisor of a symbolic size", got=count, hint="")
        size = max(-((k + 1) * n // -count) - k * n // count for k in range(count))
        start = floor_divide(numbers(count) * n, count)
        end = floor_divide((numbers(count) + 1) * n + (count - 1), count)
        place = unsqueeze(start, 1) + numbers(size)
        inside = lt(place, unsqueeze(end, 1))
        x = pick([x, minimum(place, n - 1)], (d,), d)
        for _ in range(x.rank - d - 2):
            inside = unsqueeze(inside, -1)
        x = where(inside, x, ir.cast(ir.as_node(outside), x.dtype))
        lengths.append(end - start)
    first = x.rank - 2 * rank
    return x, tuple(range(first + 1, x.rank, 2)), lengths[::-1]


def _adaptive_sizes(x: Node, sizes: Sequence[Index], rank: int, op: str) -> tuple[Index, ...]:
    if x.rank not in (rank + 1, rank + 2) or 0 in x.shape[-rank:]:
        rule = f"of {rank + 1} or {rank + 2} dimensions, the last not empty"
        raise BadArgument(op=op, name="x", rule=rule, got=show_shape(x.shape), hint="")
    return _each(sizes, rank, op, "output_size")


def _adaptive_avg(rank: int) -> Callable[..., Node]:
    op = f"adaptive_avg_pool{rank}d"

    def expand(x: Node, output_size) -> Node:
        dt = x.dtype
        if not dt.is_float:
            raise DTypesDisagree(op=op, rule="the operand must be a float", got=str(dt), hint="Use x.float().")
        parts, dims, lengths = _in_parts(wide(x, dt), _adaptive_sizes(x, output_size, rank, op), 0, op)
        total = reduce_sum(parts, dims)
        for at, length in enumerate(lengths):
            if isinstance(length, Node):
                for _ in lengths[at + 1 :]:
                    length = unsqueeze(length, -1)
                length = ir.cast(length, total.dtype)
            total = total / length
        return narrow(total, dt)

    return expand


def _adaptive_max(rank: int) -> Callable[..., Any]:
    op = f"adaptive_max_pool{rank}d"

    def expand(x: Node, output_size, return_indices: bool) -> Any:
        sizes = _adaptive_sizes(x, output_size, rank, op)
        parts, dims, _ = _in_parts(x, sizes, least(_number_dtype(x, op)), op)
        if not return_indices:
            return reduce_max(parts, dims)
        values = ir.build(ir.OPS[op], (x, output_size), {})
        places = _in_parts(_places(x, rank), sizes, NOWHERE, op)[0]
        return values, laid_out(_place(parts, dims, places), values)

    return expand


@declare(expand=_adaptive_avg(1))
def adaptive_avg_pool1d(x: torch.Tensor, output_size: Sizes):
    """The means of output_size parts of the last dimension; where that does not divide, parts overlap by one."""
    return F.adaptive_avg_pool1d(x, output_size)


@declare(expand=_adaptive_avg(2))
def adaptive_avg_pool2d(x: torch.Tensor, output_size: Sizes):
    """adaptive_avg_pool1d over the last two dimensions"""
    return F.adaptive_avg_pool2d(x, _all(output_size, 2))


@declare(expand=_adaptive_avg(3))
def adaptive_avg_pool3d(x: torch.Tensor, output_size: Sizes):
    """adaptive_avg_pool1d over the last three dimensions"""
    return F.adaptive_avg_pool3d(x, _all(output_size, 3))


@declare(expand=_adaptive_max(1))
def adaptive_max_pool1d(x: torch.Tensor, output_size: Sizes, return_indices: Flag = False):
    """The greatest values of output_size parts of the last dimension, and their places if asked for."""
    return F.adaptive_max_pool1d(x, output_size, return_indices)


@declare(expand=_adaptive_max(2))
def adaptive_max_pool2d(x: torch.Tensor, output_size: Sizes, return_indices: Flag = False):
    """The greatest values of parts of the last two dimensions, and their row-major places there if asked for."""
    return F.adaptive_max_pool2d(x, _all(output_size, 2), return_indices)


@declare(expand=_adaptive_max(3))
def adaptive_max_pool3d(x: torch.Tensor, output_size: Sizes, return_indices: Flag = False):
    """The greatest values of parts of the last three dimensions, and their row-major places there if asked for."""
    return F.adaptive_max_pool3d(x, _all(output_size, 3), return_indices)
