"""Contractions: every form in which torch has them, beside eager and float64, and what is fused around them."""

from __future__ import annotations

import math
from typing import Any

import hypothesis
import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st

from fusedsl import fuse
from fusedsl.codegen.inspect import TARGETS
from fusedsl.contractions import CONTRACTIONS
from fusedsl.passes.decompose import decompose
from fusedsl.runtime import counters
from fusedsl.testing import assert_launches, assert_matches
from fusedsl.workloads import Workload
from tests.tensors import LAYOUTS

FEW = hypothesis.settings(max_examples=max(1, hypothesis.settings().max_examples // 13))  # for each of some 100 forms
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
DTYPES = (*FLOATS, torch.int64, torch.int32, torch.uint8)
SIZES = {"x": (2, 1, 3, 0), "y": (2, 1), "i": (3, 1, 5), "j": (4, 1, 0), "1": (1,)}
MORE_SIZES = (5, 3, 1, 2, 7, 17, 33, 0)

# A call, and the dimensions of a, b, c, d: letters are sizes, 1 is itself, a dot is no dimension.
FORMS = {
    "products": """
        a @ b: mk kn; a @ b: k k; a @ b: mk k; a @ b: k kn; torch.matmul(a, b): xmk xkn; a.matmul(b): xmk kn;
        torch.matmul(input=a, other=b): mk xkn; a @ b: yxmk 1kn; a @ b: 1mk xkn; a @ b: xmk k; a @ b: k xkn;
        a @ b: ymk yxkn; torch.linalg.matmul(a, b): x1mk ykn; a.__matmul__(b): mk kn; a @ b.T: mk nk; a.mT @ b: xkm xkn;
        torch.mm(a, b): mk kn; a.mm(b): mk kn; torch.mm(input=a, mat2=b): mk kn; a.t().mm(b): km kn;
        torch.bmm(a, b): xmk xkn; a.bmm(mat2=b): xmk xkn; torch.mv(a, b): mk k; a.mv(vec=b): mk k; torch.dot(a, b): k k;
        a.dot(tensor=b): k k; torch.vdot(a, b): k k; a.vdot(other=b): k k; torch.outer(a, b): m n; a.outer(vec2=b): m n;
        torch.ger(a, b): m n; torch.inner(a, b): mk xnk; a.inner(b): k k; a.inner(other=b): mk k;
        torch.inner(a, b): . mk; torch.inner(a, b): xk .""",
    "layers": """
        F.linear(a, b): mk nk; F.linear(a, b, c): xmk nk n; F.linear(a, b, bias=c): k nk n; F.linear(a, b): xmk k;
        F.linear(input=a, weight=b, bias=c): yxmk nk n; F.linear(a, b, c): mk nk m1; F.linear(a, b, c): mk nk .;
        F.bilinear(a, b, c): mi mj nij; F.bilinear(a, b, c, d): xmi xmj nij n; F.bilinear(a, b, c, bias=d): i j nij n;
        F.bilinear(input1=a, input2=b, weight=c): mi mj nij""",
    "sums with products": """
        torch.addmm(a, b, c): mn mk kn; torch.addmm(a, b, c, beta=0.5, alpha=2): n mk kn;
        a.addmm(b, c, beta=0): m1 mk kn; torch.addmm(input=a, mat1=b, mat2=c, alpha=3): . mk kn;
        a.clone().addmm_(b, c, beta=2): mn mk kn; torch.addmv(a, b, c): m mk k; a.addmv(b, c, alpha=3, beta=0): m mk k;
        a.addmv(mat=b, vec=c, beta=-1.5): m mk k; torch.addbmm(a, b, c): mn xmk xkn;
        a.addbmm(batch1=b, batch2=c, beta=0.5): 1n xmk xkn; torch.addbmm(a, b, c, alpha=0.25, beta=0): . xmk xkn;
        torch.baddbmm(a, b, c): xmn xmk xkn; torch.baddbmm(a, b, c, alpha=0.25, beta=2): mn xmk xkn;
        a.baddbmm(batch1=b, batch2=c, beta=0): 1mn xmk xkn; a.clone().baddbmm_(b, c, alpha=-2): xmn xmk xkn;
        torch.addr(a, b, c): mn m n; a.addr(b, vec2=c, beta=3, alpha=2): 1n m n""",
    "equations": """
        torch.einsum("ij,jk->ik", a, b): mk kn; torch.einsum("mk , kn", a, b): mk kn;
        torch.einsum("ij,jk->ki", a, b): mk kn; torch.einsum("bij,bjk->bik", [a, b]): xmk xkn;
        torch.einsum(a, [0, 1], b, [1, 2], [0, 2]): mk kn; torch.einsum(a, [..., 1, 0], b, [..., 0, 2]): xmk kn;
        torch.einsum("...ij,...jk->...ik", a, b): yxmk 1kn; torch.einsum("i...,i...->...", a, b): kx kx;
        torch.einsum("...i,...i", a, b): xk y1k; torch.einsum("bhid,bhjd->bhij", a, b): yxmi yxji;
        torch.einsum("bhid,bhjd->bijh", a, b): yxmi yxji; torch.einsum("ij,ij->", a, b): mk mk;
        torch.einsum("ij,ij->j", a, b): mk mk; torch.einsum("ij,kj->", a, b): mk nk;
        torch.einsum("ii,ij->j", a, b): kk kn; torch.einsum("iij,jk->ki", a, b): iik kn; torch.einsum("ii", a): kk;
        torch.einsum("ij->j", a): mk; torch.einsum("Ba,aB", a, b): mk km; torch.einsum("i,j->ij", a, b): m n;
        torch.einsum("ij,jk,kl->il", a, b, c): mi ij jn; torch.einsum("i,ij,j", a, b, c): m mk k;
        torch.einsum("ij,ik,il->jkl", a, b, c): ki kj kx; torch.einsum("ij,jk,kl,lm->im", a, b, c, d): xi ij jy yn;
        torch.einsum("ij,jk", a, b): m1 kn; torch.einsum("ij,k->ik", a, b): mk n; torch.einsum("ij,->...j", a, b): mk .;
        torch.einsum(",i->i", a, b): . m""",
    "lists of dimensions": """
        torch.tensordot(a, b): ymk mkn; torch.tensordot(a, b, 1): xmk kn; torch.tensordot(a, b, dims=0): m n;
        torch.tensordot(a, b, ([1], [0])): mk kn; torch.tensordot(a, b, dims=([0, 2], [1, 0])): imk kix;
        torch.tensordot(a, b, ([-1], [-1])): mk nk; torch.tensordot(a, b, ((0, 1), (0, 1))): mk mk;
        torch.tensordot(a, b, 1): m1 kn""",
    "chains": """
        torch.chain_matmul(a, b, c): mk ki ij; torch.chain_matmul(a): mk; torch.linalg.multi_dot([a, b]): mk kn;
        torch.linalg.multi_dot((a, b, c)): k ki ij; torch.linalg.multi_dot([a, b, c, d]): mk ki ij j;
        torch.linalg.multi_dot([a, b, c]): k ki i; torch.linalg.multi_dot([a, b, c, d]): 1k ki i1 1n;
        a @ b @ c @ d: xi ij jy yn""",
}  # fmt: skip
OF_FLOATS = """
    torch.linalg.vecdot(a, b): k k; torch.linalg.vecdot(a, b): mk xmk; torch.linalg.vecdot(a, b, dim=0): mk mk;
    torch.linalg.vecdot(a, b, dim=-2): xkn kn; torch.linalg.vecdot(x=a, y=b, dim=0): mk k;
    torch.linalg.vecdot(a, b): . .; torch.linalg.vecdot(a, b): m1k nk"""


def listed(text: str) -> list[tuple[str, str]]:
    """Calls, and the dimensions of what they are called with."""
    pairs = (form.rpartition(":") for form in text.split(";"))
    return [(" ".join(call.split()), dims.strip()) for call, _, dims in pairs]


def called(text: str, operands: int) -> Any:
    """The function of so many operands that makes this call."""
    names = ", ".join("abcd"[:operands])
    return eval(f"lambda {names}: {text}", {"torch": torch, "F": F})


@st.composite
def operands(draw: st.DrawFn, dims: str, dtypes: tuple[torch.dtype, ...]) -> list[torch.Tensor]:
    """Tensors of one dtype with these dimensions, laid out in any way; one of them may hold a NaN or an infinity."""
    dtype = draw(st.sampled_from(dtypes))
    letters = sorted({*dims} - {*" ."})
    sizes = {letter: draw(st.sampled_from(SIZES.get(letter, MORE_SIZES))) for letter in letters}
    shapes = [[sizes[letter] for letter in term if letter != "."] for term in dims.split()]
    values = [numbers(shape, dtype) for shape in shapes]
    edge = draw(st.sampled_from([None, None, math.nan, math.inf, -math.inf])) if dtype.is_floating_point else None
    at = draw(st.integers(0, len(values) - 1))
    if edge is not None and values[at].numel():
        values[at].view(-1)[draw(st.integers(0, values[at].numel() - 1))] = edge
    return [draw(st.sampled_from(LAYOUTS))(each) for each in values]


def numbers(shape: list[int], dtype: torch.dtype) -> torch.Tensor:
    """Whole numbers, or quarters: a sum of their products has one value in whatever order."""
    whole = torch.randint(-9, 10, shape)
    return (whole / 4).to(dtype) if dtype.is_floating_point else whole.to(dtype)


def assert_agrees(function: Any, args: list[torch.Tensor]) -> None:
    """A call gives what eager gives, if it gives anything: of no elements or of integers some calls are refused."""
    try:
        function(*args)
    except RuntimeError:
        hypothesis.reject()
    assert_matches(function, args)


# ---- every form of call ----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's: chain_matmul is deprecated
@pytest.mark.parametrize("text, dims", [form for kind in FORMS.values() for form in listed(kind)])
@hypothesis.given(data=st.data())
@FEW
def test_a_form_of_call(text: str, dims: str, data: st.DataObject) -> None:
    assert_agrees(called(text, len(dims.split())), data.draw(operands(dims, DTYPES)))


@pytest.mark.parametrize("text, dims", listed(OF_FLOATS))
@hypothesis.given(data=st.data())
@FEW
def test_a_form_of_call_on_floats(text: str, dims: str, data: st.DataObject) -> None:
    assert_agrees(called(text, len(dims.split())), data.draw(operands(dims, FLOATS)))


@st.composite
def equations(draw: st.DrawFn) -> tuple[str, list[torch.Tensor]]:
    """An equation of up to three operands, with a letter twice, a size of 1 and three dots here and there."""
    sizes = {letter: draw(st.sampled_from([3, 2, 5])) for letter in "abCd"}
    rest = draw(st.lists(st.sampled_from([2, 3]), max_size=2))
    terms, shapes = [], []
    for _ in range(draw(st.integers(1, 3))):
        letters = draw(st.lists(st.sampled_from("abCd"), max_size=3))
        widths = {letter: draw(st.sampled_from([sizes[letter]] * 3 + [1])) for letter in letters}
        own = draw(st.sampled_from([None, rest, rest[1:], [1] * len(rest)]))
        at = draw(st.integers(0, len(letters)))
        shape = [widths[letter] for letter in letters]
        terms.append("".join(letters) if own is None else "".join([*letters[:at], "...", *letters[at:]]))
        shapes.append(shape if own is None else [*shape[:at], *own, *shape[at:]])
    equation = ",".join(terms)
    if draw(st.booleans()):
        kept = draw(st.lists(st.sampled_from([*"abCd"]), unique=True))
        kept = [letter for letter in kept if letter in equation]
        equation += "->" + "".join([*(["..."] if draw(st.booleans()) else []), *kept])
    dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.int64, torch.int32]))
    return equation, [numbers(shape, dtype) for shape in shapes]


@hypothesis.given(case=equations())
def test_an_equation(case: tuple[str, list[torch.Tensor]]) -> None:
    equation, tensors = case
    assert_agrees(lambda *tensors: torch.einsum(equation, *tensors), tensors)


def test_bools_have_views_and_sums_but_no_products() -> None:
    x = torch.rand(4, 4) > 0.5
    for equation in ("ij->ji", "ii->i", "ij->i", "ij,kl->ik", "i,j->ij"):
        given = [x[0], x[1]] if equation == "i,j->ij" else [x] * (1 + equation.count(","))
        assert_matches(lambda *tensors, equation=equation: torch.einsum(equation, *tensors), given)
    assert_matches(lambda x: torch.outer(x[0], x[1]), (x,))


def test_vectors_and_numbers_of_two_dtypes() -> None:
    """Where nothing is summed, dtypes are brought together as in a product of elements."""
    a, b = torch.randn(3), torch.randn(4).double()
    assert_matches(lambda a, b: (torch.outer(a, b), torch.einsum("i,j->ij", a, b), torch.inner(a, b[0])), (a, b))


def test_layers_of_modules() -> None:
    first = torch.nn.Sequential(torch.nn.Linear(9, 7), torch.nn.GELU(), torch.nn.Linear(7, 5, bias=False))
    assert_matches(first.requires_grad_(False), (torch.randn(3, 9),))
    second = torch.nn.Bilinear(4, 3, 5).requires_grad_(False)
    assert_matches(second, (torch.randn(2, 4), torch.randn(2, 3)))


# ---- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
def test_what_is_not_finite_shows_where_it_does_in_torch(dtype: torch.dtype) -> None:
    """Also beside the edges of tiles, where an operand is padded with zeros."""
    for m, k, n in ((17, 33, 5), (1, 3, 40)):
        for edge in (math.nan, math.inf, -math.inf):
            a, b, bias = numbers([m, k], dtype), numbers([k, n], dtype), numbers([n], dtype)
            a[m // 2, k - 1] = b[0, n - 1] = bias[1] = edge
            assert_matches(lambda a, b: a @ b, (a, b))
            assert_matches(lambda a, b, bias: torch.addmm(bias, a, b), (a, b, bias))
            assert_matches(lambda a, b, bias: torch.addmm(bias, a, b, beta=0), (a, b, bias))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("m, k, n", [(64, 200, 48), (130, 33, 70)])
def test_sums_are_as_near_to_float64_as_eagers(m: int, k: int, n: int, dtype: torch.dtype) -> None:
    a, b = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype)
    assert_matches(lambda a, b: (a @ b, a @ b[:, 0], a[0] @ b, F.linear(a, b.T, b[0])), (a, b))
    assert_matches(lambda a, b: F.rms_norm(a, a.shape[-1:]) @ b, (a, b))


def test_long_sums() -> None:
    assert_matches(lambda a, b: a @ b, (torch.randn(64, 4096), torch.randn(4096, 48)))


def test_integers_wrap_around() -> None:
    a = torch.tensor([[2**31 - 1, 7], [-(2**31), 3]], dtype=torch.int32)
    assert_matches(lambda a: (a @ a, a[0].dot(a[1]), torch.einsum("ij,ij->", a, a)), (a,))
    u = torch.tensor([[250, 3], [99, 255]], dtype=torch.uint8)
    assert_matches(lambda u: (u @ u, torch.addmm(u, u, u, beta=3, alpha=2), u.tensor_split(2)[0] @ u), (u,))
    assert_matches(lambda a: torch.addmm(a, a, a, beta=1.9, alpha=-2.7), (a,))


def precisions(function: Any, *args: Any) -> set[str]:
    """What the factors of the contractions in a call are rounded to."""
    nodes = decompose(fuse(function).graph(*args)).nodes
    return {node["precision"] for node in nodes if node.op.name == "sum_products"}


def test_torchs_setting_says_how_f32_is_multiplied() -> None:
    x = torch.randn(4, 4)
    assert precisions(lambda x: x @ x, x) == {"f32"}
    torch.set_float32_matmul_precision("high")
    try:
        assert precisions(lambda x: (x @ x, torch.einsum("ij,kj", x, x), F.linear(x, x[0])), x) == {"tf32"}
        assert precisions(lambda x: x @ x, x.half()) == {"f16"} and precisions(lambda x: x @ x, x.double()) == {"f64"}
        assert_matches(lambda x: x @ x, (x,))  # on this CPU
    finally:
        torch.set_float32_matmul_precision("highest")


def test_another_setting_is_another_trace() -> None:
    """Of what multiplies f32, and of nothing else; a setting that was there before has its trace."""
    x = torch.randn(4, 4)
    calls = [(fuse(lambda x: x @ x), x, 2), (fuse(lambda x: x @ x), x.double(), 1), (fuse(lambda x: x * x), x, 1)]
    for function, given, traces in calls:
        before = counters.traces
        try:
            for setting in ("highest", "high", "medium", "highest"):
                torch.set_float32_matmul_precision(setting)
                function(given)
        finally:
            torch.set_float32_matmul_precision("highest")
        assert counters.traces - before == traces


# ---- launches --------------------------------------------------------------------------------------------------------

CHAINS = {
    "a product, its bias, an activation and a residual": (lambda x, w, b, r: F.gelu(x @ w + b) + r, "mk kn n mn"),
    "a layer and what follows": (lambda x, w, b, r: F.gelu(F.linear(x, w, b)) + r, "mk nk n mn"),
    "a norm before a product": (lambda x, g, w: F.rms_norm(x, x.shape[-1:], g) @ w, "mk k kn"),
    "two products of one operand": (lambda x, a, b: F.silu(x @ a) * (x @ b), "mk kn kn"),
    "the softmax of a product": (lambda x, w: torch.softmax(x @ w, -1), "mk kn"),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_around_products_is_one_launch(name: str) -> None:
    f, dims = CHAINS[name]
    for m, k, n, dtype in ((3, 5, 7, torch.float32), (37, 65, 48, torch.float16)):
        sizes = {"m": m, "k": k, "n": n}
        given = [numbers([sizes[letter] for letter in term], dtype) for term in dims.split()]
        assert_launches(f, given, 1)
        assert_matches(f, given)
    sizes = {"m": 4096, "k": 4096, "n": 128}
    large = [torch.empty([sizes[c] for c in term], dtype=torch.bfloat16, device="meta") for term in dims.split()]
    assert_launches(f, large, 1)


BATCHES = {
    "beside a vector": (lambda a, b, x: (a @ b, x.exp()), "imk ikn n"),
    "two beside a vector": (lambda a, b, x: (a @ b, x.exp()), "jimk jikn n"),
    "a softmax over the batch": (lambda a, b: torch.softmax(a @ b, 0), "imk ikn"),
    "a norm over all": (lambda a, b: F.rms_norm(a @ b, (*a.shape[:2], b.shape[2])), "imk ikn"),
    "after the rows": (lambda a, b, x: (torch.einsum("mik,kin->mni", a, b), x.exp()), "mik kin n"),
}


@pytest.mark.parametrize("name", BATCHES)
def test_batches_that_one_program_would_have_to_hold(name: str) -> None:
    f, dims = BATCHES[name]
    sizes = {"i": 3, "j": 2, "m": 4, "k": 5, "n": 7}
    assert_matches(f, [numbers([sizes[letter] for letter in term], torch.float32) for term in dims.split()])


@hypothesis.given(data=st.data())
@hypothesis.settings(max_examples=max(1, hypothesis.settings().max_examples // 3))
def test_a_chain_around_products_keeps_its_meaning(data: st.DataObject) -> None:
    f, dims = CHAINS[data.draw(st.sampled_from(sorted(CHAINS)))]
    given = data.draw(operands(dims, FLOATS))
    assert_matches(f, given)


def layers(x, up, down):
    """As in a model, each layer beside what it was given."""
    for a, b in zip(up, down, strict=True):
        x = x + F.gelu(F.rms_norm(x, (x.shape[-1],)) @ a) @ b
    return x


@pytest.mark.parametrize("width, hidden, launches", [(64, 128, 1), (600, 900, 4)])
def test_layers(width, hidden, launches):
    """Narrow enough, a row stays in a program for all of them; else none is computed again for a tile of the next."""
    up = [torch.randn(width, hidden) * 0.05 for _ in range(2)]
    down = [torch.randn(hidden, width) * 0.05 for _ in range(2)]
    args = (torch.randn(70, width), up, down)
    assert fuse(layers).plan(*args).launches == launches
    assert_matches(layers, args)


def test_many_layers_are_planned_in_bounded_pieces():
    up, down = ([torch.empty(*shape, device="meta")] * 8 for shape in ((1024, 4096), (4096, 1024)))
    plan = fuse(layers).plan(torch.empty(512, 1024, device="meta"), up, down)
    assert plan.launches == 16
    assert plan.compulsory_bytes <= plan.bytes


@pytest.mark.parametrize("name", ["interleaved", "rotary", "in two tensors"])
def test_products_of_what_is_chosen_place_by_place(name: str) -> None:
    """A choice that comes again all along the axis is no cut of it; one at a place is."""
    if name == "in two tensors":
        f, args = lambda x, v, w: x @ torch.cat([v, w]), (torch.randn(9, 300), torch.randn(100, 7), torch.randn(200, 7))
    elif name == "interleaved":
        f = lambda x, y, w: torch.stack([x, y], -1).flatten(-2) @ w
        args = torch.randn(9, 300), torch.randn(9, 300), torch.randn(600)
    else:
        f, args = _turned, (torch.randn(33, 512), torch.randn(33, 256), torch.randn(33, 256), torch.randn(40, 512))
    assert_launches(f, args, 1)
    assert_matches(f, args)
    (kernel,) = fuse(f).plan(*args).kernels
    assert kernel.source.count("tl.load(") <= 16


def _turned(x, cos, sin, w):
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2) @ w.mT


def test_products_with_what_stays_the_same_in_each_part() -> None:
    places = lambda x: torch.arange(16).repeat_interleave(16).float() @ x.repeat_interleave(16, 0)
    assert_matches(places, (torch.randn(16, 5),))
    assert_matches(places, (torch.randn(16),))


def test_the_mean_of_the_losses_of_many_rows_of_a_product():
    """Loops over rows, over classes in each round, and over what is summed in each of those: of two that sum over the
    same axis, one has a score of each class and the other has not."""

    @fuse
    def loss(x, weight, target):
        return F.cross_entropy(x @ weight.T, target)

    x, weight = torch.randn(40000, 600).bfloat16(), torch.randn(1030, 600).bfloat16()
    target = torch.randint(0, 1030, (40000,))
    assert_launches(loss, (x, weight, target), 1)
    assert_matches(loss, (x, weight, target))


@pytest.mark.parametrize("workload", CONTRACTIONS, ids=lambda workload: workload.name)
def test_a_benchmarked_chain(workload: Workload) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        assert_matches(workload.function, workload.args(dtype, "cpu", small=True))
    assert_launches(fuse(workload.function), workload.args(torch.bfloat16), workload.launches)


@pytest.mark.slow
@pytest.mark.sample
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
@pytest.mark.parametrize("workload", CONTRACTIONS, ids=lambda workload: workload.name)
def test_a_benchmarked_chain_compiles_without_spills(workload: Workload, dtype: torch.dtype, target: str) -> None:
    compiled = fuse(workload.function).plan(*workload.args(dtype)).compile(target)
    assert len(compiled) == workload.launches and not any(kernel.spills for kernel in compiled)
