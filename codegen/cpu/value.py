"""The values of MLIR text, and the types that they have.

Floats are f16, f32 or f64. A bf16 is its bits, i16, and an f8 is its bits, i8: what they mean is elem.py's affair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

WIDTH = {"i1": 1, "i8": 8, "i16": 16, "i32": 32, "i64": 64, "f16": 16, "f32": 32, "f64": 64, "ptr": 64}


def is_float(el: str) -> bool:
    return el[0] == "f"


def bits_of(el: str) -> int:
    """The width of an element type in bits."""
    return WIDTH[el]


def bytes_of(el: str) -> int:
    """What an element takes in memory; an i1 takes a byte."""
    return max(1, WIDTH[el] // 8)


def type_text(el: str, lanes: int | None) -> str:
    scalar = "!llvm.ptr" if el == "ptr" else el
    return scalar if lanes is None else f"vector<{lanes}x{scalar}>"


@dataclass(frozen=True, slots=True)
class Value:
    """An SSA value: a scalar, or a vector where `lanes` is a number."""

    name: str
    el: str
    lanes: int | None
    depth: int
    constant: Any = None  # the number, where every lane is known to be that one
    short: bool = False  # the low 16 bits of it are zero; of a float, if it is NaN

    @property
    def type(self) -> str:
        return type_text(self.el, self.lanes)

    @property
    def is_vector(self) -> bool:
        return self.lanes is not None
