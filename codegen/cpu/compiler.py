"""From a kernel's TTIR to its machine code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...options import Options
from . import toolchain, wrapper
from .emit import Emitted, emit
from .errors import CannotCompile
from .machine import Machine

GRAIN = 16384  # elements that are worth waking another thread for

Ttir = Callable[[bool], str]  # the text of a kernel's TTIR, with the lines of the kernel where asked for


def compiled(ttir: Ttir, machine: Machine, disjoint: bool) -> tuple[bytes, dict[str, Any]]:
    """The shared object of a kernel, and what a launcher must know of it."""
    mlir, about = module(ttir, machine, disjoint)
    return linked(mlir, machine), about


def linked(mlir: str, machine: Machine) -> bytes:
    """The shared object of a whole MLIR module."""
    return toolchain.compile_object(mlir, machine, forked=Options.from_env().fork)


def module(ttir: Ttir, machine: Machine, disjoint: bool) -> tuple[str, dict[str, Any]]:
    """The same before LLVM: a whole MLIR module. Raises CannotCompile."""
    emitted = _emitted(ttir, machine, disjoint)
    about = {
        "arguments": emitted.arguments, "checks": emitted.checks, "scratch_bytes": emitted.scratch_bytes,
        "written": emitted.written, "read": emitted.read, "grain": max(1, GRAIN // emitted.elements),
    }  # fmt: skip
    return wrapper.module(emitted, machine), about


def _emitted(ttir: Ttir, machine: Machine, disjoint: bool) -> Emitted:
    try:
        return emit(ttir(False), machine, disjoint)
    except CannotCompile:
        emit(ttir(True), machine, disjoint)  # the same error, with the kernel's line
        raise
