"""Kernels compiled for the CPU against the interpreter and torch: every family of operations, over odd sizes, masks of
every form, and every kind of number."""

# What Triton's annotations say of arguments is not what its kernels take.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st

from fusedsl.codegen import interpreter
from fusedsl.codegen.cpu import launch as cpu
from fusedsl.codegen.cpu.errors import CannotCompile

N = 64  # lanes of the kernels that say BLOCK
FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
F8 = [torch.float8_e4m3fn, torch.float8_e5m2]
INTS = [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint32]
THREADS = (1, 2, 5)

seeds = st.integers(0, 2**31).map(torch.manual_seed)
few = settings(max_examples=8)


def copied(arguments):
    """The arguments with storages of their own, which overlap where the given ones do."""
    storages = {}

    def copy(x):
        if not isinstance(x, torch.Tensor):
            return x
        old = x.untyped_storage()
        new = storages.setdefault(old.data_ptr(), old.clone())
        return torch.empty(0, dtype=x.dtype).set_(new, x.storage_offset(), x.shape, x.stride())

    return {name: copy(x) for name, x in arguments.items()}


def run(kernel, *tensors, grid=(1, 1, 1), check=None, **arguments):
    """Launches, and checks each tensor against the interpreter's: bit for bit, or by `check(actual, expected)`."""
    arguments |= dict(zip(kernel.arg_names, tensors, strict=False))
    if "BLOCK" in kernel.arg_names:
        arguments.setdefault("BLOCK", N)
    wanted = copied(arguments)
    interpreter.launch(kernel, grid, wanted)
    first = {}
    for threads in THREADS:
        given = copied(arguments)
        cpu.launch(kernel, grid, given, threads=threads)
        first = first or given
        for name, x in given.items():
            if isinstance(x, torch.Tensor):
                assert_same_bits(x, first[name], f"{name}, {threads} threads")
                if threads == 1:
                    (check or assert_same_bits)(x, wanted[name])
    for name, x in arguments.items():  # as a launch would leave them
        if isinstance(x, torch.Tensor):
            raw(x).copy_(raw(first[name]))


def raw(x):
    return x.view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])


def assert_same_bits(actual, expected, what=""):
    """Equal bit for bit, but for the payload of a NaN."""
    same = raw(actual) == raw(expected)
    if actual.is_floating_point():
        same |= actual.double().isnan() & expected.double().isnan()
    assert same.all(), f"{what}: {actual[~same]} is not {expected[~same]}"


def assert_close(relative):
    def check(actual, expected):
        torch.testing.assert_close(actual.double(), expected.double(), rtol=relative, atol=relative, equal_nan=True)

    return check


def numbers(dtype, count=N):
    """Numbers of any bits, small ones, and the special ones."""
    size = torch.empty(0, dtype=dtype).element_size()
    if dtype == torch.bool:
        return torch.rand(count) < 0.5
    any_bits = torch.randint(0, 256, (count * size,), dtype=torch.uint8).view(dtype)
    if dtype.is_floating_point:
        special = torch.tensor([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 1e-40], dtype=torch.float32).to(dtype)
        small = (torch.randn(count) * 4).to(dtype)
    else:
        low, high = torch.iinfo(dtype).min, torch.iinfo(dtype).max
        special = torch.tensor([low, high, max(low, -1), 0, 1, 2, 3, 7]).to(dtype)
        small = torch.randint(max(low, -5), 6, (count,)).to(dtype)
    parts = torch.stack([raw(any_bits), raw(small), raw(special[torch.randint(0, 8, (count,))])])
    return parts.gather(0, torch.randint(0, 3, (1, count)))[0].view(dtype)


# Elementwise


@triton.jit
def float_kernel(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    a, b = tl.load(x + i, mask, other=0), tl.load(y + i, mask, other=0)
    tl.store(out + i, a + b, mask)
    tl.store(out + n + i, a - b, mask)
    tl.store(out + 2 * n + i, a * b, mask)
    tl.store(out + 3 * n + i, a / b, mask)
    tl.store(out + 4 * n + i, tl.where(a < b, a, -b), mask)
    tl.store(out + 5 * n + i, tl.where((a == b) | (a != a), tl.abs(a), b), mask)
    tl.store(out + 6 * n + i, tl.where((a >= b) ^ (a > 0), a, b), mask)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@given(seed=seeds, n=st.sampled_from([0, 1, 2, 31, 63, 64, 65, 200]))
def test_floats(dtype, seed, n):
    out = numbers(dtype, 7 * n)
    run(float_kernel, numbers(dtype, n), numbers(dtype, n), out, n=n, grid=(triton.cdiv(n, N), 1, 1))


@triton.jit
def extremes_kernel(x, y, out, BLOCK: tl.constexpr, NAN: tl.constexpr):
    i = tl.arange(0, BLOCK)
    a, b = tl.load(x + i), tl.load(y + i)
    tl.store(out + i, tl.maximum(a, b, propagate_nan=NAN))
    tl.store(out + BLOCK + i, tl.minimum(a, b, propagate_nan=NAN))
    tl.store(out + 2 * BLOCK + i, tl.clamp(a, b - 1, b + 1, propagate_nan=NAN))


@pytest.mark.parametrize("nan", [tl.PropagateNan.NONE, tl.PropagateNan.ALL], ids=["none", "all"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@given(seed=seeds)
def test_maximum_and_nan(dtype, nan, seed):
    x, y = (numbers(dtype) for _ in "xy")
    if nan == tl.PropagateNan.NONE:
        y = y.nan_to_num(1.0)  # the bounds of a clamp
    run(extremes_kernel, x, y, numbers(dtype, 3 * N), NAN=nan, check=assert_close(0))


@triton.jit
def f8_kernel(x, y, out, wide, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    a, b = tl.load(x + i), tl.load(y + i)
    tl.store(out + i, (a.to(tl.float32) * b.to(tl.float32)).to(out.dtype.element_ty))
    tl.store(out + BLOCK + i, tl.where(i < 5, a, b))
    tl.store(wide + i, a.to(tl.float16) + b.to(tl.float16))


@pytest.mark.parametrize("dtype", F8, ids=str)
@given(seed=seeds)
def test_f8(dtype, seed):
    run(f8_kernel, numbers(dtype), numbers(dtype), numbers(dtype, 2 * N), numbers(torch.float16))


@triton.jit
def int_kernel(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    a, b = tl.load(x + i, mask, other=1), tl.load(y + i, mask, other=1)
    shift = b & 7
    some = tl.where((b == 0) | ((a + 1 > a) & (b + 1 == 0)), 3, b).to(b.dtype)  # no division by zero, no overflow
    tl.store(out + i, a + b, mask)
    tl.store(out + n + i, a - b, mask)
    tl.store(out + 2 * n + i, a * b, mask)
    tl.store(out + 3 * n + i, a // some, mask)
    tl.store(out + 4 * n + i, a % some, mask)
    tl.store(out + 5 * n + i, (a & b) | (a ^ 5), mask)
    tl.store(out + 6 * n + i, (a << shift) - (a >> shift), mask)
    tl.store(out + 7 * n + i, tl.where(a < b, tl.maximum(a, b), -tl.minimum(a, b)), mask)


@pytest.mark.parametrize("dtype", INTS, ids=str)
@given(seed=seeds, n=st.sampled_from([0, 1, 63, 64, 130]))
def test_integers(dtype, seed, n):
    y = numbers(dtype, n)
    if dtype.is_signed:
        y[y == -1] = 1  # the least number by -1 has no quotient
    run(int_kernel, numbers(dtype, n), y, numbers(dtype, 8 * n), n=n, grid=(triton.cdiv(n, N), 1, 1))


@triton.jit
def cast_kernel(x, y, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i).to(y.dtype.element_ty))


CASTS = [(s, t) for s in (*FLOATS, *INTS, torch.bool) for t in (*FLOATS, *INTS) if s != t]
CASTS += [(s, t) for s in F8 for t in FLOATS[1:]] + [(s, t) for s in FLOATS[1:] for t in F8]


@pytest.mark.parametrize("source, target", CASTS[::3] + CASTS[len(CASTS) - 6 :], ids=str)
@given(seed=seeds)
@few
def test_casts(source, target, seed):
    x = numbers(source)
    if source.is_floating_point and not target.is_floating_point:  # elsewhere undefined
        x = x.float().nan_to_num(0).clamp(0, 127).to(source)
    run(cast_kernel, x, numbers(target))


@triton.jit
def bool_kernel(x, y, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    a, b = tl.load(x + i), tl.load(y + i)
    tl.store(out + i, (a & b) ^ (i > 7))
    tl.store(out + BLOCK + i, a | (b == 0))


@given(seed=seeds)
def test_booleans(seed):
    run(bool_kernel, numbers(torch.bool), numbers(torch.bool), numbers(torch.bool, 2 * N))


@triton.jit
def math_kernel(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    a = tl.load(x + i)
    p = tl.abs(a)
    tl.store(out + i, tl.exp(a))
    tl.store(out + BLOCK + i, tl.exp2(a))
    tl.store(out + 2 * BLOCK + i, tl.log(p))
    tl.store(out + 3 * BLOCK + i, tl.log2(p))
    tl.store(out + 4 * BLOCK + i, tl.sqrt(p))
    tl.store(out + 5 * BLOCK + i, tl.rsqrt(p))
    tl.store(out + 6 * BLOCK + i, tl.sin(a))
    tl.store(out + 7 * BLOCK + i, tl.cos(a))
    tl.store(out + 8 * BLOCK + i, tl.erf(a))
    tl.store(out + 9 * BLOCK + i, tl.floor(a))
    tl.store(out + 10 * BLOCK + i, tl.ceil(a))
    tl.store(out + 11 * BLOCK + i, tl.fma(a, p, a))
    tl.store(out + 12 * BLOCK + i, tl.sigmoid(a))


@pytest.mark.parametrize("dtype", FLOATS[:2], ids=str)
@given(seed=seeds)
def test_functions(dtype, seed):
    x = torch.randn(N, dtype=dtype) * 10
    x[::7] = torch.tensor([np.nan, np.inf, -np.inf, 0.0, -0.0])[torch.randint(0, 5, (10,))].to(dtype)
    run(math_kernel, x, torch.empty(13 * N, dtype=dtype), check=assert_close(2e-6 if dtype == torch.float32 else 1e-13))


@triton.jit
def wrap_kernel(out, seen, start, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    at = start + i
    tl.store(out + i, (at * 1103515245 + 12345) ^ (at >> 3), mask=at > 0)
    tl.store(out + BLOCK + i, i, mask=at + 7 < start)
    tl.store(seen + i, at.to(tl.int64) * 3, mask=i * at != 4)


@given(start=st.sampled_from([2**31 - 5, 2**31 - 1, -(2**31), 2**31 - N, 0, 5]))
def test_int32_wraps_in_values_and_masks(start):
    run(wrap_kernel, numbers(torch.int32, 2 * N), numbers(torch.int64), start=start)


# Memory


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
def programs_kernel(out, BLOCK: tl.constexpr):
    x, y, z = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    at = (z * tl.num_programs(1) + y) * tl.num_programs(0) + x
    tl.store(out + at * BLOCK + tl.arange(0, BLOCK), x + 100 * y + 10000 * z + tl.num_programs(2))


@given(grid=st.tuples(*[st.integers(0, 5)] * 3))
def test_grids(grid):
    run(programs_kernel, torch.zeros(int(np.prod(grid)) * N, dtype=torch.int32), grid=grid)


# Shapes


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


# Functions: of scalars, for every element


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


# Reductions and scans


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


# Products


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


# Control flow


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


# Atomics


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


# What there is not


@triton.jit
def assembly_kernel(x, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    a = tl.load(x + i)
    tl.store(x + i, tl.inline_asm_elementwise("mov $0, $1;", "=r,r", [a], dtype=tl.int32, is_pure=True, pack=1))


def test_what_is_lacking_is_named_with_the_line():
    line = assembly_kernel.starting_line_number + 4
    with pytest.raises(CannotCompile, match=rf"test_cpu\.py:{line}: tt\.elementwise_inline_asm"):
        cpu.launch(assembly_kernel, (1, 1, 1), {"x": numbers(torch.int32), "BLOCK": N})


def test_values_with_many_users_compile_quickly():
    """Forty times x = x * x + x: a walk that followed every user would take 2 ** 40 steps."""

    @triton.jit
    def kernel(x_ptr, at_ptr, out_ptr, n, BLOCK: tl.constexpr):
        offs = tl.arange(0, BLOCK)
        x = tl.load(x_ptr + offs)
        at = tl.load(at_ptr + offs)
        for _ in tl.static_range(40):
            x = x * x + x
            at = at * at + at
        carried = tl.zeros([BLOCK], tl.float32)
        for _ in range(n):
            y = carried + x
            for _ in tl.static_range(40):
                y = y * y + y
            carried = y
        tl.store(out_ptr + (at & (BLOCK - 1)), carried)

    x, at, out = torch.zeros(64), torch.zeros(64, dtype=torch.int32), torch.ones(64)
    cpu.launch(kernel, (1, 1, 1), {"x_ptr": x, "at_ptr": at, "out_ptr": out, "n": 2, "BLOCK": 64})
    assert out[0] == 0
