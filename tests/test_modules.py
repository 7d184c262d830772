"""Modules of torch.nn as they are: fused in eval mode, beside eager."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from fusedsl import fuse
from fusedsl.errors import InPlaceInput
from fusedsl.testing import assert_launches, assert_matches

ROWS, IMAGES, SEQUENCE, VOLUMES = (6, 8), (2, 4, 6, 8), (2, 4, 9), (2, 3, 4, 6, 5)

ACTIVATIONS = [
    nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.2), nn.ELU(), nn.SELU(), nn.CELU(0.5), nn.GELU(), nn.GELU("tanh"), nn.SiLU(),
    nn.Mish(), nn.Softplus(2, 3), nn.Softsign(), nn.Softshrink(), nn.Hardshrink(), nn.Tanhshrink(), nn.Hardtanh(-1, 2),
    nn.Hardsigmoid(), nn.Hardswish(), nn.LogSigmoid(), nn.Sigmoid(), nn.Tanh(), nn.Threshold(0.1, 2), nn.GLU(1),
    nn.PReLU(), nn.PReLU(4), nn.Softmax(1), nn.LogSoftmax(-1), nn.Softmin(0), nn.Softmax2d(), nn.Dropout(),
    nn.Dropout2d(), nn.AlphaDropout(), nn.Identity(), nn.Flatten(), nn.Unflatten(1, (2, 2)),
]  # fmt: skip
NORMS = [
    (nn.LayerNorm(8), IMAGES), (nn.LayerNorm([6, 8], bias=False), IMAGES), (nn.RMSNorm(8), IMAGES),
    (nn.GroupNorm(2, 4), IMAGES), (nn.BatchNorm1d(8), ROWS), (nn.BatchNorm1d(4), SEQUENCE), (nn.BatchNorm2d(4), IMAGES),
    (nn.BatchNorm2d(4, track_running_stats=False), IMAGES), (nn.BatchNorm3d(3, affine=False), VOLUMES),
    (nn.InstanceNorm1d(4), SEQUENCE), (nn.InstanceNorm2d(4, affine=True), IMAGES),
    (nn.InstanceNorm2d(4, track_running_stats=True), IMAGES), (nn.InstanceNorm3d(3), VOLUMES),
    (nn.LocalResponseNorm(3, 0.1), IMAGES),
]  # fmt: skip
POOLS = [
    (nn.AvgPool1d(3, 2), SEQUENCE), (nn.AvgPool2d(3, 2, 1, True, False), IMAGES), (nn.AvgPool3d(2), VOLUMES),
    (nn.MaxPool1d(3, 1, 1, 2), SEQUENCE), (nn.MaxPool2d(3, 2, 1), IMAGES),
    (nn.MaxPool2d(2, return_indices=True), IMAGES), (nn.MaxPool3d(2, ceil_mode=True), VOLUMES),
    (nn.LPPool1d(2, 3), SEQUENCE), (nn.LPPool2d(2, 2, 1), IMAGES),
    (nn.AdaptiveAvgPool1d(3), SEQUENCE), (nn.AdaptiveAvgPool2d((None, 3)), IMAGES), (nn.AdaptiveAvgPool3d(1), VOLUMES),
    (nn.AdaptiveMaxPool1d(4, True), SEQUENCE), (nn.AdaptiveMaxPool2d(2), IMAGES), (nn.PixelShuffle(2), IMAGES),
    (nn.PixelUnshuffle(2), IMAGES), (nn.ChannelShuffle(2), IMAGES), (nn.Upsample(scale_factor=2), IMAGES),
    (nn.UpsamplingNearest2d((4, 12)), IMAGES), (nn.ZeroPad2d(1), IMAGES), (nn.ConstantPad1d(2, 0.5), SEQUENCE),
]  # fmt: skip


def trained(module: nn.Module) -> nn.Module:
    """In eval mode, with weights and running statistics that are not those of a new module."""
    made = torch.Generator().manual_seed(0)
    for value in (*module.parameters(), *module.buffers()):
        if value.is_floating_point():
            value.data.uniform_(0.5, 1.5, generator=made)
    return module.eval()


def check(module: nn.Module, *shape_or_tensors) -> None:
    torch.manual_seed(0)
    given = [torch.randn(each) if isinstance(each, tuple) else each for each in shape_or_tensors]
    assert_matches(fuse(trained(module)), given)


def named(cases: Sequence) -> list[str]:
    return [str(case[0] if isinstance(case, tuple) else case) for case in cases]


@pytest.mark.parametrize("module", ACTIVATIONS, ids=named(ACTIVATIONS))
def test_activations(module: nn.Module) -> None:
    check(module, IMAGES)


@pytest.mark.parametrize("module, shape", NORMS, ids=named(NORMS))
def test_norms(module: nn.Module, shape: tuple[int, ...]) -> None:
    check(module, shape)


@pytest.mark.parametrize("module, shape", POOLS, ids=named(POOLS))
def test_pools(module: nn.Module, shape: tuple[int, ...]) -> None:
    check(module, shape)


def test_a_norm_an_activation_and_a_pool_are_one_launch() -> None:
    module = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
    check(module, IMAGES)
    assert_launches(fuse(module), (torch.randn(IMAGES),), 1)
    assert_launches(lambda x: nn.functional.local_response_norm(nn.functional.silu(x), 5), (torch.randn(IMAGES),), 1)


SIGNS = torch.tensor([[1.0, -1.0, -1.0, 1.0, 1.0, -1.0, 1.0, -1.0]]).expand(ROWS)
CLASSES, SHARES = torch.tensor([3, 0, 7, 7, 1, 5]), torch.linspace(0, 1, 48).reshape(ROWS)
WEIGHT = torch.linspace(0.5, 2, 8)
LOSSES = [
    (nn.L1Loss(), ROWS, ROWS), (nn.MSELoss(reduction="none"), ROWS, ROWS), (nn.SmoothL1Loss(beta=0.5), ROWS, ROWS),
    (nn.HuberLoss("sum"), ROWS, ROWS), (nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.1), ROWS, CLASSES),
    (nn.CrossEntropyLoss(ignore_index=7), ROWS, CLASSES), (nn.CrossEntropyLoss(reduction="sum"), ROWS, SHARES),
    (nn.NLLLoss(WEIGHT), ROWS, CLASSES), (nn.KLDivLoss(reduction="batchmean"), ROWS, SHARES),
    (nn.PoissonNLLLoss(full=True), ROWS, SHARES * 3), (nn.GaussianNLLLoss(), ROWS, ROWS, SHARES),
    (nn.BCELoss(WEIGHT), SHARES, SHARES.flip(0)), (nn.BCEWithLogitsLoss(pos_weight=WEIGHT), ROWS, SHARES),
    (nn.HingeEmbeddingLoss(), ROWS, SIGNS), (nn.SoftMarginLoss(), ROWS, SIGNS), (nn.MultiMarginLoss(2), ROWS, CLASSES),
    (nn.MarginRankingLoss(0.5), ROWS, ROWS, SIGNS), (nn.MultiLabelSoftMarginLoss(), ROWS, SHARES),
    (nn.MultiLabelMarginLoss(), ROWS, torch.arange(48).reshape(ROWS) % 9 - 1),
    (nn.CosineEmbeddingLoss(0.1), ROWS, ROWS, SIGNS[0, :6]), (nn.TripletMarginLoss(swap=True), ROWS, ROWS, ROWS),
    (nn.TripletMarginWithDistanceLoss(distance_function=nn.PairwiseDistance(1)), ROWS, ROWS, ROWS),
    (nn.PairwiseDistance(keepdim=True), ROWS, ROWS), (nn.CosineSimilarity(-1), ROWS, ROWS),
]  # fmt: skip


@pytest.mark.parametrize("case", LOSSES, ids=named(LOSSES))
def test_losses(case: tuple) -> None:
    check(*case)


@pytest.mark.parametrize("module, shape", [(nn.BatchNorm2d(4), IMAGES), (nn.InstanceNorm1d(4, track_running_stats=True),
                                                                         SEQUENCE)], ids=str)  # fmt: skip
def test_running_statistics_are_not_changed(module: nn.Module, shape: tuple[int, ...]) -> None:
    with torch.no_grad(), pytest.raises(InPlaceInput):
        fuse(module.train())(torch.randn(shape))


def test_statistics_as_further_results() -> None:
    """What the error of a batch norm in training says to do instead."""

    def step(x, mean, var):
        result = nn.functional.batch_norm(x, None, None, training=True)
        return result, mean.lerp(x.mean((0, 2, 3)), 0.1), var.lerp(x.var((0, 2, 3)), 0.1)

    module, x = nn.BatchNorm2d(4, affine=False), torch.randn(IMAGES)
    mean, var = torch.zeros(4), torch.ones(4)
    with torch.no_grad():
        found = fuse(step)(x, mean, var)
        torch.testing.assert_close(found, (module(x), module.running_mean, module.running_var))


# ---- of x-transformers -----------------------------------------------------------------------------------------------


def _x_transformers() -> dict[str, tuple[nn.Module, tuple]]:
    xt = pytest.importorskip("x_transformers.x_transformers")
    d, size, ids = 24, (2, 10, 24), torch.arange(20).reshape(2, 10)
    freqs = xt.RotaryEmbedding(d).forward_from_seq_len(10)[0]
    alone = {
        name: getattr(xt, name)(d)
        for name in ("SoLU", "LayerNorm", "ScaleNorm", "RMSNorm", "SimpleRMSNorm", "DynamicTanh", "Derf",
                     "ScaledSinusoidalEmbedding")
    }  # fmt: skip
    alone |= {
        "ReluSquared": xt.ReluSquared(), "LayerNorm, offset": xt.LayerNorm(d, unit_offset=True),
        "RMSNorm, offset": xt.RMSNorm(d, unit_offset=True), "ScaleNorm, offset": xt.ScaleNorm(d, unit_offset=True),
        "LayerScale": xt.LayerScale(xt.ReluSquared(), d), "Scale": xt.Scale(2.0, nn.GELU()),
        "AbsolutePositionalEmbedding": xt.AbsolutePositionalEmbedding(d, 64),
        "ShiftTokens": xt.ShiftTokens((0, 1), nn.Identity()),
    }  # fmt: skip
    residuals = {name: getattr(xt, name)(d) for name in ("Residual", "OrthogonalResidualUpdate",
                                                         "MVSplitResidualUpdate")}  # fmt: skip
    residuals["Residual, scaled"] = xt.Residual(d, scale_residual=True)
    return {
        **{name: (module, (size,)) for name, module in alone.items()},
        **{name: (module, (size, size)) for name, module in residuals.items()},
        "MultiheadRMSNorm": (xt.MultiheadRMSNorm(d, 4), ((2, 4, 10, d),)),
        "TokenEmbedding": (xt.TokenEmbedding(d, 50), (ids,)),
        "TokenEmbedding, l2": (xt.TokenEmbedding(d, 50, l2norm_embed=True), (ids,)),
        "RotaryEmbedding": (xt.RotaryEmbedding(d), (torch.arange(10),)),
        "RotaryEmbedding, xpos": (xt.RotaryEmbedding(d, use_xpos=True), (torch.arange(10),)),
        "PolarEmbedding": (xt.PolarEmbedding(d, 4), (torch.arange(10),)),
        "RelativePositionBias": (xt.RelativePositionBias(1.0, heads=4), (7, 9)),
        "apply_rotary_pos_emb": (_Call(xt.apply_rotary_pos_emb), ((2, 4, 10, d), freqs)),
        "l2norm": (_Call(xt.l2norm, groups=4), ((2, 3, d),)),
        "softclamp": (_Call(xt.softclamp, value=15.0), (size,)),
    }


class _Call(nn.Module):
    """A function as a module."""

    def __init__(self, function, **kwargs):
        super().__init__()
        self.function, self.kwargs = function, kwargs

    def forward(self, *args):
        return self.function(*args, **self.kwargs)


X_TRANSFORMERS = (
    "SoLU", "LayerNorm", "ScaleNorm", "RMSNorm", "SimpleRMSNorm", "DynamicTanh", "Derf", "ScaledSinusoidalEmbedding",
    "ReluSquared", "LayerNorm, offset", "RMSNorm, offset", "ScaleNorm, offset", "LayerScale", "Scale",
    "AbsolutePositionalEmbedding", "ShiftTokens", "Residual", "OrthogonalResidualUpdate", "MVSplitResidualUpdate",
    "Residual, scaled", "MultiheadRMSNorm", "TokenEmbedding", "TokenEmbedding, l2", "RotaryEmbedding",
    "RotaryEmbedding, xpos", "PolarEmbedding", "RelativePositionBias", "apply_rotary_pos_emb", "l2norm", "softclamp",
)  # fmt: skip


@pytest.mark.parametrize("name", X_TRANSFORMERS)
def test_x_transformers(name):
    module, given = _x_transformers()[name]
    check(module, *given)
