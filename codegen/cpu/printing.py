"""tt.print: `tl.device_print`, by the C library's printf, in lines as a GPU prints them::

    pid (0, 0, 0) idx ( 3) x: 1.500000
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..ttir import STRING
from . import casts
from .build import Builder, Value, bits_of
from .program import Node, Val
from .sinks import Sink
from .values import Evaluator, Index, Pointer

if TYPE_CHECKING:
    from .emit import Emitter


class Print(Sink):
    """A line for every element of a tensor."""

    one_by_one = True

    def __init__(self, emitter: Emitter, line: Line) -> None:
        super().__init__(emitter, line.val.shape)
        self.line = line

    def inputs(self) -> Sequence[Val]:
        return (self.line.val,)

    def step(self, index: Index, carried: Sequence[Value]) -> Sequence[Value]:
        self.line.write(self.nest, index)
        return ()


@dataclass
class Line:
    """What is printed of a value: the program, the element's place, the text, and the element."""

    em: Emitter
    val: Val
    text: str
    signed: bool
    hexadecimal: bool

    def write(self, at: Evaluator, index: Index) -> None:
        value = at.at(self.val, index)
        number = at.address(value) if isinstance(value, Pointer) else at.plain(value)
        form, passed = self._passed(number)
        extents = ", ".join(f"%{math.ceil(math.log10(n)) or ''}u" for n in self.val.shape)
        head = f"pid (%u, %u, %u) idx ({extents}){self.text}"
        printf(self.em.b, f"{head}{form}\n", [*self.em.programs, *(at.plain(i) for i in index), passed])

    def _passed(self, value: Value) -> tuple[str, Value]:
        """How printf is to print a value, and the value as C passes it."""
        b, element = self.em.b, self.val.element
        if element == "ptr":
            return "%p", b.pointer(value)
        if casts.is_number(element):
            wide = casts.widen(b, value, element)
            return "%a" if self.hexadecimal else "%f", wide if wide.el == "f64" else b.cast("extf", wide, "f64")
        bits = bits_of(value.el)
        size, digits = "ll" if bits == 64 else "", max(1, bits // 4)
        if self.hexadecimal:
            return f"0x%0{digits}{size}x", _as_int(b, value, signed=False)
        return f"%{size}{'i' if self.signed else 'u'}", _as_int(b, value, self.signed)


def _as_int(b: Builder, value: Value, signed: bool) -> Value:
    return value if bits_of(value.el) >= 32 else b.cast("extsi" if signed else "extui", value, "i32")


def write(em: Emitter, node: Node) -> None:
    """The lines of every operand, after each other."""
    em.flush()
    text, signed = _text(node.op.text), node.op.attribute("isSigned", "").split(",")
    if not node.operands:
        printf(em.b, f"pid (%u, %u, %u){text}\n", em.programs)
    for at, val in enumerate(node.operands):
        named = f"{text}(operand {at}) " if len(node.operands) > 1 else text
        line = Line(em, val, named, int(signed[at]) != 0, node.op.attribute("hex") == "true")
        if val.is_tensor:
            em.add(Print(em, line))
            em.flush()
        else:
            line.write(Evaluator(em, None), ())
    em.b.functions["fflush"] = "llvm.func @fflush(!llvm.ptr) -> i32"
    em.b.invoke("fflush", (em.b.pointer(em.b.const(0, "i64")),), "i32")
    em.done.add(node)


def printf(b: Builder, form: str, values: Sequence[Value]) -> None:
    """A call of printf with a text that the module holds."""
    name = f"text{sum(each.startswith('text') for each in b.functions)}"
    data = "".join(f"\\{byte:02X}" for byte in (*form.encode(), 0))
    b.functions[name] = f'llvm.mlir.global internal constant @{name}("{data}") {{addr_space = 0 : i32}}'
    b.functions["printf"] = "llvm.func @printf(!llvm.ptr, ...) -> i32"
    text = b.pure(f"llvm.mlir.addressof @{name}", (), "ptr", None, " : !llvm.ptr")
    b.invoke("printf", (text, *values), "i32", "vararg(!llvm.func<i32 (ptr, ...)>)")


def _text(quoted: str) -> str:
    """The kernel's text, as part of a form."""
    found = STRING.search(quoted)
    assert found is not None, quoted
    code = re.compile(r"\\(\\|[0-9A-F]{2})")
    plain = code.sub(lambda at: "\\" if at[1] == "\\" else chr(int(at[1], 16)), found[0][1:-1])
    return plain.replace("%", "%%")
