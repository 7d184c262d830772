"""The cache of keys and values in few bits: its schedule and codes, and attention over it in one kernel."""

from __future__ import annotations

import hypothesis
import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st

from fusedsl import KIVICache, Packed, fuse
from fusedsl.codegen.inspect import TARGETS
from fusedsl.errors import BadArgument
from fusedsl.kivi import _attend, joined
from fusedsl.runtime import counters
from fusedsl.testing import assert_launches

ATTEND = fuse(_attend)


def filled(tokens: int, *, batch=1, heads=2, head=64, bits=2, group=32, residual=32, dtype=torch.float16, at_once=0):
    """A cache of random tokens, the first so many of them as a prompt, and the keys and values."""
    torch.manual_seed(tokens + 10 * bits)
    k, v = (torch.randn(batch, heads, tokens, head).to(dtype) for _ in range(2))
    cache = KIVICache(batch, heads, head, bits, group, residual, dtype)
    if at_once:
        cache.prefill(k[:, :, :at_once], v[:, :, :at_once])
    for at in range(at_once, tokens):
        cache.append(k[:, :, at : at + 1], v[:, :, at : at + 1])
    return cache, k, v


def exact(q: torch.Tensor, cache: KIVICache, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Attention over what the cache stands for, in float64."""
    keys, recent_keys, values, recent_values = (t.unpack() if isinstance(t, Packed) else t for t in cache.tensors)
    k, v = joined(keys.double(), recent_keys.double(), values.double(), recent_values.double())
    return F.scaled_dot_product_attention(q.double(), k, v, attn_mask=mask, enable_gqa=True)


def reference_codes(x: torch.Tensor, bits: int, dim: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """KIVI's formula for a group along a dimension, in f32 with scales and minima as they are stored; 0 for a group of
    one number."""
    low, high = x.amin(dim, True), x.amax(dim, True)
    scale = ((high.float() - low.float()) / (2**bits - 1)).half().float()
    steps = (x.float() - low.float()) / scale.where(scale > 0, 1.0)
    return steps.clamp(0, 2**bits - 1).round().to(torch.uint8), scale, low.float()


# ---- the schedule and the codes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [0, 1, 31, 32, 33, 64, 70])
def test_the_schedule(at_once: int) -> None:
    residual = 32
    torch.manual_seed(0)
    k, v = (torch.randn(2, 1, 3 * residual + 2, 32).half() for _ in range(2))
    cache = KIVICache(2, 1, 32, group=32, residual=residual)
    if at_once:
        cache.prefill(k[:, :, :at_once], v[:, :, :at_once])
        keys, recent_keys, values, recent_values = cache.tensors
        assert keys.shape[2] * residual == at_once - at_once % residual
        assert values.shape[2] == max(0, at_once - residual)
    for tokens in range(at_once + 1, 3 * residual + 3):
        cache.append(k[:, :, tokens - 1 : tokens], v[:, :, tokens - 1 : tokens])
        keys, recent_keys, values, recent_values = cache.tensors
        packed, late = residual * ((tokens - 1) // residual), max(0, tokens - 1 - residual)
        assert cache.tokens == tokens and keys.shape == (2, 1, packed // residual, residual, 32)
        assert recent_keys.shape[2] == (tokens - 1) % residual + 1 == tokens - packed
        assert values.shape[2] == late and recent_values.shape[2] == min(tokens, residual + 1)
        assert torch.equal(recent_keys, k[:, :, packed:tokens]) and torch.equal(recent_values, v[:, :, late:tokens])


@pytest.mark.parametrize("bits, group", [(2, 32), (4, 32), (2, 64), (4, 64), (3, 32), (8, 32)])
def test_codes_are_the_papers(bits: int, group: int) -> None:
    cache, k, v = filled(200, bits=bits, group=group, residual=64)
    keys, _, values, _ = cache.tensors
    grouped = k[:, :, :192].unflatten(2, (3, 64 // group, group))
    codes, scale, low = reference_codes(grouped, bits, -2)
    assert torch.equal(keys.codes(), codes.flatten(3, 4))
    stands_for = keys.unpack().unflatten(3, (-1, group)).float()
    torch.testing.assert_close(stands_for, codes * scale + low, rtol=2e-3, atol=2e-3)
    grouped = v[:, :, :135].unflatten(3, (-1, group))
    codes, scale, low = reference_codes(grouped, bits, -1)
    assert torch.equal(values.codes(), codes.flatten(3, 4))
    # no further from what was stored than half a step, and what rounding the scale takes from the end
    error = (values.unpack().unflatten(3, (-1, group)).float() - grouped.float()).abs()
    assert (error <= scale * (0.5 + 2**bits * 2**-11) + 2 * torch.finfo(torch.float16).eps * grouped.abs()).all()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_words_are_the_papers(bits: int) -> None:
    """32 / bits values a word of 32 bits, the first lowest: keys along tokens, values along channels."""
    cache, _, _ = filled(100, bits=bits)
    keys, _, values, _ = cache.tensors
    for codes, data in ((keys.codes().mT, keys.data), (values.codes(), values.data)):
        many = 32 // bits
        shifted = codes.long().unflatten(-1, (-1, many)) << (bits * torch.arange(many))
        words = shifted.sum(-1)
        assert torch.equal(data.contiguous().view(torch.int32), (words - (words >> 31 << 32)).int())
        assert (data.contiguous().view(torch.int32) < 0).any()  # the top bit is set in some


def test_groups_of_one_number_are_exact() -> None:
    cache = KIVICache(1, 1, 32, residual=32, dtype=torch.float32)
    k = torch.linspace(-1, 1, 32).half().float().expand(1, 1, 64, 32)  # of a channel all tokens are alike
    cache.prefill(k, torch.full((1, 1, 64, 32), 3.0))
    keys, _, values, _ = cache.tensors
    assert torch.equal(keys.unpack(), k.unflatten(2, (2, 32))) and (values.unpack() == 3).all()


def test_memory_is_what_the_format_says() -> None:
    for bits, group in [(2, 32), (4, 64), (3, 32)]:
        cache, _, _ = filled(500, bits=bits, group=group, residual=64, at_once=400)
        keys, recent_keys, values, recent_values = cache.tensors
        assert (keys.nbytes * 8, values.nbytes * 8) == tuple((bits + 32 / group) * t.numel() for t in (keys, values))
        assert cache.nbytes == sum(t.nbytes for t in (keys, values, recent_keys, recent_values))


# ---- attention -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 32, 33, 34, 64, 65, 130, 257])
@pytest.mark.parametrize("bits, group, residual, ratio", [
    (2, 32, 32, 1), (4, 32, 64, 2), (2, 64, 128, 4), (3, 32, 32, 8),
])  # fmt: skip
def test_attention_is_of_what_the_cache_holds(tokens: int, bits: int, group: int, residual: int, ratio: int) -> None:
    cache, _, _ = filled(tokens, bits=bits, group=group, residual=residual, at_once=tokens // 2)
    q = torch.randn(1, 2 * ratio, 1, 64).half()
    want = exact(q, cache)
    keys, values = joined(*(t.unpack() if isinstance(t, Packed) else t for t in cache.tensors))
    half = F.scaled_dot_product_attention(q, keys, values, enable_gqa=True)
    error, allowed = (cache.attend(q).double() - want).abs().max(), (half.double() - want).abs().max()
    assert error <= 2 * allowed + 1e-5
    assert_launches(ATTEND, (q, *cache.tensors, None, None), 1)
    assert ATTEND.plan(q, *cache.tensors, None, None).passes <= 1


@hypothesis.settings(max_examples=10)
@hypothesis.given(st.integers(1, 80), st.integers(1, 8), st.integers(1, 3), st.booleans())
def test_any_sizes(tokens: int, bits: int, queries: int, masked: bool) -> None:
    cache, _, _ = filled(tokens, bits=bits, dtype=torch.float32, head=32)
    q = torch.randn(1, 4, queries, 32)
    mask = torch.rand(queries, tokens) < 0.7 if masked else None
    if mask is not None:
        mask[:, 0] = True
    torch.testing.assert_close(cache.attend(q, mask).double(), exact(q, cache, mask), rtol=1e-4, atol=1e-4)


def test_an_outlying_channel() -> None:
    """A channel that is eight times as large has scales of its own."""
    torch.manual_seed(0)
    k = torch.randn(1, 1, 256, 64)
    k[..., 7] *= 8
    cache = KIVICache(1, 1, 64, 2, 32, 32, torch.float32)
    cache.prefill(k, torch.randn(1, 1, 256, 64))
    error = (cache.tensors[0].unpack().flatten(2, 3) - k).abs().amax((0, 1, 2))
    assert error[7] > 3 * error[:7].max() and error[:7].max() < 1.5


def test_chains_around_it_are_one_kernel() -> None:
    """A causal mask by positions, a sink, and pages of keys in any order."""

    def with_sink(q, sink, *tensors):
        k, v = joined(*tensors)
        scores = (q @ k.mT) * q.shape[-1] ** -0.5
        return torch.softmax(scores, -1) @ v * torch.sigmoid(torch.logsumexp(scores, -1, keepdim=True) - sink)

    def paged(q, table, keys, recent_keys, values, recent_values):
        k, v = joined(keys[:, :, table], recent_keys, values, recent_values)
        return F.scaled_dot_product_attention(q, k, v)

    cache, _, _ = filled(150, dtype=torch.float32)
    q, sink, table = torch.randn(1, 2, 1, 64), torch.randn(2, 1, 1), torch.tensor([2, 0, 3, 1])
    plain = [t.unpack() if isinstance(t, Packed) else t for t in cache.tensors]
    for function, args in [(with_sink, (q, sink)), (paged, (q, table))]:
        fused = fuse(function)
        torch.testing.assert_close(fused(*args, *cache.tensors), function(*args, *plain), rtol=1e-4, atol=1e-4)
        assert_launches(fused, (*args, *cache.tensors), 1)


def test_growing_compiles_nothing() -> None:
    cache, k, v = filled(300, at_once=250)
    q = torch.randn(1, 2, 1, 64).half()
    cache.attend(q)
    before = counters.kernels
    for at in range(80):
        cache.append(k[:, :, at : at + 1], v[:, :, at : at + 1])
        cache.attend(q)
    assert counters.kernels - before <= 2  # where sizes are 1


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("bits, group", [(2, 32), pytest.param(4, 64, marks=pytest.mark.sample)])
def test_it_compiles_without_spills(bits: int, group: int, target: str) -> None:
    cache, _, _ = filled(700, heads=2, head=128, bits=bits, group=group, residual=128, at_once=650)
    for kernel in ATTEND.plan(torch.empty(1, 8, 1, 128).half(), *cache.tensors, None, None).compile(target):
        assert not kernel.spills


def test_mistakes() -> None:
    with pytest.raises(BadArgument, match="multiple of the group"):
        KIVICache(1, 1, 40)
    with pytest.raises(BadArgument, match="multiple of the group"):
        KIVICache(1, 1, 64, residual=100)
    cache = KIVICache(1, 2, 64)
    with pytest.raises(BadArgument, match="k must be"):
        cache.append(torch.zeros(1, 1, 1, 64).half(), torch.zeros(1, 2, 1, 64).half())
    with pytest.raises(BadArgument, match="v must be"):
        cache.append(torch.zeros(1, 2, 1, 64).half(), torch.zeros(1, 2, 1, 64))
    cache.append(*(torch.zeros(1, 2, 1, 64).half() for _ in range(2)))
    with pytest.raises(BadArgument, match="empty"):
        cache.prefill(*(torch.zeros(1, 2, 5, 64).half() for _ in range(2)))
