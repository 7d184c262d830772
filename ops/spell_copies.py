"""torch's copies of what views and parts are, in memory of their own, in the manner of `spell.py`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from fusedsl.ir import OPS, SPELLINGS, Op
from fusedsl.types import dim_in

from . import spell_index, spell_split, spell_views  # noqa: F401  (what is copied)
from .spell import ops


def _copied(target: Callable[..., Any]) -> Callable[..., Any]:
    """The same, in memory of its own, row by row."""

    def row_by_row(x: Any) -> Any:
        return ops.clone(x).contiguous()

    def copy(*args: Any, **kwargs: Any) -> Any:
        found = target(*args, **kwargs)
        return tuple(map(row_by_row, found)) if isinstance(found, tuple) else row_by_row(found)

    signature = target.signature if isinstance(target, Op) else inspect.signature(target)
    copy.__signature__ = signature  # type: ignore[attr-defined]
    return copy


def _sliced(input, dim=0, start=None, end=None, step=1):
    key = (slice(None),) * dim_in(dim, len(input.shape), "slice") + (slice(start, end, step),)
    return SPELLINGS["Tensor.__getitem__"](input, key)


_COPIED = {"view": "reshape", "slice": _sliced, "alias": lambda input: input, "detach": lambda input: input}
for _name in (
    "alias", "detach", "diagonal", "expand", "narrow", "permute", "select", "slice", "split", "split_with_sizes",
    "squeeze", "t", "transpose", "unbind", "unfold", "unsqueeze", "view",
):  # fmt: skip
    _target = _COPIED.get(_name, _name)
    if isinstance(_target, str):
        _target = SPELLINGS.get(f"torch.{_target}") or SPELLINGS.get(f"Tensor.{_target}") or OPS[_target]
    for _room in ("torch", "Tensor"):
        SPELLINGS.setdefault(f"{_room}.{_name}_copy", _copied(_target))
