"""Products of tensors whose dimensions are named. The grammar of equations is in einstein.lark."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fusedsl.errors import BadArgument, ShapesDisagree
from fusedsl.ir import Choice, Node, declare, spells
from fusedsl.types import same_size, show_shape

from .contract import Name, one_dtype, product
from .convert import narrow, wide
from .movement import diagonal, permute
from .reduce import reduce_sum

if TYPE_CHECKING:
    from lark import Lark

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@cache
def _parser() -> Lark:
    from lark import Lark

    return Lark(Path(__file__).with_name("einstein.lark").read_text(), parser="lalr")


def _mistake(equation: str, rule: str) -> BadArgument:
    return BadArgument(op="einsum", name="the equation", rule=rule, got=repr(equation), hint="")


def _terms(equation: str) -> tuple[list[list[str]], list[str]]:
    """What names each operand's dimensions, and the result's: those that stand once, in order, if it does not say."""
    from lark.exceptions import UnexpectedInput

    try:
        terms, arrow, result = _parser().parse(equation).children
    except UnexpectedInput as error:
        at = f"position {error.column}" if error.column and error.column > 0 else "the end"
        raise _mistake(equation, f"letters, ... and commas, and -> before the result's, which it is not at {at}") from None
    names = [[str(token) for token in term.children] for term in terms.children]
    if arrow is None:
        every = [name for term in names for name in term]
        letters = sorted(name for name in {*every} - {"..."} if every.count(name) == 1)
        return names, [*(["..."] if "..." in every else []), *letters]
    return names, [str(token) for token in result.children]


def _named(equation: str, ranks: Sequence[int]) -> tuple[list[list[Name]], list[Name]]:
    """The names of the operands' dimensions and of the result's: letters, and for what ... stands for -1, -2 .., from
    the last one on."""
    terms, result = _terms(equation)
    if len(terms) != len(ranks):
        raise _mistake(equation, f"of as many terms as there are operands, {len(ranks)}")
    if any(term.count("...") > 1 for term in (*terms, result)):
        raise _mistake(equation, "with ... at most once in a term")
    if len({*result}) != len(result) or not {*result} - {"..."} <= {name for term in terms for name in term}:
        raise _mistake(equation, "with each of the result's letters once, and in an operand")
    rests = [rank - len([name for name in term if name != "..."]) for term, rank in zip(terms, ranks, strict=True)]
    for term, rank, rest in zip(terms, ranks, rests, strict=True):
        if rest < 0 or (rest and "..." not in term):
            rule = f"of {rank - rest} dimensions, one for each letter"
            raise BadArgument(op="einsum", name="an operand", rule=rule, got=rank, hint="")
    spread = max((rest for term, rest in zip(terms, rests, strict=True) if "..." in term), default=0)
    return [_spread(*each) for each in zip(terms, rests, strict=True)], _spread(result, spread)


def _spread(term: Sequence[str], rest: int) -> list[Name]:
    """The names of a term; its dots stand for so many dimensions."""
    return [n for name in term for n in (range(-rest, 0) if name == "..." else (name,))]


def _diagonals(x: Node, names: list[Name]) -> tuple[Node, list[Name]]:
    """x where its dimensions of one name have one index, and the names of what is left."""
    while len(names) > len({*names}):
        name = next(name for name in names if names.count(name) > 1)
        one = names.index(name)
        other = names.index(name, one + 1)
        if not same_size(x.shape[one], x.shape[other]):
            raise ShapesDisagree(op="einsum", rule=f"the sizes of {name} must be the same", got=show_shape(x.shape), hint="")
        x = diagonal(x, 0, one, other)
        names = [c for at, c in enumerate(names) if at not in (one, other)] + [name]
    return x, names


def _einsum(tensors: Sequence[Node], equation: str) -> Node:
    dt = one_dtype("einsum", *tensors)
    terms, result = _named(equation, [t.rank for t in tensors])
    operands = [_diagonals(*each) for each in zip(tensors, terms, strict=True)]
    (x, names), *rest = operands
    for at, (y, others) in enumerate(rest):
        later = {name for _, own in rest[at + 1 :] for name in own}
        union = list(dict.fromkeys([*names, *others]))
        kept = [name for name in union if name in result or name in later] if later or at + 1 < len(rest) else result
        x, names = narrow(product("einsum", x, names, y, others, kept), dt), kept
    summed = tuple(at for at, name in enumerate(names) if name not in result)
    if summed:
        x, names = narrow(reduce_sum(wide(x, dt), summed), dt), [name for name in names if name in result]
    return x if names == result else permute(x, tuple(names.index(name) for name in result))


@declare(expand=_einsum)
def einsum(tensors: list[torch.Tensor], equation: Choice):
    """The sum of products of tensors whose dimensions an equation names, over the names that its result lacks; two by
    two, from the left."""
    return torch.einsum(equation, *tensors)


# ---- as torch calls them ---------------------------------------------------------------------------------------------


@spells("torch.einsum")
def einsum_(equation, *operands):
    if not isinstance(equation, str):  # operand, dimensions, operand, dimensions ..., perhaps the result's
        return _by_numbers((equation, *operands))
    one = len(operands) == 1 and isinstance(operands[0], (list, tuple))
    return einsum(list(operands[0] if one else operands), equation)


def _by_numbers(args):
    """einsum(x, [0, 1], y, [1, 2], [0, 2]): numbers below 52 stand for letters."""

    def term(numbers) -> str:
        if not all(n is Ellipsis or (isinstance(n, int) and 0 <= n < len(LETTERS)) for n in numbers):
            rule = f"lists of ... and of numbers from 0 to {len(LETTERS) - 1}"
            raise BadArgument(op="einsum", name="the dimensions", rule=rule, got=repr(numbers), hint="")
        return "".join("..." if n is Ellipsis else LETTERS[n] for n in numbers)

    pairs, result = args[: len(args) // 2 * 2], args[len(args) // 2 * 2 :]
    equation = ",".join(term(numbers) for numbers in pairs[1::2])
    return einsum(list(pairs[::2]), equation + "".join("->" + term(numbers) for numbers in result))


@spells("torch.tensordot")
def tensordot(a, b, dims=2, out=None):
    m, n = len(a.shape), len(b.shape)
    if isinstance(dims, int):
        dims = (range(m - dims, m), range(dims))
    left, right = (list(d) if isinstance(d, (list, tuple, range)) else [d] for d in dims)
    if len(left) != len(right) or not all(-m <= d < m for d in left) or not all(-n <= d < n for d in right):
        rule = f"as many dimensions of each operand, which have {m} and {n}"
        raise BadArgument(op="tensordot", name="dims", rule=rule, got=repr(dims), hint="")
    first, second = list(LETTERS[:m]), list(LETTERS[m : m + n])
    for d, e in zip(left, right, strict=True):
        second[e] = first[d]
    kept = [c for c in first if c not in second] + [c for c in second if c not in first]
    return einsum([a, b], f"{''.join(first)},{''.join(second)}->{''.join(kept)}")


@spells("torch.chain_matmul", "torch.linalg.multi_dot")
def chain_matmul(*matrices, out=None):
    matrices = matrices[0] if len(matrices) == 1 and isinstance(matrices[0], (list, tuple)) else matrices
    product = matrices[0]
    for matrix in matrices[1:]:
        product = product @ matrix
    return product


@spells("torch.outer", "Tensor.outer", "torch.ger", "Tensor.ger")
def outer(input, vec2):
    return einsum([input, vec2], "i,j->ij")
