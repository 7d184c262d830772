"""A plan as one Python function: what a call does once its arguments are read.

It allocates the outputs and launches the kernels, whose machine code, constant arguments and grids are bound to it. Of
the microseconds that a call of a small kernel takes, this leaves what must be done anew: addresses and allocation.
"""

from __future__ import annotations

import ctypes
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from triton import knobs
from triton.runtime import driver
from triton.runtime.errors import OutOfResources

from .codegen.cpu.launch import Kernel
from .codegen.tile import Config, without_spills
from .codegen.ttir import ttir_of
from .ir import Node
from .layout import contiguous_strides
from .runtime import carried, code_of, counters

if TYPE_CHECKING:
    from .codegen.triton import Parameter
    from .plan import Plan, Step

Run = Callable[[Sequence[Any]], list[torch.Tensor]]

_kernels: dict[tuple, Kernel] = {}
_lock = threading.Lock()


LARGE = 4 << 20  # bytes of an output whose pages are worth a system call
_PAGE = 2 << 20
_MADV_HUGEPAGE = 14
_libc = ctypes.CDLL(None)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def _large_pages(tensor: torch.Tensor) -> None:
    """Asks for pages of 2 MiB, where the system gives them on request only. Memory that is written for the first time
    is cleared page by page: with pages of 4 KiB that takes longer than most kernels. Refused, nothing changes."""
    start = tensor.data_ptr()
    first, end = -(-start // _PAGE) * _PAGE, (start + tensor.nbytes) // _PAGE * _PAGE
    if first < end:
        _libc.madvise(first, end - first, _MADV_HUGEPAGE)


def call_of(plan: Plan, device: torch.device) -> Run:
    """The function from a graph's inputs on a device to its outputs there, on the device's current stream.

    On the CPU it raises AssertionError where a kernel's check fails."""
    return (_OnCPU if device.type == "cpu" else _OnGPU)(plan, device).function()


def kernel_of(step: Step, signature: Mapping[str, str], tiles: Mapping[str, int]) -> Kernel:
    """A step's kernel for these types and tiles, kept for the process and on disk by its text."""
    key = (code_of(step.source), tuple(signature.items()), tuple(tiles.items()))
    with _lock:
        if key not in _kernels:
            def ttir(lines: bool) -> str:
                return ttir_of(step.function("cpu"), signature, tiles, lines=lines)

            _kernels[key] = Kernel(step.kernel.name, repr(key), ttir)
        return _kernels[key]


def kernel_for(plan: Plan, at: int) -> Kernel:
    """A plan's kernel of that number, for its sizes and tiles."""
    step = plan.steps[at]
    return kernel_of(step, plan.signature_of(step, plan.fixed[at]), dict(plan.configs[at].tiles))


def native_text(kernel: Kernel, stage: str) -> str:
    """What a kernel is compiled from or to, as text: "mlir", or "asm", this computer's assembly."""
    from .codegen.cpu import compiler, toolchain

    mlir, _ = compiler.module(kernel.ttir, kernel.machine, True)
    return mlir if stage == "mlir" else toolchain.assembly(mlir, kernel.machine)


class _Writer(ABC):
    """Writes the function's text; what it refers to are constants of the function."""

    def __init__(self, plan: Plan, device: torch.device) -> None:
        self.plan, self.device = plan, device
        self.constants: dict[str, Any] = {"empty": torch.empty_strided, "counters": counters}
        self.lines: list[str] = []
        self.names: dict[Node, str] = {}

    def constant(self, value: Any) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = value
        return name

    def function(self) -> Run:
        plan, graph = self.plan, self.plan.program.graph
        self.names = {node: f"v{i}" for i, node in enumerate(graph.inputs)}
        if graph.inputs:
            self.lines.append(f"{', '.join(self.names.values())}, = values")
        for node, shape, strides in zip(graph.outputs, plan.held_shapes, plan.output_strides, strict=True):
            self.allocate(node, shape, strides)
        for node in plan.scratch:
            shape = plan.shape_of(node)
            self.allocate(node, shape, contiguous_strides(shape))
        for node in plan.arrivals:
            self.names[node] = f"c{len(self.names)}"
            self.lines.append(f"{self.names[node]} = {self.zeros(node)}")
        launches = 0
        for at, step in enumerate(plan.steps):
            if plan.grids[at][0]:
                self.launch(at, step)
                launches += 1
        self.lines.append(f"counters.launches += {launches}")
        self.lines.append(f"return [{', '.join(self.results())}]")
        text = "\n    ".join(["def run(values):", *self.lines])
        exec(compile(text, f"<call of {plan.graph.name}>", "exec"), self.constants)
        return self.constants["run"]

    def allocate(self, node: Node, shape: Sequence[int], strides: Sequence[int]) -> None:
        if node in self.names:
            return
        name = self.names[node] = f"t{len(self.names)}"
        self.lines.append(f"{name} = empty({tuple(shape)}, {tuple(strides)}, {self.how(node)})")

    def how(self, node: Node) -> str:
        """The keywords of its allocation."""
        return f"dtype={self.constant(node.dtype.torch)}"

    @abstractmethod
    def zeros(self, node: Node) -> str:
        """What gives memory that holds zeros, and that no other launch under way has."""

    @abstractmethod
    def launch(self, at: int, step: Step) -> None:
        """Writes what launches a step."""

    def arguments(self, at: int, step: Step) -> list[str]:
        """What a step's parameters are given; tensors by their address."""
        fixed, tiles = self.plan.fixed[at], dict(self.plan.configs[at].tiles)
        given = {"pointer": self.address, "number": self.name_of}
        return [
            given[p.kind](p) if p.kind in given else str(tiles[p.name] if p.kind == "tile" else fixed[p.name])
            for p in step.parameters
        ]

    def name_of(self, parameter: Parameter) -> str:
        assert parameter.buffer is not None, parameter
        return self.names[parameter.buffer.node]

    def address(self, parameter: Parameter) -> str:
        return f"{self.name_of(parameter)}.data_ptr()"

    def results(self) -> list[str]:
        plan = self.plan
        shapes = zip(plan.program.graph.outputs, plan.output_shapes, plan.held_shapes, plan.output_strides, strict=True)
        return [
            self.names[node] if shape == held else f"{self.names[node]}.as_strided({shape}, {strides})"
            for node, shape, held, strides in shapes
        ]


class _OnCPU(_Writer):
    """Launches machine code of ours."""

    def allocate(self, node: Node, shape: Sequence[int], strides: Sequence[int]) -> None:
        is_new = node not in self.names
        super().allocate(node, shape, strides)
        if is_new and math.prod(shape) * node.dtype.bytes >= LARGE:
            self.lines.append(f"{self.constant(_large_pages)}({self.names[node]})")

    def zeros(self, node: Node) -> str:
        dtype = self.constant(node.dtype.torch)
        return f"{self.constant(torch.zeros)}({tuple(self.plan.shape_of(node))}, dtype={dtype})"

    def launch(self, at: int, step: Step) -> None:
        given = [a for a, p in zip(self.arguments(at, step), step.parameters, strict=True) if p.kind != "tile"]
        # What is stored through was allocated above, and overlaps nothing.
        native = self.constant(kernel_for(self.plan, at).form(True))
        self.lines.append(f"{native}(({', '.join(given)},), {self.plan.grids[at]})")


class _OnGPU(_Writer):
    """Launches what Triton's JIT compiles. Of all that the JIT looks at in every launch, only whether addresses are
    multiples of 16 can differ between the calls of a plan: sizes, strides, dtypes and tiles are the plan's. (On AMD it
    also asks whether a storage has 2 GiB; what a plan's kernels reach of it does not depend on that.)"""

    def __init__(self, plan: Plan, device: torch.device) -> None:
        super().__init__(plan, device)
        self.addresses: dict[Node, str] = {}

    def how(self, node: Node) -> str:
        return f"{super().how(node)}, device={self.constant(self.device)}"

    def zeros(self, node: Node) -> str:
        """Launches leave zeros behind, so each stream has memory of its own, made once."""
        made = partial(torch.zeros, self.plan.shape_of(node), dtype=node.dtype.torch, device=self.device)
        return f"{self.constant(_OfStreams(made, self.device).now)}()"

    def launch(self, at: int, step: Step) -> None:
        pointers = {p.name: p for p in step.parameters if p.kind == "pointer"}
        given = self.arguments(at, step)  # names the addresses
        kernels = _Kernels(self.plan, at, self.device)
        known, compiled = self.constant(kernels.known.get), self.constant(kernels.compiled)
        tensors = "".join(f"{self.name_of(p)}, " for p in pointers.values())
        alignment = "".join(f"{self.address(p)} & 15 == 0, " for p in pointers.values())
        self.lines.append(f"aligned = ({alignment})")
        self.lines.append(f"({known}(aligned) or {compiled}(aligned, ({tensors})))({', '.join(given)})")

    def address(self, parameter: Parameter) -> str:
        assert parameter.buffer is not None, parameter
        node = parameter.buffer.node
        if node not in self.addresses:
            name = self.addresses[node] = f"p{len(self.addresses)}"
            self.lines.append(f"{name} = {self.names[node]}.data_ptr()")
        return self.addresses[node]


class _OfStreams:
    """A tensor for each of a GPU's streams, made when it is first asked for. A CUDA graph that is being recorded gets
    one of its own, which it clears whenever it runs."""

    def __init__(self, made: Callable[[], torch.Tensor], device: torch.device) -> None:
        active: Any = driver.active
        self.made, self.stream, self.at = made, active.get_current_stream, device.index
        self.tensors: dict[int, torch.Tensor] = {}

    def now(self) -> torch.Tensor:
        """That of the current stream."""
        if torch.cuda.is_current_stream_capturing():
            return self.made()
        stream = self.stream(self.at)
        found = self.tensors.get(stream)
        return found if found is not None else self.tensors.setdefault(stream, self.made())


class _Kernels:
    """A step's kernels on one GPU by which of its pointers are aligned, each with its grid."""

    def __init__(self, plan: Plan, at: int, device: torch.device) -> None:
        self.step, self.config, self.fixed = plan.steps[at], plan.configs[at], plan.fixed[at]
        self.grid = partial(plan.grid_of, at)
        self.function, self.target, self.device = self.step.function(plan.target), plan.target, device
        self.known: dict[tuple[bool, ...], Callable[..., None]] = {}

    def compiled(self, aligned: tuple[bool, ...], tensors: Sequence[torch.Tensor]) -> Callable[..., None]:
        pointers, tiles = iter(tensors), dict(self.config.tiles)
        arguments = {
            p.name: carried(next(pointers)) if p.kind == "pointer" else 1 if p.kind == "number"
            else tiles[p.name] if p.kind == "tile" else self.fixed[p.name]
            for p in self.step.parameters
        }  # fmt: skip
        with torch.cuda.device(self.device):
            kernel, config = without_spills(
                lambda c: self._compile(arguments, c), self.config, self.target, OutOfResources
            )
            launch = self.known[aligned] = _launcher(kernel, self.grid(config), self.device)
        return launch

    def _compile(self, arguments: Mapping[str, Any], config: Config) -> tuple[Any, int]:
        given = {**arguments, **dict(config.tiles)}
        kernel = self.function.warmup(**given, grid=self.grid(config), enable_fp_fusion=True, **config.options)
        kernel = kernel.result() if hasattr(kernel, "result") else kernel  # compiled in the background
        kernel[self.grid(config)]  # loads it
        return kernel, kernel.n_spills


def _launcher(kernel: Any, grid: tuple[int, int, int], device: torch.device) -> Callable[..., None]:
    """What launches a compiled kernel on the device's current stream: Triton's own way, less what only hooks read."""
    hooked, run, hooks = kernel[grid], kernel.run, knobs.runtime
    function, metadata = kernel.function, kernel.packed_metadata
    active: Any = driver.active
    stream_of, at = active.get_current_stream, device.index

    def launch(*arguments: Any) -> None:
        if hooks.launch_enter_hook.calls or hooks.launch_exit_hook.calls:
            hooked(*arguments)
        else:
            run(*grid, stream_of(at), function, metadata, None, None, None, *arguments)

    return launch
