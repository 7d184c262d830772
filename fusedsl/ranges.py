"""Where along a loop's axis anything counts, read off the conditions in what is reduced.

A condition bounds a loop if the loop does nothing where it fails: with the condition replaced by its failing value
every body must come to the identity of its reduction. Then the range in which it can hold for some row of a program's
tile is all that is walked (causal masks, sliding windows, prefixes, lengths from memory), and in the range in which it
holds for every row it need not be asked. Nothing is declared: a mask that does not make a body vanish bounds nothing.

What is skipped counts as nothing, whatever stands there: a NaN behind a mask does not show.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .algebra import combines, is_op
from .index import Index, Symbol, Variable, atoms
from .kernel import Axis, Bound, Limit, Range, edge
from .scalar import Expr, walk
from .separate import is_positive

Condition = tuple[Expr, bool]  # what is asked, and the answer under which something counts
Given = Callable[[Expr, bool], Index]  # an integer of memory as an index: its least or greatest value in a tile

ORDERS = {"lt": (1, 0), "le": (1, 1), "gt": (-1, 0), "ge": (-1, 1)}


@dataclass(frozen=True)
class Span:
    """[lower, upper), None where there is no bound."""

    lower: Limit | None = None
    upper: Limit | None = None


NOWHERE = Span(upper=0)


def range_of(
    bodies: Sequence[tuple[Expr, object]],
    axis: Variable,
    axes: Mapping[Variable, Axis],
    given: Given,
    besides: Collection[Expr] = (),
) -> Range | None:
    """The range of a loop in which its bodies do anything, None if that is everywhere. bodies: each with the identity
    of its reduction. besides: conditions that others see to."""
    some, whole, used = Span(), Span(), []
    for condition in _conditions(bodies, axis):
        if condition[0] not in besides and all(_dies(body, condition, identity) for body, identity in bodies):
            can = _span(*condition, _Tile(axis, axes, given, outer=True))
            if can == Span():
                continue
            some = _both(some, can)
            all_of = _span(*condition, _Tile(axis, axes, given, outer=False))
            if (all_of.lower is None) == (can.lower is None) and (all_of.upper is None) == (can.upper is None):
                whole = _both(whole, all_of)
                used.append(condition)
            else:
                whole = _both(whole, NOWHERE)
    if some == Span():
        return None
    return Range(some.lower, some.upper, whole.lower, whole.upper, tuple(used))


# ---- conditions ------------------------------------------------------------------------------------------------------


def _conditions(bodies: Iterable[tuple[Expr, object]], axis: Variable) -> list[Condition]:
    """What the bodies choose by, in conjuncts that vary along the axis."""
    found: dict[Condition, None] = {}
    for e in walk([body for body, _ in bodies]):
        if e.kind == "select" or is_op(e, "where"):
            for live in (True, False):
                found.update(dict.fromkeys(c for c in _conjuncts(e.args[0], live) if axis in c[0].free))
    return list(found)


def _conjuncts(e: Expr, live: bool) -> Iterator[Condition]:
    """Conditions that all have to hold for e to be `live`."""
    e, live = _plain(e, live)
    if e.kind == "both" or is_op(e, "bitwise_and", "logical_and"):
        parts = e.args if live else ()
    elif is_op(e, "bitwise_or", "logical_or"):
        parts = () if live else e.args
    else:
        parts = ()
    for part in parts:
        yield from _conjuncts(part, live)
    if not parts:
        yield e, live


def _plain(e: Expr, live: bool) -> Condition:
    """Without negations, and without choices between true and false."""
    while True:
        if is_op(e, "bitwise_not", "logical_not"):
            e, live = e.args[0], not live
        elif is_op(e, "where") and sorted(a["value"] for a in e.args[1:] if a.kind == "const") == [False, True]:
            live = live == bool(e.args[1]["value"])
            e = e.args[0]
        else:
            return e, live


# ---- what becomes of a body ------------------------------------------------------------------------------------------


def _dies(body: Expr, condition: Condition, identity: object) -> bool:
    """Whether a body comes to the identity where a condition fails."""
    e, live = condition
    known: dict[Expr, object] = {e: not live}
    for part in walk([body], lambda part: part not in known):
        if part not in known:
            known[part] = _value(part, [known[a] for a in part.args])
    return known[body] is not None and known[body] == identity


def _value(e: Expr, args: Sequence[object]) -> object:
    """The value of an operation on what is known of its arguments, None where it is not known."""
    if e.kind == "const":
        return e["value"]
    if e.kind == "select" or is_op(e, "where"):
        condition, a, b = args
        if condition is None:
            return a if a == b else None
        return a if condition else b
    if e.kind == "both" or is_op(e, "bitwise_and", "logical_and"):
        return False if False in args else True if all(a is True for a in args) else None
    if is_op(e, "bitwise_or", "logical_or"):
        return True if True in args else False if all(a is False for a in args) else None
    if is_op(e, "bitwise_not", "logical_not"):
        return None if args[0] is None else not args[0]
    if e.kind == "reduce":
        return 0.0 if combines(e, "add") and args[0] == 0 else None
    if e.kind == "power":
        return 0.0 if args[0] == -math.inf else None
    if e.kind == "round" or is_op(e, "cast"):
        return args[0] if isinstance(args[0], float) and (args[0] == 0 or math.isinf(args[0])) else None
    return _arithmetic(e, args) if e.kind == "apply" else None


def _arithmetic(e: Expr, args: Sequence[object]) -> object:
    """What is known of sums with -inf, of products with 0 and of exponentials. Unknown values count as finite."""
    if is_op(e, "neg") and isinstance(args[0], float):
        return -args[0]
    if is_op(e, "add", "sub"):
        signs = (1, 1 if is_op(e, "add") else -1)
        ends = [s * a for s, a in zip(signs, args, strict=True) if isinstance(a, float) and math.isinf(a)]
        return ends[0] if len(set(ends)) == 1 else None
    if is_op(e, "mul"):
        (a, b), (x, y) = e.args, args
        for other, number, value in ((b, y, x), (a, x, y)):
            if value == 0 and (number is None or math.isfinite(number)):  # type: ignore[arg-type]
                return 0.0
            if isinstance(value, float) and math.isinf(value) and is_positive(other):
                return value
        return None
    if is_op(e, "div"):
        return args[0] if args[0] == 0 or (args[0] is not None and is_positive(e.args[1])) else None
    return 0.0 if is_op(e, "exp", "exp2") and args[0] == -math.inf else None


# ---- ranges ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tile:
    """A program's tile. outer: whether ranges are for some of its rows, else for all."""

    axis: Variable
    axes: Mapping[Variable, Axis]
    given: Given
    outer: bool

    @property
    def unknown(self) -> Span:
        """Where a condition may hold of which nothing is known, and where it is known to hold."""
        return Span() if self.outer else NOWHERE

    def extreme(self, terms: Index, values: Sequence[tuple[int, Expr]], greatest: bool) -> Index | None:
        """The least or greatest value that an index plus values of memory has in the tile."""
        total: Index = 0
        for product, factor in () if isinstance(terms, int) else terms.terms:
            term: Index = factor
            for atom in product:
                place = self._place(atom, greatest == (factor > 0))
                if place is None or (len(product) > 1 and not isinstance(atom, (Symbol, Variable))):
                    return None
                term = term * place
            total = total + term
        total = total + (terms if isinstance(terms, int) else 0)
        for factor, value in values:
            total = total + factor * self.given(value, greatest == (factor > 0))
        return total

    def _place(self, atom: object, greatest: bool) -> Index | None:
        if not isinstance(atom, Variable):
            moving = [a for a in getattr(atom, "free", ()) if isinstance(a, Variable)]
            still = all(self.axes[a].role == "one" for a in moving)
            return atom + 0 if still else None  # type: ignore[operator]
        role = self.axes[atom].role
        if role == "grid":
            return edge(atom, greatest) + 0
        if role == "block":
            return atom.extent - 1 if greatest else 0
        return atom + 0 if role == "one" else None


def _span(e: Expr, live: bool, tile: _Tile) -> Span:
    """The range in which a condition is `live`, for some or for all rows of the tile."""
    e, live = _plain(e, live)
    conjunction = e.kind == "both" or is_op(e, "bitwise_and", "logical_and")
    if conjunction or is_op(e, "bitwise_or", "logical_or"):
        a, b = (_span(part, live, tile) for part in e.args)
        return _both(a, b) if conjunction == live else _hull(a, b) if tile.outer else _union(a, b)
    found = _difference(e, tile.axis)
    if found is None:
        return tile.unknown
    terms, values, step = found if live else _complement(*found)
    if step > 0:  # k > -terms - values
        least = tile.extreme(1 - terms, [(-f, v) for f, v in values], not tile.outer)
        return tile.unknown if least is None else Span(lower=least)
    upper = tile.extreme(terms, values, tile.outer)
    return tile.unknown if upper is None else Span(upper=upper)


def _complement(terms: Index, values: Sequence[tuple[int, Expr]], step: int) -> tuple[Index, list, int]:
    """not (d > 0) is 1 - d > 0"""
    return 1 - terms, [(-f, v) for f, v in values], -step


def _difference(e: Expr, axis: Variable) -> tuple[Index, list[tuple[int, Expr]], int] | None:
    """A comparison as step * k + terms + values > 0, with a step of 1 or -1; None for what is none."""
    if e.kind == "less" and not e.args:
        terms, values = e["b"] - e["a"], []
    elif e.kind == "apply" and e.op is not None and e.op.name in ORDERS:
        sign, extra = ORDERS[e.op.name]
        (a, left), (b, right) = (_linear(arg, axis) for arg in e.args)
        if a is None or b is None:
            return None
        terms = sign * (b - a) + extra
        values = [(sign, v) for v in right] + [(-sign, v) for v in left]
    else:
        return None
    step = 0
    for product, factor in () if isinstance(terms, int) else terms.terms:
        if axis in product:
            step = factor if len(product) == 1 else 2
    inside = any(axis in getattr(a, "free", ()) and a is not axis for a in atoms(terms))
    if step not in (1, -1) or inside:
        return None
    return terms - step * axis, values, step


def _linear(e: Expr, axis: Variable) -> tuple[Index | None, list[Expr]]:
    """An integer as an index and values of memory that do not vary along the axis."""
    if e.kind == "const" and e.dtype.is_integer:
        return e["value"], []
    if e.kind == "number" and not e.args:
        return e["index"], []
    if e.dtype.is_integer and axis not in e.free and not e.during:
        return 0, [e]
    return None, []


def _limit(name: str, a: Limit, b: Limit) -> Limit:
    return a if a == b else Bound(name, (a, b))


def _both(a: Span, b: Span) -> Span:
    return Span(_joined("max", a.lower, b.lower), _joined("min", a.upper, b.upper))


def _joined(name: str, a: Limit | None, b: Limit | None) -> Limit | None:
    return b if a is None else a if b is None else _limit(name, a, b)


def _hull(a: Span, b: Span) -> Span:
    """A range with everything that is in either."""
    lower = None if a.lower is None or b.lower is None else _limit("min", a.lower, b.lower)
    upper = None if a.upper is None or b.upper is None else _limit("max", a.upper, b.upper)
    return Span(lower, upper)


def _union(a: Span, b: Span) -> Span:
    """A range with nothing but what is in either: all of it where both are open to the same side."""
    same = (a.lower is None and b.lower is None) or (a.upper is None and b.upper is None)
    return _hull(a, b) if same else NOWHERE
