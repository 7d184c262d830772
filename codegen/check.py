"""Finds mistakes in `@triton.jit` kernels by running them in the interpreter: accesses out of bounds, reads of memory
that holds nothing yet, programs that race, values of masked lanes that are stored.

The kernel sees addresses of its own, with gaps of half a terabyte between arguments, so that whatever leaves one
argument does not meet another, and it runs on copies. A kernel that turns integers into pointers sees real addresses
and changes its arguments, and what it reaches outside of them is not checked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton
from triton.runtime.jit import JITFunction

from ..errors import Line
from .hardware import from_raw, full, raw_dtype, to_raw
from .interpreter import Call, Id, prepare, programs
from .memory import Memory
from .shadow import Order, Shadow
from .ttir import VALUE, Op

__all__ = ["Finding", "check"]


@dataclass(frozen=True)
class Finding:
    """One mistake, as it was first seen.

    kind: "out of bounds", "uninitialised", "race", "undefined" or "assertion". line: of the kernel, or None where
    Triton says none. program: the id of the one that did it. argument: whose memory it is about. lanes: of that
    access, those at fault. times: how many accesses at this line make the same mistake.
    """

    kind: str
    message: str
    line: Line | None
    program: Id
    argument: str = ""
    lanes: int = 0
    times: int = 1

    def __str__(self) -> str:
        where = f"{self.line}\n" if self.line else ""
        again = f" ({self.times} accesses of this kind)" if self.times > 1 else ""
        return f"{where}{self.kind}: program {self.program} {self.message}{again}"


def check(
    fn: JITFunction,
    grid: Id,
    args: Mapping[str, object],
    *,
    empty: Collection[str] = (),
    views: bool = False,
    signature: Mapping[str, str] | None = None,
) -> list[Finding]:
    """The mistakes that the programs of `grid` make with these arguments, each at its line, as first met.

    `args` and `signature` are those of the interpreter's `launch`; the tensors stay as they are. `empty` names the
    arguments that hold nothing yet, as from torch.empty. `views`: a lane may access only the elements of an argument,
    not all of the memory that the argument is a view of.

    An access out of bounds is not made, and loads 0. Two accesses of different programs race if one of them stores,
    not both are atomic, and no atomic operation on one element, whose result is used, orders them. What a load that is
    never used would do is not seen: Triton removes it.

    Raises TypeError for a name in `empty` that is no tensor, and what `launch` raises, but for OutOfBounds and
    AssertionError.
    """
    call = prepare(fn, args, signature, watched=True)
    for name in empty:
        if name not in call.tensors:
            raise TypeError(f"{name} is no tensor of {fn.__name__}; those are {', '.join(call.tensors)}")
    watch = _Watch(call, grid, empty, views)
    _run(call, grid, watch)
    with contextlib.redirect_stdout(io.StringIO()):  # what the kernel prints is printed already
        for filling in _FILLINGS if watch.masked and not call.makes_pointers else ():
            _run(call, grid, _Again(call, watch, filling))
    return list(watch.findings.values())


def _run(call: Call, grid: Id, memory: _Guard) -> None:
    values = {**call.values, **memory.addresses}.values()
    with np.errstate(all="ignore"):
        for pid, run in programs(call.make_program, memory, grid, values):
            memory.begin(pid)
            try:
                run()
            except AssertionError as error:
                if memory.op is None or memory.op.name not in ("tt.assert", "llvm.intr.assume"):
                    raise
                memory.failed(str(error))


# ---- where arguments are ---------------------------------------------------------------------------------------------

_SLOT = 1 << 40


def _shadows(call: Call, views: bool) -> list[Shadow]:
    """The storages of the arguments, by address."""
    groups: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in call.tensors.items():
        groups.setdefault(tensor.untyped_storage()._cdata, {})[name] = tensor
    shadows = []
    for slot, tensors in enumerate(groups.values()):
        storage = next(iter(tensors.values())).untyped_storage()
        start = slot * _SLOT + _SLOT // 2 + storage.data_ptr() % 4096
        if call.makes_pointers:
            shadows.append(Shadow(tensors, storage.data_ptr(), storage))
        else:
            shadows.append(Shadow(tensors, start, storage.clone()))
        for name in tensors if views else ():
            shadows[-1].mark_argument("view", name)
    return sorted(shadows, key=lambda shadow: shadow.start)


class _Guard(Memory):
    """Makes the accesses that lie in an argument, and no others."""

    def __init__(self, call: Call, views: bool) -> None:
        super().__init__(None, None)
        self.op: Op | None = None  # the one that asks: the program says so
        self.program: Id = (0, 0, 0)
        self.shadows = _shadows(call, views)
        self.views, self.trusting = views, call.makes_pointers
        pairs = zip(self.shadows, self.shadows[1:], strict=False)
        self._middles = np.array([(left.stop + right.start) // 2 for left, right in pairs], np.int64)
        self.addresses = {name: np.int64(shadow.extent(name)[0]) for shadow in self.shadows for name in shadow.tensors}

    def begin(self, pid: Id) -> None:
        self.program = pid

    def failed(self, message: str) -> None:
        """An assertion of the kernel does not hold."""

    def strays(self, shadow: Shadow, addresses: np.ndarray, size: int, lanes: int) -> None:
        """These of so many lanes lie outside of every argument; this one is nearest."""

    def makes(self, shadow: Shadow, addresses: np.ndarray, element: str, raw: np.ndarray | None) -> None:
        """These lanes are accessed next. raw: what is stored, or given to an atomic operation."""

    def fills(self, element: str) -> Any:
        """What masked lanes of a load without `other` get; None: what the interpreter gives."""

    # The accesses

    def load(self, pointer: Any, mask: Any, other: Any, shape: tuple[int, ...], element: str) -> Any:
        addresses, made, stray = self._guarded(pointer, mask, shape, element)
        other = self.fills(element) if other is None and not (made | stray).all() else other
        return _zeroed(super().load(addresses, made, other, shape, element), stray)

    def store(self, pointer: Any, value: Any, mask: Any, shape: tuple[int, ...], element: str) -> None:
        raw = full(to_raw(value, element), shape)
        addresses, made, _ = self._guarded(pointer, mask, shape, element, raw)
        super().store(addresses, value, made, shape, element)

    def atomic_rmw(self, op: str, pointer: Any, value: Any, mask: Any, shape: tuple[int, ...], element: str) -> Any:
        raw = full(to_raw(value, element), shape)
        addresses, made, stray = self._guarded(pointer, mask, shape, element, raw)
        return _zeroed(super().atomic_rmw(op, addresses, value, made, shape, element), stray)

    def atomic_cas(self, pointer: Any, compare: Any, value: Any, shape: tuple[int, ...], element: str) -> Any:
        raw = full(to_raw(value, element), shape)
        addresses, made, _ = self._guarded(pointer, None, shape, element, raw)
        old = np.zeros(shape, from_raw(np.zeros(1, raw_dtype(element)), element).dtype)
        if made.any():
            old_word, new_word = (full(x, shape)[made] for x in (compare, value))
            lanes = addresses[made]
            old[made] = super().atomic_cas(lanes, old_word, new_word, lanes.shape, element)
        return old[()]

    def _guarded(
        self, pointer: Any, mask: Any, shape: tuple[int, ...], element: str, raw: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where the lanes are in the computer's memory, which of them are to be accessed, and which are outside."""
        wanted = np.array(full(np.bool_(True) if mask is None else mask, shape))
        addresses, made = np.array(full(pointer, shape)), np.zeros(shape, np.bool_)
        lanes = addresses[wanted]
        addresses[wanted], made[wanted] = self._sorted_out(lanes, element, None if raw is None else raw[wanted])
        return addresses, made, wanted & ~made

    def _sorted_out(self, lanes: np.ndarray, element: str, raw: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        size, owners = raw_dtype(element).itemsize, np.searchsorted(self._middles, lanes, "right")
        real, made = lanes.copy(), np.full(lanes.shape, self.trusting)
        for owner in np.unique(owners) if self.shadows else ():
            shadow, mine = self.shadows[owner], owners == owner
            inside = mine & (lanes >= shadow.start) & (lanes <= shadow.stop - size)
            if self.views and inside.any():
                inside[inside] = shadow.marks["view"][shadow.places(lanes[inside], size)].all(1)
            if (mine & ~inside).any() and not self.trusting:
                self.strays(shadow, lanes[mine & ~inside], size, lanes.size)
            if inside.any():
                self.makes(shadow, lanes[inside], element, None if raw is None else raw[inside])
                real[inside] += shadow.shift
            made |= inside
        return real, made


def _zeroed(value: Any, stray: np.ndarray) -> Any:
    return np.where(stray, value.dtype.type(0), value)[()] if stray.any() else value


# ---- what is wrong with an access ------------------------------------------------------------------------------------


_RACES = {  # an access of a kind, and those of other programs that it must not meet
    "load": ("store", "atomic store"),
    "store": ("store", "load", "atomic store", "atomic load"),
    "atomic load": ("store",),
    "atomic store": ("store", "load"),
}


class _Watch(_Guard):
    """Keeps what is wrong with the accesses of a launch."""

    def __init__(self, call: Call, grid: Id, empty: Iterable[str], views: bool) -> None:
        super().__init__(call, views)
        self.findings: dict[Any, Finding] = {}
        self._reported: dict[Any, int] = {}  # the number of the access that was last reported so
        self.grid, self.order = grid, Order(max(1, grid[0] * grid[1] * grid[2]))
        self.stored: dict[Any, list[int]] = {}  # program and operation -> a hash of each store
        self.masked: set[tuple[str, ...]] = set()  # the lines of loads with masked lanes and no `other`
        self._used = {name for name, count in Counter(VALUE.findall(call.text)).items() if count > 1}
        for shadow in self.shadows:
            for name in shadow.tensors.keys() & set(empty):
                shadow.mark_argument("empty", name)

    def begin(self, pid: Id) -> None:
        super().begin(pid)
        x, y, z = pid
        self.order.begin(x + self.grid[0] * (y + self.grid[1] * z))

    def report(self, kind: str, message: str, argument: str = "", lanes: int = 0, key: Any = None) -> None:
        stack = self.op.stack if self.op else ()
        line, *callers = _lines(stack) or [None]
        key, number = (kind, stack, argument, key), len(self.order.ops)
        if self._reported.setdefault(key, number) == number and key in self.findings:
            return  # of this access already
        self._reported[key] = number
        if key in self.findings:
            known = self.findings[key]
            self.findings[key] = dataclasses.replace(known, times=known.times + 1)
        else:
            message += "".join(f", called at {caller}" for caller in callers)
            self.findings[key] = Finding(kind, message, line, self.program, argument, lanes)

    def failed(self, message: str) -> None:
        self.report("assertion", f"fails: {message}")

    def strays(self, shadow: Shadow, addresses: np.ndarray, size: int, lanes: int) -> None:
        name = shadow.argument(int(addresses[0]))
        start, stop = shadow.extent(name) if self.views else (shadow.start, shadow.stop)
        before, after = start - int(addresses.min()), int(addresses.max()) + size - stop
        where = [f"up to {before} bytes before the start of {name}"] if before > 0 else []
        where += [f"up to {after} bytes past the end of {name}"] if after > 0 else []
        count = f"{addresses.size} of {lanes} lanes" if lanes > 1 else "a lane"
        text = " and ".join(where) or f"between the elements of {name}"
        self.report("out of bounds", f"{self._verb()} {count} {text}", name, addresses.size)

    def fills(self, element: str) -> Any:
        if self.op is not None:
            self.masked.add(self.op.stack)

    def makes(self, shadow: Shadow, addresses: np.ndarray, element: str, raw: np.ndarray | None) -> None:
        assert self.op is not None
        size, atomic = raw_dtype(element).itemsize, self.op.name.startswith("tt.atomic_")
        kind = ("atomic " if atomic else "") + ("load" if raw is None else "store")
        places = shadow.places(addresses, size)
        if self.op.name not in ("tt.store", "tt.atomic_store") and not self.op.text.startswith(" exch"):
            self._uninitialised(shadow, addresses, places)
        if atomic and addresses.size == 1:
            self._acquire(int(addresses[0]))
        for other in _RACES[kind]:
            self._races(shadow, addresses, places, other, raw)
        if raw is not None:
            self._keep(addresses, raw)
        if raw is not None and not atomic:
            self._collisions(shadow, addresses, raw)
        self._touch(shadow, places, kind)
        if atomic and addresses.size == 1:
            self._release(int(addresses[0]))

    def _verb(self) -> str:
        name = self.op.name if self.op else ""
        return {"tt.load": "loads", "tt.store": "stores"}.get(name, "accesses atomically")

    def _uninitialised(self, shadow: Shadow, addresses: np.ndarray, places: np.ndarray) -> None:
        bad = shadow.is_marked("empty", places)
        if bad.any():
            name, count = shadow.argument(int(addresses[bad][0])), int(np.count_nonzero(bad))
            message = f"{self._verb()} {_lanes(count)} of {name} that nothing has stored to"
            self.report("uninitialised", message, name, count)

    def _races(
        self, shadow: Shadow, addresses: np.ndarray, places: np.ndarray, kind: str, raw: np.ndarray | None
    ) -> None:
        """With earlier accesses of a kind to the same places."""
        for name in (kind, f"{kind} before"):
            if name not in shadow.marks:
                continue
            numbers = shadow.marks[name][places]
            bad = self.order.together(numbers)
            if bad.any():
                self._race(shadow, addresses, raw, np.any(bad, axis=1), int(numbers[bad][0]))
                return

    def _race(
        self, shadow: Shadow, addresses: np.ndarray, raw: np.ndarray | None, bad: np.ndarray, number: int
    ) -> None:
        assert self.op is not None
        other, name = self.order.ops[number], shadow.argument(int(addresses[bad][0]))
        assert other is not None
        did = {"tt.load": "loads", "tt.store": "stores"}.get(other.name, "accesses atomically")
        pid, line = self._id(self.order.program_of(number)), next(iter(_lines(other.stack)), None)
        where = "at this line, too" if other.stack == self.op.stack else f"at {line}"
        count = int(np.count_nonzero(bad))
        plain = self.op.name == other.name == "tt.store"
        same = raw is not None and plain and self._holds(shadow, addresses[bad], raw[bad])
        message = f"{self._verb()} {_lanes(count)} of {name} that program {pid} {did} {where}"
        message += "; both store the same values" if same else ""
        self.report("race", message, name, count, other.stack)

    def _id(self, program: int) -> Id:
        x, rest = program % self.grid[0], program // self.grid[0]
        return x, rest % self.grid[1], rest // self.grid[1]

    @staticmethod
    def _holds(shadow: Shadow, addresses: np.ndarray, raw: np.ndarray) -> bool:
        """Are these values in memory already?"""
        memory = np.asarray(torch.tensor([], dtype=torch.uint8).set_(shadow.storage).numpy())
        offsets = (addresses - shadow.start)[:, None] + np.arange(raw.itemsize)
        return np.array_equal(memory[offsets].reshape(-1), np.ascontiguousarray(raw).view(np.uint8).reshape(-1))

    def _collisions(self, shadow: Shadow, addresses: np.ndarray, raw: np.ndarray) -> None:
        """Lanes of one store with one address and different values."""
        if (np.diff(addresses) > 0).all():
            return
        order = np.argsort(addresses, kind="stable")
        words, at = np.ascontiguousarray(raw).view(f"u{raw.itemsize}")[order], addresses[order]
        bad = (at[1:] == at[:-1]) & (words[1:] != words[:-1])
        if bad.any():
            name, count = shadow.argument(int(at[1:][bad][0])), int(np.count_nonzero(bad)) + 1
            message = f"stores different values of {count} lanes to the same elements of {name}"
            self.report("race", message, name, count)

    def _touch(self, shadow: Shadow, places: np.ndarray, kind: str) -> None:
        """The last access of a kind to each place is kept, and the last before it of another program."""
        assert self.op is not None
        number = self.order.access(self.op)
        if kind in shadow.marks:
            earlier = shadow.marks[kind][places]
            others = self.order.of_others(earlier)
            if others.any():
                shadow.mark(f"{kind} before", places[others], earlier[others])
        shadow.mark(kind, places, number)
        if kind.endswith("store") and "empty" in shadow.marks:
            shadow.mark("empty", places, 0)

    def _acquire(self, address: int) -> None:
        assert self.op is not None
        if _semantics(self.op) in ("acquire", "acq_rel") and self._used.issuperset(self.op.results):
            self.order.acquire(address)

    def _release(self, address: int) -> None:
        assert self.op is not None
        if _semantics(self.op) in ("release", "acq_rel"):
            self.order.release(address)

    def _keep(self, addresses: np.ndarray, raw: np.ndarray) -> None:
        self.stored.setdefault((self.program, id(self.op)), []).append(_hash(addresses, raw))


def _semantics(op: Op) -> str:
    found = re.search(r"\b(acq_rel|acquire|release|relaxed)\b", op.text)
    return found[1] if found else "acq_rel"


def _lanes(count: int) -> str:
    return f"{count} lanes" if count > 1 else "a lane"


_TRITON = os.path.dirname(triton.__file__) + os.sep


def _lines(stack: tuple[str, ...]) -> list[Line]:
    """The lines of a stack, innermost first, without those inside Triton's own functions."""
    places = [place for place in stack if not place.startswith(_TRITON)] or stack
    return [Line(file, int(number)) for file, _, number in (place.rpartition(":") for place in places)]


# ---- values that are undefined ---------------------------------------------------------------------------------------

_FILLINGS = ((30000.0, b"\x5a", True), (-30000.0, b"\x00", False))  # for floats, bytes of integers, truths


def _hash(addresses: np.ndarray, raw: np.ndarray) -> int:
    return hash((addresses.tobytes(), raw.tobytes()))


class _Again(_Guard):
    """The same launch with something else in the masked lanes of loads without `other`.

    A store that differs from the first launch's depends on them. What it is compared with is the store of the same
    program, operation and count.
    """

    def __init__(self, call: Call, first: _Watch, filling: tuple[float, bytes, bool]) -> None:
        super().__init__(call, first.views)
        self.first, self.filling = first, filling
        self._counts: Counter[Any] = Counter()

    def fills(self, element: str) -> Any:
        number, byte, truth = self.filling
        if element in ("f16", "bf16", "f32", "f64"):
            return np.float32(number)
        return np.bool_(truth) if element == "i1" else np.frombuffer(byte * 8, raw_dtype(element))[0]

    def makes(self, shadow: Shadow, addresses: np.ndarray, element: str, raw: np.ndarray | None) -> None:
        if raw is None:
            return
        key = self.program, id(self.op)
        count, hashes = self._counts[key], self.first.stored.get(key, [])
        self._counts[key] += 1
        if count < len(hashes) and hashes[count] != _hash(addresses, raw):
            self._differs(shadow.argument(int(addresses[0])))

    def _differs(self, argument: str) -> None:
        self.first.op, self.first.program = self.op, self.program
        lines = sorted({str(lines[0]) for stack in self.first.masked if (lines := _lines(stack))})
        loads = f", at {lines[0]}" if len(lines) == 1 else f", at one of {', '.join(line.split()[0] for line in lines)}"
        message = f"writes to {argument} what depends on lanes that a load masks off without `other`{loads}"
        self.first.report("undefined", message, argument)
