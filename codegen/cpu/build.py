"""MLIR text through typed functions: no operation is printed before its operands' types and widths were checked.

A `Value` knows its type and its depth, the scope in which it was made. Scopes are the regions that are open: the
function's body is scope 0, a loop inside it scope 1. An operation without effects is printed in the deepest scope of
its operands, not where it was asked for, and once: so what does not change in a loop stands before it, and equal
operations are one. Memory is touched where it was asked for.

Floats are f16, f32 or f64. A bf16 is its bits, i16, and an f8 is its bits, i8: what they mean is elem.py's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Builder", "Value", "bits_of", "is_float"]

WIDTH = {"i1": 1, "i8": 8, "i16": 16, "i32": 32, "i64": 64, "f16": 16, "f32": 32, "f64": 64, "ptr": 64}
_NUMPY = {"f16": np.float16, "f32": np.float32, "f64": np.float64}
NO_UNROLLING = " {loop_annotation = #llvm.loop_annotation<unroll = <disable = true>>}"


def is_float(el: str) -> bool:
    return el[0] == "f"


def bits_of(el: str) -> int:
    """The width of an element type in bits."""
    return WIDTH[el]


def bytes_of(el: str) -> int:
    """What an element takes in memory; an i1 takes a byte."""
    return max(1, WIDTH[el] // 8)


def type_text(el: str, lanes: int | None) -> str:
    scalar = "!llvm.ptr" if el == "ptr" else el
    return scalar if lanes is None else f"vector<{lanes}x{scalar}>"


@dataclass(frozen=True, slots=True)
class Value:
    """An SSA value: a scalar, or a vector where `lanes` is a number."""

    name: str
    el: str
    lanes: int | None
    depth: int
    constant: Any = None  # the number, where every lane is known to be that one
    short: bool = False  # the low 16 bits of it are zero; of a float, if it is NaN

    @property
    def type(self) -> str:
        return type_text(self.el, self.lanes)

    @property
    def is_vector(self) -> bool:
        return self.lanes is not None


Given = Sequence[Value] | None  # what a region yields


@dataclass(slots=True)
class Scope:
    """A region while it is written."""

    lines: list[str] = field(default_factory=list)
    made: dict[Any, Value] = field(default_factory=dict)  # operations by their text
    memo: dict[Any, Any] = field(default_factory=dict)  # for the builder's users; gone with the region


class Builder:
    """Writes the body of one function."""

    def __init__(self) -> None:
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

    # -- memory

    def gep(self, base: Value, offset: Value, el: str) -> Value:
        """base + offset elements; a vector of pointers for a vector of offsets."""
        assert base.el == "ptr" and base.lanes is None and offset.el == "i64", f"gep {base.type} {offset.type}"
        if offset.constant == 0 and offset.lanes is None:
            return base
        unit = "i8" if el in ("i1", "i8") else el if el != "ptr" else "i64"
        types = f" : (!llvm.ptr, {offset.type}) -> {type_text('ptr', offset.lanes)}, {unit}"
        return self.pure("llvm.getelementptr {}[{}]", (base, offset), "ptr", offset.lanes, types)

    def load(self, pointer: Value, el: str, lanes: int | None = None, depth: int | None = None) -> Value:
        """What lies at a pointer, `lanes` of it side by side; an i1 is a byte."""
        assert pointer.type == "!llvm.ptr", f"load through {pointer.type}"
        held = "i8" if el == "i1" else el
        at = self.depth if depth is None else depth
        name = self.fresh()
        align = bytes_of(held)
        self.line(f"{name} = llvm.load {pointer.name} {{alignment = {align} : i64}} : !llvm.ptr -> "
                  f"{type_text(held, lanes)}", at)  # fmt: skip
        return self._truth(Value(name, held, lanes, at), el)

    def store(self, value: Value, pointer: Value, past: bool = False) -> None:
        """`past`: past the caches, to an address that is a multiple of 32 bytes."""
        assert pointer.type == "!llvm.ptr", f"store through {pointer.type}"
        value = self._held(value)
        how = "alignment = 32 : i64, nontemporal" if past else f"alignment = {bytes_of(value.el)} : i64"
        self.line(f"llvm.store {value.name}, {pointer.name} {{{how}}} : {value.type}, !llvm.ptr")

    def masked_load(self, pointer: Value, mask: Value, other: Value) -> Value:
        """Lanes side by side where the mask holds, `other`'s where not."""
        el, held = other.el, self._held(other)
        self._check_mask(mask, held)
        assert pointer.type == "!llvm.ptr", f"load through {pointer.type}"
        return self._truth(self._effect(
            f"llvm.intr.masked.load {pointer.name}, {mask.name}, {held.name} {{alignment = {bytes_of(held.el)} : i32}}"
            f" : (!llvm.ptr, {mask.type}, {held.type}) -> {held.type}", held), el)  # fmt: skip

    def masked_store(self, value: Value, pointer: Value, mask: Value) -> None:
        value = self._held(value)
        self._check_mask(mask, value)
        assert pointer.type == "!llvm.ptr", f"store through {pointer.type}"
        self.line(f"llvm.intr.masked.store {value.name}, {pointer.name}, {mask.name} "
                  f"{{alignment = {bytes_of(value.el)} : i32}} : {value.type}, {mask.type} into !llvm.ptr")  # fmt: skip

    def gather(self, pointers: Value, mask: Value, other: Value) -> Value:
        el, held = other.el, self._held(other)
        self._check_mask(mask, held)
        assert pointers.el == "ptr" and pointers.lanes == held.lanes, f"gather through {pointers.type}"
        return self._truth(self._effect(
            f"llvm.intr.masked.gather {pointers.name}, {mask.name}, {held.name} "
            f"{{alignment = {bytes_of(held.el)} : i32}}"
            f" : ({pointers.type}, {mask.type}, {held.type}) -> {held.type}", held), el)  # fmt: skip

    def scatter(self, value: Value, pointers: Value, mask: Value) -> None:
        value = self._held(value)
        self._check_mask(mask, value)
        assert pointers.el == "ptr" and pointers.lanes == value.lanes, f"scatter through {pointers.type}"
        types = f"{value.type}, {mask.type} into {pointers.type}"
        self.line(f"llvm.intr.masked.scatter {value.name}, {pointers.name}, {mask.name} "
                  f"{{alignment = {bytes_of(value.el)} : i32}} : {types}")  # fmt: skip

    def atomic(self, operation: str, pointer: Value, value: Value) -> Value:
        """An atomic read, change and write: what was there before."""
        assert pointer.type == "!llvm.ptr" and value.lanes is None, f"atomic {operation} of {value.type}"
        text = f"llvm.atomicrmw {operation} {pointer.name}, {value.name} acq_rel : !llvm.ptr, {value.type}"
        return self._effect(text, value)

    def exchange(self, pointer: Value, expected: Value, value: Value) -> Value:
        """An atomic write where the expected value is: what was there before."""
        assert pointer.type == "!llvm.ptr" and value.type == expected.type, f"exchange of {value.type}"
        pair = self.fresh()
        self.line(f"{pair} = llvm.cmpxchg {pointer.name}, {expected.name}, {value.name} acq_rel monotonic : "
                  f"!llvm.ptr, {value.type}")  # fmt: skip
        return self._effect(f"llvm.extractvalue {pair}[0] : !llvm.struct<({value.type}, i1)>", value)

    def pointer(self, address: Value) -> Value:
        """An i64 as a pointer, or a vector of them."""
        assert address.el == "i64", f"a pointer from {address.type}"
        types = f" : {address.type} to {type_text('ptr', address.lanes)}"
        return self.pure("llvm.inttoptr {}", (address,), "ptr", address.lanes, types)

    def address(self, pointer: Value) -> Value:
        assert pointer.el == "ptr", f"the address of {pointer.type}"
        types = f" : {pointer.type} to {type_text('i64', pointer.lanes)}"
        return self.pure("llvm.ptrtoint {}", (pointer,), "i64", pointer.lanes, types)

    def _effect(self, text: str, like: Value) -> Value:
        name = self.fresh()
        self.line(f"{name} = {text}")
        return Value(name, like.el, like.lanes, self.depth)

    def _held(self, value: Value) -> Value:
        """How a value lies in memory."""
        return self.cast("extui", value, "i8") if value.el == "i1" else value

    def _truth(self, value: Value, el: str) -> Value:
        if el != "i1":
            return value
        return self.cmpi("ne", value, self.const(0, "i8", value.lanes))

    def _check_mask(self, mask: Value, value: Value) -> None:
        assert mask.el == "i1" and mask.lanes is not None and mask.lanes == value.lanes, f"{mask.type} of {value.type}"

    # -- regions

    @contextmanager
    def hoisted(self, depth: int) -> Iterator[None]:
        """What is written inside stands in an outer scope, before the regions that are open there."""
        inner = self.scopes[depth + 1 :]
        del self.scopes[depth + 1 :]
        yield
        self.scopes += inner

    def loop(
        self,
        start: Value,
        stop: Value,
        step: Value,
        carried: Sequence[Value],
        body: Callable[..., Given],
        annotation: str = NO_UNROLLING,
    ) -> list[Value]:
        """scf.for: body(index, *carried) gives what the next round gets; the last of that is the result. What is known
        to run once is no loop."""
        assert start.type == stop.type == step.type, f"a loop from {start.type} to {stop.type} by {step.type}"
        first, end, by = start.constant, stop.constant, step.constant
        if None not in (first, end, by) and first < end <= first + by:  # type: ignore[operator]
            return list(body(start, *carried) or ())
        depth = self.depth + 1
        index = Value(self.fresh(), start.el, None, depth)
        inner = [Value(self.fresh(), v.el, v.lanes, depth) for v in carried]
        self.scopes.append(Scope())
        results = list(body(index, *inner) or ())
        self._same_types(results, carried)
        self._yield(results)
        lines = self.scopes.pop().lines
        name = self.fresh()
        head = f"scf.for {index.name} = {start.name} to {stop.name} step {step.name}"
        if carried:
            pairs = ", ".join(f"{a.name} = {b.name}" for a, b in zip(inner, carried, strict=True))
            head = f"{_named(name, carried)} = {head} iter_args({pairs}) -> ({', '.join(v.type for v in carried)})"
        return self._region_op(f"{head} : {start.el} {{", [lines], annotation, name, carried)

    def branch(
        self, condition: Value, yes: Callable[[], Given], no: Callable[[], Given] | None = None
    ) -> list[Value]:
        """scf.if; without `no` nothing is returned."""
        assert condition.type == "i1", f"a branch on {condition.type}"
        if condition.constant is not None:
            return list((yes() if condition.constant else no() if no else ()) or ())
        regions, results = [], []
        for side in (yes, no):
            if side is not None:
                self.scopes.append(Scope())
                given = list(side() or ())
                if regions:
                    self._same_types(given, results)
                results = given
                self._yield(given)
                regions.append(self.scopes.pop().lines)
        name = self.fresh()
        head = f"scf.if {condition.name}"
        if results:
            assert no is not None, "a branch with results has two sides"
            head = f"{_named(name, results)} = {head} -> ({', '.join(v.type for v in results)})"
        return self._region_op(f"{head} {{", regions, "", name, results)

    def loop_while(
        self,
        carried: Sequence[Value],
        before: Callable[..., tuple[Value, Sequence[Value]]],
        after: Callable[..., Sequence[Value]],
    ) -> list[Value]:
        """scf.while: before(*carried) -> (go on?, passed); after(*passed) -> carried. The result is what was passed."""
        depth = self.depth + 1
        inner = [Value(self.fresh(), v.el, v.lanes, depth) for v in carried]
        self.scopes.append(Scope())
        condition, passed = before(*inner)
        types = ", ".join(v.type for v in passed)
        tail = f" {', '.join(v.name for v in passed)} : {types}" if passed else ""
        self.line(f"scf.condition({condition.name}){tail}")
        first = self.scopes.pop().lines
        arguments = [Value(self.fresh(), v.el, v.lanes, depth) for v in passed]
        self.scopes.append(Scope())
        results = list(after(*arguments))
        self._same_types(results, carried)
        self._yield(results)
        second = self.scopes.pop().lines or ["scf.yield"]  # a region is never empty
        name = self.fresh()
        pairs = ", ".join(f"{a.name} = {b.name}" for a, b in zip(inner, carried, strict=True))
        signature = f"({', '.join(v.type for v in carried)}) -> ({types})"
        head = f"scf.while ({pairs}) : {signature} {{" if carried else f"scf.while : {signature} {{"
        if passed:
            head = f"{_named(name, passed)} = {head}"
        block = f"^bb0({', '.join(f'{v.name}: {v.type}' for v in arguments)}):"
        self.line(head)
        self.scopes[-1].lines += [*first, "} do {", *([block] if arguments else []), *second, "}"]
        return self._results(name, passed)

    def _yield(self, values: Sequence[Value]) -> None:
        if values:
            self.line(f"scf.yield {', '.join(v.name for v in values)} : {', '.join(v.type for v in values)}")

    @staticmethod
    def _same_types(a: Sequence[Value], b: Sequence[Value]) -> None:
        assert [v.type for v in a] == [v.type for v in b], f"{[v.type for v in a]} and {[v.type for v in b]}"

    def _region_op(
        self, head: str, regions: Sequence[list[str]], tail: str, name: str, results: Sequence[Value]
    ) -> list[Value]:
        lines = self.scopes[-1].lines
        lines.append(head)
        for at, region in enumerate(regions):
            if at:
                lines.append("} else {")
            lines += region
        lines.append("}" + tail)
        return self._results(name, results)

    def _results(self, name: str, like: Sequence[Value]) -> list[Value]:
        names = [name] if len(like) == 1 else [f"{name}#{i}" for i in range(len(like))]
        return [Value(n, v.el, v.lanes, self.depth) for n, v in zip(names, like, strict=True)]


def _is_short(op: str, operands: Sequence[Value], el: str) -> bool:
    """Whether a pure operation's result is `short`. An x86 gives its own NaN, which is, or an operand's."""
    name = op.partition(" ")[0]
    if name == "arith.shli":
        return (operands[1].constant or 0) >= 16
    if name == "arith.bitcast" and not is_float(el):
        return False
    return name in _KEEP_SHORT and all(value.short for value in operands if value.el != "i1")


def _named(name: str, values: Sequence[Value]) -> str:
    return name if len(values) == 1 else f"{name}:{len(values)}"


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
