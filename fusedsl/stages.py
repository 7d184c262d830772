"""A fused call as text, at each stage between the user's function and the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .api import Fused
from .codegen.inspect import Compiled
from .codegen.triton import Writer
from .errors import BadOption
from .index import Variable
from .kernel import Assign, Buffer, Check, Kernel, Loop, Statement, Store, Update
from .plan import Plan
from .scalar import Expr
from .scalar import show as show_scalar
from .text import show


@dataclass(frozen=True)
class Call:
    """A fused function and the arguments of a call; the target is where machine code is for."""

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
        return "\n".join(f"{comment} {needs(k)}\n{getattr(k, stage).rstrip()}\n" for k in kernels)

    return text


def needs(kernel: Compiled) -> str:
    """What a kernel takes of a processor, in one line."""
    return (
        f"{kernel.name} for {kernel.target}: {kernel.registers} registers, {kernel.spills} spills, "
        f"{kernel.shared:,} bytes of shared memory"
    )


def _no_c(call: Call) -> str:
    raise BadOption(name="stage", rule="one that exists for this target; kernels are not compiled to C", got="'c'")


STAGES: dict[str, Callable[[Call], str]] = {
    "graph": graph,
    "fused": fused,
    "triton": triton,
    "ttir": _machine("ttir", "//"),
    "ttgir": _machine("ttgir", "//"),
    "llir": _machine("llir", ";"),
    "ptx": _machine("ptx", "//"),
    "sass": _machine("sass", "//"),
    "c": _no_c,
}


# ---- kernels for people ----------------------------------------------------------------------------------------------


def kernel_text(kernel: Kernel) -> str:
    """A kernel as it stands before it is printed as source: axes with their roles, buffers, statements."""
    out = Writer()
    with out.block(f"kernel {kernel.name}:"):
        for axis in kernel.axes:
            out.line(f"axis {axis.name}: {axis.role}, {axis.extent}{', 64 bits' if axis.wide else ''}")
        for verb, buffers in (("read", kernel.reads), ("write", kernel.writes)):
            for buffer in buffers:
                out.line(f"{verb} {_buffer(buffer)}")
        _statements(kernel, kernel.body, out)
    return "\n".join(out.lines) + "\n"


def _buffer(buffer: Buffer) -> str:
    if buffer.number:
        return f"{buffer.name}: number {buffer.dtype}"
    shape, strides = (", ".join(map(repr, values)) for values in (buffer.shape, buffer.strides))
    return f"{buffer.name}: {buffer.dtype}[{shape}], strides [{strides}]"


def _statements(kernel: Kernel, body: Iterable[Statement], out: Writer) -> None:
    for s in body:
        if isinstance(s, Loop):
            with out.block(f"loop {s.axis.name}, pass {s.number}:"):
                for state in s.states:
                    tile = f"{state.dtype}{_along(kernel, state.axes)}"
                    out.line(f"state {state.name}: {tile} from {show_scalar(state.init)}")
                _statements(kernel, s.body, out)
        else:
            out.line(_statement(kernel, s), str(s.line) if s.line else "")


def _statement(kernel: Kernel, s: Assign | Update | Store | Check) -> str:
    match s:
        case Assign():
            return f"{s.name}: {s.value.dtype}{_along(kernel, s.axes)} = {_value(kernel, s.value)}"
        case Update():
            return f"{s.name} <- {_value(kernel, s.value)}"
        case Store():
            return f"{s.buffer.name}{list(s.index)} = {_value(kernel, s.value)}"
        case Check():
            return f"check 0 <= {_value(kernel, s.value)} < {s.below}"


def _along(kernel: Kernel, axes: Iterable[Variable]) -> str:
    """[rows, k]: the axes that a tile varies along, in the kernel's order."""
    wanted = set(axes)
    names = [a.name for a in kernel.axes if a.variable in wanted]
    return f"[{', '.join(names)}]" if names else ""


def _value(kernel: Kernel, e: Expr) -> str:
    if e.kind != "load":
        return show_scalar(e)
    guard = f" if {' and '.join(map(show_scalar, e.args))}" if e.args else ""
    return f"{kernel.buffer(e['tensor']).name}{list(e['index'])}{guard}"


def reasons(plan: Plan) -> Iterator[str]:
    """Why launches did not become one."""
    yield from plan.program.specialised.partition.reasons
