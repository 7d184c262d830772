"""What a packed tensor stores, and whether parts that are given or come from a file fit together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import packing
from .errors import BadArgument, FuseError, user_line
from .formats import Format
from .quantise import group_count, stored_dtype


class Parts(NamedTuple):
    """What a packed tensor stores. rest: its dimensions but the axis.

    data: u8 [*rest, bytes], a stream of codes a row (see packing). scale: [*rest, groups], u8 for e8m0. zero: [*rest,
    groups], u8 for codes. second: f32, 0-dim. table: f32 [count] of a table's numbers."""

    data: Tensor
    scale: Tensor | None = None
    zero: Tensor | None = None
    second: Tensor | None = None
    table: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Parts:
        changed = {name: change(part) for name, part in self._asdict().items() if part is not None}
        return Parts(**changed)

    def map_rest(self, change: Callable[[Tensor], Tensor]) -> Parts:
        """A change of the dimensions that all parts but second and table have."""
        changed = self._replace(second=None, table=None).map(change)
        return changed._replace(second=self.second, table=self.table)


def part_types(format: Format, rest: Sequence[int], size: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """The dtype and shape of each part of a tensor of `rest` dimensions and that size along the axis."""
    element, groups = format.element, (*rest, group_count(format, size))
    width = packing.row_bytes(size, element.bits, element.kind == "ternary")
    types: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {"data": (torch.uint8, (*rest, width))}
    if format.scale is not None:
        types["scale"] = stored_dtype(format.scale), groups
    if format.zero_dtype is not None:
        types["zero"] = stored_dtype(format.zero_dtype), groups
    if format.second:
        types["second"] = torch.float32, ()
    if element.kind == "table":
        types["table"] = torch.float32, (element.count,)
    return types


def checked(parts: Parts, format: Format, shape: Sequence[int], dims: Sequence[int]) -> Parts:
    """Parts that came from a file. Raises BadArgument where they are not those of the format and the shape."""
    stored = [size for _, size in sorted(zip(dims, shape, strict=True))]
    types = part_types(format, stored[:-1], stored[-1])
    for name, part in parts._asdict().items():
        check_part(name, part, types.get(name), format, dims.index(len(dims) - 1))
    element = format.element
    if parts.table is not None and parts.table.tolist() != list(element.numbers):
        raise bad_argument("a packed tensor", "table", f"that of {format.text}", "another", "The file was changed.")
    if element.kind == "table" and element.count < 2**element.bits:
        codes = packing.unpack_rows(parts.data, element.bits, stored[-1])
        check_codes("a packed tensor", codes, format)
    return parts


def check_codes(op: str, codes: Tensor, format: Format) -> None:
    most = int(codes.max()) if codes.numel() else 0
    if most >= format.element.count:
        rule = f"less than {format.element.count}, the number of codes of {format.element.name}"
        raise bad_argument(op, "codes", rule, str(most), "Is it the right format?")


def check_part(name: str, part: Tensor | None, wanted: Any, format: Format, axis: int) -> None:
    if part is None and wanted is None:
        return
    if part is None or wanted is None:
        raise bad_argument("a packed tensor", name, "given" if wanted else f"None, {format.text} has none",
                   "None" if part is None else str(part.dtype), f"The format is {format.text}.")  # fmt: skip
    if (part.dtype, tuple(part.shape)) != wanted:
        dtype, shape = wanted
        got = f"{part.dtype} {list(part.shape)}"
        hint = f"This is with dimension {axis}, along which the groups of {format.text} run, last."
        raise bad_argument("a packed tensor", name, f"{dtype} {list(shape)}", got, hint)


def bad_argument(op: str, name: str, rule: str, got: str, hint: str) -> FuseError:
    return BadArgument(op=op, name=name, rule=rule, got=got, hint=hint, line=user_line())
