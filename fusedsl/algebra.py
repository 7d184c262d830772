"""Arithmetic on scalar expressions, with what is known at once: neutral elements, and signs that cancel.

None stands for the neutral element of what it is used in: a factor of 1, a summand of 0.
"""

from __future__ import annotations

import math

from .index import Index
from .ir import OPS
from .scalar import Expr, constant, make, number
from .types import DType, bool_

Maybe = Expr | None


def apply(name: str, *args: Expr) -> Expr:
    return make("apply", args[-1].dtype, args, OPS[name])


def cast(e: Expr, to: DType) -> Expr:
    """A number in another type."""
    return e if e.dtype is to else make("apply", to, (e,), OPS["cast"], dtype=to)


def is_op(e: Expr, *names: str) -> bool:
    return e.kind == "apply" and e.op is not None and e.op.name in names


def combines(e: Expr, *names: str) -> bool:
    """Whether it is a reduction by one of these elementwise ops."""
    return e.kind == "reduce" and e.op is not None and e.op.reduction is not None and e.op.reduction.pairwise in names


def identity(fold: Expr) -> Expr:
    """What changes nothing in a reduction or a scan."""
    assert fold.op is not None and fold.op.combination is not None
    return constant(fold.op.combination.identity(fold.dtype), fold.dtype)


def factors(e: Expr) -> list[Expr]:
    """What is multiplied."""
    return [f for arg in e.args for f in factors(arg)] if is_op(e, "mul") else [e]


def summands(e: Expr) -> list[Expr]:
    """What is added."""
    return [t for arg in e.args for t in summands(arg)] if is_op(e, "add") else [e]


def counted(fold: Expr, so_far: Expr, factor: Maybe) -> Expr:
    """What a reduction has so far, as it counts on: times a factor, or not at all where a condition fails."""
    if factor is None:
        return so_far
    return choose(factor, so_far, identity(fold)) if factor.dtype is bool_ else apply("mul", so_far, factor)


def count(fold: Expr) -> Expr:
    """How many values a reduction combines."""
    extent: Index = 1
    for axis in fold["axes"]:
        extent = extent * axis.extent
    return number(extent, fold.dtype)


def is_number(e: Expr, value: float) -> bool:
    return e.kind == "const" and e["value"] == value and math.copysign(1, e["value"]) == math.copysign(1, value)


def times(a: Maybe, b: Maybe) -> Maybe:
    """a * b"""
    if a is None or is_number(a, 1):
        return b
    return a if b is None or is_number(b, 1) else apply("mul", a, b)


def over(a: Maybe, b: Maybe, dtype: DType) -> Maybe:
    """a / b"""
    if b is None:
        return a
    return apply("div", a if a is not None else constant(1, dtype), b)


def plus(a: Maybe, b: Maybe) -> Maybe:
    """a + b"""
    if a is None or b is None:
        return b if a is None else a
    if is_op(b, "neg"):
        return minus(a, b.args[0])
    return minus(b, a.args[0]) if is_op(a, "neg") else apply("add", a, b)


def minus(a: Expr, b: Expr) -> Expr:
    """a - b"""
    return apply("add", a, b.args[0]) if is_op(b, "neg") else apply("sub", a, b)


def negative(a: Maybe) -> Maybe:
    """-a"""
    if a is None or is_op(a, "neg"):
        return None if a is None else a.args[0]
    return apply("sub", a.args[1], a.args[0]) if is_op(a, "sub") else apply("neg", a)


def value(a: Maybe, neutral: float, dtype: DType) -> Expr:
    """An expression, of the neutral element as well."""
    return constant(neutral, dtype) if a is None else a


def equals(a: Expr, to: float) -> Expr:
    return make("apply", bool_, (a, constant(to, a.dtype)), OPS["eq"])


def choose(condition: Expr, a: Expr, b: Expr) -> Expr:
    return make("apply", a.dtype, (condition, a, b), OPS["where"])
