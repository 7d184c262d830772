"""What a checked launch knows of each place in its arguments' memory: what holds a value, and who touched it when."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from .ttir import Op


class Shadow:
    """One storage: where the kernel sees it and where it is, and marks for each place in it.

    A place is as large as an element, or a byte once an access is not of whole elements.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], start: int, storage: torch.UntypedStorage) -> None:
        self.tensors = dict(tensors)
        self.start, self.stop = start, start + storage.nbytes()
        self.storage = storage  # the kernel's: that of the tensors, or a copy
        self.shift = storage.data_ptr() - start
        self.place = min(tensor.element_size() for tensor in tensors.values())
        self.marks: dict[str, np.ndarray] = {}

    def places(self, addresses: np.ndarray, size: int) -> np.ndarray:
        """The places of elements of `size` bytes: a row for each."""
        offsets = addresses - self.start
        if self.place > 1 and (size % self.place or (offsets & (self.place - 1)).any()):
            self.marks = {name: np.repeat(marks, self.place) for name, marks in self.marks.items()}
            self.place = 1
        return (offsets // self.place)[:, None] + np.arange(size // self.place)

    def mark(self, name: str, places: np.ndarray | slice, value: int | np.ndarray, dtype: type = np.int32) -> None:
        if name not in self.marks:
            self.marks[name] = np.zeros(-(-(self.stop - self.start) // self.place), dtype)
        self.marks[name][places] = value

    def mark_argument(self, name: str, argument: str) -> None:
        """Mark the elements of an argument, not what lies between them."""
        tensor = self.tensors[argument]
        size = tensor.element_size()
        if tensor.is_contiguous():
            first = self._first(tensor)
            places = slice(first // self.place, (first + tensor.numel() * size) // self.place)
            self.mark(name, places, 1, np.bool_)
            return
        addresses = np.array([self.start + self._first(tensor)], np.int64)
        for extent, step in zip(tensor.shape, tensor.stride(), strict=True):
            addresses = (addresses[:, None] + np.arange(extent) * (step * size)).reshape(-1)
        self.mark(name, self.places(addresses, size), 1, np.bool_)

    def is_marked(self, name: str, places: np.ndarray) -> np.ndarray:
        """Which rows of places have a mark anywhere."""
        return np.any(self.marks[name][places], axis=1) if name in self.marks else np.zeros(len(places), np.bool_)

    def argument(self, address: int) -> str:
        """The name of the argument that an address belongs to, or is nearest to."""

        def distance(name: str) -> int:
            start, stop = self.extent(name)
            return max(start - address, address - stop + 1, 0)

        return min(self.tensors, key=distance)

    def extent(self, argument: str) -> tuple[int, int]:
        """From an argument's first element to behind its last, as the kernel sees them."""
        tensor = self.tensors[argument]
        start = self.start + self._first(tensor)
        last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
        return start, start + (last + 1) * tensor.element_size() if tensor.numel() else start

    @staticmethod
    def _first(tensor: torch.Tensor) -> int:
        return int(tensor.storage_offset()) * tensor.element_size()


class Order:
    """The accesses of a launch, numbered from 1 as they are made, and which may happen at the same time.

    Two of different programs may, unless the earlier program met the later one at an atomic operation in between:
    released what it had done, and the other acquired it. When a program last released is all that is kept of it, so
    that with several locks some accesses count as ordered which are not.
    """

    def __init__(self, programs: int) -> None:
        self.ops: list[Op | None] = [None]
        self._programs = np.full(1024, -1, np.int32)
        self._released = np.zeros(programs, np.int64)  # when
        self._at: dict[int, int] = {}  # address -> the programs that have released there, a bit for each
        self.begin(0)

    def begin(self, program: int) -> None:
        self.program, self._acquired, self._met = program, 0, np.zeros(0, np.bool_)

    def access(self, op: Op) -> int:
        """The number of an access that the program makes now."""
        number = len(self.ops)
        self.ops.append(op)
        if number == len(self._programs):
            self._programs = np.concatenate([self._programs, np.full(number, -1, np.int32)])
        self._programs[number] = self.program
        return number

    def acquire(self, address: int) -> None:
        self._acquired |= self._at.get(address, 0)
        size = -(-len(self._released) // 8)
        bits = np.frombuffer(self._acquired.to_bytes(size, "little"), np.uint8)
        self._met = np.unpackbits(bits, count=len(self._released), bitorder="little").view(np.bool_)

    def release(self, address: int) -> None:
        self._at[address] = self._at.get(address, 0) | self._acquired | 1 << self.program
        self._released[self.program] = len(self.ops)

    def program_of(self, number: int) -> int:
        return int(self._programs[number])

    def of_others(self, numbers: np.ndarray) -> np.ndarray:
        """Which accesses were made by other programs; 0 is none."""
        return (numbers > 0) & (self._programs[numbers] != self.program)

    def together(self, numbers: np.ndarray) -> np.ndarray:
        """Which accesses may happen while the program makes one now."""
        found = self.of_others(numbers)
        if self._acquired:
            programs = self._programs[numbers]
            found &= ~(self._met[programs] & (numbers < self._released[programs]))
        return found
