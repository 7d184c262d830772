"""Contractions: sums of products over dimensions that two operands share. Matrix products of every form are views of
both operands, their product, and one sum.

Halves are multiplied as they are and added up in f32; the sum is rounded once, where it is stored. In f32 the factors are
rounded to tf32 on GPUs that have it if torch.get_float32_matmul_precision() says so.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch

from fusedsl import ir
from fusedsl.errors import BadArgument, DTypesDisagree, ShapesDisagree
from fusedsl.ir import Choice, Dim, Dims, Node, Number, Reduction, declare
from fusedsl.types import DType, f32, same_size, show_shape

from .convert import narrow, wide
from .movement import permute, unsqueeze
from .reduce import reduce_sum
from .rules import reducing

Name = Hashable


@declare(type=reducing,
         reduction=Reduction(lambda dt: 0, "{0} + {1}", "tl.sum({0}, {axis})", of_products=True))  # fmt: skip
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
    that are not among the result's. Of a name's sizes one may be 1, but not where it is summed over."""
    dt = one_dtype(op, a, b)
    summed = [name for name in (*left, *right) if name not in result]
    shared = [name for name in dict.fromkeys(summed) if name in left and name in right]
    for name in shared:
        m, n = a.shape[left.index(name)], b.shape[right.index(name)]
        if not same_size(m, n):
            got = f"{show_shape(a.shape)} and {show_shape(b.shape)}"
            raise ShapesDisagree(op=op, rule=f"the sizes that are summed over must be equal, not {m} and {n}",
                                 got=got, hint="")  # fmt: skip
    a, left = _summed(a, left, [name for name in summed if name not in right], dt)
    b, right = _summed(b, right, [name for name in summed if name not in left], dt)
    order = [*result, *shared]
    factors = _lined_up(a, left, order) * _lined_up(b, right, order)
    return sum_products(factors, tuple(range(len(result), len(order))), precision_of(dt)) if shared else factors


def _summed(x: Node, names: Sequence[Name], alone: Sequence[Name], dt: DType) -> tuple[Node, list[Name]]:
    """An operand, wide, without the names that only it has and the result lacks."""
    dims = tuple(names.index(name) for name in alone)
    x = wide(x, dt)
    return (reduce_sum(x, dims) if dims else x), [name for name in names if name not in alone]


def _lined_up(x: Node, names: Sequence[Name], order: Sequence[Name]) -> Node:
    """x with its dimensions in this order, and 1 for the names that it lacks."""
    x = permute(x, tuple(names.index(name) for name in order if name in names))
    for at, name in enumerate(order):
        x = x if name in names else unsqueeze(x, at)
    return x


# ---- matrix products -------------------------------------------------------------------------------------------------


def _matmul(a: Node, b: Node) -> Node:
    if not a.rank or not b.rank:
        raise BadArgument(op="matmul", name="each operand", rule="of one dimension at least", hint="",
                          got=f"{show_shape(a.shape)} and {show_shape(b.shape)}")  # fmt: skip
    rank = max(a.rank, b.rank, 2) - 2
    batch = list(range(-rank, 0))
    left = ["k"] if a.rank == 1 else [*batch[rank + 2 - a.rank :], "m", "k"]
    right = ["k"] if b.rank == 1 else [*batch[rank + 2 - b.rank :], "k", "n"]
    result = [*batch, *(n for n in ("m", "n") if n in left or n in right)]
    return narrow(product("matmul", a, left, b, right, result), a.dtype)


@declare(expand=_matmul, torch=("torch.linalg.matmul", "Tensor.__matmul__"))
def matmul(a: torch.Tensor, b: torch.Tensor):
    """sum_k a[..., m, k] b[..., k, n]; a vector is a row on the left, a column on the right; batches broadcast"""
    return torch.matmul(a, b)


def _linear(x: Node, weight: Node, bias: Node | None) -> Node:
    dt = one_dtype("linear", x, weight, *((bias,) if bias is not None else ()))
    if not x.rank or weight.rank not in (1, 2):
        raise BadArgument(op="linear", name="the weight", rule="a matrix [out, in]", got=show_shape(weight.shape), hint="")
    rest = list(range(-x.rank + 1, 0))
    out = ["n"] if weight.rank == 2 else []
    y = product("linear", x, [*rest, "k"], weight, [*out, "k"], [*rest, *out])
    return narrow(y if bias is None else y + wide(bias, dt), dt)


@declare(expand=_linear)
def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None):
    """sum_k x[..., k] weight[n, k] + bias[n]"""
    return torch.nn.functional.linear(x, weight, bias)


def _bilinear(x: Node, y: Node, weight: Node, bias: Node | None) -> Node:
    dt = one_dtype("bilinear", x, y, weight)
    rest = list(range(-x.rank + 1, 0))
    partial = product("bilinear", x, [*rest, "i"], weight, ["n", "i", "j"], [*rest, "n", "j"])
    total = product("bilinear", narrow(partial, dt), [*rest, "n", "j"], y, [*rest, "j"], [*rest, "n"])
    return narrow(total if bias is None else total + wide(bias, dt), dt)


@declare(expand=_bilinear)
def bilinear(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None):
    """sum_ij x[..., i] weight[n, i, j] y[..., j] + bias[n]"""
    return torch.nn.functional.bilinear(x, y, weight, bias)


def plus_product(op: str, x: Node, total: Node, dt: DType, beta: float, alpha: float) -> Node:
    """beta x + alpha total, rounded once; with beta = 0 whatever x holds does not count."""
    one_dtype(op, x, narrow(total, dt))
    scaled = total if alpha == 1 else total * alpha
    if beta != 0:
        scaled = scaled + (wide(x, dt) if beta == 1 else wide(x, dt) * beta)
    return narrow(scaled, dt)


def _ranks(op: str, **operands: tuple[Node, int]) -> None:
    for name, (node, rank) in operands.items():
        if node.rank != rank:
            what = {1: "a vector", 2: "a matrix", 3: "a batch of matrices"}[rank]
            raise BadArgument(op=op, name=name, rule=what, got=show_shape(node.shape), hint="")


def _addmm(x: Node, a: Node, b: Node, beta: float, alpha: float) -> Node:
    _ranks("addmm", mat1=(a, 2), mat2=(b, 2))
    return plus_product("addmm", x, product("addmm", a, "mk", b, "kn", "mn"), a.dtype, beta, alpha)


@declare(expand=_addmm)
def addmm(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, beta: Number = 1, alpha: Number = 1):
    """beta x + alpha a @ b"""
    return torch.addmm(x, a, b, beta=beta, alpha=alpha)


def _addmv(x: Node, a: Node, b: Node, beta: float, alpha: float) -> Node:
    _ranks("addmv", mat=(a, 2), vec=(b, 1))
    return plus_product("addmv", x, product("addmv", a, "mk", b, "k", "m"), a.dtype, beta, alpha)


@declare(expand=_addmv)
def addmv(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, beta: Number = 1, alpha: Number = 1):
    """beta x + alpha a @ b, of a matrix and a vector"""
    return torch.addmv(x, a, b, beta=beta, alpha=alpha)


def _baddbmm(x: Node, a: Node, b: Node, beta: float, alpha: float) -> Node:
    _ranks("baddbmm", batch1=(a, 3), batch2=(b, 3))
    return plus_product("baddbmm", x, product("baddbmm", a, "bmk", b, "bkn", "bmn"), a.dtype, beta, alpha)


@declare(expand=_baddbmm)
def baddbmm(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, beta: Number = 1, alpha: Number = 1):
    """beta x + alpha a @ b, matrix by matrix of two batches"""
    return torch.baddbmm(x, a, b, beta=beta, alpha=alpha)


def _addbmm(x: Node, a: Node, b: Node, beta: float, alpha: float) -> Node:
    _ranks("addbmm", batch1=(a, 3), batch2=(b, 3))
    return plus_product("addbmm", x, product("addbmm", a, "bmk", b, "bkn", "mn"), a.dtype, beta, alpha)


@declare(expand=_addbmm)
def addbmm(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, beta: Number = 1, alpha: Number = 1):
    """beta x + alpha sum_b a[b] @ b[b]"""
    return torch.addbmm(x, a, b, beta=beta, alpha=alpha)


def _of_ranks(name: str, m: int, n: int):
    def expand(a: Node, b: Node) -> Node:
        _ranks(name, input=(a, m), other=(b, n))
        if m == n == 3 and not same_size(a.shape[0], b.shape[0]):
            raise ShapesDisagree(op=name, rule="the batches need one size", hint="Use matmul, which broadcasts.",
                                 got=f"{show_shape(a.shape)} and {show_shape(b.shape)}")  # fmt: skip
        return _matmul(a, b)

    return expand


@declare(expand=_of_ranks("mm", 2, 2))
def mm(a: torch.Tensor, b: torch.Tensor):
    """sum_k a[m, k] b[k, n]"""
    return torch.mm(a, b)


@declare(expand=_of_ranks("bmm", 3, 3))
def bmm(a: torch.Tensor, b: torch.Tensor):
    """sum_k a[b, m, k] b[b, k, n]"""
    return torch.bmm(a, b)


@declare(expand=_of_ranks("mv", 2, 1))
def mv(a: torch.Tensor, b: torch.Tensor):
    """sum_k a[m, k] b[k]"""
    return torch.mv(a, b)


@declare(expand=_of_ranks("dot", 1, 1), torch=("torch.vdot", "Tensor.vdot"))
def dot(a: torch.Tensor, b: torch.Tensor):
    """sum_k a[k] b[k]"""
    return torch.dot(a, b)


def _inner(a: Node, b: Node) -> Node:
    if not a.rank or not b.rank:
        return a * b
    left, right = [("a", d) for d in range(a.rank - 1)], [("b", d) for d in range(b.rank - 1)]
    return narrow(product("inner", a, [*left, "k"], b, [*right, "k"], [*left, *right]), a.dtype)


@declare(expand=_inner)
def inner(a: torch.Tensor, b: torch.Tensor):
    """sum_k a[..., k] b[..., k], for every pair of the other indices"""
    return torch.inner(a, b)


def _vecdot(a: Node, b: Node, dim: int) -> Node:
    dt = one_dtype("vecdot", a, b)
    factors = wide(a, dt) * wide(b, dt)
    return narrow(sum_products(factors, (dim,), precision_of(dt)), dt)


@declare(expand=_vecdot, torch=("torch.linalg.vecdot",))
def vecdot(a: torch.Tensor, b: torch.Tensor, dim: Dim = -1):
    """sum_k a[.., k, ..] b[.., k, ..] along one dimension; the others broadcast"""
    return torch.linalg.vecdot(a, b, dim=dim)
