"""The norms of a transformer with the residual add in front: each one launch that reads its inputs once.

Run it with `python -m examples.norms`.

A half is computed in float32 inside the kernel and rounded where it is stored, so the fused norms are closer to
float64 than eager, which rounds after every operation.
"""

import torch
import torch.nn.functional as F

from fusedsl import fuse

from .measure import report


@fuse
def add_rms_norm(x, residual, weight, eps=1e-6):
    h = x + residual
    y = h * torch.rsqrt((h * h).mean(-1, keepdim=True) + eps) * weight
    return h, y


@fuse
def add_layer_norm(x, residual, weight, bias):
    h = x + residual
    return h, F.layer_norm(h, h.shape[-1:], weight, bias)


@fuse
def sandwich_norm(x, branch, before, after):
    """Gemma norms a branch, adds it to the stream, and norms the stream for the next branch."""
    h = x + F.rms_norm(branch, branch.shape[-1:], before)
    return h, F.rms_norm(h, h.shape[-1:], after)


def main(rows: int = 32, width: int = 576) -> float:
    """Runs each norm and returns the greatest error against float64, relative to the greatest value."""
    x, branch = torch.randn(2, rows, width, dtype=torch.float16)
    weight, bias = torch.rand(2, width, dtype=torch.float16)
    return max(
        report(add_rms_norm, x, branch, weight),
        report(add_layer_norm, x, branch, weight, bias),
        report(sandwich_norm, x, branch, weight, bias),
    )


if __name__ == "__main__":
    main()
