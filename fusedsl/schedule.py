"""Writes to a Kernel: which axes are tiled over programs, looped or resident, and which writes no kernel can hold."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

import networkx as nx

from .algebra import summands
from .eights import eights_of
from .index import Index, Symbol, Variable, atoms, divide_exactly, evaluate, free, replace
from .ir import Node
from .kernel import Axis, Buffer, Kernel, Role, padded, verify
from .levels import Nest, nests_of, passes
from .lower import Refusal, Write
from .products import Product, folds_inside, is_contracted, is_contraction, loops_around, product_of, products_of
from .roles import RESIDENT, ROWS, Roles, Sizes, roles_of
from .scalar import Expr, uses, variables, walk
from .splits import Count, Split, loop_to_split, split_loop
from .statements import NO_NAMES, Builder, Names, short
from .types import DEPTH_OF_EIGHTS


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
    inner = _inner(writes, roles, resident)
    folds = [e for e in walk([w.value for w in writes]) if e.kind == "reduce" and e not in inner]
    return [n for n in nests_of(writes) if not set(n) <= resident and any(set(e["axes"]) & set(n) for e in folds)]


def shareable(writes: Sequence[Write], sizes: Sizes | None = None) -> tuple[Variable, ...] | None:
    """The loop that programs can share, None if there is none. Raises Refusal."""
    roles = roles_of(writes, sizes) if is_contracted(writes) else None
    return loop_to_split(writes, loops_of(writes, sizes), _inner(writes, roles, _residents(writes, roles)))


def walked(writes: Sequence[Write], sizes: Sizes | None = None) -> list[tuple[Variable, ...]]:
    """The axes that are walked by any loop, those of inner loops first. Raises Refusal."""
    roles = roles_of(writes, sizes) if is_contracted(writes) else None
    resident = _residents(writes, roles)
    folded = {a for e in walk([w.value for w in writes]) if e.kind == "reduce" for a in e["axes"]}
    return [n for n in nests_of(writes) if not set(n) <= resident and folded & set(n)]


def _inner(writes: Sequence[Write], roles: Roles | None, resident: Collection[Variable]) -> tuple[Expr, ...]:
    """The reductions that run a loop of their own in every round of another: without contractions, those of long rows
    in what is reduced over rows."""
    if roles is not None:
        return tuple(e for e in walk([w.value for w in writes]) if e in roles.inner)
    looped = {a for nest in nests_of(writes) for a in nest} - set(resident)
    stored = {a for w in writes for a in w.axes}
    inside = folds_inside(writes, looped)
    own = [e for e in walk([w.value for w in writes]) if e in inside]
    return tuple(e for e in own if set(e["axes"]) <= looped and not set(e["axes"]) & stored)


def refuse(writes: Sequence[Write], sizes: Sizes | None = None, typical: Sizes | None = None) -> Roles | None:
    """Raises Refusal where no kernel can hold these writes. Of one with contractions it gives the roles of axes."""
    roles = roles_of(writes, sizes, typical) if is_contracted(writes) else None
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
    names: Names = NO_NAMES,
    log: Sequence[str] = (),
    written: int = 1,
    shared: tuple[Variable, ...] | None = None,
    count: Count | None = None,
    typical: Sizes | None = None,
) -> Kernel:
    """The kernel of these writes. written: how many passes there were before algebra made them fewer. shared: the loop
    that is cut in parts, see splits.loop_to_split; count: so many. typical: about what sizes are. Raises Refusal where
    they cannot share one."""
    roles = refuse(writes, None, typical)
    resident = _residents(writes, roles)
    nests = [Nest(_innermost_last(n, writes, buffers), set(n) <= resident) for n in nests_of(writes)]
    products = products_of(writes)
    order = global_order(writes)
    if any(is_contraction(e) for e in walk([w.value for w in writes])):
        order = _for_products(order, products, writes)
    contiguous = lanes(writes, buffers)
    outer: dict[Variable, Role] = {}
    outer |= _outer_roles(order, nests, writes, contiguous, buffers) if roles is None else roles.axes
    passed = max([passes(writes, n.axes) for n in nests if not n.resident], default=1)
    inner = _inner(writes, roles, resident)
    around = {a for e in inner for a in e.free} if roles is None else set()
    split = None
    if shared is not None and count is not None:
        nest = next(n for n in nests if set(n.axes) == set(shared))
        split = _split(writes, nest, order, count, names, buffers, outer)
    if split is not None:
        order, nests, writes = [split.parts, *order, split.axis], [*nests, Nest((split.parts,), False)], split.writes
        outer[split.axis] = "one"
        buffers, names = {**buffers, **split.buffers}, _renamed(names, split)
    chosen: dict[Variable, Role] = {**outer, **_reduced_roles(nests, around)}
    axes = _axes(order, chosen, products, buffers, split)
    builder = Builder(axes, nests, buffers, names, inner, roles is not None, split)
    body = builder.build(writes)
    every = [*split.left, *writes] if split is not None else writes
    used = {e["tensor"] for e in walk([w.value for w in every]) if e.kind == "load"}
    reads = tuple(b for node, b in buffers.items() if node in used)
    outputs = tuple(dict.fromkeys(buffers[w.tensor] for w in every))
    along = tuple(a for a in axes if a.variable in contiguous)
    contracts = roles is not None
    return verify(Kernel(name, axes, reads, outputs, tuple(body), along, passed, written, contracts, tuple(log)))


def _split(
    writes: Sequence[Write],
    nest: Nest,
    order: Sequence[Variable],
    count: Count,
    names: Names,
    buffers: Mapping[Node, Buffer],
    outer: Mapping[Variable, Role],
) -> Split:
    folds = (e for e in walk([w.value for w in writes]) if e.kind == "reduce")
    named = {e: names.names.get(e) or short(e) for e in folds}
    grid = {a for a, role in outer.items() if role in ("one", "grid")}
    return split_loop(writes, nest.axes, order, count, named, {b.name for b in buffers.values()}, grid)


def _renamed(names: Names, split: Split) -> Names:
    """What is over all parts has the user's name."""
    found, lines = dict(names.names), dict(names.lines)
    for fold, whole in split.whole.items():
        found[whole] = names.names.get(fold) or short(fold)
        found[fold] = f"{found[whole]}_part"
        if fold in lines:
            lines[whole] = lines[fold]
    return Names(found, lines)


def _innermost_last(
    nest: Sequence[Variable], writes: Sequence[Write], buffers: Mapping[Node, Buffer]
) -> tuple[Variable, ...]:
    """The axes of a nest, the one with the most contiguous accesses last."""
    contiguous = lanes(writes, buffers)
    order = global_order(writes)
    return tuple(sorted(nest, key=lambda a: (contiguous.get(a, 0), order.index(a))))


def _is_resident(nest: Sequence[Variable], writes: Sequence[Write]) -> bool:
    """Whether a row stays in registers: it fits. What is summed part by part is walked tile by tile."""
    sums = (e for e in walk([w.value for w in writes]) if is_contraction(e) and set(e["axes"]) & set(nest))
    if len(nest) > 1 and any(len(summands(e.args[0])) > 1 for e in sums):
        return False
    total = 1
    for axis in nest:
        if not isinstance(axis.extent, int):
            return False
        total *= padded(axis.extent)
    return total <= RESIDENT


def refuse_large_tiles(writes: Sequence[Write], roles: Roles | None = None, sizes: Sizes | None = None) -> None:
    """Rows that are resident along several nests at once have to fit the registers together."""
    resident = _residents(writes, roles)
    given = roles.axes if roles is not None else {}
    looped = {a for a, role in given.items() if role == "loop"}
    beside = looped | {a for a, role in given.items() if role == "grid"}
    for e in walk([w.value for w in writes]):
        axes = e.free | frozenset(e["axes"]) if e.kind == "reduce" and product_of(e) is None else e.free
        tile = math.prod(padded(evaluate(a.extent, sizes or {})) for a in axes if a in resident)
        if e.kind == "reduce" and product_of(e) is None and any(not _is_by_groups(e, a) for a in e.free & looped):
            tile *= ROWS ** len(axes & beside)  # anew for each place of a product's tile
        if tile > RESIDENT:
            raise Refusal(f"a tile of {tile} elements does not fit the registers of one program")


def _is_by_groups(e: Expr, axis: Variable) -> bool:
    """Whether it varies along an axis by whole groups only, each of which is a round of a loop then."""
    return all(n is not None and divide_exactly(axis.extent, n) is not None for n in uses(e, axis))


def refuse_loops_inside(writes: Sequence[Write], roles: Roles | None = None) -> None:
    """A reduction inside the body of another, with the other's axes free in it, has to be resident, unless it is a loop
    of its own; so has a scan, but for one along the very axis of the loop; and so has a reduction in what is stored
    along an axis of a loop."""
    resident = _residents(writes, roles)
    inner_loops = _inner(writes, roles, resident)
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


def _reduced_roles(nests: Sequence[Nest], around: Collection[Variable]) -> dict[Variable, Role]:
    """around: the axes of loops that have loops of their own in each round."""
    roles: dict[Variable, Role] = {}
    for nest in nests:
        for axis in nest.axes:
            is_step = axis is not nest.axes[-1] or axis in around
            roles[axis] = "block" if nest.resident else "step" if is_step else "loop"
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
    split: Split | None = None,
) -> tuple[Axis, ...]:
    """The axes with names; those of contractions have tiles that a machine's product takes."""
    words = {split.axis: ["split"], split.parts: ["part"]} if split is not None else {}
    letters = {"grid": "ijlmnpqrs", "one": "ijlmnpqrs", "loop": "kuvw", "step": "kuvw", "block": "kuvw"}
    taken = {b.name for b in buffers.values() if b.number}
    taken |= {s.name for b in buffers.values() for n in b.shape for s in free(n) if isinstance(s, Symbol)}
    dotted = {a: ROWS for p in products for a in (*p.axes, *p.rows, *p.columns)}
    dotted |= {a: DEPTH_OF_EIGHTS for p in products if eights_of(p, p.axes[-1:]) is not None for a in p.axes}
    names: dict[Variable, str] = {}
    for a in sorted(order, key=words.__contains__):  # the others have the same names without
        letter, *more = words.get(a, letters[roles[a]])
        names[a] = next((c for c in (letter, *more) if c not in taken), f"{letter}{len(names)}")
        taken.add(names[a])
    wide = any(b.wide for b in buffers.values())
    return tuple(Axis(a, roles[a], names[a], wide, dotted.get(a, 1)) for a in order)


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
    mine = walk([e.args[0]], lambda part: not part.is_fold)  # not what inner reductions read
    loads = [[v for i in part["index"] for v in variables(i)] for part in mine if part.kind == "load"]
    axes = max(map(dict.fromkeys, loads), key=len, default={})
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
