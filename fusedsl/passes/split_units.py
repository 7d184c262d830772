"""An axis that is walked value by value, and by another access in steps of several, is walked in steps by both.

Codes of 4 bits are written two a byte: byte p of a group holds those of x[16 g + 2 p] and x[16 g + 2 p + 1], and its
scale comes from the greatest x[16 g + r] over r. With r = 2 s + j that is the greatest over s of the greater of two,
and s is p: the group's values are loaded once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from ..index import Index, Variable, atoms, poly, replace
from ..ir import Node
from ..lower import Origin, Write, follow, rename
from ..scalar import Expr, rebuilt, walk
from ..terms import can_be_cut, in_terms

MOST_TERMS = 8


def split_units(writes: list[Write], origin: Origin | None = None) -> list[Write]:
    """The writes with every such axis split, those over it too."""
    exprs = walk([w.value for w in writes])
    written = dict.fromkeys(a for w in writes for a in w.axes)
    steps = _steps(exprs, written)
    for axis in dict.fromkeys([*(a for e in exprs if e.is_fold for a in e["axes"]), *written]):
        folds = [e for e in exprs if e.is_fold and axis in e["axes"]]
        units = [(s, n) for s, n in steps if s * n == axis.extent]
        if units and all(map(can_be_cut, folds)) and _is_walked(exprs, axis):
            step, count = max(units, key=lambda unit: unit[0])
            return split_units(_split(writes, axis, step, count, origin), origin)
    return writes


def _steps(exprs: Sequence[Expr], written: Collection[Variable]) -> list[tuple[int, Index]]:
    """(step, extent) of the written axes along which as many elements of a tensor as a step is long are read."""
    found: Counter[tuple[Node, Variable, int]] = Counter()
    for e in exprs:
        if e.kind == "load":
            found.update((e["tensor"], axis, step) for i in e["index"] for axis, step in _taken(i, written))
    return [(step, axis.extent) for (_, axis, step), times in found.items() if times == step and step <= MOST_TERMS]


def _taken(index: Index, written: Collection[Variable]) -> Iterator[tuple[Variable, int]]:
    """The steps that an index takes along written axes."""
    for axis in atoms(index):
        if isinstance(axis, Variable) and axis in written and isinstance(axis.extent, int):
            step = replace(index, {axis: 1}) - replace(index, {axis: 0})
            if isinstance(step, int) and step > 1:
                yield axis, step


def _is_walked(exprs: Sequence[Expr], axis: Variable) -> bool:
    """Whether loads go along the axis value by value."""
    loads = [i for e in exprs if e.kind == "load" for i in e["index"] if axis in atoms(i)]
    return bool(loads) and all(replace(i, {axis: 1}) - replace(i, {axis: 0}) == 1 for i in loads)


def _split(writes: Sequence[Write], axis: Variable, step: int, units: Index, origin: Origin | None) -> list[Write]:
    inner = Variable(axis.name, units)
    places = [poly(inner) * step + at if units != 1 else at for at in range(step)]
    within = (inner,) if units != 1 else ()
    memo: dict[Expr, Expr] = {}
    for e in walk([w.value for w in writes]):
        new = rebuilt(e, memo)
        memo[e] = in_terms(new, axis, places, within) if e.is_fold and axis in e["axes"] else new
    follow(origin, memo)
    found = [Write(w.tensor, w.axes, w.index, memo[w.value]) for w in writes]
    along = [w for w in found if axis in w.axes]
    cut = [v for place in places for v in rename(along, {axis: place}, origin)]
    return [*cut, *(w for w in found if axis not in w.axes)]
