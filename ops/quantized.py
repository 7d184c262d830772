"""Packed tensors that a fused function makes: `quantize` at the end of a chain.

    @fuse
    def norm_int4(x, weight):
        return fusedsl.quantize(F.rms_norm(x, x.shape[-1:], weight), "i4:g32")     # one kernel; a Packed

    @fuse
    def linear_int8(x, w):                                                         # w: packed as i8 or i4
        return fusedsl.quantize(x, "i8:row") @ w.mT                                # products of int8

While a function is traced it is a tensor of the numbers that it stands for. Where it is returned its parts take its
place, and a tree of torch's puts them together in each call.
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

from .quantizing import quantize_parts, requantized


@dataclass(frozen=True)
class Made:
    """What is known of a packed tensor besides its parts. size: of the axis."""

    format: Format
    axis: int
    size: int
    dtype: torch.dtype


class Quantized:
    """The parts of a packed tensor that a trace returns."""

    def __init__(self, parts: Sequence[Any], made: Made) -> None:
        self.parts, self.made = tuple(parts), made


def quantize(x: Tensor, format: str | Format, axis: int = -1) -> Packed:
    """x in a packed format, as `fusedsl.pack(x, format, axis)` gives it: in a fused function the end of a chain, or a
    tensor to go on with, of the numbers that its codes stand for.

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
    value = requantized(stored, format.text, size).movedim(-1, axis)
    value._fused.packed = Quantized(found, Made(format, axis, size, x.dtype))
    return value  # type: ignore[return-value]


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
