"""Reductions, scans, products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from .facts import MANTISSA, Facts, Value, any_of, typed
from .sources import Sources
from .writer import Impossible


class Reductions(Sources):
    """What combines elements."""

    def reduction(self) -> None:
        x = self.something(lambda v: v.shape is not None)
        axis = self.rng.randrange(len(x.extent))
        if self.rng.random() < 0.2 and x.element in ("i16", "i32", "i64", "f32"):
            self._arg_reduce(x, axis)
        else:
            self.reduce(x, axis)

    def reduce(self, x: Value, axis: int, name: str | None = None) -> Value:
        choices = self._combines(x, x.extent[axis])
        if name is None:
            name = self.rng.choice(sorted(choices))
        return self._reduction(
            "reduce", "", axis, [x], [choices[name]], lambda a, b: self._combined(name, a[0], b[0], x)
        )

    def _combines(self, x: Value, count: int) -> dict[str, Facts]:
        """The operations that give the same in any order, and what is known of the result."""
        element = x.element
        if element == "i1":
            return dict.fromkeys(("andi", "ori", "xori"), Facts(0, 1))
        if element[0] == "i":
            names = ("addi", "muli", "andi", "ori", "xori", "maxsi", "minsi", "maxui", "minui")
            return dict.fromkeys(names, any_of(element))
        found = {name: replace(x.facts, zero=True) for name in ("maxnumf", "minnumf", "maximumf", "minimumf")}
        limit = 1 << MANTISSA[element]
        bound = x.facts.bound
        if bound is not None and bound * count <= limit and not x.facts.error:
            found["addf"] = replace(x.facts, bound=bound * count)
        elif x.facts.positive and element in ("f32", "f64"):
            found["addf"] = Facts(error=x.facts.error + 2 * count / limit, positive=True)
        if bound is not None and bound**count <= limit and not x.facts.error:
            found["mulf"] = replace(x.facts, bound=bound**count)
        return found

    def _combined(self, name: str, a: Value, b: Value, x: Value) -> list[Value]:
        if self.rng.random() < 0.2:
            a, b = b, a
        return [self.op(f"arith.{name} {self.use(a, b)} : {a.type}", a.element, None)]

    def _arg_reduce(self, x: Value, axis: int) -> None:
        """The largest or smallest and where it is, the first of equals."""
        if x.facts.error:
            raise Impossible
        index = self.spread(self.range(x.extent[axis]), x.extent, axis)
        predicate = self.rng.choice(["gt", "lt"])

        def combine(a: Sequence[Value], b: Sequence[Value]) -> list[Value]:
            kind = (
                ("arith.cmpf", "oeq", f"o{predicate}") if x.element[0] == "f" else ("arith.cmpi", "eq", f"s{predicate}")
            )
            op, eq, better = kind
            equal = self.op(f"{op} {eq}, {self.use(a[0], b[0])} : {x.element}", "i1", None)
            before = self.op(f"arith.cmpi slt, {self.use(a[1], b[1])} : i32", "i1", None)
            tie = self.op(f"arith.andi {self.use(equal, before)} : i1", "i1", None)
            more = self.op(f"{op} {better}, {self.use(a[0], b[0])} : {x.element}", "i1", None)
            if x.element[0] == "f":  # a number before NaN
                nan = self.op(f"arith.cmpf uno, {self.use(b[0], b[0])} : {x.element}", "i1", None)
                ordered = self.op(f"arith.cmpf ord, {self.use(a[0], a[0])} : {x.element}", "i1", None)
                both = self.op(f"arith.cmpf uno, {self.use(a[0], a[0])} : {x.element}", "i1", None)
                both = self.op(f"arith.andi {self.use(both, nan)} : i1", "i1", None)
                both = self.op(f"arith.andi {self.use(both, before)} : i1", "i1", None)
                nan = self.op(f"arith.andi {self.use(nan, ordered)} : i1", "i1", None)
                nan = self.op(f"arith.ori {self.use(nan, both)} : i1", "i1", None)
                more = self.op(f"arith.ori {self.use(more, nan)} : i1", "i1", None)
            take = self.op(f"arith.ori {self.use(more, tie)} : i1", "i1", None)
            return [
                self.op(f"arith.select {self.use(take, a[i], b[i])} : {a[i].element}", a[i].element, None)
                for i in (0, 1)
            ]

        facts = [replace(x.facts, zero=x.element[0] != "i"), index.facts]
        self._reduction("reduce", "", axis, [x, index], facts, combine)

    def _reduction(
        self, kind: str, more: str, axis: int, inputs: list[Value], facts: list[Facts],
        combine: Callable[[Sequence[Value], Sequence[Value]], list[Value]],
    ) -> Value:  # fmt: skip
        shape = inputs[0].extent
        left = (*shape[:axis], *shape[axis + 1 :]) or None
        result = shape if kind == "scan" else left
        name = self.name()
        count = len(inputs)
        results = name if count == 1 else f"{name}:{count}"
        self.line(f'{results} = "tt.{kind}"({self.use(*inputs)}) <{{axis = {axis} : i32{more}}}> ({{')
        outer, self.scopes = self.scopes, [[]]
        arguments = [Value(self.name(), v.element, None, any_of(v.element)) for v in inputs * 2]
        self.line(f"^bb0({', '.join(f'{a.name}: {a.type}' for a in arguments)}):")
        given = combine(arguments[:count], arguments[count:])
        self.line(f"tt.{kind}.return {self.use(*given)} : {', '.join(v.type for v in given)}")
        self.scopes = outer
        types = ", ".join(typed(v.element, result) for v in inputs)
        self.line(f"}}) : ({', '.join(v.type for v in inputs)}) -> {types if count == 1 else f'({types})'}")
        made = [self.value(name if count == 1 else f"{name}#{i}", v.element, result, replace(facts[i], distinct=False))
                for i, v in enumerate(inputs)]  # fmt: skip
        return made[0]

    def scan(self) -> None:
        x = self.something(lambda v: v.shape is not None and v.facts.error == 0)
        axis = self.rng.randrange(len(x.extent))
        choices = self._combines(x, x.extent[axis])
        name = self.rng.choice(sorted(choices))
        facts = choices[name]
        if facts.error > x.facts.error:
            facts = replace(facts, error=facts.error)
        more = f", reverse = {self.rng.choice(['true', 'false'])}"
        self._reduction("scan", more, axis, [x], [facts], lambda a, b: self._combined(name, a[0], b[0], x))

    def product(self) -> None:
        """tt.dot of whole numbers that are small enough to be summed exactly."""
        rng = self.rng
        element = rng.choice(["f32", "f16", "bf16", "i8", "f64"])
        inner = {"i8": "i32", "f64": "f64"}.get(element, "f32")
        m, k, n = (rng.choice([1, 2, 4, 8, 16, 32]) for _ in "mkn")
        if element == "i8":
            a, b = self.tensor(element, (m, k)), self.tensor(element, (k, n))
        else:
            bounded = lambda v: v.facts.bound is not None and v.facts.bound <= 64 and v.facts.error == 0
            a, b = self._operand(element, (m, k), bounded), self._operand(element, (k, n), bounded)
        if inner == "i32":
            c, facts = self.tensor("i32", (m, n)), any_of("i32")
        else:
            c = self.tensor(
                inner, (m, n), lambda v: v.facts.bound is not None and v.facts.bound <= 1 << 20 and not v.facts.error
            )
            assert a.facts.bound is not None and b.facts.bound is not None and c.facts.bound is not None
            facts = Facts(bound=a.facts.bound * b.facts.bound * k + c.facts.bound, zero=True)
        if rng.random() < 0.4:
            c = self.constant(inner, (m, n), 0 if inner == "i32" else 0.0)
        text = f"tt.dot {self.use(a, b, c)}, inputPrecision = ieee : {a.type} * {b.type} -> {c.type}"
        self.op(text, inner, (m, n), facts)

    def _operand(self, element: str, shape: tuple[int, int], holds: Callable[[Value], bool]) -> Value:
        rng = self.rng
        found = [i for i, a in enumerate(self.arguments) if a.kind == "small" and a.element[0] == "f"]
        if found and rng.random() < 0.6:
            turned = rng.random() < 0.4
            x = self.load(self.tile(rng.choice(found), shape[::-1] if turned else shape, distinct=False))
            if x.facts.bound is not None and holds(x):
                y = self.converted(x, element)
                if y is not None and holds(y):
                    if turned:
                        text = (
                            f"tt.trans {self.use(y)} {{order = array<i32: 1, 0>}} : {y.type} -> {typed(element, shape)}"
                        )
                        y = self.op(text, element, shape, y.facts)
                    return y
        return self.tensor(element, shape, holds)

    def softmax(self) -> None:
        """exp(x - max(x)) / sum, with its parts shared."""
        shape = self.shape()
        x = self.tensor("f32", shape, lambda v: v.facts.error == 0)
        axis = self.rng.randrange(len(shape))
        most = self.back(self.reduce(x, axis, "maxnumf"), shape, axis)
        less = self.op(f"arith.subf {self.use(x, most)} : {x.type}", "f32", shape, Facts())
        facts = Facts(error=1e-5, positive=True, zero=True)
        power = self.op(f"math.exp {self.use(less)} : {x.type}", "f32", shape, facts)
        total = self.back(self.reduce(power, axis, "addf"), shape, axis)
        self.binary("divf", power, total)
        less.facts = replace(less.facts, zero=True)

    def back(self, x: Value, shape: tuple[int, ...], axis: int) -> Value:
        """The result of a reduction over its operand's shape."""
        if x.shape is None:
            return self.splat(x, shape)
        grown = (*x.shape[:axis], 1, *x.shape[axis:])
        text = f"tt.expand_dims {self.use(x)} {{axis = {axis} : i32}} : {x.type} -> {typed(x.element, grown)}"
        return self.broadcast(self.op(text, x.element, grown, x.facts), shape)
