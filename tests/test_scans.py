"""Scans: along rows that stay in registers, in loops that carry what came before, and as launches of their own."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from fusedsl import fuse
from fusedsl.testing import assert_launches, assert_matches, assert_traffic

LONG = 40_000  # a row that no program holds


@given(
    shape=st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple),
    dim=st.integers(-3, 2),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.bool]),
)
@example((3, LONG), 1, torch.float32)
@example((LONG, 3), 0, torch.float32)
@example((2, LONG), 1, torch.int64)
def test_running_sums(shape, dim, dtype):
    dim = max(-len(shape), min(dim, len(shape) - 1))
    x = torch.randint(-9, 10, shape).to(dtype)
    assert_matches(lambda x: x.cumsum(dim), (x,))


@given(values=st.lists(st.sampled_from([0.0, -0.0, 1.0, 2.0, -3.0, float("nan"), float("inf"), -float("inf")])))
def test_running_extremes_and_where_they_were_last(values):
    x = torch.tensor([values, values[::-1]])
    assert_matches(lambda x: (torch.cummax(x, 1), x.cummin(dim=1)), (x,))


@pytest.mark.parametrize("length", [1, 7, 1000, LONG])
def test_running_sums_of_exponentials(length):
    x = torch.randn(2, length) * 100
    assert_matches(lambda x: torch.logcumsumexp(x, -1), (x,))
    assert_matches(lambda x: torch.logcumsumexp(x, -1), (torch.full_like(x, -torch.inf),))


def sampled(x, p):
    """What is left of a distribution by its own running sum, as sampling among the likeliest tokens has it."""
    weights = torch.softmax(x, -1)
    return torch.where(weights.cumsum(-1) - weights < p, weights, 0)


@pytest.mark.parametrize("length", [1000, LONG])
def test_a_chain_around_a_scan_is_one_launch(length):
    x = torch.randn(4, length)
    assert_launches(sampled, (x, 0.9), 1)
    assert_traffic(sampled, (x, 0.9))
    torch.testing.assert_close(fuse(sampled)(x, 0.9), sampled(x, 0.9))


def test_a_scan_of_a_scan_and_a_sum_of_it():
    for length in (50, LONG):
        x = torch.randint(-3, 4, (3, length))
        assert_launches(lambda x: (x.cumsum(1).cumsum(1), x.cumsum(1).sum(1)), (x,), 1)
        assert_matches(lambda x: (x.cumsum(1).cumsum(1), x.cumsum(1).sum(1)), (x,))


def test_scans_along_two_dimensions():
    x = torch.randint(-9, 10, (13, 21))
    assert_matches(lambda x: x.cumsum(0).cumsum(1), (x,))
    assert_matches(lambda x: x.cumsum(0) + x.cumsum(1), (x,))


def test_a_scan_that_is_read_otherwise_is_stored_first():
    x = torch.randint(-9, 10, (5, 100))
    for f in (
        lambda x: x.cumsum(1)[:, 1:] * 2,
        lambda x: x.flip(1).cumsum(1).flip(1),
        lambda x: x.cumsum(1)[:, :5].diagonal(),
    ):
        assert_launches(f, (x,), 2)
        assert_matches(f, (x,))


def test_a_scan_of_an_expanded_vector_that_is_an_index():
    """The element that the vector holds counts once for each of its places."""
    x, one, mask = torch.randn(9), torch.tensor([1]), torch.tensor([True])
    assert_matches(lambda x, one: x[one.cumsum(0)], (x, one.expand(4)))
    assert_matches(lambda x, one: x[one.sum()], (x, one.expand(4)))
    assert_matches(lambda x, mask: torch.masked_scatter(x[:4], mask, x[4:]).sum(), (x, mask.expand(4)))
