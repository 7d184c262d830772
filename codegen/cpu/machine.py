"""The CPU that kernels are compiled for: this computer's, or another one to look at its code.

A CPU is named by its x86-64 level (x86-64, -v2, -v3, -v4) and the features beside it that matter to kernels, never by
its maker's name: the same level gives the same code on every computer, and a name that LLVM does not know would end
the process.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ...errors import UnsupportedDevice

TRIPLE = "x86_64-unknown-linux-gnu"

# What a level adds to the one before it, as /proc/cpuinfo spells it.
LEVELS = {
    "x86-64": (),
    "x86-64-v2": ("cx16", "lahf_lm", "popcnt", "pni", "ssse3", "sse4_1", "sse4_2"),
    "x86-64-v3": ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"),
    "x86-64-v4": ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
}

# Beside a level: as /proc/cpuinfo spells it, and as LLVM does. Not avx512_bf16: its conversion makes denormals zero.
FEATURES = {
    "avx": "avx",
    "avx2": "avx2",
    "f16c": "f16c",
    "fma": "fma",
    "avx_vnni": "avxvnni",
    "avx512_vnni": "avx512vnni",
    "avx512vbmi": "avx512vbmi",
    "avx512_vbmi2": "avx512vbmi2",
}


@dataclass(frozen=True)
class Machine:
    """A CPU as LLVM is told of it."""

    cpu: str = "x86-64"
    features: str = ""  # as in "+fma,+f16c"; those that the level brings need not be there
    triple: str = TRIPLE

    def has(self, feature: str) -> bool:
        """Whether it has a feature of the table above, by LLVM's name."""
        return f"+{feature}" in self.features.split(",") or feature in _OF_LEVEL[self.cpu]

    @property
    def lanes(self) -> int:
        """f32 values in a native register."""
        return 16 if self.cpu == "x86-64-v4" else 8 if self.has("avx2") else 4

    @property
    def scales(self) -> bool:
        """Whether an instruction multiplies by a power of two that may be any: those of AVX-512."""
        return self.cpu == "x86-64-v4"

    @property
    def has_fma(self) -> bool:
        return self.has("fma")

    @property
    def has_f16c(self) -> bool:
        return self.has("f16c")


_OF_LEVEL = {
    level: {name for flag, name in FEATURES.items() if any(flag in LEVELS[lower] for lower in list(LEVELS)[: at + 1])}
    for at, level in enumerate(LEVELS)
}

PLAIN = Machine("x86-64")
AVX2 = Machine("x86-64-v3")
AVX512 = Machine("x86-64-v4")


def identity(machine: Machine) -> str:
    """What tells machines apart whose code differs."""
    return f"{machine.triple} {machine.cpu} {machine.features}"


@cache
def host() -> Machine:
    """This computer's CPU. Raises UnsupportedDevice where kernels cannot be compiled for it."""
    system, architecture = sys.platform, platform.machine()
    if system != "linux" or architecture not in ("x86_64", "AMD64"):
        raise UnsupportedDevice(op="compile for the CPU", rule="needs x86-64 Linux", got=f"{architecture} {system}",
                                hint='Ask for target="interpret", which runs kernels in torch ops.')  # fmt: skip
    return of_flags(_flags())


def of_flags(flags: set[str]) -> Machine:
    """The machine with these flags, as /proc/cpuinfo spells them."""
    level, levels = "x86-64", list(LEVELS)
    for name in levels:
        if not flags.issuperset(LEVELS[name]):
            break
        level = name
    beside = [f"+{name}" for flag, name in FEATURES.items() if flag in flags and name not in _OF_LEVEL[level]]
    return Machine(level, ",".join(beside))


def _flags() -> set[str]:
    """The features that this computer's first CPU has and the system lets programs use."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return set(value.split())
    return set()
