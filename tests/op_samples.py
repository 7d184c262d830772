"""torch's own samples of arguments, for every function in the table that torch's tests use: fused against eager.

`python -m tests.op_samples [NAMES] [--every N] [--show N]` prints how many samples agree, and what the others say. A
sample agrees if it gives eager's values within the tolerance of torch's own tests, and eager's shapes, dtypes and
strides; or if eager refuses it, too. A function counts if fusedsl knows it: if any of its samples is not refused with
UnknownFunction.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from fusedsl import fuse
from fusedsl.api import as_written
from fusedsl.errors import FuseError, UnknownFunction
from fusedsl.testing import significant_strides

DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """Of one sample. what: "agrees", "unknown", "refused" or "wrong"; why: what was said, or the difference."""

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


def outcomes(info: Any, every: int = 1) -> Iterator[Outcome]:
    """Of each of a function's samples, or of each that has a number divisible by `every`."""
    for dtype in DTYPES:
        if dtype not in info.dtypes:
            continue
        try:
            samples = list(info.sample_inputs("cpu", dtype, requires_grad=False))
        except Exception:  # it needs what is not here, such as another library
            continue
        for at, sample in enumerate(samples):
            if at % every == 0:
                what, why = outcome(info.op, (sample.input, *sample.args), sample.kwargs)
                yield Outcome(name_of(info), dtype, at, what, why)


def outcome(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[str, str]:
    """What became of a call, and why."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with as_written():
                wanted = function(*args, **kwargs)
        except Exception as error:
            wanted = error
        try:
            found = fuse(call)(*args, **kwargs)
        except UnknownFunction as error:
            return "unknown", error.message
        except FuseError as error:
            said = f"{type(error).__name__}: {error.message}"
            return ("agrees" if isinstance(wanted, Exception) else "refused"), said
        except Exception as error:
            return ("agrees" if isinstance(wanted, Exception) else "wrong"), f"{type(error).__name__}: {error}"
    if isinstance(wanted, Exception):
        return "agrees", ""  # what eager refuses may have a result here
    why = difference(found, wanted)
    return ("wrong", why) if why else ("agrees", "")


def difference(found: Any, wanted: Any) -> str:
    """What is not eager's, "" for nothing."""
    ours, theirs = tree_leaves(found), tree_leaves(wanted)
    if len(ours) != len(theirs):
        return f"{len(ours)} results, not {len(theirs)}"
    for a, b in zip(ours, theirs, strict=True):
        if isinstance(b, torch.Tensor):
            if not isinstance(a, torch.Tensor):
                return f"{a!r}, not a tensor"
            if a.shape == b.shape and significant_strides(a) != significant_strides(b):
                return f"strides {a.stride()}, not {b.stride()}"
        try:
            torch.testing.assert_close(a, b, equal_nan=True)
        except AssertionError as error:
            return str(error).replace("\n", " ")
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="of functions; all if none")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="each Nth sample only")
    parser.add_argument("--show", type=int, default=3, metavar="N", help="at most so many that disagree, per function")
    parser.add_argument("--part", default="0/1", metavar="K/N", help="the functions with numbers K modulo N")
    asked = parser.parse_args()
    part, parts = map(int, asked.part.split("/"))
    total: Counter[str] = Counter()
    start = time.monotonic()
    for info in table()[part::parts]:
        if asked.names and info.name not in asked.names:
            continue
        found = list(outcomes(info, asked.every))
        count = Counter(each.what for each in found)
        if count.total() == count["unknown"]:
            total["functions that are not known"] += 1
            continue
        total.update(count)
        total["functions"] += 1
        others = [each for each in found if each.what != "agrees"]
        if others:
            print(f"{name_of(info)}: {', '.join(f'{n} {what}' for what, n in count.most_common())}")
            for each in others[:: max(1, len(others) // asked.show)][: asked.show]:
                print(f"    {each}"[:400], flush=True)
    samples = total["agrees"] + total["refused"] + total["wrong"] + total["unknown"]
    share = total["agrees"] / max(1, samples)
    print(f"{dict(total)}; {share:.2%} of {samples} agree; {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
