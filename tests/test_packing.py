"""Packed tensors in fused functions: every format read by every kind of chain, and the kernels that read weights."""

from __future__ import annotations

from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flash_yardstick import loops
from hypothesis import strategies as st

from fusedsl import fuse, ops, pack, pack_codes
from fusedsl.codegen import bits
from fusedsl.codegen.inspect import TARGETS
from fusedsl.errors import BadArgument, UntraceableCapture
from fusedsl.formats import ELEMENTS, parse
from fusedsl.halves import BIAS
from fusedsl.ops.helpers import HELPERS
from fusedsl.packed import Packed
from fusedsl.runtime import counters
from fusedsl.testing import assert_launches, assert_matches

FEW = hypothesis.settings(max_examples=max(1, hypothesis.settings().max_examples // 4))
WIDTHS = [f"u{bits}:g128" for bits in range(1, 9)]
FLOATS = ["e1m1:g32", "e2m1:g32", "e3m1:g32", "e2m3:g32", "e3m2:g32", "e3m3:g32", "e4m3:g32", "e5m2:g32", "e0m3:g16"]
OTHERS = ["nf4:g64", "ternary:g64", "mxfp4", "mxfp6e3m2", "nvfp4", "mxint8", "u4:sym:g32", "i3:g16", "u2:fzero:g16",
          "u4:min:g32", "i5:asym:g32", "e6m1:g16", "e7m0:g16", "e3m4ieee:g16:f32", "e4m3fnuz:g16", "u4:noscale",
          "table(-2,0,0.5,3):g8"]  # fmt: skip
FORMATS = [*WIDTHS, *FLOATS, *OTHERS]
ALWAYS = {"u3:g128", "u4:g128", "u8:g128", "e2m1:g32", "e4m3:g32", "nf4:g64", "ternary:g64", "nvfp4", "u2:fzero:g16"}
SOME = [f if f in ALWAYS else pytest.param(f, marks=pytest.mark.sample) for f in FORMATS]


def packed(*shape: int, format: str = "u4:g32", axis: int = -1, dtype: torch.dtype = torch.float32) -> Packed:
    return pack(torch.randn(shape).to(dtype), format, axis)


@fuse
def linear(x, w):
    return x @ w.mT


# ---- what is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, element in ELEMENTS.items() if element.kind == "float"])
def test_a_small_float_is_what_its_format_says(name: str) -> None:
    codes = torch.arange(ELEMENTS[name].count, dtype=torch.uint8)

    @fuse
    def values(codes):
        return ops.small_float(codes, name)

    torch.testing.assert_close(values(codes), ELEMENTS[name].decode(codes), rtol=0, atol=0, equal_nan=True)
    finite = ELEMENTS[name].decode(codes).isfinite()
    assert torch.equal(values(codes).signbit()[finite], ELEMENTS[name].decode(codes).signbit()[finite])


@pytest.mark.parametrize("format", SOME)
def test_elements_are_what_unpack_gives(format: str) -> None:
    """Along the axis and across it, whole bytes or not; rounded once more, where a function stores halves."""

    @fuse
    def chain(w):
        return w * 2, w.amax(-1), w.sum(0), w[2:, ::3], w.mT + 1

    for shape, axis in [((5, 33), -1), ((40, 3), 0), ((3, 1), -1), ((1, 17), -1), ((4, 8, 7), 1)]:
        for dtype in (torch.float32, torch.bfloat16):
            assert_matches(chain, (packed(*shape, format=format, axis=axis, dtype=dtype),))


@pytest.mark.parametrize("format", SOME)
def test_a_product_with_packed_weights(format: str) -> None:
    """One launch whatever the sizes: whole tiles of the layout, a tile of fewer rows, single rows, or all of them."""
    f32, f16, bf16 = torch.float32, torch.float16, torch.bfloat16
    for size, rows, dtype in [(512, 1, f32), (583, 5, f16), (64, 40, bf16), (9, 3, f32), (1040, 33, f32)]:
        w = packed(24, size, format=format, dtype=dtype)
        x = (torch.randn(rows, size) / size**0.5).to(dtype)
        assert_launches(linear, (x, w), 1)
        assert_matches(linear, (x, w))


@FEW
@hypothesis.given(st.data())
def test_products_of_any_shape(data: st.DataObject) -> None:
    format = data.draw(st.sampled_from(FORMATS))
    sizes = ([1, 2, 17], [1, 3, 32, 70], [1, 15, 16, 31, 257, 300, 512])
    m, n, k = (data.draw(st.sampled_from(some)) for some in sizes)
    batch = data.draw(st.sampled_from([(), (2,), (3, 1)]))
    axis = data.draw(st.sampled_from([-1, -2]))
    w = packed(*batch, *((n, k) if axis == -1 else (k, n)), format=format, axis=axis)
    x = torch.randn(*batch[:1], m, k)
    function = fuse(lambda x, w: x @ w.mT if axis == -1 else x @ w)
    assert_matches(function, (x, w))


def test_what_is_packed_is_read_once() -> None:
    """The bytes of the codes, the scales and the zero points, and of x; nothing else."""
    w, x = packed(512, 1024, format="u3:g128"), torch.randn(4, 1024)
    plan = linear.plan(x, w)
    assert w.nbytes == 512 * (1024 * 3 // 8 + 8 * (2 + 1))
    assert plan.bytes == plan.compulsory_bytes == w.nbytes + x.nbytes + 4 * 512 * 4


def test_inside_a_function_it_is_its_numbers() -> None:
    w, x = packed(40, 512), torch.randn(4, 512)
    torch.testing.assert_close(fuse(lambda x, w: x @ w.unpack().mT)(x, w), linear(x, w))
    with pytest.raises(UntraceableCapture, match=r"codes.*outside of the function"):
        fuse(lambda w: w.codes())(w)
    with pytest.raises(BadArgument, match=r"fusedsl\.quantize"):
        fuse(lambda x: pack(x, "u4"))(x)


def test_a_layout_is_made_once() -> None:
    w, x = packed(40, 512), torch.randn(4, 512)
    linear(x, w)
    first = w.slabs().main
    view = w.mT
    assert isinstance(view, Packed) and view.slabs().main is first and w.slabs().main is first
    kernels = counters.kernels
    linear(x, packed(40, 512))
    assert counters.kernels == kernels


def test_what_is_written_to_a_part_is_read() -> None:
    w, x = packed(40, 512), torch.randn(4, 512)
    before = linear(x, w)
    w.data[0] = 0
    assert w.scale is not None
    w.scale[1] = 0
    assert_matches(linear, (x, w))
    assert not torch.equal(linear(x, w), before)


def test_memory_that_is_not_there() -> None:
    """What torch makes of a plain parameter whose data is set to a tensor without memory of its own."""
    layer, x = torch.nn.Linear(64, 40), torch.randn(3, 64)
    fused = fuse(layer)
    with torch.no_grad():
        fused(x)
        layer.weight.data = packed(40, 64)
        with pytest.raises(BadArgument, match="none behind it"):
            fused(x)


# ---- as people use them ----------------------------------------------------------------------------------------------


def test_weights_of_a_module() -> None:
    layer = torch.nn.Linear(300, 40)
    layer.weight = torch.nn.Parameter(pack(layer.weight.detach(), "u4:g32"), requires_grad=False)
    x = torch.randn(7, 300)
    fused = fuse(layer)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), layer(x))
        before = fused(x)
        layer.weight = torch.nn.Parameter(pack(torch.randn(40, 300), "u4:g32"), requires_grad=False)
        assert not torch.equal(fused(x), before)
        layer.weight = torch.nn.Parameter(pack(torch.randn(40, 300), "i8"), requires_grad=False)
        torch.testing.assert_close(fused(x), layer(x))


def test_a_packed_input_that_is_returned_is_itself() -> None:
    w, x = packed(8, 32), torch.randn(3, 32)
    same, view, y = fuse(lambda x, w: (w, w.mT, x @ w.mT))(x, w)
    assert same is w and isinstance(view, Packed) and view.shape == (32, 8)
    torch.testing.assert_close(y, x @ w.unpack().mT)


CHAINS: dict[str, tuple[Any, Any]] = {
    "norm and linear": (
        lambda x, g, w: (x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6) * g) @ w.mT,
        lambda: (torch.randn(5, 512), torch.rand(512), packed(48, 512, format="u3:g128")),
    ),
    "gated": (
        lambda x, gate, up: F.silu(x @ gate.mT) * (x @ up.mT),
        lambda: (torch.randn(5, 512), packed(48, 512, format="u4:g128"), packed(48, 512, format="u4:g128")),
    ),
    "embedding and norm": (
        lambda i, w, g: F.rms_norm(F.embedding(i, w), (96,), g),
        lambda: (torch.randint(0, 50, (7,)), packed(50, 96, format="u4:g32"), torch.rand(96)),
    ),
    "low rank beside": (
        lambda x, w, a, b: x @ w.mT + (x @ a) @ b,
        lambda: (torch.randn(5, 512), packed(48, 512, format="i4:g64"), torch.randn(512, 8), torch.randn(8, 48)),
    ),
    "softmax of int8": (lambda w: torch.softmax(w, -1), lambda: (packed(6, 300, format="i8:g60"),)),
    "similarity": (
        lambda x, w: torch.topk(x @ w.mT, 4),
        lambda: (torch.randn(3, 256), packed(200, 256, format="e4m3")),
    ),
    "similarity of many": (
        lambda x, w: torch.topk(x @ w.mT, 3),
        lambda: (torch.randn(2, 128), packed(5000, 128, format="u4:g64")),
    ),
    "keys and values": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v),
        lambda: (torch.randn(2, 9, 64), packed(2, 70, 64, format="u4:g32"), packed(2, 70, 64, format="u2:g32")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_with_packed_inputs_is_one_launch(name: str) -> None:
    function, make = CHAINS[name]
    args = make()
    assert_launches(fuse(function), args, 1)
    assert_matches(fuse(function), args)


# ---- codes as halves -------------------------------------------------------------------------------------------------


def run_ptx(text: str, word: np.ndarray, above: np.ndarray) -> np.ndarray:
    """What PTX of ours gives for 32-bit registers."""
    registers = {"$1": word.astype(np.uint32), "$2": above.astype(np.uint32)}
    for line in text.split("{ .reg .b32 a, b;")[1].split("}")[0].strip(" ;").split(";"):
        name, to, *rest = line.replace(",", " ").split()
        values = [registers[o] if o in registers else np.uint32(int(o, 0)) for o in rest]
        registers[to] = {
            "shr.b32": lambda a, n: a >> n, "shl.b32": lambda a, n: a << n, "and.b32": lambda a, b: a & b,
            "lop3.b32": lambda a, b, c, table: (a & b) | c,
        }[name](*values)  # fmt: skip
        assert name != "lop3.b32" or values[3] == 0xEA
    return registers["$0"]


def wanted(name: str, code: np.ndarray) -> np.ndarray:
    """The bits of the half that stands for a code."""
    kind, _, shift, half = name[1:].split("_")
    if kind[0] == "u":
        stays = 1 << (int(kind[1:]) + int(shift)) <= BIAS[half]
        return bits.MAGIC[half] | code << (int(shift) if stays else 0)
    element = ELEMENTS[kind]
    low = element.decode(torch.from_numpy(code.astype(np.int32)), torch.float64) * 2.0 ** (element.bias - 15)
    return low.half().view(torch.int16).numpy().astype(np.uint16)


@pytest.mark.parametrize("name", bits.PTX)
def test_ptx_gives_what_triton_does(name: str) -> None:
    """All words, beside words that differ from them in every bit; what lies beside in the register changes nothing."""
    kind, _, shift, _ = name[1:].split("_")
    width = int(kind[1:]) if kind[0] == "u" else ELEMENTS[kind].bits
    word = np.arange(65536, dtype=np.uint32)
    above = word[::-1].copy()
    exact = wanted(name, (word | above << 16) >> int(shift) & ((1 << width) - 1))
    for other in (0, 0xFFFF, 0x5A5A):
        low = run_ptx(bits.PTX[name], word | np.uint32(other << 16), above | np.uint32(other << 16))
        high = run_ptx(bits.PTX[name], word << 16 | np.uint32(other), above << 16 | np.uint32(other))
        assert (low & 0xFFFF == exact).all() and (high >> 16 == exact).all()
    pieces, base = bits.PIECES[name]
    moved = [(w << p.left if p.left > 0 else w >> -p.left) & p.mask for p in pieces for w in [(word, above)[p.word]]]
    assert (np.bitwise_or.reduce([np.full_like(word, base), *moved]) == exact).all() and name in HELPERS


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("format", ["u4:g32", "i3:g32", "u8:g32", "u7:g64", "u5:fzero:g32", "i8:g32", "e2m1:g32",
                                    "e3m2:g32", "e1m5:g64", "e4m2:g32", "e4m3:g32"])  # fmt: skip
def test_weights_in_half_precision_are_rounded_once(format: str, dtype: torch.dtype) -> None:
    """A product with the identity shows each weight: the one that unpack gives."""
    w = pack(torch.randn(48, 256).to(dtype), f"{format}:bf16" if dtype is torch.bfloat16 else format)
    assert torch.equal(linear(torch.eye(256, dtype=dtype), w), w.unpack().mT)


# ---- what is compiled ------------------------------------------------------------------------------------------------


def assert_no_spills(format: str, dtype: torch.dtype, rows: int, target: str) -> None:
    w = pack_codes(torch.zeros(4096, 4096, dtype=torch.uint8), format, dtype=dtype, **_parts(format))
    (kernel,) = linear.plan(torch.empty(rows, 4096, dtype=dtype), w).compile(target)
    assert not kernel.spills


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("format", ["u3:g128", pytest.param("e2m1:g32", marks=pytest.mark.sample)])
def test_a_product_with_packed_weights_compiles_without_spills(format: str, target: str) -> None:
    assert_no_spills(format, torch.float16, 16, target)


@pytest.mark.sweep
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("rows", [1, 16, 512])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("format", FORMATS)
def test_every_product_compiles_without_spills(format: str, dtype: torch.dtype, rows: int, target: str) -> None:
    assert_no_spills(format, dtype, rows, target)


def _parts(format: str) -> dict[str, Any]:
    made = pack(torch.zeros(1, 4096), format)
    parts = {name: getattr(made, name) for name in ("scale", "zero", "second")}
    return {name: p if p is None or p.dim() == 0 else p.expand(4096, -1) for name, p in parts.items()}


def per_weight(format: str, target: str) -> float:
    """SASS instructions for each weight in the main loop, of 16 rows in f16."""
    w = pack_codes(torch.zeros(4096, 4096, dtype=torch.uint8), format, dtype=torch.float16, **_parts(format))
    plan = linear.plan(torch.empty(16, 4096, dtype=torch.float16), w)
    (kernel,), config = plan.compile(target), plan.on(target).kernels[0].config
    assert config["BLOCK_I"] == 16 and config["BLOCK_J"] == 64, config
    loop = max(loops(kernel.sass), key=len)
    assert sum(op.startswith("HMMA") for op in loop) == 2 * 16  # all of a tile, by four warps
    assert not any(op.startswith(("LDG.E.U8", "LDG.E.U16")) for op in loop)
    return len(loop) * 32 * config.num_warps / (256 * 64)


@pytest.mark.slow
@pytest.mark.sample
@pytest.mark.parametrize("target, most", [("sm_80", 4.8), ("sm_90", 5.0)])
@pytest.mark.parametrize("width", range(1, 9))
def test_instructions_for_a_weight_with_scales_of_groups(width: int, target: str, most: float) -> None:
    """gemlite's kernel of 4 bits takes 6.9."""
    assert per_weight(f"u{width}:sym:g128", target) <= most


@pytest.mark.slow
@pytest.mark.sample
@pytest.mark.parametrize("format", ["e2m1:g32", "e3m2:g32", "e1m1:g32"])
def test_instructions_for_a_weight_that_is_a_small_float(format: str) -> None:
    assert per_weight(format, "sm_80") <= 4.8


@pytest.mark.slow
@pytest.mark.sample
@pytest.mark.parametrize("width", range(1, 9))
def test_instructions_for_a_weight_with_zero_points_too(width: int) -> None:
    assert per_weight(f"u{width}:g128", "sm_80") <= 5.3


@pytest.mark.slow
@pytest.mark.sample
@pytest.mark.parametrize("width", [3, 4, 6])
def test_instructions_for_a_weight_where_a_group_is_a_tile(width: int) -> None:
    assert per_weight(f"u{width}:sym:g256", "sm_80") <= 3.4


@pytest.mark.parametrize("format", FORMATS)
def test_stored_bits(format: str) -> None:
    """In both layouts less than 1 % beyond the format's, from 384 values along the axis on."""
    element = parse(format).element
    for size in (384, 576, 1000, 4096):
        w = pack_codes(torch.zeros(3, size, dtype=torch.uint8), f"{element.name}:noscale")
        words = w.slabs()[:3] if element.kind != "ternary" else ()
        most = 3 * size * parse(format).stored_bits / 8 * 1.01
        for parts in ((w.data,), words):
            assert sum(part.nbytes for part in parts if part is not None) <= most
