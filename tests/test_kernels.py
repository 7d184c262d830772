"""Random graphs through the whole compiler: the printed kernels mean what the graph means."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from hypothesis import given

import fusedsl.ops  # noqa: F401  (declares them)
from fusedsl.codegen.inspect import TARGETS
from fusedsl.interpret import interpret, sizes_of
from fusedsl.ir import OPS
from fusedsl.pipeline import optimise
from fusedsl.plan import Plan, Planner
from fusedsl.testing import significant_strides
from tests.builder import Case, Limits
from tests.strategies import NOT_DRAWN, graph_and_inputs, random_case

CPU = torch.device("cpu")
SEED = int(os.environ.get("FUSEDSL_SEED", "0"))


def plan_of(case: Case, safe: bool = False, device: torch.device = CPU) -> Plan:
    sizes = sizes_of(case.graph, case.inputs)
    return Planner(case.graph, optimise(case.graph)).plan(case.inputs, sizes, device, safe=safe)


def assert_means_the_same(case: Case, safe: bool = False, device: torch.device = CPU) -> None:
    """Fused outputs against eager ones and against f64, by the rule of acceptance; places of NaN and inf as eager's.
    Only ours are computed on the device."""
    sizes = sizes_of(case.graph, case.inputs)
    eager = interpret(case.graph, case.inputs, sizes)
    exact = interpret(case.graph, case.inputs, sizes, dtype=torch.float64)
    fused = plan_of(case, safe, device).run([on(device, value) for value in case.inputs], device)
    for ours, theirs, truth in zip((on(CPU, each) for each in fused), eager, exact, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert significant_strides(ours) == significant_strides(theirs)
        if ours.dtype.is_floating_point:
            assert_close(ours.double(), theirs.double(), truth.double(), torch.finfo(ours.dtype).eps)
        else:
            assert torch.equal(ours, theirs)


def on(device: torch.device, value: Any) -> Any:
    """A tensor on the device as it lies in memory, with what lies around it."""
    if not isinstance(value, torch.Tensor) or value.device == device:
        return value
    memory = value.as_strided((value.untyped_storage().nbytes() // value.itemsize,), (1,), 0)
    return memory.to(device).as_strided(value.shape, value.stride(), value.storage_offset())


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, truth: torch.Tensor, eps: float) -> None:
    assert torch.equal(ours.isnan(), theirs.isnan())
    finite = ours.isfinite() & theirs.isfinite() & truth.isfinite()
    if not finite.any():
        return
    scale = max(1.0, truth[finite].abs().max().item())
    error, eagers = (ours - truth)[finite].abs(), (theirs - truth)[finite].abs()
    ulp = eps * scale * (16 if eps == torch.finfo(torch.float64).eps else 1)  # there the truth is eager's own
    assert error.max() <= 2 * eagers.max() + 4 * ulp
    assert error.mean() <= 1.5 * eagers.mean() + ulp


# what is drawn here is exact or nearly so: long chains of steep functions have their tests op by op
STEADY = Limits(ops=None, edges=True)


@given(graph_and_inputs(max_ops=10, limits=STEADY))
def test_kernels_keep_the_meaning_of_random_graphs(case):
    assert_means_the_same(case)


# Contractions, and what usually stands around them.
WITH_PRODUCTS = Limits(dtypes=("f32", "f16", "bf16", "f64", "i32"), edges=False, ops=(
    "matmul", "mm", "bmm", "mv", "dot", "inner", "vecdot", "linear", "bilinear", "addmm", "addmv", "addbmm", "baddbmm",
    "addr", "tensordot", "einsum", "add", "mul", "where", "neg", "cast", "maximum", "sigmoid", "permute", "unsqueeze",
    "slice", "expand", "reshape", "cat", "sum", "amax", "mean", "softmax", "rms_norm",
))  # fmt: skip


@given(graph_and_inputs(max_ops=8, limits=WITH_PRODUCTS))
def test_kernels_keep_the_meaning_of_random_graphs_with_products(case):
    assert_means_the_same(case)


WRONG_ONCE = [3, 8, 47, 117, 130, 179, 203, 235, 2081, 2166, 3266, 3343, 3828, 10474, 10956, 11093, 11400]
WRONG_ONCE += [303779, 308882, 309075, 309196, 310304, 325147, 326514]


@pytest.mark.parametrize("seed", WRONG_ONCE)
def test_cases_that_were_wrong_once(seed):
    for ops in (6, 8, 12, 20, 30):
        assert_means_the_same(random_case(seed, ops))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OPS if name not in NOT_DRAWN])
def test_every_ops_kernel_agrees_with_its_reference(name):
    """One or two applications of the op, on edge values, odd shapes, strides and all its dtypes."""
    for seed in range(SEED, SEED + 4):
        assert_means_the_same(random_case(seed, 3, Limits(ops={name})))


@pytest.mark.parametrize("seed", range(SEED, SEED + 24))
def test_the_safe_schedule_agrees(seed):
    """One launch per reduction and output: the schedule that fused ones are measured against."""
    case = random_case(50_000 + seed, 15)
    fused, safe = plan_of(case), plan_of(case, safe=True)
    assert fused.launches <= safe.launches
    for a, b in zip(fused.run(case.inputs, CPU), safe.run(case.inputs, CPU), strict=True):
        if a.dtype.is_floating_point:
            both = a.isfinite() & b.isfinite()
            scale = max(1.0, b[both].abs().max().item()) if both.any() else 1.0
            assert torch.allclose(
                a[both].double(), b[both].double(), rtol=0, atol=64 * torch.finfo(a.dtype).eps * scale
            )


@pytest.mark.sweep
@pytest.mark.parametrize("seed", range(SEED, SEED + 500))
def test_a_sweep_of_graphs_of_up_to_30_ops(seed):
    assert_means_the_same(random_case(100_000 + seed, 30))


def assert_compiles(case: Case) -> None:
    plan = plan_of(case)
    for target in TARGETS:
        assert [c.name for c in plan.compile(target) if c.spills] == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEED, SEED + 8))
def test_a_sample_of_random_kernels_compiles_for_every_gpu(seed):
    assert_compiles(random_case(200_000 + seed, 15))


@pytest.mark.sweep
@pytest.mark.parametrize("seed", range(SEED, SEED + 100))
def test_random_kernels_compile_for_every_gpu(seed):
    assert_compiles(random_case(200_000 + seed, 30))


DRAWN = [name for name in OPS if name not in NOT_DRAWN]


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWN[SEED % 12 :: 12])
def test_a_sample_of_ops_compiles_for_every_gpu(name):
    assert_compiles(random_case(SEED, 2, Limits(ops={name})))


@pytest.mark.sweep
@pytest.mark.parametrize("name", DRAWN)
def test_every_op_compiles_for_every_gpu(name):
    for seed in range(SEED, SEED + 2):
        assert_compiles(random_case(seed, 2, Limits(ops={name})))
