"""From torch's functions to ours: which op, or which spelling over ops, a torch function means, and how torch's way of
calling it becomes that one's.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch

from .ir import OPS, SPELLINGS, Op

Target = Op | Callable[..., Any]

_ROOMS = {
    "torch": torch, "Tensor": torch.Tensor, "F": torch.nn.functional, "torch.special": torch.special,
    "torch.linalg": torch.linalg, "special": torch.special, "linalg": torch.linalg,
    "init": torch.nn.init,
}  # fmt: skip


def target_of(function: Callable) -> Target | None:
    """What a torch function means, None if no op and no spelling says."""
    return _table(len(OPS), len(SPELLINGS)).get(function)


def in_place_of(function: Callable) -> Target | None:
    """What an in-place function computes, None for one that is not in place or has no rule: add_ adds."""
    base = base_name(getattr(function, "__name__", ""))
    if base is None:
        return None
    for room in (torch.Tensor, torch, torch.nn.functional):
        target = target_of(getattr(room, base, None))  # type: ignore[arg-type]
        if target is not None:
            return target
    return None


def base_name(name: str) -> str | None:
    """The name of what an in-place function computes: add_ -> add, __iadd__ -> __add__. The spelling of __setitem__
    gives the changed tensor itself."""
    if name == "__setitem__":
        return name
    if name.startswith("__i") and name.endswith("__"):
        operator = "__" + name[3:]
        return operator if hasattr(torch.Tensor, operator) else None
    return name[:-1] if name.endswith("_") and not name.startswith("_") else None


@lru_cache(maxsize=1)
def _table(ops: int, spellings: int) -> dict[Callable, Target]:
    """All of it, made again when more has been declared."""
    table: dict[Callable, Target] = {}
    for spelling, function in SPELLINGS.items():
        for key in _functions(spelling):
            table[key] = function
    for op in OPS.values():
        for spelling in op.torch:
            for key in _functions(spelling):
                table.setdefault(key, op)
    for op in OPS.values():
        rooms = ("torch", "F", "torch.special", "Tensor") if op.operands else ("torch",)
        for room in rooms:
            for key in _functions(f"{room}.{op.name}"):
                table.setdefault(key, op)
    return table


def _functions(spelling: str) -> list[Callable]:
    """The function that a spelling names, if this torch has it; of a property, its getter."""
    room, _, name = spelling.rpartition(".")
    found = getattr(_ROOMS[room], name, None)
    if isinstance(found, (types.GetSetDescriptorType, property)):
        return [found.__get__]
    return [found] if callable(found) else []


# ---- calling --------------------------------------------------------------------------------------------------------

_SAME = (
    {"input", "self", "x", "tensor", "tensors", "a"},
    {"other", "y", "exponent", "mat2", "vec2", "vec", "tensor2", "b"},
    {"dim", "axis", "dims"},
    {"keepdim", "keepdims"},
    {"size", "sizes", "shape"},
)
_NOT_SIZES = {"dtype", "device", "keepdim", "layout", "requires_grad", "memory_format", "implicit"}
# what says nothing about values; the caller has checked them
_IGNORED = {"device", "layout", "pin_memory", "memory_format", "non_blocking", "requires_grad", "_stacklevel", "out"}


@lru_cache(maxsize=4096)
def _parameters(target: Target) -> tuple[tuple[str, ...], frozenset[str], bool, bool]:
    """Of a target: the parameters that a position can fill, all names, and whether it takes any positions and names."""
    parameters = (target.signature if isinstance(target, Op) else inspect.signature(target)).parameters.values()
    kinds = {p.kind for p in parameters}
    places = tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
    names = frozenset(p.name for p in parameters)
    return places, names, inspect.Parameter.VAR_POSITIONAL in kinds, inspect.Parameter.VAR_KEYWORD in kinds


def call(target: Target, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Calls an op or a spelling with arguments as torch takes them."""
    places, names, any_place, any_name = _parameters(target)
    if not any_place:
        args = _packed(args, places)
    if kwargs and not any_name:
        kwargs = _renamed(kwargs, names, len(args), places)
    return target(*args, **kwargs)


def _packed(args: Sequence[Any], places: Sequence[str]) -> Sequence[Any]:
    """x.view(2, -1, 4) -> x.view((2, -1, 4)), where the parameter is one for a list of sizes or dims."""
    first = len(args)
    while first and _is_int(args[first - 1]):
        first -= 1
    if first == len(args):
        return args
    after = places[first + 1] if first + 1 < len(places) else None
    several = len(args) - first > 1 and (len(args) > len(places) or after in _NOT_SIZES)
    if several or (first < len(places) and places[first] in _SAME[4] and len(args) - first == 1):
        return (*args[:first], tuple(args[first:]))
    return args


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _renamed(kwargs: Mapping[str, Any], names: frozenset[str], given: int, places: Sequence[str]) -> dict[str, Any]:
    """torch's names of arguments as the target's; what is left at None, or says nothing about values, is left out."""
    free = [name for name in places[given:] if name not in kwargs]
    result = {}
    for name, value in kwargs.items():
        if name not in names:
            alike = next((group for group in _SAME if name in group), set())
            renamed = next((n for n in [*free, *sorted(names)] if n in alike), None)
            if renamed is None and (value is None or name in _IGNORED):
                continue
            name = renamed or name
        result[name] = value
    return result


def name_of(function: Any) -> str:
    """A torch function's name as users write it."""
    if function is None:
        return "?"
    if isinstance(function, Op):
        return function.name
    name = getattr(function, "__name__", repr(function))
    if name == "__get__":
        return f"Tensor.{getattr(function.__self__, '__name__', '?')}"
    for room in ("torch", "Tensor", "F", "torch.special", "torch.linalg"):
        if getattr(_ROOMS[room], name, None) == function:
            return f"{room}.{name}"
    return name
