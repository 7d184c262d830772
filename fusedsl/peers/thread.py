"""How often a thread executes each instruction of a kernel, by following its control flow.

ptxas unrolls loops, peels their first and last rounds and moves bounds about, so that a loop of the source is several
in the machine code. What is left whole is the arithmetic that decides where to go: integers, from arguments and the
thread's place in the grid. A `Walk` does that arithmetic and nothing else; floats are unknown. Pointers are made up,
one range of addresses for each, so that every access tells which tensor it goes to. Integers in memory are all 1: an
index that is in range, and not the one that marks padding. Shared memory holds everywhere what the thread last stored
there: threads pass each other what is alike.

Where a branch depends on what is unknown, on a float, the shorter way is taken: the longer one is the slow path of a
division or of a square root.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from .integers import EFFECTS
from .registers import MASK, clear, element, read, read64, write
from .sass import END, Code, Instruction

SPAN = 40  # bits of an address within a tensor
MOST_STEPS = 3_000_000
LOADS, STORES = ("LDG", "LD", "LDGSTS"), ("STG", "ST", "RED", "ATOM", "ATOMG")
WIDTHS = {"256": 32, "128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
ADDRESS = re.compile(r"(?:desc\[UR\d+\])?\[([^\]]*)\]")


class CannotFollow(RuntimeError):
    """The walk does not know where a thread goes, or what it reads."""


@dataclass(frozen=True)
class Memory:
    """A tensor as a walk sees it: bytes of an element, and whether it holds integers."""

    element: int
    integers: bool = False


class Walk:
    """One thread of one program, and what it has executed: `counts` by instruction, bytes `loaded` and `stored` by
    tensor."""

    def __init__(
        self, code: Code, constants: Mapping[int, int], special: Mapping[str, int], memory: Mapping[int, Memory]
    ) -> None:
        self.code = code
        self.constants = constants  # 32-bit words of the constant bank that holds the arguments, by offset
        self.special = special  # SR_TID.X and so on
        self.memory = memory
        self.registers: dict[str, int | None] = {}
        self.counts = [0] * len(code.instructions)
        self.loaded: Counter[int] = Counter()
        self.stored: Counter[int] = Counter()
        self._returns: list[int] = []
        self._local: dict[int, int | None] = {}  # spilled registers, by address
        self._shared: list[int | None] = [None]  # the words of the last store

    def run(self) -> Walk:
        at, steps = 0, 0
        while at != END:
            self.counts[at] += 1
            at = self._step(at)
            steps += 1
            if steps > MOST_STEPS:
                raise CannotFollow(f"a thread executes more than {MOST_STEPS:,} instructions")
        return self

    def _step(self, at: int) -> int:
        """Executes an instruction; returns the next."""
        instruction = self.code.instructions[at]
        holds = self._holds(instruction)
        if instruction.ends_block:
            return self._jump(at, instruction, holds)
        if holds is False:
            return at + 1
        if instruction.root in LOADS or instruction.root in STORES:
            self._access(instruction, holds)
        elif instruction.root in ("LDL", "STL", "LDS", "STS"):
            self._keep(instruction, holds)
        elif holds is None or instruction.root not in EFFECTS:
            clear(self, instruction)
        else:
            EFFECTS[instruction.root](self, instruction)
        return at + 1

    def _holds(self, instruction: Instruction) -> bool | None:
        if not instruction.guard:
            return True
        value = read(self, instruction.guard)
        return None if value is None else bool(value) != instruction.guard_negated

    # ---- where to go

    def _jump(self, at: int, instruction: Instruction, holds: bool | None) -> int:
        if holds is False:
            return at + 1
        match instruction.root:
            case "EXIT":
                return at + 1 if holds is None else END
            case "CALL":
                self._returns.append(at + 1)
                return self.code.target(instruction)
            case "RET":
                return self._returns.pop()
        if holds is not None:
            return self.code.target(instruction)
        block = max(start for start in self.code.starts if start <= at)
        sides = self.code.target(instruction), at + 1
        side = self.code.shorter(block, sides)
        if side is None:
            raise CannotFollow(f"whether a loop runs depends on data: {instruction}")
        return side

    # ---- memory

    def _access(self, instruction: Instruction, holds: bool | None) -> None:
        loads = instruction.root in LOADS
        places = [each for each in instruction.operands if ADDRESS.search(each)]
        place = places[-1 if loads else 0]  # LDGSTS goes from the last to the first
        address = self._address(place)
        if address is None:
            raise CannotFollow(f"an address that depends on data: {instruction.opcode} {place}")
        width = _width(instruction)
        tensor = address >> SPAN
        if tensor not in self.memory:
            raise CannotFollow(f"{instruction.opcode} {place} goes to no argument")
        if loads:
            self.loaded[tensor] += width
            self._fill(instruction, width, self.memory[tensor] if holds else Memory(4))
        else:
            self.stored[tensor] += width

    def _fill(self, instruction: Instruction, width: int, memory: Memory) -> None:
        """The registers that a load writes: ones where the tensor holds integers, else unknown."""
        clear(self, instruction)
        if not memory.integers or instruction.root == "LDGSTS":
            return
        ones = sum(1 << (8 * at) for at in range(0, width, memory.element))
        for word in range(max(width // 4, 1)):
            write(self, element(instruction.operands[0], word), (ones >> (32 * word)) & MASK)

    def _keep(self, instruction: Instruction, holds: bool | None) -> None:
        """Words in the thread's own memory, where ptxas spills registers, and in shared memory."""
        width = _width(instruction)
        words = range(max(width // 4, 1))
        start = self._address(next(each for each in instruction.operands if ADDRESS.search(each)))
        known = holds and width >= 4
        if instruction.root.startswith("ST"):
            values = [read(self, element(instruction.operands[1], word)) if known else None for word in words]
            if instruction.root == "STS":
                self._shared = values
                return
            assert start is not None, f"a stack that depends on data: {instruction}"
            self._local.update((start + 4 * word, value) for word, value in zip(words, values, strict=True))
            return
        clear(self, instruction)
        for word in words if known else ():
            held = self._shared[word % len(self._shared)] if instruction.root == "LDS" else None
            if instruction.root == "LDL" and start is not None:
                held = self._local.get(start + 4 * word)
            write(self, element(instruction.operands[0], word), held)

    def _address(self, place: str) -> int | None:
        """`desc[UR6][R26.64+0x10]`: the sum of registers, of 32 or 64 bits, and of an offset."""
        found = ADDRESS.search(place)
        assert found is not None
        total = 0
        for part in re.findall(r"-?[^+-]+", found[1]):
            part = part.lstrip("+").strip()
            wide = part.endswith(".64") or part.startswith("UR")
            value = read64(self, part.removesuffix(".64")) if wide else read(self, part.removesuffix(".U32"))
            if value is None:
                return None
            total += value - (1 << 32) if part.startswith("-0x") and value >> 31 else value
        return total & ((1 << 64) - 1)


def _width(instruction: Instruction) -> int:
    """Bytes of an access."""
    return next((WIDTHS[each] for each in instruction.opcode.split(".") if each in WIDTHS), 4)
