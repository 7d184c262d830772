"""Which axes are one: the rule that lets several outputs and reductions share a loop.

A binder is a reduction, a scan or a write. The scope of an axis is every axis free in the bodies of its binders. Two
axes become one if and only if

1. extent: their extents are equal;
2. evidence: two loads of one tensor become the same load under the substitution, all its pairs at once;
3. capture: neither axis is in the scope of the other, so that renaming bound and free uses alike is legal.

That joins the max, the sum and the quotient of a softmax over the row, and keeps `y @ y.T` two-axed.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from ..index import Atom, Index, Poly, Quotient, Variable, poly
from ..lower import Origin, Write, rename
from ..scalar import Expr, Loaded, indices, walk

Pairs = list[tuple[Variable, Variable]]


def unify_axes(writes: list[Write], origin: Origin | None = None) -> list[Write]:
    """The writes with axes renamed until no two more can be one."""
    while True:
        mapping = _first_union(writes)
        if not mapping:
            return writes
        writes = rename(writes, mapping, origin)


def _first_union(writes: list[Write]) -> dict[Atom, Index]:
    """The axes to rename for the first pair of loads that can become one load."""
    by_tensor: dict = {}
    for e in walk([w.value for w in writes]):
        if e.kind == "load":
            by_tensor.setdefault(e["tensor"], []).append(e)
    scopes = _scopes(writes)
    for loads in by_tensor.values():
        for a, b in combinations(loads, 2):
            pairs = match_loads(a, b)
            if pairs:
                mapping = _union(pairs, scopes)
                if mapping:
                    return mapping
    return {}


def _scopes(writes: list[Write]) -> dict[Variable, set[Variable]]:
    scopes: dict[Variable, set[Variable]] = {}
    for w in writes:
        for axis in w.axes:
            scopes.setdefault(axis, set()).update(w.value.free, w.axes)
    for e in walk([w.value for w in writes]):
        if e.is_fold:
            for axis in e["axes"]:
                scopes.setdefault(axis, set()).update(e.args[0].free, e["axes"])
    return scopes


def _union(pairs: Pairs, scopes: dict[Variable, set[Variable]]) -> dict[Atom, Index]:
    """The substitution of all the pairs, or nothing if one of them is not legal."""
    parent: dict[Variable, Variable] = {}
    members: dict[Variable, set[Variable]] = {}

    def find(a: Variable) -> Variable:
        while a in parent:
            a = parent[a]
        return a

    def scope(group: set[Variable]) -> set[Variable]:
        return set().union(*(scopes.get(m, set()) for m in group))

    for left, right in pairs:
        a, b = find(left), find(right)
        if a is b:
            continue
        mine, theirs = members.get(a, {a}), members.get(b, {b})
        if a.extent != b.extent or mine & scope(theirs) or theirs & scope(mine):
            return {}
        parent[b] = a
        members[a] = mine | theirs
    return {v: poly(find(v)) for v in list(parent)}


def match_loads(a: Expr, b: Expr) -> Pairs | None:
    """The axes to make equal so that two loads are the same, None if none would do."""
    pairs: Pairs = []
    return pairs if _match(a, b, pairs) and pairs else None


def _match(a: Expr, b: Expr, pairs: Pairs) -> bool:
    if a is b:
        return True
    if (a.kind, a.op, a.dtype, len(a.args)) != (b.kind, b.op, b.dtype, len(b.args)) or a.is_fold:
        return False
    mine, theirs = indices(a), indices(b)
    if len(mine) != len(theirs):
        return False
    if a.kind == "load":
        if a["tensor"] is not b["tensor"]:
            return False
    elif not mine and a._attrs != b._attrs:
        return False
    return all(_match_index(i, j, pairs) for i, j in zip(mine, theirs, strict=True)) and all(
        _match(x, y, pairs) for x, y in zip(a.args, b.args, strict=True)
    )


def _match_index(p: Index, q: Index, pairs: Pairs) -> bool:
    """First-order matching, term by term: terms pair up by the part of them that is not an axis."""
    if p == q:
        return True
    if not isinstance(p, Poly) or not isinstance(q, Poly):
        return False
    mine, theirs = sorted(_terms(p), key=lambda t: t[0]), sorted(_terms(q), key=lambda t: t[0])
    if [t[0] for t in mine] != [t[0] for t in theirs]:
        return False
    return all(
        _match_atoms(x, y, pairs)
        for (_, xs), (_, ys) in zip(mine, theirs, strict=True)
        for x, y in zip(xs, ys, strict=True)
    )


def _terms(p: Poly) -> Iterator[tuple[tuple, list[Atom]]]:
    for product, factor in p.terms:
        moving: list[Atom] = [a for a in product if isinstance(a, (Variable, Quotient, Loaded))]
        still = tuple(a.key for a in product if a not in moving)
        yield (still, factor, tuple(type(a).__name__ for a in moving)), moving


def _match_atoms(x: Atom, y: Atom, pairs: Pairs) -> bool:
    if x is y:
        return True
    if isinstance(x, Variable) and isinstance(y, Variable):
        pairs.append((x, y))
        return True
    if isinstance(x, Loaded) and isinstance(y, Loaded):
        return x.below == y.below and _match(x.expr, y.expr, pairs)
    if isinstance(x, Quotient) and type(x) is type(y):
        return _match_index(x.dividend, y.dividend, pairs) and x.divisor == y.divisor  # type: ignore[attr-defined]
    return False
