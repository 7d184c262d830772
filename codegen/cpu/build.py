"""MLIR text through typed functions: no operation is printed before its operands' types and widths were checked.

A `Value` knows its type and its depth, the scope in which it was made. Scopes are the regions that are open: the
function's body is scope 0, a loop inside it scope 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from .arithmetic import Scope
from .memory import Memory
from .value import WIDTH, Value, bits_of, bytes_of, is_float

__all__ = ["WIDTH", "Builder", "Scope", "Value", "bits_of", "bytes_of", "is_float"]

Given = Sequence[Value] | None  # what a region yields
NO_UNROLLING = " {loop_annotation = #llvm.loop_annotation<unroll = <disable = true>>}"


class Builder(Memory):
    """Writes the body of one function."""

    @contextmanager
    def hoisted(self, depth: int) -> Iterator[None]:
        """What is written inside stands in an outer scope, before the regions that are open there."""
        inner = self.scopes[depth + 1 :]
        del self.scopes[depth + 1 :]
        yield
        self.scopes += inner

    def loop(
        self,
        start: Value,
        stop: Value,
        step: Value,
        carried: Sequence[Value],
        body: Callable[..., Given],
        annotation: str = NO_UNROLLING,
    ) -> list[Value]:
        """scf.for: body(index, *carried) gives what the next round gets; the last of that is the result. What is known
        to run once is no loop."""
        assert start.type == stop.type == step.type, f"a loop from {start.type} to {stop.type} by {step.type}"
        first, end, by = start.constant, stop.constant, step.constant
        if None not in (first, end, by) and first < end <= first + by:  # type: ignore[operator]
            return list(body(start, *carried) or ())
        depth = self.depth + 1
        index = Value(self.fresh(), start.el, None, depth)
        inner = [Value(self.fresh(), v.el, v.lanes, depth) for v in carried]
        self.scopes.append(Scope())
        results = list(body(index, *inner) or ())
        self._same_types(results, carried)
        self._yield(results)
        lines = self.scopes.pop().lines
        name = self.fresh()
        head = f"scf.for {index.name} = {start.name} to {stop.name} step {step.name}"
        if carried:
            pairs = ", ".join(f"{a.name} = {b.name}" for a, b in zip(inner, carried, strict=True))
            head = f"{_named(name, carried)} = {head} iter_args({pairs}) -> ({', '.join(v.type for v in carried)})"
        return self._region_op(f"{head} : {start.el} {{", [lines], annotation, name, carried)

    def branch(
        self, condition: Value, yes: Callable[[], Given], no: Callable[[], Given] | None = None
    ) -> list[Value]:
        """scf.if; without `no` nothing is returned."""
        assert condition.type == "i1", f"a branch on {condition.type}"
        if condition.constant is not None:
            return list((yes() if condition.constant else no() if no else ()) or ())
        regions, results = [], []
        for side in (yes, no):
            if side is not None:
                self.scopes.append(Scope())
                given = list(side() or ())
                if regions:
                    self._same_types(given, results)
                results = given
                self._yield(given)
                regions.append(self.scopes.pop().lines)
        name = self.fresh()
        head = f"scf.if {condition.name}"
        if results:
            assert no is not None, "a branch with results has two sides"
            head = f"{_named(name, results)} = {head} -> ({', '.join(v.type for v in results)})"
        return self._region_op(f"{head} {{", regions, "", name, results)

    def loop_while(
        self,
        carried: Sequence[Value],
        before: Callable[..., tuple[Value, Sequence[Value]]],
        after: Callable[..., Sequence[Value]],
    ) -> list[Value]:
        """scf.while: before(*carried) -> (go on?, passed); after(*passed) -> carried. The result is what was passed."""
        depth = self.depth + 1
        inner = [Value(self.fresh(), v.el, v.lanes, depth) for v in carried]
        self.scopes.append(Scope())
        condition, passed = before(*inner)
        types = ", ".join(v.type for v in passed)
        tail = f" {', '.join(v.name for v in passed)} : {types}" if passed else ""
        self.line(f"scf.condition({condition.name}){tail}")
        first = self.scopes.pop().lines
        arguments = [Value(self.fresh(), v.el, v.lanes, depth) for v in passed]
        self.scopes.append(Scope())
        results = list(after(*arguments))
        self._same_types(results, carried)
        self._yield(results)
        second = [*self.scopes.pop().lines, *([] if results else ["scf.yield"])]  # which no other region has to say
        name = self.fresh()
        pairs = ", ".join(f"{a.name} = {b.name}" for a, b in zip(inner, carried, strict=True))
        signature = f"({', '.join(v.type for v in carried)}) -> ({types})"
        head = f"scf.while ({pairs}) : {signature} {{" if carried else f"scf.while : {signature} {{"
        if passed:
            head = f"{_named(name, passed)} = {head}"
        block = f"^bb0({', '.join(f'{v.name}: {v.type}' for v in arguments)}):"
        self.line(head)
        self.scopes[-1].lines += [*first, "} do {", *([block] if arguments else []), *second, "}"]
        return self._results(name, passed)

    def _yield(self, values: Sequence[Value]) -> None:
        if values:
            self.line(f"scf.yield {', '.join(v.name for v in values)} : {', '.join(v.type for v in values)}")

    @staticmethod
    def _same_types(a: Sequence[Value], b: Sequence[Value]) -> None:
        assert [v.type for v in a] == [v.type for v in b], f"{[v.type for v in a]} and {[v.type for v in b]}"

    def _region_op(
        self, head: str, regions: Sequence[list[str]], tail: str, name: str, results: Sequence[Value]
    ) -> list[Value]:
        lines = self.scopes[-1].lines
        lines.append(head)
        for at, region in enumerate(regions):
            if at:
                lines.append("} else {")
            lines += region
        lines.append("}" + tail)
        return self._results(name, results)

    def _results(self, name: str, like: Sequence[Value]) -> list[Value]:
        names = [name] if len(like) == 1 else [f"{name}#{i}" for i in range(len(like))]
        return [Value(n, v.el, v.lanes, self.depth) for n, v in zip(names, like, strict=True)]


def _named(name: str, values: Sequence[Value]) -> str:
    return name if len(values) == 1 else f"{name}:{len(values)}"
