"""Functions that neither C nor vmath has, in f64 throughout: inverses of erf, scaled erfc, Bessel functions I."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from .build import Builder, Value
from .libm import libm

__all__ = ["bessel_i", "erfcinv", "erfcx", "erfinv", "normcdfinv"]

_ROOT_PI = math.sqrt(math.pi)


class _Numbers:
    """Arithmetic with constants, on vectors as wide as one."""

    def __init__(self, b: Builder, x: Value) -> None:
        self.b, self.lanes = b, x.lanes

    def const(self, number: float) -> Value:
        return self.b.const(number, "f64", self.lanes)

    def times(self, x: Value, number: float) -> Value:
        return self.b.mulf(x, self.const(number))

    def polynomial(self, x: Value, coefficients: Sequence[float]) -> Value:
        """The highest power first."""
        value = self.const(coefficients[0])
        for each in coefficients[1:]:
            value = self.b.addf(self.b.mulf(value, x), self.const(each))
        return value

    def exp(self, x: Value) -> Value:
        return libm(self.b, "exp", x)


def _erfc_root(b: Builder, tail: Value, middle: Value) -> Value:
    """The y >= 0 with erfc(y) = tail and erf(y) = middle, of which the smaller says more exactly where it is.

    A first guess, after Hastings or by the series at 0, and Halley's steps, each of which triples the right digits."""
    n = _Numbers(b, tail)
    t = b.intrinsic("sqrt", n.times(libm(b, "log", n.times(tail, 0.5)), -2.0))
    guess = b.subf(t, b.divf(n.polynomial(t, (0.27061, 2.30753)), n.polynomial(t, (0.04481, 0.99229, 1.0))))
    series = b.mulf(middle, n.polynomial(b.mulf(middle, middle), (math.pi * _ROOT_PI / 24, _ROOT_PI / 2)))
    near = b.cmpf("olt", middle, n.const(0.5))
    y = b.select(near, series, n.times(guess, math.sqrt(0.5)))
    for _ in range(3):
        wrong = b.select(near, b.subf(middle, libm(b, "erf", y)), b.subf(libm(b, "erfc", y), tail))
        slope = n.times(n.exp(b.negf(b.mulf(y, y))), 2 / _ROOT_PI)
        y = b.addf(y, b.divf(wrong, b.addf(slope, b.mulf(y, wrong))))
    return b.select(b.cmpf("oeq", tail, n.const(0.0)), n.const(math.inf), y)


def erfinv(b: Builder, x: Value) -> Value:
    middle = b.intrinsic("fabs", x)
    root = _erfc_root(b, b.subf(_Numbers(b, x).const(1.0), middle), middle)
    return b.intrinsic("copysign", root, x)


def erfcinv(b: Builder, x: Value) -> Value:
    one = _Numbers(b, x).const(1.0)
    past = b.subf(one, x)  # exact where it is small
    left = b.cmpf("ogt", x, one)
    tail = b.select(left, b.subf(_Numbers(b, x).const(2.0), x), x)
    root = _erfc_root(b, tail, b.intrinsic("fabs", past))
    return b.select(left, b.negf(root), root)


def normcdfinv(b: Builder, x: Value) -> Value:
    n = _Numbers(b, x)
    return n.times(erfcinv(b, n.times(x, 2.0)), -math.sqrt(2.0))


def erfcx(b: Builder, x: Value) -> Value:
    """e ** x ** 2 * erfc(x)."""
    n = _Numbers(b, x)
    square = b.mulf(x, x)
    rest = b.intrinsic("fma", x, x, b.negf(square))  # what rounding the square took off
    product = b.mulf(n.exp(square), libm(b, "erfc", x))
    whole = b.cmpf("oeq", product, n.const(math.inf))
    product = b.select(whole, product, b.addf(product, b.mulf(product, rest)))
    terms = [(-0.5) ** k * math.prod(range(1, 2 * k, 2)) for k in range(12)]
    inverse = b.divf(n.const(1.0), x)
    far = n.times(b.mulf(inverse, n.polynomial(b.mulf(inverse, inverse), terms[::-1])), 1 / _ROOT_PI)
    return b.select(b.cmpf("ogt", x, n.const(10.0)), far, product)


def bessel_i(order: int) -> Callable[[Builder, Value], Value]:
    """I0 or I1: the series at 0, whose terms are all positive, and from 30 on the one at infinity."""
    near = [1 / (math.factorial(k) * math.factorial(k + order)) for k in range(64)]
    far = [math.prod(((2 * j - 1) ** 2 - 4 * order**2) / (8 * j) for j in range(1, k + 1)) for k in range(18)]

    def apply(b: Builder, x: Value) -> Value:
        n = _Numbers(b, x)
        size = b.intrinsic("fabs", x)
        half = n.times(size, 0.5)
        small = n.polynomial(b.mulf(half, half), near[::-1])
        small = b.mulf(small, half) if order else small
        root = n.exp(half)  # the square of it may be too large where the result is not
        large = b.mulf(root, n.polynomial(b.divf(n.const(1.0), size), far[::-1]))
        large = b.mulf(b.divf(large, b.intrinsic("sqrt", n.times(size, 2 * math.pi))), root)
        value = b.select(b.cmpf("olt", size, n.const(30.0)), small, large)
        value = b.select(b.cmpf("oeq", size, n.const(math.inf)), size, value)
        return b.intrinsic("copysign", value, x) if order else value

    return apply
