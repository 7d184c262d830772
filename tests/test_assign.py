"""x[key] = value: every key that indexing takes, against eager, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from fusedsl import fuse
from fusedsl.errors import BadArgument, DataDependent, DTypesDisagree, FuseError, InPlaceInput, ShapesDisagree
from fusedsl.interpret import interpret
from fusedsl.testing import assert_matches
from fusedsl.trace import trace

DTYPES = (torch.float32, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool)


def assigned(x: torch.Tensor, key: tuple, value: Any) -> torch.Tensor:
    h = x.clone()
    h[key] = value
    return h


def ours(x: torch.Tensor, key: tuple, value: Any) -> torch.Tensor:
    traced = trace(assigned, (x, key, value))
    bound = traced.bind((x, key, value), {})
    assert bound is not None
    return traced.rebuild(bound, interpret(traced.graph, bound.values, bound.sizes))


@st.composite
def cases(draw: st.DrawFn) -> tuple[torch.Tensor, tuple, Any]:
    """A tensor, a key for some of its dimensions, and a value that fits."""
    shape = draw(st.lists(st.sampled_from([1, 2, 3, 5, 0]), min_size=0, max_size=3))
    dtype = draw(st.sampled_from(DTYPES))
    torch.manual_seed(draw(st.integers(0, 1000)))
    x, key = (torch.rand(shape) * 9).to(dtype), [_part(draw, n) for n in shape]
    if draw(st.booleans()) and not _masked(key):
        key.insert(draw(st.integers(0, len(key))), None)
    if draw(st.booleans()):
        at = draw(st.integers(0, len(key)))
        key[at : draw(st.integers(at, len(key)))] = [Ellipsis]
    keys = tuple(key)
    if _masked(key) or draw(st.booleans()):
        return x, keys, draw(st.sampled_from([0, 3, 1.5, torch.tensor(2, dtype=dtype)]))
    place = x[keys].shape
    sizes = [1 if draw(st.booleans()) else n for n in place][draw(st.integers(0, len(place))) :]
    return x, keys, (torch.rand(sizes) * 9).to(dtype)


def _part(draw: st.DrawFn, n: int) -> Any:
    kinds = ["slice", "all", "mask"] + (["int", "tensor", "0-dim"] if n else [])
    kind = draw(st.sampled_from(kinds))
    if kind == "slice":
        return slice(draw(st.integers(-n, n)), draw(st.integers(-n, n + 1)), draw(st.sampled_from([None, 1, 2, 3])))
    if kind == "all":
        return slice(None)
    if kind == "mask":
        return torch.rand(n) > 0.5
    if kind == "int":
        return draw(st.integers(-n, n - 1))
    # each place once: where two values go to one, torch leaves open which stays
    places = torch.randperm(n)[: draw(st.integers(1, n))] - draw(st.sampled_from([0, n]))
    return places[0] if kind == "0-dim" else places


def _masked(key: Any) -> bool:
    return any(isinstance(k, torch.Tensor) and k.dtype is torch.bool for k in key)


@given(cases())
def test_what_is_assigned_is_eagers(case):
    x, key, value = case
    try:
        wanted = assigned(x, key, value)
    except (IndexError, RuntimeError):
        return  # index tensors that do not broadcast
    try:
        got = ours(x, key, value)
    except DataDependent:  # a mask beside other masks or indices
        assert _masked(key) and sum(isinstance(k, torch.Tensor) and k.ndim > 0 for k in key) > 1
        return
    assert (got.dtype, got.shape, got.stride()) == (wanted.dtype, wanted.shape, wanted.stride())
    assert torch.equal(got, wanted)


def _all_kinds(x, i, scale: float, n: int):
    h = x * 2
    h[1:, :-1] = scale
    h[:, 0] = n
    h[h > 1] = scale / 2
    h[x[:, 0] > 0, 1:] = h.amax()
    h[x.shape[0] - 1] = x.shape[1]
    h[::2, 1] = h[::2, 0]
    h[0] = h[0] + 1
    h[i, 1:] = x[0, 1:]
    h[:, torch.arange(2, device=x.device)] = 0.25
    return h


def test_kernels_assign_at_every_size():
    f, i = fuse(_all_kinds), torch.tensor(-1)
    for shape in ((3, 4), (5, 7), (64, 33), (1, 2)):
        for scale, n in ((0.7, 3), (1.7, -4)):
            assert_matches(f, (torch.randn(shape), i, scale, n))


@pytest.mark.parametrize("dtype", DTYPES)
def test_masks(dtype):
    x, nan = (torch.randn(5, 3) * 4).to(dtype), torch.tensor([float("nan"), 1, float("inf")])
    mask = torch.rand(5, 3) > 0.5

    def f(x, mask, row, one):
        a, b, c, d, e = x.clone(), x.clone(), x.clone(), x.clone(), x.clone()
        a[mask] = 1
        b[mask] = one
        c[mask[:, 0]] = row
        d.index_put_((mask,), row[:1])
        e[:, mask[0]] = x[:, :1]
        return a, b, c, d, e, x.masked_fill(mask, 1)

    row = nan.to(dtype) if dtype.is_floating_point else torch.arange(3).to(dtype)
    assert_matches(f, (x, mask, row, row[1]))
    assert_matches(f, (x, torch.zeros_like(mask), row, row[0]))


def _view_stays(x):
    h = x * 2
    row = h[0]
    h[1] = 1
    return row


def _spent(x):
    h = x * 2
    row = h[0]
    h[1] = row
    return h, row


def _of_a_view(x):
    h = x * 2
    h[0][1] = 1
    return h


def _to(value: Any, key: Any = 0):
    def f(x, m):
        h = x.clone()
        h[m if key is None else key] = value
        return h

    return f


X, BYTES, MASK = torch.randn(4, 3), torch.zeros(4, dtype=torch.uint8), torch.tensor([True, False, True, True])
REFUSED = {
    "as many values as a mask names": (lambda x, m, v: _to(v, None)(x, m), (X, MASK, torch.ones(3, 3)), DataDependent),
    "a mask beside an index": (lambda x, m, i: _to(1, (m, i))(x, m), (X, MASK, torch.tensor([0, 1, 2])), DataDependent),
    "a mask of another size": (_to(1, None), (X, MASK[:3]), ShapesDisagree),
    "too many values": (lambda x, v: _to(v)(x, None), (X, torch.ones(2, 3)), ShapesDisagree),
    "a number that a byte has not": (_to(300), (BYTES, MASK), BadArgument),
    "infinity among integers": (_to(float("inf"), None), (BYTES, MASK), BadArgument),
    "values of another dtype": (lambda x, i: _to(torch.ones(2), i)(x, i), (BYTES, torch.arange(2)), DTypesDisagree),
    "an index beyond the end": (lambda x: _to(1, 4)(x, None), (X,), BadArgument),
    "an input": (lambda x: x.__setitem__(0, 1), (X,), InPlaceInput),
    "while a view is kept": (_view_stays, (X,), InPlaceInput),
    "a view that was assigned is used again": (_spent, (X,), InPlaceInput),
    "to a view": (_of_a_view, (X,), InPlaceInput),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    function, args, kind = REFUSED[name]
    with pytest.raises(kind) as caught:
        fuse(function)(*args)
    assert isinstance(caught.value, FuseError) and caught.value.line is not None


def test_a_number_to_pad_with_is_one_of_the_dtype():
    """torch converts it as a float, and refuses what overflows."""
    for dtype, value in ((torch.uint8, 300), (torch.uint8, -1), (torch.int8, 200), (torch.int64, torch.inf),
                         (torch.int32, torch.nan), (torch.float16, 1e6)):  # fmt: skip
        x = torch.zeros(3).to(dtype)
        with pytest.raises(RuntimeError):
            F.pad(x, (1, 1), value=value)
        with pytest.raises(BadArgument, match="value must be a number that"):
            fuse(lambda x, value=value: F.pad(x, (1, 1), value=value))(x)
    for dtype, value in ((torch.uint8, 255), (torch.int8, -128), (torch.uint8, 1.5), (torch.float16, torch.inf),
                         (torch.bool, 2), (torch.float8_e5m2, 1.5)):  # fmt: skip
        x = torch.ones(3).to(dtype)
        padded = fuse(lambda x, value=value: F.pad(x, (1, 1), value=value).float())(x)
        edge = torch.tensor([value]).to(dtype)
        assert torch.equal(padded, torch.cat([edge, x, edge]).float())
