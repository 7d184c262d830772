"""What users do wrong: each mistake has the error that says so, with the line it is about."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fusedsl import fuse
from fusedsl.errors import (
    BadArgument,
    DataDependent,
    DimOutOfRange,
    DTypesDisagree,
    InPlaceInput,
    NeedsGrad,
    ShapesDisagree,
    UnknownDType,
    UnknownFunction,
    UnsupportedDevice,
)  # fmt: skip

X, Y = torch.randn(4, 6), torch.randn(4, 5)
ROWS, INDEX = torch.randint(0, 4, (4,)), torch.randint(0, 4, (3,))

# name -> (function, arguments, error, part of its message)
MISTAKES = {
    "sizes that do not broadcast": (lambda a, b: a + b, (X, Y), ShapesDisagree, "add: operands must broadcast, got"),
    "a condition of another shape": (lambda a, b: torch.where(a > 0, a, b), (X, Y), ShapesDisagree, "must broadcast"),
    "cat of other sizes": (lambda a, b: torch.cat([a, b]), (X, Y), ShapesDisagree, "all sizes but that of dim"),
    "a view of more elements": (lambda a: a.view(5, 5), (X,), ShapesDisagree, "number of elements stays"),
    "two sizes left out": (lambda a: a.reshape(-1, -1), (X,), BadArgument, "at most one -1"),
    "expanding a size": (lambda a: a.expand(3, 6), (X,), ShapesDisagree, "keeps its size unless it is 1"),
    "a dim that is not there": (lambda a: a.softmax(3), (X,), DimOutOfRange, r"dim must lie in \[-2, 1\], got 3"),
    "a dim twice": (lambda a: a.sum((0, 0)), (X,), BadArgument, "each dimension at most once"),
    "a permutation of some dims": (lambda a: a.permute(0), (X,), BadArgument, "every dimension once"),
    "no chunks": (lambda a: a.chunk(0), (X,), BadArgument, "chunks must be at least 1"),
    "parts of another sum": (lambda a: a.split([1, 1]), (X,), BadArgument, "of sum 4"),
    "a part beyond the end": (lambda a: a.narrow(0, 3, 3), (X,), BadArgument, "must be at most 4, got 6"),
    "a window larger than the tensor": (lambda a: a.unfold(0, 9, 1), (X,), BadArgument, "size must be at most 4"),
    "a step backwards": (lambda a: a[::-1], (X,), BadArgument, r"Use x.flip\(dim\)"),
    "an index beyond the end": (lambda a: a[7], (X,), BadArgument, r"in \[-4, 4\) for dim 0"),
    "too many indices": (lambda a: a[0, 0, 0], (X,), BadArgument, "2 at most, got 3"),
    "an index that is a float": (lambda a, b: a[b], (X, X[0]), DTypesDisagree, r"indices must be integers.*Use .long"),
    "gather by another rank": (lambda a, i: a.gather(0, i), (X, INDEX), ShapesDisagree, "as many dimensions"),
    "a mask as an index": (lambda a: a[a > 0], (X,), DataDependent, "Use torch.where"),
    "how often each number is there": (lambda i: i.bincount(minlength=4), (ROWS,), DataDependent, "F.one_hot.x, n."),
    "a shape that depends on values": (lambda a: a.unique(), (X,), DataDependent, "the shape of the result"),
    "a number out of a tensor": (lambda a: a * a.sum().item(), (X,), DataDependent, "Keep it a tensor"),
    "a Python float of a tensor": (lambda a: float(a.sum()), (X,), DataDependent, "Keep it a tensor"),
    "a branch on values": (lambda a: a if a.sum() > 0 else -a, (X,), DataDependent, "instead of a branch"),
    "numpy of a tensor": (lambda a: np.sin(a), (X,), DataDependent, "__array__"),
    "repeats that are data": (lambda a, r: a.repeat_interleave(r), (X, ROWS), DataDependent, "Give repeats as an int"),
    "times a string": (lambda a: a * "2", (X,), BadArgument, "must be a tensor or a number, got '2'"),
    "plus a list": (lambda a: a + [1] * 6, (X,), BadArgument, "Make a tensor of it outside"),
    "minus None": (lambda a, b=None: a - b, (X,), BadArgument, "a tensor or a number, got None"),
    "a numpy array": (lambda a: a / np.ones(6), (X,), BadArgument, "Make a tensor of it outside"),
    "changing an argument": (lambda a: a.add_(1), (X,), InPlaceInput, "Use the out-of-place form"),
    "writing into an argument": (lambda a: a.__setitem__(0, 1), (X,), InPlaceInput, "only reads its inputs"),
    "out=": (lambda a, b: torch.add(a, 1, out=b), (X, X.clone()), BadArgument, "out must be left out"),
    "a gradient": (lambda a: a * 2, (X.clone().requires_grad_(),), NeedsGrad, "Call it under torch.no_grad"),
    "another device": (lambda a: a.cuda(), (X,), UnsupportedDevice, "Move it outside"),
    "tensors without memory": (lambda a, b: a + b, (X, X.to("meta")), UnsupportedDevice, "ask for its plan"),
    "complex numbers": (lambda a: a * 2, (X.to(torch.complex64),), UnknownDType, "torch.complex64"),
    "a sparse tensor": (lambda a: a * 2, (X.to_sparse(),), BadArgument, "a dense tensor"),
    "the mean of integers": (lambda a: a.mean(), (INDEX,), DTypesDisagree, "Give dtype="),
    "bools minus bools": (lambda a: a - a, (X > 0,), DTypesDisagree, "Use .*to.torch.int64"),
    "bits of floats": (lambda a: a & 1, (X,), DTypesDisagree, "operands must be integers or bools"),
    "an integer to the power of -1": (lambda a: a**-1, (INDEX,), BadArgument, "at least 0 on integers"),
    "an unknown form of gelu": (lambda a: F.gelu(a, approximate="fast"), (X,), BadArgument, "'none' or 'tanh'"),
    "an unknown reduction": (lambda a: F.mse_loss(a, a, reduction="avg"), (X,), BadArgument, "'none', 'mean' or 'sum'"),
    "the wrong normalized_shape": (lambda a: F.layer_norm(a, (5,)), (X,), ShapesDisagree, "the last dimensions"),
    "groups that do not divide": (lambda a: F.group_norm(a, 4), (X,), BadArgument, "a divisor of the channels"),
    "nothing to clamp to": (lambda a: a.clamp(), (X,), BadArgument, "min or max must be given"),
    "the greatest of nothing": (lambda a: a.amax(0), (torch.empty(0, 3),), BadArgument, "Nothing has no extreme"),
    "a generator": (lambda a: (v for v in [a]), (X,), BadArgument, "Give a list"),
    "bits of another size": (lambda a: a.view(torch.int16), (X,), BadArgument, "4 bytes.*For values use .to"),
    "bits as truths": (lambda a: a.view(torch.bool), (ROWS.to(torch.uint8),), BadArgument, "Use x != 0"),
    "a contraction": (lambda a: torch.einsum("...i,...i->...", a, a), (X,), UnknownFunction, "is a contraction"),
    "a diagonal of no square": (lambda a: torch.einsum("ii->i", a), (X,), BadArgument, "the sizes of i must be"),
    "more than goes around": (lambda a: F.pad(a, (-4, 3), "circular"), (X,), BadArgument, "size is n = 2"),
    "other places": (lambda a, b: torch.gradient(a, spacing=(b[0],), dim=1), (X, Y), ShapesDisagree, "each"),
    "drawing until it fits": (lambda a: nn.init.trunc_normal_(a.clone()), (X,), DataDependent, "Tensor.item"),
    "a convolution": (lambda a: F.conv1d(a[None], a[None]), (X,), UnknownFunction, "has no rule"),
}


# About an argument or the result as a whole, not about a line.
WITHOUT_LINE = {"a gradient", "tensors without memory", "complex numbers", "a sparse tensor", "a generator"}


@pytest.mark.filterwarnings("ignore")  # torch's, of numpy and of sparse tensors
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_has_its_error(name):
    function, args, kind, said = MISTAKES[name]
    with pytest.raises(kind, match=said) as caught:
        fuse(function)(*args)
    if name not in WITHOUT_LINE:
        assert caught.value.line is not None and caught.value.line.file == __file__
