"""Contractions: sums of products over dimensions that two operands share. Matrix products of every form are views of
both operands, their product, and one sum.

Halves are multiplied as they are and added up in f32; the sum is rounded once, where it is stored. In f32 the factors
are rounded to tf32 on GPUs that have it if torch.get_float32_matmul_precision() says so.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch

from fusedsl.errors import BadArgument, DTypesDisagree, ShapesDisagree
from fusedsl.ir import SPELLINGS, Choice, Dim, DimOrder, Dims, Node, Number, Sizes, cast, declare, spells
from fusedsl.types import DType, broadcast, dim_in, f32, same_size, show_shape

from .convert import clone, narrow, wide
from .movement import expand, permute, unsqueeze
from .reduce import SUM, sum
from .rules import common, reducing
from .spell import flat

Name = Hashable


@declare(type=reducing, reduction=replace(SUM, of_products=True))
def sum_products(x: torch.Tensor, dim: Dims, precision: Choice = "f32"):
    """The sum over dims of products, whose factors may be rounded to `precision`: a dtype, or tf32"""
    return torch.sum(x, dim, dtype=x.dtype)


def precision_of(dt: DType) -> str:
    """What the factors of a product of this dtype are rounded to at most."""
    return "tf32" if dt is f32 and torch.get_float32_matmul_precision() != "highest" else dt.name


def one_dtype(op: str, *operands: Node) -> DType:
    """The dtype of operands, which have to agree."""
    kinds = dict.fromkeys(o.dtype for o in operands)
    (dt, *others) = kinds
    if others:
        got = " and ".join(map(str, kinds))
        raise DTypesDisagree(op=op, rule="the operands need one dtype", got=got, hint="Cast one with .to(dtype).")
    if dt.is_bool:
        raise DTypesDisagree(op=op, rule="the operands must be numbers", got=str(dt), hint="Cast with .to(dtype).")
    return dt


def product(op: str, a: Node, left: Sequence[Name], b: Node, right: Sequence[Name], result: Sequence[Name]) -> Node:
    """The sum of products of two tensors whose dimensions are named, in the type that it is computed in: over the names
    that both have and the result lacks. Of the two sizes of another name one may be 1."""
    dt = one_dtype(op, a, b)
    for name in left:
        if name in right:
            _check_sizes(op, a, left, b, right, name, name not in result)
    order = [*result, *(name for name in left if name not in result)]
    factors = lined_up(wide(a, dt), left, order) * lined_up(wide(b, dt), right, order)
    summed = tuple(range(len(result), len(order)))
    return sum_products(factors, summed, precision_of(dt)) if summed else factors


def _check_sizes(
    op: str, a: Node, left: Sequence[Name], b: Node, right: Sequence[Name], name: Name, summed: bool
) -> None:
    """Raises ShapesDisagree unless the two sizes of a name go together."""
    e = right.index(name)
    m, n = a.shape[left.index(name)], b.shape[e]
    if (not summed and 1 in (m, n)) or same_size(m, n):
        return
    rule = "the sizes that are summed over must be equal" if summed else "batches must be of one size, or of size 1"
    other = 2 * b.rank - 3 - e  # of the last two dimensions the one that is not e
    turned = summed and 0 <= other < b.rank and right[other] not in left and same_size(m, b.shape[other])
    hint = f"It fits with {show_shape(b.shape)} turned by .mT." if turned else ""
    got = f"{m} and {n} of {show_shape(a.shape)} and {show_shape(b.shape)}"
    raise ShapesDisagree(op=op, rule=rule, got=got, hint=hint)


def lined_up(x: Node, names: Sequence[Name], order: Sequence[Name]) -> Node:
    """x with its dimensions in this order, and 1 for the names that it lacks."""
    x = permute(x, tuple(names.index(name) for name in order if name in names))
    for at, name in enumerate(order):
        x = x if name in names else unsqueeze(x, at)
    return x


# ---- matrix products -------------------------------------------------------------------------------------------------


def _matmul(a: Node, b: Node) -> Node:
    if not a.rank or not b.rank:
        got = f"{show_shape(a.shape)} and {show_shape(b.shape)}"
        raise BadArgument(op="matmul", name="each operand", rule="of one dimension at least", got=got, hint="Use *.")
    return _multiplied("matmul", a, b)


def _multiplied(op: str, a: Node, b: Node) -> Node:
    rank = max(a.rank, b.rank, 2) - 2
    batch = list(range(-rank, 0))
    left = ["k"] if a.rank == 1 else [*batch[rank + 2 - a.rank :], "m", "k"]
    right = ["k"] if b.rank == 1 else [*batch[rank + 2 - b.rank :], "k", "n"]
    result = [*batch, *(n for n in ("m", "n") if n in left or n in right)]
    return narrow(product(op, a, left, b, right, result), a.dtype)


@declare(expand=_matmul, torch=("torch.linalg.matmul", "Tensor.__matmul__"))
def matmul(a: torch.Tensor, b: torch.Tensor):
    """sum_k a[..., m, k] b[..., k, n]; a vector is a row on the left, a column on the right; batches broadcast"""
    return torch.matmul(a, b)


_RANKS = {1: "a vector", 2: "a matrix", 3: "a batch of matrices"}


def _check_ranks(op: str, **operands: tuple[Node, int]) -> None:
    """Raises BadArgument unless each operand has so many dimensions, ShapesDisagree unless batches are of one size."""
    for name, (node, rank) in operands.items():
        if node.rank != rank:
            hint = "Use matmul, which takes vectors, matrices and batches." if op in ("mm", "bmm", "mv", "dot") else ""
            raise BadArgument(op=op, name=name, rule=_RANKS[rank], got=show_shape(node.shape), hint=hint)
    first, second = (node for node, _ in operands.values())
    if first.rank == second.rank == 3 and not same_size(first.shape[0], second.shape[0]):
        hint = "Use matmul, which broadcasts." if op == "bmm" else "Expand one of them."
        raise ShapesDisagree(op=op, rule="the batches need one size", hint=hint,
                             got=f"{show_shape(first.shape)} and {show_shape(second.shape)}")  # fmt: skip


def _mm(a: Node, mat2: Node) -> Node:
    _check_ranks("mm", input=(a, 2), mat2=(mat2, 2))
    return _multiplied("mm", a, mat2)


@declare(expand=_mm)
def mm(a: torch.Tensor, mat2: torch.Tensor):
    """sum_k a[m, k] mat2[k, n]"""
    return torch.mm(a, mat2)


def _bmm(a: Node, mat2: Node) -> Node:
    _check_ranks("bmm", input=(a, 3), mat2=(mat2, 3))
    return _multiplied("bmm", a, mat2)


@declare(expand=_bmm)
def bmm(a: torch.Tensor, mat2: torch.Tensor):
    """sum_k a[b, m, k] mat2[b, k, n]"""
    return torch.bmm(a, mat2)


def _mv(a: Node, vec: Node) -> Node:
    _check_ranks("mv", input=(a, 2), vec=(vec, 1))
    return _multiplied("mv", a, vec)


@declare(expand=_mv)
def mv(a: torch.Tensor, vec: torch.Tensor):
    """sum_k a[m, k] vec[k]"""
    return torch.mv(a, vec)


# ---- added to something ----------------------------------------------------------------------------------------------


def _plus(op: str, total: Node, x: Node | None, dt: DType, beta: float = 1, alpha: float = 1) -> Node:
    """beta x + alpha total, rounded once to dt; with beta = 0 whatever x holds does not count."""
    if x is None:
        return narrow(total, dt)
    one_dtype(op, x, narrow(total, dt))
    if broadcast([total.shape, x.shape], op) != total.shape:
        raise ShapesDisagree(op=op, rule="what is added must broadcast to the product", hint="",
                             got=f"{show_shape(x.shape)} and {show_shape(total.shape)}")  # fmt: skip
    if dt.is_integer:  # as torch: a multiple of an integer is one
        beta, alpha = int(beta), int(alpha)
    scaled = total if alpha == 1 else total * alpha
    if beta != 0:
        scaled = scaled + (wide(x, dt) if beta == 1 else wide(x, dt) * beta)
    return narrow(scaled, dt)


def _linear(x: Node, weight: Node, bias: Node | None) -> Node:
    if not x.rank:
        raise BadArgument(op="linear", name="input", rule="of one dimension at least", got=show_shape(x.shape), hint="")
    if weight.rank != 2 and (weight.rank != 1 or bias is not None):
        raise BadArgument(op="linear", name="weight", rule="a matrix [out, in]", got=show_shape(weight.shape), hint="")
    rest = list(range(-x.rank + 1, 0))
    out = ["n"] if weight.rank == 2 else []
    return _plus("linear", product("linear", x, [*rest, "k"], weight, [*out, "k"], [*rest, *out]), bias, x.dtype)


@declare(expand=_linear)
def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None):
    """sum_k x[..., k] weight[n, k] + bias[n]"""
    return torch.nn.functional.linear(x, weight, bias)


def _bilinear(input1: Node, input2: Node, weight: Node, bias: Node | None) -> Node:
    dt = one_dtype("bilinear", input1, input2, weight)
    if weight.rank != 3:
        rule = "of three dimensions, [out, in1, in2]"
        raise BadArgument(op="bilinear", name="weight", rule=rule, got=show_shape(weight.shape), hint="")
    batch = zip(input1.shape[:-1], input2.shape[:-1], strict=False)
    if input1.rank != input2.rank or not input1.rank or not all(same_size(m, n) for m, n in batch):
        raise ShapesDisagree(op="bilinear", rule="the inputs need the same sizes but for the last dimension", hint="",
                             got=f"{show_shape(input1.shape)} and {show_shape(input2.shape)}")  # fmt: skip
    rest = list(range(-input1.rank + 1, 0))
    first = product("bilinear", input1, [*rest, "i"], weight, ["n", "i", "j"], [*rest, "n", "j"])
    total = product("bilinear", narrow(first, dt), [*rest, "n", "j"], input2, [*rest, "j"], [*rest, "n"])
    return _plus("bilinear", total, bias, dt)


@declare(expand=_bilinear)
def bilinear(input1: torch.Tensor, input2: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None):
    """sum_ij input1[..., i] weight[n, i, j] input2[..., j] + bias[n]"""
    return torch.nn.functional.bilinear(input1, input2, weight, bias)


def _addmm(x: Node, mat1: Node, mat2: Node, beta: float, alpha: float) -> Node:
    _check_ranks("addmm", mat1=(mat1, 2), mat2=(mat2, 2))
    return _plus("addmm", product("addmm", mat1, "mk", mat2, "kn", "mn"), x, mat1.dtype, beta, alpha)


@declare(expand=_addmm)
def addmm(x: torch.Tensor, mat1: torch.Tensor, mat2: torch.Tensor, beta: Number = 1, alpha: Number = 1):
    """beta x + alpha mat1 @ mat2"""
    return torch.addmm(x, mat1, mat2, beta=beta, alpha=alpha)


def _addmv(x: Node, mat: Node, vec: Node, beta: float, alpha: float) -> Node:
    _check_ranks("addmv", mat=(mat, 2), vec=(vec, 1))
    return _plus("addmv", product("addmv", mat, "mk", vec, "k", "m"), x, mat.dtype, beta, alpha)


@declare(expand=_addmv)
def addmv(x: torch.Tensor, mat: torch.Tensor, vec: torch.Tensor, beta: Number = 1, alpha: Number = 1):
    """beta x + alpha mat @ vec"""
    return torch.addmv(x, mat, vec, beta=beta, alpha=alpha)


def _baddbmm(x: Node, batch1: Node, batch2: Node, beta: float, alpha: float) -> Node:
    _check_ranks("baddbmm", batch1=(batch1, 3), batch2=(batch2, 3))
    return _plus("baddbmm", product("baddbmm", batch1, "bmk", batch2, "bkn", "bmn"), x, batch1.dtype, beta, alpha)


@declare(expand=_baddbmm)
def baddbmm(x: torch.Tensor, batch1: torch.Tensor, batch2: torch.Tensor, beta: Number = 1, alpha: Number = 1):
    """beta x + alpha batch1 @ batch2, matrix by matrix"""
    return torch.baddbmm(x, batch1, batch2, beta=beta, alpha=alpha)


def _addbmm(x: Node, batch1: Node, batch2: Node, beta: float, alpha: float) -> Node:
    _check_ranks("addbmm", batch1=(batch1, 3), batch2=(batch2, 3))
    return _plus("addbmm", product("addbmm", batch1, "bmk", batch2, "bkn", "mn"), x, batch1.dtype, beta, alpha)


@declare(expand=_addbmm)
def addbmm(x: torch.Tensor, batch1: torch.Tensor, batch2: torch.Tensor, beta: Number = 1, alpha: Number = 1):
    """beta x + alpha sum_b batch1[b] @ batch2[b]"""
    return torch.addbmm(x, batch1, batch2, beta=beta, alpha=alpha)


def _addr(x: Node, vec1: Node, vec2: Node, beta: float, alpha: float) -> Node:
    _check_ranks("addr", vec1=(vec1, 1), vec2=(vec2, 1))
    dt = common([x.type, vec1.type, vec2.type], "addr")
    rows, columns = unsqueeze(wide(vec1, dt), 1), unsqueeze(wide(vec2, dt), 0)
    return _plus("addr", rows * columns, cast(x, dt), dt, beta, alpha)


@declare(expand=_addr)
def addr(x: torch.Tensor, vec1: torch.Tensor, vec2: torch.Tensor, beta: Number = 1, alpha: Number = 1):
    """beta x + alpha vec1[:, None] vec2"""
    return torch.addr(x, vec1, vec2, beta=beta, alpha=alpha)


# ---- products of vectors ---------------------------------------------------------------------------------------------


def _dot(a: Node, tensor: Node) -> Node:
    _check_ranks("dot", input=(a, 1), tensor=(tensor, 1))
    return _multiplied("dot", a, tensor)


@declare(expand=_dot)
def dot(a: torch.Tensor, tensor: torch.Tensor):
    """sum_k a[k] tensor[k]"""
    return torch.dot(a, tensor)


@spells("torch.vdot", "Tensor.vdot")
def vdot(input, other):
    return dot(input, other)


def _inner(a: Node, b: Node) -> Node:
    if not a.rank or not b.rank:
        return a * b
    left, right = [("a", d) for d in range(a.rank - 1)], [("b", d) for d in range(b.rank - 1)]
    return narrow(product("inner", a, [*left, "k"], b, [*right, "k"], [*left, *right]), a.dtype)


@declare(expand=_inner)
def inner(a: torch.Tensor, b: torch.Tensor):
    """sum_k a[..., k] b[..., k], for every pair of the other indices"""
    return torch.inner(a, b)


def _vecdot(x: Node, y: Node, dim: int) -> Node:
    shape = broadcast([x.shape, y.shape], "vecdot")
    if not shape:
        return x * y
    rest = [d for d in range(len(shape)) if d != dim]
    order = list(range(len(shape)))
    return narrow(product("vecdot", expand(x, shape), order, expand(y, shape), order, rest), x.dtype)


@declare(expand=_vecdot)
def vecdot(x: torch.Tensor, y: torch.Tensor, dim: Dim = -1):
    """sum_k x[.., k, ..] y[.., k, ..] along one dimension; the others broadcast"""
    return torch.linalg.vecdot(x, y, dim=dim)


@spells("torch.linalg.vecdot")
def vecdot_(x, y, *, dim=-1):
    if len(x.shape) != len(y.shape):  # dim is one of both, broadcast
        x, y = SPELLINGS["torch.broadcast_tensors"](x, y)
    return vecdot(x, y, dim)


@spells("torch.outer", "Tensor.outer", "torch.ger", "Tensor.ger")
def outer(input, vec2):
    for name, vector in (("input", input), ("vec2", vec2)):
        if len(vector.shape) != 1:
            raise BadArgument(op="outer", name=name, rule="a vector", got=show_shape(vector.shape), hint="")
    return unsqueeze(input, 1) * unsqueeze(vec2, 0)


# ---- products of more dimensions, and of more operands ---------------------------------------------------------------


def _tensordot(a: Node, b: Node, dims: Sequence[int], others: Sequence[int]) -> Node:
    left: list[Name] = [("a", d) for d in range(a.rank)]
    right: list[Name] = [("b", e) for e in range(b.rank)]
    for d, e in zip(dims, others, strict=True):
        right[e] = left[d]
        if 1 in (a.shape[d], b.shape[e]):  # torch's way with a size of 1 beside another
            a, b = sum(a, (d,), True, a.dtype), sum(b, (e,), True, b.dtype)
    result = [name for name in left if name not in right] + [name for name in right if name not in left]
    return narrow(product("tensordot", a, left, b, right, result), a.dtype)


@declare(expand=_tensordot)
def tensordot(a: torch.Tensor, b: torch.Tensor, dims: DimOrder, others: Sizes):
    """The sum of products over dims of a and the others of b, pair by pair; what is left of a's stands before b's"""
    return torch.tensordot(a, b, (list(dims), list(others)))  # type: ignore[arg-type]


@spells("torch.tensordot")
def tensordot_(a, b, dims=2):
    m, n = len(a.shape), len(b.shape)
    dims = dims.tolist() if isinstance(dims, torch.Tensor) else dims
    if isinstance(dims, int):
        dims = ([*range(m)][m - int(dims) :], [*range(dims)]) if 0 <= dims <= min(m, n) else ()
    pairs = [list(d) if isinstance(d, (list, tuple)) else [d] for d in dims]
    if len(pairs) != 2 or len(pairs[0]) != len(pairs[1]):
        rule = f"a number of dimensions up to {min(m, n)}, or two lists of as many"
        raise BadArgument(op="tensordot", name="dims", rule=rule, got=repr(dims), hint="")
    left, right = ([dim_in(d, rank, "tensordot") for d in each] for each, rank in zip(pairs, (m, n), strict=True))
    if len({*left}) < len(left) or len({*right}) < len(right):
        raise BadArgument(op="tensordot", name="dims", rule="each dimension at most once", got=repr(dims), hint="")
    return tensordot(a, b, left, right)


def _chained(matrices: Sequence[Any]) -> Any:
    """The product of all, in the order that takes the fewest multiplications. Of the first and the last a vector is
    a row and a column."""
    first, last = matrices[0], matrices[-1]
    sizes = [1 if len(first.shape) == 1 else first.shape[0], *(m.shape[0] for m in matrices[1:])]
    sizes.append(1 if len(last.shape) == 1 else last.shape[1])

    @cache
    def cheapest(i: int, j: int) -> tuple[Any, int]:
        """Of the product of matrices i to j: its multiplications, and the last matrix of its left factor."""
        ways = [
            (cheapest(i, k)[0] + cheapest(k + 1, j)[0] + sizes[i] * sizes[k + 1] * sizes[j + 1], k) for k in range(i, j)
        ]
        return min(ways, key=lambda way: way[0], default=(0, i))

    def multiplied(i: int, j: int) -> Any:
        k = cheapest(i, j)[1]
        return matrices[i] if i == j else multiplied(i, k) @ multiplied(k + 1, j)

    return multiplied(0, len(matrices) - 1)


def _check_chain(op: str, matrices: Sequence[Any], least: int, ends: Collection[int]) -> Sequence[Any]:
    """The operands, which are to be so many at least, and matrices, but that ends may have other ranks."""
    if len(matrices) < least:
        raise BadArgument(op=op, name="the operands", rule=f"{least} or more", got=len(matrices), hint="")
    for at, matrix in enumerate(matrices):
        if len(matrix.shape) not in (ends if at in (0, len(matrices) - 1) else (2,)):
            raise BadArgument(op=op, name=f"operand {at}", rule="a matrix", got=show_shape(matrix.shape), hint="")
    return matrices


@spells("torch.chain_matmul")
def chain_matmul(*matrices):
    matrices = _check_chain("chain_matmul", flat(matrices), 1, (2,))
    return _chained(matrices) if len(matrices) > 1 else clone(matrices[0])


@spells("torch.linalg.multi_dot")
def multi_dot(tensors):
    return _chained(_check_chain("multi_dot", tensors, 2, (1, 2)))
