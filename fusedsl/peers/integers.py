"""What the integer instructions of sm_80 and sm_90 compute: enough of SASS to follow a kernel's control flow.

An effect reads its operands by name and writes its results; whatever has no effect here leaves its results unknown.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from .registers import CONSTANT, MASK, PREDICATE, ZEROS, State, Value, clear, element, read, read64, write, write64
from .sass import Instruction

Effect = Callable[[State, Instruction], None]


def _signed(word: int) -> int:
    return word - (1 << 32) if word >> 31 else word


def _parts(instruction: Instruction) -> tuple[str, list[str], list[str], list[str]]:
    """An instruction's register, the predicates it writes, its sources, and the predicates it reads at the end."""
    first, *rest = instruction.operands
    written = []
    while rest and PREDICATE.fullmatch(rest[0]):
        written.append(rest.pop(0))
    read_last = []
    while rest and PREDICATE.fullmatch(rest[-1]):
        read_last.insert(0, rest.pop())
    return first, written, rest, read_last


def _known(state: State, texts: list[str]) -> list[int] | None:
    values = [read(state, text) for text in texts]
    return None if None in values else [value for value in values if value is not None]



def _pure(function: Callable[..., int]) -> Effect:
    """An effect that writes a word computed from the words it reads, predicates last, and from its modifiers."""

    def effect(state: State, instruction: Instruction) -> None:
        result, *sources = instruction.operands
        values = _known(state, sources)
        write(state, result, None if values is None else function(instruction.modifiers, *values) & MASK)

    return effect


def _move(state: State, instruction: Instruction) -> None:
    write(state, instruction.operands[0], read(state, instruction.operands[1]))


def _constant(state: State, instruction: Instruction) -> None:
    """LDC: one or two words of the constant bank, or a part of a word."""
    result, source = instruction.operands[:2]
    found, modifiers = CONSTANT.fullmatch(source), instruction.modifiers
    if not found:  # where a register says
        clear(state, instruction)
        return
    offset = int(found[1], 16)
    value = state.constants.get(offset & ~3)
    if parts := modifiers & {"U8", "U16", "S8", "S16"}:
        (part,) = parts
        bits = int(part[1:])
        if value is not None:
            value = value >> 8 * (offset & 3) & (1 << bits) - 1
            value = (value - (1 << bits)) & MASK if part[0] == "S" and value >> bits - 1 else value
    write(state, result, value)
    if "64" in modifiers:
        write(state, element(result, 1), state.constants.get(offset + 4))


def _special(state: State, instruction: Instruction) -> None:
    result, source = instruction.operands
    value = 0 if source in ZEROS else state.special.get(source)
    if instruction.root == "CS2R" and "32" not in instruction.modifiers:
        write64(state, result, value)
    else:
        write(state, result, value)


def _add(state: State, instruction: Instruction) -> None:
    """IADD3, UIADD3, with carries out and in."""
    result, carries, sources, carried = _parts(instruction)
    texts = [*sources, *(carried if "X" in instruction.modifiers else [])]
    values = _known(state, texts)
    total = None
    if values is not None:
        # The complement and one: a borrow of zero carries.
        total = sum(values) + sum(1 << 32 for text, value in zip(texts, values, strict=True)
                                  if text.startswith("-") and value == 0)  # fmt: skip
    write(state, result, None if total is None else total & MASK)
    for place, name in enumerate(carries):
        write(state, name, None if total is None else int(total >> 32 > place))


def _multiply(state: State, instruction: Instruction) -> None:
    """IMAD in all its forms: a * b + c. WIDE, HI: c has two words; HI: the upper word of the result."""
    result, carries, (a, b, c), carried = _parts(instruction)
    modifiers, factors = instruction.modifiers, _known(state, [a, b])
    wide = modifiers & {"WIDE", "HI"}
    addend = read64(state, c) if wide else read(state, c)
    for name in carries:
        write(state, name, None)
    if factors is not None and 0 in factors and "X" not in modifiers and not wide:
        total = addend  # also where the other factor is unknown, as in a move
    elif factors is None or addend is None or None in (extra := [read(state, each) for each in carried]):
        total = None
    else:
        if "U32" not in modifiers:
            factors = [_signed(each) for each in factors]
        total = factors[0] * factors[1] + sum(each or 0 for each in extra if "X" in modifiers)
        total = (total + addend) >> 32 if "HI" in modifiers else total + addend
    if "WIDE" in modifiers:
        write64(state, result, total if total is None else total & (1 << 64) - 1)
    else:
        write(state, result, total if total is None else total & MASK)


def _shifted_add(state: State, instruction: Instruction) -> None:
    """LEA: (a << s) + b; LEA.HI the upper word of that for a of two words."""
    result, carries, sources, carried = _parts(instruction)
    values, carry = _known(state, sources), _known(state, carried)
    total = None
    if values is not None and carry is not None:
        a, b, shift = values[0], values[1], values[-1]
        if "HI" in instruction.modifiers:
            high = values[2] if len(values) == 4 else MASK * (a >> 31)
            a = (((high << 32 | a) << shift) >> 32) & MASK
        else:
            a = (a << shift) & MASK
        total = a + b + (sum(carry) if "X" in instruction.modifiers else 0)
    write(state, result, None if total is None else total & MASK)
    for name in carries:
        write(state, name, None if total is None else total >> 32)


def _shift(modifiers: frozenset[str], a: int, shift: int, b: int) -> int:
    """SHF: of the words b and a together."""
    both, wide = b << 32 | a, modifiers & {"U64", "S64"}
    shift = shift & 31 if "W" in modifiers else min(shift, 64 if wide else 32)
    if "L" in modifiers:
        return (both << shift) >> 32 if "HI" in modifiers else both << shift
    if modifiers & {"S32", "S64"} and b >> 31:
        both -= 1 << 64
    return (both >> shift) >> 32 if "HI" in modifiers else both >> shift


def _table(inputs: list[Value], table: int) -> Value:
    """A bit by a table of three bits, or None where it depends on an unknown one."""
    rows = {0}
    for value in inputs:
        rows = {row << 1 | bit for row in rows for bit in ((0, 1) if value is None else (value,))}
    results = {table >> row & 1 for row in rows}
    return results.pop() if len(results) == 1 else None


def _logic(state: State, instruction: Instruction) -> None:
    """LOP3: the three words bit by bit through a table; the predicate says whether the result is not zero."""
    operands = list(instruction.operands)
    predicate = operands.pop(0) if PREDICATE.fullmatch(operands[0]) else None
    result, *texts, table = operands[:5]
    values, lookup = [read(state, text) for text in texts], int(table, 16)
    word: Value = 0
    for bit in range(32):
        found = _table([None if v is None else v >> bit & 1 for v in values], lookup)
        word = None if found is None or word is None else word | found << bit
    write(state, result, word)
    if predicate is not None:
        also = read(state, operands[5]) if len(operands) > 5 else 0
        write(state, predicate, 1 if also else None if word is None or also is None else int(word != 0))


def _predicates(state: State, instruction: Instruction) -> None:
    """PLOP3: three predicates through a table, and through another for the second result."""
    first, second, *inputs, table, other = instruction.operands
    values = [read(state, text) for text in inputs[:3]]
    write(state, first, _table(values, int(table, 16)))
    write(state, second, _table(values, int(other, 16)))


COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "LT": lambda a, b: a < b, "LE": lambda a, b: a <= b, "GT": lambda a, b: a > b,
    "GE": lambda a, b: a >= b, "EQ": lambda a, b: a == b, "NE": lambda a, b: a != b,
    "T": lambda a, b: True, "F": lambda a, b: False,
}  # fmt: skip


def _compare(state: State, instruction: Instruction) -> None:
    """ISETP: a comparison, and, or, xor a predicate. EX: of upper words, the lower ones having been compared."""
    first, second, a, b, other, *lower = instruction.operands
    values = _known(state, [a, b])
    low = _known(state, lower)
    name, *rest = [each for each in instruction.opcode.split(".")[1:] if each in COMPARISONS]
    assert not rest, instruction
    found: Value = None
    if values is not None:
        x, y = values if "U32" in instruction.modifiers else map(_signed, values)
        if "EX" not in instruction.modifiers or (x != y and name not in ("EQ", "NE")):
            found = int(COMPARISONS[name](x, y))
        elif x != y:
            found = int(name == "NE")
        else:
            found = None if low is None else low[0]
    combined = read(state, other)
    tables = {"AND": 0b1000, "OR": 0b1110, "XOR": 0b0110}
    table = next(tables[each] for each in instruction.opcode.split(".") if each in tables)
    write(state, first, _table([found, combined], table))
    write(state, second, _table([None if found is None else 1 - found, combined], table))


def _pack(state: State, instruction: Instruction) -> None:
    """P2R: the predicates of a mask as bits, the others from a word."""
    result, _, other, mask = instruction.operands[:4]
    word, chosen = read(state, other), int(mask, 16)
    bits = [read(state, f"P{at}") for at in range(7) if chosen >> at & 1]
    places = [at for at in range(7) if chosen >> at & 1]
    if word is None or None in bits or len(instruction.modifiers):
        write(state, result, None)
    else:
        packed = sum((bit or 0) << at for bit, at in zip(bits, places, strict=True))
        write(state, result, packed | word & ~chosen & MASK)


def _unpack(state: State, instruction: Instruction) -> None:
    """R2P: the predicates of a mask from the bits of a word."""
    _, source, mask = instruction.operands[:3]
    word, chosen = read(state, source), int(mask, 16)
    shift = 8 * next((int(each[1]) for each in instruction.modifiers if each in ("B1", "B2", "B3")), 0)
    for at in range(7):
        if chosen >> at & 1:
            write(state, f"P{at}", None if word is None else word >> (at + shift) & 1)


def _select(state: State, instruction: Instruction) -> None:
    result, a, b, choice = instruction.operands
    chosen = read(state, choice)
    write(state, result, None if chosen is None else read(state, a if chosen else b))


def _least(modifiers: frozenset[str], a: int, b: int, least: int) -> int:
    pair = (a, b) if "U32" in modifiers else (_signed(a), _signed(b))
    return min(pair) if least else max(pair)


def _sum_or(modifiers: frozenset[str], a: int, b: int, c: int, least: int) -> int:
    """VIADDMNMX: the less or greater of a sum and c."""
    return _least(modifiers, (a + b) & MASK, c, least)


def _least_of_three(modifiers: frozenset[str], a: int, b: int, c: int, least: int) -> int:
    return _least(modifiers, _least(modifiers, a, b, least) & MASK, c, least)


def _permute(modifiers: frozenset[str], a: int, selector: int, b: int) -> int:
    """PRMT: four bytes out of the eight of b and a, each by four bits of the selector; the top one repeats the sign."""
    both = (b << 32 | a).to_bytes(8, "little")
    nibbles = [selector >> (4 * at) & 15 for at in range(4)]
    chosen = [(0xFF if both[n & 7] >> 7 else 0) if n & 8 else both[n & 7] for n in nibbles]
    return int.from_bytes(bytes(chosen), "little")


def _extend(modifiers: frozenset[str], a: int, bits: int) -> int:
    """SGXT: the lowest bits, with their sign or without."""
    low = a & (1 << bits) - 1
    return low if "U32" in modifiers or not low >> (bits - 1) & 1 else low - (1 << bits)


def _to_word(value: float) -> int:
    return struct.unpack("<I", struct.pack("<f", value))[0]


def _to_float(word: int) -> float:
    return struct.unpack("<f", struct.pack("<I", word))[0]


def _halves(state: State, instruction: Instruction) -> None:
    """HFMA2 with a factor of zero: how ptxas also writes a constant, as two half floats."""
    result, *sources = instruction.operands
    if len(sources) == 4 and {"RZ", "-RZ"} & set(sources[:2]):
        low, high = (struct.unpack("<H", struct.pack("<e", float(text)))[0] for text in reversed(sources[2:]))
        write(state, result, high << 16 | low)
    else:
        clear(state, instruction)


def _float(state: State, instruction: Instruction) -> None:
    """MUFU: the reciprocal, which integer division starts from; other functions are of floats only."""
    result, source = instruction.operands[:2]
    value = read(state, source) if "RCP" in instruction.modifiers else None
    number = _to_float(value) if value is not None else 0.0
    write(state, result, _to_word(1 / number) if number else None)


def _truncate(modifiers: frozenset[str], a: int) -> int:
    return int(_to_float(a))


def _from_integer(modifiers: frozenset[str], a: int) -> int:
    return _to_word(float(a if "U32" in modifiers else _signed(a)))


EFFECTS: dict[str, Effect] = {
    "MOV": _move, "UMOV": _move, "R2UR": _move, "LDC": _constant, "ULDC": _constant,
    "S2R": _special, "S2UR": _special, "CS2R": _special,
    "IADD3": _add, "UIADD3": _add, "VIADD": _add, "IMAD": _multiply, "UIMAD": _multiply,
    "LEA": _shifted_add, "ULEA": _shifted_add, "SHF": _pure(_shift), "USHF": _pure(_shift),
    "LOP3": _logic, "ULOP3": _logic, "PLOP3": _predicates, "UPLOP3": _predicates,
    "ISETP": _compare, "UISETP": _compare, "SEL": _select, "USEL": _select,
    "IMNMX": _pure(_least), "UIMNMX": _pure(_least), "VIMNMX": _pure(_least),
    "VIADDMNMX": _pure(_sum_or), "VIMNMX3": _pure(_least_of_three),
    "PRMT": _pure(_permute), "UPRMT": _pure(_permute), "SGXT": _pure(_extend), "USGXT": _pure(_extend),
    "IABS": _pure(lambda modifiers, a: abs(_signed(a))), "POPC": _pure(lambda modifiers, a: a.bit_count()),
    "P2R": _pack, "R2P": _unpack, "HFMA2": _halves, "MUFU": _float, "F2I": _pure(_truncate),
    "I2F": _pure(_from_integer), "I2FP": _pure(_from_integer),
}  # fmt: skip
