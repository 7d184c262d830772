"""Packed tensors that a fused function makes: `quantize` at the end of a chain.

    @fuse
    def norm_int4(x, weight):
        return fusedsl.quantize(F.rms_norm(x, x.shape[-1:], weight), "i4:g32")     # one kernel; a Packed

While a function is traced the parts are tensors of the trace, and a tree of torch's puts them together in each call.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fusedsl.errors import BadArgument
from fusedsl.formats import Format, parse
from fusedsl.packed import FLOATS, Packed, pack, stored_dims
from fusedsl.packing import row_bytes
from fusedsl.parts import Parts, part_types

from .quantizing import quantize_parts


@dataclass(frozen=True)
class Made:
    """What is known of a packed tensor besides its parts. size: of the axis."""

    format: Format
    axis: int
    size: int
    dtype: torch.dtype


class Quantized:
    """The parts of a packed tensor in a trace; a call's results have a `Packed` in its place."""

    def __init__(self, parts: Sequence[Any], made: Made) -> None:
        self.parts, self.made = tuple(parts), made

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise _only_returned(f".{name}")

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise _only_returned(getattr(function, "__name__", str(function)))


def _only_returned(got: str) -> BadArgument:
    rule, hint = "only returned", "Compute with what is quantized, or read the result in another function."
    return BadArgument(op="quantize", name="the result", rule=rule, got=got, hint=hint)


def _refuse(name: str) -> Any:
    def method(self: Quantized, *args: Any) -> Any:
        raise _only_returned(name)

    return method


_OPERATORS = """add radd sub rsub mul rmul truediv rtruediv matmul rmatmul pow neg abs lt le gt ge getitem setitem len
iter bool float int and or xor invert"""
for _name in _OPERATORS.split():
    setattr(Quantized, f"__{_name}__", _refuse(f"__{_name}__"))


def quantize(x: Tensor, format: str | Format, axis: int = -1) -> Packed:
    """x in a packed format, as `fusedsl.pack(x, format, axis)` gives it: in a fused function the end of a chain.

    Groups run along the axis, whose size is part of the kernel. NaN becomes the code of 0 where the format has none.
    Raises BadText for a format that does not parse, BadArgument for what is no float, and for a table of many numbers,
    which a kernel does not compare with."""
    format = parse(format)
    if not hasattr(x, "__fused_apply__"):  # no tensor of a trace
        return pack(x, format, axis)
    if not x.dim():
        hint = "Use .unsqueeze(0), or .float()[None]."
        raise BadArgument(op="quantize", name="x", rule="of one dimension or more", got="a scalar", hint=hint)
    if x.dtype not in FLOATS[:4]:
        hint = "Cast with .to(torch.float32)."
        raise BadArgument(op="quantize", name="x", rule="a float of 16 bits or more", got=str(x.dtype), hint=hint)
    axis = axis % x.dim() if -x.dim() <= axis < x.dim() else axis
    stored = x.movedim(axis, -1)
    size = int(stored.shape[-1])
    found = quantize_parts(stored, format.text, size)
    found = found if isinstance(found, tuple) else (found,)
    return Quantized(found, Made(format, axis, size, x.dtype))  # type: ignore[return-value]


def _put_together(parts: Iterable[Any], made: Made) -> Any:
    """The packed tensor, of tensors that a call computed."""
    parts = tuple(parts)
    if not all(type(part) is Tensor for part in parts):
        return Quantized(parts, made)
    element = made.format.element
    names = [name for name in part_types(made.format, (), made.size) if name != "table"]
    given = dict(zip(names, parts, strict=True))
    data = given.pop("data")
    if element.kind != "ternary":  # units of whole bytes
        data = data.flatten(-2)[..., : row_bytes(made.size, element.bits)].contiguous()
    table = torch.tensor(element.numbers, device=data.device) if element.kind == "table" else None
    shape = list(data.shape[:-1])
    shape.insert(made.axis, made.size)
    stored = Parts(data, **given, table=table)
    return Packed(stored, made.format, tuple(shape), stored_dims(len(shape), made.axis), made.dtype)


pytree.register_pytree_node(
    Quantized, lambda made: (list(made.parts), made.made), _put_together, serialized_type_name="fusedsl.Quantized"
)
