"""What a user can do wrong: one class each, the message template in its docstring, and the user's source line in front.

A message says the rule, what came, and the way out::

    model.py:14  y = a + b
    ShapesDisagree: add: operands must broadcast, got f32[8, 4] and f32[8]. Write b[:, None] to line up the rows.

Mistakes of users raise a `FuseError`; mistakes of the compiler itself are assertions.
"""

from __future__ import annotations

import linecache
import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from types import FrameType
from typing import Any

_PACKAGE = os.path.realpath(os.path.dirname(os.path.dirname(__file__)))
_OWN_FOLDERS = tuple(os.path.join(_PACKAGE, room) + os.sep for room in ("fusedsl", "ops", "codegen"))
_WRITTEN_AS_A_USER = os.path.join(_PACKAGE, "fusedsl", "workloads.py")  # functions to fuse, though they are ours


@dataclass(frozen=True)
class Line:
    """One line of a user's program: where a value came from."""

    file: str
    number: int

    @property
    def text(self) -> str:
        return linecache.getline(self.file, self.number).strip()

    def __str__(self) -> str:
        return f"{os.path.basename(self.file)}:{self.number}  {self.text}".rstrip()


@lru_cache(maxsize=4096)
def is_user_file(file: str) -> bool:
    """Whether code of this file is the user's: neither ours, nor torch's, nor of Python's own library."""
    import torch

    if file.startswith("<"):  # typed in, or made with exec
        return not file.startswith("<frozen")
    file = os.path.realpath(file)
    if file == _WRITTEN_AS_A_USER:
        return True
    if file.startswith((*_OWN_FOLDERS, os.path.dirname(torch.__file__) + os.sep)):
        return False
    return not file.startswith(os.path.dirname(os.__file__) + os.sep) or "site-packages" in file


def user_frame(frame: FrameType | None = None) -> FrameType | None:
    """The innermost frame that runs the user's code now, or None."""
    frame = frame or sys._getframe(1)
    while frame is not None and not is_user_file(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def user_line(frame: FrameType | None = None) -> Line | None:
    """The innermost line outside fusedsl and torch that is being run now, or None."""
    found = user_frame(frame or sys._getframe(1))
    return Line(found.f_code.co_filename, found.f_lineno) if found is not None else None


def line_of(error: BaseException) -> Line | None:
    """The innermost of the user's lines that an exception came through, or None."""
    line, trace = None, error.__traceback__
    while trace is not None:
        if is_user_file(trace.tb_frame.f_code.co_filename):
            line = Line(trace.tb_frame.f_code.co_filename, trace.tb_lineno)
        trace = trace.tb_next
    return line


class FuseError(Exception):
    """{message}"""

    def __init__(self, *, line: Line | None = None, **parts: object) -> None:
        self.parts = parts
        self.line = line
        super().__init__()

    @property
    def message(self) -> str:
        return " ".join((type(self).__doc__ or "{message}").split()).format(**self.parts)

    def at(self, line: Line | None) -> FuseError:
        """This error with the user's line filled in, if it has none yet."""
        self.line = self.line or line
        return self

    def __str__(self) -> str:
        where = f"{self.line}\n" if self.line else ""
        return f"{where}{type(self).__name__}: {self.message}"

    def __reduce__(self):
        return (_rebuild, (type(self), self.line, self.parts))


def _rebuild(kind: type[FuseError], line: Line | None, parts: dict) -> FuseError:
    return kind(line=line, **parts)


class ShapesDisagree(FuseError, ValueError):
    """{op}: {rule}, got {got}. {hint}"""


class DTypesDisagree(FuseError, TypeError):
    """{op}: {rule}, got {got}. {hint}"""


class BadArgument(FuseError, ValueError):
    """{op}: {name} must be {rule}, got {got}. {hint}"""


class DimOutOfRange(FuseError, IndexError):
    """{op}: dim must lie in [{low}, {high}], got {got}."""


class UnknownFunction(FuseError, NotImplementedError):
    """{op}: fusedsl has no rule for this function. {hint}"""


class UnknownDType(FuseError, TypeError):
    """{got} is not a dtype that fusedsl knows. Use one of {known}."""


class DataDependent(FuseError, RuntimeError):
    """{op}: {what} depends on the values of a tensor, which are not known while tracing. {hint}"""


class InPlaceInput(FuseError, RuntimeError):
    """{op}: changes {what} in place; a fused function only reads its inputs, and keeps no second view of what it
    changes. {hint}"""


class NeedsGrad(FuseError, RuntimeError):
    """{name} requires grad, and gradients of a fused function are not available. Call it under torch.no_grad(), or
    detach the tensor."""


class UntraceableCapture(FuseError, RuntimeError):
    """{name}: {what}. {hint}"""


class BadText(FuseError, ValueError):
    """{what} does not follow the grammar at line {row}, column {column}: {got}. {hint}"""


def place_in(text: str, error: Any) -> tuple[int, int, str]:
    """(row, column, what stands there) of lark's UnexpectedInput: nothing stands at the end."""
    rows = text.splitlines() or [""]
    if error.line < 1 or getattr(getattr(error, "token", None), "type", "") == "$END":
        return len(rows), len(rows[-1]) + 1, ""
    return error.line, error.column, repr(rows[error.line - 1][error.column - 1 :][:20])


class BadOption(FuseError, ValueError):
    """{name} must be {rule}, got {got}."""


class IndexOutOfRange(FuseError, IndexError):
    """{name}: an index read from a tensor lies outside the dimension it indexes. Indices must lie in [0, size)."""


class NotOneLaunch(FuseError, AssertionError):
    """{name}: {rule}, got {got}. {hint}"""


class TooManyBytes(FuseError, AssertionError):
    """{name}: {rule}, got {got}. {hint}"""


class Spills(FuseError, AssertionError):
    """{name}: {rule}, got {got}. {hint}"""


class Mismatch(FuseError, AssertionError):
    """{name}: {what} must {rule}, got {got}. {hint}"""


class Counterexample(FuseError, AssertionError):
    """{what} This script repeats it:{script}"""


class MissingPackage(FuseError, ImportError):
    """{what} needs the package {name}. Install it, or {hint}."""


class UnsupportedDevice(FuseError, RuntimeError):
    """{op}: {rule}, got {got}. {hint}"""
