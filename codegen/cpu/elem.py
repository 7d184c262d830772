"""The operations of TTIR that work on each element alone, on vectors and scalars.

One table for each kind of operand. Floats narrower than f32 are computed in f32 and rounded after every operation, so
that a kernel gives what it gives on a GPU; nothing is contracted or reassociated. Where hardware.py defines what C
leaves undefined (shifts by the width, division by zero, casts out of range), this does the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import hardware
from ..ttir import Op
from . import casts, integers, libdevice, vmath
from .build import WIDTH, Builder, Value, is_float
from .casts import held
from .errors import REFUSED, CannotCompile

__all__ = ["apply", "constant", "cost", "held", "is_elementwise"]

Rule = Callable[..., Value]


# ---------------------------------------------------------------------------------------------------------------------
# Floats: functions of f32 or f64 values, which narrower types go through
# ---------------------------------------------------------------------------------------------------------------------


def maxnum(b: Builder, x: Value, y: Value) -> Value:
    """The larger; of a number and NaN the number. Which of two zeros is left open."""
    known = _beside_number(b, x, y, "ogt", nan=False)
    return known or b.select(b.cmpf("uno", y, y), x, b.select(b.cmpf("ogt", x, y), x, y))


def minnum(b: Builder, x: Value, y: Value) -> Value:
    known = _beside_number(b, x, y, "olt", nan=False)
    return known or b.select(b.cmpf("uno", y, y), x, b.select(b.cmpf("olt", x, y), x, y))


def maximum(b: Builder, x: Value, y: Value) -> Value:
    """The larger; NaN if either is."""
    known = _beside_number(b, x, y, "ogt", nan=True)
    return known or b.select(b.cmpf("uno", x, x), _nan(b, x, y), b.select(b.cmpf("ogt", x, y), x, y))


def minimum(b: Builder, x: Value, y: Value) -> Value:
    known = _beside_number(b, x, y, "olt", nan=True)
    return known or b.select(b.cmpf("uno", x, x), _nan(b, x, y), b.select(b.cmpf("olt", x, y), x, y))


def _beside_number(b: Builder, x: Value, y: Value, better: str, nan: bool) -> Value | None:
    """The better of two operands of which one is a constant other than NaN, in one instruction of x86: what is written
    last there is the result for a NaN. None if neither is such a constant.

    Without the fence LLVM would make a masked store of it where it is written back to where the operand was read."""
    for number, other in ((x, y), (y, x)):
        if number.constant is not None and number.constant == number.constant:
            first, last = (number, b.fence(other)) if nan else (b.fence(other), number)
            return b.select(b.cmpf(better, first, last), first, last)
    return None


def _nan(b: Builder, x: Value, y: Value) -> Value:
    """A NaN where x is one: the bits of both. Were it x itself, LLVM would make a masked store, which is slow, of a
    maximum that is written back to where x was read."""
    bits = {"f16": "i16", "f32": "i32", "f64": "i64"}[x.el]
    return b.bitcast(b.or_(b.bitcast(x, bits), b.bitcast(y, bits)), x.el)


def _intrinsic(name: str) -> Rule:
    return lambda b, *operands: b.intrinsic(name, *operands)


# Native on f16 as well: one operation, rounded once, is what computing in f32 gives.
_ARITHMETIC: dict[str, Rule] = {
    "arith.addf": Builder.addf, "arith.subf": Builder.subf, "arith.mulf": Builder.mulf, "arith.divf": Builder.divf,
    "tt.precise_divf": Builder.divf, "tt.approx_divf": Builder.divf,
}  # fmt: skip
_FLOAT: dict[str, Rule] = {
    **_ARITHMETIC,
    "arith.remf": vmath.fmod,
    "math.sqrt": _intrinsic("sqrt"), "tt.precise_sqrt": _intrinsic("sqrt"), "math.rsqrt": vmath.rsqrt,
    "math.exp": vmath.function("exp"), "math.exp2": vmath.function("exp2"),
    "math.log": vmath.function("log"), "math.log2": vmath.function("log2"),
    "math.sin": vmath.function("sin"), "math.cos": vmath.function("cos"),
    "math.erf": vmath.function("erf"), "math.tanh": vmath.function("tanh"),
    "math.log1p": vmath.function("log1p"), "math.expm1": vmath.function("expm1"),
}  # fmt: skip
# The result is a number of the operands' type already.
_EXACT: dict[str, Rule] = {
    "arith.negf": Builder.negf, "math.absf": _intrinsic("fabs"),
    "arith.maxnumf": maxnum, "arith.minnumf": minnum, "arith.maximumf": maximum, "arith.minimumf": minimum,
    "math.ceil": _intrinsic("ceil"), "math.floor": _intrinsic("floor"), "math.trunc": _intrinsic("trunc"),
    "math.roundeven": _intrinsic("roundeven"), "math.copysign": _intrinsic("copysign"),
}  # fmt: skip


def _float(b: Builder, rule: Rule, element: str, operands: Sequence[Value], exact: bool) -> Value:
    wide = [casts.widen(b, x, element) for x in operands]
    result = rule(b, *wide)
    return casts.exactly(b, result, element) if exact else casts.narrow(b, result, element)


# ---------------------------------------------------------------------------------------------------------------------
# What needs more than its operands
# ---------------------------------------------------------------------------------------------------------------------


def _predicate(op: Op) -> str:
    return op.text.split()[0].rstrip(",")


def _compare_integers(b: Builder, op: Op, sources: Sequence[str], target: str, x: Value, y: Value) -> Value:
    if x.el == "ptr":
        x, y = b.address(x), b.address(y)
    return b.cmpi(_predicate(op), x, y)


def _compare_floats(b: Builder, op: Op, sources: Sequence[str], target: str, x: Value, y: Value) -> Value:
    element = sources[0]
    return b.cmpf(_predicate(op), casts.widen(b, x, element), casts.widen(b, y, element))


def _select(b: Builder, op: Op, sources: Sequence[str], target: str, *operands: Value) -> Value:
    return b.select(*operands)


def _extend(name: str) -> Rule:
    return lambda b, op, sources, target, x: b.cast(name, x, target) if x.el != target else x


def _float_to_float(b: Builder, op: Op, sources: Sequence[str], target: str, x: Value) -> Value:
    toward_zero = op.name == "tt.fp_to_fp" and op.attribute("rounding", "rtne") == "rtz"
    return casts.to_float(b, x, sources[0], target, toward_zero=toward_zero)


def _integer_to_float(signed: bool) -> Rule:
    return lambda b, op, sources, target, x: casts.to_float(b, x, sources[0], target, signed)


def _float_to_integer(signed: bool) -> Rule:
    return lambda b, op, sources, target, x: casts.to_integer(b, x, sources[0], target, signed)


def _bitcast(b: Builder, op: Op, sources: Sequence[str], target: str, x: Value) -> Value:
    return casts.bits(b, x, target)


def _pointer_to_integer(b: Builder, op: Op, sources: Sequence[str], target: str, x: Value) -> Value:
    return b.resize(b.address(x) if x.el == "ptr" else x, target)


def _integer_to_pointer(b: Builder, op: Op, sources: Sequence[str], target: str, x: Value) -> Value:
    return b.pointer(b.resize(x, "i64"))


def _clamp(b: Builder, op: Op, sources: Sequence[str], target: str, *operands: Value) -> Value:
    """min(max(x, low), high)."""
    x, low, high = (casts.widen(b, value, target) for value in operands)
    if op.attribute("propagateNan", "none") == "all":
        result = minimum(b, maximum(b, x, low), high)
    else:
        result = minnum(b, maxnum(b, x, low), high)
    return casts.exactly(b, result, target)


def _fma(b: Builder, op: Op, sources: Sequence[str], target: str, *operands: Value) -> Value:
    return casts.fma(b, target, *operands)


def _extern(b: Builder, op: Op, sources: Sequence[str], target: str, *operands: Value) -> Value:
    try:
        return libdevice.apply(b, op.attribute("symbol"), target, *operands)
    except CannotCompile as error:
        raise CannotCompile(error.why, op) from None


_OTHER: dict[str, Rule] = {
    "arith.cmpi": _compare_integers, "arith.cmpf": _compare_floats, "arith.select": _select,
    "arith.extsi": _extend("extsi"), "arith.extui": _extend("extui"), "arith.trunci": _extend("trunci"),
    "arith.extf": _float_to_float, "arith.truncf": _float_to_float, "tt.fp_to_fp": _float_to_float,
    "arith.sitofp": _integer_to_float(True), "arith.uitofp": _integer_to_float(False),
    "arith.fptosi": _float_to_integer(True), "arith.fptoui": _float_to_integer(False),
    "arith.bitcast": _bitcast, "tt.bitcast": _bitcast,
    "tt.ptr_to_int": _pointer_to_integer, "tt.int_to_ptr": _integer_to_pointer,
    "tt.clampf": _clamp, "math.fma": _fma, "tt.extern_elementwise": _extern,
}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# The interface
# ---------------------------------------------------------------------------------------------------------------------


def is_elementwise(op: Op) -> bool:
    """Can `apply` do it?"""
    return any(op.name in table for table in (_FLOAT, _EXACT, integers.RULES, _OTHER))


def apply(b: Builder, op: Op, sources: Sequence[str], target: str, operands: Sequence[Value]) -> Value:
    """One operation on values that are all scalars or all vectors of one length.

    `sources` and `target` are TTIR's element types of the operands and the result; values are held as `held` says.
    """
    name = op.name
    if target == "f16" and name in _ARITHMETIC:
        return _ARITHMETIC[name](b, *operands)
    if name in _FLOAT or name in _EXACT:
        exact = name in _EXACT
        return _float(b, (_EXACT if exact else _FLOAT)[name], target, operands, exact)
    if name in integers.RULES:
        return integers.apply(b, name, *operands)
    if name in _OTHER:
        return _OTHER[name](b, op, sources, target, *operands)
    raise CannotCompile(REFUSED.get(name, "it has no meaning on a CPU; write it with other operations"), op)


_COSTS = {
    "arith.divf": 5, "tt.precise_divf": 5, "tt.approx_divf": 5, "math.sqrt": 6, "tt.precise_sqrt": 6, "math.rsqrt": 11,
    "math.exp": 21, "math.exp2": 18, "math.log": 31, "math.log2": 30, "math.sin": 42, "math.cos": 43,
    "math.erf": 36, "math.tanh": 33, "arith.remf": 50, "tt.extern_elementwise": 60,
    "arith.divsi": 30, "arith.remsi": 35, "arith.divui": 30, "arith.remui": 35, "tt.mulhiui": 6,
    "arith.maxnumf": 3, "arith.minnumf": 3, "arith.maximumf": 3, "arith.minimumf": 3, "tt.clampf": 6,
    "arith.fptosi": 6, "arith.fptoui": 8, "arith.uitofp": 3,
}  # fmt: skip


def cost(op: Op) -> int:
    """About how many instructions it takes for a register of f32s; small floats are converted on top of that."""
    elements = {kind.element for kind in op.types}
    small = 8 * ("bf16" in elements) + 2 * ("f16" in elements) + 20 * any(e in casts.SMALL for e in elements)
    wide = 2 if elements & {"f64", "i64"} else 1
    moved = op.name in ("arith.select", "arith.bitcast", "tt.bitcast")
    return wide * _COSTS.get(op.name, 1) + (0 if moved else small)


def constant(b: Builder, token: str, element: str, lanes: int | None = None) -> Value:
    """A number as TTIR writes it: `1.000000e+00`, `0xFF800000`, `true`, `-5`."""
    return b.const(_number(token, element), held(element), lanes)


def _number(token: str, element: str) -> Any:
    if token in ("true", "false"):
        return token == "true"
    el = held(element)
    if element[0] == "i":
        return int(token, 0)
    if token.startswith("0x"):
        bits = int(token, 16)
        return np.array([bits], f"u{WIDTH[el] // 8}").view(hardware.raw_dtype(element))[0] if is_float(el) else bits
    if element == "bf16":  # written with as many digits as tell it from its neighbours
        return int(hardware.to_raw(hardware.to_bf16(np.float32(token)), "bf16"))
    if element in casts.SMALL:
        return int(hardware.to_f8(np.float32(token), element))
    return hardware.raw_dtype(element).type(token)
