"""Tensors that are made where a statement needs one."""

from __future__ import annotations

from collections.abc import Callable

from .facts import Value
from .memory import Memory
from .writer import Impossible


class Sources(Memory):
    """Where operands come from."""

    def tensor(self, element: str, shape: tuple[int, ...], holds: Callable[[Value], bool] = lambda v: True) -> Value:
        """A tensor of a type: one that is there, or one made of something."""
        rng = self.rng
        found = self.visible(lambda v: v.element == element and v.shape == shape and holds(v))
        if found and rng.random() < 0.75:
            return self.pick(found)
        ways = [self._load_one, self._load_one, self._splat_one, self._spread_one, self._constant_one, self._cast_one]
        for _ in range(12):
            made = rng.choice(ways)(element, shape)
            if made is not None and holds(made):
                return made
        if found:
            return self.pick(found)
        raise Impossible

    def _load_one(self, element: str, shape: tuple[int, ...]) -> Value | None:
        if element == "i1":
            return self.mask(shape)
        found = [i for i, a in enumerate(self.arguments) if a.element == element and a.kind in ("state", "small")]
        return self.load(self.tile(self.rng.choice(found), shape, distinct=False)) if found else None

    def _splat_one(self, element: str, shape: tuple[int, ...]) -> Value:
        return self.splat(self.scalar(element), shape)

    def _constant_one(self, element: str, shape: tuple[int, ...]) -> Value:
        return self.constant(element, shape)

    def _cast_one(self, element: str, shape: tuple[int, ...]) -> Value | None:
        found = self.visible(lambda v: v.shape == shape and v.element != element and v.element[0] != "*")
        return self.converted(self.pick(found), element) if found else None

    def _spread_one(self, element: str, shape: tuple[int, ...]) -> Value | None:
        """A lower rank's value, or a range, along one dimension of a shape."""
        d = self.rng.randrange(len(shape))
        found = self.visible(lambda v: v.element == element and v.shape == (shape[d],))
        if found and self.rng.random() < 0.7:
            return self.spread(self.pick(found), shape, d)
        if element in ("i32", "i64", "f32"):
            return self.converted(self.spread(self.range(shape[d]), shape, d), element)
        return None
