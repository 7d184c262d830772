"""What the examples report: launches and bytes of a chain, fused and in eager, and its error against float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from fusedsl import Fused


@dataclass
class Cost:
    """Kernels launched, and bytes that they read and write."""

    launches: int = 0
    bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.launches + other.launches, self.bytes + other.bytes)

    def __floordiv__(self, share: int) -> Cost:
        return Cost(self.launches // share, self.bytes // share)


def tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def memory(x: torch.Tensor) -> int:
    """The bytes behind a tensor: a dimension of stride 0 repeats them."""
    count = 1
    for n, stride in zip(x.shape, x.stride(), strict=True):
        count *= n if stride else 1
    return count * x.element_size()


class Eager(TorchDispatchMode):
    """Counts what torch runs: one launch an op, which reads its tensors and writes its results. Views are free."""

    def __init__(self) -> None:
        super().__init__()
        self.cost = Cost()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = op(*args, **(kwargs or {}))
        if not op.is_view:
            moved = sum(memory(x) for x in tensors((args, kwargs, out)))
            self.cost += Cost(1, moved)
        return out


def eager_cost(function: Callable[..., Any], *args: Any) -> tuple[Any, Cost]:
    """What the function returns, and what torch ran for it."""
    with Eager() as counted:
        out = function(*args)
    return out, counted.cost


def planned_cost(f: Fused, *args: Any) -> Cost:
    """What a call of the fused function would run."""
    plan = f.plan(*args)
    return Cost(plan.launches, plan.bytes)


def error(got: Any, wanted: Any) -> float:
    """The greatest difference, relative to the greatest value, over all tensors of two results."""
    pairs = zip(tensors(got), tensors(wanted), strict=True)
    return max(float((a.double() - b.double()).abs().max() / b.double().abs().max()) for a, b in pairs)


def in_float64(tree: Any) -> Any:
    """The same arguments or results, with every float tensor in float64."""
    return tree_map(lambda x: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x, tree)


def print_cost(f: Fused, *args: Any) -> None:
    """One line: launches and bytes, fused and in eager."""
    _, eager = eager_cost(f.function, *args)
    fused = planned_cost(f, *args)
    print(f"{f.function.__name__}: launches {fused.launches} (eager {eager.launches}), "
          f"bytes {fused.bytes:,} (eager {eager.bytes:,})")  # fmt: skip


def report(f: Fused, *args: Any) -> float:
    """Runs a fused function, prints what it costs and how exact it is, and returns its error against float64."""
    exact = f.function(*in_float64(args))
    fused, eager = error(f(*args), exact), error(f.function(*args), exact)
    print_cost(f, *args)
    print(f"    error against float64 {fused:.1e} (eager {eager:.1e})")
    return fused
