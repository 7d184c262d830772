"""What `fusedsl bench inductor` prints: our kernels on the CPU, beside those that Inductor generates for a GPU, run on
the CPU as ours are, and beside those that it generates for the CPU, in C++.

All write into tensors that are there, and take turns. Of the configurations that Inductor lists for a Triton kernel the
fastest is taken; where that is not the first for each launch, a call with the first ones takes its turns, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from .. import cpu_bench, types
from ..cpu_bench import Call, Timing, take_turns
from ..errors import BadOption
from ..workloads import WORKLOADS, Workload
from .chains import Chain
from .on_cpu import OnCPU, programs
from .program import Program

ROUNDS, SECONDS = 5, 1.0  # of a row; of a round
HEAD = ["chain             ", "dtype", "launches", "ms     ", "Triton: launches", "ms     ", "ratio", "spread",
        "first listed: ratio", "spread", "C++: ms", "ratio", "spread"]  # fmt: skip

# In these Inductor leaves a part to an op of torch: the seeds of random numbers, the k-th value.
LEFT_OUT = ("dropout", "sample_top_k")
CHAINS = {workload.name: workload for workload in WORKLOADS if workload.name not in LEFT_OUT}


def requests(chosen: Sequence[Workload], dtypes: Sequence[torch.dtype], small: bool) -> list[tuple[Chain, torch.dtype]]:
    """What Inductor is asked for: each workload in each dtype."""
    chains = [Chain(each.name, each.function, each.small if small else each.shapes) for each in chosen]
    return [(chain, dtype) for chain in chains for dtype in dtypes]


def rows(
    names: Sequence[str], dtypes: Sequence[torch.dtype], compiled: bool = True, small: bool = False
) -> Iterator[list[str]]:
    """A row for each workload (of these names, all if none) and dtype, as soon as it is measured.

    ratio: their time over ours, the median over the rounds. spread: the greatest ratio less the least, over the median.
    Raises BadOption for a name that is not in CHAINS."""
    for name in names:
        if name not in CHAINS:
            raise BadOption(name="chain", rule=f"one of {', '.join(CHAINS)}", got=repr(name))
    chosen = [each for name, each in CHAINS.items() if not names or name in names]
    cases = [(each, dtype) for each in chosen for dtype in dtypes]
    found = programs(requests(chosen, dtypes, small))
    for (workload, dtype), program in zip(cases, found, strict=True):
        args = workload.args(dtype, "cpu", small)
        chain = cpu_bench.Chain(workload.function, args)
        with torch.no_grad():
            yield [workload.name, types.dtype(dtype).name, *_cells(chain, program, compiled, 0.0 if small else SECONDS)]


def _cells(chain: cpu_bench.Chain, program: Program, compiled: bool, seconds: float) -> list[str]:
    tuned, first = OnCPU(program, chain.args), OnCPU(program, chain.args)
    tuned.tune()
    calls: list[Call] = [chain.given("").ours, tuned]
    calls += [first] if any(launch.chosen for launch in tuned.launches) else []
    torch._dynamo.reset()  # it gives up on a function that it has compiled eight times
    into = cpu_bench.copying(chain.function), first.results, *chain.args
    cpp = [rival.call for rival in cpu_bench.compiled(cpu_bench.Sizes(compiled=compiled), *into)]
    ours, fastest, *others = take_turns([*calls, *cpp], ROUNDS, seconds)
    last = others.pop() if cpp else None
    return [
        str(chain.fused.plan(*chain.args).launches), _ms(ours), str(len(program.steps)), _ms(fastest),
        *_ratio(ours, fastest), *_ratio(ours, others[0] if others else None), _ms(last), *_ratio(ours, last),
    ]  # fmt: skip


def _ms(timing: Timing | None) -> str:
    return "" if timing is None else f"{timing.median * 1e3:.3f}"


def _ratio(ours: Timing, theirs: Timing | None) -> list[str]:
    """The median over the rounds, and the spread."""
    if theirs is None:
        return ["", ""]
    ratios = Timing(tuple(b / a for a, b in zip(ours.rounds, theirs.rounds, strict=True)))
    return [f"{ratios.median:.2f}", f"{ratios.spread:.0%}"]
