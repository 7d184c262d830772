"""More of torch's forms of call for views, parts and copies, in the manner of `spell.py`."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import Any

from fusedsl.errors import BadArgument, DataDependent
from fusedsl.ir import OPS, SPELLINGS, Op, spells
from fusedsl.types import dim_in

from .spell import ops

# ---- turns and ranks -------------------------------------------------------------------------------------------------


@spells("torch.rot90", "Tensor.rot90")
def rot90(input, k=1, dims=(0, 1)):
    rank = len(input.shape)
    if len(dims) != 2 or rank < 2:
        raise BadArgument(op="rot90", name="dims", rule="two dimensions", got=repr(dims), hint="")
    a, b = (dim_in(d, rank, "rot90") for d in dims)
    if a == b:
        raise BadArgument(op="rot90", name="dims", rule="two dimensions", got=repr(dims), hint="")
    turn = k % 4
    if turn == 0:
        return ops.clone(input)
    if turn == 2:
        return ops.flip(input, (a, b))
    return ops.transpose(ops.flip(input, (b if turn == 1 else a,)), a, b)


def _each(function: Callable[[Any], Any], *names: str) -> None:
    """A function of one tensor, or of several, which gives as many."""

    @spells(*names)
    def each(*tensors):
        if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)):
            tensors = tensors[0]
            return tuple(function(t) for t in tensors)
        results = tuple(function(t) for t in tensors)
        return results[0] if len(results) == 1 else results


def _of_one(t: Any) -> Any:
    return t if len(t.shape) else ops.reshape(t, (1,))


def _of_two(t: Any) -> Any:
    return ops.unsqueeze(_of_one(t), 0) if len(t.shape) < 2 else t


def _of_three(t: Any) -> Any:
    return ops.unsqueeze(_of_two(t), -1) if len(t.shape) < 3 else t


_each(_of_one, "torch.atleast_1d")
_each(_of_two, "torch.atleast_2d")
_each(_of_three, "torch.atleast_3d")


@spells("torch.column_stack")
def column_stack(tensors):
    columns = [t if len(t.shape) > 1 else ops.reshape(t, (-1, 1)) for t in tensors]
    return ops.cat(columns, 1)


@spells("torch.dstack")
def dstack(tensors):
    return ops.cat([_of_three(t) for t in tensors], 2)


# ---- parts -----------------------------------------------------------------------------------------------------------


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

SPELLINGS["torch.linalg.diagonal"] = lambda A, *, offset=0, dim1=-2, dim2=-1: ops.diagonal(A, offset, dim1, dim2)


@spells("torch.take", "Tensor.take")
def take(input, index):
    return ops.index([ops.reshape(input, (-1,)), index], (0,), 0)


@spells("torch.take_along_dim", "Tensor.take_along_dim")
def take_along_dim(input, indices, dim=None):
    if dim is None:
        return ops.gather(ops.reshape(input, (-1,)), 0, ops.reshape(indices, (-1,)))
    return ops.take_along_dim(input, indices, dim)


# ---- copies ----------------------------------------------------------------------------------------------------------


def _copied(target: Callable[..., Any]) -> Callable[..., Any]:
    """The same, in memory of its own, row by row."""

    def row_by_row(x: Any) -> Any:
        return ops.clone(x).contiguous()

    def copy(*args: Any, **kwargs: Any) -> Any:
        found = target(*args, **kwargs)
        return tuple(map(row_by_row, found)) if isinstance(found, tuple) else row_by_row(found)

    signature = target.signature if isinstance(target, Op) else inspect.signature(target)
    copy.__signature__ = signature  # type: ignore[attr-defined]
    return copy


def _sliced(input, dim=0, start=None, end=None, step=1):
    key = (slice(None),) * dim_in(dim, len(input.shape), "slice") + (slice(start, end, step),)
    return SPELLINGS["Tensor.__getitem__"](input, key)


_COPIED = {"view": "reshape", "slice": _sliced, "alias": lambda input: input, "detach": lambda input: input}
for _name in (
    "alias", "detach", "diagonal", "expand", "narrow", "permute", "select", "slice", "split", "split_with_sizes",
    "squeeze", "t", "transpose", "unbind", "unfold", "unsqueeze", "view",
):  # fmt: skip
    _target = _COPIED.get(_name, _name)
    if isinstance(_target, str):
        _target = SPELLINGS.get(f"torch.{_target}") or SPELLINGS.get(f"Tensor.{_target}") or OPS[_target]
    for _room in ("torch", "Tensor"):
        SPELLINGS.setdefault(f"{_room}.{_name}_copy", _copied(_target))
