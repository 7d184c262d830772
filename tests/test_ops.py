"""Every op against torch: types, values, index maps and Triton texts, drawn for whatever is declared."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusedsl.errors import BadArgument, DTypesDisagree, FuseError, ShapesDisagree
from fusedsl.index import Index, Variable, evaluate, poly, replace
from fusedsl.interpret import Machine, interpret
from fusedsl.ir import OPS, Graph, Node, Op, build
from fusedsl.types import DType, dtype
from tests.strategies import CALLS, NOT_DRAWN, Builder, Hypothesis, Limits, Refused

DRAWN = [name for name in OPS if name not in NOT_DRAWN]
TORCH_REFUSES = (RuntimeError, TypeError, NotImplementedError, IndexError, ValueError, ZeroDivisionError,
                 AttributeError)  # fmt: skip
FEW = settings(max_examples=12)


class Call:
    """An op and arguments for it: nodes that are inputs, numbers, attributes."""

    def __init__(self, draw: st.DrawFn, op: Op, limits: Limits) -> None:
        self.op = op
        self.builder = builder = Builder(Hypothesis(draw), limits)
        if limits.symbols:
            builder.sizes = {"n": builder.source.integer(2, 5), "m": builder.source.integer(2, 4)}
        self.arguments = CALLS[op.name](builder, op) if op.name in CALLS else builder.arguments(op)

    def __repr__(self) -> str:
        return f"{self.op.name}({', '.join(f'{k}={v!r}' for k, v in self.arguments.items())}) of {self.builder.inputs}"

    def value(self, argument: Any) -> Any:
        """What torch is called with."""
        if isinstance(argument, Node):
            machine = Machine(self.builder.sizes)
            for node in self.builder.unknown(argument):
                self.builder.values[node] = machine.run(node, [self.builder.values[a] for a in node.inputs])
            value = self.builder.values[argument]
            return value if argument.type.weak else machine.tensor(value, argument)
        if isinstance(argument, (list, tuple)):
            return type(argument)(map(self.value, argument))
        return argument.torch if isinstance(argument, DType) else self.number(argument)

    def number(self, size: Any) -> Any:
        return size if isinstance(size, (int, float, str, type(None))) else evaluate(size, self.builder.sizes)

    def reference(self) -> Any:
        return self.op.reference(**{key: self.value(argument) for key, argument in self.arguments.items()})

    def nodes(self) -> tuple[Node, ...]:
        made = build(self.op, (), self.arguments)
        return made if isinstance(made, tuple) else (made,)

    def run(self, nodes: Sequence[Node], **options: Any) -> list[torch.Tensor]:
        inputs = self.builder.inputs
        return interpret(Graph(tuple(inputs), tuple(nodes)), list(inputs.values()), self.builder.sizes, **options)

    def shape(self, node: Node) -> list[int]:
        return [self.number(n) for n in node.shape]


@st.composite
def calls(draw: st.DrawFn, op: Op, **limits: Any) -> Call | None:
    try:
        return Call(draw, op, Limits(**{"symbols": False, "edges": False, "strides": False, **limits}))
    except (Refused, FuseError):
        return None


def both(call: Call | None) -> list[tuple[Node, torch.Tensor]]:
    """What a call is and what torch makes of it, result by result; nothing where torch refuses. Where we refuse, torch
    must too, but for integers where floats are meant, which some of its functions take and others do not."""
    if call is None:
        return []
    try:
        expected = call.reference()
    except TORCH_REFUSES:
        return []
    try:
        nodes = call.nodes()
    except (ShapesDisagree, BadArgument):
        assert call.builder.sizes  # the tracer tries again with numbers
        return []
    except DTypesDisagree:
        operands = [a for a in call.arguments.values() if isinstance(a, Node)]
        assert call.op.name == "retype" or not all(a.dtype.is_float for a in operands)
        return []
    return list(zip(nodes, expected if isinstance(expected, tuple) else (expected,), strict=True))


@pytest.mark.parametrize("name", DRAWN)
@given(data=st.data())
@FEW
def test_types_are_torchs(name: str, data: st.DataObject) -> None:
    call = data.draw(calls(OPS[name]))
    for node, value in both(call):
        assert (node.dtype, call.shape(node)) == (dtype(value.dtype), list(value.shape))


TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}


@pytest.mark.parametrize("name", [n for n in DRAWN if OPS[n].kind == "composition"])
@given(data=st.data())
@FEW
def test_an_expansion_is_what_it_stands_for(name: str, data: st.DataObject) -> None:
    edges = data.draw(st.booleans())
    call = data.draw(calls(OPS[name], dtypes=("f64", "bool") if edges else ("f64", "i64", "bool"), edges=edges))
    if call is not None and "dtype" in call.arguments and OPS[name].signature.parameters["dtype"].default is None:
        call.arguments["dtype"] = None  # in f64 a narrower one would round nothing
    for node, value in both(call):
        (result,) = call.run([node], dtype=torch.float64)
        close = TOLERANCE.get(value.dtype, 0)
        torch.testing.assert_close(result, value.to(result.dtype), rtol=close, atol=close, equal_nan=True)


# ---- index maps ------------------------------------------------------------------------------------------------------


class Numbers:
    """The context of a lowering in which indices are numbers and an expression is the value itself. What is read where
    no load may happen is None, and must never be chosen."""

    def __init__(self, call: Call) -> None:
        self.call = call

    def at(self, node: Node, index: Sequence[Index], when: bool | None = None) -> Any:
        if when is False:
            return None
        value = torch.as_tensor(self.call.value(node))
        place = [self.call.number(i) for i in index]
        inside = len(place) == value.ndim and all(0 <= i < n for i, n in zip(place, value.shape, strict=True))
        assert inside, f"{place} of a tensor of shape {list(value.shape)}"
        return value[tuple(place)].item()

    def index(self, node: Node, index: Sequence[Index], below: Index) -> int:
        place = self.at(node, index)
        assert 0 <= place < self.call.number(below)
        return place

    def less(self, a: Index, b: Index) -> bool:
        return self.call.number(a) < self.call.number(b)

    def both(self, p: bool, q: bool) -> bool:
        return p and q

    def select(self, condition: bool, a: Any, b: Any) -> Any:
        chosen = a if condition else b
        assert chosen is not None, "chose what was not loaded"
        return chosen

    def number(self, index: Index, dtype: DType) -> int:
        return self.call.number(index)

    def constant(self, value: Any, dtype: DType) -> Any:
        return value


def element(call: Call, node: Node, index: tuple[int, ...]) -> Any:
    """An element of a view or of an indexed op, by its own rule."""
    context = Numbers(call)
    if node.op.lower is not None:
        return node.op.lower(context, node, index)
    # the map is made with variables, as a kernel makes it, and then read at one place
    axes = [Variable(f"i{d}", n) for d, n in enumerate(node.shape)]
    symbolic = node.op.index(node, [0 if n == 1 else poly(a) for a, n in zip(axes, node.shape, strict=True)])
    (x,) = node.inputs
    return context.at(x, [replace(i, dict(zip(axes, index, strict=True))) for i in symbolic])


@pytest.mark.parametrize("name", [n for n in DRAWN if OPS[n].kind in ("view", "indexed")])
@given(data=st.data())
def test_an_index_map_finds_the_element(name: str, data: st.DataObject) -> None:
    call = data.draw(calls(OPS[name], dtypes=("i64",), symbols=True))
    for node, value in both(call):
        assert call is not None
        assert call.shape(node) == list(value.shape)
        for index in itertools.islice(itertools.product(*map(range, value.shape)), 64):
            assert element(call, node, index) == value[index].item()
