"""Rotary positions, in both layouts that models use, and behind the norm of each head.

Run it with `python -m examples.rotary`.

Slices and concatenations become index arithmetic, and the transpose from [tokens, heads, head] to [heads, tokens, head]
is in how the kernel reads.
"""

import torch
import torch.nn.functional as F

from fusedsl import fuse

from .measure import report


def turn(a, b, cos, sin):
    return a * cos - b * sin, b * cos + a * sin


@fuse
def rotate_halves(x, cos, sin):
    """Pairs are half a head apart: checkpoints in Hugging Face's layout."""
    a, b = x.chunk(2, -1)
    return torch.cat(turn(a, b, cos, sin), -1)


@fuse
def rotate_pairs(x, cos, sin):
    """Pairs are neighbours: the original layout, and GGUF's for llamas."""
    return torch.stack(turn(x[..., ::2], x[..., 1::2], cos, sin), -1).flatten(-2)


@fuse
def norm_and_rotate(x, weight, cos, sin):
    """Queries and keys of Qwen3 and Gemma 3."""
    a, b = F.rms_norm(x, x.shape[-1:], weight, 1e-6).chunk(2, -1)
    return torch.cat(turn(a, b, cos, sin), -1)


def main(tokens: int = 16, heads: int = 3, head: int = 64) -> float:
    """Runs each and returns the greatest error against float64, relative to the greatest value."""
    x = torch.randn(tokens, heads, head).transpose(0, 1)
    weight = torch.rand(head)
    angle = torch.arange(tokens)[:, None] * 10000.0 ** (-torch.arange(0, head, 2) / head)
    cos, sin = angle.cos(), angle.sin()
    return max(
        report(rotate_halves, x, cos, sin),
        report(rotate_pairs, x, cos, sin),
        report(norm_and_rotate, x, weight, cos, sin),
    )


if __name__ == "__main__":
    main()
