"""The assertions that users write: each holds where it should, and says what came where it does not."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from fusedsl import fuse, runtime, testing
from fusedsl.api import Fused
from fusedsl.errors import Mismatch, NotOneLaunch, Spills, TooManyBytes, UnsupportedDevice

ROW = torch.randn(6, 100, generator=torch.Generator().manual_seed(0))


def softmax(x):
    return torch.softmax(x, -1)


def norm(x, weight, eps=1e-6):
    h = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps)
    return h * weight, x.argmax(-1), eps


# ---- plans -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("f", [softmax, fuse(softmax)], ids=["plain", "fused"])
@pytest.mark.parametrize("x", [ROW, ROW.to("meta")], ids=["cpu", "meta"])
def test_launches(f, x):
    testing.assert_launches(f, (x,), 1)
    with pytest.raises(NotOneLaunch, match=r"it must be 2 launches, got 1\. The plan:\nsoftmax: 1 launch") as caught:
        testing.assert_launches(f, (x,), 2)
    assert isinstance(caught.value, AssertionError)


def test_traffic():
    testing.assert_traffic(softmax, (ROW,))
    with pytest.raises(TooManyBytes, match=r"at most 0.5 times the compulsory 4,800 bytes, got 4,800 bytes \(1.000"):
        testing.assert_traffic(softmax, (ROW,), at_most=0.5)


def test_keyword_arguments():
    testing.assert_launches(norm, (ROW,), 1, {"weight": ROW[0], "eps": 1e-3})
    testing.assert_traffic(norm, (ROW,), kwargs={"weight": ROW[0]})
    testing.assert_matches(norm, (ROW,), {"weight": ROW[0]})
    assert testing.count_traffic(norm, (ROW,), {"weight": ROW[0]}).total_store_bytes == 6 * 100 * 4 + 6 * 8


@pytest.mark.parametrize("target", testing.TARGETS)
def test_no_spills(target):
    testing.assert_no_spills(softmax, (ROW,), (target,))


def test_spills_are_told():
    class Spilling(Fused):
        def plan(self, *args, **kwargs):  # type: ignore[override]
            kernels = {"sm_80": [], "sm_90": [SimpleNamespace(name="k", spills=8, registers=255)]}
            return SimpleNamespace(graph=SimpleNamespace(name="softmax"), compile=kernels.__getitem__)

    testing.assert_no_spills(Spilling(softmax), (ROW,), ("sm_80",))
    with pytest.raises(Spills, match="softmax: no kernel may spill registers, got k on sm_90: 8 bytes spilled"):
        testing.assert_no_spills(Spilling(softmax), (ROW,), ("sm_80", "sm_90"))


# ---- traffic ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [softmax, lambda x: x + 1, lambda x: x.sum(0)], ids=["softmax", "add", "sum"])
def test_counted_bytes_are_the_planned_ones(function):
    counted, plan = testing.count_traffic(function, (ROW,)), fuse(function).plan(ROW)
    assert counted.total_unique_load_bytes + counted.total_unique_store_bytes == plan.bytes
    assert counted.total_load_bytes >= counted.total_unique_load_bytes


def test_only_what_is_on_the_cpu_is_counted():
    with pytest.raises(UnsupportedDevice, match="must be on the CPU, got meta"):
        testing.count_traffic(softmax, (ROW.to("meta"),))


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_matches(dtype):
    testing.assert_matches(norm, (ROW.to(dtype), ROW[0].to(dtype)))


def test_infinities_and_nothing():
    x = ROW.clone()
    x[0], x[1, 0] = float("-inf"), float("inf")
    testing.assert_matches(softmax, (x,))
    testing.assert_matches(softmax, (ROW[:0],))


class Changed(Fused):
    """A fused function whose results are changed on the way out."""

    def __init__(self, change):
        super().__init__(lambda x: (x.exp(), x > 0))
        self.change = change

    def __call__(self, *args, **kwargs):
        y, positive = self.function(*args, **kwargs)
        return self.change(y, positive)


def _put(tensor, value):
    tensor = tensor.clone()
    tensor[1, 2] = value
    return tensor


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda y, p: (y, p), None),
        (lambda y, p: (y * (1 + 1e-7), p), None),
        (lambda y, p: (y, _put(p, ~p[1, 2])), "output 1 must have eager's values, at [1, 2]"),
        (lambda y, p: (_put(y, 7.0), p), "output 0 must be within"),
        (lambda y, p: (_put(y, 7.0), p), "At [1, 2] it is 7.0, eager's"),
        (lambda y, p: (y + 3 * testing.ulp_at(y.max().item(), y.dtype), p), "in the mean"),
        (lambda y, p: (_put(y, float("nan")), p), "have NaN and infinities where eager has them, at [1, 2]"),
        (lambda y, p: (_put(y, float("inf")), p), "got inf"),
        (lambda y, p: (y.double(), p), "eager's dtype, torch.float32, got torch.float64"),
        (lambda y, p: (y[:2], p), "eager's shape, [6, 100], got [2, 100]"),
        (lambda y, p: (y.mT.contiguous().mT, p), "eager's strides, (100, 1), got (1, 6)"),
        (lambda y, p: [y, p], "eager's structure"),
        (lambda y, p: (y, 3), "output 1 must be a Tensor, got int"),
    ],
)
def test_what_does_not_match(change, says):
    if says is None:
        return testing.assert_matches(Changed(change), (ROW,))
    with pytest.raises(Mismatch) as caught:
        testing.assert_matches(Changed(change), (ROW,))
    assert says in str(caught.value)


def test_half_precision_may_be_as_wrong_as_eager():
    x = (ROW * 100).half()
    testing.assert_matches(lambda x: (x + 1000) - 1000, (x,))


def test_fused_functions_inside_are_eager_in_what_is_compared_with():
    inner, before = fuse(softmax), runtime.counters.launches
    testing.assert_matches(lambda x: inner(x) + 1, (ROW,))
    assert runtime.counters.launches == before + 1


def test_comparisons_tell_the_errors():
    first, _, number = testing.compare(norm, (ROW.half(), ROW[0].half()))
    assert first.fused is not None
    assert first.eager is not None
    assert 0 < first.fused.mean <= first.fused.most <= first.eager.most
    assert number == testing.Comparison(None, None, None)


CAPTURED = torch.randn(100, generator=torch.Generator().manual_seed(1)).half()


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.full((100,), 0.1, dtype=torch.float16))

    def forward(self, x):
        return F.silu(x.float()).to(x.dtype) * self.scale


@pytest.mark.parametrize(
    ("f", "exact"),
    [
        (lambda x: (x * 0.1).half() + x.float(), lambda x: x * 0.1 + x),
        (lambda x: x.to(torch.float16) / 3, lambda x: x / 3),
        (lambda x: x * CAPTURED + torch.ones(100, dtype=torch.float16) / 3, lambda x: x * CAPTURED.double() + 1 / 3),
        (Layer(), lambda x: F.silu(x) * torch.tensor(0.1).half().double()),
        (lambda x: torch.zeros_like(x, dtype=torch.int32) + x.to(torch.int32), lambda x: x.to(torch.int32)),
    ],
    ids=["casts", "narrow", "captured", "module", "integers"],
)
def test_the_reference_rounds_nothing_but_what_is_meant(f, exact):
    x = ROW.half()
    (found,) = testing.reference(f, (x,))
    assert torch.equal(found, exact(x.double()))


def test_a_function_that_insists_on_a_dtype_is_interpreted():
    def insists(x):
        assert x.dtype == torch.float16
        return x / 3

    (found,) = testing.reference(insists, (ROW.half(),))
    assert torch.equal(found, ROW.half().double() / 3)
    testing.assert_matches(insists, (ROW.half(),))


@pytest.mark.parametrize(
    ("value", "dtype", "ulp"),
    [(0, torch.float32, 2**-23), (1.5, torch.float16, 2**-10), (5, torch.float16, 2**-8), (1, torch.float8_e5m2, 0.25)],
)
def test_ulp(value, dtype, ulp):
    assert testing.ulp_at(value, dtype) == ulp
