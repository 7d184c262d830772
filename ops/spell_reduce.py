"""torch's forms of call for reductions: several results, several forms of one name; in the manner of `spell.py`."""

from __future__ import annotations

import torch

from fusedsl.ir import OPS, spells

from .spell import ops


def _extreme(name: str, pairwise: str, amax: str, argmax: str) -> None:
    @spells(f"torch.{name}", f"Tensor.{name}")
    def extreme(input, dim=None, keepdim=False, *, other=None):
        if other is not None or hasattr(dim, "dtype"):
            return OPS[pairwise](input, dim if other is None else other)
        if dim is None:
            return OPS[amax](input)
        results = OPS[amax](input, dim, keepdim), OPS[argmax](input, dim, keepdim)
        return getattr(torch.return_types, name)(results)


_extreme("max", "maximum", "amax", "argmax")
_extreme("min", "minimum", "amin", "argmin")


def _running(name: str) -> None:
    @spells(f"torch.{name}", f"Tensor.{name}")
    def running(input, dim):
        return getattr(torch.return_types, name)(OPS[name](input, dim))


_running("cummax")
_running("cummin")


@spells("torch.aminmax", "Tensor.aminmax")
def aminmax(input, *, dim=None, keepdim=False):
    return torch.return_types.aminmax(ops.aminmax(input, dim, keepdim))


def _deviation(name: str) -> None:
    op = OPS[name]

    def arguments(dim, unbiased, keepdim, correction):
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        if correction is None:
            correction = 1 if unbiased is None or unbiased else 0
        return {"dim": dim, "correction": correction, "keepdim": keepdim}

    @spells(f"torch.{name}", f"Tensor.{name}")
    def deviation(input, dim=None, unbiased=None, keepdim=False, *, correction=None):
        return op(input, **arguments(dim, unbiased, keepdim, correction))

    @spells(f"torch.{name}_mean")
    def with_mean(input, dim=None, unbiased=None, keepdim=False, *, correction=None):
        given = arguments(dim, unbiased, keepdim, correction)
        return op(input, **given), ops.mean(input, given["dim"], keepdim)


_deviation("var")
_deviation("std")
