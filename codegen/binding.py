"""The arguments of a launch of a `@triton.jit` kernel on CPU tensors, and their Triton types."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from triton.runtime.jit import JITFunction


def bind(fn: JITFunction, args: Mapping[str, object]) -> dict[str, object]:
    """The arguments in the order of the parameters, defaults filled in."""
    unknown = sorted(set(args) - set(fn.arg_names))
    if unknown:
        raise TypeError(f"{fn.__name__} has no parameter {', '.join(unknown)}; it takes {', '.join(fn.arg_names)}")
    bound = {}
    for parameter in fn.params:
        if parameter.name in args:
            bound[parameter.name] = args[parameter.name]
        elif parameter.has_default:
            bound[parameter.name] = parameter.default
        else:
            raise TypeError(f"{fn.__name__} needs an argument for {parameter.name}")
    return bound


def constexprs(fn: JITFunction, bound: Mapping[str, object]) -> set[str]:
    return {p.name for p in fn.params if p.is_constexpr or bound[p.name] is None}


_POINTEES = {
    torch.bool: "i1", torch.int8: "i8", torch.int16: "i16", torch.int32: "i32", torch.int64: "i64",
    torch.uint8: "u8", torch.uint16: "u16", torch.uint32: "u32", torch.uint64: "u64",
    torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.float64: "fp64",
    torch.float8_e4m3fn: "fp8e4nv", torch.float8_e5m2: "fp8e5",
    torch.float8_e4m3fnuz: "fp8e4b8", torch.float8_e5m2fnuz: "fp8e5b16",
}


def pointer_to(dtype: torch.dtype, name: str = "a tensor") -> str:
    """The Triton type of a tensor's address."""
    if dtype not in _POINTEES:
        raise TypeError(f"{name}: Triton has no pointer to {dtype}")
    return "*" + _POINTEES[dtype]


def argument_type(name: str, value: object) -> str:
    """The Triton type of one argument, as a signature writes it."""
    if isinstance(value, torch.Tensor):
        if value.device.type != "cpu":
            raise ValueError(f"{name} is on {value.device}; this target runs on CPU tensors")
        return pointer_to(value.dtype, name)
    if isinstance(value, bool):
        return "u1"
    if isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise TypeError(f"{name}: {value} does not fit in 64 bits")
        return "i32" if -(2**31) <= value < 2**31 else "i64" if value < 2**63 else "u64"
    if isinstance(value, float):
        return "fp32"
    raise TypeError(
        f"{name}: a kernel cannot take a {type(value).__name__}; mark the parameter tl.constexpr, or give a tensor "
        "(torch.from_numpy makes one of an array) or a number"
    )


def signature_of(
    fn: JITFunction, bound: Mapping[str, object], given: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The Triton types of the arguments that are not constants: as annotated, or as `given` says."""
    constants = constexprs(fn, bound)
    text = {name: argument_type(name, value) for name, value in bound.items() if name not in constants}
    text.update({p.name: p.annotation_type for p in fn.params if p.annotation_type and p.name in text})
    text.update({name: kind for name, kind in (given or {}).items() if name in text})
    return text
