"""Packed tensors: codes of 1 to 8 bits with scales and zero points, which torch takes for the numbers they stand for.

    w = pack(linear.weight, "u3:g128")        # [N, K]: groups of 128 along K
    y = x @ w.mT                              # eager unpacks; a fused function reads the codes themselves

A packed tensor is read-only, and what torch unpacks of it is a copy. Transposes, and selections and slices across the
axis, share its memory.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from . import packing
from .errors import DimOutOfRange, FuseError, user_line
from .formats import Format, parse
from .parts import Parts, bad_argument, check_codes, check_part, checked, part_types
from .quantise import METHODS, Method, dequantise, quantise

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2)
_WHOLE = (torch.float64, torch.float32)  # hold every value that is unpacked, which is computed in f32
aten = torch.ops.aten


class PackedIsReadOnly(FuseError, RuntimeError):
    """{op}: a packed tensor is read-only, got {got}. {hint}"""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.args = (self.message,)  # all that load_state_dict shows


class Slabs(NamedTuple):
    """The codes of [*batch, N, K] for a contraction over K, in up to three segments of K, one after the other.

    main: u16 words of whole tiles, rest: of one tile with fewer rows, both as `packing.slabs`; tail: u8 [*batch, N,
    bytes], the last K % 16 codes as rows. scale and zero: [*batch, groups, N]."""

    main: Tensor | None
    rest: Tensor | None
    tail: Tensor | None
    scale: Tensor | None
    zero: Tensor | None


# ---- making one ------------------------------------------------------------------------------------------------------


def pack(tensor: Tensor, format: str | Format, axis: int = -1, *, method: Method = "minmax") -> Packed:
    """The nearest a format comes to a float tensor, with groups along an axis.

    method: "minmax" takes each group's scale from its range, "mse" the one of 41 with the least squared error. Raises
    BadText for a format that does not parse, BadArgument for what is no float, and for infinities and NaN where the
    format has none."""
    format = parse(format)
    if hasattr(tensor, "__fused_apply__"):
        hint = "There fusedsl.quantize does the same."
        raise bad_argument("pack", "the tensor", "at hand", "one of a fused function", hint)
    if not isinstance(tensor, Tensor) or tensor.dtype not in FLOATS:
        got = str(tensor.dtype) if isinstance(tensor, Tensor) else type(tensor).__name__
        raise bad_argument("pack", "the tensor", "of floats", got, "Give codes that you have to fusedsl.pack_codes.")
    if method not in METHODS:
        raise bad_argument("pack", "method", " or ".join(map(repr, METHODS)), repr(method), "mse is slower and nearer.")
    axis = _axis("pack", axis, tensor.dim())
    plain = tensor.unpack() if isinstance(tensor, Packed) else tensor.detach()
    _check_values(plain, format)
    stored = plain.movedim(axis, -1)
    *rest, size = stored.shape
    found = quantise(stored.reshape(math.prod(rest), size), format, method)
    scale, zero = (part if part is None else part.reshape(*rest, part.shape[1]) for part in (found.scale, found.zero))
    return _assemble(found.codes.reshape(stored.shape), format, axis, scale, zero, found.second, plain.dtype)


def pack_codes(
    codes: Tensor, format: str | Format, axis: int = -1, *, scale: Tensor | None = None, zero: Tensor | None = None,
    second: Tensor | float | None = None, dtype: torch.dtype = torch.float32,
) -> Packed:  # fmt: skip
    """The packed tensor of codes that exist: u8, in the tensor's shape.

    scale, and zero of a format with zero points, have ceil(K / group) in place of the axis' K, and the dtypes that the
    format stores (u8 for e8m0, and for zero points that are codes). dtype: what it unpacks to. Raises BadArgument."""
    format = parse(format)
    if codes.dtype != torch.uint8:
        hint = "Use .to(torch.uint8), of signed integers after + 2**(bits - 1)."
        raise bad_argument("pack_codes", "codes", "u8", str(codes.dtype), hint)
    check_codes("pack_codes", codes, format)
    if dtype not in FLOATS:
        raise bad_argument("pack_codes", "dtype", "a float of torch", str(dtype), "It is what the tensor unpacks to.")
    axis = _axis("pack_codes", axis, codes.dim())
    if second is not None:
        second = torch.as_tensor(second, dtype=torch.float32, device=codes.device)
    scale, zero = _stored_order(scale, axis), _stored_order(zero, axis)
    stored = codes.detach().movedim(axis, -1)
    types = part_types(format, stored.shape[:-1], stored.shape[-1])
    for name, part in {"scale": scale, "zero": zero, "second": second}.items():
        check_part(name, part, types.get(name), format, axis)
    return _assemble(stored, format, axis, scale, zero, second, dtype)


def _stored_order(part: Tensor | None, axis: int) -> Tensor | None:
    return part if part is None or axis >= part.dim() else part.detach().movedim(axis, -1).contiguous()


def _assemble(
    codes: Tensor, format: Format, axis: int, scale: Tensor | None, zero: Tensor | None, second: Tensor | None,
    dtype: torch.dtype,
) -> Packed:  # fmt: skip
    """Of codes [*rest, K] in the stored order; axis: where K stands in the tensor."""
    element = format.element
    data = packing.pack_trits(codes) if element.kind == "ternary" else packing.pack_rows(codes, element.bits)
    table = torch.tensor(element.numbers, device=codes.device) if element.kind == "table" else None
    shape = list(codes.shape)
    shape.insert(axis, shape.pop())
    return Packed(Parts(data, scale, zero, second, table), format, tuple(shape), stored_dims(len(shape), axis), dtype)


def stored_dims(rank: int, axis: int) -> tuple[int, ...]:
    """Where each dimension stands when the axis is moved to the end."""
    return tuple(rank - 1 if dim == axis else dim - (dim > axis) for dim in range(rank))


# ---- the class -------------------------------------------------------------------------------------------------------


class Packed(Tensor):
    """A read-only tensor that is stored as codes; `pack` makes one. Its strides are those of what it unpacks to.

    dims[d] says which dimension of the stored order (all others, then the axis) dimension d is."""

    format: Format
    dims: tuple[int, ...]
    parts: Parts
    _slabs: dict[int, tuple[tuple[int, ...], Slabs]]

    @staticmethod
    def __new__(
        cls, parts: Parts, format: Format, shape: Sequence[int], dims: tuple[int, ...], dtype: torch.dtype,
        stride: Sequence[int] | None = None,
        slabs: dict[int, tuple[tuple[int, ...], Slabs]] | None = None,
    ) -> Packed:  # fmt: skip
        """slabs: the cache of a tensor with the same parts."""
        self = torch.Tensor._make_wrapper_subclass(
            cls, shape, strides=stride or _strides(shape, range(len(shape))), dtype=dtype, device=parts.data.device,
            requires_grad=False,
        )  # fmt: skip
        self.parts, self.format, self.dims, self._slabs = parts, format, dims, {} if slabs is None else slabs
        return self

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        _refuse_writes(func, args, kwargs)
        keep = _KEPT.get(func)
        if keep is not None and isinstance(args[0], Packed):
            kept = keep(*args, **kwargs)
            if kept is not NotImplemented:
                return kept
        args, kwargs = tree_map_only(Packed, Packed.unpack, (args, kwargs))
        return func(*args, **kwargs)

    # ---- what it holds

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        """u8 [*rest, bytes]: a stream of codes a row. May be a view of another's."""
        return self.parts.data

    @data.setter
    def data(self, value: Tensor) -> None:
        raise _read_only("data", "a new value")

    @property
    def scale(self) -> Tensor | None:
        return self.parts.scale

    @property
    def zero(self) -> Tensor | None:
        return self.parts.zero

    @property
    def second(self) -> Tensor | None:
        return self.parts.second

    @property
    def table(self) -> Tensor | None:
        return self.parts.table

    @property
    def axis(self) -> int:
        """The dimension along which the groups run."""
        return self.dims.index(self.dim() - 1)

    @property
    def nbytes(self) -> int:  # type: ignore[override]
        """The bytes of all parts."""
        return sum(part.nbytes for part in self.parts if part is not None)

    @property
    def bits_per_weight(self) -> float:
        """The bits of all parts over the number of values, 0 if there are none."""
        return self.nbytes * 8 / self.numel() if self.numel() else 0.0

    @property
    def order(self) -> tuple[int, ...]:
        """The dimensions of what it unpacks to as memory has them, the outermost first."""
        return tuple(_order(self.stride()))

    def unpack(self, dtype: torch.dtype | None = None) -> Tensor:
        """The plain tensor: (value - zero) * (scale * second), computed in f32 and rounded once to the dtype."""
        values = dequantise(self._stored_codes(), self.format, self.scale, self.zero, self.second)
        return self._logical(values.to(dtype or self.dtype))

    def codes(self) -> Tensor:
        """The u8 codes, in the tensor's shape."""
        return self._logical(self._stored_codes())

    def slabs(self, rows: int = 16) -> Slabs:
        """The codes in slabs of `rows` rows, made once, and again after a part was written to. Raises BadArgument for
        ternary, and for one dimension."""
        written = tuple(_version(part) for part in self.parts if part is not None)
        made = self._slabs.get(rows)
        if made is None or made[0] != written:
            made = self._slabs[rows] = written, self._make_slabs(rows)
        return made[1]

    def _make_slabs(self, rows: int) -> Slabs:
        element, tile = self.format.element, packing.LANES * rows
        if element.kind == "ternary" or self.dim() < 2:
            raise bad_argument(
                "slabs", "the tensor", "of two dimensions or more, not ternary", repr(self), "Read its rows."
            )
        codes = self._stored_codes()
        size = codes.shape[-1]
        cuts = [size // tile * tile, size % tile // packing.LANES * packing.LANES, size % packing.LANES]
        main, rest, tail = codes.split(cuts, -1)
        return Slabs(
            packing.slabs(main.mT, element.bits, rows) if cuts[0] else None,
            packing.slabs(rest.mT, element.bits, cuts[1] // packing.LANES) if cuts[1] else None,
            packing.pack_rows(tail, element.bits) if cuts[2] else None,
            None if self.scale is None else self.scale.mT.contiguous(),
            None if self.zero is None else self.zero.mT.contiguous(),
        )

    def _stored_codes(self) -> Tensor:
        """u8 [*rest, K]."""
        element, size = self.format.element, self.shape[self.axis]
        if element.kind == "ternary":
            return packing.unpack_trits(self.data, size)
        return packing.unpack_rows(self.data, element.bits, size)

    def _logical(self, stored: Tensor) -> Tensor:
        """A plain tensor in the stored order, with this one's dimensions and strides."""
        plain = stored.permute(self.dims)
        if plain.stride() == self.stride():
            return plain
        return torch.empty_strided(self.shape, self.stride(), dtype=plain.dtype, device=plain.device).copy_(plain)

    # ---- variants of it, which share the parts

    def _with_parts(self, parts: Parts) -> Packed:
        return Packed(parts, self.format, self.shape, self.dims, self.dtype, self.stride())

    def _shared(self, order: Sequence[int] | None = None, dtype: torch.dtype | None = None) -> Packed:
        """With the dimensions in another order, or another dtype."""
        order = range(self.dim()) if order is None else order
        shape, dims, stride = (tuple(each[d] for d in order) for each in (self.shape, self.dims, self.stride()))
        return Packed(self.parts, self.format, shape, dims, dtype or self.dtype, stride, self._slabs)

    def _select(self, dim: int, index: int) -> Packed:
        stored = self.dims[dim]
        kept = [d for d in range(self.dim()) if d != dim]
        dims = tuple(self.dims[d] - (self.dims[d] > stored) for d in kept)
        shape = [self.shape[d] for d in kept]
        stride = _strides(shape, _order([self.stride(d) for d in kept]))
        parts = self.parts.map_rest(lambda part: part.select(stored, index))
        return Packed(parts, self.format, shape, dims, self.dtype, stride)

    def _slice(self, dim: int, start: int | None, end: int | None, step: int) -> Packed:
        part = slice(*slice(start, end, step).indices(self.shape[dim]))
        shape = [len(range(part.start, part.stop, part.step)) if d == dim else n for d, n in enumerate(self.shape)]
        place = (slice(None),) * self.dims[dim] + (part,)
        parts = self.parts.map_rest(lambda whole: whole[place])
        return Packed(parts, self.format, shape, self.dims, self.dtype, _strides(shape, _order(self.stride())))

    # ---- where torch would go past __torch_dispatch__

    @property
    def requires_grad(self) -> bool:  # type: ignore[override]
        return False

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    def requires_grad_(self, mode: bool = True) -> Packed:
        if mode:
            hint = "Use nn.Parameter(packed, requires_grad=False), or train packed.unpack()."
            raise _read_only("requires_grad", "requires_grad=True", hint)
        return self

    def __setitem__(self, place: Any, value: Any) -> None:
        raise _read_only("w[...] = ...", "a write")

    def numpy(self, *, force: bool = False) -> Any:
        return self.unpack().numpy(force=force)

    def tolist(self) -> Any:
        return self.unpack().tolist()

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        told = [str(list(self.shape)), self.format.text, f"{self.bits_per_weight:.4g} bits a weight", str(self.dtype)]
        if self.dim() and self.axis != self.dim() - 1:
            told.append(f"axis={self.axis}")
        if self.device.type != "cpu":
            told.append(f"device='{self.device}'")
        return f"Packed({', '.join(told)})"

    def __deepcopy__(self, memo: dict) -> Packed:
        if id(self) not in memo:
            made = self._with_parts(self.parts.map(lambda part: copy.deepcopy(part, memo)))
            memo[id(self)] = _marked(made, getattr(self, "_is_param", False))
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        layout = (tuple(self.shape), self.dims, self.dtype, self.stride())
        parts = self.parts.map(lambda part: part.view(torch.uint8) if part.dtype.itemsize == 1 else part)
        return _rebuild, (tuple(parts), self.format.text, layout, getattr(self, "_is_param", False))

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        names = [name for name, part in self.parts._asdict().items() if part is not None]
        return names, (self.format, self.dims, self.dtype)

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], context: Any, shape: Any, stride: Any) -> Packed:
        format, dims, dtype = context
        return Packed(Parts(**inner), format, shape, dims, dtype, stride)


def _version(part: Tensor) -> int:
    """How often it was written to; torch does not count that of tensors made in inference mode."""
    return 0 if part.is_inference() else part._version


def _marked(packed: Packed, is_param: bool) -> Packed:
    """As a parameter of a module, which torch knows by this mark."""
    if is_param:
        packed._is_param = True  # type: ignore[attr-defined]
    return packed


def _rebuild(parts: tuple, text: str, layout: tuple, is_param: bool) -> Packed:
    """What a pickle calls, which has u8 for 8-bit floats. Raises BadArgument for parts that are not the format's."""
    format, (shape, dims, dtype, stride) = parse(text), layout
    if format.scale == "f8e4m3" and parts[1] is not None:
        parts = (parts[0], parts[1].view(torch.float8_e4m3fn), *parts[2:])
    return _marked(Packed(checked(Parts(*parts), format, shape, dims), format, shape, dims, dtype, stride), is_param)


torch.serialization.add_safe_globals([_rebuild, Packed])


# ---- what stays packed -----------------------------------------------------------------------------------------------

_KEPT: dict[Any, Callable[..., Any]] = {}


def _keeps(*ops: Any) -> Callable[[Callable], Callable]:
    """Declares what an op of torch makes of a packed first argument; NotImplemented: it sees the plain tensor."""

    def declare(function: Callable) -> Callable:
        _KEPT.update(dict.fromkeys(ops, function))
        return function

    return declare


@_keeps(aten.detach.default, aten.alias.default)
def _same(packed: Packed) -> Packed:
    return packed._shared()


@_keeps(aten.view.default, aten._unsafe_view.default)
def _view(packed: Packed, shape: Sequence[int]) -> Any:
    return packed._shared() if tuple(shape) == tuple(packed.shape) else NotImplemented


@_keeps(aten.clone.default)
def _clone(packed: Packed, *, memory_format: torch.memory_format | None = None) -> Packed:
    parts = packed.parts.map(lambda part: part.clone(memory_format=torch.contiguous_format))
    stride = packed.stride() if memory_format in (None, torch.preserve_format) else None
    return Packed(parts, packed.format, packed.shape, packed.dims, packed.dtype, stride)


@_keeps(aten._to_copy.default)
def _to(packed: Packed, *, dtype=None, device=None, non_blocking=False, **_: Any) -> Any:
    """Stays packed in another dtype where rounding twice, as torch would, is rounding once."""
    dtype = dtype or packed.dtype
    if dtype not in FLOATS or (dtype != packed.dtype and packed.dtype not in _WHOLE):
        return NotImplemented
    if device is None or torch.device(device) == packed.device:
        packed = _clone(packed)
    else:
        packed = packed._with_parts(packed.parts.map(lambda part: part.to(device, non_blocking=non_blocking)))
    return packed if dtype == packed.dtype else packed._shared(dtype=dtype)


@_keeps(aten.t.default)
def _t(packed: Packed) -> Packed:
    return packed._shared(range(packed.dim())[::-1])


@_keeps(aten.transpose.int)
def _transpose(packed: Packed, first: int, second: int) -> Packed:
    order = list(range(packed.dim()))
    order[first], order[second] = order[second], order[first]
    return packed._shared(order)


@_keeps(aten.permute.default)
def _permute(packed: Packed, order: Sequence[int]) -> Packed:
    return packed._shared([d % packed.dim() for d in order])


def _across(packed: Packed, dim: int) -> bool:
    """Whether a dimension is another than the axis, which torch has not checked yet."""
    return -packed.dim() <= dim < packed.dim() and dim % packed.dim() != packed.axis


@_keeps(aten.select.int)
def _selected(packed: Packed, dim: int, index: int) -> Any:
    return packed._select(dim % packed.dim(), index) if _across(packed, dim) else NotImplemented


@_keeps(aten.slice.Tensor)
def _sliced(packed: Packed, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Any:
    return packed._slice(dim % packed.dim(), start, end, step) if _across(packed, dim) else NotImplemented


@_keeps(aten.unbind.int)
def _unbound(packed: Packed, dim: int = 0) -> Any:
    if not _across(packed, dim):
        return NotImplemented
    return [packed._select(dim % packed.dim(), index) for index in range(packed.shape[dim])]


@_keeps(aten.split.Tensor)
def _split(packed: Packed, size: int, dim: int = 0) -> Any:
    if not _across(packed, dim) or size < 1:
        return NotImplemented
    starts = range(0, max(packed.shape[dim], 1), size)
    return [packed._slice(dim % packed.dim(), start, start + size, 1) for start in starts]


@_keeps(aten.split_with_sizes.default)
def _split_by(packed: Packed, sizes: Sequence[int], dim: int = 0) -> Any:
    if not _across(packed, dim) or sum(sizes) != packed.shape[dim] or min(sizes, default=0) < 0:
        return NotImplemented
    starts = [sum(sizes[:at]) for at in range(len(sizes))]
    return [packed._slice(dim % packed.dim(), a, a + n, 1) for a, n in zip(starts, sizes, strict=True)]


# ---- strides and checks ----------------------------------------------------------------------------------------------


def _order(stride: Sequence[int]) -> list[int]:
    """The dimensions from the slowest to the fastest."""
    return sorted(range(len(stride)), key=lambda d: -stride[d])


def _strides(shape: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    """The strides of a dense tensor whose dimensions lie in that order, the fastest last."""
    strides, step = [0] * len(shape), 1
    for d in reversed(order):
        strides[d] = step
        step *= max(shape[d], 1)
    return tuple(strides)


def _check_values(plain: Tensor, format: Format) -> None:
    element, plain = format.element, plain if plain.dtype in _WHOLE else plain.float()
    bare = format.scale is None
    hint = "torch.nan_to_num replaces them; e4m3fn:noscale keeps NaN, e5m2:noscale both."
    if not (bare and element.nan is not None) and bool(plain.isnan().any()):
        raise bad_argument("pack", "the tensor", f"free of NaN, {format.text} has none", "NaN", hint)
    if not (bare and element.infinity is not None) and bool(plain.isinf().any()):
        raise bad_argument("pack", "the tensor", f"finite, {format.text} has no infinities", "an infinity", hint)


def _refuse_writes(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    if not func._schema.is_mutable:
        return
    for at, argument in enumerate(func._schema.arguments):
        value = args[at] if at < len(args) else kwargs.get(argument.name)
        written = argument.alias_info is not None and argument.alias_info.is_write
        packed = [each for each in (value if isinstance(value, list | tuple) else [value]) if isinstance(each, Packed)]
        if written and packed:
            raise _read_only(func.overloadpacket.__name__.rstrip("_"), f"a write to {packed[0]!r}")


def _read_only(op: str, got: str, hint: str = "Change w = packed.unpack(), and pack that again.") -> FuseError:
    if op == "copy":
        hint = "load_state_dict(..., assign=True) puts another in its place."
    return PackedIsReadOnly(op=op, got=got, hint=hint, line=user_line())


def _axis(op: str, axis: int, rank: int) -> int:
    if rank == 0:
        raise bad_argument(op, "the tensor", "of one dimension or more", "none", "Groups run along a dimension.")
    if not isinstance(axis, int) or not -rank <= axis < rank:
        raise DimOutOfRange(op=op, low=-rank, high=rank - 1, got=axis, line=user_line())
    return cast(int, axis) % rank
