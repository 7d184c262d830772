"""Arguments that nobody chose: a function is called, fused and in eager, on many arguments like those that it is given.

What varies: sizes, those that are equal together; dtypes, those that are equal together; how tensors lie in memory,
also in each other's; NaN, infinities, zeros of both signs, the greatest and the least numbers. Integers stay between
the least and the greatest that were given, since they may be indices. What eager refuses is passed over.
"""

from __future__ import annotations

import inspect
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from .api import Fused, as_written
from .arguments import materialise, parse
from .comparison import Args, Kwargs, as_fused, compare, name_of
from .errors import Counterexample, FuseError, MissingPackage

SIZES = (1, 2, 3, 5, 8, 17, 33, 130)  # beside 0, the last to be tried
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32, torch.int16)
LAYOUTS = ("contiguous", "offset", "transposed", "every second", "expanded", "overlapping")
KINDS = ("ordinary", "whole", "small", "large", "edges")


@dataclass(frozen=True)
class Tensor:
    """A tensor, spelled out. values: of all its storage."""

    values: tuple[Any, ...]
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @property
    def text(self) -> str:
        values = ", ".join(_literal(v) for v in self.values)
        base = f"torch.tensor([{values}], dtype={self.dtype})"
        return f"{base}.as_strided({self.shape}, {self.strides}, {self.offset})"


@dataclass(frozen=True)
class Call:
    """Arguments as leaves of a tree. A tensor leaf is its place among `tensors`; two leaves may have one place."""

    spec: TreeSpec
    leaves: tuple[Any, ...]
    places: tuple[int | None, ...]
    tensors: tuple[Tensor, ...] = ()
    shared: tuple[int, ...] = ()  # for each tensor, the storage that it lies in

    def arguments(self) -> tuple[Args, Mapping[str, Any]]:
        bases: dict[int, torch.Tensor] = {}
        made = []
        for tensor, storage in zip(self.tensors, self.shared, strict=True):
            if storage not in bases:
                bases[storage] = torch.tensor(tensor.values, dtype=tensor.dtype)
            made.append(bases[storage].as_strided(tensor.shape, tensor.strides, tensor.offset))
        leaves = [v if at is None else made[at] for v, at in zip(self.leaves, self.places, strict=True)]
        return tree_unflatten(leaves, self.spec)


@dataclass
class Tried:
    """What became of the examples. refused: by eager, and by fusedsl though not by eager."""

    agreed: int = 0
    refused: int = 0
    unsupported: int = 0

    def __str__(self) -> str:
        return f"{self.agreed} agree, {self.refused} refused by eager, {self.unsupported} not supported"


def fuzz(
    f: Callable[..., Any], args: Args | str, kwargs: Kwargs = None, *, examples: int = 100, seed: int = 0
) -> Tried:
    """Calls f on arguments like these, fused and in eager; the results must agree by the rule of `assert_matches`.

    args may be a text such as "f16[B=8, 64], i64[B < 100]". The first call is on the arguments themselves, and what it
    raises is raised. Raises Counterexample, with the smallest arguments found and a script that repeats the call, and
    MissingPackage where hypothesis, which draws and shrinks the arguments, is not installed."""
    if isinstance(args, str):
        args, more = materialise(parse(args), seed)
        kwargs = {**more, **(kwargs or {})}
    fused = as_fused(f)
    args, kwargs = tuple(args), dict(kwargs or {})
    for each in compare(fused, args, kwargs):
        if each.fault is not None:
            raise each.fault
    tried = Tried(agreed=1)
    found = _search(fused, _Drawer(args, kwargs), examples, seed, tried)
    if found is not None:
        call = _simplified(fused, found)
        what = _fault(fused, call)
        raise Counterexample(what=what, script=f"\n\n{script(fused, call)}")
    return tried


def _search(fused: Fused, drawer: _Drawer, examples: int, seed: int, tried: Tried) -> Call | None:
    """The smallest call that hypothesis finds on which the two differ."""
    try:
        import hypothesis
        from hypothesis import strategies as st
    except ImportError:
        raise MissingPackage(name="hypothesis", what="fusedsl.testing.fuzz", hint="fusedsl[test]") from None
    worst: list[Call] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples, deadline=None, database=None,
        suppress_health_check=list(hypothesis.HealthCheck),  # type: ignore[arg-type]
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink], report_multiple_bugs=False,
    )  # fmt: skip
    @hypothesis.given(st.data())
    def one(data: Any) -> None:
        call = drawer.draw(data.draw, st)
        if _fault(fused, call, tried):
            worst.append(call)
            raise _Differs

    try:
        one()
    except _Differs:
        return worst[-1]  # hypothesis ends with the smallest
    return None


class _Differs(Exception):
    pass


def _fault(fused: Fused, call: Call, tried: Tried | None = None) -> str:
    """What differs in a call, "" for nothing, and for what is refused."""
    tried = tried or Tried()
    args, kwargs = call.arguments()
    try:
        with torch.no_grad(), as_written():
            fused.function(*args, **kwargs)
    except Exception:
        tried.refused += 1
        return ""
    try:
        faults = [each.fault for each in compare(fused, args, kwargs) if each.fault is not None]
    except FuseError as error:
        tried.unsupported += not isinstance(error, AssertionError)
        return str(error) if isinstance(error, AssertionError) else ""
    except Exception as error:  # whatever it is, eager does not raise it
        return f"{type(error).__name__}: {error}"
    if faults:
        return faults[0].message
    tried.agreed += 1
    return ""


# ---- drawing ---------------------------------------------------------------------------------------------------------


class _Drawer:
    """Draws calls like one that is given."""

    def __init__(self, args: Args, kwargs: Mapping[str, Any]) -> None:
        self.leaves, self.spec = tree_flatten((args, kwargs))
        self.given = [v for v in self.leaves if isinstance(v, torch.Tensor)]
        self.sizes = sorted({n for t in self.given for n in t.shape if n > 1})

    def draw(self, draw: Callable[[Any], Any], st: Any) -> Call:
        sizes = {n: draw(st.sampled_from([*sorted({*SIZES, n}), 0])) for n in self.sizes}
        kinds = {t.dtype: draw(st.sampled_from(_alike(t.dtype))) for t in self.given}
        seen: dict[tuple, int] = {}
        tensors: list[Tensor] = []
        places: list[int | None] = []
        for leaf in self.leaves:
            if not isinstance(leaf, torch.Tensor):
                places.append(None)
                continue
            shape = tuple(sizes.get(n, n) for n in leaf.shape)
            key = shape, kinds[leaf.dtype]
            if key in seen and draw(st.booleans()):  # the same tensor, twice
                places.append(seen[key])
                continue
            layout = draw(st.sampled_from(LAYOUTS))
            tensors.append(_laid_out(layout, leaf, *key, _Values(draw, st)))
            places.append(seen.setdefault(key, len(tensors) - 1))
        return _shared(Call(self.spec, tuple(self.leaves), tuple(places), tuple(tensors)))


def _alike(dtype: torch.dtype) -> Sequence[torch.dtype]:
    for group in (FLOATS, INTEGERS):
        if dtype in group:
            return (dtype, *(t for t in group if t is not dtype))
    return (dtype,)


@dataclass
class _Values:
    """Draws the values of a storage: a kind and a seed, since a number for each would be many choices."""

    draw: Callable[[Any], Any]
    st: Any

    def __call__(self, like: torch.Tensor, dtype: torch.dtype, count: int) -> tuple[Any, ...]:
        kind, seed = self.draw(self.st.sampled_from(KINDS)), self.draw(self.st.integers(0, 255))
        generator = torch.Generator().manual_seed(seed)
        if dtype.is_floating_point:
            return tuple(_floats(kind, dtype, count, generator).tolist())
        if dtype is torch.bool:
            return tuple((torch.rand(count, generator=generator) < 0.5).tolist())
        low, high = (int(like.min()), int(like.max())) if like.numel() else (0, 1)
        top = self.draw(self.st.integers(low, high))  # smaller sizes need smaller indices
        return tuple(torch.randint(low, top + 1, (count,), generator=generator).tolist())


def _floats(kind: str, dtype: torch.dtype, count: int, generator: torch.Generator) -> torch.Tensor:
    x = torch.randn(count, generator=generator, dtype=torch.float64)
    if kind == "whole":
        x = (x * 3).round()
    elif kind in ("small", "large"):
        x = x * (torch.finfo(dtype).tiny if kind == "small" else torch.finfo(dtype).max / 8)
    elif kind == "edges":
        info = torch.finfo(dtype)
        edges = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, info.max, info.min, info.tiny], dtype=x.dtype)
        chosen = torch.randint(0, 4 * len(edges), (count,), generator=generator)
        x = torch.where(chosen < len(edges), edges[chosen % len(edges)], x)
    return x.to(dtype)


def _laid_out(
    layout: str, like: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype, values: _Values
) -> Tensor:  # fmt: skip
    order = range(len(shape))
    strides = _strides(shape, reversed(order) if layout != "transposed" else order)
    offset = 0
    if layout == "every second":
        strides = tuple(2 * s for s in strides)
    elif layout == "expanded" and shape:
        strides = (0, *strides[1:])
    elif layout in ("offset", "overlapping"):
        offset = 1
    span = offset + 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if 0 not in shape else offset
    tensor = Tensor(values(like, dtype, span), dtype, shape, strides, offset)
    return replace(tensor, offset=-1) if layout == "overlapping" else tensor


def _strides(shape: Sequence[int], order: Any) -> tuple[int, ...]:
    strides, step = [0] * len(shape), 1
    for d in order:
        strides[d] = step
        step *= max(1, shape[d])
    return tuple(strides)


def _shared(call: Call) -> Call:
    """Tensors that are to overlap lie in the storage of the last one before them of their dtype that is long enough."""
    tensors, shared = list(call.tensors), list(range(len(call.tensors)))
    for at, tensor in enumerate(tensors):
        if tensor.offset >= 0:
            continue
        tensors[at] = replace(tensor, offset=1)
        for before in reversed(range(at)):
            other = tensors[before]
            if other.dtype == tensor.dtype and len(other.values) >= len(tensor.values):
                tensors[at], shared[at] = replace(tensors[at], values=other.values), shared[before]
                break
    return replace(call, tensors=tuple(tensors), shared=tuple(shared))


# ---- simplifying -----------------------------------------------------------------------------------------------------

TRIES = 300


def _simplified(fused: Fused, call: Call) -> Call:
    """The call with plainer values, as far as the two still differ."""
    left = TRIES
    for simpler in _plainer(call):
        if left == 0:
            break
        left -= 1
        candidate = simpler(call)
        if candidate is not None and _fault(fused, candidate):
            call = candidate
    return call


def _plainer(call: Call) -> Iterator[Callable[[Call], Call | None]]:
    """Steps towards 0 and 1: all values of a storage at once, then each."""
    for storage in dict.fromkeys(call.shared):
        count = len(call.tensors[call.shared.index(storage)].values)
        for number in (0, 1):
            yield lambda call, storage=storage, number=number: _with(call, storage, None, number)
        for at in range(count):
            for number in (0, 1):
                yield lambda call, storage=storage, at=at, number=number: _with(call, storage, at, number)


def _with(call: Call, storage: int, at: int | None, number: int) -> Call | None:
    values = list(call.tensors[call.shared.index(storage)].values)
    if at is not None and values[at] in (0, number):  # as plain already
        return None
    if at is None:
        values = [_as(v, number) for v in values]
    else:
        values[at] = _as(values[at], number)
    tensors = [
        replace(t, values=tuple(values)) if owner == storage else t
        for t, owner in zip(call.tensors, call.shared, strict=True)
    ]
    return replace(call, tensors=tuple(tensors))


def _as(value: Any, number: int) -> Any:
    return type(value)(number)


# ---- the script ------------------------------------------------------------------------------------------------------


def script(fused: Fused, call: Call) -> str:
    """Python that repeats the call and its comparison."""
    names = {place: f"t{place}" for place in range(len(call.tensors))}
    lines = ["import torch", "from fusedsl.testing import assert_matches", *_definition(fused), ""]
    for place, tensor in enumerate(call.tensors):
        owner = call.shared[place]
        if owner == place:
            lines.append(f"{names[place]} = {tensor.text}")
        else:
            where = f"{tensor.shape}, {tensor.strides}, {tensor.offset}"
            lines.append(f"{names[place]} = {names[owner]}.as_strided({where})")
    leaves = [
        _Name(names[at]) if at is not None else value for value, at in zip(call.leaves, call.places, strict=True)
    ]
    args, kwargs = tree_unflatten(leaves, call.spec)
    lines.append(f"assert_matches({name_of(fused)}, {args!r}{f', {kwargs!r}' if kwargs else ''})")
    return "\n".join(lines)


class _Name:
    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


def _definition(fused: Fused) -> list[str]:
    """The function: an import where it can be imported, else its text."""
    function = fused.function
    if isinstance(function, torch.nn.Module):
        return [f"{name_of(fused)} = ...  # the module: {type(function).__module__}.{type(function).__qualname__}"]
    path = f"{function.__module__}.{function.__qualname__}"
    if function.__module__ != "__main__" and "<" not in path:
        return [f"from {function.__module__} import {function.__qualname__}"]
    try:
        text = textwrap.dedent(inspect.getsource(function)).rstrip()
    except (OSError, TypeError):
        return [f"# the function is {path}"]
    return ["", "", text] if text.startswith(("def ", "@")) else [f"# the function is in: {text}"]


def _literal(value: Any) -> str:
    return f'float("{value}")' if isinstance(value, float) and not math.isfinite(value) else repr(value)
