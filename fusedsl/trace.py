"""From a Python function to a Graph: it is run once on proxies (proxy.py), in a session (session.py) that sees every
torch call. What comes back also knows for which other calls the graph is right (`bind`), and how results are made.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from . import types
from .errors import FuseError, InPlaceInput, UntraceableCapture, line_of, user_line
from .inputs import Input, identifier
from .ir import Graph, Node, applying, streams
from .numbers import number
from .packed_inputs import unpacked
from .proxy import Proxy
from .reader import Reader, is_constant
from .results import Bound, Ends, Results, placed
from .session import Mode, Session, current


@dataclass(frozen=True)
class Traced:
    """A graph, the calls that it is right for, and how results are made of its outputs."""

    graph: Graph
    results: Results
    bind: Callable[[Sequence[Any], Mapping[str, Any]], Bound | None]  # None: the call needs a trace of its own
    device: torch.device
    draws: tuple[tuple[int, Callable[[], int]], ...] = ()  # inputs whose values are drawn by each call that is run

    def rebuild(self, bound: Bound, outputs: Sequence[torch.Tensor]) -> Any:
        """The results of a call, given the graph's outputs."""
        return self.results.build(bound, outputs)


# ---- tracing --------------------------------------------------------------------------------------------------------


def is_tracing() -> bool:
    """Whether a function is being traced in this context."""
    return current.get() is not None


def trace(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    size_names: Mapping[tuple[str, int], str] | None = None,
) -> Traced:
    """Runs the function once on proxies for these arguments.

    size_names: ("x", 0) -> "B" names a size of an argument; sizes of one name are one size.
    Raises FuseError, with the user's line, where the function does what a fused function cannot."""
    kwargs, size_names = kwargs or {}, size_names or {}
    session, traced = _run(function, args, kwargs, size_names)
    if traced.bind(args, kwargs) is None:  # the run may have made what it reads: a cache, a flag
        session, traced = _run(function, args, kwargs, size_names)
    if traced.bind(args, kwargs) is None:
        name = session.reader.broken(args=args, kwargs=kwargs)
        what, hint = "the function changes what it reads", "Pass it as an argument, and return the new value."
        raise UntraceableCapture(name=name, what=what, hint=hint, line=user_line())
    return traced


def _run(function: Callable, args: Sequence, kwargs: Mapping, size_names: Mapping) -> tuple[Session, Traced]:
    session = Session(_name(function))
    try:
        return session, _trace(session, function, args, kwargs, size_names)
    except FuseError as error:
        error.at(line_of(error) or user_line())
        raise
    except TypeError as error:  # what torch's operators make of ours
        if session.refused is None or "unsupported operand" not in str(error):
            raise
        raise session.refused.at(line_of(error) or user_line()) from None
    finally:
        session.close()


def _name(function: Callable) -> str:
    if isinstance(function, nn.Module):
        return type(function).__name__
    return getattr(function, "__name__", None) or getattr(getattr(function, "func", None), "__name__", "graph")


def _trace(session: Session, function: Callable, args: Sequence, kwargs: Mapping, size_names: Mapping) -> Traced:
    reader = session.reader
    signature = _signature(function)
    call = signature.bind(*args, **kwargs)
    call.apply_defaults()
    reader.require(f"torch.get_default_dtype() is {reader.constant(torch.get_default_dtype())}")
    reader.require("not torch._C._is_any_autocast_enabled()")
    arguments = Arguments(session, size_names)
    call.arguments.update(arguments.read(signature, call.arguments, function))
    session.watch.root(function)
    random = torch.get_rng_state()
    with _inside(session):
        with Mode(session):
            result = function(*call.args, **call.kwargs)
        arguments.check_unchanged()
        _check_unseeded(random)
        return _finish(session, result)


def _check_unseeded(before: torch.Tensor) -> None:
    """A call draws its numbers after the trace: what changes torch's generator in a trace would not in a call."""
    if not torch.equal(before, torch.get_rng_state()):
        torch.set_rng_state(before)
        what, hint = "it is changed while the function is traced, and later calls would not", "Do so outside."
        raise UntraceableCapture(name="torch's random generator (torch.manual_seed)", what=what, hint=hint)


def _signature(function: Callable) -> inspect.Signature:
    try:
        return inspect.signature(function.forward if isinstance(function, nn.Module) else function)
    except ValueError:  # of a function in C, such as torch.exp, nothing is known
        return inspect.signature(lambda *args, **kwargs: None)


@contextmanager
def _inside(session: Session) -> Iterator[None]:
    """What ops and types ask for is this trace's."""
    given: dict[ContextVar, Any] = {
        current: session, types.equate: session.facts.equate, types.fix: session.facts.fix, applying: session.apply,
        streams: session.stream,
    }  # fmt: skip
    tokens = [variable.set(value) for variable, value in given.items()]
    try:
        yield
    finally:
        for variable, token in zip(given, tokens, strict=True):
            variable.reset(token)


class Arguments:
    """Turns a call's arguments into proxies, and writes how later calls' arguments are read."""

    def __init__(self, session: Session, size_names: Mapping[tuple[str, int], str]) -> None:
        self.session, self.reader = session, session.reader
        self.size_names: dict[str, dict[int, str]] = {}
        for (name, dim), symbol in size_names.items():
            self.size_names.setdefault(name, {})[dim] = symbol
        self.containers: list[tuple[Any, list, str]] = []

    def read(self, signature: inspect.Signature, values: Mapping[str, Any], function: Callable) -> dict[str, Any]:
        """The arguments by parameter, as the function gets them."""
        places = {name: self.reader.fresh() for name in signature.parameters}
        take = self.reader.constant(_taker(signature))
        self.reader.lines.append(f"[{', '.join(places.values())}] = {take}(*args, **kwargs)")
        if getattr(function, "__defaults__", None):
            self.reader.require(f"{self.reader.constant(function)}.__defaults__ is "
                                f"{self.reader.constant(function.__defaults__)}")  # type: ignore[attr-defined]  # fmt: skip
        return {name: self.walk(places[name], value, name) for name, value in values.items()}

    def walk(self, text: str, value: Any, name: str) -> Any:
        """One argument, or a part of one, that is read at `text`."""
        reader, kind = self.reader, type(value)
        if isinstance(value, torch.Tensor):
            proxy = self.session.add_tensor(value, text, name, self.size_names.get(identifier(name)))
            self.session.inputs.all[-1].is_argument = True
            return proxy
        if kind in (int, float):
            reader.require(f"type({text}) is {reader.constant(kind)}")
            self.session.inputs.number_names[text] = name
            return number(self.session.facts, text, value)
        if is_constant(value):
            reader.same(text, value)
            return value
        if kind in (list, tuple, dict):
            return self._container(text, value, name)
        if kind in pytree.SUPPORTED_NODES or pytree.is_namedtuple(value):
            return self._tree(text, value, name)
        return self._object(text, value, name)

    def _container(self, text: str, value: Any, name: str) -> Any:
        kind, reader = type(value), self.reader
        if kind is dict:
            reader.require(f"type({text}) is dict and list({text}) == {reader.constant(list(value))}")
            places = [reader.local(f"{text}[{reader.constant(key)}]") for key in value]
            items = [self.walk(at, v, f"{name}_{key}") for at, (key, v) in zip(places, value.items(), strict=True)]
            made: Any = dict(zip(value, items, strict=True))
        else:
            reader.require(f"type({text}) is {kind.__name__} and len({text}) == {len(value)}")
            places = [reader.fresh() for _ in value]
            reader.lines.append(f"[{', '.join(places)}] = {text}")
            made = kind(self.walk(at, v, f"{name}_{i}") for i, (at, v) in enumerate(zip(places, value, strict=True)))
        if kind is not tuple:
            self.containers.append((made, _snapshot(made), name))
        return made

    def _tree(self, text: str, value: Any, name: str) -> Any:
        """A container that torch's pytrees know: named tuples, and whatever is registered."""
        leaves, spec = pytree.tree_flatten(value)
        reader, places = self.reader, [self.reader.fresh() for _ in leaves]
        found = reader.fresh()
        flatten = reader.constant(pytree.tree_flatten)
        reader.lines.append(f"[{', '.join(places)}], {found} = {flatten}({text})")
        reader.require(f"{found} == {reader.constant(spec)}")
        paths = [pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(value)[0]]
        proxies = [self.walk(at, v, name + path) for at, v, path in zip(places, leaves, paths, strict=True)]
        return pytree.tree_unflatten(proxies, spec)

    def _object(self, text: str, value: Any, name: str) -> Any:
        """Anything else: the same object, or for values with an equality of their own an equal one."""
        kind = type(value)
        if kind.__eq__ is not object.__eq__ and kind.__hash__ is not None:
            kind, same = self.reader.constant(kind), self.reader.constant(value)
            self.reader.require(f"type({text}) is {kind} and {text} == {same}")
        else:
            self.reader.require(f"{text} is {self.reader.constant(value)}")
        self.session.watch.root(value, name)
        return value

    def check_unchanged(self) -> None:
        """Raises InPlaceInput where the function changed a list or dict that it was passed, or stored a value."""
        for value, before, name in self.containers:
            if _snapshot(value) != before:
                raise self._changed(f"the {type(value).__name__} {name}", value)
        for value, name in self.session.watch.holders():
            if _first_proxy(value) is not None:
                raise self._changed(f"what {name or 'an object'} holds", value)

    def _changed(self, what: str, value: Any) -> FuseError:
        error = InPlaceInput(op=self.session.name, what=what, hint="Return the new value instead.")
        stored = _first_proxy(value)
        return error if stored is None else error.at(self.session.notes.lines.get(stored._fused.node))


def _first_proxy(value: Any) -> Proxy | None:
    """A proxy that a list or a dict holds."""
    return next((v for v in (value.values() if isinstance(value, Mapping) else value) if isinstance(v, Proxy)), None)


def _snapshot(value: Any) -> list:
    return [(key, id(v)) for key, v in (value.items() if isinstance(value, dict) else enumerate(value))]


def _taker(signature: inspect.Signature) -> Callable[..., tuple]:
    """A function of that signature that gives its arguments, so that Python itself binds them."""
    defaults, parts, star = {}, [], False
    parameters = list(signature.parameters.values())
    for at, p in enumerate(parameters):
        if p.kind is p.KEYWORD_ONLY and not star:
            parts.append("*")
            star = True
        text = p.name
        if p.default is not p.empty:
            defaults[f"_d{at}"] = p.default
            text += f"=_d{at}"
        if p.kind is p.VAR_POSITIONAL:
            text, star = f"*{text}", True
        parts.append(f"**{text}" if p.kind is p.VAR_KEYWORD else text)
        if p.kind is p.POSITIONAL_ONLY and (at + 1 == len(parameters) or parameters[at + 1].kind is not p.kind):
            parts.append("/")
    names = "".join(f"{p.name}, " for p in parameters)
    return eval(f"lambda {', '.join(parts)}: ({names})", defaults)


# ---- what the function returned -------------------------------------------------------------------------------------


def _finish(session: Session, result: Any) -> Traced:
    leaves, spec = pytree.tree_flatten(pytree.tree_map_only(Proxy, lambda p: p._fused.packed or p, result))
    session.settle()
    ends = Ends(session)
    found = ends.leaves([_real(session, leaf) for leaf in leaves])
    session.settle()
    ends.refuse_grad()
    outputs = ends.nodes()
    graph = unpacked(Graph((), outputs, session.name, session.notes.names, session.notes.lines), session.inputs)
    outputs = graph.outputs
    used = _used(outputs) | {each.node for each in session.inputs.all if each.is_argument or each in ends.inputs}
    used -= {each.node for each in session.inputs.all if each.packed is not None and each not in ends.inputs}
    inputs = [each for each in session.inputs.all if each.node in used]
    places = {id(each): at for at, each in enumerate(inputs)}
    results = Results(spec, tuple(placed(session, leaf, places) for leaf in found))
    kept = _used(outputs) | set(used)
    names = {node: name for node, name in graph.names.items() if node in kept}
    lines = {node: line for node, line in graph.lines.items() if node in kept}
    graph = Graph(tuple(each.node for each in inputs), outputs, session.name, names, lines)
    _require_same_precision(session.reader, graph)
    device = session.inputs.device or torch.get_default_device()
    draws = tuple((at, each.draws) for at, each in enumerate(inputs) if each.draws is not None)
    return Traced(graph, results, _binder(session, inputs), device, draws)


def _require_same_precision(reader: Reader, graph: Graph) -> None:
    """Whether the factors of f32 products are rounded is a setting of torch, which a contraction has read."""
    products = (n for n in _within(graph.outputs) if n.op.contracts)
    if any(n["precision"] in ("f32", "tf32") for n in products):
        setting = "torch.get_float32_matmul_precision() == 'highest'"
        reader.require(f"({setting}) is {torch.get_float32_matmul_precision() == 'highest'}")


def _within(outputs: Sequence[Node]) -> set[Node]:
    """Every node that the outputs need, and those that compositions among them stand for."""
    found: set[Node] = set()
    left = list(outputs)
    while left:
        node = left.pop()
        if node not in found:
            found.add(node)
            left += node.inputs
            if node.op.expand is not None:
                left.append(node.expansion)
    return found


def _real(session: Session, leaf: Any) -> Any:
    return session.proxy_of(leaf) if isinstance(leaf, torch.Tensor) else leaf


def _used(outputs: Sequence[Node]) -> set[Node]:
    return set(Graph((), tuple(outputs)).nodes)


# ---- the function that reads a call ---------------------------------------------------------------------------------


def _binder(session: Session, inputs: Sequence[Input]) -> Callable[[Sequence[Any], Mapping[str, Any]], Bound | None]:
    """Compiles everything that was written about later calls."""
    reader = session.reader
    for text in session.watch.unread(each.tensor for each in session.inputs.all):
        reader.require(f"isinstance({text}, {reader.constant(torch.Tensor)})")
    _require_same_grad(reader, [each for each in inputs if each.tensor is not None])
    for condition in session.facts.conditions:
        reader.require(condition)
    left = [name for name in session.facts.values if name not in {s.name for s in session.facts.known}]  # type: ignore[attr-defined]
    sizes = ", ".join(f"{name!r}: {name}" for name in left)
    values = ", ".join(each.text for each in inputs)
    return reader.function("bind", "args, kwargs", f"{reader.constant(Bound)}([{values}], {{{sizes}}})")


def _require_same_grad(reader: Reader, inputs: Sequence[Input]) -> None:
    """What autograd would record must be what it would have recorded in the traced call."""
    if not inputs:
        return
    asked = [f"{each.text}.requires_grad" for each in inputs]
    wanted = [each.tensor.requires_grad for each in inputs]  # type: ignore[union-attr]
    if torch.is_grad_enabled() and any(wanted):
        reader.require(f"torch.is_grad_enabled() and [{', '.join(asked)}] == {wanted}")
    else:
        reader.require(f"not (torch.is_grad_enabled() and ({' or '.join(asked)}))")
