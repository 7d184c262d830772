"""A kernel for certain types and constants: its machine code, and which form of it a launch may run.

A kernel comes in two forms. One takes it that the memory it stores to overlaps no other argument's, the other expects
that. Most launches run the first, and the second is not compiled before it is needed. The compiler is imported when
something is to be compiled: a process that finds its kernels on disk does without.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from . import cache
from .machine import Machine, host
from .native import Native

Span = tuple[int, int]
Prepared = tuple[bool, Sequence[Any]]  # does memory that is stored to overlap another argument's? and what is passed


class NotOnCPU(ValueError):
    """A tensor is elsewhere than on the CPU."""

    def __init__(self, tensor: torch.Tensor, name: str = "a tensor") -> None:
        super().__init__(f"{name} is on {tensor.device}; this target runs on CPU tensors")
        self.tensor = tensor


@dataclass
class Kernel:
    """A kernel, compiled when it is first needed.

    `source` decides what `ttir` gives: a text for the cache on disk. `ttir(lines)` is the kernel's TTIR, with the lines
    of the kernel where asked for.
    """

    name: str
    source: str
    ttir: Callable[[bool], str]
    machine: Machine = field(default_factory=host)
    forms: dict[bool, Native] = field(default_factory=dict)
    arguments: Arguments | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, values: Sequence[Any], grid: Sequence[int], threads: int | None = None) -> None:
        """Runs it. Values are tensors, addresses and numbers in the order of the parameters.

        Raises NotOnCPU, and AssertionError where `tl.device_assert` fails.
        """
        native = self.forms.get(True) or self.form(True)
        overlapping, passed = self.arguments.prepare(*values)  # type: ignore[union-attr]  # known with the form
        if overlapping:
            native = self.form(False)
        native(passed, grid, threads)

    def form(self, disjoint: bool) -> Native:
        """The machine code, for arguments that are disjoint or for any."""
        found = self.forms.get(disjoint)
        if found is None:
            with self.lock:
                found = self.forms.get(disjoint)
                if found is None:
                    variant = "" if disjoint else "overlapping"
                    kept = cache.fetch(
                        self.name, self.source, self.machine, lambda: self._compiled(disjoint), variant
                    )
                    found = self.load(disjoint, kept.code, kept.about)
        return found

    def load(self, disjoint: bool, code: bytes | Path, about: Mapping[str, Any]) -> Native:
        """Takes machine code that is compiled already."""
        if self.arguments is None:
            self.arguments = Arguments(about["arguments"], about["written"], about["read"])
        native = Native(code, about["arguments"], about["checks"], about["scratch_bytes"], about["grain"])
        self.forms[disjoint] = native
        return native

    def _compiled(self, disjoint: bool) -> tuple[bytes, dict[str, Any]]:
        from .compiler import compiled

        return compiled(self.ttir, self.machine, disjoint)


class Arguments:
    """What becomes of a launch's arguments.

    A tensor becomes its address, and its storage is what a kernel given it may touch. `prepare` is written as Python
    source for the kernel, since a loop would cost more than all else that a launch does in Python.
    """

    def __init__(self, kinds: Sequence[str], written: Sequence[int], read: Sequence[int]) -> None:
        self.pointers = [at for at, kind in enumerate(kinds) if kind == "ptr"]
        touched = sorted({*written, *read})
        self.pairs = [(a, b) for a in written for b in touched if a < b or b not in written]
        names: dict[str, Any] = {"anyhow": self.anyhow}
        exec(self._source(len(kinds)), names)
        self.prepare: Callable[..., Prepared] = names["prepare"]

    def _source(self, count: int) -> str:
        """For a kernel that stores through its second argument::

            def prepare(v0, v1, v2):
                try:
                    if not (v0.is_cpu and v1.is_cpu):
                        return anyhow(v0, v1, v2)
                    s0 = v0.untyped_storage(); a0 = s0.data_ptr()
                    s1 = v1.untyped_storage(); a1 = s1.data_ptr()
                    return (a1 < a0 + s0.nbytes() and a0 < a1 + s1.nbytes()), (v0.data_ptr(), v1.data_ptr(), v2,)
                except AttributeError:
                    return anyhow(v0, v1, v2)
        """
        values = ", ".join(f"v{at}" for at in range(count))
        here = " and ".join(f"v{at}.is_cpu" for at in self.pointers) or "True"
        places = [f"s{at} = v{at}.untyped_storage(); a{at} = s{at}.data_ptr()" for at in _both(self.pairs)]
        overlaps = [f"a{i} < a{j} + s{j}.nbytes() and a{j} < a{i} + s{i}.nbytes()" for i, j in self.pairs]
        passed = "".join(f"v{at}.data_ptr(), " if at in self.pointers else f"v{at}, " for at in range(count))
        lines = [
            f"def prepare({values}):",
            "    try:",
            f"        if not ({here}):",
            f"            return anyhow({values})",
            *(f"        {line}" for line in places),
            f"        return ({' or '.join(overlaps) or 'False'}), ({passed})",
            "    except AttributeError:",
            f"        return anyhow({values})",
        ]
        return "\n".join(lines)

    def anyhow(self, *values: Any) -> Prepared:
        """The same for addresses and for what has one, too. Nothing is known of the memory behind a bare address."""
        passed, spans = list(values), {}
        for at in self.pointers:
            value = values[at]
            tensor = value if isinstance(value, torch.Tensor) else getattr(value, "base", None)
            if isinstance(tensor, torch.Tensor):
                if not tensor.is_cpu:
                    raise NotOnCPU(tensor)
                storage = tensor.untyped_storage()
                spans[at] = storage.data_ptr(), storage.data_ptr() + storage.nbytes()
            else:
                spans[at] = 0, 1 << 64
            passed[at] = value.data_ptr() if hasattr(value, "data_ptr") else value
        return any(_meet(spans[i], spans[j]) for i, j in self.pairs), passed


def _both(pairs: Sequence[tuple[int, int]]) -> list[int]:
    return sorted({at for pair in pairs for at in pair})


def _meet(a: Span, b: Span) -> bool:
    return a[0] < b[1] and b[0] < a[1]
