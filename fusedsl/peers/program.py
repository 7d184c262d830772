"""A call as launches of Triton kernels on buffers, without the process and the device that they were caught in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class View:
    """A tensor on a buffer."""

    buffer: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    def on(self, storages: Sequence[torch.UntypedStorage]) -> torch.Tensor:
        """The tensor, where the buffers are these."""
        return torch.empty(0, dtype=self.dtype).set_(storages[self.buffer], self.offset, self.shape, self.strides)


@dataclass(frozen=True)
class Choice:
    """One of the configurations of a launch: the values of its constants, and the grid that goes with them."""

    constants: Mapping[str, object]
    grid: tuple[int, int, int]


@dataclass(frozen=True)
class Step:
    """A launch. signature, arguments: of the parameters that are no constants, in their order."""

    name: str
    source: str
    signature: Mapping[str, str]
    arguments: tuple[View | float, ...]
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class Program:
    """Launches in their order. buffers: the bytes of each; the first ones are those of the call's arguments.

    results: the tensors that the call returns, its tree flattened. ops: of torch's own that the call has beside the
    launches; where there are any, the launches alone give no results."""

    steps: tuple[Step, ...]
    buffers: tuple[int, ...]
    results: tuple[View, ...]
    ops: tuple[str, ...]


class Buffers:
    """Numbers the storages of tensors as they come. It holds the tensors, so that no storage is taken for another."""

    def __init__(self, args: Sequence[torch.Tensor]) -> None:
        self.places: dict[int, int] = {}
        self.sizes: list[int] = []
        self.held: list[torch.Tensor] = []
        for arg in args:
            self.view(arg)

    def view(self, tensor: torch.Tensor) -> View:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.places:
            self.places[storage._cdata] = len(self.sizes)
            self.sizes.append(storage.nbytes())
            self.held.append(tensor)
        at = self.places[storage._cdata]
        return View(at, tensor.dtype, tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()))
