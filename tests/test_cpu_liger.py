"""The CPU target on Liger's kernels as they are: forward and backward, by Liger's own functions on CPU tensors."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.cpu_packages import FLOATS, assert_near, assert_same_with_gradients, tuned_once

if torch.cuda.is_available():
    pytest.skip("Liger looks for a GPU and would take its settings", allow_module_level=True)

liger = pytest.importorskip("liger_kernel.ops")
dyt = pytest.importorskip("liger_kernel.ops.dyt")

pytestmark = pytest.mark.sample

SHAPES = [(1, 5), (7, 300), (2, 3, 64), (5, 1025)]


@pytest.fixture(scope="module", autouse=True)
def computer(cpu_driver):
    with tuned_once() as patch:
        # DyT's backward asks for the number of multiprocessors, and knows no CPU. What it asks Triton's driver for on
        # an NPU has a default, so that path needs nothing else.
        patch.setattr(dyt, "infer_device", lambda: "npu")
        yield


def each_float(test):
    return pytest.mark.parametrize("dtype", FLOATS, ids=["f32", "bf16", "f16"])(test)


def each_shape(test):
    return pytest.mark.parametrize("shape", SHAPES, ids=str)(test)


# ---- norms -----------------------------------------------------------------------------------------------------------


def rms_norm(x: Tensor, weight: Tensor | None, eps: float, offset: float) -> Tensor:
    normed = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps)
    return normed if weight is None else normed * (weight + offset)


@pytest.mark.parametrize("casting", ["llama", "gemma", "none"])
@each_shape
@each_float
def test_rms_norm(dtype, shape, casting):
    x, weight = torch.randn(shape, dtype=dtype), torch.rand(shape[-1], dtype=dtype)
    apply = lambda x, w: liger.LigerRMSNormFunction.apply(x, w, 1e-5, 0.0, casting, False)
    # By "none" the mean of squares, and its root, are in the type itself.
    assert_same_with_gradients(apply, lambda x, w: rms_norm(x, w, 1e-5, 0.0), x, weight, roundings=8)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("casting", ["llama", "gemma"])
@each_float
def test_rms_norm_with_an_offset_or_without_a_weight(dtype, casting, in_place):
    x, weight = torch.randn(9, 130, dtype=dtype), torch.randn(130, dtype=dtype)
    apply = lambda x, w: liger.LigerRMSNormFunction.apply(x, w, 1e-6, 1.0, casting, in_place)
    assert_same_with_gradients(apply, lambda x, w: rms_norm(x, w, 1e-6, 1.0), x, weight, roundings=8)
    assert_same_with_gradients(apply, lambda x, w: rms_norm(x, w, 1e-6, 1.0), x, None, roundings=8)


@pytest.mark.parametrize("casting", ["llama", "gemma"])
@each_float
def test_rms_norm_of_many_short_rows(dtype, casting):
    """From 32768 rows on a program takes sixteen of them."""
    x, weight = torch.randn(32768, 24, dtype=dtype), torch.rand(24, dtype=dtype)
    apply = lambda x, w: liger.LigerRMSNormFunction.apply(x, w, 1e-6, 0.0, casting, False)
    assert_same_with_gradients(apply, lambda x, w: rms_norm(x, w, 1e-6, 0.0), x, weight, roundings=8)


@pytest.mark.parametrize("casting", ["llama", "gemma", "none"])
@each_shape
@each_float
def test_fused_add_rms_norm(dtype, shape, casting):
    x, residual = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)
    weight = torch.rand(shape[-1], dtype=dtype)

    def reference(x, residual, weight):
        total = x + residual
        return rms_norm(total, weight, 1e-5, 1.0), total

    apply = lambda x, r, w: liger.LigerFusedAddRMSNormFunction.apply(x, r, w, 1e-5, 1.0, casting)
    assert_same_with_gradients(apply, reference, x, residual, weight, roundings=8)


@each_shape
@each_float
def test_layer_norm(dtype, shape):
    x = torch.randn(shape, dtype=dtype) + 1
    weight, bias = torch.randn(shape[-1], dtype=dtype), torch.randn(shape[-1], dtype=dtype)
    apply = lambda x, w, b: liger.LigerLayerNormFunction.apply(x, w, b, 1e-5)
    assert_same_with_gradients(apply, lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b, 1e-5), x, weight, bias)


@pytest.mark.parametrize(("shape", "groups"), [((3, 12, 5, 7), 4), ((2, 8, 33), 1), ((2, 6, 16), 6)], ids=str)
@each_float
def test_group_norm(dtype, shape, groups):
    channels = shape[1]
    x = torch.randn(shape, dtype=dtype)
    # Programs add to the weights' gradients atomically, in the weights' type: a rounding for each.
    weight, bias = torch.randn(channels, dtype=dtype), torch.randn(channels, dtype=dtype)
    apply = lambda x, w, b: liger.LigerGroupNormFunction.apply(x, w, b, channels, groups, 1e-5)
    # Whatever is not float32 has its mean and root in its own type, and gradients of weights rounded to bf16.
    roundings = 64 if dtype == torch.float16 else 8
    assert_same_with_gradients(apply, lambda x, w, b: F.group_norm(x, groups, w, b, 1e-5), x, weight, bias,
                               roundings=roundings)  # fmt: skip


@pytest.mark.parametrize(("shape", "has_beta"), [((7, 300), True), ((2, 3, 1025), False)], ids=str)
@each_float
def test_dyt(dtype, shape, has_beta):
    n = shape[-1]
    x, alpha = torch.randn(shape, dtype=dtype), torch.tensor([0.7], dtype=dtype)
    gamma, beta = torch.randn(n, dtype=dtype), torch.randn(n, dtype=dtype) if has_beta else None
    reference = lambda x, alpha, gamma, beta: torch.tanh(alpha * x) * gamma + (0 if beta is None else beta)
    assert_same_with_gradients(liger.LigerDyTFunction.apply, reference, x, alpha, gamma, beta)


# ---- elementwise -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gate", "down"), [(1.0, 1.0), (0.5, 2.0)])
@each_shape
@each_float
def test_swiglu(dtype, shape, gate, down):
    a, b = torch.randn(shape, dtype=dtype) * 3, torch.randn(shape, dtype=dtype)
    apply = lambda a, b: liger.LigerSiLUMulFunction.apply(a, b, gate, down)
    assert_same_with_gradients(apply, lambda a, b: F.silu(a * gate) * b * down, a, b)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("shape", [(7, 300), (5, 2050)], ids=str)  # of more dimensions it has no gradient
@each_float
def test_swiglu_of_one_tensor(dtype, shape, in_place):
    def reference(x):
        gate, up = x.chunk(2, -1)
        return F.silu(gate) * up

    apply = lambda x: liger.LigerFusedGateUpSiLUMulFunction.apply(x, in_place)
    assert_same_with_gradients(apply, reference, torch.randn(shape, dtype=dtype))


@each_shape
@each_float
def test_geglu(dtype, shape):
    a, b = torch.randn(shape, dtype=dtype) * 3, torch.randn(shape, dtype=dtype)
    assert_same_with_gradients(liger.LigerGELUMulFunction.apply, lambda a, b: F.gelu(a, approximate="tanh") * b, a, b)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize(("heads", "width", "rotated"), [((4, 2), 64, 64), ((3, 1), 40, 40), ((5, 5), 64, 24)], ids=str)
@each_float
def test_rope(dtype, heads, width, rotated, batched):
    batch, length = 2, 9
    angles = torch.randn(batch if batched else 1, length, rotated // 2).repeat(1, 1, 2)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    q, k = (torch.randn(batch, length, n, width, dtype=dtype).transpose(1, 2) for n in heads)

    def turn(x, cos, sin):
        moving, still = x[..., :rotated], x[..., rotated:]
        left, right = moving.chunk(2, -1)
        moved = moving * cos[:, None] + torch.cat([-right, left], -1) * sin[:, None]
        return torch.cat([moved, still], -1)

    apply = lambda q, k: liger.LigerRopeFunction.apply(q, k, cos, sin)
    reference = lambda q, k: (turn(q, cos.double(), sin.double()), turn(k, cos.double(), sin.double()))
    assert_same_with_gradients(apply, reference, q, k)


@each_shape
@each_float
def test_softmax(dtype, shape):
    x = torch.randn(shape, dtype=dtype) * 3
    # A gradient is a difference from the mean of what comes from above, which is rounded.
    assert_same_with_gradients(liger.LigerSoftmaxFunction.apply, lambda x: x.softmax(-1), x, roundings=16)


# ---- losses ----------------------------------------------------------------------------------------------------------


def cross_entropy(x, target, weight=None, ignore=-100, square=0.0, smoothing=0.0, reduction="mean", softcap=None):
    """The loss, and the part of it that is about the size of the logits."""
    if softcap is not None:
        x = softcap * torch.tanh(x / softcap)
    loss = F.cross_entropy(x, target, weight, ignore_index=ignore, label_smoothing=smoothing, reduction=reduction)
    sizes = square * x.logsumexp(-1) ** 2 * (target != ignore)
    if reduction == "mean":
        sizes = sizes.sum() / (target != ignore).sum()
    elif reduction == "sum":
        sizes = sizes.sum()
    return loss + sizes, sizes


CROSS_ENTROPIES = [
    {}, {"reduction": "sum"}, {"reduction": "none"}, {"ignore": 2}, {"smoothing": 0.1}, {"square": 1e-2},
    {"softcap": 5.0}, {"weight": True}, {"weight": True, "smoothing": 0.2, "square": 1e-2, "ignore": 2},
    {"softcap": 3.0, "smoothing": 0.1, "square": 1e-2, "reduction": "sum", "ignore": 0},
]  # fmt: skip


@pytest.mark.parametrize("options", CROSS_ENTROPIES, ids=lambda each: "-".join(each) or "plain")
@pytest.mark.parametrize("shape", [(6, 3), (9, 1001)], ids=str)
@each_float
def test_cross_entropy(dtype, shape, options):
    rows, classes = shape
    options = dict(options)
    x = torch.randn(shape, dtype=dtype) * 3
    target = torch.randint(0, classes, (rows,))
    target[1] = options.get("ignore", 1)
    weight = torch.rand(classes) + 0.5 if options.pop("weight", False) else None
    names = {"ignore": -100, "square": 0.0, "smoothing": 0.0, "reduction": "mean", "softcap": None}
    values = (names | options).values()
    extra = []

    def apply(x):
        loss, *rest = liger.LigerCrossEntropyFunction.apply(x, target, weight, *values, True, True, True)
        extra[:] = rest
        return loss

    exact = None if weight is None else weight.double()
    reference = lambda x: cross_entropy(x, target, exact, **options)[0]
    assert_same_with_gradients(apply, reference, x, roundings=8)

    sizes, accuracy, predicted = extra
    seen = target != (names | options)["ignore"]
    assert_near(sizes, cross_entropy(x.double(), target, exact, **options)[1])
    best = x.argmax(-1)
    assert torch.equal(predicted, torch.where(seen, best, -1))
    right = ((best == target) & seen).float()
    assert_near(accuracy, right if options.get("reduction") == "none" else right.sum() / seen.sum())


@each_float
def test_cross_entropy_of_a_row_longer_than_a_block(dtype):
    x, target = torch.randn(3, 40000, dtype=dtype), torch.randint(0, 40000, (3,))
    apply = lambda x: liger.LigerCrossEntropyFunction.apply(x, target, None)[0]
    assert_same_with_gradients(apply, lambda x: F.cross_entropy(x, target), x)


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
@pytest.mark.parametrize("log_target", [False, True])
@pytest.mark.parametrize("reduction", ["batchmean", "sum", "mean", "none"])
@pytest.mark.parametrize("shape", [(7, 300), (2, 20000)], ids=str)
@each_float
def test_kl_div(dtype, shape, reduction, log_target):
    x = torch.randn(shape).log_softmax(-1).to(dtype)
    target = torch.randn(shape).log_softmax(-1)
    target = (target if log_target else target.exp()).to(dtype)
    apply = lambda x: liger.LigerKLDivLossFunction.apply(x, target, reduction, log_target)
    reference = lambda x: F.kl_div(x, target.double(), reduction=reduction, log_target=log_target)
    assert_same_with_gradients(apply, reference, x)


def divergence(x, target, beta):
    """Of the distributions whose logarithms these are, row by row."""
    q, p = x.exp(), target.exp()
    if beta == 0:
        return (p * (target - x)).sum(-1)
    if beta == 1:
        return (q * (x - target)).sum(-1)
    mean = torch.log(beta * p + (1 - beta) * q)
    return (beta * p * (target - mean) + (1 - beta) * q * (x - mean)).sum(-1)


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(5, 3), (7, 300)], ids=str)
@each_float
def test_jsd(dtype, shape, beta, labels):
    x, target = (torch.randn(shape).log_softmax(-1).to(dtype) for _ in range(2))
    label = torch.arange(len(x)) - 2
    seen = label != -1 if labels else torch.ones(len(x), dtype=torch.bool)
    apply = lambda x: liger.LigerJSDFunction.apply(x, target, label if labels else None, beta, -1)
    reference = lambda x: (divergence(x, target.double(), beta) * seen).sum() / seen.sum()
    # Logarithms in the type itself are large where probabilities are small, and the divergence is their difference.
    assert_same_with_gradients(apply, reference, x, roundings=8)
