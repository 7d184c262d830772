"""Sizes while tracing: known now, symbolic for later calls, and the conditions under which that is right.

A size is a `Size`: a `torch.SymInt`, so that torch's parsers take it, which says that it is an `int`, so that users'
`isinstance` checks do. Its arithmetic is polynomial (index.py). What needs the value itself (a branch, `range(n)`,
`math.sqrt(n)`) takes it from the current call, and leaves a condition that later calls must meet.
"""

from __future__ import annotations

import keyword
import math
import operator
from collections.abc import Callable, Iterable
from typing import Any, SupportsIndex

import numpy as np
import torch

from .errors import BadArgument
from .index import (
    Atom,
    Index,
    Poly,
    Symbol,
    divide_exactly,
    evaluate,
    free,
    is_less,
    is_nonnegative,
    poly,
    replace,
)

COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
_OPPOSITE = {"<": ">=", ">=": "<", ">": "<=", "<=": ">", "==": "!=", "!=": "=="}


class Facts:
    """What one trace knows of sizes, and the conditions (Python text over symbols and arguments) it rests on."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}  # symbol -> its value in this call
        self.known: dict[Atom, Index] = {}  # symbol -> what stands for it
        self.conditions: dict[str, None] = {}  # in the order they were assumed
        self.news: list[Atom] = []  # symbols that nodes made before this may still show
        self.is_over = False
        self._chosen: set[str] = set()  # symbols named by the user, which outlive others

    # ---- symbols ----

    def symbol(self, value: int, name: str | None = None) -> Symbol:
        """A symbol for a size of at least 2; a name given twice is one symbol. Raises BadArgument."""
        if name is None:
            number = len(self.values)
            while f"s{number}" in self.values:
                number += 1
            name = f"s{number}"
        else:
            self._check_name(name, value)
            self._chosen.add(name)
        self.values[name] = value
        return Symbol(name)

    def _check_name(self, name: str, value: int) -> None:
        if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
            raise BadArgument(op="trace", name="a size's name", rule="a Python name", got=repr(name), hint="")
        if self.values.setdefault(name, value) != value:
            got = f"{self.values[name]} and {value}"
            raise BadArgument(op="trace", name=f"the size {name}", rule="the same everywhere", got=got, hint="")

    def resolve(self, index: Index) -> Index:
        """The size in terms of the symbols that still stand."""
        return replace(index, self.known)

    def value(self, index: Index) -> int:
        """The size in this call."""
        return evaluate(index, self.values)

    def size(self, index: Index) -> int | Size:
        """The size as a user sees it."""
        index = self.resolve(index)
        return index if isinstance(index, int) else Size(self, index)

    # ---- assumptions ----

    def require(self, condition: str) -> None:
        """Later calls must meet this condition."""
        self.conditions[condition] = None

    def fix(self, index: Index) -> int:
        """The size as a number; its symbols are that number from now on."""
        for symbol in symbols(self.resolve(index)):
            value = self.values[symbol.name]
            self.require(f"{symbol} == {value}")
            self._learn(symbol, value)
        return self.value(index)

    def equate(self, a: Index, b: Index) -> bool:
        """Makes two sizes one, if they are equal in this call."""
        a, b = self.resolve(a), self.resolve(b)
        if a is b or a == b:
            return True
        if self.value(a) != self.value(b):
            return False
        self.require(f"{a} == {b}")
        difference = _without_factors(a - b)
        while difference != 0:
            solution = self._solve(difference)
            if solution is None:  # with one size less it may be simpler
                self.fix(poly(max(symbols(difference), key=self._order)))
            else:
                self._learn(*solution)
            difference = _without_factors(self.resolve(difference))
        return True

    def _order(self, symbol: Symbol) -> tuple[bool, int]:
        """Which of several symbols goes first: the user's own last, of others the last made."""
        return symbol.name not in self._chosen, list(self.values).index(symbol.name)

    def _learn(self, symbol: Atom, index: Index) -> None:
        self.known = {known: replace(value, {symbol: index}) for known, value in self.known.items()}
        self.known[symbol] = index
        self.news.append(symbol)

    def _solve(self, difference: Index) -> tuple[Symbol, Index] | None:
        """The symbol to give up, and what it equals, if the difference is 0."""
        if isinstance(difference, int):
            return None
        factor = math.gcd(*(f for _, f in difference.terms))
        solutions = {}
        for product, f in difference.terms:
            if len(product) == 1 and isinstance(product[0], Symbol) and abs(f) == factor:
                rest = divide_exactly(poly(product[0]) * f - difference, f)
                if rest is not None and product[0] not in free(rest):
                    solutions[product[0]] = rest
        if not solutions:
            return None
        given_up = max(solutions, key=self._order)
        return given_up, solutions[given_up]

    # ---- what Python asks of a size ----

    def compare(self, sign: str, a: Index, b: Index) -> bool:
        """a < b and the like: proved if it can be, else as it is in this call, under a condition."""
        a, b = self.resolve(a), self.resolve(b)
        if (proved := _proved(sign, a, b)) is not None:
            return proved
        outcome = COMPARE[sign](self.value(a), self.value(b))
        if sign in ("==", "!=") and outcome == (sign == "=="):
            return self.equate(a, b) == outcome
        self.require(f"{a} {sign if outcome else _OPPOSITE[sign]} {b}")
        return outcome

    def floordiv(self, a: Index, b: Index) -> Index:
        """a // b where it is exact, else the number it is in this call."""
        exact = divide_exactly(a, b) if self._is_divisor(b) else None
        return self.fix(a) // self.fix(b) if exact is None else exact

    def remainder(self, a: Index, b: Index) -> Index:
        """a % b: 0 where b divides a, else what it is in this call, under a condition on the remainder alone."""
        if self._is_divisor(b) and divide_exactly(a, b) is not None:
            return 0
        result = self.value(a) % self.value(b)
        self.require(f"({a}) % ({b}) == {result}")
        return result

    def _is_divisor(self, index: Index) -> bool:
        return self.compare("!=", index, 0)

    def power(self, a: Index, b: Index) -> Index | float:
        """a ** b: a product for small constant exponents, else the number it is in this call."""
        if isinstance(b, int) and 0 <= b <= 8:
            return math.prod([a] * b, start=1)
        return self.fix(a) ** self.fix(b)


def symbols(index: Index) -> list[Symbol]:
    """The symbols in a size, in one order."""
    return sorted((a for a in free(index) if isinstance(a, Symbol)), key=lambda s: s.key)


def _without_factors(index: Index) -> Index:
    """What is 0 where the index is: symbols that divide it are left out, for they are not 0."""
    for atom in symbols(index):
        while index != 0 and (quotient := divide_exactly(index, poly(atom))) is not None:
            index = quotient
    return index


def _proved(sign: str, a: Index, b: Index) -> bool | None:
    """Whether the comparison holds for all sizes, None where that is not known."""
    if sign in (">", ">="):
        return _proved("<" if sign == ">" else "<=", b, a)
    if sign == "<":
        return True if is_less(a, b) else (False if is_nonnegative(a - b) else None)
    if sign == "<=":
        return True if is_nonnegative(b - a) else (False if is_less(b, a) else None)
    if a == b:
        return sign == "=="
    if is_less(a, b) or is_less(b, a):
        return sign == "!="
    return None


# ---- sizes as Python sees them --------------------------------------------------------------------------------------


class SymNode:
    """What torch asks of a SymInt's node when a size reaches it outside of the trace's mode."""

    def __init__(self, size: torch.SymInt) -> None:
        self.size = size

    def is_int(self) -> bool:
        return True

    def is_nested_int(self) -> bool:
        return False

    def maybe_as_int(self) -> int:
        return int(self.size)

    def guard_int(self, file: str, line: int) -> int:
        return int(self.size)


class Size(torch.SymInt):
    """A size that later calls may change. What needs its value fixes it, and so costs those calls a trace."""

    def __init__(self, facts: Facts, index: Poly) -> None:
        self._facts, self._index = facts, index

    @property
    def __class__(self) -> type:  # type: ignore[override]  # what isinstance asks
        return int

    @property
    def node(self) -> SymNode:
        return SymNode(self)

    @property
    def index(self) -> Index:
        """The size in terms of symbols."""
        return self._facts.resolve(self._index)

    def __index__(self) -> int:
        return self._facts.fix(self._index)

    __int__ = __trunc__ = __floor__ = __ceil__ = __index__

    def __float__(self) -> float:
        return float(int(self))

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array(int(self), dtype)

    def __bool__(self) -> bool:
        return self._facts.compare("!=", self.index, 0)

    def __hash__(self) -> int:
        return hash(int(self))

    def __neg__(self) -> Any:
        return self._facts.size(self.index * -1)

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return self if self >= 0 else -self

    def __round__(self, ndigits: int | None = None) -> Any:
        return self if ndigits is None or ndigits >= 0 else round(int(self), ndigits)

    def __divmod__(self, other: Any) -> tuple:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> tuple:
        return other // self, other % self

    def __sym_max__(self, other: Any) -> Any:
        return self if self >= other else other

    def __sym_min__(self, other: Any) -> Any:
        return self if self <= other else other

    def __sym_float__(self) -> float:  # type: ignore[override]
        return float(self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(int, name):
            raise AttributeError(name)
        return getattr(int(self), name)

    def __deepcopy__(self, memo: dict) -> Size:
        return self

    def __repr__(self) -> str:
        return repr(self.index)

    def __str__(self) -> str:
        return str(int(self))

    def __format__(self, spec: str) -> str:
        return format(int(self), spec)


def index_of(value: Any) -> Index | None:
    """The index that an int or a size is, None for anything else."""
    if type(value) is Size:
        return value.index
    return int(value) if type(value) is int or type(value) is bool else None


def _is_others(other: Any) -> bool:
    """Whether an operation with this is for its own type to define: a tensor, a number from the caller (numbers.py)."""
    return isinstance(other, (torch.Tensor, torch.SymFloat, torch.SymInt)) or not isinstance(other, (float, complex))


def _define_on_size(name: str, python: Callable, symbolic: Callable[[Facts, Index, Index], Any] | None) -> None:
    """A binary method of Size and its reflection: symbolic between sizes if it can be, else on the values."""

    def compute(facts: Facts, a: Index, b: Index) -> Any:
        if symbolic is None:
            return python(facts.fix(a), facts.fix(b))
        value = symbolic(facts, a, b)
        return facts.size(value) if isinstance(value, Poly) else value

    def method(self: Size, other: Any) -> Any:
        index = index_of(other)
        if index is not None:
            return compute(self._facts, self.index, index)
        return NotImplemented if _is_others(other) else python(int(self), other)

    def reflected(self: Size, other: Any) -> Any:
        index = index_of(other)
        if index is not None:
            return compute(self._facts, index, self.index)
        return NotImplemented if _is_others(other) else python(other, int(self))

    setattr(Size, f"__{name}__", method)
    setattr(Size, f"__r{name}__", reflected)


def _define_comparison(name: str, sign: str) -> None:
    def method(self: Size, other: Any) -> Any:
        facts = self._facts
        if sign in ("==", "!=") and (facts.is_over or (type(other) is Size and other._facts is not facts)):
            return sign == "!="  # it may have been kept as a key, in a library's cache: it is nobody's size now
        index = index_of(other)
        if index is not None:
            return facts.compare(sign, self.index, index)
        return NotImplemented if _is_others(other) else COMPARE[sign](int(self), other)

    setattr(Size, f"__{name}__", method)


BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "truediv": operator.truediv,
    "floordiv": operator.floordiv, "mod": operator.mod, "pow": operator.pow, "lshift": operator.lshift,
    "rshift": operator.rshift, "and": operator.and_, "or": operator.or_, "xor": operator.xor,
}  # fmt: skip
_SYMBOLIC: dict[str, Callable[[Facts, Index, Index], Any]] = {
    "add": lambda facts, a, b: a + b, "sub": lambda facts, a, b: a - b, "mul": lambda facts, a, b: a * b,
    "floordiv": Facts.floordiv, "mod": Facts.remainder, "pow": Facts.power,
}  # fmt: skip
COMPARISONS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}

for _name, _python in BINARY.items():
    _define_on_size(_name, _python, _SYMBOLIC.get(_name))
for _name, _sign in COMPARISONS.items():
    _define_comparison(_name, _sign)


class Shape(tuple):
    """A tensor's shape: says it is a torch.Size, and keeps symbolic sizes symbolic."""

    @property
    def __class__(self) -> type:  # type: ignore[override]  # what isinstance asks
        return torch.Size

    def numel(self) -> Any:
        return math.prod(self)

    def __getitem__(self, key: SupportsIndex | slice) -> Any:  # type: ignore[override]
        found = tuple.__getitem__(self, key)
        return Shape(found) if isinstance(key, slice) else found

    def __add__(self, other: Iterable) -> Shape:  # type: ignore[override]
        return Shape((*self, *other))

    def __radd__(self, other: Iterable) -> Shape:
        return Shape((*other, *self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, tuple) and len(self) == len(other) and all(map(operator.eq, self, other))

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(tuple(int(n) for n in self))

    def __repr__(self) -> str:
        return f"torch.Size([{', '.join(map(repr, self))}])"
