"""What becomes of each axis in a kernel with contractions: which are tiled over programs, which are walked by a loop,
which are resident, and which a program has one index of.

    summed over in a contraction            a loop; resident if it is needed anew in another loop's rounds and is small
    reduced otherwise                       resident where sixteen rows of it fit, else a loop
    shared by both operands                 one index a program
    lacking in an output, or in a           resident, if small: a program would compute the contraction again for each
    contraction within a loop               of its tiles
    an operand's rows or columns            tiled; of several the longest, the others one index a program
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .index import Index, Symbol, Variable, evaluate, free
from .kernel import Role, padded
from .levels import nests_of
from .lower import Refusal, Write
from .products import Product, folds_inside, inner_folds, is_contraction, nested_axes, products_of
from .scalar import Expr, walk

SMALL = 256  # of an axis that is resident beside a tiled one
ROWS = 16  # the least rows of a product
RESIDENT = 16384  # elements of a tile that one program can keep in registers without spilling, on every target

Sizes = Mapping[str, int]


@dataclass
class Roles:
    """axes: each axis' role. inner: the reductions that run a loop of their own in every round of another. fixed: the
    sizes, by name, that have to be numbers for that."""

    axes: dict[Variable, Role] = field(default_factory=dict)
    inner: set[Expr] = field(default_factory=set)
    fixed: set[str] = field(default_factory=set)


def roles_of(writes: Sequence[Write], sizes: Sizes | None = None, typical: Sizes | None = None) -> Roles:
    """The roles of a kernel's axes, with sizes as in a call. Without them what is resident has a number for a size
    already; typical sizes tell then which of several axes is long. Raises Refusal where no roles fit."""
    return _Chooser(writes, sizes, typical or sizes or {}).run()


class _Chooser:
    def __init__(self, writes: Sequence[Write], sizes: Sizes | None, typical: Sizes) -> None:
        self.writes, self.sizes, self.typical = writes, sizes, typical
        self.products = products_of(writes)
        self.contractions = [e for e in walk([w.value for w in writes]) if is_contraction(e)]
        self.nested = nested_axes(writes)
        self.nests = nests_of(writes)
        self.reduced = {a for nest in self.nests for a in nest}
        self.found = Roles()

    def run(self) -> Roles:
        loops = [nest for nest in self.nests if not self._fits(nest)]
        looped = {a for nest in loops for a in nest}
        inner = folds_inside(self.writes, looped)
        folds = [e for e in walk([w.value for w in self.writes]) if e.is_fold]
        for nest in self.nests:
            own = [e for e in folds if set(e["axes"]) & set(nest)]
            if nest in loops and any(e in inner for e in own) and self._extent(nest, SMALL) is not None:
                loops = [n for n in loops if n is not nest]
        looped = {a for nest in loops for a in nest}
        for nest in self.nests:
            for axis in nest:
                self.found.axes[axis] = ("loop" if axis is nest[-1] else "step") if nest in loops else "block"
        self.found.inner = {e for e in inner_folds(self.writes, looped) if set(e["axes"]) & looped}
        self._outputs(looped)
        self._fix()
        return self.found

    # -- reduced axes

    def _fits(self, nest: Sequence[Variable]) -> bool:
        if any(set(p.axes) & set(nest) for p in self.products) or self.nested & set(nest):
            return False
        beside = any((p.rows | p.columns) & set(nest) for p in self.products)
        written = any(set(w.axes) & set(nest) for w in self.writes)
        known = all(isinstance(a.extent, int) for a in nest)
        if not known and not written:
            return False
        return self._extent(nest, RESIDENT // (ROWS if beside else 1)) is not None

    def _extent(self, axes: Iterable[Variable], most: int) -> int | None:
        """The elements of a tile of whole axes, None if they are too many or not known."""
        total = 1
        for axis in axes:
            n = self._known(axis.extent)
            if n is None:
                return None
            total *= padded(n)
        return total if total <= most else None

    def _known(self, extent: Index) -> int | None:
        if isinstance(extent, int):
            return extent
        return None if self.sizes is None else evaluate(extent, self.sizes)

    # -- the axes of outputs

    def _outputs(self, looped: set[Variable]) -> None:
        outer = list(dict.fromkeys(a for w in self.writes for a in w.axes if a not in self.reduced))
        batch = {a for p in self.products for a in p.batch}
        if batch & self.reduced or not all(batch <= set(w.axes) for w in self.writes):
            raise Refusal("a program would compute several matrices of a batch")
        again = inner_folds(self.writes, looped)
        for axis in outer:
            everywhere = all(axis in w.axes for w in self.writes)
            lacking = any(axis not in e.free for e in self.contractions if e in again)
            if not everywhere or (lacking and axis not in batch):
                if self._extent((axis,), SMALL) is not None:
                    self.found.axes[axis] = "block"
                    continue
                if not everywhere:
                    raise Refusal("the outputs are not over the same programs")
            self.found.axes[axis] = "one"
        tiled = {self._longest(side) for p in self.products for side in self._sides(p, outer, batch)}
        for axis in tiled - {None}:
            assert axis is not None
            self.found.axes[axis] = "grid"

    def _sides(self, p: Product, outer: Sequence[Variable], batch: set[Variable]) -> list[list[Variable]]:
        """Of each operand the axes that are its own, if none of them is a tile yet."""
        sides = []
        for own in (p.rows, p.columns):
            if not any(self.found.axes.get(a) in ("block", "loop") for a in own):
                sides.append([a for a in outer if a in own and a not in batch])
        return sides

    def _longest(self, axes: Sequence[Variable]) -> Variable | None:
        taken = [a for a in axes if self.found.axes[a] == "grid"]
        return next(iter(taken), max(axes, key=self._length, default=None))

    def _length(self, axis: Variable) -> float:
        """About how long an axis is."""
        sizes = {s.name for s in free(axis.extent) if isinstance(s, Symbol)}
        return evaluate(axis.extent, self.typical) if sizes <= self.typical.keys() else math.inf

    def _fix(self) -> None:
        for axis, role in self.found.axes.items():
            if role == "block" and not isinstance(axis.extent, int):
                if self.sizes is None:
                    raise Refusal(f"{axis} is resident, and its size is not known")
                self.found.fixed |= {s.name for s in free(axis.extent) if isinstance(s, Symbol)}
