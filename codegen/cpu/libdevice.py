"""libdevice's functions by their symbols, `__nv_tanhf` and the like: what hardware.py has, as far as C has it too."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial

from . import casts, directed, integers, special, vmath
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
        return libm(b, "ldexp", x, n)
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
        "acosh", "atanh", "remainder", "hypot", "fdim", "logb", "erfc", "lgamma", "tgamma", "j0", "j1", "y0", "y1",
        "jn", "yn")},
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


def _exponent(b: Builder, x: Value) -> Value:
    """ilogb: the least number of 0 and of NaN, the greatest of infinity."""
    number = casts.to_integer(b, libm(b, "logb", x), x.el, "i32", signed=True)
    return b.select(b.cmpf("uno", x, x), b.const(-(1 << 31), "i32", x.lanes), number)


def _half_of_sum(b: Builder, x: Value, y: Value, *, signed: bool, up: bool = False) -> Value:
    """(x + y) / 2, rounded down or up, of a sum that may need a bit more."""
    half = (b.shrs if signed else b.shru)(b.xor(x, y), 1)
    return b.sub(b.or_(x, y), half) if up else b.add(b.and_(x, y), half)


def _distance(b: Builder, x: Value, y: Value, z: Value, *, signed: bool) -> Value:
    """|x - y| + z"""
    larger = b.cmpi("sgt" if signed else "ugt", x, y)
    return b.add(b.select(larger, b.sub(x, y), b.sub(y, x)), z)


def _multiply_24(b: Builder, x: Value, y: Value, *, signed: bool) -> Value:
    """The product of the low 24 bits of each."""
    return b.mul(*((b.shrs if signed else b.shru)(b.shl(v, 8), 8) for v in (x, y)))


def _byte_perm(b: Builder, x: Value, y: Value, selector: Value) -> Value:
    """Four of the eight bytes of y and x, each chosen by three bits of a digit of the selector."""
    lanes = x.lanes
    bytes_ = b.or_(b.shl(b.cast("extui", y, "i64"), 32), b.cast("extui", x, "i64"))
    result = b.const(0, "i32", lanes)
    for at in range(4):
        place = b.shl(b.and_(b.shru(selector, 4 * at), b.const(7, "i32", lanes)), 3)
        byte = b.cast("trunci", b.binary("shrui", bytes_, b.cast("extui", place, "i64")), "i32")
        result = b.or_(result, b.shl(b.and_(byte, b.const(255, "i32", lanes)), 8 * at))
    return result


def _high_word(b: Builder, x: Value) -> Value:
    return b.cast("trunci", b.shru(b.bitcast(x, "i64"), 32), "i32")


def _low_word(b: Builder, x: Value) -> Value:
    return b.cast("trunci", b.bitcast(x, "i64"), "i32")


def _from_words(b: Builder, high: Value, low: Value) -> Value:
    return b.bitcast(b.or_(b.shl(b.cast("extui", high, "i64"), 32), b.cast("extui", low, "i64")), "f64")


def _reciprocal_high(b: Builder, x: Value) -> Value:
    """1 / x without the low 32 bits."""
    bits = b.bitcast(_reciprocal(b, x), "i64")
    return b.bitcast(b.and_(bits, b.const(-1 << 32, "i64", x.lanes)), "f64")


# The result's type is the function's own.
_OTHER: dict[str, Rule] = {
    "ilogb": _exponent, "ilogbf": _exponent, "byte_perm": _byte_perm, "double2hiint": _high_word,
    "double2loint": _low_word, "hiloint2double": _from_words, "rcp64h": _reciprocal_high,
    "hadd": partial(_half_of_sum, signed=True), "uhadd": partial(_half_of_sum, signed=False),
    "rhadd": partial(_half_of_sum, signed=True, up=True), "urhadd": partial(_half_of_sum, signed=False, up=True),
    "sad": partial(_distance, signed=True), "usad": partial(_distance, signed=False),
    "mul24": partial(_multiply_24, signed=True), "umul24": partial(_multiply_24, signed=False),
    "double2float_rn": lambda b, x: b.cast("truncf", x, "f32"),
}  # fmt: skip

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
_DIRECTED = re.compile(r"([fd](?:add|sub|mul|div|sqrt|rcp)|fmaf?|double2float)_(r[zdu])")
_DIRECTED_INTEGER = re.compile(r"(u?)(?:int|ll)2(?:float|double)_(r[zdu])")
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
    if match := _DIRECTED.fullmatch(name):
        rule = _OTHER["double2float_rn"] if match[1] == "double2float" else _FLOAT[match[1].removesuffix("f")]
        return directed.directed(b, match[1], match[2], rule, *operands)
    if match := _DIRECTED_INTEGER.fullmatch(name):
        convert = "uitofp" if match[1] else "sitofp"
        number = directed.directed(b, convert, match[2], lambda b, x: b.cast(convert, x, target), first)
        return b.intrinsic("fabs", number) if match[1] else number  # a difference of 0, rounded down, is -0
    if name in _BITS:
        return b.bitcast(first, target)
    if name in _OTHER:
        return _OTHER[name](b, *operands)
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
