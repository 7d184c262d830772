"""Conversions between dtypes, and the types that compositions compute in."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from fusedsl import ir
from fusedsl.errors import BadArgument, DTypesDisagree
from fusedsl.ir import Choice, Node, ToDType, TypeRule, declare
from fusedsl.types import DType, Type
from fusedsl.types import dtype as dtype_of

from .rules import common, default_float


def torch_dtype(dt: DType | torch.dtype | str) -> torch.dtype:
    """torch's dtype of that name."""
    found = dtype_of(dt).torch
    assert found is not None, f"no torch tensor holds {dt}"
    return found


def _cast_text(expr, x: str) -> str:
    source, to, computed = expr.args[0].dtype, expr.attrs["dtype"], expr.dtype
    if to.is_bool:
        return f"({x} != 0)"
    if to.is_integer:
        if source.is_float and to.bits < 64:  # out of range it wraps, as torch's does
            x = f"{x}.to(tl.int{64 if to.name == 'u32' else 32})"
        return f"{x}.to(tl.{to.language})"
    if source is not computed:  # torch, too, goes to a half by way of f32
        x = f"{x}.to(tl.{computed.language})"
    if to is computed:
        return x
    if to.name == "f8e5m2":
        return f"_from_e5m2(_to_e5m2({x}))"
    if to.name == "f8e4m3":
        return f"_from_e4m3(_to_e4m3({x}))"
    return f"{x}.to(tl.{to.language}).to(tl.{computed.language})"


@declare(type=TypeRule(lambda types, *, dtype: Type(dtype, types[0].shape, types[0].weak)), triton=_cast_text)
def cast(x: torch.Tensor, dtype: ToDType):
    """x in another dtype, as torch's Tensor.to: floats round to nearest even, to integers they truncate"""
    return x.to(torch_dtype(dtype))


def _retyped(types, *, dtype: DType) -> Type:
    (t,) = types
    if not (dtype.is_float and t.dtype is dtype.computed):
        raise DTypesDisagree(op="retype", rule="the operand must have the type that the result is computed in",
                             got=f"{t.dtype} to {dtype}", hint="Use .to(dtype).")  # fmt: skip
    return Type(dtype, t.shape)


@declare(type=TypeRule(_retyped), triton="{0}")
def retype(x: torch.Tensor, dtype: ToDType):
    """x, computed in f32, declared to be of a narrower float dtype: it is rounded where it is stored"""
    return x.to(torch_dtype(dtype))


def limits(dt: DType) -> tuple[int | float, int | float]:
    """The least and the greatest finite value."""
    if dt.is_float:
        most = torch.finfo(torch_dtype(dt)).max
        return -most, most
    return (-(2 ** (dt.bits - 1)), 2 ** (dt.bits - 1) - 1) if dt.kind == "i" else (0, 2**dt.bits - 1)


def check_number(value: object, dt: DType | torch.dtype, op: str, name: str) -> None:
    """Raises BadArgument where a dtype has no such number; torch does not convert it either. Below 0 whole numbers wrap
    around."""
    dt = dtype_of(dt)
    if not isinstance(value, (int, float)) or dt.is_bool or (dt.bits == 8 and dt.is_float):
        return
    low, high = limits(dt)
    least = -high if isinstance(value, int) and dt.kind == "u" else low
    if not (least <= value <= high or (dt.is_float and not math.isfinite(value))):
        hint = f"Compute in a dtype that holds it, or bring it into [{low}, {high}]."
        raise BadArgument(op=op, name=name, rule=f"a number that {dt} has", got=value, hint=hint)


@declare(type=TypeRule(lambda types: Type(types[0].dtype, types[0].shape)), triton="{0}")
def clone(x: torch.Tensor):
    """x, in memory of its own"""
    return torch.clone(x)


@declare(expand=lambda x, memory_format: x)
def contiguous(x: torch.Tensor, memory_format: Choice = "contiguous_format"):
    """x, in memory as the format says: it decides how what is computed from it lies"""
    return x.contiguous(memory_format=getattr(torch, memory_format))


# ---- what compositions compute in ------------------------------------------------------------------------------------


def float_of(*operands: Node | None) -> DType:
    """The float dtype of a composition's result: the common one, or torch's default for integers."""
    dt = common([node.type for node in operands if node is not None], "composition")
    return dt if dt.is_float else default_float()


def wide(x: Node, dt: DType) -> Node:
    """x in the type that values of dt are computed in: halves in f32."""
    return ir.cast(x, dt.computed)


def narrow(x: Node, dt: DType) -> Node:
    """The result of a composition, computed in f32, as dt."""
    return x if x.dtype is dt else retype(x, dt)


def rounded_once(formula: Callable[..., Node]) -> Callable[..., Node]:
    """An expansion that computes a formula of floats in f32 at least, and rounds its result to the operand's dtype."""

    def expand(x: Node, *operands: Node, **attrs) -> Node:
        dt = float_of(x, *operands)
        return narrow(formula(wide(x, dt), *(wide(o, dt) for o in operands), **attrs), dt)

    return expand
