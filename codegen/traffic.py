"""The bytes that interpreted launches load and store, counted by argument."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch


class OutOfBounds(RuntimeError):
    """An unmasked lane would read or write memory that belongs to no argument."""


@dataclass
class _Range:
    """The bytes one tensor spans, and which of them this launch has touched."""

    name: str
    start: int
    stop: int
    touched: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, tensor: torch.Tensor) -> _Range:
        start = tensor.data_ptr()
        last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
        stop = start + (last + 1) * tensor.element_size() if tensor.numel() else start
        return cls(name, start, stop)

    def touch(self, kind: str, addresses: np.ndarray, size: int) -> None:
        if kind not in self.touched:
            self.touched[kind] = np.zeros((self.stop - self.start + 7) & ~7, np.bool_)
        bytes_touched, offsets = self.touched[kind], addresses - self.start
        if not (offsets & (size - 1)).any():
            words = bytes_touched.view(f"u{size}")
            words[offsets >> (size.bit_length() - 1)] = int.from_bytes(b"\1" * size, "little")
        else:
            for byte in range(size):
                bytes_touched[offsets + byte] = True

    def count(self, kind: str) -> int:
        return int(np.count_nonzero(self.touched[kind])) if kind in self.touched else 0


class Traffic:
    """Counts the bytes that launches load and store, exactly, by argument name.

    Give it to `launch` as `hooks`; several launches add up. Masked lanes count nothing, atomics count as a load and a
    store. A byte belongs to the first argument whose extent contains it, so an argument passed twice counts once.
    Tensors reached through a table of pointers can be named in `tensors`; what lies in no known tensor is counted
    under `Traffic.ELSEWHERE`, or raises OutOfBounds before the access is made if `strict`.

    `load_bytes`, `store_bytes`: what the programs requested, every lane of every access.
    `unique_load_bytes`, `unique_store_bytes`: distinct bytes per launch, summed over launches.
    """

    ELSEWHERE = "?"

    def __init__(self, tensors: Mapping[str, torch.Tensor] | None = None, *, strict: bool = False) -> None:
        self.load_bytes: dict[str, int] = {}
        self.store_bytes: dict[str, int] = {}
        self.unique_load_bytes: dict[str, int] = {}
        self.unique_store_bytes: dict[str, int] = {}
        self._tensors = dict(tensors or {})
        self._strict = strict
        self._ranges: list[_Range] = []
        self._stray: dict[str, list[np.ndarray]] = {}

    @property
    def total_load_bytes(self) -> int:
        return sum(self.load_bytes.values())

    @property
    def total_store_bytes(self) -> int:
        return sum(self.store_bytes.values())

    @property
    def total_unique_load_bytes(self) -> int:
        return sum(self.unique_load_bytes.values())

    @property
    def total_unique_store_bytes(self) -> int:
        return sum(self.unique_store_bytes.values())

    def begin(self, arguments: Mapping[str, torch.Tensor]) -> None:
        """A launch starts; `arguments` are its tensors by parameter name."""
        self._ranges = [_Range.of(name, tensor) for name, tensor in {**arguments, **self._tensors}.items()]
        self._stray = {"load": [], "store": []}
        for counts in (self.load_bytes, self.store_bytes, self.unique_load_bytes, self.unique_store_bytes):
            for known in self._ranges:
                counts.setdefault(known.name, 0)

    def load(self, addresses: np.ndarray, size: int) -> None:
        """The unmasked lanes of one load: int64 `addresses` of elements of `size` bytes."""
        self._access("load", self.load_bytes, addresses, size)

    def store(self, addresses: np.ndarray, size: int) -> None:
        """The unmasked lanes of one store: int64 `addresses` of elements of `size` bytes."""
        self._access("store", self.store_bytes, addresses, size)

    def end(self) -> None:
        """The launch is over: add its distinct bytes."""
        for kind, counts in (("load", self.unique_load_bytes), ("store", self.unique_store_bytes)):
            for known in self._ranges:
                counts[known.name] += known.count(kind)
            if self._stray[kind]:
                stray = np.unique(np.concatenate(self._stray[kind])).size
                counts[self.ELSEWHERE] = counts.get(self.ELSEWHERE, 0) + stray
        self._ranges = []

    def _access(self, kind: str, counts: dict[str, int], addresses: np.ndarray, size: int) -> None:
        left = addresses.reshape(-1)
        for known in self._ranges:
            if not left.size:
                return
            inside = (left >= known.start) & (left <= known.stop - size)
            mine = left if inside.all() else left[inside]
            if mine.size:
                counts[known.name] += mine.size * size
                known.touch(kind, mine, size)
                left = left[~inside]
        if left.size:
            self._elsewhere(kind, counts, left, size)

    def _elsewhere(self, kind: str, counts: dict[str, int], addresses: np.ndarray, size: int) -> None:
        if self._strict:
            first = int(addresses[0])
            nearest = min(self._ranges, key=lambda known: max(known.start - first, first - known.stop), default=None)
            where = f", {first - nearest.start} bytes from the start of {nearest.name}" if nearest else ""
            raise OutOfBounds(f"{kind} of {addresses.size} lanes outside every known tensor{where}")
        counts[self.ELSEWHERE] = counts.get(self.ELSEWHERE, 0) + addresses.size * size
        self._stray[kind].append((addresses[:, None] + np.arange(size)).reshape(-1))
