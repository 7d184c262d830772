"""Values by their bits: as another dtype, a float's mantissa and exponent, and the float next to one."""

from __future__ import annotations

import torch

from fusedsl.errors import DTypesDisagree
from fusedsl.ir import Choice, Node, ToDType, TypeRule, cast, declare
from fusedsl.types import DType, Type, broadcast, f64, i32
from fusedsl.types import dtype as dtype_of

from .compare import clamp_max, clamp_min, right_shift
from .convert import float_of, narrow, torch_dtype, wide
from .elementwise import exp2
from .helpers import HELPERS, on_tensors
from .rules import common, floats

# ---- as another dtype ------------------------------------------------------------------------------------------------


def _reread_type(types, *, source: str, to: str) -> Type:
    (t,), given, wanted = types, dtype_of(source), dtype_of(to)
    if given.bytes != wanted.bytes or wanted.is_bool or t.dtype not in (given, given.computed):
        raise DTypesDisagree(op="reread", rule=f"bits of {source} must be read as a number of as many",
                             got=f"{t.dtype} and {to}", hint="Use .to(dtype).")  # fmt: skip
    return Type(wanted, t.shape)


def _reread_text(expr, x: str) -> str:
    """By way of an integer, because f8s travel as such."""
    source, to = dtype_of(expr.attrs["source"]), dtype_of(expr.attrs["to"])
    whole = f"tl.{'uint' if to.kind == 'u' else 'int'}{to.bits}"
    if source.bits < 16 and source.is_float:
        x = f"_to_{source.name[2:]}({x})"
    elif source.is_float:
        x = x if source is source.computed else f"{x}.to(tl.{source.language})"
    if source.is_bool:
        x = f"{x}.to({whole})"
    elif (source.kind, source.bits) != (to.kind, to.bits) or source.is_float:
        x = f"{x}.to({whole}, bitcast=True)"
    if not to.is_float:
        return x
    if to.bits < 16:
        return f"_from_{to.name[2:]}({x}.to(tl.uint8, bitcast=True))"
    return f"{x}.to(tl.{to.language}, bitcast=True).to(tl.{to.computed.language})"


@declare(type=TypeRule(_reread_type), triton=_reread_text, jumps="all")
def reread(x: torch.Tensor, source: Choice, to: Choice):
    """x's bits, as it is stored in the dtype `source`, "f32", read as another one of the same size, "i32": a view"""
    return x.to(torch_dtype(source)).view(torch_dtype(to))


# ---- mantissa and exponent -------------------------------------------------------------------------------------------

# Of a float: its bits, those of the mantissa, the exponent's bias less 1, and a power of two that leaves no denormals.
HELPERS["_float_parts"] = """
@triton.jit
def _float_parts(x):
    if x.dtype == tl.float64:
        small = tl.abs(x) < 2.2250738585072014e-308
        bits = tl.where(small, x * 18014398509481984.0, x).to(tl.int64, bitcast=True)
        return bits, tl.where(small, 1076, 1022), (bits >> 52) & 0x7FF, bits & -0x7FF0000000000001 | 0x3FE0000000000000
    else:
        small = tl.abs(x) < 1.1754943508222875e-38
        bits = tl.where(small, x * 16777216.0, x).to(tl.int32, bitcast=True)
        return bits, tl.where(small, 150, 126), (bits >> 23) & 0xFF, bits & -0x7F800001 | 0x3F000000
"""
HELPERS["_mantissa"] = """
@triton.jit
def _mantissa(x):
    _, _, _, mantissa = _float_parts(x)
    return tl.where((x == 0) | (x - x != 0), x, mantissa.to(x.dtype, bitcast=True))
"""
HELPERS["_exponent"] = """
@triton.jit
def _exponent(x):
    _, bias, exponent, _ = _float_parts(x)
    return tl.where((x == 0) | (x - x != 0), 0, exponent.to(tl.int32) - bias)
"""
HELPERS["_nextafter"] = """
@triton.jit
def _nextafter(a, b, number: tl.constexpr, whole: tl.constexpr):
    bits = a.to(number).to(whole, bitcast=True)
    least = (bits - bits + 1).to(number, bitcast=True).to(a.dtype)
    step = tl.where((a < b) == (a > 0), bits + 1, bits - 1).to(number, bitcast=True).to(a.dtype)
    step = tl.where(a == 0, tl.where(b < 0, -least, least), step)
    return tl.where((a != a) | (b != b), a + b, tl.where(a == b, b, step))
"""


@declare(type=floats, triton="_mantissa({0})")
def mantissa(x: torch.Tensor):
    """The m with x = m 2^e and 1/2 <= |m| < 1; x itself where it is 0, infinite or NaN"""
    return torch.frexp(x).mantissa


@declare(type=TypeRule(lambda types: Type(i32, types[0].shape), floats.operands), triton="_exponent({0})")
def exponent(x: torch.Tensor):
    """The e with x = m 2^e and 1/2 <= |m| < 1; 0 where x is 0, infinite or NaN"""
    return torch.frexp(x).exponent


@declare(expand=lambda x: (mantissa(x), exponent(x)))
def frexp(x: torch.Tensor):
    """mantissa(x) and exponent(x)"""
    return torch.frexp(x)


def _ldexp(x: Node, other: Node) -> Node:
    """By a whole other in four steps, which stay in range where the result does."""
    dt = float_of(x, other)
    z = wide(x, dt)
    if not other.dtype.is_integer:
        return narrow(z * exp2(wide(other, dt)), dt)
    most = 4000 if dt is f64 else 400  # beyond which everything is 0 or infinite
    n = cast(clamp_max(clamp_min(other, -most), most) if other.dtype.bits > 8 else other, i32)
    quarter = right_shift(n, 2)
    step = exp2(wide(quarter, dt))
    return narrow(z * step * step * step * exp2(wide(n - 3 * quarter, dt)), dt)


@declare(expand=_ldexp, domain=((-4, 4), (-9, 9)))
def ldexp(x: torch.Tensor, other: torch.Tensor):
    """x 2^other"""
    return torch.ldexp(x, other)


def _next_type(types, *, dtype: DType) -> Type:
    if dtype.bits == 8 or not dtype.is_float or any(t.dtype is not dtype.computed for t in types):
        raise DTypesDisagree(op="next_float", rule="operands must be computed as floats of 16 bits or more are",
                             got=str(dtype), hint="Cast with .to(torch.float32).")  # fmt: skip
    return Type(types[0].dtype, broadcast([t.shape for t in types], "next_float"))


def _next_text(expr, *operands: str) -> str:
    dt, same = expr.attrs["dtype"], on_tensors("_nextafter({0}, {1}")(expr, *operands)
    return f"{same}, tl.{dt.language}, tl.int{dt.bits})"


@declare(type=TypeRule(_next_type), triton=_next_text)
def next_float(x: torch.Tensor, other: torch.Tensor, dtype: ToDType):
    """The float of a dtype that is next to x on the way to other"""
    to = torch_dtype(dtype)
    found = torch.nextafter(x.to(to), other.to(to)).to(x.dtype)
    return torch.add(x, other).copy_(found)  # laid out as a function of these two is


def _nextafter(x: Node, other: Node) -> Node:
    dt = common([x.type, other.type], "nextafter")
    if not dt.is_float:
        raise DTypesDisagree(op="nextafter", rule="operands must be floats", got=str(dt), hint="Use x + 1 or x - 1.")
    return narrow(next_float(wide(x, dt), wide(other, dt), dt), dt)


@declare(expand=_nextafter)
def nextafter(x: torch.Tensor, other: torch.Tensor):
    """The float of x's dtype that is next to x on the way to other"""
    return torch.nextafter(x, other)
