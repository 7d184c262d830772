"""Loads, stores and atomics of interpreted kernels, lane by lane in the memory of tensors; each is checked first."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from triton._C.libtriton import interpreter as _native

from .hardware import from_raw, full, raw_dtype, round_bf16, to_raw
from .traffic import OutOfBounds, Traffic


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
