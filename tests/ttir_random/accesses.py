"""Loads and stores that depend on each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .cases import Argument
from .facts import FLOATS, Facts, Value, any_of, either, typed
from .reductions import Reductions
from .writer import Impossible


class Accesses(Reductions):
    """Statements that access memory."""

    def in_place(self) -> None:
        """x = f(x) through one pointer, or through two that are a step apart."""
        rng = self.rng
        argument = rng.choice([i for i, a in enumerate(self.arguments) if a.kind == "state"])
        pointer = self.tile(argument, self.shape(), distinct=True)
        source = pointer
        if rng.random() < 0.4 and pointer.facts.high < 2500:
            by = self.constant("i32", None, rng.choice([1, -1, 8, 16]))
            source = self.moved(pointer, self.splat(by, pointer.shape))
        x = self.load(source)
        for _ in range(rng.randint(0, 2)):
            if x.element[0] == "i" and x.element != "i1":
                x = self.binary(rng.choice(["addi", "xori", "muli"]), x, self.like(x))
            elif x.element in FLOATS:
                y = self.like(x, holds=lambda v: v.facts.exact)
                x = self.binary(rng.choice(["addf", "mulf", "subf"]), x, y)
        if x.facts.exact:
            self.store(pointer, x)

    def masked(self) -> None:
        """Loads, and what uses them, under masks of one dimension that are made of each other."""
        rng, shape = self.rng, self.shape()
        d = len(shape) - 1 if rng.random() < 0.7 else rng.randrange(len(shape))
        a, b = self._bound_mask(shape, d), self._bound_mask(shape, rng.choice([d, d, None]))
        either_way = [a, b, self._joined(a, b)]
        element = rng.choice(self.elements)
        found = [i for i, a in enumerate(self.arguments) if a.element == element and a.kind in ("state", "small")]
        x = self._load_under(rng.choice([a, *either_way]), self.tile(rng.choice(found), shape, distinct=False))
        if rng.random() < 0.3:
            y = self._load_under(rng.choice(either_way), self.tile(rng.choice(found), shape, distinct=False))
            x = self.select(rng.choice(either_way), x, y)
        if self.states(element) and rng.random() < 0.7:
            mask = rng.choice([either_way[-1], *either_way])
            self._store_under(mask, self.tile(rng.choice(self.states(element)), shape, distinct=True), x)
        else:
            self.reduce(x, d)

    def _load_under(self, mask: Value, pointer: Value) -> Value:
        argument = self.arguments[pointer.facts.argument]
        facts = self._loaded(argument)
        number = None if argument.kind == "state" and self.rng.random() < 0.5 else 0
        other = self.constant(argument.element, pointer.shape, number)
        text = f"tt.load {self.use(pointer, mask, other)} : {pointer.type}"
        return self.op(text, argument.element, pointer.shape, either(facts, other.facts))

    def _store_under(self, mask: Value, pointer: Value, value: Value) -> None:
        self.line(f"tt.store {self.use(pointer, value, mask)} : {pointer.type}")

    @property
    def edges(self) -> list[Argument]:
        return [a for a in self.arguments if a.kind == "edge"]

    def at_the_edge(self) -> None:
        """Accesses whose mask leaves out the lanes past the end of memory."""
        rng, shape = self.rng, self.shape()
        if not self.edges:
            raise Impossible
        steps = [int(np.prod(shape[d + 1 :])) for d in range(len(shape))]
        if flat := rng.random() < 0.3:  # of other dimensions each lane reads the same
            d = rng.randrange(len(shape))
            steps = [int(k == d) for k in range(len(shape))]
        pointer, mask = self._up_to_the_edge(self.edges[0], shape, steps)
        if rng.random() < 0.3:
            mask = self.binary("andi", *rng.sample([mask, self.mask(shape)], 2))
        x = self._load_under(mask, pointer)
        if not flat and rng.random() < 0.4:
            self._store_under(mask, pointer, self.like(x, holds=lambda v: v.facts.exact))
        if rng.random() < 0.4:
            self.reduce(x, len(shape) - 1)

    def _up_to_the_edge(
        self, argument: Argument, shape: tuple[int, ...], steps: Sequence[int]
    ) -> tuple[Value, Value]:
        """Pointers that grow by these steps, and a mask of those that are inside."""
        rng, number = self.rng, self.arguments.index(argument)
        first = rng.randint(0, argument.after - 1)
        left = argument.after - first - 1  # elements after the first
        pointer = self.splat(self.moved(self.pointer(number), self.constant("i32", None, first)), shape)
        mask = self.constant("i1", shape, True)
        for d, (extent, step) in enumerate(zip(shape, steps, strict=True)):
            index, inside = self.range(extent), min(extent, left // step + 1) if step else extent
            left -= (inside - 1) * step
            by = self.binary("muli", index, self.constant("i32", index.shape, step))
            pointer = self.moved(pointer, self.spread(by, shape, d))
            if inside < extent or rng.random() < 0.3:
                bound = self.splat(self.scalar_between(0, inside), index.shape)
                below = self.op(f"arith.cmpi slt, {self.use(index, bound)} : {index.type}", "i1", index.shape,
                                Facts(0, 1))  # fmt: skip
                mask = self.binary("andi", mask, self.spread(below, shape, d))
        return pointer, mask

    def exchange(self, pointers: Sequence[Value] = ()) -> None:
        """A load, a store that may reach what it reads, and only then a use of it. Some through these pointers."""
        rng = self.rng
        if pointers:
            element, shape = pointers[0].element[1:], pointers[0].shape
        else:
            element = rng.choice([a.element for a in self.arguments if a.kind == "state"])
            shape = None if rng.random() < 0.25 else self.shape()
        ways = [*pointers, *(self.tile(i, shape, distinct=True) for i in self.states(element))]
        x = self.load(rng.choice(pointers or ways))
        if not x.facts.exact:
            raise Impossible
        self.store(rng.choice(ways), self.like(x, holds=lambda v: v.facts.exact), masked=0.2)
        if rng.random() < 0.3:
            self.some(1, 1)
        self.store(rng.choice(ways), x, masked=0.2)

    def table(self) -> None:
        """Pointers made of integers: an address, moved as a number."""
        rng = self.rng
        argument = rng.choice([i for i, a in enumerate(self.arguments) if a.kind == "state"])
        shape = rng.choice([None, self.shape()])
        pointer = self.tile(argument, shape, distinct=True)
        number = self.op(f"tt.ptr_to_int {self.use(pointer)} : {pointer.type} -> {typed('i64', shape)}", "i64", shape,
                         Facts(0, 0))  # fmt: skip
        self.scopes[-1].remove(number)
        text = f"tt.int_to_ptr {self.use(number)} : {number.type} -> {pointer.type}"
        self.op(text, pointer.element, shape, pointer.facts)

    def pointer_choice(self) -> None:
        """One of two pointers."""
        rng = self.rng
        element = rng.choice([a.element for a in self.arguments if a.kind == "state"])
        shape = rng.choice([None, self.shape()])
        plain = rng.random() < 0.5
        a, b = (self.tile(rng.choice(self.states(element)), shape, distinct=plain) for _ in "ab")
        mask = self.scalar("i1") if shape is None or rng.random() < 0.5 else self.mask(shape)
        kinds = a.type if mask.shape is None else f"{mask.type}, {a.type}"
        facts = either(a.facts, b.facts)
        facts = replace(
            facts, argument=a.facts.argument, distinct=mask.shape is None and a.facts.distinct and b.facts.distinct
        )
        made = self.op(f"arith.select {self.use(mask, a, b)} : {kinds}", a.element, shape, facts)
        if facts.distinct and rng.random() < 0.7:
            self.exchange([made])

    def atomic(self) -> None:
        """An atomic add, whose old values nothing depends on where lanes may meet."""
        found = [i for i, a in enumerate(self.arguments) if a.kind == "state" and a.element in ("i32", "i64")]
        if not found:
            raise Impossible
        argument = self.rng.choice(found)
        element = self.arguments[argument].element
        shape = self.rng.choice([None, self.shape()])
        pointer = self.tile(argument, shape, distinct=True)
        x = self.like(Value("", element, shape, any_of(element)))
        mask = self.mask(shape)
        name = self.rng.choice(["add", "and", "or", "xor", "max", "umin", "exch"])
        text = f"tt.atomic_rmw {name}, acq_rel, gpu, {self.use(pointer, x, mask)} : "
        kinds = f"({pointer.type}, {x.type}, {mask.type}) -> {x.type}"
        made = self.op(text + kinds, element, shape)
        self.scopes[-1].remove(made)

    def check(self) -> None:
        condition = self.mask(self.rng.choice([None, self.shape()]))
        if not self.may_fail or self.rng.random() < 0.5:
            condition = self.binary("ori", condition, self.constant("i1", condition.shape, True))
        self.line(f'tt.assert {self.use(condition)}, "check {next(self.names)}" : {condition.type}')
