"""Functions run in a child process, which may crash without taking this one with it.

A child is forked from this process when it is first needed and serves until a function ends it, so that a fork, whose
cost grows with the memory of the process, is not the price of every call. It ends with this process, whose end of the
pipe is closed then.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from typing import Any

SECONDS = 120.0  # after which a function is given up


class ChildFailed(RuntimeError):
    """What the child printed, and how it ended if it did."""


class Child:
    """For one caller at a time. Functions, their arguments and results are pickled."""

    def __init__(self) -> None:
        self._parent = self._process = 0
        self._pipe: Any = None
        self._report: Any = None  # a file, the child's stderr

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function returns in the child. Raises ChildFailed if it raises, crashes or takes too long."""
        if not self._serves():
            self._start()
        self._report.seek(0)
        self._report.truncate()
        try:
            self._pipe.send((function, arguments))
            if not self._pipe.poll(SECONDS):
                self._kill()
                raise ChildFailed(f"it did not end in {SECONDS:.0f} seconds\n{self._said()}".strip())
            done, answer = self._pipe.recv()
        except (EOFError, ConnectionError):
            raise ChildFailed(f"it ended with {self._kill()}\n{self._said()}".strip()) from None
        if not done:
            raise ChildFailed(f"{self._said()}\n{answer}".strip())
        return answer

    def _serves(self) -> bool:
        """Whether there is a child: of this process, which may be a fork of the one that had it."""
        if not self._process or self._parent != os.getpid():
            return False
        try:
            return os.waitpid(self._process, os.WNOHANG)[0] == 0
        except ChildProcessError:
            return False

    def _start(self) -> None:
        self._report = tempfile.TemporaryFile()  # noqa: SIM115  open as long as the child is
        self._pipe, childs = Pipe()
        self._parent, self._process = os.getpid(), os.fork()
        if self._process == 0:
            self._pipe.close()
            _serve(childs, self._report)
        childs.close()

    def _kill(self) -> str:
        """Ends the child if nothing else has; what did."""
        process, self._process = self._process, 0
        self._pipe.close()
        try:
            os.kill(process, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        except (ProcessLookupError, ChildProcessError):  # somebody waits for any child of this process
            return "a status that is lost"
        return signal.Signals(-code).name if code < 0 else f"status {code}"

    def _said(self) -> str:
        self._report.seek(0)
        return self._report.read().decode(errors="replace").strip()


def _serve(pipe: Connection, report: Any) -> None:
    """Runs what comes until the parent is gone, then ends the process without exit handlers, which are the parent's."""
    try:
        faulthandler.disable()  # a crash here is the parent's to tell
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.dup2(report.fileno(), 2)
        while True:
            function, arguments = pipe.recv()
            os.lseek(2, 0, os.SEEK_SET)
            try:
                answer = True, function(*arguments)
            except Exception as error:
                answer = False, f"{type(error).__name__}: {error}"
            pipe.send(answer)
    finally:
        os._exit(0)
