"""What runs when a fused function is called: the launches, and what they cost, known before anything is launched."""

from __future__ import annotations

import keyword
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from . import runtime
from .calls import Run, call_of
from .codegen import interpreter
from .codegen.expr import CARRIED
from .codegen.inspect import LAUNCH_OPTIONS, TARGETS, Compiled, TooLarge, compile_kernel
from .codegen.tile import Config, choose, with_parts, without_spills
from .codegen.triton import Parameter, for_target, is_indifferent, parameters, source
from .cost import Rounds, Traffic, distinct_bytes, known, rounds, splits, traffic
from .errors import BadOption, IndexOutOfRange, Line, UnsupportedDevice
from .index import Symbol, evaluate, free
from .interpret import interpret, without_memory
from .ir import OPS, Graph, Node, build
from .kernel import Buffer, Check, Kernel, Last, Loop, Statement, flatten
from .layout import Layout, buffer_of, contiguous_strides, layout_of
from .lower import Refusal, lower
from .options import Options, Rung, say
from .passes.fix_rows import fix_rows
from .passes.unify_axes import unify_axes
from .pipeline import Specialised, kernel_of, specialise
from .splits import Count, fresh

Sizes = Mapping[str, int]
Grid = tuple[int, int, int]


def identifier(text: str, default: str = "value") -> str:
    """A name that is safe to print into source: letters, digits and underscores, no keyword."""
    name = re.sub(r"\W", "_", text, flags=re.ASCII).strip("_") or default
    return f"{default}_{name}" if name[0].isdigit() or keyword.iskeyword(name) or name in ("tl", "triton") else name


@dataclass(frozen=True)
class Step:
    """One launch of a program: the kernel, its text and parameters."""

    kernel: Kernel
    source: str
    parameters: tuple[Parameter, ...]

    def function(self, target: str) -> Any:
        """The @triton.jit function for a target."""
        return runtime.load(for_target(self.source, target), self.kernel.name)


class RefusedGroup(Exception):
    """A group of nodes that no kernel can hold, and why."""

    def __init__(self, nodes: frozenset[Node], reason: str) -> None:
        self.nodes, self.reason = nodes, reason
        super().__init__(reason)


class Program:
    """The launches of a graph for one choice of layouts and resident rows, for any other sizes."""

    def __init__(
        self,
        graph: Graph,
        sizes: Sizes,
        inputs: Sequence[Layout],
        outputs: Sequence[Layout],
        safe: bool = False,
        exact: Sizes | None = None,
    ) -> None:
        refused: dict[frozenset[Node], str] = {}
        self.sizes = sizes
        while True:
            self.specialised: Specialised = specialise(graph, sizes, safe, refused, exact)
            self.graph = self.specialised.graph
            self.names = _names(self.graph, self.specialised)
            self.buffers = self._buffers(sizes, inputs, outputs)
            try:
                self.steps = [self._step(at) for at in range(len(self.specialised.partition.groups))]
                self._shared: dict[int, Step | None] = {}
                return
            except RefusedGroup as refusal:  # the layouts decide some cases that the partition cannot see
                assert refusal.nodes not in refused, f"{graph.name}: {refusal.reason}"
                refused[refusal.nodes] = refusal.reason

    def _buffers(self, sizes: Sizes, inputs: Sequence[Layout], outputs: Sequence[Layout]) -> dict[Node, Buffer]:
        found: dict[Node, Buffer] = {}
        for node, layout in zip(self.graph.inputs, inputs, strict=True):
            found[node] = buffer_of(node, self.names[node], layout, node.is_number)
        for node, layout in zip(self.graph.outputs, outputs, strict=True):
            found.setdefault(node, buffer_of(node, self.names[node], layout))
        for node in self.intermediates:
            shape = [evaluate(n, sizes) for n in node.shape]
            found[node] = buffer_of(node, self.names[node], layout_of(shape, contiguous_strides(shape)))
        return found

    @property
    def intermediates(self) -> list[Node]:
        """What one launch leaves in memory for another."""
        stored = [n for group in self.specialised.partition.groups for n in group.stores]
        return [n for n in stored if n not in self.graph.outputs]

    def _step(self, at: int) -> Step:
        group = self.specialised.partition.groups[at]
        try:
            kernel = kernel_of(self._name(at), self.graph, group, self.buffers, self._eager, self.sizes)
        except Refusal as refusal:
            raise RefusedGroup(group.nodes, str(refusal)) from refusal
        assert kernel is not None
        return _as_step(kernel)

    def shared(self, at: int) -> Step | None:
        """A launch with its loop shared out among programs; None where it has none that could be."""
        if at not in self._shared:
            group = self.specialised.partition.groups[at]
            count = self.count(at)
            kernel = kernel_of(self._name(at), self.graph, group, self.buffers, self._eager, self.sizes, count)
            self._shared[at] = None if kernel is None else _as_step(kernel)
        return self._shared[at]

    def count(self, at: int) -> Count:
        """The sizes that say how its loop is shared out."""
        taken = {s.name for b in self.buffers.values() for n in b.shape for s in free(n) if isinstance(s, Symbol)}
        taken |= {b.name for b in self.buffers.values()}
        names = ("splits", "tiles") if len(self.steps) == 1 else (f"splits_{at}", f"tiles_{at}")
        return Count(*(Symbol(fresh(name, taken)) for name in names))

    def _name(self, at: int) -> str:
        name = identifier(self.graph.name, "kernel")
        return name if len(self.specialised.partition.groups) == 1 else f"{name}_{at}"

    @property
    def _eager(self) -> bool:
        return Options.from_env().numerics == "eager"


def _as_step(kernel: Kernel) -> Step:
    text = source(kernel)
    say(Rung.SOURCE, lambda: text)
    return Step(kernel, text, tuple(parameters(kernel)))


def _names(graph: Graph, specialised: Specialised) -> dict[Node, str]:
    """A name of its own for every tensor in memory: the user's where there is one, and a launch has no option of it."""
    names: dict[Node, str] = {}
    taken = {*LAUNCH_OPTIONS, "arrivals"}

    def give(node: Node, name: str) -> None:
        base, n = name, 2
        while name in taken:
            name, n = f"{base}_{n}", n + 1
        taken.add(name)
        names[node] = name

    for node in graph.inputs:
        give(node, identifier(graph.names.get(node) or node["name"], "arg"))
    for at, node in enumerate(graph.outputs):
        if node not in names:
            give(node, identifier(graph.names.get(node, f"out{at}" if len(graph.outputs) > 1 else "out"), "out"))
    for group in specialised.partition.groups:
        for node in group.stores:
            if node not in names:
                give(node, identifier(graph.names.get(node, node.op.name.removeprefix("reduce_")), "part"))
    return names


@dataclass(frozen=True)
class PlannedKernel:
    """One launch: its text, its grid, and the bytes it moves by tensor. passes: walks over its reduced axes; written:
    as many as the user's code has. rounds: by a loop's axis, the tiles that are visited and those there are. splits:
    the programs that share a loop, the last of which puts their parts together."""

    name: str
    source: str
    grid: tuple[int, int, int]
    reads: dict[str, int]
    writes: dict[str, int]
    passes: int
    written: int
    rounds: dict[str, Rounds]
    splits: int
    requested: dict[str, int]
    config: Config
    step: Step


class Plan:
    """A program with its sizes: everything about a call but the addresses. Prints as a table."""

    def __init__(
        self,
        program: Program,
        sizes: Sizes,
        original: Graph,
        target: str,
        input_strides: Sequence[Sequence[int]],
        output_strides: Sequence[Sequence[int]],
        output_shapes: Sequence[Sequence[int]],
    ) -> None:
        self.program, self.sizes, self.target = program, dict(sizes), target
        self._calls: dict[torch.device, Run] = {}
        self.graph = original
        self._input_strides = dict(zip(program.graph.inputs, input_strides, strict=True))
        self.output_strides = [tuple(s) for s in output_strides]
        self.output_shapes = [tuple(s) for s in output_shapes]
        self.held_shapes = [tuple(evaluate(n, sizes) for n in o.shape) for o in program.graph.outputs]
        self.configs = [choose(s.kernel, sizes, target) for s in program.steps]
        self.extents = dict(sizes)  # and how loops are shared out
        self.splits = [self._splits(at) for at in range(len(program.steps))]
        self.steps = [self._step(at) for at in range(len(program.steps))]
        self.grids = [self.grid_of(at, config) for at, config in enumerate(self.configs)]
        self.fixed = [self._fixed(s) for s in self.steps]

    def grid_of(self, at: int, config: Config) -> tuple[int, int, int]:
        """The programs of a launch with these tiles."""
        return _grid(self.steps[at].kernel, config, self.extents)

    def _splits(self, at: int) -> int:
        """How many programs share a launch's loop."""
        kernel, config = self.program.steps[at].kernel, self.configs[at]
        found = splits(kernel, dict(config.tiles), self.sizes, self.target)
        shared = self.program.shared(at) if found > 1 else None
        if shared is None:
            return 1
        config = with_parts(config, shared.kernel, self.target)
        found = splits(shared.kernel, dict(config.tiles), self.sizes, self.target)
        if found == 1:
            return 1
        symbols = self.program.count(at)
        self.extents[symbols.splits.name] = found
        self.extents[symbols.tiles.name] = _grid(kernel, config, self.sizes)[0]
        self.configs[at] = config
        return found

    def _step(self, at: int) -> Step:
        shared = self.program.shared(at) if self.splits[at] > 1 else None
        return shared or self.program.steps[at]

    def on(self, target: str) -> Plan:
        """The same launches with the tiles of another target."""
        strides = [self._input_strides[node] for node in self.program.graph.inputs]
        return Plan(self.program, self.sizes, self.graph, target, strides, self.output_strides, self.output_shapes)

    # -- what a user asks

    @property
    def launches(self) -> int:
        """Kernels that a call launches; one over no elements is not launched."""
        return sum(grid[0] > 0 for grid in self.grids)

    @cached_property
    def kernels(self) -> list[PlannedKernel]:
        result = []
        for step, config, grid, shared in zip(self.steps, self.configs, self.grids, self.splits, strict=True):
            moved = self._traffic(step.kernel, config) if grid[0] else Traffic()
            result.append(
                PlannedKernel(
                    step.kernel.name,
                    step.source,
                    grid,
                    moved.reads,
                    moved.writes,
                    step.kernel.passes,
                    step.kernel.written,
                    self._rounds(step.kernel, config),
                    shared,
                    moved.requested,
                    config,
                    step,
                )
            )
        return result

    def _traffic(self, kernel: Kernel, config: Config) -> Traffic:
        buffers = {b.name: b for b in (*kernel.reads, *kernel.writes)}
        footprints = {name: self._footprint(b) for name, b in buffers.items()}
        return traffic(kernel, dict(config.tiles), self.extents, footprints)

    def _rounds(self, kernel: Kernel, config: Config) -> dict[str, Rounds]:
        parts = {loop.axis for loop in loops_in(kernel.last.body)} if kernel.last is not None else set()
        loops = [loop for loop in loops_in(kernel.body) if loop.axis not in parts]
        return {loop.axis.name: rounds(kernel, loop, dict(config.tiles), self.extents) for loop in loops}

    def _footprint(self, buffer: Buffer) -> int:
        """The distinct elements in a tensor's memory: dimensions of stride 0 hold one."""
        total = 1
        for n, stride in zip(buffer.shape, buffer.strides, strict=True):
            total *= 1 if stride == 0 else evaluate(n, self.extents)
        return total

    @property
    def bytes(self) -> int:
        """Per launch each distinct byte read and each byte written, summed over launches."""
        return sum(sum(k.reads.values()) + sum(k.writes.values()) for k in self.kernels)

    @property
    def load_bytes(self) -> int:
        """Every byte that the programs request."""
        return sum(sum(k.requested.values()) for k in self.kernels)

    @cached_property
    def compulsory_bytes(self) -> int:
        """Each input byte that the outputs depend on once, each output byte once. Of many layers, which are too much to
        be looked at as one, each input's bytes are those of the launch that reads most of it."""
        outputs = [o for o in dict.fromkeys(self.program.graph.outputs) if o.op.name != "input"]
        try:
            writes = unify_axes(lower(outputs, self.program.graph.inputs))
        except Refusal:
            names = [self.program.names[node] for node in self.program.graph.inputs]
            read = sum(max(k.reads.get(name, 0) for k in self.kernels) for name in names)
            return read + sum(known(o.type.size, self.sizes) * o.dtype.bytes for o in outputs)
        reads, stored = distinct_bytes(writes, self.sizes)
        total = sum(stored.values())
        for node, count in reads.items():
            total += min(count, self._footprint(self.program.buffers[node]) * node.dtype.bytes)
        return total

    @property
    def copies(self) -> int:
        """Uploads that a call makes. None: sizes and strides are arguments."""
        return 0

    @property
    def workspace_bytes(self) -> int:
        """Memory for what one launch leaves for another, and the programs that share a loop for each other."""
        return sum(known(n.type.size, self.extents) * n.dtype.bytes for n in self.scratch)

    @cached_property
    def scratch(self) -> list[Node]:
        """What is in memory only while a call runs."""
        return self.program.intermediates + [b.node for step in self.steps for b in parts_of(step.kernel)]

    @cached_property
    def arrivals(self) -> list[Node]:
        """What counts the programs that share a loop: 0 before each launch, and after it again."""
        return [step.kernel.last.arrivals.node for step in self.steps if step.kernel.last is not None]

    @property
    def passes(self) -> int:
        """The most walks over its reduced axes that a kernel makes; 1 where rows are resident."""
        return max((s.kernel.passes for s in self.program.steps), default=0)

    def compile(self, target: str = "sm_90") -> list[Compiled]:
        """Each kernel compiled for a GPU, which need not be there: registers, spills, shared memory, SASS.

        Raises BadOption for a target that is not one of fusedsl.codegen.inspect.TARGETS."""
        if target not in TARGETS:
            raise BadOption(name="target", rule=f"one of {', '.join(TARGETS)}", got=repr(target))
        plan = self.on(target)
        every = zip(plan.steps, plan.configs, plan.grids, strict=True)
        return [plan._compile(step, config, target) for step, config, grid in every if grid[0]]

    def _compile(self, step: Step, config: Config, target: str) -> Compiled:
        values = self._fixed(step)
        numbers = [p for p in step.parameters if p.kind in ("size", "stride") and not is_indifferent(step.kernel, p)]
        aligned = {p.name for p in numbers if values.get(p.name, 16) % 16 == 0}
        pointers = {p.name for p in step.parameters if p.kind == "pointer"}
        tiles = {name: "constexpr" for name, _ in config.tiles}

        def compiled(config: Config) -> tuple[Compiled, int]:
            found = compile_kernel(
                step.function(target), {**self.signature_of(step, values), **tiles}, dict(config.tiles), target,
                num_warps=config.num_warps, num_stages=config.num_stages, divisible=frozenset(pointers | aligned),
                options=config.options,
            )  # fmt: skip
            return found, found.spills

        return without_spills(compiled, config, target, TooLarge)[0]

    def signature_of(self, step: Step, values: Mapping[str, int]) -> dict[str, str]:
        """The Triton types of a step's parameters but its tiles, whose sizes and strides have these values."""
        signature: dict[str, str] = {}
        for p in step.parameters:
            if p.kind == "pointer":
                assert p.buffer is not None
                carrier, *_ = CARRIED.get(p.buffer.dtype.name, (p.buffer.dtype.triton,))
                signature[p.name] = f"*{carrier}"
            elif p.kind == "number":
                assert p.buffer is not None
                signature[p.name] = p.buffer.dtype.triton
            elif p.kind != "tile":
                signature[p.name] = "i32" if -(2**31) <= values.get(p.name, 16) < 2**31 else "i64"
        return signature

    def shape_of(self, node: Node) -> list[int]:
        """The extents of a tensor of the program's graph."""
        return [evaluate(n, self.extents) for n in node.shape]

    def explain(self) -> str:
        """Why each kernel boundary is where it is, priced in bytes and launches."""
        lines = [f"{self.graph.name}: {self.launches} launch{'es' if self.launches != 1 else ''}, {self.bytes:,} bytes "
                 f"(compulsory {self.compulsory_bytes:,}), {self.load_bytes:,} bytes requested"]  # fmt: skip
        for k in self.kernels:
            lines.append(
                f"  {k.name}: grid {k.grid[0]}, {_walked(k)}, reads {_amounts(k.reads)}, writes {_amounts(k.writes)}"
            )
            if k.splits > 1:
                lines.append(f"    {k.splits} programs share a loop; the last to arrive puts their parts together")
            partly = [(axis, r) for axis, r in k.rounds.items() if r.visited < r.of]
            lines += [f"    tiles of {axis}: {r.visited:,} of {r.of:,}" for axis, r in partly]
            lines += [f"    {note}" for note in k.step.kernel.log]
        if self.program.specialised.fixed:
            fixed = ", ".join(f"{k} = {v}" for k, v in sorted(self.program.specialised.fixed.items()))
            lines.append(f"  sizes of resident rows, part of the kernel: {fixed}")
        for reason in self.program.specialised.partition.reasons:
            lines.append(f"  not fused: {reason}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.explain()

    # -- a call

    def _fixed(self, step: Step) -> dict[str, int]:
        """The arguments that depend on sizes and on strides of tensors that we allocate."""
        strides = dict(zip(self.program.graph.outputs, self.output_strides, strict=True))
        values: dict[str, int] = {}
        for p in step.parameters:
            if p.kind == "size":
                values[p.name] = evaluate(p.value, self.extents)
            elif p.kind == "stride" and p.buffer is not None:
                shape = [evaluate(n, self.sizes) for n in p.buffer.shape]
                node = p.buffer.node
                if node in strides:
                    values[p.name] = strides[node][p.dim]
                elif node in self._input_strides:
                    values[p.name] = self._input_strides[node][p.dim]
                else:
                    values[p.name] = contiguous_strides(shape)[p.dim]
        return values

    def run(self, values: Sequence[Any], device: torch.device, hooks: Any = None) -> list[torch.Tensor]:
        """Launches every kernel; returns the graph's outputs. values: the graph's inputs in order.

        On the CPU a plan for a GPU is interpreted, and so is one with hooks, which see every access."""
        if device.type == "cpu" and (self.target != "cpu" or hooks is not None):
            return self._interpreted(values, hooks)
        if device.type != "cpu" and device.index is None:  # as a function without tensors says it
            device = torch.device(device.type, torch.cuda.current_device())
        call = self._calls.get(device)
        if call is None:
            call = self._calls[device] = call_of(self, device)
        if device.type == "cpu":
            return self._on_cpu(call, values)
        if device.index == torch.cuda.current_device():
            return call(values)
        with torch.cuda.device(device):
            return call(values)

    def _on_cpu(self, call: Run, values: Sequence[Any]) -> list[torch.Tensor]:
        try:
            return call(values)
        except AssertionError as error:  # a kernel's device_assert
            raise self._out_of_range(error, [step.kernel for step in self.steps]) from error

    def _interpreted(self, values: Sequence[Any], hooks: Any) -> list[torch.Tensor]:
        program = self.program
        memory: dict[Node, Any] = dict(zip(program.graph.inputs, values, strict=True))
        for node, shape, strides in zip(program.graph.outputs, self.held_shapes, self.output_strides, strict=True):
            if node not in memory:
                memory[node] = torch.empty_strided(shape, strides, dtype=node.dtype.torch)
        for node in self.scratch:
            memory[node] = torch.empty(self.shape_of(node), dtype=node.dtype.torch)
        for node in self.arrivals:
            memory[node] = torch.zeros(self.shape_of(node), dtype=node.dtype.torch)
        for step, config, grid, fixed in zip(self.steps, self.configs, self.grids, self.fixed, strict=True):
            if grid[0]:
                self._interpret(step, config, grid, _arguments(step, memory, fixed), hooks)
        return [
            memory[o] if shape == held else memory[o].as_strided(shape, strides)
            for o, shape, held, strides in zip(
                program.graph.outputs, self.output_shapes, self.held_shapes, self.output_strides, strict=True
            )
        ]

    def _out_of_range(self, error: AssertionError, kernels: Sequence[Kernel]) -> Exception:
        """What a kernel's failed check means to the user."""
        if "index out of range" not in str(error):
            return error
        lines = (_line_of_check(kernel) for kernel in kernels)
        return IndexOutOfRange(name=self.graph.name, line=next(filter(None, lines), None))

    def _interpret(self, step: Step, config: Config, grid: Grid, arguments: dict[str, Any], hooks: Any) -> None:
        runtime.counters.launches += 1
        given = {name: runtime.carried(value) for name, value in arguments.items()}
        try:
            interpreter.launch(step.function(self.target), grid, {**given, **dict(config.tiles)}, hooks)
        except AssertionError as error:  # the interpreter's device_assert
            raise self._out_of_range(error, [step.kernel]) from error


def _line_of_check(kernel: Kernel) -> Line | None:
    """The user's line of a kernel's first check of an index: its own, or that of what is made with the index."""
    statements = list(kernel.statements())
    first = next((at for at, s in enumerate(statements) if isinstance(s, Check)), len(statements))
    return next((s.line for s in statements[first:] if not isinstance(s, (Loop, Last)) and s.line is not None), None)


def loops_in(body: Iterable[Statement]) -> list[Loop]:
    """The loops of a body, and those inside them."""
    return [s for s in flatten(body) if isinstance(s, Loop)]


def parts_of(kernel: Kernel) -> list[Buffer]:
    """The memory of what programs that share a loop leave for the last of them."""
    return [b for b in kernel.writes if b in kernel.reads] if kernel.last is not None else []


def _arguments(step: Step, memory: Mapping[Node, Any], fixed: Mapping[str, int]) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for p in step.parameters:
        if p.kind in ("pointer", "number"):
            assert p.buffer is not None
            arguments[p.name] = memory[p.buffer.node]
        elif p.kind == "size":
            arguments[p.name] = fixed[p.name]
        elif p.kind == "stride":
            assert p.buffer is not None
            arguments[p.name] = memory[p.buffer.node].stride(p.dim)
    return arguments


def _grid(kernel: Kernel, config: Config, sizes: Sizes) -> tuple[int, int, int]:
    count = 1
    for axis in kernel.grid:
        extent = evaluate(axis.extent, sizes)
        count *= -(-extent // config[axis.tile]) if axis.is_tiled else extent
    if any(evaluate(a.extent, sizes) == 0 for s in kernel.writes for a in kernel.axes if a.role == "grid"):
        count = 0
    return (count, 1, 1)


def _walked(k: PlannedKernel) -> str:
    """How often rows are walked, and how often they would be as written."""
    passes = "resident" if not k.rounds else "1 pass" if k.passes == 1 else f"{k.passes} passes"
    return f"{passes} ({k.written} as written)" if k.written > k.passes else passes


def _amounts(bytes_by_name: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in bytes_by_name.items()) or "nothing"


class Planner:
    """The plans of one trace: one program per layouts and resident rows, one plan per sizes."""

    def __init__(self, original: Graph, optimised: Graph) -> None:
        self.original, self.optimised = original, optimised
        self.programs: dict[tuple, Program] = {}
        self.plans: dict[tuple, Plan] = {}
        self._resident: dict[tuple, list[str]] = {}
        self.lock = threading.Lock()
        self._called: dict[tuple, Plan] = {}
        self._tensors = [i for i, node in enumerate(original.inputs) if not node.is_number]

    def called(self, values: Sequence[Any], sizes: Sizes, device: torch.device) -> Plan:
        """The plan for a call: as `plan`, which is asked when such sizes and strides come for the first time. The
        trace has seen to the rest: dtypes, the device, sizes that are no symbols."""
        key = (*sizes.values(), *[values[i].stride() for i in self._tensors])
        plan = self._called.get(key)
        if plan is None:
            self._check_memory(values, device)
            plan = self.plan(values, sizes, device)
            if len(self._called) > 4096:
                self._called.clear()
            self._called[key] = plan
        return plan

    def _check_memory(self, values: Sequence[Any], device: torch.device) -> None:
        """Meta tensors stand for others in a plan. They have nothing to compute with in a call."""
        for node, value in zip(self.original.inputs, values, strict=True):
            if isinstance(value, torch.Tensor) and value.device != device:
                raise UnsupportedDevice(op=self.original.name, rule="all tensors must be on one device",
                                        got=f"{device} and {value.device} ({node['name']})",
                                        hint="To see what a call would do, ask for its plan.")  # fmt: skip

    def plan(
        self, values: Sequence[Any], sizes: Sizes, device: torch.device, target: str | None = None, safe: bool = False
    ) -> Plan:
        """The plan for these inputs: of tensors only sizes, strides and dtypes matter."""
        strides = tuple(v.stride() if isinstance(v, torch.Tensor) else () for v in values)
        shapes = tuple(tuple(v.shape) if isinstance(v, torch.Tensor) else () for v in values)
        target = target or runtime.target_of(device)
        key = (tuple(sorted(sizes.items())), shapes, strides, target, safe)
        with self.lock:
            plan = self.plans.get(key)
            if plan is None:
                if len(self.plans) > 4096:
                    self.plans.clear()
                plan = self.plans[key] = self._make(values, sizes, shapes, strides, target, safe)
            return plan

    def _make(
        self, values: Sequence[Any], sizes: Sizes, shapes: tuple, strides: tuple, target: str, safe: bool
    ) -> Plan:
        outs = self._output_strides(values, sizes)
        still = tuple(tuple(d for d, s in enumerate(strides) if s == 0) for strides in outs)
        layouts = tuple(layout_of(n, s) for n, s in zip(shapes, strides, strict=True))
        out_shapes = [[evaluate(n, sizes) for n in o.shape] for o in self.optimised.outputs]
        out_layouts = tuple(layout_of(n, s) for n, s in zip(out_shapes, outs, strict=True))
        program = self._program(sizes, layouts, out_layouts, still, safe)
        return Plan(program, sizes, self.original, target, strides, outs, out_shapes)

    def _program(
        self,
        sizes: Sizes,
        inputs: tuple[Layout, ...],
        outputs: tuple[Layout, ...],
        still: tuple[tuple[int, ...], ...],
        safe: bool,
    ) -> Program:
        """The program for sizes like these. Which reductions are split and what shares a launch depend on sizes, but
        only on their magnitude, so that a plan never depends on the calls before it, nor a kernel on a batch size."""
        _, fixed = fix_rows(self.optimised, sizes)
        typical = {name: n if name in fixed else 1 << (n - 1).bit_length() for name, n in sizes.items()}
        like = (tuple(sorted(typical.items())), inputs, outputs, safe)
        key = (like, self._resident_sizes(like, sizes))
        if key not in self.programs:
            program = Program(_held_once(self.optimised, still), typical, inputs, outputs, safe, sizes)
            self._resident[like] = [name for name in program.specialised.fixed if name not in fixed]
            self.programs[like, self._resident_sizes(like, sizes)] = program
            return program
        return self.programs[key]

    def _resident_sizes(self, like: tuple, sizes: Sizes) -> tuple[int, ...] | None:
        """The sizes that are part of the kernels of a program for sizes like these; None before there is one."""
        names = self._resident.get(like)
        return None if names is None else tuple(sizes[name] for name in names)

    def _output_strides(self, values: Sequence[Any], sizes: Sizes) -> list[tuple[int, ...]]:
        """The strides that eager gives: its own functions run on tensors without memory.

        What reads contiguous tensors and computes its value anew gives a contiguous one, and elementwise ops all follow
        one rule. There torch's own function is not asked: on a tensor without memory even a product imports most of
        torch, which takes seconds."""
        meta = [without_memory(v) if isinstance(v, torch.Tensor) else v for v in values]

        def laid_out(node: Node, args: Sequence[Any]) -> torch.Tensor | None:
            tensors = [a for a in args if isinstance(a, torch.Tensor)]
            shape = tuple(evaluate(n, sizes) for n in node.shape)
            if not tensors or 0 in shape:
                return None
            if _is_computed(node) and all(a.stride() == contiguous_strides(a.shape) for a in tensors):
                strides = contiguous_strides(shape)
            elif node.op.kind == "elementwise" and len(tensors) <= 3:
                strides = _elementwise_strides(tensors)
            else:
                return None
            return torch.empty_strided(shape, strides, dtype=node.dtype.torch, device="meta")

        return [tuple(o.stride()) for o in interpret(self.original, meta, sizes, shortcut=laid_out)]


def _elementwise_strides(tensors: Sequence[torch.Tensor]) -> tuple[int, ...]:
    """Those of any elementwise op on up to three tensors: they follow from shapes and strides. addcmul is one that
    needs no Python for tensors without memory."""
    first, *rest = (torch.empty_strided(t.shape, t.stride(), device="meta") for t in tensors)
    others = [*rest, first][:2]
    return torch.addcmul(first, others[0], others[-1]).stride()


def _is_computed(node: Node) -> bool:
    """Is the node's value new memory, rather than a view of other?"""
    while node.op.expand is not None:
        node = node.expansion
    return node.op.kind in ("elementwise", "reduce", "scan")


def _held_once(graph: Graph, still: Sequence[Sequence[int]]) -> Graph:
    """The graph with outputs that eager expands, with stride 0, computed once along those dimensions."""
    outputs = []
    for node, dims in zip(graph.outputs, still, strict=True):
        for d in dims:
            if node.shape[d] not in (0, 1) and node not in graph.inputs:
                node = build(OPS["slice"], (node, d, 0, 1), {})
        outputs.append(node)
    return replace(graph, outputs=tuple(outputs))
