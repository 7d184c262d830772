"""Products without a sum, and tensors whose places are numbered in a certain order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fusedsl import ir
from fusedsl.errors import BadArgument, ShapesDisagree, UnknownFunction
from fusedsl.index import Index
from fusedsl.ir import Dim, MaybeDType, MaybeSize, Node, Size, declare, spells
from fusedsl.types import DType, i64, show_shape

from .compare import le, maximum, minimum
from .elementwise import pow
from .indexing import index_select, stack
from .movement import expand, flip, reshape, roll, select, unsqueeze
from .reduce import maybe, reduce_sum
from .source import numbers

# ---- products --------------------------------------------------------------------------------------------------------


def _kron(x: Node, other: Node) -> Node:
    rank = max(x.rank, other.rank)
    m, n = ((1,) * (rank - t.rank) + t.shape for t in (x, other))
    left = reshape(x, [size for each in m for size in (each, 1)])
    right = reshape(other, [size for each in n for size in (1, each)])
    return reshape(left * right, [a * b for a, b in zip(m, n, strict=True)])


@declare(expand=_kron)
def kron(x: torch.Tensor, other: torch.Tensor):
    """x[i] other[j] at i n + j along each dimension, with n other's size there"""
    return torch.kron(x, other)


def _cross(x: Node, other: Node, dim: int) -> Node:
    if x.rank != other.rank:
        raise ShapesDisagree(op="cross", rule="both need as many dimensions",
                             got=f"{show_shape(x.shape)} and {show_shape(other.shape)}", hint="")  # fmt: skip
    if x.rank == 0 or x.shape[dim] != 3 or other.shape[dim] != 3:
        raise BadArgument(op="cross", name="dim", rule="of size 3 in both",
                          got=f"{show_shape(x.shape)} and {show_shape(other.shape)}", hint="")  # fmt: skip

    def turned(t: Node, by: int) -> Node:
        return roll(t, (-by,), (dim,))

    return turned(x, 1) * turned(other, 2) - turned(x, 2) * turned(other, 1)


@declare(expand=_cross, torch=("torch.linalg.cross",))
def cross(x: torch.Tensor, other: torch.Tensor, dim: Dim = -1):
    """x[i + 1] other[i + 2] - x[i + 2] other[i + 1] along a dimension of 3"""
    return torch.linalg.cross(x, other, dim=dim)


def _vander(x: Node, n: Index | None) -> Node:
    if not x.rank:
        raise BadArgument(op="vander", name="x", rule="of one dimension at least", got="[]", hint="")
    count = x.shape[-1] if n is None else n
    if isinstance(count, int) and count < (0 if n is None else 1):
        raise BadArgument(op="vander", name="N", rule="at least 1", got=count, hint="")
    base = unsqueeze(ir.cast(x, i64) if not x.dtype.is_float else x, x.rank)
    return pow(base, numbers(count))


@declare(expand=_vander)
def powers(x: torch.Tensor, n: MaybeSize = None):
    """x^0, x^1 ... x^(n - 1) in a new last dimension, of as many places as x's last without n: torch.linalg.vander"""
    return torch.linalg.vander(x, N=n)


# ---- numbered places -------------------------------------------------------------------------------------------------


def _passed(y: Any, width: int) -> Any:
    """The sum of clamp(v, 0, width) over all whole v up to y, of a node or of a number."""
    if isinstance(y, int):
        inside, beyond = min(max(y, 0), width), max(y - width, 0)
    else:
        inside, beyond = minimum(maximum(y, 0), width), maximum(y - width, 0)
    return inside * (inside + 1) // 2 + beyond * width


def _triangle_places(row: int, col: int, offset: int, upper: bool, dtype: DType | None) -> Node:
    """Row by row: the row of the k-th place is the number of rows that end at or before k."""
    if min(row, col) < 0:
        raise BadArgument(op="tril_indices", name="row and col", rule="not negative", got=(row, col), hint="")

    def before(r: Any) -> Any:
        """How many places the rows before r have."""
        lower = _passed(r + offset, col) - _passed(offset, col)  # rows of clamp(i + offset + 1, 0, col)
        return r * col - _passed(r + offset - 1, col) + _passed(offset - 1, col) if upper else lower

    count = before(row)
    k = numbers(count)
    if not count:
        rows = columns = k
    else:
        ends = before(numbers(row) + 1)
        rows = reduce_sum(ir.cast(le(unsqueeze(ends, 0), unsqueeze(k, 1)), i64), (1,))
        rows = minimum(rows, row - 1)  # of the places that a tile has beyond the last, too: they may be an index
        first = minimum(maximum(rows + offset, 0), col) if upper else 0
        columns = minimum(k - before(rows) + first, col - 1)
    return ir.cast(stack([rows, columns], 0), dtype or i64)


@declare(expand=lambda row, col, offset, dtype: _triangle_places(row, col, offset, False, dtype))
def tril_indices(row: Size, col: Size, offset: Size = 0, dtype: MaybeDType = None):
    """The rows and the columns of the places of a lower triangle, column <= row + offset, row by row"""
    return torch.tril_indices(row, col, offset, dtype=maybe(dtype) or torch.int64)


@declare(expand=lambda row, col, offset, dtype: _triangle_places(row, col, offset, True, dtype))
def triu_indices(row: Size, col: Size, offset: Size = 0, dtype: MaybeDType = None):
    """The rows and the columns of the places of an upper triangle, column >= row + offset, row by row"""
    return torch.triu_indices(row, col, offset, dtype=maybe(dtype) or torch.int64)


def _cartesian_prod(tensors: Sequence[Node]) -> Node:
    for t in tensors:
        if t.rank != 1:
            got = show_shape(t.shape)
            raise BadArgument(op="cartesian_prod", name="each tensor", rule="a vector", got=got, hint="")
    if len(tensors) == 1:
        return tensors[0]
    shape = [t.shape[0] for t in tensors]
    parts = []
    for d, t in enumerate(tensors):
        parts.append(reshape(expand(reshape(t, [n if e == d else 1 for e, n in enumerate(shape)]), shape), (-1,)))
    return stack(parts, 1)


@declare(expand=_cartesian_prod)
def cartesian_prod(tensors: list[torch.Tensor]):
    """Every choice of one element from each vector, the last changing first"""
    return torch.cartesian_prod(*tensors)


# ---- as torch calls them ---------------------------------------------------------------------------------------------


@spells("torch.cross", "Tensor.cross")
def cross_(input, other, dim=None):
    if dim is None:
        threes = [d for d, n in enumerate(input.shape) if n == 3]
        if not threes:
            raise BadArgument(op="cross", name="the operand", rule="of size 3 in a dimension", got="none", hint="")
        dim = threes[0]
    return cross(input, other, dim)


@spells("torch.linalg.vander")
def linalg_vander(x, *, N=None):
    return powers(x, N)


@spells("torch.vander")
def vander(x, N=None, increasing=False):
    if N == 0:
        raise BadArgument(op="vander", name="N", rule="at least 1", got=0, hint="")
    found = powers(x, N)
    return found if increasing else flip(found, (-1,))


@spells("torch.cartesian_prod")
def cartesian_prod_(*tensors):
    return cartesian_prod(list(tensors))


def _places_of(op, name):
    @spells(name)
    def places(row, col, offset=0, *, dtype=None, device=None, layout=None):
        return op(int(row), int(col), int(offset), dtype)


_places_of(tril_indices, "torch.tril_indices")
_places_of(triu_indices, "torch.triu_indices")


@spells("torch.combinations")
def combinations(input, r=2, with_replacement=False):
    if r not in (1, 2):
        raise UnknownFunction(op="combinations", hint="Of r = 1 or 2 it is there.")
    if len(input.shape) != 1:
        got = f"{len(input.shape)} dimensions"
        raise BadArgument(op="combinations", name="input", rule="a vector", got=got, hint="")
    if r == 1:
        return unsqueeze(input, 1)
    n = int(input.shape[0])
    places = triu_indices(n, n, 0 if with_replacement else 1)
    return stack([index_select(input, 0, select(places, 0, end)) for end in (0, 1)], 1)
