"""Runs any Graph with the ops' torch references: the oracle.

`interpret(graph, values)` is what eager computes: ops one at a time, each in its own dtype, on any device (on meta
tensors too, for shapes and strides). A Python number stays one, so that `x * 0.1` is torch's own multiplication by a
number, which keeps 0.1 in f32 even where x is f16.

`interpret(graph, values, dtype=torch.float64)` is the reference for accuracy: the same function of real numbers, as
far as f64 can tell. Float inputs are widened and nothing between them and the outputs is rounded to a float of 16 bits
or more: such a dtype says where values are stored, and what storing costs is what is measured. A cast to f8, to an
integer or to bool still does what it says, because it is part of the function: quantising, truncating, testing.
Compositions run as what they stand for, since the limits and defaults in it are those of the user's dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from .errors import ShapesDisagree
from .index import Poly, Symbol, evaluate, sole_atom
from .ir import Graph, Node, map_nodes
from .types import DType, show_shape
from .types import dtype as dtype_of

Number = bool | int | float
Value = torch.Tensor | Number


def interpret(
    graph: Graph,
    values: Sequence[Value],
    sizes: Mapping[str, int] | None = None,
    *,
    dtype: torch.dtype | None = None,
    shortcut: Callable[[Node, Sequence[Value | None]], Value | None] | None = None,
) -> list[torch.Tensor]:
    """The outputs for these inputs. sizes: the symbols' values, by default read off the inputs' shapes.
    dtype: narrower floats are computed in it, and not rounded (see above).
    shortcut: gives the value of a node with these arguments where that is known without running it, else None."""
    machine = Machine(sizes_of(graph, values) if sizes is None else sizes, dtype)
    if dtype is not None:
        graph = _expanded(graph)
    known = {node: machine.widened(value) for node, value in zip(graph.inputs, values, strict=True)}
    device = next((v.device for v in values if isinstance(v, torch.Tensor)), torch.device("cpu"))
    with torch.no_grad(), device:
        for node in graph.nodes:
            if node not in known:
                args = [a if a is None else known[a] for a in node.args]
                value = shortcut(node, args) if shortcut is not None else None
                known[node] = machine.run(node, args) if value is None else value
        return [machine.tensor(known[node], node) for node in graph.outputs]


def sizes_of(graph: Graph, values: Sequence[Value]) -> dict[str, int]:
    """What the size symbols stand for, given the inputs. Raises ShapesDisagree where inputs contradict each other."""
    sizes: dict[str, int] = {}
    pairs = [(n, v) for n, v in zip(graph.inputs, values, strict=True) if isinstance(v, torch.Tensor)]
    for node, value in pairs:
        for size, number in zip(node.shape, value.shape, strict=False):
            if isinstance(atom := sole_atom(size), Symbol):
                sizes.setdefault(atom.name, number)
    for node, value in pairs:
        if [evaluate(n, sizes) for n in node.shape] != list(value.shape):
            known = f" where {', '.join(f'{k} = {v}' for k, v in sizes.items())}" if sizes else ""
            raise ShapesDisagree(op=graph.name, rule=f"{node['name']} must be {show_shape(node.shape)}{known}",
                                 got=list(value.shape), hint="")  # fmt: skip
    return sizes


def _expanded(graph: Graph) -> Graph:
    """The graph without compositions."""
    while any(node.op.expand is not None for node in graph.nodes):
        graph = graph.rewritten(map_nodes(graph.outputs, lambda n: n.expansion if n.op.expand is not None else n))
    return graph


# Pointwise functions whose results on meta tensors are laid out in another way than those of torch's kernels.
_OTHER_LAYOUT = {"copysign", "floor_divide", "logaddexp", "xlogy"}


def without_memory(tensor: torch.Tensor) -> torch.Tensor:
    """A meta tensor that is laid out like this one."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _laid_out(result: torch.Tensor, args: Sequence[Value | None]) -> torch.Tensor:
    """A meta result with the strides that a kernel would choose, as of any pointwise function of these operands."""
    tensors = [torch.empty_strided(a.shape, a.stride(), device="meta") for a in args if isinstance(a, torch.Tensor)]
    like = torch.add(tensors[0], tensors[-1])
    return torch.empty_strided(result.shape, like.stride(), dtype=result.dtype, device="meta")


class Machine:
    """Runs nodes one at a time, for given sizes, with floats narrower than `dtype` in it."""

    def __init__(self, sizes: Mapping[str, int], dtype: torch.dtype | None = None) -> None:
        self.sizes = sizes
        self.dtype = dtype and dtype_of(dtype)

    def run(self, node: Node, args: Sequence[Value | None]) -> Value:
        """The node's value on these arguments."""
        if node.op.name in ("const", "size"):
            return self._attribute(node["value"])
        if node.op.name in ("cast", "retype"):
            return self._cast(node, args[0])
        if node.op.kind == "elementwise" and not any(isinstance(a, torch.Tensor) for a in args):
            with torch.device("cpu"):  # numbers give a number, wherever the tensors are
                return self._apply(node, self._tensors(node, args)).item()
        return self._apply(node, args)

    def widened(self, value: Value) -> Value:
        """An input in the dtype that it is computed in."""
        return value.to(self._torch(dtype_of(value.dtype))) if isinstance(value, torch.Tensor) else value

    def tensor(self, value: Value | None, node: Node) -> torch.Tensor:
        """The value of a node as a tensor."""
        return value if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=self._torch(node.dtype))

    def _torch(self, dt: DType) -> torch.dtype:
        if self.dtype is not None and dt.is_float and self.dtype.holds(dt):
            dt = self.dtype
        assert dt.torch is not None, f"no torch tensor holds {dt}"
        return dt.torch

    def _cast(self, node: Node, value: Any) -> Value:
        (source,) = node.inputs
        if not isinstance(value, torch.Tensor):
            # a number that takes on a tensor's float dtype is not rounded by that, neither in eager nor in a kernel
            if source.type.weak and node.dtype.is_float:
                return float(value)
            with torch.device("cpu"):
                return self._cast(node, self.tensor(value, source)).item()  # type: ignore[union-attr]
        if node.dtype.is_float and node.dtype.bits < 16:
            value = value.to(node.dtype.torch)
        return value.to(self._torch(node.dtype), copy=True)

    def _tensors(self, node: Node, args: Sequence[Value | None]) -> list[Any]:
        return [a if n is None else self.tensor(a, n) for a, n in zip(args, node.args, strict=True)]

    def _as_eager(self, node: Node, args: Sequence[Value | None]) -> list[Any]:
        """The arguments as eager gets them: Python numbers as they are, 0-dim tensors that are known as tensors. A
        primitive op's operands have one dtype by now, so that there a number does for either."""
        plain = node.op.expand is None
        return [
            a if n is None or plain or n.type.weak else self.tensor(a, n) for a, n in zip(args, node.args, strict=True)
        ]

    def _apply(self, node: Node, args: Sequence[Value | None]) -> torch.Tensor:
        wanted = self._torch(node.dtype)
        try:
            result = self._call(node, self._as_eager(node, args))
        except (TypeError, AttributeError, RuntimeError):  # where torch takes no number, no two, or not this one
            result = None
        if result is None or result.dtype != wanted:
            result = self._call(node, self._tensors(node, args))
        weak = any(a is not None and a.type.weak for a in node.args)  # a number as a tensor promotes like one
        if weak or result.dtype == node.dtype.torch:  # what reads bits knows the dtype
            result = result.to(wanted)
        assert result.dtype == wanted, f"the reference gives {result.dtype}: {node} of {node.args}"
        return _laid_out(result, args) if result.is_meta and node.op.name in _OTHER_LAYOUT else result

    def _call(self, node: Node, args: list[Any]) -> torch.Tensor:
        attrs = {key: self._attribute(value) for key, value in node.attrs}
        if node.op.variadic:
            return node.op.reference(args, **attrs)
        return node.op.reference(**dict(zip(node.op.operands, args, strict=True)), **attrs)

    def _attribute(self, value: Any) -> Any:
        if isinstance(value, Poly):
            return evaluate(value, self.sizes)
        if isinstance(value, DType):
            return self._torch(value)
        if isinstance(value, tuple):
            return tuple(map(self._attribute, value))
        return value
