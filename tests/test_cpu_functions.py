"""Functions of scalars, with branches and loops of their own, compiled for the CPU for every element of a tile."""

# What Triton's annotations say of arguments is not what its kernels take.
# pyright: reportArgumentType=false

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given

from tests.cpu_compared import FLOATS, few, numbers, run, seeds


@triton.jit
def clipped(x, low):
    if x < low:
        return low
    if x > 3:
        x = x - 1
        if x < 2.5:
            return x * x
    return x + 1


@triton.jit
def steps_and_root(n, x, m):
    steps = 0
    if n < 1:  # for which the loop would not end
        return steps, x
    while n != 1:
        if n % 2 == 0:
            n = n // 2
        else:
            n = 3 * n + 1
        steps += 1
    for i in range(1, m, 2):
        for j in range(i):
            x = x * 0.5 + j
        if x > 10:
            x = x - 7
    return steps, x


@triton.jit
def loops_kernel(n, x, m, steps, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    count, root = tl.map_elementwise(steps_and_root, tl.load(n + i), tl.load(x + i), tl.load(m + i))
    tl.store(steps + i, count)
    tl.store(out + i, root)


@pytest.mark.parametrize("block", [1, 16, 64])
@given(seed=seeds)
@few
def test_functions_of_every_element_that_loop(block, seed):
    n, m = torch.randint(-9, 99, (block,), dtype=torch.int32), torch.randint(-2, 9, (block,), dtype=torch.int32)
    run(loops_kernel, n, torch.randn(block), m, torch.zeros_like(n), torch.zeros(block), BLOCK=block)


@triton.jit
def map_kernel(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    a = tl.load(x + i)
    tl.store(out + i, tl.map_elementwise(clipped, a, tl.full([BLOCK], -1, x.dtype.element_ty)))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@given(seed=seeds)
def test_functions_of_every_element(dtype, seed):
    run(map_kernel, numbers(dtype), numbers(dtype))


@triton.jit
def exchanged(a, b, c, d):
    """A sorted pair, and which of the other pair goes along with its first."""
    if a > b:
        return b, a, d, d
    return a, b, c, d


@triton.jit
def pairs_kernel(x, y, out, other, A: tl.constexpr, B: tl.constexpr):
    at = tl.arange(0, A)[:, None] * B + tl.arange(0, B)[None, :]
    low, also = tl.map_elementwise(exchanged, tl.load(x + at), tl.load(y + at) * 2, pack=2)
    tl.store(out + at, low)
    tl.store(other + at, also)


@pytest.mark.parametrize("a, b", [(1, 2), (4, 16), (8, 4)])
@given(seed=seeds)
@few
def test_functions_of_neighbours(a, b, seed):
    x, y = torch.randint(-9, 9, (a, b)), torch.randn(a, b)
    run(pairs_kernel, x, y, torch.zeros_like(x), torch.zeros(a, b), A=a, B=b)
