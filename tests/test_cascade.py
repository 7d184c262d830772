"""Reductions that use earlier ones over the same axis: in one pass where algebra allows, in several where it does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import hypothesis
import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

import fusedsl
from fusedsl import fuse
from fusedsl.interpret import sizes_of
from fusedsl.levels import passes
from fusedsl.lower import Write
from fusedsl.passes import cascade as cascades_pass
from fusedsl.passes.cascade import cascade
from fusedsl.pipeline import writes_of
from fusedsl.plan import Plan, Program
from fusedsl.schedule import loops_of
from fusedsl.separate import Separation
from fusedsl.testing import assert_matches
from tests.cascades import LAWS, Points, Walk, assert_same, points_of, stored, walks_of

# ---- programs --------------------------------------------------------------------------------------------------------

# What each letter of a shape is when a call is planned, so that n and t are walked by loops, and when it is evaluated.
PLANNED = {"m": 4096, "n": 20000, "o": 500, "b": 4, "h": 6, "s": 300, "t": 700, "d": 16, "e": 8, "p": 4}
SMALL = {"m": 5, "n": 12, "o": 3, "b": 2, "h": 3, "s": 5, "t": 13, "d": 16, "e": 8, "p": 4}


@dataclass(frozen=True)
class Case:
    """shapes: of its operands, as letters; with :i it is of integers below n, with :b of bools."""

    function: Callable[..., Any]
    shapes: str
    written: int
    after: int = 1
    scores: int | None = None

    def operands(self, sizes: dict[str, int], make: Callable[[list[int], str], Tensor]) -> list[Tensor]:
        found = []
        for text in self.shapes.split():
            letters, _, kind = text.partition(":")
            found.append(make([sizes[letter] for letter in letters], kind or "f"))
        return found

    def plan(self) -> Plan:
        return fuse(self.function).plan(*self.operands(PLANNED, on_meta))


def on_meta(shape: list[int], kind: str) -> Tensor:
    return torch.empty(shape, device="meta", dtype={"f": torch.float32, "i": torch.int64, "b": torch.bool}[kind])


def scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.mT * q.shape[-1] ** -0.5


def causal(s: Tensor) -> Tensor:
    i, j = fusedsl.indices(s, -2, -1)
    return torch.where(j <= i, s, -math.inf)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(scores(q, k), -1) @ v


def entropy(x: Tensor) -> Tensor:
    return -(torch.softmax(x, -1) * torch.log_softmax(x, -1)).sum(-1)


def divergence(x: Tensor, z: Tensor) -> Tensor:
    p, q = torch.log_softmax(x, -1), torch.log_softmax(z, -1)
    return (p.exp() * (p - q)).sum(-1)


def moment(x: Tensor, k: int) -> Tensor:
    return ((x - x.mean(-1, keepdim=True)) ** k).mean(-1)


def normed(x: Tensor, *weights: Tensor) -> Tensor:
    return F.layer_norm(x, (x.shape[-1],), *weights)


def scaled(x: Tensor, *weights: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), *weights, eps=1e-5)


def with_sink(q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> Tensor:
    s = scores(q, k)
    s = torch.cat([s, sink[:, None, None].expand(*s.shape[:-1], 1)], -1)
    return torch.softmax(s, -1)[..., :-1] @ v


def differential(q: Tensor, k: Tensor, r: Tensor, l: Tensor, v: Tensor) -> Tensor:
    return (torch.softmax(scores(q, k), -1) - 0.3 * torch.softmax(scores(r, l), -1)) @ v


def invariant_point(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, ...]:
    """Scores of three terms, one of them the distances of points, and two kinds of values."""
    distances = (x * x).sum(-1)[..., :, None] + (y * y).sum(-1)[..., None, :] - 2 * x @ y.mT
    p = torch.softmax(scores(q, k) + bias - 0.1 * distances, -1)
    return p @ v, p @ z


CASES = {
    "variance": Case(lambda x: x.var(-1), "mn", 2),
    "std": Case(lambda x: x.std(-1, correction=0), "mn", 2),
    "var_mean": Case(lambda x: torch.var_mean(x, -1), "mn", 2),
    "third moment": Case(lambda x: moment(x, 3), "mn", 2),
    "denominator": Case(lambda x: torch.exp(x - x.amax(-1, keepdim=True)).sum(-1), "mn", 2, scores=0),
    "logsumexp": Case(lambda x: torch.logsumexp(x, -1), "mn", 2, scores=0),
    "cross entropy": Case(lambda x, t: F.cross_entropy(x, t, reduction="none"), "mn m:i", 2, scores=0),
    "z loss": Case(lambda x, t: -torch.log_softmax(x, -1).gather(-1, t[:, None])[:, 0] + torch.logsumexp(x, -1) ** 2, "mn m:i", 2, scores=0),
    "entropy": Case(entropy, "mn", 3, scores=0),
    "divergence": Case(divergence, "mn mn", 3, scores=0),
    "max of softmax": Case(lambda x: torch.softmax(x, -1).amax(-1), "mn", 3, scores=0),
    "collision": Case(lambda x: (torch.softmax(x, -1) ** 2).sum(-1), "mn", 3, scores=0),
    "overlap": Case(lambda x, z: (torch.softmax(x, -1) * torch.softmax(z, -1)).sum(-1), "mn mn", 3, scores=0),
    "cooler": Case(lambda x, v: torch.softmax(x * 0.25, -1) @ v, "mn no", 3, scores=0),
    "softmax product": Case(lambda x, v: torch.softmax(x, -1) @ v, "mn no", 3, scores=0),
    "softmin product": Case(lambda x, v: F.softmin(x, -1) @ v, "mn no", 3),
    "rms norm product": Case(lambda x, g, w: scaled(x, g) @ w, "mn n no", 2),
    "rms norm relu product": Case(lambda x, w: torch.relu(scaled(x)) ** 2 @ w, "mn no", 2),
    "rms norm largest": Case(lambda x, g: scaled(x, g).abs().amax(-1), "mn n", 2),
    "layer norm product": Case(lambda x, g, b, w: normed(x, g, b) @ w, "mn n n no", 3),
    "layer norm largest": Case(lambda x: normed(x).amax(-1), "mn", 3),
    "attention": Case(attention, "bhsd bhtd bhte", 3),
    "masked": Case(lambda q, k, v, m: torch.softmax(torch.where(m, scores(q, k), -math.inf), -1) @ v, "bhsd bhtd bhte st:b", 3, scores=3),
    "biased": Case(lambda q, k, v, b: torch.softmax(scores(q, k) + b, -1) @ v, "bhsd bhtd bhte hst", 3, scores=3),
    "causal": Case(lambda q, k, v: torch.softmax(causal(scores(q, k)), -1) @ v, "bhsd bhtd bhte", 3),
    "capped": Case(lambda q, k, v: torch.softmax(30 * torch.tanh(scores(q, k) / 30), -1) @ v, "bhsd bhtd bhte", 3),
    "with a sink": Case(with_sink, "bhsd bhtd bhte h", 3),
    "gated": Case(lambda q, k, v, g: torch.sigmoid(g) * attention(q, k, v), "bhsd bhtd bhte bhse", 3),
    "evoformer": Case(lambda q, k, v, b, g: torch.sigmoid(g) * (torch.softmax(scores(q, k) + b, -1) @ v), "bphsd bphtd bphte bphst bphse", 3, scores=3),
    "with lse": Case(lambda q, k, v: (attention(q, k, v), torch.logsumexp(scores(q, k), -1)), "bhsd bhtd bhte", 3),
    "differential": Case(differential, "bhsd bhtd bhsd bhtd bhte", 3),
    "invariant point": Case(invariant_point, "bhsd bhtd bhte hst bhsp bhtp bhte", 3, scores=3),
    "sigmoid attention": Case(lambda q, k, v: torch.sigmoid(scores(q, k)) @ v, "bhsd bhtd bhte", 1),
}  # fmt: skip


# ---- states ----------------------------------------------------------------------------------------------------------


@cache
def planned(name: str) -> tuple[Plan, list[Write]]:
    """The plan of a case, and what its one launch writes."""
    plan = CASES[name].plan()
    (group,) = plan.program.specialised.partition.groups
    return plan, writes_of(group, plan.program.buffers, False, {})


def drawn(shape: list[int], kind: str) -> Tensor:
    if kind == "i":
        return torch.randint(SMALL["n"], shape)
    return torch.rand(shape) > 0.3 if kind == "b" else torch.randn(shape, dtype=torch.float64)


def plain(case: Case) -> list[Tensor]:
    return case.operands(SMALL, drawn)


def large(case: Case) -> list[Tensor]:
    """Scores far below -100 and far above 100."""
    first, *rest = plain(case)
    return [first * 300, *rest]


def shifted(case: Case) -> list[Tensor]:
    first, *rest = plain(case)
    return [first + 1000, *rest]


def equal(case: Case) -> list[Tensor]:
    """Nothing varies along the axis."""
    letters = case.shapes.split()
    return [x[(slice(None),) * at + (slice(0, 1),)].expand(x.shape).clone() if x.is_floating_point() and (at := _long(s)) >= 0 else x
            for x, s in zip(plain(case), letters, strict=True)]  # fmt: skip


def _long(letters: str) -> int:
    return max(letters.find("n"), letters.find("t"))


def masked(case: Case) -> list[Tensor]:
    """Rows that begin with -inf, end with it, have nothing else, and but one number."""
    found = plain(case)
    mask = found[case.scores]
    nothing = False if mask.dtype is torch.bool else -math.inf
    rows = mask.view(-1, mask.shape[-1]) if case.scores or True else mask
    rows[0, 0] = rows[1, -1] = rows[2, :] = rows[3, 1:] = nothing
    rows[4, 3] = nothing
    return found


VALUES = {f.__name__: f for f in (plain, large, shifted, equal, masked)}
EACH = [(name, values) for name, case in CASES.items() for values in VALUES if values != "masked" or case.scores is not None]


def walked(name: str, values: str) -> tuple[list[Write], list[Walk], Points, list[Tensor]]:
    """The passes of a case after the rewrite, on such values."""
    plan, writes = planned(name)
    torch.manual_seed(1)
    args = VALUES[values](CASES[name])
    graph = plan.program.graph
    sizes = sizes_of(graph, args)
    after, _ = cascade(writes, loops_of(writes))
    points = points_of(after, dict(zip(graph.inputs, args, strict=True)), sizes)
    return after, walks_of(after, loops_of(after), points), points, args


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name, values", EACH)
def test_every_state_obeys(law, name, values):
    for walk in walked(name, values)[1]:
        law(walk)


@pytest.mark.parametrize("name, values", EACH)
def test_states_hold_numbers(name, values):
    for walk in walked(name, values)[1]:
        for fold, value in walk.fold(walk.places.split(3)).items():
            assert not value.isnan().any(), fold


@pytest.mark.parametrize("name, values", EACH)
def test_the_epilogue_is_what_the_function_says(name, values):
    plan, _ = planned(name)
    writes, walks, points, args = walked(name, values)
    expected = CASES[name].function(*args)
    found = stored(writes, walks, points)
    for node, wanted in zip(plan.program.graph.outputs, expected if isinstance(expected, tuple) else (expected,), strict=True):
        assert_same(found[node], wanted, name, 1e-8)


@pytest.mark.parametrize("name", CASES)
def test_passes(name):
    (kernel,) = planned(name)[0].kernels
    assert (kernel.written, kernel.passes) == (CASES[name].written, CASES[name].after)
