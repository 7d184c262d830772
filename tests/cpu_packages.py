"""What the tests of other people's kernels share: quick tuners, and how near a result has to be."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import triton

FLOATS = [torch.float32, torch.bfloat16, torch.float16]


def timed_once(call: Callable[[], Any], *args: Any, quantiles: Any = None, **others: Any) -> list[float]:
    """What stands for `triton.testing.do_bench`: a tuner runs every configuration, and which one wins is not tested."""
    start = time.perf_counter()
    call()
    return [(time.perf_counter() - start) * 1000] * 3


@contextlib.contextmanager
def tuned_once() -> Iterator[pytest.MonkeyPatch]:
    """Tuners time every configuration once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton.testing, "do_bench", timed_once)
        yield patch


def assert_near(
    actual: torch.Tensor, expected: torch.Tensor, roundings: float = 4, dtype: torch.dtype | None = None
) -> None:
    """Within so many roundings, to the type or the result's own, of the largest number: a small element may be what is
    left of large ones. Sums of hundreds of numbers in float32, in another order, are within 1e-5."""
    assert actual.shape == expected.shape
    if not actual.is_floating_point():
        assert torch.equal(actual, expected.to(actual.dtype))
        return
    info = torch.finfo(dtype or actual.dtype)
    near = max(1e-5, roundings * info.eps)
    finite = expected.double()[expected.isfinite()].abs()
    largest = finite.max().item() if finite.numel() else 0.0
    step = info.smallest_normal * info.eps  # of denormals
    torch.testing.assert_close(
        actual.double(), expected.double(), rtol=near, atol=near * largest + step, equal_nan=True
    )


def exact(x: Any) -> Any:
    """The same numbers in float64."""
    return x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x


def assert_same_with_gradients(
    function: Callable[..., Any], reference: Callable[..., Any], *inputs: torch.Tensor | None, roundings: float = 4
) -> None:
    """Results, and gradients for all floating inputs, are those that autograd gets from the reference in float64. The
    type that rounds is the first input's."""
    given, wanted = _leaves(inputs), _leaves([exact(x) for x in inputs])
    # Copies, because some functions leave gradients in what they are given.
    results = _several(function(*[x.clone() if x is not None else None for x in given]))
    expected = _several(reference(*wanted))
    above = [torch.randn_like(each) for each in results]
    torch.autograd.backward(expected, [each.double() for each in above])
    torch.autograd.backward(results, above)
    dtype = next(x.dtype for x in inputs if x is not None)
    for actual, right in zip(results, expected, strict=True):
        assert_near(actual.detach(), right.detach(), roundings, dtype)
    for x, right in zip(given, wanted, strict=True):
        if x is not None and right.grad is not None:
            assert x.grad is not None and x.grad.dtype == x.dtype
            assert_near(x.grad, right.grad, roundings, dtype)


def _leaves(inputs: Any) -> list[Any]:
    return [x.detach().requires_grad_() if x is not None and x.is_floating_point() else x for x in inputs]


def _several(results: Any) -> list[torch.Tensor]:
    return list(results) if isinstance(results, tuple) else [results]
