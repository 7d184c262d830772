"""Sizes that are worth a kernel of their own: those of rows that a program keeps in registers.

A row known to be 4096 long needs no masks, and every access of it is 16 bytes wide. All other sizes stay symbols.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..index import Atom, Index, Symbol, evaluate, free
from ..ir import Graph, Node, substitute_sizes, topological
from ..kernel import padded
from ..roles import RESIDENT

COLUMNS = 16  # the fewest columns that a program reduces side by side


def fix_rows(graph: Graph, sizes: Mapping[str, int]) -> tuple[Graph, dict[str, int]]:
    """The graph with the sizes of resident rows as numbers, and which sizes those are. What a contraction gives is left
    for later: whether its rows are resident depends on what shares its launch."""
    rows = [n for n in graph.nodes if n.op.combination is not None and not _is_contracted(n)]
    fixed = {name: sizes[name] for name in sizes_of_rows(graph, rows, sizes)}
    return with_sizes(graph, fixed), fixed


def with_sizes(graph: Graph, fixed: Mapping[str, int]) -> Graph:
    """The graph with numbers for these sizes."""
    mapping: dict[Atom, Index] = {Symbol(name): value for name, value in fixed.items()}
    return substitute_sizes(graph, mapping)


def sizes_of_rows(graph: Graph, reductions: Iterable[Node], sizes: Mapping[str, int]) -> list[str]:
    """The sizes, by name, of the rows that a program of each of these reductions keeps in registers."""
    alive = {s for o in graph.outputs for n in o.shape for s in free(n)}
    rows = [node.inputs[0].shape[d] for node in reductions if _is_resident(node, sizes, alive) for d in node["dim"]]
    return list(dict.fromkeys(s.name for n in rows for s in free(n) if isinstance(s, Symbol)))


def _is_contracted(node: Node) -> bool:
    """Whether a reduction is a matrix product, or of what a contraction gives."""
    return is_matrix_product(node) or any(n.op.contracts for n in topological(node.inputs))


def is_matrix_product(node: Node) -> bool:
    """Whether a node sums products of two operands, each with a dimension that the other lacks."""
    if not node.op.contracts or len(node.inputs[0].inputs) != 2:
        return False
    (source,), dims = node.inputs, node["dim"]
    shapes = [(1,) * (source.rank - operand.rank) + operand.shape for operand in source.inputs]
    own = [{d for d, n in enumerate(shape) if n != 1 and d not in dims} for shape in shapes]
    return bool(own[0] - own[1]) and bool(own[1] - own[0])


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
