"""The function that reads a call: its arguments and what it captures, checked against what a trace assumed of them.

It is written line by line while a function is traced, and compiled once: what it does takes microseconds on each call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

# A path that cannot be read any more has changed; so has a condition that cannot be evaluated.
_GONE = (LookupError, AttributeError, TypeError, ValueError, ArithmeticError, RuntimeError)


def _same_values(new: Sequence, old: Sequence) -> bool:
    return new == old and list(map(type, new)) == list(map(type, old))


def _same_float(new: float, old: float) -> bool:
    same = new == old or (new != new and old != old)
    return type(new) is float and same and math.copysign(1, new) == math.copysign(1, old)


class Reader:
    """Writes the body of a Python function; the objects it mentions are constants of the function."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.about: dict[str, str] = {}  # line -> the user's name of what it is about
        self.constants: dict[str, Any] = {
            "torch": torch, "_gone": _GONE, "_same_values": _same_values, "_same_float": _same_float,
        }  # fmt: skip
        self._names: dict[int, str] = {}
        self._locals = 0

    def constant(self, value: object) -> str:
        """The name of an object."""
        name = self._names.get(id(value))
        if name is None:
            name = self._names[id(value)] = f"_k{len(self._names)}"
            self.constants[name] = value
        return name

    def fresh(self) -> str:
        self._locals += 1
        return f"_v{self._locals}"

    def local(self, text: str) -> str:
        """A variable that holds the value of the text."""
        name = self.fresh()
        self.lines.append(f"{name} = {text}")
        return name

    def require(self, condition: str) -> None:
        self.lines.append(f"if not ({condition}): return None")

    def same(self, text: str, value: object) -> None:
        """Requires the very value: its type counts, and the sign of a zero."""
        if value is None or isinstance(value, (bool, torch.dtype, torch.layout, torch.memory_format)):
            self.require(f"{text} is {self.constant(value)}")
        elif type(value) is float:
            self.require(f"_same_float({text}, {self.constant(value)})")
        else:
            local = self.local(text)
            self.require(f"type({local}) is {self.constant(type(value))} and {local} == {self.constant(value)}")

    def broken(self, **values: Any) -> str:
        """What the first requirement is about that these values do not meet."""
        scope = {**self.constants, **values}
        for line in self.lines:
            condition = line.removeprefix("if not (").removesuffix("): return None")
            try:
                if condition == line:
                    exec(line, scope)
                elif not eval(condition, scope):
                    return self.about.get(line, condition)
            except _GONE:
                return self.about.get(line, line)
        raise AssertionError("every requirement is met")

    def function(self, name: str, parameters: str, result: str) -> Callable:
        """The function written so far. It gives None where a requirement does not hold."""
        body = "\n".join(f"        {line}" for line in [*self.lines, f"return {result}"])
        source = f"def {name}({parameters}):\n    try:\n{body}\n    except _gone:\n        return None\n"
        scope = dict(self.constants)
        exec(compile(source, f"<{name}>", "exec"), scope)
        return scope[name]


def is_constant(value: object) -> bool:
    """Whether a value is compared by what it is, rather than by which object it is."""
    plain = (bool, int, float, complex, str, bytes, type(None), range, slice, torch.Size)
    return type(value) in plain or isinstance(value, (torch.dtype, torch.device, torch.layout, torch.memory_format))
