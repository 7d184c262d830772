"""Graph to scalar expressions: `at(node, indices)` is the value of one element, in terms of the elements of inputs.

Elementwise ops recurse, a view rewrites the indices, a gather substitutes a loaded value for an index, a reduction
binds
fresh axes. What is left of a chain is a list of stores (reference: index-space lowering, design of Halide and XLA
fusion).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from .index import Atom, Index, Variable, is_less, is_nonnegative, poly, replace, sole_atom
from .ir import Node, Op
from .scalar import TRUE, Expr, Loaded, both, constant, less, make, number, select, substitute, variables
from .types import DType, bool_, i32, i64

MOST_CONTRACTIONS = 64  # in one kernel, each for every index that it is read at


class Refusal(Exception):
    """Why these nodes cannot be one kernel."""


@dataclass(frozen=True)
class Write:
    """tensor[index] = value, for every point of axes."""

    tensor: Node
    axes: tuple[Variable, ...]
    index: tuple[Index, ...]
    value: Expr


Origin = dict[Expr, Node]  # which node of the graph a scalar expression is the element of


def lower(
    outputs: Iterable[Node], boundary: Iterable[Node] = (), eager: bool = False, origin: Origin | None = None
) -> list[Write]:
    """One write per output, each over fresh axes. boundary: nodes that are in memory already. eager: round every
    16-bit result where torch would. origin: filled with the nodes that expressions come from."""
    lowering = Lowering(set(boundary), eager)
    with deep_recursion():
        writes = [lowering.write(node) for node in outputs]
    if origin is not None:
        for (node, _, _), value in lowering.memo.items():
            origin.setdefault(value, node)
    return writes


def rename(writes: Iterable[Write], mapping: Mapping[Atom, Index], origin: Origin | None = None) -> list[Write]:
    """The writes with axes replaced: by other axes, or by indices over other axes."""
    memo: dict[Expr, Expr] = {}
    result = []
    for w in writes:
        axes = [
            v for a in w.axes for v in ([a] if a not in mapping else sorted(variables(mapping[a]), key=lambda v: v.key))
        ]
        index = tuple(replace(i, mapping) for i in w.index)
        result.append(Write(w.tensor, tuple(dict.fromkeys(axes)), index, substitute(w.value, mapping, memo)))
    follow(origin, memo)
    return result


def follow(origin: Origin | None, memo: Mapping[Expr, Expr]) -> None:
    """What an expression has become comes from the same node."""
    if origin is not None:
        origin.update({new: origin[old] for old, new in memo.items() if old in origin and new not in origin})


@contextmanager
def deep_recursion(limit: int = 100_000) -> Iterator[None]:
    """Room for graphs of thousands of nodes in a row."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, limit))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


class Lowering:
    """One lowering: its memo makes a value used twice one expression."""

    def __init__(self, boundary: set[Node], eager: bool = False) -> None:
        self.boundary, self.eager = boundary, eager
        self.memo: dict[tuple[Node, tuple[Index, ...], Expr], Expr] = {}
        self.contractions = 0

    def write(self, node: Node) -> Write:
        axes = tuple(Variable(f"i{d}", n) for d, n in enumerate(node.shape))
        index = tuple(0 if n == 1 else poly(a) for a, n in zip(axes, node.shape, strict=True))
        axes = tuple(a for a in axes if a.extent != 1)
        return Write(node, axes, index, self.at(node, index, TRUE, root=True))

    def at(self, node: Node, index: Sequence[Index], when: Expr = TRUE, root: bool = False) -> Expr:
        """The element of node at index; its loads happen only where `when` holds."""
        key = (node, tuple(index), when)
        if key not in self.memo:
            if 0 in node.shape:  # never read: whoever asks does so under a guard that never holds
                value = constant(0, node.dtype.computed)
            elif node in self.boundary and not root:
                value = self._load(node, key[1], when)
            else:
                value = self._value(node, key[1], when)
                if self.eager:
                    value = _settled(value, node.dtype)
            self.memo[key] = value
        return self.memo[key]

    def _load(self, node: Node, index: tuple[Index, ...], when: Expr) -> Expr:
        """A guard that has nothing to do with an index that is in range anyway is left out: the load would vary along
        the guard's axes, and could not be shared."""
        apart = when.free.isdisjoint(v for i in index for v in variables(i)) and _is_inside(index, node.shape)
        guard = () if when is TRUE or node.is_number or apart else (when,)
        return make("load", node.dtype.computed, guard, tensor=node, index=index)

    def _value(self, node: Node, index: tuple[Index, ...], when: Expr) -> Expr:
        op = node.op
        if op.index is not None:
            (source,) = node.inputs
            return self.at(source, tuple(op.index(node, index)), when)
        if op.reduction is not None:
            return self._reduce(node, index, when)
        if op.scan is not None:
            return self._scan(node, index, when)
        if op.lower is not None:
            return op.lower(Context(self, when), node, index)
        assert op.triton is not None, f"a composition reached the lowering: {node}"
        return self._apply(node, index, when)

    def _apply(self, node: Node, index: tuple[Index, ...], when: Expr) -> Expr:
        args = []
        for arg in node.inputs:
            aligned = index[len(index) - arg.rank :] if arg.rank else ()
            value = self.at(arg, tuple([0 if n == 1 else i for i, n in zip(aligned, arg.shape, strict=True)]), when)
            if node.op.jumps or not node.dtype.is_float:
                value = _settled(value, arg.dtype, node.op.jumps != "values")
            args.append(value)
        if node.op.triton == "{0}" or _keeps_value(node):
            return args[0]
        if args and all(a.kind == "const" for a in args):
            return _folded(node, args)
        on_indices = _on_indices(node, args)
        if on_indices is not None:
            return on_indices
        return make("apply", node.dtype.computed, tuple(args), node.op, **dict(node.attrs))

    def _reduce(self, node: Node, index: tuple[Index, ...], when: Expr) -> Expr:
        (source,) = node.inputs
        dims = node["dim"]
        if any(source.shape[d] == 0 for d in dims):
            assert node.op.reduction is not None
            return constant(node.op.reduction.identity(node.dtype), node.dtype.computed)
        axes = {d: Variable(f"r{d}", source.shape[d]) for d in dims}
        rest = iter(index)
        inner = [
            (0 if source.shape[d] == 1 else poly(axes[d])) if d in axes else next(rest) for d in range(source.rank)
        ]
        bound = tuple(a for a in axes.values() if a.extent != 1)
        body = self.at(source, tuple(inner), when)
        if not bound:
            return body
        if node.dtype.is_bool:  # Triton's reductions are over numbers
            number = select(body, constant(1, i32), constant(0, i32))
            return make("nonzero", bool_, (make("reduce", i32, (number,), node.op, axes=bound),))
        self._count(node)
        rest_of = {name: value for name, value in node.attrs if name != "dim"}
        return make("reduce", node.dtype.computed, (body,), node.op, axes=bound, **rest_of)

    def _count(self, node: Node) -> None:
        """A layer reads the one before it at several indices, so that many layers would be many times as many sums."""
        self.contractions += node.op.contracts
        if self.contractions > MOST_CONTRACTIONS:
            raise Refusal(f"more than {MOST_CONTRACTIONS} contractions, some of them again at other indices")

    def _scan(self, node: Node, index: tuple[Index, ...], when: Expr) -> Expr:
        """Read along an axis of its own. Read otherwise (a part of it, backwards), it has to be in memory."""
        (source,), dims = node.inputs, node["dim"]
        if all(source.shape[d] == 1 for d in dims):
            return self.at(source, index, when)
        (dim,) = dims
        axis = sole_atom(index[dim])
        used = [v for d, i in enumerate(index) if d != dim for v in variables(i)]
        if not isinstance(axis, Variable) or axis.extent != source.shape[dim] or axis in (*used, *when.free):
            raise Refusal(f"{node.op.name} is read along another index than its own")
        return make("scan", node.dtype.computed, (self.at(source, index, when),), node.op, axes=(axis,))


def _is_inside(index: Sequence[Index], shape: Sequence[Index]) -> bool:
    """Whether an index is proved to be one of a tensor."""
    return all(is_nonnegative(i) and is_less(i, n) for i, n in zip(index, shape, strict=True))


def _settled(value: Expr, dtype: DType, numbers: bool = True) -> Expr:
    """The value as memory would hold it. A comparison, a conversion to integers or what rounds to whole numbers jumps
    where the value hardly changes, so it sees what eager would. numbers: Python's, too."""
    if not dtype.is_float or dtype.computed is dtype or value.kind in ("load", "round"):
        return value
    if value.kind == "const":
        return value if not numbers else constant(torch.tensor(value["value"]).to(dtype.torch).item(), value.dtype)
    return make("round", value.dtype, (value,), to=dtype)


def _folded(node: Node, args: Sequence[Expr]) -> Expr:
    """An op on constants, computed by its reference in the type that a kernel would compute in."""
    attrs = {k: v.torch if isinstance(v, DType) else v for k, v in node.attrs}
    value = node.op.reference(*(torch.tensor(a["value"], dtype=a.dtype.torch) for a in args), **attrs)
    return constant(value.item(), node.dtype.computed)


def _on_indices(node: Node, args: Sequence[Expr]) -> Expr | None:
    """Arithmetic on running indices and comparisons of them, as indices: of those it is known where they hold, and they
    take half the registers. None where an argument is another value."""
    terms = [_as_index(a) for a in args]
    if not terms or any(t is None for t in terms) or all(a.kind == "const" for a in args):
        return None
    a, b = terms[0], terms[-1]
    assert a is not None and b is not None
    name = node.op.name
    if name in ("add", "sub", "mul") and node.dtype is i64:
        return number({"add": a + b, "sub": a - b, "mul": a * b}[name], i64)
    if name == "neg" and node.dtype is i64:
        return number(0 - a, i64)
    orders = {"lt": (a, b), "le": (a, b + 1), "gt": (b, a), "ge": (b, a + 1)}
    return less(*orders[name]) if name in orders else None


def _as_index(e: Expr) -> Index | None:
    """The index that an i64 value is, if memory has no part in it."""
    if e.dtype is not i64 or (e.kind == "number" and e.args):
        return None
    return e["index"] if e.kind == "number" else e["value"] if e.kind == "const" else None


def _keeps_value(node: Node) -> bool:
    """A conversion to a type that holds every value of the operand's and is computed in the same one."""
    (source, *rest) = node.inputs
    return (
        not rest
        and any(key == "dtype" for key, _ in node.attrs)
        and node.dtype.holds(source.dtype)
        and node.dtype.computed is source.dtype.computed
    )


@dataclass(frozen=True)
class Context:
    """What a declaration's `lower` may ask for."""

    lowering: Lowering
    when: Expr

    def at(self, node: Node, index: Sequence[Index], when: Expr | None = None) -> Expr:
        """An operand's element; `when` guards its loads where the index may be out of range."""
        return self.lowering.at(node, tuple(index), self.when if when is None else both(self.when, when))

    def load(self, node: Node, index: Sequence[Index]) -> Expr:
        return self.lowering._load(node, tuple(index), self.when)

    def apply(self, op: Op, dtype: DType, *args: Expr, **attrs: Any) -> Expr:
        """An elementwise op on elements."""
        return make("apply", dtype.computed, args, op, **attrs)

    def index(self, node: Node, index: Sequence[Index], below: Index) -> Index:
        """An integer operand's element as an index in [0, below); what lies outside is the user's mistake."""
        value = self.at(node, index)
        if value.kind == "number":  # an index all along
            return value["index"]
        return poly(Loaded(value, below))

    def less(self, a: Index, b: Index) -> Expr:
        return less(a, b, self.when)

    def both(self, p: Expr, q: Expr) -> Expr:
        return both(p, q)

    def select(self, condition: Expr, a: Expr, b: Expr) -> Expr:
        return select(condition, a, b)

    def number(self, index: Index, dtype: DType) -> Expr:
        return number(index, dtype, self.when)

    def constant(self, value: bool | int | float, dtype: DType) -> Expr:
        return constant(value, dtype.computed)
