"""The driver of Triton's CPU backend: when it is the one to use, and launches."""

# Triton's base class lacks types: by its bodies, methods give None.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase

from . import NAME


class CPUDriver(DriverBase):
    """Active where no other backend has a device, or where TRITON_DEFAULT_BACKEND says so."""

    def __init__(self) -> None:
        from . import key

        super().__init__()
        self.utils, self.launcher_cls = Utils(), Launcher
        key.remember()

    @classmethod
    def is_active(cls) -> bool:
        if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
            return False
        return os.environ.get("TRITON_DEFAULT_BACKEND") == NAME or not _is_other_active()

    def get_current_target(self) -> GPUTarget:
        from ..machine import host

        machine = host()
        return GPUTarget(NAME, machine.cpu + machine.features, 1)

    def get_current_device(self) -> int:
        return 0

    def set_current_device(self, device: int) -> None:
        """There is one."""

    def get_current_stream(self, device: Any = None) -> int:
        return 0

    def get_device_capability(self, device: Any = None) -> tuple[int, int]:
        return (0, 0)

    def get_active_torch_device(self) -> Any:
        import torch

        return torch.device("cpu")

    def get_device_interface(self) -> type[DeviceInterface]:
        return DeviceInterface

    def get_benchmarker(self) -> Any:
        from triton.testing import do_bench

        return do_bench

    def get_empty_cache_for_benchmark(self) -> None:
        """What `clear_cache` is given."""

    def clear_cache(self, cache: None) -> None:
        """Nothing: kernels are timed with their data where the last run left it."""

    def map_python_to_cpp_type(self, ty: str) -> str:
        return "void*" if ty.startswith("*") else _C_TYPES[ty]


_C_TYPES = {
    "i1": "int8_t", "u1": "uint8_t", "fp16": "double", "bf16": "double", "fp32": "double", "fp64": "double",
    **{f"{sign}{bits}": f"{name}{bits}_t" for sign, name in (("i", "int"), ("u", "uint")) for bits in (8, 16, 32, 64)},
}  # fmt: skip

_asking = threading.local()


def _is_other_active() -> bool:
    """Has another backend a device? One that asks the same of this backend meanwhile is let go first."""
    from triton.backends import backends

    if getattr(_asking, "now", False):
        return True
    _asking.now = True
    try:
        return any(each.driver.is_active() for each in backends.values() if each.driver is not CPUDriver)
    finally:
        _asking.now = False


class DeviceInterface:
    """What `triton.testing.do_bench` uses of torch.cuda, for a device that is always done."""

    class Event:
        """A time on the clock."""

        def __init__(self, enable_timing: bool = False, **others: Any) -> None:
            self.time = 0.0

        def record(self, stream: Any = None) -> None:
            self.time = time.perf_counter()

        def elapsed_time(self, end: DeviceInterface.Event) -> float:
            return (end.time - self.time) * 1000

        def synchronize(self) -> None: ...

    @staticmethod
    def synchronize(device: Any = None) -> None: ...

    @staticmethod
    def current_device() -> int:
        return 0

    @staticmethod
    def device_count() -> int:
        return 1


class Utils:
    """Loads what the compiler gives."""

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple[Any, Any, int, int, int]:
        """The library, the function, its registers, how many of them spill, and the most threads it may have."""
        from .. import cache
        from ..kernel import Kernel
        from ..machine import host

        about = cache.unpacked(binary)
        if about is None:
            raise RuntimeError(f"the object of {name} in Triton's cache is broken; delete it there")
        text = about["ttir"]
        kernel = Kernel(name, text, lambda lines: text)
        kernel.load(True, binary, about)
        return kernel, kernel, 32 if host().lanes == 16 else 16, 0, 1 << 30

    def unload_module(self, module: Any) -> None:
        """A library stays until the process ends."""

    def get_device_properties(self, device: Any = None) -> dict[str, int]:
        """For kernels that choose their grid by them: there is room for as many programs as threads."""
        import torch

        return {
            "max_shared_mem": 1 << 30, "multiprocessor_count": torch.get_num_threads(), "max_num_regs": 1 << 16,
            "warpSize": 1, "sm_clock_rate": 0, "mem_clock_rate": 0, "mem_bus_width": 0,
        }  # fmt: skip

    def set_printf_fifo_size(self, size: int) -> None: ...


class Launcher:
    """Launches of one kernel, called with the arguments of all parameters."""

    def __init__(self, src: Any, metadata: Any) -> None:
        self.names = [str(name) for name in src.signature]
        self.at_once = metadata.launch_cooperative_grid
        self.values = _taken(tuple(src.signature.values()))

    def __call__(
        self, grid_x: int, grid_y: int, grid_z: int, stream: int, function: Any, packed: Any, launch_metadata: Any,
        enter: Any, leave: Any, *args: Any,
    ) -> None:  # fmt: skip
        if self.at_once:
            _check_cooperative(grid_x * grid_y * grid_z)
        if enter is not None:
            enter(launch_metadata)
        try:
            function(self.values(args), (grid_x, grid_y, grid_z))
        except ValueError as error:
            raise self.named(error, args) from None
        if leave is not None:
            leave(launch_metadata)

    def named(self, error: ValueError, args: Sequence[Any]) -> ValueError:
        """An error about a tensor, with the name of its parameter."""
        tensor = getattr(error, "tensor", None)
        for name, arg in zip(self.names, args, strict=False):
            if tensor is not None and _holds(arg, tensor):
                return type(error)(tensor, name)
        return error


def _check_cooperative(programs: int) -> None:
    """Programs of a cooperative grid may all wait for each other: each needs a thread."""
    import torch

    if programs > (threads := torch.get_num_threads()):
        raise RuntimeError(
            f"a cooperative grid of {programs} programs needs as many threads, and torch has {threads}: launch fewer "
            "(`multiprocessor_count` says how many), or call torch.set_num_threads"
        )


def _holds(arg: Any, tensor: Any) -> bool:
    if isinstance(arg, tuple):
        return any(_holds(each, tensor) for each in arg)
    return arg is tensor or getattr(arg, "base", None) is tensor


def _is_simple(kind: Any) -> bool:
    return isinstance(kind, str) and not kind.startswith("tensordesc")


def _taken(types: Sequence[Any]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """What a kernel takes of the arguments of its parameters: no constants, tuples by their elements, and a descriptor
    as what Triton makes of it."""
    if not all(map(_is_simple, types)):
        return lambda args: [part for kind, arg in zip(types, args, strict=False) for part in _parts(kind, arg)]
    places = [at for at, kind in enumerate(types) if kind != "constexpr"]
    if len(places) < 2:
        return lambda args: [args[at] for at in places]
    return itemgetter(*places)


def _parts(kind: Any, arg: Any) -> list[Any]:
    if isinstance(kind, tuple):
        return [part for inner, each in zip(kind, arg, strict=True) for part in _parts(inner, each)]
    if kind == "constexpr":
        return []
    if _is_simple(kind):
        return [arg]
    flags = [arg.padding == "nan", *([arg.round_f32_to_tf32] if hasattr(arg, "round_f32_to_tf32") else [])]
    return [arg.base, *arg.shape, *arg.strides, *flags, *arg.shape, *arg.strides]


CPUDriver.__abstractmethods__ = frozenset()  # as in the compiler
