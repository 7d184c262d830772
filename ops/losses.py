"""Losses: compositions that compute in f32 at least; a reduction "mean" or "sum" is rounded once, at the end."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fusedsl import ir
from fusedsl.errors import BadArgument, DTypesDisagree
from fusedsl.ir import Choice, Flag, Node, Number, Size, declare
from fusedsl.types import DType, same_size, show_shape

from .compare import maximum, ne, where
from .convert import float_of, narrow, wide
from .elementwise import abs, exp, log, log1p, xlogy
from .indexing import gather, pick
from .movement import squeeze, unsqueeze
from .norms import log_softmax
from .reduce import count, mean, sum
from .rules import without


def _finished(loss: Node, reduction: str, op: str, dt: DType) -> Node:
    if reduction not in ("none", "mean", "sum"):
        raise BadArgument(op=op, name="reduction", rule="'none', 'mean' or 'sum'", got=repr(reduction), hint="")
    return narrow({"none": lambda x: x, "mean": mean, "sum": sum}[reduction](loss), dt)


def _regression(name: str, formula):
    """A loss out of the difference of each pair."""

    def expand(x: Node, target: Node, reduction: str, **attrs) -> Node:
        dt = float_of(x, target)
        return _finished(formula(wide(x, dt) - wide(target, dt), **attrs), reduction, name, dt)

    return expand


@declare(expand=_regression("mse_loss", lambda d: d * d))
def mse_loss(x: torch.Tensor, target: torch.Tensor, reduction: Choice = "mean"):
    """(x - target)^2"""
    return F.mse_loss(x, target, reduction=reduction)


@declare(expand=_regression("l1_loss", lambda d: abs(d)))
def l1_loss(x: torch.Tensor, target: torch.Tensor, reduction: Choice = "mean"):
    """|x - target|"""
    return F.l1_loss(x, target, reduction=reduction)


def _smooth_l1(d: Node, beta: float) -> Node:
    return abs(d) if beta == 0 else where(abs(d) < beta, d * d * (0.5 / beta), abs(d) - 0.5 * beta)


@declare(expand=_regression("smooth_l1_loss", _smooth_l1))
def smooth_l1_loss(x: torch.Tensor, target: torch.Tensor, reduction: Choice = "mean", beta: Number = 1.0):
    """d^2 / (2 beta) where |d| < beta, else |d| - beta / 2, with d = x - target"""
    return F.smooth_l1_loss(x, target, reduction=reduction, beta=beta)


def _huber(d: Node, delta: float) -> Node:
    return where(abs(d) <= delta, d * d * 0.5, (abs(d) - 0.5 * delta) * delta)


@declare(expand=_regression("huber_loss", _huber))
def huber_loss(x: torch.Tensor, target: torch.Tensor, reduction: Choice = "mean", delta: Number = 1.0):
    """d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2), with d = x - target"""
    return F.huber_loss(x, target, reduction=reduction, delta=delta)


def _kl_div(x: Node, target: Node, reduction: str, log_target: bool) -> Node:
    dt = float_of(x, target)
    x, target = wide(x, dt), wide(target, dt)
    loss = exp(target) * (target - x) if log_target else xlogy(target, target) - target * x
    if reduction == "batchmean":
        return narrow(sum(loss) / x.shape[0] if x.rank else loss, dt)
    return _finished(loss, reduction, "kl_div", dt)


@declare(expand=_kl_div, domain=((-4, 0), (0, 1)))
def kl_div(x: torch.Tensor, target: torch.Tensor, reduction: Choice = "mean", log_target: Flag = False):
    """target (ln target - x), or e^target (target - x); "batchmean" divides the sum by the first size"""
    return F.kl_div(x, target, reduction=reduction, log_target=log_target)


def _cross_bits(x: Node, target: Node, weight: Node | None, reduction: str) -> Node:
    dt = float_of(x, target)
    p, t = wide(x, dt), wide(target, dt)
    loss = -(t * maximum(log(p), -100) + (1 - t) * maximum(log1p(-p), -100))
    return _finished(loss if weight is None else loss * wide(weight, dt), reduction, "binary_cross_entropy", dt)


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
    return _finished(loss, reduction, "binary_cross_entropy_with_logits", dt)


@declare(expand=_cross_logits, domain=((-4, 4), (0, 1), (0, 1), (0, 1)))
def binary_cross_entropy_with_logits(x: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None,
                                     reduction: Choice = "mean", pos_weight: torch.Tensor | None = None):  # fmt: skip
    """binary_cross_entropy of sigmoid(x), without overflow"""
    return F.binary_cross_entropy_with_logits(x, target, weight, reduction=reduction, pos_weight=pos_weight)


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
    return _finished(loss, reduction, op, dt)


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
    return _finished(loss, reduction, "cross_entropy", dt)


@declare(expand=_cross_entropy)
def cross_entropy(x: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None,
                  ignore_index: Size = -100, reduction: Choice = "mean", label_smoothing: Number = 0.0):  # fmt: skip
    """nll_loss of log_softmax(x) over the classes in dim 1; targets are classes or probabilities"""
    return F.cross_entropy(x, target, weight, ignore_index=ignore_index, reduction=reduction,
                           label_smoothing=label_smoothing)  # fmt: skip
