"""Packed tensors: their bits, what they unpack to, how near packing comes, what torch may do with them, their files."""

import copy
import io
import itertools
import json
import math
import pickle
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import load_file as load_safetensors
from safetensors.torch import save_file as save_safetensors
from torch import nn
from typer.testing import CliRunner

import fusedsl
from fusedsl import FuseError, Packed, pack, pack_codes, packfile, packing
from fusedsl.cli import app
from fusedsl.errors import BadArgument, BadText, DimOutOfRange, MissingPackage
from fusedsl.formats import ELEMENTS, NAMED, codebook, parse
from fusedsl.packed import PackedIsReadOnly
from fusedsl.packfile import BadFile
from fusedsl.quantise import stored_dtype

SIZES = (0, 1, 2, 5, 7, 8, 15, 16, 17, 31, 100, 130, 300)
GROUPS = ("row", "g1", "g3", "g16", "g32", "g128", "g1000")
WIDTHS = range(1, 9)
FORMATS = [
    *(f"{kind}{bits}:g32{zero}" for bits in WIDTHS
      for kind, zero in [("u", ""), ("u", ":sym"), ("i", ""), ("u", ":fzero"), ("u", ":min")]),
    *NAMED, "mxint8", "nf4:g64", "ternary:g16", "table(-3,0.5,1,7,9):g7:f32", "e3m2:g16:f8e4m3", "i4:g16:asym:bf16",
    "u4:g16:f16:second", "i4:g16:e8m0:second", "e2m1:g16:f32:second",
]  # fmt: skip


@st.composite
def layouts(draw):
    """A shape, and an axis of it, counted from either end."""
    rest = draw(st.lists(st.integers(0, 4), max_size=3))
    axis = draw(st.integers(0, len(rest)))
    rest.insert(axis, draw(st.sampled_from(SIZES)))
    return tuple(rest), axis - draw(st.sampled_from((0, len(rest))))


def random(*shape, like=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(zlib.crc32(repr((shape, like)).encode()))
    return torch.randn(*shape, generator=generator).to(dtype)


def random_codes(element, shape, seed=0):
    return torch.randint(0, element.count, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def given_parts(format, shape, axis, seed=0):
    """Scales and zero points for pack_codes, and the second scale."""
    format, shape = parse(format), list(shape)
    shape[axis] = -(-shape[axis] // (format.group or max(shape[axis], 1)))
    parts = {}
    if format.scale is not None:
        scale = random(*shape, like=seed)
        e8m0 = format.scale == "e8m0"
        parts["scale"] = (scale * 3 + 127).to(torch.uint8) if e8m0 else scale.to(storing(format.scale))
    if format.zero is not None:
        codes = random_codes(format.element, shape, seed)
        parts["zero"] = codes if format.zero == "code" else random(*shape, like=seed + 1).to(storing(format.zero_dtype))
    if format.second:
        parts["second"] = torch.tensor(0.3)
    return parts


def as_packed(tensor: torch.Tensor) -> Packed:
    assert isinstance(tensor, Packed)
    return tensor


def is_there(part: torch.Tensor | None) -> torch.Tensor:
    assert part is not None
    return part


def storing(name: str | None) -> torch.dtype:
    assert name is not None
    return stored_dtype(name)


# ---- bit layouts -----------------------------------------------------------------------------------------------------


@given(bits=st.sampled_from(WIDTHS), rest=st.lists(st.integers(0, 3), max_size=2), size=st.sampled_from(SIZES))
def test_rows_are_bit_streams(bits, rest, size):
    codes = torch.randint(0, 2**bits, (*rest, size), dtype=torch.uint8)
    data = packing.pack_rows(codes, bits)
    assert data.shape == (*rest, math.ceil(size * bits / 8)) and data.is_contiguous()
    assert torch.equal(packing.unpack_rows(data, bits, size), codes)
    for row, stored in zip(
        codes.reshape(-1, max(size, 1)).tolist(), data.reshape(-1, max(data.shape[-1], 1)), strict=False
    ):
        stream = sum(code << (k * bits) for k, code in enumerate(row))
        assert bytes(stored.tolist()) == stream.to_bytes(len(stored), "little")


@pytest.mark.parametrize("size", SIZES)
def test_five_ternary_codes_a_byte(size):
    codes = torch.randint(0, 3, (4, size), dtype=torch.uint8)
    data = packing.pack_trits(codes)
    assert torch.equal(packing.unpack_trits(data, size), codes)
    for row, stored in zip(codes.tolist(), data.tolist(), strict=True):
        row += [1] * (-size % 5)
        assert stored == [sum(code * 3**i for i, code in enumerate(row[at : at + 5])) for at in range(0, len(row), 5)]


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("rows, tiles, n", [(16, 1, 3), (4, 2, 5), (1, 3, 1), (2, 0, 4)])
def test_slabs(bits, rows, tiles, n):
    codes = torch.randint(0, 2**bits, (2, tiles * 16 * rows, n), dtype=torch.uint8)
    words = packing.slabs(codes, bits, rows)
    assert words.shape == (2, tiles, bits, rows, n) and words.dtype == torch.uint16
    assert torch.equal(packing.unslab(words, bits), codes)
    for batch, t, r, col in itertools.product(range(2), range(tiles), range(rows), range(n)):
        lanes = [int(codes[batch, t * 16 * rows + j * rows + r, col]) for j in range(16)]
        stream = sum(code << (j * bits) for j, code in enumerate(lanes))
        wanted = [stream >> (16 * w) & 0xFFFF for w in range(bits)]
        assert [int(word) & 0xFFFF for word in words[batch, t, :, r, col]] == wanted


@given(
    layout=layouts(), rows=st.sampled_from((16, 2)), text=st.sampled_from(("u3:g32", "i8:row", "nvfp4", "u1:g7:fzero"))
)
@example(layout=((2, 5, 600), -1), rows=16, text="u5:g128")
def test_slabs_cover_a_tensor(layout, rows, text):
    (shape, axis), format = layout, parse(text)
    codes = random_codes(format.element, shape)
    packed = pack_codes(codes, format, axis, **given_parts(format, shape, axis))
    if len(shape) < 2:
        with pytest.raises(BadArgument):
            packed.slabs(rows)
        return
    found = packed.slabs(rows)
    assert as_packed(packed.mT).slabs(rows) is found and as_packed(packed.detach()).slabs(rows) is found
    bits, pieces = format.element.bits, []
    for words, height in ((found.main, rows), (found.rest, None)):
        if words is not None:
            assert height in (None, words.shape[-2]) and words.is_contiguous()
            pieces.append(packing.unslab(words, bits))
    if found.tail is not None:
        pieces.append(packing.unpack_rows(found.tail, bits, shape[axis] % 16).mT)
    stored = codes.movedim(axis, -1)
    assert torch.equal(torch.cat(pieces, -2) if pieces else stored[..., :0].mT, stored.mT)
    for ours, theirs in ((found.scale, packed.scale), (found.zero, packed.zero)):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours.is_contiguous() and torch.equal(ours.float(), is_there(theirs).mT.float())


# ---- codes, and what they stand for ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ELEMENTS)
def test_codes_round_trip(name):
    for size, group, axis in ((130, "g32", -1), (33, "row", 0), (7, "g3", 1), (1, "g16", -1)):
        shape = [3, 2]
        shape.insert(axis % 3, size)
        format = parse(name if name == "mxint8" else f"{name}:{group}")
        codes = random_codes(format.element, shape, size)
        packed = pack_codes(codes, format, axis, **given_parts(format, shape, axis))
        assert torch.equal(packed.codes(), codes) and packed.axis == axis % 3
        assert_means(packed)


@given(
    layout=layouts(),
    text=st.sampled_from(FORMATS),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
def test_unpack(layout, text, dtype):
    shape, axis = layout
    codes = random_codes(parse(text).element, shape)
    packed = pack_codes(codes, text, axis, **given_parts(text, shape, axis), dtype=dtype)
    assert packed.shape == codes.shape and packed.dtype == dtype and packed.axis == axis % len(shape)
    assert torch.equal(packed.codes(), codes)
    assert_means(packed)


@given(layout=layouts(), bits=st.sampled_from(WIDTHS), group=st.sampled_from(GROUPS))
def test_groups_and_strides(layout, bits, group):
    shape, axis = layout
    codes = random_codes(parse(f"u{bits}").element, [*reversed(shape), 2])[..., 1].permute(*reversed(range(len(shape))))
    packed = pack_codes(codes, f"u{bits}:{group}", axis, **given_parts(f"u{bits}:{group}", shape, axis))
    assert torch.equal(packed.codes(), codes) and packed.is_contiguous() and packed.unpack().is_contiguous()
    assert_means(packed)


def assert_means(packed):
    """That it unpacks to what numpy makes of its parts: in f64, rounded to f32 after each step, then to its dtype."""
    format, size = packed.format, packed.shape[packed.axis]
    group = format.group or max(size, 1)

    def spread(part):
        whole = part.double().repeat_interleave(group, -1)[..., :size]
        return whole.permute(packed.dims).numpy()

    values = np.array(format.element.values)[packed.codes().numpy().astype(int)] - format.offset
    if format.zero == "code":
        values = values - np.array(format.element.values)[spread(packed.zero).astype(int)]
    elif format.zero == "scale":
        values = (values - spread(packed.zero)).astype(np.float32).astype(float)
    if format.scale is not None:
        scale = 2.0 ** (packed.scale.double() - 127) if format.scale == "e8m0" else packed.scale.double()
        scale = spread(scale)
        if format.second:
            scale = (scale * float(packed.second)).astype(np.float32).astype(float)
        values = values * scale
    if format.zero == "min":
        values = values.astype(np.float32).astype(float) + spread(packed.zero)
    wanted = torch.from_numpy(np.asarray(values, dtype=np.float64)).float().to(packed.dtype)
    found = packed.unpack()
    assert found.stride() == packed.stride() and type(found) is torch.Tensor
    torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)


# ---- quantising ------------------------------------------------------------------------------------------------------


def scales(packed):
    """What a step is worth, one for each value of the stored order, in f64."""
    scale = packed.scale.double()
    scale = 2.0 ** (scale - 127) if packed.format.scale == "e8m0" else scale
    scale = scale * (1 if packed.second is None else float(packed.second))
    size = packed.shape[packed.axis]
    return scale.repeat_interleave(packed.format.group or size, -1)[..., :size].permute(packed.dims)


def error_bound(format):
    """The greatest error of a value in scales: half a gap, and what the rounding of the scale takes from the ends."""
    element = format.element
    values = sorted({value for value in element.values if math.isfinite(value)})
    reach = values[-1] - values[0] if format.zero else max(map(abs, values))
    gap = max(high - low for low, high in itertools.pairwise(values)) / 2
    if format.scale == "e8m0":
        return max(gap, 2.0 ** math.floor(math.log2(reach) + 1) - reach)
    lost = reach * torch.finfo(storing(format.scale)).eps * (1 if format.zero in ("scale", "min") else 0.5)
    return gap + lost + 1e-5


BOUNDED = [f for f in FORMATS if f not in ("i1:g32", "u1:g32:sym", "ternary:g16", "table(-3,0.5,1,7,9):g7:f32")]


@pytest.mark.parametrize("text", BOUNDED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_error_bounds(text, dtype):
    factors = [5, 1, 30, 1, 3, 3] if text.endswith("f8e4m3") else [1e-2, 1, 30, 1, 0.1, 3]  # the least are no normals
    x = random(6, 100, like=text, dtype=dtype) * torch.tensor(factors, dtype=dtype)[:, None]
    packed = pack(x, text)
    worst = ((x.double() - packed.unpack(torch.float64)).abs() / scales(packed)).max()
    assert packed.dtype == dtype and worst <= error_bound(packed.format)


@pytest.mark.parametrize("text", ["u2:g5", "u8:row", "i4:g5:asym", "u3:g5:fzero", "u3:g5:min", "u4:g5:sym", "i8:g5"])
def test_ranges_of_groups(text):
    """The grid of each group reaches from its least to its greatest value, or equally far to both sides."""
    x = random(4, 23, like=text)
    x[1] = x[1].abs()
    packed, element = pack(x, f"{text}:f32"), parse(text).element
    for row, at in itertools.product(range(4), range(is_there(packed.scale).shape[1])):
        values = x[row].split(packed.format.group or 23)[at]
        low, high = values.min().item(), values.max().item()
        low, high = (low, high) if packed.format.zero == "min" else (min(low, 0), max(high, 0))
        symmetric = max(-low, high) / (2 ** (element.bits - 1) - 1)
        wanted = (high - low) / (2**element.bits - 1) if packed.format.zero else symmetric
        assert math.isclose(is_there(packed.scale)[row, at], wanted, rel_tol=1e-6)


@example(layout=((2,), 0), text="u1:g32:fzero", dtype=torch.float32, method="minmax", scale=1e30)  # beyond f16
@given(
    layout=layouts(), text=st.sampled_from(FORMATS), dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    method=st.sampled_from(["minmax", "mse"]), scale=st.sampled_from([1.0, 1e-30, 1e30, 1e-6, 0.0]),
)  # fmt: skip
def test_pack_of_any_shape(layout, text, dtype, method, scale):
    """Groups do not know of each other, nor of the other dimensions; what is packed is finite."""
    shape, axis = layout
    x = random(*shape, like=text, dtype=dtype) * scale
    packed = pack(x, text, axis, method=method)
    assert packed.shape == x.shape and packed.dtype == dtype
    assert packed.unpack().isfinite().all()
    if not packed.format.second:
        rows = x.movedim(axis, -1).reshape(-1, shape[axis]) if x.numel() else []
        apart = [pack(row, text, method=method).codes() for row in rows]
        codes = packed.codes().movedim(axis, -1)
        assert not apart or torch.equal(codes, torch.stack(apart).reshape(codes.shape))
    if scale == 0:
        assert (packed.unpack() == 0).all()


@given(text=st.sampled_from(FORMATS), tail=st.booleans(), size=st.sampled_from((1, 31, 128, 300)))
def test_least_squares_are_never_worse(text, tail, size):
    x = random(5, size, like=text) ** (3 if tail else 1)
    errors = [(pack(x, text, method=m).unpack(torch.float64) - x).square().sum() for m in ("minmax", "mse")]
    assert errors[1] <= errors[0] * (1 + 1e-6)


def test_least_squares_gain():
    x = random(64, 512)
    nearest, usual = ((pack(x, "u3:g128", method=m) - x).square().sum() for m in ("mse", "minmax"))
    assert nearest < 0.85 * usual


def test_packing_again_changes_nothing():
    """What a symmetric format holds it finds again, and of integers also the range where both ends occur."""
    for text in ("i4:g32:f32", "e2m1:g32:f32", "nf4:g32:f32", "mxfp4"):
        packed = pack(random(8, 64), text)
        again = pack(packed, text)
        torch.testing.assert_close(again.unpack(), packed.unpack(), rtol=1e-6, atol=0)


def test_ternary_is_absmean():
    x = random(3, 40)
    packed = pack(x, "ternary:f32")
    mean = x.abs().mean(-1, keepdim=True)
    torch.testing.assert_close(packed.unpack(), (x / mean).round().clamp(-1, 1) * mean)


def test_nvfp4_scales():
    x = random(4, 64)
    packed = pack(x, "nvfp4")
    torch.testing.assert_close(packed.second, x.abs().max() / (448 * 6))
    assert is_there(packed.scale).float().max() == 448


@pytest.mark.parametrize("text", ["i8:g32", "u4:g32", "e2m1:g32", "nf4", "e2m1:noscale", "mxfp4"])
@pytest.mark.parametrize("value, word", [(math.nan, "NaN"), (math.inf, "infinit"), (-math.inf, "infinit")])
def test_what_has_no_code(text, value, word):
    x = random(4, 40)
    x[2, 3] = value
    with pytest.raises(BadArgument, match=word):
        pack(x, text)


def test_codes_as_values():
    x = torch.tensor([[1.0, math.nan, -math.inf, 3.3, 1e-7]])
    found = pack(x, "e5m2:noscale")
    torch.testing.assert_close(found.unpack(), x.to(torch.float8_e5m2).float(), equal_nan=True)
    assert found.scale is None and found.bits_per_weight == 8
    assert pack(torch.tensor([-9.0, -8, 0, 6.5, 7.5]), "i4:noscale").tolist() == [-8, -8, 0, 6, 7]
    assert pack(torch.tensor([1e9]), "e5m2:noscale").item() == 57344


def test_codebook():
    packed = pack(random(5, 20), codebook([-1, -0.25, 0, 0.3, 1], group=8))
    assert is_there(packed.table).tolist() == torch.tensor([-1, -0.25, 0, 0.3, 1]).tolist()
    assert torch.equal(pickle.loads(pickle.dumps(packed)).unpack(), packed.unpack())


# ---- sizes -----------------------------------------------------------------------------------------------------------


def parts_of(packed):
    return [part for part in packed.parts if part is not None]


@given(layout=layouts(), text=st.sampled_from(FORMATS))
def test_bytes(layout, text):
    packed = pack(random(*layout[0]), text, layout[1])
    assert packed.nbytes == sum(part.numel() * part.element_size() for part in parts_of(packed))
    assert math.isclose(packed.bits_per_weight * packed.numel(), packed.nbytes * 8 if packed.numel() else 0)


@pytest.mark.parametrize("name", [f"u{bits}" for bits in WIDTHS] + ["ternary"])
def test_padding_is_less_than_a_percent(name):
    """From K = 384 on, of rows of whole eights: a row is padded to a byte, slabs not at all."""
    for size in range(384, 800, 8):
        packed = pack_codes(torch.zeros(1, size, dtype=torch.uint8), f"{name}:noscale")
        wanted = size * packed.format.stored_bits
        assert packed.data.nbytes * 8 < 1.01 * wanted
        if name != "ternary":
            found = packed.slabs()
            assert sum(each.nbytes * 8 for each in found if each is not None) == wanted


# ---- as torch sees it ------------------------------------------------------------------------------------------------

KEPT = {
    "mT": lambda w: w.mT, "T": lambda w: w.permute(2, 1, 0), "transpose": lambda w: w.transpose(0, -1),
    "movedim": lambda w: w.movedim(0, 1), "permute": lambda w: w.permute(-1, 0, -2), "detach": lambda w: w.detach(),
    "view_as": lambda w: w.view_as(w), "index": lambda w: w[2], "last": lambda w: w[-1, -1], "slice": lambda w: w[1:3],
    "step": lambda w: w[:, 1::2], "narrow": lambda w: w.narrow(1, 2, 3), "select": lambda w: w.select(1, 4),
    "both": lambda w: w.mT[1:, :, 2:4].movedim(1, 0), "unbind": lambda w: w.unbind(1)[2],
    "chunk": lambda w: w.chunk(2)[1],
    "split": lambda w: w.split([1, 4], 1)[1], "whole": lambda w: w[:, :, :][...], "none": lambda w: w[4:4],
}  # fmt: skip


@pytest.mark.parametrize("text", ["u3:g16", "nvfp4", "ternary:g16", "nf4:g16", "i8"])
@pytest.mark.parametrize("name", KEPT)
def test_views_stay_packed(name, text):
    packed = pack(random(4, 5, 40), text)
    view, wanted = KEPT[name](packed), KEPT[name](packed.unpack())
    if name == "whole":
        assert view.shape == packed.shape
    assert isinstance(view, Packed) and torch.equal(view.unpack(), wanted) and view.shape == wanted.shape
    assert view.stride() == view.unpack().stride()
    if name not in ("none", "step", "index", "last", "slice", "narrow", "select", "both", "unbind", "chunk", "split"):
        assert view.stride() == wanted.stride()
    for ours, theirs in zip(parts_of(view), parts_of(packed), strict=True):
        assert ours.untyped_storage().data_ptr() == theirs.untyped_storage().data_ptr()
    assert torch.equal(view.codes(), KEPT[name](packed.codes()))


@given(data=st.data(), layout=layouts())
def test_views_of_views(data, layout):
    shape, axis = layout
    packed = pack(random(*shape), "u3:g16", axis)
    plain = packed.unpack()
    for _ in range(data.draw(st.integers(1, 4))):
        names = [name for name in ("transpose", "index", "slice") if packed.dim() > (1 if name == "index" else 0)]
        dims = [d for d in range(packed.dim()) if d != packed.axis and packed.shape[d]] or [None]
        name, dim = data.draw(st.sampled_from(names)), data.draw(st.sampled_from(dims))
        if name == "transpose":
            other = data.draw(st.integers(0, packed.dim() - 1))
            packed, plain = packed.transpose(0, other), plain.transpose(0, other)
        elif dim is not None and name == "index":
            packed, plain = packed.select(dim, -1), plain.select(dim, -1)
        elif dim is not None:
            start = data.draw(st.integers(0, packed.shape[dim]))
            packed, plain = (
                packed.narrow(dim, start, packed.shape[dim] - start),
                plain.narrow(dim, start, plain.shape[dim] - start),
            )
    packed = as_packed(packed)
    assert torch.equal(packed.unpack(), plain)
    assert packed.dim() == 1 or is_there(packed.slabs().scale).shape[-2] == is_there(packed.scale).shape[-1]


X, INDEX = random(3, 2, 40), torch.tensor([[3, 0], [1, 1]])
PLAIN = {
    "linear": lambda w: F.linear(X, w), "matmul": lambda w: X @ w.mT, "embedding": lambda w: F.embedding(INDEX, w),
    "add": lambda w: w + 1, "radd": lambda w: 1 - w, "where": lambda w: torch.where(w > 0, w, w * 2),
    "sum": lambda w: w.sum(0), "along": lambda w: w[:, 3], "part": lambda w: w[..., 3:9], "mask": lambda w: w[w > 0],
    "gather": lambda w: w[INDEX], "reshape": lambda w: w.reshape(-1), "view": lambda w: w.view(2, 3, 40),
    "cat": lambda w: torch.cat([w, w]),
    "int": lambda w: w.to(torch.int32), "half": lambda w: w.half().float(), "double": lambda w: w.double(),
    "flip": lambda w: w.flip(0), "equal": lambda w: w == w.mT.mT, "into": lambda w: torch.zeros(6, 40).copy_(w),
    "list": lambda w: torch.tensor(w.tolist()), "numpy": lambda w: torch.tensor(w.numpy()),
    "array": lambda w: torch.tensor(np.asarray(w)), "unsqueeze": lambda w: w[None],
    "item": lambda w: torch.tensor(w[1, 2].item()),
    "einsum": lambda w: torch.einsum("abk,nk->abn", X, w), "iterate": lambda w: torch.stack(list(w)),
    "vmap": lambda w: torch.stack([F.softmax(row, -1) for row in w]),
}  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_ops_see_what_it_unpacks_to(name):
    packed = pack(random(6, 40), "u4:g16")
    found, wanted = PLAIN[name](packed), PLAIN[name](packed.unpack())
    if isinstance(found, Packed):
        assert name in ("half", "double")
        found = found.unpack()
    assert found.dtype == wanted.dtype and found.stride() == wanted.stride() and torch.equal(found, wanted)


def test_gradients_pass_it():
    x, packed = X.clone().requires_grad_(), pack(random(6, 40), "u4:g16")
    F.linear(x, packed).square().sum().backward()
    found, x.grad = x.grad, None
    F.linear(x, packed.unpack()).square().sum().backward()
    torch.testing.assert_close(found, x.grad)


def test_other_dtypes():
    """Stays packed where one rounding is two, as f16 of f32; unpacks what has been rounded already."""
    packed = pack(random(6, 40), "u4:g16")
    half = packed.half()
    assert (
        isinstance(half, Packed) and half.dtype == torch.float16 and torch.equal(half.unpack(), packed.unpack().half())
    )
    assert torch.equal(half.float(), packed.unpack().half().float()) and type(half.float()) is torch.Tensor
    assert packed.float() is packed and packed.unpack(torch.float64).dtype == torch.float64


def test_copies():
    packed = pack(random(6, 40), "nvfp4")
    for other in (packed.clone(), copy.deepcopy(packed), packed.mT.contiguous(), pickle.loads(pickle.dumps(packed))):
        wanted = as_packed(packed.mT) if other.shape[0] == 40 else packed
        assert torch.equal(as_packed(other).unpack(), wanted.unpack())
        assert other.is_contiguous() and other.data.data_ptr() != packed.data.data_ptr()
    assert packed.contiguous() is packed and packed.cpu() is packed
    moved = as_packed(packed.to("meta"))
    assert moved.device.type == "meta" and is_there(moved.scale).device.type == "meta"


WRITES = {
    "add_": lambda w: w.add_(1), "iadd": lambda w: w.__iadd__(1), "set": lambda w: w.__setitem__(0, 1),
    "along": lambda w: w.__setitem__((0, 3), 1), "out": lambda w: torch.add(w, 1, out=w), "copy_": lambda w: w.copy_(w),
    "zero_": lambda w: nn.init.zeros_(w), "data": lambda w: setattr(w, "data", w), "grad": lambda w: w.requires_grad_(),
    "addmm_": lambda w: w.mT.addmm_(w.mT, X[0, 0, :6].expand(6, 6)), "parameter": lambda w: nn.Parameter(w),
    "requires": lambda w: setattr(w, "requires_grad", True), "view": lambda w: w[3:].mT.zero_(),
    "clamp": lambda w: torch.clamp_(w, 0, 1), "list": lambda w: torch._foreach_add_([w], 1),  # type: ignore
}  # fmt: skip


@pytest.mark.parametrize("name", WRITES)
def test_it_is_read_only(name):
    packed = pack(random(6, 40), "u3:g16")
    before = packed.unpack()
    with pytest.raises(PackedIsReadOnly, match="read-only") as caught:
        WRITES[name](packed)
    assert torch.equal(packed.unpack(), before) and isinstance(caught.value, FuseError)
    assert caught.value.line is not None and "test_packed.py" in str(caught.value)


# ---- in modules ------------------------------------------------------------------------------------------------------


def packed_linear():
    module = nn.Linear(40, 6)
    module.weight = nn.Parameter(pack(module.weight, "u3:g16", method="mse"), requires_grad=False)
    return module


@pytest.mark.parametrize("trip", ["deepcopy", "pickle", "save", "to", "state", "save state"])
def test_modules(trip):
    module, x = packed_linear(), random(3, 40)
    with torch.no_grad():
        wanted = F.linear(x, as_packed(module.weight).unpack(), module.bias)
        other = packed_linear()
        other.requires_grad_(False)
        file = io.BytesIO()
        if trip == "deepcopy":
            other = copy.deepcopy(module)
        elif trip == "pickle":
            other = pickle.loads(pickle.dumps(module))
        elif trip == "save":
            torch.save(module, file)
            file.seek(0)
            other = torch.load(file, weights_only=False)
        elif trip == "to":
            other = copy.deepcopy(module).to("cpu", torch.float64).float()
            x = x.clone()
            assert not isinstance(other.weight, Packed) or other.weight.dtype == torch.float32
        elif trip == "state":
            other.load_state_dict(module.state_dict(), assign=True)
        else:
            torch.save(module.state_dict(), file)
            file.seek(0)
            other.load_state_dict(torch.load(file, weights_only=True), assign=True)
        assert isinstance(other.weight, nn.Parameter) and isinstance(other.weight, Packed)
        assert dict(other.named_parameters())["weight"] is other.weight and not other.weight.requires_grad
        assert torch.equal(other(x), wanted)


def test_a_module_moves():
    module = packed_linear()
    weight = module.weight
    module.to("meta")
    assert module.weight is weight and weight.device.type == "meta" and weight.data.device.type == "meta"
    assert isinstance(weight, nn.Parameter) and isinstance(weight, Packed)


def test_loading_over_it_says_how():
    module = packed_linear()
    with pytest.raises(RuntimeError, match="assign=True"):
        module.load_state_dict(packed_linear().state_dict())


def test_repr():
    packed = pack(random(4, 6, 128, dtype=torch.float16), "u3:g128", axis=-1)
    assert repr(packed) == str(packed) == "Packed([4, 6, 128], u3:g128, 3.188 bits a weight, torch.float16)"
    assert "axis=1" in repr(packed.mT) and "device='meta'" in repr(packed.to("meta"))


# ---- mistakes --------------------------------------------------------------------------------------------------------

W, CODES = random(4, 40), torch.zeros(4, 40, dtype=torch.uint8)
F16 = torch.ones(4, 3, dtype=torch.float16)
MISTAKES = {
    "format": (lambda: pack(W, "u9"), BadText, "u1 to u8"),
    "ints": (lambda: pack(W.int(), "u3"), BadArgument, "of floats, got torch.int32.*pack_codes"),
    "no tensor": (lambda: pack([1.0], "u3"), BadArgument, "got list"),  # type: ignore[arg-type]
    "axis": (lambda: pack(W, "u3", axis=2), DimOutOfRange, r"\[-2, 1\], got 2"),
    "0-dim": (lambda: pack(W[0, 0], "u3"), BadArgument, "one dimension or more"),
    "method": (lambda: pack(W, "u3", method="best"), BadArgument, "'minmax' or 'mse', got 'best'"),  # type: ignore[arg-type]
    "codes": (lambda: pack_codes(CODES.int(), "u3", scale=F16), BadArgument, "must be u8, got torch.int32"),
    "great": (lambda: pack_codes(CODES + 8, "u3:sym:g16", scale=F16), BadArgument, "less than 8, .* u3, got 8"),
    "few": (lambda: pack_codes(CODES + 3, "ternary:g16", scale=F16), BadArgument, "less than 3"),
    "no scale": (lambda: pack_codes(CODES, "i3:g16"), BadArgument, "scale must be given"),
    "a scale": (lambda: pack_codes(CODES, "i3:noscale", scale=F16), BadArgument, "i3:noscale has none"),
    "shape": (lambda: pack_codes(CODES, "i3:g32", scale=F16), BadArgument, r"\[4, 2\], got torch.float16 \[4, 3\]"),
    "dtype": (lambda: pack_codes(CODES, "i3:g16", scale=F16.float()), BadArgument, "torch.float16 .*got torch.float32"),
    "zero": (lambda: pack_codes(CODES, "u3:g16", scale=F16, zero=F16), BadArgument, "zero must be torch.uint8"),
    "into": (lambda: pack_codes(CODES, "i3:g16", scale=F16, dtype=torch.int8), BadArgument, "a float of torch"),
    "slabs": (lambda: pack(W, "ternary").slabs(), BadArgument, "not ternary"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name):
    act, kind, words = MISTAKES[name]
    with pytest.raises(kind, match=words):
        act()


# ---- files -----------------------------------------------------------------------------------------------------------


def tensors():
    return {
        "plain": random(3, 5), "ints": torch.arange(7), "none": torch.zeros(0, 3), "flag": torch.tensor(True),
        **{f"w.{text}": pack(random(4, 40, dtype=torch.bfloat16), text) for text in FORMATS},
        "turned": pack(random(3, 40, 5), "u3:g16", axis=1).movedim(0, -1),
        "cut": pack(random(6, 40), "nf4:g16")[1:3],
        "empty": pack(random(0, 40), "u3:g16"),
    }  # fmt: skip


def test_files(tmp_path):
    path, saved = tmp_path / "it.safetensors", tensors()
    fusedsl.save_file(saved, path, {"made by": "a test"})
    loaded = fusedsl.load_file(path)
    assert loaded.keys() == saved.keys()
    for name, tensor in saved.items():
        other = loaded[name]
        assert type(other) is type(tensor) and other.dtype == tensor.dtype and torch.equal(other, tensor)
        if isinstance(tensor, Packed):
            other = as_packed(other)
            assert (other.format, other.dims, other.nbytes) == (tensor.format, tensor.dims, tensor.nbytes)
    assert list(tmp_path.iterdir()) == [path]


def test_safetensors_reads_our_files(tmp_path):
    path, packed = tmp_path / "it.safetensors", pack(random(4, 40), "u3:g16")
    fusedsl.save_file({"w": packed, "x": X.mT}, path)
    found = load_safetensors(path)
    assert found.keys() == {"w.data", "w.scale", "w.zero", "x"}
    assert torch.equal(found["w.data"], packed.data) and torch.equal(found["x"], X.mT)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "it.safetensors"
    fusedsl.save_file({"x": X}, path)
    before, done = path.read_bytes(), packfile._bytes

    def fail(part):
        if part.dtype == torch.float16:
            raise KeyboardInterrupt
        return done(part)

    monkeypatch.setattr(packfile, "_bytes", fail)
    with pytest.raises(KeyboardInterrupt):
        fusedsl.save_file(tensors(), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def changed(path, change):
    """The file with another header."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def entry(**changes):
    def change(header):
        found = json.loads(header["__metadata__"]["fusedsl.packed"])
        found["tensors"]["w"] |= changes
        header["__metadata__"]["fusedsl.packed"] = json.dumps(found)

    return change


HOSTILE = {
    "no json": lambda header: header["__metadata__"].update({"fusedsl.packed": "{"}),
    "a list": lambda header: header["__metadata__"].update({"fusedsl.packed": "[]"}),
    "no tensors": lambda header: header["__metadata__"].update({"fusedsl.packed": '{"version": 1, "tensors": 3}'}),
    "version": lambda header: header["__metadata__"].update({"fusedsl.packed": '{"version": 2, "tensors": {}}'}),
    "format": entry(format="u9"), "no text": entry(format=[1]), "other format": entry(format="u4:g16"),
    "group": entry(format="u3:g8"), "shape": entry(shape=[4, 60]), "negative": entry(shape=[-4, 40]),
    "rank": entry(shape=[4]), "dims": entry(dims=[0, 0]), "floats": entry(dims=[0.0, 1.0]), "dtype": entry(dtype="I8"),
    "no dims": entry(dims=None),
    "scalar": entry(shape=[], dims=[]), "huge": entry(shape=[4, 2**60]),
    "no data": lambda header: header.update({"other": header.pop("w.data")}),
    "no scale": lambda header: header.update({"other": header.pop("w.scale")}),
    "scale dtype": lambda header: header["w.scale"].update(dtype="BF16"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(name, tmp_path):
    path = tmp_path / "it.safetensors"
    fusedsl.save_file({"w": pack(random(4, 40), "u3:g16")}, path)
    changed(path, HOSTILE[name])
    with pytest.raises(BadFile, match=r"it\.safetensors: "):
        fusedsl.load_file(path)


def test_truncated_files(tmp_path):
    path = tmp_path / "it.safetensors"
    fusedsl.save_file({"w": pack(random(4, 40), "table(-1,0,2):g16")}, path)
    data = path.read_bytes()
    for size in {0, 1, 7, 8, 20, len(data) // 2, len(data) - 1}:
        path.write_bytes(data[:size])
        with pytest.raises(BadFile):
            fusedsl.load_file(path)
    path.write_bytes(data[:-40] + b"\xff" * 40)  # codes that the table does not have
    with pytest.raises(BadFile, match="number of codes"):
        fusedsl.load_file(path)


def test_names_that_collide(tmp_path):
    with pytest.raises(BadArgument, match=r"'w\.scale'"):
        fusedsl.save_file({"w": pack(W, "u3"), "w.scale": X}, tmp_path / "it")
    assert not list(tmp_path.iterdir())


def test_without_safetensors(tmp_path, monkeypatch):
    fusedsl.save_file({"x": X}, tmp_path / "it")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(MissingPackage, match="pip install safetensors"):
        fusedsl.load_file(tmp_path / "it")


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "in.safetensors"
    weights = {
        "a.up": random(8, 40),
        "a.norm": random(40),
        "b.up": random(2, 8, 40, dtype=torch.bfloat16),
        "ids": INDEX,
    }
    save_safetensors(weights, path, {"format": "pt"})
    return path, weights


def run(*args):
    return CliRunner().invoke(app, ["pack", *map(str, args)])


def test_command(model, tmp_path):
    source, weights = model
    done = run(source, tmp_path / "out.safetensors", "--format", "u3:g16", "--method", "mse")
    assert done.exit_code == 0, done.output
    found = fusedsl.load_file(tmp_path / "out.safetensors")
    assert found.keys() == weights.keys()
    for name in ("a.up", "b.up"):
        wanted = pack(weights[name], "u3:g16", method="mse")
        assert torch.equal(as_packed(found[name]).unpack(), wanted.unpack())
    assert torch.equal(found["a.norm"], weights["a.norm"]) and torch.equal(found["ids"], INDEX)
    size = sum(each.nbytes for each in found.values() if isinstance(each, Packed))
    assert f"{8 * 40 * 4 + 2 * 8 * 40 * 2:,} bytes before, {size:,} after" in done.output


def test_command_chooses(model, tmp_path):
    out = tmp_path / "out.safetensors"
    assert run(model[0], out, "--format", "nvfp4", "--only", "*.up", "--skip", "b.*").exit_code == 0
    assert [name for name, each in fusedsl.load_file(out).items() if isinstance(each, Packed)] == ["a.up"]
    again = run(out, out, "--format", "i8", "--axis", "0")
    assert again.exit_code == 0, again.output
    found = fusedsl.load_file(out)
    first, second = (as_packed(found[name]) for name in ("a.up", "b.up"))
    assert (first.format.text, second.format.text, second.axis) == ("nvfp4", "i8", 0)


@pytest.mark.parametrize("args, words", [
    (("--format", "u9"), "u1 to u8"), (("--format", "u3", "--only", "x*"), "--only"),
    (("--format", "u3", "--axis", "2"), "axis must be a dimension of a.up"),
    (("--format", "u3", "--method", "best"), "mse"),
])  # fmt: skip
def test_command_mistakes(model, tmp_path, args, words):
    done = run(model[0], tmp_path / "out.safetensors", *args)
    assert done.exit_code and words in done.output and len(list(tmp_path.iterdir())) == 1


def test_command_on_what_is_packed_and_without_a_directory(model, tmp_path):
    packed = tmp_path / "out.safetensors"
    assert run(model[0], packed, "--format", "u3").exit_code == 0
    again = run(packed, tmp_path / "again.safetensors", "--format", "u3")
    assert again.exit_code and "packed already" in again.output
    lost = run(model[0], tmp_path / "nowhere" / "out.safetensors", "--format", "u3")
    assert lost.exit_code and "no directory" in lost.output


def test_command_with_nan(model, tmp_path):
    source, weights = model
    weights["a.up"][1, 1] = math.nan
    save_safetensors(weights, source)
    done = run(source, tmp_path / "out.safetensors", "--format", "u3")
    assert done.exit_code and "a.up" in done.output and "NaN" in done.output and len(list(tmp_path.iterdir())) == 1
