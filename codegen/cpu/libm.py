"""The C library's functions, lane by lane: for f64, and for what is too rare to be worth a polynomial."""

from __future__ import annotations

from .build import Builder, Value

__all__ = ["libm"]


def libm(b: Builder, name: str, *operands: Value) -> Value:
    """A function of f64s, applied to f32s or f64s; f32s are computed in f64 and rounded."""
    first = operands[0]
    doubles = ", ".join(["f64"] * len(operands))
    b.functions[name] = f"llvm.func @{name}({doubles}) -> f64"
    if first.lanes is None:
        wide = [v if v.el == "f64" else b.cast("extf", v, "f64") for v in operands]
        result = b.call(name, wide, "f64", None)
        return result if first.el == "f64" else b.cast("truncf", result, "f32")
    each = f"{name}_{first.lanes}x{first.el}"
    b.functions[each] = _each_lane(each, name, first.el, first.lanes, len(operands))
    return b.call(each, operands, first.el, first.lanes)


def _each_lane(each: str, name: str, el: str, lanes: int, count: int) -> str:
    """A function that calls `name` in a loop over the lanes."""
    vector, array = f"vector<{lanes}x{el}>", f"!llvm.array<{lanes} x {el}>"
    parameters = ", ".join(f"%x{i}: {vector}" for i in range(count))
    attributes = 'attributes {passthrough = ["noinline", "nounwind"]}'
    lines = [
        f"llvm.func internal @{each}({parameters}) -> {vector} {attributes} {{",
        "%zero = arith.constant 0 : i64",
        "%one = arith.constant 1 : i64",
        f"%lanes = arith.constant {lanes} : i64",
    ]
    for i in range(count):
        lines += [
            f"%p{i} = llvm.alloca %one x {array} {{alignment = 64 : i64}} : (i64) -> !llvm.ptr",
            f"llvm.store %x{i}, %p{i} : {vector}, !llvm.ptr",
        ]
    lines.append("scf.for %i = %zero to %lanes step %one : i64 {")
    for i in range(count):
        lines += [
            f"%q{i} = llvm.getelementptr %p{i}[%i] : (!llvm.ptr, i64) -> !llvm.ptr, {el}",
            f"%v{i} = llvm.load %q{i} : !llvm.ptr -> {el}",
        ]
        lines += [f"%d{i} = arith.extf %v{i} : f32 to f64"] * (el == "f32")
    wide = "d" if el == "f32" else "v"
    values, types = ", ".join(f"%{wide}{i}" for i in range(count)), ", ".join(["f64"] * count)
    lines.append(f"%r = llvm.call @{name}({values}) : ({types}) -> f64")
    lines += ["%s = arith.truncf %r : f64 to f32"] * (el == "f32")
    lines += [
        f"llvm.store %{'s' if el == 'f32' else 'r'}, %q0 : {el}, !llvm.ptr",
        "}",
        f"%y = llvm.load %p0 : !llvm.ptr -> {vector}",
        f"llvm.return %y : {vector}",
        "}",
    ]
    return "\n".join(lines)
