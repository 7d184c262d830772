"""Elementwise operations of Triton's language on the CPU target: each x dtype x shape x mask, against numpy."""

# What stands for a type in a kernel's parameters is none to its callers.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

import math

import numpy as np
import pytest
import triton
import triton.language as tl

from tests.language import (
    EPSILON,
    F8,
    FLOATS,
    INTEGERS,
    NUMPY,
    SHAPES,
    SIGNED,
    UNSIGNED,
    assert_close,
    assert_equal,
    cases,
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
OF_INTEGERS = {
    "//": exactly(quotient), "%": exactly(lambda a, b: a - b * quotient(a, b)), "&": np.bitwise_and,
    "|": np.bitwise_or, "^": np.bitwise_xor, "<<": np.left_shift, ">>": np.right_shift,
}  # fmt: skip


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
    exact, kind = {"/": np.divide, "%": np.fmod}[op], NUMPY[target]
    assert_equal(*binary(op, dtype, shape, n, lambda x, y: exact(x.astype(kind), y.astype(kind)), target))


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
