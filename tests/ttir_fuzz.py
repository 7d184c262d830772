"""Random kernels in TTIR, compiled for the CPU and interpreted in numpy; both must leave the same memory.

python -m tests.ttir_fuzz --seeds 0:1000 --shrink
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import mmap
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from triton._C.libtriton import ir, passes

from fusedsl.codegen import hardware, interpreter
from fusedsl.codegen.cpu import emit, machine, native, toolchain, wrapper
from fusedsl.codegen.cpu.errors import CannotCompile
from fusedsl.codegen.memory import Memory
from fusedsl.codegen.translate import Translator
from fusedsl.codegen.ttir import parse

from .ttir_random import BEFORE, BYTES, SMALL_FLOATS, Argument, Case, Generator


@cache
def _context() -> Any:
    context = ir.context()
    ir.load_dialects(context)
    return context


def canonical(text: str, simplify: bool = False, tidy: bool = False) -> str:
    """The text as Triton's parser takes it and its printer gives it. Raises RuntimeError for text it refuses.

    simplify: as the front end leaves it. tidy: only without what nothing uses."""
    with tempfile.NamedTemporaryFile("w", suffix=".mlir") as file:
        file.write(text)
        file.flush()
        module = ir.parse_mlir_module(file.name, _context())
    module.context = _context()
    if simplify or tidy:
        manager = ir.pass_manager(_context())
        every = (passes.common.add_canonicalizer, passes.common.add_cse, passes.common.add_licm)
        for add in every if simplify else [every[1]] * 30:  # each takes away the last of a chain that nothing uses
            add(manager)
        manager.run(module, "fuzz")
    return module.str_nodebug()


class _Memory(Memory):
    """Refuses what has no one result: lanes of a store that meet."""

    def store(self, pointer: Any, value: Any, mask: Any, shape: tuple[int, ...], element: str) -> None:
        addresses, _ = self._lanes(pointer, mask, shape)
        if np.unique(addresses).size != addresses.size:
            raise Unclear("lanes of a store meet")
        super().store(pointer, value, mask, shape, element)


class Unclear(Exception):
    """The kernel has no one result."""


@dataclass
class Outcome:
    memory: np.ndarray
    failed: str = ""  # message of the assertion


def _slot(argument: Argument, base: int) -> Any:
    return argument.number if argument.kind == "number" else base + argument.start


def interpreted(case: Case, memory: np.ndarray) -> Outcome:
    """Runs the case in numpy on this memory."""
    whole = torch.from_numpy(memory)
    make_program = Translator(parse(case.text)).translate()
    kinds = ["*" if a.kind != "number" else {"f32": "fp32"}.get(a.element, a.element) for a in case.arguments]
    values = [
        interpreter._argument(_slot(a, whole.data_ptr()), kind) for a, kind in zip(case.arguments, kinds, strict=True)
    ]
    with np.errstate(all="ignore"):
        try:
            interpreter._run_grid(make_program, _Memory([whole], None), case.grid, values, "kernel")
        except AssertionError as error:
            return Outcome(memory, str(error))
    return Outcome(memory)


def compiled(case: Case, disjoint: bool, forked: bool, host: machine.Machine | None = None) -> native.Native:
    host = host or machine.host()
    emitted = emit.emit(case.text, host, disjoint)
    code = toolchain.compile_object(wrapper.module(emitted, host), host, forked=forked)
    return native.Native(code, emitted.arguments, emitted.checks, emitted.scratch_bytes)


def guarded(size: int) -> np.ndarray:
    """Bytes right after which an access ends the process. Children share them."""
    room = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    whole = np.frombuffer(mmap.mmap(-1, room + mmap.PAGESIZE), np.uint8)
    end = ctypes.c_void_p(whole.ctypes.data + room)
    assert ctypes.CDLL(None).mprotect(end, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    return whole[room - size : room]


def executed(case: Case, memory: np.ndarray, kernel: native.Native, forked: bool = False) -> Outcome:
    """forked: in a child, which a wrong kernel may end."""

    def launch() -> str:
        try:
            kernel([_slot(a, memory.ctypes.data) for a in case.arguments], case.grid, 1)
        except AssertionError as error:
            return str(error)
        return ""

    return Outcome(memory, _in_a_child(launch) if forked else launch())


def _in_a_child(act: Callable[[], str]) -> str:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, act().encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    return said if status == 0 else f"ended by signal {os.WTERMSIG(status)}"


def overlaps(case: Case) -> bool:
    spans = sorted((a.bytes.start, a.bytes.stop) for a in case.arguments if a.kind != "number")
    return any(low < high for (_, high), (low, _) in itertools.pairwise(spans))


def difference(case: Case, got: Outcome, wanted: Outcome) -> str:
    """Where two results differ; empty if they agree."""
    if got.failed != wanted.failed:
        return f"assertions: {got.failed!r} is not {wanted.failed!r}"
    seen = np.ones(case.size, np.bool_)
    for number, argument in enumerate(case.arguments):
        if argument.kind == "number":
            continue
        seen[argument.bytes] = False
        x, y = (_decoded(o.memory[argument.bytes], argument.element) for o in (got, wanted))
        wrong = ~_agree(x, y, argument)
        if wrong.any():
            count, at = np.count_nonzero(wrong), int(np.flatnonzero(wrong)[0])
            what = f"argument {number} ({argument.kind} {argument.element})"
            return f"{what}: {count} differ, the first at {at - BEFORE}: {x[at]} is not {y[at]}"
    if not np.array_equal(got.memory[seen], wanted.memory[seen]):
        return "memory outside of the arguments"
    return ""


def _decoded(raw: np.ndarray, element: str) -> np.ndarray:
    if element[0] == "i":
        return raw.view(f"i{BYTES[element]}")
    with np.errstate(all="ignore"):
        if element in SMALL_FLOATS:
            return np.asarray(hardware.from_f8(raw, element))
        return np.asarray(hardware.from_raw(raw.view(hardware.raw_dtype(element)), element))


def _agree(x: np.ndarray, y: np.ndarray, argument: Argument) -> np.ndarray:
    if argument.element[0] == "i":
        return x == y
    with np.errstate(all="ignore"):
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        if argument.kind != "out":
            return same & ((x != 0) | (np.signbit(x) == np.signbit(y)))
        wide = x.astype(np.float64), y.astype(np.float64)
        near = np.abs(wide[0] - wide[1]) <= argument.error * np.maximum(*map(np.abs, wide)) + 1e-37 * (
            argument.error > 0
        )
        return same | near


def run(case: Case, forked: bool = False, forms: Sequence[bool] = (True, False)) -> str:
    """What is wrong with the case; empty if nothing is, or it needs what the target lacks."""
    start, memory = case.memory(), guarded(case.size)
    memory[:] = start
    try:
        outcome = interpreted(case, memory)
    except Exception as error:  # of the generator: the kernel has no one result; or of the interpreter
        return f"interpreted: {type(error).__name__}: {error}"
    wanted = replace(outcome, memory=memory.copy())
    for disjoint in forms:
        if disjoint and overlaps(case):
            continue
        try:
            kernel = compiled(case, disjoint, forked)
        except CannotCompile:
            raise
        except Exception as error:  # whatever it is, it is the compiler's
            return f"disjoint={disjoint}: {type(error).__name__}: {error}"
        memory[:] = start
        wrong = difference(case, executed(case, memory, kernel, forked), wanted)
        if wrong:
            return f"disjoint={disjoint}: {wrong}"
    return ""


# ---------------------------------------------------------------------------------------------------------------------
# Shrinking
# ---------------------------------------------------------------------------------------------------------------------


def shrink(case: Case, wrong: Callable[[Case], bool]) -> Case:
    """A smaller case that is still wrong: without operations, or with constants for their results."""
    tried, progress = 0, False  # a round goes on where it was after a success, and is followed by another
    while True:
        for number, text in enumerate(itertools.islice(_smaller(case), tried, None), tried):
            try:
                candidate = replace(case, text=canonical(text, tidy=True))
            except RuntimeError:
                continue
            if len(candidate.text) < len(case.text) and wrong(candidate):
                case, tried, progress = candidate, number, True
                break
        else:
            if not progress:
                return case
            tried, progress = 0, False


_CONSTANT = {"i": "1", "f": "1.000000e+00", "b": "1.000000e+00"}


def _smaller(case: Case) -> Iterator[str]:
    lines = case.text.splitlines()
    ends = _ends_of(lines)
    order = sorted(range(len(lines)), key=lambda i: i - ends.get(i, i))  # the largest first
    for i in order:
        stop = ends.get(i, i) + 1
        head = lines[i].strip()
        if head.startswith(("module", "tt.func", "}", "scf.yield", "tt.return", "^", "scf.condition", "cf.")):
            continue
        if "arith.constant" in head or ".return" in head:
            continue
        made = re.match(r"(%[\w]+)(?::(\d+))?(?:, (%\w+))? = ", head)
        rest = lines[:i] + lines[stop:]
        if made is None:
            yield "\n".join(rest)
            continue
        tail = lines[stop - 1]
        kinds = _result_kinds(lines[i], tail)
        yield from _without(case, lines, i, stop, made, kinds)


def _without(case: Case, lines: list[str], i: int, stop: int, made: re.Match, kinds: list[str]) -> Iterator[str]:
    names = [made[1], made[3]] if made[3] else [f"{made[1]}#{k}" for k in range(int(made[2]))] if made[2] else [made[1]]
    after = "\n".join(lines[stop:])
    if not any(re.search(re.escape(n) + r"(?![\w#])", after) for n in names):
        yield "\n".join(lines[:i] + lines[stop:])
        return
    if len(kinds) != len(names):
        return
    constants = []
    for k, (n, kind) in enumerate(zip(names, kinds, strict=True)):
        fresh = f"%s{i}_{k}"
        after = re.sub(re.escape(n) + r"(?![\w#])", fresh, after)
        element = re.sub(r"tensor<(?:\d+x)*", "", kind).rstrip(">")
        if element[0] in _CONSTANT:
            number = "true" if element == "i1" else _CONSTANT[element[0]]
            written = (
                f"dense<{number}> : {kind}" if "tensor" in kind else number if kind == "i1" else f"{number} : {kind}"
            )
            constants.append(f"{fresh} = arith.constant {written}")
        else:
            return
    yield "\n".join([*lines[:i], *constants, after])


def _result_kinds(first: str, last: str) -> list[str]:
    """The types of the results of an operation, from its text."""
    kind = r"(?:tensor<[^<>]*(?:<[^<>]*>)?[^<>]*>|!tt\.ptr<\w+>|\w+)"
    arrow = re.search(
        r"-> \(?(" + kind + r"(?:, " + kind + r")*)\)?(?: : \w+)?(?: \{)?$", last if "->" in last else first
    )
    if arrow:
        return re.findall(kind, arrow[1])
    if "arith.cmp" in first:
        found = re.findall(kind, first.rpartition(" : ")[2])
        return [re.sub(r"(?<=x)[a-z]\w*>$", "i1>", found[0]) if "tensor" in found[0] else "i1"]
    if "tt.load" in first:
        pointee = first.rpartition(" : ")[2]
        return [re.sub(r"!tt\.ptr<(\w+)>", r"\1", pointee)]
    if "tt.addptr" in first:
        return [first.rpartition(" : ")[2].rpartition(", ")[0]]
    tail = first.rpartition(" : ")[2]
    found = re.findall(kind, tail.rpartition(" to ")[2] or tail)
    return found[-1:]


def _ends_of(lines: Sequence[str]) -> dict[int, int]:
    """The last line of each operation with regions."""
    ends, opened = {}, []
    for i, line in enumerate(lines):
        text = line.strip()
        if text.startswith("}") and not text.endswith("{"):
            ends[opened.pop()] = i
        elif text.endswith("{") and not text.startswith("}"):
            opened.append(i)
    return ends


# ---------------------------------------------------------------------------------------------------------------------
# The command
# ---------------------------------------------------------------------------------------------------------------------


def check(seed: int, forked: bool = False) -> tuple[Case, str]:
    case = Generator(seed).case()
    case = replace(case, text=canonical(case.text, case.simplify))
    try:
        return case, run(case, forked)
    except CannotCompile as error:
        return case, f"lacks {error}"


def _still(case: Case, reason: str) -> bool:
    forms = [form for form in (True, False) if f"disjoint={form}" in reason] or (True, False)
    try:
        now = run(case, forked="differ" not in reason, forms=forms)
    except Exception:
        return False
    return bool(now) and _kind(now) == _kind(reason)


def _kind(reason: str) -> str:
    """What a failure is, without the numbers."""
    return re.sub(r"[\d.%]+", "", reason.partition("\n")[0])[:40]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", default="0:200", help="first:stop")
    parser.add_argument("--shrink", action="store_true", help="print the smallest text that is still wrong")
    parser.add_argument("--show", action="store_true", help="print every text")
    options = parser.parse_args()
    first, _, stop = options.seeds.partition(":")
    missing: Counter[str] = Counter()
    failures = 0
    for seed in range(int(first), int(stop or int(first) + 1)):
        case, wrong = check(seed, forked=True)
        if options.show:
            print(case.text)
        if wrong.startswith("lacks "):
            missing[wrong[:100]] += 1
        elif wrong:
            failures += 1
            print(f"seed {seed}: {wrong}", flush=True)
            if options.shrink:
                print(shrink(case, lambda c, reason=wrong: _still(c, reason)).text, flush=True)
    print(f"seeds {options.seeds}: {failures} wrong", *(f"\n  {n} x {what}" for what, n in missing.most_common(20)))
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
