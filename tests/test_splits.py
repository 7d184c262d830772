"""Loops shared out among programs: the parts put together are the whole, whoever arrives last."""

import threading

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F

import fusedsl.plan
from fusedsl import fuse, ops
from fusedsl.codegen.inspect import TARGETS
from fusedsl.testing import assert_matches

SOME = hypothesis.settings(max_examples=max(1, hypothesis.settings().max_examples // 10))


def rows(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape).to(dtype)


def keys(n: int, q: int = 1, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    return rows(2, q, 24, dtype=dtype), rows(2, n, 24, dtype=dtype), rows(2, n, 40, dtype=dtype)


# name -> (function, arguments of a length n)
CASES = {
    "a sum": (lambda x: x.sum(), lambda n: (rows(n),)),
    "a sum of integers": (lambda x: x.sum(), lambda n: (torch.randint(-99, 99, (n,)),)),
    "the largest and whether any": (lambda x: (x.amax(), (x > 2).any()), lambda n: (rows(n),)),
    "columns": (lambda x: x.sum(0), lambda n: (rows(n, 5),)),
    # whole numbers: a loop that adds two at a time has more rounding than eager, parts or not
    "columns of planes": (lambda x: x.sum((0, 2)), lambda n: (rows(n, 3, 2).round().mT.contiguous().mT,)),
    "a variance": (lambda x: x.var(), lambda n: (rows(n) + 3,)),
    "a norm": (lambda x: x.norm(), lambda n: (rows(n),)),
    "logsumexp": (lambda x: torch.logsumexp(x, 0), lambda n: (rows(n),)),
    "a loss": (lambda x, y: F.mse_loss(x, y), lambda n: (rows(n, 3), rows(n, 3))),
    "a product": (lambda x, w: torch.relu(x @ w + 1), lambda n: (rows(17, n), rows(n, 20))),
    "a product after a norm": (lambda x, w: F.rms_norm(x, x.shape[-1:]) @ w, lambda n: (rows(3, n), rows(n, 20))),
    "a matrix times a vector": (lambda x, w: x @ w, lambda n: (rows(9, n), rows(n))),
    "attention": (lambda q, k, v: ops.attention(q, k, v), lambda n: keys(n, 5)),
    "decoding": (lambda q, k, v: ops.attention(q, k, v), keys),
    "a window": (lambda q, k, v: ops.attention(q, k, v, causal=True, window=50), lambda n: keys(n, n)),
    "attention and its logsumexp": (lambda q, k, v: ops.attention(q, k, v, lse=True), lambda n: keys(n, 5)),
    "two sums": (lambda x: x.sum() * (x[: x.shape[0] // 2] ** 2).sum(), lambda n: (rows(n),)),
    "a mean of losses of long rows": (
        lambda x, t: F.cross_entropy(x, t), lambda n: (rows(n, 20000), torch.randint(0, 20000, (n,))),
    ),
}  # fmt: skip
LONG_ROWS = {"a mean of losses of long rows"}
RESIDENT = {"columns of planes", "a matrix times a vector", "two sums"}  # up to 16384 elements


def lengths(name: str) -> tuple[int, ...]:
    return (40,) if name in LONG_ROWS else (20000, 17001) if name in RESIDENT else (2000, 300)


@pytest.fixture
def shared_by(monkeypatch):
    """Sets how many programs share a loop, whatever the cost rule says."""
    def set_to(count: int) -> None:
        monkeypatch.setattr(fusedsl.plan, "splits", lambda *_: count)

    return set_to


@pytest.mark.parametrize("count", (2, 3, 8, 37))
@pytest.mark.parametrize("name", CASES)
def test_parts_are_the_whole(name, count, shared_by):
    """Programs that have nothing to do among them."""
    shared_by(count)
    function, given = CASES[name]
    for n in lengths(name):
        fused, args = fuse(function), given(n)
        plan = fused.plan(*args)
        assert plan.splits == [count] and plan.launches == 1 and plan.passes == 1, plan.explain()
        assert_matches(fused, args)


@SOME
@hypothesis.given(data=st.data(), n=st.integers(1, 900), count=st.integers(2, 20))
def test_any_number_of_parts(data, n, count):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fusedsl.plan, "splits", lambda *_: count)
        name = data.draw(st.sampled_from(sorted(set(CASES) - LONG_ROWS)))
        function, given = CASES[name]
        args = given(n + 16384 * (name in RESIDENT))
        exact = function(*(x.double() if x.is_floating_point() else x for x in args))
        # A part that is lost or counted twice shows; digits are the business of the test above.
        found = fuse(function)(*args)
        torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-3, check_dtype=False, equal_nan=True)


def test_every_launch_leaves_the_counts_at_0_and_gives_the_same():
    x = rows(300_001)
    total = fuse(lambda x: (x * x).sum())
    (kernel,) = total.plan(x).kernels
    assert kernel.splits > 1
    assert len({total(x).item() for _ in range(20)}) == 1


def test_threads_share_no_counts():
    x = rows(400_000)
    total = fuse(lambda x: x.sum())
    wanted, found = total(x).item(), []

    def work() -> None:
        found.extend(total(x).item() for _ in range(50))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {wanted} and len(found) == 200


def test_the_plan_says_who_shares_what():
    q, k = torch.empty(1, 1, 1, 64, device="meta"), torch.empty(1, 1, 8192, 64, device="meta")
    plan = fuse(F.scaled_dot_product_attention).plan(q, k, k).on("sm_90")
    (kernel,) = plan.kernels
    assert kernel.splits == kernel.grid[0] > 1
    assert plan.workspace_bytes == kernel.splits * 4 * (64 + 1 + 1)  # the sums, the maximum and the weights' sum
    assert f"{kernel.splits} programs share a loop" in plan.explain()
    (rounds,) = kernel.rounds.values()
    assert rounds.visited == rounds.of  # each tile of keys once


def test_where_there_are_programs_enough_none_share():
    q = torch.empty(4, 16, 2048, 64, device="meta", dtype=torch.float16)
    plan = fuse(F.scaled_dot_product_attention).plan(q, q, q).on("sm_90")
    assert plan.splits == [1] and plan.workspace_bytes == 0


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", (torch.float16, torch.float32))
@pytest.mark.parametrize("name", ("a product", "attention", "decoding", "logsumexp"))
def test_kernels_with_shared_loops_compile_without_spills(name, dtype, target, shared_by):
    shared_by(7)
    function, given = CASES[name]
    args = [a.to(dtype) for a in given(2000)]
    (kernel,) = fuse(function).plan(*args).compile(target)
    assert kernel.spills == 0


def test_what_needs_a_long_loop_of_its_own_is_another_launch():
    x, y = torch.empty(1 << 20, device="meta"), torch.empty(1 << 20, device="meta")
    assert fuse(lambda x, y: x.sum() * y.sum()).plan(x, y).launches > 1
    assert_matches(lambda x, y: torch.softmax(y, 0) * x.sum(), (rows(1 << 18), rows(20000)))
    assert_matches(lambda x, y: y / y.sum() * x.sum(), (rows(1 << 18) + 1, rows(40000) + 9))


@pytest.mark.parametrize("count", (3, 8))
def test_a_loop_that_stores_after_a_shared_one(count, shared_by):
    shared_by(count)
    assert_matches(lambda x, y: torch.softmax(y, 0) * x.sum(), (rows(9000), rows(20000)))


@pytest.mark.parametrize("shape", ((4, 1 << 20), (64, 1 << 20), (16, 128256)))
def test_few_long_rows_have_programs_enough(shape):
    for function in (lambda x: torch.logsumexp(x, -1).mean(), lambda x: torch.softmax(x, -1).amax()):
        plan = fuse(function).plan(torch.empty(shape, device="meta"))
        assert plan.grids[0][0] >= shape[0], plan.explain()


def test_a_name_that_is_taken():
    def numbered(x, splits):
        return x.sum() * splits

    assert_matches(numbered, (rows(100_000), 2.5))

    def arrivals(arrivals, splits, sum_parts):
        sum = (arrivals + splits + sum_parts).sum()
        return sum

    assert_matches(arrivals, (rows(100_000), rows(100_000), rows(100_000)))
