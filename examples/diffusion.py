"""What stands between the convolutions of a U-Net and between the products of a diffusion transformer.

Run it with `python -m examples.diffusion`.
"""

import torch
import torch.nn.functional as F

from fusedsl import fuse

from .measure import report


@fuse
def group_norm_silu(x, weight, bias, groups):
    return F.silu(F.group_norm(x, groups, weight, bias))


def modulate(x, shift, scale):
    """Adaptive layer norm: the time step, not a weight, says how to scale and shift."""
    return F.layer_norm(x, x.shape[-1:]) * (1 + scale[:, None]) + shift[:, None]


@fuse
def close_and_modulate(x, branch, gate, shift, scale):
    """From one branch of a block to the next: the gated residual, then the next branch's modulated norm."""
    x = x + gate[:, None] * branch
    return x, modulate(x, shift, scale)


def main(batch: int = 2, channels: int = 32, side: int = 8, tokens: int = 16, width: int = 288) -> float:
    """Runs each and returns the greatest error against float64, relative to the greatest value."""
    image, (weight, bias) = torch.randn(batch, channels, side, side), torch.randn(2, channels)
    x, branch = torch.randn(2, batch, tokens, width)
    gate, shift, scale = torch.randn(batch, 3 * width).chunk(3, -1)
    return max(
        report(group_norm_silu, image, weight, bias, 8),
        report(fuse(modulate), x, shift, scale),
        report(close_and_modulate, x, branch, gate, shift, scale),
    )


if __name__ == "__main__":
    main()
