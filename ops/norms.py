"""Softmax and norms: compositions that compute in f32 at least, and are rounded once, at the end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from fusedsl import ir
from fusedsl.errors import BadArgument, DTypesDisagree, ShapesDisagree
from fusedsl.index import divide_exactly
from fusedsl.ir import Dim, Dims, MaybeDType, MaybeNumber, Node, Number, Size, Sizes, declare
from fusedsl.types import DType, broadcast, same_size, show_shape

from .compare import clamp_min
from .convert import float_of, narrow, torch_dtype, wide
from .elementwise import exp, log, rsqrt
from .movement import expand, reshape, unsqueeze
from .reduce import maybe, mean, sum, top, vector_norm


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


def _channels(parameter: Node | None, x: Node) -> Node | None:
    """A vector over dim 1, with as many dimensions after it as x has"""
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


def _batch_norm(x: Node, mean: Node, var: Node, weight: Node | None, bias: Node | None, eps: float) -> Node:
    dt = _float_dtype(x, "batch_norm")
    mean, var = (wide(_channels(p, x), dt) for p in (mean, var))  # type: ignore[arg-type]
    return narrow(_affine((wide(x, dt) - mean) * rsqrt(var + eps), _channels(weight, x), _channels(bias, x), dt), dt)


@declare(expand=_batch_norm, domain=((-4, 4), (-4, 4), (0.1, 4), (-4, 4), (-4, 4)))
def batch_norm(x: torch.Tensor, running_mean: torch.Tensor, running_var: torch.Tensor,
               weight: torch.Tensor | None = None, bias: torch.Tensor | None = None, eps: Number = 1e-5):  # fmt: skip
    """(x - running_mean) / sqrt(running_var + eps) * weight + bias along dim 1: batch norm in eval mode"""
    return F.batch_norm(x.contiguous(), running_mean, running_var, weight, bias, eps=eps)  # so lies its result


def _normalize(x: Node, p: float, dim: Sequence[int], eps: float) -> Node:
    dt = _float_dtype(x, "normalize")
    z = wide(x, dt)
    return narrow(z / clamp_min(vector_norm(z, p, dim, True), eps), dt)


@declare(expand=_normalize)
def normalize(x: torch.Tensor, p: Number = 2.0, dim: Dims = 1, eps: Number = 1e-12):
    """x / max(|x|_p, eps) over dim"""
    return F.normalize(x, p, dim, eps)


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
