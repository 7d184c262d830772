"""The ops as people look them up: a line for each, and everything that is known of one."""

from __future__ import annotations

import difflib
import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from . import ops  # noqa: F401  (declares them)
from .errors import BadArgument
from .index import Index, Symbol, poly
from .ir import OPS, SPELLINGS, Graph, Node, Op, build, intern
from .text import show
from .types import Type, f32, i64


def overview() -> list[tuple[str, str, str]]:
    """(name, kind, what it computes) of every op."""
    return [(op.name, op.kind, op.doc.splitlines()[0]) for _, op in sorted(OPS.items())]


def named(name: str) -> Op:
    """The op of that name. Raises BadArgument."""
    if name in OPS:
        return OPS[name]
    close = difflib.get_close_matches(name, OPS, n=4) or [o for o in OPS if name in o][:4]
    hint = f"Close to it: {', '.join(close)}." if close else "`fusedsl ops` lists them."
    raise BadArgument(op="ops", name="the name", rule="that of an op", got=repr(name), hint=hint)


def description(op: Op) -> str:
    """Everything about an op: how it is called, what it computes, how it is lowered, and its declaration."""
    declared = f"declared in {op.reference.__module__}:\n\n{_indented(_code(op.reference))}"
    parts = [f"{op.name}{_signature(op)}", _indented(op.doc), f"kind: {op.kind}", *_lowering(op), declared]
    return "\n\n".join(parts) + "\n"


def _signature(op: Op) -> str:
    """The parameters, without the rules that their annotations are."""
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in op.signature.parameters.values()]
    return str(inspect.Signature(bare))


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())


def _lowering(op: Op) -> Iterator[str]:
    if spelled := [name for name in (*op.torch, *SPELLINGS) if name.rpartition(".")[2] == op.name or name in op.torch]:
        yield f"torch: {', '.join(dict.fromkeys(spelled))}"
    if op.kind in ("elementwise", "reduce", "scan"):
        yield f"test inputs: from {op.domain}"
    if isinstance(op.triton, str):
        yield f"Triton: {op.triton.format(*op.operands)}"
    elif op.triton is not None:
        yield f"Triton: made by\n\n{_indented(_code(op.triton))}"
    if op.combination is not None:
        combined = op.combination.combine.format("a", "b")
        tile = op.combination.prefix if op.scan is not None else op.combination.tile
        yield f"Triton: {combined}; of a tile {tile.format(op.operands[0], axis='axis')}"
        yield f"identity: {op.combination.identity(f32)} in f32"
    if op.expand is not None:
        example = expansion(op)
        yield f"stands for:\n\n{_indented(show(example))}" if example else "stands for what its arguments say"


def _code(function: Callable[..., Any]) -> str:
    return inspect.cleandoc("\n" + inspect.getsource(function)).rstrip()


# ---- expansions ------------------------------------------------------------------------------------------------------


def _kinds(rows: Index, columns: Index) -> list[Type]:
    return [Type(f32, (rows, columns)), Type(f32, (columns,)), Type(i64, (rows,)), Type(i64, (rows, columns))]


_M, _N = poly(Symbol("M")), poly(Symbol("N"))
_KINDS = (_kinds(_M, _N), _kinds(4, 8))  # numbers for ops that cut a size in parts
# For parameters without a default, tried in this order until the op takes the call.
_VALUES: tuple[Any, ...] = (-1, 0, 1, 0.5, (_N,), (8,), (0, 1), 2, f32, "none", True)


def expansion(op: Op) -> Graph | None:
    """What a composition stands for on small arguments, as a graph; None if none of those tried fit it."""
    for operands, attrs in itertools.product(_operands(op), _attributes(op)):
        try:
            made = _call(op, operands, attrs)
        except Exception:  # arguments at random may break an op's own code
            continue
        outputs = made if isinstance(made, tuple) else (made.expansion,)
        return Graph(tuple(n for n in operands.values() if n is not None), outputs, op.name)
    return None


def _operands(op: Op) -> Iterator[dict[str, Node | None]]:
    """Operands of every mix of kinds: the optional ones left out first, the plainest first."""
    for kinds in _KINDS:
        choices = [
            [None, *kinds] if op.signature.parameters[name].default is None else kinds for name in op.operands
        ]  # fmt: skip
        for types in itertools.product(*choices):
            yield {name: type and _input(name, type) for name, type in zip(op.operands, types, strict=True)}


def _input(name: str, type: Type) -> Node:
    return intern(OPS["input"], (), {"name": name, "number": False}, type)


def _attributes(op: Op) -> Iterator[dict[str, Any]]:
    needed = [k for k in op.rules if op.signature.parameters[k].default is inspect.Parameter.empty]
    for values in itertools.product(_VALUES, repeat=len(needed)):
        yield dict(zip(needed, values, strict=True))


def _call(op: Op, operands: dict[str, Node | None], attrs: dict[str, Any]) -> Any:
    given: dict[str, Any] = {name: [node] if op.variadic else node for name, node in operands.items()}
    rest = [p.name for p in op.signature.parameters.values() if p.kind is p.VAR_POSITIONAL]
    if rest:  # what stands before *dims has no name in a call
        return build(op, (*given.values(), attrs[rest[0]]), {})
    return build(op, (), {**given, **attrs})
