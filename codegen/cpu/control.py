"""Loops, branches, and what goes into their regions and comes out of them.

Scalars that a region yields are SSA values; a tensor is in memory, where each round overwrites what the last one left;
and a tensor that a loop only moves as a whole, as pointers do, is where it started and how far it has come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import elem
from .analysis import DEAR
from .build import Value
from .errors import CannotCompile
from .program import Body, Node, Val
from .sinks import Save, SaveAll
from .values import Buffer, Evaluator, Moving

if TYPE_CHECKING:
    from .emit import Emitter


@dataclass(frozen=True, eq=False)
class Kept:
    """A value on its way into a buffer, and what lies there until then."""

    val: Val
    buffer: Buffer
    arg: Val | None


def _groups(entries: Sequence[Kept]) -> Iterator[list[Kept]]:
    """Those of one shape together, then each by itself."""
    for shape in dict.fromkeys(entry.val.shape for entry in entries):
        yield [entry for entry in entries if entry.val.shape == shape]
    yield from ([entry] for entry in entries)


def prepare(em: Emitter, region_owner: Node) -> None:
    """Before a loop: what its rounds would compute anew each time."""
    first, last = region_owner.position, region_owner.last
    for node in em.facts.nodes:
        if not first < node.position <= last:
            continue
        for val in node.operands:
            maker = val.node
            if maker is None or maker.position >= first or val in em.stored or not val.is_tensor:
                continue
            if em.facts.is_virtual(maker) and (em.facts.loads(val) or em.facts.cost(val) >= DEAR):
                em.save(val)
    em.flush()


def guarded(
    em: Emitter, node: Node, write: Callable[[], list[Value]], otherwise: Callable[[], list[Value]]
) -> list[Value]:
    """A round of a loop: after an assertion that failed in an earlier one, `otherwise`."""
    return em.b.branch(em.going_on(), write, otherwise) if em.facts.asserts(node) else write()


def scalar_results(em: Emitter, vals: Sequence[Val]) -> list[Value]:
    return [em.plain(val) for val in vals if not val.is_tensor]


def unset(em: Emitter, vals: Sequence[Val]) -> list[Value]:
    """What stands for scalars that an assertion kept from being computed."""
    kinds = ["i64" if v.element == "ptr" else elem.held(v.element) for v in vals if not v.is_tensor]
    return [em.b.const(0, kind) for kind in kinds]


def keep_all(em: Emitter, pairs: Sequence[tuple[Val, Buffer]], carried: Sequence[Val | None] = ()) -> None:
    """Values into buffers that some of them may be made of: `carried[i]` is what lies in buffer i until then."""
    em.flush()
    before = carried or [None] * len(pairs)
    left = [Kept(val, buffer, arg) for (val, buffer), arg in zip(pairs, before, strict=True)
            if em.stored.get(val) is not buffer and val is not arg and not _is_unset(val)]  # fmt: skip
    while left:
        together = next((group for group in _groups(left) if _may_overwrite(em, group, left)), None)
        if together is None:  # each needs what another overwrites
            aside = [(entry, em.allocate(entry.val.shape, entry.val.type)) for entry in left]
            for entry, place in aside:
                em.add(SaveAll(em, [(entry.val, place)]))
                em.flush()
            for entry, place in aside:
                _copy(em, entry.val, place, entry.buffer)
            return
        left = [entry for entry in left if entry not in together]
        em.add(SaveAll(em, [(entry.val, entry.buffer) for entry in together]))
        em.flush()


def _may_overwrite(em: Emitter, group: Sequence[Kept], left: Sequence[Kept]) -> bool:
    """May these be written, element after element, before the others that are left are evaluated?"""
    for entry in group:
        for reader in left:
            sources = [val for val in (reader.val, *em.facts.deps(reader.val)) if _lies_in(em, val, entry.buffer)]
            in_place = reader in group and all(same_places(em, reader.val, val) for val in sources)
            if sources and not (in_place and all(val is entry.arg for val in sources)):
                return False
    return True


def _is_unset(val: Val) -> bool:
    return val.node is not None and val.node.name == "ub.poison"


def _lies_in(em: Emitter, val: Val, buffer: Buffer) -> bool:
    held = em.stored.get(val)
    return isinstance(held, Buffer) and held.memory == buffer.memory


def _copy(em: Emitter, val: Val, source: Buffer, target: Buffer) -> None:
    before = em.stored.get(val)
    em.stored[val] = source
    em.add(SaveAll(em, [(val, target)]))
    em.flush()
    if before is None:
        del em.stored[val]
    else:
        em.stored[val] = before


def same_places(em: Emitter, val: Val, arg: Val, seen: set[Val] | None = None) -> bool:
    """Does each element of the value depend on that very element of the argument, and on no other of it?

    `seen`: values that are looked at already, which may have many users."""
    seen = set() if seen is None else seen
    if val is arg or val in seen:
        return True
    seen.add(val)
    node = val.node
    if node is None or val in em.stored or arg not in em.facts.deps(val):
        return True
    if node.name in ("tt.splat", "tt.broadcast", "tt.expand_dims", "tt.trans", "tt.reshape", "tt.load"):
        return False
    return all(same_places(em, v, arg, seen) for v in node.operands)


def loop(em: Emitter, node: Node) -> None:
    """scf.for"""
    if "unsigned" in node.op.text:
        raise CannotCompile("a loop over unsigned bounds", node.op)
    em.flush()
    prepare(em, node)
    (body,) = node.regions
    index, *inside = body.arguments
    given = body.terminator.operands
    buffers: dict[int, Buffer] = {}
    starts: list[Value] = []
    moving: dict[int, Value] = {}
    for i, (init, arg) in enumerate(zip(node.operands[3:], inside, strict=True)):
        step = _step_of(given[i], arg)
        if step is not None and _stays(em, init):
            moving[i] = em.b.const(0, "i64" if arg.element == "ptr" else elem.held(arg.element))
            starts.append(moving[i])
        elif init.is_tensor:
            buffers[i] = em.allocate(init.shape, init.type)
            em.add(Save(em, init, buffers[i]))
        else:
            starts.append(em.plain(init))
    em.flush()
    start, stop, step_size = (em.plain(v) for v in node.operands[:3])

    def rounds(at: Value, *carried: Value) -> list[Value]:
        em.scalars[index] = at
        values = iter(carried)
        for i, arg in enumerate(inside):
            if i in buffers:
                em.stored[arg] = buffers[i]
            else:
                _carry(em, node.operands[3 + i], arg, next(values), i in moving)

        def end() -> list[Value]:
            order = [i for i in range(len(inside)) if i in buffers]
            keep_all(em, [(given[i], buffers[i]) for i in order], [inside[i] for i in order])
            results, values = [], iter(carried)
            for i, arg in enumerate(inside):
                if i in buffers:
                    continue
                before = next(values)
                results.append(_moved_by(em, before, given[i], arg) if i in moving else em.plain(given[i]))
            return results

        def stay() -> list[Value]:
            return list(carried)

        return guarded(em, node, lambda: em.region(body, end, stay), stay)

    results = iter(em.b.loop(start, stop, step_size, starts, rounds))
    for i, val in enumerate(node.results):
        if i in buffers:
            em.stored[val] = buffers[i]
        else:
            _carry(em, node.operands[3 + i], val, next(results), i in moving)
    em.done.add(node)


def _stays(em: Emitter, init: Val) -> bool:
    """Can the start of what moves be evaluated again in every round?"""
    if not init.is_tensor or init in em.stored:
        return True
    return init.node is not None and em.facts.is_virtual(init.node) and not em.facts.loads(init)


def _carry(em: Emitter, init: Val, val: Val, value: Value, moves: bool) -> None:
    """What a loop's argument, or its result, is inside or after it."""
    if not moves:
        em.scalars[val] = em._unpacked(value, val)
    elif val.is_tensor:
        em.stored[val] = Moving(init, value)
    else:
        em.scalars[val] = Evaluator(em, None).moved(em.scalar(init), value, val.type.pointee)


def _moved_by(em: Emitter, before: Value, given: Val, arg: Val) -> Value:
    step = _step_of(given, arg)
    assert step is not None, given
    number = _uniform(em, step)
    return em.b.add(before, em.b.resize(number, before.el))


def _uniform(em: Emitter, val: Val) -> Value:
    """The number that every element of a value is."""
    while val.is_tensor:
        node = val.node
        assert node is not None, val
        if node.name == "arith.constant":
            token = node.op.text.strip().removeprefix("dense<").removesuffix(">")
            return elem.constant(em.b, token, val.element, None)
        val = node.operands[0]
    return em.plain(val)


def branch(em: Emitter, node: Node) -> None:
    """scf.if"""
    em.flush()
    prepare(em, node)
    buffers = {i: em.allocate(v.shape, v.type) for i, v in enumerate(node.results) if v.is_tensor}
    condition = em.plain(node.operands[0])

    def side(body: Body) -> Callable[[], list[Value]]:
        given = body.terminator.operands

        def end() -> list[Value]:
            keep_all(em, [(given[i], buffer) for i, buffer in buffers.items()])
            return scalar_results(em, given)

        return lambda: em.region(body, end, lambda: unset(em, node.results))

    sides = [side(body) for body in node.regions]
    results = iter(em.b.branch(condition, sides[0], sides[1] if len(sides) > 1 else None))
    for i, val in enumerate(node.results):
        if i in buffers:
            em.stored[val] = buffers[i]
        else:
            em.scalars[val] = em._unpacked(next(results), val)
    em.done.add(node)


def loop_while(em: Emitter, node: Node) -> None:
    """scf.while"""
    em.flush()
    prepare(em, node)
    before, after = node.regions
    condition, *passed = before.terminator.operands
    carried = {v: em.allocate(v.shape, v.type) for v in before.arguments if v.is_tensor}
    handed = {v: em.allocate(v.shape, v.type) for v in after.arguments if v.is_tensor}
    for init, arg in zip(node.operands, before.arguments, strict=True):
        if arg in carried:
            em.add(Save(em, init, carried[arg]))
            em.flush()
    starts = scalar_results(em, node.operands)
    em.stored.update(carried)

    def test(*values: Value) -> tuple[Value, list[Value]]:
        scalars = [v for v in before.arguments if not v.is_tensor]
        for arg, value in zip(scalars, values, strict=True):
            em.scalars[arg] = em._unpacked(value, arg)

        def end() -> list[Value]:
            keep_all(em, [(p, handed[a]) for p, a in zip(passed, after.arguments, strict=True) if a in handed])
            return [em.plain(condition), *scalar_results(em, passed)]

        def otherwise() -> list[Value]:
            return [em.b.const(0, "i1"), *unset(em, passed)]

        going_on, *given = guarded(em, node, lambda: em.region(before, end, otherwise), otherwise)
        return going_on, given

    def rounds(*values: Value) -> list[Value]:
        scalars = [v for v in after.arguments if not v.is_tensor]
        for arg, value in zip(scalars, values, strict=True):
            em.scalars[arg] = em._unpacked(value, arg)
        em.stored.update(handed)
        given = after.terminator.operands

        def end() -> list[Value]:
            pairs = [(g, carried[a]) for g, a in zip(given, before.arguments, strict=True) if a in carried]
            keep_all(em, pairs)
            return scalar_results(em, given)

        return em.region(after, end, lambda: starts)

    results = iter(em.b.loop_while(starts, test, rounds))
    for val, arg in zip(node.results, after.arguments, strict=True):
        if val.is_tensor:
            em.stored[val] = handed[arg]
        else:
            em.scalars[val] = em._unpacked(next(results), val)
    em.done.add(node)


def _step_of(given: Val, arg: Val) -> Val | None:
    """What a loop adds to all of its argument in every round, if it does just that."""
    node = given.node
    if node is None or node.name not in ("tt.addptr", "arith.addi") or arg.element[0] not in "ip":
        return None
    if node.operands[0] is arg:
        step = node.operands[1]
    elif node.operands[1] is arg and node.name == "arith.addi":
        step = node.operands[0]
    else:
        return None
    if not arg.is_tensor and arg.element != "ptr":
        return None
    return step if _is_uniform(step) else None


def _is_uniform(val: Val) -> bool:
    """Is every element the same number, made of scalars?"""
    if not val.is_tensor:
        return True
    node = val.node
    if node is None:
        return False
    if node.name == "arith.constant":
        return not node.op.text.strip().startswith("dense<[")
    return node.name in ("tt.splat", "tt.broadcast", "tt.expand_dims") and _is_uniform(node.operands[0])
