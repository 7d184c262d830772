"""Element types and shapes against torch: promotion for every pair of operands, broadcasting, what holds what."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fusedsl.errors import DTypesDisagree, ShapesDisagree, UnknownDType
from fusedsl.index import Symbol, poly
from fusedsl.types import STORED, Type, bool_, broadcast, dtype, f16, f32, f64, i64, promote

NUMBERS = {True: bool_, 2: i64, 0.5: f64}


def operand(kind, dt):
    """(our type, torch's operand) of a tensor with dimensions, a 0-dim tensor or a Python number"""
    if kind == "number":
        return Type(NUMBERS[dt], (), weak=True), dt
    return Type(dt, (3,) if kind == "tensor" else ()), torch.empty((3,) if kind == "tensor" else (), dtype=dt.torch)


OPERANDS = [operand(kind, dt) for kind in ("tensor", "scalar") for dt in STORED]
OPERANDS += [operand("number", value) for value in NUMBERS]


def torchs(*operands):
    """torch's common dtype, None where it has none."""
    try:
        common = operands[0]
        for other in operands[1:]:
            common = torch.empty(3, dtype=torch.result_type(common, other))
        return dtype(common.dtype)
    except RuntimeError:
        return None


def ours(*types):
    try:
        return promote(types)
    except DTypesDisagree:
        return None


@pytest.mark.parametrize("ours_a,a", OPERANDS, ids=lambda o: repr(o) if isinstance(o, Type) else "")
def test_promotion_of_pairs(ours_a, a):
    for ours_b, b in OPERANDS:
        if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
            assert ours(ours_a, ours_b) == torchs(a, b), (ours_a, ours_b)


@pytest.mark.parametrize("default", [torch.float32, torch.float64, torch.float16])
def test_numbers_become_the_default_float(default):
    torch.set_default_dtype(default)
    try:
        for dt in STORED:
            ours_a, a = operand("tensor", dt)
            ours_b, b = operand("number", 0.5)
            assert ours(ours_a, ours_b) == torchs(a, b)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("numbers", list(itertools.permutations([True, 2, 0.5, 1.5], 2)), ids=repr)
@pytest.mark.parametrize("dt", [t for t in STORED if t.bits >= 16 or not t.is_float], ids=repr)
def test_two_numbers_promote_like_one(dt, numbers):
    # as in torch.where, clamp or addcmul: the numbers first find their own common type
    tensor = Type(dt, (3,))
    weak = [Type(bool_ if n is True else i64 if n == 2 else f64, (), weak=True) for n in numbers]
    highest = max(numbers, key=lambda n: (isinstance(n, float), not isinstance(n, bool)))
    expected = torchs(torch.empty(3, dtype=dt.torch), highest)
    assert ours(tensor, *weak) == ours(*weak, tensor) == expected


def test_order_does_not_matter():
    # in torch too it does for u16 u32 u64 and floats of 8 bits, which only some types combine with
    usual = [t for t, _ in OPERANDS if t.dtype.name in ("f64", "f32", "bf16", "f16", "i8", "i64", "u8", "bool")]
    for a, b, c in itertools.combinations(usual, 3):
        assert len({ours(*order) for order in itertools.permutations([a, b, c])}) == 1, (a, b, c)


def _values(dt):
    """Every value of a narrow type, the ends and some of the middle of a wide one."""
    if dt.is_bool:
        return torch.tensor([False, True])
    if dt.is_float:
        bits = {8: torch.uint8, 16: torch.uint16}.get(dt.bits)
        if bits is not None:
            values = torch.arange(2**dt.bits).to(bits).view(dt.torch)
            return values[~values.float().isnan()]
        info = torch.finfo(dt.torch)
        zero, one = torch.tensor([0.0, 1.0], dtype=dt.torch)
        least = torch.nextafter(zero, one).item()
        ends = [info.max, info.min, info.eps, info.tiny, 1 + info.eps, 0.1, math.inf, least]
        return torch.tensor(ends, dtype=dt.torch)
    info = torch.iinfo(dt.torch)
    wanted = {info.min, info.max, info.max - 1, info.min + 1, 0, 1, 3}
    wanted |= {v for k in range(dt.bits) for v in (2**k - 1, 2**k, 2**k + 1, 1 - 2**k) if info.min <= v <= info.max}
    return torch.tensor(sorted(wanted), dtype=dt.torch)


@pytest.mark.parametrize("a", STORED, ids=repr)
@pytest.mark.parametrize("b", STORED, ids=repr)
def test_holds_means_no_value_changes(a, b):
    values = _values(b)
    inside = values.to(a.torch)
    same = torch.equal(values.double(), inside.double()) if b.is_float else values.tolist() == inside.tolist()
    assert same or not a.holds(b)
    if a is b:
        assert a.holds(b)


def test_holds_where_it_should():
    yes = "f32>f16 f32>bf16 f64>i32 f64>f32 f16>f8e4m3 f16>f8e5m2 bf16>f8e5m2 i16>u8 i64>u32 f32>u16 f32>i16 i8>bool"
    no = "f16>bf16 bf16>f16 f32>i32 f64>i64 u8>i8 i8>u8 i32>u32 bool>u8 f16>f32 bf16>u16"
    assert all(dtype(a).holds(dtype(b)) for a, b in (pair.split(">") for pair in yes.split()))
    assert not any(dtype(a).holds(dtype(b)) for a, b in (pair.split(">") for pair in no.split()))


def test_names():
    for dt in STORED:
        assert dtype(repr(dt)) is dt and dtype(dt.torch or "") is dt and dtype(dt) is dt
        assert dt.computed is (f32 if dt.is_float and dt.bits < 32 else dt)
        assert dt.bytes == torch.empty((), dtype=dt.torch).element_size()
    assert dtype("u3").bits == 3 and dtype("u3").torch is None and dtype("i64") is i64
    for bad in ("u0", "u65", "f17", "int", "", "i", torch.complex64):
        with pytest.raises(UnknownDType):
            dtype(bad)


# ---- shapes ----------------------------------------------------------------------------------------------------------

SHAPES = st.lists(st.sampled_from([0, 1, 2, 3]), max_size=4).map(tuple)


@given(st.lists(SHAPES, min_size=1, max_size=4))
def test_broadcasting(shapes):
    try:
        expected = tuple(torch.broadcast_shapes(*shapes))
    except RuntimeError:
        expected = None
    try:
        found = broadcast(shapes, "add")
    except ShapesDisagree:
        found = None
    assert found == expected


def test_broadcasting_of_symbols():
    n, m = poly(Symbol("n")), poly(Symbol("m"))
    assert broadcast([(n, 1), (m,)], "add") == (n, m)
    assert broadcast([(), (n * 2,)], "add") == (n * 2,)
    with pytest.raises(ShapesDisagree, match=r"\[n\] and \[m\]"):
        broadcast([(n,), (m,)], "add")
    with pytest.raises(ShapesDisagree, match=r"b\[:, None\]"):
        broadcast([(n, 4), (n,)], "add")
    assert Type(f16, (n, 4)).size == n * 4 and Type(f16).size == 1
    assert Type(f16, (n, 4)).replace({Symbol("n"): 3}) == Type(f16, (3, 4))
