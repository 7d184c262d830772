"""The compiler of Triton's CPU backend: TTIR, MLIR, shared object."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from triton.backends.compiler import BaseBackend, GPUTarget

from . import NAME

if TYPE_CHECKING:
    from ..machine import Machine


@dataclass(frozen=True)
class CPUOptions:
    """What may be given at a launch beside the kernel's arguments.

    Of these only the ones in `_MATTER` change the code or its launches; the others are there so that kernels written
    for a GPU run as they are. Products and sums are never fused into one rounding, whatever `enable_fp_fusion` says.
    """

    debug: bool = False
    sanitize_overflow: bool = True  # with debug
    ir_override: str | None = None
    supported_fp8_dtypes: tuple[str, ...] = ("fp8e4b8", "fp8e4nv", "fp8e5", "fp8e5b16")
    deprecated_fp8_dot_operand_dtypes: tuple[str, ...] = ()
    default_dot_input_precision: str = "ieee"
    allowed_dot_input_precisions: tuple[str, ...] = ("ieee", "tf32", "tf32x3", "bf16x3", "bf16x6")  # all are ieee
    max_num_imprecise_acc_default: int = 0
    extern_libs: tuple[tuple[str, str], ...] = ()
    instrumentation_mode: str = ""
    fpsan_homomorphic_casts: bool = False
    arch: str | None = None
    backend_name: str = NAME
    enable_fp_fusion: bool = True
    warp_size: int = 1
    num_warps: int = 4
    num_ctas: int = 1
    num_stages: int = 3
    maxnreg: int | None = None
    launch_cooperative_grid: bool = False
    launch_pdl: bool = False
    waves_per_eu: int = 0
    matrix_instr_nonkdim: int = 0
    kpack: int = 1

    def hash(self) -> str:
        """The same for options that give the same code, so that a tuner's configurations share it."""
        text = repr([(name, getattr(self, name)) for name in _MATTER])
        return hashlib.sha256(text.encode()).hexdigest()


_MATTER = (
    "debug", "sanitize_overflow", "ir_override", "supported_fp8_dtypes", "default_dot_input_precision",
    "allowed_dot_input_precisions", "max_num_imprecise_acc_default", "launch_cooperative_grid",
)  # fmt: skip
_NAMES = frozenset(each.name for each in fields(CPUOptions))


class CPUBackend(BaseBackend):
    """Compiles for the CPU that a target names."""

    supports_native_tensor_specialization = False  # the code is the same for aligned and other addresses
    binary_ext = "so"

    @staticmethod
    def supports_target(target: GPUTarget) -> bool:
        return target.backend == NAME

    def hash(self) -> str:
        from .. import cache

        own = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
        return f"{cache.circumstances(self._machine())} {own}"

    def parse_options(self, options: dict[str, Any]) -> CPUOptions:
        given = {name: value for name, value in options.items() if name in _NAMES and value is not None}
        return CPUOptions(**{"arch": str(self.target.arch), **given})

    def add_stages(self, stages: dict[str, Any], options: Any, language: Any = None) -> None:
        if getattr(language, "name", "TRITON") != "TRITON":
            from ..errors import CannotCompile

            raise CannotCompile("a kernel in Gluon says what a GPU's threads do; there is no other meaning of it")
        made: dict[str, Any] = {}  # what a launcher must know, from the stage that knows it
        stages["ttir"] = _simplified
        stages["mlir"] = lambda module, metadata: self._lowered(module, metadata, made)
        stages["so"] = lambda text, metadata: self._object(text, made)

    def _lowered(self, module: Any, metadata: dict[str, Any], made: dict[str, Any]) -> str:
        from .. import compiler

        plain = module.str_nodebug()
        text, about = compiler.module(lambda lines: str(module) if lines else plain, self._machine(), disjoint=True)
        made.update(about, ttir=plain)
        metadata["name"] = module.get_entry_func_name()
        # Kernels that choose their grid by occupancy divide by it.
        metadata["shared"] = max(1, about["scratch_bytes"])
        return text

    def _object(self, mlir: str, made: dict[str, Any]) -> bytes:
        from .. import cache, compiler

        return cache.packed(compiler.linked(mlir, self._machine()), made)

    def _machine(self) -> Machine:
        from ..machine import LEVELS, Machine, host

        if not self.target.arch:  # torch.compile names none
            return host()
        cpu, plus, features = str(self.target.arch).partition("+")
        if cpu not in LEVELS:
            raise ValueError(f"a target's CPU is one of {', '.join(LEVELS)}, with +features, not {self.target.arch!r}")
        return Machine(cpu, plus + features)

    def pack_metadata(self, metadata: Any) -> tuple[()]:
        return ()

    def get_codegen_implementation(self, options: CPUOptions) -> dict[str, Any]:
        return {"min_dot_size": lambda lhs_type, rhs_type: (1, 1, 1)}

    def get_module_map(self) -> dict[str, ModuleType]:
        from triton.language.extra.cuda import libdevice  # functions by the names that the emitter knows

        return {"triton.language.extra.libdevice": libdevice}

    def load_dialects(self, context: Any) -> None:
        """Triton's own are enough."""

    @staticmethod
    def parse_attr(desc: str) -> list[Any]:
        return []  # nothing depends on what a number is divisible by

    @staticmethod
    def get_int_specialization(arg: Any, **kwargs: Any) -> Literal[""]:
        return ""

    @staticmethod
    def get_tensor_specialization(arg: Any, **kwargs: Any) -> Literal[""]:
        return ""


def _simplified(module: Any, metadata: dict[str, Any]) -> Any:
    from ...ttir import simplify

    simplify(module, module.context)
    return module


CPUBackend.__abstractmethods__ = frozenset()  # a later Triton's new ones are no reason to fail at its import
