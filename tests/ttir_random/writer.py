"""The text of a kernel as it grows, and the choice among the values that are there."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from .cases import Argument
from .facts import Facts, Value, any_of, float_text, typed


class Impossible(Exception):
    """There is no such value, and none can be made."""


class Writer:
    """Writes operations, and chooses what they are done to."""

    statements: Sequence[tuple[float, Callable[[], Any]]]  # what a kernel is made of, and how often
    nests: Sequence[Callable[[], Any]]  # those of them that hold others
    shapes: Sequence[tuple[int, ...]]
    may_fail: bool  # assertions

    def __init__(self, seed: int) -> None:
        self.seed, self.rng = seed, random.Random(seed)
        self.lines: list[str] = []
        self.scopes: list[list[Value]] = [[]]
        self.names = itertools.count()
        self.arguments: list[Argument] = []
        self.depth = 0
        self.pointers: dict[int, Value] = {}

    def tensor(self, element: str, shape: tuple[int, ...], holds: Callable[[Value], bool] = lambda v: True) -> Value:
        """A tensor of a type, one that is there or a new one."""
        raise NotImplementedError  # sources.py

    def line(self, text: str) -> None:
        self.lines.append("  " * (len(self.scopes) + 1) + text)

    def name(self) -> str:
        return f"%v{next(self.names)}"

    def value(self, name: str, element: str, shape: tuple[int, ...] | None, facts: Facts | None = None) -> Value:
        made = Value(name, element, shape, facts if facts is not None else any_of(element))
        self.scopes[-1].append(made)
        return made

    def op(self, text: str, element: str, shape: tuple[int, ...] | None, facts: Facts | None = None) -> Value:
        name = self.name()
        self.line(f"{name} = {text}")
        return self.value(name, element, shape, facts)

    def use(self, *values: Value) -> str:
        for value in values:
            value.used = True
        return ", ".join(value.name for value in values)

    @contextmanager
    def region(self) -> Iterator[None]:
        self.scopes.append([])
        self.depth += 1
        yield
        self.depth -= 1
        self.scopes.pop()

    def visible(self, holds: Callable[[Value], bool]) -> list[Value]:
        return [v for scope in self.scopes for v in scope if holds(v)]

    def pick(self, values: Sequence[Value]) -> Value:
        """One of them, more likely a late or an unused one."""
        late = values[-6:]
        fresh = [v for v in values if not v.used]
        return self.rng.choice(self.rng.choice([pool for pool in (late, fresh, values) if pool]))

    def shape(self) -> tuple[int, ...]:
        return self.rng.choice(self.shapes)

    def constant(self, element: str, shape: tuple[int, ...] | None, number: Any = None) -> Value:
        rng = self.rng
        if element[0] == "i":
            if number is None:
                bits = 1 if element == "i1" else int(element[1:])
                last = (1 << (bits - 1)) - 1
                number = rng.choice([0, 1, 2, 3, 7, -1, -5, 16, last, -last - 1, rng.randint(-last - 1, last)])
            if element == "i1":
                number = bool(number & 1) if not isinstance(number, bool) else number
                text, facts = str(number).lower(), Facts(int(number), int(number))
            else:
                text, facts = str(number), Facts(number, number)
        else:
            if number is None:
                number = rng.choice([0.0, 1.0, -1.0, 2.0, 0.5, -3.0, 4.0, 0.1, "inf", "-inf", "nan", "-0"])
            text, facts = float_text(number, element)
        if element == "i1" and shape is None:
            return self.op(f"arith.constant {text}", element, shape, facts)
        written = text if shape is None else f"dense<{text}>"
        return self.op(f"arith.constant {written} : {typed(element, shape)}", element, shape, facts)

    def scalar(self, element: str, holds: Callable[[Value], bool] = lambda v: True) -> Value:
        found = self.visible(lambda v: v.element == element and v.shape is None and holds(v))
        if found and self.rng.random() < 0.7:
            return self.pick(found)
        for _ in range(9):
            made = self.constant(element, None)
            if holds(made):
                return made
        raise Impossible

    def like(self, x: Value, element: str | None = None, holds: Callable[[Value], bool] = lambda v: True) -> Value:
        element = element or x.element
        return self.scalar(element, holds) if x.shape is None else self.tensor(element, x.shape, holds)

    def something(self, holds: Callable[[Value], bool] = lambda v: True) -> Value:
        """A number, mostly a tensor."""
        found = self.visible(lambda v: v.element[0] != "*" and holds(v))
        tensors = [v for v in found if v.shape is not None]
        roll = self.rng.random()
        if tensors and roll < 0.6:
            return self.pick(tensors)
        if found and roll < 0.7:
            return self.pick(found)
        for _ in range(9):
            made = self.tensor(self.rng.choice([*self.elements, "i1", "i32", "f32"]), self.shape())
            if holds(made):
                return made
        raise Impossible

    @property
    def elements(self) -> list[str]:
        return [a.element for a in self.arguments if a.kind in ("state", "small") and a.element != "i1"]

    def some(self, least: int, most: int) -> None:
        for _ in range(self.rng.randint(least, most)):
            self.statement()

    def statement(self) -> None:
        weights, ways = zip(*self.statements, strict=True)
        way = self.rng.choices(ways, weights)[0]
        if self.depth >= 3 and way in self.nests:
            return
        with suppress(Impossible):
            way()
