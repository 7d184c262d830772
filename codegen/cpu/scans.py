"""tt.scan: within a chunk in log2(lanes) steps, and from chunk to chunk by what the last lane holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .analysis import axis_of
from .build import Value
from .program import Node, Val
from .sinks import Combiner, Sink
from .values import Affine, Buffer, Index, Lane

if TYPE_CHECKING:
    from .emit import Emitter


class Scan(Sink):
    """Every element combined with all before it, or with all after it."""

    def __init__(self, emitter: Emitter, node: Node) -> None:
        super().__init__(emitter, node.operands[0].shape)
        self.node = node
        self.axis = axis_of(node)
        self.combine = Combiner(emitter, node)
        self.reverse = node.op.attribute("reverse", "false") == "true"
        self.long = self.shape[self.axis] > 1
        self.peels = self.long
        self.carries = len(node.operands) if self.long else 0
        self.buffers: list[Buffer] = [emitter.allocate(v.shape, v.type) for v in node.results]

    def inputs(self) -> Sequence[Val]:
        return self.node.operands  # type: ignore[union-attr]

    def results(self) -> Sequence[Val]:
        return self.node.results  # type: ignore[union-attr]

    def start(self, index: Index) -> Sequence[Value]:
        return self._next(index, None) if self.long else ()

    def step(self, index: Index, carried: Sequence[Value]) -> Sequence[Value]:
        return self._next(index, carried if self.long else None)[: self.carries]

    def done(self) -> None:
        for val, buffer in zip(self.results(), self.buffers, strict=True):
            self.em.stored[val] = buffer

    def _next(self, index: Index, carried: Sequence[Value] | None) -> Sequence[Value]:
        """Scans the elements at an index, keeps them, and gives what the next ones continue."""
        nest, b = self.nest, self.b
        place = self._place(index)
        values = [nest.vector(nest.at(v, place)) if nest.lanes else nest.at(v, place) for v in self.inputs()]
        along = self.axis == nest.chunked and nest.lanes is not None
        if along:
            values = self._within(values)
            if carried is not None:
                values = self.combine([b.splat(c, nest.lanes) for c in carried], values)
        elif carried is not None:
            values = self.combine(carried, values)
        for buffer, value in zip(self.buffers, values, strict=True):
            nest.write(buffer, place, value)
        last = 0 if self.reverse else (nest.lanes or 1) - 1
        return [b.extract(v, last) for v in values] if along else values

    def _place(self, index: Index) -> Index:
        """Where to go next: from the end if the scan runs backwards."""
        if not self.reverse or not self.long:
            return index
        assert self.axis is not None
        b, here = self.b, index[self.axis]
        extent = self.shape[self.axis]
        mirrored: Lane
        if isinstance(here, Affine):
            mirrored = Affine(b.sub(b.const(extent - (self.nest.lanes or 1), "i32"), here.base), 1)
        else:
            mirrored = b.sub(b.const(extent - 1, "i32"), here)
        return (*index[: self.axis], mirrored, *index[self.axis + 1 :])

    def _within(self, values: list[Value]) -> list[Value]:
        b, n, step = self.b, values[0].lanes or 1, 1
        while step < n:
            if self.reverse:
                lanes = [lane + step if lane + step < n else lane for lane in range(n)]
                inside = [lane + step < n for lane in range(n)]
            else:
                lanes = [lane - step if lane >= step else lane for lane in range(n)]
                inside = [lane >= step for lane in range(n)]
            before = [b.shuffle(v, v, lanes) for v in values]
            mask = b.mask(inside)
            values = [b.select(mask, new, old) for new, old in zip(self.combine(before, values), values, strict=True)]
            step *= 2
        return values
