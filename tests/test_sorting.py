"""Sorting, and what is made of ranks: against torch bit for bit, for values that compare in special ways."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fusedsl import fuse, ops
from fusedsl.errors import BadArgument, DataDependent
from fusedsl.ops.sorting import MOST
from tests.identical import assert_identical

FEW = settings(max_examples=max(1, settings().max_examples // 8))
NAN, INF = float("nan"), float("inf")
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int8,
          torch.uint8, torch.bool]  # fmt: skip
VALUES = st.lists(st.sampled_from([0.0, -0.0, 1.0, 2.0, -3.0, NAN, INF, -INF]), min_size=1, max_size=9)


def rows(values: list[float], dtype: torch.dtype) -> torch.Tensor:
    """The values and the same backwards, as another dtype has them."""
    if not dtype.is_floating_point:
        values = [0 if v != v or abs(v) == INF else abs(v) for v in values]
    return torch.tensor([values, values[::-1]]).to(dtype)


def assert_same(found, wanted):
    for ours, theirs in zip(found, wanted, strict=True):
        assert_identical(ours, theirs)


@given(values=VALUES, dtype=st.sampled_from(DTYPES), descending=st.booleans(), dim=st.sampled_from([0, 1]))
@example([-0.0, 0.0, NAN, -INF, NAN, 0.0, -0.0], torch.float32, True, 1)
def test_sort_is_torchs_stable_sort(values, dtype, descending, dim):
    x = rows(values, dtype)
    wanted = torch.sort(x, dim=dim, descending=descending, stable=True)
    assert_same(fuse(lambda x: torch.sort(x, dim, descending))(x), wanted)
    assert_identical(fuse(lambda x: x.argsort(dim, descending))(x), wanted.indices)


@FEW  # each is a kernel of many passes
@given(values=VALUES, dtype=st.sampled_from(DTYPES), data=st.data())
@example([-0.0, 0.0, NAN, -INF, NAN, 0.0, -0.0], torch.float16, None)
def test_selection_by_digits_is_kthvalue(values, dtype, data):
    x = rows(values, dtype)
    for k in range(1, len(values) + 1) if data is None else [data.draw(st.integers(1, len(values)))]:
        value, place = fuse(lambda x, k=k: ops.selected(x, k, 1, True))(x)
        wanted = torch.sort(x, dim=1, stable=True).values[:, k - 1 : k]
        torch.testing.assert_close(value, wanted, rtol=0, atol=0, equal_nan=True)
        same = (x == value) | (x.isnan() & value.isnan())
        assert torch.equal(place, same.int().argmax(1, keepdim=True))


@given(values=VALUES, dtype=st.sampled_from(DTYPES[:4]))
def test_bits_of_floats_are_in_their_order(values, dtype):
    x = torch.tensor(values).to(dtype)
    kind = {torch.float32: "f32", torch.float64: "f64", torch.float16: "f16", torch.bfloat16: "bf16"}[dtype]
    bits = fuse(lambda x: ops.ordered(x, kind))(x)
    assert_identical(bits, ops.ordered.reference(x, kind))
    number = torch.where(x.isnan(), 5.0, x.clamp(-4, 4))  # an order with NaN last
    assert torch.equal(bits[:, None] < bits, number[:, None] < number)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_kthvalue_of_a_long_row_is_one_launch(dtype):
    x = (torch.randn(2, 3 * MOST + 5, generator=torch.Generator().manual_seed(0)) * 40).to(dtype)
    fused = fuse(lambda x: x.kthvalue(9001, keepdim=True))
    value, place = fused(x)
    assert torch.equal(value, x.kthvalue(9001, keepdim=True).values) and torch.equal(x.gather(1, place), value)
    assert fused.plan(x).launches == 1
    at_most = 40 if dtype is torch.float32 else 20
    assert fused.plan(torch.empty(2, 50 * MOST, dtype=dtype, device="meta")).passes <= at_most


@given(values=VALUES, dtype=st.sampled_from(DTYPES), largest=st.booleans(), data=st.data())
def test_topk_and_kthvalue(values, dtype, largest, data):
    x = rows(values, dtype)
    k = data.draw(st.integers(1, len(values)))
    wanted = torch.sort(x, dim=1, descending=largest, stable=True)
    assert_same(fuse(lambda x: torch.topk(x, k, 1, largest))(x), (part[:, :k] for part in wanted))
    wanted = torch.sort(x, dim=1, stable=True)
    assert_same(fuse(lambda x: x.kthvalue(k, 1))(x), (part[:, k - 1] for part in wanted))


@given(values=VALUES, dtype=st.sampled_from(DTYPES), keepdim=st.booleans())
@example([NAN, NAN], torch.float32, False)
@example([1.0, NAN, 1.0, 2.0, 2.0], torch.float64, True)
def test_values_in_the_middle_and_most_frequent_ones(values, dtype, keepdim):
    x = rows(values, dtype)
    for name in ("median", "nanmedian"):
        if dtype is not torch.bool:  # torch has none of bools
            found = fuse(lambda x, name=name: getattr(x, name)(1, keepdim))(x)
            assert_identical(found[0] + 0, getattr(x, name)(1, keepdim)[0] + 0)  # of 0.0 and -0.0 either
            assert_identical(x.gather(1, found[1].reshape(2, 1)).reshape(found[0].shape), found[0])
    if not (x != x).any():
        found, wanted = fuse(lambda x: x.mode(1, keepdim))(x), x.mode(1, keepdim)
        assert_identical(found[0] + 0, wanted[0] + 0)
        assert_identical(found[1], wanted[1])


@given(values=VALUES, dtype=st.sampled_from([torch.float32, torch.float64]), q=st.floats(0, 1, width=32),
       way=st.sampled_from(["linear", "lower", "higher", "midpoint", "nearest"]))  # fmt: skip
def test_quantiles(values, dtype, q, way):
    x = rows([v for v in values if abs(v) != INF] or [1.0], dtype)  # between infinities there is nothing
    for name in ("quantile", "nanquantile"):
        f = getattr(torch, name)
        found = fuse(lambda x, q, f=f: f(x, q, 1, interpolation=way))(x, q)
        torch.testing.assert_close(found, f(x, q, 1, interpolation=way), equal_nan=True)
        several = torch.tensor([q, 0.5, 1.0], dtype=dtype)
        found = fuse(lambda x, q, f=f: f(x, q, 0, True, interpolation=way))(x, several)
        torch.testing.assert_close(found, f(x, several, 0, True, interpolation=way), equal_nan=True)


def test_a_row_of_hundreds_between_other_ops():
    x = torch.randint(-99, 99, (3, 700)).float() / 8

    def f(x):
        values, places = torch.sort(x * 2, descending=True)
        return values + 1, places, (x * 2).topk(5).values.sum(-1)

    values, places = torch.sort(x * 2, descending=True, stable=True)
    assert_same(fuse(f)(x), (values + 1, places, values[:, :5].sum(-1)))


def test_rows_that_are_too_long_are_told():
    f = fuse(lambda x: x.sort().values)
    assert_identical(f(torch.tensor([3.0, 1.0, 2.0])), torch.tensor([1.0, 2.0, 3.0]))
    for name, call in {
        "sort": lambda x: x.sort(), "argsort": lambda x: x.argsort(), "topk": lambda x: x.topk(9),
        "median": lambda x: x.median(), "quantile": lambda x: x.quantile(0.5), "mode": lambda x: x.mode(),
    }.items():  # fmt: skip
        with pytest.raises(BadArgument, match=f"{name}: the row must be of at most {MOST} elements, got {MOST + 1}. "):
            fuse(call)(torch.zeros(MOST + 1))
    with pytest.raises(BadArgument, match="the row must be"):  # also where a shorter one went before
        f(torch.zeros(MOST + 1))
    with pytest.raises(DataDependent):
        fuse(lambda x: torch.unique(x))(torch.zeros(3))


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.int8])
def test_the_few_greatest_of_a_row_of_any_length(dtype, largest):
    """NaN first, equal elements as they stand, and what is masked no different from -inf."""
    for n, k in ((1, 1), (5, 5), (300, 8), (9000, 4)):
        x = (torch.randn(4, n) * 3).round().to(dtype)
        if dtype.is_floating_point and n > 4:
            x[0, 1], x[0, 4], x[1, 2:] = math.nan, math.nan, -math.inf
            x[2, :3], x[3, 0], x[3, 1] = math.inf, -0.0, 0.0
        values, places = fuse(lambda x, k=k: torch.topk(x, k, largest=largest))(x)
        wanted = torch.sort(x, descending=largest, stable=True)
        assert torch.equal(places, wanted.indices[:, :k])
        assert_identical(values, wanted.values[:, :k].contiguous())


@pytest.mark.parametrize("size", [(5, 4), (70, 3), (3000, 2)])
def test_nanmedian_along_the_first_dimension(size):
    x = torch.randn(size)
    x[0, 1] = NAN
    values, places = fuse(lambda x: x.nanmedian(0))(x)
    wanted = x.nanmedian(0)
    assert torch.equal(values, wanted.values) and torch.equal(places, wanted.indices)
