"""The tensors of a traced function: a `Proxy` is a torch.Tensor without data that stands for a node.

Being a real tensor subclass, it passes isinstance checks, torch's argument parsers and torch's own Python code. Its
type, device and sizes it answers itself; operations go to its session (session.py). An in-place operation gives it
another node, if nothing else shares its memory.
"""

from __future__ import annotations

import difflib
import numbers
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .errors import BadArgument, DataDependent, UntraceableCapture
from .inputs import Input
from .ir import Node, Op
from .nested import leaves_of
from .sizes import Shape

if TYPE_CHECKING:
    from .session import Session

# ---- what a proxy stands for ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A view taken of a tensor, so that it can be taken of a real one again."""

    function: Callable
    args: tuple
    kwargs: Mapping[str, Any]


class Storage:
    """Memory, which a tensor and its views share. source: the input it belongs to, None if it is computed."""

    __slots__ = ("holders", "node", "source")

    def __init__(self, node: Node, source: Input | None = None) -> None:
        self.node, self.source = node, source
        self.holders: list[weakref.ref[Value]] = []


class Value:
    """A node, and the views by which it was taken of a storage. grad: autograd would record it. is_spent: it was a view
    of memory that has changed since, so that it is not to be used again. packed: what takes its place where it is
    returned."""

    __slots__ = ("__weakref__", "grad", "is_spent", "node", "packed", "session", "steps", "storage")

    def __init__(self, session: Session, node: Node, storage: Storage, steps: tuple[Step, ...], grad: bool) -> None:
        self.session, self.node, self.steps, self.grad, self.is_spent = session, node, steps, grad, False
        self.packed: Any = None
        self.put_in(storage)

    def put_in(self, storage: Storage) -> None:
        self.storage = storage
        storage.holders.append(weakref.ref(self))

    @property
    def shares(self) -> bool:
        """Whether something else that is still in use has the same memory."""
        others = (ref() for ref in self.storage.holders)
        return any(other is not None and other is not self and not other.is_spent for other in others)


_templates: dict[tuple[torch.dtype, bool], torch.Tensor] = {}


def proxy_for(value: Value) -> Proxy:
    """A proxy that stands for a value."""
    key = (value.node.dtype.torch or torch.uint8, value.node.rank == 0)
    template = _templates.get(key)
    if template is None:  # what torch's parsers look at: the dtype, and whether there is a dimension
        template = _templates[key] = torch.empty(() if key[1] else (1,), dtype=key[0], device="meta")
    proxy = torch.Tensor._make_subclass(Proxy, template)
    proxy._fused = value
    return proxy


def is_over(name: str) -> UntraceableCapture:
    """The error for a proxy that outlived its trace."""
    what, hint = "it is a value of a trace that has ended", "Return it from the function instead of keeping it."
    return UntraceableCapture(name=name, what=what, hint=hint)


# ---- the proxy ------------------------------------------------------------------------------------------------------


# what a packed tensor has that a tensor of a trace has not
OF_PACKED = ("codes", "scale", "zero", "format", "parts", "slabs", "bits_per_weight")


class Proxy(torch.Tensor):
    """A tensor of a traced function."""

    _fused: Value

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):  # type: ignore[override]
        """Reached where the session's mode is not active: inside spellings, and after the trace."""
        first = next(leaf for leaf in leaves_of((args, kwargs or {})) if isinstance(leaf, Proxy))
        return first._session.call(func, args, kwargs or {})

    def __fused_apply__(self, op: Op, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What calling an op of ours does."""
        return self._session.apply(op, args, kwargs)

    @property
    def _stands_for_codes(self) -> bool:
        """Whether it is a packed tensor, a view of one, or what is quantized."""
        value = self._fused
        source = value.storage.source
        return value.packed is not None or (source is not None and source.packed is not None)

    @property
    def _session(self) -> Session:
        session = self._fused.session
        if session.is_over:
            raise is_over(repr(self))
        return session

    # ---- what it is ----

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        session = self._session
        return Shape(n if isinstance(n, int) else session.facts.size(n) for n in session.node(self).shape)

    @property
    def dtype(self) -> Any:  # type: ignore[override]
        kind = self._fused.node.dtype
        return kind.torch or kind

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self._session.inputs.device or torch.get_default_device()

    @property
    def ndim(self) -> int:  # type: ignore[override]
        return self._fused.node.rank

    @property
    def requires_grad(self) -> bool:  # type: ignore[override]
        source = self._fused.storage.source
        if source is not None and not self._fused.steps:
            self._session.facts.require(f"{source.text}.requires_grad is {self._fused.grad}")
        return self._fused.grad

    @property
    def is_leaf(self) -> bool:  # type: ignore[override]
        return not self._fused.grad or self._fused.storage.source is not None

    @property
    def itemsize(self) -> int:  # type: ignore[override]
        return self._fused.node.dtype.bytes

    @property
    def nbytes(self) -> Any:  # type: ignore[override]
        return self.numel() * self.itemsize

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return self.device.type == "cuda"

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return self.device.type == "cpu"

    @property
    def is_meta(self) -> bool:  # type: ignore[override]
        return self.device.type == "meta"

    def dim(self) -> int:
        return self._fused.node.rank

    ndimension = dim

    def size(self, dim: int | None = None) -> Any:  # type: ignore[override]
        if dim is None:
            return self.shape
        rank = self.dim()
        if not -rank <= dim < rank:
            raise BadArgument(op="size", name="dim", rule=f"in [{-rank}, {rank - 1}]", got=repr(dim), hint="")
        return self.shape[dim]

    def numel(self) -> Any:  # type: ignore[override]
        return self.shape.numel()

    nelement = numel

    def element_size(self) -> int:
        return self.itemsize

    def is_floating_point(self) -> bool:  # type: ignore[override]
        return self._fused.node.dtype.is_float

    def is_complex(self) -> bool:  # type: ignore[override]
        return False

    def is_signed(self) -> bool:  # type: ignore[override]
        return self._fused.node.dtype.kind in "fi"

    def get_device(self) -> int:
        device = self.device
        return -1 if device.type == "cpu" else device.index or 0

    def is_contiguous(self, memory_format: torch.memory_format = torch.contiguous_format) -> bool:  # type: ignore[override]
        """As it is in this call; for calls whose tensors lie otherwise the function is traced again."""
        return self._session.is_contiguous(self, memory_format)

    def __getattr__(self, name: str) -> Any:
        if self._stands_for_codes:
            if name == "unpack":
                return lambda dtype=None: self if dtype is None else self.to(dtype)
            if name in OF_PACKED:
                hint = f"Read .{name} outside of the function, and pass it as an argument."
                what = "a packed tensor is the numbers that it stands for, without its parts"
                raise UntraceableCapture(name=f".{name}", what=what, hint=hint)
        close = difflib.get_close_matches(name, dir(torch.Tensor), n=1)
        hint = f"; close to it: {close[0]}" if close else ""
        raise AttributeError(f"'Tensor' object has no attribute '{name}'{hint}", name=name)

    def __len__(self) -> int:
        if self.dim() == 0:
            raise TypeError("len() of a 0-d tensor")
        return int(self.shape[0])

    def __iter__(self):  # type: ignore[override]
        if self.dim() == 0:
            raise TypeError("iteration over a 0-d tensor")
        return iter([self[i] for i in range(len(self))])

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self, *, tensor_contents: object = None) -> str:  # type: ignore[override]
        node = self._fused.node
        name = self._fused.session.notes.names.get(node)
        return f"<{name}: {node.type}>" if name else f"<{node.type}>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    # ---- the same values ----

    @property
    def data(self) -> Proxy:  # type: ignore[override]
        return self.detach()

    def contiguous(self, memory_format: torch.memory_format = torch.contiguous_format) -> Proxy:  # type: ignore[override]
        return self._session.contiguous(self, memory_format)

    def detach(self) -> Proxy:  # type: ignore[override]
        return self._session.view_all(self, Step(torch.Tensor.detach, (), {}), False)

    def requires_grad_(self, requires_grad: bool = True) -> Proxy:  # type: ignore[override]
        if requires_grad:
            raise BadArgument(op="requires_grad_", name="requires_grad", rule="False", got="True", hint="")
        return self

    def cpu(self, **kwargs: Any) -> Proxy:  # type: ignore[override]
        self._session.inputs.check_same("cpu", "Tensor.cpu")
        return self

    def cuda(self, device: Any = None, **kwargs: Any) -> Proxy:  # type: ignore[override]
        self._session.inputs.check_same("cuda" if device is None else device, "Tensor.cuda")
        return self

    # ---- in place ----

    def copy_(self, src: Any, non_blocking: bool = False) -> Proxy:  # type: ignore[override]
        return self._session.store(self, src, torch.Tensor.copy_)

    def fill_(self, value: Any) -> Proxy:  # type: ignore[override]
        return self._session.store(self, value, torch.Tensor.fill_)

    def zero_(self) -> Proxy:
        return self._session.store(self, 0, torch.Tensor.zero_)

    def __setitem__(self, key: Any, value: Any) -> None:  # type: ignore[override]
        if isinstance(value, Proxy) and value is not self and value._fused.storage is self._fused.storage:
            value = self._session.last_use(value)
        self._session.call(torch.Tensor.__setitem__, (self, key, value), {})


# ---- what it refuses, and what it always answers --------------------------------------------------------------------

_READS = ("item", "tolist", "numpy", "__array__", "__int__", "__float__", "__complex__", "__index__")
_REFUSED = {
    **dict.fromkeys(_READS, "Keep it a tensor: a 0-dim tensor works in arithmetic."),
    **dict.fromkeys(("__bool__", "is_nonzero"), "Use torch.where(condition, a, b) instead of a branch."),
    **dict.fromkeys(("equal", "allclose", "__contains__"), "Compare with ==, and keep the result a tensor."),
    **dict.fromkeys(("data_ptr", "storage", "untyped_storage", "__dlpack__"), "Read it outside of the function."),
}  # fmt: skip
_ALWAYS = {
    "grad": None, "grad_fn": None, "_base": None, "layout": torch.strided, "is_sparse": False, "is_sparse_csr": False,
    "is_quantized": False, "is_nested": False, "is_mkldnn": False, "is_mps": False, "is_xpu": False, "is_xla": False,
}  # fmt: skip


def _refuse(name: str, hint: str) -> None:
    def method(self: Proxy, *args: Any, **kwargs: Any) -> Any:
        raise DataDependent(op=f"Tensor.{name}", what="the result", hint=hint)

    setattr(Proxy, name, method)


def _always(name: str, value: object) -> None:
    setattr(Proxy, name, property(lambda self: value))


def _operator(name: str, function: Callable) -> None:
    """An operator: torch's own would make "unsupported operand" of our TypeErrors."""

    def method(self: Proxy, other: Any) -> Any:
        if isinstance(other, _NO_OPERANDS) and name not in ("__eq__", "__ne__"):
            hint = "Make a tensor of it outside of the fused function."
            raise BadArgument(op=f"Tensor.{name}", name="the other operand", rule="a tensor or a number",
                              got=repr(other), hint=hint)  # fmt: skip
        if not isinstance(other, (torch.Tensor, numbers.Number)):
            return NotImplemented
        return self._session.call(function, (self, other), {})

    setattr(Proxy, name, method)
    _OPERATORS.add(name)


_OPERATORS: set[str] = set()
_NO_OPERANDS = (str, bytes, list, tuple, dict, set, type(None), np.ndarray)  # they would answer, and mislead
_ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift")
for _name in _ARITHMETIC:
    for _form in (f"__{_name}__", f"__r{_name}__", f"__i{_name}__"):
        _operator(_form, getattr(torch.Tensor, _form))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    _operator(f"__{_name}__", getattr(torch.Tensor, f"__{_name}__"))
_operator("__matmul__", torch.Tensor.matmul)
for _name, _hint in _REFUSED.items():
    _refuse(_name, _hint)
for _name, _value in _ALWAYS.items():
    _always(_name, _value)

# Methods that proxies answer themselves, also where they are called as functions or on captured tensors.
OWN: dict[str, Callable[..., Any]] = {
    name: function
    for name, function in vars(Proxy).items()
    if callable(function)
    and name not in _OPERATORS | {"__torch_function__", "__fused_apply__", "__hash__", "__setitem__"}
}
