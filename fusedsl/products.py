"""Contractions among scalar expressions: which sums are over products of two operands, and what each varies along.

A product of two tiles is one `tl.dot` if each operand has an axis that the other lacks, its rows or its columns, and
both have the one that is summed over. With all on one side (a matrix by a vector) it is an elementwise product and a
sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .algebra import factors, summands
from .index import Variable
from .lower import Write
from .scalar import Expr, Free, walk

Side = tuple[Expr, ...]  # factors


@dataclass(frozen=True)
class Product:
    """The sum of left * right over `axes`, for each (left, right) of `terms`. rows: the axes that only the left has,
    columns: that only the right has, batch: that both have."""

    fold: Expr
    terms: tuple[tuple[Side, Side], ...]
    rows: Free
    columns: Free
    batch: Free

    @property
    def axes(self) -> tuple[Variable, ...]:
        return self.fold["axes"]

    @property
    def sides(self) -> list[Side]:
        return [side for term in self.terms for side in term]


def is_contraction(e: Expr) -> bool:
    """Whether it is a sum of products."""
    return e.kind == "reduce" and e.op is not None and e.op.contracts


def product_of(e: Expr) -> Product | None:
    """A contraction with its operands, None for what is none: with rows and with columns, the same ones in each term of
    a sum of products."""
    if not is_contraction(e) or not (e.dtype.is_float or e["precision"] == "i8"):
        return None
    found = [_term(e, term) for term in summands(e.args[0])]
    first, terms = found[0], []
    for one in found:
        if one is None or first is None or one.batch != first.batch:
            return None
        if (one.rows, one.columns) == (first.columns, first.rows):
            terms.append((one.right, one.left))
        elif (one.rows, one.columns) == (first.rows, first.columns):
            terms.append((one.left, one.right))
        else:
            return None
    return Product(e, tuple(terms), first.rows, first.columns, first.batch) if first is not None else None


class _Term(NamedTuple):
    """One product under the sum."""

    left: Side
    right: Side
    rows: Free
    columns: Free
    batch: Free


def _term(e: Expr, term: Expr) -> _Term | None:
    summed = frozenset(e["axes"])
    parts = factors(term)
    moving = [f for f in parts if f.free - summed and f.free & summed]
    batch = frozenset.intersection(*(f.free for f in moving)) - summed if moving else frozenset()
    sides = _components([(f, f.free - summed - batch) for f in parts if f.free - summed - batch])
    if len(sides) != 2 or not all(any(f.free & summed for f in side) for side, _ in sides):
        return None
    (left, rows), (right, columns) = sides
    for loose in [f for f in parts if f not in left and f not in right]:  # before any is added
        to = left if len(left) > 1 or left[0].kind != "load" or right[0].kind == "load" else right
        to.append(loose)
    return _Term(tuple(left), tuple(right), rows, columns, batch)


def _components(parts: Iterable[tuple[Expr, Free]]) -> list[tuple[list[Expr], Free]]:
    """Factors that share an axis belong to one operand; the operands in the order of their first factors."""
    sides: list[tuple[list[Expr], Free]] = []
    first: list[Expr] = []
    for factor, axes in parts:
        first.append(factor)
        touching = [side for side in sides if side[1] & axes]
        merged = [f for side in touching for f in side[0]] + [factor]
        apart = [side for side in sides if side not in touching]
        sides = [*apart, (merged, axes.union(*(side[1] for side in touching)))]
    return sorted(sides, key=lambda side: first.index(side[0][0]))


def products_of(writes: Sequence[Write]) -> list[Product]:
    """Every contraction with rows and columns."""
    return [p for e in walk([w.value for w in writes]) if (p := product_of(e)) is not None]


def nested_axes(writes: Sequence[Write]) -> set[Variable]:
    """The axes that a contraction sums over of what another contraction gives, such as the keys of attention."""
    found: set[Variable] = set()
    for e in walk([w.value for w in writes]):
        if is_contraction(e) and any(is_contraction(i) and i.free & set(e["axes"]) for i in walk([e.args[0]])):
            found.update(e["axes"])
    return found


def is_contracted(writes: Sequence[Write]) -> bool:
    """Whether axes have the roles that contractions give them: there is a product of tiles, or one contraction is of
    what another gives."""
    return bool(products_of(writes)) or bool(nested_axes(writes))


def inner_folds(writes: Sequence[Write], looped: Iterable[Variable]) -> set[Expr]:
    """The reductions that are needed anew for each tile of a loop over these axes: they stand in what another reduction
    combines along them, or in what is stored along them, and vary."""
    looped = frozenset(looped)
    found = folds_inside(writes, looped)
    for w in writes:
        around = looped & frozenset(w.axes)
        if around:
            found |= {i for i in walk([w.value]) if i.kind == "reduce" and i.free & around}
    return found


def folds_inside(writes: Sequence[Write], looped: Iterable[Variable]) -> set[Expr]:
    """The reductions that stand in what another one combines along these axes, and vary."""
    looped = frozenset(looped)
    found: set[Expr] = set()
    for e in walk([w.value for w in writes]):
        around = frozenset(e["axes"]) & looped if e.kind == "reduce" else frozenset()
        if around:
            found |= {i for i in walk([e.args[0]]) if i.kind == "reduce" and i.free & around}
    return found


def loops_around(writes: Sequence[Write], fold: Expr, roles: Mapping[Variable, str]) -> set[Variable]:
    """The axes of the loops in whose rounds a reduction is computed: those of the reductions and the stored values that
    it stands in, if it varies along them, or a reduction between them does."""
    bodies = [(e["axes"], e.args[0], e) for e in walk([w.value for w in writes]) if e.kind == "reduce"]
    bodies += [(w.axes, w.value, None) for w in writes]
    found: set[Variable] = set()
    waiting = [fold]
    while waiting:
        inner = waiting.pop()
        for axes, body, outer in bodies:
            around = {a for a in axes if roles[a] in ("loop", "step")}
            if around & inner.free and not around <= found and inner in walk([body]):
                found |= around
                waiting += [outer] if outer is not None else []
    return found
