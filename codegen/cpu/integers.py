"""Integer operations. None of them traps, and what LLVM leaves undefined is what hardware.py says.

Machines have no vector division. The quotient of integers of 32 bits in f64, and of 16 bits in f32, is so far from
every integer that it is not that rounding cannot reach one: cut off, it is exact.
"""

from __future__ import annotations

from collections.abc import Callable

from .build import Builder, Value, bits_of

__all__ = ["RULES", "apply"]


def _binary(name: str) -> Callable[[Builder, Value, Value], Value]:
    return lambda b, x, y: b.binary(name, x, y)


def _shift(name: str) -> Callable[[Builder, Value, Value], Value]:
    """By the width or more: 0."""

    def rule(b: Builder, x: Value, count: Value) -> Value:
        width, zero = bits_of(x.el), b.const(0, x.el, x.lanes)
        if count.constant is not None:
            return b.binary(name, x, count) if 0 <= count.constant < width else zero
        inside = b.cmpi("ult", count, b.const(width, x.el, x.lanes))
        return b.select(inside, b.binary(name, x, count), zero)

    return rule


def _shift_signed(b: Builder, x: Value, count: Value) -> Value:
    """By the width or more: the sign."""
    last = bits_of(x.el) - 1
    if count.constant is not None:
        return b.shrs(x, count.constant if 0 <= count.constant <= last else last)
    return b.binary("shrsi", x, b.binary("minui", count, b.const(last, x.el, x.lanes)))


def absolute(b: Builder, x: Value) -> Value:
    return b.binary("maxsi", x, b.sub(b.const(0, x.el, x.lanes), x))


# ---------------------------------------------------------------------------------------------------------------------
# Division
# ---------------------------------------------------------------------------------------------------------------------


def _quotient(b: Builder, x: Value, y: Value, signed: bool) -> Value:
    """x / y toward zero for a y that is neither 0 nor, where that would overflow, -1."""
    width = bits_of(x.el)
    by_number = y.constant is not None and y.constant & (y.constant - 1) == 0  # LLVM shifts, or multiplies
    if x.lanes is None or width == 64 or by_number or (y.constant is not None and width == 32):
        return b.binary("divsi" if signed else "divui", x, y)
    el = "f64" if width == 32 else "f32"
    if width < 32:
        x, y = (b.cast("extsi" if signed else "extui", v, "i32") for v in (x, y))
        signed = True
    convert, back = ("sitofp", "fptosi") if signed else ("uitofp", "fptoui")
    whole = b.cast(back, b.divf(b.cast(convert, x, el), b.cast(convert, y, el)), "i32")
    return whole if width == 32 else b.cast("trunci", whole, f"i{width}")


def _safe(b: Builder, x: Value, y: Value, signed: bool) -> tuple[Value, Value]:
    """1 for every divisor that would trap; and where it was 0."""
    zero = b.cmpi("eq", y, b.const(0, y.el, y.lanes))
    unsafe = zero
    if signed:
        lowest = b.cmpi("eq", x, b.const(1 << (bits_of(x.el) - 1), x.el, x.lanes))
        unsafe = b.or_(zero, b.and_(lowest, b.cmpi("eq", y, b.const(-1, y.el, y.lanes))))
    return b.select(unsafe, b.const(1, y.el, y.lanes), y), zero


def _is_safe(y: Value) -> bool:
    return y.constant is not None and y.constant not in (0, -1)


def divide(b: Builder, x: Value, y: Value) -> Value:
    """Toward zero. By 0 the sign bit, which is what comes out in numpy."""
    if _is_safe(y):
        return _quotient(b, x, y, True)
    safe, zero = _safe(b, x, y, True)
    return b.select(zero, b.shru(x, bits_of(x.el) - 1), _quotient(b, x, safe, True))


def divide_unsigned(b: Builder, x: Value, y: Value) -> Value:
    """By 0: 0."""
    if _is_safe(y):
        return _quotient(b, x, y, False)
    safe, zero = _safe(b, x, y, False)
    return b.select(zero, b.const(0, x.el, x.lanes), _quotient(b, x, safe, False))


def _remainder(signed: bool) -> Callable[[Builder, Value, Value], Value]:
    """With the sign of x; by 0: 0."""

    def rule(b: Builder, x: Value, y: Value) -> Value:
        safe = y if _is_safe(y) else _safe(b, x, y, signed)[0]
        return b.sub(x, b.mul(_quotient(b, x, safe, signed), safe))

    return rule


# ---------------------------------------------------------------------------------------------------------------------
# The upper half of a product
# ---------------------------------------------------------------------------------------------------------------------


def multiply_high(b: Builder, x: Value, y: Value) -> Value:
    width = bits_of(x.el)
    if width == 64:
        return _multiply_high_64(b, x, y)
    wide = f"i{max(32, 2 * width)}"  # of i8, the LLVM of Triton 3.6 makes what AVX-512 does not have
    product = b.mul(b.cast("extui", x, wide), b.cast("extui", y, wide))
    return b.cast("trunci", b.shru(product, width), x.el)


def _multiply_high_64(b: Builder, x: Value, y: Value) -> Value:
    low = b.const(0xFFFFFFFF, "i64", x.lanes)
    x1, x0, y1, y0 = b.shru(x, 32), b.and_(x, low), b.shru(y, 32), b.and_(y, low)
    middle = b.add(b.mul(x1, y0), b.shru(b.mul(x0, y0), 32))
    carry = b.shru(b.add(b.and_(middle, low), b.mul(x0, y1)), 32)
    return b.add(b.add(b.mul(x1, y1), b.shru(middle, 32)), carry)


def multiply_high_signed(b: Builder, x: Value, y: Value) -> Value:
    last = bits_of(x.el) - 1
    too_much = b.add(b.and_(b.shrs(x, last), y), b.and_(b.shrs(y, last), x))
    return b.sub(multiply_high(b, x, y), too_much)


RULES: dict[str, Callable[..., Value]] = {
    "arith.addi": _binary("addi"), "arith.subi": _binary("subi"), "arith.muli": _binary("muli"),
    "arith.andi": _binary("andi"), "arith.ori": _binary("ori"), "arith.xori": _binary("xori"),
    "arith.maxsi": _binary("maxsi"), "arith.minsi": _binary("minsi"),
    "arith.maxui": _binary("maxui"), "arith.minui": _binary("minui"),
    "arith.shli": _shift("shli"), "arith.shrui": _shift("shrui"), "arith.shrsi": _shift_signed,
    "arith.divsi": divide, "arith.divui": divide_unsigned,
    "arith.remsi": _remainder(True), "arith.remui": _remainder(False),
    "tt.mulhiui": multiply_high, "math.absi": absolute,
}  # fmt: skip

# Arithmetic modulo 2; a signed 1-bit integer is 0 or -1.
_TRUTH = {
    "arith.addi": "xori", "arith.subi": "xori", "arith.muli": "andi", "arith.maxsi": "andi", "arith.minsi": "ori",
    "arith.maxui": "ori", "arith.minui": "andi",
}  # fmt: skip


def apply(b: Builder, name: str, *operands: Value) -> Value:
    if operands[0].el == "i1" and name in _TRUTH:
        return b.binary(_TRUTH[name], *operands)
    return RULES[name](b, *operands)
