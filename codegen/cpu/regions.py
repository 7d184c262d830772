"""Regions of scalars as functions of vectors: what reductions and scans combine by, what map_elementwise applies.

Where such a function branches both sides are computed, and each lane takes its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import elem
from .build import Value
from .errors import CannotCompile
from .program import Body, Node, Val

if TYPE_CHECKING:
    from .emit import Emitter

Known = dict[Val, Value]


class Function:
    """The only region of an operation."""

    def __init__(self, emitter: Emitter, node: Node) -> None:
        self.em, self.node = emitter, node
        (self.body,) = node.regions

    def __call__(self, given: Sequence[Value]) -> list[Value]:
        """Of values of one width, results of that width."""
        lanes = given[0].lanes
        results = self._body(self.body, dict(zip(self.body.arguments, given, strict=True)))
        return [self._as_wide(v, lanes) for v in results]

    def _body(self, body: Body, known: Known) -> list[Value]:
        """What the body ends with."""
        for node in body.nodes[:-1]:
            if node.name == "scf.if":
                known.update(zip(node.results, self._branch(node, known), strict=True))
            elif node.name in ("arith.constant", "ub.poison"):
                self.em.scalar_op(node)
            elif elem.is_elementwise(node.op):
                known[node.result] = self.em.apply(node, self._same_width(self._values(node.operands, known)))
            else:
                raise CannotCompile(f"not possible in the function of a {self.node.name}", node.op)
        return self._values(body.terminator.operands, known)

    def _branch(self, node: Node, known: Known) -> list[Value]:
        condition, *_ = self._values(node.operands, known)
        yes, no = (self._body(body, known) for body in node.regions)
        if condition.constant is not None:
            return yes if condition.constant else no
        triples = (self._same_width((condition, *pair)) for pair in zip(yes, no, strict=True))
        return [self.em.b.select(*triple) for triple in triples]

    def _values(self, vals: Sequence[Val], known: Known) -> list[Value]:
        return [known[val] if val in known else self.em.plain(val) for val in vals]

    def _same_width(self, values: Sequence[Value]) -> list[Value]:
        lanes = next((v.lanes for v in values if v.lanes is not None), None)
        return [self._as_wide(v, lanes) for v in values]

    def _as_wide(self, value: Value, lanes: int | None) -> Value:
        return value if value.lanes == lanes else self.em.b.splat(value, lanes)
