"""Writes to statements: every value is named, and computed where all that it needs is known.

A value is placed in the current pass if it varies along the pass's axes, else right after the last pass that it needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

from .algebra import apply, cast, counted, identity
from .eights import Eights, Term, eights_of, in_eight
from .errors import Line
from .halves import Halves
from .index import Atom, Index, Symbol, Variable, free, poly, replace
from .ir import OPS, Node
from .kernel import Assign, Axis, Buffer, Check, Last, Loop, Range, State, Statement, Store, Update, needs_mask
from .levels import Nest, level
from .lower import Refusal, Write
from .products import Product, Side, product_of
from .ranges import range_of
from .scalar import Expr, Loaded, constant, indices, loaded_in, make, rebuild, variables, walk
from .splits import Split
from .types import HALVES, DType, bool_, dtype, i8, i32


@dataclass
class Names:
    """What to call values, and the user's lines they come from."""

    names: Mapping[Expr, str] = field(default_factory=dict)
    lines: Mapping[Expr, Line] = field(default_factory=dict)


NO_NAMES = Names()


class Scope:
    """A place for statements: the program, or the body of a loop."""

    def __init__(self) -> None:
        self.statements: list[Statement] = []
        self.memo: dict[Expr, Expr] = {}


@dataclass
class Pass:
    """One walk over a nest's axes: the reductions and writes whose level it is."""

    nest: Nest
    number: int
    reductions: list[Expr] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)


# what the printed text uses beside names of its own
RESERVED = frozenset(
    {"tl", "triton", "libdevice", "pid", "full", "edge", "tail", "range", "float", "arrived", "arrivals_ptr"}
)


def _parameter_names(axes: Sequence[Axis], buffers: Mapping[Node, Buffer]) -> set[str]:
    """Names that the kernel's parameters and axes take."""
    taken = {b.name if b.number else b.pointer for b in buffers.values()}
    taken |= {repr(s) for b in buffers.values() for s in b.stride_symbols()}
    for b in buffers.values():
        taken |= {s.name for n in b.shape for s in free(n) if isinstance(s, Symbol)}
    for a in axes:
        taken |= {a.name, a.start, a.tile, f"in_{a.name}", f"size_{a.name}"}
        taken |= {f"{a.name}_{end}" for end in ("start", "first", "full", "each", "stop")}
        taken |= {s.name for s in free(a.extent) if isinstance(s, Symbol)}
    return taken


class Builder:
    """Places every value in a scope and names it."""

    def __init__(
        self,
        axes: Sequence[Axis],
        nests: Sequence[Nest],
        buffers: Mapping[Node, Buffer],
        names: Names,
        inner: Sequence[Expr] = (),
        by_rounds: bool = False,
        split: Split | None = None,
    ) -> None:
        self.split = split
        self.axes, self.buffers, self.labels = {a.variable: a for a in axes}, buffers, names
        self.order = [a.variable for a in axes]
        self.loops = [n for n in nests if not n.resident]
        self.nests, self.inner = nests, inner
        self.taken = set(RESERVED) | _parameter_names(axes, buffers)
        self.passes: list[Pass] = []
        self.after: list[Scope] = [Scope()]  # after[n]: after pass n
        self.states: list[State] = []  # of the pass being built
        self.current: dict[Variable, Scope] = {}  # of the pass being built: the scope inside each of its axes
        self.needs: dict[Expr, int] = {}
        self.checked: set[tuple[Expr, Index, tuple[Expr, ...]]] = set()
        self.followed: set[Expr] = set()  # reductions that others ask for while the loop runs
        self.by_rounds = by_rounds  # whether what a round adds is reduced at once: lanes take too much beside tiles
        self.late: list[Statement] = []  # of the pass being built: what ends a round
        self.raw: set[Expr] = set()  # loads that only products use, in the type that memory has

    def build(self, writes: Sequence[Write]) -> list[Statement]:
        left = self.split.left if self.split is not None else ()
        every = [*left, *writes]
        self.raw = _only_multiplied(every)
        exprs = walk([w.value for w in every])
        self.followed = {e.args[0] for e in exprs if e.kind in ("now", "before")}
        self.passes = self._plan(every)
        rest = [w for w in writes if not any(w in p.writes for p in self.passes)]
        begun = (0, 0)
        for number, one in enumerate(self.passes, 1):
            self.after.append(Scope())
            self._pass(one, number)
            if number == 1:
                for w in left:
                    self._store(w, self.after[1])
                begun = (len(self.after[0].statements), len(self.after[1].statements))
        for w in rest:
            self._store(w, self.after[-1])
        if self.split is not None:
            return self._for_the_last(self.split, *begun)
        return [s for scope in self.after for s in scope.statements]

    def _for_the_last(self, split: Split, before: int, after: int) -> list[Statement]:
        """The statements, of which all but the first before and after the loop are for the last program to arrive."""
        first, second, *others = (scope.statements for scope in self.after)
        rest = (*first[before:], *second[after:], *(s for statements in others for s in statements))
        return [*first[:before], *second[:after], Last(self.axes[split.axis], split.arrivals, rest)]

    # -- which pass

    def _plan(self, writes: Sequence[Write]) -> list[Pass]:
        found: dict[tuple[Nest, int], Pass] = {}
        order = walk([w.value for w in writes])
        member: dict[Expr, Pass] = {}
        for nest in self.loops:
            memo: dict[Expr, int] = {}
            for e in order:
                if e.kind == "reduce" and e["axes"][0] in nest and e not in self.inner:
                    n = level(e, nest.axes, memo)
                    member[e] = found.setdefault((nest, n), Pass(nest, n))
                    member[e].reductions.append(e)
            for w in writes:
                if set(nest.axes) & set(w.axes):
                    n = max(1, level(w.value, nest.axes, memo) + (0 if w.value.free & set(nest.axes) else 1))
                    found.setdefault((nest, n), Pass(nest, n)).writes.append(w)
        return _sorted(list(found.values()), member, first=self.split.loop if self.split is not None else None)

    # -- one pass

    def _pass(self, one: Pass, number: int) -> None:
        self.needs = {}
        self._walk(one, self.after[number - 1], self.after[number])

    def _walk(self, one: Pass, before: Scope, after: Scope) -> None:
        """A loop, and what its reductions come to."""
        axes = one.nest.axes
        scopes = [Scope() for _ in axes]
        outside = self.current, self.states, self.late
        self.current = self.current | dict(zip(axes, scopes, strict=True))
        self.states, self.late = [], []
        finals: list[tuple[Expr, State]] = []
        for r in sorted(one.reductions, key=lambda r: self._product(r) is not None):  # a product takes halves of a tile
            state = self._accumulate(r, scopes[-1])
            self.states.append(state)
            finals.append((r, state))
        for w in one.writes:
            self._store(w, scopes[-1])
        scopes[-1].statements += self.late
        is_range = len(axes) == 1 and not one.writes and not outside[0]
        part = self._range(one, before) if is_range else None
        before.statements.append(self._loops(axes, scopes, self.states, one.number, part))
        self.current, self.states, self.late = outside
        for r, state in finals:
            self._finish(r, state, after)

    def _loops(
        self,
        axes: Sequence[Variable],
        scopes: Sequence[Scope],
        states: Sequence[State],
        number: int = 1,
        part: Range | None = None,
    ) -> Loop:
        """Loops around the statements of each scope, the first axis outermost, which carries the states."""
        (axis, *others), (scope, *rest) = axes, scopes
        inner = [self._loops(others, rest, (), number, part)] if others else []
        split = self.axes[self.split.axis] if self.split is not None and axis is self.split.loop else None
        return Loop(self.axes[axis], tuple(states), (*scope.statements, *inner), number, part, split)

    def _range(self, one: Pass, before: Scope) -> Range | None:
        """The part of the axis in which what is reduced does anything."""

        def given(e: Expr, greatest: bool) -> Index:
            tiled = tuple(a for a in self._ordered(e.free) if self.axes[a].is_tiled)
            value = self.emit(e, before)
            if tiled:
                op = OPS["reduce_max" if greatest else "reduce_min"]
                value = self.emit_named(make("reduce", e.dtype, (value,), op, axes=tiled), before)
            return poly(Loaded(value, 2**31))

        bodies = [(r.args[0], identity(r)["value"]) for r in one.reductions]
        return range_of(bodies, one.nest.axes[0], self.axes, given)

    def _accumulate(self, r: Expr, scope: Scope) -> State:
        """acc = acc combined with the body: lane by lane, the lanes combined once, after the loop; a product of tiles,
        and what others ask for during the loop, as a whole. With a factor, acc is multiplied by it first."""
        product = self._product(r)
        whole = product is not None or r in self.followed or self.by_rounds
        steps = {a for a in r["axes"] if self.axes[a].role == "step"}
        axes = self._ordered(r.free if whole else (r.args[0].free | set(r["axes"])) - steps)
        name = self._name(r, suffix="_acc")
        ref: Expr = make("ref", r.dtype, name=name, axes=axes)
        before = ref
        if len(r.args) == 2:
            before = self.emit_named(counted(r, ref, self.emit(r.args[1], scope)), scope)
        if product is not None:
            value = self._dot(product, scope, before)
        else:
            body = self.emit_named(self._masked(r, self.emit(r.args[0], scope), identity(r)), scope)
            if whole:
                tiled = tuple(a for a in r["axes"] if a not in steps)
                body = self._spread(r, body, scope)
                body = self.emit_named(make("reduce", r.dtype, (body,), r.op, axes=tiled), scope) if tiled else body
            value = make("combine", r.dtype, (before, body), r.op)
        if r in self.followed:
            now = self.emit_named(value, scope)
            scope.memo[make("now", r.dtype, (r,))] = now
            scope.memo[make("before", r.dtype, (r,))] = ref
            self.late.append(Update(name, now, self._line(r)))
        else:
            scope.statements.append(Update(name, value, self._line(r)))
        return State(name, r.dtype, identity(r), axes)

    def _finish(self, r: Expr, state: State, scope: Scope) -> None:
        ref = make("ref", r.dtype, name=state.name, axes=state.axes)
        tiled = tuple(a for a in r["axes"] if a in state.axes)
        if not tiled:
            scope.memo[r] = ref
            return
        self._assign(r, make("reduce", r.dtype, (ref,), r.op, axes=tiled), scope)

    def _masked(self, r: Expr, body: Expr, identity: Expr) -> Expr:
        """The body where all the reduced axes are inside, the identity elsewhere."""
        return self._within(body, [a for a in r["axes"] if not _vanishes(r.args[0], a, identity)], identity)

    def _within(self, body: Expr, axes: Iterable[Variable], other: Expr) -> Expr:
        """The body within these axes, another value beyond their ends."""
        mask = None
        for axis in axes:
            if needs_mask(self.axes[axis]):
                inside = make("inside", bool_, axis=axis)
                mask = inside if mask is None else make("both", bool_, (mask, inside))
        return body if mask is None else make("select", body.dtype, (mask, body, other))

    def _power(self, e: Expr, value: Expr, scope: Scope) -> Expr:
        """What is taken to a power, -inf beyond the ends of reduced axes, as for its maximum: the power is 0 there."""
        axes = [a for nest in self.nests for a in nest.axes if _is_lowered(e, a)]
        return self.emit_named(self._within(value, axes, constant(-math.inf, e.dtype)), scope)

    # -- one value

    def emit(self, e: Expr, here: Scope) -> Expr:
        """A reference to the value of e, computed in the outermost scope that has all it needs."""
        if e.kind in ("const", "inside", "ref"):
            return e
        scope = self._place(e)
        if e not in scope.memo:
            if e.kind == "reduce":
                self._inner_loop(e, scope) if e in self.inner else self._resident_reduction(e, scope)
            elif e.kind == "scan":
                self._scan(e, scope)
            else:
                self._emit_parts(e, scope)
        return scope.memo[e]

    def _emit_parts(self, e: Expr, scope: Scope) -> None:
        args = tuple(self.emit(a, scope) for a in e.args)
        args = (self._power(e, args[0], scope), *args[1:]) if e.kind == "power" else args
        mapping: dict[Atom, Index] = {}
        for index in indices(e):
            for loaded in loaded_in(index):
                ref = self.emit(loaded.expr, scope)
                mapping[loaded] = poly(Loaded(ref, loaded.below))
                self._check(loaded, ref, args, scope if args else self._place(loaded.expr), self._line(e))
        self._assign(e, rebuild(e, args, mapping), scope)

    def _check(self, loaded: Loaded, ref: Expr, guard: tuple[Expr, ...], scope: Scope, line: Line | None) -> None:
        """Where what uses the index is guarded, it need not be right elsewhere."""
        if ref.kind == "ref" and (ref, loaded.below, guard) not in self.checked:
            self.checked.add((ref, loaded.below, guard))
            axes = self._ordered({*ref["axes"], *(a for g in guard for a in g.free)})
            scope.statements.append(Check(ref, loaded.below, axes, guard, line or self._line(loaded.expr)))

    # -- products of tiles

    def _product(self, r: Expr) -> Product | None:
        """The operands of a contraction of tiles that have rows, columns and what is summed over, each along one axis
        that is tiled."""
        product = product_of(r)
        if product is None:
            return None
        sides = (product.rows, product.columns, product.axes)
        return product if all(sum(self.axes[a].is_tiled for a in side) == 1 for side in sides) else None

    def _dot(self, p: Product, scope: Scope, *before: Expr) -> Expr:
        """The product, added to what came before it, term by term."""
        eights = eights_of(p, self._tiled(p))
        if eights is not None:
            return self._dot_of_eights(p, eights, scope, *before)
        for term in p.terms[:-1]:
            before = (self.emit_named(self._dot_of(p, term, scope, *before), scope),)
        return self._dot_of(p, p.terms[-1], scope, *before)

    def _dot_of(self, p: Product, term: tuple[Side, Side], scope: Scope, *before: Expr) -> Expr:
        left, right = (reduce(lambda a, b: apply("mul", a, b), side) for side in term)
        first, second = self._inside(p, left, right)
        parts = [self._operand(e, mask, p.fold["precision"], scope) for e, mask in ((left, first), (right, second))]
        return self._dot_made(p, parts, p.fold["precision"], p.fold.dtype, *before)

    def _dot_made(self, p: Product, parts: list[Expr], precision: str, dtype: DType, *before: Expr) -> Expr:
        places = [min(self.order.index(a) for a in side) for side in (p.rows, p.columns)]
        if places[0] > places[1]:
            parts.reverse()
        return make("dot", dtype, (*parts, *before), axes=self._tiled(p), precision=precision)

    def _tiled(self, p: Product) -> tuple[Variable, ...]:
        return tuple(a for a in p.axes if self.axes[a].is_tiled)

    def _dot_of_eights(self, p: Product, eights: Eights, scope: Scope, *before: Expr) -> Expr:
        """Terms with the same scales are one sum, of whole numbers an exact one, and are scaled together."""
        dtype = i32 if eights.kind is i8 else p.fold.dtype
        shared: dict[tuple[Expr, ...], list[Term]] = {}
        for term in eights.terms:
            shared.setdefault(term.scales, []).append(term)
        for scales, terms in shared.items():
            is_added = not scales and p.fold.dtype is dtype
            total = self._sum_of(p, terms, eights.kind, dtype, scope, *(before if is_added else ()))
            number = cast(total, p.fold.dtype)
            for scale in scales:
                number = apply("mul", self.emit_named(number, scope), self.emit(scale, scope))
            if before and not is_added:
                number = apply("add", *before, self.emit_named(number, scope))
            before = (self.emit_named(number, scope),)
        (result,) = before
        return result

    def _sum_of(
        self, p: Product, terms: Sequence[Term], kind: DType, dtype: DType, scope: Scope, *before: Expr
    ) -> Expr:
        """The products of terms without their scales, added up."""
        for term in terms:
            made = self._dot_made(p, self._codes(p, term, kind, scope), kind.name, dtype, *before)
            before = (self.emit_named(made, scope),)
        (total,) = before
        return total

    def _codes(self, p: Product, term: Term, kind: DType, scope: Scope) -> list[Expr]:
        """The operands of a product of 8-bit numbers, one of them 0 beyond the end of what is summed over."""
        masks = self._inside(p, term.left, term.right)
        codes = [in_eight(e, kind, self.buffers) for e in (term.left, term.right)]
        return [self._within_all(self.emit(e, scope), mask, scope) for e, mask in zip(codes, masks, strict=True)]

    def _inside(self, p: Product, left: Expr, right: Expr) -> tuple[list[Variable], list[Variable]]:
        """For each operand the axes beyond whose end it has to be made 0: none where it is and the other is finite."""
        masks: tuple[list[Variable], list[Variable]] = ([], [])
        for axis in (a for a in p.axes if needs_mask(self.axes[a])):
            a, b = _outside(left, axis), _outside(right, axis)
            if not (a == 0 and _is_finite(b)) and not (b == 0 and _is_finite(a)):
                masks[0].extend([axis] * (a != 0))
                masks[1].extend([axis] * (b != 0))
        return masks

    def _operand(self, e: Expr, masks: Sequence[Variable], precision: str, scope: Scope) -> Expr:
        if e in self.raw and not masks:
            stored = self.buffers[e["tensor"]].dtype
            if stored.name == precision and stored is not e.dtype:
                return self.emit(make("load", stored, e.args, tensor=e["tensor"], index=e["index"]), scope)
        half = Halves(dtype(precision), self.buffers).rounded(e) if precision in HALVES else None
        return self._within_all(self.emit(e if half is None else half, scope), masks, scope)

    def _within_all(self, value: Expr, axes: Sequence[Variable], scope: Scope) -> Expr:
        """0 beyond the ends of these axes."""
        for axis in axes:
            value = make("select", value.dtype, (make("inside", bool_, axis=axis), value, constant(0, value.dtype)))
        return self.emit_named(value, scope)

    def _inner_loop(self, r: Expr, scope: Scope) -> None:
        """A loop of its own in every round of another, with all that is reduced in the same pass."""
        nest = next(n for n in self.nests if r["axes"][0] in n)
        memo: dict[Expr, int] = {}
        closed = {a for n in self.loops for a in n.axes} - self.current.keys()  # loops that this one is not in
        reduced = [e for e in self.inner if set(e["axes"]) <= set(nest.axes) and not e.free & closed]
        beside = [e for e in reduced if self._place(e) is scope]
        number = level(r, nest.axes, memo)
        together = [e for e in beside if level(e, nest.axes, memo) == number]
        self._walk(Pass(nest, number, together), scope, scope)

    def _resident_reduction(self, r: Expr, scope: Scope) -> None:
        product = self._product(r)
        if product is not None:
            self._assign(r, self._dot(product, scope), scope)
            return
        ref = self._spread(r, self._masked(r, self.emit(r.args[0], scope), identity(r)), scope)
        self._assign(r, make("reduce", r.dtype, (ref,), r.op, axes=r["axes"]), scope)

    def _spread(self, e: Expr, body: Expr, scope: Scope) -> Expr:
        """A body that does not vary along the axes of its reduction still counts once for each index."""
        missing = [a for a in e["axes"] if a not in body.free]
        if missing:
            body = make("spread", e.dtype, (body,), axes=tuple(missing))
        return self.emit_named(body, scope)

    def _scan(self, e: Expr, scope: Scope) -> None:
        """Within a tile; in a loop combined with what came before the tile, which is carried. What stands beyond the
        end of the axis comes after all that counts."""
        (axis,) = e["axes"]
        body = self._spread(e, self.emit(e.args[0], scope), scope)
        inside = make("scan", e.dtype, (body,), e.op, axes=(axis,))
        if self.axes[axis].role == "block":
            self._assign(e, inside, scope)
            return
        name, rest = self._name(e, suffix="_before"), self._ordered(body.free - {axis})
        before = make("ref", e.dtype, name=name, axes=rest)
        self.states.append(State(name, e.dtype, identity(e), rest))
        self._assign(e, make("combine", e.dtype, (before, self.emit_named(inside, scope)), e.op), scope)
        total = self.emit_named(make("reduce", e.dtype, (body,), e.op, axes=(axis,)), scope)
        scope.statements.append(Update(name, make("combine", e.dtype, (before, total), e.op), self._line(e)))

    def emit_named(self, e: Expr, scope: Scope) -> Expr:
        """A name for an expression over names."""
        if e.kind in ("ref", "const", "inside"):
            return e
        if e not in scope.memo:
            self._assign(e, rebuild(e, tuple(self.emit_named(a, scope) for a in e.args)), scope)
        return scope.memo[e]

    def _assign(self, origin: Expr, value: Expr, scope: Scope) -> None:
        axes = self._ordered(value.free)
        name = self._name(origin)
        scope.statements.append(Assign(name, value, axes, origin, self._line(origin)))
        scope.memo[origin] = make("ref", value.dtype, name=name, axes=axes)

    def _store(self, w: Write, scope: Scope) -> None:
        value = self.emit(_unrounded(w.value, self.buffers[w.tensor].dtype), scope)
        mapping = {}
        for index in w.index:
            for loaded in loaded_in(index):
                mapping[loaded] = poly(Loaded(self.emit(loaded.expr, scope), loaded.below))
        index = tuple(replace(i, mapping) for i in w.index)
        scope.statements.append(
            Store(self.buffers[w.tensor], index, value, self._ordered(set(w.axes)), self._line(w.value))
        )

    def _place(self, e: Expr) -> Scope:
        inside = [a for a in self.current if a in e.free or a in e.during]
        if inside:
            return self.current[inside[-1]]
        return self.after[self._need(e)]

    def _need(self, e: Expr) -> int:
        """The last pass whose results e uses."""
        for part in walk([e]):
            if part in self.needs:
                continue
            own = 0
            mine = part.kind == "reduce" and part not in self.inner
            if mine and any(part["axes"][0] in n for n in self.loops):
                own = next(i for i, p in enumerate(self.passes, 1) if part in p.reductions)
            self.needs[part] = max([own, *(self.needs[c] for c in part.children)])
        return self.needs[e]

    def _ordered(self, free: Iterable[Variable]) -> tuple[Variable, ...]:
        wanted = set(free)
        return tuple(v for v in self.order if v in wanted)

    def _line(self, e: Expr) -> Line | None:
        return self.labels.lines.get(e)

    def _name(self, e: Expr, suffix: str = "") -> str:
        base = self.labels.names.get(e)
        if base is None:
            base = self._loaded_name(e) if e.kind == "load" else short(e)
        name, n = base + suffix, 2
        while name in self.taken:
            name, n = f"{base}{suffix}_{n}", n + 1
        self.taken.add(name)
        return name

    def _loaded_name(self, e: Expr) -> str:
        buffer = self.buffers[e["tensor"]]
        return f"{buffer.name}_value" if buffer.number else buffer.name


def _unrounded(e: Expr, stored: DType) -> Expr:
    """What a store that rounds to its tensor's type may take instead: of a cast to that very type, the operand."""
    to = e["to"] if e.kind == "round" else e["dtype"] if e.op is not None and e.op.name == "cast" else None
    narrows = to is stored and e.dtype.is_float and e.args[0].dtype is e.dtype
    return e.args[0] if narrows else e


def _only_multiplied(writes: Sequence[Write]) -> set[Expr]:
    """The loads that are whole operands of contractions, and nothing else."""
    operands: set[Expr] = set()
    others: set[Expr] = set()
    seen: set[Expr] = set()
    stack = [w.value for w in writes] + [a.expr for w in writes for i in w.index for a in loaded_in(i)]
    while stack:
        e = stack.pop()
        if e in seen:
            continue
        seen.add(e)
        product = product_of(e)
        for side in product.sides if product is not None else (e.children,):
            alone = product is not None and len(side) == 1 and side[0].kind == "load"
            (operands if alone else others).update(side)
            stack += side
    return operands - others


def short(e: Expr) -> str:
    """What to call a value that has no name."""
    name = e.op.name if e.op is not None else e.kind
    return name.removeprefix("reduce_").removeprefix("scan_")


def _sorted(found: list[Pass], member: Mapping[Expr, Pass], first: Variable | None = None) -> list[Pass]:
    """Passes in an order in which each finds its results ready, that over a given axis first."""
    needs: dict[int, set[int]] = {}
    position = {id(p): -1 if first in p.nest.axes else i for i, p in enumerate(found)}
    for p in found:
        bodies = [r.args[0] for r in p.reductions] + [w.value for w in p.writes]
        needs[id(p)] = {id(member[e]) for e in walk(bodies) if e in member} - {id(p)}
    order: list[Pass] = []
    done: set[int] = set()
    while len(order) < len(found):
        ready = [p for p in found if id(p) not in done and needs[id(p)] <= done]
        if not ready:
            raise Refusal("passes over two axes need each other")
        earliest = min(ready, key=lambda p: position[id(p)])
        order.append(earliest)
        done.add(id(earliest))
    return order


def _vanishes(body: Expr, axis: Variable, identity: Expr) -> bool:
    """Whether the body is the identity outside the axis because its loads give 0 there."""
    value = _outside(body, axis)
    return value is not None and value == identity["value"]


def _is_finite(value: object) -> bool:
    return isinstance(value, (bool, int, float)) and math.isfinite(value)


def _is_lowered(power: Expr, axis: Variable) -> bool:
    """Whether only what is taken to the power varies along an axis, so that it is 0 where that is -inf."""
    return axis in power.args[0].free and axis not in power.args[2].free


def _outside(body: Expr, axis: Variable) -> object:
    """The value of a body outside the axis, where its loads give 0; None if it is not known."""
    known: dict[Expr, object] = {}
    for e in walk([body]):
        if e.kind == "const":
            known[e] = e["value"]
        elif e.kind == "power" and _is_lowered(e, axis):
            known[e] = 0
        elif e.kind == "load":
            known[e] = 0 if any(axis in variables(i) for i in e["index"]) else None
        elif e.kind == "apply" and e.args and all(known.get(a) is not None for a in e.args):
            known[e] = _apply(e, [known[a] for a in e.args])
        else:
            known[e] = None
    return known[body]


def _apply(e: Expr, values: list) -> object:
    import torch

    assert e.op is not None
    if e.attrs:
        return None
    tensors = [torch.tensor(v, dtype=a.dtype.torch) for v, a in zip(values, e.args, strict=True)]
    try:
        return e.op.reference(*tensors).item()
    except RuntimeError:  # a division of integers by the 0 of a masked lane
        return None
