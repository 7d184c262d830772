"""tt.dot: a @ b + c by register tiles.

`a` lies in rows, `b` in panels of NR columns, `[N / NR][K][NR]`, so that a step along K reads one number of each of MR
rows and NR neighbours of a panel. MR x NR accumulators stay in registers for the whole of K:

    for each panel of NR columns
        for each block of MR rows
            acc = c[block, panel]
            for k in 0 .. K:  acc[r] += a[r, k] * panel[k]      MR broadcasts, NR / lanes loads, MR * NR / lanes fmas
            c[block, panel] = acc

Half precision operands become f32 when they are laid out so; integers are multiplied as i32. A `c` of half precision
becomes f32 as well, and the sums are rounded once, at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..ttir import Type
from . import casts
from .build import Builder, Value
from .errors import CannotCompile
from .program import Node, Val
from .sinks import Save, Sink
from .values import Affine, Buffer, Evaluator, Index, rows_of

if TYPE_CHECKING:
    from .emit import Emitter

ROWS = {4: 4, 8: 6, 16: 12}  # MR by the f32 lanes of a register: what 16 (AVX-512: 32) registers hold
_INPUTS = ("f32", "f16", "bf16", "f64", "i8", "f8E4M3FN", "f8E5M2", "f8E4M3FNUZ", "f8E5M2FNUZ")


def write(em: Emitter, node: Node) -> None:
    """A tt.dot."""
    em.done.add(node)
    product(em, node, *node.operands)


def product(em: Emitter, node: Node, a: Val, b: Val, c: Val) -> None:
    """The result of a node as a @ b + c, in the memory of `c` where nothing else needs that."""
    if a.element not in _INPUTS or b.element not in _INPUTS:
        raise CannotCompile(f"of {a.element}; the CPU target multiplies {', '.join(_INPUTS)}", node.op)
    kind = node.result.element
    inner = "i32" if kind[0] == "i" else "f64" if kind == "f64" else "f32"
    columns = b.shape[-1]
    panel = min(columns, em.machine.lanes * (2 if inner != "f64" else 1))
    left = _laid_out(em, a, inner, None)
    right = _laid_out(em, b, inner, panel)
    result = em.overwritable(c, node) or em.allocate(c.shape, c.type)
    total = result if kind == inner else em.allocate(c.shape, Type(inner, c.type.shape))
    starts_at_zero = _is_zero(c)
    if not starts_at_zero and em.stored.get(c) is not total:
        em.add(Pack(em, c, total, inner))
    em.flush()
    _Product(em, left, right, total, panel, inner, starts_at_zero).write(a.shape, columns)
    if result is not total:
        em.add(Round(em, total, result))
        em.flush()
    em.stored[node.result] = result


def _is_zero(c: Val) -> bool:
    maker = c.node
    token = maker.op.text.strip() if maker is not None and maker.name == "arith.constant" else ""
    return token in ("dense<0.000000e+00>", "dense<0>")


def _laid_out(em: Emitter, val: Val, inner: str, panel: int | None) -> Buffer:
    """An operand as `inner` numbers, in rows or in panels of columns."""
    em.flush()  # what waits may be about to keep it
    stored = em.stored.get(val)
    if panel is None and isinstance(stored, Buffer) and stored.el == inner and stored.place is None and (
        stored.strides[-1] == 1 or stored.shape[-1] == 1
    ):  # fmt: skip
        return stored
    buffer = em.allocate(val.shape, Type(inner, val.type.shape))
    if panel is None:
        em.add(Pack(em, val, buffer, inner))
        em.flush()
        return buffer
    *batch, rows, columns = val.shape
    shape = (*batch, columns // panel, rows, panel)
    buffer = replace(buffer, shape=shape, strides=rows_of(shape), place=_into_panels(panel))
    if em.facts.unit_dim(val, em.stored) == 0 and rows >= 8 and panel >= 8 and not batch:
        _transpose_into(em, val, buffer, inner)
    else:
        em.add(Pack(em, val, buffer, inner))
        em.flush()
    return buffer


def _transpose_into(em: Emitter, val: Val, buffer: Buffer, inner: str) -> None:
    """Packs what lies in columns: squares of 8 x 8 are read along the rows of `b`, turned in registers, and stored."""
    b, (rows, columns) = em.b, val.shape
    walk = Evaluator(em, 8)

    def square(k: Value, n: Value) -> None:
        lines = []
        for j in range(8):
            v = walk.vector(walk.at(val, (Affine(k, 1), b.add(n, b.const(j, "i32")))))
            lines.append(_number(b, v, val.element, inner))
        for i, line in enumerate(transposed(b, lines)):
            place = walk.in_buffer(buffer, (b.add(k, b.const(i, "i32")), Affine(n, 1)))
            walk.put(place, line, None)

    def along_k(n: Value) -> list[Value]:
        b.loop(b.const(0, "i32"), b.const(rows, "i32"), b.const(8, "i32"), [], lambda k: square(k, n))
        return []

    b.loop(b.const(0, "i32"), b.const(columns, "i32"), b.const(8, "i32"), [], along_k)


def transposed(b: Builder, lines: Sequence[Value]) -> list[Value]:
    """The columns of a square of vectors, by log2(n) rounds of exchanges between lines that lie 1, 2, 4 ... apart."""
    lines, n, apart = list(lines), len(lines), 1
    while apart < n:
        done: list[Value] = list(lines)
        for i in range(n):
            if i & apart:
                continue
            x, y = lines[i], lines[i | apart]
            # lane l of the first: of x where l lacks the bit, else of y, `apart` lanes before
            first = [lane if not lane & apart else n + lane - apart for lane in range(n)]
            second = [lane + apart if not lane & apart else n + lane for lane in range(n)]
            done[i], done[i | apart] = b.shuffle(x, y, first), b.shuffle(x, y, second)
        lines, apart = done, 2 * apart
    return lines


def _number(b: Builder, value: Value, element: str, inner: str) -> Value:
    """An operand's element as a number to multiply."""
    if element == inner:
        return value
    if inner == "i32":
        return b.resize(value, "i32")
    wide = casts.widen(b, value, element) if element != "f32" else value
    return b.cast("extf", wide, "f64") if inner == "f64" else wide


def _into_panels(panel: int) -> Callable[[Builder, Index], Index]:
    """(..., k, n) -> (..., n // panel, k, n % panel), where a vector along n never crosses a panel."""
    shift = panel.bit_length() - 1

    def place(b: Builder, index: Index) -> Index:
        *batch, k, n = index
        if isinstance(n, Affine):
            assert n.stride == 1, "a vector along the columns"
            number = b.shru(n.base, shift)
            return *batch, number, k, Affine(b.and_(n.base, b.const(panel - 1, n.base.el)), 1)
        number = b.shru(n, shift)
        return *batch, number, k, b.and_(n, b.const(panel - 1, n.el))

    return place


class Pack(Save):
    """An operand of a dot, converted and laid out."""

    def __init__(self, emitter: Emitter, val: Val, buffer: Buffer, inner: str) -> None:
        super().__init__(emitter, val, buffer)
        self.inner = inner
        if buffer.place is not None:
            self.most_lanes = buffer.shape[-1]

    def step(self, index: Index, carried: Sequence[Value]) -> Sequence[Value]:
        value = self.nest.plain(self.nest.at(self.val, index))
        self.nest.write(self.buffer, index, _number(self.b, value, self.val.element, self.inner))
        return ()


class Round(Sink):
    """Sums in the type of the result, rounded once."""

    def __init__(self, emitter: Emitter, total: Buffer, result: Buffer) -> None:
        super().__init__(emitter, total.shape)
        self.total, self.result = total, result

    def step(self, index: Index, carried: Sequence[Value]) -> Sequence[Value]:
        value = self.nest.read(self.total, index)
        self.nest.write(self.result, index, casts.narrow(self.b, value, self.result.element))
        return ()


class _Product:
    """The loops of one product."""

    def __init__(
        self, em: Emitter, left: Buffer, right: Buffer, total: Buffer, panel: int, inner: str, starts_at_zero: bool
    ) -> None:
        self.b, self.em, self.el = em.b, em, inner
        self.left, self.right, self.total, self.panel = left, right, total, panel
        lanes = em.machine.lanes if inner != "f64" else max(2, em.machine.lanes // 2)
        self.lanes = min(panel, lanes)
        self.block = ROWS[em.machine.lanes]
        self.starts_at_zero = starts_at_zero

    def write(self, shape: Sequence[int], columns: int) -> None:
        """The products of matrices of this shape, one after another, with as many of so many columns."""
        *batch, self.rows, self.depth = shape
        strides = [buffer.strides[:-2] for buffer in (self.left, self.total)]
        whole = self.left, self.right, self.total

        def one(number: Value) -> None:
            if batch:
                steps = (strides[0][-1], self.depth * columns, strides[1][-1])
                self.left, self.right, self.total = (
                    self._at(buffer, number, step) for buffer, step in zip(whole, steps, strict=True)
                )
            self._for(columns // self.panel, self._panel)

        self._for(math.prod(batch), one)

    def _at(self, buffer: Buffer, number: Value, step: int) -> Buffer:
        """The matrix of that number in a buffer of several."""
        b = self.b
        return replace(buffer, start=b.gep(buffer.start, b.mul(number, b.const(step, "i64")), self.el))

    def _for(self, count: int, body: Callable[[Value], None]) -> None:
        b = self.b
        if count == 1:
            body(b.const(0, "i64"))
            return

        def one(i: Value) -> list[Value]:
            body(i)
            return []

        b.loop(b.const(0, "i64"), b.const(count, "i64"), b.const(1, "i64"), [], one)

    def _panel(self, number: Value) -> None:
        """All rows of a panel: blocks of MR, then what is left."""
        b = self.b
        start = b.mul(number, b.const(self.depth * self.panel, "i64"))
        panel = b.gep(self.right.start, start, self.el)
        columns = b.mul(number, b.const(self.panel, "i64"))
        full, rest = divmod(self.rows, self.block)
        if rest == 2 and self.block == 6 and full:  # 6 + 2 takes longer than 4 + 4
            full, tail = full - 1, [4, 4]
        else:
            tail = [n for n in (8, 4, 2, 1) if rest & n]
        if full:
            self._for(full, lambda i: self._tile(b.mul(i, b.const(self.block, "i64")), self.block, panel, columns))
        row = full * self.block
        for count in tail:
            self._tile(b.const(row, "i64"), count, panel, columns)
            row += count

    def _tile(self, row: Value, count: int, panel: Value, columns: Value) -> None:
        b, vectors = self.b, self.panel // self.lanes
        places = []
        for r in range(count):
            at = b.mul(b.add(row, b.const(r, "i64")), b.const(self.total.strides[-2], "i64"))
            at = b.add(at, columns)
            for v in range(vectors):
                places.append(b.gep(self.total.start, b.add(at, b.const(v * self.lanes, "i64")), self.el))
        if self.starts_at_zero:
            held = [b.const(0, self.el, self.lanes) for _ in places]
        else:
            held = [b.load(place, self.el, self.lanes) for place in places]
        stride = self.left.strides[-2] if self.rows > 1 else 0
        heads = [
            b.gep(self.left.start, b.mul(b.add(row, b.const(r, "i64")), b.const(stride, "i64")), self.el)
            for r in range(count)
        ]

        def step(k: Value, acc: Sequence[Value]) -> list[Value]:
            base = b.gep(panel, b.mul(k, b.const(self.panel, "i64")), self.el)
            parts = [b.load(b.gep(base, b.const(v * self.lanes, "i64"), self.el), self.el, self.lanes)
                     for v in range(vectors)]  # fmt: skip
            result = []
            for r in range(count):
                one = b.splat(b.load(b.gep(heads[r], k, self.el), self.el), self.lanes)
                for v in range(vectors):
                    result.append(self._multiply_add(one, parts[v], acc[r * vectors + v]))
            return result

        def twice(k: Value, *acc: Value) -> list[Value]:
            return step(b.add(k, b.const(1, "i64")), step(k, acc))

        if self.depth % 2 == 0:
            body, by = twice, 2
        else:
            body, by = lambda k, *acc: step(k, acc), 1
        results = b.loop(b.const(0, "i64"), b.const(self.depth, "i64"), b.const(by, "i64"), held, body)
        for place, value in zip(places, results, strict=True):
            b.store(value, place)

    def _multiply_add(self, x: Value, y: Value, z: Value) -> Value:
        if self.el == "i32":
            return self.b.add(self.b.mul(x, y), z)
        return self.b.fma(x, y, z)


