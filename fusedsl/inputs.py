"""The inputs of a graph under trace: tensors and numbers, and what a later call's must be like to take their place."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from .errors import BadArgument, UnsupportedDevice
from .index import Index
from .ir import OPS, Node, intern
from .numbers import Number
from .packed import Packed
from .reader import Reader
from .sizes import Facts
from .types import Type, dtype, f64, i64


@dataclass(eq=False)
class Input:
    """An input of the graph. text: what reads it, in the function that reads a call."""

    node: Node
    name: str
    text: str
    tensor: torch.Tensor | None = None
    is_argument: bool = False
    draws: Callable[[], int] | None = None  # what gives a call its value, where nothing is read: a seed
    packed: Packed | None = None  # the tensor, where its parts are read instead (see packed_inputs.py)


class Inputs:
    """The inputs so far, all on one device."""

    def __init__(self, function: str, facts: Facts, reader: Reader) -> None:
        self.function, self.facts, self.reader = function, facts, reader
        self.all: list[Input] = []
        self.device: torch.device | None = None
        self.number_names: dict[str, str] = {}  # text of a number that is an argument -> its name
        self._numbers: dict[str, Input] = {}
        self._seeds: dict[torch.Generator | None, Input] = {}
        self._taken: set[str] = set()

    # ---- tensors ----

    def add_tensor(self, tensor: torch.Tensor, text: str, name: str, names: Mapping[int, str]) -> Input:
        """The input for a real tensor, which each call reads at `text`. names: the user's names for its sizes."""
        if not isinstance(tensor, Packed):
            check_tensor(tensor, name, self.function)
        self._check_device(tensor, name)
        local = text if text.isidentifier() else self.reader.local(text)
        constant, require = self.reader.constant, self.reader.require
        require(f"{local}.dtype is {constant(tensor.dtype)} and {local}.device == {constant(tensor.device)}")
        if isinstance(tensor, Packed):
            form = f"{local}.format == {constant(tensor.format)} and {local}.dims == {tensor.dims}"
            form = f"{form} and {local}.order == {tensor.order}"
            require(f"type({local}) is {constant(Packed)} and {form}")
            shape = self._shape(local, tensor, names, fixed=tensor.axis)
            found = self._add(name, local, Type(dtype(tensor.dtype), shape), tensor)
            found.packed = tensor
            return found
        require(f"type({local}) is {constant(torch.Tensor)} or type({local}) is {constant(torch.nn.Parameter)}")
        require(f"{local}.layout is {constant(torch.strided)} and not {local}.is_neg()")
        if has_memory(tensor):
            require(f"({local}.data_ptr() or not {local}.numel())")
        return self._add(name, local, Type(dtype(tensor.dtype), self._shape(local, tensor, names)), tensor)

    def add_part(self, whole: Input, part: str, name: str, tensor: torch.Tensor, shape: Sequence[Index]) -> Node:
        """The input for a part of a packed one, which each call reads as that attribute of it."""
        local = self.reader.local(f"{whole.text}.{part}")
        return self._add(f"{whole.name}_{name}", local, Type(dtype(tensor.dtype), tuple(shape)), tensor).node

    def _shape(
        self, local: str, tensor: torch.Tensor, names: Mapping[int, str], fixed: int | None = None
    ) -> tuple[Index, ...]:
        """Writes what a later tensor's sizes must be like, that of dimension `fixed` the same number."""
        require = self.reader.require
        shape: list[Index] = []
        targets, wanted = [], []
        for d, size in enumerate(tensor.shape):
            target = self.reader.fresh()
            if size < 2 or d == fixed:
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

    # ---- numbers ----

    def of_number(self, number: Number) -> Input:
        """The input that passes a number to the graph."""
        found = self._numbers.get(number.text)
        if found is None:
            text, kind = number.text, type(number.value)
            if not text.isidentifier():  # computed by the call: an int may have become a float
                text = self.reader.local(text)
                self.reader.require(f"type({text}) is {self.reader.constant(kind)}")
            name = self.number_names.get(number.text, "number")
            found = self._add(name, text, Type(f64 if kind is float else i64, (), weak=True))
            self._numbers[number.text] = found
        return found

    def seed(self, generator: torch.Generator | None) -> Input:
        """The input that passes the graph a number drawn of a generator, one for all its random numbers."""
        found = self._seeds.get(generator)
        if found is None:
            found = self._seeds[generator] = self._add("seed", "0", Type(i64, (), weak=True))
            found.draws = partial(draw_seed, generator)
        return found

    def _add(self, name: str, text: str, type: Type, tensor: torch.Tensor | None = None) -> Input:
        name = self._unique(name)
        node = intern(OPS["input"], (), {"name": name, "number": tensor is None}, type)
        self.all.append(Input(node, name, text, tensor))
        return self.all[-1]

    def _unique(self, name: str) -> str:
        """The name as an identifier that no other input has."""
        found, number = identifier(name), 0
        while found in self._taken:
            number += 1
            found = f"{identifier(name)}_{number}"
        self._taken.add(found)
        return found

    # ---- the device ----

    def _check_device(self, tensor: torch.Tensor, name: str) -> None:
        if self.device is None or self.device.type == "meta":
            self.device = tensor.device
        elif tensor.device not in (self.device, torch.device("meta")):
            way_out = f"Move {name} with .to({str(self.device)!r})"
            hint = f"{way_out}, or pass it as a Python number." if tensor.dim() == 0 else f"{way_out}."
            got = f"{self.device} and {tensor.device} ({name})"
            raise UnsupportedDevice(op=self.function, rule="all tensors must be on one device", got=got, hint=hint)

    def check_same(self, device: Any, op: str) -> None:
        """Raises UnsupportedDevice for a device other than the inputs'."""
        device = torch.device(device)
        if self.device is None:
            self.device = device
        elif device.type != self.device.type or device.index not in (None, self.device.index):
            rule, hint = f"everything must stay on {self.device}", "Move it outside of the fused function."
            raise UnsupportedDevice(op=op, rule=rule, got=str(device), hint=hint)


def draw_seed(generator: torch.Generator | None) -> int:
    """63 bits of a generator; of torch's default one for the CPU if None, which torch.manual_seed sets."""
    device = "cpu" if generator is None else generator.device
    return int(torch.empty((), dtype=torch.int64, device=device).random_(generator=generator))


def identifier(name: str) -> str:
    """The name with everything replaced that a Python name cannot have: `xs[0].w` is xs_0_w."""
    name = re.sub(r"\W+", "_", name).strip("_") or "value"
    return f"_{name}" if name[0].isdigit() else name


def has_memory(tensor: torch.Tensor) -> bool:
    return not tensor.is_meta and type(tensor) in (torch.Tensor, torch.nn.Parameter) and bool(tensor.data_ptr())


def check_tensor(tensor: torch.Tensor, name: str, op: str) -> None:
    """Raises BadArgument or UnknownDType for tensors that are more than dense memory of a known dtype."""
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        rule, hint = "a plain torch.Tensor", "Pass the tensors it is made of."
        raise BadArgument(op=op, name=name, rule=rule, got=f"a {type(tensor).__name__}", hint=hint)
    if tensor.is_nested or tensor.layout is not torch.strided:
        kind = "a nested tensor" if tensor.is_nested else f"layout {tensor.layout}"
        raise BadArgument(op=op, name=name, rule="a dense tensor", got=kind, hint="Convert it with .to_dense().")
    dtype(tensor.dtype)
    if not has_memory(tensor) and not tensor.is_meta and tensor.numel():
        hint = "Set a packed weight as nn.Parameter(packed, requires_grad=False), not through .data."
        raise BadArgument(op=op, name=name, rule="a tensor with memory", got="none behind it", hint=hint)
    if tensor.is_neg():
        hint = "Convert it with .resolve_neg()."
        raise BadArgument(op=op, name=name, rule="plain memory", got="a lazily negated view", hint=hint)
