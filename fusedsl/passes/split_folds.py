"""A reduction over a row that is put together of pieces is the pieces' reductions together.

A softmax over scores and a learned score beside them, `cat([q @ k.mT, sink], -1)`, has its maximum over an axis one
longer than the keys. Piece by piece the keys' axis is the one of the product with the values, and all is one loop. A
product with what is chosen piece by piece, such as weights in several tensors, is a sum of products. Scores with keys
of two tensors are cut nowhere: one loop walks them all, and chooses value by value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..algebra import apply
from ..index import Index, Variable, is_less, poly
from ..lower import Origin, Write, follow
from ..products import is_contraction
from ..scalar import Expr, make, rebuilt, substitute, walk
from .split_axes import MOST_PIECES, cut_of


def split_folds(writes: Sequence[Write], origin: Origin | None = None) -> list[Write]:
    """The writes with contractions, and reductions of what they give, cut where their bodies are chosen piece by
    piece."""
    exprs = walk([w.value for w in writes])
    whole = _whole(exprs)
    memo: dict[Expr, Expr] = {}
    for e in exprs:
        new = rebuilt(e, memo)
        memo[e] = new if e.kind == "reduce" and e["axes"][0].extent in whole else _split(new, MOST_PIECES)
    follow(origin, memo)
    return [replace(w, value=memo[w.value]) for w in writes]


def _whole(exprs: Sequence[Expr]) -> set[Index]:
    """The lengths of rows that stay whole: a maximum over two loops would be known after both, and what needs it could
    be in neither."""
    found: set[Index] = set()
    for e in exprs:
        if e.kind == "reduce" and len(e["axes"]) == 1 and not is_contraction(e):
            extent = e["axes"][0].extent
            if any(1 not in (cut, extent - cut) for cut in _cuts(e, *e["axes"])):
                found.add(extent)
    return found


def _split(e: Expr, most: int) -> Expr:
    if e.kind != "reduce" or len(e["axes"]) != 1 or most < 2:
        return e
    assert e.op is not None and e.op.reduction is not None
    (axis,) = e["axes"]
    cut = next(_cuts(e, axis), None)
    if cut is None:
        return e
    first, second = _piece(e, axis, 0, cut), _piece(e, axis, cut, axis.extent - cut)
    return apply(e.op.reduction.pairwise, _split(first, most - 1), _split(second, most - 1))


def _cuts(fold: Expr, axis: Variable) -> Iterator[Index]:
    """Where the body is another, in a contraction, or with one on a side."""
    parts = walk([fold.args[0]])
    if not is_contraction(fold) and not any(is_contraction(part) and axis in part.free for part in parts):
        return
    for e in parts:
        if e.kind == "less" and axis in e.free and e.args == ():
            cut = cut_of(e["a"] - e["b"], axis)
            if cut is not None and is_less(0, cut) and is_less(cut, axis.extent):
                yield cut


def _piece(e: Expr, axis: Variable, start: Index, length: Index) -> Expr:
    """The reduction over a part of its axis."""
    if length == 1:
        return substitute(e.args[0], {axis: start})
    part = Variable(axis.name, length)
    body = substitute(e.args[0], {axis: poly(part) + start})
    return make("reduce", e.dtype, (body,), e.op, **{**e.attrs, "axes": (part,)})
