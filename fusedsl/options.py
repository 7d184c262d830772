"""Options: typed, frozen, few; the environment is read once. And the one debug ladder.

`FUSEDSL_DEBUG` is a number; each rung prints, to stderr, what the rungs below it print, and::

    1  the passes and their times
    2  the graph between passes
    3  the rules that fired
    4  the Triton source
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path

from .errors import BadOption


class Rung(IntEnum):
    """A step of the debug ladder."""

    SILENT = 0
    PASSES = 1
    GRAPHS = 2
    RULES = 3
    SOURCE = 4


NUMERICS = ("default", "eager")
CPU_TARGETS = ("cpu", "interpret")


@dataclass(frozen=True)
class Options:
    """What can be chosen about a compilation.

    debug      how far up the ladder to print
    cache_dir  where compiled kernels are kept between runs
    numerics   "default": half precision is computed in f32 and rounded where a kernel stores it or a dot reads it;
               "eager": rounded after every op, as eager does
    cpu        what runs kernels on CPU tensors, "cpu": machine code, "interpret": numpy, which checks every access
    fork       whether kernels for the CPU are compiled in a child process, which a compiler's crash cannot leave
    """

    debug: Rung = Rung.SILENT
    cache_dir: Path = Path.home() / ".cache" / "fusedsl"
    numerics: str = "default"
    cpu: str = "cpu"
    fork: bool = False

    def __post_init__(self) -> None:
        if self.numerics not in NUMERICS:
            raise BadOption(name="numerics", rule=f"one of {', '.join(NUMERICS)}", got=repr(self.numerics))
        if self.cpu not in CPU_TARGETS:
            raise BadOption(name="cpu", rule=f"one of {', '.join(CPU_TARGETS)}", got=repr(self.cpu))

    @staticmethod
    @cache
    def from_env() -> Options:
        """The options that the environment sets; it is read on the first call only."""
        return Options.read(os.environ)

    @staticmethod
    def read(environ: Mapping[str, str]) -> Options:
        """The options in FUSEDSL_DEBUG, FUSEDSL_CACHE_DIR, FUSEDSL_NUMERICS, FUSEDSL_CPU and
        FUSEDSL_CPU_FORK. Raises BadOption."""
        home = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return Options(
            debug=_rung(environ.get("FUSEDSL_DEBUG") or "0"),
            cache_dir=Path(environ.get("FUSEDSL_CACHE_DIR") or home / "fusedsl"),
            numerics=environ.get("FUSEDSL_NUMERICS") or "default",
            cpu=environ.get("FUSEDSL_CPU") or "cpu",
            fork=(environ.get("FUSEDSL_CPU_FORK") or "0") != "0",
        )


def _rung(text: str) -> Rung:
    try:
        return Rung(int(text))
    except ValueError:
        raise BadOption(name="FUSEDSL_DEBUG", rule="a number from 0 to 4", got=repr(text)) from None


def say(rung: Rung, text: Callable[[], str]) -> None:
    """Prints to stderr what belongs on a rung of the ladder, if FUSEDSL_DEBUG stands that high."""
    if Options.from_env().debug >= rung:
        print(text(), file=sys.stderr)
