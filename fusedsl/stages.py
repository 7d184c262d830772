"""A fused call as text, at each stage between the user's function and the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .api import Fused
from .calls import kernel_for, native_text
from .codegen.inspect import Compiled
from .codegen.triton import Writer
from .errors import BadOption
from .index import Atom, Index, Variable, poly, replace
from .kernel import Assign, Buffer, Check, Kernel, Last, Loop, Statement, Store, Update
from .plan import Plan
from .scalar import Expr, make, rebuild, substitute
from .scalar import show as show_scalar
from .text import show


@dataclass(frozen=True)
class Call:
    """A fused function and the arguments of a call. target: the GPU that machine code is for."""

    fused: Fused
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    target: str = "sm_90"

    @property
    def plan(self) -> Plan:
        return self.fused.plan(*self.args, **self.kwargs)


def graph(call: Call) -> str:
    """What was traced."""
    return show(call.fused.graph(*call.args, **call.kwargs))


def fused(call: Call) -> str:
    """The launches: what each kernel reads, computes and writes, and why there is no fewer of them."""
    plan = call.plan
    return "\n".join([plan.explain() + "\n", *(kernel_text(k.step.kernel) for k in plan.kernels)])


def triton(call: Call) -> str:
    """The kernels' source."""
    return "\n\n".join(k.source for k in call.plan.kernels)


def _machine(stage: str, comment: str) -> Callable[[Call], str]:
    """The text of a stage of compilation, each kernel under a comment that says what it needs."""

    def text(call: Call) -> str:
        kernels = call.plan.compile(call.target)
        return "\n".join(f"{comment} {needs(k)}\n{_asm(k, stage).rstrip()}\n" for k in kernels)

    return text


def _asm(kernel: Compiled, stage: str) -> str:
    if stage == "sass":
        return kernel.sass
    text = kernel.asm.get(stage)
    if not isinstance(text, str):
        rule = f"one that {kernel.target} has: {', '.join(s for s in STAGES if s in kernel.asm)}, sass"
        raise BadOption(name="stage", rule=rule, got=repr(stage))
    return text


def needs(kernel: Compiled) -> str:
    """What a kernel takes of a processor, in one line."""
    return (
        f"{kernel.name} for {kernel.target}: {kernel.registers} registers, {kernel.spills} bytes spilled, "
        f"{kernel.shared:,} bytes of shared memory"
    )


def _on_cpu(stage: str) -> Callable[[Call], str]:
    """The text of a stage of compilation for this computer's CPU."""

    def text(call: Call) -> str:
        plan = call.plan.on("cpu")
        kernels = [kernel_for(plan, at) for at in range(len(plan.steps))]
        return "\n".join(native_text(kernel, stage).rstrip() + "\n" for kernel in kernels)

    return text


def _no_c(call: Call) -> str:
    rule = "one that there is; on the CPU kernels become machine code by way of mlir, and asm is that in words"
    raise BadOption(name="stage", rule=rule, got="'c'")


STAGES: dict[str, Callable[[Call], str]] = {
    "graph": graph,
    "fused": fused,
    "triton": triton,
    "ttir": _machine("ttir", "//"),
    "ttgir": _machine("ttgir", "//"),
    "llir": _machine("llir", ";"),
    "ptx": _machine("ptx", "//"),
    "sass": _machine("sass", "//"),
    "mlir": _on_cpu("mlir"),
    "asm": _on_cpu("asm"),
    "c": _no_c,
}


# ---- kernels for people ----------------------------------------------------------------------------------------------


def kernel_text(kernel: Kernel) -> str:
    """A kernel as it stands before it is printed as source: axes with their roles, buffers, statements."""
    return _KernelText(kernel).text()


class _KernelText:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel, self.out = kernel, Writer()
        # Axes under the names that the source gives them.
        self.names = {axis.variable: Variable(axis.name, axis.extent) for axis in kernel.axes}
        self.mapping: dict[Atom, Index] = {variable: poly(named) for variable, named in self.names.items()}

    def text(self) -> str:
        kernel, out = self.kernel, self.out
        with out.block(f"kernel {kernel.name}:"):
            for axis in kernel.axes:
                out.line(f"axis {axis.name}: {axis.role}, {axis.extent}{', 64 bits' if axis.wide else ''}")
            for verb, buffers in (("read", kernel.reads), ("write", kernel.writes)):
                for buffer in buffers:
                    out.line(f"{verb} {_buffer(buffer)}")
            self.statements(kernel.body)
        return "\n".join(out.lines) + "\n"

    def statements(self, body: Iterable[Statement]) -> None:
        for s in body:
            if isinstance(s, Loop):
                with self.out.block(f"loop {s.axis.name}, pass {s.number}:"):
                    for state in s.states:
                        tile = f"{state.dtype}{self.along(state.axes)}"
                        self.out.line(f"state {state.name}: {tile} from {self.value(state.init)}")
                    self.statements(s.body)
            elif isinstance(s, Last):
                with self.out.block(f"last of {s.split.name}:"):
                    self.statements(s.body)
            else:
                self.out.line(self.statement(s), str(s.line) if s.line else "")

    def statement(self, s: Assign | Update | Store | Check) -> str:
        value = self.value(s.value)
        match s:
            case Assign():
                return f"{s.name}: {s.value.dtype}{self.along(s.axes)} = {value}"
            case Update():
                return f"{s.name} <- {value}"
            case Store():
                return f"{s.buffer.name}{self.index(s.index)} = {value}"
            case Check():
                return f"check 0 <= {value} < {s.below}"

    def along(self, axes: Iterable[Variable]) -> str:
        """[i, k]: the axes that a tile varies along, in the kernel's order."""
        wanted = set(axes)
        names = [axis.name for axis in self.kernel.axes if axis.variable in wanted]
        return f"[{', '.join(names)}]" if names else ""

    def index(self, index: Iterable[Index]) -> str:
        return f"[{', '.join(repr(replace(i, self.mapping)) for i in index)}]"

    def value(self, e: Expr) -> str:
        if e.kind != "load":
            return show_scalar(self.renamed(e))
        guard = f" if {' and '.join(map(self.value, e.args))}" if e.args else ""
        return f"{self.kernel.buffer(e['tensor']).name}{self.index(e['index'])}{guard}"

    def renamed(self, e: Expr) -> Expr:
        if e.kind == "inside":
            return make("inside", e.dtype, axis=self.names[e["axis"]])
        return substitute(rebuild(e, tuple(map(self.renamed, e.args))), self.mapping)


def _buffer(buffer: Buffer) -> str:
    if buffer.number:
        return f"{buffer.name}: number {buffer.dtype}"
    shape, strides = (", ".join(map(repr, values)) for values in (buffer.shape, buffer.strides))
    return f"{buffer.name}: {buffer.dtype}[{shape}], strides [{strides}]"
