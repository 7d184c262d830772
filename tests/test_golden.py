"""A dozen telling kernels as text, reviewed as code. Refresh them with `make golden`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fusedsl import fuse
from fusedsl.workloads import WORKLOADS

HALF = torch.float16
BY_NAME = {w.name: w for w in WORKLOADS}


@pytest.mark.parametrize(
    "name", ["vector_exp", "dyt", "softmax_4096", "softmax_131072", "softmax_first", "cross_entropy",
    "add_rms_norm_fp8",
             "group_norm_silu", "embedding_norm", "rotary", "concat_gelu"],
)  # fmt: skip
def test_workload(golden, name):
    workload = BY_NAME[name]
    plan = fuse(workload.function).plan(*workload.args(HALF))
    golden.check(f"{name}.py", "\n\n".join(k.source for k in plan.kernels))


def scalar_loss(x, y):
    return F.mse_loss(x, y)


def test_scalar_loss(golden):
    x = torch.empty(4096, 1000, device="meta")
    golden.check("scalar_loss.py", "\n\n".join(k.source for k in fuse(scalar_loss).plan(x, x).kernels))
