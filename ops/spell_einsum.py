"""Products of tensors whose dimensions are lined up, in the manner of `spell.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fusedsl.errors import BadArgument, UnknownFunction
from fusedsl.ir import spells

from .spell import flat, ops


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
