"""How ops are called that need more than their rules: shapes that fit together, indices that are inside."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from fusedsl import ir
from fusedsl.index import Index, Symbol, evaluate, poly
from fusedsl.ir import OPS, Node, Op, build
from fusedsl.ops.convert import torch_dtype
from fusedsl.types import DType, Type, dtype
from tests.builder import Builder, Refused
from tests.tensors import LAYOUTS, fill


def _near(builder: Builder, op: Op, ndim: int = 1) -> tuple[Node, int]:
    """An operand with dimensions, and one of them."""
    x = builder.operand((-4, 4), lambda node: node.rank >= ndim)
    if x.rank < ndim:
        raise Refused
    return x, builder.source.integer(0, x.rank - 1)


def _expand(builder: Builder, op: Op) -> dict[str, Any]:
    x = builder.operand((-4, 4), lambda node: 1 in node.shape)
    sizes = [builder.source.pick([3, 2, 1]) if n == 1 else builder.source.pick([n, -1]) for n in x.shape]
    return {"x": x, "size": [*[2] * builder.rarely(3), *sizes]}


def _reshape(builder: Builder, op: Op) -> dict[str, Any]:
    x = builder.operand((-4, 4))
    way = builder.source.integer(0, 4)
    if way == 0 or not x.rank:
        return {"x": x, "shape": [-1]}
    if way == 1:
        return {"x": x, "shape": x.shape}
    at = builder.source.integer(0, x.rank - 1)
    if way == 2:
        return {"x": x, "shape": [*x.shape[:at], 1, *x.shape[at:]]}
    if way == 3 and x.rank > 1:
        at = max(at, 1)
        return {"x": x, "shape": [*x.shape[: at - 1], x.shape[at - 1] * x.shape[at], *x.shape[at + 1 :]]}
    return {"x": x, "shape": [*x.shape[:at], *_factors(builder, x.shape[at]), *x.shape[at + 1 :]]}


def _factors(builder: Builder, n: Index) -> list[Index]:
    by = builder.source.pick([2, 3])
    return [n // by, by] if isinstance(n, int) and n and n % by == 0 else [n]


def _permute(builder: Builder, op: Op) -> dict[str, Any]:
    x = builder.operand((-4, 4), lambda node: node.rank > 1)
    return {"x": x, "dims": builder.order(x.rank)}


def _roll(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    return {"x": x, "shifts": [builder.source.pick([1, -1, 2, 8])], "dims": [d]}


def _unflatten(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    return {"x": x, "dim": d, "sizes": _factors(builder, x.shape[d])}


def _slice(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    n = x.shape[d]
    start = builder.source.integer(0, min(evaluate(n, builder.sizes), 2))
    end = n - builder.source.integer(0, 1) if evaluate(n, builder.sizes) > start else n
    return {"x": x, "dim": d, "start": start, "end": end, "step": builder.source.pick([1, 1, 2, 3])}


def _select(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    return {"x": x, "dim": d, "index": builder.source.pick([0, x.shape[d] - 1])}


def _unfold(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    return {"x": x, "dimension": d, "size": builder.source.pick([1, 2, 3]), "step": builder.source.pick([1, 2])}


def _diagonal(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op, 2)
    return {"x": x, "dim1": d, "dim2": (d + 1) % x.rank, "offset": builder.source.pick([0, 1, -1])}


def _repeat(builder: Builder, op: Op) -> dict[str, Any]:
    x = builder.operand((-4, 4))
    return {"x": x, "repeats": [builder.source.pick([1, 2, 3]) for _ in range(x.rank + builder.rarely(4))]}


def _repeat_interleave(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    return {"x": x, "dim": d, "repeats": builder.source.pick([1, 2, 3])}


def _joined(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    parts = [x]
    for _ in range(builder.source.integer(0, 2)):
        shape = x.shape if op.name == "stack" else (*x.shape[:d], builder.source.pick([1, 2, 3]), *x.shape[d + 1 :])
        alike = [node for node in builder.pool if node.shape == shape]
        parts.append(builder.source.pick(alike) if alike else builder.tensor((-4, 4), None, shape))
    return {"tensors": parts, "dim": d}


def _pad(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    amounts = [builder.source.pick([0, 1, 2, -1]) for _ in range(2 * (x.rank - d))]
    return {"x": x, "pad": amounts, "value": builder.source.pick([None, 1, -math.inf]) if x.dtype.is_float else None}


def _pad_around(builder: Builder, op: Op) -> dict[str, Any]:
    x = builder.operand((-4, 4), lambda node: node.rank in (2, 3) and node.shape[-1] != 0)
    if x.rank not in (2, 3) or 0 in builder.numbers(x.shape):
        raise Refused
    n = evaluate(x.shape[-1], builder.sizes)
    mode = builder.source.pick(["reflect", "replicate", "circular"])
    most = min(2, n - 1 if mode == "reflect" else n)
    return {"x": x, "pad": [builder.source.integer(0, most) for _ in range(2)], "mode": mode}


def _places(builder: Builder, size: Index, shape: Sequence[Index], low: int = 0) -> Node:
    """A tensor of indices of a dimension."""
    n = evaluate(size, builder.sizes)
    if n == 0:
        raise Refused
    kind = dtype(builder.source.pick(["i64", "i32"]))
    values = fill(builder.numbers(shape), kind, (low * n, n - 1), builder.source.integer(0, 1000), edges=False)
    return builder.given(values, Type(kind, tuple(shape)))


def _gather(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    shape = (*x.shape[:d], builder.source.pick([1, 2, 4]), *x.shape[d + 1 :])
    name = "indices" if "indices" in op.operands else "index"
    return {"x": x, "dim": d, name: _long(_places(builder, x.shape[d], shape))}


def _long(index: Node) -> Node:
    return ir.cast(index, dtype("i64"))


def _pick(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    shape = [builder.source.pick([2, 3, 1]) for _ in range(builder.source.integer(0, 2))]
    first = _places(builder, x.shape[d], shape, low=-(op.name == "index"))
    if x.rank == 1 or not builder.rarely(2):
        return {"tensors": [x, first], "dims": [d], "place": d}
    e = (d + 1) % x.rank
    return {"tensors": [x, first, _places(builder, x.shape[e], shape[1:])], "dims": [d, e], "place": 0}


def _index_select(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    return {"x": x, "dim": d, "index": _places(builder, x.shape[d], [builder.source.pick([1, 2, 4])])}


def _select_at(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    return {"x": x, "dim": d, "index": _places(builder, x.shape[d], [], low=-1)}


def _slopes_between(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    kind = x.dtype if x.dtype.is_float and x.dtype.bits > 8 else dtype("f32")
    places = torch.arange(evaluate(x.shape[d], builder.sizes)).to(torch_dtype(kind)) ** 1.5
    given = builder.given(places, Type(kind, (x.shape[d],)))
    return {"x": x, "places": given, "dim": d, "edge_order": builder.source.pick([1, 2])}


def _embedding(builder: Builder, op: Op) -> dict[str, Any]:
    weight = builder.operand((-4, 4), lambda node: node.rank == 2)
    if weight.rank != 2:
        raise Refused
    return {"x": _places(builder, weight.shape[0], [builder.source.pick([2, 3])]), "weight": weight}


def _one_hot(builder: Builder, op: Op) -> dict[str, Any]:
    classes = builder.source.pick([3, 1, 5])
    return {"x": _long(_places(builder, classes, [builder.source.pick([2, 3])])), "num_classes": classes}


def _classes(builder: Builder, op: Op) -> dict[str, Any]:
    """A loss of classes: rows of scores, and the class of each row."""
    x = builder.operand((-4, 4), lambda node: node.rank == 2 and node.dtype.is_float)
    if x.rank != 2:
        raise Refused
    target = _long(_places(builder, x.shape[1], x.shape[:1]))
    return {"x": x, "target": target, "reduction": builder.source.pick(["mean", "sum", "none"])}


def _group_norm(builder: Builder, op: Op) -> dict[str, Any]:
    x = builder.operand((-4, 4), lambda node: node.rank >= 2)
    if x.rank < 2:
        raise Refused
    groups = builder.source.pick([1, *([x.shape[1]] if isinstance(x.shape[1], int) else [])])
    given: dict[str, Any] = {"x": x, "num_groups": groups}
    if builder.rarely(2):
        given["weight"] = builder.tensor((-2, 2), x.dtype, x.shape[1:2])
    return given


def _norm(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    given = {"x": x, "normalized_shape": x.shape[d:]}
    for name in ("weight", "bias"):
        if name in op.operands and builder.rarely(2):
            given[name] = builder.tensor((-2, 2), x.dtype, x.shape[d:])
    return given


def _numbers(builder: Builder, op: Op) -> dict[str, Any]:
    low, high = builder.source.integer(-2, 2), builder.source.integer(3, 6)
    named = {"start": low, "end": high, "step": builder.source.pick([1, 2]), "steps": 4, "n": high, "m": 2}
    return {key: named[key] for key in op.signature.parameters if key in named}


def _filled(builder: Builder, op: Op) -> dict[str, Any]:
    symbols = [poly(Symbol(name)) for name in builder.sizes]
    size = [builder.source.pick([2, 3, *symbols]) for _ in range(builder.source.integer(0, 2))]
    given: dict[str, Any] = {"fill_value": builder.source.pick([1, 0.5, True])} if op.operands else {}
    return {"size": size, "dtype": dtype(builder.source.pick(builder.limits.dtypes)), **given}


def _random(builder: Builder, op: Op) -> dict[str, Any]:
    """A seed as a call passes it, a size, and what there is to choose of a distribution."""
    given = _filled(builder, op)
    del given["fill_value"]
    seed = builder.given(builder.source.integer(0, 2**50), Type(dtype("i64"), (), weak=True))
    low = builder.source.integer(-9, 9)
    bounds = {"low": low, "high": low + builder.source.pick([1, 7, 2**32, 2**40])} if "low" in op.rules else {}
    kinds = builder.limits.dtypes if bounds else [dt for dt in builder.limits.dtypes if dtype(dt).is_float]
    if not kinds:
        raise Refused
    stream = builder.source.integer(0, 3)
    return {**given, "seed": seed, "stream": stream, "dtype": dtype(builder.source.pick(kinds)), **bounds}


def _batch_norm(builder: Builder, op: Op) -> dict[str, Any]:
    x = builder.operand((-4, 4), lambda node: node.rank >= 2 and node.dtype.is_float)
    if x.rank < 2:
        raise Refused
    vectors = {"running_mean": (-2, 2), "running_var": (0.5, 2), "weight": (-2, 2), "bias": (-2, 2)}
    if builder.rarely(3):  # in training
        vectors = {name: domain for name, domain in vectors.items() if not name.startswith("running")}
    return {"x": x, **{name: builder.tensor(domain, x.dtype, x.shape[1:2]) for name, domain in vectors.items()}}


def _labels(builder: Builder, op: Op) -> dict[str, Any]:
    """A loss of margins between classes: rows of scores, and the class of each row, or classes up to a -1."""
    x = builder.operand((-4, 4), lambda node: node.rank == 2 and node.dtype.is_float)
    if x.rank != 2 or not x.dtype.is_float or 0 in builder.numbers(x.shape):  # of no rows torch reads what is not there
        raise Refused
    given = {"x": x, "reduction": builder.source.pick(["mean", "sum", "none"])}
    if op.name == "multi_margin_loss":
        given |= {"p": builder.source.pick([1, 2]), "margin": builder.source.pick([1.0, 0.5])}
        return given | {"target": _long(_places(builder, x.shape[1], x.shape[:1]))}
    i64, last = dtype("i64"), evaluate(x.shape[1], builder.sizes) - 1
    values = fill(builder.numbers(x.shape), i64, (-1, last), builder.source.integer(0, 1000), edges=False)
    return given | {"target": builder.given(values, Type(i64, x.shape))}


def _distances(builder: Builder, op: Op) -> dict[str, Any]:
    """A loss of distances between the rows of two matrices."""
    first = builder.operand((-4, 4), lambda node: node.rank == 2 and node.dtype.is_float)
    if first.rank != 2 or not first.dtype.is_float:
        raise Refused
    target = builder.tensor((-1, 1), dtype("i64"), first.shape[:1])
    return {"input1": first, "input2": builder.like(first, (-4, 4)), "target": target, "margin": 0.25,
            "reduction": builder.source.pick(["mean", "sum", "none"])}  # fmt: skip


def _spatial(builder: Builder, op: Op) -> tuple[Node, int]:
    """A batch, or one, of what an op pools over its last dimensions, and how many those are."""
    rank = int(op.name[-2])
    x = builder.operand((-4, 4), lambda node: node.rank in (rank + 1, rank + 2))
    if x.rank not in (rank + 1, rank + 2):
        shape = [builder.source.pick([2, 1]) for _ in range(builder.source.integer(1, 2))]
        shape += [builder.source.pick([5, 3, 4]) for _ in range(rank)]
        dt = dtype(builder.source.pick(builder.limits.dtypes))
        values = fill(shape, dt, (-4, 4), builder.source.integer(0, 1000), edges=False)  # sums of huge values are any
        x = builder.given(builder.source.pick(LAYOUTS)(values), Type(dt, tuple(shape)))
    return x, rank


def _pool(builder: Builder, op: Op) -> dict[str, Any]:
    x, rank = _spatial(builder, op)
    pick = builder.source.pick
    sizes = [pick([2, 3, 1]) for _ in range(rank)]
    given: dict[str, Any] = {"x": x, "kernel_size": sizes}
    given |= {"stride": pick([None, [1], [2]]), "ceil_mode": pick([False, True])}
    if "padding" in op.rules:
        given["padding"] = [builder.source.integer(0, n // 2) for n in sizes]
    if "count_include_pad" in op.rules:
        given["count_include_pad"] = pick([True, False])
    if "divisor_override" in op.rules:
        given["divisor_override"] = pick([None, 3])
    if "dilation" in op.rules:
        given |= {"dilation": [pick([1, 2])], "return_indices": pick([False, True])}
    return given | ({"norm_type": pick([2, 1, 3])} if "norm_type" in op.rules else {})


def _adaptive_pool(builder: Builder, op: Op) -> dict[str, Any]:
    x, rank = _spatial(builder, op)
    given: dict[str, Any] = {"x": x, "output_size": [builder.source.pick([1, 2, 3]) for _ in range(rank)]}
    return given | ({"return_indices": builder.source.pick([False, True])} if "return_indices" in op.rules else {})


def _channels_first(builder: Builder, op: Op) -> dict[str, Any]:
    """An op on images whose channels or pixels come in groups of two."""
    shape = [2, *([4, 3, 2] if op.name != "pixel_unshuffle" else [3, 4, 2])]
    name = next(iter(op.rules))
    size = [builder.source.pick([1, 2, 3])] if op.name == "local_response_norm" else 2
    return {"x": builder.tensor((-4, 4), None, shape), name: size}


def _laid_out(builder: Builder, op: Op) -> dict[str, Any]:
    x = builder.operand((-4, 4))
    return {"x": x, "like": builder.like(x, (-4, 4))}


def _nearest(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    size = builder.source.pick([x.shape[d] * 2, 3, 4, 1, 7])
    return {"x": x, "dim": d, "size": size, "scale": builder.source.pick([None, 1.5]),
            "offset": builder.source.pick([None, 0.5])}  # fmt: skip


def _binned(builder: Builder, op: Op) -> dict[str, Any]:
    x = builder.operand((-4, 4), lambda node: 0 not in node.shape and node.dtype.is_float)
    if 0 in x.shape:
        raise Refused
    return {"x": x, "bins": builder.source.pick([1, 3]), "min": -4, "max": 4}


def _powers(builder: Builder, op: Op) -> dict[str, Any]:
    x = builder.operand((-2, 2), lambda node: node.rank > 0)
    if not x.rank:
        raise Refused
    return {"x": x, "n": builder.source.pick([1, 2, 3])}


def _next_float(builder: Builder, op: Op) -> dict[str, Any]:
    shape = builder.operand((-4, 4)).shape
    x, other = (builder.tensor((-4, 4), dtype("f32"), shape) for _ in range(2))
    return {"x": x, "other": other, "dtype": dtype(builder.source.pick(["f16", "bf16", "f32"]))}


def _ranked(builder: Builder, op: Op) -> dict[str, Any]:
    """The k first of a row, or the k-th."""
    x, d = _near(builder, op)
    most = min(evaluate(x.shape[d], builder.sizes), 4)
    if not most:
        raise Refused
    return {"x": x, "k": builder.source.integer(1, most), "dim": d}


def _quantile(builder: Builder, op: Op) -> dict[str, Any]:
    x = builder.operand((-4, 4), lambda node: node.dtype.name in ("f32", "f64"))
    q = builder.tensor((0, 1), x.dtype, [2]) if builder.rarely(2) else builder.source.pick([0.5, 0.25, 1.0])
    way = builder.source.pick(["linear", "lower", "higher", "midpoint", "nearest"])
    return {"x": x, "q": q, "dim": builder.source.pick([None, builder.dim(x.rank)]), "interpolation": way,
            "keepdim": builder.rarely(2)}  # fmt: skip


def _reduced(op: Op, builder: Builder) -> dict[str, Any]:
    if "reduce" not in op.rules:
        return {}
    kinds = ["mean", "prod", "amax", "amin", *(["sum"] if op.name == "scatter_reduce" else [])]
    return {"reduce": builder.source.pick(kinds), "include_self": builder.rarely(2)}


def _scatter(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    shape = (*x.shape[:d], builder.source.pick([1, 2, 4]), *x.shape[d + 1 :])
    index = _long(_places(builder, x.shape[d], shape))
    return {"x": x, "dim": d, "index": index, "src": builder.tensor((-2, 2), x.dtype, shape), **_reduced(op, builder)}


def _rows(builder: Builder, op: Op) -> dict[str, Any]:
    """Rows for the places that a vector of indices names; each of them once, where torch leaves the order open."""
    x, d = _near(builder, op)
    count = builder.source.pick([1, 2, 4]) if op.name != "index_copy" else 1
    index = _long(_places(builder, x.shape[d], [count]))
    if op.name == "index_fill":
        return {"x": x, "dim": d, "index": index, "value": builder.source.pick([1, 0, 2])}
    source = builder.tensor((-2, 2), x.dtype, (*x.shape[:d], count, *x.shape[d + 1 :]))
    return {"x": x, "dim": d, "index": index, "source": source, **_reduced(op, builder)}


def _index_put(builder: Builder, op: Op) -> dict[str, Any]:
    x, d = _near(builder, op)
    accumulate = builder.rarely(2)
    shape = [builder.source.pick([2, 3])] if accumulate else []
    first = _long(_places(builder, x.shape[d], shape, low=-1))
    dims, more = [d], []
    if x.rank > 1 and builder.rarely(2):
        dims.append((d + 1) % x.rank)
        more = [_long(_places(builder, x.shape[dims[1]], shape))]
    outer = [n for e, n in enumerate(x.shape) if e not in dims]
    together = max(dims) - min(dims) + 1 == len(dims)
    place = min(dims) if together else 0
    values = builder.tensor((-2, 2), x.dtype, [*outer[:place], *shape, *outer[place:]])
    return {"tensors": [x, values, first, *more], "dims": dims, "accumulate": accumulate}


def _select_scatter(builder: Builder, op: Op) -> dict[str, Any]:
    given = _select(builder, OPS["select"])
    x, d = given["x"], given["dim"]
    return {**given, "src": builder.tensor((-2, 2), x.dtype, (*x.shape[:d], *x.shape[d + 1 :]))}


def _slice_scatter(builder: Builder, op: Op) -> dict[str, Any]:
    given = _slice(builder, OPS["slice"])
    return {**given, "src": builder.tensor((-2, 2), given["x"].dtype, build(OPS["slice"], (), given).shape)}


def _diagonal_scatter(builder: Builder, op: Op) -> dict[str, Any]:
    given = _diagonal(builder, OPS["diagonal"])
    return {**given, "src": builder.tensor((-2, 2), given["x"].dtype, build(OPS["diagonal"], (), given).shape)}


def _matrices(builder: Builder, op: Op) -> dict[str, Any]:
    parts = [builder.operand((-4, 4), lambda node: node.rank <= 2) for _ in range(builder.source.integer(1, 3))]
    return {"tensors": parts}


def _vectors(builder: Builder, op: Op) -> dict[str, Any]:
    kind = dtype(builder.source.pick(builder.limits.dtypes))
    lengths = [builder.source.pick([2, 3, 1]) for _ in range(builder.source.integer(1, 3))]
    return {"tensors": [builder.tensor((-4, 4), kind, [n]) for n in lengths]}


def _masked_scatter(builder: Builder, op: Op) -> dict[str, Any]:
    x = builder.operand((-4, 4))
    mask = builder.tensor((0, 1), dtype("bool"), x.shape)
    return {"x": x, "mask": mask, "source": builder.tensor((-4, 4), x.dtype, (*x.shape, 2))}


def _ordered(builder: Builder, op: Op) -> dict[str, Any]:
    """Bounds in order, and values to be put among them."""
    x = builder.operand((-4, 4), lambda node: op.name == "bucketize" or node.rank > 0)
    shape = [3] if op.name == "bucketize" or builder.rarely(2) else (*x.shape[:-1], 3)
    bounds = fill(builder.numbers(shape), x.dtype, (-4, 4), builder.source.integer(0, 1000), False).sort(-1).values
    row = builder.given(bounds, Type(x.dtype, tuple(shape)))
    given = {"x": x, "boundaries": row} if op.name == "bucketize" else {"x": row, "values": x}
    return {**given, "right": builder.rarely(2)}


def _triangle(builder: Builder, op: Op) -> dict[str, Any]:
    sizes = {"row": builder.source.integer(0, 5), "col": builder.source.integer(0, 5)}
    return {**sizes, "offset": builder.source.integer(-3, 3)}


# ---- contractions ----------------------------------------------------------------------------------------------------


def _is_mild(value: torch.Tensor | float) -> bool:
    """Whether no sum of products depends on the order: inf and NaN do not mind, huge values do."""
    values = torch.as_tensor(value)
    return not bool((values.isfinite() & (values.abs() > 100)).any())


def _factor(builder: Builder, shape: Sequence[Index], dt: DType) -> Node:
    """A new operand of a contraction, now and then with an inf or a NaN. A sum of products of quarters has one value in
    whatever order."""
    values = fill(builder.numbers(shape), dt, (-4, 4), builder.source.integer(0, 1000), edges=False)
    values = (values * 4).round() / 4 if dt.is_float else values
    if dt.is_float and values.numel() and builder.limits.edges and builder.rarely(4):
        values.view(-1)[builder.source.integer(0, values.numel() - 1)] = builder.source.pick([math.nan, math.inf])
    values = builder.source.pick(LAYOUTS)(values) if builder.limits.strides else values
    return builder.given(values, Type(dt, tuple(shape)))


def _lengths(builder: Builder, count: int) -> list[Index]:
    symbols = [poly(Symbol(name)) for name in builder.sizes]
    return [builder.source.pick([3, 2, *symbols, 1, 5, *([0] if builder.rarely(6) else [])]) for _ in range(count)]


def _number_type(builder: Builder) -> DType:
    kinds = [kind for kind in builder.limits.dtypes if kind != "bool"]
    if not kinds:
        raise Refused
    return dtype(builder.source.pick(kinds))


def _first(builder: Builder, *ranks: int) -> Node:
    """The operand that the others are made for: one of so many dimensions that there is, or a new one."""

    def fits(node: Node) -> bool:
        return node.rank in ranks and not node.dtype.is_bool and _is_mild(builder.values[node])

    found = [node for node in builder.pool if fits(node)]
    if found and not builder.rarely(3):
        return builder.late(found)
    return _factor(builder, _lengths(builder, builder.source.pick(ranks)), _number_type(builder))


def _matmul(builder: Builder, op: Op) -> dict[str, Any]:
    a = _first(builder, 2, 1, 3, 4)
    if builder.rarely(4):
        return {"a": a, "b": _factor(builder, a.shape[-1:], a.dtype)}
    batch = [builder.source.pick([n, 1]) for n in a.shape[:-2]][builder.source.integer(0, 1) :]
    return {"a": a, "b": _factor(builder, [*batch, a.shape[-1], *_lengths(builder, 1)], a.dtype)}


def _product(left: int, right: int) -> Callable[[Builder, Op], dict[str, Any]]:
    """A product of operands with so many dimensions. A first one of three is what is added."""

    def draw(builder: Builder, op: Op) -> dict[str, Any]:
        *added, first, second = op.operands
        a = _first(builder, left)
        batch, (rows, summed) = a.shape[:-2], a.shape[-2:]
        b = _factor(builder, [*batch, summed, *_lengths(builder, 1)][:right], a.dtype)
        given: dict[str, Any] = {first: a, second: b}
        for name in added:
            shape = [*(batch if op.name == "baddbmm" else ()), rows, *b.shape[left - 1 :]]
            if 0 not in a.shape:  # where torch does not broadcast what addmv adds
                shape = [builder.source.pick([n, n, 1]) for n in shape][builder.rarely(4) :]
            given |= {name: _factor(builder, shape, a.dtype), "beta": builder.source.pick([1, 0, 2, 0.5]),
                      "alpha": builder.source.pick([1, 3, 0.25])}  # fmt: skip
        return given

    return draw


def _vector_product(builder: Builder, op: Op) -> dict[str, Any]:
    a = _first(builder, 1)
    return {"a": a, op.operands[1]: _factor(builder, a.shape, a.dtype)}


def _addr(builder: Builder, op: Op) -> dict[str, Any]:
    a = _first(builder, 1)
    b = _factor(builder, _lengths(builder, 1), a.dtype)
    shape = [builder.source.pick([n, 1]) for n in (*a.shape, *b.shape)][builder.rarely(4) :]
    return {"x": _factor(builder, shape, a.dtype), "vec1": a, "vec2": b, "beta": builder.source.pick([1, 2]),
            "alpha": builder.source.pick([1, 3])}  # fmt: skip


def _linear(builder: Builder, op: Op) -> dict[str, Any]:
    x = _first(builder, 2, 1, 3)
    weight = _factor(builder, [*_lengths(builder, 1), x.shape[-1]], x.dtype)
    bias = _factor(builder, weight.shape[:1], x.dtype) if builder.rarely(2) else None
    return {"x": x, "weight": weight, "bias": bias}


def _bilinear(builder: Builder, op: Op) -> dict[str, Any]:
    first = _first(builder, 2, 1, 3)
    out, width = _lengths(builder, 2)
    return {"input1": first, "input2": _factor(builder, [*first.shape[:-1], width], first.dtype),
            "weight": _factor(builder, [out, first.shape[-1], width], first.dtype),
            "bias": _factor(builder, [out], first.dtype) if builder.rarely(2) else None}  # fmt: skip


def _inner(builder: Builder, op: Op) -> dict[str, Any]:
    a = _first(builder, 2, 1, 3, 0)
    shape = [*_lengths(builder, builder.source.integer(0, 1)), *a.shape[-1:]]
    return {"a": a, "b": _factor(builder, shape, a.dtype)}


def _vecdot(builder: Builder, op: Op) -> dict[str, Any]:
    x = _first(builder, 2, 1, 3)
    y = _factor(builder, [builder.source.pick([n, n, 1]) for n in x.shape], x.dtype)
    return {"x": x, "y": y, "dim": builder.dim(x.rank)}


def _tensordot(builder: Builder, op: Op) -> dict[str, Any]:
    a = _first(builder, 2, 1, 3)
    dims = builder.order(a.rank)[: builder.source.integer(0, 2)]
    places = builder.order(len(dims) + 1)  # b has one dimension more
    shape = _lengths(builder, len(dims) + 1)
    for d, e in zip(dims, places, strict=False):
        shape[e] = builder.source.pick([a.shape[d], a.shape[d], 1])
    return {"a": a, "b": _factor(builder, shape, a.dtype), "dims": dims, "others": places[: len(dims)]}


EQUATIONS = (
    "ij,jk->ik", "ij,jk", "bij,bjk->bik", "...ij,...jk->...ik", "ij,ij->", "ij,kj->ki", "bhid,bhjd->bhij", "ii->i",
    "ij->j", "i,j->ij", "ij,i,j->", "ij,jk,kl->il", "ijj,j->i", "...i,i->...", "a...,a...", "ij,k->k", ",i->i",
)  # fmt: skip


def _einsum(builder: Builder, op: Op) -> dict[str, Any]:
    equation = builder.source.pick(EQUATIONS)
    kind = _number_type(builder)
    letters = sorted({*equation} - {*",->."})
    sizes = dict(zip(letters, _lengths(builder, len(letters)), strict=True))
    spread = _lengths(builder, builder.source.integer(0, 2))
    tensors = []
    for term in equation.partition("->")[0].split(","):
        before, dots, after = term.partition("...")
        own = [builder.source.pick([n, 1]) for n in spread][builder.source.integer(0, 1) :] if dots else []
        shape = [sizes[name] for name in before] + own + [sizes[name] for name in after]
        tensors.append(_factor(builder, shape, kind))
    return {"tensors": tensors, "equation": equation}


def _attention(builder: Builder, op: Op) -> dict[str, Any]:
    """Queries, keys and values of a batch or none, of one head of keys for all of the queries' or for each."""
    kinds = [kind for kind in builder.limits.dtypes if dtype(kind).is_float]
    if not kinds:
        raise Refused
    dt, pick = dtype(builder.source.pick(kinds)), builder.source.pick
    heads, shared, batch = pick([2, 1, 3]), pick([False, True]), [pick([2, 1])][: pick([1, 0])]
    s, t, d, e = (pick([3, 2, 1, 5]) for _ in range(4))
    shapes = {"q": [heads, s, d], "k": [1 if shared else heads, t, d], "v": [1 if shared else heads, t, e]}
    given: dict[str, Any] = {}
    for name in op.operands[:-1] if op.name != "attention" else op.operands[:3]:
        values = fill([*batch, *shapes[name]], dt, (-2, 2), builder.source.integer(0, 1000), edges=False)
        given[name] = builder.given(values, Type(dt, values.shape))
    masked, causal = pick([None, "mask", "causal"]), "causal" if op.name == "attention" else "is_causal"
    if masked == "mask":
        given["mask"] = builder.tensor((0, 1), dtype("bool"), [*batch, heads, s, t])
    given |= {causal: masked == "causal", "scale": pick([None, 0.5])}
    if op.name != "attention":
        return given | {"gqa": shared}
    return given | {"window": pick([None, 2]), "softcap": pick([None, 2.0]), "lse": pick([False, True])}


def _sum_products(builder: Builder, op: Op) -> dict[str, Any]:
    x = _first(builder, 2, 1, 3)
    return {"x": x, "dim": builder.source.pick([None, builder.dim(x.rank)]), "precision": x.dtype.name}


CALLS: dict[str, Callable[[Builder, Op], dict[str, Any]]] = {
    "expand": _expand, "reshape": _reshape, "permute": _permute, "roll": _roll, "unflatten": _unflatten,
    "slice": _slice, "select": _select, "unfold": _unfold, "diagonal": _diagonal, "repeat": _repeat,
    "repeat_interleave": _repeat_interleave, "cat": _joined, "stack": _joined, "pad": _pad, "pad_around": _pad_around,
    "gather": _gather,
    "take_along_dim": _gather, "pick": _pick, "index": _pick, "index_select": _index_select, "select_at": _select_at,
    "slopes_between": _slopes_between,
    "embedding": _embedding, "one_hot": _one_hot,
    "nll_loss": _classes, "cross_entropy": _classes, "layer_norm": _norm, "rms_norm": _norm,
    "group_norm": _group_norm, "batch_norm": _batch_norm, "local_response_norm": _channels_first,
    "multi_margin_loss": _labels, "multilabel_margin_loss": _labels, "cosine_embedding_loss": _distances,
    "pixel_shuffle": _channels_first, "pixel_unshuffle": _channels_first, "channel_shuffle": _channels_first,
    "nearest": _nearest, "laid_out": _laid_out,
    **{f"{kind}_pool{rank}d": _pool for kind in ("avg", "max", "lp") for rank in (1, 2, 3)},
    **{f"adaptive_{kind}_pool{rank}d": _adaptive_pool for kind in ("avg", "max") for rank in (1, 2, 3)},
    "iota": _numbers, "arange": _numbers, "linspace": _numbers, "logspace": _numbers, "eye": _numbers,
    "full": _filled, "zeros": _filled, "ones": _filled, "next_float": _next_float, "histc": _binned,
    "powers": _powers,
    "random_uniform": _random, "random_exponential": _random, "random_normal": _random, "random_integers": _random,
    "topk": _ranked, "kthvalue": _ranked,
    "quantile": _quantile, "nanquantile": _quantile,
    "scatter": _scatter, "scatter_add": _scatter, "scatter_reduce": _scatter, "index_add": _rows, "index_copy": _rows,
    "index_reduce": _rows, "index_fill": _rows, "index_put": _index_put, "select_scatter": _select_scatter,
    "slice_scatter": _slice_scatter, "diagonal_scatter": _diagonal_scatter, "block_diag": _matrices,
    "cartesian_prod": _vectors, "masked_scatter": _masked_scatter, "bucketize": _ordered, "searchsorted": _ordered,
    "tril_indices": _triangle, "triu_indices": _triangle,
    "matmul": _matmul, "mm": _product(2, 2), "bmm": _product(3, 3), "mv": _product(2, 1), "dot": _vector_product,
    "addmm": _product(2, 2), "addmv": _product(2, 1), "addbmm": _product(3, 3), "baddbmm": _product(3, 3),
    "addr": _addr, "linear": _linear, "bilinear": _bilinear, "inner": _inner, "vecdot": _vecdot,
    "tensordot": _tensordot, "einsum": _einsum, "sum_products": _sum_products,
    "attention_weights": _attention, "dot_attention": _attention, "attention": _attention,
}  # fmt: skip
