"""The Graph as text that can be pasted back: the outputs of `parse(show(g))` are those of g, the same nodes. ::

    add_rms_norm(x: f16[B, K], residual: f16[B, K], weight: f16[K], eps: number weak f64):
      h = add(x, residual) : f16[B, K]                  # model.py:8  h = x + residual
      y = rms_norm(h, weight, eps) : f16[B, K]          # model.py:9  y = rms_norm(h, weight, eps)
      return h, y

After a node's operands come its attributes, `name=value`, less those at their default; after the colon its type, which
`parse` works out where it is left out. `1.5` is a Python number (a weak constant), `1.5:f32` a constant of that dtype.
The grammar is in ir.lark.
"""

from __future__ import annotations

import difflib
import inspect
import json
import keyword
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from . import ops  # noqa: F401  (text names ops: they must be declared)
from .errors import BadText, FuseError, place_in
from .index import Poly, Quotient, Symbol, floordiv, poly, remainder, sole_atom
from .ir import (
    OPS,
    Bound,
    Graph,
    MaybeDType,
    MaybeNumber,
    Node,
    Number,
    Op,
    ToDType,
    as_node,
    bits_of,
    constant,
    intern,
    rebuild,
)
from .types import DType, Type, dtype

if TYPE_CHECKING:
    from lark import Lark, Token

Tree = Any  # lark's own class, whose types say nothing of what a branch is

_WORDS = {"None": None, "True": True, "False": False}
_FLOATS = {"inf": math.inf, "nan": math.nan}
_RESERVED = {*_WORDS, *_FLOATS, "return"}


# ---- printing --------------------------------------------------------------------------------------------------------


def show(graph: Graph, lines: bool = True) -> str:
    """The graph as text; with the users' lines as comments, if there are any."""
    names = node_names(graph)
    rows = [(f"{names[n]} = {_call(n, names)} : {show_type(n.type)}", graph.lines.get(n)) for n in _statements(graph)]
    width = max((len(text) for text, line in rows if line), default=0)
    body = [f"{text:{width}}  # {line}" if lines and line else text for text, line in rows]
    title = graph.name if _is_name(graph.name) else json.dumps(graph.name)
    head = f"{title}({', '.join(_input(n, names[n]) for n in graph.inputs)}):"
    last = f"return {', '.join(_operand(n, names) for n in graph.outputs)}".rstrip()
    return "\n  ".join([head, *body, last]) + "\n"


def node_names(graph: Graph) -> dict[Node, str]:
    """A name of its own for each node of a graph that stands on a line of its own: the users' where there is one, with
    a number at the end where several have it, else %1, %2 ..."""
    taken, names = set(_RESERVED), {}
    for node in graph.inputs:
        names[node] = _unique(node["name"], taken)
    unnamed = 0
    for node in _statements(graph):
        if node in graph.names:
            names[node] = _unique(graph.names[node], taken)
        else:
            unnamed += 1
            names[node] = f"%{unnamed}"
    return names


def show_type(t: Type) -> str:
    """f16[B, 4], weak f64"""
    shape = f"[{', '.join(map(_value, t.shape))}]" if t.shape else ""
    return f"{'weak ' * t.weak}{t.dtype}{shape}"


def _statements(graph: Graph) -> Iterator[Node]:
    inputs = set(graph.inputs)
    return (n for n in graph.nodes if n not in inputs and (n in graph.names or _literal(n) is None))


def _is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)


def _unique(wanted: str, taken: set[str]) -> str:
    base = name = wanted if _is_name(wanted) else re.sub(r"\W|^(?=\d)", "_", wanted) or "_"
    count = 0
    while name in taken or not _is_name(name):
        count += 1
        name = f"{base}_{count}"
    taken.add(name)
    return name


def _input(node: Node, name: str) -> str:
    assert node.op.name == "input", f"an input of a graph that is none: {node}"
    known_as = "" if node["name"] == name else f"={json.dumps(node['name'])}"
    return f"{name}{known_as}: {'number ' * node['number']}{show_type(node.type)}"


def _call(node: Node, names: Mapping[Node, str]) -> str:
    parts = [_operand(a, names) for a in node.args]
    for key in node.op.rules:
        if bits_of(node[key]) != bits_of(node.op.signature.parameters[key].default):
            parts.append(f"{key}={_value(node[key])}")
    return f"{node.op.name}({', '.join(parts)})"


def _operand(node: Node | None, names: Mapping[Node, str]) -> str:
    if node is None:
        return "None"
    return names.get(node) or _literal(node) or f"<{node}>"


def _literal(node: Node) -> str | None:
    """A constant as an operand, where the text says all there is to it."""
    if node.op.name != "const":
        return None
    value = node["value"]
    if as_node(value) is node:
        return _value(value)
    typed = Type(node.dtype, (), node.type.weak)
    return f"{_value(value)}:{show_type(typed)}" if constant(value, typed) is node else None


def _value(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(_value, value))}{',' * (len(value) == 1)})"
    if isinstance(value, float) and math.isnan(value):
        return "-nan" if math.copysign(1, value) < 0 else "nan"
    if isinstance(value, Poly) and isinstance(sole_atom(value), Quotient):
        return repr(value)[1:-1]
    assert value is None or isinstance(value, bool | int | float | Poly | DType), f"no text for {value!r}"
    return repr(value)


# ---- parsing ---------------------------------------------------------------------------------------------------------


def parse(text: str) -> Graph:
    """The graph that a text stands for. Raises BadText, with the place."""
    from lark import UnexpectedCharacters, UnexpectedInput

    try:
        tree = _parser().parse(text)
    except UnexpectedInput as error:
        row, column, got = place_in(text, error)
        got = got or "the end of the text"
        expected = error.allowed if isinstance(error, UnexpectedCharacters) else getattr(error, "expected", ())
        hint = f"Expected {' or '.join(sorted(map(_spelled, expected or ())))}."
        raise BadText(what="the text of a graph", row=row, column=column, got=got, hint=hint) from None
    return _Reader().graph(tree)


@cache
def _parser() -> Lark:
    from lark import Lark

    grammar = Path(__file__).with_name("ir.lark").read_text()
    return Lark(grammar, start="graph", parser="lalr", maybe_placeholders=True)


def _spelled(terminal: str) -> str:
    """A terminal of the grammar as it stands in a text."""
    known = {t.name: t.pattern.value for t in _parser().terminals if t.pattern.type == "str"}
    return f'"{known[terminal]}"' if terminal in known else terminal.lower().strip("$_")


def _fail(place: Token, what: str, got: str, hint: str) -> NoReturn:
    raise BadText(what=what, row=place.line, column=place.column, got=got, hint=hint)


class _Reader:
    """Builds nodes from the tree, line by line; `nodes` are those that have a name so far."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}

    def graph(self, tree: Tree) -> Graph:
        title, inputs, body, outputs = tree.children
        given = tuple(self.input(t) for t in inputs.children)
        names: dict[Node, str] = {}
        for line in body.children:
            name, node = self.statement(line)
            if not name.startswith("%"):
                names.setdefault(node, name)
        results = tuple(self.output(t) for t in outputs.children)
        return Graph(given, results, _text_of(title), names)

    def input(self, tree: Tree) -> Node:
        name, known_as, number, kind = tree.children
        attrs = {"name": _text_of(known_as or name), "number": number is not None}
        return self.named(name, intern(OPS["input"], (), attrs, _type(kind)))

    def output(self, tree: Tree) -> Node:
        node = self.operand(tree)
        if node is None:
            _fail(tree.children[1], "an output", "None", "Return nodes.")
        return node

    def named(self, name: Token, node: Node) -> Node:
        if name in self.nodes:
            _fail(name, "a name", repr(str(name)), "It is taken: each name stands for one node.")
        self.nodes[str(name)] = node
        return node

    def statement(self, tree: Tree) -> tuple[str, Node]:
        name, op_name, arguments, kind = tree.children
        if op_name not in OPS:
            _fail(op_name, "an op", repr(str(op_name)), _close(op_name, OPS) or "`fusedsl ops` lists the ops.")
        op, wanted = OPS[op_name], _type(kind) if kind else None
        operands = [self.operand(t) for t in arguments.children if t.data == "operand"]
        attrs = _attributes(op, op_name, operands, [t for t in arguments.children if t.data == "attribute"])
        node = _node(op, op_name, operands, attrs, wanted)
        if wanted and node.type != wanted:
            _fail(op_name, "a type", show_type(wanted), f"{op.name} of these operands gives {show_type(node.type)}.")
        return str(name), self.named(name, node)

    def operand(self, tree: Tree) -> Node | None:
        minus, token, weak, kind = tree.children
        word = token.type in ("NAME", "UNNAMED")
        if word and not minus and not kind:
            if token in self.nodes:
                return self.nodes[token]
            if token == "None":
                return None
        if word and token not in _FLOATS and (minus or token not in ("True", "False")):
            hint = _close(token, self.nodes) or "No line above gives it a value."
            _fail(token, "an operand", repr(str(token)), hint)
        value = token == "True" if token in ("True", "False") else int(token) if token.type == "INT" else float(token)
        value = -value if minus else value
        return constant(value, Type(_dtype(kind), (), weak is not None)) if kind else as_node(value)


def _text_of(token: Token) -> str:
    return json.loads(token) if token.type == "STRING" else str(token)


def _close(word: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(word, known, n=3)
    return f"Close to it: {', '.join(close)}." if close else ""


def _dtype(name: Token) -> DType:
    try:
        return dtype(str(name))
    except FuseError as error:
        _fail(name, "a dtype", repr(str(name)), error.message)


def _type(tree: Tree) -> Type:
    weak, name, sizes = tree.children
    return Type(_dtype(name), tuple(_evaluated(n, None) for n in (sizes.children if sizes else ())), weak is not None)


def _attributes(op: Op, place: Token, operands: list[Node | None], trees: list[Tree]) -> dict[str, Any]:
    """All attributes of a call in normal form, those not given at their default."""
    given = {str(t.children[0]): t for t in trees}
    for key, tree in given.items():
        if key not in op.rules:
            _fail(tree.children[0], f"an attribute of {op.name}", repr(key), f"It has {', '.join(op.rules) or 'none'}.")
    rank = operands[0].rank if operands and operands[0] else 0
    attrs = {}
    for key, rule in op.rules.items():
        value = op.signature.parameters[key].default
        if key in given:
            place, value = given[key].children[0], _evaluated(given[key].children[1], rule)
        elif value is inspect.Parameter.empty:
            _fail(place, f"a call of {op.name}", f"no {key}", f"Write {key}= after the operands.")
        try:
            attrs[key] = rule.normal(value, rank, op.name)
        except FuseError as error:
            _fail(place, f"{key} of {op.name}", repr(value), error.message)
    return attrs


def _node(op: Op, place: Token, operands: list[Node | None], attrs: Mapping[str, Any], wanted: Type | None) -> Node:
    what = f"a call of {op.name}"
    if not op.variadic and len(operands) != len(op.operands):
        hint = f"It takes {', '.join(op.operands) or 'none'}; write None for one left out."
        _fail(place, what, f"{len(operands)} operands", hint)
    if wanted is None and op.type is None and op.expand is None:
        _fail(place, what, "no type", "No operand tells it: write `: type` behind.")
    try:
        node = rebuild(op, operands, attrs, wanted or Type(dtype("f32")))
    except FuseError as error:
        _fail(place, what, f"{op.name}(...)", error.message)
    if not isinstance(node, Node):
        _fail(place, what, f"{len(node)} results", "Write the ops that it stands for.")
    return node


# What a bare word in an attribute means, is told by the attribute's rule: a dtype, a float or a size.
_DTYPES = [get_args(kind)[1] for kind in (ToDType, MaybeDType)]
_NUMBERS = [get_args(kind)[1] for kind in (Number, MaybeNumber, Bound)]
_ARITHMETIC: dict[str, Callable[..., Any]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "neg": operator.neg,
    "floordiv": floordiv, "remainder": remainder,
}  # fmt: skip


def _evaluated(tree: Tree, rule: Any) -> Any:
    """The value that an attribute with this rule has; of no rule: a size."""
    parts = tree.children
    match tree.data:
        case "string":
            return json.loads(parts[0])
        case "tuple":
            return tuple(_evaluated(t, rule) for t in parts)
        case "int":
            return int(parts[0])
        case "float" if rule is not None:
            return float(parts[0])
        case "word" if rule is not None and parts[0] in _WORDS:
            return _WORDS[parts[0]]
        case "word" if rule in _DTYPES:
            return _dtype(parts[0])
        case "word" if rule in _NUMBERS and parts[0] in _FLOATS:
            return _FLOATS[parts[0]]
        case "word":
            return poly(Symbol(str(parts[0])))
    values = [_evaluated(t, rule) for t in parts]
    if not all(isinstance(v, int | Poly) or (tree.data == "neg" and isinstance(v, float)) for v in values):
        place = next(iter(tree.scan_values(bool)))
        _fail(place, "arithmetic", " and ".join(map(repr, values)), "Only sizes can be computed with.")
    return _ARITHMETIC[tree.data](*values)
