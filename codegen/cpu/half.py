"""f16 on a machine that cannot convert it (before 2012, and some virtual ones): what LLVM calls in that case.

LLVM calls these functions of the compiler's runtime library, which a process need not have, one lane at a time.
"""

from __future__ import annotations

from collections.abc import Callable

from .build import Builder, Value
from .casts import Small, to_small

__all__ = ["functions"]

_F16 = Small(15, 10, 65536.0, 0x7E00, el="i16")  # 65536 is rounded to the bits of infinity


def functions() -> dict[str, str]:
    """Their text by name; they belong into every module for such a machine."""
    return {
        "__extendhfsf2": _function("__extendhfsf2", "f16", _extend),
        "__truncsfhf2": _function("__truncsfhf2", "f32", lambda b, x: b.bitcast(to_small(b, x, _F16), "f16")),
    }


def _function(name: str, el: str, body: Callable[[Builder, Value], Value]) -> str:
    b = Builder()
    result = body(b, Value("%x", el, None, 0))
    head = f"llvm.func @{name}(%x: {el}) -> {result.el} {{"
    return f"{head}\n{b.text()}\nllvm.return {result.name} : {result.el}\n}}"


def _extend(b: Builder, x: Value) -> Value:
    def c(number: int) -> Value:
        return b.const(number, "i32")

    number = b.cast("extui", b.bitcast(x, "i16"), "i32")
    magnitude = b.and_(number, c(0x7FFF))
    moved = b.shl(magnitude, 13)
    normal = b.add(moved, c((127 - 15) << 23))
    small = b.bitcast(b.mulf(b.cast("sitofp", magnitude, "f32"), b.const(2.0**-24, "f32")), "i32")
    wide = b.select(b.cmpi("slt", magnitude, c(0x400)), small, normal)
    wide = b.select(b.cmpi("sge", magnitude, c(0x7C00)), b.or_(moved, c(0x7F800000)), wide)
    return b.bitcast(b.or_(wide, b.shl(b.and_(number, c(0x8000)), 16)), "f32")
