"""torch's own forms of call of layers: norms, softmax, losses and pooling, where they differ from an op's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from fusedsl.errors import BadArgument, InPlaceInput, ShapesDisagree, UnknownFunction
from fusedsl.index import Poly, is_less
from fusedsl.ir import OPS, SPELLINGS, Op, spells
from fusedsl.types import dim_in

from . import pooling  # noqa: F401  (imported for its declarations)
from .compare import clamp_min, minimum
from .norms import batch_norm, group_norm, layer_norm, log_softmax, pairwise_distance, softmax, softmin
from .reduce import amax, amin, mean, sum, vector_norm
from .resample import nearest

# ---- norms -----------------------------------------------------------------------------------------------------------


def _refuse_statistics(op: str, momentum: Any, mean: str, var: str) -> None:
    hint = (
        "Pass None for both, and return the new ones as further results: "
        f"running_mean.lerp({mean}, {momentum}), running_var.lerp({var}, {momentum}). Or call .eval()."
    )
    raise InPlaceInput(op=op, what="running_mean and running_var", hint=hint)


@spells("F.batch_norm")
def functional_batch_norm(input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1,
                          eps=1e-5):  # fmt: skip
    if training:
        if running_mean is not None or running_var is not None:
            dims = tuple(d for d in range(len(input.shape)) if d != 1)
            _refuse_statistics("batch_norm", momentum, f"x.mean({dims})", f"x.var({dims})")
        return batch_norm(input, None, None, weight, bias, eps)
    if running_mean is None or running_var is None:
        rule, hint = "given, or training=True", "In training the batch's own statistics are used."
        raise BadArgument(op="batch_norm", name="running_mean and running_var", rule=rule, got=None, hint=hint)
    return batch_norm(input, running_mean, running_var, weight, bias, eps)


@spells("torch.batch_norm")
def torch_batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn_enabled=True):
    return functional_batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


@spells("torch.layer_norm")
def torch_layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5, cudnn_enable=True):
    return layer_norm(input, normalized_shape, weight, bias, eps)


@spells("torch.group_norm")
def torch_group_norm(input, num_groups, weight=None, bias=None, eps=1e-5, cudnn_enabled=True):
    return group_norm(input, num_groups, weight, bias, eps)


@spells("F.instance_norm")
def instance_norm(input, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True,
                  momentum=0.1, eps=1e-5):  # fmt: skip
    if not use_input_stats:
        return functional_batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    if running_mean is not None or running_var is not None:
        dims = tuple(range(2, len(input.shape)))
        _refuse_statistics("instance_norm", momentum, f"x.mean({dims}).mean(0)", f"x.var({dims}).mean(0)")
    return group_norm(input, input.shape[1], weight, bias, eps)


def _vector_ord(p: Any) -> Any:
    return 2 if p is None or p == "fro" else p


@spells("torch.norm", "Tensor.norm")
def norm(input, p="fro", dim=None, keepdim=False, dtype=None):
    if isinstance(p, str) and p != "fro":
        raise UnknownFunction(op="norm", hint="The nuclear norm needs singular values: call it outside.")
    return vector_norm(input, _vector_ord(p), dim, keepdim, dtype)


@spells("torch.linalg.norm")
def linalg_norm(A, ord=None, dim=None, keepdim=False, *, dtype=None):
    of_matrix = len(A.shape) == 2 if dim is None else isinstance(dim, (tuple, list)) and len(dim) == 2
    if ord is not None and of_matrix:
        return matrix_norm(A, ord, (-2, -1) if dim is None else dim, keepdim, dtype=dtype)
    return vector_norm(A, _vector_ord(ord), dim, keepdim, dtype)


@spells("torch.linalg.matrix_norm")
def matrix_norm(A, ord="fro", dim=(-2, -1), keepdim=False, *, dtype=None):
    """The Frobenius norm, and the greatest or least sum of a row or a column."""
    rows, columns = (dim_in(d, len(A.shape), "matrix_norm") for d in dim)
    if ord == "fro":
        return vector_norm(A, 2, (rows, columns), keepdim, dtype)
    if ord not in (1, -1, math.inf, -math.inf):
        hint = f"ord={ord!r} needs singular values: call it outside. 'fro', 1, -1, inf and -inf are there."
        raise UnknownFunction(op="matrix_norm", hint=hint)
    summed, compared = (rows, columns) if abs(ord) == 1 else (columns, rows)
    sums = vector_norm(A, 1, summed, True, dtype)
    kept = (amax if ord > 0 else amin)(sums, compared, True)
    return kept if keepdim else sum(kept, (rows, columns), dtype=kept.dtype)


# ---- softmax ---------------------------------------------------------------------------------------------------------


def _implicit_dim(name: str, op: Any) -> None:
    @spells(f"F.{name}")
    def spelled(input, dim=None, _stacklevel=3, dtype=None):
        if dim is None:
            dim = 0 if len(input.shape) in (0, 1, 3) else 1
        return op(input, dim, dtype)


_implicit_dim("softmax", softmax)
_implicit_dim("log_softmax", log_softmax)
_implicit_dim("softmin", softmin)


# ---- losses ----------------------------------------------------------------------------------------------------------


@spells("F.triplet_margin_with_distance_loss")
def triplet_margin_with_distance_loss(anchor, positive, negative, *, distance_function=None, margin=1.0, swap=False,
                                      reduction="mean"):  # fmt: skip
    distance = pairwise_distance if distance_function is None else distance_function
    if margin <= 0:
        raise BadArgument(op="triplet_margin_with_distance_loss", name="margin", rule="above 0", got=margin, hint="")
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = minimum(far, distance(positive, negative))
    loss = clamp_min(near - far + margin, 0)
    if reduction not in ("none", "mean", "sum"):
        rule = "'none', 'mean' or 'sum'"
        raise BadArgument(op="triplet_margin_with_distance_loss", name="reduction", rule=rule, got=reduction, hint="")
    return {"none": lambda x: x, "mean": mean, "sum": sum}[reduction](loss)


# ---- pooling ---------------------------------------------------------------------------------------------------------


def _each(values: Any, rank: int) -> list:
    values = list(values) if isinstance(values, (tuple, list)) else [values]
    return values * rank if len(values) == 1 else values


def _less(a: Any, b: Any) -> bool:
    """a < b; of sizes of nodes, where that is sure."""
    return is_less(a, b) if isinstance(a, Poly) or isinstance(b, Poly) else bool(a < b)


def _windowed(op: Op, rank: int) -> Callable[..., Any]:
    """The op where its windows fit, which a traced size is asked for here."""

    def pool(*args: Any, **kwargs: Any) -> Any:
        given = op.signature.bind(*args, **kwargs)
        given.apply_defaults()
        values = given.arguments
        values["stride"] = values["stride"] or None  # torch takes no strides, too, for none
        lists = [_each(values.get(name, default), rank) for name, default in
                 (("kernel_size", 1), ("padding", 0), ("dilation", 1))]  # fmt: skip
        for n, size, padding, dilation in zip(values["x"].shape[-rank:], *lists, strict=False):
            span = (size - 1) * dilation + 1
            if not values["ceil_mode"] and _less(n + 2 * padding, span):
                got = f"windows of {span} in {n} and {padding} on each side"
                raise ShapesDisagree(op=op.name, rule="the windows must fit", got=got, hint="")
        return op(*given.args, **given.kwargs)

    pool.__signature__ = op.signature  # type: ignore[attr-defined]
    return pool


def _given_sizes(input: Any, output_size: Any) -> Any:
    """The sizes asked for, None being the operand's own."""
    if not isinstance(output_size, (tuple, list)):
        return output_size
    own = input.shape[len(input.shape) - len(output_size) :]
    return tuple(n if size is None else size for n, size in zip(own, output_size, strict=True))


def _pools(rank: int) -> None:
    for kind in ("avg", "lp"):
        name = f"{kind}_pool{rank}d"
        spells(f"torch.{name}", f"F.{name}")(_windowed(OPS[name], rank))
    greatest = _windowed(OPS[f"max_pool{rank}d"], rank)
    spells(f"torch.max_pool{rank}d", f"F.max_pool{rank}d")(greatest)
    average, most = OPS[f"adaptive_avg_pool{rank}d"], OPS[f"adaptive_max_pool{rank}d"]

    @spells(f"F.max_pool{rank}d_with_indices")
    def with_indices(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=True):
        return greatest(input, kernel_size, stride, padding, dilation, ceil_mode, True)

    @spells(f"F.adaptive_avg_pool{rank}d", *["torch.adaptive_avg_pool1d"] * (rank == 1))
    def averages(input, output_size):
        return average(input, _given_sizes(input, output_size))

    @spells(f"F.adaptive_max_pool{rank}d")
    def extremes(input, output_size, return_indices=False):
        return most(input, _given_sizes(input, output_size), return_indices)

    @spells(f"F.adaptive_max_pool{rank}d_with_indices", *["torch.adaptive_max_pool1d"] * (rank == 1))
    def extremes_with_indices(input, output_size, return_indices=True):
        return most(input, _given_sizes(input, output_size), True)


for _rank in (1, 2, 3):
    _pools(_rank)


@spells("F.cosine_similarity", "torch.cosine_similarity")
def cosine_similarity(x1, x2, dim=1, eps=1e-8):
    if len(x1.shape) != len(x2.shape):  # dim is one of both, broadcast
        x1, x2 = SPELLINGS["torch.broadcast_tensors"](x1, x2)
    return OPS["cosine_similarity"](x1, x2, dim, eps)


# ---- images of other sizes -------------------------------------------------------------------------------------------


def _resized(n: Any, scale: Any) -> Any:
    """floor(n scale)"""
    if scale == int(scale):
        return n * int(scale)
    if isinstance(n, Poly):
        raise BadArgument(op="interpolate", name="scale_factor", rule="whole for a symbolic size", got=scale, hint="")
    return math.floor(float(n) * scale)


@spells("F.interpolate")
def interpolate(input, size=None, scale_factor=None, mode="nearest", align_corners=None, recompute_scale_factor=None,
                antialias=False):  # fmt: skip
    rank = len(input.shape) - 2
    if mode not in ("nearest", "nearest-exact", "area") or antialias:
        raise UnknownFunction(op="interpolate", hint="The modes 'nearest', 'nearest-exact' and 'area' are there.")
    if rank not in (1, 2, 3) or (size is None) == (scale_factor is None) or align_corners is not None:
        rule = "on 3 to 5 dimensions, with one of size and scale_factor, and without align_corners"
        raise BadArgument(op="interpolate", name="the call", rule=rule, got=f"{rank + 2} dimensions", hint="")
    spatial = input.shape[2:]
    scales: Any = [None] * rank
    if scale_factor is not None:
        scales = [scale_factor] * rank if not isinstance(scale_factor, (tuple, list)) else list(scale_factor)
        size = [_resized(n, scale) for n, scale in zip(spatial, scales, strict=True)]
    elif not isinstance(size, (tuple, list)):
        size = [size] * rank
    if mode == "area":
        return OPS[f"adaptive_avg_pool{rank}d"](input, tuple(size))
    offset = 0.5 if mode == "nearest-exact" else None
    for d, (wanted, scale) in enumerate(zip(size, scales, strict=True)):
        input = nearest(input, d + 2, wanted, None if recompute_scale_factor else scale, offset)
    return input
