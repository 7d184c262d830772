"""A random graph while it grows: its nodes with their values, and how operands and attributes are drawn from it.

An op is applied to values that are known, so what torch leaves undefined is seen before it happens: an integer divided
by zero, a float cast to an integer that it does not fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, get_args

import torch

import fusedsl.ops  # noqa: F401  (declares them)
from fusedsl import ir
from fusedsl.errors import Line
from fusedsl.index import Index, Symbol, evaluate, poly
from fusedsl.interpret import Machine
from fusedsl.ir import OPS, Graph, Node, Op, intern
from fusedsl.ops.convert import torch_dtype
from fusedsl.types import DType, Type, dtype
from tests.choices import Source
from tests.tensors import LAYOUTS, Domain, fill

MOST_ELEMENTS = 2048
MOST_DIMENSIONS = 5


class Case(NamedTuple):
    """A graph and inputs for it."""

    graph: Graph
    inputs: list[torch.Tensor | float]


@dataclass(frozen=True)
class Limits:
    """What to draw from. edges: whether inputs hold NaN, inf, -0.0, tiny and huge values now and then."""

    max_ops: int = 30
    ops: Collection[str] | None = None  # all by default
    dtypes: Sequence[str] = ("f32", "f16", "bf16", "f64", "i64", "i32", "bool", "u8", "i8", "i16")
    symbols: bool = True
    edges: bool = True
    strides: bool = True


class Undrawable(Exception):
    """An op that the generator does not know how to call."""


class Refused(Exception):
    """An application that is not defined on these values."""


@dataclass
class Builder:
    """The nodes that there are so far, and what is drawn of them for the next one."""

    source: Source
    limits: Limits
    sizes: dict[str, int] = field(default_factory=dict)
    inputs: dict[Node, torch.Tensor | float] = field(default_factory=dict)
    values: dict[Node, Any] = field(default_factory=dict)
    pool: list[Node] = field(default_factory=list)
    used: set[Node] = field(default_factory=set)  # nodes of the pool that another one needs
    names: dict[Node, str] = field(default_factory=dict)
    machine: Machine = field(init=False, repr=False)  # to be given once the sizes are

    def rarely(self, n: int) -> bool:
        """True once in n times."""
        return self.source.integer(0, n - 1) == n - 1

    # -- growing --

    def adopt(self, node: Node) -> None:
        """Works out the values of a node and of what it newly consists of."""
        fresh: dict[Node, Any] = {}
        for each in ir.topological([node], self.values):
            args = [a if a is None else fresh.get(a, self.values.get(a)) for a in each.args]
            refuse_undefined(each, args)
            sizes = self.numbers(each.shape)
            if math.prod(sizes) > MOST_ELEMENTS or each.rank > MOST_DIMENSIONS:
                raise Refused
            # n // 2 may be 1 and n - 2 may be 0: for those a function is traced anew
            if any(number < 2 and not isinstance(size, int) for size, number in zip(each.shape, sizes, strict=True)):
                raise Refused
            value = fresh[each] = self.machine.run(each, args)
            if isinstance(value, torch.Tensor):
                assert list(value.shape) == sizes, f"{each} has shape {list(value.shape)}"
        self.values |= fresh
        if node not in self.pool:
            self.pool.append(node)
            self.used |= set(node.inputs)
            if self.rarely(3):
                self.names[node] = self.source.pick(["h", "y", "x", "total"])

    def finished(self) -> Case:
        """The graph of up to three outputs that nothing else uses, the last node among them."""
        ends = [n for n in self.pool if n not in self.used] or self.pool
        outputs = [ends[-1]]
        for _ in range(self.source.integer(0, 2)):
            outputs.append(self.source.pick(ends))
        reached = set(ir.topological(outputs))
        inputs = {node: value for node, value in self.inputs.items() if node in reached}
        told = {size for node in inputs for size in node.shape}
        for name in self.sizes:  # every symbol stands for some input's size
            if poly(Symbol(name)) not in told:
                node = self.tensor((-4, 4), None, [poly(Symbol(name))])
                inputs[node] = self.inputs[node]
        lines = {node: Line("model.py", k) for k, node in enumerate(self.pool, 1) if node not in inputs}
        graph = Graph(tuple(inputs), tuple(outputs), "random", self.names, lines)
        return Case(graph, list(inputs.values()))

    # -- operands --

    def numbers(self, shape: Sequence[Index]) -> list[int]:
        return [evaluate(n, self.sizes) for n in shape]

    def tensor(self, domain: Domain, dt: DType | None = None, shape: Sequence[Index] | None = None) -> Node:
        """A new input."""
        dt = dt or dtype(self.source.pick(self.limits.dtypes))
        if shape is None:
            symbols = [poly(Symbol(name)) for name in self.sizes]
            common = [3, 2, 1, *symbols, 5, 7, 0] if self.rarely(4) else [3, 2, *symbols]
            shape = [self.source.pick(common) for _ in range(self.source.integer(0, 3))]
        edges = self.limits.edges and self.rarely(4)
        values = fill(self.numbers(shape), dt, domain, self.source.integer(0, 1000), edges)
        return self.given(self.source.pick(LAYOUTS)(values) if self.limits.strides else values, Type(dt, tuple(shape)))

    def given(self, value: torch.Tensor | float, type: Type) -> Node:
        number = not isinstance(value, torch.Tensor)
        node = intern(OPS["input"], (), {"name": f"x{len(self.inputs)}", "number": number}, type)
        self.inputs[node] = self.values[node] = value
        if not number:
            self.pool.append(node)
        return node

    def operand(self, domain: Domain, fits: Callable[[Node], bool] = lambda node: True) -> Node:
        """A node there is, most often a late one, or a new input."""
        found = [node for node in self.pool if fits(node)]
        if not found or self.rarely(8):
            known = self.constant(domain)
            return known if self.rarely(3) and fits(known) else self.tensor(domain)
        unused = [node for node in found if node not in self.used]
        return self.late(unused if unused and not self.rarely(4) else found)

    def late(self, nodes: Sequence[Node]) -> Node:
        """One of the nodes, most often one of the last."""
        room = len(nodes) - 1
        return nodes[-1 - min(self.source.integer(0, room), self.source.integer(0, room))]

    def companion(self, first: Node, domain: Domain, only_tensors: bool = False) -> Any:
        """Something to put beside a tensor: a node or a new input that broadcasts with it, or a number."""
        choice = self.source.integer(0, 9)
        if choice < 5 or (only_tensors and choice < 8):
            fitting = [node for node in self.pool if aligned(node.shape, first.shape)]
            if fitting:
                unused = [node for node in fitting if node not in self.used and node is not first]
                return self.late(unused or fitting)
        if choice < 7 and not only_tensors:
            return self.number(domain)
        if choice == 7 and not only_tensors and self.rarely(2):
            return self.given(float(self.source.integer(1, 4)) / 4, Type(dtype("f64"), (), weak=True))
        shape = [n if self.source.integer(0, 3) else 1 for n in first.shape]
        return self.tensor(domain, None if self.rarely(3) else first.dtype, shape[self.rarely(4) and len(shape) // 2 :])

    def like(self, first: Node, domain: Domain) -> Node:
        """A tensor of the same shape and dtype, there already or new."""
        alike = [node for node in self.pool if node.type == first.type]
        return self.source.pick(alike) if alike and self.rarely(2) else self.tensor(domain, first.dtype, first.shape)

    def number(self, domain: Domain) -> int | float | bool:
        low, high = domain
        whole = self.source.integer(math.ceil(low), max(math.floor(high), math.ceil(low)))
        return self.source.pick([whole, float(whole), whole + 0.5, whole > 0])

    def constant(self, domain: Domain) -> Node:
        dt, value = dtype(self.source.pick(self.limits.dtypes)), self.number(domain)
        return ir.constant(value if dt.is_float else bool(value) if dt.is_bool else int(value), Type(dt))

    def arguments(self, op: Op) -> dict[str, Any]:
        """Operands that broadcast, attributes by their rules."""
        domains = op.domain if isinstance(op.domain[0], Sequence) else [op.domain] * len(op.operands)
        companion = self.like if "target" in op.operands else self.companion
        if any(name == op.name for name, _ in NUMBERS_ONLY):
            companion = partial(self.companion, only_tensors=True)
        given: dict[str, Any] = {}
        rank = 0
        for name, domain in zip(op.operands, domains, strict=False):
            optional = op.signature.parameters[name].default is None
            if optional and not self.source.integer(0, 2):
                given[name] = None
            elif not given:
                given[name] = self.operand(domain)
                rank = given[name].rank
            elif (op.name, name) in NUMBERS_ONLY:
                given[name] = self.number(domain)
            else:
                given[name] = companion(given[op.operands[0]], domain)
        return given | {key: self.attribute(op, key, rank) for key in op.rules}

    def attribute(self, op: Op, key: str, rank: int) -> Any:
        drawer = DRAWERS.get(op.rules[key])
        if (op.name, key) in CHOICES:
            return self.source.pick(CHOICES[op.name, key])
        default = op.signature.parameters[key].default
        if default is not op.signature.empty and (drawer is None or self.source.integer(0, 2)):
            return default
        if drawer is None:
            raise Undrawable(f"{op.name}: {key}")
        return drawer(self, rank)

    # -- kinds of attributes --

    def dim(self, rank: int) -> int:
        return self.source.integer(-max(rank, 1), max(rank, 1) - 1)

    def some_dims(self, rank: int) -> tuple[int, ...]:
        return tuple(d for d in range(rank) if self.source.integer(0, 1))

    def order(self, rank: int) -> tuple[int, ...]:
        left = list(range(rank))
        return tuple(left.pop(self.source.integer(0, len(left) - 1)) for _ in range(rank))


def aligned(a: Sequence[Index], b: Sequence[Index]) -> bool:
    """Whether two shapes broadcast."""
    return all(m == n or 1 in (m, n) for m, n in zip(reversed(a), reversed(b), strict=False))


# ---- attributes ------------------------------------------------------------------------------------------------------


def _rule(annotation: Any) -> ir.Rule:
    return get_args(annotation)[1]


_FLOATS = ("f32", "f16", "bf16", "f64")
DRAWERS: dict[Any, Callable[[Builder, int], Any]] = {
    _rule(ir.Dim): Builder.dim,
    _rule(ir.NewDim): lambda b, rank: b.source.integer(-rank - 1, rank),
    _rule(ir.Dims): lambda b, rank: b.source.pick([None, b.dim(rank), b.some_dims(rank)]),
    _rule(ir.OneDim): lambda b, rank: b.dim(rank),
    _rule(ir.GivenDims): lambda b, rank: b.source.pick([None, b.dim(rank), b.some_dims(rank)]),
    _rule(ir.DimOrder): Builder.order,
    _rule(ir.MaybeDim): lambda b, rank: b.source.pick([None, b.dim(rank)]),
    _rule(ir.Flag): lambda b, rank: b.source.pick([False, True]),
    _rule(ir.Number): lambda b, rank: b.source.pick([1.0, 0.5, 2.0, 0.25]),
    _rule(ir.MaybeNumber): lambda b, rank: b.source.pick([None, 1.0, 0.5, 0.25]),
    _rule(ir.ToDType): lambda b, rank: dtype(b.source.pick(b.limits.dtypes)),
    _rule(ir.MaybeDType): lambda b, rank: b.source.pick([None, *map(dtype, _FLOATS)]),
}
CHOICES: dict[tuple[str, str], Sequence[Any]] = {
    ("gelu", "approximate"): ("none", "tanh"),
    ("tril", "diagonal"): (0, 1, -1),
    ("triu", "diagonal"): (0, 1, -1),
    ("diagonal", "offset"): (0, 1, -1),
    ("var", "correction"): (1, 0),
    ("std", "correction"): (1, 0),
    ("vector_norm", "ord"): (2, 1, math.inf, -math.inf, 0, 3.0),
    ("pairwise_distance", "p"): (2, 1, math.inf, 3.0),
    ("dist", "p"): (2, 1, math.inf, 3.0),
    ("renorm", "p"): (2, 1, 3.0),
    ("renorm", "maxnorm"): (1.0, 4.0),
    ("logit", "eps"): (None, 0.1),
    ("retype", "dtype"): (dtype("f16"), dtype("bf16"), dtype("f32")),
    ("mvlgamma", "p"): (1, 3),
    ("polygamma", "n"): (0, 1, 2, 5),
    **{(name, "n"): (0, 1, 3, 9) for name in OPS if "_polynomial_" in name},
    ("histc", "bins"): (3, 1, 5),
    ("histc", "min"): (0, -1.0),
    ("histc", "max"): (0, 2.0),
    ("diff", "n"): (1, 2, 0),
    ("slopes", "edge_order"): (1, 2),
    ("powers", "n"): (None, 3, 1),
    ("diag_embed", "offset"): (0, 1, -2),
}

# Operands for which torch takes Python numbers only.
NUMBERS_ONLY = {("addcmul", "value"), ("addcdiv", "value"), ("full_like", "fill_value")}


# ---- what torch leaves undefined -------------------------------------------------------------------------------------


def refuse_undefined(node: Node, args: Sequence[Any]) -> None:
    """Raises Refused where torch says nothing about the result, or devices differ."""
    values = [torch.as_tensor(a) for a in args if a is not None]
    if node.op.name == "cast" and values[0].is_floating_point() and node.dtype.is_integer:
        info = torch.iinfo(torch_dtype(node.dtype))
        inside = (values[0].double() > info.min - 1.0) & (values[0].double() < info.max + 1.0)
        if not bool(inside.all()):  # NaN is not inside
            raise Refused
    if node.op.name in _DIVISIONS and not node.dtype.is_float:
        least = torch.iinfo(torch_dtype(node.dtype)).min if node.dtype.is_integer else None
        if bool((values[1] == 0).any()) or (bool((values[0] == least).any()) and bool((values[1] == -1).any())):
            raise Refused


_DIVISIONS = {"floor_divide", "trunc_divide", "integer_quotient", "remainder", "fmod"}
