"""Axes that memory walks as one become one axis: a contiguous (rows, columns) pair is a single run of elements.

i and j are replaced by n // J and n % J; the merge stands if no access then needs a division or a remainder more than
before, which the layouts' joins decide. No case analysis of shapes is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations

from ..index import Atom, Index, Variable, atoms, floordiv, poly, remainder
from ..ir import Node
from ..kernel import Buffer
from ..lower import Origin, Write, rename
from ..scalar import Expr, indices, walk


def merge_axes(writes: list[Write], buffers: Mapping[Node, Buffer], origin: Origin | None = None) -> list[Write]:
    """The writes with as few axes as their accesses allow."""
    while True:
        for outer, inner in _candidates(writes):
            names = {} if origin is None else dict(origin)
            merged = _merged(writes, outer, inner, names)
            if _divisions(merged, buffers) <= _divisions(writes, buffers):
                writes = merged
                if origin is not None:
                    origin.update(names)
                break
        else:
            return writes


def _candidates(writes: Sequence[Write]) -> list[tuple[Variable, Variable]]:
    """Pairs of axes that every write and every reduction has both of, or neither."""
    binders = [set(w.axes) for w in writes]
    binders += [set(e["axes"]) for e in walk([w.value for w in writes]) if e.is_fold]
    axes = dict.fromkeys(a for b in binders for a in sorted(b, key=lambda a: a.key))
    return [(a, b) for a, b in permutations(axes, 2) if all((a in s) == (b in s) for s in binders)]


def _merged(writes: list[Write], outer: Variable, inner: Variable, origin: Origin) -> list[Write]:
    one = Variable(outer.name, outer.extent * inner.extent)
    mapping: dict[Atom, Index] = {outer: floordiv(poly(one), inner.extent), inner: remainder(poly(one), inner.extent)}
    return rename(writes, mapping, origin)


def _divisions(writes: Sequence[Write], buffers: Mapping[Node, Buffer]) -> int:
    """How many divisions and remainders the accesses and index values of the writes need."""
    total = sum(_count(buffers[w.tensor].offset(w.index)) for w in writes)
    for e in walk([w.value for w in writes]):
        total += sum(_count(i) for i in _offsets(e, buffers))
    return total


def _offsets(e: Expr, buffers: Mapping[Node, Buffer]) -> Sequence[Index]:
    return (buffers[e["tensor"]].offset(e["index"]),) if e.kind == "load" else indices(e)


def _count(index: Index) -> int:
    return sum(1 + _count(a.dividend) for a in atoms(index) if hasattr(a, "dividend"))  # type: ignore[attr-defined]
