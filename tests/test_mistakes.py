"""What users do wrong: each mistake has the error that says so, with the line it is about."""

from typing import Any

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
    "more than goes around": (lambda a: F.pad(a, (-4, 3), "circular"), (X,), BadArgument, "size is n = 2"),
    "other places": (lambda a, b: torch.gradient(a, spacing=(b[0],), dim=1), (X, Y), ShapesDisagree, "each"),
    "drawing until it fits": (lambda a: nn.init.trunc_normal_(a.clone()), (X,), DataDependent, "Tensor.item"),
    "a convolution": (lambda a: F.conv1d(a[None], a[None]), (X,), UnknownFunction, "has no rule"),
}

B = torch.randn(2, 4, 6)
W = torch.randn(5, 6)
_tensordot: Any = torch.tensordot  # with arguments that its types do not allow

# the same of products
MISTAKES |= {
    "rows by rows": (lambda a: a @ a, (X,), ShapesDisagree, r"equal, got 6 and 4 of \[4, 6\] .*turned by .mT"),
    "sizes that do not meet": (lambda a, b: a @ b, (X, Y), ShapesDisagree, r"got 6 and 4 of \[4, 6\] and \[4, 5\]"),
    "batches that do not meet": (lambda a: a @ a[[0, 0, 1]].mT, (B,), ShapesDisagree, "batches must be of one size"),
    "two dtypes": (lambda a: a @ a.T.double(), (X,), DTypesDisagree, r"got f32 and f64. Cast one with .to\(dtype\)"),
    "a product of bools": (lambda a: (a > 0) @ (a > 0).T, (X,), DTypesDisagree, "must be numbers, got bool. Cast"),
    "a matrix by a number": (lambda a: a @ a.sum(), (X,), BadArgument, "of one dimension at least, got .* Use *"),
    "a matrix by a list": (lambda a: a @ [1.0] * 6, (X,), BadArgument, "Make a tensor of it outside"),
    "mm of a vector": (lambda a: torch.mm(a, a[0]), (X,), BadArgument, r"mat2 must be a matrix, got \[6\]. Use matmul"),
    "mm of rows": (lambda a: a.mm(a), (X,), ShapesDisagree, "mm: the sizes that are summed over must be equal"),
    "bmm of matrices": (lambda a: torch.bmm(a, a.T), (X,), BadArgument, "bmm: input must be a batch of matrices"),
    "bmm of one for all": (lambda a: a.bmm(a[:1].mT), (B,), ShapesDisagree, "need one size, .*Use matmul, which broad"),
    "dot of matrices": (lambda a: torch.dot(a, a), (X,), BadArgument, "dot: input must be a vector"),
    "dot of other lengths": (lambda a: a[0].dot(a[:, 0]), (X,), ShapesDisagree, "dot: the sizes .* got 6 and 4"),
    "mv of a row": (lambda a: a.mv(a[:, 0]), (X,), ShapesDisagree, "mv: the sizes .* got 6 and 4"),
    "outer of a matrix": (lambda a: torch.outer(a, a[0]), (X,), BadArgument, "outer: input must be a vector"),
    "a weight as [in, out]": (lambda a, w: F.linear(a, w.T), (X, W), ShapesDisagree, r"\[6, 5\] turned by .mT"),
    "a weight of others": (lambda a, b: F.linear(a, b), (X, Y), ShapesDisagree, "linear: the sizes .* got 6 and 5"),
    "a batch of weights": (lambda a: F.linear(a, a), (B,), BadArgument, r"weight must be a matrix \[out, in\]"),
    "a bias of others": (lambda a, w: F.linear(a, w, a[:, 0]), (X, W), ShapesDisagree, r"broadcast, got \[4, 5\] and"),
    "a bias in half": (lambda a, w: F.linear(a, w, w[:, 0].half()), (X, W), DTypesDisagree, "got f32 and f16. Cast"),
    "a layer of others": (nn.Linear(5, 3).requires_grad_(False), (X,), ShapesDisagree, "linear: the sizes"),
    "bilinear of a matrix": (lambda a: F.bilinear(a, a, a), (X,), BadArgument, r"weight must be .*\[out, in1, in2\]"),
    "bilinear of two batches": (lambda a, b: F.bilinear(a, a[:2], b), (X, B), ShapesDisagree, "need the same sizes"),
    "addmm of rows": (lambda a: torch.addmm(a, a, a), (X,), ShapesDisagree, "addmm: the sizes that are summed"),
    "what is added is more": (lambda a: torch.addmm(a, a[0], a[0].T), (B,), ShapesDisagree, "addmm: operands must br"),
    "addmm of batches": (lambda a: torch.addmm(a, a, a), (B,), BadArgument, "addmm: mat1 must be a matrix"),
    "baddbmm of one for all": (lambda a: torch.baddbmm(a, a, a[:1]), (B,), ShapesDisagree, "the batches need one size"),
    "addmv of a matrix": (lambda a: torch.addmv(a, a, a), (X,), BadArgument, "addmv: vec must be a vector"),
    "addr of matrices": (lambda a: torch.addr(a, a, a), (X,), BadArgument, "addr: vec1 must be a vector"),
    "a multiple that is data": (lambda a: a.addmm(a, a, alpha=a[0, 0]), (X[:, :4],), BadArgument, "a Python number"),
    "one matrix in a chain": (lambda a: torch.linalg.multi_dot([a]), (X,), BadArgument, "must be 2 or more, got 1"),
    "a vector in a chain": (lambda a: torch.linalg.multi_dot([a, a[0], a]), (X,), BadArgument, "operand 1 must be a m"),
    "too many dims": (lambda a: torch.tensordot(a, a, 3), (X,), BadArgument, "a number of dimensions up to 2, or"),
    "unequal lists": (lambda a: _tensordot(a, a, ([0, 1], [0])), (X,), BadArgument, "two lists of as many"),
    "dims of no sense": (lambda a: _tensordot(a, a, "01"), (X,), BadArgument, "up to 2, or two lists"),
    "a dim too far": (lambda a: _tensordot(a, a, ([2], [0])), (X,), DimOutOfRange, r"lie in \[-2, 1\], got 2"),
    "one dim for two": (lambda a: _tensordot(a, a, ([0, -2], [0, 1])), (X,), BadArgument, "at most once"),
    "dims that do not meet": (lambda a: torch.tensordot(a, a, 1), (X,), ShapesDisagree, "tensordot: .*6 and 4"),
    "a digit": (lambda a: torch.einsum("i1->i", a), (X,), BadArgument, "which it is not at position 2, got 'i1->i'"),
    "an unfinished arrow": (lambda a: torch.einsum("ij-", a), (X,), BadArgument, "at position 3, got 'ij-'"),
    "fewer terms": (lambda a: torch.einsum("ij", a, a), (X,), BadArgument, "as many terms as there are operands, 2"),
    "more terms": (lambda a: torch.einsum("ij,jk", a), (X,), BadArgument, "as many terms as there are operands, 1"),
    "fewer letters": (lambda a: torch.einsum("i", a), (X,), BadArgument, "an operand must be of 1 dimension"),
    "more letters": (lambda a: torch.einsum("ijk", a), (X,), BadArgument, "an operand must be of 3 dimensions.*got 2"),
    "two rests": (lambda a: torch.einsum("...i...", a), (X,), BadArgument, "with ... at most once in a term"),
    "a result's letter twice": (lambda a: torch.einsum("ij->ii", a), (X,), BadArgument, "result's letters once"),
    "a letter of nothing": (lambda a: torch.einsum("ij->k", a), (X,), BadArgument, "result's letters once, and in an"),
    "a letter of two sizes": (lambda a: torch.einsum("ij,jk", a, a), (X,), ShapesDisagree, "the sizes of j must be eq"),
    "rests of two sizes": (lambda a, b: torch.einsum("...,...", a, b), (X, Y), ShapesDisagree, "what ... stands for"),
    "a diagonal of no square": (lambda a: torch.einsum("ii->i", a), (X,), ShapesDisagree, "the sizes of i must be"),
    "einsum of two dtypes": (lambda a: torch.einsum("ij,ij", a, a.half()), (X,), DTypesDisagree, "got f32 and f16. C"),
    "vecdot of others": (lambda a, b: torch.linalg.vecdot(a, b), (X, Y), ShapesDisagree, "vecdot: operands must broad"),
}  # fmt: skip


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
