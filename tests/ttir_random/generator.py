"""One kernel."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np

from .cases import BEFORE, SPAN, Argument, Case
from .facts import BYTES, ELEMENTS, LARGEST, Facts, Value, any_of
from .handing import Handing
from .writer import Impossible

_LONG = ((128,), (256,), (512,), (2, 128), (4, 128), (128, 2), (2, 2, 128))  # several chunks of a row


class Generator(Handing):
    """Writes one kernel."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.shapes = self._shapes()
        self.grid = self.rng.choice([(1, 1, 1), (1, 1, 1), (2, 1, 1), (3, 1, 1), (2, 2, 1), (1, 2, 2)])
        self.may_fail = self.grid == (1, 1, 1) and self.rng.random() < 0.15
        self.statements = [
            (10, self.elementwise), (3, self.cast), (3, self.view), (4, self.load_some), (4, self.store_some),
            (2, self.reduction), (1, self.scan), (1, self.product), (2.5, self.loop), (2, self.branch),

            (0.7, self.loop_while), (1, self.softmax), (1, self.in_place), (0.5, self.table), (0.4, self.check),
            (0.5, self.pointer_choice), (1, self.mask_some), (0.5, self.function), (0.3, self.atomic),
            (1.5, self.masked), (0.7, self.exchange), (1, self.loop_of_pointers),
            (0.8, self.at_the_edge),
        ]  # fmt: skip
        self.nests = (self.loop, self.branch, self.loop_while, self.loop_of_pointers)

    def _shapes(self) -> list[tuple[int, ...]]:
        rng, found = self.rng, []
        extents = [1, 2, 4, 8, 16, 32, 64]
        if rng.random() < 0.4:
            found.append(rng.choice(_LONG))
        count = len(found) + rng.randint(2, 4)
        while len(found) < count:
            rank = rng.choice([1, 1, 2, 2, 3])
            shape = tuple(rng.choice(extents) for _ in range(rank)) if rank > 1 else (rng.choice([*extents, 128, 256]),)
            if np.prod(shape) <= LARGEST:
                found.append(shape)
        return found

    def case(self) -> Case:
        self._arguments()
        size = self._place()
        rng = self.rng
        for axis, count in zip("xyz", self.grid, strict=True):
            if count > 1 or rng.random() < 0.2:
                self.op(f"tt.get_program_id {axis} : i32", "i32", None, Facts(0, count - 1))
        if rng.random() < 0.2:
            self.op(f"tt.get_num_programs {rng.choice('xyz')} : i32", "i32", None, Facts(1, 3))
        leaves = rng.random() < 0.15
        self.some(3, 15)
        if leaves:
            with suppress(Impossible):
                self.leave()
        self.some(3, 15)
        for value in [v for v in self.scopes[0] if v.element[0] != "*"]:
            if rng.random() < (0.1 if value.used else 0.95):
                with suppress(Impossible):
                    self.keep(value)
        self.line("tt.return")
        parameters = ", ".join(f"%a{i}: {a.type}" for i, a in enumerate(self.arguments))
        head = f"module {{\n  tt.func public @kernel({parameters}) attributes {{noinline = false}} {{\n"
        text = head + "\n".join(self.lines) + "\n  }\n}\n"
        return Case(self.seed, text, self.arguments, self.grid, size, simplify=rng.random() < 0.6)

    def _arguments(self) -> None:
        rng = self.rng
        elements = [rng.choice(["f32", "i32", *ELEMENTS]) for _ in range(rng.randint(2, 4))]
        if rng.random() < 0.6:  # pointers to one type, but into different arguments
            elements.append(elements[0])
        self.arguments = [Argument(e, "state") for e in elements]
        self.arguments += [Argument(rng.choice(["f32", "i32", *ELEMENTS]), "small") for _ in range(rng.randint(1, 2))]
        self.arguments += [Argument(e, "out") for e in ELEMENTS]
        for element in ("i32", "i32", "i64", "f32"):
            number: Any = rng.choice([0, 1, 5, 17, 64, 100, -3, 2**31 - 5, 2**31 - 40, -(2**31)])
            self.arguments.append(Argument(element, "number", number=float(number) if element == "f32" else number))
        if rng.random() < 0.5:
            element = rng.choice(["f32", "i32", "f16", "i8", "f64"])
            self.arguments.append(Argument(element, "edge", after=rng.randint(1, 300)))
        rng.shuffle(self.arguments)
        for i, argument in enumerate(self.arguments):
            argument_facts = Facts(argument=i)
            if argument.kind == "number":
                facts = any_of(argument.element)
                self.value(f"%a{i}", argument.element, None, facts)
            else:
                self.pointers[i] = Value(f"%a{i}", f"*{argument.element}", None, argument_facts)

    def _place(self) -> int:
        """Where the arguments lie: side by side, or some over others of their kind."""
        rng, end = self.rng, 0
        over = rng.random() < 0.4
        placed: list[Argument] = []
        for argument in self.arguments:
            if argument.kind in ("number", "edge"):
                continue
            size = BYTES[argument.element]
            mates = [a for a in placed if a.kind == argument.kind == "state" and a.element == argument.element]
            if over and mates:
                mate = rng.choice(mates)
                argument.start = mate.start + size * rng.choice([0, 0, 1, -1, 8, 30, -64])
            else:
                argument.start = -(-end // 64) * 64 + BEFORE * size + size * rng.choice([0, 0, 1, 3]) + 1024
            end = max(end, argument.start + (SPAN - BEFORE) * size + 1024)
            placed.append(argument)
        for argument in self.edges:
            size = BYTES[argument.element]
            end = -(-(end + (BEFORE + argument.after) * size) // 64) * 64
            argument.start = end - argument.after * size
        return end
