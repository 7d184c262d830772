"""Instructions counted by following a thread, on kernels whose loops are known, and rows of the comparison."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping

import pytest
import torch
import triton
import triton.language as tl
from typer.testing import CliRunner

from fusedsl import fuse
from fusedsl.cli import app
from fusedsl.codegen.inspect import compile_kernel
from fusedsl.peers import table
from fusedsl.peers.chains import CHAINS
from fusedsl.peers.integers import EFFECTS
from fusedsl.peers.launch import Buffer, Cost, Launch
from fusedsl.peers.registers import Value, read
from fusedsl.peers.sass import LINE, Code
from fusedsl.runtime import load

TARGETS = pytest.mark.parametrize("target", table.TARGETS)
FLOATS, LONGS = Buffer(1 << 24, 4), Buffer(1 << 24, 8, integers=True)
TYPES = {FLOATS: "*fp32", LONGS: "*i64"}


@triton.jit
def sum_rows(x, out, n, BLOCK: tl.constexpr):
    row, k = tl.program_id(0), tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for at in range(0, n, BLOCK):
        total += tl.load(x + row * n + at + k, mask=at + k < n, other=0)
    tl.store(out + row, tl.sum(total))


@triton.jit
def add_one(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n) + 1, mask=i < n)


@triton.jit
def slow_paths(x, out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    value = tl.load(x + i)
    tl.store(out + i, tl.div_rn(tl.sqrt_rn(value), value + 2))


@triton.jit
def skip_padding(index, out, n, BLOCK: tl.constexpr):
    at = tl.load(index + tl.program_id(0))
    if at != -100:
        for k in range(n):
            tl.store(out + k * BLOCK + at + tl.arange(0, BLOCK), 1.0)


@triton.jit
def nested(x, out, n, BLOCK: tl.constexpr):
    total = tl.zeros([BLOCK], tl.float32)
    for row in range(n):
        for k in range(5):
            total += tl.load(x + row * 4096 + k * BLOCK + tl.arange(0, BLOCK))
    tl.store(out + tl.arange(0, BLOCK), total)


def follow(fn, first: Buffer, n: int, target: str, block: int = 256, programs: int = 64) -> Cost:
    signature = {name: TYPES[each] for name, each in zip(fn.arg_names, (first, FLOATS), strict=False)} | {"n": "i32"}
    compiled = compile_kernel(
        fn, signature, {"BLOCK": block}, target, num_warps=4, num_stages=1, divisible=frozenset(fn.arg_names[:2])
    )
    return Launch(compiled, (programs, 1, 1), 4, (first, Buffer(1 << 20, 4), n)).cost


def executed(cost: Cost, root: str) -> float:
    """How often a thread executes instructions of a kind."""
    return sum(n for each, n in zip(cost.code.instructions, cost.counts, strict=True) if each.root == root)


@TARGETS
def test_a_loop_is_counted_as_often_as_it_runs(target):
    """ptxas unrolls the loop by four and has another for the rest."""
    costs = {n: follow(sum_rows, FLOATS, n, target) for n in (5 * 256, 9 * 256, 13 * 256)}
    for n, cost in costs.items():
        assert cost.requested == {FLOATS: 64 * n * 4}, "each element once"
    five, nine, thirteen = (costs[n * 256].instructions for n in (5, 9, 13))
    assert nine - five == thirteen - nine, "four more rounds take the same"
    assert 5 * 4 < five < 5 * 100
    assert costs[1280].code.loops, "the rounds are in loops"


@TARGETS
def test_nested_loops_multiply(target):
    cost = follow(nested, FLOATS, 7, target, programs=1)
    assert cost.requested == {FLOATS: 7 * 5 * 256 * 4}


@TARGETS
def test_without_a_loop_each_instruction_counts_at_most_once(target):
    cost = follow(add_one, FLOATS, 64 * 256, target)
    assert set(cost.counts) <= {0, 1}
    assert not cost.code.loops
    assert cost.bytes({}) == 64 * 256 * 4 + (1 << 20)
    assert cost.instructions < len(cost.counts), "what pads the code is not executed"


@TARGETS
def test_the_slow_path_of_a_division_is_not_taken(target):
    cost = follow(slow_paths, FLOATS, 256, target, programs=1)
    assert any(each.root == "CALL" for each in cost.code.instructions), "ptxas calls a helper for denormals"
    assert executed(cost, "CALL") == 0


@TARGETS
def test_an_index_from_memory_is_in_range_and_no_padding(target):
    assert executed(follow(skip_padding, LONGS, 11, target, block=128), "STG") == 11


BOUNDS = ["(p * 7 + n) // 3 % 64", "((p ^ n) & 31) + tl.minimum(p, n) + tl.maximum(p - 5, 3)", "n // (p + 1)",
          "(n.to(tl.int64) * 100003 >> 16).to(tl.int32) % 50", "tl.where(p > 20, -((2 - n) // 7) % 90, 1)"]  # fmt: skip
KERNEL = """
import triton
import triton.language as tl


@triton.jit
def bound(x, out, n, BLOCK: tl.constexpr):
    p, i = tl.program_id(0), tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for k in range({}):
        total += tl.load(x + k * BLOCK + i)
    tl.store(out + i, total)
"""


@pytest.mark.parametrize("bound", BOUNDS)
def test_integers_are_computed_as_the_machine_does(bound):
    """A loop tells the value of its bound."""
    cost = follow(load(KERNEL.format(bound), "bound"), FLOATS, 1234, "sm_90")
    expected = eval(re.sub(r"\.to\(tl\.\w+\)", "", bound), {"p": 32, "n": 1234, "tl": Plain})
    assert cost.requested == {FLOATS: 64 * expected * 256 * 4}


class Plain:
    """Triton's functions on Python's integers."""

    minimum, maximum = min, max

    @staticmethod
    def where(condition, a, b):
        return a if condition else b


class Registers:
    """What instructions work on."""

    def __init__(self, **values: Value) -> None:
        self.registers: dict[str, Value] = dict(values)
        self.constants: Mapping[int, int] = {0x210: 7, 0x214: 1}
        self.special: Mapping[str, int] = {}


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ("IADD3 R2, P0, R0, R1, RZ", {"R0": 0xFFFFFFFF, "R1": 2}, {"R2": 1, "P0": 1}),
        ("IADD3 R2, P0, R0, -R1, RZ", {"R0": 5, "R1": 0}, {"R2": 5, "P0": 1}),
        ("IADD3.X R2, R0, ~R1, RZ, P0, !PT", {"R0": 5, "R1": 3, "P0": 1}, {"R2": 2}),
        ("IMAD.WIDE R2, R0, 0x2, R4", {"R0": 0xFFFFFFFF, "R4": 1, "R5": 1}, {"R2": 0xFFFFFFFF, "R3": 0}),
        ("IMAD.WIDE.U32 R2, R0, 0x2, R4", {"R0": 0xFFFFFFFF, "R4": 1, "R5": 0}, {"R2": 0xFFFFFFFF, "R3": 1}),
        ("IMAD.HI.U32 R2, R0, R1, R4", {"R0": 0x80000000, "R1": 4, "R4": 0, "R5": 7}, {"R2": 9}),
        ("IMAD.MOV.U32 R2, RZ, RZ, R7", {"R7": 9}, {"R2": 9}),
        ("LEA R2, P0, R0, R1, 0x4", {"R0": 0x10000000, "R1": 3}, {"R2": 3, "P0": 0}),
        ("LEA.HI.X.SX32 R2, R0, R1, 0x1, P0", {"R0": 0x80000000, "R1": 3, "P0": 1}, {"R2": 3}),
        ("LEA.HI UR4, UR4, UR5, URZ, 0xb", {"UR4": 0xFFFFFFFF, "UR5": 1}, {"UR4": 0x800}),
        ("SHF.R.S32.HI R2, RZ, 0x1f, R0", {"R0": 0x80000000}, {"R2": 0xFFFFFFFF}),
        ("SHF.L.U64.HI R2, R0, 0x4, R1", {"R0": 0xF0000000, "R1": 1}, {"R2": 0x1F}),
        ("LOP3.LUT P0, R2, R0, 0xf, RZ, 0xc0, !PT", {"R0": 0x35}, {"R2": 5, "P0": 1}),
        ("LOP3.LUT R2, R0, 0xff, RZ, 0xc0, !PT", {"R0": None}, {"R2": None}),
        ("LOP3.LUT R2, R0, RZ, RZ, 0xc0, !PT", {"R0": None}, {"R2": 0}),
        ("PRMT R2, R0, 0x7632, R1", {"R0": 0x11112222, "R1": 0x33334444}, {"R2": 0x33331111}),
        ("ISETP.GE.AND P0, PT, R0, 0x1, PT", {"R0": 0xFFFFFFFF}, {"P0": 0}),
        ("ISETP.GE.U32.AND P0, P1, R0, 0x1, PT", {"R0": 0xFFFFFFFF}, {"P0": 1, "P1": 0}),
        ("ISETP.GT.U32.AND.EX P0, PT, R0, RZ, PT, P1", {"R0": 0, "P1": 1}, {"P0": 1}),
        ("PLOP3.LUT P2, PT, PT, PT, UP2, 0x40, 0x0", {"UP2": 0}, {"P2": 1}),
        ("PLOP3.LUT P2, PT, P0, P1, PT, 0x80, 0x0", {"P0": 0, "P1": None}, {"P2": 0}),
        ("SEL R2, R0, R1, P0", {"R0": 4, "R1": 5, "P0": 0}, {"R2": 5}),
        ("HFMA2.MMA R2, -RZ, RZ, 0, 1.1920928955078125e-07", {}, {"R2": 2}),
        ("LDC.64 R2, c[0x0][0x210]", {}, {"R2": 7, "R3": 1}),
        ("VIMNMX R2, R0, 0x5, PT", {"R0": 0xFFFFFFFE}, {"R2": 0xFFFFFFFE}),
    ],
)  # fmt: skip
def test_effects(text, before, after):
    (instruction,) = Code(f"/*0000*/ {text} ;").instructions
    state = Registers(**before)
    EFFECTS[instruction.root](state, instruction)
    assert {name: read(state, name) for name in after} == after


def test_lines_are_read():
    assert not LINE.search("/* 0x000fe20000000f00 */")
    code = Code("f:\n/*0000*/ @!P1 LDG.E.128 R8, desc[UR6][R26.64+0x4000] ;\n.L_x_0:\n/*0010*/ @P0 BRA `(.L_x_0) ;\n"
                "/*0020*/ EXIT ;")  # fmt: skip
    load, branch, _ = code.instructions
    assert (load.guard, load.guard_negated, load.operands) == ("P1", True, ("R8", "desc[UR6][R26.64+0x4000]"))
    assert code.target(branch) == 1
    assert code.loops == {1: {1}}


# ---- the comparison --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["add_rms_norm", "cross_entropy", "embedding_norm"])
def test_bytes_that_threads_ask_for_are_those_planned(name):
    chain = CHAINS[name]
    with torch.no_grad():
        plan = fuse(chain.function).plan(*chain.args(table.DTYPE, "meta"))
    assert table.measure(chain, "fusedsl", table.our_work(chain, "sm_90")).bytes == plan.bytes


@pytest.fixture(scope="module")
def rows() -> dict[str, list[str]]:
    """The command's rows for a chain, by side."""
    peers = ["inductor"] + ["liger"] * (importlib.util.find_spec("liger_kernel") is not None)
    options = [text for peer in peers for text in ("--peer", peer)]
    result = CliRunner().invoke(app, ["bench", "peers", "rms_norm", "--target", "sm_90", *options])
    assert result.exit_code == 0, result.output
    head, *lines = result.output.splitlines()
    assert head == "  ".join(table.peers_head())
    return {cells[3]: cells for cells in map(str.split, lines)}


def test_a_row_for_inductor(rows):
    theirs, ours = rows["inductor"], rows["fusedsl"]
    assert theirs[:5] == ["rms_norm", "bf16", "sm_90", "inductor", "1"]
    assert ours[:5] == ["rms_norm", "bf16", "sm_90", "fusedsl", "1"]
    assert theirs[5] == ours[5] == "67.1", "megabytes"
    assert 5 < float(theirs[8]) < 50, "instructions"
    least = min(float(cells[8]) for side, cells in rows.items() if side != "fusedsl")
    assert float(ours[9].rstrip("~")) == pytest.approx(float(ours[8]) / least, abs=0.02)
    assert not torch.cuda.is_available(), "nothing is pretended here"


def test_a_row_for_liger(rows):
    pytest.importorskip("liger_kernel")
    assert rows["liger"][:6] == ["rms_norm", "bf16", "sm_90", "liger", "1", "67.1"]


def test_mistakes_are_explained(monkeypatch):
    run = CliRunner().invoke(app, ["bench", "peers", "softmix"])
    assert run.exit_code == 2
    assert "no chain softmix" in run.output
    monkeypatch.setattr(table.importlib.util, "find_spec", lambda name: None)
    run = CliRunner().invoke(app, ["bench", "peers", "softmax"])
    assert run.exit_code == 1
    assert "liger-kernel" in run.output
    assert "--peer inductor" in run.output
