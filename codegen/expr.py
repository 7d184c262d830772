"""Scalar expressions to Triton text: one operation on names and literals."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable

from fusedsl.index import Atom, Index, Quotient, Remainder, Symbol, Variable, bounds, is_nonnegative
from fusedsl.kernel import Axis, Edge, Kernel
from fusedsl.ops.helpers import HELPERS
from fusedsl.scalar import Expr, Loaded
from fusedsl.types import DType, dtype, f32

from .bits import half_name

# Types whose conversion targets lack (sm_80 has no e4m3) or do otherwise than torch (e5m2 goes on to inf): tensors of
# them are passed as bits, helpers convert.
# name -> (the type of the bits, from bits, to bits)
CARRIED = {"f8e4m3": ("u8", "_from_e4m3", "_to_e4m3"), "f8e5m2": ("u8", "_from_e5m2", "_to_e5m2")}


def literal(value: bool | int | float, dtype: DType, typed: bool = False) -> str:
    """A constant as Triton text; typed: with its dtype, where nothing beside it tells."""
    if isinstance(value, float):
        text = repr(value) if math.isfinite(value) else f'float("{value}")'
        typed = typed or (dtype.bits == 64 and not _fits_f32(value))
    else:
        text = repr(value)
    return f"tl.full([], {text}, tl.{dtype.language})" if typed else text


def _fits_f32(value: float) -> bool:
    if not math.isfinite(value):
        return True
    try:
        return struct.unpack("f", struct.pack("f", value))[0] == value
    except OverflowError:
        return False


class ExprText:
    """Texts of expressions in one kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.by_variable: dict[Variable, Axis] = {a.variable: a for a in kernel.axes}

    # -- shapes

    def aligned(self, name: str, have: tuple[Axis, ...], want: tuple[Axis, ...]) -> str:
        """A name indexed with None so that its axes stand where they do in the wider tile."""
        if not have or have == want:
            return name
        return f"{name}[{', '.join(':' if a in have else 'None' for a in want)}]"

    def shape(self, axes: tuple[Axis, ...]) -> str:
        return "[" + ", ".join(a.tile for a in axes) + "]"

    # -- indices

    def index(self, value: Index, want: tuple[Axis, ...]) -> str:
        """An index as arithmetic on axes, sizes and loaded values, over the tile `want`."""
        if isinstance(value, int):
            return str(value)
        text = ""
        for product, factor in value.terms:
            parts = [self._atom(a, want) for a in product]
            if abs(factor) != 1 or not parts:
                parts.append(str(abs(factor)))
            sign = "-" if factor < 0 else "+"
            text += f" {sign} {' * '.join(parts)}" if text else ("-" if factor < 0 else "") + " * ".join(parts)
        return text

    def _atom(self, atom: Atom, want: tuple[Axis, ...]) -> str:
        if isinstance(atom, Variable):
            axis = self.by_variable[atom]
            return self.aligned(axis.name, (axis,) if axis.is_tiled else (), want)
        if isinstance(atom, Symbol):
            return atom.name
        if isinstance(atom, Loaded):
            return self.value(atom.expr, want)
        if isinstance(atom, Edge):
            axis = self.by_variable[atom.axis]
            return f"(tl.minimum({axis.start} + {axis.tile}, {axis.size}) - 1)" if atom.last else axis.start
        assert isinstance(atom, Quotient), f"no text for {atom!r}"
        return self._division(atom, want)

    def _division(self, atom: Quotient, want: tuple[Axis, ...]) -> str:
        """Floor division and its remainder; Triton's round to zero, which differs below 0."""
        a, b = _grouped(self.index(atom.dividend, want)), _grouped(self.index(atom.divisor, want))
        low, _ = bounds(atom.dividend)
        if low is not None and is_nonnegative(low):
            return f"({a} {atom.symbol} {b})"
        rest = f"(({a} % {b} + {b}) % {b})"
        return rest if isinstance(atom, Remainder) else f"(({a} - {rest}) // {b})"

    # -- values

    def value(self, e: Expr, want: tuple[Axis, ...]) -> str:
        """A name or a literal, over the tile `want`."""
        if e.kind == "ref":
            return self.aligned(e["name"], self.kernel.tiled(e["axes"]), want)
        if e.kind == "const":
            return literal(e["value"], e.dtype)
        if e.kind == "inside":
            axis = self.by_variable[e["axis"]]
            return self.aligned(f"in_{axis.name}", (axis,), want)
        if e.kind == "load":
            return self.kernel.buffer(e["tensor"]).name
        raise AssertionError(f"not a name: {e.kind}")

    def operation(self, e: Expr) -> str:
        """One operation on names."""
        return getattr(self, f"_{e.kind}")(e, self.kernel.tiled(e.free))

    def _ref(self, e: Expr, want: tuple[Axis, ...]) -> str:
        return self.value(e, want)

    _const = _inside = _ref

    def _apply(self, e: Expr, want: tuple[Axis, ...]) -> str:
        assert e.op is not None and e.op.triton is not None
        texts = [self.value(a, want) for a in e.args]
        for at, arg in enumerate(e.args):
            if arg.kind == "const" and not _told_by_others(e, at):
                texts[at] = literal(arg["value"], arg.dtype, typed=True)
        text = _filled(e, texts)
        if "libdevice." in text or any(
            f"{name}(" in text for name in HELPERS
        ):  # functions, unlike operators, take tensors
            texts = [
                literal(a["value"], a.dtype, typed=True) if a.kind == "const" else t
                for a, t in zip(e.args, texts, strict=True)
            ]
            text = _filled(e, texts)
        return text

    def _power(self, e: Expr, want: tuple[Axis, ...]) -> str:
        value, scale, top = (self.value(a, want) for a in e.args)
        return f"{'_power_of_halves' if e['halves'] else '_power'}({value}, {scale}, {top})"

    def _biased(self, e: Expr, want: tuple[Axis, ...]) -> str:
        return f"{half_name(e)}({', '.join(self.value(a, want) for a in e.args)})"

    _raised = _biased

    def _fma(self, e: Expr, want: tuple[Axis, ...]) -> str:
        texts = [literal(a["value"], a.dtype, typed=True) if a.kind == "const" else self.value(a, want) for a in e.args]
        return f"tl.fma({', '.join(texts)})"

    def _nonzero(self, e: Expr, want: tuple[Axis, ...]) -> str:
        return f"{self.value(e.args[0], want)} != 0"

    def _select(self, e: Expr, want: tuple[Axis, ...]) -> str:
        condition, a, b = (self.value(x, want) for x in e.args)
        if e.args[1].kind == "const" and e.args[2].kind == "const":
            a = literal(e.args[1]["value"], e.dtype, typed=True)
        return f"tl.where({condition}, {a}, {b})"

    def _both(self, e: Expr, want: tuple[Axis, ...]) -> str:
        return " & ".join(self.value(a, want) for a in e.args)

    def _less(self, e: Expr, want: tuple[Axis, ...]) -> str:
        # A negative part moves to the other side: k - n < 0 reads k < n. Whole numbers are n < k + 1 where they are
        # n <= k, of which Triton knows that all of a run of 16 agree if n is a multiple of 16.
        a, b = _balanced(e["a"], e["b"])
        sign, b = ("<=", b - 1) if _constant(b) == 1 and b != 1 else ("<", b)
        text = f"{self.index(a, want)} {sign} {self.index(b, want)}"
        return f"({text}) & {self.value(e.args[0], want)}" if e.args else text

    def _number(self, e: Expr, want: tuple[Axis, ...]) -> str:
        text = self.index(e["index"], want)
        if e.args:
            return f"tl.where({self.value(e.args[0], want)}, {text}, 0).to(tl.{e.dtype.language})"
        if want or any(self.by_variable.get(v) for v in e.free):
            return f"({text}).to(tl.{e.dtype.language})"
        return f"tl.full([], {text}, tl.{e.dtype.language})"

    def _round(self, e: Expr, want: tuple[Axis, ...]) -> str:
        (source,) = e.args
        text = (
            literal(source["value"], source.dtype, typed=True) if source.kind == "const" else self.value(source, want)
        )
        if e["to"].name in CARRIED:
            _, decode, encode = CARRIED[e["to"].name]
            return f"{decode}({encode}({text}))"
        return f"{text}.to(tl.{e['to'].language}).to(tl.{e.dtype.language})"

    def _bits(self, e: Expr, want: tuple[Axis, ...]) -> str:
        return f"{CARRIED[e['to'].name][2]}({self.value(e.args[0], want)})"

    def _combine(self, e: Expr, want: tuple[Axis, ...]) -> str:
        assert e.op is not None and e.op.combination is not None
        return e.op.combination.combine.format(*(self.value(a, want) for a in e.args))

    def _spread(self, e: Expr, want: tuple[Axis, ...]) -> str:
        (source,) = e.args
        if source.kind == "const":
            return f"tl.full({self.shape(want)}, {literal(source['value'], source.dtype)}, tl.{source.dtype.language})"
        return f"tl.broadcast_to({self.value(source, want)}, {self.shape(want)})"

    def _reduce(self, e: Expr, want: tuple[Axis, ...]) -> str:
        assert e.op is not None and e.op.combination is not None
        (source,) = e.args
        axes = list(self.kernel.tiled(source.free))
        text = self.value(source, tuple(axes))
        for axis in reversed([a for a in axes if a.variable in e["axes"]]):
            text = e.op.combination.tile.format(text, axis=axes.index(axis))
            axes.remove(axis)
        narrow = e.dtype.is_integer and e.dtype.bits < 32  # Triton sums these in 32 bits; ours wrap, as torch's do
        return f"{text}.to(tl.{e.dtype.language})" if narrow else text

    def _dot(self, e: Expr, want: tuple[Axis, ...]) -> str:
        """Rows by sum times sum by columns; halves as they are, of f32 as torch's setting says, of 8 bits the codes."""
        (summed,) = self.kernel.tiled(e["axes"])
        texts, as_given = [], e["precision"] == "tf32" or e["precision"] in CARRIED
        for at, operand in enumerate(e.args[:2]):
            axes = self.kernel.tiled(operand.free)
            text = self.value(operand, axes)
            if not as_given and operand.dtype.name != e["precision"]:
                text = f"{text}.to(tl.{dtype(e['precision']).language})"
            texts.append(f"tl.trans({text})" if axes.index(summed) == at else text)
        before = [self.value(before, want) for before in e.args[2:]]
        if e["precision"] in CARRIED:
            return f"_dot_{e['precision'].removeprefix('f8')}({', '.join([*texts, *(before or ['None'])])})"
        texts += [*before, *(["out_dtype=tl.int32"] if e["precision"] == "i8" else [])]  # told, for Triton before 3.9
        return f'tl.dot({", ".join(texts)}, input_precision="{"tf32" if e["precision"] == "tf32" else "ieee"}")'

    def _scan(self, e: Expr, want: tuple[Axis, ...]) -> str:
        assert e.op is not None and e.op.scan is not None
        (source,), (axis,) = e.args, e["axes"]
        return e.op.scan.prefix.format(self.value(source, want), axis=want.index(self.by_variable[axis]))


def _filled(e: Expr, texts: list[str]) -> str:
    assert e.op is not None and e.op.triton is not None
    template: str | Callable[..., str] = e.op.triton
    return template.format(*texts) if isinstance(template, str) else template(e, *texts)


def _told_by_others(e: Expr, at: int) -> bool:
    """Whether another argument gives a literal its type."""
    others = [a for i, a in enumerate(e.args) if i != at and a.kind != "const"]
    return any(a.dtype is e.args[at].dtype for a in others) or (bool(others) and e.args[at].dtype is f32)


def _balanced(a: Index, b: Index) -> tuple[Index, Index]:
    difference = a - b
    if isinstance(difference, int):
        return difference, 0
    left: Index = 0
    right: Index = 0
    for product, factor in difference.terms:
        term: Index = abs(factor)
        for atom in product:
            term = term * atom
        left, right = (left + term, right) if factor > 0 else (left, right + term)
    return left, right


def _constant(index: Index) -> int:
    """The number that is added to all else."""
    return index if isinstance(index, int) else next((factor for product, factor in index.terms if not product), 0)


def _grouped(text: str) -> str:
    return f"({text})" if " " in text and not (text.startswith("(") and text.endswith(")")) else text
