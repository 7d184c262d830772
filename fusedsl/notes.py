"""Where in the user's program each node was made, and the variable it was assigned to."""

from __future__ import annotations

import os
import sys
from types import FrameType
from typing import Any

import torch

from .capture import reading
from .errors import Line, is_user_file
from .ir import Node

_TORCH = os.path.dirname(torch.__file__) + os.sep


class Notes:
    """Names and lines of nodes, taken from the frame that runs the user's code."""

    def __init__(self) -> None:
        self.names: dict[Node, str] = {}
        self.lines: dict[Node, Line] = {}
        self.calls = 0  # torch calls that the user's code has made
        self._last: tuple[tuple[int, int], int, Node] | None = None

    def record(self, result: Any) -> None:
        """Notes what the user's line, which is running now, has made."""
        frame, deep = _users_frame(sys._getframe(1))
        if frame is None:
            return
        line = Line(frame.f_code.co_filename, frame.f_lineno)
        nodes = [n for n in (result if isinstance(result, tuple) else (result,)) if isinstance(n, Node)]
        self._note_line(list(nodes), line)
        names = reading(frame.f_code).assigned.get(frame.f_lasti, ())
        if len(names) == 1 and isinstance(result, Node):
            here = (id(frame), frame.f_lasti)
            if self._last is not None and self._last[0] == here and (deep or self._last[1] == self.calls):
                self.names.pop(self._last[2], None)  # the variable holds the last value that one call made
            if result not in self.names:
                self.names[result] = names[0]
                self._last = (here, self.calls, result)
        elif len(names) == len(nodes):
            for node, name in zip(nodes, names, strict=True):
                self.names.setdefault(node, name)

    def _note_line(self, queue: list[Node], line: Line) -> None:
        while queue:
            node = queue.pop()
            if node not in self.lines and node.op.name != "input":
                self.lines[node] = line
                queue.extend(node.inputs)


def _users_frame(frame: FrameType | None) -> tuple[FrameType | None, bool]:
    """The innermost frame of the user's, and whether torch's Python code runs between it and us."""
    deep = False
    while frame is not None and not is_user_file(frame.f_code.co_filename):
        deep = deep or frame.f_code.co_filename.startswith(_TORCH)
        frame = frame.f_back
    return frame, deep
