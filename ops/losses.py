"""Losses: compositions that compute in f32 at least; a reduction "mean" or "sum" is rounded once, at the end."""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
import torch.nn.functional as F

from fusedsl import ir
from fusedsl.errors import BadArgument, DTypesDisagree
from fusedsl.ir import Choice, Flag, Node, Number, Size, declare, spells
from fusedsl.types import DType, same_size, show_shape

from .activation import logsigmoid
from .compare import clamp_min, le, maximum, ne, where
from .convert import float_of, narrow, wide
from .elementwise import abs, exp, log, log1p, xlogy
from .indexing import gather, pick
from .movement import squeeze, unsqueeze
from .norms import log_softmax
from .reduce import count, mean, sum
from .rules import without


def finished(loss: Node, reduction: str, op: str, dt: DType) -> Node:
    """A loss reduced as it is asked for, and rounded."""
    if reduction not in ("none", "mean", "sum"):
        raise BadArgument(op=op, name="reduction", rule="'none', 'mean' or 'sum'", got=repr(reduction), hint="")
    return narrow({"none": lambda x: x, "mean": mean, "sum": sum}[reduction](loss), dt)


def _regression(name: str, formula):
    """A loss out of the difference of each pair. A weighted mean is over the weights, but for Huber's."""

    def expand(x: Node, target: Node, weight: Node | None = None, *, reduction: str, **attrs) -> Node:
        dt = float_of(x, target, weight)
        loss = formula(wide(x, dt) - wide(target, dt), **attrs)
        if weight is None:
            return finished(loss, reduction, name, dt)
        if not (weight.rank == x.rank and all(map(same_size, weight.shape, x.shape))):
            raise BadArgument(op=name, name="weight", rule=f"of x's shape, {show_shape(x.shape)}",
                              got=show_shape(weight.shape), hint="")  # fmt: skip
        weight = wide(weight, dt)
        loss = loss * weight
        if reduction == "mean" and name != "huber_loss":
            return narrow(sum(loss) / sum(weight), dt)
        return finished(loss, reduction, name, dt)

    return expand


def _weighed(weight: torch.Tensor | None) -> dict[str, Any]:
    """The argument `weight`, which older versions of torch do not have."""
    return {} if weight is None else {"weight": weight}


@declare(expand=_regression("mse_loss", lambda d: d * d))
def mse_loss(x: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None, reduction: Choice = "mean"):
    """(x - target)^2"""
    return F.mse_loss(x, target, reduction=reduction, **_weighed(weight))


@declare(expand=_regression("l1_loss", lambda d: abs(d)))
def l1_loss(x: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None, reduction: Choice = "mean"):
    """|x - target|"""
    if weight is None:
        return F.l1_loss(x, target, reduction=reduction)
    loss = (x - target).abs() * weight  # in a mode (torch.device, say) torch 2.13 forgets the weight
    return {"none": loss, "sum": loss.sum(), "mean": loss.sum() / weight.sum()}[reduction]


@spells("F.l1_loss")
def l1_loss_(input, target, size_average=None, reduce=None, reduction="mean"):
    """torch 2.13 passes on all but the weight to modes and subclasses, so that is taken from the call itself."""
    if size_average is not None or reduce is not None:
        hint = "Use reduction=."
        raise BadArgument(op="l1_loss", name="size_average and reduce", rule="None", got="another", hint=hint)
    frame = sys._getframe()
    while frame is not None and frame.f_code is not F.l1_loss.__code__:
        frame = frame.f_back
    return l1_loss(input, target, None if frame is None else frame.f_locals.get("weight"), reduction)


def _smooth_l1(d: Node, beta: float) -> Node:
    return abs(d) if beta == 0 else where(abs(d) < beta, d * d * (0.5 / beta), abs(d) - 0.5 * beta)


@declare(expand=_regression("smooth_l1_loss", _smooth_l1))
def smooth_l1_loss(x: torch.Tensor, target: torch.Tensor, reduction: Choice = "mean", beta: Number = 1.0):
    """d^2 / (2 beta) where |d| < beta, else |d| - beta / 2, with d = x - target"""
    return F.smooth_l1_loss(x, target, reduction=reduction, beta=beta)


def _huber(d: Node, delta: float) -> Node:
    return where(abs(d) <= delta, d * d * 0.5, (abs(d) - 0.5 * delta) * delta)


@declare(expand=_regression("huber_loss", _huber))
def huber_loss(x: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None, reduction: Choice = "mean",
               delta: Number = 1.0):  # fmt: skip
    """d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2), with d = x - target"""
    return F.huber_loss(x, target, reduction=reduction, delta=delta, **_weighed(weight))


def _kl_div(x: Node, target: Node, reduction: str, log_target: bool) -> Node:
    dt = float_of(x, target)
    x, target = wide(x, dt), wide(target, dt)
    loss = exp(target) * (target - x) if log_target else xlogy(target, target) - target * x
    if reduction == "batchmean":
        return narrow(sum(loss) / x.shape[0] if x.rank else loss, dt)
    return finished(loss, reduction, "kl_div", dt)


@declare(expand=_kl_div, domain=((-4, 0), (0, 1)))
def kl_div(x: torch.Tensor, target: torch.Tensor, reduction: Choice = "mean", log_target: Flag = False):
    """target (ln target - x), or e^target (target - x); "batchmean" divides the sum by the first size"""
    return F.kl_div(x, target, reduction=reduction, log_target=log_target)


def _poisson(x: Node, target: Node, log_input: bool, full: bool, eps: float, reduction: str) -> Node:
    dt = float_of(x, target)
    x, t = wide(x, dt), wide(target, dt)
    loss = exp(x) - t * x if log_input else x - t * log(x + eps)
    if full:
        loss = loss + where(le(t, 1), 0.0, t * log(t) - t + log(t * (2 * math.pi)) * 0.5)
    return finished(loss, reduction, "poisson_nll_loss", dt)


@declare(expand=_poisson, domain=((0, 3), (0, 4)))
def poisson_nll_loss(x: torch.Tensor, target: torch.Tensor, log_input: Flag = True, full: Flag = False,
                     eps: Number = 1e-8, reduction: Choice = "mean"):  # fmt: skip
    """e^x - target x, or x - target ln(x + eps); in full with t ln t - t + ln(2 pi t) / 2 for targets t above 1"""
    return F.poisson_nll_loss(x, target, log_input, full, eps=eps, reduction=reduction)


def _gaussian(x: Node, target: Node, var: Node, full: bool, eps: float, reduction: str) -> Node:
    dt = float_of(x, target, var)
    if var.rank == x.rank - 1 and all(map(same_size, var.shape, x.shape)):
        var = unsqueeze(var, -1)
    var = clamp_min(wide(var, dt), eps)
    off = wide(x, dt) - wide(target, dt)
    loss = (log(var) + off * off / var) * 0.5
    return finished(loss + 0.5 * math.log(2 * math.pi) if full else loss, reduction, "gaussian_nll_loss", dt)


@declare(expand=_gaussian, domain=((-4, 4), (-4, 4), (0, 4)))
def gaussian_nll_loss(x: torch.Tensor, target: torch.Tensor, var: torch.Tensor, full: Flag = False,
                      eps: Number = 1e-6, reduction: Choice = "mean"):  # fmt: skip
    """(ln v + (x - target)^2 / v) / 2 with v = max(var, eps); in full with ln(2 pi) / 2"""
    if x.is_meta:  # torch looks for negative variances
        return F.mse_loss(x, target.to(torch.result_type(target, var)), reduction=reduction)
    return F.gaussian_nll_loss(x, target, var, full, eps, reduction)


def _cross_bits(x: Node, target: Node, weight: Node | None, reduction: str) -> Node:
    dt = float_of(x, target)
    p, t = wide(x, dt), wide(target, dt)
    loss = -(t * maximum(log(p), -100) + (1 - t) * maximum(log1p(-p), -100))
    return finished(loss if weight is None else loss * wide(weight, dt), reduction, "binary_cross_entropy", dt)


@declare(expand=_cross_bits, domain=((0, 1), (0, 1), (0, 1)))
def binary_cross_entropy(x: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None,
                         reduction: Choice = "mean"):  # fmt: skip
    """-(target ln x + (1 - target) ln(1 - x)), with logarithms of at least -100"""
    return F.binary_cross_entropy(x, target, weight, reduction=reduction)


def _cross_logits(x: Node, target: Node, weight: Node | None, pos_weight: Node | None, reduction: str) -> Node:
    dt = float_of(x, target)
    z, t = wide(x, dt), wide(target, dt)
    log_of_no = log1p(exp(-abs(z))) + maximum(-z, 0)  # -ln sigmoid(z)
    if pos_weight is None:
        loss = (1 - t) * z + log_of_no
    else:
        loss = (1 - t) * z + (1 + (wide(pos_weight, dt) - 1) * t) * log_of_no
    loss = loss if weight is None else loss * wide(weight, dt)
    return finished(loss, reduction, "binary_cross_entropy_with_logits", dt)


@declare(expand=_cross_logits, domain=((-4, 4), (0, 1), (0, 1), (0, 1)))
def binary_cross_entropy_with_logits(x: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None,
                                     reduction: Choice = "mean", pos_weight: torch.Tensor | None = None):  # fmt: skip
    """binary_cross_entropy of sigmoid(x), without overflow"""
    return F.binary_cross_entropy_with_logits(x, target, weight, reduction=reduction, pos_weight=pos_weight)


def _multilabel_soft_margin(x: Node, target: Node, weight: Node | None, reduction: str) -> Node:
    dt = float_of(x, target)
    z, t = wide(x, dt), wide(target, dt)
    loss = -(t * logsigmoid(z) + (1 - t) * logsigmoid(-z))
    loss = loss if weight is None else loss * wide(weight, dt)
    return finished(mean(loss, -1), reduction, "multilabel_soft_margin_loss", dt)


@declare(expand=_multilabel_soft_margin, domain=((-4, 4), (0, 1), (0, 1)))
def multilabel_soft_margin_loss(x: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None,
                                reduction: Choice = "mean"):  # fmt: skip
    """binary_cross_entropy of sigmoid(x), the mean over the classes in the last dim"""
    return F.multilabel_soft_margin_loss(x, target, weight, reduction=reduction)


# ---- classes ---------------------------------------------------------------------------------------------------------


def _at_class(x: Node, target: Node, dim: int) -> Node:
    """x at the target's index along dim"""
    return squeeze(gather(x, dim, unsqueeze(target, dim)), dim)


def _negative_likelihood(logs: Node, target: Node, weight: Node | None, ignore_index: int, reduction: str,
                         label_smoothing: float, dt: DType, op: str) -> Node:  # fmt: skip
    """The loss out of the logarithms of probabilities, classes being dim 1, or dim 0 of a vector."""
    if target.dtype.is_float or target.dtype.is_bool:
        raise DTypesDisagree(op=op, rule="targets must be integers", got=str(target.dtype), hint="Use target.long().")
    dim = min(1, logs.rank - 1)
    wanted = without(logs.shape, (dim,))
    if logs.rank == 0 or len(wanted) != target.rank or not all(map(same_size, wanted, target.shape)):
        raise BadArgument(op=op, name="target", rule="of x's shape without the dim of classes",
                          got=f"{show_shape(target.shape)} for {show_shape(logs.shape)}", hint="")  # fmt: skip
    counted = ne(target, ignore_index)
    target = where(counted, target, 0)
    share = ir.cast(counted, logs.dtype)
    if weight is not None:
        share = where(counted, _of_class(wide(weight, dt), target), 0.0)
    loss = where(counted, -_at_class(logs, target, dim), 0.0)
    if weight is not None:
        loss = loss * share
    if label_smoothing > 0:
        spread = logs
        if weight is not None:
            spread = logs * _lined_up(wide(weight, dt), logs.rank, dim)
        smooth = where(counted, -sum(spread, dim), 0.0)
        loss = (1 - label_smoothing) * loss + smooth * label_smoothing / logs.shape[dim]
    if reduction == "mean":
        return narrow(sum(loss) / sum(share), dt)
    return finished(loss, reduction, op, dt)


def _of_class(weight: Node, target: Node) -> Node:
    return pick([weight, target], (0,), 0)


def _lined_up(vector: Node, rank: int, dim: int) -> Node:
    """A vector of dim's size, broadcastable over the dims after it"""
    for _ in range(rank - 1 - dim):
        vector = unsqueeze(vector, -1)
    return vector


def _nll_loss(x: Node, target: Node, weight: Node | None, ignore_index: int, reduction: str) -> Node:
    dt = float_of(x)
    return _negative_likelihood(wide(x, dt), target, weight, ignore_index, reduction, 0.0, dt, "nll_loss")


@declare(expand=_nll_loss)
def nll_loss(x: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None, ignore_index: Size = -100,
             reduction: Choice = "mean"):  # fmt: skip
    """-x[target] weight[target]; the mean is over the weights of targets that are not ignored"""
    return F.nll_loss(x, target, weight, ignore_index=ignore_index, reduction=reduction)


def _cross_entropy(x: Node, target: Node, weight: Node | None, ignore_index: int, reduction: str,
                   label_smoothing: float) -> Node:  # fmt: skip
    dt = float_of(x)
    dim = min(1, x.rank - 1)
    logs = log_softmax(wide(x, dt), dim)
    if not target.dtype.is_float:
        return _negative_likelihood(logs, target, weight, ignore_index, reduction, label_smoothing, dt, "cross_entropy")
    shares = wide(target, dt)  # the target as probabilities
    if label_smoothing > 0:
        shares = shares * (1 - label_smoothing) + ir.as_node(label_smoothing) / x.shape[dim]
    if weight is not None:
        shares = shares * _lined_up(wide(weight, dt), x.rank, dim)
    loss = -sum(logs * shares, dim)
    if reduction == "mean":
        return narrow(sum(loss) / count(loss, range(loss.rank)), dt)
    return finished(loss, reduction, "cross_entropy", dt)


@declare(expand=_cross_entropy)
def cross_entropy(x: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None,
                  ignore_index: Size = -100, reduction: Choice = "mean", label_smoothing: Number = 0.0):  # fmt: skip
    """nll_loss of log_softmax(x) over the classes in dim 1; targets are classes or probabilities"""
    return F.cross_entropy(x, target, weight, ignore_index=ignore_index, reduction=reduction,
                           label_smoothing=label_smoothing)  # fmt: skip
