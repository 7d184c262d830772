"""Loops and branches."""

from __future__ import annotations

from collections.abc import Callable

from .accesses import Accesses
from .facts import Facts, Value, any_of, shifted, typed


class Control(Accesses):
    """Control flow."""

    def _carried(self, most: int) -> list[Value]:
        """Values to carry, of which nothing but their type need hold later."""
        found = []
        for _ in range(self.rng.randint(0, most)):
            x = self.something(lambda v: v.facts.exact)
            found.append(x)
            if self.rng.random() < 0.5:  # one of its kind, to be swapped with
                found.append(self.like(x, holds=lambda v: v.facts.exact))
        return found[: most + 1]

    def _given(self, element: str, shape: tuple[int, ...] | None) -> Value:
        """A value to hand on, of those inside first."""
        found = self.visible(lambda v: v.element == element and v.shape == shape and v.facts.exact)
        inner = [v for v in self.scopes[-1] if v in found]
        if inner and self.rng.random() < 0.8:
            return self.rng.choice(inner)
        return (
            self.pick(found)
            if found
            else self.like(Value("", element, shape, any_of(element)), holds=lambda v: v.facts.exact)
        )

    def loop(self) -> None:
        rng = self.rng
        index = rng.choice(["i32", "i32", "i64"])
        low, step, most = rng.choice([0, 0, 0, 1, -2]), rng.choice([1, 1, 2, 16]), rng.choice([1, 2, 3, 4])
        start, by = self.constant(index, None, low), self.constant(index, None, step)
        if rng.random() < 0.5:
            stop = self.constant(index, None, low + step * most - rng.choice([0, step - 1]))
        else:
            stop = self.scalar_between(low, low + step * most, index)
        carried = self._carried(3)
        moving = self._moving(most) if rng.random() < 0.6 else []
        inits = [*carried, *(m[0] for m in moving)]
        name, variable = self.name(), self.name()
        inside = [Value(self.name(), v.element, v.shape, any_of(v.element)) for v in carried]
        inside += [
            Value(self.name(), v.element, v.shape, shifted(v.facts, step_by, most - 1)) for v, step_by, _ in moving
        ]
        heads = ", ".join(f"{a.name} = {self.use(v)}" for a, v in zip(inside, inits, strict=True))
        types = ", ".join(v.type for v in inits)
        bounds = f"{self.use(start)} to {self.use(stop)} step {self.use(by)}"
        if inits:
            self.line(
                f"{name}:{len(inits)} = scf.for {variable} = {bounds} iter_args({heads}) -> ({types}) : {index} {{"
            )
        else:
            self.line(f"scf.for {variable} = {bounds} : {index} {{")
        with self.region():
            self.value(variable, index, None, Facts(low, low + step * most))
            self.scopes[-1] += inside
            self.some(1, 5)
            given = [self._given(v.element, v.shape) for v in carried]
            if len(carried) > 1 and rng.random() < 0.3:  # swapped
                for i, a in enumerate(carried):
                    for j, b in enumerate(carried[:i]):
                        if a.type == b.type:
                            given[i], given[j] = inside[j], inside[i]
            for at, (_, amount, how) in enumerate(moving, len(carried)):
                given.append(how(inside[at], amount))
            if given:
                self.line(f"scf.yield {self.use(*given)} : {types}")
        self.line("}")
        for i, v in enumerate(carried):
            self.value(f"{name}#{i}", v.element, v.shape)
        for i, (v, amount, _) in enumerate(moving, len(carried)):
            self.value(f"{name}#{i}", v.element, v.shape, shifted(v.facts, amount, most))

    def _moving(self, rounds: int) -> list[tuple[Value, int, Callable[[Value, int], Value]]]:
        """Pointers, and offsets, that go on by the same step in every round."""
        rng = self.rng
        found: list[tuple[Value, int, Callable[[Value, int], Value]]] = []
        for _ in range(rng.randint(1, 2)):
            step = rng.choice([1, 4, 16, 32, -1, -8])
            kind = rng.random()
            if kind < 0.7:
                argument = rng.choice([i for i, a in enumerate(self.arguments) if a.kind in ("state", "small")])
                x = self.tile(argument, rng.choice([self.shape(), self.shape(), None]), distinct=rng.random() < 0.7)
                if not self._stays_inside(x.facts, step * rounds):
                    continue
                found.append((x, step, self._advance_pointer))
            else:
                element = rng.choice(["i32", "i64"])
                shape = rng.choice([None, self.shape()])
                x = self.scalar(element) if shape is None else self.tensor(element, shape)
                if x.facts.high > 1000 or x.facts.low < -1000:
                    continue
                found.append((x, step, self._advance_number))
        return found

    def _step(self, element: str, shape: tuple[int, ...] | None, by: int) -> Value:
        if shape is None or self.rng.random() < 0.5:
            return self.constant(element, shape, by)
        if len(shape) == 1 and self.rng.random() < 0.3:  # the same number in every lane, but not plain to see
            x = self.binary("muli", self.range(shape[0]), self.constant("i32", shape, 0))
            x = self.binary("addi", x, self.constant("i32", shape, by))
            made = x if element == "i32" else self.converted(x, element)
            if made is not None and (made.facts.low, made.facts.high) == (by, by):
                return made
        return self.splat(self.constant(element, None, by), shape)

    def _advance_pointer(self, x: Value, by: int) -> Value:
        return self.moved(x, self._step(self.rng.choice(["i32", "i64"]), x.shape, by))

    def _advance_number(self, x: Value, by: int) -> Value:
        return self.binary("addi", *self.rng.sample([x, self._step(x.element, x.shape, by)], 2))

    def branch(self) -> None:
        condition = self.scalar("i1") if self.rng.random() < 0.5 else self.mask(None)
        kinds = [(v.element, v.shape) for v in self._carried(2)]
        name = self.name()
        types = ", ".join(typed(*kind) for kind in kinds)
        head = f"{name}:{len(kinds)} = " if kinds else ""
        arrow = f" -> ({types})" if kinds else ""
        self.line(f"{head}scf.if {self.use(condition)}{arrow} {{")
        for side in range(2 if kinds else self.rng.choice([1, 2])):
            if side:
                self.line("} else {")
            with self.region():
                self.some(0, 4)
                given = [self._given(*kind) for kind in kinds]
                if given:
                    self.line(f"scf.yield {self.use(*given)} : {types}")
        self.line("}")
        for i, (element, shape) in enumerate(kinds):
            self.value(f"{name}#{i}", element, shape)

    def loop_while(self) -> None:
        rng = self.rng
        carried = self._carried(2)
        counter, most = self.constant("i32", None, 0), rng.randint(1, 3)
        inits = [counter, *carried]
        types = ", ".join(v.type for v in inits)
        name = self.name()
        inside = [Value(self.name(), v.element, v.shape, any_of(v.element)) for v in inits]
        inside[0].facts = Facts(0, most)
        heads = ", ".join(f"{a.name} = {self.use(v)}" for a, v in zip(inside, inits, strict=True))
        self.line(f"{name}:{len(inits)} = scf.while ({heads}) : ({types}) -> ({types}) {{")
        with self.region():
            self.scopes[-1] += inside
            limit = self.constant("i32", None, most)
            again = self.op(f"arith.cmpi slt, {self.use(inside[0], limit)} : i32", "i1", None)
            if rng.random() < 0.5:
                self.some(0, 2)
                again = self.binary("andi", again, self.scalar("i1"))
            given = [inside[0], *(self._given(v.element, v.shape) if rng.random() < 0.5 else a
                                  for v, a in zip(carried, inside[1:], strict=True))]  # fmt: skip
            self.line(f"scf.condition({self.use(again)}) {self.use(*given)} : {types}")
        self.line("} do {")
        with self.region():
            after = [Value(self.name(), v.element, v.shape, any_of(v.element)) for v in inits]
            after[0].facts = Facts(0, most - 1)
            self.line(f"^bb0({', '.join(f'{a.name}: {a.type}' for a in after)}):")
            self.scopes[-1] += after
            self.some(0, 3)
            more = self.binary("addi", after[0], self.constant("i32", None, 1))
            given = [more, *(self._given(v.element, v.shape) for v in carried)]
            self.line(f"scf.yield {self.use(*given)} : {types}")
        self.line("}")
        self.value(f"{name}#0", "i32", None, Facts(0, most))
        for i, v in enumerate(carried, 1):
            self.value(f"{name}#{i}", v.element, v.shape)

    def leave(self) -> None:
        """Return early."""
        condition = self.mask(None)
        number = next(self.names)
        self.line(f"cf.cond_br {self.use(condition)}, ^stop{number}, ^go{number}")
        self.lines.append(f"  ^stop{number}:")
        self.line("tt.return")
        self.lines.append(f"  ^go{number}:")
