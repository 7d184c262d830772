"""Number formats: what codes stand for, how numbers are rounded to them, and the text of formats."""

import math
import statistics
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from fusedsl.errors import BadArgument, BadText
from fusedsl.formats import (
    ELEMENTS,
    NAMED,
    NF4,
    SCALES,
    Element,
    Format,
    codebook,
    e8m0_decode,
    e8m0_encode,
    parse,
    scale_round,
)

HALVES = np.arange(2**16, dtype=np.uint16).view(np.float16)

FLOATS = [each for each in ELEMENTS.values() if each.kind == "float"]
TABLES = [parse(f"table({numbers})").element for numbers in ("-1,0,0.5,1", "0,1", "-3e38,-0.1,1e-44,0.1,7")]

each_element = pytest.mark.parametrize("element", [*ELEMENTS.values(), *TABLES], ids=str)
each_float = pytest.mark.parametrize("element", FLOATS, ids=str)
each_of_nan = pytest.mark.parametrize("element", [each for each in FLOATS if each.nan is not None], ids=str)
each_without_nan = pytest.mark.parametrize("element", [e for e in ELEMENTS.values() if e.nan is None], ids=str)


def f64(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def codes_of(element: Element, keep=math.isfinite) -> torch.Tensor:
    """The codes whose value is finite, or as `keep` says."""
    return torch.tensor([code for code, value in enumerate(element.values) if keep(value)], dtype=torch.uint8)


def neighbours(element: Element) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The finite values, rising, with one zero: each but the last, each but the first, and the midpoints between."""
    values = f64(sorted(set(element.decode(codes_of(element), torch.float64).tolist())))
    return values[:-1], values[1:], (values[1:] + values[:-1]) / 2


def rounded(element: Element, x: torch.Tensor) -> torch.Tensor:
    return element.decode(element.encode(x), torch.float64)


def same(got: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal in every value, the sign of 0 and NaN too."""
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)
    signs = ~expected.isnan()
    assert torch.equal(got.signbit()[signs], expected.signbit()[signs])


# ---- codes -----------------------------------------------------------------------------------------------------------


def test_there_is_every_element():
    widths = [(x, y) for x in range(8) for y in range(8) if 3 <= 1 + x + y <= 8]
    assert {(each.exponent, each.mantissa) for each in FLOATS} == set(widths)
    assert {each.bits for each in ELEMENTS.values() if each.kind == "uint"} == set(range(1, 9))
    assert {each.bits for each in ELEMENTS.values() if each.kind == "int"} == set(range(1, 9))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("u2", (0, 1, 2, 3)),
        ("i1", (-1, 0)),
        ("i3", (-4, -3, -2, -1, 0, 1, 2, 3)),
        ("ternary", (-1, 0, 1)),
        ("e2m1", (0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6)),
        ("e0m2", (0, 0.25, 0.5, 0.75, -0.0, -0.25, -0.5, -0.75)),
        ("e1m1", (0, 1, 2, 3, -0.0, -1, -2, -3)),
        ("e2m0", (0, 1, 2, 4, -0.0, -1, -2, -4)),
        ("e2m1fnuz", (0, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, math.nan, -0.25, -0.5, -0.75, -1, -1.5, -2, -3)),
        ("e2m1ieee", (0, 0.5, 1, 1.5, 2, 3, math.inf, math.nan, -0.0, -0.5, -1, -1.5, -2, -3, -math.inf, math.nan)),
        ("nf4", NF4),
        ("table(-1,0.5,2)", (-1, 0.5, 2)),
    ],
)
def test_values(name, values):
    same(f64(parse(name).element.values), f64(values))


@pytest.mark.parametrize(
    ("name", "ends"),
    [("u8", (0, 255)), ("i4", (-8, 7)), ("mxint8", (-2, 127 / 64)), ("e3m2", (-28, 28)), ("e2m3", (-7.5, 7.5)),
     ("e4m3", (-448, 448)), ("e4m3fnuz", (-240, 240)), ("e4m3finite", (-480, 480)), ("e5m2", (-57344, 57344)),
     ("e7m0", (-(2.0**64), 2.0**64)), ("e0m7", (-127 / 128, 127 / 128)), ("nf4", (-1, 1))],
)  # fmt: skip
def test_ends(name, ends):
    element = parse(name).element
    assert (element.least, element.greatest) == ends


def test_nf4_is_quantiles_of_the_normal_distribution():
    quantile, outer = statistics.NormalDist().inv_cdf, 0.9677083
    above = [quantile(p) for p in np.linspace(outer, 0.5, 9)[:-1]]
    below = [-quantile(p) for p in np.linspace(outer, 0.5, 8)[:-1]]
    expected = np.sort([*above, 0, *below]) / max(above)
    np.testing.assert_allclose(NF4, expected, rtol=0, atol=1e-6)


@each_element
def test_count(element):
    assert len(element.values) == element.count <= 2**element.bits
    assert element.count > 2 ** (element.bits - 1)


# ---- rounding --------------------------------------------------------------------------------------------------------


@each_element
def test_codes_round_trip(element):
    for dtype in (torch.float32, torch.float64):
        codes = codes_of(element, keep=lambda value: not math.isnan(value))
        assert torch.equal(element.encode(element.decode(codes, dtype)), codes)


@each_element
def test_midpoints_and_what_is_beside_them(element):
    low, high, middle = neighbours(element)
    assert torch.equal(rounded(element, torch.nextafter(middle, f64(-math.inf))), low)
    assert torch.equal(rounded(element, torch.nextafter(middle, f64(math.inf))), high)
    if element.kind == "table":
        expected = low
    elif element.kind == "float":
        expected = torch.where(element.encode(low) % 2 == 0, low, high)
    else:
        expected = (middle / element.factor).round() * element.factor
    assert torch.equal(rounded(element, middle), expected)


@each_element
def test_beyond_the_ends_are_the_ends(element):
    for end, outward in ((element.least, -1), (element.greatest, 1)):
        beyond = end + outward * f64([1e-7, 0.3, 1, 1e3, 1e280]) * (abs(end) or 1)
        same(rounded(element, beyond), f64([end] * 5))


@each_element
def test_infinities(element):
    high, low = element.decode(element.encode(f64([math.inf, -math.inf]))).tolist()
    has = element.infinity is not None
    assert (low, high) == ((-math.inf, math.inf) if has else (element.least, element.greatest))


@each_float
def test_negatives_mirror(element):
    x = torch.cat([torch.from_numpy(HALVES[::37]).double(), torch.randn(1000).double() * element.greatest])
    x = x[~x.isnan()]
    same(rounded(element, -x) + 0.0, -rounded(element, x) + 0.0)


@each_element
def test_the_code_is_the_nearest(element):
    span = min(element.greatest - element.least, 1e30)
    x = torch.cat([torch.linspace(-1, 1, 500).double() * span, torch.randn(200).double() * span, torch.randn(200)])
    values = f64(element.values)
    away = (x[:, None] - values[values.isfinite()]).abs()
    assert torch.equal((rounded(element, x) - x).abs(), away.amin(dim=1))


@each_float
def test_signs_of_zero(element):
    got = element.decode(element.encode(f64([0.0, -0.0, -1e-300])))
    assert got.tolist() == [0, 0, 0]
    assert got.signbit().tolist() == [False, *[element.specials != "fnuz"] * 2]


@each_of_nan
def test_nan_stays(element):
    assert element.decode(element.encode(torch.tensor([math.nan, -math.nan]))).isnan().all()


@each_without_nan
def test_nan_needs_a_format_that_has_it(element):
    with pytest.raises(BadArgument, match="nan_to_num"):
        element.encode(torch.tensor([0.0, math.nan]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int32], ids=str)
def test_any_dtype_and_shape(dtype):
    for element in (parse("e2m1").element, parse("i4").element, parse("nf4").element):
        x = torch.arange(-12, 12).reshape(2, 3, 4).to(dtype)
        assert torch.equal(element.encode(x.mT), element.encode(x.mT.double()))
        assert element.encode(x[0, 0, 0]).shape == ()
        assert element.encode(x[:0]).shape == (0, 3, 4)
        assert element.decode(element.encode(x), torch.bfloat16).dtype == torch.bfloat16


# ---- as others have them ---------------------------------------------------------------------------------------------

THEIRS = {
    "e3m4ieee": "float8_e3m4", "e4m3ieee": "float8_e4m3", "e4m3fn": "float8_e4m3fn", "e4m3fnuz": "float8_e4m3fnuz",
    "e5m2": "float8_e5m2", "e5m2fnuz": "float8_e5m2fnuz", "e3m2": "float6_e3m2fn", "e2m3": "float6_e2m3fn",
    "e2m1": "float4_e2m1fn",
}  # fmt: skip
INTEGERS = {"i1": "int1", "i2": "int2", "i4": "int4", "u1": "uint1", "u2": "uint2", "u4": "uint4"}


@pytest.mark.parametrize("name", THEIRS)
def test_floats_of_ml_dtypes(name):
    element, theirs = parse(name).element, getattr(ml_dtypes, THEIRS[name])
    codes = np.arange(element.count, dtype=np.uint8)
    same(element.decode(torch.from_numpy(codes)), torch.from_numpy(codes.view(theirs).astype(np.float32)))
    within = HALVES[np.abs(HALVES) <= element.greatest]
    expected = within.astype(theirs).view(np.uint8)
    assert torch.equal(element.encode(torch.from_numpy(within)), torch.from_numpy(expected))


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_of_ml_dtypes(name):
    element, theirs = parse(name).element, getattr(ml_dtypes, INTEGERS[name])
    whole = np.arange(int(element.least), int(element.greatest) + 1)
    assert torch.equal(element.encode(torch.from_numpy(whole)), torch.arange(element.count, dtype=torch.uint8))
    assert whole.astype(theirs).astype(np.float32).tolist() == list(element.values)


@pytest.mark.parametrize("name", ["e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz"])
def test_floats_of_torch(name):
    element, theirs = parse(name).element, getattr(torch, f"float8_{name}")
    codes = torch.arange(256, dtype=torch.uint8)
    same(element.decode(codes), codes.view(theirs).float())
    x = torch.from_numpy(HALVES).float()
    x = torch.cat([x, x * 2.0**-12, x * (1 + 2.0**-20)])
    x = x[x.abs() <= element.greatest]
    assert torch.equal(element.encode(x), x.to(theirs).view(torch.uint8))


# ---- scales ----------------------------------------------------------------------------------------------------------

SPREAD = torch.cat([torch.from_numpy(HALVES).float() * 2.0**by for by in (-130, -40, -12, 0, 40, 100)])
SPREAD = SPREAD[SPREAD.isfinite()]


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_scales_of_torch(dtype):
    theirs = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[dtype]
    top = torch.finfo(theirs).max
    same(scale_round(SPREAD, dtype), SPREAD.clamp(-top, top).to(theirs).float())


def test_scales_of_f8e4m3():
    got = scale_round(SPREAD, "f8e4m3")
    expected = SPREAD.clamp(-448, 448).to(torch.float8_e4m3fn).float()
    lost = (expected == 0) & (SPREAD != 0)
    same(got[~lost], expected[~lost])
    same(got[lost], SPREAD[lost].sign() * 2.0**-9)


@pytest.mark.parametrize("dtype", [each for each in SCALES if each != "e8m0"])
def test_scales_are_rounded_once(dtype):
    """A number of f64 just above a midpoint is not rounded to the midpoint first."""
    one = scale_round(f64(1 + 1e-3), dtype)
    unit = torch.finfo({"f8e4m3": torch.float8_e4m3fn, "f16": torch.half, "bf16": torch.bfloat16}.get(dtype, one.dtype))
    got = scale_round(f64([1 + unit.eps / 2, 1 + unit.eps / 2 + 2.0**-50, 1 + unit.eps * 1.5]), dtype)
    assert got.tolist() == [1, 1 + unit.eps, 1 + 2 * unit.eps]


def test_scales_saturate():
    far = f64([1e300, math.inf, -math.inf])
    for dtype, top in {"f16": 65504.0, "f8e4m3": 448.0, "bf16": torch.finfo(torch.bfloat16).max}.items():
        assert scale_round(far, dtype).tolist() == [top, top, -top]
    assert scale_round(f64([math.nan]), "f16").isnan().all()


@example(x=0.0)
@example(x=math.inf)
@example(x=2.0**-149)
@given(x=st.floats(0, allow_infinity=False, allow_nan=False))
def test_scales_of_e8m0_are_the_power_below(x):
    got = scale_round(f64(x), "e8m0").item()
    assert math.frexp(got)[0] == 0.5 and 2.0**-127 <= got <= 2.0**127
    assert got <= x < 2 * got or got == (2.0**-127 if x < 1 else 2.0**127)


def test_scales_of_e8m0_have_no_sign():
    assert scale_round(torch.tensor([math.nan]), "e8m0").isnan().all()
    with pytest.raises(BadArgument, match="no sign"):
        scale_round(torch.tensor([-1.0]), "e8m0")


def test_codes_of_e8m0():
    codes = torch.arange(256, dtype=torch.uint8)
    scales = e8m0_decode(codes)
    same(scales, torch.from_numpy(codes.numpy().view(ml_dtypes.float8_e8m0fnu).astype(np.float32)))
    assert torch.equal(e8m0_encode(scales), codes)
    same(scale_round(scales, "e8m0"), scales)


# ---- text ------------------------------------------------------------------------------------------------------------


@st.composite
def tables(draw) -> Element:
    finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
    numbers = draw(st.lists(finite, min_size=2, max_size=20, unique=True))
    return codebook(sorted(numbers)).element


@st.composite
def formats(draw) -> Format:
    element = draw(st.sampled_from(sorted(ELEMENTS)).map(ELEMENTS.__getitem__) | tables())
    scale = draw(st.sampled_from([*SCALES, None]))
    if scale is None:
        return Format(element, None, None, None)
    zeros = [None, "code", "scale"] if element.kind in ("uint", "int") and element.factor == 1 else [None]
    zero = draw(st.sampled_from(zeros if scale != "e8m0" else [None]))
    group = draw(st.none() | st.integers(1, 4096))
    return Format(element, group, scale, zero, draw(st.booleans()))


@example(NAMED["mxfp4"])
@example(NAMED["nvfp4"])
@example(replace(NAMED["mxfp4"], group=None))
@given(formats())
def test_text_round_trips(format):
    assert parse(format.text) == format
    assert parse(format.text).text == format.text == str(format)
    assert parse(format) is format


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("u4:asym:row:f16", "u4"),
        ("u4:f32:sym:g64", "u4:g64:sym:f32"),
        (" u4 : g128 ", "u4:g128"),
        ("i4:sym", "i4"),
        ("e4m3", "e4m3fn"),
        ("e5m2ieee", "e5m2"),
        ("e2m1finite:noscale", "e2m1:noscale"),
        ("e2m1:e8m0:g32", "mxfp4"),
        ("mxfp4:g64:f16", "e2m1:g64"),
        ("e2m1:g16:f8e4m3:second", "nvfp4"),
        ("mxint8:row", "mxint8:row"),
        ("table( -1.0, +0, .5e0, 1, )", "table(-1,0,0.5,1)"),
        ("table(-0.1, 0.30000001)", "table(-0.1,0.3)"),
    ],
)
def test_canonical_text(text, canonical):
    assert parse(text).text == canonical


def test_defaults():
    assert parse("u4") == Format(ELEMENTS["u4"], None, "f16", "code")
    assert parse("i4") == Format(ELEMENTS["i4"], None, "f16", None)
    assert parse("mxint8") == Format(ELEMENTS["mxint8"], 32, "e8m0", None)
    assert parse("nvfp4") == Format(ELEMENTS["e2m1"], 16, "f8e4m3", None, second=True)
    assert codebook([-1, 0, 1], group=64) == parse("table(-1,0,1):g64")


@pytest.mark.parametrize(
    ("text", "offset", "zero", "bits"),
    [
        ("u4", 0, "u8", 4),
        ("u4:sym:g32", 8, None, 4.5),
        ("u4:noscale", 0, None, 4),
        ("u3:g128", 0, "u8", 3 + 24 / 128),
        ("u3:g128:fzero", 0, "f16", 3.25),
        ("u3:g64:f8e4m3:fzero", 0, "f16", 3.375),
        ("i8:g32:f32:fzero", 0, "f32", 10),
        ("i8:g32:f32", 0, None, 9),
        ("ternary", 0, None, 1.6),
        ("mxfp4", 0, None, 4.25),
        ("nvfp4", 0, None, 4.5),
        ("table(1,2,3,4,5)", 0, None, 3),
    ],
)
def test_what_is_stored(text, offset, zero, bits):
    format = parse(text)
    assert (format.offset, format.zero_dtype, format.bits_per_weight) == (offset, zero, bits)


@pytest.mark.parametrize(
    ("text", "column", "says"),
    [
        ("", 1, "Write an element and its options"),
        ("u4,g128", 3, "u4:g128"),
        ("u4:", 4, "the text ends"),
        ("u9", 1, "u1 to u8"),
        ("int4", 1, "Close to it: i4"),
        ("float8_e4m3fn", 1, "Close to it: e4m3fn"),
        ("E2M1", 1, "Close to it: e2m1"),
        ("e5m3", 1, "1 + 5 + 3 = 9"),
        ("e0m1", 1, "1 + 0 + 1 = 2"),
        ("e2m1fn", 1, "Write e2m1."),
        ("e0m4fnuz", 1, "fnuz needs an exponent"),
        ("e1m2ieee", 1, "two bits of exponent"),
        ("e3m0ieee", 1, "one of mantissa"),
        ("e4m3fnu", 1, "e4m3fn"),
        ("table", 1, "table(-1, 0, 0.5, 1)"),
        ("table()", 1, "2 to 256"),
        ("table(1, 0)", 1, "Sort them"),
        ("table(1, 1.00000000001)", 1, "f32 must tell"),
        ("table(0, 1e39)", 1, "finite numbers"),
        ("nf4(0, 1)", 1, "Only a table"),
        ("u4:g0", 4, "`row` takes the whole axis"),
        ("u4:g-1", 5, "u4:g128"),
        ("u4:g32:row", 8, "said already, by g32"),
        ("u4:sym:asym", 8, "said already, by sym"),
        ("u4:e8m0", 4, "u4:sym:e8m0"),
        ("u4:e8m0:fzero", 9, "u4:sym:e8m0"),
        ("e2m1:asym", 6, "always symmetric"),
        ("mxint8:f16:fzero", 12, "always symmetric"),
        ("u4:g4:noscale", 4, "leave it out"),
        ("u4:assym", 4, "Close to it: asym"),
        ("u4:f8e5m2", 4, "f8e4m3"),
    ],
)
def test_errors_say_where_and_what_to_do(text, column, says):
    with pytest.raises(BadText) as caught:
        parse(text)
    assert caught.value.parts["column"] == column
    assert says in str(caught.value)


def test_mistakes_in_python():
    with pytest.raises(BadArgument, match="text of a format"):
        parse(4)  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadArgument, match="Sort them"):
        codebook([1, 0])
    with pytest.raises(BadArgument, match="f8e4m3"):
        codebook([0, 1], scale="f64")
    with pytest.raises(BadArgument, match="share a scale"):
        codebook([0, 1], group=0)


@given(numbers=st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=256, unique=True))
def test_codebooks(numbers):
    numbers = sorted(numbers)
    format = codebook(torch.tensor(numbers), group=None, scale=None)
    assert list(format.element.values) == numbers
    assert 2 ** (format.element.bits - 1) < len(numbers) <= 2**format.element.bits
    assert format.text.endswith(":noscale")


@given(x=st.floats(width=32, allow_nan=False), other=st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_tables_go_by_distance(x, other):
    assume(abs(other) > 1e-30 and math.isfinite(x))
    low, high = sorted([0.0, other])
    code = codebook([low, high]).element.encode(f64(x)).item()
    assert code == (x > (low + high) / 2)
