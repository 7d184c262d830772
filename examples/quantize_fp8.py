"""The entrance of an 8-bit linear layer in one launch: add, RMSNorm, and each row in fp8 with a scale of its own.

Run it with `python -m examples.quantize_fp8`.

The normalised row is never in memory in more than 8 bits.
"""

import torch

from fusedsl import fuse

from .measure import error, in_float64, print_cost

FP8_MAX = 448.0
HALF_STEP = 16 / FP8_MAX  # from 256 on, neighbours in e4m3 are 32 apart


def add_rms_norm(x, residual, weight, eps=1e-6):
    h = x + residual
    return h, h * torch.rsqrt((h * h).mean(-1, keepdim=True) + eps) * weight


@fuse
def add_rms_norm_fp8(x, residual, weight):
    h, y = add_rms_norm(x, residual, weight)
    scale = y.abs().amax(-1, keepdim=True).clamp(min=1e-12) / FP8_MAX
    return h, (y / scale).to(torch.float8_e4m3fn), scale


def main(rows: int = 32, width: int = 576) -> float:
    """Returns the greatest error of codes times scale against float64, relative to the greatest value: rounding to
    fp8 alone makes up to HALF_STEP of it."""
    args = torch.randn(rows, width), torch.randn(rows, width), torch.rand(width)
    h, codes, scale = add_rms_norm_fp8(*args)
    worst = error((h, codes.float() * scale), add_rms_norm(*in_float64(args)))
    print_cost(add_rms_norm_fp8, *args)
    print(f"    error against float64 {worst:.1e}, of which rounding to fp8 may make {HALF_STEP:.1e}")
    return worst


if __name__ == "__main__":
    main()
