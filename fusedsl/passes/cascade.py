"""Cascades of reductions over one axis, walked once: softmax over a long row, attention, losses, a norm and a product.

A reduction that uses earlier ones over the same axis needs a pass of its own as it is written. Where its body separates
(fusedsl/separate.py), what does not vary leaves the sum: a factor is applied when all is added up (*deferred*), and
what stands in an exponent, for range, follows the running maximum (*running*)::

    a <- a * exp(b(y) - b(y')) + sum exp(a(x) + b(y')) G(x)             y, y': the maximum before and after the round

The result is written with the same reductions as everything else: a `reduce` whose second argument is the factor, and
`now` and `before` for what another reduction has come to. So merging two halves of a loop is known too: the factor from
each half's maximum to the common one. (FlashAttention, Dao 2023, is what this makes of softmax(q k^T) v; FuseMax, 2024,
counts passes so; the general form is RedFuser's, with sums of several terms beside.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..algebra import (
    Maybe,
    apply,
    choose,
    combines,
    count,
    equals,
    factors,
    identity,
    is_number,
    is_op,
    minus,
    negative,
    over,
    plus,
    times,
    value,
)  # fmt: skip
from ..index import Index, Variable, is_less
from ..ir import OPS
from ..lower import Origin, Write
from ..products import is_contraction, product_of
from ..scalar import Expr, Free, constant, make, rebuild, walk
from ..separate import Inseparable, Power, Separation, Term, is_pivot, is_positive, merged
from ..types import bool_

EXTREMES = ("maximum", "minimum")
LOGS = {"exp": "log", "exp2": "log2"}


def cascade(
    writes: list[Write], nests: Sequence[Sequence[Variable]], origin: Origin | None = None, eager: bool = False
) -> tuple[list[Write], list[str]]:
    """The writes with reductions over each nest of looped axes in as few passes as algebra allows, and for every one
    that needs another pass the reason."""
    notes: list[str] = []
    for nest in nests:
        roots = [w.value for w in writes]
        rewriter = _Rewriter(frozenset(nest), eager, {})
        memo = rewriter.run(roots)
        if rewriter.has_found_pilots:
            rewriter = _Rewriter(frozenset(nest), eager, rewriter.separation.pilots)
            memo = rewriter.run(roots)
        writes = [replace(w, value=memo[w.value]) for w in writes]
        extent = " x ".join(repr(axis.extent) for axis in nest)
        notes += [f"over {extent}: {reason}" for reason in rewriter.refusals]
        if origin is not None:
            pairs = [*((new, old) for old, new in memo.items()), *rewriter.made.items()]
            origin.update({new: origin[old] for new, old in pairs if old in origin and new not in origin})
    return writes, notes


class _Rewriter:
    """Rewrites the reductions over some axes, those first that others use. pilots: of bodies whose plain sums are taken
    from there."""

    def __init__(self, axes: Free, eager: bool, pilots: Mapping[Expr, Expr]) -> None:
        self.axes, self.eager, self.piloted = axes, eager, bool(pilots)
        self.separation = Separation(axes)
        self.separation.pilots.update(pilots)
        self.final: dict[Expr, Expr] = {}  # every expression -> with reductions that are rewritten
        self.made: dict[Expr, Expr] = {}  # a new reduction -> the one that it is for
        self.refusals: list[str] = []
        self.means: dict[Expr, Expr] = {}  # n y -> y, of sums that are taken from a pilot

    def run(self, roots: list[Expr]) -> dict[Expr, Expr]:
        """Every expression -> with reductions rewritten."""
        for e in walk(roots):
            self.final[e] = self._reduction(e) if self._is_mine(e) else self._ratio(self._rebuilt(e, self.final))
        return self.final

    @property
    def has_found_pilots(self) -> bool:
        """Whether a plain sum that is in the way is of a body that has a pilot, which is known only now."""
        return not self.piloted and any(map(self._is_piloted, self.final))

    def _is_piloted(self, e: Expr) -> bool:
        plain = self._is_mine(e) and combines(e, "add") and not is_contraction(e) and len(e.args) == 1
        return plain and e.args[0] in self.separation.pilots

    def _from_pilot(self, e: Expr) -> Expr:
        """sum x = n (c + sum (x - c) / n)"""
        pilot, n = self.separation.pilots[e.args[0]], count(e)
        rest = make("reduce", e.dtype, (minus(e.args[0], pilot),), e.op, **e.attrs)
        self.made[rest] = e
        mean = apply("add", pilot, apply("div", rest, n))
        total = apply("mul", n, mean)
        self.means[total] = mean
        return total

    def _ratio(self, e: Expr) -> Expr:
        """n y / n = y and c - (c + y) = -y, which keep the digits of a mean and of its distance from the pilot"""
        if is_op(e, "div") and e.args[0] in self.means and _number(e.args[0].args[0]) == _number(e.args[1]):
            return self.means[e.args[0]]
        if is_op(e, "sub") and is_op(e.args[1], "add") and e.args[1].args[0] is e.args[0]:
            return apply("neg", e.args[1].args[1]) if e.args[0] in self.separation.pilots.values() else e
        return e

    def _is_mine(self, e: Expr) -> bool:
        return e.kind == "reduce" and bool(self.axes & frozenset(e["axes"]))

    def _rebuilt(self, e: Expr, memo: dict[Expr, Expr]) -> Expr:
        """An expression on changed arguments; indices that are read from memory stay."""
        return rebuild(e, tuple(memo[a] for a in e.args))

    def _reduction(self, e: Expr) -> Expr:
        e = self._unrounded(e)
        if not self.separation.is_stale(e.args[0]):
            return self._from_pilot(e) if self.piloted and self._is_piloted(e) else self._on_final(e)
        try:
            if combines(e, *EXTREMES):
                return self._reached(e) or self._extreme(e, e.args[0])
            return self._sum(e)
        except Inseparable as reason:
            self.refusals.append(f"another pass for {e.op.name if e.op else e.kind}: {reason}")
            return self._on_final(e)

    def _on_final(self, e: Expr) -> Expr:
        """The reduction of what its operand has become."""
        return rebuild(e, tuple(self._finally(a) or a for a in e.args))

    def _unrounded(self, e: Expr) -> Expr:
        """A product's operands are rounded to its precision when it is computed, so that before it need not be done."""
        if not is_contraction(e) or self.eager:
            return e
        body: Maybe = None
        for f in factors(e.args[0]):
            rounded = is_op(f, "cast") and f["dtype"].name == e["precision"] and f.args[0].dtype is f.dtype
            body = times(body, f.args[0] if rounded else f)
        return e if body is None else rebuild(e, (body, *e.args[1:]))

    # -- sums

    def _sum(self, e: Expr) -> Expr:
        if not combines(e, "add") or not e.dtype.is_float:
            raise Inseparable("it is no sum of floats")
        total: Maybe = None
        for term in merged(self.separation.centred(self.separation.terms(e.args[0]))):
            total = plus(total, self._accumulated(e, self._logs_out(term)))
        assert total is not None
        return total

    def _accumulated(self, e: Expr, t: Term) -> Expr:
        """outer / under * the sum of inner * prod exp(a + b)"""
        inner, still = self._pulled(t.inner)
        running: Maybe = None
        shrink: Maybe = None
        for power in t.powers:
            exponent, factor = self._running(power, e)
            running, shrink = times(running, exponent), times(shrink, factor)
        body = times(running, inner)
        if body is None:
            total: Expr = count(e)
        else:
            self._check_range(e, inner)
            args = (body,) if shrink is None else (body, shrink)
            total = make("reduce", e.dtype, args, e.op, **e.attrs)
            self.made[total] = e
        outer = times(still, self._finally(t.outer))
        total, under = self._with_nan(total, self._finally(t.under), t.powers)
        found = over(times(outer, total), under, e.dtype)
        assert found is not None
        return found

    def _with_nan(self, total: Expr, under: Maybe, powers: Sequence[Power]) -> tuple[Expr, Maybe]:
        """A sum of exp(a - max(a)) is NaN where there is nothing but -inf; divided by another one it is, as 0 / 0."""
        for b in (power.b for power in powers):
            if b is None or not self.separation.is_stale(b) or self._unguarded(b) is not b or self._has_pivot(b):
                continue
            nothing, nan = self._is_nothing(b, b), constant(math.nan, total.dtype)
            if under is not None and is_op(under, "where") and under.args[:2] == (nothing, nan):
                under = under.args[2]
            elif under is None or nothing not in walk([under]):
                total = choose(nothing, nan, total)
        return total, under

    def _pulled(self, inner: Maybe) -> tuple[Maybe, Maybe]:
        """The factors of a body that vary along the axes, and those that do not."""
        varying: Maybe = None
        still: Maybe = None
        for f in factors(inner) if inner is not None else ():
            if self.separation.varies(f):
                varying = times(varying, f)
            else:
                still = times(still, f)
        return varying, still

    def _check_range(self, e: Expr, inner: Maybe) -> None:
        """Operands of a product of f16 have to stay in its range without the factor that was taken from them."""
        if inner is None or e.attrs.get("precision") != "f16":
            return
        product = product_of(make("reduce", e.dtype, (inner,), e.op, **e.attrs))
        sides = product.sides if product is not None else [tuple(factors(inner))]
        if any(len(side) > 1 for side in sides):
            raise Inseparable("an operand of a product of f16 could overflow without its factor")

    # -- exponents

    def _running(self, power: Power, e: Expr) -> tuple[Expr, Maybe]:
        """exp(a + b) with b as it is after a round, and the factor from b before the round to b after it."""
        (a, b, op), dtype = power, e.dtype
        if a is None:
            raise Inseparable("an exponential that does not vary")
        found = [f for f in walk([b]) if self._is_mine(f)] if b is not None else []
        if b is None or not found:
            return apply(op, value(plus(a, b), 0, dtype)), None
        for extreme in found:
            if not combines(extreme, *EXTREMES) or self.final[extreme] is not extreme:
                raise Inseparable("an exponent holds a sum that is not complete")
        b = self._unguarded(b)
        if not self.separation.covers(negative(b), a):
            raise Inseparable("an exponent is not known to stay below its maximum")
        later, earlier = (self._at(b, kind) for kind in ("now", "before"))
        later = self._guarded(b, later)
        exponent = plus(a, later)
        ratio = plus(negative(earlier), later)
        assert exponent is not None and ratio is not None
        shrink = apply(op, ratio)
        if self._has_pivot(b):  # it is 0 before anything is met, but nothing is added up yet
            for extreme in found:
                before = make("before", extreme.dtype, (extreme,))
                shrink = choose(equals(before, _none(extreme)), constant(0, dtype), shrink)
        return apply(op, exponent), shrink

    def _at(self, b: Expr, kind: str) -> Expr:
        """An expression with reductions as they are before or after a round."""
        memo: dict[Expr, Expr] = {}
        for e in walk([b]):
            memo[e] = make(kind, e.dtype, (e,)) if self._is_mine(e) else self._rebuilt(e, memo)
        return memo[b]

    def _unguarded(self, b: Expr) -> Expr:
        """-where(m == -inf, 0, m) is -m with the guard that every round has anyway."""
        if is_op(b, "neg") and is_op(b.args[0], "where"):
            condition, zero, extreme = b.args[0].args
            mine = self._is_mine(extreme) and combines(extreme, *EXTREMES)
            if mine and is_number(zero, 0) and condition is equals(extreme, _none(extreme)):
                return apply("neg", extreme)
        return b

    def _guarded(self, b: Expr, later: Expr) -> Expr:
        """Where nothing has been met but -inf, exponents are compared with 0."""
        if self._has_pivot(b):
            return later
        nothing, zero = self._is_nothing(b, later), constant(0, b.dtype)
        if is_op(b, "neg"):
            return apply("neg", choose(nothing, zero, later.args[0]))
        return choose(nothing, zero, later)

    def _is_nothing(self, b: Expr, at: Expr) -> Expr:
        """Whether nothing but -inf has been met, of b at some time."""
        if is_op(b, "neg") and self._is_mine(b.args[0]):
            return equals(at.args[0], _none(b.args[0]))
        return equals(at, math.inf)

    def _has_pivot(self, b: Expr) -> bool:
        return any(map(is_pivot, walk([b], lambda part: not self._is_mine(part))))

    def _logs_out(self, t: Term) -> Term:
        """exp(a + b - log z) = exp(a + b) / z for z > 0: what is only known at the end need not run."""
        outer, under = t.outer, t.under
        powers = []
        for a, b, op in t.powers:
            rest: Maybe = None
            for sign, part in _summands(b):
                if is_op(part, LOGS[op]) and self.separation.is_stale(part) and is_positive(part.args[0]):
                    outer, under = (
                        (times(outer, part.args[0]), under) if sign > 0 else (outer, times(under, part.args[0]))
                    )
                else:
                    rest = plus(rest, part if sign > 0 else negative(part))
            powers.append(Power(a, rest, op))
        return replace(t, outer=outer, under=under, powers=tuple(powers))

    def _finally(self, e: Maybe) -> Maybe:
        """An expression after the loop."""
        if e is None:
            return None
        for part in walk([e], lambda part: part not in self.final):
            if part not in self.final:
                self.final[part] = self._ratio(self._rebuilt(part, self.final))
        return self.final[e]

    # -- maxima and minima

    def _extreme(self, e: Expr, body: Expr) -> Expr:
        """max(f h) = max(f) h for h > 0, max(g + h) = max(g) + h, max(exp(a + b)) = exp(max(a) + b)"""
        varying, outer, under = self.separation.factors(body)
        if len(varying) == 1 and varying[0] is not body:
            self._check_positive(outer, under)
            return self._scaled(self._extreme(e, varying[0]), outer, under)
        terms = self.separation.terms(body)
        found = merged(terms)
        inner = [t for t in found if not t.is_outer]
        if len(inner) != 1:
            name = e.op.name if e.op is not None else e.kind
            raise Inseparable(f"the {name} of a sum of {len(found)} separated terms is an upper envelope")
        total: Maybe = self._extreme_of_term(e, inner[0])
        for t in (t for t in terms if t.is_outer):  # as they were written: the largest are the first to cancel
            total = plus(total, self._finally(over(t.outer, t.under, e.dtype)))
        assert total is not None
        return total

    def _reached(self, e: Expr) -> Expr | None:
        """The first place of a maximum: the least of where(x == m, place, n). What was found before a round that has a
        greater one counts no more. None if it is not that."""
        if not is_op(e.args[0], "where") or not combines(e, "minimum"):
            return None
        condition, place, beyond = e.args[0].args
        extreme = self._sought(condition)
        if extreme is None or not _is_below(place, beyond):
            return None
        now, before = (make(kind, extreme.dtype, (extreme,)) for kind in ("now", "before"))
        same = make("apply", bool_, (now, before), OPS["eq"])
        if extreme.dtype.is_float:  # a NaN stays the maximum
            same = make("apply", bool_, (same, make("apply", bool_, (before,), OPS["isnan"])), OPS["bitwise_or"])
        body = apply("where", self._at(condition, "now"), place, beyond)
        found = make("reduce", e.dtype, (body, same), e.op, **e.attrs)
        self.made[found] = e
        return found

    def _sought(self, condition: Expr) -> Expr | None:
        """m of x == m, or of that or x is NaN, where m is the maximum or the minimum of x."""
        if is_op(condition, "bitwise_or", "logical_or"):
            condition, other = condition.args
            if not is_op(other, "isnan") or other.args[0] not in condition.args:
                return None
        if not is_op(condition, "eq"):
            return None
        x, m = condition.args
        plain = self._is_mine(m) and combines(m, *EXTREMES) and m.args == (x,) and not self.separation.is_stale(x)
        return m if plain and self.final[m] is m else None

    def _extreme_of_term(self, e: Expr, t: Term) -> Expr:
        self._check_positive(t.outer, t.under)
        if not t.powers:
            return self._scaled(self._of(e, t.inner), t.outer, t.under)
        (a, b, op), *others = t.powers
        if others or t.inner is not None:
            raise Inseparable("an extreme of an exponential with a factor does not separate")
        power = apply(op, value(plus(self._of(e, a), self._finally(b)), 0, e.dtype))
        return self._scaled(power, t.outer, t.under)

    def _check_positive(self, *factors: Maybe) -> None:
        if not all(f is None or is_positive(f) for f in factors):
            raise Inseparable("the factor is not known to be positive")

    def _scaled(self, e: Expr, outer: Maybe, under: Maybe) -> Expr:
        result = over(times(self._finally(outer), e), self._finally(under), e.dtype)
        assert result is not None
        return result

    def _of(self, e: Expr, body: Maybe) -> Expr:
        found = make("reduce", e.dtype, (value(body, 1, e.dtype),), e.op, **e.attrs)
        self.made[found] = e
        return found


def _is_below(place: Expr, beyond: Expr) -> bool:
    """Whether one number of an index is less than another wherever they stand."""
    return place.kind == beyond.kind == "number" and is_less(place["index"], beyond["index"])


def _none(extreme: Expr) -> float:
    """What a maximum or a minimum is before anything is met."""
    return identity(extreme)["value"]


def _number(e: Expr) -> Index | float | None:
    """The number, or the size, that a value is."""
    if is_op(e, "cast"):
        return _number(e.args[0])
    return e["value"] if e.kind == "const" else e["index"] if e.kind == "number" and not e.args else None


def _summands(b: Maybe, sign: int = 1) -> list[tuple[int, Expr]]:
    if b is None:
        return []
    if is_op(b, "add"):
        return [*_summands(b.args[0], sign), *_summands(b.args[1], sign)]
    if is_op(b, "sub"):
        return [*_summands(b.args[0], sign), *_summands(b.args[1], -sign)]
    if is_op(b, "neg"):
        return _summands(b.args[0], -sign)
    return [(sign, b)]


