"""A kernel's TTIR as a graph: every value is an object that knows its type, its maker and its users.

Names repeat in sibling regions of the text, and most operations write only some of their types; here both are settled.
What Triton does not inline is inlined, and blocks that branch to each other become `scf.if`s.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from ..ttir import Block, Function, Op, Type, _types, parse
from .flow import RETURN, Flow


@dataclass(eq=False, slots=True)
class Val:
    """A value: what an operation gives, or an argument of a region."""

    type: Type
    node: Node | None  # None for an argument
    number: int  # which result of the node, or which argument
    block: Body | None = None  # of an argument
    users: list[Node] = field(default_factory=list)
    steps: tuple[int | None, ...] | None = None  # analysis.steps of it, once they are asked for

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
    position: int = 0
    results: list[Val] = field(default_factory=list)
    regions: list[Body] = field(default_factory=list)
    last: int = 0  # the last position inside its regions

    @property
    def name(self) -> str:
        return self.op.name

    @property
    def result(self) -> Val:
        (only,) = self.results
        return only


@dataclass(eq=False, slots=True)
class Body:
    """What is done in order: the kernel, or a region of an operation."""

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
    body: Body

    def nodes(self) -> Iterator[Node]:
        return _walk(self.body)


def _walk(block: Body) -> Iterator[Node]:
    for node in block.nodes:
        yield node
        for region in node.regions:
            yield from _walk(region)


def program_of(text: str) -> Program:
    """The kernel in a module's text."""
    functions = parse(text)
    (kernel,) = (function for function in functions if function.public)
    return _Resolver(functions).kernel(kernel)


_BARRIERS = ("gpu.barrier", "ttg.barrier", "tt.debug_barrier")  # between a program's threads, of which there is one
_CALLEE = re.compile(r'@("[^"]+"|[\w.$-]+)')
_FOR_ARGUMENTS = re.compile(r"-> \((.*)\)\s*(?::|$)")


class _Resolver:
    """Names to values, scope by scope."""

    def __init__(self, functions: Iterable[Function]) -> None:
        self.functions = {function.name: function for function in functions}
        self.scopes: list[dict[str, Val]] = []

    def kernel(self, function: Function) -> Program:
        arguments = [Val(t, None, i) for i, t in enumerate(function.types[: len(function.arguments)])]
        body = Body(None)
        self.inlined(function, arguments, body)
        body.nodes.append(_made(Op("tt.return", [], "", [], []), [], body))
        _number(body, 0)
        return Program(function.name, arguments, body)

    def inlined(self, function: Function, given: list[Val], body: Body) -> list[Val]:
        """A function's operations at the end of a body; gives what it returns."""
        outer, self.scopes = self.scopes, [dict(zip(function.arguments, given, strict=True))]
        results = self.straight(function.blocks, body)
        self.scopes = outer
        return results

    def straight(self, blocks: list[Block], body: Body) -> list[Val]:
        """Blocks that branch to each other at the end of a body; gives what they return."""
        return _Straight(self, blocks).write(body)

    def region(self, blocks: list[Block], parent: Node) -> Body:
        """A region of an operation."""
        first, body = blocks[0], Body(parent)
        self.scopes.append({})
        types = first.types or [_argument_type(parent, i) for i in range(len(first.arguments))]
        for i, (name, kind) in enumerate(zip(first.arguments, types, strict=True)):
            body.arguments.append(self.define(name, Val(kind, None, i, body)))
        if len(blocks) > 1:
            results = self.straight(blocks, body)
            body.nodes.append(_made(Op(f"{parent.name}.return", [], "", [], []), results, body))
        else:
            self.add(first.ops, body)
            if parent.name.startswith("scf.") and not _ends(first):  # the text leaves out an empty one
                body.nodes.append(_made(Op("scf.yield", [], "", [], []), [], body))
        self.scopes.pop()
        return body

    def define(self, name: str, value: Val) -> Val:
        self.scopes[-1][name] = value
        return value

    def find(self, name: str) -> Val:
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        raise AssertionError(f"{name} is not defined")

    def add(self, ops: Iterable[Op], body: Body) -> None:
        """Operations at the end of a body."""
        for op in ops:
            if op.name == "tt.call":
                self.call(op, body)
            elif op.name not in _BARRIERS:
                body.nodes.append(self.node(op, body))

    def call(self, op: Op, body: Body) -> None:
        callee = _CALLEE.search(op.text)
        assert callee, op.text
        given = [self.find(name) for name in op.operands]
        results = self.inlined(self.functions[callee[1].strip('"')], given, body)
        for name, value in zip(op.results, results, strict=True):
            self.define(name, value)

    def node(self, op: Op, body: Body) -> Node:
        node = Node(op, [], body)
        if op.name == "scf.for":
            self.loop(node)
        elif op.name == "scf.while":
            self.loop_while(node)
        else:
            node.operands = [self.find(name) for name in op.operands]
            node.regions = [self.region(region, node) for region in op.regions]
        _use(node)
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
        node.regions = [self.region(node.op.regions[0], node)]

    def loop_while(self, node: Node) -> None:
        names = node.op.operands
        node.operands = [self.find(name) for name in names[1::2]]
        before = node.op.regions[0][0]
        before.arguments, before.types = list(names[0::2]), [v.type for v in node.operands]
        node.regions = [self.region(region, node) for region in node.op.regions]


@dataclass(frozen=True)
class _Exit:
    """A way out of some operations: whether it is taken (None: if no other is), and the values that go with it."""

    taken: Val | None
    values: list[Val]


_Exits = dict[str, _Exit]  # by the label of the block that they lead to


def _passed(exits: _Exits, body: Body) -> _Exits:
    return exits


class _Straight:
    """Writes blocks that branch to each other as `scf.if`s.

    What only one branch leads to is inside it. A join follows the branches that lead there; if some of these return, or
    go further, it is in an `scf.if` of its own, and they give which way they went. Each block is written once.
    """

    def __init__(self, resolver: _Resolver, blocks: list[Block]) -> None:
        self.resolver, self.flow = resolver, Flow(blocks)

    def write(self, body: Body) -> list[Val]:
        return self.tree(self.flow.entry, body)[RETURN].values

    def tree(self, label: str, body: Body) -> _Exits:
        """A block, and the blocks under it, at the end of a body."""
        *ops, end = self.flow.blocks[label].ops
        self.resolver.add(ops, body)
        ways = self.flow.edges[label]
        if len(ways) == 1:
            exits = self.edge(*ways[0], body)
        else:
            condition = self.resolver.find(end.operands[0])
            yes, no = (functools.partial(self.edge, *way) for way in ways)
            exits = self.either(condition, yes, no, body, end.line)
        for join in self.flow.joins[label]:
            here = exits.pop(join)
            self.define(join, here.values)
            if exits:
                assert here.taken is not None
                sides = functools.partial(self.tree, join), functools.partial(_passed, exits)
                exits = self.either(here.taken, *sides, body, end.line)
            else:
                exits = self.tree(join, body)
        return exits

    def edge(self, label: str, names: list[str], body: Body) -> _Exits:
        values = [self.resolver.find(name) for name in names]
        if label == RETURN or self.flow.is_join(label):
            return {label: _Exit(None, values)}
        self.define(label, values)
        return self.tree(label, body)

    def define(self, label: str, values: list[Val]) -> None:
        for name, value in zip(self.flow.blocks[label].arguments, values, strict=True):
            self.resolver.define(name, value)

    def either(
        self, condition: Val, yes: Callable[[Body], _Exits], no: Callable[[Body], _Exits], body: Body, line: str
    ) -> _Exits:
        """An scf.if at the end of a body, and the ways out of it."""
        resolver = self.resolver
        node = _made(Op("scf.if", [], "", [], [], line=line), [condition], body)
        sides = []
        for write in (yes, no):
            inside = Body(node)
            resolver.scopes.append({})
            sides.append((inside, write(inside)))
            resolver.scopes.pop()
        node.regions = [inside for inside, _ in sides]
        shapes = {label: [v.type for v in way.values] for _, exits in sides for label, way in exits.items()}
        for inside, exits in sides:
            given = [v for label, types in shapes.items() for v in self.given(exits, label, types, len(shapes), inside)]
            inside.nodes.append(_made(Op("scf.yield", [], "", [], []), given, inside))
        node.results = [Val(v.type, node, i) for i, v in enumerate(node.regions[0].terminator.operands)]
        body.nodes.append(node)
        results = iter(node.results)
        return {label: _Exit(next(results) if len(shapes) > 1 else None, [next(results) for _ in types])
                for label, types in shapes.items()}  # fmt: skip

    def given(self, exits: _Exits, label: str, types: list[Type], ways: int, body: Body) -> list[Val]:
        """What one side yields for a way out that may not be its own: whether it goes there, and with which values."""
        way = exits.get(label)
        values = way.values if way else [self.constant("ub.poison", "", kind, body) for kind in types]
        if ways == 1:
            return values
        taken = way.taken if way else None
        return [taken or self.constant("arith.constant", "true" if way else "false", Type("i1"), body), *values]

    def constant(self, name: str, text: str, kind: Type, body: Body) -> Val:
        node = _made(Op(name, [], text, [], [kind]), [], body)
        node.results.append(Val(kind, node, 0))
        body.nodes.append(node)
        return node.result


def _made(op: Op, operands: list[Val], body: Body) -> Node:
    """An operation that the text does not have."""
    node = Node(op, operands, body)
    _use(node)
    return node


def _use(node: Node) -> None:
    for value in node.operands:
        value.users.append(node)


def _number(body: Body, position: int) -> int:
    """Gives the operations of a body the positions after this one; gives the last."""
    for node in body.nodes:
        position += 1
        node.position = position
        for region in node.regions:
            position = _number(region, position)
        node.last = position
    return position


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
