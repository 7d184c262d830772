"""What a traced function returned, and how a call's results are made of the graph's outputs.

A returned input is the very tensor that was passed, and a returned view of it is taken of that tensor again, so that
both alias as in eager; so do several results that share memory with each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.utils import _pytree as pytree

from .errors import BadArgument, NeedsGrad
from .index import Poly, evaluate, is_less
from .inputs import Input
from .ir import OPS, Node, build
from .nested import holds, map_leaves
from .numbers import Number
from .proxy import Proxy, Step, Value
from .session import Session
from .sizes import Size


@dataclass(slots=True)
class Bound:
    """One call's inputs, in the order of graph.inputs, and what its size symbols are."""

    values: list[Any]
    sizes: dict[str, int]


@dataclass(frozen=True)
class Output:
    """An output of the graph by its number: the index that a view is taken at."""

    number: int


@dataclass(frozen=True)
class Replay:
    """Views taken one after the other, to be taken of a real tensor."""

    steps: tuple[Step, ...]

    def __call__(self, tensor: torch.Tensor, bound: Bound, outputs: Sequence[torch.Tensor]) -> torch.Tensor:
        def known(value: Any) -> Any:
            if isinstance(value, Output):
                return outputs[value.number]
            return evaluate(value, bound.sizes) if isinstance(value, Poly) else value

        for step in self.steps:
            tensor = step.function(tensor, *map_leaves(step.args, known), **map_leaves(step.kwargs, known))
        return tensor


@dataclass(frozen=True)
class Results:
    """How a call's results are made. One leaf for each, in the order of the spec:

    ("node", k)                  output k of the graph
    ("output_view", k, replay)   a view of output k, which is returned too or shared by other views
    ("input", k)                 the tensor passed as input k, itself
    ("view", k, replay)          a view of it
    ("number", k)                the number passed as input k
    ("size", size)               a size
    ("value", value)             anything else
    """

    spec: pytree.TreeSpec
    leaves: tuple[tuple, ...]

    def build(self, bound: Bound, outputs: Sequence[torch.Tensor]) -> Any:
        """The results, given the graph's outputs."""
        if self._is_output:
            return outputs[0]
        made = [self._leaf(leaf, bound, outputs) for leaf in self.leaves]
        if self.spec.is_leaf():
            return made[0]
        return tuple(made) if self._is_tuple else pytree.tree_unflatten(made, self.spec)

    @cached_property
    def _is_output(self) -> bool:
        """Most functions: one result, which is the graph's one output."""
        return self.spec.is_leaf() and self.leaves == (("node", 0),)

    @cached_property
    def _is_tuple(self) -> bool:
        return self.spec.type is tuple and all(child.is_leaf() for child in self.spec.children())

    def _leaf(self, leaf: tuple, bound: Bound, outputs: Sequence[torch.Tensor]) -> Any:
        kind, what, *rest = leaf
        if kind in ("node", "output_view"):
            return rest[0](outputs[what], bound, outputs) if rest else outputs[what]
        if kind in ("input", "view", "number"):
            return rest[0](bound.values[what], bound, outputs) if rest else bound.values[what]
        return evaluate(what, bound.sizes) if kind == "size" else what


# ---- sorting out what was returned ----------------------------------------------------------------------------------


def placed(session: Session, leaf: tuple, places: Mapping[int, int]) -> tuple:
    """A leaf with inputs as places among the graph's, and sizes in terms of the symbols that are left."""
    kind, what, *rest = leaf
    if isinstance(what, Input):
        what = places[id(what)]
    elif kind == "size":
        what = session.facts.resolve(what)
    return kind, what, *(Replay(tuple(_resolved(session, step) for step in replay.steps)) for replay in rest)


def _resolved(session: Session, step: Step) -> Step:
    def resolve(value: Any) -> Any:
        return session.facts.resolve(value) if isinstance(value, Poly) else value

    return Step(step.function, map_leaves(step.args, resolve), map_leaves(step.kwargs, resolve))


class Ends:
    """Sorts out what the function returned: which values are outputs of the graph, and which are views of others."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.outputs: list[Any] = []  # values and storages, which hold the nodes
        self.inputs: list[Input] = []
        self._grads: list[Proxy] = []
        self._places: dict[int, int] = {}

    def leaves(self, leaves: Sequence[Any]) -> list[tuple]:
        shared: dict[int, set[int]] = {}
        for leaf in leaves:
            if type(leaf) is Proxy:
                shared.setdefault(id(leaf._fused.storage), set()).add(id(leaf))
        return [self._leaf(leaf, shared) for leaf in leaves]

    def _leaf(self, leaf: Any, shared: Mapping[int, set[int]]) -> tuple:
        if type(leaf) is Proxy:
            source = leaf._fused.storage.source
            if source is not None:
                return self._input("view" if leaf._fused.steps else "input", source, *self._replays(leaf))
            return self._output(leaf, len(shared[id(leaf._fused.storage)]) > 1)
        if type(leaf) is Size:
            return ("value", leaf.index) if isinstance(leaf.index, int) else ("size", leaf.index)
        if isinstance(leaf, Number):
            if leaf.is_fixed:
                return ("value", leaf.value)
            return self._input("number", self.session.of_number(leaf))
        holds = any(isinstance(part, Proxy) for part in getattr(leaf, "__dict__", {}).values())
        if holds or isinstance(leaf, Iterator):
            rule, hint = "made of lists, tuples and dicts", "Register its class with torch.utils._pytree."
            if isinstance(leaf, Iterator):
                hint = "Give a list of what it goes through."
            got = f"a {type(leaf).__name__}"
            raise BadArgument(op=self.session.name, name="the result", rule=rule, got=got, hint=hint)
        return ("value", leaf)

    def _input(self, kind: str, source: Input, *replay: Replay) -> tuple:
        self.inputs.append(source)
        return (kind, source, *replay)

    def _output(self, proxy: Proxy, is_shared: bool) -> tuple:
        """A view is computed itself where it is the only result with its memory, and smaller than the whole or at an
        index that is data, which a call would have to wait for."""
        self._grads.append(proxy)
        value = proxy._fused
        in_part = holds([(step.args, step.kwargs) for step in value.steps], Value)
        in_part = in_part or is_less(value.node.type.size, value.storage.node.type.size)
        if not is_shared and (not value.steps or in_part):
            return ("node", self._place(value))
        at = self._place(value.storage)
        return ("output_view", at, *self._replays(proxy)) if value.steps else ("node", at)

    def _replays(self, proxy: Proxy) -> tuple[Replay, ...]:
        def placed(value: Any) -> Any:
            return Output(self._place(value)) if isinstance(value, Value) else value

        steps = [Step(s.function, *map_leaves((s.args, s.kwargs), placed)) for s in proxy._fused.steps]
        return (Replay(tuple(steps)),) if steps else ()

    def _place(self, holder: Any) -> int:
        at = self._places.get(id(holder))
        if at is None:
            at = self._places[id(holder)] = len(self.outputs)
            self.outputs.append(holder)
        return at

    def nodes(self) -> tuple[Node, ...]:
        """The graph's outputs: two tensors that happen to be equal are two."""
        found: list[Node] = []
        for holder in self.outputs:
            node = holder.node
            while node in found or node.op.name == "input":
                node = build(OPS["clone"], (node,), {})
            found.append(node)
        return tuple(found)

    def refuse_grad(self) -> None:
        """Raises NeedsGrad where autograd would have recorded an output."""
        if any(proxy._fused.grad for proxy in self._grads):
            known = [each for each in self.session.inputs.all if each.tensor is not None and each.tensor.requires_grad]
            raise NeedsGrad(name=known[0].name)
