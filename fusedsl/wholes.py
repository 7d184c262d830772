"""What whole numbers a scalar expression can be: bounds by interval arithmetic."""

from __future__ import annotations

import math

from .algebra import is_op
from .scalar import Expr
from .types import DType

Bounds = tuple[int, int] | None
Interval = tuple[float, float]

ANY: Interval = (-math.inf, math.inf)


def whole(e: Expr) -> Bounds:
    """The least and the greatest number that a whole number can be, None if it need not be one."""
    if e.kind == "const":
        return (int(e["value"]),) * 2 if float(e["value"]).is_integer() else None  # type: ignore[return-value]
    if is_op(e, "field", "joined_field"):
        return 0, (1 << e["bits"]) - 1
    if e.dtype.is_bool:
        return 0, 1
    if is_op(e, "cast") and e["dtype"].is_float:
        bounds, most = whole(e.args[0]), e["dtype"].most_exact
        return bounds if bounds is not None and _within(bounds, (-most, most)) else None
    if is_op(e, "add", "sub"):
        first, second = whole(e.args[0]), whole(e.args[1])
        if first is not None and second is not None:
            found = _sum(first, second if is_op(e, "add") else (-second[1], -second[0]))
            if e.dtype.is_float or _within(found, _range(e.dtype)):
                return found  # type: ignore[return-value]
    if not e.dtype.is_integer:
        return None
    least, most = _range(e.dtype)
    found = _interval(e.args[0]) if is_op(e, "cast") else ANY
    return (math.ceil(found[0]), math.floor(found[1])) if _within(found, (least, most)) else (least, most)


def _interval(e: Expr) -> Interval:
    """Between which numbers it is, if it is one: NaN becomes 0 where it is made an integer."""
    bounds = whole(e)
    if bounds is not None:
        return bounds
    inner = [_interval(arg) for arg in e.args] if e.kind == "apply" else []
    if is_op(e, "clamp_min", "maximum"):
        return max(inner[0][0], inner[1][0]), max(inner[0][1], inner[1][1])
    if is_op(e, "clamp_max", "minimum"):
        return min(inner[0][0], inner[1][0]), min(inner[0][1], inner[1][1])
    if is_op(e, "where"):
        return min(inner[1][0], inner[2][0]), max(inner[1][1], inner[2][1])
    if is_op(e, "add", "sub"):
        return _sum(inner[0], inner[1] if is_op(e, "add") else (-inner[1][1], -inner[1][0]))
    return inner[0] if is_op(e, "round", "trunc", "cast") else ANY


def _sum(a: Interval, b: Interval) -> Interval:
    return a[0] + b[0], a[1] + b[1]


def _within(a: Interval, b: Interval) -> bool:
    return b[0] <= a[0] and a[1] <= b[1]


def _range(dtype: DType) -> tuple[int, int]:
    return (0, (1 << dtype.bits) - 1) if dtype.kind == "u" else (-(1 << (dtype.bits - 1)), (1 << (dtype.bits - 1)) - 1)
