"""torch's ways to cut a tensor into several, in the manner of `spell.py`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from fusedsl.errors import BadArgument, DataDependent
from fusedsl.index import Poly, divide_exactly
from fusedsl.ir import SPELLINGS, spells
from fusedsl.types import dim_in

from .spell import dim_of, ops


def _number(size) -> int:
    if isinstance(size, Poly):
        raise BadArgument(op="a view", name="a size", rule="a number", got=size, hint="")
    return int(size)


def _divided(size, by):
    """size / by if that is exact, else None"""
    if isinstance(size, Poly) or isinstance(by, Poly):
        return divide_exactly(size, by)
    return size // by if size % by == 0 else None


def _parts(x, dim: int, sizes: Sequence) -> tuple:
    ends = itertools.accumulate(sizes, initial=0)
    return tuple(ops.slice(x, dim, start, end) for start, end in itertools.pairwise(ends))


def _equal_parts(n, size) -> list:
    """n as parts of one size, and what is left."""
    count = _divided(n, size) if n != 0 else None
    if isinstance(count, int):
        return [size] * int(count)
    n, size = _number(n), _number(size)
    return [size] * (n // size) + ([n % size] if n % size or n == 0 else [])


@spells("torch.chunk", "Tensor.chunk")
def chunk(input, chunks, dim=0):
    dim = dim_of(input, dim, "chunk")
    n = input.shape[dim]
    if _number(chunks) < 1:
        raise BadArgument(op="chunk", name="chunks", rule="at least 1", got=chunks, hint="")
    size = _divided(n, chunks)
    return _parts(input, dim, [size] * chunks if size is not None else _equal_parts(n, -(-_number(n) // chunks)))


@spells("torch.split", "Tensor.split", "torch.split_with_sizes", "Tensor.split_with_sizes")
def split(tensor, split_size_or_sections=None, dim=0, *, split_size=None, split_sizes=None):
    sizes = next(s for s in (split_size_or_sections, split_size, split_sizes) if s is not None)
    dim = dim_of(tensor, dim, "split")
    n = tensor.shape[dim]
    parts = list(sizes) if isinstance(sizes, (tuple, list)) else _equal_parts(n, sizes)
    if not sum(parts) == n:
        raise BadArgument(op="split", name="the sizes", rule=f"of sum {n}", got=sizes, hint="")
    return _parts(tensor, dim, parts)


@spells("torch.unbind", "Tensor.unbind")
def unbind(input, dim=0):
    dim = dim_of(input, dim, "unbind")
    return tuple(ops.select(input, dim, i) for i in range(_number(input.shape[dim])))


def _tensor_split(x: Any, where: Any, dim: int, op: str) -> tuple:
    if hasattr(where, "dtype"):
        raise DataDependent(op=op, what="where the parts begin", hint="Give an int or a list of ints.")
    dim = dim_in(dim, len(x.shape), op)
    n = int(x.shape[dim])
    if isinstance(where, (list, tuple)):
        bounds = [0, *(max(0, min(n, b + n if b < 0 else b)) for b in map(int, where)), n]
    else:
        parts = int(where)
        if parts < 1:
            raise BadArgument(op=op, name="sections", rule="at least 1", got=parts, hint="")
        size, more = divmod(n, parts)
        bounds = [k * size + min(k, more) for k in range(parts + 1)]
    return tuple(ops.slice(x, dim, a, max(a, b)) for a, b in itertools.pairwise(bounds))


@spells("torch.tensor_split", "Tensor.tensor_split")
def tensor_split(input, indices_or_sections=None, dim=0, *, indices=None, sections=None):
    where = next(w for w in (indices_or_sections, indices, sections) if w is not None)
    return _tensor_split(input, where, dim, "tensor_split")


def _split_along(name: str, least: int, dim: int) -> None:
    @spells(f"torch.{name}", f"Tensor.{name}")
    def split(input, indices_or_sections=None, *, indices=None, sections=None):
        where = next(w for w in (indices_or_sections, indices, sections) if w is not None)
        rank = len(input.shape)
        if rank < least:
            raise BadArgument(op=name, name="x", rule=f"of {least} dimensions at least", got=rank, hint="")
        along = 0 if rank == 1 else dim
        if not isinstance(where, (list, tuple)) and input.shape[along] % where:
            rule = f"a divisor of {input.shape[along]}"
            raise BadArgument(op=name, name="sections", rule=rule, got=where, hint="")
        return _tensor_split(input, where, along, name)


_split_along("hsplit", 1, 1)
_split_along("vsplit", 2, 0)
_split_along("dsplit", 3, 2)

for _name in ("split", "chunk", "split_with_sizes"):
    for _room in ("torch", "Tensor"):
        SPELLINGS[f"{_room}.unsafe_{_name}"] = SPELLINGS[f"torch.{_name}"]
