"""Operands of products in half precision, computed in half precision where that gives the very same numbers.

A kernel computes in f32 and rounds at the operands of a product. A weight is (code - zero) * scale: a whole number of
few digits, which a half holds, times a half. Rounding that product once is what a multiplication of halves does. And a
code is a half at once: its bits under those of a power of two, `biased`, are that power and the code added up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from .algebra import apply, is_op
from .formats import ELEMENTS, Element
from .ir import Node
from .kernel import Buffer
from .scalar import Expr, constant, make
from .types import DType
from .wholes import Bounds, whole

BIAS = {"f16": 1024, "bf16": 128}  # to which codes are added: the power of two whose last bit is 1


@dataclass(frozen=True)
class Halves:
    """Rewrites expressions of f32 to ones of a half dtype. buffers: what tensors are in memory."""

    to: DType
    buffers: Mapping[Node, Buffer]

    def rounded(self, e: Expr) -> Expr | None:
        """What e rounded to the half is, in terms of halves; None where that takes more digits."""
        found = self.exact(e)
        if found is not None or not is_op(e, "mul"):
            return found
        sides = [self.exact(arg) for arg in e.args]
        return apply("mul", *sides) if None not in sides else None  # type: ignore[arg-type]

    def exact(self, e: Expr) -> Expr | None:
        """e itself as a half, None where it may be none."""
        if e.kind == "const":
            return constant(float(e["value"]), self.to) if self._fits(whole(e)) else None
        if e.kind == "load":
            is_half = self.buffers[e["tensor"]].dtype is self.to
            return make("load", self.to, e.args, tensor=e["tensor"], index=e["index"]) if is_half else None
        if is_op(e, "cast") and self._fits(whole(e)):
            return self._code(e.args[0]) or make("apply", self.to, e.args, e.op, dtype=self.to)
        if is_op(e, "add", "sub") and self._fits(whole(e)):
            return self._sum(e)
        return self._small_float(e) if is_op(e, "small_float") else None

    def _fits(self, bounds: Bounds) -> bool:
        return bounds is not None and max(-bounds[0], bounds[1]) <= self.to.most_exact

    def _sum(self, e: Expr) -> Expr | None:
        """(bias + a) - (b + bias) for a - b: the code need not be put right alone."""
        a, b = e.args
        bounds, sign = whole(b), 1 if is_op(e, "add") else -1
        start = self._biased(a.args[0]) if is_op(a, "cast") else None
        if start is not None and bounds is not None:
            other, bias = self.exact(b), BIAS[self.to.name] >> start["raised"]
            if other is not None and self._fits((bounds[0] - sign * bias, bounds[1] - sign * bias)):
                return self._put_right(start, _added(other, -sign * bias), sign)
        sides = [self.exact(a), self.exact(b)]
        return make("apply", self.to, tuple(sides), e.op) if None not in sides else None  # type: ignore[arg-type]

    def _code(self, code: Expr) -> Expr | None:
        start = self._biased(code)
        if start is None:
            return None
        return self._put_right(start, constant(float(BIAS[self.to.name] >> start["raised"]), self.to), -1)

    def _put_right(self, start: Expr, other: Expr, sign: int) -> Expr:
        """A code that stands higher is brought down by what adds the other number."""
        if not start["raised"]:
            return apply("add" if sign > 0 else "sub", start, other)
        down = constant(2.0 ** -start["raised"], self.to)
        return make("fma", self.to, (start, down, other if sign > 0 else _negative(other)))

    def _small_float(self, e: Expr) -> Expr | None:
        """The bits where an f16 has them, which make the float 2**(15 - bias) times too small."""
        (code,), element = e.args, ELEMENTS[e["element"]]
        place = _place(code)
        if place is None or self.to.name != "f16" or not fits_f16(element) or code["bits"] != element.bits:
            return None
        low = make("raised", self.to, place.words, element=element.name, shift=place.shift)
        return apply("mul", low, constant(2.0 ** (15 - element.bias), self.to))

    def _biased(self, code: Expr) -> Expr | None:
        """A code at a known place of words of 16 bits, and the bias added up. Where the digits of a half reach so high
        the code stays where it is, 2**raised times what it is: that saves a shift."""
        place, bias = _place(code), BIAS[self.to.name]
        if place is None or 1 << code["bits"] > bias:
            return None
        raised = place.shift if 1 << (code["bits"] + place.shift) <= bias else 0
        return make("biased", self.to, place.words, bits=code["bits"], shift=place.shift, raised=raised)


class _Place(NamedTuple):
    words: tuple[Expr, ...]
    shift: int


def _place(code: Expr) -> _Place | None:
    """The words of 16 bits that a code is in, if it is known where."""
    if not is_op(code, "field", "joined_field") or code.dtype.bits != 16:
        return None
    *words, shift = code.args
    return _Place(tuple(words), shift["value"]) if shift.kind == "const" else None


def fits_f16(element: Element) -> bool:
    """Whether a small float is one of f16's with fewer bits, but for a power of two."""
    has_place = element.kind == "float" and 1 <= element.exponent <= 4 and element.mantissa <= 10
    return has_place and element.specials == "finite"


def _added(e: Expr, number: int) -> Expr:
    if e.kind == "const":
        return constant(e["value"] + number, e.dtype)
    return apply("add", e, constant(float(number), e.dtype))


def _negative(e: Expr) -> Expr:
    return constant(-e["value"], e.dtype) if e.kind == "const" else apply("neg", e)
