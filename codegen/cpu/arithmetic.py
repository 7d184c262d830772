"""Operations without effects, as MLIR text: constants, arithmetic, conversions, the lanes of vectors.

An operation is printed in the deepest scope of its operands, not where it was asked for, and once: so what does not
change in a loop stands before it, and equal operations are one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .value import WIDTH, Value, is_float, type_text

_PAIRS = {8: "sse2.pmadd.wd", 16: "avx2.pmadd.wd", 32: "avx512.pmaddw.d.512"}
_SCALED = {"f32": ("ps", 16), "f64": ("pd", 8)}  # name and lanes of the instruction
_NUMPY = {"f16": np.float16, "f32": np.float32, "f64": np.float64}


@dataclass(slots=True)
class Scope:
    """A region while it is written."""

    lines: list[str] = field(default_factory=list)
    made: dict[Any, Value] = field(default_factory=dict)  # operations by their text
    memo: dict[Any, Any] = field(default_factory=dict)  # for the builder's users; gone with the region


class Arithmetic:
    """Writes operations of one function."""

    def __init__(self, scales: bool = False) -> None:
        """scales: whether the machine has an instruction for x * 2 ** n, see `scaled`."""
        self.scales = scales
        self.scopes: list[Scope] = [Scope()]
        self.pool: list[str] = []
        self.constants: dict[Any, Value] = {}
        self.functions: dict[str, str] = {}  # helpers that the body calls, by name
        self._names = 0

    # -- printing

    def fresh(self) -> str:
        self._names += 1
        return f"%{self._names}"

    @property
    def depth(self) -> int:
        return len(self.scopes) - 1

    def text(self) -> str:
        """The body, with the constants first."""
        assert len(self.scopes) == 1, "a region is open"
        return "\n".join([*self.pool, *self.scopes[0].lines])

    def line(self, text: str, depth: int | None = None) -> None:
        self.scopes[-1 if depth is None else depth].lines.append(text)

    def pure(self, op: str, operands: Sequence[Value], el: str, lanes: int | None, types: str) -> Value:
        """`op operands : types`, without effects; what equals an earlier one is that one."""
        depth = 0
        for value in operands:
            if value.depth > depth:
                depth = value.depth
        scope = self.scopes[depth]
        text = op.format(*[value.name for value in operands]) + types
        known = scope.made.get(text)
        if known is None:
            known = scope.made[text] = Value(self.fresh(), el, lanes, depth, short=_is_short(op, operands, el))
            scope.lines.append(f"{known.name} = {text}")
        return known

    # -- constants

    def const(self, number: Any, el: str, lanes: int | None = None) -> Value:
        """A number of the type, in every lane."""
        if is_float(el):
            number = _NUMPY[el](number)
            bits = int(number.view(f"u{number.itemsize}"))
            key = (bits, el, lanes)
        else:
            assert el != "ptr", "a pointer is not a number"
            width = WIDTH[el]
            number = int(number) & ((1 << width) - 1)
            if el != "i1" and number >> (width - 1):
                number -= 1 << width
            bits = number
            key = (number, el, lanes)
        found = self.constants.get(key)
        if found is None:
            short = bits & 0xFFFF == 0 or (el == "f32" and number == number)
            found = self.constants[key] = Value(f"%c{len(self.constants)}", el, lanes, 0, number, short)
            body = f"0x{bits:0{WIDTH[el] // 4}X}" if is_float(el) else _integer(bits, el)
            body = body if lanes is None else f"dense<{body}>"
            kind = "" if found.type == "i1" else f" : {found.type}"
            self.pool.append(f"{found.name} = arith.constant {body}{kind}")
        return found

    def iota(self, el: str, lanes: int, stride: int = 1) -> Value:
        """0, stride, 2 * stride, ..."""
        key = ("iota", el, lanes, stride)
        found = self.constants.get(key)
        if found is None:
            found = self.constants[key] = Value(f"%c{len(self.constants)}", el, lanes, 0)
            width = WIDTH[el]
            wrapped = [(i * stride + (1 << (width - 1))) % (1 << width) - (1 << (width - 1)) for i in range(lanes)]
            body = ", ".join(map(str, wrapped))
            self.pool.append(f"{found.name} = arith.constant dense<[{body}]> : {found.type}")
        return found

    def mask(self, lanes: Sequence[bool]) -> Value:
        """A known i1 for every lane."""
        key = ("mask", tuple(lanes))
        found = self.constants.get(key)
        if found is None:
            found = self.constants[key] = Value(f"%c{len(self.constants)}", "i1", len(lanes), 0)
            body = ", ".join("true" if lane else "false" for lane in lanes)
            self.pool.append(f"{found.name} = arith.constant dense<[{body}]> : {found.type}")
        return found

    def poison(self, el: str, lanes: int | None = None) -> Value:
        key = ("poison", el, lanes)
        found = self.constants.get(key)
        if found is None:
            found = self.constants[key] = Value(f"%c{len(self.constants)}", el, lanes, 0)
            self.pool.append(f"{found.name} = llvm.mlir.poison : {found.type}")
        return found

    # -- arithmetic

    def binary(self, name: str, a: Value, b: Value) -> Value:
        """An `arith` operation on two values of one type, which is the result's."""
        assert (a.el, a.lanes) == (b.el, b.lanes), f"{name}: {a.type} and {b.type}"
        assert name.endswith("f") == is_float(a.el), f"{name} of {a.type}"
        if a.constant is not None and b.constant is not None and name in _FOLDS:
            with np.errstate(all="ignore"):
                return self.const(_FOLDS[name](a.constant, b.constant), a.el, a.lanes)
        if not is_float(a.el):
            simple = self._simple(name, a, b)
            if simple is not None:
                return simple
        return self.pure(f"arith.{name} {{}}, {{}}", (a, b), a.el, a.lanes, f" : {a.type}")

    def _simple(self, name: str, a: Value, b: Value) -> Value | None:
        """x + 0, x * 1, x & -1 and their like."""
        x, y = a.constant, b.constant
        if name in ("addi", "ori", "xori") and x == 0:
            return b
        if name in ("addi", "subi", "ori", "xori", "shli", "shrui", "shrsi") and y == 0:
            return a
        if name == "muli":
            if x == 1 or y == 1:
                return b if x == 1 else a
            if x == 0 or y == 0:
                return a if x == 0 else b
        if name == "andi":
            ones = (1, -1) if a.el == "i1" else (-1,)
            if x == 0 or (y is not None and y in ones):
                return a
            if y == 0 or (x is not None and x in ones):
                return b
        if name == "ori" and a.el == "i1" and (x == 1 or y == 1):
            return a if x == 1 else b
        return None

    def addf(self, a: Value, b: Value) -> Value:
        return self.binary("addf", a, b)

    def subf(self, a: Value, b: Value) -> Value:
        return self.binary("subf", a, b)

    def mulf(self, a: Value, b: Value) -> Value:
        return self.binary("mulf", a, b)

    def divf(self, a: Value, b: Value) -> Value:
        return self.binary("divf", a, b)

    def negf(self, a: Value) -> Value:
        assert is_float(a.el), f"negf of {a.type}"
        if a.constant is not None:
            return self.const(-a.constant, a.el, a.lanes)
        return self.pure("arith.negf {}", (a,), a.el, a.lanes, f" : {a.type}")

    def add(self, a: Value, b: Value) -> Value:
        return self.binary("addi", a, b)

    def sub(self, a: Value, b: Value) -> Value:
        return self.binary("subi", a, b)

    def mul(self, a: Value, b: Value) -> Value:
        return self.binary("muli", a, b)

    def and_(self, a: Value, b: Value) -> Value:
        return self.binary("andi", a, b)

    def or_(self, a: Value, b: Value) -> Value:
        return self.binary("ori", a, b)

    def xor(self, a: Value, b: Value) -> Value:
        return self.binary("xori", a, b)

    def not_(self, a: Value) -> Value:
        return self.xor(a, self.const(-1, a.el, a.lanes))

    def shl(self, a: Value, count: int) -> Value:
        """A shift by a known count that is less than the width."""
        return self.binary("shli", a, self.const(count, a.el, a.lanes))

    def shru(self, a: Value, count: int) -> Value:
        return self.binary("shrui", a, self.const(count, a.el, a.lanes))

    def shrs(self, a: Value, count: int) -> Value:
        return self.binary("shrsi", a, self.const(count, a.el, a.lanes))

    def cmpi(self, predicate: str, a: Value, b: Value) -> Value:
        """predicate: eq ne slt sle sgt sge ult ule ugt uge"""
        assert (a.el, a.lanes) == (b.el, b.lanes) and not is_float(a.el), f"cmpi: {a.type} and {b.type}"
        if a.constant is not None and b.constant is not None and predicate in _ORDERS:
            return self.const(_ORDERS[predicate](a.constant, b.constant), "i1", a.lanes)
        return self.pure(f"arith.cmpi {predicate}, {{}}, {{}}", (a, b), "i1", a.lanes, f" : {a.type}")

    def cmpf(self, predicate: str, a: Value, b: Value) -> Value:
        """predicate: oeq one olt ole ogt oge ord ueq une ult ule ugt uge uno"""
        assert (a.el, a.lanes) == (b.el, b.lanes) and is_float(a.el), f"cmpf: {a.type} and {b.type}"
        return self.pure(f"arith.cmpf {predicate}, {{}}, {{}}", (a, b), "i1", a.lanes, f" : {a.type}")

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        """Lane by lane, or as a whole for a scalar condition."""
        assert (a.el, a.lanes) == (b.el, b.lanes) and condition.el == "i1", f"select: {a.type} and {b.type}"
        assert condition.lanes in (None, a.lanes), f"select: {condition.type} of {a.type}"
        if condition.constant is not None:
            return a if condition.constant else b
        if a is b:
            return a
        if a.el == "ptr":
            return self.pure("llvm.select {}, {}, {}", (condition, a, b), a.el, a.lanes,
                             f" : {condition.type}, {a.type}")  # fmt: skip
        types = f" : {condition.type}, {a.type}" if condition.is_vector else f" : {a.type}"
        return self.pure("arith.select {}, {}, {}", (condition, a, b), a.el, a.lanes, types)

    def cast(self, name: str, a: Value, el: str) -> Value:
        """An `arith` cast: extf truncf sitofp uitofp fptosi fptoui extsi extui trunci bitcast"""
        source_float, target_float, wider = _CASTS[name]
        assert source_float in (None, is_float(a.el)) and target_float in (None, is_float(el)), f"{name} {a.type} {el}"
        change = WIDTH[el] - WIDTH[a.el]
        assert wider is None or (change > 0) - (change < 0) == wider, f"{name} of {a.type} to {el}"
        if a.constant is not None and name in ("extsi", "extui", "trunci"):
            number = a.constant
            if name == "extui":
                number &= (1 << WIDTH[a.el]) - 1
            elif name == "extsi" and a.el == "i1":
                number = -number
            return self.const(number, el, a.lanes)
        types = f" : {a.type} to {type_text(el, a.lanes)}"
        return self.pure(f"arith.{name} {{}}", (a,), el, a.lanes, types)

    def bitcast(self, a: Value, el: str) -> Value:
        return a if a.el == el else self.cast("bitcast", a, el)

    def reinterpret(self, a: Value, el: str) -> Value:
        """The same bits as lanes of another width."""
        assert a.lanes is not None, a.type
        lanes = a.lanes * WIDTH[a.el] // WIDTH[el]
        return self.pure("llvm.bitcast {}", (a,), el, lanes, f" : {a.type} to {type_text(el, lanes)}")

    def multiply_pairs(self, a: Value, b: Value) -> Value:
        """Of i16s: the sum of the products of each two neighbours, as i32."""
        assert a.type == b.type and a.el == "i16" and a.lanes in _PAIRS, f"{a.type} and {b.type}"
        lanes = a.lanes // 2
        types = f" : ({a.type}, {b.type}) -> {type_text('i32', lanes)}"
        return self.pure(f'llvm.call_intrinsic "llvm.x86.{_PAIRS[a.lanes]}"({{}}, {{}})', (a, b), "i32", lanes, types)

    def can_scale(self, a: Value) -> bool:
        """Whether `scaled` takes the value: whole registers of it."""
        return self.scales and a.el in _SCALED and a.lanes is not None and a.lanes % _SCALED[a.el][1] == 0

    def scaled(self, a: Value, n: Value) -> Value:
        """a * 2 ** n, rounded once, of a whole n that is a float: in AVX-512 an instruction, at any n as quick."""
        name, width = _SCALED[a.el]
        assert self.can_scale(a) and a.type == n.type, f"{a.type} and {n.type}"
        chunks = [range(at, at + width) for at in range(0, a.lanes or 0, width)]
        parts = [self._scaled(name, self.shuffle(a, a, c), self.shuffle(n, n, c)) for c in chunks]
        while len(parts) > 1:
            lanes = range(2 * (parts[0].lanes or 0))
            parts = [self.shuffle(low, high, lanes) for low, high in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    def _scaled(self, name: str, a: Value, n: Value) -> Value:
        every = self.const(-1, "i16" if a.el == "f32" else "i8")
        as_is = self.const(4, "i32")  # the rounding that is set
        types = f" : ({a.type}, {n.type}, {a.type}, {every.type}, i32) -> {a.type}"
        call = f'llvm.call_intrinsic "llvm.x86.avx512.mask.scalef.{name}.512"({{}}, {{}}, {{}}, {{}}, {{}})'
        return self.pure(call, (a, n, a, every, as_is), a.el, a.lanes, types)

    def resize(self, a: Value, el: str, signed: bool = True) -> Value:
        """An integer of another width."""
        change = WIDTH[el] - WIDTH[a.el]
        if change == 0:
            return a
        return self.cast("trunci" if change < 0 else "extsi" if signed else "extui", a, el)

    def intrinsic(self, name: str, *operands: Value) -> Value:
        """`llvm.intr.NAME` of values of one type, which is the result's: fmuladd sqrt fabs floor ceil trunc
        roundeven copysign ctlz ..."""
        first = operands[0]
        for other in operands:
            assert (other.el, other.lanes) == (first.el, first.lanes), f"{name}: {first.type} and {other.type}"
        holes = ", ".join(["{}"] * len(operands))
        types = ", ".join([first.type] * len(operands))
        return self.pure(f"llvm.intr.{name}({holes})", operands, first.el, first.lanes, f" : ({types}) -> {first.type}")

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c, rounded once where the machine has such an instruction, twice otherwise."""
        return self.intrinsic("fmuladd", a, b, c)

    def fence(self, a: Value) -> Value:
        """The float itself, of which LLVM does not know where it comes from."""
        types = f" : ({a.type}) -> {a.type}"
        fenced = self.pure('llvm.call_intrinsic "llvm.arithmetic.fence"({})', (a,), a.el, a.lanes, types)
        return replace(fenced, short=a.short)

    def call(self, function: str, operands: Sequence[Value], el: str, lanes: int | None) -> Value:
        """A function of the module without effects."""
        types = ", ".join(v.type for v in operands)
        holes = ", ".join(["{}"] * len(operands))
        signature = f" : ({types}) -> {type_text(el, lanes)}"
        return self.pure(f"llvm.call @{function}({holes})", operands, el, lanes, signature)

    # -- vectors

    def splat(self, scalar: Value, lanes: int | None) -> Value:
        assert scalar.lanes is None, f"splat of {scalar.type}"
        if lanes is None:
            return scalar
        if scalar.constant is not None:
            return self.const(scalar.constant, scalar.el, lanes)
        zero, unset = self.const(0, "i32"), self.poison(scalar.el, lanes)
        one = self.pure("llvm.insertelement {}, {}[{} : i32]", (scalar, unset, zero), scalar.el, lanes,
                        f" : {unset.type}")  # fmt: skip
        return self.shuffle(one, one, [0] * lanes)

    def extract(self, vector: Value, lane: int) -> Value:
        assert vector.lanes is not None and 0 <= lane < vector.lanes, f"lane {lane} of {vector.type}"
        if vector.constant is not None:
            return self.const(vector.constant, vector.el)
        at = self.const(lane, "i32")
        return self.pure("llvm.extractelement {}[{} : i32]", (vector, at), vector.el, None, f" : {vector.type}")

    def insert(self, vector: Value, scalar: Value, lane: int) -> Value:
        assert vector.lanes is not None and 0 <= lane < vector.lanes and scalar.type == vector.el, f"{vector.type}"
        at = self.const(lane, "i32")
        return self.pure("llvm.insertelement {}, {}[{} : i32]", (scalar, vector, at), vector.el, vector.lanes,
                         f" : {vector.type}")  # fmt: skip

    def shuffle(self, a: Value, b: Value, lanes: Sequence[int]) -> Value:
        """Lanes of a, then of b, by number."""
        assert a.lanes is not None and a.type == b.type, f"shuffle: {a.type} and {b.type}"
        assert all(0 <= lane < 2 * a.lanes for lane in lanes), f"lanes {lanes} of {a.type}"
        if a.constant is not None and a is b:
            return self.const(a.constant, a.el, len(lanes))
        return self.pure(f"llvm.shufflevector {{}}, {{}} {list(lanes)}", (a, b), a.el, len(lanes), f" : {a.type}")

    def all_true(self, mask: Value) -> Value:
        """Whether every lane holds, as a scalar."""
        assert mask.el == "i1" and mask.is_vector, f"all_true of {mask.type}"
        return self.pure('"llvm.intr.vector.reduce.and"({})', (mask,), "i1", None, f" : ({mask.type}) -> i1")


def _is_short(op: str, operands: Sequence[Value], el: str) -> bool:
    """Whether a pure operation's result is `short`. An x86 gives its own NaN, which is, or an operand's."""
    name = op.partition(" ")[0]
    if name == "arith.shli":
        return (operands[1].constant or 0) >= 16
    if name == "arith.bitcast" and not is_float(el):
        return False
    return name in _KEEP_SHORT and all(value.short for value in operands if value.el != "i1")


def _integer(number: int, el: str) -> str:
    if el == "i1":
        return "true" if number else "false"
    return str(number)


_KEEP_SHORT = {
    *(f"arith.{name}" for name in ("addf", "subf", "mulf", "divf", "negf", "select", "bitcast")),
    *(f"arith.{name}" for name in ("addi", "subi", "andi", "ori", "xori")),
    "llvm.intr.fmuladd({},", "llvm.intr.sqrt({})", "llvm.intr.fabs({})",
}  # fmt: skip
_FOLDS: dict[str, Callable[[Any, Any], Any]] = {
    "addi": lambda a, b: a + b,
    "subi": lambda a, b: a - b,
    "muli": lambda a, b: a * b,
    "andi": lambda a, b: a & b,
    "ori": lambda a, b: a | b,
    "xori": lambda a, b: a ^ b,
    "minsi": min,
    "maxsi": max,
    "addf": lambda a, b: a + b,
    "subf": lambda a, b: a - b,
    "mulf": lambda a, b: a * b,
}
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "slt": lambda a, b: a < b,
    "sle": lambda a, b: a <= b,
    "sgt": lambda a, b: a > b,
    "sge": lambda a, b: a >= b,
}
# Whether the source and the target are floats, and whether the target is wider (1), narrower (-1) or as wide (0).
_CASTS: dict[str, tuple[bool | None, bool | None, int | None]] = {
    "extf": (True, True, 1),
    "truncf": (True, True, -1),
    "sitofp": (False, True, None),
    "uitofp": (False, True, None),
    "fptosi": (True, False, None),
    "fptoui": (True, False, None),
    "extsi": (False, False, 1),
    "extui": (False, False, 1),
    "trunci": (False, False, -1),
    "bitcast": (None, None, 0),
}
