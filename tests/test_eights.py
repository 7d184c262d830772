"""Products of 8-bit numbers: whole numbers exactly, small floats as they are, scales outside of the sums."""

from __future__ import annotations

import re
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from fusedsl import fuse, pack, pack_codes, quantize
from fusedsl.algebra import apply, cast
from fusedsl.codegen.inspect import TARGETS
from fusedsl.ir import OPS
from fusedsl.packed import Packed
from fusedsl.scalar import Expr, constant, make
from fusedsl.testing import assert_launches
from fusedsl.types import dtype, f32, i8, u8
from fusedsl.wholes import whole

FEW = hypothesis.settings(max_examples=max(1, hypothesis.settings().max_examples // 4))
WHOLES = ["i8:row", "i8:g64", "i4:row", "i4:g32", "u4:g128", "u3:g64", "i2:g32", "u8:sym:g32", "mxint8"]
FLOATS = ["e4m3fn:row", "e4m3fn:g64", "mxfp8e4m3"]
PAIRS = [*((a, b) for a in ("i8:row", "i8:g128", "i4:g32") for b in WHOLES), *((a, b) for a in FLOATS for b in FLOATS),
         ("e5m2:row", "e5m2:g32"), ("u8:row", "i8:row"), ("e4m3fn:row", "e5m2:row"), ("i8:row", "nf4:g64"),
         ("nf4:g64", "i4:g32"), ("i8:row", "ternary:g64"), ("i8:noscale", "i8:noscale")]  # fmt: skip


def linear(fx: str) -> Any:
    """A linear layer of activations that are quantized in the kernel."""
    return fuse(lambda x, w: quantize(x, fx) @ w.mT)


@fuse
def by_hand(x, w, scale):
    s = x.float().abs().amax(-1, keepdim=True) / 127
    q = (x.float() / s).round().clamp(-128, 127).to(torch.int8)
    return (q.float() @ w.float().mT) * s * scale


@fuse
def of_f8(x, w, scale):
    s = x.float().abs().amax(-1, keepdim=True) / 448
    q = (x.float() / s).to(torch.float8_e4m3fn)
    return (q.float() @ w.float().mT) * s * scale


def kinds(function: Any, *args: torch.Tensor) -> set[str]:
    """The types that the products of a call are of."""
    return {p["precision"] for step in function.plan(*args).program.steps for p in step.kernel.products}


def assert_near(got: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> None:
    """design.md section 8, of the product of two matrices."""
    exact = x.double() @ w.double().mT
    eager = (x @ w.mT).double() - exact
    error, ulp = got.double() - exact, torch.finfo(got.dtype).eps * max(1.0, exact.abs().max().item())
    assert error.abs().max() <= 2 * eager.abs().max() + 4 * ulp
    assert error.abs().mean() <= 1.5 * eager.abs().mean() + ulp


@FEW
@hypothesis.given(st.sampled_from(PAIRS), st.integers(1, 40), st.integers(1, 40),
                  st.sampled_from([64, 128, 512, 600, 33]),
                  st.sampled_from([torch.float32, torch.float16, torch.bfloat16]), st.integers(0, 9))  # fmt: skip
def test_a_product_is_that_of_what_is_quantized(pair, m, n, k, dt, seed) -> None:
    torch.manual_seed(seed)
    x, w = (10 * torch.randn(m, k)).to(dt), pack((10 * torch.randn(n, k)).to(dt), pair[1])
    assert_near(linear(pair[0])(x, w), pack(x, pair[0]).unpack(), w.unpack())


@pytest.mark.parametrize("wanted, pairs", [
    ("i8", [("i8:row", b) for b in WHOLES] + [("i4:g32", "i4:g32"), ("u4:g128", "u3:g64"), ("i8:g128", "i8:g128")]),
    ("f8e4m3", [(a, b) for a in FLOATS for b in FLOATS if "row" in a + b or a == b]),
    ("f8e5m2", [("e5m2:row", "e5m2:g32")]),
    ("f16", [("i8:row", "u8:g128"), ("i8:row", "nf4:g64"), ("e4m3fn:row", "e5m2:row"), ("i8:row", "u4:fzero:g32")]),
])  # fmt: skip
def test_what_fits_8_bits_is_multiplied_so(wanted: str, pairs: list[tuple[str, str]]) -> None:
    for fx, fw in pairs:
        x, w = torch.randn(33, 512).half(), pack(torch.randn(40, 512).half(), fw)
        assert kinds(linear(fx), x, w) == {wanted}, (fx, fw)
        assert_launches(linear(fx), (x, w), 1)


def test_whole_numbers_are_added_up_exactly() -> None:
    """Beyond 2^24, where f32 would round on its way."""
    x, codes = (torch.randint(0, 28, shape, dtype=torch.uint8) + 227 for shape in [(17, 5000), (19, 5000)])
    x = (x.short() - 128).to(torch.int8)
    w, exact = pack_codes(codes, "i8:noscale", dtype=torch.float32), codes.long() - 128
    assert exact.min() >= 99
    product = fuse(lambda x, w: x.float() @ w.mT)
    assert kinds(product, x, w) == {"i8"}
    assert torch.equal(product(x, w), (x.long() @ exact.mT).float())


def test_what_users_write_by_hand() -> None:
    x = torch.randn(20, 300)
    for function, w, kind, most in [
        (by_hand, torch.randint(-128, 128, (30, 300), dtype=torch.int8), "i8", 127),
        (of_f8, torch.randn(30, 300).to(torch.float8_e4m3fn), "f8e4m3", 448),
    ]:
        scale = torch.rand(30)
        assert kinds(function, x, w, scale) == {kind}
        s = x.abs().amax(-1, keepdim=True) / most
        q = (x / s).round() if kind == "i8" else (x / s).to(torch.float8_e4m3fn).float()
        exact = (q.double() @ w.double().mT) * s.double() * scale.double()
        torch.testing.assert_close(function(x, w, scale).double(), exact, rtol=1e-5, atol=1e-4)


def test_nan_and_infinity_of_small_floats() -> None:
    x = torch.randn(16, 64)
    x[3, 5], x[4, 6] = torch.nan, torch.inf
    w = torch.randn(16, 64)
    for dt in (torch.float8_e5m2, torch.float8_e4m3fn):
        product = fuse(lambda x, w: x.float() @ w.float().mT)
        a, b = x.to(dt), w.to(dt)
        torch.testing.assert_close(product(a, b), product.function(a, b), rtol=1e-5, atol=1e-5, equal_nan=True)


def test_what_is_quantized_is_a_tensor_and_may_be_returned_too() -> None:
    @fuse
    def both(x, w):
        q = quantize(x, "i8:row")
        return q, q @ w.mT, q.abs().sum(-1), 1 + q, torch.relu(q), q[0], q.shape[0]

    x, w = torch.randn(6, 128), pack(torch.randn(9, 128), "i4:g32")
    q, product, total, more, positive, first, rows = both(x, w)
    known = pack(x, "i8:row")
    assert isinstance(q, Packed) and torch.equal(q.data, known.data) and rows == 6
    assert_near(product, known.unpack(), w.unpack())
    for got, exact in [(total, known.unpack().abs().sum(-1)), (more, 1 + known.unpack()), (first, known.unpack()[0])]:
        torch.testing.assert_close(got, exact)
    assert torch.equal(positive, torch.relu(known.unpack()))


def whole_numbers(*shape: int, unsigned: bool = False) -> torch.Tensor:
    low, high, dt = (0, 256, torch.uint8) if unsigned else (-128, 128, torch.int8)
    return torch.randint(low, high, shape, dtype=dt)


def by_groups(w: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """int8 [..., K] times scales [..., groups]."""
    return (w.float().unflatten(-1, (scales.shape[-1], -1)) * scales[..., None]).flatten(-2)


X, INT4 = torch.randn(18, 128), pack(torch.randn(24, 128), "i4:g32")
CHAINS: dict[str, tuple[Any, tuple]] = {
    "f8 of whole numbers is rounded": (
        lambda x, w: (x.to(torch.float8_e5m2).float() - 128) @ w.float().mT,
        (whole_numbers(10, 64, unsigned=True), whole_numbers(20, 64))),
    "what is true is 1": (
        lambda x, w: (x.clamp(5, 7).to(torch.int8).bool().float() - 133) @ w.float().mT,
        (5 * torch.randn(10, 64), whole_numbers(20, 64))),
    "scales that are large and small": (
        lambda x, w: (x.float() * 1e36) @ (w.float() * 1e-36).mT, (whole_numbers(10, 64), whole_numbers(20, 64))),
    "a row beside": (lambda x, w: torch.logsumexp(quantize(x, "i8:row") @ w.mT, -1), (X, INT4)),
    "two layers": (
        lambda x, w, v: torch.nn.functional.gelu(quantize(x, "i8:row") @ w.mT) @ v, (X, INT4, torch.randn(24, 30))),
    "a loss": (
        lambda x, w, t: torch.nn.functional.cross_entropy(quantize(x, "i8:row") @ w.mT, t),
        (X, INT4, torch.randint(0, 24, (18,)))),
    "keys in groups": (
        lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(quantize(q, "i8:row"), k, v),
        (torch.randn(2, 50, 64), pack(torch.randn(2, 50, 64), "i4:g32"), torch.randn(2, 50, 64))),
    "keys in groups by hand": (
        lambda q, k, v, s: torch.nn.functional.scaled_dot_product_attention(q.float(), by_groups(k, s), v),
        (whole_numbers(2, 50, 64), whole_numbers(2, 50, 64), torch.randn(2, 50, 64), torch.rand(2, 50, 2) / 100)),
    "shares": (
        lambda s, w: torch.softmax(s, -1) @ quantize(w.mT, "i8:g32").mT, (torch.randn(18, 256), torch.randn(256, 40))),
    "along another dimension": (lambda x: quantize(x, "i8:row", 0) + 0, (X,)),
    "transposed": (lambda x, w: quantize(x, "i8:row") @ w.mT, (X.mT.contiguous().mT, torch.randn(24, 128))),
    "nothing": (lambda x, w: quantize(x, "i8:row") @ w.mT, (torch.randn(0, 256), torch.randn(24, 256))),
    "part of a group": (lambda x, w: quantize(x, "i8:g128") @ w.mT, (torch.randn(18, 160), torch.randn(24, 160))),
    "f8 of integers": (
        lambda x, w: x.to(torch.float8_e4m3fn).float() @ w.float().mT,
        (whole_numbers(10, 64), torch.randn(20, 64).to(torch.float8_e4m3fn))),
    "views that are unpacked": (lambda x, w: x @ w.unpack(torch.float32).mT + x @ w.mT.unpack(), (X, INT4)),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_chains_are_what_eager_computes(name: str) -> None:
    function, args = CHAINS[name]
    exact, got = function(*args), fuse(function)(*args)
    exact = exact.unpack() if isinstance(exact, Packed) else exact
    most = exact.abs().max().item() if exact.numel() else 0.0
    torch.testing.assert_close(got, exact, rtol=1e-4, atol=1e-4 * max(1.0, most))


def test_packed_bytes_are_read_once() -> None:
    x, w = torch.randn(16, 1024).half(), pack(torch.randn(256, 1024).half(), "i4:g128")
    plan = linear("i8:row").plan(x, w)
    assert plan.bytes == w.nbytes + x.nbytes + 2 * 16 * 256


# ---- bounds of whole numbers -----------------------------------------------------------------------------------------


def byte(kind: str = "u8") -> Expr:
    return make("number", dtype(kind), (), index=0)


@pytest.mark.parametrize("e, bounds", [
    (constant(3.5, f32), None),
    (constant(-7.0, f32), (-7, -7)),
    (make("apply", f32, (byte(),), OPS["cast"], dtype=dtype("f8e4m3")), None),  # 255 is none
    (make("apply", f32, (byte(),), OPS["cast"], dtype=dtype("bf16")), (0, 255)),
    (byte(), (0, 255)),
    (cast(byte("i8"), f32), (-128, 127)),
    (make("apply", u8, (byte(), constant(2, u8)), OPS["field"], bits=3), (0, 7)),
    (apply("sub", cast(byte(), f32), constant(128.0, f32)), (-128, 127)),
    (apply("add", byte(), byte()), (0, 255)),  # it wraps around
    (cast(apply("minimum", apply("maximum", byte("f32"), constant(-8.0, f32)), constant(7.0, f32)), i8), (-8, 7)),
    (cast(byte("f32"), i8), (-128, 127)),
    (byte("f32"), None),
])  # fmt: skip
def test_bounds(e: Expr, bounds: tuple[int, int] | None) -> None:
    assert whole(e) == bounds


# ---- what is compiled ------------------------------------------------------------------------------------------------

INSTRUCTIONS = {
    ("i8", "sm_80"): "IMMA", ("i8", "sm_90"): "IGMMA|IMMA", ("i8", "sm_100"): "UTCIMMA|IMMA",
    ("i8", "gfx942"): "v_mfma_i32", ("f8", "sm_80"): "HMMA", ("f8", "sm_90"): "QGMMA", ("f8", "sm_100"): "UTCQMMA",
    ("f8", "gfx942"): "v_mfma_f32",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("fx, fw", [
    ("i8:row", "i8:row"),
    *(pytest.param(*pair, marks=pytest.mark.sample) for pair in [
        ("i8:row", "i4:g128"), ("i8:row", "u4:g128"), ("i8:row", "u3:g128"), ("i8:g128", "i8:g128"),
        ("i4:g32", "i4:g32"), ("e4m3fn:row", "e4m3fn:row"), ("e4m3fn:g128", "e4m3fn:g128"),
        ("mxfp8e4m3", "mxfp8e4m3")]),
])  # fmt: skip
def test_it_takes_the_instructions_for_8_bits_and_no_spills(fx: str, fw: str, target: str) -> None:
    for rows in (16, 256):
        w = pack(torch.zeros(2048, 2048).half(), fw)
        for kernel in linear(fx).plan(torch.empty(rows, 2048).half(), w).compile(target):
            text = kernel.sass if target.startswith("sm") else kernel.asm["amdgcn"]
            wanted = INSTRUCTIONS["i8" if fx.startswith("i") else "f8", target]
            few = "|HMMA" if rows == 16 else ""  # of f8 a Hopper has instructions for 64 rows and more
            assert re.search(wanted + few, str(text)), rows
            assert not kernel.spills, rows
