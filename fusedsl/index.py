"""Integer algebra of sizes and indices: polynomials with integer coefficients over named quantities.

A size is an `int` or a `Poly` over size symbols; an index is an `int` or a `Poly` over size symbols and axes. A `Poly`
is interned and in normal form, so equal means identical, and a constant is always a plain `int`. What is not a
polynomial (a floor division, a remainder, a value read from memory) stands in it as an opaque atom::

    n = Symbol("n")                      # a size known at run time, at least 2: sizes 0 and 1 are specialised away
    i = Variable("i", 4 * n)             # 0 <= i < 4n
    floordiv(i * 8 + 3, 8)  ->  i        # because 0 <= 3 < 8
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import ClassVar, Union

Index = Union[int, "Poly"]


class Atom:
    """A quantity that polynomials are made of. `key` orders atoms; `low` and `high` bound it (None: unknown)."""

    __slots__ = ("__weakref__", "key")
    key: tuple

    @property
    def bounds(self) -> tuple[Index | None, Index | None]:
        return None, None

    def replace(self, mapping: Mapping[Atom, Index]) -> Index:
        """This atom, with the atoms inside it replaced; the atom itself is looked up by the caller."""
        return poly(self)

    @property
    def free(self) -> frozenset[Atom]:
        """The symbols and variables that this atom is made of."""
        return frozenset((self,))

    def __add__(self, other: object) -> Index:
        return poly(self) + other  # type: ignore[operator]

    def __radd__(self, other: object) -> Index:
        return poly(self) + other  # type: ignore[operator]

    def __mul__(self, other: object) -> Index:
        return poly(self) * other  # type: ignore[operator]

    def __rmul__(self, other: object) -> Index:
        return poly(self) * other  # type: ignore[operator]

    def __sub__(self, other: object) -> Index:
        return poly(self) - other  # type: ignore[operator]

    def __rsub__(self, other: object) -> Index:
        return other - poly(self)  # type: ignore[operator]


class Symbol(Atom):
    """A size known only at run time, at least 2. Two symbols of one name are the same symbol."""

    __slots__ = ("name",)
    _table: ClassVar[dict[str, Symbol]] = {}

    def __new__(cls, name: str) -> Symbol:
        if name not in cls._table:
            self = super().__new__(cls)
            self.name, self.key = name, (0, name)
            cls._table.setdefault(name, self)
        return cls._table[name]

    def __getnewargs__(self) -> tuple[str]:
        return (self.name,)

    @property
    def bounds(self) -> tuple[Index, Index | None]:
        return 2, poly(self)

    def __repr__(self) -> str:
        return self.name


class Variable(Atom):
    """An index that runs over [0, extent). Each one made is a variable of its own, whatever its name."""

    __slots__ = ("extent", "name", "serial")
    _count = 0
    _lock = threading.Lock()

    def __init__(self, name: str, extent: Index) -> None:
        with Variable._lock:
            Variable._count += 1
            self.serial = Variable._count
        self.name, self.extent, self.key = name, extent, (1, name, self.serial)

    @property
    def bounds(self) -> tuple[Index, Index]:
        return 0, self.extent - 1

    def __repr__(self) -> str:
        return self.name


class Quotient(Atom):
    """floor(dividend / divisor), where nothing simpler is known to equal it; divisor > 0."""

    __slots__ = ("dividend", "divisor")
    symbol, function = "//", staticmethod(lambda a, b: a // b)

    def __init__(self, dividend: Index, divisor: Index) -> None:
        self.dividend, self.divisor = dividend, divisor
        self.key = (2, self.symbol, order_key(dividend), order_key(divisor))

    @property
    def bounds(self) -> tuple[Index | None, Index | None]:
        low, high = bounds(self.dividend)
        known = low is not None and is_nonnegative(low)
        return (0 if known else None), (floordiv(high, self.divisor) if high is not None else None)

    @property
    def free(self) -> frozenset[Atom]:
        return free(self.dividend) | free(self.divisor)

    def replace(self, mapping: Mapping[Atom, Index]) -> Index:
        return floordiv(replace(self.dividend, mapping), replace(self.divisor, mapping))

    def __reduce__(self):
        return (_quotient, (type(self), self.dividend, self.divisor))

    def __repr__(self) -> str:
        return f"({_factor(self.dividend)} {self.symbol} {_factor(self.divisor)})"


class Remainder(Quotient):
    """dividend mod divisor, in [0, divisor)."""

    __slots__ = ()
    symbol, function = "%", staticmethod(lambda a, b: a % b)

    @property
    def bounds(self) -> tuple[Index | None, Index | None]:
        return 0, self.divisor - 1

    def replace(self, mapping: Mapping[Atom, Index]) -> Index:
        return remainder(replace(self.dividend, mapping), replace(self.divisor, mapping))


Terms = dict[tuple[Atom, ...], int]  # a product of atoms, in order -> its coefficient


class Poly:
    """A sum of products of atoms with integer coefficients, interned. Never a constant: that is an int."""

    __slots__ = ("__weakref__", "terms")
    terms: tuple[tuple[tuple[Atom, ...], int], ...]
    _table: ClassVar[weakref.WeakValueDictionary] = weakref.WeakValueDictionary()
    _lock = threading.Lock()

    def __add__(self, other: Index | Atom) -> Index:
        terms = dict(self.terms)
        for product, factor in _terms(other):
            terms[product] = terms.get(product, 0) + factor
        return _make(terms)

    def __mul__(self, other: Index | Atom) -> Index:
        terms: Terms = {}
        for left, a in self.terms:
            for right, b in _terms(other):
                product = tuple(sorted(left + right, key=_key))
                terms[product] = terms.get(product, 0) + a * b
        return _make(terms)

    def __neg__(self) -> Index:
        return self * -1

    def __sub__(self, other: Index | Atom) -> Index:
        return self + (other * -1)

    def __rsub__(self, other: Index | Atom) -> Index:
        return (self * -1) + other

    __radd__, __rmul__ = __add__, __mul__

    def __reduce__(self):
        return (_from_terms, (self.terms,))

    def __repr__(self) -> str:
        text = ""
        for product, factor in self.terms:
            names = [repr(atom) for atom in product]
            body = "*".join(names if abs(factor) == 1 and names else [str(abs(factor)), *names])
            text += (" - " if factor < 0 else " + ") + body
        return ("-" if text.startswith(" - ") else "") + text[3:]


def _key(atom: Atom) -> tuple:
    return atom.key


def order_key(value: Index) -> tuple:
    """A key that sorts indices in one order, the same in every process."""
    return tuple((tuple(a.key for a in product), factor) for product, factor in _terms(value))


def _terms(value: Index | Atom) -> tuple[tuple[tuple[Atom, ...], int], ...]:
    if isinstance(value, Poly):
        return value.terms
    if isinstance(value, Atom):
        return (((value,), 1),)
    assert isinstance(value, int), f"not an integer quantity: {value!r}"
    return (((), int(value)),) if value else ()


def _make(terms: Terms) -> Index:
    terms = _rejoin({product: factor for product, factor in terms.items() if factor})
    if not terms:
        return 0
    if len(terms) == 1 and () in terms:
        return terms[()]
    frozen = tuple(terms.items()) if len(terms) == 1 else tuple(sorted(terms.items(), key=_term_key))
    with Poly._lock:
        found = Poly._table.get(frozen)
        if found is None:
            found = object.__new__(Poly)
            found.terms = frozen
            Poly._table[frozen] = found
        return found


def _from_terms(terms: Iterable[tuple[tuple[Atom, ...], int]]) -> Index:
    return _make({tuple(sorted(product, key=_key)): factor for product, factor in terms})


def _term_key(term: tuple[tuple[Atom, ...], int]) -> tuple:
    # variables first, the constant last, as people write it; the last atom of a product has the greatest key
    product, factor = term
    return (not product, -product[-1].key[0] if product else 0, tuple(a.key for a in product), factor)


def _rejoin(terms: Terms) -> Terms:
    """k*(e // k) + e % k  ->  e, as many times as both are there, under any common factor"""
    for product, factor in terms.items():
        for atom in product:
            if not isinstance(atom, Remainder):
                continue
            rest = list(product)
            rest.remove(atom)
            unit = _product(rest, 1 if factor > 0 else -1)
            partner = _terms(_multiply(_multiply(floordiv(atom.dividend, atom.divisor), atom.divisor), unit))
            times = min([abs(factor), *(terms.get(p, 0) // f for p, f in partner)]) if partner else 0
            if times > 0:
                left = dict(terms)
                gone = ((p, -f) for p, f in (*partner, *_terms(_multiply(poly(atom), unit))))
                for p, f in (*gone, *_terms(_multiply(atom.dividend, unit))):
                    left[p] = left.get(p, 0) + times * f
                return _rejoin({p: f for p, f in left.items() if f})
    return terms


def _product(atoms: Iterable[Atom], factor: int) -> Index:
    return _make({tuple(sorted(atoms, key=_key)): factor})


def _multiply(a: Index, b: Index) -> Index:
    return a * b


def poly(atom: Atom) -> Index:
    """The polynomial that is just this atom."""
    return _make({(atom,): 1})


def sole_atom(value: Index) -> Atom | None:
    """The atom that this index is, if it is nothing else."""
    if isinstance(value, Poly) and len(value.terms) == 1:
        (product, factor) = value.terms[0]
        if factor == 1 and len(product) == 1:
            return product[0]
    return None


def atoms(value: Index) -> set[Atom]:
    """The atoms that stand directly in this index."""
    return {atom for product, _ in _terms(value) for atom in product}


def free(value: Index) -> frozenset[Atom]:
    """The symbols and variables in this index, at any depth."""
    found: frozenset[Atom] = frozenset()
    for atom in atoms(value):
        found |= atom.free
    return found


def replace(value: Index, mapping: Mapping[Atom, Index]) -> Index:
    """This index with atoms replaced, everywhere and at once."""
    if isinstance(value, int) or not mapping:
        return value
    if isinstance(sole := sole_atom(value), Symbol):
        return mapping.get(sole, value)
    total: Index = 0
    for product, factor in value.terms:
        term: Index = factor
        for atom in product:
            term = term * (mapping[atom] if atom in mapping else atom.replace(mapping))
        total = total + term
    return total


def evaluate(value: Index, sizes: Mapping[str, int]) -> int:
    """The number that a size is, given its symbols' values by name."""
    if isinstance(value, int):
        return value
    total = 0
    for product, factor in value.terms:
        for atom in product:
            if isinstance(atom, Symbol):
                factor *= sizes[atom.name]
            elif isinstance(atom, Quotient):
                factor *= atom.function(evaluate(atom.dividend, sizes), evaluate(atom.divisor, sizes))
            else:
                raise AssertionError(f"no value for {atom!r} in {value!r}")
        total += factor
    return total


def is_nonnegative(value: Index) -> bool:
    """Whether this is proved to be at least 0 for all sizes >= 2 (False: not proved)."""
    if isinstance(value, int):
        return value >= 0
    low, _ = bounds(value)
    if low is None:
        return False
    if isinstance(low, int):
        return low >= 0
    symbols = atoms(low)
    if not all(isinstance(a, Symbol) for a in symbols):
        return False  # and no replacing in it: what was simplified for symbols from 2 up may differ below
    # with every symbol written as 2 + something >= 0, no negative coefficient may be left
    shifted = replace(low, {a: a + 2 for a in symbols})
    return all(factor >= 0 for _, factor in _terms(shifted))


@lru_cache(maxsize=65536)
def bounds(value: Index) -> tuple[Index | None, Index | None]:
    """The least and the greatest value as sizes, None where unknown. Symbols stay symbols."""
    low: Index | None = 0
    high: Index | None = 0
    for product, factor in _terms(value):
        least, most = _product_bounds(product)
        if factor < 0:
            least, most = most, least
        low = low + factor * least if low is not None and least is not None else None
        high = high + factor * most if high is not None and most is not None else None
    return low, high


def _product_bounds(product: tuple[Atom, ...]) -> tuple[Index | None, Index | None]:
    least: Index | None = 1
    most: Index | None = 1
    for atom in product:
        low, high = (poly(atom), poly(atom)) if isinstance(atom, Symbol) else atom.bounds
        if low is None or not (isinstance(atom, Symbol) or is_nonnegative(low)):
            return (low, high) if len(product) == 1 else (None, None)
        least = least * low if least is not None else None
        most = most * high if most is not None and high is not None else None
    return least, most


def is_less(a: Index, b: Index) -> bool:
    """Whether a < b is proved."""
    return is_nonnegative(b - a - 1)


def divide_exactly(value: Index, divisor: Index) -> Index | None:
    """The quotient if every term divides, else None; None too for a divisor of 0."""
    if divisor == 0:
        return None
    if isinstance(divisor, int) and isinstance(value, int):
        return value // divisor if value % divisor == 0 else None
    if value == divisor:
        return 1
    terms = tuple(_terms(divisor))
    if len(terms) != 1:
        return _divide_by_sum(value, divisor)
    quotient: Terms = {}
    for product, factor in _terms(value):
        rest = _without(product, terms[0][0])
        if rest is None or factor % terms[0][1]:
            return None
        quotient[rest] = factor // terms[0][1]
    return _make(quotient)


def _divide_by_sum(value: Index, divisor: Index) -> Index | None:
    """Long division by a polynomial of several terms, by its leading term."""
    lead, factor = max(_terms(divisor), key=lambda t: (len(t[0]), tuple(a.key for a in t[0])))
    quotient: Index = 0
    for _ in range(8):
        if value == 0:
            return quotient
        for product, f in sorted(_terms(value), key=lambda t: -len(t[0])):
            rest = _without(product, lead)
            if rest is not None and f % factor == 0:
                step = _product(rest, f // factor)
                quotient, value = quotient + step, value - step * divisor
                break
        else:
            return None
    return None


def _without(product: tuple[Atom, ...], part: tuple[Atom, ...]) -> tuple[Atom, ...] | None:
    rest = list(product)
    for atom in part:
        if atom not in rest:
            return None
        rest.remove(atom)
    return tuple(rest)


def split(value: Index, divisor: Index) -> tuple[Index, Index]:
    """(q, r) with value == q * divisor + r, as much as possible in q and no negative coefficients left in r by it."""
    terms = tuple(_terms(divisor))
    if len(terms) != 1:
        whole = divide_exactly(value, divisor)
        return (whole, 0) if whole is not None else (0, value)
    part, by = terms[0]
    quotient: Terms = {}
    for product, factor in _terms(value):
        rest = _without(product, part)
        if rest is not None and factor // by:
            quotient[rest] = factor // by
    q = _make(quotient)
    return q, value - q * divisor


@lru_cache(maxsize=65536)
def floordiv(value: Index, divisor: Index) -> Index:
    """floor(value / divisor) for a positive divisor, simplified as far as ranges allow."""
    q, r = split(value, divisor)
    if isinstance(r, int) and isinstance(divisor, int):
        return q + r // divisor
    if is_nonnegative(r) and is_less(r, divisor):
        return q
    inner = sole_atom(r)
    if type(inner) is Quotient:  # (e // a) // b  ->  e // (a*b)
        return q + floordiv(inner.dividend, inner.divisor * divisor)
    unit, whole, _, rest = _in_units(r, divisor)
    if unit > 1:  # (u*e + c) // (u*d)  ->  e // d,  0 <= c < u
        return q + floordiv(whole, rest)
    return q + poly(_quotient(Quotient, r, divisor))


@lru_cache(maxsize=65536)
def remainder(value: Index, divisor: Index) -> Index:
    """value mod divisor for a positive divisor, in [0, divisor), simplified as far as ranges allow."""
    _, r = split(value, divisor)
    if isinstance(r, int) and isinstance(divisor, int):
        return r % divisor
    if is_nonnegative(r) and is_less(r, divisor):
        return r
    inner = sole_atom(r)
    if isinstance(inner, Remainder) and divide_exactly(inner.divisor, divisor) is not None:
        return remainder(inner.dividend, divisor)
    unit, whole, more, rest = _in_units(r, divisor)
    if unit > 1:  # (u*e + c) % (u*d)  ->  u*(e % d) + c
        return remainder(whole, rest) * unit + more
    if floordiv(r, divisor) == 0:
        return r
    return poly(_quotient(Remainder, r, divisor))


def _in_units(value: Index, divisor: Index) -> tuple[int, Index, int, Index]:
    """(u, e, c, d) with value == u * e + c, 0 <= c < u, and divisor == u * d, for the greatest u that there is."""
    if not isinstance(divisor, int):
        return 1, value, 0, divisor
    unit = math.gcd(divisor, *(factor for product, factor in _terms(value) if product))
    more = sum(factor for product, factor in _terms(value) if not product) % unit
    whole = divide_exactly(value - more, unit)
    assert whole is not None, f"{value} - {more} is no multiple of {unit}"
    return unit, whole, more, divisor // unit


def cdiv(value: Index, divisor: Index) -> Index:
    """ceil(value / divisor)"""
    return floordiv(value + (divisor - 1), divisor)


_quotients: weakref.WeakValueDictionary = weakref.WeakValueDictionary()
_quotients_lock = threading.Lock()


def _quotient(kind: Callable[[Index, Index], Atom], dividend: Index, divisor: Index) -> Atom:
    key = (kind, dividend, divisor)
    with _quotients_lock:
        found = _quotients.get(key)
        if found is None:
            found = _quotients[key] = kind(dividend, divisor)
        return found


def _factor(value: Index) -> str:
    return repr(value) if isinstance(value, int) or sole_atom(value) is not None else f"({value!r})"


def uses_of(index: Index, axis: Variable) -> Iterator[Index | None]:
    """The divisor of each division of the axis, None for another use."""
    for atom in atoms(index):
        if atom is axis:
            yield None
        elif isinstance(atom, Quotient) and axis in atom.free:
            yield atom.divisor if _is_division(atom, axis) else None


def _is_division(atom: Atom, axis: Variable) -> bool:
    return isinstance(atom, Quotient) and not isinstance(atom, Remainder) and sole_atom(atom.dividend) is axis
