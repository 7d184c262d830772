"""Operands of products in 8 bits, which processors multiply as they are: whole numbers from -128 to 127, and floats.

    sum_k (a s) (b t_g)  =  s sum_g t_g sum_(k in g) a b

Codes a and b are what is multiplied; scales stay outside of the products. Whole numbers are added up exactly; of floats
it is the processor that says how many digits it adds up.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from .algebra import apply, cast, is_op
from .formats import ELEMENTS
from .index import Variable
from .ir import Node
from .kernel import Buffer
from .products import Product, Side
from .scalar import Expr, constant, make
from .types import EIGHTS, DType, i8, u8
from .wholes import whole


@dataclass(frozen=True)
class Term:
    """One product of tiles: left * right, times scales."""

    left: Expr
    right: Expr
    scales: tuple[Expr, ...]


@dataclass(frozen=True)
class Eights:
    """A sum of products whose operands are all of one type of 8 bits."""

    kind: DType
    terms: tuple[Term, ...]


def eights_of(p: Product, along: Collection[Variable], in_groups: bool = False) -> Eights | None:
    """A product in terms of numbers of 8 bits, each the one such factor of its operand that varies along these axes.
    None where it has none, or where scales vary along them too, unless they may in_groups."""
    terms, kinds = [], set()
    for left, right in p.terms:
        sides = [_parted(side, along, p.fold["precision"]) for side in (left, right)]
        if not all(sides):
            return None
        (a, scales), (b, more) = sides  # type: ignore[misc]
        terms.append(Term(a, b, (*scales, *more)))
        kinds |= {eight(a), eight(b)}
    kind = kinds.pop()
    vary = not in_groups and any(not s.free.isdisjoint(along) for term in terms for s in term.scales)
    return Eights(kind, tuple(terms)) if kind is not None and not kinds and not vary else None


def _parted(side: Side, along: Collection[Variable], precision: str) -> tuple[Expr, tuple[Expr, ...]] | None:
    """The one number of 8 bits among factors that varies along the axes, and the other factors."""
    found = [part for factor in side for part in _factors(factor, precision)]
    codes = [f for f in found if not f.free.isdisjoint(along) and eight(f) is not None]
    return (codes[0], tuple(f for f in found if f is not codes[0])) if len(codes) == 1 else None


def _factors(e: Expr, precision: str) -> list[Expr]:
    """What is multiplied, also where the product would be rounded as an operand of a product is."""
    if is_op(e, "mul"):
        return [f for arg in e.args for f in _factors(arg, precision)]
    is_rounded = is_op(e, "cast") and e["dtype"].name == precision and e.args[0].dtype is e.dtype
    return _factors(e.args[0], precision) if is_rounded else [e]


def eight(e: Expr) -> DType | None:
    """Which type of 8 bits has the number, whatever it is."""
    if is_op(e, "small_float"):
        return ELEMENTS[e["element"]].eight
    if e.kind == "load" and e["tensor"].dtype in EIGHTS[1:]:
        return e["tensor"].dtype
    if is_op(e, "cast") and e["dtype"] in EIGHTS[1:]:
        return e["dtype"]
    bounds = whole(e)
    return i8 if bounds is not None and bounds[0] >= -128 and bounds[1] <= 127 else None


def in_eight(e: Expr, kind: DType, buffers: Mapping[Node, Buffer]) -> Expr:
    """A number as that type of 8 bits has it: of a float its bits, in u8."""
    if kind is i8:
        return _whole(e)
    if is_op(e, "small_float"):
        (code,) = e.args
        return cast(code, u8)
    if e.kind == "load" and buffers[e["tensor"]].dtype is kind:
        return make("load", u8, e.args, tensor=e["tensor"], index=e["index"])
    number = e.args[0] if is_op(e, "cast") else e
    return make("bits", u8, (number if number.dtype.is_float else cast(number, e.dtype),), to=kind)


def _whole(e: Expr) -> Expr:
    """In 8 bits, which wrap around: where the result fits, what it is made of need not."""
    if e.kind == "const":
        return constant((int(e["value"]) + 128) % 256 - 128, i8)
    if e.dtype is i8:
        return e
    if is_op(e, "add", "sub"):
        return apply("add" if is_op(e, "add") else "sub", *map(_whole, e.args))
    if is_op(e, "cast") and e.args[0].dtype.is_integer and (e.dtype.is_float or e.dtype.bits >= 8):
        return _whole(e.args[0])
    if is_op(e, "cast") and e.dtype.is_float and whole(e.args[0]) is not None and e.args[0].dtype.is_float:
        return _whole(e.args[0])
    return cast(e, i8)
