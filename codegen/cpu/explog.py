"""Exponentials and logarithms of f32 and f64, as polynomials.

    e ** x = 2 ** n * e ** r           n the integer next to x / log(2), |r| <= log(2) / 2
    log(x) = n * log(2) + log(1 + f)   x = 2 ** n * (1 + f), f between sqrt(1/2) - 1 and sqrt(2) - 1

Products with the upper part of log(2) are exact, so that a machine that cannot fuse them loses little.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from .build import Builder, Value

__all__ = [
    "copysign", "exp", "exp2", "exp_between", "expm1", "horner", "log", "log1p", "log2", "minimum", "nearest",
]  # fmt: skip


@dataclass(frozen=True)
class Form:
    """What differs between f32 and f64."""

    integer: str
    mantissa: int  # digits
    one: int  # the bits of 1
    magic: float  # a number near it holds an integer in its low bits, and adding it rounds to that
    ln2: tuple[float, float]
    exp_range: tuple[float, float]  # beyond it the result is 0 or infinity
    exp2_range: tuple[float, float]
    expm1_low: float
    sqrt_half: int  # the bits of sqrt(1/2)
    expm1: tuple[float, ...]  # (e ** r - 1 - r) / r ** 2
    exp2: tuple[float, ...]  # (2 ** r - 1) / r

    @property
    def bias(self) -> int:
        return self.one >> self.mantissa


# Minimax for f32; Taylor, which needs one more term, for f64.
FORMS = {
    "f32": Form(
        "i32", 23, 0x3F800000, 1.5 * 2.0**23, (0.693359375, -2.12194440e-4), (-104.0, 89.0), (-150.0, 128.5), -30.0,
        0x3F3504F3,
        (1.3950630784557994e-3, 8.368969937795342e-3, 4.1666203711848065e-2, 1.6666518169259933e-1,
         5.000000095833322e-1),
        (1.5476416877854577e-4, 1.3400376543059728e-3, 9.618003488499099e-3, 5.550327525095031e-2,
         2.4022651349041893e-1, 6.931472063715719e-1),
    ),
    "f64": Form(
        "i64", 52, 0x3FF0000000000000, 1.5 * 2.0**52, (6.93147180369123816490e-01, 1.90821492927058770002e-10),
        (-745.2, 710.0), (-1075.0, 1025.0), -60.0, 0x3FE6A09E667F3BCD,
        tuple(1 / math.factorial(k) for k in range(13, 1, -1)),
        tuple(math.log(2) ** k / math.factorial(k) for k in range(14, 0, -1)),
    ),
}  # fmt: skip


def horner(b: Builder, x: Value, *coefficients: float) -> Value:
    """The polynomial whose highest coefficient comes first."""
    result, *rest = (b.const(c, x.el, x.lanes) for c in coefficients)
    for coefficient in rest:
        result = b.fma(result, x, coefficient)
    return result


def minimum(b: Builder, x: Value, bound: float) -> Value:
    """The smaller of x and a number; NaN stays NaN."""
    limit = b.const(bound, x.el, x.lanes)
    return b.select(b.cmpf("olt", limit, x), limit, x)


def maximum(b: Builder, x: Value, bound: float) -> Value:
    limit = b.const(bound, x.el, x.lanes)
    return b.select(b.cmpf("ogt", limit, x), limit, x)


def copysign(b: Builder, x: Value, sign: Value) -> Value:
    return b.intrinsic("copysign", x, sign)


# ---------------------------------------------------------------------------------------------------------------------
# Exponentials
# ---------------------------------------------------------------------------------------------------------------------


def nearest(b: Builder, x: Value, factor: float, plus: int = 0) -> tuple[Value, Value]:
    """The integer next to x * factor, as a float and, with a number added, in the low bits of an integer."""
    form = FORMS[x.el]
    magic = b.const(form.magic + plus, x.el, x.lanes)
    moved = b.fma(x, b.const(factor, x.el, x.lanes), magic)
    return b.subf(moved, magic), b.bitcast(moved, form.integer)


def _power_of_two(b: Builder, exponent: Value, el: str) -> Value:
    """The normal number with this biased exponent, in the low bits of an integer."""
    return b.bitcast(b.shl(exponent, FORMS[el].mantissa), el)


def _scale(b: Builder, x: Value, whole: Value, exponent: Value) -> Value:
    """x * 2 ** n, where the result may be denormal or infinite. exponent: n with twice the bias, for two steps where it
    cannot be done in one."""
    if b.can_scale(x):
        return b.scaled(x, whole)
    half = b.shru(exponent, 1)
    return b.mulf(b.mulf(x, _power_of_two(b, half, x.el)), _power_of_two(b, b.sub(exponent, half), x.el))


def _reduce(b: Builder, x: Value, plus: int) -> tuple[Value, Value, Value]:
    """e ** r - 1, and n, also with a number added in the low bits of an integer."""
    form = FORMS[x.el]
    whole, n = nearest(b, x, math.log2(math.e), plus)
    high, low = (b.const(-part, x.el, x.lanes) for part in form.ln2)
    rest = b.fma(whole, low, b.fma(whole, high, x))
    return b.fma(b.mulf(rest, rest), horner(b, rest, *form.expm1), rest), whole, n


def _within(b: Builder, x: Value, low: float, high: float) -> tuple[Value, Callable[[Value], Value]]:
    """x, no greater than high, 0 below low; and what makes its power 0 there. Machines take a hundred times as long for
    a product that vanishes, and what masks hide does."""
    zero = b.const(0.0, x.el, x.lanes)
    below = b.cmpf("olt", x, b.const(low, x.el, x.lanes))
    return b.select(below, zero, minimum(b, x, high)), lambda power: b.select(below, zero, power)


def exp(b: Builder, x: Value) -> Value:
    form = FORMS[x.el]
    x, vanished = _within(b, x, *form.exp_range)
    p, whole, exponent = _reduce(b, x, 2 * form.bias)
    return vanished(_scale(b, b.addf(p, b.const(1.0, x.el, x.lanes)), whole, exponent))


def exp_between(b: Builder, x: Value) -> Value:
    """e ** x where that is a normal number."""
    p, _, exponent = _reduce(b, x, FORMS[x.el].bias)
    return b.mulf(b.addf(p, b.const(1.0, x.el, x.lanes)), _power_of_two(b, exponent, x.el))


def exp2(b: Builder, x: Value) -> Value:
    form = FORMS[x.el]
    x, vanished = _within(b, x, *form.exp2_range)
    whole, exponent = nearest(b, x, 1.0, 2 * form.bias)
    rest = b.subf(x, whole)
    power = b.fma(rest, horner(b, rest, *form.exp2), b.const(1.0, x.el, x.lanes))
    return vanished(_scale(b, power, whole, exponent))


def expm1(b: Builder, x: Value) -> Value:
    """(e ** r - 1) * 2 ** n + (2 ** n - 1), both halved, so that 2 ** n is a number whenever the result is."""
    form = FORMS[x.el]
    p, _, exponent = _reduce(b, maximum(b, minimum(b, x, form.exp_range[1]), form.expm1_low), form.bias - 1)
    power = _power_of_two(b, exponent, x.el)
    half = b.fma(p, power, b.subf(power, b.const(0.5, x.el, x.lanes)))
    return copysign(b, b.addf(half, half), x)  # that of -0


# ---------------------------------------------------------------------------------------------------------------------
# Logarithms
# ---------------------------------------------------------------------------------------------------------------------


def _exponent(b: Builder, x: Value) -> tuple[Value, Value]:
    """n of a normal x = 2 ** n * (1 + f), as a float, and as it is added to an exponent."""
    form = FORMS[x.el]
    number = b.bitcast(x, form.integer)
    above = b.sub(number, b.const(form.sqrt_half, number.el, x.lanes))
    moved = b.and_(above, b.const(-1 << form.mantissa, number.el, x.lanes))
    if x.el == "f32":
        return b.cast("sitofp", b.shrs(above, form.mantissa), x.el), moved
    # Few machines convert 64 bits: put the exponent, without its sign, into the low digits of 2 ** 52.
    unsigned = b.shru(b.add(above, b.const(form.one, number.el, x.lanes)), form.mantissa)
    digits = b.bitcast(b.or_(unsigned, b.const(0x4330000000000000, number.el, x.lanes)), x.el)
    return b.subf(digits, b.const(2.0**52 + 1023, x.el, x.lanes)), moved


def _split(b: Builder, x: Value) -> tuple[Value, Value]:
    """n and f of x = 2 ** n * (1 + f)."""
    form, lanes = FORMS[x.el], x.lanes
    lowest, factor = (2.0**-126, 23.0) if x.el == "f32" else (2.0**-1022, 52.0)
    small = b.cmpf("olt", x, b.const(lowest, x.el, lanes))
    x = b.select(small, b.mulf(x, b.const(2.0**factor, x.el, lanes)), x)
    n, moved = _exponent(b, x)
    n = b.addf(n, b.select(small, b.const(-factor, x.el, lanes), b.const(0.0, x.el, lanes)))
    mantissa = b.bitcast(b.sub(b.bitcast(x, form.integer), moved), x.el)
    return n, b.subf(mantissa, b.const(1.0, x.el, lanes))


def _log_factor(b: Builder, f: Value) -> Value:
    """v of log(1 + f) = f + f * v, for f32."""
    p = horner(b, f, -0.0763449776, 0.127615775, -0.131601822, 0.142017579, -0.166233574, 0.200012269, -0.25000821,
               0.333333317)  # fmt: skip
    return b.fma(p, b.mulf(f, f), b.mulf(f, b.const(-0.5, f.el, f.lanes)))


def _log_rest(b: Builder, f: Value) -> Value:
    """log(1 + f) - f, for f64: from the series in f / (2 + f). After fdlibm."""
    half = b.mulf(b.mulf(f, f), b.const(0.5, f.el, f.lanes))
    s = b.divf(f, b.addf(f, b.const(2.0, f.el, f.lanes)))
    z = b.mulf(s, s)
    series = horner(b, z, 1.479819860511658591e-1, 1.531383769920937332e-1, 1.818357216161805012e-1,
                    2.222219843214978396e-1, 2.857142874366239149e-1, 3.999999999940941908e-1,
                    6.666666666666735130e-1)  # fmt: skip
    return b.subf(b.mulf(s, b.fma(series, z, half)), half)


def _edges(b: Builder, x: Value, argument: Value, y: Value) -> Value:
    """-inf where the logarithm's argument is 0, NaN below; of infinity and NaN what x is."""
    zero = b.const(0.0, x.el, x.lanes)
    y = b.select(b.cmpf("olt", x, b.const(math.inf, x.el, x.lanes)), y, x)
    y = b.select(b.cmpf("olt", argument, zero), b.const(math.nan, x.el, x.lanes), y)
    return b.select(b.cmpf("oeq", argument, zero), b.const(-math.inf, x.el, x.lanes), y)


def _natural(b: Builder, n: Value, f: Value) -> Value:
    """log(2 ** n * (1 + f))."""
    high, low = (b.const(part, n.el, n.lanes) for part in FORMS[n.el].ln2)
    if n.el == "f32":
        rest = b.fma(f, _log_factor(b, f), b.mulf(n, low))
    else:
        rest = b.fma(n, low, _log_rest(b, f))
    return b.fma(n, high, b.addf(f, rest))


def log(b: Builder, x: Value) -> Value:
    return _edges(b, x, x, _natural(b, *_split(b, x)))


def log2(b: Builder, x: Value) -> Value:
    n, f = _split(b, x)
    factor, beyond = (b.const(number, x.el, x.lanes) for number in (math.log2(math.e), math.log2(math.e) - 1))
    if x.el == "f32":
        y = b.fma(f, b.fma(_log_factor(b, f), factor, beyond), f)
    else:
        y = b.addf(b.fma(_log_rest(b, f), factor, b.mulf(f, beyond)), f)
    return _edges(b, x, x, b.addf(y, n))


def log1p(b: Builder, x: Value) -> Value:
    """n comes from 1 + x, rounded; f = x / 2 ** n + (1 / 2 ** n - 1) from x itself."""
    form, lanes = FORMS[x.el], x.lanes
    total = b.addf(x, b.const(1.0, x.el, lanes))
    n, moved = _exponent(b, total)
    four = form.one + (2 << form.mantissa)
    scale = b.bitcast(b.sub(b.const(four, form.integer, lanes), moved), x.el)  # 4 / 2 ** n, which is never denormal
    quarter = b.const(0.25, x.el, lanes)
    f = b.fma(quarter, b.mulf(x, scale), b.fma(quarter, scale, b.const(-1.0, x.el, lanes)))
    return copysign(b, _edges(b, x, total, _natural(b, n, f)), x)
