"""Values of a kernel as functions of indices: what they are at an index, and how memory is touched there.

An index along the walked dimension of a nest is *affine*, `base + lane`; along the others it is a scalar. A value at an
index is a scalar if all lanes agree, else a vector, and an affine form is kept as long as it lasts: it is what makes an
access contiguous.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import elem
from .analysis import VIEWS, is_volatile
from .build import Builder, Value, bytes_of
from .program import Node, Val

if TYPE_CHECKING:
    from .emit import Emitter


@dataclass(frozen=True, slots=True)
class Affine:
    """base + lane * stride. `exact` gives the vector where that is not `splat(base) + iota * stride` in the type's own
    arithmetic: an i64 made of an i32 that may wrap between lanes. Addresses are taken not to wrap inside a tile."""

    base: Value
    stride: int
    exact: Callable[[], Value] | None = None

    @property
    def el(self) -> str:
        return self.base.el


@dataclass(frozen=True, slots=True)
class Pointer:
    """Pointers to elements of a type: `base + offset` elements, or an address in bytes where there is no base."""

    base: Value | None
    offset: Value | Affine
    pointee: str


Lane = Value | Affine
Index = tuple[Lane, ...]


@dataclass(eq=False)
class Buffer:
    """A tensor in the kernel's own memory, in rows unless `strides` says otherwise."""

    start: Value
    element: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    memory: int  # which allocation it is in: a view of a buffer is in the same one
    of_pointers: str = ""  # what pointers in it point to; they are held as addresses
    place: Callable[[Builder, Index], tuple[Lane, ...]] | None = field(default=None)

    @property
    def el(self) -> str:
        return "i64" if self.of_pointers else elem.held(self.element)


@dataclass(frozen=True)
class Moving:
    """A tensor that a loop carries and moves as a whole: where it started, and how far it has come."""

    start: Val
    by: Value


def rows_of(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a dense tensor."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))


def key_of(lane: Any) -> Any:
    """What tells indices apart."""
    return (lane.base.name, lane.stride) if isinstance(lane, Affine) else lane.name


class Evaluator:
    """Evaluates values at indices. Without a nest every index is a scalar."""

    def __init__(self, emitter: Emitter, lanes: int | None) -> None:
        self.em, self.b, self.lanes = emitter, emitter.b, lanes
        self.base = self.b.depth
        self.memo: dict[Any, Any] = {}
        self.assumed: dict[Any, bool] = {}  # comparisons known in the loop that is being written
        self.state = 0  # which assumptions hold
        self.floor = self.base  # loads under an assumption stay in its loop
        self._assumable: dict[Val, bool] = {}
        self._leaves: set[Node] = set()

    # -- evaluation

    def at(self, val: Val, index: Index) -> Any:
        """The value at an index: a Value, an Affine or a Pointer. A scalar stands for all lanes."""
        if not val.is_tensor:
            return self.em.scalar(val)
        key = (val, *[key_of(i) for i in index], self.state if self.is_assumable(val) else 0)
        found = self.memo.get(key)
        if found is not None:
            return found
        for scope in self.b.scopes[self.base + 1 :]:
            found = scope.memo.get(key)
            if found is not None:
                return found
        found = self._evaluate(val, index)
        depth = depth_of(found)
        if depth <= self.base:
            self.memo[key] = found
        else:
            self.b.scopes[depth].memo[key] = found
        return found

    def _evaluate(self, val: Val, index: Index) -> Any:
        stored = self.em.stored.get(val)
        if isinstance(stored, Buffer):
            return self.read(stored, index)
        if stored is not None:  # a value that moves along with a loop
            return self.moved(self.at(stored.start, index), stored.by, val.type.pointee)
        node = val.node
        assert node is not None and self.em.facts.is_virtual(node), f"not at hand: {val}"
        name = node.name
        if name == "tt.load":
            return self.load(node, index)
        if name == "tt.make_range":
            start = int(node.op.attribute("start"))
            return self.add(index[0], self.b.const(start, "i32"))
        if name in VIEWS or name == "tt.reshape":
            (inner,) = self.operands_at(node, index)
            return self.at(node.operands[0], inner) if node.operands[0].is_tensor else self.em.scalar(node.operands[0])
        if name == "arith.constant":
            token = node.op.text.strip().removeprefix("dense<").removesuffix(">")
            return elem.constant(self.b, token, val.element, None)
        if name == "ub.poison":
            zero = self.b.const(0, "i64" if val.element == "ptr" else elem.held(val.element))
            return Pointer(None, zero, val.type.pointee) if val.element == "ptr" else zero
        if name == "tt.addptr":
            pointer, offset = (self.at(v, index) for v in node.operands)
            return self.moved(pointer, offset, val.type.pointee)
        return self.elementwise(node, index)

    def operands_at(self, node: Node, index: Index) -> list[Index]:
        """The indices at which a virtual operation reads its operands."""
        name = node.name
        if name in ("tt.splat", "tt.unsplat"):
            return [()]
        if name == "tt.expand_dims":
            axis = int(node.op.attribute("axis"))
            return [index[:axis] + index[axis + 1 :]]
        if name == "tt.broadcast":
            zero = self.b.const(0, "i32")
            shape = node.operands[0].shape
            return [tuple(i if n > 1 else zero for i, n in zip(index, shape, strict=True))]
        if name == "tt.trans":
            order = [int(d) for d in node.op.attribute("order").split(",")]
            source: list[Lane] = list(index)
            for at, d in enumerate(order):
                source[d] = index[at]
            return [tuple(source)]
        if name == "tt.reshape":
            kept = iter([i for i, n in zip(index, node.result.shape, strict=True) if n > 1])
            zero = self.b.const(0, "i32")
            return [tuple(next(kept) if n > 1 else zero for n in node.operands[0].shape)]
        return [index if v.is_tensor else () for v in node.operands]

    def elementwise(self, node: Node, index: Index) -> Any:
        if node in self._leaves:
            known = self.assumed.get((node, self.pattern(index)))
            if known is not None:
                return self.b.const(known, "i1")
        if node.name == "arith.select":
            condition = self.at(node.operands[0], index)
            if isinstance(condition, Value) and condition.constant is not None:
                return self.at(node.operands[1 if condition.constant else 2], index)
        given = [self.at(v, index) for v in node.operands]
        if node.result.element == "ptr" or any(isinstance(v, Pointer) for v in given):
            return self.pointers(node, given)
        if any(isinstance(v, Affine) for v in given):
            affine = self.affine(node, given)
            if affine is not None:
                return affine
        if any(isinstance(v, Affine) or v.lanes is not None for v in given):
            given = [self.vector(v) for v in given]
        return self.em.apply(node, given)

    def pointers(self, node: Node, given: list[Any]) -> Any:
        """Casts and choices of pointers, by their addresses."""
        kind = node.result.type
        values = [self.address(v) if isinstance(v, Pointer) else self.plain(v) for v in given]
        if node.name == "tt.bitcast" or node.name == "tt.int_to_ptr":
            return Pointer(None, values[0], kind.pointee)
        if node.name == "tt.ptr_to_int":
            return values[0]
        if any(v.lanes is not None for v in values):
            values = [self.vector(v) for v in values]
        if node.name == "arith.select":
            return Pointer(None, self.b.select(*values), kind.pointee)
        return self.em.apply(node, values)

    def address(self, pointer: Pointer) -> Value:
        """In bytes."""
        if pointer.base is None:
            return self.vector(pointer.offset) if isinstance(pointer.offset, Affine) else pointer.offset
        size = bytes_of(elem.held(pointer.pointee))
        offset = self.vector(pointer.offset) if isinstance(pointer.offset, Affine) else pointer.offset
        scaled = self.b.mul(offset, self.b.const(size, "i64", offset.lanes))
        return self.b.add(self.b.splat(self.b.address(pointer.base), offset.lanes), scaled)

    def affine(self, node: Node, given: list[Any]) -> Affine | None:
        """The result of integer arithmetic that keeps the form, or None."""
        b = self.b
        if node.name == "arith.extsi":
            (x,) = given
            el = node.result.element
            return Affine(b.cast("extsi", x.base, el), x.stride, lambda: b.cast("extsi", self.vector(x), el))
        if len(given) != 2 or any(isinstance(v, Value) and v.lanes is not None for v in given):
            return None
        x, y = given
        if node.name == "arith.addi":
            return self.add(x, y)
        if node.name == "arith.subi":
            return self.add(x, self.scaled(y, -1))
        if node.name == "arith.muli":
            number, other = (x, y) if isinstance(x, Value) else (y, x)
            if isinstance(number, Value) and number.constant is not None and isinstance(other, Affine):
                return self.scaled(other, int(number.constant))
        return None

    def add(self, x: Lane, y: Lane) -> Any:
        """The sum of indices, either of which may be affine or a vector."""
        b = self.b
        if isinstance(x, Value) and isinstance(y, Value):
            if x.lanes != y.lanes:
                x, y = self.vector(x), self.vector(y)
            return b.add(x, y)
        if any(isinstance(v, Value) and v.lanes is not None for v in (x, y)):
            return b.add(self.vector(x), self.vector(y))
        bases = [v.base if isinstance(v, Affine) else v for v in (x, y)]
        stride = sum(v.stride for v in (x, y) if isinstance(v, Affine))
        exact = None
        if any(isinstance(v, Affine) and v.exact for v in (x, y)):
            exact = lambda: b.add(self.vector(x), self.vector(y))
        return Affine(b.add(*bases), stride, exact)

    def scaled(self, x: Lane, by: int) -> Any:
        b = self.b
        if isinstance(x, Affine):
            exact = None
            if x.exact or abs(x.stride * by) >= 1 << 20:  # so steep that it may be meant to wrap
                exact = lambda: b.mul(self.vector(x), b.const(by, x.el, self.lanes))
            return Affine(b.mul(x.base, b.const(by, x.el)), x.stride * by, exact)
        return b.mul(x, b.const(by, x.el, x.lanes))

    def vector(self, v: Any) -> Value:
        """With every lane in its place; a scalar in all of them."""
        if isinstance(v, Affine):
            if v.exact is not None:
                return v.exact()
            assert self.lanes is not None, "an affine index outside of a vector"
            base = self.b.splat(v.base, self.lanes)
            return self.b.add(base, self.b.iota(v.el, self.lanes, v.stride))
        assert isinstance(v, Value), f"not a vector: {v}"
        return v if v.lanes is not None else self.b.splat(v, self.lanes)

    def wide(self, v: Lane) -> Lane:
        """An integer index as i64, as part of an address."""
        if isinstance(v, Affine):
            return v if v.el == "i64" else Affine(self.b.resize(v.base, "i64"), v.stride)
        return self.b.resize(v, "i64")

    def moved(self, v: Any, by: Any, pointee: str) -> Any:
        """A pointer moved by elements, or an integer by a number."""
        if not isinstance(v, Pointer):
            return self.add(v, by)
        if v.base is None:
            size = bytes_of(elem.held(pointee))
            return Pointer(None, self.add(self.wide(v.offset), self.scaled(self.wide(by), size)), pointee)
        return Pointer(v.base, self.add(v.offset, self.wide(by)), pointee)

    # -- memory

    def load(self, node: Node, index: Index) -> Value:
        """A `tt.load` at an index: one scalar, lanes side by side, or a gather."""
        pointer = self.at(node.operands[0], index)
        mask, other = self.mask_and_other(node, index)
        if isinstance(mask, Value) and mask.constant is not None and not mask.constant:
            return other
        el = elem.held(node.result.element)
        floor = self.floor if self.is_assumable(node.operands[1] if len(node.operands) > 1 else None) else self.base
        if mask is not None and mask.constant is not None:
            mask = None
        return self.fetch(pointer, el, mask, other, floor, is_volatile(node))

    def mask_and_other(self, node: Node, index: Index) -> tuple[Value | None, Value]:
        el = elem.held(node.result.element)
        operands = node.operands[1:]
        mask = self.plain(self.at(operands[0], index)) if operands else None
        other = self.at(operands[1], index) if len(operands) > 1 else self.b.const(0, el)
        return mask, self.plain(other) if not isinstance(other, Pointer) else self.address(other)

    def plain(self, v: Any) -> Value:
        return self.vector(v) if isinstance(v, Affine) else v

    def fetch(
        self, pointer: Pointer, el: str, mask: Value | None, other: Value, floor: int, volatile: bool = False
    ) -> Value:
        """What lies at a pointer. `volatile` ones are taken one by one."""
        b = self.b
        uniform = isinstance(pointer.offset, Value) and pointer.offset.lanes is None
        if uniform and (mask is None or mask.lanes is None) and other.lanes is None:
            spot = self.spot(pointer, el)
            if mask is None:
                return b.load(spot, el, None, max(spot.depth, floor), volatile)
            depth = max(spot.depth, mask.depth, other.depth, floor)
            with b.hoisted(depth):
                return b.branch(mask, lambda: [b.load(spot, el, volatile=volatile)], lambda: [other])[0]
        assert not volatile, "one by one"
        lanes = self.lanes
        if isinstance(pointer.offset, Affine) and pointer.offset.stride == 1 and pointer.base is not None:
            spot = self.spot(pointer, el)
            if mask is None:
                return b.load(spot, el, lanes, max(spot.depth, floor))
            if mask.lanes is None:
                filled = self.vector(other)
                depth = max(spot.depth, mask.depth, filled.depth, floor)
                with b.hoisted(depth):
                    return b.branch(mask, lambda: [b.load(spot, el, lanes)], lambda: [filled])[0]
            return b.masked_load(spot, mask, self.vector(other))
        if uniform and mask is not None:  # one address, but not for all lanes
            pointer = Pointer(pointer.base, self.vector(pointer.offset), pointer.pointee)
        spots = self.spot(pointer, el)
        mask = b.const(1, "i1", lanes) if mask is None else self.vector(mask)
        filled = self.vector(other)
        return b.gather(spots if spots.lanes else self.vector(spots), mask, filled)

    def spot(self, pointer: Pointer, el: str) -> Value:
        """The address of an access: of its first lane if the lanes lie side by side, else of each."""
        b, offset = self.b, pointer.offset
        if pointer.base is None:
            return b.pointer(self.plain(offset))
        if isinstance(offset, Affine) and offset.stride == 1:
            first = self.wide(offset)
            assert isinstance(first, Affine), first
            return b.gep(pointer.base, first.base, el)
        return b.gep(pointer.base, self.plain(self.wide(offset)), el)

    def put(self, pointer: Pointer, value: Value, mask: Value | None, past: Value | None = None) -> None:
        """Stores at a pointer: a scalar, lanes side by side, or a scatter. `past`: whether to go past the caches."""
        b = self.b
        if mask is not None and mask.constant is not None:
            if not mask.constant:
                return
            mask = None
        uniform = isinstance(pointer.offset, Value) and pointer.offset.lanes is None
        if uniform and value.lanes is None and (mask is None or mask.lanes is None):
            self._guarded(mask, lambda: b.store(value, self.spot(pointer, value.el)))
            return
        if isinstance(pointer.offset, Affine) and pointer.offset.stride == 1 and pointer.base is not None:
            filled, spot = self.vector(value), self.spot(pointer, value.el)
            if mask is None and past is not None and filled.lanes and filled.lanes * bytes_of(filled.el) % 32 == 0:
                aligned = b.cmpi("eq", b.and_(b.address(spot), b.const(31, "i64")), b.const(0, "i64"))
                b.branch(b.and_(past, aligned), lambda: b.store(filled, spot, past=True), lambda: b.store(filled, spot))
            elif mask is None or mask.lanes is None:
                self._guarded(mask, lambda: b.store(filled, spot))
            else:
                b.masked_store(filled, spot, mask)
            return
        spots = self.spot(pointer, value.el)
        if spots.lanes is None:
            spots = self.b.pointer(self.b.splat(self.b.address(spots), self.lanes))
        b.scatter(self.vector(value), spots, b.const(1, "i1", self.lanes) if mask is None else self.vector(mask))

    def _guarded(self, mask: Value | None, act: Callable[[], None]) -> None:
        if mask is None:
            act()
        else:
            self.b.branch(mask, act)

    def read(self, buffer: Buffer, index: Index) -> Any:
        pointer = self.in_buffer(buffer, index)
        value = self.fetch(pointer, buffer.el, None, self.b.const(0, buffer.el), self.base)
        return Pointer(None, value, buffer.of_pointers) if buffer.of_pointers else value

    def write(self, buffer: Buffer, index: Index, value: Any) -> None:
        if isinstance(value, Pointer):
            value = self.address(value)
        self.put(self.in_buffer(buffer, index), self.plain(value), None)

    def in_buffer(self, buffer: Buffer, index: Index) -> Pointer:
        """Where an element lies."""
        if buffer.place is not None:
            index = buffer.place(self.b, index)
        offset: Any = self.b.const(0, "i64")
        for lane, stride, n in zip(index, buffer.strides, buffer.shape, strict=True):
            if n > 1:
                offset = self.add(offset, self.scaled(self.wide(lane), stride))
        return Pointer(buffer.start, offset, buffer.element)

    # -- assumptions

    def pattern(self, index: Index) -> tuple:
        return tuple("lane" if isinstance(i, Affine) else i.name for i in index)

    def is_assumable(self, val: Val | None) -> bool:
        """Does evaluating the value meet a comparison whose outcome a loop may know?"""
        if val is None or not self._leaves:
            return False
        known = self._assumable.get(val)
        if known is None:
            node = val.node
            known = node is not None and val not in self.em.stored and (
                node in self._leaves or (self.em.facts.is_virtual(node) and any(map(self.is_assumable, node.operands)))
            )
            self._assumable[val] = known
        return known


def depth_of(v: Any) -> int:
    if isinstance(v, Value):
        return v.depth
    if isinstance(v, Affine):
        return v.base.depth
    return max(v.base.depth if v.base is not None else 0, depth_of(v.offset))
