"""An axis whose values are chosen piece by piece is written piece by piece, where the pieces are equally long.

The rotary embedding writes `cat(-x[d + D/2], x[d - D/2])`: with d split into (u, r), u unrolled, each piece is a
write of its own without a choice, and both pieces load the same two halves of x, once.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..index import Index, Variable, divide_exactly, poly, replace
from ..lower import Origin, Write, rename
from ..scalar import indices, variables, walk

MOST_PIECES = 8


def split_axes(writes: list[Write], origin: Origin | None = None) -> list[Write]:
    """The writes with every such axis split."""
    for axis in dict.fromkeys(a for w in writes for a in w.axes):
        mine, others = [w for w in writes if axis in w.axes], [w for w in writes if axis not in w.axes]
        step = _step(mine, axis)
        if step is not None:
            pieces = _pieces(axis, step)
            inner = Variable(axis.name, step)
            place = poly(inner) if step != 1 else 0
            cut = [v for u in range(pieces) for v in rename(mine, {axis: place + u * step}, origin)]
            writes = [*cut, *others]
    return writes


def _step(writes: Sequence[Write], axis: Variable) -> Index | None:
    """The length of the pieces, None where the axis is not chosen piece by piece, or is used otherwise as well."""
    cuts: list[Index] = []
    for e in walk([w.value for w in writes]):
        if e.is_fold and axis in _free_below(e):
            return None
        if e.kind == "less" and axis in e.free:
            cut = cut_of(e["a"] - e["b"], axis)
            if cut is None:
                return None
            cuts.append(cut)
    if not cuts:
        return None
    step = cuts[0]
    for cut in cuts[1:]:
        if divide_exactly(cut, step) is None:
            step, cut = cut, step
        if divide_exactly(cut, step) is None:
            return None
    pieces = divide_exactly(axis.extent, step)
    return step if isinstance(pieces, int) and 1 < pieces <= MOST_PIECES else None


def cut_of(difference: Index, axis: Variable) -> Index | None:
    """c, where the sign of +-axis -+ c decides a comparison."""
    at0, at1 = replace(difference, {axis: 0}), replace(difference, {axis: 1})
    slope = at1 - at0
    if slope not in (1, -1) or variables(at0) or difference != poly(axis) * slope + at0:
        return None
    # axis < c reads axis - c; c - 1 < axis reads c - 1 - axis
    return -1 * at0 if slope == 1 else at0 + 1


def _pieces(axis: Variable, step: Index) -> int:
    pieces = divide_exactly(axis.extent, step)
    assert isinstance(pieces, int)
    return pieces


def _free_below(e) -> frozenset[Variable]:
    found: frozenset[Variable] = frozenset(e["axes"])
    for part in walk(list(e.children)):
        found |= part.free
        for index in indices(part):
            found |= variables(index)
    return found
