"""Run a `@triton.jit` kernel on CPU tensors, from its TTIR, one program after another.

Triton's own interpreter re-executes the Python source of a kernel; it is wrong in many numerical details, slow, and
patches `triton.language` for the whole process. This one lets Triton's real front end compile the kernel to TTIR, the
text every GPU target starts from, translates that once into a Python function over numpy arrays, and calls the
function for each program of the grid. Nothing of Triton is patched, so GPU compilation and other threads are
undisturbed, and the meaning of types, constants, loops and branches is the front end's own.

    text = ttir_of(fn, signature, constexprs)         the front end, inlining, common subexpressions   (ttir.py)
    functions = parse(text)                           a tree of Function, Block, Op                    (ttir.py)
    make_program = Translator(functions).translate()  Python over the operations of hardware.py        (translate.py)
    program = make_program(memory, grid, *arguments)  once per launch: what no program changes         (memory.py)
    program(pid)                                      once per program

Not modelled: contraction of a multiply and an add, flush to zero, the last bits of the approximate exp, log, sin and
division, and the order in which a reduction adds.
"""

from __future__ import annotations

import functools
import itertools
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime.jit import JITFunction

from .binding import bind, signature_of
from .memory import Memory
from .traffic import Traffic
from .translate import Translator
from .ttir import parse, ttir_of

__all__ = ["launch"]

Id = tuple[int, int, int]


def launch(
    fn: JITFunction,
    grid: tuple[int, int, int],
    args: Mapping[str, object],
    hooks: Traffic | None = None,
    *,
    signature: Mapping[str, str] | None = None,
) -> None:
    """Run every program of `grid` (x fastest) on CPU tensors, in place; nothing is copied.

    `args` holds the arguments by parameter name: CPU tensors of any strides (the kernel receives their address), ints,
    floats, bools, None, and the values of the constexpr parameters; parameters with a default may be left out.
    Integers are typed as Triton's launcher types them (i32, or i64 where the value needs it) unless `signature` gives
    a type such as `{"n": "i64"}`. `hooks` counts the bytes the programs load and store.

    An access outside the storages of the arguments raises OutOfBounds and is not made; a kernel that turns integers
    into pointers (a table of addresses) is trusted, unless `hooks` is strict. A lane that a load masks off and gives no
    `other` is undefined on a GPU; here it is NaN, or 0xA5 in every byte.

    Raises TypeError for arguments that do not fit the parameters, ValueError for a tensor elsewhere than on the CPU,
    AssertionError where `tl.device_assert` or `tl.assume` fails, OutOfBounds, CannotInterpret for inline assembly, and
    whatever Triton's front end raises for a kernel it rejects.
    """
    call = prepare(fn, args, signature)
    memory = Memory(None if call.makes_pointers else call.tensors.values(), hooks)
    if hooks is not None:
        hooks.begin(call.tensors)
    try:
        with np.errstate(all="ignore"):
            _run_grid(call.make_program, memory, grid, call.values.values(), fn.__name__)
    finally:
        if hooks is not None:
            hooks.end()


@dataclass(frozen=True)
class Call:
    """A kernel's Python, and what it is given."""

    make_program: Callable[..., Any]
    text: str  # the TTIR
    tensors: dict[str, torch.Tensor]
    values: dict[str, Any]  # of the parameters that are no constants: addresses and numbers

    @property
    def makes_pointers(self) -> bool:
        """Whether the kernel turns integers into pointers, of which nobody knows where they may point."""
        return "tt.int_to_ptr" in self.text


def _run_grid(
    make_program: Callable[..., Any], memory: Memory, grid: Id, values: Iterable[Any], name: str
) -> None:
    for pid, run in programs(make_program, memory, grid, values):
        try:
            run()
        except Exception as error:
            error.add_note(f"in kernel {name}, program {pid}")
            raise


def programs(
    make_program: Callable[..., Any], memory: Memory, grid: Id, values: Iterable[Any]
) -> Iterator[tuple[Id, Callable[[], None]]]:
    """The programs of a launch, x fastest: the id of each, and what runs it."""
    nx, ny, nz = (int(extent) for extent in grid)
    program = make_program(memory, (np.int32(nx), np.int32(ny), np.int32(nz)), *values)
    for z, y, x in itertools.product(range(nz), range(ny), range(nx)):
        yield (x, y, z), functools.partial(program, (np.int32(x), np.int32(y), np.int32(z)))


def prepare(
    fn: JITFunction, args: Mapping[str, object], signature: Mapping[str, str] | None = None, *, watched: bool = False
) -> Call:
    """What `launch` runs of a kernel. watched: `memory.op` says which operation asks. Raises as `launch` does."""
    bound = bind(fn, args)
    text = signature_of(fn, bound, signature)
    kernel = _translated(fn, text, {name: value for name, value in bound.items() if name not in text}, watched)
    tensors = {name: value for name, value in bound.items() if isinstance(value, torch.Tensor)}
    values = {name: _argument(value, text[name]) for name, value in bound.items() if name in text}
    return Call(kernel.make_program, kernel.text, tensors, values)


_SCALARS = {
    "i1": np.bool_, "u1": np.bool_, "i8": np.int8, "i16": np.int16, "i32": np.int32, "i64": np.int64,
    "u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64,
    "fp16": np.float16, "fp32": np.float32, "fp64": np.float64,
}


def _argument(value: Any, kind: str) -> Any:
    """The value a translated program receives for an argument of Triton type `kind`."""
    if kind.startswith("*"):
        return np.int64(value.data_ptr() if isinstance(value, torch.Tensor) else value)
    if kind == "bf16":  # the upper half of an f32, not rounded: what Triton's own launchers pass
        return (np.float32(value).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    scalar = np.array(value).astype(_SCALARS[kind])[()]
    return scalar.view(f"i{scalar.itemsize}") if scalar.dtype.kind == "u" else scalar


@dataclass(frozen=True)
class _Translated:
    make_program: Callable[..., Any]
    text: str


_known: weakref.WeakKeyDictionary[JITFunction, dict[Any, _Translated]] = weakref.WeakKeyDictionary()
_known_lock = threading.Lock()


def _translated(
    fn: JITFunction, signature: dict[str, str], constexprs: dict[str, object], watched: bool
) -> _Translated:
    """The translation of a kernel for these types and constants, made once."""
    with _known_lock:
        known = _known.setdefault(fn, {})
    plain = {name: value.value if isinstance(value, tl.constexpr) else value for name, value in constexprs.items()}
    # repr keeps 0.0 and -0.0 apart, which are equal
    constants = ((name, type(v), repr(v) if isinstance(v, float) else v) for name, v in plain.items())
    key = (watched, *signature.items(), *constants)
    if key not in known:
        text = ttir_of(fn, signature, plain, lines=watched)
        known[key] = _Translated(Translator(parse(text), watched=watched).translate(), text)
    return known[key]
