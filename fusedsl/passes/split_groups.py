"""An output axis that reductions, or one operand of a contraction, see only divided is two axes: the group, which they
share, and the place in it.

Group norm writes y[c] from statistics of group c // k. With c = g * k + r the statistics depend on g alone, and the
reduction's own axis becomes the same as r: each group is reduced once, by the program that writes it. Query heads that
share keys (h // k) become group and place likewise: the places are rows of one product with the group's keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..algebra import factors
from ..index import Index, Variable, divide_exactly, poly
from ..lower import Origin, Write, rename
from ..products import is_contraction, product_of
from ..scalar import Expr, uses, walk


def split_groups(writes: list[Write], origin: Origin | None = None) -> list[Write]:
    """The writes with every such axis split."""
    for axis in dict.fromkeys(a for w in writes for a in w.axes):
        divisor = _divisor(writes, axis)
        groups = None if divisor is None else divide_exactly(axis.extent, divisor)
        if divisor is not None and groups is not None:
            group, place = Variable(axis.name, groups), Variable(axis.name, divisor)
            writes = rename(writes, {axis: poly(group) * divisor + place}, origin)
    return writes


def _divisor(writes: Sequence[Write], axis: Variable) -> Index | None:
    """k, if some reduction uses the axis, and only as axis // k; or if an operand of a contraction does."""
    found: set[Index] = set()
    for side in _operands(writes):
        used = {use for f in side for use in uses(f, axis)}
        if len(used) == 1 and None not in used:
            return used.pop()
    for r in walk([w.value for w in writes]):
        if r.kind == "scan" and axis in r["axes"]:
            return None
        if r.kind != "reduce" or axis not in r.free:
            continue
        used = set(uses(r, axis))
        if None in used:
            return None
        found |= used  # type: ignore[arg-type]
    return found.pop() if len(found) == 1 else None


def _operands(writes: Sequence[Write]) -> Iterator[Sequence[Expr]]:
    """Both of each product, and each factor of a matrix times a vector: one query of several heads is a product too,
    once the heads that share keys are its rows."""
    for e in walk([w.value for w in writes]):
        p = product_of(e)
        if p is not None:
            yield from p.sides
        elif is_contraction(e):
            yield from ([f] for f in factors(e.args[0]))
