"""A dimension of stride 0 holds one element: every index into it reads that one.

An expanded vector is then loaded as the vector that it is, whatever shape it was given.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..ir import Node
from ..kernel import Buffer
from ..lower import Origin, Write, follow
from ..scalar import Expr, make, rebuilt, walk


def still_dims(writes: list[Write], buffers: Mapping[Node, Buffer], origin: Origin | None = None) -> list[Write]:
    """The writes with index 0 along such dimensions."""
    done: dict[Expr, Expr] = {}
    for e in walk([w.value for w in writes]):
        new = rebuilt(e, done)
        done[e] = _still(new, buffers) if e.kind == "load" else new
    follow(origin, done)
    return [Write(w.tensor, w.axes, w.index, done[w.value]) for w in writes]


def _still(e: Expr, buffers: Mapping[Node, Buffer]) -> Expr:
    buffer = buffers[e["tensor"]]
    index = tuple(0 if stride == 0 else i for i, stride in zip(e["index"], buffer.strides, strict=True))
    return make("load", e.dtype, e.args, tensor=e["tensor"], index=index)
