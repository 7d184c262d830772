"""tt.histogram: how often each of the numbers 0 .. n - 1 is in a tensor, counted one element after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .build import Value, bytes_of
from .program import Node, Val
from .sinks import Sink
from .values import Buffer, Index, Pointer

if TYPE_CHECKING:
    from .emit import Emitter


class Histogram(Sink):
    """Adds one to the count of each element's number; a number outside of the range is not counted."""

    one_by_one = True

    def __init__(self, emitter: Emitter, node: Node, counts: Buffer) -> None:
        super().__init__(emitter, node.operands[0].shape)
        self.counted, self.counts = node.operands[0], counts
        self.mask = node.operands[1:]

    def inputs(self) -> Sequence[Val]:
        return (self.counted,)

    def masks(self) -> Sequence[Val]:
        return self.mask

    def step(self, index: Index, carried: Sequence[Value]) -> Sequence[Value]:
        b, nest = self.b, self.nest
        number = nest.plain(nest.at(self.counted, index))
        (bins,) = self.counts.shape
        inside = b.cmpi("ult", number, b.const(bins, number.el))
        for mask in self.mask:
            inside = b.and_(inside, nest.plain(nest.at(mask, index)))

        def count() -> None:
            place = Pointer(self.counts.start, b.resize(number, "i64"), self.counts.element)
            spot = nest.spot(place, self.counts.el)
            b.store(b.add(b.load(spot, self.counts.el), b.const(1, self.counts.el)), spot)

        b.branch(inside, count)
        return ()


def write(em: Emitter, node: Node) -> None:
    b, result = em.b, node.result
    counts = em.allocate(result.shape, result.type)
    em.flush()
    (bins,) = result.shape
    b.fill(counts.start, 0, bins * bytes_of(counts.el))
    em.add(Histogram(em, node, counts))
    em.flush()
    em.stored[result] = counts
    em.done.add(node)
