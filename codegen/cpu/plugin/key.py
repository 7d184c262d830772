"""Triton's cache key, remembered between processes.

Whatever Triton compiles, or finds compiled, has the hash of Triton's own files in its key: in each process half a
gigabyte is read for it, which takes longer than anything else that a first launch does. Here the key is kept in a file
whose name says which files it was made from: their paths, sizes, times and inodes.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

from triton.runtime import autotuner, cache

from ....options import Options
from ..cache import write_atomically

_HASHED = ("backends", "compiler", "language")  # folders of modules; a file too many does no harm
_MARK = "remembers"  # an attribute of the function that is installed


def remember() -> None:
    """From here on `triton_key()` gives what it always gave, sooner. Kernels keep their places in Triton's cache."""
    original = getattr(cache, "triton_key", None)
    if original is None or hasattr(original, _MARK):
        return

    @functools.lru_cache
    @functools.wraps(original)
    def triton_key() -> str:
        return _remembered(original)

    setattr(triton_key, _MARK, True)
    for module in (cache, autotuner):
        if getattr(module, "triton_key", None) is original:
            vars(module)["triton_key"] = triton_key


def _remembered(original: Callable[[], str]) -> str:
    path = Options.from_env().cache_dir / "cpu" / f"triton-key_{_state()}.txt"
    try:
        kept = path.read_text()
    except OSError:
        kept = ""
    if re.fullmatch(r"[\w.+]+(-[0-9a-f]{64})+", kept):
        return kept
    key = original()
    with contextlib.suppress(OSError):  # where nothing can be written, each process makes it anew
        write_atomically(path, key.encode())
    return key


def _state() -> str:
    """Changes with the files that the key is made from."""
    digest = hashlib.sha256()
    for path in _files(Path(cache.__file__).parent.parent):
        at = os.stat(path)
        digest.update(f"{path} {at.st_size} {at.st_mtime_ns} {at.st_ctime_ns} {at.st_ino}\n".encode())
    return digest.hexdigest()[:32]


def _files(triton: Path) -> Iterator[str]:
    suffix = str(sysconfig.get_config_var("EXT_SUFFIX")).split(".")[-1]
    yield from (str(triton / "__init__.py"), cache.__file__, str(triton / "_C" / f"libtriton.{suffix}"))
    for name in _HASHED:
        for folder, folders, files in os.walk(triton / name, followlinks=True):
            folders.sort()
            yield from (os.path.join(folder, file) for file in sorted(files) if file.endswith(".py"))
