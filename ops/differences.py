"""Neighbours along a dimension: differences, slopes, areas."""

from __future__ import annotations

from typing import Any

import torch

from fusedsl import ir
from fusedsl.errors import BadArgument, ShapesDisagree
from fusedsl.index import Index
from fusedsl.ir import Dim, Node, Number, Size, declare, spells
from fusedsl.types import dim_in, same_size, show_shape

from .compare import ne
from .convert import float_of, narrow, wide
from .indexing import cat
from .movement import slice, unsqueeze
from .reduce import sum
from .scan import cumsum


def _neighbours(x: Node, dim: int) -> tuple[Node, Node]:
    """x without its first, and without its last place."""
    n = x.shape[dim]
    return (x, x) if n == 0 else (slice(x, dim, 1, n), slice(x, dim, 0, n - 1))


def _diff(x: Node, n: Index, dim: int) -> Node:
    if not isinstance(n, int) or n < 0:
        raise BadArgument(op="diff", name="n", rule="a number, at least 0", got=n, hint="")
    if not x.rank:
        raise BadArgument(op="diff", name="x", rule="of one dimension at least", got="[]", hint="")
    for _ in range(n):
        if x.shape[dim] == 0:
            return x
        after, before = _neighbours(x, dim)
        x = ne(after, before) if x.dtype.is_bool else after - before
    return x


@declare(expand=_diff)
def diff(x: torch.Tensor, n: Size = 1, dim: Dim = -1):
    """x[i + 1] - x[i] along dim, n times; of bools whether they differ"""
    return torch.diff(x, n, dim)


def _slopes(x: Node, dim: int, spacing: float, edge_order: int) -> Node:
    n, dt = x.shape[dim], float_of(x)
    if isinstance(n, int) and n <= edge_order:
        raise BadArgument(op="gradient", name="x", rule=f"of more than {edge_order} places in dim {dim}",
                          got=show_shape(x.shape), hint="")  # fmt: skip
    z = wide(ir.cast(x, dt), dt)

    def at(place: Index) -> Node:
        return slice(z, dim, place, place + 1)

    inner = (slice(z, dim, 2, n) - slice(z, dim, 0, n - 2)) / (spacing * 2)
    if edge_order == 1:
        first, last = (at(1) - at(0)) / spacing, (at(n - 1) - at(n - 2)) / spacing
    else:
        first = (at(1) * 2 - at(0) * 1.5 - at(2) * 0.5) / spacing
        last = (at(n - 1) * 1.5 - at(n - 2) * 2 + at(n - 3) * 0.5) / spacing
    return narrow(cat([first, inner, last], dim), dt)


@declare(expand=_slopes)
def slopes(x: torch.Tensor, dim: Dim, spacing: Number = 1.0, edge_order: Size = 1):
    """(x[i + 1] - x[i - 1]) / 2 spacing along dim, one-sided at the ends: torch.gradient of one dimension"""
    return torch.gradient(x, spacing=spacing, dim=dim, edge_order=edge_order)[0]


def _slopes_between(x: Node, places: Node, dim: int, edge_order: int) -> Node:
    """Of the parabola through a place and its neighbours; at the ends through the first three, or of a line."""
    places = ir.cast(places, float_of(places))  # distances are divided by each other first
    n, dt = x.shape[dim], float_of(x, places)
    if isinstance(n, int) and n <= edge_order:
        raise BadArgument(op="gradient", name="x", rule=f"of more than {edge_order} places in dim {dim}",
                          got=show_shape(x.shape), hint="")  # fmt: skip
    if places.rank != 1 or not same_size(places.shape[0], n):
        raise ShapesDisagree(op="gradient", rule=f"a place is needed for each of dim {dim}",
                             got=f"{show_shape(places.shape)} and {show_shape(x.shape)}", hint="")  # fmt: skip
    z, p = wide(ir.cast(x, dt), dt), wide(ir.cast(places, dt), dt)
    for _ in range(x.rank - dim - 1):
        p = unsqueeze(p, p.rank)

    def parts(value: Node, along: int) -> tuple[Node, Node]:
        after, before = _neighbours(value, along)
        return after - before, before

    (rise, _), (step, _) = parts(z, dim), parts(p, 0)
    slope = rise / step  # n - 1 of them, between neighbours

    def between(low: Index, high: Index) -> tuple[Node, Node]:
        return slice(slope, dim, low, high), slice(step, 0, low, high)

    (left, before), (right, after) = between(0, n - 2), between(1, n - 1)
    inner = (left * after + right * before) / (before + after)
    (first, step0), (last, step1) = between(0, 1), between(n - 2, n - 1)
    if edge_order == 2:
        (second, next0), (last_but_one, next1) = between(1, 2), between(n - 3, n - 2)
        first = first - (second - first) * step0 / (step0 + next0)
        last = last + (last - last_but_one) * step1 / (step1 + next1)
    return narrow(cat([first, inner, last], dim), dt)


@declare(expand=_slopes_between)
def slopes_between(x: torch.Tensor, places: torch.Tensor, dim: Dim, edge_order: Size = 1):
    """The slopes along dim of values at places that a vector gives: torch.gradient of one dimension"""
    return torch.gradient(x, spacing=(places,), dim=dim, edge_order=edge_order)[0]


def _areas(y: Node, x: Node | None, dx: float, dim: int) -> Node:
    """Twice the area between neighbours."""
    if not y.rank:
        raise BadArgument(op="trapezoid", name="y", rule="of one dimension at least", got="[]", hint="")
    after, before = _neighbours(y, dim)
    if x is None:
        return (after + before) * dx
    if x.rank > y.rank or (x.rank > 1 and y.rank - x.rank > dim):
        got = f"{show_shape(x.shape)} and {show_shape(y.shape)}"
        raise ShapesDisagree(op="trapezoid", rule="x needs the dimension that is summed over", got=got, hint="")
    steps = x
    if x.rank == 1:  # one for all rows
        for _ in range(y.rank - dim - 1):
            steps = unsqueeze(steps, steps.rank)
    after_x, before_x = _neighbours(steps, dim - y.rank + steps.rank)
    return (after_x - before_x) * (after + before)


def _trapezoid(y: Node, x: Node | None, dx: float, dim: int) -> Node:
    if y.rank and y.shape[dim] == 0:
        return sum(y, (dim,), dtype=y.dtype)
    return sum(_areas(y, x, dx, dim), (dim,)) / 2.0


@declare(expand=_trapezoid)
def trapezoid(y: torch.Tensor, x: torch.Tensor | None = None, dx: Number = 1, dim: Dim = -1):
    """sum (y[i] + y[i + 1]) (x[i + 1] - x[i]) / 2 along dim, with x[i] = i dx if there is none"""
    return torch.trapezoid(y, dx=dx, dim=dim) if x is None else torch.trapezoid(y, x, dim=dim)


def _cumulative_trapezoid(y: Node, x: Node | None, dx: float, dim: int) -> Node:
    return cumsum(_areas(y, x, dx, dim), dim) / 2.0


@declare(expand=_cumulative_trapezoid)
def cumulative_trapezoid(y: torch.Tensor, x: torch.Tensor | None = None, dx: Number = 1, dim: Dim = -1):
    """trapezoid of the first places, for each number of them"""
    return torch.cumulative_trapezoid(y, dx=dx, dim=dim) if x is None else torch.cumulative_trapezoid(y, x, dim=dim)


# ---- as torch calls them ---------------------------------------------------------------------------------------------


@spells("torch.diff", "Tensor.diff")
def diff_(input, n=1, dim=-1, prepend=None, append=None):
    if n and (prepend is not None or append is not None):
        input = cat([part for part in (prepend, input, append) if part is not None], dim)
    return diff(input, n, dim)


def _area_of(op, *names):
    @spells(*names)
    def area(y, x=None, *, dx=1, dim=-1):
        return op(y, x, dx, dim)


_area_of(trapezoid, "torch.trapezoid", "torch.trapz")
_area_of(cumulative_trapezoid, "torch.cumulative_trapezoid")


@spells("torch.gradient")
def gradient(input, *, spacing: Any = 1, dim=None, edge_order=1):
    rank = len(input.shape)
    dims = range(rank) if dim is None else dim if isinstance(dim, (list, tuple)) else [dim]
    spacing = 1 if spacing is None else spacing
    if hasattr(spacing, "dtype") and not spacing.shape:  # a number that is data
        return tuple(slope / spacing for slope in gradient(input, dim=dim, edge_order=edge_order))
    steps = spacing if isinstance(spacing, (list, tuple)) else [spacing] * len(dims)
    if edge_order not in (1, 2):
        raise BadArgument(op="gradient", name="edge_order", rule="1 or 2", got=edge_order, hint="")
    if len(steps) != len(dims):
        raise BadArgument(op="gradient", name="spacing", rule="a number, or one for each of dim", got=spacing, hint="")
    return tuple(_slope(input, step, dim_in(d, rank, "gradient"), edge_order)
                 for d, step in zip(dims, steps, strict=True))  # fmt: skip


def _slope(x: Any, step: Any, dim: int, edge_order: int) -> Any:
    if hasattr(step, "dtype"):
        return slopes_between(x, step, dim, edge_order)
    return slopes(x, dim, step, edge_order)
