"""The compiler as a list of passes, in order: Graph to launches.

Passes on the Graph run once a trace; what depends on layouts and on the sizes of rows runs once a specialisation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .ir import Graph, Node, topological
from .kernel import Buffer, Kernel
from .levels import passes
from .lower import Origin, Write, lower
from .options import Rung, say
from .passes.cascade import cascade
from .passes.common_axes import common_axes
from .passes.decompose import decompose
from .passes.fix_rows import fix_rows, with_sizes
from .passes.fuse_vertically import Group, Partition, fuse_vertically
from .passes.hoist_scales import hoist_scales
from .passes.merge_axes import merge_axes
from .passes.scale_exponents import scale_exponents
from .passes.simplify import apart, simplify
from .passes.split_slabs import split_slabs
from .passes.still_dims import still_dims
from .schedule import schedule, shareable, walked
from .splits import Count
from .statements import Names

PIPELINE: tuple[Callable[[Graph], Graph], ...] = (simplify, decompose, simplify)


def optimise(graph: Graph) -> Graph:
    """The graph in primitives, simplified."""
    traced = graph
    for step in PIPELINE:
        started = time.perf_counter()
        graph = verified(step(graph), step.__name__)
        _report(step.__name__, started, graph)
    return apart(graph, traced)


def verified(graph: Graph, after: str) -> Graph:
    """The graph, if every input that its outputs need is among its inputs."""
    inputs = set(graph.inputs)
    for node in graph.nodes:
        assert node.op.name != "input" or node in inputs, f"after {after}: {node} is not an input of {graph.name}"
    return graph


def _report(name: str, started: float, graph: Graph) -> None:
    def text() -> str:
        return f"{name}: {(time.perf_counter() - started) * 1e3:.1f} ms, {len(graph.nodes)} nodes"

    say(Rung.PASSES, text)
    say(Rung.GRAPHS, lambda: _shown(graph))


def _shown(graph: Graph) -> str:
    from .text import show

    return show(graph)


@dataclass(frozen=True)
class Specialised:
    """A graph whose resident rows have numbers for sizes, cut into launches."""

    graph: Graph
    fixed: Mapping[str, int]
    partition: Partition


def specialise(
    graph: Graph,
    sizes: Mapping[str, int],
    safe: bool = False,
    refused: Mapping[frozenset[Node], str] | None = None,
    exact: Mapping[str, int] | None = None,
) -> Specialised:
    """The launches of a graph for sizes like these. safe: a launch per reduction and output. refused: see
    fuse_vertically. exact: the sizes of the call, where others stand for them."""
    started = time.perf_counter()
    graph, fixed = fix_rows(graph, sizes)
    graph = simplify(graph)
    partition = fuse_vertically(graph, sizes, safe, refused)
    if partition.resident:
        found = {name: (exact or sizes)[name] for name in sorted(partition.resident)}
        fixed, graph = fixed | found, simplify(with_sizes(graph, found))
        partition = fuse_vertically(graph, sizes, safe, refused)
    _report("specialise", started, graph)
    return Specialised(graph, fixed, partition)


def writes_of(group: Group, buffers: Mapping[Node, Buffer], eager: bool, origin: Origin) -> list[Write]:
    """A launch's stores as scalar expressions over as few axes as can be."""
    writes = still_dims(lower(group.stores, group.boundary, eager, origin), buffers, origin)
    return merge_axes(common_axes(writes, origin), buffers, origin)


def kernel_of(
    name: str,
    graph: Graph,
    group: Group,
    buffers: Mapping[Node, Buffer],
    eager: bool = False,
    sizes: Mapping[str, int] | None = None,
    count: Count | None = None,
) -> Kernel | None:
    """The kernel of one launch, for sizes like these. count: with its loop cut into so many parts; None if that cannot
    be."""
    origin: Origin = {}
    writes = writes_of(group, buffers, eager, origin)
    nests = walked(writes)
    before = [passes(writes, nest) for nest in nests]
    writes, log = cascade(writes, nests, origin, eager)
    writes = split_slabs(writes if eager else scale_exponents(writes, origin), origin)
    if not eager:
        writes = hoist_scales(writes, {a for n in walked(writes) for a in n}, origin)
    used = {n for n in topological(group.stores) if n in buffers} | set(group.stores)
    mine = {n: b for n, b in buffers.items() if n in used}
    names = Names(
        {e: graph.names[n] for e, n in origin.items() if n in graph.names and n not in group.boundary},
        {e: graph.lines[n] for e, n in origin.items() if n in graph.lines},
    )
    nest = shareable(writes) if count is not None else None
    if count is not None and nest is None:
        return None
    return schedule(name, writes, mine, names, log, max(before, default=1), nest, count, sizes)
