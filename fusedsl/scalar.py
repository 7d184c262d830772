"""Scalar expressions: what a kernel computes for one point of its iteration space.

Interned, so equal means identical; every expression knows the axes free in it. Indices are `fusedsl.index`
polynomials over axes; a value read from memory stands in an index as a `Loaded` atom.
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from .index import Atom, Index, Poly, Variable, atoms, free, order_key, poly, replace, uses_of
from .ir import Node, Op, bits_of
from .types import DType, bool_

Free = frozenset[Variable]
NONE: Free = frozenset()


class Expr:
    """One scalar value.

    kind      what it is                                              attrs
    load      an element of a tensor, args: () or (guard,)             tensor: Node, index: tuple[Index]
    const     a number                                                 value
    number    an index as a value, args: () or (guard,)                index
    apply     an elementwise op on args                                the op's own
    power     e to the args[0] * args[1] - args[2]; halves: whether     halves
              args[0] is a product of halves
    biased    a half: a power of two (see halves.py) and the code      bits, shift,
              of so many bits in the word args[0], or there and above  raised
              it in args[1], times 2**raised
    raised    a small float times a power of two, in half precision:   element, shift
              its code in the word args[0], or there and above it
    fma       args[0] * args[1] + args[2], rounded once
    bits      the bits of args[0] rounded to a float of 8 bits         to: DType
    round     args[0] rounded to a narrower float and back             to: DType
    select    args[1] where args[0], else args[2]; never a mask
    less      a < b on indices, args: () or (guard,)                   a, b
    both      args[0] and args[1]
    nonzero   args[0] != 0
    reduce    args[0] combined over axes; with args[1], a loop         axes: tuple[Variable], the op's own
              multiplies what it has by it before each of its rounds,
              or forgets it where args[1] is false
    now       what a reduction args[0] comes to after a round of its
              loop, before: what it came to before that round
    scan      args[0] combined along an axis, up to its index          axes: (Variable,)
    ref       a value that a statement of the kernel has named         name, axes
    inside    whether a tile's index lies within its axis              axis
    spread    args[0] repeated along axes that it does not vary along  axes
    combine   a state args[0] combined with args[1], lane by lane
    dot       the product of tiles args[0] and args[1], summed over     axes, precision
              axes, plus args[2]

    A guard is the condition under which the value is used: elsewhere nothing is loaded, what is read from memory for an
    index need not be one, and the value is anybody's.
    """

    __slots__ = ("__weakref__", "_attrs", "args", "bound", "children", "dtype", "during", "free", "kind", "op")
    kind: str
    op: Op | None
    args: tuple[Expr, ...]
    dtype: DType  # the type it is computed in
    free: Free  # the axes it varies along
    bound: Free  # the axes that are combined in it
    during: Free  # the axes of the loops in whose rounds it changes, though it does not vary along them
    children: tuple[Expr, ...]  # its arguments, and the values its indices read

    _table: ClassVar[weakref.WeakValueDictionary] = weakref.WeakValueDictionary()
    _lock = threading.RLock()

    @property
    def attrs(self) -> dict[str, Any]:
        return dict(self._attrs)

    @property
    def is_fold(self) -> bool:
        """Whether it combines what stands along its `axes`."""
        return self.kind in ("reduce", "scan")

    def __getitem__(self, name: str) -> Any:
        for key, value in self._attrs:
            if key == name:
                return value
        raise KeyError(name)

    def __repr__(self) -> str:
        return show(self)


def make(kind: str, dtype: DType, args: tuple[Expr, ...] = (), op: Op | None = None, /, **attrs: Any) -> Expr:
    """The one expression of these parts."""
    frozen = tuple(sorted(attrs.items()))
    key = (kind, dtype, args, op.name if op else None, tuple((k, _key_of(v)) for k, v in frozen))
    with Expr._lock:
        found = Expr._table.get(key)
        if found is None:
            found = object.__new__(Expr)
            found.kind, found.dtype, found.args, found.op, found._attrs = kind, dtype, args, op, frozen
            found.children = (*args, *(atom.expr for index in indices(found) for atom in loaded_in(index)))
            found.free, found.bound, found.during = _free(found), _bound(found), _during(found)
            Expr._table[key] = found
        return found


def _key_of(value: Any) -> Any:
    return bits_of(value) if isinstance(value, (bool, int, float)) else value


def _free(e: Expr) -> Free:
    axes = NONE
    for arg in e.args:
        axes |= arg.free
    for index in indices(e):
        axes |= variables(index)
    if e.kind in ("reduce", "dot"):
        axes -= frozenset(e["axes"])
    if e.kind in ("ref", "spread", "scan"):
        axes |= frozenset(e["axes"])
    if e.kind == "inside":
        axes |= {e["axis"]}
    return axes


def _bound(e: Expr) -> Free:
    axes = frozenset(e["axes"]) if e.is_fold else NONE
    for child in e.children:
        axes |= child.bound
    return axes


def _during(e: Expr) -> Free:
    if e.kind in ("now", "before"):
        return frozenset(e.args[0]["axes"])
    axes = NONE
    for child in e.children:
        axes |= child.during
    return axes - frozenset(e["axes"]) if e.kind == "reduce" else axes


def indices(e: Expr) -> tuple[Index, ...]:
    """The indices that stand directly in an expression."""
    if e.kind == "load":
        return e["index"]
    if e.kind == "number":
        return (e["index"],)
    if e.kind == "less":
        return (e["a"], e["b"])
    return ()


def variables(index: Index) -> Free:
    """The axes in an index."""
    return frozenset(a for a in free(index) if isinstance(a, Variable))


class Loaded(Atom):
    """An integer value of a tensor used as an index, known to lie in [0, below)."""

    __slots__ = ("below", "expr")
    _table: ClassVar[weakref.WeakValueDictionary] = weakref.WeakValueDictionary()

    def __new__(cls, expr: Expr, below: Index) -> Loaded:
        with Expr._lock:
            found = cls._table.get((expr, below))
            if found is None:
                found = super().__new__(cls)
                found.expr, found.below = expr, below
                found.key = (3, _digest(expr))
                cls._table[expr, below] = found
            return found

    @property
    def bounds(self) -> tuple[Index, Index]:
        return 0, self.below - 1

    @property
    def free(self) -> frozenset[Atom]:
        return frozenset(self.expr.free)

    def replace(self, mapping: Mapping[Atom, Index]) -> Index:
        return poly(Loaded(substitute(self.expr, mapping), replace(self.below, mapping)))

    def __repr__(self) -> str:
        return show(self.expr)


def loaded_in(index: Index) -> Iterator[Loaded]:
    """The values from memory that an index needs, at any depth of quotients."""
    for atom in atoms(index):
        if isinstance(atom, Loaded):
            yield atom
        elif hasattr(atom, "dividend"):
            yield from loaded_in(atom.dividend)  # type: ignore[attr-defined]


def walk(roots: list[Expr], enters: Callable[[Expr], bool] = lambda e: True) -> list[Expr]:
    """Every expression below the roots once, each after what it is made of; of one it does not enter only itself."""
    order: list[Expr] = []
    seen: set[Expr] = set()
    stack = [(root, False) for root in reversed(roots)]
    while stack:
        e, done = stack.pop()
        if done:
            order.append(e)
        elif e not in seen:
            seen.add(e)
            stack.append((e, True))
            if enters(e):
                stack.extend((c, False) for c in reversed(e.children) if c not in seen)
    return order


def substitute(e: Expr, mapping: Mapping[Atom, Index], memo: dict[Expr, Expr] | None = None) -> Expr:
    """The expression with axes and sizes replaced in its indices, and reductions' axes renamed with them."""
    memo = {} if memo is None else memo
    named = frozenset(a for a in mapping if isinstance(a, Variable))

    def is_changed(node: Expr) -> bool:
        return len(named) < len(mapping) or not named.isdisjoint(node.free) or not named.isdisjoint(node.bound)

    for node in walk([e], lambda node: node not in memo and is_changed(node)):
        if node not in memo:
            memo[node] = _substituted(node, mapping, memo) if is_changed(node) else node
    return memo[e]


def _substituted(e: Expr, mapping: Mapping[Atom, Index], memo: Mapping[Expr, Expr]) -> Expr:
    args = tuple(memo[a] for a in e.args)
    if e.kind == "load":
        guard = tuple(g for g in args if g is not TRUE)
        return make("load", e.dtype, guard, tensor=e["tensor"], index=tuple(replace(i, mapping) for i in e["index"]))
    if e.kind == "number":
        return number(replace(e["index"], mapping), e.dtype, *args)
    if e.kind == "less":
        return less(replace(e["a"], mapping), replace(e["b"], mapping), *args)
    if e.kind == "both":
        return both(*args)
    if e.kind == "select":
        return select(*args)
    if e.is_fold:
        axes = tuple(dict.fromkeys(v for a in e["axes"] for v in _renamed(a, mapping)))
        assert e.kind == "reduce" or len(axes) == 1, f"the axis of a scan became {axes}"
        return make(e.kind, e.dtype, args, e.op, **{**e.attrs, "axes": axes})
    return e if args == e.args else make(e.kind, e.dtype, args, e.op, **e.attrs)


def _renamed(axis: Variable, mapping: Mapping[Atom, Index]) -> list[Variable]:
    """The axes that stand for one: itself, another, or the axes of what it is split into or merged to."""
    to = mapping.get(axis)
    return [axis] if to is None else sorted(variables(to), key=lambda a: a.key)


def uses(e: Expr, axis: Variable) -> Iterator[Index | None]:
    """For each use of an axis in an expression's indices: its divisor, None where it is used otherwise."""
    return (use for part in walk([e]) for index in indices(part) for use in uses_of(index, axis))


def rebuild(e: Expr, args: tuple[Expr, ...], values: Mapping[Atom, Index] | None = None) -> Expr:
    """The same operation on other arguments, and on other values in its indices."""
    if not values:
        return e if args == e.args else make(e.kind, e.dtype, args, e.op, **e.attrs)
    return make(e.kind, e.dtype, args, e.op, **{name: _replaced(value, values) for name, value in e._attrs})


def rebuilt(e: Expr, memo: Mapping[Expr, Expr]) -> Expr:
    """The same operation on what its parts have become, those that stand in its indices too."""
    values: dict[Atom, Index] = {v: poly(Loaded(memo[v.expr], v.below)) for i in indices(e) for v in loaded_in(i)}
    return rebuild(e, tuple(memo[a] for a in e.args), values)


def _replaced(value: Any, values: Mapping[Atom, Index]) -> Any:
    if isinstance(value, tuple):
        return tuple(_replaced(v, values) for v in value)
    return replace(value, values) if isinstance(value, Poly) else value


# ---- construction with what is known at once -------------------------------------------------------------------------


def constant(value: bool | int | float, dtype: DType) -> Expr:
    kind = float if dtype.is_float else bool if dtype.is_bool else int
    return make("const", dtype, value=kind(value))


TRUE, FALSE = constant(True, bool_), constant(False, bool_)


def _guard(when: Expr, *used: Index) -> tuple[Expr, ...]:
    """The guard that an expression on indices needs: none where they read nothing from memory."""
    return (when,) if when is not TRUE and any(True for i in used for _ in loaded_in(i)) else ()


def number(index: Index, dtype: DType, when: Expr = TRUE) -> Expr:
    """An index as a value, where `when` holds."""
    if isinstance(index, int):
        return constant(index, dtype)
    return make("number", dtype, _guard(when, index), index=index)


def less(a: Index, b: Index, when: Expr = TRUE) -> Expr:
    """a < b where `when` holds, decided where the ranges decide it."""
    from .index import is_less, is_nonnegative

    if is_less(a, b):
        return TRUE
    if is_nonnegative(a - b):
        return FALSE
    return make("less", bool_, _guard(when, a, b), a=a, b=b)


def both(p: Expr, q: Expr) -> Expr:
    if p is FALSE or q is FALSE:
        return FALSE
    if p is TRUE or p is q:
        return q
    return p if q is TRUE else make("both", bool_, (p, q))


def select(condition: Expr, a: Expr, b: Expr) -> Expr:
    if condition is TRUE or a is b:
        return a
    return b if condition is FALSE else make("select", a.dtype, (condition, a, b))


# ---- text ------------------------------------------------------------------------------------------------------------


_digests: weakref.WeakKeyDictionary[Expr, str] = weakref.WeakKeyDictionary()


def _digest(e: Expr) -> str:
    """A short text, of equal expressions the same in every process: what puts them in an order. The expressions that
    are shared in a large one are looked at once, as they are not in the text for people."""
    found = _digests.get(e)
    if found is None:
        parts = [e.kind, e.op.name if e.op else "", str(e.dtype), *map(_digest, e.args), *map(_told, e.attrs.values())]
        found = _digests[e] = hashlib.blake2s("\n".join(parts).encode(), digest_size=12).hexdigest()
    return found


def _told(value: Any) -> str:
    if isinstance(value, Poly):
        return repr(order_key(value))
    if isinstance(value, tuple):
        return f"({', '.join(map(_told, value))})"
    return _name(value) or value.op.name if isinstance(value, Node) else repr(value)


def show(e: Expr) -> str:
    """One line for people: x[i, k] * w[k]"""
    args = [show(a) for a in e.args]
    guard = f" if {args[0]}" if args else ""
    if e.kind == "load":
        return f"{_name(e['tensor']) or e['tensor'].op.name}{list(e['index'])}{guard}"
    if e.kind == "const":
        return str(e["value"])
    if e.kind == "number":
        return f"({e['index']})" + guard
    if e.kind == "less":
        return f"({e['a']} < {e['b']})" + guard
    if e.is_fold:
        assert e.op is not None
        return f"{e.op.name}_{','.join(map(repr, e['axes']))}({args[0]})"
    if e.kind == "ref":
        return e["name"]
    if e.kind == "inside":
        return f"in_{e['axis']}"
    name = e.op.name if e.op is not None else e.kind
    extra = [f"{k}={v}" for k, v in e._attrs]
    return f"{name}({', '.join(args + extra)})"


def _name(tensor: Node) -> str:
    for key, value in tensor.attrs:
        if key == "name":
            return value
    return ""
