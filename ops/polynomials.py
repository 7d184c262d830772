"""Orthogonal polynomials of a known degree n, by the recurrences that define them: p(0) = 1, p(1) is given, and each
further one follows from the two before it. As in torch, a fraction of n is dropped, and p(n) is 0 where n < 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from fusedsl.errors import BadArgument
from fusedsl.ir import Node, Number, declare

from .compare import eq, where
from .convert import rounded_once
from .elementwise import abs
from .factories import filled
from .trigonometry import acos, cos, sin

MOST = 100  # a kernel has some lines for each step

Step = Callable[[Node, Node, "Node | float", int], Node]


def _polynomial(first: Callable[[Node], Node], step: Step) -> Callable[[Node, int], Node]:
    """p(1) = first(x), p(k + 1) = step(x, p(k), p(k - 1), k)"""

    def polynomial(x: Node, n: int) -> Node:
        if n < 1:
            return filled(x.shape, 1.0 if n == 0 else 0.0, x.dtype)
        before: Node | float = 1.0
        last = first(x)
        for k in range(1, n):
            before, last = last, step(x, last, before, k)
        return last

    return polynomial


def _of_degree(polynomial: Callable[[Node, int], Node]) -> Callable[..., Node]:
    """An expansion of a call with x and n."""

    def expand(x: Node, n: float) -> Node:
        if n > MOST:
            hint = "Call it outside of the fused function."
            raise BadArgument(op="a polynomial", name="n", rule=f"at most {MOST}", got=n, hint=hint)
        return polynomial(x, int(n))

    return rounded_once(expand)


def _reference(function: Callable[..., torch.Tensor], x: torch.Tensor, n: float) -> torch.Tensor:
    """torch's function, of which some do not say what they are of NaN."""
    result = function(x, n)
    return torch.where(torch.isnan(x), x, result) if n >= 1 else result


def _chebyshev(first: Callable[[Node], Node], wave: Callable[[Node, int], Node], above: int, shifted: bool = False):
    """Of degrees above one, a wave in acos(x) where |x| < 1. shifted: of 2x - 1 instead of x."""
    recurrence = _polynomial(first, lambda x, last, before, k: (x + x) * last - before)

    def polynomial(x: Node, n: int) -> Node:
        x = x + x - 1.0 if shifted else x
        return where(abs(x) < 1, wave(acos(x), n), recurrence(x, n)) if n > above else recurrence(x, n)

    return _of_degree(polynomial)


def _wave_t(angle: Node, n: int) -> Node:
    return cos(angle * n)


def _wave_u(angle: Node, n: int) -> Node:
    return sin(angle * (n + 1)) / sin(angle)


def _wave_v(angle: Node, n: int) -> Node:
    end = (-1.0) ** n * (n + n + 1)  # where cos(angle / 2) has no digits left
    half = angle * 0.5
    return where(eq(sin(half), 1), end, cos(angle * (n + 0.5)) / cos(half))


def _wave_w(angle: Node, n: int) -> Node:
    return sin(angle * (n + 0.5)) / sin(angle * 0.5)


def _t(x: Node) -> Node:
    return x


def _u(x: Node) -> Node:
    return x + x


def _v(x: Node) -> Node:
    return x + x - 1.0


def _w(x: Node) -> Node:
    return x + x + 1.0


@declare(expand=_chebyshev(_t, _wave_t, 6))
def chebyshev_polynomial_t(x: torch.Tensor, n: Number):
    """cos(n acos x): p(1) = x, p(k + 1) = 2x p(k) - p(k - 1)"""
    return _reference(torch.special.chebyshev_polynomial_t, x, n)


@declare(expand=_chebyshev(_u, _wave_u, 8))
def chebyshev_polynomial_u(x: torch.Tensor, n: Number):
    """sin((n + 1) acos x) / sin(acos x): p(1) = 2x, p(k + 1) = 2x p(k) - p(k - 1)"""
    return _reference(torch.special.chebyshev_polynomial_u, x, n)


@declare(expand=_chebyshev(_v, _wave_v, 8))
def chebyshev_polynomial_v(x: torch.Tensor, n: Number):
    """cos((n + 1/2) acos x) / cos(acos(x) / 2): p(1) = 2x - 1, p(k + 1) = 2x p(k) - p(k - 1)"""
    return _reference(torch.special.chebyshev_polynomial_v, x, n)


@declare(expand=_chebyshev(_w, _wave_w, 8))
def chebyshev_polynomial_w(x: torch.Tensor, n: Number):
    """sin((n + 1/2) acos x) / sin(acos(x) / 2): p(1) = 2x + 1, p(k + 1) = 2x p(k) - p(k - 1)"""
    return _reference(torch.special.chebyshev_polynomial_w, x, n)


@declare(expand=_chebyshev(_t, _wave_t, 6, shifted=True), domain=(-1, 2))
def shifted_chebyshev_polynomial_t(x: torch.Tensor, n: Number):
    """chebyshev_polynomial_t(2x - 1, n)"""
    return _reference(torch.special.shifted_chebyshev_polynomial_t, x, n)


@declare(expand=_chebyshev(_u, _wave_u, 6, shifted=True), domain=(-1, 2))
def shifted_chebyshev_polynomial_u(x: torch.Tensor, n: Number):
    """chebyshev_polynomial_u(2x - 1, n)"""
    return _reference(torch.special.shifted_chebyshev_polynomial_u, x, n)


@declare(expand=_chebyshev(_v, _wave_v, 6, shifted=True), domain=(-1, 2))
def shifted_chebyshev_polynomial_v(x: torch.Tensor, n: Number):
    """chebyshev_polynomial_v(2x - 1, n)"""
    return _reference(torch.special.shifted_chebyshev_polynomial_v, x, n)


@declare(expand=_chebyshev(_w, _wave_w, 4, shifted=True), domain=(-1, 2))
def shifted_chebyshev_polynomial_w(x: torch.Tensor, n: Number):
    """chebyshev_polynomial_w(2x - 1, n)"""
    return _reference(torch.special.shifted_chebyshev_polynomial_w, x, n)


@declare(expand=_of_degree(_polynomial(_u, lambda x, last, before, k: (x + x) * last - before * (2 * k))))
def hermite_polynomial_h(x: torch.Tensor, n: Number):
    """p(1) = 2x, p(k + 1) = 2x p(k) - 2k p(k - 1)"""
    return _reference(torch.special.hermite_polynomial_h, x, n)


@declare(expand=_of_degree(_polynomial(_t, lambda x, last, before, k: x * last - before * k)))
def hermite_polynomial_he(x: torch.Tensor, n: Number):
    """p(1) = x, p(k + 1) = x p(k) - k p(k - 1)"""
    return _reference(torch.special.hermite_polynomial_he, x, n)


@declare(expand=_of_degree(_polynomial(
    lambda x: 1.0 - x, lambda x, last, before, k: ((1.0 - x + 2 * k) * last - before * k) / (k + 1)
)))  # fmt: skip
def laguerre_polynomial_l(x: torch.Tensor, n: Number):
    """p(1) = 1 - x, p(k + 1) = ((2k + 1 - x) p(k) - k p(k - 1)) / (k + 1)"""
    return _reference(torch.special.laguerre_polynomial_l, x, n)


@declare(expand=_of_degree(_polynomial(
    _t, lambda x, last, before, k: (x * (2 * k + 1) * last - before * k) / (k + 1)
)))  # fmt: skip
def legendre_polynomial_p(x: torch.Tensor, n: Number):
    """p(1) = x, p(k + 1) = ((2k + 1) x p(k) - k p(k - 1)) / (k + 1)"""
    return _reference(torch.special.legendre_polynomial_p, x, n)
