"""Where the choices of random tests come from: hypothesis, which shrinks them, or numpy's random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np
from hypothesis import strategies as st

T = TypeVar("T")


class Source(Protocol):
    """Choices; the first of several is the simplest."""

    def integer(self, low: int, high: int) -> int: ...

    def pick(self, options: Sequence[T]) -> T: ...


class Hypothesis:
    """Choices of hypothesis, which shrink."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw

    def integer(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def pick(self, options: Sequence[T]) -> T:
        return options[self.draw(st.integers(0, len(options) - 1))]


class Dice:
    """Choices of a numpy generator."""

    def __init__(self, seed: int) -> None:
        self.numbers = np.random.default_rng(seed)

    def integer(self, low: int, high: int) -> int:
        return int(self.numbers.integers(low, high + 1))

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.numbers.integers(len(options)))]
