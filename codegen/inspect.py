"""Kernels compiled for GPUs that need not be there: registers, spills, shared memory, and the machine code itself."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import triton
from triton.backends.amd.compiler import HIPOptions
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDAOptions
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from .ttir import in_any_thread

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}

SHARED = {"sm_80": 166_912, "sm_90": 232_448, "sm_100": 232_448, "gfx942": 65_536}  # bytes that a program can have
TENSOR_COLUMNS = 512  # of 32 bits, of an sm_100's memory for products

# what `kernel[grid](...)` takes by name for itself, so that no parameter may be called so
LAUNCH_OPTIONS = frozenset({
    "grid", "warmup", "stream", "device", "device_type",
    *CUDAOptions.__dataclass_fields__, *HIPOptions.__dataclass_fields__,
})  # fmt: skip


class CompileFailed(RuntimeError):
    """A kernel does not compile for a target: its name, the target and what the compiler said."""

    def __init__(self, kernel: str, target: str, message: str) -> None:
        super().__init__(f"{kernel} does not compile for {target}: {message}")
        self.kernel = kernel
        self.target = target


class TooLarge(CompileFailed):
    """A kernel takes more memory than a program can have."""


@dataclass(frozen=True)
class Compiled:
    """A kernel for one target: what a thread of it takes, and every form it passed through on the way.

    registers: of a thread, on AMD vector registers.
    spills: bytes that a thread's code stores because registers ran out (ptxas's "spill stores"; 4 for each vector or
        scalar register on AMD, where scalar ones that lie in vector registers are none); 0 is none.
    shared: bytes of shared memory (LDS) that a program takes.
    stack: bytes of a thread's private memory, spilled registers included.
    asm: "ttir", "ttgir", "llir", "ptx" and "cubin", or "amdgcn" and "hsaco": text, but for the last, which is bytes.
    """

    name: str
    target: str
    registers: int
    spills: int
    shared: int
    stack: int
    asm: Mapping[str, str | bytes] = field(repr=False)

    @cached_property
    def sass(self) -> str:
        """The machine code as text: SASS, or GCN assembly on AMD."""
        return _text(self.asm, "amdgcn") if "amdgcn" in self.asm else _disassemble(self.asm["cubin"])

    def instructions(self, *, modifiers: bool = True) -> Counter[str]:
        """How often each instruction stands in the code: "LDG.E.128", or "LDG" without modifiers; loops count once."""
        opcodes = _amd_opcodes(self.sass) if "amdgcn" in self.asm else _nvidia_opcodes(self.sass)
        return Counter(opcode if modifiers else opcode.partition(".")[0] for opcode in opcodes)

    def access_widths(self, kind: Literal["load", "store"] | None = None) -> Counter[int]:
        """Global loads and stores in the code, or one `kind` of them, by their width in bits."""
        access = _amd_access if "amdgcn" in self.asm else _nvidia_access
        widths: Counter[int] = Counter()
        for opcode, count in self.instructions().items():
            found = access(opcode)
            if found and kind in (None, found[0]):
                widths[found[1]] += count
        return widths


def compile_kernel(
    fn: JITFunction,
    signature: Mapping[str, str],
    constexprs: Mapping[str, object],
    target: str,
    *,
    num_warps: int,
    num_stages: int,
    divisible: frozenset[str] = frozenset(),
    options: Mapping[str, object] | None = None,
) -> Compiled:
    """A `@triton.jit` function compiled for one of TARGETS, through Triton's cache.

    signature: the Triton type of each parameter: "*fp16", "i32", "fp32", "constexpr".
    constexprs: the values of the constexpr parameters.
    divisible: the pointers and integers known to be divisible by 16.
    options: further options of Triton's backend. Multiplies and adds are fused unless `enable_fp_fusion` is False here.

    Raises CompileFailed, also for names that are not those of the parameters, and for an unknown target.
    """
    if target not in TARGETS:
        raise CompileFailed(fn.__name__, target, f"the targets are {', '.join(TARGETS)}")
    strange = {*signature, *constexprs, *divisible} - set(fn.arg_names)
    if strange:
        raise CompileFailed(fn.__name__, target, f"it has no parameter {', '.join(sorted(strange))}")
    typed = {name: kind for name, kind in signature.items() if kind != "constexpr"}
    constants = {p.name: p.default for p in fn.params if p.has_default and p.name not in typed} | dict(constexprs)
    untyped = [name for name in fn.arg_names if name not in typed and name not in constants]
    if untyped:
        raise CompileFailed(fn.__name__, target, f"no type or value is given for {', '.join(untyped)}")
    declared = {name: "constexpr" if name in constants else typed[name] for name in fn.arg_names}
    attributes = {(fn.arg_names.index(name),): [["tt.divisibility", 16]] for name in divisible - constants.keys()}
    settings = {"enable_fp_fusion": True, **(options or {}), "num_warps": num_warps, "num_stages": num_stages}
    try:
        source = ASTSource(fn, declared, constants, attributes)
        compiled = in_any_thread(lambda: triton.compile(source, target=TARGETS[target], options=settings))
    except Exception as error:
        raise CompileFailed(fn.__name__, target, str(error) or repr(error)) from error
    _check_memory(fn.__name__, target, compiled.metadata)
    asm = {stage: compiled.asm[stage] for stage in compiled.asm if stage != "source"}
    usage = _amd_usage(_text(asm, "amdgcn")) if "amdgcn" in asm else _nvidia_usage(fn.__name__, asm)
    return Compiled(fn.__name__, target, *usage[:2], compiled.metadata.shared, usage[2], asm)


def _text(asm: Mapping[str, str | bytes], stage: str) -> str:
    text = asm[stage]
    assert isinstance(text, str), f"{stage} is not text"
    return text


# NVIDIA: the tools in the Triton wheel read the cubin.


def _tool(name: str, *arguments: str, cubin: str | bytes) -> str:
    assert isinstance(cubin, bytes)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([tool, *arguments, file.name], capture_output=True, text=True, check=True).stdout


def _disassemble(cubin: str | bytes) -> str:
    return _tool("nvdisasm", "-c", cubin=cubin)


def _check_memory(name: str, target: str, metadata: Any) -> None:
    """Raises TooLarge for a kernel that no GPU of this kind can launch."""
    if metadata.shared > SHARED[target]:
        rule = f"it takes {metadata.shared:,} bytes of shared memory of {SHARED[target]:,}"
        raise TooLarge(name, target, rule)
    if (getattr(metadata, "tmem_size", None) or 0) > TENSOR_COLUMNS:
        raise TooLarge(name, target, f"it takes {metadata.tmem_size} columns of tensor memory of {TENSOR_COLUMNS}")


def _nvidia_usage(kernel: str, asm: Mapping[str, str | bytes]) -> tuple[int, int, int]:
    """(registers, bytes spilled, stack)"""
    usage = _tool("cuobjdump", "-res-usage", cubin=asm["cubin"])
    match = re.search(rf"Function {re.escape(kernel)}:\s+REG:(\d+) STACK:(\d+)", usage)
    assert match, usage
    registers, stack = int(match[1]), int(match[2])
    # What the PTX itself keeps in local memory is no spill, nor is a stack that nothing is stored to.
    arrays = sum(map(int, re.findall(r"\.local .*\[(\d+)\];", _text(asm, "ptx"))))
    arrays = (arrays + 15) & ~15  # a frame is aligned
    if arrays or not stack:
        return registers, max(stack - arrays, 0), stack
    stored = [opcode for opcode in _nvidia_opcodes(_disassemble(asm["cubin"])) if opcode.startswith("STL")]
    return registers, sum(_nvidia_width(opcode) // 8 for opcode in stored), stack


def _nvidia_opcodes(sass: str) -> list[str]:
    opcodes = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", sass)
    while opcodes and opcodes[-1] == "NOP":  # padding
        opcodes.pop()
    return opcodes


_NVIDIA_ACCESSES = {"LDG": "load", "LD": "load", "LDGSTS": "load", "STG": "store", "ST": "store"}


def _nvidia_access(opcode: str) -> tuple[str, int] | None:
    kind = _NVIDIA_ACCESSES.get(opcode.partition(".")[0])
    return (kind, _nvidia_width(opcode)) if kind else None


def _nvidia_width(opcode: str) -> int:
    """LDG.E.128.CONSTANT -> 128, LDG.E.U16 -> 16, LDG.E -> 32"""
    widths = {"256": 256, "128": 128, "64": 64, "U16": 16, "S16": 16, "U8": 8, "S8": 8}
    return next((widths[part] for part in opcode.split(".") if part in widths), 32)


# AMD: everything stands in the assembly.


def _amd_usage(amdgcn: str) -> tuple[int, int, int]:
    """(vector registers, bytes spilled, stack)"""

    def value(key: str) -> int:
        match = re.search(rf"^\s+(?:- )?\.{key}:\s+(\d+)$", amdgcn, flags=re.M)
        assert match, f"no {key} in the metadata"
        return int(match[1])

    stack = value("private_segment_fixed_size")
    spilled = value("vgpr_spill_count") + value("sgpr_spill_count") if stack else 0
    return value("vgpr_count"), 4 * spilled, stack


def _amd_opcodes(amdgcn: str) -> list[str]:
    return re.findall(r"^\t([a-z]+_\w+)", amdgcn, flags=re.M)


_AMD_WIDTHS = {"dwordx4": 128, "dwordx3": 96, "dwordx2": 64, "dword": 32, "short": 16, "byte": 8}
_AMD_ACCESS = re.compile(
    rf"(?:global|buffer|flat)_(load|store)_(?:lds_)?[us]?({'|'.join(_AMD_WIDTHS)})(?:_d16)?(?:_hi)?"
)


def _amd_access(opcode: str) -> tuple[str, int] | None:
    match = _AMD_ACCESS.fullmatch(opcode)
    return (match[1], _AMD_WIDTHS[match[2]]) if match else None
