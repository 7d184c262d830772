"""A plan on the CPU as one Python function: what a call does once its arguments are read.

It allocates the outputs and launches the kernels, whose machine code, constant arguments and grids are bound to it. Of
the microseconds that a call of a small kernel takes, this leaves what must be done anew: addresses and allocation.
"""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from .codegen.cpu.launch import Kernel
from .codegen.ttir import ttir_of
from .ir import Node
from .layout import contiguous_strides
from .runtime import code_of, counters

if TYPE_CHECKING:
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


def native_call(plan: Plan) -> Run:
    """The function from a graph's inputs to its outputs. It raises AssertionError where a kernel's check fails."""
    return _Writer(plan).function()


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
    step = plan.program.steps[at]
    return kernel_of(step, plan.signature_of(step, plan.fixed[at]), dict(plan.configs[at].tiles))


def native_text(kernel: Kernel, stage: str) -> str:
    """What a kernel is compiled from or to, as text: "mlir", or "asm", this computer's assembly."""
    from .codegen.cpu import compiler, toolchain

    mlir, _ = compiler.module(kernel.ttir, kernel.machine, True)
    return mlir if stage == "mlir" else toolchain.assembly(mlir, kernel.machine)


class _Writer:
    """Writes the function's text; what it refers to are constants of the function."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.constants: dict[str, Any] = {
            "empty": torch.empty_strided, "large_pages": _large_pages, "counters": counters,
        }  # fmt: skip
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
        for node in plan.program.intermediates:
            shape = plan.shape_of(node)
            self.allocate(node, shape, contiguous_strides(shape))
        launches = 0
        for at, step in enumerate(plan.program.steps):
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
        dtype = self.constant(node.dtype.torch)
        self.lines.append(f"{name} = empty({tuple(shape)}, {tuple(strides)}, dtype={dtype})")
        if math.prod(shape) * node.dtype.bytes >= LARGE:
            self.lines.append(f"large_pages({name})")

    def launch(self, at: int, step: Step) -> None:
        plan = self.plan
        fixed = plan.fixed[at]
        given = []
        for p in step.parameters:
            if p.kind == "pointer":
                given.append(f"{self.names[_node(p)]}.data_ptr()")
            elif p.kind == "number":
                given.append(self.names[_node(p)])
            elif p.kind != "tile":
                given.append(str(fixed[p.name]))
        # What is stored through was allocated above, and overlaps nothing.
        native = self.constant(kernel_for(plan, at).form(True))
        self.lines.append(f"{native}(({', '.join(given)},), {plan.grids[at]})")

    def results(self) -> list[str]:
        plan = self.plan
        shapes = zip(plan.program.graph.outputs, plan.output_shapes, plan.held_shapes, plan.output_strides, strict=True)
        return [
            self.names[node] if shape == held else f"{self.names[node]}.as_strided({shape}, {strides})"
            for node, shape, held, strides in shapes
        ]


def _node(parameter: Any) -> Node:
    assert parameter.buffer is not None, parameter
    return parameter.buffer.node
