"""Writing packed values: scales and zero points of groups, codes, and their bits in bytes, as what a chain ends with.

The formulas are those of `fusedsl.pack` (fusedsl/quantise.py), value for value.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import torch

from fusedsl import packing
from fusedsl.errors import BadArgument, DTypesDisagree
from fusedsl.formats import ELEMENTS, Element, Format, parse
from fusedsl.index import Index, cdiv
from fusedsl.ir import Choice, Node, Size, TypeRule, cast, constant, declare
from fusedsl.packed import pack
from fusedsl.quantise import group_count, group_size, reach, stored_dtype
from fusedsl.types import DType, Type, broadcast, dtype, f32, i32, u8

from .compare import bitwise_or, clamp_max, clamp_min, ge, gt, isnan, where
from .convert import narrow
from .elementwise import abs, add, mul, round
from .helpers import HELPERS
from .indexing import pad, stack
from .movement import reshape, squeeze
from .movement import slice as cut
from .packing import check_float, dequantised, e8m0
from .reduce import amax, amin, sum
from .rules import same

MOST_NUMBERS = 32  # of a table that values are compared with one by one

# ---- codes -----------------------------------------------------------------------------------------------------------


@declare(type=same, triton="{0}", jumps="all")
def as_stored(x: torch.Tensor):
    """x as its dtype holds it, also where a kernel knows more digits"""
    return x.clone()


def _code_type(types: Sequence[Type], *, element: str) -> Type:
    (t,) = types
    check_float(element, "small_code")
    if t.dtype is not f32:
        rule, hint = "the operand must be f32", "Cast with .to(torch.float32)."
        raise DTypesDisagree(op="small_code", rule=rule, got=str(t.dtype), hint=hint)
    return Type(u8, t.shape)


# The code of a magnitude: of f32's own bits with fewer digits, of denormals how often the least one goes into it.
HELPERS["_small_code"] = """
@triton.jit
def _small_code(x, most: tl.constexpr, normal: tl.constexpr, steps: tl.constexpr, digits: tl.constexpr,
                under: tl.constexpr, half: tl.constexpr):
    size = tl.minimum(tl.abs(x), most)
    bits = size.to(tl.int32, bitcast=True)
    code = ((bits + ((1 << (digits - 1)) - 1) + (((bits >> digits) - under) & 1)) >> digits) - under
    denormal = (size * steps + 12582912.0).to(tl.int32, bitcast=True) - 0x4B400000
    code = tl.where(size < normal, denormal, code)
    return code | ((x.to(tl.int32, bitcast=True) >> 31) & half)
"""


def _code_text(expr, x: str) -> str:
    element = ELEMENTS[expr.attrs["element"]]
    exponent, mantissa, half = element.exponent, element.mantissa, 1 << (element.bits - 1)
    least = 1 - element.bias if exponent else 0  # the exponent of the least normal number
    normal = math.ldexp(1.0, least) if exponent else math.inf
    steps, digits = math.ldexp(1.0, mantissa - least), 23 - mantissa
    under = (127 - element.bias) << mantissa
    bound = f'float("{normal}")' if math.isinf(normal) else repr(normal)
    code = f"_small_code({x}, {element.greatest!r}, {bound}, {steps!r}, {digits}, {under}, {half})"
    if element.specials == "fnuz":
        code = f"_no_negative_zero({code}, {half})"
    if element.infinity is not None:
        code = f"_or_infinity({x}, {code}, {element.infinity}, {half})"
    return f"tl.where({x} == {x}, {code}, {element.nan or 0}).to(tl.uint8)"


HELPERS["_no_negative_zero"] = """
@triton.jit
def _no_negative_zero(code, half: tl.constexpr):
    return tl.where(code == half, 0, code)
"""
HELPERS["_or_infinity"] = """
@triton.jit
def _or_infinity(x, code, infinity: tl.constexpr, half: tl.constexpr):
    return tl.where(tl.abs(x) == float("inf"), infinity | (code & half), code)
"""


@declare(type=TypeRule(_code_type), triton=_code_text, domain=(-9, 9))
def small_code(x: torch.Tensor, element: Choice = "e2m1"):
    """The codes of the small floats nearest to x: see docs/formats.md. Of NaN, where the format has none, that of 0"""
    known = ELEMENTS[element]
    return known.encode(x if known.nan is not None else x.nan_to_num(0.0, math.inf, -math.inf))


def encoded(x: Node, element: Element) -> Node:
    """The u8 codes of numbers in f32. Raises BadArgument for a long table."""
    if element.kind == "float":
        return small_code(x, element.name)
    if element.kind == "table":
        return cast(_place_in_table(x, element), u8)
    whole = round(x if element.factor == 1 else x * (1 / element.factor))
    low, high = element.least / element.factor, element.greatest / element.factor
    whole = where(isnan(whole), 0.0, clamp_max(clamp_min(whole, low), high))
    return cast(whole - low, u8)


def _place_in_table(x: Node, element: Element) -> Node:
    if element.count > MOST_NUMBERS:
        raise BadArgument(op="quantize", name="format", rule=f"of a table of at most {MOST_NUMBERS} numbers",
                          got=element.count, hint="Return the tensor, and call fusedsl.pack on it.")  # fmt: skip
    total = None
    for low, high in itertools.pairwise(element.numbers):
        above = cast(gt(x, (low + high) / 2), i32)
        total = above if total is None else total + above
    assert total is not None
    return total


# ---- bits in bytes ---------------------------------------------------------------------------------------------------


def _moved_text(expr, code: str, left: str) -> str:
    at = expr.args[1]
    wide = f"{code}.to(tl.int32)"
    if at.kind == "const":
        moved = f"({wide} << {at['value']})" if at["value"] >= 0 else f"({wide} >> {-at['value']})"
    else:
        moved = f"tl.where({left} >= 0, {wide} << tl.maximum({left}, 0), {wide} >> tl.maximum(-{left}, 0))"
    return f"({moved} & 255).to(tl.uint8)"


def _moved_operands(types: Sequence[Type], op: str) -> list[DType | None]:
    if types[0].dtype is not u8:
        rule, hint = "codes must be u8", "Cast with .to(torch.uint8)."
        raise DTypesDisagree(op=op, rule=rule, got=str(types[0].dtype), hint=hint)
    return [u8, i32]


_moved = TypeRule(lambda types: Type(u8, broadcast([t.shape for t in types], "moved")), _moved_operands)


@declare(type=_moved, triton=_moved_text, domain=((0, 255), (-7, 7)))
def moved(code: torch.Tensor, left: torch.Tensor):
    """The bits of a code in a byte, so many places to the left, below 0 to the right; what leaves the byte is lost"""
    places, wide = left.int(), code.int()
    found = torch.where(places >= 0, wide << places.clamp(min=0), wide >> (-places).clamp(min=0))
    return (found & 255).to(torch.uint8)


def _units(bits: int) -> tuple[int, int]:
    """The fewest codes that fill whole bytes, and how many bytes."""
    common = math.gcd(bits, 8)
    return 8 // common, bits // common


def _pack_units(codes: Node, bits: int) -> Node:
    """Byte by byte of a unit, with every shift known."""
    each, count = _units(bits)
    dim, units = codes.rank - 1, cdiv(codes.shape[-1], each)
    padded = pad(codes, (0, units * each - codes.shape[-1]))
    parts = [cut(padded, dim, at, units * each, each) for at in range(each)]
    return stack([_byte(parts, bits, at) for at in range(count)], codes.rank)


def _byte(parts: Sequence[Node], bits: int, at: int) -> Node:
    """The byte of a unit that holds bits from 8 * at on."""
    lefts = [(part, place * bits - 8 * at) for place, part in enumerate(parts)]
    inside = [moved(part, left) for part, left in lefts if -bits < left < 8]
    return functools.reduce(bitwise_or, inside)


@declare(expand=_pack_units)
def pack_units(codes: torch.Tensor, bits: Size):
    """u8 codes [..., K] of so many bits each as bytes [..., units, bytes of a unit], least significant bits first; 0s
    fill the last unit"""
    each, count = _units(bits)
    units = -(-codes.shape[-1] // each)
    padded = torch.nn.functional.pad(codes, (0, units * each - codes.shape[-1]))
    return packing.pack_rows(padded, bits).unflatten(-1, (units, count))


# ---- five ternary values a byte --------------------------------------------------------------------------------------


def _trits_type(types: Sequence[Type]) -> Type:
    (t,) = types
    if t.dtype is not u8 or not t.rank:
        rule, hint = "codes must be u8", "Cast with .to(torch.uint8)."
        raise DTypesDisagree(op="pack_trits", rule=rule, got=str(t), hint=hint)
    return Type(u8, (*t.shape[:-1], cdiv(t.shape[-1], packing.TRITS)))


def _trits_lower(context, node: Node, index: Sequence[Index]):
    (codes,), total = node.inputs, context.constant(0, u8)
    for at in reversed(range(packing.TRITS)):
        place = index[-1] * packing.TRITS + at
        inside = context.less(place, codes.shape[-1])
        code = context.at(codes, [*index[:-1], place if codes.shape[-1] != 1 else 0], when=inside)
        code = context.select(inside, code, context.constant(packing.TRIT_ZERO, u8))
        total = context.apply(add, u8, context.apply(mul, u8, total, context.constant(3, u8)), code)
    return total


@declare(type=TypeRule(_trits_type), lower=_trits_lower)
def pack_trits(codes: torch.Tensor):
    """Codes 0, 1 and 2 as digits to the base 3, five a byte along the last dimension, the least first"""
    return packing.pack_trits(codes)


# ---- scales and zero points ------------------------------------------------------------------------------------------


def _stored(scale: Node, name: str) -> Node:
    """A scale as it is stored: rounded, saturating, of e8m0 the code of the power of two at or below."""
    if name == "e8m0":
        return cast(exponent_of(clamp_max(clamp_min(scale, 2.0**-127), 2.0**127)), u8)
    to = dtype(name)
    assert to.torch is not None
    return cast(clamp_max(scale, torch.finfo(to.torch).max), to)


def _value(stored: Node, name: str) -> Node:
    return e8m0(stored) if name == "e8m0" else cast(stored, f32)


@declare(type=TypeRule(lambda types: Type(i32, types[0].shape)),
         triton="({0}.to(tl.int32, bitcast=True) >> 23) & 255", domain=(0, 99))  # fmt: skip
def exponent_of(x: torch.Tensor):
    """The bits of an f32's exponent: floor(log2(x)) + 127, 0 of what is below 2^-126"""
    return x.float().view(torch.int32) >> 23 & 255


def _scale(length: Node, steps: float, format: Format, second: Node | None) -> Node:
    """The scale, as it is stored, of which so many steps are the length of a group."""
    assert format.scale is not None
    if format.scale == "e8m0":
        scale = length * 2.0 ** -math.floor(math.log2(steps))
    else:
        limits = torch.finfo(stored_dtype(format.scale))
        scale = length / steps if second is None else length / steps / second
        scale = clamp_min(scale, limits.smallest_normal * limits.eps)
    blank = 1.0 if format.zero or format.offset or 0.0 in format.element.values else 0.0
    return _stored(where(gt(length, 0), scale, blank), format.scale)


def _codes(x: Node, known: Format, size: int) -> tuple[Node, dict[str, Node]]:
    """The codes, and those of scale, zero and second that the format has. Of x the axis is the last dimension."""
    rest = x.shape[:-1]
    values = cast(as_stored(x), f32)
    if known.scale is None:
        return encoded(values, known.element), {}
    groups, length = group_count(known, size), group_size(known, size)
    grouped = reshape(pad(values, (0, groups * length - size)), (*rest, groups, length))
    second = _second(grouped, known) if known.second else None
    scale, zero = _grid(grouped, known, second, size)
    factor = _value(scale, known.scale)
    factor = factor if second is None else factor * second
    values = grouped - cast(zero, f32) if zero is not None and known.zero == "min" else grouped
    steps = values / where(gt(factor, 0), factor, 1.0)
    if zero is not None and known.zero != "min":
        steps = steps + (cast(zero, f32) + known.element.least if known.zero == "code" else cast(zero, f32))
    codes = encoded(steps + known.offset if known.offset else steps, known.element)
    codes = cut(reshape(codes, (*rest, groups * length)), x.rank - 1, 0, size)
    shared = {"scale": scale} if zero is None else {"scale": scale, "zero": zero}
    shared = {name: squeeze(part, (x.rank,)) for name, part in shared.items()}
    return codes, shared if second is None else {**shared, "second": second}


def _quantised(x: Node, format: str, size: int) -> tuple[Node, ...]:
    known = parse(format)
    codes, shared = _codes(x, known, size)
    return (_as_bytes(codes, known.element), *shared.values())


def _requantised(x: Node, format: str, size: int) -> Node:
    known = parse(format)
    codes, shared = _codes(x, known, size)
    values = _from_table(codes, known.element) if known.element.kind == "table" else None
    return narrow(dequantised(codes, known, shared, x.rank - 1, values), x.dtype)


def _from_table(codes: Node, element: Element) -> Node:
    """The numbers of a table by comparing: a table that a kernel makes has no addresses."""
    first, *others = element.numbers
    value = constant(first, Type(f32))
    for code, number in enumerate(others, 1):
        value = where(ge(codes, code), number, value)
    return value


def _as_bytes(codes: Node, element: Element) -> Node:
    return pack_trits(codes) if element.kind == "ternary" else pack_units(codes, element.bits)


def _grid(grouped: Node, format: Format, second: Node | None, size: int) -> tuple[Node, Node | None]:
    """The scale and the zero point of each group, as they are stored, with the last dimension kept as 1."""
    element, dim = format.element, (grouped.rank - 1,)
    if element.kind == "ternary":
        used = [min(group_size(format, size), size - at) for at in range(0, size, group_size(format, size))]
        if not used:
            used = [1]
        if len(set(used)) > 1:
            raise BadArgument(op="quantize", name="format", rule="of whole groups where it is ternary",
                              got=f"{size} values", hint=f"A group that divides {size} does.")  # fmt: skip
        return _scale(sum(abs(grouped), dim, True) / used[0], 1.0, format, second), None
    if format.zero is None:
        return _scale(amax(abs(grouped), dim, True), reach(format), format, second), None
    low, high = _ends(grouped, format, size)
    scale = _scale(high - low, element.greatest - element.least, format, second)
    factor = _value(scale, format.scale or "f32")
    if format.zero == "min":
        zero = low - (factor if second is None else factor * second) * element.least
    else:
        zero = element.least - low / where(gt(factor, 0), factor, 1.0)
    if format.zero == "code":
        return scale, cast(clamp_max(clamp_min(round(zero), element.least), element.greatest) - element.least, u8)
    to = dtype(format.zero_dtype or "f32")
    assert to.torch is not None
    limits = torch.finfo(to.torch)
    return scale, cast(clamp_max(clamp_min(zero, limits.min), limits.max), to)


def _ends(grouped: Node, format: Format, size: int) -> tuple[Node, Node]:
    """The least and the greatest value of each group, with 0 between them but where a minimum is stored."""
    dim = (grouped.rank - 1,)
    if format.zero != "min":
        return clamp_max(amin(grouped, dim, True), 0.0), clamp_min(amax(grouped, dim, True), 0.0)
    whole, length = size // group_size(format, size), group_size(format, size)
    if whole * length == size:
        return amin(grouped, dim, True), amax(grouped, dim, True)
    raise BadArgument(op="quantize", name="format", rule="of whole groups where it has minima",
                      got=f"{size} values", hint=f"A group that divides {size} does.")  # fmt: skip


def _second(grouped: Node, format: Format) -> Node:
    """The factor of all scales of a tensor."""
    if format.scale not in ("f8e4m3", "f16") or 0 in grouped.shape:
        return constant(1.0, Type(f32))
    most = amax(abs(grouped)) / (torch.finfo(stored_dtype(format.scale)).max * reach(format))
    return where(gt(most, 0), clamp_min(most, torch.finfo(torch.float32).smallest_normal), 1.0)


@declare(expand=_quantised)
def quantize_parts(x: torch.Tensor, format: Choice, size: Size):
    """What `fusedsl.pack` stores of x, with groups along its last dimension, which has that size: data as `pack_units`
    has it, then those of scale, zero and second that the format has"""
    packed = pack(x, format)
    codes, parts = packed.codes(), packed.parts
    element = packed.format.element
    data = parts.data if element.kind == "ternary" else pack_units.reference(codes, element.bits)
    return tuple(part for part in (data, parts.scale, parts.zero, parts.second) if part is not None)


@declare(expand=_requantised)
def requantized(x: torch.Tensor, format: Choice, size: Size):
    """What `fusedsl.pack` makes of x stands for: x in a format, and back"""
    return torch.empty(x.shape, dtype=x.dtype, device="meta") if x.is_meta else pack(x, format).unpack()
