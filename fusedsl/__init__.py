"""A kernel-fusion DSL: plain torch functions become single Triton kernels that move each byte once. ::

    import torch
    from fusedsl import fuse

    @fuse
    def add_rms_norm(x, residual, weight, eps=1e-6):
        h = x + residual
        return h, h * torch.rsqrt((h * h).mean(-1, keepdim=True) + eps) * weight

Importing it is quick: torch and Triton are imported with the first name that needs them.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import ops as ops
    from . import testing as testing
    from .api import Fused as Fused
    from .api import fuse as fuse
    from .checkpoints import load_checkpoint as load_checkpoint
    from .errors import FuseError as FuseError
    from .kivi import KIVICache as KIVICache
    from .ops import indices as indices
    from .ops import quantize as quantize
    from .packed import Packed as Packed
    from .packed import pack as pack
    from .packed import pack_codes as pack_codes
    from .packfile import load_file as load_file
    from .packfile import save_file as save_file
    from .plan import Plan as Plan
    from .plan import PlannedKernel as PlannedKernel
    from .types import DType as DType
    from .types import bf16 as bf16
    from .types import bool_ as bool_
    from .types import dtype as dtype
    from .types import f8e4m3 as f8e4m3
    from .types import f8e5m2 as f8e5m2
    from .types import f16 as f16
    from .types import f32 as f32
    from .types import f64 as f64
    from .types import i8 as i8
    from .types import i16 as i16
    from .types import i32 as i32
    from .types import i64 as i64
    from .types import u8 as u8
    from .types import u16 as u16
    from .types import u32 as u32
    from .types import u64 as u64

__version__ = "0.1.0"

# ops/ and codegen/ are folders at the top of the repository, and links here.
for _link in ("ops", "codegen"):
    if not Path(__file__).with_name(_link).is_dir():
        raise ImportError(
            f"fusedsl/{_link} should be a link to ../{_link}, but it did not arrive as one. In a git checkout: "
            f"`git config core.symlinks true && git checkout -- fusedsl/{_link}`. In an unpacked archive: remove "
            f"fusedsl/{_link} and copy the folder {_link} in its place. Or install the package: `pip install fusedsl`."
        )

_DTYPES = "f64 f32 bf16 f16 f8e4m3 f8e5m2 i8 i16 i32 i64 u8 u16 u32 u64 bool_"
_HOME = {
    "fuse": "api", "Fused": "api", "FuseError": "errors", "indices": "ops", "Plan": "plan", "PlannedKernel": "plan",
    "pack": "packed", "pack_codes": "packed", "Packed": "packed", "load_file": "packfile", "save_file": "packfile",
    "quantize": "ops", "load_checkpoint": "checkpoints", "KIVICache": "kivi",
    "DType": "types", "dtype": "types", **dict.fromkeys(_DTYPES.split(), "types"),
}  # fmt: skip
_MODULES = ("codegen", "ops", "testing")


def __getattr__(name: str) -> Any:
    """A name of the interface, imported when it is first asked for."""
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted(["__version__", *_HOME, *_MODULES])
