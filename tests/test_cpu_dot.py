"""Matrix products compiled for the CPU: tiles that the matrices do not fill, either layout, narrow types."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cpu_compared import assert_close, run, seeds


@triton.jit
def dot_kernel(
    a, b, c, m, n, k, sa0, sa1, sb0, sb1,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, TURN: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * M + tl.arange(0, M)
    j = tl.program_id(1) * N + tl.arange(0, N)
    total = tl.zeros((M, N), tl.float32)
    for start in range(0, k, K):
        at = start + tl.arange(0, K)
        x = tl.load(a + i[:, None] * sa0 + at[None, :] * sa1, (i < m)[:, None] & (at < k)[None, :], other=0)
        if TURN:
            y = tl.load(b + j[:, None] * sb1 + at[None, :] * sb0, (j < n)[:, None] & (at < k)[None, :], other=0).T
        else:
            y = tl.load(b + at[:, None] * sb0 + j[None, :] * sb1, (at < k)[:, None] & (j < n)[None, :], other=0)
        total = tl.dot(x, y, total, input_precision="ieee")
    tl.store(c + i[:, None] * n + j[None, :], total, (i < m)[:, None] & (j < n)[None, :])


@pytest.mark.parametrize("tile", [(16, 16, 16), (64, 32, 16), (32, 128, 64)], ids=str)
@pytest.mark.parametrize("turn", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@given(seed=seeds, data=st.data())
@settings(max_examples=5)
def test_dot(dtype, turn, tile, seed, data):
    m, n, k = (data.draw(st.integers(1, 2 * size)) for size in tile)
    a = torch.randn(m, k).to(dtype)
    b = torch.randn(n, k).to(dtype).T if turn else torch.randn(k, n).to(dtype)
    c = torch.full((m, n), np.nan)
    grid = (triton.cdiv(m, tile[0]), triton.cdiv(n, tile[1]), 1)
    run(dot_kernel, a, b, c, m, n, k, *a.stride(), *b.stride(), grid=grid, M=tile[0], N=tile[1], K=tile[2],
        TURN=turn, check=assert_close(1e-4))  # fmt: skip
    torch.testing.assert_close(c.double(), a.double() @ b.double(), rtol=1e-4, atol=1e-4)


@triton.jit
def narrow_dot_kernel(a, b, c, rounds, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    i, j, k = tl.arange(0, M)[:, None], tl.arange(0, N)[None, :], tl.arange(0, K)
    kind = c.dtype.element_ty
    total = tl.load(c + i * N + j)
    y = tl.load(b + k[:, None] * N + j)
    for n in range(rounds):
        total = tl.dot(tl.load(a + n * M * K + i * K + k[None, :]), y, total, out_dtype=kind)
    tl.store(c + i * N + j, total + tl.dot(tl.load(a + i * K + k[None, :]), y, out_dtype=kind))


@pytest.mark.parametrize("tile", [(16, 16, 32), (32, 64, 32)], ids=str)
@pytest.mark.parametrize("dtype, acc", [(torch.float16, torch.float16), (torch.int8, torch.int32)], ids=str)
@given(seed=seeds, rounds=st.integers(1, 3))
@settings(max_examples=5)
def test_dot_of_other_accumulators(dtype, acc, tile, seed, rounds):
    m, n, k = tile
    a, b = torch.randint(-9, 9, (rounds, m, k)).to(dtype), torch.randint(-9, 9, (k, n)).to(dtype)
    if dtype == torch.float16:
        a, b = a / 4, b / 8  # sums of products are exact in f32, in whatever order, and not in f16
    c = torch.randint(-9, 9, (m, n)).to(acc)
    run(narrow_dot_kernel, a, b, c, rounds, M=m, N=n, K=k)
