"""The workload table: chains that peers publish, at their shapes, with what fusing them must show.

Each is a plain torch function. `fusedsl bench workloads` prints, for every workload and dtype: launches, bytes
against the
compulsory ones, requested bytes against passes, registers and spills on each GPU target, and the error against float64
on a small shape, where loads and stores are also counted as they happen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

Args = tuple[Any, ...]
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Tensor:
    """An argument: its shape; integers below `below`, else floats of the workload's dtype."""

    shape: tuple[int, ...]
    below: int = 0

    def make(self, dtype: torch.dtype, device: str, generator: torch.Generator | None = None) -> torch.Tensor:
        if device == "meta":
            return torch.empty(self.shape, dtype=torch.int64 if self.below else dtype, device="meta")
        if self.below:
            return torch.randint(0, self.below, self.shape, generator=generator)
        return torch.randn(self.shape, generator=generator).to(dtype)


@dataclass(frozen=True)
class Workload:
    """A chain, the published shapes of its arguments, and a small instance of them that runs in a moment."""

    name: str
    function: Callable[..., Any]
    shapes: tuple[Tensor, ...]
    small: tuple[Tensor, ...]

    def args(self, dtype: torch.dtype, device: str = "meta", small: bool = False) -> Args:
        generator = torch.Generator().manual_seed(0) if device != "meta" else None
        return tuple(t.make(dtype, device, generator) for t in (self.small if small else self.shapes))


def vector_exp(x):
    return torch.exp(x)


def swiglu(gate, up):
    return F.silu(gate) * up


def geglu(gate, up):
    return F.gelu(gate, approximate="tanh") * up


def dyt(x, alpha, weight, bias):
    return torch.tanh(alpha * x) * weight + bias


def softmax(x):
    return torch.softmax(x, -1)


def softmax_first(x):
    return torch.softmax(x, 0)


def cross_entropy(logits, target):
    return F.cross_entropy(logits, target, reduction="none")


def kl_div(x, y):
    return F.kl_div(torch.log_softmax(x, -1), torch.softmax(y, -1), reduction="none").sum(-1)


def rms_norm(x, weight):
    return F.rms_norm(x, (x.shape[-1],), weight, 1e-6)


def layer_norm(x, weight, bias):
    return F.layer_norm(x, (x.shape[-1],), weight, bias)


def add_rms_norm(x, residual, weight):
    h = x + residual
    return h, F.rms_norm(h, (h.shape[-1],), weight, 1e-6)


def add_rms_norm_fp8(x, residual, weight):
    h = x + residual
    y = F.rms_norm(h, (h.shape[-1],), weight, 1e-6).float()
    scale = y.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 448
    return h, (y / scale).to(torch.float8_e4m3fn), scale


def group_norm_silu(x, weight, bias):
    return F.silu(F.group_norm(x, 32, weight, bias))


def adaln(x, shift, scale):
    y = F.layer_norm(x, (x.shape[-1],))
    return y * (1 + scale[:, None]) + shift[:, None]


def embedding_norm(ids, table, position, weight, bias):
    return F.layer_norm(F.embedding(ids, table) + position, (table.shape[-1],), weight, bias)


def rotary(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def concat_gelu(x, y):
    return F.gelu(torch.cat((x, y), dim=-1))


def _same(
    function: Callable[..., Any], shape: Sequence[int], small: Sequence[int], count: int, name: str = ""
) -> Workload:
    """A workload whose arguments all have one shape."""
    return Workload(
        name or function.__name__, function, (Tensor(tuple(shape)),) * count, (Tensor(tuple(small)),) * count
    )


def _rows(
    function: Callable[..., Any], rows: int, width: int, small: tuple[int, int], matrices: int, vectors: int
) -> Workload:
    """A workload of matrices of rows and of vectors as wide as a row."""

    def shapes(n: int, k: int) -> tuple[Tensor, ...]:
        return (Tensor((n, k)),) * matrices + (Tensor((k,)),) * vectors

    return Workload(function.__name__, function, shapes(rows, width), shapes(*small))


def _embedding(batch: int, length: int, vocabulary: int, width: int) -> tuple[Tensor, ...]:
    vector = Tensor((width,))
    return (Tensor((batch, length), vocabulary), Tensor((vocabulary, width)), Tensor((length, width)), vector, vector)


WORKLOADS: tuple[Workload, ...] = (
    _same(vector_exp, (2**26,), (3001,), 1),
    _same(swiglu, (8192, 11008), (13, 1000), 2),
    _same(geglu, (8192, 11008), (13, 1000), 2),
    Workload(
        "dyt", dyt,
        (Tensor((4096, 4096)), Tensor((1,)), Tensor((4096,)), Tensor((4096,))),
        (Tensor((12, 500)), Tensor((1,)), Tensor((500,)), Tensor((500,))),
    ),
    _same(softmax, (4096, 512), (16, 512), 1, "softmax_512"),
    _same(softmax, (4096, 4096), (6, 4096), 1, "softmax_4096"),
    _same(softmax, (4, 131072), (2, 131072), 1, "softmax_131072"),
    _same(softmax_first, (8192, 512), (1500, 256), 1),
    Workload(
        "cross_entropy", cross_entropy, (Tensor((4096, 32000)), Tensor((4096,), 32000)), (Tensor((3, 32000)),
        Tensor((3,), 32000))
    ),
    _same(kl_div, (2048, 32000), (3, 32000), 2),
    _rows(rms_norm, 2048, 8192, (6, 1000), 1, 1),
    _rows(layer_norm, 4096, 4096, (6, 1000), 1, 2),
    _rows(add_rms_norm, 4096, 4096, (6, 1000), 2, 1),
    _rows(add_rms_norm_fp8, 4096, 4096, (6, 1000), 2, 1),
    Workload(
        "group_norm_silu", group_norm_silu,
        (Tensor((8, 512, 64, 64)), Tensor((512,)), Tensor((512,))),
        (Tensor((1, 64, 70, 66)), Tensor((64,)), Tensor((64,))),
    ),
    Workload(
        "adaln", adaln,
        (Tensor((56, 1024, 1024)), Tensor((56, 1024)), Tensor((56, 1024))),
        (Tensor((2, 7, 300)), Tensor((2, 300)), Tensor((2, 300))),
    ),
    Workload("embedding_norm", embedding_norm, _embedding(32, 512, 30522, 768), _embedding(4, 6, 50, 300)),
    Workload(
        "rotary", rotary,
        (Tensor((1, 32, 2048, 128)), Tensor((2048, 128)), Tensor((2048, 128))),
        (Tensor((2, 8, 5, 64)), Tensor((5, 64)), Tensor((5, 64))),
    ),
    _same(concat_gelu, (4096, 4096), (12, 333), 2),
)  # fmt: skip


def cases() -> Iterator[tuple[Workload, torch.dtype]]:
    """Every workload in every dtype of the table."""
    for workload in WORKLOADS:
        for dtype in FLOATS:
            yield workload, dtype
