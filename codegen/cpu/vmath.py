"""Elementary functions of vectors and scalars, written where they are used.

Each is within about 1.5 units in the last place of the true value, gives denormal results, and has C's values at zeros,
infinities and NaN. Products and sums are fused where the machine can. A function calls nothing, but where that would
take more than it is worth: the rarer functions of f64, and sin and cos of f32 beyond a million.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from . import explog
from .build import Builder, Value
from .explog import copysign, exp_between, horner, minimum, nearest
from .libm import libm

__all__ = ["fmod", "function", "rsqrt"]


def rsqrt(b: Builder, x: Value) -> Value:
    return b.divf(b.const(1.0, x.el, x.lanes), b.intrinsic("sqrt", x))


def tanh(b: Builder, x: Value) -> Value:
    """1 - 2 / (e ** 2|x| + 1), and an odd polynomial where that cancels."""
    size, square = b.intrinsic("fabs", x), b.mulf(x, x)
    near = horner(b, square, -5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1,
                  -3.33332819422e-1)  # fmt: skip
    near = b.fma(b.mulf(near, square), x, x)
    one = b.const(1.0, "f32", x.lanes)
    capped = minimum(b, size, 10.0)
    power = exp_between(b, b.addf(capped, capped))
    far = b.subf(one, b.divf(b.const(2.0, "f32", x.lanes), b.addf(power, one)))
    return copysign(b, b.select(b.cmpf("ogt", size, b.const(0.625, "f32", x.lanes)), far, near), x)


def erf(b: Builder, x: Value) -> Value:
    """1 - e ** (a polynomial in |x|), and an odd polynomial where that cancels. After N. Juffa."""
    size, square = b.intrinsic("fabs", x), b.mulf(x, x)
    near = horner(b, square, -5.96761703e-4, 4.99119423e-3, -2.67681349e-2, 1.12819925e-1, -3.76125336e-1,
                  1.28379166e-1)  # fmt: skip
    near = b.fma(near, x, x)
    t = minimum(b, size, 4.0)
    far = horner(b, t, -1.72853470e-5, 3.83197126e-4, -3.88396438e-3, 2.42546219e-2, -1.06777877e-1, -6.34846687e-1,
                 -1.28717512e-1)  # fmt: skip
    power = exp_between(b, b.fma(far, t, b.negf(t)))
    far = copysign(b, b.subf(b.const(1.0, "f32", x.lanes), power), x)
    return b.select(b.cmpf("ogt", size, b.const(0.927734375, "f32", x.lanes)), far, near)


# ---------------------------------------------------------------------------------------------------------------------
# Sine and cosine, remainder: the C library where the quick way does not reach
# ---------------------------------------------------------------------------------------------------------------------

_FAR = 1048576.0
_PI_2_HIGH, _PI_2_LOW = 1.57079632673412561417, 6.07710050650619224932e-11  # 33 digits, so that products are exact


def _unless_all(b: Builder, fine: Value, y: Value, name: str, *operands: Value) -> Value:
    """y where it is fine, and what the C library says elsewhere."""

    def call() -> Sequence[Value]:
        here = [dataclasses.replace(x, depth=b.depth) for x in operands]  # so that the call stays in the branch
        return [b.select(fine, y, libm(b, name, *here))]

    return b.branch(fine if fine.lanes is None else b.all_true(fine), lambda: [y], call)[0]


def _circular(b: Builder, x: Value, turn: int, name: str) -> Value:
    """sin(x + turn * pi / 2)."""
    near = b.cmpf("olt", b.intrinsic("fabs", x), b.const(_FAR, "f32", x.lanes))
    return _unless_all(b, near, _near_circular(b, x, turn), name, x)


def _near_circular(b: Builder, x: Value, turn: int) -> Value:
    """For |x| < _FAR. The quarter turns are taken off in f64: exactly, also where almost nothing is left."""
    lanes = x.lanes
    whole, n = nearest(b, x, 2 / math.pi)
    quarters = b.cast("extf", whole, "f64")
    rest = b.fma(quarters, b.const(-_PI_2_HIGH, "f64", lanes), b.cast("extf", x, "f64"))
    rest = b.fma(quarters, b.const(-_PI_2_LOW, "f64", lanes), rest)
    r = b.cast("truncf", rest, "f32")
    square = b.mulf(r, r)
    sine = horner(b, square, -1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
    sine = copysign(b, b.fma(b.mulf(sine, square), r, r), r)  # that of -0
    cosine = horner(b, square, 2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2, -0.5, 1.0)
    n = b.add(n, b.const(turn, "i32", lanes))
    one, two = b.const(1, "i32", lanes), b.const(2, "i32", lanes)
    y = b.select(b.cmpi("eq", b.and_(n, one), one), cosine, sine)
    return b.bitcast(b.xor(b.bitcast(y, "i32"), b.shl(b.and_(n, two), 30)), "f32")


def sin(b: Builder, x: Value) -> Value:
    return _circular(b, x, 0, "sin")


def cos(b: Builder, x: Value) -> Value:
    return _circular(b, x, 1, "cos")


def fmod(b: Builder, x: Value, y: Value) -> Value:
    """x - trunc(x / y) * y. For f32s with a quotient below 2 ** 28 every step is exact in f64."""
    if x.el == "f64":
        return libm(b, "fmod", x, y)
    wide_x, wide_y = b.cast("extf", x, "f64"), b.cast("extf", y, "f64")
    whole = b.intrinsic("trunc", b.divf(wide_x, wide_y))
    rest = b.cast("truncf", b.subf(wide_x, b.mulf(whole, wide_y)), "f32")
    few = b.cmpf("olt", b.intrinsic("fabs", whole), b.const(2.0**28, "f64", x.lanes))
    finite = b.cmpf("olt", b.intrinsic("fabs", wide_y), b.const(math.inf, "f64", x.lanes))
    return _unless_all(b, b.and_(few, finite), copysign(b, rest, x), "fmod", x, y)


# ---------------------------------------------------------------------------------------------------------------------
# By name
# ---------------------------------------------------------------------------------------------------------------------

Function = Callable[[Builder, Value], Value]
_OF_BOTH: dict[str, Function] = {
    "exp": explog.exp, "exp2": explog.exp2, "expm1": explog.expm1,
    "log": explog.log, "log2": explog.log2, "log1p": explog.log1p,
}  # fmt: skip
_OF_F32: dict[str, Function] = {**_OF_BOTH, "erf": erf, "tanh": tanh, "sin": sin, "cos": cos}


def function(name: str) -> Function:
    """A function of one argument by its C name."""

    def rule(b: Builder, x: Value) -> Value:
        known = (_OF_F32 if x.el == "f32" else _OF_BOTH).get(name)
        return known(b, x) if known is not None else libm(b, name, x)

    return rule
