"""`fusedsl.testing.fuzz`: what it finds, how small, and that its script repeats it."""

import sys

import pytest
import torch
import torch.nn.functional as F

from fusedsl.errors import Counterexample, Mismatch, MissingPackage, UnknownFunction
from fusedsl.ir import OPS, declare
from fusedsl.ops.rules import same
from fusedsl.testing import fuzz


def rms_norm(x, weight, eps=1e-6):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def lookup(index, table):
    return F.embedding(index, table).relu()


@pytest.fixture
def broken():
    """An op whose kernel is wrong for numbers above 100."""

    @declare(type=same, triton="tl.minimum({0}, 100.0)")
    def uncapped(x: torch.Tensor):
        """x"""
        return x.clone()

    yield uncapped
    del OPS["uncapped"]


def test_functions_that_are_right():
    tried = fuzz(rms_norm, "f32[B=8, N=64], f32[N]", {"eps": 1e-3}, examples=30)
    assert tried.agreed > 20 and str(tried).endswith("0 not supported")
    assert fuzz(lookup, (torch.arange(7), torch.randn(7, 5)), examples=30).agreed > 10


def test_the_smallest_counterexample_and_its_script(broken):
    def capped(pair, scale):
        return broken(pair["x"]) * scale + pair["y"].sum()

    x = torch.randn(6, 50)
    with pytest.raises(Counterexample, match="This script repeats it") as caught:
        fuzz(capped, ({"x": x, "y": x[0]}, 2), examples=200)
    script = str(caught.value.parts["script"])
    assert "'y': t" in script and "def capped(pair, scale):" in script
    assert max(len(line) for line in script.splitlines() if line.startswith("t")) < 120, script
    with pytest.raises(Mismatch):
        exec(compile(script, "<script>", "exec"), {"broken": broken})


def test_what_the_arguments_themselves_raise():
    with pytest.raises(UnknownFunction):
        fuzz(lambda x: torch.linalg.svd(x), "f32[3, 3]")


def test_without_hypothesis(monkeypatch):
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(MissingPackage, match=r"needs the package hypothesis. Install it, or fusedsl\[test\]"):
        fuzz(rms_norm, "f32[3, 4], f32[4]")
