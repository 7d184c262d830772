"""A kernel's TTIR as a graph: every value is an object that knows its type, its maker and its users.

Names repeat in sibling regions of the text, and most operations write only some of their types; here both are settled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..ttir import Block, Function, Op, Type, _types, parse
from .errors import CannotCompile


@dataclass(eq=False, slots=True)
class Val:
    """A value: what an operation gives, or an argument of a region."""

    type: Type
    node: Node | None  # None for an argument
    number: int  # which result of the node, or which argument
    block: Body | None = None  # of an argument
    users: list[Node] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.extent

    @property
    def is_tensor(self) -> bool:
        return self.type.shape is not None

    @property
    def element(self) -> str:
        return self.type.element

    def __repr__(self) -> str:
        return f"{self.node.name if self.node else 'argument'}#{self.number}: {self.type}"


@dataclass(eq=False, slots=True)
class Node:
    """An operation. Positions grow in the order of the text, those inside a region lie between its first and last."""

    op: Op
    operands: list[Val]
    block: Body
    position: int
    results: list[Val] = field(default_factory=list)
    regions: list[list[Body]] = field(default_factory=list)
    last: int = 0  # the last position inside its regions
    targets: list[tuple[str, list[Val]]] = field(default_factory=list)  # of a branch: labels and what they are given

    @property
    def name(self) -> str:
        return self.op.name

    @property
    def result(self) -> Val:
        (only,) = self.results
        return only


@dataclass(eq=False, slots=True)
class Body:
    """A block: a label, arguments, operations."""

    label: str
    parent: Node | None
    arguments: list[Val] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)

    @property
    def terminator(self) -> Node:
        return self.nodes[-1]


@dataclass
class Program:
    """The kernel."""

    name: str
    arguments: list[Val]
    blocks: list[Body]

    def nodes(self) -> Iterator[Node]:
        for block in self.blocks:
            yield from _walk(block)


def _walk(block: Body) -> Iterator[Node]:
    for node in block.nodes:
        yield node
        for region in node.regions:
            for inner in region:
                yield from _walk(inner)


def program_of(text: str) -> Program:
    """The kernel in a module's text. Raises CannotCompile where it calls functions that were not inlined."""
    functions = parse(text)
    (kernel,) = (function for function in functions if function.public)
    return _Resolver().function(kernel)


_BARRIERS = ("gpu.barrier", "ttg.barrier", "tt.debug_barrier")  # between a program's threads, of which there is one
_FOR_ARGUMENTS = re.compile(r"-> \((.*)\)\s*(?::|$)")


class _Resolver:
    """Names to values, scope by scope."""

    def __init__(self) -> None:
        self.position = 0
        self.scopes: list[dict[str, Val]] = []

    def function(self, function: Function) -> Program:
        arguments = [Val(t, None, i) for i, t in enumerate(function.types[: len(function.arguments)])]
        self.scopes.append(dict(zip(function.arguments, arguments, strict=True)))
        blocks = self.blocks(function.blocks, None)
        return Program(function.name, arguments, blocks)

    def blocks(self, blocks: list[Block], parent: Node | None) -> list[Body]:
        """The blocks of a region, whose names later blocks may use."""
        self.scopes.append({})
        made = []
        for block in blocks:
            body = Body(block.label, parent)
            types = block.types or [_argument_type(parent, i) for i in range(len(block.arguments))]
            for i, (name, kind) in enumerate(zip(block.arguments, types, strict=True)):
                body.arguments.append(self.define(name, Val(kind, None, i, body)))
            made.append(body)
        for block, body in zip(blocks, made, strict=True):
            body.nodes += [self.node(op, body) for op in block.ops if op.name not in _BARRIERS]
            if parent is not None and parent.name.startswith("scf.") and not _ends(block):
                body.nodes.append(self.node(Op("scf.yield", [], "", [], []), body))  # the text leaves out an empty one
        self.scopes.pop()
        return made

    def define(self, name: str, value: Val) -> Val:
        self.scopes[-1][name] = value
        return value

    def find(self, name: str) -> Val:
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        raise AssertionError(f"{name} is not defined")

    def node(self, op: Op, body: Body) -> Node:
        self.position += 1
        node = Node(op, [], body, self.position)
        if op.name == "tt.call":
            raise CannotCompile("a call of a function that is not inlined; drop its noinline", op)
        if op.name == "scf.for":
            self.loop(node)
        elif op.name == "scf.while":
            self.loop_while(node)
        elif op.name.startswith("cf."):
            self.branch(node)
        else:
            node.operands = [self.find(name) for name in op.operands]
            node.regions = [self.blocks(region, node) for region in op.regions]
        node.last = self.position
        for value in node.operands:
            value.users.append(node)
        for i, (name, kind) in enumerate(zip(op.results, _result_types(node), strict=True)):
            node.results.append(self.define(name, Val(kind, node, i)))
        return node

    def loop(self, node: Node) -> None:
        """Operands: start, stop, step, what is carried. The region's arguments: the index, what is carried."""
        index, start, stop, step, *pairs = node.op.operands
        node.operands = [self.find(name) for name in (start, stop, step, *pairs[1::2])]
        block = node.op.regions[0][0]
        block.arguments = [index, *pairs[0::2]]
        block.types = [node.operands[0].type, *(v.type for v in node.operands[3:])]
        node.regions = [self.blocks(node.op.regions[0], node)]

    def loop_while(self, node: Node) -> None:
        names = node.op.operands
        node.operands = [self.find(name) for name in names[1::2]]
        before = node.op.regions[0][0]
        before.arguments, before.types = list(names[0::2]), [v.type for v in node.operands]
        node.regions = [self.blocks(region, node) for region in node.op.regions]

    def branch(self, node: Node) -> None:
        targets = re.findall(r"(\^\w+)(?:\(([^)]*)\))?", node.op.text)
        if node.op.name == "cf.cond_br":
            node.operands.append(self.find(node.op.operands[0]))
        for label, given in targets:
            values = [self.find(name) for name in re.findall(r"%[\w$.-]+(?:#\d+)?", given.partition(" : ")[0])]
            node.targets.append((label, values))
            node.operands += values


def _ends(block: Block) -> bool:
    return bool(block.ops) and block.ops[-1].name in ("scf.yield", "scf.condition")


def _argument_type(parent: Node | None, number: int) -> Type:
    assert parent is not None, "a block of a function writes its arguments' types"
    return parent.operands[number].type


def _result_types(node: Node) -> list[Type]:
    """The types of the results, most of which the text leaves out."""
    op, count = node.op, len(node.op.results)
    if not count:
        return []
    if op.name in ("scf.for", "scf.if", "scf.while"):
        where = f"{op.text} : " if op.name != "scf.while" else ""
        found = _FOR_ARGUMENTS.search(where)
        return _types(found[1]) if found else op.types[-count:]
    if op.name in ("arith.cmpi", "arith.cmpf"):
        return [Type("i1", op.types[0].shape)]
    if op.name == "tt.load":
        return [Type(op.types[0].pointee, op.types[0].shape)]
    if op.name == "tt.addptr":
        return [op.types[0]]
    if op.name == "arith.constant":
        return [op.types[-1] if op.types else Type("i1")]
    if op.name == "tt.split":
        return [op.types[-1]] * count
    assert len(op.types) >= count, f"no types: {op.name}{op.text}"
    return op.types[-count:]
