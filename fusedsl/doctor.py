"""What `fusedsl doctor` looks at: each check says what it found, or raises with what is broken."""

from __future__ import annotations

import platform
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

LEAST_PYTHON, LEAST_TORCH = (3, 11), (2, 6)
TRITONS = ((3, 6), (3, 9))  # the oldest and the newest that are tested
TOOLS = ("ptxas", "nvdisasm")  # newer triton wheels have a ptxas of its own for Blackwell besides


class Broken(Exception):
    """What is wrong, and what to do."""


@dataclass(frozen=True)
class Finding:
    """One check's outcome."""

    name: str
    is_fine: bool
    detail: str


def findings() -> Iterator[Finding]:
    """The outcome of every check, as soon as it is known."""
    for name, check in CHECKS.items():
        try:
            yield Finding(name, True, check())
        except Exception as error:  # whatever breaks is what a doctor is there to tell
            yield Finding(name, False, " ".join(f"{_kind(error)}{error}".split()))


def _kind(error: Exception) -> str:
    return "" if isinstance(error, Broken) else f"{type(error).__name__}: "


def python() -> str:
    found = platform.python_version()
    if _version(found) < LEAST_PYTHON:
        raise Broken(f"{found}; at least {_dotted(LEAST_PYTHON)} is needed")
    return found


def torch() -> str:
    from torch import __version__

    if _version(__version__) < LEAST_TORCH:
        raise Broken(f"{__version__}; at least {_dotted(LEAST_TORCH)} is needed")
    return __version__


def triton() -> str:
    from triton import __version__

    oldest, newest = TRITONS
    if not oldest <= _version(__version__) <= newest:
        raise Broken(f"{__version__}; {_dotted(oldest)} to {_dotted(newest)} is needed")
    return __version__


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def devices() -> str:
    from torch import cuda

    found = [f"{cuda.get_device_name(at)} (cuda:{at})" for at in range(cuda.device_count())]
    return ", ".join([*found, "CPU"])


def tools() -> str:
    import triton.backends.nvidia as nvidia

    folder = Path(nvidia.__path__[0]) / "bin"
    missing = [tool for tool in TOOLS if not (folder / tool).is_file()]
    if missing:
        raise Broken(f"no {' and no '.join(missing)} in {folder}; install triton from its wheel")
    return ", ".join(TOOLS)


def _compiles(target: str) -> Callable[[], str]:
    def check() -> str:
        from .stages import needs

        (kernel,) = _sample("meta").compile(target)
        return needs(kernel).partition(": ")[2]

    return check


def cpu_target() -> str:
    from .codegen.cpu.native import works

    return works()


def runs_on_cpu() -> str:
    return _run("cpu")


def runs_on_gpu() -> str:
    from torch import cuda

    return _run("cuda") if cuda.is_available() else "no GPU to run on"


def _run(device: str) -> str:
    """Compares a fused function with what torch gives."""
    from torch import allclose, randn

    from .api import fuse

    x = randn(5, 300, device=device)
    if not allclose(fuse(_softmax)(x), _softmax(x), atol=1e-6):
        raise Broken("the result is wrong")
    return "the result is right"


def _sample(device: str):
    from torch import empty

    from .api import fuse

    return fuse(_softmax).plan(empty(5, 300, device=device))


def _softmax(x):
    from torch import softmax

    return softmax(x * 2, -1)


def cache() -> str:
    from .options import Options

    folder = Options.from_env().cache_dir
    probe = folder / f"probe-{uuid.uuid4().hex}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise Broken(f"{error}; set FUSEDSL_CACHE_DIR to a folder that can be written") from error
    return str(folder)


CHECKS: dict[str, Callable[[], str]] = {
    "Python": python,
    "torch": torch,
    "triton": triton,
    "devices": devices,
    "tools": tools,
    "cache": cache,
    **{f"compile for {target}": _compiles(target) for target in ("sm_80", "sm_90", "sm_100", "gfx942")},
    "CPU target": cpu_target,
    "run on the CPU": runs_on_cpu,
    "run on the GPU": runs_on_gpu,
}
