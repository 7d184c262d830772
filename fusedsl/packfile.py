"""Packed tensors in safetensors files: a packed tensor n is n.data, n.scale, ... and an entry in the file's metadata.

A file is written beside its place and moved there when it is whole, so that a reader never sees half of one.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import struct
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from .errors import BadArgument, FuseError, MissingPackage, user_line
from .formats import Format, parse
from .packed import FLOATS, Packed, pack, stored_dims
from .parts import Parts, checked, part_types
from .quantise import Method

KEY = "fusedsl.packed"  # of the metadata
VERSION = 1
_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
    torch.uint16: "U16", torch.uint32: "U32", torch.uint64: "U64", torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip
if hasattr(torch, "float8_e8m0fnu"):  # since torch 2.7
    _NAMES[torch.float8_e8m0fnu] = "F8_E8M0"
_CHUNK = 1 << 26  # bytes that are copied at a time


class BadFile(FuseError, ValueError):
    """{path}: {rule}, got {got}. {hint}"""


def save_file(
    tensors: Mapping[str, Tensor], path: str | os.PathLike, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes tensors, packed ones as their parts, to a safetensors file that appears when it is whole.

    Raises BadArgument for names that collide, and for dtypes that safetensors does not have."""
    plans = {name: _plan(tensor) for name, tensor in tensors.items()}
    with _at_users_line(), _writer(path, plans, metadata or {}) as write:
        for name, tensor in tensors.items():
            write(name, tensor)


def load_file(path: str | os.PathLike, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, packed where save_file or `fusedsl pack` stored them so.

    Raises BadFile for what is no whole file, or whose parts do not fit together; MissingPackage without safetensors."""
    with _at_users_line(), _Reader(path, device) as file:
        return {name: file.tensor(name) for name in file.names}


@contextlib.contextmanager
def _at_users_line() -> Iterator[None]:
    try:
        yield
    except FuseError as error:
        raise error.at(user_line()) from None


# ---- plans: what will be written, before there is any of it ----------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """The parts of a tensor that will be written: dtype and shape by what stands behind the name. entry: of the
    metadata, None for a plain tensor, whose one part is ""."""

    parts: dict[str, tuple[torch.dtype, tuple[int, ...]]]
    entry: dict[str, Any] | None = None


def _plan(tensor: Tensor) -> _Plan:
    if isinstance(tensor, Packed):
        return _packed_plan(tensor.format, tuple(tensor.shape), tensor.dims, tensor.dtype)
    return _Plan({"": (tensor.dtype, tuple(tensor.shape))})


def _packed_plan(format: Format, shape: tuple[int, ...], dims: tuple[int, ...], dtype: torch.dtype) -> _Plan:
    stored = [size for _, size in sorted(zip(dims, shape, strict=True))]
    parts = {f".{name}": each for name, each in part_types(format, stored[:-1], stored[-1]).items()}
    return _Plan(parts, {"format": format.text, "shape": shape, "dims": dims, "dtype": _NAMES[dtype]})


# ---- writing ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _writer(
    path: str | os.PathLike, plans: Mapping[str, _Plan], metadata: Mapping[str, str]
) -> Iterator[Callable[[str, Tensor], None]]:
    """Writes the tensors it is called with, in any order, each as planned. The file is there after the last."""
    entries = {name: plan.entry for name, plan in plans.items() if plan.entry is not None}
    taken = {f"{name}.{part}" for name in entries for part in Parts._fields} | {"__metadata__"}
    for name in taken & plans.keys():
        raise BadArgument(op="save_file", name="names", rule="other than those of parts", got=repr(name),
                          hint="A packed tensor n is stored as n.data, n.scale, ...: rename one.")  # fmt: skip
    if entries:
        metadata = {**metadata, KEY: json.dumps({"version": VERSION, "tensors": entries})}
    header, places = _header(plans, metadata)
    with _replacing(Path(path)) as out:
        out.write(header)

        def write(name: str, tensor: Tensor) -> None:
            assert _plan(tensor) == plans[name], name
            for suffix, part in _parts(tensor):
                out.seek(len(header) + places[name + suffix])
                out.writelines(_bytes(part))

        yield write


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of another when it is complete, or is removed."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with open(beside, "xb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _header(plans: Mapping[str, _Plan], metadata: Mapping[str, str]) -> tuple[bytes, dict[str, int]]:
    """The bytes before the data, and where in the data each part starts. Wide dtypes come first: each is aligned."""
    parts = [(name + suffix, *kind) for name, plan in plans.items() for suffix, kind in plan.parts.items()]
    table: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    places, end = {}, 0
    for name, dtype, shape in sorted(parts, key=lambda part: (-part[1].itemsize, part[0])):
        if dtype not in _NAMES:
            raise BadArgument(op="save_file", name=name, rule=f"of {' '.join(_NAMES.values())}", got=str(dtype),
                              hint="safetensors has no other dtypes.")  # fmt: skip
        start, end = end, end + torch.Size(shape).numel() * dtype.itemsize
        table[name] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": [start, end]}
        places[name] = start
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, places


def _parts(tensor: Tensor) -> Iterable[tuple[str, Tensor]]:
    if isinstance(tensor, Packed):
        return [(f".{name}", part) for name, part in tensor.parts._asdict().items() if part is not None]
    return [("", tensor.detach())]


def _bytes(part: Tensor) -> Iterator[memoryview]:
    flat = part.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
    return (piece.cpu().numpy().data for piece in flat.split(_CHUNK))


# ---- reading ---------------------------------------------------------------------------------------------------------


class _Reader:
    """An open safetensors file. names: of its tensors, a packed one under its own name."""

    def __init__(self, path: str | os.PathLike, device: str | torch.device = "cpu") -> None:
        self.path, self.device = Path(path), str(device)

    def __enter__(self) -> _Reader:
        try:
            from safetensors import SafetensorError, safe_open
        except ImportError:
            hint = "fusedsl[files], which brings it: `pip install safetensors`"
            raise MissingPackage(what="reading a safetensors file", name="safetensors", hint=hint) from None
        try:
            self._file = safe_open(str(self.path), framework="pt", device=self.device).__enter__()
        except SafetensorError as error:
            raise self._bad("it must be a whole safetensors file", str(error)) from None
        self._stored = set(self._file.keys())
        self.metadata: dict[str, str] = dict(self._file.metadata() or {})
        self.packed = self._entries()
        inner = {f"{name}.{part}" for name in self.packed for part in Parts._fields}
        self.names = [*(name for name in self._file.keys() if name not in inner), *self.packed]  # noqa: SIM118
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.__exit__(*error)

    def tensor(self, name: str) -> Tensor:
        if name not in self.packed:
            return self._file.get_tensor(name)
        format, shape, dims, dtype = self.packed[name]
        names = [part for part in Parts._fields if f"{name}.{part}" in self._stored]
        if "data" not in names:
            raise self._bad(f"{name} must have its parts", "no data")
        parts = Parts(**{part: self._file.get_tensor(f"{name}.{part}") for part in names})
        try:
            return Packed(checked(parts, format, shape, dims), format, shape, dims, dtype)
        except FuseError as error:
            raise self._bad(f"the parts of {name} must be those of {format.text}", error.message) from None

    def kind(self, name: str) -> tuple[torch.dtype, tuple[int, ...]]:
        """The dtype and shape of a tensor that is not packed, without reading it."""
        part = self._file.get_slice(name)
        names = {text: dtype for dtype, text in _NAMES.items()}
        if part.get_dtype() not in names:
            raise self._bad(f"{name} must be of {' '.join(names)}", part.get_dtype())
        return names[part.get_dtype()], tuple(part.get_shape())

    def _entries(self) -> dict[str, tuple[Format, tuple[int, ...], tuple[int, ...], torch.dtype]]:
        """The format, shape, dims and dtype of the packed tensors, as the metadata has them."""
        try:
            found = json.loads(self.metadata.pop(KEY, '{"version": 1, "tensors": {}}'))
            version, entries = found["version"], dict(found["tensors"])
        except (ValueError, TypeError, KeyError) as error:
            raise self._bad(f"its metadata {KEY} must be as fusedsl writes it", repr(error)) from None
        if version != VERSION:
            raise self._bad(f"its metadata {KEY} must have version {VERSION}", repr(version), "Take a newer fusedsl.")
        return {name: self._entry(name, entry) for name, entry in entries.items()}

    def _entry(self, name: str, entry: Any) -> tuple[Format, tuple[int, ...], tuple[int, ...], torch.dtype]:
        try:
            format, shape, dims = parse(entry["format"]), tuple(entry["shape"]), tuple(entry["dims"])
            dtype = next(dtype for dtype in FLOATS if _NAMES[dtype] == entry["dtype"])
            counts = all(type(size) is int and 0 <= size < 2**48 for size in (*shape, *dims))
            if not counts or not dims or len(shape) != len(dims) or sorted(dims) != list(range(len(dims))):
                raise ValueError(f"shape {shape}, dims {dims}")
        except (ValueError, TypeError, KeyError, StopIteration, FuseError) as error:
            got = error.message if isinstance(error, FuseError) else repr(error)
            raise self._bad(f"the entry of {name} in its metadata must be as fusedsl writes it", got) from None
        return format, shape, dims, dtype

    def _bad(self, rule: str, got: str, hint: str = "Is it damaged, or not all there?") -> BadFile:
        return BadFile(path=self.path, rule=rule, got=got, hint=hint)


# ---- packing a file --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """What packing a file did. bytes of the packed tensors before and after, values: how many they hold."""

    packed: int
    copied: int
    copied_bytes: int
    bytes_before: int
    bytes_after: int
    values: int

    @property
    def bits_per_weight(self) -> float:
        return self.bytes_after * 8 / self.values if self.values else 0.0

    def rows(self) -> list[tuple[str, ...]]:
        """What was done, and to how much."""
        packed = f"{self.packed:,}: {self.bytes_before:,} bytes before, {self.bytes_after:,} after, "
        return [
            ("packed", f"{packed}{self.bits_per_weight:.3f} bits a weight"),
            ("copied", f"{self.copied:,}: {self.copied_bytes:,} bytes"),
        ]


def pack_file(
    source: Path, target: Path, format: str | Format, *, axis: int = -1, only: Sequence[str] = (),
    skip: Sequence[str] = (), method: Method = "minmax", track: Callable[[list[str]], Iterable[str]] = iter,
) -> Summary:  # fmt: skip
    """Packs the float tensors of two or more dimensions of a safetensors file, one at a time, and copies the others.

    only, skip: patterns of names, such as "*.mlp.*". track: goes through the names, to show how far it is. Raises
    BadFile, and BadArgument where nothing is packed or a tensor does not go into the format."""
    format = parse(format)
    with _Reader(source) as file:
        plans = {name: _file_plan(file, name, format, axis, only, skip) for name in file.names}
        chosen = [name for name, plan in plans.items() if plan.entry is not None and name not in file.packed]
        if not chosen:
            done = sum(name in file.packed for name in plans)
            got = f"{len(plans) - done} other tensors" + (f", and {done} that are packed already" if done else "")
            raise BadArgument(op="pack", name="a float tensor of two dimensions or more",
                              rule="among the names that are wanted", got=got,
                              hint="Look at --only and --skip, whose patterns match whole names.")  # fmt: skip
        sums = dict.fromkeys(("copied_bytes", "bytes_before", "bytes_after", "values"), 0)
        with _writer(target, plans, file.metadata) as write:
            for name in track(list(plans)):
                tensor = file.tensor(name)
                if name not in chosen:
                    sums["copied_bytes"] += tensor.nbytes
                    write(name, tensor)
                    continue
                packed = _packed(name, tensor, format, axis, method)
                write(name, packed)
                sums["bytes_before"] += tensor.nbytes
                sums["bytes_after"] += packed.nbytes
                sums["values"] += tensor.numel()
    return Summary(len(chosen), len(plans) - len(chosen), **sums)


def _file_plan(file: _Reader, name: str, format: Format, axis: int, only: Sequence[str], skip: Sequence[str]) -> _Plan:
    if name in file.packed:
        return _packed_plan(*file.packed[name])
    dtype, shape = file.kind(name)
    wanted = not only or any(fnmatch.fnmatchcase(name, pattern) for pattern in only)
    wanted = wanted and not any(fnmatch.fnmatchcase(name, pattern) for pattern in skip)
    if not wanted or dtype not in FLOATS or len(shape) < 2:
        return _Plan({"": (dtype, shape)})
    if not -len(shape) <= axis < len(shape):
        raise BadArgument(op="pack", name="axis", rule=f"a dimension of {name}, {list(shape)}", got=axis,
                          hint="Leave it out with --skip, or take another axis.")  # fmt: skip
    return _packed_plan(format, shape, stored_dims(len(shape), axis % len(shape)), dtype)


def _packed(name: str, tensor: Tensor, format: Format, axis: int, method: Method) -> Packed:
    try:
        return pack(tensor, format, axis, method=method)
    except BadArgument as error:
        raise BadArgument(**{**error.parts, "name": f"{name}, which"}) from None
