"""What `fusedsl bench gpu` measures: the workload chains on this computer's GPU, beside eager torch and torch.compile.

Times are the device's, by its events, with the L2 cache cleared before every call. Contenders take turns: a round gives
each one's median, and the rounds another. What a call costs the host is measured apart, where kernels are too small to
be waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any

import torch

from .api import fuse
from .contractions import CONTRACTIONS
from .workloads import WORKLOADS, Workload, swiglu

Call = Callable[[], Any]

ROUNDS, WARM, REPEAT = 3, 5, 25  # of a row; milliseconds of a round
HEAD = ["workload          ", "dtype   ", "us      ", "of copy", "eager   ", "compile ", "launches", "theirs"]


def rows(names: Sequence[str], dtypes: Sequence[torch.dtype], compiled: bool = True) -> Iterator[list[str]]:
    """A row for each workload (of these names, all if none) and dtype, as soon as it is measured.

    us         a call of ours, microseconds
    of copy    the time of a copy that moves as many bytes as must move here, over ours
    eager ...  their time over ours
    launches   of ours; theirs: of torch.compile's kernels"""
    for workload in (*WORKLOADS, *CONTRACTIONS):
        for dtype in dtypes if not names or workload.name in names else ():
            with torch.no_grad():
                yield _row(workload, dtype, compiled)
            torch.cuda.empty_cache()


def _row(workload: Workload, dtype: torch.dtype, compiled: bool) -> list[str]:
    args = workload.args(dtype, "cuda")
    fused = fuse(workload.function)
    calls: list[Call] = [lambda: fused(*args), lambda: workload.function(*args)]
    if compiled:
        torch._dynamo.reset()
        fast = torch.compile(workload.function, dynamic=False)
        calls.append(lambda: fast(*args))
    plan = fused.plan(*args)
    ours, copy, *theirs = device_times([calls[0], a_copy(plan.compulsory_bytes), *calls[1:]])
    ratios = [f"{each / ours:.2f}" for each in theirs] + [""] * (2 - len(theirs))
    kernels = str(kernels_of(calls[-1])) if compiled else ""
    kind = str(dtype).removeprefix("torch.")
    return [workload.name, kind, f"{ours * 1e6:.1f}", f"{copy / ours:.2f}", *ratios, str(plan.launches), kernels]


def a_copy(size: int) -> Call:
    """Moves so many bytes, read and written."""
    a = torch.empty(size // 2, dtype=torch.uint8, device="cuda").random_()
    b = torch.empty_like(a)
    return lambda: b.copy_(a)


def device_times(calls: Sequence[Call]) -> list[float]:
    """Seconds that each call takes the device."""
    from triton.testing import do_bench

    for call in calls:
        call()
    rounds = [
        [do_bench(call, warmup=WARM, rep=REPEAT, return_mode="median") for call in calls] for _ in range(ROUNDS)
    ]  # fmt: skip
    return [median(each) / 1e3 for each in zip(*rounds, strict=True)]


def kernels_of(call: Call) -> int:
    """Kernels that a call runs on the device."""
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as seen:
        call()
        torch.cuda.synchronize()
    return sum(e.device_type.name == "CUDA" and not e.name.startswith("Mem") for e in seen.events() or ())


# ---- the host --------------------------------------------------------------------------------------------------------


def host_lines(compiled: bool = True, count: int = 4096) -> Iterator[str]:
    """Microseconds of host time for a call of swiglu on so many elements, the device being faster."""
    gate, up = torch.randn(2, count, device="cuda").unbind()
    fused = fuse(swiglu)
    calls: dict[str, Call] = {
        "fused": lambda: fused(gate, up),
        "eager, two launches": lambda: swiglu(gate, up),
        "eager, one launch": lambda: torch.mul(gate, up),
    }
    if compiled:
        fast = torch.compile(swiglu, dynamic=False)
        calls["torch.compile"] = lambda: fast(gate, up)
    with torch.no_grad():
        times = host_times(list(calls.values()))
    for name, seconds in zip(calls, times, strict=True):
        yield f"a call, {name}: {seconds * 1e6:.1f} us"


def host_times(calls: Sequence[Call], turns: int = 500) -> list[float]:
    """Seconds until each call returns, where it does not wait for the device."""
    for call in calls:
        call()
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(2 * ROUNDS + 1):
        for at, call in enumerate(calls):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(turns):
                call()
            found[at].append((time.perf_counter() - start) / turns)
    return [median(each) for each in found]
