"""Writes to a Kernel: which axes are tiled over programs, looped or resident, and which writes no kernel can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import networkx as nx

from .index import Index, Symbol, Variable, atoms, bounds, cdiv, evaluate, floordiv, free, is_less, replace
from .ir import Node
from .kernel import Axis, Buffer, Cut, Kernel, Role, padded, verify
from .levels import Nest, nests_of, passes
from .lower import Refusal, Write
from .products import Product, is_contracted, is_contraction, loops_around, product_of, products_of
from .roles import RESIDENT, ROWS, Roles, Sizes, roles_of
from .scalar import Expr, variables, walk
from .statements import Builder, Names


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


def loops_of(writes: Sequence[Write], sizes: Sizes | None = None) -> list[tuple[Variable, ...]]:
    """The axes that are walked by loops of the program's own, nest by nest. Raises Refusal."""
    roles = roles_of(writes, sizes) if is_contracted(writes) else None
    resident = _residents(writes, roles)
    inner = roles.inner if roles is not None else frozenset()
    folds = [e for e in walk([w.value for w in writes]) if e.kind == "reduce" and e not in inner]
    return [n for n in nests_of(writes) if not set(n) <= resident and any(set(e["axes"]) & set(n) for e in folds)]


def refuse(writes: Sequence[Write], sizes: Sizes | None = None) -> Roles | None:
    """Raises Refusal where no kernel can hold these writes. Of one with contractions it gives the roles of axes."""
    roles = roles_of(writes, sizes) if is_contracted(writes) else None
    check(writes, roles)
    refuse_loops_inside(writes, roles)
    refuse_large_tiles(writes, roles, sizes)
    return roles


def _residents(writes: Sequence[Write], roles: Roles | None) -> set[Variable]:
    """The axes that are whole in a tile."""
    if roles is not None:
        return {axis for axis, role in roles.axes.items() if role == "block"}
    return {a for nest in nests_of(writes) if _is_resident(nest, writes) for a in nest}


def check(writes: Sequence[Write], roles: Roles | None = None) -> None:
    """Raises Refusal where outputs or reductions cannot share programs or loops."""
    reduced = {a for nest in nests_of(writes) for a in nest}
    grids = [frozenset(a for a in w.axes if a not in reduced and a.extent != 1) for w in writes]
    if roles is None and any(g != grids[0] for g in grids):
        raise Refusal("the outputs are not over the same programs")
    resident = _residents(writes, roles)
    for nest in (n for n in nests_of(writes) if not set(n) <= resident):
        for e in walk([w.value for w in writes]):
            if e.is_fold and not set(e["axes"]) >= set(nest) and set(e["axes"]) & set(nest):
                raise Refusal("reductions over some and over all of the same axes")


def schedule(
    name: str,
    writes: Sequence[Write],
    buffers: Mapping[Node, Buffer],
    names: Names | None = None,
    log: Sequence[str] = (),
    written: int = 1,
) -> Kernel:
    """The kernel of these writes. written: how many passes there were before algebra made them fewer. Raises Refusal
    where they cannot share one."""
    roles = refuse(writes)
    resident = _residents(writes, roles)
    nests = [Nest(_innermost_last(n, writes, buffers), set(n) <= resident) for n in nests_of(writes)]
    products = products_of(writes)
    order = global_order(writes) if roles is None else _for_products(global_order(writes), products, writes)
    contiguous = lanes(writes, buffers)
    outer = _outer_roles(order, nests, writes, contiguous, buffers) if roles is None else roles.axes
    chosen: dict[Variable, Role] = {**outer, **_reduced_roles(nests)}
    axes = _axes(order, chosen, products, buffers)
    cuts = cuts_of(writes)
    inner = roles.inner if roles is not None else frozenset()
    guards = {c.guard for c in cuts}
    builder = Builder(axes, nests, buffers, names or Names(), inner, guards, roles is not None)
    body = builder.build(writes)
    used = {e["tensor"] for e in walk([w.value for w in writes]) if e.kind == "load"}
    reads = tuple(b for node, b in buffers.items() if node in used)
    outputs = tuple(dict.fromkeys(buffers[w.tensor] for w in writes))
    along = tuple(a for a in axes if a.variable in contiguous)
    cuts = tuple(c for c in cuts if builder.axes[c.axis].role in ("grid", "one"))
    count = max([passes(writes, n.axes) for n in nests if not n.resident], default=1)
    contracts = roles is not None
    return verify(Kernel(name, axes, reads, outputs, tuple(body), along, cuts, count, written, contracts, tuple(log)))


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


def refuse_large_tiles(writes: Sequence[Write], roles: Roles | None = None, sizes: Sizes | None = None) -> None:
    """Rows that are resident along several nests at once have to fit the registers together."""
    resident = _residents(writes, roles)
    for e in walk([w.value for w in writes]):
        axes = e.free | frozenset(e["axes"]) if e.kind == "reduce" and product_of(e) is None else e.free
        tile = math.prod(padded(evaluate(a.extent, sizes or {})) for a in axes if a in resident)
        if tile > RESIDENT:
            raise Refusal(f"a tile of {tile} elements does not fit the registers of one program")


def refuse_loops_inside(writes: Sequence[Write], roles: Roles | None = None) -> None:
    """A reduction inside the body of another, with the other's axes free in it, has to be resident, unless it is a loop
    of its own; so has a scan, but for one along the very axis of the loop; and so has a reduction in what is stored
    along an axis of a loop."""
    resident = _residents(writes, roles)
    inner_loops = roles.inner if roles is not None else frozenset()
    if roles is not None and any(set(e["axes"]) & loops_around(writes, e, roles.axes) for e in roles.inner):
        raise Refusal("a loop over an axis inside a loop over the same one")
    looped = {a for nest in nests_of(writes) for a in nest} - resident
    for w in writes:
        around = looped & set(w.axes)
        for inner in walk([w.value]) if around else ():
            nested = inner.kind == "reduce" and inner.free & around and inner not in inner_loops
            if nested and not set(inner["axes"]) <= resident | around:
                raise Refusal(f"a loop over {list(inner['axes'])} inside a loop over {sorted(map(repr, around))}")
    for e in walk([w.value for w in writes]):
        if not e.is_fold or (roles is not None and set(e["axes"]) <= resident):
            continue
        for inner in walk([e.args[0]]):
            if not inner.is_fold or not (inner.free & set(e["axes"])) or inner in inner_loops:
                continue
            if inner["axes"][0] not in resident and not (inner.kind == "scan" and inner["axes"] == e["axes"]):
                raise Refusal(f"a loop over {list(inner['axes'])} inside a loop over {list(e['axes'])}")


def _reduced_roles(nests: Sequence[Nest]) -> dict[Variable, Role]:
    roles: dict[Variable, Role] = {}
    for nest in nests:
        for axis in nest.axes:
            roles[axis] = "block" if nest.resident else "loop" if axis is nest.axes[-1] else "step"
    return roles


def _outer_roles(
    order: Sequence[Variable],
    nests: Sequence[Nest],
    writes: Sequence[Write],
    contiguous: Mapping[Variable, int],
    buffers: Mapping[Node, Buffer],
) -> dict[Variable, Role]:
    """What becomes of the axes that are not reduced, in a kernel without contractions."""
    outer = [a for a in order if not any(a in nest for nest in nests)]
    tiled = _tiled(outer, contiguous, bool(nests), _reuse(writes, buffers))
    return {a: ("grid" if a in tiled else "one") for a in outer}


def _axes(
    order: Sequence[Variable],
    roles: Mapping[Variable, Role],
    products: Sequence[Product],
    buffers: Mapping[Node, Buffer],
) -> tuple[Axis, ...]:
    """The axes with names; those of contractions have tiles that a machine's product takes."""
    wide = any(b.wide for b in buffers.values())
    letters = {"grid": "ijlmnpqrs", "one": "ijlmnpqrs", "loop": "kuvw", "step": "kuvw", "block": "kuvw"}
    taken = {b.name for b in buffers.values() if b.number}
    taken |= {s.name for b in buffers.values() for n in b.shape for s in free(n) if isinstance(s, Symbol)}
    dotted = {a for p in products for a in (*p.axes, *p.rows, *p.columns)}
    axes = []
    for a in order:
        name = next((c for c in letters[roles[a]] if c not in taken), f"{letters[roles[a]][0]}{len(taken)}")
        taken.add(name)
        axes.append(Axis(a, roles[a], name, wide, ROWS if a in dotted else 1))
    return tuple(axes)


def _for_products(order: list[Variable], products: Sequence[Product], writes: Sequence[Write]) -> list[Variable]:
    """The order changed as little as need be for every product's tiles to be rows by sum, sum by columns and rows by
    columns, with what is stored as memory has it; a product for which it cannot be has its tiles transposed."""
    stored = {v for w in writes for i in w.index for v in variables(i)}
    order = [a for a in order if a in stored] + [a for a in order if a not in stored]
    place = {a: n for n, a in enumerate(order)}  # what is stored comes first where nothing else decides
    graph = nx.DiGraph()
    graph.add_nodes_from(order)
    for p in products:
        first, last = sorted((p.rows, p.columns), key=lambda side: min(place[a] for a in side))
        _ordered(graph, [(a, k) for a in first for k in p.axes] + [(k, b) for k in p.axes for b in last])
    tiled = {a for p in products for a in p.fold.free} | {a for p in products for a in p.axes}
    for e in walk([w.value for w in writes]):
        if is_contraction(e) and not tiled & {*e.free, *e["axes"]}:
            _ordered(graph, _as_loaded(e))
    return list(nx.lexicographical_topological_sort(graph, key=place.__getitem__))


def _ordered(graph: nx.DiGraph, edges: Sequence[tuple[Variable, Variable]]) -> None:
    """Adds an order to others, if it does not contradict them."""
    edges = [edge for edge in edges if not graph.has_edge(*edge)]
    graph.add_edges_from(edges)
    if not nx.is_directed_acyclic_graph(graph):
        graph.remove_edges_from(edges)


def _as_loaded(e: Expr) -> list[tuple[Variable, Variable]]:
    """The axes of a matrix times a vector in the order in which the matrix has them."""
    loads = [[v for i in part["index"] for v in variables(i)] for part in walk([e.args[0]]) if part.kind == "load"]
    axes = max(loads, key=len, default=[])
    return list(pairwise(axes))


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
