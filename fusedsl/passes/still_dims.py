"""A dimension of stride 0 holds one element: every index into it reads that one.

An expanded vector is then loaded as the vector that it is, whatever shape it was given.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..index import Atom, Index, poly
from ..ir import Node
from ..kernel import Buffer
from ..lower import Origin, Write
from ..scalar import Expr, Loaded, indices, loaded_in, make, rebuild, walk


def still_dims(writes: list[Write], buffers: Mapping[Node, Buffer], origin: Origin | None = None) -> list[Write]:
    """The writes with index 0 along such dimensions."""
    done: dict[Expr, Expr] = {}
    for e in walk([w.value for w in writes]):
        values: dict[Atom, Index] = {v: poly(Loaded(done[v.expr], v.below)) for i in indices(e) for v in loaded_in(i)}
        new = rebuild(e, tuple(done[a] for a in e.args), values)
        done[e] = _still(new, buffers) if e.kind == "load" else new
    if origin is not None:
        origin.update({new: origin[old] for old, new in done.items() if old in origin and new not in origin})
    return [Write(w.tensor, w.axes, w.index, done[w.value]) for w in writes]


def _still(e: Expr, buffers: Mapping[Node, Buffer]) -> Expr:
    buffer = buffers[e["tensor"]]
    index = tuple(0 if stride == 0 else i for i, stride in zip(e["index"], buffer.strides, strict=True))
    return make("load", e.dtype, e.args, tensor=e["tensor"], index=index)
