"""torch's forms of call for views: other shapes, orders and sizes of all elements; in the manner of `spell.py`."""

from __future__ import annotations

import itertools

import torch

from fusedsl.errors import BadArgument, DataDependent
from fusedsl.ir import SPELLINGS, spells
from fusedsl.types import dim_in
from fusedsl.types import dtype as dtype_of

from .spell import dim_of, flat, ops

# ---- shapes ----------------------------------------------------------------------------------------------------------


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


@spells("torch.meshgrid")
def meshgrid(*tensors, indexing=None):
    tensors = flat(tensors)
    if indexing == "xy" and len(tensors) > 1:
        x, y, *rest = meshgrid(tensors[1], tensors[0], *tensors[2:])
        return (y, x, *rest)
    shape = tuple(t.shape[0] if t.shape else 1 for t in tensors)
    lined_up = (ops.reshape(t, tuple(-1 if e == d else 1 for e in range(len(shape)))) for d, t in enumerate(tensors))
    return tuple(ops.expand(t, shape) for t in lined_up)


# ---- orders ----------------------------------------------------------------------------------------------------------


@spells("torch.fliplr", "Tensor.fliplr")
def fliplr(input):
    return ops.flip(input, (1,))


@spells("torch.flipud", "Tensor.flipud")
def flipud(input):
    return ops.flip(input, (0,))


@spells("torch.rot90", "Tensor.rot90")
def rot90(input, k=1, dims=(0, 1)):
    rank = len(input.shape)
    if len(dims) != 2 or rank < 2:
        raise BadArgument(op="rot90", name="dims", rule="two dimensions", got=repr(dims), hint="")
    a, b = (dim_in(d, rank, "rot90") for d in dims)
    if a == b:
        raise BadArgument(op="rot90", name="dims", rule="two dimensions", got=repr(dims), hint="")
    turn = k % 4
    if turn == 0:
        return ops.clone(input)
    if turn == 2:
        return ops.flip(input, (a, b))
    return ops.transpose(ops.flip(input, (b if turn == 1 else a,)), a, b)


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
    moved = {dim_of(input, to, "movedim"): dim_of(input, of, "movedim") for to, of in pairs}
    rest = iter([d for d in range(rank) if d not in moved.values()])
    return ops.permute(input, tuple(moved[d] if d in moved else next(rest) for d in range(rank)))


@spells("torch.roll", "Tensor.roll")
def roll(input, shifts, dims=()):
    dims = flat([dims])
    if dims:
        return ops.roll(input, shifts, dims)
    return ops.reshape(ops.roll(ops.reshape(input, (-1,)), shifts, (0,)), tuple(input.shape))


# ---- repetitions -----------------------------------------------------------------------------------------------------


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


# ---- more dimensions -------------------------------------------------------------------------------------------------


@spells("torch.unflatten", "Tensor.unflatten")
def unflatten(input, dim, sizes):
    return ops.unflatten(input, dim, tuple(sizes))


@spells("Tensor.unfold")
def windows(self, dimension, size, step):
    dim = dim_of(self, dimension, "unfold")
    n = self.shape[dim] if self.shape else 1
    if n < size:
        raise BadArgument(op="unfold", name="size", rule=f"at most {n}", got=size, hint="")
    if not self.shape:  # one window, of the one element or of none
        return ops.slice(ops.unsqueeze(self, 0), 0, 0, size)
    return ops.unfold(self, dim, size, step)


SPELLINGS["torch.linalg.diagonal"] = lambda A, *, offset=0, dim1=-2, dim2=-1: ops.diagonal(A, offset, dim1, dim2)
