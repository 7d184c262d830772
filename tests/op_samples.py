"""torch's own samples of arguments, for every function in the table that torch's tests use: fused against eager.

`python -m tests.op_samples [NAMES] [--every N] [--show N] [--device cuda] [--keep FILE]` prints how many samples agree,
and what the others say; with a file to keep it in, it may be stopped and goes on. Of a sample may come out:

agrees    eager's shapes, dtypes and strides, and its values within the function's own tolerance in that table; or eager
          refuses it as well. Of random numbers and empty tensors no values are compared. Where a function returns the
          place of a value of which there are several, torch leaves open which: there the place has to lead to it.
as exact  not that, but as near to float64 as eager, by the rule of docs/numerics.md: halves that eager rounds on the
          way, and we do not
refused   what is not supported, in the error's own words
wrong     anything else

The share is that of samples that agree among those that are not refused. A function counts if fusedsl knows it: if any
of its samples is not refused with UnknownFunction.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.testing._comparison import default_tolerances
from torch.utils._pytree import tree_leaves

from fusedsl import fuse
from fusedsl.api import Fused, as_written
from fusedsl.errors import FuseError, UnknownFunction
from fusedsl.testing import compare, significant_strides

DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
)  # fmt: skip
PLACES = ("kthvalue", "topk", "mode", "median", "nanmedian", "max.reduction_with_dim", "min.reduction_with_dim", "sort")


@dataclass(frozen=True)
class Outcome:
    """Of one sample. why: what was said, or the difference."""

    name: str
    dtype: torch.dtype
    at: int
    what: str
    why: str = ""

    def __str__(self) -> str:
        return f"{self.name} {str(self.dtype)[6:]} sample {self.at}: {self.what}: {self.why}"


@cache
def table() -> list[Any]:
    """torch's table. Some functions stand in it several times, with a variant's name each."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db
    return list(op_db)


def name_of(info: Any) -> str:
    return f"{info.name}.{info.variant_test_name}" if info.variant_test_name else info.name


def tolerance_of(info: Any, dtype: torch.dtype, device: str) -> dict[str, float]:
    """The widest tolerance that torch's own tests on the device grant the function."""
    from torch.testing._internal.common_device_type import toleranceOverride

    granted = [
        tolerance.d[dtype]
        for decorated in info.decorators if getattr(decorated, "device_type", None) in (None, device)
        for tolerance in getattr(decorated, "decorators", (decorated,)) if isinstance(tolerance, toleranceOverride)
        if dtype in tolerance.d
    ]  # fmt: skip
    return {key: max((getattr(each, key) for each in granted), default=0.0) for key in ("rtol", "atol")}


def outcomes(info: Any, every: int = 1, device: str = "cpu") -> Iterator[Outcome]:
    """Of each of a function's samples, or of each that has a number divisible by `every`."""
    for dtype in DTYPES:
        if dtype not in info.supported_dtypes(device):
            continue
        try:
            samples = list(info.sample_inputs(device, dtype, requires_grad=False))
        except Exception:  # it needs what is not here, such as another library
            continue
        for at, sample in enumerate(samples):
            if at % every == 0:
                yield Outcome(name_of(info), dtype, at, *outcome(info, sample, dtype, device))


def outcome(info: Any, sample: Any, dtype: torch.dtype, device: str) -> tuple[str, str]:
    """What became of a sample, and why."""
    function, name = info.op, name_of(info)
    args, kwargs = (sample.input, *sample.args), sample.kwargs

    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    fused = fuse(call)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with as_written():
                wanted = function(*args, **kwargs)
        except Exception as error:
            wanted = error
        try:
            found = fused(*args, **kwargs)
        except UnknownFunction as error:
            return "unknown", error.message
        except FuseError as error:
            said = f"{type(error).__name__}: {error.message}"
            return ("agrees" if isinstance(wanted, Exception) else "refused"), said
        except Exception as error:
            return ("agrees" if isinstance(wanted, Exception) else "wrong"), f"{type(error).__name__}: {error}"
        if isinstance(wanted, Exception):
            return "agrees", ""  # what eager refuses may have a result here
        is_open = "empty" in name or bool(fused._entry(tuple(args), kwargs)[0].draws)
        why = difference(found, wanted, tolerance_of(info, dtype, device), is_open)
        if why and name in PLACES and leads_to_values(name, args, kwargs, found, wanted):
            why = ""
        if not why:
            return "agrees", ""
        return ("as exact" if is_as_exact(fused, args, kwargs) else "wrong"), why


def difference(found: Any, wanted: Any, tolerance: dict[str, float], is_open: bool) -> str:
    """What is not eager's, "" for nothing. is_open: the values are anybody's."""
    ours, theirs = tree_leaves(found), tree_leaves(wanted)
    if len(ours) != len(theirs):
        return f"{len(ours)} results, not {len(theirs)}"
    for a, b in zip(ours, theirs, strict=True):
        if isinstance(b, torch.Tensor):
            if not isinstance(a, torch.Tensor):
                return f"{a!r}, not a tensor"
            if a.shape == b.shape and significant_strides(a) != significant_strides(b):
                return f"strides {a.stride()}, not {b.stride()}"
            if is_open and (a.shape, a.dtype) == (b.shape, b.dtype):
                continue
        try:
            granted: Any = {}
            if isinstance(b, torch.Tensor) and b.is_floating_point():  # the usual tolerance at least
                usual = dict(zip(("rtol", "atol"), default_tolerances(b.dtype), strict=True))
                granted = {key: max(usual[key], tolerance.get(key, 0.0)) for key in usual}
            torch.testing.assert_close(a, b, equal_nan=True, **granted)
        except AssertionError as error:
            return str(error).replace("\n", " ")
    return ""


def leads_to_values(name: str, args: Sequence[Any], kwargs: dict[str, Any], found: Any, wanted: Any) -> bool:
    """Whether the values are eager's, and what stands at our places."""
    (x, *rest), (values, places) = args, found
    rest = rest[1:] if name in ("kthvalue", "topk") else rest
    dim = kwargs.get("dim", rest[0] if rest and type(rest[0]) is int else -1)
    if x.dim() and values.dim() < x.dim():
        values, places = values.unsqueeze(dim), places.unsqueeze(dim)
    there = x.gather(dim, places) if x.dim() else x
    return not difference(found[0], wanted[0], {}, False) and not difference(there, values, {}, False)


def is_as_exact(fused: Fused, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    try:
        return all(each.fault is None for each in compare(fused, args, kwargs))
    except Exception:  # no function of tensors alone
        return False


def _kept(file: Path | None) -> dict[str, tuple[Counter[str], list[str]]]:
    """What earlier runs have found, by function."""
    lines = file.read_text().splitlines() if file and file.exists() else []
    return {each["name"]: (Counter(each["count"]), each["others"]) for each in map(json.loads, lines)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="of functions; all if none")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="each Nth sample only")
    parser.add_argument("--show", type=int, default=3, metavar="N", help="at most so many that disagree, per function")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="of what was found; what it has is not run again")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--part", default="0/1", metavar="K/N", help="the functions with numbers K modulo N")
    asked = parser.parse_args()
    part, parts = map(int, asked.part.split("/"))
    kept = _kept(asked.keep)
    total: Counter[str] = Counter()
    start = time.monotonic()
    for info in table()[part::parts]:
        name = name_of(info)
        if asked.names and info.name not in asked.names:
            continue
        if name not in kept:
            found = list(outcomes(info, asked.every, asked.device))
            others = [str(each)[:400] for each in found if each.what != "agrees"]
            shown = others[:: max(1, len(others) // asked.show)][: asked.show]
            kept[name] = Counter(each.what for each in found), shown
            if asked.keep:
                with asked.keep.open("a") as file:
                    print(json.dumps({"name": name, "count": kept[name][0], "others": shown}), file=file)
        count, others = kept[name]
        if count.total() == count["unknown"]:
            total["functions that are not known"] += 1
            continue
        total.update(count)
        total["functions"] += 1
        if others:
            print(f"{name}: {', '.join(f'{n} {what}' for what, n in count.most_common())}")
            print("\n".join(f"    {each}" for each in others), flush=True)
    judged = total["agrees"] + total["as exact"] + total["wrong"]
    share = total["agrees"] / max(1, judged)
    print(f"{dict(total)}; {share:.2%} of {judged} agree; {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
