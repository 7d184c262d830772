"""torch's ways to join tensors, the ranks that they first get, and padding, in the manner of `spell.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fusedsl.ir import SPELLINGS, spells

from .spell import ops

# ---- ranks -----------------------------------------------------------------------------------------------------------


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

# ---- joining ---------------------------------------------------------------------------------------------------------


@spells("torch.hstack")
def hstack(tensors):
    tensors = [t if len(t.shape) else ops.reshape(t, (1,)) for t in tensors]
    return ops.cat(tensors, 0 if len(tensors[0].shape) == 1 else 1)


@spells("torch.vstack", "torch.row_stack")
def vstack(tensors):
    return ops.cat([t if len(t.shape) > 1 else ops.reshape(t, (1, -1)) for t in tensors], 0)


@spells("torch.column_stack")
def column_stack(tensors):
    columns = [t if len(t.shape) > 1 else ops.reshape(t, (-1, 1)) for t in tensors]
    return ops.cat(columns, 1)


@spells("torch.dstack")
def dstack(tensors):
    return ops.cat([_of_three(t) for t in tensors], 2)


@spells("torch.constant_pad_nd")
def constant_pad_nd(input, pad, value=0):
    return SPELLINGS["F.pad"](input, pad, "constant", value)
