"""Packed tensors that a fused function reads: the layout of codes that suits the reading, and what they stand for.

While a function is traced a packed tensor is an input like any other. Afterwards its parts take its place: words in
slabs where a contraction sums over its axis, bytes in rows elsewhere, with the arithmetic that makes numbers of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from .formats import ELEMENTS
from .index import Index, Variable, poly, sole_atom
from .inputs import Input, Inputs
from .ir import Graph, Node, cast, map_nodes
from .ops.convert import contiguous, narrow
from .ops.indexing import cat
from .ops.movement import permute, transpose
from .ops.packing import dequantised, unpack_rows, unpack_slabs, unpack_trits
from .packed import Packed, Slabs
from .packing import LANES
from .quantise import group_count
from .types import DEPTH_OF_EIGHTS, EIGHTS, DType, i8, u16

Place = tuple[Index, ...]
MOST_PLACES = 64  # at which a tensor is looked for below one contraction


def unpacked(graph: Graph, inputs: Inputs) -> Graph:
    """The graph with the parts of packed inputs in their place."""
    wholes = {each.node: each for each in inputs.all if each.packed is not None}
    used = [node for node in graph.nodes if node in wholes]
    if not used:
        return graph
    contractions = [node for node in _primitives(graph.outputs) if node.op.contracts]
    layouts = {node: _slab_rows(wholes[node], wholes, contractions) for node in used}
    values = {node: _value(wholes[node], inputs, layouts[node]) for node in used}
    done = map_nodes(graph.outputs, lambda node: values.get(node, node))
    return graph.rewritten({old: new for old, new in done.items() if old not in values})


# ---- which layout ----------------------------------------------------------------------------------------------------


def _slab_rows(whole: Input, wholes: Mapping[Node, Input], contractions: Sequence[Node]) -> int:
    """The rows of slabs, 0 for the layout of rows. A contraction that sums over the axis is to read a tile's codes at
    once. A product of 8-bit numbers sums over more rows at once, and takes whole bytes as they are."""
    packed = whole.packed
    assert packed is not None
    if packed.format.element.kind == "ternary" or packed.dim() < 2 or packed.shape[packed.axis] < LANES:
        return 0
    sums = [node for node in contractions if _sums_over(node, whole.node, packed.axis)]
    kind = packed.format.eight
    if kind is not None and any(_is_of_eights(node, kind, wholes) for node in sums):
        return 0 if packed.format.element.bits == kind.bits else DEPTH_OF_EIGHTS
    return LANES if sums else 0


def _sums_over(fold: Node, tensor: Node, axis: int) -> bool:
    return any(sole_atom(place[axis]) in summed for place, summed in _places(fold, tensor))


def _is_of_eights(fold: Node, kind: DType, wholes: Mapping[Node, Input]) -> bool:
    """Whether a contraction is a product of matrices of 8-bit numbers."""
    own = [n for d, n in enumerate(fold.inputs[0].shape) if d not in fold["dim"] and n != 1]
    return len(own) > 1 and _eights(fold.inputs[0], wholes).count(kind) > 1


def _eights(node: Node, wholes: Mapping[Node, Input]) -> list[DType | None]:
    """The types of 8 bits that factors of a product are numbers of, None for other factors, such as scales. What is
    computed is decided by fusedsl.eights; where that sees more or less, only the layout suits worse."""
    packed, name = wholes[node].packed if node in wholes else None, node.op.name
    if packed is not None:
        return [packed.format.eight]
    if name == "small_float":
        return [ELEMENTS[node["element"]].eight]
    if node.dtype in EIGHTS:
        return [node.dtype]
    below = [node.expansion] if node.op.expand is not None else node.inputs
    if name == "cast" and not below[0].dtype.is_float:
        return [i8 if below[0].dtype.bits <= 8 else None]
    if name in ("add", "sub"):
        is_whole = all(arg.op.name == "const" or _eights(arg, wholes) == [i8] for arg in below)
        return [i8 if is_whole else None]
    is_same = node.op.index is not None or node.op.expand is not None or name in ("retype", "cast", "clone")
    return [kind for arg in below for kind in _eights(arg, wholes)] if is_same or name == "mul" else [None]


def _primitives(outputs: Sequence[Node]) -> list[Node]:
    """Every node, and those that compositions stand for."""
    found: dict[Node, None] = {}
    waiting = list(outputs)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found[node] = None
            waiting += [*node.inputs, *([node.expansion] if node.op.expand is not None else [])]
    return list(found)


def _places(fold: Node, tensor: Node) -> Iterator[tuple[Place, set[Variable]]]:
    """Where a contraction reads a tensor, in terms of the axes of what it sums over, and which of them it sums over."""
    (source,) = fold.inputs
    axes = [Variable(f"k{d}", n) for d, n in enumerate(source.shape)]
    summed = {axes[d] for d in fold["dim"]}
    waiting: list[tuple[Node, Place]] = [(source, tuple(map(poly, axes)))]
    seen = set(waiting)
    while waiting and len(seen) < MOST_PLACES:
        node, place = waiting.pop()
        if node is tensor:
            yield place, summed
        for below in _below(node, place):
            if below not in seen:
                seen.add(below)
                waiting.append(below)


def _below(node: Node, place: Place) -> Iterator[tuple[Node, Place]]:
    """The elements of operands that an element is made of, through views and elementwise ops."""
    if node.op.expand is not None:
        yield node.expansion, place
    elif node.op.index is not None:
        yield node.inputs[0], tuple(node.op.index(node, place))
    elif node.op.triton is not None:
        for arg in node.inputs:
            aligned = place[len(place) - arg.rank :] if arg.rank else ()
            yield arg, tuple(0 if n == 1 else i for i, n in zip(aligned, arg.shape, strict=True))


# ---- what the parts stand for ----------------------------------------------------------------------------------------


def _value(whole: Input, inputs: Inputs, rows: int) -> Node:
    """The numbers, of the tensor's dtype and in its order of dimensions. rows: of slabs, 0 where there are none."""
    packed, in_slabs = whole.packed, rows > 0
    assert packed is not None
    rank = packed.dim()
    stored = [whole.node.shape[packed.dims.index(d)] for d in range(rank)]
    reader = _Reader(whole, inputs, packed, stored, rows)
    codes, axis = (reader.slabs(), rank - 2) if in_slabs else (reader.rows(), rank - 1)
    value = narrow(dequantised(codes, packed.format, reader.shared(in_slabs), axis), whole.node.dtype)
    place = [*range(rank - 2), rank - 1, rank - 2] if in_slabs else list(range(rank))
    in_memory = contiguous(permute(value, [place[packed.dims[d]] for d in packed.order]))
    return permute(in_memory, [packed.order.index(d) for d in range(rank)])


@dataclass
class _Reader:
    """Makes inputs of a packed tensor's parts. stored: its sizes, the axis last. slab_rows: 0 for no slabs."""

    whole: Input
    inputs: Inputs
    packed: Packed
    stored: Sequence[Index]
    slab_rows: int

    @property
    def _slabs(self) -> tuple[Slabs, str]:
        """The slabs, and how a call finds them."""
        return self.packed.slabs(self.slab_rows), f"slabs({self.slab_rows})"

    @property
    def size(self) -> int:
        """Of the axis, which is a number while a function is traced."""
        return self.packed.shape[self.packed.axis]

    def part(self, attribute: str, name: str, tensor: torch.Tensor, *shape: Index) -> Node:
        return self.inputs.add_part(self.whole, attribute, name, tensor, shape)

    def rows(self) -> Node:
        """The codes [*rest, K] in bytes."""
        rest, size = self.stored[:-1], self.size
        data = self.part("data", "codes", self.packed.data, *rest, self.packed.data.shape[-1])
        element = self.packed.format.element
        return unpack_trits(data, size) if element.kind == "ternary" else unpack_rows(data, element.bits, size)

    def slabs(self) -> Node:
        """The codes [*batch, K, N] in words, and what is left of K in bytes."""
        *batch, columns, _ = self.stored
        (found, path), bits, pieces = self._slabs, self.packed.format.element.bits, []
        for name, words in (("main", found.main), ("rest", found.rest)):
            if words is not None:
                tiles, rows = words.shape[-4], words.shape[-2]
                node = self.part(f"{path}.{name}", f"codes_{name}", words, *batch, tiles, bits, rows, columns)
                pieces.append(unpack_slabs(node, bits, rows))
        if found.tail is not None:
            data = self.part(f"{path}.tail", "codes_tail", found.tail, *batch, columns, found.tail.shape[-1])
            pieces.append(transpose(cast(unpack_rows(data, bits, self.size % LANES), u16), -1, -2))
        return pieces[0] if len(pieces) == 1 else cat(pieces, -2)

    def shared(self, in_slabs: bool) -> dict[str, Node]:
        """What codes are put together with. In slabs groups are along the last dimension but one, as codes are."""
        rest, groups = self.stored[:-1], group_count(self.packed.format, self.size)
        shape = [*rest[:-1], groups, rest[-1]] if in_slabs else [*rest, groups]
        found: dict[str, Node] = {}
        for name, tensor in self.packed.parts._asdict().items():
            if tensor is not None and name in ("scale", "zero"):
                made, path = self._slabs if in_slabs else (self.packed, "")
                held = getattr(made, name)
                found[name] = self.part(f"{path}.{name}" if in_slabs else name, name, held, *shape)
            elif tensor is not None and name != "data":
                found[name] = self.part(name, name, tensor, *tensor.shape)
        return found
