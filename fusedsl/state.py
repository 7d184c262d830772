"""What one pass of a loop carries, as one object: how it starts, what a round does, how two halves of the axis come
together, and what is made of it in the end.

The step is the loop. The merge is a split of the loop over programs, devices or a tree: both are made of the same
factor, that of the step, from each half's maximum to the common one. So merging is associative, and every way to cut an
axis gives the same state but for rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .algebra import counted, identity
from .index import Variable
from .levels import level
from .lower import Write
from .scalar import Expr, make, rebuild, walk


@dataclass(frozen=True)
class State:
    """folds: the reductions of one pass over the axes, each after those that it follows. writes: what is stored of
    them; they are the epilogue."""

    axes: tuple[Variable, ...]
    folds: tuple[Expr, ...]
    writes: tuple[Write, ...]

    def init(self, fold: Expr) -> Expr:
        """What a reduction is before the first round: the identity of how it combines."""
        return identity(fold)

    def step(self, fold: Expr, before: Mapping[Expr, Expr], now: Mapping[Expr, Expr]) -> tuple[Expr, Expr | None]:
        """What a round combines with a reduction, and the factor of what it has so far, or whether that counts on;
        before, now: the reductions before and after the round."""
        body, *shrink = (_at(part, before, now) for part in fold.args)
        return body, (shrink[0] if shrink else None)

    def merge(self, first: Mapping[Expr, Expr], second: Mapping[Expr, Expr]) -> dict[Expr, Expr]:
        """The reductions over two parts of the axis together, of those over each."""
        found: dict[Expr, Expr] = {}
        for fold in self.folds:
            parts = []
            for part in (first, second):
                factor = self.factor(fold, part, found)
                parts.append(counted(fold, part[fold], factor))
            found[fold] = make("combine", fold.dtype, tuple(parts), fold.op)
        return found

    def factor(self, fold: Expr, part: Mapping[Expr, Expr], whole: Mapping[Expr, Expr]) -> Expr | None:
        """What a reduction over a part of the axis is multiplied by to count in the whole, or whether it counts."""
        return _at(fold.args[1], part, whole) if len(fold.args) == 2 else None


def states_of(writes: Sequence[Write], axes: Sequence[Variable]) -> list[State]:
    """The state of each pass over these axes, as the writes stand."""
    memo: dict[Expr, int] = {}
    passes: dict[int, list[Expr]] = {}
    for e in walk([w.value for w in writes]):
        if e.kind == "reduce" and set(e["axes"]) & set(axes):
            passes.setdefault(level(e, axes, memo), []).append(e)
    return [State(tuple(axes), tuple(folds), tuple(writes)) for _, folds in sorted(passes.items())]


def _at(e: Expr, before: Mapping[Expr, Expr], now: Mapping[Expr, Expr]) -> Expr:
    """An expression with reductions as they are at two times. What does not change during the pass stays."""
    memo: dict[Expr, Expr] = {}
    times = {"before": before, "now": now}
    for part in walk([e], lambda part: bool(part.during) and part.kind not in times):
        if part.kind in times:
            memo[part] = times[part.kind][part.args[0]]
        else:
            memo[part] = rebuild(part, tuple(map(memo.__getitem__, part.args))) if part.during else part
    return memo[e]
