"""Numbers that the caller of a traced function passed.

A `Real` says it is a float, a `Whole` that it is an int; both are text over the call's arguments, which each call
evaluates again, in Python, as eager does. A tensor operation takes the result as an input of the graph. What needs the
value (a branch, a shape, `math.sqrt`) takes it from the current call, and leaves a condition for later calls to meet.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from .sizes import BINARY, COMPARE, COMPARISONS, Facts, Size, SymNode


def number(facts: Facts, text: str, value: Any) -> Any:
    """A number as a user sees it: its text over a call's arguments, and its value in this call."""
    if type(value) not in (int, float):  # True, or what a power of a negative number may be
        facts.require(f"{text} == {value!r}")
        return value
    return Real(facts, text, value) if type(value) is float else Whole(facts, text, value)


def literal(value: Any) -> str:
    """Text that evaluates to the number, in parentheses where it could bind differently."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    return f"({value!r})" if value < 0 or str(value)[0] == "-" else repr(value)


class Number:
    """A number that the caller passed, or one computed from such."""

    def __init__(self, facts: Facts, text: str, value: Any) -> None:
        self._facts, self.text, self.value = facts, text, value

    @property
    def __class__(self) -> type:  # type: ignore[override]  # what isinstance asks
        return type(self.value)

    @property
    def is_fixed(self) -> bool:
        return self.text == literal(self.value)

    def fix(self) -> Any:
        """The value in this call; later calls must pass the same."""
        if not self.is_fixed:
            text, value = self.text, literal(self.value)
            if self.value != self.value:
                self._facts.require(f"{text} != {text}")
            elif self.value == 0:  # -0.0 == 0.0
                self._facts.require(f"str({text}) == '{self.value}'")
            else:
                self._facts.require(f"{text} == {value}")
            self.text = value
        return self.value

    def ask(self, text: str, outcome: bool) -> bool:
        """The outcome of a question in this call; it must come out the same in later ones."""
        self._facts.require(text if outcome else f"not ({text})")
        return outcome

    def __int__(self) -> int:
        return int(self.fix())

    def __float__(self) -> float:
        return float(self.fix())

    def __sym_float__(self) -> Any:
        return number(self._facts, f"float({self.text})", float(self.value))

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array(self.fix(), dtype)

    def __trunc__(self) -> int:
        return math.trunc(self.fix())

    def __floor__(self) -> int:
        return math.floor(self.fix())

    def __ceil__(self) -> int:
        return math.ceil(self.fix())

    def __round__(self, ndigits: int | None = None) -> Any:
        return round(self.fix(), ndigits)

    def __complex__(self) -> complex:
        return complex(self.fix())

    def __bool__(self) -> bool:
        return self.ask(f"{self.text} != 0", bool(self.value))

    def __hash__(self) -> int:
        return hash(self.fix())

    def __neg__(self) -> Any:
        return number(self._facts, f"(-{self.text})", -self.value)

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return number(self._facts, f"abs({self.text})", abs(self.value))

    def __divmod__(self, other: Any) -> tuple:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> tuple:
        return other // self, other % self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(type(self.value), name):
            raise AttributeError(name)
        return getattr(self.fix(), name)

    def __deepcopy__(self, memo: dict) -> Number:
        return self

    def __repr__(self) -> str:
        return str(self.fix())

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(self.fix(), spec)


class Real(Number, torch.SymFloat):
    """A float from the caller."""

    @property
    def node(self) -> Any:
        raise TypeError("a number of a trace met torch outside of it")


class Whole(Number, torch.SymInt):
    """An int from the caller."""

    def __index__(self) -> int:
        return self.fix()

    @property
    def node(self) -> SymNode:
        return SymNode(self)


def _parts(value: Any) -> tuple[str, Any] | None:
    """(text, value in this call) of a number, None for anything else."""
    if isinstance(value, Number):
        return value.text, value.value
    if type(value) is Size:
        return f"({value.index!r})", value._facts.value(value.index)
    return (literal(value), value) if type(value) in (int, float, bool) else None


_SIGNS = {
    "add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "mod": "%", "pow": "**",
    "lshift": "<<", "rshift": ">>", "and": "&", "or": "|", "xor": "^",
}  # fmt: skip


def _define_on_number(name: str, sign: str) -> None:
    python = BINARY[name]

    def method(self: Number, other: Any) -> Any:
        if (parts := _parts(other)) is None:
            return NotImplemented
        return number(self._facts, f"({self.text} {sign} {parts[0]})", python(self.value, parts[1]))

    def reflected(self: Number, other: Any) -> Any:
        if (parts := _parts(other)) is None:
            return NotImplemented
        return number(self._facts, f"({parts[0]} {sign} {self.text})", python(parts[1], self.value))

    setattr(Number, f"__{name}__", method)
    setattr(Number, f"__r{name}__", reflected)


def _define_number_comparison(name: str, sign: str) -> None:
    def method(self: Number, other: Any) -> Any:
        if (parts := _parts(other)) is None:
            return NotImplemented
        return self.ask(f"{self.text} {sign} {parts[0]}", COMPARE[sign](self.value, parts[1]))

    setattr(Number, f"__{name}__", method)


for _name, _sign in _SIGNS.items():
    _define_on_number(_name, _sign)
for _name, _sign in COMPARISONS.items():
    _define_number_comparison(_name, _sign)
