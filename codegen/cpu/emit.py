"""TTIR to MLIR: the kernel as an `llvm.func` over explicit vectors.

The operations of a block are taken in order. Scalars are written down at once; a virtual tensor (analysis.py) waits for
the sinks that need it; sinks wait for each other, and those that run over the same shape without needing each other
share a loop nest (nest.py). A nest also keeps what later ones would have to compute again at some cost.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from ..ttir import Type
from . import atomics, control, dot, elem, half, histogram, layouts, printing, scaled
from .analysis import ATOMICS, DEAR, WRITES, Analysis, is_trivial_reshape, is_volatile
from .build import Builder, Scope, Value, bytes_of
from .errors import CannotCompile
from .machine import Machine
from .maps import Map
from .nest import Nest
from .program import Body, Node, Program, Val, program_of
from .scans import Scan
from .sinks import Check, Load, Reduce, Save, SaveAll, Sink, Store
from .values import Buffer, Evaluator, Moving, Pointer, rows_of

ARGUMENTS = ("i1", "i8", "i16", "i32", "i64", "f16", "f32", "f64")


@dataclass(frozen=True)
class Emitted:
    """A kernel as MLIR, and what a launcher must know of it.

    arguments      element types of the parameters, "ptr" for a pointer
    written, read  the parameters that are stored through, and loaded from
    disjoint       whether those stored through are taken to overlap no other
    checks         messages of tl.device_assert; the kernel stores 1 + the index of one that failed
    scratch_bytes  memory of its own that a program needs
    elements       a measure of a program's work
    """

    name: str
    mlir: str
    arguments: tuple[str, ...]
    written: tuple[int, ...]
    read: tuple[int, ...]
    checks: tuple[str, ...]
    scratch_bytes: int
    disjoint: bool
    elements: int


def emit(text: str, machine: Machine, disjoint: bool) -> Emitted:
    """A kernel's TTIR as MLIR.

    disjoint: no argument that is stored through overlaps another. Raises CannotCompile, which names the operation, and
    the kernel's line where the text has it."""
    program = program_of(text)
    with _deep():
        return Emitter(program, machine, disjoint).emit()


@contextmanager
def _deep() -> Iterator[None]:
    """Room for the recursion over long chains of operations."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, 20000))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


class Emitter:
    """The state of one emission."""

    def __init__(self, program: Program, machine: Machine, disjoint: bool) -> None:
        self.program, self.machine = program, machine
        self.facts = Analysis(program, disjoint)
        self.b = Builder(machine.scales)
        self.scalars: dict[Val, Value | Pointer] = {}
        self.stored: dict[Val, Buffer | Moving] = {}
        self.pending: list[Sink] = []
        self.done: set[Node] = set()  # sinks that are written
        self.checks: list[str] = []
        self.scratch = 0
        self.states = 0
        self.has_dot = any(node.name.startswith("tt.dot") for node in self.facts.nodes)
        self.labels = 0
        self.blocks: list[tuple[str, Scope]] = []  # finished blocks of the function

    # -- the function

    def emit(self) -> Emitted:
        program, elements, parameters = self.program, [], []
        for i, val in enumerate(program.arguments):
            name = f"%a{i}"
            if val.element == "ptr":
                self.scalars[val] = Pointer(Value(name, "ptr", None, 0), self.b.const(0, "i64"), val.type.pointee)
                kind = "!llvm.ptr"
            else:
                kind = elem.held(val.element)
                self.scalars[val] = Value(name, kind, None, 0)
            elements.append("ptr" if val.element == "ptr" else val.element)
            parameters.append(f"{name}: {kind}")
        self.programs = [Value(f"%p{axis}", "i32", None, 0) for axis in "xyz"]
        self.grid = [Value(f"%g{axis}", "i32", None, 0) for axis in "xyz"]
        parameters += [f"{v.name}: i32" for v in (*self.programs, *self.grid)]
        parameters += ["%status: !llvm.ptr", "%scratch: !llvm.ptr {llvm.noalias}"]
        body = self.body()
        text = (
            f"llvm.func internal @kernel({', '.join(parameters)}) "
            f'attributes {{passthrough = ["nounwind"]}} {{\n{body}\n}}'
        )
        if not self.machine.has_f16c and "f16" in text:
            self.b.functions.update(half.functions())
        text = "\n".join([*self.b.functions.values(), text])
        facts = self.facts
        return Emitted(program.name, text, tuple(elements), facts.written, facts.accessed, tuple(self.checks),
                       self.scratch, facts.disjoint, self.elements())  # fmt: skip

    def elements(self) -> int:
        """The largest tensor's; of a kernel with loops, whose rounds are not known, or that waits, very many."""
        if any(node.name in ("scf.for", "scf.while", "tt.atomic_poll") for node in self.facts.nodes):
            return 1 << 31
        return max((math.prod(v.shape) for node in self.facts.nodes for v in node.results), default=1)

    def body(self) -> str:
        """The function's blocks: assertions end them. All but the first are scopes of their own inside the first."""
        b, entry = self.b, self.b.scopes[0]
        self.sequence(self.program.body.nodes)
        self.close_block()
        assert len(b.scopes) == 1, "a region is open"
        lines = [*b.pool, *entry.lines, *self.entry_end]
        for label, scope in self.blocks:
            lines += [label, *scope.lines]
        return "\n".join(lines)

    def open_block(self, label: str) -> None:
        self.close_block()
        self.b.scopes.append(Scope())
        self.current_label = label + ":"

    entry_end: Sequence[str] = ()
    current_label = ""

    def close_block(self) -> None:
        if len(self.b.scopes) == 2:
            self.blocks.append((self.current_label, self.b.scopes.pop()))

    def jump(self, text: str) -> None:
        """The end of a block. What is hoisted to the entry must stand before the entry's own end."""
        if self.b.depth == 0:
            self.entry_end = [text]
        else:
            self.b.line(text)

    # -- sequences of operations

    @contextmanager
    def inside(self, body: Body) -> Iterator[None]:
        """What a block keeps of values that are not its own is for itself only: others may run where it has not."""
        before = set(self.stored)
        yield
        for val in self.stored.keys() - before:
            if (val.node.block if val.node is not None else val.block) is not body:
                del self.stored[val]

    def region(self, body: Body, end: Callable[[], list[Value]], otherwise: Callable[[], list[Value]]) -> list[Value]:
        """The only block of a region, and what `end` gives after it."""
        with self.inside(body):
            return self.sequence(body.nodes[:-1], end, otherwise)

    def sequence(self, nodes: Sequence[Node], end: Callable[[], list[Value]] | None = None,
                 otherwise: Callable[[], list[Value]] | None = None) -> list[Value]:  # fmt: skip
        """Operations in order, then what `end` gives. After a failed assertion the rest is not done, and `otherwise`
        stands for the end."""
        for at, node in enumerate(nodes):
            if node.name == "tt.assert":
                self.flush()
                self.check(node)
            else:
                self.operation(node)
            if node.name == "tt.assert" or (node.regions and self.facts.asserts(node)):
                holds = self.going_on()
                if end is None:
                    rest = f"^checked{self.labels}"
                    stop = f"^failed{self.labels}"
                    self.labels += 1
                    self.jump(f"cf.cond_br {holds.name}, {rest}, {stop}")
                    self.open_block(stop)
                    self.b.line("llvm.return")
                    self.open_block(rest)
                    continue
                rest_of = functools.partial(self.sequence, nodes[at + 1 :], end, otherwise)
                return self.b.branch(holds, rest_of, otherwise)
        if end is None:
            return []
        self.flush()
        return end()

    def operation(self, node: Node) -> None:
        """One operation of a block."""
        name = node.name
        try:
            if self.facts.is_virtual(node):
                return
            write = _WRITERS.get(name)
            if write is not None:
                write(self, node)
            elif name == "tt.load":
                self.load(node)
            elif node.results and not node.results[0].is_tensor:
                self.scalar_op(node)
            else:
                layouts.write(self, node)
        except CannotCompile as error:
            raise error if error.op is not None else CannotCompile(error.why, node.op) from None
        except AssertionError as error:
            error.add_note(f"at {node.op.line} {node.op.name}{node.op.text}")
            raise

    def scalar(self, val: Val) -> Value | Pointer:
        """A scalar that is at hand."""
        found = self.scalars.get(val)
        if found is None:
            self.flush()
            found = self.scalars.get(val)
        if found is None:
            assert val.node is not None and val.node.name == "arith.constant", f"not at hand: {val}"
            found = self.scalars[val] = elem.constant(self.b, val.node.op.text.strip(), val.element, None)
        return found

    def plain(self, val: Val) -> Value:
        """A scalar; of a pointer, the address."""
        found = self.scalar(val)
        return Evaluator(self, None).address(found) if isinstance(found, Pointer) else found

    def pointer(self, val: Val) -> Pointer:
        """A scalar pointer."""
        found = self.scalar(val)
        assert isinstance(found, Pointer), val
        return found

    def scalar_op(self, node: Node) -> None:
        """An operation on scalars: integers, floats, pointers."""
        name, b = node.name, self.b
        if name == "tt.get_program_id":
            self.scalars[node.result] = self.programs["xyz".index(node.op.text.strip()[0])]
        elif name == "tt.get_num_programs":
            self.scalars[node.result] = self.grid["xyz".index(node.op.text.strip()[0])]
        elif name == "tt.addptr":
            pointer, offset = self.scalar(node.operands[0]), self.scalar(node.operands[1])
            self.scalars[node.result] = Evaluator(self, None).moved(pointer, offset, node.result.type.pointee)
        elif name == "arith.constant":
            self.scalars[node.result] = elem.constant(b, node.op.text.strip(), node.result.element, None)
        elif name == "ub.poison":
            el = "i64" if node.result.element == "ptr" else elem.held(node.result.element)
            self.scalars[node.result] = self._unpacked(b.const(0, el), node.result)
        elif name == "tt.unsplat":
            self.flush()
            index = (b.const(0, "i32"),) * len(node.operands[0].shape)
            self.scalars[node.result] = Evaluator(self, None).at(node.operands[0], index)
        else:
            given = [self.scalar(v) for v in node.operands]
            if any(isinstance(v, Pointer) for v in given) or node.result.element == "ptr":
                self.scalars[node.result] = self._pointer_op(node, given)
            else:
                self.scalars[node.result] = self.apply(node, given)  # type: ignore[arg-type]

    def _pointer_op(self, node: Node, given: Sequence[Value | Pointer]) -> Value | Pointer:
        """Casts, comparisons and choices of pointers."""
        b, kind = self.b, node.result.type
        values = [Evaluator(self, None).address(v) if isinstance(v, Pointer) else v for v in given]
        if node.name in ("tt.int_to_ptr", "tt.bitcast"):
            return self._pointer(values[0], kind)
        if node.name == "tt.ptr_to_int":
            return values[0]
        if node.name == "arith.select":
            return self._pointer(b.select(*values), kind)
        return self.apply(node, values)

    def _pointer(self, address: Value, kind: Type) -> Pointer:
        return Pointer(self.b.pointer(address), self.b.const(0, "i64"), kind.pointee)

    def _unpacked(self, value: Value, val: Val) -> Value | Pointer:
        return self._pointer(value, val.type) if val.element == "ptr" else value

    def apply(self, node: Node, given: Sequence[Value]) -> Value:
        """An elementwise operation on values of one width."""
        sources = ["i64" if v.element == "ptr" else v.element for v in node.operands]
        return elem.apply(self.b, node.op, sources, node.result.element, given)

    def load(self, node: Node) -> None:
        """A load that cannot wait for what uses it."""
        if node.result.is_tensor:
            self.add(Load(self, node))
            return
        self.flush()
        one = Evaluator(self, None)
        mask, other = one.mask_and_other(node, ())
        if mask is not None and mask.constant is not None:
            if not mask.constant:
                self.scalars[node.result] = other
                return
            mask = None
        el, pointer = elem.held(node.result.element), self.pointer(node.operands[0])
        value = one.fetch(pointer, el, mask, other, self.b.depth, is_volatile(node))
        if node.result.element == "ptr":
            self.scalars[node.result] = self._pointer(value, node.result.type)
        else:
            self.scalars[node.result] = value

    def store(self, node: Node) -> None:
        if node.operands[0].is_tensor:
            self.add(Store(self, node))
            return
        self.flush()
        one = Evaluator(self, None)
        mask = self.plain(node.operands[2]) if len(node.operands) > 2 else None
        one.put(self.pointer(node.operands[0]), self.plain(node.operands[1]), mask)
        self.done.add(node)

    def check(self, node: Node) -> None:
        """A tl.device_assert. A failure is recorded, for the launch and for the rest of this program."""
        b, val = self.b, node.operands[0]
        self.checks.append(node.op.text.partition('"')[2].rpartition('"')[0])
        number, status = b.const(len(self.checks), "i32"), Value("%status", "ptr", None, 0)

        def fail() -> None:
            b.store(number, status)
            b.store(b.const(0, "i8"), self.flag.start)

        if val.is_tensor:
            self.add(Check(self, val, fail))
            self.flush()
        else:
            b.branch(b.not_(self.plain(val)), fail)

    @functools.cached_property
    def flag(self) -> Buffer:
        """Whether no assertion of this program has failed yet."""
        flag = self.allocate((), Type("i1"))
        with self.b.hoisted(0):
            self.b.store(self.b.const(1, "i8"), flag.start)
        return flag

    def going_on(self) -> Value:
        return self.b.load(self.flag.start, "i1")

    # -- memory of the kernel's own

    def allocate(self, shape: Sequence[int], kind: Type, strides: Sequence[int] | None = None) -> Buffer:
        """A buffer for a tensor of these extents and the type's element."""
        size = 1
        for n in shape:
            size *= n
        el = "i64" if kind.element == "ptr" else elem.held(kind.element)
        start = self.b.gep(Value("%scratch", "ptr", None, 0), self.b.const(self.scratch, "i64"), "i8")
        memory, self.scratch = self.scratch, self.scratch + -(-size * bytes_of(el) // 64) * 64
        pointee = kind.pointee if kind.element == "ptr" else ""
        return Buffer(start, kind.element, tuple(shape), tuple(strides or rows_of(shape)), memory, pointee)

    def save(self, val: Val) -> Buffer:
        """Keeps a value in memory; whoever reads it from now on reads that."""
        for sink in self.pending:
            if isinstance(sink, Save) and sink.becomes is val:
                return sink.buffer
        buffer = self.allocate(val.shape, val.type)
        self.add(Save(self, val, buffer, val))
        return buffer

    def dense(self, val: Val) -> Buffer:
        """The value in memory, in rows."""
        stored = self.stored.get(val)
        if isinstance(stored, Buffer) and stored.strides == rows_of(stored.shape) and stored.place is None:
            return stored
        if stored is None:
            buffer = self.save(val)
            self.flush()
            return buffer
        buffer = self.allocate(val.shape, val.type)
        self.add(Save(self, val, buffer))
        self.flush()
        return buffer

    def overwritable(self, c: Val, node: Node) -> Buffer | None:
        """Memory that holds something that only `c` is made of, element by element, and that nothing else needs when
        `node` reads c: c may be written over it."""
        for val in {c, *self.facts.deps(c)}:
            held = self.stored.get(val)
            block = val.node.block if val.node is not None else val.block
            if not isinstance(held, Buffer) or held.shape != c.shape or held.strides != rows_of(c.shape):
                continue
            if held.element != c.element or block is not node.block or not control.same_places(self, c, val):
                continue
            if any(user is not node and user.position >= node.position for user in self.facts.sinks(val)):
                continue
            sharing = (v for v, other in self.stored.items()
                       if v is not val and isinstance(other, Buffer) and other.memory == held.memory)  # fmt: skip
            if not any(self.facts.sinks(v) - self.done - {node} for v in sharing):
                return held
        return None

    # -- nests

    def add(self, sink: Sink) -> None:
        """A sink joins those that wait, if they can share a nest; else these are written first."""
        if self.pending and not self._fits(sink):
            self.flush()
        self.pending.append(sink)

    def _fits(self, sink: Sink) -> bool:
        first = self.pending[0]
        axes = {s.axis for s in (*self.pending, sink) if s.axis is not None}
        if sink.shape != first.shape or len(axes) > 1:
            return False
        results = {val for s in self.pending for val in s.results()}
        if any(results & self.facts.deps(val) for val in (*sink.inputs(), *sink.masks())):
            return False
        return self._may_interleave([*self.pending, sink])

    def _may_interleave(self, sinks: Sequence[Sink]) -> bool:
        """May every chunk of each sink go before the next chunk of the others?"""
        stores = [s.node for s in sinks if s.node is not None and s.node.name in WRITES]
        if not stores:
            return True
        loads = {n for s in sinks for val in (*s.inputs(), *s.masks()) for n in self.facts.loads(val)}
        loads |= {s.node for s in sinks if s.node is not None and s.node.name == "tt.load"}
        if any(not self.facts.may_stream(load, store) for load in loads for store in stores):  # type: ignore[arg-type]
            return False
        return not any(self.facts.may_alias(a, c) for i, a in enumerate(stores) for c in stores[:i])

    def flush(self) -> None:
        """Writes the nest of the sinks that wait."""
        if not self.pending:
            return
        sinks, self.pending = self.pending, []
        for sink in sinks:
            if sink.node is not None:
                self.done.add(sink.node)
        sinks += self._worth_keeping(sinks)
        Nest(self, sinks).run()
        for sink in sinks:
            if isinstance(sink, Save) and sink.becomes is not None:
                self.stored[sink.becomes] = sink.buffer
            sink.done()

    def _worth_keeping(self, sinks: Sequence[Sink]) -> list[Sink]:
        """Values that the nest computes at some cost and that later sinks need too."""
        kept: list[Sink] = []
        shape = sinks[0].shape
        queue = [val for sink in sinks for val in sink.inputs()]
        seen = {sink.becomes for sink in sinks if isinstance(sink, Save)}
        for sink in sinks:
            if isinstance(sink, SaveAll):  # the end of a region: nothing else comes
                seen.update(val for val, _ in sink.pairs)
                queue += [v for val, _ in sink.pairs if val.node is not None for v in val.node.operands]
        while queue:
            val = queue.pop()
            if val in seen or not val.is_tensor or val in self.stored:
                continue
            seen.add(val)
            node = val.node
            if node is None or not self.facts.is_virtual(node):
                continue
            if val.shape == shape and self.facts.cost(val) >= DEAR and self.facts.sinks(val) - self.done:
                kept.append(Save(self, val, self.allocate(val.shape, val.type), val))
                continue
            queue += node.operands
        return kept

    # -- the rest

    def finish(self, node: Node) -> None:
        """tt.return"""
        self.flush()
        self.jump("llvm.return")

    def reduce(self, node: Node) -> None:
        self.add(Reduce(self, node))

    def scan(self, node: Node) -> None:
        self.add(Scan(self, node))

    def map(self, node: Node) -> None:
        self.add(Map(self, node))

    def view(self, node: Node) -> None:
        """A reshape that moves elements: the same memory, read in another shape."""
        assert not is_trivial_reshape(node)
        source = self.dense(node.operands[0])
        shape = node.result.shape
        self.stored[node.result] = replace(source, shape=shape, strides=rows_of(shape))
        self.done.add(node)


_WRITERS: dict[str, Callable[[Emitter, Node], None]] = {
    "scf.for": control.loop,
    "scf.if": control.branch,
    "scf.while": control.loop_while,
    "tt.return": Emitter.finish,
    "tt.store": Emitter.store,
    "tt.reduce": Emitter.reduce,
    "tt.scan": Emitter.scan,
    "tt.map_elementwise": Emitter.map,
    **dict.fromkeys(ATOMICS, atomics.write),
    "tt.histogram": histogram.write,
    "tt.print": printing.write,
    "tt.dot": dot.write,
    "tt.dot_scaled": scaled.write,
    "tt.reshape": Emitter.view,
    "llvm.intr.assume": lambda self, node: None,
}
