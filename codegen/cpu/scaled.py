"""tt.dot_scaled: operands in few bits, whose groups of 16 or 32 neighbours along K share a scale (OCP MX).

Each operand becomes f32 numbers, scales and all, and is multiplied as those of any dot. A scale is e8m0, 2 ** (s - 127)
where 255 is NaN, or an f8.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..ttir import Type
from . import casts, dot
from .build import Builder, Value
from .program import Node, Val
from .sinks import Sink
from .values import Buffer, Index, Lane

if TYPE_CHECKING:
    from .emit import Emitter


class Unpack(Sink):
    """An operand as numbers in rows. `k` is its dimension along K, `packed` the one that has two e2m1 in a byte."""

    def __init__(self, em: Emitter, val: Val, scale: Buffer | None, k: int, packed: int | None) -> None:
        super().__init__(em, val.shape)
        self.val, self.scale, self.k, self.packed = val, scale, k, packed
        self.extents = tuple(2 * n if d == packed else n for d, n in enumerate(val.shape))
        self.buffer = em.allocate(self.extents, Type("f32", self.extents))

    def inputs(self) -> Sequence[Val]:
        return (self.val,)

    def prefers(self) -> int | None:
        return self.em.facts.unit_dim(self.val, self.em.stored)

    def step(self, index: Index, carried: Sequence[Value]) -> Sequence[Value]:
        b, held = self.b, self.nest.plain(self.nest.at(self.val, index))
        if self.packed is None:
            self._put(index, casts.widen(b, held, self.val.element))
            return ()
        for half in range(2):
            place = self.nest.add(self.nest.scaled(index[self.packed], 2), b.const(half, "i32"))
            number = e2m1(b, b.shru(held, 4) if half else held)
            self._put((*index[: self.packed], place, *index[self.packed + 1 :]), number)
        return ()

    def _put(self, index: Index, number: Value) -> None:
        if self.scale is not None:
            number = self.b.mulf(*self._as_wide(number, self._scale_at(self.scale, index)))
        self.nest.write(self.buffer, index, number)

    def _scale_at(self, scale: Buffer, index: Index) -> Value:
        """Scales have a row for each of the operand's rows, or columns, and a column for each group along K."""
        b, group = self.b, self.extents[self.k] // scale.shape[-1]
        shift = group.bit_length() - 1
        along: Lane = index[self.k]
        along = b.shru(self.nest.plain(along), shift) if shift else along
        other = index[2 * len(index) - 3 - self.k]  # the other one of the last two
        value = self.nest.read(scale, (*index[:-2], other, along))
        return e8m0(b, value) if scale.element == "i8" else casts.widen(b, value, scale.element)

    def _as_wide(self, *values: Value) -> list[Value]:
        wide = any(v.lanes is not None for v in values)
        return [self.nest.vector(v) for v in values] if wide else list(values)


def e2m1(b: Builder, x: Value) -> Value:
    """The low four bits as an f32: a sign, two bits of exponent, one of mantissa, which an f16 has room for."""
    wide = b.cast("extui", x, "i16")
    sign = b.shl(b.and_(wide, b.const(8, "i16", x.lanes)), 12)
    magnitude = b.shl(b.and_(wide, b.const(7, "i16", x.lanes)), 9)
    number = b.cast("extf", b.bitcast(b.or_(sign, magnitude), "f16"), "f32")
    return b.mulf(number, b.const(2.0**14, "f32", x.lanes))


def e8m0(b: Builder, x: Value) -> Value:
    """2 ** (x - 127) as an f32."""
    lanes = x.lanes
    number = b.bitcast(b.shl(b.cast("extui", x, "i32"), 23), "f32")
    least = b.cmpi("eq", x, b.const(0, "i8", lanes))  # not a normal number
    number = b.select(least, b.const(2.0**-127, "f32", lanes), number)
    return b.select(b.cmpi("eq", x, b.const(-1, "i8", lanes)), b.const(np.nan, "f32", lanes), number)


_OPERANDS = re.compile(r"%[\w#]+( scale)? ?(?:%[\w#]+)?, %[\w#]+( scale)?")


def write(em: Emitter, node: Node) -> None:
    text = node.op.text
    found = _OPERANDS.search(text)
    assert found is not None, text
    vals = iter(node.operands)
    a, a_scale = next(vals), next(vals) if found[1] else None
    b, b_scale = next(vals), next(vals) if found[2] else None
    c = next(vals)
    rank = len(a.shape)
    left = _unpacked(em, a, a_scale, rank - 1, _packed(node, "lhs", rank - 1, rank - 2))
    right = _unpacked(em, b, b_scale, rank - 2, _packed(node, "rhs", rank - 2, rank - 1))
    dot.product(em, node, left, right, c)
    em.done.add(node)


def _packed(node: Node, side: str, k: int, other: int) -> int | None:
    """The dimension along which an operand has two numbers in a byte."""
    if re.search(rf"\b{side} = (\w+)", node.op.text)[1] != "e2m1":  # type: ignore[index]
        return None
    return k if node.op.attribute(f"{side}_k_pack", "true") == "true" else other


def _unpacked(em: Emitter, val: Val, scale: Val | None, k: int, packed: int | None) -> Val:
    """The operand as a value in memory."""
    scales = em.dense(scale) if scale is not None else None
    unpack = Unpack(em, val, scales, k, packed)
    em.add(unpack)
    em.flush()
    numbers = Val(Type("f32", unpack.extents), None, 0)
    em.stored[numbers] = unpack.buffer
    return numbers
