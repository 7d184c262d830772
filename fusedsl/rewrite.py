"""The one rewriting driver. A rule is a named function from a node to the node that replaces it, or None::

    @rule
    def double_negation(n):
        '''-(-x) -> x'''
        match n:
            case Node(op=ops.neg, args=(Node(op=ops.neg, args=(x,)),)):
                return x

    graph = rewrite(graph, [double_negation])

Its docstring is its equation: a failing run names the rule, FUSEDSL_DEBUG=3 prints it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from .errors import Line
from .ir import Graph, Node
from .options import Rung, say


@dataclass(frozen=True)
class Rule:
    """An equation between nodes of one type, read from left to right."""

    name: str
    equation: str
    apply: Callable[[Node], Node | None]

    def __call__(self, node: Node) -> Node | None:
        """The right side, if the node is a left side."""
        result = self.apply(node)
        if result is None or result is node:
            return None
        changed = f"{self}\nchanged the type of {node} on {node.args} to {result}"
        assert result.type == node.type, changed
        return result

    def __repr__(self) -> str:
        return f"{self.name}: {self.equation}"


def rule(function: Callable[[Node], Node | None]) -> Rule:
    """Makes a rule of a function; its docstring is the equation."""
    assert function.__doc__, f"rule {function.__name__}: write its equation as the docstring"
    return Rule(function.__name__, inspect.cleandoc(function.__doc__), function)


@dataclass(frozen=True)
class Fired:
    """One use of a rule: before -> after."""

    rule: Rule
    before: Node
    after: Node

    def __repr__(self) -> str:
        return f"{self.rule.name}: {self.before} -> {self.after}"


def rewrite(graph: Graph, rules: Iterable[Rule], log: list[Fired] | None = None) -> Graph:
    """The graph with the rules applied until none fits, arguments first; of two that fit, the first.

    Names and lines go over to what replaces a node; other nodes that a rule makes get the line of the node it was
    used on. Every use of a rule is appended to `log`. The rules must end: going round in circles is an assertion."""
    nodes = graph.nodes
    driver = _Driver(tuple(rules), log if log is not None else [], set(nodes))
    for output in graph.outputs:
        driver.run(output)
    result = graph.rewritten({old: driver.normal[old] for old in nodes})
    lines: dict[Node, Line] = dict(result.lines)
    for node, origin in driver.origins.items():
        if origin in graph.lines:
            lines.setdefault(node, graph.lines[origin])
    return replace(result, lines=lines)


class _Driver:
    """Takes nodes to normal form, each once, on a stack of its own: graphs may be deeper than Python's."""

    def __init__(self, rules: Sequence[Rule], log: list[Fired], known: set[Node]) -> None:
        self.rules = rules
        self.log = log
        self.known = known
        self.normal: dict[Node, Node] = {}  # what no rule fits any more, and what led there
        self.steps: dict[Node, Node] = {}  # one step of those still on the way
        self.origins: dict[Node, Node] = {}  # a node made by a rule -> the node of the graph it was made for
        self.patience = 1000 * (len(known) + 10)

    def run(self, root: Node) -> None:
        stack = [root]
        while stack:
            node = stack[-1]
            if node in self.normal:
                stack.pop()
            elif node in self.steps:
                after = self.steps[node]
                assert after in self.normal, f"rules go round in circles at {node}: {self._last_rules()}"
                self.normal[node] = self.normal[after]
            elif waiting := [a for a in node.inputs if a not in self.normal]:
                stack += waiting
            else:
                after = self._step(node)
                if after is node:
                    self.normal[node] = node
                else:
                    self.steps[node] = after
                    stack.append(after)

    def _step(self, node: Node) -> Node:
        """The node on arguments in normal form if it is not, else what the first rule that fits makes of it."""
        after = node.with_args([a if a is None else self.normal[a] for a in node.args])
        if after is not node:
            self._adopt([after], node)
            return after
        for each in self.rules:
            after = each(node)
            if after is not None:
                fired = Fired(each, node, after)
                self.log.append(fired)
                say(Rung.RULES, lambda: f"  {fired}")  # noqa: B023  (called at once)
                self._adopt(self._new(after), node)
                assert len(self.steps) < self.patience, f"the rules do not end: {self._last_rules()}"
                return after
        return node

    def _new(self, root: Node) -> Iterator[Node]:
        """The nodes under this one that were not seen before."""
        stack = [root]
        while stack:
            node = stack.pop()
            if node not in self.known:
                self.known.add(node)
                yield node
                stack += node.inputs

    def _adopt(self, nodes: Iterable[Node], maker: Node) -> None:
        for node in nodes:
            self.known.add(node)
            self.origins.setdefault(node, self.origins.get(maker, maker))

    def _last_rules(self) -> str:
        return ", ".join(dict.fromkeys(fired.rule.name for fired in self.log[-20:]))
