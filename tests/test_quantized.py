"""Packed tensors that fused functions make: every format at the end of every kind of chain, beside `fusedsl.pack`."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st

import fusedsl
from fusedsl import fuse, ops, pack, quantize
from fusedsl.codegen.inspect import TARGETS
from fusedsl.errors import BadArgument, BadText, InPlaceInput
from fusedsl.formats import ELEMENTS
from fusedsl.packed import Packed
from fusedsl.testing import assert_launches

FLOATS = [name for name, element in ELEMENTS.items() if element.kind == "float"]
WHOLE = ["u1:g8", "u2:g16", "u3:g32", "i4:g32", "u4:sym:g32", "i5:g64", "u6:g32", "u7:fzero:g32", "i8:g32", "i8", "i4",
         "u4:min:g32", "e2m1:g16", "e3m2:g32", "e4m3:g128", "e4m3", "e5m2:g32", "mxfp4", "mxfp6e3m2", "mxfp8e4m3",
         "mxint8", "nf4:g64", "i5:asym:g32:bf16"]  # fmt: skip
MORE = ["nvfp4", "ternary:g32", "table(-2,0,0.5,3):g8", "u4:noscale", "e4m3:noscale", "e0m3:g16"]
ALWAYS = {"u3:g32", "i4:g32", "i8", "e2m1:g16", "e4m3:g128", "mxfp4", "nf4:g64", "nvfp4", "ternary:g32"}
FEW = hypothesis.settings(max_examples=max(1, hypothesis.settings().max_examples // 4))


def some(formats: list[str]) -> list[Any]:
    return [f if f in ALWAYS else pytest.param(f, marks=pytest.mark.sample) for f in formats]


def assert_same(made: Any, wanted: Packed) -> None:
    assert type(made) is Packed and (made.format, made.dims, made.shape) == (wanted.format, wanted.dims, wanted.shape)
    assert made.dtype is wanted.dtype
    for name, part in wanted.parts._asdict().items():
        found = getattr(made, name)
        assert (part is None) == (found is None), name
        if part is not None:
            assert part.dtype is found.dtype and part.shape == found.shape, name
            same = part == found if part.dim() == 0 else part.view(torch.uint8) == found.view(torch.uint8)
            assert same.all(), name


# ---- codes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FLOATS)
def test_a_small_float_is_rounded_as_its_format_says(name: str) -> None:
    """All values, the middles between them, numbers next to those, and what lies beyond the ends."""
    element = ELEMENTS[name]
    rising = torch.tensor(sorted({v for v in element.values if abs(v) < 1e30}))
    middles = (rising[1:] + rising[:-1]) / 2
    near = [torch.nextafter(middles, torch.tensor(end)) for end in (1e38, -1e38)]
    ends = torch.tensor([0.0, -0.0, 3e38, -3e38, float("inf"), float("-inf")])
    x = torch.cat([rising, middles, *near, ends, torch.randn(500) * min(element.greatest, 1e30)])

    @fuse
    def codes(x):
        return ops.small_code(x, name)

    assert torch.equal(codes(x), element.encode(x))
    (nan,) = codes(torch.tensor([float("nan")]))
    assert nan == (element.nan or 0)


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_as_bytes(bits: int) -> None:
    @fuse
    def packed(codes):
        return ops.pack_units(codes, bits)

    for size in (1, 7, 8, 33):
        codes = torch.randint(0, 2**bits, (3, size), dtype=torch.uint8)
        assert torch.equal(packed(codes), packed.function(codes))


# ---- as people use it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", some([*WHOLE, *MORE]))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_gives_what_pack_gives(format: str, dtype: torch.dtype) -> None:
    """Bit for bit, rows of 0s too."""

    @fuse
    def made(x):
        return quantize(x, format)

    x = torch.randn(5, 128).to(dtype)
    x[1] = 0
    assert_same(made(x), pack(x, format))
    if format in WHOLE:
        assert_launches(made, (x,), 1)


@FEW
@hypothesis.given(st.data())
def test_any_shape_and_axis(data: st.DataObject) -> None:
    format = data.draw(st.sampled_from([*WHOLE, *MORE[1:]]))
    shape = data.draw(st.lists(st.sampled_from([1, 2, 3, 16, 33]), min_size=1, max_size=3))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    shape[axis] = data.draw(st.sampled_from([32, 64, 8] if "ternary" in format else [1, 8, 32, 33, 64, 100]))
    x = torch.randn(shape)
    x = x.mT if len(shape) > 1 and data.draw(st.booleans()) else x
    hypothesis.assume("ternary" not in format or x.shape[axis] % 32 == 0 or x.shape[axis] < 32)
    assert_same(fuse(lambda x: quantize(x, format, axis))(x), pack(x, format, axis))


@pytest.mark.parametrize("format", some(WHOLE))
def test_a_norm_before_it_is_one_launch(format: str) -> None:
    """With the sum that goes on beside it, the row read once: the entrance of a layer with weights of few bits."""

    @fuse
    def entrance(x, residual, weight):
        h = x + residual
        return h, quantize(F.rms_norm(h, h.shape[-1:], weight), format)

    for size in (128, 640, 4096):
        args = (torch.randn(3, size), torch.randn(3, size), torch.rand(size))
        plan = entrance.plan(*args)
        assert plan.launches == 1 and plan.bytes == plan.compulsory_bytes
        h, made = entrance(*args)
        _, wanted = entrance.function(*args)
        assert torch.equal(h, args[0] + args[1])
        assert (made.codes() != wanted.codes()).float().mean() < 1e-3  # a norm may round otherwise
        torch.testing.assert_close(made.scale.float(), wanted.scale.float(), rtol=1e-2, atol=0)


def test_a_mask_of_one_bit_is_written_and_read() -> None:
    @fuse
    def forward(x, threshold):
        keep = x > threshold
        return torch.where(keep, x, 0.0), quantize(keep.float(), "u1:noscale")

    @fuse
    def backward(gradient, mask):
        return gradient * mask

    x, gradient = torch.randn(5, 200), torch.randn(5, 200)
    _, mask = forward(x, 0.3)
    assert mask.nbytes == 5 * 25
    assert_launches(forward, (x, 0.3), 1)
    assert_launches(backward, (gradient, mask), 1)
    assert torch.equal(backward(gradient, mask), torch.where(x > 0.3, gradient, 0))


def test_it_is_itself_outside_of_a_fused_function() -> None:
    x = torch.randn(4, 64)
    assert_same(fusedsl.quantize(x, "i4:g32"), pack(x, "i4:g32"))


def test_packed_tensors_and_empty_ones() -> None:
    given = pack(torch.randn(4, 64), "i8")
    assert_same(quantize(given, "u3:g16"), pack(given, "u3:g16"))
    for format in ("nvfp4", "ternary:g32", "i4:g32", "u3", "e4m3:g16"):
        for shape in ((0, 64), (3, 0)):
            x = torch.randn(shape)
            assert_same(fuse(lambda x, format=format: quantize(x, format))(x), pack(x, format))


def test_what_it_cannot_do() -> None:
    x = torch.randn(4, 64)
    with pytest.raises(BadText, match="u9"):
        fuse(lambda x: quantize(x, "u9"))(x)
    with pytest.raises(BadArgument, match="16 bits or more"):
        fuse(lambda x: quantize(x.long(), "u4"))(x)
    with pytest.raises(InPlaceInput, match="quantized"):
        fuse(lambda x: quantize(x, "u4").mul_(2))(x)
    with pytest.raises(BadArgument, match="one dimension or more"):
        fuse(lambda x: quantize(x.sum(), "u4"))(x)
    numbers = ",".join(map(str, range(64)))
    with pytest.raises(BadArgument, match="at most 32 numbers"):
        fuse(lambda x: quantize(x, f"table({numbers})"))(x)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("format", ["i4:g32", *(pytest.param(f, marks=pytest.mark.sample) for f in ("e4m3", "u3:g32"))])
def test_it_compiles_without_spills(format: str, target: str) -> None:
    @fuse
    def entrance(x, weight):
        return quantize(F.rms_norm(x, x.shape[-1:], weight), format)

    for kernel in entrance.plan(torch.empty(64, 4096).half(), torch.empty(4096).half()).compile(target):
        assert not kernel.spills
