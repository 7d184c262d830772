"""Reductions that use earlier ones over the same axis: one pass where algebra allows it, more where it does not.

Every case has its states checked against the laws of tests/cascades.py, its passes counted, and its epilogue compared
with the function in float64. What must not become one pass is refused by name, and random chains are tried both ways.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import hypothesis
import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

import fusedsl
from fusedsl import fuse
from fusedsl.algebra import over, times
from fusedsl.api import Fused
from fusedsl.comparison import Comparison, beside_eager, reference, ulp_at
from fusedsl.index import atoms, evaluate, replace
from fusedsl.interpret import sizes_of
from fusedsl.kernel import Bound, Edge, Limit, Loop
from fusedsl.lower import Write
from fusedsl.passes.cascade import _Rewriter, cascade
from fusedsl.pipeline import writes_of
from fusedsl.plan import Plan, PlannedKernel
from fusedsl.scalar import Expr
from fusedsl.schedule import loops_of
from fusedsl.separate import Separation, Term
from fusedsl.state import State
from fusedsl.testing import assert_matches
from tests.cascades import (
    LAWS,
    Chain,
    Points,
    Walk,
    assert_same,
    chain,
    kept,
    mask_of_every_row,
    points_of,
    stored,
    walks_of,
)
from tests.choices import Dice, Hypothesis

SEED = int(os.environ.get("FUSEDSL_SEED", "0"))
CPU = torch.device("cpu")
HALF, FEW = (hypothesis.settings(max_examples=max(1, hypothesis.settings().max_examples // n)) for n in (2, 10))
DTYPES = {"f": torch.float32, "i": torch.int64, "b": torch.bool}

# ---- cases -----------------------------------------------------------------------------------------------------------

# What letters of shapes are when a call is planned, so that n and t are walked by loops, and when it is evaluated.
PLANNED = {"m": 4096, "n": 20000, "o": 500, "b": 4, "h": 6, "s": 300, "t": 700, "d": 16, "e": 8, "p": 4}
SMALL = {**PLANNED, "m": 5, "n": 8, "o": 3, "b": 2, "h": 3, "s": 5, "t": 7}


@dataclass(frozen=True)
class Case:
    """A function of tensors whose shapes are letters, with :i of integers below n and with :b of bools. written, after:
    its passes over n or t. scores: the operand whose -inf or False leaves a place out of a softmax, if there is one."""

    function: Callable[..., Any]
    shapes: str
    written: int
    after: int = 1
    scores: int | None = None

    def operands(self, sizes: dict[str, int], make: Callable[[list[int], str], Tensor]) -> list[Tensor]:
        pairs = (text.partition(":") for text in self.shapes.split())
        return [make([sizes[letter] for letter in letters], kind or "f") for letters, _, kind in pairs]

    def long(self, at: int) -> int | None:
        """The dimension of an operand that is n or t."""
        letters = self.shapes.split()[at].partition(":")[0]
        return next((d for d, letter in enumerate(letters) if letter in "nt"), None)


def on_meta(shape: list[int], kind: str) -> Tensor:
    return torch.empty(shape, device="meta", dtype=DTYPES[kind])


def most(x: Tensor) -> Tensor:
    return x.amax(-1, keepdim=True)


def mean(x: Tensor) -> Tensor:
    return x.mean(-1, keepdim=True)


def layer_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    return F.layer_norm(x, (x.shape[-1],), weight, bias)


def rms_norm(x: Tensor, *weights: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), *weights, eps=1e-5)


def scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.mT * q.shape[-1] ** -0.5


def where(condition: Tensor, s: Tensor) -> Tensor:
    return torch.where(condition, s, -math.inf)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(scores(q, k), -1) @ v


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = scores(q, k)
    i, j = fusedsl.indices(s, -2, -1)
    return torch.softmax(where(j <= i, s), -1) @ v


def by_hand(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """With the logarithm of the denominator."""
    s = scores(q, k)
    p = torch.exp(s - most(s))
    return p @ v / p.sum(-1, keepdim=True), most(s)[..., 0] + torch.log(p.sum(-1))


def with_sink(q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> Tensor:
    s = scores(q, k)
    s = torch.cat([s, sink[:, None, None].expand(*s.shape[:-1], 1)], -1)
    return torch.softmax(s, -1)[..., :-1] @ v


def with_sink_in_the_sum(q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> Tensor:
    s, sink = scores(q, k), sink[:, None, None]
    pivot = torch.maximum(most(s), sink)
    p = torch.exp(s - pivot)
    return p @ v / (p.sum(-1, keepdim=True) + torch.exp(sink - pivot))


def evoformer(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, gate: Tensor) -> Tensor:
    return torch.sigmoid(gate) * (torch.softmax(scores(q, k) + bias, -1) @ v)


def differential(q: Tensor, k: Tensor, p: Tensor, r: Tensor, v: Tensor) -> Tensor:
    return (torch.softmax(scores(q, k), -1) - 0.3 * torch.softmax(scores(p, r), -1)) @ v


def invariant_point(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, x: Tensor, y: Tensor, z: Tensor
) -> tuple[Tensor, Tensor]:
    """Scores of three terms, one of them the distances of points, and two kinds of values."""
    distances = (x * x).sum(-1)[..., :, None] + (y * y).sum(-1)[..., None, :] - 2 * x @ y.mT
    p = torch.softmax(scores(q, k) + bias - 0.1 * distances, -1)
    return p @ v, p @ z


def entropy(x: Tensor) -> Tensor:
    return -(torch.softmax(x, -1) * torch.log_softmax(x, -1)).sum(-1)


def divergence(x: Tensor, z: Tensor) -> Tensor:
    p, q = torch.log_softmax(x, -1), torch.log_softmax(z, -1)
    return (p.exp() * (p - q)).sum(-1)


def with_z_loss(x: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(x, target, reduction="none") + 1e-2 * torch.logsumexp(x, -1) ** 2


def third_moment(x: Tensor) -> Tensor:
    return ((x - mean(x)) ** 3).mean(-1)


HEADS = "bhsd bhtd bhte"
CASES = {
    "variance": Case(lambda x: x.var(-1), "mn", 2),
    "std": Case(lambda x: x.std(-1, correction=0), "mn", 2),
    "var_mean": Case(lambda x: torch.var_mean(x, -1), "mn", 2),
    "third moment": Case(third_moment, "mn", 2),
    "sum of distances": Case(lambda x: (most(x) - x).sum(-1), "mn", 2),
    "denominator": Case(lambda x: torch.exp(x - most(x)).sum(-1), "mn", 2, scores=0),
    "of powers of 2": Case(lambda x: torch.exp2(x - most(x)).sum(-1), "mn", 2, scores=0),
    "logsumexp": Case(lambda x: torch.logsumexp(x, -1), "mn", 2, scores=0),
    "cross entropy": Case(lambda x, t: F.cross_entropy(x, t, reduction="none"), "mn m:i", 2, scores=0),
    "with z loss": Case(with_z_loss, "mn m:i", 2, scores=0),
    "entropy": Case(entropy, "mn", 3),
    "divergence": Case(divergence, "mn mn", 3),
    "largest of softmax": Case(lambda x: torch.softmax(x, -1).amax(-1), "mn", 3, scores=0),
    "largest of log softmax": Case(lambda x: torch.log_softmax(x, -1).amax(-1), "mn", 3, scores=0),
    "place of the largest": Case(lambda x: x.argmax(-1), "mn", 2),
    "least and its place": Case(lambda x: (x.amin(-1), x.argmin(-1)), "mn", 2),
    "logsumexp, largest and its place": Case(
        lambda x: (torch.logsumexp(x, -1), x.amax(-1), x.argmax(-1)), "mn", 2, scores=0),
    "collision": Case(lambda x: (torch.softmax(x, -1) ** 2).sum(-1), "mn", 3, scores=0),
    "overlap": Case(lambda x, z: (torch.softmax(x, -1) * torch.softmax(z, -1)).sum(-1), "mn mn", 3, scores=0),
    "softmax product": Case(lambda x, v: torch.softmax(x, -1) @ v, "mn no", 3, scores=0),
    "cooler": Case(lambda x, v: torch.softmax(x * 0.25, -1) @ v, "mn no", 3, scores=0),
    "softmin product": Case(lambda x, v: F.softmin(x, -1) @ v, "mn no", 3),
    "rms norm product": Case(lambda x, g, w: rms_norm(x, g) @ w, "mn n no", 2),
    "rms norm relu product": Case(lambda x, w: torch.relu(rms_norm(x)) ** 2 @ w, "mn no", 2),
    "rms norm largest": Case(lambda x, g: rms_norm(x, g).abs().amax(-1), "mn n", 2),
    "layer norm product": Case(lambda x, g, b, w: layer_norm(x, g, b) @ w, "mn n n no", 3),
    "layer norm largest": Case(lambda x: layer_norm(x).amax(-1), "mn", 3),
    "attention": Case(attention, HEADS, 3),
    "masked": Case(
        lambda q, k, v, m: torch.softmax(where(m, scores(q, k)), -1) @ v, f"{HEADS} st:b", 3, scores=3),
    "masked late": Case(
        lambda q, k, v, m: torch.where(m, torch.softmax(scores(q, k), -1), 0) @ v, f"{HEADS} st:b", 3, scores=3),
    "biased": Case(
        lambda q, k, v, b: torch.softmax(scores(q, k) + b, -1) @ v, f"{HEADS} hst", 3, scores=3),
    "causal": Case(causal, HEADS, 3),
    "capped": Case(lambda q, k, v: torch.softmax(30 * torch.tanh(scores(q, k) / 30), -1) @ v, HEADS, 3),
    "with a sink": Case(with_sink, f"{HEADS} h", 3),
    "with a sink in the sum": Case(with_sink_in_the_sum, f"{HEADS} h", 2),
    "gated": Case(lambda q, k, v, g: torch.sigmoid(g) * attention(q, k, v), f"{HEADS} bhse", 3),
    "evoformer": Case(evoformer, "bphsd bphtd bphte bphst bphse", 3, scores=3),
    "with lse": Case(lambda q, k, v: (attention(q, k, v), torch.logsumexp(scores(q, k), -1)), HEADS, 3),
    "by hand": Case(by_hand, HEADS, 2),
    "differential": Case(differential, "bhsd bhtd bhsd bhtd bhte", 3),
    "invariant point": Case(invariant_point, f"{HEADS} hst bhsp bhtp bhte", 3, scores=3),
    "sigmoid attention": Case(lambda q, k, v: torch.sigmoid(scores(q, k)) @ v, HEADS, 1),
}  # fmt: skip


# ---- values ----------------------------------------------------------------------------------------------------------


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


def low(case: Case) -> list[Tensor]:
    """Everything far from 0, on the same side."""
    first, *rest = plain(case)
    return [first - 1000, *rest]


def equal(case: Case) -> list[Tensor]:
    """Nothing varies along the axis."""
    pairs = ((x, case.long(at)) for at, x in enumerate(plain(case)))
    return [x if d is None else x.narrow(d, 0, 1).expand(x.shape).clone() for x, d in pairs]


def masked(case: Case) -> list[Tensor]:
    """Rows that begin with -inf, that end with it, that have nothing else, and that have one number."""
    found = plain(case)
    assert case.scores is not None
    mask = found[case.scores]
    rows = mask.view(-1, mask.shape[-1])
    rows[0, 0] = rows[1, -1] = rows[2, :] = rows[3, 1:] = False if mask.dtype is torch.bool else -math.inf
    return found


VALUES = {f.__name__: f for f in (plain, large, low, equal, masked)}
EACH = [(name, kind) for name, c in CASES.items() for kind in VALUES if kind != "masked" or c.scores is not None]


# ---- states ----------------------------------------------------------------------------------------------------------


@cache
def planned(name: str) -> tuple[Plan, list[Write]]:
    """The plan of a case, and what its one launch writes."""
    case = CASES[name]
    plan = fuse(case.function).plan(*case.operands(PLANNED, on_meta))
    (group,) = plan.program.specialised.partition.groups
    return plan, writes_of(group, plan.program.buffers, False, {})


@dataclass(frozen=True)
class Walked:
    """A kernel on some values: what it writes, and its passes."""

    writes: list[Write]
    walks: list[Walk]
    points: Points
    args: list[Tensor]


def on_values(name: str, kind: str) -> Walked:
    """A case as the rewrite leaves it, on values of a kind."""
    torch.manual_seed(SEED)
    return rewritten(*planned(name), VALUES[kind](CASES[name]))


def rewritten(plan: Plan, writes: list[Write], args: list[Tensor]) -> Walked:
    graph = plan.program.graph
    after, _ = cascade(writes, loops_of(writes))
    points = points_of(after, dict(zip(graph.inputs, args, strict=True)), sizes_of(graph, args))
    return Walked(after, walks_of(after, loops_of(after), points), points, args)


walked = cache(on_values)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name, kind", EACH)
def test_every_state_obeys(law, name, kind):
    for walk in walked(name, kind).walks:
        law(walk)


@pytest.mark.parametrize("name, kind", EACH)
def test_states_are_numbers(name, kind):
    assert_numbers(walked(name, kind))


def assert_numbers(found: Walked) -> None:
    for walk in found.walks:
        for fold, value in walk.fold(walk.places.split(3)).items():
            assert not value.isnan().any(), fold


@pytest.mark.parametrize("name, kind", EACH)
def test_the_epilogue_is_the_function(name, kind):
    assert_epilogue(name, walked(name, kind))


def assert_epilogue(name: str, found: Walked) -> None:
    outputs = stored(found.writes, found.walks, found.points)
    expected = listed(CASES[name].function(*found.args))
    for node, wanted in zip(planned(name)[0].program.graph.outputs, expected, strict=True):
        assert_same(outputs[node], wanted, name, 1e-8)


def listed(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


@pytest.mark.parametrize("name", ("entropy", "divergence"))
def test_nan_stands_where_torch_has_it(name):
    """p log p of a masked place is 0 * -inf."""
    args = plain(CASES[name])
    args[0][0, 0] = args[0][1, 3] = args[0][2, :] = -math.inf
    assert_epilogue(name, rewritten(*planned(name), args))


# ---- tests of the tests ----------------------------------------------------------------------------------------------

RUNNING, CENTRED = _Rewriter._running, Separation.centred


def inverted(self: _Rewriter, *args: Any) -> tuple[Expr, Expr | None]:
    body, factor = RUNNING(self, *args)
    return body, None if factor is None else over(None, factor, factor.dtype)


def squared(self: _Rewriter, *args: Any) -> tuple[Expr, Expr | None]:
    body, factor = RUNNING(self, *args)
    return body, times(factor, factor)


def without_its_pilot(self: Separation, terms: list[Term]) -> list[Term]:
    found = CENTRED(self, terms)
    return found if found is terms else [found[0], *(t for t in terms if t.is_outer)]


MUTANTS = {
    "the factor inverted": (_Rewriter, "_running", inverted),
    "the factor squared": (_Rewriter, "_running", squared),
    "no guard where nothing is met": (_Rewriter, "_guarded", lambda self, b, later: later),
    "a pivot taken for a maximum": (_Rewriter, "_has_pivot", lambda self, b: False),
    "no NaN of nothing": (_Rewriter, "_with_nan", lambda self, total, under, powers: (total, under)),
    "a pilot not given back": (Separation, "centred", without_its_pilot),
    "halves not brought together": (State, "factor", lambda self, fold, part, whole: None),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mistake_in_the_rewrite_shows(mutant, monkeypatch):
    monkeypatch.setattr(*MUTANTS[mutant])
    assert any(not is_right(name, kind) for name, kind in EACH)


def is_right(name: str, kind: str) -> bool:
    found = on_values(name, kind)
    try:
        assert_numbers(found)
        assert_epilogue(name, found)
        for law, walk in product(LAWS, found.walks):
            law(walk)
    except AssertionError:
        return False
    return True


# ---- passes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_passes(name):
    plan, _ = planned(name)
    (kernel,) = plan.kernels
    assert (kernel.written, kernel.passes) == (CASES[name].written, CASES[name].after)
    assert kernel.step.kernel.log == ()
    assert len([s for s in kernel.step.kernel.body if isinstance(s, Loop)]) == 1


# ---- what must stay in several passes --------------------------------------------------------------------------------


def softmax(x: Tensor) -> Tensor:
    return torch.softmax(x, -1)


def near_the_most_likely(x: Tensor) -> Tensor:
    p = softmax(x)
    return torch.where(p > 0.1 * most(p), p, 0.0).sum(-1)


STAYS = {
    "abs": (lambda x: (x - mean(x)).abs().sum(-1), "abs of a sum of 2 separated terms"),
    "relu": (lambda x: torch.relu(x - mean(x)).sum(-1), "relu of a sum of 2 separated terms"),
    "count": (lambda x: (x > mean(x)).sum(-1), "it is no sum of floats"),
    "count of the largest": (lambda x: (x == most(x)).sum(-1), "it is no sum of floats"),
    "near the largest": (lambda x: torch.where(x > most(x) - 1, x, 0.0).sum(-1), "its condition uses a reduction"),
    "near the most likely": (near_the_most_likely, "its condition uses a reduction"),
    "silu": (lambda x: F.silu(rms_norm(x)).sum(-1), "exp of a product does not separate"),
    "gelu": (lambda x: F.gelu(rms_norm(x)).sum(-1), "erf is not homogeneous"),
    "tanh": (lambda x: torch.tanh(rms_norm(x)).sum(-1), "tanh is not homogeneous"),
    "silu product": (lambda x, w: F.silu(rms_norm(x)) @ w, "exp of a product does not separate"),
    "layer norm relu": (lambda x: torch.relu(layer_norm(x)).sum(-1), "relu of a sum of 2 separated terms"),
    "layer norm relu product": (lambda x, w: torch.relu(layer_norm(x)) @ w, "relu of a sum of 2 separated terms"),
    "weighted layer norm": (lambda x, g: layer_norm(x, g).amax(-1), "is an upper envelope"),
    "weighted layer norm, both sides": (lambda x, g: layer_norm(x, g).abs().amax(-1), "abs of a sum of 2 separated"),
    "softmax of softmax": (lambda x, w: softmax(softmax(x)) @ w, "exp of a product does not separate"),
    "rounding": (lambda x: ((x - mean(x)).half().float() ** 2).sum(-1), "rounding stops the rewrite"),
    "rounded probabilities": (lambda x: (softmax(x).bfloat16().float() ** 2).sum(-1), "rounding stops the rewrite"),
    "quantised": (lambda x: torch.round(x / most(x.abs()) * 127).sum(-1), "round is not homogeneous"),
    "fourth moment": (lambda x: ((x - mean(x)) ** 4).mean(-1), "more than 4 separated terms"),
    "sigmoid": (lambda x: torch.sigmoid(x - most(x)).sum(-1), "sigmoid is not homogeneous"),
    "softplus": (lambda x: F.softplus(x - most(x)).sum(-1), "its condition uses a reduction"),
    "above the largest": (lambda x: torch.exp(x - 0.5 * most(x)).sum(-1), "not known to stay below its maximum"),
    "another largest": (lambda x: torch.exp(x - most(x.abs())).sum(-1), "not known to stay below its maximum"),
    "largest, squared": (lambda x: torch.exp(x - most(x) ** 2).sum(-1), "not known to stay below its maximum"),
    "twice the largest": (lambda x: torch.exp(x - 2 * most(x)).sum(-1), "not known to stay below its maximum"),
    "slower than the largest": (lambda x: torch.exp(0.5 * x - most(x)).sum(-1), "not known to stay below its maximum"),
    "log": (lambda x: torch.log(x * mean(x)).sum(-1), "log of a product by a factor that is not known to be positive"),
}  # fmt: skip


@pytest.mark.parametrize("name", STAYS)
def test_what_stays_in_several_passes(name):
    function, reason = STAYS[name]
    operands = [torch.randn(3, 17000), torch.randn(17000), torch.randn(17000, 5)]
    wanted = function.__code__.co_varnames[: function.__code__.co_argcount]
    args = [operands["xgw".index(letter)] for letter in wanted]
    many = [torch.empty(20000, 17000, device="meta") if arg is operands[0] else arg.to("meta") for arg in args]
    (kernel,) = fuse(function).plan(*many).kernels
    assert kernel.passes > 1
    assert any(reason in line for line in kernel.step.kernel.log), kernel.step.kernel.log
    assert_matches(function, args)


def test_operands_of_a_product_of_halves_keep_their_range():
    """What is multiplied in f16 is not taken apart: x g would pass 65504 where the norm of it does not."""
    def function(x: Tensor, g: Tensor, w: Tensor) -> Tensor:
        return rms_norm(x, g) @ w

    args = [torch.full((3, 300), 3000.0), torch.full((300,), 30.0), torch.full((300, 20), 2.0**-8)]
    halves = [x.half() for x in args]
    (kernel,) = fuse(function).plan(*halves).kernels
    assert kernel.passes == 2 and "could overflow without its factor" in kernel.step.kernel.log[0]
    assert fuse(function).plan(*args).passes == 1
    assert_matches(function, halves)


def rising(x: Tensor) -> Tensor:
    return x + torch.arange(x.shape[-1]) / 128


# what was wrong once, or less exact than it has to be: scores that rise, that are all low, factors that are negative
ONCE_WRONG = {
    "logsumexp of low scores": lambda x: torch.logsumexp(x - 200, -1),
    "logsumexp of high scores": lambda x: torch.logsumexp(x + 200, -1),
    "logsumexp of the negative": lambda x: torch.logsumexp(-200 - x, -1),
    "rising, half of the largest": lambda x: torch.exp(rising(x) - 0.5 * most(rising(x))).sum(-1),
    "log of a quotient of negatives": lambda x: torch.log(-x.exp() / (-x.exp()).sum(-1, keepdim=True)).sum(-1),
    "powers of 2 far from 0": lambda x: torch.exp2(x + 60 - most(x + 60)).sum(-1),
    "largest logarithm far from 0": lambda x: torch.log_softmax(x + 60, -1).amax(-1),
    "sum of logarithms far from 0": lambda x: torch.log_softmax(x - 200, -1).sum(-1),
    "norm of a norm": lambda x: (F.layer_norm(rms_norm(x - 10), (x.shape[-1],)) * x).mean(-1),
    "product of a row and its negative": lambda x: ((most(x) - x) * (x - most(x))).mean(-1),
    "nothing but -inf": lambda x: torch.exp(x - math.inf - most(x - math.inf)).sum(-1),
}  # fmt: skip


@pytest.mark.parametrize("name", ONCE_WRONG)
def test_once_wrong(name):
    assert_matches(ONCE_WRONG[name], [torch.randn(4, 17000)])


def test_a_factor_counts_as_often_as_it_stands():
    args = [torch.randn(3, 300), torch.randn(300), torch.randn(300, 5)]
    assert_matches(lambda x, c, w: (x * c * c) @ w, args)
    assert_matches(lambda x, c, w: (x * c) @ (c[:, None] * w), args)
    assert_matches(lambda x, c, w: ((x - mean(x)) * c * c) @ w, args)


# ---- random chains ---------------------------------------------------------------------------------------------------


def operands(n: int, rows: int = 3, make: Callable[..., Tensor] = torch.randn, **kwargs: Any) -> list[Tensor]:
    """What a chain takes: x, z, c and w."""
    x, z, c, w = (make(shape, **kwargs) for shape in ((rows, n), (rows, n), (n,), (n, 3)))
    return [x, z, c, w / n**0.5]


@HALF
@hypothesis.given(st.data())
def test_states_of_random_chains_obey(data):
    """In float64, where only mistakes of algebra show."""
    assert_obeys(chain(Hypothesis(data.draw)))


@pytest.mark.sweep
@pytest.mark.parametrize("seed", range(SEED, SEED + 1000))
def test_states_of_a_thousand_chains_obey(seed):
    assert_obeys(chain(Dice(seed)))


def assert_obeys(of: Chain) -> None:
    plan = fuse(of.function).plan(*operands(20000, 4096, torch.empty, device="meta"))
    if plan.launches > 1:
        return
    (group,) = plan.program.specialised.partition.groups
    given = dict(zip("xzcw", operands(9, dtype=torch.float64), strict=True))
    args = [given[node["name"]] for node in plan.program.graph.inputs]
    found = rewritten(plan, writes_of(group, plan.program.buffers, False, {}), args)
    outputs = stored(found.writes, found.walks, found.points)
    for node, wanted in zip(plan.program.graph.outputs, listed(of.function(*given.values())), strict=True):
        assert_same(outputs[node].reshape(wanted.shape), wanted, of, 1e-7)
    for law, walk in product(LAWS, found.walks):
        law(walk)


@pytest.mark.parametrize("seed", range(SEED, SEED + 24))
def test_random_chains_agree(seed):
    assert_agrees(chain(Dice(seed)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEED, SEED + 24))
def test_the_safe_schedule_of_random_chains_agrees(seed):
    assert_agrees(chain(Dice(seed)), safe=True)


@pytest.mark.sweep
@pytest.mark.parametrize("safe", (False, True))
@pytest.mark.parametrize("seed", range(SEED, SEED + 1000))
def test_a_thousand_chains_agree(seed, safe):
    assert_agrees(chain(Dice(seed)), safe)


def assert_agrees(of: Chain, safe: bool = False) -> None:
    """A schedule beside eager and float64. safe: with a launch for each reduction."""
    fused, args = fuse(of.function), operands(16411)
    given = fused._entry(tuple(args), {})[2].values
    exact = reference(fused, args)
    outputs = [o.reshape(e.shape) for o, e in zip(fused.plan(*args, safe=safe).run(given, CPU), exact, strict=True)]
    for each, truth, ours in zip(beside_eager(fused, args, outputs), exact, outputs, strict=True):
        assert each.fault is None or is_near(each, truth, ours.dtype), f"{of}{each.fault}"


def is_near(each: Comparison, truth: Tensor, dtype: torch.dtype) -> bool:
    """Whether a chain that the rule refuses is off by no more than four times what it allows. Its sums are of other
    parts than eager's and in another order, and some of its steps enlarge what was rounded before them."""
    if each.fused is None or each.eager is None:
        return False
    return each.fused.most <= 8 * each.eager.most + 16 * ulp_at(truth.abs().max().item(), dtype)


# ---- masks that skip work --------------------------------------------------------------------------------------------


USES: dict[str, Callable[[Tensor, Tensor, Tensor], Any]] = {
    "attention": lambda m, s, v: softmax(where(m, s)) @ v,
    "linear": lambda m, s, v: torch.where(m, s, 0) @ v,
    "largest": lambda m, s, v: where(m, s).amax(-1),
    "logsumexp": lambda m, s, v: torch.logsumexp(where(m, s), -1),
    "masked late": lambda m, s, v: torch.where(m, softmax(s), 0) @ v,
    "of two, one masked": lambda m, s, v: (softmax(where(m, s)) @ v, s.sum(-1)),
    "by two masks": lambda m, s, v: softmax(where(m, s)) @ v - torch.where(m, 0, s) @ v,
}


def masked_by(text: str, use: str = "attention") -> Callable[..., Any]:
    """What uses a mask: an expression in i, j and a length n of each row of a batch."""
    code = compile(text, "mask", "eval")

    def function(q: Tensor, k: Tensor, v: Tensor, n: Tensor | None = None) -> Any:
        s = scores(q, k)
        i, j = fusedsl.indices(s, -2, -1)
        seen = eval(code, {"i": i, "j": j, "n": None if n is None else n[:, None, None, None]})
        return USES[use](seen, s, v)

    return function


def lower_triangle(diagonal: bool) -> Callable[..., Tensor]:
    """A causal mask as a tensor; with the diagonal, the last query sees the last key."""
    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        s = scores(q, k)
        seen = torch.ones(s.shape[-2:], dtype=torch.bool).tril(s.shape[-1] - s.shape[-2] if diagonal else 0)
        return softmax(s.masked_fill(~seen, -math.inf)) @ v

    return function


SKIPPED = {
    "causal": (masked_by("j <= i"), lambda i, j, t: j <= i),
    "lower triangle": (lower_triangle(False), lambda i, j, t: j <= i),
    "lower triangle, aligned at the end": (lower_triangle(True), lambda i, j, t: j <= i + t),
    "negated": (masked_by("~(j > i)"), lambda i, j, t: j <= i),
    "window": (masked_by("(j <= i) & (i - j < 256)"), lambda i, j, t: (j <= i) & (i - j < 256)),
    "both sides": (masked_by("(i - j < 100) & (j - i < 100)"), lambda i, j, t: (i - j).abs() < 100),
    "prefix": (masked_by("(j <= i) | (j < 300)"), lambda i, j, t: (j <= i) | (j < 300)),
    "dilated": (masked_by("(j <= i) & (i - j < 256) & ((i - j) % 4 == 0)"), lambda i, j, t: (j <= i) & (i - j < 256)),
    "not the near": (masked_by("(j <= i) & ~(i - j < 64)"), lambda i, j, t: j <= i - 64),
    "with the first ones": (masked_by("(j <= i) & ((i - j < 64) | (j < 4))"), lambda i, j, t: j <= i),
    "parts": (masked_by("(j < 100) | ((j >= 600) & (j < 650))"), lambda i, j, t: j < 650),
}  # fmt: skip


@cache
def skipping(name: str) -> Fused:
    return fuse(SKIPPED[name][0])


@pytest.mark.parametrize("queries, keys", ((1000, 1000), (700, 1000), (1000, 700), (1024, 1024)))
@pytest.mark.parametrize("name", SKIPPED)
def test_tiles_that_are_visited(name, queries, keys):
    """From the first to the last tile that any of a program's queries sees."""
    plan = skipping(name).plan(*(torch.empty(2, 3, n, 64, device="meta") for n in (queries, keys, keys))).on("sm_90")
    (kernel,) = plan.kernels
    (walked,) = kernel.rounds.values()
    rows, tile = tiles_of(kernel)
    seen = SKIPPED[name][1](torch.arange(queries)[:, None], torch.arange(keys), keys - queries)
    parts = seen.expand(queries, keys).split(rows)
    assert walked.visited == 6 * sum(from_first_to_last(part.any(0), tile) for part in parts)
    assert walked.of == 6 * -(-queries // rows) * -(-keys // tile)


def tiles_of(kernel: PlannedKernel) -> tuple[int, int]:
    """The queries and keys of a tile."""
    tiles = dict(kernel.config.tiles)
    (loop,) = loops_in(kernel)
    return next((tiles[a.tile] for a in kernel.step.kernel.axes if a.role == "grid"), 1), tiles[loop.axis.tile]


def loops_in(kernel: PlannedKernel) -> list[Loop]:
    """But for those over the parts of one that programs share."""
    return [s for s in kernel.step.kernel.body if isinstance(s, Loop)]


def from_first_to_last(seen: Tensor, tile: int) -> int:
    """So many tiles from the first to the last with a place that is seen."""
    places = seen.nonzero().flatten() // tile
    return int(places[-1] - places[0] + 1) if len(places) else 0


def test_one_query_of_a_window_visits_the_window():
    function = masked_by("(j <= i + 899) & (i + 899 - j < 256)")
    plan = fuse(function).plan(*(torch.empty(2, 3, n, 64, device="meta") for n in (1, 900, 900))).on("sm_90")
    (kernel,) = plan.kernels
    (walked,), (_, tile) = kernel.rounds.values(), tiles_of(kernel)
    assert walked.visited == 6 * (899 // tile - 644 // tile + 1)


def test_a_windows_work_grows_with_the_length():
    visited = []
    for n in (4096, 8192, 16384):
        plan = skipping("window").plan(*[torch.empty(1, 8, n, 64, device="meta")] * 3).on("sm_90")
        (walked,) = plan.kernels[0].rounds.values()
        visited.append(walked.visited)
    assert visited[1] <= 2.1 * visited[0] and visited[2] <= 2.1 * visited[1]


def limit(at: Limit, tile: tuple[int, int], sizes: Mapping[str, int]) -> int:
    """The value of a limit for a program with these first and last queries."""
    if isinstance(at, Bound):
        return {"min": min, "max": max}[at.name](limit(part, tile, sizes) for part in at.parts)
    return evaluate(replace(at, {a: tile[a.last] for a in atoms(at) if isinstance(a, Edge)}), sizes)


@HALF
@hypothesis.given(st.data(), st.integers(1, 40), st.integers(1, 90), st.sampled_from((1, 4, 16)))
def test_ranges_hold_what_masks_say(data, queries, keys, rows):
    """Outside of it no query of a tile sees a key; within the part without questions every condition is as it says."""
    text = mask_of_every_row(Hypothesis(data.draw), (queries, keys))
    hypothesis.note(text)
    plan = fuse(masked_by(text)).plan(*(torch.empty(n, 16, device="meta") for n in (queries, keys, keys)))
    seen = kept(text, (queries, keys), torch.zeros(1, dtype=torch.int64))[0, 0]
    for loop in (loop for kernel in plan.kernels for loop in loops_in(kernel)):
        whole = evaluate(loop.axis.extent, plan.sizes) == keys  # not the rest of an axis whose first key is for itself
        for first in range(0, queries, rows) if whole and loop.range is not None else ():
            assert_range(loop, (first, min(first + rows, queries) - 1), seen, plan.sizes)


def assert_range(loop: Loop, tile: tuple[int, int], seen: Tensor, sizes: Mapping[str, int]) -> None:
    keys, part = seen.shape[1], loop.range
    assert part is not None
    lower, upper, first, last = (
        default if at is None else limit(at, tile, sizes)
        for at, default in ((part.lower, 0), (part.upper, keys), (part.whole_lower, 0), (part.whole_upper, keys))
    )
    j, rows = torch.arange(keys), torch.arange(tile[0], tile[1] + 1)
    assert not seen[rows][:, (j < lower) | (j >= upper)].any()
    unasked = j[(j >= max(lower, first)) & (j < min(upper, last))]
    for condition, answer in part.conditions:
        places = {a: unasked if a is loop.axis.variable else rows for a in condition.free}
        holds = Points(tuple(places), places, {}, sizes).value(condition, {})
        assert (holds == answer).all(), condition


@FEW  # each compiles a kernel
@hypothesis.given(st.data(), st.integers(1, 300), st.integers(1, 600), st.booleans())
@pytest.mark.parametrize("dtype", (torch.float32, torch.float16))
def test_masks_that_skip_work_agree(dtype, data, queries, keys, lengths):
    use = data.draw(st.sampled_from(sorted(USES)))
    n = torch.tensor([keys // 5 + 1, keys]) if lengths else None
    text = mask_of_every_row(Hypothesis(data.draw), (queries, keys), n)
    hypothesis.note(text)
    args = [torch.randn(2, 3, rows, 16, dtype=dtype) for rows in (queries, keys, keys)]
    assert_matches(masked_by(text, use), args if n is None else [*args, n])


@pytest.mark.slow
@pytest.mark.parametrize("use", USES)
def test_every_use_of_a_mask_skips_no_more_than_it_may(use):
    for text in ("(i - j < 50) & (j <= i)", "(j < n) | (j > i + 200)"):
        args = [torch.randn(2, 3, rows, 16) for rows in (300, 600, 600)]
        assert_matches(masked_by(text, use), [*args, torch.tensor([210, 600])] if "n" in text else args)


@pytest.mark.parametrize("text", (
    "((j >= i) & (j < i + 5)) | (j < 2)", "(j <= i) | ((j >= 400) & (j < 550))", "(j < n) | ((j >= 400) & (j < 550))",
    "(j < 100) | ((j >= 200) & (j < 500))", "(i - j < 9) & (j <= i) | (j < 4)", "((j < 400) & (j % 2 == 0)) | (j < 50)",
    "(j < n) & (j <= i + 300)", "~((j >= 100) & (j < 300)) & (j < 500)",
))  # fmt: skip
def test_masks_of_several_parts_agree(text):
    args = [torch.randn(2, 3, rows, 16) for rows in (300, 600, 600)]
    assert_matches(masked_by(text), [*args, torch.tensor([70, 330])] if "n" in text else args)


def between_documents(q: Tensor, k: Tensor, v: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """start, end: of the document that each query is of."""
    s = scores(q, k)
    _, j = fusedsl.indices(s, -2, -1)
    return softmax(where((start[:, None] <= j) & (j < end[:, None]), s)) @ v


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16))
def test_documents_by_their_offsets(dtype):
    offsets = torch.tensor([0, 40, 41, 333, 500])
    at = torch.bucketize(torch.arange(500), offsets, right=True)
    args = [torch.randn(2, 3, 500, 16, dtype=dtype) for _ in range(3)]
    assert_matches(between_documents, [*args, offsets[at - 1], offsets[at]])


def test_rows_without_a_key_are_nan_as_in_torch():
    function, args = masked_by("(j < n) & (j <= i + 300)"), [torch.randn(2, 3, rows, 16) for rows in (200, 600, 600)]
    args.append(torch.tensor([0, 350]))
    assert fuse(function)(*args)[0].isnan().all()
    assert_matches(function, args)


def test_what_is_skipped_does_not_show():
    """Eager multiplies a NaN by 0. Where no query of a tile sees its key, we never read it."""
    q, k, v = (torch.randn(1, 2, 600, 16) for _ in range(3))
    v[:, :, 400:] = math.nan
    (kernel,) = skipping("causal").plan(q, k, v).kernels
    tile = max(tiles_of(kernel))
    clean = 400 // tile * tile
    assert clean > 0 and causal(q, k, v).isnan().all()
    torch.testing.assert_close(skipping("causal")(q, k, v)[:, :, :clean], causal(q, k, v.nan_to_num(0))[:, :, :clean])
