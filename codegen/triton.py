"""Kernel to Triton source, written for a reader: the user's names, one operation a line, the user's line beside it.

The same Kernel always gives the same bytes. Tile sizes are constexpr parameters; sizes and strides are arguments.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from fusedsl.errors import Line
from fusedsl.index import Index, poly
from fusedsl.kernel import (
    Assign,
    Axis,
    Bound,
    Buffer,
    Check,
    Kernel,
    Last,
    Limit,
    Loop,
    Range,
    State,
    Statement,
    Store,
    Update,
    needs_mask,
)  # fmt: skip
from fusedsl.ops.helpers import GPU_EXP, GPU_POWERS, HELPERS
from fusedsl.options import CPU_TARGETS
from fusedsl.scalar import Expr, variables

from .bits import PTX
from .expr import CARRIED, ExprText, literal

COLUMN = 72  # where the user's line stands
NATIVE_F8 = "NATIVE_F8 = tl.constexpr(True)"
F8_PRODUCTS, F8_WIDENED = "F8_PRODUCTS = tl.constexpr(True)", "F8_WIDENED = tl.constexpr(tl.float16)"
WITHOUT_F8 = ("sm_70", "sm_75", "sm_80", "sm_86", "sm_87")


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel and what a launch passes for it."""

    name: str
    kind: Literal["pointer", "number", "size", "stride", "tile"]
    buffer: Buffer | None = None
    dim: int = 0
    value: Index = 0  # of a size


class Writer:
    """Text with indentation."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 0
        self.noted = ""

    def line(self, text: str = "", note: str = "") -> None:
        """A line, and a note on it if it is not the last one again."""
        text = "    " * self.depth + text
        note, self.noted = ("" if note == self.noted else note), note or self.noted
        self.lines.append(f"{text.ljust(COLUMN)}  # {note}" if note else text.rstrip())

    @contextmanager
    def block(self, head: str, note: str = "") -> Iterator[None]:
        self.line(head, note)
        self.depth += 1
        yield
        self.depth -= 1


def parameters(kernel: Kernel) -> list[Parameter]:
    """A kernel's parameters in order: tensors, numbers, sizes, strides, tile sizes."""
    buffers = list(dict.fromkeys((*kernel.reads, *kernel.writes)))
    buffers += [kernel.last.arrivals] if kernel.last is not None else []
    result = [Parameter(b.pointer, "pointer", b) for b in buffers if not b.number]
    result += [Parameter(b.name, "number", b) for b in buffers if b.number]
    result += [Parameter(s.name, "size", value=poly(s)) for s in kernel.sizes]
    result += [Parameter(a.size, "size", value=a.extent) for a in kernel.axes if a.size == f"size_{a.name}"]
    result += [Parameter(repr(b.strides[dim]), "stride", b, dim) for b, dim in kernel.strides]
    result += [Parameter(a.tile, "tile") for a in kernel.axes if a.is_tiled]
    return result


def is_indifferent(kernel: Kernel, parameter: Parameter) -> bool:
    """Whether it is a size of which nothing need be known: a new batch then compiles no new kernel."""
    return parameter.kind == "size" and parameter.name not in kernel.aligning


def source(kernel: Kernel) -> str:
    """The kernel as a Python module with one @triton.jit function of the kernel's name."""
    out = Writer()
    printer = Printer(kernel, out)
    printer.function()
    body = "\n".join(out.lines) + "\n"
    return _imports(body) + _helpers(body) + body


def _imports(body: str) -> str:
    text = body + _helpers(body)
    lines = ["import triton", "import triton.language as tl"]
    lines += ["from triton.language.extra import libdevice"] if "libdevice." in text else []
    constants = [line for line in (NATIVE_F8, F8_PRODUCTS, F8_WIDENED) if line.split()[0] in text]
    lines += ["", *constants] if constants else []
    return "\n".join(lines) + "\n\n\n"


def for_target(text: str, target: str) -> str:
    """A kernel's source for one target: an f8 that it lacks is made by integer arithmetic, and multiplied as what holds
    it; a GPU's powers of e are powers of 2, which are instructions there."""
    if target in WITHOUT_F8:
        text = text.replace(NATIVE_F8, NATIVE_F8.replace("True", "False"))
    if target in WITHOUT_F8 or not target.startswith("sm_"):
        text = text.replace(F8_PRODUCTS, F8_PRODUCTS.replace("True", "False"))
    if target in CPU_TARGETS:
        text = text.replace(F8_WIDENED, F8_WIDENED.replace("float16", "float32"))
        return text
    for name, power in GPU_POWERS.items():
        text = text.replace(HELPERS[name].strip(), power.strip())
    for name in (n for n in PTX if target.startswith("sm_") and f"{n}(" in text):
        text = text.replace(HELPERS[name].strip(), PTX[name].strip())
    if "tl.exp(" in text:
        imports, functions = text.split("\n\n\n", 1)
        text = f"{imports}\n\n\n{GPU_EXP.strip()}\n\n\n{functions.replace('tl.exp(', '_exp(')}"
    return text


def _used_helpers(body: str) -> list[str]:
    """The helpers that a text needs, those that they need first."""
    found: list[str] = []

    def visit(text: str) -> None:
        names = set(re.findall(r"\b_\w+(?=[(),])", text))
        for name in (n for n in HELPERS if n in names):
            if name not in found:
                visit(HELPERS[name].split(":", 1)[1])
                found.append(name)

    visit(body)
    return found


def _helpers(body: str) -> str:
    return "".join(HELPERS[name].strip() + "\n\n\n" for name in _used_helpers(body))


def _declared(p: Parameter) -> str:
    """A parameter with its type where Triton would not know it: Python's floats are 64 bits wide."""
    if p.kind == "tile":
        return f"{p.name}: tl.constexpr"
    if p.kind == "number":
        assert p.buffer is not None
        return f"{p.name}: tl.{p.buffer.dtype.language}"
    return p.name


class Printer:
    """Prints one kernel."""

    def __init__(self, kernel: Kernel, out: Writer) -> None:
        self.kernel, self.out, self.text = kernel, out, ExprText(kernel)
        self.settled: dict[Expr, bool] = {}  # conditions that the full tiles of the loop being printed need not ask

    def function(self) -> None:
        kernel, out = self.kernel, self.out
        fixed = [p.name for p in parameters(kernel) if p.kind == "number" or is_indifferent(kernel, p)]
        out.line(f"@triton.jit(do_not_specialize={fixed!r})" if fixed else "@triton.jit")
        with out.block(f"def {kernel.name}({', '.join(map(_declared, parameters(kernel)))}):"):
            self._programs()
            if kernel.split:
                self._split_body()
            else:
                self._edges(kernel.grid, "")
                self._body(kernel.body)

    # -- program ids

    def _programs(self) -> None:
        out, grid = self.out, [a for a in self.kernel.axes if a.role in ("one", "grid")]
        wide = ".to(tl.int64)" if any(a.wide for a in self.kernel.axes) else ""
        if grid:
            out.line(f"pid = tl.program_id(0){wide}")
        for symbol in self.kernel.sizes if wide else ():
            out.line(f"{symbol} = {symbol}.to(tl.int64)", "products of sizes may pass 2^31")
        for axis in reversed(grid):
            self._program(axis, last=axis is grid[0])
        for axis in self.kernel.axes:
            if axis.role == "block":
                out.line(f"{axis.name} = tl.arange(0, {axis.tile})")
                if needs_mask(axis):
                    out.line(f"in_{axis.name} = {axis.name} < {axis.size}")

    def _program(self, axis: Axis, last: bool) -> None:
        out = self.out
        if axis.role == "one":
            out.line(f"{axis.name} = pid" if last else f"{axis.name} = pid % {axis.size}")
            if not last:
                out.line(f"pid = pid // {axis.size}")
            return
        count = f"tl.cdiv({axis.size}, {axis.tile})"
        out.line(f"{axis.start} = {'pid' if last else f'pid % {count}'} * {axis.tile}")
        if not last:
            out.line(f"pid = pid // {count}")
        out.line(f"{axis.name} = {axis.start} + tl.arange(0, {axis.tile})")

    def _split_body(self) -> None:
        """The body under a uniform branch: tiles that are full need no masks, so their accesses vectorise."""
        out = self.out
        full = [f"{a.start} + {a.tile} <= {a.size}" for a in self.kernel.split]
        out.line(f"full = {full[0]}" if len(full) == 1 else f"full = {' & '.join(f'({part})' for part in full)}")
        with (
            out.block("for edge in tl.static_range(2):", "0: every tile is full, 1: at the edge"),
            out.block("if full != edge:"),
        ):
            self._edges(self.kernel.grid, "edge == 0")
            self._body(self.kernel.body)

    def _edges(self, axes: Iterable[Axis], full: str) -> None:
        split = set(self.kernel.split)
        for axis in axes:
            if axis.role == "grid":
                inside = f"{axis.name} < {axis.size}"
                inside = f"({inside}) | ({full})" if full and axis in split else inside
                self.out.line(f"in_{axis.name} = {inside}")

    # -- statements

    def _body(self, body: Iterable[Statement]) -> None:
        for statement in body:
            getattr(self, f"_{type(statement).__name__.lower()}")(statement)

    def _assign(self, s: Assign) -> None:
        value = s.value
        text = self._load(s) if value.kind == "load" else self.text.operation(value)
        if s.origin in self.settled:
            text = f"({text}) | (tail == 0)" if self.settled[s.origin] else f"({text}) & (tail != 0)"
        self.out.line(f"{s.name} = {text}", _note(s.line))

    def _load(self, s: Assign) -> str:
        e = s.value
        buffer = self.kernel.buffer(e["tensor"])
        if buffer.number:
            return f"tl.full([], {buffer.name}, tl.{e.dtype.language})"
        want = self.kernel.tiled(e.free)
        mask = self._mask(want, e.args)
        address = self._address(buffer, e["index"], want)
        moving = self.kernel.tiled(v for place, _ in buffer.steps(e["index"]) for v in variables(place))
        if mask and not set(want) <= set(moving):
            address = f"{address} + tl.zeros({self.text.shape(want)}, tl.int32)"  # one element under a mask of many
        text = f"tl.load({address}{mask}{', other=0' if mask else ''})"
        if buffer.dtype.name in CARRIED:
            carrier, decode, _ = CARRIED[buffer.dtype.name]
            return text if e.dtype.name == carrier else f"{decode}({text})"
        return text if buffer.dtype is e.dtype else f"{text}.to(tl.{e.dtype.language})"

    def _address(self, buffer: Buffer, index: tuple[Index, ...], want: tuple[Axis, ...]) -> str:
        parts = [buffer.pointer]
        for place, stride in buffer.steps(index):
            if isinstance(stride, int):
                parts.append(self.text.index(place * stride, want))
            else:
                text = self.text.index(place, want)
                parts.append(f"{f'({text})' if ' ' in text.replace(', ', ',') else text} * {stride!r}")
        return " + ".join(parts).replace("+ -", "- ")

    def _mask(self, want: tuple[Axis, ...], guard: Iterable = ()) -> str:
        parts = [self.text.aligned(f"in_{a.name}", (a,), want) for a in want if needs_mask(a)]
        parts += [self.text.value(g, want) for g in guard]
        return f", mask={' & '.join(parts)}" if parts else ""

    def _store(self, s: Store) -> None:
        want = self.kernel.tiled(s.axes)
        value = self.text.value(s.value, want)
        address = self._address(s.buffer, s.index, want)
        if s.buffer.dtype.name in CARRIED:
            value = f"{CARRIED[s.buffer.dtype.name][2]}({value})"
        self.out.line(f"tl.store({address}, {value}{self._mask(want)})", _note(s.line))

    def _update(self, s: Update) -> None:
        self.out.line(f"{s.name} = {self.text.operation(s.value)}", _note(s.line))

    def _check(self, s: Check) -> None:
        want = self.kernel.tiled(s.axes)
        value, below = self.text.value(s.value, want), self.text.index(s.below, want)
        condition = f"({value} >= 0) & ({value} < {below})"  # what is computed may be outside beyond the edge
        self.out.line(f'tl.device_assert({condition}, "index out of range"{self._mask(want, s.guard)})', _note(s.line))

    def _last(self, s: Last) -> None:
        """The others' parts are in memory before their arrival is: a barrier, and then an atomic that orders memory."""
        out, splits = self.out, s.split.size
        place = f"{s.arrivals.pointer} + tl.program_id(0) // {splits}"
        out.line("tl.debug_barrier()", f"{splits} programs share a loop: the last to arrive goes on")
        out.line(f'arrived = tl.atomic_add({place}, 1, sem="acq_rel")')
        with out.block(f"if arrived == {splits} - 1:"):
            out.line(f"tl.store({place}, 0)", "for the next launch")
            self._body(s.body)

    def _loop(self, s: Loop) -> None:
        out, axis = self.out, s.axis
        for state in s.states:
            out.line(f"{state.name} = {self._initial(state)}")
        size = axis.size
        if s.split is not None and axis.role == "step":
            out.line(f"{axis.name}_stop = {size}")
            self._part(s, "0")
            with out.block(f"for {axis.name} in range({axis.name}_start, {axis.name}_stop):", f"pass {s.number}"):
                self._body(s.body)
            return
        if s.range is not None or s.split is not None:
            self._ranged(s, s.range or Range(None, None, None, None))
            return
        if axis.role == "step":
            with out.block(f"for {axis.name} in range({size}):", f"pass {s.number}" if s.number else ""):
                self._body(s.body)
            return
        if not needs_mask(axis):
            with out.block(f"for {axis.start} in range(0, {size}, {axis.tile}):", f"pass {s.number} over {axis.name}"):
                out.line(f"{axis.name} = {axis.start} + tl.arange(0, {axis.tile})")
                self._body(s.body)
            return
        whole = f"{axis.name}_full"
        out.line(f"{whole} = {size} // {axis.tile} * {axis.tile}", f"pass {s.number} over {axis.name}")
        with (
            out.block("for tail in tl.static_range(2):", "0: full tiles, 1: what is left"),
            out.block(f"for {axis.start} in range({whole} if tail else 0, {size} if tail else {whole}, {axis.tile}):"),
        ):
            out.line(f"{axis.name} = {axis.start} + tl.arange(0, {axis.tile})")
            out.line(f"in_{axis.name} = ({axis.name} < {size}) | (tail == 0)")
            self._body(s.body)

    def _ranged(self, s: Loop, part: Range) -> None:
        """A loop over part of an axis: tiles that are cut off or asked about, full ones, and others again."""
        out, name, tile = self.out, s.axis.name, s.axis.tile
        start, first, full, stop = f"{name}_start", f"{name}_first", f"{name}_full", f"{name}_stop"
        end = self._limit("min", part.upper, s.axis.size)
        end = end if part.upper is None else f"tl.maximum({end}, 0)"
        out.line(f"{stop} = {end}", f"pass {s.number} over {name}")
        below = part.lower is not None
        if below:
            out.line(f"{start} = {self._limit('max', part.lower, '0')} // {tile} * {tile}")
        if s.split is not None:
            self._part(s, start if below else "0")
        if below:
            whole = self._limit("max", part.whole_lower, start)
            out.line(f"{first} = tl.minimum(tl.cdiv({whole}, {tile}) * {tile}, {stop})")
        out.line(f"{full} = {self._limit('min', part.whole_upper, stop)} // {tile} * {tile}")
        begin = first if below else start if s.split is not None else "0"
        out.line(f"{full} = tl.maximum({full}, {begin})")
        ends = f"{full} if tail == 0 else {stop}"
        starts = f"{begin} if tail == 0 else {full}"
        if below:
            ends, starts = f"{first} if tail < 0 else {ends}", f"{start} if tail < 0 else {starts}"
        note = f"{'-1: before the full tiles, ' if below else ''}0: full tiles, 1: what is left"
        with (
            out.block(f"for tail in tl.static_range({'-1, 2' if below else '2'}):", note),
            out.block(f"for {s.axis.start} in range({starts}, {ends}, {tile}):"),
        ):
            out.line(f"{name} = {s.axis.start} + tl.arange(0, {tile})")
            if needs_mask(s.axis) or below:
                out.line(f"in_{name} = ({name} < {s.axis.size}) | (tail == 0)")
            self.settled = dict(part.conditions)
            self._body(s.body)
            self.settled = {}

    def _part(self, s: Loop, start: str) -> None:
        """Narrows a loop's range to the part that the program walks, of whole tiles."""
        assert s.split is not None
        name, splits, each, stop = s.axis.name, s.split.size, f"{s.axis.name}_each", f"{s.axis.name}_stop"
        length = stop if start == "0" else f"{stop} - {start}"
        if s.axis.is_tiled:
            self.out.line(f"{each} = tl.cdiv(tl.cdiv({length}, {s.axis.tile}), {splits}) * {s.axis.tile}")
        else:
            self.out.line(f"{each} = tl.cdiv({length}, {splits})")
        offset = f"{s.split.name} * {each}"
        self.out.line(f"{name}_start = {offset}" if start == "0" else f"{name}_start = {start} + {offset}")
        self.out.line(f"{stop} = tl.minimum({stop}, {name}_start + {each})")

    def _limit(self, name: str, limit: Limit | None, other: str) -> str:
        """The least or the greatest of a limit and another."""
        return other if limit is None else f"tl.{name}imum({self._limit_text(limit)}, {other})"

    def _limit_text(self, limit: Limit) -> str:
        if not isinstance(limit, Bound):
            return self.text.index(limit, ())
        text, *others = (self._limit_text(part) for part in limit.parts)
        for other in others:
            text = f"tl.{limit.name}imum({text}, {other})"
        return text

    def _initial(self, state: State) -> str:
        shape = self.text.shape(self.kernel.tiled(state.axes))
        return f"tl.full({shape}, {literal(state.init['value'], state.dtype)}, tl.{state.dtype.language})"


def _note(line: Line | None) -> str:
    return str(line) if line else ""
