"""Addresses, loads, stores and atomics, as MLIR text: written where they are asked for."""

from __future__ import annotations

from collections.abc import Sequence

from .arithmetic import Arithmetic
from .value import Value, bits_of, bytes_of, is_float, type_text


class Memory(Arithmetic):
    """Touches memory."""

    def gep(self, base: Value, offset: Value, el: str) -> Value:
        """base + offset elements; a vector of pointers for a vector of offsets."""
        assert base.el == "ptr" and base.lanes is None and offset.el == "i64", f"gep {base.type} {offset.type}"
        if offset.constant == 0 and offset.lanes is None:
            return base
        unit = "i8" if el in ("i1", "i8") else el if el != "ptr" else "i64"
        types = f" : (!llvm.ptr, {offset.type}) -> {type_text('ptr', offset.lanes)}, {unit}"
        return self.pure("llvm.getelementptr {}[{}]", (base, offset), "ptr", offset.lanes, types)

    def load(
        self, pointer: Value, el: str, lanes: int | None = None, depth: int | None = None, volatile: bool = False
    ) -> Value:
        """What lies at a pointer, `lanes` of it side by side; an i1 is a byte."""
        assert pointer.type == "!llvm.ptr", f"load through {pointer.type}"
        held = "i8" if el == "i1" else el
        at = self.depth if depth is None else depth
        name = self.fresh()
        align = bytes_of(held)
        how = f"{'volatile ' * volatile}{pointer.name} {{alignment = {align} : i64}}"
        self.line(f"{name} = llvm.load {how} : !llvm.ptr -> {type_text(held, lanes)}", at)
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
        if operation.startswith("_") and is_float(value.el):  # and, or, xor
            return self.bitcast(self.atomic(operation, pointer, self.bitcast(value, f"i{bits_of(value.el)}")), value.el)
        text = f"llvm.atomicrmw {operation} {pointer.name}, {value.name} acq_rel : !llvm.ptr, {value.type}"
        return self._effect(text, value)

    def exchange(self, pointer: Value, expected: Value, value: Value) -> Value:
        """An atomic write where the expected value is: what was there before."""
        assert pointer.type == "!llvm.ptr" and value.type == expected.type, f"exchange of {value.type}"
        if is_float(value.el):  # told apart by their bits
            bits = f"i{bits_of(value.el)}"
            found = self.exchange(pointer, self.bitcast(expected, bits), self.bitcast(value, bits))
            return self.bitcast(found, value.el)
        pair = self.fresh()
        self.line(f"{pair} = llvm.cmpxchg {pointer.name}, {expected.name}, {value.name} acq_rel acquire : "
                  f"!llvm.ptr, {value.type}")  # fmt: skip
        return self._effect(f"llvm.extractvalue {pair}[0] : !llvm.struct<({value.type}, i1)>", value)

    def atomic_load(self, pointer: Value, el: str) -> Value:
        assert pointer.type == "!llvm.ptr", f"load through {pointer.type}"
        like = Value("", "i8" if el == "i1" else el, None, 0)
        how = f"atomic acquire {{alignment = {bytes_of(el)} : i64}}"
        return self._truth(self._effect(f"llvm.load {pointer.name} {how} : !llvm.ptr -> {like.type}", like), el)

    def atomic_store(self, value: Value, pointer: Value) -> None:
        assert pointer.type == "!llvm.ptr" and value.lanes is None, f"store of {value.type}"
        value = self._held(value)
        how = f"atomic release {{alignment = {bytes_of(value.el)} : i64}}"
        self.line(f"llvm.store {value.name}, {pointer.name} {how} : {value.type}, !llvm.ptr")

    def fill(self, pointer: Value, byte: int, count: int) -> None:
        """Sets so many bytes."""
        value, size = self.const(byte, "i8"), self.const(count, "i64")
        self.line(f'"llvm.intr.memset"({pointer.name}, {value.name}, {size.name}) <{{isVolatile = false}}> : '
                  "(!llvm.ptr, i8, i64) -> ()")  # fmt: skip

    def invoke(self, function: str, operands: Sequence[Value], el: str, vararg: str = "") -> Value:
        """A call of a function with effects."""
        types = ", ".join(v.type for v in operands)
        given = ", ".join(v.name for v in operands)
        text = f"llvm.call @{function}({given}) {vararg} : ({types}) -> {type_text(el, None)}"
        return self._effect(text, Value("", el, None, 0))

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
