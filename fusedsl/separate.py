"""Separation: a value that varies along a reduced axis and uses reductions over that axis, as a sum of terms in which
the two stand apart::

    F(x; y) = sum_j G_j(x) H_j(y) prod exp(a(x) + b(y))        x: what varies along the axis, y: finished reductions

A sum over the axis is then one of G_j for each term (rank J), with H_j outside; what is in an exponent stays, for
range. The rules are equations of arithmetic, one for each kind of operation; what has none is refused by name.
(reference: factorisation of the summand in RedFuser and FuseMax, extended to finite rank, homogeneity and pilots)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple

from .algebra import (
    Maybe,
    apply,
    choose,
    combines,
    count,
    equals,
    is_number,
    is_op,
    minus,
    negative,
    over,
    plus,
    times,
    value,
)  # fmt: skip
from .index import Variable, poly
from .ir import OPS
from .scalar import TRUE, Expr, Free, both, constant, less, make, rebuild, select, substitute, walk

RANK = 4  # the most terms
PLACES = 16  # of an axis, the first that a pilot is the mean of


class Inseparable(Exception):
    """Why a value does not separate."""


class Power(NamedTuple):
    """The exponential of a + b: op is exp or exp2."""

    a: Maybe
    b: Maybe
    op: str


@dataclass(frozen=True)
class Term:
    """inner * outer / under * prod exp(a + b), for every power. inner and a vary along the axes and use no reduction
    over them; outer, under and b do not vary."""

    inner: Maybe = None
    outer: Maybe = None
    under: Maybe = None
    powers: tuple[Power, ...] = ()

    @property
    def is_inner(self) -> bool:
        return self.outer is None and self.under is None and not self.powers

    @property
    def is_outer(self) -> bool:
        return self.inner is None and not self.powers


class Separation:
    """Separates values with respect to some reduced axes."""

    def __init__(self, axes: Free) -> None:
        self.axes = axes
        self.memo: dict[Expr, list[Term]] = {}
        self.pilots: dict[Expr, Expr] = {}

    def is_stale(self, e: Expr) -> bool:
        """Whether it uses a reduction over the axes."""
        return bool(e.bound & self.axes)

    def varies(self, e: Expr) -> bool:
        return bool(e.free & self.axes)

    def terms(self, e: Expr) -> list[Term]:
        """Raises Inseparable."""
        if e not in self.memo:
            found = self._terms(e)
            if len(merged(found)) > RANK:
                raise Inseparable(f"it has more than {RANK} separated terms")
            self.memo[e] = found
        return self.memo[e]

    def _terms(self, e: Expr) -> list[Term]:
        if not self.is_stale(e):
            return [Term(inner=e)]
        if not self.varies(e):
            return [Term(outer=e)]
        if e.kind == "select" or is_op(e, "where"):
            return self._where(*e.args)
        if e.kind == "reduce":
            return self._linear(e)
        if is_op(e, "mul") or (is_op(e, "div") and self.is_stale(e.args[1]) and not self.varies(e.args[1])):
            return self._ratio(e)
        if e.kind == "apply":
            assert e.op is not None
            rule = _RULES.get(e.op.name)
            if rule is not None:
                return rule(self, *e.args)
            if e.op.homogeneous:
                return self._homogeneous(e)
            if e.op.name == "cast":
                raise Inseparable("rounding stops the rewrite")
            raise Inseparable(f"{e.op.name} is not homogeneous")
        raise Inseparable("rounding stops the rewrite" if e.kind == "round" else f"{e.kind} does not separate")

    # -- the rules

    def _add(self, a: Expr, b: Expr) -> list[Term]:
        """(sum_j) + (sum_i): all terms"""
        return self.terms(a) + self.terms(b)

    def _sub(self, a: Expr, b: Expr) -> list[Term]:
        return self.terms(a) + [_negated(t, b) for t in self.terms(b)]

    def _neg(self, a: Expr) -> list[Term]:
        return [_negated(t, a) for t in self.terms(a)]

    def _ratio(self, e: Expr) -> list[Term]:
        """(sum_j)(sum_i) h / k: every product; where several factors vary, a sum of what varies and what does not is
        centred at a pilot first"""
        varying, outer, under = self.factors(e)
        sides = [self.terms(f) for f in varying]
        if len(varying) > 1:
            sides = [self.centred(side) for side in sides]
        result = [Term(outer=outer, under=under)]
        for side in sides:
            result = [_product(s, t) for s, t in product(result, side)]
        return result

    def factors(self, e: Expr) -> tuple[list[Expr], Maybe, Maybe]:
        """The factors of a product that vary along the axes, the product of the others, and what divides it."""
        if not self.varies(e):
            return ([], e, None) if self.is_stale(e) else ([e], None, None)
        if is_op(e, "div") and (self.varies(e.args[1]) or not self.is_stale(e.args[1])):
            return [e], None, None
        if is_op(e, "mul", "div"):
            (varying, outer, under), (others, factor, divisor) = (self.factors(a) for a in e.args)
            if is_op(e, "mul"):
                return [*varying, *others], times(outer, factor), times(under, divisor)
            return varying, times(outer, divisor), times(under, factor)
        return [e], None, None

    def _div(self, a: Expr, b: Expr) -> list[Term]:
        """(sum_j) / t: every quotient, by one term that varies"""
        below = merged(self.terms(b))
        if len(below) > 1:
            raise Inseparable(f"a quotient by a sum of {len(below)} separated terms")
        (t,) = below
        powers = tuple(Power(negative(p), negative(q), op) for p, q, op in t.powers)
        under = Term(over(None, t.inner, b.dtype), t.under, t.outer, powers)
        result = []
        for s in self.terms(a):
            inner = over(s.inner, t.inner, a.dtype) if t.inner is not None else s.inner
            rest = replace(under, inner=None)
            result.append(replace(_product(replace(s, inner=None), rest), inner=inner))
        return result

    def _exp(self, a: Expr, op: str = "exp") -> list[Term]:
        """exp(sum g + sum h): a power, where every term either varies or uses reductions"""
        inner: Maybe = None
        outer: Maybe = None
        for t in self.terms(a):
            if t.is_inner:
                inner = plus(inner, value(t.inner, 1, a.dtype))
            elif t.is_outer:
                outer = plus(outer, over(t.outer, t.under, a.dtype))
            else:
                raise Inseparable(f"{op} of a product does not separate")
        return [Term(powers=(Power(inner, outer, op),))]

    def _exp2(self, a: Expr) -> list[Term]:
        return self._exp(a, "exp2")

    def _log(self, a: Expr) -> list[Term]:
        """log(g h exp(a + b)) = (log g + a) + (log h + b) for h > 0"""
        t = self._one_positive(a, "log")
        if any(power.op != "exp" for power in t.powers):
            raise Inseparable("log of a power of 2 does not separate")
        inner = None if t.inner is None else apply("log", t.inner)
        outer = over(t.outer, t.under, a.dtype)
        outer = None if outer is None else apply("log", outer)
        for p, q, _ in t.powers:
            inner, outer = plus(inner, p), plus(outer, q)
        return [Term(inner=value(inner, 0, a.dtype)), Term(outer=value(outer, 0, a.dtype))]

    def _root(self, a: Expr, name: str) -> list[Term]:
        """sqrt(g h) = sqrt(g) sqrt(h) for h > 0"""
        t = self._one_positive(a, name)
        if t.powers:
            raise Inseparable(f"{name} of an exponential does not separate")
        outer = over(t.outer, t.under, a.dtype)
        return [Term(inner=apply(name, value(t.inner, 1, a.dtype)), outer=apply(name, value(outer, 1, a.dtype)))]

    def _sqrt(self, a: Expr) -> list[Term]:
        return self._root(a, "sqrt")

    def _rsqrt(self, a: Expr) -> list[Term]:
        return self._root(a, "rsqrt")

    def _homogeneous(self, e: Expr) -> list[Term]:
        """f(g h) = f(g) h for h > 0"""
        assert e.op is not None
        (a,) = e.args
        t = self._one_positive(a, e.op.name)
        return [replace(t, inner=make("apply", e.dtype, (value(t.inner, 1, a.dtype),), e.op, **e.attrs))]

    def _one_positive(self, a: Expr, name: str) -> Term:
        found = merged(self.terms(a))
        if len(found) > 1:
            raise Inseparable(f"{name} of a sum of {len(found)} separated terms")
        (t,) = found
        if not all(part is None or is_positive(part) for part in (t.outer, t.under)):
            raise Inseparable(f"{name} of a product by a factor that is not known to be positive")
        return t

    def _where(self, condition: Expr, a: Expr, b: Expr) -> list[Term]:
        """where(c, sum_j, sum_i) = sum_j where(c, ., 0) + sum_i where(c, 0, .)   for c that uses no reduction"""
        if self.is_stale(condition):
            raise Inseparable("its condition uses a reduction over the axis")
        for one, other, keep in ((a, b, True), (b, a, False)):
            infinite = other.kind == "const" and math.isinf(other["value"])
            if infinite and all(t.is_inner or t.is_outer for t in self.terms(one)):
                inner = [t for t in self.terms(one) if t.is_inner]
                total = None
                for t in inner:
                    total = plus(total, value(t.inner, 1, a.dtype))
                picked = self._choose(condition, value(total, 0, a.dtype), other, keep)
                return [Term(inner=picked), *(t for t in self.terms(one) if not t.is_inner)]
        terms = [self._masked(condition, t, True, a) for t in self.terms(a) if not is_nothing(t)]
        return terms + [self._masked(condition, t, False, b) for t in self.terms(b) if not is_nothing(t)]

    def _masked(self, condition: Expr, t: Term, keep: bool, e: Expr) -> Term:
        """A term where the condition holds (or does not), 0 elsewhere: of an exponential, by its exponent."""
        if t.powers:
            first, *rest = t.powers
            p = self._choose(condition, value(first.a, 0, e.dtype), constant(-math.inf, e.dtype), keep)
            return replace(t, powers=(first._replace(a=p), *rest))
        return replace(t, inner=self._choose(condition, value(t.inner, 1, e.dtype), constant(0, e.dtype), keep))

    def _choose(self, condition: Expr, a: Expr, b: Expr, keep: bool) -> Expr:
        return choose(condition, *((a, b) if keep else (b, a)))

    def _linear(self, e: Expr) -> list[Term]:
        """sum_d g(x, d) h = (sum_d g(x, d)) h   over another axis d, of which neither h nor an exponent knows"""
        own = frozenset(e["axes"])
        assert e.op is not None
        if own & self.axes or not combines(e, "add"):
            raise Inseparable(f"{e.op.name} within the reduction does not separate")
        result = []
        for t in self.terms(e.args[0]):
            parts = [t.outer, t.under, *(part for power in t.powers for part in (power.a, power.b))]
            if any(part is not None and part.free & own for part in parts):
                raise Inseparable("an inner sum runs over a factor that uses a reduction")
            inner = count(e) if t.inner is None else make("reduce", e.dtype, (t.inner,), e.op, **e.attrs)
            result.append(replace(t, inner=inner))
        return result

    # -- range

    def covers(self, ceiling: Maybe, exponent: Expr) -> bool:
        """Whether a value made of extremes is at least an exponent wherever they have been taken, and only grows as
        more is met: then the exponential of the difference is at most 1, and so is what it shrinks by."""
        return ceiling is not None and any(self._covers(ceiling, e) for e in unmasked(exponent))

    def _covers(self, ceiling: Expr, exponent: Expr) -> bool:
        """max(a) covers a; what covers it with a limit or a positive factor does so too"""
        if combines(ceiling, "maximum"):
            return exponent is ceiling.args[0]
        if is_op(ceiling, "neg") and combines(ceiling.args[0], "minimum"):
            (of,) = ceiling.args[0].args
            return exponent is negative(of) or exponent is apply("neg", of)
        if is_op(ceiling, "maximum"):
            a, b = ceiling.args
            return any(self.covers(one, exponent) and not self.is_stale(other) for one, other in ((a, b), (b, a)))
        if is_pivot(ceiling):
            return self.covers(ceiling.args[2], exponent)
        if is_op(ceiling, "mul") and is_op(exponent, "mul"):
            shared = [a for a in ceiling.args if a.kind == "const" and a["value"] > 0 and a in exponent.args]
            return any(self.covers(_without(ceiling, a), _without(exponent, a)) for a in shared)
        return False

    # -- pilots

    def centred(self, terms: list[Term]) -> list[Term]:
        """[g f] + [h] -> [(g - c) f] + [c f + h], where c is about g's mean: a sum of products of them keeps its digits
        where g f and h almost cancel."""
        outer = [t for t in terms if t.is_outer]
        varying = merged(t for t in terms if not t.is_outer)
        if len(varying) != 1 or varying[0].powers or not outer:
            return terms
        (one,) = varying
        total = one.inner
        assert total is not None
        if total not in self.pilots:
            self.pilots[total] = pilot_of(total, self.axes)
        pilot = self.pilots[total]
        rest = over(times(one.outer, pilot), one.under, pilot.dtype)
        for t in outer:
            rest = plus(rest, over(t.outer, t.under, pilot.dtype))
        return [replace(one, inner=minus(total, pilot)), Term(outer=rest)]


_RULES: dict[str, Callable[..., list[Term]]] = {
    "add": Separation._add, "sub": Separation._sub, "div": Separation._div,
    "neg": Separation._neg, "exp": Separation._exp, "exp2": Separation._exp2, "log": Separation._log,
    "sqrt": Separation._sqrt, "rsqrt": Separation._rsqrt,
}  # fmt: skip


def pilot_of(e: Expr, axes: Free) -> Expr:
    """The mean of a value over the first places of its axes, 0 if that is infinite or NaN. It is loaded for itself, so
    it does not depend on how the axes are walked or cut."""
    *outer, last = sorted((a for a in axes if a in e.free), key=lambda a: a.key)
    place = Variable(last.name, PLACES)
    there = substitute(e, {**dict.fromkeys(outer, 0), last: poly(place)})
    inside = less(poly(place), last.extent)
    number_of = constant(PLACES, e.dtype)
    if inside is not TRUE:
        zero, one = constant(0, e.dtype), constant(1, e.dtype)
        there = select(inside, guarded(there, inside), zero)
        number_of = _summed(select(inside, one, zero), place)
    return finite(apply("div", _summed(there, place), number_of))


def _summed(e: Expr, axis: Variable) -> Expr:
    return make("reduce", e.dtype, (e,), OPS["reduce_sum"], axes=(axis,))


def guarded(e: Expr, condition: Expr) -> Expr:
    """A value whose loads happen only where a condition holds."""
    memo: dict[Expr, Expr] = {}
    for part in walk([e]):
        args = tuple(memo[a] for a in part.args)
        if part.kind == "load" and not part["tensor"].is_number and part.free & condition.free:
            args = (both(condition, args[0]) if args else condition,)
        memo[part] = rebuild(part, args)
    return memo[e]


def finite(e: Expr) -> Expr:
    """e, and 0 where it is infinite or NaN."""
    return choose(equals(apply("sub", e, e), 0), e, constant(0, e.dtype))


def is_nothing(t: Term) -> bool:
    return t.inner is not None and t.inner.kind == "const" and t.inner["value"] == 0 and not t.powers


def _negated(t: Term, e: Expr) -> Term:
    if t.inner is None and not t.powers:
        return replace(t, outer=negative(value(t.outer, 1, e.dtype)))
    return replace(t, inner=negative(value(t.inner, 1, e.dtype)))


def _product(s: Term, t: Term) -> Term:
    parts = (times(s.inner, t.inner), times(s.outer, t.outer), times(s.under, t.under))
    return Term(*parts, (*s.powers, *t.powers))


def merged(terms: Iterable[Term]) -> list[Term]:
    """Terms with one outer part and powers as one, and those with one inner part and powers."""
    found: list[Term] = []
    for t in terms:
        for at, other in enumerate(found):
            if (other.inner, other.powers) == (t.inner, t.powers) and other.outer is not None and t.outer is not None:
                dtype = t.outer.dtype
                total = plus(over(other.outer, other.under, dtype), over(t.outer, t.under, dtype))
                found[at] = Term(t.inner, total, None, t.powers)
                break
            same = (other.outer, other.under, other.powers) == (t.outer, t.under, t.powers)
            if same and t.inner is not None and other.inner is not None:
                found[at] = replace(other, inner=plus(other.inner, t.inner))
                break
        else:
            found.append(t)
    return found


def is_positive(e: Expr) -> bool:
    """Whether a value is known to be above 0, or NaN, or an infinite or vanishing limit of what is."""
    if e.kind == "const":
        return e["value"] > 0
    if combines(e, "add", "maximum", "minimum"):
        return is_positive(e.args[0])
    if is_op(e, "exp", "exp2", "sigmoid"):
        return True
    if is_op(e, "sqrt", "rsqrt", "reciprocal"):
        return is_op(e, "rsqrt") or is_positive(e.args[0])
    if is_op(e, "mul", "div", "maximum", "minimum"):
        return all(map(is_positive, e.args)) or (is_op(e, "maximum") and any(map(is_positive, e.args)))
    if is_op(e, "add"):
        return all(map(is_nonnegative, e.args)) and any(map(is_positive, e.args))
    return False


def is_nonnegative(e: Expr) -> bool:
    """Whether a value is known to be 0 or more, or NaN."""
    if e.kind == "const":
        return e["value"] >= 0
    if combines(e, "add", "maximum", "minimum"):
        return is_nonnegative(e.args[0])
    if is_op(e, "mul") and e.args[0] is e.args[1]:
        return True
    if is_op(e, "abs", "relu", "sqrt"):
        return True
    if is_op(e, "mul", "div", "add"):
        return all(map(is_nonnegative, e.args))
    return is_positive(e)


def is_pivot(e: Expr) -> bool:
    """A maximum, and 0 where it is infinite."""
    if not is_op(e, "where") or not is_number(e.args[1], 0):
        return False
    condition, _, most = e.args
    return condition is equals(most, -math.inf) or condition is equals(apply("abs", most), math.inf)


def unmasked(e: Expr) -> list[Expr]:
    """A value, and what it is where it is not -inf."""
    if e.kind == "select" or is_op(e, "where"):
        _, a, b = e.args
        for one, other in ((a, b), (b, a)):
            if is_number(other, -math.inf):
                return [e, *unmasked(one)]
    return [e]


def _without(e: Expr, factor: Expr) -> Expr:
    a, b = e.args
    return b if a is factor else a
