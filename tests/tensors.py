"""Tensors to test on: values in a domain, those that a dtype has at its ends, and layouts in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from fusedsl.ops.convert import torch_dtype
from fusedsl.types import DType

Domain = tuple[float, float]

# ---- values ----------------------------------------------------------------------------------------------------------

_EDGES = [math.nan, math.inf, -math.inf, -0.0, 0.0, 1.0, -1.0, 0.5, 1.5, 2.5]


def fill(shape: Sequence[int], dt: DType, domain: Domain, seed: int, edges: bool) -> torch.Tensor:
    """Values in the domain; seed 0 gives 1, 2, 3 ... With edges, some of those that a dtype has at its ends."""
    count = math.prod(shape)
    numbers = np.random.default_rng(seed)
    low, high = domain
    if dt.is_bool:
        values = torch.from_numpy(numbers.integers(0, 2, count)).to(torch.bool)
    elif dt.is_float:
        drawn = torch.from_numpy(numbers.uniform(low, high, count)) if seed else _simple(count, low, high)
        values = drawn.to(torch_dtype(dt))
    else:
        info = torch.iinfo(torch_dtype(dt))
        low, high = max(math.ceil(low), info.min), min(math.floor(high), info.max)
        high = max(low, high)
        drawn = torch.from_numpy(numbers.integers(low, high + 1, count)) if seed else _simple(count, low, high)
        values = drawn.to(torch_dtype(dt))
    if edges and count:
        for at in numbers.integers(0, count, 1 + count // 6):
            values[at] = _edge(dt, numbers)
    return values.reshape(tuple(shape))


def _simple(count: int, low: float, high: float) -> torch.Tensor:
    span = int(high - low)
    return torch.tensor([low + (k + 1) % (span + 1) for k in range(count)], dtype=torch.float64)


def _edge(dt: DType, numbers: np.random.Generator) -> Any:
    if dt.is_bool:
        return True
    if dt.is_float:
        info = torch.finfo(torch_dtype(dt))
        edges = [*_EDGES, info.tiny, info.smallest_normal / 4, info.max, info.min, info.eps]
    else:
        info = torch.iinfo(torch_dtype(dt))
        edges = [info.min, info.max, 0, 1]
    return edges[int(numbers.integers(len(edges)))]


# ---- layouts ---------------------------------------------------------------------------------------------------------


def _dense(values: torch.Tensor) -> torch.Tensor:
    return values


def _transposed(values: torch.Tensor) -> torch.Tensor:
    order = tuple(reversed(range(values.ndim)))
    return values.permute(order).contiguous().permute(order)


def _sliced(values: torch.Tensor) -> torch.Tensor:
    """Every other element of a tensor twice as long, from the second on."""
    if not values.ndim:
        return values
    long = torch.repeat_interleave(values, 2, -1)
    return torch.cat([long[..., :1], long], -1)[..., 1::2] if values.shape[-1] else values


def _stacked(values: torch.Tensor) -> torch.Tensor:
    """Part of a larger tensor: an offset, and rows further apart than they are long."""
    return torch.nn.functional.pad(values.double(), (1, 2)).to(values.dtype)[..., 1:-2] if values.ndim else values


def _repeated(values: torch.Tensor) -> torch.Tensor:
    """One row for all: stride 0."""
    return values[:1].expand(values.shape) if values.ndim and values.shape[0] else values


LAYOUTS: Sequence[Callable[[torch.Tensor], torch.Tensor]] = (_dense, _dense, _transposed, _sliced, _stacked, _repeated)
