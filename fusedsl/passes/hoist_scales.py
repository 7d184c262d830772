"""Scales leave sums of products of 8-bit numbers, so that these are multiplied as they are.

    sum_k (a[m, k] s[m]) (b[k, n] t[k // g, n])   =   s[m] sum_u t[u, n] sum_r a[m, g u + r] b[g u + r, n]

What varies along no summed axis is multiplied once, after the sum; where it varies by groups, their axis is two, the
group and the place in it, and a product of tiles lies within one group. Without a scale left whole numbers are added up
in 32 bits, exactly.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import reduce
from operator import and_

from ..algebra import apply, cast, is_op
from ..eights import Eights, eights_of
from ..index import Atom, Index, Variable, divide_exactly, poly
from ..lower import Origin, Write, follow, rename
from ..products import is_contraction, product_of
from ..scalar import Expr, make, rebuilt, uses, walk
from ..types import DEPTH_OF_EIGHTS, i8, i32

MOST_EXACT = 1 << 17  # products of whole numbers of 8 bits that 32 bits hold the sum of


def hoist_scales(writes: Sequence[Write], looped: Collection[Variable], origin: Origin | None = None) -> list[Write]:
    """The writes with what does not vary along a sum of products of 8-bit numbers out of it. looped: the axes that
    loops walk, which may be cut in groups; a tile has its products along one axis."""
    memo: dict[Expr, Expr] = {}
    lengths: dict[Variable, int] = {}
    scanned = {a for e in walk([w.value for w in writes]) if e.kind == "scan" for a in e["axes"]}
    free = set(looped) - scanned
    for e in walk([w.value for w in writes]):
        memo[e] = rebuilt(e, memo)
        if is_contraction(e) and len(e.args) == 1:
            memo[e], scales = _hoisted(memo[e])
            lengths |= {axis: n for axis in e["axes"] if axis in free and (n := _length(scales, axis))}
    follow(origin, memo)
    hoisted = [Write(w.tensor, w.axes, w.index, memo[w.value]) for w in writes]
    places: dict[Atom, Index] = {axis: _in_groups(axis, length) for axis, length in lengths.items()}
    return rename(hoisted, places, origin) if places else hoisted


def _hoisted(e: Expr) -> tuple[Expr, list[Expr]]:
    """A contraction with scales outside, and those that are left inside."""
    product = product_of(e)
    found = None if product is None else eights_of(product, e["axes"], in_groups=True)
    if found is None:
        return e, []
    common = reduce(and_, (Counter(t.scales) for t in found.terms))
    outside = Counter({s: n for s, n in common.items() if s.free.isdisjoint(e["axes"])})
    left = [tuple((Counter(t.scales) - outside).elements()) for t in found.terms]
    terms = tuple(replace(t, scales=scales) for t, scales in zip(found.terms, left, strict=True))
    total = _sum(e, Eights(found.kind, terms))
    factor = reduce(_times, outside.elements()) if outside else None
    return total if factor is None else _times(total, factor), [s for scales in left for s in scales]


def _sum(e: Expr, found: Eights) -> Expr:
    """The sum of products with the scales that are left, of whole numbers alone in integers."""
    count = math.prod(a.extent if isinstance(a.extent, int) else MOST_EXACT for a in e["axes"]) * len(found.terms)
    if found.kind is not i8 or count >= MOST_EXACT or any(t.scales for t in found.terms):
        return _fold(e, [reduce(_times, t.scales, _times(t.left, t.right)) for t in found.terms])
    whole = _fold(e, [_times(_integer(t.left), _integer(t.right)) for t in found.terms], precision=i8.name)
    return cast(whole, e.dtype)


def _integer(e: Expr) -> Expr:
    """A whole number in 32 bits, without the float that it was an integer before."""
    return cast(e.args[0] if is_op(e, "cast") and e.args[0].dtype.is_integer else e, i32)


def _fold(e: Expr, terms: Sequence[Expr], **attrs: str) -> Expr:
    body = reduce(lambda a, b: apply("add", a, b), terms)
    return make("reduce", body.dtype, (body,), e.op, **{**e.attrs, **attrs})


def _times(a: Expr, b: Expr) -> Expr:
    return apply("mul", a, b)


def _length(scales: Sequence[Expr], axis: Variable) -> int | None:
    """The places of a group, where scales vary along an axis by groups."""
    found = {use for scale in scales for use in uses(scale, axis)}
    length = found.pop() if len(found) == 1 else None
    if not isinstance(length, int) or length < DEPTH_OF_EIGHTS:
        return None
    return length if divide_exactly(axis.extent, length) not in (None, 1) else None


def _in_groups(axis: Variable, length: int) -> Index:
    groups = divide_exactly(axis.extent, length)
    assert groups is not None
    return poly(Variable(axis.name, groups)) * length + poly(Variable(axis.name, length))
