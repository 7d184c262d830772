"""Texts of ops in Triton, and the functions that they call by name. A kernel is printed with those that it uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from fusedsl.types import f64

Text = str | Callable[..., str]


def filled(text: Text, expr: Any, operands: Sequence[str]) -> str:
    """A text with its operands in place."""
    return text.format(*operands) if isinstance(text, str) else text(expr, *operands)


def by_kind(floats: Text, integers: Text, bools: Text | None = None) -> Callable[..., str]:
    """A Triton text by the kind of the first operand; that of integers stands for bools without one of their own."""

    def text(expr: Any, *operands: str) -> str:
        dt = expr.args[0].dtype
        form = floats if dt.is_float else integers if bools is None or not dt.is_bool else bools
        return filled(form, expr, operands)

    return text


def on_tensors(form: str) -> Callable[..., str]:
    """A Triton text that calls functions for which a literal is an f32: beside f64 it is made a tensor."""

    def text(expr: Any, *operands: str) -> str:
        typed = [
            f"tl.full([], {o}, tl.float64)" if a.kind == "const" and a.dtype is f64 and "tl.full" not in o else o
            for a, o in zip(expr.args, operands, strict=True)
        ]
        return form.format(*typed)

    return text


# What torch makes of an e4m3 beyond 448 depends on its version: 448 or NaN.
E4M3_SATURATES = bool(torch.tensor(1000.0).to(torch.float8_e4m3fn).float() == 448)


def to_e4m3(saturates: bool) -> str:
    """The bits of an e4m3. sm_80 cannot convert to it: there NATIVE_F8, a constant of the module, is False, and integer
    arithmetic does it; elsewhere it is one instruction. Both round to nearest even, and to 448 what is greater."""
    beyond = "" if saturates else '\n    x = tl.where(tl.abs(x) <= 464.0, x, float("nan"))  # 464 rounds to 448'
    return f'''
@triton.jit
def _to_e4m3(x):{beyond}
    if not NATIVE_F8:
        size = tl.abs(x)
        tiny = (size + 16384.0).to(tl.int32, bitcast=True) - 0x46800000  # 16384 has a last place of 2^-9
        bits = size.to(tl.int32, bitcast=True)
        code = tl.where(size < 0.015625, tiny, ((bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20) - 960)
        code = tl.where(size > 448.0, 0x7E, code)
        code = tl.where(x == x, code, 0x7F)
        return (code | ((x.to(tl.int32, bitcast=True) >> 24) & 0x80)).to(tl.uint8)
    else:
        return x.to(tl.float8e4nv).to(tl.uint8, bitcast=True)
'''


def dot_of_f8(name: str, language: str) -> str:
    """A product of floats of 8 bits, given as bits: by an instruction of its own where F8_PRODUCTS, a constant of the
    module, says that there is one, else of what holds them, F8_WIDENED. A Hopper adds up few digits: after 128 products
    it starts anew."""
    return f'''
@triton.jit
def _dot_{name}(a, b, before):
    if F8_PRODUCTS:
        a = a.to(tl.{language}, bitcast=True)
        b = b.to(tl.{language}, bitcast=True)
        rounds: tl.constexpr = min(128, a.shape[1])
        return tl.dot(a, b, before, input_precision="ieee", max_num_imprecise_acc=rounds)
    else:
        a = _from_{name}(a).to(F8_WIDENED)
        b = _from_{name}(b).to(F8_WIDENED)
        return tl.dot(a, b, before, input_precision="ieee")
'''


HELPERS: dict[str, str] = {
    "_maximum": '''
@triton.jit
def _maximum(a, b):
    """The greater, NaN if either is."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)
''',
    "_minimum": '''
@triton.jit
def _minimum(a, b):
    """The smaller, NaN if either is."""
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)
''',
    "_sum": '''
@triton.jit
def _sum(a, b):
    return a + b
''',
    "_product": '''
@triton.jit
def _product(a, b):
    return a * b
''',
    "_log_sum": '''
@triton.jit
def _log_sum(a, b):
    """ln(e^a + e^b), without overflow."""
    top = _maximum(a, b)
    gap = tl.where(a == b, 0.0, tl.abs(a - b))  # inf - inf
    return top + libdevice.log1p(tl.exp(-gap))
''',
    "_polynomial": '''
@triton.jit
def _polynomial(x, coefficients):
    """coefficients[0] x^n + ... + coefficients[n]"""
    result = x * coefficients[0] + coefficients[1]
    for i in tl.static_range(2, len(coefficients)):
        result = result * x + coefficients[i]
    return result
''',
    "_chebyshev_sum": '''
@triton.jit
def _chebyshev_sum(x, coefficients):
    """The sum of coefficients[n - k] T_k(x / 2), the last of them halved, by Clenshaw's recurrence."""
    after, result = x - x + coefficients[0], x * coefficients[0] + coefficients[1]
    before = after
    for i in tl.static_range(2, len(coefficients)):
        before, after, result = after, result, x * result - after + coefficients[i]
    return 0.5 * (result - before)
''',
    # Integer division by zero may trap, and lanes beyond a tail hold zeros: there, divide by 1. A sum with a ^ a, which
    # is 0, makes a tensor of a literal here and below.
    "_divisor": '''
@triton.jit
def _divisor(a, b):
    b = b + (a ^ a)
    return tl.where(b == 0, 1, b)
''',
    "_trunc_divide": '''
@triton.jit
def _trunc_divide(a, b):
    """a / b rounded to zero, on integers."""
    return a // _divisor(a, b)
''',
    "_trunc_remainder": '''
@triton.jit
def _trunc_remainder(a, b):
    """a - b * trunc(a / b), with the sign of a, on integers."""
    return a % _divisor(a, b)
''',
    "_floor_divide": '''
@triton.jit
def _floor_divide(a, b):
    """a / b rounded down, on integers."""
    b = _divisor(a, b)
    quotient = a // b
    rest = a % b
    return tl.where((rest != 0) & ((rest < 0) != (b < 0)), quotient - 1, quotient)
''',
    "_floor_remainder": '''
@triton.jit
def _floor_remainder(a, b):
    """a - b * floor(a / b), with the sign of b, on integers."""
    b = _divisor(a, b)
    rest = a % b
    return tl.where((rest != 0) & ((rest < 0) != (b < 0)), rest + b, rest)
''',
    "_gcd": '''
@triton.jit
def _gcd(a, b):
    """The greatest common divisor, by Euclid's steps: the golden ratio bounds how many there are."""
    a, b = tl.abs(a + (b ^ b)), tl.abs(b + (a ^ a))
    for _ in range(3 * a.dtype.primitive_bitwidth // 2):
        a, b = _trunc_remainder(b, a), tl.where(a == 0, b, a)
    return b
''',
    "_floor_quotient": '''
@triton.jit
def _floor_quotient(a, b):
    """a / b rounded down: from the exact remainder, so that the quotient's own rounding cannot lift it."""
    rest = libdevice.fmod(a, b)
    quotient = (a - rest) / b
    quotient = tl.where((rest != 0) & ((b < 0) != (rest < 0)), quotient - 1, quotient)
    whole = tl.floor(quotient)
    whole = tl.where(quotient - whole > 0.5, whole + 1, whole)
    whole = tl.where(quotient == 0, libdevice.copysign(quotient * 0, a / b), whole)
    return tl.where(b == 0, a / b, whole)
''',
    "_float_remainder": '''
@triton.jit
def _float_remainder(a, b):
    """a - b * floor(a / b), with the sign of b, on floats."""
    rest = libdevice.fmod(a, b)
    return tl.where((rest != 0) & ((b < 0) != (rest < 0)), rest + b, rest)
''',
    "_integer_power": '''
@triton.jit
def _integer_power(a, n):
    """a ** n on integers, by squaring; 1 / a ** -n rounded to zero where n < 0."""
    a, n = a + (n ^ n), n + (a ^ a)
    bits: tl.constexpr = a.dtype.primitive_bitwidth
    result = (a ^ a) + 1
    square = a
    rest = n
    for _ in tl.static_range(bits):
        result = tl.where((rest & 1) != 0, result * square, result)
        square = square * square
        rest = rest >> 1
    inverse = tl.where(a == 1, 1, tl.where(a + 1 == 0, 1 - 2 * (n & 1), n ^ n))
    return tl.where(n < 0, inverse, result)
''',
    "_shift_left": '''
@triton.jit
def _shift_left(a, n):
    """a << n, 0 where n does not lie in [0, bits)."""
    a, n = a + (n ^ n), n + (a ^ a)
    bits: tl.constexpr = a.dtype.primitive_bitwidth
    inside = (n >= 0) & (n < bits)
    return tl.where(inside, a << tl.where(inside, n, 0), 0)
''',
    "_shift_right": '''
@triton.jit
def _shift_right(a, n):
    """a >> n, arithmetic, with all bits shifted out where n does not lie in [0, bits)."""
    a, n = a + (n ^ n), n + (a ^ a)
    bits: tl.constexpr = a.dtype.primitive_bitwidth
    inside = (n >= 0) & (n < bits)
    return tl.where(inside, a >> tl.where(inside, n, 0), tl.where(a < 0, a | ~(a ^ a), a ^ a))
''',
    "_to_e4m3": to_e4m3(E4M3_SATURATES),
    "_from_e4m3": '''
@triton.jit
def _from_e4m3(bits):
    if not NATIVE_F8:
        size = ((bits.to(tl.uint16) & 0x7F) << 7).to(tl.float16, bitcast=True).to(tl.float32) * 256.0
        size = tl.where((bits & 0x7F) == 0x7F, float("nan"), size)
        return tl.where(bits >= 128, -size, size)
    else:
        return bits.to(tl.float8e4nv, bitcast=True).to(tl.float32)
''',
    # e5m2 as bits, the upper half of an f16. The instruction saturates, but torch goes on to inf.
    "_to_e5m2": '''
@triton.jit
def _to_e5m2(x):
    size = tl.abs(x)
    bits = size.to(tl.int32, bitcast=True)
    if NATIVE_F8:
        code = size.to(tl.float8e5).to(tl.uint8, bitcast=True).to(tl.int32)
    else:
        tiny = (size + 128.0).to(tl.int32, bitcast=True) - 0x43000000  # 128 has a last place of 2^-16
        code = tl.where(size < 0.00006103515625, tiny, ((bits + 0xFFFFF + ((bits >> 21) & 1)) >> 21) - 448)
    code = tl.where(size >= 61440.0, 0x7C, code)
    code = tl.where(x == x, code, 0x7F)
    return (code | ((x.to(tl.int32, bitcast=True) >> 24) & 0x80)).to(tl.uint8)
''',
    "_from_e5m2": '''
@triton.jit
def _from_e5m2(bits):
    return (bits.to(tl.uint16) << 8).to(tl.float16, bitcast=True).to(tl.float32)
''',
    **{f"_dot_{name}": dot_of_f8(name, language) for name, language in (("e4m3", "float8e4nv"), ("e5m2", "float8e5"))},
}

# What is taken to a power of e: the scale is positive, and the top stands for many elements.
POWER = '''
@triton.jit
def _power(x, scale, top):
    """e^(x scale - top)"""
    return tl.exp(x * scale - top)
'''
HELPERS["_power"] = POWER
HELPERS["_power_of_halves"] = POWER.replace("_power", "_power_of_halves")

# What those become on a GPU. Products of halves have few digits, and their maxima are no mask's -1e38: there the scale
# and log2(e) are one factor, and the top is rounded with it, by less than an ulp of it.
GPU_POWERS = {
    "_power": '''
@triton.jit
def _power(x, scale, top):
    """e^(x scale - top), to 0 below 1.2e-38."""
    return tl.exp2(tl.fma(x, scale, -top) * 1.4426950408889634)
''',
    "_power_of_halves": '''
@triton.jit
def _power_of_halves(x, scale, top):
    """e^(x scale - top), to 0 below 1.2e-38."""
    return tl.exp2(tl.fma(x, scale * 1.4426950408889634, top * -1.4426950408889634))
''',
}

# What tl.exp becomes on a GPU. Triton's own takes pains with results below 1.2e-38: on NVIDIA a comparison and a second
# multiplication for each element.
GPU_EXP = '''
@triton.jit
def _exp(x):
    """e^x, of f32 to 0 below 1.2e-38."""
    if x.dtype == tl.float32:
        return tl.exp2(x * 1.4426950408889634)
    else:
        return tl.exp(x)
'''
