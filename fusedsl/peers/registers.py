"""A thread's registers and predicates, read and written as SASS names them.

A register is an unsigned word of 32 bits, or None where its value is unknown; a predicate is 0, 1 or None.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

from .sass import Instruction

Value = int | None

MASK = 0xFFFFFFFF
ZEROS = {"RZ", "URZ", "SRZ"}
REGISTER = re.compile(r"(U?R)(\d+)")
PREDICATE = re.compile(r"!?U?P(?:T|\d+)")
CONSTANT = re.compile(r"c\[0x0\]\[(0x[0-9a-f]+)\]")
NO_RESULT = {
    "BAR", "BRA", "BSSY", "BSYNC", "CCTL", "DEPBAR", "ERRBAR", "FENCE", "LDGDEPBAR", "MEMBAR", "NANOSLEEP", "NOP",
    "STL", "STS", "STSM", "SYNCS", "WARPSYNC", "YIELD",
}  # fmt: skip
PAIRS = {"CS2R", "DADD", "DFMA", "DMUL", "DMNMX"}  # these write two registers, or as many as a modifier says


class State(Protocol):
    """What instructions work on."""

    registers: dict[str, Value]
    constants: Mapping[int, int]
    special: Mapping[str, int]



def element(name: str, offset: int) -> str:
    """R4 and 1 -> R5; a register that is always zero stays itself."""
    found = REGISTER.match(name)
    return f"{found[1]}{int(found[2]) + offset}" if found else name


def read(state: State, text: str) -> Value:
    """An operand's word; its sign and complement are applied."""
    if PREDICATE.fullmatch(text):
        return _predicate(state, text)
    name = text.lstrip("-~|").removesuffix("|").removesuffix(".reuse")
    value = _plain(state, name)
    if value is None:
        return None
    if text.startswith("~"):
        return ~value & MASK
    return -value & MASK if text.startswith("-") else value


def read64(state: State, name: str) -> Value:
    """Two registers, the lower word first; a constant's eight bytes; or a number, its sign extended."""
    name = name.removesuffix(".reuse")
    if found := CONSTANT.fullmatch(name):
        low, high = (state.constants.get(int(found[1], 16) + at) for at in (0, 4))
    elif name.lstrip("-").startswith("0x"):
        return int(name, 16) & (1 << 64) - 1
    else:
        low, high = read(state, name), read(state, element(name, 1))
    return None if low is None or high is None else low | high << 32


def write(state: State, name: str, value: Value) -> None:
    """A register or a predicate; those that are always zero or true are left."""
    if name not in ZEROS and name not in ("PT", "UPT"):
        state.registers[name] = value


def write64(state: State, name: str, value: Value) -> None:
    for word in (0, 1):
        write(state, element(name, word), None if value is None else (value >> (32 * word)) & MASK)


def clear(state: State, instruction: Instruction) -> None:
    """What an instruction writes becomes unknown."""
    if instruction.root in NO_RESULT or not instruction.operands:
        return
    for text in instruction.operands[:-1]:
        if not PREDICATE.fullmatch(text):
            break
        write(state, text, None)
    for text in instruction.operands[1:2]:  # a second result, behind the register
        if PREDICATE.fullmatch(text):
            write(state, text, None)
    first = next((each for each in instruction.operands if not PREDICATE.fullmatch(each)), "")
    if REGISTER.fullmatch(first):
        for word in range(_words(instruction)):
            write(state, element(first, word), None)


def _words(instruction: Instruction) -> int:
    modifiers = instruction.modifiers
    if "128" in modifiers or "MMA" in instruction.root or (instruction.root == "LDSM" and "4" in modifiers):
        return 4
    return 2 if modifiers & {"64", "F64", "WIDE", "2"} or instruction.root in PAIRS else 1


def _predicate(state: State, text: str) -> Value:
    name = text.removeprefix("!")
    value = 1 if name in ("PT", "UPT") else state.registers.get(name)
    return value if value is None or name == text else int(not value)


def _plain(state: State, name: str) -> Value:
    if name in ZEROS:
        return 0
    if found := CONSTANT.fullmatch(name):
        return state.constants.get(int(found[1], 16))
    if name.startswith("0x"):
        return int(name, 16) & MASK
    # A register that nothing was written to holds anything, so zero: ptxas collects predicates in such, bit by bit.
    return state.registers.get(name, 0 if REGISTER.fullmatch(name) else None)
