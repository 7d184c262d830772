"""Reading packed values: the codes that lie in bytes and words, as an index map and a shift.

A code that is read at a known place costs a constant shift and a mask; where it straddles two words both are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from fusedsl import packing
from fusedsl.errors import BadArgument, DTypesDisagree, ShapesDisagree
from fusedsl.formats import ELEMENTS, Element, Format, e8m0_decode
from fusedsl.index import Index, floordiv, remainder
from fusedsl.ir import Choice, Node, Size, TypeRule, cast, declare
from fusedsl.types import DType, Type, broadcast, f32, i32, same_size, show_shape, u8

from .helpers import HELPERS
from .indexing import pick, still
from .movement import repeat_interleave
from .movement import slice as cut

# ---- bits of a word --------------------------------------------------------------------------------------------------


def _words(types: Sequence[Type], op: str) -> list[DType | None]:
    if any(t.dtype.kind != "u" or t.dtype.bits > 16 for t in types[:-1]):
        got = " and ".join(str(t.dtype) for t in types[:-1])
        raise DTypesDisagree(op=op, rule="words must be u8 or u16", got=got, hint="Use .view(torch.uint16).")
    return [*(t.dtype for t in types[:-1]), i32]


def _of_words(types: Sequence[Type], *, bits: int) -> Type:
    return Type(types[0].dtype, broadcast([t.shape for t in types], "field"))


def _field_text(expr, word: str, shift: str) -> str:
    mask = (1 << expr.attrs["bits"]) - 1
    at = _known(expr.args[1])
    if at is None:
        return f"(({word}.to(tl.int32) >> {shift}.to(tl.int32)) & {mask}).to(tl.{expr.dtype.language})"
    shifted = f"({word} >> {at})" if at else word
    return shifted if at + expr.attrs["bits"] == expr.dtype.bits else f"{shifted} & {mask}"


def _known(shift) -> int | None:
    return shift["value"] if shift.kind == "const" else None


def _joined_text(expr, word: str, above: str, shift: str) -> str:
    mask, width = (1 << expr.attrs["bits"]) - 1, expr.dtype.bits
    at = _known(expr.args[2])
    if at is None:
        joined = f"({above}.to(tl.int32) << {width}) | {word}.to(tl.int32)"
        return f"((({joined}) >> {shift}.to(tl.int32)) & {mask}).to(tl.{expr.dtype.language})"
    return f"(({word} >> {at}) | ({above} << {width - at})) & {mask}"


@declare(type=TypeRule(_of_words, _words), triton=_field_text, domain=((0, 99), (0, 9)))
def field(word: torch.Tensor, shift: torch.Tensor, bits: Size):
    """The bits of a word from bit `shift` on, so many"""
    return ((word.int() >> shift.int()) & ((1 << bits) - 1)).to(word.dtype)


@declare(type=TypeRule(_of_words, _words), triton=_joined_text, domain=((0, 99), (0, 99), (0, 9)))
def joined_field(word: torch.Tensor, above: torch.Tensor, shift: torch.Tensor, bits: Size):
    """The bits of two words, of which the second is above the first, from bit `shift` of the first on, so many"""
    width = 8 * word.element_size()
    return (((above.int() << width | word.int()) >> shift.int()) & ((1 << bits) - 1)).to(word.dtype)


def _read(context, words: Node, at: Callable[[Index], Sequence[Index]], bit: Index, bits: int):
    """The code that starts at a bit of a stream of words. at(word): the index of one."""
    width = words.dtype.bits
    word, shift = floordiv(bit, width), remainder(bit, width)
    low, place = context.at(words, at(word)), context.number(shift, i32)
    alone = context.apply(field, words.dtype, low, place, bits=bits)
    if width % bits == 0:
        return alone
    straddles = context.less(width - bits, shift)
    above = context.at(words, at(word + 1), when=straddles)
    both = context.apply(joined_field, words.dtype, low, above, place, bits=bits)
    return context.select(straddles, both, alone)


# ---- rows: a stream of bytes a row -----------------------------------------------------------------------------------


def _rows_type(types: Sequence[Type], *, bits: int, size: Index) -> Type:
    (t,) = types
    if t.dtype is not u8 or not t.rank:
        raise DTypesDisagree(op="unpack_rows", rule="the data must be bytes", got=str(t), hint="Use torch.uint8.")
    return Type(u8, (*t.shape[:-1], size))


def _rows_lower(context, node: Node, index: Sequence[Index]):
    (data,) = node.inputs
    bits = node["bits"]
    return _read(context, data, lambda byte: still([*index[:-1], byte], data.shape), index[-1] * bits, bits)


@declare(type=TypeRule(_rows_type), lower=_rows_lower)
def unpack_rows(data: torch.Tensor, bits: Size, size: Size):
    """The codes of so many bits each in the bytes of data's last dimension, least significant bits first"""
    return packing.unpack_rows(data, bits, size)


# ---- slabs: words of sixteen values each from another part of a tile -------------------------------------------------


def _slabs_type(types: Sequence[Type], *, bits: int, rows: int) -> Type:
    (t,) = types
    if t.rank < 4 or not (same_size(t.shape[-3], bits) and same_size(t.shape[-2], rows)):
        rule = f"words are [..., tiles, {bits}, {rows}, columns]"
        raise ShapesDisagree(op="unpack_slabs", rule=rule, got=show_shape(t.shape), hint="")
    *batch, tiles, _, _, columns = t.shape
    return Type(t.dtype, (*batch, tiles * rows * packing.LANES, columns))


def _slabs_lower(context, node: Node, index: Sequence[Index]):
    (words,) = node.inputs
    *batch, k, n = index
    bits, rows = node["bits"], node["rows"]
    tile, inside, row = floordiv(k, rows * packing.LANES), remainder(k, rows * packing.LANES), remainder(k, rows)
    words_at = lambda word: still([*batch, tile, word, row, n], words.shape)
    return _read(context, words, words_at, floordiv(inside, rows) * bits, bits)


@declare(type=TypeRule(_slabs_type), lower=_slabs_lower)
def unpack_slabs(words: torch.Tensor, bits: Size, rows: Size):
    """The codes [..., K, N] in words u16[..., tiles, bits, rows, N], which tiles of 16 * rows rows lie in as slabs: the
    codes of rows r, r + rows, r + 2 rows ... of a tile are one stream of bits, least significant first"""
    return packing.unslab(words, bits).to(words.dtype)


# ---- five ternary values a byte --------------------------------------------------------------------------------------


def _trit_text(expr, byte: str, place: str) -> str:
    at = _known(expr.args[1])
    if at is not None:
        return f"({byte} // {3**at}) % 3" if at else f"{byte} % 3"
    powers = f"tl.where({place} == 0, 1, tl.where({place} == 1, 3, tl.where({place} == 2, 9, "
    return f"(({byte}.to(tl.int32) // {powers}tl.where({place} == 3, 27, 81))))) % 3).to(tl.{expr.dtype.language})"


@declare(type=TypeRule(lambda types: _of_words(types, bits=2), _words), triton=_trit_text, domain=((0, 99), (0, 4)))
def trit(byte: torch.Tensor, place: torch.Tensor):
    """The digit of a byte to the base 3 at a place from 0 to 4, the least first"""
    return (byte.int() // 3 ** place.int().clamp(0, 4) % 3).to(byte.dtype)


def _trits_lower(context, node: Node, index: Sequence[Index]):
    (data,) = node.inputs
    byte, place = floordiv(index[-1], packing.TRITS), remainder(index[-1], packing.TRITS)
    value = context.at(data, still([*index[:-1], byte], data.shape))
    return context.apply(trit, u8, value, context.number(place, i32))


@declare(type=TypeRule(lambda types, *, size: _rows_type(types, bits=2, size=size)), lower=_trits_lower)
def unpack_trits(data: torch.Tensor, size: Size):
    """The codes 0, 1 and 2 of which the bytes of data's last dimension hold five each, as digits to the base 3"""
    return packing.unpack_trits(data, size)


# ---- what codes stand for --------------------------------------------------------------------------------------------


def check_float(element: str, op: str) -> None:
    """Raises BadArgument for what is not the name of a small float."""
    if element not in ELEMENTS or ELEMENTS[element].kind != "float":
        rule, hint = "the name of a float such as 'e2m1'", "docs/formats.md lists them."
        raise BadArgument(op=op, name="element", rule=rule, got=repr(element), hint=hint)


def _float_type(types: Sequence[Type], *, element: str) -> Type:
    (t,) = types
    check_float(element, "small_float")
    if t.dtype.kind != "u" or t.dtype.bits > 16:
        rule, hint = "codes must be u8 or u16", "Cast with .to(torch.uint8)."
        raise DTypesDisagree(op="small_float", rule=rule, got=str(t.dtype), hint=hint)
    return Type(f32, t.shape)


def _float_text(expr, code: str) -> str:
    """Sign, exponent and mantissa to where a wider float has them, times what its bias is more: denormals too are as
    they should be. By way of f16 if the exponents fit it, because processors take long for denormals of f32."""
    element = ELEMENTS[expr.attrs["element"]]
    x, y, half = element.exponent, element.mantissa, 1 << (element.bits - 1)
    if x == 0:
        return f"_fixed({code}, {half}, {2.0**-y!r})"
    wide = x > 5 or (x == 5 and element.specials != "ieee")
    bits, digits, bias = (32, 23, 127) if wide else (16, 10, 15)
    places = f"{half}, {digits - y}, {bits - 1}, tl.uint{bits}, tl.float{bits}"
    value = f"_scaled({code}, {places}, {2.0 ** (bias - element.bias)!r})"
    return _with_specials(element, code, value, is_ieee=x == 5 and not wide)


def _with_specials(element: Element, code: str, value: str, is_ieee: bool) -> str:
    half = 1 << (element.bits - 1)
    if element.specials == "fnuz":
        return f'tl.where({code} == {half}, float("nan"), {value})'
    if element.specials == "fn":
        return f'tl.where(({code} & {half - 1}) == {half - 1}, float("nan"), {value})'
    if element.specials == "ieee" and not is_ieee:
        return f"_or_special({code} & {half - 1}, {element.infinity}, {value})"
    return value


HELPERS["_fixed"] = """
@triton.jit
def _fixed(code, half: tl.constexpr, unit: tl.constexpr):
    value = (code & (half - 1)).to(tl.float32) * unit
    return tl.where(code >= half, value * -1.0, value)  # which makes -0 of 0, as a minus before Triton 3.9 does not
"""
HELPERS["_scaled"] = """
@triton.jit
def _scaled(code, half: tl.constexpr, up: tl.constexpr, sign: tl.constexpr, whole: tl.constexpr, number: tl.constexpr,
            factor: tl.constexpr):
    code = code.to(whole)
    bits = ((code & (half - 1)) << up) | ((code & half) * ((1 << sign) // half))
    return bits.to(number, bitcast=True).to(tl.float32) * factor
"""
HELPERS["_or_special"] = """
@triton.jit
def _or_special(magnitude, infinity: tl.constexpr, value):
    special = tl.where(magnitude == infinity, value * float("inf"), float("nan"))
    return tl.where(magnitude >= infinity, special, value)
"""


@declare(type=TypeRule(_float_type), triton=_float_text, domain=(0, 255))
def small_float(codes: torch.Tensor, element: Choice = "e2m1"):
    """The numbers that are codes of a small float, named as in formats: sign, exponent and mantissa"""
    return ELEMENTS[element].decode(codes.int() % ELEMENTS[element].count)


def _e8m0_type(types: Sequence[Type]) -> Type:
    (t,) = types
    if t.dtype is not u8:
        raise DTypesDisagree(op="e8m0", rule="codes must be u8", got=str(t.dtype), hint="Cast with .to(torch.uint8).")
    return Type(f32, t.shape)


HELPERS["_e8m0"] = """
@triton.jit
def _e8m0(code):
    bits = tl.where(code == 0, 0x400000, code.to(tl.int32) << 23)
    return tl.where(code == 255, float("nan"), bits.to(tl.float32, bitcast=True))
"""


@declare(type=TypeRule(_e8m0_type), triton="_e8m0({0})", domain=(0, 255))
def e8m0(codes: torch.Tensor):
    """2^(code - 127), NaN for code 255: the scales of OCP's MX formats"""
    return e8m0_decode(codes)


def decoded(codes: Node, element: Element, table: Node | None = None) -> Node:
    """What codes stand for, in f32. table: the numbers of an element that has such."""
    if element.kind == "float":
        return small_float(codes, element.name)
    if element.kind == "table":
        assert table is not None, f"{element.name} without its table"
        return pick([table, cast(codes, i32)], (0,), 0)
    value = cast(codes, f32)
    low = element.values[0] / element.factor
    value = value + low if low else value
    return value * element.factor if element.factor != 1 else value


def dequantised(codes: Node, format: Format, parts: Mapping[str, Node], axis: int, values: Node | None = None) -> Node:
    """(value - offset - zero) * scale, or value * scale + minimum, of the codes of a packed tensor, in f32. parts:
    `scale`, `zero`, `second` and `table`, those that there are, with a scale for each group along the axis. values:
    what the codes stand for, if that is known."""
    value = decoded(codes, format.element, parts.get("table")) if values is None else values
    size = codes.shape[axis]
    minimum = _spread(cast(parts["zero"], f32), format, axis, size) if format.zero == "min" else None
    if format.zero == "code":
        zero = field(parts["zero"], 0, bits=format.element.bits)  # whose bounds are known then
        value = value - _spread(decoded(zero, format.element), format, axis, size)
    elif format.zero == "scale":
        value = value - _spread(cast(parts["zero"], f32), format, axis, size)
    elif format.offset:
        value = value - format.offset
    if format.scale is None:
        return value
    scale = e8m0(parts["scale"]) if format.scale == "e8m0" else cast(parts["scale"], f32)
    scale = scale * parts["second"] if format.second else scale
    value = value * _spread(scale, format, axis, size)
    return value if minimum is None else value + minimum


def _spread(x: Node, format: Format, axis: int, size: Index) -> Node:
    """What groups have, for each value along the axis."""
    if format.group is None:
        return x
    return cut(repeat_interleave(x, format.group, axis), axis, 0, size)
