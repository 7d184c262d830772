"""Images of other sizes: channels that become pixels, and the nearest pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from fusedsl import ir
from fusedsl.errors import BadArgument
from fusedsl.index import Index, Poly, divide_exactly
from fusedsl.ir import Dim, MaybeNumber, Node, Size, declare
from fusedsl.types import f32, i64, show_shape

from .compare import minimum
from .elementwise import floor
from .indexing import pick
from .movement import permute, repeat_interleave, reshape, slice, transpose
from .norms import usual_format
from .source import numbers


def _parts_of(n: Index, by: Index, op: str, name: str) -> Index:
    parts = divide_exactly(n, by) if not (isinstance(by, int) and by < 1) else None
    if parts is None:
        raise BadArgument(op=op, name=name, rule=f"a divisor of {n}", got=by, hint="")
    return parts


def _image(x: Node, op: str) -> tuple[Sequence[Index], Index, Index, Index]:
    if x.rank < 3:
        raise BadArgument(op=op, name="x", rule="of three dimensions at least", got=show_shape(x.shape), hint="")
    *outer, channels, rows, columns = x.shape
    return outer, channels, rows, columns


def _pixel_shuffle(x: Node, upscale_factor: Index) -> Node:
    outer, channels, rows, columns = _image(x, "pixel_shuffle")
    r, at = upscale_factor, x.rank - 3
    kept = _parts_of(channels, r * r, "pixel_shuffle", "upscale_factor squared")
    parts = reshape(x, (*outer, kept, r, r, rows, columns))
    order = (*range(at), at, at + 3, at + 1, at + 4, at + 2)
    return reshape(permute(parts, order), (*outer, kept, rows * r, columns * r))


@declare(expand=_pixel_shuffle)
def pixel_shuffle(x: torch.Tensor, upscale_factor: Size):
    """Every upscale_factor^2 channels as one, with so many more rows and columns."""
    return F.pixel_shuffle(x, upscale_factor)


def _pixel_unshuffle(x: Node, downscale_factor: Index) -> Node:
    outer, channels, rows, columns = _image(x, "pixel_unshuffle")
    r, at = downscale_factor, x.rank - 3
    rows, columns = (_parts_of(n, r, "pixel_unshuffle", "downscale_factor") for n in (rows, columns))
    parts = reshape(x, (*outer, channels, rows, r, columns, r))
    order = (*range(at), at, at + 2, at + 4, at + 1, at + 3)
    return reshape(permute(parts, order), (*outer, channels * r * r, rows, columns))


@declare(expand=_pixel_unshuffle)
def pixel_unshuffle(x: torch.Tensor, downscale_factor: Size):
    """The reverse of pixel_shuffle."""
    return F.pixel_unshuffle(x, downscale_factor)


def _channel_shuffle(x: Node, groups: Index) -> Node:
    if x.rank < 3:
        raise BadArgument(op="channel_shuffle", name="x", rule="of three dimensions at least",
                          got=show_shape(x.shape), hint="")  # fmt: skip
    members = _parts_of(x.shape[1], groups, "channel_shuffle", "groups")
    parts = reshape(x, (x.shape[0], groups, members, *x.shape[2:]))
    return reshape(transpose(parts, 1, 2), x.shape)


@declare(expand=_channel_shuffle, torch=("F.native_channel_shuffle",))
def channel_shuffle(x: torch.Tensor, groups: Size):
    """The channels of dim 1 in groups, read across them: the first of each group, the second ..."""
    return torch.channel_shuffle(x, groups)


# ---- the nearest -----------------------------------------------------------------------------------------------------

EXACT = 32  # up to this factor, float32 and integers agree about index / factor


def _nearest(x: Node, dim: int, size: Index, scale: float | None, offset: float) -> Node:
    n = x.shape[dim]
    if scale is None or scale == 1 or (isinstance(size, int) and isinstance(n, int) and size == scale * n):
        more, less = divide_exactly(size, n), divide_exactly(n, size)
        if more == 1:
            return x
        if isinstance(more, int) and more <= EXACT:
            return repeat_interleave(x, more, dim)
        if isinstance(less, int) and less <= EXACT and not offset:
            return slice(x, dim, 0, n, less)
    elif isinstance(n, Poly) and isinstance(scale, int) and scale <= EXACT and size == n * scale:
        return repeat_interleave(x, scale, dim)
    if scale is None and isinstance(n, Poly):
        rule = "a multiple or a divisor of a symbolic size"
        raise BadArgument(op="nearest", name="size", rule=rule, got=size, hint="")
    ratio: Any = n / size if scale is None else 1 / scale  # type: ignore[operator]
    running = ir.cast(numbers(size), f32)
    place = floor((running + offset if offset else running) * ratio)
    return pick([x, minimum(ir.cast(place, i64), n - 1)], (dim,), dim)


@declare(expand=lambda x, dim, size, scale, offset: _nearest(x, dim, size, scale, offset or 0))
def nearest(x: torch.Tensor, dim: Dim, size: Size, scale: MaybeNumber = None, offset: MaybeNumber = None):
    """x[min(n - 1, floor((i + offset) / scale))] for `size` indices i along a dimension of size n, computed in float32;
    scale is size / n if it is not given."""
    n = x.shape[dim]
    ratio = torch.tensor(n / size if scale is None else 1 / scale, dtype=torch.float32)
    places = ((torch.arange(size) + (offset or 0)) * ratio).floor().long().clamp(max=n - 1)
    return x.index_select(dim, places.to(x.device)).contiguous(memory_format=usual_format(x))
