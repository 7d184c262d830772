"""Codes of packed weights as halves, of each width at each place in a word: two bodies of one function, bit for bit the
same, of which one is Triton's and one PTX.

The bits of a code under those of 1024 (bf16: 128) are that number and the code added up; where the digits of the half
reach up to where it stands, the code times a power of two. In PTX two codes in the two
halves of a register are made at once, by a shift and a `lop3`; where a code straddles two words, by two of each.
"""

from __future__ import annotations

from collections.abc import Iterator

from fusedsl.halves import BIAS
from fusedsl.ops.helpers import HELPERS
from fusedsl.scalar import Expr
from fusedsl.types import dtype

WORD = 16
HALVES = {"f16": 0x6400, "bf16": 0x4300}  # the bits of what codes are added to
AND_OR = "0xEA"  # (a & b) | c


def biased_name(e: Expr) -> str:
    """The function that an expression of kind `biased` calls."""
    return _name(e["bits"], e["shift"], e.dtype.name)


def _name(bits: int, shift: int, half: str) -> str:
    return f"_u{bits}_at_{shift}_{half}"


def _stays(bits: int, shift: int, half: str) -> bool:
    """Whether a code is not shifted: the digits of the half reach as high as it stands."""
    return 1 << (bits + shift) <= BIAS[half]


def _places() -> Iterator[tuple[int, int, str]]:
    """Every width, place and half that a slab has codes at."""
    for half in HALVES:
        for bits in range(1, 9):
            if 1 << bits <= BIAS[half]:
                yield from ((bits, shift, half) for shift in sorted({j * bits % WORD for j in range(WORD)}))


def _portable(bits: int, shift: int, half: str) -> str:
    mask, magic = (1 << bits) - 1, HALVES[half]
    number = f"tl.{dtype(half).language}"
    if shift + bits <= WORD:
        stays = _stays(bits, shift, half)
        code = f"word & {mask << shift:#x}" if stays else f"(word >> {shift}) & {mask:#x}"
        words = "word"
    else:
        code, words = f"((word >> {shift}) | (above << {WORD - shift})) & {mask}", "word, above"
    return f"""
@triton.jit
def {_name(bits, shift, half)}({words}):
    return (({code}) | {magic:#x}).to({number}, bitcast=True)
"""


def _ptx(bits: int, shift: int, half: str) -> str:
    straddles = shift + bits > WORD
    lines = _straddling(bits, shift, half) if straddles else _inside(bits, shift, half)
    words = "word, above" if straddles else "word"
    asm = " ".join(["{ .reg .b32 a, b;", *lines, "}"])
    inputs = "=r,r,r" if straddles else "=r,r"
    return f"""
@triton.jit
def {_name(bits, shift, half)}({words}):
    return tl.inline_asm_elementwise(
        "{asm}",
        "{inputs}", [{words}], dtype=tl.{dtype(half).language}, is_pure=True, pack=2,
    )
"""


def _twice(bits: int) -> str:
    """The same 16 bits in both halves of a register."""
    return f"{bits * 0x10001:#010x}"


def _inside(bits: int, shift: int, half: str) -> list[str]:
    mask, magic = (1 << bits) - 1, _twice(HALVES[half])
    if _stays(bits, shift, half):
        return [f"lop3.b32 $0, $1, {_twice(mask << shift)}, {magic}, {AND_OR};"]
    return [f"shr.b32 a, $1, {shift};", f"lop3.b32 $0, a, {_twice(mask)}, {magic}, {AND_OR};"]


def _straddling(bits: int, shift: int, half: str) -> list[str]:
    """What a shift brings over from the other half of the register the masks leave out."""
    low = WORD - shift
    lower, upper = _twice((1 << low) - 1), _twice((1 << bits) - (1 << low))
    return [
        f"shr.b32 a, $1, {shift};", f"lop3.b32 a, a, {lower}, {_twice(HALVES[half])}, {AND_OR};",
        f"shl.b32 b, $2, {low};", f"lop3.b32 $0, b, {upper}, a, {AND_OR};",
    ]  # fmt: skip


HELPERS.update({_name(*place): _portable(*place) for place in _places()})
PTX = {_name(*place): _ptx(*place) for place in _places()}
