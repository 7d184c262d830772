"""Random numbers: the published generator, the same everywhere and every time, and spread as they should be."""

from __future__ import annotations

import math

import hypothesis
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from fusedsl import fuse
from fusedsl.errors import BadArgument
from fusedsl.interpret import interpret
from fusedsl.ops.random import _philox
from fusedsl.testing import TARGETS, assert_launches, assert_no_spills, assert_traffic, compare
from tests.identical import assert_identical

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
FEW = hypothesis.settings(max_examples=max(1, hypothesis.settings().max_examples // 4))  # each of ten kernels
SIZES = st.lists(st.sampled_from([0, 1, 2, 3, 7, 33, 130]), max_size=3)


def seeded(seed: int, f, *args):
    torch.manual_seed(seed)
    return f(*args)


# Of the authors' own tests: counter, key, result.
@pytest.mark.parametrize(("counter", "key", "words"), [
    ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), 0x299F31D0A4093822,
     (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
])  # fmt: skip
def test_philox_is_the_published_one(counter, key, words):
    signed = key - 2**64 if key >= 2**63 else key
    found = _philox(torch.tensor(signed), [torch.tensor(c) for c in counter])
    assert tuple(int(word) for word in found) == words


def draws(x, dtype):
    """One of each distribution."""
    return (
        torch.rand_like(x, dtype=dtype), torch.randn(x.shape, dtype=dtype), torch.randint(-3, 9, x.shape),
        torch.randint_like(x, 2**40, dtype=torch.int64), torch.empty_like(x).exponential_(2.0),
        torch.bernoulli(torch.full_like(x, 0.3)), torch.empty_like(x).uniform_(-1, 1), x.new_empty(5).normal_(1, 2),
    )  # fmt: skip


@FEW
@given(size=SIZES, dtype=st.sampled_from(FLOATS), seed=st.integers(0, 2**32))
@example([3, 0], torch.float32, 1)
@example([], torch.bfloat16, 2)
@example([130, 130], torch.float32, 0)
def test_kernels_count_as_the_graph_says(size, dtype, seed):
    fused = fuse(draws)
    x = torch.zeros(size)
    found = seeded(seed, fused, x, dtype)
    traced, _, bound = fused._entry((x, dtype), {})
    torch.manual_seed(seed)
    for at, draw in traced.draws:
        bound.values[at] = draw()
    wanted = interpret(traced.graph, bound.values, bound.sizes)
    for at, (ours, theirs, eager) in enumerate(zip(found, wanted, draws(x, dtype), strict=True)):
        assert (ours.shape, ours.dtype) == (eager.shape, eager.dtype)
        if at in (1, 4, 7):  # functions that round in their last digits
            close = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float64: 1e-12}.get(ours.dtype, 3e-6)
            torch.testing.assert_close(ours, theirs, rtol=close, atol=close)
        else:
            assert_identical(ours, theirs)


def test_a_seed_decides_all():
    def f(x):
        return torch.rand_like(x), torch.rand_like(x)

    fused, x = fuse(f), torch.zeros(50, 3)
    a, b = seeded(3, fused, x)
    assert not torch.equal(a, b)  # each use has a stream of its own
    assert not torch.equal(fused(x)[0], a)  # and each call a seed
    seeded(3, fused.plan, x)  # which a plan does not draw
    again = fused(x)
    assert torch.equal(again[0], a) and torch.equal(again[1], b)  # nor does tracing
    # an element's number is its place's, however the tensor lies in memory
    assert torch.equal(seeded(3, fuse(f), torch.zeros(3, 50).T)[0], a)
    longer = seeded(3, fused, torch.zeros(90, 3))[0]
    assert torch.equal(longer[:50], a)


@pytest.mark.parametrize("x", [
    torch.zeros(3, 5).T, torch.zeros(2, 3, 4).permute(2, 0, 1), torch.zeros(4, 1).expand(4, 3), torch.zeros(9)[::2],
])  # fmt: skip
def test_what_is_like_a_tensor_lies_in_memory_as_it_does(x):
    for f in (torch.rand_like, torch.randn_like, lambda x: torch.randint_like(x, 9), lambda x: x.clone().normal_()):
        assert fuse(lambda x, f=f: f(x))(x).stride() == f(x).stride()


GENERATOR = torch.Generator()


def test_generators_are_the_callers():
    fused = fuse(lambda: (torch.rand(9, generator=GENERATOR), torch.rand(9)))
    GENERATOR.manual_seed(1)
    a, b = fused()
    GENERATOR.manual_seed(1)
    c, d = fused()
    assert torch.equal(a, c) and not torch.equal(b, d)
    of_argument = fuse(lambda n, g: torch.randn(n, generator=g))
    first, second = (of_argument(7, torch.Generator().manual_seed(s)) for s in (5, 5))
    assert torch.equal(first, second)


# ---- how they are spread ---------------------------------------------------------------------------------------------

NORMAL = torch.distributions.Normal(0.0, 1.0)
COUNT = 40_000
SPREAD = {
    "rand": (lambda n: torch.rand(n), lambda v: v),
    "rand f64": (lambda n: torch.rand(n, dtype=torch.float64), lambda v: v),
    "uniform_": (lambda n: torch.empty(n).uniform_(-2, 3), lambda v: (v + 2) / 5),
    "randn": (lambda n: torch.randn(n), NORMAL.cdf),
    "randn f64": (lambda n: torch.randn(n, dtype=torch.float64), NORMAL.cdf),
    "normal": (lambda n: torch.normal(1.0, 2.0, (n,)), torch.distributions.Normal(1.0, 2.0).cdf),
    "exponential_": (lambda n: torch.empty(n).exponential_(3.0), lambda v: 1 - torch.exp(-3 * v)),
    "cauchy_": (lambda n: torch.empty(n).cauchy_(1, 2), torch.distributions.Cauchy(1.0, 2.0).cdf),
    "log_normal_": (lambda n: torch.empty(n).log_normal_(0, 1), torch.distributions.LogNormal(0.0, 1.0).cdf),
}


@pytest.mark.parametrize("name", SPREAD)
def test_distributions(name):
    """Kolmogorov and Smirnov: the greatest gap between the two cumulative distributions, at one seed."""
    f, cumulative = SPREAD[name]
    values = seeded(11, fuse(f), COUNT).double().sort().values
    steps = torch.arange(COUNT + 1) / COUNT
    of_each = cumulative(values)
    gap = max((of_each - steps[:-1]).abs().max(), (of_each - steps[1:]).abs().max())
    assert gap < 1.63 / math.sqrt(COUNT)  # what 1 in 100 sequences exceed


@pytest.mark.parametrize(("f", "chances"), [
    (lambda n: torch.randint(0, 5, (n,)), [0.2] * 5),
    (lambda n: torch.empty(n).bernoulli_(0.3), [0.7, 0.3]),
    (lambda n: torch.empty(n, dtype=torch.int64).geometric_(0.5), [0.0, 0.5, 0.25, 0.125, 0.0625]),
    (lambda n: torch.multinomial(torch.tensor([1.0, 0.0, 2.0, 1.0]).expand(n, 4), 1), [0.25, 0.0, 0.5, 0.25]),
    (lambda n: torch.multinomial(torch.tensor([3.0, 1.0]), n, replacement=True), [0.75, 0.25]),
    (lambda n: F.gumbel_softmax(torch.tensor([0.0, 1.0]).log().expand(n, 2), hard=True)[:, 1].long(), [0.0, 1.0]),
])  # fmt: skip
def test_chances(f, chances):
    values = seeded(5, fuse(f), COUNT).flatten().long()
    for value, chance in enumerate(chances):
        share = (values == value).double().mean().item()
        assert abs(share - chance) <= 4 * math.sqrt(chance * (1 - chance) / COUNT)


def test_words_are_independent():
    a, b = seeded(2, fuse(lambda n: (torch.randn(n), torch.randn(n))), COUNT)
    for x, y in ((a, b), (a[1:], a[:-1]), (a * a, b * b)):
        assert abs(torch.corrcoef(torch.stack([x, y]))[0, 1]) < 4 / math.sqrt(COUNT)


def test_without_replacement_nothing_comes_twice():
    found = seeded(1, fuse(lambda p: torch.multinomial(p, 5)), torch.rand(40, 8))
    assert all(len(set(row)) == 5 for row in found.tolist())


# ---- dropout ---------------------------------------------------------------------------------------------------------


@given(size=st.sampled_from([(64, 33), (5, 200), (2000,)]), dtype=st.sampled_from(FLOATS),
       p=st.sampled_from([0.1, 0.5, 0.75]))  # fmt: skip
def test_dropout(size, dtype, p):
    x = torch.arange(1, math.prod(size) + 1).reshape(size).to(dtype)
    found = seeded(0, fuse(lambda x, p: F.dropout(x, p)), x, p)
    assert found.dtype == dtype
    kept = found != 0
    torch.testing.assert_close(found[kept], x[kept] * torch.tensor(1 / (1 - p)).to(dtype))
    assert abs(kept.double().mean().item() - (1 - p)) < 4 * math.sqrt(p * (1 - p) / x.numel())


def test_dropout_at_the_ends():
    x = torch.tensor([1.0, math.inf, math.nan, -0.0])
    for p in (0.0, 1.0):
        found, wanted = fuse(lambda x, p=p: F.dropout(x, p))(x), F.dropout(x, p)
        assert_identical(found, wanted)
    fused = fuse(lambda x: F.dropout(x, 0.0))
    assert fused(x) is x
    assert fuse(F.dropout)(torch.empty(0, 3)).shape == (0, 3)


@pytest.mark.parametrize(("module", "size"), [
    (nn.Dropout1d(0.4), (6, 50, 4)), (nn.Dropout1d(0.4), (300, 4)), (nn.Dropout2d(0.4), (6, 50, 4, 2)),
    (nn.Dropout3d(0.4), (6, 50, 2, 3, 2)), (nn.Dropout3d(0.4), (300, 2, 3, 2)),
])  # fmt: skip
def test_whole_channels_are_dropped(module, size):
    kept = seeded(4, fuse(module.train()), torch.ones(size)) != 0
    channels = kept.reshape(300, -1)
    assert ((channels.all(1)) | (~channels).all(1)).all()
    assert 0.4 < channels.all(1).double().mean() < 0.8


@pytest.mark.parametrize("module", [nn.AlphaDropout(0.2), nn.FeatureAlphaDropout(0.2)])
def test_alpha_dropout_keeps_mean_and_variance(module):
    x = torch.randn(400, 500, generator=torch.Generator().manual_seed(0))
    found = seeded(0, fuse(module.train()), x)
    assert abs(found.mean()) < 0.02 and abs(found.std() - 1) < 0.02


def test_rrelu_in_training():
    x = torch.linspace(-2, 2, 1000)
    found = seeded(0, fuse(lambda x: F.rrelu(x, 0.1, 0.3, training=True)), x)
    assert torch.equal(found[x > 0], x[x > 0])
    slopes = (found / x)[x < 0]
    assert slopes.min() >= 0.0999 and slopes.max() <= 0.3001 and slopes.std() > 0.05


def test_a_layer_with_dropout_is_one_launch():
    def f(x, residual, w):
        h = residual + F.dropout(x, 0.1)
        return h, F.rms_norm(h, (256,), w)

    args = torch.randn(33, 256), torch.randn(33, 256), torch.randn(256)
    assert_launches(f, args, 1)
    assert_traffic(f, args)
    assert_no_spills(f, args, TARGETS)
    h, normed = seeded(0, fuse(f), *args)
    dropped = h == args[1]
    assert 0.05 < dropped.double().mean() < 0.15
    torch.testing.assert_close(normed, F.rms_norm(h, (256,), args[2]))  # both see the same numbers


# ---- mistakes --------------------------------------------------------------------------------------------------------


def test_mistakes():
    x = torch.ones(3, 3)
    for text, error in {
        "F.dropout(x, -0.1)": "p must be a probability", "F.alpha_dropout(x, 2.0, True)": "p must be a probability",
        "torch.rand(3, dtype=torch.int64)": "that of floats", "torch.randint(3, 3, (2,))": "less than high",
        "F.dropout2d(x[0])": "at least 2 dimensions", "torch.rand(3, requires_grad=True)": "requires_grad",
    }.items():  # fmt: skip
        with pytest.raises(BadArgument, match=error):
            fuse(eval(f"lambda x: {text}", {"torch": torch, "F": F}))(x)
    with pytest.raises(BadArgument, match="one without random numbers"):
        compare(F.dropout, (x,))


@pytest.mark.parametrize("mean", FLOATS)
@pytest.mark.parametrize("std", FLOATS)
def test_normal_numbers_have_the_dtype_of_the_mean(mean, std):
    x = torch.randn(3, 1).to(mean)
    for f, args in (
        (lambda x, s: torch.normal(x, s), (x, torch.zeros(4, dtype=std))),
        (lambda x: torch.normal(x, 0.0), (x,)),
        (lambda s: torch.normal(2.0, s), (torch.zeros(4, dtype=std),)),
    ):
        found, wanted = fuse(f)(*args), f(*args)
        assert (found.dtype, found.shape, found.stride()) == (wanted.dtype, wanted.shape, wanted.stride())
        assert torch.equal(found, wanted)


INITS = {
    "uniform_": (lambda h: nn.init.uniform_(h, -1, 3), lambda v: v.min() >= -1 and v.max() < 3 and v.max() > 2.9),
    "uniform_ by name": (lambda h: nn.init.uniform_(tensor=h, b=2.0), lambda v: v.min() >= 0 and 1.9 < v.max() < 2),
    "normal_": (lambda h: nn.init.normal_(h, mean=2.0, std=3.0), lambda v: abs(v.mean() - 2) < 0.2),
    "constant_": (lambda h: nn.init.constant_(h, 3), lambda v: v.eq(3).all()),
    "zeros_": (nn.init.zeros_, lambda v: v.eq(0).all()),
    "ones_": (nn.init.ones_, lambda v: v.eq(1).all()),
    "kaiming_uniform_": (lambda h: nn.init.kaiming_uniform_(h, nonlinearity="relu"),
                         lambda v: 0.99 * 0.3 < v.abs().max() <= 0.3),
    "kaiming_normal_": (lambda h: nn.init.kaiming_normal_(h, mode="fan_out"), lambda v: abs(v.std() - 0.2) < 0.02),
    "xavier_uniform_": (nn.init.xavier_uniform_, lambda v: v.abs().max() <= (6 / (200 / 3 + 50)) ** 0.5),
    "xavier_normal_": (nn.init.xavier_normal_, lambda v: v.std() < 0.2),
}  # fmt: skip


@pytest.mark.parametrize("name", INITS)
def test_what_initialises_weights_fills_what_the_function_made(name):
    fill, holds = INITS[name]

    def f(x):
        h = torch.empty(50, 200 // 3 + 1, device=x.device)
        fill(h)
        return h

    assert holds(seeded(0, fuse(f), torch.ones(1)))
