"""Regions of scalars as functions of vectors: what reductions and scans combine by, what map_elementwise applies.

Where such a function branches both sides are computed, and each lane takes its own. A loop goes on until no lane would
that came to it; what a lane is done with stays as it was.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from . import elem
from .build import Value
from .errors import CannotCompile
from .program import Body, Node, Val

if TYPE_CHECKING:
    from .emit import Emitter

Known = dict[Val, Value]
Test = Callable[..., list[Value]]  # of what a loop carries: whether to go on, and what is passed on
Round = Callable[..., list[Value]]  # of what was passed on: what is carried


class Function:
    """The only region of an operation."""

    def __init__(self, emitter: Emitter, node: Node) -> None:
        self.em, self.node = emitter, node
        (self.body,) = node.regions
        self.here: list[tuple[Value, bool]] = []  # conditions, and their outcomes in lanes that come here

    def __call__(self, given: Sequence[Value]) -> list[Value]:
        """Of values of one width, results of that width."""
        self.lanes = given[0].lanes
        return self._whole(self._body(self.body, dict(zip(self.body.arguments, given, strict=True))))

    def _body(self, body: Body, known: Known) -> list[Value]:
        """What the body ends with."""
        for node in body.nodes[:-1]:
            if node.name in _CONTROL:
                known.update(zip(node.results, _CONTROL[node.name](self, node, known), strict=True))
            elif node.name in ("arith.constant", "ub.poison"):
                self.em.scalar_op(node)
            elif elem.is_elementwise(node.op):
                known[node.result] = self.em.apply(node, self._same_width(self._values(node.operands, known)))
            else:
                raise CannotCompile(f"not possible in the function of a {self.node.name}", node.op)
        return self._values(body.terminator.operands, known)

    def _branch(self, node: Node, known: Known) -> list[Value]:
        condition, *_ = self._values(node.operands, known)
        if condition.constant is not None:
            return self._body(node.regions[0 if condition.constant else 1], known)
        yes, no = (self._under(condition, outcome, functools.partial(self._body, body, known))
                   for outcome, body in zip((True, False), node.regions, strict=True))  # fmt: skip
        triples = (self._same_width((condition, *pair)) for pair in zip(yes, no, strict=True))
        return [self.em.b.select(*triple) for triple in triples]

    def _loop(self, node: Node, known: Known) -> list[Value]:
        """scf.for: the index is carried along."""
        if "unsigned" in node.op.text:
            raise CannotCompile("a loop over unsigned bounds", node.op)
        b, (body,) = self.em.b, node.regions
        start, stop, step, *carried = self._whole(self._values(node.operands, known))

        def test(*now: Value) -> list[Value]:
            return [b.cmpi("slt", now[0], stop), *now]

        def round_(*now: Value) -> list[Value]:
            values = self._body(body, {**known, **dict(zip(body.arguments, now, strict=True))})
            return [b.add(now[0], step), *values]

        return self._rounds([start, *carried], [start.el, *_kinds(node)], test, round_)[1:]

    def _loop_while(self, node: Node, known: Known) -> list[Value]:
        """scf.while"""
        before, after = node.regions

        def test(*now: Value) -> list[Value]:
            return self._body(before, {**known, **dict(zip(before.arguments, now, strict=True))})

        def round_(*passed: Value) -> list[Value]:
            return self._body(after, {**known, **dict(zip(after.arguments, passed, strict=True))})

        return self._rounds(self._whole(self._values(node.operands, known)), _kinds(node), test, round_)

    def _rounds(self, starts: Sequence[Value], kinds: Sequence[str], test: Test, round_: Round) -> list[Value]:
        """What each lane passed on, values of these kinds, when its test failed."""
        b, count, number = self.em.b, len(starts), len(kinds)

        def before(*now: Value) -> tuple[Value, list[Value]]:
            carried, going, results = now[:count], now[count], now[count + 1 :]
            condition, *passed = self._whole(self._under(going, True, functools.partial(test, *carried)))
            results = [b.select(going, new, old) for new, old in zip(passed, results, strict=True)]
            going = b.and_(going, condition)
            return self._any(going), [*passed, going, *results]

        def after(*now: Value) -> list[Value]:
            carried = self._under(now[number], True, functools.partial(round_, *now[:number]))
            return [*self._whole(carried), *now[number:]]

        unset = [b.const(0, kind, self.lanes) for kind in kinds]
        return b.loop_while([*starts, self._come_here(), *unset], before, after)[number + 1 :]

    def _under(self, condition: Value, outcome: bool, act: Callable[[], list[Value]]) -> list[Value]:
        self.here.append((condition, outcome))
        results = act()
        self.here.pop()
        return results

    def _come_here(self) -> Value:
        """The lanes that would be here if each went its own way."""
        b = self.em.b
        lanes = b.const(1, "i1", self.lanes)
        for condition, outcome in self.here:
            lanes = b.and_(lanes, self._as_wide(condition if outcome else b.not_(condition), self.lanes))
        return lanes

    def _any(self, lanes: Value) -> Value:
        b = self.em.b
        while lanes.lanes is not None and lanes.lanes > 1:
            half = lanes.lanes // 2
            lanes = b.or_(b.shuffle(lanes, lanes, range(half)), b.shuffle(lanes, lanes, range(half, 2 * half)))
        return b.extract(lanes, 0) if lanes.lanes is not None else lanes

    def _whole(self, values: Sequence[Value]) -> list[Value]:
        return [self._as_wide(v, self.lanes) for v in values]

    def _values(self, vals: Sequence[Val], known: Known) -> list[Value]:
        return [known[val] if val in known else self.em.plain(val) for val in vals]

    def _same_width(self, values: Sequence[Value]) -> list[Value]:
        lanes = next((v.lanes for v in values if v.lanes is not None), None)
        return [self._as_wide(v, lanes) for v in values]

    def _as_wide(self, value: Value, lanes: int | None) -> Value:
        return value if value.lanes == lanes else self.em.b.splat(value, lanes)


def _kinds(node: Node) -> list[str]:
    return [elem.held(val.element) for val in node.results]


_CONTROL: dict[str, Callable[[Function, Node, Known], list[Value]]] = {
    "scf.if": Function._branch, "scf.for": Function._loop, "scf.while": Function._loop_while,
}  # fmt: skip
