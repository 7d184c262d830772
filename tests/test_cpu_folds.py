"""Reductions and scans compiled for the CPU, along either axis, by combine functions of any form."""

# What Triton's annotations say of arguments is not what its kernels take.
# pyright: reportArgumentType=false

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given
from hypothesis import strategies as st

from tests.cpu_compared import FLOATS, N, assert_close, few, numbers, run, seeds


@triton.jit
def nearer(a, i, b, j):
    """Of two the one nearer to zero; of equals the first; a NaN only if there is nothing else. By branches."""
    if a != a:
        return b, j
    if b != b:
        return a, i
    p, q = tl.abs(a), tl.abs(b)
    if p == q:
        k = tl.minimum(i, j)
        if k == i:
            return a, i
        else:
            return b, j
    if p < q:
        return a, i
    return b, j


@triton.jit
def nearer_kernel(x, out, places, AXIS: tl.constexpr, A: tl.constexpr, B: tl.constexpr):
    at = tl.arange(0, A)[:, None] * B + tl.arange(0, B)[None, :]
    a = tl.load(x + at)
    K: tl.constexpr = B if AXIS == 0 else A
    best, where = tl.reduce((a, at), AXIS, nearer)
    tl.store(out + tl.arange(0, K), best)
    tl.store(places + tl.arange(0, K), where)
    best, where = tl.associative_scan((a, at), AXIS, nearer, reverse=AXIS == 1)
    tl.store(out + K + at, best)
    tl.store(places + K + at, where)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("a, b", [(1, 1), (2, 64), (16, 4)])
@pytest.mark.parametrize("axis", [0, 1])
@given(seed=seeds)
@few
def test_combine_functions_that_branch(a, b, axis, dtype, seed):
    x, k = numbers(dtype, a * b), b if axis == 0 else a
    x[x == 0] = 1  # which of 0 and -0 is left open nowhere here, but both are as near
    run(nearer_kernel, x, numbers(dtype, k + a * b), torch.zeros(k + a * b, dtype=torch.int32), AXIS=axis, A=a, B=b)


@triton.jit
def largest(a, i, b, j):
    take = (a > b) | ((a == b) & (i < j))
    return tl.where(take, a, b), tl.where(take, i, j)


@triton.jit
def welford(mean, m2, count, mean2, m22, count2):
    delta, total = mean2 - mean, count + count2
    share = tl.where(total == 0, 0.0, count2 / total)
    return mean + delta * share, m2 + m22 + delta * delta * count * share, total


@triton.jit
def mixed(a, b):
    return a * b + a + b  # (1 + a)(1 + b) - 1


@triton.jit
def reduce_kernel(x, out, index, ints, rows, columns, AXIS: tl.constexpr, A: tl.constexpr, B: tl.constexpr):
    i, j = tl.arange(0, A)[:, None], tl.arange(0, B)[None, :]
    mask = (i < rows) & (j < columns)
    at = i * B + j
    a = tl.load(x + at, mask, other=0)
    M: tl.constexpr = B if AXIS == 0 else A
    k = tl.arange(0, M)
    tl.store(out + k, tl.sum(a, AXIS))
    tl.store(out + M + k, tl.max(tl.where(mask, a, float("-inf")), AXIS))
    tl.store(out + 2 * M + k, tl.min(a, AXIS))
    mean, m2, _ = tl.reduce((a, tl.zeros_like(a), mask.to(tl.float32)), AXIS, welford)
    tl.store(out + 3 * M + k, mean)
    tl.store(out + 4 * M + k, m2)
    best, where = tl.reduce((a, tl.broadcast_to(at, (A, B))), AXIS, largest)
    tl.store(out + 5 * M + k, best)
    tl.store(index + k, where)
    tl.store(index + M + k, tl.argmax(a, AXIS))
    tl.store(index + 2 * M + k, tl.argmin(a, AXIS))
    n = tl.load(ints + at, mask, other=0)
    tl.store(index + 3 * M + k, tl.reduce(n, AXIS, mixed))
    tl.store(index + 4 * M + k, tl.xor_sum(n, AXIS))
    tl.store(index + 5 * M + k, tl.sum(n, AXIS))
    tl.store(out + 6 * M, tl.max(a))
    tl.store(out + 6 * M + 1, tl.sum(tl.sum(a, 1), 0))


@pytest.mark.parametrize("a, b", [(1, 1), (1, 128), (16, 8), (8, 64)])
@pytest.mark.parametrize("axis", [0, 1])
@given(seed=seeds, data=st.data())
@few
def test_reductions(a, b, axis, seed, data):
    rows, columns = data.draw(st.integers(0, a)), data.draw(st.integers(0, b))
    m = b if axis == 0 else a
    x, ints = torch.randn(a, b).round(decimals=1), numbers(torch.int32, a * b)
    out, index = torch.zeros(6 * m + 2), torch.zeros(6 * m, dtype=torch.int32)
    run(reduce_kernel, x, out, index, ints, rows, columns, AXIS=axis, A=a, B=b, check=assert_close(1e-5))


@triton.jit
def nan_kernel(x, out, BLOCK: tl.constexpr):
    a = tl.load(x + tl.arange(0, BLOCK))
    tl.store(out, tl.max(a))
    tl.store(out + 1, tl.min(a))
    tl.store(out + 2, tl.sum(a))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@given(seed=seeds, special=st.sampled_from([np.nan, np.inf, -np.inf]))
@few
def test_reductions_of_special_numbers(dtype, seed, special):
    x = torch.randint(-3, 3, (N,)).to(dtype)
    x[torch.randint(0, N, (3,))] = special
    run(nan_kernel, x, torch.zeros(3, dtype=dtype), check=assert_close(0))


@triton.jit
def linear(a, b, c, d):
    return a * c, b * c + d


@triton.jit
def scan_kernel(x, y, out, ints, AXIS: tl.constexpr, REVERSE: tl.constexpr, A: tl.constexpr, B: tl.constexpr):
    at = tl.arange(0, A)[:, None] * B + tl.arange(0, B)[None, :]
    a, b = tl.load(x + at), tl.load(y + at)
    tl.store(out + at, tl.cumsum(a, AXIS, reverse=REVERSE))
    decay, state = tl.associative_scan((a, b), AXIS, linear, reverse=REVERSE)
    tl.store(out + A * B + at, decay)
    tl.store(out + 2 * A * B + at, state)
    tl.store(ints + at, tl.associative_scan(tl.load(ints + at), AXIS, mixed, reverse=REVERSE))


@pytest.mark.parametrize("a, b", [(1, 1), (4, 32), (16, 2)])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
@given(seed=seeds)
@few
def test_scans(a, b, axis, reverse, seed):
    x, y = torch.rand(2, a, b)
    run(scan_kernel, x, y, torch.zeros(3, a, b), numbers(torch.int32, a * b), AXIS=axis, REVERSE=reverse, A=a, B=b,
        check=assert_close(1e-5))  # fmt: skip
