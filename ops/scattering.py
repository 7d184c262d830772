"""Writing at indices that are data, in a form that is the same every time.

No element is written twice: every element of the result looks for the places of `index` that name it, and combines
what the source has there. That is a reduction over the source's dimension, so along one dimension of n elements and m
indices it takes n m comparisons, and no atomics. Where several indices name one element and nothing is combined, the
last one wins (torch leaves it open). An index outside the dimension names no element.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from fusedsl import ir
from fusedsl.errors import BadArgument, DataDependent, DTypesDisagree, ShapesDisagree
from fusedsl.index import Index
from fusedsl.ir import Choice, Dim, DimOrder, Flag, Node, declare, spells
from fusedsl.types import DType, Type, bool_, broadcast, i32, same_size, show_shape

from .compare import eq, ge, lt, maximum, minimum, where
from .convert import narrow, wide
from .elementwise import floor_divide
from .factories import full_like
from .indexing import gather, pad
from .movement import along, expand, permute, reshape, slice, unsqueeze
from .reduce import least, most, reduce_max, reduce_min, reduce_prod, reduce_sum

# ---- who names an element --------------------------------------------------------------------------------------------


def _indices_only(index: Node, op: str) -> None:
    if not index.dtype.is_integer:
        raise DTypesDisagree(op=op, rule="indices must be integers", got=str(index.dtype), hint="Use .long().")


def _as_vectors(x: Node, *others: Node) -> tuple[Node, ...]:
    """Scalars as vectors of one element: torch scatters into scalars, too."""
    return tuple(part if part.rank else reshape(part, (1,)) for part in (x, *others))


def _named(x: Node, dim: int, index: Node) -> Node:
    """Whether the place p of x is the one that index names at j, with j in a new dimension after dim."""
    return eq(unsqueeze(index, dim), unsqueeze(along(x, dim), dim + 1))


def _fill_up(part: Node, x: Node, dim: int, value: Any) -> Node:
    """What was found for the places that index has, in x's shape: a constant beyond them."""
    amounts = []
    for d in reversed(range(x.rank)):
        missing = 0 if d == dim or same_size(part.shape[d], x.shape[d]) else x.shape[d] - part.shape[d]
        amounts += [0, missing]
    return part if all(isinstance(n, int) and n == 0 for n in amounts) else pad(part, amounts, "constant", value)


def _check(x: Node, dim: int, index: Node, src: Node | None, op: str) -> None:
    _indices_only(index, op)
    for t, what in ((x, "the operand"), (src, "src")):
        if t is None:
            continue
        got = f"{show_shape(t.shape)} and {show_shape(index.shape)}"
        if t.rank != index.rank:
            raise ShapesDisagree(op=op, rule=f"index needs as many dimensions as {what}", got=got, hint="")
        for d, (m, n) in enumerate(zip(index.shape, t.shape, strict=True)):
            if isinstance(m, int) and isinstance(n, int) and m > n and (d != dim or t is src):
                raise ShapesDisagree(op=op, rule=f"index may not exceed {what}", got=got, hint="")


def _cut(src: Node, shape: Sequence[Index]) -> Node:
    """The part of src that index has places for."""
    for d, n in enumerate(shape):
        if not same_size(src.shape[d], n):
            src = slice(src, d, 0, n)
    return src


# ---- the last one wins -----------------------------------------------------------------------------------------------


def _scatter(x: Node, index: Node, src: Node, dim: int) -> Node:
    scalar, number = x.rank == 0, src.rank == 0 and src.type.weak
    x, index = _as_vectors(x, index)
    src = src if number else _as_vectors(src)[0]
    _check(x, dim, index, None if number else src, "scatter")
    if 0 in index.shape:
        result = x
    elif number:
        touched = _touched(x, dim, index)
        result = where(touched, ir.cast(src, x.dtype), x)
    elif src.dtype is not x.dtype:
        raise DTypesDisagree(op="scatter", rule="src must have the operand's dtype", got=f"{src.dtype} and {x.dtype}",
                             hint="Use src.to(x.dtype).")  # fmt: skip
    else:
        j = unsqueeze(along(index, dim), dim)
        last = reduce_max(where(_named(x, dim, index), j, -1), (dim + 1,))
        value = gather(_cut(src, index.shape), dim, maximum(last, 0))
        result = where(_fill_up(ge(last, 0), x, dim, 0), _fill_up(value, x, dim, 0), x)
    return reshape(result, ()) if scalar else result


def _touched(x: Node, dim: int, index: Node) -> Node:
    """Whether any index names an element."""
    return _fill_up(reduce_max(_named(x, dim, index), (dim + 1,)), x, dim, 0)


@declare(expand=_scatter)
def scatter(x: torch.Tensor, dim: Dim, index: torch.Tensor, src: torch.Tensor):
    """x with src[j] at index[j] along dim, for the last such j, found by comparing: n m comparisons for m indices into
    n elements. src may be a number"""
    return torch.scatter(x, dim, index.long(), src)


# ---- combined --------------------------------------------------------------------------------------------------------

_KINDS: dict[str, tuple[Callable[..., Node], Callable[[DType], Any]]] = {
    "sum": (reduce_sum, lambda dt: 0), "mean": (reduce_sum, lambda dt: 0), "prod": (reduce_prod, lambda dt: 1),
    "amax": (reduce_max, least), "amin": (reduce_min, most),
}  # fmt: skip


def _combine(kind: str, a: Node, b: Node) -> Node:
    if kind == "prod":
        return a * b
    if kind in ("sum", "mean"):
        return a + b
    return maximum(a, b) if kind == "amax" else minimum(a, b)


def _scatter_reduce(x: Node, dim: int, index: Node, src: Node, reduce: str, include_self: bool, op: str) -> Node:
    if reduce not in _KINDS:
        rule = " or ".join(map(repr, _KINDS))
        raise BadArgument(op=op, name="reduce", rule=rule, got=repr(reduce), hint="")
    scalar = x.rank == 0
    x, index, src = _as_vectors(x, index, src)
    _check(x, dim, index, src, op)
    if src.dtype is not x.dtype:
        raise DTypesDisagree(op=op, rule="src must have the operand's dtype", got=f"{src.dtype} and {x.dtype}",
                             hint="Use src.to(x.dtype).")  # fmt: skip
    if 0 in index.shape:
        return reshape(x, ()) if scalar else x
    dt = x.dtype
    # sums of bools are ors, products ands
    kind = {"sum": "amax", "prod": "amin"}.get(reduce, reduce) if dt.is_bool else reduce
    primitive, identity = _KINDS[kind]
    named = _named(x, dim, index)
    z, parts = wide(x, dt), unsqueeze(wide(_cut(src, index.shape), dt), dim)
    nothing = identity(dt)
    found = primitive(where(named, parts, ir.constant(nothing, Type(z.dtype))), (dim + 1,))
    found = _fill_up(found, x, dim, nothing)
    touched = _touched(x, dim, index)
    total = _combine(kind, z, found) if include_self else found
    if kind == "mean":
        count = _fill_up(reduce_sum(ir.cast(named, i32), (dim + 1,)), x, dim, 0)
        count = ir.cast(maximum(count + 1 if include_self else count, 1), z.dtype)
        total = total / count if dt.is_float else floor_divide(total, count)
    result = narrow(where(touched, total, z), dt)
    return reshape(result, ()) if scalar else result


@declare(expand=lambda x, index, src, dim: _scatter_reduce(x, dim, index, src, "sum", True, "scatter_add"))
def scatter_add(x: torch.Tensor, dim: Dim, index: torch.Tensor, src: torch.Tensor):
    """x plus the sum of src[j] over the j whose index[j] is the element's own along dim, in one order every time: n m
    comparisons for m indices into n elements"""
    return torch.scatter_add(x, dim, index.long(), src)


@declare(expand=lambda x, index, src, dim, reduce, include_self: _scatter_reduce(
    x, dim, index, src, reduce, include_self, "scatter_reduce"))  # fmt: skip
def scatter_reduce(x: torch.Tensor, dim: Dim, index: torch.Tensor, src: torch.Tensor, reduce: Choice,
                   include_self: Flag = True):  # fmt: skip
    """x combined with the src[j] whose index[j] is the element's own along dim, or those alone: their sum, prod, mean,
    amax or amin. n m comparisons for m indices into n elements, in one order every time"""
    return torch.scatter_reduce(x, dim, index.long(), src, reduce, include_self=include_self)


# ---- rows at the indices of a vector ---------------------------------------------------------------------------------


def _along(x: Node, dim: int, index: Node, source: Node | None, op: str) -> Node:
    """The indices of a vector, for every row: in source's shape, or broadcastable with x."""
    _indices_only(index, op)
    if index.rank > 1:
        raise BadArgument(op=op, name="index", rule="a vector", got=show_shape(index.shape), hint="")
    index = _as_vectors(index)[0]
    for _ in range(dim):
        index = unsqueeze(index, 0)
    for _ in range(max(x.rank, 1) - dim - 1):
        index = unsqueeze(index, index.rank)
    if source is None:
        return index
    got = f"{show_shape(source.shape)} and {show_shape(x.shape)}"
    if source.rank != index.rank:
        raise ShapesDisagree(op=op, rule="the source needs as many dimensions as the operand", got=got, hint="")
    alike = [d for d in range(x.rank) if d != dim and not same_size(x.shape[d], source.shape[d])]
    if alike or not same_size(index.shape[dim], source.shape[dim]):
        raise ShapesDisagree(op=op, rule="the source must be the operand's shape, with an index for each along dim",
                             got=got, hint="")  # fmt: skip
    return expand(index, source.shape)


def _index_reduced(x: Node, dim: int, index: Node, source: Node, reduce: str, include_self: bool, op: str) -> Node:
    (x_, source) = _as_vectors(x, source)
    if reduce not in ("sum", "prod", "mean", "amax", "amin"):
        raise BadArgument(op=op, name="reduce", rule="'prod', 'mean', 'amax' or 'amin'", got=repr(reduce), hint="")
    result = _scatter_reduce(x_, dim, _along(x_, dim, index, source, op), source, reduce, include_self, op)
    return result if x.rank else reshape(result, ())


@declare(expand=lambda x, index, source, dim: _index_reduced(x, dim, index, source, "sum", True, "index_add"))
def index_add(x: torch.Tensor, dim: Dim, index: torch.Tensor, source: torch.Tensor):
    """x[.., p, ..] plus the sum of source[.., j, ..] over the j with index[j] = p, in one order every time: n m
    comparisons for m indices into n rows"""
    return torch.index_add(x, dim, index, source)


@declare(expand=lambda x, index, source, dim, reduce, include_self: _index_reduced(
    x, dim, index, source, reduce, include_self, "index_reduce"))  # fmt: skip
def index_reduce(x: torch.Tensor, dim: Dim, index: torch.Tensor, source: torch.Tensor, reduce: Choice,
                 include_self: Flag = True):  # fmt: skip
    """scatter_reduce of rows at the indices of a vector: their prod, mean, amax or amin"""
    return torch.index_reduce(x, dim, index, source, reduce, include_self=include_self)


def _index_copy(x: Node, index: Node, source: Node, dim: int) -> Node:
    (x_, source) = _as_vectors(x, source)
    result = scatter(x_, dim, _along(x_, dim, index, source, "index_copy"), source)
    return result if x.rank else reshape(result, ())


@declare(expand=_index_copy)
def index_copy(x: torch.Tensor, dim: Dim, index: torch.Tensor, source: torch.Tensor):
    """x with source[.., j, ..] at [.., index[j], ..], for the last such j: n m comparisons for m indices into n rows"""
    return torch.index_copy(x, dim, index.long(), source)


def _index_fill(x: Node, index: Node, value: Node, dim: int) -> Node:
    (x_,) = _as_vectors(x)
    at = _along(x_, dim, index, None, "index_fill")
    touched = reduce_max(_named(x_, dim, at), (dim + 1,)) if 0 not in at.shape else ir.constant(False, Type(bool_))
    result = where(touched, ir.cast(value, x.dtype), x_)
    return result if x.rank else reshape(result, ())


@declare(expand=_index_fill)
def index_fill(x: torch.Tensor, dim: Dim, index: torch.Tensor, value: torch.Tensor):
    """x with one value at the indices of a vector along dim"""
    return torch.index_fill(x, dim, index.long(), value)  # type: ignore[call-overload]


# ---- x[i, j] = values ------------------------------------------------------------------------------------------------


def _index_put(tensors: Sequence[Node], dims: Sequence[int], accumulate: bool) -> Node:
    x, values, *indices = tensors
    for which in indices:
        if which.dtype.is_bool:
            raise DataDependent(op="index_put", what="how many elements a mask names",
                                hint="Use torch.where(mask, value, x).")  # fmt: skip
        _indices_only(which, "index_put")
    if values.dtype is not x.dtype:
        raise DTypesDisagree(op="index_put", rule="values must have the operand's dtype",
                             got=f"{values.dtype} and {x.dtype}", hint="Use values.to(x.dtype).")  # fmt: skip
    shape = broadcast([which.shape for which in indices], "index_put")
    rest = [d for d in range(x.rank) if d not in dims]
    together = max(dims) - min(dims) + 1 == len(dims)
    place = min(dims) if together else 0
    # values are of x[indices]'s shape: the indices' dimensions first, then made one
    outer = [x.shape[d] for d in rest]
    values = expand(values, (*outer[:place], *shape, *outer[place:]))
    end = place + len(shape)
    values = permute(values, (*range(place, end), *range(place), *range(end, values.rank)))
    count = math.prod(shape)
    values = reshape(values, (count, *outer))
    # one number for the place that the indices name together, and the same of x's own places
    named = None
    for d, which in zip(dims, indices, strict=True):
        which = where(lt(which, 0), which + x.shape[d], which)
        which = reshape(expand(which, shape), (count,))
        named = which if named is None else named * x.shape[d] + which
    size = math.prod(x.shape[d] for d in dims)
    flat = reshape(permute(x, (*dims, *rest)), (size, *outer))
    assert named is not None, "index_put without an index"
    if accumulate:
        flat = _index_reduced(flat, 0, named, values, "sum", True, "index_put")
    else:
        flat = _index_copy(flat, named, values, 0)
    back = [0] * x.rank
    for at, d in enumerate((*dims, *rest)):
        back[d] = at
    return permute(reshape(flat, (*(x.shape[d] for d in dims), *outer)), back)


@declare(expand=_index_put)
def index_put(tensors: list[torch.Tensor], dims: DimOrder, accumulate: Flag = False):
    """The first tensor with the second one's elements at the places that the other tensors name for `dims`, added or
    the last one in place: n m comparisons for m places among n"""
    x, values, *indices = tensors
    at: list[Any] = [None] * x.ndim
    for d, which in zip(dims, indices, strict=True):
        at[d] = which.long()
    return torch.ops.aten.index_put(x, at, values, accumulate)


# ---- as torch calls them ---------------------------------------------------------------------------------------------


@spells("torch.scatter", "Tensor.scatter")
def scatter_(input, dim, index, src=None, *, value=None, reduce=None):
    src = value if src is None else src
    if reduce is None:
        return scatter(input, dim, index, src)
    kinds = {"add": "sum", "multiply": "prod"}
    if reduce not in kinds:
        raise BadArgument(op="scatter", name="reduce", rule="'add' or 'multiply'", got=repr(reduce), hint="")
    if not hasattr(src, "dtype"):
        src = full_like(index, src, input.dtype)
    return scatter_reduce(input, dim, index, src, kinds[reduce])


@spells("torch.index_add", "Tensor.index_add")
def index_add_(input, dim, index, source, *, alpha=1):
    return index_add(input, dim, index, source if isinstance(alpha, int) and alpha == 1 else source * alpha)


@spells("Tensor.put", "torch.put")
def put(input, index, source, accumulate=False):
    flat, at = reshape(input, (-1,)), reshape(index, (-1,))
    return reshape(index_put([flat, reshape(source, (-1,)), at], (0,), accumulate), tuple(input.shape))
