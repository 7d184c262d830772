"""Random kernels give the same compiled as interpreted: ttir_fuzz.py makes and compares them."""

import os

import pytest

from fusedsl.codegen.cpu import analysis, nest, sinks
from tests import ttir_fuzz

# What the random kernels must not be blind to. After a change of the generator other seeds show the same.


def rules_out_by_either(mask, facts, right=sinks.rules_out):
    """As if `a | b` were false where a is."""
    parts = mask.node.operands if mask.node is not None and mask.node.name == "arith.ori" else ()
    return right(mask, facts) or any(rules_out_by_either(v, facts) for v in parts)


def bound_that_cannot_wrap(self, key, base, bound, inclusive, right=nest.Nest._bound_of_lanes):
    return right(self, key, self.b.resize(base, "i64"), bound, inclusive)


MISTAKES = [
    (sinks, "rules_out", rules_out_by_either, 30),
    (nest.Nest, "_bound_of_lanes", bound_that_cannot_wrap, 21),
    (analysis.Analysis, "_must_not_wait", lambda self, load: False, 5),
]
SAMPLE = sorted({*range(20), *(seed for *_, seed in MISTAKES)})
LONG = 400  # kernels of a sweep's test; it takes minutes


def assert_agrees(seed: int, forked: bool) -> None:
    """Where the target lacks an operation, nothing is said."""
    case, wrong = ttir_fuzz.check(seed, forked)
    assert not wrong or wrong.startswith("lacks "), f"seed {seed}: {wrong}\n{case.text}"


@pytest.mark.parametrize("seed", SAMPLE)
def test_compiled_is_interpreted(seed):
    assert_agrees(seed, forked=False)


@pytest.mark.sweep
@pytest.mark.parametrize("part", range(4))
def test_compiled_is_interpreted_at_length(part):
    first = int(os.environ["FUSEDSL_SEED"]) + part * LONG
    for seed in range(first, first + LONG):
        assert_agrees(seed, forked=True)


@pytest.mark.parametrize("where, name, wrong, seed", MISTAKES)
def test_a_mistake_of_the_compiler_is_seen(where, name, wrong, seed, monkeypatch):
    monkeypatch.setattr(where, name, wrong)
    assert "differ" in ttir_fuzz.check(seed)[1], f"{name}: seed {seed} no longer shows it"
