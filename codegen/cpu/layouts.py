"""Operations that move elements to other places: join, split, cat, gather."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from .analysis import axis_of
from .build import Value
from .errors import REFUSED, CannotCompile
from .program import Node, Val
from .sinks import Save, Sink
from .values import Buffer, Index, rows_of

if TYPE_CHECKING:
    from .emit import Emitter


def write(em: Emitter, node: Node) -> None:
    """Writes an operation that none of the others is. Raises CannotCompile for one that is not known."""
    known = _WRITERS.get(node.name)
    if known is None:
        raise CannotCompile(REFUSED.get(node.name, "the CPU target does not have it"), node.op)
    known(em, node)
    em.done.add(node)


def _view(source: Buffer, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], em: Emitter) -> Buffer:
    start = em.b.gep(source.start, em.b.const(offset, "i64"), source.el)
    return replace(source, start=start, shape=shape, strides=strides)


def _join(em: Emitter, node: Node) -> None:
    """[..., n] and [..., n] -> [..., n, 2]"""
    result = node.result
    whole = em.allocate(result.shape, result.type)
    em.flush()
    for part, val in enumerate(node.operands):
        em.add(Save(em, val, _view(whole, part, val.shape, whole.strides[:-1], em)))
    em.flush()
    em.stored[result] = whole


def _split(em: Emitter, node: Node) -> None:
    """[..., n, 2] -> [..., n] and [..., n]"""
    source = em.dense(node.operands[0])
    for part, val in enumerate(node.results):
        em.stored[val] = _view(source, part, val.shape, source.strides[:-1], em)


def _cat(em: Emitter, node: Node) -> None:
    """[n] and [n] -> [2 n]"""
    whole = em.allocate(node.result.shape, node.result.type)
    em.flush()
    for part, val in enumerate(node.operands):
        em.add(Save(em, val, _view(whole, part * val.shape[0] * whole.strides[0], val.shape, rows_of(val.shape), em)))
    em.flush()
    em.stored[node.result] = whole


class _Gather(Sink):
    """tt.gather: elements of a tensor at places along an axis."""

    def __init__(self, emitter: Emitter, node: Node, source: Buffer) -> None:
        super().__init__(emitter, node.result.shape)
        self.gather, self.source = node, source
        self.buffer = emitter.allocate(node.result.shape, node.result.type)

    def inputs(self) -> Sequence[Val]:
        return (self.gather.operands[1],)

    def results(self) -> Sequence[Val]:
        return self.gather.results

    def step(self, index: Index, carried: Sequence[Value]) -> Sequence[Value]:
        axis = axis_of(self.gather)
        place = self.nest.at(self.gather.operands[1], index)
        value = self.nest.read(self.source, (*index[:axis], place, *index[axis + 1 :]))
        self.nest.write(self.buffer, index, value)
        return ()

    def done(self) -> None:
        self.em.stored[self.gather.result] = self.buffer


def _gather(em: Emitter, node: Node) -> None:
    em.add(_Gather(em, node, em.dense(node.operands[0])))


_WRITERS = {"tt.join": _join, "tt.split": _split, "tt.cat": _cat, "tt.gather": _gather}
