"""What `fusedsl bench peers` prints: our kernels beside torch Inductor's and Liger's for the same chains."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch

from ..api import fuse
from ..errors import MissingPackage
from ..plan import Plan
from .chains import CHAINS, Chain
from .launch import Buffer, Launch
from .record import Work
from .thread import CannotFollow
from .worker import works

PEERS = ("inductor", "liger")
TARGETS = ("sm_80", "sm_90")
DTYPE = torch.bfloat16
APART = 2  # times; tiles that are further apart make a comparison doubtful


def peers_head() -> list[str]:
    """The columns of a row, each as wide as what stands in it.

    launches      of Triton kernels, and of torch's own ops beside them
    MB            moved: each distinct byte of a launch read and written, summed over launches
    registers     of the kernel that takes most, with the bytes that it spills if any
    tile          bytes of the largest tile that a program holds of a tensor
    instructions  executed for each element of the largest argument; more where torch's own ops are not counted
    over peer     ours over the better peer's: instructions, registers; ~ where the tiles are more than twice apart
    """
    return ["chain         ", "dtype", "target", "side    ", "launches", "MB   ", "registers", "tile ", "instructions",
            "over peer: instructions", "registers"]  # fmt: skip


@dataclass(frozen=True)
class Side:
    """What one side's kernels for a chain need."""

    name: str
    launches: int
    other_ops: int
    bytes: int
    registers: int
    spills: int
    tile: int
    instructions: float  # for an element

    @property
    def cells(self) -> list[str]:
        return [
            self.name,
            f"{self.launches}{f'+{self.other_ops}' if self.other_ops else ''}",
            f"{self.bytes / 1e6:.1f}",
            f"{self.registers}{f' +{self.spills}B' if self.spills else ''}",
            str(self.tile),
            f"{self.instructions:.2f}{'+' if self.other_ops else ''}",
        ]


def peers_rows(names: Sequence[str], targets: Sequence[str], peers: Sequence[str] = PEERS) -> Iterator[list[str]]:
    """A row for each side of each chain (of these names, all if none), as soon as it is measured; ours is the last.

    Raises MissingPackage if Liger is wanted and not there."""
    if "liger" in peers and importlib.util.find_spec("liger_kernel") is None:
        raise MissingPackage(what="the comparison with Liger", name="liger-kernel",
                             hint="compare with `--peer inductor` alone")  # fmt: skip
    chains = [name for name in CHAINS if not names or name in names]
    for target in targets:
        requests = [(CHAINS[name], DTYPE) for name in chains]
        for name, found in zip(chains, works(target, peers, requests), strict=True):
            theirs = [measure(CHAINS[name], side, work) for side, work in found.items() if work is not None]
            ours = measure(CHAINS[name], "fusedsl", our_work(CHAINS[name], target))
            for side in theirs:
                yield [name, "bf16", target, *side.cells, "", ""]
            yield [name, "bf16", target, *ours.cells, *over_better(ours, theirs)]


def over_better(ours: Side, theirs: Sequence[Side]) -> list[str]:
    """Instructions and registers over the least that a peer needs; a peer that spills needs more than it has."""
    least = min(theirs, key=lambda side: side.instructions)
    doubtful = not least.tile / APART <= ours.tile <= least.tile * APART
    leanest = min(theirs, key=lambda side: (side.spills > 0, side.registers))
    return [
        f"{ours.instructions / least.instructions:.2f}{'~' if doubtful else ''}",
        f"{ours.registers / leanest.registers:.2f}",
    ]


def measure(chain: Chain, name: str, work: Work) -> Side:
    """What these launches need for a chain."""
    costs = [launch.cost for launch in work.launches]
    executed = sum(launch.threads * cost.instructions for launch, cost in zip(work.launches, costs, strict=True))
    distinct = chain.distinct_bytes(DTYPE)
    moved = sum(cost.bytes(distinct) for cost in costs) + sum(count for _, count in work.ops)
    if moved < chain.elements * DTYPE.itemsize:
        raise CannotFollow(f"{name}'s {chain.name} moves {moved:,} bytes, less than its largest argument has")
    most = max((launch.compiled for launch in work.launches), key=lambda kernel: (kernel.spills, kernel.registers))
    return Side(
        name, len(work.launches), len(work.ops), moved, most.registers, most.spills,
        max(launch.tile_bytes for launch in work.launches), executed / chain.elements,
    )  # fmt: skip


def our_work(chain: Chain, target: str) -> Work:
    """Our launches for a chain."""
    with torch.no_grad():
        plan = fuse(chain.function).plan(*chain.args(DTYPE, "meta")).on(target)
    launched = [at for at, grid in enumerate(plan.grids) if grid[0]]
    compiled = plan.compile(target)
    return Work(tuple(
        Launch(kernel, plan.grids[at], plan.configs[at].num_warps, tuple(_arguments(plan, at)))
        for at, kernel in zip(launched, compiled, strict=True)
    ))  # fmt: skip


def _arguments(plan: Plan, at: int) -> Iterator[Buffer | int]:
    """What a launch of ours takes, tiles left out: those are in the code."""
    values: Mapping[str, int] = plan.fixed[at]
    inputs = plan.program.graph.inputs
    for parameter in plan.steps[at].parameters:
        if parameter.kind == "pointer":
            assert parameter.buffer is not None
            node, dtype = parameter.buffer.node, parameter.buffer.dtype
            place = inputs.index(node) if node in inputs else None
            yield Buffer(prod(plan.shape_of(node)) * dtype.bytes, dtype.bytes, dtype.is_integer, place)
        elif parameter.kind != "tile":
            yield values[parameter.name]
