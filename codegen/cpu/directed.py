"""Operations rounded toward zero, down or up: in a function of their own, called with the CPU's rounding set so.

A function, since nothing else keeps an operation between the two calls that set the rounding. LLVM's passes over its
IR, which kernels go without, might compute one of constants before either.
"""

from __future__ import annotations

from collections.abc import Callable

from .build import Builder, Value
from .value import type_text

__all__ = ["directed"]

_MODES = {"rz": 0xC00, "rd": 0x400, "ru": 0x800}  # FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD of x86


def directed(b: Builder, name: str, mode: str, rule: Callable[..., Value], *operands: Value) -> Value:
    """The result of a rule whose operations are rounded so; `name` tells the rule from others."""
    parameters = [Value(f"%x{at}", v.el, v.lanes, 0) for at, v in enumerate(operands)]
    inner = Builder(b.scales)
    result = rule(inner, *parameters)
    types = "_".join(type_text(v.el, v.lanes) for v in (*operands, result)).translate({ord("<"): "v", ord(">"): None})
    symbol = f"{name}_{mode}_{types}"
    given = ", ".join(f"{v.name}: {v.type}" for v in parameters)
    passed, kinds = ", ".join(v.name for v in parameters), ", ".join(v.type for v in parameters)
    head = f"({given}) -> {result.type} attributes {{passthrough = [\"noinline\", \"nounwind\"]}}"
    b.functions |= inner.functions
    b.functions["fesetround"] = "llvm.func @fesetround(i32) -> i32"
    b.functions[f"{symbol}_inside"] = "\n".join((
        f"llvm.func internal @{symbol}_inside{head} {{", inner.text(),
        f"llvm.return {result.name} : {result.type}\n}}",
    ))  # fmt: skip
    b.functions[symbol] = "\n".join((
        f"llvm.func internal @{symbol}{head} {{",
        f"%mode = arith.constant {_MODES[mode]} : i32",
        "%nearest = arith.constant 0 : i32",
        "%set = llvm.call @fesetround(%mode) : (i32) -> i32",
        f"%result = llvm.call @{symbol}_inside({passed}) : ({kinds}) -> {result.type}",
        "%reset = llvm.call @fesetround(%nearest) : (i32) -> i32",
        f"llvm.return %result : {result.type}\n}}",
    ))  # fmt: skip
    return b.call(symbol, operands, result.el, result.lanes)
