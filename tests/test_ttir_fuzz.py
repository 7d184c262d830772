"""Random kernels give the same compiled as interpreted: ttir_fuzz.py makes and compares them."""

import os

import pytest

from tests import ttir_fuzz

SAMPLE = range(40)
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
