"""What `fusedsl bench workloads` measures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from .api import Fused, fuse
from .comparison import compare, is_random
from .testing import count_traffic
from .workloads import Workload, cases


def workload_head(targets: Sequence[str]) -> list[str]:
    """The columns of a row, each as wide as what stands in it.

    bytes      moved, over the compulsory ones
    requested  by the programs, over those read
    sm_90 ...  registers of the kernel that takes most, with the bytes that it spills if any
    error      greatest, over eager's, on the small instance; what is wrong where the rule of acceptance is broken
    counted    bytes as the small instance runs, over those planned for it
    """
    planned = ["workload        ", "dtype   ", "launches", "bytes", "requested", "passes"]
    return [*planned, *(f"{target:9}" for target in targets), "counted", "error"]


def workload_rows(names: Sequence[str], targets: Sequence[str]) -> Iterator[list[str]]:
    """A row for each workload (of these names, all if none) and dtype, as soon as it is measured."""
    for workload, dtype in cases():
        if not names or workload.name in names:
            with torch.no_grad():
                yield list(_cells(workload, dtype, targets))


def _cells(workload: Workload, dtype: torch.dtype, targets: Sequence[str]) -> Iterator[str]:
    fused = fuse(workload.function)
    plan = fused.plan(*workload.args(dtype))
    yield workload.name
    yield str(dtype).removeprefix("torch.")
    yield str(plan.launches)
    yield f"{plan.bytes / plan.compulsory_bytes:.3f}"
    yield f"{plan.load_bytes / sum(sum(k.reads.values()) for k in plan.kernels):.3f}"
    yield str(plan.passes)
    for target in targets:
        most = max(plan.compile(target), key=lambda kernel: (kernel.spills, kernel.registers))
        yield f"{most.registers}{f' +{most.spills}B' if most.spills else ''}"
    small = workload.args(dtype, "cpu", small=True)
    traffic = count_traffic(fused, small)
    counted = traffic.total_unique_load_bytes + traffic.total_unique_store_bytes
    yield f"{counted / fused.plan(*small).bytes:.3f}"
    yield _error(fused, small)


def _error(fused: Fused, args: Sequence[object]) -> str:
    if is_random(fused, args):
        return "random"
    found = compare(fused, args)
    faults = [str(each.fault) for each in found if each.fault is not None]
    ratios = [c.fused.most / c.eager.most for c in found if c.fused and c.eager and c.eager.most]
    return "; ".join(faults) or f"{max(ratios, default=0.0):.2f}"
