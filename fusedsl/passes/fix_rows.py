"""Sizes that are worth a kernel of their own: those of rows that a program keeps in registers.

A row known to be 4096 long needs no masks, and every access of it is 16 bytes wide. All other sizes stay symbols.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..index import Atom, Index, Symbol, evaluate, free
from ..ir import Graph, Node, substitute_sizes
from ..kernel import padded
from ..schedule import RESIDENT

COLUMNS = 16  # the fewest columns that a program reduces side by side


def fix_rows(graph: Graph, sizes: Mapping[str, int]) -> tuple[Graph, dict[str, int]]:
    """The graph with the sizes of resident rows as numbers, and which sizes those are."""
    fixed: dict[str, int] = {}
    alive = {s for o in graph.outputs for n in o.shape for s in free(n)}
    for node in graph.nodes:
        if node.op.combination is not None and _is_resident(node, sizes, alive):
            for d in node["dim"]:
                for symbol in free(node.args[0].shape[d]):  # type: ignore[union-attr]
                    if isinstance(symbol, Symbol):
                        fixed[symbol.name] = sizes[symbol.name]
    mapping: dict[Atom, Index] = {Symbol(name): value for name, value in fixed.items()}
    return substitute_sizes(graph, mapping), fixed


def _is_resident(node: Node, sizes: Mapping[str, int], alive: set) -> bool:
    (source,) = node.inputs
    extents = [evaluate(source.shape[d], sizes) for d in node["dim"]]
    total = 1
    for n in extents:
        total *= padded(n)
    if node.rank == 0 or evaluate(node.type.size, sizes) <= 1:
        return False
    if source.rank - 1 in node["dim"]:
        return total <= RESIDENT
    again = any(s in alive for d in node["dim"] for s in free(source.shape[d]))
    return again and total * COLUMNS <= RESIDENT
