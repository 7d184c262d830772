"""Inductor's kernels for a chain: torch.compile on fake tensors of the pretended device, whose launches are caught.

The pipeline is the one of every torch.compile, from dynamo to the wrapper that launches. What is caught is compiled for
a GPU (`generate`): of the configurations that the heuristics list for a kernel the first, where on a real device the
fastest would be taken. Or it is written down with all of them (`record`), for a process that launches it on a CPU.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
from torch.utils._pytree import tree_leaves

from .chains import Chain
from .launch import Launch
from .program import Buffers, Choice, Program, Step
from .record import OtherOps, Work, compiled_launch


@dataclass(frozen=True)
class Called:
    """A launch by Inductor's wrapper: the kernel with its tuner, and the values of the parameters that are not part of
    a configuration."""

    name: str
    source: str
    tuner: Any
    values: tuple[Any, ...]

    @property
    def signature(self) -> dict[str, str]:
        """The Triton types of the parameters that are no constants, in their order."""
        types = self.tuner.triton_meta["signature"]
        return {name: types[name] for name in self.tuner.fn.arg_names if types.get(name, "constexpr") != "constexpr"}

    def arguments(self, config: Any) -> dict[str, Any]:
        """What the parameters are given in this configuration."""
        fn, chosen = self.tuner.fn, dict(config.kwargs)
        given = [p.name for p in fn.params if p.name not in chosen and not p.is_constexpr]
        return {**self.tuner.triton_meta["constants"], **chosen, **dict(zip(given, self.values, strict=True))}

    def grid(self, config: Any) -> tuple[int, int, int]:
        sizes = {name: value for name, value in self.arguments(config).items() if isinstance(value, int)}
        x, y, z = (*GridExpr.from_meta(self.tuner.inductor_meta, config).eval_slow(sizes), 1, 1)[:3]
        return int(x), int(y), int(z)


class Kernel:
    """Stands for a kernel in Inductor's wrapper, and notes its launches."""

    def __init__(self, name: str, source: str, calls: list[Called]):
        self.name, self.source, self.calls = name, source, calls
        self.tuner = getattr(_module(name, source), name)

    def run(self, *values: Any, stream: Any) -> None:
        self.calls.append(Called(self.name, self.source, self.tuner, values))


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


@dataclass(frozen=True)
class Caught:
    """What a call of a compiled chain does, on fake tensors."""

    args: tuple[torch.Tensor, ...]
    launches: tuple[Called, ...]
    results: tuple[torch.Tensor, ...]
    ops: tuple[tuple[str, int], ...]  # of torch's own beside the launches, with their bytes


def catch(chain: Chain, dtype: torch.dtype) -> Caught:
    """Compiles the chain and calls it."""
    calls: list[Called] = []
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    torch._dynamo.reset()
    with torch.no_grad(), mode, _other_ops() as other:
        args = chain.args(dtype, "cuda")
        AsyncCompile.triton = lambda self, name, source, device_str="cuda": Kernel(  # type: ignore[method-assign]
            name, source, calls
        )
        results = torch.compile(chain.function, dynamic=False, fullgraph=True)(*args)
    return Caught(args, tuple(calls), tuple(tree_leaves(results)), tuple(other.found))


def generate(chain: Chain, dtype: torch.dtype, target: str) -> Work:
    """What a call of the compiled chain launches, compiled for a GPU."""
    caught = catch(chain, dtype)
    return Work(tuple(_compiled(each, target, caught.args) for each in caught.launches), caught.ops)


def _compiled(call: Called, target: str, args: Sequence[torch.Tensor]) -> Launch:
    fn, config, meta = call.tuner.fn, call.tuner.configs[0], call.tuner.triton_meta
    (attributes,) = meta["configs"]
    divisible = [fn.arg_names[at] for (at,), found in attributes.items() if ["tt.divisibility", 16] in found]
    return compiled_launch(
        fn, call.arguments(config), call.signature, divisible, target, call.grid(config), args,
        num_warps=config.num_warps, num_stages=config.num_stages,
        options={"enable_fp_fusion": meta["enable_fp_fusion"]},
    )  # fmt: skip


def record(chain: Chain, dtype: torch.dtype, target: str) -> Program:
    """What a call of the compiled chain launches, as data, to be run elsewhere. `target` decides it by the pretended
    device."""
    caught = catch(chain, dtype)
    buffers = Buffers(caught.args)
    steps = tuple(_step(each, buffers) for each in caught.launches)
    results = tuple(map(buffers.view, caught.results))
    return Program(steps, tuple(buffers.sizes), results, tuple(name for name, _ in caught.ops))


def _step(call: Called, buffers: Buffers) -> Step:
    configs = call.tuner.configs
    given, signature = call.arguments(configs[0]), call.signature
    arguments = tuple(buffers.view(x) if isinstance(x := given[name], torch.Tensor) else x for name in signature)
    choices = [_choice(call, config) for config in configs]
    different = [choice for at, choice in enumerate(choices) if choice not in choices[:at]]  # in more than warps
    return Step(call.name, _plain(call.source), signature, arguments, tuple(different))


def _choice(call: Called, config: Any) -> Choice:
    arguments = call.arguments(config)
    constants = {n: arguments[n] for n in call.tuner.fn.arg_names if n in arguments and n not in call.signature}
    return Choice(constants, call.grid(config))


def _plain(source: str) -> str:
    """The kernel's text without what tunes it and what asks for a GPU."""
    without_tuner, found = re.subn(r"^@triton_heuristics\.\w+\(\n.*?^\)\n", "", source, flags=re.M | re.S)
    assert found == 1, source
    return without_tuner.replace("triton_helpers.set_driver_to_gpu()\n", "")


@contextmanager
def _other_ops() -> Iterator[OtherOps]:
    """Notes the ops that compiled graphs leave to torch; not those of their compilation."""
    other, call = OtherOps(), CompiledFxGraph.__call__

    def noted(graph: CompiledFxGraph, inputs: Sequence[Any]) -> Any:
        with other:
            return call(graph, inputs)

    with mock.patch.object(CompiledFxGraph, "__call__", noted):
        yield other
