"""Activation functions: compositions that are rounded once, at the end."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from fusedsl import ir
from fusedsl.errors import BadArgument
from fusedsl.index import divide_exactly
from fusedsl.ir import Choice, Dim, Node, Number, declare
from fusedsl.types import show_shape

from .compare import clamp, where
from .convert import narrow, rounded_once, wide
from .elementwise import abs, exp, expm1, log1p, sigmoid
from .helpers import by_kind
from .movement import select, slice, unsqueeze
from .rules import numeric
from .special import erf
from .trigonometry import tanh


def _as(value: float, x: Node) -> Node:
    """A number in x's dtype."""
    return ir.cast(ir.as_node(value), x.dtype)


@declare(type=numeric, triton=by_kind("_maximum({0}, 0)", "tl.maximum({0}, 0)"), homogeneous=True)
def relu(x: torch.Tensor):
    """maximum(x, 0)"""
    return torch.relu(x)


@declare(expand=lambda x: clamp(x, 0, 6))
def relu6(x: torch.Tensor):
    """clamp(x, 0, 6)"""
    return F.relu6(x)


@declare(expand=lambda x, min_val, max_val: clamp(x, _as(min_val, x), _as(max_val, x)))
def hardtanh(x: torch.Tensor, min_val: Number = -1.0, max_val: Number = 1.0):
    """clamp(x, min_val, max_val)"""
    return F.hardtanh(x, min_val, max_val)


@declare(expand=rounded_once(lambda x, negative_slope: where(x > 0, x, x * negative_slope)))
def leaky_relu(x: torch.Tensor, negative_slope: Number = 0.01):
    """x where x > 0, else negative_slope * x"""
    return F.leaky_relu(x, negative_slope)


@declare(expand=rounded_once(lambda x, alpha: where(x > 0, x, alpha * expm1(x))))
def elu(x: torch.Tensor, alpha: Number = 1.0):
    """x where x > 0, else alpha (e^x - 1)"""
    return F.elu(x, alpha)


@declare(expand=rounded_once(lambda x, alpha: where(x > 0, x, alpha * expm1(x * (1 / alpha)))))
def celu(x: torch.Tensor, alpha: Number = 1.0):
    """x where x > 0, else alpha (e^(x / alpha) - 1)"""
    return F.celu(x, alpha)


_SELU, _SELU_ALPHA = 1.0507009873554804934, 1.6732632423543772848


@declare(expand=rounded_once(lambda x: where(x > 0, _SELU * x, (_SELU * _SELU_ALPHA) * expm1(x))))
def selu(x: torch.Tensor):
    """1.0507 x where x > 0, else 1.0507 * 1.6733 (e^x - 1)"""
    return F.selu(x)


def _gelu(x: Node, approximate: str) -> Node:
    if approximate == "none":
        return x * 0.5 * (1 + erf(x * math.sqrt(0.5)))
    if approximate == "tanh":
        # (1 + tanh(u)) / 2 is 1 / (1 + e^-2u), which loses no digits where tanh(u) is near -1
        slope = -2 * math.sqrt(2 / math.pi)
        return x / (1 + exp(x * (slope + slope * 0.044715 * (x * x))))
    raise BadArgument(op="gelu", name="approximate", rule="'none' or 'tanh'", got=repr(approximate), hint="")


@declare(expand=rounded_once(_gelu))
def gelu(x: torch.Tensor, approximate: Choice = "none"):
    """x Phi(x), with Phi the normal distribution, exactly or by a formula in tanh"""
    return F.gelu(x, approximate=approximate)


@declare(expand=rounded_once(lambda x: x / (1 + exp(-x))))
def silu(x: torch.Tensor):
    """x sigmoid(x)"""
    return F.silu(x)


@declare(expand=rounded_once(lambda x: x * tanh(log1p(exp(x)))))
def mish(x: torch.Tensor):
    """x tanh(softplus(x))"""
    return F.mish(x)


@declare(expand=rounded_once(
    lambda x, beta, threshold: where(x * beta > threshold, x, log1p(exp(x * beta)) / beta)
))  # fmt: skip
def softplus(x: torch.Tensor, beta: Number = 1.0, threshold: Number = 20.0):
    """ln(1 + e^(beta x)) / beta; x itself where beta x > threshold"""
    return F.softplus(x, beta, threshold)


@declare(expand=rounded_once(lambda x: x / (1 + abs(x))))
def softsign(x: torch.Tensor):
    """x / (1 + |x|)"""
    return F.softsign(x)


@declare(expand=rounded_once(lambda x: clamp(x + 3, 0, 6) / 6))
def hardsigmoid(x: torch.Tensor):
    """clamp(x + 3, 0, 6) / 6"""
    return F.hardsigmoid(x)


@declare(expand=rounded_once(lambda x: x * clamp(x + 3, 0, 6) / 6))
def hardswish(x: torch.Tensor):
    """x clamp(x + 3, 0, 6) / 6"""
    return F.hardswish(x)


@declare(expand=rounded_once(lambda x: x - tanh(x)))
def tanhshrink(x: torch.Tensor):
    """x - tanh(x)"""
    return F.tanhshrink(x)


@declare(expand=rounded_once(lambda x, lambd: where(x > lambd, x - lambd, where(x < -lambd, x + lambd, x * 0))))
def softshrink(x: torch.Tensor, lambd: Number = 0.5):
    """x drawn towards 0 by lambd"""
    return F.softshrink(x, lambd)


@declare(expand=rounded_once(lambda x, lambd: where((x >= -lambd) & (x <= lambd), 0.0, x)))
def hardshrink(x: torch.Tensor, lambd: Number = 0.5):
    """0 where |x| <= lambd, else x"""
    return F.hardshrink(x, lambd)


@declare(expand=rounded_once(lambda x: clamp(x, None, 0) - log1p(exp(-abs(x)))))
def logsigmoid(x: torch.Tensor):
    """ln sigmoid(x)"""
    return F.logsigmoid(x.contiguous())  # as its CPU kernel lays out the result; the meta one does not


@declare(expand=lambda x, threshold, value: where(x <= threshold, _as(value, x), x))
def threshold(x: torch.Tensor, threshold: Number, value: Number):
    """value where x <= threshold, else x"""
    return F.threshold(x, threshold, value)


def _prelu(x: Node, weight: Node) -> Node:
    if weight.rank == 1 and x.rank == 0:
        weight = select(weight, 0, 0)
    for _ in range(x.rank - 2 if weight.rank == 1 else 0):  # one weight a channel: channels are dim 1
        weight = unsqueeze(weight, -1)
    return where(x > 0, x, x * weight)


@declare(expand=rounded_once(_prelu))
def prelu(x: torch.Tensor, weight: torch.Tensor):
    """x where x > 0, else weight * x; one weight, or one a channel in dim 1"""
    return F.prelu(x, weight)


def _glu(x: Node, dim: int) -> Node:
    n = x.shape[dim]
    half = divide_exactly(n, 2)
    if half is None:
        raise BadArgument(op="glu", name="x", rule=f"of even size in dim {dim}", got=show_shape(x.shape), hint="")
    first, second = slice(x, dim, 0, half), slice(x, dim, half, n)
    return narrow(wide(first, x.dtype) * sigmoid(wide(second, x.dtype)), x.dtype)


@declare(expand=_glu)
def glu(x: torch.Tensor, dim: Dim = -1):
    """The first half of dim times the sigmoid of the second half."""
    return F.glu(x, dim)
