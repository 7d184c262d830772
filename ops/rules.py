"""Shape and dtype rules that declarations share, each an equation on types."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from fusedsl.errors import DTypesDisagree
from fusedsl.index import Index
from fusedsl.ir import TypeRule
from fusedsl.types import DType, Type, bool_, broadcast, dtype, f64, i64, promote

# ---- what operands are brought to ------------------------------------------------------------------------------------


def _all_weak(types: Sequence[Type]) -> bool:
    return all(t.weak for t in types)


def default_float() -> DType:
    return dtype(torch.get_default_dtype())


def common(types: Sequence[Type], op: str) -> DType:
    """The dtype that operands are brought to; Python numbers among themselves stay as wide as Python's."""
    if not _all_weak(types):
        return promote(types, op)
    kinds = [t.dtype for t in types]
    return f64 if any(k.is_float for k in kinds) else i64 if any(k.is_integer for k in kinds) else bool_


def _promoted(types: Sequence[Type], op: str) -> list[DType | None]:
    return [common(types, op)] * len(types)


def _floated(types: Sequence[Type], op: str) -> list[DType | None]:
    dt = common(types, op)
    if not dt.is_float:
        dt = f64 if _all_weak(types) else default_float()
    return [dt] * len(types)


def refusing(refused: Callable[[DType], bool], rule: str, hint: str):
    """The common dtype, unless it is refused: then DTypesDisagree."""

    def operands(types: Sequence[Type], op: str) -> list[DType | None]:
        dt = common(types, op)
        if refused(dt):
            raise DTypesDisagree(op=op, rule=rule, got=str(dt), hint=hint)
        return [dt] * len(types)

    return operands


def _bools(types: Sequence[Type], op: str) -> list[DType | None]:
    return [bool_] * len(types)


# ---- what comes out --------------------------------------------------------------------------------------------------


def _result(types: Sequence[Type]) -> Type:
    return Type(types[0].dtype, broadcast([t.shape for t in types], "elementwise"), _all_weak(types))


def _truth(types: Sequence[Type]) -> Type:
    return Type(bool_, broadcast([t.shape for t in types], "elementwise"))


same = TypeRule(_result, _promoted)  # the common dtype in and out
floating = TypeRule(_result, _floated)  # integers become the default float
integral = TypeRule(
    _result, refusing(lambda dt: dt.is_float, "operands must be integers or bools", "Cast with .to(torch.int64).")
)
numeric = TypeRule(
    _result, refusing(lambda dt: dt.is_bool, "bools have no arithmetic of this kind", "Use ^, ~ or .to(torch.int64).")
)
integers = TypeRule(
    _result, refusing(lambda dt: not dt.is_integer, "operands must be integers", "Cast with .to(torch.int64).")
)
floats = TypeRule(
    _result, refusing(lambda dt: not dt.is_float, "operands must be floats", "Cast with .to(torch.float32).")
)
comparison = TypeRule(_truth, _promoted)  # common dtype in, bool out
logical = TypeRule(_truth, _bools)  # every operand as a bool, bool out
test = TypeRule(_truth)  # operands as they are, bool out


def _where_operands(types: Sequence[Type], op: str) -> list[DType | None]:
    return [bool_, *[promote(types[1:], op)] * 2]


def _where_result(types: Sequence[Type]) -> Type:
    return Type(types[1].dtype, broadcast([t.shape for t in types], "where"))


chosen = TypeRule(_where_result, _where_operands)  # where: a bool, then two of a common dtype


def without(shape: Sequence[Index], dim: Sequence[int], keepdim: bool = False) -> tuple[Index, ...]:
    """The shape with dims reduced away, or kept as 1."""
    if keepdim:
        return tuple(1 if d in dim else n for d, n in enumerate(shape))
    return tuple(n for d, n in enumerate(shape) if d not in dim)


def reduced(types: Sequence[Type], *, dim: tuple[int, ...], **attrs: object) -> Type:
    """The operand's type with the dims of `dim` reduced away."""
    (t,) = types
    return Type(t.dtype, without(t.shape, dim))


reducing = TypeRule(reduced)


def viewed(shape: Callable[..., Sequence[Index]]) -> TypeRule:
    """A view: the operand's dtype, and a shape that `shape(operand type, **attrs)` gives."""
    return TypeRule(lambda types, **attrs: Type(types[0].dtype, tuple(shape(types[0], **attrs))))
