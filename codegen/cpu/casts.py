"""Conversions between the number types of a kernel, in vectors, each rounded once.

A value is held as the builder knows it: bf16 as i16, an f8 as i8, everything else as itself. Arithmetic on bf16 and f8
is done in f32: `widen`, compute, `narrow`. What comes out agrees bit for bit with hardware.py, NaN payloads apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .build import Builder, Value, bits_of, is_float

__all__ = ["bits", "exactly", "fma", "held", "narrow", "to_float", "to_integer", "widen"]


@dataclass(frozen=True)
class Small:
    """A narrow float."""

    bias: int
    mantissa: int
    limit: float  # its largest number, which larger ones become
    nan: int
    negative_zero: bool = True
    el: str = "i8"


SMALL = {
    "f8E4M3FN": Small(7, 3, 448.0, 0x7F),
    "f8E5M2": Small(15, 2, 57344.0, 0x7F),
    "f8E4M3FNUZ": Small(8, 3, 240.0, 0x80, negative_zero=False),
    "f8E5M2FNUZ": Small(16, 2, 57344.0, 0x80, negative_zero=False),
}


def held(element: str) -> str:
    """The builder's element type for one of TTIR's."""
    if element == "bf16":
        return "i16"
    return "i8" if element in SMALL else element


def is_number(element: str) -> bool:
    """Is it a float of any kind?"""
    return element == "bf16" or is_float(element)


# ---------------------------------------------------------------------------------------------------------------------
# Wider
# ---------------------------------------------------------------------------------------------------------------------


def widen(b: Builder, x: Value, element: str) -> Value:
    """f16, bf16 or f8 as f32, exactly; f32 and f64 as they are."""
    if element == "bf16":
        if x.constant is not None:
            return b.const(np.uint32((x.constant & 0xFFFF) << 16).view(np.float32), "f32", x.lanes)
        known = b.scopes[x.depth].memo.get(("f32", x.name))
        if known is not None:
            return known
        return b.bitcast(b.shl(b.cast("extui", x, "i32"), 16), "f32")
    if element in SMALL:
        return _from_f8(b, x, element)
    if element == "f16":
        return b.cast("extf", x, "f32") if x.constant is None else b.const(x.constant, "f32", x.lanes)
    return x


def _from_f8(b: Builder, x: Value, element: str) -> Value:
    form = SMALL[element]
    if element == "f8E5M2":  # the upper half of an f16
        return b.cast("extf", b.bitcast(b.shl(b.cast("extui", x, "i16"), 8), "f16"), "f32")
    if element == "f8E5M2FNUZ":
        return _from_e5m2fnuz(b, x)
    # The exponent and the mantissa as those of an f16 with another bias; the sign comes from extending it.
    moved = b.and_(b.shl(b.cast("extsi", x, "i16"), 7), b.const(0xBFFF, "i16", x.lanes))
    number = b.cast("extf", b.bitcast(moved, "f16"), "f32")
    number = b.mulf(number, b.const(2.0 ** (15 - form.bias), "f32", x.lanes))
    magnitude = x if form.nan == 0x80 else b.and_(x, b.const(0x7F, "i8", x.lanes))
    is_nan = b.cmpi("eq", magnitude, b.const(form.nan, "i8", x.lanes))
    return b.select(is_nan, b.const(np.nan, "f32", x.lanes), number)


def _from_e5m2fnuz(b: Builder, x: Value) -> Value:
    """Its exponent reaches further down than an f16's, and its largest one is a number."""
    lanes = x.lanes
    wide = b.cast("extui", x, "i32")
    magnitude = b.and_(wide, b.const(0x7F, "i32", lanes))
    normal = b.bitcast(b.add(b.shl(magnitude, 21), b.const((127 - 16) << 23, "i32", lanes)), "f32")
    small = b.mulf(b.cast("sitofp", magnitude, "f32"), b.const(2.0**-17, "f32", lanes))
    number = b.select(b.cmpi("slt", magnitude, b.const(4, "i32", lanes)), small, normal)
    sign = b.shl(b.and_(wide, b.const(0x80, "i32", lanes)), 24)
    number = b.bitcast(b.or_(b.bitcast(number, "i32"), sign), "f32")
    is_nan = b.cmpi("eq", x, b.const(0x80, "i8", lanes))
    return b.select(is_nan, b.const(np.nan, "f32", lanes), number)


# ---------------------------------------------------------------------------------------------------------------------
# Narrower
# ---------------------------------------------------------------------------------------------------------------------


def narrow(b: Builder, x: Value, element: str) -> Value:
    """An f32 or f64 to any float that is no wider: to nearest, ties to even; f8 saturates and keeps NaN."""
    if element in ("f32", "f64"):
        assert x.el == element, f"narrow {x.type} to {element}"
        return x
    if x.el == "f64":
        x = _odd(b, x)
    if element == "bf16":
        return _to_bf16(b, x)
    return to_small(b, x, SMALL[element]) if element in SMALL else b.cast("truncf", x, "f16")


def exactly(b: Builder, x: Value, element: str) -> Value:
    """`narrow` of an f32 that is already a number of the narrower type."""
    return _upper_half(b, b.bitcast(x, "i32"), x) if element == "bf16" else narrow(b, x, element)


def _odd(b: Builder, x: Value) -> Value:
    """f64 to f32, rounded to odd: rounding that once more is as rounding `x` once."""
    near = b.cast("truncf", x, "f32")
    back = b.cast("extf", near, "f64")
    over = b.cmpf("ogt", b.intrinsic("fabs", back), b.intrinsic("fabs", x))
    toward_zero = b.add(b.bitcast(near, "i32"), b.cast("extsi", over, "i32"))
    inexact = b.cast("extui", b.cmpf("one", back, x), "i32")
    return b.bitcast(b.or_(toward_zero, inexact), "f32")


def _to_bf16(b: Builder, x: Value) -> Value:
    number = b.bitcast(x, "i32")
    last = b.and_(b.shru(number, 16), b.const(1, "i32", x.lanes))
    rounded = b.add(number, b.add(last, b.const(0x7FFF, "i32", x.lanes)))
    if x.short:  # adding less than 2 ** 16 leaves a NaN of this kind one
        return _upper_half(b, rounded)
    return _upper_half(b, b.select(b.cmpf("uno", x, x), b.const(0x7FC00000, "i32", x.lanes), rounded))


def _upper_half(b: Builder, number: Value, wide: Value | None = None) -> Value:
    """The bf16 in the upper half of an i32; what it is as an f32 is remembered, for an operation that follows."""
    half = b.shru(number, 16)
    result = b.cast("trunci", half, "i16")
    b.scopes[result.depth].memo["f32", result.name] = wide or b.bitcast(b.shl(half, 16), "f32")
    return result


def to_small(b: Builder, x: Value, form: Small) -> Value:
    """f32: round the mantissa as an integer; below the smallest normal number, let an addition round."""

    def c(number: int) -> Value:
        return b.const(number, "i32", x.lanes)

    number = b.bitcast(x, "i32")
    magnitude = b.and_(number, c(0x7FFFFFFF))
    clamped = b.binary("minsi", magnitude, c(_f32_bits(form.limit)))
    drop = 23 - form.mantissa
    last = b.and_(b.shru(clamped, drop), c(1))
    rounded = b.add(clamped, b.add(last, c((1 << (drop - 1)) - 1 - ((127 - form.bias) << 23))))
    magic = 2.0 ** (drop + 1 - form.bias)
    small = b.addf(b.bitcast(clamped, "f32"), b.const(magic, "f32", x.lanes))
    small = b.sub(b.bitcast(small, "i32"), c(_f32_bits(magic)))
    is_small = b.cmpi("slt", clamped, c(_f32_bits(2.0 ** (1 - form.bias))))
    code = b.select(is_small, small, b.shru(rounded, drop))
    signed = b.or_(code, b.and_(b.shru(number, 32 - bits_of(form.el)), c(1 << (bits_of(form.el) - 1))))
    if not form.negative_zero:
        signed = b.select(b.cmpi("eq", code, c(0)), c(0), signed)
    is_nan = b.cmpi("sgt", magnitude, c(0x7F800000))
    return b.cast("trunci", b.select(is_nan, c(form.nan), signed), form.el)


def _f32_bits(number: float) -> int:
    return int(np.float32(number).view(np.int32))


def fma(b: Builder, element: str, *operands: Value) -> Value:
    """x * y + z, rounded once."""
    if element in ("f32", "f64"):
        return b.intrinsic("fma", *operands)
    el = "f32" if element == "f16" else "f64"  # the product is exact in it
    x, y, z = (to_float(b, operand, element, el) for operand in operands)
    return narrow(b, _odd_sum(b, b.mulf(x, y), z), element)


def _odd_sum(b: Builder, x: Value, y: Value) -> Value:
    """x + y, rounded to odd."""
    el, lanes = x.el.replace("f", "i"), x.lanes
    total = b.addf(x, y)
    part = b.subf(total, x)
    error = b.addf(b.subf(x, b.subf(total, part)), b.subf(y, part))
    inexact = b.cmpf("one", error, b.const(0.0, x.el, lanes))
    number = b.bitcast(total, el)
    over = b.and_(inexact, b.cmpi("slt", b.xor(number, b.bitcast(error, el)), b.const(0, el, lanes)))
    toward_zero = b.add(number, b.cast("extsi", over, el))
    return b.bitcast(b.or_(toward_zero, b.cast("extui", inexact, el)), x.el)


# ---------------------------------------------------------------------------------------------------------------------
# Any to float, float to integer, bits
# ---------------------------------------------------------------------------------------------------------------------


def to_float(
    b: Builder, x: Value, source: str, target: str, signed: bool = True, toward_zero: bool = False
) -> Value:  # fmt: skip
    """A number of any type as a float of any type."""
    if source == target:
        return x
    if not is_number(source):
        return _from_integer(b, x, target, signed)
    wide = widen(b, x, source)
    if target == "f64":
        return wide if wide.el == "f64" else b.cast("extf", wide, "f64")
    if target == "f32":
        return wide if wide.el == "f32" else b.cast("truncf", wide, "f32")
    if toward_zero and target in ("f16", "bf16"):
        return _toward_zero(b, wide, target)
    return narrow(b, wide, target)


def _toward_zero(b: Builder, x: Value, target: str) -> Value:
    if x.el == "f64":
        x = _odd(b, x)  # its magnitude lies between the same two narrower numbers
    if target == "bf16":
        is_nan = b.cmpf("uno", x, x)
        return _upper_half(b, b.select(is_nan, b.const(0x7FC00000, "i32", x.lanes), b.bitcast(x, "i32")))
    near = b.cast("truncf", x, "f16")
    over = b.cmpf("ogt", b.intrinsic("fabs", b.cast("extf", near, "f32")), b.intrinsic("fabs", x))
    return b.bitcast(b.add(b.bitcast(near, "i16"), b.cast("extsi", over, "i16")), "f16")


def _from_integer(b: Builder, x: Value, target: str, signed: bool) -> Value:
    if bits_of(x.el) < 32:
        x, signed = b.cast("extsi" if signed else "extui", x, "i32"), True
    elif target == "bf16":
        x = _sticky(b, x, 24 if x.el == "i32" else 53, signed)
    if target in ("f32", "f64"):
        return b.cast("sitofp" if signed else "uitofp", x, target)
    # f16 and f8 end long before an integer needs more digits than f32 has.
    el = "f64" if x.el == "i64" and target == "bf16" else "f32"
    return narrow(b, b.cast("sitofp" if signed else "uitofp", x, el), target)


def _sticky(b: Builder, x: Value, digits: int, signed: bool) -> Value:
    """An integer of more than `digits` digits with the last ones joined into one, so that a float holds it."""
    drop = bits_of(x.el) - digits + 1

    def c(number: int) -> Value:
        return b.const(number, x.el, x.lanes)

    low = b.and_(x, c((1 << drop) - 1))
    joined = b.or_(b.xor(x, low), b.select(b.cmpi("ne", low, c(0)), c(1 << (drop - 1)), c(0)))
    few = b.cmpi("ult", b.add(x, c(1 << digits)), c(2 << digits)) if signed else b.cmpi("ult", x, c(1 << digits))
    return b.select(few, x, joined)


def to_integer(b: Builder, x: Value, source: str, target: str, signed: bool) -> Value:
    """Toward zero, saturating (8 bits by way of 16); NaN is 0, or the top bit if source or target has 64 bits."""
    x = widen(b, x, source)
    width = max(bits_of(target), 16)
    low = b.const(-(2.0 ** (width - 1)) if signed else 0.0, x.el, x.lanes)
    stop = 2.0 ** (width - 1) if signed else 2.0**width  # the first number that is too large
    x_or_low = b.select(b.cmpf("ogt", x, low), x, low)  # low for NaN as well
    if width < (64 if x.el == "f64" else 32):  # the largest integer is a float too
        last = b.const(stop - 1, x.el, x.lanes)
        clamped = b.select(b.cmpf("olt", last, x_or_low), last, x_or_low)
        held_as = target if width == 32 else "i32"
        whole = b.cast("fptosi" if signed or width == 16 else "fptoui", clamped, held_as)
    else:
        whole = b.cast("fptosi" if signed else "fptoui", x_or_low, target)
        over = b.cmpf("oge", x, b.const(stop, x.el, x.lanes))
        whole = b.select(over, b.const(2 ** (width - signed) - 1, target, x.lanes), whole)
    top = width == 64 or x.el == "f64"
    if top != signed:  # otherwise NaN has become what it should already
        whole = b.select(b.cmpf("uno", x, x), b.const(top << (width - 1), whole.el, x.lanes), whole)
    return b.resize(whole, target)


def bits(b: Builder, x: Value, target: str) -> Value:
    """The same bits as another type."""
    return b.bitcast(x, held(target))
