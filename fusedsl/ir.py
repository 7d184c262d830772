"""The Graph: interned immutable nodes over whole tensors, and how an op is declared. Names no op.

Two nodes of one op, arguments, attributes and type are one object, so sameness is identity and common subexpressions
need no pass. Names and source lines stand beside the nodes, in the Graph, never in them.
"""

from __future__ import annotations

import contextvars
import difflib
import inspect
import struct
import threading
import typing
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch

from .errors import BadArgument, FuseError, Line, UnknownFunction
from .index import Index, Poly, replace
from .types import DType, Type, dim_in, dtype

# ---- nodes ----------------------------------------------------------------------------------------------------------

Arg = "Node | None"


class Node:
    """One op applied to arguments. args: nodes, None for an optional operand left out. attrs: what is not a tensor."""

    __slots__ = ("__weakref__", "_expansion", "args", "attrs", "op", "type")
    op: Op
    args: tuple[Node | None, ...]
    attrs: tuple[tuple[str, Any], ...]
    type: Type

    def __getitem__(self, name: str) -> Any:
        """The attribute of that name."""
        for key, value in self.attrs:
            if key == name:
                return value
        raise KeyError(name)

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    @property
    def shape(self) -> tuple[Index, ...]:
        return self.type.shape

    @property
    def rank(self) -> int:
        return len(self.type.shape)

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The arguments that are there."""
        return tuple(a for a in self.args if a is not None)

    @property
    def is_number(self) -> bool:
        """Whether this is a Python number that the caller passes, by value."""
        return any(key == "number" and value for key, value in self.attrs)

    @property
    def expansion(self) -> Node:
        """What a composition stands for, in terms of other ops."""
        assert self.op.expand is not None, f"not a composition: {self.op.name}"
        return self._expansion

    def with_args(self, args: Sequence[Node | None]) -> Node:
        """This node on other arguments; its type is worked out anew."""
        return self if tuple(args) == self.args else rebuild(self.op, args, dict(self.attrs), self.type)

    def __repr__(self) -> str:
        return f"<{self.op.name}: {self.type}>"

    if typing.TYPE_CHECKING:  # `declare(operator=...)` binds them
        # fmt: off
        def __add__(self, other: Any) -> Node: ...
        def __radd__(self, other: Any) -> Node: ...
        def __sub__(self, other: Any) -> Node: ...
        def __rsub__(self, other: Any) -> Node: ...
        def __mul__(self, other: Any) -> Node: ...
        def __rmul__(self, other: Any) -> Node: ...
        def __truediv__(self, other: Any) -> Node: ...
        def __rtruediv__(self, other: Any) -> Node: ...
        def __floordiv__(self, other: Any) -> Node: ...
        def __rfloordiv__(self, other: Any) -> Node: ...
        def __mod__(self, other: Any) -> Node: ...
        def __rmod__(self, other: Any) -> Node: ...
        def __pow__(self, other: Any) -> Node: ...
        def __rpow__(self, other: Any) -> Node: ...
        def __and__(self, other: Any) -> Node: ...
        def __rand__(self, other: Any) -> Node: ...
        def __or__(self, other: Any) -> Node: ...
        def __ror__(self, other: Any) -> Node: ...
        def __xor__(self, other: Any) -> Node: ...
        def __rxor__(self, other: Any) -> Node: ...
        def __lshift__(self, other: Any) -> Node: ...
        def __rshift__(self, other: Any) -> Node: ...
        def __lt__(self, other: Any) -> Node: ...
        def __le__(self, other: Any) -> Node: ...
        def __gt__(self, other: Any) -> Node: ...
        def __ge__(self, other: Any) -> Node: ...
        def __neg__(self) -> Node: ...
        def __abs__(self) -> Node: ...
        def __invert__(self) -> Node: ...
        # fmt: on


_table: weakref.WeakValueDictionary = weakref.WeakValueDictionary()
_lock = threading.RLock()


def bits_of(value: Any) -> Any:
    """A key under which two attribute values are the same value: 1, True, 1.0, 0.0 and -0.0 are five things."""
    if isinstance(value, float):
        return ("float", struct.pack("<d", value))
    if isinstance(value, tuple):
        return tuple(bits_of(v) for v in value)
    return (type(value).__name__, value)


def intern(op: Op, args: Sequence[Node | None], attrs: Mapping[str, Any], type: Type) -> Node:
    """The one node of these parts."""
    args = tuple(args)
    frozen = tuple(sorted(attrs.items()))
    key = (op.name, args, tuple((k, bits_of(v)) for k, v in frozen), type)
    with _lock:
        node = _table.get(key)
        if node is None:
            node = object.__new__(Node)
            node.op, node.args, node.attrs, node.type = op, args, frozen, type
            _table[key] = node
        return node


def rebuild(op: Op, args: Sequence[Node | None], attrs: Mapping[str, Any], type: Type) -> Node:
    """A node of parts that are in normal form already: operands cast, attributes canonical."""
    if op.type is not None:
        type = op.type.result([a.type if a is not None else None for a in args], **attrs)
        return intern(op, args, attrs, type)
    if op.expand is not None:
        return _compose(op, args, attrs)
    return intern(op, args, attrs, type)


def topological(outputs: Iterable[Node], known: Iterable[Node] = ()) -> list[Node]:
    """Every node that the outputs need, each after its arguments; not those that are known, nor what only they need.
    Without recursion: graphs may be deep."""
    order: list[Node] = []
    seen = set(known)
    stack: list[tuple[Node, Iterator[Node]]] = []
    for root in outputs:
        if root in seen:
            continue
        seen.add(root)
        stack.append((root, iter(root.inputs)))
        while stack:
            node, rest = stack[-1]
            for child in rest:
                if child not in seen:
                    seen.add(child)
                    stack.append((child, iter(child.inputs)))
                    break
            else:
                stack.pop()
                order.append(node)
    return order


# ---- graphs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Graph:
    """A function from inputs to outputs. names and lines: what the user called a node and where it was made."""

    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]
    name: str = "graph"
    names: Mapping[Node, str] = field(default_factory=dict, compare=False)
    lines: Mapping[Node, Line] = field(default_factory=dict, compare=False)

    @property
    def nodes(self) -> list[Node]:
        return topological(self.outputs)

    def rewritten(self, mapping: Mapping[Node, Node]) -> Graph:
        """This graph with outputs, names and lines carried over to the nodes that replace them."""
        names, lines = dict(self.names), dict(self.lines)
        for old, new in mapping.items():
            if old is not new:
                if old in names:
                    names.setdefault(new, names[old])
                if old in lines:
                    lines.setdefault(new, lines[old])
        outputs = tuple(mapping.get(o, o) for o in self.outputs)
        return Graph(tuple(mapping.get(i, i) for i in self.inputs), outputs, self.name, names, lines)


def map_nodes(outputs: Iterable[Node], change: Callable[[Node], Node]) -> dict[Node, Node]:
    """Every node mapped to its changed form, arguments first: `change` sees a node whose arguments are changed."""
    done: dict[Node, Node] = {}
    for node in topological(outputs):
        done[node] = change(node.with_args([a if a is None else done[a] for a in node.args]))
    return done


def substitute_sizes(graph: Graph, mapping: Mapping, known: Iterable[Node] = ()) -> Graph:
    """The graph with size symbols replaced, in types and attributes. known: nodes that are sure to stay as they are."""
    if not mapping:
        return graph
    done: dict[Node, Node] = {}
    for node in topological((*graph.inputs, *graph.outputs), known):
        attrs = {k: _replace_sizes(v, mapping) for k, v in node.attrs}
        args = tuple(a if a is None else done.get(a, a) for a in node.args)
        type = node.type.replace(dict(mapping))
        same = args == node.args and type == node.type and tuple(attrs.items()) == node.attrs
        done[node] = node if same else rebuild(node.op, args, attrs, type)
    return graph.rewritten(done)


def _replace_sizes(value: Any, mapping: Mapping) -> Any:
    if isinstance(value, Poly):
        return replace(value, mapping)
    if isinstance(value, tuple):
        return tuple(_replace_sizes(v, mapping) for v in value)
    return value


# ---- parameters: the annotation is the rule -------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """How an attribute is brought to normal form: (value, rank of the first operand, op) -> value."""

    normal: Callable[[Any, int, str], Any]


def dims_in(value: Any, rank: int, op: str) -> tuple[int, ...]:
    """Dimension numbers in order, all for None. Raises DimOutOfRange, BadArgument."""
    if value is None or (isinstance(value, (tuple, list, range)) and not value):
        return tuple(range(rank))
    dims = [dim_in(d, rank, op) for d in (value if isinstance(value, (tuple, list, range)) else (value,))]
    return tuple(sorted(_once(dims, op))) if rank else ()


def _given_dims(value: Any, rank: int, op: str) -> tuple[int, ...]:
    return () if isinstance(value, (tuple, list)) and not value else dims_in(value, rank, op)


def _one_dim(value: Any, rank: int, op: str) -> tuple[int, ...]:
    if isinstance(value, tuple) and len(value) <= 1:
        value = value[0] if value else 0
    return (dim_in(value, rank, op),) if rank else ()


def _dim_order(value: Any, rank: int, op: str) -> tuple[int, ...]:
    return tuple(_once([dim_in(d, rank, op) for d in (value if isinstance(value, (tuple, list, range)) else
    (value,))], op))


def _once(dims: list[int], op: str) -> list[int]:
    if len(set(dims)) != len(dims):
        raise BadArgument(op=op, name="dim", rule="each dimension at most once", got=repr(dims), hint="")
    return dims


def _sizes(value: Any, rank: int, op: str) -> tuple[Index, ...]:
    items = value if isinstance(value, (tuple, list)) else (value,)
    return tuple(_int(v, rank, op) for v in items)


def _int(value: Any, rank: int, op: str) -> Index:
    if isinstance(value, Poly):
        return value
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise BadArgument(op=op, name="a size or an index", rule="an int", got=repr(value), hint="")
    return int(value)


def _number(value: Any, rank: int, op: str) -> Any:
    if not isinstance(value, (bool, int, float)):
        raise BadArgument(op=op, name="a constant", rule="a Python number", got=repr(value),
                          hint="It is part of the kernel, so it cannot be a tensor.")  # fmt: skip
    return value


def _bound(value: Any, rank: int, op: str) -> Any:
    return value if isinstance(value, Poly) else _number(value, rank, op)


def _flag(value: Any, rank: int, op: str) -> bool:
    if not isinstance(value, bool):
        raise BadArgument(op=op, name="a switch", rule="True or False", got=repr(value), hint="")
    return value


def _maybe(rule: Callable[[Any, int, str], Any]) -> Callable[[Any, int, str], Any]:
    return lambda value, rank, op: None if value is None else rule(value, rank, op)


Dim = Annotated[int, Rule(dim_in)]  # a dimension
NewDim = Annotated[int, Rule(lambda v, rank, op: dim_in(v, rank + 1, op))]  # a place among rank + 1
Dims = Annotated[typing.Any, Rule(dims_in)]  # one, several, or None for all
GivenDims = Annotated[typing.Any, Rule(_given_dims)]  # the same, but no dim is none
OneDim = Annotated[typing.Any, Rule(_one_dim)]  # one, as a tuple of it; of a scalar none
DimOrder = Annotated[typing.Any, Rule(_dim_order)]  # several, in the order given
Sizes = Annotated[typing.Any, Rule(_sizes)]  # a list of sizes
Size = Annotated[typing.Any, Rule(_int)]  # one size or index
MaybeSize = Annotated[typing.Any, Rule(_maybe(_int))]
MaybeSizes = Annotated[typing.Any, Rule(_maybe(_sizes))]
Number = Annotated[float, Rule(_number)]
Bound = Annotated[typing.Any, Rule(_bound)]  # a number or a size
MaybeNumber = Annotated[typing.Any, Rule(_maybe(_number))]
Flag = Annotated[bool, Rule(_flag)]
MaybeDim = Annotated[typing.Any, Rule(_maybe(dim_in))]
MaybeDType = Annotated[typing.Any, Rule(_maybe(lambda v, rank, op: dtype(v)))]
ToDType = Annotated[typing.Any, Rule(lambda v, rank, op: dtype(v))]
Choice = Annotated[str, Rule(lambda v, rank, op: str(v))]

# ---- ops ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TypeRule:
    """operands: the dtypes that arguments are cast to (None: as they are). result: the type of the node."""

    result: Callable[..., Type]
    operands: Callable[[Sequence[Type], str], Sequence[DType | None]] | None = None


@dataclass(frozen=True)
class Reduction:
    """A commutative and associative combination. identity(dtype): the value that changes nothing.
    combine: text of {0} combined with {1}; tile: text of {0} reduced along {axis}; prefix: text of {0} combined along
    {axis} up to each element. pairwise: the name of the elementwise op that combines two values, for what algebra knows
    of it. of_products: what is combined are products, whose factors may be rounded as the op's attribute `precision`
    says: a contraction."""

    identity: Callable[[DType], Any]
    combine: str
    tile: str
    prefix: str = ""
    pairwise: str = ""
    of_products: bool = False


Lowering = Callable[..., Any]


@dataclass(eq=False)
class Op:
    """All that is known of an op. Call it with tensors to run its reference, with nodes to make a node."""

    name: str
    reference: Callable[..., Any]
    doc: str
    signature: inspect.Signature
    operands: tuple[str, ...]  # the parameters that are tensors
    variadic: bool  # the first operand is a list of tensors
    rules: Mapping[str, Rule]  # normal forms of the others
    type: TypeRule | None
    triton: str | Callable[..., str] | None
    index: Callable[..., Sequence[Index]] | None
    reduction: Reduction | None
    scan: Reduction | None
    lower: Lowering | None
    expand: Callable[..., Any] | None
    domain: Any
    torch: tuple[str, ...]
    cheap: bool
    jumps: str
    homogeneous: bool
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        for form, kind in _KINDS.items():
            if getattr(self, form) is not None:
                return kind
        return "elementwise"

    @property
    def combination(self) -> Reduction | None:
        """What a reduction or a scan combines with."""
        return self.reduction or self.scan

    @property
    def contracts(self) -> bool:
        """Whether it sums products."""
        return self.reduction is not None and self.reduction.of_products

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        values = [*args, *kwargs.values()]
        values += [item for v in values if isinstance(v, (list, tuple)) for item in v]
        for value in values:
            if hasattr(value, "__fused_apply__"):
                return value.__fused_apply__(self, args, kwargs)
        if any(isinstance(v, Node) for v in values):
            return build(self, args, kwargs)
        apply = applying.get()  # a call without traced tensors still belongs to the trace: zeros, a captured tensor
        return self.reference(*args, **kwargs) if apply is None else apply(self, args, kwargs)

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def __reduce__(self):
        return (_op_named, (self.name,))


_KINDS = {"index": "view", "reduction": "reduce", "scan": "scan", "lower": "indexed", "expand": "composition"}

# What calling an op on values that are no nodes does; set while a function is traced.
applying: contextvars.ContextVar[Callable[..., Any] | None] = contextvars.ContextVar("applying", default=None)

# What gives random numbers a seed and the number of a stream, for a torch.Generator or None; set likewise.
streams: contextvars.ContextVar[Callable[[Any], tuple[Any, int]]] = contextvars.ContextVar("streams")


def new_stream(generator: Any) -> tuple[Any, int]:
    """The seed that a call of the function being traced draws of a torch.Generator (None: torch's default one), and
    the number of a stream that nothing else in the function uses."""
    return streams.get()(generator)


OPS: dict[str, Op] = {}
SPELLINGS: dict[str, Callable[..., Any]] = {}  # "torch.max" -> a function over ops, where torch's form differs


def _op_named(name: str) -> Op:
    return OPS[name]


def declare(
    *,
    type: TypeRule | None = None,
    triton: str | Callable[..., str] | None = None,
    index: Callable[..., Sequence[Index]] | None = None,
    reduction: Reduction | None = None,
    scan: Reduction | None = None,
    lower: Lowering | None = None,
    expand: Callable[..., Any] | None = None,
    domain: Any = (-4.0, 4.0),
    torch: Sequence[str] = (),
    operator: str = "",
    cheap: bool = True,
    jumps: str = "",
    homogeneous: bool = False,
    source: bool = False,
) -> Callable[[Callable[..., Any]], Op]:
    """Declares an op: the function's name is the op's, its body the reference, its docstring the documentation.

    type       shape and dtype rule; a composition needs none, its expansion tells
    triton     elementwise: text of the Triton expression with {0}, {1} ... , or a function (expr, *texts) -> text that
               may ask expr.dtype, expr.args[0].dtype and expr.attrs (a dict)
    index      view: (node, indices of the result) -> indices of the operand
    reduction  reduce: along the attribute `dim`, a tuple
    scan       every element combined with those before it along the one dimension in the attribute `dim`, a tuple
    lower      anything else: (context, node, indices) -> scalar expression (see fusedsl/lower.py)
    expand     composition: the same function in terms of other ops, on nodes
    domain     where test inputs come from: (low, high) for all operands, or one pair each
    torch      other names of it, beside those of torch, torch.Tensor, torch.nn.functional and torch.special that are
               the op's own: "torch.absolute", "Tensor.__abs__"
    operator   Python's operator on nodes: "__add__"; the reflected one comes with it
    cheap      whether recomputing it in each consumer costs less than a trip to memory; where not, a thread of a GPU
               holds few elements, because it takes many registers
    jumps      "values" or "all": its result, a float, jumps where an operand hardly changes, so that it sees operands
               rounded as eager's are, with "all" Python numbers too; where the result is no float this goes without
               saying
    homogeneous  f(c x) = c f(x) for every positive c: a factor of a row passes through it
    source     it has no operands that tell its type: whoever makes the node says the type

    Raises TypeError at import where the declaration contradicts itself.
    """

    def register(function: Callable[..., Any]) -> Op:
        name = function.__name__.rstrip("_")
        forms = [f for f in (triton, index, reduction, scan, lower, expand) if f is not None]
        if name in OPS:
            raise TypeError(f"op {name} is declared twice")
        if len(forms) != 1:
            raise TypeError(f"op {name}: give one of triton, index, reduction, scan, lower, expand")
        if type is None and expand is None and not source:
            raise TypeError(f"op {name}: give a type rule")
        if not function.__doc__:
            raise TypeError(f"op {name}: say in a docstring what it computes")
        operands, variadic, rules = _parameters(name, function)
        if isinstance(triton, str) and ("{" + str(len(operands)) + "}") in triton:
            raise TypeError(f"op {name}: its Triton text has more slots than it has operands")
        signature = inspect.signature(function)
        signature = signature.replace(parameters=[p.replace(annotation=p.empty) for p in signature.parameters.values()])
        op = Op(
            name, function, inspect.cleandoc(function.__doc__), signature, operands, variadic, rules, type, triton,
            index, reduction, scan, lower, expand, domain, tuple(torch), cheap, jumps,
            homogeneous,
        )  # fmt: skip
        OPS[name] = op
        if operator:
            _bind_operator(operator, op)
        return op

    return register


def _parameters(name: str, function: Callable[..., Any]) -> tuple[tuple[str, ...], bool, dict[str, Rule]]:
    operands, variadic, rules = [], False, {}
    for key, hint in typing.get_type_hints(function, include_extras=True).items():
        if key == "return":
            continue
        if hint in (torch.Tensor, torch.Tensor | None, typing.Optional[torch.Tensor]):  # noqa: UP045
            operands.append(key)
        elif typing.get_origin(hint) in (list, tuple, Sequence) and typing.get_args(hint)[0] is torch.Tensor:
            operands.append(key)
            variadic = True
        elif typing.get_origin(hint) is Annotated and isinstance(hint.__metadata__[0], Rule):
            rules[key] = hint.__metadata__[0]
        else:
            raise TypeError(f"op {name}: parameter {key} has no rule; annotate it with one of fusedsl.ir's")
    missing = set(inspect.signature(function).parameters) - set(operands) - set(rules)
    if missing:
        raise TypeError(f"op {name}: annotate {', '.join(sorted(missing))}")
    return tuple(operands), variadic, rules


def spells(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function over ops as the meaning of torch functions: @spells("torch.max", "Tensor.max")."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            if name in SPELLINGS:
                raise TypeError(f"{name} is spelled twice")
            SPELLINGS[name] = function
        return function

    return register


def build(op: Op, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The node of an op called as its signature says. Casts operands, brings attributes to normal form.

    Raises BadArgument where the call does not fit the signature, and what the op's own rules raise."""
    try:
        bound = op.signature.bind(*args, **kwargs)
    except TypeError as error:
        rule = f"{op.name}{op.signature}"
        raise BadArgument(op=op.name, name="the call", rule=rule, got=str(error), hint="") from None
    bound.apply_defaults()
    nodes: list[Node | None] = []
    for key in op.operands:
        value = bound.arguments[key]
        if op.variadic and isinstance(value, (list, tuple)):
            nodes += [as_node(v, op) for v in value]
        else:
            optional = op.signature.parameters[key].default is None
            nodes.append(None if value is None and optional else as_node(value, op))
    rank = max((n.rank for n in nodes[:1] if n is not None), default=0)
    attrs = {key: rule.normal(bound.arguments[key], rank, op.name) for key, rule in op.rules.items()}
    if op.expand is not None:
        return _compose(op, nodes, attrs)
    assert op.type is not None, f"no type rule: {op.name}"
    try:
        return _typed(op, op.type, nodes, attrs)
    except FuseError as error:
        error.parts["op"] = op.name  # rules are shared
        raise


def _typed(op: Op, rule: TypeRule, nodes: list[Node | None], attrs: Mapping[str, Any]) -> Node:
    if rule.operands is not None:
        types = [n.type for n in nodes if n is not None]
        wanted = rule.operands(types, op.name)
        weak = all(t.weak for t in types)  # numbers among themselves stay numbers
        nodes = [n if want is None or n is None else cast(n, want, weak) for n, want in zip(nodes, wanted, strict=True)]
    return intern(op, nodes, attrs, rule.result([n.type if n is not None else None for n in nodes], **attrs))


def _compose(op: Op, args: Sequence[Node | None], attrs: Mapping[str, Any]) -> Any:
    assert op.expand is not None
    expansion = op.expand(list(args), **attrs) if op.variadic else op.expand(*args, **attrs)
    if isinstance(expansion, tuple):  # several results: the parts stand for themselves
        return expansion
    node = intern(op, args, attrs, expansion.type)
    node._expansion = expansion
    return node


def as_node(value: Any, op: Op | None = None) -> Node:
    """A node for an operand: nodes as they are, Python numbers as weak constants, sizes as weak integers."""
    if isinstance(value, Node):
        return value
    if isinstance(value, bool):
        return constant(value, Type(dtype("bool"), (), weak=True))
    if isinstance(value, int):
        return constant(value, Type(dtype("i64"), (), weak=True))
    if isinstance(value, float):
        return constant(value, Type(dtype("f64"), (), weak=True))
    if isinstance(value, Poly):
        return intern(OPS["size"], (), {"value": value}, Type(dtype("i64"), (), weak=True))
    name = op.name if op else "operand"
    raise BadArgument(op=name, name="an operand", rule="a tensor or a Python number", got=repr(value), hint="")


def constant(value: bool | int | float, type: Type) -> Node:
    """A scalar known while tracing."""
    value = _convert(value, type.dtype)
    return intern(OPS["const"], (), {"dtype": type.dtype, "value": value}, type)


def cast(node: Node, to: DType, weak: bool = False) -> Node:
    """The node converted; known numbers convert where they stand, others are not rounded to a half: beside a half they
    are computed with in f32."""
    if node.dtype is to:
        return node
    if node.op.name == "const" and node.type.weak:
        return constant(_convert(node["value"], to), Type(to, (), weak))
    if node.type.weak and to.is_float and to is not to.computed:
        return build(OPS["retype"], (cast(node, to.computed), to), {})
    return build(OPS["cast"], (node, to), {})


def _convert(value: bool | int | float, to: DType) -> bool | int | float:
    if to.is_float:
        return float(value)
    if to.torch is None or isinstance(value, float):
        return bool(value) if to.is_bool else int(value)
    return torch.tensor(value).to(to.torch).item()


def _bind_operator(name: str, op: Op) -> None:
    def forward(self: Node, *others: Any) -> Any:
        return build(op, (self, *others), {})

    def reflected(self: Node, other: Any) -> Any:
        return build(op, (other, self), {})

    setattr(Node, name, forward)
    if len(op.operands) == 2 and name not in ("__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__"):
        setattr(Node, "__r" + name[2:], reflected)


def no_rule(name: str) -> UnknownFunction:
    """The error for a torch function that no op spells."""
    close = difflib.get_close_matches(name.rpartition(".")[2], OPS, cutoff=0.75)
    hint = f"Close to it: {', '.join(close)}. " if close else ""
    return UnknownFunction(op=name, hint=f"{hint}`fusedsl ops` lists what there is; the rest is called "
                                         "outside the fused function.")  # fmt: skip
