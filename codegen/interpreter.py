"""Run a `@triton.jit` kernel on CPU tensors, from its TTIR, one program after another.

Triton's own interpreter re-executes the Python source of a kernel; it is wrong in many numerical details, slow, and
patches `triton.language` for the whole process. This one lets Triton's real front end compile the kernel to TTIR, the
text every GPU target starts from, translates that once into a Python function over numpy arrays, and calls the
function for each program of the grid. Nothing of Triton is patched, so GPU compilation and other threads are
undisturbed, and the meaning of types, constants, loops and branches is the front end's own.

    text = ttir_of(fn, signature, constexprs)         the front end, inlining, common subexpressions   (ttir.py)
    functions = parse(text)                           a tree of Function, Block, Op                    (ttir.py)
    make_program = _Translator(functions).translate() Python over the operations of hardware.py
    program = make_program(memory, grid, *arguments)  once per launch: what no program changes
    program(pid)                                      once per program

Not modelled: contraction of a multiply and an add, flush to zero, the last bits of the approximate exp, log, sin and
division, and the order in which a reduction adds.
"""

from __future__ import annotations

import functools
import math
import re
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton._C.libtriton import interpreter as _native
from triton.runtime.jit import JITFunction

from . import hardware
from .binding import bind, signature_of
from .hardware import from_raw, full, raw_dtype, round_bf16, to_raw
from .ttir import STRING, VALUE, Block, Function, Op, Type, parse, ttir_of

__all__ = ["CannotInterpret", "OutOfBounds", "Traffic", "launch"]


class CannotInterpret(RuntimeError):
    """The kernel uses something that has no meaning on a CPU, such as inline assembly."""


class OutOfBounds(RuntimeError):
    """An unmasked lane would read or write memory that belongs to no argument."""


def launch(
    fn: JITFunction,
    grid: tuple[int, int, int],
    args: Mapping[str, object],
    hooks: Traffic | None = None,
    *,
    signature: Mapping[str, str] | None = None,
) -> None:
    """Run every program of `grid` (x fastest) on CPU tensors, in place; nothing is copied.

    `args` holds the arguments by parameter name: CPU tensors of any strides (the kernel receives their address), ints,
    floats, bools, None, and the values of the constexpr parameters; parameters with a default may be left out.
    Integers are typed as Triton's launcher types them (i32, or i64 where the value needs it) unless `signature` gives
    a type such as `{"n": "i64"}`. `hooks` counts the bytes the programs load and store.

    An access outside the storages of the arguments raises OutOfBounds and is not made; a kernel that turns integers
    into pointers (a table of addresses) is trusted, unless `hooks` is strict. A lane that a load masks off and gives no
    `other` is undefined on a GPU; here it is NaN, or 0xA5 in every byte.

    Raises TypeError for arguments that do not fit the parameters, ValueError for a tensor elsewhere than on the CPU,
    AssertionError where `tl.device_assert` or `tl.assume` fails, OutOfBounds, CannotInterpret for inline assembly, and
    whatever Triton's front end raises for a kernel it rejects.
    """
    bound = bind(fn, args)
    text = signature_of(fn, bound, signature)
    kernel = _translated(fn, text, {name: value for name, value in bound.items() if name not in text})
    tensors = {name: value for name, value in bound.items() if isinstance(value, torch.Tensor)}
    memory = Memory(None if kernel.makes_pointers else tensors.values(), hooks)
    values = [_argument(value, text[name]) for name, value in bound.items() if name in text]
    if hooks is not None:
        hooks.begin(tensors)
    try:
        with np.errstate(all="ignore"):
            _run_grid(kernel.make_program, memory, grid, values, fn.__name__)
    finally:
        if hooks is not None:
            hooks.end()


def _run_grid(
    make_program: Callable[..., Any], memory: Memory, grid: tuple[int, int, int], values: list[Any], name: str
) -> None:
    nx, ny, nz = (int(extent) for extent in grid)
    program = make_program(memory, (np.int32(nx), np.int32(ny), np.int32(nz)), *values)
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                try:
                    program((np.int32(x), np.int32(y), np.int32(z)))
                except Exception as error:
                    error.add_note(f"in kernel {name}, program ({x}, {y}, {z})")
                    raise


_SCALARS = {
    "i1": np.bool_, "u1": np.bool_, "i8": np.int8, "i16": np.int16, "i32": np.int32, "i64": np.int64,
    "u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64,
    "fp16": np.float16, "fp32": np.float32, "fp64": np.float64,
}


def _argument(value: Any, kind: str) -> Any:
    """The value a translated program receives for an argument of Triton type `kind`."""
    if kind.startswith("*"):
        return np.int64(value.data_ptr() if isinstance(value, torch.Tensor) else value)
    if kind == "bf16":  # the upper half of an f32, not rounded: what Triton's own launchers pass
        return (np.float32(value).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    scalar = np.array(value).astype(_SCALARS[kind])[()]
    return scalar.view(f"i{scalar.itemsize}") if scalar.dtype.kind == "u" else scalar


# ---------------------------------------------------------------------------------------------------------------------
# Traffic
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class _Range:
    """The bytes one tensor spans, and which of them this launch has touched."""

    name: str
    start: int
    stop: int
    touched: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, tensor: torch.Tensor) -> _Range:
        start = tensor.data_ptr()
        last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
        stop = start + (last + 1) * tensor.element_size() if tensor.numel() else start
        return cls(name, start, stop)

    def touch(self, kind: str, addresses: np.ndarray, size: int) -> None:
        if kind not in self.touched:
            self.touched[kind] = np.zeros((self.stop - self.start + 7) & ~7, np.bool_)
        bytes_touched, offsets = self.touched[kind], addresses - self.start
        if not (offsets & (size - 1)).any():
            words = bytes_touched.view(f"u{size}")
            words[offsets >> (size.bit_length() - 1)] = int.from_bytes(b"\1" * size, "little")
        else:
            for byte in range(size):
                bytes_touched[offsets + byte] = True

    def count(self, kind: str) -> int:
        return int(np.count_nonzero(self.touched[kind])) if kind in self.touched else 0


class Traffic:
    """Counts the bytes that launches load and store, exactly, by argument name.

    Give it to `launch` as `hooks`; several launches add up. Masked lanes count nothing, atomics count as a load and a
    store. A byte belongs to the first argument whose extent contains it, so an argument passed twice counts once.
    Tensors reached through a table of pointers can be named in `tensors`; what lies in no known tensor is counted
    under `Traffic.ELSEWHERE`, or raises OutOfBounds before the access is made if `strict`.

    `load_bytes`, `store_bytes`: what the programs requested, every lane of every access.
    `unique_load_bytes`, `unique_store_bytes`: distinct bytes per launch, summed over launches.
    """

    ELSEWHERE = "?"

    def __init__(self, tensors: Mapping[str, torch.Tensor] | None = None, *, strict: bool = False) -> None:
        self.load_bytes: dict[str, int] = {}
        self.store_bytes: dict[str, int] = {}
        self.unique_load_bytes: dict[str, int] = {}
        self.unique_store_bytes: dict[str, int] = {}
        self._tensors = dict(tensors or {})
        self._strict = strict
        self._ranges: list[_Range] = []
        self._stray: dict[str, list[np.ndarray]] = {}

    @property
    def total_load_bytes(self) -> int:
        return sum(self.load_bytes.values())

    @property
    def total_store_bytes(self) -> int:
        return sum(self.store_bytes.values())

    @property
    def total_unique_load_bytes(self) -> int:
        return sum(self.unique_load_bytes.values())

    @property
    def total_unique_store_bytes(self) -> int:
        return sum(self.unique_store_bytes.values())

    def begin(self, arguments: Mapping[str, torch.Tensor]) -> None:
        """A launch starts; `arguments` are its tensors by parameter name."""
        self._ranges = [_Range.of(name, tensor) for name, tensor in {**arguments, **self._tensors}.items()]
        self._stray = {"load": [], "store": []}
        for counts in (self.load_bytes, self.store_bytes, self.unique_load_bytes, self.unique_store_bytes):
            for known in self._ranges:
                counts.setdefault(known.name, 0)

    def load(self, addresses: np.ndarray, size: int) -> None:
        """The unmasked lanes of one load: int64 `addresses` of elements of `size` bytes."""
        self._access("load", self.load_bytes, addresses, size)

    def store(self, addresses: np.ndarray, size: int) -> None:
        """The unmasked lanes of one store: int64 `addresses` of elements of `size` bytes."""
        self._access("store", self.store_bytes, addresses, size)

    def end(self) -> None:
        """The launch is over: add its distinct bytes."""
        for kind, counts in (("load", self.unique_load_bytes), ("store", self.unique_store_bytes)):
            for known in self._ranges:
                counts[known.name] += known.count(kind)
            if self._stray[kind]:
                stray = np.unique(np.concatenate(self._stray[kind])).size
                counts[self.ELSEWHERE] = counts.get(self.ELSEWHERE, 0) + stray
        self._ranges = []

    def _access(self, kind: str, counts: dict[str, int], addresses: np.ndarray, size: int) -> None:
        left = addresses.reshape(-1)
        for known in self._ranges:
            if not left.size:
                return
            inside = (left >= known.start) & (left <= known.stop - size)
            mine = left if inside.all() else left[inside]
            if mine.size:
                counts[known.name] += mine.size * size
                known.touch(kind, mine, size)
                left = left[~inside]
        if left.size:
            self._elsewhere(kind, counts, left, size)

    def _elsewhere(self, kind: str, counts: dict[str, int], addresses: np.ndarray, size: int) -> None:
        if self._strict:
            first = int(addresses[0])
            nearest = min(self._ranges, key=lambda known: max(known.start - first, first - known.stop), default=None)
            where = f", {first - nearest.start} bytes from the start of {nearest.name}" if nearest else ""
            raise OutOfBounds(f"{kind} of {addresses.size} lanes outside every known tensor{where}")
        counts[self.ELSEWHERE] = counts.get(self.ELSEWHERE, 0) + addresses.size * size
        self._stray[kind].append((addresses[:, None] + np.arange(size)).reshape(-1))


# ---------------------------------------------------------------------------------------------------------------------
# Memory
# ---------------------------------------------------------------------------------------------------------------------


class _Window:
    """Tells numpy to read and write process memory at an address, without a copy and without owning it."""

    def __init__(self, address: int, count: int, dtype: np.dtype) -> None:
        self.__array_interface__ = {"data": (address, False), "shape": (count,), "typestr": dtype.str, "version": 3}


def _storage(tensor: torch.Tensor) -> tuple[int, int]:
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.data_ptr() + storage.nbytes()


_FEW = 1024  # up to here Triton's loop over the lanes is faster than numpy's fixed costs


def _window(addresses: np.ndarray, span: tuple[int, int], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray] | None:
    """The memory that `span` covers, as an array, and the lanes as indices into it; None if they are misaligned."""
    low, high = span
    offsets = addresses - low
    if np.bitwise_or.reduce(offsets) & (dtype.itemsize - 1):
        return None
    indices = offsets >> (dtype.itemsize.bit_length() - 1)
    return np.asarray(_Window(low, (high - low) // dtype.itemsize, dtype)), indices


def _fetch(addresses: np.ndarray, span: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    if addresses.size > _FEW and (found := _window(addresses, span, dtype)):
        memory, indices = found
        return memory.take(indices)
    mask, other = np.ones(addresses.shape, np.bool_), np.zeros(addresses.shape, dtype)
    return _native.load(_words(addresses), mask, other, dtype)


def _put(addresses: np.ndarray, span: tuple[int, int], values: np.ndarray) -> None:
    if addresses.size > _FEW and (found := _window(addresses, span, values.dtype)):
        memory, indices = found
        memory[indices] = values  # of lanes that share an address the last wins
    else:
        _native.store(_words(addresses), np.array(values), np.ones(addresses.shape, np.bool_))


def _words(addresses: np.ndarray) -> np.ndarray:
    """Addresses as Triton's native code takes them: it refuses arrays that are views of read-only ones."""
    return np.array(addresses).view(np.uint64)


def _undefined(element: str) -> Any:
    """What a masked lane without `other` holds: nothing a correct kernel may look at."""
    if element in ("f16", "bf16", "f32", "f64"):
        return np.float32(math.nan)
    dtype = np.dtype(np.bool_) if element == "i1" else raw_dtype(element)
    return np.frombuffer(b"\x01" if element == "i1" else b"\xa5" * dtype.itemsize, dtype)[0]


_RMW = {name: getattr(_native.RMW_OP, {"exch": "XCHG"}.get(name, name.upper()))
        for name in ("add", "fadd", "max", "min", "umax", "umin", "and", "or", "xor", "exch")}


class Memory:
    """What the loads and stores of a launch go through. `tensors` None: any address will do."""

    def __init__(self, tensors: Iterable[torch.Tensor] | None, hooks: Traffic | None) -> None:
        self._hooks = hooks
        self._storages = None if tensors is None else [_storage(tensor) for tensor in tensors]

    def _before(self, kind: str, addresses: np.ndarray, size: int) -> tuple[int, int]:
        """Every access passes here, with its unmasked lanes, before it is made. Gives the bytes it spans."""
        if self._hooks is not None:
            (self._hooks.load if kind == "load" else self._hooks.store)(addresses, size)
        if not addresses.size:
            return 0, 0
        low, high = int(addresses.min()), int(addresses.max()) + size
        if self._storages is None or any(start <= low and high <= stop for start, stop in self._storages):
            return low, high
        inside = np.zeros(addresses.shape, np.bool_)
        for start, stop in self._storages:
            inside |= (addresses >= start) & (addresses <= stop - size)
        if not inside.all():
            raise OutOfBounds(f"{kind} outside every argument by {np.count_nonzero(~inside)} of {inside.size} lanes")
        return low, high

    def _lanes(self, pointer: Any, mask: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray | None]:
        """The addresses of the unmasked lanes, flat, and the mask, or None if all lanes are unmasked."""
        addresses = full(pointer, shape)
        if mask is None or mask.all():
            return addresses.reshape(-1), None
        mask = full(mask, shape)
        return addresses[mask], mask

    def load(self, pointer: Any, mask: Any, other: Any, shape: tuple[int, ...], element: str) -> Any:
        dtype = raw_dtype(element)
        addresses, mask = self._lanes(pointer, mask, shape)
        span = self._before("load", addresses, dtype.itemsize)
        values = from_raw(_fetch(addresses, span, dtype), element)
        if mask is None:
            return values.reshape(shape)[()]
        result = np.empty(shape, values.dtype)
        result[...] = _undefined(element) if other is None else other
        result[mask] = values
        return result[()]

    def store(self, pointer: Any, value: Any, mask: Any, shape: tuple[int, ...], element: str) -> None:
        addresses, mask = self._lanes(pointer, mask, shape)
        raw = full(to_raw(value, element), shape)
        assert raw.dtype == raw_dtype(element), f"a store of {raw.dtype} to {element}"
        span = self._before("store", addresses, raw.dtype.itemsize)
        if addresses.size:
            _put(addresses, span, raw.reshape(-1) if mask is None else raw[mask])

    def atomic_rmw(self, op: str, pointer: Any, value: Any, mask: Any, shape: tuple[int, ...], element: str) -> Any:
        """Read, combine, write, lane after lane; gives the old values (0 in masked lanes)."""
        addresses, mask = self._lanes(pointer, mask, shape)
        values = full(value, shape)
        values = values.reshape(-1) if mask is None else values[mask]
        old = np.zeros(shape, values.dtype)
        if addresses.size:
            self._before_atomic(addresses, element)
            before = self._rmw(op, addresses, values, element)
            old[... if mask is None else mask] = before.reshape(shape) if mask is None else before
        return old[()]

    def _rmw(self, op: str, addresses: np.ndarray, values: np.ndarray, element: str) -> np.ndarray:
        dtype = raw_dtype(element)
        if element == "bf16" and op == "fadd":
            lanes = zip(np.split(addresses, addresses.size), np.split(values, values.size), strict=True)
            return np.concatenate([self._bf16_add(address, value) for address, value in lanes])
        raw = np.array(to_raw(values, element))
        raw = raw.view(f"u{dtype.itemsize}") if op in ("umax", "umin", "exch") else raw
        relaxed = _native.MEM_SEMANTIC.RELAXED
        old = _native.atomic_rmw(_RMW[op], _words(addresses), raw, np.ones(raw.shape, np.bool_), relaxed)
        return from_raw(old.view(dtype), element)

    @staticmethod
    def _bf16_add(address: np.ndarray, value: np.ndarray) -> np.ndarray:
        span = int(address[0]), int(address[0]) + 2
        old = from_raw(_fetch(address, span, np.dtype("u2")), "bf16")
        _put(address, span, to_raw(round_bf16(old + value), "bf16"))
        return old

    def atomic_cas(self, pointer: Any, compare: Any, value: Any, shape: tuple[int, ...], element: str) -> Any:
        addresses, _ = self._lanes(pointer, None, shape)
        self._before_atomic(addresses, element)
        dtype = raw_dtype(element)
        word = f"u{dtype.itemsize}"  # compared as bits, as hardware does
        words = [np.array(full(to_raw(x, element), shape)).reshape(-1).view(word) for x in (compare, value)]
        old = _native.atomic_cas(_words(addresses), *words, _native.MEM_SEMANTIC.RELAXED)
        return from_raw(old.view(dtype), element).reshape(shape)[()]

    def _before_atomic(self, addresses: np.ndarray, element: str) -> None:
        self._before("load", addresses, raw_dtype(element).itemsize)
        self._before("store", addresses, raw_dtype(element).itemsize)


# ---------------------------------------------------------------------------------------------------------------------
# From TTIR to Python
# ---------------------------------------------------------------------------------------------------------------------

# Each table maps an operation to a Python expression of its operands {0}, {1}, ...

_FLOAT_OPS = {
    "arith.addf": "{0} + {1}", "arith.subf": "{0} - {1}", "arith.mulf": "{0} * {1}", "arith.divf": "{0} / {1}",
    "arith.remf": "np.fmod({0}, {1})", "arith.negf": "-{0}",
    "arith.maxnumf": "np.fmax({0}, {1})", "arith.minnumf": "np.fmin({0}, {1})",
    "arith.maximumf": "np.maximum({0}, {1})", "arith.minimumf": "np.minimum({0}, {1})",
    "math.absf": "np.abs({0})", "math.ceil": "np.ceil({0})", "math.floor": "np.floor({0})",
    "math.exp": "np.exp({0})", "math.exp2": "np.exp2({0})", "math.log": "np.log({0})", "math.log2": "np.log2({0})",
    "math.sin": "np.sin({0})", "math.cos": "np.cos({0})", "math.erf": "erf({0})",
    "math.sqrt": "np.sqrt({0})", "math.rsqrt": "1 / np.sqrt({0})",
    "tt.precise_sqrt": "np.sqrt({0})", "tt.precise_divf": "{0} / {1}",
    "tt.clampf": "clamp({0}, {1}, {2}, {op.propagates_nan})",
}

_INT_OPS = {
    "arith.addi": "{0} + {1}", "arith.subi": "{0} - {1}", "arith.muli": "{0} * {1}",
    "arith.divsi": "divide({0}, {1})", "arith.remsi": "np.fmod({0}, {1})",
    "arith.divui": "signed(unsigned({0}) // unsigned({1}))",
    "arith.remui": "signed(unsigned({0}) % unsigned({1}))",
    "arith.andi": "{0} & {1}", "arith.ori": "{0} | {1}", "arith.xori": "{0} ^ {1}",
    "arith.shli": "shift_left({0}, {1})", "arith.shrui": "shift_right({0}, {1})",
    "arith.shrsi": "shift_right_signed({0}, {1})",
    "arith.maxsi": "np.maximum({0}, {1})", "arith.minsi": "np.minimum({0}, {1})",
    "arith.maxui": "signed(np.maximum(unsigned({0}), unsigned({1})))",
    "arith.minui": "signed(np.minimum(unsigned({0}), unsigned({1})))",
    "math.absi": "np.abs({0})", "tt.mulhiui": "multiply_high({0}, {1})",
}

_BOOL_OPS = {  # arithmetic modulo 2; a signed 1-bit integer is 0 or -1
    "arith.addi": "{0} ^ {1}", "arith.subi": "{0} ^ {1}", "arith.muli": "{0} & {1}",
    "arith.andi": "{0} & {1}", "arith.ori": "{0} | {1}", "arith.xori": "{0} ^ {1}",
    "arith.maxsi": "{0} & {1}", "arith.minsi": "{0} | {1}", "arith.maxui": "{0} | {1}", "arith.minui": "{0} & {1}",
}

_COMPARISONS = {
    "arith.cmpi eq": "{0} == {1}", "arith.cmpi ne": "{0} != {1}",
    "arith.cmpi slt": "{0} < {1}", "arith.cmpi sle": "{0} <= {1}",
    "arith.cmpi sgt": "{0} > {1}", "arith.cmpi sge": "{0} >= {1}",
    "arith.cmpi ult": "unsigned({0}) < unsigned({1})", "arith.cmpi ule": "unsigned({0}) <= unsigned({1})",
    "arith.cmpi ugt": "unsigned({0}) > unsigned({1})", "arith.cmpi uge": "unsigned({0}) >= unsigned({1})",
    "arith.cmpf oeq": "{0} == {1}", "arith.cmpf one": "({0} < {1}) | ({0} > {1})",
    "arith.cmpf olt": "{0} < {1}", "arith.cmpf ole": "{0} <= {1}",
    "arith.cmpf ogt": "{0} > {1}", "arith.cmpf oge": "{0} >= {1}",
    "arith.cmpf ord": "({0} == {0}) & ({1} == {1})", "arith.cmpf uno": "({0} != {0}) | ({1} != {1})",
    "arith.cmpf ueq": "~(({0} < {1}) | ({0} > {1}))", "arith.cmpf une": "{0} != {1}",
    "arith.cmpf ult": "~({0} >= {1})", "arith.cmpf ule": "~({0} > {1})",
    "arith.cmpf ugt": "~({0} <= {1})", "arith.cmpf uge": "~({0} < {1})",
}

_OTHER_OPS = {
    # conversions
    "arith.extsi": "sign_extend({0}, {op.bits})", "arith.extui": "unsigned({0}).astype('i{op.size}')",
    "arith.trunci": "truncate({0}, {op.bits})", "arith.index_cast": "{0}.astype('i8')",
    "arith.sitofp": "int_to_float({op.as_signed}, '{op.target}')",
    "arith.uitofp": "int_to_float(unsigned({0}), '{op.target}')",
    "arith.fptosi": "float_to_int({0}, '{op.source}', {op.bits}, True)",
    "arith.fptoui": "float_to_int({0}, '{op.source}', {op.bits}, False)",
    "arith.extf": "float_to_float({0}, '{op.source}', '{op.target}')",
    "arith.truncf": "float_to_float({0}, '{op.source}', '{op.target}')",
    "tt.fp_to_fp": "float_to_float({0}, '{op.source}', '{op.target}', {op.toward_zero})",
    "arith.bitcast": "bitcast({0}, '{op.source}', '{op.target}')",
    "tt.bitcast": "bitcast({0}, '{op.source}', '{op.target}')",
    "tt.ptr_to_int": "{0}.astype('i{op.size}')", "tt.int_to_ptr": "{0}.astype('i8')",
    # elementwise
    "arith.select": "np.where({0}, {1}, {2})[()]",
    "math.fma": "fma({0}, {1}, {2}, '{op.target}')",
    "tt.addptr": "{0} + np.multiply({1}, {op.pointee_size}, dtype='i8')",
    # shapes
    "tt.splat": "np.reshape({0}, {op.ones})", "tt.unsplat": "{0}.reshape(-1)[0]", "tt.broadcast": "{0}",
    "tt.expand_dims": "np.expand_dims({0}, {op.axis})", "tt.trans": "np.transpose({0}, ({op.order},))",
    "tt.reshape": "reshape({0}, {op.source_shape}, {op.shape})",
    "tt.cat": "np.concatenate([full({0}, {op.source_shape}), full({1}, {op.source_shape})])",
    "tt.join": "np.stack(np.broadcast_arrays({0}, {1}), -1)", "tt.split": "split({0})",
    "tt.make_range": "np.arange({op.start}, {op.end}, dtype=np.int32)",
    "tt.gather": "gather({0}, {1}, {op.axis}, {op.source_shape}, {op.shape})",
    "tt.histogram": "histogram({0}, {op.optional[1]}, {op.source_shape}, {op.shape}[0])",
    "ub.poison": "from_raw(np.zeros({op.ones}, '{op.raw}'), '{op.target}')",
}

# The values depend on the program, or something happens.
_PROGRAM_OPS = {
    "tt.get_program_id": "pid[{op.dimension}]", "tt.get_num_programs": "grid[{op.dimension}]",
    "tt.load": "memory.load({0}, {op.optional[1]}, {op.optional[2]}, {op.source_shape}, '{op.pointee}')",
    "tt.store": "memory.store({0}, {1}, {op.optional[2]}, {op.source_shape}, '{op.pointee}')",
    # one program runs after another, so that a plain access is atomic
    "tt.atomic_load": "memory.load({0}, {op.optional[1]}, None, {op.source_shape}, '{op.pointee}')",
    "tt.atomic_store": "memory.store({0}, {1}, {op.optional[2]}, {op.source_shape}, '{op.pointee}')",
    "tt.atomic_rmw": "memory.atomic_rmw('{op.rmw}', {0}, {1}, {op.optional[2]}, {op.source_shape}, '{op.pointee}')",
    "tt.atomic_cas": "memory.atomic_cas({0}, {1}, {2}, {op.source_shape}, '{op.pointee}')",
    "tt.assert": "check({0}, {op.string})", "llvm.intr.assume": "check({0}, 'tl.assume does not hold')",
    "tt.print": "show(pid, {op.string}, {op.all})",
    "gpu.barrier": "None", "ttg.barrier": "None", "tt.debug_barrier": "None",
}

# Reductions that one numpy call does, in any order.
_EXACT_REDUCTIONS = {
    "arith.addi": "add", "arith.muli": "multiply", "arith.maxsi": "maximum", "arith.minsi": "minimum",
    "arith.andi": "bitwise_and", "arith.ori": "bitwise_or", "arith.xori": "bitwise_xor",
    "arith.maxnumf": "fmax", "arith.minnumf": "fmin", "arith.maximumf": "maximum", "arith.minimumf": "minimum",
}


class _View:
    """What a template may say about its operation: `{op.shape}`, `{op.axis}`, ..."""

    def __init__(self, op: Op, operands: list[str]) -> None:
        self._op, self._operands = op, operands
        self._first = op.types[0] if op.types else Type("")
        self._last = op.types[-1] if op.types else Type("")

    source = property(lambda self: self._first.element)
    target = property(lambda self: self._last.element)
    source_shape = property(lambda self: self._first.extent)
    shape = property(lambda self: self._last.extent)
    ones = property(lambda self: (1,) * len(self._last.extent))
    bits = property(lambda self: int(self._last.element[1:]))
    size = property(lambda self: self.bits // 8)
    raw = property(lambda self: raw_dtype(self._last.element).str)
    pointee = property(lambda self: self._first.pointee)
    pointee_size = property(lambda self: raw_dtype(self._first.pointee).itemsize)
    axis = property(lambda self: int(self._op.attribute("axis")))
    start = property(lambda self: int(self._op.attribute("start")))
    end = property(lambda self: int(self._op.attribute("end")))
    order = property(lambda self: self._op.attribute("order"))
    propagates_nan = property(lambda self: self._op.attribute("propagateNan", "none") == "all")
    toward_zero = property(lambda self: self._op.attribute("rounding", "rtne") == "rtz")
    dimension = property(lambda self: "xyz".index(self._op.text.split()[0]))
    rmw = property(lambda self: self._op.text.split(",")[0].strip())
    string = property(lambda self: STRING.findall(self._op.text)[0])
    all = property(lambda self: ", ".join(self._operands))
    optional = property(lambda self: [*self._operands, "None", "None"])
    as_signed = property(
        lambda self: f"sign_extend({self._operands[0]}, 32)" if self.source == "i1" else self._operands[0]
    )


def _name(value: str) -> str:
    """The Python name of an SSA value."""
    return "v" + re.sub(r"\W", "_", value[1:].replace("-", "minus_"))


def _names(values: Iterable[str]) -> list[str]:
    return [_name(value) for value in values]


def _loop(start: Any, stop: Any, step: Any) -> Iterator[Any]:
    return map(type(start), range(int(start), int(stop), int(step)))


def _check(condition: Any, message: str) -> None:
    if not np.all(condition):
        raise AssertionError(message)


def _show(pid: tuple, prefix: str, *values: Any) -> None:
    print(f"({', '.join(map(str, pid))}){prefix}", *values)


def _constant(text: str, kind: Type) -> Any:
    """`dense<0xFF800000>`, `1.0e+00`, `true`, `dense<[1, 2]>` as a value of the type."""
    body = text[len("dense<") : -1] if text.startswith("dense<") else text
    numbers = [_number(token, kind.element) for token in re.findall(r"[^\s,\[\]]+", body)]
    if kind.shape is None:
        return numbers[0]
    return np.array(numbers, numbers[0].dtype).reshape(kind.shape if len(numbers) > 1 else (1,) * len(kind.shape))


def _number(token: str, element: str) -> Any:
    if token in ("true", "false"):
        return np.bool_(token == "true")
    dtype = raw_dtype(element)
    if element[0] == "i" or token.startswith("0x"):
        bits = np.array([int(token, 0) & (2 ** (dtype.itemsize * 8) - 1)], np.uint64)
        return from_raw(bits.astype(f"u{dtype.itemsize}").view(dtype), element)[0]
    if element.startswith("f8"):
        return hardware.to_f8(np.float32(token), element)
    if element == "bf16":  # written with as many digits as tell it from its neighbours
        return hardware.to_bf16(np.float32(token))
    return dtype.type(token)


class _Translator:
    """Writes the Python of a module's functions; `translate` gives the function that makes a program."""

    def __init__(self, functions: list[Function]) -> None:
        self.functions = functions
        self.callees = {function.name: f"f{i}" for i, function in enumerate(functions)}
        self.lines: list[str] = []
        self.depth = 0
        self.values: list[Any] = []  # constants and functions that the text refers to as `K[i]`
        self.labels: dict[str, tuple[int, list[str]]] = {}  # the blocks that a branch can go to, and their arguments
        self.yields: list[list[str]] = []  # what the innermost scf.yield assigns to
        self.regions = 0

    def translate(self) -> Callable[..., Any]:
        for function in self.functions:
            self._function(function)
        source = "\n".join(self.lines)
        namespace = {**vars(hardware), "loop": _loop, "check": _check, "show": _show, "K": self.values}
        (kernel,) = (function for function in self.functions if function.public)
        exec(compile(source, f"<{kernel.name} from TTIR>", "exec"), namespace)
        return namespace["make_program"]

    # Text

    def _line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def _assign(self, targets: list[str], values: list[str]) -> None:
        if targets:
            self._line(f"{', '.join(targets)} = {', '.join(values)}")

    def _indented(self, header: str, write: Callable[[], None]) -> None:
        self._line(header)
        self.depth += 1
        before = len(self.lines)
        write()
        if len(self.lines) == before:
            self._line("pass")
        self.depth -= 1

    def _keep(self, value: Any) -> str:
        self.values.append(value)
        return f"K[{len(self.values) - 1}]"

    # Functions and blocks

    def _function(self, function: Function) -> None:
        arguments = _names(function.arguments)
        if not function.public:
            header = f"def {self.callees[function.name]}({', '.join(['pid', 'grid', 'memory', *arguments])}):"
            self._indented(header, lambda: self._blocks(function.blocks))
            return
        header = f"def make_program({', '.join(['memory', 'grid', *arguments])}):"
        self._indented(header, lambda: self._kernel(function))

    def _kernel(self, function: Function) -> None:
        """What no program changes stands before `program`, once per launch."""
        known, entry, per_program = set(function.arguments), function.blocks[0], []
        for op in entry.ops:
            if _is_fixed(op, known):
                known.update(op.results)
                self._op(op)
            else:
                per_program.append(op)
        entry.ops = per_program
        self._indented("def program(pid):", lambda: self._blocks(function.blocks))
        self._line("return program")

    def _blocks(self, blocks: list[Block]) -> None:
        """One block is straight code; several are a loop over the number of the next block."""
        if len(blocks) == 1:
            self._ops(blocks[0])
            return
        outer, self.labels = self.labels, {b.label: (i, _names(b.arguments)) for i, b in enumerate(blocks)}
        self._line("block = 0")
        self._indented("while True:", lambda: self._dispatch(blocks))
        self.labels = outer

    def _dispatch(self, blocks: list[Block]) -> None:
        for i, block in enumerate(blocks):
            self._indented(f"{'el' if i else ''}if block == {i}:", functools.partial(self._ops, block))

    def _ops(self, block: Block) -> None:
        for op in block.ops:
            self._op(op)

    def _op(self, op: Op) -> None:
        write = getattr(self, "_write_" + op.name.replace(".", "_"), None)
        if write is not None:
            write(op)
            return
        text = self._expression(op)
        self._line(f"{', '.join(_names(op.results))} = {text}" if op.results else text)

    def _expression(self, op: Op) -> str:
        operands = _names(op.operands)
        view = _View(op, operands)
        if op.name in ("arith.cmpi", "arith.cmpf"):
            return _COMPARISONS[f"{op.name} {op.text.split()[0].rstrip(',')}"].format(*self._widened(op, operands))
        if op.name in _FLOAT_OPS:
            text = _FLOAT_OPS[op.name].format(*self._widened(op, operands), op=view)
            if view.target == "bf16":
                return f"round_bf16({text})"
            return f"to_f8({text}, '{view.target}')" if view.target.startswith("f8") else text
        table = _BOOL_OPS if view.target == "i1" and op.name in _BOOL_OPS else _INT_OPS
        for templates in (table, _OTHER_OPS, _PROGRAM_OPS):
            if op.name in templates:
                return templates[op.name].format(*operands, op=view)
        raise CannotInterpret(f"{op.name} has no meaning in the interpreter: {op.name}{op.text}")

    @staticmethod
    def _widened(op: Op, operands: list[str]) -> list[str]:
        """fp8 operands of arithmetic and comparisons are numbers, not bits."""
        element = op.types[0].element
        return [f"from_f8({name}, '{element}')" for name in operands] if element.startswith("f8") else operands

    # Operations with a text of their own

    def _write_arith_constant(self, op: Op) -> None:
        kind = op.types[0] if op.types else Type("i1")
        self._line(f"{_name(op.results[0])} = {self._keep(_constant(op.text.strip(), kind))}")

    def _write_tt_dot(self, op: Op) -> None:
        a, b, c = op.types
        tf32 = op.attribute("inputPrecision", "ieee") == "tf32"
        shapes, kinds = (a.extent, b.extent), (a.element, b.element, c.element)
        operands = ", ".join(_names(op.operands))
        self._line(f"{_name(op.results[0])} = dot({operands}, {shapes}, {kinds}, {tf32})")

    def _write_tt_dot_scaled(self, op: Op) -> None:
        """`tt.dot_scaled %a scale %s, %b, %c lhs = e2m1 rhs = bf16 {...}`: either scale may be missing."""
        types, operands, shapes, scales = iter(op.types), [], [], []
        for part in op.text.split(",")[:2]:
            value, *scale = _names(VALUE.findall(part))
            operands.append(value)
            shapes.append(next(types).extent)
            kind = next(types) if scale else None
            scales.append(f"({scale[0]}, {kind.extent}, '{kind.element}')" if kind else "None")
        forms = (op.attribute("lhs"), op.attribute("rhs"))
        packed = tuple(op.attribute(f"{side}_k_pack", "true") == "true" for side in ("lhs", "rhs"))
        a, b = operands
        c, (p, q) = _name(op.operands[-1]), scales
        self._line(f"{_name(op.results[0])} = dot_scaled({a}, {b}, {c}, {shapes}, {forms}, ({p}, {q}), {packed})")

    def _write_tt_extern_elementwise(self, op: Op) -> None:
        function = hardware.libdevice(op.attribute("symbol"), op.types[-1].element)
        if function is None:
            raise CannotInterpret(f"libdevice's {op.attribute('symbol')} has no counterpart in numpy or torch")
        self._line(f"{_name(op.results[0])} = {self._keep(function)}({', '.join(_names(op.operands))})[()]")

    def _write_tt_call(self, op: Op) -> None:
        callee = re.search(r'@("[^"]+"|[\w.$-]+)', op.text)
        assert callee, op.text
        arguments = ", ".join(["pid", "grid", "memory", *_names(op.operands)])
        call = f"{self.callees[callee[1].strip(chr(34))]}({arguments})"
        self._line(f"{', '.join(_names(op.results))} = {call}" if op.results else call)

    def _write_tt_reduce(self, op: Op) -> None:
        axis = _View(op, []).axis
        size = op.types[0].extent[axis]
        first, *rest = op.regions[0][0].ops
        exact = _EXACT_REDUCTIONS.get(first.name) if first.operands == op.regions[0][0].arguments else None
        plain = op.types[0].element != "i1" and not op.types[0].element.startswith("f8")  # an f8 is its bits
        if exact and len(rest) == 1 and plain:
            value = _name(op.operands[0])
            self._line(f"{_name(op.results[0])} = reduce_exact(np.{exact}, {axis}, {size}, {value})")
            return
        self._combine(op, "reduce", f"{axis}, {size}")

    def _write_tt_scan(self, op: Op) -> None:
        axis = _View(op, []).axis
        reverse = op.attribute("reverse", "false") == "true"
        self._combine(op, "scan", f"{axis}, {op.types[0].extent[axis]}, {reverse}")

    def _write_tt_map_elementwise(self, op: Op) -> None:
        self._combine(op, "map_elementwise", f"{op.attribute('pack', '1')}, {op.types[0].extent}", each=False)

    def _combine(self, op: Op, function: str, parameters: str, each: bool = True) -> None:
        """`function` of the operands, with the region as a function in its own right."""
        region, self.regions = f"region{self.regions}", self.regions + 1
        blocks = op.regions[0]
        header = f"def {region}({', '.join(_names(blocks[0].arguments))}):"
        self._indented(header, lambda: self._blocks(blocks))
        if each and _branches(blocks):
            region = f"each({region})"
        operands = ", ".join(_names(op.operands))
        self._line(f"{', '.join(_names(op.results))}, = {function}({region}, {parameters}, {operands})")

    # Control flow

    def _write_scf_for(self, op: Op) -> None:
        if "unsigned" in op.text:
            raise CannotInterpret("a loop over unsigned bounds")
        variable, start, stop, step, *carried = _names(op.operands)
        self._assign(carried[0::2], carried[1::2])
        header = f"for {variable} in loop({start}, {stop}, {step}):"
        self._indented(header, lambda: self._region(op.regions[0], carried[0::2]))
        self._assign(_names(op.results), carried[0::2])

    def _write_scf_if(self, op: Op) -> None:
        results = _names(op.results)
        self._indented(f"if {_name(op.operands[0])}:", lambda: self._region(op.regions[0], results))
        if len(op.regions) > 1:
            self._indented("else:", lambda: self._region(op.regions[1], results))

    def _write_scf_while(self, op: Op) -> None:
        carried = _names(op.operands)
        before, after = op.regions
        passed = _names(after[0].arguments)

        def body() -> None:
            self._region(before, passed)  # ends in scf.condition, which may leave the loop
            self._region(after, carried[0::2])

        self._assign(carried[0::2], carried[1::2])
        self._indented("while True:", body)
        self._assign(_names(op.results), passed)

    def _region(self, blocks: list[Block], targets: list[str]) -> None:
        self.yields.append(targets)
        self._blocks(blocks)
        self.yields.pop()

    def _write_scf_yield(self, op: Op) -> None:
        self._assign(self.yields[-1], _names(op.operands))

    def _write_scf_condition(self, op: Op) -> None:
        condition, *passed = _names(op.operands)
        self._assign(self.yields[-1], passed)
        self._line(f"if not {condition}: break")

    def _write_cf_br(self, op: Op) -> None:
        (target,) = re.findall(r"(\^\w+)(?:\(([^)]*)\))?", op.text)
        self._jump(*target)

    def _write_cf_cond_br(self, op: Op) -> None:
        yes, no = re.findall(r"(\^\w+)(?:\(([^)]*)\))?", op.text)
        self._indented(f"if {_name(op.operands[0])}:", lambda: self._jump(*yes))
        self._indented("else:", lambda: self._jump(*no))

    def _jump(self, label: str, arguments: str) -> None:
        number, parameters = self.labels[label]
        self._assign(parameters, _names(VALUE.findall(arguments)))
        self._line(f"block = {number}")

    def _write_tt_return(self, op: Op) -> None:
        self._line(f"return {', '.join(_names(op.operands))}")

    def _write_region_return(self, op: Op) -> None:
        self._line(f"return {', '.join(_names(op.operands))},")

    _write_tt_reduce_return = _write_tt_scan_return = _write_tt_map_elementwise_return = _write_region_return


_PURE = ("arith.constant", "arith.cmpi", "arith.cmpf", "tt.extern_elementwise", "tt.dot", "tt.dot_scaled")


def _is_fixed(op: Op, known: set[str]) -> bool:
    """Does the operation give the same value in every program?"""
    pure = op.name in _PURE or any(op.name in table for table in (_FLOAT_OPS, _INT_OPS, _OTHER_OPS))
    return pure and known.issuperset(op.operands)


def _branches(blocks: list[Block]) -> bool:
    """Does a region ask for the value of a condition, so that it cannot be given arrays?"""
    return len(blocks) > 1 or any(op.name.startswith(("scf.", "cf.", "tt.call")) for op in blocks[0].ops)


@dataclass(frozen=True)
class _Translated:
    make_program: Callable[..., Any]
    makes_pointers: bool


_known: weakref.WeakKeyDictionary[JITFunction, dict[Any, _Translated]] = weakref.WeakKeyDictionary()
_known_lock = threading.Lock()


def _translated(fn: JITFunction, signature: dict[str, str], constexprs: dict[str, object]) -> _Translated:
    """The translation of a kernel for these types and constants, made once."""
    with _known_lock:
        known = _known.setdefault(fn, {})
    plain = {name: value.value if isinstance(value, tl.constexpr) else value for name, value in constexprs.items()}
    # repr keeps 0.0 and -0.0 apart, which are equal
    constants = ((name, type(v), repr(v) if isinstance(v, float) else v) for name, v in plain.items())
    key = (*signature.items(), *constants)
    if key not in known:
        text = ttir_of(fn, signature, plain)
        known[key] = _Translated(_Translator(parse(text)).translate(), "tt.int_to_ptr" in text)
    return known[key]
