"""Which parts of a graph share a launch.

Every reduction and every output may be a kernel of its own: that is the safe schedule, always legal. Kernels then merge
along the edges between them, and where they read the same tensors, while one kernel can hold both and the cost rule
says
that it pays: bytes that no longer travel and launches saved, against programs lost. Elementwise producers are
recomputed in each consumer, and views are index maps of loads, so neither is ever a kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import networkx as nx

from ..cost import REFERENCE, Machine, distinct_bytes, known
from ..index import Variable
from ..ir import Graph, Node, topological
from ..levels import nests_of
from ..lower import Refusal, Write, lower
from ..products import loops_around, products_of
from ..roles import Roles
from ..scalar import Expr, walk
from ..schedule import loops_of, refuse, shareable, walked
from ..types import NARROW
from .cascade import cascade
from .common_axes import common_axes
from .fix_rows import sizes_of_rows

CACHED = 3  # what is read again comes from a cache, about so many times as fast as memory
FULL = 16  # how much more a product of f32 takes than one of halves
DOT_TILE, LEAST_TILE = 128, 32  # rows and columns of a product that a program computes: usually, and at least
SHARED = ("one", "grid")  # the roles of axes that programs share out
PIECE, RUN = 512, 16384  # indices of a loop that are worth a program of their own: over products, and else
SHORT = 8  # groups of which every run is priced
MANY = 16  # times as many numbers as are made of them
ROW_TILE, LANE_TILE = 1024, 16  # elements a program computes in a chain, columns in a reduction over rows


@dataclass(frozen=True)
class Group:
    """One launch to be: the nodes it computes, those of them that it stores, and those it reads from memory."""

    nodes: frozenset[Node]
    stores: tuple[Node, ...]
    boundary: frozenset[Node]


@dataclass
class Partition:
    """The launches in order, and why each boundary between them stands."""

    groups: list[Group]
    reasons: list[str] = field(default_factory=list)
    resident: frozenset[str] = frozenset()  # sizes, by name, that have to be numbers for these launches


def fuse_vertically(
    graph: Graph,
    sizes: Mapping[str, int],
    safe: bool = False,
    refused: Mapping[frozenset[Node], str] | None = None,
    machine: Machine = REFERENCE,
) -> Partition:
    """The graph as launches. safe: one per reduction and output, no merging. refused: groups that the schedule could
    not make one kernel of, and why."""
    return _Fuser(graph, sizes, machine, refused or {}, safe).run(safe)


class _Fuser:
    def __init__(
        self,
        graph: Graph,
        sizes: Mapping[str, int],
        machine: Machine,
        refused: Mapping[frozenset[Node], str],
        safe: bool = False,
    ) -> None:
        self.graph, self.sizes, self.machine = graph, sizes, machine
        outputs = [o for o in dict.fromkeys(graph.outputs) if o not in graph.inputs and 0 not in o.shape]
        self.order = {node: i for i, node in enumerate(topological(outputs))}
        self.stored = [n for n in self.order if (n.op.combination is not None and _is_work(n)) or n in outputs]
        self.outputs = set(outputs)
        self.inputs = set(graph.inputs)
        if not safe:
            stored = {*self.stored, *self._few()}
            self.stored = [n for n in self.order if n in stored]
        self.needs = {n: self._direct(n) for n in self.stored}
        self.costs: dict[frozenset[Node], float] = dict.fromkeys(refused, math.inf)
        self.refusals: dict[frozenset[Node], str] = dict(refused)

    def _few(self) -> set[Node]:
        """What reductions combine, where it is few numbers made of many, such as each row's loss: it may be worth more
        in memory than the many."""
        found = set()
        for node in self.stored:
            for source in node.inputs if node.op.combination is not None else ():
                most = max((known(n.type.size, self.sizes) for n in self._direct(source)), default=0)
                if source.op.kind == "elementwise" and most >= MANY * known(source.type.size, self.sizes):
                    found.add(source)
        return found - set(self.stored)

    def _direct(self, node: Node) -> set[Node]:
        """The stored nodes that a node reads, looking through what is recomputed."""
        found: set[Node] = set()
        seen: set[Node] = set()
        stack = list(node.inputs)
        cut = set(self.stored)
        while stack:
            n = stack.pop()
            if n in seen:
                continue
            seen.add(n)
            if n in cut:
                found.add(n)
            else:
                stack += n.inputs
        return found

    def run(self, safe: bool) -> Partition:
        groups = [frozenset((n,)) for n in self.stored]
        if not safe:
            groups = self._merge_all(groups)
        ordered = [self._group(g) for g in self._in_order(groups)]
        return Partition(ordered, self._reasons(groups), self._resident(groups))

    def _resident(self, groups: Iterable[frozenset[Node]]) -> frozenset[str]:
        """The sizes of what is resident and has none in numbers yet."""
        names: set[str] = set()
        for nodes in groups if any(n.op.contracts for n in self.order) else ():
            try:
                writes = self.writes(nodes)
                roles = refuse(writes, self.sizes)
            except Refusal:  # the safe schedule has launches that only the layouts refuse
                continue
            if roles is None:
                rows = sizes_of_rows(self.graph, (n for n in nodes if n.op.combination is not None), self.sizes)
                names.update(rows)
            else:
                names |= roles.fixed
        return frozenset(names)

    # -- merging

    def _merge_all(self, groups: list[frozenset[Node]]) -> list[frozenset[Node]]:
        """The whole as one if it can be; else the best runs of a few, two halves of many, in order, each merged, and
        then what merges across."""
        if len(groups) < 2:
            return groups
        whole = frozenset().union(*groups)
        if self._cost(whole) <= sum(self._cost(g) for g in groups):
            return [whole]
        if 2 < len(groups) <= SHORT:
            groups = self._best_runs(groups)
        elif len(groups) > SHORT:
            half = len(groups) // 2
            groups = self._merge_all(groups[:half]) + self._merge_all(groups[half:])
        return self._merge_pairs(groups)

    def _best_runs(self, groups: Sequence[frozenset[Node]]) -> list[frozenset[Node]]:
        """The cheapest way to cut them, as they follow each other, into runs that are each merged."""
        best: list[tuple[float, list[frozenset[Node]]]] = [(0.0, [])]
        for end in range(1, len(groups) + 1):
            ways = []
            for start in range(end):
                run = frozenset().union(*groups[start:end])
                ways.append((best[start][0] + self._cost(run), [*best[start][1], run]))
            best.append(min(ways, key=lambda way: way[0]))
        return best[-1][1]

    def _merge_pairs(self, groups: list[frozenset[Node]]) -> list[frozenset[Node]]:
        """Pair by pair, the most profitable first."""
        while True:
            best, gain = None, 0.0
            for a, b in self._neighbours(groups):
                saved = self._cost(a) + self._cost(b) - self._cost(a | b)
                if saved > gain and self._is_convex(groups, a, b):
                    best, gain = (a, b), saved
            if best is None:
                return groups
            a, b = best
            groups = [g for g in groups if g not in (a, b)] + [a | b]

    def _neighbours(self, groups: Sequence[frozenset[Node]]) -> Iterable[tuple[frozenset[Node], frozenset[Node]]]:
        """Pairs with an edge between them, or a tensor that both read."""
        reads = {g: set().union(*(self.needs[n] for n in g)) - g for g in groups}
        sources = {g: self._sources(g) for g in groups}
        for i, a in enumerate(groups):
            for b in groups[i + 1 :]:
                if reads[a] & b or reads[b] & a or sources[a] & sources[b]:
                    yield a, b

    def _sources(self, group: frozenset[Node]) -> set[Node]:
        """Large tensors that a group reads from outside it."""
        found = set()
        cut = set(self.stored) - group
        for node in topological(group):
            for arg in node.inputs:
                if arg in cut or arg in self.inputs:
                    found.add(arg)
        return found

    def _is_convex(self, groups: Sequence[frozenset[Node]], a: frozenset[Node], b: frozenset[Node]) -> bool:
        """Whether no path leaves the pair and comes back. Nodes of groups not at hand stand for themselves."""
        at_hand = frozenset().union(*groups)
        alone = [frozenset((n,)) for n in self.stored if n not in at_hand]
        merged = nx.contracted_nodes(self._dag([*groups, *alone]), a, b, self_loops=False)
        return nx.is_directed_acyclic_graph(merged)

    def _dag(self, groups: Sequence[frozenset[Node]]) -> nx.DiGraph:
        owner = {n: g for g in groups for n in g}
        dag = nx.DiGraph()
        dag.add_nodes_from(groups)
        for g in groups:
            for n in g:
                for need in self.needs[n]:
                    if owner[need] is not g:
                        dag.add_edge(owner[need], g)
        return dag

    def _in_order(self, groups: Sequence[frozenset[Node]]) -> list[frozenset[Node]]:
        return list(nx.lexicographical_topological_sort(self._dag(groups), key=lambda g: min(self.order[n] for n in g)))

    # -- one group

    def _group(self, nodes: frozenset[Node]) -> Group:
        used_outside = {need for n in self.stored if n not in nodes for need in self.needs[n]}
        stores = tuple(n for n in self.stored if n in nodes and (n in self.outputs or n in used_outside))
        boundary = frozenset((set(self.stored) - nodes) | self.inputs)
        return Group(nodes, stores, boundary)

    def writes(self, nodes: frozenset[Node]) -> list[Write]:
        group = self._group(nodes)
        writes = common_axes(lower(group.stores, group.boundary))
        return cascade(writes, walked(writes, self.sizes))[0]

    def _cost(self, nodes: frozenset[Node]) -> float:
        """Modelled seconds of a launch, infinite where no kernel can hold these nodes."""
        cached = self.costs.get(nodes)
        if cached is None:
            try:
                cached = self._seconds(nodes)
            except Refusal as refusal:
                cached = math.inf
                self.refusals[nodes] = str(refusal)
            self.costs[nodes] = cached
        return cached

    def _seconds(self, nodes: frozenset[Node]) -> float:
        writes = self.writes(nodes)
        roles = refuse(writes, self.sizes)
        reads, stored = distinct_bytes(writes, self.sizes)
        moved = sum(reads.values()) + sum(stored.values())
        again = self._again(writes, roles) // CACHED
        return self.machine.seconds(moved + again, self._programs(writes, roles), flops=self._flops(writes, roles))

    def _flops(self, writes: Sequence[Write], roles: Roles | None) -> int:
        """What contractions take, those again that each tile of an axis they lack computes for itself; a product of
        narrower numbers counts less."""
        total = 0
        for p in products_of(writes) if roles is not None else ():
            work = self._extent({*p.fold.free, *p.axes}) * self._repeats(p.fold, writes, roles)
            total += 2 * work * (1 if p.fold["precision"] in NARROW else FULL)
        return total

    def _repeats(self, fold: Expr, writes: Sequence[Write], roles: Roles | None) -> int:
        """How often a reduction is computed: once for each tile of the axes that it does not vary along, of those that
        programs share out and of those whose loops it stands in."""
        if roles is None:
            reduced = {a for nest in nests_of(writes) for a in nest}
            beside = (a for a in writes[0].axes if a not in reduced and a not in fold.free)
            return max(1, self._extent(beside) // LANE_TILE)
        around = loops_around(writes, fold, roles.axes)
        return self._tiles(roles, DOT_TILE, lambda a: a not in fold.free and (roles.axes[a] in SHARED or a in around))

    def _tiles(self, roles: Roles, side: int, counts: Callable[[Variable], bool]) -> int:
        """How many tiles there are of some axes of a kernel with contractions."""
        tile = {"one": 1, "step": 1, "grid": side, "loop": side}
        counted = [(a, tile[role]) for a, role in roles.axes.items() if role in tile and counts(a)]
        return math.prod(-(-known(a.extent, self.sizes) // size) for a, size in counted)

    def _shared(self, writes: Sequence[Write], roles: Roles | None, programs: int) -> int:
        """How many programs there are once a loop is shared out among some for each tile."""
        nest = shareable(writes, self.sizes)
        others = [n for n in loops_of(writes, self.sizes) if n != nest]
        if nest is None or any(self._elements(writes, other) > RUN for other in others):  # which one program walks
            return programs
        within = self._elements(writes, nest) // RUN
        length = self._extent(nest) // PIECE if roles is not None else min(self._extent(nest), within)
        return programs * max(1, min(self.machine.processors // programs, length))

    def _elements(self, writes: Sequence[Write], nest: Sequence[Variable]) -> int:
        """How many there are of what a loop walks, and the loops inside it."""
        folds = (e for e in walk([w.value for w in writes]) if e.kind == "reduce" and set(e["axes"]) & set(nest))
        return self._extent(frozenset(nest).union(*(e.bound for e in folds)))

    def _again(self, writes: Sequence[Write], roles: Roles | None) -> int:
        """About how many bytes programs read again for reductions that do not vary along the axes they are spread over:
        each of them computes the whole reduction for itself. What a contraction that varies along them reads in the
        same pass is there anyway."""
        total = 0
        there = {load for p in products_of(writes) for load in _loads(p.fold)} if roles is not None else set()
        for e in walk([w.value for w in writes]):
            if e.kind == "reduce" and not _loads(e) <= there:
                inside = self._extent({*e.args[0].free, *e["axes"]})
                total += (self._repeats(e, writes, roles) - 1) * inside * e.dtype.bytes
        return total

    def _extent(self, axes: Iterable[Variable]) -> int:
        return math.prod(known(a.extent, self.sizes) for a in axes)

    def _programs(self, writes: Sequence[Write], roles: Roles | None) -> int:
        """About how many programs the grid axes give."""
        if roles is not None:
            programs = self._tiles(roles, LEAST_TILE, lambda a: roles.axes[a] in SHARED)
            return self._shared(writes, roles, programs)
        nests = nests_of(writes)
        reduced = {a for nest in nests for a in nest}
        count = self._extent(a for a in writes[0].axes if a not in reduced)
        if not nests:
            return max(1, count // ROW_TILE)
        rows = all(_moves_last(w, reduced) for w in writes)
        return self._shared(writes, None, max(1, count if rows else count // LANE_TILE))

    def _reasons(self, groups: Sequence[frozenset[Node]]) -> list[str]:
        reasons = []
        for a, b in self._neighbours(groups):
            why = self.refusals.get(a | b)
            names = " and ".join("+".join(n.op.name for n in sorted(g, key=self.order.__getitem__)) for g in (a, b))
            if why is None and math.isfinite(self._cost(a | b)):
                lost = self._cost(a | b) - self._cost(a) - self._cost(b)
                slower = f"{lost * 1e6:.1f} us slower on {self.machine.name}"
                why = f"one launch would be {slower} (modelled): too few programs"
            reasons.append(f"{names}: {why or self.refusals.get(a | b, 'a path between them leaves the pair')}")
        return reasons


def _loads(fold: Expr) -> set[Expr]:
    return {e for e in walk([fold.args[0]]) if e.kind == "load"}


def _moves_last(w: Write, reduced: set) -> bool:
    """Whether the reduction runs along the last dimension, so that a program has rows."""
    return not w.axes or w.axes[-1] in reduced or not (set(w.axes) & reduced)


def _is_work(node: Node) -> bool:
    """A reduction or a scan of something over something: over dimensions of size 1 it is a view, over none it is a
    constant."""
    (source,) = node.inputs
    return 0 not in source.shape and any(source.shape[d] != 1 for d in node["dim"])
