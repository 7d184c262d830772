"""libdevice's functions by their symbols, `__nv_tanhf` and the like: what hardware.py has, as far as C has it too."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from . import casts, integers, special, vmath
from .build import Builder, Value, bits_of, is_float
from .errors import CannotCompile
from .libm import libm

__all__ = ["apply"]

Rule = Callable[..., Value]


def _intrinsic(name: str) -> Rule:
    return lambda b, *operands: b.intrinsic(name, *operands)


def _libm(name: str) -> Rule:
    return lambda b, *operands: libm(b, name, *operands)


def _in_f64(rule: Rule) -> Rule:
    """A function computed in f64, whatever its operands."""

    def apply(b: Builder, *operands: Value) -> Value:
        result = rule(b, *(x if x.el == "f64" else b.cast("extf", x, "f64") for x in operands))
        return result if operands[0].el == "f64" else b.cast("truncf", result, "f32")

    return apply


def _reciprocal(b: Builder, x: Value) -> Value:
    return b.divf(b.const(1.0, x.el, x.lanes), x)


def _reciprocal_cbrt(b: Builder, x: Value) -> Value:
    return _reciprocal(b, libm(b, "cbrt", x))


def _norm(b: Builder, first: Value, *rest: Value) -> Value:
    for x in rest:
        first = libm(b, "hypot", first, x)
    return first


def _reciprocal_norm(b: Builder, *parts: Value) -> Value:
    return _reciprocal(b, _norm(b, *parts))


def _normal_distribution(b: Builder, x: Value) -> Value:
    half = b.const(0.5, x.el, x.lanes)
    return b.mulf(half, libm(b, "erfc", b.mulf(x, b.const(-math.sqrt(0.5), x.el, x.lanes))))


def _sin_pi(b: Builder, x: Value) -> Value:
    turn = libm(b, "fmod", x, b.const(2.0, x.el, x.lanes))
    whole = b.cmpf("oeq", turn, b.intrinsic("trunc", turn))
    zero = b.intrinsic("copysign", b.const(0.0, x.el, x.lanes), x)
    return b.select(whole, zero, libm(b, "sin", b.mulf(turn, b.const(math.pi, x.el, x.lanes))))


def _cos_pi(b: Builder, x: Value) -> Value:
    turn = libm(b, "fmod", b.intrinsic("fabs", x), b.const(2.0, x.el, x.lanes))
    halves = [b.cmpf("oeq", turn, b.const(number, x.el, x.lanes)) for number in (0.5, 1.5)]
    zero = b.const(0.0, x.el, x.lanes)
    return b.select(b.or_(*halves), zero, libm(b, "cos", b.mulf(turn, b.const(math.pi, x.el, x.lanes))))


def _saturate(b: Builder, x: Value) -> Value:
    """Between 0 and 1; NaN is 0."""
    zero, one = b.const(0.0, x.el, x.lanes), b.const(1.0, x.el, x.lanes)
    x = b.select(b.cmpf("ogt", x, zero), x, zero)
    return b.select(b.cmpf("olt", x, one), x, one)


def _power(b: Builder, x: Value, n: Value) -> Value:
    return libm(b, "pow", x, b.cast("sitofp", n, x.el) if not is_float(n.el) else n)


def _ldexp(b: Builder, x: Value, n: Value) -> Value:
    """x * 2 ** n."""
    if x.el == "f64":
        raise CannotCompile("libdevice.ldexp of f64 has no counterpart on a CPU; multiply by libdevice.exp2")
    n = b.binary("maxsi", b.binary("minsi", n, b.const(300, n.el, n.lanes)), b.const(-300, n.el, n.lanes))
    power = b.shl(b.add(b.cast("extsi", n, "i64"), b.const(1023, "i64", n.lanes)), 52)
    return b.cast("truncf", b.mulf(b.cast("extf", x, "f64"), b.bitcast(power, "f64")), "f32")


def _next_after(b: Builder, x: Value, y: Value) -> Value:
    """The number next to x on the way to y: floats of one sign are in the order of their bits."""
    el, lanes = {"f32": "i32", "f64": "i64"}[x.el], x.lanes
    zero = b.const(0.0, x.el, lanes)
    back = b.xor(b.cmpf("ogt", y, x), b.cmpf("ogt", x, zero))
    step = b.select(back, b.const(-1, el, lanes), b.const(1, el, lanes))
    least = b.intrinsic("copysign", b.bitcast(b.const(1, el, lanes), x.el), y)
    beside = b.select(b.cmpf("oeq", x, zero), least, b.bitcast(b.add(b.bitcast(x, el), step), x.el))
    beside = b.select(b.cmpf("oeq", x, y), y, beside)
    return b.select(b.cmpf("uno", x, y), b.addf(x, y), beside)


# One operand, or several of one type, which is the result's.
_FLOAT: dict[str, Rule] = {
    "fabs": _intrinsic("fabs"), "floor": _intrinsic("floor"), "ceil": _intrinsic("ceil"), "trunc": _intrinsic("trunc"),
    "rint": _intrinsic("roundeven"), "nearbyint": _intrinsic("roundeven"), "round": _intrinsic("round"),
    "copysign": _intrinsic("copysign"), "fma": _intrinsic("fma"),
    "sqrt": _intrinsic("sqrt"), "fsqrt": _intrinsic("sqrt"), "dsqrt": _intrinsic("sqrt"),
    "rsqrt": vmath.rsqrt, "frsqrt": vmath.rsqrt, "frcp": _reciprocal, "drcp": _reciprocal,
    "fadd": Builder.addf, "dadd": Builder.addf, "fsub": Builder.subf, "dsub": Builder.subf,
    "fmul": Builder.mulf, "dmul": Builder.mulf, "fdiv": Builder.divf, "ddiv": Builder.divf,
    "fdivide": Builder.divf, "fmod": vmath.fmod, "saturate": _saturate, "pow": _power, "powi": _power,
    "ldexp": _ldexp, "scalbn": _ldexp,
    **{name: vmath.function(name) for name in (
        "exp", "exp2", "expm1", "log", "log2", "log1p", "sin", "cos", "tanh", "erf")},
    **{name: _libm(name) for name in (
        "cbrt", "exp10", "log10", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "asinh",
        "acosh", "atanh", "remainder", "hypot", "fdim", "logb", "erfc", "lgamma", "tgamma", "j0", "j1", "y0", "y1")},
    "rcbrt": _in_f64(_reciprocal_cbrt), "rhypot": _in_f64(_reciprocal_norm), "normcdf": _in_f64(_normal_distribution),
    "norm3d": _in_f64(_norm), "norm4d": _in_f64(_norm),
    "rnorm3d": _in_f64(_reciprocal_norm), "rnorm4d": _in_f64(_reciprocal_norm),
    "sinpi": _in_f64(_sin_pi), "cospi": _in_f64(_cos_pi), "nextafter": _next_after,
    "erfinv": _in_f64(special.erfinv), "erfcinv": _in_f64(special.erfcinv), "erfcx": _in_f64(special.erfcx),
    "normcdfinv": _in_f64(special.normcdfinv),
    "cyl_bessel_i0": _in_f64(special.bessel_i(0)), "cyl_bessel_i1": _in_f64(special.bessel_i(1)),
}  # fmt: skip


def _is_infinite(b: Builder, x: Value) -> Value:
    return b.cmpf("oeq", b.intrinsic("fabs", x), b.const(math.inf, x.el, x.lanes))


def _is_finite(b: Builder, x: Value) -> Value:
    return b.cmpf("olt", b.intrinsic("fabs", x), b.const(math.inf, x.el, x.lanes))


def _sign_bit(b: Builder, x: Value) -> Value:
    number = b.bitcast(x, x.el.replace("f", "i"))
    return b.cmpi("slt", number, b.const(0, number.el, x.lanes))


_TESTS: dict[str, Rule] = {
    "isnan": lambda b, x: b.cmpf("uno", x, x), "isinf": _is_infinite, "finite": _is_finite, "isfinite": _is_finite,
    "signbit": _sign_bit,
}  # fmt: skip


def _leading_zeros(b: Builder, x: Value) -> Value:
    types = f" : ({x.type}) -> {x.type}"
    return b.pure('"llvm.intr.ctlz"({}) {{is_zero_poison = false}}', (x,), x.el, x.lanes, types)


def _first_one(b: Builder, x: Value) -> Value:
    """The place of the lowest bit that is 1, counted from 1; 0 if there is none."""
    zero = b.const(0, x.el, x.lanes)
    lowest = b.and_(x, b.sub(zero, x))
    place = b.sub(b.const(bits_of(x.el), x.el, x.lanes), _leading_zeros(b, lowest))
    return b.select(b.cmpi("eq", x, zero), zero, place)


# Integers of one type; what is counted comes as i32.
_INTEGER: dict[str, Rule] = {
    "abs": integers.absolute, "llabs": integers.absolute, "popc": _intrinsic("ctpop"), "popcll": _intrinsic("ctpop"),
    "clz": _leading_zeros, "clzll": _leading_zeros, "ffs": _first_one, "ffsll": _first_one,
    "brev": _intrinsic("bitreverse"), "brevll": _intrinsic("bitreverse"),
    "mulhi": integers.multiply_high_signed, "mul64hi": integers.multiply_high_signed,
    "umulhi": integers.multiply_high, "umul64hi": integers.multiply_high,
}  # fmt: skip

_BITS = {"float_as_int", "float_as_uint", "int_as_float", "uint_as_float", "double_as_longlong", "longlong_as_double"}
_ROUNDING = {"rn": "roundeven", "rz": "trunc", "rd": "floor", "ru": "ceil"}
_TO_INTEGER = re.compile(r"(float|double)2(u?)(?:int|u?ll)_(r[nzdu])")
_FROM_INTEGER = re.compile(r"(u?)(?:int|ll)2(?:float|double)_rn")
_ROUND_TO_I64 = {"llrint": "roundeven", "llround": "round"}


def apply(b: Builder, symbol: str, target: str, *operands: Value) -> Value:
    """The function behind a symbol; `target` is the type of its result."""
    name = symbol.removeprefix("__nv_").removeprefix("fast_")
    first = operands[0]
    if match := _TO_INTEGER.fullmatch(name):
        rounded = b.intrinsic(_ROUNDING[match[3]], first)
        return casts.to_integer(b, rounded, first.el, target, signed="2u" not in name)
    if match := _FROM_INTEGER.fullmatch(name):
        return casts.to_float(b, first, first.el, target, signed=not match[1])
    if name in _BITS:
        return b.bitcast(first, target)
    plain = name.removesuffix("_rn")
    for base in (plain, plain[:-1] if plain[-1] in "fd" else plain):
        if base in _FLOAT:
            return _FLOAT[base](b, *operands)
        if base in _TESTS:
            truth = _TESTS[base](b, *operands)
            return truth if target == "i1" else b.cast("extui", truth, target)
        if base in _ROUND_TO_I64:
            return casts.to_integer(b, b.intrinsic(_ROUND_TO_I64[base], first), first.el, target, signed=True)
        if base in _INTEGER:
            return b.resize(_INTEGER[base](b, *operands), target)
    raise CannotCompile(f"libdevice's {symbol} has no counterpart on a CPU; write it with other functions")
