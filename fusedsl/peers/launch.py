"""One launch of a compiled kernel, whoever made it, and what it costs."""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

from ..codegen.inspect import Compiled
from .sass import Code
from .thread import SPAN, Memory, Walk

ARGUMENTS = {"sm_80": 0x160, "sm_90": 0x210}  # where they start in the constant bank
STACK = 0x28  # where the address of a thread's stack lies
SIZES = {"u8": 1, "s8": 1, "b8": 1, "u16": 2, "b16": 2, "u32": 4, "s32": 4, "b32": 4, "f32": 4, "u64": 8, "s64": 8,
         "b64": 8, "f64": 8}  # fmt: skip
PARAMETER = re.compile(r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)")
TILE = re.compile(r"tt\.(?:load|store) .*tensor<((?:\d+x)+)!tt\.ptr<(\w+)>>")
WARPS = 4  # of a program so many are followed, spread evenly


@dataclass(frozen=True)
class Buffer:
    """A tensor that a launch takes: its bytes, those of an element, and whether it holds integers.

    argument: of the chain, where it is one; so that bytes known of an argument hold for it.
    """

    bytes: int
    element: int
    integers: bool = False
    argument: int | None = None


@dataclass(frozen=True)
class Launch:
    """A compiled kernel with its grid and arguments, in the order of the parameters that are left in the code."""

    compiled: Compiled
    grid: tuple[int, int, int]
    num_warps: int
    arguments: tuple[Buffer | int | float, ...]

    @property
    def threads(self) -> int:
        """Threads of the whole grid."""
        return prod(self.grid) * self.num_warps * 32

    @property
    def tile_bytes(self) -> int:
        """Bytes of the largest tile that a program loads or stores at once."""
        text = self.compiled.asm["ttir"]
        assert isinstance(text, str)
        tiles = [(prod(map(int, found[1].rstrip("x").split("x"))), found[2]) for found in TILE.finditer(text)]
        bits = [(count, int(re.sub(r"f8.*", "8", kind).lstrip("bfiu"))) for count, kind in tiles]
        return max((count * max(width, 8) // 8 for count, width in bits), default=0)

    @cached_property
    def cost(self) -> Cost:
        """Instructions and accesses, of warps spread over a program in the middle of the grid."""
        code = Code(self.compiled.sass)
        warps = sorted({at * self.num_warps // WARPS for at in range(WARPS)})
        walks = [self._walk(code, warp * 32) for warp in warps]
        loaded, stored = Counter[int](), Counter[int]()
        for walk in walks:
            loaded += walk.loaded
            stored += walk.stored
        share = self.threads / len(walks)
        requested = {self._buffer(tensor): count * share for tensor, count in loaded.items()}
        counts = tuple(sum(each) / len(walks) for each in zip(*(walk.counts for walk in walks), strict=True))
        return Cost(code, counts, requested, tuple(self._buffer(each) for each in stored))

    def _buffer(self, tensor: int) -> Buffer:
        found = self.arguments[tensor - 1]
        assert isinstance(found, Buffer)
        return found

    def _walk(self, code: Code, thread: int) -> Walk:
        place = dict(zip("XYZ", self.grid, strict=True))
        special = {f"SR_CTAID.{axis}": extent // 2 for axis, extent in place.items()}
        special |= {"SR_TID.X": thread, "SR_TID.Y": 0, "SR_TID.Z": 0, "SR_CgaCtaId": 0, "SR_LANEID": 0}
        memory = {at: Memory(each.element, each.integers) for at, each in enumerate(self.arguments, 1)
                  if isinstance(each, Buffer)}  # fmt: skip
        return Walk(code, self._constants(), special, memory).run()

    def _constants(self) -> dict[int, int]:
        """The arguments as 32-bit words by where they lie: pointers are made up."""
        text = self.compiled.asm["ptx"]
        assert isinstance(text, str)
        head = text[text.index(".entry") :].partition("{")[0]
        kinds = PARAMETER.findall(head)
        hidden = len(kinds) - len(self.arguments)  # Triton's scratch memory, which these kernels do not use
        assert hidden >= 0, f"{self.compiled.name} has {len(kinds)} parameters, not {len(self.arguments)}"
        words = {STACK: 1 << 20}
        offset = 0
        for at, (kind, value) in enumerate(zip(kinds, [*self.arguments, *[0] * hidden], strict=True), 1):
            offset = -(-offset // SIZES[kind]) * SIZES[kind]
            number = at << SPAN if isinstance(value, Buffer) else _bits(kind, value)
            for word in range(0, SIZES[kind], 4):
                words[ARGUMENTS[self.compiled.target] + offset + word] = (number >> (8 * word)) & 0xFFFFFFFF
            offset += SIZES[kind]
        return words


def _bits(kind: str, value: float) -> int:
    """A number as the bits of a parameter."""
    if isinstance(value, int):
        return value
    return int.from_bytes(struct.pack("<d" if kind == "f64" else "<f", value), "little")


@dataclass(frozen=True)
class Cost:
    """What the walks found: executions of each instruction by a thread, bytes requested of each tensor by all of
    them, and the tensors that are written."""

    code: Code
    counts: tuple[float, ...]
    requested: Mapping[Buffer, float] = field(hash=False)
    written: tuple[Buffer, ...]

    @property
    def instructions(self) -> float:
        """Executed by a thread, on average."""
        return sum(self.counts)

    @property
    def trips(self) -> dict[int, float]:
        """How often each basic block is executed, by its first instruction."""
        return {start: self.counts[start] for start in self.code.starts}

    def bytes(self, distinct: Mapping[int, int]) -> int:
        """Each distinct byte read and each byte written. distinct: of arguments of which only so many are read."""
        read = sum(min(count, each.bytes, distinct.get(-1 if each.argument is None else each.argument, each.bytes))
                   for each, count in self.requested.items())  # fmt: skip
        return round(read) + sum(each.bytes for each in self.written)
