"""Softmax and norms: compositions that compute in f32 at least, and are rounded once, at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from fusedsl import ir
from fusedsl.errors import BadArgument, DTypesDisagree, ShapesDisagree
from fusedsl.index import Index, divide_exactly, floordiv
from fusedsl.ir import Dim, Dims, Flag, MaybeDType, MaybeNumber, Node, Number, Size, Sizes, declare
from fusedsl.types import DType, broadcast, same_size, show_shape

from .compare import clamp_min, eq, where
from .convert import float_of, narrow, torch_dtype, wide
from .elementwise import exp, log, pow, rsqrt, trunc_divide
from .indexing import pad
from .movement import expand, reshape, unfold, unsqueeze
from .reduce import maybe, mean, sum, top, vector_norm
from .rules import common


def _float_dtype(x: Node, op: str, dtype: DType | None = None) -> DType:
    dt = dtype or x.dtype
    if not dt.is_float:
        raise DTypesDisagree(op=op, rule="the operand must be a float", got=str(dt), hint="Use x.float().")
    return dt


# ---- softmax ---------------------------------------------------------------------------------------------------------


def _softmax(x: Node, dim: int, dtype: DType | None) -> Node:
    dt = _float_dtype(x, "softmax", dtype)
    z = wide(ir.cast(x, dt), dt)
    powers = exp(z - top(z, (dim,)))
    return narrow(powers / sum(powers, dim, True), dt)


@declare(expand=_softmax)
def softmax(x: torch.Tensor, dim: Dim, dtype: MaybeDType = None):
    """e^x / sum(e^x) along dim"""
    return torch.softmax(x, dim, dtype=maybe(dtype))


def _log_softmax(x: Node, dim: int, dtype: DType | None) -> Node:
    dt = _float_dtype(x, "log_softmax", dtype)
    z = wide(ir.cast(x, dt), dt)
    z = z - top(z, (dim,))
    return narrow(z - log(sum(exp(z), dim, True)), dt)


@declare(expand=_log_softmax)
def log_softmax(x: torch.Tensor, dim: Dim, dtype: MaybeDType = None):
    """ln softmax(x) along dim"""
    return torch.log_softmax(x, dim, dtype=maybe(dtype))


def _safe_softmax(x: Node, dim: int, dtype: DType | None) -> Node:
    dt = _float_dtype(x, "safe_softmax", dtype)
    z = wide(ir.cast(x, dt), dt)
    return narrow(where(eq(top(z, (dim,)), -math.inf), 0.0, softmax(z, dim)), dt)


@declare(expand=_safe_softmax, torch=("torch._safe_softmax",))
def safe_softmax(x: torch.Tensor, dim: Dim, dtype: MaybeDType = None):
    """softmax(x) along dim; 0 where all of x is -inf"""
    return torch.ops.aten._safe_softmax(x, dim, dtype=maybe(dtype))


@declare(expand=lambda x, dim, dtype: softmax(-x, dim, dtype))
def softmin(x: torch.Tensor, dim: Dim, dtype: MaybeDType = None):
    """softmax(-x)"""
    return F.softmin(x, dim, dtype=maybe(dtype))


# ---- norms -----------------------------------------------------------------------------------------------------------


def _last(x: Node, normalized_shape: Sequence, op: str, *parameters: Node | None) -> list[int]:
    """The dims that a norm runs over, which the shape of its parameters names."""
    dims = list(range(x.rank - len(normalized_shape), x.rank))
    named = [tuple(normalized_shape), *(p.shape for p in parameters if p is not None)]
    for shape in named:
        fits = len(dims) <= x.rank and len(shape) == len(dims)
        if not fits or not all(same_size(x.shape[d], n) for d, n in zip(dims, shape, strict=True)):
            rule = "the last dimensions must be those of normalized_shape and of the parameters"
            raise ShapesDisagree(op=op, rule=rule, got=f"{show_shape(x.shape)} and {show_shape(shape)}", hint="")
    return dims


def _affine(x: Node, weight: Node | None, bias: Node | None, dt: DType) -> Node:
    x = x if weight is None else x * wide(weight, dt)
    return x if bias is None else x + wide(bias, dt)


def _standard(x: Node, dims: Sequence[int], eps: float) -> Node:
    """x minus its mean over dims, divided by its deviation"""
    x = x - mean(x, dims, True)
    return x * rsqrt(mean(x * x, dims, True) + eps)


def _layer_norm(x: Node, weight: Node | None, bias: Node | None, normalized_shape, eps: float) -> Node:
    dt = _float_dtype(x, "layer_norm")
    dims = _last(x, normalized_shape, "layer_norm", weight, bias)
    return narrow(_affine(_standard(wide(x, dt), dims, eps), weight, bias, dt), dt)


@declare(expand=_layer_norm)
def layer_norm(x: torch.Tensor, normalized_shape: Sizes, weight: torch.Tensor | None = None,
               bias: torch.Tensor | None = None, eps: Number = 1e-5):  # fmt: skip
    """(x - mean(x)) / sqrt(var(x) + eps) * weight + bias over the last dimensions"""
    return F.layer_norm(x, normalized_shape, weight, bias, eps)


def _rms_norm(x: Node, weight: Node | None, normalized_shape, eps: float | None) -> Node:
    dt = _float_dtype(x, "rms_norm")
    dims = _last(x, normalized_shape, "rms_norm", weight)
    z = wide(x, dt)
    eps = torch.finfo(torch_dtype(z.dtype)).eps if eps is None else eps
    return narrow(_affine(z * rsqrt(mean(z * z, dims, True) + eps), weight, None, dt), dt)


@declare(expand=_rms_norm)
def rms_norm(x: torch.Tensor, normalized_shape: Sizes, weight: torch.Tensor | None = None, eps: MaybeNumber = None):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimensions"""
    return F.rms_norm(x, normalized_shape, weight, eps)


def _channels(parameter: Any, x: Node) -> Any:
    """A vector over dim 1, with as many dimensions after it as x has; None if there is none."""
    for _ in range(x.rank - 2 if parameter is not None else 0):
        parameter = unsqueeze(parameter, -1)
    return parameter


def _group_norm(x: Node, weight: Node | None, bias: Node | None, num_groups, eps: float) -> Node:
    dt = _float_dtype(x, "group_norm")
    members = divide_exactly(x.shape[1], num_groups) if x.rank >= 2 else None
    if members is None:
        raise BadArgument(op="group_norm", name="num_groups", rule="a divisor of the channels in dim 1",
                          got=f"{num_groups} for {show_shape(x.shape)}", hint="")  # fmt: skip
    groups = reshape(wide(x, dt), (x.shape[0], num_groups, members, *x.shape[2:]))
    standard = reshape(_standard(groups, range(2, groups.rank), eps), x.shape)
    return narrow(_affine(standard, _channels(weight, x), _channels(bias, x), dt), dt)


@declare(expand=_group_norm)
def group_norm(x: torch.Tensor, num_groups: Size, weight: torch.Tensor | None = None,
               bias: torch.Tensor | None = None, eps: Number = 1e-5):  # fmt: skip
    """(x - mean(x)) / sqrt(var(x) + eps) * weight + bias over the channels of each group and all that follows them"""
    return F.group_norm(x, num_groups, weight, bias, eps)


def usual_format(x: torch.Tensor) -> torch.memory_format:
    """What torch's layers give for x: channels last if they are last in x, else contiguous."""
    for rank, channels_last in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if x.ndim == rank and x.is_contiguous(memory_format=channels_last) and not x.is_contiguous():
            return channels_last
    return torch.contiguous_format


def _batch_norm(x: Node, mean: Node | None, var: Node | None, weight: Node | None, bias: Node | None,
                eps: float) -> Node:  # fmt: skip
    dt = _float_dtype(x, "batch_norm")
    if x.rank < 2 or (mean is None) != (var is None):
        got = f"x of shape {show_shape(x.shape)}" if x.rank < 2 else "one of them"
        raise BadArgument(op="batch_norm", name="the call", rule="on channels in dim 1, with both statistics or none",
                          got=got, hint="")  # fmt: skip
    if mean is None or var is None:
        standard = _standard(wide(x, dt), [d for d in range(x.rank) if d != 1], eps)
    else:
        mean, var = wide(_channels(mean, x), dt), wide(_channels(var, x), dt)
        standard = (wide(x, dt) - mean) * rsqrt(var + eps)
    return narrow(_affine(standard, _channels(weight, x), _channels(bias, x), dt), dt)


@declare(expand=_batch_norm, domain=((-4, 4), (-4, 4), (0.1, 4), (-4, 4), (-4, 4)))
def batch_norm(x: torch.Tensor, running_mean: torch.Tensor | None = None, running_var: torch.Tensor | None = None,
               weight: torch.Tensor | None = None, bias: torch.Tensor | None = None, eps: Number = 1e-5):  # fmt: skip
    """(x - running_mean) / sqrt(running_var + eps) * weight + bias along dim 1; without them the batch's own mean and
    variance, over all dims but 1"""
    x = x.contiguous(memory_format=usual_format(x))  # so lies its result
    return F.batch_norm(x, running_mean, running_var, weight, bias, training=running_mean is None, eps=eps)


def _local_response_norm(x: Node, size: Sequence[Index], alpha: float, beta: float, k: float) -> Node:
    if x.rank < 3:
        raise BadArgument(op="local_response_norm", name="x", rule="of three dimensions at least",
                          got=show_shape(x.shape), hint="")  # fmt: skip
    dt = float_of(x)
    z = wide(x, dt)
    (n,) = size
    around = [0, 0] * (x.rank - 2) + [floordiv(n, 2), floordiv(n - 1, 2)]
    near = unfold(pad(x * x if x.dtype.is_integer else z * z, around), 1, n, 1)
    average = trunc_divide(sum(near, -1), n) if x.dtype.is_integer else mean(near, -1)
    return narrow(z / pow(ir.cast(average, z.dtype) * alpha + k, beta), dt)


@declare(expand=_local_response_norm)
def local_response_norm(x: torch.Tensor, size: Sizes, alpha: Number = 1e-4, beta: Number = 0.75, k: Number = 1.0):
    """x / (k + alpha mean(x^2))^beta, the mean over `size` channels around each, with 0 beyond the first and last"""
    return F.local_response_norm(x, size[0] if isinstance(size, tuple) else size, alpha, beta, k)


def _normalize(x: Node, p: float, dim: Sequence[int], eps: float) -> Node:
    dt = _float_dtype(x, "normalize")
    z = wide(x, dt)
    return narrow(z / clamp_min(vector_norm(z, p, dim, True), eps), dt)


@declare(expand=_normalize)
def normalize(x: torch.Tensor, p: Number = 2.0, dim: Dims = 1, eps: Number = 1e-12):
    """x / max(|x|_p, eps) over dim"""
    return F.normalize(x, p, dim, eps)


def _renorm(x: Node, p: float, dim: int, maxnorm: float) -> Node:
    dt = _float_dtype(x, "renorm")
    if x.rank < 2 or p <= 0:
        got = f"{show_shape(x.shape)} and p={p}"
        raise BadArgument(op="renorm", name="x", rule="of two dimensions at least, and p above 0", got=got, hint="")
    z = wide(x, dt)
    length = vector_norm(z, p, [d for d in range(x.rank) if d != dim], True)
    return narrow(where(length > maxnorm, z * (maxnorm / (length + 1e-7)), z), dt)


@declare(expand=_renorm)
def renorm(x: torch.Tensor, p: Number, dim: Dim, maxnorm: Number):
    """Each part of x along dim, made shorter to |part|_p = maxnorm if it is longer."""
    return torch.renorm(x, p, dim, maxnorm)


# ---- distances -------------------------------------------------------------------------------------------------------


def _dist(x: Node, y: Node, p: float) -> Node:
    dt = float_of(x, y)
    return narrow(vector_norm(wide(x, dt) - wide(y, dt), p), dt)


@declare(expand=_dist)
def dist(x: torch.Tensor, y: torch.Tensor, p: Number = 2.0):
    """|x - y|_p"""
    return torch.dist(x, y, p)


def distance(x1: Node, x2: Node, p: float, eps: float, dt: DType, keepdim: bool = False) -> Node:
    """|x1 - x2 + eps|_p along the last dimension, in the type that values of dt are computed in."""
    own = common([x1.type, x2.type], "pairwise_distance")
    apart = wide(x1, own) - wide(x2, own)  # integers wrap, as in torch
    return vector_norm(wide(apart, dt) + eps, p, -1, keepdim)


def _pairwise_distance(x1: Node, x2: Node, p: float, eps: float, keepdim: bool) -> Node:
    dt = float_of(x1, x2)
    return narrow(distance(x1, x2, p, eps, dt, keepdim), dt)


@declare(expand=_pairwise_distance)
def pairwise_distance(x1: torch.Tensor, x2: torch.Tensor, p: Number = 2.0, eps: Number = 1e-6, keepdim: Flag = False):
    """|x1 - x2 + eps|_p along the last dimension"""
    return torch.pairwise_distance(x1, x2, p, eps, keepdim)


def _cosine_similarity(x: Node, x2: Node, dim: int, eps: float) -> Node:
    shape = broadcast([x.shape, x2.shape], "cosine_similarity")
    x, x2 = expand(x, shape), expand(x2, shape)
    dt = float_of(x, x2)  # torch broadcasts first: a tensor of no dims counts as one with
    a, b = wide(x, dt), wide(x2, dt)
    lengths = [clamp_min(vector_norm(v, 2, dim), eps) for v in (a, b)]
    return narrow(sum(a * b, dim) / (lengths[0] * lengths[1]), dt)


@declare(expand=_cosine_similarity)
def cosine_similarity(x1: torch.Tensor, x2: torch.Tensor, dim: Dim = 1, eps: Number = 1e-8):
    """The cosine of the angle between x1 and x2 along dim."""
    return F.cosine_similarity(x1, x2, dim, eps)
