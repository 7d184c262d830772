"""Pointers, loads, stores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .cases import BEFORE, SPAN, Argument
from .facts import Facts, Value, any_of, either, typed
from .masks import Masks
from .writer import Impossible


class Memory(Masks):
    """Accesses to the arguments."""

    def pointer(self, argument: int) -> Value:
        return self.pointers[argument]

    def offset(self, high: int) -> Value:
        """A scalar from 0 on, of i32 or i64."""
        return self.scalar_between(0, high, self.rng.choice(["i32", "i32", "i64"]))

    def tile(self, argument: int, shape: tuple[int, ...] | None, distinct: bool) -> Value:
        """Pointers to elements of an argument: ones that are there, or new ones."""
        element = f"*{self.arguments[argument].element}"
        found = self.visible(lambda v: v.element == element and v.shape == shape and v.facts.argument == argument
                             and (v.facts.distinct or not distinct) and self._stays_inside(v.facts, 0))  # fmt: skip
        if shape is None:
            if found and self.rng.random() < 0.3:
                return self.pick(found)
            return self.moved(self.pointer(argument), self.offset(255))
        if found and self.rng.random() < 0.5:
            return self.pick(found)
        if not distinct and self.rng.random() < 0.25:
            return self.gathered(argument, shape)
        return self.strided(argument, shape)

    @staticmethod
    def _stays_inside(facts: Facts, by: int) -> bool:
        return facts.low + min(by, 0) >= -BEFORE and facts.high + max(by, 0) < SPAN - BEFORE - 300

    def moved(self, pointer: Value, by: Value) -> Value:
        low, high = pointer.facts.low + by.facts.low, pointer.facts.high + by.facts.high
        facts = Facts(low, high, argument=pointer.facts.argument, distinct=pointer.facts.distinct and by.shape is None)
        return self.op(
            f"tt.addptr {self.use(pointer, by)} : {pointer.type}, {by.type}", pointer.element, pointer.shape, facts
        )

    def gathered(self, argument: int, shape: tuple[int, ...]) -> Value:
        index = self.tensor(self.rng.choice(["i32", "i64"]), shape)
        if index.facts.low < -BEFORE or index.facts.high >= SPAN - BEFORE - 300:
            index = self.binary("andi", index, self.constant(index.element, shape, self.rng.choice([3, 63, 255, 1023])))
        if index.facts.low < -BEFORE or index.facts.high >= SPAN - BEFORE - 300:
            raise Impossible
        made = self.moved(self.splat(self.pointer(argument), shape), index)
        return made

    def strided(self, argument: int, shape: tuple[int, ...]) -> Value:
        """Addresses that grow by a step along each dimension, no two the same."""
        rng = self.rng
        steps, total = [0] * len(shape), 1
        order = list(range(len(shape)))[::-1]
        if rng.random() < 0.3:
            rng.shuffle(order)
        for d in order:
            if rng.random() < 0.15 and total * 2 * shape[d] <= 2048:
                total *= rng.choice([2, 3]) if total * 3 * shape[d] <= 2048 else 2
            steps[d] = total
            total = total * shape[d] + (rng.choice([0, 0, 0, 1, 5]) if total * shape[d] < 1500 else 0)
        parts = [self.along(shape[d], steps[d]) for d in range(len(shape))]
        base = self.pointer(argument)
        if rng.random() < 0.5:
            base = self.moved(base, self.offset(63))
        if rng.random() < 0.5:
            pointer = self._by_pointers(base, parts, shape)
        else:
            pointer = self._by_offsets(base, parts, shape)
        pointer.facts = replace(pointer.facts, distinct=True)
        if not self._stays_inside(pointer.facts, 0):
            raise Impossible
        return pointer

    def along(self, extent: int, step: int) -> Value:
        """extent numbers of which no two are the same, `step` apart or a multiple of that."""
        rng = self.rng
        index, roll = self.range(extent), rng.random()
        if roll < 0.1:
            index = self.binary("subi", self.constant("i32", (extent,), extent - 1), index)
        elif roll < 0.15 and extent > 1:
            index = self.binary("xori", index, self.constant("i32", (extent,), rng.randrange(extent)))
        elif roll < 0.2 and extent > 1:
            index = self.binary("muli", index, self.constant("i32", (extent,), 0x9E3779B1 - (1 << 32)))
            index = self.binary("andi", index, self.constant("i32", (extent,), extent - 1))
        elif roll < 0.23 and extent > 1:  # past the greatest number and back
            start = self.constant("i32", (extent,), (1 << 31) - rng.randint(1, extent))
            index = self.binary("andi", self.binary("addi", index, start), self.constant("i32", (extent,), extent - 1))
        elif roll < 0.27:
            index = self.binary("muli", index, self.constant("i32", (extent,), -1))
        elif roll < 0.35:
            index = self.binary("addi", index, self.splat(self.scalar_between(0, 63), (extent,)))
        if rng.random() < 0.3:
            wide = self.op(f"arith.extsi {self.use(index)} : {index.type} to {typed('i64', index.shape)}", "i64",
                           index.shape, index.facts)  # fmt: skip
            index = wide
        if step == 1 and rng.random() < 0.8:
            return index
        by = self.constant(index.element, None, step)
        if rng.random() < 0.3:
            return self.binary("muli", index, self.splat(by, index.shape))
        return self.binary("muli", index, self.constant(index.element, index.shape, step))

    def _by_pointers(self, base: Value, parts: list[Value], shape: tuple[int, ...]) -> Value:
        order = list(range(len(shape)))
        self.rng.shuffle(order)
        pointer = None
        for d in order:
            spread = self.spread(parts[d], shape, d)
            pointer = self.moved(self.splat(base, shape) if pointer is None else pointer, spread)
        assert pointer is not None
        return pointer

    def _by_offsets(self, base: Value, parts: list[Value], shape: tuple[int, ...]) -> Value:
        element = self.rng.choice([p.element for p in parts])
        total = None
        for d in range(len(shape)):
            part = parts[d]
            if part.element != element:
                name = "arith.extsi" if element == "i64" else "arith.trunci"
                part = self.op(f"{name} {self.use(part)} : {part.type} to {typed(element, part.shape)}", element,
                               part.shape, part.facts)  # fmt: skip
            spread = self.spread(part, shape, d)
            total = spread if total is None else self.binary("addi", total, spread)
        assert total is not None
        return self.moved(self.splat(base, shape), total)

    def load(self, pointer: Value) -> Value:
        argument = self.arguments[pointer.facts.argument]
        element, facts = argument.element, self._loaded(argument)
        if self.rng.random() < 0.45:
            return self.op(f"tt.load {self.use(pointer)} : {pointer.type}", element, pointer.shape, facts)
        mask = self.mask(pointer.shape)
        if self.rng.random() < 0.1 and element in ("i32", "f32"):  # what the other lanes are is nobody's affair
            made = self.op(f"tt.load {self.use(pointer, mask)} : {pointer.type}", element, pointer.shape, facts)
            self.scopes[-1].remove(made)
            other = self.constant(element, pointer.shape)
            kinds = made.type if mask.shape is None else f"{mask.type}, {made.type}"
            return self.op(f"arith.select {self.use(mask, made, other)} : {kinds}", element, pointer.shape,
                           either(facts, other.facts))  # fmt: skip
        if self.rng.random() < 0.6:
            other = self.constant(element, pointer.shape)
        else:
            other = self.like(Value("", element, pointer.shape, facts))
        text = f"tt.load {self.use(pointer, mask, other)} : {pointer.type}"
        return self.op(text, element, pointer.shape, either(facts, other.facts))

    @staticmethod
    def _loaded(argument: Argument) -> Facts:
        """What is known of an argument's elements."""
        if argument.kind == "small":
            return Facts(0, 63) if argument.element[0] == "i" else Facts(bound=4)
        return any_of(argument.element)

    def load_some(self) -> None:
        argument = self.rng.choice([i for i, a in enumerate(self.arguments) if a.kind in ("state", "small")])
        self.load(self.tile(argument, self.shape() if self.rng.random() < 0.9 else None, distinct=False))

    def store(self, pointer: Value, value: Value, masked: float = 0.5) -> None:
        argument = self.arguments[pointer.facts.argument]
        argument.error = max(argument.error, value.facts.error)
        operands = [pointer, value]
        if self.rng.random() < masked:
            operands.append(self.mask(pointer.shape))
        self.line(f"tt.store {self.use(*operands)} : {pointer.type}")

    def states(self, element: str) -> list[int]:
        return [i for i, a in enumerate(self.arguments) if a.element == element and a.kind == "state"]

    def store_some(self) -> None:
        x = self.something(lambda v: v.facts.exact and bool(self.states(v.element)))
        self.store(self.tile(self.rng.choice(self.states(x.element)), x.shape, distinct=True), x)

    def keep(self, value: Value) -> None:
        """Stores a value where nothing else goes."""
        if value.element == "i1":
            value = self.op(
                f"arith.extui {self.use(value)} : {value.type} to {typed('i8', value.shape)}", "i8", value.shape
            )
        count = int(np.prod(value.extent))
        found = [i for i, a in enumerate(self.arguments)
                 if a.kind == "out" and a.element == value.element and a.filled + count <= SPAN - BEFORE]  # fmt: skip
        if not found:
            return
        argument = self.arguments[found[0]]
        start = self.constant("i32", None, argument.filled)
        argument.filled += count
        pointer = self.moved(self.pointer(found[0]), start)
        if value.shape is not None:
            order = [int(np.prod(value.shape[d + 1 :])) for d in range(len(value.shape))]
            pointer = self.splat(pointer, value.shape)
            for d, step in enumerate(order):
                index = self.range(value.shape[d])
                if step > 1:
                    index = self.binary("muli", index, self.constant("i32", index.shape, step))
                pointer = self.moved(pointer, self.spread(index, value.shape, d))
        self.store(pointer, value, masked=0.1)
