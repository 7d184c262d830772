"""What a traced function reads besides its arguments, so that each call can read it again (reader.py).

The code of the function, and of the functions it may call, says which globals, closure variables and attributes it can
read. Each tensor found there has a path that is read anew by every call; each other value found there must stay the
same, or the call is traced again. An attribute is watched only if its name occurs in the code.
"""

from __future__ import annotations

import dis
import enum
import functools
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from .errors import UntraceableCapture, is_user_file
from .reader import Reader, is_constant

# ---- what code can read ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """What a piece of code names.

    globals     global variables
    free        variables of enclosing functions
    attributes  attributes, and strings that could name one
    chains      `config.model.eps`, from a global or a variable of an enclosing function
    assigned    bytecode offset -> the variables that the result of the instruction there is assigned to
    """

    globals: frozenset[str]
    free: frozenset[str]
    attributes: frozenset[str]
    chains: frozenset[tuple[str, ...]]
    assigned: Mapping[int, tuple[str, ...]]


@lru_cache(maxsize=4096)
def reading(code: types.CodeType) -> Reading:
    """What this code names, the functions and lambdas inside it included."""
    roots, free, attributes, chains = set(), set(code.co_freevars), set(), set()
    chain: tuple[str, ...] = ()
    instructions = list(dis.get_instructions(code))
    for each in instructions:
        if each.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CLASSDEREF"):
            chain = (each.argval,)
            if each.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                roots.add(each.argval)
        elif each.opname in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"):
            attributes.add(each.argval)
            chain = (*chain, each.argval) if chain else ()
            if chain:
                chains.add(chain)
        else:
            chain = ()
    for value in code.co_consts:
        if isinstance(value, types.CodeType):
            inner = reading(value)
            roots, attributes, chains = roots | inner.globals, attributes | inner.attributes, chains | inner.chains
        else:
            attributes.update(v for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, str))
    return Reading(frozenset(roots), frozenset(free), frozenset(attributes), frozenset(chains), _assigned(instructions))


def _assigned(instructions: list[dis.Instruction]) -> dict[int, tuple[str, ...]]:
    found = {}
    for at, (here, after) in enumerate(pairwise(instructions)):
        if after.opname == "COPY":
            after = instructions[min(at + 2, len(instructions) - 1)]
        names: list[str] = []
        if after.opname == "UNPACK_SEQUENCE":
            for each in instructions[at + 2 : at + 2 + (after.arg or 0)]:
                names += _stored(each)
            names = names if len(names) == after.arg else []
        else:
            names = _stored(after)[:1]
        if names:
            # the interpreter's position in a call may be inside the instruction's inline cache
            for offset in range(here.offset, instructions[at + 1].offset, 2):
                found[offset] = tuple(names)
    return found


def _stored(instruction: dis.Instruction) -> list[str]:
    if not instruction.opname.startswith("STORE_") or instruction.opname in ("STORE_SUBSCR", "STORE_SLICE"):
        return []
    names = instruction.argval
    return list(names) if isinstance(names, tuple) else [names]


# ---- watching -------------------------------------------------------------------------------------------------------

_MANY = 64  # constants in one list: compared at once


@dataclass(frozen=True)
class Source:
    """Where a captured tensor is read: text for the reader, and a name for people."""

    text: str
    name: str


class Watch:
    """Everything that a function can read besides its arguments."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.sources: dict[int, Source] = {}  # tensors by id
        self.containers: list[tuple[Any, str]] = []  # lists and dicts that the function could change
        self.entered: dict[int, tuple[Any, str]] = {}  # objects watched by identity, with their names
        self._tensors: list[torch.Tensor] = []  # keeps ids from being used again
        self._home: set[str] = set()  # packages of the roots: code there is followed, wherever it is installed
        self._classes: set[type] = set()
        self._instances: list[tuple[dict, type]] = []
        self._names = {"forward", "__call__"}  # attributes that occur in code
        self._spaces: list[tuple[Mapping, str, str, Callable[[str], bool], set[str]]] = []

    def root(self, value: object, name: str = "") -> None:
        """Watches an object that is the same in every call, and all that it leads to."""
        home = type(value) if isinstance(value, nn.Module) else getattr(value, "__func__", value)
        self._home.add(_top(getattr(home, "__module__", None)))
        self._enter(value, name)
        self._follow()
        for instance, kind in self._instances:
            self._require_inherited(instance, kind)
        self._instances.clear()

    def _require_inherited(self, instance: dict, kind: type) -> None:
        """What an object has from its class may be hidden by an attribute of its own later."""
        inherited = {name for each in kind.__mro__ if each not in (object, nn.Module) for name in vars(each)}
        space = self.reader.constant(instance)
        hidden = [f"{name!r} not in {space}" for name in sorted(inherited & self._names - set(instance))]
        if hidden:
            self.reader.require(" and ".join(hidden))

    def _follow(self) -> None:
        """Looks at every namespace until no new name and no new namespace turns up."""
        looked_at = -1
        while looked_at != (looked_at := len(self._names) + len(self._spaces)):
            for space, text, name, wanted, seen in list(self._spaces):
                for key in [k for k in space if isinstance(k, str) and k not in seen and wanted(k)]:
                    seen.add(key)
                    self.watch(f"{text}[{key!r}]", space[key], f"{name}.{key}" if name else key)

    # ---- one value ----

    def watch(self, text: str, value: Any, name: str) -> None:
        """A value that the function can read at `text`."""
        start = len(self.reader.lines)
        self._watch(text, value, name)
        for line in self.reader.lines[start:]:
            self.reader.about.setdefault(line, name)

    def _watch(self, text: str, value: Any, name: str) -> None:
        if isinstance(value, torch.Tensor):
            self._tensors.append(value)
            self.sources.setdefault(id(value), Source(text, name))
        elif is_constant(value):
            self.reader.same(text, value)
        elif type(value) in (list, tuple, dict):
            self._container(text, value, name)
        elif type(value) in (set, frozenset):
            self.reader.require(f"{text} == {self.reader.constant(frozenset(value))}")
        else:
            self.reader.require(f"{text} is {self.reader.constant(value)}")
            self._enter(value, name)

    def _container(self, text: str, value: Any, name: str) -> None:
        local = self.reader.local(text)
        kind, items = self.reader.constant(type(value)), list(_items(value))
        if len(items) > _MANY:
            if not all(is_constant(v) for _, v in items) and len(items) > 64 * _MANY:
                raise UntraceableCapture(name=name, what=f"it holds {len(items)} objects, too many to watch",
                                         hint="Pass what the function needs as an argument.")  # fmt: skip
            if all(is_constant(v) for _, v in items):
                old = self.reader.constant(type(value)(value))
                same = f"{local} == {old}" if isinstance(value, dict) else f"_same_values({local}, {old})"
                self.reader.require(f"type({local}) is {kind} and {same}")
                return
        if not isinstance(value, tuple):
            self.containers.append((value, name))
        if isinstance(value, dict):
            self.reader.require(f"type({local}) is {kind} and list({local}) == {self.reader.constant(list(value))}")
        else:
            self.reader.require(f"type({local}) is {kind} and len({local}) == {len(items)}")
        for key, item in items:
            at = repr(key) if isinstance(key, (str, int)) else self.reader.constant(key)
            self.watch(f"{local}[{at}]", item, f"{name}[{key!r}]")

    def _enter(self, value: Any, name: str) -> None:
        """What an object, itself compared by identity, leads to."""
        if id(value) in self.entered or isinstance(value, (types.ModuleType, enum.Enum)):
            return
        self.entered[id(value)] = (value, name)
        if isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.MethodType):
            self._enter(value.__self__, "")
            self._enter(value.__func__, "")
        elif isinstance(value, functools.partial):
            self._enter(value.func, name)
            at = self.reader.constant(value)
            self._container(f"{at}.args", value.args, f"{name}.args")
            self._container(f"{at}.keywords", value.keywords, f"{name}.keywords")
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, (staticmethod, classmethod)):
            self._enter(value.__func__, name)
        elif isinstance(value, (property, functools.cached_property)):
            self._enter(value.fget if isinstance(value, property) else value.func, name)
        elif isinstance(value, nn.Module):
            self._module(value, name)
        else:
            self._object(value, name)

    def _space(self, space: Mapping, name: str, wanted: Callable[[str], bool] | None = None) -> None:
        if space:
            self._spaces.append((space, self.reader.constant(space), name, wanted or self._names.__contains__, set()))

    # ---- kinds of objects ----

    def _function(self, function: types.FunctionType) -> None:
        self._wrapped(function, function.__name__)
        if not is_user_file(function.__code__.co_filename):
            return
        names = reading(function.__code__)
        self._names |= names.attributes
        if not self._follows(function.__module__, function.__code__.co_filename):
            return
        known = {n: (function.__globals__, n) for n in names.globals if n in function.__globals__}
        scope = self.reader.constant(function.__globals__)
        for name in sorted(known):
            self.watch(f"{scope}[{name!r}]", function.__globals__[name], name)
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        for name, cell in cells.items():
            if _filled(cell):
                self.watch(f"{self.reader.constant(cell)}.cell_contents", cell.cell_contents, name)
        for attribute in ("__defaults__", "__kwdefaults__"):
            defaults = getattr(function, attribute)
            if defaults:
                self.watch(f"{self.reader.constant(function)}.{attribute}", defaults, function.__name__)
        for first, *rest in names.chains:
            if first in known:
                self._chain(function.__globals__[first], rest, first)
            elif first in cells and _filled(cells[first]):
                self._chain(cells[first].cell_contents, rest, first)

    def _follows(self, module: str | None, file: str) -> bool:
        """Whether what code reads is watched too: the user's own; that of libraries stays what it is."""
        return _top(module) in self._home or not ("site-packages" in file or "dist-packages" in file)

    def _wrapped(self, value: object, name: str) -> None:
        """What a decorator, of ours or torch's or functools', was put around."""
        parts = getattr(value, "__dict__", {})
        ours = type(value).__module__.startswith("fusedsl.")  # a fused function inside another: it may hold a module
        for inner in (parts.get("__wrapped__"), parts.get("function") if ours else None):
            if inner is not None:
                self._enter(inner, name)

    def _chain(self, value: Any, rest: Sequence[str], name: str) -> None:
        """`config.model.eps`, as long as it leads through Python modules; objects have namespaces of their own."""
        for attribute in rest:
            if not isinstance(value, types.ModuleType) or not _is_users(value.__name__):
                return
            if attribute not in vars(value):
                return
            text = f"{self.reader.constant(vars(value))}[{attribute!r}]"
            value, name = vars(value)[attribute], f"{name}.{attribute}"
            self.watch(text, value, name)

    def _class(self, kind: type) -> None:
        for each in kind.__mro__:
            if each in self._classes or each in (object, nn.Module):
                continue
            self._classes.add(each)
            file = getattr(sys.modules.get(each.__module__), "__file__", None)
            if _is_users(each.__module__) and self._follows(each.__module__, file or "<typed>"):
                self._space(vars(each), each.__name__)
            elif issubclass(each, nn.Module) or _is_users(each.__module__):
                # a library's code says which attributes are read, but stays what it is
                self._names |= _names_from(each, "forward") | _names_from(each, "__call__")

    def _module(self, module: nn.Module, name: str) -> None:
        if id(type(module)) not in self.entered:
            self._enter(type(module), type(module).__name__)
        lists = type(module).__module__ == "torch.nn.modules.container"
        if lists:
            children = self.reader.constant(vars(module)["_modules"])
            self.reader.require(f"len({children}) == {len(module._modules)}")
        slots = ("_parameters", "_buffers", "_modules")
        parts = vars(module)
        self._instances.append((parts, type(module)))
        self._space(parts, name, lambda key: key in self._names and key not in slots and not key.endswith("_hooks"))
        for slot in slots:
            self._space(parts[slot], name, (lambda key: True) if lists or slot == "_modules" else None)
        for slot in ("_forward_pre_hooks", "_forward_hooks"):
            hooks = self.reader.constant(parts[slot])
            self.reader.require(f"len({hooks}) == {len(parts[slot])}")
            for key, hook in parts[slot].items():
                self.watch(f"{hooks}[{key!r}]", hook, f"{name}.{slot}")

    def _object(self, value: Any, name: str) -> None:
        if isinstance(value, (types.BuiltinFunctionType, types.MethodWrapperType, types.MethodDescriptorType)):
            return
        self._wrapped(value, name)
        if not _is_users(type(value).__module__):
            return
        self._enter(type(value), type(value).__name__)
        if hasattr(value, "__dict__"):
            self._instances.append((vars(value), type(value)))
            self._space(vars(value), name)
        for slot in _slots(value):
            if slot in self._names and hasattr(value, slot):
                self.watch(f"{self.reader.constant(value)}.{slot}", getattr(value, slot), f"{name}.{slot}")

    # ---- after the function has run ----

    def holders(self) -> Iterator[tuple[Any, str]]:
        """The lists, dicts and attributes that the function could have stored something in."""
        yield from self.containers
        for space, _, name, _, _ in self._spaces:
            yield space, name

    def unread(self, captured: Iterable[torch.Tensor | None]) -> list[str]:
        """Where tensors stand that the function has not used, other than by asking whether they are there."""
        used = {id(tensor) for tensor in captured}
        return [source.text for key, source in self.sources.items() if key not in used]

    # ---- tensors that no watched path led to ----

    def search(self, tensor: torch.Tensor) -> Source | None:
        """Where a tensor is read, or None. Looks last through everything in reach of the watched objects."""
        found = self.sources.get(id(tensor))
        if found is not None:
            return found
        queue = [(value, self.reader.constant(value), name) for value, name in list(self.entered.values())]
        seen = {id(value) for value, *_ in queue}
        for value, text, name in queue:  # the queue grows
            for key, at, item in _parts(value):
                path = text + at
                if item is tensor:
                    return Source(path, f"{name}.{key}" if name else str(key))
                if _may_hold_tensors(item) and id(item) not in seen and len(seen) < 20000:
                    seen.add(id(item))
                    queue.append((item, path, f"{name}.{key}" if name else str(key)))
        return None


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None or True
    except ValueError:
        return False


@lru_cache(maxsize=256)
def _names_from(kind: type, method: str) -> frozenset[str]:
    """The attributes that a method of a class names, and the methods of the class that those name."""
    names, queue = {method}, [method]
    for each in queue:  # the list grows
        function = vars(kind).get(each)
        if isinstance(function, types.FunctionType):
            new = reading(function.__code__).attributes - names
            names |= new
            queue += sorted(new)
    return frozenset(names)


def _top(module: str | None) -> str:
    return (module or "").partition(".")[0]


def _is_users(module: str | None) -> bool:
    """Whether a Python module, by name, is neither ours, nor torch's, nor of Python's own library."""
    top = _top(module)
    return top not in ("torch", "fusedsl", "triton", "numpy") and top not in sys.stdlib_module_names


def _may_hold_tensors(value: Any) -> bool:
    if isinstance(value, (type, types.FunctionType, types.ModuleType)):
        return False
    home = type(value).__module__
    return isinstance(value, (list, tuple, dict, nn.Module)) or _is_users(home) or home.startswith("fusedsl.")


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    return iter(value.items()) if isinstance(value, dict) else enumerate(value)


def _slots(value: Any) -> list[str]:
    names = {name for kind in type(value).__mro__ for name in vars(kind).get("__slots__", ())}
    return sorted(names - {"__dict__", "__weakref__"})


def _parts(value: Any) -> Iterator[tuple[Any, str, Any]]:
    """(name, text after the object's, value) of what an object is made of."""
    if isinstance(value, (list, tuple, dict)):
        for key, item in list(_items(value)):
            if isinstance(key, (str, int)):
                yield key, f"[{key!r}]", item
        return
    if isinstance(value, nn.Module):
        for slot in ("_parameters", "_buffers", "_modules"):
            for key, item in vars(value)[slot].items():
                yield key, f".{slot}[{key!r}]", item
    if isinstance(value, (types.FunctionType, type)):
        return
    for key, item in list(getattr(value, "__dict__", {}).items()):
        if key.isidentifier():
            yield key, f".__dict__[{key!r}]", item
    for key in _slots(value):
        if hasattr(value, key):
            yield key, f".{key}", getattr(value, key)
