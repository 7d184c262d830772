"""What a kernel costs: bytes, programs, and the written rule that accepts or declines a fusion.

Everything here is exact integer arithmetic on sizes, except `Machine.seconds`, which orders alternatives.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

import numpy as np

from .index import Atom, Index, Variable, atoms, evaluate, poly, replace
from .ir import Node
from .kernel import Assign, Axis, Bound, Edge, Kernel, Last, Limit, Loop, Statement, Store
from .lower import Write
from .scalar import Expr, Loaded, variables, walk

Sizes = Mapping[str, int]


@dataclass(frozen=True)
class Machine:
    """A GPU as the cost rule sees it (data sheets; flops: of dense products of halves; launch: what a launch costs on
    an idle stream)."""

    name: str
    processors: int
    bytes_per_second: float
    flops: float
    launch: float = 3e-6  # seconds

    def seconds(self, moved: int, programs: int, launches: int = 1, flops: int = 0) -> float:
        """Modelled time: launches, and bytes at the share of the bandwidth that so many programs can draw, or products
        at that of the processors that they have, whichever takes longer. About half of the processors saturate the
        memory, so one draws twice its share."""
        share = min(1.0, 2 * max(programs, 1) / self.processors)
        busy = min(1.0, max(programs, 1) / self.processors)
        return launches * self.launch + max(moved / (self.bytes_per_second * share), flops / (self.flops * busy))


MACHINES = {
    "sm_80": Machine("A100", 108, 1.555e12, 3.12e14),
    "sm_90": Machine("H100", 132, 3.35e12, 9.9e14),
    "sm_100": Machine("B200", 148, 8.0e12, 2.25e15),
    "gfx942": Machine("MI300X", 304, 5.3e12, 1.3e15),
}
REFERENCE = MACHINES["sm_90"]  # fusion decisions are the same on every machine
LEAST_ROUNDS = 4  # of a loop, that are worth a program of their own
WAVES, LARGE_TILE = 4, 4096  # programs of a processor that wait for memory in turn, unless a product's tile is as large
CPU_SHARES, CPU_LEAST_ROUNDS = 16, 16  # whatever number of threads there is, so that it changes no result

# ---- distinct elements of an access ----------------------------------------------------------------------------------


def known(value: Index, sizes: Sizes) -> int:
    """A size as a number."""
    return evaluate(value, sizes)


def elements(index: Iterable[Index], guards: Sequence[Expr], sizes: Sizes) -> int:
    """How many different elements an access touches: the product over the axes that move it, within its guards. An
    index read from memory counts one row for each index."""
    moving: dict[Variable, None] = {}
    for i in index:
        for v in sorted(variables(i), key=lambda a: a.key):
            moving.setdefault(v)
    total = 1
    for v in moving:
        low, high = 0, known(v.extent, sizes)
        for guard in guards:
            low, high = _narrowed(guard, v, low, high, sizes)
        total *= max(0, high - low)
    return total


def _narrowed(guard: Expr, v: Variable, low: int, high: int, sizes: Sizes) -> tuple[int, int]:
    """The range of v in which a conjunction of affine comparisons on v alone can hold."""
    if guard.kind == "both":
        for part in guard.args:
            low, high = _narrowed(part, v, low, high, sizes)
        return low, high
    if guard.kind != "less":
        return low, high
    difference = guard["b"] - guard["a"]  # 0 < difference
    if variables(difference) != {v} or any(isinstance(a, Loaded) or hasattr(a, "dividend") for a in atoms(difference)):
        return low, high
    at0 = known(replace(difference, {v: 0}), sizes)
    slope = known(replace(difference, {v: 1}), sizes) - at0
    if slope == 1:
        return max(low, 1 - at0), high
    if slope == -1:
        return low, min(high, at0)
    return low, high


# ---- bytes of a list of writes ---------------------------------------------------------------------------------------


def distinct_bytes(writes: Sequence[Write], sizes: Sizes) -> tuple[dict[Node, int], dict[Node, int]]:
    """Each byte read once and each byte written once, by tensor."""
    reads: dict[Node, int] = {}
    for e in walk([w.value for w in writes]):
        if e.kind == "load" and not e["tensor"].is_number:
            node = e["tensor"]
            count = reads.get(node, 0) + elements(e["index"], e.args, sizes)
            reads[node] = min(count, known(node.type.size, sizes))
    stored: dict[Node, int] = {}
    for w in writes:
        stored[w.tensor] = stored.get(w.tensor, 0) + elements(w.index, (), sizes)
    return _scaled(reads), _scaled(stored)


def _scaled(counts: Mapping[Node, int]) -> dict[Node, int]:
    return {node: n * node.dtype.bytes for node, n in counts.items()}


# ---- bytes of a kernel -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Traffic:
    """Bytes of one launch by tensor name: distinct bytes read and written, and what the programs request."""

    reads: dict[str, int] = field(default_factory=dict)
    writes: dict[str, int] = field(default_factory=dict)
    requested: dict[str, int] = field(default_factory=dict)
    stored: dict[str, int] = field(default_factory=dict)


def traffic(kernel: Kernel, tiles: Mapping[str, int], sizes: Sizes, footprints: Mapping[str, int]) -> Traffic:
    """What a launch with these tile sizes moves. footprints: the distinct elements that each buffer's memory has."""
    reads: dict[str, int] = {}
    requested: dict[str, int] = {}
    writes: dict[str, int] = {}
    stored: dict[str, int] = {}
    seen: set[tuple] = set()
    for statement, around in _with_loops(kernel.body, ()):
        if isinstance(statement, Assign) and statement.value.kind == "load":
            buffer = kernel.buffer(statement.value["tensor"])
            if buffer.number:
                continue
            index, into, total = statement.value["index"], reads, requested
        elif isinstance(statement, Store):
            buffer, index, into, total = statement.buffer, statement.index, writes, stored
        else:
            continue
        guards = statement.origin.args if isinstance(statement, Assign) else ()
        amount = elements(index, guards, sizes)
        moving = frozenset(v for i in index for v in variables(i))
        requests = amount * _repeats(kernel, moving, around, tiles, sizes)
        for loop in (s for s in around if isinstance(s, Loop)):
            walked = rounds(kernel, loop, tiles, sizes)
            requests = requests * walked.visited // max(1, walked.of)
        total[buffer.name] = total.get(buffer.name, 0) + requests * buffer.dtype.bytes
        place = buffer.offset(index)
        key = (buffer.name, place, guards)
        if key not in seen:
            seen.add(key)
            there = into.get(buffer.name, 0) + elements((place,), guards, sizes) * buffer.dtype.bytes
            into[buffer.name] = min(there, footprints[buffer.name] * buffer.dtype.bytes)
    if kernel.last is not None:  # a number for each tile: each of its programs adds to it, the last one clears it
        name, each = kernel.last.arrivals.name, kernel.last.arrivals.dtype.bytes
        programs = math.prod(count(a, tiles, sizes) for a in kernel.grid)
        requested[name] = programs * each
        reads[name] = writes[name] = requested[name] // count(kernel.last.split, tiles, sizes)
    return Traffic(reads, writes, requested, stored)


def _repeats(
    kernel: Kernel, moving: frozenset, around: Sequence[Loop | Last], tiles: Mapping[str, int], sizes: Sizes
) -> int:
    """How often an access runs for axes that it does not vary along: once per program, once per round of a loop. The
    programs that share a loop walk it once together, and but one of them does what is left to the last."""
    times, shared = 1, {s.split for s in around}
    for axis in (*kernel.grid, *(s.axis for s in around if isinstance(s, Loop))):
        if axis.variable not in moving and axis not in shared:
            times *= count(axis, tiles, sizes)
    return times


def count(axis: Axis, tiles: Mapping[str, int], sizes: Sizes) -> int:
    """How many tiles, or indices, an axis has."""
    extent = known(axis.extent, sizes)
    return -(-extent // tiles[axis.tile]) if axis.is_tiled else extent


def _with_loops(
    body: Iterable[Statement], around: tuple[Loop | Last, ...]
) -> Iterable[tuple[Statement, tuple[Loop | Last, ...]]]:
    for s in body:
        if isinstance(s, (Loop, Last)):
            yield from _with_loops(s.body, (*around, s))
        else:
            yield s, around


# ---- rounds of a loop that walks part of its axis --------------------------------------------------------------------


def rounds(kernel: Kernel, loop: Loop, tiles: Mapping[str, int], sizes: Sizes) -> Rounds:
    """The tiles that all programs together visit in a loop, and those that the axis has for them. What memory decides
    counts as everything."""
    grid = [a for a in kernel.grid if loop.split is None or a is not loop.split]
    programs = [count(a, tiles, sizes) for a in grid]
    tile, extent = tiles[loop.axis.tile] if loop.axis.is_tiled else 1, known(loop.axis.extent, sizes)
    every = math.prod(programs) * -(-extent // tile)
    if loop.range is None or not every:
        return Rounds(every, every)
    places = dict(zip([a.variable for a in grid], np.indices(programs, sparse=True), strict=True))
    at = _Places(kernel, places, tiles, sizes)
    low = np.maximum(at.limit(loop.range.lower, 0), 0) // tile
    high = -(-np.minimum(at.limit(loop.range.upper, extent), extent) // tile)
    visited = np.broadcast_to(np.maximum(high - low, 0), programs)
    return Rounds(int(visited.sum()), every)


@dataclass(frozen=True)
class Rounds:
    """Tiles visited, of so many that there are."""

    visited: int
    of: int


def _elements(kernel: Kernel, free: Iterable[Variable], tiles: Mapping[str, int]) -> int:
    """The elements of a tile."""
    return math.prod(tiles[a.tile] for a in kernel.tiled(free))


def splits(kernel: Kernel, tiles: Mapping[str, int], sizes: Sizes, target: str) -> int:
    """Among how many programs a kernel's loop is best shared out, that which is shared or any: as many as keep the
    machine busy, each with a few rounds at least; 1 where there are programs enough. What is left of a machine is not
    worth sharing: from more than half of it on there is one program for each tile."""
    loops = [s for s in kernel.body if isinstance(s, Loop)]
    loops = [s for s in loops if s.split is not None] or loops
    shared = {s.split for s in loops}
    programs = math.prod(count(a, tiles, sizes) for a in kernel.grid if a not in shared)
    if not loops or not programs:
        return 1
    is_gpu = target in MACHINES or target.startswith(("sm", "gfx"))
    processors = MACHINES.get(target, REFERENCE).processors if is_gpu else CPU_SHARES
    if is_gpu and not any(_elements(kernel, p.free, tiles) > LARGE_TILE for p in kernel.products):
        processors *= WAVES
    length = max(rounds(kernel, loop, tiles, sizes).visited for loop in loops) // programs
    inside = max(_rounds_inside(loop, tiles, sizes) for loop in loops)
    every = length * inside // (LEAST_ROUNDS if is_gpu else CPU_LEAST_ROUNDS)
    return max(1, min(processors // programs, length, every))


def _rounds_inside(loop: Loop, tiles: Mapping[str, int], sizes: Sizes) -> int:
    """The rounds of the loops inside a round, 1 where there are none."""
    inner = [s for s in loop.body if isinstance(s, Loop)]
    return max((count(s.axis, tiles, sizes) * _rounds_inside(s, tiles, sizes) for s in inner), default=1)


@dataclass(frozen=True)
class _Places:
    """The values of limits in every program at once."""

    kernel: Kernel
    places: Mapping[Variable, np.ndarray]
    tiles: Mapping[str, int]
    sizes: Sizes

    def limit(self, limit: Limit | None, default: int) -> np.ndarray | int:
        if limit is None:
            return default
        if isinstance(limit, Bound):
            parts = [self.limit(part, default) for part in limit.parts]
            return reduce(np.maximum if limit.name == "max" else np.minimum, parts)
        if any(isinstance(a, Loaded) for a in atoms(limit)):
            return default
        total: np.ndarray | int = 0
        for product, factor in () if isinstance(limit, int) else limit.terms:
            term: np.ndarray | int = factor
            for atom in product:
                term = term * self._atom(atom)
            total = total + term
        return total + limit if isinstance(limit, int) else total

    def _atom(self, atom: Atom) -> np.ndarray | int:
        if isinstance(atom, Edge):
            axis = self.kernel.axis(atom.axis)
            start = self.places[atom.axis] * self.tiles[axis.tile]
            end = np.minimum(start + self.tiles[axis.tile], known(axis.extent, self.sizes)) - 1
            return end if atom.last else start
        return self.places[atom] if isinstance(atom, Variable) else evaluate(poly(atom), self.sizes)

