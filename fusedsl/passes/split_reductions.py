"""A reduction to few results over much data becomes two: partial results by many programs, then one over the partials.

reduce(x)[...] -> reduce_p(reduce_c(x[p * C + c] where p * C + c < n, else the identity)), the order of combining
fixed, so
results are reproducible bit for bit. (A single launch with a merge comes with the split of loops over programs.)
"""

from __future__ import annotations

from collections.abc import Mapping

from ..index import Index, cdiv, evaluate
from ..ir import OPS, Graph, Node, build, map_nodes
from .fix_rows import is_matrix_product

ENOUGH = 64  # results from which on each can be a program of its own
WORTH = 32768  # elements from which on a second launch pays
CHUNK = 8192  # elements a program reduces


def split_reductions(graph: Graph, sizes: Mapping[str, int]) -> Graph:
    """The graph with wide reductions in two steps."""

    def change(node: Node) -> Node:
        return _split(node) if node.op.reduction is not None and _is_wide(node, sizes) else node

    return graph.rewritten(map_nodes(graph.outputs, change))


def _is_wide(node: Node, sizes: Mapping[str, int]) -> bool:
    """Whether a program per result, or per few columns, would leave the machine idle. Long rows stay whole: their
    consumers want them in one launch."""
    (source,) = node.inputs
    if is_matrix_product(node):
        return False
    results = evaluate(node.type.size, sizes)
    columns = source.rank - 1 not in node["dim"]
    return 0 < results < (ENOUGH if columns else 2) and evaluate(source.type.size, sizes) // results > WORTH


def _split(node: Node) -> Node:
    """Of all dimensions reduced, one run of elements; of some, the last of them is cut."""
    (source,) = node.inputs
    dims = node["dim"]
    assert node.op.reduction is not None
    if len(dims) == source.rank:
        source = build(OPS["reshape"], (source, (source.type.size,)), {})
        dims = (0,)
    last = dims[-1]
    n = source.shape[last]
    pieces = cdiv(n, CHUNK)
    shape: list[Index] = list(source.shape)
    identity = node.op.reduction.identity(node.dtype)
    after_last = source.rank - 1 - last
    padded = build(OPS["pad"], (source, (0, 0) * after_last + (0, pieces * CHUNK - n)), {"value": identity})
    shape[last : last + 1] = [pieces, CHUNK]
    cut = build(OPS["reshape"], (padded, tuple(shape)), {})
    rest = {name: value for name, value in node.attrs if name != "dim"}
    partial = build(node.op, (cut, (*dims[:-1], last + 1)), rest)
    # the dims before `last` are gone, so the pieces stand where their count says
    return build(node.op, (partial, (last - len(dims) + 1,)), rest)
