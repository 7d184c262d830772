"""Functions whose blocks branch to each other, as the CPU target straightens them: any graph without cycles."""

from hypothesis import given, settings
from hypothesis import strategies as st

from fusedsl.codegen.cpu.program import program_of

BITS = 6  # what the branches ask for


@st.composite
def graphs(draw):
    """Each block's ways out: none, one, or two and the bit that decides."""
    count = draw(st.integers(1, 9))
    ways = []
    for block in range(count):
        later = st.integers(block + 1, count - 1)
        most = 0 if block == count - 1 else 2
        ways.append((draw(st.lists(later, max_size=most)) if most else [], draw(st.integers(0, BITS - 1))))
    return ways, draw(st.permutations(range(1, count)))


def text_of(ways, order):
    """Every block is given what the one before it made of its number; in any order but for the first."""
    blocks = {}
    for at, (targets, bit) in enumerate(ways):
        lines = [f"^bb{at}(%x{at}: i32):"] if at else []
        lines += [f"%c{at} = arith.constant {at + 2} : i32", f"%m{at} = arith.muli %x{at}, %c{at} : i32",
                  f"%y{at} = arith.addi %m{at}, %x0 : i32"]  # fmt: skip
        to = [f"^bb{target}(%y{at} : i32)" for target in targets]
        if not targets:
            lines.append(f"tt.return %y{at}, %c{at} : i32, i32")
        elif len(targets) == 1:
            lines.append(f"cf.br {to[0]}")
        else:
            lines.append(f"cf.cond_br %b{bit}, {', '.join(to)}")
        blocks[at] = lines
    bits = ", ".join(f"%b{bit}: i1" for bit in range(BITS))
    body = [line for at in (0, *order) for line in blocks[at]]
    return "\n".join([
        f"tt.func public @kernel(%x0: i32, {bits}) {{",
        f"%r:2 = tt.call @walk(%x0, {', '.join(f'%b{bit}' for bit in range(BITS))}) : (i32) -> (i32, i32)",
        "tt.store %r#0, %r#1 : i32", "tt.return", "}",
        f"tt.func private @walk(%x0: i32, {bits}) -> (i32, i32) attributes {{noinline = true}} {{", *body, "}",
    ])  # fmt: skip


def walked(ways, x0, bits):
    at, x = 0, x0
    while True:
        y = x * (at + 2) + x0
        targets, bit = ways[at]
        if not targets:
            return [y, at + 2]
        at, x = (targets[0] if len(targets) == 1 or bits[bit] else targets[1]), y


RULES = {
    "arith.constant": lambda text: text == "true" if text.isalpha() else int(text), "ub.poison": lambda text: None,
    "arith.muli": lambda text, a, b: a * b, "arith.addi": lambda text, a, b: a + b,
}  # fmt: skip


def stored(program, values):
    """What a kernel of such blocks stores."""
    known, found = dict(zip(program.arguments, values, strict=True)), []

    def run(body):
        for node in body.nodes:
            given = [known[v] for v in node.operands]
            if node.name == "scf.if":
                known.update(zip(node.results, run(node.regions[0 if given[0] else 1]), strict=True))
            elif node.name == "tt.store":
                found.extend(given)
            elif node.results:
                known[node.result] = RULES[node.name](node.op.text.strip(), *given)
        return [known[v] for v in body.terminator.operands]

    run(program.body)
    return found


@settings(max_examples=300)
@given(graph=graphs(), x=st.integers(1, 99), bits=st.lists(st.booleans(), min_size=BITS, max_size=BITS))
def test_straight_blocks_do_what_branches_do(graph, x, bits):
    ways, order = graph
    text = text_of(ways, order)
    program = program_of(text)
    assert stored(program, [x, *bits]) == walked(ways, x, bits), text
    positions = [node.position for node in program.nodes()]
    assert positions == sorted(set(positions))
    made = [node.op.text for node in program.nodes() if node.name == "arith.muli"]
    assert len(made) == len(set(made)), "a block is written twice"
