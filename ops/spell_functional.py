"""torch.nn.functional, in the manner of `spell.py`: most of it is ops of the same names, and parameters that must keep
their default."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F

from fusedsl.errors import BadArgument, UnknownFunction
from fusedsl.ir import OPS, SPELLINGS, Op, spells

from .spell import ops


@spells("F.unfold")
def unfold(input, kernel_size, dilation=1, padding=0, stride=1):
    raise UnknownFunction(op="unfold", hint="Tensor.unfold(dimension, size, step) is there.")


@spells("F.embedding")
def embedding(input, weight, padding_idx=None, max_norm=None, norm_type=2.0, scale_grad_by_freq=False, sparse=False):
    if max_norm is not None:
        hint = "It changes the weight in place."
        raise BadArgument(op="embedding", name="max_norm", rule="None", got=max_norm, hint=hint)
    return ops.embedding(input, weight)


@spells("torch.embedding")
def torch_embedding(weight, indices, padding_idx=-1, scale_grad_by_freq=False, sparse=False):
    return ops.embedding(indices, weight)


def _fitted(function: Callable, op: Op) -> Callable:
    """The op called with torch's own parameters; those that it lacks (inplace, size_average ...) keep their default."""
    signature = inspect.signature(function)
    first = next(iter(signature.parameters))

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        given = dict(bound.arguments)
        operand = given.pop(first)
        for name, parameter in signature.parameters.items():
            if name in given and name not in op.signature.parameters:
                value = given.pop(name)
                if value is not parameter.default and name != "_stacklevel":
                    raise BadArgument(op=op.name, name=name, rule=f"{parameter.default!r}", got=repr(value), hint="")
        return op(operand, **given)

    return call


for _name, _op in OPS.items():
    _function = getattr(F, _name, None)
    if f"F.{_name}" in SPELLINGS or not inspect.isfunction(_function):
        continue
    if set(inspect.signature(_function).parameters) - set(_op.signature.parameters):
        SPELLINGS[f"F.{_name}"] = _fitted(_function, _op)
