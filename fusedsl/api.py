"""`@fuse`: an ordinary torch function that runs as few launches as its algebra allows."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

from . import runtime
from .ir import Graph
from .pipeline import optimise
from .plan import Plan, Planner
from .trace import Traced, is_tracing, trace

_as_written: ContextVar[bool] = ContextVar("as_written", default=False)


@contextmanager
def as_written() -> Iterator[None]:
    """Within it fused functions run as they are written, op by op: what they are compared with."""
    token = _as_written.set(True)
    try:
        yield
    finally:
        _as_written.reset(token)


class Fused:
    """A function made of torch code, traced on its first call and launched as fused kernels. Called while another fused
    function is traced, it is part of that one. Its methods tell what a call would do without doing it.

    size_names: ("x", 0) -> "B" names a size of an argument in what is printed."""

    def __init__(self, function: Callable[..., Any], size_names: Mapping[tuple[str, int], str] | None = None) -> None:
        self.function, self.size_names = function, size_names
        self._entries: list[tuple[Traced, Planner]] = []
        self._lock = threading.Lock()
        functools.update_wrapper(
            self, function if not isinstance(function, torch.nn.Module) else type(function).forward
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if is_tracing() or _as_written.get():
            return self.function(*args, **kwargs)
        traced, planner, bound = self._entry(args, kwargs)
        for at, draw in traced.draws:
            bound.values[at] = draw()
        plan = planner.called(bound.values, bound.sizes, traced.device)
        return traced.rebuild(bound, plan.run(bound.values, traced.device))

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """As a method: bound to its instance, one traced function per instance."""
        if instance is None:
            return self
        cache = instance.__dict__.setdefault("_fused_methods", {})
        if self not in cache:
            cache[self] = Fused(self.function.__get__(instance, owner))
        return cache[self]

    def plan(self, *args: Any, safe: bool = False, **kwargs: Any) -> Plan:
        """What a call with these arguments would run, launching nothing. Arguments may be meta tensors.

        safe: the schedule of one launch per reduction and output, to compare with."""
        _, planner, bound = self._entry(args, kwargs)
        device = _device(bound.values)
        target = "sm_90" if device.type == "meta" else None
        return planner.plan(bound.values, bound.sizes, device, target, safe)

    def explain(self, *args: Any, **kwargs: Any) -> str:
        """Why the launches of such a call are what they are."""
        return self.plan(*args, **kwargs).explain()

    def graph(self, *args: Any, **kwargs: Any) -> Graph:
        """The traced graph of such a call."""
        return self._entry(args, kwargs)[0].graph

    def _entry(self, args: tuple, kwargs: Mapping[str, Any]) -> tuple[Traced, Planner, Any]:
        for traced, planner in self._entries:
            bound = traced.bind(args, kwargs)
            if bound is not None:
                return traced, planner, bound
        with self._lock:
            traced = trace(self.function, args, kwargs, size_names=self.size_names)
            runtime.counters.traces += 1
            planner = Planner(traced.graph, optimise(traced.graph))
            self._entries = [(traced, planner), *self._entries[:63]]
        bound = traced.bind(args, kwargs)
        assert bound is not None, f"{traced.graph.name}: a trace does not fit its own arguments"
        return traced, planner, bound


def _device(values: list[Any]) -> torch.device:
    return next((v.device for v in values if isinstance(v, torch.Tensor)), torch.device("cpu"))


def fuse(function: Callable[..., Any]) -> Fused:
    """Fuses a function of tensors, a method or a module.

    The function is plain torch code; called without the decorator it is its own reference. Results match eager in
    shape, dtype, device and strides. Tensors may be on a CUDA or ROCm GPU or on the CPU.

    Raises FuseError, with the user's line, where something is not supported: see fusedsl.errors."""
    return Fused(function)
