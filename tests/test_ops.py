"""Every op against torch: types, values, index maps and Triton texts, drawn for whatever is declared."""

from __future__ import annotations

import importlib.util
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch.utils._pytree import tree_leaves

from fusedsl import ops
from fusedsl.codegen.interpreter import launch
from fusedsl.codegen.triton import NATIVE_F8
from fusedsl.errors import (
    BadArgument,
    DataDependent,
    DimOutOfRange,
    DTypesDisagree,
    FuseError,
    InPlaceInput,
    ShapesDisagree,
    UnknownFunction,
)
from fusedsl.index import Index, Symbol, Variable, evaluate, poly, replace
from fusedsl.interpret import Machine, interpret
from fusedsl.ir import OPS, SPELLINGS, Graph, Node, Op, build, intern, topological
from fusedsl.ops.helpers import HELPERS, filled
from fusedsl.trace import trace
from fusedsl.types import STORED, DType, Type, dtype
from tests.builder import Builder, Limits, Refused
from tests.choices import Hypothesis
from tests.op_calls import CALLS
from tests.strategies import NOT_DRAWN
from tests.tensors import fill

DRAWN = [name for name in OPS if name not in NOT_DRAWN]
TORCH_REFUSES = (RuntimeError, TypeError, NotImplementedError, IndexError, ValueError, ZeroDivisionError,
                 AttributeError)  # fmt: skip
FEW = hypothesis.settings(max_examples=hypothesis.settings().max_examples // 3)  # for each of some 200 ops
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, about its own functions


class Call:
    """An op and arguments for it: nodes that are inputs, numbers, attributes."""

    def __init__(self, draw: st.DrawFn, op: Op, limits: Limits) -> None:
        self.op = op
        self.builder = builder = Builder(Hypothesis(draw), limits)
        if limits.symbols:
            builder.sizes = {"n": builder.source.integer(2, 5), "m": builder.source.integer(2, 4)}
        self.arguments = CALLS[op.name](builder, op) if op.name in CALLS else builder.arguments(op)

    def __repr__(self) -> str:
        return f"{self.op.name}({', '.join(f'{k}={v!r}' for k, v in self.arguments.items())}) of {self.builder.inputs}"

    def value(self, argument: Any) -> Any:
        """What torch is called with."""
        if isinstance(argument, Node):
            machine = Machine(self.builder.sizes)
            for node in topological([argument], self.builder.values):
                self.builder.values[node] = machine.run(node, [self.builder.values[a] for a in node.inputs])
            value = self.builder.values[argument]
            return value if argument.type.weak else machine.tensor(value, argument)
        if isinstance(argument, (list, tuple)):
            return type(argument)(map(self.value, argument))
        return argument.torch if isinstance(argument, DType) else self.number(argument)

    def number(self, size: Any) -> Any:
        return size if isinstance(size, (int, float, str, type(None))) else evaluate(size, self.builder.sizes)

    def reference(self) -> Any:
        return self.op.reference(**{key: self.value(argument) for key, argument in self.arguments.items()})

    def nodes(self) -> tuple[Node, ...]:
        made = build(self.op, (), self.arguments)
        return made if isinstance(made, tuple) else (made,)

    def run(self, nodes: Sequence[Node], **options: Any) -> list[torch.Tensor]:
        inputs = self.builder.inputs
        return interpret(Graph(tuple(inputs), tuple(nodes)), list(inputs.values()), self.builder.sizes, **options)

    def shape(self, node: Node) -> list[int]:
        return [self.number(n) for n in node.shape]


@st.composite
def calls(draw: st.DrawFn, op: Op, **limits: Any) -> Call | None:
    try:
        return Call(draw, op, Limits(**{"symbols": False, "edges": False, "strides": False, **limits}))
    except (Refused, FuseError):
        return None


def both(call: Call | None) -> list[tuple[Call, Node, torch.Tensor]]:
    """What a call is and what torch makes of it, result by result; nothing where torch refuses. Where we refuse, torch
    must too, but for integers where floats are meant, which some of its functions take and others do not."""
    if call is None:
        return []
    try:
        expected = call.reference()
    except TORCH_REFUSES:
        return []
    try:
        nodes = call.nodes()
    except (ShapesDisagree, BadArgument):
        assert call.builder.sizes  # the tracer tries again with numbers
        return []
    except DTypesDisagree:
        operands = [a for a in call.arguments.values() if isinstance(a, Node)]
        assert call.op.name in ("retype", "integer_quotient") or not all(a.dtype.is_float for a in operands)
        return []
    values = expected if isinstance(expected, tuple) else (expected,)
    return [(call, node, value) for node, value in zip(nodes, values, strict=True)]


@pytest.mark.parametrize("name", DRAWN)
@hypothesis.given(data=st.data())
@FEW
def test_types_are_torchs(name: str, data: st.DataObject) -> None:
    for call, node, value in both(data.draw(calls(OPS[name]))):
        assert (node.dtype, call.shape(node)) == (dtype(value.dtype), list(value.shape))


TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}


@pytest.mark.parametrize("name", [n for n in DRAWN if OPS[n].kind == "composition"])
@hypothesis.given(data=st.data())
@FEW
def test_an_expansion_is_what_it_stands_for(name: str, data: st.DataObject) -> None:
    edges = data.draw(st.booleans()) and name != "batch_norm"  # whose devices multiply by an inf in different orders
    call = data.draw(calls(OPS[name], dtypes=("f64", "bool") if edges else ("f64", "i64", "bool"), edges=edges))
    if call is not None and "dtype" in call.arguments and OPS[name].signature.parameters["dtype"].default is None:
        call.arguments["dtype"] = None  # in f64 a narrower one would round nothing
    for values in call.builder.inputs.values() if call is not None else ():
        if isinstance(values, torch.Tensor) and values.is_floating_point():
            values[values.isfinite() & (values.abs() > 1e100)] = 1e3  # what overflows on the way is nobody's promise
    for made, node, value in both(call):
        (result,) = made.run([node], dtype=torch.float64)
        close = TOLERANCE.get(value.dtype, 0)
        torch.testing.assert_close(result, value.to(result.dtype), rtol=close, atol=close, equal_nan=True)


# ---- index maps ------------------------------------------------------------------------------------------------------


class Numbers:
    """The context of a lowering in which indices are numbers and an expression is the value itself. What is read where
    no load may happen is None, and must never be chosen."""

    def __init__(self, call: Call) -> None:
        self.call = call

    def at(self, node: Node, index: Sequence[Index], when: bool | None = None) -> Any:
        if when is False:
            return None
        value = torch.as_tensor(self.call.value(node))
        place = [self.call.number(i) for i in index]
        inside = len(place) == value.ndim and all(0 <= i < n for i, n in zip(place, value.shape, strict=True))
        assert inside, f"{place} of a tensor of shape {list(value.shape)}"
        return value[tuple(place)].item()

    def index(self, node: Node, index: Sequence[Index], below: Index) -> int:
        place = self.at(node, index)
        assert 0 <= place < self.call.number(below)
        return place

    def less(self, a: Index, b: Index) -> bool:
        return self.call.number(a) < self.call.number(b)

    def both(self, p: bool, q: bool) -> bool:
        return p and q

    def select(self, condition: bool, a: Any, b: Any) -> Any:
        chosen = a if condition else b
        assert chosen is not None, "chose what was not loaded"
        return chosen

    def number(self, index: Index, dtype: DType) -> int:
        return self.call.number(index)

    def constant(self, value: Any, dtype: DType) -> Any:
        return value


def element(call: Call, node: Node, index: tuple[int, ...]) -> Any:
    """An element of a view or of an indexed op, by its own rule."""
    context = Numbers(call)
    if node.op.lower is not None:
        return node.op.lower(context, node, index)
    # the map is made with variables, as a kernel makes it, and then read at one place
    axes = [Variable(f"i{d}", n) for d, n in enumerate(node.shape)]
    assert node.op.index is not None
    symbolic = node.op.index(node, [0 if n == 1 else poly(a) for a, n in zip(axes, node.shape, strict=True)])
    (x,) = node.inputs
    return context.at(x, [replace(i, dict(zip(axes, index, strict=True))) for i in symbolic])


@pytest.mark.parametrize("name", [n for n in DRAWN if OPS[n].kind in ("view", "indexed")])
@hypothesis.given(data=st.data())
def test_an_index_map_finds_the_element(name: str, data: st.DataObject) -> None:
    for call, node, value in both(data.draw(calls(OPS[name], dtypes=("i64",), symbols=True))):
        assert call.shape(node) == list(value.shape)
        for index in itertools.islice(itertools.product(*map(range, value.shape)), 64):
            assert element(call, node, index) == value[index].item()


# ---- calls as torch writes them --------------------------------------------------------------------------------------

CALLS_OF_TORCH = {
    "indices": """
        x[1]; x[-1]; x[1:4]; x[:, 2:]; x[..., 0]; x[None]; x[:, None, 1:]; x[::2]; x[1::3, ::2]; x[i]; x[:, i];
        x[i, i]; x[i[:,None], j[:1]]; z[:, i.clamp(0)%3]; z[0, :, i]; z[i%2, :, i]; z[:, i%3, i]; x[-3:]; x[:-2];
        x[10:]; x[4:2]; x[:100]; x[..., None]; z[1, ..., 2:4, 0]; x[[0, 2]]; x[j]; x[i, 2:5]; x[()]""",
    "extremes": """
        x.max(); x.max(1); x.max(-1, keepdim=True); x.min(dim=0); torch.max(x, y); torch.min(x, y);
        torch.max(x, 1).values; x.amax(1); x.amax((0, 1)); x.argmax(); x.argmax(1); x.argmin(0, keepdim=True);
        torch.aminmax(x); torch.aminmax(x, dim=1); xi.max(1)""",
    "reductions": """
        x.sum(); x.sum(0); x.sum((0, 1)); x.sum(-1, keepdim=True); x.sum(dim=1, dtype=torch.float64); xi.sum();
        m.sum(1); x.mean(0); x.mean((0,1), True); x.prod(1); x.prod(); x.std(); x.std(1); x.var(1, unbiased=False);
        x.var(False); x.var(dim=1, correction=0, keepdim=True); torch.var_mean(x, 1); torch.std_mean(x); m.any();
        m.all(1); m.any(dim=(0,1)); x.logsumexp(1); torch.logsumexp(x, dim=(0,1)); x.norm(); x.norm(dim=1);
        x.norm(p=1, dim=0); torch.linalg.vector_norm(x, dim=-1); torch.linalg.norm(x, dim=1);
        torch.count_nonzero(xi, 1)""",
    "operators": """
        x + 1; 1 + x; 1 - x; x - 1; 2 / x; x / 2; 2 ** x; x ** 2; x ** 0.5; x ** 3; x ** -1; x ** 4; x // 0.5;
        3 // (x.abs() + 1); x % 0.7; -x; abs(x); ~m; ~xi; xi & 3; xi | 4; 5 ^ xi; xi << 2; xi >> 1; 1 << (xi & 3);
        x < y; x <= 0; 0 > x; x == y; x != 0; x >= y; m & m; xi ** 2; xi ** 5; xi % 3; xi // 3; -xi // 4; xi / 3""",
    "arithmetic": """
        torch.add(x, y, alpha=2); x.add(y, alpha=0.5); x.sub(y, alpha=3); torch.rsub(x, y);
        torch.div(x, y, rounding_mode="floor"); x.div(0.3, rounding_mode="trunc");
        torch.div(xi, 4, rounding_mode="floor"); torch.true_divide(xi, 3); x.multiply(y);
        torch.addcmul(x, y, y, value=0.5); torch.addcdiv(x, y, y.abs()+1, value=2); torch.lerp(x, y, 0.3);
        torch.lerp(x, y, w8); x.clamp(0, 1); x.clamp(min=0.1); x.clamp(max=v); torch.clip(x, -0.5, 0.5);
        torch.where(m, x, y); torch.where(m, x, 0); torch.where(m, 1., 0.); torch.where(m, 1, 0); x.where(m, y);
        x.masked_fill(m, float("-inf")); x.round(decimals=2); torch.nan_to_num(x); torch.float_power(x.abs(), 2);
        torch.atan2(x, y); torch.hypot(x, y); torch.fmod(x, 0.3); torch.remainder(x, y); torch.heaviside(x, y);
        torch.copysign(x, y); torch.copysign(x, -1.); torch.xlogy(x, y.abs()); torch.logical_and(m, x);
        torch.logical_not(x); torch.special.expit(x); torch.special.erf(x); torch.maximum(x, y); torch.fmin(x, y);
        torch.sign(x); torch.frac(x); torch.isnan(x); torch.signbit(x); torch.logit(prob, eps=1e-3); x.pow(3);
        torch.pow(2, x); x.square(); x.rsqrt(); x.sigmoid(); x.tanh(); torch.bitwise_left_shift(xi, 1);
        torch.logaddexp(x, y)""",
    "special": """
        torch.frexp(x); x.frexp().exponent; torch.polygamma(2, y.abs()); y.abs().polygamma(0);
        torch.special.psi(y.abs()); torch.special.gammaln(x); torch.special.multigammaln(y.abs() + 2, 3);
        torch.special.i0e(x); x.sinc(); x.deg2rad();
        torch.special.chebyshev_polynomial_t(x, 3); torch.special.legendre_polynomial_p(x, 2); x.angle(); torch.real(x);
        x.real; x.conj(); x.isreal(); torch.resolve_neg(x); x.is_conj(); torch.isclose(x, x + 1e-9); torch.isin(xi, j);
        torch.isclose(xi, xi + 1, atol=1); torch.isclose(x / 0, x / 0, equal_nan=True); torch.isin(xi, 3, invert=True);
        torch.isin(3, xi); torch.fill(x, 2.5); torch.ldexp(x, xi); torch.ldexp(h, xi); torch.gcd(xi, xi + 3);
        torch.lcm(xi, 0 * xi); torch.nextafter(x, y); torch.nextafter(h, h + 1); torch.xlogy(2., y.abs());
        torch.special.zeta(2., y.abs()); torch.logaddexp2(x, y); F.rrelu(x); x.round(decimals=-1);
        x.clone().digamma_(); torch.special.gammainc(y.abs(), x.abs()); torch.igammac(y.abs(), x.abs())""",
    "views": """
        x.view(torch.int32) >> 23; xi.view(dtype=torch.float64) * 0; h.view(torch.bfloat16); m.view(torch.uint8);
        x.view(-1); x.view(3, 2, 8); x.reshape(2, 3, -1); x.reshape((48,)); x.view(x.shape[0], 2, -1); x.flatten();
        z.flatten(1); z.flatten(1, 2); x.unflatten(1, (2, 4)); x.unflatten(-1, (-1, 2)); x.permute(1, 0);
        z.permute(0, 2, 1, 3); x.transpose(0, 1); x.t(); x.T; z.mT; x.unsqueeze(0); x.unsqueeze(-1); x[None].squeeze();
        x[None].squeeze(0); x.expand(2, -1, -1); v.expand(6, 8); v.expand_as(x); torch.broadcast_to(v, (6, 8));
        x.flip(0); x.flip(0, 1); torch.flip(x, (1,)); x.movedim(0, 1); z.movedim((0, 1), (2, 3)); x.chunk(2);
        x.chunk(3, dim=1); x.chunk(4, 1); x.split(2); x.split(4, dim=0); x.split([1, 5]);
        torch.split(x, [3, 5], dim=1); x.unbind(); x.unbind(1); x.repeat(2, 1); x.repeat(1, 2, 1); x.tile((2,));
        x.repeat_interleave(2, dim=1); x.repeat_interleave(2); x.roll(1, 0); x.roll(2); x.roll((1, 2), (0, 1));
        torch.swapaxes(x, 0, 1); x.narrow(0, 1, 2); x.select(1, 3); x.diagonal(); torch.diagonal(z, 0, 1, 2);
        x.unfold(1, 3, 2); x.swapdims(0, 1); torch.ravel(x); x[0, ::2].ravel(); x.view_as(y);
        torch.broadcast_tensors(x, v);
        torch.meshgrid(v, v[:3], indexing="ij");
        torch.meshgrid(v, v[:3], indexing="xy"); torch.outer(v, v); x.fliplr()""",
    "joining": """
        torch.cat([x, y]); torch.cat((x, y), dim=1); torch.cat([x, xi], -1); torch.stack([x, y]);
        torch.stack([x, y], dim=-1); torch.hstack([x, y]); torch.vstack([v, v]); F.pad(x, (1, 2));
        F.pad(x, (1, 2, 3, 0), value=5.); F.pad(x, (-1, 2)); torch.gather(x, 1, xi.abs() % 8);
        x.gather(0, tgt[None] % 6); x.index_select(0, tgt % 6); F.embedding(tgt, y[:8].T);
        torch.take_along_dim(x, xi.abs() % 8, dim=1); F.one_hot(tgt, 8); x.tril(); x.triu(1); torch.tril(x, -1)""",
    "padding with itself": """
        F.pad(x, (1, 2), "reflect"); F.pad(x, (7, 0), "reflect"); F.pad(z, (1, 2, 0, 3), "reflect");
        F.pad(x, (1, 2), "replicate"); F.pad(x, (9, 2), "replicate"); F.pad(z, (-1, 2, 3, -2), "replicate");
        F.pad(x, (8, 2), "circular"); F.pad(z, (1, 2, -1, 1), "circular"); torch.nn.ReflectionPad1d(2)(x);
        torch.nn.CircularPad1d((1, 3))(x); torch.nn.ReplicationPad1d(2)(xi)""",
    "forms with keywords and numbers": """
        x.flip(0, 1); x.flip(dims=(1,)); torch.flip(x, [0]); x.permute(dims=(1, 0)); v.expand(3, 8); v.expand((3, 8));
        v.expand(size=(3, 8)); v.repeat(3); v.repeat((2, 3)); x.tile(2); torch.tile(x, dims=(2,)); x.tile(2, 1);
        x[0, 0].unfold(0, 1, 1); x[0, 0].index_select(0, tgt[:1] * 0); torch.diff(x, 0, 0, append=x);
        torch.logspace(0, 3, 7); torch.logspace(-1, 2, 5, 2.0); torch.logspace(0, 5, 9, dtype=torch.int64);
        torch.logspace(v[0], 3, 6, 3, dtype=torch.int32); torch.logspace(0, 1, 1); torch.logspace(0, 1, 0)""",
    "parts and copies": """
        x.rot90(); torch.rot90(x, 2); torch.rot90(z, -1, (1, 3)); x.rot90(4); torch.atleast_1d(v); torch.atleast_2d(v);
        torch.atleast_3d(v, x); torch.atleast_3d([v]); torch.column_stack([v, v]); torch.dstack([x, y]);
        torch.row_stack([x, v]); torch.hstack([x.sum(), v]); x.tensor_split(4); x.tensor_split((1, -1), 1);
        x.tensor_split(9); torch.hsplit(x, 2); torch.vsplit(x, [2, 9]); torch.dsplit(z, 2); torch.hsplit(v, 4);
        torch.unsafe_split(x, 4); torch.unsafe_chunk(x, 3); torch.split_with_sizes(x, [2, 4]);
        torch.linalg.diagonal(z); torch.diag(v); torch.diag(x, 1); torch.diag(v, -2); torch.diagflat(j);
        torch.diag_embed(z, 1, 0, 2); torch.block_diag(x, v, xi, v[0]); torch.expand_copy(v, (2, 8));
        torch.permute_copy(z, (3, 0, 1, 2)); torch.view_copy(x, (8, 6)); torch.t_copy(x); torch.split_copy(x, 2);
        torch.transpose_copy(x, 0, 1); torch.unbind_copy(x, 1); torch.squeeze_copy(x[None]); torch.alias_copy(x);
        torch.unsqueeze_copy(x, 1); torch.diagonal_copy(x); torch.select_copy(x, 0, 1); torch.slice_copy(x, 1, 2, 5);
        torch.narrow_copy(x, 0, 1, 2); torch.unfold_copy(x, 1, 3, 2); torch.detach_copy(x);
        torch.split_with_sizes_copy(x, [2, 4]); torch.take(x, j); x.take(i); torch.take_along_dim(x, j);
        x.select_scatter(v, 0, -2); x.slice_scatter(x[:2], 0, 1, -1, 2); x.diagonal_scatter(v[:6]);
        torch.masked_scatter(x, m, y)""",
    "neighbours and products": """
        torch.diff(x); torch.diff(x, 2, 0); x.diff(prepend=x[:, :1], append=y); m.diff(); torch.trapezoid(x);
        torch.trapezoid(x, v); torch.trapezoid(x, y, dim=0); torch.trapz(x, dx=0.5);
        torch.cumulative_trapezoid(x, dx=2, dim=0); torch.cumulative_trapezoid(x, v); torch.gradient(x);
        torch.gradient(x, dim=1, edge_order=2); torch.gradient(x, spacing=(2, 0.5)); torch.gradient(v, spacing=3.);
        torch.gradient(v, spacing=(w8.cumsum(0),)); torch.gradient(x, spacing=torch.tensor(2.), dim=1);
        torch.gradient(x, spacing=(w8.cumsum(0),), dim=(1,), edge_order=2);
        torch.einsum("ii->i", x[:, :6]); torch.einsum("ii", x[:, :6]); torch.einsum("...ii->i...", x[None, :, :6]);
        torch.einsum("b...->...", z); torch.einsum("i...,j...->ij...", z, y[:, :6]); torch.einsum("...i,i->...i", x, v);
        torch.einsum("...ij", z); torch.einsum(x, [..., 1], [1, ...]); torch.einsum("...,->...", x, v[0]);
        torch.kron(x[:2, :3], y[:3, :2]); torch.kron(v, x[:2]); torch.cross(x[:, :3], y[:, :3]);
        torch.linalg.cross(x[:3], y[:3], dim=0); torch.cross(z[0], z[1], 0); torch.vander(v); torch.vander(v, 3, True);
        torch.linalg.vander(x, N=4); torch.tril_indices(3, 4); torch.triu_indices(4, 3, -1);
        torch.tril_indices(3, 5, 2); torch.triu_indices(3, 3, dtype=torch.int32) * 1;
        torch.cartesian_prod(v, i.float()); torch.cartesian_prod(i);
        torch.combinations(v[:4]); torch.combinations(i, 2, True); torch.combinations(v, 1)""",
    "counting": """
        torch.bucketize(x, v.sort().values); torch.bucketize(x, v.sort().values, right=True, out_int32=True);
        torch.bucketize(0.5, w8.sort().values); torch.searchsorted(x.sort().values, y);
        torch.searchsorted(v.sort().values, x, side="right"); torch.searchsorted(x, y, sorter=x.argsort());
        torch.histc(x, 5); torch.histc(x, 4, -1, 1); torch.histc(x * 0 + 3, 3); torch.histc(x, 3, 1, 1)""",
    "order": """
        x.sort(); torch.sort(x, 0, True); torch.sort(x, stable=True, dim=0).values; x.argsort(1);
        torch.argsort(x, 0, True); x.T.sort(); torch.msort(x); x.topk(3); torch.topk(x, 2, 0, largest=False);
        x.topk(1, sorted=False);
        x.kthvalue(3); torch.kthvalue(x, 2, 0, True); x.median(); x.median(0); torch.median(x, 1, keepdim=True);
        torch.nanmedian(x); x.nanmedian(1); (xi // 8).mode(1); torch.mode(x, 0, True); x.quantile(0.3);
        torch.quantile(x, w8[:3], 1); x.quantile(0.5, dim=0, keepdim=True, interpolation="nearest");
        torch.nanquantile(x, 0.7, dim=1, interpolation="midpoint"); x.sum().sort(); x.sum().topk(1);
        x.sum().median()""",
    "norms": """
        F.softmax(x, dim=-1); x.softmax(0); torch.softmax(h, 1); F.softmax(h, 1, dtype=torch.float32);
        F.log_softmax(x, 1); F.layer_norm(x, (8,)); F.layer_norm(x, (8,), w8, v, 1e-6);
        F.layer_norm(x, x.shape[-1:], w8); F.rms_norm(x, (8,), w8); F.rms_norm(h, (8,)); F.group_norm(b, 3);
        F.group_norm(b, 2, w8[:6], v[:6]); F.batch_norm(b, v[:6], w8[:6]);
        F.batch_norm(b, v[:6], w8[:6], v[:6], v[:6], False, 0.1, 1e-3); F.instance_norm(b); F.normalize(x);
        F.normalize(x, dim=0, p=1); F.dropout(x, 0.5, False); F.dropout(x, 0.0); F.cosine_similarity(x, y);
        F.cosine_similarity(z, z * 2, dim=-1)""",
    "activations": """
        F.relu(x); F.relu(x, False); F.gelu(x); F.gelu(x, approximate="tanh"); F.silu(x); F.leaky_relu(x, 0.2);
        F.elu(x, 0.5); F.selu(x); F.celu(x, 2.); F.mish(x); F.softplus(x, 2, 10); F.softsign(x); F.hardtanh(x);
        F.hardtanh(x, -0.5, 0.5); F.hardsigmoid(x); F.hardswish(x); F.tanhshrink(x); F.softshrink(x, 0.3);
        F.hardshrink(x); F.logsigmoid(x); F.threshold(x, 0.1, 20.); F.glu(x); F.glu(x, 0); F.prelu(x, v);
        F.prelu(b, w8[:6]); F.prelu(x, w8[:1]); F.relu6(x * 4); F.sigmoid(x); F.softmin(x, 1)""",
    "losses": """
        F.cross_entropy(x, tgt); F.cross_entropy(x, tgi); F.cross_entropy(x, tgi, reduction="none");
        F.cross_entropy(x, tgi, w8); F.cross_entropy(x, tgi, w8, label_smoothing=0.1);
        F.cross_entropy(x, tgi, label_smoothing=0.1, reduction="sum"); F.cross_entropy(x, prob);
        F.cross_entropy(x, prob, w8, label_smoothing=0.2); F.cross_entropy(z, torch.ones(2, 4, 6, dtype=torch.long));
        F.cross_entropy(x, tgt, ignore_index=3); F.cross_entropy(v, tgt[0]);
        F.cross_entropy(x, prob, reduction="none"); F.nll_loss(x, tgi, w8); F.nll_loss(x, tgi, reduction="sum");
        F.nll_loss(z, torch.ones(2, 4, 6, dtype=torch.long), w8[:3]); F.kl_div(x, prob);
        F.kl_div(x, prob, reduction="batchmean"); F.kl_div(x, y, log_target=True, reduction="sum"); F.mse_loss(x, y);
        F.l1_loss(x, y, reduction="none"); F.smooth_l1_loss(x, y, beta=0.5); F.smooth_l1_loss(x, y, beta=0.);
        F.huber_loss(x, y, delta=0.7); F.binary_cross_entropy(prob, prob); F.binary_cross_entropy(prob, prob, prob);
        F.binary_cross_entropy_with_logits(x, prob); F.binary_cross_entropy_with_logits(x, prob, pos_weight=w8);
        F.binary_cross_entropy_with_logits(x, prob, weight=prob, reduction="sum"); F.cross_entropy(h, tgt);
        F.mse_loss(h, h * 2)""",
    "more losses": """
        F.poisson_nll_loss(x, prob); F.poisson_nll_loss(prob, prob * 8, log_input=False, full=True);
        F.gaussian_nll_loss(x, y, prob, full=True); F.gaussian_nll_loss(x, y, prob[:, :1]);
        F.gaussian_nll_loss(x, y, prob[:, 0], reduction="none"); F.gaussian_nll_loss(x, y, 0.5);
        F.hinge_embedding_loss(x, y.sign()); F.hinge_embedding_loss(x, y.sign(), 0.3, reduction="none");
        F.margin_ranking_loss(x, y, y.sign(), 0.2);
        F.margin_ranking_loss(xi, xi.flip(0), xi.sign()); F.soft_margin_loss(x, y.sign(), reduction="sum");
        F.multi_margin_loss(x, tgt); F.multi_margin_loss(x, tgt, 2, 0.5, w8, reduction="none");
        F.multi_margin_loss(v, tgt[0]); F.multi_margin_loss(v, tgt[:1], reduction="none");
        F.multilabel_margin_loss(x, many); F.multilabel_margin_loss(x, many, reduction="none");
        F.multilabel_margin_loss(v, many[0]); F.multilabel_soft_margin_loss(x, prob, w8);
        F.cosine_embedding_loss(x, y, y[:, 0].sign(), 0.1); F.cosine_embedding_loss(v, w8, torch.tensor(-1));
        F.triplet_margin_loss(x, y, y.flip(0)); F.triplet_margin_loss(x, y, y + 1, p=1, swap=True, reduction="none");
        F.triplet_margin_with_distance_loss(x, y, y + 1);
        F.triplet_margin_with_distance_loss(x, y, y + 1, swap=True, distance_function=lambda a, b: (a - b).norm(2, 1));
        F.pairwise_distance(x, y); F.pairwise_distance(x, v, 1, keepdim=True); torch.dist(x, v, 3.5); x.dist(y)""",
    "moments": """
        torch.nansum(x.log()); x.log().nansum(1, keepdim=True); x.log().nanmean(); torch.nanmean(x.log(), 0);
        x.trace(); torch.trace(xi); torch.norm(x, dim=(0, 1)); torch.norm(x, float("inf")); x.norm(0.5, 1);
        torch.linalg.norm(x, "fro"); torch.linalg.norm(x, 1); torch.linalg.norm(x, -1);
        torch.linalg.norm(z, float("inf"), (1, 3)); torch.linalg.matrix_norm(z, -float("inf"), (3, 1), keepdim=True);
        torch.linalg.norm(v, 3); torch.var_mean(z, (1, 3), keepdim=True); torch.logsumexp(xi, 1);
        torch._safe_softmax(x.log(), 1); torch._safe_softmax(x.masked_fill(m, float("-inf")), 0); F.softmax(x);
        F.log_softmax(z[0]); torch.special.softmax(x, 1); F.batch_norm(b, None, None, training=True);
        F.batch_norm(b, None, None, w8[:6], v[:6], True); F.instance_norm(b, v[:6], w8[:6], use_input_stats=False);
        F.local_response_norm(b, 3); F.local_response_norm(b, 2, 0.1, 0.5, 2.); F.normalize(x, 3.5);
        F.normalize(x, float("inf"), 0); x.renorm(2, 0, 1.5); torch.renorm(z, 1, 2, 3.)""",
    "pooling": """
        F.avg_pool1d(x, 3); F.avg_pool1d(x, 3, 2, 1, True); F.avg_pool1d(x, 4, 3, 2, True, False); F.avg_pool2d(z, 3);
        F.avg_pool2d(z, (3, 2), (2, 1), (1, 0)); F.avg_pool2d(z, 3, 2, 1, ceil_mode=True, count_include_pad=False);
        F.avg_pool2d(z, 2, divisor_override=3); F.avg_pool2d(z, z.shape[2:]); F.avg_pool3d(z, 2, 1, 1, True);
        F.max_pool1d(x, 3, 1, 1, 2, True); F.max_pool2d(z, 2); F.max_pool2d(b, 3, 2, 1, ceil_mode=True);
        F.max_pool2d(b.log(), 3, 2, 1, return_indices=True); F.max_pool2d(b * 0, 2, return_indices=True);
        F.max_pool1d(x, 4, 3, 2, 2, True, True); F.max_pool3d(b, 2, return_indices=True);
        F.max_pool2d(xi[None], 3, 2, 1);
        F.lp_pool1d(x, 2, 3); F.lp_pool2d(z.abs(), 3, (2, 3), 2, True); F.lp_pool3d(z, 2, 2, ceil_mode=True);
        F.adaptive_avg_pool1d(x, 3); F.adaptive_avg_pool2d(z, (2, None)); F.adaptive_avg_pool2d(z, (3, 5));
        F.adaptive_avg_pool3d(z, (2, 3, 4)); F.adaptive_max_pool2d(z.log(), (3, 5), return_indices=True);
        F.adaptive_max_pool1d(x, 4); F.adaptive_max_pool3d(b, 2); F.pixel_shuffle(b[:, :4], 2); F.pixel_unshuffle(b, 2);
        F.channel_shuffle(b, 3); F.interpolate(b, scale_factor=(2, 3)); F.interpolate(b, size=(5, 7));
        F.interpolate(x[None], scale_factor=1.7); F.interpolate(b, scale_factor=0.5); F.interpolate(b, size=(2, 9));
        F.interpolate(b, scale_factor=0.3, recompute_scale_factor=True);
        F.interpolate(b, size=(3, 7), mode="nearest-exact"); F.interpolate(z, size=(2, 5), mode="area");
        F.upsample(b, scale_factor=2)""",
    "conversions": """
        x.float(); x.half(); x.bfloat16(); x.long(); x.int(); x.bool(); x.double(); x.to(torch.float16); x.to(h);
        x.to("cpu"); x.to("cpu", torch.float64); x.type(torch.int32); x.type_as(h); x.clone(); x.contiguous();
        x.detach(); x.to(torch.float8_e4m3fn).float(); x.to(torch.float8_e5m2).float();
        (x * 1000).to(torch.float8_e4m3fn).float(); x.to(dtype=torch.int8); (x*100).to(torch.uint8)""",
    "factories": """
        torch.arange(4) * 1; torch.arange(2, 8); torch.arange(8, 2, -2); torch.arange(0., 1., 0.25);
        torch.arange(x.shape[0]); torch.arange(x.shape[0], dtype=torch.float32) * 2;
        torch.arange(x.shape[1] - 2, x.shape[1]); torch.zeros(2, 3); torch.zeros((2, 3), dtype=torch.int32);
        torch.ones(x.shape); torch.full((2, 2), 3); torch.full((2, 2), 3.5, dtype=torch.float16); torch.zeros_like(x);
        torch.ones_like(x, dtype=torch.int64); torch.full_like(xi, 7); torch.eye(3); torch.eye(2, 4);
        torch.linspace(0, 1, 5); x.new_zeros(3); x.new_ones(2, 2); x.new_full((2,), 3.); torch.tensor(3.);
        torch.tensor([1, 2, 3]) * xi[:, :3]; torch.tril(torch.ones(4, 4, dtype=torch.bool));
        torch.zeros(x.shape[0], 2) + 1; torch.linspace(-1, 1, steps=4, dtype=torch.float64);
        torch.linspace(x[0, 0], x[0, 1], 5); torch.linspace(0.7, 9.9, 8, dtype=torch.int32);
        torch.arange(0.5, 4.5, dtype=torch.int64); torch.arange(-1.5, 3.5, 1.5, dtype=torch.int32);
        torch.full_like(v[0].double(), 2.5) * v[1]; torch.full((), 2, dtype=torch.int64)""",
    "modules": """
        torch.nn.Softmax(-1)(x); torch.nn.GELU()(x); torch.nn.ReLU()(x); torch.nn.LeakyReLU(0.3)(x);
        torch.nn.CrossEntropyLoss()(x, tgt); torch.nn.Flatten()(z); torch.nn.SiLU()(x); torch.nn.Hardtanh()(x)""",
}


def tensors() -> dict[str, torch.Tensor]:
    """What the calls above are on."""
    x, classes = torch.randn(6, 8), torch.randint(0, 8, (6,))
    ignored = classes.clone()
    ignored[1] = -100
    many = torch.stack([torch.randperm(8) for _ in range(6)])
    many[0, 3] = many[1, 0] = many[2, 6] = many[2, 7] = -1
    return {
        "x": x, "y": torch.randn(6, 8), "v": torch.randn(8), "z": torch.randn(2, 3, 4, 6), "b": torch.randn(2, 6, 4, 4),
        "m": x > 0, "h": x.half(), "xi": torch.randint(-9, 9, (6, 8)), "i": torch.tensor([1, -1, 3]),
        "j": torch.tensor([[0, 2], [5, 1]]), "tgt": classes, "tgi": ignored, "w8": torch.rand(8),
        "prob": torch.softmax(torch.randn(6, 8), -1), "many": many,
    }  # fmt: skip


@pytest.mark.parametrize("kind", CALLS_OF_TORCH)
def test_torchs_forms_of_call(kind: str) -> None:
    values = tensors()
    for text in filter(None, map(str.strip, CALLS_OF_TORCH[kind].split(";"))):
        used = [name for name in values if re.search(rf"(?<![\w.]){name}(?!\w)", text)]
        function = eval(f"lambda {', '.join(used)}: {text}", {"torch": torch, "F": F})
        given = [values[name] for name in used]
        traced = trace(function, given)
        bound = traced.bind(given, {})
        assert bound is not None, text
        results = traced.rebuild(bound, interpret(traced.graph, bound.values, bound.sizes))
        for result, expected in zip(tree_leaves(results), tree_leaves(function(*given)), strict=True):
            torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5, equal_nan=True,
                                       msg=lambda why, text=text: f"{text}: {why}")  # fmt: skip


def test_spellings_take_nodes_of_symbolic_sizes() -> None:
    n = poly(Symbol("n"))
    x = given("x", Type(dtype("f32"), (4 * n, 8)))
    for name, args, shapes in (
        ("Tensor.__getitem__", ((slice(1, None), None),), [(4 * n - 1, 1, 8)]),
        ("Tensor.__getitem__", ((Ellipsis, -1),), [(4 * n,)]),
        ("Tensor.view", (n, -1), [(n, 32)]),
        ("torch.chunk", (2,), [(2 * n, 8)] * 2),
        ("torch.split", (n,), [(n, 8)] * 4),
        ("torch.max", (1,), [(4 * n,)] * 2),
    ):
        made = SPELLINGS[name](x, *args)
        assert [part.shape for part in (made if isinstance(made, tuple) else (made,))] == shapes, name


# ---- errors ----------------------------------------------------------------------------------------------------------

def given(name: str, type: Type) -> Node:
    """An input."""
    return intern(OPS["input"], (), {"name": name, "number": False}, type)


BOOL, WHOLE = given("b", Type(dtype("bool"), (4,))), given("i", Type(dtype("i64"), (4,)))
REAL, ROWS, EMPTY = (given("x", Type(dtype("f32"), shape)) for shape in ((3, 4), (3,), (0, 4)))
MISTAKES = {
    "sub: bools": (lambda: BOOL - BOOL, DTypesDisagree, "sub: bools have no arithmetic of this kind, got bool"),
    "neg: bools": (lambda: -BOOL, DTypesDisagree, "neg: bools have no arithmetic"),
    "and: floats": (lambda: REAL & 1, DTypesDisagree, "bitwise_and: operands must be integers or bools, got f32"),
    "shift: floats": (lambda: REAL << 1, DTypesDisagree, "left_shift: operands must be integers, got f32"),
    "mean: integers": (lambda: ops.mean(WHOLE), DTypesDisagree, "mean: the operand must be a float, got i64"),
    "softmax: integers": (lambda: ops.softmax(WHOLE, 0), DTypesDisagree, "softmax: the operand must be a float"),
    "float8 with float16": (lambda: ops.cast(REAL, "f8e4m3") + ops.cast(REAL, "f16"), DTypesDisagree, "a common one"),
    "int ** -1": (lambda: WHOLE**-1, BadArgument, "pow: exponent must be at least 0 on integers, got -1"),
    "broadcast": (lambda: REAL + ROWS, ShapesDisagree, "add: operands must broadcast, got [3, 4] and [3]. Write b"),
    "reshape": (lambda: ops.reshape(REAL, (5, -1)), ShapesDisagree, "reshape: the number of elements stays"),
    "expand": (lambda: ops.expand(REAL, (2, 4)), ShapesDisagree, "expand: a dimension keeps its size unless it is 1"),
    "permute": (lambda: ops.permute(REAL, (0,)), BadArgument, "permute: dims must be every dimension once"),
    "dim": (lambda: ops.sum(REAL, 2), DimOutOfRange, "sum: dim must lie in [-2, 1], got 2"),
    "dim twice": (lambda: ops.sum(REAL, (0, -2)), BadArgument, "each dimension at most once"),
    "select": (lambda: ops.select(REAL, 0, 3), BadArgument, "select: index must be in"),
    "cat": (lambda: ops.cat([REAL, ops.transpose(REAL, 0, 1)], 0), ShapesDisagree, "cat: all sizes but that of dim"),
    "pad mode": (lambda: ops.pad(REAL, (1, 1), "reflect"), BadArgument, "pad: mode must be 'constant'"),
    "mask as index": (lambda: ops.index([WHOLE, BOOL], (0,), 0), DataDependent, "Use torch.where"),
    "float as index": (lambda: ops.gather(REAL, 1, REAL), DTypesDisagree, "gather: indices must be integers, got f32"),
    "one_hot": (lambda: ops.one_hot(WHOLE), DataDependent, "Give num_classes="),
    "amax of nothing": (lambda: ops.amax(EMPTY), BadArgument, "amax: x must be without a size 0"),
    "gelu": (lambda: ops.gelu(REAL, "fast"), BadArgument, "gelu: approximate must be 'none' or 'tanh'"),
    "glu": (lambda: ops.glu(REAL, 0), BadArgument, "glu: x must be of even size in dim 0"),
    "norm": (lambda: ops.layer_norm(REAL, (3,)), ShapesDisagree, "layer_norm: the last dimensions"),
    "gather": (lambda: ops.gather(REAL, 1, ops.expand(WHOLE, (5, 4))), ShapesDisagree, "gather: index may exceed"),
    "classes": (lambda: ops.cross_entropy(REAL, WHOLE), BadArgument, "cross_entropy: target must be of x's shape"),
    "roll": (lambda: ops.roll(REAL, (1, 2), (0,)), BadArgument, "roll: shifts must be one for each of dims"),
    "table": (lambda: ops.embedding(WHOLE, ROWS), BadArgument, "embedding: weight must be a matrix"),
    "groups": (lambda: ops.group_norm(REAL, 3), BadArgument, "group_norm: num_groups must be a divisor"),
    "reduction": (lambda: ops.mse_loss(REAL, REAL, reduction="max"), BadArgument, "mse_loss: reduction must be"),
    "targets": (lambda: ops.nll_loss(REAL, ROWS), DTypesDisagree, "nll_loss: targets must be integers, got f32"),
    "degree": (lambda: ops.legendre_polynomial_p(REAL, 101), BadArgument, "n must be at most 100, got 101"),
    "degree of data": (lambda: ops.legendre_polynomial_p(REAL, ROWS), BadArgument, "it cannot be a tensor"),
    "mvlgamma": (lambda: ops.mvlgamma(REAL, 0), BadArgument, "mvlgamma: p must be a number of at least 1, got 0"),
    "nextafter": (lambda: ops.nextafter(WHOLE, WHOLE), DTypesDisagree, "nextafter: operands must be floats, got i64"),
    "linspace": (lambda: ops.linspace(ROWS, 1.0, 4), BadArgument, "a number or a tensor of no dimensions, got [3]"),
    "a call": (lambda: ops.exp(REAL, 1), BadArgument, "exp: the call must be exp(x)"),
    "an operand": (lambda: REAL + "1", BadArgument, "add: an operand must be a tensor or a Python number, got '1'"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told(mistake: str) -> None:
    call, error, message = MISTAKES[mistake]
    with pytest.raises(error, match=re.escape(message)):
        call()


@pytest.mark.parametrize("text, error", {
    "x[x > 0]": DataDependent, "x[::-1]": BadArgument, "x[7]": BadArgument, "x[0, 0, 0]": BadArgument,
    "torch.where(x > 0)": DataDependent, "x.repeat_interleave(torch.tensor([1, 2]), 0)": DataDependent,
    "F.dropout(x, 1.5)": BadArgument, "x.to('meta')": FuseError, "torch.norm(x, 'nuc')": UnknownFunction,
    "torch.linalg.norm(x, 2)": UnknownFunction,
    "x.split([1, 2])": BadArgument, "torch.div(x, x, rounding_mode='up')": BadArgument,
    "x.narrow(0, 4, 4)": BadArgument,
    "torch.linalg.norm(x, 'nuc')": UnknownFunction, "F.interpolate(x[None], size=3, mode='linear')": UnknownFunction,
    "F.batch_norm(x, x[0], x[0], training=True)": InPlaceInput, "F.avg_pool1d(x, 3, 1, 2)": BadArgument,
    "F.instance_norm(x[None], x[0, :6], x[0, :6])": InPlaceInput, "F.max_pool1d(x, 9)": ShapesDisagree,
    "F.avg_pool2d(x, 2)": BadArgument, "F.pixel_shuffle(x[None, None], 2)": BadArgument,
    "F.multi_margin_loss(x, x[:, 0].long(), 3)": BadArgument, "F.mse_loss(x, x, weight=x[0])": BadArgument,
    "F.embedding(x.long(), x, max_norm=1.)": BadArgument, "F.mse_loss(x, x, size_average=False)": BadArgument,
}.items())  # fmt: skip
def test_a_call_that_cannot_be_is_refused(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        trace(eval(f"lambda x: {text}", {"torch": torch, "F": F}), [torch.randn(6, 8)])


# ---- Triton texts ----------------------------------------------------------------------------------------------------

LANES = 64
POINTWISE = [name for name in DRAWN if OPS[name].kind == "elementwise" and name != "retype"]
EDGES = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 1e-6, 1e-3, 80.0, -80.0, 1e10]
ULPS = {torch.float64: 1e-12, torch.float32: 3e-6}


def lanes(dt: DType, domain: tuple[float, float], turn: int, edges: bool) -> torch.Tensor:
    """Values of a domain; those at the ends of the dtype stand before them, in another order for each operand."""
    values = fill((LANES,), dt, domain, turn + 1, edges=False)
    if edges and dt.is_float:
        for at, value in enumerate(EDGES):
            values[(at * (2 * turn + 1)) % LANES] = value
    return values


class Text:
    """One pointwise op on operands of one dtype, in Triton and in torch. literal: the operand that is a 2."""

    def __init__(self, name: str, dt: DType, attrs: Mapping[str, Any], literal: int | None = None) -> None:
        self.op, self.attrs, self.literal = OPS[name], attrs, literal
        domain, count = self.op.domain, len(self.op.operands)
        domains = domain if isinstance(domain[0], Sequence) else [domain] * count
        kinds = [dtype("bool") if key == "condition" else dt for key in self.op.operands]
        edges = "dtype" not in attrs or attrs["dtype"].is_float  # what no integer is, converts to anything
        self.values = [lanes(k, d, at, edges) for at, (k, d) in enumerate(zip(kinds, domains, strict=True))]
        if literal is not None:
            self.values[literal] = torch.full((LANES,), 2).to(kinds[literal].torch)
        inputs = [given(f"x{at}", Type(k, (LANES,))) for at, k in enumerate(kinds)]
        self.node = build(self.op, inputs, attrs)
        self.fits = self.node.inputs == tuple(inputs)  # else it would be the text of a wider dtype

    @property
    def text(self) -> str:
        triton, names = self.op.triton, [f"a{at}" for at in range(len(self.values))]
        if self.literal is not None:
            names[self.literal] = repr(self.values[self.literal][0].item())
        kinds = ["const" if at == self.literal else "load" for at in range(len(self.values))]
        args = [SimpleNamespace(dtype=a.dtype.computed, kind=k) for a, k in zip(self.node.inputs, kinds, strict=True)]
        expr = SimpleNamespace(dtype=self.node.dtype.computed, args=args, attrs=dict(self.node.attrs))
        assert triton is not None
        return filled(triton, expr, names)

    def expected(self) -> torch.Tensor | None:
        try:
            return self.op.reference(*self.values, **{k: v.torch for k, v in self.attrs.items()})
        except TORCH_REFUSES:
            return None


def texts(kind: str) -> list[Text]:
    """What pointwise ops are in Triton on a dtype, on tensors and with a literal among them."""
    found = []
    for name in POINTWISE:
        attrs = [{"dtype": dt} for dt in STORED if dt.bits < 64 or dt.kind != "u"] if name == "cast" else [{}]
        operands = len(OPS[name].operands)
        literals = [None, *range(operands)] if operands == 2 else [None]
        for given_attrs, literal in itertools.product(attrs, literals):
            try:
                found.append(Text(name, dtype(kind), given_attrs, literal))
            except FuseError:
                continue
    return [each for each in found if each.fits]


@pytest.mark.parametrize("kind", ["f32", "f64", "f16", "i64", "i32", "i8", "u8", "bool"])
def test_texts_mean_what_torch_computes(kind: str, tmp_path: Path) -> None:
    cases, lines, arguments = texts(kind), [], {}
    for at, case in enumerate(cases):
        for k, values in enumerate(case.values):
            arguments[f"x{at}_{k}"] = values
            lines.append(f"a{k} = tl.load(x{at}_{k} + lane).to(tl.{dtype(values.dtype).computed.language})")
        arguments[f"y{at}"] = torch.zeros(LANES, dtype=case.node.dtype.computed.torch)
        lines += [f"y = {case.text}  # {case.op.name}", f"tl.store(y{at} + lane, y)"]
    launch(kernel_of(lines, list(arguments), tmp_path), (1, 1, 1), arguments)
    for at, case in enumerate(cases):
        if (expected := case.expected()) is not None:
            result, close = arguments[f"y{at}"].to(expected.dtype), ULPS.get(expected.dtype, 2e-3)
            least = 1e-7 if kind == "f16" else 1e-30
            torch.testing.assert_close(result.double(), expected.double(), rtol=close, atol=least, equal_nan=True,
                                       msg=lambda why, case=case: f"{case.op.name}: {case.text}: {why}")  # fmt: skip


def kernel_of(lines: Sequence[str], parameters: Sequence[str], folder: Path) -> Any:
    body = "\n".join(f"    {line}" for line in ["lane = tl.arange(0, 64)", *lines])
    head = "import triton\nimport triton.language as tl\n" + NATIVE_F8 + "\n"
    head += "from triton.language.extra import libdevice\n"
    file = folder / "texts.py"
    file.write_text(f"{head}{''.join(HELPERS.values())}\n@triton.jit\ndef texts({', '.join(parameters)}):\n{body}\n")
    spec = importlib.util.spec_from_file_location("texts", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.texts
