"""What is not pointwise and no view of one tensor: joining, padding, and reading at indices that are data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from fusedsl import ir
from fusedsl.errors import BadArgument, DataDependent, DTypesDisagree, ShapesDisagree
from fusedsl.index import Index, is_nonnegative
from fusedsl.ir import OPS, Choice, Dim, DimOrder, MaybeNumber, NewDim, Node, Size, Sizes, TypeRule, declare, spells
from fusedsl.types import DType, Type, broadcast, i64, same_size, show_shape

from .compare import eq, ge, maximum, minimum, where
from .convert import check_number
from .movement import along, expand, squeeze, unsqueeze
from .movement import slice as cut
from .rules import common, without
from .source import numbers


def still(index: Sequence[Index], shape: Sequence[Index]) -> list[Index]:
    """An index of a tensor of that shape, 0 where a dimension has one place."""
    return [0 if n == 1 else i for i, n in zip(index, shape, strict=True)]


# ---- joining ---------------------------------------------------------------------------------------------------------


def _empty(t: Type) -> bool:
    """torch lets a vector of no elements stand among tensors of any shape."""
    return t.shape == (0,)


def _joined(types: Sequence[Type], dim: int) -> Type:
    parts = [t for t in types if not _empty(t)] or list(types)
    first, total = parts[0], 0
    for t in parts:
        alike = t.rank == first.rank > 0 and all(
            d == dim or same_size(a, b) for d, (a, b) in enumerate(zip(t.shape, first.shape, strict=True))
        )
        if not alike:
            raise ShapesDisagree(op="cat", rule="all sizes but that of dim must be equal",
                                 got=" and ".join(show_shape(t.shape) for t in types), hint="")  # fmt: skip
        total = total + t.shape[dim]
    return Type(types[0].dtype, tuple(total if d == dim else n for d, n in enumerate(first.shape)))


def _cat_operands(types: Sequence[Type], op: str) -> list[DType | None]:
    return [common(types, op)] * len(types)


def _cat_lower(context, node: Node, index: Sequence[Index]):
    dim, end = node["dim"], node.shape[node["dim"]]
    result = None
    for part in reversed([p for p in node.inputs if not _empty(p.type)]):  # the last one first
        start = end - part.shape[dim]
        here = context.both(context.less(start - 1, index[dim]), context.less(index[dim], end))
        inner = [i - start if d == dim else i for d, i in enumerate(index)]
        value = context.at(part, still(inner, part.shape), when=here)
        result = value if result is None else context.select(context.less(index[dim], end), value, result)
        end = start
    return result


@declare(type=TypeRule(_joined, _cat_operands), lower=_cat_lower,
         torch=("torch.concat", "torch.concatenate"))  # fmt: skip
def cat(tensors: list[torch.Tensor], dim: Dim = 0):
    """The tensors one after the other along dim."""
    return torch.cat(tensors, dim)


@declare(expand=lambda tensors, dim: cat([unsqueeze(t, dim) for t in tensors], dim))
def stack(tensors: list[torch.Tensor], dim: NewDim = 0):
    """The tensors one after the other along a new dimension."""
    return torch.stack(tensors, dim)


# ---- padding ---------------------------------------------------------------------------------------------------------


def _edges(rank: int, pad: Sequence[Index]) -> list[tuple[Index, Index]]:
    """What is added before and after, dimension by dimension; `pad` starts with the last one."""
    pairs = [(pad[k], pad[k + 1]) for k in range(0, len(pad), 2)]
    return [(0, 0)] * (rank - len(pairs)) + pairs[::-1]


def _padded(types: Sequence[Type], pad: Sequence[Index], value: float | None, mode: str) -> Type:
    (t,) = types
    if mode != "constant":
        raise BadArgument(op="pad", name="mode", rule="'constant'", got=repr(mode), hint="")
    if len(pad) % 2 or len(pad) > 2 * t.rank:
        raise BadArgument(op="pad", name="pad", rule="a pair for each of the last dimensions", got=repr(pad), hint="")
    edges = list(zip(t.shape, _edges(t.rank, pad), strict=True))
    shape = tuple(n + low + high for n, (low, high) in edges)
    left = (n + sum(end for end in ends if isinstance(end, int) and end < 0) for n, ends in edges)
    if any(isinstance(n, int) and n < 0 for n in (*shape, *left)):
        raise ShapesDisagree(op="pad", rule="no more can be cut off than is there", got=show_shape(t.shape), hint="")
    return Type(t.dtype, shape)


def _pad_lower(context, node: Node, index: Sequence[Index]):
    (x,) = node.inputs
    inside, inner = None, []
    for i, n, (low, _) in zip(index, x.shape, _edges(x.rank, node["pad"]), strict=True):
        here = context.both(context.less(low - 1, i), context.less(i, low + n))
        inside = here if inside is None else context.both(inside, here)
        inner.append(0 if n == 1 else i - low)
    if inside is None:
        return context.at(x, ())
    value = context.constant(node["value"] or 0, node.dtype)
    return context.select(inside, context.at(x, inner, when=inside), value)


@declare(type=TypeRule(_padded), lower=_pad_lower)
def pad(x: torch.Tensor, pad: Sizes, mode: Choice = "constant", value: MaybeNumber = None):
    """x with a constant around it: `pad` lists before and after for the last dimension, the one before it ..."""
    return F.pad(x, pad, mode, value)


# ---- reading at indices ----------------------------------------------------------------------------------------------


def _indices(node_types: Sequence[Type], op: str) -> None:
    for t in node_types:
        if t.dtype.is_bool or t.dtype.name == "u8":
            hint = "Use torch.where(mask, x, 0), or torch.where(mask, y, h) in the place of h[mask] = y[mask]."
            raise DataDependent(op=op, what="the shape of what a mask selects", hint=hint)
        if not t.dtype.is_integer:
            raise DTypesDisagree(op=op, rule="indices must be integers", got=str(t.dtype), hint="Use .long().")


def _gathered(types: Sequence[Type], dim: int) -> Type:
    x, index = types
    _indices([index], "gather")
    got = f"{show_shape(x.shape)} and {show_shape(index.shape)}"
    if x.rank != index.rank:
        raise ShapesDisagree(op="gather", rule="index needs as many dimensions as the operand", got=got, hint="")
    if not all(d == dim or _fits(m, n) for d, (m, n) in enumerate(zip(index.shape, x.shape, strict=True))):
        rule = "index may exceed the operand along dim alone"
        raise ShapesDisagree(op="gather", rule=rule, got=got, hint="")
    return Type(x.dtype, index.shape)


def _fits(m: Index, n: Index) -> bool:
    """m <= n, as far as it is known; where it is not, the sizes are to be equal."""
    return is_nonnegative(n - m) or same_size(m, n)


def _gather_lower(context, node: Node, index: Sequence[Index]):
    x, at = node.inputs
    if x.rank == 0:
        return context.at(x, ())
    dim = node["dim"]
    place = context.index(at, index, x.shape[dim])
    return context.at(x, still([place if d == dim else i for d, i in enumerate(index)], x.shape))


@declare(type=TypeRule(_gathered), lower=_gather_lower)
def gather(x: torch.Tensor, dim: Dim, index: torch.Tensor):
    """x[..., index[..., i, ...], ...]: the index along dim is data, those along the other dims are the result's own"""
    return torch.gather(x, dim, index.long())


def _picked(types: Sequence[Type], dims: Sequence[int], place: int) -> Type:
    x, *indices = types
    _indices(indices, "index")
    shape = broadcast([t.shape for t in indices], "index")
    rest = without(x.shape, dims)
    return Type(x.dtype, (*rest[:place], *shape, *rest[place:]))


def _pick_lower(context, node: Node, index: Sequence[Index]):
    x, *indices = node.inputs
    dims, place = node["dims"], node["place"]
    rank = len(index) - (x.rank - len(dims))
    inner, outer = index[place : place + rank], iter((*index[:place], *index[place + rank :]))
    at: dict[int, Index] = {}
    for d, which in zip(dims, indices, strict=True):
        aligned = inner[rank - which.rank :]
        at[d] = context.index(which, still(aligned, which.shape), x.shape[d])
    return context.at(x, still([at[d] if d in at else next(outer) for d in range(x.rank)], x.shape))


@declare(type=TypeRule(_picked), lower=_pick_lower)
def pick(tensors: list[torch.Tensor], dims: DimOrder, place: Size):
    """The first tensor at indices from 0, which the other tensors give for `dims`; their dimensions go to `place`."""
    x, *indices = tensors
    # indexing reads an index of no dims, and selects there: on meta tensors it cannot, and any place will do
    at = tuple(0 if t.is_meta and t.ndim == 0 else t.long() for t in indices)
    together = len(dims) == max(dims) - min(dims) + 1
    if place == (min(dims) if together else 0) and all(t.ndim for t in indices):  # where torch, too, puts them
        keys = dict(zip(dims, at, strict=True))
        return x[tuple(keys.get(d, slice(None)) for d in range(x.ndim))]
    found = x.movedim(dims, tuple(range(len(dims))))[at]
    rank = found.ndim - (x.ndim - len(dims))
    return found.movedim(tuple(range(rank)), tuple(range(place, place + rank)))


def _never_negative(node: Node) -> bool:
    """Whether an index is one from 0 for what it is made of: running indices and their sums and products."""
    if node.op.index is not None or node.op.name in ("add", "mul"):
        return all(map(_never_negative, node.inputs))
    return node.op.name == "iota" or node.dtype.kind == "u" or (node.op.name == "const" and node["value"] >= 0)


def _index(tensors: Sequence[Node], dims: Sequence[int], place: int) -> Node:
    x, *indices = tensors
    _indices([i.type for i in indices], "index")
    wrapped = [i if _never_negative(i) else where(i < 0, i + x.shape[d], i) for d, i in zip(dims, indices, strict=True)]
    return pick([x, *wrapped], dims, place)


@declare(expand=_index)
def index(tensors: list[torch.Tensor], dims: DimOrder, place: Size):
    """As `pick`, with indices below 0 counted from the end: x[i, j]."""
    return pick.reference(tensors, dims, place)


@declare(expand=lambda x, index, dim: _index([x, index], (dim,), dim))
def select_at(x: torch.Tensor, dim: Dim, index: torch.Tensor):
    """x at one index along dim, which a tensor of no dims gives: a view, as with a number"""
    return torch.select(x, dim, 0 if index.is_meta else int(index))  # any place will do where there is no memory


def _index_select(x: Node, index: Node, dim: int) -> Node:
    if index.rank > 1:
        raise BadArgument(op="index_select", name="index", rule="a vector", got=show_shape(index.shape), hint="")
    index = index if index.rank else unsqueeze(index, 0)
    if x.rank:
        return pick([x, index], (dim,), dim)
    return squeeze(pick([unsqueeze(x, 0), index], (0,), 0), 0)


@declare(expand=_index_select)
def index_select(x: torch.Tensor, dim: Dim, index: torch.Tensor):
    """x at the indices of a vector along dim"""
    return torch.index_select(x, dim, index)


# ---- padding with the tensor itself ----------------------------------------------------------------------------------


def _around(place: Node, n: Index, mode: str) -> Node:
    """The index in [0, n) for one before 0 or from n on."""
    if mode == "replicate":
        return maximum(minimum(place, n - 1), 0)
    below, above = (-place, -(place - (n - 1) * 2)) if mode == "reflect" else (place + n, place - n)
    return where(place < 0, below, where(place < n, place, above))


def _cropped(x: Node, dim: int, low: Index, high: Index) -> tuple[Node, Index, Index]:
    """x without what negative padding cuts off, and the padding that is left."""
    first, last = (-end if isinstance(end, int) and end < 0 else 0 for end in (low, high))
    return cut(x, dim, first, x.shape[dim] - last), low + first, high + last


def _pad_around(x: Node, pad: Sequence[Index], mode: str) -> Node:
    for d, (low, high) in enumerate(_edges(x.rank, pad)):
        if (low, high) != (0, 0):
            if mode == "circular":  # goes around what is left of it
                x, low, high = _cropped(x, d, low, high)
            n = x.shape[d]
            x = pick([x, _around(numbers(n + low + high) - low, n, mode)], (d,), d)
    return x


@declare(expand=_pad_around)
def pad_around(x: torch.Tensor, pad: Sizes, mode: Choice):
    """x with more of itself around it: `pad` as for pad; mode "reflect" mirrors it at its first and last place,
    "replicate" repeats these, "circular" starts again"""
    return F.pad(x, pad, mode)


@spells("F.pad")
def pad_by_mode(input, pad, mode="constant", value=None):
    if mode == "constant":
        as_torch_has_it = float(value) if isinstance(value, int) else value
        check_number(as_torch_has_it, input.dtype, "pad", "value")
        return OPS["pad"](input, pad, mode, value)
    if mode not in ("reflect", "replicate", "circular"):
        rule = "'constant', 'reflect', 'replicate' or 'circular'"
        raise BadArgument(op="pad", name="mode", rule=rule, got=repr(mode), hint="")
    if value is not None:
        raise BadArgument(op="pad", name="value", rule=f"left out with mode={mode!r}", got=value, hint="")
    rank, pairs = len(input.shape), len(pad) // 2
    if len(pad) % 2 or rank not in (pairs + 1, pairs + 2) or pairs > 3:
        rule = "a pair for each dimension but the first, or the first two"
        raise BadArgument(op="pad", name="pad", rule=rule, got=repr(pad), hint="")
    edges: Any = _edges(rank, pad)  # of sizes as a trace sees them, which compare as numbers do
    for d, ends in enumerate(edges):
        n = input.shape[d]
        if mode == "circular":  # more than is left of it torch takes from where nothing was written yet
            n = n + sum(end for end in ends if end < 0)
        for more in ends:
            most = n - 1 if mode == "reflect" else n
            if mode != "replicate" and more > 0 and more > most:
                rule = f"at most {'n - 1' if mode == 'reflect' else 'n'} where the size is n = {n}"
                raise BadArgument(op="pad", name="pad", rule=rule, got=more, hint="")
    return pad_around(input, tuple(pad), mode)


def _take_along_dim(x: Node, indices: Node, dim: int) -> Node:
    sizes = broadcast([without(x.shape, (dim,)), without(indices.shape, (dim,))], "take_along_dim")
    indices = expand(indices, (*sizes[:dim], indices.shape[dim], *sizes[dim:]))
    x = expand(x, (*sizes[:dim], x.shape[dim], *sizes[dim:]))
    return gather(x, dim, indices)


@declare(expand=_take_along_dim)
def take_along_dim(x: torch.Tensor, indices: torch.Tensor, dim: Dim):
    """gather, with the other dims broadcast"""
    return torch.take_along_dim(x, indices, dim)


def _embedding(x: Node, weight: Node) -> Node:
    if weight.rank != 2:
        raise BadArgument(op="embedding", name="weight", rule="a matrix", got=show_shape(weight.shape), hint="")
    return pick([weight, x], (0,), 0)


@declare(expand=_embedding)
def embedding(x: torch.Tensor, weight: torch.Tensor):
    """weight[x], row by row"""
    return F.embedding(x, weight)


def _one_hot(x: Node, num_classes: Index) -> Node:
    if num_classes == -1:
        raise DataDependent(op="one_hot", what="the number of classes", hint="Give num_classes=.")
    return ir.cast(eq(unsqueeze(x, -1), numbers(num_classes)), i64)


@declare(expand=_one_hot)
def one_hot(x: torch.Tensor, num_classes: Size = -1):
    """1 where the class is x, else 0, in a new last dimension"""
    return F.one_hot(x, num_classes)


# ---- triangles -------------------------------------------------------------------------------------------------------


def _triangle(x: Node, diagonal: Index, upper: bool, op: str) -> Node:
    if x.rank < 2:
        raise BadArgument(op=op, name="x", rule="of two dimensions at least", got=show_shape(x.shape), hint="")
    rows, columns = along(x, x.rank - 2) + diagonal, along(x, x.rank - 1)
    return where(ge(columns, rows) if upper else ge(rows, columns), x, ir.constant(0, Type(x.dtype)))


@declare(expand=lambda x, diagonal: _triangle(x, diagonal, False, "tril"))
def tril(x: torch.Tensor, diagonal: Size = 0):
    """x where column <= row + diagonal, else 0"""
    return torch.tril(x, diagonal)


@declare(expand=lambda x, diagonal: _triangle(x, diagonal, True, "triu"))
def triu(x: torch.Tensor, diagonal: Size = 0):
    """x where column >= row + diagonal, else 0"""
    return torch.triu(x, diagonal)
