"""Compiled kernels on disk: one file each, which the loader can open as it is.

A file is the shared object and behind it, where the loader does not look, a JSON text about it, the lengths of both and
a checksum. Its name has the hash of all that decides the code. Files are written beside their place and renamed into
it, and one whose checksum is wrong counts as absent.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import struct
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ...options import Options
from .machine import Machine, identity

_FORMAT = b"fusedsl1"
_FOOTER = struct.Struct("<QQ32s8s")  # bytes of the object, bytes of the JSON text, checksum, format


@dataclass(frozen=True)
class Object:
    """A compiled kernel: its code, or the file of it, and what the one who made it wrote down about it."""

    code: bytes | Path
    about: Mapping[str, Any]


def fetch(
    name: str, source: str, machine: Machine, make: Callable[[], tuple[bytes, Mapping[str, Any]]], variant: str = ""
) -> Object:
    """The kernel on disk, or the one that `make` gives, which is kept if it can be.

    `source` is a text that, with the machine and the variant, decides the code: a kernel's TTIR or what that is made
    from. `about` must be what JSON can hold.
    """
    path = path_of(name, source, machine, variant)
    about = _about(path)
    if about is not None:
        return Object(path, about)
    code, made = make()
    content = packed(code, made)
    about = unpacked(content)
    assert about is not None, path
    try:
        write_atomically(path, content)
    except OSError:
        return Object(code, about)
    return Object(path, about)


def packed(code: bytes, about: Mapping[str, Any]) -> bytes:
    """The content of a file."""
    text = json.dumps(about, sort_keys=True).encode()
    return code + text + _FOOTER.pack(len(code), len(text), _checksum(code + text), _FORMAT)


def unpacked(content: bytes) -> dict[str, Any] | None:
    """What is written about the object in a file with this content, if that is whole."""
    try:
        code_size, about_size, checksum, form = _FOOTER.unpack(content[-_FOOTER.size :])
    except struct.error:
        return None
    body = content[: -_FOOTER.size]
    if form != _FORMAT or len(body) != code_size + about_size or _checksum(body) != checksum:
        return None
    return json.loads(body[code_size:])


def path_of(name: str, source: str, machine: Machine, variant: str = "") -> Path:
    """Where a kernel's code is kept."""
    digest = hashlib.sha256()
    for part in (source, variant, circumstances(machine)):
        digest.update(f"{len(part)} {part}".encode())
    return Options.from_env().cache_dir / "cpu" / f"{name[:80]}_{digest.hexdigest()[:32]}.so"


def circumstances(machine: Machine) -> str:
    """What decides the code of a kernel beside its source."""
    return f"{identity(machine)} {_compiler()}"


def _about(path: Path) -> dict[str, Any] | None:
    """What is written about the object in a file, if the file is there and whole."""
    try:
        return unpacked(path.read_bytes())
    except OSError:
        return None


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()


@cache
def _compiler() -> str:
    """What tells apart compilers that give different code: the texts of these modules, and Triton's version."""
    here = Path(__file__).parent
    digest = hashlib.sha256(triton_version().encode())
    for file in (here.parent / "ttir.py", *sorted(here.glob("*.py"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def triton_version() -> str:
    """The version of Triton, without importing it."""
    found = importlib.util.find_spec("triton")
    assert found is not None and found.origin is not None, "Triton is not installed"
    version = re.search(r"__version__\s*=\s*['\"]([^'\"]+)", Path(found.origin).read_text())
    assert version is not None, f"no version in {found.origin}"
    return version[1]


def write_atomically(path: Path, content: bytes) -> None:
    """The file with this content, readable by its owner only, whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
