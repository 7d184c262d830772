"""Elementwise kernels compiled for the CPU, on every kind of number: arithmetic, comparisons, casts, functions."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given
from hypothesis import strategies as st
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fusedsl.codegen.cpu import machine, toolchain
from tests.cpu_compared import F8, FLOATS, INTS, N, assert_close, few, numbers, run, seeds


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
def bounds_kernel(x, out, BLOCK: tl.constexpr, NAN: tl.constexpr):
    i = tl.arange(0, BLOCK)
    a = tl.load(x + i)
    tl.store(out + i, tl.maximum(a, 0.0, propagate_nan=NAN))
    tl.store(out + BLOCK + i, tl.minimum(1.5, a, propagate_nan=NAN))
    tl.store(out + 2 * BLOCK + i, tl.clamp(a, -1.0, 2.0, propagate_nan=NAN))
    tl.store(out + 3 * BLOCK + i, tl.maximum(a, float("nan"), propagate_nan=NAN))
    tl.store(x + i, tl.maximum(-0.5, a, propagate_nan=NAN))


@pytest.mark.parametrize("nan", [tl.PropagateNan.NONE, tl.PropagateNan.ALL], ids=["none", "all"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@given(seed=seeds)
def test_maximum_beside_a_number(dtype, nan, seed):
    run(bounds_kernel, numbers(dtype), numbers(dtype, 4 * N), NAN=nan, check=assert_close(0))


@triton.jit
def relu_kernel(x, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(x + i, tl.maximum(tl.load(x + i), 0.0, propagate_nan=tl.PropagateNan.ALL))


def test_a_maximum_beside_a_number_is_one_instruction():
    """In place, too, where LLVM would rather compare and store under a mask."""
    source = ASTSource(relu_kernel, {"x": "*fp32", "BLOCK": "constexpr"}, {"BLOCK": N})
    kernel = triton.compile(source, target=GPUTarget("cpu", "x86-64-v4", 1))
    asm = toolchain.assembly(kernel.asm["mlir"], machine.AVX512)
    assert "vmaxps" in asm
    assert "vcmp" not in asm


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
