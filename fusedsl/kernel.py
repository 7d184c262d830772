"""The Kernel: one launch as data. Axes with roles, buffers with layouts, and statements; printed to Triton, never
parsed.

A kernel's program computes one tile of its grid axes. Its body is a list of statements on named tiles: a tile's
shape is the axes it varies along, in the kernel's one global order, so a printer only inserts `[:, None]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

from .errors import Line
from .index import Atom, Index, Symbol, Variable, atoms, sole_atom
from .ir import Node
from .scalar import Expr, indices, loaded_in
from .types import EIGHTS, NARROW, DType

# one: an index per program. grid: tiled over programs. loop: tiled, sequential. step: sequential, an index at a time.
# block: whole, resident in a tile padded to a power of two.
Role = Literal["one", "grid", "loop", "step", "block"]


def padded(extent: Index) -> int:
    """The power of two that holds a known extent."""
    assert isinstance(extent, int)
    return 1 << max(0, extent - 1).bit_length()


@dataclass(frozen=True)
class Axis:
    """One index of the iteration space."""

    variable: Variable
    role: Role
    name: str
    wide: bool = False  # computed in 64 bits
    least: int = 1  # the smallest tile that it may have

    @property
    def extent(self) -> Index:
        return self.variable.extent

    @property
    def is_tiled(self) -> bool:
        return self.role in ("grid", "loop", "block")

    @property
    def tile(self) -> str:
        """The name of the constexpr that holds its tile size."""
        return f"BLOCK_{self.name.upper()}"

    @property
    def resident(self) -> int:
        """The tile that holds all of it."""
        return max(self.least, padded(self.extent))

    @property
    def start(self) -> str:
        return f"{self.name}0"

    @property
    def size(self) -> str:
        """The extent as text: a number, a size, or a parameter of its own if it is computed from sizes."""
        if isinstance(self.extent, int) or isinstance(sole_atom(self.extent), Symbol):
            return repr(self.extent)
        return f"size_{self.name}"

    def __repr__(self) -> str:
        return f"{self.name}:{self.role}({self.extent})"


def needs_mask(axis: Axis) -> bool:
    """Whether a tile of the axis can reach past its end: tiles are powers of two."""
    if axis.role == "block" or (axis.role == "loop" and isinstance(axis.extent, int)):
        return axis.resident != axis.extent
    return axis.role in ("grid", "loop")


@dataclass(frozen=True)
class Buffer:
    """A tensor in memory as the kernel sees it. strides: in elements, a number where it is known, else a symbol that is
    passed. joins: (outer, inner) dimensions that one stride walks through, stride[outer] == shape[inner] *
    stride[inner]."""

    node: Node
    name: str
    dtype: DType
    shape: tuple[Index, ...]
    strides: tuple[Index, ...]
    joins: tuple[tuple[int, int], ...] = ()
    wide: bool = False
    number: bool = False  # passed by value

    @property
    def pointer(self) -> str:
        return f"{self.name}_ptr"

    def stride_symbols(self) -> list[Symbol]:
        """The strides that no size tells."""
        sizes = {a for n in self.shape for a in atoms(n)}
        return [a for s in self.strides for a in atoms(s) if isinstance(a, Symbol) and a not in sizes]

    def steps(self, index: tuple[Index, ...]) -> list[tuple[Index, Index]]:
        """(index, stride) pairs that add up to an element's place; dimensions that join are walked as one where that is
        simpler."""
        places, strides = list(index), list(self.strides)
        for outer, inner in self.joins:
            joined = places[outer] * self.shape[inner] + places[inner]
            if _opaque(joined) < _opaque(places[outer]) + _opaque(places[inner]):
                places[outer], places[inner] = 0, joined
        return [(i, s) for i, s in zip(places, strides, strict=True) if i != 0 and s != 0]

    def offset(self, index: tuple[Index, ...]) -> Index:
        """Where an element lies, in elements."""
        total: Index = 0
        for place, stride in self.steps(index):
            total = total + place * stride
        return total


def _opaque(index: Index) -> int:
    """How many divisions and remainders an index needs."""
    return sum(1 + _opaque(a.dividend) for a in atoms(index) if hasattr(a, "dividend"))  # type: ignore[attr-defined]


# ---- statements ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Assign:
    """name = value; the value's arguments are constants and names. origin: the expression it was before that."""

    name: str
    value: Expr
    axes: tuple[Variable, ...]
    origin: Expr
    line: Line | None = None


@dataclass(frozen=True)
class State:
    """A tile carried through a loop: starts as `init` everywhere, and `step` replaces it at the end of each round."""

    name: str
    dtype: DType
    init: Expr
    axes: tuple[Variable, ...]


@dataclass(frozen=True)
class Update:
    """A state's next value."""

    name: str
    value: Expr
    line: Line | None = None


class Edge(Atom):
    """The first or the last index that a program's tile has along an axis."""

    __slots__ = ("axis", "last")

    def __init__(self, axis: Variable, last: bool) -> None:
        self.axis, self.last, self.key = axis, last, (4, *axis.key, last)

    @property
    def free(self) -> frozenset[Atom]:
        return frozenset((self.axis,))

    def __repr__(self) -> str:
        return f"{'last' if self.last else 'first'}({self.axis})"


@lru_cache(maxsize=4096)
def edge(axis: Variable, last: bool) -> Edge:
    """The one edge of these."""
    return Edge(axis, last)


@dataclass(frozen=True)
class Bound:
    """The least or the greatest of some limits."""

    name: str  # min or max
    parts: tuple[Limit, ...]

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(map(repr, self.parts))})"


Limit = Index | Bound


@dataclass(frozen=True)
class Range:
    """The part of an axis that a loop walks, from lower to upper, and that in which none of `conditions` need be asked:
    each comes to the answer beside it there. None: from the start, to the end."""

    lower: Limit | None
    upper: Limit | None
    whole_lower: Limit | None
    whole_upper: Limit | None
    conditions: tuple[tuple[Expr, bool], ...] = ()

    @property
    def limits(self) -> tuple[Limit, ...]:
        every = (self.lower, self.upper, self.whole_lower, self.whole_upper)
        return tuple(limit for limit in every if limit is not None)


@dataclass(frozen=True)
class Loop:
    """One pass over an axis, or over a range of it: full tiles between those that are cut off or asked about, so that
    they need no mask. split: whose index says which part of it a program walks."""

    axis: Axis
    states: tuple[State, ...]
    body: tuple[Statement, ...]
    number: int = 1
    range: Range | None = None
    split: Axis | None = None


@dataclass(frozen=True)
class Last:
    """What only the last program to arrive does, of those that differ in the index of one axis alone: the others have
    stored what it needs. arrivals: how many have arrived, a number for each such set of programs; 0 before a launch,
    and after it again."""

    split: Axis
    arrivals: Buffer
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Store:
    """buffer[index] = value over a tile."""

    buffer: Buffer
    index: tuple[Index, ...]
    value: Expr
    axes: tuple[Variable, ...]
    line: Line | None = None


@dataclass(frozen=True)
class Check:
    """Stops the program where an index read from memory is out of range (in debug builds, and on the CPU). guard: of
    the load that uses it, () or one condition."""

    value: Expr
    below: Index
    axes: tuple[Variable, ...]
    guard: tuple[Expr, ...] = ()
    line: Line | None = None


Statement = Assign | Update | Loop | Last | Store | Check


@dataclass(frozen=True)
class Kernel:
    """One launch. lanes: axes along which memory is contiguous."""

    name: str
    axes: tuple[Axis, ...]  # in the global order
    reads: tuple[Buffer, ...]
    writes: tuple[Buffer, ...]
    body: tuple[Statement, ...]
    lanes: tuple[Axis, ...] = ()
    passes: int = 1
    written: int = 1  # passes as the user wrote it
    contracts: bool = False  # whether its axes have the roles that contractions give them
    log: tuple[str, ...] = ()

    def axis(self, variable: Variable) -> Axis:
        return next(a for a in self.axes if a.variable is variable)

    def tiled(self, free: Iterable[Variable]) -> tuple[Axis, ...]:
        """The axes of a tile that varies along these variables, in the global order."""
        wanted = set(free)
        return tuple(a for a in self.axes if a.variable in wanted and a.is_tiled)

    @cached_property
    def last(self) -> Last | None:
        """What is left to the last of several programs that share a loop."""
        return next((s for s in self.body if isinstance(s, Last)), None)

    @property
    def split(self) -> tuple[Axis, ...]:
        """The grid axes whose full tiles take a branch without masks."""
        return tuple(a for a in self.lanes if a.role == "grid")

    @property
    def is_resident(self) -> bool:
        """Whether rows stay in registers from load to store."""
        return any(a.role == "block" for a in self.axes) and not any(a.role == "loop" for a in self.axes)

    @property
    def grid(self) -> tuple[Axis, ...]:
        return tuple(a for a in self.axes if a.role in ("one", "grid"))

    @cached_property
    def products(self) -> tuple[Expr, ...]:
        """The products of tiles."""
        values = [s.value for s in self.statements() if isinstance(s, (Assign, Update))]
        return tuple(v for v in values if v.kind == "dot")

    @cached_property
    def states(self) -> tuple[State, ...]:
        """What loops carry."""
        return tuple(state for s in self.statements() if isinstance(s, Loop) for state in s.states)

    @property
    def is_half(self) -> bool:
        """Whether all products are of halves, or of 8 bits."""
        return all(p["precision"] in NARROW for p in self.products)

    @property
    def is_scaled(self) -> bool:
        """Whether products of 8-bit numbers are scaled before they are added up, so that there are two sums at once."""
        names = [kind.name for kind in EIGHTS]
        return any(p["precision"] in names and len(p.args) == 2 for p in self.products)

    @property
    def sizes(self) -> tuple[Symbol, ...]:
        """The size symbols that the kernel's text needs, in order."""
        strides = {s for b in (*self.reads, *self.writes) for s in b.stride_symbols()}
        return tuple(sorted(self._used() - strides, key=lambda s: s.name))

    @property
    def strides(self) -> tuple[tuple[Buffer, int], ...]:
        """The strides that are passed: (buffer, dimension)."""
        used = self._used()
        buffers = dict.fromkeys((*self.reads, *self.writes))
        passed = {b: used.intersection(b.stride_symbols()) for b in buffers}
        return tuple((b, d) for b in buffers for d, s in enumerate(b.strides) if sole_atom(s) in passed[b])

    @cached_property
    def aligning(self) -> frozenset[str]:
        """The sizes, by the names of their parameters, that decide where along its lanes a tile is loaded, stored or
        cut off: only if they are multiples of 16 can accesses be wide there. Left out are sizes that only multiply a
        stride, which is known to be one, and those of long runs, of which one tile of many is cut off."""
        lanes = {a.variable for a in self.lanes}
        strides = {s for b in (*self.reads, *self.writes) for s in b.stride_symbols()}
        found = {a.size for a in self.lanes if a.role == "loop" or (a.role == "grid" and len(self.axes) > 1)}
        for places in self._places():
            if lanes & {v for index in places for v in _variables(index)}:
                found |= {symbol.name for index in places for symbol in _moving(index, strides)}
        return frozenset(found)

    def _places(self) -> Iterator[tuple[Index, ...]]:
        """The indices that decide together what is accessed: an offset, or the two sides of a comparison."""
        for statement in self.statements():
            if isinstance(statement, Store):
                yield (statement.buffer.offset(statement.index),)
            elif isinstance(statement, Assign) and statement.value.kind == "load":
                yield (self.buffer(statement.value["tensor"]).offset(statement.value["index"]),)
            elif isinstance(statement, Assign) and statement.value.kind == "less":
                yield indices(statement.value)

    def _used(self) -> set[Symbol]:
        found = {a for axis in self.axes if axis.size == repr(axis.extent) for a in atoms(axis.extent)}
        found |= {s for index in self._indices() for s in _symbols(index)}
        return {a for a in found if isinstance(a, Symbol)}

    def _indices(self) -> Iterator[Index]:
        for statement in self.statements():
            if isinstance(statement, Store):
                yield from (statement.buffer.offset(statement.index),)
            elif isinstance(statement, Check):
                yield statement.below
            elif isinstance(statement, Loop):
                for limit in statement.range.limits if statement.range is not None else ():
                    yield from indices_of(limit)
            elif isinstance(statement, (Assign, Update)):
                value = statement.value
                if value.kind == "load":
                    buffer = self.buffer(value["tensor"])
                    yield buffer.offset(value["index"])
                else:
                    yield from indices(value)

    def buffer(self, node: Node) -> Buffer:
        return next(b for b in self.reads if b.node is node)

    def statements(self) -> Iterator[Statement]:
        """Every statement, loops before their bodies."""
        yield from flatten(self.body)


def indices_of(limit: Limit) -> Iterator[Index]:
    """The indices in a limit."""
    if isinstance(limit, Bound):
        for part in limit.parts:
            yield from indices_of(part)
    else:
        yield limit


def flatten(body: Iterable[Statement]) -> Iterator[Statement]:
    """Every statement of a body, loops before what is in them."""
    for statement in body:
        yield statement
        if isinstance(statement, (Loop, Last)):
            yield from flatten(statement.body)


def _moving(index: Index, strides: set[Symbol]) -> Iterator[Symbol]:
    """The symbols that move an index otherwise than by a stride, or by a number that is a multiple of 16."""
    for product, factor in () if isinstance(index, int) else index.terms:
        if factor % 16 and strides.isdisjoint(product):
            yield from (atom for atom in product if isinstance(atom, Symbol))


def _symbols(index: Index) -> Iterator[Symbol]:
    from .index import free

    yield from sorted((a for a in free(index) if isinstance(a, Symbol)), key=lambda s: s.name)


# ---- the verifier ----------------------------------------------------------------------------------------------------


def verify(kernel: Kernel) -> Kernel:
    """The kernel, if it is well formed: names are defined once and before use, loop axes are used only inside their
    loop, states are updated once in it, and every write is over all grid axes."""
    known = {a.variable for a in kernel.axes if a.role in ("one", "grid", "block")}
    _verify(kernel, kernel.body, {}, known)
    stores = [s for s in kernel.statements() if isinstance(s, Store)]
    assert stores, f"{kernel.name}: nothing is stored"
    last = kernel.last
    lasts = list(flatten(last.body)) if last is not None else []
    for store in stores:
        free = {v for i in store.index for v in _variables(i)}
        if last is not None and store in lasts:
            free.add(last.split.variable)
        missing = [a for a in kernel.grid if a.variable not in free and a.extent != 1]
        assert not missing, f"{kernel.name}: {store.buffer.name} is stored by every program of {missing}"
    assert len({a.name for a in kernel.axes}) == len(kernel.axes), f"{kernel.name}: two axes of one name"
    return kernel


def _verify(kernel: Kernel, body: Iterable[Statement], names: dict[str, frozenset], axes: set[Variable]) -> None:
    """names: what is defined here, with the axes it varies along."""
    for s in body:
        if isinstance(s, Last):
            _verify(kernel, s.body, dict(names), axes)
            continue
        if isinstance(s, Loop):
            inner = dict(names) | {state.name: frozenset(state.axes) for state in s.states}
            assert s.axis.variable not in axes, f"{kernel.name}: {s.axis} is already bound"
            _verify(kernel, s.body, inner, axes | {s.axis.variable})
            updated = [u.name for u in flatten(s.body) if isinstance(u, Update)]
            for state in s.states:
                assert updated.count(state.name) == 1, (
                    f"{kernel.name}: {state.name} is updated {updated.count(state.name)}x"
                )
                names[state.name] = frozenset(state.axes)
            continue
        for name, free in (found for e in (s.value, *getattr(s, "guard", ())) for found in _names(e)):
            assert name in names, f"{kernel.name}: {name} is used before it is defined in {s}"
            assert free == names[name], f"{kernel.name}: {name} varies along {names[name]}, used as {free}"
        used = s.value.free | {v for i in getattr(s, "index", ()) for v in _variables(i)}
        assert used <= axes, f"{kernel.name}: {used - axes} is not bound at {s}"
        if isinstance(s, Assign):
            assert s.name not in names, f"{kernel.name}: {s.name} is defined twice"
            names[s.name] = frozenset(s.axes)


def _variables(index: Index) -> set[Variable]:
    from .scalar import variables

    return set(variables(index))


def _names(e: Expr) -> Iterator[tuple[str, frozenset]]:
    parts = [*e.args, *(a.expr for i in indices(e) for a in loaded_in(i))]
    if e.kind == "ref":
        yield e["name"], frozenset(e["axes"])
    for part in parts:
        yield from _names(part)
