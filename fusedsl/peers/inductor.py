"""Inductor's kernels for a chain: torch.compile on fake tensors of the pretended device, whose launches are caught.

The pipeline is the one of every torch.compile, from dynamo to the wrapper that launches. Of the configurations that the
heuristics list for a kernel the first is taken; on a real device the fastest would be.
"""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch._inductor import config
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.fx_passes import joint_graph, post_grad
from torch._inductor.output_code import CompiledFxGraph
from torch._inductor.runtime import triton_helpers
from torch._inductor.runtime.triton_heuristics import GridExpr
from torch._subclasses.fake_tensor import FakeTensorMode

from .chains import Chain
from .launch import Launch
from .record import OtherOps, Work, compiled_launch


class Kernel:
    """Stands for a kernel in Inductor's wrapper: a launch compiles and notes it."""

    def __init__(self, name: str, source: str, target: str, args: Sequence[torch.Tensor], launches: list[Launch]):
        self.tuner = getattr(_module(name, source), name)
        self.target, self.args, self.launches = target, args, launches

    def run(self, *values: Any, stream: Any) -> None:
        fn, config, meta = self.tuner.fn, self.tuner.configs[0], self.tuner.triton_meta
        chosen = dict(config.kwargs)
        given = [p.name for p in fn.params if p.name not in chosen and not p.is_constexpr]
        arguments = {**meta["constants"], **chosen, **dict(zip(given, values, strict=True))}
        signature = {name: kind for name, kind in meta["signature"].items() if kind != "constexpr"}
        (attributes,) = meta["configs"]
        divisible = [fn.arg_names[at] for (at,), found in attributes.items() if ["tt.divisibility", 16] in found]
        sizes = {name: value for name, value in arguments.items() if isinstance(value, int)}
        grid = GridExpr.from_meta(self.tuner.inductor_meta, config).eval_slow(sizes)
        self.launches.append(compiled_launch(
            fn, arguments, signature, divisible, self.target, grid, self.args, num_warps=config.num_warps,
            num_stages=config.num_stages, options={"enable_fp_fusion": meta["enable_fp_fusion"]},
        ))  # fmt: skip


def _module(name: str, source: str) -> Any:
    """A module with this text; Triton reads a kernel's text from its file."""
    file = Path(tempfile.mkdtemp()) / f"{name}.py"
    file.write_text(source)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prepare() -> None:
    """What Inductor would ask a real device, or run on one, while it compiles."""
    config.compile_threads = 1
    config.force_disable_caches = True
    config.joint_graph_constant_folding = False  # would make tensors on the device
    triton_helpers.set_driver_to_gpu = lambda: None
    guards: Any = importlib.import_module("torch._C._dynamo.guards")
    guards._empty_strided_cuda = lambda size, stride, dtype: torch.empty_strided(
        size, stride, dtype=dtype, device="cuda"
    )
    modules: tuple[Any, ...] = (joint_graph, post_grad)
    for passes in modules:  # these trace their patterns on tensors that are no fake ones
        passes.lazy_init = _on_cpu(passes.lazy_init)


def _on_cpu(function: Any) -> Any:
    return lambda input_device=None: function(torch.device("cpu"))


def generate(chain: Chain, dtype: torch.dtype, target: str) -> Work:
    """What a call of the compiled chain launches."""
    launches: list[Launch] = []
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    torch._dynamo.reset()
    with torch.no_grad(), mode, _other_ops() as other:
        args = chain.args(dtype, "cuda")
        AsyncCompile.triton = lambda self, name, source, device_str="cuda": Kernel(  # type: ignore[method-assign]
            name, source, target, args, launches
        )
        torch.compile(chain.function, dynamic=False, fullgraph=True)(*args)
    return Work(tuple(launches), tuple(other.found))


@contextmanager
def _other_ops() -> Iterator[OtherOps]:
    """Notes the ops that compiled graphs leave to torch; not those of their compilation."""
    other, call = OtherOps(), CompiledFxGraph.__call__

    def noted(graph: CompiledFxGraph, inputs: Sequence[Any]) -> Any:
        with other:
            return call(graph, inputs)

    with mock.patch.object(CompiledFxGraph, "__call__", noted):
        yield other
