"""Losses of margins and distances: compositions that are rounded once, at the end."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fusedsl.errors import BadArgument, DTypesDisagree
from fusedsl.ir import Choice, Flag, Node, Number, Size, declare
from fusedsl.types import DType, Type, show_shape

from .compare import clamp_min, eq, lt, minimum, ne, where
from .convert import float_of, wide
from .elementwise import exp, log1p, sqrt
from .indexing import gather, pick
from .losses import finished
from .movement import along, unsqueeze
from .norms import distance
from .reduce import any, mean, reduce_min, sum
from .rules import common


def _hinge_embedding(x: Node, target: Node, margin: float, reduction: str) -> Node:
    dt = float_of(x)
    z = wide(x, dt)
    loss = where(ne(target, 1), clamp_min(margin - z, 0), 0.0) + where(ne(target, -1), z, 0.0)
    return finished(loss, reduction, "hinge_embedding_loss", dt)


@declare(expand=_hinge_embedding, domain=((-4, 4), (-1, 1)))
def hinge_embedding_loss(x: torch.Tensor, target: torch.Tensor, margin: Number = 1.0, reduction: Choice = "mean"):
    """x where target is 1, max(0, margin - x) where it is -1"""
    return F.hinge_embedding_loss(x, target, margin, reduction=reduction)


def _margin_ranking(x1: Node, x2: Node, target: Node, margin: float, reduction: str) -> Node:
    if not x1.rank == x2.rank == target.rank:
        got = " and ".join(show_shape(each.shape) for each in (x1, x2, target))
        raise BadArgument(op="margin_ranking_loss", name="the operands", rule="of one number of dimensions", got=got,
                          hint="")  # fmt: skip
    own, dt = common([x1.type, x2.type, target.type], "margin_ranking_loss"), float_of(x1, x2, target)
    apart = -wide(target, own) * (wide(x1, own) - wide(x2, own))  # integers wrap, as in torch
    return finished(clamp_min(wide(apart, dt) + margin, 0), reduction, "margin_ranking_loss", dt)


@declare(expand=_margin_ranking, domain=((-4, 4), (-4, 4), (-1, 1)))
def margin_ranking_loss(input1: torch.Tensor, input2: torch.Tensor, target: torch.Tensor, margin: Number = 0.0,
                        reduction: Choice = "mean"):  # fmt: skip
    """max(0, -target (input1 - input2) + margin)"""
    return F.margin_ranking_loss(input1, input2, target, margin, reduction=reduction)


def _soft_margin(x: Node, target: Node, reduction: str) -> Node:
    dt = float_of(x, target)
    return finished(log1p(exp(-wide(target, dt) * wide(x, dt))), reduction, "soft_margin_loss", dt)


@declare(expand=_soft_margin, domain=((-4, 4), (-1, 1)))
def soft_margin_loss(x: torch.Tensor, target: torch.Tensor, reduction: Choice = "mean"):
    """ln(1 + e^(-target x))"""
    return F.soft_margin_loss(x, target, reduction=reduction)


# ---- distances -------------------------------------------------------------------------------------------------------


def _cosine_embedding(x1: Node, x2: Node, target: Node, margin: float, reduction: str) -> Node:
    dt, dim = float_of(x1, x2), target.rank
    if target.rank > 1 or not x1.rank == x2.rank == dim + 1:
        got = " and ".join(show_shape(each.shape) for each in (x1, x2, target))
        raise BadArgument(op="cosine_embedding_loss", name="the operands", rule="matrices with a vector of targets, or "
                          "vectors with one target", got=got, hint="")  # fmt: skip
    a, b = wide(x1, dt), wide(x2, dt)
    lengths = sqrt((sum(a * a, dim) + 1e-12) * (sum(b * b, dim) + 1e-12))
    cosine = sum(a * b, dim) / lengths
    loss = where(eq(target, 1), 1 - cosine, 0.0) + where(eq(target, -1), clamp_min(cosine - margin, 0), 0.0)
    return finished(loss, reduction, "cosine_embedding_loss", dt)


@declare(expand=_cosine_embedding, domain=((-4, 4), (-4, 4), (-1, 1)))
def cosine_embedding_loss(input1: torch.Tensor, input2: torch.Tensor, target: torch.Tensor, margin: Number = 0.0,
                          reduction: Choice = "mean"):  # fmt: skip
    """1 - cos(input1, input2) where target is 1, max(0, cos(input1, input2) - margin) where it is -1"""
    return F.cosine_embedding_loss(input1, input2, target, margin, reduction=reduction)


def _triplet_margin(anchor: Node, positive: Node, negative: Node, margin: float, p: float, eps: float, swap: bool,
                    reduction: str) -> Node:  # fmt: skip
    pairs = [(anchor, positive), (anchor, negative), *([(positive, negative)] if swap else [])]
    dt = common([Type(float_of(*pair), ()) for pair in pairs], "triplet_margin_loss")
    near, *far = (distance(x, y, p, eps, dt) for x, y in pairs)
    loss = clamp_min(near - (minimum(*far) if swap else far[0]) + margin, 0)
    return finished(loss, reduction, "triplet_margin_loss", dt)


@declare(expand=_triplet_margin)
def triplet_margin_loss(anchor: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor, margin: Number = 1.0,
                        p: Number = 2, eps: Number = 1e-6, swap: Flag = False, reduction: Choice = "mean"):  # fmt: skip
    """max(0, d(anchor, positive) - d(anchor, negative) + margin) with d = pairwise_distance; with swap, the negative's
    distance is the lesser one of those to the anchor and to the positive"""
    return F.triplet_margin_loss(anchor, positive, negative, margin, p, eps, swap, reduction=reduction)


# ---- classes ---------------------------------------------------------------------------------------------------------


def _rows(x: Node, target: Node, rank: int, op: str, dt: DType) -> tuple[Node, Node]:
    """Scores as a matrix, and the targets of each row. rank: that of the targets of one row."""
    if x.rank > 2 or target.rank > rank + 1 or target.rank < x.rank - 1 + rank:
        got = f"{show_shape(x.shape)} and {show_shape(target.shape)}"
        raise BadArgument(op=op, name="x", rule="a matrix or a vector, with targets of each row", got=got, hint="")
    if not target.dtype.is_integer:
        raise DTypesDisagree(op=op, rule="targets must be integers", got=str(target.dtype), hint="Use target.long().")
    scores = wide(x, dt)
    while scores.rank < 2:
        scores = unsqueeze(scores, 0)
    while target.rank <= rank:
        target = unsqueeze(target, 0)
    return scores, target


def _multi_margin(x: Node, target: Node, weight: Node | None, p: int, margin: float, reduction: str) -> Node:
    op, dt = "multi_margin_loss", float_of(x)
    if p not in (1, 2):
        raise BadArgument(op=op, name="p", rule="1 or 2", got=p, hint="")
    scores, classes = _rows(x, target, 0, op, dt)
    classes = unsqueeze(classes, -1)
    apart = clamp_min(scores - gather(scores, 1, classes) + margin, 0)
    apart = apart if p == 1 else apart * apart
    if weight is not None:
        apart = apart * pick([wide(weight, dt), classes], (0,), 0)
    loss = mean(where(eq(along(scores, 1), classes), 0.0, apart), 1)
    return finished(loss if target.rank == 1 else sum(loss), reduction, op, dt)


@declare(expand=_multi_margin)
def multi_margin_loss(x: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None, p: Size = 1,
                      margin: Number = 1.0, reduction: Choice = "mean"):  # fmt: skip
    """sum(weight[target] max(0, margin - x[target] + x[i])^p) / classes over the classes i other than the target"""
    return F.multi_margin_loss(x, target, p, margin, weight, reduction=reduction)


def _multilabel_margin(x: Node, target: Node, reduction: str) -> Node:
    op, dt = "multilabel_margin_loss", float_of(x)
    scores, classes = _rows(x, target, 1, op, dt)
    n = scores.shape[1]
    last = reduce_min(where(lt(classes, 0), along(classes, 1), n), (1,))
    meant = lt(along(classes, 1), unsqueeze(last, 1))  # those before the first negative one
    classes = where(meant, classes, 0)
    hit = unsqueeze(meant, 2) & eq(unsqueeze(classes, 2), unsqueeze(along(scores, 1), 1))  # [row, target, class]
    apart = clamp_min(1 - unsqueeze(gather(scores, 1, classes), 2) + unsqueeze(scores, 1), 0)
    counted = unsqueeze(meant, 2) & ~unsqueeze(any(hit, 1), 1)
    loss = sum(where(counted, apart, 0.0), (1, 2)) / n
    return finished(loss if target.rank == 2 else sum(loss), reduction, op, dt)


@declare(expand=_multilabel_margin)
def multilabel_margin_loss(x: torch.Tensor, target: torch.Tensor, reduction: Choice = "mean"):
    """sum(max(0, 1 - x[t] + x[i])) / classes over the targets t, which end at the first -1, and the other classes i"""
    return F.multilabel_margin_loss(x, target, reduction=reduction)
