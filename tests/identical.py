"""When two tensors are the same: bit for bit, but for what a NaN is made of."""

import torch


def identical(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Where two tensors hold the same: -0.0 is not 0.0, one NaN is as good as another."""
    if not a.is_floating_point():
        return a == b
    a, b = a.double(), b.double()
    return ((a == b) & (a.signbit() == b.signbit())) | (a.isnan() & b.isnan())


def assert_identical(a: torch.Tensor, b: torch.Tensor) -> None:
    """The same dtype, shape and values."""
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    wrong = ~identical(a, b)
    assert not wrong.any(), f"{int(wrong.sum())} of {wrong.numel()} differ: {a[wrong][:5]} and {b[wrong][:5]}"
