"""Inductor's kernels on this computer's CPU, natively: those that it generates for a GPU, launched on CPU tensors.

A kernel runs in any of the configurations that Inductor's heuristics list for it: one to four sizes of blocks, meant
for a GPU. Which is the fastest here can be measured, as Inductor does on a device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ..codegen.cpu.launch import Kernel, kernel_of
from ..cpu_bench import take_turns
from ..runtime import load
from .chains import Chain
from .program import Program, Step, View
from .worker import works

TARGET = "sm_90"  # the device that Inductor generates for


def programs(requests: Sequence[tuple[Chain, torch.dtype]]) -> Iterator[Program]:
    """What Inductor's wrapper launches for each chain and dtype."""
    return (found["program"] for found in works(TARGET, ["program"], requests))


class Launch:
    """A launch on certain tensors, in any of its configurations. chosen: the one that a call runs."""

    def __init__(self, step: Step, storages: Sequence[torch.UntypedStorage]) -> None:
        self.function = load(step.source, step.name)
        self.values = [each.on(storages) if isinstance(each, View) else each for each in step.arguments]
        self.choices = [
            (kernel_of(self.function, step.signature, choice.constants), choice.grid) for choice in step.choices
        ]
        self.chosen = 0

    def __call__(self) -> None:
        kernel, grid = self.choices[self.chosen]
        kernel(self.values, grid)

    def tune(self, seconds: float) -> None:
        """Chooses the fastest."""
        calls = [self._in(kernel, grid) for kernel, grid in self.choices]
        times = [timing.median for timing in take_turns(calls, rounds=3, seconds=seconds)]
        self.chosen = times.index(min(times))

    def _in(self, kernel: Kernel, grid: tuple[int, int, int]) -> Any:
        return lambda: kernel(self.values, grid)


class OnCPU:
    """A program on arguments. Every other buffer is allocated once, results among them, so that a call allocates
    nothing."""

    def __init__(self, program: Program, args: Sequence[torch.Tensor]) -> None:
        assert not program.ops, f"Inductor leaves {', '.join(program.ops)} to torch"
        assert [x.untyped_storage().nbytes() for x in args] == [*program.buffers[: len(args)]], "other arguments"
        made = [torch.zeros(size, dtype=torch.uint8) for size in program.buffers[len(args) :]]
        storages = [each.untyped_storage() for each in (*args, *made)]
        self.launches = [Launch(step, storages) for step in program.steps]
        self.results = [view.on(storages) for view in program.results]

    def __call__(self) -> None:
        for launch in self.launches:
            launch()

    def tune(self, seconds: float = 0.2) -> None:
        """Chooses the fastest configuration of each launch, by launches on what the others left in memory."""
        self()
        for launch in self.launches:
            launch.tune(seconds)
