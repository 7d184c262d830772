"""Where values come from: inputs, constants, sizes and the running index."""

from __future__ import annotations

import torch

from fusedsl import ir
from fusedsl.index import Index
from fusedsl.ir import Choice, Flag, Node, Number, Size, ToDType, TypeRule, declare
from fusedsl.types import Type, i64

from .convert import torch_dtype


@declare(source=True, lower=lambda context, node, index: context.load(node, index))
def input(name: Choice, number: Flag):
    """An argument of the fused function: a tensor, or a Python number passed by value."""
    raise AssertionError("an input has no value of its own")


@declare(source=True, lower=lambda context, node, index: context.constant(node["value"], node.dtype))
def const(value: Number, dtype: ToDType):
    """A number known while tracing."""
    return torch.tensor(value, dtype=torch_dtype(dtype))


@declare(source=True, lower=lambda context, node, index: context.number(node["value"], node.dtype))
def size(value: Size):
    """A size as a number."""
    return torch.tensor(value)


@declare(
    type=TypeRule(lambda types, *, n: Type(i64, (n,))),
    lower=lambda context, node, index: context.number(index[0], node.dtype),
)
def iota(n: Size):
    """0, 1, 2 ... n-1"""
    return torch.arange(n)


def numbers(n: Index) -> Node:
    """The node 0, 1 ... n-1; no operand tells `iota` that a node is wanted."""
    return ir.build(iota, (), {"n": n})
