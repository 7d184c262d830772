"""The workload table: chains that peers publish, at their shapes, with what fusing them must show.

Each is a plain torch function. `fusedsl bench workloads` prints, for every workload and dtype: launches, bytes against
the compulsory ones, requested bytes against passes, registers and spills on each GPU target, and the error against
float64 on a small shape, where loads and stores are also counted as they happen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

Args = tuple[Any, ...]
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Tensor:
    """An argument: its shape; integers below `below`, else floats of the workload's dtype."""

    shape: tuple[int, ...]
    below: int = 0

    def make(self, dtype: torch.dtype, device: str, generator: torch.Generator | None = None) -> torch.Tensor:
        if device == "meta":
            return torch.empty(self.shape, dtype=torch.int64 if self.below else dtype, device="meta")
        if self.below:
            return torch.randint(0, self.below, self.shape, generator=generator, device=device)
        return torch.randn(self.shape, generator=generator, device=device).to(dtype)


@dataclass(frozen=True)
class Workload:
    """A chain, the published shapes of its arguments, and a small instance of them that runs in a moment. loads: how
    many times the compulsory bytes a resident kernel may load. launches, and how many times the compulsory bytes they
    move together."""

    name: str
    function: Callable[..., Any]
    shapes: tuple[Tensor, ...]
    small: tuple[Tensor, ...]
    loads: float = 1.02
    launches: int = 1
    moves: float = 1.02

    def args(self, dtype: torch.dtype, device: str = "meta", small: bool = False) -> Args:
        generator = torch.Generator(device).manual_seed(0) if device != "meta" else None
        return tuple(t.make(dtype, device, generator) for t in (self.small if small else self.shapes))


def vector_add(x, y):
    return x + y


def vector_exp(x):
    return torch.exp(x)


def swiglu(gate, up):
    return F.silu(gate) * up


def geglu(gate, up):
    return F.gelu(gate, approximate="tanh") * up


def relu_squared(x):
    return F.relu(x) ** 2


def poly_norm(x, weight, bias):
    def norm(u):
        return u * torch.rsqrt((u * u).mean(-1, keepdim=True) + 1e-6)

    return weight[0] * norm(x**3) + weight[1] * norm(x**2) + weight[2] * norm(x) + bias


def dyt(x, alpha, weight, bias):
    return torch.tanh(alpha * x) * weight + bias


def softmax(x):
    return torch.softmax(x, -1)


def softmax_first(x):
    return torch.softmax(x, 0)


def cross_entropy(logits, target):
    return F.cross_entropy(logits, target, reduction="none")


def kl_div(x, y):
    return F.kl_div(torch.log_softmax(x, -1), torch.softmax(y, -1), reduction="none").sum(-1)


def jsd(x, y):
    p, q = torch.log_softmax(x, -1), torch.log_softmax(y, -1)
    mean = torch.log((p.exp() + q.exp()) / 2)
    return (_kl(mean, p) + _kl(mean, q)).sum(-1) / 2


def _kl(x, y):
    return F.kl_div(x, y, reduction="none", log_target=True)


def tvd(x, y):
    return (torch.softmax(x, -1) - torch.softmax(y, -1)).abs().sum(-1) / 2


def grpo_loss(logits, ids, old, reference, advantage, mask):
    """The loss of each token of group relative policy optimisation, of log-probabilities that were and that are."""
    new = torch.log_softmax(logits, -1).gather(-1, ids[..., None]).squeeze(-1)
    ratio, gain = torch.exp(new - old), advantage[:, None]
    clipped = torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain)
    kl = torch.exp(reference - new) - (reference - new) - 1
    return (0.04 * kl - clipped) * mask


def rms_norm(x, weight):
    return F.rms_norm(x, (x.shape[-1],), weight, 1e-6)


def layer_norm(x, weight, bias):
    return F.layer_norm(x, (x.shape[-1],), weight, bias)


def add_rms_norm(x, residual, weight):
    h = x + residual
    return h, F.rms_norm(h, (h.shape[-1],), weight, 1e-6)


def add_rms_norm_fp8(x, residual, weight):
    h = x + residual
    y = F.rms_norm(h, (h.shape[-1],), weight, 1e-6).float()
    scale = y.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 448
    return h, (y / scale).to(torch.float8_e4m3fn), scale


def _quantized(y):
    """In f8, with a scale for each 128 neighbours."""
    groups = y.float().unflatten(-1, (-1, 128))
    scale = groups.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 448
    return (groups / scale).to(torch.float8_e4m3fn).flatten(-2), scale.squeeze(-1)


def group_fp8(x):
    return _quantized(x)


def rms_norm_group_fp8(x, weight):
    return _quantized(F.rms_norm(x, (x.shape[-1],), weight, 1e-6))


def silu_mul_fp8(gate, up):
    return (F.silu(gate) * up).to(torch.float8_e4m3fn)


def silu_mul_group_fp8(gate, up):
    return _quantized(F.silu(gate) * up)


def batch_norm_relu(x, weight, bias):
    return F.relu(F.batch_norm(x, None, None, weight, bias, training=True))


def group_norm_silu(x, weight, bias):
    return F.silu(F.group_norm(x, 32, weight, bias))


def adaln(x, shift, scale):
    y = F.layer_norm(x, (x.shape[-1],))
    return y * (1 + scale[:, None]) + shift[:, None]


def embedding_norm(ids, table, position, weight, bias):
    return F.layer_norm(F.embedding(ids, table) + position, (table.shape[-1],), weight, bias)


def rotary(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def concat_gelu(x, y):
    return F.gelu(torch.cat((x, y), dim=-1))


def split_geglu(x):
    gate, up = x.chunk(2, -1)
    return F.gelu(gate) * up


def cumsum(x):
    return torch.cumsum(x, -1)


def dropout(x):
    return F.dropout(x, 0.25)


def sample_top_k(logits, exponential):
    """A token of each row, and its probability: one of the 50 most probable at a temperature of 0.7, drawn by dividing
    by exponential random numbers."""
    scaled = logits / 0.7
    least = scaled.kthvalue(scaled.shape[-1] - 49, -1, keepdim=True).values
    chances = torch.softmax(torch.where(scaled < least, -torch.inf, scaled), -1)
    token = torch.argmax(chances / exponential.abs(), -1, keepdim=True)
    return token, chances.gather(-1, token)


def _same(
    function: Callable[..., Any], shape: Sequence[int], small: Sequence[int], count: int, name: str = ""
) -> Workload:
    """A workload whose arguments all have one shape."""
    return Workload(
        name or function.__name__, function, (Tensor(tuple(shape)),) * count, (Tensor(tuple(small)),) * count
    )


def _rows(
    function: Callable[..., Any], rows: int, width: int, small: tuple[int, int], matrices: int, vectors: int
) -> Workload:
    """A workload of matrices of rows and of vectors as wide as a row."""

    def shapes(n: int, k: int) -> tuple[Tensor, ...]:
        return (Tensor((n, k)),) * matrices + (Tensor((k,)),) * vectors

    return Workload(function.__name__, function, shapes(rows, width), shapes(*small))


def _embedding(batch: int, length: int, vocabulary: int, width: int) -> tuple[Tensor, ...]:
    vector = Tensor((width,))
    return (Tensor((batch, length), vocabulary), Tensor((vocabulary, width)), Tensor((length, width)), vector, vector)


def _policy(batch: int, length: int, vocabulary: int) -> tuple[Tensor, ...]:
    tokens = Tensor((batch, length))
    return (Tensor((batch, length, vocabulary)), Tensor((batch, length), vocabulary), tokens, tokens, Tensor((batch,)),
            tokens)  # fmt: skip


WORKLOADS: tuple[Workload, ...] = (
    _same(vector_add, (2**26,), (3001,), 2),
    _same(vector_exp, (2**26,), (3001,), 1),
    _same(swiglu, (8192, 11008), (13, 1000), 2),
    _same(geglu, (8192, 11008), (13, 1000), 2),
    _same(relu_squared, (4096, 4096), (13, 1000), 1),
    Workload(
        "poly_norm", poly_norm,
        (Tensor((4096, 4096)), Tensor((3,)), Tensor((1,))), (Tensor((12, 500)), Tensor((3,)), Tensor((1,))),
    ),
    Workload(
        "dyt", dyt,
        (Tensor((4096, 4096)), Tensor((1,)), Tensor((4096,)), Tensor((4096,))),
        (Tensor((12, 500)), Tensor((1,)), Tensor((500,)), Tensor((500,))),
    ),
    _same(softmax, (4096, 512), (16, 512), 1, "softmax_512"),
    _same(softmax, (4096, 4096), (6, 4096), 1, "softmax_4096"),
    # few rows: several programs share each for its maximum and sum, and then as many as fill a machine divide by it
    replace(_same(softmax, (4, 131072), (2, 131072), 1, "softmax_131072"), launches=2, moves=1.51),
    _same(softmax_first, (8192, 512), (1500, 256), 1),
    Workload(
        "cross_entropy", cross_entropy, (Tensor((4096, 32000)), Tensor((4096,), 32000)), (Tensor((3, 32000)),
        Tensor((3,), 32000))
    ),
    _same(kl_div, (2048, 32000), (3, 32000), 2),
    _same(jsd, (2048, 32000), (3, 32000), 2),
    _same(tvd, (2048, 32000), (3, 32000), 2),
    Workload("grpo_loss", grpo_loss, _policy(4, 512, 32000), _policy(2, 3, 40)),
    _rows(rms_norm, 2048, 8192, (6, 1000), 1, 1),
    _rows(layer_norm, 4096, 4096, (6, 1000), 1, 2),
    _rows(add_rms_norm, 4096, 4096, (6, 1000), 2, 1),
    _rows(add_rms_norm_fp8, 4096, 4096, (6, 1000), 2, 1),
    _same(group_fp8, (64, 2048), (5, 384), 1),
    # its outputs are small beside the weights, which each program loads, from the L2 cache
    replace(_rows(rms_norm_group_fp8, 4096, 4096, (6, 384), 1, 1), loads=1.6),
    _same(silu_mul_fp8, (4096, 14336), (6, 1000), 2),
    _same(silu_mul_group_fp8, (4096, 14336), (6, 384), 2),
    Workload(
        "batch_norm_relu", batch_norm_relu,
        (Tensor((64, 256, 28, 28)), Tensor((256,)), Tensor((256,))), (Tensor((8, 5, 7, 6)), Tensor((5,)), Tensor((5,))),
    ),
    Workload(
        "group_norm_silu", group_norm_silu,
        (Tensor((8, 512, 64, 64)), Tensor((512,)), Tensor((512,))),
        (Tensor((1, 64, 70, 66)), Tensor((64,)), Tensor((64,))),
    ),
    Workload(
        "adaln", adaln,
        (Tensor((56, 1024, 1024)), Tensor((56, 1024)), Tensor((56, 1024))),
        (Tensor((2, 7, 300)), Tensor((2, 300)), Tensor((2, 300))),
    ),
    Workload("embedding_norm", embedding_norm, _embedding(32, 512, 30522, 768), _embedding(4, 6, 50, 300)),
    Workload(
        "rotary", rotary,
        (Tensor((1, 32, 2048, 128)), Tensor((2048, 128)), Tensor((2048, 128))),
        (Tensor((2, 8, 5, 64)), Tensor((5, 64)), Tensor((5, 64))),
    ),
    _same(concat_gelu, (4096, 4096), (12, 333), 2),
    _same(split_geglu, (4096, 8192), (12, 666), 1),
    _same(cumsum, (4096, 2048), (5, 1000), 1),
    _same(dropout, (2**24,), (3001,), 1),
    _same(sample_top_k, (64, 128256), (2, 5000), 2),
)  # fmt: skip


def cases() -> Iterator[tuple[Workload, torch.dtype]]:
    """Every workload in every dtype of the table."""
    for workload in WORKLOADS:
        for dtype in FLOATS:
            yield workload, dtype
