"""An axis that a reduction walks in one piece, and another access in groups, is walked in groups by both.

A norm with a scale for every 128 neighbours sums x[k] over k and takes the greatest of x[128 g + r] over r. With
k = 128 g + r both read the same elements by the same axes, and the row is loaded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..index import Index, Poly, Variable, divide_exactly, poly, sole_atom
from ..lower import Origin, Write, rename
from ..scalar import Expr, walk


def split_rows(writes: list[Write], origin: Origin | None = None) -> list[Write]:
    """The writes with every such axis split."""
    for axis, size in _cuts(writes):
        groups = divide_exactly(axis.extent, size)
        if groups is not None:
            group, place = Variable(axis.name, groups), Variable(axis.name, size)
            writes = rename(writes, {axis: poly(group) * size + place}, origin)
    return writes


def _cuts(writes: Sequence[Write]) -> list[tuple[Variable, Index]]:
    """The axes of reductions to split, each with the size of the groups that another load of its tensor has."""
    exprs = walk([w.value for w in writes])
    reduced = {a for e in exprs if e.kind == "reduce" for a in e["axes"]}
    scanned = {a for e in exprs if e.kind == "scan" for a in e["axes"]}
    loads = [e for e in exprs if e.kind == "load"]
    found: dict[Variable, Index] = {}
    for a in loads:
        for axis, dim in _whole(a):
            if axis in reduced and axis not in scanned and axis not in found:
                sizes = {s for b in loads if b["tensor"] is a["tensor"] for s in _group(b["index"][dim], axis.extent)}
                if len(sizes) == 1:
                    found[axis] = sizes.pop()
    return list(found.items())


def _whole(load: Expr) -> Iterator[tuple[Variable, int]]:
    """The axes that stand alone for a dimension."""
    for dim, index in enumerate(load["index"]):
        axis = sole_atom(index)
        if isinstance(axis, Variable):
            yield axis, dim


def _group(index: Index, extent: Index) -> Iterator[Index]:
    """c, where an index is c g + r, with r below c, and goes through all of an extent."""
    if not isinstance(index, Poly) or len(index.terms) != 2:
        return
    for (first, c), (second, one) in (index.terms, index.terms[::-1]):
        if len(first) == len(second) == 1 and one == 1 and isinstance(first[0], Variable):
            group, place = first[0], second[0]
            if isinstance(place, Variable) and place.extent == c and group.extent * c == extent:
                yield c
