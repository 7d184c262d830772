"""A random kernel with its arguments, and the memory it starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fusedsl.codegen import hardware

from .facts import BYTES, SMALL_FLOATS, typed

BEFORE, SPAN = 512, 4096  # elements of an argument before its address, and in all


@dataclass
class Argument:
    """kind: `state` any numbers, loaded and stored; `edge` the same, up to the end of memory; `small` few whole
    numbers, loaded; `out` only stored; `number`"""

    element: str
    kind: str
    start: int = 0  # bytes into the memory
    number: Any = 0
    error: float = 0.0  # of what was stored
    filled: int = 0  # elements of an `out` that stores have taken
    after: int = SPAN - BEFORE  # elements from its address on

    @property
    def type(self) -> str:
        return typed(self.element if self.kind == "number" else f"*{self.element}", None)

    @property
    def bytes(self) -> slice:
        """Where it is in the memory."""
        size = BYTES[self.element]
        return slice(self.start - BEFORE * size, self.start + self.after * size)


@dataclass
class Case:
    seed: int
    text: str
    arguments: list[Argument]
    grid: tuple[int, int, int]
    size: int  # bytes of memory
    simplify: bool  # to be passed through what follows the front end

    def memory(self) -> np.ndarray:
        """The bytes that a launch starts from."""
        rng = np.random.default_rng(self.seed)
        memory = np.zeros(self.size, np.uint8)
        for argument in self.arguments:
            if argument.kind != "number":
                raw = _numbers(rng, argument.element, argument.kind, BEFORE + argument.after)
                memory[argument.bytes] = raw.view(np.uint8)
        return memory


def _numbers(rng: np.random.Generator, element: str, kind: str, count: int) -> np.ndarray:
    if element[0] == "i":
        if element == "i1":
            return rng.integers(0, 2, count).astype(np.uint8)
        if kind == "small":
            return rng.integers(0, 64, count).astype(f"i{BYTES[element]}")
        raw = rng.integers(0, 256, count * BYTES[element], dtype=np.uint8).view(f"i{BYTES[element]}")
        little = rng.integers(-4, 5, count).astype(raw.dtype)
        edge = np.array([np.iinfo(raw.dtype).min, np.iinfo(raw.dtype).max, 0, -1], raw.dtype)[rng.integers(0, 4, count)]
        return np.choose(rng.choice(3, count, p=[0.45, 0.45, 0.1]), [raw, little, edge]).astype(raw.dtype)
    if kind == "small":
        numbers = rng.integers(-4, 5, count).astype(np.float32)
    else:
        special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-42, 1.0], np.float32)[rng.integers(0, 7, count)]
        numbers = np.choose(rng.choice(4, count, p=[0.5, 0.3, 0.1, 0.1]), [
            (rng.standard_normal(count) * 4).astype(np.float32), rng.integers(-4, 5, count).astype(np.float32),
            (rng.standard_normal(count) * 1e4).astype(np.float32), special])  # fmt: skip
    if element in SMALL_FLOATS:
        return np.asarray(hardware.to_f8(numbers, element))
    if element == "bf16":
        return np.asarray(hardware.to_raw(hardware.round_bf16(numbers), "bf16"))
    with np.errstate(all="ignore"):
        return numbers.astype({"f16": np.float16, "f32": np.float32, "f64": np.float64}[element])
