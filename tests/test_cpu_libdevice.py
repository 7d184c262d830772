"""libdevice on the CPU target: every function of it, and how far from the true value the inexact ones may be."""

# What stands for a type in a kernel's parameters is none to its callers.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

import contextlib
import ctypes
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import triton
import triton.language as tl
from triton.language.extra.cuda import libdevice as functions

from fusedsl.codegen.cpu import libdevice
from fusedsl.codegen.cpu.build import Builder, Value
from tests.language import NUMPY, array, assert_equal, numbers, output, tensor

pytestmark = [
    pytest.mark.usefixtures("cpu_driver"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

HELD = {"fp64": "f64", "fp32": "f32", "fp16": "f16", "int1": "i1",
        **{f"{sign}int{bits}": f"i{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}}  # fmt: skip
N = 512


def symbols() -> list[tuple[str, tuple[str, ...], str]]:
    """Of the installed Triton: the symbol, the types of its operands, and of its result."""
    dtype = r'core\.dtype\("(\w+)"\)'
    entry = re.compile(rf'\(((?:{dtype},?\s*)+)\): \("(__nv_\w+)", {dtype}\)')
    found = entry.findall(inspect.getsource(functions))
    return [(each[2], tuple(re.findall(dtype, each[0])), each[3]) for each in found]


def test_every_symbol_has_a_counterpart():
    known = symbols()
    assert len(known) > 300
    for symbol, sources, target in known:
        for lanes in (8, None):
            values = [Value(f"%x{at}", HELD[source], lanes, 0) for at, source in enumerate(sources)]
            result = libdevice.apply(Builder(), symbol, HELD[target], *values)
            assert (result.el, result.lanes) == (HELD[target], lanes), symbol


@triton.jit
def kernel(x, y, z, out, F: tl.constexpr, COUNT: tl.constexpr, N: tl.constexpr):
    at = tl.arange(0, N)
    if COUNT == 1:
        r = F(tl.load(x + at))
    elif COUNT == 2:
        r = F(tl.load(x + at), tl.load(y + at))
    else:
        r = F(tl.load(x + at), tl.load(y + at), tl.load(z + at))
    tl.store(out + at, r)


def applied(name: str, target: str, *operands: np.ndarray) -> np.ndarray:
    found = output(target, N)
    given = [tensor(x) for x in (*operands, *operands[:1] * 2)][:3]
    kernel[(1,)](*given, found, F=getattr(functions, name), COUNT=len(operands), N=N)
    return array(found)


# ---- exact ones ------------------------------------------------------------------------------------------------------

MODES = {"rz": 0xC00, "rd": 0x400, "ru": 0x800}


@contextlib.contextmanager
def rounding(mode: str) -> Iterator[None]:
    """numpy rounds as the CPU is set to."""
    libm = ctypes.CDLL("libm.so.6")
    libm.fesetround(MODES[mode])
    try:
        yield
    finally:
        libm.fesetround(0)


OPERATIONS: dict[str, tuple[int, Callable[..., Any]]] = {
    "add": (2, np.add), "sub": (2, np.subtract), "mul": (2, np.multiply), "div": (2, np.divide), "sqrt": (1, np.sqrt),
    "rcp": (1, lambda x: np.divide(np.ones_like(x), x)),
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["fp32", "fp64"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_directed_rounding(name, dtype, mode):
    if not hasattr(functions, f"{name}_{mode}"):
        pytest.skip("this libdevice has no such function")
    count, reference = OPERATIONS[name]
    operands = [numbers(dtype, (N,), seed) for seed in range(count)]
    with rounding(mode):
        wanted = reference(*operands)
    found = applied(f"{name}_{mode}", dtype, *operands)
    assert_equal(found, wanted, zeros_differ=True)
    finite = np.isfinite(wanted)
    wide = reference(*(x.astype(np.longdouble) for x in operands))[finite]  # and not only as the CPU says
    assert (found[finite] <= wide).all() if mode == "rd" else (found[finite] >= wide).all() if mode == "ru" else (
        np.abs(found[finite]) <= np.abs(wide)).all()  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_directed_fused_multiply_add(mode):
    x, y, z = (numbers("fp32", (N,), seed, special=False) for seed in range(3))
    found = applied(f"fma_{mode}", "fp32", x, y, z)
    exact = x.astype(np.longdouble) * y + z
    near = exact.astype(np.float32)
    below, above = np.where(near > exact, np.nextafter(near, -np.inf), near), np.where(
        near < exact, np.nextafter(near, np.inf), near)  # fmt: skip
    wanted = {"rd": below, "ru": above, "rz": np.where(exact > 0, below, above)}[mode]
    assert_equal(found, wanted)


CONVERSIONS = [("double2float", "fp64", "fp32"), ("int2float", "int32", "fp32"), ("uint2float", "uint32", "fp32"),
               ("ll2float", "int64", "fp32"), ("ull2float", "uint64", "fp32"), ("ll2double", "int64", "fp64"),
               ("ull2double", "uint64", "fp64")]  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "source", "target"), CONVERSIONS)
def test_directed_conversions(name, source, target, mode):
    x = numbers(source, (N,), 1)
    found = applied(f"{name}_{mode}", target, x)
    exact = x.astype(np.longdouble)  # of 64 bits
    near = exact.astype(found.dtype)
    below = np.where(near > exact, np.nextafter(near, -np.inf), near)
    above = np.where(near < exact, np.nextafter(near, np.inf), near)
    wanted = {"rd": below, "ru": above, "rz": np.where(exact > 0, below, above)}[mode]
    assert_equal(found, wanted.astype(found.dtype), zeros_differ=True)


def signed(bits: int, x: Any) -> int:
    return (int(x) + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))


def _bytes(x: int, y: int, s: int) -> int:
    eight = (y % 2**32) << 32 | x % 2**32
    return signed(32, sum((eight >> (8 * (s >> (4 * at) & 7)) & 255) << (8 * at) for at in range(4)))


INTEGERS: dict[str, tuple[tuple[str, ...], str, Callable[..., int]]] = {
    "hadd": (("int32",) * 2, "int32", lambda x, y: (x + y) >> 1),
    "rhadd": (("int32",) * 2, "int32", lambda x, y: (x + y + 1) >> 1),
    "sad": (("int32", "int32", "uint32"), "int32", lambda x, y, z: signed(32, abs(x - y) + z)),
    "mul24": (("int32",) * 2, "int32", lambda x, y: signed(32, signed(24, x) * signed(24, y))),
    "byte_perm": (("int32",) * 3, "int32", _bytes),
}


@pytest.mark.parametrize("name", INTEGERS)
def test_integers(name):
    sources, target, reference = INTEGERS[name]
    operands = [numbers(source, (N,), seed) for seed, source in enumerate(sources)]
    wanted = [reference(*map(int, each)) for each in zip(*operands, strict=True)]
    assert_equal(applied(name, target, *operands), np.array(wanted, target))


def test_parts_of_numbers():
    x = numbers("fp64", (N,), 1)
    words = x.view(np.int32).reshape(-1, 2)
    assert_equal(applied("double2hiint", "int32", x), words[:, 1])
    assert_equal(applied("double2loint", "int32", x), words[:, 0])
    assert_equal(applied("hiloint2double", "fp64", words[:, 1].copy(), words[:, 0].copy()), x)
    assert_equal(applied("ldexp", "fp64", x, words[:, 1] % 1100), np.ldexp(x, words[:, 1] % 1100))
    for dtype in ("fp32", "fp64"):
        y = numbers(dtype, (N,), 2)
        exponent = np.where(np.isinf(y), 2**31 - 1, np.where((y == 0) | np.isnan(y), -(2**31), np.frexp(y)[1] - 1))
        assert_equal(applied("ilogb", "int32", y), exponent.astype(np.int32))


# ---- inexact ones ----------------------------------------------------------------------------------------------------

# The largest error in units of the last place, of f32 and of f64. Functions that are not here are the C library's own;
# its manual has their "Known Maximum Errors in Math Functions".
ULPS: dict[str, tuple[float, float]] = {
    "exp": (1.1, 2), "exp2": (1.0, 2), "log": (0.9, 2), "log2": (1.1, 2), "sin": (1.5, 1), "cos": (1.5, 1),
    "tanh": (1.35, 2), "expm1": (1.6, 2), "log1p": (1.4, 2), "rsqrt": (1.5, 1.5), "cbrt": (0.51, 4),
    **dict.fromkeys(("exp10", "log10", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh"),
                    (0.51, 2)),
}  # fmt: skip
FROM_F64 = (*(name for name, (most, _) in ULPS.items() if most == 0.51), "erfc", "lgamma", "tgamma", "j0", "j1", "y0",
            "y1", "rcbrt", "sinpi", "cospi", "normcdf", "erfinv", "erfcinv", "erfcx", "normcdfinv", "cyl_bessel_i0",
            "cyl_bessel_i1")  # fmt: skip
EXACTLY = {
    "exp10": lambda x: np.power(np.longdouble(10), x), "rsqrt": lambda x: 1 / np.sqrt(x), "asin": np.arcsin,
    "acos": np.arccos, "atan": np.arctan, "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh,
}  # fmt: skip


def ordinary(dtype):
    rng = np.random.default_rng(7)
    x = np.concatenate([rng.standard_normal(N // 2) * 3, rng.uniform(-1, 1, N // 2)])
    return x.astype(NUMPY[dtype])


@pytest.mark.parametrize("dtype", ["fp32", "fp64"])
@pytest.mark.parametrize("name", ULPS)
def test_accuracy(name, dtype):
    x = ordinary(dtype)
    found = applied(name, dtype, x)
    reference = EXACTLY.get(name) or getattr(np, name)
    exact = reference(x.astype(np.longdouble))
    near = exact.astype(found.dtype)
    with np.errstate(all="ignore"):
        error = np.abs(found.astype(np.longdouble) - exact) / np.spacing(np.abs(near)).astype(np.longdouble)
    error = np.where((np.isnan(found) & np.isnan(near)) | (found == near), 0, error)
    assert error.max() <= ULPS[name][dtype == "fp64"], f"{name}({x[error.argmax()]})"


@pytest.mark.parametrize("name", FROM_F64)
def test_functions_of_f32_are_those_of_f64_rounded(name):
    x = ordinary("fp32")
    assert_equal(applied(name, "fp32", x), applied(name, "fp64", x.astype(np.float64)).astype(np.float32))


@pytest.mark.parametrize("name", ["jn", "yn"])
def test_bessel_functions_of_any_order(name):
    """J(n - 1) + J(n + 1) = 2 n / x J(n), and the same for Y."""
    x = np.random.default_rng(1).uniform(0.5, 20, N)
    below, at, above = (applied(name, "fp64", np.full(N, n, np.int32), x) for n in (2, 3, 4))
    np.testing.assert_allclose(below + above, 6 / x * at, rtol=1e-9, atol=1e-10)
