"""Assertions about fused functions: launches, bytes, spills and values; and bytes counted as kernels run.

`f` is a fused function, or a function that is fused here. Arguments may be meta tensors where nothing is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from .codegen.inspect import TARGETS
from .codegen.traffic import Traffic
from .comparison import (
    Args,
    Comparison,
    Kwargs,
    as_fused,
    assert_matches,
    compare,
    reference,
    significant_strides,
    ulp_at,
)  # fmt: skip
from .errors import NotOneLaunch, Spills, TooManyBytes, UnsupportedDevice
from .fuzz import fuzz
from .plan import Plan

__all__ = [
    "TARGETS", "Comparison", "assert_launches", "assert_matches", "assert_no_spills", "assert_traffic", "compare",
    "count_traffic", "fuzz", "reference", "significant_strides", "ulp_at",
]  # fmt: skip

# ---- what a plan says ------------------------------------------------------------------------------------------------


def assert_launches(f: Callable[..., Any], args: Args, n: int, kwargs: Kwargs = None) -> None:
    """A call launches n kernels. Raises NotOneLaunch, with the plan."""
    plan = _plan(f, args, kwargs)
    if plan.launches != n:
        rule = f"it must be {_counted(n, 'launch', 'launches')}"
        raise NotOneLaunch(name=plan.graph.name, rule=rule, got=plan.launches, hint=f"The plan:\n{plan.explain()}")


def assert_traffic(f: Callable[..., Any], args: Args, at_most: float = 1.02, kwargs: Kwargs = None) -> None:
    """A call moves at most so many times the compulsory bytes: each byte that the outputs depend on read once, each
    byte of the outputs written once. Raises TooManyBytes, with the plan."""
    plan = _plan(f, args, kwargs)
    if plan.bytes > at_most * plan.compulsory_bytes:
        times = f" ({plan.bytes / plan.compulsory_bytes:.3f} times as many)" if plan.compulsory_bytes else ""
        rule = f"it must move at most {at_most:g} times the compulsory {plan.compulsory_bytes:,} bytes"
        got = f"{plan.bytes:,} bytes{times}"
        raise TooManyBytes(name=plan.graph.name, rule=rule, got=got, hint=f"The plan:\n{plan.explain()}")


def assert_no_spills(
    f: Callable[..., Any], args: Args, targets: Iterable[str] = tuple(TARGETS), kwargs: Kwargs = None
) -> None:
    """No kernel keeps in memory what should be in registers, compiled for these GPUs, which need not be there. Raises
    Spills, naming the kernels."""
    plan = _plan(f, args, kwargs)
    found = [
        f"{kernel.name} on {target}: {kernel.spills} bytes spilled, {kernel.registers} registers"
        for target in targets
        for kernel in plan.compile(target)
        if kernel.spills
    ]
    if found:
        raise Spills(name=plan.graph.name, rule="no kernel may spill registers", got="; ".join(found),
                     hint="Fewer values alive at once, or smaller tiles, need fewer registers.")  # fmt: skip


def _plan(f: Callable[..., Any], args: Args, kwargs: Kwargs) -> Plan:
    with torch.no_grad():
        return as_fused(f).plan(*args, **(kwargs or {}))


def _counted(n: int, one: str, several: str) -> str:
    return f"{n} {one if n == 1 else several}"


# ---- what a run does -------------------------------------------------------------------------------------------------


def count_traffic(f: Callable[..., Any], args: Args, kwargs: Kwargs = None) -> Traffic:
    """Runs a call on the CPU and counts every byte that its programs load and store, by parameter of the kernels.

    Raises UnsupportedDevice for tensors elsewhere."""
    with torch.no_grad():
        _, planner, bound = as_fused(f)._entry(tuple(args), kwargs or {})
        for value in bound.values:
            if isinstance(value, torch.Tensor) and value.device.type != "cpu":
                raise UnsupportedDevice(op="count_traffic", rule="tensors must be on the CPU", got=value.device,
                                        hint="Move them with .cpu().")  # fmt: skip
        traffic, device = Traffic(), torch.device("cpu")
        planner.plan(bound.values, bound.sizes, device).run(bound.values, device, traffic)
    return traffic
