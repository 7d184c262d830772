"""Separation: a value that varies along a reduced axis and uses reductions over that axis, as a sum of terms in which
the two stand apart::

    F(x; y) = sum_j G_j(x) H_j(y) prod exp(a(x) + b(y))        x: what varies along the axis, y: finished reductions

A sum over the axis is then one of G_j for each term (rank J), with H_j outside; what is in an exponent stays, for range.
The rules are equations of arithmetic, one for each kind of operation; what has none is refused by name.
(reference: factorisation of the summand in RedFuser and FuseMax, extended to finite rank, homogeneity and pilots)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import product

from .algebra import Maybe, apply, choose, is_op, minus, negative, over, plus, times, value
from .index import Atom, Index
from .ir import OPS
from .scalar import Expr, Free, constant, make, number, substitute
from .types import bool_

RANK = 4  # the most terms


class Inseparable(Exception):
    """Why a value does not separate."""


@dataclass(frozen=True)
class Term:
    """inner * outer / under * prod exp(a + b), for (a, b) of exponents. inner and a vary along the axes and use no
    reduction over them; outer, under and b do not vary."""

    inner: Maybe = None
    outer: Maybe = None
    under: Maybe = None
    exponents: tuple[tuple[Maybe, Maybe], ...] = ()

    @property
    def is_inner(self) -> bool:
        return self.outer is None and self.under is None and not self.exponents

    @property
    def is_outer(self) -> bool:
        return self.inner is None and not self.exponents


class Separation:
    """Separates values with respect to some reduced axes."""

    def __init__(self, axes: Free) -> None:
        self.axes = axes
        self.memo: dict[Expr, list[Term]] = {}

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
        varying, outer, under = self._factors(e)
        sides = [self.terms(f) for f in varying]
        if len(varying) > 1:
            sides = [self._centred(side) for side in sides]
        result = [Term(outer=outer, under=under)]
        for side in sides:
            result = [_product(s, t) for s, t in product(result, side)]
        return result

    def _factors(self, e: Expr) -> tuple[list[Expr], Maybe, Maybe]:
        """The factors of a product that vary along the axes, the product of the others, and what divides it."""
        if not self.varies(e):
            return ([], e, None) if self.is_stale(e) else ([e], None, None)
        if is_op(e, "div") and (self.varies(e.args[1]) or not self.is_stale(e.args[1])):
            return [e], None, None
        if is_op(e, "mul", "div"):
            (varying, outer, under), (others, factor, divisor) = (self._factors(a) for a in e.args)
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
        under = Term(over(None, t.inner, b.dtype), t.under, t.outer, tuple((negative(p), negative(q)) for p, q in t.exponents))
        result = []
        for s in self.terms(a):
            inner = over(s.inner, t.inner, a.dtype) if t.inner is not None else s.inner
            rest = replace(under, inner=None)
            result.append(replace(_product(replace(s, inner=None), rest), inner=inner))
        return result

    def _exp(self, a: Expr, factor: float | None = None) -> list[Term]:
        """exp(sum g + sum h): an exponent, where every term either varies or uses reductions"""
        inner: Maybe = None
        outer: Maybe = None
        for t in self.terms(a):
            if t.is_inner:
                inner = plus(inner, value(t.inner, 1, a.dtype))
            elif t.is_outer:
                outer = plus(outer, over(t.outer, t.under, a.dtype))
            else:
                raise Inseparable("exp of a product does not separate")
        if factor is not None:
            by = constant(factor, a.dtype)
            inner, outer = (None if e is None else apply("mul", e, by) for e in (inner, outer))
        return [Term(exponents=((inner, outer),))]

    def _exp2(self, a: Expr) -> list[Term]:
        return self._exp(a, math.log(2))

    def _log(self, a: Expr) -> list[Term]:
        """log(g h exp(a + b)) = (log g + a) + (log h + b)"""
        found = merged(self.terms(a))
        if len(found) > 1:
            raise Inseparable(f"log of a sum of {len(found)} separated terms")
        (t,) = found
        inner = None if t.inner is None else apply("log", t.inner)
        outer = over(t.outer, t.under, a.dtype)
        outer = None if outer is None else apply("log", outer)
        for p, q in t.exponents:
            inner, outer = plus(inner, p), plus(outer, q)
        return [Term(inner=value(inner, 0, a.dtype)), Term(outer=value(outer, 0, a.dtype))]

    def _root(self, a: Expr, name: str) -> list[Term]:
        """sqrt(g h) = sqrt(g) sqrt(h) for h > 0"""
        t = self._one_positive(a, name)
        if t.exponents:
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
            if other.kind == "const" and math.isinf(other["value"]) and all(t.is_inner or t.is_outer for t in self.terms(one)):
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
        if t.exponents:
            (p, q), *rest = t.exponents
            p = self._choose(condition, value(p, 0, e.dtype), constant(-math.inf, e.dtype), keep)
            return replace(t, exponents=((p, q), *rest))
        return replace(t, inner=self._choose(condition, value(t.inner, 1, e.dtype), constant(0, e.dtype), keep))

    def _choose(self, condition: Expr, a: Expr, b: Expr, keep: bool) -> Expr:
        return choose(condition, *((a, b) if keep else (b, a)))

    def _linear(self, e: Expr) -> list[Term]:
        """sum_d g(x, d) h = (sum_d g(x, d)) h   over another axis d, of which neither h nor an exponent knows"""
        own = frozenset(e["axes"])
        assert e.op is not None
        if own & self.axes or e.op.name not in ("reduce_sum", "sum_products"):
            raise Inseparable(f"{e.op.name} within the reduction does not separate")
        result = []
        for t in self.terms(e.args[0]):
            parts = [t.outer, t.under, *(part for pair in t.exponents for part in pair)]
            if any(part is not None and part.free & own for part in parts):
                raise Inseparable("an inner sum runs over a factor that uses a reduction")
            if t.inner is None:
                extent: Index = 1
                for axis in e["axes"]:
                    extent = extent * axis.extent
                inner = constant(extent, e.dtype) if isinstance(extent, int) else number(extent, e.dtype)
            else:
                inner = make("reduce", e.dtype, (t.inner,), e.op, **e.attrs)
            result.append(replace(t, inner=inner))
        return result

    # -- pilots

    def _centred(self, terms: list[Term]) -> list[Term]:
        """[g] + [h] -> [g - c] + [c + h], where c is g at the first place of the axis: a sum of products of them keeps its
        digits where g and h almost cancel. What is loaded for c does not depend on how the axis is walked."""
        inner = [t for t in terms if t.is_inner]
        outer = [t for t in terms if t.is_outer]
        if len(inner) + len(outer) != len(terms) or not inner or not outer:
            return terms
        total: Maybe = None
        for t in inner:
            total = plus(total, t.inner)
        assert total is not None
        first: dict[Atom, Index] = dict.fromkeys(self.axes, 0)
        pilot = finite(substitute(total, first))
        rest: Expr = pilot
        for t in outer:
            rest = plus(rest, over(t.outer, t.under, rest.dtype)) or rest
        return [Term(inner=minus(total, pilot)), Term(outer=rest)]


_RULES: dict[str, Callable[..., list[Term]]] = {
    "add": Separation._add, "sub": Separation._sub, "div": Separation._div,
    "neg": Separation._neg, "exp": Separation._exp, "exp2": Separation._exp2, "log": Separation._log,
    "sqrt": Separation._sqrt, "rsqrt": Separation._rsqrt,
}  # fmt: skip


def finite(e: Expr) -> Expr:
    """e, and 0 where it is infinite or NaN."""
    difference = apply("sub", e, e)
    zero = constant(0, e.dtype)
    return choose(make("apply", bool_, (difference, zero), OPS["eq"]), e, zero)


def is_nothing(t: Term) -> bool:
    return t.inner is not None and t.inner.kind == "const" and t.inner["value"] == 0 and not t.exponents


def _negated(t: Term, e: Expr) -> Term:
    if t.inner is None and not t.exponents:
        return replace(t, outer=negative(value(t.outer, 1, e.dtype)))
    return replace(t, inner=negative(value(t.inner, 1, e.dtype)))


def _product(s: Term, t: Term) -> Term:
    return Term(
        times(s.inner, t.inner), times(s.outer, t.outer), times(s.under, t.under), (*s.exponents, *t.exponents)
    )


def merged(terms: Iterable[Term]) -> list[Term]:
    """Terms with one outer part and exponents as one, and those with one inner part and exponents."""
    found: list[Term] = []
    for t in terms:
        for at, other in enumerate(found):
            same = (other.outer, other.under, other.exponents) == (t.outer, t.under, t.exponents)
            if same and t.inner is not None and other.inner is not None:
                found[at] = replace(other, inner=plus(other.inner, t.inner))
                break
            if (other.inner, other.exponents) == (t.inner, t.exponents) and other.outer is not None and t.outer is not None:
                dtype = t.outer.dtype
                total = plus(over(other.outer, other.under, dtype), over(t.outer, t.under, dtype))
                found[at] = Term(t.inner, total, None, t.exponents)
                break
        else:
            found.append(t)
    return found


def is_positive(e: Expr) -> bool:
    """Whether a value is known to be above 0, or NaN, or an infinite or vanishing limit of what is."""
    if e.kind == "const":
        return e["value"] > 0
    if e.kind == "reduce" and e.op is not None:
        return e.op.name in ("reduce_sum", "sum_products", "reduce_max", "reduce_min") and is_positive(e.args[0])
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
    if e.kind == "reduce" and e.op is not None:
        return e.op.name in ("reduce_sum", "sum_products", "reduce_max", "reduce_min") and is_nonnegative(e.args[0])
    if is_op(e, "mul") and e.args[0] is e.args[1]:
        return True
    if is_op(e, "abs", "relu", "sqrt"):
        return True
    if is_op(e, "mul", "div", "add"):
        return all(map(is_nonnegative, e.args))
    return is_positive(e)


def covered(exponent: Expr, extreme: Expr) -> bool:
    """Whether an exponent is at most what an extreme over the axes gives: it is what the maximum is taken of, or the
    negative of what the minimum is of."""
    assert extreme.op is not None
    (of,) = extreme.args[:1]
    if extreme.op.name == "reduce_min":
        return exponent is negative(of) or exponent is apply("neg", of)
    scaled = is_op(exponent, "mul") and any(a.kind == "const" and a["value"] > 0 for a in exponent.args)
    return exponent is of or (scaled and of in exponent.args)
