"""An exponential of what is scaled and shifted is one multiply-add and a power.

    max c x = c max x, where(m, c x, -inf) = c where(m, x, -inf)      c > 0
    exp(c x - m), where m varies less than x                          power(x, c, m)

The first are exact: rounding c x keeps the order of the x. What a power becomes is the target's choice: on a GPU, of
products of halves, the scale and log2(e) are one factor, so that scores times a scale, less their row's maximum, take
one instruction before the power of 2, as in attention that is written by hand. Other values may be a mask's -3.4e38,
which log2(e) takes out of range, or have digits to lose.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..algebra import apply, combines, is_op
from ..lower import Origin, Write, follow
from ..products import is_contraction
from ..scalar import Expr, constant, make, rebuild, rebuilt, walk
from ..types import HALVES, f32


def scale_exponents(writes: Sequence[Write], origin: Origin | None = None) -> list[Write]:
    """The writes with scales taken out of maxima, and powers."""
    memo: dict[Expr, Expr] = {}
    for e in walk([w.value for w in writes]):
        memo[e] = _rewritten(e, memo)
    follow(origin, memo)
    return [replace(w, value=memo[w.value]) for w in writes]


def _rewritten(e: Expr, memo: Mapping[Expr, Expr]) -> Expr:
    if e.kind in ("now", "before"):
        extreme, scale = _scaled(memo[e.args[0]])
        return _times(make(e.kind, e.dtype, (extreme,)), scale)
    e = rebuilt(e, memo)
    if combines(e, "maximum", "minimum") and len(e.args) == 1:
        body, scale = _scaled(e.args[0])
        return _times(rebuild(e, (body,)), scale)
    if is_op(e, "where") and _is_infinite(e.args[2]):
        body, scale = _scaled(e.args[1])
        return _times(rebuild(e, (e.args[0], body, e.args[2])), scale)
    if is_op(e, "exp") and e.dtype is f32 and is_op(e.args[0], "sub"):
        return _power(e, *e.args[0].args)
    return e


def _power(e: Expr, value: Expr, top: Expr) -> Expr:
    """Where the top varies less, what is made of it is made once for many."""
    if not top.free < value.free:
        return e
    body, scale = _scaled(value)
    return make("power", f32, (body, scale or constant(1.0, f32), top), halves=_is_of_halves(body))


def _is_of_halves(e: Expr) -> bool:
    """Whether it is a product of halves, masked or not, or a sum of such."""
    if is_op(e, "add", "sub"):
        return all(map(_is_of_halves, e.args))
    if is_op(e, "where") and _is_infinite(e.args[2]):
        return _is_of_halves(e.args[1])
    return is_contraction(e) and e["precision"] in HALVES


def _scaled(e: Expr) -> tuple[Expr, Expr | None]:
    """x and c of x c for a number c > 0, else e itself."""
    for body, scale in (e.args, e.args[::-1]) if is_op(e, "mul") else ():
        if scale.kind == "const" and scale["value"] > 0 and math.isfinite(scale["value"]) and e.dtype.is_float:
            return body, scale
    return e, None


def _times(e: Expr, scale: Expr | None) -> Expr:
    return e if scale is None else apply("mul", e, scale)


def _is_infinite(e: Expr) -> bool:
    return e.kind == "const" and isinstance(e["value"], float) and math.isinf(e["value"])
