"""The rewriting driver: fixed points, deep graphs, names and lines, and what it refuses."""

import time
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

import fusedsl.ops as ops
from fusedsl.errors import BadOption, Line
from fusedsl.ir import OPS, Graph, Node, cast, constant, intern
from fusedsl.options import Options, Rung
from fusedsl.passes.decompose import decompose
from fusedsl.rewrite import Fired, rewrite, rule
from fusedsl.text import parse, show
from fusedsl.types import Type, f16, f32


def given_input(name, dt=f32, shape=(3,)):
    return intern(OPS["input"], (), {"name": name, "number": False}, Type(dt, shape))


def negated(x, times):
    for _ in range(times):
        x = ops.neg(x)
    return x


X, Y = given_input("x"), given_input("y")


@rule
def double_negation(n: Node) -> Node | None:
    """-(-x) -> x"""
    match n:
        case Node(op=ops.neg, args=(Node(op=ops.neg, args=(x,)),)):
            return x


@rule
def tan_by_parts(n: Node) -> Node | None:
    """tan(x) -> sin(x) / cos(x)"""
    return ops.sin(n.args[0]) / ops.cos(n.args[0]) if n.op is ops.tan else None


@rule
def half_angle(n: Node) -> Node | None:
    """cos(x) -> 1 - 2 sin(x / 2)^2, for nothing but the test"""
    if n.op is ops.cos:
        s = ops.sin(n.inputs[0] * 0.5)
        return 1 - s * s * 2


def test_a_rule_knows_its_name_and_equation():
    assert repr(double_negation) == "double_negation: -(-x) -> x"
    assert double_negation(negated(X, 2)) is X and double_negation(-X) is None
    with pytest.raises(AssertionError, match="equation"):
        rule(lambda n: None)


def test_rules_apply_until_none_fits():
    graph = Graph((X,), (negated(X, 5),))
    assert rewrite(graph, [double_negation]).outputs == (-X,)
    # what a rule makes is rewritten too, at any depth
    deep = rewrite(Graph((X,), (ops.tan(X),)), [tan_by_parts, half_angle])
    assert ops.cos not in {n.op for n in deep.nodes} and ops.tan not in {n.op for n in deep.nodes}


def test_sharing_is_kept():
    shared = ops.exp(negated(X, 2))
    graph = rewrite(Graph((X,), (shared + shared, shared)), [double_negation])
    assert graph.outputs == (ops.exp(X) + ops.exp(X), ops.exp(X))
    assert len(graph.nodes) == 3


def test_nothing_to_do_changes_nothing():
    graph = Graph((X, Y), (X + Y, X), "f", {X + Y: "s"}, {X + Y: Line("a.py", 1)})
    again = rewrite(graph, [double_negation])
    assert again == graph and again.names == graph.names and again.lines == graph.lines


def test_each_node_is_visited_once():
    seen = []

    @rule
    def watch(n: Node) -> Node | None:
        """x -> x, seen"""
        seen.append(n)
        return None

    node = X
    for _ in range(40):
        node = node + node  # 2^40 paths
    rewrite(Graph((X,), (node, node)), [watch])
    assert len(seen) == 41


def test_deep_graphs():
    node = X
    for k in range(3000):
        node = -node if k % 2 else ops.sin(-node)
    started = time.perf_counter()
    graph = rewrite(Graph((X,), (node,)), [double_negation])
    assert [n.op.name for n in graph.nodes[:3]] == ["input", "neg", "sin"]
    assert len(graph.nodes) == 1 + 1 + 1500 + 1
    assert parse(show(graph)).outputs == graph.outputs
    assert time.perf_counter() - started < 5


def test_names_and_lines_go_over():
    h = negated(X, 2)
    y = ops.tan(h)
    lines = {h: Line("m.py", 1), y: Line("m.py", 2)}
    graph = rewrite(Graph((X,), (y,), "f", {h: "h", y: "y"}, lines), [double_negation, tan_by_parts])
    assert show(graph) == (
        "f(x: f32[3]):\n"
        "  %1 = sin(x) : f32[3]      # m.py:2\n"
        "  %2 = cos(x) : f32[3]      # m.py:2\n"
        "  y = div(%1, %2) : f32[3]  # m.py:2\n"
        "  return y\n"
    )


def test_decompose_names_the_last_node_and_gives_all_the_line():
    x = given_input("x", f16, (2, 3))
    y = ops.softmax(x, -1)
    graph = decompose(Graph((x,), (y,), "f", {y: "y"}, {y: Line("m.py", 7)}))
    assert all(n.op.expand is None for n in graph.nodes)
    assert graph.names[graph.outputs[0]] == "y"
    assert all(graph.lines[n] == Line("m.py", 7) for n in graph.nodes if n.op.name not in ("input", "const"))
    assert graph.outputs[0].type == y.type


def test_the_log_names_the_rules(capsys, monkeypatch):
    log: list[Fired] = []
    graph = Graph((X,), (negated(X, 2),))
    rewrite(graph, [double_negation], log)
    assert [(f.rule, f.before, f.after) for f in log] == [(double_negation, negated(X, 2), X)]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(Options, "from_env", lambda: Options(debug=Rung.RULES))
    rewrite(graph, [double_negation])
    assert capsys.readouterr().err == "  double_negation: <neg: f32[3]> -> <input: f32[3]>\n"


def test_of_two_rules_the_first():
    @rule
    def to_zero(n: Node) -> Node | None:
        """-x -> x - x"""
        return n.inputs[0] - n.inputs[0] if n.op is ops.neg else None

    graph = Graph((X,), (negated(X, 2),))
    assert rewrite(graph, [to_zero, double_negation]).outputs == ((X - X) - (X - X),)
    log: list[Fired] = []
    rewrite(Graph((X,), (ops.neg(X),)), [double_negation, to_zero], log)
    assert [f.rule for f in log] == [to_zero]


def test_a_rule_must_keep_the_type():
    @rule
    def narrower(n: Node) -> Node | None:
        """sin(x) -> sin(x) in f16"""
        return cast(n, f16) if n.op is ops.sin else None

    with pytest.raises(AssertionError, match=r"narrower: .*\nchanged the type of <sin: f32\[3\]>"):
        rewrite(Graph((X,), (ops.sin(X),)), [narrower])


def test_rules_that_go_in_circles_are_found():
    @rule
    def there(n: Node) -> Node | None:
        """sin(x) -> cos(x)"""
        return ops.cos(n.args[0]) if n.op is ops.sin else None

    @rule
    def back(n: Node) -> Node | None:
        """cos(x) -> sin(x)"""
        return ops.sin(n.args[0]) if n.op is ops.cos else None

    @rule
    def around(n: Node) -> Node | None:
        """sin(x) -> -(-sin(x))"""
        return negated(n, 2) if n.op is ops.sin else None

    @rule
    def onwards(n: Node) -> Node | None:
        """1 -> 2 -> 3 ..."""
        return constant(n["value"] + 1, n.type) if n.op is ops.const else None

    with pytest.raises(AssertionError, match=r"circles.*there, back"):
        rewrite(Graph((X,), (ops.sin(X),)), [there, back])
    with pytest.raises(AssertionError, match=r"circles.*around"):
        rewrite(Graph((X,), (ops.sin(X),)), [around])
    with pytest.raises(AssertionError, match=r"do not end.*onwards"):
        rewrite(Graph((X,), (X + 1.0,)), [onwards])


# ---- options ---------------------------------------------------------------------------------------------------------


def test_options_are_read_from_the_environment():
    options = Options.read({"FUSEDSL_DEBUG": "3", "FUSEDSL_CACHE_DIR": "here", "FUSEDSL_NUMERICS": "eager"})
    assert options == Options(Rung.RULES, Path("here"), "eager")
    assert Options.read({"XDG_CACHE_HOME": "caches"}).cache_dir == Path("caches/fusedsl")
    assert Options.read({}).debug == Rung.SILENT
    with pytest.raises(FrozenInstanceError):
        options.debug = Rung.SILENT  # type: ignore[misc]


@pytest.mark.parametrize("bad", [{"FUSEDSL_DEBUG": "5"}, {"FUSEDSL_DEBUG": "all"}, {"FUSEDSL_NUMERICS": "fast"}])
def test_bad_options_are_refused(bad):
    with pytest.raises(BadOption, match="got"):
        Options.read(bad)
