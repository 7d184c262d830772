"""Conditions for lanes."""

from __future__ import annotations

from .elementwise import INT_PREDICATES
from .facts import Facts, Value
from .views import Views


class Masks(Views):
    """Masks."""

    def mask_some(self) -> None:
        self.mask(self.shape())

    def mask(self, shape: tuple[int, ...] | None) -> Value:
        rng, roll = self.rng, self.rng.random()
        if shape is None:
            return self.scalar("i1") if roll < 0.5 else self.compare(self.scalar(rng.choice(["i32", "i64", "f32"])))
        found = self.visible(lambda v: v.element == "i1" and v.shape == shape)
        if found and roll < 0.25:
            return self.pick(found)
        if roll < 0.65:
            return self._bound_mask(shape)
        if roll < 0.75:
            return self._joined(self._bound_mask(shape), self._bound_mask(shape))
        if roll < 0.85 and len(found) > 1:
            return self._joined(self.pick(found), self.pick(found))
        if roll < 0.9:
            return self.splat(self.scalar("i1"), shape)
        x = self.something(lambda v: v.shape == shape and v.facts.error == 0)
        return self.compare(x) if x.element != "i1" else x

    def _joined(self, a: Value, b: Value) -> Value:
        return self.binary(self.rng.choice(["andi", "andi", "ori", "ori", "xori"]), *self.rng.sample([a, b], 2))

    def _bound_mask(self, shape: tuple[int, ...], d: int | None = None) -> Value:
        """An index along a dimension against a number."""
        rng = self.rng
        if d is None:
            d = rng.randrange(len(shape))
        if rng.random() < 0.15:
            return self._wrapping_mask(shape, d)
        index = self.range(shape[d], rng.choice([0, 0, 0, 5]))
        if rng.random() < 0.4:
            start = self.scalar_between(0, 200) if rng.random() < 0.8 else self.scalar("i32")
            index = self.binary("addi", index, self.splat(start, index.shape))
        if rng.random() < 0.1:
            index = self.binary(
                "muli", index, self.constant("i32", index.shape, rng.choice([-1, 2, 3, 1 << 20, 1 << 28]))
            )
        if rng.random() < 0.2:
            index = self._widened(index)
        early = rng.random() < 0.5
        if not early:
            index = self.spread(index, shape, d)
        roll = rng.random()
        if roll < 0.4:
            bound = self.constant(index.element, None, rng.randint(-1, shape[d] + 2))
        elif roll < 0.8:
            bound = self.scalar_between(0, 2 * shape[d], index.element)
        else:
            bound = self.scalar(index.element)
        if roll < 0.1 and early:
            other = self.tensor(index.element, index.extent)
        else:
            other = self.splat(bound, index.shape)
        made = self._compared(index, other)
        return self.spread(made, shape, d) if early else made

    def _widened(self, x: Value) -> Value:
        wide = self.converted(x, "i64")
        assert wide is not None
        return wide

    def _compared(self, index: Value, other: Value) -> Value:
        ends = self.rng.random() < 0.6  # true for the first lanes, and false from one on
        pair = [index, other] if self.rng.random() < 0.7 else [other, index]
        below = ("slt", "sle") if pair[0] is index else ("sgt", "sge")
        predicate = self.rng.choice(below if ends else INT_PREDICATES)
        return self.op(f"arith.cmpi {predicate}, {self.use(*pair)} : {index.type}", "i1", index.shape, Facts(0, 1))

    def _wrapping_mask(self, shape: tuple[int, ...], d: int) -> Value:
        """An index that passes the greatest number of its type, or comes close, against a number near either end."""
        rng, extent, last = self.rng, shape[d], (1 << 31) - 1
        start = self.constant("i32", None, last - rng.randint(0, 2 * extent))
        if rng.random() < 0.5:  # only known when the kernel runs
            start = self.binary("addi", start, self.scalar_between(0, extent))
        index = self.binary("addi", self.range(extent), self.splat(start, (extent,)))
        near = rng.choice([last - rng.randint(0, extent), -last - 1 + rng.randint(0, extent), rng.randint(-2, extent)])
        bound = self.splat(self.constant("i32", None, near), (extent,))
        if rng.random() < 0.3:
            index, bound = self._widened(index), self._widened(bound)
            name, number = rng.choice([("addi", 0), ("addi", 5), ("muli", 3), ("muli", -1)])
            index = self.binary(name, index, self.constant("i64", index.shape, number))
        return self.spread(self._compared(index, bound), shape, d)
