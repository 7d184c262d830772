"""Operators, and torch's forms of call for functions of every element, in the manner of `spell.py`."""

from __future__ import annotations

from collections.abc import Callable

import torch

from fusedsl.errors import BadArgument, DataDependent
from fusedsl.ir import OPS, SPELLINGS, Op, spells
from fusedsl.types import dtype as dtype_of

from .spell import ops

_OPERATORS = {
    "add": "add", "sub": "sub", "mul": "mul", "truediv": "div", "div": "div", "floordiv": "floor_divide",
    "mod": "remainder", "pow": "pow", "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor",
    "lshift": "left_shift", "rshift": "right_shift", "lt": "lt", "le": "le", "gt": "gt", "ge": "ge", "eq": "eq",
    "ne": "ne", "neg": "neg", "abs": "abs", "invert": "bitwise_not",
}  # fmt: skip


def _reflected(op: Op) -> Callable:
    def reflected(self, other):
        return op(other, self)

    return reflected


for _name, _target in _OPERATORS.items():
    SPELLINGS[f"Tensor.__{_name}__"] = OPS[_target]
    if hasattr(torch.Tensor, f"__r{_name}__"):
        SPELLINGS[f"Tensor.__r{_name}__"] = _reflected(OPS[_target])


@spells("torch.positive", "Tensor.positive", "Tensor.__pos__", "torch.real", "Tensor.real", "torch.conj", "Tensor.conj",
        "torch.conj_physical", "Tensor.conj_physical", "torch.resolve_conj", "Tensor.resolve_conj",
        "torch.resolve_neg", "Tensor.resolve_neg")  # fmt: skip
def positive(input):
    return input


@spells("torch.add", "Tensor.add")
def add(input, other, *, alpha=1):
    return ops.add(input, _scaled(other, alpha))


@spells("torch.sub", "Tensor.sub", "torch.subtract", "Tensor.subtract")
def sub(input, other, *, alpha=1):
    return ops.sub(input, _scaled(other, alpha))


@spells("torch.rsub")
def rsub(input, other, *, alpha=1):
    return ops.sub(other, _scaled(input, alpha))


def _scaled(other, alpha):
    return other if isinstance(alpha, (int, float)) and alpha == 1 else other * alpha


SPELLINGS["torch.multiply"] = SPELLINGS["Tensor.multiply"] = OPS["mul"]


@spells("torch.div", "Tensor.div", "torch.divide", "Tensor.divide", "torch.true_divide", "Tensor.true_divide")
def div(input, other, *, rounding_mode=None):
    kinds = {None: ops.div, "trunc": ops.trunc_divide, "floor": ops.floor_divide}
    if rounding_mode not in kinds:
        raise BadArgument(op="div", name="rounding_mode", rule="None, 'trunc' or 'floor'", got=rounding_mode, hint="")
    return kinds[rounding_mode](input, other)


@spells("torch.round", "Tensor.round", "torch.special.round")
def round(input, *, decimals=0):
    if not decimals:
        return ops.round(input)
    scale, dtype = 10.0 ** abs(decimals), dtype_of(input.dtype)
    input = ops.cast(input, dtype.computed) if dtype.is_float else input  # it is rounded once
    found = ops.round(input / scale) * scale if decimals < 0 else ops.round(input * scale) / scale
    return ops.cast(found, dtype) if dtype.is_float else found


@spells("torch.is_conj", "Tensor.is_conj", "torch.is_neg", "Tensor.is_neg")
def is_conj(input):
    return False


@spells("torch.isreal", "Tensor.isreal")
def isreal(input):
    return ops.ones_like(input, torch.bool)


@spells("torch.fill")
def fill(input, value):
    return ops.full_like(input, value)


@spells("torch.isin")
def isin(elements, test_elements, *, assume_unique=False, invert=False):
    if hasattr(test_elements, "dtype"):
        every = ops.reshape(test_elements, (-1,))
        found = ops.any(ops.eq(ops.unsqueeze(elements, -1) if hasattr(elements, "dtype") else elements, every), -1)
    else:
        found = ops.eq(elements, test_elements)
    return ops.logical_not(found) if invert else found


@spells("torch.frexp", "Tensor.frexp")
def frexp(input):
    return torch.return_types.frexp(ops.frexp(input))


@spells("torch.polygamma", "torch.special.polygamma")
def polygamma(n, input):
    return ops.polygamma(input, n)


@spells("torch.where")
def where(condition, input=None, other=None):
    if input is None or other is None:
        raise DataDependent(op="where", what="how many elements are not 0", hint="Give all three arguments.")
    return ops.where(condition, input, other)


@spells("Tensor.where")
def tensor_where(self, condition, other):
    return ops.where(condition, self, other)
