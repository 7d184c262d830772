"""The chains that are compared: a torch function, its arguments, and how to ask Liger for the same.

Extents are powers of two, so that everybody's tiles divide them and no tail is counted. Where Liger has no kernel for
a chain, or for a part of it, it is left out.
"""

# pyright: reportMissingImports=false
# Liger is there where somebody asks for it.

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
import torch.nn.functional as F

from .. import workloads
from ..workloads import Tensor

Liger = Callable[..., Any]


@dataclass(frozen=True)
class Chain:
    """A function and the shapes of its arguments. read_rows: of arguments of which only so many elements are read."""

    name: str
    function: Callable[..., Any]
    tensors: tuple[Tensor, ...]
    liger: Liger | None = None
    read_rows: Mapping[int, int] = field(default_factory=dict)

    def args(self, dtype: torch.dtype, device: str) -> tuple[torch.Tensor, ...]:
        """The arguments without their values; on the CPU integers are zero."""
        return tuple(_make(each, dtype, device) for each in self.tensors)

    @property
    def elements(self) -> int:
        """Of the largest argument, as far as it is read."""
        return max(self.read_rows.get(at, prod(each.shape)) for at, each in enumerate(self.tensors))

    def distinct_bytes(self, dtype: torch.dtype) -> dict[int, int]:
        return {at: count * dtype.itemsize for at, count in self.read_rows.items()}


def _make(tensor: Tensor, dtype: torch.dtype, device: str) -> torch.Tensor:
    if tensor.below:
        return torch.zeros(tensor.shape, dtype=torch.int64, device=device)
    return torch.empty(tensor.shape, dtype=dtype, device=device)


def group_norm(x, weight, bias):
    return F.group_norm(x, 32, weight, bias)


def kl_div(log_p, target):
    return F.kl_div(log_p, target, reduction="batchmean")


def quantize_fp8(x):
    scale = x.float().abs().amax(-1, keepdim=True).clamp(min=1e-12) / 448
    return (x.float() / scale).to(torch.float8_e4m3fn), scale


def embedding_norm(ids, table, weight):
    return F.rms_norm(F.embedding(ids, table), (table.shape[-1],), weight, 1e-6)


# ---- Liger's host code for each, imported when it is called ----------------------------------------------------------


def _rms_norm(x, weight):
    from liger_kernel.ops.rms_norm import rms_norm_forward

    return rms_norm_forward(x, weight, 1e-6, 0.0, "llama", row_mode=False)


def _layer_norm(x, weight, bias):
    from liger_kernel.ops.layer_norm import layer_norm_forward

    return layer_norm_forward(x, weight, bias, 1e-5)


def _add_rms_norm(x, residual, weight):
    from liger_kernel.ops.fused_add_rms_norm import fused_add_rms_norm_forward

    return fused_add_rms_norm_forward(x, residual, weight, 1e-6, 0.0, "llama")


def _swiglu(gate, up):
    from liger_kernel.ops.swiglu import swiglu_forward

    return swiglu_forward(gate, up)


def _geglu(gate, up):
    from liger_kernel.ops.geglu import geglu_forward

    return geglu_forward(gate, up)


def _softmax(x):
    from liger_kernel.ops.softmax import _softmax_forward

    return _softmax_forward(x)


def _cross_entropy(logits, target):
    from liger_kernel.ops.cross_entropy import cross_entropy_forward

    return cross_entropy_forward(logits, target, None, -100, 0.0, 0.0, "none", None, False)


def _group_norm(x, weight, bias):
    from liger_kernel.ops.group_norm import group_norm_forward

    return group_norm_forward(x, x.shape[1], 32, weight, bias, 1e-5)


def _kl_div(log_p, target):
    from liger_kernel.ops.kl_div import kldiv_forward_triton

    return kldiv_forward_triton(log_p, target, False, "batchmean", 1e-10)


def _embedding_norm(ids, table, weight):
    from liger_kernel.ops.experimental.embedding import LigerEmbeddingFunction

    rows = LigerEmbeddingFunction.apply(table, ids)
    return _rms_norm(rows, weight)


def _rows(rows: int, width: int, matrices: int, vectors: int) -> tuple[Tensor, ...]:
    return (Tensor((rows, width)),) * matrices + (Tensor((width,)),) * vectors


CHAINS: dict[str, Chain] = {
    chain.name: chain
    for chain in (
        Chain("rms_norm", workloads.rms_norm, _rows(2048, 8192, 1, 1), _rms_norm),
        Chain("layer_norm", workloads.layer_norm, _rows(4096, 4096, 1, 2), _layer_norm),
        Chain("add_rms_norm", workloads.add_rms_norm, _rows(4096, 4096, 2, 1), _add_rms_norm),
        Chain("swiglu", workloads.swiglu, _rows(8192, 8192, 2, 0), _swiglu),
        Chain("geglu", workloads.geglu, _rows(8192, 8192, 2, 0), _geglu),
        Chain("softmax", workloads.softmax, _rows(4096, 4096, 1, 0), _softmax),
        Chain("cross_entropy", workloads.cross_entropy, (Tensor((4096, 32768)), Tensor((4096,), 32768)),
              _cross_entropy),
        Chain("group_norm", group_norm, (Tensor((32, 1024, 16, 16)), Tensor((1024,)), Tensor((1024,))), _group_norm),
        Chain("kl_div", kl_div, _rows(2048, 32768, 2, 0), _kl_div),
        Chain("kl_div_softmax", workloads.kl_div, _rows(2048, 32768, 2, 0)),
        Chain("quantize_fp8", quantize_fp8, _rows(4096, 4096, 1, 0)),
        Chain("embedding_norm", embedding_norm, (Tensor((8, 2048), 32000), Tensor((32000, 4096)), Tensor((4096,))),
              _embedding_norm, {1: 8 * 2048 * 4096}),
    )
}  # fmt: skip
