"""One trace while it runs: its inputs, and how each torch call becomes nodes.

A torch call reaches `Session.call`, by the mode or by a proxy. It is looked up (dispatch.py) as an op or as a spelling
over ops; a spelling runs as the user's own code would, so that sizes stay symbolic in it. Every op ends in
`Session.apply`, which builds the node.
"""

from __future__ import annotations

import contextvars
import functools
import os
import re
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from . import dispatch
from .capture import Reader, Watch, reading
from .dispatch import name_of
from .errors import (
    BadArgument,
    DataDependent,
    DTypesDisagree,
    FuseError,
    InPlaceInput,
    Line,
    ShapesDisagree,
    UnknownFunction,
    UnsupportedDevice,
    UntraceableCapture,
    is_user_file,
)
from .index import Index, Poly, Symbol, replace
from .ir import OPS, Graph, Node, Op, as_node, build, cast, intern, no_rule, substitute_sizes
from .numbers import Number
from .proxy import OWN, Input, Proxy, Step, Storage, Value, is_over, proxy_for
from .sizes import Facts, Size, symbols
from .types import Type, dtype, f64, i64, show_shape

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
    "unfold", "diagonal",
))  # fmt: skip
_EMPTY = ("empty", "empty_like", "empty_strided", "new_empty")
_SIZED_BY_VALUES = ("nonzero", "masked_select", "argwhere", "unique", "unique_consecutive", "bincount")
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


class Session:
    """One trace."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.facts = Facts()
        self.reader = Reader()
        self.watch = Watch(self.reader)
        self.notes = Notes()
        self.inputs: list[Input] = []
        self.number_names: dict[str, str] = {}  # text of a number that is an argument -> its name
        self.device: torch.device | None = None
        self.is_over = False
        self.refused: FuseError | None = None  # the last error of a torch call
        self._depth = 0  # methods of ours that are running
        self._values: list[weakref.ref[Value]] = []
        self._captured: dict[int, Proxy] = {}  # by the tensor's id
        self._numbers: dict[str, Input] = {}
        self._taken: set[str] = set()

    def close(self) -> None:
        """Ends the trace. A proxy that somebody kept holds on to no tensor."""
        self.is_over = True
        for each in self.inputs:
            each.tensor = None
        self._captured.clear()
        self._values.clear()
        self.watch = Watch(Reader())

    # ---- inputs ----

    def add_tensor(self, tensor: torch.Tensor, text: str, name: str, names: Mapping[int, str] | None = None) -> Proxy:
        """A proxy for a real tensor, which each call reads at `text`. names: the user's names for its sizes."""
        check_tensor(tensor, name, self.name)
        self._check_device(tensor, name)
        local = text if text.isidentifier() else self.reader.local(text)
        shape = self._read_tensor(local, tensor, names or {})
        name = self._unique(name)
        node = intern(OPS["input"], (), {"name": name, "number": False}, Type(dtype(tensor.dtype), shape))
        self.notes.names[node] = name
        source = Input(node, name, local, tensor)
        self.inputs.append(source)
        return self.proxy(node, Storage(node, source), grad=tensor.requires_grad)

    def _read_tensor(self, local: str, tensor: torch.Tensor, names: Mapping[int, str]) -> tuple[Index, ...]:
        """Writes what a later tensor must be like to take this one's place. Gives the shape."""
        constant, require = self.reader.constant, self.reader.require
        require(f"type({local}) is {constant(torch.Tensor)} or type({local}) is {constant(torch.nn.Parameter)}")
        require(
            f"{local}.dtype is {constant(tensor.dtype)} and {local}.device == {constant(tensor.device)} "
            f"and {local}.layout is {constant(torch.strided)} and not {local}.is_neg()"
        )
        shape: list[Index] = []
        targets, wanted = [], []
        for d, size in enumerate(tensor.shape):
            target = self.reader.fresh()
            if size < 2:
                shape.append(size)
                wanted.append(f"{target} == {size}")
            else:
                known = names.get(d) in self.facts.values
                symbol = self.facts.symbol(size, names.get(d))
                shape.append(symbol + 0)
                wanted.append(f"{target} == {symbol}" if known else f"{symbol} > 1")
                target = target if known else symbol.name
            targets.append(target)
        self.reader.lines.append(f"[{', '.join(targets)}] = {local}.shape")
        if wanted:
            require(" and ".join(wanted))
        return tuple(shape)

    def _check_device(self, tensor: torch.Tensor, name: str) -> None:
        if self.device is None or self.device.type == "meta":
            self.device = tensor.device
        elif tensor.device not in (self.device, torch.device("meta")):
            way_out = f"Move {name} with .to({str(self.device)!r})"
            hint = f"{way_out}, or pass it as a Python number." if tensor.dim() == 0 else f"{way_out}."
            got = f"{self.device} and {tensor.device} ({name})"
            raise UnsupportedDevice(op=self.name, rule="all tensors must be on one device", got=got, hint=hint)

    def same_device(self, device: Any, function: Any) -> None:
        """Raises UnsupportedDevice for a device other than the function's."""
        device = torch.device(device)
        if self.device is None:
            self.device = device
        elif device.type != self.device.type or device.index not in (None, self.device.index):
            rule, hint = f"everything must stay on {self.device}", "Move it outside of the fused function."
            raise UnsupportedDevice(op=name_of(function), rule=rule, got=str(device), hint=hint)

    def number_input(self, number: Number) -> Input:
        """The input that passes a number to the graph."""
        found = self._numbers.get(number.text)
        if found is None:
            name, text = self._unique(self.number_names.get(number.text, "number")), number.text
            kind = Type(f64 if type(number.value) is float else i64, (), weak=True)
            if not text.isidentifier():  # computed by the call: an int may have become a float
                text = self.reader.local(text)
                self.reader.require(f"type({text}) is {self.reader.constant(type(number.value))}")
            node = intern(OPS["input"], (), {"name": name, "number": True}, kind)
            self.notes.names[node] = name
            found = self._numbers[number.text] = Input(node, name, text)
            self.inputs.append(found)
        return found

    def _unique(self, name: str) -> str:
        """The name as an identifier that no other input has."""
        name = re.sub(r"\W+", "_", name).strip("_") or "value"
        name = f"_{name}" if name[0].isdigit() else name
        found, number = name, 0
        while found in self._taken:
            number += 1
            found = f"{name}_{number}"
        self._taken.add(found)
        return found

    def proxy_of(self, tensor: torch.Tensor) -> Proxy:
        """A proxy as it is; of a real tensor, the input that it is captured as. Raises UntraceableCapture."""
        if isinstance(tensor, Proxy):
            if tensor._fused.session is not self:
                raise is_over(repr(tensor))
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

    # ---- between proxies and nodes ----

    def proxy(self, node: Node, storage: Storage | None = None, steps: tuple[Step, ...] = (), *, grad: bool) -> Proxy:
        """A proxy for a node, with memory of its own or as a view."""
        value = Value(self, node, storage or Storage(node), steps, grad)
        self._values.append(weakref.ref(value))
        return proxy_for(value)

    def node(self, proxy: Proxy) -> Node:
        """The node that a proxy stands for."""
        if self.facts.changed:
            self.settle()
        return proxy._fused.node

    @_ours
    def settle(self) -> None:
        """Brings every node up to date with what has become known of sizes."""
        while self.facts.changed:
            self.facts.changed = False
            values = [value for ref in self._values if (value := ref()) is not None]
            storages = {id(value.storage): value.storage for value in values}
            holders: list[Any] = [*values, *storages.values(), *self.inputs]
            nodes = tuple(each.node for each in holders)
            old = Graph(nodes, nodes, self.name, self.notes.names, self.notes.lines)
            new = substitute_sizes(old, self.facts.known)
            for each, node in zip(holders, new.outputs, strict=True):
                each.node = node
            self.notes.names, self.notes.lines = dict(new.names), dict(new.lines)

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
            return value.fix() if fixed or value.is_fixed else self.number_input(value).node
        if isinstance(value, (list, tuple, dict, slice)):
            return map_leaves(value, lambda v: self.unwrap(v, met, fixed))
        return value.item() if isinstance(value, np.generic) else value

    # ---- torch's functions ----

    def call(self, function: Callable, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What a torch call means while tracing."""
        if self._depth:
            return self._call(function, args, kwargs) if _holds((args, kwargs), Proxy) else function(*args, **kwargs)
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
            first, rest, named = _split_first(args, kwargs)
            if isinstance(first, torch.Tensor):
                return OWN[name](self.proxy_of(first), *rest, **named)
        if torch._C._is_any_autocast_enabled():
            what, hint = "it changes dtypes behind the function", "Leave autocast, and cast with .to(dtype)."
            raise UntraceableCapture(name="torch.autocast", what=what, hint=hint)
        kwargs = self._checked(function, kwargs)
        in_place = bool(kwargs.pop("inplace", False))
        target = dispatch.target_of(function)
        if target is None:
            target = dispatch.in_place_of(function)
            in_place = in_place or dispatch.base_name(name) is not None
        if in_place and _holds((args, kwargs), torch.Tensor):
            return self._in_place(function, target, args, kwargs)
        if target is None and name in _EMPTY:
            raise UnknownFunction(op=name_of(function), hint="What it holds is not defined: use torch.zeros.")
        if target is None and name in _SIZED_BY_VALUES:
            hint = "Use torch.where(mask, x, 0), which keeps the shape, or call it outside."
            raise DataDependent(op=name_of(function), what="the shape of the result", hint=hint)
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
            self.same_device(kwargs["device"], function)
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
        if _holds((args, kwargs), torch.Tensor):
            raise no_rule(name_of(function))
        result = function(*args, **kwargs)
        if _holds(result, torch.Tensor):
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
            _, rest, options = _split_first(plain, named, op.operands[0])
            steps = (*base.steps, Step(op.reference, tuple(rest), options))
            return self.proxy(result, base.storage, steps, grad=grad)
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

    def view_all(self, proxy: Proxy, step: Step, grad: bool) -> Proxy:
        """A view of all of a tensor."""
        value = proxy._fused
        return self.proxy(self.node(proxy), value.storage, (*value.steps, step), grad=grad)

    # ---- in place ----

    def changeable(self, tensor: Any, function: Any) -> Proxy:
        """The proxy that an in-place function may change. Raises InPlaceInput."""
        hint = "Use the out-of-place form, and return the new value."
        proxy = self.proxy_of(tensor)
        source = proxy._fused.storage.source
        if source is not None:
            raise InPlaceInput(op=name_of(function), what=f"the input {source.name}", hint=hint)
        if proxy._fused.shares:
            what = "a tensor that shares memory with another (a view and its base)"
            raise InPlaceInput(op=name_of(function), what=what, hint=hint)
        return proxy

    def _in_place(self, function: Callable, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Proxy:
        first, rest, named = _split_first(args, kwargs)
        proxy = self.changeable(first, function)
        if target is None:
            raise no_rule(name_of(function))
        result = self._spelled(function, target, (proxy, *rest), named)
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
        value = proxy._fused
        value.node, value.steps, value.grad = cast(node, old.dtype), (), value.grad or grad
        value.put_in(Storage(value.node))
        self.notes.record(value.node)
        return proxy


# ---- names and lines ------------------------------------------------------------------------------------------------

_TORCH = os.path.dirname(torch.__file__) + os.sep


class Notes:
    """Where the user's program made each node, and the variable it assigned it to."""

    def __init__(self) -> None:
        self.names: dict[Node, str] = {}
        self.lines: dict[Node, Line] = {}
        self.calls = 0  # torch calls that the user's code has made
        self._last: tuple[tuple[int, int], int, Node] | None = None

    def record(self, result: Any) -> None:
        """Notes what the user's line, which is running now, has made."""
        frame, deep = _users_frame(sys._getframe(1))
        if frame is None:
            return
        line = Line(frame.f_code.co_filename, frame.f_lineno)
        nodes = [n for n in (result if isinstance(result, tuple) else (result,)) if isinstance(n, Node)]
        self._note_line(list(nodes), line)
        names = reading(frame.f_code).assigned.get(frame.f_lasti, ())
        if len(names) == 1 and isinstance(result, Node):
            here = (id(frame), frame.f_lasti)
            if self._last is not None and self._last[0] == here and (deep or self._last[1] == self.calls):
                self.names.pop(self._last[2], None)  # the variable holds the last value that one call made
            if result not in self.names:
                self.names[result] = names[0]
                self._last = (here, self.calls, result)
        elif len(names) == len(nodes):
            for node, name in zip(nodes, names, strict=True):
                self.names.setdefault(node, name)

    def _note_line(self, todo: list[Node], line: Line) -> None:
        while todo:
            node = todo.pop()
            if node not in self.lines and node.op.name != "input":
                self.lines[node] = line
                todo.extend(node.inputs)


def _users_frame(frame: FrameType | None) -> tuple[FrameType | None, bool]:
    """The innermost frame of the user's, and whether torch's Python code runs between it and us."""
    deep = False
    while frame is not None and not is_user_file(frame.f_code.co_filename):
        deep = deep or frame.f_code.co_filename.startswith(_TORCH)
        frame = frame.f_back
    return frame, deep


# ---- nested arguments -----------------------------------------------------------------------------------------------


def map_leaves(value: Any, change: Callable[[Any], Any]) -> Any:
    """The value with what its nested containers hold changed."""
    if isinstance(value, (list, tuple)):
        items = [map_leaves(v, change) for v in value]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, dict):
        return {k: map_leaves(v, change) for k, v in value.items()}
    if isinstance(value, slice):
        return slice(*(map_leaves(v, change) for v in (value.start, value.stop, value.step)))
    return change(value)


def _leaves(value: Any) -> list[Any]:
    found: list[Any] = []
    map_leaves(value, found.append)
    return found


def _holds(value: Any, kind: type) -> bool:
    return any(isinstance(leaf, kind) for leaf in _leaves(value))


def _symbols(value: Any) -> list[Symbol]:
    """The symbols in nodes' shapes and in sizes, those of the last dimensions first."""
    found: dict[Symbol, None] = {}
    for leaf in _leaves(value):
        for index in reversed(leaf.shape) if isinstance(leaf, Node) else (leaf,):
            if isinstance(index, Poly):
                found.update(dict.fromkeys(symbols(index)))
    return list(found)


def _substitute(value: Any, mapping: Mapping) -> Any:
    """Nodes and sizes with symbols replaced."""
    nodes = [leaf for leaf in _leaves(value) if isinstance(leaf, Node)]
    new = dict(zip(nodes, substitute_sizes(Graph((), tuple(nodes)), mapping).outputs, strict=True))

    def change(leaf: Any) -> Any:
        if isinstance(leaf, Node):
            return new[leaf]
        return replace(leaf, mapping) if isinstance(leaf, Poly) else leaf

    return map_leaves(value, change)


def _split_first(args: Sequence[Any], kwargs: Mapping[str, Any], *names: str) -> tuple[Any, Sequence[Any], dict]:
    """What a function works on, however it was passed, and the other arguments."""
    if args:
        return args[0], args[1:], dict(kwargs)
    rest = dict(kwargs)
    given = next((name for name in (*names, "input", "self") if name in rest), None)
    return (rest.pop(given) if given else None), (), rest


# ---- real tensors ---------------------------------------------------------------------------------------------------


def check_tensor(tensor: torch.Tensor, name: str, op: str) -> None:
    """Raises BadArgument or UnknownDType for tensors that are more than dense memory of a known dtype."""
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        rule, hint = "a plain torch.Tensor", "Pass the tensors it is made of."
        raise BadArgument(op=op, name=name, rule=rule, got=f"a {type(tensor).__name__}", hint=hint)
    if tensor.is_nested or tensor.layout is not torch.strided:
        kind = "a nested tensor" if tensor.is_nested else f"layout {tensor.layout}"
        raise BadArgument(op=op, name=name, rule="a dense tensor", got=kind, hint="Convert it with .to_dense().")
    dtype(tensor.dtype)
    if tensor.is_neg():
        hint = "Convert it with .resolve_neg()."
        raise BadArgument(op=op, name=name, rule="plain memory", got="a lazily negated view", hint=hint)


_MAKERS = (torch.tensor, torch.as_tensor, torch.scalar_tensor, torch.asarray)
_SMALL = 64


def _constant_data(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """The arguments of torch.tensor and its like: few numbers, which become constants. Raises UntraceableCapture."""
    named = dict(kwargs)
    data, *rest = args if args else (named.pop("data", None),)
    if not isinstance(data, torch.Tensor) and hasattr(data, "tolist"):
        data = data.tolist()
    leaves = _leaves(data)
    if len(leaves) > _SMALL:
        what = f"{len(leaves)} values are too many for constants of a kernel"
        hint = "Make the tensor once, outside, and capture it or pass it."
        raise UntraceableCapture(name="torch.tensor", what=what, hint=hint)
    if isinstance(data, (list, tuple)) and _holds(data, torch.Tensor):
        raise DataDependent(op="torch.tensor", what="the result", hint="Use torch.stack.")
    if not rest and named.get("dtype") is None and any(isinstance(v, torch.SymFloat) for v in leaves):
        named["dtype"] = torch.get_default_dtype()
    return (data, *rest), named
