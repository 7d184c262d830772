"""Arguments of functions as they come: values inside lists, tuples, dicts and slices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any


def map_leaves(value: Any, change: Callable[[Any], Any]) -> Any:
    """The value with what its nested containers hold changed."""
    if isinstance(value, (list, tuple)):
        items = [map_leaves(v, change) for v in value]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, dict):
        return {k: map_leaves(v, change) for k, v in value.items()}
    if isinstance(value, slice):
        return slice(*(map_leaves(v, change) for v in (value.start, value.stop, value.step)))
    return change(value)


def leaves_of(value: Any) -> list[Any]:
    """What nested containers hold, in order."""
    found: list[Any] = []
    map_leaves(value, found.append)
    return found


def holds(value: Any, kind: type) -> bool:
    """Whether nested containers hold something of a kind."""
    return any(isinstance(leaf, kind) for leaf in leaves_of(value))


def split_first(args: Sequence[Any], kwargs: Mapping[str, Any], *names: str) -> tuple[Any, Sequence[Any], dict]:
    """What a function works on, passed by position or by one of the names, and the other arguments."""
    if args:
        return args[0], args[1:], dict(kwargs)
    rest = dict(kwargs)
    given = next((name for name in (*names, "input", "self") if name in rest), None)
    return (rest.pop(given) if given else None), (), rest
