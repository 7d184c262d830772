"""What the emitter must know of a kernel before it writes: which values are computed where they are used, what each of
them costs, and which loads must not wait for the loop nest that uses them.

A tensor value is *virtual* when it is a function of indices that can be evaluated anywhere: elementwise ops, views,
ranges, and loads. What ends such a function is a *sink*: a store, a reduction, a dot, the end of a region. A load waits
for its sinks unless something may write to the same memory in between; then it is made at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from . import elem
from .program import Node, Program, Val

VIEWS = ("tt.splat", "tt.broadcast", "tt.expand_dims", "tt.trans", "tt.unsplat")
_LEAVES = ("tt.make_range", "arith.constant", "ub.poison")
DEAR = 8  # instructions from which a value is kept rather than computed again
_BOTH = ("tt.atomic_rmw", "tt.atomic_cas")
_LOADS = ("tt.load", "tt.atomic_load", "tt.atomic_poll", *_BOTH)
_STORES = ("tt.store", "tt.atomic_store", *_BOTH)
ATOMICS = (*_BOTH, "tt.atomic_load", "tt.atomic_store", "tt.atomic_poll")
WRITES = ("tt.store", *ATOMICS)  # where later reads may find something new
_THROUGH = ("tt.splat", "tt.broadcast", "tt.expand_dims", "tt.trans", "tt.bitcast", "tt.reshape")


def is_trivial_reshape(node: Node) -> bool:
    """Only extents of 1 come or go."""
    return [n for n in node.operands[0].shape if n > 1] == [n for n in node.result.shape if n > 1]


def is_volatile(node: Node) -> bool:
    """A load that has to be made again each time, since another program may write there meanwhile."""
    return node.name == "tt.load" and node.op.attribute("isVolatile", "false") == "true"


class Analysis:
    """Facts about one kernel."""

    def __init__(self, program: Program, disjoint: bool) -> None:
        self.program, self.disjoint = program, disjoint
        self._bases: dict[Val, int | None] = {}
        self._deps: dict[Val, frozenset[Val]] = {}
        self._sinks: dict[Val, frozenset[Node]] = {}
        self._costs: dict[Val, int] = {}
        self.eager: set[Node] = set()
        self.nodes = list(program.nodes())
        self.writers = [node for node in self.nodes if node.name in WRITES or is_volatile(node)]
        for node in self.nodes:
            if node.name == "tt.load" and node.result.is_tensor and (is_volatile(node) or self._must_not_wait(node)):
                self.eager.add(node)

    # -- virtual values

    def is_virtual(self, node: Node) -> bool:
        if not node.results or not node.results[0].is_tensor:
            return False
        if node.name == "tt.load":
            return node not in self.eager
        if node.name == "tt.reshape":
            return is_trivial_reshape(node)
        if node.name == "arith.constant":
            return not node.op.text.strip().startswith("dense<[")
        return node.name in VIEWS or node.name in _LEAVES or node.name == "tt.addptr" or elem.is_elementwise(node.op)

    def deps(self, val: Val) -> frozenset[Val]:
        """What must be there before the value can be evaluated: results of sinks, arguments, and its loads."""
        known = self._deps.get(val)
        if known is None:
            node = val.node
            if node is None or (not self.is_virtual(node) and val.is_tensor):
                known = frozenset((val,))
            else:
                parts = [self.deps(operand) for operand in node.operands]
                if node.name == "tt.load" or not self._is_plain(node):
                    parts.append(frozenset((val,)))
                known = frozenset().union(*parts)
            self._deps[val] = known
        return known

    def _is_plain(self, node: Node) -> bool:
        return self.is_virtual(node) or elem.is_elementwise(node.op) or node.name in ("arith.constant", "tt.addptr")

    def loads(self, val: Val) -> list[Node]:
        """The virtual loads that evaluating the value makes."""
        return [v.node for v in self.deps(val) if v.node and v.node.name == "tt.load" and self.is_virtual(v.node)]

    def sinks(self, val: Val) -> frozenset[Node]:
        """The operations that end the functions in which the value appears."""
        known = self._sinks.get(val)
        if known is None:
            parts = [
                self.sinks(user.result) if self.is_virtual(user) else frozenset((user,)) for user in val.users
            ]
            known = self._sinks[val] = frozenset().union(*parts) if parts else frozenset()
        return known

    def cost(self, val: Val) -> int:
        """Roughly the vector instructions that evaluating it takes; at most 1000."""
        known = self._costs.get(val)
        if known is None:
            node = val.node
            if node is None or not val.is_tensor or not self.is_virtual(node):
                known = 1
            elif node.name in _LEAVES or node.name in VIEWS:
                known = max([self.cost(v) for v in node.operands if v.is_tensor], default=0)
            else:
                own = 1 if node.name in ("tt.load", "tt.addptr", "tt.reshape") else elem.cost(node.op)
                known = min(1000, own + sum(self.cost(v) for v in set(node.operands) if v.is_tensor))
            self._costs[val] = known
        return known

    def asserts(self, node: Node) -> bool:
        """May an assertion inside the node's regions fail?"""
        return any(node.position < inside.position <= node.last for inside in self._assertions)

    @cached_property
    def _assertions(self) -> list[Node]:
        return [node for node in self.nodes if node.name == "tt.assert"]

    # -- memory

    def base(self, pointer: Val) -> int | None:
        """The kernel's argument that a pointer points into; None if it is not known."""
        if pointer not in self._bases:
            self._bases[pointer] = None
            self._bases[pointer] = self._base(pointer)
        return self._bases[pointer]

    def _base(self, pointer: Val) -> int | None:
        node = pointer.node
        if node is None:
            parent = pointer.block.parent if pointer.block else None
            if parent is None:
                return pointer.number if pointer.block is None else None
            if parent.name == "scf.for":
                return self._carried_base(parent, pointer.number - 1)
            return None
        if node.name == "tt.addptr" or node.name in _THROUGH:
            return self.base(node.operands[0])
        if node.name == "scf.for":
            return self._carried_base(node, pointer.number)
        if node.name == "arith.select":
            a, b = self.base(node.operands[1]), self.base(node.operands[2])
            return a if a == b else None
        return None

    def _carried_base(self, loop: Node, number: int) -> int | None:
        """A pointer that a loop carries stays in its argument where each round only adds to it."""
        start = self.base(loop.operands[3 + number])
        value = loop.regions[0].terminator.operands[number]
        while value.node is not None and (value.node.name == "tt.addptr" or value.node.name in _THROUGH):
            value = value.node.operands[0]
        carried = loop.regions[0].arguments[1 + number]
        return start if value is carried else None

    def may_alias(self, a: Node, b: Node) -> bool:
        """May two accesses, by whatever lanes, touch the same byte?"""
        p, q = self.base(a.operands[0]), self.base(b.operands[0])
        return p is None or q is None or p == q or not self.disjoint

    def may_stream(self, load: Node, store: Node) -> bool:
        """May some lanes of the store go before later lanes of the load, if each lane's load goes before its store?"""
        if not self.may_alias(load, store):
            return True
        return (
            store.name == "tt.store" and load.operands[0] is store.operands[0] and _is_injective(store.operands[0])
        )

    def _must_not_wait(self, load: Node) -> bool:
        end = load.position
        for sink in self.sinks(load.result):
            end = max(end, _end_of_use(load, sink))
        for writer in self.writers:
            streams = writer.position == end and self.may_stream(load, writer)
            if load.position < writer.position <= end and not streams and self._hides(writer, load):
                return True
        return False

    def _hides(self, writer: Node, load: Node) -> bool:
        """May the load find something else after the writer? After an atomic operation that orders memory, or a
        volatile load, other programs may have gone on, and written anywhere."""
        orders = is_volatile(writer) or (writer.name in ATOMICS and "relaxed" not in writer.op.text)
        return orders or self.may_alias(load, writer)

    def unit_dim(self, val: Val, stored: Mapping[Val, Any], known: dict[Val, int | None] | None = None) -> int | None:
        """The dimension along which what a value is made of lies side by side in memory; None if there is none.

        `known`: of the values met so far, since each may have many users."""
        known = {} if known is None else known
        if val not in known:
            known[val] = self._unit_dim(val, stored, known)
        return known[val]

    def _unit_dim(self, val: Val, stored: Mapping[Val, Any], known: dict[Val, int | None]) -> int | None:
        held, node = stored.get(val), val.node
        if held is not None:
            strides = getattr(held, "strides", None)
            found = [d for d, n in enumerate(val.shape) if n > 1 and strides is not None and strides[d] == 1]
            return found[-1] if found else None
        if node is None or not val.is_tensor or not self.is_virtual(node):
            return None
        if node.name == "tt.load":
            found = [d for d, step in enumerate(steps(node.operands[0])) if step == 1 and val.shape[d] > 1]
            return found[-1] if found else None
        if node.name == "tt.trans":
            inner = self.unit_dim(node.operands[0], stored, known)
            order = [int(d) for d in node.op.attribute("order").split(",")]
            return None if inner is None else order.index(inner)
        if node.name in VIEWS or node.name in ("tt.reshape", "tt.addptr"):
            return None
        return next((d for v in node.operands if (d := self.unit_dim(v, stored, known)) is not None), None)

    @cached_property
    def written(self) -> tuple[int, ...]:
        """The arguments that are stored through."""
        return self._bases_of(_STORES)

    @cached_property
    def accessed(self) -> tuple[int, ...]:
        """The arguments that are loaded from."""
        return self._bases_of(_LOADS)

    def _bases_of(self, names: Sequence[str]) -> tuple[int, ...]:
        accesses = [node for node in self.nodes if node.name in names]
        return tuple(sorted({b for node in accesses if (b := self.base(node.operands[0])) is not None}))


def axis_of(node: Node) -> int:
    return int(node.op.attribute("axis"))


def _end_of_use(load: Node, sink: Node) -> int:
    """The position up to which the load may be made: a loop that the load is not in uses it until its end."""
    end, parent = sink.position, sink.block.parent
    while parent is not None and not parent.position < load.position <= parent.last:
        if parent.name in ("scf.for", "scf.while"):
            end = max(end, parent.last)
        parent = parent.block.parent
    return end


def _is_injective(pointer: Val) -> bool:
    """Are the lanes' addresses known to differ? Only along a single axis, with a constant step."""
    long = [d for d, n in enumerate(pointer.shape) if n > 1]
    return len(long) <= 1 and all(steps(pointer)[d] not in (None, 0) for d in long)


Steps = tuple[int | None, ...]


def steps(val: Val) -> Steps:
    """What a value grows by from one element to the next along each dimension; None where that is not known."""
    if val.steps is None:
        val.steps = _steps(val)
    return val.steps


def _steps(val: Val) -> Steps:
    node, rank = val.node, len(val.shape)
    if not val.is_tensor:
        return ()
    unknown: Steps = (None,) * rank
    if node is None:
        return unknown
    name = node.name
    if name == "tt.make_range":
        return (1,)
    if name == "tt.splat" or (name == "arith.constant" and "dense<[" not in node.op.text):
        return (0,) * rank
    if name == "tt.broadcast":
        source = node.operands[0]
        return tuple(s if n > 1 else 0 for s, n in zip(steps(source), source.shape, strict=True))
    if name == "tt.expand_dims":
        axis = int(node.op.attribute("axis"))
        inner = steps(node.operands[0])
        return (*inner[:axis], 0, *inner[axis:])
    if name == "tt.trans":
        inner = steps(node.operands[0])
        return tuple(inner[int(d)] for d in node.op.attribute("order").split(","))
    if name == "arith.extsi":
        return steps(node.operands[0])
    if name in ("tt.addptr", "arith.addi"):
        x, y = (steps(v) for v in node.operands)
        return tuple(None if a is None or b is None else a + b for a, b in zip(x, y, strict=True))
    if name == "arith.muli":
        return _scaled_steps(*node.operands)
    return unknown


def _scaled_steps(a: Val, b: Val) -> Steps:
    x, y = steps(a), steps(b)
    for values, other, number in ((x, b, y), (y, a, x)):
        maker = other.node
        if any(s != 0 for s in number):
            continue
        token = maker.op.text.strip() if maker is not None and maker.name == "arith.constant" else ""
        if token.startswith("dense<"):
            by = int(token[len("dense<") : -1], 0) if token[6:-1].lstrip("-").isdigit() else None
            return tuple(None if s is None or by is None else s * by for s in values)
        return tuple(0 if s == 0 else None for s in values)
    return (None,) * len(x)
