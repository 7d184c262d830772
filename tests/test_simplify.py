"""Simplifying and decomposing keep what a graph means: on any graph by values, of each rule by text."""

import pytest
from hypothesis import given

from fusedsl.interpret import interpret
from fusedsl.passes.decompose import decompose
from fusedsl.passes.simplify import RULES, simplify
from fusedsl.rewrite import Fired, rewrite
from fusedsl.text import parse, show
from tests.identical import assert_identical
from tests.strategies import graph_and_inputs, random_case

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def same_outputs(before, after, inputs):
    assert [n.type for n in before.outputs] == [n.type for n in after.outputs]
    for a, b in zip(interpret(before, inputs), interpret(after, inputs), strict=True):
        assert_identical(a, b)


# ---- any graph -------------------------------------------------------------------------------------------------------


@given(graph_and_inputs())
def test_simplify_changes_no_bit(case):
    graph, inputs = case
    same_outputs(graph, simplify(graph), inputs)


@given(graph_and_inputs(max_ops=15))
def test_simplify_changes_no_bit_of_primitives(case):
    graph, inputs = decompose(case.graph), case.inputs
    same_outputs(graph, simplify(graph), inputs)


@given(graph_and_inputs())
def test_simplify_has_a_fixed_point(case):
    simpler = simplify(case.graph)
    log: list[Fired] = []
    assert rewrite(simpler, RULES, log).outputs == simpler.outputs and not log


@given(graph_and_inputs())
def test_decompose_leaves_primitives_and_types(case):
    graph = decompose(case.graph)
    assert all(n.op.expand is None for n in graph.nodes)
    assert [n.type for n in graph.outputs] == [n.type for n in case.graph.outputs]
    assert graph.inputs == case.graph.inputs
    for before, after in zip(case.graph.outputs, graph.outputs, strict=True):
        assert before not in case.graph.names or after in graph.names


@pytest.mark.sweep
@pytest.mark.parametrize("block", range(8))
def test_many_graphs(block):
    for seed in range(block * 1000, block * 1000 + 1000):
        graph, inputs = random_case(seed)
        same_outputs(graph, simplify(graph), inputs)
        graph = decompose(graph)
        same_outputs(graph, simplify(graph), inputs)


# ---- each rule -------------------------------------------------------------------------------------------------------

X = "x: f32[3, n]"
H = "x: f16[3, n]"
I = "x: i32[3, n]"  # noqa: E741
P = "x: bool[3, n]"

SIMPLER = [  # rule, inputs, before, after
    ("cast_to_own_type", X, "y = cast(x, dtype=f32) return y", "return x"),
    ("cast_to_own_type", X, "y = retype(x, dtype=f32) return y", "return x"),
    ("cast_of_cast", H, "y = cast(x, dtype=f32) z = cast(y, dtype=f16) return z", "return x"),
    ("cast_of_cast", H, "y = cast(x, dtype=f32) z = cast(y, dtype=f64) return z", "z = cast(x, dtype=f64) return z"),
    ("cast_of_cast", H, "y = cast(x, dtype=f32) z = cast(y, dtype=bf16) return z",
     "z = cast(x, dtype=bf16) return z"),
    ("cast_of_cast", P, "y = cast(x, dtype=u8) z = cast(y, dtype=f32) return z", "z = cast(x, dtype=f32) return z"),
    ("cast_of_cast", I, "y = cast(x, dtype=i64) z = cast(y, dtype=i8) return z", "z = cast(x, dtype=i8) return z"),
    ("cast_of_cast", I, "y = cast(x, dtype=f64) z = cast(y, dtype=i32) return z", "return x"),
    ("known_size", X, "%1 = size(value=7) : weak i64 %2 = cast(%1, dtype=f32) return %2", "return 7.0:weak f32"),
    ("view_to_own_shape", X, "y = reshape(x, shape=(3, n)) return y", "return x"),
    ("view_to_own_shape", X, "y = reshape(x, shape=(-1, n)) return y", "return x"),
    ("view_to_own_shape", X, "y = expand(x, size=(3, -1)) return y", "return x"),
    ("view_to_own_shape", X, "y = squeeze(x, dim=0) return y", "return x"),
    ("view_to_own_shape", X, "y = slice(x, dim=1, start=0, end=n) return y", "return x"),
    ("view_to_own_shape", X, "y = pad(x, pad=(0, 0), value=1) return y", "return x"),
    ("reshape_of_reshape", X, "y = reshape(x, shape=(3*n,)) z = reshape(y, shape=(n, 3)) return z",
     "z = reshape(x, shape=(n, 3)) return z"),
    ("reshape_of_reshape", X, "y = reshape(x, shape=(-1,)) z = reshape(y, shape=(3, n)) return z", "return x"),
    ("reshape_of_reshape", X, "y = unsqueeze(x, dim=1) z = squeeze(y, dim=1) return z", "return x"),
    ("reshape_of_reshape", X, "y = unsqueeze(x, dim=0) z = reshape(y, shape=(n, 3)) return z",
     "z = reshape(x, shape=(n, 3)) return z"),
    ("expand_of_expand", "x: f32[1, n]", "y = expand(x, size=(3, -1)) z = expand(y, size=(2, -1, -1)) return z",
     "z = expand(x, size=(2, 3, n)) return z"),
    ("permute_of_nothing", X, "y = permute(x, dims=(0, 1)) return y", "return x"),
    ("permute_of_permute", X, "y = permute(x, dims=(1, 0)) z = permute(y, dims=(1, 0)) return z", "return x"),
    ("permute_of_permute", "x: f32[2, 3, n]", "y = permute(x, dims=(1, 2, 0)) z = permute(y, dims=(1, 2, 0)) return z",
     "z = permute(x, dims=(2, 0, 1)) return z"),
    ("flip_of_flip", X, "y = flip(x, dims=1) z = flip(y, dims=1) return z", "return x"),
    ("reduction_of_nothing", "x: f32", "y = reduce_max(x, dim=()) return y", "return x"),
    ("reduction_of_nothing", "x: i32", "y = reduce_sum(x, dim=()) return y", "return x"),
    ("double_negation", X, "y = neg(x) z = neg(y) return z", "return x"),
    ("double_negation", I, "y = bitwise_not(x) z = bitwise_not(y) return z", "return x"),
    ("double_negation", P, "y = logical_not(x) z = logical_not(y) return z", "return x"),
    ("neutral_element", X, "y = mul(x, 1.0:f32) return y", "return x"),
    ("neutral_element", X, "y = mul(1.0:f32, x) return y", "return x"),
    ("neutral_element", X, "y = div(x, 1.0:f32) return y", "return x"),
    ("neutral_element", X, "y = add(x, -0.0:f32) return y", "return x"),
    ("neutral_element", X, "y = sub(x, 0.0:f32) return y", "return x"),
    ("neutral_element", X, "o = expand(1.0:f32, size=(3, n)) y = mul(x, o) return y", "return x"),
    ("neutral_element", "x: f32[n]", "o = expand(1.0:f32, size=(3, n)) y = mul(x, o) return y",
     "y = expand(x, size=(3, n)) return y"),
    ("neutral_element", I, "y = add(0:i32, x) return y", "return x"),
    ("neutral_element", I, "y = floor_divide(x, 1:i32) return y", "return x"),
    ("neutral_element", I, "y = bitwise_or(x, 0:i32) return y", "return x"),
    ("neutral_element", P, "y = logical_and(x, True:bool) return y", "return x"),
    ("neutral_element", P, "y = add(x, False:bool) return y", "return x"),
    ("twice_is_once", X, "y = abs(x) z = abs(y) return z", "y = abs(x) return y"),
    ("twice_is_once", X, "y = maximum(x, x) return y", "return x"),
    ("twice_is_once", P, "y = logical_or(x, x) return y", "return x"),
    ("abs_of_neg", X, "y = neg(x) z = abs(y) return z", "z = abs(x) return z"),
    ("where_is_settled", X, "y = where(True:bool, x, 1.0:f32) return y", "return x"),
    ("where_is_settled", X, "y = where(False:bool, 1.0:f32, x) return y", "return x"),
    ("where_is_settled", f"{X}, c: bool[3, n]", "y = where(c, x, x) return y", "return x"),
    ("where_is_settled", "x: f32[n], c: bool[3, 1]", "y = where(c, x, x) return y",
     "y = expand(x, size=(3, n)) return y"),
    ("fold", X, "%1 = add(1.5:f32, 2.0:f32) z = mul(x, %1) return z", "z = mul(x, 3.5:f32) return z"),
    ("fold", X, "y = add(1.5:f32, 2.0:f32) z = mul(x, y) return z",
     "y = const(value=3.5, dtype=f32) : f32 z = mul(x, y) return z"),
    ("fold", X, "%1 = div(1.0, 4.0) return %1", "return 0.25"),
    ("fold", H, "%1 = cast(0.1:f32, dtype=f16) z = mul(x, %1) return z", "z = mul(x, 0.0999755859375:f16) return z"),
    ("fold", H, "%1 = add(1.5:f16, 2.0:f16) return %1", "return 3.5:f16"),
    ("fold", X, "o = expand(1.0:f32, size=(n,)) y = exp(o) return y",
     "y = expand(2.7182817459106445:f32, size=(n,)) return y"),
    ("fold", X, "%1 = log(-1.0:f32) return %1", "return nan:f32"),
    ("fold", I, "y = lt(2:i32, 3:i32) z = where(y, x, 0:i32) return z", "return x"),
]  # fmt: skip

# What looks as if it could go, and may not.
KEPT = [
    (X, "y = add(x, 0.0:f32) return y", "-0.0 + 0.0 is 0.0"),
    (X, "y = mul(x, 0.0:f32) return y", "NaN and inf stay NaN"),
    (X, "y = sub(x, x) return y", "inf - inf is NaN"),
    (X, "y = sub(x, -0.0:f32) return y", "-0.0 - -0.0 is 0.0"),
    (X, "y = floor_divide(x, 1.0:f32) return y", "it rounds"),
    (X, "y = div(x, x) return y", "0 / 0 is NaN"),
    (X, "y = eq(x, x) return y", "NaN is not equal to itself"),
    (X, "y = cast(x, dtype=f16) z = cast(y, dtype=f32) return z", "it rounds"),
    (I, "y = cast(x, dtype=f32) z = cast(y, dtype=i32) return z", "f32 does not hold every i32"),
    (I, "y = cast(x, dtype=f64) z = cast(y, dtype=i8) return z", "integers wrap, a float out of range need not"),
    (I, "y = cast(x, dtype=bool) z = cast(y, dtype=i32) return z", "7 becomes 1"),
    (I, "y = logical_not(x) z = logical_not(y) w = cast(z, dtype=i32) return w", "7 becomes 1"),
    (H, "y = add(1.0:f16, 0.0001:f16) z = mul(x, y) return z", "in a kernel the sum is not rounded to f16"),
    (H, "y = cast(0.1:f16, dtype=f32) return y", "beside halves 0.1 is not rounded"),
    (X, "y = floor_divide(1:i32, 0:i32) return y", "it has no value"),
    (X, "y = cast(1e+20:f32, dtype=i32) return y", "it has no value that is sure"),
    (X, "y = cast(nan:f32, dtype=i64) return y", "it has no value that is sure"),
    ("x: f32", "y = reduce_sum(x, dim=()) return y", "0.0 + -0.0 is 0.0"),
    ("x: f32[3, n]", "y = flip(x, dims=0) z = flip(y, dims=1) return z", "another dimension"),
    ("x: f32[n, 1]", "y = squeeze(x, dim=1) z = unsqueeze(y, dim=0) return z", "another shape"),
]


@pytest.mark.parametrize("name,inputs,before,after", SIMPLER, ids=[f"{r[0]}-{k}" for k, r in enumerate(SIMPLER)])
def test_each_rule(name, inputs, before, after):
    log: list[Fired] = []
    graph = rewrite(parse(f"f({inputs}): {before}"), RULES, log)
    assert name in {fired.rule.name for fired in log}
    assert show(graph) == show(parse(f"f({inputs}): {after}"))


@pytest.mark.parametrize("inputs,text,why", KEPT, ids=[k[2] for k in KEPT])
def test_what_is_kept(inputs, text, why):
    graph = parse(f"f({inputs}): {text}")
    assert simplify(graph).outputs == graph.outputs, why


def test_every_rule_has_an_example():
    assert {r.name for r in RULES} == {r[0] for r in SIMPLER}
