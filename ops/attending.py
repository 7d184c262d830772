"""Attention: products of queries with keys, a softmax, a product with values. Nothing here but that: one pass over the
keys is what the compiler makes of it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from fusedsl import ir
from fusedsl.errors import BadArgument
from fusedsl.index import Index, divide_exactly
from fusedsl.ir import Flag, MaybeNumber, MaybeSize, Node, declare, spells
from fusedsl.types import as_number, show_shape

from .compare import eq, ge, logical_and, lt, where
from .contract import matmul, one_dtype
from .convert import narrow, wide
from .elementwise import exp, log
from .movement import along, repeat_interleave, squeeze, transpose
from .random import dropout
from .reduce import sum, top
from .trigonometry import tanh


def _heads_shared(op: str, q: Node, x: Node) -> Node:
    """Keys or values for every query head: each of theirs serves as many in a row."""
    if q.shape[-3] == x.shape[-3]:
        return x
    heads, shared = as_number(q.shape[-3]), as_number(x.shape[-3])
    each = divide_exactly(heads, shared)
    if each == 1:
        return x
    if each is None:
        rule = f"a number that divides that of the query's heads, {heads}"
        raise BadArgument(op=op, name="the number of key and value heads", rule=rule, got=show_shape(x.shape), hint="")
    return repeat_interleave(x, each, x.rank - 3)


def _scores(op: str, q: Node, k: Node, scale: float | None) -> Node:
    """q k^T scale, in the type that it is computed in."""
    one_dtype(op, q, k)
    size = q.shape[-1]
    factor = scale if scale is not None else ir.as_node(size) ** -0.5 if not isinstance(size, int) else size**-0.5
    return wide(matmul(q, transpose(k, k.rank - 2, k.rank - 1)), q.dtype) * factor


def _weights(scores: Node) -> tuple[Node, Node, Node]:
    """e^(s - m), its sum, and the maximum m, along the last dimension. With nothing but -inf all weights are 0."""
    last = (scores.rank - 1,)
    most = top(scores, last)
    pivot = where(eq(most, -math.inf), 0.0, most)
    powers = exp(scores - pivot)
    return powers, sum(powers, last, True), pivot


def _probabilities(scores: Node) -> Node:
    """softmax along the last dimension, 0 where all of a row is -inf"""
    powers, total, _ = _weights(scores)
    return powers / where(eq(total, 0.0), 1.0, total)


def _causal(scores: Node, back: Index = 0) -> Node:
    """Whether key j is at most query i + back."""
    return ge(along(scores, scores.rank - 2) + back, along(scores, scores.rank - 1))


@spells("F.scaled_dot_product_attention")
def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    if is_causal and attn_mask is not None:
        op, hint = "scaled_dot_product_attention", "Put the two into one mask."
        raise BadArgument(op=op, name="attn_mask", rule="None with is_causal", got="a tensor", hint=hint)
    if dropout_p:
        return _with_dropout(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    return dot_attention(query, key, value, attn_mask, bool(is_causal), scale, bool(enable_gqa))


def _with_dropout(query, key, value, mask, p, is_causal, scale, enable_gqa):
    weights = attention_weights(query, key, mask, bool(is_causal), scale, bool(enable_gqa))
    if enable_gqa and value.shape[-3] != query.shape[-3]:
        value = repeat_interleave(value, query.shape[-3] // value.shape[-3], len(value.shape) - 3)
    return dropout(weights, p) @ value


def _attention_weights(q: Node, k: Node, mask: Node | None, is_causal: bool, scale: float | None, gqa: bool) -> Node:
    op = "scaled_dot_product_attention"
    scores = _scores(op, q, _heads_shared(op, q, k) if gqa else k, scale)
    if is_causal:
        scores = where(_causal(scores), scores, -math.inf)
    if mask is not None:
        scores = where(mask, scores, -math.inf) if mask.dtype.is_bool else scores + wide(mask, q.dtype)
    return narrow(_probabilities(scores), q.dtype)


@declare(expand=_attention_weights)
def attention_weights(q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor | None = None, is_causal: Flag = False,
                      scale: MaybeNumber = None, gqa: Flag = False):  # fmt: skip
    """softmax(q k^T scale + mask) along the keys, 0 where all of a row is masked; q: [.., H, S, D], k: [.., H, T, D]"""
    identity = torch.eye(k.shape[-2], dtype=q.dtype, device=q.device).expand(*k.shape[:-1], k.shape[-2])
    return F.scaled_dot_product_attention(q, k, identity, mask, 0.0, is_causal, scale=scale, enable_gqa=gqa)


def _dot_attention(
    q: Node, k: Node, v: Node, mask: Node | None, is_causal: bool, scale: float | None, gqa: bool
) -> Node:
    one_dtype("scaled_dot_product_attention", q, k, v)
    v = _heads_shared("scaled_dot_product_attention", q, v) if gqa else v
    return matmul(_attention_weights(q, k, mask, is_causal, scale, gqa), v)


@declare(expand=_dot_attention)
def dot_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None,
                  is_causal: Flag = False, scale: MaybeNumber = None, gqa: Flag = False):  # fmt: skip
    """torch.nn.functional.scaled_dot_product_attention: softmax(q k^T scale + mask) v, 0 where all of a row is masked;
    causal: key j counts for query i if j <= i; gqa: heads of k and v serve several of q's in a row"""
    return F.scaled_dot_product_attention(q, k, v, mask, 0.0, is_causal, scale=scale, enable_gqa=gqa)


def _attention(
    q: Node, k: Node, v: Node, bias: Node | None, mask: Node | None, causal: bool, window: Index | None,
    scale: float | None, softcap: float | None, lse: bool,
):  # fmt: skip
    dt = one_dtype("attention", q, k, v)
    scores = _scores("attention", q, _heads_shared("attention", q, k), scale)
    if softcap is not None:
        scores = tanh(scores * (1 / softcap)) * softcap
    if bias is not None:
        scores = scores + wide(bias, dt)
    for kept in _kept(scores, mask, causal, window):
        scores = where(kept, scores, -math.inf)
    powers, total, pivot = _weights(scores)
    out = matmul(narrow(powers / where(eq(total, 0.0), 1.0, total), dt), _heads_shared("attention", q, v))
    if not lse:
        return out
    last = pivot.rank - 1
    return out, squeeze(pivot + log(total), last)


def _kept(scores: Node, mask: Node | None, causal: bool, window: Index | None) -> list[Node]:
    """The conditions under which a score counts. The last query stands beside the last key."""
    back = scores.shape[-1] - scores.shape[-2]
    kept = [mask] if mask is not None else []
    if causal:
        kept.append(_causal(scores, back))
    if window is not None:
        distance = along(scores, scores.rank - 2) + back - along(scores, scores.rank - 1)
        near = lt(distance, window)
        kept.append(near if causal else logical_and(near, lt(-distance, window)))
    return kept


@declare(expand=_attention)
def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None = None,
              mask: torch.Tensor | None = None, causal: Flag = False, window: MaybeSize = None,
              scale: MaybeNumber = None, softcap: MaybeNumber = None, lse: Flag = False):  # fmt: skip
    """softmax(softcap tanh(q k^T scale / softcap) + bias) v over the keys that count: where the mask holds, not after
    the query (causal), less than `window` away. The last query stands beside the last key. Heads of k and v may serve
    several of q's in a row; v's head size may be another. With lse the logarithm of each row's sum as well.

    q: [..., H, S, D], k: [..., G, T, D], v: [..., G, T, E], bias and mask broadcast to [..., H, S, T]; scale: D^-0.5
    unless given. Result: [..., H, S, E], and [..., H, S] in f32 or f64."""
    k, v = (x.repeat_interleave(q.shape[-3] // x.shape[-3], -3) for x in (k, v))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = (q @ k.mT).to(torch.promote_types(q.dtype, torch.float32)) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores if bias is None else scores + bias
    back = scores.shape[-1] - scores.shape[-2]
    i, j = (torch.arange(n, device=q.device) for n in scores.shape[-2:])
    distance = i[:, None] + back - j
    kept = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device) if mask is None else mask
    kept = kept & (distance >= 0) if causal else kept
    if window is not None:
        kept = kept & (distance < window) & (distance > -window)
    scores = scores.masked_fill(~kept, -math.inf)
    out = torch.ops.aten._safe_softmax(scores, -1).to(q.dtype) @ v
    return (out, torch.logsumexp(scores, -1)) if lse else out
