"""Sorting along a row, by ranks.

The rank of an element is the number of elements that come before it; the k-th of a sorted row is the element of rank k.
Both are sums over the row, and every element sees every other: n^2 comparisons for a row of n. So a row has at most
MOST elements; torch's own sort, outside the fused function, is the way for longer ones. NaN comes after every number,
as in torch, and elements that are equal keep their order, also where torch leaves it open.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from fusedsl import ir
from fusedsl.errors import BadArgument, DTypesDisagree
from fusedsl.index import Index, Poly, floordiv
from fusedsl.ir import Choice, Dim, Flag, MaybeDim, Node, Size, declare, spells
from fusedsl.types import DType, Type, dim_in, i32, i64, show_shape
from fusedsl.types import dtype as dtype_of

from .compare import bitwise_not, eq, ge, gt, isnan, le, logical_not, lt, maximum, where
from .elementwise import ceil, floor, lerp, round
from .indexing import cat
from .movement import along, permute, reshape, unsqueeze
from .reduce import all_or, least, reduce_max, reduce_min, reduce_sum
from .selecting import ordered, selected, whole_of
from .source import numbers

MOST = 4096
FEW = 8  # of the greatest elements, which are found one by one


def check_row(n: Any, op: str) -> None:
    """Raises BadArgument for a row that is too long. While tracing, the comparison is a guard: a longer row is traced
    anew, and refused then. Of a symbol in a graph nothing is known, and nothing is said."""
    if not isinstance(n, Poly) and n > MOST:
        raise BadArgument(op=op, name="the row", rule=f"of at most {MOST} elements", got=n,
                          hint=f"It takes n^2 comparisons: call torch.{op} outside the fused function.")  # fmt: skip


# ---- ranks -----------------------------------------------------------------------------------------------------------


def _comes_before(a: Node, b: Node, descending: bool) -> Node:
    """Whether a comes before b: it is less (greater), or b (a) is NaN and the other is not."""
    before = logical_not(le(a, b) if descending else ge(a, b))
    number = b if descending else a
    return before & logical_not(isnan(number)) if number.dtype.is_float else before


def ranks(x: Node, dim: int, descending: bool = False) -> Node:
    """rank[i] = the number of j for which x[j] comes before x[i], or is equal to it and j < i"""
    mine, other = unsqueeze(x, dim + 1), unsqueeze(x, dim)
    i, j = unsqueeze(along(x, dim), dim + 1), unsqueeze(along(x, dim), dim)
    before = where(lt(j, i), logical_not(_comes_before(mine, other, descending)),
                   _comes_before(other, mine, descending))  # fmt: skip
    return reduce_sum(ir.cast(before, i32), (dim + 1,))


def _chosen(x: Node, chosen: Node, dim: int) -> Node:
    """The one element along dim that is chosen. A maximum, which keeps -0.0 and NaN as they are."""
    return reduce_max(where(chosen, x, ir.constant(least(x.dtype), Type(x.dtype))), (dim,))


def _at_ranks(x: Node, rank: Node, wanted: Node, dim: int) -> tuple[Node, Node]:
    """The elements of the wanted ranks, a vector, and their positions, along dim."""
    for d in range(x.rank - dim - 1):
        wanted = unsqueeze(wanted, d + 1)
    found = eq(unsqueeze(rank, dim + 1), ir.cast(wanted, i32))
    place = unsqueeze(along(x, dim), dim + 1)
    return _chosen(unsqueeze(x, dim + 1), found, dim), reduce_sum(where(found, place, 0), (dim,))


def _at_rank(x: Node, rank: Node, wanted: Node, dim: int, keepdim: bool) -> tuple[Node, Node]:
    """The element of one rank, and its position, along dim; `wanted` broadcasts with x."""
    found = eq(rank, ir.cast(wanted, i32))
    value, place = _chosen(x, found, dim), reduce_sum(where(found, along(x, dim), 0), (dim,))
    return (unsqueeze(value, dim), unsqueeze(place, dim)) if keepdim else (value, place)


def _first(x: Node) -> tuple[Node, Node]:
    """Of a scalar: itself, at 0."""
    return x, ir.constant(0, Type(i64))


# ---- sorting ---------------------------------------------------------------------------------------------------------


def _sort(x: Node, dim: int, descending: bool) -> tuple[Node, Node]:
    if not x.rank:
        return _first(x)
    check_row(x.shape[dim], "sort")
    return _at_ranks(x, ranks(x, dim, descending), numbers(x.shape[dim]), dim)


@declare(expand=lambda x, dim, descending: _sort(x, dim, descending)[0])
def sort_values(x: torch.Tensor, dim: Dim = -1, descending: Flag = False):
    """x in order along dim: the values of `sort`"""
    return torch.sort(x, dim=dim, descending=descending, stable=True).values


@declare(expand=lambda x, dim, descending: _sort(x, dim, descending)[1])
def argsort(x: torch.Tensor, dim: Dim = -1, descending: Flag = False):
    """Where the elements of x in order along dim were: the indices of `sort`"""
    return torch.sort(x, dim=dim, descending=descending, stable=True).indices


@declare(expand=lambda x, dim, descending: (sort_values(x, dim, descending), argsort(x, dim, descending)))
def sort(x: torch.Tensor, dim: Dim = -1, descending: Flag = False):
    """x in order along dim, equal elements as they stood and NaN after the greatest, and where each was. y[k] = x[i]
    for the i of rank k: n^2 comparisons a row, of at most 4096 elements"""
    return tuple(torch.sort(x, dim=dim, descending=descending, stable=True))


def _is_few(k: Any, dt: DType) -> bool:
    """Whether elements are found one by one: few of them, of a dtype that has integers in its order."""
    return isinstance(k, int) and 0 < k <= FEW and (dt.bits > 8 if dt.is_float else dt.kind in "ib")


def _one_by_one(x: Node, k: int, dim: int, largest: bool) -> tuple[Node, Node]:
    """Each the first of the greatest keys among those after the one before."""
    key = ordered(x, x.dtype.name) if x.dtype.is_float else ir.cast(x, whole_of(x.dtype))
    key = key if largest else bitwise_not(key)
    lowest, place = ir.constant(-(1 << (key.dtype.bits - 1)), Type(key.dtype)), along(x, dim)
    left, values, places = None, [], []
    for _ in range(k):
        greatest = unsqueeze(reduce_max(key if left is None else where(left, key, lowest), (dim,)), dim)
        here = eq(key, greatest) if left is None else left & eq(key, greatest)
        at = unsqueeze(reduce_min(where(here, place, x.shape[dim]), (dim,)), dim)
        values.append(unsqueeze(_chosen(x, eq(place, at), dim), dim))
        places.append(at)
        left = lt(key, greatest) | (eq(key, greatest) & gt(place, at))
    return cat(values, dim), cat(places, dim)


def _topk(x: Node, k: Index, dim: int, largest: bool) -> tuple[Node, Node]:
    n = x.shape[dim] if x.rank else 1
    if isinstance(k, int) and (k < 0 or (isinstance(n, int) and k > n)):
        raise BadArgument(op="topk", name="k", rule=f"in [0, {n}]", got=k, hint="")
    if not x.rank:
        if k != 1:
            raise BadArgument(op="topk", name="k", rule="1 for a scalar", got=k, hint="")
        return _first(x)
    if isinstance(k, int) and _is_few(k, x.dtype):
        return _one_by_one(x, k, dim, largest)
    check_row(n, "topk")
    return _at_ranks(x, ranks(x, dim, largest), numbers(k), dim)


@declare(expand=_topk)
def topk(x: torch.Tensor, k: Size, dim: Dim = -1, largest: Flag = True):
    """The k greatest or least elements along dim, in order, and where they were; of equal ones the first. Up to eight
    are found one by one; more take n^2 comparisons a row, of at most 4096 elements"""
    values, places = torch.sort(x, dim=dim, descending=largest, stable=True)
    return (values.narrow(dim, 0, k), places.narrow(dim, 0, k)) if x.ndim else (values, places)


def _kthvalue(x: Node, k: Index, dim: int, keepdim: bool) -> tuple[Node, Node]:
    n = x.shape[dim] if x.rank else 1
    if isinstance(k, int) and (k < 1 or (isinstance(n, int) and k > n)):
        raise BadArgument(op="kthvalue", name="k", rule=f"in [1, {n}]", got=k, hint="")
    check_row(n, "kthvalue")
    return _at_rank(x, ranks(x, dim), ir.as_node(k - 1), dim, keepdim) if x.rank else _first(x)


@declare(expand=_kthvalue)
def kthvalue(x: torch.Tensor, k: Size, dim: Dim = -1, keepdim: Flag = False):
    """The k-th least element along dim, counted from 1, and where it was; of equal ones each has a rank of its own"""
    values, places = torch.sort(x, dim=dim, stable=True)
    values, places = (part.select(dim, k - 1) if x.ndim else part for part in (values, places))
    return (values.unsqueeze(dim), places.unsqueeze(dim)) if keepdim and x.ndim else (values, places)


# ---- the middle ------------------------------------------------------------------------------------------------------


def _counted(x: Node, dim: int) -> Node:
    """How many are not NaN, with dim kept as 1."""
    return unsqueeze(reduce_sum(ir.cast(logical_not(isnan(x)), i32), (dim,)), dim)


def _median(x: Node, dim: int, keepdim: bool) -> tuple[Node, Node]:
    if not x.rank:
        return _first(x)
    n = _some(x, dim, "median")
    middle = eq(ranks(x, dim), ir.cast(ir.as_node(floordiv(n - 1, 2)), i32))
    # a maximum is NaN if any is; the place of a NaN is less than any other
    place = where(middle, along(x, dim) + n, n + n)
    if x.dtype.is_float:
        place, middle = where(isnan(x), along(x, dim), place), middle | isnan(x)
    found = _chosen(x, middle, dim), reduce_min(place, (dim,)) % n
    return (unsqueeze(found[0], dim), unsqueeze(found[1], dim)) if keepdim else found


def _some(x: Node, dim: int, op: str) -> Index:
    n = x.shape[dim]
    check_row(n, op)
    if n == 0:
        raise BadArgument(op=op, name="x", rule="without a size 0 in dim", got=show_shape(x.shape), hint="")
    return n


@declare(expand=_median)
def median(x: torch.Tensor, dim: Dim = -1, keepdim: Flag = False):
    """The element of rank (n - 1) // 2 along dim, or the first NaN, and where it was. n^2 comparisons a row, of at most
    4096 elements"""
    if not x.ndim:
        return x, torch.zeros((), dtype=torch.int64, device=x.device)
    return _middle(x, dim, keepdim, torch.isnan(x).any(dim, keepdim=True))


def _middle(x: torch.Tensor, dim: int, keepdim: bool, spoilt: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """By sorting: the middle of the numbers, or the first NaN where a row is spoilt."""
    values, places = torch.sort(x, dim=dim, stable=True)
    valid = (~torch.isnan(x)).sum(dim, keepdim=True)
    at = torch.where(spoilt, valid, (valid - 1).clamp(min=0) // 2)
    values, places = (part.gather(dim, at) for part in (values, places))
    return (values, places) if keepdim else (values.squeeze(dim), places.squeeze(dim))


def _nanmedian(x: Node, dim: int, keepdim: bool) -> tuple[Node, Node]:
    if not x.dtype.is_float or not x.rank:
        return _median(x, dim, keepdim)
    _some(x, dim, "nanmedian")
    return _at_rank(x, ranks(x, dim), maximum(_counted(x, dim) - 1, 0) // 2, dim, keepdim)


@declare(expand=_nanmedian)
def nanmedian(x: torch.Tensor, dim: Dim = -1, keepdim: Flag = False):
    """The element of rank (m - 1) // 2 of the m numbers along dim, NaN if there is none, and where it was"""
    if not x.ndim:
        return x, torch.zeros((), dtype=torch.int64, device=x.device)
    return _middle(x, dim, keepdim, torch.zeros_like(x.amax(dim, keepdim=True), dtype=torch.bool))


def _mode(x: Node, dim: int, keepdim: bool) -> tuple[Node, Node]:
    if not x.rank:
        return _first(x)
    _some(x, dim, "mode")
    mine, other = unsqueeze(x, dim + 1), unsqueeze(x, dim)
    same = eq(mine, other)
    if x.dtype.is_float:
        same = same | (isnan(mine) & isnan(other))
    count = reduce_sum(ir.cast(same, i32), (dim + 1,))
    rank = ranks(x, dim)
    most = eq(count, unsqueeze(reduce_max(count, (dim,)), dim))
    # the last of the first run of that many: its rank is that of the run's first, and what the run is long
    first = unsqueeze(reduce_min(where(most, rank, 2**31 - 1), (dim,)), dim)
    return _at_rank(x, rank, first + unsqueeze(reduce_max(count, (dim,)), dim) - 1, dim, keepdim)


@declare(expand=_mode)
def mode(x: torch.Tensor, dim: Dim = -1, keepdim: Flag = False):
    """The most frequent value along dim, the least of several, and where it was last. n^2 comparisons a row, of at most
    4096 elements"""
    if not x.ndim:
        return x, torch.zeros((), dtype=torch.int64, device=x.device)
    values = x.movedim(dim, -1)
    nan = torch.isnan(values)
    same = (values[..., None] == values[..., None, :]) | (nan[..., None] & nan[..., None, :])
    count = same.sum(-1)
    order = torch.sort(values, dim=-1, stable=True).indices
    first = order.gather(-1, (count == count.amax(-1, keepdim=True)).gather(-1, order).long().argmax(-1, keepdim=True))
    alike = same.gather(-1, first[..., None, :].expand(*same.shape[:-1], 1)).squeeze(-1)
    last = torch.where(alike, torch.arange(values.shape[-1], device=x.device), -1).amax(-1, keepdim=True)
    value, place = values.gather(-1, last), last
    return tuple(part.movedim(-1, dim) if keepdim else part.squeeze(-1) for part in (value, place))


# ---- quantiles -------------------------------------------------------------------------------------------------------

INTERPOLATIONS = ("linear", "lower", "higher", "midpoint", "nearest")


def _quantile(x: Node, q: Node, dim: int | None, keepdim: bool, interpolation: str, ignoring: bool) -> Node:
    op = "nanquantile" if ignoring else "quantile"
    if interpolation not in INTERPOLATIONS:
        rule = " or ".join(map(repr, INTERPOLATIONS))
        raise BadArgument(op=op, name="interpolation", rule=rule, got=repr(interpolation), hint="")
    if x.dtype.name not in ("f32", "f64"):
        raise DTypesDisagree(op=op, rule="the operand must be float32 or float64", got=str(x.dtype),
                             hint="Use x.float().")  # fmt: skip
    if q.rank > 1:
        raise BadArgument(op=op, name="q", rule="a number or a vector", got=show_shape(q.shape), hint="")
    if not q.type.weak and q.dtype is not x.dtype:
        raise DTypesDisagree(op=op, rule="q must be of the operand's dtype", got=f"{q.dtype} and {x.dtype}", hint="")
    rank = x.rank
    dims = all_or(dim, x) if rank else ()
    row = reshape(x, (-1,)) if dim is None or not rank else _last(x, dim)
    n = _some(row, row.rank - 1, op)
    q = ir.cast(q, x.dtype)
    vector = q.rank == 1
    for _ in range(row.rank):
        q = unsqueeze(q, q.rank)
    valid = _counted(row, row.rank - 1)  # [..., 1]
    if ignoring:
        place = q * ir.cast(maximum(valid - 1, 0), x.dtype)
    else:
        place = where(lt(valid, n), ir.cast(ir.as_node(n - 1), x.dtype), q * ir.cast(ir.as_node(n - 1), x.dtype))
    position = ranks(row, row.rank - 1)

    def element(at: Node) -> Node:
        found = eq(position, ir.cast(at, i32))
        return _chosen(row, found, found.rank - 1)

    if interpolation == "lower":
        result = element(floor(place))
    elif interpolation == "higher":
        result = element(ceil(place))
    elif interpolation == "nearest":
        result = element(round(place))
    else:
        low = floor(place)
        weight = place - low if interpolation == "linear" else ir.constant(0.5, Type(x.dtype))
        squeezed = weight if not weight.rank else reshape(weight, weight.shape[:-1])
        result = lerp(element(low), element(ceil(place)), squeezed)
    if keepdim:
        for d in dims:
            result = unsqueeze(result, d + vector)
    if not vector:
        return result
    # torch has the quantiles last before it moves them, and so its result lies in memory
    order = tuple(range(result.rank))
    return permute(permute(result, (*order[1:], 0)), (order[-1], *order[:-1]))


def _last(x: Node, dim: int) -> Node:
    """x with dim as the last."""
    order = [d for d in range(x.rank) if d != dim]
    return x if dim == x.rank - 1 else permute(x, (*order, dim))


@declare(expand=lambda x, q, dim, keepdim, interpolation: _quantile(x, q, dim, keepdim, interpolation, False),
         domain=((-4, 4), (0, 1)))  # fmt: skip
def quantile(x: torch.Tensor, q: torch.Tensor, dim: MaybeDim = None, keepdim: Flag = False,
             interpolation: Choice = "linear"):  # fmt: skip
    """The element of rank q (n - 1) along dim, between two of them interpolated; NaN if there is one. n^2 comparisons a
    row, of at most 4096 elements"""
    return torch.quantile(x, q, dim, keepdim, interpolation=interpolation)


@declare(expand=lambda x, q, dim, keepdim, interpolation: _quantile(x, q, dim, keepdim, interpolation, True),
         domain=((-4, 4), (0, 1)))  # fmt: skip
def nanquantile(x: torch.Tensor, q: torch.Tensor, dim: MaybeDim = None, keepdim: Flag = False,
                interpolation: Choice = "linear"):  # fmt: skip
    """quantile of what is not NaN"""
    return torch.nanquantile(x, q, dim, keepdim, interpolation=interpolation)


# ---- as torch calls them ---------------------------------------------------------------------------------------------


def _row(x: Any, dim: int | None, op: str) -> None:
    """The guard on the row's length, where sizes are those of a trace."""
    if len(x.shape):
        check_row(math.prod(x.shape) if dim is None else x.shape[dim_in(dim, len(x.shape), op)], op)


def _within(x: Any, k: Any, dim: int, op: str, least: int) -> Any:
    """How long the row is, of which k elements, or the k-th, are asked for."""
    n = x.shape[dim_in(dim, len(x.shape), op)] if len(x.shape) else 1
    if not least <= k <= n:
        raise BadArgument(op=op, name="k", rule=f"in [{least}, {n}]", got=k, hint="")
    return n


@spells("torch.sort", "Tensor.sort")
def sort_(input, dim=-1, descending=False, stable=False):
    _row(input, dim, "sort")
    return torch.return_types.sort(sort(input, dim, descending))


@spells("torch.argsort", "Tensor.argsort")
def argsort_(input, dim=-1, descending=False, stable=False):
    _row(input, dim, "argsort")
    return argsort(input, dim, descending)


@spells("torch.msort", "Tensor.msort")
def msort(input):
    _row(input, 0, "msort")
    return sort_values(input, 0)


@spells("torch.topk", "Tensor.topk")
def topk_(input, k, dim=-1, largest=True, sorted=True):
    if not _is_few(k, dtype_of(input.dtype)):
        _row(input, dim, "topk")
    _within(input, k, dim, "topk", 0)
    return torch.return_types.topk(topk(input, k, dim, largest))


@spells("torch.kthvalue", "Tensor.kthvalue")
def kthvalue_(input, k, dim=-1, keepdim=False):
    n = _within(input, k, dim, "kthvalue", 1)
    one = selected if n > MOST and dtype_of(input.dtype).bits <= 32 else kthvalue
    if one is kthvalue:
        _row(input, dim, "kthvalue")
    return torch.return_types.kthvalue(one(input, k, dim, keepdim))


@spells("torch.mode", "Tensor.mode")
def mode_(input, dim=-1, keepdim=False):
    _row(input, dim, "mode")
    return torch.return_types.mode(mode(input, dim, keepdim))


def _middle_of(name: str) -> None:
    @spells(f"torch.{name}", f"Tensor.{name}")
    def middle(input, dim=None, keepdim=False):
        _row(input, dim, name)
        if dim is None:
            return ir.OPS[name](reshape(input, (-1,)), 0)[0]
        return getattr(torch.return_types, name)(ir.OPS[name](input, dim, keepdim))


_middle_of("median")
_middle_of("nanmedian")


def _quantile_of(name: str) -> None:
    @spells(f"torch.{name}", f"Tensor.{name}")
    def of(input, q, dim=None, keepdim=False, *, interpolation="linear"):
        _row(input, dim, name)
        if not hasattr(q, "dtype") and not 0 <= q <= 1:
            raise BadArgument(op=name, name="q", rule="in [0, 1]", got=q, hint="")
        return ir.OPS[name](input, q, dim, keepdim, interpolation)


_quantile_of("quantile")
_quantile_of("nanquantile")
