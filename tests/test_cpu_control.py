"""What of a kernel compiled for the CPU runs, and how often: programs of a grid, loops and what they carry, branches,
calls, assertions."""

# What Triton's annotations say of arguments is not what its kernels take.
# pyright: reportArgumentType=false, reportOperatorIssue=false

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given
from hypothesis import strategies as st

from fusedsl.codegen.cpu import launch as cpu
from tests.cpu_compared import THREADS, N, few, run, seeds


@triton.jit
def programs_kernel(out, BLOCK: tl.constexpr):
    x, y, z = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    at = (z * tl.num_programs(1) + y) * tl.num_programs(0) + x
    tl.store(out + at * BLOCK + tl.arange(0, BLOCK), x + 100 * y + 10000 * z + tl.num_programs(2))


@given(grid=st.tuples(*[st.integers(0, 5)] * 3))
def test_grids(grid):
    run(programs_kernel, torch.zeros(int(np.prod(grid)) * N, dtype=torch.int32), grid=grid)


@triton.jit
def flow_kernel(x, out, first, last, step, limit, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    a, b = tl.load(x + i), tl.load(x + BLOCK + i)
    s, t = 0, 1
    for n in range(first, last, step):
        a, b = b, a + n  # each from the other's last
        if n % 3 == 1:
            s, t = t, s + n
        else:
            for m in range(n % 4):
                t += m
                a = tl.where(i > m, a - t, a)
    while s < limit:
        s = s * 2 + 3
        if s % 5 == 0:
            b += s
    if limit < 0:
        return
    tl.store(out + i, a)
    tl.store(out + BLOCK + i, b)
    if s > t:
        tl.store(out + 2 * BLOCK, s)
    else:
        tl.store(out + 2 * BLOCK, t)


@given(
    seed=seeds, first=st.integers(-3, 3), last=st.integers(-3, 20), step=st.integers(1, 4), limit=st.integers(-2, 900)
)
def test_control_flow(seed, first, last, step, limit):
    x, out = torch.randint(-9, 9, (2 * N,)), torch.zeros(2 * N + 1, dtype=torch.int64)
    run(flow_kernel, x, out, first, last, step, limit)


@triton.jit
def carried_kernel(x, out, rounds, B: tl.constexpr):
    i, j = tl.arange(0, B)[:, None], tl.arange(0, B)[None, :]
    at = i * B + j
    a, b, c = tl.load(x + at), tl.load(x + B * B + at), tl.load(x + 2 * B * B + at)
    row = tl.arange(0, B)
    pointer = x + at
    for n in range(rounds):
        a, b, c = b, tl.trans(a), a + tl.load(pointer)
        c += tl.sum(b, 1)[None, :] + row[:, None]
        row = tl.gather(row, (row + n) % B, 0)
        pointer += B
    tl.store(out + at, a)
    tl.store(out + B * B + at, b)
    tl.store(out + 2 * B * B + at, c)
    tl.store(out + 3 * B * B + tl.arange(0, B), row)


@pytest.mark.parametrize("size", [1, 4, 16])
@given(seed=seeds, rounds=st.integers(0, 6))
@few
def test_carried_tensors_that_depend_on_each_other(size, seed, rounds):
    x = torch.randint(-9, 9, (3 * size * size + 6 * size,))
    run(carried_kernel, x, torch.zeros(3 * size * size + size, dtype=torch.int64), rounds=rounds, B=size)


@triton.jit
def leave_kernel(x, out, n, BLOCK: tl.constexpr):
    pid = tl.program_id(0)
    if pid >= n:
        return
    i = pid * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(x + i)
    if tl.sum(a) > 0:
        tl.store(out + i, a)
        return
    tl.store(out + i, -a)


@given(seed=seeds, n=st.integers(0, 4))
def test_early_return(seed, n):
    run(leave_kernel, torch.randint(-9, 9, (4 * N,)), torch.zeros(4 * N, dtype=torch.int64), n=n, grid=(4, 1, 1))


@triton.jit(noinline=True)
def apart(x, n, BLOCK: tl.constexpr):
    """Scalars and tensors in and out, memory, a loop, and calls of others."""
    i = tl.arange(0, BLOCK)
    total = tl.load(x + i)
    for k in range(n):
        total = early(total, k)
    tl.store(x + i, total)
    return total, tl.sum(total) + n, x + n


@triton.jit
def early(a, n):
    if n > 3:
        return a
    b = a * 2
    if n > 1:
        if tl.sum(b) > 100:
            return b - 100
        b = b + n
    elif n == 1:
        b = a - 1
    return tl.where(b > 5, b - a, b)


@triton.jit
def call_kernel(x, out, n, many, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    first, s, p = apart(x, n, BLOCK)
    if many:
        second, t, q = apart(x + BLOCK, n + 1, BLOCK)
    else:
        second, t, q = first + 1, s, p
    early_sum = tl.sum(early(first, n))
    if early_sum > 50:
        tl.store(out + 3 * BLOCK, early_sum)
        return
    tl.store(out + i, first - second)
    tl.store(out + BLOCK + i, early(second, 3))
    tl.store(out + 2 * BLOCK + i, tl.load(p + i) + tl.load(q + i) + s - t)


@given(seed=seeds, n=st.integers(0, 6), many=st.booleans())
def test_calls_and_early_returns(seed, n, many):
    x = torch.randint(-5, 9, (2 * N + 8,))
    run(call_kernel, x, torch.zeros(3 * N + 1, dtype=torch.int64), n=n, many=many)


@triton.jit
def kept_kernel(x, out, n, LEAVE: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    near = i + n
    if tl.load(x) > 0:
        tl.store(out + BLOCK + tl.reshape(i, (BLOCK // 4, 4)), tl.reshape(near, (BLOCK // 4, 4)))
        if LEAVE:
            return
    else:
        tl.store(out + 2 * BLOCK + i, near)
    tl.store(out + i, near)


@pytest.mark.parametrize("x", [1, -1])
@pytest.mark.parametrize("leave", [False, True])
def test_what_a_branch_keeps_in_memory(x, leave):
    """A reshape moves its operand into memory, where those after a branch that has not run must not look for it."""
    run(kept_kernel, torch.tensor([x]), torch.zeros(3 * N, dtype=torch.int64), n=7, LEAVE=leave)


@triton.jit
def assert_kernel(x, out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    a = tl.load(x + i)
    tl.store(out + i, a)
    tl.device_assert(a < n, "an index out of range")
    tl.store(out + BLOCK + i, tl.load(x + a))


@given(seed=seeds, n=st.sampled_from([N, N, 5, 0]))
def test_device_assert(seed, n):
    """What comes after an assertion that fails is not done."""
    x = torch.randint(0, N, (N,)) if n == N else torch.full((N,), 2**60)
    for threads in THREADS:
        out = torch.full((2 * N,), -1)
        arguments = {"x": x, "out": out, "n": n, "BLOCK": N}
        with_debug(arguments, n, threads)
        assert torch.equal(out[:N], x) and torch.equal(out[N:], x[x] if n == N else torch.full((N,), -1))


def with_debug(arguments, n, threads):
    if n == N:
        cpu.launch(assert_kernel, (1, 1, 1), arguments, threads=threads)
    else:
        with pytest.raises(AssertionError, match="an index out of range"):
            cpu.launch(assert_kernel, (1, 1, 1), arguments, threads=threads)
