"""SASS as nvdisasm prints it, read into instructions and basic blocks: the control flow of a kernel.

Nothing here knows what an instruction computes; that is thread.py's affair.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import networkx as nx

LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@(!?)(U?P[T\d]+)\s+)?([A-Z][\w.]*)\s*([^;]*);")
LABEL = re.compile(r"^([.$\w]+):$")
OPERAND = re.compile(r"(?:[^,\[`]|\[[^\]]*\]|`\([^)]*\))+")  # commas inside of brackets do not separate
END = -1  # the block after the last: every EXIT goes there


@dataclass(frozen=True)
class Instruction:
    """`@!P0 LDG.E.128 R20, desc[UR6][R26.64]`"""

    opcode: str
    operands: tuple[str, ...]
    guard: str = ""  # the predicate under which it has an effect
    guard_negated: bool = False

    @property
    def root(self) -> str:
        return self.opcode.partition(".")[0]

    @cached_property
    def modifiers(self) -> frozenset[str]:
        return frozenset(self.opcode.split(".")[1:])

    @property
    def label(self) -> str | None:
        """Where a branch or call goes."""
        found = re.search(r"`\(([^)]*)\)", " ".join(self.operands))
        return found[1] if found else None

    @property
    def is_branch(self) -> bool:
        # BRA.DIV leaves where the lanes of a warp disagree, which they do not before a barrier.
        return self.root in ("BRA", "JMP") and "DIV" not in self.modifiers

    @property
    def ends_block(self) -> bool:
        return self.is_branch or self.root in ("EXIT", "CALL", "RET")


class Code:
    """The instructions of a kernel with its helpers, its basic blocks, and the graph of these."""

    def __init__(self, sass: str) -> None:
        self.instructions: list[Instruction] = []
        self.labels: dict[str, int] = {}
        for line in sass.splitlines():
            if label := LABEL.match(line.strip()):
                self.labels[label[1]] = len(self.instructions)
            elif found := LINE.search(line):
                operands = tuple(each.strip() for each in OPERAND.findall(found[5]))
                self.instructions.append(Instruction(found[4], operands, found[3] or "", found[2] == "!"))

    @cached_property
    def starts(self) -> list[int]:
        """The first instruction of each basic block."""
        count = len(self.instructions)
        after = {at + 1 for at, each in enumerate(self.instructions) if each.ends_block}
        return sorted(at for at in {0, *self.labels.values(), *after} if at < count)

    @cached_property
    def blocks(self) -> dict[int, range]:
        """The instructions of each basic block, by the first."""
        return {a: range(a, b) for a, b in zip(self.starts, [*self.starts[1:], len(self.instructions)], strict=True)}

    def target(self, instruction: Instruction) -> int:
        """The first instruction of the block that a branch goes to."""
        assert instruction.label in self.labels, f"a branch to nowhere: {instruction}"
        return self.labels[instruction.label]

    @cached_property
    def graph(self) -> nx.DiGraph:
        """The blocks by their first instruction, each before those that may follow; END after the last."""
        graph = nx.DiGraph()
        for start, block in self.blocks.items():
            for follower in self._followers(block):
                graph.add_edge(start, follower, weight=len(block))
        return graph

    def _followers(self, block: range) -> Iterator[int]:
        last = self.instructions[block.stop - 1]
        after = block.stop if block.stop < len(self.instructions) else END
        if last.is_branch:
            yield self.target(last)
        elif last.root in ("EXIT", "RET"):
            yield END
        if last.guard or not last.ends_block or last.root == "CALL":
            yield after

    def shorter(self, block: int, sides: tuple[int, int]) -> int | None:
        """Of two blocks that may follow a block, the one from which it is less far to where the ways meet again; None
        where there is a loop on a way, so that a guess would be a guess of how often it runs."""
        join = self._joins[block]
        apart = self.graph.subgraph(set(self.graph) - {join})
        ways = {each for side in sides if side != join for each in (side, *nx.descendants(apart, side))}
        if any(ways & body and not {block, join} <= body for body in self.loops.values()):
            return None
        far = [nx.shortest_path_length(self.graph, side, join, weight="weight") for side in sides]
        return sides[0] if far[0] <= far[1] else sides[1]

    @cached_property
    def _joins(self) -> dict[int, int]:
        """The first block, of each, that every way from it comes through."""
        return nx.immediate_dominators(self.graph.reverse(), END)

    @cached_property
    def loops(self) -> dict[int, frozenset[int]]:
        """The blocks of each natural loop, by its first block."""
        dominators = nx.immediate_dominators(self.graph, 0)
        reached = self.graph.subgraph(dominators)
        found: dict[int, frozenset[int]] = {}
        for last, first in reached.edges:
            if first in _chain(dominators, last):
                body = reached.subgraph(set(reached) - {first})
                before = nx.ancestors(body, last) if last != first else set()
                found[first] = found.get(first, frozenset()) | before | {first, last}
        return found


def _chain(dominators: dict[int, int], block: int) -> Iterator[int]:
    """A block and all that dominate it."""
    yield block
    while dominators.get(block) not in (block, None):
        block = dominators[block]
        yield block
