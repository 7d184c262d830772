"""Choosing scales, zero points and codes for a tensor: by the range of each group, or by the least squared error."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .formats import Format, e8m0_decode, e8m0_encode, scale_round
from .types import dtype as named_dtype

Method = Literal["minmax", "mse"]
METHODS = ("minmax", "mse")
_BLOCK = 1 << 20  # values that are quantised at a time
_TINY = torch.finfo(torch.float32).smallest_normal


class Quantised(NamedTuple):
    """u8 codes [rows, K], and the scale and zero point [rows, groups] as they are stored; second: f32, 0-dim."""

    codes: Tensor
    scale: Tensor | None
    zero: Tensor | None
    second: Tensor | None


class _Grid(NamedTuple):
    """A scale and a zero point for each group, [rows, groups, 1]: rounded as stored, in the dtype of computing."""

    scale: Tensor
    zero: Tensor | None


def stored_dtype(name: str) -> torch.dtype:
    """torch's dtype of a format's scales or zero points; u8 for codes and for e8m0."""
    if name in ("u8", "e8m0"):
        return torch.uint8
    found = named_dtype(name).torch
    assert found is not None, name
    return found


def group_size(format: Format, size: int) -> int:
    """The values that share a scale along an axis of that size."""
    return format.group or max(size, 1)


def group_count(format: Format, size: int) -> int:
    return -(-size // group_size(format, size))


def quantise(rows: Tensor, format: Format, method: Method = "minmax") -> Quantised:
    """The codes of float rows [M, K], with groups along K. Computed in f32, of f64 in f64. All values must be finite,
    but for a format without a scale."""
    blocks = rows.split(max(1, _BLOCK // max(rows.shape[1], 1)))
    if format.scale is None:
        codes = [format.element.encode(_exact(block)) for block in blocks]
        return Quantised(torch.cat(codes), None, None, None)
    second = _second(blocks, format) if format.second else None
    done = [_quantise(_exact(block), format, method, second) for block in blocks]
    scale = _stored_scale(torch.cat([grid.scale for _, grid in done]).squeeze(-1), format)
    zeros = [grid.zero for _, grid in done if grid.zero is not None]
    zero = _stored_zero(torch.cat(zeros).squeeze(-1), format) if zeros else None
    return Quantised(torch.cat([codes for codes, _ in done]), scale, zero, second)


def dequantise(
    codes: Tensor, format: Format, scale: Tensor | None, zero: Tensor | None, second: Tensor | None
) -> Tensor:
    """The f32 values of u8 codes [*rest, K]: (value - zero) * (scale * second), or value * scale + minimum, with scale
    and zero, which is the minimum where there is one, [*rest, groups]."""
    size = codes.shape[-1]
    values = format.element.decode(codes, torch.float32)
    if format.offset:
        values -= format.offset
    shift = None if zero is None else _spread(_zero_value(zero, format), format, size)
    if shift is not None and format.zero != "min":
        values -= shift
    if scale is not None:
        value = e8m0_decode(scale) if format.scale == "e8m0" else scale.float()
        values *= _spread(value if second is None else value * second, format, size)
    return values + shift if format.zero == "min" and shift is not None else values


def _spread(groups: Tensor, format: Format, size: int) -> Tensor:
    """One value a group [*rest, groups] as one a value [*rest, size], or what broadcasts to it."""
    return groups if groups.shape[-1] == 1 else groups.repeat_interleave(group_size(format, size), -1)[..., :size]


def _exact(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


# ---- scales and zero points as they are stored -----------------------------------------------------------------------


def _stored_scale(scale: Tensor, format: Format) -> Tensor:
    assert format.scale is not None
    return e8m0_encode(scale) if format.scale == "e8m0" else scale.to(stored_dtype(format.scale))


def _stored_zero(zero: Tensor, format: Format) -> Tensor:
    """Zero points as their codes, which count from the least value, or as numbers."""
    assert format.zero_dtype is not None
    return (zero - format.element.least if format.zero == "code" else zero).to(stored_dtype(format.zero_dtype))


def _zero_value(zero: Tensor, format: Format) -> Tensor:
    return zero.float() + format.element.least if format.zero == "code" else zero.float()


def _second(blocks: Sequence[Tensor], format: Format) -> Tensor:
    """The factor of all scales, f32 and 0-dim, with which the greatest scale is the greatest of its dtype; 1 where that
    reaches as far as f32 does."""
    factor = 1.0
    if format.scale in ("f8e4m3", "f16"):
        most = max((float(_exact(block).abs().max()) for block in blocks if block.numel()), default=0.0)
        factor = most / (torch.finfo(stored_dtype(format.scale)).max * reach(format)) or 1.0
    return torch.tensor(max(factor, _TINY), dtype=torch.float32, device=blocks[0].device)


# ---- grids -----------------------------------------------------------------------------------------------------------


def reach(format: Format) -> float:
    """The greatest magnitude on both sides of a symmetric grid, in scales."""
    element = format.element
    if element.kind in ("uint", "int"):
        return max(2 ** (element.bits - 1) - 1, 1) * element.factor
    return max(-element.least, element.greatest)


def _grid(low: Tensor, high: Tensor, format: Format, second: Tensor | None) -> _Grid:
    """The grid that reaches from low to high, both [rows, groups, 1]: of those with 0 in them from below 0 to above."""
    element = format.element
    if format.zero is None:
        return _Grid(_scale(torch.maximum(-low, high), reach(format), format, second), None)
    scale = _scale(high - low, element.greatest - element.least, format, second)
    if format.zero == "min":
        zero = low - element.least * (scale if second is None else scale * second)
    else:
        zero = element.least - low / _divisor(scale, second)
    if format.zero == "code":
        return _Grid(scale, zero.round().clamp(element.least, element.greatest))
    assert format.zero_dtype is not None
    limits = torch.finfo(stored_dtype(format.zero_dtype))
    return _Grid(scale, _stored_zero(zero.clamp(limits.min, limits.max), format).to(zero.dtype))


def _scale(length: Tensor, steps: float, format: Format, second: Tensor | None) -> Tensor:
    """The scale of which `steps` are `length`, rounded as it is stored, but not to 0. A length of 0 has scale 1, or 0
    where no code stands for 0, so that it decodes to 0."""
    assert format.scale is not None
    if format.scale == "e8m0":  # OCP's MX: the exponent of the length less that of the element's greatest value
        scale = length / 2.0 ** math.floor(math.log2(steps))
    else:
        limits = torch.finfo(stored_dtype(format.scale))
        scale = length / steps if second is None else length / steps / second
        scale = scale.clamp(min=limits.smallest_normal * limits.eps)
    blank = 1.0 if format.zero or format.offset or 0.0 in format.element.values else 0.0
    return scale_round(scale, format.scale).to(length.dtype).where(length > 0, blank)


def _divisor(scale: Tensor, second: Tensor | None) -> Tensor:
    scale = scale if second is None else scale * second
    return scale.where(scale > 0, 1.0)


@dataclass(frozen=True)
class _Block:
    """Values [rows, groups, size] of some rows. used [groups, size] is False for what pads the last group."""

    values: Tensor
    used: Tensor
    format: Format
    second: Tensor | None

    @cached_property
    def range(self) -> tuple[Tensor, Tensor]:
        """How far a grid reaches below and above 0, [rows, groups, 1]: of ternary the mean magnitude, as in BitNet."""
        if self.format.element.kind == "ternary":
            mean = self.values.abs().sum(-1, True) / self.used.sum(-1, True)
            return -mean, mean
        if self.format.zero == "min":
            low = self.values.where(self.used, math.inf).amin(-1, True)
            return low, self.values.where(self.used, -math.inf).amax(-1, True)
        return self.values.amin(-1, True).clamp(max=0), self.values.amax(-1, True).clamp(min=0)

    def grid(self, factor: float = 1.0) -> _Grid:
        low, high = self.range
        return _grid(low * factor, high * factor, self.format, self.second)

    def steps(self, grid: _Grid) -> Tensor:
        """The values as the element's."""
        minimum, zero = self.shifts(grid)
        steps = (self.values if minimum is None else self.values - minimum) / _divisor(grid.scale, self.second)
        if zero is not None:
            steps += zero
        return steps + self.format.offset if self.format.offset else steps

    def shifts(self, grid: _Grid) -> tuple[Tensor | None, Tensor | None]:
        """A grid's minimum and zero point."""
        return (grid.zero, None) if self.format.zero == "min" else (None, grid.zero)

    def error(self, grid: _Grid) -> Tensor:
        """The squared error of each group, [rows, groups, 1]."""
        minimum, zero = self.shifts(grid)
        values = _nearest(self.steps(grid), self.format)
        values -= self.format.offset if zero is None else zero
        values *= grid.scale if self.second is None else grid.scale * self.second
        values = values if minimum is None else values + minimum
        return ((values - self.values).square_() * self.used).sum(-1, True)

    def search(self) -> _Grid:
        """The grid with the least squared error for each group, of the whole range and smaller ones."""
        best = self.grid()
        least = self.error(best)
        for factor in _factors(self.format):
            grid = self.grid(factor)
            error = self.error(grid)
            better = error < least
            least = error.where(better, least)
            zero = None if grid.zero is None or best.zero is None else grid.zero.where(better, best.zero)
            best = _Grid(grid.scale.where(better, best.scale), zero)
        return best


def _quantise(rows: Tensor, format: Format, method: Method, second: Tensor | None) -> tuple[Tensor, _Grid]:
    """The u8 codes [rows, K] and their grid."""
    count, size = group_count(format, rows.shape[1]), group_size(format, rows.shape[1])
    values = pad(rows, (0, count * size - rows.shape[1])).reshape(len(rows), count, size)
    used = torch.arange(count * size, device=rows.device).reshape(count, size) < rows.shape[1]
    block = _Block(values, used, format, second)
    grid = block.search() if method == "mse" else block.grid()
    codes = format.element.encode(block.steps(grid))
    return codes.reshape(len(rows), count * size)[:, : rows.shape[1]], grid


def _factors(format: Format) -> list[float]:
    """What the range of a group is tried with besides 1. A scale that is a power of two moves in powers of two."""
    if format.scale == "e8m0":
        return [2.0, 0.5, 0.25]
    least, most = (0.5, 2.0) if format.element.kind == "ternary" else (0.35, 1.0)
    return [least + (most - least) * at / 40 for at in reversed(range(40))]


def _nearest(steps: Tensor, format: Format) -> Tensor:
    """The element's values nearest to numbers; of two that are as near, either. Quicker than by their codes."""
    element = format.element
    if element.kind in ("uint", "int", "ternary"):
        return (steps / element.factor).round_().mul_(element.factor).clamp_(element.least, element.greatest)
    rising = sorted({value for value in element.values if math.isfinite(value)})
    middles = [(low + high) / 2 for low, high in itertools.pairwise(rising)]
    places = torch.bucketize(steps, torch.tensor(middles, dtype=steps.dtype, device=steps.device))
    return torch.tensor(rising, dtype=steps.dtype, device=steps.device)[places]
