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
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from . import ops  # noqa: F401  (text names ops: they must be declared)
from .errors import BadText, FuseError
from .index import Index, Poly, Symbol, floordiv, poly, remainder
from .ir import OPS, Graph, MaybeDType, MaybeNumber, Node, Number, Op, ToDType, as_node, bits_of, constant, intern, rebuild
from .types import DType, Type, dtype

if TYPE_CHECKING:
    from lark import Lark, Token, Tree

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
    a number at the end where several have it, else %1, %2 ... """
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
    shape = f"[{', '.join(map(repr, t.shape))}]" if t.shape else ""
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
    return f"{_value(value)}:{node.dtype}" if constant(value, Type(node.dtype)) is node else None


def _value(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(_value, value))}{',' * (len(value) == 1)})"
    if isinstance(value, float) and math.isnan(value):
        return "-nan" if math.copysign(1, value) < 0 else "nan"
    assert value is None or isinstance(value, bool | int | float | Poly | DType), f"no text for {value!r}"
    return repr(value)


# ---- parsing ---------------------------------------------------------------------------------------------------------


def parse(text: str) -> Graph:
    """The graph that a text stands for. Raises BadText, with the place."""
    from lark import UnexpectedCharacters, UnexpectedEOF, UnexpectedInput, UnexpectedToken

    try:
        tree = _parser().parse(text)
    except UnexpectedInput as error:
        rows = text.splitlines() or [""]
        ended = isinstance(error, UnexpectedEOF) or (isinstance(error, UnexpectedToken) and error.token.type == "$END")
        row, column = (len(rows), len(rows[-1]) + 1) if ended else (error.line, error.column)
        got = "the end of the text" if ended else repr(text.splitlines()[row - 1][column - 1 :][:20])
        expected = error.allowed if isinstance(error, UnexpectedCharacters) else getattr(error, "expected", ())
        hint = f"Expected {' or '.join(sorted(_spelled(name) for name in expected or ()))}."
        raise BadText(what="the text of a graph", row=row, column=column, got=got, hint=hint) from None
    return _Reader().graph(tree)


@cache
def _parser() -> Lark:
    from lark import Lark

    return Lark(Path(__file__).with_name("ir.lark").read_text(), start="graph", parser="lalr", maybe_placeholders=True)


def _spelled(terminal: str) -> str:
    """A terminal of the grammar as it stands in a text."""
    known = {t.name: t.pattern.value for t in _parser().terminals if t.pattern.type == "str"}
    return f'"{known[terminal]}"' if terminal in known else terminal.lower().strip("$_")


def _rule_of(annotation: Any) -> Any:
    return get_args(annotation)[1]


_DTYPE_RULES = (_rule_of(ToDType), _rule_of(MaybeDType))
_NUMBER_RULES = (_rule_of(Number), _rule_of(MaybeNumber))


class _Reader:
    """Builds nodes from the tree, top to bottom; `nodes` are those named so far."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}

    def graph(self, tree: Tree) -> Graph:
        title, *parts = tree.children
        inputs = tuple(self._input(t) for t in parts if t is not None and t.data == "input")
        names: dict[Node, str] = {}
        for each in parts:
            if each is not None and each.data == "statement":
                name, node = self._statement(each)
                if not name.startswith("%"):
                    names.setdefault(node, name)
        outputs = tuple(
            self._operand(t, "return") for t in parts if t is not None and t.data not in ("input", "statement")
        )
        for output, t in zip(outputs, [t for t in parts if t is not None][-len(outputs) :], strict=False):
            if output is None:
                _fail(_place(t), "return", "None", "An output is a node.")
        name = json.loads(title) if title.type == "STRING" else str(title)
        return Graph(inputs, tuple(o for o in outputs if o is not None), name, names)

    def _input(self, tree: Tree) -> Node:
        name, known_as, number, kind = tree.children
        attrs = {"name": json.loads(known_as) if known_as else str(name), "number": number is not None}
        return self._name(name, intern(OPS["input"], (), attrs, self._type(kind)))

    def _name(self, name: Token, node: Node) -> Node:
        if name in self.nodes:
            _fail(name, "a name", repr(str(name)), "It is taken; each name stands for one node.")
        self.nodes[str(name)] = node
        return node

    def _type(self, tree: Tree) -> Type:
        weak, name, *shape = tree.children
        sizes = tuple(self._number(n, None) for n in shape if n is not None)
        for size, n in zip(sizes, shape, strict=False):
            if not isinstance(size, int | Poly):
                _fail(_place(n) or name, "a size", repr(size), "A size is an int, or a polynomial of names.")
        return Type(self._dtype(name), sizes, weak is not None)

    def _dtype(self, name: Token) -> DType:
        try:
            return dtype(str(name))
        except FuseError as error:
            _fail(name, "a dtype", repr(str(name)), error.message)

    def _statement(self, tree: Tree) -> tuple[str, Node]:
        name, op_name, *arguments, kind = tree.children
        op = OPS.get(op_name)
        if op is None:
            close = difflib.get_close_matches(op_name, OPS, n=3)
            hint = f"Close to it: {', '.join(close)}." if close else "`fusedsl ops` lists the ops."
            _fail(op_name, "an op", repr(str(op_name)), hint)
        arguments = [a for a in arguments if a is not None]
        operands = [self._operand(a, op.name) for a in arguments if a.data != "attribute"]
        given = {str(a.children[0]): a for a in arguments if a.data == "attribute"}
        try:
            node = self._node(op, op_name, operands, given, self._type(kind) if kind is not None else None)
        except BadText:
            raise
        except FuseError as error:
            _fail(op_name, f"the call of {op.name}", f"{op.name}(...)", error.message)
        if kind is not None and node.type != self._type(kind):
            hint = f"{op.name} of these operands gives {show_type(node.type)}."
            _fail(_place(kind) or op_name, "a type", show_type(self._type(kind)), hint)
        return str(name), self._name(name, node)

    def _node(self, op: Op, place: Token, operands: list[Node | None], given: dict[str, Tree], kind: Type | None) -> Node:
        if not op.variadic and len(operands) != len(op.operands):
            wanted = f"Its operands are {', '.join(op.operands)}; write None for one left out." if op.operands else ""
            _fail(place, f"the call of {op.name}", f"{len(operands)} operands", wanted or "It has no operands.")
        for key, tree in given.items():
            if key not in op.rules:
                _fail(tree.children[0], f"an attribute of {op.name}", repr(key), f"It has {', '.join(op.rules) or 'none'}.")
        rank = max((n.rank for n in operands[:1] if n is not None), default=0)
        attrs = {}
        for key, rule in op.rules.items():
            default = op.signature.parameters[key].default
            if key in given:
                attrs[key] = rule.normal(self._value(given[key].children[1], rule), rank, op.name)
            elif default is inspect.Parameter.empty:
                _fail(place, f"the call of {op.name}", "no " + key, f"Write {key}=...")
            else:
                attrs[key] = rule.normal(default, rank, op.name)
        if op.type is None and op.expand is None and kind is None:
            _fail(place, f"the call of {op.name}", "no type", "Nothing tells its type: write `: type` after it.")
        node = rebuild(op, operands, attrs, kind or Type(dtype("f32")))
        if not isinstance(node, Node):
            _fail(place, f"the call of {op.name}", f"{len(node)} results", "Write what it stands for, one node a line.")
        return node

    def _operand(self, tree: Tree, op: str) -> Node | None:
        first, kind = (*tree.children, None)[:2]
        if tree.data == "node" or (kind is None and str(first) in self.nodes):
            if first not in self.nodes:
                _fail(first, f"an operand of {op}", repr(str(first)), "No line above gives it a value.")
            return self.nodes[str(first)]
        if tree.data == "word" and kind is None and first == "None":
            return None
        value = self._literal(tree, op)
        if kind is None:
            return as_node(value)
        return constant(value, Type(self._dtype(kind)))

    def _literal(self, tree: Tree, op: str) -> bool | int | float:
        text = str(tree.children[0])
        if tree.data == "word" and text in ("True", "False"):
            return text == "True"
        if text in _FLOATS or tree.children[0].type == "FLOAT":
            value = float(text)
        elif tree.children[0].type == "INT":
            value = int(text)
        else:
            close = difflib.get_close_matches(text, self.nodes, n=3)
            _fail(tree.children[0], f"an operand of {op}", repr(text),
                  f"Close to it: {', '.join(close)}." if close else "No line above gives it a value.")  # fmt: skip
        return -value if tree.data == "negative" else value

    def _value(self, tree: Tree, rule: Any) -> Any:
        if tree.data == "string":
            return json.loads(tree.children[0])
        if tree.data == "tuple":
            return tuple(self._value(t, rule) for t in tree.children)
        return self._number(tree, rule)

    def _number(self, tree: Tree, rule: Any) -> Any:
        """A value of an attribute with this rule: it tells what a bare word means, a dtype, a float or a size."""
        if tree.data == "int":
            return int(tree.children[0])
        if tree.data == "float":
            return float(tree.children[0])
        if tree.data == "name":
            return self._word(tree.children[0], rule)
        parts = [self._number(t, rule) for t in tree.children]
        if tree.data == "neg" and isinstance(parts[0], int | float | Poly):
            return -parts[0]
        if not all(isinstance(p, int | Poly) for p in parts):
            _fail(_place(tree), "arithmetic", " and ".join(map(repr, parts)), "Only sizes are computed with.")
        return _ARITHMETIC[tree.data](*parts)

    def _word(self, word: Token, rule: Any) -> Any:
        if word in _WORDS:
            return _WORDS[word]
        if rule in _DTYPE_RULES:
            return self._dtype(word)
        if rule in _NUMBER_RULES and word in _FLOATS:
            return _FLOATS[word]
        return poly(Symbol(str(word)))


def _add(a: Index, b: Index) -> Index:
    return a + b


def _sub(a: Index, b: Index) -> Index:
    return a - b


def _mul(a: Index, b: Index) -> Index:
    return a * b


_ARITHMETIC = {"add": _add, "sub": _sub, "mul": _mul, "floordiv": floordiv, "remainder": remainder}


def _place(tree: Any) -> Token | None:
    """The first token of a tree."""
    return next(iter(tree.scan_values(lambda _: True)), None)


def _fail(place: Token | None, what: str, got: str, hint: str) -> NoReturn:
    raise BadText(what=what, row=place.line if place else 0, column=place.column if place else 0, got=got, hint=hint)
