"""Codes of packed weights as halves, of each width at each place in a word: two bodies of one function, bit for bit the
same, of which one is Triton's and one PTX.

A whole number is the bits of its code under those of 1024 (bf16: 128): that number and the code added up, or where the
digits of the half reach up to where it stands, the code times a power of two. A small float is its sign, exponent and
mantissa where an f16 has them: the float times a power of two. Either is put together of `Piece`s of words, in PTX two
codes at once, in the two halves of a register: what a shift brings over from the other half the masks leave out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fusedsl.formats import ELEMENTS, Element
from fusedsl.halves import BIAS, fits_f16
from fusedsl.ops.helpers import HELPERS
from fusedsl.scalar import Expr
from fusedsl.types import dtype

WORD = 16
MAGIC = {"f16": 0x6400, "bf16": 0x4300}  # the bits of what codes are added to
AND_OR = "0xEA"  # (a & b) | c


@dataclass(frozen=True)
class Piece:
    """Bits of a word (0, or 1 for the one above it), moved to the left, below 0 to the right, that a mask leaves."""

    word: int
    left: int
    mask: int


def half_name(e: Expr) -> str:
    """The function that an expression of kind `biased` or `raised` calls."""
    code = f"u{e['bits']}" if e.kind == "biased" else e["element"]
    return _name(code, e["shift"], e.dtype.name)


def _name(code: str, shift: int, half: str) -> str:
    return f"_{code}_at_{shift}_{half}"


# ---- pieces ----------------------------------------------------------------------------------------------------------


def whole_pieces(bits: int, shift: int, half: str) -> list[Piece]:
    """Of a whole number, put where the last digits of the half are, or left where it stands."""
    mask = (1 << bits) - 1
    if shift + bits > WORD:
        return _moved(0, bits, shift, 0)
    return [Piece(0, 0, mask << shift) if 1 << (bits + shift) <= BIAS[half] else Piece(0, -shift, mask)]


def float_pieces(element: Element, shift: int) -> list[Piece]:
    """Of a small float: what is below the sign, and the sign."""
    bits = element.bits
    return [*_moved(0, bits - 1, shift, 10 - element.mantissa), *_moved(bits - 1, 1, shift, 15)]


def _moved(first: int, count: int, shift: int, to: int) -> list[Piece]:
    """So many bits of a code from its bit `first` on, to a place of the half."""
    at = shift + first
    below = max(0, min(count, WORD - at))  # bits that are not in the word above
    pieces = [Piece(0, to - at, ((1 << below) - 1) << to)] if below else []
    above = [Piece(1, to - at + WORD, ((1 << count) - (1 << below)) << to)] if below < count else []
    return [*pieces, *above]


# ---- bodies ----------------------------------------------------------------------------------------------------------


def _portable(name: str, pieces: Sequence[Piece], base: int, half: str) -> str:
    texts = []
    for piece in pieces:
        word = ("word", "above")[piece.word]
        moved = f"({word} << {piece.left})" if piece.left > 0 else f"({word} >> {-piece.left})" if piece.left else word
        texts.append(f"({moved} & {piece.mask:#x})")
    code = " | ".join([*texts, f"{base:#x}"] if base else texts)
    return f"""
@triton.jit
def {name}({_words(pieces)}):
    return ({code}).to(tl.{dtype(half).language}, bitcast=True)
"""


def _ptx(name: str, pieces: Sequence[Piece], base: int, half: str) -> str:
    lines, total = [], f"{_twice(base)}" if base else ""
    for at, piece in enumerate(pieces):
        source, to = f"${piece.word + 1}", "$0" if at + 1 == len(pieces) else "b"
        if piece.left:
            lines.append(f"sh{'l' if piece.left > 0 else 'r'}.b32 a, {source}, {abs(piece.left)};")
            source = "a"
        mask = _twice(piece.mask)
        merged = f"lop3.b32 {to}, {source}, {mask}, {total}, {AND_OR};"
        lines.append(merged if total else f"and.b32 {to}, {source}, {mask};")
        total = to
    words = _words(pieces)
    return f"""
@triton.jit
def {name}({words}):
    return tl.inline_asm_elementwise(
        "{' '.join(["{ .reg .b32 a, b;", *lines, "}"])}",
        "=r{',r' * (words.count(',') + 1)}", [{words}], dtype=tl.{dtype(half).language}, is_pure=True, pack=2,
    )
"""


def _words(pieces: Sequence[Piece]) -> str:
    return "word, above" if any(piece.word for piece in pieces) else "word"


def _twice(bits: int) -> str:
    """The same 16 bits in both halves of a register."""
    return f"{bits * 0x10001:#010x}"


def _all() -> Iterator[tuple[str, Sequence[Piece], int, str]]:
    """Every width, place and half that a slab has codes at."""
    for half in MAGIC:
        for bits in range(1, 9):
            if 1 << bits <= BIAS[half]:
                for shift in _shifts(bits):
                    yield _name(f"u{bits}", shift, half), whole_pieces(bits, shift, half), MAGIC[half], half
    for name, element in ELEMENTS.items():
        if fits_f16(element):
            for shift in _shifts(element.bits):
                yield _name(name, shift, "f16"), float_pieces(element, shift), 0, "f16"


def _shifts(bits: int) -> list[int]:
    return sorted({j * bits % WORD for j in range(WORD)})


PIECES = {name: (pieces, base) for name, pieces, base, _ in _all()}
HELPERS.update({each[0]: _portable(*each) for each in _all()})
PTX = {each[0]: _ptx(*each) for each in _all()}
