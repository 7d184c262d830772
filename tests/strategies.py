"""Random graphs out of every declared op, with inputs that they are defined on.

`graph_and_inputs()` is a hypothesis strategy; `random_case(seed, max_ops)` the same generator on numpy's random
numbers, for sweeps of thousands. Ops are applied one at a time to values that are known, so what torch leaves undefined
is seen before it happens: an integer divided by zero, a float cast to an integer that it does not fit, an index out of
range. An application that an op's rules or torch refuse is left out, and the next one tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar, get_args

import numpy as np
import torch
from hypothesis import strategies as st

import fusedsl.ops  # noqa: F401  (declares them)
from fusedsl import ir
from fusedsl.errors import FuseError, Line
from fusedsl.index import Index, Symbol, evaluate, poly
from fusedsl.interpret import Machine
from fusedsl.ir import OPS, Graph, Node, Op, build, intern
from fusedsl.ops.convert import torch_dtype
from fusedsl.types import DType, Type, dtype

T = TypeVar("T")
Domain = tuple[float, float]
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


# ---- where choices come from -----------------------------------------------------------------------------------------


class Source(Protocol):
    """Choices; the first of several is the simplest."""

    def integer(self, low: int, high: int) -> int: ...

    def pick(self, options: Sequence[T]) -> T: ...


class Hypothesis:
    """Choices of hypothesis, which shrink."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw

    def integer(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def pick(self, options: Sequence[T]) -> T:
        return options[self.draw(st.integers(0, len(options) - 1))]


class Dice:
    """Choices of a numpy generator."""

    def __init__(self, seed: int) -> None:
        self.numbers = np.random.default_rng(seed)

    def integer(self, low: int, high: int) -> int:
        return int(self.numbers.integers(low, high + 1))

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.numbers.integers(len(options)))]


def random_case(seed: int, max_ops: int = 30, limits: Limits | None = None) -> Case:
    """The case of this seed."""
    return Builder(Dice(seed), replace(limits or Limits(), max_ops=max_ops)).case()


def graph_and_inputs(max_ops: int = 30, limits: Limits | None = None) -> st.SearchStrategy[Case]:
    """Graphs of up to this many ops, with inputs."""
    limits = replace(limits or Limits(), max_ops=max_ops)
    return st.composite(lambda draw: Builder(Hypothesis(draw), limits).case())()


# ---- tensors ---------------------------------------------------------------------------------------------------------

_EDGES = [math.nan, math.inf, -math.inf, -0.0, 0.0, 1.0, -1.0, 0.5, 1.5, 2.5]


def fill(shape: Sequence[int], dt: DType, domain: Domain, seed: int, edges: bool) -> torch.Tensor:
    """Values in the domain; seed 0 gives 1, 2, 3 ... With edges, some of those that a dtype has at its ends."""
    count = math.prod(shape)
    numbers = np.random.default_rng(seed)
    low, high = domain
    if dt.is_bool:
        values = torch.from_numpy(numbers.integers(0, 2, count)).to(torch.bool)
    elif dt.is_float:
        drawn = torch.from_numpy(numbers.uniform(low, high, count)) if seed else _simple(count, low, high)
        values = drawn.to(torch_dtype(dt))
    else:
        info = torch.iinfo(torch_dtype(dt))
        low, high = max(math.ceil(low), info.min), min(math.floor(high), info.max)
        high = max(low, high)
        drawn = torch.from_numpy(numbers.integers(low, high + 1, count)) if seed else _simple(count, low, high)
        values = drawn.to(torch_dtype(dt))
    if edges and count:
        for at in numbers.integers(0, count, 1 + count // 6):
            values[at] = _edge(dt, numbers)
    return values.reshape(tuple(shape))


def _simple(count: int, low: float, high: float) -> torch.Tensor:
    span = int(high - low)
    return torch.tensor([low + (k + 1) % (span + 1) for k in range(count)], dtype=torch.float64)


def _edge(dt: DType, numbers: np.random.Generator) -> Any:
    if dt.is_bool:
        return True
    if dt.is_float:
        info = torch.finfo(torch_dtype(dt))
        edges = [*_EDGES, info.tiny, info.smallest_normal / 4, info.max, info.min, info.eps]
    else:
        info = torch.iinfo(torch_dtype(dt))
        edges = [info.min, info.max, 0, 1]
    return edges[int(numbers.integers(len(edges)))]


def _dense(values: torch.Tensor) -> torch.Tensor:
    return values


def _transposed(values: torch.Tensor) -> torch.Tensor:
    order = tuple(reversed(range(values.ndim)))
    return values.permute(order).contiguous().permute(order)


def _sliced(values: torch.Tensor) -> torch.Tensor:
    """Every other element of a tensor twice as long, from the second on."""
    if not values.ndim:
        return values
    long = torch.repeat_interleave(values, 2, -1)
    return torch.cat([long[..., :1], long], -1)[..., 1::2] if values.shape[-1] else values


def _stacked(values: torch.Tensor) -> torch.Tensor:
    """Part of a larger tensor: an offset, and rows further apart than they are long."""
    return torch.nn.functional.pad(values.double(), (1, 2)).to(values.dtype)[..., 1:-2] if values.ndim else values


def _repeated(values: torch.Tensor) -> torch.Tensor:
    """One row for all: stride 0."""
    return values[:1].expand(values.shape) if values.ndim and values.shape[0] else values


LAYOUTS: Sequence[Callable[[torch.Tensor], torch.Tensor]] = (_dense, _dense, _transposed, _sliced, _stacked, _repeated)

# ---- attributes ------------------------------------------------------------------------------------------------------


def _rule(annotation: Any) -> ir.Rule:
    return get_args(annotation)[1]


class Undrawable(Exception):
    """An op that the generator does not know how to call."""


class Refused(Exception):
    """An application that is not defined on these values."""


@dataclass
class Builder:
    """Applies random ops to what there is so far."""

    source: Source
    limits: Limits
    sizes: dict[str, int] = field(default_factory=dict)
    inputs: dict[Node, torch.Tensor | float] = field(default_factory=dict)
    values: dict[Node, Any] = field(default_factory=dict)
    pool: list[Node] = field(default_factory=list)
    used: set[Node] = field(default_factory=set)  # nodes of the pool that another one needs
    names: dict[Node, str] = field(default_factory=dict)

    def case(self) -> Case:
        if self.limits.symbols and self.rarely(2):
            self.sizes = {"n": self.source.integer(2, 5), "m": self.source.integer(2, 4)}
        self.machine = Machine(self.sizes)
        chosen = drawable(self.limits.ops)
        self.tensor((-4, 4))
        for _ in range(self.source.integer(1, self.limits.max_ops)):
            group = chosen[self.source.integer(0, len(chosen) - 1)]
            self.apply(OPS[self.source.pick(group)])
        return self.finished()

    def rarely(self, n: int) -> bool:
        """True once in n times."""
        return self.source.integer(0, n - 1) == n - 1

    # -- growing --

    def apply(self, op: Op) -> None:
        """One more node, or none where the op refuses its operands."""
        try:
            arguments = CALLS[op.name](self, op) if op.name in CALLS else self.arguments(op)
            made = build(op, (), arguments)
            for node in made if isinstance(made, tuple) else (made,):
                self.adopt(node)
        except (FuseError, Refused, RuntimeError, ValueError, ArithmeticError, IndexError):
            return

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


# ---- calls with rules of their own -----------------------------------------------------------------------------------


def _near(builder: Builder, op: Op, ndim: int = 1) -> tuple[Node, int]:
    """An operand with dimensions, and one of them."""
    x = builder.operand((-4, 4), lambda node: node.rank >= ndim)
    if x.rank < ndim:
        raise Refused
    return x, builder.source.integer(0, x.rank - 1)


def _expand(builder: Builder, op: Op) -> dict[str, Any]:
    x = builder.operand((-4, 4), lambda node: 1 in node.shape)
    sizes = [builder.source.pick([3, 2, 1]) if n == 1 else builder.source.pick([n, -1]) for n in x.shape]
    return {"x": x, "size": [*[2] * builder.rarely(3), *sizes]}


def _reshape(builder: Builder, op: Op) -> dict[str, Any]:
    x = builder.operand((-4, 4))
    way = builder.source.integer(0, 4)
    if way == 0 or not x.rank:
        return {"x": x, "shape": [-1]}
    if way == 1:
        return {"x": x, "shape": x.shape}
    at = builder.source.integer(0, x.rank - 1)
    if way == 2:
        return {"x": x, "shape": [*x.shape[:at], 1, *x.shape[at:]]}
    if way == 3 and x.rank > 1:
        at = max(at, 1)
        return {"x": x, "shape": [*x.shape[: at - 1], x.shape[at - 1] * x.shape[at], *x.shape[at + 1 :]]}
    return {"x": x, "shape": [*x.shape[:at], *_factors(builder, x.shape[at]), *x.shape[at + 1 :]]}


def _factors(builder: Builder, n: Index) -> list[Index]:
    by = builder.source.pick([2, 3])
    return [n // by, by] if isinstance(n, int) and n and n % by == 0 else [n]


def _permute(builder: Builder, op: Op) -> dict[str, Any]:
    x = builder.operand((-4, 4), lambda node: node.rank > 1)
    return {"x": x, "dims": builder.order(x.rank)}


def _roll(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    return {"x": x, "shifts": [builder.source.pick([1, -1, 2, 8])], "dims": [d]}


def _unflatten(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    return {"x": x, "dim": d, "sizes": _factors(builder, x.shape[d])}


def _slice(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    n = x.shape[d]
    start = builder.source.integer(0, min(evaluate(n, builder.sizes), 2))
    end = n - builder.source.integer(0, 1) if evaluate(n, builder.sizes) > start else n
    return {"x": x, "dim": d, "start": start, "end": end, "step": builder.source.pick([1, 1, 2, 3])}


def _select(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    return {"x": x, "dim": d, "index": builder.source.pick([0, x.shape[d] - 1])}


def _unfold(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    return {"x": x, "dimension": d, "size": builder.source.pick([1, 2, 3]), "step": builder.source.pick([1, 2])}


def _diagonal(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op, 2)
    return {"x": x, "dim1": d, "dim2": (d + 1) % x.rank, "offset": builder.source.pick([0, 1, -1])}


def _repeat(builder: Builder, op: Op) -> dict[str, Any]:
    x = builder.operand((-4, 4))
    return {"x": x, "repeats": [builder.source.pick([1, 2, 3]) for _ in range(x.rank + builder.rarely(4))]}


def _repeat_interleave(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    return {"x": x, "dim": d, "repeats": builder.source.pick([1, 2, 3])}


def _joined(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    parts = [x]
    for _ in range(builder.source.integer(0, 2)):
        shape = x.shape if op.name == "stack" else (*x.shape[:d], builder.source.pick([1, 2, 3]), *x.shape[d + 1 :])
        alike = [node for node in builder.pool if node.shape == shape]
        parts.append(builder.source.pick(alike) if alike else builder.tensor((-4, 4), None, shape))
    return {"tensors": parts, "dim": d}


def _pad(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    amounts = [builder.source.pick([0, 1, 2, -1]) for _ in range(2 * (x.rank - d))]
    return {"x": x, "pad": amounts, "value": builder.source.pick([None, 1, -math.inf]) if x.dtype.is_float else None}


def _pad_around(builder: Builder, op: Op) -> dict[str, Any]:
    x = builder.operand((-4, 4), lambda node: node.rank in (2, 3) and node.shape[-1] != 0)
    if x.rank not in (2, 3) or 0 in builder.numbers(x.shape):
        raise Refused
    n = evaluate(x.shape[-1], builder.sizes)
    mode = builder.source.pick(["reflect", "replicate", "circular"])
    most = min(2, n - 1 if mode == "reflect" else n)
    return {"x": x, "pad": [builder.source.integer(0, most) for _ in range(2)], "mode": mode}


def _places(builder: Builder, size: Index, shape: Sequence[Index], low: int = 0) -> Node:
    """A tensor of indices of a dimension."""
    n = evaluate(size, builder.sizes)
    if n == 0:
        raise Refused
    kind = dtype(builder.source.pick(["i64", "i32"]))
    values = fill(builder.numbers(shape), kind, (low * n, n - 1), builder.source.integer(0, 1000), edges=False)
    return builder.given(values, Type(kind, tuple(shape)))


def _gather(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    shape = (*x.shape[:d], builder.source.pick([1, 2, 4]), *x.shape[d + 1 :])
    name = "indices" if "indices" in op.operands else "index"
    return {"x": x, "dim": d, name: _long(_places(builder, x.shape[d], shape))}


def _long(index: Node) -> Node:
    return ir.cast(index, dtype("i64"))


def _pick(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    shape = [builder.source.pick([2, 3, 1]) for _ in range(builder.source.integer(0, 2))]
    first = _places(builder, x.shape[d], shape, low=-(op.name == "index"))
    if x.rank == 1 or not builder.rarely(2):
        return {"tensors": [x, first], "dims": [d], "place": d}
    e = (d + 1) % x.rank
    return {"tensors": [x, first, _places(builder, x.shape[e], shape[1:])], "dims": [d, e], "place": 0}


def _index_select(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    return {"x": x, "dim": d, "index": _places(builder, x.shape[d], [builder.source.pick([1, 2, 4])])}


def _select_at(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    return {"x": x, "dim": d, "index": _places(builder, x.shape[d], [], low=-1)}


def _slopes_between(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    kind = x.dtype if x.dtype.is_float and x.dtype.bits > 8 else dtype("f32")
    places = torch.arange(evaluate(x.shape[d], builder.sizes)).to(torch_dtype(kind)) ** 1.5
    given = builder.given(places, Type(kind, (x.shape[d],)))
    return {"x": x, "places": given, "dim": d, "edge_order": builder.source.pick([1, 2])}


def _embedding(builder: Builder, op: Op) -> dict[str, Any]:
    weight = builder.operand((-4, 4), lambda node: node.rank == 2)
    if weight.rank != 2:
        raise Refused
    return {"x": _places(builder, weight.shape[0], [builder.source.pick([2, 3])]), "weight": weight}


def _one_hot(builder: Builder, op: Op) -> dict[str, Any]:
    classes = builder.source.pick([3, 1, 5])
    return {"x": _long(_places(builder, classes, [builder.source.pick([2, 3])])), "num_classes": classes}


def _classes(builder: Builder, op: Op) -> dict[str, Any]:
    """A loss of classes: rows of scores, and the class of each row."""
    x = builder.operand((-4, 4), lambda node: node.rank == 2 and node.dtype.is_float)
    if x.rank != 2:
        raise Refused
    target = _long(_places(builder, x.shape[1], x.shape[:1]))
    return {"x": x, "target": target, "reduction": builder.source.pick(["mean", "sum", "none"])}


def _group_norm(builder: Builder, op: Op) -> dict[str, Any]:
    x = builder.operand((-4, 4), lambda node: node.rank >= 2)
    if x.rank < 2:
        raise Refused
    groups = builder.source.pick([1, *([x.shape[1]] if isinstance(x.shape[1], int) else [])])
    given: dict[str, Any] = {"x": x, "num_groups": groups}
    if builder.rarely(2):
        given["weight"] = builder.tensor((-2, 2), x.dtype, x.shape[1:2])
    return given


def _norm(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    given = {"x": x, "normalized_shape": x.shape[d:]}
    for name in ("weight", "bias"):
        if name in op.operands and builder.rarely(2):
            given[name] = builder.tensor((-2, 2), x.dtype, x.shape[d:])
    return given


def _numbers(builder: Builder, op: Op) -> dict[str, Any]:
    low, high = builder.source.integer(-2, 2), builder.source.integer(3, 6)
    named = {"start": low, "end": high, "step": builder.source.pick([1, 2]), "steps": 4, "n": high, "m": 2}
    return {key: named[key] for key in op.signature.parameters if key in named}


def _filled(builder: Builder, op: Op) -> dict[str, Any]:
    symbols = [poly(Symbol(name)) for name in builder.sizes]
    size = [builder.source.pick([2, 3, *symbols]) for _ in range(builder.source.integer(0, 2))]
    given: dict[str, Any] = {"fill_value": builder.source.pick([1, 0.5, True])} if op.operands else {}
    return {"size": size, "dtype": dtype(builder.source.pick(builder.limits.dtypes)), **given}


def _random(builder: Builder, op: Op) -> dict[str, Any]:
    """A seed as a call passes it, a size, and what there is to choose of a distribution."""
    given = _filled(builder, op)
    del given["fill_value"]
    seed = builder.given(builder.source.integer(0, 2**50), Type(dtype("i64"), (), weak=True))
    low = builder.source.integer(-9, 9)
    bounds = {"low": low, "high": low + builder.source.pick([1, 7, 2**32, 2**40])} if "low" in op.rules else {}
    kinds = builder.limits.dtypes if bounds else [dt for dt in builder.limits.dtypes if dtype(dt).is_float]
    if not kinds:
        raise Refused
    stream = builder.source.integer(0, 3)
    return {**given, "seed": seed, "stream": stream, "dtype": dtype(builder.source.pick(kinds)), **bounds}


def _batch_norm(builder: Builder, op: Op) -> dict[str, Any]:
    x = builder.operand((-4, 4), lambda node: node.rank >= 2 and node.dtype.is_float)
    if x.rank < 2:
        raise Refused
    vectors = {"running_mean": (-2, 2), "running_var": (0.5, 2), "weight": (-2, 2), "bias": (-2, 2)}
    if builder.rarely(3):  # in training
        vectors = {name: domain for name, domain in vectors.items() if not name.startswith("running")}
    return {"x": x, **{name: builder.tensor(domain, x.dtype, x.shape[1:2]) for name, domain in vectors.items()}}


def _labels(builder: Builder, op: Op) -> dict[str, Any]:
    """A loss of margins between classes: rows of scores, and the class of each row, or classes up to a -1."""
    x = builder.operand((-4, 4), lambda node: node.rank == 2 and node.dtype.is_float)
    if x.rank != 2 or not x.dtype.is_float or 0 in builder.numbers(x.shape):  # of no rows torch reads what is not there
        raise Refused
    given = {"x": x, "reduction": builder.source.pick(["mean", "sum", "none"])}
    if op.name == "multi_margin_loss":
        given |= {"p": builder.source.pick([1, 2]), "margin": builder.source.pick([1.0, 0.5])}
        return given | {"target": _long(_places(builder, x.shape[1], x.shape[:1]))}
    i64, last = dtype("i64"), evaluate(x.shape[1], builder.sizes) - 1
    values = fill(builder.numbers(x.shape), i64, (-1, last), builder.source.integer(0, 1000), edges=False)
    return given | {"target": builder.given(values, Type(i64, x.shape))}


def _distances(builder: Builder, op: Op) -> dict[str, Any]:
    """A loss of distances between the rows of two matrices."""
    first = builder.operand((-4, 4), lambda node: node.rank == 2 and node.dtype.is_float)
    if first.rank != 2 or not first.dtype.is_float:
        raise Refused
    target = builder.tensor((-1, 1), dtype("i64"), first.shape[:1])
    return {"input1": first, "input2": builder.like(first, (-4, 4)), "target": target, "margin": 0.25,
            "reduction": builder.source.pick(["mean", "sum", "none"])}  # fmt: skip


def _spatial(builder: Builder, op: Op) -> tuple[Node, int]:
    """A batch, or one, of what an op pools over its last dimensions, and how many those are."""
    rank = int(op.name[-2])
    x = builder.operand((-4, 4), lambda node: node.rank in (rank + 1, rank + 2))
    if x.rank not in (rank + 1, rank + 2):
        shape = [builder.source.pick([2, 1]) for _ in range(builder.source.integer(1, 2))]
        shape += [builder.source.pick([5, 3, 4]) for _ in range(rank)]
        dt = dtype(builder.source.pick(builder.limits.dtypes))
        values = fill(shape, dt, (-4, 4), builder.source.integer(0, 1000), edges=False)  # sums of huge values are any
        x = builder.given(builder.source.pick(LAYOUTS)(values), Type(dt, tuple(shape)))
    return x, rank


def _pool(builder: Builder, op: Op) -> dict[str, Any]:
    x, rank = _spatial(builder, op)
    pick = builder.source.pick
    sizes = [pick([2, 3, 1]) for _ in range(rank)]
    given: dict[str, Any] = {"x": x, "kernel_size": sizes}
    given |= {"stride": pick([None, [1], [2]]), "ceil_mode": pick([False, True])}
    if "padding" in op.rules:
        given["padding"] = [builder.source.integer(0, n // 2) for n in sizes]
    if "count_include_pad" in op.rules:
        given["count_include_pad"] = pick([True, False])
    if "divisor_override" in op.rules:
        given["divisor_override"] = pick([None, 3])
    if "dilation" in op.rules:
        given |= {"dilation": [pick([1, 2])], "return_indices": pick([False, True])}
    return given | ({"norm_type": pick([2, 1, 3])} if "norm_type" in op.rules else {})


def _adaptive_pool(builder: Builder, op: Op) -> dict[str, Any]:
    x, rank = _spatial(builder, op)
    given: dict[str, Any] = {"x": x, "output_size": [builder.source.pick([1, 2, 3]) for _ in range(rank)]}
    return given | ({"return_indices": builder.source.pick([False, True])} if "return_indices" in op.rules else {})


def _channels_first(builder: Builder, op: Op) -> dict[str, Any]:
    """An op on images whose channels or pixels come in groups of two."""
    shape = [2, *([4, 3, 2] if op.name != "pixel_unshuffle" else [3, 4, 2])]
    name = next(iter(op.rules))
    size = [builder.source.pick([1, 2, 3])] if op.name == "local_response_norm" else 2
    return {"x": builder.tensor((-4, 4), None, shape), name: size}


def _laid_out(builder: Builder, op: Op) -> dict[str, Any]:
    x = builder.operand((-4, 4))
    return {"x": x, "like": builder.like(x, (-4, 4))}


def _nearest(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    size = builder.source.pick([x.shape[d] * 2, 3, 4, 1, 7])
    return {"x": x, "dim": d, "size": size, "scale": builder.source.pick([None, 1.5]),
            "offset": builder.source.pick([None, 0.5])}  # fmt: skip


def _binned(builder: Builder, op: Op) -> dict[str, Any]:
    x = builder.operand((-4, 4), lambda node: 0 not in node.shape and node.dtype.is_float)
    if 0 in x.shape:
        raise Refused
    return {"x": x, "bins": builder.source.pick([1, 3]), "min": -4, "max": 4}


def _powers(builder: Builder, op: Op) -> dict[str, Any]:
    x = builder.operand((-2, 2), lambda node: node.rank > 0)
    if not x.rank:
        raise Refused
    return {"x": x, "n": builder.source.pick([1, 2, 3])}


def _next_float(builder: Builder, op: Op) -> dict[str, Any]:
    shape = builder.operand((-4, 4)).shape
    x, other = (builder.tensor((-4, 4), dtype("f32"), shape) for _ in range(2))
    return {"x": x, "other": other, "dtype": dtype(builder.source.pick(["f16", "bf16", "f32"]))}


def _ranked(builder: Builder, op: Op) -> dict[str, Any]:
    """The k first of a row, or the k-th."""
    x, d = _near(builder, op)
    most = min(evaluate(x.shape[d], builder.sizes), 4)
    if not most:
        raise Refused
    return {"x": x, "k": builder.source.integer(1, most), "dim": d}


def _quantile(builder: Builder, op: Op) -> dict[str, Any]:
    x = builder.operand((-4, 4), lambda node: node.dtype.name in ("f32", "f64"))
    q = builder.tensor((0, 1), x.dtype, [2]) if builder.rarely(2) else builder.source.pick([0.5, 0.25, 1.0])
    way = builder.source.pick(["linear", "lower", "higher", "midpoint", "nearest"])
    return {"x": x, "q": q, "dim": builder.source.pick([None, builder.dim(x.rank)]), "interpolation": way,
            "keepdim": builder.rarely(2)}  # fmt: skip


def _reduced(op: Op, builder: Builder) -> dict[str, Any]:
    if "reduce" not in op.rules:
        return {}
    kinds = ["mean", "prod", "amax", "amin", *(["sum"] if op.name == "scatter_reduce" else [])]
    return {"reduce": builder.source.pick(kinds), "include_self": builder.rarely(2)}


def _scatter(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    shape = (*x.shape[:d], builder.source.pick([1, 2, 4]), *x.shape[d + 1 :])
    index = _long(_places(builder, x.shape[d], shape))
    return {"x": x, "dim": d, "index": index, "src": builder.tensor((-2, 2), x.dtype, shape), **_reduced(op, builder)}


def _rows(builder: Builder, op: Op) -> dict[str, Any]:
    """Rows for the places that a vector of indices names; each of them once, where torch leaves the order open."""
    x, d = _near(builder, op)
    count = builder.source.pick([1, 2, 4]) if op.name != "index_copy" else 1
    index = _long(_places(builder, x.shape[d], [count]))
    if op.name == "index_fill":
        return {"x": x, "dim": d, "index": index, "value": builder.source.pick([1, 0, 2])}
    source = builder.tensor((-2, 2), x.dtype, (*x.shape[:d], count, *x.shape[d + 1 :]))
    return {"x": x, "dim": d, "index": index, "source": source, **_reduced(op, builder)}


def _index_put(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    accumulate = builder.rarely(2)
    shape = [builder.source.pick([2, 3])] if accumulate else []
    first = _long(_places(builder, x.shape[d], shape, low=-1))
    dims, more = [d], []
    if x.rank > 1 and builder.rarely(2):
        dims.append((d + 1) % x.rank)
        more = [_long(_places(builder, x.shape[dims[1]], shape))]
    outer = [n for e, n in enumerate(x.shape) if e not in dims]
    together = max(dims) - min(dims) + 1 == len(dims)
    place = min(dims) if together else 0
    values = builder.tensor((-2, 2), x.dtype, [*outer[:place], *shape, *outer[place:]])
    return {"tensors": [x, values, first, *more], "dims": dims, "accumulate": accumulate}


def _select_scatter(builder: Builder, op: Op) -> dict[str, Any]:
    given = _select(builder, OPS["select"])
    x, d = given["x"], given["dim"]
    return {**given, "src": builder.tensor((-2, 2), x.dtype, (*x.shape[:d], *x.shape[d + 1 :]))}


def _slice_scatter(builder: Builder, op: Op) -> dict[str, Any]:
    given = _slice(builder, OPS["slice"])
    return {**given, "src": builder.tensor((-2, 2), given["x"].dtype, build(OPS["slice"], (), given).shape)}


def _diagonal_scatter(builder: Builder, op: Op) -> dict[str, Any]:
    given = _diagonal(builder, OPS["diagonal"])
    return {**given, "src": builder.tensor((-2, 2), given["x"].dtype, build(OPS["diagonal"], (), given).shape)}


def _matrices(builder: Builder, op: Op) -> dict[str, Any]:
    parts = [builder.operand((-4, 4), lambda node: node.rank <= 2) for _ in range(builder.source.integer(1, 3))]
    return {"tensors": parts}


def _vectors(builder: Builder, op: Op) -> dict[str, Any]:
    kind = dtype(builder.source.pick(builder.limits.dtypes))
    lengths = [builder.source.pick([2, 3, 1]) for _ in range(builder.source.integer(1, 3))]
    return {"tensors": [builder.tensor((-4, 4), kind, [n]) for n in lengths]}


def _masked_scatter(builder: Builder, op: Op) -> dict[str, Any]:
    x = builder.operand((-4, 4))
    mask = builder.tensor((0, 1), dtype("bool"), x.shape)
    return {"x": x, "mask": mask, "source": builder.tensor((-4, 4), x.dtype, (*x.shape, 2))}


def _ordered(builder: Builder, op: Op) -> dict[str, Any]:
    """Bounds in order, and values to be put among them."""
    x = builder.operand((-4, 4), lambda node: op.name == "bucketize" or node.rank > 0)
    shape = [3] if op.name == "bucketize" or builder.rarely(2) else (*x.shape[:-1], 3)
    bounds = fill(builder.numbers(shape), x.dtype, (-4, 4), builder.source.integer(0, 1000), False).sort(-1).values
    row = builder.given(bounds, Type(x.dtype, tuple(shape)))
    given = {"x": x, "boundaries": row} if op.name == "bucketize" else {"x": row, "values": x}
    return {**given, "right": builder.rarely(2)}


def _triangle(builder: Builder, op: Op) -> dict[str, Any]:
    sizes = {"row": builder.source.integer(0, 5), "col": builder.source.integer(0, 5)}
    return {**sizes, "offset": builder.source.integer(-3, 3)}


CALLS: dict[str, Callable[[Builder, Op], dict[str, Any]]] = {
    "expand": _expand, "reshape": _reshape, "permute": _permute, "roll": _roll, "unflatten": _unflatten,
    "slice": _slice, "select": _select, "unfold": _unfold, "diagonal": _diagonal, "repeat": _repeat,
    "repeat_interleave": _repeat_interleave, "cat": _joined, "stack": _joined, "pad": _pad, "pad_around": _pad_around,
    "gather": _gather,
    "take_along_dim": _gather, "pick": _pick, "index": _pick, "index_select": _index_select, "select_at": _select_at,
    "slopes_between": _slopes_between,
    "embedding": _embedding, "one_hot": _one_hot,
    "nll_loss": _classes, "cross_entropy": _classes, "layer_norm": _norm, "rms_norm": _norm,
    "group_norm": _group_norm, "batch_norm": _batch_norm, "local_response_norm": _channels_first,
    "multi_margin_loss": _labels, "multilabel_margin_loss": _labels, "cosine_embedding_loss": _distances,
    "pixel_shuffle": _channels_first, "pixel_unshuffle": _channels_first, "channel_shuffle": _channels_first,
    "nearest": _nearest, "laid_out": _laid_out,
    **{f"{kind}_pool{rank}d": _pool for kind in ("avg", "max", "lp") for rank in (1, 2, 3)},
    **{f"adaptive_{kind}_pool{rank}d": _adaptive_pool for kind in ("avg", "max") for rank in (1, 2, 3)},
    "iota": _numbers, "arange": _numbers, "linspace": _numbers, "logspace": _numbers, "eye": _numbers,
    "full": _filled, "zeros": _filled, "ones": _filled, "next_float": _next_float, "histc": _binned,
    "powers": _powers,
    "random_uniform": _random, "random_exponential": _random, "random_normal": _random, "random_integers": _random,
    "topk": _ranked, "kthvalue": _ranked,
    "quantile": _quantile, "nanquantile": _quantile,
    "scatter": _scatter, "scatter_add": _scatter, "scatter_reduce": _scatter, "index_add": _rows, "index_copy": _rows,
    "index_reduce": _rows, "index_fill": _rows, "index_put": _index_put, "select_scatter": _select_scatter,
    "slice_scatter": _slice_scatter, "diagonal_scatter": _diagonal_scatter, "block_diag": _matrices,
    "cartesian_prod": _vectors, "masked_scatter": _masked_scatter, "bucketize": _ordered, "searchsorted": _ordered,
    "tril_indices": _triangle, "triu_indices": _triangle,
}  # fmt: skip

# What has no place in a random graph: inputs and constants are drawn by themselves, `indices` is several nodes, of bits
# float64 has others, and what reads a row dozens of times takes seconds to plan.
NOT_DRAWN = {"input", "const", "size", "indices", "ordered", "reread", "selected"}


def drawable(names: Collection[str] | None = None) -> list[list[str]]:
    """The ops to draw from, in groups that are equally likely: many rules are about the few ops of the first ones."""
    names = [n for n in (OPS if names is None else names) if n not in NOT_DRAWN]
    common = [n for n in ("add", "mul", "sub", "neg", "where", "maximum", "lt", "cast") if n in names]
    kinds = ("elementwise", "view", "reduce", "scan", "composition", "indexed")
    groups = [common, *([n for n in names if OPS[n].kind == kind] for kind in kinds)]
    return [group for group in groups if group]


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


# ---- comparing -------------------------------------------------------------------------------------------------------


def identical(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Where two tensors hold the same: -0.0 is not 0.0, one NaN is as good as another."""
    if not a.is_floating_point():
        return a == b
    a, b = a.double(), b.double()
    return ((a == b) & (a.signbit() == b.signbit())) | (a.isnan() & b.isnan())


def assert_identical(a: torch.Tensor, b: torch.Tensor) -> None:
    """The same dtype, shape and values."""
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    wrong = ~identical(a, b)
    assert not wrong.any(), f"{int(wrong.sum())} of {wrong.numel()} differ: {a[wrong][:5]} and {b[wrong][:5]}"
