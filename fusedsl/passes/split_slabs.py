"""An axis is walked tile by tile and part by part where a value depends on which part of a tile it is in: with the part
known, what depends on it is known too.

The codes of packed weights lie in slabs: of a tile of 16 * R rows, rows r, R + r, 2R + r ... share a stream of bits, so
that a row's shift depends on k % 16R // R. With k = 16R t + R j + r a sum over k is one over t and r of the sum of
sixteen terms, j = 0 ... 15: every shift is a number, and a word is loaded once for all the codes in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce

from ..algebra import apply, factors
from ..index import Atom, Index, Quotient, Remainder, Variable, atoms, divide_exactly, poly, sole_atom
from ..lower import Origin, Write, follow
from ..products import is_contraction, product_of
from ..scalar import Expr, indices, make, rebuilt, substitute, walk

MOST_PARTS = 16
LEAST_ROWS = 16  # of a part: a product of fewer is as long


def split_slabs(writes: list[Write], origin: Origin | None = None) -> list[Write]:
    """The writes with every such axis of reductions split."""
    for axis in dict.fromkeys(a for e in walk([w.value for w in writes]) if e.kind == "reduce" for a in e["axes"]):
        parts = _parts(writes, axis)
        if parts is not None:
            writes = _split(writes, axis, *parts, origin)
    return writes


def _parts(writes: Sequence[Write], axis: Variable) -> tuple[int, int] | None:
    """(rows of a part, parts of a tile), None if nothing depends on a part or the axis is not only summed over."""
    exprs = walk([w.value for w in writes])
    folds = [e for e in exprs if e.is_fold and axis in e["axes"]]
    if any(axis in w.axes for w in writes) or not all(map(can_be_cut, folds)):
        return None
    found = {p for e in exprs if e.kind in ("number", "less") for i in indices(e) for p in _depends(i, axis)}
    if len(found) != 1:
        return None
    rows, parts = found.pop()
    whole = divide_exactly(axis.extent, rows * parts) is not None
    return (rows, parts) if rows >= LEAST_ROWS and 1 < parts <= MOST_PARTS and whole else None


def can_be_cut(e: Expr) -> bool:
    """Whether it is a reduction whose terms another op puts together two by two."""
    if e.kind != "reduce" or len(e.args) != 1:
        return False
    assert e.op is not None and e.op.reduction is not None
    return bool(e.op.reduction.pairwise)


def _depends(index: Index, axis: Variable) -> Iterator[tuple[int, int]]:
    """(rows, parts) where an index needs to know in which part of a tile the axis is."""
    for atom in atoms(index):
        if not isinstance(atom, Quotient) or axis not in atom.free:
            continue
        inside = sole_atom(atom.dividend)
        tile = inside.divisor if isinstance(inside, Remainder) else axis.extent
        whole = sole_atom(inside.dividend) if isinstance(inside, Remainder) else inside
        is_part = not isinstance(atom, Remainder) and whole is axis
        if is_part and isinstance(atom.divisor, int) and isinstance(tile, int) and tile % atom.divisor == 0:
            yield atom.divisor, tile // atom.divisor
        else:
            yield from _depends(atom.dividend, axis)


def _split(writes: Sequence[Write], axis: Variable, rows: int, parts: int, origin: Origin | None) -> list[Write]:
    tiles = divide_exactly(axis.extent, rows * parts)
    assert tiles is not None
    tile, row = Variable(axis.name, tiles), Variable(axis.name, rows)
    start: Index = poly(tile) * (rows * parts) if tiles != 1 else 0
    places = [start + part * rows + (poly(row) if rows > 1 else 0) for part in range(parts)]
    within = [a for a, n in ((tile, tiles), (row, rows)) if n != 1]
    memo: dict[Expr, Expr] = {}
    for e in walk([w.value for w in writes]):
        memo[e] = rebuilt(e, memo)
        if e.kind == "reduce" and axis in e["axes"]:
            memo[e] = in_terms(memo[e], axis, places, within)
    follow(origin, memo)
    return [Write(w.tensor, w.axes, w.index, memo[w.value]) for w in writes]


def in_terms(e: Expr, axis: Variable, places: Sequence[Index], within: Sequence[Variable]) -> Expr:
    """A reduction over an axis as one over the axes within the places that stand for it, of all of them together."""
    assert e.op is not None and e.op.reduction is not None
    pairwise, mappings = e.op.reduction.pairwise, [dict[Atom, Index]({axis: place}) for place in places]
    terms = [substitute(e.args[0], mapping) for mapping in mappings]
    axes = tuple(v for a in e["axes"] for v in (within if a is axis else (a,)))
    attrs = {**e.attrs, "axes": axes}
    if is_contraction(e) and product_of(make("reduce", e.dtype, (terms[0],), e.op, **attrs)) is None:
        terms = _by_factor(terms, axes[-1])
    body = reduce(lambda a, b: apply(pairwise, a, b), terms)
    return make("reduce", e.dtype, (body,), e.op, **attrs) if axes else body


def _by_factor(terms: Sequence[Expr], row: Variable) -> list[Expr]:
    """a b + a c = a (b + c), for what does not vary along the rows of a part: the scale of a group of weights."""
    groups: dict[tuple[Expr, ...], list[Expr]] = {}
    for term in terms:
        still = tuple(f for f in factors(term) if row not in f.free)
        moving = [f for f in factors(term) if row in f.free]
        groups.setdefault(still, []).append(reduce(lambda a, b: apply("mul", a, b), moving))
    sums = [(still, reduce(lambda a, b: apply("add", a, b), inner)) for still, inner in groups.items()]
    return [reduce(lambda a, b: apply("mul", a, b), still, total) for still, total in sums]
