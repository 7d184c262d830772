"""Element types of any bit width, shapes with symbolic sizes, and how they combine: as torch promotes and broadcasts.

`f16`, `bf16`, `i8`, `bool` ... are values of `DType`; `dtype("u3")` makes one of any width up to 64 bits.
"""

from __future__ import annotations

import contextvars
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import torch

from .errors import BadArgument, DTypesDisagree, ShapesDisagree, UnknownDType
from .index import Index, Poly, replace

Shape = tuple[Index, ...]

_TORCH = {
    "f64": torch.float64, "f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16,
    "f8e4m3": torch.float8_e4m3fn, "f8e5m2": torch.float8_e5m2,
    "i8": torch.int8, "i16": torch.int16, "i32": torch.int32, "i64": torch.int64,
    "u8": torch.uint8, "u16": torch.uint16, "u32": torch.uint32, "u64": torch.uint64,
    "bool": torch.bool,
}  # fmt: skip
_NAMES = {theirs: name for name, theirs in _TORCH.items()}
_TRITON = {
    "f64": "fp64", "f32": "fp32", "bf16": "bf16", "f16": "fp16", "f8e4m3": "fp8e4nv", "f8e5m2": "fp8e5", "bool": "i1",
}  # fmt: skip
_LANGUAGE = {
    "f64": "float64", "f32": "float32", "bf16": "bfloat16", "f16": "float16", "f8e4m3": "float8e4nv",
    "f8e5m2": "float8e5", "bool": "int1",
}  # fmt: skip


@dataclass(frozen=True)
class DType:
    """An element type. kind: 'f' float, 'i' signed, 'u' unsigned, 'b' bool. bits: 1 to 64."""

    name: str
    bits: int
    kind: str

    @cached_property
    def torch(self) -> torch.dtype | None:
        """torch's dtype of these values, None for widths that torch has no dtype for."""
        return _TORCH.get(self.name)

    @property
    def triton(self) -> str:
        """The name in a Triton signature: `*fp16` is a pointer to f16."""
        return _TRITON.get(self.name, self.name)

    @property
    def language(self) -> str:
        """The name in Triton's language: `tl.float16`."""
        return _LANGUAGE.get(self.name) or f"{'u' if self.kind == 'u' else ''}int{self.bits}"

    @property
    def is_float(self) -> bool:
        return self.kind == "f"

    @property
    def is_integer(self) -> bool:
        return self.kind in "iu"

    @property
    def is_bool(self) -> bool:
        return self.kind == "b"

    @property
    def bytes(self) -> int:
        """Bytes of one stored element (of those torch can store)."""
        return max(1, self.bits // 8)

    @property
    def computed(self) -> DType:
        """The type in which a kernel computes with these values: 16-bit floats and narrower in f32."""
        return f32 if self.is_float and self.bits < 32 else self

    def holds(self, other: DType) -> bool:
        """Whether every value of the other type is a value of this one."""
        if self is other:
            return True
        if self.is_float:
            digits, exponent = _SIGNIFICAND[self.name]
            if other.is_float:
                theirs = _SIGNIFICAND[other.name]
                return digits >= theirs[0] and exponent >= theirs[1]
            return digits >= other.bits - (other.kind == "i") and exponent >= 8
        if other.is_float or self.is_bool:
            return False
        if other.is_bool:
            return True
        if self.kind == "i":
            return self.bits >= other.bits + (other.kind == "u")
        return other.kind == "u" and self.bits >= other.bits

    @property
    def most_exact(self) -> int:
        """Up to which every whole number is one of a float type."""
        return 1 << _SIGNIFICAND[self.name][0]

    def __repr__(self) -> str:
        return self.name


# bits of the significand with the hidden one, bits of the exponent
_SIGNIFICAND = {"f64": (53, 11), "f32": (24, 8), "bf16": (8, 8), "f16": (11, 5), "f8e4m3": (4, 4), "f8e5m2": (3, 5)}
_FLOATS = {"f64": 64, "f32": 32, "bf16": 16, "f16": 16, "f8e4m3": 8, "f8e5m2": 8}


@cache
def _named(name: str) -> DType:
    if name in _FLOATS:
        return DType(name, _FLOATS[name], "f")
    if name == "bool":
        return DType("bool", 1, "b")
    match = re.fullmatch(r"([iu])([1-9][0-9]?)", name)
    if match and int(match[2]) <= 64:
        return DType(name, int(match[2]), match[1])
    raise UnknownDType(got=repr(name), known="f64 f32 bf16 f16 f8e4m3 f8e5m2 bool i1..i64 u1..u64")


def dtype(value: DType | torch.dtype | str) -> DType:
    """The DType of a name such as "f16" or "u3", or of a torch dtype.

    Raises UnknownDType for what has no counterpart (complex, quantised)."""
    if isinstance(value, DType):
        return value
    if isinstance(value, str):
        return _named(value)
    if value in _NAMES:
        return _named(_NAMES[value])
    raise UnknownDType(got=repr(value), known=" ".join(_TORCH))


f64, f32, bf16, f16, f8e4m3, f8e5m2 = (_named(n) for n in _FLOATS)
HALVES = ("f16", "bf16")  # by name
NARROW = (*HALVES, "f8e4m3", "f8e5m2", "i8")  # of whose products there are many more in a time than of f32's
i1, i8, i16, i32, i64 = (_named(n) for n in ("i1", "i8", "i16", "i32", "i64"))
EIGHTS = (i8, f8e4m3, f8e5m2)  # of whose numbers there are products
DEPTH_OF_EIGHTS = 32  # the least that a GPU's product of them sums over
u1, u8, u16, u32, u64 = (_named(n) for n in ("u1", "u8", "u16", "u32", "u64"))
bool_ = _named("bool")
STORED: tuple[DType, ...] = tuple(_named(n) for n in _TORCH)


@dataclass(frozen=True)
class Type:
    """What is known of a tensor: element type and shape. weak: it came from a Python number, and promotes like one."""

    dtype: DType
    shape: Shape = ()
    weak: bool = False

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> Index:
        """The number of elements."""
        total: Index = 1
        for n in self.shape:
            total = total * n
        return total

    def replace(self, mapping: dict) -> Type:
        return Type(self.dtype, tuple(replace(n, mapping) for n in self.shape), self.weak)

    def __repr__(self) -> str:
        return f"{self.dtype}[{', '.join(map(repr, self.shape))}]" + ("w" if self.weak else "")


# ---- promotion ------------------------------------------------------------------------------------------------------


def promote(types: Sequence[Type], op: str = "promote") -> DType:
    """The common dtype of operands, exactly as torch.result_type: tensors with dimensions outrank 0-dim tensors, which
    outrank Python numbers, within one category (bool < integer < float).

    Raises DTypesDisagree where torch has no common dtype (float8 with another float, unsigned 16 to 64 bits)."""
    ranks: list[DType | None] = [None, None, None]
    for t in types:
        rank = 2 if t.weak else (1 if t.rank == 0 else 0)
        ranks[rank] = _pair(ranks[rank], _weak_default(t.dtype) if t.weak else t.dtype, op)
    return _combine(ranks[0], _combine(ranks[1], ranks[2], op), op) or f32


def _weak_default(dt: DType) -> DType:
    return dtype(torch.get_default_dtype()) if dt.is_float else dt


def _combine(higher: DType | None, lower: DType | None, op: str) -> DType | None:
    if higher is None or lower is None:
        return higher or lower
    if higher.is_float or not (higher.is_bool or lower.is_float):
        return higher
    return _pair(higher, lower, op)


def _pair(a: DType | None, b: DType, op: str) -> DType:
    if a is None or a is b:
        return b
    if a.torch is None or b.torch is None:
        raise DTypesDisagree(op=op, rule="packed widths do not promote", got=f"{a} and {b}", hint="Cast one of them.")
    try:
        return dtype(torch.promote_types(a.torch, b.torch))
    except RuntimeError as error:
        raise DTypesDisagree(op=op, rule="the dtypes must have a common one", got=f"{a} and {b}",
                             hint="Cast one of them with .to(dtype).") from error  # fmt: skip


# ---- sizes ----------------------------------------------------------------------------------------------------------

# While a function is traced, two sizes that must be equal and have the same value now are made equal by a guard.
equate: contextvars.ContextVar[Callable[[Index, Index], bool] | None] = contextvars.ContextVar("equate", default=None)

# A size that has to be a number is one from then on, under a guard too.
fix: contextvars.ContextVar[Callable[[Index], int] | None] = contextvars.ContextVar("fix", default=None)


def as_number(size: Index) -> Index:
    """A size as a number: taken to be what it is in this call while tracing, else as it is."""
    guard = fix.get()
    return size if guard is None or isinstance(size, int) else guard(size)


def same_size(a: Index, b: Index) -> bool:
    """Whether two sizes are equal: known to be, or taken to be under a guard while tracing."""
    if a == b:
        return True
    if isinstance(a, int) and isinstance(b, int):
        return False
    guard = equate.get()
    return guard is not None and guard(a, b)


def broadcast(shapes: Iterable[Shape], op: str, hint: str = "") -> Shape:
    """The common shape of operands, aligned from the right, 1 standing for any size. Raises ShapesDisagree."""
    shapes = list(shapes)
    rank = max((len(s) for s in shapes), default=0)
    result: list[Index] = [1] * rank
    for shape in shapes:
        for at, size in enumerate(shape, rank - len(shape)):
            if result[at] == 1:
                result[at] = size
            elif size != 1 and not same_size(result[at], size):
                got = " and ".join(show_shape(s) for s in shapes)
                raise ShapesDisagree(op=op, rule="operands must broadcast", got=got, hint=hint or _line_up(shapes))
    return tuple(result)


def _line_up(shapes: list[Shape]) -> str:
    if len(shapes) == 2 and len(shapes[0]) != len(shapes[1]):
        long, short = sorted(shapes, key=len, reverse=True)
        if len(short) == 1 and short[0] in long[:-1]:
            return "Write b[:, None] to line up the rows."
    return "Sizes are compared from the last dimension; each pair must be equal, or one of them 1."


def show_shape(shape: Shape) -> str:
    return "[" + ", ".join(map(repr, shape)) + "]"


def dim_in(dim: object, rank: int, op: str) -> int:
    """A dimension number, counted from the front. Raises DimOutOfRange, BadArgument."""
    from .errors import DimOutOfRange

    if isinstance(dim, bool) or not isinstance(dim, int):
        raise BadArgument(op=op, name="dim", rule="an int", got=repr(dim), hint="")
    room = max(rank, 1)
    if not -room <= dim < room:
        raise DimOutOfRange(op=op, low=-room, high=room - 1, got=dim)
    return dim % room


def is_symbolic(shape: Shape) -> bool:
    return any(isinstance(n, Poly) for n in shape)
