"""tt.map_elementwise: a function of scalars, which may branch, of every element or of some neighbours at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .build import Value
from .errors import CannotCompile
from .program import Node, Val
from .regions import Function
from .sinks import Sink
from .values import Buffer, Index

if TYPE_CHECKING:
    from .emit import Emitter


class Map(Sink):
    """Walks the packs of neighbours, which are those of the last dimension."""

    def __init__(self, emitter: Emitter, node: Node) -> None:
        self.pack = int(node.op.attribute("pack", "1"))
        *outer, last = node.operands[0].shape
        if last % self.pack:
            raise CannotCompile(f"of {self.pack} elements at a time, where a row has {last}", node.op)
        super().__init__(emitter, (*outer, last // self.pack))
        self.node, self.function = node, Function(emitter, node)
        self.buffers: list[Buffer] = [emitter.allocate(v.shape, v.type) for v in node.results]

    def inputs(self) -> Sequence[Val]:
        return self.node.operands  # type: ignore[union-attr]

    def results(self) -> Sequence[Val]:
        return self.node.results  # type: ignore[union-attr]

    def step(self, index: Index, carried: Sequence[Value]) -> Sequence[Value]:
        nest, places = self.nest, [self._place(index, i) for i in range(self.pack)]
        values = [nest.plain(nest.at(v, place)) for v in self.inputs() for place in places]
        results = iter(self.function([nest.vector(v) for v in values] if nest.lanes else values))
        for buffer in self.buffers:
            for place in places:
                nest.write(buffer, place, next(results))
        return ()

    def done(self) -> None:
        for val, buffer in zip(self.results(), self.buffers, strict=True):
            self.em.stored[val] = buffer

    def _place(self, index: Index, number: int) -> Index:
        """Where the pack's element of that number is."""
        first = self.nest.scaled(index[-1], self.pack)
        return (*index[:-1], self.nest.add(first, self.b.const(number, first.el)))
