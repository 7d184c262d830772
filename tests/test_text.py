"""Text in, text out: what is printed parses back to the same nodes, and what does not parse says where and why."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import fusedsl.ops as ops
from fusedsl.errors import BadText, Line
from fusedsl.index import Symbol, floordiv, poly, remainder
from fusedsl.ir import OPS, Graph, constant, intern
from fusedsl.text import node_names, parse, show
from fusedsl.types import Type, bool_, f16, f32, f64, i64
from tests.strategies import graph_and_inputs, random_case

B, K = poly(Symbol("B")), poly(Symbol("K"))


def given_input(name, type, number=False):
    return intern(OPS["input"], (), {"name": name, "number": number}, type)


def add_rms_norm():
    x, residual = (given_input(name, Type(f16, (B, K))) for name in ("x", "residual"))
    weight = given_input("weight", Type(f16, (K,)))
    eps = given_input("eps", Type(f64, (), weak=True), number=True)
    h = x + residual
    y = h * ops.rsqrt(ops.mean(h * h, -1, True) + eps) * weight
    lines = {h: Line("model.py", 8), y: Line("model.py", 9)}
    return Graph((x, residual, weight, eps), (h, y), "add_rms_norm", {h: "h", y: "y"}, lines)


PRINTED = """\
add_rms_norm(x: f16[B, K], residual: f16[B, K], weight: f16[K], eps: number weak f64):
  h = add(x, residual) : f16[B, K]                 # model.py:8
  %1 = mul(h, h) : f16[B, K]
  %2 = mean(%1, dim=(1,), keepdim=True) : f16[B, 1]
  %3 = cast(eps, dtype=f32) : weak f32
  %4 = retype(%3, dtype=f16) : f16
  %5 = add(%2, %4) : f16[B, 1]
  %6 = rsqrt(%5) : f16[B, 1]
  %7 = mul(h, %6) : f16[B, K]
  y = mul(%7, weight) : f16[B, K]                  # model.py:9
  return h, y
"""


def squeezed(text):
    return "\n".join(" ".join(line.split()) for line in text.splitlines())


def test_a_graph_reads_well():
    assert squeezed(show(add_rms_norm())) == squeezed(PRINTED)
    assert "#" not in show(add_rms_norm(), lines=False)


def round_trip(graph):
    again = parse(show(graph))
    assert again.outputs == graph.outputs and again.inputs == graph.inputs
    assert again.name == graph.name
    names = node_names(graph)
    assert again.names == {n: name for n, name in names.items() if n not in graph.inputs and name[0] != "%"}
    assert show(again) == show(graph, lines=False)


@example(case=(add_rms_norm(), []))
@given(case=graph_and_inputs(max_ops=15))
def test_what_is_printed_parses_to_the_same_nodes(case):
    round_trip(case[0])


@pytest.mark.sweep
def test_many_graphs_round_trip():
    for seed in range(3000):
        round_trip(random_case(seed).graph)


SIZES = st.recursive(
    st.one_of(st.integers(-9, 9), st.sampled_from([B, K, poly(Symbol("f16")), poly(Symbol("größe"))])),
    lambda sizes: st.one_of(
        st.builds(lambda a, b: a + b, sizes, sizes),
        st.builds(lambda a, b: a * b, sizes, sizes),
        st.builds(floordiv, sizes, st.sampled_from([2, K, 4 * B, K + 1])),
        st.builds(remainder, sizes, st.sampled_from([2, K, 4 * B, K + 1])),
    ),
    max_leaves=6,
)


@given(SIZES)
def test_sizes_round_trip(size):
    x = given_input("x", Type(f32, (size, 2)))
    round_trip(Graph((x,), (ops.slice(x, 0, 0, size, 2), intern(OPS["size"], (), {"value": size}, Type(i64)))))


NUMBERS = [1, True, 1.0, 0.0, -0.0, 0, False, -7, 2**63 - 1, 0.1, 1e-6, 1e300, 5e-324, math.inf, -math.inf]


@pytest.mark.parametrize("value", [*NUMBERS, math.nan, -math.nan, math.copysign(math.nan, -1)], ids=repr)
def test_numbers_round_trip(value):
    x = given_input("x", Type(f32, (3,)))
    typed = {bool: bool_, int: i64, float: f16}[type(value)]
    constants = (constant(value, Type(typed)), constant(value, Type(f32)))
    round_trip(Graph((x,), (ops.pad(x, (1, 0), value=value), ops.clamp(x, value), *constants)))


def test_numbers_stay_apart():
    x = given_input("x", Type(f32, (3,)))
    nodes = [ops.clamp(x, value) for value in NUMBERS]
    texts = [show(Graph((x,), (node,))) for node in nodes]
    assert len(set(nodes)) == len(set(texts)) == len(NUMBERS)


def test_odd_names():
    a = given_input("self.layers[0].weight", Type(f32, (2,)))
    b = given_input("x", Type(f32, (2,)))
    c = given_input("x", Type(f16, (2,)))
    nodes = [b + 1, b + 2, b + 3, b + 4, b + 5]
    names = dict(zip(nodes, ["x", "x_1", "return", "inf", "é 1"], strict=True))
    graph = Graph((a, b, c), (*nodes, a, ops.where(c > 0, 1.0, 2)), "<lambda>", names)
    round_trip(graph)
    text = show(graph)
    assert 'self_layers_0__weight="self.layers[0].weight": f32[2]' in text
    assert 'x_1="x": f16[2]' in text and "x_2 = add(x, 1.0:f32)" in text


def test_no_outputs_and_no_inputs():
    round_trip(Graph((), ()))
    x = given_input("x", Type(f32, (0, 1)))
    round_trip(Graph((x,), (x, x)))
    round_trip(Graph((), (constant(2.5, Type(f32)),)))


def test_types_and_defaults_may_be_left_out():
    graph = parse("f(x: f32[n, 4]): y = sum(x, dim=-1)  z = mul(y, 2.0:f32)  return z")
    assert show(graph) == (
        "f(x: f32[n, 4]):\n"
        "  y = sum(x, dim=(1,)) : f32[n]\n"
        "  z = mul(y, 2.0:f32) : f32[n]\n"
        "  return z\n"
    )  # fmt: skip


WRONG = [
    ("f(x: f32[3]):\n  y = addd(x)\n  return y", 2, 7, "Close to it: add"),
    ("f(x: f32[3]):\n  y = add(x, q)\n  return y", 2, 14, "No line above"),
    ("f(x: f32[3], scale: f32):\n  y = add(x, scales)\n  return y", 2, 14, "Close to it: scale"),
    ("f(x: f32[3]):\n  y = add(x, x) : f16[3]\n  return y", 2, 7, "gives f32[3]"),
    ("f(x: f32[3], y: f32[4]):\n  z = add(x, y)\n  return z", 2, 7, "broadcast"),
    ("f(x: f32[3]):\n  y = add(x)\n  return y", 2, 7, "It takes x, other"),
    ("f(x: f32[3]):\n  y = cast(x)\n  return y", 2, 7, "Write dtype="),
    ("f(x: f32[3]):\n  y = reduce_sum(x, dim=5)\n  return y", 2, 21, r"dim must lie in [-1, 0]"),
    ("f(x: f32[3]):\n  y = reduce_sum(x, dims=0)\n  return y", 2, 21, "It has dim."),
    ("f(x: f32[3]):\n  y = cast(x, dtype=f99)\n  return y", 2, 21, "not a dtype"),
    ("f(x: f32[3]):\n  x = neg(x)\n  return x", 2, 3, "It is taken"),
    ("f(x: q[3]): return x", 1, 6, "not a dtype"),
    ("f(x: f32[3]): return None", 1, 22, "Return nodes."),
    ("f(): y = const(value=1, dtype=f32) return y", 1, 10, "write `: type`"),
    ("f(x: f32[3]): y = aminmax(x) return y", 1, 19, "Write the ops"),
    ("f(x: f32[3]): y = slice(x, dim=0, start=(1,) + 2, end=3) return y", 1, 46, "Expected"),
    ('f(x: f32[3]): y = slice(x, dim=0, start=1.5 * 2, end=3) return y', 1, 41, "Only sizes"),
    ("f(x: f32[3]", 1, 12, 'Expected ")" or ","'),
    ("f(x: f32[3]):\n  y = add(x x)", 2, 13, 'Expected ")" or ","'),
    ("f(x: f32[3]):\n  y = add(x, $)", 2, 14, "Expected"),
    ("", 1, 1, "Expected name"),
]  # fmt: skip


@pytest.mark.parametrize("text,row,column,hint", WRONG, ids=[w[0][-24:] for w in WRONG])
def test_what_does_not_parse_says_where_and_why(text, row, column, hint):
    with pytest.raises(BadText) as caught:
        parse(text)
    message = str(caught.value)
    assert f"line {row}, column {column}" in message
    assert hint in message
