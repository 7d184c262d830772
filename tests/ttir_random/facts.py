"""What is known of the values of a random kernel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

INTS = ("i8", "i16", "i32", "i64")
FLOATS = ("f16", "bf16", "f32", "f64")
SMALL_FLOATS = ("f8E4M3FN", "f8E5M2")
ELEMENTS = (*INTS, *FLOATS, *SMALL_FLOATS)
BYTES = {"i1": 1, "i8": 1, "i16": 2, "i32": 4, "i64": 8, "f16": 2, "bf16": 2, "f32": 4, "f64": 8}
BYTES |= dict.fromkeys(SMALL_FLOATS, 1)
MANTISSA = {"f16": 11, "bf16": 8, "f32": 24, "f64": 53, "f8E4M3FN": 4, "f8E5M2": 3}
LARGEST = 1024  # elements of a tensor


@dataclass(frozen=True)
class Facts:
    """low, high   of an integer; of a pointer, in elements from its argument
    bound       a float is a whole number of at most this magnitude
    error       relative to which two right answers may differ
    positive    no element is negative
    zero        the sign of a zero is left open
    argument    that a pointer points into
    distinct    no two elements of a pointer are the same
    """

    low: int = 0
    high: int = 0
    bound: int | None = None
    error: float = 0.0
    positive: bool = False
    zero: bool = False
    argument: int = -1
    distinct: bool = False

    @property
    def exact(self) -> bool:
        return self.error == 0 and not self.zero


def any_of(element: str) -> Facts:
    """Nothing is known."""
    if element[0] == "i":
        return between(element, None, None)
    return Facts()


def between(element: str, low: int | None, high: int | None) -> Facts:
    """An integer in a range, or any of its type where the range is wider than that."""
    if element == "i1":
        return Facts(0, 1)
    last = (1 << (int(element[1:]) - 1)) - 1
    if low is None or high is None or low < -last - 1 or high > last:
        return Facts(-last - 1, last)
    return Facts(low, high)


def either(a: Facts, b: Facts) -> Facts:
    """What holds for both."""
    bound = None if a.bound is None or b.bound is None else max(a.bound, b.bound)
    return Facts(min(a.low, b.low), max(a.high, b.high), bound, max(a.error, b.error), a.positive and b.positive,
                 a.zero or b.zero, a.argument if a.argument == b.argument else -1)  # fmt: skip


def shifted(facts: Facts, step: int, rounds: int) -> Facts:
    by = step * rounds
    return replace(facts, low=facts.low + min(by, 0), high=facts.high + max(by, 0))


@dataclass(eq=False)
class Value:
    name: str
    element: str  # of a pointer `*` and what it points to
    shape: tuple[int, ...] | None
    facts: Facts
    used: bool = False

    @property
    def type(self) -> str:
        return typed(self.element, self.shape)

    @property
    def extent(self) -> tuple[int, ...]:
        return self.shape or ()


def typed(element: str, shape: tuple[int, ...] | None) -> str:
    written = f"!tt.ptr<{element[1:]}>" if element[0] == "*" else element
    return written if shape is None else f"tensor<{'x'.join([*map(str, shape), written])}>"


def int_facts(name: str, x: Value, y: Value) -> Facts:
    (a, b), (c, d) = (x.facts.low, x.facts.high), (y.facts.low, y.facts.high)
    if x.element == "i1":
        return Facts(0, 1)
    if name == "addi":
        return between(x.element, a + c, b + d)
    if name == "subi":
        return between(x.element, a - d, b - c)
    if name == "muli":
        ends = (a * c, a * d, b * c, b * d)
        return between(x.element, min(ends), max(ends))
    if name == "andi" and (a >= 0 or c >= 0):
        return Facts(0, min(n for n, low in ((b, a), (d, c)) if low >= 0))
    if name == "xori" and a >= 0 and c >= 0:
        return between(x.element, 0, (1 << max(b, d).bit_length()) - 1)
    if name in ("maxsi", "minsi"):
        pick = max if name == "maxsi" else min
        return Facts(pick(a, c), pick(b, d))
    return any_of(x.element)


def float_facts(name: str, x: Value, y: Value) -> Facts | None:
    """What is known of a result; None if two right answers may lie apart."""
    a, b = x.facts, y.facts
    error, zero = a.error + b.error, a.zero or b.zero
    limit = 1 << MANTISSA[x.element]
    ulp = 2.0 ** (1 - MANTISSA[x.element]) if error else 0.0
    both = a.bound is not None and b.bound is not None
    if name in ("maxnumf", "minnumf", "maximumf", "minimumf"):
        return replace(either(a, b), zero=True)
    if name == "remf":
        return Facts(zero=zero) if not error else None
    if name == "mulf":
        bound = a.bound * b.bound if both else None  # type: ignore[operator]
        return Facts(bound=bound if bound is not None and bound <= limit else None, error=error + ulp if error else 0.0,
                     positive=a.positive and b.positive, zero=zero)  # fmt: skip
    if name == "divf":
        return (
            Facts(error=error + ulp if error else 0.0, positive=a.positive and b.positive, zero=zero)
            if not b.zero or b.positive
            else None
        )
    if error and not (name == "addf" and a.positive and b.positive):
        return None
    bound = a.bound + b.bound if both else None  # type: ignore[operator]
    return Facts(bound=bound if bound is not None and bound <= limit else None, error=error + ulp if error else 0.0,
                 positive=name == "addf" and a.positive and b.positive, zero=zero)  # fmt: skip


def float_text(number: Any, element: str) -> tuple[str, Facts]:
    bits = {"f16": (5, 10), "bf16": (8, 7), "f32": (8, 23), "f64": (11, 52), "f8E4M3FN": (4, 3), "f8E5M2": (5, 2)}[
        element
    ]
    exponent, mantissa = bits
    width = exponent + mantissa + 1
    if number in ("inf", "-inf", "nan") and element == "f8E4M3FN":
        number = 4.0
    if number in ("inf", "-inf", "nan"):
        raw = ((1 << exponent) - 1) << mantissa | (1 << width - 1) * (number == "-inf")
        raw |= (1 << mantissa - 1) * (number == "nan")
        return f"0x{raw:0{width // 4}X}", Facts()
    if number == "-0":
        return "-0.0", Facts(bound=0)
    bound = abs(int(number)) if number == int(number) else None
    return f"{number:e}", Facts(bound=bound, positive=number >= 0)
