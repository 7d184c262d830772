"""One trace while it runs: its inputs, and how each torch call becomes nodes.

A torch call reaches `Session.call`, by the mode or by a proxy. It is looked up (dispatch.py) as an op or as a spelling
over ops; a spelling runs as the user's own code would, so that sizes stay symbolic in it. Every op ends in
`Session.apply`, which builds the node.
"""

from __future__ import annotations

import contextvars
import functools
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from . import dispatch
from .capture import Watch
from .dispatch import name_of
from .errors import (
    BadArgument,
    DataDependent,
    DTypesDisagree,
    FuseError,
    InPlaceInput,
    ShapesDisagree,
    UnknownFunction,
    UnsupportedDevice,
    UntraceableCapture,
)
from .index import Atom, Poly, Symbol, replace
from .inputs import Input, Inputs
from .interpret import interpret, without_memory
from .ir import OPS, Graph, Node, Op, as_node, build, cast, no_rule, substitute_sizes
from .nested import holds, leaves_of, map_leaves, split_first
from .notes import Notes
from .numbers import Number
from .proxy import OWN, Proxy, Step, Storage, Value, is_over, proxy_for
from .reader import Reader
from .sizes import Facts, Size, symbols
from .types import show_shape

current: contextvars.ContextVar[Session | None] = contextvars.ContextVar("session", default=None)


class Mode(TorchFunctionMode):
    """Sends every torch call of the traced function to the session, those without tensors too."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[override]
        return self.session.call(func, args, kwargs or {})


# Ops whose result shares memory with their operand in eager.
_VIEWS = frozenset((
    "expand", "unsqueeze", "squeeze", "permute", "transpose", "reshape", "flatten", "unflatten", "slice", "select",
    "unfold", "diagonal", "select_at", "reread",
))  # fmt: skip
_MASKED = "Use torch.where(mask, x, 0), which keeps the shape, or call it outside."
_COUNTED = "Use F.one_hot(x, n).sum(0) where n is known, or torch.zeros(n).scatter_add(0, x, weights)."
_SIZED_BY_VALUES = {  # with the way out
    **dict.fromkeys(("nonzero", "masked_select", "argwhere", "unique", "unique_consecutive"), _MASKED),
    "bincount": _COUNTED,
}
_PLAIN = frozenset((int, float, bool, str, type(None), torch.dtype, torch.device))
# Errors that other sizes would not mend.
_FINAL = (DataDependent, InPlaceInput, UnknownFunction, UntraceableCapture, UnsupportedDevice)


def _ours(method: Callable) -> Callable:
    """Torch calls inside are our own: those without proxies are run as they are."""

    @functools.wraps(method)
    def inside(self: Session, *args: Any, **kwargs: Any) -> Any:
        self._depth += 1
        try:
            return method(self, *args, **kwargs)
        finally:
            self._depth -= 1

    return inside


def _settled(value: Any) -> Any:
    """A number of the caller's as what it is in this call."""
    return value.fix() if issubclass(type(value), Number) else value


class Session:
    """One trace."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.facts = Facts()
        self.reader = Reader()
        self.watch = Watch(self.reader)
        self.notes = Notes()
        self.inputs = Inputs(name, self.facts, self.reader)
        self.is_over = False
        self.refused: FuseError | None = None  # the last error of a torch call
        self._streams = 0  # of random numbers
        self._depth = 0  # methods of ours that are running
        self._values: list[weakref.ref[Value]] = []
        self._nodes: list[Node] = []  # those that values had
        self._made: dict[Atom, int] = {}  # symbol -> how many of these there were before it
        self._captured: dict[int, Proxy] = {}  # by the tensor's id

    def close(self) -> None:
        """Ends the trace. A proxy that somebody kept holds on to no tensor."""
        self.is_over = self.facts.is_over = True
        for each in self.inputs.all:
            each.tensor = None
        self._captured.clear()
        self._values.clear()
        self.watch = Watch(Reader())

    # ---- inputs ----

    def add_tensor(self, tensor: torch.Tensor, text: str, name: str, names: Mapping[int, str] | None = None) -> Proxy:
        """A proxy for a real tensor, which each call reads at `text`. names: the user's names for its sizes."""
        source = self.inputs.add_tensor(tensor, text, name, names or {})
        for size in source.node.shape:
            for symbol in symbols(size):
                self._made.setdefault(symbol, len(self._nodes))
        self.notes.names[source.node] = source.name
        return self.proxy(source.node, Storage(source.node, source), grad=tensor.requires_grad)

    def of_number(self, number: Number) -> Input:
        """The input that passes a number to the graph."""
        source = self.inputs.of_number(number)
        self.notes.names[source.node] = source.name
        return source

    def proxy_of(self, tensor: torch.Tensor) -> Proxy:
        """A proxy as it is; of a real tensor, the input that it is captured as. Raises UntraceableCapture."""
        if isinstance(tensor, Proxy):
            if tensor._fused.session is not self:
                raise is_over(repr(tensor))
            if tensor._fused.is_spent:
                what, hint = "what this view is of", "Take the view again, or use .clone() before."
                raise InPlaceInput(op=self.name, what=what, hint=hint)
            return tensor
        found = self._captured.get(id(tensor))
        if found is None:
            source = self.watch.search(tensor)
            if source is None:
                raise UntraceableCapture(
                    name=f"a tensor of shape {list(tensor.shape)}", what="no variable or attribute leads to it",
                    hint="Pass it as an argument, or keep it in a global, an enclosing function or a module.",
                )  # fmt: skip
            found = self._captured[id(tensor)] = self.add_tensor(tensor, source.text, source.name)
        return found

    def stream(self, generator: torch.Generator | None) -> tuple[Proxy, int]:
        """The seed for random numbers of a generator, and the number of a stream of their own."""
        self._streams += 1
        return self.proxy(self.inputs.seed(generator).node, grad=False), self._streams - 1

    # ---- between proxies and nodes ----

    def proxy(self, node: Node, storage: Storage | None = None, steps: tuple[Step, ...] = (), *, grad: bool) -> Proxy:
        """A proxy for a node, with memory of its own or as a view."""
        value = Value(self, node, storage or Storage(node), steps, grad)
        self._values.append(weakref.ref(value))
        self._nodes.append(node)
        for n in node.shape:
            if isinstance(n, Poly) and self.facts.compare("<", n, 2):  # n // 2 may be 1, n - 2 may be 0
                self.facts.fix(n)
        return proxy_for(value)

    def node(self, proxy: Proxy) -> Node:
        """The node that a proxy stands for."""
        if self.facts.news:
            self.settle()
        return proxy._fused.node

    @_ours
    def settle(self) -> None:
        """Brings every node up to date with what has become known of sizes. Nodes made before a symbol was do not have
        it, so that in a large function this stays the affair of a few."""
        while self.facts.news:
            start = min(self._made[symbol] for symbol in self.facts.news)
            self.facts.news.clear()
            stale = tuple(self._nodes[start:])
            old = Graph((), stale, self.name, self.notes.names, self.notes.lines)
            new = substitute_sizes(old, self.facts.known, known=self._nodes[:start])
            self._nodes[start:] = new.outputs
            self.notes.names, self.notes.lines = dict(new.names), dict(new.lines)
            settled = dict(zip(stale, new.outputs, strict=True))
            values = [value for ref in self._values if (value := ref()) is not None]
            for each in (*values, *(value.storage for value in values), *self.inputs.all):
                each.node = settled.get(each.node, each.node)

    def unwrap(self, value: Any, met: list[Proxy], fixed: bool = False) -> Any:
        """A user's value as nodes, sizes and constants, containers and all. fixed: numbers become constants."""
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is Size:
            return value.index
        if isinstance(value, torch.Tensor):
            proxy = self.proxy_of(value)
            met.append(proxy)
            return self.node(proxy)
        if isinstance(value, Number):
            return value.fix() if fixed or value.is_fixed else self.of_number(value).node
        if isinstance(value, (list, tuple, dict, slice)):
            return map_leaves(value, lambda v: self.unwrap(v, met, fixed))
        return value.item() if isinstance(value, np.generic) else value

    # ---- torch's functions ----

    def call(self, function: Callable, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What a torch call means while tracing."""
        if self._depth:
            return self._call(function, args, kwargs) if holds((args, kwargs), Proxy) else function(*args, **kwargs)
        self.notes.calls += 1
        try:
            result = self._first_call(function, args, kwargs)
        except FuseError as error:
            self.refused = error
            raise
        if isinstance(result, tuple):  # several variables may take the parts
            self.notes.record(tuple(p._fused.node for p in result if isinstance(p, Proxy)))
        return result

    @_ours
    def _first_call(self, function: Callable, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """A call that the user's code made, or torch's own Python code for it."""
        return self._call(function, args, kwargs)

    def _call(self, function: Callable, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        name = getattr(function, "__name__", "")
        if name == "__get__":
            name = function.__self__.__name__  # type: ignore[attr-defined]
            if isinstance(getattr(Proxy, name, None), property):
                return getattr(self.proxy_of(args[0]), name)
        elif name == "__hash__":
            return id(args[0])
        elif name in OWN:
            first, rest, named = split_first(args, kwargs)
            if isinstance(first, torch.Tensor):
                return OWN[name](self.proxy_of(first), *rest, **named)
        if torch._C._is_any_autocast_enabled():
            what, hint = "it changes dtypes behind the function", "Leave autocast, and cast with .to(dtype)."
            raise UntraceableCapture(name="torch.autocast", what=what, hint=hint)
        kwargs = self._checked(function, kwargs)
        in_place = bool(kwargs.pop("inplace", False))
        form = kwargs.pop("memory_format", None)
        if form not in (None, torch.preserve_format):
            return self._call(function, args, kwargs).contiguous(memory_format=form)
        target = dispatch.target_of(function)
        if target is None:
            target = dispatch.in_place_of(function)
        in_place = in_place or dispatch.base_name(name) is not None
        if in_place and holds((args, kwargs), torch.Tensor):
            return self._in_place(function, target, args, kwargs)
        if target is None and name in _SIZED_BY_VALUES:
            raise DataDependent(op=name_of(function), what="the shape of the result", hint=_SIZED_BY_VALUES[name])
        if target is None:
            return self._pass_through(function, args, kwargs)
        return self._spelled(function, target, args, kwargs)

    def _checked(self, function: Callable, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments that say nothing about values are checked here, and ignored later."""
        kwargs = dict(kwargs)
        if kwargs.get("out") is not None:
            raise BadArgument(op=name_of(function), name="out", rule="left out", got="a tensor", hint="Use the result.")
        if kwargs.get("layout") not in (None, torch.strided):
            got = kwargs["layout"]
            raise BadArgument(op=name_of(function), name="layout", rule="torch.strided", got=got, hint="")
        if kwargs.get("device") is not None:
            self.inputs.check_same(kwargs["device"], name_of(function))
        return kwargs

    def _spelled(self, function: Callable, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What an op or a spelling gives for the user's values."""
        if function in _MAKERS:
            args, kwargs = _constant_data(args, kwargs)

        def traced(value: Any) -> Any:
            return self.proxy_of(value) if isinstance(value, torch.Tensor) else value

        args, kwargs = map_leaves((tuple(args), kwargs), traced)
        try:
            return dispatch.call(target, args, kwargs)
        except FuseError:
            raise
        except (TypeError, AttributeError) as error:
            got = f"{type(error).__name__}: {error}"
            rule = "as fusedsl knows it"
            raise BadArgument(op=name_of(function), name="the call", rule=rule, got=got, hint="") from error

    def _pass_through(self, function: Callable, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """A function without a rule: run if it has nothing to do with tensors."""
        if holds((args, kwargs), torch.Tensor):
            raise no_rule(name_of(function))
        args, kwargs = map_leaves((tuple(args), dict(kwargs)), _settled)
        try:
            result = function(*args, **kwargs)
        except RuntimeError as error:
            if holds((args, kwargs), Size):  # torch makes no tensors of sizes that stay open
                raise no_rule(name_of(function)) from error
            raise
        if holds(result, torch.Tensor):
            raise no_rule(name_of(function))
        return result

    # ---- ops ----

    @_ours
    def apply(self, op: Op, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """An op on the user's values."""
        met: list[Proxy] = []
        places = list(op.signature.parameters)
        kinds = [places[min(at, len(places) - 1)] in op.rules for at in range(len(args))]
        # a number that is no operand becomes part of the kernel
        plain = tuple(self.unwrap(value, met, fixed) for value, fixed in zip(args, kinds, strict=True))
        named = {name: self.unwrap(value, met, name in op.rules) for name, value in kwargs.items()}
        try:
            result = build(op, plain, named)
        except (FuseError, TypeError) as error:
            result = self._build_fixed(op, plain, named, error)
        self.notes.record(result)
        grad = torch.is_grad_enabled() and any(proxy._fused.grad for proxy in met)
        if op.name in _VIEWS and met and isinstance(result, Node):
            base = met[0]._fused
            _, rest, options = split_first(plain, named, op.operands[0])
            step = Step(op.reference, *map_leaves((tuple(rest), options), self._kept))
            return self.proxy(result, base.storage, (*base.steps, step), grad=grad)
        return self._wrapped(result, grad)

    def _build_fixed(self, op: Op, args: tuple, kwargs: dict, error: Exception) -> Any:
        """The op again where it cannot work with symbolic sizes: with one as in this call, or else with all."""
        found = _symbols((args, kwargs))
        if isinstance(error, _FINAL) or not found:
            raise error
        for chosen in [*([s] for s in found if len(found) > 1), found]:
            mapping = {s: self.facts.values[s.name] for s in chosen}
            plain, named = _substitute((args, kwargs), mapping)
            try:
                result = build(op, plain, named)
            except (FuseError, TypeError) as again:
                error = again
                continue
            for symbol in chosen:
                self.facts.fix(symbol + 0)
            return result
        raise error from None

    def _wrapped(self, value: Any, grad: bool) -> Any:
        """What an op gave, as the user sees it."""
        if isinstance(value, Node):
            return self.proxy(value, grad=grad and value.dtype.is_float)
        if isinstance(value, (list, tuple)):
            return tuple(self._wrapped(v, grad) for v in value)
        return self.facts.size(value) if isinstance(value, Poly) else value

    def _kept(self, value: Any) -> Any:
        """What a step keeps of an argument: of an index that is data, the value that it has now."""
        return self.proxy(value, grad=False)._fused if isinstance(value, Node) else value

    def view_all(self, proxy: Proxy, step: Step, grad: bool, node: Node | None = None) -> Proxy:
        """A view of all of a tensor. node: its value, where that is another's."""
        value = proxy._fused
        return self.proxy(node or self.node(proxy), value.storage, (*value.steps, step), grad=grad)

    def contiguous(self, proxy: Proxy, memory_format: torch.memory_format) -> Proxy:
        """The tensor itself where it is; as far as results are views of one another it counts as one of it."""
        form = str(memory_format).removeprefix("torch.")
        node = build(OPS["contiguous"], (self.node(proxy),), {"memory_format": form})
        step = Step(torch.Tensor.contiguous, (), {"memory_format": memory_format})
        return self.view_all(proxy, step, proxy._fused.grad, node)

    # ---- where values lie ----

    @_ours
    def is_contiguous(self, proxy: Proxy, memory_format: torch.memory_format) -> bool:
        """Whether eager's tensor would be, in this call and in every one that this trace serves."""
        for each in self.inputs.all:
            if each.tensor is not None:
                self.facts.require(f"{each.text}.stride() == {each.tensor.stride()}")

        def known(value: Any) -> Any:
            return self.facts.value(value) if isinstance(value, Poly) else 0 if isinstance(value, Value) else value

        tensor = self._memory_of(proxy._fused.storage)
        for step in proxy._fused.steps:
            tensor = step.function(tensor, *map_leaves(step.args, known), **map_leaves(step.kwargs, known))
        return tensor.is_contiguous(memory_format=memory_format)

    def _memory_of(self, storage: Storage) -> torch.Tensor:
        if storage.source is not None and storage.source.tensor is not None:
            return without_memory(storage.source.tensor)
        graph = Graph(tuple(each.node for each in self.inputs.all), (storage.node,), self.name)
        values = [1 if each.tensor is None else without_memory(each.tensor) for each in self.inputs.all]
        return interpret(graph, values, self.facts.values)[0]

    # ---- in place ----

    def changeable(self, tensor: Any, function: Any) -> Proxy:
        """The proxy that an in-place function may change. Raises InPlaceInput."""
        hint = "Use the out-of-place form, and return the new value."
        proxy = self.proxy_of(tensor)
        source = proxy._fused.storage.source
        if source is not None:
            raise InPlaceInput(op=name_of(function), what=f"the input {source.name}", hint=hint)
        if proxy._fused.packed is not None:
            raise InPlaceInput(op=name_of(function), what="what is quantized", hint=hint)
        if proxy._fused.shares:
            what = "a tensor that shares memory with another (a view and its base)"
            hint = ("Change the base while no view of it is kept: h[0] = h[0] + 1 in the place of h[0] += 1, and views "
                    "are taken after it.")  # fmt: skip
            raise InPlaceInput(op=name_of(function), what=what, hint=hint)
        return proxy

    def last_use(self, proxy: Proxy) -> Proxy:
        """What a view holds now, to be written to the memory that it is of: h[0] = h[1]. It may not be used again."""
        now = self.proxy(self.node(self.proxy_of(proxy)), grad=proxy._fused.grad)
        proxy._fused.is_spent = True
        return now

    def _in_place(self, function: Callable, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Proxy:
        first, rest, named = split_first(args, kwargs, "tensor")
        proxy = self.changeable(first, function)
        if target is None:
            raise no_rule(name_of(function))
        result = self._spelled(function, target, (proxy, *rest), named)
        if result._fused.storage is proxy._fused.storage and result is not proxy:  # h.t_(): another view of the same
            proxy._fused.node, proxy._fused.steps = self.node(result), result._fused.steps
            return proxy
        return self._rebind(proxy, self.node(result), result._fused.grad, function)

    @_ours
    def store(self, proxy: Proxy, source: Any, function: Callable) -> Proxy:
        """Fills a tensor with another, or with a number."""
        self.changeable(proxy, function)
        met: list[Proxy] = []
        node = cast(as_node(self.unwrap(source, met)), self.node(proxy).dtype)
        grad = torch.is_grad_enabled() and any(each._fused.grad for each in met)
        return self._rebind(proxy, node, grad, function)

    def _rebind(self, proxy: Proxy, node: Node, grad: bool, function: Callable) -> Proxy:
        """Gives a proxy a value that was computed for it, in its dtype and shape."""
        old = self.node(proxy)
        if old.dtype.torch and node.dtype.torch and not torch.can_cast(node.dtype.torch, old.dtype.torch):
            rule, got = "a result must fit the dtype that it is stored in", f"{node.dtype} into {old.dtype}"
            raise DTypesDisagree(op=name_of(function), rule=rule, got=got, hint="Use the out-of-place form.")
        if node.rank > old.rank:
            got = f"{show_shape(node.shape)} into {show_shape(old.shape)}"
            raise ShapesDisagree(op=name_of(function), rule="a result must fit in place", got=got, hint="")
        if node.shape != old.shape:
            node = build(OPS["expand"], (node, old.shape), {})
        node = build(OPS["laid_out"], (node, old), {})  # where it lies stays
        value = proxy._fused
        value.node, value.steps, value.grad = cast(node, old.dtype), (), value.grad or grad
        value.put_in(Storage(value.node))
        self._nodes.append(value.node)
        self.notes.record(value.node)
        return proxy


# ---- nested arguments -----------------------------------------------------------------------------------------------


def _symbols(value: Any) -> list[Symbol]:
    """The symbols in nodes' shapes and in sizes, those of the last dimensions first."""
    found: dict[Symbol, None] = {}
    for leaf in leaves_of(value):
        for index in reversed(leaf.shape) if isinstance(leaf, Node) else (leaf,):
            if isinstance(index, Poly):
                found.update(dict.fromkeys(symbols(index)))
    return list(found)


def _substitute(value: Any, mapping: Mapping) -> Any:
    """Nodes and sizes with symbols replaced."""
    nodes = [leaf for leaf in leaves_of(value) if isinstance(leaf, Node)]
    new = dict(zip(nodes, substitute_sizes(Graph((), tuple(nodes)), mapping).outputs, strict=True))

    def change(leaf: Any) -> Any:
        if isinstance(leaf, Node):
            return new[leaf]
        return replace(leaf, mapping) if isinstance(leaf, Poly) else leaf

    return map_leaves(value, change)


# ---- tensors made of Python values ----------------------------------------------------------------------------------

_MAKERS = (torch.tensor, torch.as_tensor, torch.scalar_tensor, torch.asarray)
_SMALL = 64


def _constant_data(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """The arguments of torch.tensor and its like: few numbers, which become constants. Raises UntraceableCapture."""
    named = dict(kwargs)
    data, *rest = args if args else (named.pop("data", None),)
    if not isinstance(data, torch.Tensor) and hasattr(data, "tolist"):
        data = data.tolist()
    leaves = leaves_of(data)
    if len(leaves) > _SMALL:
        what = f"{len(leaves)} values are too many for constants of a kernel"
        hint = "Make the tensor once, outside, and capture it or pass it."
        raise UntraceableCapture(name="torch.tensor", what=what, hint=hint)
    if isinstance(data, (list, tuple)) and holds(data, torch.Tensor):
        raise DataDependent(op="torch.tensor", what="the result", hint="Use torch.stack.")
    if not rest and named.get("dtype") is None and any(isinstance(v, torch.SymFloat) for v in leaves):
        named["dtype"] = torch.get_default_dtype()
    return (data, *rest), named
