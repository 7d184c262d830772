"""Kernels compiled for GPUs that need not be there: registers, spills, shared memory, and the machine code itself."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
_BIN = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin")


class CompileFailed(RuntimeError):
    """A kernel does not compile for a target: its name, the target and what the compiler said."""


@dataclass(frozen=True)
class Compiled:
    """A kernel's machine code and what it takes. registers: a thread's. spills: bytes of a thread's registers that live in
    memory, 0 for none. shared: bytes of shared memory (LDS) a program takes. stack: bytes of a thread's stack."""

    name: str
    target: str
    registers: int
    spills: int
    shared: int
    stack: int
    asm: Mapping[str, Any] = field(repr=False)

    @cached_property
    def sass(self) -> str:
        """The machine code as text: SASS, or GCN assembly on AMD."""
        return self.asm["amdgcn"] if "amdgcn" in self.asm else _nvdisasm(self.asm["cubin"])

    def instructions(self) -> Counter[str]:
        """How often each instruction stands in the code."""
        return Counter(_opcodes(self.sass, "amdgcn" in self.asm))

    def access_widths(self) -> Counter[int]:
        """Global loads and stores in the code by their width in bits."""
        widths: Counter[int] = Counter()
        for opcode, count in self.instructions().items():
            width = _amd_width(opcode) if "amdgcn" in self.asm else _nvidia_width(opcode)
            if width:
                widths[width] += count
        return widths


def compile_kernel(
    fn: Any,
    signature: Mapping[str, str],
    constexprs: Mapping[str, Any],
    target: str,
    *,
    num_warps: int,
    num_stages: int = 1,
    divisible: frozenset[str] = frozenset(),
    options: Mapping[str, Any] | None = None,
) -> Compiled:
    """A @triton.jit function compiled for a target. signature: Triton types by parameter ("*fp16", "i32", "constexpr");
    divisible: the parameters known to be divisible by 16.

    Raises CompileFailed."""
    at = {name: i for i, name in enumerate(fn.arg_names)}
    source = ASTSource(
        fn,
        signature=dict(signature),
        constexprs={(at[name],): value for name, value in constexprs.items()},
        attrs={(at[name],): [["tt.divisibility", 16]] for name in divisible},
    )
    settings = {"num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": True, **(options or {})}
    try:
        compiled = triton.compile(source, target=TARGETS[target], options=settings)
    except Exception as error:
        raise CompileFailed(f"{fn.__name__} does not compile for {target}: {error}") from error
    asm = {stage: compiled.asm[stage] for stage in compiled.asm}
    shared = compiled.metadata.shared
    usage = _amd_usage(asm["amdgcn"]) if "amdgcn" in asm else _nvidia_usage(asm["cubin"])
    return Compiled(fn.__name__, target, *usage[:2], shared, usage[2], asm)


def _tool(name: str, *arguments: str, cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([os.path.join(_BIN, name), *arguments, file.name], capture_output=True, text=True, check=True)
        return done.stdout + done.stderr


def _nvdisasm(cubin: bytes) -> str:
    return _tool("nvdisasm", "-c", cubin=cubin)


def _nvidia_usage(cubin: bytes) -> tuple[int, int, int]:
    """(registers, bytes spilled, stack). A stack alone is no spill: barriers and calls take one. Spilled registers show as
    stores to local memory."""
    text = _tool("cuobjdump", "-res-usage", cubin=cubin)
    found = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    stored = sum(4 for opcode in _opcodes(_nvdisasm(cubin), amd=False) if opcode.startswith("STL"))
    return found["REG"], found["LOCAL"] + stored, found["STACK"]


def _amd_usage(text: str) -> tuple[int, int, int]:
    def value(key: str) -> int:
        match = re.search(rf"\.{key}:\s+(\d+)", text)
        return int(match[1]) if match else 0

    scratch = value("private_segment_fixed_size")
    return value("vgpr_count"), 4 * (value("vgpr_spill_count") + value("sgpr_spill_count")) + scratch, scratch


def _opcodes(text: str, amd: bool) -> list[str]:
    if amd:
        return re.findall(r"^\s+([a-z]+_[a-z0-9_]+)\s", text, flags=re.M)
    return re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)", text)


def _nvidia_width(opcode: str) -> int:
    if not opcode.startswith(("LDG", "STG")):
        return 0
    match = re.search(r"\.(64|128|256)(\.|$)", opcode)
    small = re.search(r"\.[US](8|16)(\.|$)", opcode)
    return int(match[1]) if match else int(small[1]) if small else 32


def _amd_width(opcode: str) -> int:
    match = re.fullmatch(r"(?:global|buffer)_(?:load|store)_(.+?)(?:_d16.*)?", opcode)
    if not match:
        return 0
    kind = match[1]
    for name, width in (("dwordx4", 128), ("dwordx3", 96), ("dwordx2", 64), ("dword", 32), ("short", 16), ("byte", 8)):
        if name in kind:
            return width
    return 0
