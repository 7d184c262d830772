"""Writing at indices: the same as torch's, every time, and the last one where torch leaves it open."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from fusedsl import fuse
from fusedsl.errors import DataDependent, DTypesDisagree, ShapesDisagree
from tests.identical import assert_identical

DTYPES = [torch.float32, torch.float64, torch.float16, torch.int64, torch.int8, torch.uint8, torch.bool]


@given(index=st.lists(st.integers(0, 4), max_size=7), dtype=st.sampled_from(DTYPES), dim=st.sampled_from([0, 1]))
@example([1, 1, 1], torch.float32, 0)
@example([], torch.float32, 1)
def test_the_last_of_several_is_written(index, dtype, dim):
    x, src = torch.full((5, 5), -0.0).to(dtype), torch.arange(1, 36).reshape(7, 5).to(dtype)
    index = torch.tensor(index, dtype=torch.int64)
    part = src[: len(index)] if dim == 0 else src[: len(index)].T
    wanted = x.clone()
    for at, place in enumerate(index.tolist()):
        wanted.select(dim, place).copy_(part.select(dim, at))
    whole = index[:, None].expand(-1, 5) if dim == 0 else index.expand(5, -1)
    assert_identical(fuse(lambda x, i, s: x.scatter(dim, i, s))(x, whole, part), wanted)
    assert_identical(fuse(lambda x, i, s: x.index_copy(dim, i, s))(x, index, part), wanted)
    assert_identical(fuse(lambda x, i: x.index_fill(dim, i, 1))(x, index), x.index_fill(dim, index, 1))


@given(
    index=st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=1, max_size=6),
    dtype=st.sampled_from([*DTYPES, torch.bfloat16]),
    reduce=st.sampled_from(["sum", "prod", "mean", "amax", "amin"]),
    include_self=st.booleans(),
)
def test_what_is_combined(index, dtype, reduce, include_self):
    index = torch.tensor(index)
    x, src = torch.randint(-3, 4, (4, 5)).to(dtype), torch.randint(-3, 4, (8, 3)).to(dtype)
    if dtype is torch.bool and reduce == "mean":
        return  # torch divides no bools

    def f(x, index, src):
        return torch.scatter_reduce(x, 0, index, src, reduce, include_self=include_self)

    torch.testing.assert_close(fuse(f)(x, index, src), f(x, index, src))
    found = fuse(lambda x, i, s: x.scatter_add(0, i, s))(x, index, src)
    torch.testing.assert_close(found, x.scatter_add(0, index, src))


def test_places_of_several_indices():
    x, i, j = torch.randn(4, 5, 3), torch.tensor([1, -1, 1, 0]), torch.tensor([[0], [2]])
    for text in (
        "x.index_put((i,), torch.ones(4, 5, 3), accumulate=True)", "x.index_put((i, j), x[0, 0, 0], accumulate=True)",
        "x.index_put((j, i[:2], j), x[0, 0, 0])",
        "x.index_put((x > 0,), torch.tensor(2.0))", "x.put(j, torch.tensor([[1.0], [2.0]]))",
        "x.put(j, torch.tensor([[1.0], [2.0]]), accumulate=True)", "x.index_add(1, i.abs(), x[:, :4], alpha=2)",
        "x.scatter(1, j[None], 2.0)", "x.scatter(0, j[None], 2.0, reduce='add')",
        "x.masked_scatter(x > 0, x * 2)", "x.select_scatter(x[0], 0, -1)", "x.slice_scatter(x[:, :2], 1, 1, None, 2)",
        "torch.slice_scatter(x, x[:, 1:3], 1, -4, 3)", "x.diagonal_scatter(x[:, 0, :3].T, 1, 0, 1)",
    ):  # fmt: skip
        f = eval(f"lambda x, i, j: {text}", {"torch": torch})
        torch.testing.assert_close(fuse(f)(x, i, j), f(x, i, j), msg=lambda why, text=text: f"{text}: {why}")


@pytest.mark.parametrize("text, error", {
    "x.scatter(0, x, x)": DTypesDisagree, "x.scatter(0, i, i)": DTypesDisagree, "x.scatter(0, i[0], x)": ShapesDisagree,
    "x.index_put((x > 0,), x)": DataDependent, "x.index_add(0, i[0], x[:1])": ShapesDisagree,
    "x.select_scatter(x, 0, 0)": ShapesDisagree,
}.items())  # fmt: skip
def test_what_cannot_be_is_refused(text, error):
    x, i = torch.randn(3, 3), torch.zeros(3, 3, dtype=torch.int64)
    with pytest.raises(error):
        fuse(eval(f"lambda x, i: {text}"))(x, i)
