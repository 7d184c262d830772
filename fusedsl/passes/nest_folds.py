"""A reduction over rows and columns, where another is over columns alone, becomes one over rows of one over columns.

A mean of losses, each of a row with its own maximum, then has a loop over rows around one over columns, and what is
reduced over columns is one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..lower import Origin, Write, follow
from ..products import is_contraction
from ..scalar import Expr, Free, make, rebuilt, walk


def nest_folds(writes: Sequence[Write], origin: Origin | None = None) -> list[Write]:
    """The writes with reductions nested as others of some of their axes are."""
    order = walk([w.value for w in writes])
    sets = list(dict.fromkeys(frozenset(e["axes"]) for e in order if e.kind == "reduce"))
    memo: dict[Expr, Expr] = {}
    for e in order:
        memo[e] = _nested(rebuilt(e, memo), sets)
    follow(origin, memo)
    return [replace(w, value=memo[w.value]) for w in writes]


def _nested(e: Expr, sets: Sequence[Free]) -> Expr:
    if e.kind != "reduce" or is_contraction(e):
        return e
    axes = frozenset(e["axes"])
    columns = next((s for s in sets if s < axes), None)
    if columns is None:
        return e
    rest = {name: value for name, value in e.attrs.items() if name != "axes"}
    inside = make("reduce", e.dtype, e.args, e.op, axes=tuple(a for a in e["axes"] if a in columns), **rest)
    return make("reduce", e.dtype, (inside,), e.op, axes=tuple(a for a in e["axes"] if a not in columns), **rest)
