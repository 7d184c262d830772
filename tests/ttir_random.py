"""Random kernels in TTIR, which ttir_fuzz.py compiles for the CPU and interprets.

A kernel is made so that one result is right: accesses stay inside their arguments, lanes of a store have addresses of
their own, a masked load says what the other lanes are. A value carries what is known of it (`Facts`): whole numbers
small enough that a sum in any order is exact, or the relative error that two right answers may differ by.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fusedsl.codegen import hardware

INTS = ("i8", "i16", "i32", "i64")
FLOATS = ("f16", "bf16", "f32", "f64")
SMALL_FLOATS = ("f8E4M3FN", "f8E5M2")
ELEMENTS = (*INTS, *FLOATS, *SMALL_FLOATS)
BYTES = {"i1": 1, "i8": 1, "i16": 2, "i32": 4, "i64": 8, "f16": 2, "bf16": 2, "f32": 4, "f64": 8}
BYTES |= dict.fromkeys(SMALL_FLOATS, 1)
MANTISSA = {"f16": 11, "bf16": 8, "f32": 24, "f64": 53, "f8E4M3FN": 4, "f8E5M2": 3}
BEFORE, SPAN = 512, 4096  # elements of an argument before its address, and in all
LARGEST = 1024  # elements of a tensor

# ---------------------------------------------------------------------------------------------------------------------
# What is known of values
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """low, high   of an integer; of a pointer, in elements from its argument
    bound       a float is a whole number of at most this magnitude
    error       relative to which two right answers may differ
    positive    no element is negative
    zero        the sign of a zero is left open
    argument    that a pointer points into
    distinct    no two elements of a pointer are the same
    """

    low: int = 0
    high: int = 0
    bound: int | None = None
    error: float = 0.0
    positive: bool = False
    zero: bool = False
    argument: int = -1
    distinct: bool = False

    @property
    def exact(self) -> bool:
        return self.error == 0 and not self.zero


def any_of(element: str) -> Facts:
    """Nothing is known."""
    if element[0] == "i":
        return between(element, None, None)
    return Facts()


def between(element: str, low: int | None, high: int | None) -> Facts:
    """An integer in a range, or any of its type where the range is wider than that."""
    if element == "i1":
        return Facts(0, 1)
    last = (1 << (int(element[1:]) - 1)) - 1
    if low is None or high is None or low < -last - 1 or high > last:
        return Facts(-last - 1, last)
    return Facts(low, high)


def either(a: Facts, b: Facts) -> Facts:
    """What holds for both."""
    bound = None if a.bound is None or b.bound is None else max(a.bound, b.bound)
    return Facts(min(a.low, b.low), max(a.high, b.high), bound, max(a.error, b.error), a.positive and b.positive,
                 a.zero or b.zero, a.argument if a.argument == b.argument else -1)  # fmt: skip


@dataclass(eq=False)
class Value:
    name: str
    element: str  # of a pointer `*` and what it points to
    shape: tuple[int, ...] | None
    facts: Facts
    used: bool = False

    @property
    def type(self) -> str:
        return typed(self.element, self.shape)

    @property
    def extent(self) -> tuple[int, ...]:
        return self.shape or ()


def typed(element: str, shape: tuple[int, ...] | None) -> str:
    written = f"!tt.ptr<{element[1:]}>" if element[0] == "*" else element
    return written if shape is None else f"tensor<{'x'.join([*map(str, shape), written])}>"


@dataclass
class Argument:
    """kind: `state` any numbers, loaded and stored; `small` few whole numbers, loaded; `out` only stored; `number`"""

    element: str
    kind: str
    start: int = 0  # bytes into the memory
    number: Any = 0
    error: float = 0.0  # of what was stored
    filled: int = 0  # elements of an `out` that stores have taken

    @property
    def type(self) -> str:
        return typed(self.element if self.kind == "number" else f"*{self.element}", None)


@dataclass
class Case:
    seed: int
    text: str
    arguments: list[Argument]
    grid: tuple[int, int, int]
    size: int  # bytes of memory
    simplify: bool  # to be passed through what follows the front end

    def memory(self) -> np.ndarray:
        """The bytes that a launch starts from."""
        rng = np.random.default_rng(self.seed)
        memory = np.zeros(self.size, np.uint8)
        for argument in self.arguments:
            if argument.kind != "number":
                raw = _numbers(rng, argument.element, argument.kind, SPAN)
                start = argument.start - BEFORE * BYTES[argument.element]
                memory[start : start + raw.nbytes] = raw.view(np.uint8)
        return memory


def _numbers(rng: np.random.Generator, element: str, kind: str, count: int) -> np.ndarray:
    if element[0] == "i":
        if element == "i1":
            return rng.integers(0, 2, count).astype(np.uint8)
        if kind == "small":
            return rng.integers(0, 64, count).astype(f"i{BYTES[element]}")
        raw = rng.integers(0, 256, count * BYTES[element], dtype=np.uint8).view(f"i{BYTES[element]}")
        little = rng.integers(-4, 5, count).astype(raw.dtype)
        edge = np.array([np.iinfo(raw.dtype).min, np.iinfo(raw.dtype).max, 0, -1], raw.dtype)[rng.integers(0, 4, count)]
        return np.choose(rng.choice(3, count, p=[0.45, 0.45, 0.1]), [raw, little, edge]).astype(raw.dtype)
    if kind == "small":
        numbers = rng.integers(-4, 5, count).astype(np.float32)
    else:
        special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-42, 1.0], np.float32)[rng.integers(0, 7, count)]
        numbers = np.choose(rng.choice(4, count, p=[0.5, 0.3, 0.1, 0.1]), [
            (rng.standard_normal(count) * 4).astype(np.float32), rng.integers(-4, 5, count).astype(np.float32),
            (rng.standard_normal(count) * 1e4).astype(np.float32), special])  # fmt: skip
    if element in SMALL_FLOATS:
        return np.asarray(hardware.to_f8(numbers, element))
    if element == "bf16":
        return np.asarray(hardware.to_raw(hardware.round_bf16(numbers), "bf16"))
    with np.errstate(all="ignore"):
        return numbers.astype({"f16": np.float16, "f32": np.float32, "f64": np.float64}[element])


# ---------------------------------------------------------------------------------------------------------------------
# The generator
# ---------------------------------------------------------------------------------------------------------------------

_INT_BINARY = ("addi", "subi", "muli", "andi", "ori", "xori", "maxsi", "minsi", "maxui", "minui", "shli", "shrui",
               "shrsi", "divsi", "divui", "remsi", "remui")  # fmt: skip
_FLOAT_BINARY = ("addf", "subf", "mulf", "divf", "maxnumf", "minnumf", "maximumf", "minimumf", "remf")
_LONG = ((128,), (256,), (512,), (2, 128), (4, 128), (128, 2), (2, 2, 128))  # several chunks of a row
_INT_PREDICATES = ("eq", "ne", "slt", "sle", "sgt", "sge", "ult", "ule", "ugt", "uge")
_FLOAT_PREDICATES = ("oeq", "ogt", "oge", "olt", "ole", "one", "ord", "ueq", "ugt", "uge", "ult", "ule", "une", "uno")


class Generator:
    """Writes one kernel."""

    def __init__(self, seed: int) -> None:
        self.seed, self.rng = seed, random.Random(seed)
        self.lines: list[str] = []
        self.scopes: list[list[Value]] = [[]]
        self.names = itertools.count()
        self.arguments: list[Argument] = []
        self.depth = 0
        self.pointers: dict[int, Value] = {}
        self.shapes = self._shapes()
        self.grid = self.rng.choice([(1, 1, 1), (1, 1, 1), (2, 1, 1), (3, 1, 1), (2, 2, 1), (1, 2, 2)])
        self.may_fail = self.grid == (1, 1, 1) and self.rng.random() < 0.15
        self.statements = [
            (10, self.elementwise), (3, self.cast), (3, self.view), (4, self.load_some), (4, self.store_some),
            (2, self.reduction), (1, self.scan), (1, self.product), (2.5, self.loop), (2, self.branch),

            (0.7, self.loop_while), (1, self.softmax), (1, self.in_place), (0.5, self.table), (0.4, self.check),
            (0.5, self.pointer_choice), (1, self.mask_some), (0.5, self.function), (0.3, self.atomic),
            (1.5, self.masked), (0.7, self.exchange), (1, self.loop_of_pointers),
        ]  # fmt: skip
        self.nests = (self.loop, self.branch, self.loop_while, self.loop_of_pointers)

    def _shapes(self) -> list[tuple[int, ...]]:
        rng, found = self.rng, []
        extents = [1, 2, 4, 8, 16, 32, 64]
        if rng.random() < 0.4:
            found.append(rng.choice(_LONG))
        count = len(found) + rng.randint(2, 4)
        while len(found) < count:
            rank = rng.choice([1, 1, 2, 2, 3])
            shape = tuple(rng.choice(extents) for _ in range(rank)) if rank > 1 else (rng.choice([*extents, 128, 256]),)
            if np.prod(shape) <= LARGEST:
                found.append(shape)
        return found

    # -- text

    def line(self, text: str) -> None:
        self.lines.append("  " * (len(self.scopes) + 1) + text)

    def name(self) -> str:
        return f"%v{next(self.names)}"

    def value(self, name: str, element: str, shape: tuple[int, ...] | None, facts: Facts | None = None) -> Value:
        made = Value(name, element, shape, facts if facts is not None else any_of(element))
        self.scopes[-1].append(made)
        return made

    def op(self, text: str, element: str, shape: tuple[int, ...] | None, facts: Facts | None = None) -> Value:
        name = self.name()
        self.line(f"{name} = {text}")
        return self.value(name, element, shape, facts)

    def use(self, *values: Value) -> str:
        for value in values:
            value.used = True
        return ", ".join(value.name for value in values)

    @contextmanager
    def region(self) -> Iterator[None]:
        self.scopes.append([])
        self.depth += 1
        yield
        self.depth -= 1
        self.scopes.pop()

    # -- choices

    def visible(self, holds: Callable[[Value], bool]) -> list[Value]:
        return [v for scope in self.scopes for v in scope if holds(v)]

    def pick(self, values: Sequence[Value]) -> Value:
        """One of them, more likely a late or an unused one."""
        late = values[-6:]
        fresh = [v for v in values if not v.used]
        return self.rng.choice(self.rng.choice([pool for pool in (late, fresh, values) if pool]))

    def shape(self) -> tuple[int, ...]:
        return self.rng.choice(self.shapes)

    def constant(self, element: str, shape: tuple[int, ...] | None, number: Any = None) -> Value:
        rng = self.rng
        if element[0] == "i":
            if number is None:
                bits = 1 if element == "i1" else int(element[1:])
                last = (1 << (bits - 1)) - 1
                number = rng.choice([0, 1, 2, 3, 7, -1, -5, 16, last, -last - 1, rng.randint(-last - 1, last)])
            if element == "i1":
                number = bool(number & 1) if not isinstance(number, bool) else number
                text, facts = str(number).lower(), Facts(int(number), int(number))
            else:
                text, facts = str(number), Facts(number, number)
        else:
            if number is None:
                number = rng.choice([0.0, 1.0, -1.0, 2.0, 0.5, -3.0, 4.0, 0.1, "inf", "-inf", "nan", "-0"])
            text, facts = _float_text(number, element)
        if element == "i1" and shape is None:
            return self.op(f"arith.constant {text}", element, shape, facts)
        written = text if shape is None else f"dense<{text}>"
        return self.op(f"arith.constant {written} : {typed(element, shape)}", element, shape, facts)

    def scalar(self, element: str, holds: Callable[[Value], bool] = lambda v: True) -> Value:
        found = self.visible(lambda v: v.element == element and v.shape is None and holds(v))
        if found and self.rng.random() < 0.7:
            return self.pick(found)
        for _ in range(9):
            made = self.constant(element, None)
            if holds(made):
                return made
        raise Impossible

    def scalar_between(self, low: int, high: int, element: str = "i32") -> Value:
        """A scalar integer in a range: known to be, or made so."""
        found = self.visible(
            lambda v: v.element == element and v.shape is None and low <= v.facts.low and v.facts.high <= high
        )
        roll = self.rng.random()
        if found and roll < 0.5:
            return self.pick(found)
        width = (high - low + 1).bit_length() - 1
        if roll < 0.75 and width > 0:
            wild = self.scalar(element)
            part = self.binary("andi", wild, self.constant(element, None, (1 << width) - 1))
            return self.binary("addi", part, self.constant(element, None, low)) if low else part
        return self.constant(element, None, self.rng.randint(low, high))

    def tensor(self, element: str, shape: tuple[int, ...], holds: Callable[[Value], bool] = lambda v: True) -> Value:
        """A tensor of a type: one that is there, or one made of something."""
        rng = self.rng
        found = self.visible(lambda v: v.element == element and v.shape == shape and holds(v))
        if found and rng.random() < 0.75:
            return self.pick(found)
        ways = [self._load_one, self._load_one, self._splat_one, self._spread_one, self._constant_one, self._cast_one]
        for _ in range(12):
            made = rng.choice(ways)(element, shape)
            if made is not None and holds(made):
                return made
        if found:
            return self.pick(found)
        raise Impossible

    def _load_one(self, element: str, shape: tuple[int, ...]) -> Value | None:
        if element == "i1":
            return self.mask(shape)
        found = [i for i, a in enumerate(self.arguments) if a.element == element and a.kind in ("state", "small")]
        return self.load(self.tile(self.rng.choice(found), shape, distinct=False)) if found else None

    def _splat_one(self, element: str, shape: tuple[int, ...]) -> Value:
        return self.splat(self.scalar(element), shape)

    def _constant_one(self, element: str, shape: tuple[int, ...]) -> Value:
        return self.constant(element, shape)

    def _cast_one(self, element: str, shape: tuple[int, ...]) -> Value | None:
        found = self.visible(lambda v: v.shape == shape and v.element != element and v.element[0] != "*")
        return self.converted(self.pick(found), element) if found else None

    def _spread_one(self, element: str, shape: tuple[int, ...]) -> Value | None:
        """A lower rank's value, or a range, along one dimension of a shape."""
        d = self.rng.randrange(len(shape))
        found = self.visible(lambda v: v.element == element and v.shape == (shape[d],))
        if found and self.rng.random() < 0.7:
            return self.spread(self.pick(found), shape, d)
        if element in ("i32", "i64", "f32"):
            return self.converted(self.spread(self.range(shape[d]), shape, d), element)
        return None

    # -- elementwise

    def splat(self, scalar: Value, shape: tuple[int, ...] | None) -> Value:
        if shape is None:
            return scalar
        text = f"tt.splat {self.use(scalar)} : {scalar.type} -> {typed(scalar.element, shape)}"
        return self.op(text, scalar.element, shape, replace(scalar.facts, distinct=False))

    def range(self, extent: int, start: int = 0) -> Value:
        text = f"tt.make_range {{end = {start + extent} : i32, start = {start} : i32}} : tensor<{extent}xi32>"
        return self.op(text, "i32", (extent,), Facts(start, start + extent - 1, distinct=True))

    def spread(self, x: Value, shape: tuple[int, ...], d: int) -> Value:
        """A tensor of one dimension as dimension `d` of a shape."""
        assert x.shape == (shape[d],)
        order = [k for k in range(len(shape)) if k != d]
        for k in order:
            assert x.shape is not None
            at = k if k < d else len(x.shape)
            grown = (*x.shape[:at], 1, *x.shape[at:])
            text = f"tt.expand_dims {self.use(x)} {{axis = {at} : i32}} : {x.type} -> {typed(x.element, grown)}"
            x = self.op(text, x.element, grown, x.facts)
        return self.broadcast(x, shape)

    def broadcast(self, x: Value, shape: tuple[int, ...]) -> Value:
        if x.shape == shape:
            return x
        text = f"tt.broadcast {self.use(x)} : {x.type} -> {typed(x.element, shape)}"
        return self.op(text, x.element, shape, replace(x.facts, distinct=False))

    def binary(self, name: str, x: Value, y: Value) -> Value:
        facts = _int_facts(name, x, y) if x.element[0] == "i" else _float_facts(name, x, y)
        return self.op(f"arith.{name} {self.use(x, y)} : {x.type}", x.element, x.shape, facts)

    def like(self, x: Value, element: str | None = None, holds: Callable[[Value], bool] = lambda v: True) -> Value:
        element = element or x.element
        return self.scalar(element, holds) if x.shape is None else self.tensor(element, x.shape, holds)

    def something(self, holds: Callable[[Value], bool] = lambda v: True) -> Value:
        """A number, mostly a tensor."""
        found = self.visible(lambda v: v.element[0] != "*" and holds(v))
        tensors = [v for v in found if v.shape is not None]
        roll = self.rng.random()
        if tensors and roll < 0.6:
            return self.pick(tensors)
        if found and roll < 0.7:
            return self.pick(found)
        for _ in range(9):
            made = self.tensor(self.rng.choice([*self.elements, "i1", "i32", "f32"]), self.shape())
            if holds(made):
                return made
        raise Impossible

    @property
    def elements(self) -> list[str]:
        return [a.element for a in self.arguments if a.kind in ("state", "small") and a.element != "i1"]

    def elementwise(self) -> None:
        for _ in range(self.rng.randint(1, 3)):
            self._elementwise()

    def _elementwise(self) -> None:
        rng, x = self.rng, self.something()
        if x.element == "i1":
            if rng.random() < 0.5:
                self.binary(rng.choice(["andi", "ori", "xori"]), x, self.like(x))
            else:
                self.select(x)
            return
        roll = rng.random()
        if roll < 0.15:
            self.compare(x)
        elif roll < 0.3:
            self.select(self.like(x, "i1"), x)
        elif x.element[0] == "i":
            self._int_op(x)
        else:
            self._float_op(x)

    def _int_op(self, x: Value) -> None:
        rng = self.rng
        if rng.random() < 0.1:
            self.op(f"math.absi {self.use(x)} : {x.type}", x.element, x.shape)
            return
        if rng.random() < 0.07 and x.element in ("i32", "i64"):
            y = self.like(x)
            self.op(f"tt.mulhiui {self.use(x, y)} : {x.type}", x.element, x.shape)
            return
        name, y = rng.choice(_INT_BINARY), self.like(x)
        if name in ("divsi", "divui", "remsi", "remui") and rng.random() < 0.8:
            y = self.binary("ori", y, self.constant(y.element, y.shape, 1))
        if name.startswith("sh") and rng.random() < 0.7:
            y = self.binary("andi", y, self.constant(y.element, y.shape, 7))
        self.binary(name, *rng.sample([x, y], 2) if name[:3] not in ("div", "rem", "shl", "shr") else (x, y))

    def _float_op(self, x: Value) -> None:
        rng, roll = self.rng, self.rng.random()
        wide = x.element in ("f32", "f64")
        if roll < 0.15:
            self.op(f"arith.negf {self.use(x)} : {x.type}", x.element, x.shape, replace(x.facts, positive=False))
        elif roll < 0.25:
            facts = replace(x.facts, positive=True, zero=False)
            self.op(f"math.absf {self.use(x)} : {x.type}", x.element, x.shape, facts)
        elif roll < 0.33 and x.facts.error == 0 and x.element not in SMALL_FLOATS:
            self.op(f"math.{rng.choice(['floor', 'ceil'])} {self.use(x)} : {x.type}", x.element, x.shape, x.facts)
        elif roll < 0.4 and wide:
            facts = replace(x.facts, bound=None)
            name = "tt.precise_sqrt" if x.element == "f32" and rng.random() < 0.5 else "math.sqrt"
            self.op(f"{name} {self.use(x)} : {x.type}", x.element, x.shape, facts)
        elif roll < 0.5 and x.facts.error == 0 and x.element not in SMALL_FLOATS:
            y, z = (self.like(x, holds=lambda v: v.facts.error == 0) for _ in "yz")
            facts = Facts(zero=x.facts.zero or y.facts.zero or z.facts.zero)
            if rng.random() < 0.5:
                self.op(f"math.fma {self.use(x, y, z)} : {x.type}", x.element, x.shape, facts)
            else:
                text = f"tt.clampf {self.use(x, y, z)}, propagateNan = {rng.choice(['none', 'all'])} : {x.type}"
                self.op(text, x.element, x.shape, replace(facts, zero=True))
        else:
            self._float_binary(x)

    def _float_binary(self, x: Value) -> None:
        name = self.rng.choice(_FLOAT_BINARY[: 8 if x.element in SMALL_FLOATS else 9])
        y = self.like(x)
        for _ in range(9):
            if _float_facts(name, x, y) is not None:
                self.binary(name, x, y)
                return
            name = self.rng.choice(_FLOAT_BINARY)

    def compare(self, x: Value) -> Value:
        rng = self.rng
        if x.element[0] == "i":
            y = self.like(x)
            predicate = rng.choice(_INT_PREDICATES if x.element != "i1" else ("eq", "ne"))
            text = f"arith.cmpi {predicate}, {self.use(x, y)} : {x.type}"
        else:
            if x.facts.error:
                raise Impossible
            y = self.like(x, holds=lambda v: v.facts.error == 0)
            text = f"arith.cmpf {rng.choice(_FLOAT_PREDICATES)}, {self.use(x, y)} : {x.type}"
        return self.op(text, "i1", x.shape, Facts(0, 1))

    def select(self, condition: Value, x: Value | None = None, y: Value | None = None) -> Value:
        if x is None:
            shape = condition.shape
            x = self.something(lambda v: v.shape == shape) if shape else self.scalar(self.rng.choice(["i32", "f32"]))
        y = y or self.like(x)
        if self.rng.random() < 0.15:
            condition = self.scalar("i1")
        kinds = x.type if condition.shape is None else f"{condition.type}, {x.type}"
        return self.op(
            f"arith.select {self.use(condition, x, y)} : {kinds}", x.element, x.shape, either(x.facts, y.facts)
        )

    def function(self) -> None:
        """A function that is only nearly exact, or a value that it makes of one."""
        shape = self.shape()
        x = self.tensor(self.rng.choice(["f32", "f32", "f64"]), shape, lambda v: v.facts.error == 0)
        name = self.rng.choice(["exp", "exp2", "log", "log2", "rsqrt", "erf"])
        facts = Facts(error=3e-6 if x.element == "f32" else 1e-12, positive=name.startswith("exp"), zero=True)
        self.op(f"math.{name} {self.use(x)} : {x.type}", x.element, x.shape, facts)

    # -- conversions

    def cast(self) -> None:
        self.converted(self.something(), self.rng.choice([*INTS, *FLOATS, *SMALL_FLOATS]))

    def converted(self, x: Value, element: str) -> Value | None:
        """Another element type; None where there is no way, or the result would not be certain."""
        if x.element == element:
            return x
        conversion = self._conversion(x, element)
        if conversion is None:
            return None
        text, facts = conversion
        arrow = "->" if text.startswith("tt.") else "to"
        target = typed(element, x.shape)
        return self.op(
            text.replace("$", f"{self.use(x)}", 1) + f" : {x.type} {arrow} {target}", element, x.shape, facts
        )

    def _conversion(self, x: Value, element: str) -> tuple[str, Facts] | None:
        rng, source = self.rng, x.element
        if source[0] == "i" and element[0] == "i":
            if element == "i1":
                return "arith.trunci $", Facts(0, 1)
            if BYTES[element] > BYTES[source] or source == "i1":
                if source != "i1" and rng.random() < 0.6:
                    return "arith.extsi $", Facts(x.facts.low, x.facts.high, distinct=x.facts.distinct)
                if source == "i1" and rng.random() < 0.3:
                    return "arith.extsi $", Facts(-1, 0)
                fits = x.facts.low >= 0
                return "arith.extui $", between(element, x.facts.low if fits else None, x.facts.high)
            return "arith.trunci $", between(element, x.facts.low, x.facts.high)
        if source[0] == "i":
            if element in SMALL_FLOATS:
                return None
            most = max(abs(x.facts.low), abs(x.facts.high))
            if source != "i1" and rng.random() < 0.7:
                bound = most if most <= 1 << MANTISSA[element] else None
                return "arith.sitofp $", Facts(bound=bound, positive=x.facts.low >= 0)
            bound = most if x.facts.low >= 0 and most <= 1 << MANTISSA[element] else None
            return "arith.uitofp $", Facts(bound=bound, positive=True)
        if element[0] == "i":
            if x.facts.error or source in SMALL_FLOATS or element == "i1":
                return None
            return f"arith.fpto{rng.choice('su')}i $", any_of(element)
        return self._float_conversion(x, element)

    def _float_conversion(self, x: Value, element: str) -> tuple[str, Facts] | None:
        source, facts = x.element, x.facts
        if source in SMALL_FLOATS or element in SMALL_FLOATS:
            if (source in SMALL_FLOATS and element in SMALL_FLOATS) or facts.error:
                return None
            rounding = ", rounding = rtne" if element in SMALL_FLOATS else ""
            few = facts.bound is not None and facts.bound <= 1 << MANTISSA[element]
            return f"tt.fp_to_fp ${rounding}", replace(facts, bound=facts.bound if few else None)
        if BYTES[element] > BYTES[source]:
            return "arith.extf $", facts
        if BYTES[element] == BYTES[source]:
            return None
        few = facts.bound is not None and facts.bound <= 1 << MANTISSA[element]
        error = facts.error + 2.0 ** (1 - MANTISSA[element]) if facts.error else 0.0
        facts = replace(facts, bound=facts.bound if few else None, error=error)
        if self.rng.random() < 0.2 and element in ("f16", "bf16") and source == "f32" and not error:
            return "tt.fp_to_fp $, rounding = rtz", facts
        return "arith.truncf $", facts

    # -- views

    def view(self) -> None:
        rng, x = self.rng, self.something(lambda v: v.shape is not None)
        shape, kind = x.extent, self.rng.random()
        if kind < 0.3 and len(shape) > 1:
            order = list(range(len(shape)))
            rng.shuffle(order)
            result = tuple(shape[d] for d in order)
            text = f"tt.trans {self.use(x)} {{order = array<i32: {', '.join(map(str, order))}>}}"
            self.op(f"{text} : {x.type} -> {typed(x.element, result)}", x.element, result, x.facts)
        elif kind < 0.55:
            self.reshape(x, self._reshaped(int(np.prod(shape))))
        elif kind < 0.7 and len(shape) > 1 and x.extent[-1] == 2:
            self._split(x)
        elif kind < 0.85 and 2 * np.prod(shape) <= LARGEST:
            y = self.like(x)
            result = (*shape, 2)
            text = f"tt.join {self.use(x, y)} : {x.type} -> {typed(x.element, result)}"
            made = self.op(text, x.element, result, either(x.facts, y.facts))
            if rng.random() < 0.5:
                self.reshape(made, (*shape[:-1], 2 * x.extent[-1]))
            elif rng.random() < 0.5:
                self._split(made)
        elif kind < 0.9:
            axis = rng.randrange(len(shape) + 1)
            result = (*shape[:axis], 1, *shape[axis:])
            text = f"tt.expand_dims {self.use(x)} {{axis = {axis} : i32}} : {x.type} -> {typed(x.element, result)}"
            self.op(text, x.element, result, x.facts)
        elif 1 in shape:
            result = tuple(rng.choice([1, 2, 8, 16]) if n == 1 and rng.random() < 0.7 else n for n in shape)
            if np.prod(result) <= LARGEST:
                self.broadcast(x, result)
        elif np.prod(shape) == 1:
            self.op(f"tt.unsplat {self.use(x)} : {x.type}", x.element, None, x.facts)

    def _split(self, x: Value) -> None:
        a, b = self.name(), self.name()
        part = x.extent[:-1]
        self.line(f"{a}, {b} = tt.split {self.use(x)} : {x.type} -> {typed(x.element, part)}")
        self.value(a, x.element, part, replace(x.facts, distinct=False))
        self.value(b, x.element, part, replace(x.facts, distinct=False))

    def reshape(self, x: Value, shape: tuple[int, ...]) -> Value:
        text = f"tt.reshape {self.use(x)} : {x.type} -> {typed(x.element, shape)}"
        return self.op(text, x.element, shape, x.facts)

    def _reshaped(self, count: int) -> tuple[int, ...]:
        same = [s for s in self.shapes if np.prod(s) == count]
        if same and self.rng.random() < 0.4:
            return self.rng.choice(same)
        parts: list[int] = []
        rank = self.rng.randint(1, 3)
        while len(parts) < rank - 1:
            n = 1 << self.rng.randint(0, count.bit_length() - 1)
            parts.append(n)
            count //= n
        parts.append(count)
        self.rng.shuffle(parts)
        return tuple(parts)

    # -- memory

    def pointer(self, argument: int) -> Value:
        return self.pointers[argument]

    def offset(self, high: int) -> Value:
        """A scalar from 0 on, of i32 or i64."""
        return self.scalar_between(0, high, self.rng.choice(["i32", "i32", "i64"]))

    def tile(self, argument: int, shape: tuple[int, ...] | None, distinct: bool) -> Value:
        """Pointers to elements of an argument: ones that are there, or new ones."""
        element = f"*{self.arguments[argument].element}"
        found = self.visible(lambda v: v.element == element and v.shape == shape and v.facts.argument == argument
                             and (v.facts.distinct or not distinct) and self._stays_inside(v.facts, 0))  # fmt: skip
        if shape is None:
            if found and self.rng.random() < 0.3:
                return self.pick(found)
            return self.moved(self.pointer(argument), self.offset(255))
        if found and self.rng.random() < 0.5:
            return self.pick(found)
        if not distinct and self.rng.random() < 0.25:
            return self.gathered(argument, shape)
        return self.strided(argument, shape)

    def moved(self, pointer: Value, by: Value) -> Value:
        low, high = pointer.facts.low + by.facts.low, pointer.facts.high + by.facts.high
        facts = Facts(low, high, argument=pointer.facts.argument, distinct=pointer.facts.distinct and by.shape is None)
        return self.op(
            f"tt.addptr {self.use(pointer, by)} : {pointer.type}, {by.type}", pointer.element, pointer.shape, facts
        )

    def gathered(self, argument: int, shape: tuple[int, ...]) -> Value:
        index = self.tensor(self.rng.choice(["i32", "i64"]), shape)
        if index.facts.low < -BEFORE or index.facts.high >= SPAN - BEFORE - 300:
            index = self.binary("andi", index, self.constant(index.element, shape, self.rng.choice([3, 63, 255, 1023])))
        if index.facts.low < -BEFORE or index.facts.high >= SPAN - BEFORE - 300:
            raise Impossible
        made = self.moved(self.splat(self.pointer(argument), shape), index)
        return made

    def strided(self, argument: int, shape: tuple[int, ...]) -> Value:
        """Addresses that grow by a step along each dimension, no two the same."""
        rng = self.rng
        steps, total = [0] * len(shape), 1
        order = list(range(len(shape)))[::-1]
        if rng.random() < 0.3:
            rng.shuffle(order)
        for d in order:
            if rng.random() < 0.15 and total * 2 * shape[d] <= 2048:
                total *= rng.choice([2, 3]) if total * 3 * shape[d] <= 2048 else 2
            steps[d] = total
            total = total * shape[d] + (rng.choice([0, 0, 0, 1, 5]) if total * shape[d] < 1500 else 0)
        parts = [self.along(shape[d], steps[d]) for d in range(len(shape))]
        base = self.pointer(argument)
        if rng.random() < 0.5:
            base = self.moved(base, self.offset(63))
        if rng.random() < 0.5:
            pointer = self._by_pointers(base, parts, shape)
        else:
            pointer = self._by_offsets(base, parts, shape)
        pointer.facts = replace(pointer.facts, distinct=True)
        if not self._stays_inside(pointer.facts, 0):
            raise Impossible
        return pointer

    def along(self, extent: int, step: int) -> Value:
        """extent numbers of which no two are the same, `step` apart or a multiple of that."""
        rng = self.rng
        index, roll = self.range(extent), rng.random()
        if roll < 0.1:
            index = self.binary("subi", self.constant("i32", (extent,), extent - 1), index)
        elif roll < 0.15 and extent > 1:
            index = self.binary("xori", index, self.constant("i32", (extent,), rng.randrange(extent)))
        elif roll < 0.2 and extent > 1:
            index = self.binary("muli", index, self.constant("i32", (extent,), 0x9E3779B1 - (1 << 32)))
            index = self.binary("andi", index, self.constant("i32", (extent,), extent - 1))
        elif roll < 0.23 and extent > 1:  # past the greatest number and back
            start = self.constant("i32", (extent,), (1 << 31) - rng.randint(1, extent))
            index = self.binary("andi", self.binary("addi", index, start), self.constant("i32", (extent,), extent - 1))
        elif roll < 0.27:
            index = self.binary("muli", index, self.constant("i32", (extent,), -1))
        elif roll < 0.35:
            index = self.binary("addi", index, self.splat(self.scalar_between(0, 63), (extent,)))
        if rng.random() < 0.3:
            wide = self.op(f"arith.extsi {self.use(index)} : {index.type} to {typed('i64', index.shape)}", "i64",
                           index.shape, index.facts)  # fmt: skip
            index = wide
        if step == 1 and rng.random() < 0.8:
            return index
        by = self.constant(index.element, None, step)
        if rng.random() < 0.3:
            return self.binary("muli", index, self.splat(by, index.shape))
        return self.binary("muli", index, self.constant(index.element, index.shape, step))

    def _by_pointers(self, base: Value, parts: list[Value], shape: tuple[int, ...]) -> Value:
        order = list(range(len(shape)))
        self.rng.shuffle(order)
        pointer = None
        for d in order:
            spread = self.spread(parts[d], shape, d)
            pointer = self.moved(self.splat(base, shape) if pointer is None else pointer, spread)
        assert pointer is not None
        return pointer

    def _by_offsets(self, base: Value, parts: list[Value], shape: tuple[int, ...]) -> Value:
        element = self.rng.choice([p.element for p in parts])
        total = None
        for d in range(len(shape)):
            part = parts[d]
            if part.element != element:
                name = "arith.extsi" if element == "i64" else "arith.trunci"
                part = self.op(f"{name} {self.use(part)} : {part.type} to {typed(element, part.shape)}", element,
                               part.shape, part.facts)  # fmt: skip
            spread = self.spread(part, shape, d)
            total = spread if total is None else self.binary("addi", total, spread)
        assert total is not None
        return self.moved(self.splat(base, shape), total)

    def mask_some(self) -> None:
        self.mask(self.shape())

    def mask(self, shape: tuple[int, ...] | None) -> Value:
        rng, roll = self.rng, self.rng.random()
        if shape is None:
            return self.scalar("i1") if roll < 0.5 else self.compare(self.scalar(rng.choice(["i32", "i64", "f32"])))
        found = self.visible(lambda v: v.element == "i1" and v.shape == shape)
        if found and roll < 0.25:
            return self.pick(found)
        if roll < 0.65:
            return self._bound_mask(shape)
        if roll < 0.75:
            return self._joined(self._bound_mask(shape), self._bound_mask(shape))
        if roll < 0.85 and len(found) > 1:
            return self._joined(self.pick(found), self.pick(found))
        if roll < 0.9:
            return self.splat(self.scalar("i1"), shape)
        x = self.something(lambda v: v.shape == shape and v.facts.error == 0)
        return self.compare(x) if x.element != "i1" else x

    def _joined(self, a: Value, b: Value) -> Value:
        return self.binary(self.rng.choice(["andi", "andi", "ori", "ori", "xori"]), *self.rng.sample([a, b], 2))

    def _bound_mask(self, shape: tuple[int, ...], d: int | None = None) -> Value:
        """An index along a dimension against a number."""
        rng = self.rng
        if d is None:
            d = rng.randrange(len(shape))
        if rng.random() < 0.15:
            return self._wrapping_mask(shape, d)
        index = self.range(shape[d], rng.choice([0, 0, 0, 5]))
        if rng.random() < 0.4:
            start = self.scalar_between(0, 200) if rng.random() < 0.8 else self.scalar("i32")
            index = self.binary("addi", index, self.splat(start, index.shape))
        if rng.random() < 0.1:
            index = self.binary(
                "muli", index, self.constant("i32", index.shape, rng.choice([-1, 2, 3, 1 << 20, 1 << 28]))
            )
        if rng.random() < 0.2:
            wide = self.converted(index, "i64")
            assert wide is not None
            index = wide
        early = rng.random() < 0.5
        if not early:
            index = self.spread(index, shape, d)
        roll = rng.random()
        if roll < 0.4:
            bound = self.constant(index.element, None, rng.randint(-1, shape[d] + 2))
        elif roll < 0.8:
            bound = self.scalar_between(0, 2 * shape[d], index.element)
        else:
            bound = self.scalar(index.element)
        if roll < 0.1 and early:
            other = self.tensor(index.element, index.extent)
        else:
            other = self.splat(bound, index.shape)
        made = self._compared(index, other)
        return self.spread(made, shape, d) if early else made

    def _compared(self, index: Value, other: Value) -> Value:
        below = self.rng.random() < 0.6
        pair = [index, other] if self.rng.random() < 0.7 else [other, index]
        predicate = self.rng.choice(_INT_PREDICATES if not below else ["slt", "sle"] if pair[0] is index else ["sgt", "sge"])
        return self.op(f"arith.cmpi {predicate}, {self.use(*pair)} : {index.type}", "i1", index.shape, Facts(0, 1))

    def _wrapping_mask(self, shape: tuple[int, ...], d: int) -> Value:
        """An index that passes the greatest number of its type, or comes close, against a number near either end."""
        rng, extent, last = self.rng, shape[d], (1 << 31) - 1
        start = self.constant("i32", None, last - rng.randint(0, 2 * extent))
        if rng.random() < 0.5:  # only known when the kernel runs
            start = self.binary("addi", start, self.scalar_between(0, extent))
        index = self.binary("addi", self.range(extent), self.splat(start, (extent,)))
        near = rng.choice([last - rng.randint(0, extent), -last - 1 + rng.randint(0, extent), rng.randint(-2, extent)])
        bound = self.splat(self.constant("i32", None, near), (extent,))
        if rng.random() < 0.2:
            wide = self.converted(index, "i64"), self.converted(bound, "i64")
            assert wide[0] is not None and wide[1] is not None
            index, bound = wide
        return self.spread(self._compared(index, bound), shape, d)

    def load(self, pointer: Value) -> Value:
        argument = self.arguments[pointer.facts.argument]
        element, facts = argument.element, self._loaded(argument)
        if self.rng.random() < 0.45:
            return self.op(f"tt.load {self.use(pointer)} : {pointer.type}", element, pointer.shape, facts)
        mask = self.mask(pointer.shape)
        if self.rng.random() < 0.1 and element in ("i32", "f32"):  # what the other lanes are is nobody's affair
            made = self.op(f"tt.load {self.use(pointer, mask)} : {pointer.type}", element, pointer.shape, facts)
            self.scopes[-1].remove(made)
            other = self.constant(element, pointer.shape)
            kinds = made.type if mask.shape is None else f"{mask.type}, {made.type}"
            return self.op(f"arith.select {self.use(mask, made, other)} : {kinds}", element, pointer.shape,
                           either(facts, other.facts))  # fmt: skip
        if self.rng.random() < 0.6:
            other = self.constant(element, pointer.shape)
        else:
            other = self.like(Value("", element, pointer.shape, facts))
        text = f"tt.load {self.use(pointer, mask, other)} : {pointer.type}"
        return self.op(text, element, pointer.shape, either(facts, other.facts))

    @staticmethod
    def _loaded(argument: Argument) -> Facts:
        """What is known of an argument's elements."""
        if argument.kind == "small":
            return Facts(0, 63) if argument.element[0] == "i" else Facts(bound=4)
        return any_of(argument.element)

    def load_some(self) -> None:
        argument = self.rng.choice([i for i, a in enumerate(self.arguments) if a.kind in ("state", "small")])
        self.load(self.tile(argument, self.shape() if self.rng.random() < 0.9 else None, distinct=False))

    def store(self, pointer: Value, value: Value, masked: float = 0.5) -> None:
        argument = self.arguments[pointer.facts.argument]
        argument.error = max(argument.error, value.facts.error)
        operands = [pointer, value]
        if self.rng.random() < masked:
            operands.append(self.mask(pointer.shape))
        self.line(f"tt.store {self.use(*operands)} : {pointer.type}")

    def states(self, element: str) -> list[int]:
        return [i for i, a in enumerate(self.arguments) if a.element == element and a.kind == "state"]

    def store_some(self) -> None:
        x = self.something(lambda v: v.facts.exact and bool(self.states(v.element)))
        self.store(self.tile(self.rng.choice(self.states(x.element)), x.shape, distinct=True), x)

    def keep(self, value: Value) -> None:
        """Stores a value where nothing else goes."""
        if value.element == "i1":
            value = self.op(
                f"arith.extui {self.use(value)} : {value.type} to {typed('i8', value.shape)}", "i8", value.shape
            )
        count = int(np.prod(value.extent))
        found = [i for i, a in enumerate(self.arguments)
                 if a.kind == "out" and a.element == value.element and a.filled + count <= SPAN - BEFORE]  # fmt: skip
        if not found:
            return
        argument = self.arguments[found[0]]
        start = self.constant("i32", None, argument.filled)
        argument.filled += count
        pointer = self.moved(self.pointer(found[0]), start)
        if value.shape is not None:
            order = [int(np.prod(value.shape[d + 1 :])) for d in range(len(value.shape))]
            pointer = self.splat(pointer, value.shape)
            for d, step in enumerate(order):
                index = self.range(value.shape[d])
                if step > 1:
                    index = self.binary("muli", index, self.constant("i32", index.shape, step))
                pointer = self.moved(pointer, self.spread(index, value.shape, d))
        self.store(pointer, value, masked=0.1)

    def in_place(self) -> None:
        """x = f(x) through one pointer, or through two that are a step apart."""
        rng = self.rng
        argument = rng.choice([i for i, a in enumerate(self.arguments) if a.kind == "state"])
        pointer = self.tile(argument, self.shape(), distinct=True)
        source = pointer
        if rng.random() < 0.4 and pointer.facts.high < 2500:
            by = self.constant("i32", None, rng.choice([1, -1, 8, 16]))
            source = self.moved(pointer, self.splat(by, pointer.shape))
        x = self.load(source)
        for _ in range(rng.randint(0, 2)):
            if x.element[0] == "i" and x.element != "i1":
                x = self.binary(rng.choice(["addi", "xori", "muli"]), x, self.like(x))
            elif x.element in FLOATS:
                y = self.like(x, holds=lambda v: v.facts.exact)
                x = self.binary(rng.choice(["addf", "mulf", "subf"]), x, y)
        if x.facts.exact:
            self.store(pointer, x)

    def masked(self) -> None:
        """Loads, and what uses them, under masks of one dimension that are made of each other."""
        rng, shape = self.rng, self.shape()
        d = len(shape) - 1 if rng.random() < 0.7 else rng.randrange(len(shape))
        a, b = self._bound_mask(shape, d), self._bound_mask(shape, rng.choice([d, d, None]))
        either_way = [a, b, self._joined(a, b)]
        element = rng.choice(self.elements)
        found = [i for i, a in enumerate(self.arguments) if a.element == element and a.kind in ("state", "small")]
        x = self._load_under(rng.choice([a, *either_way]), self.tile(rng.choice(found), shape, distinct=False))
        if rng.random() < 0.3:
            y = self._load_under(rng.choice(either_way), self.tile(rng.choice(found), shape, distinct=False))
            x = self.select(rng.choice(either_way), x, y)
        if self.states(element) and rng.random() < 0.7:
            mask = rng.choice([either_way[-1], *either_way])
            self._store_under(mask, self.tile(rng.choice(self.states(element)), shape, distinct=True), x)
        else:
            self.reduce(x, d)

    def _load_under(self, mask: Value, pointer: Value) -> Value:
        argument = self.arguments[pointer.facts.argument]
        facts = self._loaded(argument)
        number = None if argument.kind == "state" and self.rng.random() < 0.5 else 0
        other = self.constant(argument.element, pointer.shape, number)
        text = f"tt.load {self.use(pointer, mask, other)} : {pointer.type}"
        return self.op(text, argument.element, pointer.shape, either(facts, other.facts))

    def _store_under(self, mask: Value, pointer: Value, value: Value) -> None:
        self.line(f"tt.store {self.use(pointer, value, mask)} : {pointer.type}")

    def exchange(self, pointers: Sequence[Value] = ()) -> None:
        """A load, a store that may reach what it reads, and only then a use of it. Some through these pointers."""
        rng = self.rng
        if pointers:
            element, shape = pointers[0].element[1:], pointers[0].shape
        else:
            element, shape = rng.choice([a.element for a in self.arguments if a.kind == "state"]), self.shape()
        ways = [*pointers, *(self.tile(i, shape, distinct=True) for i in self.states(element))]
        x = self.load(rng.choice(pointers or ways))
        if not x.facts.exact:
            raise Impossible
        self.store(rng.choice(ways), self.like(x, holds=lambda v: v.facts.exact), masked=0.2)
        if rng.random() < 0.3:
            self.some(1, 1)
        self.store(rng.choice(ways), x, masked=0.2)

    def table(self) -> None:
        """Pointers made of integers: an address, moved as a number."""
        rng = self.rng
        argument = rng.choice([i for i, a in enumerate(self.arguments) if a.kind == "state"])
        shape = rng.choice([None, self.shape()])
        pointer = self.tile(argument, shape, distinct=True)
        number = self.op(f"tt.ptr_to_int {self.use(pointer)} : {pointer.type} -> {typed('i64', shape)}", "i64", shape,
                         Facts(0, 0))  # fmt: skip
        self.scopes[-1].remove(number)
        text = f"tt.int_to_ptr {self.use(number)} : {number.type} -> {pointer.type}"
        self.op(text, pointer.element, shape, pointer.facts)

    def pointer_choice(self) -> None:
        """One of two pointers."""
        rng = self.rng
        element = rng.choice([a.element for a in self.arguments if a.kind == "state"])
        shape = rng.choice([None, self.shape()])
        plain = rng.random() < 0.5
        a, b = (self.tile(rng.choice(self.states(element)), shape, distinct=plain) for _ in "ab")
        mask = self.scalar("i1") if shape is None or rng.random() < 0.5 else self.mask(shape)
        kinds = a.type if mask.shape is None else f"{mask.type}, {a.type}"
        facts = either(a.facts, b.facts)
        facts = replace(
            facts, argument=a.facts.argument, distinct=mask.shape is None and a.facts.distinct and b.facts.distinct
        )
        made = self.op(f"arith.select {self.use(mask, a, b)} : {kinds}", a.element, shape, facts)
        if facts.distinct and rng.random() < 0.7:
            self.exchange([made])

    def atomic(self) -> None:
        """An atomic add, whose old values nothing depends on where lanes may meet."""
        found = [i for i, a in enumerate(self.arguments) if a.kind == "state" and a.element in ("i32", "i64")]
        if not found:
            raise Impossible
        argument = self.rng.choice(found)
        element = self.arguments[argument].element
        shape = self.rng.choice([None, self.shape()])
        pointer = self.tile(argument, shape, distinct=True)
        x = self.like(Value("", element, shape, any_of(element)))
        mask = self.mask(shape)
        name = self.rng.choice(["add", "and", "or", "xor", "max", "umin", "exch"])
        text = f"tt.atomic_rmw {name}, acq_rel, gpu, {self.use(pointer, x, mask)} : "
        kinds = f"({pointer.type}, {x.type}, {mask.type}) -> {x.type}"
        made = self.op(text + kinds, element, shape)
        self.scopes[-1].remove(made)

    def check(self) -> None:
        condition = self.mask(self.rng.choice([None, self.shape()]))
        if not self.may_fail or self.rng.random() < 0.5:
            condition = self.binary("ori", condition, self.constant("i1", condition.shape, True))
        self.line(f'tt.assert {self.use(condition)}, "check {next(self.names)}" : {condition.type}')

    # -- reductions, products

    def reduction(self) -> None:
        x = self.something(lambda v: v.shape is not None)
        axis = self.rng.randrange(len(x.extent))
        if self.rng.random() < 0.2 and x.element in ("i16", "i32", "i64", "f32"):
            self._arg_reduce(x, axis)
        else:
            self.reduce(x, axis)

    def reduce(self, x: Value, axis: int, name: str | None = None) -> Value:
        choices = self._combines(x, x.extent[axis])
        if name is None:
            name = self.rng.choice(sorted(choices))
        return self._reduction(
            "reduce", "", axis, [x], [choices[name]], lambda a, b: self._combined(name, a[0], b[0], x)
        )

    def _combines(self, x: Value, count: int) -> dict[str, Facts]:
        """The operations that give the same in any order, and what is known of the result."""
        element = x.element
        if element == "i1":
            return dict.fromkeys(("andi", "ori", "xori"), Facts(0, 1))
        if element[0] == "i":
            names = ("addi", "muli", "andi", "ori", "xori", "maxsi", "minsi", "maxui", "minui")
            return dict.fromkeys(names, any_of(element))
        found = {name: replace(x.facts, zero=True) for name in ("maxnumf", "minnumf", "maximumf", "minimumf")}
        limit = 1 << MANTISSA[element]
        bound = x.facts.bound
        if bound is not None and bound * count <= limit and not x.facts.error:
            found["addf"] = replace(x.facts, bound=bound * count)
        elif x.facts.positive and element in ("f32", "f64"):
            found["addf"] = Facts(error=x.facts.error + 2 * count / limit, positive=True)
        if bound is not None and bound**count <= limit and not x.facts.error:
            found["mulf"] = replace(x.facts, bound=bound**count)
        return found

    def _combined(self, name: str, a: Value, b: Value, x: Value) -> list[Value]:
        if self.rng.random() < 0.2:
            a, b = b, a
        return [self.op(f"arith.{name} {self.use(a, b)} : {a.type}", a.element, None)]

    def _arg_reduce(self, x: Value, axis: int) -> None:
        """The largest or smallest and where it is, the first of equals."""
        if x.facts.error:
            raise Impossible
        index = self.spread(self.range(x.extent[axis]), x.extent, axis)
        predicate = self.rng.choice(["gt", "lt"])

        def combine(a: Sequence[Value], b: Sequence[Value]) -> list[Value]:
            kind = (
                ("arith.cmpf", "oeq", f"o{predicate}") if x.element[0] == "f" else ("arith.cmpi", "eq", f"s{predicate}")
            )
            op, eq, better = kind
            equal = self.op(f"{op} {eq}, {self.use(a[0], b[0])} : {x.element}", "i1", None)
            before = self.op(f"arith.cmpi slt, {self.use(a[1], b[1])} : i32", "i1", None)
            tie = self.op(f"arith.andi {self.use(equal, before)} : i1", "i1", None)
            more = self.op(f"{op} {better}, {self.use(a[0], b[0])} : {x.element}", "i1", None)
            if x.element[0] == "f":  # a number before NaN
                nan = self.op(f"arith.cmpf uno, {self.use(b[0], b[0])} : {x.element}", "i1", None)
                ordered = self.op(f"arith.cmpf ord, {self.use(a[0], a[0])} : {x.element}", "i1", None)
                both = self.op(f"arith.cmpf uno, {self.use(a[0], a[0])} : {x.element}", "i1", None)
                both = self.op(f"arith.andi {self.use(both, nan)} : i1", "i1", None)
                both = self.op(f"arith.andi {self.use(both, before)} : i1", "i1", None)
                nan = self.op(f"arith.andi {self.use(nan, ordered)} : i1", "i1", None)
                nan = self.op(f"arith.ori {self.use(nan, both)} : i1", "i1", None)
                more = self.op(f"arith.ori {self.use(more, nan)} : i1", "i1", None)
            take = self.op(f"arith.ori {self.use(more, tie)} : i1", "i1", None)
            return [
                self.op(f"arith.select {self.use(take, a[i], b[i])} : {a[i].element}", a[i].element, None)
                for i in (0, 1)
            ]

        facts = [replace(x.facts, zero=x.element[0] != "i"), index.facts]
        self._reduction("reduce", "", axis, [x, index], facts, combine)

    def _reduction(
        self, kind: str, more: str, axis: int, inputs: list[Value], facts: list[Facts],
        combine: Callable[[Sequence[Value], Sequence[Value]], list[Value]],
    ) -> Value:  # fmt: skip
        shape = inputs[0].extent
        left = (*shape[:axis], *shape[axis + 1 :]) or None
        result = shape if kind == "scan" else left
        name = self.name()
        count = len(inputs)
        results = name if count == 1 else f"{name}:{count}"
        self.line(f'{results} = "tt.{kind}"({self.use(*inputs)}) <{{axis = {axis} : i32{more}}}> ({{')
        outer, self.scopes = self.scopes, [[]]
        arguments = [Value(self.name(), v.element, None, any_of(v.element)) for v in inputs * 2]
        self.line(f"^bb0({', '.join(f'{a.name}: {a.type}' for a in arguments)}):")
        given = combine(arguments[:count], arguments[count:])
        self.line(f"tt.{kind}.return {self.use(*given)} : {', '.join(v.type for v in given)}")
        self.scopes = outer
        types = ", ".join(typed(v.element, result) for v in inputs)
        self.line(f"}}) : ({', '.join(v.type for v in inputs)}) -> {types if count == 1 else f'({types})'}")
        made = [self.value(name if count == 1 else f"{name}#{i}", v.element, result, replace(facts[i], distinct=False))
                for i, v in enumerate(inputs)]  # fmt: skip
        return made[0]

    def scan(self) -> None:
        x = self.something(lambda v: v.shape is not None and v.facts.error == 0)
        axis = self.rng.randrange(len(x.extent))
        choices = self._combines(x, x.extent[axis])
        name = self.rng.choice(sorted(choices))
        facts = choices[name]
        if facts.error > x.facts.error:
            facts = replace(facts, error=facts.error)
        more = f", reverse = {self.rng.choice(['true', 'false'])}"
        self._reduction("scan", more, axis, [x], [facts], lambda a, b: self._combined(name, a[0], b[0], x))

    def product(self) -> None:
        """tt.dot of whole numbers that are small enough to be summed exactly."""
        rng = self.rng
        element = rng.choice(["f32", "f16", "bf16", "i8", "f64"])
        inner = {"i8": "i32", "f64": "f64"}.get(element, "f32")
        m, k, n = (rng.choice([1, 2, 4, 8, 16, 32]) for _ in "mkn")
        if element == "i8":
            a, b = self.tensor(element, (m, k)), self.tensor(element, (k, n))
        else:
            bounded = lambda v: v.facts.bound is not None and v.facts.bound <= 64 and v.facts.error == 0
            a, b = self._operand(element, (m, k), bounded), self._operand(element, (k, n), bounded)
        if inner == "i32":
            c, facts = self.tensor("i32", (m, n)), any_of("i32")
        else:
            c = self.tensor(
                inner, (m, n), lambda v: v.facts.bound is not None and v.facts.bound <= 1 << 20 and not v.facts.error
            )
            assert a.facts.bound is not None and b.facts.bound is not None and c.facts.bound is not None
            facts = Facts(bound=a.facts.bound * b.facts.bound * k + c.facts.bound, zero=True)
        if rng.random() < 0.4:
            c = self.constant(inner, (m, n), 0 if inner == "i32" else 0.0)
        text = f"tt.dot {self.use(a, b, c)}, inputPrecision = ieee : {a.type} * {b.type} -> {c.type}"
        self.op(text, inner, (m, n), facts)

    def _operand(self, element: str, shape: tuple[int, int], holds: Callable[[Value], bool]) -> Value:
        rng = self.rng
        found = [i for i, a in enumerate(self.arguments) if a.kind == "small" and a.element[0] == "f"]
        if found and rng.random() < 0.6:
            turned = rng.random() < 0.4
            x = self.load(self.tile(rng.choice(found), shape[::-1] if turned else shape, distinct=False))
            if x.facts.bound is not None and holds(x):
                y = self.converted(x, element)
                if y is not None and holds(y):
                    if turned:
                        text = (
                            f"tt.trans {self.use(y)} {{order = array<i32: 1, 0>}} : {y.type} -> {typed(element, shape)}"
                        )
                        y = self.op(text, element, shape, y.facts)
                    return y
        return self.tensor(element, shape, holds)

    def softmax(self) -> None:
        """exp(x - max(x)) / sum, with its parts shared."""
        shape = self.shape()
        x = self.tensor("f32", shape, lambda v: v.facts.error == 0)
        axis = self.rng.randrange(len(shape))
        most = self.back(self.reduce(x, axis, "maxnumf"), shape, axis)
        less = self.op(f"arith.subf {self.use(x, most)} : {x.type}", "f32", shape, Facts())
        facts = Facts(error=1e-5, positive=True, zero=True)
        power = self.op(f"math.exp {self.use(less)} : {x.type}", "f32", shape, facts)
        total = self.back(self.reduce(power, axis, "addf"), shape, axis)
        self.binary("divf", power, total)
        less.facts = replace(less.facts, zero=True)

    def back(self, x: Value, shape: tuple[int, ...], axis: int) -> Value:
        """The result of a reduction over its operand's shape."""
        if x.shape is None:
            return self.splat(x, shape)
        grown = (*x.shape[:axis], 1, *x.shape[axis:])
        text = f"tt.expand_dims {self.use(x)} {{axis = {axis} : i32}} : {x.type} -> {typed(x.element, grown)}"
        return self.broadcast(self.op(text, x.element, grown, x.facts), shape)

    # -- control flow

    def some(self, least: int, most: int) -> None:
        for _ in range(self.rng.randint(least, most)):
            self.statement()

    def statement(self) -> None:
        weights, ways = zip(*self.statements, strict=True)
        way = self.rng.choices(ways, weights)[0]
        if self.depth >= 3 and way in self.nests:
            return
        with suppress(Impossible):
            way()

    def _carried(self, most: int) -> list[Value]:
        """Values to carry, of which nothing but their type need hold later."""
        found = []
        for _ in range(self.rng.randint(0, most)):
            x = self.something(lambda v: v.facts.exact)
            found.append(x)
            if self.rng.random() < 0.5:  # one of its kind, to be swapped with
                found.append(self.like(x, holds=lambda v: v.facts.exact))
        return found[: most + 1]

    def _given(self, element: str, shape: tuple[int, ...] | None) -> Value:
        """A value to hand on, of those inside first."""
        found = self.visible(lambda v: v.element == element and v.shape == shape and v.facts.exact)
        inner = [v for v in self.scopes[-1] if v in found]
        if inner and self.rng.random() < 0.8:
            return self.rng.choice(inner)
        return (
            self.pick(found)
            if found
            else self.like(Value("", element, shape, any_of(element)), holds=lambda v: v.facts.exact)
        )

    def loop(self) -> None:
        rng = self.rng
        index = rng.choice(["i32", "i32", "i64"])
        low, step, most = rng.choice([0, 0, 0, 1, -2]), rng.choice([1, 1, 2, 16]), rng.choice([1, 2, 3, 4])
        start, by = self.constant(index, None, low), self.constant(index, None, step)
        if rng.random() < 0.5:
            stop = self.constant(index, None, low + step * most - rng.choice([0, step - 1]))
        else:
            stop = self.scalar_between(low, low + step * most, index)
        carried = self._carried(3)
        moving = self._moving(most) if rng.random() < 0.6 else []
        inits = [*carried, *(m[0] for m in moving)]
        name, variable = self.name(), self.name()
        inside = [Value(self.name(), v.element, v.shape, any_of(v.element)) for v in carried]
        inside += [
            Value(self.name(), v.element, v.shape, _shifted(v.facts, step_by, most - 1)) for v, step_by, _ in moving
        ]
        heads = ", ".join(f"{a.name} = {self.use(v)}" for a, v in zip(inside, inits, strict=True))
        types = ", ".join(v.type for v in inits)
        bounds = f"{self.use(start)} to {self.use(stop)} step {self.use(by)}"
        if inits:
            self.line(
                f"{name}:{len(inits)} = scf.for {variable} = {bounds} iter_args({heads}) -> ({types}) : {index} {{"
            )
        else:
            self.line(f"scf.for {variable} = {bounds} : {index} {{")
        with self.region():
            self.value(variable, index, None, Facts(low, low + step * most))
            self.scopes[-1] += inside
            self.some(1, 5)
            given = [self._given(v.element, v.shape) for v in carried]
            if len(carried) > 1 and rng.random() < 0.3:  # swapped
                for i, a in enumerate(carried):
                    for j, b in enumerate(carried[:i]):
                        if a.type == b.type:
                            given[i], given[j] = inside[j], inside[i]
            for at, (_, amount, how) in enumerate(moving, len(carried)):
                given.append(how(inside[at], amount))
            if given:
                self.line(f"scf.yield {self.use(*given)} : {types}")
        self.line("}")
        for i, v in enumerate(carried):
            self.value(f"{name}#{i}", v.element, v.shape)
        for i, (v, amount, _) in enumerate(moving, len(carried)):
            self.value(f"{name}#{i}", v.element, v.shape, _shifted(v.facts, amount, most))

    def _moving(self, rounds: int) -> list[tuple[Value, int, Callable[[Value, int], Value]]]:
        """Pointers, and offsets, that go on by the same step in every round."""
        rng = self.rng
        found: list[tuple[Value, int, Callable[[Value, int], Value]]] = []
        for _ in range(rng.randint(1, 2)):
            step = rng.choice([1, 4, 16, 32, -1, -8])
            kind = rng.random()
            if kind < 0.7:
                argument = rng.choice([i for i, a in enumerate(self.arguments) if a.kind in ("state", "small")])
                x = self.tile(argument, rng.choice([self.shape(), self.shape(), None]), distinct=rng.random() < 0.7)
                if not self._stays_inside(x.facts, step * rounds):
                    continue
                found.append((x, step, self._advance_pointer))
            else:
                element = rng.choice(["i32", "i64"])
                shape = rng.choice([None, self.shape()])
                x = self.scalar(element) if shape is None else self.tensor(element, shape)
                if x.facts.high > 1000 or x.facts.low < -1000:
                    continue
                found.append((x, step, self._advance_number))
        return found

    def _round_table(self, rounds: int) -> tuple[list[Value], Facts, int]:
        """Pointers that change places, what holds for each of them at any time, and how far a round moves one."""
        rng = self.rng
        element = max(rng.sample([a.element for a in self.arguments if a.kind == "state"], 2), key=self.elements.count)
        shape, found = rng.choice([None, self.shape(), self.shape()]), self.states(element)
        chosen = [*rng.sample(found, min(2, len(found))), *([rng.choice(found)] if rng.random() < 0.3 else [])]
        pointers = [self.tile(i, shape, distinct=True) for i in chosen]
        step = rng.choice([0, 0, 1, 16, -8])
        facts = pointers[0].facts
        for pointer in pointers[1:]:
            facts = either(facts, pointer.facts)
        facts = replace(_shifted(facts, step, rounds), argument=chosen[0], distinct=shape is not None)
        if not self._stays_inside(facts, 0):
            raise Impossible
        return pointers, facts, step

    def _next_places(self, pointers: list[Value], step: int) -> list[Value]:
        turned = [*pointers[1:], pointers[0]]
        if step:
            turned[0] = self._advance_pointer(turned[0], step)
        return turned

    def loop_of_pointers(self) -> None:
        """A loop, or a branch, out of which pointers come in other places, and accesses through them."""
        ways = [self._for_of_pointers, self._for_of_pointers, self._while_of_pointers, self._branch_of_pointers]
        self.rng.choice(ways)()

    def _around(self, name: str, pointers: list[Value], facts: Facts) -> list[Value]:
        """The results of an operation that hands pointers round, and an exchange through them."""
        made = [self.value(f"{name}#{i}", p.element, p.shape, facts) for i, p in enumerate(pointers)]
        if self.rng.random() < 0.5:
            self.exchange(made)
        return made

    def _for_of_pointers(self) -> None:
        rng, most = self.rng, self.rng.randint(2, 4)
        pointers, facts, step = self._round_table(most)
        low, by = self.constant("i32", None, 0), self.constant("i32", None, 1)
        stop = self.constant("i32", None, most) if rng.random() < 0.5 else self.scalar_between(0, most)
        name, variable = self.name(), self.name()
        inside = [Value(self.name(), p.element, p.shape, facts) for p in pointers]
        heads = ", ".join(f"{a.name} = {self.use(p)}" for a, p in zip(inside, pointers, strict=True))
        types = ", ".join(p.type for p in pointers)
        self.line(f"{name}:{len(pointers)} = scf.for {variable} = {self.use(low)} to {self.use(stop)} "
                  f"step {self.use(by)} iter_args({heads}) -> ({types}) : i32 {{")  # fmt: skip
        with self.region():
            self.value(variable, "i32", None, Facts(0, most))
            self.scopes[-1] += inside
            with suppress(Impossible):
                self.exchange(inside)
            self.some(0, 2)
            self.line(f"scf.yield {self.use(*self._next_places(inside, step))} : {types}")
        self.line("}")
        self._around(name, pointers, facts)

    def _while_of_pointers(self) -> None:
        most = self.rng.randint(1, 3)
        pointers, facts, step = self._round_table(most)
        inits = [self.constant("i32", None, 0), *pointers]
        types, name = ", ".join(v.type for v in inits), self.name()
        before, after = ([Value(self.name(), v.element, v.shape, facts) for v in inits] for _ in "ba")
        before[0].facts, after[0].facts = Facts(0, most), Facts(0, most - 1)
        heads = ", ".join(f"{a.name} = {self.use(v)}" for a, v in zip(before, inits, strict=True))
        self.line(f"{name}:{len(inits)} = scf.while ({heads}) : ({types}) -> ({types}) {{")
        with self.region():
            self.scopes[-1] += before
            limit = self.constant("i32", None, most)
            again = self.op(f"arith.cmpi slt, {self.use(before[0], limit)} : i32", "i1", None)
            handed = [before[0], *(self._next_places(before[1:], 0) if self.rng.random() < 0.5 else before[1:])]
            self.line(f"scf.condition({self.use(again)}) {self.use(*handed)} : {types}")
        self.line("} do {")
        with self.region():
            self.line(f"^bb0({', '.join(f'{a.name}: {a.type}' for a in after)}):")
            self.scopes[-1] += after
            with suppress(Impossible):
                self.exchange(after[1:])
            more = self.binary("addi", after[0], self.constant("i32", None, 1))
            self.line(f"scf.yield {self.use(more, *self._next_places(after[1:], step))} : {types}")
        self.line("}")
        self.value(f"{name}#0", "i32", None, Facts(0, most))
        made = [self.value(f"{name}#{i}", p.element, p.shape, facts) for i, p in enumerate(pointers, 1)]
        self.exchange(made)

    def _branch_of_pointers(self) -> None:
        pointers, facts, step = self._round_table(1)
        condition, name, types = self.mask(None), self.name(), ", ".join(p.type for p in pointers)
        self.line(f"{name}:{len(pointers)} = scf.if {self.use(condition)} -> ({types}) {{")
        for side in range(2):
            if side:
                self.line("} else {")
            with self.region():
                with suppress(Impossible):
                    self.exchange(pointers)
                given = self._next_places(pointers, step) if side else pointers
                self.line(f"scf.yield {self.use(*given)} : {types}")
        self.line("}")
        self._around(name, pointers, facts)

    @staticmethod
    def _stays_inside(facts: Facts, by: int) -> bool:
        return facts.low + min(by, 0) >= -BEFORE and facts.high + max(by, 0) < SPAN - BEFORE - 300

    def _step(self, element: str, shape: tuple[int, ...] | None, by: int) -> Value:
        if shape is None or self.rng.random() < 0.5:
            return self.constant(element, shape, by)
        if len(shape) == 1 and self.rng.random() < 0.3:  # the same number in every lane, but not plain to see
            x = self.binary("muli", self.range(shape[0]), self.constant("i32", shape, 0))
            x = self.binary("addi", x, self.constant("i32", shape, by))
            made = x if element == "i32" else self.converted(x, element)
            if made is not None and (made.facts.low, made.facts.high) == (by, by):
                return made
        return self.splat(self.constant(element, None, by), shape)

    def _advance_pointer(self, x: Value, by: int) -> Value:
        return self.moved(x, self._step(self.rng.choice(["i32", "i64"]), x.shape, by))

    def _advance_number(self, x: Value, by: int) -> Value:
        return self.binary("addi", *self.rng.sample([x, self._step(x.element, x.shape, by)], 2))

    def branch(self) -> None:
        condition = self.scalar("i1") if self.rng.random() < 0.5 else self.mask(None)
        kinds = [(v.element, v.shape) for v in self._carried(2)]
        name = self.name()
        types = ", ".join(typed(*kind) for kind in kinds)
        head = f"{name}:{len(kinds)} = " if kinds else ""
        arrow = f" -> ({types})" if kinds else ""
        self.line(f"{head}scf.if {self.use(condition)}{arrow} {{")
        for side in range(2 if kinds else self.rng.choice([1, 2])):
            if side:
                self.line("} else {")
            with self.region():
                self.some(0, 4)
                given = [self._given(*kind) for kind in kinds]
                if given:
                    self.line(f"scf.yield {self.use(*given)} : {types}")
        self.line("}")
        for i, (element, shape) in enumerate(kinds):
            self.value(f"{name}#{i}", element, shape)

    def loop_while(self) -> None:
        rng = self.rng
        carried = self._carried(2)
        counter, most = self.constant("i32", None, 0), rng.randint(1, 3)
        inits = [counter, *carried]
        types = ", ".join(v.type for v in inits)
        name = self.name()
        inside = [Value(self.name(), v.element, v.shape, any_of(v.element)) for v in inits]
        inside[0].facts = Facts(0, most)
        heads = ", ".join(f"{a.name} = {self.use(v)}" for a, v in zip(inside, inits, strict=True))
        self.line(f"{name}:{len(inits)} = scf.while ({heads}) : ({types}) -> ({types}) {{")
        with self.region():
            self.scopes[-1] += inside
            limit = self.constant("i32", None, most)
            again = self.op(f"arith.cmpi slt, {self.use(inside[0], limit)} : i32", "i1", None)
            if rng.random() < 0.5:
                self.some(0, 2)
                again = self.binary("andi", again, self.scalar("i1"))
            given = [inside[0], *(self._given(v.element, v.shape) if rng.random() < 0.5 else a
                                  for v, a in zip(carried, inside[1:], strict=True))]  # fmt: skip
            self.line(f"scf.condition({self.use(again)}) {self.use(*given)} : {types}")
        self.line("} do {")
        with self.region():
            after = [Value(self.name(), v.element, v.shape, any_of(v.element)) for v in inits]
            after[0].facts = Facts(0, most - 1)
            self.line(f"^bb0({', '.join(f'{a.name}: {a.type}' for a in after)}):")
            self.scopes[-1] += after
            self.some(0, 3)
            more = self.binary("addi", after[0], self.constant("i32", None, 1))
            given = [more, *(self._given(v.element, v.shape) for v in carried)]
            self.line(f"scf.yield {self.use(*given)} : {types}")
        self.line("}")
        self.value(f"{name}#0", "i32", None, Facts(0, most))
        for i, v in enumerate(carried, 1):
            self.value(f"{name}#{i}", v.element, v.shape)

    def leave(self) -> None:
        """Return early."""
        condition = self.mask(None)
        number = next(self.names)
        self.line(f"cf.cond_br {self.use(condition)}, ^stop{number}, ^go{number}")
        self.lines.append(f"  ^stop{number}:")
        self.line("tt.return")
        self.lines.append(f"  ^go{number}:")

    # -- the kernel

    def case(self) -> Case:
        self._arguments()
        size = self._place()
        rng = self.rng
        for axis, count in zip("xyz", self.grid, strict=True):
            if count > 1 or rng.random() < 0.2:
                self.op(f"tt.get_program_id {axis} : i32", "i32", None, Facts(0, count - 1))
        if rng.random() < 0.2:
            self.op(f"tt.get_num_programs {rng.choice('xyz')} : i32", "i32", None, Facts(1, 3))
        leaves = rng.random() < 0.15
        self.some(3, 15)
        if leaves:
            with suppress(Impossible):
                self.leave()
        self.some(3, 15)
        for value in [v for v in self.scopes[0] if v.element[0] != "*"]:
            if rng.random() < (0.1 if value.used else 0.95):
                with suppress(Impossible):
                    self.keep(value)
        self.line("tt.return")
        parameters = ", ".join(f"%a{i}: {a.type}" for i, a in enumerate(self.arguments))
        head = f"module {{\n  tt.func public @kernel({parameters}) attributes {{noinline = false}} {{\n"
        text = head + "\n".join(self.lines) + "\n  }\n}\n"
        return Case(self.seed, text, self.arguments, self.grid, size, simplify=rng.random() < 0.6)

    def _arguments(self) -> None:
        rng = self.rng
        elements = [rng.choice(["f32", "i32", *ELEMENTS]) for _ in range(rng.randint(2, 4))]
        if rng.random() < 0.6:  # pointers to one type, but into different arguments
            elements.append(elements[0])
        self.arguments = [Argument(e, "state") for e in elements]
        self.arguments += [Argument(rng.choice(["f32", "i32", *ELEMENTS]), "small") for _ in range(rng.randint(1, 2))]
        self.arguments += [Argument(e, "out") for e in ELEMENTS]
        for element in ("i32", "i32", "i64", "f32"):
            number: Any = rng.choice([0, 1, 5, 17, 64, 100, -3, 2**31 - 5, 2**31 - 40, -(2**31)])
            self.arguments.append(Argument(element, "number", number=float(number) if element == "f32" else number))
        rng.shuffle(self.arguments)
        for i, argument in enumerate(self.arguments):
            argument_facts = Facts(argument=i)
            if argument.kind == "number":
                facts = any_of(argument.element)
                self.value(f"%a{i}", argument.element, None, facts)
            else:
                self.pointers[i] = Value(f"%a{i}", f"*{argument.element}", None, argument_facts)

    def _place(self) -> int:
        """Where the arguments lie: side by side, or some over others of their kind."""
        rng, end = self.rng, 0
        over = rng.random() < 0.4
        placed: list[Argument] = []
        for argument in self.arguments:
            if argument.kind == "number":
                continue
            size = BYTES[argument.element]
            mates = [a for a in placed if a.kind == argument.kind == "state" and a.element == argument.element]
            if over and mates:
                mate = rng.choice(mates)
                argument.start = mate.start + size * rng.choice([0, 0, 1, -1, 8, 30, -64])
            else:
                argument.start = -(-end // 64) * 64 + BEFORE * size + size * rng.choice([0, 0, 1, 3]) + 1024
            end = max(end, argument.start + (SPAN - BEFORE) * size + 1024)
            placed.append(argument)
        return end


class Impossible(Exception):
    """There is no such value, and none can be made."""


def _shifted(facts: Facts, step: int, rounds: int) -> Facts:
    by = step * rounds
    return replace(facts, low=facts.low + min(by, 0), high=facts.high + max(by, 0))


def _float_text(number: Any, element: str) -> tuple[str, Facts]:
    bits = {"f16": (5, 10), "bf16": (8, 7), "f32": (8, 23), "f64": (11, 52), "f8E4M3FN": (4, 3), "f8E5M2": (5, 2)}[
        element
    ]
    exponent, mantissa = bits
    width = exponent + mantissa + 1
    if number in ("inf", "-inf", "nan") and element == "f8E4M3FN":
        number = 4.0
    if number in ("inf", "-inf", "nan"):
        raw = ((1 << exponent) - 1) << mantissa | (1 << width - 1) * (number == "-inf")
        raw |= (1 << mantissa - 1) * (number == "nan")
        return f"0x{raw:0{width // 4}X}", Facts()
    if number == "-0":
        return "-0.0", Facts(bound=0)
    bound = abs(int(number)) if number == int(number) else None
    return f"{number:e}", Facts(bound=bound, positive=number >= 0)


def _int_facts(name: str, x: Value, y: Value) -> Facts:
    (a, b), (c, d) = (x.facts.low, x.facts.high), (y.facts.low, y.facts.high)
    if x.element == "i1":
        return Facts(0, 1)
    if name == "addi":
        return between(x.element, a + c, b + d)
    if name == "subi":
        return between(x.element, a - d, b - c)
    if name == "muli":
        ends = (a * c, a * d, b * c, b * d)
        return between(x.element, min(ends), max(ends))
    if name == "andi" and (a >= 0 or c >= 0):
        return Facts(0, min(n for n, low in ((b, a), (d, c)) if low >= 0))
    if name == "xori" and a >= 0 and c >= 0:
        return between(x.element, 0, (1 << max(b, d).bit_length()) - 1)
    if name in ("maxsi", "minsi"):
        pick = max if name == "maxsi" else min
        return Facts(pick(a, c), pick(b, d))
    return any_of(x.element)


def _float_facts(name: str, x: Value, y: Value) -> Facts | None:
    """What is known of a result; None if two right answers may lie apart."""
    a, b = x.facts, y.facts
    error, zero = a.error + b.error, a.zero or b.zero
    limit = 1 << MANTISSA[x.element]
    ulp = 2.0 ** (1 - MANTISSA[x.element]) if error else 0.0
    both = a.bound is not None and b.bound is not None
    if name in ("maxnumf", "minnumf", "maximumf", "minimumf"):
        return replace(either(a, b), zero=True)
    if name == "remf":
        return Facts(zero=zero) if not error else None
    if name == "mulf":
        bound = a.bound * b.bound if both else None  # type: ignore[operator]
        return Facts(bound=bound if bound is not None and bound <= limit else None, error=error + ulp if error else 0.0,
                     positive=a.positive and b.positive, zero=zero)  # fmt: skip
    if name == "divf":
        return (
            Facts(error=error + ulp if error else 0.0, positive=a.positive and b.positive, zero=zero)
            if not b.zero or b.positive
            else None
        )
    if error and not (name == "addf" and a.positive and b.positive):
        return None
    bound = a.bound + b.bound if both else None  # type: ignore[operator]
    return Facts(bound=bound if bound is not None and bound <= limit else None, error=error + ulp if error else 0.0,
                 positive=name == "addf" and a.positive and b.positive, zero=zero)  # fmt: skip
