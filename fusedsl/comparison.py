"""A fused function beside eager and beside float64: how far each is off, and the rule that says if that will do."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

from .api import Fused, as_written, fuse
from .errors import BadArgument, Mismatch
from .interpret import interpret
from .nested import holds

Args = Sequence[Any]
Kwargs = Mapping[str, Any] | None


def as_fused(f: Callable[..., Any]) -> Fused:
    """The function, fused if it is not."""
    return f if isinstance(f, Fused) else fuse(f)


def name_of(fused: Fused) -> str:
    function = fused.function
    return type(function).__name__ if isinstance(function, torch.nn.Module) else function.__name__


_NARROW = (torch.float16, torch.bfloat16, torch.float32)
_TO_NARROW = (torch.Tensor.half, torch.Tensor.bfloat16, torch.Tensor.float)


class Widened(TorchFunctionMode):
    """Makes torch compute in f64 wherever a function computes in floats of 16 or 32 bits: also where it reads captured
    tensors, makes tensors, and asks for a dtype. Casts to f8, integers and bool still do what they say."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _TO_NARROW:
            return args[0].double()
        if func is torch.Tensor.view and holds((args, kwargs), torch.dtype):
            raise TypeError("f64 has other bits")  # the trace knows what they are bits of
        args, kwargs = widened((args, kwargs or {}))
        return widened(func(*args, **kwargs))


def widened(values: Any) -> Any:
    """Values with f64 in the place of narrower floats, in tensors and as dtypes."""
    return tree_map(_wide, values)


def _wide(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.dtype in _NARROW:
        return value.double()
    return torch.float64 if isinstance(value, torch.dtype) and value in _NARROW else value


def reference(f: Callable[..., Any], args: Args, kwargs: Kwargs = None) -> list[Any]:
    """The outputs of a function as f64 knows them, its tree flattened.

    It is the function itself that runs, with every float widened, and not its trace: a mistake of the tracer shows.
    Where the function will not run so (it asserts a dtype, or looks at bits), the trace is interpreted in f64."""
    fused, kwargs = as_fused(f), kwargs or {}
    with torch.no_grad():
        try:
            with Widened(), as_written():
                return tree_flatten(fused.function(*widened(tuple(args)), **widened(dict(kwargs))))[0]
        except Exception:
            traced, _, bound = fused._entry(tuple(args), kwargs)
            values = interpret(traced.graph, bound.values, bound.sizes, dtype=torch.float64)
            return tree_flatten(traced.rebuild(bound, values))[0]


@dataclass(frozen=True)
class Errors:
    """Distances from the reference: the greatest, and the mean."""

    most: float
    mean: float


@dataclass(frozen=True)
class Comparison:
    """One output of a fused function beside eager's. fused, eager: their errors, None for what is no float. fault:
    what is wrong with it, None for nothing."""

    fused: Errors | None
    eager: Errors | None
    fault: Mismatch | None


def assert_matches(f: Callable[..., Any], args: Args, kwargs: Kwargs = None) -> None:
    """A call gives what eager gives. Against a float64 `reference`, the greatest error is at most twice eager's at the
    same dtype plus 4 ulp, the mean at most 1.5 times eager's plus 1 ulp, where an ulp is that of the output's dtype at
    max(1, max|reference|). NaN and the infinities stand where eager's do; integers and bools are equal to eager's;
    shape, dtype, device and the strides of sizes other than 1 are eager's. Raises Mismatch.

    For outputs of float64 the reference is eager's own, with errors that nothing measures: there 64 ulp and 16 are
    allowed."""
    for each in compare(f, args, kwargs):
        if each.fault is not None:
            raise each.fault


def compare(f: Callable[..., Any], args: Args, kwargs: Kwargs = None) -> list[Comparison]:
    """Each output of a call by the rule of `assert_matches`. Raises Mismatch where the outputs are not eager's in
    number or structure, BadArgument where it draws random numbers."""
    fused = as_fused(f)
    with torch.no_grad():
        _refuse_random(fused, args, kwargs)
        with as_written():
            theirs, wanted = tree_flatten(fused.function(*args, **(kwargs or {})))
        ours, got = tree_flatten(fused(*args, **(kwargs or {})))
    name = name_of(fused)
    if got != wanted:
        raise Mismatch(name=name, what="the outputs", rule=f"have eager's structure, {wanted}", got=got, hint="")
    return _beside(fused, args, kwargs, ours, theirs)


def beside_eager(f: Callable[..., Any], args: Args, outputs: Sequence[Any], kwargs: Kwargs = None) -> list[Comparison]:
    """What somebody else has for a call, each output of its tree by the rule of `assert_matches`."""
    fused = as_fused(f)
    with torch.no_grad(), as_written():
        theirs = tree_flatten(fused.function(*args, **(kwargs or {})))[0]
    return _beside(fused, args, kwargs, outputs, theirs)


def _beside(fused: Fused, args: Args, kwargs: Kwargs, ours: Sequence[Any], theirs: Sequence[Any]) -> list[Comparison]:
    name, exact = name_of(fused), reference(fused, args, kwargs)
    return [
        _compared(name, f"output {at}", *three) for at, three in enumerate(zip(ours, theirs, exact, strict=True))
    ]


def is_random(f: Callable[..., Any], args: Args, kwargs: Kwargs = None) -> bool:
    """Whether a call draws random numbers: then two calls differ, and ours from eager's."""
    traced, *_ = as_fused(f)._entry(tuple(args), kwargs or {})
    return bool(traced.draws)


def _refuse_random(fused: Fused, args: Args, kwargs: Kwargs) -> None:
    if is_random(fused, args, kwargs):
        raise BadArgument(op=name_of(fused), name="a function to compare", rule="one without random numbers",
                          got="one that draws some", hint="Pass them as an argument.")  # fmt: skip


def _compared(name: str, what: str, ours: Any, eager: Any, exact: Any) -> Comparison:
    def wrong(rule: str, got: object, hint: str = "") -> Comparison:
        return Comparison(None, None, Mismatch(name=name, what=what, rule=rule, got=got, hint=hint))

    if isinstance(eager, torch.Tensor) != isinstance(ours, torch.Tensor):
        return wrong(f"be a {type(eager).__name__}", type(ours).__name__)
    if not isinstance(eager, torch.Tensor):
        same = type(ours) is type(eager) and (ours == eager or (ours != ours and eager != eager))  # NaN is not itself
        return Comparison(None, None, None) if same else wrong(f"be {eager!r}, as eager's", repr(ours))
    for property, a, b in zip(("shape", "dtype", "strides", "device"), _looks(ours), _looks(eager), strict=True):
        if a != b:
            return wrong(f"have eager's {property}, {b}", a)
    place = _first_difference(ours, eager)
    if place is not None:
        kind = "NaN and infinities where eager has them" if eager.is_floating_point() else "eager's values"
        return wrong(f"have {kind}, at {list(place)} {eager[place].item()}", ours[place].item())
    if not eager.is_floating_point():
        return Comparison(None, None, None)
    return _within(name, what, ours, eager, exact)


def _looks(tensor: torch.Tensor) -> tuple[Any, ...]:
    return list(tensor.shape), tensor.dtype, significant_strides(tensor), tensor.device


def significant_strides(tensor: torch.Tensor) -> tuple[int, ...]:
    """The strides, with 0 for those that no element depends on: torch itself has more than one rule for them."""
    few = tensor.numel() < 2
    return tuple(0 if few or n == 1 else s for n, s in zip(tensor.shape, tensor.stride(), strict=True))


def _first_difference(ours: torch.Tensor, eager: torch.Tensor) -> tuple[int, ...] | None:
    """The first place at which values must be equal, and are not: every one but those of finite floats."""
    if eager.is_floating_point():
        ours, eager = (torch.where(t.isfinite(), 0, t) for t in (ours.double(), eager.double()))
        different = (ours != eager) & ~(ours.isnan() & eager.isnan())
    else:
        different = ours != eager
    return tuple(different.nonzero()[0].tolist()) if different.any() else None


def _within(name: str, what: str, ours: torch.Tensor, eager: torch.Tensor, exact: torch.Tensor) -> Comparison:
    """The rule of acceptance for floats."""
    exact = exact.double()
    finite = eager.double().isfinite() & exact.isfinite()
    distance, theirs = (torch.where(finite, (t.double() - exact).abs(), 0) for t in (ours, eager))
    mine, limit = _errors(distance, finite), _errors(theirs, finite)
    ulp = ulp_at(torch.where(finite, exact.abs(), 0).max().item() if exact.numel() else 0.0, eager.dtype)
    few = 16 if eager.dtype is torch.float64 else 1  # ulp
    most, mean = 2 * limit.most + 4 * few * ulp, 1.5 * limit.mean + few * ulp
    fault = None
    if mine.most > most:
        rule = f"be within {most:.3g} of the float64 reference, twice eager's {limit.most:.3g} and {4 * few} ulp"
        place = tuple(int(x) for x in torch.unravel_index(distance.argmax(), distance.shape))
        values = f"it is {ours[place].item()}, eager's {eager[place].item()}, exact {exact[place].item()}"
        fault = Mismatch(name=name, what=what, rule=rule, got=f"{mine.most:.3g}", hint=f"At {list(place)} {values}.")
    elif mine.mean > mean:
        rule = f"be within {mean:.3g} of it in the mean, 1.5 times eager's {limit.mean:.3g} and {few} ulp"
        fault = Mismatch(name=name, what=what, rule=rule, got=f"{mine.mean:.3g}", hint="")
    return Comparison(mine, limit, fault)


def _errors(distance: torch.Tensor, counted: torch.Tensor) -> Errors:
    if not distance.numel():
        return Errors(0.0, 0.0)
    return Errors(distance.max().item(), distance.sum().item() / max(1, int(counted.sum())))


def ulp_at(value: float, dtype: torch.dtype) -> float:
    """The step from one float of a dtype to the next at max(1, value)."""
    return torch.finfo(dtype).eps * 2.0 ** math.floor(math.log2(max(1.0, value)))
