"""From Triton source to a function: modules on disk, functions in memory, and the target of a device.

A kernel's source is kept as a module in the user's cache directory under the hash of its text. Files are written beside
their place and renamed into it, so a kill leaves either the whole file or none, and any number of processes may
share them; a file whose text is not what its name says is written again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .codegen.cpu import cache
from .codegen.expr import CARRIED
from .errors import UnsupportedDevice
from .options import Options
from .types import dtype


@dataclass
class Counters:
    """What this process has done, for tests and the curious."""

    traces: int = 0
    kernels: int = 0  # sources turned into functions
    written: int = 0  # of these, not found on disk
    launches: int = 0


counters = Counters()
_functions: dict[str, Any] = {}
_lock = threading.Lock()


def load(source: str, name: str) -> Any:
    """The @triton.jit function of that name in a kernel's source."""
    key = hashlib.sha256(code_of(source).encode()).hexdigest()[:32]
    with _lock:
        if key not in _functions:
            module = _import(_file_of(source, key, name), f"fusedsl_kernel_{key}")
            _functions[key] = getattr(module, name)
            counters.kernels += 1
        return _functions[key]


def _file_of(source: str, key: str, name: str) -> Path:
    folder = Options.from_env().cache_dir / "kernels"
    path = folder / f"{name}_{key}.py"
    if code_of(_text(path) or "") != code_of(source):
        write_atomically(path, source)
        counters.written += 1
    return path


def code_of(source: str) -> str:
    """A kernel's source without the users' lines beside it: those may move while the kernel stays."""
    return "\n".join(line.split("  # ", 1)[0].rstrip() for line in source.splitlines())


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def write_atomically(path: Path, text: str) -> None:
    """The file with this text, readable by its owner only, whole or not at all."""
    cache.write_atomically(path, text.encode())


def _import(path: Path, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, f"no module at {path}"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def target_of(device: torch.device) -> str:
    """The name of the target that runs tensors of a device."""
    if device.type == "cpu":
        return Options.from_env().cpu
    if device.type == "cuda":
        if torch.version.hip:
            return torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
        major, minor = torch.cuda.get_device_capability(device)
        return f"sm_{major}{minor}"
    raise UnsupportedDevice(op="launch", rule="tensors must be on a CUDA or ROCm GPU or on the CPU", got=str(device),
                            hint="Move them with .to(device); a meta tensor can be planned, not run.")  # fmt: skip


def carried(value: Any) -> Any:
    """A tensor as the kernel takes it: types that not every target knows are passed as bits."""
    if isinstance(value, torch.Tensor) and dtype(value.dtype).name in CARRIED:
        return value.view(torch.uint8)
    return value
