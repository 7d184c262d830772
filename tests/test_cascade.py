"""Reductions that use earlier ones over the same axis: one pass where algebra allows it, more where it does not.

Every case has its states checked against the laws of tests/cascades.py, its passes counted, and its epilogue compared
with the function in float64. What must not become one pass is refused by name, and random chains are tried both ways.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
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
from fusedsl.comparison import beside_eager
from fusedsl.index import Index, Symbol, Variable
from fusedsl.interpret import sizes_of
from fusedsl.kernel import Bound, Edge, Kernel, Limit, Loop, Range
from fusedsl.lower import Write
from fusedsl.passes.cascade import _Rewriter, cascade
from fusedsl.pipeline import writes_of
from fusedsl.plan import Plan
from fusedsl.scalar import Expr
from fusedsl.schedule import loops_of
from fusedsl.separate import Separation, Term
from fusedsl.state import State
from fusedsl.testing import assert_matches
from tests.cascades import LAWS, Chain, Points, Walk, assert_same, chain, points_of, stored, walks_of
from tests.choices import Dice, Hypothesis, Source

SEED = int(os.environ.get("FUSEDSL_SEED", "0"))
DTYPES = {"f": torch.float32, "i": torch.int64, "b": torch.bool}

# ---- cases -----------------------------------------------------------------------------------------------------------

# The sizes that letters stand for when a call is planned, so that n and t are walked by loops, and when it is evaluated.
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


def layer_norm(x: Tensor, *weights: Tensor) -> Tensor:
    return F.layer_norm(x, (x.shape[-1],), *weights)


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


def differential(q: Tensor, k: Tensor, r: Tensor, l: Tensor, v: Tensor) -> Tensor:
    return (torch.softmax(scores(q, k), -1) - 0.3 * torch.softmax(scores(r, l), -1)) @ v


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
    expected = CASES[name].function(*found.args)
    listed = expected if isinstance(expected, tuple) else (expected,)
    for node, wanted in zip(planned(name)[0].program.graph.outputs, listed, strict=True):
        assert_same(outputs[node], wanted, name, 1e-8)


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
    plan = fuse(function).plan(*args)
    (kernel,) = plan.kernels
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


# what was wrong once, or less exact than it has to be: scores that rise, that are all low, factors that are negative
ONCE_WRONG = {
    "logsumexp of low scores": lambda x: torch.logsumexp(x - 200, -1),
    "logsumexp of high scores": lambda x: torch.logsumexp(x + 200, -1),
    "logsumexp of the negative": lambda x: torch.logsumexp(-200 - x, -1),
    "rising, half of the largest": lambda x: torch.exp(x.cumsum(-1) - 0.5 * most(x.cumsum(-1))).sum(-1),
    "log of a quotient of negatives": lambda x: torch.log((-x.abs() - 0.1) / (-x.abs() - 0.1).sum(-1, keepdim=True)).sum(-1),
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
