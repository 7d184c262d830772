"""A kernel's TTIR, made by Triton's front end for no particular GPU, as a tree of operations.

TTIR text has one operation a line; regions are indented between braces. The parser knows no operation by name: the
meaning of a line's text is its reader's affair.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from triton._C.libtriton import ir, passes
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import JITFunction

Result = TypeVar("Result")


@dataclass(frozen=True)
class Type:
    """`tensor<16x!tt.ptr<f32>>`, `i32`, ..."""

    element: str  # "f32", "i1", "f8E5M2", ...; "ptr" for a pointer
    shape: tuple[int, ...] | None = None  # None for a scalar
    pointee: str = ""

    @property
    def extent(self) -> tuple[int, ...]:
        """The shape, () for a scalar."""
        return self.shape or ()


@dataclass
class Op:
    """`%5 = arith.cmpi slt, %3, %4 : tensor<16xi32>`"""

    name: str
    results: list[str]
    text: str  # what stands between the name and the types
    operands: list[str]  # every value in the text
    types: list[Type]
    regions: list[list[Block]] = field(default_factory=list)
    line: str = ""  # `file.py:12` of the kernel, where the text says so
    stack: tuple[str, ...] = ()  # the same of each function it stands in, the innermost first

    def attribute(self, name: str, default: str | None = None) -> str:
        """The text of `name = text`, without quotes; the numbers of an array attribute."""
        found = re.search(rf'\b{name}\s*=\s*(?:array<\w+: ([^>]*)>|"?([\w.-]+))', self.text)
        if found is None:
            assert default is not None, f"no attribute {name}: {self.name}{self.text}"
            return default
        return found[1] or found[2]


@dataclass
class Block:
    """A label with its arguments, and the operations up to the next."""

    label: str
    arguments: list[str]
    ops: list[Op] = field(default_factory=list)
    types: list[Type] = field(default_factory=list)  # of the arguments


@dataclass
class Function:
    """A `tt.func`; the kernel is the public one."""

    name: str
    arguments: list[str]
    blocks: list[Block]
    public: bool
    types: list[Type] = field(default_factory=list)  # of the arguments


def in_any_thread(front_end: Callable[[], Result]) -> Result:
    """What Triton's front end gives, also when another thread is in it.

    CPython 3.11 counts how deep `ast.parse` is for all threads together, and raises SystemError where two meet.
    """
    for _ in range(100):
        try:
            return front_end()
        except Exception as error:
            if "AST constructor recursion depth mismatch" not in str(error):
                raise
    return front_end()


def ttir_of(
    fn: JITFunction, signature: Mapping[str, str], constexprs: Mapping[str, object], *, lines: bool = False
) -> str:
    """The TTIR that a CUDA target starts from, with helpers inlined, repeated work removed and descriptors lowered.

    `signature` has the Triton types of the parameters that are not in `constexprs`. Asserts are kept, checks of
    integer overflow are not made, and every fp8 type is allowed. `lines`: each operation says where it comes from.
    """
    source = ASTSource(fn, {name: signature.get(name, "constexpr") for name in fn.arg_names}, dict(constexprs))
    target = GPUTarget("cuda", 90, 32)
    backend: Any = make_backend(target)
    options = backend.parse_options({"debug": True, "sanitize_overflow": False, "enable_fp_fusion": True})
    options = dataclasses.replace(options, supported_fp8_dtypes=("fp8e4nv", "fp8e5", "fp8e4b8", "fp8e5b16"))
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    codegen = backend.get_codegen_implementation(options)
    module = in_any_thread(lambda: source.make_ir(target, options, codegen, backend.get_module_map(), context))
    simplify(module, context)
    return str(module) if lines else module.str_nodebug()


def simplify(module: Any, context: Any) -> None:
    """Inlines helpers, removes repeated work, and makes pointers of descriptors and of block pointers."""
    manager = ir.pass_manager(context)
    passes.common.add_inliner(manager)
    passes.ttir.add_rewrite_tensor_descriptor_to_pointer(manager)
    if hasattr(passes.ttir, "add_rewrite_tensor_pointer"):  # Triton 3.6 and 3.7 have operations for these
        passes.ttir.add_rewrite_tensor_pointer(manager)
    for add in (passes.common.add_canonicalizer, passes.common.add_cse, passes.common.add_licm):
        add(manager)
    passes.common.add_symbol_dce(manager)
    manager.run(module, "simplify")


def parse(text: str) -> list[Function]:
    """The functions of a module."""
    places = _places(text)
    lines = iter([_placed(line.strip(), places) if places else (line.strip(), ()) for line in text.splitlines()])
    functions = []
    for line, _ in lines:
        if line.startswith("tt.func"):
            match = _FUNCTION.match(line)
            assert match and line.endswith("{"), f"not a function: {line}"
            blocks, _ = _blocks(lines)
            functions.append(Function(match[2].strip('"'), VALUE.findall(match[3]), blocks, match[1] == "public",
                                      _types(_ATTRIBUTES.sub("", match[3]))))  # fmt: skip
    return functions


_PLACE = re.compile(r"^(#loc\d*) = loc\((.*)\)$", re.MULTILINE)
_FILE = re.compile(r'"([^"]+)":(\d+)')
_LOCATION = re.compile(r"\s*loc\((#loc\d*|unknown|\"[^()]*(?:\([^()]*\))?)\)")


Stack = tuple[str, ...]  # `file.py:12` of a function, then of the call of it, ...


def _places(text: str) -> dict[str, Stack]:
    """`#loc7` -> `file.py:12`: of a name's place, the place it refers to; of a call's, those inside before its own."""
    bodies = dict(_PLACE.findall(text))
    return {name: _stack(name, bodies) for name in bodies}


def _stack(name: str, bodies: Mapping[str, str]) -> Stack:
    body = bodies.get(name, "")
    if found := _FILE.search(body):
        return (f"{found[1]}:{found[2]}",)
    others = re.findall(r"#loc\d*", body)
    others = others if body.startswith("callsite") else others[-1:]
    return tuple(place for other in others for place in _stack(other, bodies))


def _placed(line: str, places: Mapping[str, Stack]) -> tuple[str, Stack]:
    """A line without what it says of its place, and the place."""
    found = _LOCATION.findall(line)
    return _LOCATION.sub("", line), places.get(found[-1], ()) if found else ()


VALUE = re.compile(r"%[\w$.-]+(?:#\d+)?")
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_OP = re.compile(r'(?:(%[\w$.:-]+(?:, %[\w$.:-]+)*) = )?"?([\w.]+)"?(.*)')
_FUNCTION = re.compile(r'tt\.func (public|private)? ?@("[^"]+"|[\w.$-]+)\((.*?)\)(?: ->|\s+attributes|\s*\{)')
_ATTRIBUTES = re.compile(r"\{[^{}]*\}")  # of an argument: `{tt.divisibility = 16 : i32}`
_POINTER = r"!tt\.ptr<(\w+)(?:, \d+)?>"  # with an address space
_TYPE = re.compile(rf"tensor<((?:\d+x)*)(?:{_POINTER}|(\w+))>|{_POINTER}|\b([if]\d\w*|bf16)\b")


def _blocks(lines: Iterator[tuple[str, Stack]]) -> tuple[list[Block], tuple[str, Stack]]:
    """The blocks up to the line that closes their region, and that line."""
    blocks = [Block("^entry", [])]
    for line, place in lines:
        if line.startswith("}"):
            return blocks, (line, place)
        if line.startswith("^"):
            head = line.partition("//")[0]
            named = Block(head.partition("(")[0].strip(" :"), VALUE.findall(head), types=_types(head))
            blocks = [*blocks, named] if blocks[0].ops else [named]
        elif line:
            blocks[-1].ops.append(_op(line, place, lines))
    raise AssertionError("a region is not closed")


def _op(line: str, place: Stack, lines: Iterator[tuple[str, Stack]]) -> Op:
    match = _OP.match(line)
    assert match, f"not an operation: {line}"
    named, name, rest = match.groups()
    regions = []
    if rest.endswith("{"):
        rest, close = rest[:-1].rstrip(" ("), "{"
        while close.endswith("{"):  # `} else {`, `} do {`
            blocks, (close, place) = _blocks(lines)
            regions.append(blocks)
        rest += close[2:] if close.startswith("})") else ""
    # A branch writes the types of its arguments where they stand; every other operation writes types at the end.
    text, colon, types = rest.rpartition(" : ") if not name.startswith("cf.") else (rest, "", "")
    if not colon:
        text, types = rest, ""
    values, line = VALUE.findall(STRING.sub("", text)), place[-1] if place else ""
    return Op(name, _results(named), text, values, _types(types), regions, line, place)


def _results(named: str | None) -> list[str]:
    """`%5` -> [%5];  `%5:2` -> [%5#0, %5#1];  `%lhs, %rhs` -> [%lhs, %rhs]"""
    results = []
    for part in named.split(", ") if named else []:
        name, _, count = part.partition(":")
        results += [f"{name}#{i}" for i in range(int(count))] if count else [name]
    return results


def _types(text: str) -> list[Type]:
    found = []
    for extents, tensor_pointee, tensor_element, pointee, element in _TYPE.findall(text):
        in_tensor = bool(tensor_pointee or tensor_element)
        shape = tuple(map(int, extents.split("x")[:-1])) if in_tensor else None
        found.append(Type(tensor_element or element or "ptr", shape, tensor_pointee or pointee))
    return found
