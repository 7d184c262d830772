"""The axes of stores and reductions that are to share a kernel: split and made one wherever they can be."""

from __future__ import annotations

from ..lower import Origin, Write
from .nest_folds import nest_folds
from .split_axes import split_axes
from .split_folds import split_folds
from .split_groups import split_groups
from .split_rows import split_rows
from .split_units import split_units
from .unify_axes import unify_axes


def common_axes(writes: list[Write], origin: Origin | None = None) -> list[Write]:
    """The writes over as few axes as can be."""
    writes = unify_axes(split_groups(split_folds(writes, origin), origin), origin)
    writes = split_units(split_rows(writes, origin), origin)
    writes = split_axes(unify_axes(writes, origin), origin)
    return nest_folds(unify_axes(writes, origin), origin)
