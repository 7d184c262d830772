"""torch's ways to make tensors out of nothing but sizes and numbers, in the manner of `spell.py`."""

from __future__ import annotations

from typing import Any

import torch

from fusedsl.errors import BadArgument
from fusedsl.ir import OPS, Op, spells
from fusedsl.types import dim_in

from .spell import flat, ops
from .spell_convert import converted


def made(op: Op, *args: Any, dtype=None, device=None, layout=None, pin_memory=False, requires_grad=False,
         out=None) -> Any:  # fmt: skip
    """A tensor made by an op; it will live where the fused function runs."""
    if requires_grad or out is not None:
        name = "requires_grad" if requires_grad else "out"
        raise BadArgument(op=op.name, name=name, rule="left out", got=requires_grad or out, hint="")
    return op(*args, dtype=dtype)


def _filled(name: str, op: Op) -> None:
    @spells(f"torch.{name}")
    def filled(*size, **options):
        return made(op, flat((options.pop("size"),) if "size" in options else size), **options)

    @spells(f"torch.{name}_like")
    def like(input, **options):
        return made(OPS[f"{op.name}_like"], input, **options)

    @spells(f"Tensor.new_{name}")
    def new(self, *size, **options):
        return filled(*size, **{"dtype": self.dtype, **options})


_filled("zeros", OPS["zeros"])
_filled("ones", OPS["ones"])
_filled("empty", OPS["zeros"])  # what it holds is not defined: 0 as well as anything


@spells("torch.full")
def full(size, fill_value, **options):
    return made(ops.full, flat([size]), fill_value, **options)


@spells("torch.full_like")
def full_like(input, fill_value, **options):
    return made(ops.full_like, input, fill_value, **options)


@spells("Tensor.new_full")
def new_full(self, size, fill_value, **options):
    return full(size, fill_value, **{"dtype": self.dtype, **options})


@spells("torch.arange")
def arange(*bounds, start=0, end=None, step=1, **options):
    if len(bounds) == 1 and end is not None:
        start = bounds[0]
    elif len(bounds) == 1:
        end = bounds[0]
    elif bounds:
        start, end, step = (*bounds, step)[:3]
    return made(ops.arange, start, end, step, **options)


@spells("torch.linspace")
def linspace(start, end, steps, **options):
    return made(ops.linspace, start, end, steps, **options)


@spells("torch.logspace")
def logspace(start, end, steps, base=10.0, **options):
    return made(ops.logspace, start, end, steps, base, **options)


@spells("torch.empty_permuted")
def empty_permuted(size, physical_layout, **options):
    order = [dim_in(d, len(size), "empty_permuted") for d in physical_layout]
    if sorted(order) != list(range(len(size))):
        raise BadArgument(op="empty_permuted", name="physical_layout", rule="each dimension once", got=order, hint="")
    laid_out = made(ops.zeros, tuple(size[d] for d in order), **options)
    return ops.permute(laid_out, tuple(order.index(d) for d in range(len(order))))


@spells("torch.eye")
def eye(n, m=None, **options):
    return made(ops.eye, n, m, **options)


def _leaves(data: Any) -> list:
    return [leaf for item in data for leaf in _leaves(item)] if isinstance(data, (list, tuple)) else [data]


@spells("torch.tensor", "torch.as_tensor", "torch.scalar_tensor", "torch.asarray")
def tensor(data, dtype=None, **options):
    """A list of lists of numbers becomes constants joined."""
    if hasattr(data, "dtype"):
        return data if dtype is None else converted(data, dtype)
    if dtype is None:
        leaves = _leaves(data)
        whole = torch.bool if leaves and all(isinstance(leaf, bool) for leaf in leaves) else torch.int64
        dtype = whole if leaves and all(isinstance(leaf, int) for leaf in leaves) else torch.get_default_dtype()

    def joined(item: Any) -> Any:
        if not isinstance(item, (list, tuple)):
            return made(ops.full, (), item, dtype=dtype, **options)
        return ops.stack([joined(inner) for inner in item]) if item else made(ops.zeros, (0,), dtype=dtype, **options)

    return joined(data)


@spells("Tensor.new_tensor")
def new_tensor(self, data, **options):
    return tensor(data, **{"dtype": self.dtype, **options})
