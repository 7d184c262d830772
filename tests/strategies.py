"""Random graphs out of every declared op, with inputs that they are defined on.

`graph_and_inputs()` is a hypothesis strategy; `random_case(seed, max_ops)` the same generator on numpy's random
numbers, for sweeps of thousands. Ops are applied one at a time to values that are known. An application that an op's
rules or torch refuse is left out, and the next one tried.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from hypothesis import strategies as st

from fusedsl.errors import FuseError
from fusedsl.interpret import Machine
from fusedsl.ir import OPS, Op, build
from tests.builder import Builder, Case, Limits, Refused
from tests.choices import Dice, Hypothesis
from tests.op_calls import CALLS


def random_case(seed: int, max_ops: int = 30, limits: Limits | None = None) -> Case:
    """The case of this seed."""
    return grown(Builder(Dice(seed), replace(limits or Limits(), max_ops=max_ops)))


def graph_and_inputs(max_ops: int = 30, limits: Limits | None = None) -> st.SearchStrategy[Case]:
    """Graphs of up to this many ops, with inputs."""
    limits = replace(limits or Limits(), max_ops=max_ops)
    return st.composite(lambda draw: grown(Builder(Hypothesis(draw), limits)))()


# ---- growing ---------------------------------------------------------------------------------------------------------


def grown(builder: Builder) -> Case:
    """The case that random ops make of an empty builder."""
    if builder.limits.symbols and builder.rarely(2):
        builder.sizes = {"n": builder.source.integer(2, 5), "m": builder.source.integer(2, 4)}
    builder.machine = Machine(builder.sizes)
    chosen = drawable(builder.limits.ops)
    builder.tensor((-4, 4))
    for _ in range(builder.source.integer(1, builder.limits.max_ops)):
        group = chosen[builder.source.integer(0, len(chosen) - 1)]
        apply(builder, OPS[builder.source.pick(group)])
    return builder.finished()


def apply(builder: Builder, op: Op) -> None:
    """One more node, or none where the op refuses its operands."""
    try:
        arguments = CALLS[op.name](builder, op) if op.name in CALLS else builder.arguments(op)
        made = build(op, (), arguments)
        for node in made if isinstance(made, tuple) else (made,):
            builder.adopt(node)
    except (FuseError, Refused, RuntimeError, ValueError, ArithmeticError, IndexError):
        return


# ---- what is drawn from ----------------------------------------------------------------------------------------------

# What has no place in a random graph: inputs and constants are drawn by themselves, `indices` is several nodes, of bits
# float64 has others, what reads a row dozens of times takes seconds to plan, and what takes codes and words of certain
# dtypes and sizes has tests of its own, in test_packing.py and test_quantized.py.
NOT_DRAWN = {
    "input", "const", "contiguous", "size", "indices", "ordered", "reread", "selected",
    "field", "joined_field", "trit", "unpack_rows", "unpack_slabs", "unpack_trits", "small_float", "e8m0",
    "as_stored", "small_code", "moved", "pack_units", "pack_trits", "exponent_of", "quantize_parts", "requantized",
}  # fmt: skip
# What is drawn only where it is asked for: the graphs of a seed stay what they were before it was declared.
_LATER = ("fusedsl.ops.contract", "fusedsl.ops.einstein", "fusedsl.ops.attending")
ASKED_FOR = {name for name, op in OPS.items() if op.reference.__module__ in _LATER}


def drawable(names: Collection[str] | None = None) -> list[list[str]]:
    """The ops to draw from, in groups that are equally likely: many rules are about the few ops of the first ones."""
    left_out = NOT_DRAWN | ASKED_FOR if names is None else NOT_DRAWN
    names = [n for n in (OPS if names is None else names) if n not in left_out]
    common = [n for n in ("add", "mul", "sub", "neg", "where", "maximum", "lt", "cast") if n in names]
    kinds = ("elementwise", "view", "reduce", "scan", "composition", "indexed")
    groups = [common, *([n for n in names if OPS[n].kind == kind] for kind in kinds)]
    return [group for group in groups if group]
