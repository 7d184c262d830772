"""The oracle: what eager computes, bit for bit; in f64 what is meant; on meta tensors shapes and strides."""

import pytest
import torch
from hypothesis import given

import fusedsl.ops as ops
from fusedsl.errors import ShapesDisagree
from fusedsl.index import Symbol, poly
from fusedsl.interpret import Machine, interpret, sizes_of
from fusedsl.ir import OPS, Graph, cast, intern
from fusedsl.passes.decompose import decompose
from fusedsl.types import Type, bf16, dtype, f8e4m3, f16, f32, f64, i8, i32
from tests.builder import Builder, Limits
from tests.choices import Dice
from tests.identical import assert_identical
from tests.strategies import ASKED_FOR, NOT_DRAWN, apply, graph_and_inputs, random_case

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
N = poly(Symbol("n"))


def given_input(name, type, number=False):
    return intern(OPS["input"], (), {"name": name, "number": number}, type)


def run(build, *values, types=None, **options):
    """The outputs of `build` traced on inputs like these values."""
    nodes = []
    for k, v in enumerate(values):
        type = Type(dtype(v.dtype), tuple(v.shape)) if isinstance(v, torch.Tensor) else Type(f64, (), weak=True)
        type = types[k] if types else type
        nodes.append(given_input(f"x{k}", type, number=not isinstance(v, torch.Tensor)))
    outputs = build(*nodes)
    graph = Graph(tuple(nodes), outputs if isinstance(outputs, tuple) else (outputs,))
    return interpret(graph, values, **options)


def rms_norm(x, residual, weight, eps):
    h = x + residual
    if isinstance(x, torch.Tensor):
        return h, h * torch.rsqrt((h * h).mean(-1, keepdim=True) + eps) * weight
    return h, h * ops.rsqrt(ops.mean(h * h, -1, True) + eps) * weight


@pytest.mark.parametrize("dt", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_bit_for_bit_as_eager(dt):
    values = (torch.randn(4, 8).to(dt), torch.randn(4, 8).to(dt), torch.randn(8).to(dt), 1e-3)
    for ours, theirs in zip(run(rms_norm, *values), rms_norm(*values), strict=True):
        assert_identical(ours, theirs)


@pytest.mark.parametrize("dt", [torch.float16, torch.bfloat16])
def test_numbers_stay_numbers(dt):
    # torch multiplies halves by 0.1 in f32, which is not the half next to 0.1
    x = torch.randn(100).to(dt)
    assert not torch.equal(x * 0.1, x * torch.tensor(0.1, dtype=dt))
    (known,), (passed,) = run(lambda x: x * 0.1, x), run(lambda x, s: x * s, x, 0.1)
    assert_identical(known, x * 0.1)
    assert_identical(passed, x * 0.1)
    (computed,) = run(lambda x, s: x * (s * s + 1), x, 0.1)
    assert_identical(computed, x * (0.1 * 0.1 + 1))


def test_numbers_where_torch_takes_none():
    x = torch.tensor([0.25, -1.0], dtype=torch.float64)
    (bounded,) = run(lambda x: ops.maximum(x, 0.1), x)
    assert_identical(bounded, torch.tensor([0.25, 0.1], dtype=torch.float64))
    (chosen,) = run(lambda x: ops.where(x > 0, 0.1, 2), x)
    assert_identical(chosen, torch.where(x > 0, 0.1, 2))
    (truth,) = run(lambda x: ops.where(True, x, 1.0), x)
    assert_identical(truth, x)


def test_outputs_are_tensors_and_inputs_themselves():
    x = torch.randn(3)
    same, number = run(lambda x, s: (x, s + 1), x, 0.5)
    assert same is x and number.dtype == torch.float64 and number == 1.5


def test_optional_variadic_and_dtype_arguments():
    x = torch.randn(2, 3)
    assert_identical(run(lambda x: ops.clamp(x, None, 0.5), x)[0], x.clamp(max=0.5))
    assert_identical(run(lambda x: ops.cat([x, x * 2, x], 1), x)[0], torch.cat([x, x * 2, x], 1))
    assert_identical(run(lambda x: ops.sum(x, 0, dtype=f64), x)[0], x.sum(0, dtype=torch.float64))


# ---- sizes -----------------------------------------------------------------------------------------------------------


def test_sizes_are_read_off_the_inputs():
    x = given_input("x", Type(f32, (N, 3)))
    graph = Graph((x,), (ops.reshape(x, (N * 3,)) * N,))
    value = torch.randn(5, 3)
    assert sizes_of(graph, [value]) == {"n": 5}
    assert_identical(interpret(graph, [value])[0], value.reshape(15) * 5)
    z = given_input("z", Type(f32, (N + 1,)))
    both = Graph((x, z), (x, z))
    assert sizes_of(both, [value, torch.randn(6)]) == {"n": 5}
    with pytest.raises(ShapesDisagree, match=r"z must be \[n \+ 1\] where n = 5, got \[5\]"):
        interpret(both, [value, torch.randn(5)])
    with pytest.raises(ShapesDisagree, match=r"x must be \[n, 3\]"):
        interpret(graph, [torch.randn(5, 3, 1)])


# ---- in f64 ----------------------------------------------------------------------------------------------------------


def exact(build, *values, **options):
    return run(build, *values, dtype=torch.float64, **options)


def test_f64_rounds_nothing_on_the_way():
    x = torch.randn(64).half()
    (y,) = exact(lambda x: ops.sum(ops.exp(x) * x, 0), x)
    assert_identical(y, (x.double().exp() * x.double()).sum(0))
    # storing in 16 bits is what an error is measured against; so are halves that overflow
    (narrowed,) = exact(lambda x: cast(cast(cast(x * 1e-3, bf16), f16), f32), x)
    assert_identical(narrowed, x.double() * 1e-3)
    (huge,) = exact(lambda x: x * 60000, torch.tensor([30000.0]).half())
    assert huge.item() == 30000.0 * 60000


def test_f64_does_what_casts_to_few_values_say():
    x = torch.randn(64) * 3
    assert_identical(exact(lambda x: cast(x, i8) * 2, x)[0], x.to(torch.int8) * 2)
    assert_identical(exact(lambda x: cast(x, f8e4m3), x)[0], x.to(torch.float8_e4m3fn).double())
    assert_identical(exact(lambda x: cast(cast(x, i32), f16) * 0.5, x)[0], x.to(torch.int32).double() * 0.5)


def test_f64_keeps_the_limits_of_the_users_dtype():
    x = torch.tensor([1e5, torch.inf, torch.nan, 1.0])
    (saturated,) = exact(lambda x: ops.saturate(x, f16), x[:1])
    assert saturated.item() == 65504
    (repaired,) = exact(lambda x: ops.nan_to_num(x), x.half())
    assert repaired.tolist() == [65504.0, 65504.0, 0.0, 1.0]


@given(graph_and_inputs(max_ops=12, limits=Limits(edges=False, dtypes=("f64", "i64", "bool"))))
def test_f64_changes_nothing_in_a_graph_of_f64(case):
    graph = decompose(case.graph)
    if all(n.dtype is f64 or not n.dtype.is_float for n in graph.nodes):
        for a, b in zip(interpret(graph, case.inputs), exact_of(case), strict=True):
            assert_identical(a, b)


def exact_of(case):
    return interpret(case.graph, case.inputs, dtype=torch.float64)


# ---- on meta tensors -------------------------------------------------------------------------------------------------


def on_meta(value):
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


@given(graph_and_inputs(max_ops=12))
def test_meta_tensors_give_shapes(case):
    graph, inputs = case
    try:
        found = interpret(graph, [on_meta(v) for v in inputs])
    except RuntimeError as error:
        assert "meta" in str(error)  # torch itself reads the bounds of a mixed clamp
        return
    for meta, real in zip(found, interpret(graph, inputs), strict=True):
        assert meta.is_meta is any(isinstance(v, torch.Tensor) for v in inputs)
        assert (meta.dtype, meta.shape) == (real.dtype, real.shape)


STRIDED = {
    "transposed": lambda x: x + 1,
    "viewed": lambda x: ops.permute(x, (1, 0)),
    "part": lambda x: ops.slice(x, 1, 0, 4, 2),
    "broadcast": lambda x: ops.expand(ops.unsqueeze(x, 0), (3, -1, -1)),
    "reduced": lambda x: ops.sum(x, 0) * x,
    "normed": lambda x: ops.softmax(x, -1),
    "copied": lambda x: ops.reshape(x, (-1,)),
}


@pytest.mark.parametrize("name", STRIDED)
def test_meta_tensors_give_strides(name):
    # not of every op: for some, as copysign, torch's own meta tensors have other strides than the real ones
    x = torch.randn(4, 6).t().contiguous().t()
    real, meta = (run(STRIDED[name], v)[0] for v in (x, on_meta(x)))
    assert meta.is_meta and meta.stride() == real.stride()


# ---- the generator of random graphs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(OPS) - NOT_DRAWN))
def test_every_op_is_drawn(name):
    """An op that the strategies cannot call would go untested: give it a line in op_calls.CALLS or builder.CHOICES."""
    for seed in range(40):
        builder = Builder(Dice(seed), Limits())
        builder.machine = Machine(builder.sizes)
        apply(builder, OPS[name])
        if any(node not in builder.inputs for node in builder.pool):
            return
    pytest.fail(f"{name}: 40 draws of operands and attributes were all refused")


def test_cases_repeat_and_differ():
    a, b, c = random_case(5), random_case(5), random_case(6)
    assert a.graph.outputs == b.graph.outputs and a.graph.outputs != c.graph.outputs
    for x, y in zip(a.inputs, b.inputs, strict=True):
        assert_identical(torch.as_tensor(x), torch.as_tensor(y))


def test_cases_are_varied():
    drawn = set(OPS) - ASKED_FOR - NOT_DRAWN
    cases = [random_case(seed) for seed in range(2 * len(drawn))]
    nodes = [n for case in cases for n in case.graph.nodes]
    tensors = [v for case in cases for v in case.inputs if isinstance(v, torch.Tensor)]
    assert {n.op.kind for n in nodes} == {"elementwise", "view", "reduce", "scan", "composition", "indexed"}
    assert len({n.op.name for n in nodes}) > 0.8 * len(drawn)
    assert any(0 in v.stride() and v.numel() > 1 for v in tensors)
    assert any(not v.is_contiguous() for v in tensors) and any(v.storage_offset() for v in tensors)
    assert any(v.numel() == 0 for v in tensors) and any(v.ndim == 0 for v in tensors)
    assert any(not isinstance(size, int) for n in nodes for size in n.shape)
    floats = [v.double() for v in tensors if v.is_floating_point()]
    assert any(v.isnan().any() for v in floats) and any(v.isinf().any() for v in floats)
    assert any(((v == 0) & v.signbit()).any() for v in floats)
    assert {len(case.graph.outputs) for case in cases} == {1, 2, 3}
