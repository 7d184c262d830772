"""Launches of `@triton.jit` kernels on CPU tensors: from arguments to a kernel compiled for their types and the values
of its constants."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import triton.language as tl
from triton.runtime.jit import JITFunction

from ..binding import bind, signature_of
from ..ttir import ttir_of
from .errors import CannotCompile
from .kernel import Kernel

__all__ = ["CannotCompile", "Kernel", "kernel_of", "launch"]


def launch(
    fn: JITFunction, grid: tuple[int, ...], args: Mapping[str, object], *,
    signature: Mapping[str, str] | None = None, threads: int | None = None,
) -> None:  # fmt: skip
    """Run every program of `grid`, of one to three numbers, on CPU tensors, natively, on torch's threads or so many.

    `args` holds the arguments by parameter name: CPU tensors of any strides (the kernel receives their address), ints,
    floats, bools, None, and the values of the constexpr parameters. Integers are typed as Triton's launcher types them
    unless `signature` gives a type such as `{"n": "i64"}`. Accesses are not checked.

    Raises TypeError for arguments that do not fit the parameters, ValueError for a tensor elsewhere than on the CPU,
    AssertionError where `tl.device_assert` fails, CannotCompile for an operation that the target lacks, and whatever
    Triton's front end raises for a kernel it rejects.
    """
    if not isinstance(fn, JITFunction):
        raise TypeError(
            f"launch takes a @triton.jit function, not {fn!r}: give its `.fn`, with what the decorators around it "
            "would choose, or launch it as kernel[grid](...)"
        )
    if not isinstance(grid, Sequence) or not 1 <= len(grid) <= 3:
        raise TypeError(f"a grid is one to three numbers, not {grid!r}")
    bound = bind(fn, args)
    text = signature_of(fn, bound, signature)
    kernel = kernel_of(fn, text, {name: value for name, value in bound.items() if name not in text})
    values = [value for name, value in bound.items() if name in text]
    kernel(values, (*grid, 1, 1)[:3], threads)


_known: weakref.WeakKeyDictionary[JITFunction, dict[Any, Kernel]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def kernel_of(fn: JITFunction, signature: Mapping[str, str], constants: Mapping[str, object]) -> Kernel:
    """The kernel for these types and constants, made once."""
    plain = {name: value.value if isinstance(value, tl.constexpr) else value for name, value in constants.items()}
    # repr keeps 0.0 and -0.0 apart, which are equal
    key = (*signature.items(), *((n, type(v), repr(v) if isinstance(v, float) else v) for n, v in plain.items()))
    with _lock:
        known = _known.setdefault(fn, {})
        if key not in known:
            known[key] = _kernel(fn, dict(signature), plain)
        return known[key]


def _text(constant: object) -> str:
    """What tells a constant from others, in any process: of a function its text, and that of all that it calls."""
    return constant.cache_key if isinstance(constant, JITFunction) else repr(constant)


def _kernel(fn: JITFunction, signature: dict[str, str], constants: dict[str, object]) -> Kernel:
    own = weakref.ref(fn)

    def ttir(lines: bool) -> str:
        function = own()
        assert function is not None, "a kernel is launched by who holds it"
        return ttir_of(function, signature, constants, lines=lines)

    source = repr((fn.cache_key, sorted(signature.items()), sorted((n, _text(v)) for n, v in constants.items())))
    return Kernel(fn.__name__, source, ttir)
