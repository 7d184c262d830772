"""The blocks of a function as a tree, in which everything that only one block leads to lies under that block.

Triton makes blocks of a `return` inside an `if`, and never goes back from one to an earlier one. A block's *joins* are
the blocks that several ways out of it lead to, and no way around it:

    entry:  cond_br a, left, join           entry
    left:   cond_br b, out, join             |- left           the only way there is from entry
    out:    return x                         |    '- out
    join:   return y                         '- join           a join of entry
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..ttir import VALUE, Block

RETURN = ""  # where a block goes that ends the function

Edge = tuple[str, list[str]]  # the label of the next block, the values that it is given


def edges(block: Block) -> list[Edge]:
    """Where a block may go, for a conditional branch first if the condition holds."""
    end = block.ops[-1]
    if not end.name.startswith("cf."):
        return [(RETURN, end.operands)]
    targets = re.findall(r"(\^\w+)(?:\(([^)]*)\))?", end.text)
    return [(label, VALUE.findall(given.partition(" : ")[0])) for label, given in targets]


class Flow:
    """The blocks that can be reached, by label."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = {block.label: block for block in blocks}
        self.entry = blocks[0].label
        self.edges = {label: edges(block) for label, block in self.blocks.items()}
        self.order = self._order()
        self.joins: dict[str, list[str]] = {label: [] for label in self.order}
        self._find_joins()

    def is_join(self, label: str) -> bool:
        return any(label in joins for joins in self.joins.values())

    def _order(self) -> list[str]:
        """Every block before those that it leads to."""
        done: dict[str, None] = {}

        def visit(label: str) -> None:
            for target, _ in reversed(self.edges[label]):
                if target != RETURN and target not in done:
                    visit(target)
            done[label] = None

        visit(self.entry)
        return list(reversed(done))

    def _find_joins(self) -> None:
        above: dict[str, list[str]] = {self.entry: [self.entry]}  # the blocks that every way to a block passes
        for label in self.order[1:]:
            ways = [source for source in self.order for target, _ in self.edges[source] if target == label]
            assert all(source in above for source in ways), "a branch goes back"
            common = [b for b in above[ways[0]] if all(b in above[source] for source in ways)]
            above[label] = [*common, label]
            if len(ways) > 1:
                self.joins[common[-1]].append(label)
