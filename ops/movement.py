"""Views: each one is the index map from its result to its operand; none is ever a kernel of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fusedsl.errors import BadArgument, ShapesDisagree
from fusedsl.index import Index, Poly, cdiv, divide_exactly, floordiv, remainder
from fusedsl.ir import Dim, DimOrder, GivenDims, NewDim, Node, Size, Sizes, declare
from fusedsl.types import Type, same_size, show_shape

from .rules import viewed, without
from .source import numbers

Indices = Sequence[Index]

# ---- dimensions in and out -------------------------------------------------------------------------------------------


def _expanded(t: Type, size: Sequence[Index]) -> list[Index]:
    def refuse(rule: str) -> ShapesDisagree:
        got = f"{show_shape(t.shape)} to {show_shape(tuple(size))}"
        return ShapesDisagree(op="expand", rule=rule, got=got, hint="")

    new = len(size) - t.rank
    if new < 0:
        raise refuse("the new shape needs at least as many dimensions")
    shape: list[Index] = []
    for d, (n, old) in enumerate(zip(size, (*[1] * new, *t.shape), strict=True)):
        if n == -1 and d < new:
            raise refuse("-1 keeps a size, so it cannot stand for a new dimension")
        if n != -1 and old != 1 and not same_size(old, n):
            raise refuse("a dimension keeps its size unless it is 1")
        shape.append(old if n == -1 else n)
    return shape


def _expand_index(node: Node, index: Indices) -> Indices:
    source = node.inputs[0].shape
    kept = index[len(index) - len(source) :]
    return [0 if n == 1 else i for n, i in zip(source, kept, strict=True)]


@declare(type=viewed(_expanded), index=_expand_index)
def expand(x: torch.Tensor, size: Sizes):
    """x repeated along dimensions of size 1, and along new ones in front; -1 keeps a size"""
    return x.expand(size)


def _unsqueezed(t: Type, dim: int) -> list[Index]:
    return [*t.shape[:dim], 1, *t.shape[dim:]]


@declare(type=viewed(_unsqueezed), index=lambda node, index: [i for d, i in enumerate(index) if d != node["dim"]])
def unsqueeze(x: torch.Tensor, dim: NewDim):
    """x with a new dimension of size 1"""
    return torch.unsqueeze(x, dim)


def _dropped(t: Type, dim: Sequence[int]) -> list[int]:
    return [d for d in dim if t.shape[d] == 1]


def _squeeze_index(node: Node, index: Indices) -> Indices:
    (x,) = node.inputs
    dropped, rest = _dropped(x.type, node["dim"]), iter(index)
    return [0 if d in dropped else next(rest) for d in range(x.rank)]


@declare(type=viewed(lambda t, dim: without(t.shape, _dropped(t, dim))), index=_squeeze_index)
def squeeze(x: torch.Tensor, dim: GivenDims = None):
    """x without those dimensions that have size 1"""
    return torch.squeeze(x) if dim is None else torch.squeeze(x, dim)


# ---- another order ---------------------------------------------------------------------------------------------------


def _permuted(t: Type, dims: Sequence[int]) -> list[Index]:
    if len(dims) != t.rank:
        raise BadArgument(op="permute", name="dims", rule="every dimension once", got=repr(dims), hint="")
    return [t.shape[d] for d in dims]


def _permute_index(node: Node, index: Indices) -> Indices:
    result: list[Index] = [0] * len(index)
    for d, source in enumerate(node["dims"]):
        result[source] = index[d]
    return result


@declare(type=viewed(_permuted), index=_permute_index)
def permute(x: torch.Tensor, dims: DimOrder):
    """x with its dimensions in another order"""
    return x.permute(dims)


def _transpose(x: Node, dim0: int, dim1: int) -> Node:
    order = list(range(x.rank))
    if order:
        order[dim0], order[dim1] = dim1, dim0
    return permute(x, order)


@declare(expand=_transpose, torch=("torch.swapaxes", "Tensor.swapaxes", "torch.swapdims", "Tensor.swapdims"))
def transpose(x: torch.Tensor, dim0: Dim, dim1: Dim):
    """x with two dimensions exchanged"""
    return torch.transpose(x, dim0, dim1)


def _flip_index(node: Node, index: Indices) -> Indices:
    return [n - 1 - i if d in node["dims"] else i for d, (n, i) in enumerate(zip(node.shape, index, strict=True))]


@declare(type=viewed(lambda t, dims: t.shape), index=_flip_index)
def flip(x: torch.Tensor, dims: DimOrder):
    """x with the order along dims reversed"""
    return torch.flip(x, dims)


def _roll_index(node: Node, index: Indices) -> Indices:
    result = list(index)
    for d, shift in zip(node["dims"], node["shifts"], strict=True):
        result[d] = remainder(index[d] - shift, node.shape[d])
    return result


def _rolled(t: Type, shifts: Sequence[Index], dims: Sequence[int]) -> Sequence[Index]:
    if len(shifts) != len(dims):
        raise BadArgument(op="roll", name="shifts", rule="one for each of dims", got=repr(shifts), hint="")
    return t.shape


@declare(type=viewed(_rolled), index=_roll_index)
def roll(x: torch.Tensor, shifts: Sizes, dims: DimOrder):
    """x moved along dims by shifts, what leaves at the end entering at the start"""
    return torch.roll(x, shifts, dims)


# ---- another shape ---------------------------------------------------------------------------------------------------


def _reshaped(t: Type, shape: Sequence[Index]) -> list[Index]:
    sizes = list(shape)
    known: Index = 1
    for n in sizes:
        known = known * (1 if n == -1 else n)
    if -1 in sizes:
        if sizes.count(-1) > 1:
            got = show_shape(tuple(shape))
            raise BadArgument(op="reshape", name="shape", rule="with at most one -1", got=got, hint="")
        missing = divide_exactly(t.size, known) if known != 0 else None
        if missing is None and known != 0:
            missing = floordiv(t.size, known)
        if missing is not None:
            sizes[sizes.index(-1)] = missing
            known = known * missing
    if -1 in sizes or not same_size(t.size, known):
        got = f"{show_shape(t.shape)} to {show_shape(tuple(shape))}"
        raise ShapesDisagree(op="reshape", rule="the number of elements stays", got=got, hint="")
    return sizes


def _reshape_index(node: Node, index: Indices) -> Indices:
    """Row-major position in the result -> indices in the operand, dimension by dimension where they line up."""
    source, target = node.inputs[0].shape, node.shape
    result: list[Index] = [0] * len(source)
    s = t = 0
    while s < len(source) or t < len(target):
        s1, t1 = _segment(source, target, s, t)
        position: Index = 0
        for d in range(t, t1):
            position = position * target[d] + index[d]
        for d in range(s1 - 1, s - 1, -1):
            result[d] = position if d == s else remainder(position, source[d])
            position = floordiv(position, source[d]) if d > s else 0
        s, t = s1, t1
    return [0 if n == 1 else i for n, i in zip(source, result, strict=True)]


def _segment(source: Indices, target: Indices, s: int, t: int) -> tuple[int, int]:
    """The end of the shortest runs of source[s:] and target[t:] with one product."""
    a: Index = source[s] if s < len(source) else 1
    b: Index = target[t] if t < len(target) else 1
    s1, t1 = min(s + 1, len(source)), min(t + 1, len(target))
    while a != b:
        # grow the side that divides into the other; where neither is known to, take everything
        if t1 < len(target) and (divide_exactly(a, b) is not None or s1 == len(source)):
            b, t1 = b * target[t1], t1 + 1
        elif s1 < len(source):
            a, s1 = a * source[s1], s1 + 1
        else:
            break
    return s1, t1


@declare(type=viewed(_reshaped), index=_reshape_index)
def reshape(x: torch.Tensor, shape: Sizes):
    """x's elements in row-major order under another shape of as many elements; one size may be -1"""
    return torch.reshape(x, shape)


def _flatten(x: Node, start_dim: int, end_dim: int) -> Node:
    if start_dim > end_dim:
        raise BadArgument(op="flatten", name="start_dim", rule="at most end_dim", got=(start_dim, end_dim), hint="")
    size: Index = 1
    for n in x.shape[start_dim : end_dim + 1]:
        size = size * n
    return reshape(x, (*x.shape[:start_dim], size, *x.shape[end_dim + 1 :]))


@declare(expand=_flatten)
def flatten(x: torch.Tensor, start_dim: Dim = 0, end_dim: Dim = -1):
    """x with the dimensions from start_dim to end_dim made one"""
    return torch.flatten(x, start_dim, end_dim)


def _unflatten(x: Node, dim: int, sizes: Sequence[Index]) -> Node:
    sizes = _reshaped(Type(x.dtype, (x.shape[dim],)), sizes)
    return reshape(x, (*x.shape[:dim], *sizes, *x.shape[dim + 1 :]))


@declare(expand=_unflatten)
def unflatten(x: torch.Tensor, dim: Dim, sizes: Sizes):
    """x with one dimension made several; one size may be -1"""
    return torch.unflatten(x, dim, sizes)


# ---- parts -----------------------------------------------------------------------------------------------------------


def _sliced(t: Type, dim: int, start: Index, end: Index, step: Index) -> list[Index]:
    return [cdiv(end - start, step) if d == dim else n for d, n in enumerate(t.shape)]


def _slice_index(node: Node, index: Indices) -> Indices:
    return [node["start"] + i * node["step"] if d == node["dim"] else i for d, i in enumerate(index)]


@declare(type=viewed(_sliced), index=_slice_index)
def slice(x: torch.Tensor, dim: Dim, start: Size, end: Size, step: Size = 1):
    """x[start:end:step] along dim, with 0 <= start <= end <= the size and step >= 1"""
    return torch.ops.aten.slice(x, dim, start, end, step)


def _selected(t: Type, dim: int, index: Index) -> list[Index]:
    if isinstance(index, int) and isinstance(t.shape[dim], int) and not 0 <= index < t.shape[dim]:  # type: ignore[operator]
        raise BadArgument(op="select", name="index", rule=f"in [0, {t.shape[dim]})", got=index, hint="")
    return [n for d, n in enumerate(t.shape) if d != dim]


def _select_index(node: Node, index: Indices) -> Indices:
    dim = node["dim"]
    return [*index[:dim], node["index"], *index[dim:]]


@declare(type=viewed(_selected), index=_select_index)
def select(x: torch.Tensor, dim: Dim, index: Size):
    """The part of x at one index of dim, 0 <= index < the size."""
    return torch.select(x, dim, index)


def _windows(t: Type, dimension: int, size: Index, step: Index) -> list[Index]:
    count = floordiv(t.shape[dimension] - size, step) + 1
    return [*(count if d == dimension else n for d, n in enumerate(t.shape)), size]


def _unfold_index(node: Node, index: Indices) -> Indices:
    *outer, inner = index
    return [i * node["step"] + inner if d == node["dimension"] else i for d, i in enumerate(outer)]


@declare(type=viewed(_windows), index=_unfold_index)
def unfold(x: torch.Tensor, dimension: Dim, size: Size, step: Size):
    """Every window of `size` along a dimension, `step` apart, in a new last dimension."""
    return x.unfold(dimension, size, step)


def _diagonal_shape(t: Type, offset: int, dim1: int, dim2: int) -> list[Index]:
    rows, columns = t.shape[dim1] + min(offset, 0), t.shape[dim2] - max(offset, 0)
    if not same_size(rows, columns):
        if isinstance(rows, Poly) or isinstance(columns, Poly):
            raise ShapesDisagree(op="diagonal", rule="the matrix must be square where its sizes are symbolic",
                                 got=show_shape(t.shape), hint="")  # fmt: skip
        rows = max(min(rows, columns), 0)
    return [*without(t.shape, (dim1, dim2)), rows]


def _diagonal_index(node: Node, index: Indices) -> Indices:
    *outer, along = index
    rest = iter(outer)
    offset, dim1, dim2 = node["offset"], node["dim1"], node["dim2"]
    places = {dim1: along - min(offset, 0), dim2: along + max(offset, 0)}
    return [places[d] if d in places else next(rest) for d in range(len(index) + 1)]


@declare(type=viewed(_diagonal_shape), index=_diagonal_index)
def diagonal(x: torch.Tensor, offset: Size = 0, dim1: Dim = 0, dim2: Dim = 1):
    """x[..., i, i + offset] of two dimensions, as a new last dimension"""
    return torch.diagonal(x, offset, dim1, dim2)


# ---- repetition ------------------------------------------------------------------------------------------------------


def _repeated(t: Type, repeats: Sequence[Index]) -> list[Index]:
    if len(repeats) < t.rank:
        rule = "one for each dimension at least"
        raise BadArgument(op="repeat", name="repeats", rule=rule, got=repr(repeats), hint="")
    shape = (*[1] * (len(repeats) - t.rank), *t.shape)
    return [n * r for n, r in zip(shape, repeats, strict=True)]


def _repeat_index(node: Node, index: Indices) -> Indices:
    source = node.inputs[0].shape
    return [remainder(i, n) if n != 1 else 0 for i, n in zip(index[len(index) - len(source) :], source, strict=True)]


@declare(type=viewed(_repeated), index=_repeat_index)
def repeat(x: torch.Tensor, repeats: Sizes):
    """x laid out repeats[d] times along each dimension"""
    return x.repeat(repeats)


def _each_repeated(t: Type, repeats: Index, dim: int) -> list[Index]:
    return [n * repeats if d == dim else n for d, n in enumerate(t.shape)]


def _each_index(node: Node, index: Indices) -> Indices:
    return [floordiv(i, node["repeats"]) if d == node["dim"] else i for d, i in enumerate(index)]


@declare(type=viewed(_each_repeated), index=_each_index)
def repeat_interleave(x: torch.Tensor, repeats: Size, dim: Dim):
    """Each element along dim `repeats` times in a row."""
    return torch.repeat_interleave(x, repeats, dim)


# ---- running indices -------------------------------------------------------------------------------------------------


def along(x: Node, dim: int) -> Node:
    """The index in dim of x's elements: of x's rank, with size 1 in the other dimensions."""
    running = numbers(x.shape[dim])
    for d in range(x.rank):
        running = running if d == dim else unsqueeze(running, d)
    return running
