"""How tensors lie in memory: what a kernel may know of strides, kept small so that many tensors share a kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .index import Index, Symbol
from .ir import Node
from .kernel import Buffer

WIDE = 2**31 - 2**24  # offsets from here on are computed in 64 bits: tiles, and parts of a loop, may reach past the end


@dataclass(frozen=True)
class Layout:
    """strides: 0 or 1 where they are that, else None (passed to the kernel). joins: see kernel.Buffer. wide: an
    offset may not fit 32 bits. Alignment is not here: Triton specialises on that of pointers, strides and sizes by
    itself."""

    strides: tuple[int | None, ...]
    joins: tuple[tuple[int, int], ...] = ()
    wide: bool = False


def layout_of(sizes: Sequence[int], strides: Sequence[int]) -> Layout:
    """The layout of a tensor of these sizes and strides (in elements)."""
    strides = [0 if n == 1 else s for n, s in zip(sizes, strides, strict=True)]
    known = tuple(s if s in (0, 1) else None for s in strides)
    reach = sum((n - 1) * abs(s) for n, s in zip(sizes, strides, strict=True) if n)
    count = 1
    for n in sizes:
        count *= n
    return Layout(known, _joins(sizes, strides), max(reach, count) >= WIDE)


def _joins(sizes: Sequence[int], strides: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """(outer, inner) pairs, from the innermost on, each dimension at most once on either side."""
    pairs: list[tuple[int, int]] = []
    dims = [d for d, n in enumerate(sizes) if n > 1]
    for inner in reversed(dims):
        if any(i == inner for _, i in pairs):
            continue
        for outer in dims:
            fits = outer != inner and strides[outer] == sizes[inner] * strides[inner]
            if fits and not any(o == outer for o, _ in pairs) and (strides[inner] or outer < inner):
                pairs.append((outer, inner))
                break
    return tuple(pairs)


def contiguous_strides(sizes: Sequence[int]) -> tuple[int, ...]:
    strides, total = [], 1
    for n in reversed(sizes):
        strides.append(total)
        total *= max(n, 1)
    return tuple(reversed(strides))


def buffer_of(node: Node, name: str, layout: Layout, number: bool = False) -> Buffer:
    """The buffer of a tensor with this layout; a stride that its joins determine as a number is that number."""
    strides: list[Index] = [s if s is not None else Symbol(f"{name}_s{d}") + 0 for d, s in enumerate(layout.strides)]
    for _ in layout.joins:
        for outer, inner in layout.joins:
            size, step = node.shape[inner], strides[inner]
            if isinstance(size, int) and isinstance(step, int):
                strides[outer] = size * step
    return Buffer(node, name, node.dtype, node.shape, tuple(strides), layout.joins, layout.wide, number)
