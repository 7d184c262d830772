"""Reductions term by term: over an axis, as one over the axes of some of its places, of all these places together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from .algebra import apply, factors
from .index import Atom, Index, Variable
from .products import is_contraction, product_of
from .scalar import Expr, constant, make, substitute


def can_be_cut(e: Expr) -> bool:
    """Whether it is a reduction whose terms another op puts together two by two."""
    if e.kind != "reduce" or len(e.args) != 1:
        return False
    assert e.op is not None and e.op.reduction is not None
    return bool(e.op.reduction.pairwise)


def in_terms(e: Expr, axis: Variable, places: Sequence[Index], within: Sequence[Variable]) -> Expr:
    """A reduction over an axis as one over the axes within the places that stand for it, of all of them together."""
    assert e.op is not None and e.op.reduction is not None
    pairwise, mappings = e.op.reduction.pairwise, [dict[Atom, Index]({axis: place}) for place in places]
    terms = [substitute(e.args[0], mapping) for mapping in mappings]
    axes = tuple(v for a in e["axes"] for v in (within if a is axis else (a,)))
    attrs = {**e.attrs, "axes": axes}
    if within and is_contraction(e) and product_of(make("reduce", e.dtype, (terms[0],), e.op, **attrs)) is None:
        terms = _by_factor(terms, within[-1])
    body = reduce(lambda a, b: apply(pairwise, a, b), terms)
    return make("reduce", e.dtype, (body,), e.op, **attrs) if axes else body


def _by_factor(terms: Sequence[Expr], row: Variable) -> list[Expr]:
    """a b + a c = a (b + c), for what does not vary along the rows of a part: the scale of a group of weights."""
    groups: dict[tuple[Expr, ...], list[Expr]] = {}
    for term in terms:
        still = tuple(f for f in factors(term) if row not in f.free)
        moving = [f for f in factors(term) if row in f.free] or [constant(1, term.dtype)]
        groups.setdefault(still, []).append(reduce(lambda a, b: apply("mul", a, b), moving))
    sums = [(still, reduce(lambda a, b: apply("add", a, b), inner)) for still, inner in groups.items()]
    return [reduce(lambda a, b: apply("mul", a, b), still, total) for still, total in sums]
