"""tt.atomic_rmw and tt.atomic_cas, one element after another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import elem
from .build import Value
from .errors import CannotCompile
from .program import Node, Val
from .sinks import Sink
from .values import Buffer, Evaluator, Index

if TYPE_CHECKING:
    from .emit import Emitter

# Triton's names, and LLVM's.
_OPERATIONS = {"and": "_and", "or": "_or", "xor": "_xor", "add": "add", "fadd": "fadd", "max": "max", "min": "min",
               "umax": "umax", "umin": "umin", "exch": "xchg"}  # fmt: skip


class Atomic(Sink):
    """An atomic operation on every element of a tensor."""

    one_by_one = True

    def __init__(self, emitter: Emitter, node: Node) -> None:
        super().__init__(emitter, node.operands[0].shape)
        self.node = node
        self.buffer: Buffer = emitter.allocate(node.result.shape, node.result.type)

    def inputs(self) -> Sequence[Val]:
        return self.node.operands  # type: ignore[union-attr]

    def results(self) -> Sequence[Val]:
        return self.node.results  # type: ignore[union-attr]

    def step(self, index: Index, carried: Sequence[Value]) -> Sequence[Value]:
        self.nest.write(self.buffer, index, apply(self.em, self.node, self.nest, index))  # type: ignore[arg-type]
        return ()

    def done(self) -> None:
        self.em.stored[self.results()[0]] = self.buffer


def apply(em: Emitter, node: Node, at: Evaluator, index: Index) -> Value:
    """One atomic operation: what was in memory before; 0 where its mask is false."""
    b, element = em.b, node.result.element
    el = elem.held(element)
    given = [at.at(v, index if v.is_tensor else ()) for v in node.operands]
    spot = at.spot(given[0], el)
    values = [at.plain(v) for v in given[1:]]
    if node.name == "tt.atomic_cas":
        return b.exchange(spot, values[0], values[1])
    name = re.split(r"[,\s]+", node.op.text.strip())[0]
    if name not in _OPERATIONS or element in ("bf16",) or element.startswith("f8"):
        raise CannotCompile(f"{name} of {element}", node.op)
    if len(values) < 2:
        return b.atomic(_OPERATIONS[name], spot, values[0])
    return b.branch(values[1], lambda: [b.atomic(_OPERATIONS[name], spot, values[0])], lambda: [b.const(0, el)])[0]
