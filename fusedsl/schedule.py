"""Writes to a Kernel: which axes are tiled over programs, looped or resident, and which writes no kernel can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from .index import Index, Symbol, Variable, atoms, bounds, cdiv, floordiv, free, is_less, replace
from .ir import Node
from .kernel import Axis, Buffer, Cut, Kernel, Role, padded, verify
from .levels import Nest, nests_of, passes
from .lower import Refusal, Write
from .scalar import variables, walk
from .statements import Builder, Names

RESIDENT = 16384  # elements of a tile that one program can keep in registers without spilling, on every target


def global_order(writes: Sequence[Write]) -> list[Variable]:
    """One order of all axes: as the outputs have their dimensions, then as the loads do."""
    order: list[Variable] = []
    runs = [[v for i in w.index for v in sorted(variables(i), key=lambda a: a.key)] for w in writes]
    exprs = walk([w.value for w in writes])
    runs += [
        [v for i in e["index"] for v in sorted(variables(i), key=lambda a: a.key)] for e in exprs if e.kind == "load"
    ]
    runs += [list(e["axes"]) for e in exprs if e.kind == "reduce"]
    runs += [list(w.axes) for w in writes]
    for run in runs:
        at = 0
        for n, axis in enumerate(run):
            if axis in order:
                at = order.index(axis) + 1
                continue
            later = [order.index(a) for a in run[n + 1 :] if a in order]
            at = max(at, 0) if n and run[n - 1] in order else (min(later) if later else len(order))
            order.insert(at, axis)
            at += 1
    return order


def lanes(writes: Sequence[Write], buffers: Mapping[Node, Buffer]) -> dict[Variable, int]:
    """Axes along which memory is contiguous, or every second to fourth element is used, with the number of accesses for
    which they are. Of the accesses with the most axes: a vector beside a matrix does not decide how the matrix is
    walked."""
    count: dict[Variable, int] = {}
    accesses = [(buffers[w.tensor], w.index) for w in writes]
    for e in walk([w.value for w in writes]):
        if e.kind == "load" and not buffers[e["tensor"]].number:
            accesses.append((buffers[e["tensor"]], e["index"]))
    offsets = [buffer.offset(index) for buffer, index in accesses]
    most = max((len(variables(o)) for o in offsets), default=0)
    for offset in offsets:
        if len(variables(offset)) == most:
            steps = {a: _coefficient(offset, a) for a in atoms(offset) if isinstance(a, Variable)}
            least = min((c for c in steps.values() if isinstance(c, int) and 1 <= c <= 4), default=0)
            for atom in (a for a, step in steps.items() if least and step == least):
                count[atom] = count.get(atom, 0) + 1
    return count


def _coefficient(offset: Index, axis: Variable) -> Index:
    return replace(offset, {axis: 1}) - replace(offset, {axis: 0})


def check(writes: Sequence[Write]) -> None:
    """Raises Refusal where no kernel can hold these writes."""
    reduced = {a for nest in nests_of(writes) for a in nest}
    grids = [frozenset(a for a in w.axes if a not in reduced and a.extent != 1) for w in writes]
    if any(g != grids[0] for g in grids):
        raise Refusal("the outputs are not over the same programs")
    for nest in (n for n in nests_of(writes) if not _is_resident(n, writes)):
        for e in walk([w.value for w in writes]):
            if e.is_fold and not set(e["axes"]) >= set(nest) and set(e["axes"]) & set(nest):
                raise Refusal("reductions over some and over all of the same axes")


def schedule(
    name: str,
    writes: Sequence[Write],
    buffers: Mapping[Node, Buffer],
    names: Names | None = None,
    log: Sequence[str] = (),
) -> Kernel:
    """The kernel of these writes. Raises Refusal where they cannot share one."""
    check(writes)
    nests = [Nest(_innermost_last(n, writes, buffers), _is_resident(n, writes)) for n in nests_of(writes)]
    refuse_loops_inside(writes)
    refuse_large_tiles(writes)
    order = global_order(writes)
    contiguous = lanes(writes, buffers)
    axes = _axes(order, nests, writes, contiguous, buffers)
    builder = Builder(axes, nests, buffers, names or Names())
    body = builder.build(writes)
    used = {e["tensor"] for e in walk([w.value for w in writes]) if e.kind == "load"}
    reads = tuple(b for node, b in buffers.items() if node in used)
    outputs = tuple(dict.fromkeys(buffers[w.tensor] for w in writes))
    along = tuple(a for a in axes if a.variable in contiguous)
    cuts = tuple(c for c in cuts_of(writes) if builder.axes[c.axis].role in ("grid", "one"))
    count = max([passes(writes, n.axes) for n in nests if not n.resident], default=1)
    return verify(Kernel(name, axes, reads, outputs, tuple(body), along, cuts, count, tuple(log)))


def _innermost_last(
    nest: Sequence[Variable], writes: Sequence[Write], buffers: Mapping[Node, Buffer]
) -> tuple[Variable, ...]:
    """The axes of a nest, the one with the most contiguous accesses last."""
    contiguous = lanes(writes, buffers)
    order = global_order(writes)
    return tuple(sorted(nest, key=lambda a: (contiguous.get(a, 0), order.index(a))))


def cuts_of(writes: Sequence[Write]) -> list[Cut]:
    """The runs that are cut into pieces: their guards are i * piece + place < length, and i has just the indices that
    length needs."""
    found = []
    for guard in (e for e in walk([w.value for w in writes]) if e.kind == "less"):
        left = guard["b"] - guard["a"]
        for axis in sorted(variables(left), key=lambda a: a.key):
            piece = -_coefficient(left, axis)
            least, length = bounds(left + piece * axis)
            if not isinstance(piece, int) or piece <= 0 or least is None or length is None:
                continue
            if is_less(length - least, piece) and axis.extent == cdiv(length, piece):
                found.append(Cut(axis, guard, floordiv(length, piece)))
    return found


def _is_resident(nest: Sequence[Variable], writes: Sequence[Write]) -> bool:
    """Whether a row stays in registers: it fits, and is no piece of a run that one loop can walk. Of those nothing is
    read again, and the last one's guard would take a register for each element."""
    if any(_is_one_loop(nest, c.axis, writes) for c in cuts_of(writes)):
        return False
    total = 1
    for axis in nest:
        if not isinstance(axis.extent, int):
            return False
        total *= padded(axis.extent)
    return total <= RESIDENT


def _is_one_loop(nest: Sequence[Variable], pieces: Variable, writes: Sequence[Write]) -> bool:
    """Whether the axes are walked once for each piece, with nothing beside it, and not inside another loop."""
    if any(not set(w.axes) <= {pieces, *nest} for w in writes) or passes(writes, nest) > 1:
        return False
    folds = [e for e in walk([w.value for w in writes]) if e.is_fold]
    inside = any(i.is_fold and i.free & set(e["axes"]) for e in folds for i in walk([e.args[0]]))
    return pieces not in nest and not inside


def refuse_large_tiles(writes: Sequence[Write]) -> None:
    """Rows that are resident along several nests at once have to fit the registers together."""
    resident = {a for nest in nests_of(writes) if _is_resident(nest, writes) for a in nest}
    for e in walk([w.value for w in writes]):
        axes = e.free | frozenset(e["axes"]) if e.kind == "reduce" else e.free
        tile = math.prod(padded(a.extent) for a in axes if a in resident)
        if tile > RESIDENT:
            raise Refusal(f"a tile of {tile} elements does not fit the registers of one program")


def refuse_loops_inside(writes: Sequence[Write]) -> None:
    """A reduction inside the body of another, with the other's axes free in it, has to be resident; so has a scan, but
    for one along the very axis of the loop; and so has a reduction in what is stored along an axis of a loop."""
    resident = {a for nest in nests_of(writes) if _is_resident(nest, writes) for a in nest}
    looped = {a for nest in nests_of(writes) for a in nest} - resident
    for w in writes:
        around = looped & set(w.axes)
        for inner in walk([w.value]) if around else ():
            if inner.kind == "reduce" and inner.free & around and not set(inner["axes"]) <= resident | around:
                raise Refusal(f"a loop over {list(inner['axes'])} inside a loop over {sorted(map(repr, around))}")
    for e in walk([w.value for w in writes]):
        if not e.is_fold:
            continue
        for inner in walk([e.args[0]]):
            if not inner.is_fold or not (inner.free & set(e["axes"])):
                continue
            if inner["axes"][0] not in resident and not (inner.kind == "scan" and inner["axes"] == e["axes"]):
                raise Refusal(f"a loop over {list(inner['axes'])} inside a loop over {list(e['axes'])}")


def _axes(
    order: Sequence[Variable],
    nests: Sequence[Nest],
    writes: Sequence[Write],
    contiguous: Mapping[Variable, int],
    buffers: Mapping[Node, Buffer],
) -> tuple[Axis, ...]:
    roles: dict[Variable, Role] = {}
    for nest in nests:
        for axis in nest.axes:
            roles[axis] = "block" if nest.resident else ("loop" if axis is nest.axes[-1] else "step")
    outer = [a for a in order if a not in roles]
    tiled = _tiled(outer, contiguous, bool(nests), _reuse(writes, buffers))
    roles |= {a: ("grid" if a in tiled else "one") for a in outer}
    wide = any(b.wide for b in buffers.values())
    letters = {"grid": "ijlmnpqrs", "one": "ijlmnpqrs", "loop": "kuvw", "step": "kuvw", "block": "kuvw"}
    taken = {b.name for b in buffers.values() if b.number}
    taken |= {s.name for b in buffers.values() for n in b.shape for s in free(n) if isinstance(s, Symbol)}
    axes = []
    for a in order:
        name = next((c for c in letters[roles[a]] if c not in taken), f"{letters[roles[a]][0]}{len(taken)}")
        taken.add(name)
        axes.append(Axis(a, roles[a], name, wide))
    return tuple(axes)


def _reuse(writes: Sequence[Write], buffers: Mapping[Node, Buffer]) -> list[frozenset[Variable]]:
    """The axes of every load of more than one element: a tile over an axis that it lacks loads it once."""
    loads = [e for e in walk([w.value for w in writes]) if e.kind == "load" and not buffers[e["tensor"]].number]
    return [frozenset(v for i in e["index"] for v in variables(i)) for e in loads]


def _tiled(
    outer: Sequence[Variable], contiguous: Mapping[Variable, int], reduces: bool, loads: Sequence[frozenset[Variable]]
) -> set[Variable]:
    """Which axes of the grid are tiled; of the others a program has one index. Beside the contiguous ones, the axis
    that most loads lack, so that a tile reads a row's weights once for several rows."""
    columns = [a for a in outer if a in contiguous]
    if reduces and columns:
        return {max(columns, key=lambda a: contiguous[a])}
    others = [a for a in outer if a not in columns]
    best = max(others, key=lambda a: (sum(a not in axes for axes in loads if axes), outer.index(a)), default=None)
    return set(columns) | ({best} if best is not None else set())
