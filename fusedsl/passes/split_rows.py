"""An axis that a reduction walks in one piece, and another access in groups, is walked in groups by both.

A norm with a scale for every 128 neighbours sums x[k] over k and takes the greatest of x[128 g + r] over r. With
k = 128 g + r both read the same elements by the same axes, and the row is loaded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..index import Atom, Index, Poly, Variable, divide_exactly, poly, sole_atom
from ..lower import Origin, Refusal, Write, rename
from ..scalar import Expr, walk
from ..schedule import check
from .split_axes import split_axes
from .split_units import split_units
from .unify_axes import unify_axes

FEW = 8


def split_rows(writes: list[Write], origin: Origin | None = None) -> list[Write]:
    """The writes with every such axis split, unless no kernel could hold them then, as the groups of a row that is not
    resident are reduced apart from it, and there are so few groups that each may as well read the row again."""
    for axis, size in _cuts(writes):
        groups = divide_exactly(axis.extent, size)
        if groups is not None:
            group, place = Variable(axis.name, groups), Variable(axis.name, size)
            mapping: dict[Atom, Index] = {axis: poly(group) * size + place}
            few = isinstance(groups, int) and groups <= FEW
            if not few or _fits(rename(writes, mapping)):
                writes = rename(writes, mapping, origin)
    return writes


def _fits(writes: list[Write]) -> bool:
    try:
        check(split_axes(unify_axes(split_units(writes))))
    except Refusal:
        return False
    return True


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
