"""How torch's own functions and methods are written with ops, where their forms of call differ from an op's.

Names: `torch.max`, `Tensor.max`, `F.pad` (torch.nn.functional), `torch.linalg.norm`, and properties as `Tensor.mT`.
What is not here is the op of the same name. A spelling uses ops, Python operators and the `.shape` and `.dtype` of its
arguments, so it takes the tracer's tensors and nodes alike. It compares and divides sizes as Python does, which leaves
guards while tracing.
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
from fusedsl.index import Poly, divide_exactly, is_less, is_nonnegative
from fusedsl.ir import OPS, SPELLINGS, Op, spells
from fusedsl.types import dim_in
from fusedsl.types import dtype as dtype_of

ops = SimpleNamespace(**OPS)


# ---- torch.nn.functional: an op of the same name, and parameters that must keep their default ------------------------


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

_OPERATORS = {
    "add": "add", "sub": "sub", "mul": "mul", "truediv": "div", "div": "div", "floordiv": "floor_divide",
    "mod": "remainder", "pow": "pow", "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor",
    "lshift": "left_shift", "rshift": "right_shift", "lt": "lt", "le": "le", "gt": "gt", "ge": "ge", "eq": "eq",
    "ne": "ne", "neg": "neg", "abs": "abs", "invert": "bitwise_not",
}  # fmt: skip


def _reflected(op: Op) -> Callable:
    def reflected(self, other):
        return op(other, self)

    return reflected


for _name, _target in _OPERATORS.items():
    SPELLINGS[f"Tensor.__{_name}__"] = OPS[_target]
    if hasattr(torch.Tensor, f"__r{_name}__"):
        SPELLINGS[f"Tensor.__r{_name}__"] = _reflected(OPS[_target])


@spells("torch.positive", "Tensor.positive", "Tensor.__pos__", "torch.real", "Tensor.real", "torch.conj", "Tensor.conj",
        "torch.conj_physical", "Tensor.conj_physical", "torch.resolve_conj", "Tensor.resolve_conj",
        "torch.resolve_neg", "Tensor.resolve_neg")  # fmt: skip
def positive(input):
    return input


@spells("torch.add", "Tensor.add")
def add(input, other, *, alpha=1):
    return ops.add(input, _scaled(other, alpha))


@spells("torch.sub", "Tensor.sub", "torch.subtract", "Tensor.subtract")
def sub(input, other, *, alpha=1):
    return ops.sub(input, _scaled(other, alpha))


@spells("torch.rsub")
def rsub(input, other, *, alpha=1):
    return ops.sub(other, _scaled(input, alpha))


def _scaled(other, alpha):
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
    if not decimals:
        return ops.round(input)
    scale, dtype = 10.0 ** abs(decimals), dtype_of(input.dtype)
    input = ops.cast(input, dtype.computed) if dtype.is_float else input  # it is rounded once
    found = ops.round(input / scale) * scale if decimals < 0 else ops.round(input * scale) / scale
    return ops.cast(found, dtype) if dtype.is_float else found


@spells("torch.is_conj", "Tensor.is_conj", "torch.is_neg", "Tensor.is_neg")
def is_conj(input):
    return False


@spells("torch.isreal", "Tensor.isreal")
def isreal(input):
    return ops.ones_like(input, torch.bool)


@spells("torch.fill")
def fill(input, value):
    return ops.full_like(input, value)


@spells("torch.isin")
def isin(elements, test_elements, *, assume_unique=False, invert=False):
    if hasattr(test_elements, "dtype"):
        every = ops.reshape(test_elements, (-1,))
        found = ops.any(ops.eq(ops.unsqueeze(elements, -1) if hasattr(elements, "dtype") else elements, every), -1)
    else:
        found = ops.eq(elements, test_elements)
    return ops.logical_not(found) if invert else found


@spells("torch.frexp", "Tensor.frexp")
def frexp(input):
    return torch.return_types.frexp(ops.frexp(input))


@spells("torch.polygamma", "torch.special.polygamma")
def polygamma(n, input):
    return ops.polygamma(input, n)


@spells("torch.where")
def where(condition, input=None, other=None):
    if input is None or other is None:
        raise DataDependent(op="where", what="how many elements are not 0", hint="Give all three arguments.")
    return ops.where(condition, input, other)


@spells("Tensor.where")
def tensor_where(self, condition, other):
    return ops.where(condition, self, other)


# ---- conversions -----------------------------------------------------------------------------------------------------


def converted(x, dtype):
    """x in another dtype; x itself where it has that dtype, as torch does."""
    return x if dtype_of(x.dtype) is dtype_of(dtype) else ops.cast(x, dtype)


def _named_dtype(name: str, dtype: torch.dtype) -> None:
    @spells(f"Tensor.{name}")
    def convert(self):
        return converted(self, dtype)


for _name, _dtype in {
    "double": torch.float64, "float": torch.float32, "half": torch.float16, "bfloat16": torch.bfloat16,
    "long": torch.int64, "int": torch.int32, "short": torch.int16, "char": torch.int8, "byte": torch.uint8,
    "bool": torch.bool,
}.items():  # fmt: skip
    _named_dtype(_name, _dtype)


@spells("Tensor.to")
def to(self, *args, dtype=None, device=None, non_blocking=False, copy=False, other=None):
    for value in args:
        if isinstance(value, torch.dtype):
            dtype = value
        elif isinstance(value, (str, torch.device)):
            device = value
        elif hasattr(value, "dtype"):
            other = value
    here = getattr(self, "device", None)
    if device is not None and here is not None:
        there = torch.device(device)
        if there.type != here.type or there.index not in (None, here.index):
            raise BadArgument(op="to", name="device", rule=f"{here}, where the operand is", got=device,
                              hint="Move tensors outside of the fused function.")  # fmt: skip
    result = converted(self, dtype or getattr(other, "dtype", None) or self.dtype)
    return ops.clone(result) if copy and result is self else result


@spells("Tensor.type")
def type_(self, dtype=None, non_blocking=False):
    if not isinstance(dtype, torch.dtype):
        raise BadArgument(op="type", name="dtype", rule="a torch.dtype", got=repr(dtype), hint="x.dtype is x's own.")
    return converted(self, dtype)


@spells("Tensor.type_as")
def type_as(self, other):
    return converted(self, other.dtype)


# ---- reductions ------------------------------------------------------------------------------------------------------


def _extreme(name: str, pairwise: str, amax: str, argmax: str) -> None:
    @spells(f"torch.{name}", f"Tensor.{name}")
    def extreme(input, dim=None, keepdim=False, *, other=None):
        if other is not None or hasattr(dim, "dtype"):
            return OPS[pairwise](input, dim if other is None else other)
        if dim is None:
            return OPS[amax](input)
        results = OPS[amax](input, dim, keepdim), OPS[argmax](input, dim, keepdim)
        return getattr(torch.return_types, name)(results)


_extreme("max", "maximum", "amax", "argmax")
_extreme("min", "minimum", "amin", "argmin")


def _running(name: str) -> None:
    @spells(f"torch.{name}", f"Tensor.{name}")
    def running(input, dim):
        return getattr(torch.return_types, name)(OPS[name](input, dim))


_running("cummax")
_running("cummin")


@spells("torch.aminmax", "Tensor.aminmax")
def aminmax(input, *, dim=None, keepdim=False):
    return torch.return_types.aminmax(ops.aminmax(input, dim, keepdim))


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


# ---- views -----------------------------------------------------------------------------------------------------------


def flat(sizes: Sequence) -> tuple:
    """Sizes given one by one or as one list."""
    one = len(sizes) == 1 and isinstance(sizes[0], (tuple, list))
    return tuple(sizes[0]) if one else tuple(sizes)


def _dim(x, dim: int, op: str) -> int:
    return dim_in(dim, len(x.shape), op)


@spells("Tensor.reshape")
def reshape(self, *shape, size=None):
    return ops.reshape(self, flat(shape if size is None else (size,)))


@spells("Tensor.view")
def view(self, *shape, size=None, dtype=None):
    dtype = shape[0] if shape and isinstance(shape[0], torch.dtype) else dtype
    if dtype is None:
        return reshape(self, *shape, size=size)
    source, dtype = dtype_of(self.dtype), dtype_of(dtype)
    if source.bytes != dtype.bytes:
        rule, hint = f"of {source.bytes} bytes an element, as {source} is", "For values use .to(dtype)."
        raise BadArgument(op="Tensor.view", name="dtype", rule=rule, got=dtype, hint=f"{hint} View bits outside.")
    if dtype.is_bool and source is not dtype:
        raise BadArgument(op="Tensor.view", name="dtype", rule="one of numbers", got=dtype, hint="Use x != 0.")
    return self if source is dtype else ops.reread(self, source.name, dtype.name)


@spells("Tensor.view_as", "Tensor.reshape_as")
def view_as(self, other):
    return ops.reshape(self, tuple(other.shape))


@spells("torch.ravel", "Tensor.ravel")
def ravel(input):
    return ops.reshape(input.contiguous(), (-1,))


@spells("Tensor.expand")
def expand(self, size, implicit=False):
    return ops.expand(self, flat([size]))


@spells("torch.broadcast_to", "Tensor.broadcast_to")
def broadcast_to(input, size):
    return ops.expand(input, tuple(size))


@spells("Tensor.expand_as")
def expand_as(self, other):
    return ops.expand(self, tuple(other.shape))


@spells("torch.broadcast_tensors")
def broadcast_tensors(*tensors):
    tensors = flat(tensors)
    backwards = itertools.zip_longest(*(t.shape[::-1] for t in tensors), fillvalue=1)
    shape = [next((n for n in sizes if not (isinstance(n, int) and n == 1)), 1) for sizes in backwards][::-1]
    return tuple(ops.expand(t, tuple(shape)) for t in tensors)


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
    pairs = zip(flat([destination]), flat([source]), strict=True)
    moved = {_dim(input, to, "movedim"): _dim(input, of, "movedim") for to, of in pairs}
    rest = iter([d for d in range(rank) if d not in moved.values()])
    return ops.permute(input, tuple(moved[d] if d in moved else next(rest) for d in range(rank)))


@spells("Tensor.repeat")
def repeat(self, repeats=()):
    return ops.repeat(self, flat([repeats]))


@spells("torch.tile", "Tensor.tile")
def tile(input, dims=()):
    dims = flat([dims])
    return ops.repeat(input, (1,) * (len(input.shape) - len(dims)) + dims)


@spells("torch.repeat_interleave", "Tensor.repeat_interleave")
def repeat_interleave(input, repeats=None, dim=None, *, output_size=None):
    if repeats is None or hasattr(repeats, "dtype"):
        raise DataDependent(op="repeat_interleave", what="the result's size", hint="Give repeats as an int.")
    if dim is None:
        input, dim = ops.reshape(input, (-1,)), 0
    return ops.repeat_interleave(input, repeats, dim)


@spells("torch.roll", "Tensor.roll")
def roll(input, shifts, dims=()):
    dims = flat([dims])
    if dims:
        return ops.roll(input, shifts, dims)
    return ops.reshape(ops.roll(ops.reshape(input, (-1,)), shifts, (0,)), tuple(input.shape))


@spells("torch.unflatten", "Tensor.unflatten")
def unflatten(input, dim, sizes):
    return ops.unflatten(input, dim, tuple(sizes))


# ---- parts -----------------------------------------------------------------------------------------------------------


def _less(a, b) -> bool:
    """a < b; between the sizes of nodes, where that is known."""
    if not isinstance(a, Poly) and not isinstance(b, Poly):
        return bool(a < b)
    if not is_less(a, b) and not is_nonnegative(a - b):
        raise BadArgument(op="x[...]", name="a size", rule="known well enough to compare", got=f"{a} and {b}", hint="")
    return is_less(a, b)


def _number(size) -> int:
    if isinstance(size, Poly):
        raise BadArgument(op="a view", name="a size", rule="a number", got=size, hint="")
    return int(size)


def _divided(size, by):
    """size / by if that is exact, else None"""
    if isinstance(size, Poly) or isinstance(by, Poly):
        return divide_exactly(size, by)
    return size // by if size % by == 0 else None


def _bounded(bound, n, default):
    """A bound of a slice counted from the front, in [0, n]."""
    if bound is None:
        return default
    if _less(bound, 0):
        bound = bound + n
        return 0 if _less(bound, 0) else bound
    return n if _less(n, bound) else bound


def _cut(x, dim: int, start, stop, step=None):
    if start is None and stop is None and step in (None, 1):
        return x
    return ops.slice(x, dim, *bounds(x, dim, start, stop, step))


def bounds(x, dim: int, start, stop, step=None) -> tuple:
    """Where a slice starts, ends, and its step, as ops want them: 0 <= start <= end <= the size."""
    n, step = x.shape[dim], 1 if step is None else step
    if _less(step, 1):
        raise BadArgument(op="slice", name="step", rule="at least 1", got=step, hint="Use x.flip(dim).")
    start, stop = _bounded(start, n, 0), _bounded(stop, n, n)
    return start, start if _less(stop, start) else stop, step


def at_number(x, dim: int, index):
    """An index that counts from the end if it is negative, as one from 0."""
    n = x.shape[dim]
    inside = index + n if _less(index, 0) else index
    if _less(inside, 0) or not _less(inside, n):
        raise BadArgument(op="select", name="index", rule=f"in [-{n}, {n}) for dim {dim}", got=index, hint="")
    return inside


@spells("torch.select", "Tensor.select")
def select(input, dim, index):
    dim = _dim(input, dim, "select")
    if hasattr(index, "dtype"):
        return ops.select_at(input, dim, index)
    return ops.select(input, dim, at_number(input, dim, index))


@spells("torch.narrow", "Tensor.narrow")
def narrow(input, dim, start, length):
    dim = _dim(input, dim, "narrow")
    start = start + input.shape[dim] if _less(start, 0) else start
    if _less(input.shape[dim], start + length):
        rule = f"at most {input.shape[dim]}"
        raise BadArgument(op="narrow", name="start + length", rule=rule, got=start + length, hint="")
    return ops.slice(input, dim, start, start + length)


def _parts(x, dim: int, sizes: Sequence) -> tuple:
    ends = itertools.accumulate(sizes, initial=0)
    return tuple(ops.slice(x, dim, start, end) for start, end in itertools.pairwise(ends))


def _equal_parts(n, size) -> list:
    """n as parts of one size, and what is left."""
    count = _divided(n, size) if n != 0 else None
    if isinstance(count, int):
        return [size] * int(count)
    n, size = _number(n), _number(size)
    return [size] * (n // size) + ([n % size] if n % size or n == 0 else [])


@spells("Tensor.unfold")
def windows(self, dimension, size, step):
    dim = _dim(self, dimension, "unfold")
    n = self.shape[dim] if self.shape else 1
    if n < size:
        raise BadArgument(op="unfold", name="size", rule=f"at most {n}", got=size, hint="")
    if not self.shape:  # one window, of the one element or of none
        return ops.slice(ops.unsqueeze(self, 0), 0, 0, size)
    return ops.unfold(self, dim, size, step)


@spells("torch.chunk", "Tensor.chunk")
def chunk(input, chunks, dim=0):
    dim = _dim(input, dim, "chunk")
    n = input.shape[dim]
    if _number(chunks) < 1:
        raise BadArgument(op="chunk", name="chunks", rule="at least 1", got=chunks, hint="")
    size = _divided(n, chunks)
    return _parts(input, dim, [size] * chunks if size is not None else _equal_parts(n, -(-_number(n) // chunks)))


@spells("torch.split", "Tensor.split", "torch.split_with_sizes", "Tensor.split_with_sizes")
def split(tensor, split_size_or_sections=None, dim=0, *, split_size=None, split_sizes=None):
    sizes = next(s for s in (split_size_or_sections, split_size, split_sizes) if s is not None)
    dim = _dim(tensor, dim, "split")
    n = tensor.shape[dim]
    parts = list(sizes) if isinstance(sizes, (tuple, list)) else _equal_parts(n, sizes)
    if not sum(parts) == n:
        raise BadArgument(op="split", name="the sizes", rule=f"of sum {n}", got=sizes, hint="")
    return _parts(tensor, dim, parts)


@spells("torch.unbind", "Tensor.unbind")
def unbind(input, dim=0):
    dim = _dim(input, dim, "unbind")
    return tuple(ops.select(input, dim, i) for i in range(_number(input.shape[dim])))


def listed(indices: Sequence) -> Any:
    """A list of numbers, or of tensors, as an index."""
    if any(hasattr(k, "dtype") for k in indices):
        return ops.stack(list(indices))
    return SPELLINGS["torch.tensor"](list(indices), **({} if indices else {"dtype": torch.int64}))


def keys_of(x, key) -> list:
    """What x is indexed with, one by one; in the place of an Ellipsis all of the dimensions that it stands for."""
    keys = list(key) if isinstance(key, tuple) else [key]
    if isinstance(key, list) and not all(isinstance(k, int) for k in key):
        keys = key  # as torch does
    if any(isinstance(k, bool) for k in keys):
        raise DataDependent(op="x[bool]", what="the shape", hint="Use x[None] or torch.where.")
    rank = len(x.shape)
    taken = sum(_dims_taken(k) for k in keys)
    if taken > rank:
        raise BadArgument(op="x[...]", name="the indices", rule=f"{rank} at most", got=taken, hint="")
    at = next((at for at, k in enumerate(keys) if k is Ellipsis), None)
    return keys if at is None else [*keys[:at], *[slice(None)] * (rank - taken), *keys[at + 1 :]]


def _dims_taken(key) -> int:
    """How many dimensions something in [...] is for."""
    if key is None or key is Ellipsis:
        return 0
    return len(key.shape) if getattr(key, "dtype", None) in (torch.bool, torch.uint8) else 1


@spells("Tensor.__getitem__")
def getitem(self, key):
    """x[...]: ints, slices, None, Ellipsis and index tensors, as torch reads them."""
    x, dim, picked = self, 0, {}
    for k in keys_of(self, key):
        if k is None:
            x, dim = ops.unsqueeze(x, dim), dim + 1
        elif isinstance(k, slice):
            x, dim = _cut(x, dim, k.start, k.stop, k.step), dim + 1
        elif hasattr(k, "dtype") and not k.shape:  # selects, as a number does
            x = ops.select_at(x, dim, k)
        elif isinstance(k, (list, tuple)) or hasattr(k, "dtype"):
            picked[dim], dim = k if hasattr(k, "dtype") else listed(k), dim + 1
        else:
            x = ops.select(x, dim, at_number(x, dim, k))
    if not picked:
        return x
    together = max(picked) - min(picked) + 1 == len(picked)
    return ops.index([x, *picked.values()], tuple(picked), min(picked) if together else 0)


# ---- joining and reading ---------------------------------------------------------------------------------------------


@spells("torch.hstack")
def hstack(tensors):
    tensors = [t if len(t.shape) else ops.reshape(t, (1,)) for t in tensors]
    return ops.cat(tensors, 0 if len(tensors[0].shape) == 1 else 1)


@spells("torch.vstack", "torch.row_stack")
def vstack(tensors):
    return ops.cat([t if len(t.shape) > 1 else ops.reshape(t, (1, -1)) for t in tensors], 0)


@spells("torch.constant_pad_nd")
def constant_pad_nd(input, pad, value=0):
    return SPELLINGS["F.pad"](input, pad, "constant", value)


@spells("torch.gather", "Tensor.gather")
def gather(input, dim, index, *, sparse_grad=False):
    return ops.gather(input, dim, index)


@spells("F.embedding")
def embedding(input, weight, padding_idx=None, max_norm=None, norm_type=2.0, scale_grad_by_freq=False, sparse=False):
    if max_norm is not None:
        hint = "It changes the weight in place."
        raise BadArgument(op="embedding", name="max_norm", rule="None", got=max_norm, hint=hint)
    return ops.embedding(input, weight)


@spells("torch.embedding")
def torch_embedding(weight, indices, padding_idx=-1, scale_grad_by_freq=False, sparse=False):
    return ops.embedding(indices, weight)


@spells("torch.meshgrid")
def meshgrid(*tensors, indexing=None):
    tensors = flat(tensors)
    if indexing == "xy" and len(tensors) > 1:
        x, y, *rest = meshgrid(tensors[1], tensors[0], *tensors[2:])
        return (y, x, *rest)
    shape = tuple(t.shape[0] if t.shape else 1 for t in tensors)
    lined_up = (ops.reshape(t, tuple(-1 if e == d else 1 for e in range(len(shape)))) for d, t in enumerate(tensors))
    return tuple(ops.expand(t, shape) for t in lined_up)


@spells("torch.einsum")
def einsum(equation, *operands):
    """Products of operands whose dimensions are named, without contractions: a sum is over what one operand has."""
    operands = flat(operands)
    if not isinstance(equation, str):
        raise BadArgument(op="einsum", name="the equation", rule="a string", got=repr(equation), hint="")
    terms, result = _named_dims(equation, [len(operand.shape) for operand in operands])
    product = None
    for place, (own, operand) in enumerate(zip(terms, operands, strict=True)):
        operand, own = _diagonals(operand, own)
        summed = [c for c in own if c not in result]
        if {*summed} & {c for term in terms[:place] + terms[place + 1 :] for c in term}:
            raise UnknownFunction(op="einsum", hint=f"{equation!r} is a contraction: call it outside the function.")
        if summed:
            operand = ops.sum(operand, tuple(own.index(c) for c in summed))
        kept = [c for c in own if c in result]
        operand = ops.permute(operand, tuple(kept.index(c) for c in result if c in kept))
        for at, c in enumerate(result):
            operand = operand if c in kept else ops.unsqueeze(operand, at)
        product = operand if product is None else product * operand
    return product


def _named_dims(equation: str, ranks: Sequence[int]) -> tuple[list[list[Any]], list[Any]]:
    """The names of the operands' dimensions and of the result's: letters, and for what ... stands for -1, -2 .., from
    the last one on."""
    terms, arrow, result = equation.replace(" ", "").partition("->")
    texts = terms.split(",")
    every = [c for c in terms if c.isalpha()]
    if not arrow:
        result = "..." * ("..." in terms) + "".join(sorted(c for c in set(every) if every.count(c) == 1))
    letters = [text.replace("...", "", 1) for text in (*texts, result)]
    plain = all(text.isalpha() or not text for text in letters)
    if len(texts) != len(ranks) or not plain or len({*letters[-1]}) != len(letters[-1]) or {*letters[-1]} - {*every}:
        rule = "letters for every operand's dimensions, and of those for the result's, beside one ... in each"
        raise BadArgument(op="einsum", name="the equation", rule=rule, got=repr(equation), hint="")
    rests = [rank - len(own) for rank, own in zip(ranks, letters, strict=False)]
    for text, rank, rest in zip(texts, ranks, rests, strict=True):
        if rest < 0 or (rest and "..." not in text):
            rule = f"of {rank - rest} dimensions, one for each letter"
            raise BadArgument(op="einsum", name="an operand", rule=rule, got=rank, hint="")
    return [_spread(*each) for each in zip(texts, rests, strict=True)], _spread(result, max(rests, default=0))


def _spread(text: str, rest: int) -> list[Any]:
    """The names that a term is of; its dots stand for so many dimensions."""
    before, _, after = text.partition("...")
    return [*before, *(range(-rest, 0) if "..." in text else ()), *after]


def _diagonals(x: Any, names: list[Any]) -> tuple[Any, list[Any]]:
    """x where its dimensions of one name have one index, and the names of what is left."""
    while len(names) > len({*names}):
        name = next(name for name in names if names.count(name) > 1)
        one = names.index(name)
        other = names.index(name, one + 1)
        if x.shape[one] != x.shape[other]:
            got = f"{x.shape[one]} and {x.shape[other]}"
            raise BadArgument(op="einsum", name=f"the sizes of {name}", rule="the same", got=got, hint="")
        x = ops.diagonal(x, 0, one, other)
        names = [c for at, c in enumerate(names) if at not in (one, other)] + [name]
    return x, names


@spells("torch.outer", "Tensor.outer", "torch.ger", "Tensor.ger")
def outer(input, vec2):
    return ops.unsqueeze(input, 1) * ops.unsqueeze(vec2, 0)


# ---- layers ----------------------------------------------------------------------------------------------------------


@spells("torch.layer_norm")
def layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5, cudnn_enable=True):
    return ops.layer_norm(input, normalized_shape, weight, bias, eps)


@spells("torch.group_norm")
def group_norm(input, num_groups, weight=None, bias=None, eps=1e-5, cudnn_enabled=True):
    return ops.group_norm(input, num_groups, weight, bias, eps)


@spells("F.unfold")
def unfold(input, kernel_size, dilation=1, padding=0, stride=1):
    raise UnknownFunction(op="unfold", hint="Tensor.unfold(dimension, size, step) is there.")


for _name, _op in OPS.items():
    _function = getattr(F, _name, None)
    if f"F.{_name}" in SPELLINGS or not inspect.isfunction(_function):
        continue
    if set(inspect.signature(_function).parameters) - set(_op.signature.parameters):
        SPELLINGS[f"F.{_name}"] = _fitted(_function, _op)
