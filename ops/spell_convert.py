"""torch's ways to convert a tensor to another dtype, in the manner of `spell.py`."""

from __future__ import annotations

import torch

from fusedsl.errors import BadArgument
from fusedsl.ir import spells
from fusedsl.types import dtype as dtype_of

from .spell import ops


def converted(x, dtype):
    """x in another dtype; x itself where it has that dtype, as torch does."""
    return x if dtype_of(x.dtype) is dtype_of(dtype) else ops.cast(x, dtype)


def _named_dtype(name: str, dtype: torch.dtype) -> None:
    @spells(f"Tensor.{name}")
    def convert(self):
        return converted(self, dtype)


for _name, _dtype in {
    "double": torch.float64, "float": torch.float32, "half": torch.float16, "bfloat16": torch.bfloat16,
    "long": torch.int64, "int": torch.int32, "short": torch.int16, "char": torch.int8, "byte": torch.uint8,
    "bool": torch.bool,
}.items():  # fmt: skip
    _named_dtype(_name, _dtype)


@spells("Tensor.to")
def to(self, *args, dtype=None, device=None, non_blocking=False, copy=False, other=None):
    for value in args:
        if isinstance(value, torch.dtype):
            dtype = value
        elif isinstance(value, (str, torch.device)):
            device = value
        elif hasattr(value, "dtype"):
            other = value
    here = getattr(self, "device", None)
    if device is not None and here is not None:
        there = torch.device(device)
        if there.type != here.type or there.index not in (None, here.index):
            raise BadArgument(op="to", name="device", rule=f"{here}, where the operand is", got=device,
                              hint="Move tensors outside of the fused function.")  # fmt: skip
    result = converted(self, dtype or getattr(other, "dtype", None) or self.dtype)
    return ops.clone(result) if copy and result is self else result


@spells("Tensor.type")
def type_(self, dtype=None, non_blocking=False):
    if not isinstance(dtype, torch.dtype):
        raise BadArgument(op="type", name="dtype", rule="a torch.dtype", got=repr(dtype), hint="x.dtype is x's own.")
    return converted(self, dtype)


@spells("Tensor.type_as")
def type_as(self, other):
    return converted(self, other.dtype)
