"""What ends a function of indices: stores, reductions, and what a loop nest does for each of them.

A sink may carry values along the walked dimension: `start` gives them, `step` takes them from chunk to chunk, `finish`
uses what the last chunk left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from . import elem
from .analysis import ATOMICS, VIEWS, axis_of, is_volatile, steps
from .build import Value, bytes_of
from .nest import Nest
from .program import Node, Val
from .regions import Function
from .values import Buffer, Index, Pointer

if TYPE_CHECKING:
    from .emit import Emitter


CACHED = 32 << 20  # bytes: an output as large as this is not in a cache when it is read again


class Sink:
    """One operation at the end of functions of indices."""

    carries = 0
    peels = False  # is the first chunk where the carried values start?
    one_by_one = False  # has each element to be taken by itself?
    most_lanes = 1 << 30
    axis: int | None = None
    node: Node | None = None  # of a store, an atomic
    nest: Nest

    def __init__(self, emitter: Emitter, shape: tuple[int, ...]) -> None:
        self.em, self.b, self.shape = emitter, emitter.b, shape

    def inputs(self) -> Sequence[Val]:
        """What is evaluated at every index."""
        return ()

    def masks(self) -> Sequence[Val]:
        """Conditions without which nothing happens."""
        return ()

    def results(self) -> Sequence[Val]:
        """What is there once the nest is done."""
        return ()

    def scalars(self) -> Sequence[Val]:
        """Those of the results that are scalars."""
        return [val for val in self.results() if not val.is_tensor]

    def start(self, index: Index) -> Sequence[Value]:
        """What is carried into the first step; of a sink that peels, after the first elements, which are at `index`."""
        return ()

    def step(self, index: Index, carried: Sequence[Value]) -> Sequence[Value]:
        return ()

    def finish(self, index: Index, carried: Sequence[Value]) -> None:
        pass

    def done(self) -> None:
        """The nest is written."""

    def prefers(self) -> int | None:
        """The dimension that is best walked in vectors."""
        return None

    def skips(self, facts: dict) -> bool:
        """Is there nothing to do where these comparisons have these outcomes?"""
        return False


class Store(Sink):
    """tt.store"""

    def __init__(self, emitter: Emitter, node: Node) -> None:
        super().__init__(emitter, node.operands[0].shape)
        self.node = node

    def inputs(self) -> Sequence[Val]:
        return self.node.operands[:2]  # type: ignore[union-attr]

    def masks(self) -> Sequence[Val]:
        return self.node.operands[2:]  # type: ignore[union-attr]

    def prefers(self) -> int | None:
        pointer, value = self.inputs()
        found = [d for d, step in enumerate(steps(pointer)) if step == 1 and pointer.shape[d] > 1]
        return found[-1] if found else self.em.facts.unit_dim(value, self.em.stored)

    def step(self, index: Index, carried: Sequence[Value]) -> Sequence[Value]:
        nest, (pointer, value, *masks) = self.nest, self.node.operands  # type: ignore[union-attr]
        mask = nest.plain(nest.at(masks[0], index)) if masks else None
        if mask is None or mask.constant != 0:
            stored = nest.at(value, index)
            stored = nest.address(stored) if isinstance(stored, Pointer) else nest.plain(stored)
            nest.put(nest.at(pointer, index), stored, mask, self._is_large())
        return ()

    def _is_large(self) -> Value | None:
        """Does the whole launch write more than the caches hold, to where the kernel does not read? Then the stores go
        past the caches, which else read each line from memory before it is written. None: certainly not."""
        em, pointer = self.em, self.node.operands[0]  # type: ignore[union-attr]
        base = em.facts.base(pointer)
        if base is None or base in em.facts.accessed or any(node.name in ATOMICS for node in em.facts.nodes):
            return None  # it, or another program that waits for this one, may read there
        size = math.prod(self.shape) * bytes_of(elem.held(pointer.type.pointee))
        x, y, z = (self.b.resize(v, "i64") for v in em.grid)
        programs = self.b.mul(self.b.mul(x, y), z)
        return self.b.cmpi("sge", programs, self.b.const(-(-CACHED // size), "i64"))

    def skips(self, facts: dict) -> bool:
        return any(rules_out(mask, facts) for mask in self.masks())


class Save(Sink):
    """A value kept in the kernel's memory."""

    def __init__(self, emitter: Emitter, val: Val, buffer: Buffer, becomes: Val | None = None) -> None:
        super().__init__(emitter, val.shape)
        self.val, self.buffer, self.becomes = val, buffer, becomes

    def inputs(self) -> Sequence[Val]:
        return (self.val,)

    def prefers(self) -> int | None:
        return self.em.facts.unit_dim(self.val, self.em.stored)

    def results(self) -> Sequence[Val]:
        return (self.becomes,) if self.becomes is not None else ()

    def step(self, index: Index, carried: Sequence[Value]) -> Sequence[Value]:
        self.nest.write(self.buffer, index, self.nest.at(self.val, index))
        return ()


class Load(Sink):
    """A tt.load that cannot wait for those who use it."""

    def __init__(self, emitter: Emitter, node: Node) -> None:
        super().__init__(emitter, node.result.shape)
        self.node = node
        self.one_by_one = is_volatile(node)
        self.buffer = emitter.allocate(node.result.shape, node.result.type)

    def inputs(self) -> Sequence[Val]:
        return [v for i, v in enumerate(self.node.operands) if i != 1]  # type: ignore[union-attr]

    def masks(self) -> Sequence[Val]:
        return self.node.operands[1:2]  # type: ignore[union-attr]

    def results(self) -> Sequence[Val]:
        return self.node.results  # type: ignore[union-attr]

    def prefers(self) -> int | None:
        found = [d for d, step in enumerate(steps(self.inputs()[0])) if step == 1 and self.shape[d] > 1]
        return found[-1] if found else None

    def step(self, index: Index, carried: Sequence[Value]) -> Sequence[Value]:
        self.nest.write(self.buffer, index, self.nest.load(self.node, index))  # type: ignore[arg-type]
        return ()

    def done(self) -> None:
        self.em.stored[self.results()[0]] = self.buffer


class SaveAll(Sink):
    """Values kept in memory that they may be made of: all are evaluated at an index before any is written there."""

    def __init__(self, emitter: Emitter, pairs: Sequence[tuple[Val, Buffer]]) -> None:
        super().__init__(emitter, pairs[0][0].shape)
        self.pairs = pairs

    def inputs(self) -> Sequence[Val]:
        return [val for val, _ in self.pairs]

    def prefers(self) -> int | None:
        return self.em.facts.unit_dim(self.pairs[0][0], self.em.stored)

    def step(self, index: Index, carried: Sequence[Value]) -> Sequence[Value]:
        values = [self.nest.at(val, index) for val, _ in self.pairs]
        for (_, buffer), value in zip(self.pairs, values, strict=True):
            self.nest.write(buffer, index, value)
        return ()


class Combiner:
    """The region of a reduction or a scan, as a function of values."""

    def __init__(self, emitter: Emitter, node: Node) -> None:
        self.function = Function(emitter, node)
        self.body = self.function.body
        self.elements = [v.element for v in node.operands]

    def __call__(self, first: Sequence[Value], second: Sequence[Value]) -> list[Value]:
        return self.function([*first, *second])

    def identity(self) -> str | None:
        """What changes nothing, as a number in TTIR; None if it is not known."""
        if len(self.body.nodes) != 2 or len(self.elements) != 1:
            return None
        node, end = self.body.nodes
        if end.operands != node.results or set(node.operands) != set(self.body.arguments):
            return None
        element = self.elements[0]
        by_width = {"arith.minsi": "max", "arith.maxsi": "min"}
        if node.name in by_width and element[0] == "i":
            bits = int(element[1:])
            return str((1 << (bits - 1)) - 1 if node.name == "arith.minsi" else -(1 << (bits - 1)))
        if node.name in _SPECIAL_IDENTITIES:
            return _SPECIAL_IDENTITIES[node.name] if element in ("f16", "f32", "f64", "bf16") else None
        return _IDENTITIES.get(node.name)


_IDENTITIES = {"arith.addf": "-0.0", "arith.mulf": "1.0", "arith.addi": "0", "arith.muli": "1", "arith.ori": "0",
               "arith.xori": "0", "arith.andi": "-1", "arith.minui": "-1", "arith.maxui": "0"}  # fmt: skip
_SPECIAL_IDENTITIES = {"arith.maximumf": "-inf", "arith.minimumf": "inf", "arith.maxnumf": "nan",
                       "arith.minnumf": "nan"}  # fmt: skip


class Reduce(Sink):
    """tt.reduce: an accumulator for every lane, then a tree over the lanes."""

    def __init__(self, emitter: Emitter, node: Node) -> None:
        super().__init__(emitter, node.operands[0].shape)
        self.node = node
        self.axis = axis_of(node)
        self.combine = Combiner(emitter, node)
        self.identity = self.combine.identity()
        self.peels = self.identity is None and self.shape[self.axis] > 1
        self.carries = len(node.operands) if self.shape[self.axis] > 1 else 0
        self.buffers: list[Buffer] = []
        if node.results[0].is_tensor:
            self.buffers = [emitter.allocate(v.shape, v.type) for v in node.results]

    def inputs(self) -> Sequence[Val]:
        return self.node.operands  # type: ignore[union-attr]

    def results(self) -> Sequence[Val]:
        return self.node.results  # type: ignore[union-attr]

    def start(self, index: Index) -> Sequence[Value]:
        if not self.carries:
            return ()
        b, nest = self.b, self.nest
        if self.identity is not None:
            element = self.combine.elements[0]
            return [b.splat(elem.constant(b, self.identity, element, None), nest.lanes)]
        return self._values(index)

    def _values(self, index: Index) -> list[Value]:
        nest = self.nest
        return [nest.vector(nest.at(v, index)) if nest.lanes else nest.at(v, index) for v in self.inputs()]

    def step(self, index: Index, carried: Sequence[Value]) -> Sequence[Value]:
        if self.carries:
            return self.combine(carried, self._values(index))
        self._keep(index, [self.nest.plain(self.nest.at(v, index)) for v in self.inputs()])
        return ()

    def finish(self, index: Index, carried: Sequence[Value]) -> None:
        if not self.carries:
            return
        values = list(carried)
        if self.axis == self.nest.chunked:
            while values[0].lanes is not None and values[0].lanes > 1:
                half = values[0].lanes // 2
                low = [self.b.shuffle(v, v, range(half)) for v in values]
                high = [self.b.shuffle(v, v, range(half, 2 * half)) for v in values]
                values = self.combine(low, high)
            values = [self.b.extract(v, 0) if v.lanes is not None else v for v in values]
        self._keep(index, values)

    def _keep(self, index: Index, values: Sequence[Value]) -> None:
        assert self.axis is not None
        if not self.buffers:
            for val, value in zip(self.results(), values, strict=True):
                self.em.scalars[val] = value
            return
        for buffer, value in zip(self.buffers, values, strict=True):
            self.nest.write(buffer, (*index[: self.axis], *index[self.axis + 1 :]), value)

    def done(self) -> None:
        for val, buffer in zip(self.results(), self.buffers, strict=False):
            self.em.stored[val] = buffer

    def skips(self, facts: dict) -> bool:
        if self.identity is None or not self.carries or self.axis != self.nest.chunked:
            return False  # across the chunks each has a result of its own
        found = value_under(self.inputs()[0], facts)
        wanted = float(self.identity)
        return found is not None and found == wanted


class Check(Sink):
    """tt.assert: whether a condition holds in every lane."""

    carries = 1

    def __init__(self, emitter: Emitter, val: Val, fail: Callable[[], None]) -> None:
        super().__init__(emitter, val.shape)
        self.val, self.fail = val, fail

    def inputs(self) -> Sequence[Val]:
        return (self.val,)

    def start(self, index: Index) -> Sequence[Value]:
        return [self.b.splat(self.b.const(1, "i1"), self.nest.lanes)]

    def step(self, index: Index, carried: Sequence[Value]) -> Sequence[Value]:
        value = self.nest.at(self.val, index)
        return [self.b.and_(carried[0], self.nest.vector(value) if self.nest.lanes else value)]

    def finish(self, index: Index, carried: Sequence[Value]) -> None:
        b, value = self.b, carried[0]
        while value.lanes is not None and value.lanes > 1:
            half = value.lanes // 2
            value = b.and_(b.shuffle(value, value, range(half)), b.shuffle(value, value, range(half, 2 * half)))
        whole = b.extract(value, 0) if value.lanes is not None else value
        b.branch(b.not_(whole), self.fail)


# -- what a known comparison makes of a value ----------------------------------------------------------------------


def rules_out(mask: Val, facts: dict) -> bool:
    """Is a mask false wherever these comparisons are false?"""
    node = mask.node
    if node is None:
        return False
    if any(key[0] is node and not outcome for key, outcome in facts.items()):
        return True
    if node.name in VIEWS or node.name == "arith.andi":
        return any(rules_out(v, facts) for v in node.operands)
    return False


def value_under(val: Val, facts: dict) -> float | None:
    """The number that a value is wherever these comparisons are false; None if that is not plain to see."""
    node = val.node
    if node is None:
        return None
    if node.name == "arith.constant":
        token = node.op.text.strip().removeprefix("dense<").removesuffix(">")
        return _number(token, val.element)
    if node.name in VIEWS or node.name in ("arith.extf", "arith.extsi"):
        return value_under(node.operands[0], facts)
    if node.name == "tt.load" and len(node.operands) == 3 and rules_out(node.operands[1], facts):
        return value_under(node.operands[2], facts)
    if node.name == "arith.select" and rules_out(node.operands[0], facts):
        return value_under(node.operands[2], facts)
    if node.name == "arith.mulf":
        a, b = (value_under(v, facts) for v in node.operands)
        return a * b if a is not None and b is not None else None
    return None


def _number(token: str, element: str) -> float | None:
    if token in ("true", "false"):
        return float(token == "true")
    if token.startswith("0x"):
        infinities = {("f32", 0xFF800000): "-inf", ("f32", 0x7F800000): "inf", ("f16", 0xFC00): "-inf",
                      ("f16", 0x7C00): "inf", ("bf16", 0xFF80): "-inf", ("bf16", 0x7F80): "inf"}  # fmt: skip
        found = infinities.get((element, int(token, 0)))
        return float(found) if found else None
    return float(token)


