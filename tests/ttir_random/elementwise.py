"""Arithmetic, comparisons and choices, element by element."""

from __future__ import annotations

from dataclasses import replace

from .facts import SMALL_FLOATS, Facts, Value, either, float_facts, int_facts, typed
from .writer import Impossible, Writer

_INT_BINARY = ("addi", "subi", "muli", "andi", "ori", "xori", "maxsi", "minsi", "maxui", "minui", "shli", "shrui",
               "shrsi", "divsi", "divui", "remsi", "remui")  # fmt: skip
_FLOAT_BINARY = ("addf", "subf", "mulf", "divf", "maxnumf", "minnumf", "maximumf", "minimumf", "remf")
INT_PREDICATES = ("eq", "ne", "slt", "sle", "sgt", "sge", "ult", "ule", "ugt", "uge")
_FLOAT_PREDICATES = ("oeq", "ogt", "oge", "olt", "ole", "one", "ord", "ueq", "ugt", "uge", "ult", "ule", "une", "uno")


class Elementwise(Writer):
    """Operations on each element."""

    def scalar_between(self, low: int, high: int, element: str = "i32") -> Value:
        """A scalar integer in a range: known to be, or made so."""
        found = self.visible(
            lambda v: v.element == element and v.shape is None and low <= v.facts.low and v.facts.high <= high
        )
        roll = self.rng.random()
        if found and roll < 0.5:
            return self.pick(found)
        width = (high - low + 1).bit_length() - 1
        if roll < 0.75 and width > 0:
            wild = self.scalar(element)
            part = self.binary("andi", wild, self.constant(element, None, (1 << width) - 1))
            return self.binary("addi", part, self.constant(element, None, low)) if low else part
        return self.constant(element, None, self.rng.randint(low, high))

    def splat(self, scalar: Value, shape: tuple[int, ...] | None) -> Value:
        if shape is None:
            return scalar
        text = f"tt.splat {self.use(scalar)} : {scalar.type} -> {typed(scalar.element, shape)}"
        return self.op(text, scalar.element, shape, replace(scalar.facts, distinct=False))

    def range(self, extent: int, start: int = 0) -> Value:
        text = f"tt.make_range {{end = {start + extent} : i32, start = {start} : i32}} : tensor<{extent}xi32>"
        return self.op(text, "i32", (extent,), Facts(start, start + extent - 1, distinct=True))

    def spread(self, x: Value, shape: tuple[int, ...], d: int) -> Value:
        """A tensor of one dimension as dimension `d` of a shape."""
        assert x.shape == (shape[d],)
        order = [k for k in range(len(shape)) if k != d]
        for k in order:
            assert x.shape is not None
            at = k if k < d else len(x.shape)
            grown = (*x.shape[:at], 1, *x.shape[at:])
            text = f"tt.expand_dims {self.use(x)} {{axis = {at} : i32}} : {x.type} -> {typed(x.element, grown)}"
            x = self.op(text, x.element, grown, x.facts)
        return self.broadcast(x, shape)

    def broadcast(self, x: Value, shape: tuple[int, ...]) -> Value:
        if x.shape == shape:
            return x
        text = f"tt.broadcast {self.use(x)} : {x.type} -> {typed(x.element, shape)}"
        return self.op(text, x.element, shape, replace(x.facts, distinct=False))

    def binary(self, name: str, x: Value, y: Value) -> Value:
        facts = int_facts(name, x, y) if x.element[0] == "i" else float_facts(name, x, y)
        return self.op(f"arith.{name} {self.use(x, y)} : {x.type}", x.element, x.shape, facts)

    def elementwise(self) -> None:
        for _ in range(self.rng.randint(1, 3)):
            self._elementwise()

    def _elementwise(self) -> None:
        rng, x = self.rng, self.something()
        if x.element == "i1":
            if rng.random() < 0.5:
                self.binary(rng.choice(["andi", "ori", "xori"]), x, self.like(x))
            else:
                self.select(x)
            return
        roll = rng.random()
        if roll < 0.15:
            self.compare(x)
        elif roll < 0.3:
            self.select(self.like(x, "i1"), x)
        elif x.element[0] == "i":
            self._int_op(x)
        else:
            self._float_op(x)

    def _int_op(self, x: Value) -> None:
        rng = self.rng
        if rng.random() < 0.1:
            self.op(f"math.absi {self.use(x)} : {x.type}", x.element, x.shape)
            return
        if rng.random() < 0.07 and x.element in ("i32", "i64"):
            y = self.like(x)
            self.op(f"tt.mulhiui {self.use(x, y)} : {x.type}", x.element, x.shape)
            return
        name, y = rng.choice(_INT_BINARY), self.like(x)
        if name in ("divsi", "divui", "remsi", "remui") and rng.random() < 0.8:
            y = self.binary("ori", y, self.constant(y.element, y.shape, 1))
        if name.startswith("sh") and rng.random() < 0.7:
            y = self.binary("andi", y, self.constant(y.element, y.shape, 7))
        self.binary(name, *rng.sample([x, y], 2) if name[:3] not in ("div", "rem", "shl", "shr") else (x, y))

    def _float_op(self, x: Value) -> None:
        rng, roll = self.rng, self.rng.random()
        wide = x.element in ("f32", "f64")
        if roll < 0.15:
            self.op(f"arith.negf {self.use(x)} : {x.type}", x.element, x.shape, replace(x.facts, positive=False))
        elif roll < 0.25:
            facts = replace(x.facts, positive=True, zero=False)
            self.op(f"math.absf {self.use(x)} : {x.type}", x.element, x.shape, facts)
        elif roll < 0.33 and x.facts.error == 0 and x.element not in SMALL_FLOATS:
            self.op(f"math.{rng.choice(['floor', 'ceil'])} {self.use(x)} : {x.type}", x.element, x.shape, x.facts)
        elif roll < 0.4 and wide:
            facts = replace(x.facts, bound=None)
            name = "tt.precise_sqrt" if x.element == "f32" and rng.random() < 0.5 else "math.sqrt"
            self.op(f"{name} {self.use(x)} : {x.type}", x.element, x.shape, facts)
        elif roll < 0.5 and x.facts.error == 0 and x.element not in SMALL_FLOATS:
            y, z = (self.like(x, holds=lambda v: v.facts.error == 0) for _ in "yz")
            facts = Facts(zero=x.facts.zero or y.facts.zero or z.facts.zero)
            if rng.random() < 0.5:
                self.op(f"math.fma {self.use(x, y, z)} : {x.type}", x.element, x.shape, facts)
            else:
                text = f"tt.clampf {self.use(x, y, z)}, propagateNan = {rng.choice(['none', 'all'])} : {x.type}"
                self.op(text, x.element, x.shape, replace(facts, zero=True))
        else:
            self._float_binary(x)

    def _float_binary(self, x: Value) -> None:
        name = self.rng.choice(_FLOAT_BINARY[: 8 if x.element in SMALL_FLOATS else 9])
        y = self.like(x)
        for _ in range(9):
            if float_facts(name, x, y) is not None:
                self.binary(name, x, y)
                return
            name = self.rng.choice(_FLOAT_BINARY)

    def compare(self, x: Value) -> Value:
        rng = self.rng
        if x.element[0] == "i":
            y = self.like(x)
            predicate = rng.choice(INT_PREDICATES if x.element != "i1" else ("eq", "ne"))
            text = f"arith.cmpi {predicate}, {self.use(x, y)} : {x.type}"
        else:
            if x.facts.error:
                raise Impossible
            y = self.like(x, holds=lambda v: v.facts.error == 0)
            text = f"arith.cmpf {rng.choice(_FLOAT_PREDICATES)}, {self.use(x, y)} : {x.type}"
        return self.op(text, "i1", x.shape, Facts(0, 1))

    def select(self, condition: Value, x: Value | None = None, y: Value | None = None) -> Value:
        if x is None:
            shape = condition.shape
            x = self.something(lambda v: v.shape == shape) if shape else self.scalar(self.rng.choice(["i32", "f32"]))
        y = y or self.like(x)
        if self.rng.random() < 0.15:
            condition = self.scalar("i1")
        kinds = x.type if condition.shape is None else f"{condition.type}, {x.type}"
        return self.op(
            f"arith.select {self.use(condition, x, y)} : {kinds}", x.element, x.shape, either(x.facts, y.facts)
        )

    def function(self) -> None:
        """A function that is only nearly exact, or a value that it makes of one."""
        shape = self.shape()
        x = self.tensor(self.rng.choice(["f32", "f32", "f64"]), shape, lambda v: v.facts.error == 0)
        name = self.rng.choice(["exp", "exp2", "log", "log2", "rsqrt", "erf"])
        facts = Facts(error=3e-6 if x.element == "f32" else 1e-12, positive=name.startswith("exp"), zero=True)
        self.op(f"math.{name} {self.use(x)} : {x.type}", x.element, x.shape, facts)
