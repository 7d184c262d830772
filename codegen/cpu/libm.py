"""The C library's functions, lane by lane: for f64, and for what is too rare to be worth a polynomial."""

from __future__ import annotations

from collections.abc import Sequence

from .build import Builder, Value, is_float

__all__ = ["libm"]


def libm(b: Builder, name: str, *operands: Value) -> Value:
    """A function of f64s and i32s, applied to f32s or f64s and i32s; f32s are computed in f64 and rounded."""
    like = next(v for v in operands if is_float(v.el))
    kinds = [v.el for v in operands]
    types = ["f64" if is_float(kind) else kind for kind in kinds]
    b.functions[name] = f"llvm.func @{name}({', '.join(types)}) -> f64"
    if like.lanes is None:
        wide = [v if v.el != "f32" else b.cast("extf", v, "f64") for v in operands]
        result = b.call(name, wide, "f64", None)
        return result if like.el == "f64" else b.cast("truncf", result, "f32")
    each = f"{name}_{like.lanes}x{like.el}"
    b.functions[each] = _each_lane(each, name, kinds, like.lanes)
    return b.call(each, operands, like.el, like.lanes)


def _each_lane(each: str, name: str, kinds: Sequence[str], lanes: int) -> str:
    """A function that calls `name` in a loop over the lanes; a float operand's memory takes the results."""
    at = next(i for i, kind in enumerate(kinds) if is_float(kind))
    el, vectors = kinds[at], [f"vector<{lanes}x{kind}>" for kind in kinds]
    parameters = ", ".join(f"%x{i}: {vector}" for i, vector in enumerate(vectors))
    attributes = 'attributes {passthrough = ["noinline", "nounwind"]}'
    lines = [
        f"llvm.func internal @{each}({parameters}) -> {vectors[at]} {attributes} {{",
        "%zero = arith.constant 0 : i64",
        "%one = arith.constant 1 : i64",
        f"%lanes = arith.constant {lanes} : i64",
    ]
    for i, (kind, vector) in enumerate(zip(kinds, vectors, strict=True)):
        array = f"!llvm.array<{lanes} x {kind}>"
        lines += [
            f"%p{i} = llvm.alloca %one x {array} {{alignment = 64 : i64}} : (i64) -> !llvm.ptr",
            f"llvm.store %x{i}, %p{i} : {vector}, !llvm.ptr",
        ]
    lines.append("scf.for %i = %zero to %lanes step %one : i64 {")
    for i, kind in enumerate(kinds):
        lines += [
            f"%q{i} = llvm.getelementptr %p{i}[%i] : (!llvm.ptr, i64) -> !llvm.ptr, {kind}",
            f"%v{i} = llvm.load %q{i} : !llvm.ptr -> {kind}",
        ]
        lines += [f"%d{i} = arith.extf %v{i} : f32 to f64"] * (kind == "f32")
    values = ", ".join(f"%{'d' if kind == 'f32' else 'v'}{i}" for i, kind in enumerate(kinds))
    types = ", ".join("f64" if is_float(kind) else kind for kind in kinds)
    lines.append(f"%r = llvm.call @{name}({values}) : ({types}) -> f64")
    lines += ["%s = arith.truncf %r : f64 to f32"] * (el == "f32")
    lines += [
        f"llvm.store %{'s' if el == 'f32' else 'r'}, %q{at} : {el}, !llvm.ptr",
        "}",
        f"%y = llvm.load %p{at} : !llvm.ptr -> {vectors[at]}",
        f"llvm.return %y : {vectors[at]}",
        "}",
    ]
    return "\n".join(lines)
