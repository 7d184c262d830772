"""Arguments as text: what a text stands for, the tensors made of it, and what its errors say."""

import inspect
import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from fusedsl import formats
from fusedsl.arguments import BELOW, Tensor, materialise, meta, parse
from fusedsl.errors import BadText
from fusedsl.parts import part_types
from fusedsl.types import STORED, bf16, bool_, dtype, f16, f32, i8, i64, u8


@pytest.mark.parametrize(
    ("text", "args"),
    [
        ("", ()),
        ("f16[8, 4096]", (Tensor(f16, (8, 4096)),)),
        ("f32[]", (Tensor(f32, ()),)),
        ("bool[4,4], bf16[0],", (Tensor(bool_, (4, 4)), Tensor(bf16, (0,)))),
        ("f16[8, 4096; 8192, 1]", (Tensor(f16, (8, 4096), (8192, 1)),)),
        ("f32[B=8, 4], f32[B], B", (Tensor(f32, (8, 4)), Tensor(f32, (8,)), 8)),
        ("f32[N=8, N]", (Tensor(f32, (8, 8)),)),
        ("i64[8 < 100], i8[2; 1 < 128]", (Tensor(i64, (8,), None, 100), Tensor(i8, (2,), (1,), 128))),
        ("f32[V=30, 4], i64[8 < V]", (Tensor(f32, (30, 4)), Tensor(i64, (8,), None, 30))),
        ("[f16[8,4], [f16[8],]]", ([Tensor(f16, (8, 4)), [Tensor(f16, (8,))]],)),
        ("(1, (2,)), (3), (), []", ((1, (2,)), 3, (), [])),
        ("3, -1, 1e-6, -.5, 2., inf, -inf", (3, -1, 1e-6, -0.5, 2.0, math.inf, -math.inf)),
        ("True, False, None", (True, False, None)),
        ("\"none\", 'it\\'s', \"a, b[\"", ("none", "it's", "a, b[")),
        ("\n  3,\n  4", (3, 4)),
    ],
)
def test_positional(text, args):
    assert parse(text).args == args
    assert not parse(text).kwargs


def test_numbers_keep_their_kind():
    assert [type(value) for value in parse("1, 1., True, 1e0").args] == [int, float, bool, float]
    assert math.isnan(parse("nan").args[0])


def test_keywords_follow_positions():
    found = parse("f32[B=2], eps=1e-6, weight=f32[B], dims=(0, 1)")
    assert found.args == (Tensor(f32, (2,)),)
    assert found.kwargs == {"eps": 1e-6, "weight": Tensor(f32, (2,)), "dims": (0, 1)}


@pytest.mark.parametrize(
    ("text", "row", "column", "says"),
    [
        ("f32[8", 1, 6, "the text ends"),
        ("f32[8],\nf32[8]]", 2, 7, "Write tensors as"),
        ("f32[8] f32[8]", 1, 8, "commas between them"),
        ("@", 1, 1, "Write tensors as"),
        ("f32[B]", 1, 5, "[B=8] gives one"),
        ("f32[C=2], f32[B]", 1, 15, "It may be C"),
        ("f32[2], f32", 1, 9, "f32[8] is a tensor"),
        ("f32[B=2], f32[B=3]", 1, 15, "It is 2 already"),
        ("f31[8]", 1, 1, "dtype"),
        ("u12[8]", 1, 1, "No torch tensor holds it"),
        ("mxfp5[8, 64]", 1, 1, "Close to it: mxfp4"),
        ("f32[8], u9:g128[8, 8]", 1, 9, "Integers have 1 to 8 bits"),
        ("f32[8],\n u4 : g128 : fnord[8]", 2, 14, "Options are gN"),
        ("f32[8],\n u4:\n gg[8]", 3, 2, "Options are gN"),
        ("nf4:asym[8]", 1, 5, "Only u1 to u8 and i1 to i8 have zero points"),
        ("table(1, 0)[8]", 1, 1, "each above the one before"),
        ("table[8]", 1, 1, "A table has its numbers in parentheses"),
        ("u4[]", 1, 1, "a dimension along which groups run"),
        ("u4[8, 8; 8, 1]", 1, 10, "no strides of its own"),
        ("u4[8 < 3]", 1, 8, "Only integers have a bound"),
        ("f32[-1]", 1, 5, "A size is 0 or more"),
        ("f32[4; -1]", 1, 8, "A stride is 0 or more"),
        ("f32[4, 4; 1]", 1, 11, "a stride for each of the 2 sizes, got 1"),
        ("f32[4 < 3]", 1, 9, "Only integers have a bound"),
        ("i8[4 < 129]", 1, 8, "holds what is below it"),
        ("i8[4 < 0]", 1, 8, "at least 1"),
        ("a=1, 2", 1, 6, "come before those with a name"),
        ("a=1, a=2", 1, 6, "given twice"),
    ],
)
def test_errors_say_where_and_what_to_do(text, row, column, says):
    with pytest.raises(BadText) as caught:
        parse(text)
    assert (caught.value.parts["row"], caught.value.parts["column"]) == (row, column)
    assert says in str(caught.value)


PACKED = ["u3:g128", "u4", "u8:row", "i8:g16:bf16", "nf4:g64", "e2m1:g32", "e4m3:noscale", "mxfp4", "nvfp4", "mxint8",
          "ternary:g64", "u2:fzero:g8", "table(-1, -.5, 0, 1):g4:f32", "table(0,1)"]  # fmt: skip


@pytest.mark.parametrize("text", PACKED)
def test_packed_tensors(text):
    found = parse(f"{text}[N=3, K=70], f16[K]")
    format = formats.parse(text)
    assert found.args[0] == Tensor(f16, (3, 70), format=format)
    for (made, _), _ in (meta(found), materialise(found)):
        assert (made.format, tuple(made.shape), made.dtype, made.axis) == (format, (3, 70), torch.float16, 1)
        parts = {name: part for name, part in made.parts._asdict().items() if part is not None}
        assert {name: (part.dtype, tuple(part.shape)) for name, part in parts.items()} == part_types(format, (3,), 70)
    again, _ = materialise(found)
    assert torch.equal(made.data, again[0].data)
    assert len(made.data.unique()) > 1


@pytest.mark.parametrize(
    ("text", "kind"),
    [("u4[8]", f32), ("u4[8], i64[8], bool[2]", f32), ("u4[8], bf16[8], f16[8]", bf16),
     ("u4[8], x=[3, (f16[8], bf16[8])], y=f64[8]", f16), ("u4:bf16[8], u8[8]", f32)],
)  # fmt: skip
def test_what_is_packed_stands_for_the_first_floats(text, kind):
    assert parse(text).args[0].dtype is kind


def test_a_dtype_of_torch_alone_is_no_format():
    assert parse("u8[8], i8[8]").args == (Tensor(u8, (8,)), Tensor(i8, (8,)))


@given(st.text(alphabet="f3216i8bool[],;=<()B \n\"'-.e:", max_size=20))
@example("f32[")
@example("'")
@example("u8:")
@example("table()[2]")
def test_any_text_is_arguments_or_bad_text(text):
    try:
        parse(text)
    except BadText as error:
        assert "line 0" not in str(error)


def text_of(tensor: Tensor) -> str:
    strides = f"; {', '.join(map(str, tensor.strides))}" if tensor.strides else ""
    below = f" < {tensor.below}" if tensor.dtype.is_integer else ""
    return f"{tensor.dtype}[{', '.join(map(str, tensor.shape))}{strides}{below}]"


@st.composite
def tensors(draw) -> Tensor:
    kind = draw(st.sampled_from(STORED))
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
    strides = draw(st.none() | st.tuples(*[st.integers(0, 7)] * len(shape))) or None
    return Tensor(kind, shape, strides, draw(st.integers(1, 127)) if kind.is_integer else BELOW)


@given(tensors())
def test_tensors_have_the_layout_that_the_text_says(tensor):
    found = parse(text_of(tensor))
    assert found.args == (tensor,)
    strides = tensor.strides if tensor.strides is not None else torch.empty(tensor.shape).stride()
    for (made,), _ in (meta(found), materialise(found)):
        assert (dtype(made.dtype), tuple(made.shape), made.stride()) == (tensor.dtype, tensor.shape, tuple(strides))


def test_values_repeat_and_fit():
    found = parse("f16[100, 10], i64[1000 < 7], bool[100], x=[u8[1000]]")
    (x, ids, flags), keywords = materialise(found, seed=3)
    again, _ = materialise(found, seed=3)
    other, _ = materialise(found, seed=4)
    assert torch.equal(x, again[0])
    assert not torch.equal(x, other[0])
    assert abs(x.float().mean()) < 0.2
    assert 0.8 < x.float().std() < 1.2
    assert ids.unique().tolist() == list(range(7))
    assert flags.unique().tolist() == [False, True]
    assert keywords["x"][0].unique().tolist() == list(range(BELOW))


def test_names_of_sizes_by_parameter():
    def function(x, parts, *, mask=None): ...

    found = parse("f32[B=2, 4], [f32[4], f32[4, B]], mask=bool[B, T=3]")
    names = {("x", 0): "B", ("parts_1", 1): "B", ("mask", 0): "B", ("mask", 1): "T"}
    assert found.size_names(inspect.signature(function)) == names
    with pytest.raises(TypeError, match="missing"):
        parse("mask=1").size_names(inspect.signature(function))


def test_meta_has_no_memory():
    (x,), keywords = meta(parse("f32[1000000, 1000000], y=[f32[2], 3]"))
    assert x.device.type == keywords["y"][0].device.type == "meta"
    assert keywords["y"][1] == 3
