"""Compositions become what they stand for, until only primitive ops are left."""

from __future__ import annotations

from ..ir import Graph, Node
from ..rewrite import rewrite, rule


@rule
def composition(n: Node) -> Node | None:
    """f(x, ...) -> its expansion, for every op declared with `expand`"""
    return n.expansion if n.op.expand is not None else None


def decompose(graph: Graph) -> Graph:
    """The graph in primitive ops. What replaces a composition takes its name; every node on the way gets its line."""
    return rewrite(graph, [composition])
