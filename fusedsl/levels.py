"""In which pass over reduced axes each value is computed.

The level of a value with respect to reduced axes is the pass over them that computes it (FuseMax's count of passes)::

    a reduction over the axes      its body's level, at least 1
    varies along the axes          the latest of its parts, one more for a part known only after a pass
    changes in its rounds          the level of the reduction
    does not                       the latest of its parts
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .index import Variable
from .lower import Write
from .scalar import Expr, walk


@dataclass(frozen=True)
class Nest:
    """Axes that are reduced together, the innermost last."""

    axes: tuple[Variable, ...]
    resident: bool

    def __contains__(self, axis: Variable) -> bool:
        return axis in self.axes


def nests_of(writes: Sequence[Write]) -> list[tuple[Variable, ...]]:
    """The groups of axes that some reduction binds together, or a scan runs along, in order of appearance."""
    groups: list[list[Variable]] = []
    for e in walk([w.value for w in writes]):
        if not e.is_fold:
            continue
        touching = [g for g in groups if any(a in g for a in e["axes"])]
        merged = list(dict.fromkeys([a for g in touching for a in g] + list(e["axes"])))
        groups = [g for g in groups if g not in touching] + [merged]
    return [tuple(g) for g in groups]


def level(e: Expr, nest: Iterable[Variable], memo: dict[Expr, int]) -> int:
    """The pass over the nest's axes that computes e, 0 if none is needed."""
    axes = frozenset(nest)
    for part in walk([e]):
        if part in memo:
            continue
        if part.kind == "reduce" and axes & set(part["axes"]):
            memo[part] = max(1, *(memo[a] for a in part.args))
        elif axes & part.during and part.kind in ("now", "before"):
            memo[part] = memo[part.args[0]]
        elif axes & (part.free | part.during):
            memo[part] = max([1, *(memo[c] + (0 if axes & (c.free | c.during) else 1) for c in part.children)])
        else:
            memo[part] = max((memo[c] for c in part.children), default=0)
    return memo[e]


def passes(writes: Sequence[Write], nest: Sequence[Variable]) -> int:
    """How many times the axes have to be walked."""
    memo: dict[Expr, int] = {}
    count = 1
    for w in writes:
        count = max(count, level(w.value, nest, memo) + (1 if _after(w, nest, memo) else 0))
    return max([count, *(memo[e] for e in memo if e.kind == "reduce")])


def _after(w: Write, nest: Sequence[Variable], memo: dict[Expr, int]) -> bool:
    """Whether a write over the axes stores a value that is known only after a pass and does not vary along them."""
    return bool(_write_axes(w) & set(nest)) and not (w.value.free & set(nest)) and memo[w.value] > 0


def _write_axes(w: Write) -> set[Variable]:
    return set(w.axes)
