"""Other libraries' launches, caught before the device and compiled as ours are. Only the worker's process uses this."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.runtime.jit import JITFunction

from ..codegen.binding import pointer_to
from ..codegen.inspect import compile_kernel
from .launch import Buffer, Launch

OPTIONS = ("num_warps", "num_stages")
FREE = ("aten::empty", "aten::new_empty", "aten::_local_scalar_dense", "aten::_unsafe_view")  # these launch nothing


@dataclass(frozen=True)
class Work:
    """What one side does for a call: its kernels, and the launches of torch's own ops beside them with their bytes."""

    launches: tuple[Launch, ...]
    ops: tuple[tuple[str, int], ...] = ()


def type_of(value: Any) -> str:
    """The Triton type of an argument."""
    if isinstance(value, torch.Tensor):
        return pointer_to(value.dtype)
    if isinstance(value, bool):
        return "i1"
    if isinstance(value, int):
        return "i32" if -(2**31) <= value < 2**31 else "i64"
    assert isinstance(value, float), f"an argument of {type(value)}"
    return "fp32"


def compiled_launch(
    fn: JITFunction,
    arguments: Mapping[str, Any],
    signature: Mapping[str, str],
    divisible: Sequence[str],
    target: str,
    grid: Sequence[int],
    args: Sequence[torch.Tensor],
    *,
    num_warps: int,
    num_stages: int,
    options: Mapping[str, object] | None = None,
) -> Launch:
    """A launch of a kernel with these arguments; those that the signature has no type for are part of its code.

    args: of the chain, to know them again."""
    constants = {name: value for name, value in arguments.items() if name not in signature}
    compiled = compile_kernel(
        fn, signature, constants, target, num_warps=num_warps, num_stages=num_stages, divisible=frozenset(divisible),
        options=options,
    )  # fmt: skip
    left = [_argument(arguments[name], args) for name in fn.arg_names if name in signature]
    x, y, z = (*grid, 1, 1)[:3]
    return Launch(compiled, (int(x), int(y), int(z)), num_warps, tuple(left))


def _argument(value: Any, args: Sequence[torch.Tensor]) -> Buffer | int | float:
    if not isinstance(value, torch.Tensor):
        return value
    storage = value.untyped_storage()._cdata
    place = next((at for at, each in enumerate(args) if each.untyped_storage()._cdata == storage), None)
    integers = not value.dtype.is_floating_point and value.dtype is not torch.bool
    return Buffer(value.numel() * value.element_size(), value.element_size(), integers, place)


def specialised(fn: JITFunction, arguments: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """The signature and the divisible arguments as Triton's launcher finds them: None and 1 are part of the code, what
    is a multiple of 16 is known to be; pointers are, as torch allocates."""
    signature: dict[str, str] = {}
    divisible: list[str] = []
    for parameter in fn.params:
        value = arguments[parameter.name]
        free = not parameter.do_not_specialize and not isinstance(value, (bool, float))
        if parameter.is_constexpr or value is None or (free and isinstance(value, int) and value == 1):
            continue
        signature[parameter.name] = type_of(value)
        if isinstance(value, torch.Tensor) or (free and value % 16 == 0):
            divisible.append(parameter.name)
    return signature, divisible


class OtherOps(TorchDispatchMode):
    """Notes every op of torch that launches a kernel, with the bytes of its tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name
        if not func.is_view and not name.startswith(FREE):
            tensors = [each for each in tree_leaves((args, result)) if isinstance(each, torch.Tensor)]
            once = {id(each): each.numel() * each.element_size() for each in tensors}
            self.found.append((name, sum(once.values())))
        return result


@contextmanager
def triton_launches(target: str, args: Sequence[torch.Tensor], launches: list[Launch]) -> Iterator[None]:
    """`kernel[grid](...)` compiles and notes the launch, and runs nothing."""

    def run(fn: JITFunction, *values: Any, grid: Any, warmup: bool, **named: Any) -> None:
        options = {name: named.pop(name) for name in tuple(named) if name not in fn.arg_names}
        unknown = options.keys() - set(OPTIONS)
        assert not unknown, f"{fn.__name__} is launched with {unknown}"
        defaults = {p.name: p.default for p in fn.params if p.has_default}
        arguments = {**defaults, **dict(zip(fn.arg_names, values, strict=False)), **named}
        signature, divisible = specialised(fn, arguments)
        places: Any = grid(arguments) if callable(grid) else grid
        launches.append(compiled_launch(
            fn, arguments, signature, divisible, target, places, args,
            num_warps=options.get("num_warps", 4), num_stages=options.get("num_stages", 3),
        ))  # fmt: skip

    with mock.patch.object(JITFunction, "run", run):
        yield
