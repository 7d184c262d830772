"""A loop cut among programs, where a kernel has few: split-K, split-KV, a sum of everything.

Each program walks a part of the axis and leaves in memory what its reductions come to there. The last one of a tile's
programs to arrive puts the parts together, in the order of the axis, so that the result does not depend on who was
last: each reduction becomes one over the parts, every part times the factor that the loop itself has, from its own
maximum to that of all. What is stored is then made of them as before.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from typing import NamedTuple

from .algebra import counted
from .index import Index, Symbol, Variable, poly
from .ir import OPS, Node, intern
from .kernel import Buffer
from .levels import passes
from .lower import Write
from .scalar import Expr, Free, make, rebuilt, walk
from .state import State, states_of
from .types import Type, i32

Nest = tuple[Variable, ...]


class Count(NamedTuple):
    """The sizes that a kernel with a loop in parts has of its own: how many parts there are, and of how many results
    they are, each of which is one program's tile."""

    splits: Symbol
    tiles: Symbol


@dataclass(frozen=True)
class Split:
    """loop: the axis that is cut. axis: which part of it a program walks; parts: all of them, as they are put together.
    left: what each program leaves in memory. writes: what is stored, in terms of that. buffers: that memory. arrivals:
    how many programs have left it. whole: each reduction over a part -> over all."""

    loop: Variable
    axis: Variable
    parts: Variable
    left: tuple[Write, ...]
    writes: tuple[Write, ...]
    buffers: Mapping[Node, Buffer]
    arrivals: Buffer
    whole: Mapping[Expr, Expr]


def loop_to_split(writes: Sequence[Write], loops: Sequence[Nest], inner: Collection[Expr]) -> Nest | None:
    """The loop of a kernel's own that can be cut, of several the one with most loops inside; None if there is none: it
    takes one pass, needs nothing of another loop, and all that it gives is what its reductions come to. inner: the
    reductions of loops in other loops."""
    folds = [e for e in walk([w.value for w in writes]) if e.is_fold]
    own = [e for e in folds if e not in inner and any(set(e["axes"]) & set(nest) for nest in loops)]
    found = [nest for nest in loops if _is_splittable(nest, writes, folds, own)]
    return max(found, key=lambda nest: len(_bound(nest, folds)), default=None)


def _is_splittable(nest: Nest, writes: Sequence[Write], folds: Sequence[Expr], own: Sequence[Expr]) -> bool:
    if any(set(w.axes) & set(nest) for w in writes) or passes(writes, nest) > 1:
        return False
    mine = [e for e in folds if set(e["axes"]) & set(nest)]
    needed = {part for e in mine for part in walk(list(e.args))}
    others = [e for e in own if e not in mine]
    return all(e.kind == "reduce" and e in own for e in mine) and needed.isdisjoint(others)


def _bound(nest: Nest, folds: Sequence[Expr]) -> Free:
    """The axes of a loop and of those inside it."""
    return frozenset(nest).union(*(e.bound for e in folds if set(e["axes"]) & set(nest)))


def split_loop(
    writes: Sequence[Write],
    nest: Sequence[Variable],
    order: Sequence[Variable],
    sizes: Count,
    names: Mapping[Expr, str],
    taken: Collection[str],
    grid: Collection[Variable],
) -> Split:
    """The writes with their loop over a nest of axes cut into parts, by its outermost axis. order: of the axes of what
    lies in memory. names: of the reductions. taken: names of other tensors. grid: the axes that programs share out, and
    for each index of which something is left, so that no two programs write to one place."""
    splits, tiles = sizes
    (state,) = states_of(writes, nest)
    axis, parts = Variable("split", poly(splits)), Variable("part", poly(splits))
    buffers: dict[Expr, tuple[Buffer, Sequence[Variable]]] = {}
    taken = {*taken, "arrivals"}
    for fold in state.folds:
        name = fresh(f"{names[fold]}_parts", taken)
        taken.add(name)
        buffers[fold] = _workspace(fold, name, [a for a in order if a in fold.free or a in grid], splits)
    left = []
    for fold, (buffer, axes) in buffers.items():
        left.append(Write(buffer.node, (axis, *axes), (poly(axis), *map(poly, axes)), fold))
    loads = {fold: make("load", fold.dtype, (), tensor=buffer.node, index=(poly(parts), *map(poly, axes)))
             for fold, (buffer, axes) in buffers.items()}  # fmt: skip
    whole = _whole(state, loads, parts)
    memory = {buffer.node: buffer for buffer, _ in buffers.values()}
    node = intern(OPS["input"], (), {"name": "arrivals", "number": False}, Type(i32, (poly(tiles),)))
    arrivals = Buffer(node, "arrivals", i32, node.shape, (1,))
    return Split(nest[0], axis, parts, tuple(left), tuple(_with(writes, whole)), memory, arrivals, whole)


def fresh(name: str, taken: Collection[str]) -> str:
    """The name, with a number if it is taken."""
    return next(n for n in chain([name], (f"{name}_{i}" for i in count(2))) if n not in taken)


def _workspace(fold: Expr, name: str, axes: Sequence[Variable], splits: Symbol) -> tuple[Buffer, Sequence[Variable]]:
    """Memory for what a reduction comes to in each part, contiguous."""
    shape: tuple[Index, ...] = (poly(splits), *(a.extent for a in axes))
    strides: list[Index] = []
    for at in range(len(shape)):
        stride: Index = 1
        for n in shape[at + 1 :]:
            stride = stride * n
        strides.append(stride)
    node = intern(OPS["input"], (), {"name": name, "number": False}, Type(fold.dtype, shape))
    return Buffer(node, name, fold.dtype, shape, tuple(strides)), axes


def _whole(state: State, parts: Mapping[Expr, Expr], axis: Variable) -> dict[Expr, Expr]:
    """The reductions over all parts, of those over each, which vary along an axis."""
    found: dict[Expr, Expr] = {}
    for fold in state.folds:
        body = counted(fold, parts[fold], state.factor(fold, parts, found))
        assert fold.op is not None
        op = OPS["reduce_sum"] if fold.op.contracts else fold.op
        found[fold] = make("reduce", fold.dtype, (body,), op, axes=(axis,))
    return found


def _with(writes: Sequence[Write], whole: Mapping[Expr, Expr]) -> list[Write]:
    """The writes with other expressions in the place of some."""
    memo = dict(whole)
    for e in walk([w.value for w in writes], lambda e: e not in whole):
        if e not in memo:
            memo[e] = rebuilt(e, memo)
    return [replace(w, value=memo[w.value]) for w in writes]
