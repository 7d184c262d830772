"""Loop nests over a shape, in which sinks evaluate what they need.

The last long dimension is walked in chunks of `lanes` elements. What depends on the other dimensions only is computed
once a row, because the builder puts it there.

    for i in 0 .. I:                       rows
        bounds of the masks                `offs < n` holds for the first n - start lanes
        for k in 0 .. full step W:         every lane is in: the masks are true
        for k in full .. some step W:      at most one chunk, with masks as vectors
        for k in some .. K step W:         no lane is in: the masks are false; often nothing is left to do
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .analysis import VIEWS
from .build import Value, bits_of
from .program import Node
from .values import Affine, Evaluator, Index, Lane

if TYPE_CHECKING:
    from .emit import Emitter
    from .sinks import Sink


@dataclass(frozen=True)
class Bound:
    """A comparison that holds for the first `lanes` lanes of a row and for none from `ends` on (i32), or one that
    `condition` decides for the whole row."""

    key: tuple
    lanes: Value | None = None
    ends: Value | None = None
    condition: Value | None = None


class Nest(Evaluator):
    """Loops over a shape, and what the sinks do inside of them."""

    def __init__(self, emitter: Emitter, sinks: Sequence[Sink]) -> None:
        self.sinks = sinks
        self.shape = shape = sinks[0].shape
        axis = next((sink.axis for sink in sinks if sink.axis is not None), None)
        preferred = next((d for sink in sinks if (d := sink.prefers()) is not None), None) if axis is None else None
        self.chunked = None if any(sink.one_by_one for sink in sinks) else chunked_dim(shape, preferred)
        extent = shape[self.chunked] if self.chunked is not None else 1
        unroll = 2 if emitter.has_dot else 4
        most = min(emitter.machine.lanes * unroll, *(sink.most_lanes for sink in sinks))
        lanes = min(extent, most) if self.chunked is not None else None
        super().__init__(emitter, lanes)
        self.axis = axis if axis is not None and shape[axis] > 1 else None
        self.inner_axis = self.axis if self.axis != self.chunked else None
        self.unset = Value("%unset", "i32", None, 0)  # the inner axis's index before its loop
        self.rows = [d for d, n in enumerate(shape) if n > 1 and d not in (self.chunked, self.inner_axis)]

    def run(self) -> None:
        for sink in self.sinks:
            sink.nest = self
        index: list[Lane] = [self.b.const(0, "i32")] * len(self.shape)
        if self.inner_axis is not None:
            index[self.inner_axis] = self.unset
        self._rows(0, index)

    def _rows(self, at: int, index: list[Lane]) -> None:
        if at == len(self.rows):
            self._row(index)
            return
        d = self.rows[at]

        def body(i: Value) -> Sequence[Value]:
            self._rows(at + 1, [*index[:d], i, *index[d + 1 :]])
            return []

        self._loop(self.b.const(0, "i32"), self.b.const(self.shape[d], "i32"), 1, [], body)

    def _loop(
        self, start: Value, stop: Value, step: int, carried: Sequence[Value], body: Callable[..., Sequence[Value]]
    ) -> list[Value]:
        if start.constant is not None and stop.constant is not None and start.constant >= stop.constant:
            return list(carried)
        return self.b.loop(start, stop, self.b.const(step, "i32"), carried, body)

    def _row(self, index: list[Lane]) -> None:
        """Everything along the chunked dimension."""
        if self.chunked is None:
            self._finish(index, self._innermost(index, self._start(index)))
            return
        bounds = self._bounds(index) if self.lanes is not None else []
        uniform = [bound for bound in bounds if bound.condition is not None]
        ranges = [bound for bound in bounds if bound.lanes is not None]
        if not uniform:
            self._segments(index, ranges)
            return
        holds = uniform[0].condition
        for bound in uniform[1:]:
            holds = self.b.and_(holds, bound.condition)  # type: ignore[arg-type]

        scalars = [val for sink in self.sinks for val in sink.scalars()]

        def yes() -> Sequence[Value]:
            with self.assuming({bound.key: True for bound in uniform}):
                self._segments(index, ranges)
            return [self.em.plain(val) for val in scalars]

        def no() -> Sequence[Value]:
            with self.assuming({uniform[0].key: False} if len(uniform) == 1 else {}):
                self._segments(index, [])
            return [self.em.plain(val) for val in scalars]

        results = self.b.branch(holds, yes, no)  # type: ignore[arg-type]
        self.em.scalars.update(zip(scalars, results, strict=True))

    def _segments(self, index: list[Lane], ranges: list[Bound]) -> None:
        d = self.chunked
        assert d is not None and self.lanes is not None
        b, extent, lanes = self.b, self.shape[d], self.lanes
        zero, end = b.const(0, "i32"), b.const(extent, "i32")
        carried = self._start(index) if self.inner_axis is None else []
        first = zero
        if self.inner_axis is None and self._peels():
            first = b.const(lanes, "i32")  # the first chunk is where they start
            ranges = []
        if not ranges:
            carried = self._chunks(first, end, index, carried, {})
        else:
            in_all = ranges[0].lanes
            for bound in ranges[1:]:
                in_all = b.binary("minsi", in_all, bound.lanes)  # type: ignore[arg-type]
            full = b.and_(in_all, b.const(-lanes, "i32"))  # type: ignore[arg-type]
            carried = self._chunks(zero, full, index, carried, {bound.key: True for bound in ranges})
            if len(ranges) > 1:
                carried = self._chunks(full, end, index, carried, {})
            else:
                ends = ranges[0].ends
                some = b.and_(b.add(ends, b.const(lanes - 1, "i32")), b.const(-lanes, "i32"))  # type: ignore[arg-type]
                carried = self._chunks(full, some, index, carried, {})
                absent = {ranges[0].key: False}
                if not all(sink.skips(absent) for sink in self.sinks):
                    carried = self._chunks(some, end, index, carried, absent)
        if self.inner_axis is None:
            self._finish(index, carried)

    def _chunks(
        self, start: Value, stop: Value, index: list[Lane], carried: Sequence[Value], assume: dict
    ) -> list[Value]:
        d = self.chunked
        assert d is not None and self.lanes is not None

        def body(at: Value, *inner: Value) -> Sequence[Value]:
            here = [*index[:d], Affine(at, 1), *index[d + 1 :]]
            with self.assuming(assume):
                if self.inner_axis is None:
                    return self._innermost(here, list(inner))
                self._finish(here, self._innermost(here, self._start(here)))
                return []

        return self._loop(start, stop, self.lanes, carried, body)

    def _innermost(self, index: list[Lane], carried: list[Value]) -> list[Value]:
        d = self.inner_axis
        if d is None:
            return self._steps(tuple(index), carried)
        b = self.b
        first = b.const(1 if self._peels() else 0, "i32")
        return self._loop(first, b.const(self.shape[d], "i32"), 1, carried,
                          lambda i, *inner: self._steps((*index[:d], i, *index[d + 1 :]), list(inner)))  # fmt: skip

    def _steps(self, index: Index, carried: list[Value]) -> list[Value]:
        result: list[Value] = []
        for sink in self.sinks:
            mine = carried[len(result) : len(result) + sink.carries]
            result += sink.step(index, mine)
        return result

    def _start(self, index: list[Lane]) -> list[Value]:
        """What is carried into the loop. Where a sink needs the first elements for that, all take them."""
        peels, first = self._peels(), list(index)
        if self.inner_axis is not None:
            first[self.inner_axis] = self.b.const(0, "i32")
        elif self.chunked is not None and self.axis is not None:
            first[self.chunked] = Affine(self.b.const(0, "i32"), 1)
        carried: list[Value] = []
        for sink in self.sinks:
            mine = sink.start(tuple(first))
            carried += sink.step(tuple(first), mine) if peels and not sink.peels else mine
        return carried

    def _peels(self) -> bool:
        return self.axis is not None and any(sink.peels for sink in self.sinks)

    def _finish(self, index: list[Lane], carried: list[Value]) -> None:
        at = 0
        for sink in self.sinks:
            sink.finish(tuple(index), carried[at : at + sink.carries])
            at += sink.carries

    # -- assumptions

    def assuming(self, facts: dict) -> _Assuming:
        return _Assuming(self, facts)

    def _bounds(self, index: list[Lane]) -> list[Bound]:
        """The masks of the sinks whose outcome can be told before the row is walked."""
        d = self.chunked
        assert d is not None
        b = self.b
        probe = (*index[:d], Affine(b.const(0, "i32"), 1), *index[d + 1 :])
        found: dict[tuple, Bound] = {}
        self._leaves = set()
        for node, at in self._comparisons(probe):
            key = (node, self.pattern(at))
            if key not in found:
                bound = self._bound(node, at, key)
                if bound is not None:
                    found[key] = bound
        self._leaves = {key[0] for key in found}
        self._assumable = {}
        return list(found.values())

    def _comparisons(self, probe: Index) -> Iterator[tuple[Node, Index]]:
        """Comparisons that are masks or conditions of what the sinks evaluate, with the index they are made at."""
        seen: set[tuple] = set()
        queue = [(val, probe, False) for sink in self.sinks for val in sink.inputs()]
        queue += [(val, probe, True) for sink in self.sinks for val in sink.masks()]
        while queue:
            val, index, is_mask = queue.pop()
            key = (val, self.pattern(index), is_mask)
            node = val.node
            if key in seen or node is None or val in self.em.stored or not self.em.facts.is_virtual(node):
                continue
            seen.add(key)
            if is_mask and node.name == "arith.cmpi" and not any(i is self.unset for i in index):
                yield node, index
                continue
            passes = is_mask and (node.name in VIEWS or node.name == "arith.andi")
            for at, (operand, inner) in enumerate(zip(node.operands, self.operands_at(node, index), strict=True)):
                masks = (node.name == "tt.load" and at == 1) or (node.name == "arith.select" and at == 0)
                queue.append((operand, inner, masks or passes))

    def _bound(self, node: Node, index: Index, key: tuple) -> Bound | None:
        predicate = node.op.text.split()[0].rstrip(",")
        if predicate not in _FLIPPED:
            return None
        if self.em.facts.cost(node.result) > 8:
            return None
        a, c = (self.at(v, index) for v in node.operands)
        if isinstance(a, Value) and isinstance(c, Value) and a.lanes is None and c.lanes is None:
            condition = self.em.apply(node, [a, c])
            return None if condition.constant is not None else Bound(key, condition=condition)
        if isinstance(c, Affine):
            a, c, predicate = c, a, _FLIPPED[predicate]
        if not (isinstance(a, Affine) and a.stride == 1 and a.exact is None and isinstance(c, Value)):
            return None
        if c.lanes is not None or predicate not in ("slt", "sle"):
            return None
        return self._bound_of_lanes(key, a.base, c, predicate == "sle")

    def _bound_of_lanes(self, key: tuple, base: Value, bound: Value, inclusive: bool) -> Bound:
        """How many lanes of a row, counted from `base`, are below the bound. Of a row that wraps around past the
        greatest number nothing is known: no lane is sure to be in, and none to be out."""
        b = self.b
        assert self.chunked is not None
        extent = self.shape[self.chunked]
        below = b.sub(b.resize(bound, "i64"), b.resize(base, "i64"))
        if inclusive:
            below = b.add(below, b.const(1, "i64"))
        inside = b.binary("minsi", b.binary("maxsi", below, b.const(0, "i64")), b.const(extent, "i64"))
        lanes = b.resize(inside, "i32")
        last = (1 << (bits_of(base.el) - 1)) - extent
        wraps = b.cmpi("sgt", base, b.const(last, base.el))
        return Bound(key, b.select(wraps, b.const(0, "i32"), lanes), b.select(wraps, b.const(extent, "i32"), lanes))


_FLIPPED = {"slt": "sgt", "sgt": "slt", "sle": "sge", "sge": "sle"}


class _Assuming:
    """While it is entered, comparisons have a known outcome."""

    def __init__(self, nest: Nest, facts: dict) -> None:
        self.nest, self.facts = nest, facts

    def __enter__(self) -> None:
        nest = self.nest
        self.before = nest.assumed, nest.state, nest.floor
        if self.facts:
            nest.assumed = {**nest.assumed, **self.facts}
            nest.em.states += 1
            nest.state = nest.em.states
            nest.floor = nest.b.depth

    def __exit__(self, *_: object) -> None:
        self.nest.assumed, self.nest.state, self.nest.floor = self.before


def chunked_dim(shape: Sequence[int], preferred: int | None = None) -> int | None:
    """The dimension that is walked in vectors: the preferred or the last one if it is long enough, else the longest;
    None if there is one element."""
    long = [d for d, n in enumerate(shape) if n > 1]
    if not long:
        return None
    for d in (preferred, long[-1]):
        if d is not None and shape[d] >= 8:
            return d
    return max(long, key=lambda d: (shape[d], d))
