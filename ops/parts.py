"""Tensors with a part replaced, and matrices put together of parts: choices between views."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fusedsl import ir
from fusedsl.errors import BadArgument, DTypesDisagree, ShapesDisagree
from fusedsl.index import Index, cdiv
from fusedsl.ir import Dim, Node, Size, declare, spells
from fusedsl.types import Type, broadcast, dim_in, same_size, show_shape

from .compare import eq, ge, lt, maximum, where
from .convert import clone
from .indexing import cat, index, pad
from .movement import along, diagonal, expand, permute, repeat_interleave, reshape, unsqueeze
from .rules import common, without
from .scan import cumsum

# ---- at the places of a view -----------------------------------------------------------------------------------------


def _fits(src: Node, shape: Sequence[Index], op: str) -> None:
    if src.rank != len(shape) or not all(same_size(m, n) for m, n in zip(src.shape, shape, strict=True)):
        got = f"{show_shape(src.shape)} and {show_shape(tuple(shape))}"
        raise ShapesDisagree(op=op, rule="src must have the shape of what it replaces", got=got, hint="")


def _select_scatter(x: Node, src: Node, dim: int, index: Index) -> Node:
    n = x.shape[dim]
    if isinstance(index, int) and index < 0:
        index = index + n
    if isinstance(index, int) and (index < 0 or (isinstance(n, int) and index >= n)):
        raise BadArgument(op="select_scatter", name="index", rule=f"in [-{n}, {n})", got=index, hint="")
    _fits(src, without(x.shape, (dim,)), "select_scatter")
    return where(eq(along(x, dim), ir.as_node(index)), unsqueeze(ir.cast(src, x.dtype), dim), x)


@declare(expand=_select_scatter)
def select_scatter(x: torch.Tensor, src: torch.Tensor, dim: Dim, index: Size):
    """x with src at one index of dim"""
    return torch.select_scatter(x, src, dim, index)


def _slice_scatter(x: Node, src: Node, dim: int, start: Index, end: Index, step: Index) -> Node:
    n = x.shape[dim]
    count = cdiv(end - start, step)
    _fits(src, [count if d == dim else m for d, m in enumerate(x.shape)], "slice_scatter")
    spread = src if step == 1 else repeat_interleave(src, step, dim)
    spread = pad(spread, [*[0, 0] * (x.rank - dim - 1), start, n - start - count * step], "constant", None)
    p = along(x, dim)
    inside = ge(p, start) & lt(p, end)
    if step != 1:
        inside = inside & eq((p - start) % step, 0)
    return where(inside, ir.cast(spread, x.dtype), x)


@declare(expand=_slice_scatter)
def slice_scatter(x: torch.Tensor, src: torch.Tensor, dim: Dim, start: Size, end: Size, step: Size = 1):
    """x with src at [start:end:step] of dim, with 0 <= start <= end <= the size and step >= 1"""
    return torch.slice_scatter(x, src, dim, start, end, step)


def _on_diagonal(src: Node, rows: Index, offset: int, dim1: int, dim2: int) -> Node:
    """A diagonal, the last dimension, as rows of matrices with one column, which broadcasts."""
    start = -min(offset, 0)
    filled = pad(src, [start, rows - start - src.shape[-1]], "constant", None)
    others = iter(range(filled.rank - 1))
    order = [filled.rank - 1 if d == dim1 else next(others) for d in range(filled.rank + 1) if d != dim2]
    return unsqueeze(permute(filled, order), dim2)


def _diagonal_scatter(x: Node, src: Node, offset: int, dim1: int, dim2: int) -> Node:
    _fits(src, diagonal(x, offset, dim1, dim2).shape, "diagonal_scatter")
    on = eq(along(x, dim1) + offset, along(x, dim2))
    return where(on, _on_diagonal(ir.cast(src, x.dtype), x.shape[dim1], offset, dim1, dim2), x)


@declare(expand=_diagonal_scatter)
def diagonal_scatter(x: torch.Tensor, src: torch.Tensor, offset: Size = 0, dim1: Dim = 0, dim2: Dim = 1):
    """x with src at [..., i, i + offset] of two dimensions"""
    return torch.diagonal_scatter(x, src, offset, dim1, dim2)


def _diag_embed(x: Node, offset: int, dim1: int, dim2: int) -> Node:
    if not x.rank:
        raise ShapesDisagree(op="diag_embed", rule="the operand needs a dimension", got="[]", hint="")
    rank = x.rank + 1
    dim1, dim2 = (dim_in(d, rank, "diag_embed") for d in (dim1, dim2))
    if dim1 == dim2:
        raise BadArgument(op="diag_embed", name="dim1", rule="another than dim2", got=dim1, hint="")
    n = x.shape[-1] + (offset if offset >= 0 else -offset)
    rest = iter(x.shape[:-1])
    shape = [n if d in (dim1, dim2) else next(rest) for d in range(rank)]
    here = expand(ir.constant(0, Type(x.dtype)), shape)
    on = eq(along(here, dim1) + offset, along(here, dim2))
    return where(on, _on_diagonal(x, n, offset, dim1, dim2), ir.constant(0, Type(x.dtype)))


@declare(expand=_diag_embed)
def diag_embed(x: torch.Tensor, offset: Size = 0, dim1: Size = -2, dim2: Size = -1):
    """Matrices that are 0 but for x at [..., i, i + offset]"""
    return torch.diag_embed(x, offset, dim1, dim2)


def _block_diag(tensors: Sequence[Node]) -> Node:
    for t in tensors:
        if t.rank > 2:
            raise BadArgument(op="block_diag", name="each tensor", rule="of two dimensions at most",
                              got=show_shape(t.shape), hint="")  # fmt: skip
    dt = common([t.type for t in tensors], "block_diag")
    blocks = [reshape(ir.cast(t, dt), (1,) * (2 - t.rank) + t.shape) for t in tensors]
    total: Index = 0
    for block in blocks:
        total = total + block.shape[1]
    rows, before = [], 0
    for block in blocks:
        width = block.shape[1]
        rows.append(pad(block, [before, total - before - width], "constant", None))
        before = before + width
    return cat(rows, 0)


@declare(expand=_block_diag)
def block_diag(tensors: list[torch.Tensor]):
    """The matrices along the diagonal of one that is 0 elsewhere"""
    # of tensors without memory torch makes another dtype than of any others
    ones = [torch.empty((1,) * t.ndim, dtype=t.dtype, device="cpu") for t in tensors]
    dtype = torch.block_diag(*ones).dtype
    return torch.block_diag(*(t.to(dtype) for t in tensors))


# ---- by a mask -------------------------------------------------------------------------------------------------------


def _masked_scatter(x: Node, mask: Node, source: Node) -> Node:
    if not mask.dtype.is_bool:
        raise DTypesDisagree(op="masked_scatter", rule="the mask must be bool", got=str(mask.dtype), hint="")
    if source.dtype is not x.dtype:
        raise DTypesDisagree(op="masked_scatter", rule="source must have the operand's dtype",
                             got=f"{source.dtype} and {x.dtype}", hint="Use source.to(x.dtype).")  # fmt: skip
    shape = broadcast([x.shape, mask.shape], "masked_scatter")
    flat = reshape(expand(mask, shape), (-1,))
    place = maximum(cumsum(flat, 0) - 1, 0)
    value = index([reshape(source, (-1,)), place], (0,), 0)
    return where(mask, reshape(value, shape), x)


@declare(expand=_masked_scatter)
def masked_scatter(x: torch.Tensor, mask: torch.Tensor, source: torch.Tensor):
    """x where the mask is not, elsewhere source's elements in order"""
    return torch.masked_scatter(x, mask, source)


# ---- as torch calls them ---------------------------------------------------------------------------------------------


def _bounded(bound, n, default):
    """A bound of a slice, counted from the front, in [0, n]."""
    if bound is None:
        return default
    if bound < 0:
        bound = bound + n
    return 0 if bound < 0 else n if n < bound else bound


@spells("torch.slice_scatter", "Tensor.slice_scatter")
def slice_scatter_(input, src, dim=0, start=None, end=None, step=1):
    dim = dim_in(dim, len(input.shape), "slice_scatter")
    n = input.shape[dim]
    if step < 1:
        raise BadArgument(op="slice_scatter", name="step", rule="at least 1", got=step, hint="")
    start, end = _bounded(start, n, 0), _bounded(end, n, n)
    return slice_scatter(input, src, dim, start, start if end < start else end, step)


@spells("torch.diag", "Tensor.diag")
def diag(input, diagonal=0):
    if len(input.shape) not in (1, 2):
        got = f"{len(input.shape)} dimensions"
        raise BadArgument(op="diag", name="input", rule="a vector or a matrix", got=got, hint="")
    return diag_embed(input, diagonal) if len(input.shape) == 1 else clone(ir.OPS["diagonal"](input, diagonal))


@spells("torch.diagflat", "Tensor.diagflat")
def diagflat(input, offset=0):
    return diag_embed(reshape(input, (-1,)), offset)


@spells("torch.block_diag")
def block_diag_(*tensors):
    return block_diag(list(tensors))
