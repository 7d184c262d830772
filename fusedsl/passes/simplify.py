"""Equations that hold for every value: NaN, inf, -0.0, integers that wrap. Everything else is left alone.

`x + 0` is not `x` for floats (-0.0 + 0 is 0), `x * 0` is not 0 (NaN, inf); `x - 0` and `x * 1` are x. Views that cancel
go, others only join. What a rule gives back has the type of what it replaces, or is expanded to it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from .. import ops
from ..index import Poly
from ..interpret import Machine
from ..ir import Graph, Node, build, cast, constant, rebuild
from ..rewrite import Rule, rewrite, rule
from ..types import Type


def simplify(graph: Graph) -> Graph:
    """The graph with every rule below applied wherever it fits."""
    return apart(rewrite(graph, RULES), graph)


def apart(graph: Graph, before: Graph) -> Graph:
    """The graph with outputs that are tensors of their own, as they were: one that has turned out to be an input, or
    another output, is copied."""
    outputs: list[Node] = []
    for node, old in zip(graph.outputs, before.outputs, strict=True):
        copied = node in outputs or (node.op is ops.input and old.op is not ops.input)
        outputs.append(build(ops.clone, (node,), {}) if copied else node)
    return replace(graph, outputs=tuple(outputs))


def _known(node: Node | None) -> Any:
    """The number that all of a tensor is: of a constant, or of a view of one. None: not known."""
    while node is not None and node.op.index is not None:
        (node,) = node.args
    return node["value"] if node is not None and node.op is ops.const else None


def _is(node: Node | None, wanted: float) -> bool:
    """Whether all of a tensor is this number; 0.0 and -0.0 are two."""
    value = _known(node)
    return value is not None and value == wanted and math.copysign(1, value) == math.copysign(1, wanted)


def _fit(x: Node, n: Node) -> Node | None:
    """x in the place of n: expanded, if n broadcasts it."""
    if x.type == n.type:
        return x
    if x.dtype is not n.dtype or n.type.weak or x.type.weak:
        return None
    return ops.expand(x, n.shape)


# ---- conversions -----------------------------------------------------------------------------------------------------


@rule
def cast_to_own_type(n: Node) -> Node | None:
    """cast(x, a) -> x, retype(x, a) -> x   when x is of type a"""
    if n.op in (ops.cast, ops.retype):
        (x,) = n.inputs
        return x if x.type == n.type else None


@rule
def cast_of_cast(n: Node) -> Node | None:
    """cast(cast(x, a), b) -> cast(x, b)   when a holds every value of x's type; not if a float would have met an
    integer type that is too small: what becomes of it is undefined, while integers wrap"""
    match n:
        case Node(op=ops.cast, args=(Node(op=ops.cast, args=(Node() as x,)) as inner,)) if inner.dtype.holds(x.dtype):
            undefined = inner.dtype.is_float and n.dtype.is_integer and not x.dtype.is_float
            if undefined and not n.dtype.holds(x.dtype):
                return None
            straight = cast(x, n.dtype)
            return straight if straight.type == n.type else None


@rule
def known_size(n: Node) -> Node | None:
    """size(7) -> 7"""
    if n.op is ops.size and not isinstance(n["value"], Poly):
        return constant(n["value"], n.type)


# ---- views -----------------------------------------------------------------------------------------------------------

_SAME_ORDER = {"reshape", "squeeze", "unsqueeze"}  # a view keeps the elements in row-major order


@rule
def view_to_own_shape(n: Node) -> Node | None:
    """reshape(x, s) -> x, expand(x, s) -> x   when x has the shape s already; so too a slice of everything, and a
    padding of nothing"""
    if n.op in (ops.reshape, ops.squeeze, ops.expand) and n.inputs[0].shape == n.shape:
        return n.inputs[0] if n.inputs[0].type == n.type else None  # a number taken as a tensor is another type
    if n.op is ops.slice and (n["start"], n["step"]) == (0, 1) and n.inputs[0].shape == n.shape:
        return n.inputs[0]
    if n.op is ops.pad and not any(n["pad"]):
        return n.inputs[0]


@rule
def reshape_of_reshape(n: Node) -> Node | None:
    """reshape(reshape(x, s), t) -> reshape(x, t), x if that is its shape; squeeze and unsqueeze are reshapes too"""
    match n:
        case Node(args=(Node(args=(Node() as x,)) as inner,)) if {n.op.name, inner.op.name} <= _SAME_ORDER:
            if x.shape == n.shape:
                return x
            return ops.reshape(x, n.shape) if ops.reshape in (n.op, inner.op) else None


@rule
def expand_of_expand(n: Node) -> Node | None:
    """expand(expand(x, s), t) -> expand(x, t)"""
    match n:
        case Node(op=ops.expand, args=(Node(op=ops.expand, args=(Node() as x,)),)):
            return ops.expand(x, n.shape)


@rule
def permute_of_nothing(n: Node) -> Node | None:
    """permute(x, (0, 1 ... )) -> x"""
    if n.op is ops.permute and n["dims"] == tuple(range(n.rank)):
        return n.inputs[0]


@rule
def permute_of_permute(n: Node) -> Node | None:
    """permute(permute(x, p), q) -> permute(x, p[q])"""
    match n:
        case Node(op=ops.permute, args=(Node(op=ops.permute, args=(Node() as x,)) as inner,)):
            return ops.permute(x, tuple(inner["dims"][d] for d in n["dims"]))


@rule
def flip_of_flip(n: Node) -> Node | None:
    """flip(flip(x, d), d) -> x"""
    match n:
        case Node(op=ops.flip, args=(Node(op=ops.flip, args=(Node() as x,)) as inner,)) if n["dims"] == inner["dims"]:
            return x


@rule
def reduction_of_nothing(n: Node) -> Node | None:
    """reduce_max(x, dim=()) -> x, and every other reduction; a sum only of integers, since torch's makes 0.0 of -0.0"""
    if n.op.reduction is not None and n["dim"] == () and n.inputs[0].type == n.type:
        return None if n.op is ops.reduce_sum and n.dtype.is_float else n.inputs[0]


# ---- arithmetic ------------------------------------------------------------------------------------------------------


@rule
def double_negation(n: Node) -> Node | None:
    """-(-x) -> x, ~(~x) -> x; not(not(x)) -> x   for a bool x"""
    match n:
        case Node(op=ops.neg | ops.bitwise_not, args=(Node(args=(Node() as x,)) as inner,)) if inner.op is n.op:
            return x
        case Node(op=ops.logical_not, args=(Node(op=ops.logical_not, args=(Node() as x,)),)) if x.dtype.is_bool:
            return x


# The number that changes nothing, on either side or on the right only. Sums have one by the dtype: -0.0, or 0.
_NEUTRAL = {
    "mul": 1, "logical_and": 1, "bitwise_or": 0, "bitwise_xor": 0, "logical_or": 0, "logical_xor": 0,
}  # fmt: skip
_NEUTRAL_RIGHT = {"sub": 0, "div": 1, "floor_divide": 1, "integer_quotient": 1, "left_shift": 0, "right_shift": 0}


@rule
def neutral_element(n: Node) -> Node | None:
    """x * 1 -> x, x / 1 -> x, x - 0 -> x, x + -0.0 -> x, x | 0 -> x ...; x + 0 -> x and x // 1 -> x   for integers"""
    both, right = _NEUTRAL.get(n.op.name), _NEUTRAL_RIGHT.get(n.op.name)
    if n.op is ops.add:
        both = -0.0 if n.dtype.is_float else 0
    if (both is None and right is None) or (n.op.name.endswith("_divide") and n.dtype.is_float):
        return None
    x, other = n.inputs
    if both is not None and _is(x, both):
        return _fit(other, n)
    if (both is not None and _is(other, both)) or (right is not None and _is(other, right)):
        return _fit(x, n)


_IDEMPOTENT = ("abs", "relu", "floor", "ceil", "round", "trunc")
_OF_EQUALS = ("maximum", "minimum", "fmax", "fmin", "bitwise_and", "bitwise_or", "logical_and", "logical_or")


@rule
def twice_is_once(n: Node) -> Node | None:
    """abs(abs(x)) -> abs(x), floor(floor(x)) -> floor(x) ...; maximum(x, x) -> x, x & x -> x ..."""
    if n.op.name in _IDEMPOTENT and n.inputs[0].op is n.op:
        return n.inputs[0]
    if n.op.name in _OF_EQUALS and n.args[0] is n.args[1]:
        return _fit(n.inputs[0], n)


@rule
def abs_of_neg(n: Node) -> Node | None:
    """abs(-x) -> abs(x)"""
    match n:
        case Node(op=ops.abs, args=(Node(op=ops.neg, args=(Node() as x,)),)):
            return ops.abs(x)


@rule
def where_is_settled(n: Node) -> Node | None:
    """where(True, x, y) -> x, where(False, x, y) -> y, where(c, x, x) -> x"""
    if n.op is not ops.where:
        return None
    condition, x, y = n.inputs
    if x is y:
        return _fit(x, n)
    settled = _known(condition)
    return None if settled is None else _fit(x if settled else y, n)


@rule
def fold(n: Node) -> Node | None:
    """f(1, 2, ...) -> its value, by f's reference, for elementwise f

    Only if a kernel computes the same: f16 and bf16 are computed in f32 there, so what rounding to them would change
    stays an operation, but for a cast, which rounds in a kernel too. The last bits of exp are the reference's."""
    if n.op.kind != "elementwise" or any(_known(a) is None for a in n.args):
        return None
    numbers = [constant(_known(a), Type(a.dtype, (), a.type.weak)) for a in n.inputs]
    if not all(map(_is_exact, numbers)):
        return None
    scalar = rebuild(n.op, numbers, dict(n.attrs), Type(n.dtype))
    value = _value(scalar, None)
    if value is None or (n.op is not ops.cast and not _same(value, _value(scalar, torch.float32))):
        return None
    return _fit(constant(value, Type(n.dtype, (), n.type.weak)), n)


def _is_exact(number: Node) -> bool:
    """Whether rounding a constant to its own dtype leaves it as it is: numbers beside halves are not rounded."""
    dt, value = number.dtype, number["value"]
    return not dt.is_float or dt.bits >= 32 or _same(value, torch.tensor(value, dtype=dt.torch).item())


def _value(scalar: Node, compute: torch.dtype | None) -> Any:
    values = [a["value"] for a in scalar.inputs]
    if scalar.op is ops.cast and scalar.dtype.is_integer and not _fits(values[0], scalar.dtype.bits - 1):
        return None
    try:
        value = Machine({}, compute).run(scalar, values)
    except RuntimeError:  # an integer divided by zero
        return None
    return math.nan if value != value else value


def _fits(value: float, bits: int) -> bool:
    """Whether a number, if a float, is sure to have a counterpart in an integer type."""
    return not isinstance(value, float) or (math.isfinite(value) and 0 <= value + 2**bits < 2 ** (bits + 1))


def _same(a: Any, b: Any) -> bool:
    return (a == b and math.copysign(1, a) == math.copysign(1, b)) or (a != a and b != b)


RULES: list[Rule] = [
    fold, known_size, cast_to_own_type, cast_of_cast,
    view_to_own_shape, reshape_of_reshape, expand_of_expand, permute_of_nothing, permute_of_permute, flip_of_flip,
    reduction_of_nothing, double_negation, neutral_element, twice_is_once, abs_of_neg, where_is_settled,
]  # fmt: skip
