"""Reductions and scans of Triton's language on the CPU target: each x dtype x shape x axis x mask, against numpy."""

# What stands for a type in a kernel's parameters is none to its callers.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

import itertools
import math

import numpy as np
import pytest
import triton
import triton.language as tl

from tests.language import (
    EPSILON,
    FLOATS,
    INTEGERS,
    NUMPY,
    array,
    assert_close,
    assert_equal,
    cases,
    masks,
    numbers,
    output,
    places,
    split,
    tensor,
)

pytestmark = [
    pytest.mark.usefixtures("cpu_driver"),
    pytest.mark.sample,
    pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning", "ignore::DeprecationWarning"),
]


@triton.jit
def fold(x, OP: tl.constexpr, AXIS: tl.constexpr):
    if OP == "sum":
        r = tl.sum(x, AXIS)
    elif OP == "max":
        r = tl.max(x, AXIS)
    elif OP == "min":
        r = tl.min(x, AXIS)
    elif OP == "argmax":
        r = tl.argmax(x, AXIS)
    elif OP == "argmin":
        r = tl.argmin(x, AXIS)
    elif OP == "xor_sum":
        r = tl.xor_sum(x, AXIS)
    else:
        tl.static_assert(OP == "reduce_or")
        r = tl.reduce_or(x, AXIS)
    return r


@triton.jit
def fold_kernel(x, out, n, other, SHAPE: tl.constexpr, OP: tl.constexpr, AXIS: tl.constexpr):
    at = places(SHAPE)
    r = fold(tl.load(x + at, mask=at < n, other=other), OP, AXIS)
    if len(SHAPE) == 1:
        tl.store(out, r)
    else:
        tl.store(out + tl.arange(0, SHAPE[1 - AXIS]), r)


FOLDS = {"sum": np.sum, "max": np.max, "min": np.min, "argmax": np.argmax, "argmin": np.argmin,
         "xor_sum": np.bitwise_xor.reduce, "reduce_or": np.bitwise_or.reduce}  # fmt: skip


def folds():
    for op, dtype, (shape, axis) in itertools.product(
        FOLDS, (*FLOATS, *INTEGERS), (((64,), 0), ((4, 32), 0), ((4, 32), 1), ((32, 2), 1))
    ):
        if op in ("xor_sum", "reduce_or") and dtype not in INTEGERS:
            continue
        yield from ((op, dtype, shape, axis, n) for n in masks(math.prod(shape)))


@pytest.mark.parametrize(("op", "dtype", "shape", "axis", "n"), list(folds()))
def test_reductions(op, dtype, shape, axis, n):
    x = numbers(dtype, shape, 7, special=dtype in INTEGERS)
    # Triton adds narrow integers as 32 bits, and compares halves as f32.
    small = {"int8": "int32", "int16": "int32", "uint8": "uint32", "uint16": "uint32"}.get(dtype, dtype)
    target = "int32" if op.startswith("arg") else small if op == "sum" else dtype
    seen = x.copy()
    seen.reshape(-1)[n:] = 1
    found = output(target, x.size // shape[axis])
    fold_kernel[(1,)](tensor(x), found, n, 1, SHAPE=shape, OP=op, AXIS=axis)
    if op == "sum" and dtype in FLOATS:
        size = np.abs(seen.astype(np.float64)).sum(axis).reshape(-1)
        assert_close(array(found), seen.astype(np.float64).sum(axis), 8 * EPSILON[dtype], size)
    else:
        wide = seen if op != "sum" else seen.astype(NUMPY[small])
        assert_equal(array(found), np.asarray(FOLDS[op](wide, axis)).astype(NUMPY[target]))


@triton.jit
def welford(mean, m2, count, mean2, m22, count2):
    delta, total = mean2 - mean, count + count2
    return mean + delta * count2 / total, m2 + m22 + delta * delta * count * count2 / total, total


@triton.jit
def line(a, b, c, d):  # x -> a x + b, then x -> c x + d
    return a * c, b * c + d


@triton.jit
def running(x, OP: tl.constexpr, AXIS: tl.constexpr, BACK: tl.constexpr):
    if OP == "cumsum":
        r = tl.cumsum(x, AXIS, reverse=BACK)
    elif OP == "cumprod":
        r = tl.cumprod(x, AXIS, reverse=BACK)
    else:
        tl.static_assert(OP == "line")
        _, r = tl.associative_scan((x, x), AXIS, line, reverse=BACK)
    return r


@triton.jit
def scan_kernel(x, out, n, SHAPE: tl.constexpr, OP: tl.constexpr, AXIS: tl.constexpr, BACK: tl.constexpr):
    at = places(SHAPE)
    tl.store(out + at, running(tl.load(x + at, mask=at < n, other=1), OP, AXIS, BACK), mask=at < n)


def _lines(x, axis):
    """a x + b after a x + b ..., from the first to each."""
    x = np.moveaxis(x, axis, 0)
    result, total = np.empty_like(x), x[0]
    result[0] = total
    for i in range(1, len(x)):
        total = total * x[i] + x[i]
        result[i] = total
    return np.moveaxis(result, 0, axis)


SCANS = {"cumsum": lambda x, a: np.cumsum(x, a, dtype=x.dtype), "cumprod": lambda x, a: np.cumprod(x, a, dtype=x.dtype),
         "line": _lines}  # fmt: skip


@pytest.mark.parametrize(("op", "dtype", "axis", "back", "shape", "n"), cases(
    SCANS, ("fp32", "fp64", "int32", "int64", "uint32"), (0, 1), (False, True), shapes=((4, 32), (16, 2)))
    + cases(SCANS, ("fp32", "int32"), (0,), (False, True), shapes=((64,),)))  # fmt: skip
def test_scans(op, dtype, axis, back, shape, n):
    x = numbers(dtype, shape, 8, special=False)
    if dtype in FLOATS:
        x = (x / 16 + 1).astype(x.dtype)  # so that products stay in range
    seen = x.copy()
    seen.reshape(-1)[n:] = 1
    found = output(dtype, x.size)
    scan_kernel[(1,)](tensor(x), found, n, SHAPE=shape, OP=op, AXIS=axis, BACK=back)
    wide = seen.astype(np.float64) if dtype in FLOATS else seen
    wanted = np.flip(SCANS[op](np.flip(wide, axis), axis), axis) if back else SCANS[op](wide, axis)
    found, wanted = split(found, n, wanted)
    if dtype in FLOATS:
        assert_close(found, wanted, 200 * EPSILON[dtype], np.abs(wanted) + 100)
    else:
        assert_equal(found, wanted)


@triton.jit
def welford_kernel(x, out, n, SHAPE: tl.constexpr, AXIS: tl.constexpr):
    at = places(SHAPE)
    v = tl.load(x + at, mask=at < n, other=1.0)
    mean, m2, count = tl.reduce((v, tl.zeros_like(v), tl.full(v.shape, 1.0, v.dtype)), AXIS, welford)
    to = out + tl.arange(0, SHAPE[1 - AXIS])
    tl.store(to, mean)
    tl.store(to + SHAPE[1 - AXIS], m2 / count)


@pytest.mark.parametrize(("dtype", "axis", "shape", "n"), cases(
    ("fp32", "fp64"), (0, 1), shapes=((4, 32), (16, 2), (8, 8))))  # fmt: skip
def test_reductions_of_several(dtype, axis, shape, n):
    x = numbers(dtype, shape, 9, special=False)
    seen = x.astype(np.float64)
    seen.reshape(-1)[n:] = 1
    found = output(dtype, 2 * x.size // shape[axis])
    welford_kernel[(1,)](tensor(x), found, n, SHAPE=shape, AXIS=axis)
    assert_close(array(found), [seen.mean(axis), seen.var(axis)], 32 * EPSILON[dtype], 20)
