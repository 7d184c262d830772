"""TTIR to Python: a function that takes memory, grid and arguments, and gives the one that runs a program."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from . import hardware
from .hardware import from_raw, raw_dtype
from .templates import BOOL_OPS, COMPARISONS, EXACT_REDUCTIONS, FLOAT_OPS, INT_OPS, OTHER_OPS, PROGRAM_OPS, View
from .ttir import VALUE, Block, Function, Op, Type


class CannotInterpret(RuntimeError):
    """The kernel uses something that has no meaning on a CPU, such as inline assembly."""


def _name(value: str) -> str:
    """The Python name of an SSA value."""
    return "v" + re.sub(r"\W", "_", value[1:].replace("-", "minus_"))


def _names(values: Iterable[str]) -> list[str]:
    return [_name(value) for value in values]


def _loop(start: Any, stop: Any, step: Any) -> Iterator[Any]:
    return map(type(start), range(int(start), int(stop), int(step)))


def _check(condition: Any, message: str) -> None:
    if not np.all(condition):
        raise AssertionError(message)


def _show(pid: tuple, prefix: str, *values: Any) -> None:
    print(f"({', '.join(map(str, pid))}){prefix}", *values)


def _constant(text: str, kind: Type) -> Any:
    """`dense<0xFF800000>`, `1.0e+00`, `true`, `dense<[1, 2]>` as a value of the type."""
    body = text[len("dense<") : -1] if text.startswith("dense<") else text
    numbers = [_number(token, kind.element) for token in re.findall(r"[^\s,\[\]]+", body)]
    if kind.shape is None:
        return numbers[0]
    return np.array(numbers, numbers[0].dtype).reshape(kind.shape if len(numbers) > 1 else (1,) * len(kind.shape))


def _number(token: str, element: str) -> Any:
    if token in ("true", "false"):
        return np.bool_(token == "true")
    dtype = raw_dtype(element)
    if element[0] == "i" or token.startswith("0x"):
        bits = np.array([int(token, 0) & (2 ** (dtype.itemsize * 8) - 1)], np.uint64)
        return from_raw(bits.astype(f"u{dtype.itemsize}").view(dtype), element)[0]
    if element.startswith("f8"):
        return hardware.to_f8(np.float32(token), element)
    if element == "bf16":  # written with as many digits as tell it from its neighbours
        return hardware.to_bf16(np.float32(token))
    return dtype.type(token)


class Translator:
    """Writes the Python of a module's functions; `translate` gives the function that makes a program.

    watched: before each access and each assertion, `memory.op` is set to its Op.
    """

    def __init__(self, functions: list[Function], *, watched: bool = False) -> None:
        self.functions = functions
        self.watched = watched
        self.callees = {function.name: f"f{i}" for i, function in enumerate(functions)}
        self.lines: list[str] = []
        self.depth = 0
        self.values: list[Any] = []  # constants and functions that the text refers to as `K[i]`
        self.labels: dict[str, tuple[int, list[str]]] = {}  # the blocks that a branch can go to, and their arguments
        self.yields: list[list[str]] = []  # what the innermost scf.yield assigns to
        self.regions = 0

    def translate(self) -> Callable[..., Any]:
        for function in self.functions:
            self._function(function)
        source = "\n".join(self.lines)
        namespace = {**vars(hardware), "loop": _loop, "check": _check, "show": _show, "K": self.values}
        (kernel,) = (function for function in self.functions if function.public)
        exec(compile(source, f"<{kernel.name} from TTIR>", "exec"), namespace)
        return namespace["make_program"]

    # Text

    def _line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def _assign(self, targets: list[str], values: list[str]) -> None:
        if targets:
            self._line(f"{', '.join(targets)} = {', '.join(values)}")

    def _indented(self, header: str, write: Callable[[], None]) -> None:
        self._line(header)
        self.depth += 1
        before = len(self.lines)
        write()
        if len(self.lines) == before:
            self._line("pass")
        self.depth -= 1

    def _keep(self, value: Any) -> str:
        self.values.append(value)
        return f"K[{len(self.values) - 1}]"

    # Functions and blocks

    def _function(self, function: Function) -> None:
        arguments = _names(function.arguments)
        if not function.public:
            header = f"def {self.callees[function.name]}({', '.join(['pid', 'grid', 'memory', *arguments])}):"
            self._indented(header, lambda: self._blocks(function.blocks))
            return
        header = f"def make_program({', '.join(['memory', 'grid', *arguments])}):"
        self._indented(header, lambda: self._kernel(function))

    def _kernel(self, function: Function) -> None:
        """What no program changes stands before `program`, once per launch."""
        known, entry, per_program = set(function.arguments), function.blocks[0], []
        for op in entry.ops:
            if _is_fixed(op, known):
                known.update(op.results)
                self._op(op)
            else:
                per_program.append(op)
        entry.ops = per_program
        self._indented("def program(pid):", lambda: self._blocks(function.blocks))
        self._line("return program")

    def _blocks(self, blocks: list[Block]) -> None:
        """One block is straight code; several are a loop over the number of the next block."""
        if len(blocks) == 1:
            self._ops(blocks[0])
            return
        outer, self.labels = self.labels, {b.label: (i, _names(b.arguments)) for i, b in enumerate(blocks)}
        self._line("block = 0")
        self._indented("while True:", lambda: self._dispatch(blocks))
        self.labels = outer

    def _dispatch(self, blocks: list[Block]) -> None:
        for i, block in enumerate(blocks):
            self._indented(f"{'el' if i else ''}if block == {i}:", functools.partial(self._ops, block))

    def _ops(self, block: Block) -> None:
        for op in block.ops:
            self._op(op)

    def _op(self, op: Op) -> None:
        write = getattr(self, "_write_" + op.name.replace(".", "_"), None)
        if write is not None:
            write(op)
            return
        text = self._expression(op)
        if self.watched and text.startswith(("memory.", "check(")):
            self._line(f"memory.op = {self._keep(op)}")
        self._line(f"{', '.join(_names(op.results))} = {text}" if op.results else text)

    def _expression(self, op: Op) -> str:
        operands = _names(op.operands)
        view = View(op, operands)
        if op.name in ("arith.cmpi", "arith.cmpf"):
            return COMPARISONS[f"{op.name} {op.text.split()[0].rstrip(',')}"].format(*self._widened(op, operands))
        if op.name in FLOAT_OPS:
            text = FLOAT_OPS[op.name].format(*self._widened(op, operands), op=view)
            if view.target == "bf16":
                return f"round_bf16({text})"
            return f"to_f8({text}, '{view.target}')" if view.target.startswith("f8") else text
        table = BOOL_OPS if view.target == "i1" and op.name in BOOL_OPS else INT_OPS
        for templates in (table, OTHER_OPS, PROGRAM_OPS):
            if op.name in templates:
                return templates[op.name].format(*operands, op=view)
        raise CannotInterpret(f"{op.name} has no meaning in the interpreter: {op.name}{op.text}")

    @staticmethod
    def _widened(op: Op, operands: list[str]) -> list[str]:
        """fp8 operands of arithmetic and comparisons are numbers, not bits."""
        element = op.types[0].element
        return [f"from_f8({name}, '{element}')" for name in operands] if element.startswith("f8") else operands

    # Operations with a text of their own

    def _write_arith_constant(self, op: Op) -> None:
        kind = op.types[0] if op.types else Type("i1")
        self._line(f"{_name(op.results[0])} = {self._keep(_constant(op.text.strip(), kind))}")

    def _write_tt_dot(self, op: Op) -> None:
        a, b, c = op.types
        tf32 = op.attribute("inputPrecision", "ieee") == "tf32"
        shapes, kinds = (a.extent, b.extent), (a.element, b.element, c.element)
        operands = ", ".join(_names(op.operands))
        self._line(f"{_name(op.results[0])} = dot({operands}, {shapes}, {kinds}, {tf32})")

    def _write_tt_dot_scaled(self, op: Op) -> None:
        """`tt.dot_scaled %a scale %s, %b, %c lhs = e2m1 rhs = bf16 {...}`: either scale may be missing."""
        types, operands, shapes, scales = iter(op.types), [], [], []
        for part in op.text.split(",")[:2]:
            value, *scale = _names(VALUE.findall(part))
            operands.append(value)
            shapes.append(next(types).extent)
            kind = next(types) if scale else None
            scales.append(f"({scale[0]}, {kind.extent}, '{kind.element}')" if kind else "None")
        forms = (op.attribute("lhs"), op.attribute("rhs"))
        packed = tuple(op.attribute(f"{side}_k_pack", "true") == "true" for side in ("lhs", "rhs"))
        a, b = operands
        c, (p, q) = _name(op.operands[-1]), scales
        self._line(f"{_name(op.results[0])} = dot_scaled({a}, {b}, {c}, {shapes}, {forms}, ({p}, {q}), {packed})")

    def _write_tt_extern_elementwise(self, op: Op) -> None:
        function = hardware.libdevice(op.attribute("symbol"), op.types[-1].element)
        if function is None:
            raise CannotInterpret(f"libdevice's {op.attribute('symbol')} has no counterpart in numpy or torch")
        self._line(f"{_name(op.results[0])} = {self._keep(function)}({', '.join(_names(op.operands))})[()]")

    def _write_tt_call(self, op: Op) -> None:
        callee = re.search(r'@("[^"]+"|[\w.$-]+)', op.text)
        assert callee, op.text
        arguments = ", ".join(["pid", "grid", "memory", *_names(op.operands)])
        call = f"{self.callees[callee[1].strip(chr(34))]}({arguments})"
        self._line(f"{', '.join(_names(op.results))} = {call}" if op.results else call)

    def _write_tt_reduce(self, op: Op) -> None:
        axis = View(op, []).axis
        size = op.types[0].extent[axis]
        first, *rest = op.regions[0][0].ops
        exact = EXACT_REDUCTIONS.get(first.name) if first.operands == op.regions[0][0].arguments else None
        plain = op.types[0].element != "i1" and not op.types[0].element.startswith("f8")  # an f8 is its bits
        if exact and len(rest) == 1 and plain:
            value = _name(op.operands[0])
            self._line(f"{_name(op.results[0])} = reduce_exact(np.{exact}, {axis}, {size}, {value})")
            return
        self._combine(op, "reduce", f"{axis}, {size}")

    def _write_tt_scan(self, op: Op) -> None:
        axis = View(op, []).axis
        reverse = op.attribute("reverse", "false") == "true"
        self._combine(op, "scan", f"{axis}, {op.types[0].extent[axis]}, {reverse}")

    def _write_tt_map_elementwise(self, op: Op) -> None:
        self._combine(op, "map_elementwise", f"{op.attribute('pack', '1')}, {op.types[0].extent}", each=False)

    def _combine(self, op: Op, function: str, parameters: str, each: bool = True) -> None:
        """`function` of the operands, with the region as a function in its own right."""
        region, self.regions = f"region{self.regions}", self.regions + 1
        blocks = op.regions[0]
        header = f"def {region}({', '.join(_names(blocks[0].arguments))}):"
        self._indented(header, lambda: self._blocks(blocks))
        if each and _branches(blocks):
            region = f"each({region})"
        operands = ", ".join(_names(op.operands))
        self._line(f"{', '.join(_names(op.results))}, = {function}({region}, {parameters}, {operands})")

    # Control flow

    def _write_scf_for(self, op: Op) -> None:
        if "unsigned" in op.text:
            raise CannotInterpret("a loop over unsigned bounds")
        variable, start, stop, step, *carried = _names(op.operands)
        self._assign(carried[0::2], carried[1::2])
        header = f"for {variable} in loop({start}, {stop}, {step}):"
        self._indented(header, lambda: self._region(op.regions[0], carried[0::2]))
        self._assign(_names(op.results), carried[0::2])

    def _write_scf_if(self, op: Op) -> None:
        results = _names(op.results)
        self._indented(f"if {_name(op.operands[0])}:", lambda: self._region(op.regions[0], results))
        if len(op.regions) > 1:
            self._indented("else:", lambda: self._region(op.regions[1], results))

    def _write_scf_while(self, op: Op) -> None:
        carried = _names(op.operands)
        before, after = op.regions
        passed = _names(after[0].arguments)

        def body() -> None:
            self._region(before, passed)  # ends in scf.condition, which may leave the loop
            self._region(after, carried[0::2])

        self._assign(carried[0::2], carried[1::2])
        self._indented("while True:", body)
        self._assign(_names(op.results), passed)

    def _region(self, blocks: list[Block], targets: list[str]) -> None:
        self.yields.append(targets)
        self._blocks(blocks)
        self.yields.pop()

    def _write_scf_yield(self, op: Op) -> None:
        self._assign(self.yields[-1], _names(op.operands))

    def _write_scf_condition(self, op: Op) -> None:
        condition, *passed = _names(op.operands)
        self._assign(self.yields[-1], passed)
        self._line(f"if not {condition}: break")

    def _write_cf_br(self, op: Op) -> None:
        (target,) = re.findall(r"(\^\w+)(?:\(([^)]*)\))?", op.text)
        self._jump(*target)

    def _write_cf_cond_br(self, op: Op) -> None:
        yes, no = re.findall(r"(\^\w+)(?:\(([^)]*)\))?", op.text)
        self._indented(f"if {_name(op.operands[0])}:", lambda: self._jump(*yes))
        self._indented("else:", lambda: self._jump(*no))

    def _jump(self, label: str, arguments: str) -> None:
        number, parameters = self.labels[label]
        self._assign(parameters, _names(VALUE.findall(arguments)))
        self._line(f"block = {number}")

    def _write_tt_return(self, op: Op) -> None:
        self._line(f"return {', '.join(_names(op.operands))}")

    def _write_region_return(self, op: Op) -> None:
        self._line(f"return {', '.join(_names(op.operands))},")

    _write_tt_reduce_return = _write_tt_scan_return = _write_tt_map_elementwise_return = _write_region_return


_PURE = ("arith.constant", "arith.cmpi", "arith.cmpf", "tt.extern_elementwise", "tt.dot", "tt.dot_scaled")


def _is_fixed(op: Op, known: set[str]) -> bool:
    """Does the operation give the same value in every program?"""
    pure = op.name in _PURE or any(op.name in table for table in (FLOAT_OPS, INT_OPS, OTHER_OPS))
    return pure and known.issuperset(op.operands)


def _branches(blocks: list[Block]) -> bool:
    """Does a region ask for the value of a condition, so that it cannot be given arrays?"""
    return len(blocks) > 1 or any(op.name.startswith(("scf.", "cf.", "tt.call")) for op in blocks[0].ops)
