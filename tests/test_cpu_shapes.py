"""Operations that move elements, compiled for the CPU: reshapes, transposes, joins, gathers within a tile."""

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given

from fusedsl.codegen.cpu import launch as cpu
from tests.cpu_compared import N, few, run, seeds


@triton.jit
def shape_kernel(x, y, index, out, A: tl.constexpr, B: tl.constexpr):
    i, j = tl.arange(0, A), tl.arange(0, B)
    at = i[:, None] * B + j[None, :]
    k = tl.arange(0, A * B)
    a, b = tl.load(x + at), tl.load(y + at)
    tl.store(out + k, tl.reshape(tl.trans(a), (A * B,)) + tl.reshape(b, (A * B,)))
    joined = tl.join(a, b)
    first, second = tl.split(joined * 2)
    tl.store(out + A * B + at, first - second * 3)
    tl.store(out + 2 * A * B + tl.arange(0, 2 * A * B), tl.reshape(joined, (2 * A * B,)))
    tl.store(out + 4 * A * B + tl.arange(0, 2 * A * B), tl.interleave(tl.ravel(a), tl.ravel(b)))
    cube = tl.permute(tl.reshape(a, (A, B // 2, 2)), (2, 0, 1))
    tl.store(out + 6 * A * B + k, tl.reshape(cube, (A * B,)))
    tl.store(out + 7 * A * B + at, tl.gather(a, tl.load(index + at), 1))
    row = tl.load(x + j)
    spread = tl.broadcast_to(row[None, :], (A, B)) + tl.expand_dims(i, 1)
    tl.store(out + 8 * A * B + at, spread)


@pytest.mark.parametrize("a, b", [(1, 2), (4, 16), (16, 4), (8, 32)])
@given(seed=seeds)
@few
def test_shapes(a, b, seed):
    x, y = torch.randn(2, a, b)
    run(shape_kernel, x, y, torch.randint(0, b, (a, b), dtype=torch.int32), torch.empty(9 * a * b), A=a, B=b)


@triton.jit
def cat_kernel(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    both = tl.cat(tl.load(x + i), tl.load(x + BLOCK + i), can_reorder=True)
    tl.store(out + tl.arange(0, 2 * BLOCK), both)


def test_cat_holds_every_element():
    x, out = torch.randn(2 * N), torch.empty(2 * N)
    cpu.launch(cat_kernel, (1, 1, 1), {"x": x, "out": out, "BLOCK": N})
    assert torch.equal(out.sort().values, x.sort().values)
