"""A pretended CUDA device, for a process of its own: libraries generate kernels for it, nothing can be launched.

torch is told that there is one, with the numbers that Inductor's heuristics ask for, and Triton that its driver is
active. What is patched stays patched, so only worker.py installs it, in a process that does nothing else.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from triton.runtime import driver

from ..codegen.inspect import TARGETS


@dataclass(frozen=True)
class Card:
    """The product that stands for a target."""

    name: str
    multiprocessors: int
    shared: int  # bytes that a program may take
    cache: int  # bytes of L2


CARDS = {
    "sm_80": Card("NVIDIA A100", 108, 166912, 40 << 20),
    "sm_90": Card("NVIDIA H100", 132, 232448, 50 << 20),
}


class _Utils:
    def __init__(self, card: Card) -> None:
        self.card = card

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": self.card.shared, "multiprocessor_count": self.card.multiprocessors,
                "max_num_regs": 65536, "warpSize": 32}  # fmt: skip


class _Driver:
    """As much of a Triton driver as is asked before a launch."""

    def __init__(self, target: str) -> None:
        self.target = TARGETS[target]
        self.utils = _Utils(CARDS[target])

    def get_current_target(self) -> Any:
        return self.target

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda", 0)

    def get_device_interface(self) -> Any:
        return torch.cuda

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def get_device_capability(self, device: int = 0) -> tuple[int, int]:
        return divmod(int(self.target.arch), 10)

    def is_active(self) -> bool:
        return True


def install(target: str) -> None:
    """From now on this process believes in a device of this target."""
    card, capability = CARDS[target], divmod(int(TARGETS[target].arch), 10)
    properties = SimpleNamespace(
        name=card.name, major=capability[0], minor=capability[1], multi_processor_count=card.multiprocessors,
        total_memory=80 << 30, warp_size=32, regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048,
        max_threads_per_block=1024, shared_memory_per_block=49152, shared_memory_per_block_optin=card.shared,
        shared_memory_per_multiprocessor=card.shared + 1024, L2_cache_size=card.cache, gcnArchName="", uuid="0",
    )  # fmt: skip
    driver.set_active(_Driver(target))  # type: ignore[arg-type]
    torch.version.cuda = "13.0"
    tensor: Any = torch.Tensor
    tensor.__getitem__ = _by_ops(tensor.__getitem__)
    _answer(torch.cuda, properties, capability)
    _answer_inductor(properties, capability)


def _by_ops(indexed: Any) -> Any:
    """Indexing of tensors without memory by ops that take views. Python's own asks for a guard of the tensor's device,
    which torch has only where it is built for it."""

    def item(tensor: torch.Tensor, index: Any) -> torch.Tensor:
        parts = index if isinstance(index, tuple) else (index,)
        if tensor.device.type != "cuda" or any(isinstance(part, (torch.Tensor, list, bool)) for part in parts):
            return indexed(tensor, index)
        left = sum(part is not None and part is not Ellipsis for part in parts)  # dimensions that are still indexed
        dim = 0
        for part in parts:
            if part is Ellipsis:
                dim = tensor.dim() - left
                continue
            left -= part is not None
            if part is None:
                tensor = tensor.unsqueeze(dim)
            elif isinstance(part, slice):
                tensor = torch.ops.aten.slice(tensor, dim, part.start, part.stop, part.step or 1)
            else:
                tensor = tensor.select(dim, part)
            dim += part is None or isinstance(part, slice)
        return tensor

    return item


def _answer(cuda: Any, properties: Any, capability: tuple[int, int]) -> None:
    """What torch.cuda says when asked."""
    answers: dict[str, Any] = {
        "is_available": True, "is_initialized": True, "device_count": 1, "current_device": 0, "synchronize": None,
        "get_device_properties": properties, "_get_device_properties": properties, "get_device_capability": capability,
        "get_device_name": properties.name, "_lazy_init": None, "set_device": None, "is_bf16_supported": True,
        "_exchange_device": 0, "_maybe_exchange_device": 0, "set_rng_state": None,
    }  # fmt: skip
    for name, answer in answers.items():
        setattr(cuda, name, _always(answer))
    cuda.get_rng_state = lambda *_: torch.get_rng_state()
    cuda._DeviceGuard = lambda index: contextlib.nullcontext()
    for name in ("_cuda_getDevice", "_cuda_exchangeDevice", "_cuda_maybeExchangeDevice", "_cuda_getCurrentRawStream"):
        setattr(torch._C, name, _always(0))


def _answer_inductor(properties: Any, capability: tuple[int, int]) -> None:
    """Inductor asks through an interface of its own."""
    from torch._dynamo.device_interface import CudaInterface, register_interface_for_device

    answers: dict[str, Any] = {
        "is_available": True, "get_compute_capability": capability[0] * 10 + capability[1], "current_device": 0,
        "device_count": 1, "get_device_properties": properties, "get_raw_stream": 0, "synchronize": None,
        "set_device": None, "is_triton_capable": True, "raise_if_triton_unavailable": None,
        "exchange_device": 0, "maybe_exchange_device": 0,
    }  # fmt: skip
    for name, answer in answers.items():
        setattr(CudaInterface, name, staticmethod(_always(answer)))
    worker: Any = CudaInterface.Worker
    worker.get_device_properties = staticmethod(_always(properties))
    worker.current_device = staticmethod(_always(0))
    for device in ("cuda", "cuda:0"):
        register_interface_for_device(device, CudaInterface)


def _always(answer: Any) -> Any:
    """A function of anything that gives this."""
    return lambda *_, **__: answer
