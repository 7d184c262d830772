"""How torch's own functions and methods are written with ops, where their forms of call differ from an op's.

Names: `torch.max`, `Tensor.max`, `F.pad` (torch.nn.functional), `torch.linalg.norm`, and properties as `Tensor.mT`. What
is not here is the op of the same name. A spelling takes nodes, numbers and sizes, and makes nodes. What it must know of a
size beyond its type (`is_less`, `number_of`) leaves a guard while tracing.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

from fusedsl.errors import BadArgument, DataDependent, UnknownFunction
from fusedsl.index import cdiv, divide_exactly
from fusedsl.ir import OPS, SPELLINGS, Node, Op, build, spells
from fusedsl.types import dim_in, is_less, number_of, same_size

ops = SimpleNamespace(**OPS)


# ---- torch.nn.functional: an op of the same name, with parameters that must keep their default ------------------------


def _fitted(function: Callable, op: Op) -> Callable:
    """The op called with torch's own parameters; those that it lacks (inplace, size_average ...) keep their default."""
    signature = inspect.signature(function)
    first = next(iter(signature.parameters))

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        given = dict(bound.arguments)
        operand = given.pop(first)
        for name, parameter in signature.parameters.items():
            if name in given and name not in op.signature.parameters:
                value = given.pop(name)
                if value is not parameter.default and name != "_stacklevel":
                    raise BadArgument(op=op.name, name=name, rule=f"{parameter.default!r}", got=repr(value), hint="")
        return op(operand, **given)

    return call


# ---- arithmetic ------------------------------------------------------------------------------------------------------

SPELLINGS["torch.positive"] = SPELLINGS["Tensor.positive"] = lambda input: input


@spells("torch.add", "Tensor.add")
def add(input, other, *, alpha=1):
    return ops.add(input, _scaled(other, alpha))


@spells("torch.sub", "Tensor.sub", "torch.subtract", "Tensor.subtract")
def sub(input, other, *, alpha=1):
    return ops.sub(input, _scaled(other, alpha))


@spells("torch.rsub")
def rsub(input, other, *, alpha=1):
    return ops.sub(other, _scaled(input, alpha))


def _scaled(other, alpha):  # a number or a node
    return other if isinstance(alpha, (int, float)) and alpha == 1 else other * alpha


SPELLINGS["torch.multiply"] = SPELLINGS["Tensor.multiply"] = OPS["mul"]


@spells("torch.div", "Tensor.div", "torch.divide", "Tensor.divide", "torch.true_divide", "Tensor.true_divide")
def div(input, other, *, rounding_mode=None):
    kinds = {None: ops.div, "trunc": ops.trunc_divide, "floor": ops.floor_divide}
    if rounding_mode not in kinds:
        raise BadArgument(op="div", name="rounding_mode", rule="None, 'trunc' or 'floor'", got=rounding_mode, hint="")
    return kinds[rounding_mode](input, other)


@spells("torch.round", "Tensor.round", "torch.special.round")
def round(input, *, decimals=0):
    return ops.round(input) if decimals == 0 else ops.round(input * 10.0**decimals) / 10.0**decimals


@spells("torch.where")
def where(condition, input=None, other=None):
    if input is None or other is None:
        raise DataDependent(op="where", what="how many elements are not 0", hint="Give all three arguments.")
    return ops.where(condition, input, other)


@spells("Tensor.where")
def tensor_where(self, condition, other):
    return ops.where(condition, self, other)


# ---- reductions ------------------------------------------------------------------------------------------------------


def _extreme(name: str, pairwise: str, amax: str, argmax: str) -> None:
    @spells(f"torch.{name}", f"Tensor.{name}")
    def extreme(input, dim=None, keepdim=False, *, other=None):
        if other is not None or isinstance(dim, Node):
            return OPS[pairwise](input, dim if other is None else other)
        if dim is None:
            return OPS[amax](input)
        return OPS[amax](input, dim, keepdim), OPS[argmax](input, dim, keepdim)


_extreme("max", "maximum", "amax", "argmax")
_extreme("min", "minimum", "amin", "argmin")


def _deviation(name: str) -> None:
    op = OPS[name]

    def arguments(dim, unbiased, keepdim, correction):
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        if correction is None:
            correction = 1 if unbiased is None or unbiased else 0
        return {"dim": dim, "correction": correction, "keepdim": keepdim}

    @spells(f"torch.{name}", f"Tensor.{name}")
    def deviation(input, dim=None, unbiased=None, keepdim=False, *, correction=None):
        return op(input, **arguments(dim, unbiased, keepdim, correction))

    @spells(f"torch.{name}_mean")
    def with_mean(input, dim=None, unbiased=None, keepdim=False, *, correction=None):
        given = arguments(dim, unbiased, keepdim, correction)
        return op(input, **given), ops.mean(input, given["dim"], keepdim)


_deviation("var")
_deviation("std")


@spells("torch.norm", "Tensor.norm", "torch.linalg.norm")
def norm(input, p="fro", dim=None, keepdim=False, dtype=None, *, ord=None):
    p = p if ord is None else ord
    if p in ("fro", None):
        p = 2
    elif not isinstance(p, (int, float)):
        raise UnknownFunction(op="norm", hint="The norms of vectors are there: a number for p.")
    return ops.vector_norm(input, p, dim, keepdim, dtype)


# ---- views -----------------------------------------------------------------------------------------------------------


def _flat(sizes: Sequence) -> tuple:
    """Sizes given one by one or as one list."""
    one = len(sizes) == 1 and isinstance(sizes[0], (tuple, list))
    return tuple(sizes[0]) if one else tuple(sizes)


def _dim(x, dim: int, op: str) -> int:
    return dim_in(dim, len(x.shape), op)


@spells("Tensor.reshape", "Tensor.view")
def reshape(self, *shape, size=None):
    if size is not None:
        shape = (size,)
    if shape and isinstance(shape[0], torch.dtype):
        raise UnknownFunction(op="Tensor.view", hint="A view as another dtype shows bits, not values; use .to(dtype).")
    return ops.reshape(self, _flat(shape))


@spells("Tensor.view_as", "Tensor.reshape_as")
def view_as(self, other):
    return ops.reshape(self, tuple(other.shape))


@spells("torch.ravel", "Tensor.ravel")
def ravel(input):
    return ops.reshape(input, (-1,))


@spells("Tensor.expand")
def expand(self, *size, implicit=False):
    return ops.expand(self, _flat(size))


@spells("torch.broadcast_to", "Tensor.broadcast_to")
def broadcast_to(input, size):
    return ops.expand(input, tuple(size))


@spells("Tensor.expand_as")
def expand_as(self, other):
    return ops.expand(self, tuple(other.shape))


@spells("torch.broadcast_tensors")
def broadcast_tensors(*tensors):
    tensors = _flat(tensors)
    backwards = itertools.zip_longest(*(t.shape[::-1] for t in tensors), fillvalue=1)
    shape = [next((n for n in sizes if not (isinstance(n, int) and n == 1)), 1) for sizes in backwards][::-1]
    return tuple(ops.expand(t, tuple(shape)) for t in tensors)


@spells("Tensor.permute")
def permute(self, *dims):
    return ops.permute(self, _flat(dims))


@spells("Tensor.flip", "torch.flip")
def flip(input, *dims):
    return ops.flip(input, _flat(dims))


@spells("torch.fliplr", "Tensor.fliplr")
def fliplr(input):
    return ops.flip(input, (1,))


@spells("torch.flipud", "Tensor.flipud")
def flipud(input):
    return ops.flip(input, (0,))


@spells("torch.t", "Tensor.t", "Tensor.T", "Tensor.H")
def t(input):
    return ops.permute(input, tuple(range(len(input.shape)))[::-1])


@spells("Tensor.mT", "Tensor.mH", "torch.adjoint", "Tensor.adjoint")
def mT(input):
    return ops.transpose(input, -2, -1)


@spells("torch.movedim", "Tensor.movedim", "torch.moveaxis", "Tensor.moveaxis")
def movedim(input, source, destination):
    rank = len(input.shape)
    pairs = zip(_flat([destination]), _flat([source]), strict=True)
    moved = {_dim(input, to, "movedim"): _dim(input, of, "movedim") for to, of in pairs}
    rest = iter([d for d in range(rank) if d not in moved.values()])
    return ops.permute(input, tuple(moved[d] if d in moved else next(rest) for d in range(rank)))


@spells("Tensor.repeat")
def repeat(self, *repeats):
    return ops.repeat(self, _flat(repeats))


@spells("torch.tile", "Tensor.tile")
def tile(input, *dims):
    dims = _flat(dims)
    return ops.repeat(input, (1,) * (len(input.shape) - len(dims)) + dims)


@spells("torch.repeat_interleave", "Tensor.repeat_interleave")
def repeat_interleave(input, repeats=None, dim=None, *, output_size=None):
    if repeats is None or isinstance(repeats, Node):
        raise DataDependent(op="repeat_interleave", what="the result's size", hint="Give repeats as an int.")
    if dim is None:
        input, dim = ops.reshape(input, (-1,)), 0
    return ops.repeat_interleave(input, repeats, dim)


@spells("torch.roll", "Tensor.roll")
def roll(input, shifts, dims=()):
    dims = _flat([dims])
    if dims:
        return ops.roll(input, shifts, dims)
    return ops.reshape(ops.roll(ops.reshape(input, (-1,)), shifts, (0,)), tuple(input.shape))


@spells("torch.unflatten", "Tensor.unflatten")
def unflatten(input, dim, sizes):
    return ops.unflatten(input, dim, tuple(sizes))


# ---- parts -----------------------------------------------------------------------------------------------------------


def _less(a, b) -> bool:
    return is_less(a, b, "x[...]")


def _bounded(bound, n, default):
    """A bound of a slice counted from the front, in [0, n]."""
    if bound is None:
        return default
    if _less(bound, 0):
        bound = bound + n
        return 0 if _less(bound, 0) else bound
    return n if _less(n, bound) else bound


def _cut(x, dim: int, start, stop, step=None):
    n, step = x.shape[dim], 1 if step is None else step
    if _less(step, 1):
        raise BadArgument(op="slice", name="step", rule="at least 1", got=step, hint="Use x.flip(dim).")
    if start is None and stop is None and step == 1:
        return x
    start, stop = _bounded(start, n, 0), _bounded(stop, n, n)
    return ops.slice(x, dim, start, start if _less(stop, start) else stop, step)


def _at(x, dim: int, index):
    n = x.shape[dim]
    inside = index + n if _less(index, 0) else index
    if _less(inside, 0) or not _less(inside, n):
        raise BadArgument(op="select", name="index", rule=f"in [-{n}, {n}) for dim {dim}", got=index, hint="")
    return ops.select(x, dim, inside)


@spells("torch.select", "Tensor.select")
def select(input, dim, index):
    return _at(input, _dim(input, dim, "select"), index)


@spells("torch.narrow", "Tensor.narrow")
def narrow(input, dim, start, length):
    dim = _dim(input, dim, "narrow")
    start = start + input.shape[dim] if _less(start, 0) else start
    if _less(input.shape[dim], start + length):
        raise BadArgument(op="narrow", name="start + length", rule=f"at most {input.shape[dim]}", got=start + length, hint="")
    return ops.slice(input, dim, start, start + length)


@spells("torch.chunk", "Tensor.chunk")
def chunk(input, chunks, dim=0):
    dim = _dim(input, dim, "chunk")
    size = divide_exactly(input.shape[dim], chunks)
    if size is None:
        size = cdiv(number_of(input.shape[dim], "chunk"), chunks)
        chunks = cdiv(number_of(input.shape[dim], "chunk"), size)
    ends = [size * k for k in range(1, chunks)] + [input.shape[dim]]
    return tuple(ops.slice(input, dim, end - size if k < chunks else size * (k - 1), end) for k, end in enumerate(ends, 1))


@spells("torch.split", "Tensor.split", "torch.split_with_sizes", "Tensor.split_with_sizes")
def split(tensor, split_size_or_sections, dim=0, *, split_size=None, split_sizes=None):
    sizes = next(s for s in (split_size_or_sections, split_size, split_sizes) if s is not None)
    dim = _dim(tensor, dim, "split")
    n = tensor.shape[dim]
    if not isinstance(sizes, (tuple, list)):
        sizes = _equal_parts(n, sizes)
    starts = list(itertools.accumulate(sizes, initial=0))
    if not same_size(starts[-1], n):
        raise BadArgument(op="split", name="sizes", rule=f"of sum {n}", got=sizes, hint="")
    return tuple(ops.slice(tensor, dim, a, b) for a, b in itertools.pairwise(starts))


def _equal_parts(n, size) -> list:
    """n as parts of one size, and what is left."""
    if isinstance(count := divide_exactly(n, size), int):
        return [size] * count
    n, size = number_of(n, "split"), number_of(size, "split")
    return [size] * (n // size) + ([n % size] if n % size or n == 0 else [])


@spells("torch.unbind", "Tensor.unbind")
def unbind(input, dim=0):
    dim = _dim(input, dim, "unbind")
    return tuple(ops.select(input, dim, i) for i in range(number_of(input.shape[dim], "unbind")))


def _constants(values: Any) -> Node:
    """A tensor of the numbers in a list of lists."""
    if isinstance(values, (list, tuple)):
        return ops.stack([_constants(v) for v in values], 0)
    return build(ops.full, ((), values), {})


@spells("Tensor.__getitem__")
def getitem(self, key):
    """x[...]: ints, slices, None, Ellipsis and index tensors, as torch reads them."""
    keys = key if isinstance(key, tuple) else (key,)
    taken = len([k for k in keys if k is not None and k is not Ellipsis])
    if taken > len(self.shape):
        raise BadArgument(op="x[...]", name="the indices", rule=f"{len(self.shape)} at most", got=taken, hint="")
    x, dim, picked = self, 0, {}
    for k in keys:
        if k is Ellipsis:
            dim += len(self.shape) - taken
        elif k is None:
            x, dim = ops.unsqueeze(x, dim), dim + 1
        elif isinstance(k, slice):
            x, dim = _cut(x, dim, k.start, k.stop, k.step), dim + 1
        elif isinstance(k, (list, tuple, Node)):
            picked[dim], dim = k if isinstance(k, Node) else _constants(k), dim + 1
        elif isinstance(k, bool):
            raise DataDependent(op="x[bool]", what="the shape", hint="Use x[None] or torch.where.")
        else:
            x = _at(x, dim, k)
    if not picked:
        return x
    together = max(picked) - min(picked) + 1 == len(picked)
    return ops.index([x, *picked.values()], tuple(picked), min(picked) if together else 0)


# ---- joining and reading ---------------------------------------------------------------------------------------------


@spells("torch.hstack")
def hstack(tensors):
    return ops.cat(tensors, 0 if len(tensors[0].shape) == 1 else 1)


@spells("torch.vstack", "torch.row_stack")
def vstack(tensors):
    return ops.cat([ops.unsqueeze(t, 0) if len(t.shape) == 1 else t for t in tensors], 0)


@spells("torch.constant_pad_nd")
def constant_pad_nd(input, pad, value=0):
    return ops.pad(input, pad, "constant", value)


@spells("torch.gather", "Tensor.gather")
def gather(input, dim, index, *, sparse_grad=False):
    return ops.gather(input, dim, index)


@spells("F.embedding")
def embedding(input, weight, padding_idx=None, max_norm=None, norm_type=2.0, scale_grad_by_freq=False, sparse=False):
    if max_norm is not None:
        raise BadArgument(op="embedding", name="max_norm", rule="None", got=max_norm, hint="It changes the weight in place.")
    return ops.embedding(input, weight)


@spells("torch.embedding")
def torch_embedding(weight, indices, padding_idx=-1, scale_grad_by_freq=False, sparse=False):
    return ops.embedding(indices, weight)


@spells("torch.meshgrid")
def meshgrid(*tensors, indexing=None):
    tensors = _flat(tensors)
    if indexing == "xy" and len(tensors) > 1:
        x, y, *rest = meshgrid(tensors[1], tensors[0], *tensors[2:])
        return (y, x, *rest)
    shape = tuple(t.shape[0] if t.shape else 1 for t in tensors)
    lined_up = (ops.reshape(t, tuple(-1 if e == d else 1 for e in range(len(shape)))) for d, t in enumerate(tensors))
    return tuple(ops.expand(t, shape) for t in lined_up)


@spells("torch.outer", "Tensor.outer", "torch.ger", "Tensor.ger")
def outer(input, vec2):
    return ops.unsqueeze(input, 1) * ops.unsqueeze(vec2, 0)


# ---- layers ----------------------------------------------------------------------------------------------------------


@spells("F.dropout", "F.dropout1d", "F.dropout2d", "F.dropout3d", "F.alpha_dropout", "F.feature_alpha_dropout",
        "torch.dropout", "torch.feature_dropout")  # fmt: skip
def dropout(input, p=0.5, training=True, inplace=False, *, train=None):
    if (training if train is None else train) and p != 0:
        raise UnknownFunction(op="dropout", hint="Random numbers are not available: call .eval(), or use p=0.")
    return input


@spells("F.batch_norm")
def batch_norm(input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    if training:
        raise UnknownFunction(op="batch_norm", hint="It changes its running statistics in training: call .eval().")
    return ops.batch_norm(input, running_mean, running_var, weight, bias, eps)


@spells("F.instance_norm")
def instance_norm(input, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True,
                  momentum=0.1, eps=1e-5):  # fmt: skip
    if not use_input_stats:
        return ops.batch_norm(input, running_mean, running_var, weight, bias, eps)
    if running_mean is not None:
        raise UnknownFunction(op="instance_norm", hint="It changes its running statistics in training: call .eval().")
    return ops.group_norm(input, input.shape[1], weight, bias, eps)


@spells("torch.layer_norm")
def layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5, cudnn_enable=True):
    return ops.layer_norm(input, normalized_shape, weight, bias, eps)


@spells("torch.group_norm")
def group_norm(input, num_groups, weight=None, bias=None, eps=1e-5, cudnn_enabled=True):
    return ops.group_norm(input, num_groups, weight, bias, eps)


@spells("torch.batch_norm")
def torch_batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn_enabled=True):
    return batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


@spells("F.unfold")
def unfold(input, kernel_size, dilation=1, padding=0, stride=1):
    raise UnknownFunction(op="unfold", hint="Tensor.unfold(dimension, size, step) is there.")


# ---- factories -------------------------------------------------------------------------------------------------------


def _made(op: Op, *args: Any, dtype=None, device=None, layout=None, pin_memory=False, requires_grad=False,
          memory_format=None, out=None) -> Any:  # fmt: skip
    """A tensor made by an op; it will live where the fused function runs."""
    if requires_grad or out is not None:
        name = "requires_grad" if requires_grad else "out"
        raise BadArgument(op=op.name, name=name, rule="left out", got=requires_grad or out, hint="")
    return build(op, args, {"dtype": dtype})


def _filled(name: str, op: Op) -> None:
    @spells(f"torch.{name}")
    def filled(*size, **options):
        return _made(op, _flat((options.pop("size"),) if "size" in options else size), **options)

    @spells(f"torch.{name}_like")
    def like(input, **options):
        return _made(OPS[f"{op.name}_like"], input, **options)

    @spells(f"Tensor.new_{name}")
    def new(self, *size, **options):
        return filled(*size, **{"dtype": self.dtype, **options})


_filled("zeros", OPS["zeros"])
_filled("ones", OPS["ones"])


@spells("torch.full")
def full(size, fill_value, **options):
    return _made(ops.full, _flat([size]), fill_value, **options)


@spells("torch.full_like")
def full_like(input, fill_value, **options):
    return _made(ops.full_like, input, fill_value, **options)


@spells("Tensor.new_full")
def new_full(self, size, fill_value, **options):
    return full(size, fill_value, **{"dtype": self.dtype, **options})


@spells("torch.arange")
def arange(*bounds, start=0, end=None, step=1, **options):
    if len(bounds) == 1:
        end = bounds[0]
    elif bounds:
        start, end, step = (*bounds, step)[:3]
    return _made(ops.arange, start, end, step, **options)


@spells("torch.linspace")
def linspace(start, end, steps, **options):
    return _made(ops.linspace, start, end, steps, **options)


@spells("torch.eye")
def eye(n, m=None, **options):
    return _made(ops.eye, n, m, **options)


for _name, _op in OPS.items():
    _function = getattr(F, _name, None)
    if f"F.{_name}" in SPELLINGS or not inspect.isfunction(_function):
        continue
    if set(inspect.signature(_function).parameters) - set(_op.signature.parameters):
        SPELLINGS[f"F.{_name}"] = _fitted(_function, _op)
