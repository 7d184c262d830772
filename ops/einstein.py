"""Products of tensors whose dimensions are named. The grammar of equations is in einstein.lark."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fusedsl.errors import BadArgument, ShapesDisagree
from fusedsl.index import Index
from fusedsl.ir import Choice, Node, cast, declare, spells
from fusedsl.types import same_size, show_shape

from .contract import Name, lined_up, product
from .convert import narrow
from .movement import diagonal, permute, squeeze
from .reduce import sum
from .rules import common
from .spell import flat

if TYPE_CHECKING:
    from lark import Lark


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
        tree: Any = _parser().parse(equation)
    except UnexpectedInput as error:
        at = f"position {error.column}" if error.column and error.column > 0 else "the end"
        rule = f"letters, ... and commas, and -> before the result's, which it is not at {at}"
        raise _mistake(equation, rule) from None
    terms, arrow, result = tree.children
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
            rule = f"the sizes of {name} must be the same"
            raise ShapesDisagree(op="einsum", rule=rule, got=show_shape(x.shape), hint="")
        x = diagonal(x, 0, one, other)
        names = [c for at, c in enumerate(names) if at not in (one, other)] + [name]
    return x, names


def _check_sizes(equation: str, operands: Sequence[tuple[Node, list[Name]]]) -> None:
    """Raises ShapesDisagree where a name stands for two sizes, neither of them 1."""
    sizes: dict[Name, Index] = {}
    for x, names in operands:
        for name, n in zip(names, x.shape, strict=True):
            known = sizes.setdefault(name, n)
            if known == 1:
                sizes[name] = n
            elif n != 1 and not same_size(known, n):
                what = name if isinstance(name, str) else "what ... stands for"
                got = f"{known} and {n} in {' and '.join(show_shape(each.shape) for each, _ in operands)}"
                raise ShapesDisagree(op="einsum", rule=f"the sizes of {what} must be equal, or 1",
                                     got=f"{got} for {equation!r}", hint="")  # fmt: skip


def _without(x: Node, names: Sequence[Name], dropped: Collection[Name]) -> tuple[Node, list[Name]]:
    """x summed over names, and those that are left. A sum of integers is of i64, as torch's."""
    dims = [at for at, name in enumerate(names) if name in dropped]
    for at in reversed([d for d in dims if x.shape[d] == 1]):
        x = squeeze(x, at)
        names = [*names[:at], *names[at + 1 :]]
    dims = tuple(at for at, name in enumerate(names) if name in dropped)
    return (sum(x, dims) if dims else x), [name for name in names if name not in dropped]


def _moving(x: Node, names: Sequence[Name]) -> set[Name]:
    """The names that x has more than one index of."""
    return {name for name, n in zip(names, x.shape, strict=True) if n != 1}


def _pair(x: Node, left: list[Name], y: Node, right: list[Name], kept: Sequence[Name]) -> Node:
    """The product of two operands, summed over the names that are not kept."""
    summed = (_moving(x, left) & _moving(y, right)) - {*kept}
    x, left = _without(x, left, {*left} - {*kept} - summed)
    y, right = _without(y, right, {*right} - {*kept} - summed)
    if summed:
        if x.dtype.is_integer and y.dtype.is_integer:  # perhaps one of them is a sum
            x, y = (cast(each, common([x.type, y.type], "einsum")) for each in (x, y))
        return narrow(product("einsum", x, left, y, right, kept), x.dtype)
    return lined_up(x, left, kept) * lined_up(y, right, kept)


def _einsum(tensors: Sequence[Node], equation: str) -> Node:
    terms, result = _named(equation, [t.rank for t in tensors])
    (x, names), *rest = operands = [_diagonals(*each) for each in zip(tensors, terms, strict=True)]
    _check_sizes(equation, operands)
    for at, (y, others) in enumerate(rest, 2):
        later = {name for _, own in operands[at:] for name in own}
        kept = [name for name in dict.fromkeys([*names, *others]) if name in result or name in later]
        kept = kept if later else result
        x, names = _pair(x, names, y, others, kept), kept
    summed = tuple(at for at, name in enumerate(names) if name not in result)
    x = sum(x, summed) if summed else x
    names = [name for name in names if name in result]
    return permute(x, tuple(names.index(name) for name in result))


@declare(expand=_einsum)
def einsum(tensors: list[torch.Tensor], equation: Choice):
    """The sum of products of tensors whose dimensions an equation names, over the names that its result lacks; two by
    two, from the left."""
    return torch.einsum(equation, *tensors)


# ---- as torch calls them ---------------------------------------------------------------------------------------------


# ---- as torch calls them ---------------------------------------------------------------------------------------------


@spells("torch.einsum")
def einsum_(equation, *operands):  # torch itself makes an equation of lists of numbers
    return einsum(list(flat(operands)), equation)
