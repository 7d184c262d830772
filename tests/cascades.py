"""The laws that the state of a pass over an axis has to obey, on a small evaluator of scalar expressions in float64.

A tensor of values has a dimension for every axis of a kernel, of size 1 where the value does not vary. An axis' places
are whatever indices are looked at: all of them, a part, or all in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import torch

from fusedsl.index import Atom, Index, Quotient, Symbol, Variable, evaluate
from fusedsl.ir import Node
from fusedsl.lower import Write
from fusedsl.scalar import Expr, Loaded, indices, loaded_in, make, variables, walk
from fusedsl.state import State, states_of
from fusedsl.types import DType
from tests.choices import Source

Values = Mapping[Expr, torch.Tensor]
F64 = torch.float64


# ---- scalar expressions ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Points:
    """Where expressions are evaluated. places: the indices along each axis. tensors: what loads read."""

    axes: tuple[Variable, ...]
    places: Mapping[Variable, torch.Tensor]
    tensors: Mapping[Node, torch.Tensor]
    sizes: Mapping[str, int]
    indices: dict[Index, torch.Tensor] = field(default_factory=dict)  # those that are known

    def only(self, axis: Variable, places: torch.Tensor) -> Points:
        """With these indices of one axis."""
        return Points(self.axes, {**self.places, axis: places}, self.tensors, self.sizes)

    def value(self, e: Expr, known: Values) -> torch.Tensor:
        memo = dict(known)
        for part in walk([e], lambda part: part not in memo):
            if part not in memo:
                memo[part] = self._compute(part, memo)
        return memo[e]

    def _compute(self, e: Expr, memo: Values) -> torch.Tensor:
        args = [memo[a] for a in e.args]
        if e.kind == "const":
            return self._constant(e["value"], e.dtype)
        if e.kind == "number":
            return self.index(e["index"], memo).to(wide(e.dtype))
        if e.kind == "less":
            return self.index(e["a"], memo) < self.index(e["b"], memo)
        if e.kind == "load":
            return self._load(e, args, memo)
        if e.kind == "apply":
            assert e.op is not None
            return e.op.reference(*args, **{k: wide(v) if isinstance(v, DType) else v for k, v in e.attrs.items()})
        if e.kind == "select":
            return torch.where(*args)
        if e.kind == "both":
            return args[0] & args[1]
        assert e.kind == "reduce" and len(args) == 1, f"{e.kind} is known only within a pass"
        return self.reduced(e, args[0])

    def reduced(self, e: Expr, body: torch.Tensor) -> torch.Tensor:
        """What a reduction makes of the values of its body."""
        dims = tuple(self.axes.index(a) for a in e["axes"])
        shape = [len(self.places[a]) if a in e["axes"] else n for a, n in zip(self.axes, body.shape, strict=True)]
        found = folded(e, body.expand(shape), dims)
        for d in sorted(dims):
            found = found.unsqueeze(d)
        return found

    def _constant(self, value: Any, dtype: DType) -> torch.Tensor:
        return torch.full([1] * len(self.axes), value, dtype=wide(dtype))

    def _load(self, e: Expr, guard: Sequence[torch.Tensor], memo: Values) -> torch.Tensor:
        """An element; where its guard says that it is not used, NaN."""
        tensor, places = self.tensors[e["tensor"]], [self._index(i, memo) for i in e["index"]]
        places = [torch.where(guard[0], i, 0) if guard else i for i in places]
        moving = torch.broadcast_tensors(*(i for i in places if i.dim())) if any(i.dim() for i in places) else ()
        rest = iter(moving)
        found = tensor[tuple(next(rest) if i.dim() else i for i in places)]
        found = found if moving else found.reshape([1] * len(self.axes))
        return torch.where(guard[0], found, torch.nan) if guard and found.is_floating_point() else found

    def index(self, index: Index, memo: Values | None = None) -> torch.Tensor:
        """The values of an index, in the shape of values."""
        found = self._index(index, memo or {})
        return found if found.dim() else found.reshape([1] * len(self.axes))

    def _index(self, index: Index, memo: Values) -> torch.Tensor:
        """A number, where the index is the same everywhere."""
        if isinstance(index, int):
            return torch.tensor(index)
        found = self.indices.get(index)
        if found is None:
            total: torch.Tensor | int = 0
            for product, factor in index.terms:
                term: torch.Tensor | int = factor
                for atom in product:
                    term = term * self._atom(atom, memo)
                total = total + term
            found = torch.as_tensor(total)
            if not any(True for _ in loaded_in(index)):
                self.indices[index] = found
        return found

    def _atom(self, atom: Atom, memo: Values) -> torch.Tensor | int:
        if isinstance(atom, Variable):
            return self.places[atom].reshape([-1 if a is atom else 1 for a in self.axes])
        if isinstance(atom, Symbol):
            return self.sizes[atom.name]
        if isinstance(atom, Loaded):
            return memo[atom.expr]
        assert isinstance(atom, Quotient), atom
        return atom.function(self._index(atom.dividend, memo), self._index(atom.divisor, memo))


def wide(dtype: DType) -> torch.dtype:
    """The type that values are evaluated in: of floats float64, so that no cast between them rounds."""
    assert dtype.torch is not None
    return F64 if dtype.is_float else dtype.torch


def folded(e: Expr, values: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    """Values combined along dims as a reduction does."""
    assert e.op is not None
    return e.op.reference(values, dims, **{k: v for k, v in e.attrs.items() if k != "axes"})


def points_of(writes: Sequence[Write], tensors: Mapping[Node, torch.Tensor], sizes: Mapping[str, int]) -> Points:
    """Every point of the axes of these writes."""
    values = [w.value for w in writes]
    axes = dict.fromkeys(a for w in writes for a in w.axes)
    for e in walk(values):
        axes.update(dict.fromkeys(a for i in indices(e) for a in sorted(variables(i), key=lambda a: a.key)))
        axes.update(dict.fromkeys(e["axes"] if e.is_fold else ()))
    wanted = {node: t.double() if t.is_floating_point() else t for node, t in tensors.items()}
    return Points(tuple(axes), {a: torch.arange(evaluate(a.extent, sizes)) for a in axes}, wanted, sizes)


# ---- passes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Walk:
    """A pass over axes: its state, the points of the kernel, and what earlier passes came to. It is cut along the first
    of its axes."""

    state: State
    points: Points
    known: Values = field(default_factory=dict)

    @property
    def axis(self) -> Variable:
        return self.state.axes[0]

    @property
    def places(self) -> torch.Tensor:
        return self.points.places[self.axis]

    @cached_property
    def whole(self) -> Values:
        """The state after a round over everything."""
        return self.fold([self.places])

    @cached_property
    def steps(self) -> dict[Expr, tuple[Expr, Expr | None]]:
        before, now = _names(self.state, "before"), _names(self.state, "now")
        return {fold: self.state.step(fold, before, now) for fold in self.state.folds}

    def start(self) -> Values:
        return {fold: self.points.value(self.state.init(fold), {}) for fold in self.state.folds}

    def round(self, before: Values, places: torch.Tensor) -> Values:
        """The state after one more round, over these places."""
        points, now = self.points.only(self.axis, places), {}
        for fold, (body, factor) in self.steps.items():
            known = {**self.known, **_named(self.state, "before", before), **_named(self.state, "now", now)}
            had = before[fold]
            if factor is not None:
                kept, nothing = points.value(factor, known), points.value(self.state.init(fold), {})
                had = torch.where(kept, had, nothing) if kept.dtype is torch.bool else had * kept
            now[fold] = combined(fold, had, points.reduced(fold, points.value(body, known)))
        return now

    def fold(self, chunks: Sequence[torch.Tensor]) -> Values:
        """The state after a round over each of these parts of the axis."""
        state = self.start()
        for places in chunks:
            state = self.round(state, places)
        return state

    def merge(self, first: Values, second: Values) -> Values:
        """The state of two parts of the axis together."""
        merged = self.state.merge(_names(self.state, "first"), _names(self.state, "second"))
        known = {**self.known, **_named(self.state, "first", first), **_named(self.state, "second", second)}
        return {fold: self._value(merged[fold], known) for fold in self.state.folds}

    def _value(self, e: Expr, known: Values) -> torch.Tensor:
        """With `combine`, which only merging has."""
        memo = dict(known)
        for part in walk([e], lambda part: part not in memo):
            if part not in memo and part.kind == "combine":
                memo[part] = combined(part, *(memo[a] for a in part.args))
            elif part not in memo:
                memo[part] = self.points.value(part, memo)
        return memo[e]


def combined(e: Expr, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return folded(e, torch.stack(torch.broadcast_tensors(a, b)), (0,))


@cache
def _names(state: State, when: str) -> dict[Expr, Expr]:
    """A name for each reduction of a state as it is at some time."""
    return {fold: make("ref", fold.dtype, name=f"{when} {n}", axes=()) for n, fold in enumerate(state.folds)}


def _named(state: State, when: str, values: Values) -> Values:
    names = _names(state, when)
    return {names[fold]: value for fold, value in values.items()}


def walks_of(writes: Sequence[Write], nests: Sequence[Sequence[Variable]], points: Points) -> list[Walk]:
    """Every pass over each nest of looped axes; of each, what came before it is known."""
    known: dict[Expr, torch.Tensor] = {}
    walks = []
    for state in (s for nest in nests for s in states_of(writes, nest)):
        walks.append(Walk(state, points, dict(known)))
        known.update(walks[-1].whole)
    return walks


def stored(writes: Sequence[Write], walks: Sequence[Walk], points: Points) -> dict[Node, torch.Tensor]:
    """The tensors that writes store, of the states that passes end with: the epilogue. NaN, or -1, where none does."""
    known = {fold: value for walk in walks for fold, value in walk.whole.items()}
    found: dict[Node, torch.Tensor] = {}
    for w in writes:
        shape = [evaluate(n, points.sizes) for n in w.tensor.shape]
        nothing = torch.nan if w.tensor.dtype.is_float else -1
        into = found.setdefault(w.tensor, torch.full(shape, nothing, dtype=wide(w.tensor.dtype)))
        value = points.value(w.value, known)
        places = torch.broadcast_tensors(value, *(points.index(i) for i in w.index))
        into[tuple(places[1:])] = places[0]
    return found


# ---- laws ------------------------------------------------------------------------------------------------------------


def assert_same(a: torch.Tensor, b: torch.Tensor, what: object, tolerance: float = 1e-9) -> None:
    """NaN stands where it does in the other, infinities are equal, and the rest is so but for rounding."""
    a, b = torch.broadcast_tensors(a, b)
    nans = [int(t.isnan().sum()) for t in (a, b)]
    assert torch.equal(a.isnan(), b.isnan()), f"{what}: NaN in {nans[0]} places, not {nans[1]}"
    error = torch.where((a == b) | a.isnan(), 0, (a - b).abs() / (1 + b.abs())).flatten()
    at = int(error.argmax())
    assert error[at] < tolerance, f"{what}: {a.flatten()[at]} is not {b.flatten()[at]}"  # so that NaN does not pass


def assert_same_states(a: Values, b: Values, what: str) -> None:
    for fold in a:
        assert_same(a[fold], b[fold], (what, fold))


def is_cut_anywhere(walk: Walk) -> None:
    """One round over everything, or several over less."""
    for parts in (2, 5, len(walk.places)):
        assert_same_states(walk.fold(walk.places.tensor_split(parts)), walk.whole, f"{parts} rounds")


def is_walked_in_any_order(walk: Walk) -> None:
    mixed = walk.places[torch.randperm(len(walk.places), generator=torch.Generator().manual_seed(0))]
    for places in (walk.places.flip(0), mixed):
        assert_same_states(walk.fold(places.tensor_split(3)), walk.whole, f"in the order {places.tolist()}")


def merges_to_the_fold_of_both(walk: Walk) -> None:
    for at in (1, len(walk.places) // 2, len(walk.places) - 1):
        a, b = (walk.fold(places.tensor_split(2)) for places in walk.places.tensor_split((at,)))
        assert_same_states(walk.merge(a, b), walk.whole, f"cut at {at}")
        assert_same_states(walk.merge(b, a), walk.whole, f"cut at {at}, the other way")


def merges_in_any_grouping(walk: Walk) -> None:
    a, b, c = (walk.fold([places]) for places in walk.places.tensor_split(3))
    assert_same_states(walk.merge(walk.merge(a, b), c), walk.merge(a, walk.merge(b, c)), "three parts")


def starts_from_an_identity(walk: Walk) -> None:
    nothing, whole = walk.start(), walk.whole
    assert_same_states(walk.merge(nothing, whole), whole, "nothing before it")
    assert_same_states(walk.merge(whole, nothing), whole, "nothing after it")
    assert_same_states(walk.merge(nothing, nothing), nothing, "nothing at all")


LAWS: tuple[Callable[[Walk], None], ...] = (
    is_cut_anywhere, is_walked_in_any_order, merges_to_the_fold_of_both, merges_in_any_grouping,
    starts_from_an_identity,
)  # fmt: skip


# ---- random chains ---------------------------------------------------------------------------------------------------

STEPS = (
    "{a} + {n}", "{a} - {n}", "{a} * {n}", "{a} / ({n}.abs() + 0.5)", "torch.exp({a} - {a}.amax(-1, keepdim=True))",
    "torch.exp2({a}.amin(-1, keepdim=True) - {a})", "torch.relu({a})", "{a}.abs()", "torch.where(c > 0, {a}, {b})",
    "torch.where(c > 0, {a}, 0.0)", "torch.log({a}.abs() + 1)", "torch.sqrt({a}.abs() + 0.5)", "{a} * {b}", "{a} - {b}",
    "{a} * 0.5", "-{a}", "{a} * c", "torch.softmax({a}, -1)", "torch.log_softmax({a}, -1)", "torch.tanh({a})",
    "torch.exp({a} - torch.logsumexp({a}, -1, keepdim=True))", "F.rms_norm({a}, ({a}.shape[-1],), eps=1e-3)",
    "F.layer_norm({a}, ({a}.shape[-1],), eps=1e-3)", "{a} - torch.maximum({a}.amax(-1, keepdim=True), {n})",
)  # fmt: skip
REDUCTIONS = (
    "{a}.mean(-1, keepdim=True)", "{a}.amax(-1, keepdim=True)", "{a}.amin(-1, keepdim=True)",
    "({a} * {a}).mean(-1, keepdim=True)", "({a} * {b}).mean(-1, keepdim=True)",
    "torch.logsumexp({a}, -1, keepdim=True)", "torch.exp({a} - {a}.amax(-1, keepdim=True)).sum(-1, keepdim=True)",
    "torch.sqrt(({a} * {a}).mean(-1, keepdim=True) + 0.1)",
    "({a} / {a}.abs().amax(-1, keepdim=True)).mean(-1, keepdim=True)",
)  # fmt: skip
ENDS = (
    "{a} @ w", "{a}.mean(-1)", "{a}.amax(-1)", "({a} * {a}).mean(-1)", "({a} * {b}).mean(-1), {n}[:, 0]",
    "{a} @ w, {n}",
)  # fmt: skip


@dataclass(frozen=True)
class Chain:
    """Rows x and z and a vector c over one axis, and a matrix w from it: steps on rows, reductions of them, and at the
    end a product or none, as the text of a function."""

    text: str

    @property
    def function(self) -> Callable[..., Any]:
        scope: dict[str, Any] = {"torch": torch, "F": torch.nn.functional}
        exec(self.text, scope)
        return scope["chain"]

    def __repr__(self) -> str:
        return self.text


def chain(source: Source, most: int = 8) -> Chain:
    """A chain of up to so many steps."""
    rows, numbers, lines = ["z", "x"], ["x.mean(-1, keepdim=True)"], []

    def text(forms: Sequence[str]) -> str:
        a, b, n = (_recent(source, values) for values in (rows, rows, numbers))
        return source.pick(forms).format(a=a, b=b, n=n)

    for at in range(source.integer(1, most)):
        made, forms, name = source.pick([(rows, STEPS, "r"), (rows, STEPS, "r"), (numbers, REDUCTIONS, "n")])
        lines.append(f"{name}{at} = {text(forms)}")
        made.append(f"{name}{at}")
    lines.append(f"return {text(ENDS)}")
    return Chain("def chain(x, z, c, w):\n" + "".join(f"    {line}\n" for line in lines))


def _recent(source: Source, made: Sequence[str]) -> str:
    """One of the last, most often the very last."""
    return source.pick([made[-1], made[-1], *made[-3:]])


# ---- random masks ----------------------------------------------------------------------------------------------------


def mask(source: Source, sizes: tuple[int, int], memory: bool, depth: int = 2) -> str:
    """A condition on a query i and a key j of so many, and on a length n of the row if memory has any: affine
    comparisons, and what is made of them."""
    if depth and source.integer(0, 2):
        a, b = (mask(source, sizes, memory, depth - 1) for _ in "ab")
        return source.pick([f"({a}) & ({b})", f"({a}) | ({b})", f"~({a})", f"({a}) & ~({b})"])
    many = max(sizes)
    at, near = source.integer(-many // 4, many), source.integer(0, many // 3)
    forms = [
        f"j <= i + {at}", f"j > i - {near}", f"j < {at}", f"{at} <= j", f"i - j < {near}", f"j + i >= {at}",
        f"i < {at}", f"2 * i - j > {at}", f"3 - j > -i - {near}", f"j % 3 < {source.integer(1, 2)}",
    ]  # fmt: skip
    return source.pick(forms + [f"j < n + {at}", "n <= j", f"j - n <= i - {near}"] * memory)


def kept(text: str, sizes: tuple[int, int], lengths: torch.Tensor) -> torch.Tensor:
    """Where a condition holds, of every row of every batch."""
    i, j = torch.arange(sizes[0])[:, None], torch.arange(sizes[1])
    found = eval(text, {"i": i, "j": j, "n": lengths[:, None, None, None]})
    return found.expand(len(lengths), 1, *sizes)


def mask_of_every_row(source: Source, sizes: tuple[int, int], lengths: torch.Tensor | None = None) -> str:
    """A condition that leaves every query a key."""
    rows = torch.zeros(1, dtype=torch.int64) if lengths is None else lengths
    for _ in range(20):
        text = mask(source, sizes, lengths is not None)
        if kept(text, sizes, rows).any(-1).all():
            return text
    return f"({mask(source, sizes, lengths is not None)}) | (j < 1)"
