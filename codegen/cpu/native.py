"""A kernel's machine code in this process: loaded, and launched on torch's threads.

What a launch passes is packed into a block of slots (see `wrapper`). A kernel keeps its blocks and uses each for one
launch at a time, so that any number of Python threads may launch it at once.
"""

from __future__ import annotations

import ctypes
import operator
import os
import struct
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch

from . import cache as disk
from . import machine as machines
from . import toolchain, wrapper
from .wrapper import ARGUMENTS, CHUNK, GRID, PROGRAM, STATUS

# How a value lies in its slot; integers as 64 bits, of which a kernel reads the low ones.
_FORMATS = {"ptr": "Q", "f16": "e6x", "bf16": "f4x", "f32": "f4x", "f64": "d"}
_DTYPES = {"f16": torch.float16, "bf16": torch.float32, "f32": torch.float32}
_OPENMP = ("libgomp", "libiomp5", "libomp")  # libraries that may have GOMP_parallel
_LINE = 64  # bytes of a cache line


class Native:
    """A kernel's shared object, loaded.

    A call with the values of its arguments (a pointer's is the address), the grid and the number of threads, torch's
    unless given, runs the kernel to its end; other Python threads run meanwhile. Raises AssertionError with the message
    of the kernel's own check that failed. `grain` is how many programs are worth waking a thread for.
    """

    def __init__(
        self,
        code: bytes | Path,
        arguments: Sequence[str],
        checks: Sequence[str] = (),
        scratch_bytes: int = 0,
        grain: int = 1,
    ) -> None:
        self.arguments = tuple(arguments)
        self.checks = tuple(checks)
        self._library = load(code)
        self._launch = _launcher()
        program = ctypes.cast(self._library.program, ctypes.c_void_p).value
        self._head = struct.pack("<QQQ", program, -(-scratch_bytes // _LINE) * _LINE, max(grain, 1))
        formats = "".join(_FORMATS.get(each, "q") for each in arguments)
        packing = struct.Struct(f"<qqq{8 * (ARGUMENTS - STATUS)}x{formats}")
        self._size = 8 * GRID + packing.size
        assert packing.size == 8 * (ARGUMENTS - GRID + len(arguments)), packing.format
        self._pack = packing.pack_into
        self._blocks: list[tuple[Any, int]] = []  # that no launch uses now

    def __call__(self, values: Sequence[Any], grid: Sequence[int], threads: int | None = None) -> None:
        if 0 in grid:
            return
        try:
            block, address = self._blocks.pop()
        except IndexError:
            block, address = self._new_block()
        try:
            self._pack(block, 8 * GRID, *grid, *values)
        except (struct.error, OverflowError, TypeError):
            fitted = [_fitted(argument, value) for argument, value in zip(self.arguments, values, strict=True)]
            self._pack(block, 8 * GRID, *map(operator.index, grid), *fitted)
        self._launch(address, torch.get_num_threads() if threads is None else threads)
        failed = int.from_bytes(block[8 * STATUS : 8 * CHUNK], "little") if self.checks else 0
        self._blocks.append((block, address))
        if failed:
            raise AssertionError(self.checks[failed - 1])

    def _new_block(self) -> tuple[memoryview, int]:
        """A block on a cache line, and its address."""
        memory = ctypes.create_string_buffer(self._size + _LINE)
        before = -ctypes.addressof(memory) % _LINE
        block = memoryview(memory).cast("B")[before : before + self._size]
        block[8 * PROGRAM : 8 * GRID] = self._head
        return block, ctypes.addressof(memory) + before


def _fitted(argument: str, value: Any) -> int | float:
    """A value as its slot can hold it: floats too large become infinite, integers are taken modulo 2^64."""
    if argument in _DTYPES:
        return torch.tensor(float(value), dtype=_DTYPES[argument]).item()
    if argument == "f64":
        return float(value)
    modulus, least = 1 << 64, 0 if argument == "ptr" else -(1 << 63)
    return (int(value) - least) % modulus + least


def load(code: bytes | Path) -> ctypes.CDLL:
    """The library with this code, or in this file. It stays until the process ends."""
    _maths()
    if isinstance(code, Path):
        try:
            return ctypes.CDLL(str(code))
        except OSError:
            code = code.read_bytes()  # perhaps a file system whose files may not be run
    # A library without a file. The loader knows libraries by their path, so each needs one of its own.
    memory = os.memfd_create("fusedsl-kernel")
    with tempfile.TemporaryDirectory(prefix="fusedsl-") as folder, os.fdopen(memory, "wb") as file:
        file.write(code)
        file.flush()
        link = os.path.join(folder, "kernel.so")
        os.symlink(f"/proc/self/fd/{memory}", link)
        return ctypes.CDLL(link)


@cache
def _maths() -> ctypes.CDLL:
    """libm, whose functions kernels may call."""
    return ctypes.CDLL("libm.so.6", ctypes.RTLD_GLOBAL)


@cache
def _launcher() -> Any:
    """The `launch` of every kernel."""
    text = wrapper.launcher()
    made = disk.fetch("launch", text, machines.PLAIN, lambda: (toolchain.compile_object(text, machines.PLAIN), {}))
    library = load(made.code)
    parallel = ctypes.c_void_p.in_dll(library, "parallel")
    parallel.value = None if _Fork.lost_threads else _parallel()
    _Fork.parallel.append(parallel)
    ctypes.c_uint.in_dll(library, "key").value = _key()
    library.launch.argtypes = (ctypes.c_void_p, ctypes.c_int)
    library.launch.restype = None
    return library.launch


class _Fork:
    """A fork of a process with threads is without them, but OpenMP, which does not know, would wait for its own without
    end. So kernels run on one thread there."""

    had_threads = lost_threads = False
    parallel: ClassVar[list[ctypes.c_void_p]] = []  # the launcher's pointer to GOMP_parallel

    @classmethod
    def before(cls) -> None:
        cls.had_threads = len(os.listdir("/proc/self/task")) > 1

    @classmethod
    def in_child(cls) -> None:
        if cls.had_threads:
            cls.lost_threads = True
            for pointer in cls.parallel:
                pointer.value = None


os.register_at_fork(before=_Fork.before, after_in_child=_Fork.in_child)


def _key() -> int:
    """Of what a thread keeps, and frees as it ends."""
    libc, key = ctypes.CDLL(None), ctypes.c_uint()
    if error := libc.pthread_key_create(ctypes.byref(key), libc.free):
        raise OSError(error, f"no key for threads' memory: {os.strerror(error)}")
    return key.value


def _parallel() -> int | None:
    """The address of GOMP_parallel in the library that torch's threads come from; None where there is none."""
    for path in _mapped_libraries():
        if os.path.basename(path).startswith(_OPENMP):
            function = getattr(ctypes.CDLL(path), "GOMP_parallel", None)
            if function is not None:
                return ctypes.cast(function, ctypes.c_void_p).value
    return None


def _mapped_libraries() -> list[str]:
    """The files of the libraries in this process, torch's own first."""
    fields = (line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines())
    paths = dict.fromkeys(line[5] for line in fields if len(line) == 6 and ".so" in line[5])
    home = os.path.dirname(torch.__file__)
    return sorted(paths, key=lambda path: not path.startswith(home))


_SAMPLE = """\
llvm.func internal @kernel(%y: !llvm.ptr, %px: i32, %py: i32, %pz: i32, %gx: i32, %gy: i32, %gz: i32,
                           %status: !llvm.ptr, %scratch: !llvm.ptr) {
  %p = llvm.getelementptr %y[%px] : (!llvm.ptr, i32) -> !llvm.ptr, i32
  llvm.store %px, %p : i32, !llvm.ptr
  llvm.return
}"""


@cache
def works() -> str:
    """Compiles a small kernel, runs it on torch's threads, and says for which CPU. Raises what is wrong."""
    machine = machines.host()

    class Sample:
        mlir, arguments = _SAMPLE, ("ptr",)

    code = toolchain.compile_object(wrapper.module(Sample(), machine), machine, forked=True)
    y = torch.zeros(1000, dtype=torch.int32)
    Native(code, Sample.arguments)((y.data_ptr(),), (1000, 1, 1))
    if not torch.equal(y, torch.arange(1000, dtype=torch.int32)):
        raise toolchain.ToolchainError(f"a kernel compiled for {machine.cpu} gives wrong values")
    return f"kernels compile for {machine.cpu}{machine.features} and run"
