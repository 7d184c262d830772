"""Pointwise arithmetic and functions: one value out of one value of each operand, operands broadcast."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from fusedsl import ir
from fusedsl.errors import BadArgument
from fusedsl.ir import Flag, MaybeNumber, Node, Number, ToDType, declare
from fusedsl.types import DType, Type, f64, i32, i64
from fusedsl.types import dtype as dtype_of

from .compare import clamp, eq, isfinite, isnan, maximum, minimum, where
from .convert import float_of, limits, narrow, torch_dtype, wide
from .helpers import by_kind, on_tensors
from .rules import common, floating, floats, integers, numeric, same

# ---- arithmetic ------------------------------------------------------------------------------------------------------


@declare(type=same, triton=by_kind("{0} + {1}", "{0} + {1}", bools="{0} | {1}"), operator="__add__")
def add(x: torch.Tensor, other: torch.Tensor):
    """x + other; of bools: or"""
    return torch.add(x, other)


@declare(type=numeric, triton="{0} - {1}", operator="__sub__")
def sub(x: torch.Tensor, other: torch.Tensor):
    """x - other"""
    return torch.sub(x, other)


@declare(type=same, triton=by_kind("{0} * {1}", "{0} * {1}", bools="{0} & {1}"), operator="__mul__")
def mul(x: torch.Tensor, other: torch.Tensor):
    """x * other; of bools: and"""
    return torch.mul(x, other)


@declare(type=floating, triton="{0} / {1}", operator="__truediv__")
def div(x: torch.Tensor, other: torch.Tensor):
    """x / other, a float"""
    return torch.div(x, other)


@declare(type=numeric, triton=by_kind(on_tensors("_floor_quotient({0}, {1})"), "_floor_divide({0}, {1})"),
         operator="__floordiv__", domain=((-40, 40), (1, 9)), jumps="values")  # fmt: skip
def floor_divide(x: torch.Tensor, other: torch.Tensor):
    """floor(x / other)"""
    return torch.floor_divide(x, other)


@declare(type=integers, triton="_trunc_divide({0}, {1})", domain=((-40, 40), (1, 9)))
def integer_quotient(x: torch.Tensor, other: torch.Tensor):
    """x / other without its fraction, of integers"""
    return torch.div(x, other, rounding_mode="trunc")


def _trunc_divide(x: Node, other: Node) -> Node:
    dt = common([x.type, other.type], "trunc_divide")
    if not dt.is_float:
        return integer_quotient(x, other)
    if x.type.weak or other.type.weak:  # by a number eager divides without rounding
        return narrow(trunc(div(wide(x, dt), wide(other, dt))), dt)
    return trunc(div(x, other))


@declare(expand=_trunc_divide, domain=((-40, 40), (1, 9)))
def trunc_divide(x: torch.Tensor, other: torch.Tensor):
    """trunc(x / other): torch's div with rounding_mode="trunc" """
    return torch.div(x, other, rounding_mode="trunc")


@declare(type=numeric, triton=by_kind(on_tensors("_float_remainder({0}, {1})"), "_floor_remainder({0}, {1})"),
         operator="__mod__", domain=((-40, 40), (1, 9)), jumps="all")  # fmt: skip
def remainder(x: torch.Tensor, other: torch.Tensor):
    """x - other * floor(x / other), with the sign of other"""
    return torch.remainder(x, other)


@declare(type=numeric, triton=by_kind(on_tensors("libdevice.fmod({0}, {1})"), "_trunc_remainder({0}, {1})"),
         domain=((-40, 40), (1, 9)), jumps="all")  # fmt: skip
def fmod(x: torch.Tensor, other: torch.Tensor):
    """x - other * trunc(x / other), with the sign of x"""
    return torch.fmod(x, other)


@declare(type=numeric, triton="-{0}", operator="__neg__", torch=("torch.negative", "Tensor.negative"))
def neg(x: torch.Tensor):
    """-x"""
    return torch.neg(x)


@declare(type=numeric, triton="tl.abs({0})", operator="__abs__", homogeneous=True,
         torch=("torch.absolute", "Tensor.absolute"))  # fmt: skip
def abs(x: torch.Tensor):
    """|x|"""
    return torch.abs(x)


def _sign_text(expr, x: str) -> str:
    if expr.dtype.is_bool:
        return x
    to = f"tl.{expr.dtype.language}"
    return f"({x} > 0).to({to}) - ({x} < 0).to({to})"


@declare(type=same, triton=_sign_text, torch=("torch.sgn", "Tensor.sgn"), jumps="values")
def sign(x: torch.Tensor):
    """-1, 0 or 1; 0 for NaN"""
    return torch.sign(x)


@declare(type=floating, triton="1.0 / {0}")
def reciprocal(x: torch.Tensor):
    """1 / x"""
    return torch.reciprocal(x)


@declare(expand=lambda x: mul(ir.cast(x, i64) if x.dtype.is_bool else x, x))
def square(x: torch.Tensor):
    """x * x"""
    return torch.square(x)


def _fused(x: Node, *operands: Node, formula: Callable[..., Node]) -> Node:
    """A formula of arithmetic, rounded once."""
    dt = common([x.type, *(o.type for o in operands)], "addcmul")
    return narrow(formula(*(wide(o, dt) for o in (x, *operands))), dt)


def _scaled(product: Callable[[Node, Node], Node]) -> Callable[..., Node]:
    def expand(x: Node, tensor1: Node, tensor2: Node, value: Node) -> Node:
        return _fused(x, tensor1, tensor2, formula=lambda x, a, b: x + ir.cast(value, x.dtype) * product(a, b))

    return expand


@declare(expand=_scaled(lambda a, b: a * b))
def addcmul(x: torch.Tensor, tensor1: torch.Tensor, tensor2: torch.Tensor, value: torch.Tensor = 1):  # type: ignore[assignment]
    """x + value * tensor1 * tensor2"""
    return torch.addcmul(x, tensor1, tensor2, value=value)  # type: ignore[arg-type]


@declare(expand=_scaled(lambda a, b: a / b), domain=((-4, 4), (-4, 4), (1, 4), (-4, 4)))
def addcdiv(x: torch.Tensor, tensor1: torch.Tensor, tensor2: torch.Tensor, value: torch.Tensor = 1):  # type: ignore[assignment]
    """x + value * tensor1 / tensor2"""
    return torch.addcdiv(x, tensor1, tensor2, value=value)  # type: ignore[arg-type]


def _lerp(x: Node, end: Node, weight: Node) -> Node:
    """From the nearer end, so that both ends are met exactly."""

    def formula(x: Node, end: Node, weight: Node) -> Node:
        return where(abs(weight) < 0.5, x + weight * (end - x), end - (end - x) * (1 - weight))

    return _fused(x, end, weight, formula=formula)


@declare(expand=_lerp)
def lerp(x: torch.Tensor, end: torch.Tensor, weight: torch.Tensor):
    """x + weight * (end - x)"""
    return torch.lerp(x, end, weight)


@declare(type=integers, triton="_gcd({0}, {1})", domain=(-40, 40))
def gcd(x: torch.Tensor, other: torch.Tensor):
    """The greatest number that divides x and other, 0 for 0 and 0"""
    return torch.gcd(x, other)


def _lcm(x: Node, other: Node) -> Node:
    """In i32 at least, as C computes what torch does."""
    dt = common([x.type, other.type], "lcm")
    in_c = i32 if dt.is_integer and dt.bits < 32 else dt
    x, other = (ir.cast(ir.cast(a, dt), in_c) for a in (x, other))
    shared = gcd(x, other)
    return ir.cast(abs(trunc_divide(x, where(eq(shared, 0), 1, shared)) * other), dt)


@declare(expand=_lcm, domain=(-40, 40))
def lcm(x: torch.Tensor, other: torch.Tensor):
    """The least positive number that x and other divide, 0 if one is 0"""
    return torch.lcm(x, other)


# ---- powers and roots ------------------------------------------------------------------------------------------------


@declare(type=floating, triton="tl.sqrt({0})", domain=(0, 4))
def sqrt(x: torch.Tensor):
    """sqrt(x)"""
    return torch.sqrt(x)


@declare(type=floating, triton="tl.rsqrt({0})", domain=(0.1, 4))
def rsqrt(x: torch.Tensor):
    """1 / sqrt(x)"""
    return torch.rsqrt(x)


@declare(type=numeric, triton=by_kind(on_tensors("libdevice.pow({0}, {1})"), "_integer_power({0}, {1})"),
         domain=((0.1, 4), (-4, 4)))  # fmt: skip
def power(x: torch.Tensor, exponent: torch.Tensor):
    """x ** exponent, for exponents that are data"""
    return torch.pow(x, exponent)


# The exponents that have a formula of their own, as in torch.
_POWERS = {
    0.5: lambda x: sqrt(x),
    1: lambda x: x,
    2: lambda x: x * x,
    3: lambda x: x * x * x,
    4: lambda x: square(x * x),
    -0.5: lambda x: rsqrt(x),
    -1: lambda x: reciprocal(x),
    -2: lambda x: reciprocal(x * x),
}


def _pow(x: Node, exponent: Node) -> Node:
    dt = common([x.type, exponent.type], "pow")
    if x.op.name == "const" and x["value"] == 2 and dt.is_float and not exponent.type.weak:
        return narrow(exp2(wide(exponent, dt)), dt)
    if exponent.op.name != "const":
        return power(x, exponent)
    n = exponent["value"]
    if dt.is_integer and not exponent.type.weak:
        n = ir.constant(n, Type(dt))["value"]  # of i64 beside bytes, the byte
    if dt.is_integer and n < 0:
        raise BadArgument(op="pow", name="exponent", rule="at least 0 on integers", got=n, hint="Use x.float() ** n.")
    if n in _POWERS:
        return narrow(_POWERS[n](wide(x, dt)), dt)
    return _by_squaring(ir.cast(x, dt), n) if dt.is_integer else power(x, exponent)


def _by_squaring(x: Node, n: int) -> Node:
    """x ** n on integers, n >= 0"""
    if n == 0:
        return ir.cast(eq(x, x), x.dtype)
    if n == 1:
        return x
    half = _by_squaring(x, n // 2)
    return half * half * x if n % 2 else half * half


@declare(expand=_pow, operator="__pow__", domain=((0.1, 4), (-4, 4)))
def pow(x: torch.Tensor, exponent: torch.Tensor):
    """x ** exponent"""
    return torch.pow(x, exponent)


@declare(expand=lambda x, exponent: pow(ir.cast(x, f64), ir.cast(exponent, f64)), domain=((0.1, 4), (-4, 4)))
def float_power(x: torch.Tensor, exponent: torch.Tensor):
    """x ** exponent in f64"""
    return torch.float_power(x, exponent)


@declare(type=floating, triton=on_tensors("libdevice.hypot({0}, {1})"))
def hypot(x: torch.Tensor, other: torch.Tensor):
    """sqrt(x^2 + other^2), without overflow on the way"""
    return torch.hypot(x, other)


# ---- exponentials and logarithms -------------------------------------------------------------------------------------


@declare(type=floating, triton="tl.exp({0})")
def exp(x: torch.Tensor):
    """e^x"""
    return torch.exp(x)


@declare(type=floating, triton="tl.exp2({0})")
def exp2(x: torch.Tensor):
    """2^x"""
    return torch.exp2(x)


@declare(type=floating, triton="libdevice.expm1({0})")
def expm1(x: torch.Tensor):
    """e^x - 1, exact near 0"""
    return torch.expm1(x)


@declare(type=floating, triton="tl.log({0})", domain=(0.01, 4))
def log(x: torch.Tensor):
    """ln x"""
    return torch.log(x)


@declare(type=floating, triton="tl.log2({0})", domain=(0.01, 4))
def log2(x: torch.Tensor):
    """log2 x"""
    return torch.log2(x)


@declare(type=floating, triton="libdevice.log10({0})", domain=(0.01, 4))
def log10(x: torch.Tensor):
    """log10 x"""
    return torch.log10(x)


@declare(type=floating, triton="libdevice.log1p({0})", domain=(-0.9, 4))
def log1p(x: torch.Tensor):
    """ln(1 + x), exact near 0"""
    return torch.log1p(x)


def _logaddexp(rest: Callable[[Node], Node]) -> Callable[..., Node]:
    def formula(x: Node, other: Node) -> Node:
        gap = where(eq(x, other), 0.0, abs(x - other))  # inf - inf
        return maximum(x, other) + rest(-gap)

    return lambda x, other: _fused(x, other, formula=formula)


@declare(expand=_logaddexp(lambda gap: log1p(exp(gap))))
def logaddexp(x: torch.Tensor, other: torch.Tensor):
    """ln(e^x + e^other), without overflow"""
    return torch.logaddexp(x, other)


@declare(expand=_logaddexp(lambda gap: log1p(exp2(gap)) * (1 / math.log(2))))
def logaddexp2(x: torch.Tensor, other: torch.Tensor):
    """log2(2^x + 2^other), without overflow"""
    return torch.logaddexp2(x, other)


@declare(type=floating, domain=((-4, 4), (0, 4)),
         triton=on_tensors("tl.where(({0} == 0) & ({1} == {1}), 0.0, {0} * tl.log({1}))"))  # fmt: skip
def xlogy(x: torch.Tensor, other: torch.Tensor):
    """x ln(other), 0 where x is 0"""
    return torch.xlogy(x, other)


@declare(type=floating, domain=((-4, 4), (-0.9, 4)),
         triton=on_tensors("tl.where(({0} == 0) & ({1} == {1}), 0.0, {0} * libdevice.log1p({1}))"))  # fmt: skip
def xlog1py(x: torch.Tensor, other: torch.Tensor):
    """x ln(1 + other), 0 where x is 0"""
    return torch.special.xlog1py(x, other)


@declare(type=floating, triton="1.0 / (1.0 + tl.exp(-{0}))", torch=("torch.special.expit",), domain=(-20, 20))
def sigmoid(x: torch.Tensor):
    """1 / (1 + e^-x)"""
    return torch.sigmoid(x)


def _logit(x: Node, eps: float | None) -> Node:
    dt = float_of(x)
    z = wide(x, dt)
    if eps is not None:
        z = clamp(z, eps, 1 - eps)
    return narrow(log(z / (1 - z)), dt)


@declare(expand=_logit, domain=(0.01, 0.99))
def logit(x: torch.Tensor, eps: MaybeNumber = None):
    """ln(x / (1 - x)), with x brought into [eps, 1 - eps] first"""
    return torch.logit(x, eps)


# ---- rounding --------------------------------------------------------------------------------------------------------


@declare(type=numeric, triton=by_kind("tl.floor({0})", "{0}"), jumps="values")
def floor(x: torch.Tensor):
    """The greatest integer that is at most x."""
    return torch.floor(x)


@declare(type=numeric, triton=by_kind("tl.ceil({0})", "{0}"), jumps="values")
def ceil(x: torch.Tensor):
    """The least integer that is at least x."""
    return torch.ceil(x)


@declare(type=numeric, triton=by_kind("libdevice.rint({0})", "{0}"), jumps="values")
def round(x: torch.Tensor):
    """The nearest integer, the even one of two."""
    return torch.round(x)


@declare(type=numeric, triton=by_kind("libdevice.trunc({0})", "{0}"), torch=("torch.fix", "Tensor.fix"), jumps="values")
def trunc(x: torch.Tensor):
    """x without its fraction"""
    return torch.trunc(x)


@declare(type=floats, triton="{0} - libdevice.trunc({0})", jumps="values")
def frac(x: torch.Tensor):
    """x - trunc(x)"""
    return torch.frac(x)


# ---- signs -----------------------------------------------------------------------------------------------------------


@declare(type=floating, triton=on_tensors("libdevice.copysign({0}, {1})"))
def copysign(x: torch.Tensor, other: torch.Tensor):
    """|x| with the sign of other"""
    return torch.copysign(x, other)


# ---- repairs and bounds ----------------------------------------------------------------------------------------------


def _nan_to_num(x: Node, nan: float | None, posinf: float | None, neginf: float | None) -> Node:
    if not x.dtype.is_float:
        return x
    low, high = limits(x.dtype)
    known = where(isnan(x), ir.cast(ir.as_node(nan or 0.0), x.dtype), x)
    known = where(eq(x, math.inf), ir.cast(ir.as_node(high if posinf is None else posinf), x.dtype), known)
    return where(eq(x, -math.inf), ir.cast(ir.as_node(low if neginf is None else neginf), x.dtype), known)


@declare(expand=_nan_to_num)
def nan_to_num(x: torch.Tensor, nan: MaybeNumber = None, posinf: MaybeNumber = None, neginf: MaybeNumber = None):
    """x with NaN (by default 0), inf and -inf (by default the greatest and least finite value) replaced"""
    return torch.nan_to_num(x, nan, posinf, neginf)


def _isclose(x: Node, other: Node, rtol: float, atol: float, equal_nan: bool) -> Node:
    """An infinite difference is close to nothing."""
    close = eq(x, other)
    if equal_nan:
        close = close | (isnan(x) & isnan(other))
    if rtol == 0 and atol == 0:
        return close
    dt = float_of(x, other)
    gap = abs(ir.cast(x, dt) - ir.cast(other, dt))
    return close | (isfinite(gap) & (gap <= abs(ir.cast(other, dt) * rtol) + atol))


@declare(expand=_isclose)
def isclose(x: torch.Tensor, other: torch.Tensor, rtol: Number = 1e-5, atol: Number = 1e-8, equal_nan: Flag = False):
    """Whether x == other or |x - other| <= atol + rtol |other|"""
    return torch.isclose(x, other, rtol, atol, equal_nan)


def _saturate(x: Node, dtype: DType) -> Node:
    low, high = limits(dtype)
    if dtype.is_bool:
        return ir.cast(x, dtype)
    if dtype.is_float:
        return ir.cast(clamp(wide(x, x.dtype), low, high), dtype)
    if not x.dtype.is_float:
        least, most = limits(x.dtype)
        bounded = maximum(x, low) if least < low else x
        return ir.cast(minimum(bounded, high) if most > high else bounded, dtype)
    # high may be no float, but high + 1 is a power of two
    whole = round(wide(x, x.dtype))
    inside = ir.cast(where((whole < float(high + 1)) & (whole > float(low)), whole, float(low)), dtype)
    bounded = where(whole >= float(high + 1), ir.constant(high, Type(dtype)), inside)
    return where(isnan(x), ir.constant(0, Type(dtype)), bounded)


@declare(expand=_saturate, domain=(-400, 400))
def saturate(x: torch.Tensor, dtype: ToDType):
    """x brought into the finite range of dtype and converted; floats to integers round to even, NaN becomes 0"""
    to, (low, high) = torch_dtype(dtype), limits(dtype_of(dtype))
    if to is torch.bool:
        return x.to(to)
    if to.is_floating_point:
        return x.to(torch.promote_types(x.dtype, torch.float32)).clamp(low, high).to(to)
    if not x.is_floating_point():
        return x.to(torch.int64).clamp(max(low, -(2**63)), min(high, 2**63 - 1)).to(to)
    whole = torch.round(x).double().nan_to_num(0, math.inf, -math.inf)
    bounds = torch.tensor(low).to(to), torch.tensor(high).to(to)
    return torch.where(whole >= high, bounds[1], torch.where(whole <= low, bounds[0], whole.to(to)))
