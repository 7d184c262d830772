"""Attention in many forms, each a few lines of plain torch, each one kernel that reads the keys once.

    python examples/attention/variants.py [--dtype float32|float16|bfloat16]

prints for each: launches, passes over the keys as written and as compiled, tiles of keys visited where masks skip some,
and the largest difference to torch in double precision, ours and eager's.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import torch

from fusedsl import Fused, fuse

Tensors = tuple[torch.Tensor, ...]
INF = float("inf")


def scores(q, k):
    return q @ k.mT * q.shape[-1] ** -0.5


def places(s):
    """The running indices of queries, as a column, and of keys."""
    return torch.arange(s.shape[-2], device=s.device)[:, None], torch.arange(s.shape[-1], device=s.device)


@fuse
def softmax_attention(q, k, v):
    return torch.softmax(scores(q, k), -1) @ v


@fuse
def mixed_precision(q, k, v):
    return torch.softmax(scores(q, k), -1, dtype=torch.float32).to(q.dtype) @ v


@fuse
def causal(q, k, v):
    s = scores(q, k)
    i, j = places(s)
    return torch.softmax(s.masked_fill(j > i, -INF), -1) @ v


@fuse
def causal_at_the_end(q, k, v):
    """The last query stands beside the last key: a prompt's next tokens."""
    s = scores(q, k)
    seen = torch.ones(s.shape[-2:], dtype=torch.bool, device=s.device).tril(s.shape[-1] - s.shape[-2])
    return torch.softmax(torch.where(seen, s, -INF), -1) @ v


@fuse
def grouped_query(q, k, v):
    each = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(each, 1), v.repeat_interleave(each, 1)
    return torch.softmax(scores(q, k), -1) @ v


@fuse
def sliding_window(q, k, v):
    s = scores(q, k)
    i, j = places(s)
    return torch.softmax(torch.where((j <= i) & (i - j < 32), s, -INF), -1) @ v


@fuse
def prefix_lm(q, k, v, prefix):
    """Every query sees the prefix, whose length differs between sequences; beyond it attention is causal."""
    s = scores(q, k)
    i, j = places(s)
    return torch.softmax(torch.where((j <= i) | (j < prefix[:, None, None, None]), s, -INF), -1) @ v


@fuse
def documents(q, k, v, start):
    """Sequences packed into one: start[i] is where the document of query i begins."""
    s = scores(q, k)
    i, j = places(s)
    return torch.softmax(torch.where((j <= i) & (j >= start[:, None]), s, -INF), -1) @ v


@fuse
def alibi(q, k, v, slopes):
    """Press et al. 2022: a penalty for distance, of another slope in each head."""
    s = scores(q, k)
    i, j = places(s)
    return torch.softmax(torch.where(j <= i, s - slopes[:, None, None] * (i - j), -INF), -1) @ v


@fuse
def relative_bias(q, k, v, table):
    """T5 (Raffel et al. 2020), with a bias for each clipped distance and head."""
    s = scores(q, k)
    i, j = places(s)
    distance = (i - j).clamp(-16, 16) + 16
    return torch.softmax(s + table[:, distance], -1) @ v


@fuse
def softcap(q, k, v):
    """Gemma 2: scores bent to at most 50."""
    return torch.softmax(torch.tanh(scores(q, k) / 50) * 50, -1) @ v


@fuse
def sink(q, k, v, weight):
    """Xiao et al. 2024: a learned score in each head that takes part in the softmax, and has no value."""
    s = scores(q, k)
    sinks = weight[:, None, None].expand(s.shape[0], -1, s.shape[2], 1)
    return torch.softmax(torch.cat([s, sinks], -1), -1)[..., :-1] @ v


@fuse
def sigmoid_attention(q, k, v):
    """Ramapuram et al. 2024"""
    s = scores(q, k)
    return torch.sigmoid(s - math.log(s.shape[-1])) @ v


@fuse
def differential(q1, k1, q2, k2, v):
    """Ye et al. 2024: the difference of two attentions."""
    return (torch.softmax(scores(q1, k1), -1) - 0.3 * torch.softmax(scores(q2, k2), -1)) @ v


@fuse
def evoformer(q, k, v, bias, gate):
    """AlphaFold 2's row attention: a bias of pairs, and a gate."""
    return torch.sigmoid(gate) * (torch.softmax(scores(q, k) + bias, -1) @ v)


@fuse
def invariant_point(q, k, v, points_q, points_k, points_v, bias):
    """AlphaFold 2's invariant point attention: scores of features, of squared distances of points in space, and of
    pairs; values of features and of points."""
    distance = (points_q * points_q).sum(-1)[..., None] + (points_k * points_k).sum(-1)[..., None, :]
    distance = distance - 2 * points_q @ points_k.mT
    p = torch.softmax(scores(q, k) - 0.1 * distance + bias, -1)
    return p @ v, p @ points_v


@fuse
def latent(q, q_rope, latents, k_rope):
    """DeepSeek's MLA with absorbed weights: one latent vector is every head's key and value, beside a rotary key."""
    s = (q @ latents.mT + q_rope @ k_rope.mT) * 0.1
    return torch.softmax(s, -1) @ latents


@fuse
def relu_linear(q, k, v):
    """Katharopoulos et al. 2020, with relu: keys and values are added up first."""
    q, k = torch.relu(q), torch.relu(k)
    return q @ (k.mT @ v) / (q @ k.sum(-2)[..., None] + 1e-6)


@fuse
def with_statistics(q, k, v):
    """The result, the logarithm of the sum, the greatest score and the entropy of each row."""
    s = scores(q, k)
    p, log_p = torch.softmax(s, -1), torch.log_softmax(s, -1)
    return p @ v, torch.logsumexp(s, -1), s.amax(-1), -(p * log_p).sum(-1)


@fuse
def decode(q, k, v, lengths):
    """One query for each sequence, over as many keys as it has."""
    s = scores(q, k)
    _, j = places(s)
    return torch.softmax(torch.where(j < lengths[:, None, None, None], s, -INF), -1) @ v


@fuse
def paged_decode(q, keys, values, blocks, lengths):
    """Keys and values in blocks of 16, of which a table says where each sequence's are."""
    k, v = (cache[blocks].flatten(1, 2).transpose(1, 2) for cache in (keys, values))
    s = scores(q, k)
    _, j = places(s)
    return torch.softmax(torch.where(j < lengths[:, None, None, None], s, -INF), -1) @ v


def inputs(length: int = 200) -> dict[Fused, Tensors]:
    """Arguments for every one of them: 2 sequences, 4 heads, head size 64."""
    b, h, d = 2, 4, 64
    make = torch.Generator().manual_seed(0)

    def t(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=make)

    q, k, v = t(b, h, length, d), t(b, h, length, d), t(b, h, length, d)
    longer, few = (t(b, h, length + 51, d), t(b, h, length + 51, d)), (t(b, 2, length, d), t(b, 2, length, d))
    start = torch.arange(length) // 64 * 64
    table = torch.randperm(40, generator=make)[:26].view(2, 13)
    caches = t(40, 16, h, d), t(40, 16, h, d)
    lengths = torch.tensor([length, length // 3])
    return {
        softmax_attention: (q, *longer), mixed_precision: (q, k, v), causal: (q, k, v), causal_at_the_end: (q, *longer),
        grouped_query: (q, *few), sliding_window: (q, k, v), prefix_lm: (q, k, v, torch.tensor([50, 3])),
        documents: (q, k, v, start), alibi: (q, k, v, t(h).abs()), relative_bias: (q, k, v, t(h, 33)),
        softcap: (q, k, v), sink: (q, k, v, t(h)), sigmoid_attention: (q, k, v),
        differential: (q, k, t(b, h, length, d), t(b, h, length, d), v),
        evoformer: (q, k, v, t(h, length, length), t(b, h, length, d)),
        invariant_point: (q, k, v, t(b, h, length, 12), t(b, h, length, 12), t(b, h, length, 12), t(h, length, length)),
        latent: (t(b, h, length, 128), t(b, h, length, 16), t(b, 1, length, 128), t(b, 1, length, 16)),
        relu_linear: (q, k, v), with_statistics: (q, k, v), decode: (q[:, :, :1], k, v, lengths),
        paged_decode: (q[:, :, :1], *caches, table, lengths),
    }  # fmt: skip


def difference(function: Callable, args: Tensors, exact: Callable) -> float:
    """The largest difference to the exact result, that of the function in double precision."""

    def results(f: Callable, given: Tensors) -> Tensors:
        found = f(*given)
        return found if isinstance(found, tuple) else (found,)

    double = tuple(a.double() if a.is_floating_point() else a for a in args)
    pairs = zip(results(function, args), results(exact, double), strict=True)
    return max(float((mine.double() - right).abs().max()) for mine, right in pairs)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    dtype = getattr(torch, parser.parse_args(argv).dtype)
    print(f"{'':20} launches  passes  tiles of keys   difference   eager's")
    for function, args in inputs().items():
        args = tuple(a.to(dtype) if a.is_floating_point() else a for a in args)
        plan = function.plan(*args)
        passes = f"{max(k.written for k in plan.kernels)} -> {plan.passes}"
        tiles = [r for k in plan.on("sm_90").kernels for r in k.rounds.values()]
        visited = f"{sum(r.visited for r in tiles)} of {sum(r.of for r in tiles)}"
        ours, eagers = (difference(f, args, function.function) for f in (function, function.function))
        name = function.function.__name__
        print(f"{name:20} {plan.launches:8}  {passes:>6}  {visited:>13}  {ours:11.2e} {eagers:9.2e}")


if __name__ == "__main__":
    main()
