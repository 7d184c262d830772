"""Attention in many forms: one launch, one pass over the keys, as exact as eager, on every target without spills."""

import itertools
import zlib

import pytest
import torch
import torch.nn.functional as F
from flash_yardstick import flash_attention, loops

from examples.attention import variants
from fusedsl import fuse, ops
from fusedsl.codegen.inspect import TARGETS, compile_kernel
from fusedsl.runtime import counters
from fusedsl.testing import assert_matches

HALVES, OTHERS = (torch.float16, torch.bfloat16), (torch.float32, torch.bfloat16)
FORMS = {function.function.__name__: (function, args) for function, args in variants.inputs(77).items()}
PRODUCTS = {"sm_80": "HMMA", "sm_90": "HGMMA", "sm_100": "UTCHMMA", "gfx942": "v_mfma"}
TILED = ("grid", "loop")
ONE_ROW = {"decode", "paged_decode"}  # a vector times a matrix is no product of tiles


def cast(args, dtype):
    return tuple(a.to(dtype) if a.is_floating_point() else a for a in args)


@pytest.mark.parametrize("dtype", [torch.float16, *(pytest.param(d, marks=pytest.mark.sample) for d in OTHERS)])
@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_one_pass_and_exact(form, dtype):
    function, args = FORMS[form]
    args = cast(args, dtype)
    plan = function.plan(*args)
    assert (plan.launches, plan.passes) == (1, 1), plan.explain()
    assert_matches(function, args)


def sampled(form, dtype, target):
    """A sixteenth of all, the same ones every time."""
    return zlib.crc32(f"{form} {dtype} {target}".encode()) % 16 == 0


CASES = [(form, dtype, target) for form in FORMS for dtype in HALVES for target in TARGETS]


def compiled(form, dtype, target):
    function, args = FORMS[form]
    (kernel,) = function.plan(*cast(args, dtype)).compile(target)
    assert kernel.spills == 0
    text = str(kernel.asm["amdgcn"]) if target.startswith("gfx") else kernel.sass
    assert form in ONE_ROW or PRODUCTS[target] in text


@pytest.mark.parametrize("form, dtype, target", [case for case in CASES if sampled(*case)])
def test_a_form_compiles_without_spills(form, dtype, target):
    compiled(form, dtype, target)


@pytest.mark.sweep
@pytest.mark.parametrize("form, dtype, target", [case for case in CASES if not sampled(*case)])
def test_every_form_compiles_without_spills(form, dtype, target):
    compiled(form, dtype, target)


def drawn(*shapes, dtype=torch.float32):
    make = torch.Generator().manual_seed(1)
    return [torch.randn(*shape, generator=make).to(dtype) for shape in shapes]


SDPA = {
    "plain": ((2, 3, 37, 64), (2, 3, 50, 64), {}),
    "causal": ((2, 3, 37, 64), (2, 3, 50, 64), {"is_causal": True}),
    "causal, more queries": ((1, 2, 50, 40), (1, 2, 37, 40), {"is_causal": True}),
    "scale": ((1, 2, 19, 32), (1, 2, 19, 32), {"scale": 0.3}),
    "groups": ((2, 6, 20, 59), (2, 2, 33, 59), {"enable_gqa": True}),
    "one query": ((2, 6, 1, 64), (2, 2, 300, 64), {"enable_gqa": True}),
    "one key": ((1, 2, 9, 64), (1, 2, 1, 64), {}),
    "two dimensions": ((17, 24), (30, 24), {}),
    "large heads": ((1, 1, 20, 256), (1, 1, 40, 256), {}),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES])
@pytest.mark.parametrize("case", SDPA)
def test_scaled_dot_product_attention(case, dtype):
    q, k, options = SDPA[case]
    q, k, v = drawn(q, k, k, dtype=dtype)
    function = fuse(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options))
    assert function.plan(q, k, v).launches == 1
    assert_matches(function, (q, k, v))


@pytest.mark.parametrize("low", (-1e9, torch.finfo(torch.float32).min))
@pytest.mark.parametrize("added", (False, True))
def test_masks_of_great_numbers_on_a_gpu(low, added):
    """Interpreted: left padding, and a row of nothing else, which eager spreads evenly."""
    q, k, v = drawn((2, 3, 20, 32), (2, 3, 200, 32), (2, 3, 200, 32))
    hidden = torch.zeros(2, 1, 1, 200, dtype=torch.bool)
    hidden[0, ..., :100], hidden[1] = True, True

    def masked(q, k, v, hidden):
        scores = q @ k.mT
        scores = scores + hidden.float() * low if added else scores.masked_fill(hidden, low)
        return torch.softmax(scores, -1) @ v

    plan = fuse(masked).plan(q, k, v, hidden).on("sm_90")
    (found,) = plan.run((q, k, v, hidden), torch.device("cpu"))
    torch.testing.assert_close(found, masked(q, k, v, hidden), rtol=1e-4, atol=1e-4)


def test_queries_that_see_no_key():
    """Far before the first key, and far after the last."""
    q, k, v = drawn((2, 3, 700, 64), (2, 3, 50, 64), (2, 3, 50, 40))
    for options in ({"window": 9}, {"causal": True}, {"causal": True, "window": 9}):
        assert_matches(fuse(lambda q, k, v, options=options: ops.attention(q, k, v, **options)), (q, k, v))
    q, k, v = drawn((2, 3, 50, 64), (2, 3, 700, 64), (2, 3, 700, 40))
    assert_matches(fuse(lambda q, k, v: ops.attention(q, k, v, window=9)), (q, k, v))


def test_masks_of_scaled_dot_product_attention():
    q, k, v = drawn((2, 3, 37, 64), (2, 3, 50, 64), (2, 3, 50, 40))
    mask = torch.rand(37, 50) > 0.3
    mask[3] = False
    assert_matches(fuse(F.scaled_dot_product_attention), (q, k, v, mask))
    assert not F.scaled_dot_product_attention(q, k, v, mask)[:, :, 3].any()
    assert_matches(fuse(F.scaled_dot_product_attention), (q, k, v, torch.randn(3, 37, 50)))


@pytest.mark.parametrize("options", [
    {}, {"causal": True}, {"causal": True, "window": 7, "softcap": 20.0}, {"window": 9}, {"lse": True, "causal": True},
    {"scale": 0.5},
])  # fmt: skip
def test_attention(options):
    q, k, v = drawn((2, 4, 37, 64), (2, 2, 50, 64), (2, 2, 50, 40))
    function = fuse(lambda q, k, v: ops.attention(q, k, v, **options))
    plan = function.plan(q, k, v)
    assert (plan.launches, plan.passes) == (1, 1)
    assert_matches(function, (q, k, v))


# FlashAttention-2's grid (test_flash_attn.py), fewer heads, the longest lengths a quarter: every head size with every
# form, and the rest in turn.
HEADS = {"mha": (3, 3), "mqa": (4, 1), "gqa": (6, 2)}
LENGTHS = (
    (113, 203), (128, 217), (113, 211), (108, 256), (256, 512), (512, 256), (256, 256), (255, 256), (256, 255),
    (512, 512),
)  # fmt: skip
KINDS: dict[str, dict] = {
    "full": {}, "causal": {"causal": True}, "local": {"window": 37}, "causal and local": {"causal": True, "window": 61},
    "alibi": {"causal": True}, "softcap": {"softcap": 50.0},
}  # fmt: skip
SIZES = (32, 40, 59, 64, 80, 96, 111, 128, 160, 192, 224, 256)
GRID = [
    (kind, head, HALVES[at % 2], sorted(HEADS)[at % 3], LENGTHS[at % len(LENGTHS)])
    for at, (kind, head) in enumerate(itertools.product(KINDS, SIZES))
]


@pytest.mark.sample
@pytest.mark.parametrize("kind, head, dtype, heads, lengths", GRID)
def test_flash_attentions_grid(kind, head, dtype, heads, lengths):
    (many, few), (queries, keys) = HEADS[heads], lengths
    q, k, v = drawn((2, many, queries, head), (2, few, keys, head), (2, few, keys, head), dtype=dtype)
    bias: tuple[torch.Tensor, ...] = ()
    if kind == "alibi":
        places = torch.arange(keys) - torch.arange(queries)[:, None] - (keys - queries)
        bias = ((2.0 ** -torch.arange(1, many + 1))[:, None, None] * places,)
    function = fuse(lambda q, k, v, *bias: ops.attention(q, k, v, *bias, **KINDS[kind]))
    plan = function.plan(q, k, v, *bias)
    assert (plan.launches, plan.passes) == (1, 1), plan.explain()
    assert_matches(function, (q, k, v, *bias))


def test_causal_attention_visits_no_more_tiles_than_the_diagonal_needs():
    q = k = v = torch.empty(8, 8, 1024, 64, dtype=torch.float16, device="meta")
    plan = variants.causal.plan(q, k, v).on("sm_90")
    rows, keys = (plan.kernels[0].config[axis.tile] for axis in plan.kernels[0].step.kernel.axes if axis.role in TILED)
    needed = sum(-(-min(start + rows, 1024) // keys) for start in range(0, 1024, rows))
    (rounds,) = plan.kernels[0].rounds.values()
    assert (rounds.visited, rounds.of) == (64 * needed, 64 * (1024 // rows) * (1024 // keys))


def test_the_work_of_a_window_grows_with_the_length():
    def visited(length):
        q = k = v = torch.empty(1, 1, length, 64, dtype=torch.float16, device="meta")
        (rounds,) = variants.sliding_window.plan(q, k, v).on("sm_90").kernels[0].rounds.values()
        return rounds.visited

    assert visited(8192) - visited(4096) == 2 * (visited(4096) - visited(2048))


def test_other_lengths_compile_nothing():
    sources = set()
    for length in (65, 130, 257):
        q, k, v = drawn((1, 2, length, 64), (1, 2, length + 9, 64), (1, 2, length + 9, 64))
        sources.add(variants.softmax_attention.plan(q, k, v).kernels[0].source)
    assert len(sources) == 1


@pytest.mark.parametrize("head", (64, 128))
@pytest.mark.parametrize("target", ("sm_80", "sm_90"))
def test_a_round_takes_no_more_than_by_hand(target, head):
    """Instructions of one iteration of the loop over full tiles, both with the same tiles; here 0.98 to 1.03."""
    q = torch.empty(4, 16, 4096, head, dtype=torch.float16, device="meta")
    plan = variants.softmax_attention.plan(q, q, q).on(target)
    (ours,), (config,) = plan.compile(target), plan.configs
    pointers = ("q_ptr", "k_ptr", "v_ptr", "out_ptr")
    tiles = {"ROWS": config["BLOCK_J"], "KEYS": config["BLOCK_U"], "HEAD": head}
    signature = dict.fromkeys(pointers, "*fp16") | {"queries": "i32", "keys": "i32", "scale": "fp32"}
    by_hand = compile_kernel(
        flash_attention, {**signature, **dict.fromkeys(tiles, "constexpr")}, tiles, target,
        num_warps=config.num_warps, num_stages=config.num_stages, divisible=frozenset(pointers),
    )  # fmt: skip
    rounds = [next(body for body in loops(kernel.sass) if any("MMA" in o for o in body)) for kernel in (ours, by_hand)]
    assert [sum("MMA" in o for o in body) for body in rounds] == 2 * [sum("MMA" in o for o in rounds[1])]
    assert len(rounds[0]) <= 1.1 * len(rounds[1])


def test_the_examples_table(capsys):
    variants.main([])
    rows = capsys.readouterr().out.splitlines()[1:]
    assert len(rows) == len(FORMS) and all(row.split()[1] == "1" for row in rows)


@pytest.mark.parametrize("attend", [
    lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True), lambda q, k, v: ops.attention(q, k, v),
])  # fmt: skip
def test_of_shared_heads_only_the_number_is_fixed(attend):
    """More tokens are no other trace."""
    fused, before = fuse(attend), counters.traces
    for tokens in (50, 51, 70):
        q, k, v = torch.randn(1, 4, 1, 64), *torch.randn(2, 1, 2, tokens, 64)
        torch.testing.assert_close(fused(q, k, v), F.scaled_dot_product_attention(q, k, v, enable_gqa=True))
    assert counters.traces == before + 1
