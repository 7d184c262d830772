"""Elementwise operations of the CPU target: each compiled, on many numbers, against codegen/hardware.py and numpy.

A module holds all cases for one number of lanes, each a loop over arrays in memory, so that there are few compilations.
"""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from fusedsl.codegen import hardware, templates
from fusedsl.codegen.cpu import elem, half, machine, toolchain
from fusedsl.codegen.cpu.build import Builder, Value
from fusedsl.codegen.cpu.errors import CannotCompile
from fusedsl.codegen.ttir import Op, Type

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of overflow and NaN

LANES = (8, 32, None)
F8 = ("f8E4M3FN", "f8E5M2", "f8E4M3FNUZ", "f8E5M2FNUZ")
FLOATS = ("f16", "bf16", "f32", "f64", *F8)
INTEGERS = ("i8", "i16", "i32", "i64")
RNG = np.random.default_rng(0)
Emit = Callable[..., Value]


# ---------------------------------------------------------------------------------------------------------------------
# The harness
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Case:
    """One operation, and what it should give; `reference` is of hardware.py's values."""

    name: str
    sources: tuple[str, ...]
    target: str
    emit: Emit  # (builder, *values) -> value
    reference: Callable[..., Any]
    inputs: Callable[[], Sequence[np.ndarray]]  # as they lie in memory
    zeros_differ: bool = True  # is -0 another result than 0?


def make(name: str, sources: Sequence[str], target: str, text: str = "") -> Emit:
    """An operation as the emitter makes it."""
    op = Op(name, ["%r"], text, [], [Type(element) for element in (*sources, target)])
    return lambda b, *values: elem.apply(b, op, sources, target, values)


def loop_text(case: Case, lanes: int | None, cpu: machine.Machine) -> tuple[str, dict[str, str]]:
    b = Builder(cpu.scales)
    pointers = [Value(f"%p{i}", "ptr", None, 0) for i in range(len(case.sources) + 1)]

    def body(at: Value) -> Sequence[Value]:
        held = [elem.held(element) for element in (*case.sources, case.target)]
        places = [b.gep(p, at, el) for p, el in zip(pointers, held, strict=True)]
        values = [b.load(p, el, lanes) for p, el in zip(places[:-1], held[:-1], strict=True)]
        result = case.emit(b, *values)
        assert (result.el, result.lanes) == (held[-1], lanes)
        b.store(result, places[-1])
        return ()

    b.loop(b.const(0, "i64"), Value("%n", "i64", None, 0), b.const(lanes or 1, "i64"), (), body)
    parameters = ", ".join(f"{p.name}: !llvm.ptr" for p in pointers)
    return f"llvm.func @case_{case.name}({parameters}, %n: i64) {{\n{b.text()}\nllvm.return\n}}", b.functions


def library_of(names: Sequence[str], lanes: int | None, cpu: machine.Machine, file: Path) -> ctypes.CDLL:
    functions: dict[str, str] = {} if cpu.has_f16c else half.functions()
    texts = []
    for name in names:
        text, more = loop_text(CASES[name], lanes, cpu)
        functions.update(more)
        texts.append(text)
    body = "\n".join([*functions.values(), *texts])
    mlir = f'module attributes {{llvm.target_triple = "{machine.TRIPLE}"}} {{\n{body}\n}}\n'
    file.write_bytes(toolchain.compile_object(mlir, cpu, forked=True))
    return ctypes.CDLL(str(file))


@cache
def compiled(lanes: int | None, folder: Path) -> ctypes.CDLL:
    return library_of(names_for(lanes), lanes, machine.host(), folder / f"cases{lanes}.so")


def names_for(lanes: int | None) -> list[str]:
    """All cases at 8 lanes; elsewhere not those that differ by a constant, or only call the C library."""
    left_out = {8: (), 32: ("_by_", "libdevice"), None: ("_by_",)}[lanes]
    return [name for name in CASES if not any(part in name for part in left_out)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cases")


def run(library: ctypes.CDLL, case: Case, inputs: Sequence[np.ndarray]) -> Any:
    """The results as hardware.py's values."""
    count = inputs[0].size
    assert count % 32 == 0 and all(x.size == count for x in inputs)
    result = np.empty(count, hardware.raw_dtype(case.target))
    arguments = [ctypes.c_void_p(x.ctypes.data) for x in (*inputs, result)]
    library[f"case_{case.name}"](*arguments, ctypes.c_int64(count))
    return hardware.from_raw(result, case.target)


def expected(case: Case, inputs: Sequence[np.ndarray]) -> Any:
    values = [hardware.from_raw(x, element) for x, element in zip(inputs, case.sources, strict=True)]
    with np.errstate(all="ignore"):
        return case.reference(*values)


def numbers(x: Any, element: str) -> Any:
    return hardware.from_f8(x, element) if element in F8 else x


def check(case: Case, inputs: Sequence[np.ndarray], found: Any, wanted: Any) -> None:
    """Equal in every bit but those of a NaN."""
    x, y = numbers(found, case.target), numbers(wanted, case.target)
    same = x == y
    if x.dtype.kind == "f":
        same = (np.isnan(x) & np.isnan(y)) | (same & ((np.signbit(x) == np.signbit(y)) | (not case.zeros_differ)))
    if not same.all():
        at = np.flatnonzero(~same)[0]
        given = [numbers(hardware.from_raw(v, e), e)[at] for v, e in zip(inputs, case.sources, strict=True)]
        pytest.fail(f"{case.name}: {np.count_nonzero(~same)} differ; of {given} {x[at]}, not {y[at]}")


# ---------------------------------------------------------------------------------------------------------------------
# Numbers to try
# ---------------------------------------------------------------------------------------------------------------------


def padded(x: np.ndarray) -> np.ndarray:
    return np.resize(x, -(-x.size // 32) * 32)


def beside(x: np.ndarray) -> np.ndarray:
    """Numbers of a narrow type, what lies halfway between two, and what lies just beside that."""
    x = np.sort(x[np.isfinite(x)])
    halfway = (x[1:] + x[:-1]) / 2
    up, down = np.nextafter(halfway, np.float32(math.inf)), np.nextafter(halfway, np.float32(-math.inf))
    return np.concatenate([x, halfway, up, down])


@cache
def values(element: str) -> np.ndarray:
    """All numbers of a narrow type; of a wide one many, among them those where rounding or saturation turns."""
    if element in F8:
        return np.arange(256, dtype=np.uint8)
    if element in ("f16", "bf16"):
        return np.arange(65536, dtype=np.uint16).view(hardware.raw_dtype(element))
    if element == "i1":
        return np.resize(np.array([0, 1], np.uint8), 32)
    if element in INTEGERS:
        return _integers(element)
    if element == "f64":
        x = values("f32").astype(np.float64)
        tops = [s * (2.0**k + o) for s in (1, -1) for k in (7, 8, 15, 16, 31, 32, 63, 64) for o in (-1, -0.5, 0, 0.5)]
        anywhere = RNG.integers(0, 2**64, 20000, dtype=np.uint64).view(np.float64)
        return padded(np.concatenate([x, x * (1 + 2.0**-40), x * (1 - 2.0**-40), np.array(tops), anywhere]))
    narrow = [beside(hardware.from_f8(values(e), e)) for e in F8]
    halves = np.concatenate([beside(hardware.from_raw(values(e), e).astype(np.float32)) for e in ("f16", "bf16")])
    anywhere = np.arange(0, 2**32, 2**18 + 1, dtype=np.uint64).astype(np.uint32).view(np.float32)
    tops = np.array([2.0**31, 2.0**32, 2.0**63, 2.0**64, 32767.5, 65535.5, 0.5, 255.5], np.float32)
    special = np.array([0, math.inf, math.nan, 1, 3, 2.5], np.float32)
    return padded(np.concatenate([special, -special, *narrow, halves[::7], anywhere, tops, -tops]))


def _integers(element: str) -> np.ndarray:
    bits = int(element[1:])
    if bits == 8:
        return np.arange(-128, 128).astype(np.int8)
    edges = {s * 2**k + o for k in range(bits) for s in (1, -1) for o in (-1, 0, 1)} | {0, 3, 7, 100, -7}
    kept = sorted(e for e in edges if -(2 ** (bits - 1)) <= e < 2 ** (bits - 1))
    anywhere = RNG.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), 3000, dtype=np.int64)
    return padded(np.concatenate([np.array(kept, np.int64), anywhere]).astype(f"i{bits // 8}"))


@cache
def pairs(element: str) -> tuple[np.ndarray, np.ndarray]:
    x = values(element)
    if x.size > 256:
        x = np.concatenate([x[:12] if element in ("f32", "f64") else x[:190], RNG.choice(x, 150)])
        x = np.concatenate([x, _special(element)]) if element in ("f16", "bf16") else x
    a, b = np.meshgrid(x, x)
    return padded(a.reshape(-1)), padded(b.reshape(-1))


def _special(element: str) -> np.ndarray:
    x = np.array([0, -0.0, 1, -1, math.inf, -math.inf, math.nan, 3, 2.5, -7], np.float32)
    return hardware.to_raw(x, "bf16") if element == "bf16" else x.astype(np.float16)


# ---------------------------------------------------------------------------------------------------------------------
# The cases
# ---------------------------------------------------------------------------------------------------------------------

CASES: dict[str, Case] = {}


def case(name: str, sources: Sequence[str], target: str, emit: Emit, reference: Any, inputs: Any, **more: Any) -> None:
    name = name.replace(".", "_").replace(" ", "_")
    assert name not in CASES
    CASES[name] = Case(name, tuple(sources), target, emit, reference, inputs, **more)


def template(text: str, count: int = 2) -> Callable[..., Any]:
    """A function from one of the interpreter's tables."""
    names = "abc"[:count]
    return eval(f"lambda {','.join(names)}: {text.format(*names)}", dict(vars(hardware)))


def rounded(function: Callable[..., Any], element: str) -> Callable[..., Any]:
    """A function of numbers as one of bf16 or f8."""

    def apply(*operands: Any) -> Any:
        y = function(*(numbers(x, element) for x in operands))
        return hardware.to_f8(y, element) if element in F8 else hardware.round_bf16(y) if element == "bf16" else y

    return apply


def once(x: Any, source: str, target: str) -> Any:
    """Between float types; an f64 is rounded once, and the tiniest do not become NaN."""
    if source == "f64" and (target in F8 or target == "bf16"):
        x = hardware._odd_f32(np.where(np.abs(x) < 1e-44, np.copysign(1e-44, x) * (x != 0), x))
        source = "f32"
    return hardware.float_to_float(x, source, target)


def _casts() -> None:
    for source, target in itertools.permutations(FLOATS, 2):
        case(f"{source}_to_{target}", [source], target, make("arith.truncf", [source], target),
             lambda x, s=source, t=target: once(x, s, t), lambda s=source: [values(s)])  # fmt: skip
    for target in ("f16", "bf16"):
        case(f"f32_rtz_{target}", ["f32"], target, make("tt.fp_to_fp", ["f32"], target, " %x, rounding = rtz"),
             lambda x, t=target: np.where(x != x, x, hardware.float_to_float(x, "f32", t, True)),
             lambda: [values("f32")])  # fmt: skip
    for source, target, signed in itertools.product(FLOATS[:4], INTEGERS, (True, False)):
        name = "arith.fptosi" if signed else "arith.fptoui"
        case(f"{name}_{source}_{target}", [source], target, make(name, [source], target),
             lambda x, s=source, t=target, g=signed: hardware.float_to_int(x, s, int(t[1:]), g),
             lambda s=source: [values(s)])  # fmt: skip
    for source, target in itertools.product(("i1", *INTEGERS), FLOATS[:4]):
        case(f"sitofp_{source}_{target}", [source], target, make("arith.sitofp", [source], target),
             lambda x, s=source, t=target: hardware.int_to_float(hardware.sign_extend(x, 32) if s == "i1" else x, t),
             lambda s=source: [values(s)])  # fmt: skip
        case(f"uitofp_{source}_{target}", [source], target, make("arith.uitofp", [source], target),
             lambda x, t=target: hardware.int_to_float(hardware.unsigned(x), t),
             lambda s=source: [values(s)])  # fmt: skip
    for narrow, wide in itertools.combinations(("i1", *INTEGERS), 2):
        bits, size = int(wide[1:]), int(wide[1:]) // 8
        case(f"extsi_{narrow}_{wide}", [narrow], wide, make("arith.extsi", [narrow], wide),
             lambda x, n=bits: hardware.sign_extend(x, n), lambda s=narrow: [values(s)])  # fmt: skip
        case(f"extui_{narrow}_{wide}", [narrow], wide, make("arith.extui", [narrow], wide),
             lambda x, n=size: hardware.unsigned(x).astype(f"i{n}"), lambda s=narrow: [values(s)])  # fmt: skip
        case(f"trunci_{wide}_{narrow}", [wide], narrow, make("arith.trunci", [wide], narrow),
             lambda x, n=narrow: hardware.truncate(x, int(n[1:])), lambda s=wide: [values(s)])  # fmt: skip
    for source, target in (("f32", "i32"), ("i16", "bf16"), ("bf16", "f16"), ("i8", "f8E5M2"), ("f64", "i64")):
        case(f"bitcast_{source}_{target}", [source], target, make("tt.bitcast", [source], target),
             lambda x, s=source, t=target: hardware.bitcast(x, s, t), lambda s=source: [values(s)])  # fmt: skip


def _integer_operations() -> None:
    for name, text in templates.INT_OPS.items():
        for e in INTEGERS:
            count = 1 if name == "math.absi" else 2
            case(f"{name}_{e}", [e] * count, e, make(name, [e] * count, e), template(text, count),
                 lambda e=e, n=count: pairs(e)[:n])  # fmt: skip
    for name, text in templates.BOOL_OPS.items():
        case(f"{name}_i1", ["i1"] * 2, "i1", make(name, ["i1"] * 2, "i1"), template(text), lambda: pairs("i1"))
    for number, e in itertools.product((0, 1, -1, 3, 10, 64, -7), INTEGERS):
        for name in ("arith.divsi", "arith.remsi", "arith.divui", "arith.remui", "arith.shli", "arith.shrsi"):
            apply, reference = make(name, [e, e], e), template(templates.INT_OPS[name])
            case(f"{name}_{e}_by_{number}".replace("-", "minus_"), [e], e,
                 lambda b, x, f=apply, n=number: f(b, x, b.const(n, x.el, x.lanes)),
                 lambda x, f=reference, n=number: f(x, np.full_like(x, n)), lambda e=e: [values(e)])  # fmt: skip


def _comparisons() -> None:
    for key, text in templates.COMPARISONS.items():
        name, predicate = key.split()
        for e in INTEGERS if name == "arith.cmpi" else FLOATS:
            reference = template(text)
            case(f"{key}_{e}", [e, e], "i1", make(name, [e, e], "i1", f" {predicate}, %a, %b"),
                 lambda x, y, f=reference, e=e: f(numbers(x, e), numbers(y, e)), lambda e=e: pairs(e))  # fmt: skip
    for e in ("f32", "bf16", "i8", "i64"):
        case(f"select_{e}", ["i1", e, e], e, make("arith.select", ["i1", e, e], e), np.where,
             lambda e=e: (np.resize(values("i1"), pairs(e)[0].size), *pairs(e)))  # fmt: skip


def _float_operations() -> None:
    two = ("addf", "subf", "mulf", "divf", "maxnumf", "minnumf", "maximumf", "minimumf", "remf")
    one = ("arith.negf", "math.absf", "math.ceil", "math.floor", "math.sqrt")
    for e in FLOATS:
        for name in (f"arith.{n}" for n in two):
            case(f"{name}_{e}", [e, e], e, make(name, [e, e], e), rounded(template(templates.FLOAT_OPS[name]), e),
                 lambda e=e: pairs(e), zeros_differ="m" not in name[6:8])  # fmt: skip
        for name in one:
            case(f"{name}_{e}", [e], e, make(name, [e], e), rounded(template(templates.FLOAT_OPS[name], 1), e),
                 lambda e=e: [values(e)])  # fmt: skip
        for propagate in ("none", "all"):
            text = f" %a, %b, %c, propagateNan = {propagate}"
            case(f"clamp_{propagate}_{e}", [e, e, e], e, make("tt.clampf", [e] * 3, e, text),
                 rounded(lambda x, y, z, p=propagate: hardware.clamp(x, y, z, p == "all"), e),
                 lambda e=e: (*pairs(e), np.roll(pairs(e)[0], 7)), zeros_differ=False)  # fmt: skip
    for e in FLOATS[: 4 if hasattr(hardware._native, "fma_fp64") else 3]:  # the reference of f64 is exact from 3.9 on
        case(f"fma_{e}", [e] * 3, e, make("math.fma", [e] * 3, e), lambda x, y, z, e=e: hardware.fma(x, y, z, e),
             lambda e=e: _triples(e))  # fmt: skip
    for e in ("bf16", "f16"):  # what stays in registers is rounded all the same
        add, multiply = make("arith.addf", [e, e], e), make("arith.mulf", [e, e], e)
        case(f"chain_{e}", [e, e], e, lambda b, x, y, f=add, g=multiply: g(b, f(b, x, y), x),
             lambda x, y, e=e: rounded(np.multiply, e)(rounded(np.add, e)(x, y), x), lambda e=e: pairs(e))  # fmt: skip
    case("wide_bf16", ["bf16", "bf16"], "bf16", _wide, _wide_reference, lambda: pairs("bf16"))


def _wide(b: Builder, x: Value, y: Value) -> Value:
    """f32 between bf16: whatever the digits of a NaN that comes in, one goes out."""
    ops = {name: make(f"arith.{name}", ["f32", "f32"], "f32") for name in ("addf", "mulf", "divf")}
    extend, root = make("arith.extf", ["bf16"], "f32"), make("math.sqrt", ["f32"], "f32")
    wide, other = extend(b, x), make("math.absf", ["f32"], "f32")(b, extend(b, y))
    high = b.bitcast(b.and_(b.bitcast(wide, "i32"), b.const(-1 << 20, "i32", x.lanes)), "f32")
    total = ops["addf"](b, ops["mulf"](b, wide, root(b, other)), make("arith.negf", ["f32"], "f32")(b, high))
    chosen = b.select(b.cmpf("ogt", wide, other), total, ops["divf"](b, wide, other))
    return make("arith.truncf", ["f32"], "bf16")(b, chosen)


def _wide_reference(x: Any, y: Any) -> Any:
    high = (x.view(np.int32) & (-1 << 20)).view(np.float32)
    other = np.abs(y)
    return hardware.float_to_float(np.where(x > other, x * np.sqrt(other) - high, x / other), "f32", "bf16")


def _triples(element: str) -> list[np.ndarray]:
    """Of any size, and of sizes near each other."""
    triples = [RNG.choice(values(element), 30000) for _ in range(3)]
    if element in ("f16", "bf16"):
        near = [RNG.integers(0x3000, 0x4000, 30000, dtype=np.uint16).view(x.dtype) for x in triples]
        triples = [np.concatenate([x, y]) for x, y in zip(triples, near, strict=True)]
    return [padded(x) for x in triples]


# ---------------------------------------------------------------------------------------------------------------------
# Functions that are not exact
# ---------------------------------------------------------------------------------------------------------------------

# The largest error on machines with a fused multiply-add, and half a unit more for those without.
ULPS = {"exp": 1.1, "exp2": 1.0, "expm1": 1.6, "log": 0.9, "log2": 1.1, "log1p": 1.4, "erf": 1.05, "tanh": 1.35,
        "sin": 1.5, "cos": 1.5, "rsqrt": 1.5, "sqrt": 0.5}  # fmt: skip
SLACK = 0.0 if machine.host().has_fma else 0.5
EXACTLY = {"erf": lambda x: torch.erf(torch.from_numpy(x)).numpy(), "rsqrt": lambda x: 1 / np.sqrt(x)}


@cache
def every(step: int) -> np.ndarray:
    """f32s with bit patterns all over, and numbers of ordinary size."""
    patterns = np.arange(0, 2**32, step, dtype=np.uint64).astype(np.uint32).view(np.float32)
    edges = [0, 1, 0.5, 2, 1e-45, 2.0**-126, 88.72283, 88.72284, 87.33655, 103.97, 103.98, 104.1, 127.99999, 128, 149,
             149.5, 150, 0.625, 0.927734375, 4, 10, 1048576, 1e30, math.inf, math.nan]  # fmt: skip
    ordinary = np.linspace(-20, 20, 2**31 // step // 16)
    return padded(np.concatenate([edges, np.negative(edges), patterns, ordinary]).astype(np.float32))


@cache
def doubles() -> np.ndarray:
    anywhere = RNG.integers(0, 2**64, 20000, dtype=np.uint64).view(np.float64)
    edges = [0, 1, 5e-324, 2.0**-1022, 709.78, 709.79, 745.1, 745.2, 1023.99, 1024, 1074, 1075, math.inf, math.nan]
    lines = [np.linspace(-750, 712, 40001), np.linspace(-1, 3, 40001), np.linspace(-1080, 1030, 20001)]
    return padded(np.concatenate([edges, np.negative(edges), anywhere, *lines]))


def ulps(found: Any, exact: Any) -> Any:
    """The error in units of the last place of the true value; a wrong sign of 0 is infinitely wrong."""
    near = exact.astype(found.dtype)
    same = (np.isnan(found) & np.isnan(near)) | ((found == near) & (np.signbit(found) == np.signbit(near)))
    with np.errstate(all="ignore"):
        error = np.abs(found.astype(exact.dtype) - exact) / np.spacing(np.abs(near)).astype(exact.dtype)
    error = np.where((near == 0) & (np.signbit(found) != np.signbit(near)) | ~np.isfinite(error), math.inf, error)
    return np.where(same & ~np.isfinite(near), 0, error)


def _functions() -> None:
    for name in ULPS:
        reference = EXACTLY.get(name) or getattr(np, name)
        for e in ("f32", "f16", "bf16"):
            case(f"{name}_{e}", [e], e, make(f"math.{name}", [e], e), lambda x, f=reference: f(x.astype(np.float64)),
                 lambda e=e: [values(e)])  # fmt: skip
        case(f"{name}_f64", ["f64"], "f64", make(f"math.{name}", ["f64"], "f64"),
             lambda x, f=reference, n=name: f(x.astype(np.float64 if n == "erf" else np.longdouble)),
             lambda: [doubles()])  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# libdevice
# ---------------------------------------------------------------------------------------------------------------------

ONE = ["cbrt", "rcbrt", "exp10", "log10", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh",
       "erfc", "lgamma", "tgamma", "j0", "j1", "y0", "y1", "normcdf", "sinpi", "cospi", "exp", "log1p", "tanh", "rsqrt",
       "logb", "erfinv", "erfcinv", "erfcx", "normcdfinv", "cyl_bessel_i0", "cyl_bessel_i1"]  # fmt: skip
SEVERAL = {"pow": 2, "atan2": 2, "fmod": 2, "remainder": 2, "hypot": 2, "rhypot": 2, "fdim": 2, "norm3d": 3,
           "rnorm4d": 4}  # fmt: skip
EXACT = [
    *((f"{name}f", ["f32"], "f32") for name in ("fabs", "floor", "ceil", "trunc", "rint", "nearbyint", "round")),
    ("nextafterf", ["f32"] * 2, "f32"), ("nextafter", ["f64"] * 2, "f64"),
    ("saturatef", ["f32"], "f32"), ("copysignf", ["f32"] * 2, "f32"), ("fdiv_rn", ["f32"] * 2, "f32"),
    ("fmaf", ["f32"] * 3, "f32"), ("frcp_rn", ["f32"], "f32"), ("dadd_rn", ["f64"] * 2, "f64"),
    *((name, ["f32"], "i32") for name in ("isnanf", "isinff", "finitef", "signbitf", "float_as_int")),
    ("isnand", ["f64"], "i32"), ("longlong_as_double", ["i64"], "f64"),
    *((name, ["i32"], "i32") for name in ("popc", "clz", "ffs", "brev", "abs")),
    *((name, ["i64"], "i32") for name in ("popcll", "clzll", "ffsll")), ("brevll", ["i64"], "i64"),
    *((name, ["i32"] * 2, "i32") for name in ("mulhi", "umulhi")),
    *((name, ["i64"] * 2, "i64") for name in ("mul64hi", "umul64hi")),
    *((f"float2{to}", ["f32"], el) for to, el in (("int_rd", "i32"), ("uint_rn", "i32"), ("ll_ru", "i64"))),
    ("double2uint_rz", ["f64"], "i32"), ("uint2float_rn", ["i32"], "f32"), ("ll2double_rn", ["i64"], "f64"),
]  # fmt: skip


def libdevice_case(symbol: str, sources: Sequence[str], target: str, inputs: Any) -> None:
    text = f' %a {{libname = "", libpath = "", pure = true, symbol = "__nv_{symbol}"}}'
    reference = hardware.libdevice(f"__nv_{symbol}", target)
    assert reference is not None
    emit = make("tt.extern_elementwise", sources, target, text)
    case(f"libdevice_{symbol}", sources, target, emit, reference, inputs, zeros_differ=symbol != "saturatef")


def _libdevice() -> None:
    for symbol, sources, target in EXACT:
        libdevice_case(symbol, sources, target, lambda s=sources: _operands(s[0], len(s)))
    for name, e in itertools.product([*ONE, *SEVERAL], ("f32", "f64")):
        count = SEVERAL.get(name, 1)
        libdevice_case(name + "f" * (e == "f32"), [e] * count, e,
                       lambda n=count, e=e: [ordinary(i).astype(hardware.raw_dtype(e)) for i in range(n)])  # fmt: skip
    libdevice_case("ldexpf", ["f32", "i32"], "f32", lambda: [ordinary(0).astype(np.float32), _exponents()])
    libdevice_case("powif", ["f32", "i32"], "f32", lambda: [ordinary(0).astype(np.float32), _exponents() // 10])


def _operands(element: str, count: int) -> list[np.ndarray]:
    return [values(element)] if count == 1 else [*pairs(element), np.roll(pairs(element)[0], 5)][:count]


def ordinary(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return padded(np.concatenate([rng.standard_normal(1000) * 3, rng.uniform(-1, 1, 1000), rng.uniform(0, 90, 500)]))


def _exponents() -> np.ndarray:
    return RNG.integers(-160, 160, ordinary(0).size).astype(np.int32)


# ---------------------------------------------------------------------------------------------------------------------
# The tests
# ---------------------------------------------------------------------------------------------------------------------

GROUPS: dict[str, list[str]] = {}
for fill in (_casts, _integer_operations, _comparisons, _float_operations, _functions, _libdevice):
    known = set(CASES)
    fill()
    GROUPS[fill.__name__.strip("_")] = [name for name in CASES if name not in known]


@cache
def wanted(name: str) -> tuple[Sequence[np.ndarray], Any]:
    """The inputs of a case and what it should give."""
    inputs = CASES[name].inputs()
    return inputs, expected(CASES[name], inputs)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("group", ["casts", "integer_operations", "comparisons", "float_operations"])
def test_exact(group: str, lanes: int | None, folder: Path) -> None:
    library = compiled(lanes, folder)
    compiled_names = set(names_for(lanes))
    for name in (n for n in GROUPS[group] if n in compiled_names):
        inputs, exact = wanted(name)
        check(CASES[name], inputs, run(library, CASES[name], inputs), exact)


@pytest.mark.parametrize("name", ULPS)
def test_accuracy(name: str, folder: Path) -> None:
    """f32 functions on bit patterns all over, at 8 lanes; other numbers of lanes give the same bits."""
    x, this = every(997 if name not in ("expm1", "log1p") else 9973), CASES[f"{name}_f32"]
    found = run(compiled(8, folder), this, [x])
    error = ulps(found, expected(this, [x]))
    worst = int(np.argmax(error))
    assert error[worst] <= ULPS[name] + SLACK, f"{name}({x[worst]}) = {found[worst]}, {error[worst]} units wrong"
    few = padded(x[::101])
    first = run(compiled(8, folder), this, [few])
    for lanes in LANES[1:]:
        check(this, [few], run(compiled(lanes, folder), this, [few]), first)


@pytest.mark.parametrize("name", ULPS)
def test_accuracy_of_other_floats(name: str, folder: Path) -> None:
    for element, most in (("f16", 0.501), ("bf16", 0.501), ("f64", 2.0)):
        this = CASES[f"{name}_{element}"]
        inputs, exact = wanted(this.name)
        found = run(compiled(8, folder), this, inputs)
        if element == "bf16":
            error = ulps_of_bf16(found, exact)
        else:
            error = ulps(found, exact)
        worst = int(np.argmax(error))
        assert error[worst] <= most, f"{this.name}({inputs[0][worst]}) = {found[worst]}, {error[worst]} units wrong"


def ulps_of_bf16(found: Any, exact: Any) -> Any:
    near = hardware.round_bf16(exact.astype(np.float32))
    with np.errstate(all="ignore"):
        error = np.abs(found - exact) / (np.spacing(np.abs(near)) * np.float64(2**16))
    return np.where((found == near) | (np.isnan(found) & np.isnan(near)), 0, error)


@pytest.mark.parametrize("lanes", [8, None])
def test_libdevice(lanes: int | None, folder: Path) -> None:
    """Exactly, or about as exactly as the reference."""
    library = compiled(lanes, folder)
    exact = {f"libdevice_{symbol}" for symbol, _, _ in EXACT}
    for name in GROUPS["libdevice"]:
        this, (inputs, reference) = CASES[name], wanted(name)
        found = run(library, this, inputs)
        if name in exact:
            check(this, inputs, found, reference)
        else:
            relative, absolute = (3e-7, 1e-37) if this.target == "f32" else (2e-12, 1e-12)
            absolute = 1e-15 if "normcdf" in name else absolute  # torch computes it as 1 + erf
            np.testing.assert_allclose(found, reference, relative, absolute, err_msg=name)


def test_half_without_its_instructions(folder: Path) -> None:
    """On machines that cannot convert f16."""
    names = ["f16_to_f32", "f32_to_f16", "f64_to_f16", "arith_addf_f16"]
    library = library_of(names, 8, machine.PLAIN, folder / "plain.so")
    for name in names:
        inputs, exact = wanted(name)
        check(CASES[name], inputs, run(library, CASES[name], inputs), exact)


def test_every_operation_of_the_interpreter() -> None:
    tables = (templates.FLOAT_OPS, templates.INT_OPS, templates.BOOL_OPS)
    for name in itertools.chain(*tables, ("arith.cmpi", "arith.cmpf", "arith.select", "tt.extern_elementwise")):
        op = Op(name, ["%r"], " %a, %b", ["%a", "%b"], [Type("f32")])
        assert elem.is_elementwise(op) and elem.cost(op) > 0, name
    assert not elem.is_elementwise(Op("tt.dot", ["%r"], "", [], []))


def test_constants() -> None:
    b = Builder()
    cases = {("1.000000e+00", "f32"): 1.0, ("0xFF800000", "f32"): -math.inf, ("true", "i1"): True, ("-5", "i32"): -5,
             ("1.000000e+00", "bf16"): 0x3F80, ("0xFF80", "bf16"): -128, ("4.480000e+02", "f8E4M3FN"): 0x7E,
             ("0x7C00", "f16"): math.inf, ("255", "i8"): -1}  # fmt: skip
    for (token, element), number in cases.items():
        value = elem.constant(b, token, element, 8)
        assert (value.constant, value.el, value.lanes) == (number, elem.held(element), 8), (token, element)


@pytest.mark.parametrize("name, text", [("tt.extern_elementwise", 'symbol = "__nv_unknown"'), ("math.lerp", "")])
def test_what_is_missing_says_so(name: str, text: str) -> None:
    b = Builder()
    with pytest.raises(CannotCompile, match=r"unknown|lerp"):
        make(name, ["f32"], "f32", text)(b, b.const(1.0, "f32", 8))


def test_calls_stay_in_their_branch() -> None:
    """sin calls the C library for large arguments only."""
    text, _ = loop_text(CASES["sin_f32"], 8, machine.host())
    assert text.index("scf.if") < text.index("llvm.call @sin")


def test_bf16_constants_are_what_was_written():
    """TTIR writes seven digits, from which a bf16 is the nearest: 0.1 is 0x3DCD, and not what lies below it."""
    for bits in range(0, 1 << 16, 7):
        value = float(hardware.from_raw(np.uint16(bits), "bf16"))
        if np.isfinite(value):
            assert elem._number(f"{value:e}", "bf16") == bits
