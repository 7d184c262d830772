"""From MLIR text to a shared object, with the LLVM and the linker inside the triton wheel.

Triton's library has everything a C compiler's back end has: the MLIR dialects `arith`, `cf`, `scf` and `llvm`, LLVM
with its x86 target, and lld. What it has to say goes to the process's stderr, and a mistake that no verifier finds ends
the process. So a compilation that fails is repeated in a forked child, where the report can be read; and tests may
compile in such a child from the start.
"""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .child import Child, ChildFailed
from .machine import TRIPLE, Machine

OPTIMIZE = ("", "O0", "O1", "O2", "O3")
_TARGET_PARTS = ("TargetInfo", "Target", "TargetMC", "AsmPrinter", "AsmParser")
_PLACE = re.compile(r'loc\("[^"]*\.mlir":(\d+):\d+\): ')

_lock = threading.RLock()  # the MLIR context is one thread's at a time, and a child must find nobody inside LLVM
_child = Child()


class ToolchainError(RuntimeError):
    """MLIR that does not compile: what LLVM said of it, or the signal that ended the child it was compiled in."""


def compile_object(mlir: str, machine: Machine, optimize: str = "", forked: bool = False, fuse: bool = False) -> bytes:
    """The shared object of an MLIR module. Functions that are neither exported nor marked noinline are inlined.

    `optimize` names LLVM's passes over its IR, one of OPTIMIZE; "" leaves them out: text that is vectorised and free of
    repeated work gains nothing from them. `forked` compiles in a child, where no mistake in the text can end this
    process. With `fuse` any product and sum may become one fused operation, else those that say `contract`.
    """
    return _compile(_object, mlir, machine, optimize, forked, fuse)


def assembly(mlir: str, machine: Machine, optimize: str = "", forked: bool = False, fuse: bool = False) -> str:
    """What the machine code of an MLIR module reads like."""
    return _compile(_assembly, mlir, machine, optimize, forked, fuse)


def _compile(step: Callable[..., Any], mlir: str, machine: Machine, optimize: str, forked: bool, fuse: bool) -> Any:
    assert optimize in OPTIMIZE, optimize
    if not forked:
        try:
            return step(mlir, machine, optimize, fuse)
        except RuntimeError:
            pass  # the reason went to stderr: to have it as text, fail again in a child
    _library()  # loaded once, not in every child
    try:
        with _lock:
            return _child.run(step, mlir, machine, optimize, fuse)
    except ChildFailed as error:
        lines = [*mlir.splitlines(), ""]  # the end of the text is a place, too
        raise ToolchainError(_PLACE.sub(lambda at: f"line {at[1]}: {lines[int(at[1]) - 1]}\n", str(error))) from None


def _object(mlir: str, machine: Machine, optimize: str, fuse: bool) -> bytes:
    with _lock, tempfile.TemporaryDirectory(prefix="fusedsl-") as folder:
        unlinked, linked = os.path.join(folder, "kernel.o"), os.path.join(folder, "kernel.so")
        code = _translated(_llvm_ir(mlir, machine, optimize, fuse), machine, fuse, is_object=True)
        Path(unlinked).write_bytes(code)
        _library().libtriton.amd.link_hsaco(unlinked, linked)  # this is lld, for any ELF file
        return Path(linked).read_bytes()


def _assembly(mlir: str, machine: Machine, optimize: str, fuse: bool) -> str:
    with _lock:
        return _translated(_llvm_ir(mlir, machine, optimize, fuse), machine, fuse, is_object=False)


def _llvm_ir(mlir: str, machine: Machine, optimize: str, fuse: bool) -> str:
    library = _library()
    ir, llvm = library.libtriton.ir, library.libtriton.llvm
    with tempfile.NamedTemporaryFile("w", suffix=".mlir") as text:
        text.write(mlir)
        text.flush()
        module = ir.parse_mlir_module(text.name, library.context)
    module.context = library.context
    _lower(library, module)
    context = llvm.context()
    lowered = llvm.to_module(module, context)
    llvm.attach_datalayout(lowered, machine.triple, machine.cpu, machine.features)
    if optimize:
        level = getattr(llvm, f"OPTIMIZE_{optimize}")
        llvm.optimize_module(lowered, level, machine.cpu, machine.features, [], fuse)
    return str(lowered)


def _lower(library: _Library, module: Any) -> None:
    """Everything to the llvm dialect."""
    manager = library.libtriton.ir.pass_manager(library.context)
    convert = library.libtriton.passes.convert
    convert.add_scf_to_cf(manager)
    convert.add_arith_to_llvmir(manager)
    convert.add_cf_to_llvmir(manager)
    manager.run(module, "compile for the CPU")


def _translated(llvm_ir: str, machine: Machine, fuse: bool, *, is_object: bool) -> Any:
    library = _library()
    target = (machine.triple, machine.cpu, machine.features)
    translate = library.libtriton.llvm.translate_to_asm
    return translate(llvm_ir, *target, [], fuse, is_object, *library.translate_more)


@dataclass(frozen=True)
class _Library:
    """Triton's, with the x86 target awake.

    translate_more    what this version's translate_to_asm takes beyond seven arguments: `canonicalize_gep` from 3.8 on
    """

    libtriton: Any
    context: Any
    translate_more: tuple[bool, ...]


@cache
def _library() -> _Library:
    with _lock:
        from triton._C import libtriton

        _wake_x86(str(libtriton.__file__))
        libtriton.llvm.init_targets()
        context = libtriton.ir.context()
        libtriton.ir.load_dialects(context)
        return _Library(libtriton, context, _translate_more(libtriton.llvm))


def _wake_x86(library: str) -> None:
    functions = ctypes.CDLL(library)
    for part in _TARGET_PARTS:
        try:
            getattr(functions, f"LLVMInitializeX86{part}")()
        except AttributeError:  # Triton 3.6 does not export them, and init_targets() wakes every target
            return


def _translate_more(llvm: Any) -> tuple[bool, ...]:
    for more in ((), (False,)):
        try:
            llvm.translate_to_asm(f'target triple = "{TRIPLE}"', TRIPLE, "x86-64", "", [], True, True, *more)
        except TypeError:
            continue
        return more
    raise ToolchainError("this version of Triton translates LLVM IR in a way that is not known")
