"""The element of one rank in a row of any length, digit by digit.

What a float is, as an integer in the same order, has few digits. Each is found by counting the elements that are at
least as great as with each value that the digit may have: a pass over the row for two bits, with no more memory than
the counts. (W. Paul, J. Simon: Decision trees and random access machines. 1981: selection by radix.)
"""

from __future__ import annotations

import torch

from fusedsl import ir
from fusedsl.errors import DTypesDisagree
from fusedsl.index import Index
from fusedsl.ir import Choice, Dim, Flag, Node, Size, TypeRule, declare
from fusedsl.types import DType, Type, i32, i64
from fusedsl.types import dtype as dtype_of

from .compare import eq, ge, where
from .convert import torch_dtype
from .helpers import HELPERS
from .movement import along, unsqueeze
from .reduce import least, reduce_max, reduce_min, reduce_sum

BITS = 2  # of a digit

HELPERS["_ordered"] = '''
@triton.jit
def _ordered(x, number: tl.constexpr, whole: tl.constexpr, most: tl.constexpr):
    """The bits of a float as an integer in the same order: 0.0 and -0.0 are one, every NaN is the greatest."""
    bits = (x + 0.0).to(number).to(whole, bitcast=True)
    bits = tl.where(bits < 0, bits ^ most, bits)
    return tl.where(x == x, bits, most)
'''


def whole_of(dt: DType) -> DType:
    """The type of integers to compare instead of values of a dtype."""
    return i64 if dt.bits == 64 else i32


def _ordered_type(types, *, kind: str) -> Type:
    (t,), dtype = types, dtype_of(kind)
    if not dtype.is_float or dtype.bits < 16 or t.dtype not in (dtype, dtype.computed):
        raise DTypesDisagree(op="ordered", rule="the operand must be a float of 16 bits or more", got=str(t.dtype),
                             hint="Cast with .to(torch.float32).")  # fmt: skip
    return Type(whole_of(dtype), t.shape)


def _ordered_text(expr, x: str) -> str:
    dt, to = dtype_of(expr.attrs["kind"]), expr.dtype.language
    return f"_ordered({x}, tl.{dt.language}, tl.int{dt.bits}, {2 ** (dt.bits - 1) - 1}).to(tl.{to})"


@declare(type=TypeRule(_ordered_type), triton=_ordered_text)
def ordered(x: torch.Tensor, kind: Choice):
    """The bits of a float of a dtype, "f32" or "bf16", as an integer in the same order: a < b where ordered(a) <
    ordered(b); 0.0 and -0.0 are one, every NaN is the greatest"""
    whole = {16: torch.int16, 32: torch.int32, 64: torch.int64}
    to = torch_dtype(kind)
    bits = whole[to.itemsize * 8]
    most = torch.iinfo(bits).max
    found = (x.to(to) + 0.0).view(bits)
    found = torch.where(x.isnan(), most, torch.where(found < 0, found ^ most, found))
    return found.to(torch.int64 if bits is torch.int64 else torch.int32)


def _selected(x: Node, k: Index, dim: int, keepdim: bool) -> tuple[Node, Node]:
    dt = x.dtype
    key = ordered(x, dt.name) if dt.is_float else ir.cast(x, whole_of(dt))
    found = _kth(key, ir.as_node(x.shape[dim] - k + 1), dim, dt)
    here = eq(key, found)
    value = reduce_max(where(here, x, ir.constant(least(dt), Type(dt))), (dim,))
    value = value + 0.0 if dt.is_float else value  # of 0.0 and -0.0, which are one, the first
    place = reduce_min(where(here, along(x, dim), ir.as_node(x.shape[dim])), (dim,))
    return (unsqueeze(value, dim), unsqueeze(place, dim)) if keepdim else (value, place)


def _kth(key: Node, wanted: Node, dim: int, dt: DType) -> Node:
    """The greatest integer that as many keys are at least as great as, with dim kept as 1."""
    whole, bits = Type(key.dtype), key.dtype.bits

    def wrapped(value: int) -> Node:
        half = 1 << (bits - 1)
        return ir.constant((value + half) % (2 * half) - half, whole)

    lowest = 0 if dt.kind in "ub" else -(1 << (dt.bits - 1))
    found = wrapped(lowest)
    for shift in range((dt.bits - 1) // BITS * BITS, -1, -BITS):
        digit = None
        for value in range(1, 1 << min(BITS, dt.bits - shift)):
            count = reduce_sum(ir.cast(ge(key, found + wrapped(value << shift)), i32), (dim,))
            more = ir.cast(ge(unsqueeze(count, dim), wanted), key.dtype)
            digit = more if digit is None else digit + more
        found = found + digit * wrapped(1 << shift)
    return found


@declare(expand=_selected)
def selected(x: torch.Tensor, k: Size, dim: Dim = -1, keepdim: Flag = False):
    """The k-th least element along dim, counted from 1, NaN after every number, and the first place of such an element:
    kthvalue of a row of any length, which it reads once for every two bits of an element. 0.0 and -0.0 are 0.0"""
    value = torch.sort(x, dim=dim, stable=True).values.narrow(dim, k - 1, 1)
    here = (x == value) | (x.isnan() & value.isnan())
    place = here.int().argmax(dim, keepdim=True)
    value = x.gather(dim, place) + 0
    return (value, place) if keepdim else (value.squeeze(dim), place.squeeze(dim))
