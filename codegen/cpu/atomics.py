"""Atomic operations, one element after another.

On x86 each orders memory as acquire and release do, whatever order and scope it asks for; the compiler lets loads wait
past those that are relaxed (`Analysis`). A program that waits for another, by `tl.atomic_poll` or in a loop of its own,
may wait for one of a lower number: of those that have not ended the lowest is always running.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from . import casts, elem
from .build import Builder, Value
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
        self.deadline = _deadline(emitter, node)
        self.buffers: list[Buffer] = [emitter.allocate(v.shape, v.type) for v in node.results]

    def inputs(self) -> Sequence[Val]:
        return self.node.operands  # type: ignore[union-attr]

    def results(self) -> Sequence[Val]:
        return self.node.results  # type: ignore[union-attr]

    def step(self, index: Index, carried: Sequence[Value]) -> Sequence[Value]:
        values = apply(self.em, self.node, self.nest, index, self.deadline)  # type: ignore[arg-type]
        for buffer, value in zip(self.buffers, values, strict=True):
            self.nest.write(buffer, index, value)
        return ()

    def done(self) -> None:
        self.em.stored.update(zip(self.results(), self.buffers, strict=True))


def write(em: Emitter, node: Node) -> None:
    """An operation on a tensor of pointers, or on one."""
    em.flush()
    if node.operands[0].is_tensor:
        em.add(Atomic(em, node))
        em.flush()
    else:
        values = apply(em, node, Evaluator(em, None), (), _deadline(em, node))
        em.scalars.update(zip(node.results, values, strict=True))
    em.done.add(node)


def apply(em: Emitter, node: Node, at: Evaluator, index: Index, deadline: Value | None) -> list[Value]:
    """One atomic operation: its results, of which there is one or none."""
    b = em.b
    element = node.operands[0].type.pointee
    pointer, *given = (at.at(v, index if v.is_tensor else ()) for v in node.operands)
    spot, values = at.spot(pointer, elem.held(element)), [at.plain(v) for v in given]
    if node.name == "tt.atomic_cas":
        return [b.exchange(spot, *values)]
    if node.name == "tt.atomic_poll":
        return [_poll(b, spot, values[0], deadline)]
    if node.name == "tt.atomic_load":
        el = elem.held(element)
        return _masked(b, values, lambda: [b.atomic_load(spot, el)], lambda: [b.const(0, el)])
    value, *mask = values
    if node.name == "tt.atomic_store":
        return _masked(b, mask, lambda: b.atomic_store(value, spot), None)
    name = re.split(r"[,\s]+", node.op.text.strip())[0]
    if name not in _OPERATIONS or element.startswith("f8"):
        raise CannotCompile(f"{name} of {element}", node.op)
    if name == "fadd" and element == "bf16":
        return _masked(b, mask, lambda: [_add_bf16(b, spot, value)], lambda: [b.const(0, value.el)])
    return _masked(b, mask, lambda: [b.atomic(_OPERATIONS[name], spot, value)], lambda: [b.const(0, value.el)])


Act = Callable[[], Sequence[Value] | None]


def _masked(b: Builder, mask: Sequence[Value], act: Act, otherwise: Act | None) -> list[Value]:
    """What is done where the mask, if there is one, holds; 0 stands for the result elsewhere."""
    return b.branch(mask[0], act, otherwise) if mask else list(act() or ())


def _add_bf16(b: Builder, spot: Value, value: Value) -> Value:
    """x86 has no such instruction: adds, and writes if nobody else has written meanwhile."""
    addend = casts.widen(b, value, "bf16")

    def attempt(old: Value) -> tuple[Value, list[Value]]:
        total = casts.narrow(b, b.addf(casts.widen(b, old, "bf16"), addend), "bf16")
        seen = b.exchange(spot, old, total)
        return b.cmpi("ne", seen, old), [seen]

    return b.loop_while([b.atomic_load(spot, value.el)], attempt, lambda seen: [seen])[0]


def _poll(b: Builder, spot: Value, expected: Value, deadline: Value | None) -> Value:
    """Reads until the expected value is there, or it is too late: whether it was there."""

    def test() -> tuple[Value, list[Value]]:
        there = b.cmpi("eq", b.atomic_load(spot, expected.el), expected)
        in_time = lambda: [b.const(1, "i1") if deadline is None else b.cmpi("ult", _now(b), deadline)]
        return b.branch(there, lambda: [b.const(0, "i1")], in_time)[0], [there]

    def wait(there: Value) -> list[Value]:
        b.functions["sched_yield"] = "llvm.func @sched_yield() -> i32"
        b.invoke("sched_yield", (), "i32")
        return []

    return b.loop_while([], test, wait)[0]


def _deadline(em: Emitter, node: Node) -> Value | None:
    """When an `atomic_poll` gives up, if it does, in nanoseconds of a clock."""
    if node.name != "tt.atomic_poll" or len(node.operands) < 3:
        return None
    return em.b.add(_now(em.b), em.plain(node.operands[2]))


def _now(b: Builder) -> Value:
    b.functions["clock_gettime"] = "llvm.func @clock_gettime(i32, !llvm.ptr) -> i32"
    b.functions["now"] = _NOW
    return b.invoke("now", (), "i64")


_NOW = """llvm.func internal @now() -> i64 attributes {passthrough = ["noinline", "nounwind"]} {
  %one = arith.constant 1 : i64
  %monotonic = arith.constant 1 : i32
  %billion = arith.constant 1000000000 : i64
  %time = llvm.alloca %one x !llvm.array<2 x i64> {alignment = 8 : i64} : (i64) -> !llvm.ptr
  %failed = llvm.call @clock_gettime(%monotonic, %time) : (i32, !llvm.ptr) -> i32
  %seconds = llvm.load %time {alignment = 8 : i64} : !llvm.ptr -> i64
  %rest = llvm.getelementptr %time[1] : (!llvm.ptr) -> !llvm.ptr, i64
  %nanoseconds = llvm.load %rest {alignment = 8 : i64} : !llvm.ptr -> i64
  %product = arith.muli %seconds, %billion : i64
  %sum = arith.addi %product, %nanoseconds : i64
  llvm.return %sum : i64
}"""
