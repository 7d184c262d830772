"""Liger's kernels for a chain: its own host code is run on CPU tensors, whose launches are caught."""

from __future__ import annotations

import torch

from .chains import Chain
from .launch import Launch
from .record import OtherOps, Work, triton_launches


def generate(chain: Chain, dtype: torch.dtype, target: str) -> Work | None:
    """What a call of Liger's launches, with the block sizes and warps that it calculates; None where it has nothing."""
    if chain.liger is None:
        return None
    args = chain.args(dtype, "cpu")
    launches: list[Launch] = []
    with torch.no_grad(), triton_launches(target, args, launches), OtherOps() as other:
        chain.liger(*args)
    return Work(tuple(launches), tuple(other.found))
