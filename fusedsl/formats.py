"""Number formats of 1 to 8 bits as text: the codes of a value, and what the values of a group share::

    u4:g128, i8:row:f32, e2m1:g32:e8m0, e4m3fn:noscale, table(-1,0,0.5,1):g64, nvfp4

An element says which number each code stands for; `:gN` how many values along the axis share a scale, and the other
options how scale and zero point are stored. docs/formats.md has the tables; the grammar is in formats.lark.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch

from .errors import BadArgument, BadText, place_in
from .types import DType, f8e4m3, f8e5m2, i8
from .types import dtype as named_dtype

if TYPE_CHECKING:
    from lark import Lark, Token
    from lark.exceptions import UnexpectedInput

Tree = Any  # of lark: the grammar says which of a tree's children are tokens, its types do not

SCALES = {"f32": 32, "f16": 16, "bf16": 16, "f8e4m3": 8, "e8m0": 8}  # dtypes of scales, with their bits
_ZERO_BITS = {None: 0, "u8": 8, **SCALES}
SCALE = "f16"  # where the text does not say

# The 16 numbers of QLoRA: quantiles of the normal distribution, with an exact 0 and both ends.
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


# ---- elements --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Element:
    """The codes of one value. kind: "uint", "int" (offset-binary: code = value + 2**(bits-1)), "float" (sign, exponent,
    mantissa from the top), "table" (code = place in `numbers`) or "ternary" (-1, 0, 1 as 0, 1, 2).

    specials: what a float has besides numbers, see docs/formats.md. factor: a power of two that integers are times."""

    name: str
    kind: str
    bits: int
    exponent: int = 0
    mantissa: int = 0
    specials: str = "finite"
    numbers: tuple[float, ...] = ()
    factor: float = 1.0

    @property
    def count(self) -> int:
        """The number of codes."""
        return 3 if self.kind == "ternary" else len(self.numbers) or 1 << self.bits

    @cached_property
    def values(self) -> tuple[float, ...]:
        """What the codes 0 .. count-1 stand for."""
        if self.kind == "float":
            return self._float_values
        return self.numbers or tuple((code + self._low) * self.factor for code in range(self.count))

    @cached_property
    def least(self) -> float:
        """The least finite value."""
        return min(value for value in self.values if math.isfinite(value))

    @cached_property
    def greatest(self) -> float:
        """The greatest finite value."""
        return max(value for value in self.values if math.isfinite(value))

    @property
    def _low(self) -> int:
        """The integer that code 0 stands for."""
        return {"int": -(2 ** (self.bits - 1)), "ternary": -1}.get(self.kind, 0)

    @property
    def eight(self) -> DType | None:
        """The dtype of 8 bits that has a float's very codes."""
        return {"e4m3fn": f8e4m3, "e5m2": f8e5m2}.get(self.name)

    @property
    def bias(self) -> int:
        """What a float's exponent field is above the exponent: 2**(X-1) - 1, of fnuz one more."""
        return (2**self.exponent >> 1) - 1 + (self.specials == "fnuz")

    @property
    def infinity(self) -> int | None:
        """The code of +inf."""
        return (2**self.exponent - 1) << self.mantissa if self.specials == "ieee" else None

    @property
    def nan(self) -> int | None:
        """The code that NaN becomes: the quiet one, with the sign off where there are two."""
        if self.infinity is not None:
            return self.infinity | 1 << (self.mantissa - 1)
        return {"fn": self._half - 1, "fnuz": self._half}.get(self.specials)

    @property
    def _half(self) -> int:
        """The codes of a float without the sign bit: as many as this."""
        return 2 ** (self.bits - 1)

    @property
    def _magnitudes(self) -> list[float]:
        """A float's finite values that have no sign, rising: a value's place is its code."""
        finite = self._half - (self.specials == "fn") if self.infinity is None else self.infinity
        return [self._magnitude(code) for code in range(finite)]

    def _magnitude(self, code: int) -> float:
        field, fraction = divmod(code, 2**self.mantissa)
        if self.exponent == 0:
            return math.ldexp(fraction, -self.mantissa)
        hidden = 2**self.mantissa if field else 0
        return math.ldexp(fraction + hidden, max(field, 1) - self.bias - self.mantissa)

    @property
    def _float_values(self) -> tuple[float, ...]:
        positive = self._magnitudes + [math.inf] * (self.infinity is not None)
        positive += [math.nan] * (self._half - len(positive))
        zero = math.nan if self.specials == "fnuz" else -0.0
        return (*positive, zero, *(-value for value in positive[1:]))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """The u8 codes of numbers, exactly rounded to the nearest value; beyond the ends, the ends.

        Ties go to the even mantissa or integer, of tables to the lower code. Infinities are such only where the format
        has them. Raises BadArgument for NaN where it has none."""
        x = x.to(torch.float64).contiguous()
        if self.nan is None and not x.is_meta and bool(x.isnan().any()):
            raise BadArgument(op="encode", name="x", rule=f"free of NaN, {self.name} has none", got="NaN",
                              hint="Replace it, as torch.nan_to_num does; e4m3fn and e5m2 keep it.")  # fmt: skip
        if self.kind == "float":
            return self._encode_float(x).to(torch.uint8)
        if self.kind == "table":
            return torch.searchsorted(_midpoints(self.numbers, x), x).to(torch.uint8)
        code = (x / self.factor).round() - self._low
        return code.clamp(0, self.count - 1).to(torch.uint8)

    def _encode_float(self, x: torch.Tensor) -> torch.Tensor:
        code = _nearest_even(x.abs(), _midpoints(self._magnitudes, x))
        if self.infinity is not None:
            code = code.where(~x.isinf(), self.infinity)
        negative = x.signbit() & (code != 0) if self.specials == "fnuz" else x.signbit()
        code = code + negative * self._half
        return code if self.nan is None else code.where(~x.isnan(), self.nan)

    def decode(self, codes: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The values of codes, each rounded once where the dtype does not hold it; f32 holds them all."""
        values = torch.tensor(self.values, dtype=torch.float64, device=codes.device)
        return values.to(dtype)[codes.to(torch.int32)]

    def __str__(self) -> str:
        return self.name


def _midpoints(rising: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    middles = [(low + high) / 2 for low, high in itertools.pairwise(rising)]
    return torch.tensor(middles, dtype=torch.float64, device=like.device)


def _nearest_even(x: torch.Tensor, midpoints: torch.Tensor) -> torch.Tensor:
    """The place of the value nearest to x, the even one of two that are as near."""
    below = torch.searchsorted(midpoints, x)
    tie = x == midpoints[below.clamp(max=len(midpoints) - 1)]
    return below + (tie & (below % 2 == 1))


def _integers() -> Iterator[Element]:
    for bits in range(1, 9):
        yield Element(f"u{bits}", "uint", bits)
        yield Element(f"i{bits}", "int", bits)


def _floats() -> Iterator[Element]:
    """Every float of 3 to 8 bits, with all specials that it can have."""
    for exponent in range(8):
        for mantissa in range(max(2 - exponent, 0), 8 - exponent):
            for specials, (_, fits) in _SPECIALS.items():
                if fits(exponent, mantissa):
                    name = _float_name(exponent, mantissa, specials)
                    yield Element(name, "float", 1 + exponent + mantissa, exponent, mantissa, specials)


# The rule of each suffix, in words and as a test of X and Y.
_SPECIALS = {
    "finite": ("", lambda x, y: True),
    "fn": ("fn is for 8 bits with an exponent; of narrower floats every code is a number, without a suffix.",
           lambda x, y: x >= 1 and x + y == 7),
    "ieee": ("ieee needs two bits of exponent and one of mantissa, for infinities and NaN.",
             lambda x, y: x >= 2 and y >= 1),
    "fnuz": ("fnuz needs an exponent.", lambda x, y: x >= 1),
}  # fmt: skip


def _usual(exponent: int, mantissa: int) -> str:
    """The specials of a float without a suffix: those of OCP's 8-bit formats, none elsewhere."""
    return {(4, 3): "fn", (5, 2): "ieee"}.get((exponent, mantissa), "finite")


def _float_name(exponent: int, mantissa: int, specials: str) -> str:
    """e4m3fn keeps its suffix, as torch writes it; other names leave out what is usual."""
    usual = specials == _usual(exponent, mantissa) and specials != "fn"
    return f"e{exponent}m{mantissa}{'' if usual else specials}"


def _table(numbers: Sequence[float]) -> Element:
    """The table of these numbers as f32 holds them. Raises BadArgument."""
    kept = [_single(number) + 0.0 for number in numbers]  # -0.0 is 0.0
    rising = all(low < high for low, high in itertools.pairwise(kept))
    if not (2 <= len(kept) <= 256 and rising and all(map(math.isfinite, kept))):
        raise BadArgument(op="table", name="the values", rule="2 to 256 finite numbers, each above the one before",
                          got=_few(numbers), hint="Sort them; f32 must tell each from the next.")  # fmt: skip
    name = f"table({','.join(map(_shortest, kept))})"
    return Element(name, "table", (len(kept) - 1).bit_length(), numbers=tuple(kept))


def _few(numbers: Sequence[float]) -> str:
    shown = ", ".join(f"{number:.9g}" for number in numbers[:8])
    return f"[{shown}{f', ... {len(numbers)} in all' if len(numbers) > 8 else ''}]"


def _shortest(number: float) -> str:
    """The shortest text that f32 reads as this number."""
    if number == int(number) and abs(number) < 1e6:
        return str(int(number))
    texts = (f"{number:.{digits}g}" for digits in range(1, 10))
    return next(text for text in texts if _single(float(text)) == number)


def _single(number: float) -> float:
    """The number as f32 holds it."""
    with np.errstate(over="ignore"):
        return float(np.float32(number))


ELEMENTS = {
    each.name: each
    for each in (
        *_integers(),
        *_floats(),
        Element("nf4", "table", 4, numbers=NF4),
        Element("ternary", "ternary", 2),
        Element("mxint8", "int", 8, factor=2.0**-6),
    )
}
_LONGER = {f"e{x.exponent}m{x.mantissa}{x.specials}": x for x in ELEMENTS.values() if x.kind == "float"}
_SPELLINGS = {"e4m3": ELEMENTS["e4m3fn"], **_LONGER, **ELEMENTS}


# ---- formats ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Format:
    """An element, and what a group of values shares: value = (element's value - offset - zero) * scale, or, where there
    is a minimum, element's value * scale + minimum.

    group: values along the axis that share a scale, None for the whole axis. scale: its dtype, None where codes are the
    values. zero: None; "code", one of the element's values, stored as its code in u8; "scale", any number, stored in
    `zero_dtype`; "min", a minimum, stored so too. second: the scales have a scale of their own, an f32."""

    element: Element
    group: int | None
    scale: str | None
    zero: str | None
    second: bool = False

    @property
    def text(self) -> str:
        """What parses to this format: a name if there is one, else what differs from the element's defaults."""
        named = next((name for name, known in NAMED.items() if known == self), None)
        return named or ":".join([self.element.name, *self._options()])

    def _options(self) -> Iterator[str]:
        usual = _usual_format(self.element)
        if self.scale is None:
            yield "noscale"
            return
        if self.group != usual.group:
            yield "row" if self.group is None else f"g{self.group}"
        if self.zero != usual.zero:
            yield {None: "sym", "code": "asym", "scale": "fzero", "min": "min"}[self.zero]
        if self.scale != usual.scale:
            yield self.scale
        if self.second:
            yield "second"

    @property
    def offset(self) -> int:
        """What is subtracted from the element's values first: symmetric unsigned integers have a fixed zero point."""
        fixed = self.element.kind == "uint" and self.scale is not None and self.zero is None
        return 2 ** (self.element.bits - 1) if fixed else 0

    @property
    def eight(self) -> DType | None:
        """The dtype of 8 bits that holds what codes stand for without their scale."""
        element = self.element
        if element.kind not in ("int", "uint") or self.zero in ("scale", "min"):
            return element.eight if self.zero is None else None
        low, high = (end / element.factor - self.offset for end in (element.least, element.greatest))
        low, high = (low - high, high - low) if self.zero == "code" else (low, high)
        return i8 if low >= -128 and high <= 127 else None

    @property
    def zero_dtype(self) -> str | None:
        """The dtype that zero points are stored in: of fractional ones the scale's, f16 where that has 8 bits."""
        if self.zero is None or self.scale is None:
            return None
        return "u8" if self.zero == "code" else "f16" if SCALES[self.scale] == 8 else self.scale

    @property
    def stored_bits(self) -> float:
        """The bits of one value itself: five ternary values fill a byte."""
        return 1.6 if self.element.kind == "ternary" else self.element.bits

    @property
    def bits_per_weight(self) -> float:
        """The bits of one value with its part of the group's scale and zero point, as stored; of a whole axis none."""
        if self.group is None or self.scale is None:
            return self.stored_bits
        return self.stored_bits + (SCALES[self.scale] + _ZERO_BITS[self.zero_dtype]) / self.group

    def __str__(self) -> str:
        return self.text


def _usual_format(element: Element) -> Format:
    """The format of an element's text without options."""
    if element.name == "mxint8":
        return Format(element, 32, "e8m0", None)
    return Format(element, None, SCALE, "code" if element.kind == "uint" else None)


_MX = {"mxfp4": "e2m1", "mxfp6e3m2": "e3m2", "mxfp6e2m3": "e2m3", "mxfp8e4m3": "e4m3fn", "mxfp8e5m2": "e5m2"}
NAMED = {
    **{name: Format(ELEMENTS[element], 32, "e8m0", None) for name, element in _MX.items()},
    "nvfp4": Format(ELEMENTS["e2m1"], 16, "f8e4m3", None, second=True),
}


def codebook(values: Sequence[float] | torch.Tensor, group: int | None = None, scale: str | None = SCALE) -> Format:
    """The format of 2 to 256 increasing numbers, kept as f32 holds them. Raises BadArgument."""
    if scale is not None and scale not in SCALES:
        raise BadArgument(op="codebook", name="scale", rule=f"one of {' '.join(SCALES)}, or None", got=repr(scale),
                          hint="It is the dtype that scales are stored in.")  # fmt: skip
    if group is not None and (group < 1 or scale is None):
        raise BadArgument(op="codebook", name="group", rule="1 or more, and None where there is no scale",
                          got=repr(group), hint="It is how many values share a scale.")  # fmt: skip
    numbers = values.flatten().tolist() if isinstance(values, torch.Tensor) else list(values)
    return Format(_table(numbers), group, scale, None)


# ---- parsing ---------------------------------------------------------------------------------------------------------

_EXAMPLE = "Write an element and its options as u4:g128, i8:f32 or e2m1:g32:e8m0; docs/formats.md has them all."
_OPTIONS: dict[str, tuple[str, Any]] = {
    "row": ("group", None), "sym": ("zero", None), "asym": ("zero", "code"), "fzero": ("zero", "scale"),
    "min": ("zero", "min"), "noscale": ("scale", None), "second": ("second", True),
    **{name: ("scale", name) for name in SCALES},
}  # fmt: skip


def parse(text: str | Format) -> Format:
    """The format that a text stands for; a format is itself. Raises BadText, with the place."""
    if isinstance(text, Format):
        return text
    if not isinstance(text, str):
        raise BadArgument(op="parse", name="text", rule="the text of a format", got=repr(text), hint=_EXAMPLE)
    return _parse(text)


@cache
def _parse(text: str) -> Format:
    from lark import UnexpectedInput

    try:
        tree = _parser().parse(text)
    except UnexpectedInput as error:
        raise _bad(text, error) from None
    return _read(tree)


def _read(tree: Tree) -> Format:
    element, *options = tree.children
    return _with_options(_base(element), options)


@cache
def _parser() -> Lark:
    from lark import Lark

    return Lark(Path(__file__).with_name("formats.lark").read_text(), parser="lalr")


def _bad(text: str, error: UnexpectedInput) -> BadText:
    row, column, got = place_in(text, error)
    return _bad_at(row, column, got or "the text ends", _EXAMPLE)


def _bad_at(row: int, column: int, got: str, hint: str) -> BadText:
    return BadText(what="the format", row=row, column=column, got=got, hint=hint)


def _fail(token: Token, hint: str) -> NoReturn:
    raise _bad_at(token.line or 1, token.column or 1, repr(str(token)), hint)


def _base(tree: Tree) -> Format:
    """The format of the element, or of the name, before its options."""
    name, *numbers = tree.children
    if tree.data == "table":
        return _usual_format(_table_at(name, numbers))
    if name in NAMED:
        return NAMED[str(name)]
    if name not in _SPELLINGS:
        _fail(name, _why_not(str(name)))
    return _usual_format(_SPELLINGS[str(name)])


def _table_at(name: Token, numbers: Sequence[Token]) -> Element:
    if name != "table":
        _fail(name, "Only a table has numbers in parentheses: table(-1, 0, 0.5, 1).")
    try:
        return _table(list(map(float, numbers)))
    except BadArgument as error:
        _fail(name, error.message)


def _why_not(name: str) -> str:
    """What is wrong with the name of an element, and what may be meant."""
    if name == "table":
        return "A table has its numbers in parentheses: table(-1, 0, 0.5, 1)."
    if re.fullmatch(r"[ui]\d+", name):
        return "Integers have 1 to 8 bits: u1 to u8, i1 to i8."
    if of_float := re.fullmatch(r"e(\d+)m(\d+)([a-z]*)", name):
        return _why_no_float(int(of_float[1]), int(of_float[2]), of_float[3])
    known = [*NAMED, *_SPELLINGS]
    close = difflib.get_close_matches(name.lower(), known, n=3) or [each for each in known if each in name.lower()][:3]
    meant = f"Close to it: {', '.join(close)}. " if close else ""
    return (
        f"{meant}There are u1 to u8, i1 to i8, eXmY such as e2m1, ternary, nf4, table(...), mxint8; {', '.join(NAMED)}."
    )


def _why_no_float(exponent: int, mantissa: int, suffix: str) -> str:
    bits = 1 + exponent + mantissa
    if not 3 <= bits <= 8:
        return f"A float has 3 to 8 bits with its sign, and this has 1 + {exponent} + {mantissa} = {bits}."
    if suffix not in _SPECIALS:
        close = difflib.get_close_matches(suffix, _SPECIALS, n=1)
        meant = f"e{exponent}m{mantissa}{close[0]} is close; the" if close else "The"
        return f"{meant} suffixes are {', '.join(_SPECIALS)}."
    return f"{_SPECIALS[suffix][0]} Write e{exponent}m{mantissa}."


def _with_options(base: Format, tokens: Sequence[Token]) -> Format:
    said: dict[str, Token] = {}
    changes: dict[str, Any] = {}
    for token in tokens:
        name, value = _option(token)
        if name in said:
            _fail(token, f"The {name} is said already, by {said[name]}; leave out one of them.")
        said[name], changes[name] = token, value
    if changes.get("scale", base.scale) is None:
        return _without_scale(base.element, said)
    result = replace(base, **changes)
    _check_zero(result, said)
    return result


def _option(token: Token) -> tuple[str, Any]:
    """What an option sets, and to what."""
    if group := re.fullmatch(r"g(\d+)", token):
        if int(group[1]) == 0:
            _fail(token, "A group has 1 value or more; `row` takes the whole axis.")
        return "group", int(group[1])
    if token not in _OPTIONS:
        close = difflib.get_close_matches(token.lower(), _OPTIONS, n=2)
        meant = f"Close to it: {', '.join(close)}. " if close else ""
        _fail(token, f"{meant}Options are gN (the group, such as g128), {', '.join(_OPTIONS)}.")
    return _OPTIONS[str(token)]


def _without_scale(element: Element, said: dict[str, Token]) -> Format:
    for name, token in said.items():
        if name != "scale":
            _fail(token, "With noscale the codes are the values, without group, zero point or scales; leave it out.")
    return Format(element, None, None, None)


def _check_zero(result: Format, said: dict[str, Token]) -> None:
    """Zero points are for integers, and a scale of e8m0 has none."""
    if result.zero is None:
        return
    element = result.element.name
    if not re.fullmatch(r"[ui]\d", element):
        _fail(said["zero"], f"Only u1 to u8 and i1 to i8 have zero points; {element} is always symmetric.")
    if result.scale == "e8m0":
        _fail(said.get("zero", said["scale"]), f"A scale of e8m0 has no zero point; write {element}:sym:e8m0.")


# ---- scales ----------------------------------------------------------------------------------------------------------


def scale_round(scale: torch.Tensor, dtype: str) -> torch.Tensor:
    """Scales (f32 or f64) as a dtype of SCALES holds them, in f32: rounded once, to nearest even, saturating.

    f8e4m3 makes no scale 0 that was not. e8m0 takes the power of two at or below, from 2**-127 to 2**127, as OCP's MX
    does: of 0 the least. Raises BadArgument for a negative scale of e8m0."""
    if dtype == "e8m0":
        return _floor_power(scale.double()).float()
    info = _limits(dtype)
    x, least = scale.double(), info.smallest_normal * info.eps
    unit = (_power(torch.frexp(x).exponent - 1) * info.eps).clamp(min=least)
    rounded = ((x / unit).round() * unit).clamp(info.min, info.max)
    if dtype == "f8e4m3":
        rounded = rounded.where((rounded != 0) | (x == 0), x.sign() * least)
    return rounded.float()


def _limits(name: str) -> torch.finfo:
    dtype = named_dtype(name).torch
    assert dtype is not None and dtype.is_floating_point, f"no dtype of scales: {name}"
    return torch.finfo(dtype)


def _power(exponent: torch.Tensor) -> torch.Tensor:
    """2**exponent in f64, of exponents that its normal numbers have."""
    return ((exponent.long().clamp(-1022, 1023) + 1023) << 52).view(torch.float64)


def _floor_power(x: torch.Tensor) -> torch.Tensor:
    if not x.is_meta and bool((x < 0).any()):
        raise BadArgument(op="scale_round", name="scale", rule="0 or more, e8m0 has no sign", got="a negative one",
                          hint="Take the absolute value, and turn the sign of the values round.")  # fmt: skip
    power = _power(torch.frexp(x.clamp(2.0**-127, 2.0**127)).exponent - 1)
    return power.where(~x.isnan(), x)


def e8m0_encode(scale: torch.Tensor) -> torch.Tensor:
    """The u8 codes of f32 powers of two: the exponent plus 127; of NaN 255."""
    return (scale.float().view(torch.int32) >> 23 & 255).to(torch.uint8)


def e8m0_decode(codes: torch.Tensor) -> torch.Tensor:
    """The f32 powers of two of u8 codes: 2**(code - 127), NaN for 255."""
    power = _power(codes.long() - 127).float()
    return power.where(codes != 255, math.nan)
