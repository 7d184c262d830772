"""The arguments of a call as text, for the command line and for tables of shapes::

    f16[B=8, 4096], f16[B, 4096; 8192, 1], u3:g128[64, 4096], i64[B < 100], [f32[4], f32[]], 3, eps=1e-6, mode="none"

A tensor is a dtype and its sizes; f32[] has no dimensions. `B=8` names a size, `B` refers to one named before, also as
an argument of its own. After a semicolon come strides, in elements; after `<` the bound of random integers.

A packed tensor is a format and its sizes, with groups along the last dimension: u3:g128[64, 4096], mxfp4[64, 4096]. u8
and i8 alone are dtypes; u8:row is the format. It stands for numbers of the dtype that the first other tensor of floats
has, f32 if there is none.

The rest is Python's: numbers, True, False, None, strings, lists, tuples, keyword arguments. The grammar is in
arguments.lark.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from . import formats
from .errors import BadText, UnknownDType, place_in
from .formats import Format
from .packed import Packed, pack, stored_dims
from .parts import Parts, part_types
from .types import DType, dtype, f32

if TYPE_CHECKING:
    from lark import Lark, Token
    from lark.exceptions import UnexpectedInput

Tree = Any  # of lark: the grammar says which of a tree's children are tokens, its types do not

BELOW = 10  # random integers are below it where the text does not say

_WORDS = {"None": None, "True": True, "False": False}
_EXAMPLE = "Write tensors as f16[8, 4096]; numbers, strings, lists and name=value as in Python; commas between them."


@dataclass(frozen=True)
class Tensor:
    """What a text says of a tensor. strides: in elements, None for contiguous. below: the bound of random integers.
    names: those of sizes, "" for none; none at all where no size has one. format: of a packed one, along the last
    dimension."""

    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None
    below: int = BELOW
    names: tuple[str, ...] = field(default=(), compare=False)
    format: Format | None = None


@dataclass(frozen=True)
class Arguments:
    """A call's arguments, with a `Tensor` where a torch tensor is to be."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def map(self, make: Callable[[Tensor], torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(args, kwargs) of a call, with tensors that `make` makes, left to right."""
        return _mapped(self.args, make), _mapped(dict(self.kwargs), make)

    def size_names(self, signature: inspect.Signature) -> dict[tuple[str, int], str]:
        """The names of sizes by parameter and dimension, for `fusedsl.trace`."""
        bound = signature.bind(*self.args, **self.kwargs).arguments
        return {place: name for parameter, value in bound.items() for place, name in _size_names(parameter, value)}


def _size_names(parameter: str, value: Any) -> Iterator[tuple[tuple[str, int], str]]:
    if isinstance(value, Tensor):
        yield from (((parameter, dim), name) for dim, name in enumerate(value.names) if name)
    elif isinstance(value, (list, tuple)):
        for at, item in enumerate(value):
            yield from _size_names(f"{parameter}_{at}", item)


def _mapped(value: Any, make: Callable[[Tensor], torch.Tensor]) -> Any:
    if isinstance(value, Tensor):
        return make(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(item, make) for item in value)
    if isinstance(value, dict):
        return {key: _mapped(item, make) for key, item in value.items()}
    return value


def meta(arguments: Arguments) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(args, kwargs) of tensors without memory: enough to plan a call."""
    return arguments.map(_meta)


def _meta(tensor: Tensor) -> torch.Tensor:
    kind, shape, format = tensor.dtype.torch, tensor.shape, tensor.format
    assert kind is not None, tensor
    if format is None:
        return torch.empty_strided(shape, _strides(tensor), dtype=kind, device="meta")
    types = part_types(format, shape[:-1], shape[-1])
    parts = {name: torch.empty(size, dtype=stored, device="meta") for name, (stored, size) in types.items()}
    return Packed(Parts(**parts), format, shape, stored_dims(len(shape), len(shape) - 1), kind)


def materialise(
    arguments: Arguments, seed: int = 0, device: str | torch.device = "cpu"
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(args, kwargs) of tensors with random values, the same on every device: floats are normal, integers lie in
    [0, below), bools are either. What is packed are floats, too."""
    generator = torch.Generator().manual_seed(seed)

    def make(tensor: Tensor) -> torch.Tensor:
        plain = _random(tensor, generator).to(device).as_strided(tensor.shape, _strides(tensor))
        return plain if tensor.format is None else pack(plain, tensor.format)

    return arguments.map(make)


def _random(tensor: Tensor, generator: torch.Generator) -> torch.Tensor:
    """Values for every place that the tensor spans in memory."""
    count, kind = _span(tensor), tensor.dtype.torch
    if tensor.dtype.is_float:
        wide = torch.float64 if tensor.dtype.bits == 64 else torch.float32
        return torch.randn(count, generator=generator, dtype=wide).to(kind)
    below = 2 if tensor.dtype.is_bool else tensor.below
    return torch.randint(below, (count,), generator=generator).to(kind)


def _span(tensor: Tensor) -> int:
    """The places in memory from the first element to the last."""
    if 0 in tensor.shape:
        return 0
    return 1 + sum((n - 1) * s for n, s in zip(tensor.shape, _strides(tensor), strict=True))


def _strides(tensor: Tensor) -> Sequence[int]:
    return torch.empty(tensor.shape, device="meta").stride() if tensor.strides is None else tensor.strides


# ---- parsing ---------------------------------------------------------------------------------------------------------


def parse(text: str) -> Arguments:
    """The arguments that a text stands for. Raises BadText, with the place."""
    from lark import UnexpectedInput

    try:
        tree = _parser().parse(text)
    except UnexpectedInput as error:
        raise _bad(text, error) from None
    return _Reader(text, _first_float(tree)).arguments(tree)


@cache
def _parser() -> Lark:
    from lark import Lark

    return Lark(Path(__file__).with_name("arguments.lark").read_text(), parser="lalr", maybe_placeholders=True)


def _bad(text: str, error: UnexpectedInput) -> BadText:
    row, column, got = place_in(text, error)
    return _bad_at(row, column, got or "the text ends", _EXAMPLE)


def _bad_at(row: int, column: int, got: str, hint: str) -> BadText:
    return BadText(what="the list of arguments", row=row, column=column, got=got, hint=hint)


def _fail(token: Token, hint: str) -> NoReturn:
    raise _bad_at(token.line or 1, token.column or 1, repr(str(token)), hint)


class _Reader:
    """Builds arguments from the tree, left to right; `sizes` are those named so far. unpacked: the dtype of what packed
    tensors stand for."""

    def __init__(self, text: str, unpacked: DType) -> None:
        self.text, self.unpacked = text, unpacked
        self.sizes: dict[str, int] = {}

    def arguments(self, tree: Tree) -> Arguments:
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for item in _there(tree):
            if item.data != "keyword":
                if kwargs:
                    _fail(_first(item), "Positional arguments come before those with a name.")
                args.append(self.value(item))
                continue
            name, value = item.children
            if name in kwargs:
                _fail(name, "It is given twice.")
            kwargs[str(name)] = self.value(value)
        return Arguments(tuple(args), kwargs)

    def value(self, tree: Tree) -> Any:
        return getattr(self, f"_{tree.data}")(tree)

    def _list(self, tree: Tree) -> list[Any]:
        return [self.value(item) for item in _there(tree)]

    def _tuple(self, tree: Tree) -> tuple[Any, ...]:
        return tuple(self._list(tree))

    def _number(self, tree: Tree) -> int | float:
        (token,) = tree.children
        return int(token) if token.type == "INT" else float(token)

    def _string(self, tree: Tree) -> str:
        return ast.literal_eval(tree.children[0])

    def _word(self, tree: Tree) -> Any:
        (token,) = tree.children
        return _WORDS[token] if token in _WORDS else self._named(token)

    def _named(self, token: Token) -> int:
        """A size named before."""
        if token not in self.sizes:
            known = f" It may be {' or '.join(self.sizes)}." if self.sizes else ""
            _fail(token, f"No size before it has this name; [{token}=8] gives one.{known} {token}[8] is a tensor.")
        return self.sizes[token]

    def _tensor(self, tree: Tree) -> Tensor:
        name, options, sizes, strides, bound = tree.children
        kind, format = _plain(tree), None
        if kind is None:
            kind, format = self.unpacked, self._format(name, options or name)
            if sizes is None:
                _fail(name, f"A packed tensor has a dimension along which groups run: {format}[4096].")
            if strides is not None:
                _fail(strides.children[0], "A packed tensor has no strides of its own; leave them out.")
        dims = [] if sizes is None else sizes.children
        shape, names = tuple(map(self._size, dims)), tuple(map(_name, dims))
        steps = None if strides is None else _steps(strides, len(shape))
        below = BELOW if bound is None else self._bound(bound.children[0], kind)
        return Tensor(kind, shape, steps, below, names if any(names) else (), format)

    def _format(self, first: Token, last: Token) -> Format:
        """The packed format between two tokens."""
        try:
            return formats.parse(self.text[first.start_pos : last.end_pos])
        except BadText as error:
            parts: dict[str, Any] = {**error.parts}
            parts["column"] += (first.column or 1) - 1 if parts["row"] == 1 else 0
            parts["row"] += (first.line or 1) - 1
            raise BadText(**parts) from None

    def _size(self, tree: Tree) -> int:
        first, *value = tree.children
        if first.type == "INT":
            return _not_negative(first, "A size")
        if not value:
            return self._named(first)
        size = _not_negative(value[0], "A size")
        if self.sizes.setdefault(str(first), size) != size:
            _fail(first, f"It is {self.sizes[first]} already; a name has one value.")
        return size

    def _bound(self, token: Token, kind: DType) -> int:
        below = int(token) if token.type == "INT" else self._named(token)
        if not kind.is_integer:
            _fail(token, f"Only integers have a bound, {kind} has none.")
        if not 1 <= below <= 2 ** (kind.bits - (kind.kind == "i")):
            _fail(token, f"The bound of {kind} must be at least 1, and such that {kind} holds what is below it.")
        return below


def _name(size: Tree) -> str:
    first = size.children[0]
    return str(first) if first.type == "NAME" else ""


def _there(tree: Tree) -> list[Tree]:
    return [child for child in tree.children if child is not None]


def _first(tree: Tree) -> Token:
    return next(iter(tree.scan_values(lambda _: True)))


def _plain(tree: Tree) -> DType | None:
    """The dtype of a tensor's text, None where that is a packed format."""
    name, options = tree.children[:2]
    if options is not None or name.type != "NAME":
        return None
    try:
        kind = dtype(str(name))
    except UnknownDType as error:
        hint = _why_no_format(name)
        if hint is not None:
            _fail(name, f"{error.message} Of packed formats: {hint}")
        return None
    if kind.torch is None and _why_no_format(name) is not None:
        _fail(name, "No torch tensor holds it; use the next wider of u8, i8, i16, i32, i64.")
    return kind if kind.torch is not None else None


def _why_no_format(name: Token) -> str | None:
    """What is wrong with the name as a packed format, None if it is one."""
    try:
        formats.parse(str(name))
    except BadText as error:
        return str(error.parts["hint"])
    return None


def _first_float(tree: Tree) -> DType:
    """The dtype of the first tensor of floats that is not packed, f32 if there is none."""
    tensors = (each for each in tree.iter_subtrees_topdown() if each.data == "tensor")
    return next((kind for kind in map(_plain, tensors) if kind is not None and kind.is_float), f32)


def _steps(tree: Tree, rank: int) -> tuple[int, ...]:
    steps = tuple(_not_negative(token, "A stride") for token in tree.children)
    if len(steps) != rank:
        _fail(tree.children[0], f"There must be a stride for each of the {rank} sizes, got {len(steps)}.")
    return steps


def _not_negative(token: Token, what: str) -> int:
    if int(token) < 0:
        _fail(token, f"{what} is 0 or more.")
    return int(token)
