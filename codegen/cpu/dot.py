"""tt.dot: a @ b + c by register tiles.

`a` lies in rows, `b` in panels of NR columns, `[N / NR][K][NR]`, so that a step along K reads one number of each of MR
rows and NR neighbours of a panel. MR x NR accumulators stay in registers for the whole of K:

    for each panel of NR columns
        for each block of MR rows
            acc = 0
            for k in 0 .. K:  acc[r] += a[r, k] * panel[k]      MR broadcasts, NR / lanes loads, MR * NR / lanes fmas
            c[block, panel] += acc

Half precision operands become f32 when they are laid out so. A `c` of half precision becomes f32 as well, and the sums
are rounded once, at the end. Integers are laid out as i16, and panels as `[N / NR][K / 2][NR][2]`: one instruction
multiplies two neighbours along K by two others, and adds the products as i32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
    kind, columns = node.result.element, b.shape[-1]
    panel = min(columns, em.machine.lanes * (2 if kind != "f64" else 1))
    numbers = _numbers(kind, a.shape[-1], panel)
    left = _in_rows(em, a, numbers.factors)
    right = _in_pairs(em, b, panel) if numbers.pairs else _in_panels(em, b, numbers.factors, panel)
    result = em.overwritable(c, node) or em.allocate(c.shape, c.type)
    total = result if kind == numbers.sums else em.allocate(c.shape, Type(numbers.sums, c.type.shape))
    starts_at_zero = _is_zero(c)
    if not starts_at_zero and em.stored.get(c) is not total:
        em.add(Pack(em, c, total, numbers.sums))
    em.flush()
    _Product(em, left, right, total, panel, numbers, starts_at_zero).write(a.shape, columns)
    if result is not total:
        em.add(Round(em, total, result))
        em.flush()
    em.stored[node.result] = result


def _is_zero(c: Val) -> bool:
    maker = c.node
    token = maker.op.text.strip() if maker is not None and maker.name == "arith.constant" else ""
    return token in ("dense<0.000000e+00>", "dense<0>")


@dataclass(frozen=True)
class Numbers:
    """What is multiplied, and added up; whether two neighbours along K are multiplied at once."""

    factors: str
    sums: str
    pairs: bool = False


def _numbers(kind: str, depth: int, panel: int) -> Numbers:
    """For a result of this kind. The least registers of an x86 hold four pairs."""
    if kind[0] == "i":
        return Numbers("i16", "i32", True) if depth % 2 == 0 and panel >= 4 else Numbers("i32", "i32")
    return Numbers(kind, kind) if kind == "f64" else Numbers("f32", "f32")


def _in_rows(em: Emitter, val: Val, el: str) -> Buffer:
    """An operand as such numbers, in rows."""
    em.flush()  # what waits may be about to keep it
    stored = em.stored.get(val)
    if isinstance(stored, Buffer) and stored.el == el and stored.place is None and (
        stored.strides[-1] == 1 or stored.shape[-1] == 1
    ):  # fmt: skip
        return stored
    return _pack(em, val, em.allocate(val.shape, Type(el, val.type.shape)), el)


def _in_panels(em: Emitter, val: Val, el: str, panel: int) -> Buffer:
    """An operand as such numbers, in panels of columns."""
    em.flush()
    *batch, rows, columns = val.shape
    shape = (*batch, columns // panel, rows, panel)
    buffer = em.allocate(val.shape, Type(el, val.type.shape))
    return _pack(em, val, replace(buffer, shape=shape, strides=rows_of(shape), place=_into_panels(panel)), el)


def _pack(em: Emitter, val: Val, buffer: Buffer, el: str) -> Buffer:
    if len(val.shape) == 2 and em.facts.unit_dim(val, em.stored) == 0 and min(val.shape[0], buffer.shape[-1]) >= 8:
        _transpose_into(em, val, buffer, el)
    else:
        em.add(Pack(em, val, buffer, el))
        em.flush()
    return buffer


def _in_pairs(em: Emitter, val: Val, panel: int) -> Buffer:
    """An operand as i16, in panels where each number has its neighbour along K beside it."""
    b, source = em.b, _in_rows(em, val, "i16")
    *batch, rows, columns = val.shape
    shape = (*batch, columns // panel, rows // 2, 2 * panel)
    buffer = em.allocate(shape, Type("i16", shape))
    interleaved = [half * panel + lane for lane in range(panel) for half in range(2)]

    def pair(matrix: Value, number: Value, k: Value) -> None:
        row = b.add(b.mul(matrix, b.const(rows, "i64")), b.mul(k, b.const(2, "i64")))
        at = b.add(b.mul(row, b.const(source.strides[-2], "i64")), b.mul(number, b.const(panel, "i64")))
        first, second = (b.load(b.gep(source.start, b.add(at, b.const(step, "i64")), "i16"), "i16", panel)
                         for step in (0, source.strides[-2]))  # fmt: skip
        place = b.add(b.mul(matrix, b.const(columns // panel, "i64")), number)
        place = b.add(b.mul(place, b.const(rows // 2, "i64")), k)
        spot = b.gep(buffer.start, b.mul(place, b.const(2 * panel, "i64")), "i16")
        b.store(b.shuffle(first, second, interleaved), spot)

    times(b, math.prod(batch), lambda matrix: times(b, rows // 2, lambda k: times(
        b, columns // panel, lambda number: pair(matrix, number, k))))  # fmt: skip
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
    if inner[0] == "i":
        return b.resize(value, inner)
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


def times(b: Builder, count: int, body: Callable[[Value], None]) -> None:
    """A loop over 0 .. count."""
    if count == 1:
        body(b.const(0, "i64"))
        return

    def one(i: Value) -> list[Value]:
        body(i)
        return []

    b.loop(b.const(0, "i64"), b.const(count, "i64"), b.const(1, "i64"), [], one)


class _Product:
    """The loops of one product."""

    def __init__(
        self, em: Emitter, left: Buffer, right: Buffer, total: Buffer, panel: int, numbers: Numbers, at_zero: bool
    ) -> None:
        self.b, self.em, self.factor, self.el = em.b, em, numbers.factors, numbers.sums
        self.left, self.right, self.total, self.panel = left, right, total, panel
        self.together = 2 if numbers.pairs else 1  # steps along K
        lanes = em.machine.lanes if self.el != "f64" else max(2, em.machine.lanes // 2)
        self.lanes = min(panel, lanes)
        self.block = ROWS[em.machine.lanes]
        self.starts_at_zero = at_zero

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
            times(self.b, columns // self.panel, self._panel)

        times(self.b, math.prod(batch), one)

    def _at(self, buffer: Buffer, number: Value, step: int) -> Buffer:
        """The matrix of that number in a buffer of several."""
        b = self.b
        return replace(buffer, start=b.gep(buffer.start, b.mul(number, b.const(step, "i64")), buffer.el))

    def _panel(self, number: Value) -> None:
        """All rows of a panel: blocks of MR, then what is left."""
        b = self.b
        start = b.mul(number, b.const(self.depth * self.panel, "i64"))
        panel = b.gep(self.right.start, start, self.factor)
        columns = b.mul(number, b.const(self.panel, "i64"))
        full, rest = divmod(self.rows, self.block)
        if rest == 2 and self.block == 6 and full:  # 6 + 2 takes longer than 4 + 4
            full, tail = full - 1, [4, 4]
        else:
            tail = [n for n in (8, 4, 2, 1) if rest & n]
        if full:
            times(b, full, lambda i: self._tile(b.mul(i, b.const(self.block, "i64")), self.block, panel, columns))
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
        held = [b.const(0, self.el, self.lanes) for _ in places]
        stride = self.left.strides[-2] if self.rows > 1 else 0
        heads = [
            b.gep(self.left.start, b.mul(b.add(row, b.const(r, "i64")), b.const(stride, "i64")), self.factor)
            for r in range(count)
        ]

        def step(k: Value, acc: Sequence[Value]) -> list[Value]:
            base = b.gep(panel, b.mul(k, b.const(self.panel, "i64")), self.factor)
            width = self.lanes * self.together
            parts = [b.load(b.gep(base, b.const(v * width, "i64"), self.factor), self.factor, width)
                     for v in range(vectors)]  # fmt: skip
            result = []
            for r in range(count):
                one = self._everywhere(b.gep(heads[r], k, self.factor))
                for v in range(vectors):
                    result.append(self._multiply_add(one, parts[v], acc[r * vectors + v]))
            return result

        def twice(k: Value, *acc: Value) -> list[Value]:
            return step(b.add(k, b.const(self.together, "i64")), step(k, acc))

        if self.depth % (2 * self.together) == 0:
            body, by = twice, 2 * self.together
        else:
            body, by = lambda k, *acc: step(k, acc), self.together
        results = b.loop(b.const(0, "i64"), b.const(self.depth, "i64"), b.const(by, "i64"), held, body)
        for place, value in zip(places, results, strict=True):
            if not self.starts_at_zero:  # a sum of sums is more exact than one long sum
                value = b.binary("addi" if self.el == "i32" else "addf", b.load(place, self.el, self.lanes), value)
            b.store(value, place)

    def _everywhere(self, place: Value) -> Value:
        """A number, or a pair of them, in all lanes."""
        b = self.b
        if self.together == 1:
            return b.splat(b.load(place, self.factor), self.lanes)
        return b.reinterpret(b.splat(b.load(place, self.el), self.lanes), self.factor)

    def _multiply_add(self, x: Value, y: Value, z: Value) -> Value:
        if self.together == 2:
            return self.b.add(z, self.b.multiply_pairs(x, y))
        if self.el == "i32":
            return self.b.add(self.b.mul(x, y), z)
        return self.b.fma(x, y, z)


