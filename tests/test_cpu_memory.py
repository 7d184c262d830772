"""What kernels compiled for the CPU load and store: masks of every form, strides of any sign, addresses that are data,
arguments that overlap, atomics."""

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given
from hypothesis import strategies as st

from tests.cpu_compared import N, few, numbers, run, seeds


@triton.jit
def mask_kernel(x, flag, y, n, low, FORM: tl.constexpr, OTHER: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    if FORM == "prefix":
        mask = i < n
    elif FORM == "suffix":
        mask = i >= low
    elif FORM == "between":
        mask = (i >= low) & (i < n)
    elif FORM == "outside":
        mask = (i < low) | (n <= i)
    elif FORM == "not":
        mask = ~(i < n)
    elif FORM == "data":
        mask = tl.load(flag + i) > n
    elif FORM == "scalar":
        mask = (n > low) & (i >= 0)
    elif FORM == "step":
        mask = (i % 3 == 0) & (i < n)
    else:
        mask = i == n
    tl.store(y + i, tl.load(x + i, mask, other=OTHER) + 1, mask=mask)
    tl.store(y + BLOCK + i, tl.load(x + i, mask, other=OTHER) + 1)


FORMS = ["prefix", "suffix", "between", "outside", "not", "data", "scalar", "step", "one"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8, torch.float16], ids=str)
@pytest.mark.parametrize("form", FORMS)
@given(seed=seeds, n=st.integers(-3, N + 3), low=st.integers(-3, N + 3))
def test_masks(form, dtype, seed, n, low):
    flag = torch.randint(0, N, (N,), dtype=torch.int32)
    run(mask_kernel, numbers(dtype), flag, numbers(dtype, 2 * N), n=n, low=low, FORM=form, OTHER=3)


@triton.jit
def strided_kernel(
    x, y, rows, columns, sx0, sx1, sy0, sy1, ROWS: tl.constexpr, COLUMNS: tl.constexpr, FORM: tl.constexpr
):
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    j = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    if FORM == "both":
        mask = (i < rows) & (j < columns)
    elif FORM == "triangle":
        mask = (i < rows) & (j < columns) & (j <= i)
    else:
        mask = (i < rows) & (j < columns) & ((i + j) % 2 == 0)
    value = tl.load(x + i * sx0 + j * sx1, mask, other=-1)
    tl.store(y + i * sy0 + j * sy1, value * 2 + i, mask)


@pytest.mark.parametrize("form", ["both", "triangle", "checkers"])
@pytest.mark.parametrize("tile", [(4, 16), (16, 4), (1, 32), (32, 1)], ids=str)
@given(seed=seeds, rows=st.integers(0, 19), columns=st.integers(0, 35), turn=st.tuples(st.booleans(), st.booleans()))
def test_tiles_of_any_stride(form, tile, seed, rows, columns, turn):
    x = torch.randn(columns, rows).T if turn[0] else torch.randn(rows, 2 * columns)[:, ::2]
    y = torch.randn(columns, rows).T if turn[1] else torch.randn(rows, columns)
    grid = (triton.cdiv(rows, tile[0]), triton.cdiv(columns, tile[1]), 1)
    run(strided_kernel, x, y, rows, columns, *x.stride(), *y.stride(), grid=grid, ROWS=tile[0], COLUMNS=tile[1],
        FORM=form)  # fmt: skip


@triton.jit
def reverse_kernel(x, y, n, stride, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + (n - 1) * -stride + i * stride, i < n), i < n)
    tl.store(y + 2 * n - 1 - i, tl.load(x + n - 1 - i, i < n), i < n)


@given(seed=seeds, n=st.integers(0, 150), stride=st.sampled_from([-1, -2, -3]))
def test_negative_strides(seed, n, stride):
    x, y = torch.randn(3 * n), torch.zeros(2 * n)
    run(reverse_kernel, x, y, n=n, stride=stride, grid=(triton.cdiv(n, N), 1, 1))
    assert torch.equal(y[:n], x[: (n - 1) * -stride + 1].flip(0)[::-stride] if n else x)


@triton.jit
def gather_kernel(x, index, y, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    at = tl.load(index + i)
    found = tl.load(x + at, mask=at < n, other=-7)
    tl.store(y + at, found * 2, mask=at < n)  # a permutation
    tl.store(y + BLOCK + i, tl.load(y + BLOCK + at) + found)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.int16], ids=str)
@given(seed=seeds, n=st.integers(0, N))
def test_gather_and_scatter(dtype, seed, n):
    run(gather_kernel, torch.randn(N), torch.randperm(N).to(dtype), torch.randn(2 * N), n=n)


@triton.jit
def table_kernel(table, y, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    pid = tl.program_id(0)
    row = tl.load(table + pid).to(tl.pointer_type(tl.float32))
    ends = tl.load(table + i % 3).to(tl.pointer_type(tl.float32))
    tl.store(y + pid * BLOCK + i, tl.load(row + i, i < n, other=0) + tl.load(ends + n))


@given(seed=seeds, n=st.integers(0, N))
def test_a_table_of_addresses(seed, n):
    rows = [torch.randn(N + 1) for _ in range(3)]
    table = torch.tensor([r.data_ptr() for r in rows])
    y = torch.empty(3, N)
    run(table_kernel, table, y, n=n, grid=(3, 1, 1))
    ends = torch.stack([rows[i % 3][n] for i in range(N)])
    assert torch.equal(y, torch.stack([torch.where(torch.arange(N) < n, r[:N], 0) for r in rows]) + ends)


@triton.jit
def in_place_kernel(x, y, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    a, b = tl.load(x + i, i < n, other=0), tl.load(y + i, i < n, other=0)
    tl.store(x + i, a + b, i < n)
    tl.store(y + i, a - b, i < n)  # the loads come before both
    tl.store(x + i, tl.load(y + i, i < n) * 2, i < n // 2)


@given(seed=seeds, n=st.integers(0, N), shift=st.integers(-20, 20))
def test_arguments_that_overlap(seed, n, shift):
    memory = torch.randint(-99, 99, (N + 40,))
    run(in_place_kernel, memory[20 : 20 + N], memory[20 + shift : 20 + shift + N], n=n)


@triton.jit
def shift_kernel(x, n, by, BLOCK: tl.constexpr):
    for start in range(0, n, BLOCK):
        i = start + tl.arange(0, BLOCK)
        tl.store(x + i + by, tl.load(x + i, i < n), i < n)


@given(seed=seeds, n=st.integers(0, 200), by=st.integers(0, 9))
def test_a_shift_in_place(seed, n, by):
    run(shift_kernel, torch.arange(300), n=n, by=by)


@triton.jit
def atomic_kernel(x, out, floats, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(x + i, i < n, other=0)
    tl.atomic_add(out + a % 4, a, mask=i < n)
    tl.atomic_max(out + 4 + a % 4, a, mask=i < n)
    tl.atomic_min(out + 8, tl.min(a))
    tl.atomic_or(out + 9, 1 << tl.program_id(0))
    tl.atomic_xor(out + 10 + i * 0, a, mask=i < n)
    tl.atomic_add(floats + a % 4, a.to(tl.float32), mask=i < n)
    tl.atomic_cas(out + 11, tl.full([], 0, out.dtype.element_ty), tl.full([], 7, out.dtype.element_ty))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
@given(seed=seeds, n=st.integers(0, 6 * N))
@few
def test_atomics(dtype, seed, n):
    x = torch.randint(0, 99, (n,), dtype=dtype)
    run(atomic_kernel, x, torch.zeros(12, dtype=dtype), torch.zeros(4), n=n, grid=(triton.cdiv(n, N), 1, 1))
