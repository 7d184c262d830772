"""Operations that move elements."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .casts import Casts
from .facts import LARGEST, Value, either, typed


class Views(Casts):
    """Views."""

    def view(self) -> None:
        rng, x = self.rng, self.something(lambda v: v.shape is not None)
        shape, kind = x.extent, self.rng.random()
        if kind < 0.3 and len(shape) > 1:
            order = list(range(len(shape)))
            rng.shuffle(order)
            result = tuple(shape[d] for d in order)
            text = f"tt.trans {self.use(x)} {{order = array<i32: {', '.join(map(str, order))}>}}"
            self.op(f"{text} : {x.type} -> {typed(x.element, result)}", x.element, result, x.facts)
        elif kind < 0.55:
            self.reshape(x, self._reshaped(int(np.prod(shape))))
        elif kind < 0.7 and len(shape) > 1 and x.extent[-1] == 2:
            self._split(x)
        elif kind < 0.85 and 2 * np.prod(shape) <= LARGEST:
            y = self.like(x)
            result = (*shape, 2)
            text = f"tt.join {self.use(x, y)} : {x.type} -> {typed(x.element, result)}"
            made = self.op(text, x.element, result, either(x.facts, y.facts))
            if rng.random() < 0.5:
                self.reshape(made, (*shape[:-1], 2 * x.extent[-1]))
            elif rng.random() < 0.5:
                self._split(made)
        elif kind < 0.9:
            axis = rng.randrange(len(shape) + 1)
            result = (*shape[:axis], 1, *shape[axis:])
            text = f"tt.expand_dims {self.use(x)} {{axis = {axis} : i32}} : {x.type} -> {typed(x.element, result)}"
            self.op(text, x.element, result, x.facts)
        elif 1 in shape:
            result = tuple(rng.choice([1, 2, 8, 16]) if n == 1 and rng.random() < 0.7 else n for n in shape)
            if np.prod(result) <= LARGEST:
                self.broadcast(x, result)
        elif np.prod(shape) == 1:
            self.op(f"tt.unsplat {self.use(x)} : {x.type}", x.element, None, x.facts)

    def _split(self, x: Value) -> None:
        a, b = self.name(), self.name()
        part = x.extent[:-1]
        self.line(f"{a}, {b} = tt.split {self.use(x)} : {x.type} -> {typed(x.element, part)}")
        self.value(a, x.element, part, replace(x.facts, distinct=False))
        self.value(b, x.element, part, replace(x.facts, distinct=False))

    def reshape(self, x: Value, shape: tuple[int, ...]) -> Value:
        text = f"tt.reshape {self.use(x)} : {x.type} -> {typed(x.element, shape)}"
        return self.op(text, x.element, shape, x.facts)

    def _reshaped(self, count: int) -> tuple[int, ...]:
        same = [s for s in self.shapes if np.prod(s) == count]
        if same and self.rng.random() < 0.4:
            return self.rng.choice(same)
        parts: list[int] = []
        rank = self.rng.randint(1, 3)
        while len(parts) < rank - 1:
            n = 1 << self.rng.randint(0, count.bit_length() - 1)
            parts.append(n)
            count //= n
        parts.append(count)
        self.rng.shuffle(parts)
        return tuple(parts)
