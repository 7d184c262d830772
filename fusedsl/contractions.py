"""Chains around products of matrices, as people write them, and the shapes at which benchmarks take them."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .workloads import Tensor, Workload

WINDOW, CAP = 512, 30.0


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, -1) @ v


def causal_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    i = torch.arange(q.shape[-2], device=q.device)
    scores = q @ k.mT * q.shape[-1] ** -0.5
    return torch.softmax(scores.masked_fill(i > i[:, None], float("-inf")), -1) @ v


def bent_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    """ALiBi, a soft cap and a causal window together."""
    i = torch.arange(q.shape[-2], device=q.device)
    behind = i[:, None] - i
    scores = torch.tanh(q @ k.mT * (q.shape[-1] ** -0.5 / CAP)) * CAP - slopes[:, None, None] * behind
    return torch.softmax(scores.masked_fill((behind < 0) | (behind >= WINDOW), float("-inf")), -1) @ v


def linear_gelu(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    return F.gelu(F.linear(x, w, b)) + residual


def linear_swiglu(x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return F.silu(x @ gate.mT) * (x @ up.mT)


def rms_norm_linear(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, x.shape[-1:]) @ w.mT


def linear_cross_entropy(x: torch.Tensor, w: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(x @ w.mT, target)


def matmul(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return x @ w


def _heads(batch: int, heads: int, queries: int, keys: int, head: int) -> tuple[Tensor, ...]:
    q, k = (Tensor((batch, heads, n, head)) for n in (queries, keys))
    return q, k, k


def _matrices(rows: int, *width: int) -> tuple[Tensor, ...]:
    return tuple(Tensor((rows, n)) for n in width)


CONTRACTIONS: tuple[Workload, ...] = (
    Workload("matmul", matmul, _matrices(4096, 4096, 4096), (Tensor((33, 70)), Tensor((70, 50)))),
    Workload("split_k", matmul, (Tensor((16, 8192)), Tensor((8192, 4096))), (Tensor((5, 3000)), Tensor((3000, 20)))),
    Workload("attention", attention, _heads(4, 16, 4096, 4096, 64), _heads(1, 2, 33, 70, 64)),
    Workload("attention_128", attention, _heads(4, 16, 4096, 4096, 128), _heads(1, 2, 33, 70, 128)),
    Workload("causal_attention", causal_attention, _heads(4, 16, 4096, 4096, 64), _heads(1, 2, 70, 70, 64)),
    Workload(
        "bent_attention", bent_attention,
        (*_heads(1, 8, 4096, 4096, 64), Tensor((8,))), (*_heads(1, 2, 70, 70, 64), Tensor((2,))),
    ),
    Workload("decoding", attention, _heads(4, 8, 1, 8192, 64), _heads(1, 2, 1, 700, 64)),
    Workload(
        "linear_gelu", linear_gelu,
        (Tensor((4096, 4096)), Tensor((4096, 4096)), Tensor((4096,)), Tensor((4096, 4096))),
        (Tensor((33, 70)), Tensor((50, 70)), Tensor((50,)), Tensor((33, 50))),
    ),
    Workload("linear_swiglu", linear_swiglu, _matrices(4096, 4096, 4096, 4096), _matrices(33, 70, 70, 70)),
    Workload("rms_norm_linear", rms_norm_linear, _matrices(4096, 4096, 4096), _matrices(33, 70, 70)),
    Workload(
        "linear_cross_entropy", linear_cross_entropy,
        (Tensor((2048, 576)), Tensor((49152, 576)), Tensor((2048,), 49152)),
        (Tensor((33, 64)), Tensor((500, 64)), Tensor((33,), 500)), launches=2,
    ),
)  # fmt: skip
