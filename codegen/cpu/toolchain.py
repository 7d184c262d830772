"""From MLIR text to a shared object, with the LLVM and the linker inside the triton wheel.

Triton's library has everything a C compiler's back end has: the MLIR dialects `arith`, `cf`, `scf` and `llvm`, LLVM
with its x86 target, and lld. What it has to say goes to the process's stderr, and a mistake that no verifier finds ends
the process. So a compilation that fails is repeated in a forked child, where the report can be read; and tests may
compile in such a child from the start.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import pickle
import re
import select
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .machine import TRIPLE, Machine

OPTIMIZE = ("", "O0", "O1", "O2", "O3")
_TARGET_PARTS = ("TargetInfo", "Target", "TargetMC", "AsmPrinter", "AsmParser")
_CHILD_SECONDS = 120.0
_PLACE = re.compile(r'loc\("[^"]*\.mlir":(\d+):\d+\): ')

_lock = threading.RLock()  # the MLIR context is one thread's at a time, and a child must find nobody inside LLVM


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
    try:
        return in_child(step, mlir, machine, optimize, fuse)
    except ToolchainError as error:
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


def in_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns in a forked child. Raises ToolchainError with what it printed if it fails or crashes.

    The child runs nothing but the function: no exit handlers, and no other thread.
    """
    _library()  # loaded once, not in every child
    with _lock, tempfile.TemporaryFile() as report:
        out, into = os.pipe()
        child = os.fork()
        if child == 0:
            _run_child(function, arguments, into, report.fileno())
        os.close(into)
        answer = _read_to_end(out, child)
        status = os.waitpid(child, 0)[1]
        report.seek(0)
        said = report.read().decode(errors="replace").strip()
    if answer is None:
        raise ToolchainError(f"the compiler did not end in {_CHILD_SECONDS:.0f} seconds\n{said}".rstrip())
    if os.WIFSIGNALED(status):
        raise ToolchainError(f"the compiler ended with {signal.Signals(os.WTERMSIG(status)).name}\n{said}".rstrip())
    if os.WEXITSTATUS(status) or not answer:
        raise ToolchainError(said or f"the compiler ended with status {os.WEXITSTATUS(status)}")
    return pickle.loads(answer)


def _run_child(function: Callable[..., Any], arguments: tuple[Any, ...], into: int, report: int) -> None:
    status = 1
    try:
        faulthandler.disable()  # a crash here is the parent's to tell
        os.dup2(report, 2)
        answer = pickle.dumps(function(*arguments))
        with os.fdopen(into, "wb") as pipe:
            pipe.write(answer)
        status = 0
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(status)


def _read_to_end(out: int, child: int) -> bytes | None:
    """What the child writes to the pipe until it ends; a child that takes too long is killed and gives None."""
    parts, deadline = [], time.monotonic() + _CHILD_SECONDS
    with os.fdopen(out, "rb", buffering=0) as pipe:
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            part = pipe.read(1 << 16)
            if not part:
                return b"".join(parts)
            parts.append(part)
    os.kill(child, signal.SIGKILL)
    return None
