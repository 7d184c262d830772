"""Tracing: which programs become which graphs, which later calls a trace serves, and what users' mistakes say."""

import contextlib
import functools
import gc
import math
import sys
import threading
import weakref
from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import fusedsl.ops
from fusedsl import errors, fuse
from fusedsl.interpret import interpret
from fusedsl.proxy import Proxy
from fusedsl.session import Session
from fusedsl.sizes import Facts, Shape, Size
from fusedsl.trace import Traced, is_tracing, trace


def bound(traced: Traced, *args, **kwargs):
    found = traced.bind(args, kwargs)
    assert found is not None, "the call needs a trace of its own"
    return found


def results(traced: Traced, *args, **kwargs):
    """What the traced function gives for a call, by the ops' references."""
    call = bound(traced, *args, **kwargs)
    return traced.rebuild(call, interpret(traced.graph, call.values, call.sizes))


def check(function, *args, **kwargs) -> Traced:
    """The trace of a function, which gives what the function itself gives."""
    traced = trace(function, args, kwargs)
    torch.testing.assert_close(results(traced, *args, **kwargs), function(*args, **kwargs))
    return traced


def serves(traced: Traced, *args, **kwargs) -> bool:
    return traced.bind(args, kwargs) is not None


def ops_in(traced: Traced) -> list[str]:
    return [node.op.name for node in traced.graph.nodes]


def shapes(traced: Traced) -> list[str]:
    return [str(node.type) for node in traced.graph.outputs]


def asked(question, *shape) -> Traced:
    """The trace of a function that gives what a question about a tensor's sizes gives."""
    return trace(lambda x: (x + 1, question(*x.shape)), (torch.ones(shape),))


# ---- programs -------------------------------------------------------------------------------------------------------


def rms_norm(x, residual, weight, eps=1e-6):
    h = x + residual
    y = h * torch.rsqrt((h * h).mean(-1, keepdim=True) + eps) * weight
    return h, y


def test_an_ordinary_function():
    traced = check(rms_norm, torch.randn(4, 8), torch.randn(4, 8), torch.randn(8))
    assert [node["name"] for node in traced.graph.inputs] == ["x", "residual", "weight", "eps"]
    assert traced.graph.name == "rms_norm"
    assert traced.results.leaves == (("node", 0), ("node", 1))
    assert serves(traced, torch.randn(7, 5), torch.randn(7, 5), torch.randn(5), eps=1e-3)
    assert not serves(traced, torch.randn(7, 5), torch.randn(7, 1), torch.randn(5))


def test_a_function_in_c():
    """Python knows no signature of it."""
    x = torch.randn(3, 4)
    for f, args, kwargs in [(torch.exp, (x,), {}), (torch.softmax, (x,), {"dim": -1}), (torch.add, (x, 2), {})]:
        torch.testing.assert_close(fuse(f)(*args, **kwargs), f(*args, **kwargs))


def test_numbers_of_the_callers_for_an_unknown_function():
    with pytest.raises(errors.UnknownFunction, match="empty_strided"):
        fuse(lambda size, strides: torch.empty_strided(size, strides))((2, 3), (3, 1))


def sheared(x):
    return x.t().contiguous() + 1


def asks(x):
    return x + 1 if x.is_contiguous() else x - 1


def asks_a_view(x):
    return x + 1 if x.t().is_contiguous() else x - 1


def asks_what_is_computed(x):
    h = x * 2
    h = h if h.is_contiguous() else h.contiguous()
    return h[:, 1:] + 1 if h[:, 1:].is_contiguous() else h[:, 1:] - 1


@pytest.mark.parametrize("f", [sheared, asks, asks_a_view, asks_what_is_computed])
def test_where_values_lie_is_eagers_affair(f):
    fused = fuse(f)
    dense = torch.randn(3, 2)
    for x in (dense, torch.randn(2, 3).t(), torch.randn(5, 7), torch.randn(4, 6)[:, ::2], dense):
        assert torch.equal(fused(x), f(x))
        assert fused(x).stride() == f(x).stride()
    assert len(fused._entries) <= 4  # the last is the first again


def test_a_format_of_memory_may_be_asked_for():
    f = lambda x: x * 2 if x.is_contiguous(memory_format=torch.channels_last) else x + 1
    fused, x = fuse(f), torch.randn(2, 3, 4, 5)
    for each in (x, x.to(memory_format=torch.channels_last)):
        assert torch.equal(fused(each), f(each))


def test_torchs_generator_is_not_seeded_inside():
    def f(x):
        torch.manual_seed(0)
        return torch.rand_like(x)

    torch.manual_seed(5)
    state = torch.get_rng_state()
    with pytest.raises(errors.UntraceableCapture, match="generator"):
        fuse(f)(torch.zeros(3))
    assert torch.equal(state, torch.get_rng_state())


def test_an_attribute_that_no_tensor_has():
    with pytest.raises(AttributeError, match="'Tensor' object has no attribute 'softmx'; close to it: softmax"):
        fuse(lambda x: x.softmx(-1))(torch.zeros(3, 4))


def test_names_and_lines():
    traced = trace(rms_norm, (torch.randn(4, 8), torch.randn(4, 8), torch.randn(8)))
    h, y = traced.graph.outputs
    assert (traced.graph.names[h], traced.graph.names[y]) == ("h", "y")
    first = rms_norm.__code__.co_firstlineno
    assert traced.graph.lines[h].number == first + 1
    assert all(traced.graph.lines[n].number == first + 2 for n in traced.graph.nodes if n.op.name in ("rsqrt", "mean"))


def test_names_of_several_results_and_of_modules():
    norm = nn.LayerNorm(8)

    def f(x):
        low, high = x.chunk(2, 0)
        z = norm(low)
        return z - high

    with torch.no_grad():
        names = set(trace(f, (torch.randn(4, 8),)).graph.names.values())
    assert {"low", "high", "z"} <= names


def _every_operator(x, y):
    return [
        x + y, x - y, x * y, x / y, x // y, x % y, x**y, -x, +x, abs(x), 1 + x, 1 - x, 2 * x, 2 / x, 2 // x, 2 % x,
        2**x, x + 1, x - 1, x * 2, x / 2, x // 2, x % 2, x**2, x < y, x <= y, x > y, x >= y, x == y, x != y, x >= 2,
        1 < x,  # noqa: SIM300  (the reflected comparison)
    ]  # fmt: skip


def _every_bit_operator(x, y):
    return [x & y, x | y, x ^ y, ~x, x << 1, x >> 1, x & 1, 1 | x, 3 ^ x]


def test_operators():
    check(_every_operator, torch.rand(4, 3) + 0.5, torch.rand(3) + 0.5)
    check(_every_bit_operator, torch.randint(0, 9, (4, 3)), torch.randint(0, 9, (3,)))
    check(_every_bit_operator, torch.tensor(5), torch.tensor(3))


CALLS = {
    "view": lambda x: x.view(x.shape[0], -1, 2),
    "view of a list": lambda x: x.view([x.size(0) * 2, -1]),
    "reshape": lambda x: x.reshape(x.shape[0], -1),
    "function": lambda x: torch.reshape(x, (-1, x.shape[-1])),
    "permute": lambda x: x.permute(2, 0, 1) + x.permute((2, 0, 1)),
    "transpose": lambda x: x.transpose(-1, 1),
    "mT": lambda x: x.mT,
    "slice": lambda x: x[:, : x.shape[2] - 1],
    "ellipsis": lambda x: x[..., None, :, 1:],
    "integer": lambda x: x[0] - x[-1],
    "index tensor": lambda x: x[torch.arange(x.shape[0]) % 2],
    "expand": lambda x: x[:1].expand(x.shape[0], -1, -1),
    "dim names": lambda x: torch.sum(input=x, dim=(0, 1), keepdim=True),
    "axis": lambda x: torch.sum(x, axis=1, keepdims=True),  # type: ignore[call-overload]
    "several dims": lambda x: x.amax((0, -1)),
    "dtype": lambda x: x.sum(dtype=torch.float64),
    "softmax": lambda x: F.softmax(x, dim=-1),
    "softmax method": lambda x: x.softmax(-1),
    "max": lambda x: x.max(dim=-1).values - x.max(-1)[0],
    "argmax": lambda x: torch.max(x, 1).indices,
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "masked_fill": lambda x: x.masked_fill(x > 0, float("-inf")),
    "clamp": lambda x: x.clamp(min=0) + torch.clamp(x, -1, 1),
    "layer_norm": lambda x: F.layer_norm(x, (x.shape[-1],)),
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "relu in place": lambda x: F.relu(x * 2, inplace=True),
    "dropout": lambda x: F.dropout(x * 2, 0.5, training=False),
    "cat": lambda x: torch.cat([x, x * 2], dim=-1),
    "stack": lambda x: torch.stack((x, x), 1),
    "split": lambda x: torch.cat(x.split([1, 3], -1)[::-1], -1),
    "chunk": lambda x: torch.chunk(x, 2, dim=1)[1],
    "unbind": lambda x: sum(x.unbind(1)),
    "iteration": lambda x: sum(row for row in x),
    "len": lambda x: x * len(x),
    "to": lambda x: x.to(torch.float64) + x.double() + x.to(dtype=torch.float16),
    "type_as": lambda x: (x > 0).type_as(x),
    "einsum of views": lambda x: x.flatten(1).unflatten(1, (x.shape[1], -1)),
    "numel": lambda x: x.sum() / x.numel(),
    "mean by hand": lambda x: x.sum(-1) / x.shape[-1],
    "scale": lambda x: x * x.shape[-1] ** -0.5,
    "no_grad": lambda x: _in_no_grad(x),
    "questions": lambda x: x * 2 if x.is_floating_point() and x.ndim == 3 and not x.is_cuda and x.is_cpu else x,
    "isinstance": lambda x: x * 2 if isinstance(x, torch.Tensor) and torch.is_tensor(x) else x,
    "isinstance of a size": lambda x: x * 2 if isinstance(x.shape[0], int) and isinstance(x.shape, tuple) else x,
    "chained": lambda x: x.mul(2).add(x, alpha=0.5).sub(1).neg().exp(),
    "prod of a shape": lambda x: x.reshape(math.prod(x.shape[:2]), x.shape[2]),
    "unpacked shape": lambda x: x.view(*x.shape[:-1], 2, -1),
    "torch.Size": lambda x: x.reshape(torch.Size((x.shape[0], x.shape[1] * x.shape[2]))),
    "broadcast_shapes": lambda x: x.expand(torch.broadcast_shapes(x.shape, (1, x.shape[-1]))),
    "tensor": lambda x: x * torch.tensor([1.0, 2.0, 3.0, 4.0]) + torch.tensor(2),
    "zeros": lambda x: torch.zeros(x.shape[0], 3, 1) + x[:, :3],
    "zeros_like": lambda x: torch.zeros_like(x) + torch.ones_like(x, dtype=torch.float64),
    "new_zeros": lambda x: x.new_zeros(x.shape[1], 1) + x,
    "full": lambda x: torch.full((x.shape[-1],), 0.5, dtype=torch.float64) * x,
    "arange": lambda x: x + torch.arange(x.shape[-1]) * torch.arange(0, x.shape[-1], 1, device=x.device),
    "tril": lambda x: torch.tril(x),
    "eye": lambda x: x * torch.eye(x.shape[1], x.shape[2]),
    "detached": lambda x: x.detach() * x.data,
}


def _in_no_grad(x):
    with torch.no_grad():
        return x * 2


@pytest.mark.parametrize("name", CALLS)
def test_calls(name):
    function, x = CALLS[name], torch.randn(4, 6, 4)
    traced = check(function, x)
    if name not in ("iteration", "len"):  # which fix the first size
        other = torch.randn(5, 6, 4)
        torch.testing.assert_close(results(traced, other), function(other))


def test_our_ops_are_the_same_as_torch():
    def ours(x):
        return fusedsl.ops.rsqrt(x) * fusedsl.ops.exp(x=x)

    def torchs(x):
        return torch.rsqrt(x) * torch.exp(x)

    x = torch.rand(3, 4) + 1
    assert trace(ours, (x,)).graph.outputs == trace(torchs, (x,)).graph.outputs


def test_ops_without_tensors_belong_to_the_trace():
    def f(x):
        return x + fusedsl.ops.zeros(x.shape, torch.float32)

    check(f, torch.randn(3, 4))


def test_indices():
    def f(x):
        i, j = fusedsl.ops.indices(x, -2, -1)
        return torch.where(j <= i, x, 0.0)

    torch.testing.assert_close(results(trace(f, (torch.ones(3, 4),)), torch.ones(5, 2)), torch.ones(5, 2).tril())


# ---- sizes ----------------------------------------------------------------------------------------------------------


def test_one_trace_serves_every_size():
    traced = trace(lambda x: x * 2, (torch.ones(4, 8),))
    assert shapes(traced) == ["f32[s0, s1]"]
    assert bound(traced, torch.ones(9, 3)).sizes == {"s0": 9, "s1": 3}


@pytest.mark.parametrize("shape", [(0, 8), (1, 8), (8,), (2, 8, 2)])
def test_sizes_0_and_1_and_the_rank_are_conditions(shape):
    assert not serves(trace(lambda x: x * 2, (torch.ones(4, 8),)), torch.ones(shape))


def test_sizes_0_and_1_are_static():
    traced = check(lambda x: x.sum(0) + x.squeeze(1), torch.ones(0, 1, 3))
    assert shapes(traced) == ["f32[0, s0]"]
    assert serves(traced, torch.ones(0, 1, 9)) and not serves(traced, torch.ones(2, 1, 9))


def test_equal_sizes_become_one_symbol():
    def f(x, y):
        return (x + y) * y.sum(0)

    traced = check(f, torch.ones(4, 8), torch.ones(4, 8))
    assert {str(n.type) for n in traced.graph.nodes if n.rank == 2} == {"f32[s0, s1]"}
    assert serves(traced, torch.ones(5, 3), torch.ones(5, 3))
    assert not serves(traced, torch.ones(5, 3), torch.ones(4, 3))


def test_a_union_reaches_values_made_before_it():
    def f(x, y):
        a, b = x * 2, y * 2  # of sizes that turn out equal below
        total = x + y
        return a.view(-1) * b.view(-1), total.view(y.shape[0], -1)

    traced = check(f, torch.ones(4, 8), torch.ones(4, 8))
    assert shapes(traced) == ["f32[s0*s1]", "f32[s0, s1]"]


def test_a_size_may_equal_a_product():
    def f(x, y):
        return x.flatten() + y

    traced = check(f, torch.ones(3, 4), torch.ones(12))
    assert shapes(traced) == ["f32[s0*s1]"]
    assert bound(traced, torch.ones(2, 5), torch.ones(10)).sizes == {"s0": 2, "s1": 5}
    assert not serves(traced, torch.ones(2, 5), torch.ones(11))


def test_symbols_that_cannot_be_solved_for_are_fixed():
    def f(x, y):
        return x.flatten() + y.flatten()

    traced = check(f, torch.ones(3, 4), torch.ones(2, 6))
    assert shapes(traced) == ["f32[12]"]
    assert not serves(traced, torch.ones(4, 3), torch.ones(2, 6))


def test_size_names():
    traced = trace(lambda x, y: x + y, (torch.ones(4, 8), torch.ones(8)), size_names={("x", 0): "B", ("y", 0): "D"})
    assert shapes(traced) == ["f32[B, D]"] and bound(traced, torch.ones(2, 3), torch.ones(3)).sizes == {"B": 2, "D": 3}
    same = trace(lambda x: x * 2, (torch.ones(4, 4),), size_names={("x", 0): "N", ("x", 1): "N"})
    assert shapes(same) == ["f32[N, N]"] and not serves(same, torch.ones(3, 4))
    with pytest.raises(errors.BadArgument, match="the size N"):
        trace(lambda x: x, (torch.ones(4, 5),), size_names={("x", 0): "N", ("x", 1): "N"})
    with pytest.raises(errors.BadArgument, match="a Python name"):
        trace(lambda x: x, (torch.ones(4, 5),), size_names={("x", 0): "not"})


@pytest.mark.parametrize("question, other", [
    (lambda n, m: n + 1 > n, (9, 3)),
    (lambda n, m: n >= 2, (9, 3)),
    (lambda n, m: n * m >= m, (9, 3)),
    (lambda n, m: n != 0 and bool(n), (9, 3)),
    (lambda n, m: (n * m) // m == n, (9, 3)),
    (lambda n, m: (n * m) % n == 0, (9, 3)),
    (lambda n, m: n + m == m + n and (n != n) is False, (9, 3)),
    (lambda n, m: max(n, 1) == n, (9, 3)),
    (lambda n, m: n - n == 0, (9, 3)),
])  # fmt: skip
def test_what_can_be_proved_needs_no_condition(question, other):
    traced = asked(question, 4, 8)
    assert traced.results.leaves[1] == ("value", True) and serves(traced, torch.ones(other))


@pytest.mark.parametrize("question, other, alike", [
    (lambda n, m: n < m, (9, 3), (2, 3)),
    (lambda n, m: n == 4, (5, 8), (4, 9)),
    (lambda n, m: n == m, (5, 5), (6, 7)),
    (lambda n, m: n % 2 == 0, (5, 8), (6, 8)),
    (lambda n, m: n // 3, (5, 8), (4, 9)),
    (lambda n, m: int(n), (5, 8), (4, 9)),
    (lambda n, m: range(n), (5, 8), (4, 9)),
    (lambda n, m: [10, 11, 12, 13, 14][n], (3, 8), (4, 9)),
    (lambda n, m: f"{n}", (5, 8), (4, 9)),
    (lambda n, m: f"{n:d}", (5, 8), (4, 9)),
    (lambda n, m: str(n), (5, 8), (4, 9)),
    (lambda n, m: hash(n), (5, 8), (4, 9)),
    (lambda n, m: {4: "four"}.get(n), (5, 8), (4, 9)),
    (lambda n, m: math.sqrt(n), (5, 8), (4, 9)),
    (lambda n, m: n**-0.5, (5, 8), (4, 9)),
    (lambda n, m: 1 / n, (5, 8), (4, 9)),
    (lambda n, m: n * 0.5, (5, 8), (4, 9)),
    (lambda n, m: float(n), (5, 8), (4, 9)),
    (lambda n, m: divmod(n, 3), (5, 8), (4, 9)),
    (lambda n, m: n.bit_length(), (9, 8), (4, 9)),
    (lambda n, m: n & 1, (5, 8), (4, 9)),
    (lambda n, m: (n, m) == (4, 8), (5, 8), (4, 8)),
    (lambda n, m: min(n, 6) + 0 == n, (9, 8), (5, 9)),
    (lambda n, m: float(np.sqrt(n)), (5, 8), (4, 9)),
    (lambda n, m: int(np.prod((n, m))), (5, 8), (4, 8)),
    (lambda n, m: torch.sym_max(n, 6), (9, 8), (5, 9)),
    (lambda n, m: torch.Size((n, m)).numel(), (5, 8), (4, 8)),
])  # fmt: skip
def test_what_depends_on_a_size_is_right_and_a_condition(question, other, alike):
    """Python's own answer; a call that would get another is traced anew, one that would get the same is not."""
    traced = asked(question, 4, 8)
    for shape in ((4, 8), alike):
        assert results(traced, torch.ones(shape))[1] == question(*shape)
    assert not serves(traced, torch.ones(other))


def test_divmod_by_a_divisor_stays_symbolic():
    traced = asked(lambda n: divmod(n * 6, 3), 4)
    assert results(traced, torch.ones(7))[1] == (14, 0)


def test_arithmetic_of_sizes_stays_symbolic():
    def arithmetic(n, m):
        return n + 1, 2 * n - m, -n, n * m // n, n**2, abs(n), round(n), +m

    traced = asked(arithmetic, 4, 8)
    assert [str(leaf[1]) for leaf in traced.results.leaves[1:4]] == ["s0 + 1", "2*s0 - s1", "-s0"]
    assert results(traced, torch.ones(5, 3))[1] == arithmetic(5, 3)


def test_the_shape():
    def ask(x):
        shape = x.shape
        assert isinstance(shape, torch.Size) and isinstance(shape, tuple) and len(shape) == 2
        assert type(shape[:1]) is Shape and shape[-1] is shape[1] and shape == x.size() and (shape != x.size()) is False
        assert (1,) + shape == (1, *shape) and shape + (1,) == (*shape, 1)  # noqa: RUF005
        assert repr(shape.numel()) == "s0*s1" and repr(shape) == "torch.Size([s0, s1])"
        n, m = shape
        assert (n, m) == shape and [*shape] == [n, m]
        return x + 1

    assert serves(trace(ask, (torch.ones(4, 8),)), torch.ones(5, 3))
    shaped = trace(lambda x: x + 1 if x.shape == (4, 8) else x, (torch.ones(4, 8),))
    assert serves(shaped, torch.ones(4, 8)) and not serves(shaped, torch.ones(4, 7))
    hashed = trace(lambda x: x + hash(x.shape), (torch.ones(4, 8),))
    assert serves(hashed, torch.ones(4, 8)) and not serves(hashed, torch.ones(4, 7))


@given(st.data())
def test_sizes_agree_with_python(data):
    """Any expression over sizes gives what Python gives, now and for every call that the conditions let through."""
    leaf = st.sampled_from(["n", "m", "2", "3", "n", "m"])
    sign = st.sampled_from(["+", "-", "*", "//", "%", "<", "<=", "==", "!=", ">", ">="])
    pair = lambda inner: st.tuples(inner, sign, inner).map(lambda p: f"({p[0]} {p[1]} {p[2]})")
    expression = data.draw(st.recursive(leaf, pair, max_leaves=6))
    first, second = [data.draw(st.tuples(st.integers(2, 7), st.integers(2, 7))) for _ in range(2)]
    facts = Facts()
    n, m = (facts.size(facts.symbol(value) + 0) for value in first)
    names = {"s0": second[0], "s1": second[1]}
    try:
        wanted = eval(expression, {"n": first[0], "m": first[1]})
    except ZeroDivisionError:
        with pytest.raises(ZeroDivisionError):
            int(eval(expression, {"n": n, "m": m}))
        return
    got = eval(expression, {"n": n, "m": m})
    assert facts.value(got.index if isinstance(got, Size) else int(got)) == wanted
    if all(eval(condition, {}, dict(names)) for condition in facts.conditions):
        assert eval(repr(got), {}, names) == eval(expression, {"n": second[0], "m": second[1]})


def test_views_with_sizes_that_divide_only_now():
    traced = check(lambda x: x.view(x.shape[0], 2, -1), torch.ones(5, 6))
    assert not serves(traced, torch.ones(5, 7))
    with pytest.raises(errors.FuseError):
        trace(lambda x: x.view(x.shape[0], 2, -1), (torch.ones(5, 7),))


def test_only_the_size_in_the_way_is_fixed():
    traced = check(lambda x: sum(x.unbind(1)), torch.ones(5, 3))
    assert serves(traced, torch.ones(9, 3)) and not serves(traced, torch.ones(5, 4))


# ---- arguments ------------------------------------------------------------------------------------------------------

Pair = namedtuple("Pair", "left right")


def test_nested_arguments():
    def f(xs, options, pair, *rest, scale=1.0, **more):
        return {"sum": sum(xs) * scale, "pair": pair.left - pair.right, "rest": [rest[0] + more["b"], options["k"][0]]}

    def args():
        pair = Pair(torch.ones(3), torch.ones(3))
        return [torch.randn(3), torch.randn(3)], {"k": (torch.randn(3), 2)}, pair, torch.ones(3)

    a = args()
    traced = trace(f, a, {"scale": 2.0, "b": torch.ones(3)})
    names = [node["name"] for node in traced.graph.inputs]
    assert names[:5] == ["xs_0", "xs_1", "options_k_0", "pair_left", "pair_right"]
    call = {"scale": 3.0, "b": torch.ones(3)}
    b = args()
    torch.testing.assert_close(results(traced, *b, **call), f(*b, **call))
    assert not serves(traced, [*b[0], torch.randn(3)], *b[1:], **call)
    assert not serves(traced, tuple(b[0]), *b[1:], **call)
    assert not serves(traced, b[0], {"other": b[1]["k"]}, *b[2:], **call)
    assert not serves(traced, *b, scale=3.0)


def test_keywords_and_defaults():
    def f(x, y=2.0, *, flag=False):
        return x * y if flag else x - y

    x = torch.ones(3)
    traced = check(f, x)
    assert serves(traced, x, 5.0) and serves(traced, x=x, y=1.0) and not serves(traced, x, flag=True)
    assert not serves(traced, x, 5) and not serves(traced, x, torch.tensor(5.0))
    with pytest.raises(TypeError, match="missing"):
        trace(f, ())
    f.__defaults__ = (3.0,)
    assert not serves(traced, x)


def test_floats_are_symbolic():
    def f(x, eps, power):
        return x * eps + eps**2 - eps / 3 + (-eps) * x**power

    traced = trace(f, (torch.rand(3), 0.5, 2))
    for eps, power in [(0.25, 3), (-1.5, 0), (float("inf"), 2)]:
        x = torch.rand(3)
        torch.testing.assert_close(results(traced, x, eps, power), f(x, eps, power), equal_nan=True)


def test_numbers_are_computed_as_python_does():
    """A number stays weak, and as exact as Python's, whatever was done to it."""

    def f(x, k):
        return x * (k * 2 + 1) * (k / 3)

    traced = trace(f, (torch.ones(3, dtype=torch.float16), 5))
    assert shapes(traced) == ["f16[s0]"]
    x = torch.ones(4, dtype=torch.float16)
    torch.testing.assert_close(results(traced, x, 7), f(x, 7), rtol=0, atol=0)


def test_a_number_that_changes_its_type_is_traced_anew():
    x = torch.ones(3, dtype=torch.int64)
    traced = trace(lambda x, k: x * 2**k, (x, 2))
    assert serves(traced, x, 3) and not serves(traced, x, -1)
    divided = trace(lambda x, k: x * (1 / k), (torch.ones(3), 2))
    assert not serves(divided, torch.ones(3), 0)
    with pytest.raises(ZeroDivisionError):
        trace(lambda x, k: x * (1 / k), (torch.ones(3), 0))


@pytest.mark.parametrize("use, now, alike, other", [
    (lambda x, k: x.sum(k), 1, None, 0),
    (lambda x, k: x[:, :k], 2, None, 1),
    (lambda x, k: x + torch.zeros(k, 1, 1), 2, None, 3),
    (lambda x, k: sum(x * i for i in range(k)), 3, None, 2),
    (lambda x, k: x * 2 if k > 0 else x, 0.5, 0.25, -1.0),
    (lambda x, k: x * 2 if k else x, 0.5, 0.25, 0.0),
    (lambda x, k: x * math.sqrt(k), 4.0, None, 9.0),
    (lambda x, k: x * int(k), 4.5, None, 4.6),
    (lambda x, k: x * len(f"{k}"), 4.5, None, 4.25),
    (lambda x, k: x * {4: 1}.get(k, 2), 4, None, 5),
    (lambda x, k: F.layer_norm(x, (4,), eps=k), 1e-5, None, 1e-3),
    (lambda x, k: F.leaky_relu(x, k), 0.1, None, None),
    (lambda x, k: x * (k == 3), 3, None, 4),
    (lambda x, k: x * round(k), 2.6, None, 3.4),
    (lambda x, k: x.view(k, -1), 2, None, 4),
    (lambda x, k: x * k.bit_length(), 4, None, 5),
    (lambda x, k: x * abs(k), -4, 6, None),
    (lambda x, k: x * max(k, 2.0), 4.0, 6.0, 1.0),
    (lambda x, k: x * float(np.sqrt(k)), 4.0, None, 1.0),
    (lambda x, k: x * np.float32(0.5) * k, 4.0, 2.0, None),
])  # fmt: skip
def test_what_depends_on_a_number(use, now, alike, other):
    x = torch.randn(2, 3, 4)
    traced = check(use, x, now)
    if alike is not None:
        torch.testing.assert_close(results(traced, x, alike), use(x, alike))
    if other is not None:
        assert not serves(traced, x, other)


def test_zeros_and_nan_are_told_apart():
    fixed = trace(lambda x, k: x * math.copysign(1, k), (torch.ones(3), 0.0))
    assert serves(fixed, torch.ones(3), 0.0) and not serves(fixed, torch.ones(3), -0.0)
    nan = trace(lambda x, k: x * int(math.isnan(k)), (torch.ones(3), math.nan))
    assert serves(nan, torch.ones(3), math.nan) and not serves(nan, torch.ones(3), 1.0)


def test_static_arguments_are_conditions():
    def f(x, mode, flag, dt, nothing):
        return x.to(dt) * (2 if mode == "double" and flag and nothing is None else 1)

    args = (torch.ones(3), "double", True, torch.float64, None)
    traced = check(f, *args)
    for at, value in [(1, "single"), (2, False), (2, 1), (3, torch.float32), (4, 0)]:
        assert not serves(traced, *args[:at], value, *args[at + 1 :])


@dataclass(frozen=True)
class Settings:
    eps: float = 0.5


@dataclass
class Mutable:
    eps: float = 0.5


def test_objects_as_arguments():
    def f(x, settings):
        return x * settings.eps

    x = torch.ones(3)
    traced = check(f, x, Settings())
    assert serves(traced, x, Settings()) and not serves(traced, x, Settings(0.25))
    mutable = Mutable()
    traced = check(f, x, mutable)
    assert serves(traced, x, mutable)
    mutable.eps = 0.25
    assert not serves(traced, x, mutable)


def test_a_module_as_an_argument():
    def f(x, norm):
        return norm(x)

    norm = nn.LayerNorm(4)
    with torch.no_grad():
        traced = check(f, torch.randn(3, 4), norm)
        norm.eps = 0.5
        assert not serves(traced, torch.randn(3, 4), norm)


@pytest.mark.parametrize("change", [
    lambda x: x.double(), lambda x: x.half(), lambda x: x.to("meta"), lambda x: x[0], lambda x: x.to_sparse(),
    lambda x: 3.0,
])  # fmt: skip
def test_what_a_tensor_is_is_a_condition(change):
    x = torch.ones(3, 4)
    assert not serves(trace(lambda x: x * 2, (x,)), change(x))


def test_default_dtype_is_a_condition():
    traced = trace(lambda x: x * 0.5, (torch.ones(3, dtype=torch.int64),))
    torch.set_default_dtype(torch.float64)
    try:
        assert not serves(traced, torch.ones(3, dtype=torch.int64))
    finally:
        torch.set_default_dtype(torch.float32)


def test_devices():
    """Without a GPU at hand: what the session asks of a tensor's device."""
    inputs = Session("f").inputs
    inputs.device = torch.device("cuda", 0)
    inputs.check_same("cuda", "zeros")
    inputs.check_same("cuda:0", "zeros")
    inputs._check_device(torch.ones(3, device="meta"), "planned")
    for device in ("cpu", "cuda:1"):
        with pytest.raises(errors.UnsupportedDevice, match="zeros: everything must stay on cuda:0"):
            inputs.check_same(device, "zeros")
    with pytest.raises(errors.UnsupportedDevice, match=r"got cuda:0 and cpu \(y\). Move y with"):
        inputs._check_device(torch.ones(3), "y")
    with pytest.raises(errors.UnsupportedDevice, match="pass it as a Python number"):
        inputs._check_device(torch.tensor(3.0), "y")


def test_meta_tensors():
    traced = trace(rms_norm, [torch.empty(s, device="meta") for s in ((4, 8), (4, 8), (8,))])
    assert shapes(traced) == ["f32[s0, s1]", "f32[s0, s1]"] and traced.device.type == "meta"


# ---- captures -------------------------------------------------------------------------------------------------------

SCALE = torch.full((4,), 2.0)
FACTOR = 3.0
TABLE = {"w": torch.ones(4), "rest": [torch.ones(4), torch.ones(4)], "n": 2}


def uses_globals(x):
    return x * SCALE * FACTOR


def test_globals(monkeypatch):
    x = torch.ones(2, 4)
    traced = check(uses_globals, x)
    assert [n["name"] for n in traced.graph.inputs] == ["x", "SCALE"]
    monkeypatch.setitem(globals(), "SCALE", torch.full((4,), 5.0))
    torch.testing.assert_close(results(traced, x), uses_globals(x))
    monkeypatch.setitem(globals(), "FACTOR", 4.0)
    assert not serves(traced, x)
    monkeypatch.setitem(globals(), "FACTOR", 3)
    assert not serves(traced, x), "an int is another program"
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    monkeypatch.setitem(globals(), "SCALE", torch.ones(4, dtype=torch.float64))
    assert not serves(traced, x)
    monkeypatch.setitem(globals(), "SCALE", None)
    assert not serves(traced, x)
    monkeypatch.delitem(globals(), "SCALE")
    assert not serves(traced, x)


def test_a_captured_tensor_may_change_in_place():
    w = torch.ones(4)

    def f(x):
        return x * w

    traced = trace(f, (torch.ones(4),))
    w.mul_(3)
    torch.testing.assert_close(results(traced, torch.ones(4)), torch.full((4,), 3.0))


def test_closures():
    w, k = torch.ones(4), 2.0

    def change(new_w, new_k):
        nonlocal w, k
        w, k = new_w, new_k

    def f(x):
        return x * w * k

    traced = check(f, torch.ones(4))
    change(torch.full((4,), 7.0), 2.0)
    torch.testing.assert_close(results(traced, torch.ones(4)), f(torch.ones(4)))
    change(w, 2.5)
    assert not serves(traced, torch.ones(4))


def test_containers_of_tensors(monkeypatch):
    def f(x):
        return x * TABLE["w"] + sum(TABLE["rest"]) * TABLE["n"]

    x = torch.ones(4)
    traced = check(f, x)
    monkeypatch.setitem(TABLE, "w", torch.full((4,), 9.0))
    torch.testing.assert_close(results(traced, x), f(x))
    monkeypatch.setitem(TABLE, "n", 3)
    assert not serves(traced, x)
    monkeypatch.setitem(TABLE, "n", 2)
    assert serves(traced, x)
    TABLE["rest"].append(torch.ones(4))
    try:
        assert not serves(traced, x)
    finally:
        TABLE["rest"].pop()


def helper(x):
    return x * FACTOR


def test_called_functions(monkeypatch):
    def f(x):
        return helper(x) + 1

    x = torch.ones(3)
    traced = check(f, x)
    monkeypatch.setitem(globals(), "FACTOR", 8.0)
    assert not serves(traced, x)
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert serves(traced, x)
    monkeypatch.setitem(globals(), "helper", lambda x: x)
    assert not serves(traced, x)


def test_defaults_of_functions():
    w = torch.ones(3)

    def inner(x, w=w, k=2.0):
        return x * w * k

    traced = check(lambda x: inner(x), torch.ones(3))
    inner.__defaults__ = (w, 3.0)
    assert not serves(traced, torch.ones(3))
    assert [n["name"] for n in trace(inner, (torch.ones(3),)).graph.inputs] == ["x", "w", "k"]


def test_decorated_functions_and_partials():
    k = 2.0

    def times(n):
        def wrap(function):
            @functools.wraps(function)
            def wrapper(*args):
                return function(*args) * n

            return wrapper

        return wrap

    @torch.no_grad()
    @times(3.0)
    def f(x, w):
        return x * w * k

    w = torch.ones(3, requires_grad=True)
    partial = functools.partial(f, w=w) if False else functools.partial(f, torch.ones(3))
    traced = check(partial, w)
    k = 4.0
    assert not serves(traced, w)


class Block(nn.Module):
    factor = 1.5

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.layers = nn.ModuleList([nn.LayerNorm(4), nn.GELU()])
        self.drop = nn.Dropout(0.5)
        self.scale = nn.Parameter(torch.full((4,), 2.0))
        self.register_buffer("shift", torch.ones(4))
        self.bias = None
        self.eps = 0.5
        self.calls = 0

    def helper(self, x):
        return x * FACTOR

    def forward(self, x):
        h = self.norm(x) * self.scale + self.shift
        for layer in self.layers:
            h = layer(h)
        if self.bias is not None:
            h = h + self.bias
        return self.helper(self.drop(h)) * self.eps * self.factor


def _rebind(module, name):
    setattr(module, name, nn.Parameter(torch.full((4,), 9.0)))


STILL_SERVED = {
    "load_state_dict": lambda m: m.load_state_dict({k: v + 1 for k, v in m.state_dict().items()}),
    "new parameter": lambda m: _rebind(m, "scale"),
    "new inner parameter": lambda m: _rebind(m.norm, "weight"),
    "data": lambda m: m.scale.data.mul_(3),
    "unused attribute": lambda m: setattr(m, "calls", 3),
    "requires_grad": lambda m: m.requires_grad_(False),
}
TRACED_ANEW = {
    "train": lambda m: m.train(),
    "attribute": lambda m: setattr(m, "eps", 0.25),
    "attribute of a child": lambda m: setattr(m.layers[0], "eps", 0.25),
    "class attribute": lambda m: setattr(Block, "factor", 2.5),
    "method": lambda m: setattr(Block, "helper", lambda self, x: x),
    "instance method": lambda m: setattr(m, "helper", lambda x: x),
    "bias": lambda m: setattr(m, "bias", torch.ones(4)),
    "child": lambda m: setattr(m, "norm", nn.LayerNorm(4)),
    "list of children": lambda m: m.layers.append(nn.GELU()),
    "child in a list": lambda m: m.layers.__setitem__(1, nn.ReLU()),
    "dtype": lambda m: m.double(),
    "device": lambda m: m.to("meta"),
    "hook": lambda m: m.norm.register_forward_hook(lambda module, args, out: out * 2),
    "global": lambda m: globals().__setitem__("FACTOR", 5.0),
    "parameter to None": lambda m: m.norm.register_parameter("bias", None),
}


@pytest.fixture
def block(monkeypatch):
    monkeypatch.setattr(Block, "factor", Block.factor)
    monkeypatch.setattr(Block, "helper", Block.helper)
    monkeypatch.setitem(globals(), "FACTOR", FACTOR)
    with torch.no_grad():
        yield Block().eval()


@pytest.mark.parametrize("name", STILL_SERVED)
def test_module_changes_that_are_read_again(block, name):
    x = torch.randn(3, 4)
    traced = check(block, x)
    STILL_SERVED[name](block)
    torch.testing.assert_close(results(traced, x), block(x))


@pytest.mark.parametrize("name", TRACED_ANEW)
def test_module_changes_that_are_traced_anew(block, name):
    x = torch.randn(3, 4)
    traced = check(block, x)
    TRACED_ANEW[name](block)
    assert not serves(traced, x)


def test_forms_of_a_module(block):
    """The module itself, its bound method, and a function around it."""
    x = torch.randn(3, 4)
    for function in (block, block.forward, lambda x: block(x)):
        traced = check(function, x)
        block.eps += 0.5
        assert not serves(traced, x)


class Model:
    """No nn.Module: an object with a method."""

    def __init__(self):
        self.weights = [torch.ones(4), torch.ones(4)]
        self.config = SimpleNamespace(eps=0.5)

    def run(self, x):
        return x * self.weights[0] + self.weights[1] * self.config.eps


def test_bound_methods_of_plain_objects():
    model, x = Model(), torch.ones(4)
    traced = check(model.run, x)
    model.weights[0] = torch.full((4,), 7.0)
    torch.testing.assert_close(results(traced, x), model.run(x))


def test_attributes_found_by_name_at_run_time():
    holder = nn.Module()
    holder.w1 = nn.Parameter(torch.full((4,), 3.0))

    def f(x):
        return x * getattr(holder, "w" + str(1))

    with torch.no_grad():
        traced = check(f, torch.ones(4))
        holder.w1 = nn.Parameter(torch.full((4,), 5.0))
        torch.testing.assert_close(results(traced, torch.ones(4)), f(torch.ones(4)))


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls, self.is_ready = 0, False

    def forward(self, x):
        self.calls += 1
        return x * 2


class Prepares(Counts):
    def forward(self, x):
        if not self.is_ready:
            self.is_ready = True
        return x * 2


def test_functions_that_change_what_they_read():
    with pytest.raises(errors.UntraceableCapture, match="calls: the function changes what it reads"):
        trace(Counts(), (torch.ones(3),))
    check(Prepares(), torch.ones(3))


def test_tensors_as_keys():
    keys = {SCALE: 2.0}
    check(lambda x: x * keys[SCALE], torch.ones(4))


def test_a_fused_module_inside_a_function(block):
    """What @fuse makes of a module is an object of ours with the module as its `function`."""
    inner = _fused_like(block)
    x = torch.randn(3, 4)
    traced = check(lambda x: inner(x) * 2, x)
    block.eps = 0.125
    assert not serves(traced, x)


def _fused_like(module):
    class Fused:
        def __init__(self):
            self.function = module
            functools.update_wrapper(self, type(module).forward)

        def __call__(self, *args):
            return self.function(*args)

    Fused.__module__ = "fusedsl.api"
    return Fused()


def test_libraries_are_not_followed():
    """Tracing a function that calls into a large library must not read the library's code."""
    function = trace(lambda x: x * np.prod(x.shape[:1]) * pytest.approx(1.0).expected, (torch.ones(3),))
    assert serves(function, torch.ones(3))


@pytest.mark.parametrize("old, new", [(0.0, -0.0), (1.0, math.nan), (1, True), (1, 1.0), ("a", "b"), (None, 0)])
def test_captured_values_are_told_apart(old, new):
    k = old
    traced = trace(lambda x: (x * 2, k), (torch.ones(3),))
    assert serves(traced, torch.ones(3))
    k = new
    assert not serves(traced, torch.ones(3))


def test_the_shape_of_a_capture_is_symbolic():
    def f(x):
        return x + torch.arange(SCALE.shape[0]) + SCALE.sum()

    traced = check(f, torch.ones(4))
    assert "s1" not in str(traced.graph.outputs[0].type), "x and SCALE have one size"


def test_nested_fused_functions_are_inlined():
    def inner(x):
        assert is_tracing()
        return helper(x)

    assert not is_tracing()
    traced = check_inlined(inner)
    assert ops_in(traced).count("mul") == 1


def check_inlined(inner):
    return trace(lambda x: inner(x) + 1, (torch.ones(3),))


# ---- results --------------------------------------------------------------------------------------------------------


def test_returned_inputs_are_themselves():
    x, y = torch.ones(3), torch.ones(3)
    traced = trace(lambda x, y: (x, y + 1, x.float(), F.dropout(x, training=False), SCALE), (x, y))
    assert [leaf[0] for leaf in traced.results.leaves] == ["input", "node", "input", "input", "input"]
    got = results(traced, x, y)
    assert got[0] is x and got[2] is x and got[3] is x and got[4] is SCALE


VIEWS_OF_INPUTS = [
    lambda x: x.T, lambda x: x.view(-1), lambda x: x[1:, ::2], lambda x: x[0], lambda x: x[None].expand(3, -1, -1),
    lambda x: x.permute(1, 0)[None], lambda x: x.chunk(2, -1)[1], lambda x: x.unbind(0)[1], lambda x: x.detach(),
    lambda x: x.contiguous(), lambda x: x.mT.contiguous(), lambda x: x.flatten(), lambda x: x.view(x.shape[1], -1),
    lambda x: x.squeeze(0), lambda x: x.to(torch.float32).T, lambda x: x.reshape(-1, 2), lambda x: x.view_as(x),
    lambda x: x.unflatten(1, (2, -1)), lambda x: x.diagonal(), lambda x: x.movedim(0, 1), lambda x: x.narrow(0, 1, 2),
    lambda x: x.view(torch.int32), lambda x: x[1:].view(dtype=torch.int32).T, lambda x: x.view(torch.int32).view(-1),
]  # fmt: skip


@pytest.mark.parametrize("view", VIEWS_OF_INPUTS)
@pytest.mark.parametrize("strided", [False, True])
def test_returned_views_alias_as_in_eager(view, strided):
    traced = trace(view, (torch.randn(4, 6),))
    x = torch.randn(6, 4).T if strided else torch.randn(4, 6)
    try:
        wanted = view(x)
    except RuntimeError:
        return  # .view of what cannot be viewed
    got = results(traced, x)
    assert (got.stride(), got.shape, got.storage_offset()) == (wanted.stride(), wanted.shape, wanted.storage_offset())
    assert torch.equal(got, wanted)
    x += 1
    assert torch.equal(got, wanted), "one aliases the input and the other does not"


VIEWS_AT_DATA = [
    lambda x, i: x[i], lambda x, i: x[:, i], lambda x, i: x[i, 1:], lambda x, i: x[..., None, i - 1],
    lambda x, i: x[i, i], lambda x, i: x.select(1, i), lambda x, i: torch.select(x.mT, 0, i)[1:],
    lambda x, i: x[(i := i + 1) - 1][i],
]  # fmt: skip


@pytest.mark.parametrize("view", VIEWS_AT_DATA)
@pytest.mark.parametrize("index", [torch.tensor(-1, dtype=torch.int32), torch.tensor(1)])
def test_a_view_at_an_index_that_is_data_aliases_as_in_eager(view, index):
    """torch reads an index of no dims, and takes the view that the number names."""
    x = torch.randn(3, 4)
    got, wanted = results(trace(view, (x, index)), x, index), view(x, index)
    assert (got.stride(), got.shape, got.data_ptr()) == (wanted.stride(), wanted.shape, wanted.data_ptr())
    both = trace(lambda x, i: ((y := x * 2), view(y, i)), (x, index))
    base, got = results(both, x, index)
    assert got.data_ptr() - base.data_ptr() == wanted.data_ptr() - x.data_ptr() and torch.equal(got, wanted * 2)
    alone = trace(lambda x, i: view(x * 2, i), (x, index))
    assert alone.results.leaves == (("node", 0),), "nothing waits for the index where nothing has the same memory"


def test_an_index_keeps_the_value_that_a_view_was_taken_at():
    def f(x, i):
        i = i + 0
        row = x[i]
        i -= 1
        return row, x[i]

    x, i = torch.randn(3, 4), torch.tensor(1)
    for got, wanted in zip(results(trace(f, (x, i)), x, i), (x[1], x[0]), strict=True):
        assert got.data_ptr() == wanted.data_ptr()


def test_a_copy_is_a_copy():
    x = torch.ones(3)
    for copy in (lambda x: x.clone(), lambda x: torch.clone(x), lambda x: x.to(torch.float32, copy=True)):
        traced = trace(copy, (x,))
        assert traced.results.leaves == (("node", 0),) and results(traced, x).data_ptr() != x.data_ptr()


def test_outputs_that_share_memory():
    def f(x):
        h = x * 2
        return h, h.T, h, h.view(-1), x + 1, x + 1

    traced = trace(f, (torch.ones(2, 3),))
    x = torch.ones(4, 5)
    h, t, again, flat, a, b = results(traced, x)
    assert again is h and t.data_ptr() == h.data_ptr() == flat.data_ptr() and t.stride() == (1, 5)
    assert a.data_ptr() != b.data_ptr(), "two tensors in eager are two tensors here"


def test_a_view_no_smaller_than_its_base_is_taken_of_it():
    traced = trace(lambda x: (x * 2).T, (torch.ones(2, 3),))
    assert traced.results.leaves[0][0] == "output_view" and results(traced, torch.ones(2, 3)).stride() == (1, 3)
    cropped = trace(lambda x: (x * 2)[:, 1], (torch.ones(2, 3),))
    assert cropped.results.leaves == (("node", 0),) and shapes(cropped) == ["f32[s0]"]


def test_other_results():
    def f(x, eps, k):
        return {"n": x.shape[0] * 2, "x": [x + k, None, "text"], "numbers": (eps, eps / 2, k, x.ndim > 1)}

    traced = trace(f, (torch.ones(2, 3), 0.5, 1))
    got = results(traced, torch.ones(5, 3), 0.25, 1)
    assert (got["n"], got["x"][1:], got["numbers"]) == (10, [None, "text"], (0.25, 0.125, 1, True))
    assert type(got["n"]) is int and [type(n) for n in got["numbers"]] == [float, float, int, bool]


def test_named_tuples_come_back():
    assert isinstance(check(lambda x: Pair(x + 1, x), torch.ones(3)).results.build(
        bound(trace(lambda x: Pair(x + 1, x), (torch.ones(3),)), torch.ones(3)), [torch.ones(3)]), Pair)  # fmt: skip
    values = results(trace(lambda x: x.max(-1), (torch.randn(3, 4),)), torch.randn(3, 4))
    assert values.values.shape == (3,)


def test_unused_captures_are_no_inputs():
    def f(x):
        return x * 2 if SCALE.dtype == torch.float32 else x

    traced = check(f, torch.ones(3))
    assert [n["name"] for n in traced.graph.inputs] == ["x"]


# ---- in place -------------------------------------------------------------------------------------------------------


def _in_place(x, y):
    h = x * 2
    h += y
    h.mul_(3).clamp_(min=0)
    h.view(-1)  # a view that nobody keeps
    h.masked_fill_(h > 4, 0.5)
    g = torch.zeros_like(h)
    g.copy_(y[:1])
    g.sub_(1)
    z = torch.zeros(x.shape[0], 1)
    z.fill_(2)
    k = x.clone()
    k.zero_()
    return h, g + z, k


def test_in_place_operations_on_values():
    check(_in_place, torch.randn(3, 4), torch.randn(3, 4))


def test_in_place_keeps_the_dtype():
    def f(x, y):
        h = x * 2
        h += y
        return h

    check(f, torch.ones(3, dtype=torch.float16), torch.ones(3))
    with pytest.raises(errors.DTypesDisagree):
        trace(f, (torch.ones(3, dtype=torch.int64), torch.ones(3)))


def test_a_clone_may_change_while_its_source_lives():
    def f(x):
        h = x * 2
        g = h.clone()
        g += 1
        h -= 1
        return g, h

    check(f, torch.ones(3))


# ---- gradients ------------------------------------------------------------------------------------------------------


def test_in_place_operations_pass_the_need_for_gradients_on():
    w = nn.Parameter(torch.ones(3))

    def added(x):
        h = x * 2
        h += w
        return h

    def copied(x):
        h = x * 2
        h.copy_(w)
        return h

    for function in (added, copied):
        with pytest.raises(errors.NeedsGrad):
            trace(function, (torch.ones(3),))


def test_needs_grad():
    w = nn.Parameter(torch.ones(3))
    x = torch.ones(3)

    def f(x):
        return x * w

    with pytest.raises(errors.NeedsGrad, match="w requires grad"):
        trace(f, (x,))
    with torch.no_grad():
        traced = check(f, x)
    assert not serves(traced, x), "in grad mode it would come back detached"
    w.requires_grad_(False)
    assert serves(traced, x) and serves(trace(f, (x,)), x)
    with pytest.raises(errors.NeedsGrad, match="x requires grad"):
        trace(f, (x.clone().requires_grad_(),))


def test_what_autograd_would_not_record_needs_no_grad():
    x = torch.ones(3, requires_grad=True)

    def inside(x):
        with torch.no_grad():
            return x * 2

    for function in (inside, lambda x: x > 1, lambda x: x.detach() * 2, torch.no_grad()(lambda x: x * 2), lambda x: x):
        assert serves(trace(function, (x,)), x)
    assert torch.is_grad_enabled()


# ---- mistakes -------------------------------------------------------------------------------------------------------


class Unknown:
    tensor = None


def _kept(x):
    Unknown.tensor = x * 2
    return x


def _big_constant(x):
    return x + torch.tensor([1.0] * 1000).sum()


def _changes_view(x):
    h = x * 2
    row = h[0]
    row += 1
    return h


def _changes_view_at_data(x):
    h = x * 2
    row = h[x.argmax() % 2]
    row += 1
    return h


def _changes_base(x):
    h = x * 2
    flat = h.view(-1)
    h += 1
    return flat


def _changes_input(x):
    x += 1
    return x


def _changes_view_of_input(x):
    x.view(-1).mul_(2)
    return x


def _changes_capture(x):
    SCALE.add_(1)
    return x


def _sets_item_of_input(x):
    x[0] = 1
    return x


def _autocast(x):
    with torch.autocast("cpu", torch.bfloat16):
        return x + 1


def _appends(x, found):
    found.append(x * 2)
    return x


MISTAKES = {
    "branch": (lambda x: x if (x > 0).any() else -x, errors.DataDependent, "torch.where"),
    "bool": (lambda x: bool(x.sum()), errors.DataDependent, "torch.where"),
    "item": (lambda x: x * x.sum().item(), errors.DataDependent, "0-dim"),
    "int": (lambda x: x[: int(x.sum())], errors.DataDependent, "0-dim"),
    "float": (lambda x: float(x.sum()), errors.DataDependent, "0-dim"),
    "tolist": (lambda x: x.tolist(), errors.DataDependent, "0-dim"),
    "numpy": (lambda x: x.numpy(), errors.DataDependent, "0-dim"),
    "mask": (lambda x: x[x > 0], errors.DataDependent, "torch.where"),
    "nonzero": (lambda x: torch.nonzero(x), errors.DataDependent, "the shape of the result"),
    "in": (lambda x: x * (1 in x), errors.DataDependent, "=="),
    "index": (lambda x: [1, 2, 3][x.sum().long()], errors.DataDependent, "0-dim"),
    "item of a capture": (lambda x: x * SCALE.sum().item(), errors.DataDependent, "0-dim"),
    "in place": (_changes_input, errors.InPlaceInput, "the input x"),
    "in place on a view of an input": (_changes_view_of_input, errors.InPlaceInput, "the input x"),
    "in place on a view": (_changes_view, errors.InPlaceInput, "shares memory"),
    "in place on a view at an index that is data": (_changes_view_at_data, errors.InPlaceInput, "shares memory"),
    "in place on a base": (_changes_base, errors.InPlaceInput, "shares memory"),
    "in place on a capture": (_changes_capture, errors.InPlaceInput, "the input SCALE"),
    "item assignment to an input": (_sets_item_of_input, errors.InPlaceInput, "the input x"),
    "relu_": (lambda x: F.relu(x, inplace=True), errors.InPlaceInput, "the input x"),
    "shapes": (lambda x: x + torch.ones(5), errors.ShapesDisagree, "broadcast"),
    "view": (lambda x: x.view(7, -1), errors.FuseError, "view|reshape"),
    "dim": (lambda x: x.sum(5), errors.DimOutOfRange, r"\[-2, 1\]"),
    "size": (lambda x: x.size(3), errors.BadArgument, "dim"),
    "unknown function": (lambda x: torch.linalg.svd(x), errors.UnknownFunction, "svd"),
    "sizes for what is unknown": (lambda x: torch.empty_strided(x.shape, (1, 9)), errors.UnknownFunction, "empty_str"),
    "random": (lambda x: x[torch.randperm(3)], errors.UnknownFunction, "randperm"),
    "constant": (_big_constant, errors.UntraceableCapture, "outside"),
    "kept": (_kept, errors.InPlaceInput, "Return"),
    "out": (lambda x: torch.add(x, x, out=x), errors.BadArgument, "out"),
    "device": (lambda x: x.to("meta"), errors.FuseError, "device|stay"),
    "cuda": (lambda x: x.cuda(), errors.UnsupportedDevice, "stay on cpu"),
    "complex": (lambda x: x.to(torch.complex64), errors.UnknownDType, "complex64"),
    "stride": (lambda x: x.stride(), errors.UnknownFunction, "stride"),
    "data_ptr": (lambda x: x.data_ptr(), errors.DataDependent, "outside"),
    "autocast": (_autocast, errors.UntraceableCapture, "autocast"),
    "requires_grad": (lambda x: (x * 2).requires_grad_(), errors.BadArgument, "requires_grad"),
    "keyword": (lambda x: torch.exp(x * 2).sum(no_such=3), TypeError, "no_such"),  # type: ignore[call-overload]
    "result": (lambda x: SimpleNamespace(y=x * 2), errors.BadArgument, "the result must be made of"),
    "0-dim iteration": (lambda x: list(x.sum()), TypeError, "0-d"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name):
    function, kind, match = MISTAKES[name]
    with pytest.raises(kind, match=match) as caught:
        trace(function, (torch.ones(2, 3),))
    if issubclass(kind, errors.FuseError):
        line = caught.value.line
        assert line is not None and line.file == __file__
        if name == "result":
            return  # it is told after the function has run
        first, last = function.__code__.co_firstlineno, max(n for *_, n in function.__code__.co_lines() if n)
        assert first <= line.number <= last
    assert not is_tracing()


def test_a_line_of_the_users_inside_a_module():
    class Bad(nn.Module):
        def forward(self, x):
            y = x + 1
            return y.item()

    with pytest.raises(errors.DataDependent) as caught:
        trace(nn.Sequential(nn.ReLU(), Bad()), (torch.ones(3),))
    assert caught.value.line is not None and caught.value.line.text == "return y.item()"


def test_arguments_that_are_changed():
    with pytest.raises(errors.InPlaceInput, match="the list found"):
        trace(_appends, (torch.ones(3), []))


def test_a_tensor_without_a_path():
    made = iter([torch.ones(3)] * 9)
    with pytest.raises(errors.UntraceableCapture, match="argument"):
        trace(lambda x: x * next(made), (torch.ones(3),))


def test_values_of_an_ended_trace():
    kept = []
    with pytest.raises(errors.InPlaceInput):
        trace(lambda x: kept.append(x * 2) or x, (torch.ones(3),))
    for use in (lambda t: t + 1, lambda t: t.shape, lambda t: torch.exp(t), lambda t: fusedsl.ops.exp(t)):
        with pytest.raises(errors.UntraceableCapture, match="ended"):
            use(kept[0])
    with pytest.raises(errors.UntraceableCapture, match="ended"):
        trace(lambda x: x + kept[0], (torch.ones(3),))
    assert "f32" in repr(kept[0]) and isinstance(kept[0], Proxy)


@pytest.mark.parametrize("make, kind, match", [
    (lambda: torch.ones(3, dtype=torch.complex64), errors.UnknownDType, "complex64"),
    (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8), errors.UnknownDType, "quint8"),
    (lambda: torch.ones(3, 3).to_sparse(), errors.BadArgument, "dense"),
    (lambda: torch.nested.nested_tensor([torch.ones(3), torch.ones(2)]), errors.BadArgument, "dense"),
    (lambda: torch.ones(3).as_subclass(type("Mine", (torch.Tensor,), {})), errors.BadArgument, "plain torch.Tensor"),
    (lambda: torch.ones(3, dtype=torch.complex64).conj().imag, errors.BadArgument, "resolve_neg"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_tensors_it_cannot_take(make, kind, match):
    bad = make()
    for function, args in ((lambda x: x * 2, (bad,)), (lambda x: x * bad, (torch.ones(3),))):
        with pytest.raises(kind, match=match):
            trace(function, args)
    good = torch.ones(bad.shape if not bad.is_nested else (2, 3))
    assert not serves(trace(lambda x: x * 2, (good,)), bad)


def test_autocast_is_refused():
    traced = trace(lambda x: x * 2, (torch.ones(3),))
    with torch.autocast("cpu", torch.bfloat16):
        assert not serves(traced, torch.ones(3))
        with pytest.raises(errors.UntraceableCapture, match="autocast"):
            trace(lambda x: x * 2, (torch.ones(3),))


def test_printing_works(capsys):
    def f(x):
        h = x * 2
        print(h, x.shape)
        return h

    trace(f, (torch.ones(2, 3),))
    assert capsys.readouterr().out == "<h: f32[s0, s1]> torch.Size([s0, s1])\n"


def test_errors_inside_operators_of_captured_tensors():
    a, b = torch.ones(3, dtype=torch.complex64), torch.ones(3)
    with pytest.raises(errors.UnknownDType, match="complex64") as caught:
        trace(lambda x: x + b * a, (b,))
    assert caught.value.line is not None and caught.value.line.file == __file__


# ---- the tracer itself ----------------------------------------------------------------------------------------------


def test_nothing_is_left_after_an_exception():
    def f(x):
        with torch.no_grad():
            raise KeyError("mine")

    with pytest.raises(KeyError):
        trace(f, (torch.ones(3),))
    assert not is_tracing() and torch.is_grad_enabled()
    assert type(torch.ones(3) + torch.zeros(2, 1)) is torch.Tensor


def test_threads_trace_at_once():
    """Each thread has its own session, and nobody sees another's."""
    start, failures = threading.Barrier(4), []

    def work(k):
        def f(x, y):
            h = x
            for _ in range(k):
                h = h + y
            return h

        start.wait()
        for _ in range(5):
            try:
                traced = check(f, torch.ones(3, k + 1), torch.ones(k + 1))
                assert ops_in(traced).count("add") == k
            except BaseException as error:
                failures.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_tracing_twice_gives_the_same_graph():
    args = (torch.randn(4, 8), torch.randn(4, 8), torch.randn(8))
    a, b = trace(rms_norm, args), trace(rms_norm, args)
    assert a.graph.outputs == b.graph.outputs and a.graph.inputs == b.graph.inputs


def test_a_trace_keeps_no_argument_alive():
    x = torch.ones(3)
    gone = weakref.ref(x)
    gc.disable()
    try:
        traced = trace(lambda x: x.T * 2 + SCALE[0], (x,))
        del x
        assert gone() is None and traced.graph.inputs
    finally:
        gc.enable()


def test_random_state_and_modes_are_left_alone():
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        check(lambda x: x * 2 + torch.ones(3), torch.ones(3))
        assert torch.is_inference_mode_enabled()


def test_binding_is_fast_and_so_is_tracing():
    """Loose limits: a table that is built on every call, or a graph walked per op, would break them."""
    import time

    args = (torch.randn(4, 8), torch.randn(4, 8), torch.randn(8))
    traced = trace(rms_norm, args)

    def best(function, times):
        found = []
        for _ in range(times):
            start = time.perf_counter()
            function()
            found.append(time.perf_counter() - start)
        return min(found)

    assert best(lambda: trace(rms_norm, args), 30) < 10e-3
    assert best(lambda: traced.bind(args, {}), 200) < 50e-6
    assert sys.getrefcount(traced) < 10
