"""The workload table: one launch each, no byte twice, no spill on any target, and values by the rule of acceptance."""

from __future__ import annotations

import pytest
import torch

from fusedsl import fuse
from fusedsl.comparison import is_random
from fusedsl.testing import assert_launches, assert_matches, assert_no_spills, assert_traffic, count_traffic
from fusedsl.workloads import Workload, cases

CASES = [pytest.param(w, dtype, id=f"{w.name}-{str(dtype).removeprefix('torch.')}") for w, dtype in cases()]


@pytest.mark.parametrize(("workload", "dtype"), CASES)
def test_one_launch_and_no_byte_twice(workload: Workload, dtype: torch.dtype):
    fused, args = fuse(workload.function), workload.args(dtype)
    assert_launches(fused, args, workload.launches)
    assert_traffic(fused, args, at_most=workload.moves)
    plan = fused.plan(*args)
    allowed = workload.loads if plan.passes == 1 else plan.passes
    assert plan.load_bytes <= allowed * plan.compulsory_bytes


@pytest.mark.parametrize(("workload", "dtype"), CASES)
def test_values_and_bytes_as_they_run(workload: Workload, dtype: torch.dtype):
    """On a small instance: against float64, and with every load and store counted as it happens."""
    fused, args = fuse(workload.function), workload.args(dtype, "cpu", small=True)
    if not is_random(fused, args):
        assert_matches(fused, args)
    plan, counted = fused.plan(*args), count_traffic(fused, args)
    assert counted.total_load_bytes == plan.load_bytes
    moved = counted.total_unique_load_bytes + counted.total_unique_store_bytes
    by_data = any(t.below for t in workload.small)  # planned with a row per index, of which some may be the same
    assert moved <= plan.bytes if by_data else moved == plan.bytes
    assert plan.bytes <= workload.moves * plan.compulsory_bytes
    assert plan.load_bytes <= (workload.loads if plan.passes == 1 else plan.passes) * plan.compulsory_bytes


@pytest.mark.slow
@pytest.mark.parametrize(("workload", "dtype"), CASES)
def test_no_spills_on_any_target(workload: Workload, dtype: torch.dtype):
    assert_no_spills(workload.function, workload.args(dtype))


def test_full_tiles_are_accessed_16_bytes_at_a_time():
    for workload, dtype in cases():
        if workload.name in ("vector_exp", "swiglu", "softmax_4096", "rms_norm", "rotary"):
            (compiled,) = fuse(workload.function).plan(*workload.args(dtype)).compile("sm_90")
            assert compiled.access_widths()[128] >= 2, f"{workload.name} {dtype}"
