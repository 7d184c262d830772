"""An axis is walked tile by tile and part by part where a value depends on which part of a tile it is in: with the part
known, what depends on it is known too.

The codes of packed weights lie in slabs: of a tile of 16 * R rows, rows r, R + r, 2R + r ... share a stream of bits, so
that a row's shift depends on k % 16R // R. With k = 16R t + R j + r a sum over k is one over t and r of the sum of
sixteen terms, j = 0 ... 15: every shift is a number, and a word is loaded once for all the codes in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..index import Index, Quotient, Remainder, Variable, atoms, divide_exactly, poly, sole_atom
from ..lower import Origin, Write, follow
from ..scalar import Expr, indices, rebuilt, walk
from ..terms import can_be_cut, in_terms

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
    places = [start + part * rows + poly(row) for part in range(parts)]
    within = [tile, row] if tiles != 1 else [row]
    memo: dict[Expr, Expr] = {}
    for e in walk([w.value for w in writes]):
        memo[e] = rebuilt(e, memo)
        if e.kind == "reduce" and axis in e["axes"]:
            memo[e] = in_terms(memo[e], axis, places, within)
    follow(origin, memo)
    return [Write(w.tensor, w.axes, w.index, memo[w.value]) for w in writes]
