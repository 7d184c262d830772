"""Triton's language on the CPU target, operation by operation: each x dtype x shape x mask, launched by Triton's own
launcher, against numpy."""

# What stands for a type in a kernel's parameters is none to its callers.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

import contextlib
import itertools
import math

import ml_dtypes
import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.runtime import driver

from fusedsl.codegen.cpu.machine import host
from fusedsl.codegen.cpu.plugin.driver import CPUDriver
from fusedsl.errors import UnsupportedDevice

try:
    host()
except UnsupportedDevice:
    pytest.skip("there is no CPU target here", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning", "ignore::DeprecationWarning")

FLOATS = ("fp16", "bf16", "fp32", "fp64")
SIGNED = ("int8", "int16", "int32", "int64")
UNSIGNED = ("uint8", "uint16", "uint32", "uint64")
INTEGERS = (*SIGNED, *UNSIGNED)
F8 = ("fp8e4nv", "fp8e5", "fp8e4b8", "fp8e5b16")
TORCH = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64,
         "fp8e4nv": torch.float8_e4m3fn, "fp8e5": torch.float8_e5m2, "fp8e4b8": torch.float8_e4m3fnuz,
         "fp8e5b16": torch.float8_e5m2fnuz, "int1": torch.bool, **{n: getattr(torch, n) for n in INTEGERS}}  # fmt: skip
NUMPY = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16, "fp32": np.float32, "fp64": np.float64, "int1": np.bool_,
         "fp8e4nv": ml_dtypes.float8_e4m3fn, "fp8e5": ml_dtypes.float8_e5m2, "fp8e4b8": ml_dtypes.float8_e4m3fnuz,
         "fp8e5b16": ml_dtypes.float8_e5m2fnuz, **{n: getattr(np, n) for n in INTEGERS}}  # fmt: skip
EPSILON = {"fp16": 2.0**-11, "bf16": 2.0**-8, "fp32": 2.0**-24, "fp64": 2.0**-53}
SHAPES = ((64,), (4, 32), (2, 4, 8))
SENTINEL = 0x5A  # every byte of an output before a launch


@pytest.fixture(scope="module", autouse=True)
def cpu_driver():
    """The driver that a computer without a GPU has anyway."""
    before = driver._active
    driver.set_active(CPUDriver())
    yield
    driver._active = before


# ---- numbers ---------------------------------------------------------------------------------------------------------


def numbers(dtype, shape, seed=0, special=True):
    """An array of the dtype: ordinary numbers, and special ones among them."""
    rng, count = np.random.default_rng([seed, *map(ord, dtype), *shape]), math.prod(shape)
    kind = NUMPY[dtype]
    if dtype == "int1":
        return rng.random(shape) < 0.5
    if dtype in INTEGERS:
        info = np.iinfo(kind)
        wide = rng.integers(info.min, info.max, count, dtype=kind, endpoint=True)
        edges = np.array([info.min, info.max, 0, 1, 7]).astype(kind)
    else:
        wide = (rng.standard_normal(count) * 4).astype(kind)
        edges = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0]).astype(np.float32).astype(kind)
    if special:
        at = rng.random(count) < 0.2
        wide[at] = rng.choice(edges, at.sum())
    return wide.reshape(shape)


def tensor(array):
    """A tensor of its own with these numbers."""
    dtype = next(name for name, kind in NUMPY.items() if array.dtype == kind)
    raw = np.ascontiguousarray(array).view(f"u{array.itemsize}").view(f"i{array.itemsize}").copy()
    return torch.from_numpy(raw.reshape(-1)).view(TORCH[dtype]) if array.size else torch.empty(0, dtype=TORCH[dtype])


def output(dtype, count):
    return torch.full((count * torch.empty(0, dtype=TORCH[dtype]).element_size(),), SENTINEL, dtype=torch.uint8).view(
        TORCH[dtype])  # fmt: skip


def array(tensor):
    """What a tensor holds."""
    dtype = next(name for name, kind in TORCH.items() if tensor.dtype == kind)
    return tensor.view(torch.uint8).numpy().view(NUMPY[dtype])


def assert_equal(found, wanted, zeros_differ=False):
    """Equal, NaNs too; within nothing."""
    found, wanted = np.asarray(found).reshape(-1), np.asarray(wanted).reshape(-1)
    assert found.dtype == wanted.dtype and found.shape == wanted.shape, f"{found.dtype} {found.shape} {wanted.dtype}"
    same = found == wanted
    if found.dtype.kind not in "iub":
        same |= (found != found) & (wanted != wanted)
        if zeros_differ:
            same &= np.signbit(found) == np.signbit(wanted)
    assert same.all(), f"{found[~same][:8]} is not {wanted[~same][:8]}, in {np.nonzero(~same)[0][:8]}"


def assert_close(found, wanted, eps, scale=None):
    """Within `eps` of `scale`, which is each number's own size unless given."""
    found, wanted = np.asarray(found).reshape(-1).astype(np.float64), np.asarray(wanted).reshape(-1).astype(np.float64)
    same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
    near = np.abs(found - wanted) <= eps * (np.abs(wanted) if scale is None else scale)
    assert (same | near).all(), f"{found[~(same | near)][:8]} is not {wanted[~(same | near)][:8]}"


def split(found, n, wanted):
    """The first n numbers are the wanted ones, those after them as they were."""
    assert (found[n:].view(torch.uint8) == SENTINEL).all(), "written outside of the mask"
    return array(found)[:n], np.asarray(wanted).reshape(-1)[:n]


def masks(count):
    """How many numbers a mask leaves: all, or some."""
    return (count, count * 5 // 8)


def cases(*lists, shapes=SHAPES):
    return [(*each, shape, n) for *each, shape in itertools.product(*lists, shapes) for n in masks(math.prod(shape))]


@triton.jit
def places(SHAPE: tl.constexpr):
    """The index of each element of a dense tensor."""
    if len(SHAPE) == 1:
        at = tl.arange(0, SHAPE[0])
    elif len(SHAPE) == 2:
        at = tl.arange(0, SHAPE[0])[:, None] * SHAPE[1] + tl.arange(0, SHAPE[1])[None, :]
    else:
        at = (tl.arange(0, SHAPE[0])[:, None, None] * SHAPE[1] + tl.arange(0, SHAPE[1])[None, :, None]) * SHAPE[
            2
        ] + tl.arange(0, SHAPE[2])[None, None, :]
    return at


# ---- elementwise -----------------------------------------------------------------------------------------------------


@triton.jit
def two(x, y, OP: tl.constexpr):
    if OP == "+":
        r = x + y
    elif OP == "-":
        r = x - y
    elif OP == "*":
        r = x * y
    elif OP == "/":
        r = x / y
    elif OP == "//":
        r = x // y
    elif OP == "%":
        r = x % y
    elif OP == "&":
        r = x & y
    elif OP == "|":
        r = x | y
    elif OP == "^":
        r = x ^ y
    elif OP == "<<":
        r = x << y
    elif OP == ">>":
        r = x >> y
    elif OP == "maximum":
        r = tl.maximum(x, y)
    elif OP == "minimum":
        r = tl.minimum(x, y)
    elif OP == "==":
        r = x == y
    elif OP == "!=":
        r = x != y
    elif OP == "<":
        r = x < y
    elif OP == "<=":
        r = x <= y
    elif OP == ">":
        r = x > y
    elif OP == ">=":
        r = x >= y
    elif OP == "where":
        r = tl.where(x > y, x, y)
    elif OP == "fdiv":
        r = tl.fdiv(x, y, ieee_rounding=True)
    elif OP == "div_rn":
        r = tl.div_rn(x, y)
    else:
        tl.static_assert(OP == "umulhi")
        r = tl.umulhi(x, y)
    return r


@triton.jit
def binary_kernel(x, y, out, n, SHAPE: tl.constexpr, OP: tl.constexpr):
    at = places(SHAPE)
    tl.store(out + at, two(tl.load(x + at, mask=at < n), tl.load(y + at, mask=at < n), OP), mask=at < n)


def exactly(function):
    """A function of Python's integers, on arrays of them."""
    return lambda x, y: np.array([function(int(a), int(b)) for a, b in zip(x.flat, y.flat, strict=True)], x.dtype)


def quotient(a, b):
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


ARITHMETIC = {"+": np.add, "-": np.subtract, "*": np.multiply, "maximum": np.fmax, "minimum": np.fmin,
              "where": lambda x, y: np.where(x > y, x, y)}  # fmt: skip
COMPARISONS = {"==": np.equal, "!=": np.not_equal, "<": np.less, "<=": np.less_equal, ">": np.greater,
               ">=": np.greater_equal}  # fmt: skip
OF_INTEGERS = {"//": exactly(quotient), "%": exactly(lambda a, b: a - b * quotient(a, b)), "&": np.bitwise_and, "|": np.bitwise_or, "^": np.bitwise_xor,
               "<<": np.left_shift, ">>": np.right_shift}  # fmt: skip


def binary(op, dtype, shape, n, reference, target):
    x, y = numbers(dtype, shape, 1), numbers(dtype, shape, 2)
    if op in ("//", "%", "/") and dtype in INTEGERS:
        y[y == 0] = 3
        if dtype in SIGNED:  # the quotient is no number of the type
            x[x == np.iinfo(x.dtype).min] += 1
    if op in ("<<", ">>"):
        y = (y % (8 * x.itemsize)).astype(x.dtype)
    found = output(target, x.size)
    binary_kernel[(1,)](tensor(x), tensor(y), found, n, SHAPE=shape, OP=op)
    return split(found, n, reference(x, y).astype(NUMPY[target]))


@pytest.mark.parametrize(("op", "dtype", "shape", "n"), cases(ARITHMETIC, (*FLOATS, *INTEGERS)))
def test_arithmetic(op, dtype, shape, n):
    assert_equal(*binary(op, dtype, shape, n, ARITHMETIC[op], dtype))


@pytest.mark.parametrize(("op", "dtype", "shape", "n"), cases(COMPARISONS, (*FLOATS, *INTEGERS), shapes=SHAPES[1:2]))
def test_comparisons(op, dtype, shape, n):
    assert_equal(*binary(op, dtype, shape, n, COMPARISONS[op], "int8"))


@pytest.mark.parametrize(("op", "dtype", "shape", "n"), cases(OF_INTEGERS, INTEGERS, shapes=SHAPES[:2]))
def test_operations_of_integers(op, dtype, shape, n):
    assert_equal(*binary(op, dtype, shape, n, OF_INTEGERS[op], dtype))


@pytest.mark.parametrize(("op", "dtype", "shape", "n"), cases(("umulhi",), UNSIGNED[2:]))
def test_the_high_half_of_a_product(op, dtype, shape, n):
    bits = int(dtype[4:])
    assert_equal(*binary(op, dtype, shape, n, exactly(lambda a, b: (a * b) >> bits), dtype))


@pytest.mark.parametrize(("op", "dtype", "shape", "n"), cases(("/", "%"), FLOATS, shapes=SHAPES[:2]))
def test_division(op, dtype, shape, n):
    """Halves are divided as f32."""
    target = "fp64" if dtype == "fp64" else "fp32"
    reference = {"/": np.divide, "%": np.fmod}[op]
    found, wanted = binary(op, dtype, shape, n, lambda x, y: reference(*(v.astype(NUMPY[target]) for v in (x, y))), target)
    assert_equal(found, wanted)


@pytest.mark.parametrize(("op", "dtype", "shape", "n"), cases(("fdiv", "div_rn"), ("fp32",)))
def test_division_rounded_to_nearest(op, dtype, shape, n):
    assert_equal(*binary(op, dtype, shape, n, np.divide, dtype))


@triton.jit
def one(x, OP: tl.constexpr):
    if OP == "neg":
        r = -x
    elif OP == "not":
        r = ~x
    elif OP == "abs":
        r = tl.abs(x)
    elif OP == "ceil":
        r = tl.ceil(x)
    elif OP == "floor":
        r = tl.floor(x)
    elif OP == "sqrt":
        r = tl.sqrt(x)
    elif OP == "sqrt_rn":
        r = tl.sqrt_rn(x)
    elif OP == "rsqrt":
        r = tl.rsqrt(x)
    elif OP == "exp":
        r = tl.exp(x)
    elif OP == "exp2":
        r = tl.exp2(x)
    elif OP == "log":
        r = tl.log(x)
    elif OP == "log2":
        r = tl.log2(x)
    elif OP == "sin":
        r = tl.sin(x)
    elif OP == "cos":
        r = tl.cos(x)
    elif OP == "erf":
        r = tl.erf(x)
    elif OP == "sigmoid":
        r = tl.sigmoid(x)
    elif OP == "clamp":
        r = tl.clamp(x, -1.0, 1.5)
    elif OP == "fma":
        r = tl.fma(x, x, x)
    else:
        tl.static_assert(OP == "softmax")
        r = tl.softmax(x, dim=0)
    return r


@triton.jit
def unary_kernel(x, out, n, SHAPE: tl.constexpr, OP: tl.constexpr):
    at = places(SHAPE)
    tl.store(out + at, one(tl.load(x + at, mask=at < n, other=0), OP), mask=at < n)


def unary(op, dtype, shape, n, reference, special=True):
    x = numbers(dtype, shape, 3, special)
    found = output(dtype, x.size)
    unary_kernel[(1,)](tensor(x), found, n, SHAPE=shape, OP=op)
    return split(found, n, reference(x).astype(NUMPY[dtype]))


@pytest.mark.parametrize(("op", "dtype", "shape", "n"), cases(("neg", "abs"), (*FLOATS, *SIGNED)))
def test_signs(op, dtype, shape, n):
    assert_equal(*unary(op, dtype, shape, n, {"neg": np.negative, "abs": np.abs}[op]), zeros_differ=op == "abs")


@pytest.mark.parametrize(("op", "dtype", "shape", "n"), cases(("not",), INTEGERS, shapes=SHAPES[:2]))
def test_inverted_bits(op, dtype, shape, n):
    assert_equal(*unary(op, dtype, shape, n, np.invert))


def _clamp(x):
    return np.fmin(np.fmax(x, x.dtype.type(-1)), x.dtype.type(1.5))


EXACT = {"ceil": np.ceil, "floor": np.floor, "sqrt": np.sqrt, "sqrt_rn": np.sqrt, "clamp": _clamp}


@pytest.mark.parametrize(("op", "dtype", "shape", "n"), [
    case for case in cases(EXACT, FLOATS, shapes=SHAPES[:2])
    if case[1] in {"sqrt_rn": ("fp32",), "clamp": FLOATS}.get(case[0], ("fp32", "fp64"))
])  # fmt: skip
def test_exact_functions(op, dtype, shape, n):
    found, wanted = unary(op, dtype, shape, n, EXACT[op])
    assert_equal(found, wanted, zeros_differ=op in ("ceil", "floor"))


FUNCTIONS = {
    "rsqrt": lambda x: 1 / np.sqrt(x), "exp": np.exp, "exp2": np.exp2, "log": np.log, "log2": np.log2, "sin": np.sin,
    "cos": np.cos, "erf": np.vectorize(math.erf, otypes=[np.float64]), "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}  # fmt: skip


@pytest.mark.parametrize(("op", "dtype", "shape", "n"), cases(FUNCTIONS, ("fp32", "fp64")))
def test_functions(op, dtype, shape, n):
    """Within two units in the last place; sigmoid makes three roundings."""
    found, wanted = unary(op, dtype, shape, n, lambda x: FUNCTIONS[op](x.astype(np.float64)))
    assert_close(found, wanted, (8 if op == "sigmoid" else 4) * EPSILON[dtype])


@pytest.mark.parametrize(("dtype", "shape", "n"), cases(("fp32", "fp64"), shapes=SHAPES[:2]))
def test_fused_multiply_add(dtype, shape, n):
    found, wanted = unary("fma", dtype, shape, n, lambda x: x.astype(np.longdouble) * x + x, special=False)
    assert_close(found, wanted, EPSILON[dtype])


@pytest.mark.parametrize(("dtype", "shape", "n"), cases(("fp32",), shapes=SHAPES[:2]))
def test_softmax(dtype, shape, n):
    x = numbers(dtype, shape, 3, special=False)
    x.reshape(-1)[n:] = 0  # what the mask leaves
    e = np.exp(x.astype(np.float64) - x.max(0))
    found = output(dtype, x.size)
    unary_kernel[(1,)](tensor(x), found, n, SHAPE=shape, OP="softmax")
    assert_close(*split(found, n, e / e.sum(0)), 64 * EPSILON[dtype])  # the exponents are rounded too


# ---- casts -----------------------------------------------------------------------------------------------------------


@triton.jit
def cast_kernel(x, out, n, SHAPE: tl.constexpr, BITS: tl.constexpr):
    at = places(SHAPE)
    y = tl.load(x + at, mask=at < n)
    if BITS:
        y = y.to(out.dtype.element_ty, bitcast=True)
    tl.store(out + at, y.to(out.dtype.element_ty), mask=at < n)


def converted(x, target):
    """As a GPU converts: integers wrap or saturate, what is no number of the target is left out by the caller."""
    kind = NUMPY[target]
    if target == "int1":
        return x != 0
    if target in INTEGERS and x.dtype.kind not in "iub":
        return np.trunc(x.astype(np.float64)).astype(np.int64 if target != "uint64" else np.uint64).astype(kind)
    if x.dtype.kind in "iub" and target not in INTEGERS:
        exact = x.astype(np.longdouble)
        return exact.astype(kind) if target in ("fp32", "fp64") else exact.astype(np.float32).astype(kind)
    if x.dtype == np.float64 and target in ("bf16", *F8):  # ml_dtypes round twice from f64
        return x.astype(np.float32).astype(kind)
    return x.astype(kind)


def fits(x, target):
    """Without numbers whose conversion is nobody's to say."""
    if target in INTEGERS and x.dtype.kind not in "iub":
        info = np.iinfo(NUMPY[target])
        wide = np.nan_to_num(x.astype(np.float64), nan=1, posinf=2, neginf=3)
        return np.clip(wide, max(info.min, -(2**31)), min(info.max, 2**31 - 1)).astype(x.dtype)
    if target in F8:
        return np.clip(np.nan_to_num(x.astype(np.float32), nan=1, posinf=2, neginf=3), -200, 200).astype(x.dtype)
    return x


@pytest.mark.parametrize(("source", "target", "shape", "n"), cases(
    (*FLOATS, *INTEGERS, "int1"), (*FLOATS, *INTEGERS, "int1"), shapes=SHAPES[:1]))  # fmt: skip
def test_casts(source, target, shape, n):
    x = fits(numbers(source, shape, 4), target)
    found = output(target, x.size)
    cast_kernel[(1,)](tensor(x), found, n, SHAPE=shape, BITS=False)
    assert_equal(*split(found, n, converted(x, target)))


@pytest.mark.parametrize(("narrow", "wide", "shape", "n"), cases(F8, FLOATS, shapes=SHAPES[:2]))
def test_casts_of_f8(narrow, wide, shape, n):
    """Every code one way, numbers of all sizes the other."""
    codes = np.arange(256, dtype=np.uint8).view(NUMPY[narrow])[: math.prod(shape) * 4].reshape(-1)[:: 256 // 64][:64]
    codes = np.resize(codes, shape)
    found = output(wide, codes.size)
    cast_kernel[(1,)](tensor(codes), found, n, SHAPE=shape, BITS=False)
    assert_equal(*split(found, n, codes.astype(np.float32).astype(NUMPY[wide])))
    x = fits(numbers(wide, shape, 5), narrow)
    found = output(narrow, x.size)
    cast_kernel[(1,)](tensor(x), found, n, SHAPE=shape, BITS=False)
    assert_equal(*split(found, n, converted(x, narrow)))


@pytest.mark.parametrize(("source", "target", "shape", "n"), cases(
    ("fp32", "int32", "uint32"), ("fp32", "int32", "uint32"), shapes=SHAPES[:1]) + cases(
    ("fp16", "bf16", "int16", "uint16"), ("fp16", "bf16", "int16", "uint16"), shapes=SHAPES[:1]))  # fmt: skip
def test_bitcasts(source, target, shape, n):
    x = numbers(source, shape, 6)
    found = output(target, x.size)
    cast_kernel[(1,)](tensor(x), found, n, SHAPE=shape, BITS=True)
    found, wanted = split(found, n, x.view(NUMPY[target]))
    assert_equal(found, wanted)


# ---- reductions and scans --------------------------------------------------------------------------------------------


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
        s, r = tl.associative_scan((x, x), AXIS, line, reverse=BACK)
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
