"""Loops and branches that hand pointers round."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from .control import Control
from .facts import Facts, Value, either, shifted
from .writer import Impossible


class Handing(Control):
    """Pointers that change places."""

    def _round_table(self, rounds: int) -> tuple[list[Value], Facts, int]:
        """Pointers that change places, what holds for each of them at any time, and how far a round moves one."""
        rng = self.rng
        element = max(rng.sample([a.element for a in self.arguments if a.kind == "state"], 2), key=self.elements.count)
        shape, found = rng.choice([None, self.shape(), self.shape()]), self.states(element)
        chosen = [*rng.sample(found, min(2, len(found))), *([rng.choice(found)] if rng.random() < 0.3 else [])]
        pointers = [self.tile(i, shape, distinct=True) for i in chosen]
        step = rng.choice([0, 0, 1, 16, -8])
        facts = pointers[0].facts
        for pointer in pointers[1:]:
            facts = either(facts, pointer.facts)
        facts = replace(shifted(facts, step, rounds), argument=chosen[0], distinct=shape is not None)
        if not self._stays_inside(facts, 0):
            raise Impossible
        return pointers, facts, step

    def _next_places(self, pointers: list[Value], step: int) -> list[Value]:
        turned = [*pointers[1:], pointers[0]]
        if step:
            turned[0] = self._advance_pointer(turned[0], step)
        return turned

    def loop_of_pointers(self) -> None:
        """A loop, or a branch, out of which pointers come in other places, and accesses through them."""
        ways = [self._for_of_pointers, self._for_of_pointers, self._while_of_pointers, self._branch_of_pointers]
        self.rng.choice(ways)()

    def _around(self, name: str, pointers: list[Value], facts: Facts) -> list[Value]:
        """The results of an operation that hands pointers round, and an exchange through them."""
        made = [self.value(f"{name}#{i}", p.element, p.shape, facts) for i, p in enumerate(pointers)]
        if self.rng.random() < 0.5:
            self.exchange(made)
        return made

    def _for_of_pointers(self) -> None:
        rng, most = self.rng, self.rng.randint(2, 4)
        pointers, facts, step = self._round_table(most)
        low, by = self.constant("i32", None, 0), self.constant("i32", None, 1)
        stop = self.constant("i32", None, most) if rng.random() < 0.5 else self.scalar_between(0, most)
        name, variable = self.name(), self.name()
        inside = [Value(self.name(), p.element, p.shape, facts) for p in pointers]
        heads = ", ".join(f"{a.name} = {self.use(p)}" for a, p in zip(inside, pointers, strict=True))
        types = ", ".join(p.type for p in pointers)
        self.line(f"{name}:{len(pointers)} = scf.for {variable} = {self.use(low)} to {self.use(stop)} "
                  f"step {self.use(by)} iter_args({heads}) -> ({types}) : i32 {{")  # fmt: skip
        with self.region():
            self.value(variable, "i32", None, Facts(0, most))
            self.scopes[-1] += inside
            with suppress(Impossible):
                self.exchange(inside)
            self.some(0, 2)
            self.line(f"scf.yield {self.use(*self._next_places(inside, step))} : {types}")
        self.line("}")
        self._around(name, pointers, facts)

    def _while_of_pointers(self) -> None:
        most = self.rng.randint(1, 3)
        pointers, facts, step = self._round_table(most)
        inits = [self.constant("i32", None, 0), *pointers]
        types, name = ", ".join(v.type for v in inits), self.name()
        before, after = ([Value(self.name(), v.element, v.shape, facts) for v in inits] for _ in "ba")
        before[0].facts, after[0].facts = Facts(0, most), Facts(0, most - 1)
        heads = ", ".join(f"{a.name} = {self.use(v)}" for a, v in zip(before, inits, strict=True))
        self.line(f"{name}:{len(inits)} = scf.while ({heads}) : ({types}) -> ({types}) {{")
        with self.region():
            self.scopes[-1] += before
            limit = self.constant("i32", None, most)
            again = self.op(f"arith.cmpi slt, {self.use(before[0], limit)} : i32", "i1", None)
            handed = [before[0], *(self._next_places(before[1:], 0) if self.rng.random() < 0.5 else before[1:])]
            self.line(f"scf.condition({self.use(again)}) {self.use(*handed)} : {types}")
        self.line("} do {")
        with self.region():
            self.line(f"^bb0({', '.join(f'{a.name}: {a.type}' for a in after)}):")
            self.scopes[-1] += after
            with suppress(Impossible):
                self.exchange(after[1:])
            more = self.binary("addi", after[0], self.constant("i32", None, 1))
            self.line(f"scf.yield {self.use(more, *self._next_places(after[1:], step))} : {types}")
        self.line("}")
        self.value(f"{name}#0", "i32", None, Facts(0, most))
        made = [self.value(f"{name}#{i}", p.element, p.shape, facts) for i, p in enumerate(pointers, 1)]
        self.exchange(made)

    def _branch_of_pointers(self) -> None:
        pointers, facts, step = self._round_table(1)
        condition, name, types = self.mask(None), self.name(), ", ".join(p.type for p in pointers)
        self.line(f"{name}:{len(pointers)} = scf.if {self.use(condition)} -> ({types}) {{")
        for side in range(2):
            if side:
                self.line("} else {")
            with self.region():
                with suppress(Impossible):
                    self.exchange(pointers)
                given = self._next_places(pointers, step) if side else pointers
                self.line(f"scf.yield {self.use(*given)} : {types}")
        self.line("}")
        self._around(name, pointers, facts)
