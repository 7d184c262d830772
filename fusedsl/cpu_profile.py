"""What a call, the first call of a process and a compilation take on the CPU: lines of `fusedsl bench cpu`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from . import cpu_kernels as kernels
from .api import fuse
from .calls import kernel_for
from .cpu_bench import run_into, take_turns

Run = Callable[[], Any]


def gelu(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x, approximate="tanh")


def _calls(elements: int) -> Iterator[str]:
    """What the microseconds of a call go into."""
    fused, x = fuse(gelu), torch.randn(elements)
    out = fused(x)
    traced, planner, bound = fused._entry((x,), {})
    plan = planner.called(bound.values, bound.sizes, x.device)
    parts: dict[str, Run] = {
        "a call": partial(fused, x),
        "arguments": partial(fused._entry, (x,), {}),
        "plan": partial(planner.called, bound.values, bound.sizes, x.device),
        "allocation": partial(torch.empty, (elements,), dtype=x.dtype),
        "packing and kernel": run_into(fused, (x,), [out]),
        "results": partial(traced.rebuild, bound, plan.run(bound.values, x.device)),
        "eager": partial(gelu, x),
    }
    several = [partial(_often, run) for run in parts.values()]
    times = zip(parts, take_turns(several, seconds=0.1), strict=True)
    text = ", ".join(f"{name} {1e6 * timing.median / REPEATED:.1f} ({timing.spread:.0%})" for name, timing in times)
    yield f"a call on {elements} elements, microseconds (spread): {text}"


REPEATED = 100


def _often(run: Run) -> None:
    for _ in range(REPEATED):
        run()


def _starts(elements: int) -> Iterator[str]:
    """The first call of a process, when its kernel is to be compiled and when it is on disk."""
    with tempfile.TemporaryDirectory() as folder:
        for state in ("cold cache", "warm cache", "warm cache"):
            parts = _child("first_call", elements, folder)
            yield f"first call of a process, {state}, milliseconds beyond imports: {_amounts(parts)}"


def _compilations(elements: int) -> Iterator[str]:
    """What the milliseconds of the first compilation of a process go into."""
    for name in ("chain", "attention"):
        with tempfile.TemporaryDirectory() as folder:
            parts = _child("compilation", name, folder)
        yield f"first compilation of a process, {name}, milliseconds beyond imports: {_amounts(parts)}"


LINES: dict[str, Callable[[int], Iterator[str]]] = {"call": _calls, "start": _starts, "compile": _compilations}


def _amounts(parts: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {amount:.1f}" for name, amount in parts.items())


def _child(function: str, argument: object, folder: str) -> dict[str, float]:
    """What a function of this module prints in a process of its own, with this folder as its cache."""
    code = f"from fusedsl import cpu_profile; cpu_profile.{function}({argument!r})"
    environment = {**os.environ, "FUSEDSL_CACHE_DIR": folder}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode, too
    found = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    return json.loads(found.stdout)


def first_call(elements: int) -> None:
    """Prints what the first call of a process takes."""
    x, found = torch.randn(elements), {}
    torch.sigmoid(x)
    fused = fuse(gelu)
    _timed(found, "trace and plan", lambda: fused.plan(x))
    _timed(found, "kernel and run", lambda: fused(x))
    found["all"] = sum(found.values())
    print(json.dumps(found))


def compilation(name: str) -> None:
    """Prints what each stage of compiling a kernel takes."""
    import triton.compiler.code_generator  # noqa: F401  Triton leaves it to the first compilation

    from .codegen.cpu import emit, machine, toolchain, wrapper

    ttir, host = _attention() if name == "attention" else _chain(), machine.host()
    found: dict[str, float] = {}
    text = _timed(found, "Triton to TTIR", ttir)
    emitted = _timed(found, "TTIR to MLIR", lambda: emit.emit(text, host, True))
    module = wrapper.module(emitted, host)
    _timed(found, "LLVM", lambda: toolchain.compile_object(module, host))
    print(json.dumps({**found, "all": sum(found.values())}))


def _timed(found: dict[str, float], name: str, run: Run) -> Any:
    start = time.perf_counter()
    result = run()
    found[name] = 1e3 * (time.perf_counter() - start)
    return result


def _chain() -> Run:
    return partial(kernel_for(fuse(gelu).plan(torch.empty(2**20)), 0).ttir, False)


def _attention() -> Run:
    from .codegen.ttir import ttir_of

    signature = {**dict.fromkeys(("q_ptr", "k_ptr", "v_ptr", "out_ptr"), "*fp32"), "length": "i32", "scale": "fp32"}
    return partial(ttir_of, kernels.attention_kernel, signature, {"DIM": 64, "BLOCK_M": 128, "BLOCK_N": 128})
